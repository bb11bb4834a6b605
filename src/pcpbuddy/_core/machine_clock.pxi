# Virtual time: whose event is next, locks in the order of arrival, and where time goes. Included by machine.pyx.

cdef inline uint64_t least(uint64_t a, uint64_t b) noexcept nogil:
    return a if a < b else b

cdef inline uint64_t least_of_8(uint64_t *t) noexcept nogil:
    return least(least(least(t[0], t[1]), least(t[2], t[3])), least(least(t[4], t[5]), least(t[6], t[7])))

cdef inline void schedule(Sim *s, int cpu, int64_t at_ps) noexcept nogil:
    """
    CPU's next event. The root of the tree has the first of all; ties go to the lower CPU.

    A node is the least of its eight children, which fill a cache line; each is a time with the CPU in its low bits.
    Node n's children begin at 8 (n + 1).
    """
    cdef uint64_t key = <uint64_t>at_ps << CPU_BITS | <uint64_t>cpu
    cdef uint32_t n = <uint32_t>(s.first_leaf + cpu)
    s.tree[n] = key
    while n:
        key = least_of_8(&s.tree[n & ~7u])
        n = (n >> 3) - 1
        if s.tree[n] == key:
            return
        s.tree[n] = key

cdef inline void spend(Sim *s, Cpu *cpu, int category) noexcept nogil:
    """From now on the CPU's time goes there."""
    cpu.spent_ps[cpu.category] += s.now_ps - cpu.since_ps
    cpu.since_ps = s.now_ps
    cpu.category = category

cdef inline int bin_of(int64_t ps) noexcept nogil:
    """Log-linear: 32 bins an octave of nanoseconds; what is below 32 ns has a bin for each."""
    cdef uint64_t ns = <uint64_t>ps // 1000
    cdef int e
    if ns < OCTAVE:
        return <int>ns
    e = 63 - clz(ns)
    return min(OCTAVE * (e - 4) + <int>(ns >> (e - 5)) - OCTAVE, BINS - 1)

cdef inline uint64_t random64(Cpu *cpu) noexcept nogil:
    """splitmix64."""
    cdef uint64_t x
    cpu.random += <uint64_t>0x9e3779b97f4a7c15
    x = cpu.random
    x = (x ^ (x >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    x = (x ^ (x >> 27)) * <uint64_t>0x94d049bb133111eb
    return x ^ (x >> 31)

cdef inline double uniform(Cpu *cpu) noexcept nogil:
    """In (0, 1)."""
    return (<double>(random64(cpu) >> 11) + 0.5) / 9007199254740992.0

cdef inline int64_t exponential(Cpu *cpu, int64_t mean_ps) noexcept nogil:
    return <int64_t>min(-ln(uniform(cpu)) * mean_ps, <double>HORIZON)


# -- locks -------------------------------------------------------------------------------------------------

cdef inline Lock *zone_lock(Sim *s, int zone) noexcept nogil:
    return &s.lock[zone * (s.cpus + 1) + s.cpus]

cdef inline Lock *pcp_lock(Sim *s, int zone, int target) noexcept nogil:
    return &s.lock[zone * (s.cpus + 1) + target]

cdef inline Lock *user_lock(Sim *s, int number) noexcept nogil:
    return &s.lock[s.nr_zones * (s.cpus + 1) + number]

cdef inline int64_t line_ps(Sim *s, Lock *lock, int cpu) noexcept nogil:
    """The lock's cache line comes here."""
    if lock.last == cpu + 1 or lock.last == 0:
        return s.charge.lock
    if s.cpu[lock.last - 1].node == s.cpu[cpu].node:
        return s.charge.lock + s.charge.line_near
    return s.charge.lock + s.charge.line_far

cdef inline void hold(Sim *s, Lock *lock, int cpu, int kind, int64_t waited_ps) noexcept nogil:
    """The lock is the CPU's from now on. waited_ps: -1 if it did not have to wait."""
    cdef Stat *stat = &lock.stats[kind]
    lock.holder = cpu + 1
    lock.last = cpu + 1
    lock.kind = kind
    lock.since_ps = s.now_ps
    lock.asked_ps = s.now_ps if waited_ps < 0 else context(&s.cpu[cpu]).wait_from_ps
    stat.count += 1
    if waited_ps < 0:
        stat.wait_hist[0] += 1
    else:
        stat.wait_hist[bin_of(waited_ps)] += 1
        stat.waited += 1
        stat.wait_ps += waited_ps
        stat.wait_max_ps = max(stat.wait_max_ps, waited_ps)

cdef inline void enqueue(Sim *s, Lock *lock, int cpu, int category) noexcept nogil:
    """Last in the row of those who wait; no event until the lock comes to it."""
    cdef Cpu *me = &s.cpu[cpu]
    me.waits = <int>(lock - s.lock) + 1
    me.next_waiter = 0
    if lock.tail:
        s.cpu[lock.tail - 1].next_waiter = cpu + 1
    else:
        lock.head = cpu + 1
    lock.tail = cpu + 1
    me.context[me.level].wait_from_ps = s.now_ps
    spend(s, me, category)
    s.awake -= 1
    schedule(s, cpu, NEVER)

cdef inline void release(Sim *s, Lock *lock, int cpu) noexcept nogil:
    """To the first who waits, if there is one: it has the lock from now on, and runs after the hand-over."""
    cdef Stat *stat = &lock.stats[lock.kind]
    cdef int64_t held_ps = s.now_ps - max(lock.since_ps, s.start_ps)
    cdef int next = lock.head - 1
    cdef Cpu *other
    stat.hold_ps += held_ps
    stat.hold_hist[bin_of(held_ps)] += 1
    stat.hold_max_ps = max(stat.hold_max_ps, held_ps)
    if s.holds is not NULL and (next >= 0 or tells(s, lock)):
        keep_hold(s, <int>(lock - s.lock), cpu, lock.since_ps, s.now_ps, lock.asked_ps, 0)
    if next < 0:
        lock.holder = 0
        return
    other = &s.cpu[next]
    lock.head = other.next_waiter
    if not lock.head:
        lock.tail = 0
    other.waits = 0
    lock.holder = next + 1
    lock.since_ps = -1
    s.awake += 1
    other.context[other.level].until_ps = s.now_ps + (
        s.charge.hand_near if other.node == s.cpu[cpu].node else s.charge.hand_far
    )
    schedule(s, next, other.context[other.level].until_ps)

cdef void leave_queue(Sim *s, int cpu) noexcept nogil:
    """It waits for its lock no more."""
    cdef Lock *lock = &s.lock[s.cpu[cpu].waits - 1]
    cdef int before = 0
    cdef int at = lock.head
    while at != cpu + 1:
        before = at
        at = s.cpu[at - 1].next_waiter
    at = s.cpu[cpu].next_waiter
    if before:
        s.cpu[before - 1].next_waiter = at
    else:
        lock.head = at
    if not at:
        lock.tail = before
    s.cpu[cpu].waits = 0
    s.awake += 1

cdef inline int zone_kind(int at) noexcept nogil:
    """Which kind of section an operation enters that asked for the zone lock."""
    if at == A_REFILL or at == B_REFILL:
        return H_REFILL
    if at == A_DIRECT:
        return H_DIRECT_ALLOC
    if at == F_DRAINING or at == D_HOLD:
        return H_DRAIN
    if at == F_DIRECTING or at == F_PREPARING or at == D_REJECT:
        return H_DIRECT_FREE
    return H_OTHER

cdef inline int pcp_kind(Op *op) noexcept nogil:
    if op.at == A_TRIED or op.at == B_TRIED:
        return K_ALLOC
    if op.at == F_TRIED:
        return K_FREE_LOCAL if op.target == op.cpu else K_FREE_REMOTE
    return K_DRAIN_LOCAL if op.target == op.cpu else K_DRAIN_REMOTE


# -- whose cache has a descriptor --------------------------------------------------------------------------------

cdef inline uint32_t stamp(Toucher *by) noexcept nogil:
    return <uint32_t>(by.cpu + 1) << STAMP_BITS | ((by.fetched[by.cpu] >> STAMP_SHIFT) & STAMP_MASK)

cdef inline void executes(Sim *s, int cpu) noexcept nogil:
    s.toucher.cpu = cpu
    s.toucher.stamp = stamp(&s.toucher)

cdef void touched(Caches *k, uint32_t i) noexcept nogil:
    """
    The executing CPU reads or writes descriptor i.

    Its last toucher has it in its own cache still, or in the node's shared one, or nobody has.
    """
    cdef Toucher *by = k.by
    cdef uint32_t last = k.last[i]
    cdef int cpu
    cdef uint32_t age
    if last == by.stamp:                   # a moment ago
        by.spent_ps += by.own_ps
        return
    cpu = <int>(last >> STAMP_BITS) - 1
    if cpu >= 0:
        age = ((by.fetched[cpu] >> STAMP_SHIFT) - last) & STAMP_MASK
        if cpu == by.cpu and age <= by.own_stamps:
            by.spent_ps += by.own_ps
            k.last[i] = by.stamp
            return
        if age > by.shared_stamps:
            cpu = -1
    if cpu < 0:
        by.spent_ps += by.memory_ps if by.node[by.cpu] == k.home else by.far_memory_ps
    elif by.node[cpu] == by.node[by.cpu]:
        by.spent_ps += by.near_ps
    else:
        by.spent_ps += by.far_ps
    by.fetched[by.cpu] += 1
    by.stamp = k.last[i] = stamp(by)


# -- one step, and what it costs ------------------------------------------------------------------------------

cdef inline int64_t work_ps(Charge *c, Counts *n) noexcept nogil:
    """The counters as time: what a section has done is what they have grown by."""
    return (
        <int64_t>n.list_ops * c.list_op + <int64_t>n.moves * c.move
        + <int64_t>(n.zone_merges + n.pcp_merges) * c.merge + <int64_t>(n.zone_splits + n.pcp_splits) * c.split
        + <int64_t>n.scanned_pfns * c.scan + <int64_t>n.merge_visited * c.visit + <int64_t>n.walked_blocks * c.walk
        + <int64_t>(n.allocs + n.frees_local + n.absorbed_pages + n.drained_entries) * c.entry
        + <int64_t>n.frees_remote * c.entry + <int64_t>n.remote_pushes * c.push
        + <int64_t>(n.pages_allocated + n.pages_freed) * c.page
    )

cdef inline int64_t carry(Sim *s, int cpu, Context *x, int *action) noexcept nogil:
    """The call on to its next lock action; DONE: the operation is over. Returns what that took, but for descriptors."""
    cdef Zone *z = &s.zone[x.zone]
    cdef int64_t *worked = &s.worked[x.zone * s.cpus + cpu]
    cdef int64_t before = worked[0]
    action[0] = step(z, &x.call.op)
    worked[0] = work_ps(&s.charge, &z.counts[cpu])
    return worked[0] - before

cdef int run_on(Sim *s, int cpu, Context *x, bint first) noexcept nogil:
    """
    Carry the call to its next lock action, over the ends of its operations; x.until_ps is when that is due.

    first: no operation of it has begun yet. Returns False when the call is over.
    """
    cdef int action = DONE
    cdef int64_t took = 0
    cdef Zone *z
    executes(s, cpu)
    if not first:
        log(s, cpu, L_STEP, x.zone, 0, 0, 0, x.call.op.got)
        took = carry(s, cpu, x, &action)
    while action == DONE:
        z = next_op(x.call)
        if z is NULL:
            break
        x.zone = <uint32_t>(z - s.zone)
        took += carry(s, cpu, x, &action)
    x.action = action
    x.until_ps = s.now_ps + took + s.toucher.spent_ps
    s.toucher.spent_ps = 0
    return action != DONE
