# Watermarks (baseline section 8). Lock-free reads of visible counters.

from libc.stdint cimport int64_t

from .atomic cimport clear_bits, load32, load64, unlikely
from .buddy cimport first, visible
from .page cimport (
    BELOW_HIGH, CMA, HIGHATOMIC, MAX_ORDER, MIN_RESERVE, NON_BLOCK, NR_FREE, NR_FREE_CMA, OOM, RESERVES,
    PRESSURE_LOCAL, RECLAIM_ACTIVE, USE_CMA, USE_HIGHATOMIC, WMARK_MIN, WMARK_PROMO, Zone,
)


cdef inline int64_t unusable_free(Zone *z, int o, int aflags) noexcept nogil:
    cdef int64_t pages = (1 << o) - 1
    if not aflags & RESERVES:
        pages += z.s.nr_free_highatomic
    if not aflags & USE_CMA:
        pages += visible(z, NR_FREE_CMA)
    return pages

cdef inline bint watermark_ok(Zone *z, int o, int64_t mark, int hz, int aflags, int64_t free) noexcept nogil:
    """B-73."""
    cdef int64_t lowest = mark
    cdef int k
    free -= unusable_free(z, o, aflags)
    if aflags & RESERVES:
        if aflags & MIN_RESERVE:
            lowest -= lowest // 2
            if aflags & NON_BLOCK:
                lowest -= lowest // 4
        if aflags & OOM:
            lowest -= lowest // 2
    if free <= lowest + z.s.lowmem_reserve[hz]:
        return False
    if o == 0:
        return True
    for k in range(o, MAX_ORDER + 1):
        if load64(&z.s.nr_free[k]) == 0:
            continue
        if first(z, k, 0) or first(z, k, 1) or first(z, k, 2):
            return True
        if aflags & USE_CMA and first(z, k, CMA):
            return True
        if aflags & (USE_HIGHATOMIC | OOM) and first(z, k, HIGHATOMIC):
            return True
    return False

cdef inline int64_t watermark(Zone *z, int which) noexcept nogil:
    """B-22: every reader but the stored-high of B-45 sees the boost."""
    return z.s.watermark[which] + z.s.watermark_boost

cdef inline bint ownership_rests(Zone *z) noexcept nogil:
    """P-40b, pressure=local: the zone is short of memory, and whoever frees a page is about to need one."""
    if z.s.policy.pressure != PRESSURE_LOCAL:
        return False
    return load32(&z.s.flags) & RECLAIM_ACTIVE != 0 or visible(z, NR_FREE) < watermark(z, WMARK_PROMO)

cdef inline bint watermark_fast(Zone *z, int o, int which, int hz, int aflags) noexcept nogil:
    """B-74."""
    cdef int64_t free = visible(z, NR_FREE)
    cdef int64_t mark = watermark(z, which)
    if o == 0 and free - min(free, unusable_free(z, 0, aflags)) > mark + z.s.lowmem_reserve[hz]:
        return True
    if watermark_ok(z, o, mark, hz, aflags, free):
        return True
    if o == 0 and aflags & MIN_RESERVE and aflags & 3 == WMARK_MIN and z.s.watermark_boost:
        return watermark_ok(z, o, z.s.watermark[WMARK_MIN], hz, aflags, free)
    return False

cdef inline bint high_watermark_ok(Zone *z) noexcept nogil:
    """B-82 step 6: order 0, high with boost, as for a request that may use the highest zone."""
    return watermark_ok(z, 0, watermark(z, 2), 3, 0, visible(z, NR_FREE))

cdef inline void leave_below_high(Zone *z) noexcept nogil:
    """B-82 step 6, whenever a commit reached its limit, even if that asks for no page (B-84)."""
    if unlikely(load32(&z.s.flags) & BELOW_HIGH) and high_watermark_ok(z):
        clear_bits(&z.s.flags, BELOW_HIGH)
