# What a run leaves: statistics, samples, the log; and the memory of it all. Included by machine.pyx.

# -- measuring ---------------------------------------------------------------------------------------------------

cdef size_t stats_bytes(Sim *s) noexcept nogil:
    """Statistics of locks and calls lie in one block; a copy of them is made when the measured part ends."""
    return sizeof(Stat) * (2 * s.nr_zones * K_KINDS + s.nr_user_locks + 1) + sizeof(uint64_t) * NR_CALLS * (BINS + 3)

cdef void measure_from_now(Sim *s) noexcept nogil:
    """All statistics, and the counters of the zones, begin here."""
    cdef int k
    cdef int cpu
    memset(s.zone_stats, 0, stats_bytes(s))
    for cpu in range(s.cpus):
        memset(s.cpu[cpu].spent_ps, 0, sizeof(int64_t) * NR_TIMES)
        s.cpu[cpu].since_ps = s.now_ps
        s.cpu[cpu].work = 0
        for k in range(s.nr_zones):
            memset(&s.zone[k].counts[cpu], 0, sizeof(Counts))
            s.worked[k * s.cpus + cpu] = 0
    s.start_ps = s.now_ps
    s.nr_samples = 0
    s.nr_holds = 0
    s.holds_left_out = 0
    s.failed = 0
    s.stalls = 0
    s.stall_ps = 0
    if s.sample_ps:
        s.next_sample_ps = s.now_ps

cdef Stat *awaited(Sim *s, int cpu) noexcept nogil:
    """Where the wait of a CPU will be counted; NULL: it waits for no lock."""
    cdef Cpu *me = &s.cpu[cpu]
    cdef Context *x = context(me)
    if me.category == T_USER_WAIT:
        return user_lock(s, x.program[x.pc].a).stats
    if me.category == T_ZONE_WAIT:
        return &zone_lock(s, x.zone).stats[zone_kind(x.call.op.at)]
    if me.category == T_PCP_WAIT:
        return &pcp_lock(s, x.zone, x.call.op.target).stats[pcp_kind(&x.call.op)]
    return NULL

cdef void count_unfinished(Sim *s) noexcept nogil:
    """Of waits and holds that go on at the end of the measured part, their time until now."""
    cdef int k
    cdef Stat *stat
    cdef Lock *lock
    for k in range(s.cpus):
        stat = awaited(s, k)
        if stat is not NULL:
            stat.wait_ps += s.now_ps - max(context(&s.cpu[k]).wait_from_ps, s.start_ps)
    for k in range(s.nr_zones * (s.cpus + 1) + s.nr_user_locks):
        lock = &s.lock[k]
        if lock.holder and lock.since_ps >= 0:
            lock.stats[lock.kind].hold_ps += s.now_ps - max(lock.since_ps, s.start_ps)

cdef void stop_now(Sim *s) noexcept nogil:
    """The measured part ends. What calls under way still do is kept out by restore_stats."""
    cdef int cpu
    cdef int k
    if s.stop_ps >= 0:
        return
    count_unfinished(s)
    if s.sample_ps:
        take_samples(s)
    s.stop_ps = s.now_ps
    memcpy(s.saved_stats, s.zone_stats, stats_bytes(s))
    for cpu in range(s.cpus):
        spend(s, &s.cpu[cpu], s.cpu[cpu].category)
        memcpy(&s.saved_spent[cpu * NR_TIMES], s.cpu[cpu].spent_ps, sizeof(int64_t) * NR_TIMES)
        set_outside(&s.cpu[cpu], NEVER, NEVER)
        if not s.cpu[cpu].waits:
            plan(s, cpu)
        for k in range(s.nr_zones):
            s.saved_counts[k * s.cpus + cpu] = s.zone[k].counts[cpu]

cdef void restore_stats(Sim *s) noexcept nogil:
    """After the last call has ended: the figures of the measured part again."""
    cdef int cpu
    cdef int k
    memcpy(s.zone_stats, s.saved_stats, stats_bytes(s))
    for cpu in range(s.cpus):
        memcpy(s.cpu[cpu].spent_ps, &s.saved_spent[cpu * NR_TIMES], sizeof(int64_t) * NR_TIMES)
        for k in range(s.nr_zones):
            s.zone[k].counts[cpu] = s.saved_counts[k * s.cpus + cpu]

cdef int64_t cma_free(Sim *s, int k) noexcept nogil:
    cdef int64_t pages = s.zone[k].s.stat[NR_FREE_CMA]
    cdef int cpu
    for cpu in range(s.cpus):
        pages += s.zone[k].pcp[cpu].diff[NR_FREE_CMA]
    return pages

cdef int64_t owned_blocks(Zone *z) noexcept nogil:
    cdef int64_t owned = 0
    cdef uint32_t n
    if not z.s.policy.owns:
        return 0
    for n in range(first_block(z), first_block(z) + z.s.nr_blocks):
        owned += z.block[n].owner != 0
    return owned

cdef void thin_out(Sim *s) noexcept nogil:
    """Every second sample goes, and from now on they are as far apart as those that stay."""
    cdef uint64_t kept = 0
    cdef uint64_t k
    for k in range(s.nr_samples):
        if k // s.nr_zones % 2 == 0:
            s.sample[kept] = s.sample[k]
            kept += 1
    s.nr_samples = kept
    s.sample_ps *= 2

cdef void take_samples(Sim *s) noexcept nogil:
    cdef int k
    cdef int o
    cdef int cpu
    cdef Zone *z
    cdef Sample *sample
    if s.nr_samples == <uint64_t>(MOST_SAMPLES * s.nr_zones):
        thin_out(s)
    for k in range(s.nr_zones):
        if s.nr_samples == s.room_samples:
            s.room_samples = max(2 * s.room_samples, <uint64_t>1024)
            s.sample = <Sample *>realloc(s.sample, s.room_samples * sizeof(Sample))
            if s.sample is NULL:
                s.trouble = NO_MEMORY
                s.room_samples = 0
                return
        z = &s.zone[k]
        sample = &s.sample[s.nr_samples]
        s.nr_samples += 1
        memset(sample, 0, sizeof(Sample))
        sample.t_ps = s.now_ps
        sample.zone = k
        for o in range(NR_ORDERS):
            sample.nr_free[o] = z.s.nr_free[o]
        sample.free_pages = z.s.zone_pages
        for cpu in range(s.cpus):
            sample.parked_pages += z.pcp[cpu].count + z.remote[cpu].pending
            sample.allocs += z.counts[cpu].allocs
        sample.cma_free = cma_free(s, k)
        sample.allocated_pages = s.allocated[k]
        sample.owned_blocks = owned_blocks(z)
        for o in range(K_KINDS):
            sample.zone_wait_ps += s.zone_stats[k * K_KINDS + o].wait_ps
            sample.zone_holds += s.zone_stats[k * K_KINDS + o].count


# -- the log ---------------------------------------------------------------------------------------------------------

cdef inline void log(
    Sim *s, int cpu, int what, uint32_t zone, int64_t pfn, uint32_t nr, uint32_t gfp, int bits
) noexcept nogil:
    if s.log is not NULL:
        add_to_log(s, cpu, what, zone, pfn, nr, gfp, bits)

cdef void add_to_log(
    Sim *s, int cpu, int what, uint32_t zone, int64_t pfn, uint32_t nr, uint32_t gfp, int bits
) noexcept nogil:
    cdef LogRow *row = s.log
    if s.nr_log == s.room_log:
        row = <LogRow *>realloc(row, 2 * s.room_log * sizeof(LogRow))
        if row is NULL:
            s.trouble = NO_MEMORY
            return
        s.log = row
        s.room_log *= 2
    row += s.nr_log
    s.nr_log += 1
    row.slot = <uint32_t>(2 * cpu + s.cpu[cpu].level)
    row.what = <uint16_t>what
    row.bits = <uint16_t>bits
    row.zone = zone
    row.gfp = gfp
    row.nr = nr
    row.pfn = <uint32_t>pfn


# -- holds of locks --------------------------------------------------------------------------------------------------

cdef inline bint tells(Sim *s, Lock *lock) noexcept nogil:
    """
    Whether a hold is kept for which nobody waits: of a zone's or a program's lock each, of a PCP's one that was waited
    for; the others are most of all, and mean nothing.
    """
    cdef int number = <int>(lock - s.lock)
    return (
        lock.asked_ps < lock.since_ps or number >= s.nr_zones * (s.cpus + 1) or number % (s.cpus + 1) == s.cpus
    )

cdef void keep_hold(
    Sim *s, int number, int cpu, int64_t from_ps, int64_t to_ps, int64_t asked_ps, int bits
) noexcept nogil:
    """A row, as long as there is room. What begins when the measured part is over is none of it."""
    cdef HoldRow *row = s.holds
    if s.stop_ps >= 0 and asked_ps >= s.stop_ps:
        return
    if s.nr_holds == s.room_holds and s.room_holds < MOST_HOLDS:
        row = <HoldRow *>realloc(row, 2 * s.room_holds * sizeof(HoldRow))
        if row is NULL:
            s.trouble = NO_MEMORY
            return
        s.holds = row
        s.room_holds *= 2
    if s.nr_holds == s.room_holds:
        s.holds_left_out += 1
        return
    row += s.nr_holds
    s.nr_holds += 1
    row.asked_ps = max(asked_ps, s.start_ps)
    row.from_ps = max(from_ps, s.start_ps) if from_ps >= 0 else -1
    row.to_ps = to_ps
    row.lock = <uint32_t>number
    row.cpu = <uint16_t>cpu
    row.kind = <uint8_t>s.lock[number].kind
    row.bits = <uint8_t>(bits | s.cpu[cpu].level)

cdef void keep_unfinished(Sim *s) noexcept nogil:
    """At the end of it all: locks that are held still, and who waits for one."""
    cdef int k
    cdef Lock *lock
    for k in range(s.nr_zones * (s.cpus + 1) + s.nr_user_locks):
        lock = &s.lock[k]
        if lock.holder and lock.since_ps >= 0:
            keep_hold(s, k, lock.holder - 1, lock.since_ps, s.now_ps, lock.asked_ps, 2)
    for k in range(s.cpus):
        if s.cpu[k].waits:
            keep_hold(s, s.cpu[k].waits - 1, k, -1, s.now_ps, context(&s.cpu[k]).wait_from_ps, 2)


# -- what the face gives -----------------------------------------------------------------------------------------------

cdef int64_t ps_of(costs, name) except -1:
    return <int64_t>(float(costs[name + "_ns"]) * 1000 + 0.5)

cdef int set_charges(Sim *s, costs) except -1:
    cdef Charge *c = &s.charge
    c.lock, c.line_near, c.line_far = ps_of(costs, "lock"), ps_of(costs, "line_near"), ps_of(costs, "line_far")
    c.hand_near, c.hand_far = ps_of(costs, "handover_near"), ps_of(costs, "handover_far")
    c.entry, c.list_op, c.move = ps_of(costs, "entry"), ps_of(costs, "list_op"), ps_of(costs, "move")
    c.merge, c.split, c.scan = ps_of(costs, "merge"), ps_of(costs, "split"), ps_of(costs, "scan")
    c.visit, c.walk, c.push = ps_of(costs, "visit"), ps_of(costs, "walk"), ps_of(costs, "push")
    c.alloc, c.free, c.page = ps_of(costs, "alloc"), ps_of(costs, "free"), ps_of(costs, "page")
    c.fault, c.zero = ps_of(costs, "fault"), ps_of(costs, "zero")
    c.interrupt, c.wake = ps_of(costs, "interrupt"), ps_of(costs, "wake")
    return 0

cdef uint32_t stamps_of(costs, name) except? 0:
    return min(<uint32_t>(<int64_t>costs[name] >> STAMP_SHIFT), <uint32_t>STAMP_MASK)

cdef int set_toucher(Sim *s, costs) except -1:
    cdef Toucher *by = &s.toucher
    by.node = s.cpu_node
    by.own_ps, by.near_ps = ps_of(costs, "descriptor_own"), ps_of(costs, "descriptor_near")
    by.far_ps, by.memory_ps = ps_of(costs, "descriptor_far"), ps_of(costs, "descriptor_memory")
    by.far_memory_ps = by.memory_ps + max(by.far_ps - by.near_ps, <int64_t>0)
    by.own_stamps = stamps_of(costs, "cache_descriptors")
    by.shared_stamps = stamps_of(costs, "shared_descriptors")
    return 0

cdef int attach_zone(Sim *s, int k, size_t address, int node) except -1:
    """A core's zone, worked on from here; its descriptors are in nobody's cache."""
    cdef Zone *z = &s.zone[k]
    cdef Caches *caches = &s.caches[k]
    z.s = <ZoneState *>address
    attach(z, <void *>address)
    caches.last = <uint32_t *>calloc(z.s.nr_pages, sizeof(uint32_t))
    if s.homes:
        s.home[k] = <uint64_t *>calloc(z.s.nr_pages, sizeof(uint64_t))
    if caches.last is NULL or s.homes and s.home[k] is NULL:
        raise MemoryError()
    caches.touched = touched
    caches.home = node
    caches.by = &s.toucher
    z.caches = caches
    return 0

cdef int make_nodes(Sim *s, zone_node, zone_kind) except -1:
    """How each node sees the zones: its own last, before them those of the next, and so on round."""
    cdef int node
    cdef int k
    cdef NodeRef *ref
    for node in range(s.nr_nodes):
        ref = &s.node[node]
        ref.drain_mutex = &s.drain_mutex
        for away in range(s.nr_nodes - 1, -1, -1):
            for k in range(s.nr_zones):
                if zone_node[k] == (node + away) % s.nr_nodes:
                    ref.zones[ref.nr] = &s.zone[k]
                    ref.kinds[ref.nr] = zone_kind[k]
                    ref.node[ref.nr] = zone_node[k]
                    ref.nr += 1
    return 0

cdef bint allocate(Sim *s) noexcept:
    cdef int k
    cdef int nr_locks = s.nr_zones * (s.cpus + 1) + s.nr_user_locks
    s.cpu = <Cpu *>calloc(s.cpus, sizeof(Cpu))
    s.tree = <uint64_t *>aligned_alloc(64, TREE * sizeof(uint64_t))
    s.lock = <Lock *>calloc(nr_locks + 1, sizeof(Lock))
    s.zone_stats = <Stat *>calloc(1, stats_bytes(s))
    s.saved_stats = malloc(stats_bytes(s))
    s.saved_spent = <int64_t *>calloc(s.cpus * NR_TIMES, sizeof(int64_t))
    s.saved_counts = <Counts *>calloc(s.cpus * s.nr_zones, sizeof(Counts))
    s.worked = <int64_t *>calloc(s.cpus * s.nr_zones, sizeof(int64_t))
    s.toucher.fetched = <uint32_t *>calloc(s.cpus, sizeof(uint32_t))
    s.pages = <idx *>malloc(2 * s.cpus * s.most_pages * sizeof(idx))
    s.cpu_node = <uint16_t *>calloc(s.cpus, sizeof(uint16_t))
    s.queue = <Queue *>calloc(s.nr_queues + 1, sizeof(Queue))
    s.barrier = <int32_t *>calloc(s.nr_barriers + 1, sizeof(int32_t))
    s.free_sleeper = <int32_t *>calloc(s.cpus, sizeof(int32_t))
    s.contig = <ContigRun *>calloc(s.cpus, sizeof(ContigRun))
    if (
        s.cpu is NULL or s.tree is NULL or s.lock is NULL or s.zone_stats is NULL
        or s.saved_stats is NULL or s.saved_spent is NULL or s.saved_counts is NULL or s.worked is NULL
        or s.toucher.fetched is NULL or s.pages is NULL or s.cpu_node is NULL or s.queue is NULL
        or s.barrier is NULL or s.free_sleeper is NULL or s.contig is NULL
    ):
        return False
    s.pcp_stats = s.zone_stats + s.nr_zones * K_KINDS
    s.user_stats = s.pcp_stats + s.nr_zones * K_KINDS
    s.call_hist = <uint64_t *>(s.user_stats + s.nr_user_locks + 1)
    s.call_count = s.call_hist + NR_CALLS * BINS
    s.call_ps = <int64_t *>s.call_count + NR_CALLS
    s.call_max_ps = s.call_ps + NR_CALLS
    for k in range(nr_locks):
        if k >= s.nr_zones * (s.cpus + 1):
            s.lock[k].stats = &s.user_stats[k - s.nr_zones * (s.cpus + 1)]
        elif k % (s.cpus + 1) == s.cpus:
            s.lock[k].stats = &s.zone_stats[k // (s.cpus + 1) * K_KINDS]
        else:
            s.lock[k].stats = &s.pcp_stats[k // (s.cpus + 1) * K_KINDS]
    for k in range(s.nr_queues):
        s.queue[k].least = ~<uint64_t>0
        s.queue[k].most = -1
    return True

cdef void free_all(Sim *s) noexcept:
    cdef int k
    for k in range(s.nr_zones):
        c_free(s.caches[k].last)
        c_free(s.home[k])
    for k in range(s.nr_queues):
        if s.queue is not NULL:
            c_free(s.queue[k].entry)
    c_free(s.cpu)
    c_free(s.tree)
    c_free(s.lock)
    c_free(s.zone_stats)
    c_free(s.saved_stats)
    c_free(s.saved_spent)
    c_free(s.saved_counts)
    c_free(s.worked)
    c_free(s.toucher.fetched)
    c_free(s.pages)
    c_free(s.cpu_node)
    c_free(s.queue)
    c_free(s.barrier)
    c_free(s.free_sleeper)
    c_free(s.contig)
    c_free(s.log)
    c_free(s.holds)
    c_free(s.sample)

cdef list waits(Sim *s):
    """Of each CPU that is not done: (cpu, context, what for, number, who has it)."""
    cdef int cpu
    cdef int number
    cdef Cpu *me
    cdef Lock *lock
    out = []
    names = {S_LEAST: "queue", S_MOST: "queue", S_FREE: "free memory", S_BARRIER: "barrier", S_HANDLE: "page",
             S_QUIET: "end of its calls", S_OFFLINE: "on-line", S_AREA: "CMA area"}
    for cpu in range(s.cpus):
        me = &s.cpu[cpu]
        context_name = "interrupt" if me.level else "task"
        if me.waits:
            lock = &s.lock[me.waits - 1]
            number = me.waits - 1
            if number >= s.nr_zones * (s.cpus + 1):
                what, number = "lock", number - s.nr_zones * (s.cpus + 1)
            elif number % (s.cpus + 1) == s.cpus:
                what, number = "zone lock", number // (s.cpus + 1)
            else:
                what, number = "PCP lock", number % (s.cpus + 1)
            out.append((cpu, context_name, what, number, lock.holder - 1))
        elif me.sleeps and me.sleeps != S_DONE:
            out.append((cpu, context_name, names[me.sleeps], me.wants, -1))
    return out

cdef dict stats_of(Stat *stats, int n, int kinds):
    """Arrays of shape (n, kinds), and histograms (n, kinds, BINS)."""
    import numpy as np
    cdef int k
    out = {
        name: np.zeros((n, kinds), np.int64)
        for name in ("count", "waited", "failed", "wait_ps", "wait_max_ps", "hold_ps", "hold_max_ps")
    }
    waits = np.zeros((n, kinds, BINS), np.uint64)
    holds = np.zeros((n, kinds, BINS), np.uint64)
    for k in range(n * kinds):
        at = divmod(k, kinds)
        out["count"][at], out["waited"][at], out["failed"][at] = stats[k].count, stats[k].waited, stats[k].failed
        out["wait_ps"][at], out["wait_max_ps"][at] = stats[k].wait_ps, stats[k].wait_max_ps
        out["hold_ps"][at], out["hold_max_ps"][at] = stats[k].hold_ps, stats[k].hold_max_ps
        waits[at] = np.frombuffer(bytes((<char *>stats[k].wait_hist)[:8 * BINS]), np.uint64)
        holds[at] = np.frombuffer(bytes((<char *>stats[k].hold_hist)[:8 * BINS]), np.uint64)
    return {**out, "wait_hist": waits, "hold_hist": holds}

cdef dict result_of(Sim *s):
    import numpy as np
    cdef int cpu
    spent = np.zeros((s.cpus, NR_TIMES), np.int64)
    for cpu in range(s.cpus):
        spent[cpu] = [s.cpu[cpu].spent_ps[k] for k in range(NR_TIMES)]
    return {
        "start_ps": s.start_ps,
        "now_ps": s.stop_ps if s.stop_ps >= 0 else s.now_ps,
        "events": s.events,
        "calls": s.requests,
        "failed": s.failed,
        "stalls": s.stalls,
        "stall_ps": s.stall_ps,
        "zone_lock": stats_of(s.zone_stats, s.nr_zones, K_KINDS),
        "pcp_lock": stats_of(s.pcp_stats, s.nr_zones, K_KINDS),
        "user_lock": stats_of(s.user_stats, s.nr_user_locks, 1),
        "call_hist": np.frombuffer(bytes((<char *>s.call_hist)[:8 * NR_CALLS * BINS]), np.uint64).reshape(-1, BINS),
        "call_count": np.array([s.call_count[k] for k in range(NR_CALLS)], np.int64),
        "call_ps": np.array([s.call_ps[k] for k in range(NR_CALLS)], np.int64),
        "call_max_ps": np.array([s.call_max_ps[k] for k in range(NR_CALLS)], np.int64),
        "cpu_ps": spent,
        "work": np.array([s.cpu[cpu].work for cpu in range(s.cpus)], np.uint64),
        "samples": np.frombuffer(bytes((<char *>s.sample)[:s.nr_samples * sizeof(Sample)]), np.dtype([
            ("t_ps", "i8"), ("zone", "i8"), ("nr_free", "i8", 11), ("free_pages", "i8"), ("parked_pages", "i8"),
            ("cma_free", "i8"), ("allocated_pages", "i8"), ("owned_blocks", "i8"), ("zone_wait_ps", "i8"),
            ("zone_holds", "i8"), ("allocs", "i8"),
        ])),
    }
