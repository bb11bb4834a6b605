"""
The public name ``pcpbuddy.compare``. Everything inside imports ``comparison``, so that no module hides the function.
"""

from .comparison import compare

__all__ = ["compare"]
