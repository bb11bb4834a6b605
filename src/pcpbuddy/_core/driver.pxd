# What taking a lock means, and the two paths that are worth a short cut.
#
# A driver is a literal on its way through the inlined text. NO_LOCKS: one thread; trylocks
# fail when told to. SPIN: real spin locks. With PLAIN added: the caller has looked, and no
# switch of the policy concerns the short cuts (Policy.plain), so they need not look. The
# virtual driver of the machine is one more over the same operations.

from libc.stdint cimport uint32_t

from .alloc cimport hand_out
from .atomic cimport bump, bumpi32, likely, load16, load8, unlikely
from .free cimport ask_drain, prepare, route
from .lock cimport lock_spin, try_spin, unlock_spin
from .op cimport (
    A_START, A_TRIED, F_NEXT, F_PREPARE, F_TRIED, LOCK_PCP, LOCK_ZONE, OP_PREPARED, TRY_PCP, TRY_ZONE, UNLOCK_PCP,
    UNLOCK_ZONE, Op,
)
from .page cimport (
    DRAIN_BY_OWNER, ISOLATE, MARK, PREFER_UNMARKED, REMOTE_BLOCK, REMOTE_HANDOVER, REMOTE_LLIST, Block, Pcp, Zone,
    block_of, cpu_head, idx, list_del, word_of, word_order,
)
from .pcp cimport commit, list_index, list_type, mark_for, pcp_order, take_away
from .remote cimport has_remote, try_gather

cdef enum:
    NO_LOCKS = 0
    SPIN = 1
    PLAIN = 2
    UNTRIED = -1               # answers of free_to: not asked
    REFUSED = -2               # the trylock failed
    GONE = -3                  # the target went off-line before its lock was had (P-44)
    LOCKED = -4                # the own lock is held, but the page has to take the long way


cdef inline bint try_told(Zone *z) noexcept nogil:
    cdef bint got = not z.fail & 1
    z.fail >>= 1
    return got

cdef inline bint try_pcp(Zone *z, Pcp *p, const int driver) noexcept nogil:
    return try_spin(z, &p.lock) if driver & SPIN else try_told(z)

cdef inline bint lock_pcp(Zone *z, Pcp *p, const int driver) noexcept nogil:
    return lock_spin(z, &p.lock) if driver & SPIN else True

cdef inline void unlock_pcp(Pcp *p, const int driver) noexcept nogil:
    if driver & SPIN:
        unlock_spin(&p.lock)

cdef inline bint perform(Zone *z, Op *op, int action, const int driver) noexcept nogil:
    """False: a lock can never be had (lock.pxd), and the operation with it."""
    if not driver & SPIN:
        if action == TRY_PCP or action == TRY_ZONE:
            op.got = try_told(z)
    elif action == TRY_PCP:
        op.got = try_spin(z, &z.pcp[op.target].lock)
    elif action == LOCK_PCP:
        return lock_spin(z, &z.pcp[op.target].lock)
    elif action == UNLOCK_PCP:
        unlock_spin(&z.pcp[op.target].lock)
    elif action == TRY_ZONE:
        op.got = try_spin(z, &z.s.lock)
    elif action == LOCK_ZONE:
        return lock_spin(z, &z.s.lock)
    elif action == UNLOCK_ZONE:
        unlock_spin(&z.s.lock)
    return True


# -- allocation and free, with the owner's hot path in front ------------------------------------------

cdef inline void begin(Op *op, int at, int got, int cpu) noexcept nogil:
    op.at = <unsigned char>at
    op.got = <unsigned char>got
    op.flags = 0
    op.held = False
    op.locked = False
    op.order = 0
    op.cpu = <unsigned short>cpu
    op.target = <unsigned short>cpu
    op.to = <unsigned short>cpu
    op.owner = 0
    op.then = 0
    op.dead = 0
    op.full = 0
    op.merged = False
    op.reject = 0
    op.aflags = 0
    op.page = 0
    op.n = 0
    op.start = 0
    op.k = 0
    op.nr = 0
    op.end = 0
    op.result = 0

cdef inline idx alloc_local(
    Zone *z, int cpu, const int o, int T, int aflags, const int driver, bint *got
) noexcept nogil:
    """
    A_TRIED as a short cut: own lock free, own list not empty, nothing to absorb.

    Else 0, and `got` says whether the lock is held.
    """
    cdef Pcp *p = &z.pcp[cpu]
    cdef idx head = cpu_head(cpu, list_index(z, o, T))
    cdef idx i
    got[0] = try_pcp(z, p, driver)
    if unlikely(not got[0]):
        return 0
    i = z.page[head].next
    if unlikely(i == head):
        return 0
    if not driver & PLAIN and (has_remote(z, cpu) or z.s.policy.take_prefer == PREFER_UNMARKED):
        return 0
    p.free_count >>= 1
    list_del(z, i)
    bumpi32(&p.count, -(1 << o))
    take_away(z, i, o, T)
    unlock_pcp(p, driver)
    hand_out(z, cpu, i, o, T, aflags)
    return i

cdef inline idx alloc(Zone *z, int cpu, int o, int T, int aflags, const int driver) noexcept nogil:
    """B-60. Order 0 is a literal on its way through: an eighth fewer instructions (decision 0001)."""
    cdef Op op
    cdef idx i
    cdef bint got = False
    cdef int at = A_TRIED
    if likely(o == 0):
        i = alloc_local(z, cpu, 0, T, aflags, driver, &got)
    elif pcp_order(z, o):
        i = alloc_local(z, cpu, o, T, aflags, driver, &got)
    else:
        i = 0
        at = A_START
    if likely(i):
        return i
    begin(&op, at, got, cpu)
    op.order = <unsigned char>o
    op.type = <unsigned char>T
    op.aflags = aflags
    z.run(z, &op)
    return op.page

cdef inline int free_to(
    Zone *z, int cpu, int target, idx i, const int o, Block *b, const int driver, bint wait
) noexcept nogil:
    """F_TRIED as a short cut: target's lock free. Returns the pages to drain, with the lock held; 0: done."""
    cdef Pcp *p = &z.pcp[target]
    cdef uint32_t mark
    cdef int n
    prepare(z, cpu, i, o)
    if wait:
        if unlikely(not lock_pcp(z, p, driver)):
            return REFUSED
    elif unlikely(not try_pcp(z, p, driver)):
        return REFUSED
    if target != cpu and unlikely(not p.online):
        unlock_pcp(p, driver)
        return GONE
    if driver & PLAIN:
        mark = MARK if load16(&b.owner) == target + 1 else 0
    else:
        mark = mark_for(z, b, target)
    n = commit(
        z, p, cpu, target, i, o, list_type(load8(&b.eff)), mark,
        target != cpu and z.s.policy.drain_by == DRAIN_BY_OWNER, driver & PLAIN,
    )
    if target == cpu:
        bump(&z.counts[cpu].frees_local, 1)
    else:
        bump(&z.counts[cpu].frees_remote, 1)
    if likely(n == 0):
        unlock_pcp(p, driver)
    return n

cdef inline bint hands_over(Zone *z, int cpu, int target) noexcept nogil:
    return target != cpu and z.s.policy.remote == REMOTE_HANDOVER

cdef inline int free_gathered(Zone *z, int cpu, int target, idx i, int o, const int driver) noexcept nogil:
    """F_TRIED as a short cut for P-46b: own lock free, an outbox for target in use that the page does not fill."""
    prepare(z, cpu, i, o)
    if unlikely(not try_pcp(z, &z.pcp[cpu], driver)):
        return REFUSED
    if unlikely(not try_gather(z, cpu, target, i, o)):
        return LOCKED
    bump(&z.counts[cpu].frees_remote, 1)
    unlock_pcp(&z.pcp[cpu], driver)
    return 0

cdef inline int free_foreign(Zone *z, int cpu, int target, idx i, int o, Block *b, const int driver) noexcept nogil:
    """Another CPU's block: to its owner's PCP or an outbox as a short cut; a lone push by the states alone (P-46)."""
    if hands_over(z, cpu, target):
        return free_gathered(z, cpu, target, i, o, driver)
    if target != cpu and z.s.policy.remote == REMOTE_LLIST:
        return UNTRIED
    return free_to(z, cpu, target, i, o, b, driver, target != cpu and z.s.policy.remote == REMOTE_BLOCK)

cdef inline void free_page(Zone *z, int cpu, idx i, int flags, const int driver) noexcept nogil:
    """B-80, P-40. Frees by interrupts, past the PCP, and of isolated blocks take no short cut."""
    cdef Op op
    cdef Block *b = block_of(z, i)
    cdef int o = word_order(word_of(z, i))
    cdef int owner = load16(&b.owner)
    cdef int target = cpu
    cdef int n = UNTRIED
    if likely(flags == 0 and load8(&b.eff) != ISOLATE and (owner == 0 or owner == cpu + 1)):
        if likely(o == 0):
            n = free_to(z, cpu, cpu, i, 0, b, driver, False)
        elif pcp_order(z, o):
            n = free_to(z, cpu, cpu, i, o, b, driver, False)
    elif flags == 0 and load8(&b.eff) != ISOLATE and pcp_order(z, o):
        target = route(z, cpu, owner)
        n = free_foreign(z, cpu, target, i, o, b, driver)
    if likely(n == 0):
        return
    begin(&op, F_PREPARE, False, cpu)
    op.flags = <unsigned char>flags
    op.page = i
    op.pages = &op.page
    op.nr = 1
    if n != UNTRIED:
        op.flags = OP_PREPARED
        op.end = 1
        op.target = <unsigned short>(cpu if hands_over(z, cpu, target) else target)
        op.to = <unsigned short>target
        op.at = F_NEXT if n == GONE else F_TRIED
        op.got = n == LOCKED
        if n > 0:
            op.k = 1
            op.held = True
            ask_drain(z, &op, n, o, list_type(load8(&b.eff)))
    z.run(z, &op)

cdef inline idx alloc_by_policy(Zone *z, int cpu, int o, int T, int aflags) noexcept nogil:
    """One thread, any policy."""
    if likely(z.s.policy.plain):
        return alloc(z, cpu, o, T, aflags, NO_LOCKS | PLAIN)
    return alloc(z, cpu, o, T, aflags, NO_LOCKS)

cdef inline void free_by_policy(Zone *z, int cpu, idx i, int flags) noexcept nogil:
    """One thread, any policy."""
    if likely(z.s.policy.plain):
        free_page(z, cpu, i, flags, NO_LOCKS | PLAIN)
    else:
        free_page(z, cpu, i, flags, NO_LOCKS)
