"""
The laws of the house that a test can hold: imports run one way (L7), and what importing costs.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pcpbuddy
from pcpbuddy.config import SWITCHES

SOURCE = Path(__file__).parent.parent / "src" / "pcpbuddy"

# A module may import from lower layers only. The model and the core share nothing above layer 0.
LAYERS = [
    {"errors", "names"},
    {"arena", "arrow", "config", "contig", "requests", "quantities", "statistics"},
    {"model", "_core", "manifest", "trace"},
    {"procfs", "recording", "record", "costs"},
    {"zone", "workload"},
    {"metrics", "pool"},
    {"run", "cma"},
    {"machine"},
    {"poolbench", "sweeps"},
    {"comparison"},
    {"replay"},
    {"claims"},
    {"report"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules():
    return sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE)


def room(path):
    """
    The top-level module or package that a file belongs to.
    """
    parts = path.relative_to(SOURCE).parts
    return parts[0].removesuffix(".py")


def imported_rooms(path):
    """
    Rooms of the package that a file imports, in functions and under TYPE_CHECKING too.
    """
    package = ["pcpbuddy", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "pcpbuddy" and len(target) > 1 and (target[1] in LEVEL):
                yield target[1]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(path):
    here = room(path)
    assert here in LEVEL, f"{here} has no layer: give it one in {__file__}"
    for there in imported_rooms(path):
        assert there == here or LEVEL[there] < LEVEL[here], f"{here} imports {there}, which is not below it"


def test_the_compiled_core_imports_nothing_but_layers_below():
    text = (SOURCE / "_core" / "core.pyx").read_text() + "".join(
        p.read_text() for p in (SOURCE / "_core").glob("*.pxi")
    )
    assert set(re.findall(r"^from \.\.(\w+) import", text, re.MULTILINE)) <= {"config", "contig", "errors", "names"}


def test_cimports_name_the_module_so_that_edits_rebuild():
    """
    ``from . cimport m`` leaves m.pxd out of the dependency file.
    """
    for path in (SOURCE / "_core").glob("*.p*"):
        assert not re.search(r"^from \. cimport", path.read_text(), re.MULTILINE), path


def core_functions(room="_core"):
    """
    (file, name, lines) of every function of the core, and (file, name, switch) of every look at a switch.
    """
    functions, looks = [], set()
    for path in sorted((SOURCE / room).glob("*.p*")):
        if path.suffix == ".pyi":
            continue
        name = first = None
        lines = path.read_text().splitlines()
        for number, line in enumerate([*lines, "end"]):
            start = re.match(r"(?:    )?(?:cdef|def)\b[^(=]*?(\w+)\(", line)
            if start or (line and not line.startswith((" ", "#", ")"))):
                if name:
                    functions.append((path.name, name, number - first))
                name, first = (start[1] if start else None), number
            looks |= {(path.stem, name, switch) for switch in re.findall(r"s\.policy\.(\w+)", line)}
    return functions, looks


def test_the_core_is_readable():
    """
    No function over 60 lines, no file over 500.
    """
    functions, _ = core_functions()
    assert len(functions) > 250
    assert [f for f in functions if f[2] > 60] == []
    files = [path for path in (SOURCE / "_core").glob("*.p*") if path.suffix != ".pyi"]
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 500} == {}


def test_the_readers_of_traces_are_readable():
    functions, _ = core_functions("trace")
    assert len(functions) > 150
    assert [f for f in functions if f[2] > 60] == []
    files = [path for path in (SOURCE / "trace").glob("*.p*") if path.suffix != ".pyi"]
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 500} == {}


def test_the_reference_says_where_each_switch_lives():
    _, looks = core_functions()
    found = {switch.name: set() for switch in SWITCHES}
    for stem, name, switch in looks:
        if switch in found and stem not in ("check", "state", "init"):
            found[switch].add(f"{stem}.{name}")
    text = (SOURCE.parent.parent / "docs" / "reference" / "core.md").read_text()
    table = text.split("| switch | read in |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", table, re.MULTILINE))
    assert {switch: set(re.findall(r"`([\w.]+)`", row)) for switch, row in rows.items()} == found


def test_the_model_is_short():
    """
    L5: under 2,000 lines of code, all switches included; contig.py, which asks it for ranges, apart. Blank lines,
    comments and docstrings are not code.
    """
    total = 0
    for path in set((SOURCE / "model").glob("*.py")) - {SOURCE / "model" / "contig.py"}:
        tree = ast.parse(path.read_text())
        lines = {node.lineno for node in ast.walk(tree) if hasattr(node, "lineno")}
        lines |= {node.end_lineno for node in ast.walk(tree) if hasattr(node, "end_lineno")}
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        total += len(lines)
    assert 1000 < total < 2000


def test_model_and_core_share_no_code():
    for path in (SOURCE / "model").glob("*.py"):
        assert set(imported_rooms(path)) <= {"model", "errors", "names", "config", "contig"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light():
    """
    ``import pcpbuddy`` loads none of NumPy, pyarrow, rich, nor the core; a Zone loads no more than the core.
    """
    heavy = "{'numpy', 'pyarrow', 'rich', 'hypothesis'} & set(sys.modules)"
    assert (
        run(f"import sys, pcpbuddy; print({heavy} or [m for m in sys.modules if m.startswith('pcpbuddy.')])") == "[]\n"
    )
    assert run(f"import sys, pcpbuddy; pcpbuddy.Zone(512).alloc(); print({heavy})") == "set()\n"


def test_exports():
    assert pcpbuddy.__all__ == sorted(pcpbuddy.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in pcpbuddy.__all__:
        assert getattr(pcpbuddy, name).__class__ is not None
    assert set(pcpbuddy.__all__) <= set(dir(pcpbuddy))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = pcpbuddy.no_such_thing


def test_pxd_files_are_installed():
    """
    Others can cimport and inline the core.
    """
    installed = [str(path) for path in importlib.metadata.files("pcpbuddy")]
    if any("editable" in path for path in installed):
        pytest.skip("an editable install reads the .pxd files from src")
    for path in (SOURCE / "_core").glob("*.pxd"):
        assert f"pcpbuddy/_core/{path.name}" in installed
    assert "pcpbuddy/py.typed" in installed
