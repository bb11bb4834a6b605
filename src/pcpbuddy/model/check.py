"""
The invariants of rfc.md section 14 that one state can show, and the accounting (1.6, 1.10).
"""

from collections.abc import Iterator

from ..errors import Corruption
from ..names import (
    CMA,
    HIGHATOMIC,
    ISOLATE,
    MAX_PAGE_ORDER,
    NR_MIGRATETYPES,
    NR_ORDERS,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
)
from .memory import NOBODY, NR_FREE, NR_FREE_BLOCKS, NR_FREE_CMA, Chunk, Entry, Memory, Pcp
from .pcp import Layout


def runs(memory: Memory) -> Iterator[tuple[int, int, str]]:
    """
    (pfn, order, state) of every run of pages that is somewhere (P-5).
    """
    for pfn, chunk in memory.chunks.items():
        yield pfn, chunk.order, "ZONE"
    for pfn, entry in memory.entries.items():
        yield pfn, entry.order, f"PCP of CPU {entry.cpu}"
    for pfn, order in memory.deferred:
        yield pfn, order, "LLIST"
    for pfn, allocation in memory.allocated.items():
        yield pfn, allocation.order, "ALLOC"


def populated(memory: Memory) -> int:
    """
    Pages that are not holes. None is ever lost or made.
    """
    return sum(1 << order for _, order, _ in runs(memory))


def cma_blocks(memory: Memory) -> frozenset[int]:
    """
    Blocks of stored type C. They stay that (I-27).
    """
    return frozenset(index for index, block in enumerate(memory.blocks) if block.type == CMA)


def remember(memory: Memory) -> None:
    """
    Note what can never change, for later checks.
    """
    memory.populated = populated(memory)
    memory.cma_blocks = cma_blocks(memory)


def check(memory: Memory, layout: Layout) -> None:
    """
    Raise Corruption for the first rule that is broken.
    """
    _check_coverage(memory)
    _check_free_lists(memory)
    _check_counters(memory)
    for cpu in range(len(memory.pcps)):
        _check_pcp(memory, layout, cpu)
    _check_marks(memory)
    _check_ownership(memory)


def _require(ok: bool, rule: str, where: str, state: str) -> None:
    if not ok:
        raise Corruption(f"{rule}: {where}, {state}")


def _check_coverage(m: Memory) -> None:
    """
    I-1, I-2: runs are aligned, inside the zone, apart from each other, and none is missing.
    """
    end, last = m.start_pfn, "start of the zone"
    for pfn, order, state in sorted(runs(m)):
        where = f"pfn {pfn}"
        highest = PAGEBLOCK_ORDER if state.startswith("PCP") else MAX_PAGE_ORDER
        _require(0 <= order <= highest, "I-2 order out of range", where, f"{state} of order {order}")
        _require(pfn % (1 << order) == 0, "I-2 head not aligned", where, f"{state} of order {order}")
        _require(pfn >= end, "I-1 page in two states", where, f"{state} of order {order} begins inside {last}")
        end = pfn + (1 << order)
        last = f"{state} of order {order} at {pfn}"
    _require(end <= m.end_pfn, "I-1 run outside the zone", f"pfn {end - 1}", last)
    now = populated(m)
    _require(now == m.populated, "I-1 pages lost or made", "zone", f"{now} pages, there were {m.populated}")


def _check_free_lists(m: Memory) -> None:
    """
    I-3, I-4 (lists and marks agree), I-20.
    """
    listed = 0
    for order in range(NR_ORDERS):
        for mt in range(NR_MIGRATETYPES):
            for pfn in m.free[order][mt]:
                where, chunk = f"pfn {pfn}", m.chunks.get(pfn)
                on_list = f"on F[{order}][{mt}]"
                listed += 1
                _require(chunk == Chunk(order, mt), "I-4 list and mark differ", where, f"{on_list}, marked {chunk}")
                for index in m.covered_blocks(pfn, order):
                    effective = m.blocks[index].effective
                    _require(effective == mt, "I-3 list and block type differ", where, f"{on_list}, block {effective}")
                buddy = m.chunks.get(pfn ^ (1 << order))
                unmerged = order < PAGEBLOCK_ORDER and buddy is not None and buddy.order == order
                _require(not unmerged, "I-20 free buddies not merged", where, on_list)
    _require(listed == len(m.chunks), "I-4 marked but on no list", "zone", f"{len(m.chunks)} marks, {listed} listed")


def _check_counters(m: Memory) -> None:
    """
    I-4: what the counters say, differences included, is on the lists; the exact ones of 1.5 too.
    """
    exact = [0, 0, 0]
    highatomic = 0
    for chunk in m.chunks.values():
        nr_pages = 1 << chunk.order
        if chunk.type == ISOLATE:
            continue
        exact[NR_FREE] += nr_pages
        if chunk.type == CMA:
            exact[NR_FREE_CMA] += nr_pages
        if chunk.type == HIGHATOMIC:
            highatomic += nr_pages
        if chunk.order >= PAGEBLOCK_ORDER:
            exact[NR_FREE_BLOCKS] += nr_pages
    for item, name in enumerate(("NR_FREE_PAGES", "NR_FREE_CMA_PAGES", "NR_FREE_PAGES_BLOCKS")):
        counted = m.stat[item] + sum(pcp.stat_diff[item] for pcp in m.pcps)
        _require(counted == exact[item], f"I-4 {name}", "zone", f"counted {counted}, on the lists {exact[item]}")
    state = f"counted {m.nr_free_highatomic}, on the lists {highatomic}"
    _require(m.nr_free_highatomic == highatomic, "I-4 nr_free_highatomic", "zone", state)
    isolated = sum(block.iso for block in m.blocks)
    state = f"counted {m.nr_isolate_pageblock}, isolated {isolated}"
    _require(m.nr_isolate_pageblock == isolated, "B-110 nr_isolate_pageblock", "zone", state)
    reserved = PAGEBLOCK_PAGES * sum(block.type == HIGHATOMIC for block in m.blocks)
    state = f"counted {m.nr_reserved_highatomic}, in H blocks {reserved}"
    _require(m.nr_reserved_highatomic == reserved, "B-70 nr_reserved_highatomic", "zone", state)
    changed = sorted(cma_blocks(m) ^ m.cma_blocks)
    _require(not changed, "I-27 C block changed its type", f"blocks {changed}", "or became one")


def _check_pcp(m: Memory, layout: Layout, cpu: int) -> None:
    """
    I-5, I-6, I-8, I-9, and I-18 for a CPU that is off-line.
    """
    pcp: Pcp = m.pcps[cpu]
    count = 0
    for index, entries in enumerate(pcp.lists):
        order, _ = layout.key(index)
        for pfn in entries:
            here, entry = Entry(cpu, order, index), m.entries.get(pfn)
            _require(entry == here, "I-6 list and entry differ", f"pfn {pfn}", f"on list {here}, recorded {entry}")
            inside = pfn % PAGEBLOCK_PAGES + (1 << order) <= PAGEBLOCK_PAGES
            _require(inside, "I-8 entry crosses a pageblock", f"pfn {pfn}", f"order {order}")
            count += 1 << order
    _require(pcp.count == count, "I-5 count", f"CPU {cpu}", f"count {pcp.count}, on the lists {count}")
    for pfn in pcp.marked:
        entry = m.entries.get(pfn)
        marked = f"marked in the PCP of CPU {cpu}, is {entry}"
        _require(entry is not None and entry.cpu == cpu, "I-9 mark on no entry", f"pfn {pfn}", marked)
    if not pcp.online:
        _require(count == 0 and not pcp.owned, "I-18 off-line CPU has pages or blocks", f"CPU {cpu}", f"count {count}")


def _check_marks(m: Memory) -> None:
    """
    I-10, I-11: marked entries of a block are in one PCP, the owner's if there is one.
    """
    holder: dict[int, int] = {}
    for cpu, pcp in enumerate(m.pcps):
        for pfn in pcp.marked:
            index = m.block_index(pfn)
            first = holder.setdefault(index, cpu)
            state = f"in the PCPs of CPU {first} and CPU {cpu}"
            _require(first == cpu, "I-10 marked entries of one block in two PCPs", f"pfn {pfn}", state)
            owner = m.blocks[index].owner
            state = f"in the PCP of CPU {cpu}, owner is CPU {owner}"
            _require(owner in (NOBODY, cpu), "I-11 marked entry not in the owner's PCP", f"pfn {pfn}", state)


def _check_ownership(m: Memory) -> None:
    """
    I-12 to I-17.
    """
    for cpu, pcp in enumerate(m.pcps):
        for index in pcp.owned:
            block = m.blocks[index]
            _require(block.linked == 1 and block.owner == cpu, "I-14 on a list of owned blocks", *_of(m, index, cpu))
    on_lists = sum(len(pcp.owned) for pcp in m.pcps)
    linked = sum(block.linked for block in m.blocks)
    _require(on_lists == linked, "I-14 linked on no list", "zone", f"{linked} linked, {on_lists} on lists")
    for index, block in enumerate(m.blocks):
        if block.owner == NOBODY:
            _require(not block.linked, "I-15 linked without owner", *_of(m, index))
            continue
        _require(not block.iso, "I-16 isolated but owned", *_of(m, index))
        _require(bool(m.pcps[block.owner].online), "I-17 owner is off-line", *_of(m, index))
    for pfn, chunk in m.chunks.items():
        for index in m.covered_blocks(pfn, chunk.order):
            block = m.blocks[index]
            if chunk.order >= PAGEBLOCK_ORDER:
                _require(block.owner == NOBODY, f"I-12 free chunk of order {chunk.order} is owned", *_of(m, index))
            elif block.owner != NOBODY:
                _require(block.linked == 1, f"I-13 pfn {pfn} is free but not linked", *_of(m, index))


def _of(m: Memory, index: int, cpu: int | None = None) -> tuple[str, str]:
    """
    A block and what is recorded of it.
    """
    block = m.blocks[index]
    state = f"type {block.type}, iso {block.iso}, owner {block.owner}, linked {block.linked}"
    if cpu is not None:
        state += f", on the list of CPU {cpu}"
    return f"block {index} at pfn {m.block_pfn(index)}", state
