# What taking a lock means, and the two paths that are worth a short cut.
#
# NO_LOCKS: one thread; trylocks fail when told to. SPIN: real spin locks. The virtual
# driver of the machine is a third one over the same operations.

from libc.stdint cimport uint32_t

from .atomic cimport exchange32, likely, load16, load32, relax, release32
from .ops cimport (
    A_START, A_TRIED, F_PREPARE, F_TRIED, LOCK_PCP, LOCK_ZONE, OP_PREPARED, TRY_PCP, TRY_ZONE, UNLOCK_PCP, UNLOCK_ZONE,
    Op, drain_begin, hand_out, prepare,
)
from .page cimport (
    ISOLATE, MARK, Pcp, Zone, block_of, block_type, cpu_head, idx, word_of, word_order,
)
from .pcp cimport commit, list_index, list_type, pcp_del, pcp_order

cdef enum:
    NO_LOCKS = 0
    SPIN = 1


cdef inline bint try_spin(uint32_t *lock) noexcept nogil:
    return exchange32(lock, 1) == 0

cdef inline void lock_spin(uint32_t *lock) noexcept nogil:
    while exchange32(lock, 1):
        while load32(lock):
            relax()

cdef inline bint try_told(Zone *z) noexcept nogil:
    cdef bint got = not z.fail & 1
    z.fail >>= 1
    return got

cdef inline bint try_pcp(Zone *z, int cpu, const int locks) noexcept nogil:
    return try_spin(&z.pcp[cpu].lock) if locks == SPIN else try_told(z)

cdef inline void unlock_pcp(Zone *z, int cpu, const int locks) noexcept nogil:
    if locks == SPIN:
        release32(&z.pcp[cpu].lock, 0)

cdef inline void perform(Zone *z, Op *op, int action, const int locks) noexcept nogil:
    if locks == NO_LOCKS:
        if action == TRY_PCP or action == TRY_ZONE:
            op.got = try_told(z)
        return
    if action == TRY_PCP:
        op.got = try_spin(&z.pcp[op.target].lock)
    elif action == LOCK_PCP:
        lock_spin(&z.pcp[op.target].lock)
    elif action == UNLOCK_PCP:
        release32(&z.pcp[op.target].lock, 0)
    elif action == TRY_ZONE:
        op.got = try_spin(&z.s.lock)
    elif action == LOCK_ZONE:
        lock_spin(&z.s.lock)
    elif action == UNLOCK_ZONE:
        release32(&z.s.lock, 0)


# -- allocation and free, with the owner's hot path in front ------------------------------------------

cdef inline void begin(Op *op, int at, int cpu) noexcept nogil:
    op.at = <unsigned char>at
    op.got = False
    op.flags = 0
    op.held = False
    op.locked = False
    op.cpu = <unsigned short>cpu
    op.target = <unsigned short>cpu
    op.aflags = 0
    op.page = 0
    op.n = 0
    op.start = 0
    op.k = 0
    op.nr = 0
    op.end = 0
    op.result = 0

cdef inline idx alloc(Zone *z, int cpu, int o, int T, int aflags, const int locks) noexcept nogil:
    """B-60. Short cut: own lock free, own list not empty."""
    cdef Op op
    cdef Pcp *p = &z.pcp[cpu]
    cdef idx head
    cdef idx i
    begin(&op, A_START, cpu)
    if pcp_order(o):
        op.at = A_TRIED
        op.got = try_pcp(z, cpu, locks)
        head = cpu_head(cpu, list_index(z, o, T))
        i = z.page[head].next
        if likely(op.got and i != head):
            p.free_count >>= 1
            pcp_del(z, cpu, i, o)
            unlock_pcp(z, cpu, locks)
            hand_out(z, cpu, i, o, T, aflags)
            return i
    op.order = <unsigned char>o
    op.type = <unsigned char>T
    op.aflags = aflags
    z.run(z, &op)
    return op.page

cdef inline void free_page(Zone *z, int cpu, idx i, int flags, const int locks) noexcept nogil:
    """B-80, P-40. Short cut: own or nobody's block, own lock free, limit not reached."""
    cdef Op op
    cdef int o = word_order(word_of(z, i))
    cdef int T = block_type(z, i)
    cdef int owner = load16(&block_of(z, i).owner)
    begin(&op, F_PREPARE, cpu)
    op.flags = <unsigned char>flags
    op.page = i
    op.pages = &op.page
    op.nr = 1
    if likely(pcp_order(o) and T != ISOLATE and flags == 0 and (owner == 0 or owner == cpu + 1)):
        prepare(z, &op, i, o)
        op.flags = OP_PREPARED
        if likely(try_pcp(z, cpu, locks)):
            T = list_type(T)
            op.n = commit(z, cpu, i, o, T, MARK if load16(&block_of(z, i).owner) == cpu + 1 else 0, False)
            z.counts[cpu].frees_local += 1
            if likely(op.n == 0):
                unlock_pcp(z, cpu, locks)
                return
            op.k = 1
            op.end = 1
            op.held = True
            drain_begin(z, &op, o, T)
        else:
            op.at = F_TRIED
            op.end = 1
    z.run(z, &op)
