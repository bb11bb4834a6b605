# Every invariant that a quiet state can show (rfc.md section 14, baseline accounting).
#
# `seen` has a byte per page of the zone: which list or owner claimed it. The first
# violation ends the check and is described in a Fault; sentences are made outside.

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint8_t

from .buddy cimport is_free_chunk
from .cma cimport is_claimed
from .page cimport (
    ALLOC, BUDDY, CMA, CPU_SHIFT, DEFERRED, HIGHATOMIC, HOLE, ISOLATE, LINKED, MARK, MARK_ALL, MOVABLE, NR_FREE,
    NR_FREE_BLOCKS, NR_FREE_CMA, NR_LISTS, NR_ORDERS, NR_STATS, NR_TYPES, ON, OWNED_HEADS, OWNED_PER_TYPE, PB,
    PB_PAGES, PCP, REMOTE, UNKNOWN, Block, Outbox, Zone, block_head, block_of, block_page, cpu_head, first_block,
    idx, index_of, owned_head, word_of, word_order, word_type, zone_head,
)
from .remote cimport slots

cdef extern from *:
    """
    #ifndef PCPBUDDY_CHECKED
    #define PCPBUDDY_CHECKED 0
    #endif
    """
    const bint CHECKED "PCPBUDDY_CHECKED"   # meson -Dchecked=true: check() after every operation

cdef struct Fault:
    int rule                   # I-n; 0: none
    idx page
    int64_t saw
    int64_t expected

cdef inline bint fail(Fault *f, int rule, idx page, int64_t saw, int64_t expected) noexcept nogil:
    f.rule = rule
    f.page = page
    f.saw = saw
    f.expected = expected
    return False

cdef inline bint cover(Zone *z, uint8_t *seen, Fault *f, idx i, int o, int state) noexcept nogil:
    """I-1, I-2, I-9: an aligned interval that nobody else has; inside it, words are clear."""
    cdef idx p
    if i < z.s.first or i + (1u << o) > z.s.nr_pages:
        return fail(f, 1, i, i, z.s.nr_pages)
    if (i & ((1u << o) - 1)) and state != ALLOC:
        return fail(f, 2, i, o, 0)
    for p in range(i, i + (1u << o)):
        if seen[p - z.s.first]:
            return fail(f, 1, p, state, seen[p - z.s.first])
        seen[p - z.s.first] = <uint8_t>state
        if p > i and word_of(z, p):
            return fail(f, 9, p, word_of(z, p), 0)
    return True

cdef inline bint check_zone_lists(Zone *z, uint8_t *seen, Fault *f, int64_t *pages) noexcept nogil:
    """I-2, I-3, I-12 and the list part of I-4. Fills pages[type] and pages[6] (chunks of order >= 9)."""
    cdef int o
    cdef int T
    cdef int k
    cdef int64_t n
    cdef uint32_t head
    cdef uint32_t at
    cdef uint32_t prev
    cdef idx i
    cdef Block *b
    for o in range(NR_ORDERS):
        n = 0
        for T in range(NR_TYPES):
            head = zone_head(o, T) if o < PB else block_head(o, T)
            prev = head
            at = z.page[head].next if o < PB else z.block[head].next
            while at != head:
                i = at if o < PB else block_page(z, at)
                if (z.page[at].prev if o < PB else z.block[at].prev) != prev:
                    return fail(f, 4, i, z.page[at].prev, prev)
                if not is_free_chunk(z, i, o):
                    return fail(f, 2, i, word_of(z, i), o)
                for k in range(1 << max(o - PB, 0)):
                    b = block_of(z, i + k * PB_PAGES)
                    if b.eff != T:
                        return fail(f, 3, i, b.eff, T)
                    if o >= PB and (b.owner or b.flags & LINKED):
                        return fail(f, 12, i, b.owner, 0)
                if o >= PB and word_of(z, i):
                    return fail(f, 9, i, word_of(z, i), 0)
                if o < PB and is_free_chunk(z, i ^ (1u << o), o) and not i & (1u << o):
                    return fail(f, 20, i, o, 0)
                if o < PB and block_of(z, i).owner and not block_of(z, i).flags & LINKED:
                    return fail(f, 13, i, block_of(z, i).owner, 0)
                if not cover(z, seen, f, i, o, BUDDY):
                    return False
                n += 1
                pages[T] += 1 << o
                if o >= PB and T != ISOLATE:
                    pages[NR_TYPES] += 1 << o
                prev = at
                at = z.page[at].next if o < PB else z.block[at].next
        if n != z.s.nr_free[o]:
            return fail(f, 4, 0, z.s.nr_free[o], n)
    return True

cdef inline bint check_accounting(Zone *z, Fault *f, int64_t *pages) noexcept nogil:
    """I-4: globals plus deltas are what is on the lists; the exact counters too."""
    cdef int64_t total[3]
    cdef int64_t all = 0
    cdef int k
    cdef int c
    for k in range(NR_STATS):
        total[k] = z.s.stat[k]
        for c in range(z.s.cpus):
            total[k] += z.pcp[c].diff[k]
    for k in range(NR_TYPES):
        all += pages[k]
    if total[NR_FREE] != all - pages[ISOLATE]:
        return fail(f, 4, 0, total[NR_FREE], all - pages[ISOLATE])
    if total[NR_FREE_CMA] != pages[CMA]:
        return fail(f, 4, 0, total[NR_FREE_CMA], pages[CMA])
    if total[NR_FREE_BLOCKS] != pages[NR_TYPES]:
        return fail(f, 4, 0, total[NR_FREE_BLOCKS], pages[NR_TYPES])
    if z.s.nr_free_highatomic != pages[HIGHATOMIC]:
        return fail(f, 4, 0, z.s.nr_free_highatomic, pages[HIGHATOMIC])
    if z.s.zone_pages != all:
        return fail(f, 4, 0, z.s.zone_pages, all)
    return True

cdef inline bint one_holder(Zone *z) noexcept nogil:
    """Are all marked entries of a block in one PCP (P-11)? Not if everything is marked, nor with adoption (P-17)."""
    return z.s.policy.mark != MARK_ALL and z.s.policy.adopt != ON

cdef inline bint check_chain(Zone *z, uint8_t *seen, Fault *f, idx i, int64_t *pages) noexcept nogil:
    while i:
        if (word_of(z, i) & 7) != REMOTE:
            return fail(f, 7, i, word_of(z, i) & 7, REMOTE)
        if not cover(z, seen, f, i, word_order(word_of(z, i)), REMOTE):
            return False
        pages[0] += 1 << word_order(word_of(z, i))
        i = z.page[i].next
    return True

@cython.cdivision(True)
cdef inline bint check_remote(Zone *z, uint8_t *seen, Fault *f) noexcept nogil:
    """I-7, and I-18 for remote lists and outboxes."""
    cdef int64_t pages
    cdef int c
    cdef int k
    cdef int nr = slots(z)
    cdef Outbox *box
    for c in range(z.s.cpus):
        pages = 0
        if not check_chain(z, seen, f, z.remote[c].head, &pages):
            return False
        if pages and not z.pcp[c].online:
            return fail(f, 18, c, pages, 0)
        for k in range(nr * z.s.cpus):
            box = &z.outbox[k]
            if box.newest and box.target == <uint32_t>c and not check_chain(z, seen, f, box.newest, &pages):
                return False
            if box.newest and not z.pcp[k // nr].online:
                return fail(f, 18, k // nr, box.pages, 0)
        if pages != z.remote[c].pending:
            return fail(f, 7, c, z.remote[c].pending, pages)
    return True

cdef inline bint check_pcps(Zone *z, uint8_t *seen, Fault *f) noexcept nogil:
    """I-5, I-6, I-8, I-9, I-11."""
    cdef int c
    cdef int which
    cdef int o
    cdef int64_t count
    cdef idx head
    cdef idx i
    cdef idx prev
    cdef uint32_t word
    for c in range(z.s.cpus):
        count = 0
        for which in range(NR_LISTS):
            o = which // 3
            head = cpu_head(c, which)
            prev = head
            i = z.page[head].next
            while i != head:
                word = word_of(z, i)
                if z.page[i].prev != prev:
                    return fail(f, 6, i, z.page[i].prev, prev)
                if (word & 7) != PCP or word_order(word) != o or word >> CPU_SHIFT != <uint32_t>c:
                    return fail(f, 6, i, word, which)
                if word & MARK and one_holder(z) and block_of(z, i).owner and block_of(z, i).owner != c + 1:
                    return fail(f, 11, i, c, block_of(z, i).owner - 1)
                if not cover(z, seen, f, i, o, PCP):
                    return False
                count += 1 << o
                prev = i
                i = z.page[i].next
        if count != z.pcp[c].count:
            return fail(f, 5, c, z.pcp[c].count, count)
        if not z.pcp[c].online and count:
            return fail(f, 18, c, count, 0)
    return True

cdef inline bint check_pages(Zone *z, uint8_t *seen, Fault *f) noexcept nogil:
    """The rest of I-1: allocations, holes and deferred frees cover what the lists do not; I-27; I-10 by block."""
    cdef idx i = z.s.first
    cdef idx start = index_of(z, z.s.start_pfn)
    cdef idx end = index_of(z, z.s.start_pfn + z.s.spanned)
    cdef uint32_t word
    cdef int state
    cdef int marker = -1
    while i < z.s.nr_pages:
        if not i & (PB_PAGES - 1):
            marker = -1
        word = word_of(z, i)
        state = word & 7
        if state == PCP and word & MARK:
            if one_holder(z) and marker >= 0 and <uint32_t>marker != word >> CPU_SHIFT:
                return fail(f, 10, i, word >> CPU_SHIFT, marker)
            marker = <int>(word >> CPU_SHIFT)
        if state == ALLOC or state == HOLE or state == DEFERRED:
            if is_claimed(z, i) and (state != ALLOC or word_order(word) or block_of(z, i).type != CMA):
                return fail(f, 30, i, word, ALLOC)
            if state == ALLOC and block_of(z, i).type == CMA and word_type(word) not in (MOVABLE, UNKNOWN):
                return fail(f, 27, i, word_type(word), MOVABLE)
            if not cover(z, seen, f, i, word_order(word), state):
                return False
        elif is_claimed(z, i):
            return fail(f, 30, i, word, ALLOC)
        elif not seen[i - z.s.first] and start <= i < end:
            return fail(f, 1, i, word, 0)
        elif state in (BUDDY, PCP, REMOTE) and seen[i - z.s.first] != state:
            return fail(f, 1, i, word, seen[i - z.s.first])
        i += 1
    return True

cdef inline bint check_blocks(Zone *z, Fault *f) noexcept nogil:
    """I-14 to I-17, and the count of isolated blocks."""
    cdef uint32_t at
    cdef uint32_t n
    cdef int64_t isolated = 0
    cdef int64_t linked = 0
    cdef int64_t listed = 0
    cdef int64_t cma = 0
    cdef int c
    cdef int T
    cdef Block *b
    at = first_block(z)
    for n in range(at, at + z.s.nr_blocks):
        b = &z.block[n]
        isolated += b.eff == ISOLATE
        linked += (b.flags & LINKED) != 0
        cma += PB_PAGES if b.type == CMA else 0
        if b.eff == ISOLATE and b.owner:
            return fail(f, 16, block_page(z, n), b.owner - 1, -1)
        if b.owner > z.s.cpus or b.owner and not z.pcp[b.owner - 1].online:
            return fail(f, 17, block_page(z, n), b.owner - 1, -1)
        if b.flags & LINKED and not b.owner:
            return fail(f, 15, block_page(z, n), 1, 0)
    for c in range(z.s.cpus):
        for T in range(OWNED_HEADS if z.s.policy.owned_lists == OWNED_PER_TYPE else 1):
            at = owned_head(z, c, T)
            n = z.block[at].own_next
            while n != at and listed <= linked:
                b = &z.block[n]
                if b.owner != c + 1 or not b.flags & LINKED or at != owned_head(z, c, b.type):
                    return fail(f, 14, block_page(z, n), b.owner - 1, c)
                listed += 1
                n = z.block[n].own_next
    if listed != linked:
        return fail(f, 14, 0, listed, linked)
    if isolated != z.s.nr_isolate_pageblock:
        return fail(f, 16, 0, z.s.nr_isolate_pageblock, isolated)
    if cma != z.s.cma_pages:
        return fail(f, 26, 0, z.s.cma_pages, cma)
    return True

cdef inline bint check(Zone *z, uint8_t *seen, Fault *f) noexcept nogil:
    """All of it; `seen` is nr_pages - first zeroed bytes. True: the state is sound."""
    cdef int64_t pages[7]
    cdef int k
    f.rule = 0
    for k in range(7):
        pages[k] = 0
    return (
        check_zone_lists(z, seen, f, pages)
        and check_accounting(z, f, pages)
        and check_pcps(z, seen, f)
        and check_remote(z, seen, f)
        and check_pages(z, seen, f)
        and check_blocks(z, f)
    )
