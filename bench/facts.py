"""
What a figure is worth nothing without: machine, interpreter, compiler, commit.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

import pcpbuddy

__all__ = ["facts"]

ROOT = Path(__file__).resolve().parent.parent


def facts() -> dict[str, str]:
    """
    Name and value, as the table and the JSON document show them.
    """
    return {
        "cpu": _cpu_model(),
        "cpus": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}, numpy {np.__version__}",
        "free threading": "yes" if not getattr(sys, "_is_gil_enabled", lambda: True)() else "no",
        "cython": _first_line([sys.executable, "-m", "cython", "--version"]),
        "compiler": _first_line([*shlex.split(os.environ.get("CC", "cc")), "--version"]),
        "pcpbuddy": pcpbuddy.__version__,
        "commit": _commit(),
        "core sources": _core_digest(),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def _commit() -> str:
    git = ["git", "--no-optional-locks"]
    commit = _first_line([*git, "rev-parse", "--short=12", "HEAD"])
    if commit != "unknown" and _first_line([*git, "status", "--porcelain", "--", "src"]):
        return f"{commit}, with changes in src"
    return commit


def _core_digest() -> str:
    """
    The first digits of a hash over _core, which tells two uncommitted states apart.
    """
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src/pcpbuddy/_core").glob("*.p*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
