"""
One pool for several processes: page numbers go through a pipe, contents stay where they are.
"""

import multiprocessing
import zlib

import pcpbuddy as pb

MESSAGES = 500


def worker(pool, inbox, outbox):
    """
    Takes messages of up to eight pages, answers with their checksum, and frees what the parent allocated.
    """
    while (message := inbox.recv()) is not None:
        pfn, length = message
        outbox.send((pfn, zlib.crc32(pool.view(pfn, 8)[:length])))
        pool.free(pfn, 3)
    outbox.close()


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with pb.PagePool("32MiB", share=True) as pool:  # a memfd, which children inherit
        to_child, inbox = context.Pipe()
        answers, outbox = context.Pipe()
        child = context.Process(target=worker, args=(pool, inbox, outbox))
        child.start()
        right = 0
        for number in range(MESSAGES):
            text = f"message {number} ".encode() * (1 + number % 1000)
            pfn = pool.alloc(3)
            pool.view(pfn, 8)[: len(text)] = text
            to_child.send((pfn, len(text)))
            right += answers.recv() == (pfn, zlib.crc32(text))
        to_child.send(None)
        child.join()
        stats = pool.stats()
        print(
            f"{right} of {MESSAGES} answers right; {stats['used']} pages still held, {stats['free']} free in the zone"
        )
        pool.drain()
        pool.check()
        print("all invariants hold")
