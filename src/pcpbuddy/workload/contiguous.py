"""
Loads that take memory back: contiguous buffers out of a CMA area, CPUs and memory blocks that go and come.
"""

from ..names import PAGE_SIZE, PAGEBLOCK_PAGES
from .faults import COPY_NS, ZAP_NS, unmap
from .plan import GFP_ANONYMOUS, GFP_PGTABLE_USER, MIB, PAGES_PER_MIB, PAGES_PER_TABLE, Kind, Load, Plan
from .program import Program, Queue

# Moving a page: unmap it everywhere and flush, copy it, map the copy. Unmapping and mapping are about a fault less its
# clearing (660 ns on the server of the cost model), the flush interrupts other CPUs (some hundred ns), COPY_NS twice.
MOVE_NS = 2000
PARTS = 16  # of a process's memory: one is dropped and touched again at a time
PART_NS = 2_000_000  # time between two such parts
BYTES_PER_BLOCK = PAGEBLOCK_PAGES * PAGE_SIZE


def _churn(p: Program, touched: Queue, part: int) -> None:
    """
    A part of a process's memory is dropped, at random, and touched again.
    """
    p.free(touched, part, "random", batch=True, each_ns=ZAP_NS)
    p.alloc(touched, part, gfp=GFP_ANONYMOUS, fault=True, zero=True)
    p.think(PART_NS, "exponential")


def cma_alloc(
    plan: Plan,
    *,
    buffer_mib: int = 16,
    align: int = 8,
    fill: float = 0.6,
    use_us: float = 5000,
    move_ns: float = MOVE_NS,
) -> Load:
    """
    A driver takes a contiguous buffer out of a CMA area that processes use, and gives it back, again and again.

    What it stands for: a camera or video decoder on a phone or board. A process on each CPU touches its share of memory
    and keeps dropping and touching parts of it. On CPU 0 the driver allocates a buffer with cma_alloc, uses it, and
    releases it; everything movable in the buffer's place has to be moved out first.

    buffer_mib: of one buffer. align: order of its alignment (the kernel's CONFIG_CMA_ALIGNMENT is 8). fill: share of
    memory that the processes use. use_us: mean time that a buffer is used, and between two. move_ns: for each page
    moved.
    Memory: 64 MiB for each CPU, unless it is given. cma is 0.5 here, unless it is given; with less than half of
    free memory in CMA blocks, mainline's 50 % rule (B-40) keeps the processes out of them.
    """
    plan.number("buffer_mib", buffer_mib, 1, 1 << 14)
    plan.number("align", align, 0, 20)
    plan.number("fill", fill, 0.01, 0.9)
    plan.number("use_us", use_us, 1, 1e7)
    plan.number("move_ns", move_ns, 0, 1e6)
    memory_bytes = plan.needs(plan.cpus * MIB, head_room=1, least_per_cpu=64 * MIB)
    pages = int(memory_bytes * fill * (plan.fragment or 1)) // PAGE_SIZE // plan.cpus
    part = max(1, pages // PARTS)
    touched, buffers = plan.queues.per_cpu(), plan.queues.shared()
    warm = plan.barrier()

    def drive(p: Program) -> None:
        p.cma_alloc(buffers, buffer_mib * PAGES_PER_MIB, align=align, move_ns=move_ns)
        p.think(use_us * 1000, "exponential")
        p.cma_release(buffers, buffer_mib * PAGES_PER_MIB)
        p.work()
        _churn(p, touched, part)

    def process(p: Program, drives: bool) -> None:
        with p.forever():
            if drives:
                drive(p)
            else:
                _churn(p, touched, part)

    for p, first in plan.programs("driver and process", [0]):
        p.alloc(touched, pages, gfp=GFP_ANONYMOUS, fault=True, zero=True)
        plan.measure(p, first, warm, plan.cpus, PART_NS)
        process(p, True)
    for p, _ in plan.programs("process", range(1, plan.cpus)) if plan.cpus > 1 else ():
        p.alloc(touched, pages, gfp=GFP_ANONYMOUS, fault=True, zero=True)
        plan.measure(p, False, warm, plan.cpus, PART_NS)
        process(p, False)
    return plan.load(unit="buffers asked for", duration_ns=500e6)


def cycle(
    plan: Plan, *, block_mib: int = 128, away_us: float = 2000, mapping_mib: int = 8, move_ns: float = MOVE_NS
) -> Load:
    """
    A CPU and a memory block go off-line and come back, in turns, while every CPU touches and unmaps memory.

    What it stands for: virtual machines that grow and shrink, and firmware that takes a failing module away. CPU 0
    takes the last CPU off-line, brings it back, then a memory block, which is emptied first (offline_pages), and brings
    that back. Each CPU maps, touches and unmaps as in wis/page_fault1 all the while, CPU 0 between its other work.

    block_mib: of a memory block (128 on x86 up to 64 GiB of memory). away_us: mean time off-line, and between two.
    mapping_mib: of each process, in steps of 2. move_ns: for each page moved.
    """
    plan.number("block_mib", block_mib, 2, 1 << 12)
    plan.number("away_us", away_us, 1, 1e7)
    plan.number("mapping_mib", mapping_mib, 2, 1 << 14)
    plan.number("move_ns", move_ns, 0, 1e6)
    pages = mapping_mib * PAGES_PER_MIB // PAGES_PER_TABLE * PAGES_PER_TABLE
    memory_bytes = plan.needs(plan.cpus * mapping_mib * MIB + 2 * block_mib * MIB)
    blocks = block_mib * MIB // BYTES_PER_BLOCK
    middle = memory_bytes // plan.nodes // BYTES_PER_BLOCK // 2 // blocks * blocks
    mapped, tables = plan.queues.per_cpu(), plan.queues.per_cpu()
    warm = plan.barrier()

    def iteration(p: Program) -> None:
        with p.repeat(pages // PAGES_PER_TABLE):
            p.alloc(tables, gfp=GFP_PGTABLE_USER, zero=True)
            p.alloc(mapped, PAGES_PER_TABLE, gfp=GFP_ANONYMOUS, fault=True, zero=True)
        unmap(p, mapped, pages, tables, pages // PAGES_PER_TABLE)
        p.work()

    def hotplug(p: Program) -> None:
        for away in (p.offline, p.online) if plan.cpus > 1 else ():
            away(plan.cpus - 1)
            p.think(away_us * 1000, "exponential")
            iteration(p)
        p.offline_memory(middle, blocks, move_ns=move_ns)
        p.think(away_us * 1000, "exponential")
        iteration(p)
        p.online_memory(middle, blocks)
        p.think(away_us * 1000, "exponential")

    for p, first in plan.programs("hotplug", [0]):
        iteration(p)
        plan.measure(p, first, warm, plan.cpus, COPY_NS * pages)
        with p.forever():
            hotplug(p)
    for p, _ in plan.programs("process", range(1, plan.cpus)) if plan.cpus > 1 else ():
        iteration(p)
        plan.measure(p, False, warm, plan.cpus, COPY_NS * pages)
        with p.forever():
            iteration(p)
    return plan.load(unit="mappings", duration_ns=100e6)


KINDS = (
    Kind(
        "cma/alloc",
        "a driver takes contiguous buffers out of a CMA area that processes use, and gives them back",
        "mm/cma.c; Documentation/mm (what a CMA area is for)",
        cma_alloc,
        {"cma": 0.5},
    ),
    Kind(
        "hotplug/cycle",
        "a CPU and a memory block go off-line and come back while every CPU touches memory",
        "mm/memory_hotplug.c; Documentation/admin-guide/mm/memory-hotplug.rst (block sizes)",
        cycle,
    ),
)
