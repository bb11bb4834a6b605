"""
Loads that the proposal was made for: pages freed on other CPUs than took them, and many processes that end at once.
"""

from ..names import PAGE_SIZE
from .faults import ZAP_NS, unmap
from .plan import GFP_ANONYMOUS, GFP_PAGE_CACHE, GFP_PGTABLE_USER, MIB, PAGES_PER_MIB, PAGES_PER_TABLE, Kind, Load, Plan
from .program import Program, Queue

MADVISE_NS = 1000  # a system call with a TLB flush, for each extent
SWAP_CLUSTER_MAX = 32  # pages that reclaim takes off an LRU list at a time
READAHEAD_PAGES = 32  # read_ahead_kb is 128
ISOLATE_NS = 1000  # the LRU lock and the walk, for each SWAP_CLUSTER_MAX pages
FILLED = 0.95  # of memory, before the readers begin in earnest
STOCK = 8  # PCPs may hold an eighth of memory (B-13) when it has been filled
SETTLED = 8  # turns of a loop after which queues and PCPs have their ordinary length


def jemalloc(
    plan: Plan, *, purgers: int = 0, extent_pages: int = 64, live_mib: int = 4, use_ns: float = 2000, backlog: int = 8
) -> Load:
    """
    A server whose threads touch fresh memory on all CPUs, and a few threads that give the old memory back.

    What it stands for: case 1 of the proposal, memory purged by a few allocator threads. With background_thread on,
    jemalloc leaves MADV_DONTNEED to threads of its own: 4 unless it is told otherwise, however many threads allocate
    (DEFAULT_NUM_BACKGROUND_THREAD). So nearly every page is freed on another CPU than took it. A working thread takes
    an extent, touches its pages, and gives back its oldest; a purger drops extents of its share of the threads, in
    folio batches. A thread sleeps when its purger is too far behind. jemalloc lets extents age for 10 s
    (dirty_decay_ms); only their order matters to the allocator, so here they age for as long as the queues are deep.

    purgers: 0 takes one for 16 CPUs (4 for 64). extent_pages: 256 KiB, what holds many small classes. live_mib: a
    thread's working set. use_ns: of a page, besides its fault; with 2 µs a purger can keep up with its 15 threads.
    backlog: extents of a thread that may wait. On one CPU the thread purges by itself.
    """
    plan.number("purgers", purgers, 0, max(plan.cpus - 1, 0))
    plan.number("extent_pages", extent_pages, 1, 1 << 16)
    plan.number("live_mib", live_mib, 1, 1 << 16)
    plan.number("use_ns", use_ns, 0, 1e9)
    plan.number("backlog", backlog, 1, 1 << 10)
    live = live_mib * PAGES_PER_MIB
    plan.needs(plan.cpus * (live + (2 * backlog + 2) * extent_pages) * PAGE_SIZE)
    purgers = min(purgers or max(1, plan.cpus // 16), plan.cpus - 1)
    held, warm = plan.queues.per_cpu(), plan.barrier()
    dirty = [plan.queues.shared() for _ in range(max(purgers, 1))]
    # Spread over the machine, as the scheduler would spread them; the others take turns in who purges for them.
    purging = [k * plan.cpus // purgers for k in range(purgers)]
    working = [cpu for cpu in range(plan.cpus) if cpu not in purging]

    def extent(p: Program, queue: int, threads: int) -> None:
        p.wait_at_most(dirty[queue], backlog * extent_pages * threads)
        p.alloc(held, extent_pages, gfp=GFP_ANONYMOUS, fault=True, zero=True)
        p.think(use_ns * extent_pages, "exponential")
        p.move(held, dirty[queue], extent_pages)
        p.work(extent_pages)

    def purge(p: Program, queue: int) -> None:
        p.free(dirty[queue], extent_pages, "oldest", batch=True, each_ns=ZAP_NS)
        p.think(MADVISE_NS)

    for queue, cpu in enumerate(purging):
        for p, _ in plan.programs("purger", [cpu]):
            with p.forever():
                p.wait_at_least(dirty[queue], extent_pages)
                purge(p, queue)
    first_of_all = working[0]
    for queue in range(len(dirty)):
        mine = working[queue :: len(dirty)]
        for p, first in plan.programs("thread", mine):
            p.alloc(held, live, gfp=GFP_ANONYMOUS, fault=True, zero=True)
            with p.repeat(SETTLED):
                extent(p, queue, len(mine))
                if not purgers:
                    purge(p, queue)
            plan.measure(p, first and mine[0] == first_of_all, warm, len(working))
            with p.forever():
                extent(p, queue, len(mine))
                if not purgers:
                    purge(p, queue)
    return plan.load(unit="pages touched", duration_ns=80e6)


def storm(
    plan: Plan,
    *,
    touch_mib: int = 64,
    rounds: int = 2,
    warm_up: int = 1,
    jitter_us: float = 20,
    only_exit: bool = False,
) -> Load:
    """
    A process on each CPU touches its memory; then all end at once.

    What it stands for: case 2 of the proposal, concurrent exits of large processes, as when a job of many workers is
    over or a container is killed. An exit frees the pages in the order of their addresses (zap_pte_range), in folio
    batches of 31 (free_pages_and_swap_cache), then the page tables. The next round is the next job.

    touch_mib: of each process; 256 on 256 CPUs touches 64 GiB. rounds: that are measured. warm_up: rounds before.
    jitter_us: all begin to exit within that time; wake-ups of many CPUs take so long. only_exit: measure the last exit
    alone.
    Memory: four times what is touched, unless it is given. What counts is a process beside what its CPU's lists may
    hold, an eighth of the CPU's share of memory (B-13): here twice as much. A process of less than that meets no zone
    lock once the lists have grown.
    """
    plan.number("touch_mib", touch_mib, 2, 1 << 20)
    plan.number("rounds", rounds, 1, 1 << 20)
    plan.number("warm_up", warm_up, 0, 1 << 20)
    plan.number("jitter_us", jitter_us, 0, 1e6)
    tables = -(-touch_mib * PAGES_PER_MIB // PAGES_PER_TABLE)
    pages = tables * PAGES_PER_TABLE
    plan.needs(plan.cpus * pages * PAGE_SIZE, least_per_cpu=0)
    touched, mapped = plan.queues.per_cpu(), plan.queues.per_cpu()
    warm, all_touched, all_gone = plan.barrier(), plan.barrier(), plan.barrier()

    def touch(p: Program) -> None:
        with p.repeat(tables):
            p.alloc(mapped, gfp=GFP_PGTABLE_USER, zero=True)
            p.alloc(touched, PAGES_PER_TABLE, gfp=GFP_ANONYMOUS, fault=True, zero=True)
        p.barrier(all_touched, plan.cpus)

    def leave(p: Program) -> None:
        p.think(jitter_us * 500, "uniform")
        unmap(p, touched, pages, mapped, tables)
        p.work()
        p.barrier(all_gone, plan.cpus)

    for p, first in plan.programs("process", range(plan.cpus)):
        with p.repeat(warm_up):
            touch(p)
            leave(p)
        if not only_exit:
            plan.measure(p, first, warm, plan.cpus)
        with p.repeat(rounds - only_exit):
            touch(p)
            leave(p)
        if only_exit:
            touch(p)
            plan.measure(p, first, warm, plan.cpus)
            leave(p)
    return plan.load(unit="exits")


def kswapd(plan: Plan, *, direct: float = -1.0, read_ns: float = 20000, reclaim_ns: float = 500) -> Load:
    """
    Readers on all CPUs fill the page cache for good, and reclaim makes room for what they read next.

    What it stands for: a file server or a backup in steady state, all memory in use. Readers take pages by readahead,
    128 KiB at a time. While free memory is below the high watermark, kswapd of the node (its first CPU) takes pages
    from the tail of the LRU list, 32 at a time (SWAP_CLUSTER_MAX), and frees them in folio batches, about as many in
    a row as lie between two watermarks. (In the kernel it begins below low and goes on until high; under a load that
    never ends it is always between them.) Below the low watermark readers wait. A reader also reclaims by itself
    (direct reclaim) what is beyond kswapd's strength; the one CPU of a node reclaims all, before each read. Every page
    is freed by a CPU that happened to reach the tail of the LRU list. Only clean, single pages: no writeback, no swap,
    no large folios.

    direct: share of pages that readers reclaim by themselves; below 0: what is beyond one kswapd. read_ns: a reader's
    time for a page (20 µs is 200 MB/s, of a program that looks at its data). reclaim_ns: to take a clean page out of
    the page cache, besides freeing it (2 million a second, 8 GB/s, when nothing disturbs).
    Memory: 64 MiB for each CPU, unless it is given; it is always full. Measured once an eighth of it has been read, for
    that much of the filling may still lie in PCPs before.
    """
    plan.number("direct", direct, -1, 1)
    plan.number("read_ns", read_ns, 0, 1e9)
    plan.number("reclaim_ns", reclaim_ns, 0, 1e9)
    pages = plan.needs(plan.cpus * MIB, head_room=1, least_per_cpu=64 * MIB) // PAGE_SIZE
    nodes = [[cpu for cpu in range(plan.cpus) if plan.node(cpu) == node] for node in range(plan.nodes)]
    readers = sum(max(1, len(node) - 1) for node in nodes)
    each = int(pages * (plan.fragment or 1) * FILLED) // readers
    rest = -(-int(pages * (1 - FILLED)) // (readers * READAHEAD_PAGES))
    settled = max(SETTLED, -(-pages // STOCK // (readers * READAHEAD_PAGES)))  # until that stock is gone
    warm = plan.barrier()
    for cpus in nodes:
        lru = plan.queues.shared()
        others = cpus[1:] or cpus
        alone = len(cpus) == 1  # nobody makes room for the one reader but itself, before each read
        # What one kswapd can do, in readers.
        served = read_ns / (reclaim_ns + ISOLATE_NS / SWAP_CLUSTER_MAX)
        share = direct if direct >= 0 else max(0.0, 1 - served / len(others))

        def reclaim(p: Program, lru: Queue = lru) -> None:
            p.think(ISOLATE_NS)
            p.free(lru, SWAP_CLUSTER_MAX, "oldest", batch=True, each_ns=reclaim_ns)

        def take(p: Program, lru: Queue = lru, alone: bool = alone) -> None:
            if not alone:
                p.wait_free("above", "low")
            p.alloc(lru, READAHEAD_PAGES, gfp=GFP_PAGE_CACHE)

        def read(p: Program, share: float = share, alone: bool = alone) -> None:
            p.think(read_ns * READAHEAD_PAGES, "exponential")
            if alone:
                reclaim(p)
            take(p)
            if not alone:
                with p.chance(share):
                    reclaim(p)
            p.work(READAHEAD_PAGES)

        for p, first in plan.programs("reader", others):
            p.alloc(lru, each, gfp=GFP_PAGE_CACHE)
            with p.repeat(0 if alone else rest):
                take(p)
            with p.repeat(settled):
                read(p)
            plan.measure(p, first and others[0] == min(nodes[0][1:] or nodes[0]), warm, readers)
            with p.forever():
                read(p)
        if not alone:
            for p, _ in plan.programs("kswapd", cpus[:1]):
                with p.forever():
                    p.wait_free("below", "high")
                    p.reclaim(True)
                    with p.repeat(max(1, pages // plan.nodes // 1000 // SWAP_CLUSTER_MAX)):
                        reclaim(p)
                    p.reclaim(False)
    return plan.load(unit="pages read", duration_ns=100e6)


JEMALLOC = "jemalloc 5, src/background_thread.c and doc (background_thread, max_background_threads, dirty_decay_ms)"
KINDS = (
    Kind("purge/jemalloc", "threads touch memory, a few purger threads free it", JEMALLOC, jemalloc),
    Kind("exit/storm", "a large process on every CPU, and all exit at once", "mm/memory.c, mm/mmu_gather.c", storm),
    Kind("reclaim/kswapd", "readers fill memory with page cache, kswapd makes room", "mm/vmscan.c", kswapd),
)
