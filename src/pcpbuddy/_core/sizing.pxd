# How large the PCPs, counter thresholds and watermarks of a zone are (baseline 1.9 to 1.11).

cimport cython
from libc.math cimport sqrt
from libc.stdint cimport int64_t

from .page cimport PB_PAGES, Zone


cdef inline int bit_length(int64_t x) noexcept nogil:
    cdef int n = 0
    while x:
        n += 1
        x >>= 1
    return n

cdef inline int pcp_batch(int64_t managed) noexcept nogil:
    """B-12."""
    cdef int64_t b = min(managed >> 12, <int64_t>64)
    if b <= 1:
        return 1
    return (1 << (bit_length(b + b // 2) - 1)) - 1

@cython.cdivision(True)
cdef inline int64_t pcp_high(int64_t managed, int64_t low, int fraction, int cpus, int batch) noexcept nogil:
    """B-13 highsize."""
    return max((managed // fraction if fraction else low) // max(cpus, 1), <int64_t>4 * batch)

cdef inline int threshold(int64_t managed, int cpus) noexcept nogil:
    """B-16."""
    return min(125, 2 * bit_length(cpus) * (1 + bit_length(managed >> 15)))

cdef inline int64_t default_min_free_kbytes(int64_t lowmem_kbytes) noexcept nogil:
    """B-20, before the raise for transparent huge pages."""
    cdef int64_t root = <int64_t>sqrt(<double>(16 * lowmem_kbytes))
    while root * root > 16 * lowmem_kbytes:
        root -= 1
    while (root + 1) * (root + 1) <= 16 * lowmem_kbytes:
        root += 1
    return min(max(root, <int64_t>128), <int64_t>262144)

cdef inline int64_t thp_min_free_kbytes(int64_t lowmem_pages, int zones) noexcept nogil:
    """B-20: what transparent huge pages ask for."""
    return 4 * min(<int64_t>PB_PAGES * zones * (2 + 9), lowmem_pages * 5 // 100)

@cython.cdivision(True)
cdef inline void zone_watermarks(int64_t *mark, int64_t managed, int64_t lowmem, int64_t kbytes) noexcept nogil:
    """B-20 for a zone that is neither highmem nor Movable, scale factor 10."""
    cdef int64_t delta
    mark[0] = kbytes // 4 * managed // max(lowmem, <int64_t>1)
    delta = max(mark[0] // 4, managed * 10 // 10000)
    mark[1] = mark[0] + delta
    mark[2] = mark[1] + delta
    mark[3] = mark[2] + delta

cdef inline int online_cpus(Zone *z) noexcept nogil:
    cdef int c
    cdef int n = 0
    for c in range(z.s.cpus):
        n += z.pcp[c].online
    return n

cdef inline void resize(Zone *z) noexcept nogil:
    """B-13, B-105: new limits go into every pageset if the triple changed; high itself adapts at its next clamp."""
    cdef int cpus = online_cpus(z)
    cdef int batch = pcp_batch(z.s.managed)
    cdef int high_min = <int>pcp_high(z.s.managed, z.s.watermark[1] + z.s.watermark_boost, 0, cpus, batch)
    cdef int high_max = <int>pcp_high(z.s.managed, 0, 8, cpus, batch)
    if z.s.auto_threshold:
        z.s.stat_threshold = threshold(z.s.managed, cpus)
    if not z.s.auto_sizing:
        return
    if z.s.pageset[0] == high_min and z.s.pageset[1] == high_max and z.s.pageset[2] == batch:
        return
    z.s.pageset[0] = high_min
    z.s.pageset[1] = high_max
    z.s.pageset[2] = batch
    if not z.s.pcp_disabled:
        set_pagesets(z, high_min, high_max, batch)

cdef inline void set_pagesets(Zone *z, int high_min, int high_max, int batch) noexcept nogil:
    cdef int c
    for c in range(z.s.cpus):
        z.pcp[c].high_min = high_min
        z.pcp[c].high_max = high_max
        z.pcp[c].batch = batch

cdef inline void disable_pcps(Zone *z) noexcept nogil:
    """B-106, CT-10: a refill is one entry, and each free is drained at once. What is in the PCPs is the caller's."""
    z.s.pcp_disabled = True
    set_pagesets(z, 0, 0, 1)

cdef inline void enable_pcps(Zone *z) noexcept nogil:
    z.s.pcp_disabled = False
    set_pagesets(z, z.s.pageset[0], z.s.pageset[1], z.s.pageset[2])

cdef inline void auto_watermarks(Zone *z) noexcept nogil:
    """B-20 for a zone that is the only one of its node."""
    cdef int64_t kbytes = max(default_min_free_kbytes(z.s.managed * 4), thp_min_free_kbytes(z.s.managed, 1))
    zone_watermarks(z.s.watermark, z.s.managed, z.s.managed, kbytes)

cdef inline void managed_changed(Zone *z, int64_t pages) noexcept nogil:
    """Memory came or went (CT-11, CT-12): watermarks, limits and thresholds follow, where they were not given."""
    z.s.managed += pages
    if z.s.auto_watermark:
        auto_watermarks(z)
    resize(z)
