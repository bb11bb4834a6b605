"""
Loads that mix migratetypes and orders: builds, pipes, CMA.
"""

from ..names import PAGE_SIZE
from .faults import COPY_NS, ZAP_NS, unmap
from .plan import (
    GFP_ANONYMOUS,
    GFP_PAGE_CACHE,
    GFP_PGTABLE_USER,
    GFP_PIPE,
    GFP_SLAB,
    GFP_SLAB_RECLAIMABLE,
    GFP_STACK,
    MIB,
    PAGES_PER_MIB,
    PAGES_PER_TABLE,
    Kind,
    Load,
    Plan,
)
from .program import Program, Queue

# build/kernel. A defconfig build: 29,135 processes, 31.5 million page faults, 1079 s of user time, so 1081 faults and
# 37 ms a process and 34 µs a fault; one with all modules: 24 µs a fault, 19 CPU migrations a second of CPU time, so
# 0.7 a process (perf.mvermeulen.com, phoronix/build-linux-kernel). Most migrations are at exec, with little memory yet.
SMALL_PER_JOB = 4  # sh, the compiler's driver, assembler, fixdep and objtool for one compiler
SMALL_FAULTS = 400
COMPILER_FAULTS = 3800  # so that the mean is 1080
FAULTS_IN_A_ROW = 20  # memory is first touched in bursts, as arenas grow
TABLES = 24  # PGD to PTE pages of a process with its libraries
PAGES_PER_PTE_TABLE = 256  # of a heap that is not dense
SLAB_PAGES = 4  # that a process makes slabs grow by, for a time
SLAB_ORDER = 3
INODE_ORDER = 2
PATH_NS = 100_000  # fork, exec and exit, besides pages

PIPE_CACHED = 2  # pages that a pipe keeps for itself (pipe_inode_info.tmp_page)
PIPE_NS = 2000  # a system call and the wake-up of the other end
PARTS = 16  # pieces of a mapping that are dropped


def kernel(plan: Plan, *, user_ns: float = 34000, migrate: float = 0.3, cache_mib: int = 16) -> Load:
    """
    Make -jN of a kernel: on each CPU one short process after the other.

    What it stands for: the published measurements of this path (make -j28 eightfold on 224 CPUs, make -j112), and any
    load of many short processes. A job is four small processes and a compiler. Each process takes a kernel stack
    (order 2), page tables and slabs (unmovable), inodes and dentries (reclaimable, they stay), anonymous memory (one
    fault after the other, with the user's time between), and writes a file (page cache, it stays). Its exit frees the
    anonymous memory in folio batches, then the tables; the slabs it filled empty at random. Some processes move to
    another CPU half-way, with their memory.

    user_ns: of user time for each page fault; make it smaller to press harder. migrate: share of processes that move.
    cache_mib: page cache of each CPU before.
    """
    plan.number("user_ns", user_ns, 0, 1e9)
    plan.number("migrate", migrate, 0, 1)
    plan.number("cache_mib", cache_mib, 0, 1 << 20)
    cached = cache_mib * PAGES_PER_MIB
    # A process in transit counts too, and so do the files written in a run of some seconds.
    plan.needs(plan.cpus * (2 * COMPILER_FAULTS + cached + 2 * PAGES_PER_MIB) * PAGE_SIZE)
    queues = plan.queues
    anonymous, tables, stacks = queues.per_cpu(), queues.per_cpu(), queues.per_cpu()
    slabs, inodes, files, moving = queues.per_cpu(), queues.shared(), queues.shared(), queues.shared()
    warm = plan.barrier()

    def process(p: Program, faults: int, file_pages: int) -> None:
        nr_tables = TABLES + faults // PAGES_PER_PTE_TABLE
        p.think(PATH_NS, "exponential")
        p.alloc(stacks, order=2, gfp=GFP_STACK, zero=True)
        p.alloc(tables, nr_tables, gfp=GFP_PGTABLE_USER, zero=True)
        p.alloc(slabs, SLAB_PAGES, gfp=GFP_SLAB)
        p.alloc(slabs, order=SLAB_ORDER, gfp=GFP_SLAB)
        for half in (0, 1):
            with p.repeat(faults // FAULTS_IN_A_ROW // 2):
                p.think(user_ns * FAULTS_IN_A_ROW, "exponential")
                p.alloc(anonymous, FAULTS_IN_A_ROW, gfp=GFP_ANONYMOUS, fault=True, zero=True)
            if half == 0:
                # One comes that left another CPU before, if there is one, and this one goes.
                with p.chance(migrate):
                    p.move(moving, anonymous, faults // 2)
                    p.move(anonymous, moving, faults // 2)
        p.alloc(inodes, gfp=GFP_SLAB_RECLAIMABLE)
        with p.chance(0.25):
            p.alloc(inodes, order=INODE_ORDER, gfp=GFP_SLAB_RECLAIMABLE)
        p.alloc(files, file_pages, gfp=GFP_PAGE_CACHE)
        unmap(p, anonymous, faults, tables, nr_tables)
        p.free(stacks, irq=True)
        p.free(slabs, SLAB_PAGES + 1, "random")
        p.work()

    def job(p: Program) -> None:
        with p.repeat(SMALL_PER_JOB):
            process(p, SMALL_FAULTS, 1)
        process(p, COMPILER_FAULTS, 16)

    for p, first in plan.programs("make", range(plan.cpus)):
        if cached:
            p.alloc(files, cached, gfp=GFP_PAGE_CACHE)
        p.alloc(slabs, 8 * SLAB_PAGES, gfp=GFP_SLAB)
        job(p)
        plan.measure(p, first, warm, plan.cpus, user_ns * SMALL_FAULTS)
        with p.forever():
            job(p)
    return plan.load(unit="processes", duration_ns=600e6)


def pingpong(plan: Plan, *, message_pages: int = 16, reply_pages: int = 1, copy_ns: float = COPY_NS) -> Load:
    """
    Two tasks on neighbouring CPUs talk through pipes: a long message one way, a short reply the other.

    What it stands for: producers and consumers that pass data through the kernel (pipes, sockets, logs). A writer takes
    a page for each 4 KiB (unmovable), the reader frees it once it is read: one CPU only takes, the other only frees. A
    pipe keeps two pages for itself, so short messages cost no pages at all. With equal lengths both ways, the pages
    that a reader freed serve its own next message.

    message_pages: 16 fill a pipe (64 KiB). reply_pages: of the answer. copy_ns: for a page, on each side. An odd CPU
    out does both sides.
    """
    plan.number("message_pages", message_pages, 1, 1 << 10)
    plan.number("reply_pages", reply_pages, 0, 1 << 10)
    plan.number("copy_ns", copy_ns, 0, 1e6)
    taken = [max(0, pages - PIPE_CACHED) for pages in (message_pages, reply_pages)]
    plan.needs(plan.cpus * (message_pages + reply_pages + 2) * PAGE_SIZE)
    pipes = [plan.queues.per_pair(), plan.queues.per_pair()]
    # Whose turn it is has a token in its queue: a short message has no page that the other side could wait for.
    turn = plan.queues.per_cpu()
    writers_turn, readers_turn = Queue(turn.first - 1, "cpu"), Queue(turn.first + 1, "cpu")  # as the other side sees it
    warm = plan.barrier()
    writers = list(range(0, plan.cpus - 1, 2))
    readers = [cpu + 1 for cpu in writers]
    alone = [plan.cpus - 1] if plan.cpus % 2 else []
    lengths = (message_pages, reply_pages)

    def send(p: Program, way: int) -> None:
        p.think(PIPE_NS + copy_ns * lengths[way], "exponential")
        if taken[way]:
            p.alloc(pipes[way], taken[way], gfp=GFP_PIPE)
        p.work()

    def receive(p: Program, way: int) -> None:
        p.think(PIPE_NS + copy_ns * lengths[way], "exponential")
        if taken[way]:
            p.free(pipes[way], taken[way], "oldest")

    def write(p: Program) -> None:
        send(p, 0)
        p.move(turn, readers_turn)
        p.wait_at_least(turn, 1)
        receive(p, 1)

    def read(p: Program) -> None:
        p.wait_at_least(turn, 1)
        receive(p, 0)
        send(p, 1)
        p.move(turn, writers_turn)

    for p, first in plan.programs("writer", writers) if writers else ():
        p.alloc(turn, gfp=GFP_PIPE)
        with p.repeat(PARTS):
            write(p)
        plan.measure(p, first, warm, len(writers), 8 * PIPE_NS)
        with p.forever():
            write(p)
    for p, _ in plan.programs("reader", readers) if readers else ():
        with p.forever():
            read(p)
    for p, _ in plan.programs("both", alone) if alone else ():
        if not writers:
            p.measure()
        with p.forever():
            for way in (0, 1):
                send(p, way)
                receive(p, way)
    return plan.load(unit="messages", duration_ns=50e6)


def pressure(plan: Plan, *, fill: float = 0.75, pipe_rounds: int = 256, rounds: int = 1) -> Load:
    """
    Processes that use most of memory, of which more than half is a CMA area, and drop and touch parts of it again.

    What it stands for: a phone or a board with a large CMA area for its camera or display, which movable memory may use
    while it is not needed; and the recordings ``cma-*`` of this project, whose workload it repeats: one process on each
    CPU touches its share of memory to three quarters, does pipe traffic (unmovable, which may not use CMA), drops half
    of its memory in random parts (MADV_DONTNEED), touches it all again, and exits. One round warms up. Nothing calls
    cma_alloc.

    fill: share of memory in use. pipe_rounds: messages of 16 pages through a pipe. rounds: measured.
    Memory: 64 MiB for each CPU, unless it is given. cma is 0.6 here, unless it is given.
    """
    plan.number("fill", fill, 0.01, 0.9)
    plan.number("pipe_rounds", pipe_rounds, 0, 1 << 20)
    plan.number("rounds", rounds, 1, 1 << 20)
    memory_bytes = plan.needs(plan.cpus * MIB, head_room=1, least_per_cpu=64 * MIB)
    pages = int(memory_bytes * fill * (plan.fragment or 1)) // PAGE_SIZE // plan.cpus
    part = max(1, pages // (2 * PARTS))
    touched, tables, pipe = plan.queues.per_cpu(), plan.queues.per_cpu(), plan.queues.per_cpu()
    warm, begun, over = plan.barrier(), plan.barrier(), plan.barrier()
    nr_tables = -(-pages // PAGES_PER_TABLE)

    def round_(p: Program) -> None:
        p.barrier(begun, plan.cpus)
        p.alloc(tables, nr_tables, gfp=GFP_PGTABLE_USER, zero=True)
        p.alloc(touched, pages, gfp=GFP_ANONYMOUS, fault=True, zero=True)
        with p.repeat(pipe_rounds):
            p.think(PIPE_NS, "exponential")
            p.alloc(pipe, PARTS, gfp=GFP_PIPE, each_ns=COPY_NS)
            p.free(pipe, PARTS, "oldest", each_ns=COPY_NS)
        with p.repeat(PARTS):
            p.free(touched, part, "random", batch=True, each_ns=ZAP_NS)
        p.alloc(touched, PARTS * part, gfp=GFP_ANONYMOUS, fault=True, zero=True)
        unmap(p, touched, pages, tables, nr_tables)
        p.work()
        p.barrier(over, plan.cpus)

    for p, first in plan.programs("process", range(plan.cpus)):
        round_(p)
        plan.measure(p, first, warm, plan.cpus)
        with p.repeat(rounds):
            round_(p)
    return plan.load(unit="processes")


BUILDS = "perf.mvermeulen.com, phoronix/build-linux-kernel (counts); Huang Ying, PCP high auto-tuning v3 (the load)"
KINDS = (
    Kind("build/kernel", "short processes of all migratetypes, as make -jN starts them", BUILDS, kernel),
    Kind("pipe/pingpong", "pairs of CPUs talk through pipes", "fs/pipe.c", pingpong),
    Kind(
        "cma/pressure",
        "processes that use three quarters of memory, more than half of which is CMA",
        "the recordings cma-* of this project",
        pressure,
        {"cma": 0.6},
    ),
)
