# Whole calls as records, for those that are more than one operation: allocations by GFP flags with all that follows
# when a zone has nothing, bulk, contiguous frees, ticks, drains, off-lining, isolation.
#
# `request.next_op` carries a call to its next operation, prepares that in call.op and returns the zone in which it is
# to be carried to its end. Like an operation between two lock actions (op.pxd), a call can be suspended there and
# within the operation, and remembers nothing but in its record. A record stays where it is while the call runs:
# operations point into it.
#
# The names of states: W_ walk through the zones, S_ sweep over zones and CPUs, T_ tick, O_ off-lining. A call may
# pass through a sweep on its way: call.then is where it goes on.

from libc.stdint cimport int64_t, uint32_t, uint8_t

from .atomic cimport exchange32
from .driver cimport begin
from .node cimport NodeRef
from .op cimport B_START, D_START, F_PREPARE, X_START, Z_START, Op
from .page cimport Zone, idx

cdef enum:  # kinds
    CALL_ALLOC = 0
    CALL_FREE = 1
    CALL_BATCH = 2
    CALL_BULK = 3
    CALL_TICK = 4
    CALL_DRAIN = 5
    CALL_RUN = 6
    CALL_OFFLINE = 7
    CALL_SECTION = 8           # one section under the zone lock: op.section

cdef enum:  # states
    W_BULK = 1                 # zone k is looked at for a bulk allocation
    W_BULK_TRIED = 2
    W_ZONE = 3                 # zone k is looked at
    W_TRIED = 4                # an allocation there is over
    W_UNRESERVE = 5            # zone k is looked at for a reserved block
    W_UNRESERVED = 6
    W_DRAINED = 7              # the sweep is over

    S_FLUSH = 10               # CPU c's outboxes in zone s are next
    S_DRAIN = 11               # CPU c's PCP in zone s is next

    T_START = 15
    T_ABSORB = 16
    T_DECAY = 17
    T_EXPIRE = 18

    O_START = 20
    O_DRAIN = 21
    O_FOLD = 22
    O_RESIZE = 23

    RUN = 25                   # pages from call.i on are to be freed
    READY = 26                 # the operation is prepared
    ISOLATED = 27
    ANSWERED = 28
    OVER = 30

cdef enum:  # walks
    FAST = 0                   # B-28, B-76
    SLOW = 1                   # B-29
    AGAIN = 2                  # after unreserve and drain
    LAST = 3                   # after unreserve with force

cdef struct Call:
    Op op                      # the operation under way
    NodeRef *node
    Zone *zone                 # of a call that concerns one
    Zone **zones               # S: all that are swept
    uint32_t *mutex            # S: held while this one drains everything; or NULL
    idx *pages                 # bulk
    int64_t n                  # bulk: pages wanted. Run: pages left
    uint8_t kind
    uint8_t at
    uint8_t then
    uint8_t order
    uint8_t type
    uint8_t walk
    uint8_t drains             # S: and not only flushes
    int cpu                    # executes
    int target                 # O: the CPU that goes off-line
    int gfp
    int aflags
    int highest                # zone that the request allows
    int first                  # zone of the walk
    int k
    int nr                     # S: zones
    int s
    int c
    idx i                      # run: next page
    idx page                   # result: the page, or 0
    int where                  # result: its zone's number
    int got                    # result: pages obtained in bulk; isolated? of another section: its answer


cdef inline void begin_call(Call *call, Zone *z, int kind, int at, int cpu) noexcept nogil:
    call.zone = z
    call.kind = <uint8_t>kind
    call.at = <uint8_t>at
    call.then = OVER
    call.cpu = cpu
    call.page = 0
    call.where = 0
    call.got = 0

cdef inline void sweep(Call *call, Zone **zones, int nr, bint drains, int then) noexcept nogil:
    call.zones = zones
    call.nr = nr
    call.drains = drains
    call.then = <uint8_t>then
    call.mutex = NULL
    call.s = 0
    call.c = 0
    call.at = S_FLUSH

cdef inline void drain_everything(Call *call, NodeRef *node, int then) noexcept nogil:
    """B-100: one such drain at a time; whoever comes while another is under way leaves it at that."""
    if node.drain_mutex is not NULL and exchange32(node.drain_mutex, 1):
        call.at = <uint8_t>then
        return
    sweep(call, node.zones, node.nr, True, then)
    call.mutex = node.drain_mutex


# -- the operations that calls consist of ----------------------------------------------------------------------

cdef inline void bulk_op(Op *op, int cpu, int n, int T, int aflags, idx *pages) noexcept nogil:
    begin(op, B_START, False, cpu)
    op.type = <uint8_t>T
    op.aflags = aflags
    op.pages = pages
    op.nr = n

cdef inline void free_op(Op *op, int cpu, idx i, int flags) noexcept nogil:
    begin(op, F_PREPARE, False, cpu)
    op.flags = <uint8_t>flags
    op.page = i
    op.pages = &op.page
    op.nr = 1

cdef inline void drain_op(Op *op, int cpu, int target, int n, int flags, int start) noexcept nogil:
    begin(op, D_START, False, cpu)
    op.target = <unsigned short>target
    op.n = n
    op.flags = <uint8_t>flags
    op.start = start

cdef inline void flush_op(Op *op, int cpu, int owner) noexcept nogil:
    begin(op, X_START, False, cpu)
    op.owner = <unsigned short>owner

cdef inline void zone_op(Op *op, int cpu, int section) noexcept nogil:
    begin(op, Z_START, False, cpu)
    op.section = <uint8_t>section
