"""
A paged KV cache: a sequence's table of blocks, one large chunk for its prompt, then single pages as it grows.
"""

import random

import numpy as np

import pcpbuddy as pb

TOKEN = 256  # bytes that a token takes
PER_PAGE = 4096 // TOKEN


class Sequence:
    """
    Its tokens' keys and values, in pages that need not lie side by side.
    """

    def __init__(self, pool, prompt):
        self.pool, self.tokens = pool, 0
        pages = -(-prompt // PER_PAGE)
        self.order = (pages - 1).bit_length()
        self.blocks = [pool.alloc(self.order)]  # the prompt's: contiguous, for one copy
        self.table = [self.blocks[0] + k for k in range(1 << self.order)]
        for token in range(prompt):
            self.append(token)

    def append(self, token):
        if self.tokens == len(self.table) * PER_PAGE:
            self.table.append(self.pool.alloc())
            self.blocks.append(self.table[-1])
        page, slot = divmod(self.tokens, PER_PAGE)
        self.pool.view(self.table[page])[slot * TOKEN] = token % 251
        self.tokens += 1

    def gather(self):
        return np.array([self.pool.view(page)[::TOKEN] for page in self.table]).reshape(-1)[: self.tokens]

    def free(self):
        self.pool.free_bulk(self.blocks)  # allocations of any order


pick = random.Random(3)
with pb.PagePool("32MiB") as pool:
    running, served = [], 0
    for _ in range(2000):
        if len(running) < 30:
            running.append(Sequence(pool, pick.randrange(1, 500)))
        sequence = pick.choice(running)
        for _ in range(pick.randrange(60)):
            sequence.append(sequence.tokens)
        if sequence.tokens > 700:
            assert (sequence.gather() == np.arange(sequence.tokens) % 251).all()
            running.remove(sequence)
            sequence.free()
            served += 1
    print(f"{served} sequences served, {len(running)} running, in {pool.stats()['used']} of {len(pool)} pages")
    print(pool.buddyinfo(), end="")
