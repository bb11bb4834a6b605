"""
Make what docs/explanation shows: its pictures, and the output of its snippets, from the allocator as it is now.

    python tools/draw_explanation.py            # writes what has changed
    python tools/draw_explanation.py --check    # says what is not up to date, and fails if anything is

Each function that returns a Drawing makes one picture, named as the function with dashes. In the pages, a block of
python is run by itself, and the block of text after it is what it printed.
"""

import contextlib
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pcpbuddy as pb
from pcpbuddy.report.drawing import Drawing

PLACE = Path(__file__).parent.parent / "docs" / "explanation"
MAINLINE_ORDERS = (0, 1, 2, 3, 9)  # of the per-CPU lists
LOW_ORDERS = range(10)


def zone_split() -> Drawing:
    """
    Expand: an order-5 request against one chunk of order 10.
    """
    zone = pb.Zone(1024, policy="mainline")
    picture = Drawing("Splitting: 32 pages are taken from a free chunk of 1024", ownership=False)
    picture.step(1, "All memory is free: one chunk of order 10, which covers two pageblocks")
    picture.strips(zone.state(), rows=1)
    pfn = zone.alloc(order=5)
    picture.step(2, f"alloc(order=5) returns page {pfn}; the upper half of each step goes onto a free list")
    picture.strips(zone.state(), [0], rows=4).strips(zone.state(), [1], rows=1)
    picture.free_lists(zone.state(), orders=range(4, 11))
    return picture


def zone_merge() -> Drawing:
    """
    Merging waits for the buddy.
    """
    zone = pb.Zone(1024, policy="mainline")
    first, second = zone.alloc(order=5), zone.alloc(order=5)
    picture = Drawing("Merging: a chunk waits until its buddy is free", ownership=False)
    picture.step(1, f"Two chunks of order 5 are in use, at {first} and {second}: they are buddies (0 XOR 32 = 32)")
    picture.strips(zone.state(), [0], rows=4)
    zone.free(first)
    picture.step(
        2, f"free({first}): the buddy at {second} is in use, so the chunk stays as it is, on the list of order 5"
    )
    picture.strips(zone.state(), [0], rows=4)
    zone.free(second)
    picture.step(
        3, f"free({second}): 5 + 5 make 6, 6 + 6 make 7, and so on up to order 10: five merges, one free chunk"
    )
    picture.strips(zone.state(), rows=1)
    return picture


def migratetypes() -> Drawing:
    """
    A block belongs to one type; an unmovable request converts free blocks of another.
    """
    zone = pb.Zone(6 * 512, cma_pages=1024, policy="mainline", batch=15, high_min=60, high_max=60)
    picture = Drawing("Pageblocks have types, so that like pages lie together", ownership=False)
    movable = [zone.alloc(migratetype=pb.MOVABLE) for _ in range(400)]
    unmovable = [zone.alloc(migratetype=pb.UNMOVABLE) for _ in range(20)]
    reclaimable = [zone.alloc(migratetype=pb.RECLAIMABLE) for _ in range(40)]
    for pfns in (movable[1::7], unmovable[2::5], reclaimable[1::6]):
        for pfn in pfns:
            zone.free(pfn)
    zone.drain()
    picture.caption(
        "A zone of four movable blocks and a CMA area of two, after 400 movable, 20 unmovable and 40 reclaimable pages "
        "were allocated and some of each freed again. Blocks 2 and 3 were movable before."
    )
    picture.strips(zone.state(), rows=2)
    picture.free_lists(zone.state())
    return picture


def refill() -> Drawing:
    """
    Mainline: the list is empty, a batch comes from the zone page by page.
    """
    zone = pb.Zone(1024, policy="mainline", batch=31, high_min=124, high_max=124)
    picture = Drawing("Refill: an empty per-CPU list takes a batch of 31 pages", ownership=False)
    picture.step(1, "Before: everything is in the zone, CPU 0's lists are empty")
    picture.strips(zone.state(), [0], rows=1)
    pfn = zone.alloc(cpu=0)
    counters = zone.counters()
    picture.step(
        2,
        f"alloc(): one hold of the zone lock, {counters['list_ops']} list operations; the caller gets page {pfn}",
    )
    picture.strips(zone.state(), [0], rows=4)
    picture.pcp_lists(zone.state(), 0, orders=MAINLINE_ORDERS)
    more = [zone.alloc(cpu=0) for _ in range(30)]
    picture.step(
        3, f"30 more allocations, pages {more[0]} to {more[-1]}: no zone lock at all, and the list is empty again"
    )
    picture.strips(zone.state(), [0], rows=4)
    assert zone.counters()["holds_refill"] == 1
    return picture


def drain() -> Drawing:
    """
    Mainline: the list is at its limit and gives pages back.
    """
    zone = pb.Zone(1024, policy="mainline", batch=31, high_min=124, high_max=124)
    pages = [zone.alloc(cpu=0) for _ in range(124)]
    freed = 0
    while not zone.counters()["holds_drain"]:
        before = zone.state()
        zone.free(pages[freed], cpu=0)
        freed += 1
    drained = zone.counters()["drained_pages"]
    picture = Drawing("Drain: a per-CPU list over its limit gives pages back", ownership=False)
    picture.step(1, f"{freed - 1} pages were freed, and lie in CPU 0's list of order 0")
    picture.strips(before, [0], rows=4)
    picture.pcp_lists(before, 0, orders=MAINLINE_ORDERS)
    picture.step(2, f"One more free: the limit (high) is reached, {drained} pages go to the zone, where they merge")
    picture.strips(zone.state(), [0], rows=4)
    picture.pcp_lists(zone.state(), 0, orders=MAINLINE_ORDERS)
    return picture


def affinity_run(policy: str, turns: int) -> pb.Zone:
    """
    CPU 0 allocates, CPU 1 frees what is 256 allocations old.
    """
    zone = pb.Zone(8 * 512, cpus=2, policy=policy, batch=63, high_min=600, high_max=600)
    in_flight: list[int] = []
    for _ in range(turns):
        in_flight.append(zone.alloc(cpu=0))
        if len(in_flight) > 256:
            zone.free(in_flight.pop(0), cpu=1)
    return zone


def affinity(policy: str, title: str) -> Drawing:
    """
    Where the pages of such a run go, in numbers and on the map.
    """
    turns = 20_000
    picture = Drawing(title, ownership=policy != "mainline")
    zone = affinity_run(policy, turns)
    counted = zone.counters()
    own = policy != "mainline"
    low = 40 if own else 8
    places = {
        "CPU 0's lists\nthis CPU allocates": (18.0, low, 190.0, 52.0),
        "in use": (310.0, low, 180.0, 52.0),
        "CPU 1's lists\n" + ("they stay empty" if own else "this CPU frees"): (592.0, low, 190.0, 52.0),
        "the zone\none lock for all": (310.0, low + 112, 180.0, 52.0),
    }
    refills, drains = counted["holds_refill"], counted["holds_drain"]
    refilled = sum(counted[f"phase{phase}_pages"] for phase in range(4))
    arrows: list[tuple[list[tuple[float, float]], str, tuple[float, float], bool]] = [
        ([(208, low + 26), (310, low + 26)], f"{turns} pages", (259, low + 16), False),
        (
            [(310, low + 138), (113, low + 138), (113, low + 52)],
            f"refill: {refills} hold{'s' * (refills > 1)} of the lock,\n{refilled} pages",
            (212, low + 158),
            not own,
        ),
    ]
    if counted["frees_remote"]:
        text = f"{counted['frees_remote']} pages that CPU 1 frees go to CPU 0, the owner of their block"
        arrows.append(([(400, low), (400, low - 20), (113, low - 20), (113, low)], text, (256, low - 28), True))
    if counted["frees_local"]:
        text = f"{counted['frees_local']} pages"
        arrows.append(([(490, low + 26), (592, low + 26)], text, (541, low + 16), False))
    if drains:
        text = f"drain: {drains} hold{'s' * (drains > 1)} of the lock,\n{counted['drained_pages']} pages"
        line = [(687.0, low + 52.0), (687.0, low + 138.0), (490.0, low + 138.0)]
        arrows.append((line, text, (590, low + 158), True))
    colours = {text: int(text[4]) if text.startswith("CPU") else -1 for text in places if text != "in use"}
    picture.caption(
        f"CPU 0 allocates {turns} pages, one by one; CPU 1 frees each one when 256 younger ones are in use. "
        f"Policy {policy}, batch 63, high 600."
    )
    picture.gap(14).boxes(low + 186, places, arrows, colours)
    picture.caption("The memory of the zone at the end of it:")
    picture.strips(zone.state(), range(3), rows=2)
    return picture


def affinity_mainline() -> Drawing:
    """
    Pages go round through the zone.
    """
    return affinity("mainline", "Mainline: pages go round, and each round passes the zone lock twice")


def affinity_ownership() -> Drawing:
    """
    Pages come back to the CPU that allocates.
    """
    return affinity("fixed", "Ownership: pages go back to where the next allocation looks")


def block_life() -> Drawing:
    """
    FREE, PRIVATE, PARTIAL, PRIVATE, FREE.
    """
    zone = pb.Zone(2048, cpus=2, policy="fixed", batch=63, high_min=1000, high_max=4096)
    picture = Drawing("The life of a pageblock: FREE, PRIVATE, PARTIAL, PRIVATE, FREE")

    def show(number: int, text: str) -> None:
        picture.step(number, text).strips(zone.state(), [0], rows=4)

    picture.step(1, "The block is free: part of a chunk of order 10 in the zone").strips(zone.state(), [0], rows=1)
    pages = [zone.alloc(cpu=0) for _ in range(8)]
    show(2, "CPU 0 allocates eight pages: it claims the whole block and splits it in its own lists (phase 1)")
    for pfn in pages[:4]:
        zone.free(pfn, cpu=1)
    show(3, "CPU 1 frees four of them: they go to CPU 0, the owner of their block")
    zone.drain(0)
    show(4, "CPU 0 is drained: entries merge, then go to the zone. The block is still CPU 0's")
    again = [zone.alloc(cpu=0)]
    show(5, "CPU 0 allocates a page: the refill takes back all that is free of its own block (phase 0)")
    for pfn in [*again, *pages[4:]]:
        zone.free(pfn, cpu=1)
    show(6, "CPU 1 frees the last five: all 512 pages are with CPU 0")
    zone.drain(0)
    picture.step(7, "CPU 0 is drained: the block merges to a whole, goes back to the zone, and is nobody's")
    picture.strips(zone.state(), [0], rows=1)
    zone.check()
    return picture


def thirty_lists() -> Drawing:
    """
    The lists of a CPU that owns blocks.
    """
    zone = pb.Zone(8 * 512, cpus=2, policy="fixed", batch=63, high_min=1600, high_max=1600)
    movable = [zone.alloc(cpu=0) for _ in range(70)]
    unmovable = [zone.alloc(migratetype=pb.UNMOVABLE, cpu=0) for _ in range(9)]
    for pfn in [*movable[8:64:9], *unmovable[1:4]]:
        zone.free(pfn, cpu=1)
    zone.alloc(order=2, migratetype=pb.RECLAIMABLE, cpu=0)
    picture = Drawing("The 30 lists of a CPU that owns three pageblocks")
    picture.pcp_lists(zone.state(), 0)
    owned = [number for number, block in enumerate(zone.state()["blocks"]) if block[2] == 0]
    picture.strips(zone.state(), owned, rows=2)
    return picture


def cma() -> Drawing:
    """
    A CMA area lends its pages to movable users, and is emptied when its device needs it.
    """
    zone = pb.Zone(4 * 512, cpus=1, cma_pages=1024, policy="fixed", batch=63, high_min=2000, high_max=2000)
    picture = Drawing("A CMA block: lent to movable pages, until its device wants it")
    held = [zone.alloc(order=3, migratetype=pb.UNMOVABLE) for _ in range(10)]
    picture.step(1, "Two blocks are a CMA area. Ten unmovable allocations of 8 pages: they may not go there")
    picture.strips(zone.state(), rows=1)
    pages = [zone.alloc() for _ in range(200)]
    picture.step(2, "More than half of what the zone has free is CMA: CPU 0 claims a block of it for movable pages")
    picture.strips(zone.state(), [2, 3], rows=2)
    taken = [pfn for pfn in pages if pfn >= 1024]
    for pfn in taken:
        zone.set_movable(pfn)
    block = taken[0] // 512
    assert zone.isolate(taken[0], cma=True)
    zone.drain()
    picture.step(3, f"The device wants block {block}: it is isolated and loses its owner; CPU 0 is drained")
    picture.strips(zone.state(), [block], rows=2)
    for pfn in taken:
        zone.free(pfn)
    picture.step(4, "Its users' pages are moved elsewhere, and the old ones freed: nobody gets them but the device")
    picture.strips(zone.state(), [block], rows=1)
    assert held
    return picture


PICTURES: dict[str, Callable[[], Drawing]] = {
    make.__name__.replace("_", "-") + ".svg": make
    for make in (
        zone_split,
        zone_merge,
        migratetypes,
        refill,
        drain,
        affinity_mainline,
        affinity_ownership,
        block_life,
        thirty_lists,
        cma,
    )
}


SNIPPET = re.compile(r"(```python\n(?P<code>.*?)```\n\n```text\n)(?P<output>.*?)(?=```\n)", re.DOTALL)


def run(code: str) -> str:
    """
    What a snippet prints, without blanks at the ends of lines.
    """
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def with_outputs(page: str) -> str:
    """
    The text of a page with the outputs that its snippets have now.
    """
    return SNIPPET.sub(lambda match: match[1] + run(match["code"]), page)


def made() -> dict[Path, str]:
    """
    Every picture and page, as it should be.
    """
    files = {PLACE / name: make().svg() for name, make in PICTURES.items()}
    return files | {path: with_outputs(path.read_text()) for path in sorted(PLACE.glob("*.md"))}


def main() -> int:
    """
    Write, or with --check compare; the exit status.
    """
    check = sys.argv[1:] == ["--check"]
    stale = 0
    for path, text in made().items():
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        print(f"{path.name}: {'is not what the code makes now' if check else 'written'}")
        if not check:
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
