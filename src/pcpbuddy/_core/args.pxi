# Arguments are checked here and trusted inside. Included by core.pyx.

# -- sizes -------------------------------------------------------------------------------------------------

def pcp_sizing(int64_t managed, int cpus, int64_t low, int fraction=0):
    cdef int batch = pcp_batch(managed)
    if fraction:
        return batch, pcp_high(managed, low, fraction, cpus, batch), pcp_high(managed, low, fraction, cpus, batch)
    return batch, pcp_high(managed, low, 0, cpus, batch), pcp_high(managed, low, 8, cpus, batch)

def stat_threshold(int64_t managed, int cpus):
    return threshold(managed, cpus)

def min_free_kbytes(int64_t lowmem_kbytes):
    return default_min_free_kbytes(lowmem_kbytes)

def watermarks(int64_t managed, int64_t lowmem_pages, int64_t kbytes):
    cdef int64_t mark[4]
    zone_watermarks(mark, managed, lowmem_pages, kbytes)
    return mark[0], mark[1], mark[2], mark[3]

cdef check_sizes(
    int64_t pages, int64_t start_pfn, int64_t cma_pages, batch, high_min, high_max, watermark, int zone_index,
    stat_threshold,
):
    """What a fresh zone is asked to be: ConfigError for what it cannot be."""
    if pages < 1 or start_pfn < 0 or start_pfn + pages > 1 << 31:
        raise ConfigError(f"a zone of {pages} pages at pfn {start_pfn}: expected 1 page or more, below pfn 2^31")
    if cma_pages < 0 or cma_pages % PB_PAGES or cma_pages > pages or cma_pages and (start_pfn + pages) % PB_PAGES:
        raise ConfigError(
            f"cma_pages={cma_pages} of {pages}: expected whole pageblocks of {PB_PAGES} at the end of the zone"
        )
    if [batch, high_min, high_max].count(None) not in (0, 3):
        raise ConfigError("batch, high_min and high_max are given together or not at all")
    if batch is not None and not (batch >= 1 and 0 <= high_min <= high_max):
        raise ConfigError(
            f"batch={batch}, high_min={high_min}, high_max={high_max}: expected batch >= 1 "
            "and 0 <= high_min <= high_max"
        )
    if watermark is not None and len(watermark) != 4:
        raise ConfigError(f"{len(watermark)} watermarks: expected min, low, high, promo in pages")
    if not 0 <= zone_index < 5:
        raise ConfigError(f"zone_index={zone_index}: expected 0..4")
    if stat_threshold is not None and not 0 <= stat_threshold <= 125:
        raise ConfigError(f"stat_threshold={stat_threshold}: expected 0..125, or None for the kernel's formula")


# -- requests ----------------------------------------------------------------------------------------------

cdef int bad_request(Zone zone, int order, int migratetype, int cpu) except -1:
    """Say what is wrong with a request that is known to be wrong, or with its CPU."""
    if not 0 <= order <= MAX_ORDER:
        raise UsageError(f"order {order}: expected 0..{MAX_ORDER}")
    if not 0 <= migratetype < 3:
        raise UsageError(f"migratetype {migratetype}: a request is 0 Unmovable, 1 Movable or 2 Reclaimable")
    need_cpu(zone, cpu)
    return 0

cdef int need_cpu(Zone zone, int cpu) except -1:
    if not 0 <= cpu < zone.z.s.cpus:
        raise UsageError(f"CPU {cpu}: this zone has CPUs 0..{zone.z.s.cpus - 1}")
    if not zone.z.pcp[cpu].online:
        raise CpuOffline(f"CPU {cpu} is off-line: bring it on-line first, or use another")
    return 0

cdef int executing(Zone zone, by, int cpu) except -1:
    """The CPU that does the work: the one asked for, else `cpu` if on-line, else the lowest on-line."""
    cdef int c
    if by is not None:
        need_cpu(zone, by)
        return by
    if cpu >= 0 and zone.z.pcp[cpu].online:
        return cpu
    for c in range(zone.z.s.cpus):
        if zone.z.pcp[c].online and c != cpu:
            return c
    raise CpuOffline(f"CPU {cpu} is the last one on-line")

cdef idx need_page(Zone zone, int64_t pfn) except 0:
    if not zone.z.s.start_pfn <= pfn < zone.z.s.start_pfn + zone.z.s.spanned:
        raise BadFree(
            f"pfn {pfn} is outside zone {zone.name}: it has pfns "
            f"{zone.z.s.start_pfn}..{zone.z.s.start_pfn + zone.z.s.spanned - 1}"
        )
    return index_of(&zone.z, pfn)

cdef idx need_block(Zone zone, int64_t pfn) except 0:
    try:
        return need_page(zone, pfn)
    except BadFree as error:
        raise UsageError(str(error)) from None

cdef idx need_allocation(Zone zone, int64_t pfn, int order) except 0:
    """The head of an allocation of that order (-1: of any), or a BadFree that says what is there."""
    cdef idx i = need_page(zone, pfn)
    cdef uint32_t word = word_of(&zone.z, i)
    if (word & 7) != ALLOC:
        raise BadFree(f"pfn {pfn} is {describe(&zone.z, i)}, not the head of an allocation (double free?)")
    if order >= 0 and word_order(word) != order:
        raise BadFree(f"pfn {pfn} was allocated with order {word_order(word)}, not {order}: free it as taken")
    return i

cdef idx need_freeable(Zone zone, int64_t pfn, int order) except 0:
    """The same, and not a page that cma_alloc handed out."""
    cdef idx i = need_allocation(zone, pfn, order)
    if is_claimed(&zone.z, i):
        raise BadFree(f"pfn {pfn} was handed out by cma_alloc: give it back by cma_release")
    return i

cdef list need_batch(Zone zone, pfns, bint claimed):
    """Allocations of any order, each once. `claimed`: cma_release frees before it clears the bits (CT-9)."""
    pfns = [int(pfn) for pfn in pfns]
    if len(set(pfns)) != len(pfns):
        twice = next(pfn for k, pfn in enumerate(pfns) if pfn in pfns[:k])
        raise BadFree(f"pfn {twice} is in the batch twice")
    for pfn in pfns:
        need_allocation(zone, pfn, -1) if claimed else need_freeable(zone, pfn, -1)
    return pfns

cdef need_state(Zone zone, policy):
    """What lies in the memory is the state of a zone under this policy, as long as it says."""
    cdef ZoneState s
    cdef ZoneState *there = zone.z.s
    if not 1 <= there.cpus <= MAX_CPUS or not 0 < there.spanned <= 1 << 31:
        raise ConfigError("the memory holds no zone")
    set_policy(&s, policy, there.cpus)
    measure(&s, there.start_pfn, there.spanned, there.cpus)
    if s.size != there.size or <uint64_t>zone.view.len < s.size or memcmp(&s.policy, &there.policy, sizeof(Policy)):
        raise ConfigError("the zone in this memory was made by another version, or under another policy")

cdef need_same_zone(Zone zone, bytes head):
    """A snapshot's first bytes are of a zone like this one: same place, CPUs and policy."""
    cdef ZoneState *s = <ZoneState *><const char *>head
    cdef ZoneState *own = zone.z.s
    if s.start_pfn != own.start_pfn or s.spanned != own.spanned or s.cpus != own.cpus:
        raise UsageError(f"a snapshot of a zone of {s.spanned} pages at pfn {s.start_pfn} with {s.cpus} CPUs: "
                         f"this one has {own.spanned} at {own.start_pfn} with {own.cpus}")
    if memcmp(&s.policy, &own.policy, sizeof(Policy)):
        raise UsageError(f"a snapshot of a zone under another policy: this one has {zone.policy.name}")
