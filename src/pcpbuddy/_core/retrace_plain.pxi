# Recordings with the standard tracepoints only: requests from events whose order is not the order of the list
# operations. Included by core.pyx.
#
# mm_page_alloc comes after the pop and mm_page_free before the push, and a task can be preempted in
# between (17.1, 17.2); ticks, trylocks that failed and contiguous frees have no rows (R7, R2, R5). What
# rows pin is the order of zone-lock sections, the size of every refill and drain, and where each page turns up next.
# Free-run takes the rows as they stand. The other modes look ahead and back for what the rows pin,
# and count what they take from there.

# -- whose rows, and when ------------------------------------------------------------------------------------------

cdef uint64_t next_of_task(Retrace *r, uint64_t serial) noexcept nogil:
    """Serial + 1 of the next row that the same task wrote; 0: none within reach."""
    cdef uint64_t next = row_at(r, serial).later
    return next if next <= serial + REACH else 0

cdef bint wrote_since(Retrace *r, Row *row, uint64_t first) noexcept nogil:
    """Has the task of the row another one from `first` on, before it? What is not kept any more may be one."""
    return first < r.base or row.earlier > first

cdef uint64_t previous_of_task(Retrace *r, uint64_t serial) noexcept nogil:
    """Serial + 1 of the row that the same task wrote before; 0: none is kept."""
    cdef uint64_t before = row_at(r, serial).earlier
    return before if before > r.base else 0

cdef inline void first_cause(Retrace *r, int item) noexcept nogil:
    """Free-run of a plain recording parts from it, and does not come back: what was it that no row told?"""
    if r.root == UNEXPLAINED:
        r.root = item

cdef inline Row *next_naming(Retrace *r, uint32_t pfn) noexcept nogil:
    """The first row ahead that names the page, or NULL."""
    return row_at(r, r.next_of[pfn] - 1) if r.next_of[pfn] else NULL

cdef Row *next_covering(Retrace *r, uint32_t pfn) noexcept nogil:
    """The first row ahead about the page: one that names it, or a larger chunk that it is in; or NULL."""
    cdef Row *first_there = NULL
    cdef Row *row
    cdef int k
    cdef int steps
    for k in range(MAX_ORDER + 1):
        if k and not (pfn >> (k - 1)) & 1:
            continue                       # the same head as of the order below
        row = next_naming(r, pfn & ~((1u << k) - 1))
        for steps in range(8):
            if row is NULL or row.order >= k or (k == 0 and row.order < 0):
                break
            row = row_at(r, row.next - 1) if row.next else NULL
        if row is not NULL and row.order >= k and (first_there is NULL or row.row < first_there.row):
            first_there = row
    return first_there


# -- allocations -----------------------------------------------------------------------------------------------------

cdef void pop_early(Retrace *r, CZone *z, idx q, int item) noexcept nogil:
    """A page left its PCP list before its own row says so."""
    cdef uint32_t word = word_of(z, q)
    cdef int c = word >> CPU_SHIFT
    cdef int o = word_order(word)
    cdef uint32_t pfn = <uint32_t>pfn_of(z, q)
    cdef uint32_t k
    pcp_del(z, c, q, o)
    take_away(z, q, o, word_type(word))
    if item != 1:                          # bulk allocation does not halve (B-93)
        z.pcp[c].free_count >>= 1
        r.notes[pfn] |= EARLY
    for k in range(1u << o):
        r.map[pfn + k] = pfn + k + 1
    r.taken[item] += 1

cdef int why_above(Retrace *r, Row *row, uint64_t serial, CZone *z, idx q) noexcept nogil:
    """
    Page q lies above the page that a row shows: why? An R-item, its negative for a push that came later, or 0.
    """
    cdef uint32_t pfn = <uint32_t>pfn_of(z, q)
    cdef uint64_t push = r.pushed[pfn] >> 1
    cdef uint64_t next
    cdef Row *ahead
    if push and not wrote_since(r, row, push - 1):
        return -3                          # pushed after this pop may have happened
    ahead = next_naming(r, pfn)
    if ahead is not NULL and ahead.event == V_ALLOC and task_of(ahead) != task_of(row):
        if not wrote_since(r, ahead, serial):
            return 3                       # its task popped it before, and shows it later
    if push and r.pushed[pfn] & 1 and push > r.base:
        next = row_at(r, push - 1).later
        if not next or next > serial:
            return -3                      # its free may not have got as far as the list
    if ahead is not NULL and ahead.event == V_FREE:
        return 1                           # popped in bulk: no row tells of it
    return 0

cdef bint explained(Retrace *r, Row *row, uint64_t serial, CZone *z, idx i, int c) noexcept nogil:
    """Is there a reason for every page above i in its list? Those that were popped before are popped then."""
    cdef idx head = cpu_head(c, list_index(z, row.order, row.type))
    cdef idx q = z.page[head].next
    cdef idx after
    cdef int why
    cdef int above = 0
    cdef bint late = False
    while q != i:
        above += 1
        if q == head or above > ABOVE or why_above(r, row, serial, z, q) == 0:
            return False
        q = z.page[q].next
    q = z.page[head].next
    while q != i:
        after = z.page[q].next
        why = why_above(r, row, serial, z, q)
        if why > 0:
            pop_early(r, z, q, why)
        late = late or why < 0
        q = after
    r.taken[3] += late
    return True

cdef idx pop_shown(Retrace *r, Row *row, uint64_t serial, int zone) noexcept nogil:
    """The page that an mm_page_alloc shows, if the true order of operations can have put it on top; else 0."""
    cdef CZone *z = zone_nr(r, zone)
    cdef idx i = index_of(z, row.pfn)
    cdef uint32_t word = word_of(z, i)
    cdef int c = word >> CPU_SHIFT
    if (word & HEAD_MASK) != (PCP | row.order << ORDER_SHIFT) or list_index(z, row.order, word_type(word)) != (
        list_index(z, row.order, row.type)
    ):
        return 0
    if not explained(r, row, serial, z, i, c):
        return 0
    r.taken[3] += c != row.cpu             # the task moved before it could tell
    pcp_del(z, c, i, row.order)
    take_away(z, i, row.order, row.type)
    z.pcp[c].free_count >>= 1
    hand_out(z, row.cpu, i, row.order, row.type, flags_of(r, row))
    return i

cdef void on_plain_alloc(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    cdef int zone
    cdef CZone *z
    cdef Under *x = NULL
    cdef idx i
    cdef idx head
    cdef int c
    if row.pfn == NOT_THERE or row.order < 0 or not 0 <= row.type < 3:
        return
    zone = node_zone_of(&r.node, row.pfn)
    z = zone_nr(r, zone)
    i = index_of(z, row.pfn)
    if r.notes[row.pfn] & EARLY:
        r.notes[row.pfn] &= ~EARLY
        forget(r, row)
        compare_alloc(r, zone, row, i if (word_of(z, i) & HEAD_MASK) == (ALLOC | row.order << ORDER_SHIFT) else 0)
        return
    for c in range(r.cpus if row.owner else 0):
        x = find_owned(r, c, serial + 1)
        if x is not NULL:
            r.taken[3] += c != row.cpu
            finish_alloc(r, x, row)
            return
    note_below_high(r, row, zone, flags_of(r, row))
    if not past_pcp(row.order):
        head = cpu_head(row.cpu, list_index(z, row.order, row.type))
        if z.page[head].next != i and r.mode == FREE_RUN:
            if (word_of(z, i) & HEAD_MASK) == (PCP | row.order << ORDER_SHIFT):
                first_cause(r, 3)          # in a PCP, but not where the order of the rows puts it
        elif z.page[head].next != i:
            head = pop_shown(r, row, serial, zone)
            if head:
                compare_alloc(r, zone, row, head)
                return
        if list_has(z, row.cpu, row.order, row.type):
            compare_alloc(r, zone, row, alloc_page(z, row.cpu, row.order, row.type, flags_of(r, row)))
            return
        note(r, D_REFILL, row, zone, NOT_THERE, NOT_THERE)
    finish_alloc(r, begin_alloc(r, row, row.cpu, zone, serial + 1, True), row)

cdef void finish_alloc(Retrace *r, Under *x, Row *row) noexcept nogil:
    while x.action == LOCK_ZONE:
        run_aside(r, x)
    compare_alloc(r, x.zone, row, x.op.page)
    end_under(r, x)


# -- refills: a refill says that the list was empty, and how large high was ----------------------------------------

cdef int size_now(CZone *z, Pcp *p, int o, int high) noexcept nogil:
    """B-64 as it would be with another high; nothing is changed."""
    cdef Pcp copy = p[0]
    cdef int raised
    copy.high = high
    return refill_size(z, &copy, o, &raised)

cdef inline int ticked(Pcp *p, int high, int count) noexcept nogil:
    """B-102 once."""
    if high <= p.high_min:
        return high
    return max(max(count - (p.batch << SCALE_MAX), high - (high >> 3)), p.high_min)

cdef void expect_size(Retrace *r, CZone *z, Pcp *p, int o, int n) noexcept nogil:
    """A refill of n entries: if that is not what high gives, ticks have lowered it unseen (R7)."""
    cdef int high = p.high
    cdef int lower
    cdef int k
    if size_now(z, p, o, high) == n:
        return
    for k in range(1, 40):
        lower = ticked(p, high, p.count)
        if lower == high:
            break
        high = lower
        if size_now(z, p, o, high) == n:
            p.high = high
            r.taken[7] += k
            return
    if o:
        return
    high = max(min(n + p.count + p.batch, p.high_max) - (p.batch << p.alloc_factor), p.high_min)
    if size_now(z, p, o, high) == n:       # the size shows high itself
        p.high = high
        r.taken[7] += 1

cdef bint has_pages(CZone *z, int o, int T, int entries) noexcept nogil:
    """Has the zone as many entries of a type? Then a refill would have got them."""
    cdef int64_t found = 0
    cdef int k
    cdef idx i
    for k in range(o, MAX_ORDER + 1):
        i = first(z, k, T)
        if i:
            found += 1 << (k - o)
            if k < PB and z.page[i].next != zone_head(k, T):
                found += 1 << (k - o)
    return found >= entries

cdef bint expect_refill(Retrace *r, Row *row, Row *request, int zone, uint64_t serial) noexcept nogil:
    """
    Before the first row of a section that serves a PCP order. False: it is no refill, its trylock had failed (R2).
    """
    cdef CZone *z = zone_nr(r, zone)
    cdef Pcp *p = &z.pcp[row.cpu]
    cdef int o = request.order
    cdef idx head = cpu_head(row.cpu, list_index(z, o, request.type))
    cdef int n
    foresee(r, zone, serial)
    n = r.told[zone].nr_outcomes
    if flags_of(r, request) & USE_HIGHATOMIC:
        return True                        # B-62: never refilled
    if z.page[head].next != head:
        if n == 1:
            r.taken[2] += 1
            return False
        while z.page[head].next != head:   # its pages had been popped, their rows come later
            pop_early(r, z, z.page[head].next, 3)
    elif n == 1 and p.batch > 1 and max(min(p.high, p.high_max), p.high_min) >= p.batch and has_pages(
        z, o, row.type if row.event == V_ZONE_LOCKED else request.type, 2
    ):
        r.taken[2] += 1
        return False
    expect_size(r, z, p, o, n)
    return True


# -- frees -------------------------------------------------------------------------------------------------------------

cdef int run_of_singles(Retrace *r, uint64_t serial, uint64_t *run) noexcept nogil:
    """The unbatched frees of one task, of pages one after the other, from this row on (R5). Returns how many."""
    cdef int n = 1
    cdef uint64_t next
    cdef Row *row
    run[0] = serial
    while n < RUN:
        next = next_of_task(r, run[n - 1])
        if not next:
            break
        row = row_at(r, next - 1)
        if row.event != V_FREE or row.order != 0 or row.done or row.cpu != row_at(r, serial).cpu or (
            row.pfn != row_at(r, serial).pfn + n
        ):
            break
        run[n] = next - 1
        n += 1
    return n

cdef inline Row *fate_of(Retrace *r, Row *free) noexcept nogil:
    """The row in which a freed page turns up next, if that shows of which size it then was; or NULL."""
    cdef Row *row
    if not free.next:
        return NULL
    row = row_at(r, free.next - 1)
    return row if row.event == V_ALLOC or row.event == V_PCPU_DRAIN else NULL

cdef int rest_of_allocation(Retrace *r, uint32_t pfn) noexcept nogil:
    """Pages from this one to the end of the allocation that it is in."""
    cdef CZone *z = zone_nr(r, node_zone_of(&r.node, pfn))
    cdef int k = 0
    cdef idx i = index_of(z, pfn)
    cdef idx head = head_of(z, i, &k)
    return <int>(head + (1u << k) - i) if head and (word_of(z, head) & 7) == ALLOC else 1

cdef int piece_order(Retrace *r, uint64_t *run, int at, int n) noexcept nogil:
    """B-94: of which order is the entry that begins at this page of a run? What is known of its pages decides."""
    cdef Row *row = row_at(r, run[at])
    cdef Row *fate = fate_of(r, row)
    cdef int left
    cdef int o = 0
    cdef int k
    if fate is not NULL:
        return fate.order if at + (1 << fate.order) <= n else 0
    left = min(rest_of_allocation(r, row.pfn), n - at)
    if left == 1 and not r.notes[row.pfn] and row.context & 0x18 == 0:   # never seen before: perhaps a larger one
        while at + left < n and not r.notes[row.pfn + left] and fate_of(r, row_at(r, run[at + left])) is NULL and (
            rest_of_allocation(r, row.pfn + left) == 1
        ):
            left += 1
    while o < MAX_ORDER and (2 << o) <= left and not (row.pfn >> o) & 1:
        o += 1
    k = 1
    while k < 1 << o:                      # one that turns up alone was no part of it
        if fate_of(r, row_at(r, run[at + k])) is not NULL:
            o -= 1
            k = 0
        k += 1
    return o

cdef void cut_run(Retrace *r, uint64_t serial) noexcept nogil:
    """Each row of a run gets the entry that is complete with it, or none."""
    cdef uint64_t run[8192]
    cdef int n = run_of_singles(r, serial, run)
    cdef int at = 0
    cdef int o
    cdef int k
    cdef Row *row
    while at < n:
        o = piece_order(r, run, at, n)
        for k in range(at, at + (1 << o)):
            row_at(r, run[k]).fpi = LATER
        row = row_at(r, run[at + (1 << o) - 1])
        row.fpi = <int8_t>o
        row.nr = <int32_t>row_at(r, run[at]).pfn
        r.taken[5] += o > 0
        at += 1 << o

cdef void on_plain_free(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    if row.event == V_FREE_BATCHED:
        push_shown(r, row, serial, row.pfn, row.order)
    elif row.done or row.order < 0:        # its batched row shows the push itself
        return
    elif row.order > 0 or r.mode == FREE_RUN:
        push_shown(r, row, serial, row.pfn, row.order)
    else:
        if row.fpi == NO_PIECE:
            cut_run(r, serial)
        if row.fpi != LATER:
            push_shown(r, row, serial, row.nr, row.fpi)

cdef void push_shown(Retrace *r, Row *row, uint64_t serial, uint32_t pfn, int o) noexcept nogil:
    """A free, and the drain that it asks for, if the rows show one."""
    cdef int zone = node_zone_of(&r.node, pfn)
    cdef CZone *z = zone_nr(r, zone)
    cdef int high = z.pcp[row.cpu].high
    cdef Row *ahead = next_covering(r, pfn) if r.mode != FREE_RUN else NULL
    cdef bint tried = True
    cdef Row piece = row[0]
    cdef Under *x
    cdef uint64_t next
    piece.pfn = pfn
    piece.order = <int8_t>o
    piece.fpi = -1
    piece.type = -1
    r.frees += 1
    gave_up_drains(r, row)
    if ahead is not NULL and (ahead.event == V_ZONE_LOCKED or ahead.event == V_EXTFRAG):
        tried = past_pcp(o)                # it was in the zone: its trylock had failed (R2)
    x = freed(r, &piece, zone, tried)
    r.pushed[pfn] = (serial + 1) << 1 | (row.event == V_FREE)
    if x is NULL:
        return
    if x.op.at == F_DIRECTING:
        if r.mode == FREE_RUN:
            run_aside(r, x)
        else:
            r.nr_waiting += 1
        return
    next = next_of_task(r, serial)
    if next and row_at(r, next - 1).event == V_PCPU_DRAIN:
        if r.mode != FREE_RUN:
            confirm_drain(r, x, next - 1, high)
    elif r.mode == FREE_RUN:
        first_cause(r, 7)
        note(r, D_DRAIN, row, zone, x.op.n, 0)
        release_drain(r, x)
    else:
        z.pcp[x.op.target].high = max(z.pcp[x.op.target].high, z.pcp[x.op.target].count + 1)
        r.taken[7] += 1
        end_under(r, x)

cdef void release_drain(Retrace *r, Under *x) noexcept nogil:
    """A drain that no row shows, to its end."""
    while x.kind == C_FREE:
        if x.action == LOCK_ZONE:
            run_aside(r, x)
        else:
            grant_pcp(r, x)


cdef void execute_plain(Retrace *r, Row *row, uint64_t serial) noexcept nogil:
    if r.nr_waiting:
        run_waiting_of(r, task_of(row))
    if row.pfn != NOT_THERE and r.next_of[row.pfn] == serial + 1:
        r.next_of[row.pfn] = row.next
    if row.event == V_ALLOC:
        on_plain_alloc(r, row, serial)
    elif row.event == V_PCPU_DRAIN:
        on_plain_drain(r, row, serial)
    elif row.event == V_FREE or row.event == V_FREE_BATCHED:
        on_plain_free(r, row, serial)
    else:
        on_section_row(r, row, serial)
    if row.pfn != NOT_THERE:
        r.notes[row.pfn] |= SEEN
