# What runs once per row of a trace that is written out: rows as lines of the kernel's text, and as packets of Perfetto.
#
# Rows are EVENT records of schema.py, as _parse.pyx makes them. What a writer has made is given as bytes with each
# batch, so that memory grows with the batch and not with the trace. Every row's longest form is worked out before it is
# written, and room is made for that once.

# cython: embedsignature=False, freethreading_compatible=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free as c_free, realloc
from libc.string cimport memcpy, memmove, memset

import sys

from .schema import EVENT, NULLS, columns, place

if sys.byteorder != "little":
    raise ImportError("the writers of traces need a little-endian machine")

cdef enum:
    ROW = 128                  # bytes of a row
    MAX_CPUS = 8192            # as in _parse.pyx
    MOST_PIECES = 16           # fields of an event
    MOST_EVENTS = 128
    CACHED = 512               # slots for numbers whose names were looked up before
    LONGEST_FLAGS = 1024       # names of flags; they are cut there, which no number of 64 bits needs
    LONGEST_COMM = 64          # bytes, escapes and all
    ROW_ROOM = 8192            # bytes of one row's longest form, texts apart

    # How a field is written; the numbers are those of shapes.py.
    DECIMAL = 0
    PFN = 1
    ADDRESS = 2
    GFP = 3
    LOCK = 4
    TYPE = 5

cdef struct Head:              # as in _parse.pyx
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

cdef struct Piece:             # a field of an event
    uint8_t[40] before         # " order=" in text
    int length
    int place
    int width
    int kind
    uint8_t after              # a character, 0 for none
    int number                 # of its name, in what Perfetto interns

cdef struct Shape:             # of an event
    uint8_t[64] name
    int length
    bint there
    bint marker
    bint page                  # a page stands first
    uint8_t[16] tail           # what stands at the end
    int tail_length
    int category
    int nr_pieces
    Piece[16] pieces

cdef struct Out:               # bytes that grow
    uint8_t *p
    Py_ssize_t n
    Py_ssize_t room

cdef int64_t NONE64 = NULLS[8]
cdef int32_t NONE32 = NULLS[4]
cdef int16_t NONE16 = NULLS[2]

HEAD = ("ts_ns", "cpu_seq", "pfn", "gfp_flags", "pid", "comm", "marker", "cpu", "event", "irq_flags", "preempt_count")
assert [EVENT.fields[name][1] for name in HEAD] == [*range(0, 32, 8), *range(32, 44, 4), *range(44, 52, 2)]
assert EVENT.itemsize == ROW

# Numbers of columns, as names of annotations.
NUMBERS = {name: number for number, name in enumerate(columns(), 1)}
cdef int COMM = NUMBERS["comm"]
cdef int PID = NUMBERS["pid"]

include "write_bytes.pxi"
include "write_text.pxi"
include "write_packets.pxi"
include "write_perfetto.pxi"
include "write_slices.pxi"
