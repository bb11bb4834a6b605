# The state of a zone: page descriptors, pageblock records, per-CPU pagesets.
#
# All of it lies in one block of memory with 32-bit indices for links, so that it works
# at any address and can be copied, shared and compared byte for byte. Zero-filled means
# untouched; dead fields are zeroed.
#
#   ZoneState | Pcp[cpus] | Remote[cpus] | Counts[cpus] | Outbox[cpus][..] | Block[heads + blocks] | Page[first + pages]
#   | a bit per page: handed out by cma_alloc
#
# The page array begins with the heads of all lists of smaller chunks ("first" entries,
# a multiple of 1024), so every list is circular, and unlinking needs no branch. A page
# index i therefore keeps the alignment of its pfn: buddy = i ^ (1 << order), and its
# pageblock is number i >> 9. The block array begins with the heads of the lists of
# chunks of a pageblock and more, and of each CPU's owned blocks.

from libc.stdint cimport int32_t, int64_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t

from .atomic cimport load32, load8, loadi32, store32, store8, storei32
from .cache cimport WATCHED, Caches, touch

ctypedef uint32_t idx  # of a page or list head; 0 is none

cdef enum:
    MAX_ORDER = 10
    NR_ORDERS = 11
    PB = 9                 # pageblock order
    PB_PAGES = 512
    COSTLY = 3
    SCALE_MAX = 5          # PCP_BATCH_SCALE_MAX
    NR_TYPES = 6
    NR_LISTS = 30
    CPU_HEADS = 64         # page index of CPU 0's first list head
    HEADS_PER_CPU = 32     # 30 lists, padded: a CPU's heads share no cache line with another's
    BLOCK_HEADS = 12       # block lists: orders 9 and 10 of six types; then those of each CPU
    OWNED_HEADS = 5        # owned_blocks of a CPU: one list (the first head), or one per stored type

    UNMOVABLE = 0
    MOVABLE = 1
    RECLAIMABLE = 2
    HIGHATOMIC = 3
    CMA = 4
    ISOLATE = 5
    UNKNOWN = 7

    # Page word: state, order, type, mark, movable, cpu.
    INTERIOR = 0           # of any chunk, or untouched
    BUDDY = 1              # head of a chunk on a zone list
    PCP = 2                # head of an entry on a per-CPU list
    REMOTE = 3             # on a remote list, in an outbox, or a reject of either (P-46)
    DEFERRED = 4           # on the stack of B-92
    ALLOC = 5              # head of an allocation
    HOLE = 6
    STATE_MASK = 7
    ORDER_SHIFT = 3
    TYPE_SHIFT = 7
    MARK = 1 << 10         # PCPBuddy (P-4)
    MOVABLE_BIT = 1 << 11  # lru or movable_ops, of the whole allocation
    CPU_SHIFT = 12
    HEAD_MASK = 0x7f       # state and order
    BUDDY_MASK = ~0x380    # what two PCP buddies must share: all but the type

    # Block flags.
    LINKED = 1
    STRADDLES = 2          # not fully inside the zone

    # Zone counters (B-15).
    NR_FREE = 0
    NR_FREE_CMA = 1
    NR_FREE_BLOCKS = 2
    NR_STATS = 3

    BOOSTED_WATERMARK = 1
    RECLAIM_ACTIVE = 2
    BELOW_HIGH = 4
    PREV_FREE_HIGH_ORDER = 1
    FREE_HIGH_BATCH = 2

    # Allocation flags (1.13).
    WMARK_MIN = 0
    WMARK_LOW = 1
    WMARK_PROMO = 3
    NO_WATERMARKS = 0x4
    OOM = 0x8
    NON_BLOCK = 0x10
    MIN_RESERVE = 0x20
    USE_CMA = 0x80
    NOFRAGMENT = 0x100
    USE_HIGHATOMIC = 0x200
    NOLOCK = 0x400
    KSWAPD = 0x800
    RESERVES = 0x238

    # Values of switches: positions in config.SWITCHES.
    REMOTE_TRYLOCK = 0
    REMOTE_BLOCK = 1
    REMOTE_LLIST = 2
    REMOTE_HANDOVER = 3
    REMOTE_LOCAL = 4
    MARK_ALL = 1
    CAP_HIGH = 1
    PREFER_UNMARKED = 1
    HOLD_PER_PHASE = 1
    DRAIN_BY_OWNER = 1
    DRAIN_BY_VISITOR = 2
    PRESSURE_LOCAL = 1
    CMA_FIXED = 0
    CMA_AS_POSTED = 1
    CMA_BALANCED = 2
    CMA_RULE = 3
    GATE_FIT = 0
    GATE_ALWAYS = 1
    GATE_NEVER = 2
    GATE_MIN = 3
    GATE_PLENTY = 4
    SOURCE_OWN_TYPE = 1
    PHASE3_REST = 0
    MERGE_DRAIN = 0
    MERGE_FREE = 1
    MERGE_TAIL = 3
    DRAIN_LARGEST_FIT = 0
    DRAIN_INDEX = 1
    DRAIN_SMALLEST = 2
    DRAIN_NEAR = 3
    OVERSHOOT_STOP = 1
    OVERSHOOT_SPLIT = 2
    OWNED_HEAD = 1
    OWNED_PER_TYPE = 1
    RETYPE_KEEP = 1
    GROWTH_PAGES = 1
    OFF = 1                # of switches whose default is on
    ON = 1                 # of switches whose default is off

    # Zone-lock holds by kind.
    H_REFILL = 0
    H_DIRECT_ALLOC = 1
    H_DIRECT_FREE = 2
    H_DRAIN = 3
    H_OTHER = 4


cdef struct Page:              # 12 bytes
    uint32_t next
    uint32_t prev
    uint32_t word              # guarded by the lock of the list it is on; read without it

cdef struct Block:             # one cache line holds two
    uint32_t next              # zone list, when a free chunk of order >= 9 starts here
    uint32_t prev
    uint32_t own_next          # owned_blocks of the owner (zone lock)
    uint32_t own_prev
    uint16_t owner             # CPU + 1; 0 nobody. Written under the zone lock, read without
    uint8_t type               # stored type, 0..4
    uint8_t eff                # effective type: ISOLATE while isolated
    uint8_t order              # 9 or 10 when a free chunk starts here
    uint8_t flags
    uint8_t pad[10]

cdef struct Policy:            # what each is read for: docs/reference/core.md
    uint8_t remote
    uint8_t mark
    uint8_t pcp_lists
    uint8_t phase0_cap
    uint8_t take_prefer
    uint8_t refill_hold
    uint8_t drain_by
    uint8_t pressure
    uint8_t cma
    uint8_t gate
    uint8_t phase0
    uint8_t phase2
    uint8_t phase1_source
    uint8_t phase2_max
    uint8_t phase3
    uint8_t merge
    uint8_t drain
    uint8_t drain_overshoot
    uint8_t owned_order
    uint8_t owned_lists
    uint8_t retype
    uint8_t adopt
    uint8_t adopt_min_order
    uint8_t high_growth
    uint8_t local_split
    uint8_t batch_sort
    uint8_t owns               # any block can have an owner
    uint8_t plain              # nothing of it concerns the short cuts of the driver
    uint16_t pcp_orders        # a bit per order that the PCP serves
    int32_t remote_bound       # pages; 0: high_max of the target
    int32_t handover_batch
    int32_t handover_targets   # outboxes per CPU; 0 unless remote=handover

cdef struct Pcp:               # two cache lines
    uint32_t lock              # guards this line
    int32_t count              # pages on all lists
    int32_t high
    int32_t free_count
    uint8_t flags
    uint8_t alloc_factor
    uint8_t expire
    uint8_t remote_node
    int8_t diff[3]             # zone counters not yet folded (B-15)
    uint8_t pad[41]
    int32_t high_min           # from here on: seldom written, but read by whoever frees this CPU's pages
    int32_t high_max
    int32_t batch
    uint8_t online
    uint8_t pad_online[51]

cdef struct Remote:            # atomics, written by others (P-46); two cache lines
    uint32_t head              # pages that others freed, the latest first, through Page.next; REMOTE
    uint8_t pad[60]            # its CPU looks at head with each allocation; others count each page
    int32_t pending            # pages on that list, and in outboxes for this CPU
    uint8_t pad_pending[60]

cdef struct Outbox:            # guarded by its CPU's PCP lock (P-46b)
    uint32_t newest            # REMOTE pages, through Page.next; 0: the outbox is not in use
    uint32_t oldest
    int32_t pages
    uint32_t target

cdef struct Counts:            # written by their CPU only
    uint64_t allocs
    uint64_t allocs_failed
    uint64_t allocs_locked     # served, but the zone lock was taken for it
    uint64_t pages_allocated
    uint64_t pages_freed
    uint64_t holds[5]
    uint64_t list_ops
    uint64_t moves
    uint64_t pages_moved
    uint64_t zone_merges
    uint64_t pcp_merges
    uint64_t zone_splits
    uint64_t pcp_splits
    uint64_t refills
    uint64_t phase_pages[4]
    uint64_t frees_local
    uint64_t frees_remote
    uint64_t frees_direct
    uint64_t frees_failed_trylock
    uint64_t cma_pages
    uint64_t movable_pages
    uint64_t movable_cma_pages
    uint64_t walks
    uint64_t walked_blocks
    uint64_t skipped_blocks
    uint64_t scanned_pfns
    uint64_t merge_visited
    uint64_t drained_entries
    uint64_t drained_pages
    uint64_t remote_pushes
    uint64_t remote_over_bound
    uint64_t absorbs
    uint64_t absorbed_pages
    uint64_t cma_by_phase[16]  # [phase][the 50 % rule said CMA][page is CMA]
    uint64_t contig[13]        # contiguous ranges tried, by what came of it: isolation.pxd
    uint64_t contig_pages
    uint64_t pages_migrated
    uint64_t migrations_refused
    uint64_t walk_lengths[64]

cdef struct ZoneState:
    # What every call reads and few write.
    uint64_t size              # bytes of all of it
    int64_t start_pfn
    int64_t spanned
    int64_t managed
    int64_t base_pfn           # start_pfn rounded down to a chunk of the largest order
    int64_t watermark[4]       # min, low, high, promo; without the boost
    int64_t lowmem_reserve[5]
    int64_t cma_pages          # pages in CMA blocks
    int64_t tick_ns            # pool: when the next tick is due
    int32_t stat_threshold
    int32_t cpus
    int32_t zone_index
    int32_t pageset[3]         # cached high_min, high_max, batch (B-13)
    int32_t boost_factor
    uint32_t flags
    uint32_t first             # index of base_pfn's page
    uint32_t nr_pages          # entries of the page array
    uint32_t nr_blocks         # pageblocks from base_pfn
    int32_t block_bias         # block record of page i: (i >> 9) + block_bias
    uint32_t broken            # who died with a lock in its hands (lock.pxd); 0: nobody
    uint8_t auto_sizing
    uint8_t auto_threshold
    uint8_t auto_watermark
    uint8_t pcp_disabled       # B-106: memory goes off-line
    Policy policy
    uint8_t pad[64]            # no line of the above is one of the below
    # What whoever has the zone lock writes, and the lock.
    uint32_t lock
    int32_t nr_isolate_pageblock
    uint32_t deferred          # B-92 stack, singly linked through next
    int64_t stat[3]
    int64_t watermark_boost
    int64_t nr_free[11]        # chunks per order, all types
    int64_t zone_pages         # pages on zone lists, all types, exact
    int64_t nr_reserved_highatomic
    int64_t nr_free_highatomic

cdef struct Event:             # 24 bytes
    uint32_t pfn
    uint32_t other             # remote_fail: the target CPU
    uint16_t cpu
    uint8_t kind               # index into names.EVENT_NAMES
    uint8_t order
    uint8_t type
    uint8_t order2
    uint8_t type2
    uint8_t flag
    uint64_t seq

cdef struct Ring:
    Event *events
    uint64_t written
    uint64_t mask

cdef struct Told:              # what a replay knows of one zone-lock section beforehand (retrace.pxi)
    int nr_takes               # calls of zone_take so far
    int nr_folds
    int folded                 # of them
    int fold_take[16]          # a CPU folds its counters before this take, without any lock (B-17)
    int fold_cpu[16]
    bint follow                # decide as the recording did; else only notice where it did otherwise
    bint rotates               # compaction may have reordered lists of movable chunks (R6)
    int nr_outcomes            # takes of which the rows show where the page came from
    uint32_t *pfn
    uint8_t *from_cma
    int8_t *claimed            # order of the chunk whose block was claimed; -1: none was
    uint64_t cma_differs       # decisions that the recording made otherwise (R10, R9, R6)
    uint64_t claims_differ
    uint64_t rotated

cdef struct Zone:              # where the parts of a zone are mapped in this process
    void (*run)(Zone *z, void *op) noexcept nogil    # the driver: carries an operation to its end
    uint32_t me                # SPIN: what this process writes into locks it holds; not 0
    int fd                     # of a shared pool, where the processes' bytes are (lock.pxd); -1
    ZoneState *s
    Pcp *pcp
    Remote *remote
    Counts *counts
    Outbox *outbox             # handover_targets of each CPU
    Block *block               # list heads, then the records of the zone's pageblocks
    Block *block_of_page       # the same, shifted: the record of page i is block_of_page[i >> 9]
    Page *page
    uint64_t *claimed          # a bit per page: handed out by cma_alloc (CT-9). Guarded by the area's mutex
    Ring *ring                 # NULL: no events wanted
    uint64_t fail              # Zone driver: bit k set = the k-th trylock from here fails
    Told *told                 # NULL but in a replay against a recording
    Caches *caches             # NULL but in the machine


# -- per-CPU limits --------------------------------------------------------------------------------

cdef inline int high_of(Pcp *p) noexcept nogil:
    """It adapts under the PCP lock, and decays without it (B-102)."""
    return loadi32(&p.high)

cdef inline void set_high(Pcp *p, int high) noexcept nogil:
    storei32(&p.high, high)


# -- page words ----------------------------------------------------------------------------------

cdef inline uint32_t word_of(Zone *z, idx i) noexcept nogil:
    touch(z.caches, i)
    return load32(&z.page[i].word)

cdef inline void set_word(Zone *z, idx i, uint32_t word) noexcept nogil:
    touch(z.caches, i)
    store32(&z.page[i].word, word)

cdef inline int word_order(uint32_t word) noexcept nogil:
    return (word >> ORDER_SHIFT) & 15

cdef inline void split_page(Zone *z, idx i) noexcept nogil:
    """An allocation of order o becomes 2^o of order 0."""
    cdef uint32_t word = word_of(z, i)
    cdef idx p
    for p in range(i, i + (1u << word_order(word))):
        set_word(z, p, word & ~(15u << ORDER_SHIFT))

cdef inline int largest_aligned(idx i, idx end) noexcept nogil:
    """The largest order of a chunk from page i to end at most (B-94, B-97). An index is aligned as its pfn is."""
    cdef int o = 0
    while o < MAX_ORDER and not i >> o & 1 and i + (2u << o) <= end:
        o += 1
    return o

cdef inline int word_type(uint32_t word) noexcept nogil:
    return (word >> TYPE_SHIFT) & 7

cdef inline int64_t pfn_of(Zone *z, idx i) noexcept nogil:
    return z.s.base_pfn + i - z.s.first

cdef inline idx index_of(Zone *z, int64_t pfn) noexcept nogil:
    return <idx>(pfn - z.s.base_pfn + z.s.first)


# -- pageblocks ----------------------------------------------------------------------------------

cdef inline Block *block_of(Zone *z, idx i) noexcept nogil:
    return &z.block_of_page[i >> PB]

cdef inline int block_type(Zone *z, idx i) noexcept nogil:
    """Effective type of the page's block (1.3)."""
    return load8(&block_of(z, i).eff)

cdef inline void set_block_type(Block *b, int T) noexcept nogil:
    """Also clears the isolate bit (1.3). Zone lock."""
    store8(&b.type, <uint8_t>T)
    store8(&b.eff, <uint8_t>T)

cdef inline bint mergeable(int T) noexcept nogil:
    return T < HIGHATOMIC


# -- lists of pages: circular, the head is an entry of the same array -----------------------------

cdef inline void list_add(Zone *z, idx i, idx prev) noexcept nogil:
    cdef Page *page = z.page
    cdef idx next = page[prev].next
    touch(z.caches, i)
    touch(z.caches, prev)
    touch(z.caches, next)
    page[i].next = next
    page[i].prev = prev
    page[next].prev = i
    store32(&page[prev].next, i)           # a head's is read without its lock

cdef inline void list_del(Zone *z, idx i) noexcept nogil:
    cdef Page *page = z.page
    cdef idx next = page[i].next
    cdef idx prev = page[i].prev
    touch(z.caches, i)
    touch(z.caches, prev)
    touch(z.caches, next)
    store32(&page[prev].next, next)
    page[next].prev = prev
    page[i].next = 0
    page[i].prev = 0

cdef inline idx zone_head(int o, int T) noexcept nogil:
    return 1 + T * PB + o

cdef inline idx cpu_head(int cpu, int which) noexcept nogil:
    return <idx>(CPU_HEADS + cpu * HEADS_PER_CPU + which)


# -- lists of blocks -----------------------------------------------------------------------------

cdef inline uint32_t block_head(int o, int T) noexcept nogil:
    return <uint32_t>((o - PB) * NR_TYPES + T)

cdef inline uint32_t owned_head(Zone *z, int cpu, int T) noexcept nogil:
    """P-15: of CPU cpu's blocks that have fragments in the zone; of one type, where each has its list."""
    return <uint32_t>(BLOCK_HEADS + cpu * OWNED_HEADS + (T if z.s.policy.owned_lists else 0))

cdef inline idx remote_line(int cpu) noexcept nogil:
    """The cache line of a CPU's remote list, among the list heads."""
    return cpu_head(cpu, NR_LISTS)

cdef inline uint32_t first_block(Zone *z) noexcept nogil:
    """The record of the zone's first pageblock."""
    return <uint32_t>(BLOCK_HEADS + OWNED_HEADS * z.s.cpus)

cdef inline void touch_block(Zone *z, uint32_t number) noexcept nogil:
    """The descriptor through which a chunk of a pageblock and more is linked: its first page's. Or a list head."""
    if WATCHED:
        touch(z.caches, block_page(z, number) if number >= first_block(z) else CPU_HEADS - 2 + (number >= NR_TYPES))

cdef inline uint32_t block_number(Zone *z, idx i) noexcept nogil:
    return <uint32_t>(<int32_t>(i >> PB) + z.s.block_bias)

cdef inline idx block_page(Zone *z, uint32_t number) noexcept nogil:
    """First page of block record `number`."""
    return <idx>(<int32_t>number - z.s.block_bias) << PB
