# Frees that take no PCP lock: a lock-free list per CPU for what others free of its blocks
# (rfc.md P-46), and outboxes in which a CPU gathers such pages first (P-46b).
#
# Pages here are REMOTE, with their order in the word, chained through Page.next, the
# latest first. `pending` of a CPU counts the pages on its list and in outboxes for it.

from libc.stdint cimport int32_t, uint32_t

from .atomic cimport addi32, bump, cas32, exchange32, load32, load8_ordered, loadi32, store32
from .cache cimport touch
from .events cimport E_ABSORB, E_REMOTE_PUSH, emit, emit_other
from .op cimport OP_IRQ, X_LOCKED, Op, add_reject
from .page cimport (
    DRAIN_BY_VISITOR, ISOLATE, MOVABLE, ORDER_SHIFT, RECLAIM_ACTIVE, REMOTE, SCALE_MAX, Outbox, Pcp, Zone, block_of,
    block_type, cpu_head, idx, remote_line, set_word, word_of, word_order,
)
from .pcp cimport clamp, list_type, mark_for, pcp_order, put_freed


# -- pushing -----------------------------------------------------------------------------------------

cdef inline int32_t bound(Zone *z, int target) noexcept nogil:
    """P-46: an idle owner must not hoard."""
    if z.s.policy.remote_bound:
        return z.s.policy.remote_bound
    return loadi32(&z.pcp[target].high_max)

cdef inline bint announce(Zone *z, int cpu, int target, int pages) noexcept nogil:
    """Pages more for target, if the bound allows; `pending` never passes it, for a flush looks at it too."""
    cdef uint32_t pending = load32(<uint32_t *>&z.remote[target].pending)
    while <int32_t>pending <= bound(z, target) - pages:
        if cas32(<uint32_t *>&z.remote[target].pending, &pending, pending + pages):
            return True
    bump(&z.counts[cpu].remote_over_bound, 1)
    return False

cdef inline void withdraw(Zone *z, int target, int pages) noexcept nogil:
    addi32(&z.remote[target].pending, -pages)

cdef inline void push_chain(Zone *z, int cpu, int target, idx newest, idx oldest) noexcept nogil:
    """One exchange, whatever the length of the chain."""
    cdef uint32_t head = load32(&z.remote[target].head)
    touch(z.caches, remote_line(target))
    while True:
        touch(z.caches, oldest)
        z.page[oldest].next = head
        if cas32(&z.remote[target].head, &head, newest):
            break
    bump(&z.counts[cpu].remote_pushes, 1)

cdef inline bint alive(Zone *z, int target) noexcept nogil:
    """
    P-46: is the CPU that was pushed to still on-line? Else nobody would ever look at its list.

    Push, then look; the off-lining clears the flag, then looks at the list (calls.offline_cpu). Both in one total
    order, so one of the two sees the other.
    """
    return load8_ordered(&z.pcp[target].online)

cdef inline bint overfull(Zone *z, int c, int more) noexcept nogil:
    """Would that many more pages be as many as a free may not leave a PCP (B-83)? A guess: no lock."""
    cdef Pcp *p = &z.pcp[c]
    cdef int limit = clamp(loadi32(&p.high), loadi32(&p.high_min), loadi32(&p.high_max))
    touch(z.caches, cpu_head(c, MOVABLE))    # near the fields that are read
    if load32(&z.s.flags) & RECLAIM_ACTIVE:
        limit = min(4 * p.batch, limit)
    return loadi32(&p.count) + more >= limit

cdef inline void pushed(Zone *z, Op *op, int target) noexcept nogil:
    """After a push: whom to look after once no lock is held."""
    if not alive(z, target):
        op.dead = target + 1
    elif (
        z.s.policy.drain_by == DRAIN_BY_VISITOR and op.at != X_LOCKED and not op.flags & OP_IRQ
        and overfull(z, target, loadi32(&z.remote[target].pending))    # P-45
    ):
        op.full = target + 1

cdef inline void make_remote(Zone *z, idx i) noexcept nogil:
    set_word(z, i, REMOTE | word_order(word_of(z, i)) << ORDER_SHIFT)

cdef inline void push(Zone *z, int cpu, int target, idx i) noexcept nogil:
    """One page, announced already."""
    make_remote(z, i)
    emit_other(z, E_REMOTE_PUSH, cpu, i, target)
    push_chain(z, cpu, target, i, i)

cdef inline idx reversed_chain(Zone *z, idx i) noexcept nogil:
    """Latest first becomes arrival order."""
    cdef idx done = 0
    cdef idx next
    while i:
        next = z.page[i].next
        z.page[i].next = done
        done = i
        i = next
    return done


# -- absorbing (the PCP lock of c is held) -----------------------------------------------------------------

cdef inline bint has_remote(Zone *z, int c) noexcept nogil:
    touch(z.caches, remote_line(c))
    return load32(&z.remote[c].head) != 0

cdef inline void absorb_page(Zone *z, Op *op, Pcp *p, idx i) noexcept nogil:
    """B-81 steps 1 and 3; a page that no PCP takes any more becomes a reject."""
    cdef int c = op.target
    cdef int o = word_order(word_of(z, i))
    if block_type(z, i) == ISOLATE or not pcp_order(z, o):
        add_reject(z, op, i)
        return
    emit(z, E_ABSORB, op.cpu, i, o, 0)
    bump(&z.counts[op.cpu].absorbed_pages, 1 << o)
    put_freed(z, op.cpu, c, i, o, list_type(block_type(z, i)), mark_for(z, block_of(z, i), c))
    if p.free_count < p.batch << SCALE_MAX:
        p.free_count += 1 << o

cdef inline void absorb(Zone *z, Op *op) noexcept nogil:
    """P-46: all that others pushed for op.target, in arrival order. No limit is looked at."""
    cdef Pcp *p = &z.pcp[op.target]
    cdef int pages = 0
    cdef idx i
    cdef idx next
    if not has_remote(z, op.target):
        return
    i = reversed_chain(z, exchange32(&z.remote[op.target].head, 0))
    p.alloc_factor >>= 1
    bump(&z.counts[op.cpu].absorbs, 1)
    while i:
        next = z.page[i].next
        pages += 1 << word_order(word_of(z, i))
        z.page[i].next = 0
        absorb_page(z, op, p, i)
        i = next
    withdraw(z, op.target, pages)


# -- outboxes (the PCP lock of their CPU is held) -----------------------------------------------------------

cdef inline int slots(Zone *z) noexcept nogil:
    """Outboxes of each CPU; 0 unless remote=handover."""
    return z.s.policy.handover_targets

cdef inline Outbox *outboxes(Zone *z, int cpu) noexcept nogil:
    """Those in use come first, the least recently used before the others."""
    return z.outbox + cpu * slots(z)

cdef inline int nr_outboxes(Zone *z, int cpu) noexcept nogil:
    cdef int k = 0
    while k < slots(z) and load32(&outboxes(z, cpu)[k].newest):    # a flush asks without the lock
        k += 1
    return k

cdef inline void set_outbox(Outbox *to, Outbox *box) noexcept nogil:
    store32(&to.newest, box.newest)
    to.oldest = box.oldest
    to.pages = box.pages
    to.target = box.target

cdef inline void remove_outbox(Zone *z, int cpu, int k) noexcept nogil:
    cdef Outbox *box = outboxes(z, cpu)
    cdef Outbox none
    while k + 1 < slots(z):
        set_outbox(&box[k], &box[k + 1])
        k += 1
    none.newest = 0
    none.oldest = 0
    none.pages = 0
    none.target = 0
    set_outbox(&box[k], &none)

cdef inline void reject_chain(Zone *z, Op *op, Outbox *box) noexcept nogil:
    """The bound has sunk below what the outbox holds: nothing of it is handed over."""
    cdef idx i = reversed_chain(z, box.newest)
    cdef idx next
    withdraw(z, box.target, box.pages)
    while i:
        next = z.page[i].next
        bump(&z.counts[op.cpu].remote_over_bound, 1)
        add_reject(z, op, i)
        i = next

cdef inline void emit_pushes(Zone *z, int cpu, int target, idx newest) noexcept nogil:
    cdef idx i
    if z.ring is NULL:
        return
    i = reversed_chain(z, newest)
    newest = i
    while i:
        emit_other(z, E_REMOTE_PUSH, cpu, i, target)
        i = z.page[i].next
    reversed_chain(z, newest)

cdef inline void flush_outbox(Zone *z, Op *op, int owner, int k) noexcept nogil:
    """P-46b: outbox k of CPU `owner` in one push. A target that turns out dead is left in op.dead."""
    cdef Outbox box = outboxes(z, owner)[k]
    remove_outbox(z, owner, k)
    if loadi32(&z.remote[box.target].pending) > bound(z, box.target):
        reject_chain(z, op, &box)
        return
    emit_pushes(z, op.cpu, box.target, box.newest)
    push_chain(z, op.cpu, box.target, box.newest, box.oldest)
    pushed(z, op, box.target)

cdef inline int find_outbox(Zone *z, int cpu, int target) noexcept nogil:
    """Of all in use the one for target; else how many are in use."""
    cdef int k = 0
    cdef Outbox *box = outboxes(z, cpu)
    while k < slots(z) and box[k].newest and box[k].target != <uint32_t>target:
        k += 1
    return k

cdef inline void use_outbox(Zone *z, int cpu, int k) noexcept nogil:
    """It becomes the last of those in use."""
    cdef Outbox *box = outboxes(z, cpu)
    cdef Outbox used = box[k]
    while k + 1 < slots(z) and box[k + 1].newest:
        set_outbox(&box[k], &box[k + 1])
        k += 1
    set_outbox(&box[k], &used)

cdef inline void gather(Zone *z, int cpu, int target, int k, idx i) noexcept nogil:
    """A page that is announced already, into outbox k: the one for target, or the first that is not in use."""
    cdef Outbox *box = &outboxes(z, cpu)[k]
    make_remote(z, i)
    z.page[i].next = box.newest
    if not box.newest:
        box.oldest = i
        box.target = target
    store32(&box.newest, i)
    box.pages += 1 << word_order(word_of(z, i))
    if k + 1 < slots(z) and box[1].newest:
        use_outbox(z, cpu, k)

cdef inline bint try_gather(Zone *z, int cpu, int target, idx i, int o) noexcept nogil:
    """The next page into an outbox that is in use, unless it fills it or the bound forbids: then nothing is done."""
    cdef int k = find_outbox(z, cpu, target)
    cdef Outbox *box = &outboxes(z, cpu)[k]
    if k == slots(z) or not box.newest or box.pages + (1 << o) >= z.s.policy.handover_batch:
        return False
    if loadi32(&z.remote[target].pending) > bound(z, target) - (1 << o) or not announce(z, cpu, target, 1 << o):
        return False
    gather(z, cpu, target, k, i)
    return True

cdef inline void append(Zone *z, Op *op, idx i) noexcept nogil:
    """A page that is announced already, into the outbox for op.to: there is one, or a place. Full: handed over."""
    cdef int k
    gather(z, op.cpu, op.to, find_outbox(z, op.cpu, op.to), i)
    k = find_outbox(z, op.cpu, op.to)
    if outboxes(z, op.cpu)[k].pages >= z.s.policy.handover_batch:
        flush_outbox(z, op, op.cpu, k)
