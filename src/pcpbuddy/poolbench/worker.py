"""
The process of one allocator: rounds as asked for, a line of JSON in, a line out. Started by poolbench/process.py.
"""

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..errors import PcpBuddyError
from .peers import Peer

if TYPE_CHECKING:
    from .._core.poolbench import Allocator

__all__ = ["main"]

PR_SET_PDEATHSIG = 1


class Threads:
    """
    Threads that stay from round to round, each on a CPU of its own: an allocator may keep something for each.
    """

    def __init__(self, allocator: "Allocator", nr: int) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self._allocator = allocator
        self._asked: list[queue.SimpleQueue[dict[str, Any]]] = [queue.SimpleQueue() for _ in range(nr)]
        self._answers: queue.SimpleQueue[tuple[int, tuple[int, int, int, int] | str]] = queue.SimpleQueue()
        for me in range(nr):
            threading.Thread(target=self._live, args=(me, cpus[me % len(cpus)]), daemon=True).start()

    def _live(self, me: int, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        while True:
            asked = self._asked[me].get()
            try:
                self._answers.put((me, self._allocator.work(asked["load"], me, asked["batch"], asked["pairs"])))
            except Exception as error:
                self._answers.put((me, str(error)))

    def round(self, asked: dict[str, Any]) -> dict[str, Any]:
        """
        Ns a pair, the mean of the threads: CPU time of one, wall time of several.
        """
        self._allocator.start(asked["n"], len(self._asked), asked["order"])
        for each in self._asked:
            each.put(asked)
        answers = dict(self._answers.get() for _ in self._asked)
        taken = []
        for me in range(len(self._asked)):
            answer = answers[me]
            if isinstance(answer, str):
                return {"error": answer}
            taken.append(answer)
        alone = len(taken) == 1
        pairs = [pairs for _, _, _, pairs in taken]
        # Of xfree each thread does half a pair.
        done = pairs[0] if asked["load"] == "xfree" else sum(pairs)
        return {
            "ns": sum((cpu_ns if alone else wall_ns) / pairs for wall_ns, cpu_ns, _, pairs in taken) / len(taken),
            "faults": sum(faults for _, _, faults, _ in taken) / done,
            "cpu_share": min(min(cpu_ns / max(wall_ns, 1), 1.0) for wall_ns, cpu_ns, _, _ in taken),
        }


def main() -> None:
    """
    First line: the peer, pages and CPUs. Then a round a line, all of one number of threads.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What an allocator prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=answers, flush=True)

    line = sys.stdin.readline()
    if not line:
        return
    first = json.loads(line)
    try:
        allocator = Peer(**first["peer"]).open()
        allocator.init(first["frames"], first["cpus"])
    except (PcpBuddyError, OSError) as error:
        answer({"error": str(error)})
        return
    answer({"meta_bytes": allocator.meta_bytes()})
    threads = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            threads = threads or Threads(allocator, asked["threads"])
            answer(threads.round(asked))
        except MemoryError:
            answer({"error": "there is no memory for the handles of its pages"})


if __name__ == "__main__":
    main()
