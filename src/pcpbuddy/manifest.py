"""
What made a document: enough to make it again. No clock and no path in it, so the same input gives the same text.
"""

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import __version__
from .config import Policy

__all__ = ["manifest"]


def manifest(policies: Iterable[Policy], **facts: Any) -> dict[str, Any]:
    """
    The program, the machine, further facts, and every switch of every policy.
    """
    import numpy as np

    return {
        "version": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": {"system": platform.system(), "arch": platform.machine(), "cpus": os.cpu_count()},
        **facts,
        "policies": {which.name: which.switches() for which in policies},
    }


def _commit() -> str | None:
    """
    The commit of the source tree that this package was built in, if it still lies in one.
    """
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        if (git / ref).is_file():
            return (git / ref).read_text().strip()
        for line in (git / "packed-refs").read_text().splitlines():
            if line.endswith(f" {ref}"):
                return line.split()[0]
    except OSError:
        pass
    return None
