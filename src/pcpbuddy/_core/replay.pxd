# Handle mode (docs/reference/replay.md section 2): recorded requests, any policy decides.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from .atomic cimport bump, unlikely
from .calls cimport free_run, isolate, node_alloc, node_bulk, offline_cpu, online_cpu, tick
from .driver cimport begin, free_by_policy
from .events cimport E_FREE, emit
from .init cimport fold
from .node cimport NodeRef, gfp_type, node_zone_of
from .op cimport Z_START, Z_UNISOLATE, Op
from .page cimport (
    ALLOC, HEAD_MASK, MOVABLE, MOVABLE_BIT, Zone, idx, index_of, pfn_of, set_word, split_page, word_of, word_order,
)

cdef enum:  # op numbers: requests.py
    R_ALLOC = 0
    R_FREE = 1
    R_BULK = 2
    R_BULK_MORE = 3
    R_TICK = 4
    R_FOLD = 5
    R_OFFLINE = 6
    R_ONLINE = 7
    R_ISOLATE = 8
    R_UNISOLATE = 9

    H_UNKNOWN = 0              # what the handle map says of a page; else own pfn + H_BIAS
    H_FREED = 1
    H_FAILED = 2
    H_BIAS = 3

cdef packed struct Request:    # requests.REQUEST
    uint32_t pfn
    uint32_t gfp
    uint32_t nr
    uint16_t cpu
    uint8_t op
    uint8_t order

cdef struct Replay:
    NodeRef node
    uint32_t *map              # recorded page -> own page
    uint32_t nr_handles
    idx *scratch               # bulk
    int64_t live               # pages allocated now
    int64_t all_pages          # allocated + parked + in the zones, constant
    int64_t parked_max
    uint64_t requests
    uint64_t frees_unknown
    uint64_t frees_double
    uint64_t frees_unseen
    uint64_t frees_of_failed
    uint64_t misplaced         # requests for CPUs or zones that are not there


cdef inline void map_page(Replay *r, uint32_t handle, int64_t pfn) noexcept nogil:
    r.map[handle] = <uint32_t>(pfn + H_BIAS)

cdef inline void map_run(uint32_t *map, uint32_t pfn, uint32_t pages) noexcept nogil:
    cdef uint32_t k
    for k in range(pages):
        map[k] = pfn + k + H_BIAS

cdef inline uint32_t unmap_run(uint32_t *map, uint32_t own, uint32_t most) noexcept nogil:
    """How many of the next handles lie side by side here; they are freed now."""
    cdef uint32_t n = 0
    while n < most and map[n] == own + n:
        map[n] = H_FREED
        n += 1
    return n

cdef inline Zone *zone_of(Replay *r, int64_t pfn) noexcept nogil:
    return r.node.zones[node_zone_of(&r.node, pfn)]

cdef inline void free_own(Replay *r, Zone *z, int cpu, int64_t pfn, int64_t n) noexcept nogil:
    """
    Own pages pfn..pfn+n-1, which lie side by side, go back as the kernel would give them back.

    One whole allocation: one free. Anything else: split, and freed in the largest aligned pieces (B-94).
    """
    cdef idx i = index_of(z, pfn)
    cdef idx p
    cdef idx head
    cdef uint32_t word
    r.live -= n
    word = word_of(z, i)
    if (word & 7) == ALLOC and <int64_t>1 << word_order(word) == n:
        free_by_policy(z, cpu, i, 0)
        return
    for p in range(i, i + <idx>n):
        head = p
        while (word_of(z, head) & 7) != ALLOC:
            head -= 1
        if word_order(word_of(z, head)):
            split_page(z, head)
    bump(&z.counts[cpu].pages_freed, n)
    emit(z, E_FREE, cpu, i, 0, 0)
    free_run(z, cpu, i, n)

cdef inline void unmap(Replay *r, uint32_t handle, int o, int cpu) noexcept nogil:
    """A handle that is handed out again while it is live was freed unseen: free it now."""
    cdef uint32_t h
    for h in range(handle, handle + (1u << o)):
        if r.map[h] >= H_BIAS:
            r.frees_unseen += 1
            free_own(r, zone_of(r, r.map[h] - H_BIAS), cpu, r.map[h] - H_BIAS, 1)
            r.map[h] = H_FREED

cdef inline void replay_alloc(Replay *r, Request *q) noexcept nogil:
    cdef int where = 0
    cdef idx i
    cdef uint32_t k
    cdef uint32_t pages = 1u << q.order
    if unlikely(q.order or r.map[q.pfn] >= H_BIAS):
        unmap(r, q.pfn, q.order, q.cpu)
    i = node_alloc(&r.node, q.order, q.gfp, q.cpu, &where)
    if not i:
        for k in range(pages):
            r.map[q.pfn + k] = H_FAILED
        return
    if gfp_type(q.gfp) == MOVABLE:         # its user puts it on an LRU list: no claim counts it as stuck (B-46)
        set_word(r.node.zones[where], i, word_of(r.node.zones[where], i) | MOVABLE_BIT)
    map_run(&r.map[q.pfn], <uint32_t>pfn_of(r.node.zones[where], i), pages)
    r.live += pages

cdef inline void replay_bulk(Replay *r, Request *q, uint32_t n) noexcept nogil:
    """q and the n - 1 rows that follow it."""
    cdef int where = 0
    cdef uint32_t k
    cdef uint32_t got
    for k in range(n):
        unmap(r, q[k].pfn, 0, q.cpu)
    got = node_bulk(&r.node, n, q.gfp, q.cpu, r.scratch, &where)
    for k in range(n):
        if k < got:
            map_page(r, q[k].pfn, pfn_of(r.node.zones[where], r.scratch[k]))
        else:
            r.map[q[k].pfn] = H_FAILED
    r.live += got

cdef inline bint replay_free_single(Replay *r, Request *q) noexcept nogil:
    """A single page that is a single page here too: most frees."""
    cdef uint32_t own = r.map[q.pfn]
    cdef Zone *z
    cdef idx i
    if q.order or own < H_BIAS:
        return False
    z = zone_of(r, own - H_BIAS)
    i = index_of(z, own - H_BIAS)
    if (word_of(z, i) & HEAD_MASK) != ALLOC:
        return False
    r.map[q.pfn] = H_FREED
    r.live -= 1
    free_by_policy(z, q.cpu, i, 0)
    return True

cdef inline void replay_free(Replay *r, Request *q) noexcept nogil:
    """Page by page through the map; own pages that lie side by side in one zone go together."""
    cdef uint32_t h = q.pfn
    cdef uint32_t end = q.pfn + (1u << q.order)
    cdef uint32_t own
    cdef uint32_t n
    cdef int64_t room
    cdef Zone *z
    while h < end:
        own = r.map[h]
        if own < H_BIAS:
            r.frees_unknown += own == H_UNKNOWN
            r.frees_double += own == H_FREED
            r.frees_of_failed += own == H_FAILED
            if own == H_FAILED:
                r.map[h] = H_FREED
            h += 1
            continue
        z = zone_of(r, own - H_BIAS)
        room = z.s.start_pfn + z.s.spanned - (own - H_BIAS)
        n = unmap_run(&r.map[h], own, min(end - h, <uint32_t>room))
        h += n
        free_own(r, z, q.cpu, own - H_BIAS, n)

cdef inline void replay_other(Replay *r, Request *q) noexcept nogil:
    cdef Op op
    cdef int k
    cdef Zone *z
    for k in range(r.node.nr):
        z = r.node.zones[k]
        if q.op == R_FOLD:
            fold(z, q.cpu, True)
        elif q.op == R_TICK and <uint32_t>z.s.zone_index == q.nr:
            tick(z, q.cpu)
        elif q.op == R_OFFLINE and z.pcp[q.cpu].online:
            offline_cpu(z, q.cpu)
        elif q.op == R_ONLINE and not z.pcp[q.cpu].online:
            online_cpu(z, q.cpu)
        elif q.op == R_ISOLATE and node_zone_of(&r.node, q.pfn) == k:
            isolate(z, index_of(z, q.pfn), 1, q.cpu)
        elif q.op == R_UNISOLATE and node_zone_of(&r.node, q.pfn) == k:
            begin(&op, Z_START, False, q.cpu)
            op.section = Z_UNISOLATE
            op.page = index_of(z, q.pfn)
            z.run(z, &op)

cdef inline void note_parked(Replay *r) noexcept nogil:
    """What is neither allocated nor on a zone list is parked in a PCP."""
    cdef int64_t parked = r.all_pages - r.live
    cdef int k
    for k in range(r.node.nr):
        parked -= r.node.zones[k].s.zone_pages
    if parked > r.parked_max:
        r.parked_max = parked

cdef inline void replay_requests(Replay *r, Request *q, uint64_t n) noexcept nogil:
    cdef Request *end = q + n
    cdef uint32_t rows
    while q < end:
        rows = 1
        r.requests += 1
        if q.op == R_ALLOC:
            replay_alloc(r, q)
        elif q.op == R_FREE:
            if unlikely(not replay_free_single(r, q)):
                replay_free(r, q)
        elif q.op == R_BULK:
            rows = q.nr
            replay_bulk(r, q, rows)
        else:
            replay_other(r, q)
        note_parked(r)
        q += rows
