# cython: freethreading_compatible=True
"""
The reference of the call benchmark: Zone.alloc and Zone.free without anything in them.

The signatures are those of _core/core.pyx, so a call parses the same arguments and boxes a result of the same kind.
"""

from libc.stdint cimport int64_t


cdef class Empty:
    cdef int64_t pfn

    def __init__(self, int64_t pfn=123456):
        self.pfn = pfn

    def alloc(self, int order=0, int migratetype=1, int cpu=0, int aflags=-1):
        return self.pfn

    def free(self, int64_t pfn, int cpu=0, int order=-1, bint irq=False, bint nolock=False):
        pass
