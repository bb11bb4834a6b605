"""
The Linux page allocator as a package: zones, per-CPU lists, pageblock ownership.

``Zone`` and ``Node`` run the allocator step by step, deterministically. ``Machine`` runs it on up to 512 virtual CPUs
in virtual time. ``compare`` runs recorded or generated loads under several policies. Names load when they are first
used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import compare
    from .config import PROFILES, Policy, policy
    from .costs import Costs
    from .errors import (
        BadFree,
        ConfigError,
        Corruption,
        CpuOffline,
        OutOfPages,
        PcpBuddyError,
        PoolBroken,
        RecordingError,
        UsageError,
    )
    from .machine import Machine
    from .names import CMA, HIGHATOMIC, ISOLATE, MOVABLE, RECLAIMABLE, UNMOVABLE
    from .pool import PagePool
    from .run import Run, load_run
    from .zone import Node, Zone

__version__ = "0.1.0"

_WHERE = {
    **dict.fromkeys(("Node", "Zone"), "zone"),
    **dict.fromkeys(("PROFILES", "Policy", "policy"), "config"),
    **dict.fromkeys(("UNMOVABLE", "MOVABLE", "RECLAIMABLE", "HIGHATOMIC", "CMA", "ISOLATE"), "names"),
    **dict.fromkeys(
        (
            "BadFree",
            "ConfigError",
            "Corruption",
            "CpuOffline",
            "OutOfPages",
            "PcpBuddyError",
            "PoolBroken",
            "RecordingError",
            "UsageError",
        ),
        "errors",
    ),
    "compare": "comparison",
    "Costs": "costs",
    "Machine": "machine",
    "PagePool": "pool",
    **dict.fromkeys(("Run", "load_run"), "run"),
}

__all__ = [
    "CMA",
    "HIGHATOMIC",
    "ISOLATE",
    "MOVABLE",
    "PROFILES",
    "RECLAIMABLE",
    "UNMOVABLE",
    "BadFree",
    "ConfigError",
    "Corruption",
    "Costs",
    "CpuOffline",
    "Machine",
    "Node",
    "OutOfPages",
    "PagePool",
    "PcpBuddyError",
    "Policy",
    "PoolBroken",
    "RecordingError",
    "Run",
    "UsageError",
    "Zone",
    "compare",
    "get_include",
    "load_run",
    "policy",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'pcpbuddy' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def get_include() -> str:
    """
    The folder of pcpbuddy.h, for a C compiler; libpcpbuddy.so is in its parent. Cython finds the .pxd files itself.
    """
    from pathlib import Path

    return str(Path(__file__).parent / "include")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
