# Operations under way in a replay against a recording: carried to their locks, and compared. Included by core.pyx.

cdef inline int zone_of_row(Retrace *r, Row *row) noexcept nogil:
    """Number in the node: by the row's zone index, else by its page. -1: none."""
    cdef int k
    if row.zone >= 0:
        for k in range(r.node.nr):
            if r.node.zones[k].s.zone_index == row.zone:
                return k
        return -1
    return node_zone_of(&r.node, row.pfn) if row.pfn != NOT_THERE else -1


cdef inline int64_t task_of(Row *row) noexcept nogil:
    """Who wrote a row: a task, a CPU's idle task, or one of a CPU's two kinds of interrupt. Without pids: the CPU."""
    if row.context & 0x18:
        return -1000 - row.cpu * 4 - (2 if row.context & 8 else 1)
    if row.pid <= 0:
        return -1 - row.cpu
    return row.pid


# -- operations under way -----------------------------------------------------------------------------------

cdef inline Under **holder_of(Retrace *r, int zone, int cpu) noexcept nogil:
    return &r.holder[zone * r.cpus + cpu]

cdef void end_under(Retrace *r, Under *x) noexcept nogil:
    if holder_of(r, x.zone, x.op.target)[0] == x:
        holder_of(r, x.zone, x.op.target)[0] = NULL
    if r.draining[x.op.cpu] == x:
        r.draining[x.op.cpu] = NULL
    x.kind = C_FREE_SLOT

cdef void give_up(Retrace *r, Under *x) noexcept nogil:
    """No further row of it came. Between two holds of a drain that means a trylock that failed (B-82, R2)."""
    if x.kind == C_FREE and x.op.at == F_DIRECTING and r.nr_waiting:
        run_waiting(r, x)
        return
    if x.kind == C_FREE and x.in_gap:
        r.taken[2] += 1
    else:
        r.abandoned += 1
    end_under(r, x)

cdef Under *new_under(Retrace *r, int cpu, int zone, int kind, uint64_t owner) noexcept nogil:
    """A slot of the CPU; the oldest is given up if all are taken."""
    cdef Under *x = &r.under[cpu * DEPTH]
    cdef Under *other
    cdef int k
    for k in range(DEPTH):
        other = &r.under[cpu * DEPTH + k]
        if other.kind == C_FREE_SLOT:
            x = other
            break
        if other.born < x.born:
            x = other
    if x.kind != C_FREE_SLOT:
        give_up(r, x)
    r.born += 1
    x.kind = <uint8_t>kind
    x.zone = <uint8_t>zone
    x.born = r.born
    x.owner = owner
    x.in_gap = False
    x.action = DONE
    return x

cdef Under *find_owned(Retrace *r, int cpu, uint64_t owner) noexcept nogil:
    cdef int k
    for k in range(cpu * DEPTH, (cpu + 1) * DEPTH):
        if r.under[k].kind != C_FREE_SLOT and r.under[k].owner == owner:
            return &r.under[k]
    return NULL

cdef Under *find_direct(Retrace *r, Row *row) noexcept nogil:
    """The allocation past the PCP that took this page; else the CPU's latest whose mm_page_alloc is still to come."""
    cdef int k
    cdef Under *x = NULL
    cdef Under *found = NULL
    for k in range(r.cpus * DEPTH):
        x = &r.under[k]
        if x.kind != C_DIRECT or x.op.order != row.order:
            continue
        if x.op.page and row.pfn != NOT_THERE and pfn_of(zone_nr(r, x.zone), x.op.page) == row.pfn:
            r.taken[3] += x.op.cpu != row.cpu
            return x
        if x.op.cpu == row.cpu and (found is NULL or x.born > found.born):
            found = x
    return found

cdef void advance(Retrace *r, Under *x) noexcept nogil:
    """Up to the next lock that has to be waited for. Unlocking never waits."""
    cdef CZone *z = zone_nr(r, x.zone)
    cdef int action = step(z, &x.op)
    while action == UNLOCK_PCP or action == UNLOCK_ZONE:
        if action == UNLOCK_PCP:
            holder_of(r, x.zone, x.op.target)[0] = NULL
            x.in_gap = x.kind == C_FREE
        action = step(z, &x.op)
    if action == DONE and x.kind == C_DRAIN and x.op.n > 0 and not r.plain:
        x.op.at = D_START                  # B-102 goes on for all that it had counted, with an empty PCP too
        action = step(z, &x.op)
    x.action = <uint8_t>action
    if action == DONE and (x.kind == C_FREE or x.kind == C_DRAIN):
        end_under(r, x)

cdef void grant_pcp(Retrace *r, Under *x) noexcept nogil:
    """The PCP lock that x waits for."""
    holder_of(r, x.zone, x.op.target)[0] = x
    x.in_gap = False
    x.op.got = True
    advance(r, x)

cdef void note_parked_pages(Retrace *r) noexcept nogil:
    """PCPs are at their fullest before a drain or after a refill."""
    cdef int64_t parked = 0
    cdef int k
    cdef int c
    for k in range(r.node.nr):
        for c in range(r.cpus):
            parked += zone_nr(r, k).pcp[c].count
    if parked > r.parked_max:
        r.parked_max = parked

cdef inline bint is_allocated(CZone *z, idx i) noexcept nogil:
    return (word_of(z, i) & 7) == ALLOC

cdef bint lost_its_page(Retrace *r, Under *x) noexcept nogil:
    """A free past the PCP whose page is not ours any more: a resync, or a doubled row, was faster. It is over."""
    if x.kind != C_FREE or x.op.at != F_DIRECTING or is_allocated(zone_nr(r, x.zone), x.page):
        return False
    r.abandoned += 1
    end_under(r, x)
    return True

cdef void run_section(Retrace *r, Under *x) noexcept nogil:
    """The zone-lock section that x waits for, as a whole; its events are what the rows are compared with."""
    cdef Section *s = &r.section[x.zone]
    cdef int cpu = x.op.cpu
    cdef int zone = x.zone
    cdef int kind = D_REFILL
    if lost_its_page(r, x):
        return
    if x.kind == C_DRAIN or x.kind == C_FREE:
        kind = D_DRAINED if x.op.at == D_HOLD or x.op.at == F_DRAINING else NOT_OPEN
    close_section(r, zone)
    note_parked_pages(r)
    s.at = r.ring[zone].written
    x.op.got = True
    advance(r, x)
    s.end = r.ring[zone].written
    note_parked_pages(r)
    s.cpu = cpu
    s.kind = kind
    s.exact = True

cdef void run_aside(Retrace *r, Under *x) noexcept nogil:
    """A section that has no rows to be compared with. Another CPU's rows may go on around it."""
    if lost_its_page(r, x):
        return
    note_parked_pages(r)
    x.op.got = True
    advance(r, x)
    note_parked_pages(r)

cdef void run_told(Retrace *r, Under *x, uint64_t serial) noexcept nogil:
    """A section that takes pages, whose first row is there."""
    cdef int zone = x.zone
    foresee(r, zone, serial)
    r.told[zone].follow = r.mode != FREE_RUN
    r.told[zone].rotates = r.compacts
    zone_nr(r, zone).told = &r.told[zone]
    run_section(r, x)
    end_told(r, zone)

cdef void release_holder(Retrace *r, int zone, int cpu, Row *row) noexcept nogil:
    """Another row took this PCP's lock: whoever holds it here did not, there, do what it waits for."""
    cdef Under *x = holder_of(r, zone, cpu)[0]
    while x is not NULL:
        if x.kind == C_FREE or x.kind == C_DRAIN:
            note(r, D_DRAIN, row, zone, x.op.n, 0)
            if r.mode != FREE_RUN:         # as the recording did: it is over
                end_under(r, x)
            while holder_of(r, zone, cpu)[0] == x:
                run_aside(r, x)
        else:
            give_up(r, x)
        x = holder_of(r, zone, cpu)[0]


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
    d.cause = <uint8_t>r.root

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
    s.kind = NOT_OPEN

cdef inline bint same_event(Event *e, Row *row) noexcept nogil:
    if e.pfn != row.pfn or e.order != row.order or e.type != row.type:
        return False
    if row.event == V_ZONE_LOCKED:
        return e.kind == E_ZONE_LOCKED and (row.percpu_refill < 0 or e.flag == row.percpu_refill)
    if row.event == V_PCPU_DRAIN:
        return e.kind == E_PCPU_DRAIN
    return (
        e.kind == E_EXTFRAG and e.order2 == row.fallback_order and e.type2 == row.fallback_type
        and e.flag == row.change_ownership
    )

cdef void match(Retrace *r, int zone, Row *row) noexcept nogil:
    """A row under the zone lock against the next event of the section that was run for it."""
    cdef Section *s = &r.section[zone]
    cdef Ring *ring = &r.ring[zone]
    cdef bint exact = False
    cdef uint32_t predicted = NOT_THERE
    if s.kind != NOT_OPEN and s.cpu == row.cpu:
        skip_others(ring, s)
        if s.at < s.end:
            predicted = ring.events[s.at & ring.mask].pfn
            exact = same_event(&ring.events[s.at & ring.mask], row)
            s.at += 1
        s.exact = s.exact and exact
    if row.event == V_PCPU_DRAIN:
        r.drained.seen += 1
        r.drained.exact += exact
        if not exact:
            note(r, D_DRAINED, row, zone, predicted, row.pfn)
    elif not exact:
        note(r, D_REFILL, row, zone, predicted, row.pfn)

cdef void compare_fields(Retrace *r, int zone, Row *row) noexcept nogil:
    """Of the PCP that the row shows, at this very point. A row shows all of them, or some."""
    cdef Pcp *p
    cdef bint exact
    if row.count == NO_FIELD:
        return
    p = &zone_nr(r, zone).pcp[row.pcp_cpu]
    exact = (
        p.count == row.count and (row.high == NO_FIELD or p.high == row.high)
        and (row.pcp_flags < 0 or p.flags == row.pcp_flags)
        and (row.alloc_factor < 0 or p.alloc_factor == row.alloc_factor)
        and (row.free_count == NO_FIELD or p.free_count == row.free_count)
    )
    r.fields.seen += 1
    r.fields.exact += exact
    if exact:
        return
    note(r, D_FIELDS, row, zone, p.count, row.count)
    if r.mode == RESYNC:
        p.high = clamp(row.high, p.high_min, p.high_max) if row.high != NO_FIELD else p.high
        p.flags = <uint8_t>(row.pcp_flags if row.pcp_flags >= 0 else p.flags)
        p.alloc_factor = <uint8_t>(min(<int>row.alloc_factor, SCALE_MAX) if row.alloc_factor >= 0 else p.alloc_factor)
        p.free_count = clamp(row.free_count, 0, p.batch << SCALE_MAX) if row.free_count != NO_FIELD else p.free_count

cdef void compare_alloc(Retrace *r, int zone, Row *row, idx i) noexcept nogil:
    """A page was handed out, there and here (i, or 0)."""
    cdef CZone *z = zone_nr(r, zone)
    cdef uint32_t mine = <uint32_t>pfn_of(z, i) if i else NOT_THERE
    cdef bint exact = mine == row.pfn
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
        r.causes[r.root] += 1
        note(r, D_ALLOC, row, zone, mine, row.pfn)
        if r.mode == RESYNC:
            i = resync(r, zone, row, i)
            zone = node_zone_of(&r.node, row.pfn)
    hand_over(r, zone, row, i)

cdef void hand_over(Retrace *r, int zone, Row *row, idx i) noexcept nogil:
    """The recorded pages stand for our own ones from now on."""
    cdef CZone *z = zone_nr(r, zone)
    cdef uint32_t k
    cdef uint32_t pages = 1u << row.order
    for k in range(pages):
        if r.map[row.pfn + k]:             # freed, and no row said so
            r.frees_unseen += 1
            if not i or r.map[row.pfn + k] - 1 - <uint32_t>pfn_of(z, i) >= pages:
                give_back(r, row.cpu, r.map[row.pfn + k] - 1)
        r.map[row.pfn + k] = <uint32_t>pfn_of(z, i) + k + 1 if i else 0
    if i and row.type == MOVABLE and is_allocated(z, i):   # its user puts it on an LRU list (corrections.md)
        set_word(z, i, word_of(z, i) | MOVABLE_BIT)


# -- pages as they are freed -----------------------------------------------------------------------------------

cdef bint make_entry(CZone *z, idx i, int o) noexcept nogil:
    """
    Make 2^o allocated pages one allocation of that order, whatever allocations they were parts of.

    False, and nothing is changed: not all of them are allocated.
    """
    cdef idx p = i
    cdef idx head
    cdef int k = 0
    if (word_of(z, i) & HEAD_MASK) == (ALLOC | o << ORDER_SHIFT):
        return True
    while p < i + (1u << o):
        head = head_of(z, p, &k)
        if not head or (word_of(z, head) & 7) != ALLOC:
            return False
        p = head + (1u << k)
    head = head_of(z, i, &k)
    if k > o:
        split_page(z, head)
    for p in range(i, i + (1u << o)):
        set_word(z, p, 0)
    take_away(z, i, o, UNKNOWN)
    return True

cdef idx own_entry(Retrace *r, Row *row, int *zone) noexcept nogil:
    """Our chunk that stands for the recorded one; 0: it is not known, or not one chunk here."""
    cdef uint32_t mine = r.map[row.pfn]
    cdef uint32_t k
    cdef idx i
    if not mine:
        return 0
    for k in range(1, 1u << row.order):
        if r.map[row.pfn + k] != mine + k:
            return 0
    zone[0] = node_zone_of(&r.node, mine - 1)
    i = index_of(zone_nr(r, zone[0]), mine - 1)
    if i & ((1u << row.order) - 1):
        return 0
    return i if make_entry(zone_nr(r, zone[0]), i, row.order) else 0

cdef void give_back(Retrace *r, int cpu, uint32_t mine) noexcept nogil:
    """One page of ours, freed for a reason that no row shows."""
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, mine))
    if make_entry(z, index_of(z, mine), 0):
        free_by_policy(z, cpu, index_of(z, mine), 0)

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
    r.notes[row.pfn] &= ~POPPED
    for k in range(1u << row.order):
        r.map[row.pfn + k] = 0


# -- resync: the recorded page, from wherever it is ----------------------------------------------------------

cdef void put_half(CZone *z, int cpu, int c, idx i, int o, int T) noexcept nogil:
    """A part that a resync does not need: back where it came from, or into the zone if no list is of its order."""
    if c >= 0 and pcp_order(z, o):
        pcp_put(z, c, i, o, T, 0, True)
    elif c >= 0:
        merge_free(z, cpu, i, o, block_type(z, i), True)
    else:
        insert(z, cpu, i, o, T, False)
        account(z, cpu, 1 << o, T)

cdef int extract(CZone *z, int cpu, idx p, int o, idx *end) noexcept nogil:
    """
    Free page p, with what belongs to the same aligned 2^o pages, out of the chunk or entry that it is in.

    Returns where it was; `end` is the page after the part that is now out.
    """
    cdef int k = 0
    cdef int c = -1
    cdef int found = FOUND_IN_ZONE
    cdef int T
    cdef idx head = head_of(z, p, &k)
    cdef uint32_t word
    if not head:
        return FOUND_NOWHERE
    word = word_of(z, head)
    if (word & 7) == ALLOC:
        end[0] = head + (1u << k)
        return FOUND_ALLOCATED
    if (word & 7) == PCP:
        c = word >> CPU_SHIFT
        T = word_type(word)
        found = FOUND_OWN_PCP if c == cpu else FOUND_OTHER_PCP
        pcp_del(z, c, head, k)
    elif (word & 7) == BUDDY or block_of(z, head).order:
        T = block_type(z, head)
        remove(z, cpu, head, k, T)
        account(z, cpu, -(1 << k), T)
    else:
        return FOUND_NOWHERE
    while k > o:
        k -= 1
        if p & (1u << k):
            put_half(z, cpu, c, head, k, T)
            head += 1u << k
        else:
            put_half(z, cpu, c, head + (1u << k), k, T)
    take_away(z, head, k, UNKNOWN)
    end[0] = head + (1u << k)
    return found

cdef idx fetch(Retrace *r, Row *row) noexcept nogil:
    """The pages of a row, from wherever they are, as one allocation; 0: one of them is nowhere."""
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, row.pfn))
    cdef idx i = index_of(z, row.pfn)
    cdef int first_found = FOUND_NOWHERE
    cdef int found
    cdef idx p = i
    cdef idx end = 0
    while p < i + (1u << row.order):
        found = extract(z, row.cpu, p, row.order, &end)
        if found == FOUND_NOWHERE:
            r.found[FOUND_NOWHERE] += 1
            return 0
        if p == i:
            first_found = found
        p = end
    r.found[first_found] += 1
    return i if make_entry(z, i, row.order) else 0

cdef idx resync(Retrace *r, int zone, Row *row, idx i) noexcept nogil:
    """Ours goes back where it came from, and the recorded page is taken from where it is. 0: it is nowhere."""
    cdef CZone *z = zone_nr(r, zone)
    if i and (word_of(z, i) & HEAD_MASK) != (ALLOC | row.order << ORDER_SHIFT):
        i = 0                              # another resync took it meanwhile
    if i and pcp_order(z, row.order):
        pcp_put(z, row.cpu, i, row.order, row.type, 0, False)
    elif i:
        free_by_policy(z, row.cpu, i, 0)
    return fetch(r, row)
