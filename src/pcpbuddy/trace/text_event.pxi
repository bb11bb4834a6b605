# What a line is held against: events and the fields they have, tasks and names that were seen before, and where each
# field stood last (Step). The order of fields in the line before is expected in the next one, never taken for granted.

cdef enum:
    MOST_STEPS = 24            # fields of a line that are remembered; further ones are looked for each time
    NAMES = 1024               # slots of the table of event names, at most half of them used
    CACHED = 512               # slots for texts that were made into numbers before
    LONGEST_WORD = 1024        # of a list of flags

    NO_NAME = -2

    USELESS = 0                # what the value of a field is: nothing for us,
    NUMBER = 1
    WORDS = 2                  # names of flags, made into a number by the owner's words(),
    PAGE = 3                   # a pointer to a page, of which we ask whether it is null

cdef struct Wanted:            # a field of an event that fills a column
    uint8_t[24] key            # "order="
    int length
    int kind
    int place
    int width
    int table                  # WORDS: of which kind of flags
    uint32_t bit

cdef struct Word:              # names of flags that were made a number before
    const uint8_t *text        # of a bytes object that the parser's list holds
    int length
    int table
    int64_t value

cdef struct Step:              # a field where it stood last
    uint64_t[3] key
    uint64_t[3] mask
    int length
    int kind
    int place
    int width
    int table
    uint32_t bit
    Word *word                 # WORDS: what stood there last

cdef struct Event:
    int16_t code
    int nr_wanted
    int nr_steps
    uint32_t needed            # bits of the fields without which a line is not this event
    int pfn                    # place of pfn, -1 for an event without
    bint marker
    int address                # place of lock_addr, which stands first and without a name; -1 for others
    Wanted[16] wanted
    Step[24] steps

cdef struct Name:
    uint64_t first
    uint64_t middle
    uint64_t last
    int length
    int event                  # number of the Event, -1 for an empty slot
    uint8_t[64] text

cdef struct Task:              # what a line begins with, up to its "[", and what it was found to be
    uint64_t[4] words          # the first and the last 16 bytes, which cover all of 16 to 32
    Py_ssize_t length
    int32_t pid
    int32_t comm
    int32_t epoch

cdef struct Seen:              # the first 16 bytes of a name and of what follows it, and the name
    uint64_t first
    uint64_t second
    uint64_t last
    int length
    int event


cdef inline bint is_task(Task *task, const uint8_t *p, const uint8_t *bracket, int32_t epoch) noexcept nogil:
    """
    Whether p to bracket, 16 to 32 bytes, is what the task's lines begin with.
    """
    return (task.words[0] == load8(p) and task.words[1] == load8(p + 8) and task.words[2] == load8(bracket - 16)
            and task.words[3] == load8(bracket - 8) and task.length == bracket - p and task.epoch == epoch)


cdef inline uint64_t low_bytes(Py_ssize_t count) noexcept nogil:
    """
    A mask of the first bytes of a word.
    """
    return 0 if count <= 0 else <uint64_t>-1 if count >= 8 else (<uint64_t>1 << (8 * count)) - 1


cdef inline (uint64_t, uint64_t, uint64_t) name_words(const uint8_t *name, int length) noexcept nogil:
    """
    Three words that hold all of a name of up to 24 bytes.
    """
    if length >= 16:
        return load8(name), load8(name + 8), load8(name + length - 8)
    if length >= 8:
        return load8(name), 0, load8(name + length - 8)
    return load8(name) & low_bytes(length), 0, 0


cdef inline bint expected(Step *step, const uint8_t *p) noexcept nogil:
    """
    Whether the field that was here last time is here again.
    """
    if load8(p) & step.mask[0] != step.key[0]:
        return False
    if step.length <= 8:
        return True
    return (load8(p + 8) & step.mask[1] == step.key[1]
            and (step.length <= 16 or load8(p + 16) & step.mask[2] == step.key[2]))


cdef inline const uint8_t *word_end(const uint8_t *p) noexcept nogil:
    if p[16] == c' ' and blanks_in(load8(p)) == 8 and blanks_in(load8(p + 8)) == 8:
        return p + 16
    return find2(p, c' ', c'\n')


cdef inline bint is_null(const uint8_t *p) noexcept nogil:
    """
    Whether a pointer is null: (null), (nil), 0x0, 0000000000000000.
    """
    if p[0] == c'(':
        return True
    if p[0] != c'0':
        return False
    if load8(p) == ZEROS:
        return p[8] <= c' ' or load8(p + 8) == ZEROS and p[16] <= c' '
    return p[1] == c'x' and p[2] == c'0' and p[3] <= c' '
