"""
The vectors of docs/reference/contiguous.md, by hand, on both implementations.
"""

import pytest
from states import C, H, M, blank, free_lists, held, lists, log, lru, own, park, put, types

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


def test_what_is_isolated_no_more_is_accounted(make):
    # B-115 takes a chunk out of the lists of its type, whoever unisolated the block meanwhile.
    zone = make(two_pages(), "mainline")
    assert zone.alloc_contig_range(0, 512, move=lambda *_: zone.unisolate(0) or True)[:4] == (0, "", None, 2)
    assert zone.state()["stat"][0] == 510


ASKED = {
    "range": lambda zone, move: zone.alloc_contig_range(0, 512, move=move),
    "memory": lambda zone, move: zone.offline_pages(0, 512, move=move),
    "buffer": lambda zone, move: zone.cma_alloc(300, move=move),
}


@pytest.mark.parametrize("asked", ASKED)
def test_t11_what_move_raises_comes_out_and_nothing_is_lost(make, asked):
    """
    It counts as a refusal, and the last: no further try, round or range. Sizes, types and bits are what they were.
    """
    asks = []

    def move(old, new, order):
        asks.append(old)
        if old == 257:
            raise RuntimeError("the holder is gone")

    zone = make(two_pages(3, {0: C} if asked == "buffer" else {1: C}, batch=7, high=(100, 200)), "mainline")
    with pytest.raises(RuntimeError, match="the holder is gone"):
        ASKED[asked](zone, move)
    zone.check()
    assert asks == [256, 257]
    assert grown(zone, "contig_pinned pages_migrated migrations_refused") == (1, 1, 1)
    assert types(zone) == ("CMM" if asked == "buffer" else "MCM")
    state = zone.state()
    assert [pfn for pfn in state["allocated"] if pfn < 512] == [257]
    assert state["cma_claimed"] == []
    assert [state["pcp"][0][name] for name in ("batch", "high_min", "high_max")] == [7, 100, 200]


def test_t10_clusters_of_32_candidates(make):
    """
    40 movable pages, 256 to 295. While 256 is refused nothing behind its cluster is tried; 290 is of the second.
    """
    rest = [(296, 3), (304, 4), (320, 6), (384, 7), (0, 8)]
    state = lru(put(blank(2, **OFF), *rest, (512, 9)), *range(256, 296))
    for pinned, first, again in ((256, range(256, 288), [256]), (290, range(256, 296), [290])):
        zone = make(state, "mainline")
        mover = Mover(pinned)
        got = zone.alloc_contig_range(0, 512, move=mover)
        assert got[1:5] == ("pinned", pinned, len(first) - 1, 5)
        assert [old for old, _, _ in mover.moves] == [*first, *again * 4]


def test_t12_a_candidate_that_is_gone_is_none(make):
    """
    CT-4 looks at each page when its turn comes: here the holder of both frees the second when the first moves, by
    another CPU, which does not go on with the range.
    """
    zone = make(two_pages(cpus=2), "mainline")

    def move(old, new, order):
        zone.free(257, cpu=1)

    assert zone.alloc_contig_range(0, 512, move=move)[:5] == (0, "", None, 1, 0)
    assert log(zone, "alloc", "free") == ["alloc(512,0,M)", "free(257,0)", "free(256,0)"]
    assert [zone.counters(cpu)["frees_direct"] for cpu in (0, 1)] == [1, 1]
    assert [zone.counters(cpu)["contig_pages"] for cpu in (0, 1)] == [512, 0]


def test_t13_what_waits_for_a_free(make):
    state = put(blank(2, **OFF), *REST, (512, 9))
    state["deferred"] = [(256, 1)]
    zone = make(state, "mainline")
    assert zone.alloc_contig_range(0, 512)[:5] == (None, "deferred", 256, 0, 0)
    assert "I" not in types(zone)


@pytest.mark.parametrize(("answer", "freed"), [(True, 257), (False, 513)])
@pytest.mark.parametrize("asked", ASKED)
def test_t14_a_mover_that_frees(make, asked, answer, freed):
    """
    What it gave back itself is not freed again; the call ends with an error, and everything is put back.
    """
    zone = make(two_pages(4, {0: C, 2: C} if asked == "buffer" else None), "mainline")

    def move(old, new, order):
        if old == 257:
            zone.free(old if answer else new)
            return answer
        return True

    with pytest.raises(BadFree, match=str(freed)):
        ASKED[asked](zone, move)
    state = zone.state()
    assert grown(zone, "contig_pinned pages_migrated migrations_refused") == (1, 1 + answer, 1 - answer)
    assert "I" not in types(zone)
    assert state["cma_claimed"] == []


def test_t15_an_h_block_goes_and_is_movable_when_it_comes(make):
    zone = make(put(blank(2, {0: H}, **OFF), (0, 9), (512, 9)), "mainline")
    assert zone.state()["nr_reserved_highatomic"] == 512
    assert zone.offline_pages(0, 512).pfn == 0
    assert (types(zone), zone.state()["nr_reserved_highatomic"]) == ("MM", 0)
    zone.online_pages(0, 512)
    assert free_lists(zone) == lists("F10: 0")


@pytest.mark.parametrize(
    ("zone", "order", "to"), [("Normal", 0, "Normal"), ("Normal", 1, "Movable"), ("Movable", 0, "Movable")]
)
def test_t16_where_targets_come_from(impl, zone, order, to):
    """
    The kernel asks for small pages of Normal without __GFP_HIGHMEM, so not in ZONE_MOVABLE.
    """
    sizes = {"cpus": 1, "policy": "mainline", "batch": 1, "high_min": 0, "high_max": 0, "watermark": (0, 0, 0, 0)}
    zones = {
        name: impl.Zone(2048, name=name, zone_index=index, start_pfn=index * 2048, **sizes)
        for index, name in ((2, "Normal"), (3, "Movable"))
    }
    pfn = zones[zone].alloc(order)
    zones[zone].set_movable(pfn)
    mover = Mover()
    got = impl.Node(list(zones.values())).offline_pages(pfn & -512, 512, move=mover)
    assert got[:4] == (pfn & -512, "", None, 1 << order)
    ((old, new, moved),) = mover.moves
    assert (old, moved, new // 2048) == (pfn, order, 2 if to == "Normal" else 3)


def test_a_zone_alone_may_have_any_name(make):
    zone = make(two_pages() | {"name": "Scratch"}, "mainline")
    assert zone.alloc_contig_range(0, 512)[:4] == (0, "", None, 2)


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
