# The state of a zone as plain Python objects, and back. Included by core.pyx.

from .ownership cimport own_link_after
from .pcp cimport pcp_put
from .remote cimport nr_outboxes, outboxes

cdef set_policy(ZoneState *s, policy, int cpus):
    s.policy = policy.numbers()
    fit_policy(&s.policy, cpus)


# -- in ------------------------------------------------------------------------------------------------

cdef load_zone(Zone zone, state):
    cdef ZoneState *s = zone.z.s
    cdef int k
    s.managed = state["managed"]
    s.zone_index = state["zone_index"]
    for k in range(4):
        s.watermark[k] = state["watermark"][k]
    s.watermark_boost = state["watermark_boost"]
    for k in range(5):
        s.lowmem_reserve[k] = state["lowmem_reserve"][k]
    s.flags = state["flags"]
    s.nr_reserved_highatomic = state["nr_reserved_highatomic"]
    s.nr_free_highatomic = state["nr_free_highatomic"]
    s.nr_isolate_pageblock = state["nr_isolate_pageblock"]
    for k in range(3):
        s.pageset[k] = state["pageset"][k]
        s.stat[k] = state["stat"][k]
    s.auto_sizing = state["auto_sizing"]
    s.auto_threshold = state["auto_threshold"]
    s.auto_watermark = state.get("auto_watermark", False)
    s.boost_factor = state["boost_factor"]
    s.stat_threshold = state["stat_threshold"]

cdef load_blocks(Zone zone, blocks):
    """Types and owners; cpu_node lists come with the PCPs."""
    cdef uint32_t at = first_block(&zone.z)
    cdef Block *b
    cdef int k
    init_blocks(&zone.z)
    if len(blocks) > zone.z.s.nr_blocks:
        raise UsageError(f"a state with {len(blocks)} blocks: this zone has {zone.z.s.nr_blocks}")
    for k, (type, iso, owner, _) in enumerate(blocks):
        b = &zone.z.block[at + k]
        set_block_type(b, type)
        if iso:
            b.eff = ISOLATE
        if owner >= 0 and not zone.policy.owns:
            raise UsageError(f"a state with owned blocks: policy {zone.policy.name} owns none")
        b.owner = owner + 1
        if type == CMA:
            zone.z.s.cma_pages += PB_PAGES

cdef load_pages(Zone zone, state):
    """Everything is a hole until some list or allocation has it."""
    cdef CZone *z = &zone.z
    cdef idx i
    cdef int o
    for i in range(z.s.first, z.s.nr_pages):
        set_word(z, i, HOLE)
    for (order, type), pfns in state["free"].items():
        for pfn in pfns:
            i = clear(zone, pfn, order)
            link_loaded(z, i, order, type)
    for pfn, order in reversed(state["deferred"]):
        i = clear(zone, pfn, order)
        set_word(z, i, DEFERRED | <int>order << ORDER_SHIFT)
        z.page[i].next = z.s.deferred
        z.s.deferred = i
    allocated = state["allocated"]
    rows = [(pfn, *rest) for pfn, rest in allocated.items()] if isinstance(allocated, dict) else allocated.tolist()
    for pfn, order, type, movable in rows:
        i = clear(zone, pfn, order)
        o = order
        set_word(z, i, ALLOC | o << ORDER_SHIFT | <int>type << TYPE_SHIFT | (MOVABLE_BIT if movable else 0))
    for pfn, pages in state.get("cma_claimed", []):
        set_claimed(z, index_of(z, pfn), pages, True)

cdef idx clear(Zone zone, int64_t pfn, int order) except 0:
    """The pages of a chunk are no holes any more."""
    cdef CZone *z = &zone.z
    cdef idx i
    cdef idx p
    if not z.s.start_pfn <= pfn <= z.s.start_pfn + z.s.spanned - (1 << order):
        raise UsageError(f"a state with a chunk of order {order} at pfn {pfn}: outside zone {zone.name}")
    i = index_of(z, pfn)
    for p in range(i, i + (1u << order)):
        if (word_of(z, p) & 7) != HOLE:
            raise UsageError(f"a state in which pfn {pfn_of(z, p)} is in two places")
        set_word(z, p, 0)
    return i

cdef void link_loaded(CZone *z, idx i, int o, int T) noexcept:
    zone_link(z, i, o, T, True)
    z.s.nr_free[o] += 1
    z.s.zone_pages += 1 << o

cdef load_pcps(Zone zone, pcps):
    cdef CZone *z = &zone.z
    cdef Pcp *p
    cdef int c
    cdef int k
    cdef idx i
    for c, pcp in enumerate(pcps):
        p = &z.pcp[c]
        p.online = pcp["online"]
        p.remote_node = pcp["remote_node"]
        p.high = pcp["high"]
        p.high_min = pcp["high_min"]
        p.high_max = pcp["high_max"]
        p.batch = pcp["batch"]
        p.flags = pcp["flags"]
        p.alloc_factor = pcp["alloc_factor"]
        p.free_count = pcp["free_count"]
        p.expire = pcp["expire"]
        for k in range(3):
            p.diff[k] = pcp["stat_diff"][k]
        marked = set(pcp["marked"])
        for (order, type), pfns in pcp["lists"].items():
            if zone.policy.pcp_lists == 14 and (4 <= order < PB or order == PB and type == 2):
                raise UsageError(f"a state with a PCP list of order {order}, type {type}: policy "
                                 f"{zone.policy.name} has the kernel's 14 lists")
            for pfn in pfns:
                i = clear(zone, pfn, order)
                pcp_put(z, c, i, order, type, MARK if pfn in marked or z.s.policy.mark == MARK_ALL else 0, True)
        if p.count != pcp["count"]:
            raise UsageError(f"a state whose CPU {c} has count {pcp['count']}, but {p.count} pages on its lists")
        for n in pcp["owned"]:
            n += first_block(z)
            own_link_after(z, n, z.block[owned_head(z, c, z.block[<uint32_t>n].type)].own_prev)
    load_remote(zone, pcps)

cdef load_remote(Zone zone, pcps):
    """Remote lists and outboxes, for the policies that have them."""
    cdef CZone *z = &zone.z
    cdef Outbox *box
    cdef int c
    cdef int k
    for c, pcp in enumerate(pcps):
        held = pcp.get("remote", []), pcp.get("outboxes", [])
        if any(held) and zone.policy.remote not in ("llist", "handover"):
            raise UsageError(f"a state with pages on remote lists: policy {zone.policy.name} has none "
                             f"(remote={zone.policy.remote})")
        z.remote[c].head = load_chain(zone, held[0], c)
        if len(held[1]) > z.s.policy.handover_targets:
            raise UsageError(f"a state whose CPU {c} has {len(held[1])} outboxes: policy {zone.policy.name} has "
                             f"{z.s.policy.handover_targets}")
        for k, (target, pages) in enumerate(held[1]):
            if not 0 <= target < z.s.cpus or not pages:
                raise UsageError(f"a state whose CPU {c} has an outbox of {len(pages)} entries for CPU {target}: "
                                 f"expected some, for CPU 0..{z.s.cpus - 1}")
            box = &outboxes(z, c)[k]
            box.target = target
            box.newest = load_chain(zone, pages, target)
            box.oldest = index_of(z, pages[0][0])
            box.pages = sum([1 << order for _, order in pages])

cdef idx load_chain(Zone zone, pages, int target):
    """Arrival order in, latest first out."""
    cdef idx i
    cdef idx newest = 0
    cdef int o
    for pfn, o in pages:
        i = clear(zone, pfn, o)
        set_word(&zone.z, i, REMOTE | o << ORDER_SHIFT)
        zone.z.page[i].next = newest
        newest = i
        zone.z.remote[target].pending += 1 << o
    return newest


# -- out -----------------------------------------------------------------------------------------------

cdef save_zone(Zone zone):
    cdef ZoneState *s = zone.z.s
    cdef int k
    return {
        "start_pfn": s.start_pfn,
        "spanned": s.spanned,
        "managed": s.managed,
        "zone_index": s.zone_index,
        "name": zone.name,
        "watermark": [s.watermark[k] for k in range(4)],
        "watermark_boost": s.watermark_boost,
        "lowmem_reserve": [s.lowmem_reserve[k] for k in range(5)],
        "flags": s.flags,
        "nr_reserved_highatomic": s.nr_reserved_highatomic,
        "nr_free_highatomic": s.nr_free_highatomic,
        "nr_isolate_pageblock": s.nr_isolate_pageblock,
        "pageset": [s.pageset[k] for k in range(3)],
        "auto_sizing": bool(s.auto_sizing),
        "auto_threshold": bool(s.auto_threshold),
        "auto_watermark": bool(s.auto_watermark),
        "boost_factor": s.boost_factor,
        "stat": [s.stat[k] for k in range(3)],
        "stat_threshold": s.stat_threshold,
    }

cdef save_blocks(Zone zone):
    """Up to the zone's end, rounded up to a pageblock."""
    cdef ZoneState *s = zone.z.s
    cdef uint32_t at = first_block(&zone.z)
    cdef uint32_t n = <uint32_t>((s.start_pfn + s.spanned - s.base_pfn + PB_PAGES - 1) >> PB)
    cdef uint32_t k
    cdef Block *b = zone.z.block
    return [
        [b[k].type, int(b[k].eff == ISOLATE), b[k].owner - 1, int(b[k].flags & LINKED != 0)] for k in range(at, at + n)
    ]

cdef save_free(Zone zone):
    cdef CZone *z = &zone.z
    cdef int o
    cdef int T
    cdef uint32_t head
    cdef uint32_t at
    out = {}
    for o in range(NR_ORDERS):
        for T in range(NR_TYPES):
            head = zone_head(o, T) if o < PB else block_head(o, T)
            at = z.page[head].next if o < PB else z.block[head].next
            pfns = []
            while at != head:
                pfns.append(pfn_of(z, at if o < PB else block_page(z, at)))
                at = z.page[at].next if o < PB else z.block[at].next
            if pfns:
                out[o, T] = pfns
    return out

cdef save_deferred(Zone zone):
    cdef idx i = zone.z.s.deferred
    out = []
    while i:
        out.append((pfn_of(&zone.z, i), word_order(word_of(&zone.z, i))))
        i = zone.z.page[i].next
    return out

cdef save_claimed(Zone zone):
    """What cma_alloc handed out: runs of [pfn, pages], ascending."""
    cdef CZone *z = &zone.z
    cdef idx i
    return [list(run) for run in runs([(pfn_of(z, i), 1) for i in range(z.s.first, z.s.nr_pages) if is_claimed(z, i)])]

cdef save_allocated(Zone zone):
    cdef CZone *z = &zone.z
    cdef idx i
    cdef uint32_t word
    out = {}
    for i in range(z.s.first, z.s.nr_pages):
        word = word_of(z, i)
        if (word & 7) == ALLOC:
            out[pfn_of(z, i)] = (word_order(word), word_type(word), int(word & MOVABLE_BIT != 0))
    return out

cdef save_pcp(Zone zone, int c):
    cdef CZone *z = &zone.z
    cdef Pcp *p = &z.pcp[c]
    cdef int which
    cdef idx head
    cdef idx i
    cdef uint32_t n
    cdef int k
    lists = {}
    marked = []
    owned = []
    for which in range(NR_LISTS):
        head = cpu_head(c, which)
        i = z.page[head].next
        pfns = []
        while i != head:
            pfns.append(pfn_of(z, i))
            if word_of(z, i) & MARK:
                marked.append(pfn_of(z, i))
            i = z.page[i].next
        if pfns:
            lists[which // 3, which % 3] = pfns
    for k in range(OWNED_HEADS if z.s.policy.owned_lists == OWNED_PER_TYPE else 1):
        n = z.block[owned_head(z, c, k)].own_next
        while n != owned_head(z, c, k):
            owned.append(n - first_block(z))
            n = z.block[n].own_next
    return {
        "online": int(p.online),
        "remote_node": int(p.remote_node),
        "count": p.count,
        "high": p.high,
        "high_min": p.high_min,
        "high_max": p.high_max,
        "batch": p.batch,
        "flags": p.flags,
        "alloc_factor": p.alloc_factor,
        "free_count": p.free_count,
        "expire": p.expire,
        "stat_diff": [p.diff[k] for k in range(3)],
        "lists": lists,
        "marked": sorted(marked),
        "owned": owned,
        "remote": save_chain(zone, z.remote[c].head),
        "outboxes": [
            (outboxes(z, c)[k].target, save_chain(zone, outboxes(z, c)[k].newest)) for k in range(nr_outboxes(z, c))
        ],
        "pending": z.remote[c].pending,
    }

cdef list save_chain(Zone zone, idx i):
    """In arrival order."""
    out = []
    while i:
        out.append((pfn_of(&zone.z, i), word_order(word_of(&zone.z, i))))
        i = zone.z.page[i].next
    return out[::-1]
