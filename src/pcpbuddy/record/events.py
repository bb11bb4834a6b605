"""
Which events a kernel offers that are worth recording, and which questions they answer.
"""

from pathlib import Path

__all__ = ["WANTED", "answers", "offered"]

KMEM = tuple(
    f"kmem/mm_page_{name}"
    for name in ("alloc", "free", "free_batched", "alloc_zone_locked", "pcpu_drain", "alloc_extfrag")
)
LOCK = ("lock/contention_begin", "lock/contention_end")
VMSCAN = tuple(
    f"vmscan/mm_vmscan_{name}"
    for name in ("kswapd_wake", "kswapd_sleep", "wakeup_kswapd", "direct_reclaim_begin", "direct_reclaim_end")
)
COMPACTION = tuple(
    f"compaction/mm_compaction_{name}"
    for name in ("begin", "end", "isolate_migratepages", "isolate_freepages", "migratepages")
)
OTHERS = ("migrate/mm_migrate_pages", "page_isolation/test_pages_isolated", "oom/mark_victim")
# Families of which every event is taken; those of the zone lock are proposals of 2026 that few kernels have.
GROUPS = ("cma/cma_*", "kmem/mm_zone_lock*", "zone_lock/*")
WANTED = (*KMEM, *LOCK, *VMSCAN, *COMPACTION, *OTHERS, *GROUPS)


def offered(events: Path) -> list[str]:
    """
    Those of WANTED that there are, as SYSTEM/EVENT.
    """
    found = [name for name in WANTED if "*" not in name and (events / name / "enable").exists()]
    for pattern in GROUPS:
        found += sorted(
            path.relative_to(events).as_posix() for path in events.glob(pattern) if (path / "enable").exists()
        )
    return list(dict.fromkeys(found))


def answers(names: list[str], *, flight: bool = False) -> list[tuple[str, str]]:
    """
    (question, answer) for what such a recording can tell. flight: it begins long after the /proc texts were taken.
    """
    there = set(names)
    six = not set(KMEM) - there
    locks = [name for name in names if "zone_lock" in name and name not in KMEM]
    missing = ", ".join(name.split("/")[1] for name in KMEM if name not in there)
    waits = "yes: who waited and how long, for locks of all kinds; hold times and whose lock it is, no"
    start = "inferred from the rows alone" if flight else "assumed of the /proc texts"
    return [
        ("other policies on this load", f"yes, from a start state {start} (compare)"),
        ("refill and drain sizes", "yes" if six else f"in part: this kernel has no {missing}"),
        ("page frames against the kernel", "no: that needs a snapshot (contrib/drgn_snapshot.py)"),
        ("lock waits", waits if set(LOCK) <= there else "no: this kernel has no lock:contention_begin"),
        ("zone lock holds", f"yes: {', '.join(locks)}" if locks else "no: this kernel has no zone-lock events"),
        ("reclaim, compaction", "yes" if set(VMSCAN) & there and set(COMPACTION) & there else "no"),
        ("CMA allocations", "yes" if any(name.startswith("cma/") for name in names) else "no: no cma events here"),
    ]
