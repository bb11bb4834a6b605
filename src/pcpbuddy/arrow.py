"""
The one door to pyarrow.
"""

import importlib
from typing import Any

from .errors import PcpBuddyError


def arrow(needed_for: str, error: type[PcpBuddyError], *also: str) -> Any:
    """
    The module pyarrow, with ``parquet`` loaded, and what else of it is named. Raises ``error``, with the command that
    installs it.
    """
    try:
        import pyarrow
        import pyarrow.parquet

        for name in also:
            importlib.import_module(f"pyarrow.{name}")
    except ImportError:
        raise error(f"{needed_for} needs pyarrow, which is not installed: pip install 'pcpbuddy[lab]'") from None
    return pyarrow
