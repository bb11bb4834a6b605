# Frees past the per-CPU lists (B-90, B-92). The zone lock is held, but where it says so.

from .atomic cimport bump
from .buddy cimport split_free
from .op cimport OP_NOLOCK, OP_TAIL, Op
from .page cimport DEFERRED, H_DIRECT_FREE, ORDER_SHIFT, Zone, idx, set_word, word_of, word_order


cdef inline void free_one(Zone *z, Op *op, idx i) noexcept nogil:
    cdef int o = word_order(word_of(z, i))
    z.page[i].next = 0
    set_word(z, i, 0)
    split_free(z, op.cpu, i, o, op.flags & OP_TAIL != 0)

cdef inline void direct_free(Zone *z, Op *op, idx i) noexcept nogil:
    """B-90 (zone lock): first the deferred stack, then the page."""
    cdef idx d
    bump(&z.counts[op.cpu].holds[H_DIRECT_FREE], 1)
    while z.s.deferred and not op.flags & OP_NOLOCK:
        d = z.s.deferred
        z.s.deferred = z.page[d].next
        free_one(z, op, d)
    free_one(z, op, i)

cdef inline void defer(Zone *z, Op *op, idx i) noexcept nogil:
    """B-92: neither lock was to be had. (The real driver makes this push atomic.)"""
    set_word(z, i, DEFERRED | word_order(word_of(z, i)) << ORDER_SHIFT)
    z.page[i].next = z.s.deferred
    z.s.deferred = i
