# Whole calls that are more than one operation: bulk, contiguous frees, ticks, off-lining.

from libc.stdint cimport int64_t, uint32_t

from .atomic cimport fence, store8
from .buddy cimport visible
from .driver cimport begin
from .events cimport E_FREE, emit
from .init cimport fold
from .op cimport (
    B_START, D_START, F_PREPARE, OP_ALL, OP_ONE_HOLD, OP_PREPARED, X_START, Z_DISOWN, Z_ISOLATE, Z_START, Op,
)
from .page cimport (
    ALLOC, MAX_ORDER, NR_FREE, ORDER_SHIFT, SCALE_MAX, WMARK_LOW, Pcp, Zone, idx, pfn_of, set_word,
    word_of, word_order,
)
from .remote cimport has_remote, slots
from .sizing cimport resize
from .watermark cimport watermark, watermark_ok


cdef inline int bulk(Zone *z, int cpu, int n, int T, int aflags, idx *pages) noexcept nogil:
    """B-93 in a zone that passed the watermark. Returns how many pages came; 0: ask for an ordinary one."""
    cdef Op op
    begin(&op, B_START, False, cpu)
    op.type = <unsigned char>T
    op.aflags = aflags
    op.pages = pages
    op.nr = n
    z.run(z, &op)
    return op.k

cdef inline bint bulk_watermark_ok(Zone *z, int n, int hz, int aflags) noexcept nogil:
    return watermark_ok(z, 0, watermark(z, WMARK_LOW) + n, hz, aflags, visible(z, NR_FREE))

cdef inline void split_page(Zone *z, idx i) noexcept nogil:
    """An allocation of order o becomes 2^o of order 0."""
    cdef uint32_t word = word_of(z, i)
    cdef idx p
    for p in range(i, i + (1u << word_order(word))):
        set_word(z, p, word & ~(15u << ORDER_SHIFT))

cdef inline void free_run(Zone *z, int cpu, idx i, int64_t n) noexcept nogil:
    """B-94: a run of single pages, freed in the largest naturally aligned pieces; no event any more."""
    cdef Op op
    cdef idx p
    cdef int o
    while n > 0:
        o = 0
        while o < MAX_ORDER and not (pfn_of(z, i) >> o) & 1 and (2 << o) <= n:
            o += 1
        for p in range(i + 1, i + (1u << o)):
            set_word(z, p, 0)
        set_word(z, i, ALLOC | o << ORDER_SHIFT)
        begin(&op, F_PREPARE, False, cpu)
        op.flags = OP_PREPARED
        op.page = i
        op.pages = &op.page
        op.nr = 1
        z.run(z, &op)
        i += 1u << o
        n -= 1 << o

cdef inline void free_contig(Zone *z, int cpu, idx i, int64_t n) noexcept nogil:
    """B-94: every page is prepared on its own first."""
    cdef idx p
    for p in range(i, i + <idx>n):
        emit(z, E_FREE, cpu, p, 0, 0)
    z.counts[cpu].pages_freed += n
    free_run(z, cpu, i, n)

cdef inline void drain_pcp(Zone *z, int target, int cpu, int n, int flags, int start) noexcept nogil:
    cdef Op op
    begin(&op, D_START, False, cpu)
    op.target = <unsigned short>target
    op.n = n
    op.flags = <unsigned char>flags
    op.start = start
    z.run(z, &op)

cdef inline void flush_outboxes(Zone *z, int owner, int cpu) noexcept nogil:
    """P-46b: those of one CPU."""
    cdef Op op
    if slots(z) == 0:
        return
    begin(&op, X_START, False, cpu)
    op.owner = <unsigned short>owner
    z.run(z, &op)

cdef inline void flush_all_outboxes(Zone *z, int cpu) noexcept nogil:
    cdef int c
    for c in range(z.s.cpus):
        if z.pcp[c].online:
            flush_outboxes(z, c, cpu)

cdef inline void drain_all(Zone *z, int cpu) noexcept nogil:
    """B-100: on-line CPUs ascending, those that have pages. Outboxes before (P-46b)."""
    cdef int c
    flush_all_outboxes(z, cpu)
    for c in range(z.s.cpus):
        if z.pcp[c].online and (z.pcp[c].count > 0 or has_remote(z, c)):
            drain_pcp(z, c, cpu, 0, OP_ALL, 0)

cdef inline int decay_high(Pcp *p) noexcept nogil:
    """B-102: high sinks towards high_min. Returns how many pages are above it then."""
    if p.high > p.high_min:
        p.high = max(max(p.count - (p.batch << SCALE_MAX), p.high - (p.high >> 3)), p.high_min)
    return p.count - p.high

cdef inline void decay(Zone *z, int cpu) noexcept nogil:
    """B-102, P-63."""
    cdef int excess = decay_high(&z.pcp[cpu])
    if excess > 0:
        drain_pcp(z, cpu, cpu, excess, 0, 0)

cdef inline void tick(Zone *z, int cpu) noexcept nogil:
    """B-101: fold, decay, and the expiry of another node's pages (B-103); what is remote comes between (P-46)."""
    cdef Pcp *p = &z.pcp[cpu]
    fold(z, cpu, True)
    flush_outboxes(z, cpu, cpu)
    if has_remote(z, cpu):
        drain_pcp(z, cpu, cpu, 0, 0, 0)    # absorbs, and drains nothing
    decay(z, cpu)
    if not p.expire or not p.count:
        return
    if not p.remote_node:
        p.expire = 0
        return
    p.expire -= 1
    if p.expire == 0:
        drain_pcp(z, cpu, cpu, min(p.count, p.batch), OP_ONE_HOLD, 0)

cdef inline int lowest_online(Zone *z) noexcept nogil:
    cdef int c = 0
    while not z.pcp[c].online:
        c += 1
    return c

cdef inline void offline_cpu(Zone *z, int cpu) noexcept nogil:
    """B-105, P-85: no new routing, drain, fold, disown; then the limits for one CPU less."""
    cdef Op op
    cdef int by
    store8(&z.pcp[cpu].online, False)
    fence()                                # see remote.alive
    by = lowest_online(z)
    flush_outboxes(z, cpu, by)
    drain_pcp(z, cpu, by, 0, OP_ALL, 0)
    fold(z, cpu, False)
    if z.s.policy.owns:                    # nobody owns blocks otherwise
        begin(&op, Z_START, False, by)
        op.section = Z_DISOWN
        op.target = <unsigned short>cpu
        z.run(z, &op)
    resize(z)

cdef inline void online_cpu(Zone *z, int cpu) noexcept nogil:
    z.pcp[cpu].online = True
    resize(z)

cdef inline bint isolate(Zone *z, idx i, int flags, int cpu) noexcept nogil:
    """B-110, and what waits in outboxes is handed over (P-46b). flags: 1 for a CMA allocation, 2 with the check."""
    cdef Op op
    begin(&op, Z_START, False, cpu)
    op.section = Z_ISOLATE
    op.page = i
    op.flags = <unsigned char>flags
    z.run(z, &op)
    if op.result:
        flush_all_outboxes(z, cpu)
    return op.result
