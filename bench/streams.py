"""
The loads of the replay benchmark: made-up streams over 32 CPUs, and recordings.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pcpbuddy import _core, config, names, recording, requests

__all__ = ["Load", "loads"]

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (ROOT / "recordings", ROOT.parent / "shared" / "oracle")

CPUS = 32
PAIRS = CPUS // 2
ZONE_PAGES = 1 << 20  # 4 GiB: the descriptors are 12 MiB here and 16 MiB in the reference
BATCH, HIGH_MIN, HIGH_MAX = 63, 1000, 4096  # as in the shape vectors (docs/reference/rfc.md, section 17)
BURST = 8192  # S1: pages handed over at a time
LAG = 256  # S2: pages between an allocation and its free
LIVE = 256  # churn: pages that each CPU holds
MAX_ORDER = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """
    Requests, and the state to begin with.

    free, allocated: rows pfn, order of what the reference begins with.
    """

    name: str
    requests: np.ndarray
    nr_handles: int
    nr_pages: int
    free: np.ndarray
    allocated: np.ndarray
    node: Callable[[config.Policy], Any]


def loads(quick: bool) -> Iterator[Load]:
    """
    Streams of about 4 M requests (quick: 400 k), and every recording that is there.
    """
    nr = 400_000 if quick else 4_000_000
    rng = np.random.default_rng(1)
    yield _made_up("hand-over (S1)", _hand_over(rng, nr))
    yield _made_up("stream (S2)", _stream(rng, nr))
    yield _made_up("own pages", _own_pages(rng, nr))
    for path in _recordings(quick):
        yield _recorded(path)


def _recordings(quick: bool) -> list[Path]:
    """
    The shipped cuts, and the whole recordings where their folder is there (not with --quick).
    """
    folders = FOLDERS[:1] if quick else FOLDERS
    paths: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.parquet")):
            paths.setdefault(path.stem, path)
    return list(paths.values())


# -- made-up streams -----------------------------------------------------------------------------------


def _records(op: int, cpu: int, handles: np.ndarray) -> np.ndarray:
    records = np.zeros(len(handles), requests.REQUEST)
    records["op"], records["cpu"], records["pfn"] = op, cpu, handles
    if op == requests.ALLOC:
        records["gfp"] = names.GFP_HIGHUSER_MOVABLE
    return records


def _mixed(rng: np.random.Generator, parts: list[np.ndarray]) -> np.ndarray:
    """
    The parts shuffled into each other, each in its own order.
    """
    turn = rng.permutation(np.repeat(np.arange(len(parts)), [len(part) for part in parts]))
    out = np.empty(len(turn), requests.REQUEST)
    out[np.argsort(turn, kind="stable")] = np.concatenate(parts)
    return out


def _alternate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    both = np.empty(2 * len(first), requests.REQUEST)
    both[0::2], both[1::2] = first, second
    return both


def _hand_over(rng: np.random.Generator, nr: int) -> np.ndarray:
    """
    S1 on 16 pairs of CPUs, again and again: one allocates 8192 pages, then the other frees them in order.
    """
    parts = []
    for pair in range(PAIRS):
        handles = np.arange(BURST) + pair * BURST
        once = [_records(requests.ALLOC, 2 * pair, handles), _records(requests.FREE, 2 * pair + 1, handles)]
        parts.append(np.concatenate(once * max(1, round(nr / (2 * BURST * PAIRS)))))
    return _mixed(rng, parts)


def _stream(rng: np.random.Generator, nr: int) -> np.ndarray:
    """
    S2 on 16 pairs of CPUs: one allocates, the other frees what was allocated 256 pages earlier.
    """
    parts = []
    for pair in range(PAIRS):
        handles = np.arange(nr // (2 * PAIRS)) % (2 * LAG) + pair * 2 * LAG
        allocs = _records(requests.ALLOC, 2 * pair, handles)
        frees = _records(requests.FREE, 2 * pair + 1, handles[:-LAG])
        parts.append(np.concatenate([allocs[:LAG], _alternate(allocs[LAG:], frees)]))
    return _mixed(rng, parts)


def _own_pages(rng: np.random.Generator, nr: int) -> np.ndarray:
    """
    Every CPU on its own: 256 pages live, one at random freed and another allocated.
    """
    parts = []
    for cpu in range(CPUS):
        handles = np.arange(LIVE) + cpu * LIVE
        chosen = rng.choice(handles, nr // (2 * CPUS))
        frees, allocs = _records(requests.FREE, cpu, chosen), _records(requests.ALLOC, cpu, chosen)
        parts.append(np.concatenate([_records(requests.ALLOC, cpu, handles), _alternate(frees, allocs)]))
    return _mixed(rng, parts)


def _made_up(name: str, records: np.ndarray) -> Load:
    def node(which: config.Policy) -> Any:
        zone = _core.Zone(ZONE_PAGES, cpus=CPUS, policy=which, batch=BATCH, high_min=HIGH_MIN, high_max=HIGH_MAX)
        return _core.Node([zone])

    size = 1 << MAX_ORDER
    heads = np.arange(0, ZONE_PAGES, size, dtype=np.uint32)
    free = np.stack([heads, np.full_like(heads, MAX_ORDER)], axis=1)
    none = np.zeros((0, 2), np.uint32)
    return Load(name, records, int(records["pfn"].max()) + 1, ZONE_PAGES, free, none, node)


# -- recordings ------------------------------------------------------------------------------------------


def _recorded(path: Path) -> Load:
    recorded = recording.load(path)
    state = recorded.state

    def node(which: config.Policy) -> Any:
        zones = [recording.adapt(zone, which) for zone in state["zones"]]
        return _core.Node.from_state({**state, "zones": zones}, which)

    free: list[tuple[int, int]] = []
    allocated = []
    end = recorded.nr_handles
    for zone in state["zones"]:
        for (order, _), pfns in zone["free"].items():
            free.extend((pfn, order) for pfn in pfns)
        for pcp in zone["pcp"]:
            for (order, _), pfns in pcp["lists"].items():
                free.extend((pfn, order) for pfn in pfns)
        free.extend(zone["deferred"])
        allocated.append(np.asarray(zone["allocated"])[:, :2])
        end = max(end, zone["start_pfn"] + zone["spanned"])
    size = 1 << MAX_ORDER
    return Load(
        name=recorded.name,
        requests=np.ascontiguousarray(recorded.requests),
        nr_handles=recorded.nr_handles,
        nr_pages=-(-end // size) * size,
        free=np.array(free, np.uint32).reshape(-1, 2),
        allocated=np.concatenate(allocated).astype(np.uint32),
        node=node,
    )
