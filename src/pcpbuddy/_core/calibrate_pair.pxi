# Loops that take two CPUs at once. Included by calibrate.pyx.

cdef bint meet(uint32_t *s, int side) noexcept nogil:
    """Both sides are here, or False."""
    cdef int64_t end = now() + PATIENCE_NS
    cdef uint32_t mine = s[(MET + side) * LINE] + 1
    release32(&s[(MET + side) * LINE], mine)
    while <uint32_t>(acquire32(&s[(MET + 1 - side) * LINE]) - mine) > 0x7fffffff:
        if now() > end:                    # no pause here: it makes some hypervisors take the CPU away
            return False
    return True

cdef bint begin(uint32_t *s, int side, uint32_t *word) noexcept nogil:
    """Both sides are here, and nothing of the loop before is left in the word."""
    if not meet(s, side):
        return False
    if side == 0:
        release32(word, 0)
    return meet(s, side)

def line(uint32_t[::1] shared, int side, uint64_t n):
    """ns for a line that one CPU has written to reach the other that waits for it: half of there and back."""
    cdef uint32_t *s = &shared[0]
    cdef uint32_t *flag = s + FLAG * LINE
    cdef int64_t spent = -1
    cdef uint32_t from_here
    cdef uint64_t k
    with nogil:
        if begin(s, side, flag):
            spent = now()
            for k in range(n):
                from_here = <uint32_t>(2 * k) + 1 + side
                while acquire32(flag) != from_here - 1:
                    pass
                release32(flag, from_here)
            if side == 0:
                while acquire32(flag) != <uint32_t>(2 * n):
                    pass
            spent = now() - spent
    return per(spent, 2 * n)

cdef inline int64_t *stamp(uint32_t *s, int line) noexcept nogil:
    return <int64_t *>(s + line * LINE + STAMP)

cdef inline bint queue_lock(uint32_t *s, int side) noexcept nogil:
    """Returns whether it had to wait."""
    cdef uint32_t *node = s + (NODE + side) * LINE
    cdef uint32_t before
    node[0] = 0
    node[1] = 0
    before = exchange32_both(s + TAIL * LINE, side + 1)
    if before == 0:
        return False
    release32(s + (NODE + before - 1) * LINE + 1, side + 1)
    while not acquire32(node):
        pass
    return True

cdef inline void queue_unlock(uint32_t *s, int side) noexcept nogil:
    cdef uint32_t *node = s + (NODE + side) * LINE
    cdef int next
    cdef uint32_t old
    while not acquire32(node + 1):
        old = side + 1
        if cas32(s + TAIL * LINE, &old, 0):
            return
    next = NODE + <int>node[1] - 1
    stamp(s, next)[0] = now()              # in the line that the next one waits for
    release32(s + next * LINE, 1)

def hand_over(uint32_t[::1] shared, int side, uint64_t steps, int n):
    """
    ns from leaving a queued lock (MCS) to the next holder's first instruction, while both CPUs always want it; one
    reading of the clock is in it. Infinity if nobody had to wait.
    """
    cdef uint32_t *s = &shared[0]
    cdef int64_t waits[SAMPLES]
    cdef int64_t spent = -1
    cdef int waited = 0
    cdef int _k
    if not 0 < n <= SAMPLES:
        raise PcpBuddyError(f"calibration: {n} holds: expected 1 to {SAMPLES}")
    with nogil:
        if begin(s, side, s + TAIL * LINE):
            spent = 0
            for _k in range(n):
                if queue_lock(s, side):
                    waits[waited] = now() - stamp(s, NODE + side)[0]
                    waited += 1
                spin(steps)
                queue_unlock(s, side)
    per(spent, 1)
    return median(waits, waited)

def wake(uint32_t[::1] shared, int side, uint64_t steps, int n):
    """
    ns from waking a thread that sleeps to its first instruction, on two CPUs that wake each other; one reading of the
    clock is in it. Infinity if nobody slept.
    """
    cdef uint32_t *s = &shared[0]
    cdef uint32_t *flag = s + FLAG * LINE
    cdef int64_t sleeps[SAMPLES]
    cdef int64_t spent = -1
    cdef uint32_t mine
    cdef uint32_t seen
    cdef bint slept
    cdef int slept_times = 0
    cdef int k
    if not 0 < n <= SAMPLES:
        raise PcpBuddyError(f"calibration: {n} wake-ups: expected 1 to {SAMPLES}")
    with nogil:
        if begin(s, side, flag):
            spent = 0
            for k in range(n):
                mine = 2 * k + side
                slept = False
                while True:
                    seen = acquire32(flag)
                    if seen == mine:
                        break
                    slept = futex_wait(flag, seen) == 0
                if slept:
                    sleeps[slept_times] = now() - stamp(s, FLAG)[0]
                    slept_times += 1
                spin(steps)                # so that the other sleeps by now
                stamp(s, FLAG)[0] = now()
                release32(flag, mine + 1)
                futex_wake(flag)
    per(spent, 1)
    return median(sleeps, slept_times)

def relink_in_turn(uint8_t[::1] memory, uint32_t[::1] shared, int side, uint64_t n, uint64_t turns):
    """The same in turn with another CPU, which has touched all n descriptors just before."""
    cdef Descriptor *d = descriptors(memory)
    cdef uint32_t *s = &shared[0]
    cdef bint here = True
    cdef int64_t spent = 0
    cdef int64_t start
    cdef uint64_t found = 0
    cdef uint64_t k = 0
    with nogil:
        while here and k < turns:
            if side:
                here = meet(s, side)
            start = now()
            found += relink_nogil(d, n)
            spent += now() - start
            here = here and (side or meet(s, side)) and meet(s, side)
            k += 1
        keep(found)
    return per(spent if here else -1, n * turns)
