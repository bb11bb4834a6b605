# cython: language_level=3
# From Cython, without a Python call on the way: cythonize -i fill.pyx
from libc.stdint cimport int64_t
from libc.string cimport memset
from pcpbuddy cimport PagePool

def fill(PagePool pool, int64_t times):
    """
    Gets a page, fills it, puts it back, so often. Returns how often there was none.
    """
    cdef int64_t page
    cdef int64_t missed = 0
    cdef int64_t k
    with nogil:
        for k in range(times):
            page = pool.get(0)
            if page < 0:
                missed += 1
            else:
                memset(pool.memory_of(page), <int>(k & 255), 4096)
                pool.put(page)
    return missed
