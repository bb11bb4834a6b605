"""
Every example runs, prints, and stays short.
"""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path):
    assert len(path.read_text().splitlines()) < 60
    done = subprocess.run([sys.executable, "-W", "error", path], capture_output=True, text=True, check=True)
    assert done.stdout
    assert not done.stderr


def test_from_cython(tmp_path):
    """
    Built against what is installed, as a user would.
    """
    import pcpbuddy

    if not (Path(pcpbuddy.__file__).parent / "_core" / "core.pxd").exists():
        pytest.skip("not an installed package")
    source = tmp_path / "fill.pyx"
    source.write_text((EXAMPLES[0].parent / "fill.pyx").read_text())
    build = subprocess.run(
        [Path(sys.executable).parent / "cythonize", "-q", "-i", source], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    script = (
        "import fill, pcpbuddy; pool = pcpbuddy.PagePool('4MiB'); print(fill.fill(pool, 9), pool.stats()['allocs'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0 9\n"


def test_blocks_life_tells_the_story():
    path = next(path for path in EXAMPLES if path.name == "blocks_life.py")
    out = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("owner")[1].split(",")[0].strip() for line in out if "owner" in line] == [
        "-",
        "0",
        "0",
        "0",
        "-",
    ]
    assert "it lies with CPU 0" in out[2]
