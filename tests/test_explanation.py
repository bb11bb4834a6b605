"""
The pages of docs/explanation: pictures and outputs are what the code makes now, links lead somewhere.
"""

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "docs" / "explanation"
PAGES = sorted(PLACE.glob("*.md"))
LESSONS = [path for path in PAGES if path.name[0] in "123"]  # the pages with snippets and pictures
PICTURES = sorted(PLACE.glob("*.svg"))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def load_tool():
    spec = importlib.util.spec_from_file_location("draw_explanation", ROOT / "tools" / "draw_explanation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load_tool()


@pytest.mark.parametrize("name", TOOL.PICTURES)
def test_picture_is_what_the_code_draws(name):
    assert (PLACE / name).read_text() == TOOL.PICTURES[name]().svg(), "run tools/draw_explanation.py"


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_picture_is_fit_for_a_page(path):
    """
    Well-formed, of its size, on paper of its own, letters not too small, nothing outside.
    """
    text = path.read_text()
    root = ET.fromstring(text)
    assert len(text.encode()) < 60_000
    assert root.get("width") == "800"
    assert path.name in TOOL.PICTURES
    assert not re.search(r"<script|href|<style", text)
    height = float(root.get("height"))
    paper = next(element for element in root if element.tag.endswith("rect"))
    assert (float(paper.get("width")), float(paper.get("height"))) == (799, height - 1)
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        assert float(element.get("font-size", "13")) >= 11
        words = "".join(element.itertext())
        wide = len(words) * float(element.get("font-size", "13")) * 0.56
        x, anchor = float(element.get("x")), element.get("text-anchor", "start")
        left = x - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
        assert left > 0, words
        assert left + wide < 800, words
        assert 0 < float(element.get("y")) < height


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
def test_snippets_print_what_the_page_says(path):
    page = path.read_text()
    assert page.count("```python") == len(TOOL.SNIPPET.findall(page)) >= 3
    assert all(match["output"].strip() for match in TOOL.SNIPPET.finditer(page))
    assert all("import pcpbuddy as pb" in match["code"] for match in TOOL.SNIPPET.finditer(page))
    assert TOOL.with_outputs(page) == page, "run tools/draw_explanation.py"


def anchors(path):
    """
    The names that GitHub gives to the headings of a page.
    """
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "docs" / "README.md", ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for link in LINK.findall(path.read_text()):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_picture_is_on_a_page():
    shown = {link for path in PAGES for link in LINK.findall(path.read_text()) if link.endswith(".svg")}
    assert shown == {path.name for path in PICTURES} == set(TOOL.PICTURES)


def test_numbers_in_the_text_are_those_of_the_pictures():
    """
    What the third page says about its pictures, in words.
    """
    page = " ".join((PLACE / "3-pageblock-ownership.md").read_text().split())
    mainline, fixed = (TOOL.affinity_run(policy, 20_000).counters() for policy in ("mainline", "fixed"))
    assert f"One hold of the zone lock instead of {mainline['holds_refill'] + mainline['holds_drain']}" in page
    assert sum(value for name, value in fixed.items() if name.startswith("holds_")) == 1
    life = (PLACE / "block-life.svg").read_text()
    partial = life[life.index(">PARTIAL, ") :].partition("<circle")[0]
    assert "seven chunks instead of 508 pages" in page
    assert partial.count(">free, order") + len(re.findall(r">\d</text>", partial)) == 7


def test_the_table_of_recordings_is_what_a_replay_gives():
    """
    Of those in this repository; the whole recordings' rows were written by the same command.
    """
    command = [sys.executable, str(ROOT / "tools" / "exactness.py"), str(ROOT / "recordings"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
