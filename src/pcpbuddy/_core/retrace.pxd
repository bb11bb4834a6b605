# Replay against a recording (docs/reference/replay.md): what the rows say, what is under way, what is counted.
#
# Rows come in their recorded order. Those under the zone lock come before the row that tells
# which request they served, so a first pass (link) finds that out, some rows ahead, and a second
# one (retrace.pxi) carries the operations through their zone-lock sections in the recorded order.

from libc.stdint cimport int16_t, int32_t, int64_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t

from .node cimport NodeRef
from .op cimport Op
from .page cimport Event, Ring, Told, Zone, idx

cdef enum:  # Row.event: recording.files.EVENT_ORDER
    V_ALLOC = 0
    V_FREE = 1
    V_FREE_BATCHED = 2
    V_ZONE_LOCKED = 3
    V_PCPU_DRAIN = 4
    V_EXTFRAG = 5
    V_PCP_ALLOC = 6
    V_PCP_BULK = 7
    V_TRYFAIL = 8
    V_PCP_FREE = 9
    V_BULK_FREE = 10
    V_FREE_ONE = 11
    V_BUDDY_FREE = 12
    V_CLAIM = 13
    V_SET_BLOCK = 14
    V_MOVE_BLOCK = 15
    V_UNRESERVE = 16
    V_ISOLATE = 17
    V_PUTBACK = 18
    V_BLOCK_ISOLATE = 19
    V_TAKE_BUDDY = 20
    V_DECAY = 21
    V_VMFOLD = 22
    V_DRAIN_ZONE = 23
    V_DRAIN_ZONE_PAGES = 24
    V_SPLIT = 25

    FPI_TO_TAIL = 2
    NOT_THERE = 0xffffffff     # Row.pfn: no page
    NO_FIELD = -0x80000000     # of the 32-bit fields

    DEPTH = 16                 # operations of one CPU under way at once
    LINKS = 8
    PATIENCE = 1 << 16         # rows to wait for the request of a zone-lock section

    C_FREE_SLOT = 0            # Under.kind
    C_ALLOC = 1
    C_BULK = 2
    C_DIRECT = 3               # past the PCP: its zone section is still to come, or its mm_page_alloc
    C_FREE = 4
    C_DRAIN = 5

    D_ALLOC = 0                # Diff.kind
    D_REFILL = 1
    D_DRAIN = 2
    D_DRAINED = 3
    D_FIELDS = 4
    D_LIST = 5
    D_FREE = 6
    NR_DIFFS = 7
    DIFFS = 1024               # of each replay that are kept
    TAKES = 4096               # of one section

    FREE_RUN = 0               # Retrace.mode
    GUIDED = 1
    RESYNC = 2

cdef struct Row:               # recording.rows.ROW
    uint64_t row
    uint64_t owner             # of the first row of a section: its request's serial + 1; of a request: the section's
    uint32_t pfn
    uint32_t gfp
    int32_t pid
    int32_t count
    int32_t high
    int32_t free_count
    int32_t nr
    int32_t aflags
    uint16_t cpu
    int16_t pcp_cpu
    uint8_t event
    int8_t order
    int8_t type
    int8_t zone
    int8_t pcp_flags
    int8_t alloc_factor
    int8_t zone_flags
    int8_t fpi
    int8_t pindex
    int8_t fallback_order
    int8_t fallback_type
    int8_t change_ownership
    int8_t percpu_refill
    int8_t block_flags
    int8_t ret
    int8_t isolate
    uint8_t context
    uint8_t done               # zones in which its fold has been done already

cdef struct Link:              # of one CPU
    uint64_t first[8]          # serials of the sections whose request is not seen yet
    uint32_t pfn[8]            # the last page that each took
    int8_t order[8]
    int n
    bint running               # the CPU's last row belongs to the section on top
    uint64_t asked             # serial + 1 of a request whose zone section comes after it

cdef struct Under:             # an operation that is under way
    Op op
    idx page
    uint8_t kind
    uint8_t action             # the lock action that it waits for
    uint8_t zone               # number in the node
    uint8_t in_gap
    uint64_t born
    uint64_t owner             # serial + 1 of its request
    uint32_t pfn
    int32_t pid

cdef struct Section:           # the zone-lock section that was last run in a zone, against its rows
    uint64_t at                # the ring's next event to compare
    uint64_t end
    int kind                   # D_REFILL, D_DRAINED, or -1: nothing open
    int cpu
    bint exact
    uint64_t row

cdef struct Diff:
    uint64_t row
    uint32_t predicted
    uint32_t recorded
    uint16_t cpu
    uint8_t kind
    uint8_t order
    int8_t type
    uint8_t zone
    uint8_t event
    uint8_t cause

cdef struct Tally:
    uint64_t seen
    uint64_t exact

cdef struct Retrace:
    NodeRef node
    int cpus
    int mode
    bint folds                 # vmfold rows are recorded
    uint32_t *map              # recorded page -> own page + 1; 0: not allocated
    uint32_t nr_handles
    Ring ring[5]
    Section section[5]
    Told told[5]
    Link *links
    Under *under               # DEPTH of each CPU
    Under **holder             # [zone][cpu]: who holds the PCP lock between rows
    Under **draining           # [cpu]: whose drained pages are expected next
    Row *rows                  # from serial `base` on
    uint64_t base
    uint64_t room
    uint64_t len
    uint64_t linked            # serials below are linked
    uint64_t done              # serials below are executed
    uint64_t born
    Tally by_order[11]
    Tally by_type[3]
    Tally *by_cpu
    Tally allocs
    Tally refills
    Tally drains
    Tally drained
    Tally fields
    uint64_t frees
    uint64_t frees_unknown
    uint64_t frees_unseen
    uint64_t abandoned         # operations whose rows never came
    uint64_t outside[64]       # rows by event that had an effect from outside
    uint64_t zone_flags_taken
    uint64_t relocks_failed
    uint64_t trylocks_failed
    uint64_t assumed
    uint64_t unexpected[32]
    uint64_t nr_diffs[7]
    uint64_t nr_kept
    Diff diffs[1024]


# -- linking: which request does a zone-lock section serve? ---------------------------------------------------

cdef inline Row *row_at(Retrace *r, uint64_t serial) noexcept nogil:
    return &r.rows[serial - r.base]

cdef inline bint past_pcp(int o) noexcept nogil:
    """B-11: orders that no PCP serves."""
    return o > 3 and o != 9

cdef inline void own(Retrace *r, uint64_t first, uint64_t request) noexcept nogil:
    row_at(r, first).owner = request + 1
    row_at(r, request).owner = first + 1

cdef inline void drop_link(Link *link, int k) noexcept nogil:
    link.n -= 1
    for k in range(k, link.n):
        link.first[k] = link.first[k + 1]
        link.pfn[k] = link.pfn[k + 1]
        link.order[k] = link.order[k + 1]

cdef inline void open_link(Retrace *r, Link *link, uint64_t serial) noexcept nogil:
    if link.asked:                         # its request is known
        own(r, serial, link.asked - 1)
        link.asked = 0
    if link.n == LINKS:
        drop_link(link, 0)
    link.first[link.n] = serial
    link.pfn[link.n] = NOT_THERE
    link.order[link.n] = -1
    link.n += 1
    link.running = True

cdef inline bint close_direct(Retrace *r, Link *link, Row *row, uint64_t serial) noexcept nogil:
    """An mm_page_alloc: of a section past the PCP that took this page?"""
    cdef int k = link.n - 1
    while k >= 0:
        if link.pfn[k] == row.pfn and link.order[k] == row.order:
            if not row_at(r, link.first[k]).owner:
                own(r, link.first[k], serial)
            drop_link(link, k)
            return True
        k -= 1
    return False

cdef inline void close_refill(Retrace *r, Link *link, uint64_t serial) noexcept nogil:
    """A pop: what the CPU took last from the zone, and has not been accounted for, was its refill."""
    cdef int k = link.n - 1
    while k >= 0:
        if not past_pcp(link.order[k]) and not row_at(r, link.first[k]).owner:
            own(r, link.first[k], serial)
            drop_link(link, k)
            return
        k -= 1

cdef inline void link_row(Retrace *r, uint64_t serial) noexcept nogil:
    cdef Row *row = row_at(r, serial)
    cdef Link *link = &r.links[row.cpu]
    cdef int c
    if row.event in (V_ZONE_LOCKED, V_EXTFRAG, V_CLAIM):
        if not link.running:
            open_link(r, link, serial)
        if row.event != V_CLAIM:
            link.pfn[link.n - 1] = row.pfn
        link.order[link.n - 1] = row.order
        return
    if link.running and row.event in (V_SET_BLOCK, V_MOVE_BLOCK):
        return
    link.running = False
    if row.event == V_PCP_ALLOC or row.event == V_PCP_BULK:
        close_refill(r, link, serial)
        link.asked = serial + 1 if row.pfn == NOT_THERE else 0
    elif row.event == V_TRYFAIL:
        link.asked = serial + 1
    elif row.event == V_ALLOC:
        link.asked = 0
        if row.pfn != NOT_THERE and not close_direct(r, link, row, serial) and past_pcp(row.order):
            for c in range(r.cpus):        # its task moved in between (R3)
                if close_direct(r, &r.links[c], row, serial):
                    break

cdef inline uint64_t first_open(Retrace *r) noexcept nogil:
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
    return first
