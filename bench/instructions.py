"""
Instructions of a hot pair (alloc and free of one page on its own CPU), counted by callgrind.

Two runs of the same process with different numbers of pairs; the difference divided by the difference of the numbers
leaves the pair alone, whatever else the processes do. Counts repeat to a fraction of an instruction, on any machine.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import Figure, Spread

__all__ = ["figures"]

GOAL = 150.0
FEW, MANY = 20_000, 220_000
POLICIES = ("mainline", "fixed")
LOOKING = ("llist", "handover", "fixed+merge=free", "fixed+mark=all")  # the short cuts have to look at a switch
KINDS = {"spin": "real spin locks", "pair": "no locks", "steps": "spin locks, every step"}


def figures(folder: Path) -> Iterator[Figure]:
    """
    One line for each kind of lock and policy; nothing without valgrind.
    """
    if shutil.which("valgrind") is None:
        print("instructions: valgrind is not installed, left out", file=sys.stderr)
        return
    for kind, words in KINDS.items():
        for policy in POLICIES + LOOKING if kind == "spin" else POLICIES:
            few, many = (_count(folder, policy, kind, n) for n in (FEW, MANY))
            value = Spread.of([(many - few) / (MANY - FEW)])
            goal = GOAL if kind == "spin" and policy in POLICIES else None
            yield Figure(group="hot pair", name=f"{words}, {policy}", unit="instructions", value=value, goal=goal)


def _count(folder: Path, policy: str, kind: str, n: int) -> int:
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'callgrind.out'}"]
    command += [sys.executable, __file__, policy, kind, str(n)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"callgrind over {policy} {kind} said: {done.stderr[-2000:]}")
    return int(found[1])


def _child(policy: str, kind: str, n: int) -> None:
    from pcpbuddy import _core

    _core.bench(_core.Zone(1 << 18, cpus=4, policy=policy), kind, n)


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
