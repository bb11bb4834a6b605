"""
Calls that must be refused, on both implementations.

The right exception, a message that says what was seen and what was expected, and nothing changed:
arguments are validated before the first list is touched.
"""

import re

import pytest
from states import M, blank, held, lru, park, put

from pcpbuddy.errors import BadFree, ConfigError, CpuOffline, OutOfPages, UsageError

BLOCKS, CPUS, OFFLINE = 4, 4, 3
PAGES = 512 * BLOCKS

# What is where in the zone of the fixture.
SINGLE, OTHER, CHUNK, CHUNK_ORDER = 0, 1, 8, 2  # allocations of order 0, 0 and 2
FREE = 16  # head of a free chunk of order 4
PARKED, PARKED_HIGH = 64, 72  # on CPU 1's PCP, orders 0 and 3
HOLE = 512


@pytest.fixture
def zone(make):
    state = held(put(blank(BLOCKS, cpus=CPUS), (1024, 10), (FREE, 4)), SINGLE, OTHER, (CHUNK, CHUNK_ORDER))
    park(park(state, 1, 0, M, [PARKED]), 1, 3, M, [PARKED_HIGH])
    zone = make(state)
    zone.offline(OFFLINE)
    return zone


def refused(zone, call, error, *words):
    """
    The call raises error, its message matches all words, and the zone is as before.
    """
    before = zone.state(), zone.counters()
    with pytest.raises(error) as caught:
        call(zone)
    assert caught.type is error
    for word in words:
        assert re.search(word, str(caught.value), re.IGNORECASE), f"{word!r} not in {str(caught.value)!r}"
    assert (zone.state(), zone.counters()) == before


# Message words: what was given, and a bound of what would have been right.
ORDERS, TYPES, CPU_RANGE = r"\b10\b", r"\b2\b|reclaimable", rf"\b{CPUS - 1}\b|\b{CPUS}\b"

OUT_OF_RANGE = {
    "alloc order 11": (lambda z: z.alloc(11), r"\b11\b", ORDERS),
    "alloc order -1": (lambda z: z.alloc(-1), "-1", ORDERS),
    "alloc type 3": (lambda z: z.alloc(0, 3), r"\b3\b", TYPES),
    "alloc type -1": (lambda z: z.alloc(0, -1), "-1", TYPES),
    "alloc cpu": (lambda z: z.alloc(cpu=CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "alloc cpu -1": (lambda z: z.alloc(cpu=-1), "-1", CPU_RANGE),
    "free order 11": (lambda z: z.free(SINGLE, order=11), r"\b11\b", ORDERS),
    "free order -2": (lambda z: z.free(SINGLE, order=-2), "-2", ORDERS),
    "free cpu": (lambda z: z.free(SINGLE, cpu=CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "alloc_bulk of 0": (lambda z: z.alloc_bulk(0), r"\b0\b", r"\b1\b"),
    "alloc_bulk of -5": (lambda z: z.alloc_bulk(-5), "-5", r"\b1\b"),
    "alloc_bulk type": (lambda z: z.alloc_bulk(4, 5), r"\b5\b", TYPES),
    "alloc_bulk cpu": (lambda z: z.alloc_bulk(4, cpu=CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "free_batch cpu": (lambda z: z.free_batch([SINGLE], cpu=CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "free_contig of 0": (lambda z: z.free_contig(SINGLE, 0), r"\b0\b", r"\b1\b"),
    "free_contig cpu": (lambda z: z.free_contig(SINGLE, 2, cpu=CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "drain cpu": (lambda z: z.drain(cpu=CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "drain by": (lambda z: z.drain(cpu=1, by=CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "drain of 0": (lambda z: z.drain(cpu=1, n=0), r"\b0\b", r"\b1\b"),
    "drain start": (lambda z: z.drain(cpu=1, n=1, start=3), r"\b3\b", TYPES),
    "tick cpu": (lambda z: z.tick(CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "fold cpu": (lambda z: z.fold(CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "decay cpu": (lambda z: z.decay(CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "offline cpu": (lambda z: z.offline(CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "online cpu": (lambda z: z.online(CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "isolate by": (lambda z: z.isolate(1024, by=CPUS), rf"\b{CPUS}\b", CPU_RANGE),
    "unreserve type": (lambda z: z.unreserve(migratetype=3), r"\b3\b", TYPES),
    "watermark_ok order": (lambda z: z.watermark_ok(11, 0), r"\b11\b", ORDERS),
}


@pytest.mark.parametrize("case", OUT_OF_RANGE)
def test_out_of_range(zone, case):
    call, *words = OUT_OF_RANGE[case]
    refused(zone, call, UsageError, *words)


OFF_LINE = {
    "alloc": lambda z: z.alloc(cpu=OFFLINE),
    "free": lambda z: z.free(SINGLE, cpu=OFFLINE),
    "alloc_bulk": lambda z: z.alloc_bulk(4, cpu=OFFLINE),
    "free_batch": lambda z: z.free_batch([SINGLE], cpu=OFFLINE),
    "free_contig": lambda z: z.free_contig(SINGLE, 2, cpu=OFFLINE),
    "drain by": lambda z: z.drain(cpu=1, by=OFFLINE),
    "tick": lambda z: z.tick(OFFLINE),
    "decay": lambda z: z.decay(OFFLINE),
    "isolate by": lambda z: z.isolate(1024, by=OFFLINE),
    "offline again": lambda z: z.offline(OFFLINE),
}


@pytest.mark.parametrize("case", OFF_LINE)
def test_off_line_cpu(zone, case):
    refused(zone, OFF_LINE[case], CpuOffline, rf"\b{OFFLINE}\b", "off-?line")


def test_online_twice(zone):
    refused(zone, lambda z: z.online(1), CpuOffline, r"\b1\b", "on-?line")


def test_last_cpu_stays(zone):
    zone.offline(0)
    zone.offline(1)
    refused(zone, lambda z: z.offline(2), CpuOffline, r"\b2\b", "last")


# What the message must say is at that pfn instead of an allocation.
NO_ALLOCATION = {
    "free chunk": (FREE, "free.* zone"),
    "inside a free chunk": (FREE + 3, "interior|free.* zone"),
    "PCP entry": (PARKED, r"CPU 1\b.*PCP|PCP.*CPU 1\b"),
    "inside a PCP entry": (PARKED_HIGH + 5, r"interior|CPU 1\b.*PCP|PCP.*CPU 1\b"),
    "inside an allocation": (CHUNK + 1, "interior"),
    "hole": (HOLE, "hole"),
    "after the zone": (PAGES, rf"outside|zone.*\b({PAGES - 1}|{PAGES})\b"),
    "far after the zone": (1 << 31, rf"outside|zone.*\b({PAGES - 1}|{PAGES})\b"),
    "before the zone": (-1, rf"outside|zone.*\b({PAGES - 1}|{PAGES})\b"),
}
FREES = {
    "free": lambda z, pfn: z.free(pfn),
    "free nolock": lambda z, pfn: z.free(pfn, nolock=True),
    "free_direct": lambda z, pfn: z.free_direct(pfn),
    "free_batch": lambda z, pfn: z.free_batch([SINGLE, pfn]),
    "free_contig": lambda z, pfn: z.free_contig(pfn, 1),
    "split": lambda z, pfn: z.split(pfn),
    "set_movable": lambda z, pfn: z.set_movable(pfn),
}


@pytest.mark.parametrize("place", NO_ALLOCATION)
@pytest.mark.parametrize("operation", FREES)
def test_not_an_allocation(zone, operation, place):
    pfn, there = NO_ALLOCATION[place]
    refused(zone, lambda z: FREES[operation](z, pfn), BadFree, rf"(?<!\d){pfn}\b", there)


BAD_FREES = {
    "order too small": (lambda z: z.free(CHUNK, order=0), rf"\b{CHUNK}\b", r"\b0\b", rf"\b{CHUNK_ORDER}\b"),
    "order too large": (lambda z: z.free(SINGLE, order=1), rf"\b{SINGLE}\b", r"\b1\b"),
    "twice in a batch": (lambda z: z.free_batch([SINGLE, OTHER, SINGLE]), rf"\b{SINGLE}\b", "twice|duplicate|repeat"),
    "contig over a hole": (lambda z: z.free_contig(SINGLE, 3), r"\b2\b", "hole"),
    "contig of order 2": (lambda z: z.free_contig(CHUNK, 1), rf"\b{CHUNK}\b", rf"\b{CHUNK_ORDER}\b"),
    "contig into a free chunk": (lambda z: z.free_contig(FREE - 1, 2), rf"\b{FREE}\b", "free.* zone"),
    "contig past the end": (lambda z: z.free_contig(PAGES - 1, 2), rf"\b({PAGES - 1}|{PAGES})\b"),
}


@pytest.mark.parametrize("case", BAD_FREES)
def test_bad_free(make, case):
    state = put(blank(BLOCKS, cpus=CPUS), (1024, 9), (FREE, 4))
    zone = make(lru(held(state, SINGLE, OTHER, (CHUNK, CHUNK_ORDER)), FREE - 1, PAGES - 1))
    call, *words = BAD_FREES[case]
    refused(zone, call, BadFree, *words)


def test_double_free(zone):
    zone.free(SINGLE)
    refused(zone, lambda z: z.free(SINGLE), BadFree, r"\b0\b", r"CPU 0\b.*PCP|PCP.*CPU 0\b")
    zone.drain()
    refused(zone, lambda z: z.free(SINGLE), BadFree, r"\b0\b", "free.* zone")


@pytest.mark.parametrize("pfn", [-1, PAGES])
@pytest.mark.parametrize("operation", ["isolate", "unisolate"])
def test_block_outside_the_zone(zone, operation, pfn):
    before = zone.state()
    with pytest.raises(UsageError, match=rf"(?<!\d){pfn}\b"):
        getattr(zone, operation)(pfn)
    assert zone.state() == before


def test_out_of_pages_moves_nothing(make):
    zone = make(put(blank(1), (0, 3)))
    before = zone.state()["free"]
    with pytest.raises(OutOfPages, match=r"\b4\b"):
        zone.alloc(4, M)
    assert zone.state()["free"] == before
    assert zone.counters()["allocs_failed"] == 1


CONSTRUCTORS = {
    "unknown policy": ({"policy": "fixd"}, ConfigError, "fixd", "mainline"),
    "unknown value": ({"policy": "fixed+merge=fre"}, ConfigError, "merge=fre", "drain, free, never or tail"),
    "senseless policy": ({"policy": "fixed+local_split=off"}, ConfigError, "local_split=off needs", "gate=fit"),
    "no policy": ({"policy": None}, ConfigError, "None", "expected a Policy"),
    "part of a CMA block": ({"cma_pages": 100}, UsageError, r"\b100\b", r"\b512\b"),
    "more CMA than pages": ({"cma_pages": 4096}, UsageError, r"\b4096\b", r"\b2048\b"),
    "batch alone": ({"batch": 63}, UsageError, "batch", "high_min", "high_max"),
    "limits without batch": ({"high_min": 10, "high_max": 20}, UsageError, "batch", "high_min", "high_max"),
    "no CPU": ({"cpus": 0}, UsageError, r"\b0\b"),
    "too many CPUs": ({"cpus": 513}, UsageError, r"\b513\b", r"\b512\b"),
    "threshold too large": ({"stat_threshold": 126}, UsageError, r"\b126\b", r"\b125\b"),
    "threshold negative": ({"stat_threshold": -1}, UsageError, "-1"),
}


@pytest.mark.parametrize("case", CONSTRUCTORS)
def test_constructor(impl, case):
    options, error, *words = CONSTRUCTORS[case]
    with pytest.raises(error) as caught:
        impl.Zone(2048, **options)
    for word in words:
        assert re.search(word, str(caught.value), re.IGNORECASE), f"{word!r} not in {str(caught.value)!r}"


def test_constructor_without_pages(impl):
    with pytest.raises(UsageError, match=r"\b0\b"):
        impl.Zone(0)


@pytest.fixture
def node(impl):
    return impl.Node.from_state({"cpus": CPUS, "zones": [held(put(blank(cpus=CPUS), (1024, 10)), SINGLE)]}, "fixed")


NODE = {
    "alloc order": (lambda n: n.alloc(11), UsageError, r"\b11\b", ORDERS),
    "alloc cpu": (lambda n: n.alloc(cpu=CPUS), UsageError, rf"\b{CPUS}\b"),
    "alloc two types": (lambda n: n.alloc(0, 0x18), UsageError, "0x18|migratetype|MOVABLE"),
    "alloc_bulk of 0": (lambda n: n.alloc_bulk(0), UsageError, r"\b0\b"),
    "free outside": (lambda n: n.free(PAGES), BadFree, rf"\b{PAGES}\b"),
    "free a hole": (lambda n: n.free(HOLE), BadFree, rf"\b{HOLE}\b", "hole"),
    "free_batch duplicate": (lambda n: n.free_batch([SINGLE, SINGLE]), BadFree, "twice|duplicate|repeat"),
    "free_batch outside": (lambda n: n.free_batch([SINGLE, PAGES]), BadFree, rf"\b{PAGES}\b"),
    "free_contig hole": (lambda n: n.free_contig(SINGLE, 2), BadFree, r"\b1\b", "hole"),
    "split outside": (lambda n: n.split(PAGES), BadFree, rf"\b{PAGES}\b"),
}


@pytest.mark.parametrize("case", NODE)
def test_node(node, case):
    call, error, *words = NODE[case]
    before = node.zones[0].state()
    with pytest.raises(error) as caught:
        call(node)
    assert caught.type is error
    for word in words:
        assert re.search(word, str(caught.value), re.IGNORECASE), f"{word!r} not in {str(caught.value)!r}"
    assert node.zones[0].state() == before
