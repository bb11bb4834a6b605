# What runs once per byte, line or event of a trace: text lines and ring-buffer sub-buffers made into rows.
#
# A row is one EVENT record of schema.py. The columns that every form fills stand first and are known here by place
# (Head); the others are filled through steps that name their place in the record and their width. Texts are numbers of
# entries in tables that are made anew with each batch, so that memory grows with the batch and not with the trace.
#
# Nothing of a trace is trusted: every length is held against what is there before it is used. Loops over a line stop
# at its newline, which is there by construction (TextParser), with SLACK readable bytes behind the last one.

# cython: embedsignature=False, freethreading_compatible=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True

cimport cython
from libc.stdint cimport INT64_MIN, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free as c_free
from libc.string cimport memcmp, memcpy, memmove, memset

import sys

from .schema import EVENT, NULLS, blank

cdef extern from *:
    """
    #include <string.h>
    #include <stdint.h>
    static inline uint64_t load8(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
    static inline uint32_t load4(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
    static inline uint16_t load2(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
    static inline void store8(uint8_t *p, int64_t v) { memcpy(p, &v, 8); }
    static inline void store4(uint8_t *p, int32_t v) { memcpy(p, &v, 4); }
    static inline void store2(uint8_t *p, int16_t v) { memcpy(p, &v, 2); }
    /* The high bit of each byte of v that is c; of several, only the lowest is certain. */
    static inline uint64_t bytes_of(uint64_t v, uint8_t c)
    {
        uint64_t x = v ^ (0x0101010101010101ull * c);
        return (x - 0x0101010101010101ull) & ~x & 0x8080808080808080ull;
    }
    static inline int first_byte(uint64_t v) { return __builtin_ctzll(v) >> 3; }
    static inline const uint8_t *find2(const uint8_t *p, uint8_t a, uint8_t b)
    {
        for (;; p += 8) {
            uint64_t m = bytes_of(load8(p), a) | bytes_of(load8(p), b);
            if (m) return p + (__builtin_ctzll(m) >> 3);
        }
    }
    static inline int all_digits(uint64_t v)
    {
        return (v & (v + 0x0606060606060606ull) & 0xf0f0f0f0f0f0f0f0ull) == 0x3030303030303030ull;
    }
    static inline uint64_t eight_digits(uint64_t v)
    {
        v = (v & 0x0f0f0f0f0f0f0f0full) * 2561 >> 8;
        v = (v & 0x00ff00ff00ff00ffull) * 6553601 >> 16;
        return (v & 0x0000ffff0000ffffull) * 42949672960001ull >> 32;
    }
    /* The same of hexadecimal digits; all of them are that where hex_digits is not 0. */
    static inline int hex_digits(uint64_t v)
    {
        uint64_t letters = (v & 0x4040404040404040ull) >> 6, low = v & 0x0f0f0f0f0f0f0f0full;
        uint64_t digits = 0x0101010101010101ull ^ letters;
        /* "0" to "9" are 0x30 with 0 to 9, letters 0x60 or 0x40 with 1 to 6 */
        uint64_t high = (v & 0xd0d0d0d0d0d0d0d0ull) ^ (digits * 0x10) ^ (letters * 0x40);
        uint64_t over = (low + digits * 0x76 + letters * 0x79) & 0x8080808080808080ull;
        uint64_t zero = (low - letters) & 0x8080808080808080ull;
        return !(high | over | zero | (digits * 0x20 & ~v));
    }
    static inline uint64_t eight_hex(uint64_t v)
    {
        v = (v & 0x0f0f0f0f0f0f0f0full) + 9 * (v >> 6 & 0x0101010101010101ull);
        v = (v * 4097) >> 8 & 0x00ff00ff00ff00ffull;
        v = (v * 16777217) >> 16 & 0x0000ffff0000ffffull;
        return (v * 281474976710657ull) >> 32;
    }
    /* ticks * mult >> shift, with shift up to 32. */
    static inline uint64_t scaled(uint64_t ticks, uint32_t mult, uint32_t shift)
    {
        return (((ticks >> 32) * mult) << (32 - shift)) + (((ticks & 0xffffffffu) * mult) >> shift);
    }
    """
    uint64_t load8(const uint8_t *p) noexcept nogil
    uint32_t load4(const uint8_t *p) noexcept nogil
    uint16_t load2(const uint8_t *p) noexcept nogil
    void store8(uint8_t *p, int64_t v) noexcept nogil
    void store4(uint8_t *p, int32_t v) noexcept nogil
    void store2(uint8_t *p, int16_t v) noexcept nogil
    const uint8_t *find2(const uint8_t *p, uint8_t a, uint8_t b) noexcept nogil
    int first_byte(uint64_t v) noexcept nogil
    bint all_digits(uint64_t v) noexcept nogil
    uint64_t eight_digits(uint64_t v) noexcept nogil
    bint hex_digits(uint64_t v) noexcept nogil
    uint64_t eight_hex(uint64_t v) noexcept nogil
    uint64_t scaled(uint64_t ticks, uint32_t mult, uint32_t shift) noexcept nogil
    void *memrchr(const void *p, int c, size_t n) noexcept nogil

if sys.byteorder != "little":
    raise ImportError("the readers of traces need a little-endian machine")

cdef enum:
    ROW = 128                  # bytes of a row
    MAX_CPUS = 8192            # NR_CPUS of the largest kernels
    SLACK = 1152               # bytes that may be read behind the last newline of a buffer: a list of flags, and more
    MOST_NAMES = 4096          # names that strangers choose: more are counted together
    LONGEST_TEXT = 4096        # of a marker, as much as kernels take; more is cut off and counted
    MOST_PLACES = 1000         # losses and damages that are kept with their place; all are counted

cdef struct Head:
    int64_t ts_ns
    int64_t cpu_seq
    int64_t pfn
    int64_t gfp_flags
    int32_t pid
    int32_t comm
    int32_t marker
    int16_t cpu
    int16_t event
    int16_t irq_flags
    int16_t preempt_count

cdef struct Cpu:
    int64_t seq                # of its next row: rows so far and events that are known to be lost
    int64_t rows
    int64_t first_ns
    int64_t last_ns
    int64_t lost               # events counted as lost
    int64_t gaps               # losses that nobody counted: at least one event each
    int64_t back               # rows with an earlier time than the row before them

cdef struct Counts:            # of a trace
    Cpu *cpus
    int64_t rows
    int64_t back               # rows with an earlier time than the row before them, of whatever CPU
    int64_t back_at            # where the first of them is, -1 for none
    int64_t ties               # neighbours of two CPUs with the same time
    int64_t out_of_range       # numbers that no column can hold, made null, and texts that were cut
    int64_t last_ns
    int32_t last_cpu

cdef int32_t NONE32 = NULLS[4]
cdef int16_t NONE16 = NULLS[2]

HEAD = ("ts_ns", "cpu_seq", "pfn", "gfp_flags", "pid", "comm", "marker", "cpu", "event", "irq_flags", "preempt_count")
assert [EVENT.fields[name][1] for name in HEAD] == [*range(0, 32, 8), *range(32, 44, 4), *range(44, 52, 2)]
assert EVENT.itemsize == ROW

include "tally.pxi"
include "text_line.pxi"
include "text_event.pxi"
include "text.pxi"
include "ring_page.pxi"
include "ring.pxi"
