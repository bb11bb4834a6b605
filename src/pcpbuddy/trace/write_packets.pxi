# Packets of Perfetto (docs/reference/traces.md): a track event is type, track, name and annotations, in a packet with
# its time. Numbers of fields are those of perfetto_trace.proto.

cdef enum:
    SLICE_BEGIN = 1
    SLICE_END = 2
    INSTANT = 3
    COUNTER = 4

    TAG_PACKET = 0x0a          # Trace.packet
    TAG_TIMESTAMP = 0x40       # TracePacket.timestamp
    TAG_TRACK_EVENT = 0x5a     # .track_event
    TAG_CATEGORY = 0x18        # TrackEvent.category_iids
    TAG_ANNOTATION = 0x22      # .debug_annotations
    TAG_TYPE = 0x48            # .type
    TAG_NAME = 0x50            # .name_iid
    TAG_TRACK = 0x58           # .track_uuid
    TAG_ANNOTATION_NAME = 0x08  # DebugAnnotation.name_iid
    TAG_INT = 0x20             # .int_value
    TAG_STRING = 0x32          # .string_value
    TAG_POINTER = 0x38         # .pointer_value
    PACKET_ROOM = 128          # bytes of a packet without annotations and texts


cdef inline uint8_t *varint(uint8_t *q, uint64_t value) noexcept nogil:
    while value >= 0x80:
        q[0] = <uint8_t>(value | 0x80)
        q += 1
        value >>= 7
    q[0] = <uint8_t>value
    return q + 1


cdef inline int varint_size(uint64_t value) noexcept nogil:
    cdef int size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t *tagged(uint8_t *q, uint8_t tag, uint64_t value) noexcept nogil:
    q[0] = tag
    return varint(q + 1, value)


cdef inline uint8_t *noted(uint8_t *q, int name, uint8_t tag, uint64_t value) noexcept nogil:
    """
    An annotation that is a number; its name's number is below 128.
    """
    q[0], q[1], q[2], q[3], q[4] = TAG_ANNOTATION, <uint8_t>(3 + varint_size(value)), TAG_ANNOTATION_NAME, name, tag
    return varint(q + 5, value)


cdef inline uint8_t *noted_text(uint8_t *q, int name, const uint8_t *text, Py_ssize_t length) noexcept nogil:
    """
    An annotation that is a text.
    """
    q[0] = TAG_ANNOTATION
    q = varint(q + 1, 3 + varint_size(length) + length)
    q[0], q[1], q[2] = TAG_ANNOTATION_NAME, name, TAG_STRING
    return copied(varint(q + 3, length), text, length)


cdef inline uint8_t *event_packet(
    uint8_t *q, int64_t ts_ns, int kind, uint64_t track, int name, int category, const uint8_t *rest, Py_ssize_t length
) noexcept nogil:
    """
    A packet with a track event. name, category: interned numbers, 0 for none. rest: its annotations, flows or value.
    """
    cdef uint8_t[64] front
    cdef uint8_t *end = tagged(tagged(front, TAG_TYPE, kind), TAG_TRACK, track)
    cdef Py_ssize_t size
    if name:
        end = tagged(end, TAG_NAME, name)
    if category:
        end = tagged(end, TAG_CATEGORY, category)
    size = end - front + length
    q[0] = TAG_PACKET
    q = varint(q + 1, 6 + varint_size(ts_ns) + varint_size(size) + size)
    q = tagged(q, TAG_TIMESTAMP, ts_ns)
    q[0], q[1], q[2], q[3] = 0x50, 1, 0x68, 2  # .trusted_packet_sequence_id 1, .sequence_flags: needs what is interned
    q[4] = TAG_TRACK_EVENT
    q = varint(q + 5, size)
    return copied(copied(q, front, end - front), rest, length)


cdef inline uint8_t *counter_packet(uint8_t *q, int64_t ts_ns, uint64_t track, int64_t value) noexcept nogil:
    cdef uint8_t[16] rest
    cdef uint8_t *end
    rest[0], rest[1] = 0xf0, 0x01          # TrackEvent.counter_value
    end = varint(rest + 2, <uint64_t>value)
    return event_packet(q, ts_ns, COUNTER, track, 0, 0, rest, end - rest)
