# CMA areas: where they are, and which of their pages cma_alloc has handed out (contiguous.md, CT-9).

from libc.stdint cimport int64_t, uint32_t, uint64_t

from .page cimport CMA, Zone, block_number, block_page, first_block, idx, pfn_of


cdef inline bint is_claimed(Zone *z, idx i) noexcept nogil:
    return z.claimed[i >> 6] >> (i & 63) & 1

cdef inline void set_claimed(Zone *z, idx i, int64_t n, bint claimed) noexcept nogil:
    cdef idx p
    for p in range(i, i + <idx>n):
        if claimed:
            z.claimed[p >> 6] |= <uint64_t>1 << (p & 63)
        else:
            z.claimed[p >> 6] &= ~(<uint64_t>1 << (p & 63))

cdef inline bint next_area(Zone *z, idx *start, idx *end) noexcept nogil:
    """The first run of C blocks from page `end` on (0: in the zone); is there one?"""
    cdef uint32_t last = first_block(z) + z.s.nr_blocks
    cdef uint32_t n = block_number(z, end[0]) if end[0] else first_block(z)
    while n < last and z.block[n].type != CMA:
        n += 1
    start[0] = block_page(z, n)
    while n < last and z.block[n].type == CMA:
        n += 1
    end[0] = block_page(z, n)
    return start[0] < end[0]

cdef inline idx aligned(Zone *z, idx i, int align) noexcept nogil:
    """The first page from i on whose pfn is a multiple of 2^align."""
    return i + <idx>(-pfn_of(z, i) & ((<int64_t>1 << align) - 1))

cdef inline idx clear_run(Zone *z, idx i, idx end, int64_t count, int align) noexcept nogil:
    """First fit: from page i on the first run of so many pages that nobody has; 0: there is none."""
    cdef idx p
    i = aligned(z, i, align)
    while i < end and end - i >= count:
        p = i
        while p < i + count and not is_claimed(z, p):
            p += 64 if not p & 63 and not z.claimed[p >> 6] else 1
        if p >= i + count:
            return i
        i = aligned(z, p + 1, align)
    return 0
