"""
The vectors of docs/reference/contiguous.md, by hand, on both implementations.
"""

import pytest
from states import C, M, blank, free_lists, held, lists, log, lru, own, park, put, types

from pcpbuddy.contig import CONTIG_REASONS
from pcpbuddy.errors import BadFree, UsageError

OFF = {"batch": 1, "high": (0, 0)}  # each refill is one page, each free is drained at once
REST = [(258, 1), (260, 2), (264, 3), (272, 4), (288, 5), (320, 6), (384, 7), (0, 8)]  # block 0 without 256 and 257


def two_pages(blocks=2, types=None, **options):
    """
    Block 0 is free but for the movable pages 256 and 257; block 1 is free.
    """
    state = blank(blocks, types, **OFF | options)
    return lru(put(state, *REST, (512, 9)), 256, 257)


def grown(zone, names):
    counters = zone.counters()
    return tuple(counters[name] for name in names.split())


class Mover:
    """
    Remembers what was moved; refuses some pages.
    """

    def __init__(self, *pinned):
        self.pinned, self.moves = pinned, []

    def __call__(self, old, new, order):
        self.moves.append((old, new, order))
        return old not in self.pinned


def test_t1_a_block(make):
    zone = make(two_pages(), "mainline")
    mover = Mover()
    got = zone.alloc_contig_range(0, 512, move=mover)
    assert got == (0, "", None, 2, 0, ((0, 512, "", None),))
    assert mover.moves == [(256, 512, 0), (257, 513, 0)]
    assert log(zone, "alloc", "free") == ["alloc(512,0,M)", "free(256,0)", "alloc(513,0,M)", "free(257,0)"]
    assert free_lists(zone) == lists("F1: 514, F2: 516, F3: 520, F4: 528, F5: 544, F6: 576, F7: 640, F8: 768")
    assert grown(zone, "holds_other contig_ok contig_pages pages_migrated") == (4, 1, 512, 2)
    assert types(zone) == "MM"
    allocated = zone.state()["allocated"]
    assert (allocated[0], allocated[511], allocated[512]) == ((0, M, 0), (0, M, 0), (0, M, 1))


def test_t2_head_and_tail(make):
    zone = make(two_pages(), "mainline")
    assert zone.alloc_contig_range(10, 500).pfn == 10
    freed = log(zone, "free")
    assert freed == ["free(256,0)", "free(257,0)", *(f"free({pfn},0)" for pfn in (*range(10), *range(500, 512)))]
    rest = "F4: 528, F5: 544, F6: 576, F7: 640, F8: 768"
    assert free_lists(zone) == lists(f"F1: 514 8, F2: 516 500, F3: 520 0 504, {rest}")


def test_t3_a_page_that_cannot_be_moved(make):
    zone = make(two_pages(), "mainline")
    mover = Mover(256)
    got = zone.alloc_contig_range(0, 512, move=mover)
    assert got == (None, "pinned", 256, 1, 5, ((0, 512, "pinned", 256),))
    assert mover.moves == [(256, 512, 0), (257, 512, 0), *[(256, 513, 0)] * 4]
    assert free_lists(zone)["F0[M]"] == ["513", "257"]
    assert grown(zone, "contig_pinned contig_ok migrations_refused pages_migrated") == (1, 0, 5, 1)
    assert types(zone) == "MM"


def test_t4_no_memory(make):
    state = lru(held(put(blank(2, **OFF), *REST), (512, 9)), 256, 257)
    zone = make(state, "mainline")
    assert zone.alloc_contig_range(0, 512) == (None, "no_memory", 256, 0, 0, ((0, 512, "no_memory", 256),))
    assert free_lists(zone) == lists("F1: 258, F2: 260, F3: 264, F4: 272, F5: 288, F6: 320, F7: 384, F8: 0")


HOLED = [(512, 6), (576, 4), (592, 3), (601, 0), (602, 1), (604, 2), (608, 5), (640, 7), (768, 8)]  # without 600


def test_t5_first_fit(make):
    state = held(put(blank(3, {1: C, 2: C}, **OFF), (0, 9), *HOLED, (1024, 9)), 600)
    zone = make(state, "mainline")
    assert zone.cma_areas() == [(512, 1024)]
    got = zone.cma_alloc(100, 6)
    busy = "pinned", 600
    assert got == (640, "", None, 0, 0, ((512, 612, *busy), (576, 676, *busy), (640, 740, "", None)))
    assert zone.cma_alloc(30).pfn == 512
    assert zone.state()["cma_claimed"] == [[512, 30], [640, 100]]
    zone.cma_release(640, 100)
    got = zone.cma_alloc(200)
    assert got.pfn == 601
    assert got.tried == (*((pfn, pfn + 200, *busy) for pfn in range(542, 601)), (601, 801, "", None))
    assert zone.cma_alloc(1000) == (None, "no_run", None, 0, 0, ())
    assert types(zone) == "MCC"
    for pfn, count in ((512, 30), (601, 200)):
        with pytest.raises(BadFree):
            zone.free(pfn)
        zone.cma_release(pfn, count)
    with pytest.raises(UsageError):
        zone.cma_release(512, 1)
    assert grown(zone, "contig_ok contig_pinned contig_no_run contig_pages") == (3, 61, 1, 330)


def test_t6_isolated_blocks_merge(make):
    rest = [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4), (32, 5), (64, 6), (128, 7), (256, 8)]
    zone = make(lru(put(blank(3, **OFF), *rest, (512, 9), (1024, 9)), 0), "mainline")
    assert zone.alloc_contig_range(0, 1024, cpu=0)[:4] == (0, "", None, 1)
    assert grown(zone, "holds_other") == (6,)
    assert free_lists(zone) == {f"F{order}[M]": [str(1024 + (1 << order))] for order in range(9)}


def test_t7_memory_off_and_on(make):
    zone = make(two_pages(3), "mainline")
    assert zone.offline_pages(0, 512)[:4] == (0, "", None, 2)
    assert zone.state()["managed"] == 3 * 512 - 512
    assert free_lists(zone) == lists("F1: 514, F2: 516, F3: 520, F4: 528, F5: 544, F6: 576, F7: 640, F8: 768")
    assert grown(zone, "contig_ok contig_pages") == (1, 0)
    pcp = zone.state()["pcp"][0]
    assert (pcp["batch"], pcp["high_min"], pcp["high_max"]) == (1, 0, 0)
    zone.online_pages(0, 512)
    assert zone.state()["managed"] == 3 * 512
    assert free_lists(zone) == lists("F1: 514, F2: 516, F3: 520, F4: 528, F5: 544, F6: 576, F7: 640, F8: 768, F9: 0")
    with pytest.raises(UsageError):
        zone.online_pages(0, 512)


def test_t8_what_lists_hold_is_drained(make):
    # CPU 1 owns block 0 and has two of its pages marked in its PCP; T7 takes the block from it, the drain the pages.
    state = put(blank(2, cpus=2, high=(252, 252)), *REST, (512, 9))
    state = own(park(state, 1, 0, M, [256, 257]), 1, 0)
    state["pcp"][1]["marked"] = [256, 257]
    zone = make(state, "fixed")
    assert zone.alloc_contig_range(0, 512)[:4] == (0, "", None, 0)
    assert log(zone, "disown", "pcpu_drain", "pmerge") == ["disown(0,isolate)", "pmerge(256,1)", "pd(256,1,I)"]


@pytest.mark.parametrize(
    ("state", "args", "options", "reason", "page"),
    [
        (two_pages(), (0, 512), {}, "unmovable", 256),
        (two_pages(), (0, 1024), {}, "unmovable", 256),
        (two_pages(types={0: C}), (0, 512), {}, "cma", 0),
        (put(blank(2, **OFF), (0, 8), (512, 9)), (0, 512), {}, "hole", 256),
        (put(blank(2, **OFF), (0, 9)), (300, 700), {}, "hole", 512),
    ],
)
def test_t9_refusals(make, state, args, options, reason, page):
    for pfn, allocation in state["allocated"].items():
        state["allocated"][pfn] = (*allocation[:2], 0)
    zone = make(state, "mainline")
    assert zone.alloc_contig_range(*args, **options)[:3] == (None, reason, page)
    assert "I" not in types(zone)


def test_t9_the_edge_and_the_isolated(make):
    state = put(blank(2, **OFF), (16, 4), (32, 5), (64, 6), (128, 7), (256, 8), (512, 9))
    state |= {"start_pfn": 16, "spanned": 1008}
    zone = make(state, "mainline")
    assert zone.alloc_contig_range(100, 200)[:3] == (None, "edge", 16)
    assert zone.isolate(512)
    assert zone.alloc_contig_range(600, 700)[:3] == (None, "isolated", 512)
    assert zone.unisolate(512)


def test_t9_a_cma_allocation_takes_c_blocks_unseen(make):
    # B-110: everything in a C block counts as movable for it; what is not is found by the test (CT-5).
    zone = make(held(put(blank(2, {1: C}, **OFF), (0, 9), *HOLED), 600), "mainline")
    assert zone.isolate(512, cma=True)
    assert zone.unisolate(512)
    assert zone.alloc_contig_range(512, 1024, cma=True)[:3] == (None, "pinned", 600)


def test_what_move_raises_comes_out_and_nothing_is_lost(make):
    def move(old, new, order):
        raise RuntimeError("the holder is gone")

    zone = make(two_pages(3, {1: C}), "mainline")
    for ask in (lambda: zone.alloc_contig_range(0, 512, move=move), lambda: zone.offline_pages(0, 512, move=move)):
        with pytest.raises(RuntimeError, match="the holder is gone"):
            ask()
        zone.check()
        assert types(zone) == "MCM"
        assert sorted(zone.state()["allocated"]) == [256, 257]
        assert zone.state()["pcp"][0]["batch"] == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda zone: zone.alloc_contig_range(5, 5),
        lambda zone: zone.alloc_contig_range(1000, 1025),
        lambda zone: zone.cma_alloc(1),
        lambda zone: zone.offline_pages(0, 511),
        lambda zone: zone.online_pages(0, 512),
        lambda zone: zone.alloc_contig_range(0, 5, cpu=1),
    ],
)
def test_bad_arguments(make, ask):
    zone = make(two_pages(), "mainline")
    with pytest.raises(UsageError):
        ask(zone)


def test_the_reasons_are_documented():
    from pathlib import Path

    text = (Path(__file__).parent.parent / "docs" / "reference" / "contiguous.md").read_text()
    assert all(f"| `{reason}` |" in text for reason in CONTIG_REASONS[1:])
