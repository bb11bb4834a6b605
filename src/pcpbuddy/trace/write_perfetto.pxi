# Rows of a trace as packets of Perfetto: instants on the track of their CPU, waits for locks as slices, counters.

cdef enum:
    FAR_APART_NS = 100000      # of two values of one counter; what is nearer is the last of them
    NR_SUMS = 5                # counters that add up over all rows, in perfetto.py's order
    S_PAGES = 0                # allocated less freed
    S_REFILL = 1
    S_DRAIN = 2
    S_FALLBACKS = 3
    S_CMA = 4
    MOST_ZONES = 4             # whose PCPs have counters
    FIRST_WAIT = 256           # the number of the first name of a wait
    MOST_LOCK_FLAGS = 64

    SPIN = 1                   # LCB_F_*
    MUTEX = 32

cdef struct Counter:
    bint described
    bint held                  # a value that is not written yet
    int64_t value
    int64_t at_ns              # its time
    int64_t written_ns         # that of the last one that is


@cython.final
cdef class PerfettoRows:
    """
    Packets of rows.

    codes: numbers of events by name. describe(what, number, name) -> (track, bytes) makes the packet that must stand
    before a track's first event. left_out: rows without a time, a CPU or a known event. waits: slices begun; cut_off:
    of those, how many no row ended; ends: ends of waits that no row began, which are instants.
    """

    cdef readonly int64_t nr_rows, left_out, waits, cut_off, ends
    cdef Shapes shapes
    cdef object describe
    cdef Out out, notes
    cdef int64_t last_ns
    cdef int64_t *next_seq             # of each CPU
    cdef int64_t *slice_ns             # of each CPU: when its last slice began or ended
    cdef uint64_t *tracks              # of each CPU, 0: not described yet
    cdef Counter[5] sums
    cdef uint64_t[5] sum_tracks
    cdef Counter *pcps                 # [zone][CPU]
    cdef uint64_t *pcp_tracks
    cdef dict stacks                   # CPU -> addresses of the locks that it spins for, the last one last
    cdef dict tasks                    # pid -> (address that it waits for, track, when)
    cdef dict task_tracks
    cdef Piece order, refill, nr, count, zone, pcp_cpu, address, flags, ret
    cdef int16_t alloc_code, free_code, locked_code, drain_code, fallback_code, cma_code, cma_finish_code
    cdef int16_t cma_free_code, begin_code, end_code

    def __cinit__(self, Shapes shapes, dict codes, describe):
        self.shapes, self.describe = shapes, describe
        self.stacks, self.tasks, self.task_tracks = {}, {}, {}
        self.next_seq = <int64_t *>calloc(MAX_CPUS, sizeof(int64_t))
        self.slice_ns = <int64_t *>calloc(MAX_CPUS, sizeof(int64_t))
        self.tracks = <uint64_t *>calloc(MAX_CPUS, sizeof(uint64_t))
        self.pcps = <Counter *>calloc(MOST_ZONES * MAX_CPUS, sizeof(Counter))
        self.pcp_tracks = <uint64_t *>calloc(MOST_ZONES * MAX_CPUS, sizeof(uint64_t))
        if not (self.next_seq and self.slice_ns and self.tracks and self.pcps and self.pcp_tracks):
            raise MemoryError
        self.order, self.refill, self.nr = column("order"), column("percpu_refill"), column("nr")
        self.count, self.zone, self.pcp_cpu = column("count"), column("zone"), column("pcp_cpu")
        self.address, self.flags, self.ret = column("lock_addr"), column("lock_flags"), column("ret")
        self.alloc_code, self.free_code = codes["mm_page_alloc"], codes["mm_page_free"]
        self.locked_code, self.drain_code = codes["mm_page_alloc_zone_locked"], codes["mm_page_pcpu_drain"]
        self.fallback_code, self.cma_code = codes["mm_page_alloc_extfrag"], codes["cma_alloc"]
        self.cma_finish_code, self.cma_free_code = codes["cma_alloc_finish"], codes["cma_release"]
        self.begin_code, self.end_code = codes["contention_begin"], codes["contention_end"]

    def __dealloc__(self):
        c_free(self.out.p)
        c_free(self.notes.p)
        c_free(self.next_seq)
        c_free(self.slice_ns)
        c_free(self.tracks)
        c_free(self.pcps)
        c_free(self.pcp_tracks)

    def rows(self, const uint8_t[::1] rows, list comms, list markers):
        """
        The packets of a batch. comms, markers: its tables as UTF-8.
        """
        cdef Py_ssize_t k
        for k in range(rows.shape[0] // ROW):
            self._row(&rows[k * ROW], comms, markers)
        return taken(&self.out)

    def finish(self):
        """
        The ends of what is still open, and the last value of each counter.
        """
        cdef int k
        for cpu in self.stacks:
            self._cut(cpu, self.last_ns)
        for pid in list(self.tasks):
            self._end_of_task(pid, self.last_ns, NONE64)
            self.cut_off += 1
        for k in range(NR_SUMS):
            self._flush(&self.sums[k], self.sum_tracks[k])
        for k in range(MOST_ZONES * MAX_CPUS):
            self._flush(&self.pcps[k], self.pcp_tracks[k])
        return taken(&self.out)

    cdef int _row(self, const uint8_t *row, list comms, list markers) except -1:
        cdef Head *head = <Head *>row
        cdef Shape *shape = self.shapes.of(head.event)
        cdef bytes comm = b"<...>"
        if shape == NULL or head.ts_ns < 0 or not 0 <= head.cpu < MAX_CPUS:
            self.left_out += 1
            return 0
        if head.comm >= 0:
            comm = comms[head.comm]
        if not self.tracks[head.cpu]:
            self.tracks[head.cpu] = self._described(0, head.cpu, b"")
        self._number(head)
        self.last_ns = max(self.last_ns, head.ts_ns)
        need(&self.notes, ROW_ROOM + len(comm))
        self.notes.n = 0
        self.nr_rows += 1
        if head.event == self.begin_code:
            return self._begin(row, comm)
        if head.event == self.end_code:
            return self._end(row, shape, comm)
        self._note_fields(shape, row, comm)
        self._instant(shape, head, markers)
        return self._count(row, head)

    cdef int _number(self, Head *head) except -1:
        """
        Hold the number of the row against that of the CPU's row before it: where some are missing, so may be the ends
        of waits.
        """
        if head.cpu_seq != NONE64:
            if head.cpu_seq > self.next_seq[head.cpu] and self.stacks.get(head.cpu):
                self._cut(head.cpu, head.ts_ns)
            self.next_seq[head.cpu] = head.cpu_seq + 1
        return 0

    cdef uint64_t _described(self, int what, int64_t number, bytes name) except 0:
        """
        A track's number; the packet that describes it is written.
        """
        track, packet = self.describe(what, number, name)
        need(&self.out, len(packet))
        copied(self.out.p + self.out.n, <const uint8_t *>PyBytes_AS_STRING(packet), len(packet))
        self.out.n += len(packet)
        return track

    cdef int _put(self, int64_t ts_ns, int kind, uint64_t track, int name, int category) except -1:
        """
        An event with the notes that were made.
        """
        need(&self.out, PACKET_ROOM + self.notes.n)
        self.out.n = event_packet(
            self.out.p + self.out.n, ts_ns, kind, track, name, category, self.notes.p, self.notes.n
        ) - self.out.p
        return 0

    cdef int _instant(self, Shape *shape, Head *head, list markers) except -1:
        cdef bytes text
        cdef uint8_t *q
        if shape.marker and head.marker >= 0:
            text = markers[head.marker]
            need(&self.notes, len(text) + 16)
            q = self.notes.p + self.notes.n
            q[0], q[1] = 0xba, 0x01        # TrackEvent.name
            q = varint(q + 2, PyBytes_GET_SIZE(text))
            q = copied(q, <const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
            self.notes.n = q - self.notes.p
            return self._put(head.ts_ns, INSTANT, self.tracks[head.cpu], 0, shape.category)
        return self._put(head.ts_ns, INSTANT, self.tracks[head.cpu], head.event + 1, shape.category)

    cdef int _note_task(self, Head *head, bytes comm) except -1:
        cdef uint8_t *q = self.notes.p
        if head.comm >= 0:
            q = noted_text(q, COMM, <const uint8_t *>PyBytes_AS_STRING(comm), PyBytes_GET_SIZE(comm))
        if head.pid != NONE32:
            q = noted(q, PID, TAG_INT, head.pid)
        self.notes.n = q - self.notes.p
        return 0

    cdef int _note_fields(self, Shape *shape, const uint8_t *row, bytes comm) except -1:
        cdef Piece *piece
        cdef int64_t value
        cdef uint8_t *q
        cdef bytes names
        cdef int k
        self._note_task(<Head *>row, comm)
        q = self.notes.p + self.notes.n
        for k in range(shape.nr_pieces):
            piece = &shape.pieces[k]
            value = field(row, piece)
            if value == NONE64:
                continue
            if piece.kind == GFP or piece.kind == LOCK or piece.kind == TYPE:
                names = self.shapes.named(piece.kind, value)
                q = noted_text(q, piece.number, <const uint8_t *>PyBytes_AS_STRING(names), PyBytes_GET_SIZE(names))
            elif (piece.kind == PFN or piece.kind == ADDRESS) and value != -1:
                q = noted(q, piece.number, TAG_POINTER, <uint64_t>value)
            else:
                q = noted(q, piece.number, TAG_INT, <uint64_t>value)
        self.notes.n = q - self.notes.p
        return 0

    # Waits. A spinning CPU has them on its track, one within another where an interrupt waits too; a task that sleeps
    # has a track of its own, since it may wake up on another CPU.

    cdef int _begin(self, const uint8_t *row, bytes comm) except -1:
        cdef Head *head = <Head *>row
        cdef int64_t address = field(row, &self.address)
        cdef int64_t flags = field(row, &self.flags)
        cdef int name = FIRST_WAIT + <int>(flags if 0 <= flags < MOST_LOCK_FLAGS else MOST_LOCK_FLAGS)
        cdef uint64_t track
        cdef uint8_t *q
        if flags == NONE64 or flags & SPIN and not flags & MUTEX or head.pid <= 0:
            track = self.tracks[head.cpu]
            self.stacks.setdefault(head.cpu, []).append(address)
            self.slice_ns[head.cpu] = max(self.slice_ns[head.cpu], head.ts_ns)
        else:
            waiting = self.tasks.get(head.pid)
            if waiting is not None and waiting[0] == address:
                return 0                   # it spun for a mutex, and now it sleeps
            if waiting is not None:
                self._end_of_task(head.pid, head.ts_ns, NONE64)
                self.cut_off += 1
            if head.pid not in self.task_tracks:
                self.task_tracks[head.pid] = self._described(1, head.pid, comm)
            track = self.task_tracks[head.pid]
            self.tasks[head.pid] = (address, track, head.ts_ns)
        self._note_task(head, comm)
        if address != NONE64:
            q = noted(self.notes.p + self.notes.n, self.address.number, TAG_POINTER, <uint64_t>address)
            self.notes.n = q - self.notes.p
        self.waits += 1
        return self._put(head.ts_ns, SLICE_BEGIN, track, name, 2)

    cdef int _end(self, const uint8_t *row, Shape *shape, bytes comm) except -1:
        cdef Head *head = <Head *>row
        cdef int64_t address = field(row, &self.address)
        cdef list stack = self.stacks.get(head.cpu)
        if stack and address in stack:
            while stack[len(stack) - 1] != address:
                self._end_on_cpu(head.cpu, head.ts_ns, NONE64)
                self.cut_off += 1
            return self._end_on_cpu(head.cpu, head.ts_ns, field(row, &self.ret))
        waiting = self.tasks.get(head.pid)
        if waiting is not None and waiting[0] == address:
            return self._end_of_task(head.pid, head.ts_ns, field(row, &self.ret))
        self.ends += 1
        self._note_fields(shape, row, comm)
        return self._instant(shape, head, [])

    cdef int _note_ret(self, int64_t ret) except -1:
        need(&self.notes, 32)
        self.notes.n = 0
        if ret != NONE64:
            self.notes.n = noted(self.notes.p, self.ret.number, TAG_INT, <uint64_t>ret) - self.notes.p
        return 0

    cdef int _end_on_cpu(self, int cpu, int64_t ts_ns, int64_t ret) except -1:
        self.stacks[cpu].pop()
        self.slice_ns[cpu] = max(self.slice_ns[cpu], ts_ns)
        self._note_ret(ret)
        return self._put(self.slice_ns[cpu], SLICE_END, self.tracks[cpu], 0, 0)

    cdef int _end_of_task(self, int32_t pid, int64_t ts_ns, int64_t ret) except -1:
        waiting = self.tasks.pop(pid)
        self._note_ret(ret)
        return self._put(max(<int64_t>waiting[2], ts_ns), SLICE_END, waiting[1], 0, 0)

    cdef int _cut(self, int cpu, int64_t ts_ns) except -1:
        """
        Waits whose end nobody saw.
        """
        while self.stacks[cpu]:
            self._end_on_cpu(cpu, ts_ns, NONE64)
            self.cut_off += 1
        return 0

    # Counters.

    cdef int _count(self, const uint8_t *row, Head *head) except -1:
        cdef int64_t order = field(row, &self.order)
        cdef int64_t pages = <int64_t>1 << order if 0 <= order < 32 else 0
        cdef int64_t many = field(row, &self.nr)
        if head.event == self.alloc_code:
            return self._add(S_PAGES, head.ts_ns, pages if head.pfn >= 0 else 0)
        if head.event == self.free_code:
            return self._add(S_PAGES, head.ts_ns, -pages)
        if head.event == self.locked_code:
            return self._add(S_REFILL, head.ts_ns, pages if field(row, &self.refill) == 1 else 0)
        if head.event == self.drain_code:
            return self._add(S_DRAIN, head.ts_ns, pages)
        if head.event == self.fallback_code:
            return self._add(S_FALLBACKS, head.ts_ns, 1)
        if head.event == self.cma_code or head.event == self.cma_finish_code:
            return self._add(S_CMA, head.ts_ns, many if head.pfn >= 0 and many >= 0 else 0)
        if head.event == self.cma_free_code:
            return self._add(S_CMA, head.ts_ns, -many if many >= 0 else 0)
        return self._count_pcp(row, head)

    cdef int _count_pcp(self, const uint8_t *row, Head *head) except -1:
        """
        What a probe saw in a PCP of a zone.
        """
        cdef int64_t count = field(row, &self.count)
        cdef int64_t zone = field(row, &self.zone)
        cdef int64_t cpu = field(row, &self.pcp_cpu)
        cdef int64_t at = zone * MAX_CPUS + cpu
        if count == NONE64 or not 0 <= zone < MOST_ZONES or not 0 <= cpu < MAX_CPUS:
            return 0
        if not self.pcp_tracks[at]:
            self.pcp_tracks[at] = self._described(3, at, b"")
        return self._set(&self.pcps[at], self.pcp_tracks[at], head.ts_ns, count)

    cdef int _add(self, int which, int64_t ts_ns, int64_t more) except -1:
        if not more:
            return 0
        if not self.sum_tracks[which]:
            self.sum_tracks[which] = self._described(2, which, b"")
        return self._set(&self.sums[which], self.sum_tracks[which], ts_ns, self.sums[which].value + more)

    cdef inline int _set(self, Counter *counter, uint64_t track, int64_t ts_ns, int64_t value) except -1:
        """
        A new value; the one before is written if it stood long enough after the last that was.
        """
        cdef bint first = not counter.described
        if ts_ns >= counter.written_ns + FAR_APART_NS:
            self._flush(counter, track)
        counter.described = counter.held = True
        counter.value, counter.at_ns = value, max(counter.at_ns, ts_ns)
        return self._flush(counter, track) if first else 0

    cdef int _flush(self, Counter *counter, uint64_t track) except -1:
        if counter.held:
            need(&self.out, PACKET_ROOM)
            self.out.n = counter_packet(self.out.p + self.out.n, counter.at_ns, track, counter.value) - self.out.p
            counter.written_ns, counter.held = counter.at_ns, False
        return 0
