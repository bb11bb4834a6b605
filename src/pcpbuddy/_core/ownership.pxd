# Who owns a pageblock (rfc.md section 3). All writers hold the zone lock.

from libc.stdint cimport uint32_t

from .atomic cimport store16
from .events cimport E_DISOWN, E_OWN_LINK, E_OWN_UNLINK, emit, emit_other
from .page cimport (
    LINKED, OWNED_HEAD, OWNED_PER_TYPE, PB, RETYPE_KEEP, Block, Zone, block_number, block_of, block_page, idx,
    owned_head, set_block_type,
)

cdef enum:  # positions in names.DISOWN_REASONS
    BY_FREE = 0
    BY_RETYPE = 1
    BY_ISOLATE = 2
    BY_OFFLINE = 3

cdef inline void own_link_after(Zone *z, uint32_t n, uint32_t prev) noexcept nogil:
    cdef Block *b = &z.block[n]
    b.own_next = z.block[prev].own_next
    b.own_prev = prev
    z.block[b.own_next].own_prev = n
    z.block[prev].own_next = n
    b.flags |= LINKED

cdef inline void own_link(Zone *z, uint32_t n) noexcept nogil:
    """P-16: to the tail of the owner's owned_blocks, or the head where the policy says so."""
    cdef Block *b = &z.block[n]
    cdef uint32_t head = owned_head(z, b.owner - 1, b.type)
    own_link_after(z, n, head if z.s.policy.owned_order == OWNED_HEAD else z.block[head].own_prev)
    emit(z, E_OWN_LINK, b.owner - 1, block_page(z, n), 0, 0)

cdef inline void own_unlink(Zone *z, uint32_t n) noexcept nogil:
    cdef Block *b = &z.block[n]
    z.block[b.own_prev].own_next = b.own_next
    z.block[b.own_next].own_prev = b.own_prev
    b.own_next = 0
    b.own_prev = 0
    b.flags &= ~LINKED
    emit(z, E_OWN_UNLINK, b.owner - 1, block_page(z, n), 0, 0)

cdef inline void disown(Zone *z, uint32_t n, int reason) noexcept nogil:
    """T5 to T8. Marked entries of the block stay in the old owner's PCP (P-13)."""
    cdef Block *b = &z.block[n]
    if not b.owner:
        return
    if b.flags & LINKED:
        own_unlink(z, n)
    emit_other(z, E_DISOWN, b.owner - 1, block_page(z, n), reason)
    store16(&b.owner, 0)

cdef inline void retype(Zone *z, idx i, int T) noexcept nogil:
    """The type of one block changes while it is not a whole free chunk: T6, unless owners are kept (P-12)."""
    cdef uint32_t n = block_number(z, i)
    cdef Block *b = &z.block[n]
    cdef bint relink
    if z.s.policy.retype != RETYPE_KEEP:
        disown(z, n, BY_RETYPE)
    relink = b.flags & LINKED and z.s.policy.owned_lists == OWNED_PER_TYPE
    if relink:
        own_unlink(z, n)
    set_block_type(b, T)
    if relink:
        own_link(z, n)

cdef inline void disown_chunk(Zone *z, idx i, int o) noexcept nogil:
    """T5: a chunk of a pageblock and more in the zone is nobody's (I-12)."""
    cdef uint32_t n = block_number(z, i)
    cdef int k
    for k in range(1 << (o - PB)):
        disown(z, n + k, BY_FREE)

cdef inline void link_fragment(Zone *z, idx i) noexcept nogil:
    """T2: an owned block with a chunk in the zone is on its owner's list (I-13)."""
    cdef Block *b = block_of(z, i)
    if b.owner and not b.flags & LINKED:
        own_link(z, block_number(z, i))
