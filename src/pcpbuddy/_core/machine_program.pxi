# What programs do (workload/program.py), instruction by instruction. Included by machine.pyx.

# -- queues of allocated pages -----------------------------------------------------------------------------------

cdef bint push(Sim *s, Queue *queue, uint64_t entry) noexcept nogil:
    cdef uint64_t room = queue.mask + 1 if queue.entry is not NULL else 0
    cdef uint64_t *larger
    cdef uint64_t k
    if queue.nr == room:
        larger = <uint64_t *>malloc(max(2 * room, <uint64_t>64) * sizeof(uint64_t))
        if larger is NULL:
            s.trouble = NO_MEMORY
            return False
        for k in range(queue.nr):
            larger[k] = queue.entry[(queue.first + k) & queue.mask]
        c_free(queue.entry)
        queue.entry = larger
        queue.mask = max(2 * room, <uint64_t>64) - 1
        queue.first = 0
        for k in range(queue.nr):
            note_home(s, queue, k)
    queue.entry[(queue.first + queue.nr) & queue.mask] = entry
    note_home(s, queue, (queue.first + queue.nr) & queue.mask)
    queue.nr += 1
    return True

cdef uint64_t pop(Sim *s, Queue *queue, int how, Cpu *me) noexcept nogil:
    """The queue is not empty."""
    cdef uint64_t entry = take_entry(s, queue, how, me)
    forget_home(s, entry)
    return entry

cdef uint64_t take_entry(Sim *s, Queue *queue, int how, Cpu *me) noexcept nogil:
    cdef uint64_t last = (queue.first + queue.nr - 1) & queue.mask
    cdef uint64_t k
    cdef uint64_t entry
    queue.nr -= 1
    if how == OLDEST:
        entry = queue.entry[queue.first]
        queue.first = (queue.first + 1) & queue.mask
        return entry
    if how == RANDOM:
        k = (queue.first + random64(me) % (queue.nr + 1)) & queue.mask
        entry = queue.entry[k]
        queue.entry[k] = queue.entry[last]
        note_home(s, queue, k)
        return entry
    return queue.entry[last]

cdef inline Queue *queue_a(Sim *s, int cpu, Instruction *i) noexcept nogil:
    if i.flags & I_A_PER_CPU:
        return &s.queue[i.a + cpu]
    if i.flags & I_A_PER_PAIR:
        return &s.queue[i.a + cpu // 2]
    return &s.queue[i.a]

cdef inline Queue *queue_c(Sim *s, int cpu, Instruction *i) noexcept nogil:
    return &s.queue[i.c + cpu] if i.flags & I_C_PER_CPU else &s.queue[i.c]


# -- requests ------------------------------------------------------------------------------------------------------

cdef void took_page(Sim *s, int zone, idx i) noexcept nogil:
    s.allocated[zone] += 1 << word_order(s.zone[zone].page[i].word)

cdef void gave_page(Sim *s, int zone, idx i) noexcept nogil:
    s.allocated[zone] -= 1 << word_order(s.zone[zone].page[i].word)

cdef void alloc_next(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    if i.op == I_ALLOC:
        begin_alloc(x.call, &s.node[s.cpu[cpu].node], i.order, <int>i.gfp, cpu)
        log(s, cpu, L_ALLOC, 0, 0, 0, i.gfp, i.order)
        start_call(s, cpu, x, C_ALLOC, s.charge.alloc)
    else:
        x.nr_pages = <int>min(x.left, <uint32_t>s.most_pages)
        begin_bulk(x.call, &s.node[s.cpu[cpu].node], x.nr_pages, <int>i.gfp, cpu, x.pages)
        log(s, cpu, L_BULK, 0, 0, <uint32_t>x.nr_pages, i.gfp, 0)
        start_call(s, cpu, x, C_BULK, s.charge.alloc)

cdef int64_t alloc_answered(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    """The pages go where the program wants them. Returns the time that their user spends on them."""
    cdef Queue *queue = queue_a(s, cpu, i)
    cdef int got = x.call.got if i.op == I_BULK else x.call.page != 0
    cdef int zone
    cdef int k
    if got == 0:
        s.failed += 1
        x.left = 0
        return i.ps
    zone = zone_number(s, s.cpu[cpu].node, x.call.where)
    for k in range(got):
        if i.op == I_ALLOC:
            x.pages[0] = x.call.page
        s.allocated[zone] += 1 << i.order
        mark_movable(s, cpu, zone, x.pages[k], i.gfp)
        push(s, queue, <uint64_t>zone << 32 | x.pages[k])
    queue_changed(s, queue)
    x.left -= min(<uint32_t>got, x.left)
    return got * (
        i.ps + (s.charge.fault if i.flags & I_FAULT else 0) + ((s.charge.zero << i.order) if i.flags & I_ZERO else 0)
    )

cdef inline void mark_movable(Sim *s, int cpu, int zone, idx i, uint32_t gfp) noexcept nogil:
    """Its user puts a movable page on an LRU list, so no claim counts it as stuck (B-46)."""
    if gfp_type(<int>gfp) == MOVABLE:
        s.zone[zone].page[i].word |= MOVABLE_BIT
        log(s, cpu, L_MOVABLE, zone, pfn_of(&s.zone[zone], i), 0, 0, 0)

cdef void free_next(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    """One entry; or a folio batch, which ends where the zone changes."""
    cdef Queue *queue = queue_a(s, cpu, i)
    cdef uint64_t entry
    cdef uint32_t zone = 0
    cdef int most = <int>min(x.left, <uint32_t>BATCH) if i.flags & I_BATCH else 1
    if queue.nr == 0:
        next_instruction(x)
        return
    x.nr_pages = 0
    while x.nr_pages < most and queue.nr:
        entry = pop(s, queue, i.how, &s.cpu[cpu])
        if x.nr_pages and entry >> 32 != zone:
            push(s, queue, entry)          # a pop made room
            break
        zone = <uint32_t>(entry >> 32)
        x.pages[x.nr_pages] = <idx>entry
        x.nr_pages += 1
        gave_page(s, zone, <idx>entry)
    queue_changed(s, queue)
    x.left -= x.nr_pages
    free_pages(s, cpu, x, zone, OP_IRQ if i.flags & I_IRQ or s.cpu[cpu].level else 0, i.flags & I_BATCH)

cdef void free_pages(Sim *s, int cpu, Context *x, uint32_t zone, int flags, bint batch) noexcept nogil:
    cdef int k
    if batch:
        for k in range(x.nr_pages):
            log(s, cpu, L_BATCH, zone, pfn_of(&s.zone[zone], x.pages[k]), <uint32_t>(x.nr_pages - k), 0, flags)
        begin_free_batch(x.call, &s.zone[zone], x.pages, x.nr_pages, cpu, flags)
        start_call(s, cpu, x, C_BATCH, s.charge.free)
    else:
        log(s, cpu, L_FREE, zone, pfn_of(&s.zone[zone], x.pages[0]), 0, 0, flags)
        begin_free(x.call, &s.zone[zone], x.pages[0], cpu, flags)
        start_call(s, cpu, x, C_FREE, s.charge.free)

cdef inline void next_instruction(Context *x) noexcept nogil:
    x.pc += 1
    x.phase = P_FETCH

cdef void more(Sim *s, int cpu, Context *x) noexcept nogil:
    """The next request of an instruction that makes several."""
    cdef Instruction *i = &x.program[x.pc]
    if i.op == I_REPLAY:
        replay_next(s, cpu, x)
    elif x.left == 0:
        next_instruction(x)
    elif i.op == I_FREE:
        free_next(s, cpu, x, i)
    elif i.op == I_OFFLINE:
        offline_next(s, cpu, x, <int>i.a)
    elif i.op == I_ONLINE:
        online_next(s, cpu, x, <int>i.a)
    elif i.op >= I_CMA_ALLOC:
        contig_more(s, cpu, x, i)
    else:
        alloc_next(s, cpu, x, i)

cdef int64_t answered(Sim *s, int cpu, Context *x) noexcept nogil:
    """A call of the program is over. Returns the time that the program then needs for itself."""
    cdef Instruction *i = &x.program[x.pc]
    if i.op == I_ALLOC or i.op == I_BULK:
        return alloc_answered(s, cpu, x, i)
    if i.op == I_FREE:
        return x.nr_pages * i.ps
    if i.op == I_REPLAY:
        replay_answered(s, cpu, x)
    return 0


# -- CPUs that come and go -----------------------------------------------------------------------------------------

cdef bint can_go(Sim *s, int target) noexcept nogil:
    """It is on-line, and not the last one."""
    cdef int cpu
    if not s.zone[0].pcp[target].online:
        return False
    for cpu in range(s.cpus):
        if cpu != target and s.zone[0].pcp[cpu].online:
            return True
    return False

cdef bint busy(Sim *s, int cpu, int target) noexcept nogil:
    """Is another CPU being taken off, or the target in a call, or in a section of its program's?"""
    cdef Cpu *other = &s.cpu[target]
    cdef Context *x = &other.context[0]
    if s.hotplug and s.hotplug != cpu + 1:
        return True
    return target != cpu and (
        other.level or x.in_call or s.contig[target].on or other.user_locks or x.phase == P_USER_GRANTED
    )

cdef bint waits_for_quiet(Sim *s, int cpu, Context *x, int target) noexcept nogil:
    """An interrupt does not wait; it leaves it at that."""
    if not busy(s, cpu, target):
        return False
    if s.cpu[cpu].level:
        x.left = 0
        return True
    s.nr_quiet_sleepers += 1
    fall_asleep(s, cpu, S_QUIET)
    return True

cdef void offline_next(Sim *s, int cpu, Context *x, int target) noexcept nogil:
    """
    B-105, zone by zone, once the target makes no call.

    Then its program waits until it is on-line again; but a recording's requests are those that there were.
    """
    if x.turn == 0 and (not can_go(s, target) or waits_for_quiet(s, cpu, x, target)):
        x.left = x.left if s.cpu[cpu].sleeps else 0
    elif x.turn == s.nr_zones:
        s.cpu[target].offline = x.program[x.pc].op == I_OFFLINE
        s.hotplug = 0
        x.left = 0
        quiet(s)
    else:
        s.hotplug = cpu + 1
        s.cpu[target].offline = cpu != target
        begin_offline(x.call, &s.zone[x.turn], target, cpu if cpu != target else -1)
        log(s, cpu, L_OFFLINE, x.turn, 0, target, 0, 0)
        x.turn += 1
        start_call(s, cpu, x, C_OTHER, 0)

cdef void online_next(Sim *s, int cpu, Context *x, int target) noexcept nogil:
    """B-105: no lock is taken."""
    cdef int k
    if s.hotplug and waits_for_quiet(s, cpu, x, cpu):
        return
    for k in range(s.nr_zones):
        if not s.zone[k].pcp[target].online:
            online_cpu(&s.zone[k], target)
            log(s, cpu, L_ONLINE, k, 0, target, 0, 0)
    x.left = 0
    s.cpu[target].offline = False
    if s.cpu[target].sleeps == S_OFFLINE:
        wake(s, target)


# -- instructions ------------------------------------------------------------------------------------------------------

cdef int64_t think_time(Cpu *me, Instruction *i) noexcept nogil:
    if i.how == 1:
        return exponential(me, i.ps)
    if i.how == 2:
        return <int64_t>min(2 * uniform(me) * i.ps, <double>HORIZON)
    return i.ps

cdef bint waits_for_queue(Sim *s, int cpu, Instruction *i) noexcept nogil:
    cdef Queue *queue = queue_a(s, cpu, i)
    if queue.nr >= i.b if i.op == I_WAIT_LEAST else queue.nr <= i.b:
        return False
    sleep_on_queue(s, cpu, queue, S_LEAST if i.op == I_WAIT_LEAST else S_MOST, i.b)
    return True

cdef bint waits_at_barrier(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    s.barrier[i.a] += 1
    next_instruction(x)                    # that is where it goes on
    if <uint32_t>s.barrier[i.a] >= i.b:
        s.barrier[i.a] = 0
        wake_all(s, S_BARRIER, i.a)
        return False
    s.cpu[cpu].wants = i.a
    fall_asleep(s, cpu, S_BARRIER)
    return True

cdef void take_user_lock(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    cdef Lock *lock = user_lock(s, i.a)
    if lock.holder:
        x.phase = P_USER_GRANTED
        enqueue(s, lock, cpu, T_USER_WAIT)
        return
    x.until_ps = s.now_ps + line_ps(s, lock, cpu)
    hold(s, lock, cpu, 0, -1)
    s.cpu[cpu].user_locks += s.cpu[cpu].level == 0
    next_instruction(x)

cdef void drop_user_lock(Sim *s, int cpu, Lock *lock) noexcept nogil:
    """Nothing, if it has it not."""
    if lock.holder == cpu + 1 and lock.since_ps >= 0:
        release(s, lock, cpu)
        s.cpu[cpu].user_locks -= s.cpu[cpu].level == 0
        quiet(s)

cdef void move_entries(Sim *s, int cpu, Instruction *i) noexcept nogil:
    cdef Queue *source = queue_a(s, cpu, i)
    cdef Queue *target = queue_c(s, cpu, i)
    cdef uint32_t k = 0
    while k < i.b and source.nr:
        push(s, target, pop(s, source, i.how, &s.cpu[cpu]))
        k += 1
    queue_changed(s, source)
    queue_changed(s, target)

cdef void set_reclaim(Sim *s, int cpu, int node, bint on) noexcept nogil:
    cdef int k
    for k in range(s.nr_zones):
        if s.caches[k].home == node:
            s.zone[k].s.flags = s.zone[k].s.flags | RECLAIM_ACTIVE if on else s.zone[k].s.flags & ~RECLAIM_ACTIVE
            log(s, cpu, L_RECLAIM, k, 0, 0, 0, on)

cdef void repeat(Context *x, Instruction *i) noexcept nogil:
    x.counter[i.c] += 1
    if x.counter[i.c] < i.b:
        x.pc = i.a
    else:
        x.counter[i.c] = 0
        x.pc += 1

cdef void control(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    """Instructions that take no time and do not wait."""
    cdef Cpu *me = &s.cpu[cpu]
    if i.op == I_GOTO:
        x.pc = i.a
    elif i.op == I_REPEAT:
        repeat(x, i)
    elif i.op == I_CHANCE:
        x.pc = i.a if uniform(me) < i.x else x.pc + 1
    else:
        x.pc += 1
        if i.op == I_MOVE:
            move_entries(s, cpu, i)
        elif i.op == I_MEASURE:
            measure_from_now(s)
        elif i.op == I_WORK:
            me.work += i.b
        elif i.op == I_RECLAIM:
            set_reclaim(s, cpu, me.node, i.how)
        elif i.op == I_UNLOCK:
            drop_user_lock(s, cpu, user_lock(s, i.a))
        elif i.op == I_STOP:
            stop_now(s)
        elif i.op == I_TICK:
            set_outside(me, s.now_ps, me.next_irq_ps)
            outside_begins(s, cpu, me)

cdef void waiting(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    """Instructions that wait for other CPUs, or that end the program."""
    cdef Cpu *me = &s.cpu[cpu]
    if i.op == I_END:
        if me.level:
            end_interrupt(s, cpu)
        else:
            fall_asleep(s, cpu, S_DONE)
    elif i.op == I_LOCK:
        take_user_lock(s, cpu, x, i)
    elif me.level:                         # an interrupt does not sleep
        next_instruction(x)
    elif i.op == I_WAIT_FREE:
        if node_free(s, me.node, i.a, i.how):
            next_instruction(x)
        else:
            s.free_sleeper[s.nr_free_sleepers] = cpu
            s.nr_free_sleepers += 1
            fall_asleep(s, cpu, S_FREE)
    elif i.op == I_BARRIER:
        waits_at_barrier(s, cpu, x, i)
    elif not waits_for_queue(s, cpu, i):
        next_instruction(x)

cdef void fetch(Sim *s, int cpu, Context *x) noexcept nogil:
    """The next instruction."""
    cdef Instruction *i = &x.program[x.pc]
    s.idle_steps += 1
    if s.cpu[cpu].level == 0:
        s.program_ps = s.now_ps
    if s.idle_steps > IDLE_STEPS:
        s.trouble = ENDLESS
        s.trouble_cpu = cpu
    if i.op == I_ALLOC or i.op == I_BULK or i.op == I_FREE:
        x.left = i.b
        x.phase = P_MORE
    elif i.op == I_THINK:
        x.until_ps = s.now_ps + think_time(&s.cpu[cpu], i)
        x.pc += 1
    elif i.op >= I_OFFLINE and (s.cpu[cpu].level == 0 or i.op < I_CMA_ALLOC):
        x.left = 1
        x.turn = 0
        x.phase = P_MORE
    elif i.op == I_DRAIN:
        x.left = 0
        begin_drain_all(x.call, &s.node[s.cpu[cpu].node], cpu)
        log(s, cpu, L_DRAIN, 0, 0, 0, 0, 0)
        start_call(s, cpu, x, C_DRAIN, 0)
    elif i.op == I_REPLAY and s.cpu[cpu].level == 0:
        replay_fetch(s, cpu, x)
    elif i.op in (I_END, I_WAIT_LEAST, I_WAIT_MOST, I_WAIT_FREE, I_BARRIER, I_LOCK):
        waiting(s, cpu, x, i)
    else:
        control(s, cpu, x, i)
