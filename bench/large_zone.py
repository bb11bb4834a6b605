"""
A zone of 1 TiB: the time it takes to make, the memory that it adds, and what it keeps per page.

Every timing is a process of its own, so that memory that was freed before cannot hide what is added.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from measure import Figure, Spread

__all__ = ["figures"]

GOAL_SECONDS, GOAL_MB, GOAL_BYTES = 0.1, 100.0, 16.0
CPUS = (4, 512)


def figures(*, rounds: int) -> Iterator[Figure]:
    """
    Three lines for each number of CPUs. The first process is dropped.
    """
    taken: dict[int, list[dict[str, float]]] = {cpus: [] for cpus in CPUS}
    for turn in range(rounds + 1):
        for cpus in CPUS:
            one = json.loads(subprocess.check_output([sys.executable, __file__, str(cpus)], text=True))
            if turn:
                taken[cpus].append(one)
    for cpus, ones in taken.items():
        for key, name, unit, goal in (
            ("seconds", "time to make", "s", GOAL_SECONDS),
            ("added_mb", "added resident memory", "MB", GOAL_MB),
            ("bytes_per_page", "metadata per page", "bytes", GOAL_BYTES),
        ):
            value = Spread.of([one[key] for one in ones])
            yield Figure(group="Zone of 1 TiB", name=f"{name}, {cpus} CPUs", unit=unit, value=value, goal=goal)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _child(cpus: int) -> None:
    import pcpbuddy

    pcpbuddy.Zone(size="4MiB", cpus=cpus)  # what the first zone of any size loads
    before = _resident_bytes()
    start = time.perf_counter()
    zone = pcpbuddy.Zone(size="1TiB", cpus=cpus)
    seconds = time.perf_counter() - start
    added = _resident_bytes() - before
    json.dump({"seconds": seconds, "added_mb": added / 1e6, "bytes_per_page": zone.meta_bytes / zone.pages}, sys.stdout)


if __name__ == "__main__":
    _child(int(sys.argv[1]))
