"""
A SOURCE that is a trace is imported before the work begins, with progress.
"""

import os
import sys
from pathlib import Path

from .progress import progress

__all__ = ["prepare"]

SLOW = 64 << 20  # bytes: smaller traces are read before anybody looks for a bar


def prepare(source: str, *, quiet: bool) -> None:
    """
    Import it if it is a trace; what is imported is not imported again. Anything else is left to who opens it.
    """
    path = Path(source)
    if source != "-" and not path.exists():
        return
    from ..recording import locate

    large = source == "-" or path.is_dir() or os.path.getsize(path) > SLOW
    with progress(1, "MiB", quiet=quiet or not (large and sys.stderr.isatty())) as told:
        locate(source, told and (lambda done, total: told(path.name, done >> 20, (total or 0) >> 20)))
