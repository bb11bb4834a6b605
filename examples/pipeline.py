"""
A pipeline: one thread fills buffers, another empties and frees them. The affinity violation, in Python threads.

Every page is freed by a thread that did not allocate it. Under ``mainline`` one CPU's list overflows into the zone and
the other's refills from it; where blocks have owners, pages go back to whom they came from.
"""

import queue
import threading

import pcpbuddy as pb

BUFFERS = 20_000


def run(policy):
    with pb.PagePool("64MiB", cpus=2, per="thread", policy=policy) as pool:  # a pageset for each of the two threads
        ready = queue.Queue(maxsize=256)
        total = 0

        def produce():
            for number in range(BUFFERS):
                page = pool.pages()
                page.view[:8] = number.to_bytes(8, "little")
                ready.put(page)
            ready.put(None)

        def consume():
            nonlocal total
            while (page := ready.get()) is not None:
                with page:
                    total += int.from_bytes(page.view[:8], "little")

        threads = [threading.Thread(target=work) for work in (produce, consume)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert total == sum(range(BUFFERS))
        stats = pool.stats()
        holds = sum(value for name, value in stats.items() if name.startswith("holds_"))
        print(f"{policy:9} zone lock held {holds:4} times for {BUFFERS} buffers; list operations {stats['list_ops']}")


for policy in ("mainline", "fixed", "handover"):
    run(policy)
