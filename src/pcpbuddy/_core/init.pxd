# Laying out the memory of a zone, and filling it: fresh (B-97) or with chunks that are told.

cimport cython
from libc.stdint cimport int64_t, int8_t, uint32_t, uint64_t, uint8_t

from .atomic cimport add64, load8, store8
from .buddy cimport account, insert, merge_free
from .page cimport (
    BLOCK_HEADS, CMA, CPU_HEADS, FREE_HIGH_BATCH, HEADS_PER_CPU, MAX_ORDER, MOVABLE, NR_TYPES, OWNED_HEADS, PB,
    PB_PAGES, STRADDLES, Block, Counts, Outbox, Page, Pcp, Policy, Remote, Zone, ZoneState, block_of, first_block,
    index_of, largest_aligned, set_block_type,
)
from .sizing cimport auto_watermarks, resize


@cython.cdivision(True)
cdef inline uint64_t align(uint64_t n, uint64_t to) noexcept nogil:
    return (n + to - 1) // to * to

cdef inline void fit_policy(Policy *policy, int cpus) noexcept nogil:
    """P-46b: no more outboxes than CPUs."""
    policy.handover_targets = min(policy.handover_targets, cpus)

cdef inline void measure(ZoneState *s, int64_t start_pfn, int64_t spanned, int cpus) noexcept nogil:
    """Sizes and offsets of all parts, for s.policy. The last chunk of the largest order is whole, if only of holes."""
    s.start_pfn = start_pfn
    s.spanned = spanned
    s.cpus = cpus
    s.base_pfn = start_pfn >> MAX_ORDER << MAX_ORDER
    s.first = <uint32_t>align(CPU_HEADS + HEADS_PER_CPU * cpus, 1 << MAX_ORDER)
    s.nr_blocks = <uint32_t>(align(start_pfn + spanned - s.base_pfn, 1 << MAX_ORDER) >> PB)
    s.nr_pages = s.first + (s.nr_blocks << PB)
    s.block_bias = BLOCK_HEADS + OWNED_HEADS * cpus - <int>(s.first >> PB)
    s.size = (
        align(sizeof(ZoneState), 64)
        + cpus * (align(sizeof(Pcp), 64) + align(sizeof(Remote), 64) + align(sizeof(Counts), 64))
        + align(sizeof(Outbox) * <uint64_t>cpus * s.policy.handover_targets, 64)
        + align(sizeof(Block) * (<uint64_t>BLOCK_HEADS + OWNED_HEADS * cpus + s.nr_blocks), 64)
        + align(sizeof(Page) * <uint64_t>s.nr_pages, 64)
        + align(<uint64_t>s.nr_pages, 512) // 8
    )

cdef inline void attach(Zone *z, void *memory) noexcept nogil:
    """Find the parts of a zone whose state begins at `memory`."""
    cdef char *p = <char *>memory
    z.s = <ZoneState *>p
    z.me = 1
    z.fd = -1
    p += align(sizeof(ZoneState), 64)
    z.pcp = <Pcp *>p
    p += align(sizeof(Pcp), 64) * z.s.cpus
    z.remote = <Remote *>p
    p += align(sizeof(Remote), 64) * z.s.cpus
    z.counts = <Counts *>p
    p += align(sizeof(Counts), 64) * z.s.cpus
    z.outbox = <Outbox *>p
    p += align(sizeof(Outbox) * <uint64_t>z.s.cpus * z.s.policy.handover_targets, 64)
    z.block = <Block *>p
    z.block_of_page = z.block + z.s.block_bias
    p += align(sizeof(Block) * (<uint64_t>first_block(z) + z.s.nr_blocks), 64)
    z.page = <Page *>p
    p += align(sizeof(Page) * <uint64_t>z.s.nr_pages, 64)
    z.claimed = <uint64_t *>p

cdef inline void empty_lists(Zone *z) noexcept nogil:
    cdef uint32_t h
    for h in range(1, 1 + NR_TYPES * PB):
        z.page[h].next = h
        z.page[h].prev = h
    for h in range(CPU_HEADS, CPU_HEADS + z.s.cpus * HEADS_PER_CPU):
        z.page[h].next = h
        z.page[h].prev = h
    for h in range(first_block(z)):
        z.block[h].next = h
        z.block[h].prev = h
        z.block[h].own_next = h
        z.block[h].own_prev = h

cdef inline void init_blocks(Zone *z) noexcept nogil:
    """All blocks start as M (1.3); those that the zone does not wholly contain are told apart (B-45)."""
    cdef uint32_t n
    cdef uint32_t at = first_block(z)
    cdef int64_t pfn = z.s.base_pfn
    for n in range(at, at + z.s.nr_blocks):
        set_block_type(&z.block[n], MOVABLE)
        if pfn < z.s.start_pfn or pfn + PB_PAGES > z.s.start_pfn + z.s.spanned:
            z.block[n].flags = STRADDLES
        pfn += PB_PAGES

cdef inline void boot(Zone *z, int64_t pages) noexcept nogil:
    """B-97: fresh memory to the tails, ascending, in the largest aligned pieces; CMA areas block by block."""
    cdef int64_t pfn = z.s.start_pfn
    cdef int64_t end = pfn + pages
    cdef int64_t stop = z.s.start_pfn + z.s.spanned
    cdef int o
    while pfn < end:
        o = largest_aligned(index_of(z, pfn), index_of(z, end))
        insert(z, 0, index_of(z, pfn), o, MOVABLE, True)   # greedy pieces never meet a buddy
        account(z, 0, 1 << o, MOVABLE)
        pfn += 1 << o
    while pfn < stop:
        set_block_type(block_of(z, index_of(z, pfn)), CMA)
        merge_free(z, 0, index_of(z, pfn), PB, CMA, True)
        z.s.cma_pages += PB_PAGES
        pfn += PB_PAGES

cdef inline void start_zone(Zone *z, int64_t pages, int64_t cma_pages, int64_t llc_pages) noexcept nogil:
    """A fresh zone: all CPUs on-line, all memory free. Limits that are not given (auto_*) follow the formulas."""
    cdef Pcp *p
    cdef int c
    z.s.managed = pages
    z.s.boost_factor = 15000
    if z.s.auto_watermark:
        auto_watermarks(z)
    for c in range(z.s.cpus):
        z.pcp[c].online = True
    resize(z)
    for c in range(z.s.cpus):
        p = &z.pcp[c]
        p.high_min = z.s.pageset[0]
        p.high_max = z.s.pageset[1]
        p.batch = z.s.pageset[2]
        if llc_pages > 3 * p.batch:        # B-14
            p.flags = FREE_HIGH_BATCH
    init_blocks(z)
    boot(z, pages - cma_pages)
    fold(z, 0, False)

cdef inline void fold(Zone *z, int cpu, bint alive) noexcept nogil:
    """B-17, B-101: a CPU's deltas into the global counters. A CPU that lives on notes it (B-103)."""
    cdef int item
    cdef bint any = False
    cdef uint8_t *diff
    for item in range(3):
        diff = <uint8_t *>&z.pcp[cpu].diff[item]
        if load8(diff):
            any = True
            add64(&z.s.stat[item], <int8_t>load8(diff))
            store8(diff, 0)
    if any and alive:
        z.pcp[cpu].expire = 3
