"""
Claims about the zone lock: how often it is taken, for how long, and who waits (K-1 to K-14, K-20 to K-26).
"""

from . import doubts, gains, problem, remote
from .claim import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (*problem.CLAIMS, *gains.CLAIMS, *doubts.CLAIMS, *remote.CLAIMS)
