# Lines of text into rows. The fields of an event are found by their names; a line whose fields stand as in the line
# before it costs no search (text_event.pxi).

@cython.final
cdef class TextParser:
    """
    Rows from lines of text, whatever wrote them.

    events: [(names, code, [(column place, width, keys, kind, table, needed)], pfn place, marker, address place)].
    words(table, bytes) -> int makes names of flags into a number. odd(line number, bytes, kind) hears of lines that
    give no row: kind 0 for one without the front of an event, 1 for an event that lacks what it must have.
    """

    cdef readonly Tally tally
    cdef readonly int64_t lines
    cdef readonly int64_t skipped       # empty lines, and those that begin with a tab: call chains
    cdef readonly int64_t ticks         # rows whose time is a whole number of something
    cdef readonly dict unknown          # name -> [rows, first line]
    cdef uint8_t *buffer
    cdef Py_ssize_t capacity, begin, stop, end
    cdef bint skipping                  # inside a line that is longer than the buffer
    cdef Event *events
    cdef int nr_events
    cdef Name *names
    cdef Task *tasks
    cdef Py_ssize_t front_length        # of the line before, up to its bracket
    cdef Seen[64] seen
    cdef Word *known_words
    cdef list kept_words
    cdef object words, odd

    def __cinit__(self, events, words, odd, Py_ssize_t capacity=1 << 18):
        cdef int i
        self.tally = Tally()
        self.words, self.odd = words, odd
        self.unknown, self.kept_words = {}, [None] * CACHED
        self.capacity = capacity
        self.buffer = <uint8_t *>calloc(capacity + 2 * SLACK, 1)
        self.events = <Event *>calloc(len(events), sizeof(Event))
        self.names = <Name *>calloc(NAMES, sizeof(Name))
        self.tasks = <Task *>calloc(CACHED, sizeof(Task))
        self.known_words = <Word *>calloc(CACHED, sizeof(Word))
        if not (self.buffer and self.events and self.names and self.tasks and self.known_words):
            raise MemoryError
        self.begin = self.stop = self.end = SLACK
        self.front_length = 24
        for i in range(NAMES):
            self.names[i].event = -1
        for spec in events:
            self._learn_event(*spec)

    def __dealloc__(self):
        c_free(self.buffer)
        c_free(self.events)
        c_free(self.names)
        c_free(self.tasks)
        c_free(self.known_words)

    def _learn_event(self, names, int code, fields, int pfn, bint marker, int address):
        cdef Event *event = &self.events[self.nr_events]
        cdef Wanted *wanted
        event.code, event.pfn, event.marker, event.address = code, pfn, marker, address
        number_of = 0
        for place, width, keys, kind, table, needed in fields:
            for key in keys:
                assert len(key) < 23 and event.nr_wanted < 16
                wanted = &event.wanted[event.nr_wanted]
                event.nr_wanted += 1
                wanted.length = len(key) + 1
                for i, byte in enumerate(key + b"="):
                    wanted.key[i] = byte
                wanted.place, wanted.width, wanted.kind, wanted.table = place, width, kind, table
                wanted.bit = 1 << number_of
            event.needed |= (1 << number_of) if needed else 0
            number_of += 1
        for name in names:
            self._learn_name(name, self.nr_events)
        self.nr_events += 1

    def _learn_name(self, bytes name, int event):
        cdef uint8_t[128] padded
        cdef Name *slot
        assert len(name) <= 64
        memset(padded, 0, sizeof(padded))
        memcpy(padded + 16, <const char *>name, len(name))
        slot = self._slot(padded + 16, padded + 16 + len(name))
        memcpy(slot.text, <const char *>name, len(name))
        slot.first, slot.middle, slot.last = name_words(padded + 16, len(name))
        slot.length, slot.event = len(name), event

    cdef inline Name *_slot(self, const uint8_t *name, const uint8_t *end) noexcept:
        """
        The slot of a name, or the empty one where it would be.
        """
        cdef int length = <int>(end - name)
        cdef (uint64_t, uint64_t, uint64_t) words = name_words(name, length)
        cdef uint64_t mixed = (words[0] ^ (words[2] * 0x9e3779b97f4a7c15ull) ^ length) * 0xd6e8feb86659fd93ull
        cdef int at = <int>(mixed >> 54)
        cdef Name *slot
        while True:
            slot = &self.names[at]
            if slot.event < 0:
                return slot
            if (slot.first == words[0] and slot.middle == words[1] and slot.last == words[2]
                    and slot.length == length and (length <= 24 or memcmp(slot.text, name, length) == 0)):
                return slot
            at = (at + 1) % NAMES

    # The buffer: free room for the caller to read into, then lines to be parsed.

    def window(self):
        """
        Room to read into, as a writable buffer; never empty. A line that would fill all of it is dropped and told.
        """
        cdef Py_ssize_t held = self.end - self.begin
        if self.begin > SLACK:
            memmove(self.buffer + SLACK, self.buffer + self.begin, held)
            self.begin, self.end = SLACK, SLACK + held
        if held == self.capacity:
            if not self.skipping:
                self.lines += 1
                self.odd(self.lines, <bytes>self.buffer[SLACK:SLACK + 80], 0)
            self.skipping = True
            self.end = SLACK
        self.stop = self.begin
        return <uint8_t[:self.capacity + SLACK - self.end]>(self.buffer + self.end)

    def filled(self, Py_ssize_t count):
        """
        So many bytes were read into the window.
        """
        cdef uint8_t *last
        if not 0 <= count <= self.capacity + SLACK - self.end:
            raise ValueError(count)
        last = <uint8_t *>memrchr(self.buffer + self.end, c'\n', count)
        self.end += count
        memset(self.buffer + self.end, 0, SLACK)
        if last != NULL:
            self.stop = last + 1 - self.buffer
            if self.skipping:
                self.skipping = False
                self.begin = find2(self.buffer + self.begin, c'\n', c'\n') + 1 - self.buffer

    def left(self):
        """
        What stands behind the last newline: a line that was cut off, b"" if none was.
        """
        return b"" if self.skipping else <bytes>self.buffer[self.begin:self.end]

    def fill(self, uint8_t[::1] out, Py_ssize_t at=0):
        """
        Parse lines into ``out``, an array of EVENT records seen as bytes, from record ``at`` on.

        Returns how many records are filled: all, or as many as the lines in the buffer gave.
        """
        cdef Py_ssize_t room = out.shape[0] // ROW
        cdef uint8_t *rows
        cdef bint made = False
        if not 0 <= at <= room or room == 0:
            raise ValueError(at)
        rows = &out[0]
        while self.begin < self.stop and at < room:
            self.begin = self._line(self.buffer + self.begin, rows + at * ROW, &made) - self.buffer
            at += made
        return at

    # One line.

    cdef const uint8_t *_line(self, const uint8_t *p, uint8_t *row, bint *made) except NULL:
        """
        The line at p into a row; gives the next line.
        """
        cdef Line line
        cdef int event
        cdef Head *head = <Head *>row
        cdef const uint8_t *end
        made[0] = False
        self.lines += 1
        if p[0] == c'#' or not self._front(p, &line):
            return self._other(p, 0)
        event = self._event(&line)
        if event < 0:
            return self._other(p, 0) if event == NO_NAME else self._unknown(p, &line)
        memcpy(row, self.tally.blank, ROW)
        end = self._fields(&self.events[event], line.rest, row)
        if end == NULL:
            return self._other(p, 1)
        head.ts_ns, head.cpu, head.pid, head.comm = line.ts_ns, line.cpu, line.pid, line.comm
        head.irq_flags, head.preempt_count = line.irq_flags, line.preempt_count
        head.event = self.events[event].code
        self.ticks += line.ticks
        stamp(&self.tally.counts, head, self.lines)
        made[0] = True
        return end

    cdef inline bint _front(self, const uint8_t *p, Line *line) except -1:
        """
        The front of the line at p; what stands before its bracket is looked at once for each task.
        """
        cdef Py_ssize_t length = self.front_length
        cdef const uint8_t *bracket = p + length
        cdef Task *task = self._task(p, bracket)
        if bracket[0] != c'[' or not is_task(task, p, bracket, self.tally.epoch):
            bracket = find2(p, c'[', c'\n')
            length = bracket - p
            if not 16 <= length <= 32:
                return self._new_front(p, line)
            task = self._task(p, bracket)
        if is_task(task, p, bracket, self.tally.epoch) and behind(bracket, line):
            line.pid, line.comm = task.pid, task.comm
            self.front_length = length
            return True
        if not self._new_front(p, line):
            return False
        if line.bracket == bracket:
            task.words = [load8(p), load8(p + 8), load8(bracket - 16), load8(bracket - 8)]
            task.length, task.epoch = length, self.tally.epoch
            task.pid, task.comm = line.pid, line.comm
        return True

    cdef inline Task *_task(self, const uint8_t *p, const uint8_t *bracket) noexcept:
        """
        Where a task is kept whose line begins with p to bracket.
        """
        cdef uint64_t mixed = (load8(p) ^ load8(bracket - 8)) * 0x9e3779b97f4a7c15ull
        return &self.tasks[(mixed ^ (load8(p + 8) + load8(bracket - 16)) * 0xd6e8feb86659fd93ull) >> 55]

    cdef bint _new_front(self, const uint8_t *p, Line *line) except -1:
        if not front(p, line):
            return False
        line.comm = self._comm(p, line.comm_end)
        return True

    cdef inline int _event(self, Line *line) noexcept:
        """
        The number of the Event whose name the line has; NO_NAME for a line without a name.
        """
        cdef const uint8_t *name = line.name
        cdef uint64_t first = load8(name)
        cdef uint64_t second = load8(name + 8)
        cdef Seen *seen = &self.seen[((first ^ second * 0x9e3779b97f4a7c15ull) * 0xd6e8feb86659fd93ull) >> 58]
        cdef int event
        if (seen.first == first and seen.second == second and name[seen.length] == c':'
                and load8(name + seen.length - 8) == seen.last and name[seen.length + 1] == c' '):
            line.rest = skip_blanks(name + seen.length + 2)
            return seen.event
        if not named(line):
            return NO_NAME
        event = self._slot(line.name, line.name_end).event
        if event >= 0 and 8 <= line.name_end - name <= 24:
            seen.first, seen.second, seen.last = first, second, load8(line.name_end - 8)
            seen.length, seen.event = <int>(line.name_end - name), event
        return event

    cdef const uint8_t *_fields(self, Event *event, const uint8_t *p, uint8_t *row) except? NULL:
        """
        The fields of an event; gives the next line, NULL if one is missing that must be there.
        """
        cdef uint32_t found = 0
        cdef bint null_page = False
        cdef int i = 0
        cdef Step *step
        cdef Step scratch
        if event.marker:
            return self._marker(p, row)
        if event.address >= 0:
            p = self._address(event.address, p, row)
        while True:
            while p[0] == c' ' or p[0] == c',' or p[0] == c'(' or p[0] == c')' or p[0] == c'\r':
                p += 1
            if p[0] == c'\n':
                break
            step = &event.steps[i]
            if i >= event.nr_steps or not expected(step, p):
                if i == MOST_STEPS:
                    step, i = &scratch, i - 1
                if not self._learn_step(event, step, p):
                    p = word_end(p)
                    continue
                event.nr_steps = max(event.nr_steps, i + 1)
            i += 1
            p += step.length
            if step.kind == NUMBER:
                p = self._number(step, p, row, &found)
            elif step.kind == USELESS:
                p = word_end(p)
            elif step.kind == PAGE:
                null_page |= is_null(p)
                p = word_end(p)
            else:
                p = self._flag_names(step, p, row, &found)
        if found & event.needed != event.needed:
            return NULL
        if null_page and event.pfn >= 0:
            store8(row + event.pfn, -1)
        return p + 1

    cdef inline const uint8_t *_number(self, Step *step, const uint8_t *p, uint8_t *row, uint32_t *found) noexcept:
        """
        A number into its column; what is none leaves it null.
        """
        cdef int64_t value = 0
        cdef const uint8_t *end = number(p, &value)
        if end == NULL or end[0] > c' ' and end[0] != c',' and end[0] != c')':
            return word_end(p)
        put(&self.tally.counts, row, step.place, step.width, value)
        found[0] |= step.bit
        return end

    cdef const uint8_t *_flag_names(self, Step *step, const uint8_t *p, uint8_t *row, uint32_t *found) except NULL:
        """
        Names of flags as a number into their column.
        """
        cdef const uint8_t *stop
        cdef const uint8_t *end
        cdef Word *word = step.word
        if (word == NULL or word.text == NULL or p[word.length] > c' ' or memcmp(p, word.text, word.length) != 0
                or word.table != step.table):
            stop = end = word_end(p)
            while end > p and ((end - 1)[0] == c'\r' or (end - 1)[0] == c')' or (end - 1)[0] == c','):
                end -= 1
            if end == p or end - p > LONGEST_WORD:
                return stop
            word = step.word = self._word(step.table, p, <int>(end - p))
        put(&self.tally.counts, row, step.place, step.width, word.value)
        found[0] |= step.bit
        return p + word.length

    cdef Word *_word(self, int table, const uint8_t *p, int length) except NULL:
        """
        The number of "GFP_KERNEL|__GFP_ZERO"; each spelling is worked out once.
        """
        cdef uint64_t mixed = load8(p) ^ load8(p + length - 8) * 0x9e3779b97f4a7c15ull ^ length << 2 ^ table
        cdef int at = <int>(mixed * 0xd6e8feb86659fd93ull >> 55)
        cdef Word *word = &self.known_words[at]
        cdef bytes text
        if (word.text != NULL and word.length == length and word.table == table
                and memcmp(word.text, p, length) == 0):
            return word
        text = p[:length]
        word.text = NULL
        word.value = self.words(table, text)
        self.kept_words[at] = text
        word.text, word.length, word.table = <const uint8_t *><const char *>text, length, table
        return word

    cdef int32_t _comm(self, const uint8_t *p, const uint8_t *end) except? -1:
        """
        The place of the name that stands, with blanks before it, in p to end.

        A name has at most 15 bytes. More is the name of a buffer before it, in the report of several buffers.
        """
        cdef bytes name = p[:min(end - p, 256)].strip(b" ")
        if len(name) > 15 and end - p > 16:
            name = (end - 16)[:16].strip(b" ")
        return self.tally.comm(name)

    cdef const uint8_t *_marker(self, const uint8_t *p, uint8_t *row) except NULL:
        """
        The text of a marker; some writers name the function that wrote it once more.
        """
        cdef const uint8_t *end = find2(p, c'\n', c'\n')
        cdef bytes text = p[:min(end - p, LONGEST_TEXT)].rstrip(b"\r")
        self.tally.counts.out_of_range += end - p > LONGEST_TEXT
        (<Head *>row).marker = <int32_t>len(self.tally.markers)
        self.tally.markers.append(text.removeprefix(b"tracing_mark_write: "))
        return end + 1

    cdef const uint8_t *_address(self, int place, const uint8_t *p, uint8_t *row) noexcept:
        """
        The address of a lock, which stands first and without a name.
        """
        cdef int64_t value = 0
        cdef const uint8_t *end = hexadecimal(p + 2 if p[0] == c'0' and p[1] == c'x' else p, &value)
        if end == NULL or end[0] > c' ':
            return p
        store8(row + place, value)
        return end

    # What is no row.

    cdef const uint8_t *_other(self, const uint8_t *p, int kind) except NULL:
        """
        A line that gives no row: a comment, a loss, a call chain, or one that is not understood.
        """
        cdef const uint8_t *end = find2(p, c'\n', c'\n')
        if end == p or p[0] == c'\t':
            self.skipped += 1
        else:
            self.odd(self.lines, <bytes>p[:min(end - p, 512)], kind)
        return end + 1

    cdef const uint8_t *_unknown(self, const uint8_t *p, Line *line) except NULL:
        """
        An event that no column is for: counted by name.
        """
        cdef bytes name = line.name[:line.name_end - line.name]
        entry = self.unknown.get(name)
        if entry is None:
            if not name.translate(None, b"_-.$").isalnum():
                return self._other(p, 0)
            if len(self.unknown) >= MOST_NAMES:
                name = b"(other names)"
            entry = self.unknown.setdefault(name, [0, self.lines])
        entry[0] += 1
        return find2(line.rest, c'\n', c'\n') + 1

    cdef bint _learn_step(self, Event *event, Step *step, const uint8_t *p) except -1:
        """
        Remember the field that stands at p. False: there is no "name=" here.
        """
        cdef Wanted *wanted
        cdef int i = 0
        while p[i] != c'=':
            if p[i] <= c' ' or p[i] == c',' or i == 22:
                return False
            i += 1
        step.length, step.kind, step.word = i + 1, USELESS, NULL
        for i in range(3):
            step.mask[i] = low_bytes(step.length - 8 * i)
            step.key[i] = load8(p + 8 * i) & step.mask[i]
        for i in range(event.nr_wanted):
            wanted = &event.wanted[i]
            if wanted.length == step.length and memcmp(wanted.key, p, step.length) == 0:
                step.kind, step.place, step.width = wanted.kind, wanted.place, wanted.width
                step.table, step.bit = wanted.table, wanted.bit
        return True
