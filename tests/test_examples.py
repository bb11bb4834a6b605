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
