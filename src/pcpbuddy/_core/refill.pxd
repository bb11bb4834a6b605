# Refilling a PCP (rfc.md P-32 to P-37): own fragments, whole blocks, chunks, and the usual
# way. The PCP lock of op.cpu is held, and the zone lock but where it says so.

from libc.stdint cimport uint16_t, uint32_t

from .atomic cimport bump, load32, load8, store16
from .buddy cimport account, first, remove, take, visible
from .events cimport E_ADOPT, E_CHUNK, E_CLAIM, E_RECOVER, emit, emit_zone_locked
from .fallback cimport M_NORMAL, cma_first, own_take, zone_take
from .op cimport Op
from .ownership cimport own_link, own_unlink
from .page cimport (
    BELOW_HIGH, BUDDY, CAP_HIGH, CMA, CMA_AS_POSTED, CMA_BALANCED, CMA_RULE, GATE_ALWAYS, GATE_FIT, GATE_MIN,
    GATE_PLENTY, MARK, MARK_ALL, MOVABLE, NR_FREE, NR_FREE_CMA, OFF, ON, OWNED_PER_TYPE, PB, PB_PAGES, PHASE3_REST,
    SOURCE_OWN_TYPE, USE_CMA, Pcp, Zone, block_number, block_of, block_page, block_type, high_of, idx, owned_head,
    word_of, word_order,
)
from .pcp cimport pcp_put
from .watermark cimport ownership_rests

cdef enum:
    NR_PHASES = 4
    NO_TYPE = -1

cdef struct Walk:              # of phase 0
    uint32_t at                # the block to look at next, where the list is walked once
    int blocks                 # looked at


cdef inline void obtained(Zone *z, Op *op, int phase, idx i, int o, uint32_t mark, bint rule) noexcept nogil:
    """A phase puts 2^o pages into the PCP, onto the tail. rule: what the 50 % rule said."""
    cdef int at
    if z.s.policy.mark == MARK_ALL:
        mark = MARK
    pcp_put(z, op.cpu, i, o, op.type, mark, True)
    bump(&z.counts[op.cpu].phase_pages[phase], 1 << o)
    op.pages_in += 1 << o
    if o >= op.order:
        op.gained += 1 << o
    if op.type == MOVABLE and z.s.cma_pages:
        at = phase * 4 + (2 if rule else 0) + (load8(&block_of(z, i).type) == CMA)
        bump(&z.counts[op.cpu].cma_by_phase[at], 1 << o)

cdef inline bint rule_says_cma(Zone *z, Op *op) noexcept nogil:
    return op.type == MOVABLE and cma_first(z)

cdef inline bint cma_too(Zone *z, Op *op) noexcept nogil:
    """P-33, P-36: C serves the request as well. `as-posted` forgets that, in phases 0 and 2."""
    return z.s.policy.cma != CMA_AS_POSTED and op.type == MOVABLE and op.aflags & USE_CMA


# -- phase 0 -----------------------------------------------------------------------------------------

cdef inline bint capped(Zone *z, Op *op) noexcept nogil:
    return z.s.policy.phase0_cap == CAP_HIGH and z.pcp[op.cpu].count >= high_of(&z.pcp[op.cpu])

cdef inline void recover(Zone *z, Op *op, uint32_t n) noexcept nogil:
    """Every free chunk of block n, ascending, off the zone lists; T3. A block that the cap cuts short stays linked."""
    cdef int c = op.cpu
    cdef idx i = block_page(z, n)
    cdef idx end = i + PB_PAGES
    cdef uint32_t word
    cdef int k
    cdef int type = z.block[n].type
    cdef bint rule = rule_says_cma(z, op)
    while i < end:
        word = word_of(z, i)
        bump(&z.counts[c].scanned_pfns, 1)
        if (word & 7) != BUDDY:
            i += 1
            continue
        if capped(z, op):
            return
        k = word_order(word)
        remove(z, c, i, k, type)
        account(z, c, -(1 << k), type)
        bump(&z.counts[c].pages_moved, 1 << k)
        emit(z, E_RECOVER, c, i, k, 0)
        obtained(z, op, 0, i, k, MARK, rule)
        i += 1u << k
    own_unlink(z, n)

cdef inline uint32_t head_of_type(Zone *z, int c, int T) noexcept nogil:
    """With a list per type: its first block, or 0."""
    cdef uint32_t n
    if T == NO_TYPE:
        return 0
    n = z.block[owned_head(z, c, T)].own_next
    return n if n != owned_head(z, c, T) else 0

cdef inline uint32_t first_preferred(Zone *z, Op *op, Walk *walk, int T, int other) noexcept nogil:
    """P-81: from the head, the first block of type T; else the first of the other type; else 0."""
    cdef uint32_t head = owned_head(z, op.cpu, T)
    cdef uint32_t n = z.block[head].own_next
    cdef uint32_t second = 0
    while n != head:
        walk.blocks += 1
        bump(&z.counts[op.cpu].skipped_blocks, 1)
        if z.block[n].type == T:
            second = n
            break
        if z.block[n].type == other and not second:
            second = n
        n = z.block[n].own_next
    if second:
        z.counts[op.cpu].skipped_blocks -= 1
    return second

cdef inline uint32_t next_match(Zone *z, Op *op, Walk *walk, int T, int other) noexcept nogil:
    """P-33: the next block of either type, in list order. Others stay linked."""
    cdef uint32_t n
    while walk.at != owned_head(z, op.cpu, T):
        n = walk.at
        walk.at = z.block[n].own_next
        walk.blocks += 1
        if z.block[n].type == T or z.block[n].type == other:
            return n
        bump(&z.counts[op.cpu].skipped_blocks, 1)
    return 0

cdef inline bint asks_per_block(Zone *z, Op *op) noexcept nogil:
    """P-81: is the 50 % rule asked before each block of phase 0?"""
    return z.s.policy.cma >= CMA_BALANCED and cma_too(z, op)

cdef inline uint32_t choose_block(Zone *z, Op *op, Walk *walk) noexcept nogil:
    cdef int T = op.type
    cdef int other = CMA if cma_too(z, op) else NO_TYPE
    cdef uint32_t n
    if asks_per_block(z, op) and rule_says_cma(z, op):
        T, other = CMA, T
    if z.s.policy.owned_lists == OWNED_PER_TYPE:
        n = head_of_type(z, op.cpu, T)
        if not n:
            n = head_of_type(z, op.cpu, other)
        walk.blocks += n != 0
        return n
    if asks_per_block(z, op):
        return first_preferred(z, op, walk, T, other)
    return next_match(z, op, walk, T, other)

cdef inline void phase0(Zone *z, Op *op) noexcept nogil:
    """P-33: recover the fragments of own blocks."""
    cdef Walk walk
    cdef uint32_t n
    walk.at = z.block[owned_head(z, op.cpu, op.type)].own_next
    walk.blocks = 0
    while op.gained < op.want and not capped(z, op):
        n = choose_block(z, op, &walk)
        if not n:
            break
        recover(z, op, n)
    bump(&z.counts[op.cpu].walks, 1)
    bump(&z.counts[op.cpu].walked_blocks, walk.blocks)
    bump(&z.counts[op.cpu].walk_lengths[min(walk.blocks, 63)], 1)


# -- phase 1 -----------------------------------------------------------------------------------------

cdef inline bint half_free(Zone *z) noexcept nogil:
    """Is half of the zone free, CMA apart? By the visible counters, as everything that asks (B-17)."""
    return 2 * (visible(z, NR_FREE) - visible(z, NR_FREE_CMA)) >= z.s.managed

cdef inline bint gate_open(Zone *z, Pcp *p) noexcept nogil:
    """P-34: by default, a block that does not fit under high would be drained again at once."""
    if z.s.policy.gate == GATE_ALWAYS:
        return True
    if load32(&z.s.flags) & BELOW_HIGH:             # P-96
        return False
    if z.s.policy.gate == GATE_MIN:
        return p.high_min >= PB_PAGES
    if z.s.policy.gate == GATE_PLENTY and p.high_max >= PB_PAGES and half_free(z):
        return True
    return z.s.policy.gate in (GATE_FIT, GATE_PLENTY) and p.count + PB_PAGES <= high_of(p)

cdef inline void phase1(Zone *z, Op *op) noexcept nogil:
    """P-34: claim whole blocks; T1."""
    cdef int mode = M_NORMAL
    cdef idx i
    cdef bint rule
    while op.gained < op.want and gate_open(z, &z.pcp[op.cpu]):
        rule = rule_says_cma(z, op)
        if z.s.policy.phase1_source == SOURCE_OWN_TYPE:
            i = own_take(z, op.cpu, PB, op.type, op.aflags, &mode)
        else:
            i = zone_take(z, op.cpu, PB, op.type, op.aflags, &mode)
        if not i:
            break
        store16(&block_of(z, i).owner, <uint16_t>(op.cpu + 1))
        emit(z, E_CLAIM, op.cpu, i, 0, block_type(z, i))
        obtained(z, op, 1, i, PB, MARK, rule)


# -- phase 2 -----------------------------------------------------------------------------------------

cdef inline bint has_fragment(Zone *z, int cpu, idx i) noexcept nogil:
    """Does a chunk that is free in the zone begin in the block of page i?"""
    cdef idx p = i & ~(<idx>PB_PAGES - 1)
    cdef idx end = p + PB_PAGES
    while p < end:
        bump(&z.counts[cpu].scanned_pfns, 1)
        if (word_of(z, p) & 7) == BUDDY:
            return True
        p += 1
    return False

cdef inline uint32_t adopt(Zone *z, int c, idx i, int o) noexcept nogil:
    """P-17: a chunk that is large enough makes its block c's, if nobody has it. Returns the chunk's mark."""
    if z.s.policy.adopt != ON or o < z.s.policy.adopt_min_order or block_of(z, i).owner:
        return 0
    store16(&block_of(z, i).owner, <uint16_t>(c + 1))
    emit(z, E_ADOPT, c, i & ~(<idx>PB_PAGES - 1), 0, block_of(z, i).type)
    if has_fragment(z, c, i):
        own_link(z, block_number(z, i))
    return MARK

cdef inline idx find_chunk(Zone *z, int c, int o, int T) noexcept nogil:
    """The smallest chunk of one type from order o up to phase2_max; the surplus stays in the zone."""
    cdef int k
    cdef idx i
    for k in range(o, z.s.policy.phase2_max + 1):
        i = first(z, k, T)
        if i:
            take(z, c, i, k, o, T)
            emit_zone_locked(z, c, i, o, T)
            emit(z, E_CHUNK, c, i, o, 0)
            return i
    return 0

cdef inline idx largest_chunk(Zone *z, Op *op, int T, int *k) noexcept nogil:
    """The largest chunk of one type that is not more than is wanted; k: its order, and none before was larger."""
    cdef idx i = 0
    while k[0] >= op.order and not i:
        if (1 << k[0]) <= op.want - op.gained or k[0] == op.order:
            i = find_chunk(z, op.cpu, k[0], T)
        if not i:
            k[0] -= 1
    return i

cdef inline void phase2_by_rule(Zone *z, Op *op) noexcept nogil:
    """P-36, cma=rule: before a chunk of the other type come all of the preferred one, the small ones too."""
    cdef int k[2]
    cdef bint rule
    cdef bint cma = True
    cdef idx i = 1
    k[0] = PB - 1
    k[1] = PB - 1
    while i and op.gained < op.want:
        rule = rule_says_cma(z, op)
        cma = rule
        i = largest_chunk(z, op, CMA if cma else op.type, &k[cma])
        if not i:
            cma = not rule
            i = largest_chunk(z, op, CMA if cma else op.type, &k[cma])
        if i:
            obtained(z, op, 2, i, k[cma], adopt(z, op.cpu, i, k[cma]), rule)

cdef inline void phase2(Zone *z, Op *op) noexcept nogil:
    """P-35: chunks larger than the request, without stealing. The 50 % rule is applied per chunk (P-36)."""
    cdef int k = PB - 1
    cdef int T = op.type
    cdef bint with_cma = cma_too(z, op)
    cdef bint rule
    cdef idx i
    if with_cma and z.s.policy.cma == CMA_RULE:
        phase2_by_rule(z, op)
        return
    while k > op.order and (1 << k) > op.want - op.gained:
        k -= 1
    while k >= op.order and op.gained < op.want:
        if (1 << k) > op.want - op.gained and k > op.order:
            k -= 1
            continue
        rule = rule_says_cma(z, op)
        i = find_chunk(z, op.cpu, k, CMA if with_cma and rule else T)
        if not i and with_cma:
            i = find_chunk(z, op.cpu, k, T if rule else CMA)
        if i:
            obtained(z, op, 2, i, k, adopt(z, op.cpu, i, k), rule)
        else:
            k -= 1


# -- phase 3, and all of them --------------------------------------------------------------------------

cdef inline void phase3(Zone *z, Op *op) noexcept nogil:
    """P-37, B-63: page by page as in mainline, onto the tail."""
    cdef int mode = M_NORMAL
    cdef bint rule = False
    cdef idx i
    while op.gained < op.want:
        if op.type == MOVABLE and z.s.cma_pages:
            rule = cma_first(z)
        i = zone_take(z, op.cpu, op.order, op.type, op.aflags, &mode)
        if not i:
            break
        obtained(z, op, 3, i, op.order, 0, rule)

cdef inline bint to_try(Zone *z, Op *op) noexcept nogil:
    """Has op.phase something to try? A disabled PCP (high < batch) has phase 3 only. Needs no zone lock."""
    cdef Pcp *p = &z.pcp[op.cpu]
    if op.phase == 3:
        return z.s.policy.phase3 == PHASE3_REST or op.gained == 0
    if high_of(p) < p.batch:
        return False
    if op.phase == 1:
        return gate_open(z, p)
    if op.phase == 0 and (z.s.policy.phase0 == OFF or ownership_rests(z)):
        return False
    return op.order < PB and (op.phase == 0 or z.s.policy.phase2 != OFF)

cdef inline void next_phase(Zone *z, Op *op) noexcept nogil:
    """On to the first phase from op.phase on that is worth a look; NR_PHASES: the refill is over."""
    if op.gained >= op.want:
        op.phase = NR_PHASES
    while op.phase < NR_PHASES and not to_try(z, op):
        op.phase += 1

cdef inline void refill_begin(Zone *z, Op *op, int n) noexcept nogil:
    """P-32: n entries of order op.order are wanted."""
    op.want = n << op.order
    op.gained = 0
    op.pages_in = 0
    op.phase = 0
    next_phase(z, op)

cdef inline void run_phase(Zone *z, Op *op) noexcept nogil:
    """One phase, and on to the next."""
    if op.phase == 0:
        phase0(z, op)
    elif op.phase == 1:
        phase1(z, op)
    elif op.phase == 2:
        phase2(z, op)
    else:
        phase3(z, op)
    op.phase += 1
    next_phase(z, op)
