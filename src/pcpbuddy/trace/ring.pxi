# The ring buffers of several CPUs into rows in the order of their times; of equal times the lower CPU comes first. Each
# stream shows its next event, and a heap of the streams says whose turn it is. Sub-buffers are fed when a stream has
# none left, so memory grows with the CPUs and not with the trace.


@cython.final
cdef class RingParser:
    """
    Rows from sub-buffers.

    cpus: the CPU of each stream. geometry: (size of a sub-buffer, place and size of its count of bytes, place of its
    data). plans: {id of an event: (code, least size, [(what, source, size, signed, column place, width)])}.
    clock: (multiplier, shift, offset) that make nanoseconds of ticks, (1, 0, 0) where they are that.
    name_of(pid) -> bytes gives the name of a command. Damages are kept in ``damages``: (cpu, place, what).
    """

    cdef readonly Tally tally
    cdef readonly int64_t events         # all that were read, rows and others
    cdef readonly int64_t too_short      # events with less data than their format says
    cdef readonly int64_t damaged        # sub-buffers
    cdef readonly list damages
    cdef Stream *streams
    cdef int nr_streams
    cdef int *heap
    cdef int in_heap
    cdef list fed
    cdef Geometry geometry
    cdef int32_t *plan_of                # by id of the event, -1 for one that no column is for
    cdef int64_t *seen                   # by id of the event
    cdef Plan *plans
    cdef uint32_t mult, shift
    cdef int64_t offset
    cdef object name_of
    cdef int32_t[1024] pids
    cdef int32_t[1024] pid_places
    cdef int32_t[1024] pid_epochs

    def __cinit__(self, cpus, geometry, plans, clock, name_of):
        cdef int i
        self.tally, self.name_of, self.damages = Tally(), name_of, []
        size, count_at, count_size, data_at = geometry
        if not (64 <= size <= 1 << 24 and count_size in (4, 8) and 8 <= count_at <= 32 - count_size
                and count_at + count_size <= data_at <= 32):
            raise ValueError(geometry)
        self.geometry = Geometry(size, count_at, count_size, data_at)
        self.mult, self.shift, self.offset = clock
        self.nr_streams = len(cpus)
        self.fed = [None] * len(cpus)
        self.streams = <Stream *>calloc(len(cpus) + 1, sizeof(Stream))
        self.heap = <int *>calloc(len(cpus) + 1, sizeof(int))
        self.plan_of = <int32_t *>calloc(1 << 16, sizeof(int32_t))
        self.seen = <int64_t *>calloc(1 << 16, sizeof(int64_t))
        self.plans = <Plan *>calloc(len(plans) + 1, sizeof(Plan))
        if not (self.streams and self.heap and self.plan_of and self.seen and self.plans):
            raise MemoryError
        for i, cpu in enumerate(cpus):
            if not 0 <= cpu < MAX_CPUS:
                raise ValueError(cpu)
            self.streams[i].cpu, self.streams[i].waiting = cpu, True
        memset(self.plan_of, 0xff, sizeof(int32_t) << 16)
        for i, (number_of, plan) in enumerate(plans.items()):
            self.plan_of[<uint16_t>number_of] = i
            self._learn(&self.plans[i], plan)

    def __dealloc__(self):
        c_free(self.streams)
        c_free(self.heap)
        c_free(self.plan_of)
        c_free(self.seen)
        c_free(self.plans)

    cdef void _learn(self, Plan *plan, spec) except *:
        cdef int i
        code, least, copies = spec
        assert len(copies) <= 20
        plan.code, plan.least, plan.nr_copies = code, least, len(copies)
        for i, (what, source, size, signed_field, place, width) in enumerate(copies):
            assert 0 <= source and (what == TEXT or source + size <= least) and place + width <= ROW
            plan.copies[i] = Copy(what, source, size, signed_field, place, width)

    def unknown(self):
        """
        {id: events} of those that no column is for.
        """
        cdef int i
        return {i: self.seen[i] for i in range(1 << 16) if self.seen[i] and self.plan_of[i] < 0}

    def feed(self, int which, bytes data, int64_t place):
        """
        More sub-buffers of a stream, whole ones; ``place``: where they are in the file. b"": that was all.
        """
        cdef Stream *s = &self.streams[which]
        if not 0 <= which < self.nr_streams or not s.waiting:
            raise ValueError(which)
        self.fed[which] = data
        s.data, s.size, s.next_page = <const uint8_t *><const char *>data, len(data), 0
        s.place, s.at, s.stop = place, NULL, NULL
        s.waiting = False
        s.finished = s.size == 0
        if not s.finished:
            self._advance(which)
        if not s.finished and not s.waiting:
            self._push(which)

    def hungry(self):
        """
        The streams that wait to be fed; rows come only when none does.
        """
        cdef int i
        return [i for i in range(self.nr_streams) if self.streams[i].waiting]

    def ready(self):
        """
        Whether any stream has an event to show.
        """
        return self.in_heap > 0

    def fill(self, uint8_t[::1] out, Py_ssize_t at=0):
        """
        Events into ``out``, an array of EVENT records seen as bytes, from record ``at`` on.

        Returns (how many records are filled, the stream that must be fed now or -1 for none).
        """
        cdef Py_ssize_t room = out.shape[0] // ROW
        cdef uint8_t *rows
        cdef int which
        if not 0 <= at <= room or room == 0:
            raise ValueError(at)
        rows = &out[0]
        while at < room and self.in_heap:
            which = self.heap[0]
            at += self._emit(&self.streams[which], rows + at * ROW)
            self._advance(which)
            if self.streams[which].waiting:
                self._pop()
                return at, which
            self._sink(0)
        return at, -1

    cdef int _emit(self, Stream *s, uint8_t *row) except -1:
        """
        The next event of a stream as a row; 0 if it is shorter than its format says.
        """
        cdef Plan *plan = &self.plans[self.plan_of[s.event_id]]
        cdef Head *head = <Head *>row
        cdef Copy *copy
        cdef int i
        cdef int64_t value
        if s.event_size < <uint32_t>plan.least:
            self.too_short += 1
            self.tally.lose(s.cpu, 1, s.place + (s.event - s.data), s.event_ns)
            return 0
        memcpy(row, self.tally.blank, ROW)
        for i in range(plan.nr_copies):
            copy = &plan.copies[i]
            if copy.what == TEXT:
                self._text(s, copy.source, row + copy.place)
                continue
            value = integer(s.event + copy.source, copy.size, copy.signed_field)
            if copy.what == ORDER_IS_0:
                value = value == 0
            put(&self.tally.counts, row, copy.place, copy.width, value)
        head.ts_ns, head.cpu, head.event = s.event_ns, s.cpu, plan.code
        if head.pid != NONE32:
            head.comm = self._comm(head.pid)
        stamp(&self.tally.counts, head, s.place + (s.event - s.data))
        return 1

    cdef void _text(self, Stream *s, int source, uint8_t *into) except *:
        cdef bytes text = s.event[source:min(<int64_t>s.event_size, source + LONGEST_TEXT)]
        self.tally.counts.out_of_range += s.event_size > <uint32_t>(source + LONGEST_TEXT + 4)
        store4(into, <int32_t>len(self.tally.markers))
        self.tally.markers.append(text.partition(b"\0")[0].removesuffix(b"\n"))

    cdef int32_t _comm(self, int32_t pid) except? -1:
        cdef int at = pid & 1023
        if self.pid_epochs[at] != self.tally.epoch or self.pids[at] != pid:
            self.pids[at], self.pid_epochs[at] = pid, self.tally.epoch
            self.pid_places[at] = self.tally.comm(self.name_of(pid))
        return self.pid_places[at]

    cdef void _advance(self, int which) except *:
        """
        Go to the next event that makes a row; ``waiting`` when the sub-buffers that were fed have none left.
        """
        cdef Stream *s = &self.streams[which]
        cdef int found
        cdef int64_t ns
        while True:
            found = next_event(s) if s.at != NULL else 0
            if found == 1:
                self.events += 1
                s.event_id = load2(s.event)
                self.seen[s.event_id] += 1
                if self.plan_of[s.event_id] < 0:
                    continue
                ns = <int64_t>(scaled(s.ticks, self.mult, self.shift)) - self.offset
                s.event_ns = ns
                return
            if found < 0:
                self._damage(s, "an event reaches over the end of its sub-buffer")
            if s.next_page >= s.size:
                s.waiting = True
                return
            self._open(s)

    cdef void _open(self, Stream *s) except *:
        """
        Begin the next sub-buffer: its time, its length, and whether events were lost before it.
        """
        cdef const uint8_t *page = s.data + s.next_page
        cdef Py_ssize_t size = min(<Py_ssize_t>self.geometry.size, s.size - s.next_page)
        cdef int64_t place = s.place + s.next_page
        cdef uint64_t count
        cdef Py_ssize_t used
        cdef int64_t missed = -1
        s.at = s.stop = page
        s.next_page += size
        if size < self.geometry.data_at:
            self._damage(s, "a sub-buffer is cut off")
            return
        count = load8(page + self.geometry.count_at) if self.geometry.count_size == 8 else (
            load4(page + self.geometry.count_at))
        used = count & COUNT_MASK
        s.ticks = load8(page)
        s.at = page + self.geometry.data_at
        if used > size - self.geometry.data_at or s.ticks >> 63:
            s.at = s.stop = page
            self._damage(s, "a sub-buffer is cut off, or says that it holds more than it can")
            return
        s.stop = s.at + used
        if count & MISSED:
            if count & MISSED_STORED and size - self.geometry.data_at - used >= self.geometry.count_size:
                missed = integer(s.stop, self.geometry.count_size, True)
                missed = missed if 0 <= missed < 1 << 48 else -1
            self.tally.lose(s.cpu, missed, place, <int64_t>(scaled(s.ticks, self.mult, self.shift)) - self.offset)

    cdef void _damage(self, Stream *s, str what) except *:
        cdef int64_t place = s.place + (s.at - s.data)
        self.damaged += 1
        if len(self.damages) < MOST_PLACES:
            self.damages.append((s.cpu, place, what))
        self.tally.lose(s.cpu, -1, place)
        s.at = s.stop = NULL

    # The heap of streams that have an event to show.

    cdef inline bint _before(self, int one, int other) noexcept:
        cdef Stream *a = &self.streams[one]
        cdef Stream *b = &self.streams[other]
        if a.event_ns != b.event_ns:
            return a.event_ns < b.event_ns
        return a.cpu < b.cpu or (a.cpu == b.cpu and one < other)

    cdef void _sink(self, int at) noexcept:
        cdef int which = self.heap[at]
        cdef int child = 2 * at + 1
        while child < self.in_heap:
            if child + 1 < self.in_heap and self._before(self.heap[child + 1], self.heap[child]):
                child += 1
            if self._before(which, self.heap[child]):
                break
            self.heap[at] = self.heap[child]
            at, child = child, 2 * child + 1
        self.heap[at] = which

    cdef void _pop(self) noexcept:
        self.in_heap -= 1
        if self.in_heap:
            self.heap[0] = self.heap[self.in_heap]
            self._sink(0)

    cdef void _push(self, int which) noexcept:
        cdef int at = self.in_heap
        cdef int parent
        self.in_heap += 1
        while at:
            parent = (at - 1) // 2
            if not self._before(which, self.heap[parent]):
                break
            self.heap[at] = self.heap[parent]
            at = parent
        self.heap[at] = which
