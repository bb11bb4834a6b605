# Second pass over the rows of a recording: each does here what it shows there. Included by core.pyx.

# -- allocations ---------------------------------------------------------------------------------------------

cdef int flags_of(Retrace *r, Row *row) noexcept nogil:
    """Allocation flags of a request that shows only its GFP flags, or only its type (B-28). CMA is for movable ones."""
    cdef int first
    cdef int flags = WMARK_LOW | USE_CMA
    if row.aflags != NO_FIELD:
        flags = row.aflags
    elif row.gfp:
        first = preferred(&r.node, gfp_zone(row.gfp))
        flags = fast_flags(&r.node, first if first >= 0 else 0, row.order, row.gfp)
    return flags if row.type == MOVABLE else flags & ~USE_CMA

cdef void note_below_high(Retrace *r, Row *row, int zone, int aflags) noexcept nogil:
    """B-75: the search for a zone came by those above the row's, and marks each that is below its high watermark."""
    cdef int highest = gfp_zone(row.gfp) if row.gfp else (ZONE_MOVABLE if row.type == MOVABLE else ZONE_NORMAL)
    cdef int k = preferred(&r.node, highest)
    cdef CZone *z
    while k >= zone:
        z = zone_nr(r, k)
        if not z.s.flags & BELOW_HIGH and not watermark_fast(z, row.order, 2, highest, aflags):
            z.s.flags |= BELOW_HIGH
        k -= 1

cdef void note_growth(Retrace *r, Row *row, int zone, int cpu) noexcept nogil:
    """
    A row that shows high after a refill shows whether BELOW_HIGH was set then (B-64 step 3; R8).

    A search that found no zone may have set it (B-75), and leaves no row.
    """
    cdef CZone *z = zone_nr(r, zone)
    cdef Pcp *p = &z.pcp[cpu]
    cdef int high = max(min(p.high, p.high_max), p.high_min)
    cdef int grown = min(high + (p.batch if row.order > 0 else p.batch << p.alloc_factor), p.high_max)
    if row.high == NO_FIELD or high < p.batch or p.high_min == p.high_max or grown == high:
        return
    if row.high == (grown if z.s.flags & BELOW_HIGH else high):
        z.s.flags ^= BELOW_HIGH
        r.taken[8] += 1

cdef Under *begin_alloc(Retrace *r, Row *row, int cpu, int zone, uint64_t owner, bint tried) noexcept nogil:
    """The request of a row; up to its first zone section, or to its end. tried: the PCP's trylock had its lock."""
    cdef int kind = C_ALLOC
    cdef int at = A_TRIED
    cdef int aflags = flags_of(r, row)
    cdef Under *x
    note_below_high(r, row, zone, aflags)
    if not r.plain and not past_pcp(row.order) and tried and not list_has(zone_nr(r, zone), cpu, row.order, row.type):
        note_growth(r, row, zone, cpu)
    if row.event == V_PCP_BULK:
        kind = C_BULK
        at = B_TRIED
    elif past_pcp(row.order) or not tried:
        kind = C_DIRECT
        if past_pcp(row.order):
            at = A_START
    x = new_under(r, cpu, zone, kind, owner)
    begin(&x.op, at, tried, cpu)
    x.op.order = <uint8_t>row.order
    x.op.type = <uint8_t>row.type
    x.op.aflags = aflags
    if kind == C_BULK:
        x.op.pages = &x.page
        x.op.nr = 1
    if kind != C_DIRECT:
        holder_of(r, zone, cpu)[0] = x
    advance(r, x)
    return x

cdef inline idx obtained_by(Under *x) noexcept nogil:
    if x.kind == C_BULK:
        return x.page if x.op.k else 0
    return x.op.page

cdef void on_section_row(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    """zone_locked, extfrag, claim: the first of a section runs all of it."""
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef Under *x = NULL
    if row.owner:
        x = find_owned(r, row.cpu, row.owner)
        if x is NULL and row.owner - 1 > serial:
            x = begin_owner(r, row, row_at(r, row.owner - 1), zone, serial)
        if x is not NULL and x.action == LOCK_ZONE and x.zone == zone:
            if r.nr_waiting:
                run_among_waiting(r, x, serial)
            else:
                run_told(r, x, serial)
            if x.action == LOCK_ZONE and x.op.at == A_RESERVE:
                x.op.got = True
                if not r.plain:            # its rows come later, perhaps after other sections: they do it
                    x.op.at = A_SERVED
                advance(r, x)
        else:
            open_empty(r, zone, row.cpu)   # nothing was due here
    elif row.done:
        open_empty(r, zone, row.cpu)       # its request is in no row
        r.unexpected += 1
    if row.event != V_CLAIM:
        match(r, zone, row)

cdef void open_empty(Retrace *r, int zone, int cpu) noexcept nogil:
    """A section of the recording without one of ours: none of its rows can be exact."""
    cdef Section *s = &r.section[zone]
    close_section(r, zone)
    s.kind = D_REFILL
    s.cpu = cpu
    s.at = r.ring[zone].written
    s.end = s.at
    s.exact = False

cdef Under *begin_owner(Retrace *r, Row *row, Row *request, int zone, uint64_t serial) noexcept nogil:
    """The request whose section begins at `row`."""
    cdef bint tried = True
    if not past_pcp(request.order) and holder_of(r, zone, row.cpu)[0] is not NULL:
        release_holder(r, zone, row.cpu, request)
    if r.plain and r.mode != FREE_RUN and not past_pcp(request.order):
        tried = expect_refill(r, row, request, zone, serial)
    return begin_alloc(r, request, row.cpu, zone, row.owner, tried)

cdef bint list_has(CZone *z, int cpu, int o, int T) noexcept nogil:
    cdef idx head = cpu_head(cpu, list_index(z, o, T))
    return z.page[head].next != head

cdef void on_pcp_alloc(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    cdef int zone = zone_of_row(r, row)
    cdef CZone *z = zone_nr(r, zone)
    cdef Under *x = find_owned(r, row.cpu, serial + 1) if row.owner else NULL
    cdef idx i
    if x is NULL:
        if holder_of(r, zone, row.cpu)[0] is not NULL:
            release_holder(r, zone, row.cpu, row)
        if row.event == V_PCP_ALLOC and row.pfn != NOT_THERE and list_has(z, row.cpu, row.order, row.type):
            note_below_high(r, row, zone, flags_of(r, row))
            i = alloc_page(z, row.cpu, row.order, row.type, flags_of(r, row))
            compare_fields(r, zone, row)
            compare_alloc(r, zone, row, i)
            r.notes[row.pfn] |= POPPED
            return
        x = begin_alloc(r, row, row.cpu, zone, serial + 1, True)
        if row.pfn != NOT_THERE and x.action == LOCK_ZONE:
            note(r, D_REFILL, row, zone, NOT_THERE, NOT_THERE)
    while x.action == LOCK_ZONE and (row.pfn != NOT_THERE or x.op.at == A_REFILL or x.op.at == B_REFILL):
        run_aside(r, x)
    compare_fields(r, zone, row)
    i = obtained_by(x)
    if row.pfn != NOT_THERE:
        compare_alloc(r, zone, row, i)
        if row.event == V_PCP_ALLOC:
            r.notes[row.pfn] |= POPPED
    elif x.action == LOCK_ZONE:
        x.kind = C_DIRECT                  # its section past the PCP comes after this row
        return
    elif i:
        note(r, D_ALLOC, row, zone, <uint32_t>pfn_of(z, i), NOT_THERE)
        if is_allocated(z, i):
            free_by_policy(z, row.cpu, i, 0)
    end_under(r, x)

cdef void on_tryfail(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    r.taken[2] += 1
    begin_alloc(r, row, row.cpu, zone_of_row(r, row), serial + 1, False)

cdef void on_unaccounted(Retrace *r, Row *row) noexcept nogil:
    """No pop and no section gave this page: compaction captured it (B-118, R6), or rows were lost."""
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef idx i = 0
    if r.compacts and r.mode != FREE_RUN:
        i = fetch(r, row)
        r.taken[6] += i != 0
    compare_alloc(r, zone, row, i)

cdef void on_mm_page_alloc(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    """Of interest where the page came past the PCP: no row but this one shows which it was."""
    cdef Under *x = NULL
    cdef int c
    if row.owner:
        for c in range(r.cpus):
            x = find_owned(r, c, serial + 1)
            if x is not NULL:
                r.taken[3] += c != row.cpu
                break
    if x is NULL and row.pfn != NOT_THERE and r.notes[row.pfn] & POPPED:
        r.notes[row.pfn] &= ~POPPED
        return
    if x is NULL:
        x = find_direct(r, row)
    if x is NULL:
        if row.pfn != NOT_THERE and row.order >= 0 and not r.map[row.pfn]:
            on_unaccounted(r, row)
        return
    while x.action == LOCK_ZONE:
        run_aside(r, x)
    if row.pfn != NOT_THERE:
        compare_alloc(r, x.zone, row, x.op.page)
    elif x.op.page:
        note(r, D_ALLOC, row, x.zone, <uint32_t>pfn_of(zone_nr(r, x.zone), x.op.page), NOT_THERE)
        if is_allocated(zone_nr(r, x.zone), x.op.page):
            free_by_policy(zone_nr(r, x.zone), row.cpu, x.op.page, 0)
    end_under(r, x)


# -- frees -----------------------------------------------------------------------------------------------------

cdef Under *begin_free(Retrace *r, Row *row, int zone, idx i, bint tried) noexcept nogil:
    """A free at the point where its PCP lock is had, or was refused. NULL: it is done."""
    cdef Under *x = new_under(r, row.cpu, zone, C_FREE, 0)
    begin(&x.op, F_NEXT, False, row.cpu)
    x.page = i
    x.task = task_of(row)
    x.pfn = row.pfn
    x.op.flags = OP_PREPARED | (OP_TAIL if row.fpi > 0 and row.fpi & FPI_TO_TAIL else 0)
    x.op.pages = &x.page
    x.op.nr = 1
    x.op.end = 1
    zone_nr(r, zone).counts[row.cpu].pages_freed += 1 << row.order
    advance(r, x)
    if x.kind == C_FREE and x.action == TRY_PCP:
        if tried:
            grant_pcp(r, x)
        else:
            r.taken[2] += 1
            x.op.got = False
            advance(r, x)
    return x if x.kind == C_FREE else NULL

cdef void gave_up_drains(Retrace *r, Row *row) noexcept nogil:
    """A task that frees its next page is done with the drain of the page before."""
    cdef int k
    cdef int64_t task = task_of(row)
    if row.pid == NO_FIELD:
        return
    for k in range(row.cpu * DEPTH, (row.cpu + 1) * DEPTH):
        if r.under[k].kind == C_FREE and r.under[k].in_gap and r.under[k].task == task:
            leave_below_high(zone_nr(r, r.under[k].zone))   # B-82 step 6 comes all the same
            give_up(r, &r.under[k])

cdef Under *freed(Retrace *r, Row *row, int zone, bint tried) noexcept nogil:
    """The page of a row, into its PCP or past it. NULL: that is done."""
    cdef idx i = own_entry(r, row, &zone)
    cdef CZone *z = zone_nr(r, zone)
    if not i:
        note(r, D_FREE, row, zone, NOT_THERE, row.pfn)
        if r.mode == RESYNC:
            free_pieces(r, row)            # those that are known; then the whole, from wherever it is
            i = resync(r, zone, row, 0)
            zone = node_zone_of(&r.node, row.pfn)
            z = zone_nr(r, zone)
        if not i:
            free_pieces(r, row)
            return NULL
    if tried and row.type >= 0 and list_type(block_type(z, i)) != row.type:
        note(r, D_LIST, row, zone, list_type(block_type(z, i)), row.type)
    r.taken[5] += not r.plain and row.fpi > 0 and row.fpi & FPI_CONTIG != 0
    forget(r, row)
    return begin_free(r, row, zone, i, tried)

cdef void on_pcp_free(Retrace *r, Row *row) noexcept nogil:
    cdef int zone = zone_of_row(r, row)
    cdef CZone *z = zone_nr(r, zone)
    r.frees += 1
    gave_up_drains(r, row)
    if holder_of(r, zone, row.cpu)[0] is not NULL:
        release_holder(r, zone, row.cpu, row)
    if row.zone_flags >= 0 and z.s.flags != <uint32_t>row.zone_flags:
        r.taken[8] += 1
        z.s.flags = row.zone_flags
    compare_fields(r, zone, row)
    freed(r, row, zone, True)

cdef void on_free_one(Retrace *r, Row *row) noexcept nogil:
    r.frees += 1
    freed(r, row, node_zone_of(&r.node, row.pfn), False)

cdef void on_buddy_free(Retrace *r, Row *row) noexcept nogil:
    """The zone section of a free past the PCP."""
    cdef int k
    for k in range(row.cpu * DEPTH, (row.cpu + 1) * DEPTH):
        if r.under[k].kind == C_FREE and r.under[k].pfn == row.pfn and r.under[k].action == LOCK_ZONE:
            run_section(r, &r.under[k])
            return
    if row.pfn + 1 != r.halved:            # B-110: the other half of the chunk goes back
        r.unexpected += 1
    r.halved = 0


# -- drains ----------------------------------------------------------------------------------------------------

cdef inline int planned(CZone *z, Under *x) noexcept nogil:
    """Pages that the next hold of a drain asks for."""
    cdef Pcp *p = &z.pcp[x.op.target]
    if x.kind == C_DRAIN and (x.op.flags & OP_ALL):
        return min(p.count, p.batch << SCALE_MAX)
    return min(x.op.n, p.batch)

cdef inline int pindex_of(int start) noexcept nogil:
    """The kernel's number of a list: 12 and 13 are those of order 9 (B-10)."""
    return start if start < 27 else 12 + (start == 28)

cdef Under *find_drain(Retrace *r, Row *row, int zone, bint exactly) noexcept nogil:
    """Whose drain a pcp_bulk_free row is: the latest that waits to drain this PCP, just so if asked."""
    cdef CZone *z = zone_nr(r, zone)
    cdef Under *x
    cdef Under *found = NULL
    cdef int64_t task = task_of(row)
    cdef int k
    for k in range(row.cpu * DEPTH, (row.cpu + 1) * DEPTH):
        x = &r.under[k]
        if (x.kind != C_FREE and x.kind != C_DRAIN) or x.zone != zone or x.op.target != row.pcp_cpu:
            continue
        if x.action != LOCK_ZONE and x.action != LOCK_PCP and x.action != TRY_PCP:
            continue
        if x.action == LOCK_ZONE and x.op.at == F_DIRECTING:
            continue
        if exactly and (planned(z, x) != row.nr or pindex_of(x.op.start) != row.pindex):
            continue
        if found is NULL or (x.task == task) > (found.task == task) or (
            (x.task == task) == (found.task == task) and x.born > found.born
        ):
            found = x
    return found

cdef void on_bulk_free(Retrace *r, Row *row) noexcept nogil:
    """A drain, its PCP lock held and before its zone lock."""
    cdef int zone = zone_of_row(r, row)
    cdef CZone *z = zone_nr(r, zone)
    cdef Under *x = find_drain(r, row, zone, True)
    cdef bint exact = x is not NULL
    cdef Under *holder = holder_of(r, zone, row.pcp_cpu)[0]
    if x is NULL:
        x = find_drain(r, row, zone, False)
    if holder is not NULL and holder != x:
        release_holder(r, zone, row.pcp_cpu, row)
    compare_fields(r, zone, row)
    r.drains.seen += 1
    r.drains.exact += exact
    if not exact:
        note(r, D_DRAIN, row, zone, planned(z, x) if x is not NULL else 0, row.nr)
        if x is NULL and r.mode == RESYNC and row.nr > 0:
            x = begin_drain(r, row, zone, row.nr, 0)
            x.op.start = row.pindex if 0 <= row.pindex < 12 else (28 if row.pindex == 13 else 27)
        elif x is not NULL and r.mode == RESYNC and row.nr > 0:
            x.op.n = max(row.nr, x.op.n)
    if x is not NULL and x.kind == C_DRAIN and z.pcp[x.op.target].count == 0:
        x.op.n -= min(x.op.n, max(row.nr, 0))   # B-102 goes on, though there is nothing left
        if x.op.n == 0:
            end_under(r, x)
        return
    if x is not NULL and x.action != LOCK_ZONE:
        grant_pcp(r, x)
    r.draining[row.cpu] = x if x is not NULL and x.kind != C_FREE_SLOT and x.action == LOCK_ZONE else NULL

cdef void on_pcpu_drain(Retrace *r, Row *row) noexcept nogil:
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef Under *x = r.draining[row.cpu]
    if x is not NULL:
        r.draining[row.cpu] = NULL
        run_section(r, x)
    match(r, zone, row)

cdef Under *begin_drain(Retrace *r, Row *row, int zone, int n, int flags) noexcept nogil:
    """Waits for its PCP lock; a pcp_bulk_free row shows when it had it."""
    cdef Under *x = new_under(r, row.cpu, zone, C_DRAIN, 0)
    begin(&x.op, D_START, False, row.cpu)
    x.op.target = row.pcp_cpu
    x.op.n = n
    x.op.flags = <uint8_t>flags
    x.task = task_of(row)
    advance(r, x)
    return x

cdef void on_decay(Retrace *r, Row *row) noexcept nogil:
    """B-101 of one CPU in one zone: fold, decay, expiry (R7)."""
    cdef int zone = zone_of_row(r, row)
    cdef CZone *z = zone_nr(r, zone)
    cdef Pcp *p = &z.pcp[row.pcp_cpu]
    cdef int excess
    r.taken[7] += 1
    if not r.folds and not row.done:
        fold(z, row.pcp_cpu, True)
    compare_fields(r, zone, row)
    excess = decay_high(p)
    if excess > 0:
        begin_drain(r, row, zone, excess, 0)
    if p.expire and p.count and not p.remote_node:
        p.expire = 0

cdef void on_vmfold(Retrace *r, Row *row) noexcept nogil:
    cdef int k
    r.taken[7] += 1
    for k in range(r.node.nr):
        if not row.done >> k & 1:
            fold(zone_nr(r, k), row.cpu, True)

cdef void on_kswapd(Retrace *r, bint awake) noexcept nogil:
    """B-16: while kswapd runs, counters of zones with a drift mark fold earlier."""
    cdef int k
    cdef CZone *z
    r.taken[8] += 1
    for k in range(r.node.nr):
        z = zone_nr(r, k)
        if not awake:
            z.s.watermark_boost = 0        # kswapd takes back what it was woken for
        if r.drift_mark[k]:
            z.s.stat_threshold = r.threshold[k]
            if awake:
                z.s.stat_threshold = <int32_t>min(
                    125, max(<int64_t>1, (z.s.watermark[1] - z.s.watermark[0]) // online_cpus(z))
                )


# -- all of them -------------------------------------------------------------------------------------------------

cdef void execute_other(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    """Rows that are rare."""
    cdef int k
    if row.event == V_TRYFAIL:
        on_tryfail(r, row, serial)
    elif row.event == V_DECAY:
        on_decay(r, row)
    elif row.event == V_VMFOLD:
        on_vmfold(r, row)
    elif row.event == V_DRAIN_ZONE:
        r.taken[6] += 1
        begin_drain(r, row, zone_of_row(r, row), 0, OP_ALL)
    elif row.event == V_DRAIN_ZONE_PAGES:
        r.taken[7] += 1                    # B-103
        k = zone_of_row(r, row)
        begin_drain(r, row, k, min(zone_nr(r, k).pcp[row.pcp_cpu].count, zone_nr(r, k).pcp[row.pcp_cpu].batch), 0)
    elif row.event == V_KSWAPD_WAKE or row.event == V_KSWAPD_SLEEP:
        on_kswapd(r, row.event == V_KSWAPD_WAKE)
    elif row.event == V_ISOLATE:
        on_isolate(r, row)
    elif row.event == V_PUTBACK:
        on_putback(r, row)
    elif row.event == V_MOVE_BLOCK:
        on_move_block(r, row)
    elif row.event == V_SET_BLOCK:
        on_set_block(r, row)
    elif row.event == V_BLOCK_ISOLATE:
        on_block_isolate(r, row)

cdef void execute(Retrace *r, uint64_t serial) noexcept nogil:
    cdef Row *row = row_at(r, serial)
    if r.plain and row.event <= V_EXTFRAG:
        execute_plain(r, row, serial)
    elif row.event == V_PCP_ALLOC or row.event == V_PCP_BULK:
        on_pcp_alloc(r, row, serial)
    elif row.event == V_PCP_FREE:
        on_pcp_free(r, row)
    elif row.event == V_ZONE_LOCKED or row.event == V_EXTFRAG or row.event == V_CLAIM:
        on_section_row(r, row, serial)
    elif row.event == V_PCPU_DRAIN:
        on_pcpu_drain(r, row)
    elif row.event == V_ALLOC:
        on_mm_page_alloc(r, row, serial)
    elif row.event == V_BULK_FREE:
        on_bulk_free(r, row)
    elif row.event == V_FREE_ONE:
        on_free_one(r, row)
    elif row.event == V_BUDDY_FREE:
        on_buddy_free(r, row)
    else:
        execute_other(r, row, serial)
