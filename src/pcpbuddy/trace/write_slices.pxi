# Slices that were measured as intervals, and counters that were measured as columns: what a run in virtual time has.

cdef enum:
    MOST_DEEP = 256            # slices within each other, on one track
    MOST_LANES = 8             # tracks of one CPU, where slices do not lie within each other


cdef inline bint fits(int64_t *ends, int *depth, int64_t begin, int64_t end) noexcept nogil:
    """
    Whether an interval lies within the innermost that is open at its beginning; those that are over are not open.
    """
    while depth[0] and ends[depth[0] - 1] <= begin:
        depth[0] -= 1
    return depth[0] < MOST_DEEP and (depth[0] == 0 or end <= ends[depth[0] - 1])


def lanes(const int64_t[::1] begin, const int64_t[::1] end, const int64_t[::1] cpu, uint8_t[::1] lane):
    """
    The lane of each interval, so that on one lane of a CPU those that overlap lie within each other.

    Intervals are sorted by CPU, by beginning, and the longer one first. The last lane takes what fits nowhere, cut
    short; returns how many those are.
    """
    cdef int64_t[8][256] ends
    cdef int[8] depths
    cdef Py_ssize_t k
    cdef int which
    cdef int64_t misfits = 0
    for k in range(begin.shape[0]):
        if k == 0 or cpu[k] != cpu[k - 1]:
            memset(depths, 0, sizeof(depths))
        which = 0
        while which < MOST_LANES and not fits(ends[which], &depths[which], begin[k], end[k]):
            which += 1
        if which == MOST_LANES:
            misfits += 1
            lane[k] = 255
            continue
        ends[which][depths[which]] = end[k]
        depths[which] += 1
        lane[k] = which
    return misfits


def edges(const int64_t[::1] begin, const int64_t[::1] end, const int64_t[::1] track, int64_t[::1] out):
    """
    Beginnings and ends in the order of time of each track: 2 * interval, and 1 more for its end.

    Intervals are sorted by track, by beginning, and the longer one first, and lie within each other.
    """
    cdef int64_t[256] stack
    cdef int depth = 0
    cdef Py_ssize_t k
    cdef Py_ssize_t n = 0
    for k in range(begin.shape[0]):
        while depth and (track[k] != track[k - 1] or end[stack[depth - 1]] <= begin[k]):
            depth -= 1
            out[n] = 2 * stack[depth] + 1
            n += 1
        out[n] = 2 * k
        n += 1
        stack[depth] = k
        depth += 1
    while depth:
        depth -= 1
        out[n] = 2 * stack[depth] + 1
        n += 1


cdef inline uint8_t *flow(uint8_t *q, uint8_t tag, uint8_t more, int64_t number) noexcept nogil:
    q[0], q[1] = tag, more
    memcpy(q + 2, &number, 8)
    return q + 10


def slice_packets(
    const int64_t[::1] edges, const int64_t[::1] ts_ns, const int64_t[::1] track, const int64_t[::1] name,
    const int64_t[::1] category, const int64_t[::1] note, list notes, const int64_t[::1] to, const int64_t[::1] by,
):
    """
    Packets of beginnings and ends, as ``edges`` gives them, at ts_ns, one of each edge.

    The rest is one of each interval: track, name, category; note, a place in notes, which are annotations; to and by,
    numbers of the arrows that leave it and come to it, 0 for none.
    """
    cdef Out out
    cdef Py_ssize_t k
    cdef int64_t i
    cdef bytes told
    cdef uint8_t *q
    memset(&out, 0, sizeof(Out))
    cdef Out rest
    memset(&rest, 0, sizeof(Out))
    try:
        for k in range(edges.shape[0]):
            i = edges[k] >> 1
            rest.n = 0
            if edges[k] & 1 == 0:
                told = notes[note[i]]
                need(&rest, len(told) + 32)
                q = copied(rest.p, <const uint8_t *>PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told))
                if to[i]:
                    q = flow(q, 0xf9, 0x02, to[i])     # TrackEvent.flow_ids
                if by[i]:
                    q = flow(q, 0x81, 0x03, by[i])     # .terminating_flow_ids
                rest.n = q - rest.p
            need(&out, PACKET_ROOM + rest.n)
            q = out.p + out.n
            if edges[k] & 1:
                q = event_packet(q, ts_ns[k], SLICE_END, track[i], 0, 0, rest.p, 0)
            else:
                q = event_packet(q, ts_ns[k], SLICE_BEGIN, track[i], name[i], category[i], rest.p, rest.n)
            out.n = q - out.p
        return taken(&out)
    finally:
        c_free(out.p)
        c_free(rest.p)


def counter_packets(const int64_t[::1] ts_ns, const int64_t[::1] values, int64_t track):
    """
    Packets of a counter; a value that is the same as the one before it is left out, but for the last.
    """
    cdef Out out
    cdef Py_ssize_t k
    cdef Py_ssize_t n = ts_ns.shape[0]
    memset(&out, 0, sizeof(Out))
    try:
        for k in range(n):
            if 0 < k < n - 1 and values[k] == values[k - 1]:
                continue
            need(&out, PACKET_ROOM)
            out.n = counter_packet(out.p + out.n, ts_ns[k], track, values[k]) - out.p
        return taken(&out)
    finally:
        c_free(out.p)
