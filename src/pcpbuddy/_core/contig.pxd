# Contiguous allocation, cma_alloc, and memory that goes off-line and comes back (contiguous.md, baseline section 14).
#
# Each is a row of whole calls: `contig_next` prepares the next in g.call, and finds its results there when it is over.
# Between two calls no lock is held. Who carries them out is also asked to move pages, since only it knows who has them.
# Both records stay where they are until all is over.

from libc.stdint cimport int64_t, uint32_t, uint8_t

from .atomic cimport bump, load8
from .call cimport Call
from .cma cimport clear_run, set_claimed
from .isolation cimport BUSY_PINNED, NO_RUN, NO_TARGET, OBTAINED
from .node cimport ZONE_MOVABLE, NodeRef
from .op cimport OP_CHECK, OP_FOR_CMA, OP_GONE, Z_CAPTURE, Z_ISOLATE, Z_TEST, Z_UNISOLATE
from .page cimport (
    ALLOC, HEAD_MASK, HOLE, MOVABLE_BIT, ORDER_SHIFT, PB, PB_PAGES, STATE_MASK, Zone, block_of, idx, largest_aligned,
    set_word, split_page, word_of, word_order,
)
from .request cimport begin_alloc, begin_direct, begin_drain_zone, begin_free, begin_free_contig, begin_section
from .sizing cimport disable_pcps, enable_pcps, managed_changed

cdef enum:  # what contig_next asks for
    G_OVER = 0
    G_CALL = 1                 # carry g.call to its end
    G_MOVE = 2                 # move page g.old to g.target in zone g.to, and say in g.moved whether that was done
    G_RANGE = 3                # nothing: one range is over, see g.start, g.end, g.reason, g.busy
    G_ON = 4                   # among the states themselves

cdef enum:  # states
    G_SEARCH = 1               # the area's bits
    G_ISOLATE = 2              # block g.k in the order of CT-2 is next
    G_ISOLATED = 3
    G_DRAIN = 4
    G_CLUSTER = 5              # the next cluster begins at g.i
    G_SCAN = 6                 # the next candidate
    G_TARGET = 7               # an allocation for g.old is over
    G_MOVED = 8
    G_TEST = 9
    G_TESTED = 10
    G_CAPTURE = 11
    G_CAPTURED = 12
    G_HEAD = 13                # what was captured before the range, then after it, is freed
    G_TAIL = 14
    G_TAKEN = 15               # the range is the caller's
    G_UNISOLATE = 16           # block g.k, ascending
    G_RANGED = 17
    G_ONLINE = 18
    G_RELEASE = 19
    G_RELEASED = 20
    G_END = 21

    REFUSED = 0                # g.moved: the answer to G_MOVE
    MOVED = 1
    GIVE_UP = 2                # besides: no further page of this range is asked for

    CLUSTER = 32               # candidates that are tried again together
    TRIES = 5                  # of a cluster; rounds of an off-lining
    GFP_TARGET = 0x104cc8      # GFP_USER | __GFP_MOVABLE | __GFP_RETRY_MAYFAIL
    GFP_LARGE_TARGET = 0x1c64ca    # of a large folio: without __GFP_RECLAIM, then | GFP_TRANSHUGE
    GFP_HIGHMEM = 0x2          # in ZONE_MOVABLE

cdef struct Contig:
    Call *call                 # the next, or the one that is over
    NodeRef *node              # its zones have the targets
    Zone *zone
    idx start                  # the range
    idx end
    int cpu                    # executes
    int highmem                # GFP_HIGHMEM where the range is in ZONE_MOVABLE
    uint8_t at
    uint8_t flags              # of the isolation
    uint8_t tries              # of the cluster
    uint8_t rounds             # an off-lining: drains so far
    bint offline               # memory goes off-line
    uint8_t moved              # the answer to G_MOVE
    int nr_blocks
    int isolated               # blocks of the range that are, in the order of CT-2
    int k
    int found                  # candidates of the cluster
    int refused                # of this pass over it
    idx cluster
    idx cluster_end
    idx i
    idx old                    # the page that is moved
    uint32_t word              # as it was found
    idx target
    Zone *to
    idx captured               # where the first captured chunk begins
    int reason                 # result: OBTAINED, or why not
    idx busy                   # and the page that stood in the way
    int64_t migrated           # pages
    int64_t refusals
    idx area                   # cma_alloc: first page of the area, or 0
    idx area_end
    int64_t count
    int align                  # order
    idx page                   # result of cma_alloc


cdef inline void refuse(Contig *g, int reason, idx busy) noexcept nogil:
    g.reason = reason
    g.busy = busy
    g.at = G_UNISOLATE
    g.k = 0


# -- isolation (CT-2, CT-7) -----------------------------------------------------------------------------------

cdef inline idx block_start(Contig *g, int k) noexcept nogil:
    return (g.start & ~(<idx>PB_PAGES - 1)) + (<idx>k << PB)

cdef inline int block_to_isolate(Contig *g) noexcept nogil:
    """The first block, the last, and then those between."""
    if g.isolated < 2:
        return 0 if g.isolated == 0 else g.nr_blocks - 1
    return g.isolated - 1

cdef inline bint isolated_before(Contig *g, int k) noexcept nogil:
    """Did block k get isolated before one was refused?"""
    if k == 0:
        return g.isolated > 0
    return g.isolated > (1 if k == g.nr_blocks - 1 else k + 1)

cdef inline int isolate_next(Contig *g) noexcept nogil:
    """G_ISOLATE."""
    if g.isolated == g.nr_blocks:
        g.at = G_DRAIN
        return G_ON
    begin_section(g.call, g.zone, Z_ISOLATE, block_start(g, block_to_isolate(g)), g.cpu)
    g.call.op.flags = g.flags
    g.at = G_ISOLATED
    return G_CALL

cdef inline void isolate_on(Contig *g) noexcept nogil:
    """G_ISOLATED."""
    if g.call.got:
        refuse(g, g.call.got, g.call.op.page)
    else:
        g.isolated += 1
        g.at = G_ISOLATE

cdef inline int unisolate_next(Contig *g) noexcept nogil:
    """G_UNISOLATE."""
    while g.k < g.nr_blocks:
        g.k += 1
        if isolated_before(g, g.k - 1):
            begin_section(g.call, g.zone, Z_UNISOLATE, block_start(g, g.k - 1), g.cpu)
            g.call.op.flags = OP_GONE if g.offline and not g.reason else 0
            return G_CALL
    g.at = G_RANGED
    return G_ON


# -- migration (CT-4) ------------------------------------------------------------------------------------------

cdef inline void cluster_begins(Contig *g, idx i) noexcept nogil:
    g.cluster = i
    g.cluster_end = g.end
    g.i = i
    g.found = 0
    g.refused = 0
    g.tries = 1
    g.at = G_SCAN

cdef inline void cluster_over(Contig *g) noexcept nogil:
    """Once more over the same cluster, on to the next, or to the test."""
    if g.refused and g.tries < TRIES:
        g.tries += 1
        g.refused = 0
        g.i = g.cluster
    elif g.refused or g.cluster_end == g.end:
        g.at = G_TEST
    else:
        cluster_begins(g, g.cluster_end)

cdef inline int target_gfp(Contig *g) noexcept nogil:
    """As alloc_migration_target."""
    return (GFP_LARGE_TARGET if word_order(g.word) else GFP_TARGET) | g.highmem

cdef inline int scan_next(Contig *g) noexcept nogil:
    """G_SCAN. Nothing is locked: what is seen here may be gone in a moment, and CT-5 has the last word."""
    cdef uint32_t word
    cdef idx i
    while g.i < g.cluster_end:
        i = g.i
        word = word_of(g.zone, i)
        g.i += max(1u << word_order(word), 1u << load8(&block_of(g.zone, i).order) if not i & (PB_PAGES - 1) else 0)
        if (word & STATE_MASK) == ALLOC and word & MOVABLE_BIT:
            g.old = i
            g.word = word
            g.found += g.tries == 1
            if g.found == CLUSTER and g.tries == 1:
                g.cluster_end = min(g.i, g.end)
            begin_alloc(g.call, g.node, word_order(word), target_gfp(g), g.cpu)
            g.at = G_TARGET
            return G_CALL
    cluster_over(g)
    return G_ON

cdef inline bint still_held(Contig *g, Zone *z, idx i) noexcept nogil:
    """Is page i, g.old or g.target, an allocation still? What a holder has freed is not freed again."""
    return (word_of(z, i) & HEAD_MASK) == (ALLOC | word_order(g.word) << ORDER_SHIFT)

cdef inline int free_and_on(Contig *g, Zone *z, idx i) noexcept nogil:
    g.at = G_SCAN
    if not still_held(g, z, i):
        return G_ON
    begin_free(g.call, z, i, g.cpu, 0)
    return G_CALL

cdef inline int target_on(Contig *g) noexcept nogil:
    """G_TARGET."""
    if not g.call.page:
        refuse(g, NO_TARGET, g.old)
        return G_ON
    g.target = g.call.page
    g.to = g.node.zones[g.call.where]
    if word_of(g.zone, g.old) != g.word:
        return free_and_on(g, g.to, g.target)
    set_word(g.to, g.target, word_of(g.to, g.target) | MOVABLE_BIT)    # before anybody can have it
    g.at = G_MOVED
    return G_MOVE

cdef inline int moved_on(Contig *g) noexcept nogil:
    """G_MOVED. A page that was moved is this call's to free."""
    cdef int asked
    if g.moved & MOVED:
        g.migrated += 1 << word_order(g.word)
        bump(&g.zone.counts[g.cpu].pages_migrated, 1 << word_order(g.word))
        asked = free_and_on(g, g.zone, g.old)
    else:
        g.refused += 1
        g.refusals += 1
        bump(&g.zone.counts[g.cpu].migrations_refused, 1)
        asked = free_and_on(g, g.to, g.target)
    if g.moved & GIVE_UP:
        refuse(g, BUSY_PINNED, g.old)
    return asked


# -- the test, and the capture (CT-5, CT-6) -----------------------------------------------------------------------

cdef inline int test_next(Contig *g) noexcept nogil:
    """G_TEST."""
    begin_section(g.call, g.zone, Z_TEST, g.start, g.cpu)
    g.call.op.n = <int>(g.end - g.start)
    g.at = G_TESTED
    return G_CALL

cdef inline void test_on(Contig *g) noexcept nogil:
    """G_TESTED. An off-lining tries again."""
    if not g.call.got:
        g.i = g.start
        g.at = G_CAPTURE
    elif g.offline and g.rounds < TRIES:
        g.at = G_DRAIN
    else:
        refuse(g, g.call.got, g.call.op.page)

cdef inline int capture_next(Contig *g) noexcept nogil:
    """G_CAPTURE."""
    if g.i >= g.end:
        g.at = G_HEAD
        return G_ON
    begin_section(g.call, g.zone, Z_CAPTURE, g.i, g.cpu)
    g.call.op.n = <int>(g.end - g.i)
    g.at = G_CAPTURED
    return G_CALL

cdef inline void capture_on(Contig *g) noexcept nogil:
    """G_CAPTURED: single pages from now on; they are nobody else's, so no lock is needed."""
    cdef idx i
    if g.i == g.start:
        g.captured = g.call.op.page
    g.i = g.call.op.page
    while g.i < g.call.op.page + <idx>g.call.op.n:
        i = g.i
        g.i += 1u << word_order(word_of(g.zone, i))
        split_page(g.zone, i)
    g.at = G_CAPTURE

cdef inline int trim_next(Contig *g) noexcept nogil:
    """G_HEAD, G_TAIL: what the chunks had before start, and from end on."""
    cdef idx i = g.captured if g.at == G_HEAD else g.end
    cdef idx end = g.start if g.at == G_HEAD else g.i
    g.at += 1
    if i >= end:
        return G_ON
    begin_free_contig(g.call, g.zone, i, end - i, g.cpu)
    return G_CALL

cdef inline void range_taken(Contig *g) noexcept nogil:
    """G_TAKEN."""
    cdef idx p
    g.k = 0
    g.at = G_UNISOLATE
    if g.offline:                          # CT-11: no memory there any more
        for p in range(g.start, g.end):
            set_word(g.zone, p, HOLE)


# -- one range, and the search for it ---------------------------------------------------------------------------------

cdef inline void range_begins(Contig *g, idx start, idx end) noexcept nogil:
    """CT-1."""
    g.start = start
    g.end = end
    g.nr_blocks = <int>(((end - 1) >> PB) - (start >> PB)) + 1
    g.isolated = 0
    g.rounds = 0
    g.reason = OBTAINED
    g.busy = 0
    g.at = G_ISOLATE

cdef inline int drain_next(Contig *g) noexcept nogil:
    """G_DRAIN: CT-3."""
    begin_drain_zone(g.call, g.zone, g.cpu)
    g.rounds += 1
    g.i = g.start
    g.at = G_CLUSTER
    return G_CALL

cdef inline int range_over(Contig *g) noexcept nogil:
    """G_RANGED: CT-8; a CMA allocation goes on where its range was busy (CT-9)."""
    bump(&g.zone.counts[g.cpu].contig[g.reason], 1)
    g.at = G_END
    if g.area and not g.reason:
        set_claimed(g.zone, g.start, g.count, True)
    elif g.area and g.reason != NO_TARGET:
        g.at = G_SEARCH
    if g.offline:
        if not g.reason:
            managed_changed(g.zone, -<int64_t>(g.end - g.start))
        enable_pcps(g.zone)
    elif not g.reason:
        bump(&g.zone.counts[g.cpu].contig_pages, g.end - g.start)
        g.page = g.start
    return G_RANGE

cdef inline void search(Contig *g) noexcept nogil:
    """G_SEARCH: from the area's start, or from the aligned position after the range that was busy."""
    cdef idx from_ = g.area if not g.end else g.start + (<idx>1 << g.align)
    cdef idx i = clear_run(g.zone, from_, g.area_end, g.count, g.align)
    if i:
        range_begins(g, i, i + <idx>g.count)
    else:
        g.at = G_END
        if not g.reason:
            g.reason = NO_RUN
            bump(&g.zone.counts[g.cpu].contig[NO_RUN], 1)


# -- memory on-line (CT-12) -----------------------------------------------------------------------------------------

cdef inline idx first_memory(Zone *z, idx i, idx end) noexcept nogil:
    """The first page of [i, end) that is no hole; end: all are."""
    while i < end and (word_of(z, i) & STATE_MASK) == HOLE:
        i += 1
    return i

cdef inline int online_next(Contig *g) noexcept nogil:
    """G_ONLINE: B-97, the largest aligned pieces, ascending."""
    cdef idx i = g.i
    cdef int o = largest_aligned(i, g.end)
    if i == g.end:
        managed_changed(g.zone, g.end - g.start)
        g.at = G_END
        return G_ON
    g.i += 1u << o
    set_word(g.zone, i, ALLOC | o << ORDER_SHIFT)
    begin_direct(g.call, g.zone, i, g.cpu)
    return G_CALL


# -- all of it ----------------------------------------------------------------------------------------------------

cdef inline int contig_next(Contig *g) noexcept nogil:
    """What is to be done next: G_CALL, G_MOVE, G_RANGE; G_OVER: nothing any more."""
    cdef int asked = G_ON
    while asked == G_ON:
        if g.at == G_ISOLATE:
            asked = isolate_next(g)
        elif g.at == G_ISOLATED:
            isolate_on(g)
        elif g.at == G_DRAIN:
            asked = drain_next(g)
        elif g.at == G_CLUSTER:
            cluster_begins(g, g.i)
        elif g.at == G_SCAN:
            asked = scan_next(g)
        elif g.at == G_TARGET:
            asked = target_on(g)
        elif g.at == G_MOVED:
            asked = moved_on(g)
        else:
            asked = later_next(g)
    return asked

cdef inline int later_next(Contig *g) noexcept nogil:
    """The states after the migration, and those before it that a range does not begin with."""
    if g.at == G_TEST:
        return test_next(g)
    if g.at == G_CAPTURE:
        return capture_next(g)
    if g.at == G_HEAD or g.at == G_TAIL:
        return trim_next(g)
    if g.at == G_UNISOLATE:
        return unisolate_next(g)
    if g.at == G_RANGED:
        return range_over(g)
    if g.at == G_ONLINE:
        return online_next(g)
    if g.at == G_RELEASE:
        g.at = G_RELEASED
        begin_free_contig(g.call, g.zone, g.start, g.count, g.cpu)
        return G_CALL
    if g.at == G_TESTED:
        test_on(g)
    elif g.at == G_CAPTURED:
        capture_on(g)
    elif g.at == G_TAKEN:
        range_taken(g)
    elif g.at == G_SEARCH:
        search(g)
    elif g.at == G_RELEASED:
        set_claimed(g.zone, g.start, g.count, False)
        g.at = G_END
    else:
        return G_OVER
    return G_ON


cdef inline void begin_contig(Contig *g, Call *call, NodeRef *node, Zone *z, int flags, int cpu) noexcept nogil:
    cdef int k
    g.call = call
    g.node = node
    g.zone = z
    g.cpu = cpu
    g.flags = <uint8_t>(flags | OP_CHECK)
    g.offline = False
    g.migrated = 0
    g.refusals = 0
    g.reason = OBTAINED
    g.busy = 0
    g.area = 0
    g.page = 0
    g.highmem = 0
    for k in range(node.nr if node is not NULL else 0):
        if node.zones[k] == z and node.kinds[k] == ZONE_MOVABLE:
            g.highmem = GFP_HIGHMEM

cdef inline void begin_alloc_contig(
    Contig *g, Call *call, NodeRef *node, Zone *z, idx start, idx end, int flags, int cpu
) noexcept nogil:
    """B-112: pages [start, end). flags: OP_FOR_CMA. Results: reason, busy, migrated, refusals."""
    begin_contig(g, call, node, z, flags, cpu)
    range_begins(g, start, end)

cdef inline void begin_cma_alloc(
    Contig *g, Call *call, NodeRef *node, Zone *z, idx area, idx area_end, int64_t count, int align, int cpu
) noexcept nogil:
    """CT-9. Results: page; reason, 0 if it was found; and as above of the last range."""
    begin_contig(g, call, node, z, OP_FOR_CMA, cpu)
    g.area = area
    g.area_end = area_end
    g.count = count
    g.align = align
    g.start = area
    g.end = 0
    g.at = G_SEARCH

cdef inline void begin_cma_release(Contig *g, Call *call, Zone *z, idx i, int64_t count, int cpu) noexcept nogil:
    """CT-9: pages that cma_alloc handed out."""
    begin_contig(g, call, NULL, z, 0, cpu)
    g.start = i
    g.end = i + <idx>count
    g.count = count
    g.at = G_RELEASE

cdef inline void begin_offline_pages(
    Contig *g, Call *call, NodeRef *node, Zone *z, idx start, idx end, int cpu
) noexcept nogil:
    """CT-11: whole blocks. Results as of alloc_contig."""
    begin_contig(g, call, node, z, 0, cpu)
    g.offline = True
    disable_pcps(z)
    range_begins(g, start, end)

cdef inline void begin_online_pages(Contig *g, Call *call, Zone *z, idx start, idx end, int cpu) noexcept nogil:
    """CT-12: whole blocks of holes."""
    cdef idx p
    begin_contig(g, call, NULL, z, 0, cpu)
    g.start = start
    g.end = end
    for p in range(start, end):
        set_word(z, p, 0)
    g.i = start
    g.at = G_ONLINE
