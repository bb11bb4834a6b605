# Rows as lines of the text of tracefs.

cdef uint8_t[3][256] FLAG_LETTERS

cdef void _letter_table():
    """
    The letters of the three columns, by flags, as the kernel's print_lat_fmt chooses them.
    """
    for bits in range(256):
        FLAG_LETTERS[0][bits] = ord(".dbD"[(bits & 1) + (bits >> 7) * 2])
        FLAG_LETTERS[1][bits] = ord(
            {0x26: "B", 0x24: "N", 0x22: "L", 0x06: "b", 0x04: "n", 0x20: "p", 0x02: "l"}.get(bits & 0x26, ".")
        )
        FLAG_LETTERS[2][bits] = ord(
            "Z" if bits & 0x48 == 0x48 else "z" if bits & 0x40 else "H" if bits & 0x18 == 0x18
            else "h" if bits & 0x08 else "s" if bits & 0x10 else "."
        )


_letter_table()


cdef inline uint8_t *depth(uint8_t *q, int count) noexcept nogil:
    q[0] = b"0123456789abcdef"[count & 15] if count & 15 else c'.'
    return q + 1


cdef inline uint8_t *flag_letters(uint8_t *q, Head *row) noexcept nogil:
    """
    "d.h2. ", and nothing where the row does not know.
    """
    cdef int count = row.preempt_count
    if row.irq_flags == NONE16:
        return q
    q[0] = FLAG_LETTERS[0][row.irq_flags & 0xff]
    q[1] = FLAG_LETTERS[1][row.irq_flags & 0xff]
    q[2] = FLAG_LETTERS[2][row.irq_flags & 0xff]
    q = depth(q + 3, 0 if count == NONE16 else count)
    q = depth(q, 0 if count == NONE16 else count >> 4)
    q[0] = c' '
    return q + 1


cdef inline uint8_t *seconds(uint8_t *q, int64_t ts_ns, bint fine) noexcept nogil:
    """
    SECONDS.FRACTION: microseconds, and nanoseconds where a microsecond does not say it.
    """
    q = decimal(q, ts_ns // 1000000000, 5, c' ')
    q[0] = c'.'
    if fine or ts_ns % 1000:
        return decimal(q + 1, ts_ns % 1000000000, 9)
    return decimal(q + 1, ts_ns % 1000000000 // 1000, 6)


@cython.final
cdef class TextRows:
    """
    Lines of tracefs. fine: all times to the nanosecond; else those that need it.

    nr_rows: lines with an event; nr_lost: lines that say events are missing; left_out: rows without a time, a CPU or a
    known event, which no line can show.
    """

    cdef readonly int64_t nr_rows, nr_lost, left_out
    cdef Shapes shapes
    cdef bint fine
    cdef Out out
    cdef int64_t *next_seq      # of each CPU

    def __cinit__(self, Shapes shapes, bint fine):
        self.shapes, self.fine = shapes, fine
        self.next_seq = <int64_t *>calloc(MAX_CPUS, sizeof(int64_t))
        if self.next_seq == NULL:
            raise MemoryError

    def __dealloc__(self):
        c_free(self.next_seq)
        c_free(self.out.p)

    def rows(self, const uint8_t[::1] rows, list comms, list markers):
        """
        The lines of a batch. comms, markers: its tables as bytes without a control character.
        """
        cdef Py_ssize_t k
        if not rows.shape[0]:
            return b""
        for k in range(rows.shape[0] // ROW):
            self._row(&rows[k * ROW], comms, markers)
        return taken(&self.out)

    cdef int _row(self, const uint8_t *row, list comms, list markers) except -1:
        cdef Head *head = <Head *>row
        cdef Shape *shape = self.shapes.of(head.event)
        cdef uint8_t *q
        cdef bytes comm = b"<...>"
        if shape == NULL or head.ts_ns < 0 or not 0 <= head.cpu < MAX_CPUS:
            self.left_out += 1
            return 0
        if head.comm >= 0:
            comm = comms[head.comm]
        need(&self.out, ROW_ROOM + len(comm))
        self._loss(head)
        q = self.out.p + self.out.n
        q = self._front(q, head, comm)
        q = copied(q, shape.name, shape.length)
        q[0], q[1] = c':', c' '
        self.out.n = q + 2 - self.out.p
        if shape.marker:
            self._marker(head, markers)
        else:
            self._fields(shape, row)
        self.out.p[self.out.n] = c'\n'
        self.out.n += 1
        self.nr_rows += 1
        return 0

    cdef int _loss(self, Head *head) except -1:
        """
        A line for events that the numbers of the CPU's rows skip. One may stand for any number, as does the
        kernel's line without a number.
        """
        cdef int64_t missing = head.cpu_seq - self.next_seq[head.cpu]
        cdef uint8_t *q = self.out.p + self.out.n
        if head.cpu_seq == NONE64:
            self.next_seq[head.cpu] += 1
            return 0
        self.next_seq[head.cpu] = max(self.next_seq[head.cpu], head.cpu_seq) + (missing >= 0)
        if missing > 0:
            self.nr_lost += 1
            q = decimal(copied(q, b"CPU:", 4), head.cpu)
            q = copied(q, b" [LOST ", 7)
            if missing > 1:
                q = copied(decimal(q, missing), b" ", 1)
            q = copied(q, b"EVENTS]\n", 8)
            self.out.n = q - self.out.p
        return 0

    cdef uint8_t *_front(self, uint8_t *q, Head *head, bytes comm) noexcept:
        cdef Py_ssize_t length = PyBytes_GET_SIZE(comm)
        cdef uint8_t *column
        cdef Py_ssize_t k
        for k in range(16 - length):
            q[0] = c' '
            q += 1
        q = copied(q, <const uint8_t *>PyBytes_AS_STRING(comm), length)
        q[0] = c'-'
        column = q + 8
        q = decimal(q + 1, max(head.pid, 0))
        while q < column:
            q[0] = c' '
            q += 1
        q[0], q[1] = c' ', c'['
        q = decimal(q + 2, head.cpu, 3)
        q[0], q[1] = c']', c' '
        q = seconds(flag_letters(q + 2, head), head.ts_ns, self.fine)
        q[0], q[1] = c':', c' '
        return q + 2

    cdef int _marker(self, Head *head, list markers) except -1:
        cdef bytes text
        if head.marker >= 0:
            text = markers[head.marker]
            need(&self.out, len(text) + 16)
            copied(self.out.p + self.out.n, <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
            self.out.n += PyBytes_GET_SIZE(text)
        return 0

    cdef int _fields(self, Shape *shape, const uint8_t *row) except -1:
        """
        The fields that are not null, each as the kernel prints it; and the page, of which a row keeps only the number.
        """
        cdef uint8_t *start = self.out.p + self.out.n
        cdef uint8_t *q = start
        cdef int64_t pfn = (<Head *>row).pfn
        cdef int64_t value
        cdef Piece *piece
        cdef bytes names
        cdef int k
        if pfn == -1:
            q = copied(q, b" page=0000000000000000", 22)
        elif shape.page and pfn != NONE64:
            q = hexadecimal(copied(q, b" page=", 6), 0xffffea0000000000ull + (<uint64_t>pfn << 6), 16)
        for k in range(shape.nr_pieces):
            piece = &shape.pieces[k]
            value = field(row, piece)
            if value == NONE64:
                continue
            q = copied(q, piece.before, piece.length)
            if piece.kind == PFN:
                q = hexadecimal(copied(q, b"0x", 2), 0 if value == -1 else <uint64_t>value)
            elif piece.kind == ADDRESS:
                q = hexadecimal(q, <uint64_t>value, 16)
            elif piece.kind == GFP or piece.kind == LOCK:
                names = self.shapes.named(piece.kind, value)
                q = copied(q, <const uint8_t *>PyBytes_AS_STRING(names), PyBytes_GET_SIZE(names))
            else:
                q = decimal(q, value)
            if piece.after:
                q[0] = piece.after
                q += 1
        q = copied(q, shape.tail, shape.tail_length)
        if q > start:                      # the first blank is that behind the colon
            memmove(start, start + 1, q - start - 1)
            q -= 1
        self.out.n = q - self.out.p
        return 0
