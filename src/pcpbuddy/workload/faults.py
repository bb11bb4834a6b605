"""
Loads in which every CPU frees what it allocated: will-it-scale's page faults, and two to compare with.
"""

from collections.abc import Callable

from ..names import GFP_COMPOSITES, PAGE_SIZE, PAGEBLOCK_ORDER
from .plan import GFP_ANONYMOUS, GFP_PAGE_CACHE, GFP_PGTABLE_USER, MIB, PAGES_PER_MIB, PAGES_PER_TABLE, Kind, Load, Plan
from .program import Program, Queue

# What munmap and exit spend on a present PTE before its page is freed: reverse map and counters, on a page descriptor
# that has left the cache. A miss that nothing hides takes 140 ns and more, hidden ones 10; PTEs are walked in order.
ZAP_NS = 50
# Measured on the Zen 3 server of docs/reference/workloads.md: mmap, touch and munmap of one page 8.3 µs, a fault 2.1.
MAP_NS = 6000
# Writing a copy costs what clearing does (zero_ns); reading the original is 4 KiB from memory at about 10 GB/s.
COPY_NS = 400
# A page fault with clearing is about a microsecond on a bare server; only for the spread of starting times.
FAULT_ABOUT_NS = 1000
RCU_BATCH = 32  # page tables are freed by RCU, in a softirq, some at a time


def page_fault1(plan: Plan, *, mapping_mib: int = 128, order: int = 0) -> Load:
    """
    will-it-scale's page_fault1, a process on each CPU: map anonymous memory, write to every page, unmap it.

    What it stands for: the page fault path by itself, the benchmark by which the zone lock is usually judged.
    The source maps 128 MiB (MEMSIZE) and counts touched pages. Each fault clears its page; each 2 MiB take a page
    table, which is unmovable. munmap frees the pages in the order of their addresses, in folio batches
    (zap_pte_range, then free_pages_and_swap_cache), and the tables one by one. Left out: PMD pages, VMAs.

    mapping_mib: size of the mapping, in steps of 2. order: of the folios that a fault takes (9: huge pages).
    """
    pages = _pages_of(plan, mapping_mib)
    plan.number("order", order, 0, PAGEBLOCK_ORDER)
    gfp = GFP_COMPOSITES["GFP_TRANSHUGE_LIGHT"] if order else GFP_ANONYMOUS
    plan.needs(plan.cpus * mapping_mib * MIB)
    mapped, tables = plan.queues.per_cpu(), plan.queues.per_cpu()

    def iteration(p: Program) -> None:
        with p.repeat(pages // PAGES_PER_TABLE):
            p.alloc(tables, gfp=GFP_PGTABLE_USER, zero=True)
            p.alloc(mapped, PAGES_PER_TABLE >> order, order=order, gfp=gfp, fault=True, zero=True)
            p.work(PAGES_PER_TABLE)
        unmap(p, mapped, pages >> order, tables, pages // PAGES_PER_TABLE)

    _forever(plan, iteration, pages * FAULT_ABOUT_NS)
    return plan.load(unit="pages touched", duration_ns=40e6)


def page_fault2(plan: Plan, *, mapping_mib: int = 128, copy_ns: float = COPY_NS) -> Load:
    """
    will-it-scale's page_fault2, a process on each CPU: map a file of its own privately, write to every page, unmap it.

    What it stands for: copy on write. The first iteration brings the file (128 MiB in the source, sparse) into the page
    cache, where it stays; each fault then takes a page and copies into it. As page_fault1 otherwise.

    mapping_mib: size of file and mapping, in steps of 2. copy_ns: to read the 4 KiB that are copied.
    """
    pages = _pages_of(plan, mapping_mib)
    plan.number("copy_ns", copy_ns, 0, 1e6)
    plan.needs(2 * plan.cpus * mapping_mib * MIB)
    mapped, tables, cached = plan.queues.per_cpu(), plan.queues.per_cpu(), plan.queues.per_cpu()

    def iteration(p: Program) -> None:
        with p.repeat(pages // PAGES_PER_TABLE):
            p.alloc(tables, gfp=GFP_PGTABLE_USER, zero=True)
            p.alloc(mapped, PAGES_PER_TABLE, fault=True, zero=True, each_ns=copy_ns)
            p.work(PAGES_PER_TABLE)
        unmap(p, mapped, pages, tables, pages // PAGES_PER_TABLE)

    def read_file(p: Program) -> None:
        p.alloc(cached, pages, gfp=GFP_PAGE_CACHE, zero=True)
        iteration(p)

    _forever(plan, iteration, pages * FAULT_ABOUT_NS, read_file)
    return plan.load(unit="pages touched", duration_ns=40e6)


def malloc1(plan: Plan, *, map_ns: float = MAP_NS) -> Load:
    """
    will-it-scale's malloc1, a process on each CPU: malloc and free of 128 MiB.

    What it stands for: the shortest way from the allocator to the user and back. malloc maps so much memory and writes
    its header into the first page; free unmaps it. So an iteration takes one page and one page table; the table is
    freed later, with others, from RCU's softirq. Nothing here outgrows a PCP: the zone lock should not matter.

    map_ns: the two system calls.
    """
    plan.number("map_ns", map_ns, 0, 1e9)
    plan.needs(plan.cpus * MIB)
    mapped, tables = plan.queues.per_cpu(), plan.queues.per_cpu()

    def iteration(p: Program) -> None:
        with p.repeat(RCU_BATCH):
            p.think(map_ns, "exponential")
            p.alloc(tables, gfp=GFP_PGTABLE_USER, zero=True)
            p.alloc(mapped, gfp=GFP_ANONYMOUS, fault=True, zero=True)
            p.free(mapped, batch=True, each_ns=ZAP_NS)
            p.work()
        p.free(tables, RCU_BATCH, "oldest", irq=True)

    _forever(plan, iteration, RCU_BATCH * map_ns)
    return plan.load(unit="iterations", duration_ns=50e6)


def local_loop(plan: Plan, *, pages: int = 32, think_ns: float = 1000) -> Load:
    """
    Each CPU takes a few pages and gives them back, newest first, without end.

    The control: half a batch (63) never leaves the PCP, so no policy should change anything but the fast path itself.
    Any difference that a policy shows here is its overhead.

    pages: taken in a row. think_ns: mean time between two rounds.
    """
    plan.number("pages", pages, 1, 1 << 20)
    plan.number("think_ns", think_ns, 0, 1e9)
    plan.needs(plan.cpus * pages * PAGE_SIZE)
    mine = plan.queues.per_cpu()

    def iteration(p: Program) -> None:
        p.think(think_ns, "exponential")
        p.alloc(mine, pages)
        p.free(mine, pages)
        p.work(pages)

    _forever(plan, iteration, pages * 100 + think_ns)
    return plan.load(unit="pages", duration_ns=2e6)


def interleave(plan: Plan, *, turn: int = 1, pages: int = 6144, rounds: int = 2) -> Load:
    """
    All CPUs take pages in turns of N, then each frees its own, all at once.

    The vectors S3 and S5 (docs/reference/rfc.md, section 17: 2048 and 6144 pages a CPU) for any number of CPUs, as
    claim K-22 needs them: pages that lie side by side belong to different CPUs if the policy lets refills interleave,
    and then they can only merge where they meet again. A first-come lock keeps the turns. Measured from the start, as
    the vectors are. Memory is 128 MiB for each CPU, unless it is given: high_max is then 4096 (B-13), as in S5, and
    part of the pages has to leave the PCPs.

    turn: N. pages: of each CPU and round. rounds: how often.
    """
    plan.number("turn", turn, 1, pages)
    plan.number("pages", pages, 1, 1 << 20)
    plan.number("rounds", rounds, 1, 1 << 20)
    plan.needs(plan.cpus * pages * PAGE_SIZE, least_per_cpu=0)
    mine, lock = plan.queues.per_cpu(), plan.lock()
    begun, taken, freed = plan.barrier(), plan.barrier(), plan.barrier()
    for p, first in plan.programs("turns", range(plan.cpus)):
        plan.measure(p, first, begun, plan.cpus)
        with p.repeat(rounds):
            with p.repeat(pages // turn):
                p.lock(lock)
                p.alloc(mine, turn)
                p.unlock(lock)
            p.barrier(taken, plan.cpus)
            p.free(mine, pages, "oldest")
            p.work(pages // turn * turn)
            p.barrier(freed, plan.cpus)
    return plan.load(unit="pages")


def _pages_of(plan: Plan, mapping_mib: int) -> int:
    """
    Pages of a mapping: whole page tables.
    """
    plan.number("mapping_mib", mapping_mib, 2, 1 << 20)
    return mapping_mib * PAGES_PER_MIB // PAGES_PER_TABLE * PAGES_PER_TABLE


def unmap(p: Program, mapped: Queue, folios: int, tables: Queue, nr_tables: int) -> None:
    """
    munmap, or the end of a process.
    """
    p.free(mapped, folios, "oldest", batch=True, each_ns=ZAP_NS)
    p.free(tables, nr_tables, "oldest")


def _forever(
    plan: Plan,
    iteration: Callable[[Program], None],
    spread_ns: float,
    warm_up: Callable[[Program], None] | None = None,
) -> None:
    """
    The same loop on all CPUs, measured after one iteration.
    """
    warm = plan.barrier()
    for p, first in plan.programs("loop", range(plan.cpus)):
        (warm_up or iteration)(p)
        plan.measure(p, first, warm, plan.cpus, spread_ns)
        with p.forever():
            iteration(p)


WIS = "will-it-scale, tests/"
KINDS = (
    Kind("wis/page_fault1", "map 128 MiB, touch every page, unmap, on every CPU", f"{WIS}page_fault1.c", page_fault1),
    Kind("wis/page_fault2", "the same with a private mapping of a file", f"{WIS}page_fault2.c", page_fault2),
    Kind("wis/malloc1", "malloc and free of 128 MiB, of which one page is touched", f"{WIS}malloc1.c", malloc1),
    Kind("local/loop", "every CPU takes and frees a few pages: nothing should change", "a control", local_loop),
    Kind(
        "interleave/N",
        "CPUs take pages in turns of N, then free their own (interleave/1, interleave/64 ...)",
        "docs/reference/rfc.md, sections 17 (S3, S5) and 19 (K-22)",
        interleave,
    ),
)
