"""
Rules that no vector tells apart from their opposites, each under its number, on both implementations.
"""

import pytest
from states import LETTERS, C, M, R, U, blank, free_lists, held, lists, log, lru, owners, park, pcp_lists, put, tuned

from pcpbuddy.names import WMARK_LOW as LOW


@pytest.mark.parametrize(
    ("wanted", "first", "second"), [(U, R, M), (M, R, U), (R, U, M)], ids=["Unmovable", "Movable", "Reclaimable"]
)
def test_fallback_order(make, wanted, first, second):
    # 1.2, B-48. Chunks of one size in both fallback types; with the LRU pages neither block can be converted.
    state = put(blank(2, {0: second, 1: first}), (0, 2), (512, 2))
    zone = make(lru(state, *range(100, 400)) if second == M else state, policy="mainline")
    assert [zone.take(2, wanted, LOW), zone.take(2, wanted, LOW)] == [512, 0]
    w, f, s = (LETTERS[mt] for mt in (wanted, first, second))
    assert log(zone) == [f"xf(512,2,2,{w},{f},0)", f"xf(0,2,2,{w},{s},0)"]


def test_cma_and_highatomic_are_no_fallback(make):
    # B-42: an unmovable request does not get CMA pages, however many there are.
    zone = make(put(blank(2, {0: U, 1: C}), (512, 9), (0, 0)), policy="mainline")
    assert zone.take(0, U, LOW) == 0
    assert free_lists(zone) == lists("F9[C]: 512")


def test_phase_2_appends(make):
    # P-24: what comes from the zone goes to the tail, so that the first chunk taken is the first handed out.
    zone = make(put(blank(1, high=(252, 252)), (256, 3), (272, 3), (288, 3)))
    assert zone.alloc(0, M) == 288
    assert pcp_lists(zone) == lists("P0: 289 P1: 290 P2: 292 P3: 272 256")


@pytest.mark.parametrize(("parked", "claimed"), [(551, 0), (552, -1)])
def test_gate_counts_what_is_there(make, parked, claimed):
    # P-34: open iff count + 512 <= high, and this refill has raised high from 1000 to 1063.
    state = put(blank(6, {0: U, 1: U}, high=(1000, 4096)), (2048, 10))
    zone = make(park(state, 0, 0, U, range(parked)))
    zone.alloc(0, M)
    assert tuned(zone, "high") == (1063,)
    assert owners(zone)[4] == claimed


def test_merged_entries_go_to_the_tail(make):
    # P-51. The drain of one page finds no single page after the merge and takes the tail of the pairs.
    zone = make(put(blank(2, high=(1000, 4096)), (0, 9)))
    assert [zone.alloc(order, M) for order in (1, 1, 0, 0, 1)] == [0, 2, 4, 5, 6]
    zone.free(2)
    zone.free(4)
    zone.free(5)
    log(zone)
    zone.drain(cpu=0, n=1)
    assert log(zone, "pmerge", "pcpu_drain") == ["pmerge(4,1)", "pd(4,1,M)"]
    assert pcp_lists(zone) == lists("P1: 2*, P3: 8* ... P8: 256*")


def test_unmarked_entries_do_not_merge(make):
    # P-50, mark=owned: buddies that came from a block without owner leave the PCP one by one.
    zone = make(held(blank(1, high=(252, 252)), 0, 1))
    zone.free(0)
    zone.free(1)
    log(zone)
    zone.drain(cpu=0)
    assert log(zone, "pmerge", "pcpu_drain") == ["pd(0,0,M)", "pd(1,0,M)"]
    assert free_lists(zone) == lists("F1: 0")


def test_a_commit_that_asks_for_no_page_still_looks_at_the_watermark(make):
    # B-82 step 6, B-84: at high 1, batch 1 the limit is reached and the amount is 0; BELOW_HIGH is cleared even so.
    state = put(blank(4, batch=1, high=(0, 1), now=1, flags=4, watermark=(0, 0, 0, 0)), (1024, 10))
    zone = make(held(state, 0), policy="mainline")
    zone.free(0)
    assert (zone.state()["flags"], tuned(zone, "count")) == (0, (1,))
