# Plain recordings: drains, which rows show without saying whose they are, and frees past the PCPs, whose zone section
# has no row at all. Included by core.pyx; see retrace_plain.pxi.

# -- drains: what is drained says where it began and how much it was ------------------------------------------------

cdef void observe(Retrace *r, uint64_t serial) noexcept nogil:
    """The pages of the drain that begins with this row."""
    cdef Row *row = row_at(r, serial)
    cdef int64_t task = task_of(row)
    cdef int cpu = row.cpu
    cdef int64_t before = row.ts_ns
    cdef uint64_t next = serial + 1        # serial + 1 of the task's next row
    r.nr_observed = 0
    r.nr_together = 0
    r.observed_pages = 0
    while next and serial < r.linked:
        row = row_at(r, serial)
        serial += 1
        if task_of(row) != task:
            if row.cpu == cpu and not r.nr_together:
                r.nr_together = r.nr_observed
            continue
        if row.event != V_PCPU_DRAIN or row.ts_ns - before > DRAIN_GAP_NS or r.nr_observed == OBSERVED:
            break
        before = row.ts_ns
        next = next_of_task(r, serial - 1)
        r.observed[r.nr_observed] = row.pfn
        r.nr_observed += 1
        r.observed_pages += 1 << row.order if row.order > 0 else 1
    if not r.nr_together:
        r.nr_together = r.nr_observed

cdef int would_drain(Retrace *r, CZone *z, int c, int start, int n, int *same, int64_t *pages) noexcept nogil:
    """How many entries and pages a drain of n pages takes, and how many entries from the first on are as observed."""
    cdef idx at[30]
    cdef Pcp *p = &z.pcp[c]
    cdef int left = p.count
    cdef int taken = 0
    cdef int chunk
    cdef int position
    cdef int which
    cdef int k
    same[0] = 0
    pages[0] = 0
    for k in range(NR_LISTS):
        at[k] = z.page[cpu_head(c, k)].prev
    while n > 0 and left > 0:
        chunk = min(n, p.batch)
        n -= chunk
        chunk = min(chunk, left)
        position = list_at(start)
        while chunk > 0:
            which = list_at(position)
            while chunk > 0 and at[which] != cpu_head(c, which):
                if taken < r.nr_observed and same[0] == taken and r.observed[taken] == <uint32_t>pfn_of(z, at[which]):
                    same[0] += 1
                at[which] = z.page[at[which]].prev
                taken += 1
                if same[0] < taken and same[0] < r.nr_together:
                    return taken           # nothing that is asked for can fit any more
                chunk -= 1 << (which // 3)
                left -= 1 << (which // 3)
                pages[0] += 1 << (which // 3)
            if left <= 0:
                break
            position = position + 1 if position < NR_LISTS - 1 else 0
    return taken

cdef bint drain_fits(Retrace *r, CZone *z, int c, int start, int n, bint loosely) noexcept nogil:
    """
    Does a drain of n pages look like the observed one? Where another task came between, its size must, or about so.
    """
    cdef int same = 0
    cdef int64_t pages = 0
    cdef int taken = would_drain(r, z, c, start, n, &same, &pages)
    if r.nr_together == r.nr_observed:
        return taken == r.nr_observed and same == taken
    pages -= r.observed_pages
    return same >= r.nr_together and max(pages, -pages) <= (8 * (n // z.pcp[c].batch + 1) if loosely else 0)

cdef bint begins_like(Retrace *r, CZone *z, int c, int start) noexcept nogil:
    """Is the observed drain, as far as it is of one piece, one that begins at this list?"""
    cdef int same = 0
    cdef int64_t pages = 0
    would_drain(r, z, c, start, z.pcp[c].count, &same, &pages)
    return same >= r.nr_together

cdef void confirm_drain(Retrace *r, Under *x, uint64_t serial, int high_before) noexcept nogil:
    """A drain that is due here and whose rows begin at `serial`: is it the same one, and of the same size?"""
    cdef CZone *z = zone_nr(r, x.zone)
    cdef Pcp *p = &z.pcp[x.op.target]
    cdef int same = 0
    cdef int64_t pages = 0
    cdef int n
    observe(r, serial)
    if drain_fits(r, z, x.op.target, x.op.start, x.op.n, True):
        return
    n = would_drain(r, z, x.op.target, x.op.start, x.op.n, &same, &pages)
    if n == same and n < r.nr_observed:    # another one follows it
        return
    if begins_like(r, z, x.op.target, 0) and not begins_like(r, z, x.op.target, x.op.start):
        p.high = max(high_before, p.count + 1)   # none was due: a tick's
        end_under(r, x)
        return
    n = <int>r.observed_pages
    if drain_fits(r, z, x.op.target, x.op.start, n, True):   # B-84: its size was free_count
        p.free_count = n
        x.op.n = n
        r.taken[3] += 1

cdef Under *plan_drain(Retrace *r, Row *row, int zone, int c, int start, int n) noexcept nogil:
    cdef Under *x = begin_drain(r, row, zone, n, 0)
    x.op.target = <unsigned short>c
    x.op.start = start
    return x

cdef Under *drain_of_free(Retrace *r, Row *row, uint64_t serial, int zone, int c, bint loosely) noexcept nogil:
    """The task's row before was a free into this PCP: its drain, at a limit that ticks have lowered (R7)? Else NULL."""
    cdef CZone *z = zone_nr(r, zone)
    cdef Pcp *p = &z.pcp[c]
    cdef uint64_t before = previous_of_task(r, serial)
    cdef Row *freed_by
    cdef uint32_t word
    cdef int pages
    cdef int start
    cdef int limit
    cdef int lowest
    if not before:
        return NULL
    freed_by = row_at(r, before - 1)
    if (freed_by.event != V_FREE and freed_by.event != V_FREE_BATCHED) or node_zone_of(&r.node, freed_by.pfn) != zone:
        return NULL
    word = word_of(z, index_of(z, freed_by.pfn))
    if (word & 7) != PCP or <int>(word >> CPU_SHIFT) != c:
        return NULL
    pages = 1 << word_order(word)
    start = list_index(z, word_order(word), word_type(word))
    limit = p.high
    while limit > p.count and limit > p.high_min and ticked(p, limit, p.count - pages) < limit:   # below 8, B-102 rests
        limit = ticked(p, limit, p.count - pages)
    if not p.count - pages < limit <= p.count:
        limit = p.count
    lowest = max(p.count - pages, 0)
    while limit > lowest:
        if drain_fits(r, z, c, start, free_amount(p, limit, False), loosely):
            r.taken[7] += 1
            p.high = limit
            if p.high_min != p.high_max and p.high < p.free_count + p.batch:
                p.high = clamp(p.free_count + p.batch, p.high_min, p.high_max)
            return plan_drain(r, row, zone, c, start, free_amount(p, limit, False))
        limit -= 1
    if drain_fits(r, z, c, start, min(p.count, p.batch << SCALE_MAX), loosely):   # B-83, free_high
        r.taken[3] += 1
        p.free_count = max(p.free_count, p.batch + p.high_min // 2 + pages)
        p.high = max(p.high - (p.batch << SCALE_MAX), p.high_min)
        return plan_drain(r, row, zone, c, start, min(p.count, p.batch << SCALE_MAX))
    if loosely and begins_like(r, z, c, start) and not begins_like(r, z, c, 0):
        r.taken[7] += 1
        p.high = min(p.high, p.count)
        return plan_drain(r, row, zone, c, start, <int>r.observed_pages)
    return NULL

cdef int pops_under_way(Retrace *r, Row *row, uint64_t serial, int zone, int c, idx *pages) noexcept nogil:
    """Pages that tasks on this CPU may have popped before this row and show after it: at most three."""
    cdef CZone *z = zone_nr(r, zone)
    cdef int64_t seen[4]
    cdef int nr_seen = 1
    cdef int n = 0
    cdef int k
    cdef int rows = 0
    cdef uint64_t at = serial
    cdef uint64_t next
    cdef Row *other
    seen[0] = task_of(row)
    while at > r.base and serial - at < REACH and rows < 400 and nr_seen < 4:
        at -= 1
        other = row_at(r, at)
        if other.cpu != row.cpu:
            continue
        rows += 1
        for k in range(nr_seen):
            if seen[k] == task_of(other):
                break
        else:
            seen[nr_seen] = task_of(other)
            nr_seen += 1
            next = next_of_task(r, at)
            if next > serial + 1 and row_at(r, next - 1).event == V_ALLOC and row_at(r, next - 1).pfn != NOT_THERE and (
                node_zone_of(&r.node, row_at(r, next - 1).pfn) == zone
            ):
                pages[n] = index_of(z, row_at(r, next - 1).pfn)
                if (word_of(z, pages[n]) & 7) == PCP and <int>(word_of(z, pages[n]) >> CPU_SHIFT) == c:
                    n += 1
    return n

cdef Under *drain_of_tick(Retrace *r, Row *row, uint64_t serial, int zone, int c, bint loosely) noexcept nogil:
    """
    B-102: the smallest number of ticks, and of pops that came before, after which the rows are what is drained.

    loosely: there is none; what was drained says how far high had sunk.
    """
    cdef CZone *z = zone_nr(r, zone)
    cdef Pcp *p = &z.pcp[c]
    cdef idx pages[4]
    cdef int pops = pops_under_way(r, row, serial, zone, c, pages)
    cdef int e
    cdef int k
    cdef int high
    cdef int n
    for e in range(0 if loosely else pops + 1):
        high = p.high
        for k in range(1, 40):
            n = high
            high = ticked(p, high, p.count - e)
            if high == n and k > 1:
                break
            n = p.count - e - high
            if n > 0 and drain_fits(r, z, c, 0, n, False):
                r.taken[7] += k
                p.high = high
                for k in range(e):
                    pop_early(r, z, pages[k], 3)
                return plan_drain(r, row, zone, c, 0, n)
    if not loosely:
        return NULL
    r.taken[7] += 1
    p.high = max(p.count - <int>r.observed_pages, p.high_min)
    return plan_drain(r, row, zone, c, 0, <int>r.observed_pages)

cdef Under *find_plain_drain(Retrace *r, Row *row, int zone) noexcept nogil:
    """What this task has begun to drain, here."""
    cdef Under *x
    cdef Under *found = NULL
    cdef int64_t task = task_of(row)
    cdef int k
    for k in range(row.cpu * DEPTH, (row.cpu + 1) * DEPTH):
        x = &r.under[k]
        if (x.kind == C_FREE or x.kind == C_DRAIN) and x.zone == zone and x.task == task and (
            x.action == LOCK_ZONE or x.action == LOCK_PCP or x.action == TRY_PCP
        ):
            if found is NULL or x.born > found.born:
                found = x
    return found

cdef Under *unexpected_drain(Retrace *r, Row *row, uint64_t serial, int zone) noexcept nogil:
    """No drain is due here, but the rows show one."""
    cdef CZone *z = zone_nr(r, zone)
    cdef uint32_t word = word_of(z, index_of(z, row.pfn))
    cdef int c = word >> CPU_SHIFT
    cdef bint loosely
    cdef Under *x = NULL
    if (word & 7) != PCP:
        return NULL
    observe(r, serial)
    for loosely in range(2):
        if x is NULL:
            x = drain_of_free(r, row, serial, zone, c, loosely)
        if x is NULL and begins_like(r, z, c, 0):
            x = drain_of_tick(r, row, serial, zone, c, loosely)
    return x

cdef void on_plain_drain(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    cdef int zone = node_zone_of(&r.node, row.pfn)
    cdef Section *s = &r.section[zone]
    cdef Under *x
    if s.kind == D_DRAINED and s.cpu == row.cpu:
        skip_others(&r.ring[zone], s)
        if s.at < s.end:
            match(r, zone, row)
            return
    x = find_plain_drain(r, row, zone)
    if x is NULL and r.mode == FREE_RUN:
        first_cause(r, 7)                  # a tick's, or a limit that ticks have lowered
    elif x is NULL:
        x = unexpected_drain(r, row, serial, zone)
    if x is not NULL and x.action != LOCK_ZONE:
        grant_pcp(r, x)
    if x is not NULL and x.kind != C_FREE_SLOT and x.action == LOCK_ZONE:
        run_all_waiting(r, zone)
        run_section(r, x)
        r.drains.seen += 1
        r.drains.exact += 1
    else:
        close_section(r, zone)
    match(r, zone, row)


# -- frees past the PCP: their zone section has no row ------------------------------------------------------------

cdef int waiting_in(Retrace *r, int zone, Under **found) noexcept nogil:
    """Those of a zone whose section may still be to come, in the order of their rows; WAITING at most."""
    cdef Under *x
    cdef int n = 0
    cdef int k
    cdef int at
    for k in range(r.cpus * DEPTH):
        x = &r.under[k]
        if x.kind != C_FREE or x.op.at != F_DIRECTING or x.zone != zone or n == WAITING:
            continue
        at = n
        while at > 0 and found[at - 1].born > x.born:
            found[at] = found[at - 1]
            at -= 1
        found[at] = x
        n += 1
    return n

cdef void run_waiting(Retrace *r, Under *x) noexcept nogil:
    r.nr_waiting -= 1
    run_aside(r, x)

cdef void run_waiting_of(Retrace *r, int64_t task) noexcept nogil:
    """A task that writes its next row is done with what it freed."""
    cdef int k
    for k in range(r.cpus * DEPTH):
        if r.under[k].kind == C_FREE and r.under[k].op.at == F_DIRECTING and r.under[k].task == task:
            run_waiting(r, &r.under[k])

cdef void run_all_waiting(Retrace *r, int zone) noexcept nogil:
    cdef Under *found[8]
    cdef int k
    cdef int n
    if r.nr_waiting:
        n = waiting_in(r, zone, found)
        for k in range(n):
            run_waiting(r, found[k])

cdef bint as_recorded(Retrace *r, int zone, uint64_t serial) noexcept nogil:
    """Are the events of the section that was run what its rows say?"""
    cdef Section s = r.section[zone]
    cdef int cpu = s.cpu
    cdef uint64_t end = min(r.linked, serial + REACH)
    cdef Row *row
    while serial < end:
        row = row_at(r, serial)
        serial += 1
        if row.cpu != cpu or row.event == V_CLAIM:
            continue
        if not is_section_row(row):
            break
        skip_others(&r.ring[zone], &s)
        if s.at >= s.end or not same_event(&r.ring[zone].events[s.at & r.ring[zone].mask], row):
            return False
        s.at += 1
    skip_others(&r.ring[zone], &s)
    return s.at >= s.end

cdef bint save_zone_as_is(Retrace *r, CZone *z) noexcept nogil:
    if r.saved_size < z.s.size:
        c_free(r.saved)
        r.saved = <char *>malloc(z.s.size)
        r.saved_size = z.s.size if r.saved is not NULL else 0
    if r.saved is NULL:
        return False
    memcpy(r.saved, z.s, z.s.size)
    return True

cdef void run_among_waiting(Retrace *r, Under *x, uint64_t serial) noexcept nogil:
    """A section that takes pages, with some of the waiting frees before it and the others after it: as its rows say."""
    cdef Under *found[8]
    cdef Under before[8]
    cdef Under as_is
    cdef Section section = r.section[x.zone]
    cdef CZone *z = zone_nr(r, x.zone)
    cdef int n = waiting_in(r, x.zone, found)
    cdef int first = n
    cdef int k
    if n == 0 or not save_zone_as_is(r, z):
        run_told(r, x, serial)
        return
    close_section(r, x.zone)
    section = r.section[x.zone]
    as_is = x[0]
    for k in range(n):
        before[k] = found[k][0]
    while True:
        for k in range(max(first, 0)):
            run_aside(r, found[k])
        run_told(r, x, serial)
        if first <= 0 or as_recorded(r, as_is.zone, serial):
            break
        first -= 1
        memcpy(z.s, r.saved, z.s.size)
        r.section[as_is.zone] = section
        x[0] = as_is
        for k in range(n):
            found[k][0] = before[k]
    if not as_recorded(r, as_is.zone, serial):   # no order helps: all of them before, as their rows stand
        memcpy(z.s, r.saved, z.s.size)
        r.section[as_is.zone] = section
        x[0] = as_is
        for k in range(n):
            found[k][0] = before[k]
        for k in range(n):
            run_aside(r, found[k])
        run_told(r, x, serial)
        first = n
    r.taken[3] += n - first
    r.nr_waiting -= first
