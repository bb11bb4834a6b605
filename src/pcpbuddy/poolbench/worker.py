"""
The process of one allocator: rounds as asked for, a line of JSON in, a line out. Started by poolbench/measure.py.
"""

import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..errors import PcpBuddyError
from .peers import Peer

if TYPE_CHECKING:
    from .._core.poolbench import Allocator

__all__ = ["main"]


def one_round(allocator: "Allocator", asked: dict[str, Any], cpus: list[int]) -> dict[str, Any]:
    """
    One round in ``threads`` threads, each on a CPU of its own: the mean of their ns a pair.
    """
    threads = asked["threads"]
    allocator.start(asked["n"], threads, asked["order"])
    results: list[tuple[int, int]] = [(0, 1)] * threads
    errors: list[str] = []

    def work(me: int) -> None:
        os.sched_setaffinity(0, {cpus[me % len(cpus)]})
        try:
            results[me] = allocator.work(asked["load"], me, asked["batch"], asked["pairs"])
        except PcpBuddyError as error:
            errors.append(str(error))

    started = [threading.Thread(target=work, args=(me,)) for me in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if errors:
        return {"error": errors[0]}
    return {"ns": sum(ns / pairs for ns, pairs in results) / threads}


def main() -> None:
    """
    First line: the peer, pages and CPUs. Then a round a line.
    """
    first = json.loads(sys.stdin.readline())
    cpus = sorted(os.sched_getaffinity(0))
    try:
        allocator = Peer(**first["peer"]).open()
        allocator.init(first["frames"], first["cpus"])
    except PcpBuddyError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps({"meta_bytes": allocator.meta_bytes()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(one_round(allocator, json.loads(line), cpus)), flush=True)


if __name__ == "__main__":
    main()
