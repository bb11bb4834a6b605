"""
docs/reference/kernel-map.md is held against the text: its names and rules exist, the core's functions are all in it.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
SOURCE = ROOT / "src" / "pcpbuddy"

# Files of the core that are in the map function by function; of others, it names what a reader may look for.
COMPLETE = (
    *("buddy", "fallback", "pcp", "alloc", "free", "drain", "direct"),
    *("watermark", "isolation", "node", "call", "request", "calls", "contig", "cma", "sizing"),
)


def cells(text):
    """
    The cells of a table's row, or [] if the line is none.
    """
    return [cell.strip() for cell in text.strip("|").split("|")] if text.startswith("|") else []


def rows():
    """
    (heading, ours, rest of the row, rule) of every row of a table with a column "ours".
    """
    heading, header = "", []
    for line in (REFERENCE / "kernel-map.md").read_text().splitlines():
        row = cells(line)
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not row:
            header = []
        elif not header:
            header = row
        elif header[0] == "ours" and not set(line) <= set("|- "):
            assert len(row) == len(header), line
            yield heading, row[0], row[1:], row[header.index("rule")]


def functions(file):
    """
    Names of the functions of one .pxd file.
    """
    return set(re.findall(r"^cdef inline [^(=]*?(\w+)\(", file.read_text(), re.MULTILINE))


ROWS = list(rows())
NAMED = [name for _, ours, _, _ in ROWS for name in re.findall(r"`([\w.]+)`", ours)]
CORE = {tuple(name.split(".")) for name in NAMED if not name.startswith("model.")}


def test_the_map_is_read():
    assert len(ROWS) > 100
    assert len({heading for heading, *_ in ROWS}) == 15
    assert len(CORE) > 180
    assert not [ours for _, ours, _, _ in ROWS if "`" not in ours]


def test_every_function_named_exists():
    missing = [
        f"{file}.{name}" for file, name in sorted(CORE) if name not in functions(SOURCE / "_core" / f"{file}.pxd")
    ]
    assert missing == []


def test_every_function_of_the_model_named_exists():
    for name in {name for name in NAMED if name.startswith("model.")}:
        _, file, function = name.split(".")
        text = (SOURCE / "model" / f"{file}.py").read_text()
        assert re.search(rf"^ *def {function}\(", text, re.MULTILINE), name


@pytest.mark.parametrize("file", COMPLETE)
def test_the_map_is_complete(file):
    all_of_it = functions(SOURCE / "_core" / f"{file}.pxd")
    assert all_of_it
    assert sorted(all_of_it - {name for stem, name in CORE if stem == file}) == []


def test_names_in_the_text_exist_too():
    """
    Outside the column "ours" the core is named as well, with its file.
    """
    text = (REFERENCE / "kernel-map.md").read_text()
    stems = "|".join(path.stem for path in (SOURCE / "_core").glob("*.pxd"))
    for file, name in set(re.findall(rf"`({stems})\.(\w+)`", text)):
        assert name in {"function", "pxd", "pxi", "pyx"} | functions(SOURCE / "_core" / f"{file}.pxd"), f"{file}.{name}"


def test_every_rule_named_exists():
    baseline, rfc, contiguous = ((REFERENCE / name).read_text() for name in ("baseline.md", "rfc.md", "contiguous.md"))
    known = set(re.findall(r"\*\*(B-\d+|V\d+)\b", baseline)) | set(re.findall(r"\*\*(P-\d+b?)\b", rfc))
    known |= set(re.findall(r"\*\*(CT-\d+) ", contiguous))
    known |= set(re.findall(r"\b(I-\d+) [A-Zo]", rfc.split("## 14.")[1].split("## 15.")[0]))
    text = (REFERENCE / "kernel-map.md").read_text()
    named = set(re.findall(r"\b((?:[BPI]|CT)-\d+b?|V\d+)\b", text))
    assert len(named) > 80
    assert sorted(named - known) == []


def test_every_section_named_exists():
    """
    A rule column holds rules and sections, and nothing else.
    """
    baseline = (REFERENCE / "baseline.md").read_text()
    for _, ours, _, rule in ROWS:
        parts = re.split(r", | to ", rule)
        assert all(re.fullmatch(r"([BPI]|CT)-\d+b?|\d+\.\d+|section \d+", part) for part in parts), (ours, rule)
        for section in re.findall(r"\b\d+\.\d+\b", rule):
            assert re.search(rf"^(### )?{re.escape(section)}[: ]", baseline, re.MULTILINE), (ours, section)
    for section in set(re.findall(r"\bsections? (\d+)\b", (REFERENCE / "kernel-map.md").read_text())):
        assert re.search(rf"^## {section}\.", baseline, re.MULTILINE), section
