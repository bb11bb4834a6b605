# A recording in closed loop: each CPU carries out its own requests, in their order. Included by machine.pyx.
#
# What the handle map says is as in replay.pxd, but each allocation has handles of its own (workload/recorded.py).

cdef void replay_fetch(Sim *s, int cpu, Context *x) noexcept nogil:
    """The gap before the next request of this CPU's stream is time in which it computes."""
    cdef Cpu *me = &s.cpu[cpu]
    if me.cursor == s.first_request[cpu + 1]:
        next_instruction(x)
        return
    x.phase = P_MORE
    x.left = 1 << s.request[me.cursor].order
    x.turn = 0
    x.until_ps = s.now_ps + s.think_ps[me.cursor]

cdef void replay_next(Sim *s, int cpu, Context *x) noexcept nogil:
    cdef Cpu *me = &s.cpu[cpu]
    cdef Request *q
    if x.left == 0:                        # that request is done
        me.cursor += 1
        replay_fetch(s, cpu, x)
        return
    q = &s.request[me.cursor]
    if q.op == R_ALLOC:
        begin_alloc(x.call, &s.node[me.node], q.order, <int>q.gfp, cpu)
        log(s, cpu, L_ALLOC, 0, 0, 0, q.gfp, q.order)
        start_call(s, cpu, x, C_ALLOC, s.charge.alloc)
    elif q.op == R_FREE:
        replay_free_next(s, cpu, x, q)
    elif q.op == R_BULK:
        x.nr_pages = <int>min(q.nr, <uint32_t>s.most_pages)
        begin_bulk(x.call, &s.node[me.node], x.nr_pages, <int>q.gfp, cpu, x.pages)
        log(s, cpu, L_BULK, 0, 0, <uint32_t>x.nr_pages, q.gfp, 0)
        start_call(s, cpu, x, C_BULK, s.charge.alloc)
    elif q.op == R_OFFLINE:
        offline_next(s, cpu, x, cpu)
    elif q.op == R_ONLINE:
        online_next(s, cpu, x, cpu)
    else:
        x.left = 0
        replay_other(s, cpu, x, q)

cdef void replay_other(Sim *s, int cpu, Context *x, Request *q) noexcept nogil:
    cdef int k
    if q.op == R_TICK:                     # nr: which zone of the node
        for k in range(s.nr_zones):
            if <uint32_t>s.zone[k].s.zone_index == q.nr:
                begin_tick(x.call, &s.zone[k], cpu)
                log(s, cpu, L_TICK, k, 0, 0, 0, 0)
                start_call(s, cpu, x, C_TICK, 0)
                return
    elif q.op == R_FOLD:
        for k in range(s.nr_zones):
            fold(&s.zone[k], cpu, True)
            log(s, cpu, L_FOLD, k, 0, 0, 0, 0)
    elif q.op == R_ISOLATE or q.op == R_UNISOLATE:
        k = zone_of_pfn(s, q.pfn)
        begin_isolate(x.call, &s.zone[k], index_of(&s.zone[k], q.pfn), 1, cpu)
        if q.op == R_UNISOLATE:
            x.call.then = OVER
            x.call.op.section = Z_UNISOLATE
        log(s, cpu, L_ISOLATE if q.op == R_ISOLATE else L_UNISOLATE, k, q.pfn, 0, 0, 0)
        start_call(s, cpu, x, C_OTHER, 0)

cdef void split_around(Sim *s, int cpu, int zone, idx i, uint32_t n) noexcept nogil:
    """The allocations that pages i to i+n-1 belong to become single pages."""
    cdef Zone *z = &s.zone[zone]
    cdef idx p
    cdef idx head
    executes(s, cpu)
    for p in range(i, i + n):
        head = p
        while (word_of(z, head) & 7) != ALLOC:
            head -= 1
        if word_order(word_of(z, head)):
            log(s, cpu, L_SPLIT, zone, pfn_of(z, head), 0, 0, 0)
            split_page(z, head)

cdef void replay_free_next(Sim *s, int cpu, Context *x, Request *q) noexcept nogil:
    """Page by page through the map, like the replay in handle mode; pages that lie side by side go together."""
    cdef uint32_t h = q.pfn + (1u << q.order) - x.left
    cdef uint32_t own = s.handle[h]
    cdef uint32_t n
    cdef int zone
    cdef idx i
    if own == H_UNKNOWN:                   # its allocation has not come yet: a stall
        s.stalls += 1
        s.cpu[cpu].wants = h
        s.nr_handle_sleepers += 1
        fall_asleep(s, cpu, S_HANDLE)
        return
    if own < H_BIAS:                       # that allocation failed here
        x.left -= 1
        return
    zone = zone_of_pfn(s, own - H_BIAS)
    i = index_of(&s.zone[zone], own - H_BIAS)
    n = unmap_run(&s.handle[h], own, x.left)
    x.left -= n
    s.allocated[zone] -= n
    if (word_of(&s.zone[zone], i) & 7) == ALLOC and 1u << word_order(word_of(&s.zone[zone], i)) == n:
        x.pages[0] = i
        x.nr_pages = 1
        free_pages(s, cpu, x, <uint32_t>zone, 0, False)
        return
    split_around(s, cpu, zone, i, n)
    bump(&s.zone[zone].counts[cpu].pages_freed, n)
    begin_free_run(x.call, &s.zone[zone], i, n, cpu)
    log(s, cpu, L_RUN, zone, own - H_BIAS, n, 0, 0)
    start_call(s, cpu, x, C_FREE, s.charge.free)

cdef void replay_answered(Sim *s, int cpu, Context *x) noexcept nogil:
    cdef Request *q = &s.request[s.cpu[cpu].cursor]
    cdef int zone
    if q.op == R_ALLOC:
        x.left = 0
        if x.call.page:
            zone = zone_number(s, s.cpu[cpu].node, x.call.where)
            mark_movable(s, cpu, zone, x.call.page, q.gfp)
            s.allocated[zone] += 1 << q.order
            map_run(&s.handle[q.pfn], <uint32_t>pfn_of(&s.zone[zone], x.call.page), 1u << q.order)
        else:
            nothing_for(s, q.pfn, 1u << q.order)
        if s.nr_handle_sleepers:
            wake_for_handles(s, q.pfn, 1u << q.order)
    elif q.op == R_BULK:
        x.left = 0
        bulk_answered(s, cpu, x, q)

cdef void nothing_for(Sim *s, uint32_t h, uint32_t n) noexcept nogil:
    cdef uint32_t k
    s.failed += 1
    for k in range(h, h + n):
        s.handle[k] = H_FAILED

cdef void bulk_answered(Sim *s, int cpu, Context *x, Request *q) noexcept nogil:
    """Its pages go to the rows of the bulk, between which frees may stand."""
    cdef Request *end = &s.request[s.first_request[cpu + 1]]
    cdef int zone = zone_number(s, s.cpu[cpu].node, x.call.where) if x.call.got else 0
    cdef uint32_t rows = q.nr
    cdef int k = 0
    while rows and q < end:
        if q.op == R_BULK or q.op == R_BULK_MORE:
            rows -= 1
            if k < x.call.got:
                s.handle[q.pfn] = <uint32_t>(pfn_of(&s.zone[zone], x.pages[k]) + H_BIAS)
                s.allocated[zone] += 1
                k += 1
            else:
                nothing_for(s, q.pfn, 1)
            if s.nr_handle_sleepers:
                wake_for_handles(s, q.pfn, 1)
        q += 1

cdef void wake_for_handles(Sim *s, uint32_t h, uint32_t n) noexcept nogil:
    cdef int cpu
    for cpu in range(s.cpus):
        if s.cpu[cpu].sleeps == S_HANDLE and s.cpu[cpu].wants - h < n:
            s.nr_handle_sleepers -= 1
            s.stall_ps += s.now_ps - s.cpu[cpu].sleep_from_ps
            wake(s, cpu)
