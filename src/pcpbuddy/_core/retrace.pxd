# Replay against a recording (docs/reference/replay.md): what the rows say, what is under way, what is counted.
#
# Rows come in their recorded order. Those under the zone lock come before the row that tells which
# request they served. So a first pass (retrace_link.pxi) finds that out, some rows ahead, and a second
# one (retrace_rows.pxi) carries the operations through their zone-lock sections in the recorded order.

from libc.stdint cimport int16_t, int32_t, int64_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t

from .node cimport NodeRef
from .op cimport Op
from .page cimport Ring, Told, Zone, idx

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
    V_KSWAPD_WAKE = 31
    V_KSWAPD_SLEEP = 32
    NR_ROW_EVENTS = 40

    FPI_TO_TAIL = 2
    FPI_CONTIG = 8             # a piece of a contiguous range (B-94)
    NOT_THERE = 0xffffffff     # Row.pfn: no page
    NO_FIELD = -0x80000000     # of the 32-bit fields

    DEPTH = 16                 # operations of one CPU under way at once
    LINKS = 8
    PATIENCE = 1 << 16         # rows to wait for the request of a zone-lock section
    TAKES = 4096               # of one section
    DIFFS = 1024               # of each replay that are kept
    RING = 1 << 14             # events: more than any section emits
    LAG = 1 << 18              # rows that a plain recording's are looked at ahead
    HISTORY = 1 << 13          # executed rows that are kept to look back at
    REACH = 1 << 14            # rows to look for the next one of a task
    OBSERVED = 1 << 15         # pages of one drain
    RUN = 1 << 13              # pages of one contiguous free
    ABOVE = 1 << 12            # pages of a list that are explained for one page below them
    EARLY = 1                  # notes of a page: popped before its mm_page_alloc came
    SEEN = 2                   # named by a row that is executed
    POPPED = 4                 # its pcp_alloc row is executed, its mm_page_alloc row is not
    NO_PIECE = -1              # Row.fpi of a plain mm_page_free: not looked at; else its order; or in a later piece
    LATER = -2
    WAITING = 8                # frees past the PCP that are tried on either side of a section
    DRAIN_GAP_NS = 500000000   # more than this between two rows of one drain: they are of two

    FREE_RUN = 0               # Retrace.mode
    GUIDED = 1
    RESYNC = 2

    C_FREE_SLOT = 0            # Under.kind
    C_ALLOC = 1
    C_BULK = 2
    C_DIRECT = 3               # past the PCP: its zone section is still to come, or its mm_page_alloc
    C_FREE = 4
    C_DRAIN = 5

    D_ALLOC = 0                # Diff.kind, Section.kind
    D_REFILL = 1
    D_DRAIN = 2
    D_DRAINED = 3
    D_FIELDS = 4
    D_LIST = 5
    D_FREE = 6
    NR_DIFFS = 7
    NOT_OPEN = -1

    UNEXPLAINED = 0            # causes: R-items by number (baseline section 18.4)
    NR_CAUSES = 12

    FOUND_NOWHERE = 0          # where resync found a recorded page
    FOUND_OWN_PCP = 1
    FOUND_OTHER_PCP = 2
    FOUND_IN_ZONE = 3
    FOUND_ALLOCATED = 4
    NR_FOUND = 5

cdef struct Row:               # recording.rows.ROW
    uint64_t row
    uint64_t next              # serial + 1 of the next row that names the same page
    uint64_t earlier           # plain: serial + 1 of the row that the same task wrote before
    uint64_t later             # and of the next one that is linked
    uint64_t owner             # of the first row of a section: its request's serial + 1; of a request: the section's
    int64_t ts_ns
    uint32_t pfn
    uint32_t gfp
    int32_t pid
    int32_t count
    int32_t high
    int32_t free_count
    int32_t nr
    int32_t aflags
    int32_t boost
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
    int8_t old_type
    int8_t ret
    int8_t isolate
    uint8_t context
    uint8_t done               # zones in which its fold has been done; of section rows: an operation of ours does it

cdef struct Link:              # of one CPU
    uint64_t first[8]          # serials of the sections whose request is not seen yet
    uint32_t pfn[8]            # the last page that each took
    uint32_t head[8]           # and the first
    int8_t order[8]
    int n
    bint running               # the CPU's last row belongs to the section that was opened last
    uint64_t latest            # its serial, and what tells it from the next one
    int64_t latest_task
    int latest_zone
    int latest_order
    uint64_t asked[8]          # serials of requests whose zone section comes after them
    int nr_asked

cdef struct Under:             # an operation that is under way
    Op op
    idx page
    uint8_t kind
    uint8_t action             # the lock action that it waits for
    uint8_t zone               # number in the node
    uint8_t in_gap             # between two holds of a drain, without its PCP lock (B-82)
    uint64_t born
    uint64_t owner             # serial + 1 of its request
    int64_t task               # who does it: see task_of
    uint32_t pfn

cdef struct Section:           # the zone-lock section that was last run in a zone, against its rows
    uint64_t at                # the ring's next event to compare
    uint64_t end
    int kind                   # D_REFILL, D_DRAINED or NOT_OPEN
    int cpu
    bint exact

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

cdef struct Latest:            # an entry of a hash table
    int64_t task
    uint64_t row               # serial + 1 of its last row that is linked; 0: no entry

cdef struct Tally:
    uint64_t seen
    uint64_t exact

cdef struct Retrace:
    NodeRef node
    int cpus
    int mode
    bint folds                 # vmfold rows are recorded
    bint plain                 # standard tracepoints only
    bint compacts              # compaction has been seen at work: it reorders lists unseen (R6)
    uint32_t *map              # recorded page -> own page + 1; 0: not allocated
    uint8_t *notes             # of each page: EARLY, SEEN, POPPED
    uint32_t nr_handles
    Ring ring[5]
    Section section[5]
    Told told[5]
    int64_t drift_mark[5]      # 0: the threshold of the zone's counters never changes (B-16)
    int threshold[5]
    Link *links
    Under *under               # DEPTH of each CPU
    Under **holder             # [zone][cpu]: who holds the PCP lock between rows
    Under **draining           # [cpu]: whose drained pages are expected next
    int nr_waiting             # plain: frees past the PCP whose zone section has not come yet
    char *saved                # a zone as it was before something was tried
    uint64_t saved_size
    uint64_t *next_of          # plain, per page: serial + 1 of the first row naming it that is not executed
    uint64_t *last_of          # of the last row naming it that is linked
    uint64_t *pushed           # of the row that freed it into a PCP
    Latest *latest             # plain: a power of two, at most half of it in use
    uint64_t nr_latest
    uint64_t latest_size
    uint32_t *observed         # pages of the drain that is looked at
    int nr_observed
    int nr_together            # of them, those before another task's row
    int64_t observed_pages
    Row *rows                  # from serial `base` on
    uint64_t base
    uint64_t room
    uint64_t len
    uint64_t linked            # serials below are linked
    uint64_t done              # serials below are executed
    uint64_t born
    int root                   # cause of the latest incident that this run did not follow
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
    uint64_t abandoned         # operations whose further rows never came
    uint64_t unexpected        # rows that no operation here accounts for
    uint64_t halved            # first page + 1 of the chunk that the last block_isolate row split; 0: of none
    uint64_t taken[12]         # inputs from the recording, by R-item
    uint64_t causes[12]        # allocations that differ, by R-item
    uint64_t found[5]          # resyncs, by where the page was
    int64_t parked_max         # pages in PCPs at worst
    uint64_t nr_diffs[7]
    uint64_t nr_kept
    Diff diffs[1024]


cdef inline Row *row_at(Retrace *r, uint64_t serial) noexcept nogil:
    return &r.rows[serial - r.base]

cdef inline Zone *zone_nr(Retrace *r, int k) noexcept nogil:
    return r.node.zones[k]

cdef inline bint past_pcp(int o) noexcept nogil:
    """B-11: orders that no PCP serves."""
    return o > 3 and o != 9

cdef inline bint is_section_row(Row *row) noexcept nogil:
    """Of a section that takes pages from the zone."""
    return row.event in (V_ZONE_LOCKED, V_EXTFRAG, V_CLAIM, V_SET_BLOCK, V_MOVE_BLOCK)
