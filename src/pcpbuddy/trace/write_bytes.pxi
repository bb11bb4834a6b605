# Bytes that grow, numbers in them, and what both writers of rows know: shapes of events, names of flags.

cdef inline int need(Out *out, Py_ssize_t count) except -1:
    """
    Room for so many bytes more.
    """
    cdef uint8_t *grown
    cdef Py_ssize_t room = out.room
    if out.n + count <= room:
        return 0
    while room < out.n + count:
        room = max(2 * room, <Py_ssize_t>65536)
    grown = <uint8_t *>realloc(out.p, room)
    if grown == NULL:
        raise MemoryError
    out.p, out.room = grown, room
    return 0


cdef inline bytes taken(Out *out):
    """
    What was written, which is then out of it.
    """
    cdef bytes data = out.p[:out.n] if out.n else b""
    out.n = 0
    return data


cdef inline uint8_t *copied(uint8_t *q, const uint8_t *p, Py_ssize_t length) noexcept nogil:
    memcpy(q, p, length)
    return q + length


cdef inline uint8_t *decimal(uint8_t *q, int64_t value, int width=0, uint8_t fill=c'0') noexcept nogil:
    """
    A number, filled up to the left where it has fewer digits than width.
    """
    cdef uint8_t[24] digits
    cdef int n = 0
    cdef uint64_t left = <uint64_t>value
    if value < 0:
        q[0] = c'-'
        q += 1
        left = 0 - left
    while left or n == 0:
        digits[n] = c'0' + <uint8_t>(left % 10)
        left //= 10
        n += 1
    while width > n:
        q[0] = fill
        q += 1
        width -= 1
    while n:
        n -= 1
        q[0] = digits[n]
        q += 1
    return q


cdef inline uint8_t *hexadecimal(uint8_t *q, uint64_t value, int width=0) noexcept nogil:
    cdef int digits = 1
    while digits < 16 and value >> (4 * digits):
        digits += 1
    digits = max(digits, width)
    while digits:
        digits -= 1
        q[0] = <uint8_t>(b"0123456789abcdef"[(value >> (4 * digits)) & 15])
        q += 1
    return q


cdef inline int64_t field(const uint8_t *row, Piece *piece) noexcept nogil:
    """
    The number in a row's column; NONE64 for null.
    """
    cdef int64_t wide
    cdef int32_t middle
    cdef int16_t narrow
    if piece.width == 8:
        memcpy(&wide, row + piece.place, 8)
        return wide
    if piece.width == 4:
        memcpy(&middle, row + piece.place, 4)
        return NONE64 if middle == NONE32 else middle
    memcpy(&narrow, row + piece.place, 2)
    return NONE64 if narrow == NONE16 else narrow


cdef Piece column(str name):
    """
    Where a column is.
    """
    cdef Piece piece
    memset(&piece, 0, sizeof(Piece))
    piece.place, piece.width = place(name)
    piece.number = NUMBERS[name]
    return piece


@cython.final
cdef class Shapes:
    """
    How each event is written, and the names of flags that were looked up before.

    shapes: {code: (name, category, marker, page, tail, [(before, place, width, kind, after, number)])}. words(kind,
    number) -> bytes names flags.
    """

    cdef Shape *shapes
    cdef object words
    cdef list kept
    cdef int64_t[512] values
    cdef int[512] kinds

    def __cinit__(self, shapes, words):
        cdef Shape *shape
        cdef Piece *piece
        self.words, self.kept = words, [None] * CACHED
        self.shapes = <Shape *>calloc(MOST_EVENTS, sizeof(Shape))
        if self.shapes == NULL:
            raise MemoryError
        for code, (name, category, marker, page, tail, pieces) in shapes.items():
            assert 0 <= code < MOST_EVENTS and len(name) <= 64 and len(tail) <= 16 and len(pieces) <= MOST_PIECES
            shape = &self.shapes[code]
            shape.there, shape.category, shape.marker, shape.page = True, category, marker, page
            shape.length, shape.tail_length = len(name), len(tail)
            memcpy(shape.name, <const char *>name, len(name))
            memcpy(shape.tail, <const char *>tail, len(tail))
            for before, place, width, kind, after, number in pieces:
                assert len(before) <= 40
                piece = &shape.pieces[shape.nr_pieces]
                shape.nr_pieces += 1
                memcpy(piece.before, <const char *>before, len(before))
                piece.length, piece.place, piece.width = len(before), place, width
                piece.kind, piece.after, piece.number = kind, after, number

    def __dealloc__(self):
        c_free(self.shapes)

    cdef inline Shape *of(self, int16_t code) noexcept:
        """
        That of an event; NULL for what is none.
        """
        if not 0 <= code < MOST_EVENTS or not self.shapes[code].there:
            return NULL
        return &self.shapes[code]

    cdef bytes named(self, int kind, int64_t value):
        """
        Names of flags, or of a migratetype.
        """
        cdef int at = <int>((<uint64_t>value * 0x9e3779b97f4a7c15ull ^ <uint64_t>kind << 60) >> 55)
        if self.kept[at] is None or self.values[at] != value or self.kinds[at] != kind:
            self.kept[at] = (<bytes>self.words(kind, value))[:LONGEST_FLAGS]
            self.values[at], self.kinds[at] = value, kind
        return <bytes>self.kept[at]
