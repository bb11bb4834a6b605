"""
``pcpbuddy policies``: its pages, its JSON document and its exit codes.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_compare_cli import golden, run

import pcpbuddy
from pcpbuddy.config import NEEDS, PROFILES, SWITCHES
from pcpbuddy.report import policies as report

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "policies.toml"


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("policies.txt", ()),
        ("policies-one.txt", ("mainline",)),
        ("policies-all-profiles.txt", tuple(PROFILES)),
        ("policies-changed.txt", ("fixed", "fixed+merge=free+remote_bound=512", "mainline")),
        ("policies-example.txt", (f"fixed,{EXAMPLE}",)),
    ],
)
def test_golden_pages(capsys, name, argv):
    code, out, err = run(capsys, "policies", *argv)
    assert (code, err) == (0, "")
    golden(name, out)
    assert max(map(len, out.splitlines())) <= report.WIDTH
    assert out.isascii()


def test_the_page_names_everything(capsys):
    _, out, _ = run(capsys, "policies")
    flat = " ".join(out.split())
    for which in PROFILES.values():
        assert f"{which.name} {which.meaning}" in flat
    for switch in SWITCHES:
        assert f"{switch.name} {switch.meaning} ({switch.rule}) {switch.values[0]}, " in flat
    for need in NEEDS:
        assert str(need) in flat


def columns(text):
    """
    The values of each switch over all blocks of columns, without the first column of the later ones.
    """
    rows = {}
    for line in text.splitlines():
        name, *values = line.split() or [""]
        if name in {switch.name for switch in SWITCHES}:
            rows.setdefault(name, []).append(values)
    return {name: blocks[0] + [value for block in blocks[1:] for value in block[1:]] for name, blocks in rows.items()}


def test_side_by_side_shows_every_switch_of_every_policy(capsys):
    _, out, _ = run(capsys, "policies", *PROFILES)
    first, *others = PROFILES.values()
    shown = columns(out)
    assert list(shown) == [switch.name for switch in SWITCHES]
    for name, (value, *values) in shown.items():
        assert value == str(getattr(first, name))
        expected = [str(getattr(which, name)) for which in others]
        assert values == ["=" if there == value else there for there in expected]


def test_commas_and_spaces_are_the_same(capsys):
    assert run(capsys, "policies", "mainline,fixed") == run(capsys, "policies", "mainline", "fixed")


def test_json(capsys):
    code, out, err = run(capsys, "policies", "--json", "-")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["schema", "manifest", "results"]
    assert document["schema"] == "pcpbuddy.policies/1"
    _, compared, _ = run(capsys, "compare", "shape/S4", "--policy", ",".join(PROFILES), "--json", "-", "-q")
    manifest = json.loads(compared)["manifest"]
    assert document["manifest"] == {name: manifest[name] for name in document["manifest"]}
    made_again = [pcpbuddy.Policy(name=name, **switches) for name, switches in manifest["policies"].items()]
    assert made_again == list(PROFILES.values())
    results = document["results"]
    for entry, which in zip(results["policies"], PROFILES.values(), strict=True):
        assert (entry["policy"], entry["meaning"]) == (which.name, which.meaning)
        assert pcpbuddy.Policy(name=which.name, **entry["changes"]) == which
    assert [entry["switch"] for entry in results["switches"]] == [switch.name for switch in SWITCHES]
    bound = next(entry for entry in results["switches"] if entry["switch"] == "remote_bound")
    assert (bound["default"], bound["values"], bound["numbers"]) == ("high_max", ["high_max", "inf"], [1, 2147483647])
    assert results["refused"] == [str(need) for need in NEEDS]


def test_json_of_given_policies(capsys):
    _, out, _ = run(capsys, "policies", EXAMPLE, "--json", "-")
    document = json.loads(out)
    assert [entry["policy"] for entry in document["results"]["policies"]] == ["eager", "two-bounds"]
    assert document["manifest"]["policies"]["eager"]["remote_bound"] == 512
    assert str(EXAMPLE.parent) not in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("fixd",), ("unknown policy 'fixd'", "did you mean fixed?")),
        (("fixed", "fixed"), ("policy fixed is given 2 times",)),
        (("fixed+merg=free",), ("no switch 'merg'; did you mean merge?",)),
        (("fixed", "nowhere.toml"), ("nowhere.toml cannot be read: No such file",)),
        ((f"{EXAMPLE}:eagr",), ("unknown policy 'eagr'", "did you mean eager?")),
        (("",), ("empty name of a policy",)),
        (("--json", "out.json"), ("--json",)),
    ],
)
def test_bad_input(capsys, argv, words):
    code, out, err = run(capsys, "policies", *argv)
    assert (code, out) == (2, "")
    sentence = err.splitlines()[-1]
    assert sentence.startswith("pcpbuddy")
    for word in words:
        assert word in sentence
    if ": error: " not in sentence:  # argparse adds its usage lines
        assert len(err.splitlines()) == 1


def test_help_shows_how_to_write_one(capsys):
    code, out, _ = run(capsys, "policies", "--help")
    assert code == 0
    assert "pcpbuddy policies fixed posted fixed+merge=free" in out
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "pcpbuddy policies " in out


def test_the_text_needs_no_heavy_package():
    script = (
        "import sys; from pcpbuddy.cli.main import main; main(['policies']); "
        "print(sorted({'pyarrow', 'rich', 'numpy', 'pcpbuddy._core'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_readme_tells_the_truth(capsys, monkeypatch):
    """
    The TOML of its section is the example's, and what it says to type works.
    """
    monkeypatch.chdir(ROOT)
    section = (ROOT / "README.md").read_text().partition("## Policies")[2].partition("\n## ")[0]
    shown = section.partition("```toml\n")[2].partition("```")[0]
    assert tomllib.loads(shown) == tomllib.loads(EXAMPLE.read_text())
    commands = [line.partition("#")[0].split() for line in section.splitlines() if line.startswith("    pcpbuddy ")]
    assert len(commands) > 2
    for _, command, *argv in commands:
        quiet = ["-q"] if command == "compare" else []
        assert run(capsys, command, *argv, *quiet)[0] == 0
