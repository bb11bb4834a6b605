# The event ring: kernel-shaped records (baseline section 17, rfc.md P-110), when asked for.

from libc.stdint cimport uint16_t, uint32_t, uint8_t

from .atomic cimport unlikely
from .page cimport Event, Zone, idx, pfn_of

cdef enum:  # positions in names.EVENT_NAMES
    E_ALLOC = 1
    E_FREE = 2
    E_FREE_BATCHED = 3
    E_ZONE_LOCKED = 4
    E_EXTFRAG = 5
    E_PCPU_DRAIN = 6
    E_CLAIM = 7
    E_RECOVER = 8
    E_CHUNK = 9
    E_PMERGE = 10
    E_DISOWN = 11
    E_OWN_LINK = 12
    E_OWN_UNLINK = 13
    E_REMOTE_FAIL = 14
    E_REMOTE_PUSH = 15
    E_ABSORB = 16
    E_ADOPT = 17

    NO_PFN = 0xffffffff

cdef inline void record(
    Zone *z, int kind, int cpu, idx i, int order, int type, int order2, int type2, int flag, uint32_t other
) noexcept nogil:
    cdef Event *e = &z.ring.events[z.ring.written & z.ring.mask]
    e.seq = z.ring.written
    e.kind = <uint8_t>kind
    e.cpu = <uint16_t>cpu
    e.pfn = <uint32_t>pfn_of(z, i) if i else NO_PFN
    e.order = <uint8_t>order
    e.type = <uint8_t>type
    e.order2 = <uint8_t>order2
    e.type2 = <uint8_t>type2
    e.flag = <uint8_t>flag
    e.other = other
    z.ring.written += 1

cdef inline void emit(Zone *z, int kind, int cpu, idx i, int order, int type) noexcept nogil:
    if unlikely(z.ring is not NULL):
        record(z, kind, cpu, i, order, type, 0, 0, 0, 0)

cdef inline void emit_zone_locked(Zone *z, int cpu, idx i, int order, int type) noexcept nogil:
    """17.3: percpu_refill = PCP-capable order and a PCP type."""
    if unlikely(z.ring is not NULL):
        record(z, E_ZONE_LOCKED, cpu, i, order, type, 0, 0, (z.s.policy.pcp_orders >> order) & 1 and type < 3, 0)

cdef inline void emit_extfrag(
    Zone *z, int cpu, idx i, int order, int fallback_order, int type, int fallback_type, bint change_ownership
) noexcept nogil:
    if unlikely(z.ring is not NULL):
        record(z, E_EXTFRAG, cpu, i, order, type, fallback_order, fallback_type, change_ownership, 0)

cdef inline void emit_other(Zone *z, int kind, int cpu, idx i, uint32_t other) noexcept nogil:
    if unlikely(z.ring is not NULL):
        record(z, kind, cpu, i, 0, 0, 0, 0, 0, other)
