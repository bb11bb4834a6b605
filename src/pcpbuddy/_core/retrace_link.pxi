# First pass over the rows: which request does each zone-lock section serve, and what came of its takes?
# Included by core.pyx. Rows of one section are neighbours on their CPU, for interrupts are off.

from libc.stdint cimport int32_t, int8_t
from libc.string cimport memcpy, memmove
from .alloc cimport hand_out
from .buddy cimport account, first, insert, is_free_chunk, merge_free, move_block, remove, split_free
from .events cimport E_EXTFRAG, E_PCPU_DRAIN, E_ZONE_LOCKED
from .isolation cimport isolate_block as isolate_section, take_free, unisolate_block
from .node cimport ZONE_MOVABLE, ZONE_NORMAL, fast_flags, gfp_zone, preferred
from .op cimport (
    A_REFILL, A_RESERVE, A_SERVED, A_TRIED, B_REFILL, B_TRIED, D_HOLD, F_DIRECTING, F_DRAINING, LOCK_PCP, LOCK_ZONE,
    TRY_PCP, UNLOCK_PCP, UNLOCK_ZONE,
)
from .page cimport BELOW_HIGH, HEAD_MASK, HIGHATOMIC, SCALE_MAX, STRADDLES, USE_HIGHATOMIC, Told, block_of, block_type
from .pcp cimport clamp, free_amount, list_at, list_index, list_type, pcp_del, pcp_order, refill_size, take_away
from .request cimport decay_high
from .retrace cimport (
    ABOVE, C_ALLOC, C_BULK, C_DIRECT, C_DRAIN, C_FREE, C_FREE_SLOT, DEPTH, DIFFS, DRAIN_GAP_NS, D_ALLOC, D_DRAIN,
    D_DRAINED, D_FIELDS, D_FREE, D_LIST, D_REFILL, EARLY, FOUND_ALLOCATED, FOUND_IN_ZONE, FOUND_NOWHERE,
    FOUND_OTHER_PCP, FOUND_OWN_PCP, FPI_CONTIG, FPI_TO_TAIL, FREE_RUN, HISTORY, LAG, LATER, LINKS, NOT_OPEN, NOT_THERE,
    NO_FIELD, NO_PIECE, NR_CAUSES, NR_DIFFS, NR_FOUND, OBSERVED, PATIENCE, POPPED, REACH, RESYNC, RING, RUN, SEEN,
    TAKES, UNEXPLAINED, V_ALLOC, V_BLOCK_ISOLATE, V_BUDDY_FREE, V_BULK_FREE, V_CLAIM, V_DECAY, V_DRAIN_ZONE,
    V_DRAIN_ZONE_PAGES, V_EXTFRAG, V_FREE, V_FREE_BATCHED, V_FREE_ONE, V_ISOLATE, V_KSWAPD_SLEEP, V_KSWAPD_WAKE,
    V_MOVE_BLOCK, V_PCPU_DRAIN, V_PCP_ALLOC, V_PCP_BULK, V_PCP_FREE, V_PUTBACK, V_SET_BLOCK, V_TRYFAIL, V_VMFOLD,
    V_ZONE_LOCKED, WAITING, Diff, Latest, Link, Retrace, Row, Section, Tally, Under, is_section_row, past_pcp, row_at,
    zone_nr,
)
from .watermark cimport leave_below_high, watermark_fast


cdef inline void own(Retrace *r, uint64_t first, uint64_t request) noexcept nogil:
    row_at(r, first).owner = request + 1
    row_at(r, request).owner = first + 1

cdef void drop_link(Link *link, int at) noexcept nogil:
    cdef int k
    link.n -= 1
    for k in range(at, link.n):
        link.first[k] = link.first[k + 1]
        link.pfn[k] = link.pfn[k + 1]
        link.head[k] = link.head[k + 1]
        link.order[k] = link.order[k + 1]

cdef inline bint same_task(Row *one, Row *other) noexcept nogil:
    """As far as rows tell: a probe that is a breakpoint shows an NMI's context."""
    if one.pid == NO_FIELD or (one.context | other.context) & 0x40:
        return one.pid == other.pid
    return task_of(one) == task_of(other)

cdef void drop_asked(Link *link, int at) noexcept nogil:
    cdef int k
    link.nr_asked -= 1
    for k in range(at, link.nr_asked):
        link.asked[k] = link.asked[k + 1]

cdef void add_asked(Retrace *r, Link *link, uint64_t serial) noexcept nogil:
    if link.nr_asked == LINKS:
        drop_asked(link, 0)
    link.asked[link.nr_asked] = serial
    link.nr_asked += 1

cdef void end_asked(Retrace *r, Link *link, Row *row) noexcept nogil:
    """The same task asks for something else, or has got what it asked for."""
    cdef int k = link.nr_asked - 1
    while k >= 0:
        if same_task(row_at(r, link.asked[k]), row):
            drop_asked(link, k)
        k -= 1

cdef void open_link(Retrace *r, Link *link, uint64_t serial) noexcept nogil:
    cdef Row *row = row_at(r, serial)
    cdef int k = link.nr_asked - 1
    while k >= 0:                          # its request came first: a failed trylock, or an empty PCP
        if row_at(r, link.asked[k]).order == row.order and same_task(row_at(r, link.asked[k]), row):
            own(r, serial, link.asked[k])
            drop_asked(link, k)
            break
        k -= 1
    row_at(r, serial).done = True          # the first of its section
    if link.n == LINKS:
        drop_link(link, 0)
    link.first[link.n] = serial
    link.pfn[link.n] = NOT_THERE
    link.head[link.n] = NOT_THERE
    link.order[link.n] = row.order
    link.n += 1
    link.running = True
    link.latest = serial
    link.latest_task = task_of(row)
    link.latest_zone = node_zone_of(&r.node, row.pfn)
    link.latest_order = row.order

cdef bint close_direct(Retrace *r, Link *link, Row *row, uint64_t serial) noexcept nogil:
    """An mm_page_alloc: of a section that took this page past the PCP; in a plain recording, as first of a refill?"""
    cdef int k = link.n - 1
    while k >= 0:
        if (link.head[k] if r.plain else link.pfn[k]) == row.pfn and link.order[k] == row.order:
            if not row_at(r, link.first[k]).owner:
                own(r, link.first[k], serial)
            drop_link(link, k)
            return True
        k -= 1
    return False

cdef void close_refill(Retrace *r, Link *link, uint64_t serial) noexcept nogil:
    """A pop: what its CPU took last from the zone, and has not been accounted for, was its refill."""
    cdef int k = link.n - 1
    cdef int zone = zone_of_row(r, row_at(r, serial))
    cdef int order = row_at(r, serial).order
    while k >= 0:
        if (
            link.order[k] == order and not row_at(r, link.first[k]).owner
            and node_zone_of(&r.node, row_at(r, link.first[k]).pfn) == zone
        ):
            own(r, link.first[k], serial)
            drop_link(link, k)
            return
        k -= 1

cdef void chain(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    """Plain: rows that name one page follow each other; a batched free gets its order from the free before (17.6)."""
    cdef uint64_t before = r.last_of[row.pfn]
    cdef Row *free
    row.next = 0
    row.fpi = NO_PIECE                     # a note of ours: see cut_run
    if before > r.done:
        free = row_at(r, before - 1)
        free.next = serial + 1
        if row.event == V_FREE_BATCHED and free.event == V_FREE:
            free.done = True
            row.order = free.order
    else:
        r.next_of[row.pfn] = serial + 1
    r.last_of[row.pfn] = serial + 1
    if row.event == V_FREE_BATCHED and row.order < 0:
        row.order = 0

cdef Latest *latest_of(Latest *table, uint64_t size, int64_t task) noexcept nogil:
    """The task's entry, or the free one where it is to be."""
    cdef uint64_t at = (<uint64_t>task * <uint64_t>2654435761) & (size - 1)
    while table[at].row and table[at].task != task:
        at = (at + 1) & (size - 1)
    return &table[at]

cdef void chain_task(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    """Plain: the rows of one task follow each other."""
    cdef Latest *latest = latest_of(r.latest, r.latest_size, task_of(row))
    if not latest.row:
        latest.task = task_of(row)
        r.nr_latest += 1
    row.earlier = latest.row
    row.later = 0
    if latest.row > r.base:
        row_at(r, latest.row - 1).later = serial + 1
    latest.row = serial + 1

cdef inline bint goes_on(Retrace *r, Link *link, Row *row) noexcept nogil:
    """Does the section that was opened last go on with this row? Not one of another task, zone or order."""
    return (
        link.running and link.latest_order == row.order and link.latest_task == task_of(row)
        and link.latest_zone == node_zone_of(&r.node, row.pfn)
    )

cdef void link_row(Retrace *r, uint64_t serial) noexcept nogil:
    cdef Row *row = row_at(r, serial)
    cdef Link *link = &r.links[row.cpu]
    cdef int c
    if r.plain:
        chain_task(r, row, serial)
        if row.event <= V_EXTFRAG and row.pfn != NOT_THERE:
            chain(r, row, serial)
    if row.event in (V_ZONE_LOCKED, V_EXTFRAG, V_CLAIM):
        if not goes_on(r, link, row):
            open_link(r, link, serial)
        if row.event != V_CLAIM and link.n and link.first[link.n - 1] == link.latest:
            link.pfn[link.n - 1] = row.pfn
            if link.head[link.n - 1] == NOT_THERE:
                link.head[link.n - 1] = row.pfn
        return
    if link.running and row.event == V_SET_BLOCK and row.block_flags & 7 != HIGHATOMIC:
        row.done = True                    # of a claim; a reserve is done where its rows are (B-70)
        return
    link.running = False
    if row.event == V_PCP_ALLOC or row.event == V_PCP_BULK:
        close_refill(r, link, serial)
        end_asked(r, link, row)
        if row.pfn == NOT_THERE:
            add_asked(r, link, serial)
    elif row.event == V_TRYFAIL:
        end_asked(r, link, row)
        add_asked(r, link, serial)
    elif row.event == V_ALLOC:
        end_asked(r, link, row)
        if row.pfn != NOT_THERE and not close_direct(r, link, row, serial) and (r.plain or past_pcp(row.order)):
            for c in range(r.cpus):        # its task moved in between (R3)
                if close_direct(r, &r.links[c], row, serial):
                    break

cdef uint64_t first_open(Retrace *r) noexcept nogil:
    """The serial of the first section whose request is not known; those out of patience are given up."""
    cdef uint64_t first = r.linked
    cdef int c
    cdef int k
    cdef Link *link
    for c in range(r.cpus):
        link = &r.links[c]
        while link.n and (row_at(r, link.first[0]).owner or link.first[0] + PATIENCE < r.linked):
            drop_link(link, 0)
        for k in range(link.n):
            if not row_at(r, link.first[k]).owner and link.first[k] < first:
                first = link.first[k]
        while link.nr_asked and link.asked[0] + PATIENCE < r.linked:
            drop_asked(link, 0)
        if link.nr_asked and link.asked[0] < first:
            first = link.asked[0]
    return first


# -- what a section's own rows say beforehand --------------------------------------------------------------------

cdef inline void foresee_take(Told *told, Row *row, uint32_t *last) noexcept nogil:
    """One row of a section that takes pages: 17.4 says how many rows a take has."""
    cdef int k = told.nr_outcomes
    if row.event == V_EXTFRAG and last[0] == row.pfn and k:
        told.claimed[k - 1] = row.fallback_order
        return
    if k == TAKES or (row.event != V_ZONE_LOCKED and row.event != V_EXTFRAG):
        return
    last[0] = row.pfn
    told.from_cma[k] = row.event == V_ZONE_LOCKED and row.type == CMA
    told.claimed[k] = row.fallback_order if row.event == V_EXTFRAG and row.change_ownership > 0 else -1
    told.pfn[k] = row.pfn
    told.nr_outcomes = k + 1

cdef inline bint folds_in(Retrace *r, Row *row, int zone) noexcept nogil:
    """Does this row fold its CPU's counters of the zone?"""
    if row.event == V_VMFOLD:
        return r.folds
    return row.event == V_DECAY and not r.folds and row.zone == zone_nr(r, zone).s.zone_index

cdef void take_boost(Retrace *r, int zone, int boost) noexcept nogil:
    """What kswapd has left of a boost is in no row but that of the next claim (R8)."""
    if zone_nr(r, zone).s.watermark_boost != boost:
        zone_nr(r, zone).s.watermark_boost = boost
        r.taken[8] += 1

cdef void foresee(Retrace *r, int zone, uint64_t serial) noexcept nogil:
    """
    The section whose first row this is: which folds of other CPUs fall between its takes, and what came of each take.

    A fold needs no lock (B-17), so it is the one thing that others do to a zone while its lock is held.
    """
    cdef Told *told = &r.told[zone]
    cdef int cpu = row_at(r, serial).cpu
    cdef uint32_t last = NOT_THERE
    cdef bint claims = False
    cdef uint64_t limit = min(r.linked, serial + REACH)
    cdef uint64_t end = serial             # behind its last row: folds further on are done where they are
    cdef uint64_t k
    cdef Row *row
    told.nr_takes = 0
    told.nr_folds = 0
    told.folded = 0
    told.nr_outcomes = 0
    for k in range(serial, limit):
        row = row_at(r, k)
        if row.cpu == cpu:
            if not is_section_row(row) or (k > serial and row.done and row.event != V_SET_BLOCK):
                break
            end = k + 1
    while serial < end:
        row = row_at(r, serial)
        if row.cpu == cpu:
            if row.event == V_CLAIM and not claims and row.boost >= 0:
                take_boost(r, zone, row.boost)
            claims = claims or row.event == V_CLAIM
            foresee_take(told, row, &last)
        elif folds_in(r, row, zone) and told.nr_folds < 16:
            told.fold_take[told.nr_folds] = told.nr_outcomes
            told.fold_cpu[told.nr_folds] = row.pcp_cpu if row.pcp_cpu >= 0 else row.cpu
            told.nr_folds += 1
            row.done |= 1 << zone
        serial += 1

cdef void end_told(Retrace *r, int zone) noexcept nogil:
    """After a section: folds that came after the last take; decisions that differ count as taken, or as causes."""
    cdef Told *told = &r.told[zone]
    zone_nr(r, zone).told = NULL
    while told.folded < told.nr_folds:
        fold(zone_nr(r, zone), told.fold_cpu[told.folded], True)
        told.folded += 1
    incident(r, 10, told.cma_differs)
    incident(r, 9, told.claims_differ)
    incident(r, 6, told.rotated)
    told.cma_differs = 0
    told.claims_differ = 0
    told.rotated = 0

cdef inline void incident(Retrace *r, int item, uint64_t n) noexcept nogil:
    """The recording decided n times otherwise than we can know. Followed, it is taken; not followed, it is a cause."""
    if n == 0:
        return
    if r.mode == FREE_RUN:
        r.root = item
    else:
        r.taken[item] += n
