"""
A buffer pool over a file: blocks of 16 KiB are read into pages of the pool, and the one longest unused makes room.
"""

import random
import tempfile
from collections import OrderedDict

import pcpbuddy as pb

ORDER = 2  # 16 KiB
BLOCK = 4096 << ORDER


class BufferPool:
    """
    Blocks of a file, as many at a time as the pool has room for.
    """

    def __init__(self, file, size):
        self.file, self.pool = file, pb.PagePool(size)
        self.blocks = OrderedDict()  # number -> Pages, the longest unused first
        self.reads = 0

    def __getitem__(self, number):
        if number not in self.blocks:
            self.blocks[number] = self._page()
            self.file.seek(number * BLOCK)
            self.file.readinto(self.blocks[number])
            self.reads += 1
        self.blocks.move_to_end(number)
        return self.blocks[number].view

    def _page(self):
        while True:
            try:
                return self.pool.pages(ORDER)
            except pb.OutOfPages:
                _, oldest = self.blocks.popitem(last=False)
                oldest.free()  # BufferError if somebody still looks at it


with tempfile.TemporaryFile(buffering=0) as file:
    for number in range(2000):
        file.write(number.to_bytes(8, "little") * (BLOCK // 8))
    cache = BufferPool(file, "8MiB")
    pick = random.Random(1)
    for _ in range(20_000):
        number = min(int(pick.expovariate(1 / 150)), 1999)
        assert int.from_bytes(cache[number][-8:], "little") == number
    print(f"20000 accesses, {cache.reads} reads; {len(cache.blocks)} blocks of 16 KiB in 8 MiB")
    print(cache.pool.buddyinfo(), end="")
