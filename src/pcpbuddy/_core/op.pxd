# Operations: the record, its lock actions and its states.
#
# An operation is a small record. A step function carries it to its next lock action and
# returns that action; the driver performs it (does nothing, spins, or waits in virtual
# time) and steps again, with op.got as the answer to a trylock. So an operation can be
# suspended at every lock, and there is one text of it for all drivers (decision 0001).
#
# The names of states: A_ allocation, B_ bulk allocation, F_ free, D_ drain, X_ flush of
# outboxes, Z_ one zone section. Each says in which situation the next step begins. An
# operation may pass through another kind's states on its way: op.then is where it goes on.

from libc.stdint cimport uint16_t, uint32_t, uint8_t

from .page cimport NOLOCK, Zone, idx

cdef enum:  # lock actions
    DONE = 0
    LOCK_PCP = 1               # op.target's
    TRY_PCP = 2
    UNLOCK_PCP = 3
    LOCK_ZONE = 4
    TRY_ZONE = 5
    UNLOCK_ZONE = 6
    ELSEWHERE = 7              # none: op.at is now of another kind

cdef enum:  # states
    A_START = 1
    A_TRIED = 2                # own PCP lock tried
    A_PHASE = 3                # PCP lock held, the next refill phase waits for the zone lock
    A_REFILL = 4               # PCP lock held, zone lock taken or tried
    A_REFILLED = 5             # PCP lock held, zone lock dropped
    A_ZONE = 6                 # no lock; the lists had nothing
    A_DIRECT = 7               # zone lock taken or tried
    A_DIRECTED = 8             # zone lock dropped
    A_RESERVE = 9              # zone lock taken for the high-atomic reserve
    A_SERVED = 10              # no lock, op.page is the answer

    B_START = 15
    B_TRIED = 16
    B_TAKE = 17                # PCP lock held
    B_PHASE = 18
    B_REFILL = 19
    B_REFILLED = 20
    B_END = 21

    F_NEXT = 25                # op.held says whether target's PCP lock is held
    F_PICK = 26                # no lock held, the next page waits for a lock
    F_TRIED = 27
    F_DRAIN = 28               # PCP lock held, op.n pages to drain
    F_DRAINING = 29            # zone lock taken too
    F_DRAINED = 30
    F_GAP = 31                 # between holds, no lock held
    F_RELOCKED = 32
    F_DIRECT = 33              # no lock held, the next page goes to the zone
    F_DIRECTING = 34           # zone lock taken or tried
    F_PREPARE = 35             # first pass over a group
    F_PREPARING = 36           # zone lock taken for a page that no PCP serves
    F_ASKED = 37               # PCP lock held, a commit asked for a drain of op.n pages from op.start on
    F_VISITED = 38             # PCP lock of a CPU tried that has been pushed more than it may hold

    D_START = 40
    D_LOCKED = 41              # PCP lock taken
    D_HOLD = 42                # zone lock taken too
    D_HELD = 43
    D_SETTLE = 44              # no lock held: rejects, then a dead target, then on
    D_REJECT = 45              # zone lock taken for a reject

    X_START = 48
    X_LOCKED = 49              # PCP lock taken

    Z_START = 50
    Z_LOCKED = 51

    AT_END = 60

cdef enum:  # op.flags
    OP_BARE = 1                # A: B-66 alone
    OP_IRQ = 1                 # F: in interrupt context: never waits for a PCP lock (P-42)
    OP_NOLOCK = 2              # F: B-92
    OP_BATCH = 4               # F: B-91: emits mm_page_free_batched
    OP_PREPARED = 8            # F: no mm_page_free any more (B-94)
    OP_ALL = 16                # D: until the PCP is empty (B-100)
    OP_ONE_HOLD = 32           # D: keep the PCP lock between zone-lock holds
    OP_AGAIN = 64              # D: the merge pass is done, op.n counts down
    OP_TAIL = 128              # F: direct frees to the tail (B-97)
    OP_FOR_CMA = 1             # Z_ISOLATE: for a CMA allocation
    OP_CHECK = 2               # Z_ISOLATE: not if there are unmovable pages
    OP_GONE = 4                # Z_UNISOLATE: the memory of the block has gone off-line

cdef enum:  # op.section of a Z_ operation
    Z_ISOLATE = 0
    Z_UNISOLATE = 1
    Z_UNRESERVE = 2
    Z_DISOWN = 3
    Z_TEST = 4
    Z_CAPTURE = 5

    GROUP = 31                 # folio batch (B-91)

cdef struct Op:
    uint8_t at
    uint8_t got                # did the last trylock succeed?
    uint8_t order
    uint8_t type
    uint8_t flags
    uint8_t merged             # D, F: this drain has had its merge pass (P-54, P-55)
    uint8_t held               # F: target's PCP lock is held. A, B: this refill has had the zone lock
    uint8_t section
    uint8_t locked             # A, B: the zone lock was taken for this page
    uint16_t cpu               # executes
    uint16_t target            # whose PCP lock is meant
    uint16_t to                # F: whose page it will be; with outboxes not always target's
    uint8_t then               # D: the state to go on in; 0: none, the end
    uint8_t phase              # A, B: of the refill
    uint16_t owner             # X: whose outboxes
    uint32_t aflags
    idx page                   # A: the page, or 0. F, Z: the page; Z: answered with the page that an answer is about
    int n                      # D, F: pages still to drain. Z: pages of the range
    int start                  # D, F: where the drain starts: list (index) or type
    int nr                     # F, B: pages in `pages`
    int k                      # F: next page; B: pages obtained
    int end                    # F: end of the group
    int want                   # A, B: pages that the refill is to obtain
    int gained                 # A, B: pages obtained in entries that serve the request
    int pages_in               # A, B: pages obtained
    int raised                 # A, B: what B-64 raised high for; -1: nothing
    int result
    uint32_t dead              # an off-line CPU whose list was pushed to, + 1 (P-46)
    uint32_t full              # F: a CPU that was pushed more than it may hold, + 1 (P-45)
    idx reject                 # first of the pages to be freed directly, through Page.next (P-46)
    idx reject_last
    idx *pages


cdef inline int zone_lock_for(Op *op) noexcept nogil:
    op.locked = True
    return TRY_ZONE if op.aflags & NOLOCK else LOCK_ZONE

cdef inline void add_reject(Zone *z, Op *op, idx i) noexcept nogil:
    """A page that came over a remote list, but that no PCP takes; to the end of the row."""
    z.page[i].next = 0
    if op.reject:
        z.page[op.reject_last].next = i
    else:
        op.reject = i
    op.reject_last = i

cdef inline bint unsettled(Op *op) noexcept nogil:
    """Is there work that has to wait until this operation holds no PCP lock?"""
    return op.reject or op.dead

cdef inline int settle_then(Op *op, int at) noexcept nogil:
    op.then = <uint8_t>at
    op.at = D_SETTLE
    return ELSEWHERE
