# What others may cimport of the compiled core: PagePool, without a Python call on the way.
#
#     from pcpbuddy cimport PagePool
#
#     cdef work(PagePool pool):
#         cdef int64_t page
#         with nogil:
#             page = pool.get(0)         # -1: there is none
#             pool.memory_of(page)[0] = 1
#             pool.put(page)

from libc.stdint cimport int32_t, int64_t, uint32_t

from .pool cimport Pool

cdef class PagePool:
    cdef Pool p
    cdef readonly object zone
    cdef Py_buffer arena
    cdef int32_t exports       # buffers that show the arena
    cdef object movable        # pfn -> Pages that may be moved; None: nothing is
    cdef object mutex          # guards it, and the contents of what is moved
    cdef readonly bint closed

    cdef int64_t get(self, int order) noexcept nogil
    cdef void put(self, int64_t page) noexcept nogil
    cdef char *memory_of(self, int64_t page) noexcept nogil
    cdef int64_t get_bulk(self, int64_t n, int64_t *pages) noexcept nogil
    cdef void put_bulk(self, int64_t n, const int64_t *pages) noexcept nogil

    # Not for others.
    cdef int usable(self) except -1
    cdef note_dead(self, uint32_t *lock)
    cdef none(self, int order, int migratetype)
    cdef need_once(self, const int64_t *pages, int64_t nr)
