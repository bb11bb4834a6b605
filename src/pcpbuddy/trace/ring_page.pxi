# One CPU's ring buffer as it was copied out of the kernel: sub-buffers of one size, each with the time of its first
# event, the number of bytes in use, and events behind one another.
#
# An event begins with 32 bits: 5 of kind or length, 27 of time since the event before it. Kinds 1 to 28: so many words
# of data; 0: the next word says how many bytes; 29: padding, 30: more bits of time, 31: a whole time stamp.

cdef enum:
    PADDING = 29
    TIME_EXTEND = 30
    TIME_STAMP = 31
    MISSED = 1 << 31           # in the count of bytes: events were lost before this sub-buffer,
    MISSED_STORED = 1 << 30    # and how many stands behind its last event
    COUNT_MASK = (1 << 27) - 1
    STAMP_BITS = 59            # of a whole time stamp; the others are those of the sub-buffer's time

    FIELD = 0                  # what a step of a plan does: a field into a column,
    ORDER_IS_0 = 1             # whether that field is 0: percpu_refill, where the kernel prints it and keeps it not
    TEXT = 2                   # text up to the end of the event

cdef struct Copy:
    int what
    int source                 # byte of the event's data
    int size                   # 1, 2, 4, 8
    bint signed_field
    int place
    int width

cdef struct Plan:
    int16_t code
    int least                  # bytes that an event of this kind has at least
    int nr_copies
    Copy[20] copies

cdef struct Geometry:          # of sub-buffers, from the trace's header_page
    int size
    int count_at
    int count_size
    int data_at

cdef struct Stream:            # one CPU of one buffer
    int16_t cpu
    bint finished
    bint waiting               # for more sub-buffers
    const uint8_t *data        # sub-buffers that were fed
    Py_ssize_t size
    Py_ssize_t next_page
    int64_t place              # where data begins in the file
    const uint8_t *at          # in the sub-buffer that is being read
    const uint8_t *stop
    uint64_t ticks             # time of the event before at
    const uint8_t *event       # the data of the event that comes next
    uint32_t event_size
    uint16_t event_id
    int64_t event_ns


cdef inline int64_t integer(const uint8_t *p, int size, bint signed_field) noexcept nogil:
    if size == 8:
        return <int64_t>load8(p)
    if size == 4:
        return <int32_t>load4(p) if signed_field else <int64_t>load4(p)
    if size == 2:
        return <short>load2(p) if signed_field else <int64_t>load2(p)
    return <signed char>p[0] if signed_field else <int64_t>p[0]


cdef inline uint64_t whole_stamp(uint64_t stamp, uint64_t before) noexcept nogil:
    """
    A whole time stamp with the high bits of the time before it, which it may have just passed.
    """
    cdef uint64_t high = before >> STAMP_BITS << STAMP_BITS
    stamp |= high
    return stamp + (<uint64_t>1 << STAMP_BITS) if stamp < before and high else stamp


cdef inline int next_event(Stream *s) noexcept nogil:
    """
    Go to the next event with data in this sub-buffer. 1: there is one, 0: there is none, -1: it is damaged.
    """
    cdef uint32_t head, kind, delta, size
    while s.stop - s.at >= 4:
        head = load4(s.at)
        kind, delta = head & 31, head >> 5
        if kind == PADDING and delta == 0:
            return 0
        if kind and kind < PADDING:
            size = 4 * kind
            s.event = s.at + 4
        else:
            if s.stop - s.at < 8:
                return -1
            size = load4(s.at + 4)
            s.event = s.at + 8
        if kind == TIME_EXTEND:
            s.ticks += (<uint64_t>size << 27) + delta
            s.at += 8
            continue
        if kind == TIME_STAMP:
            s.ticks = whole_stamp((<uint64_t>size << 27) + delta, s.ticks)
            s.at += 8
            continue
        if size < 4 or size > <size_t>(s.stop - s.at) - 4:
            return -1
        s.ticks += delta
        s.at += 4 + size
        if kind == PADDING:
            continue
        s.event_size = <uint32_t>(s.at - s.event)
        if s.event_size < 2:
            return -1
        return 1
    return 0 if s.at == s.stop else -1
