# Describing a zone: counters, census, events, and what a sentence says. Included by core.pyx.

cdef tuple STATES = ("the interior of a chunk", "free in the zone", "on CPU %d's PCP list", "on a remote list",
                     "a deferred free", "an allocation", "a hole", "")

cdef dict RULES = {
    1: "every page is in exactly one state",
    2: "a chunk is aligned to its order and marked with it",
    3: "a zone list holds chunks of its own type only",
    4: "list lengths and free counters agree, and lists are linked both ways",
    5: "a PCP's count is the pages on its lists",
    6: "a PCP entry has its list's order and its CPU",
    7: "what is pending for a CPU is on its remote list and in outboxes for it",
    9: "only heads are marked: inside a chunk, words are clear",
    10: "all marked entries of a block are in one PCP",
    11: "the marked entries of an owned block are in its owner's PCP",
    12: "a block that is wholly free in the zone is nobody's",
    13: "an owned block with a chunk in the zone is on its owner's list",
    14: "owned_blocks of a CPU are its own blocks, each once",
    15: "a block without an owner is on nobody's list",
    16: "an isolated block is nobody's, and isolated blocks are counted",
    17: "an owner is on-line",
    18: "an off-line CPU has no pages",
    20: "no two free buddies of one block stay unmerged",
    26: "pages in CMA blocks are counted",
    27: "only movable requests get CMA pages",
    30: "what cma_alloc handed out is allocated page by page in CMA blocks",
}


cdef event_tuple(Event *e):
    kind = EVENT_NAMES[e.kind]
    pfn = -1 if e.pfn == NO_PFN else e.pfn
    if kind in ("free", "recover", "chunk", "pmerge", "absorb"):
        return kind, e.cpu, pfn, e.order
    if kind in ("free_batched", "own_link", "own_unlink"):
        return kind, e.cpu, pfn
    if kind == "zone_locked":
        return kind, e.cpu, pfn, e.order, e.type, e.flag
    if kind == "extfrag":
        return kind, e.cpu, pfn, e.order, e.order2, e.type, e.type2, e.flag
    if kind in ("claim", "adopt"):
        return kind, e.cpu, pfn, e.type
    if kind == "disown":
        return kind, e.cpu, pfn, DISOWN_REASONS[e.other]
    if kind in ("remote_fail", "remote_push"):
        return kind, e.cpu, pfn, e.other
    return kind, e.cpu, pfn, e.order, e.type       # alloc, pcpu_drain

cdef int block_census(CZone *z, idx i, int64_t *allocated) noexcept nogil:
    """Is the block mixed: are its allocated pages of more than one request type?"""
    cdef idx end = i + PB_PAGES
    cdef uint32_t word
    cdef int kinds = 0
    while i < end:
        word = word_of(z, i)
        if (word & 7) == ALLOC:
            allocated[0] += 1 << word_order(word)
            if word_type(word) != UNKNOWN:
                kinds |= 1 << word_type(word)
            i += 1u << word_order(word)
        else:
            i += 1
    return (kinds & (kinds - 1)) != 0


cdef str describe(CZone *z, idx i):
    cdef uint32_t word = word_of(z, i)
    cdef int state = word & 7
    cdef int o
    cdef idx head = head_of(z, i, &o)
    if state == PCP:
        return STATES[PCP] % (word >> CPU_SHIFT)
    if state != INTERIOR:
        return STATES[state]
    if head == i:
        return STATES[BUDDY]               # of a pageblock or more: no word says it
    if head:
        return f"in the interior of a chunk of order {o} that is {describe(z, head)}"
    return STATES[state]

cdef list runs(pieces):
    """(pfn, pages), ascending: what lies side by side as one."""
    out = []
    start = pages = 0
    for pfn, more in pieces:
        if pages and start + pages == pfn:
            pages += more
            continue
        if pages:
            out.append((start, pages))
        start, pages = pfn, more
    return [*out, (start, pages)] if pages else out

cdef check_zone(Zone zone):
    cdef Fault fault
    cdef bint sound
    cdef uint8_t *seen = <uint8_t *>calloc(zone.z.s.nr_pages - zone.z.s.first, 1)
    if seen is NULL:
        raise MemoryError()
    with nogil:
        sound = check_state(&zone.z, seen, &fault)
    c_free(seen)
    if not sound:
        raise Corruption(sentence(zone, &fault))

cdef str sentence(Zone zone, Fault *fault):
    cdef CZone *z = &zone.z
    where = f"zone {zone.name}"
    if fault.page >= z.s.first:
        where += f", pfn {pfn_of(z, fault.page)} ({describe(z, fault.page)})"
    elif fault.rule in (5, 18):
        where += f", CPU {fault.page}"
    return f"I-{fault.rule} is broken: {RULES[fault.rule]}: {where}: saw {fault.saw}, expected {fault.expected}"


cdef dict counters_of(Zone zone, int cpu):
    """Of one CPU; -1: of all together."""
    cdef Counts total
    cdef uint64_t *sum_ = <uint64_t *>&total
    cdef uint64_t *one
    cdef int c
    cdef size_t k
    for k in range(sizeof(Counts) // 8):
        sum_[k] = 0
    for c in range(zone.z.s.cpus):
        if cpu < 0 or cpu == c:
            one = <uint64_t *>&zone.z.counts[c]
            for k in range(sizeof(Counts) // 8):
                sum_[k] += one[k]
    return {
        **contig_counters(&total),
        "allocs": total.allocs,
        "allocs_failed": total.allocs_failed,
        "allocs_from_pcp": total.allocs - total.allocs_locked,
        "pages_allocated": total.pages_allocated,
        "pages_freed": total.pages_freed,
        "holds_refill": total.holds[0],
        "holds_direct_alloc": total.holds[1],
        "holds_direct_free": total.holds[2],
        "holds_drain": total.holds[3],
        "holds_other": total.holds[4],
        "list_ops": total.list_ops,
        "moves": total.moves,
        "pages_moved": total.pages_moved,
        "zone_merges": total.zone_merges,
        "pcp_merges": total.pcp_merges,
        "zone_splits": total.zone_splits,
        "pcp_splits": total.pcp_splits,
        "refills": total.refills,
        "phase0_pages": total.phase_pages[0],
        "phase1_pages": total.phase_pages[1],
        "phase2_pages": total.phase_pages[2],
        "phase3_pages": total.phase_pages[3],
        "frees_local": total.frees_local,
        "frees_remote": total.frees_remote,
        "frees_direct": total.frees_direct,
        "frees_failed_trylock": total.frees_failed_trylock,
        "cma_pages": total.cma_pages,
        "movable_pages": total.movable_pages,
        "movable_cma_pages": total.movable_cma_pages,
        "walks": total.walks,
        "walked_blocks": total.walked_blocks,
        "skipped_blocks": total.skipped_blocks,
        "scanned_pfns": total.scanned_pfns,
        "merge_visited": total.merge_visited,
        "drained_entries": total.drained_entries,
        "drained_pages": total.drained_pages,
        "remote_pushes": total.remote_pushes,
        "remote_over_bound": total.remote_over_bound,
        "absorbs": total.absorbs,
        "absorbed_pages": total.absorbed_pages,
    }

cdef dict contig_counters(Counts *total):
    """CT-8."""
    return {
        **{f"contig_{reason or 'ok'}": total.contig[k] for k, reason in enumerate(CONTIG_REASONS)},
        "contig_pages": total.contig_pages,
        "pages_migrated": total.pages_migrated,
        "migrations_refused": total.migrations_refused,
    }

cdef dict census_of(Zone zone):
    import numpy as np
    cdef CZone *z = &zone.z
    cdef int o
    cdef int T
    cdef uint32_t head
    cdef uint32_t at
    cdef uint32_t n
    cdef int64_t counts[66]
    cdef int64_t types[6]
    cdef int64_t mixed = 0
    cdef int64_t owned = 0
    cdef int64_t allocated = 0
    with nogil:
        for o in range(66):
            counts[o] = 0
        for T in range(6):
            types[T] = 0
        for o in range(NR_ORDERS):
            for T in range(NR_TYPES):
                head = zone_head(o, T) if o < PB else block_head(o, T)
                at = z.page[head].next if o < PB else z.block[head].next
                while at != head:
                    counts[o * NR_TYPES + T] += 1
                    at = z.page[at].next if o < PB else z.block[at].next
        for n in range(first_block(z), first_block(z) + z.s.nr_blocks):
            if z.s.start_pfn <= pfn_of(z, block_page(z, n)) + PB_PAGES - 1 and (
                pfn_of(z, block_page(z, n)) < z.s.start_pfn + z.s.spanned
            ):
                types[z.block[n].eff] += 1
                owned += z.block[n].owner != 0
                if not z.block[n].order:
                    mixed += block_census(z, block_page(z, n), &allocated)
    return {
        "nr_free": np.array(<int64_t[:66]>counts).reshape(NR_ORDERS, NR_TYPES),
        "blocks_by_type": [types[T] for T in range(6)],
        "blocks_mixed": mixed,
        "parked_pages": sum([z.pcp[c].count + z.remote[c].pending for c in range(z.s.cpus)]),
        "allocated_pages": allocated,
        "owned_blocks": owned,
    }

cdef summed(Zone zone, rows):
    """Per-CPU rows of counters, added up."""
    import numpy as np
    return np.array([sum(column) for column in zip(*rows, strict=True)], np.int64)


# -- events ----------------------------------------------------------------------------------------------

cdef start_trace(Zone zone, size_t capacity):
    """A ring of at least that many events, empty; 0: none."""
    cdef size_t n = 1
    c_free(zone.ring.events)
    zone.ring.events = NULL
    zone.z.ring = NULL
    if not capacity:
        return
    while n < capacity:
        n *= 2
    zone.ring.events = <Event *>calloc(n, sizeof(Event))
    if zone.ring.events is NULL:
        raise MemoryError()
    zone.ring.written = 0
    zone.ring.mask = n - 1
    zone.z.ring = &zone.ring

cdef list list_events(Zone zone):
    """Those that the ring still has, oldest first."""
    cdef uint64_t k
    if zone.ring.events is NULL:
        return []
    out = []
    for k in range(zone.events_lost, zone.ring.written):
        out.append(event_tuple(&zone.ring.events[k & zone.ring.mask]))
    return out

def address_of(Zone zone):
    """
    Where the state of a zone lies in this process, for the machine, which works in it too. The zone must outlive that.
    """
    return <size_t>zone.z.s
