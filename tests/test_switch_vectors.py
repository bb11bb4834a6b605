"""
The vectors Y-1 to Y-77 of docs/reference/switch-vectors.md, on both implementations.

They were derived by hand from the rules, before anything was built, so that they are a witness of their own.
"""

import dataclasses

import pytest
from states import (
    LADDER_A,
    C,
    M,
    R,
    U,
    blank,
    free_lists,
    held,
    lists,
    log,
    lru,
    mark,
    outbox,
    outboxes,
    own,
    owned,
    owners,
    park,
    pcp_lists,
    put,
    tuned,
    types,
    waiting,
    zone_holds,
)

from pcpbuddy import _core, config, names
from pcpbuddy.errors import OutOfPages, UsageError

AUTO, FIXED_252 = (1000, 4096), (252, 252)
TINY = {"cpus": 2, "batch": 7, "high": (16, 16)}

X3_ZONE = "F0: 2, F1: 0, F2: 4, ... F8: 256, F9: 512, F10: 1024"
X5_ZONE = "F0: 63, F6: 64, F7: 128, F8: 256, F9: 512, F10: 1024"
LADDER_DRAINED = [f"pd({1 << order},{order},M)" for order in range(8, 1, -1)]


def switched(base="fixed", **switches):
    """
    A profile with some switches set otherwise, named after them.
    """
    name = "+".join((base, *(f"{switch}={value}" for switch, value in switches.items())))
    return dataclasses.replace(config.PROFILES[base], name=name, **switches)


def fresh(make, base="fixed", *, cpus=2, high=AUTO, flags=0, **switches):
    """
    The usual setup: 2048 pages, F10[M]: 0 1024.
    """
    return make(put(blank(4, cpus=cpus, high=high, flags=flags), (1024, 10), (0, 10)), switched(base, **switches))


def after_x1(make, base="fixed", **switches):
    """
    X1 and its three allocations: pages 0 to 3 are live, CPU 0 has ladder a (508 pages), high 1063, alloc_factor 1.
    """
    zone = fresh(make, base, **switches)
    assert [zone.alloc(0, M) for _ in range(4)] == [0, 1, 2, 3]
    assert pcp_lists(zone) == lists(LADDER_A)
    assert tuned(zone, "count high alloc_factor free_count") == (508, 1063, 1, 0)
    log(zone)
    return zone


def free_all(zone, pfns, cpu):
    for pfn in pfns:
        zone.free(pfn, cpu=cpu)


def grown(zone, before, names_of_counters):
    after = zone.counters()
    return tuple(after[name] - before[name] for name in names_of_counters.split())


# remote=llist


def test_y1_push_and_absorb(make):
    zone = after_x1(make, "llist")
    holds = zone_holds(zone)
    zone.fail_trylocks(0b1)  # there is no lock that could fail
    free_all(zone, (0, 2, 1), cpu=1)
    assert [event for event in zone.events() if event[0] == "remote_push"] == [
        ("remote_push", 1, 0, 0),
        ("remote_push", 1, 2, 0),
        ("remote_push", 1, 1, 0),
    ]
    assert waiting(zone) == ([(0, 0), (2, 0), (1, 0)], 3)
    assert pcp_lists(zone) == lists(LADDER_A)
    assert tuned(zone, "count alloc_factor free_count") == (508, 1, 0)
    counters = zone.counters()
    assert (counters["frees_remote"], counters["remote_pushes"], counters["absorbs"]) == (3, 3, 0)
    log(zone)

    assert zone.alloc(0, M) == 1
    assert log(zone, "absorb", "alloc") == ["absorb(0,0)", "absorb(2,0)", "absorb(1,0)", "alloc(1,0,M)"]
    assert pcp_lists(zone) == lists(f"P0: 2* 0* {LADDER_A}")
    assert tuned(zone, "count high alloc_factor free_count") == (510, 1063, 0, 3)
    assert waiting(zone) == ([], 0)
    counters = zone.counters()
    assert (counters["absorbs"], counters["absorbed_pages"]) == (1, 3)
    assert zone_holds(zone) == holds


def test_y1_bulk_allocation(make):
    zone = after_x1(make, "llist")
    free_all(zone, (0, 2, 1), cpu=1)
    assert zone.alloc_bulk(2, M) == [1, 2]
    assert pcp_lists(zone) == lists(f"P0: 0* {LADDER_A}")
    assert tuned(zone, "free_count") == (3,)
    assert zone.counters()["absorbs"] == 1


def test_y2_bound_and_full_drain(make):
    zone = after_x1(make, "llist", remote_bound=2)
    free_all(zone, (0, 2, 1), cpu=1)
    assert waiting(zone) == ([(0, 0), (2, 0)], 2)
    assert free_lists(zone) == lists("F0: 1, F9: 512, F10: 1024")
    assert owned(zone) == [0]
    counters = zone.counters()
    assert (counters["frees_remote"], counters["remote_pushes"]) == (2, 2)
    assert (counters["frees_direct"], counters["holds_direct_free"], counters["remote_over_bound"]) == (1, 1, 1)
    log(zone)

    zone.drain(cpu=0)
    assert log(zone, "absorb", "pmerge", "pcpu_drain") == [
        *("absorb(0,0)", "absorb(2,0)", *LADDER_DRAINED),
        *("pd(0,0,M)", "pd(2,0,M)"),
    ]
    assert free_lists(zone) == lists(X3_ZONE)
    assert waiting(zone) == ([], 0)
    assert tuned(zone, "count") == (0,)


@pytest.mark.parametrize(
    ("bound", "pushed", "pending", "zone_lists", "over"),
    [
        ("high_max", [(0, 3)], 8, "F1: 8", 2),
        (9, [(0, 3), (8, 0)], 9, "F0: 9", 1),
        ("inf", [(0, 3), (8, 0), (9, 0)], 10, "", 0),
    ],
)
def test_y3_bounds(make, bound, pushed, pending, zone_lists, over):
    state = held(blank(1, cpus=2, batch=7, high=(8, 8)), (0, 3), 8, 9)
    zone = make(own(state, 0, 0, linked=False), switched("llist", remote_bound=bound))
    free_all(zone, (0, 8, 9), cpu=1)
    assert waiting(zone) == (pushed, pending)
    assert free_lists(zone) == lists(zone_lists)
    assert zone.counters()["remote_over_bound"] == over
    if bound == "inf":
        assert zone.alloc(0, M) == 9
        assert pcp_lists(zone) == lists("P0: 8* P3: 0*")
        assert tuned(zone, "count free_count") == (9, 10)


def test_y4_owner_goes_off_line(make):
    zone = after_x1(make, "llist")
    free_all(zone, (0, 2, 1), cpu=1)
    log(zone)
    zone.offline(0)
    assert log(zone, "absorb", "pmerge", "pcpu_drain") == [
        *("absorb(0,0)", "absorb(2,0)", "absorb(1,0)", "pmerge(0,1)", *LADDER_DRAINED),
        *("pd(0,1,M)", "pd(2,0,M)"),
    ]
    assert zone.counters(1)["absorbs"] == 1
    assert free_lists(zone) == lists(X3_ZONE)
    assert waiting(zone) == ([], 0)
    assert owners(zone) == [-1, -1, -1, -1]
    assert owned(zone) == []

    zone.free(3, cpu=1)
    assert pcp_lists(zone, cpu=1) == lists("P0: 3")
    zone.drain(cpu=1)
    assert free_lists(zone) == lists("F10: 0 1024")


def test_y5_isolated_in_between(make):
    zone = after_x1(make, "llist")
    free_all(zone, (0, 1), cpu=1)
    assert zone.isolate(0, check=False)
    assert waiting(zone) == ([(0, 0), (1, 0)], 2)

    assert zone.alloc(0, M) == 4
    assert pcp_lists(zone) == lists("P0: 5* P1: 6* P3: 8* ... P8: 256*")
    assert free_lists(zone) == lists("F1[I]: 0, F9[M]: 512, F10: 1024")
    assert tuned(zone, "count alloc_factor free_count") == (507, 0, 0)
    assert waiting(zone) == ([], 0)
    counters = zone.counters()
    assert (counters["absorbs"], counters["absorbed_pages"]) == (1, 0)
    assert (counters["holds_direct_free"], counters["frees_direct"], counters["frees_remote"]) == (2, 0, 2)


def test_y5_rejects_of_a_full_drain(make):
    zone = after_x1(make, "llist")
    free_all(zone, (0, 1), cpu=1)
    assert zone.isolate(0, check=False)
    zone.drain()
    assert free_lists(zone) == lists("F1[I]: 0, F2: 4, ... F8: 256, F9[M]: 512, F10: 1024")
    assert waiting(zone) == ([], 0)
    assert tuned(zone, "count free_count") == (0, 0)
    counters = zone.counters()
    assert (counters["holds_direct_free"], counters["frees_direct"], counters["absorbed_pages"]) == (2, 0, 0)


def x12_state():
    return lru(put(blank(2, cpus=2, high=AUTO), (0, 9)), *range(512, 1024))


def test_y6_retyped_in_between(make):
    zone = make(x12_state(), "llist")
    assert [zone.alloc(0, M) for _ in range(4)] == [0, 1, 2, 3]
    zone.drain(cpu=0)
    zone.free(0, cpu=1)
    assert zone.alloc(0, U, cpu=1) == 4
    assert (types(zone), owners(zone)) == ("UM", [-1, -1])
    assert waiting(zone) == ([(0, 0)], 1)

    zone.tick(0)
    assert pcp_lists(zone) == lists("P0[U]: 0")
    assert tuned(zone, "count high alloc_factor free_count") == (1, 1000, 0, 1)
    assert waiting(zone) == ([], 0)


def test_y7_own_trylock_failed(make):
    zone = after_x1(make, "llist")
    zone.fail_trylocks(0b1)
    zone.free(1)
    assert waiting(zone) == ([(1, 0)], 1)
    counters = zone.counters()
    assert (counters["frees_local"], counters["frees_failed_trylock"], counters["remote_pushes"]) == (1, 0, 1)
    zone.free(2)
    assert pcp_lists(zone) == lists(f"P0: 2* {LADDER_A}")
    assert waiting(zone) == ([(1, 0)], 1)
    assert log(zone, "remote_push", "absorb") == ["remote_push(1,0)"]

    zone.drain(cpu=0, n=1, start=M)
    assert log(zone, "absorb", "pcpu_drain") == ["absorb(1,0)", "pd(2,0,M)"]
    assert pcp_lists(zone) == lists(f"P0: 1* {LADDER_A}")
    assert tuned(zone, "count free_count") == (509, 2)
    assert owned(zone) == [0]


def test_y8_drain_of_a_commit(make):
    zone = make(own(held(blank(1, **TINY), *range(4), *range(16, 32)), 0, 0, linked=False), "llist")
    free_all(zone, range(4), cpu=1)
    free_all(zone, range(16, 31), cpu=0)
    assert tuned(zone, "count") == (15,)
    assert waiting(zone)[1] == 4
    log(zone)

    zone.free(31)
    assert log(zone, "absorb", "pcpu_drain") == [*(f"absorb({pfn},0)" for pfn in range(4)), "pd(0,2,M)", "pd(16,4,M)"]
    assert tuned(zone, "count free_count") == (0, 20)
    assert free_lists(zone) == lists("F2: 0, F4: 16")
    counters = zone.counters()
    assert (counters["holds_drain"], counters["absorbs"], counters["absorbed_pages"]) == (1, 1, 4)


def test_y9_drain_all_of_an_empty_pcp(make):
    zone = make(own(held(blank(1, **TINY), 0, 1), 0, 0, linked=False), "llist")
    zone.free(0, cpu=1)
    assert tuned(zone, "count") == (0,)
    log(zone)
    zone.drain(by=1)
    assert log(zone, "absorb", "pcpu_drain") == ["absorb(0,0)", "pd(0,0,M)"]
    assert free_lists(zone) == lists("F0: 0")
    assert owned(zone) == [0]
    assert waiting(zone) == ([], 0)
    assert (zone.counters(0)["absorbs"], zone.counters(1)["absorbs"]) == (0, 1)


def test_y10_batch_keeps_the_own_lock(make):
    zone = make(own(held(blank(2, cpus=2, high=AUTO), 0, 512, 513), 0, 0, linked=False), "llist")
    zone.fail_trylocks(0b10)  # a second trylock would fail; there is none
    zone.free_batch([512, 0, 513], cpu=1)
    assert pcp_lists(zone, cpu=1) == lists("P0: 513 512")
    assert waiting(zone) == ([(0, 0)], 1)
    counters = zone.counters()
    assert (counters["frees_local"], counters["frees_remote"], counters["frees_direct"]) == (2, 1, 0)


def test_y10_nolock_does_not_push(make):
    zone = make(own(held(blank(2, cpus=2, high=AUTO), 0, 1), 0, 0, linked=False), "llist")
    zone.free(0, cpu=1, nolock=True)
    assert pcp_lists(zone) == lists("P0: 0*")
    zone.fail_trylocks(0b1)
    zone.free(1, cpu=1, nolock=True)
    assert free_lists(zone) == lists("F0: 1")
    assert owned(zone) == [0]
    assert waiting(zone) == ([], 0)
    assert zone.counters()["remote_pushes"] == 0


# remote=handover


def test_y11_outbox_and_tick(make):
    zone = after_x1(make, "handover")
    free_all(zone, (0, 2), cpu=1)
    assert outboxes(zone, 1) == [(0, [(0, 0), (2, 0)])]
    assert waiting(zone) == ([], 2)
    counters = zone.counters()
    assert (counters["frees_remote"], counters["remote_pushes"]) == (2, 0)
    assert log(zone, "remote_push") == []

    zone.tick(1)
    assert log(zone, "remote_push") == ["remote_push(0,0)", "remote_push(2,0)"]
    assert outboxes(zone, 1) == []
    assert waiting(zone) == ([(0, 0), (2, 0)], 2)
    assert zone.counters()["remote_pushes"] == 1

    assert zone.alloc(0, M) == 2
    assert pcp_lists(zone) == lists(f"P0: 0* {LADDER_A}")
    assert tuned(zone, "count alloc_factor free_count") == (509, 0, 2)
    assert waiting(zone) == ([], 0)


def test_y12_full_outbox_and_bound(make):
    zone = after_x1(make, "handover", handover_batch=2, remote_bound=3)
    zone.free(0, cpu=1)
    assert log(zone, "remote_push") == []
    zone.free(2, cpu=1)
    assert log(zone, "remote_push") == ["remote_push(0,0)", "remote_push(2,0)"]
    assert outboxes(zone, 1) == []
    zone.free(1, cpu=1)
    assert outboxes(zone, 1) == [(0, [(1, 0)])]
    assert waiting(zone) == ([(0, 0), (2, 0)], 3)

    zone.free(3, cpu=1)
    assert free_lists(zone) == lists("F0: 3, F9: 512, F10: 1024")
    assert owned(zone) == [0]
    assert outboxes(zone, 1) == [(0, [(1, 0)])]
    counters = zone.counters()
    assert (counters["frees_remote"], counters["frees_direct"]) == (3, 1)
    assert (counters["remote_pushes"], counters["remote_over_bound"]) == (1, 1)

    assert zone.alloc(0, M) == 2
    assert waiting(zone) == ([], 1)
    assert pcp_lists(zone) == lists(f"P0: 0* {LADDER_A}")


def test_y13_least_recently_used(make):
    state = held(blank(3, cpus=4, high=AUTO), 0, 1, 512, 1024)
    for cpu in range(3):
        own(state, cpu, cpu, linked=False)
    zone = make(state, switched("handover", handover_targets=2))
    free_all(zone, (0, 512, 1), cpu=3)
    assert outboxes(zone, 3) == [(1, [(512, 0)]), (0, [(0, 0), (1, 0)])]
    assert log(zone, "remote_push") == []

    zone.free(1024, cpu=3)
    assert log(zone, "remote_push") == ["remote_push(512,1)"]
    assert outboxes(zone, 3) == [(0, [(0, 0), (1, 0)]), (2, [(1024, 0)])]
    assert [waiting(zone, cpu) for cpu in range(4)] == [([], 2), ([(512, 0)], 1), ([], 1), ([], 0)]
    assert zone.counters()["remote_pushes"] == 1


def test_y14_own_lock_not_to_be_had(make):
    zone = after_x1(make, "handover")
    zone.free(0, cpu=1)
    zone.fail_trylocks(0b1)
    zone.free(2, cpu=1)
    assert log(zone, "remote_push") == ["remote_push(2,0)"]
    assert outboxes(zone, 1) == [(0, [(0, 0)])]
    assert waiting(zone) == ([(2, 0)], 2)
    counters = zone.counters()
    assert (counters["remote_pushes"], counters["frees_remote"], counters["frees_failed_trylock"]) == (1, 2, 0)


def test_y14_batch_holds_the_own_lock(make):
    zone = make(own(held(blank(2, cpus=2, high=AUTO), 0, 1, 512), 0, 0, linked=False), "handover")
    zone.fail_trylocks(0b10)  # a second trylock would fail; there is none
    zone.free_batch([0, 512, 1], cpu=1)
    assert outboxes(zone, 1) == [(0, [(0, 0), (1, 0)])]
    assert waiting(zone) == ([], 2)
    assert pcp_lists(zone, cpu=1) == lists("P0: 512")


def test_y15_flush_over_the_bound(make):
    state = outbox(own(blank(1, **TINY), 0, 0, linked=False), 1, 0, 0, 1, 2, 3)
    zone = make(state, switched("handover", remote_bound=3))
    assert waiting(zone) == ([], 4)
    zone.tick(1)
    assert log(zone, "remote_push") == []
    assert outboxes(zone, 1) == []
    assert waiting(zone) == ([], 0)
    assert free_lists(zone) == lists("F2: 0")
    assert owned(zone) == [0]
    counters = zone.counters()
    assert (counters["holds_direct_free"], counters["frees_direct"]) == (4, 0)
    assert (counters["remote_pushes"], counters["remote_over_bound"]) == (0, 4)


def test_y16_target_went_off_line(make):
    zone = after_x1(make, "handover")
    zone.free(0, cpu=1)
    zone.offline(0)
    ladder = "F2: 4 ... F8: 256, F9: 512, F10: 1024"
    assert free_lists(zone) == lists(ladder)
    assert outboxes(zone, 1) == [(0, [(0, 0)])]
    assert waiting(zone) == ([], 1)
    assert owners(zone) == [-1, -1, -1, -1]
    log(zone)

    zone.tick(1)
    assert log(zone, "remote_push", "absorb", "pcpu_drain") == ["remote_push(0,0)", "absorb(0,0)", "pd(0,0,M)"]
    assert free_lists(zone) == lists(f"F0: 0, {ladder}")
    assert outboxes(zone, 1) == []
    assert waiting(zone) == ([], 0)
    assert (tuned(zone, "count online"), owned(zone)) == ((0, 0), [])


def test_y17_replaced_outbox_of_a_dead_cpu(make):
    state = held(blank(2, cpus=3, high=AUTO), 0, 512)
    own(own(state, 0, 0, linked=False), 2, 1, linked=False)
    zone = make(state, switched("handover", handover_targets=1))
    zone.free(0, cpu=1)
    zone.offline(0)
    assert outboxes(zone, 1) == [(0, [(0, 0)])]
    log(zone)

    zone.free(512, cpu=1)
    assert log(zone, "remote_push", "absorb", "pcpu_drain") == ["remote_push(0,0)", "absorb(0,0)", "pd(0,0,M)"]
    assert outboxes(zone, 1) == [(2, [(512, 0)])]
    assert [waiting(zone, cpu) for cpu in range(3)] == [([], 0), ([], 0), ([], 1)]
    assert free_lists(zone) == lists("F0: 0")
    assert owners(zone) == [-1, 2]
    assert zone.counters()["frees_remote"] == 2


def test_y18_drain_all_flushes_first(make):
    zone = after_x1(make, "handover")
    free_all(zone, (0, 1, 2), cpu=1)
    zone.drain()
    assert log(zone, "remote_push", "absorb", "pmerge", "pcpu_drain") == [
        *("remote_push(0,0)", "remote_push(1,0)", "remote_push(2,0)"),
        *("absorb(0,0)", "absorb(1,0)", "absorb(2,0)", "pmerge(0,1)", *LADDER_DRAINED),
        *("pd(0,1,M)", "pd(2,0,M)"),
    ]
    assert free_lists(zone) == lists(X3_ZONE)
    assert outboxes(zone, 1) == []
    assert waiting(zone) == ([], 0)
    assert owned(zone) == [0]


def test_y18_drain_of_one_cpu_does_not(make):
    zone = after_x1(make, "handover")
    zone.free(0, cpu=1)
    zone.drain(cpu=0)
    assert outboxes(zone, 1) == [(0, [(0, 0)])]
    assert waiting(zone) == ([], 1)


def test_y19_freeing_cpu_goes_off_line(make):
    zone = after_x1(make, "handover")
    zone.free(0, cpu=1)
    zone.offline(1)
    assert log(zone, "remote_push") == ["remote_push(0,0)"]
    assert outboxes(zone, 1) == []
    assert waiting(zone) == ([(0, 0)], 1)
    assert zone.alloc(0, M) == 0


def test_y19_isolation(make):
    zone = after_x1(make, "handover")
    zone.free(0, cpu=1)
    assert zone.isolate(0, check=False)
    assert outboxes(zone, 1) == []
    assert waiting(zone) == ([(0, 0)], 1)
    assert zone.alloc(0, M) == 4
    assert free_lists(zone) == lists("F0[I]: 0, F9[M]: 512, F10: 1024")
    assert waiting(zone) == ([], 0)


# batch_sort=on


def test_y20_sorted_by_target(make):
    state = held(blank(4, cpus=3, high=AUTO), 0, 1, 512, 513, 1024, 1536)
    own(own(state, 0, 0, linked=False), 1, 1, linked=False)
    state["blocks"][3][1] = 1
    state["nr_isolate_pageblock"] = 1
    zone = make(state, switched(batch_sort="on"))
    zone.fail_trylocks(0b10)
    batch = [1536, 512, 0, 1024, 1, 513]
    zone.free_batch(batch, cpu=2)
    assert log(zone, "free", "free_batched") == [
        *(f"free({pfn},0)" for pfn in batch),
        *("free_batched(0)", "free_batched(1)", "free_batched(513)", "free_batched(1024)"),
    ]
    assert [pcp_lists(zone, cpu) for cpu in range(3)] == [lists("P0: 1* 0*"), lists("P0: 513*"), lists("P0: 1024")]
    assert free_lists(zone) == lists("F0[M]: 512, F0[I]: 1536")
    assert owned(zone, 1) == [1]
    counters = zone.counters()
    assert (counters["frees_failed_trylock"], counters["frees_direct"]) == (1, 2)


def test_y21_each_group_is_sorted_alone(make):
    state = held(blank(2, cpus=3, high=AUTO), *range(17), *range(512, 529))
    own(own(state, 0, 0, linked=False), 1, 1, linked=False)
    zone = make(state, switched(batch_sort="on"))
    zone.free_batch([pfn for k in range(17) for pfn in (512 + k, k)], cpu=2)
    order = [*range(15), *range(512, 528), 15, 16, 528]
    assert log(zone, "free_batched") == [f"free_batched({pfn})" for pfn in order]
    assert pcp_lists(zone, 0) == {"P0[M]": [f"{pfn}*" for pfn in range(16, -1, -1)]}
    assert pcp_lists(zone, 1) == {"P0[M]": [f"{pfn}*" for pfn in range(528, 511, -1)]}


# cma=balanced


@pytest.mark.parametrize("value", ["balanced", "rule"])
def test_y22_each_block_is_chosen_anew(make, value):
    state = put(blank(4, {1: C, 3: C}, high=AUTO), (0, 4), (512, 5), (1024, 4), (1536, 3))
    zone = make(own(state, 0, 0, 1, 2, 3), switched(cma=value))
    assert zone.alloc(0, M) == 0
    assert log(zone, "recover") == ["recover(512,5)", "recover(0,4)", "recover(1024,4)"]
    assert pcp_lists(zone) == lists("P0: 1* P1: 2* P2: 4* P3: 8* P4: 1024* P5: 512*")
    assert tuned(zone, "count high") == (63, 1063)
    assert owned(zone) == [3]
    assert free_lists(zone) == lists("F3[C]: 1536")
    counters = zone.counters()
    assert (counters["walked_blocks"], counters["skipped_blocks"], counters["scanned_pfns"]) == (4, 1, 1475)


def test_y23_no_block_of_the_preferred_type(make):
    state = put(blank(3, {0: U, 2: C}, batch=7, high=AUTO), (0, 3), (512, 4), (1024, 6))
    zone = make(own(state, 0, 0, 1), switched(cma="balanced"))
    before = zone.counters()
    assert zone.alloc(0, M) == 512
    assert log(zone, "recover") == ["recover(512,4)"]
    assert grown(zone, before, "walked_blocks skipped_blocks") == (2, 1)
    assert owned(zone) == [0]
    assert [zone.alloc(0, M) for _ in range(15)] == list(range(513, 528))

    before = zone.counters()
    log(zone)
    assert zone.alloc(0, M) == 1036
    assert grown(zone, before, "walked_blocks skipped_blocks") == (1, 1)
    assert log(zone, "recover", "chunk") == ["chunk(1024,3)", "chunk(1032,2)", "chunk(1036,1)"]
    assert pcp_lists(zone) == lists("P0: 1037 P2: 1032 P3: 1024")
    assert free_lists(zone) == lists("F3[U]: 0, F1[C]: 1038, F4[C]: 1040, F5[C]: 1056")
    assert tuned(zone, "count high") == (13, 1021)
    assert owned(zone) == [0]


# cma=rule


def chunks_taken(zone):
    return [event.removeprefix("chunk") for event in log(zone, "chunk")]


def test_y78_small_chunks_of_the_preferred_type_first(make):
    small = [(pfn, 2) for pfn in range(696, 511, -8)]
    state = put(blank(2, {1: C}, high=FIXED_252), (64, 5), (0, 5), *small)
    zone = make(state, switched(cma="rule"))
    assert zone.alloc(0, M) == 602
    from_cma = [f"({pfn},2)" for pfn in range(512, 576, 8)]
    assert chunks_taken(zone) == [*from_cma, "(0,4)", "(576,2)", "(584,2)", "(592,2)", "(600,1)", "(602,0)"]
    zone = make(state, "fixed")
    assert zone.alloc(0, M) == 522
    assert chunks_taken(zone) == ["(0,5)", "(64,4)", "(80,3)", "(512,2)", "(520,1)", "(522,0)"]


def test_y79_the_other_type_at_last(make):
    zone = make(put(blank(2, {1: C}, high=FIXED_252), (0, 5), (512, 6)), switched(cma="rule"))
    zone.alloc(0, M)
    assert chunks_taken(zone) == ["(512,5)", "(0,4)", "(544,3)", "(552,2)", "(556,1)", "(558,0)"]
    zone = make(put(blank(2, {1: C}, high=FIXED_252), (0, 5), (512, 3)), switched(cma="rule"))
    zone.alloc(0, M)
    assert chunks_taken(zone) == ["(0,5)", "(512,3)"]
    assert free_lists(zone) == {}


# adopt=on


@pytest.mark.parametrize("gate", ["fit", "never"])
def test_y24_adoption(make, gate):
    state = put(blank(4, cpus=2, high=FIXED_252), (256, 8), (600, 3))
    zone = make(state, switched(adopt="on", gate=gate))
    assert zone.alloc(0, M) == 310
    assert log(zone, "zone_locked", "chunk", "adopt", "own_link") == [
        *("zl(256,5,M,0)", "chunk(256,5)", "adopt(0,M)", "own_link(0)"),
        *("zl(288,4,M,0)", "chunk(288,4)", "zl(600,3,M,1)", "chunk(600,3)", "zl(304,2,M,1)", "chunk(304,2)"),
        *("zl(308,1,M,1)", "chunk(308,1)", "zl(310,0,M,1)", "chunk(310,0)"),
    ]
    assert pcp_lists(zone) == lists("P1: 308 P2: 304 P3: 600 P4: 288 P5: 256*")
    assert free_lists(zone) == lists("F0: 311, F3: 312, F6: 320, F7: 384")
    assert owners(zone) == [0, -1, -1, -1]
    assert owned(zone) == [0]
    assert zone.counters()["scanned_pfns"] == 289

    zone.free(310, cpu=1)
    assert pcp_lists(zone) == lists("P0: 310* P1: 308 P2: 304 P3: 600 P4: 288 P5: 256*")
    zone.offline(0)
    assert free_lists(zone) == lists("F3: 600, F8: 256")
    assert owners(zone) == [-1, -1, -1, -1]
    assert owned(zone) == []


def test_y25_nothing_of_the_block_remains(make):
    zone = make(put(blank(4, cpus=2, high=FIXED_252), (256, 5)), switched(adopt="on"))
    assert zone.alloc(0, M) == 256
    assert log(zone, "adopt", "own_link") == ["adopt(0,M)"]
    assert pcp_lists(zone) == lists("P0: 257* P1: 258* P2: 260* P3: 264* P4: 272*")
    assert owners(zone) == [0, -1, -1, -1]
    assert owned(zone) == []
    assert zone.counters()["scanned_pfns"] == 512


@pytest.mark.parametrize(
    ("min_order", "owner", "entries"),
    [(5, -1, "P0: 257 P1: 258 P2: 260 P3: 264"), (4, 0, "P0: 257* P1: 258* P2: 260* P3: 264*")],
)
def test_y26_smallest_chunk_that_adopts(make, min_order, owner, entries):
    state = put(blank(4, cpus=2, high=FIXED_252), (256, 4))
    zone = make(state, switched(adopt="on", adopt_min_order=min_order))
    assert zone.alloc(0, M) == 256
    assert owners(zone) == [owner, -1, -1, -1]
    assert pcp_lists(zone) == lists(entries)


def test_y27_a_block_that_another_cpu_owns(make):
    state = put(blank(4, cpus=2, high=FIXED_252), (256, 8))
    zone = make(own(state, 1, 0), switched(adopt="on"))
    assert zone.alloc(0, M) == 318
    assert log(zone, "adopt", "disown") == []
    assert pcp_lists(zone) == lists("P1: 316 P2: 312 P3: 304 P4: 288 P5: 256")
    assert free_lists(zone) == lists("F0: 319, F6: 320, F7: 384")
    assert owners(zone) == [1, -1, -1, -1]
    assert owned(zone, 1) == [0]
    zone.free(318)
    assert pcp_lists(zone, cpu=1) == lists("P0: 318*")


# high_growth=pages


def test_y28_high_grows_by_pages(make):
    zone = fresh(make, high_growth="pages")
    assert zone.alloc(0, M) == 0
    assert tuned(zone, "count high alloc_factor") == (511, 1504, 1)
    assert [zone.alloc(0, M) for _ in range(512)] == list(range(1, 513))
    assert owners(zone) == [0, 0, -1, -1]
    assert tuned(zone, "count high alloc_factor") == (511, 2008, 2)


@pytest.mark.parametrize(
    ("high", "order", "expected"),
    [((1000, 1200), 0, (1200, 1)), ((600, 600), 0, (600, 1)), (AUTO, 2, (1504, 0))],
    ids=["high_max", "fixed limits", "order 2"],
)
def test_y29_limits_of_growth(make, high, order, expected):
    zone = fresh(make, high=high, high_growth="pages")
    assert zone.alloc(order, M) == 0
    assert owners(zone) == [0, -1, -1, -1]
    assert tuned(zone, "high alloc_factor") == expected


def test_y29_fewer_pages_than_asked_for(make):
    zone = make(put(blank(4, high=AUTO), (0, 4)), switched(high_growth="pages"))
    assert [zone.alloc(0, M) for _ in range(16)] == list(range(16))
    assert tuned(zone, "count high alloc_factor") == (0, 1063, 1)
    with pytest.raises(OutOfPages):
        zone.alloc(0, M)
    assert tuned(zone, "count high alloc_factor") == (0, 1189, 2)


# retype=keep


def after_conversion(make, **switches):
    """
    X12 up to the conversion of block 0.
    """
    zone = make(x12_state(), switched(retype="keep", **switches))
    assert [zone.alloc(0, M) for _ in range(4)] == [0, 1, 2, 3]
    zone.drain(cpu=0)
    log(zone)
    assert zone.alloc(0, U, cpu=1) == 4
    return zone


def test_y30_owner_of_a_converted_block(make):
    zone = after_conversion(make)
    assert log(zone, "disown", "own_link", "own_unlink") == []
    assert types(zone) == "UM"
    assert owners(zone) == [0, -1]
    assert owned(zone) == [0]
    assert pcp_lists(zone, cpu=1) == lists("P0[U]: 5..66")
    assert free_lists(zone) == lists("F0[U]: 67, F2: 68, F3: 72, F4: 80, F5: 96, F7: 128, F8: 256")

    zone.free(0, cpu=0)
    zone.free(4, cpu=1)
    assert pcp_lists(zone) == lists("P0[U]: 4* 0*")
    assert [zone.alloc(0, U) for _ in range(3)] == [4, 0, 67]
    assert pcp_lists(zone) == lists("P2[U]: 68* P3: 72* P4: 80* P5: 96* P7: 128* P8: 256*")
    assert tuned(zone, "count high alloc_factor") == (444, 1126, 1)
    assert free_lists(zone) == {}
    assert owners(zone) == [0, -1]
    assert owned(zone) == []


def test_y30_isolation_disowns_all_the_same(make):
    zone = after_conversion(make)
    assert zone.isolate(0, check=False)
    assert owners(zone) == [-1, -1]
    assert owned(zone) == []


def test_y31_reserve(make):
    zone = make(own(put(blank(200, cpus=2), (0, 5), (64, 3)), 0, 0), switched(retype="keep"))
    rights = names.WMARK_MIN | names.ALLOC_HIGHATOMIC | names.ALLOC_MIN_RESERVE
    assert zone.alloc(3, U, cpu=1, aflags=rights) == 64
    assert types(zone) == "H" + 199 * "M"
    assert free_lists(zone) == lists("F5[H]: 0")
    assert owners(zone)[0] == 0
    assert owned(zone) == [0]
    zone.free(64, cpu=1)
    assert pcp_lists(zone) == lists("P3[M]: 64*")
    assert pcp_lists(zone, cpu=1) == {}

    assert zone.unreserve(force=True)
    assert types(zone) == 200 * "M"
    assert free_lists(zone) == lists("F5[M]: 0")
    assert owners(zone)[0] == 0
    assert owned(zone) == [0]


# merge=free


def test_y32_merge_at_the_free(make):
    zone = after_x1(make, merge="free")
    before = zone.counters()
    holds = zone_holds(zone)
    zone.free(0, cpu=1)
    zone.free(2, cpu=1)
    assert log(zone, "pmerge") == []
    zone.free(1, cpu=0)
    assert log(zone, "pmerge") == ["pmerge(0,1)"]
    assert pcp_lists(zone) == lists(f"P0: 2* P1: 0* {LADDER_A}")
    assert grown(zone, before, "merge_visited pcp_merges") == (4, 1)

    zone.free(3, cpu=1)
    assert log(zone, "pmerge") == ["pmerge(2,1)", *(f"pmerge(0,{order})" for order in range(2, 10))]
    assert pcp_lists(zone) == lists("P9: 0*")
    assert tuned(zone, "count high alloc_factor free_count") == (512, 1063, 0, 4)
    assert grown(zone, before, "merge_visited pcp_merges") == (13, 10)

    assert zone.alloc(0, M) == 0
    assert pcp_lists(zone) == lists(f"P0: 1* P1: 2* {LADDER_A}")
    assert zone_holds(zone) == holds


def test_y33_disowned_in_between(make):
    zone = after_x1(make, merge="free")
    zone.free(0, cpu=1)
    assert zone.isolate(0, check=False)
    assert zone.unisolate(0)
    zone.free(1, cpu=0)
    assert pcp_lists(zone) == lists(f"P0: 1 0* {LADDER_A}")
    assert zone.counters()["merge_visited"] == 1
    log(zone)
    zone.drain(cpu=0)
    assert log(zone, "pmerge", "pcpu_drain") == [*LADDER_DRAINED, "pd(0,0,M)", "pd(1,0,M)"]
    assert free_lists(zone) == lists("F1: 0, F2: 4, ... F8: 256, F9: 512, F10: 1024")
    assert zone.counters()["merge_visited"] == 1


def test_y34_limit_reached_by_a_merged_entry(make):
    zone = make(own(held(blank(1, **TINY), *range(16)), 0, 0, linked=False), switched(merge="free"))
    free_all(zone, range(15), cpu=1)
    assert pcp_lists(zone) == lists("P0: 14* P1: 12* P2: 8* P3: 0*")
    log(zone)
    zone.free(15, cpu=1)
    assert log(zone, "pmerge", "pcpu_drain") == [
        *("pmerge(14,1)", "pmerge(12,2)", "pmerge(8,3)", "pmerge(0,4)", "pd(0,4,M)"),
    ]
    assert tuned(zone, "count free_count") == (0, 16)
    assert free_lists(zone) == lists("F4: 0")
    assert owned(zone) == [0]
    counters = zone.counters()
    assert (counters["merge_visited"], counters["pcp_merges"], counters["holds_drain"]) == (31, 15, 1)


def test_y35_merge_while_absorbing(make):
    zone = after_x1(make, "llist", merge="free")
    free_all(zone, (0, 1), cpu=1)
    assert zone.counters()["pcp_merges"] == 0
    assert zone.alloc(0, M) == 0
    assert log(zone, "pmerge") == ["pmerge(0,1)"]
    assert pcp_lists(zone) == lists(f"P0: 1* {LADDER_A}")
    counters = zone.counters()
    assert (counters["merge_visited"], counters["absorbed_pages"]) == (3, 2)


# drain=index


def test_y36_by_index(make):
    zone = after_x1(make, drain="index")
    zone.free(0, cpu=1)
    zone.free(2, cpu=1)
    zone.free(1, cpu=0)
    log(zone)
    zone.drain(cpu=0, n=63, start=M)
    assert log(zone, "pmerge", "pcpu_drain") == [
        *("pmerge(0,1)", "pd(2,0,M)", "pd(0,1,M)", "pd(4,2,M)", "pd(8,3,M)", "pd(16,4,M)", "pd(32,5,M)"),
    ]
    assert pcp_lists(zone) == lists("P6: 64* P7: 128* P8: 256*")
    assert tuned(zone, "count") == (448,)
    assert free_lists(zone) == lists("F0: 2, F1: 0, F2: 4, ... F5: 32, F9: 512, F10: 1024")
    assert zone.counters()["holds_drain"] == 1
    assert owned(zone) == [0]


def test_y37_every_hold_overshoots(make):
    zone = after_x1(make, drain="index")
    zone.drain(cpu=0, n=100, start=M)
    assert log(zone) == ["pd(4,2,M)", "pd(8,3,M)", "pd(16,4,M)", "pd(32,5,M)", "pd(64,6,M)", "pd(128,7,M)"]
    assert pcp_lists(zone) == lists("P8: 256*")
    assert tuned(zone, "count") == (256,)
    assert zone.counters()["holds_drain"] == 2


def test_y38_full_drain_by_index(make):
    state = blank(4, {0: U, 2: R}, high=AUTO)
    for order, mt, pfn in ((9, U, 0), (9, M, 512), (9, R, 1024), (0, M, 1536)):
        park(state, 0, order, mt, [pfn])
    zone = make(state, switched(drain="index"))
    zone.drain(cpu=0)
    assert log(zone) == ["pd(1536,0,M)", "pd(0,9,U)", "pd(1024,9,R)", "pd(512,9,M)"]
    assert free_lists(zone) == lists("F0[M]: 1536, F9[R]: 1024, F10[M]: 0")
    assert types(zone) == "MMRM"
    assert zone.counters()["holds_drain"] == 1


# drain=smallest


def test_y39_smallest_first(make):
    state = blank(3, {0: U, 2: R}, high=AUTO)
    for order, mt, pfns in ((0, U, [10]), (0, M, [514, 512]), (0, R, [1024]), (1, U, [20]), (1, M, [520])):
        park(state, 0, order, mt, pfns)
    zone = make(state, switched(drain="smallest"))
    zone.drain(cpu=0, n=5, start=M)
    assert log(zone) == ["pd(512,0,M)", "pd(514,0,M)", "pd(1024,0,R)", "pd(10,0,U)", "pd(520,1,M)"]
    assert pcp_lists(zone) == lists("P1[U]: 20")
    assert tuned(zone, "count") == (2,)
    assert free_lists(zone) == lists("F0[M]: 514 512, F0[U]: 10, F0[R]: 1024, F1[M]: 520")
    assert zone.counters()["holds_drain"] == 1


def test_y40_entries_per_hold(make):
    state = park(park(blank(1, batch=3, high=(12, 12)), 0, 1, M, range(0, 20, 4)), 0, 2, M, [32])
    zone = make(state, switched(drain="smallest"))
    zone.drain(cpu=0, n=9, start=M)
    assert log(zone) == [f"pd({pfn},1,M)" for pfn in range(16, -1, -4)]
    assert pcp_lists(zone) == lists("P2: 32")
    assert zone.counters()["holds_drain"] == 2


# drain_overshoot


def smallest_state():
    return park(park(blank(2, high=AUTO), 0, 0, M, [512]), 0, 3, M, [520])


def test_y41_stop(make):
    zone = after_x1(make, drain_overshoot="stop")
    zone.drain(cpu=0, n=63, start=M)
    assert log(zone) == ["pd(32,5,M)", "pd(16,4,M)", "pd(8,3,M)", "pd(4,2,M)"]
    assert pcp_lists(zone) == lists("P6: 64* P7: 128* P8: 256*")
    assert tuned(zone, "count") == (448,)
    zone.drain(cpu=0)
    assert log(zone) == ["pd(256,8,M)", "pd(128,7,M)", "pd(64,6,M)"]


def test_y41_stop_smallest(make):
    zone = make(smallest_state(), switched(drain="smallest", drain_overshoot="stop"))
    zone.drain(cpu=0, n=4, start=M)
    assert log(zone) == ["pd(512,0,M)"]
    assert pcp_lists(zone) == lists("P3: 520")


def test_y42_split(make):
    zone = after_x1(make, drain_overshoot="split")
    before = zone.counters()
    zone.drain(cpu=0, n=63, start=M)
    assert log(zone) == ["pd(32,5,M)", "pd(16,4,M)", "pd(8,3,M)", "pd(4,2,M)", "pd(64,1,M)", "pd(66,0,M)"]
    assert pcp_lists(zone) == lists("P0: 67* P2: 68* P3: 72* P4: 80* P5: 96* P7: 128* P8: 256*")
    assert tuned(zone, "count") == (445,)
    assert free_lists(zone) == lists("F0: 66, F1: 64, F2: 4, F3: 8, F4: 16, F5: 32, F9: 512, F10: 1024")
    assert grown(zone, before, "pcp_splits drained_pages holds_drain") == (6, 63, 1)


def test_y42_split_smallest(make):
    zone = make(smallest_state(), switched(drain="smallest", drain_overshoot="split"))
    zone.drain(cpu=0, n=4, start=M)
    assert log(zone) == ["pd(512,0,M)", "pd(520,1,M)", "pd(522,0,M)"]
    assert pcp_lists(zone) == lists("P0: 523 P2: 524")


# phase0_cap=high


@pytest.mark.parametrize("left_over", [True, False])
def test_y43_count_reaches_high(make, left_over):
    state = put(blank(1, batch=7, high=(16, 16)), (32, 3), (8, 3), (0, 2), *([(64, 0)] if left_over else []))
    zone = make(own(state, 0, 0), switched(phase0_cap="high"))
    assert zone.alloc(0, M) == 0
    assert log(zone, "recover") == ["recover(0,2)", "recover(8,3)", "recover(32,3)"]
    assert pcp_lists(zone) == lists("P0: 1* P1: 2* P3: 8* 32*")
    assert tuned(zone, "count high") == (19, 16)
    assert free_lists(zone) == lists("F0: 64" if left_over else "")
    assert owned(zone) == ([0] if left_over else [])
    counters = zone.counters()
    assert (counters["walked_blocks"], counters["phase0_pages"]) == (1, 20)


def test_y44_count_is_high_already(make):
    state = put(blank(2, {1: U}, batch=7, high=(16, 16)), (64, 0), (32, 3), (8, 3), (0, 2))
    zone = make(park(own(state, 0, 0), 0, 0, U, range(512, 528)), switched(phase0_cap="high"))
    assert zone.alloc(0, M) == 64
    assert log(zone, "recover", "chunk") == ["chunk(0,2)", "chunk(8,1)", "chunk(64,0)"]
    assert pcp_lists(zone) == lists("P0[U]: 512..527 P1[M]: 8 P2: 0")
    assert free_lists(zone) == lists("F1: 10, F2: 12, F3: 32")
    assert owned(zone) == [0]
    assert zone.counters()["walked_blocks"] == 0


# owned_lists, owned_order


def test_y45_a_list_per_type(make):
    state = put(blank(4, {0: U, 2: C}, high=AUTO), (0, 3), (512, 4), (1024, 5), (1536, 4))
    zone = make(own(state, 0, 2, 0, 3, 1), switched(owned_lists="per_type"))
    assert owned(zone) == [0, 3, 1, 2]
    assert zone.alloc(0, M) == 1536
    assert log(zone, "recover") == ["recover(1536,4)", "recover(512,4)", "recover(1024,5)"]
    assert pcp_lists(zone) == lists("P0: 1537* P1: 1538* P2: 1540* P3: 1544* P4: 512* P5: 1024*")
    assert owned(zone) == [0]
    counters = zone.counters()
    assert (counters["walked_blocks"], counters["skipped_blocks"]) == (3, 0)


def test_y45_balanced(make):
    state = put(blank(4, {1: C, 3: C}, high=AUTO), (0, 4), (512, 5), (1024, 4), (1536, 3))
    zone = make(own(state, 0, 0, 1, 2, 3), switched(cma="balanced", owned_lists="per_type"))
    assert owned(zone) == [0, 2, 1, 3]
    assert zone.alloc(0, M) == 0
    assert log(zone, "recover") == ["recover(512,5)", "recover(0,4)", "recover(1024,4)"]
    assert owned(zone) == [3]
    counters = zone.counters()
    assert (counters["walked_blocks"], counters["skipped_blocks"]) == (3, 0)


def test_y46_a_linked_block_changes_its_type(make):
    state = own(put(blank(2, cpus=2, high=FIXED_252), (0, 4), (512, 8)), 0, 0, 1)
    zone = make(state, switched(owned_lists="per_type", retype="keep"))
    assert owned(zone) == [0, 1]
    assert zone.alloc(0, U, cpu=1) == 512
    assert log(zone, "disown", "own_link", "own_unlink") == ["own_unlink(512)", "own_link(512)"]
    assert types(zone) == "MU"
    assert owners(zone) == [0, 0]
    assert owned(zone) == [1, 0]
    assert pcp_lists(zone, cpu=1) == lists("P0[U]: 513..574")
    assert free_lists(zone) == lists("F4[M]: 0, F0[U]: 575, F6: 576, F7: 640")


def test_y47_new_members_at_the_head(make):
    zone = fresh(make, owned_order="head")
    assert [zone.alloc(0, M) for _ in range(520)] == list(range(520))
    zone.drain(cpu=0)
    assert owned(zone) == [1]
    free_all(zone, range(100), cpu=1)
    zone.drain(cpu=0)
    assert owned(zone) == [0, 1]
    log(zone)

    assert zone.alloc(0, M) == 96
    assert log(zone, "recover") == ["recover(0,6)", "recover(64,5)", "recover(96,2)"]
    assert owned(zone) == [1]
    assert pcp_lists(zone) == lists("P0: 97* P1: 98* P5: 64* P6: 0*")
    assert free_lists(zone) == lists("F3: 520, F4: 528, F5: 544, F6: 576, F7: 640, F8: 768, F10: 1024")


# The rest of the PCP and of the refill


def test_y48_unmarked_first(make):
    state = own(blank(1, batch=7, high=(16, 16)), 0, 0, linked=False)
    park(park(park(state, 0, 0, M, [4, 2, 0, 6]), 0, 1, M, [8]), 0, 2, M, [16, 20])
    zone = make(mark(state, 0, 0, 4, 16), switched(take_prefer="unmarked"))
    assert [zone.alloc(0, M) for _ in range(7)] == [2, 6, 4, 0, 8, 9, 20]
    assert pcp_lists(zone) == lists("P0: 21 P1: 22 P2: 16*")
    assert tuned(zone, "count") == (7,)


@pytest.mark.parametrize(
    ("high", "order", "chunks", "switches", "holds", "pages"),
    [
        (AUTO, 0, ((1024, 10), (0, 10)), {}, 2, (0, 512, 0, 0)),
        (FIXED_252, 0, ((1024, 10), (0, 10)), {}, 3, (0, 0, 0, 63)),
        (FIXED_252, 0, ((1024, 10), (0, 10)), {"phase0": "off"}, 2, (0, 0, 0, 63)),
        ((2048, 4096), 9, ((1024, 10), (0, 10)), {}, 1, (0, 1024, 0, 0)),
        (FIXED_252, 9, ((1024, 10), (0, 10)), {}, 1, (0, 0, 0, 1024)),
        (FIXED_252, 0, ((256, 5),), {"phase3": "if_empty"}, 2, (0, 0, 32, 0)),
        (FIXED_252, 0, ((256, 5),), {}, 3, (0, 0, 32, 0)),
        ((0, 0), 0, ((1024, 10), (0, 10)), {}, 1, (0, 0, 0, 1)),
    ],
    ids=["claim", "gate shut", "phase 0 off", "order 9", "order 9, gate shut", "if_empty", "rest", "disabled"],
)
def test_y49_a_hold_for_each_phase(make, high, order, chunks, switches, holds, pages):
    zone = make(put(blank(4, high=high), *chunks), switched(refill_hold="per_phase", **switches))
    zone.alloc(order, M)
    counters = zone.counters()
    assert (counters["holds_refill"], counters["refills"]) == (holds, 1)
    assert tuple(counters[f"phase{phase}_pages"] for phase in range(4)) == pages


def test_y49_phase_0_suffices(make):
    zone = after_x1(make, refill_hold="per_phase")
    zone.drain(cpu=0)
    before = zone.counters()
    assert zone.alloc(0, M) == 4
    assert grown(zone, before, "holds_refill refills phase0_pages") == (1, 1, 508)


def test_y50_nolock(make):
    zone = fresh(make, refill_hold="per_phase")
    zone.fail_trylocks(0b100)  # PCP lock, phase 0, phase 1
    assert zone.alloc(0, M, aflags=names.WMARK_LOW | names.ALLOC_CMA | names.ALLOC_NOLOCK) == 0
    assert pcp_lists(zone) == {}
    assert owners(zone) == [-1, -1, -1, -1]
    assert free_lists(zone) == lists("F0: 1, F1: 2, F2: 4, ... F8: 256, F9: 512, F10: 1024")
    assert tuned(zone, "count high alloc_factor") == (0, 1063, 1)
    counters = zone.counters()
    assert (counters["holds_refill"], counters["refills"], counters["holds_direct_alloc"]) == (1, 1, 1)


def test_y51_the_owner_drains(make):
    zone = make(own(held(blank(1, **TINY), *range(21)), 0, 0, linked=False), switched(drain_by="owner"))
    free_all(zone, range(20), cpu=1)
    assert tuned(zone, "count high free_count") == (20, 0, 20)
    assert zone.counters()["holds_drain"] == 0
    log(zone)
    zone.free(20, cpu=0)
    assert log(zone) == ["pd(16,2,M)", "pd(20,0,M)", "pd(0,4,M)"]
    assert tuned(zone, "count high free_count") == (0, 16, 21)
    assert free_lists(zone) == lists("F0: 20, F2: 16, F4: 0")
    assert zone.counters()["holds_drain"] == 1


def test_y52_order_5(make):
    zone = fresh(make, pcp_orders="all")
    assert zone.alloc(5, M) == 0
    assert pcp_lists(zone) == lists("P5: 32* P6: 64* P7: 128* P8: 256*")
    assert tuned(zone, "count high alloc_factor") == (480, 1063, 0)
    assert owners(zone) == [0, -1, -1, -1]
    zone.free(0, cpu=1)
    assert pcp_lists(zone) == lists("P5: 0* 32* P6: 64* P7: 128* P8: 256*")
    assert tuned(zone, "count free_count flags") == (512, 32, 0)
    assert zone.counters()["frees_direct"] == 0


def test_y53_order_5_from_the_zone(make):
    zone = fresh(make, high=FIXED_252, pcp_orders="all")
    assert zone.alloc(5, M) == 0
    assert log(zone) == ["zl(0,5,M,1)", "zl(32,5,M,1)"]
    assert pcp_lists(zone) == lists("P5: 32")
    assert free_lists(zone) == lists("F6: 64, F7: 128, F8: 256, F9: 512, F10: 1024")
    zone.split(0)
    zone.free_contig(0, 32)
    assert pcp_lists(zone) == lists("P5: 0 32")
    assert tuned(zone, "count free_count") == (64, 32)


def test_y54_merge_only(make):
    zone = fresh(make, "merge-only")
    assert [zone.alloc(0, M) for _ in range(4)] == [0, 1, 2, 3]
    assert free_lists(zone) == lists(X5_ZONE)
    free_all(zone, (0, 1), cpu=1)
    zone.free(2, cpu=0)
    zone.free(3, cpu=1)
    assert pcp_lists(zone, 0)["P0[M]"] == ["2*", *(f"{pfn}*" for pfn in range(4, 63))]
    assert pcp_lists(zone, 1) == lists("P0: 3* 1* 0*")
    log(zone)
    zone.drain(cpu=1)
    assert log(zone, "pmerge", "pcpu_drain") == ["pmerge(0,1)", "pd(0,1,M)", "pd(3,0,M)"]
    assert free_lists(zone) == lists("F0: 63 3, F1: 0, F6: 64, F7: 128, F8: 256, F9: 512, F10: 1024")
    counters = zone.counters()
    assert (counters["frees_local"], counters["frees_remote"]) == (4, 0)
    assert owners(zone) == [-1, -1, -1, -1]


def test_y55_all_is_marked(make):
    zone = make(put(blank(4, cpus=2, high=FIXED_252), (256, 8), (600, 3)), switched(mark="all"))
    assert zone.alloc(0, M) == 310
    assert pcp_lists(zone) == lists("P1: 308* P2: 304* P3: 600* P4: 288* P5: 256*")
    assert owners(zone) == [-1, -1, -1, -1]


def test_y55_a_state_that_is_loaded(make):
    zone = make(park(blank(1, high=AUTO), 0, 0, M, [0, 1]), switched(mark="all"))
    assert pcp_lists(zone) == lists("P0: 0* 1*")
    zone.drain(cpu=0, n=1, start=M)
    assert log(zone, "pmerge", "pcpu_drain") == ["pmerge(0,1)", "pd(0,1,M)"]


def test_y56_phase_1_from_the_own_type(make):
    zone = fresh(make, phase1_source="own_type")
    assert zone.alloc(0, U) == 0
    assert log(zone)[:2] == ["xf(0,0,10,U,M,1)", "zl(1,0,U,1)"]
    assert pcp_lists(zone) == lists("P0[U]: 1..62")
    assert types(zone) == "UUMM"
    assert owners(zone) == [-1, -1, -1, -1]
    assert free_lists(zone) == lists("F0[U]: 63, F6: 64, F7: 128, F8: 256, F9: 512, F10[M]: 1024")
    assert zone.alloc(0, M, cpu=1) == 1024
    assert owners(zone) == [-1, -1, 1, -1]


def test_y57_phase_3_if_empty(make):
    zone = make(put(blank(2, {1: U}, high=FIXED_252), (256, 5), (512, 4)), switched(phase3="if_empty"))
    assert zone.alloc(0, M) == 256
    assert pcp_lists(zone) == lists("P0: 257 P1: 258 P2: 260 P3: 264 P4: 272")
    assert free_lists(zone) == lists("F4[U]: 512")
    assert [zone.alloc(0, M) for _ in range(31)] == list(range(257, 288))
    log(zone)

    assert zone.alloc(0, M) == 512
    assert log(zone)[0] == "xf(512,0,4,M,U,0)"
    assert pcp_lists(zone) == lists("P0: 513..527")
    assert free_lists(zone) == {}
    assert types(zone) == "MU"
    assert zone.counters()["phase3_pages"] == 16


def test_y58_gate_always(make):
    zone = fresh(make, high=FIXED_252, gate="always")
    assert zone.alloc(0, M) == 0
    assert pcp_lists(zone) == lists(f"P0: 1* P1: 2* {LADDER_A}")
    assert tuned(zone, "count high alloc_factor") == (511, 252, 1)
    assert owners(zone) == [0, -1, -1, -1]
    log(zone)

    zone.free(0, cpu=1)
    assert log(zone) == ["pd(0,9,M)"]
    assert tuned(zone, "count") == (0,)
    assert free_lists(zone) == lists("F10: 0 1024")
    assert owners(zone) == [-1, -1, -1, -1]


@pytest.mark.parametrize(
    ("gate", "high", "flags", "claims"),
    [
        ("always", AUTO, names.ZONE_BELOW_HIGH, True),
        ("min", AUTO, names.ZONE_BELOW_HIGH, False),
        ("min", (512, 4096), 0, True),
        ("min", (511, 4096), 0, False),
        ("fit", (511, 4096), 0, True),
    ],
)
def test_y59_gates(make, gate, high, flags, claims):
    zone = fresh(make, high=high, flags=flags, gate=gate)
    assert zone.alloc(0, M) == 0
    assert owners(zone) == [0 if claims else -1, -1, -1, -1]
    assert pcp_lists(zone) == lists(f"P0: 1* P1: 2* {LADDER_A}" if claims else "P0: 1..62")


def test_y60_gate_min_does_not_ask_for_room(make):
    state = park(put(blank(4, {0: U}, high=(512, 600)), (1024, 10)), 0, 0, U, range(300))
    zone = make(state, switched(gate="min"))
    assert zone.alloc(0, M) == 1024
    assert owners(zone) == [-1, -1, 0, -1]
    assert tuned(zone, "count high") == (811, 575)
    assert free_lists(zone) == lists("F9: 1536")


# Profiles and states


def test_y61_own_no_merge(make):
    zone = after_x1(make, "own-no-merge")
    zone.free(0, cpu=1)
    zone.free(2, cpu=1)
    zone.free(1, cpu=0)
    assert pcp_lists(zone) == lists(f"P0: 1* 2* 0* {LADDER_A}")
    log(zone)
    zone.drain(cpu=0)
    assert log(zone, "pmerge", "pcpu_drain") == [*LADDER_DRAINED, "pd(0,0,M)", "pd(2,0,M)", "pd(1,0,M)"]
    assert free_lists(zone) == lists(X3_ZONE)
    assert owners(zone) == [0, -1, -1, -1]
    assert owned(zone) == [0]
    counters = zone.counters()
    assert (counters["merge_visited"], counters["pcp_merges"]) == (0, 0)


def test_y62_chunk_only(make):
    zone = make(put(blank(4, cpus=2, high=AUTO), (256, 8), (600, 3)), "chunk-only")
    assert zone.alloc(0, M) == 310
    assert pcp_lists(zone) == lists("P1: 308 P2: 304 P3: 600 P4: 288 P5: 256")
    assert tuned(zone, "count high") == (62, 1063)
    zone.free(310, cpu=1)
    assert pcp_lists(zone, cpu=1) == lists("P0: 310")
    assert owners(zone) == [-1, -1, -1, -1]


def test_y62_chunk_only_never_claims(make):
    zone = fresh(make, "chunk-only")
    assert zone.alloc(0, M) == 0
    assert pcp_lists(zone) == lists("P0: 1..62")
    assert free_lists(zone) == lists(X5_ZONE)
    assert owners(zone) == [-1, -1, -1, -1]


def test_y64_merged_entries_go_to_the_tail(make):
    """
    P-51 with merge=free: the later pair is drained first, so it lies behind the earlier one.
    """
    zone = fresh(make, merge="free")
    assert [zone.alloc(0, M) for _ in range(1024)] == list(range(1024))
    assert pcp_lists(zone) == {}
    for pfn in (4, 5, 8):
        zone.free(pfn)
    assert pcp_lists(zone) == lists("P0: 8*, P1: 4*")
    zone.free(9)
    assert pcp_lists(zone) == lists("P1: 4* 8*")


@pytest.mark.parametrize("drain", ["largest_fit", "index", "smallest"])
def test_y65_a_dead_list_is_drained_from_its_start(make, drain):
    """
    B-100, P-61: a full drain begins with U, whoever does it and whatever it did before.
    """
    zone = fresh(make, "handover", drain=drain)
    pfns = [zone.alloc(0, M), zone.alloc(0, U)]
    for pfn in pfns:
        zone.free(pfn, cpu=1)
    zone.offline(0)
    log(zone)
    zone.tick(1)
    assert log(zone, "pcpu_drain") == [f"pd({pfns[1]},0,U)", f"pd({pfns[0]},0,M)"]
    assert zone.state()["pcp"][0]["pending"] == 0


# merge=tail


def test_y66_a_block_at_least(make):
    zone = after_x1(make, merge="tail")
    free_all(zone, range(4), cpu=0)
    log(zone)
    zone.drain(0, 1, start=M)
    assert log(zone, "pmerge", "pcpu_drain") == [
        *("pmerge(0,1)", "pmerge(2,1)"),
        *(f"pmerge(0,{order})" for order in range(2, 10)),
        "pd(0,9,M)",
    ]
    assert free_lists(zone) == lists("F10: 0 1024")
    assert owners(zone) == [-1, -1, -1, -1]
    assert tuned(zone, "count") == (0,)
    assert zone.counters()["merge_visited"] == 10


def test_y66_in_vain(make):
    zone = after_x1(make, merge="tail")
    free_all(zone, (0, 2, 3), cpu=0)
    log(zone)
    zone.drain(0, 1, start=M)
    assert log(zone, "pmerge", "pcpu_drain") == ["pmerge(2,1)", "pd(0,0,M)"]
    assert pcp_lists(zone) == lists(f"P1: 2* {LADDER_A}")
    assert zone.counters()["merge_visited"] == 10


@pytest.mark.parametrize(
    ("amount", "looks", "drained"),
    [
        (10, 511, [f"pd({pfn},0,M)" for pfn in range(512, 522)]),
        (600, 599, ["pd(0,9,M)", "pd(512,6,M)", "pd(576,4,M)", "pd(592,3,M)"]),
    ],
)
def test_y67_no_further_than_the_drain(make, amount, looks, drained):
    state = own(held(blank(3, cpus=1, high=(2000, 2000)), *range(1536)), 0, 0, 1, 2, linked=False)
    zone = make(state, switched(merge="tail"))
    free_all(zone, range(1536), cpu=0)
    log(zone)
    zone.drain(0, amount, start=M)
    assert log(zone, "pcpu_drain") == drained
    assert zone.counters()["merge_visited"] == looks
    assert tuned(zone, "count") == (1536 - amount,)


# drain=near


def with_a_whole_block(make, *more):
    """
    40 single pages, block 2 as a whole, and more entries of block 1 as (pfn, order).
    """
    state = own(held(blank(3, cpus=1, high=(2000, 2000)), *range(40)), 0, 0, 1, 2, linked=False)
    for pfn, order in ((1024, 9), *more):
        mark(park(state, 0, order, M, [pfn]), 0, pfn)
    zone = make(state, switched(drain="near", merge="never"))
    free_all(zone, range(40), cpu=0)
    log(zone)
    return zone


@pytest.mark.parametrize(
    ("more", "amount", "drained"),
    [
        ((), 300, ["pd(1024,9,M)"]),
        ((), 63, [*(f"pd({pfn},0,M)" for pfn in range(40)), "pd(1024,9,M)"]),
        (((600, 2), (512, 5), (544, 5)), 300, ["pd(1024,9,M)"]),
        (
            ((600, 2), (512, 5), (544, 5)),
            100,
            ["pd(544,5,M)", "pd(512,5,M)", "pd(600,2,M)", *(f"pd({pfn},0,M)" for pfn in range(32))],
        ),
    ],
)
def test_y72_y73_near(make, more, amount, drained):
    zone = with_a_whole_block(make, *more)
    zone.drain(0, amount, start=M)
    assert log(zone, "pcpu_drain") == drained
    assert zone.counters()["holds_drain"] == 1


@pytest.mark.parametrize(
    ("parked", "freed", "drained", "counted"),
    [
        ([(512, 6)], 136, ["pd(512,6,M)", "pd(128,3,M)", "pd(0,7,M)"], (2, 136, 134)),
        ([], 200, ["pd(0,7,M)", "pd(128,6,M)", "pd(192,3,M)"], (1, 200, 197)),
    ],
)
def test_y74_a_late_pass(make, parked, freed, drained, counted):
    state = own(held(blank(2, cpus=1, batch=7, high=(200, 200)), *range(freed)), 0, 0, 1, linked=False)
    for pfn, order in parked:
        mark(park(state, 0, order, M, [pfn]), 0, pfn)
    zone = make(state, switched(drain="near", merge="tail"))
    free_all(zone, range(freed - 1), cpu=0)
    assert zone.counters()["holds_drain"] == 0
    log(zone)
    zone.free(freed - 1)
    assert log(zone, "pcpu_drain") == drained
    counters = zone.counters()
    assert (counters["holds_drain"], counters["merge_visited"], counters["pcp_merges"]) == counted
    assert tuned(zone, "count") == (0,)


# gate=plenty


@pytest.mark.parametrize(
    ("high", "flags", "cma", "chunks", "owner"),
    [
        ((252, 512), 0, (), ((1024, 10), (0, 10)), 0),
        ((252, 512), 0, (), ((512, 9), (0, 9)), 0),
        ((252, 511), 0, (), ((1024, 10), (0, 10)), -1),
        ((252, 512), names.ZONE_BELOW_HIGH, (), ((1024, 10), (0, 10)), -1),
        ((252, 512), 0, (), ((0, 9),), -1),
        ((252, 512), 0, (1,), ((512, 9), (0, 9)), -1),
    ],
)
def test_y75_plenty(make, high, flags, cma, chunks, owner):
    state = blank(4, dict.fromkeys(cma, C), cpus=2, high=high, flags=flags)
    zone = make(put(state, *chunks), switched(gate="plenty"))
    assert zone.alloc(0, M) == 0
    assert owners(zone)[0] == owner
    if owner == 0:
        assert tuned(zone, "count") == (511,)


# pressure=local

SHORT = (0, 0, 0, 100)


def pressed(make, base="fixed", flags=0, chunks=((512, 6),)):
    """
    Two blocks, the first one CPU 0's and in use; a promo watermark of 100 pages.
    """
    state = own(held(blank(2, cpus=2, high=FIXED_252, flags=flags, watermark=SHORT), 0, 1), 0, 0, linked=False)
    return make(put(state, *chunks), switched(base, pressure="local"))


@pytest.mark.parametrize(
    ("flags", "chunks", "rests"),
    [
        (0, ((512, 6),), True),
        (0, ((512, 7),), False),
        (0, ((512, 6), (576, 2), (640, 5)), False),
        (0, ((512, 6), (640, 5)), True),
        (names.ZONE_RECLAIM_ACTIVE, ((512, 7),), True),
        (names.ZONE_BELOW_HIGH, ((512, 7),), False),
    ],
)
def test_y76_frees_under_pressure(make, flags, chunks, rests):
    zone = pressed(make, flags=flags, chunks=chunks)
    zone.free(0, cpu=1)
    zone.free(1, cpu=0)
    counters = zone.counters()
    assert (counters["frees_local"], counters["frees_remote"]) == ((2, 0) if rests else (1, 1))
    assert pcp_lists(zone, 1) == lists("P0: 0" if rests else "")
    assert pcp_lists(zone, 0) == lists("P0: 1*" if rests else "P0: 1* 0*")


@pytest.mark.parametrize(("high", "batch", "flags", "kept"), [(3, 63, 0, 2), (252, 1, names.ZONE_RECLAIM_ACTIVE, 3)])
def test_y76_no_more_than_it_may_keep(make, high, batch, flags, kept):
    state = blank(2, cpus=2, batch=batch, high=(high, high), now=high, flags=flags, watermark=SHORT)
    zone = make(put(own(held(state, *range(4)), 0, 0, linked=False), (512, 6)), switched(pressure="local"))
    for pfn in range(4):
        zone.free(pfn, cpu=1)
    counters = zone.counters()
    assert (counters["frees_local"], counters["frees_remote"]) == (kept, 4 - kept)


def test_y76_no_outbox_under_pressure(make):
    zone = pressed(make, "handover")
    zone.free(0, cpu=1)
    assert pcp_lists(zone, 1) == lists("P0: 0")
    assert outboxes(zone, 1) == []
    assert waiting(zone) == ([], 0)


@pytest.mark.parametrize(("promo", "entry", "linked"), [(100, "P3: 0", [0]), (0, "P3: 0*", [])])
def test_y77_refills_under_pressure(make, promo, entry, linked):
    state = own(put(blank(2, high=FIXED_252, watermark=(0, 0, 0, promo)), (0, 3), (512, 2)), 0, 0, linked=True)
    zone = make(state, switched(pressure="local"))
    assert zone.alloc(0, M) == 512
    assert pcp_lists(zone) == lists(f"P0: 513 P1: 514 {entry}")
    assert owned(zone) == linked


# drain_by=visitor


def visiting(make, base, pages=20, high=(16, 16), **switches):
    """
    Tiny, under a policy that visits and does not merge.
    """
    state = own(held(blank(1, **TINY | {"high": high}), *range(pages)), 0, 0, linked=False)
    return make(state, switched(base, drain_by="visitor", merge="never", **switches))


def test_y68_visited_by_who_pushes(make):
    zone = visiting(make, "llist")
    free_all(zone, range(15), cpu=1)
    assert waiting(zone)[1] == 15
    assert tuned(zone, "count") == (0,)
    log(zone)
    zone.free(15, cpu=1)
    assert log(zone, "pcpu_drain") == [f"pd({pfn},0,M)" for pfn in range(9)]
    assert pcp_lists(zone) == lists("P0: 15* 14* 13* 12* 11* 10* 9*")
    assert waiting(zone) == ([], 0)
    assert tuned(zone, "count high free_count") == (7, 16, 16)
    counters = zone.counters()
    assert (counters["holds_drain"], counters["absorbs"], counters["absorbed_pages"]) == (2, 1, 16)
    assert (counters["frees_remote"], counters["frees_direct"]) == (16, 0)


@pytest.mark.parametrize(("failing", "left"), [(0b01, (0, 16)), (0b10, (9, 0))])
def test_y68_trylocks(make, failing, left):
    """
    The visit's own, and between two holds.
    """
    zone = visiting(make, "llist")
    free_all(zone, range(15), cpu=1)
    zone.fail_trylocks(failing)
    zone.free(15, cpu=1)
    assert (*tuned(zone, "count"), waiting(zone)[1]) == left


def test_y68_interrupts_visit_nobody(make):
    zone = visiting(make, "llist")
    for pfn in range(16):
        zone.free(pfn, cpu=1, irq=True)
    assert waiting(zone)[1] == 16
    zone.free(16, cpu=1)
    assert zone.counters()["frees_direct"] == 1  # the bound


def test_y69_visited_after_a_hand_over(make):
    zone = visiting(make, "handover", handover_batch=4)
    free_all(zone, range(16), cpu=1)
    assert pcp_lists(zone) == lists("P0: 15* 14* 13* 12* 11* 10* 9*")
    assert zone.counters()["remote_pushes"] == 4
    batched = visiting(make, "handover", handover_batch=4)
    batched.free_batch(list(range(20)), cpu=1)
    assert pcp_lists(batched) == pcp_lists(zone)
    assert waiting(batched)[1] == 4

    zone = visiting(make, "handover", handover_batch=20)
    free_all(zone, range(16), cpu=1)
    zone.tick(1)
    assert outboxes(zone, 1) == []
    assert (*tuned(zone, "count"), waiting(zone)[1]) == (0, 16)


def test_y70_visited_under_reclaim(make):
    zone = visiting(make, "llist", pages=40, high=(100, 100))
    zone.flags = names.ZONE_RECLAIM_ACTIVE
    free_all(zone, range(27), cpu=1)
    assert waiting(zone)[1] == 27
    log(zone)
    zone.free(27, cpu=1)
    assert log(zone, "pcpu_drain") == [f"pd({pfn},0,M)" for pfn in range(21)]
    assert tuned(zone, "count") == (7,)


def test_y71_visited_to_make_room(make):
    state = held(blank(4, cpus=3, batch=7, high=(16, 16)), *range(16), 512)
    state = own(own(state, 0, 0, linked=False), 2, 1, linked=False)
    zone = make(state, switched("handover", drain_by="visitor", merge="never", handover_targets=1))
    free_all(zone, range(16), cpu=1)
    assert tuned(zone, "count") == (0,)
    zone.free(512, cpu=1)
    assert tuned(zone, "count") == (7,)
    assert outboxes(zone, 1) == [(2, [(512, 0)])]


def test_a_snapshot_of_another_policy_is_refused():
    one, other = (_core.Zone(2048, policy=policy) for policy in ("fixed", "mainline"))
    with pytest.raises(UsageError, match="another policy: this one has mainline"):
        other.restore(one.snapshot())


@pytest.mark.parametrize("policy", ["fixed", "merge-only", "mainline"])
def test_y63_waiting_pages_need_a_policy_that_has_them(impl, policy):
    with pytest.raises(UsageError):
        impl.Zone.from_state(outbox(blank(1, cpus=2), 1, 0, 0), policy=policy)


def test_y63_owned_blocks_need_a_policy_that_owns(impl):
    state = own(held(blank(1), 0), 0, 0, linked=False)
    with pytest.raises(UsageError):
        impl.Zone.from_state(state, policy="chunk-only")
    assert owners(impl.Zone.from_state(state, policy=switched("chunk-only", adopt="on"))) == [0]
