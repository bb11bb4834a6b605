"""
The invariants of rfc.md section 14 that one state can show, and the accounting (1.6, 1.10).
"""

from collections.abc import Iterator
from itertools import chain

from .. import names
from .memory import NOBODY, NR_FREE, NR_FREE_BLOCKS, NR_FREE_CMA, PB, Chunk, Entry, Memory


def runs(m: Memory) -> Iterator[tuple[int, int, str]]:
    """(pfn, order, state) of every run of pages that is somewhere (P-5)."""
    yield from ((pfn, chunk.order, "ZONE") for pfn, chunk in m.chunks.items())
    yield from ((pfn, entry.order, f"PCP of CPU {entry.cpu}") for pfn, entry in m.entries.items())
    yield from ((pfn, order, "LLIST") for pfn, order in m.deferred)
    yield from ((pfn, order, "REMOTE") for pfn, order in m.remote_runs())
    yield from ((pfn, allocation.order, "ALLOC") for pfn, allocation in m.allocated.items())


def remember(m: Memory) -> None:
    """Note what can never change: how many pages there are, and which blocks are C."""
    m.populated = sum(1 << order for _, order, _ in runs(m))
    m.cma_blocks = [index for index, block in enumerate(m.blocks) if block.type == names.CMA]


def violations(m: Memory) -> Iterator[str]:
    """Every broken rule, with the page or block and its state. After the first, the others may be consequences."""
    yield from _coverage(m)
    yield from _free_lists(m)
    yield from _counters(m)
    yield from _pcps(m)
    yield from _ownership(m)
    for pfn in sorted(m.claimed):
        if m.allocated.get(pfn, (1,))[0] or m.block(pfn).type != names.CMA:
            yield f"I-30 pfn {pfn}: handed out by cma_alloc, but it is {m.allocated.get(pfn)} in {m.block(pfn)}"


def _coverage(m: Memory) -> Iterator[str]:
    end, last = m.start_pfn, "the space before the zone"
    populated = 0
    for pfn, order, state in sorted(runs(m)):
        what = f"pfn {pfn}: {state} of order {order}"
        if not 0 <= order <= (PB if state.startswith("PCP") else names.MAX_PAGE_ORDER) or pfn % (1 << order):
            yield f"I-2 {what} is not aligned or too large"
        if pfn < end:
            yield f"I-1 {what} begins inside {last}"
        end, last = pfn + (1 << order), what
        populated += 1 << order
    if end > m.end_pfn:
        yield f"I-1 {last} reaches beyond the zone, which ends at {m.end_pfn}"
    if populated != m.populated:
        yield f"I-1 zone: {populated} pages are somewhere, there were {m.populated}"


def _free_lists(m: Memory) -> Iterator[str]:
    listed = 0
    for order, free_lists in enumerate(m.free_area):
        for mt, free_list in enumerate(free_lists):
            listed += len(free_list)
            for pfn in free_list:
                what = f"pfn {pfn}: on F[{order}][{mt}]"
                if m.chunks.get(pfn) != Chunk(order, mt):
                    yield f"I-4 {what}, but marked {m.chunks.get(pfn)}"
                if any(m.blocks[index].effective != mt for index in m.covered(pfn, order)):
                    yield f"I-3 {what}, but its block is of type {m.type_of(pfn)}"
                buddy = m.chunks.get(pfn ^ (1 << order))
                if order < PB and buddy is not None and buddy.order == order:
                    yield f"I-20 {what}, its buddy is free too and of that order"
    if listed != len(m.chunks):
        yield f"I-4 zone: {listed} chunks on the lists, {len(m.chunks)} marked"


def _counters(m: Memory) -> Iterator[str]:
    free = [(1 << order, order, mt) for order, mt in m.chunks.values() if mt != names.ISOLATE]
    on_lists = {
        NR_FREE: sum(nr for nr, _, _ in free),
        NR_FREE_CMA: sum(nr for nr, _, mt in free if mt == names.CMA),
        NR_FREE_BLOCKS: sum(nr for nr, order, _ in free if order >= PB),
    }
    for item, actual in on_lists.items():
        counted = m.stat[item] + sum(pcp.stat_diff[item] for pcp in m.pcps)
        if counted != actual:
            yield f"I-4 zone counter {item}: counted {counted}, on the lists {actual}"
    exact = {
        "I-4 nr_free_highatomic": (m.nr_free_highatomic, sum(nr for nr, _, mt in free if mt == names.HIGHATOMIC)),
        "B-110 nr_isolate_pageblock": (m.nr_isolate_pageblock, sum(block.iso for block in m.blocks)),
        "B-70 nr_reserved_highatomic": (
            m.nr_reserved_highatomic,
            names.PAGEBLOCK_PAGES * sum(block.type == names.HIGHATOMIC for block in m.blocks),
        ),
    }
    for rule, (counted, actual) in exact.items():
        if counted != actual:
            yield f"{rule} of the zone: counted {counted}, there are {actual}"
    now = [index for index, block in enumerate(m.blocks) if block.type == names.CMA]
    if now != m.cma_blocks:
        yield f"I-27 blocks {now} are C, but {m.cma_blocks} were"


def _pcps(m: Memory) -> Iterator[str]:
    holder: dict[int, int] = {}
    for cpu, pcp in enumerate(m.pcps):
        count = 0
        for index, entries in enumerate(pcp.lists):
            order, _ = m.layout.key(index)
            count += len(entries) << order
            for pfn in entries:
                if m.entries.get(pfn) != Entry(cpu, order, index):
                    yield f"I-6 pfn {pfn}: on list {index} of CPU {cpu}, but recorded as {m.entries.get(pfn)}"
                if pfn % names.PAGEBLOCK_PAGES + (1 << order) > names.PAGEBLOCK_PAGES:
                    yield f"I-8 pfn {pfn}: entry of order {order} on CPU {cpu} crosses a pageblock"
        if pcp.count != count:
            yield f"I-5 CPU {cpu}: count is {pcp.count}, on its lists are {count} pages"
        owned = sum(map(len, pcp.owned))
        if not pcp.online and (count or owned or pcp.remote or pcp.outboxes):
            yield (
                f"I-18 CPU {cpu}: off-line with {count} pages, {owned} linked blocks, {len(pcp.remote)} entries on its "
                f"remote list and {len(pcp.outboxes)} outboxes"
            )
        sent = chain(pcp.remote, *(other.outboxes.get(cpu, []) for other in m.pcps))
        pending = sum(1 << order for _, order in sent)
        if pcp.pending != pending:
            yield f"I-7 CPU {cpu}: {pcp.pending} pages are pending, on their way are {pending}"
        for pfn in pcp.marked:
            entry = m.entries.get(pfn)
            if entry is None or entry.cpu != cpu:
                yield f"I-9 pfn {pfn}: marked on CPU {cpu}, but it is {entry}"
            if m.policy.mark == "all" or m.policy.adopt == "on":
                continue  # the lemma of P-11 needs marks that only whole blocks bring
            if holder.setdefault(m.block_index(pfn), cpu) != cpu:
                yield f"I-10 pfn {pfn}: marked on CPU {cpu}, others of its block on CPU {holder[m.block_index(pfn)]}"
            if m.block(pfn).owner not in (NOBODY, cpu):
                yield f"I-11 pfn {pfn}: marked on CPU {cpu}, but its block is {m.block(pfn)}"
    if sum(len(entries) for pcp in m.pcps for entries in pcp.lists) != len(m.entries):
        yield f"I-6 zone: {len(m.entries)} entries are recorded, another number is on the lists"


def _ownership(m: Memory) -> Iterator[str]:
    owned = [(index, cpu) for cpu, pcp in enumerate(m.pcps) for index in chain(*pcp.owned)]
    for index, cpu in owned:
        if index not in m.owned_list(cpu, index):
            yield f"I-14 pfn {m.block_pfn(index)}: on a list of CPU {cpu} that is not for its type"
        if not m.blocks[index].linked or m.blocks[index].owner != cpu:
            yield f"I-14 pfn {m.block_pfn(index)}: {m.blocks[index]} is on the list of CPU {cpu}"
    for index, block in enumerate(m.blocks):
        what = f"pfn {m.block_pfn(index)}: {block}"
        if block.linked and block.owner == NOBODY:
            yield f"I-15 {what} is linked without an owner"
        if block.linked and (index, block.owner) not in owned:
            yield f"I-14 {what} is linked, but on no list"
        if block.owner != NOBODY and block.iso:
            yield f"I-16 {what} is isolated, but owned"
        if block.owner != NOBODY and not m.pcps[block.owner].online:
            yield f"I-17 {what} is owned by an off-line CPU"
    for pfn, chunk in m.chunks.items():
        for block in (m.blocks[index] for index in m.covered(pfn, chunk.order)):
            if chunk.order >= PB and block.owner != NOBODY:
                yield f"I-12 pfn {pfn}: free chunk of order {chunk.order}, but {block}"
            if chunk.order < PB and block.owner != NOBODY and not block.linked:
                yield f"I-13 pfn {pfn}: free chunk of order {chunk.order}, but {block}"
