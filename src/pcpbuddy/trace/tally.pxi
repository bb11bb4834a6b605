# What the rows of a trace tell about its health, kept for both kinds of readers, and the texts of a batch.

@cython.final
cdef class Tally:
    cdef Counts counts
    cdef readonly list losses           # (cpu, events or None, place, ts_ns or None)
    cdef list comms, markers
    cdef dict comm_index
    cdef int32_t epoch
    cdef object template
    cdef const uint8_t *blank

    def __cinit__(self):
        self.counts.cpus = <Cpu *>calloc(MAX_CPUS, sizeof(Cpu))
        if self.counts.cpus == NULL:
            raise MemoryError
        self.counts.last_ns = INT64_MIN
        self.counts.back_at = -1
        self.losses = []
        self.template = blank().tobytes()
        self.blank = <const uint8_t *><char *>(<bytes>self.template)
        self.fresh()

    def __dealloc__(self):
        c_free(self.counts.cpus)

    cdef void fresh(self):
        """
        Begin the texts of a new batch.
        """
        self.comms, self.markers, self.comm_index = [], [], {}
        self.epoch += 1

    def take_texts(self):
        """
        The tables of the batch that was filled, (comms, markers); the next one begins with empty ones.
        """
        texts = ([_text(one) for one in self.comms], [_text(one) for one in self.markers])
        self.fresh()
        return texts

    def numbers(self):
        """
        (rows, rows that go back in time, where the first is or -1, ties of two CPUs, numbers out of range).
        """
        cdef Counts *c = &self.counts
        return c.rows, c.back, c.back_at, c.ties, c.out_of_range

    def of_cpus(self):
        """
        {cpu: (rows, first_ns, last_ns, lost, gaps, back)} of those that have rows or losses.
        """
        cdef Cpu *one
        cdef int cpu
        found = {}
        for cpu in range(MAX_CPUS):
            one = &self.counts.cpus[cpu]
            if one.rows or one.lost or one.gaps:
                found[cpu] = (one.rows, one.first_ns if one.rows else None, one.last_ns if one.rows else None,
                              one.lost, one.gaps, one.back)
        return found

    def lose(self, int cpu, int64_t count, int64_t place, ts_ns=None):
        """
        Events of a CPU are missing here; count -1: nobody knows how many.
        """
        if not 0 <= cpu < MAX_CPUS:
            return
        cdef Cpu *one = &self.counts.cpus[cpu]
        if count < 0:
            one.gaps += 1
            one.seq += 1
        else:
            one.lost += count
            one.seq += count
        if len(self.losses) < MOST_PLACES:
            self.losses.append((cpu, None if count < 0 else count, place, ts_ns))

    cdef int32_t comm(self, bytes name):
        """
        The place of a command's name in the table of this batch.
        """
        place = self.comm_index.get(name)
        if place is None:
            place = self.comm_index[name] = len(self.comms)
            self.comms.append(name)
        return place


cdef str _text(bytes raw):
    return raw.decode("utf-8", "backslashreplace")


cdef inline void stamp(Counts *counts, Head *row, int64_t place) noexcept nogil:
    """
    Number a row that is complete, and hold its time against the one before.
    """
    cdef Cpu *cpu = &counts.cpus[row.cpu]
    row.cpu_seq = cpu.seq
    cpu.seq += 1
    if cpu.rows == 0:
        cpu.first_ns = row.ts_ns
    elif row.ts_ns < cpu.last_ns:
        cpu.back += 1
    cpu.last_ns = row.ts_ns
    cpu.rows += 1
    counts.rows += 1
    if row.ts_ns <= counts.last_ns:
        if row.ts_ns < counts.last_ns:
            counts.back += 1
            if counts.back_at < 0:
                counts.back_at = place
        elif row.cpu != counts.last_cpu:
            counts.ties += 1
    counts.last_ns = row.ts_ns
    counts.last_cpu = row.cpu


cdef inline void put(Counts *counts, uint8_t *row, int place, int width, int64_t value) noexcept nogil:
    """
    A number into its column; one that the column cannot hold is counted and left null.
    """
    if width == 2 and -0x7fff <= value <= 0x7fff:
        store2(row + place, <int16_t>value)
    elif width == 8:
        store8(row + place, value)
    elif width == 4 and -0x7fffffff <= value <= 0x7fffffff:
        store4(row + place, <int32_t>value)
    else:
        counts.out_of_range += 1
