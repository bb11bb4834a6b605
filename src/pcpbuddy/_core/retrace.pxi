# Carrying the recorded requests through the allocator, and comparing. Included by core.pyx.

# -- operations under way -----------------------------------------------------------------------------------

cdef inline CZone *zone_nr(Retrace *r, int k) noexcept nogil:
    return r.node.zones[k]

cdef inline int zone_of_row(Retrace *r, Row *row) noexcept nogil:
    """Number in the node: by the row's zone index, else by its page. -1: none."""
    cdef int k
    if row.zone >= 0:
        for k in range(r.node.nr):
            if r.node.zones[k].s.zone_index == row.zone:
                return k
        return -1
    return node_zone_of(&r.node, row.pfn) if row.pfn != NOT_THERE else -1

cdef Under *new_under(Retrace *r, int cpu, int zone, int kind, uint64_t owner) noexcept nogil:
    """A slot of the CPU; the oldest is abandoned if all are taken (its rows were lost)."""
    cdef Under *x = &r.under[cpu * DEPTH]
    cdef int k
    for k in range(DEPTH):
        if r.under[cpu * DEPTH + k].kind == C_FREE_SLOT:
            x = &r.under[cpu * DEPTH + k]
            break
        if r.under[cpu * DEPTH + k].born < x.born:
            x = &r.under[cpu * DEPTH + k]
    if x.kind != C_FREE_SLOT:
        r.abandoned += 1
        end_under(r, x)
    r.born += 1
    x.kind = <uint8_t>kind
    x.zone = <uint8_t>zone
    x.born = r.born
    x.owner = owner
    x.in_gap = False
    x.action = DONE
    return x

cdef inline Under **holder_of(Retrace *r, int zone, int cpu) noexcept nogil:
    return &r.holder[zone * r.cpus + cpu]

cdef void end_under(Retrace *r, Under *x) noexcept nogil:
    if holder_of(r, x.zone, x.op.target)[0] == x:
        holder_of(r, x.zone, x.op.target)[0] = NULL
    if r.draining[x.op.cpu] == x:
        r.draining[x.op.cpu] = NULL
    x.kind = C_FREE_SLOT

cdef Under *find_owned(Retrace *r, int cpu, uint64_t owner) noexcept nogil:
    cdef int k
    for k in range(cpu * DEPTH, (cpu + 1) * DEPTH):
        if r.under[k].kind != C_FREE_SLOT and r.under[k].owner == owner:
            return &r.under[k]
    return NULL

cdef Under *find_latest(Retrace *r, int cpu, int kind, int order) noexcept nogil:
    cdef int k
    cdef Under *x = NULL
    for k in range(cpu * DEPTH, (cpu + 1) * DEPTH):
        if r.under[k].kind == kind and r.under[k].op.order == order and (x is NULL or r.under[k].born > x.born):
            x = &r.under[k]
    return x

cdef void advance(Retrace *r, Under *x) noexcept nogil:
    """Up to the next lock that has to be waited for. Unlocking never waits."""
    cdef CZone *z = zone_nr(r, x.zone)
    cdef int action = step(z, &x.op)
    while action == UNLOCK_PCP or action == UNLOCK_ZONE:
        if action == UNLOCK_PCP:
            holder_of(r, x.zone, x.op.target)[0] = NULL
            x.in_gap = x.kind == C_FREE
        action = step(z, &x.op)
    x.action = <uint8_t>action
    if action == DONE and (x.kind == C_FREE or x.kind == C_DRAIN):
        end_under(r, x)

cdef void grant_pcp(Retrace *r, Under *x) noexcept nogil:
    """The PCP lock that x waits for."""
    holder_of(r, x.zone, x.op.target)[0] = x
    x.op.got = True
    advance(r, x)

cdef inline bint is_section_row(Row *row) noexcept nogil:
    return row.event in (V_ZONE_LOCKED, V_EXTFRAG, V_CLAIM, V_SET_BLOCK, V_MOVE_BLOCK)

cdef inline void foresee_take(Told *told, Row *row, uint32_t *last) noexcept nogil:
    """One row of a section that takes pages: 17.4 says how many rows a take has."""
    cdef int k = told.nr_outcomes
    if row.event == V_EXTFRAG and last[0] == row.pfn:
        told.claimed[k - 1] = row.fallback_order
        return
    if k == TAKES or (row.event != V_ZONE_LOCKED and row.event != V_EXTFRAG):
        return
    last[0] = row.pfn
    told.from_cma[k] = row.event == V_ZONE_LOCKED and row.type == CMA
    told.claimed[k] = row.fallback_order if row.event == V_EXTFRAG and row.change_ownership > 0 else -1
    told.nr_outcomes = k + 1

cdef void foresee(Retrace *r, int zone, uint64_t serial) noexcept nogil:
    """
    The section whose first row this is: which folds of other CPUs fall between its takes, and what came of each take.

    A fold needs no lock (B-17), so it is the one thing that others do to a zone while its lock is held.
    """
    cdef Told *told = &r.told[zone]
    cdef int cpu = row_at(r, serial).cpu
    cdef uint32_t last = NOT_THERE
    cdef Row *row
    told.nr_takes = 0
    told.nr_folds = 0
    told.folded = 0
    told.nr_outcomes = 0
    while serial < r.linked:
        row = row_at(r, serial)
        if row.cpu == cpu:
            if not is_section_row(row):
                break
            foresee_take(told, row, &last)
        elif folds_in(r, row, zone) and told.nr_folds < 16:
            told.fold_take[told.nr_folds] = told.nr_outcomes
            told.fold_cpu[told.nr_folds] = row.pcp_cpu if row.pcp_cpu >= 0 else row.cpu
            told.nr_folds += 1
            row.done |= 1 << zone
        serial += 1
    if r.mode == FREE_RUN:
        told.nr_outcomes = 0

cdef inline bint folds_in(Retrace *r, Row *row, int zone) noexcept nogil:
    """Does this row fold its CPU's counters of the zone?"""
    if row.event == V_VMFOLD:
        return r.folds
    return row.event == V_DECAY and not r.folds and row.zone == zone_nr(r, zone).s.zone_index

cdef void run_section(Retrace *r, Under *x, Row *row) noexcept nogil:
    """The zone-lock section that x waits for, as a whole; its events are what rows are compared with."""
    cdef CZone *z = zone_nr(r, x.zone)
    cdef Section *s = &r.section[x.zone]
    cdef int kind = D_DRAINED if x.kind == C_DRAIN or x.kind == C_FREE else D_REFILL
    if kind == D_DRAINED and x.op.at != D_HOLD and x.op.at != F_DRAINING:
        kind = -1                          # past the PCP: no rows but buddy_free
    close_section(r, x.zone)
    s.at = r.ring[x.zone].written
    x.op.got = True
    advance(r, x)
    s.end = r.ring[x.zone].written
    s.cpu = x.op.cpu
    s.kind = kind
    s.exact = True
    s.row = row.row


# -- comparing ------------------------------------------------------------------------------------------------

cdef void note(Retrace *r, int kind, Row *row, int zone, uint32_t predicted, uint32_t recorded) noexcept nogil:
    cdef Diff *d
    r.nr_diffs[kind] += 1
    if r.nr_kept == DIFFS:
        return
    d = &r.diffs[r.nr_kept]
    r.nr_kept += 1
    d.row = row.row
    d.predicted = predicted
    d.recorded = recorded
    d.cpu = row.cpu
    d.kind = <uint8_t>kind
    d.order = <uint8_t>row.order
    d.type = row.type
    d.zone = <uint8_t>zone
    d.event = row.event
    d.cause = 0

cdef inline void skip_others(Ring *ring, Section *s) noexcept nogil:
    cdef int kind
    while s.at < s.end:
        kind = ring.events[s.at & ring.mask].kind
        if kind == E_ZONE_LOCKED or kind == E_EXTFRAG or kind == E_PCPU_DRAIN:
            return
        s.at += 1

cdef void close_section(Retrace *r, int zone) noexcept nogil:
    """Its rows are over. What was predicted and did not come makes it inexact."""
    cdef Section *s = &r.section[zone]
    if s.kind == D_REFILL:
        skip_others(&r.ring[zone], s)
        if s.at < s.end:
            s.exact = False
        r.refills.seen += 1
        r.refills.exact += s.exact
    s.kind = -1

cdef inline bint same_event(Event *e, Row *row) noexcept nogil:
    if row.event == V_ZONE_LOCKED:
        return (
            e.kind == E_ZONE_LOCKED and e.pfn == row.pfn and e.order == row.order and e.type == row.type
            and (row.percpu_refill < 0 or e.flag == row.percpu_refill)
        )
    if row.event == V_PCPU_DRAIN:
        return e.kind == E_PCPU_DRAIN and e.pfn == row.pfn and e.order == row.order and e.type == row.type
    return (
        e.kind == E_EXTFRAG and e.pfn == row.pfn and e.order == row.order and e.type == row.type
        and e.order2 == row.fallback_order and e.type2 == row.fallback_type and e.flag == row.change_ownership
    )

cdef void match(Retrace *r, int zone, Row *row) noexcept nogil:
    """A row under the zone lock against the next event of the section that was run for it."""
    cdef Section *s = &r.section[zone]
    cdef Ring *ring = &r.ring[zone]
    cdef bint exact = False
    cdef uint32_t predicted = NOT_THERE
    if s.kind >= 0 and s.cpu == row.cpu:
        skip_others(ring, s)
        if s.at < s.end:
            predicted = ring.events[s.at & ring.mask].pfn
            exact = same_event(&ring.events[s.at & ring.mask], row)
            s.at += 1
        if not exact:
            s.exact = False
    if row.event == V_PCPU_DRAIN:
        r.drained.seen += 1
        r.drained.exact += exact
        if not exact:
            note(r, D_DRAINED, row, zone, predicted, row.pfn)
    elif not exact:
        note(r, D_REFILL, row, zone, predicted, row.pfn)

cdef void compare_fields(Retrace *r, int zone, Row *row) noexcept nogil:
    """Of the PCP that the row shows, at this very point."""
    cdef Pcp *p
    cdef bint exact
    if row.count == NO_FIELD:
        return
    p = &zone_nr(r, zone).pcp[row.pcp_cpu]
    exact = (                              # a row shows all of them, or some
        p.count == row.count and (row.high == NO_FIELD or p.high == row.high)
        and (row.pcp_flags < 0 or p.flags == row.pcp_flags)
        and (row.alloc_factor < 0 or p.alloc_factor == row.alloc_factor)
        and (row.free_count == NO_FIELD or p.free_count == row.free_count)
    )
    r.fields.seen += 1
    r.fields.exact += exact
    if not exact:
        note(r, D_FIELDS, row, zone, p.count, row.count)

cdef void compare_alloc(Retrace *r, int zone, Row *row, idx i) noexcept nogil:
    """A page was handed out, there and here (i, or 0)."""
    cdef CZone *z = zone_nr(r, zone)
    cdef uint32_t own = <uint32_t>pfn_of(z, i) if i else NOT_THERE
    cdef bint exact = own == row.pfn
    cdef int T = row.type if 0 <= row.type < 3 else 0
    r.allocs.seen += 1
    r.allocs.exact += exact
    r.by_order[row.order].seen += 1
    r.by_order[row.order].exact += exact
    r.by_type[T].seen += 1
    r.by_type[T].exact += exact
    r.by_cpu[row.cpu].seen += 1
    r.by_cpu[row.cpu].exact += exact
    if not exact:
        note(r, D_ALLOC, row, zone, own, row.pfn)
    hand_over(r, zone, row, i)

cdef void hand_over(Retrace *r, int zone, Row *row, idx i) noexcept nogil:
    """The recorded pages stand for own ones from now on."""
    cdef CZone *z = zone_nr(r, zone)
    cdef uint32_t k
    cdef uint32_t pages = 1u << row.order
    for k in range(pages):
        if r.map[row.pfn + k]:
            r.frees_unseen += 1
            if not i or r.map[row.pfn + k] - 1 - <uint32_t>pfn_of(z, i) >= pages:
                give_back(r, row.cpu, r.map[row.pfn + k] - 1)
        r.map[row.pfn + k] = <uint32_t>pfn_of(z, i) + k + 1 if i else 0
    if i and row.type == MOVABLE:
        set_word(z, i, word_of(z, i) | MOVABLE_BIT)

cdef void give_back(Retrace *r, int cpu, uint32_t own) noexcept nogil:
    """One own page, freed for a reason that no row shows."""
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, own))
    if make_entry(z, index_of(z, own), 0):
        free_by_policy(z, cpu, index_of(z, own), 0)


# -- pages as they are freed -------------------------------------------------------------------------------------

cdef bint make_entry(CZone *z, idx i, int o) noexcept nogil:
    """
    Make 2^o allocated pages one allocation of that order, whatever allocations they were parts of.

    False: not all of them are allocated.
    """
    cdef idx p
    cdef idx head
    cdef int k
    if (word_of(z, i) & HEAD_MASK) == (ALLOC | o << ORDER_SHIFT):
        return True
    p = i
    while p < i + (1u << o):
        head = p
        k = 0
        while (word_of(z, head) & 7) != ALLOC:     # the head of the allocation that p is in
            if (word_of(z, head) & 7) != INTERIOR or k == MAX_ORDER:
                return False
            head = p & ~((2u << k) - 1)
            k += 1
        k = word_order(word_of(z, head))
        if head + (1u << k) <= p:
            return False
        p = head + (1u << k)
    p = i
    while p < i + (1u << o):
        head = p
        k = 0
        while (word_of(z, head) & 7) != ALLOC:
            head = p & ~((2u << k) - 1)
            k += 1
        k = word_order(word_of(z, head))
        if head < i or k > o:
            split_page(z, head)
            k = 0
        p += 1u << k
    for p in range(i + 1, i + (1u << o)):
        set_word(z, p, 0)
    set_word(z, i, ALLOC | o << ORDER_SHIFT)
    return True

cdef idx own_entry(Retrace *r, Row *row, int *zone) noexcept nogil:
    """The own chunk that stands for the recorded one; 0: it is not known, or not one chunk here."""
    cdef uint32_t own = r.map[row.pfn]
    cdef uint32_t k
    cdef idx i
    if not own:
        return 0
    for k in range(1, 1u << row.order):
        if r.map[row.pfn + k] != own + k:
            return 0
    zone[0] = node_zone_of(&r.node, own - 1)
    i = index_of(zone_nr(r, zone[0]), own - 1)
    if i & ((1u << row.order) - 1):
        return 0
    return i if make_entry(zone_nr(r, zone[0]), i, row.order) else 0

cdef void free_pieces(Retrace *r, Row *row) noexcept nogil:
    """A recorded chunk that is not one here: page by page, as far as known."""
    cdef uint32_t k
    for k in range(1u << row.order):
        if r.map[row.pfn + k]:
            give_back(r, row.cpu, r.map[row.pfn + k] - 1)
            r.map[row.pfn + k] = 0
        else:
            r.frees_unknown += 1

cdef void forget(Retrace *r, Row *row) noexcept nogil:
    cdef uint32_t k
    for k in range(1u << row.order):
        r.map[row.pfn + k] = 0


# -- rows: allocations -------------------------------------------------------------------------------------------

cdef Under *begin_alloc(Retrace *r, Row *row, int zone, uint64_t owner, bint tried) noexcept nogil:
    """The request of a row; up to its first zone section, or to its end."""
    cdef int kind = C_ALLOC
    cdef int at = A_TRIED
    cdef Under *x
    if row.event == V_PCP_BULK:
        kind = C_BULK
        at = B_TRIED
    elif past_pcp(row.order) or not tried:
        kind = C_DIRECT
        if past_pcp(row.order):
            at = A_START
    x = new_under(r, row.cpu, zone, kind, owner)
    begin(&x.op, at, tried, row.cpu)
    x.op.order = <uint8_t>row.order
    x.op.type = <uint8_t>row.type
    x.op.aflags = row.aflags if row.aflags != NO_FIELD else flags_of(r, row)
    if kind == C_BULK:
        x.op.pages = &x.page
        x.op.nr = 1
    if kind != C_DIRECT:
        holder_of(r, zone, row.cpu)[0] = x
    advance(r, x)
    return x

cdef int flags_of(Retrace *r, Row *row) noexcept nogil:
    """Allocation flags of a request that shows only its GFP flags (B-28)."""
    cdef int highest
    cdef int first
    if not row.gfp:
        return WMARK_LOW | USE_CMA if row.type == MOVABLE else WMARK_LOW
    highest = gfp_zone(row.gfp)
    first = preferred(&r.node, highest)
    return fast_flags(&r.node, first if first >= 0 else 0, row.order, row.gfp)

cdef inline idx obtained_by(Under *x) noexcept nogil:
    if x.kind == C_BULK:
        return x.page if x.op.k else 0
    return x.op.page

cdef void release_holder(Retrace *r, int zone, int cpu, Row *row) noexcept nogil:
    """Another row took this PCP's lock: whoever we let hold it did not, there, do what it waits for here."""
    cdef Under *x = holder_of(r, zone, cpu)[0]
    while x is not NULL:
        if x.kind == C_FREE or x.kind == C_DRAIN:
            note(r, D_DRAIN, row, zone, x.op.n, 0)
            r.drains.seen += 1
            while holder_of(r, zone, cpu)[0] == x:
                run_section(r, x, row)
            r.section[zone].kind = -1
        else:
            r.abandoned += 1
            end_under(r, x)
        x = holder_of(r, zone, cpu)[0]

cdef void end_folds(Retrace *r, int zone) noexcept nogil:
    """Those that came after the last take."""
    cdef Told *told = &r.told[zone]
    while told.folded < told.nr_folds:
        fold(zone_nr(r, zone), told.fold_cpu[told.folded], True)
        told.folded += 1

cdef void on_section_row(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    """zone_locked, extfrag, claim: the first of a section runs it."""
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef Under *x
    cdef Row *request
    if row.owner:
        request = row_at(r, row.owner - 1) if row.owner > r.base else NULL
        x = find_owned(r, row.cpu, row.owner)
        if x is NULL and request is not NULL and row.owner - 1 > serial:
            if not past_pcp(request.order):
                release_holder(r, zone, row.cpu, row)
            x = begin_alloc(r, request, zone, row.owner, True)
            x.op.cpu = row.cpu             # mm_page_alloc may come from another CPU (R3)
        if x is not NULL and x.action == LOCK_ZONE:
            foresee(r, zone, serial)
            zone_nr(r, zone).told = &r.told[zone]
            run_section(r, x, row)
            zone_nr(r, zone).told = NULL
            end_folds(r, zone)
        else:
            close_section(r, zone)
            r.refills.seen += 1
    if row.event != V_CLAIM:
        match(r, zone, row)

cdef void on_pcp_alloc(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    cdef int zone = zone_of_row(r, row)
    cdef CZone *z = zone_nr(r, zone)
    cdef Under *x = find_owned(r, row.cpu, serial + 1) if row.owner else NULL
    cdef idx i
    cdef bint got
    if x is NULL:
        if holder_of(r, zone, row.cpu)[0] is not NULL:
            release_holder(r, zone, row.cpu, row)
        if row.event == V_PCP_ALLOC and row.pfn != NOT_THERE and (
            z.page[cpu_head(row.cpu, list_index(z, row.order, row.type))].next
            != cpu_head(row.cpu, list_index(z, row.order, row.type))
        ):
            i = alloc_page(z, row.cpu, row.order, row.type, row.aflags)
            compare_fields(r, zone, row)
            compare_alloc(r, zone, row, i)
            return
        x = begin_alloc(r, row, zone, serial + 1, True)
        if row.pfn != NOT_THERE and x.action == LOCK_ZONE:
            note(r, D_REFILL, row, zone, 0, NOT_THERE)
    while x.action == LOCK_ZONE and (row.pfn != NOT_THERE or x.op.at == A_REFILL or x.op.at == B_REFILL):
        run_section(r, x, row)
    compare_fields(r, zone, row)
    i = obtained_by(x)
    if row.pfn == NOT_THERE:
        if x.action == LOCK_ZONE:
            x.kind = C_DIRECT              # its section past the PCP comes after this row
            return
        if i:
            note(r, D_ALLOC, row, zone, <uint32_t>pfn_of(z, i), NOT_THERE)
            free_by_policy(z, row.cpu, i, 0)
    else:
        compare_alloc(r, zone, row, i)
    end_under(r, x)

cdef void on_tryfail(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    cdef int zone = zone_of_row(r, row)
    r.trylocks_failed += 1
    if zone >= 0 and row.order >= 0 and 0 <= row.type < 3:
        begin_alloc(r, row, zone, serial + 1, False)

cdef void on_mm_page_alloc(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    """Of interest where the page came past the PCP: no row but this one shows which it was."""
    cdef Under *x = NULL
    cdef int c
    if row.owner:
        for c in range(r.cpus):
            x = find_owned(r, c, serial + 1)
            if x is not NULL:
                break
    if x is NULL:
        x = find_latest(r, row.cpu, C_DIRECT, row.order)
    if x is NULL:
        if past_pcp(row.order) and row.pfn != NOT_THERE:
            compare_alloc(r, node_zone_of(&r.node, row.pfn), row, 0)
        return
    while x.action == LOCK_ZONE:
        run_section(r, x, row)
    if row.pfn != NOT_THERE:
        compare_alloc(r, x.zone, row, x.op.page)
    elif x.op.page:
        note(r, D_ALLOC, row, x.zone, <uint32_t>pfn_of(zone_nr(r, x.zone), x.op.page), NOT_THERE)
        free_by_policy(zone_nr(r, x.zone), row.cpu, x.op.page, 0)
    end_under(r, x)


# -- rows: frees and drains ------------------------------------------------------------------------------------

cdef Under *begin_free(Retrace *r, Row *row, int zone, idx i, bint tried) noexcept nogil:
    """A free at the point where its PCP lock is had, or was refused."""
    cdef Under *x = new_under(r, row.cpu, zone, C_FREE, 0)
    begin(&x.op, F_NEXT, False, row.cpu)
    x.page = i
    x.pid = row.pid
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
            r.trylocks_failed += 1
            x.op.got = False
            advance(r, x)
    x.in_gap = False
    return x

cdef void on_pcp_free(Retrace *r, Row *row) noexcept nogil:
    cdef int zone = zone_of_row(r, row)
    cdef CZone *z = zone_nr(r, zone)
    cdef idx i
    r.frees += 1
    if holder_of(r, zone, row.cpu)[0] is not NULL:
        release_holder(r, zone, row.cpu, row)
    if row.zone_flags >= 0 and z.s.flags != <uint32_t>row.zone_flags:
        r.zone_flags_taken += 1
        z.s.flags = row.zone_flags
    compare_fields(r, zone, row)
    i = own_entry(r, row, &zone)
    if not i:
        note(r, D_FREE, row, zone, NOT_THERE, row.pfn)
        free_pieces(r, row)
        return
    if list_type(block_type(zone_nr(r, zone), i)) != row.type:
        note(r, D_LIST, row, zone, list_type(block_type(zone_nr(r, zone), i)), row.type)
    forget(r, row)
    begin_free(r, row, zone, i, True)

cdef void on_free_one(Retrace *r, Row *row) noexcept nogil:
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef idx i
    r.frees += 1
    i = own_entry(r, row, &zone)
    if not i:
        note(r, D_FREE, row, zone, NOT_THERE, row.pfn)
        free_pieces(r, row)
        return
    forget(r, row)
    begin_free(r, row, zone, i, False)

cdef void on_buddy_free(Retrace *r, Row *row) noexcept nogil:
    """The zone section of a free past the PCP."""
    cdef int k
    for k in range(row.cpu * DEPTH, (row.cpu + 1) * DEPTH):
        if r.under[k].kind == C_FREE and r.under[k].pfn == row.pfn and r.under[k].action == LOCK_ZONE:
            run_section(r, &r.under[k], row)
            return
    r.unexpected[row.event] += 1

cdef inline int planned(CZone *z, Under *x) noexcept nogil:
    """Pages that the next hold of a drain asks for."""
    cdef Pcp *p = &z.pcp[x.op.target]
    if x.kind == C_FREE:
        return min(x.op.n, p.batch)
    if x.op.flags & OP_ALL:
        return min(p.count, p.batch << SCALE_MAX)
    return min(x.op.n, p.batch)

cdef Under *find_drain(Retrace *r, Row *row, int zone, bint exactly) noexcept nogil:
    """Whose drain a pcp_bulk_free row is: the latest that waits to drain this PCP, in this way if so asked."""
    cdef CZone *z = zone_nr(r, zone)
    cdef Under *x
    cdef Under *found = NULL
    cdef int k
    for k in range(row.cpu * DEPTH, (row.cpu + 1) * DEPTH):
        x = &r.under[k]
        if (x.kind != C_FREE and x.kind != C_DRAIN) or x.zone != zone or x.op.target != row.pcp_cpu:
            continue
        if x.action != LOCK_ZONE and x.action != LOCK_PCP and x.action != TRY_PCP:
            continue
        if exactly and (planned(z, x) != row.nr or pindex_of(z, x.op.start) != row.pindex):
            continue
        if found is NULL or x.born > found.born:
            found = x
    return found

cdef inline int pindex_of(CZone *z, int start) noexcept nogil:
    """The kernel's number of a list: 12 and 13 are those of order 9 (B-10)."""
    return start if start < 27 else 12 + (start == 28)

cdef void on_bulk_free(Retrace *r, Row *row) noexcept nogil:
    """A drain, its PCP lock held and before its zone lock."""
    cdef int zone = zone_of_row(r, row)
    cdef CZone *z = zone_nr(r, zone)
    cdef Under *x = find_drain(r, row, zone, True)
    cdef bint exact = x is not NULL
    if x is NULL:
        x = find_drain(r, row, zone, False)
    if x is not NULL and holder_of(r, zone, row.pcp_cpu)[0] not in (NULL, x):
        release_holder(r, zone, row.pcp_cpu, row)
    compare_fields(r, zone, row)
    r.drains.seen += 1
    r.drains.exact += exact
    if not exact:
        note(r, D_DRAIN, row, zone, planned(z, x) if x is not NULL else 0, row.nr)
    if x is not NULL and x.action != LOCK_ZONE:
        grant_pcp(r, x)
    r.draining[row.cpu] = x if x is not NULL and x.kind != C_FREE_SLOT and x.action == LOCK_ZONE else NULL

cdef void on_pcpu_drain(Retrace *r, Row *row) noexcept nogil:
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef Under *x = r.draining[row.cpu]
    if x is not NULL:
        r.draining[row.cpu] = NULL
        run_section(r, x, row)
    match(r, zone, row)

cdef void begin_drain(Retrace *r, Row *row, int zone, int n, int flags) noexcept nogil:
    cdef Under *x = new_under(r, row.cpu, zone, C_DRAIN, 0)
    begin(&x.op, D_START, False, row.cpu)
    x.op.target = row.pcp_cpu
    x.op.n = n
    x.op.flags = <uint8_t>flags
    x.pid = row.pid
    advance(r, x)


# -- rows: everything else -------------------------------------------------------------------------------------

cdef void on_decay(Retrace *r, Row *row) noexcept nogil:
    """B-101 of one CPU in one zone: fold, decay, expiry."""
    cdef int zone = zone_of_row(r, row)
    cdef CZone *z = zone_nr(r, zone)
    cdef Pcp *p = &z.pcp[row.pcp_cpu]
    cdef int excess
    if not r.folds and not row.done:
        fold(z, row.pcp_cpu, True)
    compare_fields(r, zone, row)
    excess = decay_high(p)
    if excess > 0:
        begin_drain(r, row, zone, excess, 0)
    if p.expire and p.count and not p.remote_node:
        p.expire = 0

cdef void execute(Retrace *r, uint64_t serial) noexcept nogil:
    cdef Row *row = row_at(r, serial)
    cdef int k
    if row.event == V_PCP_ALLOC or row.event == V_PCP_BULK:
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
    elif row.event == V_DECAY:
        on_decay(r, row)
    elif row.event == V_VMFOLD:
        for k in range(r.node.nr):
            if not row.done >> k & 1:
                fold(zone_nr(r, k), row.cpu, True)
    elif row.event == V_TRYFAIL:
        on_tryfail(r, row, serial)
    elif row.event == V_DRAIN_ZONE:
        begin_drain(r, row, zone_of_row(r, row), 0, OP_ALL)
    r.outside[row.event & 63] += 1


cdef class KernelReplay:
    """Rows of a recording against a node under `mainline`; see core.pyi."""
    cdef Retrace *r
    cdef readonly Node node
    cdef uint64_t elapsed_ns

    def __cinit__(self):
        self.r = <Retrace *>calloc(1, sizeof(Retrace))
        if self.r is NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef int k
        if self.r is NULL:
            return
        for k in range(self.r.node.nr):
            self.r.node.zones[k].ring = NULL
            c_free(self.r.ring[k].events)
            c_free(self.r.told[k].from_cma)
            c_free(self.r.told[k].claimed)
        c_free(self.r.map)
        c_free(self.r.links)
        c_free(self.r.under)
        c_free(self.r.holder)
        c_free(self.r.draining)
        c_free(self.r.rows)
        c_free(self.r.by_cpu)
        c_free(self.r)

    def __init__(self, Node node, uint32_t nr_handles, *, str mode="free-run", bint folds=False):
        cdef Retrace *r = self.r
        cdef Zone zone
        cdef int64_t end = 0
        cdef int k
        cdef idx i
        cdef idx p
        self.node = node
        r.node = node.ref
        r.cpus = node.cpus
        r.folds = folds
        r.mode = {"free-run": FREE_RUN, "guided": GUIDED, "resync": RESYNC}[mode]
        for zone in node.zones:
            end = max(end, zone.z.s.start_pfn + zone.z.s.spanned)
        r.nr_handles = max(nr_handles, end) + (1 << MAX_ORDER)
        r.map = <uint32_t *>calloc(r.nr_handles, sizeof(uint32_t))
        r.links = <Link *>calloc(r.cpus, sizeof(Link))
        r.under = <Under *>calloc(r.cpus * DEPTH, sizeof(Under))
        r.holder = <Under **>calloc(r.node.nr * r.cpus, sizeof(void *))
        r.draining = <Under **>calloc(r.cpus, sizeof(void *))
        r.by_cpu = <Tally *>calloc(r.cpus, sizeof(Tally))
        for k in range(r.node.nr):
            zone = node.zones[k]
            r.section[k].kind = -1
            r.ring[k].events = <Event *>calloc(1 << 14, sizeof(Event))
            r.ring[k].mask = (1 << 14) - 1
            zone.z.ring = &r.ring[k]
            r.told[k].from_cma = <uint8_t *>malloc(TAKES)
            r.told[k].claimed = <int8_t *>malloc(TAKES)
            for i in range(zone.z.s.first, zone.z.s.nr_pages):
                if (word_of(&zone.z, i) & 7) == ALLOC:
                    for p in range(i, i + (1u << word_order(word_of(&zone.z, i)))):
                        r.map[pfn_of(&zone.z, p)] = <uint32_t>pfn_of(&zone.z, p) + 1

    def feed(self, rows, bint last=False):
        import time
        cdef Retrace *r = self.r
        cdef Py_buffer view
        cdef uint64_t n
        cdef uint64_t stop
        cdef uint64_t keep
        PyObject_GetBuffer(rows, &view, PyBUF_SIMPLE)
        try:
            n = view.len // sizeof(Row)
            keep = r.base + r.len - r.done
            if keep + n > r.room:
                r.room = 2 * (keep + n)
                old = <uint64_t>r.rows
                new = <Row *>malloc(r.room * sizeof(Row))
                if r.rows is not NULL:
                    memmove(new, &r.rows[r.done - r.base], keep * sizeof(Row))
                    c_free(r.rows)
                r.rows = new
            elif keep:
                memmove(r.rows, &r.rows[r.done - r.base], keep * sizeof(Row))
            r.base = r.done
            memmove(&r.rows[keep], view.buf, n * sizeof(Row))
            r.len = keep + n
            start = time.perf_counter_ns()
            with nogil:
                while r.linked < r.base + r.len:
                    link_row(r, r.linked)
                    r.linked += 1
                stop = r.linked if last else first_open(r)
                while r.done < stop:
                    execute(r, r.done)
                    r.done += 1
                if last:
                    for k in range(r.node.nr):
                        close_section(r, k)
            self.elapsed_ns += time.perf_counter_ns() - start
        finally:
            PyBuffer_Release(&view)

    def result(self):
        cdef Retrace *r = self.r
        def tally(t):
            return (t["seen"], t["exact"])
        return {
            "allocs": tally(r.allocs), "refills": tally(r.refills), "drains": tally(r.drains),
            "drained": tally(r.drained), "fields": tally(r.fields),
            "frees": r.frees, "frees_unknown": r.frees_unknown, "frees_unseen": r.frees_unseen,
            "abandoned": r.abandoned, "trylocks_failed": r.trylocks_failed, "zone_flags": r.zone_flags_taken,
            "diffs": [r.nr_diffs[k] for k in range(NR_DIFFS)],
            "unexpected": [r.unexpected[k] for k in range(32)],
            "kept": [r.diffs[k] for k in range(r.nr_kept)],
            "told": [(r.told[k].cma_taken, r.told[k].claims_taken) for k in range(r.node.nr)],
            "requests": r.allocs.seen + r.frees,
            "elapsed_ns": self.elapsed_ns,
        }
