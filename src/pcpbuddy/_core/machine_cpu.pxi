# A virtual CPU: its events, its sleep, ticks and interrupts. Included by machine.pyx.

cdef inline Context *context(Cpu *me) noexcept nogil:
    return &me.context[me.level]

cdef inline int busy_with(Cpu *me) noexcept nogil:
    if context(me).in_call:
        return T_ALLOCATOR
    if me.level:
        return T_INTERRUPT
    if me.sleeps == S_DONE:
        return T_DONE
    return T_SLEEP if me.sleeps else T_USER

cdef inline bint interruptible(Cpu *me) noexcept nogil:
    """
    P-43: also while a PCP lock is held, since that is taken with interrupts on. Not under the zone lock, nor under a
    lock of the program's: an interrupt may take it too, so a task takes it with interrupts off.
    """
    cdef Context *x = &me.context[0]
    return (
        me.level == 0 and not x.zone_held and not me.user_locks and not me.offline
        and x.phase != P_GRANTED and x.phase != P_USER_GRANTED
    )

cdef inline bint can_tick(Cpu *me) noexcept nogil:
    """Between two calls of the task: what folds and drains is a task of its own, which preempts no spin lock."""
    cdef Context *x = &me.context[0]
    return me.level == 0 and not x.in_call and not me.user_locks and x.phase != P_USER_GRANTED and not me.offline

cdef inline void set_outside(Cpu *me, int64_t next_tick_ps, int64_t next_irq_ps) noexcept nogil:
    me.next_tick_ps = next_tick_ps
    me.next_irq_ps = next_irq_ps
    me.outside_ps = min(next_tick_ps, next_irq_ps)

cdef int64_t from_outside(Sim *s, Cpu *me, int64_t at_ps) noexcept nogil:
    """The next event, where a tick or an interrupt may come before that of the context."""
    if me.next_irq_ps < at_ps and interruptible(me):
        at_ps = max(me.next_irq_ps, s.now_ps)
    if me.next_tick_ps < at_ps and can_tick(me):
        at_ps = max(me.next_tick_ps, s.now_ps)
    return at_ps

cdef inline void plan(Sim *s, int cpu) noexcept nogil:
    """The next event: that of the context, or a tick or an interrupt before it."""
    cdef Cpu *me = &s.cpu[cpu]
    cdef Context *x = context(me)
    cdef int64_t at_ps = x.until_ps
    if me.outside_ps < at_ps:
        at_ps = from_outside(s, me, at_ps)
    schedule(s, cpu, at_ps)


# -- sleep --------------------------------------------------------------------------------------------------

cdef void fall_asleep(Sim *s, int cpu, int why) noexcept nogil:
    cdef Cpu *me = &s.cpu[cpu]
    me.sleeps = why
    me.sleep_from_ps = s.now_ps
    me.wake_phase = P_MORE if why in (S_HANDLE, S_QUIET, S_AREA) else P_FETCH
    me.context[0].phase = P_ASLEEP
    me.context[0].until_ps = NEVER
    s.awake -= 1
    if why == S_DONE:
        s.nr_done += 1
    spend(s, me, busy_with(me))

cdef void wake(Sim *s, int cpu) noexcept nogil:
    """It goes on with the instruction that it fell asleep in, and looks again."""
    cdef Cpu *me = &s.cpu[cpu]
    cdef Context *x = &me.context[0]
    s.nr_quiet_sleepers -= me.sleeps == S_QUIET
    me.sleeps = S_NO
    if x.ticking:
        x.resume_phase = me.wake_phase
        x.resume_ps = x.tick_from_ps + s.charge.wake
    elif me.level:
        x.phase = me.wake_phase
        x.until_ps = me.irq_from_ps + s.charge.wake
    else:
        x.phase = me.wake_phase
        x.until_ps = s.now_ps + s.charge.wake
        s.awake += 1
        spend(s, me, busy_with(me))
        plan(s, cpu)

cdef void sleep_on_queue(Sim *s, int cpu, Queue *queue, int why, uint64_t wants) noexcept nogil:
    cdef Cpu *me = &s.cpu[cpu]
    me.wants = wants
    me.next_sleeper = queue.sleepers
    queue.sleepers = cpu + 1
    if why == S_LEAST:
        queue.least = min(queue.least, wants)
    else:
        queue.most = max(queue.most, <int64_t>wants)
    fall_asleep(s, cpu, why)

cdef void wake_queue(Sim *s, Queue *queue) noexcept nogil:
    """All whose length it has now; they look again when they run. The others stay."""
    cdef int cpu = queue.sleepers - 1
    cdef int next
    cdef Cpu *me
    queue.sleepers = 0
    queue.least = ~<uint64_t>0
    queue.most = -1
    while cpu >= 0:
        me = &s.cpu[cpu]
        next = me.next_sleeper - 1
        if queue.nr >= me.wants if me.sleeps == S_LEAST else queue.nr <= me.wants:
            wake(s, cpu)
        else:
            me.next_sleeper = queue.sleepers
            queue.sleepers = cpu + 1
            if me.sleeps == S_LEAST:
                queue.least = min(queue.least, me.wants)
            else:
                queue.most = max(queue.most, <int64_t>me.wants)
        cpu = next

cdef inline void queue_changed(Sim *s, Queue *queue) noexcept nogil:
    if queue.sleepers and (queue.nr >= queue.least or <int64_t>queue.nr <= queue.most):
        wake_queue(s, queue)

cdef inline void quiet(Sim *s) noexcept nogil:
    """Some CPU has come to the end of what keeps it on-line."""
    cdef int cpu
    if s.nr_quiet_sleepers:
        for cpu in range(s.cpus):
            if s.cpu[cpu].sleeps == S_QUIET:
                wake(s, cpu)

cdef void wake_all(Sim *s, int why, uint64_t wants) noexcept nogil:
    cdef int cpu
    for cpu in range(s.cpus):
        if s.cpu[cpu].sleeps == why and s.cpu[cpu].wants == wants:
            wake(s, cpu)

cdef bint node_free(Sim *s, int node, int which, bint above) noexcept nogil:
    """Are the free pages of the node's zones, all in all, below that watermark, or above it?"""
    cdef int64_t free = 0
    cdef int64_t mark = 0
    cdef int k
    for k in range(s.nr_zones):
        if s.caches[k].home == node:
            free += visible(&s.zone[k], NR_FREE)
            mark += watermark(&s.zone[k], which)
    return free > mark if above else free < mark

cdef void look_at_free(Sim *s) noexcept nogil:
    """Whoever waits for free memory to fall or rise."""
    cdef int k = 0
    cdef int cpu
    cdef Instruction *i
    while k < s.nr_free_sleepers:
        cpu = s.free_sleeper[k]
        i = &s.cpu[cpu].context[0].program[s.cpu[cpu].context[0].pc]
        if node_free(s, s.cpu[cpu].node, i.a, i.how):
            s.nr_free_sleepers -= 1
            s.free_sleeper[k] = s.free_sleeper[s.nr_free_sleepers]
            wake(s, cpu)
        else:
            k += 1


# -- ticks and interrupts -------------------------------------------------------------------------------------

cdef void begin_ticking(Sim *s, int cpu) noexcept nogil:
    """B-101, between two calls of the task; one zone after the other."""
    cdef Cpu *me = &s.cpu[cpu]
    cdef Context *x = &me.context[0]
    if me.sleeps:
        s.awake += 1
    x.ticking = True
    x.resume_ps = x.until_ps
    x.resume_phase = x.phase
    x.tick_from_ps = s.now_ps
    x.tick_zone = 0
    set_outside(me, s.now_ps + s.tick_ps if s.tick_ps else NEVER, me.next_irq_ps)
    tick_zone(s, cpu, x)

cdef void tick_zone(Sim *s, int cpu, Context *x) noexcept nogil:
    begin_tick(x.call, &s.zone[x.tick_zone], cpu)
    log(s, cpu, L_TICK, x.tick_zone, 0, 0, 0, 0)
    start_call(s, cpu, x, C_TICK, 0)

cdef void tick_over(Sim *s, int cpu, Context *x) noexcept nogil:
    cdef Cpu *me = &s.cpu[cpu]
    x.tick_zone += 1
    if x.tick_zone < <uint32_t>s.nr_zones:
        tick_zone(s, cpu, x)
        return
    x.ticking = False
    x.phase = x.resume_phase
    x.until_ps = x.resume_ps
    if me.sleeps:
        s.awake -= 1
    else:
        x.until_ps += s.now_ps - x.tick_from_ps
    spend(s, me, busy_with(me))

cdef void begin_interrupt(Sim *s, int cpu) noexcept nogil:
    cdef Cpu *me = &s.cpu[cpu]
    cdef Context *x = &me.context[1]
    if me.sleeps and not me.context[0].ticking:
        s.awake += 1
    me.level = 1
    me.irq_from_ps = s.now_ps
    x.program = s.irq_program
    x.pc = 0
    x.phase = P_FETCH
    x.until_ps = s.now_ps + s.charge.interrupt
    spend(s, me, T_INTERRUPT)

cdef void end_interrupt(Sim *s, int cpu) noexcept nogil:
    """What was interrupted goes on, by that much later."""
    cdef Cpu *me = &s.cpu[cpu]
    cdef Context *x = &me.context[0]
    me.level = 0
    set_outside(me, me.next_tick_ps, s.now_ps + max(exponential(me, s.irq_mean_ps), <int64_t>1))
    if x.until_ps != NEVER:
        x.until_ps += s.now_ps - me.irq_from_ps
    if me.sleeps and not x.ticking:
        s.awake -= 1
    spend(s, me, busy_with(me))
    quiet(s)


# -- one event ------------------------------------------------------------------------------------------------

cdef void act(Sim *s, int cpu, Context *x) noexcept nogil:
    """The lock action of the call, which is due now, and what follows up to the next."""
    cdef Op *op = &x.call.op
    cdef int a = x.action
    cdef bint zone = a >= LOCK_ZONE
    cdef Lock *lock = zone_lock(s, x.zone) if zone else pcp_lock(s, x.zone, op.target)
    cdef int64_t took = 0
    cdef int kind
    op.got = True
    if a == UNLOCK_ZONE or a == UNLOCK_PCP:
        if zone:
            x.zone_held = False
        release(s, lock, cpu)
    else:
        kind = zone_kind(op.at) if zone else pcp_kind(op)
        if not lock.holder:
            took = line_ps(s, lock, cpu)
            hold(s, lock, cpu, kind, -1)
            x.zone_held = x.zone_held or zone
        elif a == TRY_ZONE or a == TRY_PCP:
            op.got = False
            lock.stats[kind].failed += 1
            took = line_ps(s, lock, cpu)
        else:
            x.zone_held = x.zone_held or zone
            x.phase = P_GRANTED
            enqueue(s, lock, cpu, T_ZONE_WAIT if zone else T_PCP_WAIT)
            return
    go_on(s, cpu, x, False, took)

cdef void granted(Sim *s, int cpu, Context *x) noexcept nogil:
    cdef Op *op = &x.call.op
    cdef bint zone = x.action >= LOCK_ZONE
    hold(
        s, zone_lock(s, x.zone) if zone else pcp_lock(s, x.zone, op.target), cpu,
        zone_kind(op.at) if zone else pcp_kind(op), s.now_ps - max(x.wait_from_ps, s.start_ps),
    )
    op.got = True
    spend(s, &s.cpu[cpu], T_ALLOCATOR)
    go_on(s, cpu, x, False, 0)

cdef inline void go_on(Sim *s, int cpu, Context *x, bint first, int64_t took) noexcept nogil:
    x.phase = P_ACT if run_on(s, cpu, x, first) else P_OVER
    x.until_ps += took
    if s.nr_free_sleepers:
        look_at_free(s)

cdef void start_call(Sim *s, int cpu, Context *x, int kind, int64_t took) noexcept nogil:
    x.in_call = True
    x.kind = kind
    x.call_from_ps = s.now_ps
    s.requests += 1
    spend(s, &s.cpu[cpu], T_ALLOCATOR)
    go_on(s, cpu, x, True, took)

cdef void count_call(Sim *s, int kind, int64_t took) noexcept nogil:
    s.call_count[kind] += 1
    s.call_ps[kind] += took
    s.call_max_ps[kind] = max(s.call_max_ps[kind], took)
    s.call_hist[kind * BINS + bin_of(took)] += 1

cdef void call_over(Sim *s, int cpu, Context *x) noexcept nogil:
    x.in_call = False
    x.call = &x.record
    count_call(s, x.kind, s.now_ps - max(x.call_from_ps, s.start_ps))
    if x.ticking:
        tick_over(s, cpu, x)
    else:
        x.phase = P_MORE
        x.until_ps = s.now_ps + answered(s, cpu, x)
        spend(s, &s.cpu[cpu], busy_with(&s.cpu[cpu]))
    quiet(s)

cdef void program(Sim *s, int cpu, Context *x) noexcept nogil:
    """What the program does next."""
    cdef Cpu *me = &s.cpu[cpu]
    cdef int phase
    if s.stop_ps >= 0 and not (me.level == 0 and s.contig[cpu].on):    # the run is over: no new call begins
        if me.level:
            end_interrupt(s, cpu)
        elif not me.sleeps:
            fall_asleep(s, cpu, S_DONE)
    elif me.offline and me.level == 0 and not s.contig[cpu].on:
        phase = x.phase
        fall_asleep(s, cpu, S_OFFLINE)
        me.wake_phase = phase
    elif x.phase == P_MORE:
        more(s, cpu, x)
    elif x.phase == P_FETCH:
        fetch(s, cpu, x)

cdef void user_granted(Sim *s, int cpu, Context *x) noexcept nogil:
    cdef Cpu *me = &s.cpu[cpu]
    hold(s, user_lock(s, x.program[x.pc].a), cpu, 0, s.now_ps - max(x.wait_from_ps, s.start_ps))
    me.user_locks += me.level == 0
    spend(s, me, busy_with(me))
    next_instruction(x)

cdef void outside_begins(Sim *s, int cpu, Cpu *me) noexcept nogil:
    """An interrupt, or a tick, where it is their turn."""
    if me.next_irq_ps <= s.now_ps and interruptible(me):
        begin_interrupt(s, cpu)
    elif me.next_tick_ps <= s.now_ps and can_tick(me):
        begin_ticking(s, cpu)

cdef inline void due(Sim *s, int cpu, Context *x) noexcept nogil:
    if x.phase == P_ACT:
        act(s, cpu, x)
    elif x.phase == P_OVER:
        call_over(s, cpu, x)
    elif x.phase == P_GRANTED:
        granted(s, cpu, x)
    elif x.phase == P_USER_GRANTED:
        user_granted(s, cpu, x)
    else:
        program(s, cpu, x)

cdef void event(Sim *s, int cpu) noexcept nogil:
    """What is due for the CPU now, and what then takes no time; some of it at least, so that a run can be stopped."""
    cdef Cpu *me = &s.cpu[cpu]
    cdef int rounds = 0
    if me.outside_ps <= s.now_ps:
        outside_begins(s, cpu, me)
    while context(me).until_ps <= s.now_ps and rounds < ROUNDS and not s.trouble:
        due(s, cpu, context(me))
        if me.waits:
            return
        rounds += 1
    plan(s, cpu)
