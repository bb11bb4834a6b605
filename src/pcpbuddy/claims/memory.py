"""
Claims about memory: CMA, adoption of blocks, fragmentation, parked pages (K-15 to K-19, K-27 to K-29).
"""

from .claim import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = ()
