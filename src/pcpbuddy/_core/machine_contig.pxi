# Contiguous memory in the machine: cma_alloc, cma_release, memory that goes and comes (contiguous.md). Included by
# machine.pyx.
#
# Several calls, one after the other; a tick may come between two. A page is moved where a queue has it: the entry names
# the new page from then on. One that is in a call's hands stays (the kernel: somebody holds a reference).

# -- which entry of which queue a page is in: kept where some program needs it ----------------------------------------

cdef inline void note_home(Sim *s, Queue *queue, uint64_t slot) noexcept nogil:
    cdef uint64_t entry = queue.entry[slot]
    if s.homes:
        s.home[entry >> 32][<idx>entry] = <uint64_t>(queue - s.queue + 1) << 40 | slot

cdef inline void forget_home(Sim *s, uint64_t entry) noexcept nogil:
    if s.homes:
        s.home[entry >> 32][<idx>entry] = 0

cdef bint move_entry(Sim *s, Contig *g) noexcept nogil:
    """Whoever has page old has the target from now on. Not if no queue has it."""
    cdef uint32_t zone = <uint32_t>(g.zone - s.zone)
    cdef uint32_t to = <uint32_t>(g.to - s.zone)
    cdef uint64_t home = s.home[zone][g.old]
    cdef int64_t pages = 1 << word_order(g.word)
    if not home:
        return False
    s.queue[(home >> 40) - 1].entry[home & ((<uint64_t>1 << 40) - 1)] = <uint64_t>to << 32 | g.target
    s.home[zone][g.old] = 0
    s.home[to][g.target] = home
    s.allocated[zone] -= pages
    s.allocated[to] += pages
    return True


# -- beginnings ---------------------------------------------------------------------------------------------------

cdef int cma_zone(Sim *s, int node) noexcept nogil:
    """The node's own last zone with a CMA area, else the farthest that has one; -1: none has."""
    cdef int k = s.node[node].nr - 1
    while k >= 0 and not s.node[node].zones[k].s.cma_pages:
        k -= 1
    return zone_number(s, node, k) if k >= 0 else -1

cdef bint waits_for_area(Sim *s, int cpu, int zone) noexcept nogil:
    """One cma_alloc at a time in an area (CT-9)."""
    if not s.area_mutex[zone]:
        s.area_mutex[zone] = cpu + 1
        return False
    s.cpu[cpu].wants = zone
    fall_asleep(s, cpu, S_AREA)
    return True

cdef bint begin_area(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    """CMA_ALLOC."""
    cdef ContigRun *run = &s.contig[cpu]
    cdef int zone = cma_zone(s, s.cpu[cpu].node)
    cdef idx start = 0
    cdef idx end = 0                       # the zone's first area
    if zone < 0:
        x.left = 0
        return False
    if waits_for_area(s, cpu, zone):
        return False
    next_area(&s.zone[zone], &start, &end)
    begin_cma_alloc(
        &run.contig, &run.call, &s.node[s.cpu[cpu].node], &s.zone[zone], start, end, i.b, i.order, cpu
    )
    log(s, cpu, L_CMA_ALLOC, zone, pfn_of(&s.zone[zone], start), i.b, 0, i.order)
    return True

cdef bint begin_release(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    """CMA_RELEASE: a range from queue a."""
    cdef ContigRun *run = &s.contig[cpu]
    cdef Queue *queue = queue_a(s, cpu, i)
    cdef uint64_t entry
    cdef int zone
    if not queue.nr:
        x.left = 0
        return False
    entry = pop(s, queue, i.how, &s.cpu[cpu])
    queue_changed(s, queue)
    zone = <int>(entry >> 32)
    s.allocated[zone] -= i.b
    begin_cma_release(&run.contig, &run.call, &s.zone[zone], <idx>entry, i.b, cpu)
    log(s, cpu, L_CMA_RELEASE, zone, pfn_of(&s.zone[zone], <idx>entry), i.b, 0, 0)
    return True

cdef bint begin_memory(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    """OFFLINE_MEMORY, ONLINE_MEMORY: b blocks from block a of the node's last zone on."""
    cdef ContigRun *run = &s.contig[cpu]
    cdef NodeRef *node = &s.node[s.cpu[cpu].node]
    cdef Zone *z = node.zones[node.nr - 1]
    cdef int zone = zone_number(s, s.cpu[cpu].node, node.nr - 1)
    cdef int64_t first = (z.s.start_pfn + PB_PAGES - 1) // PB_PAGES + i.a
    cdef idx start = index_of(z, first << PB)
    cdef idx end = start + (i.b << PB)
    cdef int what
    if (first + i.b) << PB > z.s.start_pfn + z.s.spanned or (
        i.op == I_ONLINE_MEMORY and first_memory(z, start, end) < end
    ):
        x.left = 0
        return False
    if waits_for_quiet(s, cpu, x, cpu):
        return False
    s.hotplug = cpu + 1
    if i.op == I_OFFLINE_MEMORY:
        begin_offline_pages(&run.contig, &run.call, node, z, start, end, cpu)
    else:
        begin_online_pages(&run.contig, &run.call, z, start, end, cpu)
    what = L_OFFLINE_MEMORY if i.op == I_OFFLINE_MEMORY else L_ONLINE_MEMORY
    log(s, cpu, what, zone, pfn_of(z, start), i.b << PB, 0, 0)
    return True


# -- from call to call -----------------------------------------------------------------------------------------------

cdef void contig_more(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    """P_MORE of these instructions: begin, go on, or end."""
    cdef ContigRun *run = &s.contig[cpu]
    cdef bint begun = run.on
    executes(s, cpu)
    if not begun:
        if i.op == I_CMA_ALLOC:
            run.on = begin_area(s, cpu, x, i)
        elif i.op == I_CMA_RELEASE:
            run.on = begin_release(s, cpu, x, i)
        else:
            run.on = begin_memory(s, cpu, x, i)
        run.from_ps = s.now_ps
    if run.on:
        contig_on(s, cpu, x, i, begun)

cdef void contig_on(Sim *s, int cpu, Context *x, Instruction *i, bint begun) noexcept nogil:
    cdef ContigRun *run = &s.contig[cpu]
    cdef Contig *g = &run.contig
    cdef int asked
    if begun:
        log(s, cpu, L_STEP, 0, 0, 0, 0, g.moved == MOVED)
    asked = contig_next(g)
    while asked == G_RANGE:
        asked = contig_next(g)
    if asked == G_CALL:
        x.call = &run.call
        start_call(s, cpu, x, C_OTHER, 0)
        return
    x.until_ps = s.now_ps + s.toucher.spent_ps
    s.toucher.spent_ps = 0
    if asked == G_MOVE:
        g.moved = MOVED if move_entry(s, g) else REFUSED
        if g.moved == MOVED:
            x.until_ps += i.ps << word_order(g.word)
    else:
        contig_over(s, cpu, x, i)

cdef void contig_over(Sim *s, int cpu, Context *x, Instruction *i) noexcept nogil:
    cdef ContigRun *run = &s.contig[cpu]
    cdef Contig *g = &run.contig
    cdef int zone = <int>(g.zone - s.zone)
    run.on = False
    x.left = 0
    if i.op == I_CMA_ALLOC:
        if g.page:
            s.allocated[zone] += i.b
            push(s, queue_a(s, cpu, i), <uint64_t>zone << 32 | g.page)
            queue_changed(s, queue_a(s, cpu, i))
        s.area_mutex[zone] = 0
        wake_all(s, S_AREA, zone)
    elif i.op != I_CMA_RELEASE:
        s.hotplug = 0
    if i.op == I_CMA_ALLOC or i.op == I_OFFLINE_MEMORY:
        count_call(s, C_CONTIG, s.now_ps - max(run.from_ps, s.start_ps))
    quiet(s)
