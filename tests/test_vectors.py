"""
Every test vector of the two specifications, on both implementations.

V1 to V31 are those of baseline.md section 22, and each runs under ``mainline`` and under ``null``, which must
behave alike (P-95). X1 to X17 and S1 to S6 are those of rfc.md section 17. Text in quotes is the
vector's own; see states.py for how it is read.
"""

import dataclasses

import pytest
from states import (
    LADDER_A,
    C,
    H,
    M,
    R,
    U,
    blank,
    free_lists,
    held,
    lists,
    log,
    lru,
    nr_free,
    owned,
    owners,
    park,
    pcp_lists,
    put,
    tuned,
    types,
    zone_holds,
)

from pcpbuddy import config, metrics, names
from pcpbuddy.errors import OutOfPages

# The vectors' flags (1.13).
LOW = names.WMARK_LOW
CMA = names.ALLOC_CMA
NOFRAG = names.ALLOC_NOFRAGMENT
HA = names.ALLOC_HIGHATOMIC | names.ALLOC_MIN_RESERVE

FIXED_28 = {"batch": 7, "high": (28, 28)}


@pytest.fixture(params=["mainline", "null"])
def base(request, make):
    """
    Makes zones under a baseline policy.
    """
    return lambda state: make(state, policy=request.param)


# Baseline: sizing


SIZING = [
    # managed, cpus, low, fraction -> batch, high_min, high_max
    (1024, 4, 100, 0, 1, 25, 32),
    (4096, 4, 10, 0, 1, 4, 128),
    (8191, 4, 100, 0, 1, 25, 255),
    (8192, 4, 100, 0, 1, 25, 256),
    (12288, 4, 100, 0, 3, 25, 384),
    (16384, 4, 100, 0, 3, 25, 512),
    (65536, 4, 400, 0, 15, 100, 2048),
    (100000, 8, 1000, 0, 31, 125, 1562),
    (131072, 8, 2000, 0, 31, 250, 2048),
    (262144, 8, 5000, 0, 63, 625, 4096),
    (1030792, 4, 16000, 0, 63, 4000, 32212),
    (4194304, 32, 20000, 0, 63, 625, 16384),
    (33554432, 64, 120000, 0, 63, 1875, 65536),
    (33554432, 64, 120000, 100, 63, 5242, 5242),
]


@pytest.mark.parametrize(("managed", "cpus", "low", "fraction", "batch", "high_min", "high_max"), SIZING)
def test_v1_sizing(impl, managed, cpus, low, fraction, batch, high_min, high_max):
    assert impl.sizing.pcp_sizing(managed, cpus, low, fraction) == (batch, high_min, high_max)


@pytest.mark.parametrize(
    ("managed", "cpus", "low", "batch", "high_min", "high_max"),
    [(*row[:3], *row[4:]) for row in SIZING if row[0] <= 262144],
)
def test_v1_fresh_zone(impl, managed, cpus, low, batch, high_min, high_max):
    zone = impl.Zone(managed, cpus=cpus, watermark=(low // 2, low, low + low // 2, 2 * low))
    state = zone.state()
    assert state["pageset"] == [high_min, high_max, batch]
    for cpu in range(cpus):
        assert tuned(zone, "batch high_min high_max", cpu) == (batch, high_min, high_max)
    assert state["auto_sizing"]


@pytest.mark.parametrize(
    ("managed", "cpus", "threshold"), [(262144, 4, 30), (1030792, 4, 36), (4194304, 32, 108), (8388608, 64, 125)]
)
def test_v2_stat_threshold(impl, managed, cpus, threshold):
    assert impl.sizing.stat_threshold(managed, cpus) == threshold


@pytest.mark.parametrize(("gib", "kbytes"), [(1, 4096), (4, 8192), (16, 16384)])
def test_v2_min_free_kbytes(impl, gib, kbytes):
    assert impl.sizing.min_free_kbytes(gib << 20) == kbytes


@pytest.mark.parametrize(
    ("managed", "lowmem", "kbytes", "marks"),
    [
        (4194304, 4194304, 16384, (4096, 8290, 12484, 16678)),
        (1030792, 1030792, 8119, (2029, 3059, 4089, 5119)),
        (1000000, 1500000, 11584, (1930, 2930, 3930, 4930)),
    ],
)
def test_v2_watermarks(impl, managed, lowmem, kbytes, marks):
    assert tuple(impl.sizing.watermarks(managed, lowmem, kbytes)) == marks


@pytest.mark.parametrize(
    ("gfp", "mt", "text"),
    [
        (0x100CCA, M, "GFP_HIGHUSER_MOVABLE"),
        (0xCC0 | 0x10, R, "GFP_KERNEL|__GFP_RECLAIMABLE"),
        (0x820, U, "GFP_ATOMIC"),
        (0x140CCA, M, "GFP_HIGHUSER_MOVABLE|__GFP_COMP"),
    ],
)
def test_v2_gfp(gfp, mt, text):
    assert names.gfp_migratetype(gfp) == mt
    assert names.gfp_text(gfp) == text


# Baseline: the zone buddy, taking and freeing


def two_max_chunks(**kwargs):
    return put(blank(4, **kwargs), (1024, 10), (0, 10))


def test_v3_boot_order_of_a_fresh_zone(impl):
    zone = impl.Zone(2048, policy="mainline", stat_threshold=0)
    assert free_lists(zone) == lists("F10[M]: 0 1024")
    assert types(zone) == "MMMM"
    assert zone.state()["stat"] == [2048, 0, 2048]


def test_v3_boot_order_and_first_split(base):
    zone = base(held(blank(4), (0, 10), (1024, 10)))
    zone.free_direct(0, to_tail=True)
    zone.free_direct(1024, to_tail=True)
    assert free_lists(zone) == lists("F10[M]: 0 1024")
    log(zone)

    assert zone.take(0, M, LOW) == 0
    assert log(zone) == ["zl(0,0,M,1)"]
    assert free_lists(zone) == lists(
        "F0[M]: 1, F1: 2, F2: 4, F3: 8, F4: 16, F5: 32, F6: 64, F7: 128, F8: 256, F9: 512, F10: 1024"
    )
    assert zone.state()["stat"] == [2047, 0, 1536]


def test_v4_first_refill_and_lifo_reuse(base):
    zone = base(two_max_chunks())
    assert zone.alloc(0, M) == 0
    assert log(zone) == [f"zl({pfn},0,M,1)" for pfn in range(63)]
    assert pcp_lists(zone) == lists("L[1]: 1 2 ... 62")
    assert tuned(zone, "count high alloc_factor") == (62, 315, 1)
    assert free_lists(zone) == lists("F0[M]: 63, F6: 64, F7: 128, F8: 256, F9: 512, F10: 1024")

    zone.free(0)
    assert pcp_lists(zone) == lists("L[1]: 0 1 ... 62")
    assert tuned(zone, "count free_count alloc_factor") == (63, 1, 0)
    assert [zone.alloc(0, M), zone.alloc(0, M)] == [0, 1]
    assert tuned(zone, "count free_count") == (61, 0)
    assert log(zone) == []


def refills_of(zone, nr_allocations, expected_at):
    """
    Allocate order-0 M pages; per refill: its allocation number, entries, (alloc_factor, high) before and after.
    """
    refills, fields = [], "alloc_factor high"
    log(zone)
    holds = zone.counters()["holds_refill"]
    for number in range(nr_allocations):
        before = tuned(zone, fields) if number in expected_at else None
        zone.alloc(0, M)
        now = zone.counters()["holds_refill"]
        if now != holds:
            refills.append((number, len(log(zone)), before, tuned(zone, fields)))
        holds = now
    return refills


def test_v5_refill_growth(base):
    expected = [
        # allocation, entries, (alloc_factor, high) before -> after
        (0, 63, (0, 0), (1, 315)),
        (63, 126, (1, 315), (2, 441)),
        (189, 252, (2, 441), (3, 693)),
        (441, 504, (3, 693), (4, 1197)),
        (945, 1008, (4, 1197), (5, 2205)),
        (1953, 2016, (5, 2205), (5, 4096)),
        (3969, 2016, (5, 4096), (5, 4096)),
    ]
    zone = base(put(blank(12), *((pfn, 10) for pfn in range(0, 6144, 1024))))
    assert refills_of(zone, 5985, [row[0] for row in expected]) == expected


def test_v6_refill_growth_below_high(base):
    zone = base(put(blank(4, flags=names.ZONE_BELOW_HIGH), (1024, 10), (0, 10)))
    assert refills_of(zone, 756, [0, 63, 189, 378, 567]) == [
        (0, 63, (0, 0), (1, 252)),
        (63, 126, (1, 252), (2, 252)),
        (189, 189, (2, 252), (2, 252)),
        (378, 189, (2, 252), (2, 252)),
        (567, 189, (2, 252), (2, 252)),
    ]


def test_v7_merge_and_tail_placement(base):
    zone = base(held(put(blank(1), (14, 1), (100, 0), (200, 0)), 12, 13, 300))
    zone.free_direct(12)
    assert free_lists(zone) == lists("F0[M]: 200 100 12, F1: 14")
    zone.free_direct(300)
    assert free_lists(zone) == lists("F0: 300 200 100 12, F1: 14")
    zone.free_direct(13)
    assert free_lists(zone) == lists("F0: 300 200 100, F2: 12")


def test_v8_merging_across_block_types(base):
    state = put(blank(6, {0: U, 2: C, 5: U}), (0, 9), (1024, 9))
    zone = base(held(state, (512, 9), (1536, 9), (2048, 10)))

    zone.free_direct(512)
    assert free_lists(zone) == lists("F9[C]: 1024, F10[M]: 0")
    assert types(zone) == "MMCMMU"
    zone.free_direct(1536)
    assert free_lists(zone) == lists("F9[M]: 1536, F9[C]: 1024, F10[M]: 0")
    assert types(zone) == "MMCMMU"
    zone.free_direct(2048)
    assert free_lists(zone) == lists("F9[M]: 1536, F9[C]: 1024, F10[M]: 0, F10[U]: 2048")
    assert types(zone) == "MMCMUU"


# Baseline: fallback


def test_v9_whole_block_claim(base):
    zone = base(put(blank(4), (0, 10), (1024, 10)))
    assert free_lists(zone) == lists("F10[M]: 1024 0")
    assert zone.take(0, U, LOW) == 1024
    assert log(zone) == ["xf(1024,0,10,U,M,1)"]
    assert free_lists(zone) == lists(
        "F0[U]: 1025, F1: 1026, F2: 1028, F3: 1032, F4: 1040, F5: 1056, F6: 1088, F7: 1152, F8: 1280, F9[U]: 1536, "
        "F10[M]: 0"
    )
    assert types(zone) == "MMUU"


def v10_state(blocks=2, **kwargs):
    return lru(put(blank(blocks, **kwargs), (128, 7), (32, 5)), *range(256, 512))


def test_v10_sub_block_claim_returns_the_smallest_chunk(base):
    zone = base(v10_state())
    assert zone.take(0, U, LOW) == 32
    assert log(zone) == ["zl(32,0,U,1)", "xf(32,0,7,U,M,1)"]
    assert free_lists(zone) == lists("F0[U]: 33, F1: 34, F2: 36, F3: 40, F4: 48, F7[U]: 128")
    assert types(zone) == "UM"


def test_v11_one_page_short(base):
    zone = base(lru(v10_state(), 0))
    assert zone.take(0, U, LOW) == 32
    assert log(zone) == ["xf(32,0,5,U,M,0)"]
    assert free_lists(zone) == lists("F0[M]: 33, F1: 34, F2: 36, F3: 40, F4: 48, F7: 128")
    assert types(zone) == "MM"
    assert zone.state()["watermark_boost"] == 0


def test_v11_failed_claims_boost_and_steal_sticks(base):
    # Two attempts of 512 each; were the mode not STEAL, a second entry would attempt again and reach the cap of 1500.
    zone = base(lru(v10_state(4, batch=2, high=(8, 8), watermark=(250, 500, 1000, 1500)), 0))
    assert zone.managed == 2048
    assert zone.alloc(0, U, aflags=LOW) == 32
    assert log(zone) == ["xf(32,0,5,U,M,0)", "xf(33,0,0,U,M,0)"]
    assert pcp_lists(zone) == lists("L[0]: 33")
    assert zone.state()["watermark_boost"] == 1024
    assert zone.flags == 0


V12_CHUNKS = ((0, 7), (128, 6), (256, 5), (288, 4), (304, 3), (312, 2), (316, 1), (318, 0))


def test_v12_u_from_an_r_block_counts_only_free_pages(base):
    zone = base(put(blank(1, {0: R}), *V12_CHUNKS))
    assert nr_free(zone) == 255
    assert zone.take(0, U, LOW) == 318
    assert log(zone) == ["xf(318,0,0,U,R,0)"]
    assert free_lists(zone) == lists("F1[R]: 316, F2: 312, F3: 304, F4: 288, F5: 256, F6: 128, F7: 0")
    assert types(zone) == "R"


def test_v12_with_one_free_page_more(base):
    zone = base(put(blank(1, {0: R}), *V12_CHUNKS, (400, 0)))
    assert nr_free(zone) == 256
    assert zone.take(0, U, LOW) == 318
    assert log(zone) == ["zl(318,0,U,1)", "xf(318,0,7,U,R,1)"]
    assert free_lists(zone) == lists("F0[U]: 400, F1: 316, F2: 312, F3: 304, F4: 288, F5: 256, F6: 128, F7: 0")
    assert types(zone) == "U"


def v13_state(nr_lru, blocks=2, **kwargs):
    return lru(put(blank(blocks, {0: U, 1: U}, **kwargs), (600, 3), (16, 4)), *range(100, 100 + nr_lru))


def test_v13_movable_claim_at_order_4(base):
    zone = base(v13_state(240))
    assert zone.take(0, M, LOW) == 16
    assert log(zone) == ["zl(16,0,M,1)", "xf(16,0,4,M,U,1)"]
    assert free_lists(zone) == lists("F0[M]: 17, F1: 18, F2: 20, F3[M]: 24, F3[U]: 600")
    assert types(zone) == "MU"


def test_v13_one_page_short(base):
    # Large enough and with watermarks, so that the boost tells how many claims were tried: order 4 was, order 3 not.
    zone = base(v13_state(239, 4, watermark=(250, 500, 1000, 1500)))
    assert zone.take(0, M, LOW) == 600
    assert zone.state()["watermark_boost"] == 512
    assert log(zone) == ["xf(600,0,3,M,U,0)"]
    assert free_lists(zone) == lists("F0[U]: 601, F1: 602, F2: 604, F4[U]: 16")
    assert types(zone) == "UUMM"


def test_v14_steal_order_and_nofragment(base):
    zone = base(put(blank(2, {0: U, 1: R}), (64, 3), (80, 2), (520, 2), (600, 1)))
    with pytest.raises(OutOfPages):
        zone.take(0, M, LOW | NOFRAG)
    assert zone.take(0, M, LOW) == 600
    assert log(zone) == ["xf(600,0,1,M,R,0)"]
    after = lists("F0[R]: 601, F2[U]: 80, F2[R]: 520, F3[U]: 64")
    assert free_lists(zone) == after
    with pytest.raises(OutOfPages):
        zone.take(0, M, LOW | NOFRAG)
    assert log(zone) == []
    assert free_lists(zone) == after
    assert types(zone) == "UR"


def test_v15_sticky_steal_in_a_refill(base):
    zone = base(put(blank(2, {0: U, 1: U}, **FIXED_28), (0, 1), (8, 2), (512, 0)))
    assert zone.alloc(0, M, aflags=LOW) == 512
    stolen = [(512, 0), (0, 1), (1, 0), (8, 2), (9, 0), (10, 1), (11, 0)]
    assert log(zone) == [f"xf({pfn},0,{order},M,U,0)" for pfn, order in stolen]
    assert pcp_lists(zone) == lists("L[1]: 0 1 8 9 10 11")
    assert free_lists(zone) == {}
    assert types(zone) == "UU"


def test_v16_claim_inside_a_refill_returns_to_normal_mode(base):
    zone = base(lru(put(blank(2, {1: U}, **FIXED_28), (0, 5), (512, 0)), *range(300, 310)))
    assert zone.alloc(0, U, aflags=LOW) == 512
    assert log(zone) == [
        "zl(512,0,U,1)",
        "zl(0,0,U,1)",
        "xf(0,0,5,U,M,1)",
        *(f"zl({pfn},0,U,1)" for pfn in range(1, 6)),
    ]
    assert pcp_lists(zone) == lists("L[0]: 0 1 2 3 4 5")
    assert free_lists(zone) == lists("F1[U]: 6, F3: 8, F4: 16")
    assert types(zone) == "UU"


# Baseline: CMA and drift


def test_v17a_cma_half_edge(base):
    zone = base(put(blank(2, {1: C}), (0, 1), (512, 1)))
    assert zone.state()["stat"] == [4, 2, 0]
    assert zone.take(0, M, LOW | CMA) == 0
    assert log(zone) == ["zl(0,0,M,1)"]
    assert zone.state()["stat"] == [3, 2, 0]
    assert zone.take(0, M, LOW | CMA) == 512
    assert log(zone) == ["zl(512,0,C,0)"]
    assert free_lists(zone) == lists("F0[M]: 1, F0[C]: 513")


def test_v17b_cma_half_edge(base):
    zone = base(put(blank(2, {1: C}), (0, 1), (4, 0), (512, 1), (516, 0)))
    assert zone.state()["stat"] == [6, 3, 0]
    assert zone.take(0, M, LOW | CMA) == 4
    assert log(zone) == ["zl(4,0,M,1)"]
    assert zone.state()["stat"] == [5, 3, 0]
    assert zone.take(0, M, LOW | CMA) == 516
    assert log(zone) == ["zl(516,0,C,0)"]
    assert zone.take(0, M, LOW) == 0
    assert log(zone) == ["zl(0,0,M,1)"]
    assert free_lists(zone) == lists("F0[M]: 1, F1[C]: 512")


def test_v17b_without_the_cma_flag(base):
    zone = base(put(blank(2, {1: C}), (0, 1), (512, 1), (516, 0)))
    assert zone.state()["stat"] == [5, 3, 0]
    assert zone.take(0, M, LOW) == 0
    assert log(zone) == ["zl(0,0,M,1)"]


def test_v18_cma_as_fallback_inside_a_refill(base):
    zone = base(put(blank(3, {1: C, 2: U}, **FIXED_28), (0, 0), (1024, 6), (512, 1), (516, 1)))
    assert zone.state()["stat"] == [69, 4, 0]
    assert zone.alloc(0, M, aflags=LOW | CMA) == 0
    assert log(zone) == [
        "zl(0,0,M,1)",
        "zl(516,0,C,0)",
        "zl(517,0,C,0)",
        "zl(512,0,C,0)",
        "zl(513,0,C,0)",
        "xf(1024,0,6,M,U,0)",
        "xf(1025,0,0,M,U,0)",
    ]
    assert pcp_lists(zone) == lists("L[1]: 516 517 512 513 1024 1025")
    assert free_lists(zone) == lists("F1[U]: 1026, F2: 1028, F3: 1032, F4: 1040, F5: 1056")
    assert types(zone) == "MCU"


def test_v19_drift(base):
    zone = base(put(blank(2, {1: C}, thr=125), (0, 6), (512, 6), (576, 4)))
    state = zone.state()
    assert state["stat"][:2] == [128, 0]
    assert state["pcp"][0]["stat_diff"][:2] == [16, 80]
    assert zone.take(0, M, LOW | CMA) == 0
    assert log(zone) == ["zl(0,0,M,1)"]


# Baseline: other refills and drains


def test_v20ab_orders_2_and_3(base):
    zone = base(put(blank(2), (0, 10)))
    assert zone.alloc(2, U, aflags=LOW) == 0
    assert log(zone) == ["xf(0,2,10,U,M,1)", *(f"zl({pfn},2,U,1)" for pfn in range(4, 57, 4))]
    assert pcp_lists(zone) == lists("L[6]: 4 8 ... 56")
    assert tuned(zone, "count high alloc_factor") == (56, 315, 0)
    assert free_lists(zone) == lists("F2[U]: 60, F6: 64, F7: 128, F8: 256, F9: 512")
    assert types(zone) == "UU"

    assert zone.alloc(3, M, aflags=LOW | HA) == 512
    assert log(zone) == ["xf(512,3,9,M,U,1)"]
    assert tuned(zone, "count high") == (56, 378)
    counters = zone.counters()
    assert (counters["holds_refill"], counters["holds_direct_alloc"]) == (1, 1)
    assert pcp_lists(zone) == lists("L[6]: 4 8 ... 56")
    assert free_lists(zone) == lists(
        "F2[U]: 60, F6: 64, F7: 128, F8: 256, F3[M]: 520, F4: 528, F5: 544, F6[M]: 576, F7[M]: 640, F8[M]: 768"
    )
    assert types(zone) == "UM"


def test_v20c_order_9(base):
    zone = base(put(blank(8, high=(2048, 4096)), (3072, 10), (2048, 10), (1024, 10), (0, 10)))
    assert zone.alloc(9, M) == 0
    assert log(zone) == ["zl(0,9,M,1)", "zl(512,9,M,1)"]
    assert pcp_lists(zone) == lists("L[13]: 512")

    assert zone.alloc(9, U) == 1024
    assert log(zone) == ["xf(1024,9,10,U,M,1)", "zl(1536,9,U,1)"]
    assert pcp_lists(zone) == lists("L[12]: 1536, L[13]: 512")
    assert tuned(zone, "high") == (2174,)
    assert free_lists(zone) == lists("F10[M]: 2048 3072")
    assert types(zone) == "MMUUMMMM"

    zone.free(0, order=9)
    assert pcp_lists(zone) == lists("L[12]: 1536, L[13]: 0 512")
    assert tuned(zone, "count free_count") == (1536, 512)


V21_TYPES = {0: U, 1: M, 2: R, 3: C}


def test_v21a_drain_order(base):
    state = blank(4, V21_TYPES, batch=3, high=(12, 12))
    zone = base(held(state, 10, 12, 520, 1030, (1540, 1), (20, 1)))
    for pfn in (10, 12, 520, 1030, 1540, 20):
        zone.free(pfn)
    assert pcp_lists(zone) == lists("L[0]: 12 10, L[1]: 520, L[2]: 1030, L[3]: 20, L[4]: 1540")
    assert tuned(zone, "count") == (8,)
    log(zone)

    zone.drain(cpu=0)
    assert log(zone) == ["pd(10,0,U)", "pd(12,0,U)", "pd(520,0,M)", "pd(1030,0,R)", "pd(20,1,U)", "pd(1540,1,C)"]
    assert free_lists(zone) == lists("F0[U]: 12 10, F0[M]: 520, F0[R]: 1030, F1[U]: 20, F1[C]: 1540")
    assert pcp_lists(zone) == {}
    assert tuned(zone, "count free_count flags") == (0, 8, names.PCPF_PREV_FREE_HIGH_ORDER)


def test_v21b_each_chunk_restarts_at_the_freed_list(base):
    pages = [10, 12, 14, 520, 522, 524, 526, 528, 530, 1030, 1032, 1034]
    zone = base(held(blank(4, V21_TYPES, batch=3, high=(12, 12)), *pages))
    for pfn in pages[:-1]:
        zone.free(pfn)
    assert tuned(zone, "count") == (11,)
    assert log(zone) == []

    zone.free(1034)
    assert log(zone) == [
        *("pd(1030,0,R)", "pd(1032,0,R)", "pd(1034,0,R)"),
        *("pd(10,0,U)", "pd(12,0,U)", "pd(14,0,U)"),
        *("pd(520,0,M)", "pd(522,0,M)", "pd(524,0,M)"),
    ]
    assert zone.counters()["holds_drain"] == 3
    assert pcp_lists(zone) == lists("L[1]: 530 528 526")
    assert tuned(zone, "count free_count") == (3, 12)
    assert free_lists(zone) == lists("F0[U]: 14 12 10, F0[M]: 524 522 520, F0[R]: 1034 1032 1030")


def drains_of(zone, pfns):
    """
    Free pages; for each free that drained: its number, count with the page and after, high before and after.
    """
    drains = []
    order = zone.state()["allocated"][pfns[0]][0]
    for number, pfn in enumerate(pfns):
        count, high = tuned(zone, "count high")
        drained = zone.counters()["drained_pages"]
        zone.free(pfn)
        if zone.counters()["drained_pages"] != drained:
            count_after, high_after = tuned(zone, "count high")
            drains.append((number, count + (1 << order), count_after, high, high_after))
    return drains


def test_v22_automatic_limit_growth_on_free(base):
    pages = range(400)
    zone = base(held(blank(1, batch=7, high=(28, 112)), *pages))
    assert drains_of(zone, pages) == [
        # free, count -> count, high -> high
        (27, 28, 7, 28, 35),
        (55, 35, 7, 35, 63),
        (111, 63, 7, 63, 112),
        (216, 112, 7, 112, 112),
        (321, 112, 7, 112, 112),
    ]
    assert tuned(zone, "free_count") == (224,)


def test_v22_fixed_limit(base):
    pages = range(200)
    zone = base(held(blank(1, batch=7, high=(28, 28)), *pages))
    assert drains_of(zone, pages) == [(number, 28, 7, 28, 28) for number in range(27, 200, 21)]


V23_PFNS = range(0, 60, 2)


def v23_state(pcp_flags):
    state = blank(1, batch=7, high=(28, 1000), now=500, pcp_flags=pcp_flags)
    return held(state, *((pfn, 1) for pfn in V23_PFNS))


def test_v23_high_order_batch_freeing(base):
    zone = base(v23_state(0))
    for pfn in V23_PFNS[:11]:
        zone.free(pfn)
    assert tuned(zone, "count free_count") == (22, 22)
    assert drains_of(zone, V23_PFNS[11:]) == [
        (0, 24, 0, 500, 276),
        (1, 2, 0, 276, 52),
        (2, 2, 0, 52, 28),
        *((number, 2, 0, 28, 28) for number in range(3, 19)),
    ]


def test_v23_high_order_batch_freeing_with_a_large_cache(base):
    zone = base(v23_state(names.PCPF_FREE_HIGH_BATCH))
    assert drains_of(zone, V23_PFNS) == [
        (11, 24, 0, 500, 276),
        (15, 8, 0, 276, 52),
        (19, 8, 0, 52, 28),
        (23, 8, 0, 28, 28),
        (27, 8, 0, 28, 28),
    ]


def v24_after_500(base):
    # A high watermark that the zone never reaches, so that B-82 step 6 does not clear BELOW_HIGH.
    zone = base(held(blank(2, now=2000, watermark=(10000, 20000, 30000, 40000)), *range(600)))
    for pfn in range(500):
        zone.free(pfn)
    assert tuned(zone, "count high free_count") == (500, 2000, 500)
    return zone


def test_v24_below_high(base):
    zone = v24_after_500(base)
    zone.flags = names.ZONE_BELOW_HIGH
    zone.free(500)
    assert tuned(zone, "count high free_count") == (63, 1499, 501)
    for number, high in enumerate((997, 494, 252, 252), 501):
        zone.free(number)
        assert tuned(zone, "count high") == (63 + number - 500, high)
    assert zone.flags == names.ZONE_BELOW_HIGH


def test_v24_reclaim_active(base):
    zone = v24_after_500(base)
    zone.flags = names.ZONE_RECLAIM_ACTIVE
    seen = []
    for pfn in range(500, 504):
        count = tuned(zone, "count")[0] + 1
        zone.free(pfn)
        seen.append((count, *tuned(zone, "count high")))
    assert seen == [(501, 312, 1499), (313, 124, 997), (125, 125, 494), (126, 126, 252)]


def test_v25_decay_ticks(base):
    zone = base(park(blank(6, now=4096), 0, 0, M, range(3000)))
    seen = []
    for _ in range(20):
        zone.decay(0)
        seen.append(tuned(zone, "count high"))
    below = [2744, 2401, 2101, 1839, 1610, 1409, 1233, 1079, 945, 827, 724, 634, 555, 486, 426, 373, 327, 287]
    assert seen == [(3000, 3584), (3000, 3136), *((high, high) for high in below)]


def test_v26_contiguous_free(base):
    zone = base(held(blank(4), *range(5, 32), *range(500, 1600)))
    zone.free_contig(5, 27)
    assert log(zone, "free", "pcpu_drain") == [f"free({pfn},0)" for pfn in range(5, 32)]
    assert pcp_lists(zone) == lists("L[1]: 5, L[4]: 6, L[10]: 8")
    assert free_lists(zone) == lists("F4[M]: 16")
    assert tuned(zone, "count free_count") == (11, 11)

    zone.free_contig(500, 1100)
    assert log(zone, "free", "pcpu_drain") == [
        *(f"free({pfn},0)" for pfn in range(500, 1600)),
        *("pd(512,9,M)", "pd(5,0,M)", "pd(6,1,M)", "pd(500,2,M)", "pd(8,3,M)", "pd(504,3,M)"),
    ]
    assert free_lists(zone) == lists("F0: 5, F1: 6, F2: 500, F3: 504 8, F4: 16, F6: 1536, F9: 512")
    assert pcp_lists(zone) == lists("L[13]: 1024")
    assert tuned(zone, "count high free_count") == (512, 598, 1047)


# Baseline: high-atomic, isolation, watermarks, indices


@pytest.mark.parametrize(
    "rights",
    [names.WMARK_MIN | HA, LOW | HA, names.ALLOC_OOM, names.ALLOC_NON_BLOCK],
    ids=["HA", "HA-low", "OOM", "NON_BLOCK"],
)
def test_v27_high_atomic(base, rights):
    zone = base(put(blank(200), (0, 5), (64, 3)))
    assert zone.managed == 102400
    assert zone.alloc(3, U, aflags=names.WMARK_MIN | HA) == 64
    assert log(zone) == ["zl(64,3,U,1)", "xf(64,3,5,U,M,1)"]
    assert free_lists(zone) == lists("F5[H]: 0")
    assert types(zone) == "H" + 199 * "M"
    state = zone.state()
    assert (state["nr_reserved_highatomic"], state["nr_free_highatomic"]) == (512, 32)
    assert pcp_lists(zone) == {}
    assert zone.counters()["holds_refill"] == 0

    assert zone.alloc(2, U, aflags=rights) == 0
    assert log(zone) == ["zl(0,2,H,0)"]
    assert free_lists(zone) == lists("F2[H]: 4, F3: 8, F4: 16")
    state = zone.state()
    assert (state["nr_reserved_highatomic"], state["nr_free_highatomic"]) == (512, 28)


def test_v28_isolation(base):
    zone = base(two_max_chunks())
    assert zone.isolate(512)
    assert free_lists(zone) == lists("F9[M]: 0, F9[I]: 512, F10[M]: 1024")
    assert nr_free(zone) == 1536
    assert types(zone) == "MIMM"
    assert zone.state()["nr_isolate_pageblock"] == 1

    assert zone.unisolate(512)
    assert free_lists(zone) == lists("F10[M]: 1024 0")
    assert nr_free(zone) == 2048
    assert types(zone) == "MMMM"
    assert zone.state()["nr_isolate_pageblock"] == 0


def test_v28_low_level_inverse_puts_at_the_tail(base):
    # Block 1's buddy block 0 is not free, so B-111 takes the path without merging.
    zone = base(put(blank(4), (1024, 9), (512, 9)))
    assert zone.isolate(512)
    assert free_lists(zone) == lists("F9[M]: 1024, F9[I]: 512")
    assert zone.unisolate(512)
    assert free_lists(zone) == lists("F9[M]: 1024 512")
    assert nr_free(zone) == 1024


MIN_RESERVE, NON_BLOCK = names.ALLOC_MIN_RESERVE, names.ALLOC_NON_BLOCK


def test_v29_watermark_ok(base):
    zone = base(put(blank(3, {1: C, 2: H}), (0, 6), (512, 5), (1024, 4)))
    state = zone.state()
    assert (*state["stat"][:2], state["nr_free_highatomic"]) == (112, 32, 16)
    table = {
        # order, mark, flags
        (0, 64, 0): False,
        (0, 63, 0): True,
        (0, 95, CMA): True,
        (0, 96, CMA): False,
        (5, 20, 0): True,
        (7, 0, 0): False,
        (4, 0, names.ALLOC_HIGHATOMIC): True,
        (0, 100, MIN_RESERVE): True,
        (0, 200, MIN_RESERVE | NON_BLOCK): True,
    }
    assert {row: zone.watermark_ok(*row) for row in table} == table


def test_v30_indices():
    nr_free_chunks = [10, 5, 3, 2, 1, 0, 1, 0, 0, 0, 0]
    fragmentation = {6: -1000, 7: 910, 9: 944, 10: 949}
    assert {k: metrics.fragmentation_index(nr_free_chunks, k) for k in fragmentation} == fragmentation
    unusable = {0: 0, 3: 250, 6: 500, 7: 1000}
    assert {k: metrics.unusable_index(nr_free_chunks, k) for k in unusable} == unusable
    single_pages = [100] + 10 * [0]
    fragmentation = {1: 490, 3: 865, 9: 989}
    assert {k: metrics.fragmentation_index(single_pages, k) for k in fragmentation} == fragmentation


def test_v31_disabled_pcp(base):
    zone = base(two_max_chunks(batch=1, high=(0, 0)))
    assert zone.alloc(0, M) == 0
    assert log(zone) == ["zl(0,0,M,1)"]
    assert pcp_lists(zone) == {}
    assert tuned(zone, "count high") == (0, 0)
    counters = zone.counters()
    assert (counters["holds_refill"], counters["holds_direct_alloc"]) == (1, 0)

    zone.free(0)
    assert log(zone) == ["pd(0,0,M)"]
    assert pcp_lists(zone) == {}
    assert tuned(zone, "count high") == (0, 0)
    assert free_lists(zone) == lists("F10[M]: 0 1024")
    counters = zone.counters()
    assert (counters["holds_drain"], counters["holds_direct_free"]) == (1, 0)


# The per-CPU pageblock buddy allocator: single steps

FIXED_252 = {"high": (252, 252)}


def rfc_zone(make, policy="fixed", **kwargs):
    return make(two_max_chunks(**{"cpus": 2, "high": (1000, 4096)} | kwargs), policy=policy)


def after_x1(make, nr_allocs=3):
    """
    The zone of X1 with the allocations that follow it, as most vectors start.
    """
    zone = rfc_zone(make)
    assert [zone.alloc(0, M) for _ in range(1 + nr_allocs)] == list(range(1 + nr_allocs))
    return zone


def test_x1_claim(make):
    zone = rfc_zone(make)
    assert zone.alloc(0, M) == 0
    assert free_lists(zone) == lists("F9[M]: 512, F10: 1024")
    assert pcp_lists(zone) == lists(f"P0: 1* P1: 2* + {LADDER_A}")
    assert tuned(zone, "count high alloc_factor") == (511, 1063, 1)
    assert owners(zone) == [0, -1, -1, -1]
    assert owned(zone) == []

    holds = zone_holds(zone)
    assert [zone.alloc(0, M) for _ in range(3)] == [1, 2, 3]
    assert zone_holds(zone) == holds
    assert pcp_lists(zone) == lists(LADDER_A)


def test_x2_remote_free(make):
    zone = after_x1(make)
    untouched = zone.state()["pcp"][1]
    zone.free(0, cpu=1)
    assert pcp_lists(zone) == lists(f"P0: 0* {LADDER_A}")
    assert tuned(zone, "count free_count alloc_factor") == (509, 1, 0)
    assert zone.state()["pcp"][1] == untouched


def after_x3_frees(make):
    zone = after_x1(make)
    zone.free(0, cpu=1)
    zone.free(2, cpu=1)
    zone.free(1, cpu=0)
    return zone


def test_x3_merge_pass(make):
    # The pass alone cannot be called: a drain of one page merges first and then frees just 2, which nothing precedes.
    zone = after_x3_frees(make)
    assert pcp_lists(zone) == lists(f"P0: 1* 2* 0* {LADDER_A}")
    log(zone)
    zone.drain(cpu=0, n=1)
    assert log(zone, "pmerge", "pcpu_drain") == ["pmerge(0,1)", "pd(2,0,M)"]
    assert pcp_lists(zone) == lists(f"P1: 0* {LADDER_A}")


def after_x3(make):
    zone = after_x3_frees(make)
    zone.drain(cpu=0)
    return zone


def test_x3_full_drain(make):
    zone = after_x3(make)
    assert free_lists(zone) == lists("F0: 2, F1: 0, F2: 4, ... F8: 256, F9: 512, F10: 1024")
    assert pcp_lists(zone) == {}
    assert tuned(zone, "count") == (0,)
    assert owners(zone) == [0, -1, -1, -1]
    assert owned(zone) == [0]


def test_x4_recover(make):
    zone = after_x3(make)
    log(zone)
    assert zone.alloc(0, M) == 2
    assert log(zone, "recover") == [
        *("recover(0,1)", "recover(2,0)", "recover(4,2)", "recover(8,3)", "recover(16,4)"),
        *("recover(32,5)", "recover(64,6)", "recover(128,7)", "recover(256,8)"),
    ]
    assert pcp_lists(zone) == lists(f"P1: 0* + {LADDER_A}")
    assert tuned(zone, "count high") == (510, 1126)
    assert owned(zone) == []
    assert owners(zone) == [0, -1, -1, -1]
    assert free_lists(zone) == lists("F9: 512, F10: 1024")

    zone.free(3)
    zone.free(2)
    zone.drain(cpu=0)
    assert free_lists(zone) == lists("F10: 0 1024")
    assert owners(zone) == [-1, -1, -1, -1]
    assert owned(zone) == []


X5_ZONE_LISTS = "F0: 63, F6: 64, F7: 128, F8: 256, F9: 512, F10: 1024"


def test_x5_gate_closed(make):
    zone = rfc_zone(make, cpus=1, **FIXED_252)
    assert zone.alloc(0, M) == 0
    assert free_lists(zone) == lists(X5_ZONE_LISTS)
    assert pcp_lists(zone) == lists("P0: 1..62")
    assert owners(zone) == [-1, -1, -1, -1]
    counters = zone.counters()
    assert [counters[f"phase{phase}_pages"] for phase in range(4)] == [0, 0, 0, 63]


def test_x5_phase_2_may_break_whole_blocks(make):
    policy = dataclasses.replace(config.policy("fixed"), name="fixed-max10", phase2_max=10)
    zone = rfc_zone(make, policy, cpus=1, **FIXED_252)
    assert zone.alloc(0, M) == 62
    assert pcp_lists(zone) == lists("P1: 60 P2: 56 P3: 48 P4: 32 P5: 0")
    assert free_lists(zone) == lists(X5_ZONE_LISTS)
    assert owners(zone) == [-1, -1, -1, -1]


def test_x6_phase_2(make):
    zone = make(put(blank(4, cpus=2, **FIXED_252), (256, 8), (600, 3)))
    assert zone.alloc(0, M) == 310
    assert pcp_lists(zone) == lists("P1: 308 P2: 304 P3: 600 P4: 288 P5: 256")
    assert free_lists(zone) == lists("F0: 311, F3: 312, F6: 320, F7: 384")


def x7_state():
    return put(blank(4, {1: C}, cpus=2, **FIXED_252), (256, 7), (768, 8))


def test_x7_phase_2_and_cma_as_posted(make):
    zone = make(x7_state(), policy="posted")
    assert zone.alloc(0, M) == 318
    assert zone.counters()["movable_cma_pages"] == 0
    assert free_lists(zone) == lists("F0[M]: 319, F6[M]: 320, F8[C]: 768")
    assert pcp_lists(zone) == lists("P1: 316 P2: 312 P3: 304 P4: 288 P5: 256")


def test_x7_phase_2_and_cma_fixed(make):
    zone = make(x7_state())
    assert zone.alloc(0, M) == 830
    assert free_lists(zone) == lists("F0[C]: 831, F6[C]: 832, F7[C]: 896, F7[M]: 256")
    assert pcp_lists(zone) == lists("P1: 828 P2: 824 P3: 816 P4: 800 P5: 768")


@pytest.mark.parametrize(
    ("policy", "pfn", "owner_cpus", "linked", "cma_lists"),
    [
        ("posted", 512, [0, 0, -1], [0], "F1[C]: 6, F3: 8, ... F8: 256"),
        ("fixed", 6, [0, -1, -1], [], "F9[C]: 512"),
    ],
)
def test_x8_phase_0_and_cma(make, policy, pfn, owner_cpus, linked, cma_lists):
    state = put(blank(3, {0: C, 1: C}, high=(2000, 4096)), (0, 10), (1024, 9))
    zone = make(state, policy=policy)
    assert [zone.alloc(0, M) for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    zone.drain(cpu=0)
    assert free_lists(zone) == lists("F1[C]: 6, F3: 8, ... F8: 256, F9[C]: 512, F9[M]: 1024")
    assert owned(zone) == [0]
    assert owners(zone) == [0, -1, -1]

    assert zone.alloc(0, M) == pfn
    assert owners(zone) == owner_cpus
    assert owned(zone) == linked
    assert free_lists(zone) == lists(f"{cma_lists}, F9[M]: 1024")


def test_x9_off_line(make):
    zone = after_x1(make)
    zone.free(0, cpu=1)
    zone.offline(0)
    assert free_lists(zone) == lists("F0: 0, F2: 4 ... F8: 256, F9: 512, F10: 1024")
    assert owners(zone) == [-1, -1, -1, -1]
    assert owned(zone) == []
    assert zone.state()["pcp"][0]["online"] == 0

    zone.free(1, cpu=1)
    assert pcp_lists(zone, cpu=1) == lists("P0: 1")
    zone.free(2, cpu=1)
    zone.free(3, cpu=1)
    zone.drain(cpu=1)
    assert free_lists(zone) == lists("F10: 0 1024")


def test_x10_trylock_failure(make):
    zone = after_x1(make)
    for pfn in (2, 0, 1):
        zone.fail_trylocks(0b1)
        zone.free(pfn, cpu=1)
    assert zone.counters()["frees_failed_trylock"] == 3
    assert free_lists(zone) == lists("F0: 2, F1: 0, F9: 512, F10: 1024")
    assert owned(zone) == [0]

    holds = zone_holds(zone)
    for _ in range(508):
        zone.alloc(0, M)
    assert zone_holds(zone) == holds
    assert tuned(zone, "count") == (0,)

    before = zone.counters()
    assert zone.alloc(0, M) == 2
    after = zone.counters()
    obtained = [after[f"phase{phase}_pages"] - before[f"phase{phase}_pages"] for phase in range(4)]
    assert obtained == [3, 512, 0, 0]
    assert pcp_lists(zone) == lists("P1: 0*, P9: 512*")
    assert tuned(zone, "count high") == (514, 1189)
    assert owners(zone) == [0, 0, -1, -1]
    assert owned(zone) == []


def test_x11_isolation(make):
    zone = after_x1(make)
    assert zone.isolate(0, check=False)
    assert owners(zone) == [-1, -1, -1, -1]
    assert pcp_lists(zone) == lists(LADDER_A)
    assert tuned(zone, "count") == (508,)
    zone.free(0, cpu=1)
    assert free_lists(zone) == lists("F0[I]: 0, F9[M]: 512, F10: 1024")
    zone.drain(cpu=0)
    assert free_lists(zone) == lists("F0[I]: 0, F2[I]: 4 ... F8[I]: 256, F9[M]: 512, F10: 1024")

    assert zone.unisolate(0)
    assert free_lists(zone) == lists("F0[M]: 0, F2[M]: 4 ... F8[M]: 256, F9[M]: 512, F10: 1024")
    assert owners(zone) == [-1, -1, -1, -1]
    zone.free(1, cpu=1)
    assert pcp_lists(zone, cpu=1) == lists("P0: 1")
    assert pcp_lists(zone, cpu=0) == {}


def test_x12_type_change(make):
    zone = make(lru(put(blank(2, cpus=2, high=(1000, 4096)), (0, 9)), *range(512, 1024)))
    assert [zone.alloc(0, M) for _ in range(4)] == [0, 1, 2, 3]
    zone.drain(cpu=0)
    assert owners(zone) == [0, -1]
    assert owned(zone) == [0]

    assert zone.alloc(0, U, cpu=1) == 4
    assert types(zone) == "UM"
    assert owners(zone) == [-1, -1]
    assert owned(zone) == []
    assert pcp_lists(zone, cpu=1) == lists("P0[U]: 5..66")
    assert free_lists(zone) == lists("F0[U]: 67, F2: 68, F3: 72, F4: 80, F5: 96, F7: 128, F8: 256")
    zone.free(0, cpu=0)
    assert pcp_lists(zone, cpu=0) == lists("P0[U]: 0")


def test_x13_partial_drain(make):
    zone = after_x1(make)
    assert tuned(zone, "count") == (508,)
    log(zone)
    zone.drain(cpu=0, n=63, start=M)
    assert log(zone) == ["pd(32,5,M)", "pd(16,4,M)", "pd(8,3,M)", "pd(4,2,M)", "pd(64,6,M)"]
    assert pcp_lists(zone) == lists("P7: 128* P8: 256*")
    assert tuned(zone, "count") == (384,)

    zone.drain(cpu=0, n=300, start=M)
    assert log(zone) == ["pd(256,8,M)", "pd(128,7,M)"]
    assert pcp_lists(zone) == {}
    assert tuned(zone, "count") == (0,)
    assert owned(zone) == [0]


def test_x14_list_order(make):
    zone = rfc_zone(make)
    assert [zone.alloc(0, M) for _ in range(520)] == list(range(520))
    assert owners(zone) == [0, 0, -1, -1]
    zone.drain(cpu=0)
    assert owned(zone) == [1]
    for pfn in range(100):
        zone.free(pfn, cpu=1)
    zone.drain(cpu=0)
    assert owned(zone) == [1, 0]
    assert free_lists(zone) == lists("F2: 96, F3: 520, F4: 528, F5: 544 64, F6: 0 576, F7: 640, F8: 768, F10: 1024")

    recovered = zone.counters()["phase0_pages"]
    assert zone.alloc(0, M) == 520
    assert zone.counters()["phase0_pages"] - recovered == 504
    assert owned(zone) == [0]
    assert free_lists(zone) == lists("F2: 96, F5: 64, F6: 0, F10: 1024")


def test_x15_order_2(make):
    zone = rfc_zone(make)
    assert zone.alloc(2, M) == 0
    assert zone.alloc(0, M) == 4
    assert pcp_lists(zone) == lists("P0: 5* P1: 6* P3: 8* ... P8: 256*")
    assert tuned(zone, "count") == (507,)


def test_x15_order_9(make):
    zone = rfc_zone(make, high=(2048, 4096))
    assert zone.alloc(9, M) == 0
    assert owners(zone) == [0, 0, -1, -1]
    assert pcp_lists(zone) == lists("P9: 512*")
    assert tuned(zone, "high") == (2111,)
    zone.free(0, order=9, cpu=1)
    assert pcp_lists(zone) == lists("P9: 0* 512*")
    assert tuned(zone, "free_count") == (512,)
    zone.drain(cpu=0)
    assert free_lists(zone) == lists("F10: 0 1024")
    assert owners(zone) == [-1, -1, -1, -1]


def test_x16_whole_block_conversion(make):
    zone = rfc_zone(make)
    assert zone.alloc(0, U) == 0
    assert types(zone) == "UUMM"
    assert owners(zone) == [0, -1, -1, -1]
    assert free_lists(zone) == lists("F9[U]: 512, F10[M]: 1024")


def test_x17_overshoot(make):
    state = blank(8, cpus=2, batch=7, high=(600, 600))
    zone = make(put(state, (3072, 10), (2048, 10), (1024, 10), (0, 10)))
    assert [zone.alloc(0, M) for _ in range(1024)] == list(range(1024))
    for pfn in range(599):
        zone.free(pfn, cpu=1)
    assert tuned(zone, "count free_count") == (599, 224)
    assert owners(zone)[:3] == [0, 0, -1]
    holds = zone_holds(zone)
    log(zone)

    zone.free(599, cpu=1)
    events = log(zone, "pmerge", "pcpu_drain")
    assert events[-4:] == ["pd(512,6,M)", "pd(576,4,M)", "pd(592,3,M)", "pd(0,9,M)"]
    assert all(event.startswith("pmerge") for event in events[:-4])
    # What the merge pass left is what it last made of each: 0(9), 512(6), 576(4), 592(3).
    assert {"pmerge(0,9)", "pmerge(512,6)", "pmerge(576,4)", "pmerge(592,3)"} <= set(events)
    assert tuned(zone, "count") == (0,)
    assert zone_holds(zone) == holds + 1
    assert owners(zone) == [-1, 0, -1, -1, -1, -1, -1, -1]
    assert owned(zone) == [1]
    assert free_lists(zone) == lists("F3: 592, F4: 576, F6: 512, F9: 0, F10: 1024 2048 3072")


# The per-CPU pageblock buddy allocator: shapes


def cpu_0_allocates_cpu_1_frees(zone):
    for pfn in [zone.alloc(0, M, cpu=0) for _ in range(8192)]:
        zone.free(pfn, cpu=1)


def each_page_freed_256_later(zone):
    pages = []
    for number in range(16384):
        pages.append(zone.alloc(0, M, cpu=0))
        if number >= 256:
            zone.free(pages[number - 256], cpu=1)


def in_turns(nr_each):
    def workload(zone):
        pages = [[zone.alloc(0, M, cpu=cpu) for cpu in range(4)] for _ in range(nr_each)]
        for turn in pages:
            for cpu, pfn in enumerate(turn):
                zone.free(pfn, cpu=cpu)

    return workload


AUTO, SMALL = (1000, 4096), (252, 252)
SHAPES = {
    # workload, high -> holds and list operations of mainline, of fixed
    "S1": (cpu_0_allocates_cpu_1_frees, AUTO, (136, 35958), (11, 45)),
    "S2": (each_page_freed_256_later, AUTO, (268, 67916), (1, 2)),
    "S3": (in_turns(2048), AUTO, (24, 31743), (20, 62)),
    "S4": (each_page_freed_256_later, SMALL, (343, 54322), (343, 35584)),
    "S5": (in_turns(6144), AUTO, (288, 96174), (36, 132)),
    "S6": (cpu_0_allocates_cpu_1_frees, SMALL, (174, 32865), (174, 19677)),
}


@pytest.mark.parametrize("policy", ["mainline", "null", "fixed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(make, shape, policy):
    workload, high, of_mainline, of_fixed = SHAPES[shape]
    state = put(blank(64, cpus=4, high=high), *((pfn, 10) for pfn in range(31 * 1024, -1, -1024)))
    zone = make(state, policy=policy)
    workload(zone)
    counters = zone.counters()
    holds = counters["holds_refill"] + counters["holds_direct_alloc"] + counters["holds_drain"]
    assert (holds, counters["list_ops"]) == (of_fixed if policy == "fixed" else of_mainline)
    if shape == "S3":
        end = (103, 2008) if policy == "fixed" else (3969, 4096)
        assert [tuned(zone, "count high", cpu) for cpu in range(4)] == [end] * 4
