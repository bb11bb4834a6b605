# The front of a line, in any of the three forms of text, found from the only thing in it that cannot be mistaken:
#
#     COMM-PID  (TGID) [CPU] FLAGS SECONDS.FRACTION: EVENT: ...      tracefs, trace-cmd report
#     COMM PID/TID     [CPU] SECONDS.FRACTION: SYSTEM:EVENT: ...     perf script
#
# "[CPU]", digits, followed by a time and a colon. A command's name may hold spaces, brackets and dashes, but no more
# than 15 bytes, too few for all of that. Columns are not counted: flags and TGID may be absent, blanks may be cut.

cdef struct Line:
    const uint8_t *comm_end
    const uint8_t *name
    const uint8_t *name_end
    const uint8_t *rest        # what follows the name
    const uint8_t *bracket     # of the CPU
    int64_t ts_ns
    int32_t pid
    int32_t comm
    int16_t cpu
    int16_t irq_flags
    int16_t preempt_count
    bint ticks                 # the time is a whole number: of what, nobody says

cdef short[3][256] FLAG_BITS
cdef signed char[256] HEX
cdef uint64_t ZEROS = 0x3030303030303030


cdef void _flag_tables():
    """
    TRACE_FLAG_* bits of the letters in the three columns of flags; -1: no such letter.
    """
    memset(FLAG_BITS, 0xff, sizeof(FLAG_BITS))
    memset(HEX, 0xff, sizeof(HEX))
    for column, letters in enumerate((
        {".": 0, "d": 0x01, "D": 0x81, "b": 0x80, "X": 0x02},
        {".": 0, "B": 0x26, "N": 0x24, "L": 0x22, "b": 0x06, "n": 0x04, "l": 0x02, "p": 0x20},
        {".": 0, "Z": 0x48, "z": 0x40, "H": 0x18, "h": 0x08, "s": 0x10},
    )):
        for letter, bits in letters.items():
            FLAG_BITS[column][ord(letter)] = bits
    for value, digit in enumerate("0123456789abcdef"):
        HEX[ord(digit)] = value
        HEX[ord(digit.upper())] = value


_flag_tables()


cdef inline bint is_digit(uint8_t c) noexcept nogil:
    return <uint8_t>(c - c'0') <= 9


cdef inline const uint8_t *skip_blanks(const uint8_t *p) noexcept nogil:
    while p[0] == c' ' or p[0] == c'\t':
        p += 1
    return p


cdef inline int blanks_in(uint64_t word) noexcept nogil:
    """
    The place of the first byte of eight that is a blank or a control character, 8 for none.
    """
    word = (word - 0x2121212121212121ull) & ~word & 0x8080808080808080ull
    return first_byte(word) if word else 8


cdef inline const uint8_t *decimal(const uint8_t *p, int64_t *value) noexcept nogil:
    """
    1 to 18 digits; NULL if there are none or more.
    """
    cdef const uint8_t *start = p
    cdef int64_t number = 0
    while is_digit(p[0]):
        if p - start == 18:
            return NULL
        number = 10 * number + (p[0] - c'0')
        p += 1
    value[0] = number
    return p if p != start else NULL


cdef inline const uint8_t *hexadecimal(const uint8_t *p, int64_t *value) noexcept nogil:
    """
    1 to 16 hexadecimal digits, as they come; NULL if there are none or more.
    """
    cdef const uint8_t *start = p
    cdef uint64_t number = 0
    cdef uint64_t word = load8(p)
    cdef int length = blanks_in(word)
    if 0 < length < 8:
        word = word << (64 - 8 * length) | ZEROS >> (8 * length)
        if hex_digits(word):
            value[0] = <int64_t>eight_hex(word)
            return p + length
    while HEX[p[0]] >= 0:
        if p - start == 16:
            return NULL
        number = number << 4 | <uint64_t>HEX[p[0]]
        p += 1
    value[0] = <int64_t>number
    return p if p != start else NULL


cdef inline const uint8_t *number(const uint8_t *p, int64_t *value) noexcept nogil:
    """
    A number as printk writes it: 12, -1, 0x1f.
    """
    if is_digit(p[0]) and p[1] <= c' ':
        value[0] = p[0] - c'0'
        return p + 1
    if p[0] == c'0' and p[1] == c'x':
        return hexadecimal(p + 2, value)
    if p[0] == c'-':
        p = decimal(p + 1, value)
        value[0] = -value[0]
        return p
    return decimal(p, value)


cdef inline const uint8_t *seconds(const uint8_t *p, Line *line) noexcept nogil:
    """
    SECONDS.FRACTION or a whole number, up to its colon; NULL if it is none.
    """
    cdef int64_t whole = 0
    cdef int64_t part = 0
    cdef int64_t scale = 1000000000LL
    cdef uint64_t word
    p = decimal(p, &whole)
    if p == NULL:
        return NULL
    line.ticks = p[0] != c'.'
    if line.ticks:
        line.ts_ns = whole
        return p if p[0] == c':' else NULL
    if whole > 9000000000LL:
        return NULL
    p += 1
    word = load8(p - 2) & ~<uint64_t>0xffff | 0x3030
    if p[6] == c':' and all_digits(word):
        line.ts_ns = whole * scale + <int64_t>eight_digits(word) * 1000
        return p + 6
    while is_digit(p[0]) and scale > 1:
        scale //= 10
        part += (p[0] - c'0') * scale
        p += 1
    line.ts_ns = whole * 1000000000LL + part
    return p if p[0] == c':' and scale < 1000000000LL else NULL


cdef inline const uint8_t *flags(const uint8_t *p, Line *line) noexcept nogil:
    """
    "d.h2." or nothing. A word that is not made of such letters says nothing, and is passed over.
    """
    cdef const uint8_t *end = p + 5
    cdef int bits
    line.irq_flags = line.preempt_count = NONE16
    if is_digit(p[0]):
        return p
    if end[0] != c' ' or blanks_in(load8(p)) != end - p:
        end = p
        while end[0] > c' ':
            end += 1
        if not 4 <= end - p <= 8:
            return NULL
    bits = FLAG_BITS[0][p[0]] | FLAG_BITS[1][p[1]] | FLAG_BITS[2][p[2]]
    if bits >= 0 and (p[3] == c'.' or HEX[p[3]] >= 0):
        line.irq_flags = bits
        line.preempt_count = 0 if p[3] == c'.' else HEX[p[3]]
        if end - p > 4 and HEX[p[4]] >= 0:
            line.preempt_count |= HEX[p[4]] << 4
    return end


cdef inline bint behind(const uint8_t *p, Line *line) noexcept nogil:
    """
    Whether CPU, flags, time and the name of an event follow the bracket at p.
    """
    cdef int64_t cpu = 0
    cdef const uint8_t *start = p + 1
    line.bracket = p
    if p[4] == c']' and is_digit(p[1]) and is_digit(p[2]) and is_digit(p[3]):
        line.cpu = 100 * (p[1] - c'0') + 10 * (p[2] - c'0') + (p[3] - c'0')
        p += 4
    else:
        p = decimal(start, &cpu)
        if p == NULL or p[0] != c']' or p - start < 3 or cpu >= MAX_CPUS:
            return False
        line.cpu = <int16_t>cpu
    p = flags(skip_blanks(p + 1), line)
    if p == NULL:
        return False
    p = seconds(skip_blanks(p), line)
    if p == NULL or (p[1] != c' ' and p[1] != c'\t'):
        return False
    line.name = skip_blanks(p + 2)
    return True


cdef inline bint before(const uint8_t *start, const uint8_t *p, Line *line) noexcept nogil:
    """
    Whether a command's name and its number stand before the bracket at p.
    """
    cdef const uint8_t *digits
    cdef int64_t pid = 0
    while p > start and (p - 1)[0] == c' ':
        p -= 1
    if p > start and (p - 1)[0] == c')':
        while p > start and (p - 1)[0] != c'(':
            p -= 1
        if p > start:
            p -= 1
        while p > start and (p - 1)[0] == c' ':
            p -= 1
    digits = p
    while digits > start and is_digit((digits - 1)[0]):
        digits -= 1
    if digits == p or p - digits > 10 or digits == start:
        return False
    decimal(digits, &pid)
    line.pid = <int32_t>pid if pid <= 0x7fffffff else NONE32
    if (digits - 1)[0] == c'/':                         # PID/TID: the number of the task is the second
        digits -= 1
        while digits > start and is_digit((digits - 1)[0]):
            digits -= 1
    if digits > start and (digits - 1)[0] == c'-':
        line.comm_end = digits - 1
    elif digits > start and (digits - 1)[0] == c' ':
        while digits > start and (digits - 1)[0] == c' ':
            digits -= 1
        line.comm_end = digits
    else:
        return False
    return True


cdef inline bint named(Line *line) noexcept nogil:
    """
    Cut the name of the event out: "kmem:mm_page_free:" and "mm_page_free:" are the same. False if there is none.
    """
    cdef const uint8_t *name = line.name
    cdef const uint8_t *end = find2(name, c':', c'\n')
    while end[0] == c':' and end[1] > c' ':
        name = end + 1
        end = find2(name, c':', c'\n')
    if end[0] != c':' or end - name > 64 or end == name:
        return False
    line.name, line.name_end = name, end
    line.rest = skip_blanks(end + 1)
    return True


cdef inline bint front(const uint8_t *start, Line *line) noexcept nogil:
    """
    Find the front of the line that begins at start, up to the name of its event. False: it has none.
    """
    cdef const uint8_t *p = start
    while True:
        p = find2(p, c'[', c'\n')
        if p[0] == c'\n':
            return False
        if behind(p, line) and before(start, p, line):
            return True
        p += 1
