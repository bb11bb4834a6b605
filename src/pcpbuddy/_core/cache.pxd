# Whose cache has a page descriptor: what the machine charges for touching one (docs/reference/costs.md).
#
# A descriptor of the kernel fills a cache line. For each the last CPU to touch it is kept, and how many
# descriptors that CPU had fetched by then: so it is in that CPU's own cache still, in the shared cache of
# its node, or in memory. Only the extension of the machine is compiled with WATCHED; elsewhere all of this
# is gone at compile time (decision 0005).

from libc.stdint cimport int64_t, uint16_t, uint32_t

cdef extern from *:
    """
    #ifdef PCPBUDDY_MACHINE
    #define PCPBUDDY_WATCHED 1
    #else
    #define PCPBUDDY_WATCHED 0
    #endif
    """
    const bint WATCHED "PCPBUDDY_WATCHED"

cdef enum:
    STAMP_BITS = 22
    STAMP_SHIFT = 4            # a stamp counts fetches by the sixteen
    STAMP_MASK = (1 << STAMP_BITS) - 1

cdef struct Toucher:           # the CPU that executes, and what touching costs it
    int cpu
    uint32_t stamp             # what it touches now is marked with
    int64_t spent_ps           # by the step that runs
    uint32_t *fetched          # per CPU, all zones
    uint16_t *node             # of each CPU
    int64_t own_ps
    int64_t near_ps
    int64_t far_ps
    int64_t memory_ps
    int64_t far_memory_ps
    uint32_t own_stamps        # what stays in a CPU's own cache
    uint32_t shared_stamps     # and in its share of the node's

cdef struct Caches:            # of one zone's descriptors
    void (*touched)(Caches *k, uint32_t i) noexcept nogil    # called, not inlined: it would stand in 500 places
    uint32_t *last             # per page index: (CPU + 1) << STAMP_BITS | its fetches by then; 0: in memory
    int home                   # node of the zone's memory
    Toucher *by


cdef inline void touch(Caches *k, uint32_t i) noexcept nogil:
    """The executing CPU reads or writes descriptor i: machine_clock.pxi, touched."""
    if WATCHED:
        k.touched(k, i)
