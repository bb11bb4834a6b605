"""
Metrics: the names of replay.md section 3, and how they are worked out of what the core counts.
"""

import numpy as np
import pytest

import pcpbuddy
from pcpbuddy import metrics
from pcpbuddy._core import HandleReplay
from pcpbuddy.contig import CONTIG_REASONS
from pcpbuddy.names import GFP_HIGHUSER_MOVABLE, MIGRATETYPE_NAMES
from pcpbuddy.requests import ALLOC, FREE, REQUEST

RESULT = {"frees_unknown": 0, "frees_double": 0, "parked_pages_max": 0}

# Every name that a run without time has; nothing more, nothing less.
NAMES = {
    *("allocs", "allocs.failed", "allocs.from_pcp", "pages.allocated", "pages.freed"),
    *("zone_lock.holds", *(f"zone_lock.holds.{kind}" for kind in metrics.HOLDS)),
    *("zone_lock.list_ops", "zone_lock.moves", "zone_lock.pages_moved", "zone_lock.pages_per_hold"),
    *("zone_lock.holds_per_1000_allocs", "zone_lock.merges", "zone_lock.splits", "pcp.merges", "pcp.splits"),
    *("refill.count", *(f"refill.phase{phase}_pages" for phase in range(4))),
    *("frees.local", "frees.remote", "frees.direct", "frees.failed_trylock", "frees.unknown", "frees.double"),
    *("remote.pushes", "remote.over_bound", "remote.absorbs", "remote.absorbed_pages"),
    *("cma.alloc_share", "cma.movable_share"),
    *(
        f"cma.by_phase.{phase}.rule_{rule}.{pages}_pages"
        for phase in range(4)
        for rule in ("cma", "other")
        for pages in ("cma", "other")
    ),
    *(f"blocks.by_type.{name.lower()}" for name in MIGRATETYPE_NAMES),
    "blocks.mixed",
    *(f"frag.{index}_{order}" for index in ("index", "unusable") for order in range(1, 11)),
    *("pcp.parked_pages", "pcp.parked_pages_max", "owned.blocks", "owned.walk_len.p99", "owned.skipped"),
    *("owned.walks", "owned.walked", "owned.scanned_pfns", "pcp.merge_visited", "drain.entries", "drain.pages"),
    *("contig.ranges", *(f"contig.ranges.{reason or 'ok'}" for reason in CONTIG_REASONS), "contig.ok_share"),
    *("contig.pages", "contig.pages_migrated", "contig.moves_refused"),
}
OF_THE_RUN = {"frees.unknown", "frees.double", "pcp.parked_pages_max"}


def chunks(**counts):
    """
    Chunk counts per order from o0=..., o9=...
    """
    return [counts.get(f"o{order}", 0) for order in range(11)]


@pytest.mark.parametrize(
    ("nr_free", "order", "expected"),
    [
        (chunks(), 3, 0),
        (chunks(o3=1), 3, -1000),
        (chunks(o4=1), 3, -1000),
        (chunks(o0=100), 3, 1000 - (1000 + 100 * 1000 // 8) // 100),
        (chunks(o0=1), 1, 1000 - (1000 + 500) // 1),
        (chunks(o0=2, o1=1), 2, 1000 - (1000 + 4 * 1000 // 4) // 3),
        (chunks(o0=1000, o5=3), 9, 1000 - (1000 + 1096 * 1000 // 512) // 1003),
    ],
)
def test_fragmentation_index(nr_free, order, expected):
    assert metrics.fragmentation_index(nr_free, order) == expected
    assert metrics.fragmentation_index(np.array(nr_free), order) == expected


@pytest.mark.parametrize(
    ("nr_free", "order", "expected"),
    [
        (chunks(), 3, 1000),
        (chunks(o0=7), 1, 1000),
        (chunks(o0=8, o3=1), 3, 500),
        (chunks(o0=1, o1=1), 1, 333),
        (chunks(o10=4), 9, 0),
        (chunks(o0=512, o10=1), 10, 333),
    ],
)
def test_unusable_index(nr_free, order, expected):
    assert metrics.unusable_index(nr_free, order) == expected
    assert metrics.unusable_index(np.array(nr_free), order) == expected


def replay(node, *requests):
    """
    Replay (op, handle, cpu, order) tuples and collect.
    """
    records = np.zeros(len(requests), REQUEST)
    for record, (op, handle, cpu, order) in zip(records, requests, strict=True):
        record["op"], record["pfn"], record["cpu"], record["order"] = op, handle, cpu, order
        record["gfp"] = GFP_HIGHUSER_MOVABLE if op == ALLOC else 0
    run = HandleReplay(node, 4096)
    run.run(records)
    return metrics.collect(node, run.result())


def two_zones():
    sizing = {"cpus": 2, "batch": 63, "high_min": 500, "high_max": 1000}
    return pcpbuddy.Node(
        [
            pcpbuddy.Zone(4096, name="DMA32", zone_index=1, policy="fixed", **sizing),
            pcpbuddy.Zone(8192, name="Normal", zone_index=2, start_pfn=8192, policy="fixed", **sizing),
        ]
    )


def test_names_are_those_of_the_contract():
    got = set(metrics.collect(two_zones(), RESULT))
    whole = {name for name in got if not name.startswith(("zones.", "cpus."))}
    assert whole == NAMES
    for zone in ("DMA32", "Normal"):
        prefix = f"zones.{zone}."
        assert {name.removeprefix(prefix) for name in got if name.startswith(prefix)} == NAMES - OF_THE_RUN
    for cpu in "01":
        below = {name.removeprefix(f"cpus.{cpu}.") for name in got if name.startswith(f"cpus.{cpu}.")}
        assert below < NAMES
        assert {"allocs", "zone_lock.holds", "frees.remote", "cma.movable_share"} <= below
    assert not [name for name in got if name.startswith("cpus.2.")]


def test_nothing_done_gives_zeros_and_no_division():
    got = metrics.collect(two_zones(), RESULT)
    assert got["allocs.from_pcp"] == got["zone_lock.pages_per_hold"] == got["cma.alloc_share"] == 0
    assert got["owned.walk_len.p99"] == 0
    assert all(np.isfinite(value) for value in got.values())
    assert all(type(value) in (int, float) for value in got.values())


def test_sums_and_shares():
    got = replay(two_zones(), *[(ALLOC, 4 * i, i % 2, 2) for i in range(50)], *[(FREE, 4 * i, 0, 2) for i in range(40)])
    assert got["allocs"] == 50
    assert got["pages.allocated"] == 200
    assert got["pages.freed"] == 160
    assert got["zone_lock.holds"] == sum(got[f"zone_lock.holds.{kind}"] for kind in metrics.HOLDS) > 0
    assert got["zone_lock.holds_per_1000_allocs"] == 1000 * got["zone_lock.holds"] / 50
    assert got["zone_lock.pages_per_hold"] == got["zone_lock.pages_moved"] / got["zone_lock.holds"]
    assert 0 < got["allocs.from_pcp"] < 1
    assert got["frees.local"] + got["frees.remote"] + got["frees.direct"] == 40
    assert got["frees.failed_trylock"] <= got["frees.direct"]


def test_breakdowns_add_up():
    got = replay(two_zones(), *[(ALLOC, i, i % 2, 0) for i in range(300)], *[(FREE, i, 0, 0) for i in range(100)])
    for name in NAMES - OF_THE_RUN:
        if type(got[name]) is int and not name.startswith(("frag.", "owned.walk_len")):
            assert got[name] == got[f"zones.DMA32.{name}"] + got[f"zones.Normal.{name}"], name
        if f"cpus.0.{name}" in got and type(got[name]) is int:
            assert got[name] == got[f"cpus.0.{name}"] + got[f"cpus.1.{name}"], name


def test_what_the_replay_skipped_is_a_metric():
    got = replay(two_zones(), (FREE, 7, 0, 0), (ALLOC, 9, 0, 0), (FREE, 9, 0, 0), (FREE, 9, 0, 0))
    assert got["frees.unknown"] == 1
    assert got["frees.double"] == 1
    assert got["frees.local"] + got["frees.remote"] + got["frees.direct"] == 1


def test_cma_shares():
    # Half of the zone is CMA: the 50 % rule of B-40 says "no" first, and phase 1 takes M blocks.
    zone = pcpbuddy.Zone(8192, cpus=1, cma_pages=6144, policy="mainline")
    got = replay(pcpbuddy.Node([zone]), *[(ALLOC, i, 0, 0) for i in range(200)])
    assert got["cma.movable_share"] == got["cma.alloc_share"] == 1.0
    obtained = {name: value for name, value in got.items() if name.startswith("cma.by_phase.") and value}
    assert set(obtained) == {"cma.by_phase.3.rule_cma.cma_pages"}
    assert obtained["cma.by_phase.3.rule_cma.cma_pages"] == got["refill.phase3_pages"]
    assert got["blocks.by_type.cma"] == 12
    assert got["blocks.by_type.movable"] == 4


@pytest.mark.parametrize(
    ("histogram", "percent", "expected"),
    [({}, 99, 0), ({3: 1}, 99, 3), ({0: 99, 5: 1}, 99, 0), ({0: 98, 5: 2}, 99, 5), ({1: 1, 2: 1}, 50, 1)],
)
def test_percentile(histogram, percent, expected):
    bins = np.zeros(64, np.int64)
    for length, count in histogram.items():
        bins[length] = count
    assert metrics._percentile(bins, percent) == expected
