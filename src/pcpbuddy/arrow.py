"""
The one door to pyarrow.
"""

from typing import Any

from .errors import PcpBuddyError


def arrow(needed_for: str, error: type[PcpBuddyError]) -> Any:
    """
    The module pyarrow, with ``parquet`` loaded. Raises ``error``, with the command that installs it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise error(f"{needed_for} needs pyarrow, which is not installed: pip install 'pcpbuddy[lab]'") from None
    return pyarrow
