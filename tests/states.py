"""
States of a zone, written and read in the notation of the vectors.

A test starts from ``blank()``, adds what the vector puts there, and makes a zone of it with
``from_state()``. Pages that nobody mentions are holes. What a zone holds afterwards is read with
``free_lists()``, ``pcp_lists()`` and ``log()`` and compared with the text of the vector itself::

    state = put(blank(2, {1: C}), (0, 1), (512, 1))
    assert free_lists(zone) == lists("F1[M]: 0, F1[C]: 512")

All builders change the state they are given and return it, so that they can be nested.
"""

import re

from pcpbuddy.names import (
    CMA,
    HIGHATOMIC,
    ISOLATE,
    MOVABLE,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    RECLAIMABLE,
    UNKNOWN,
    UNMOVABLE,
)

U, M, R, H, C, I = UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, CMA, ISOLATE  # noqa: E741 (the vectors' own letters)
LETTERS = "UMRHCI"

NR_FREE, NR_FREE_CMA, NR_FREE_BLOCKS = range(3)

# The 14 PCP lists of the kernel (B-10): L[12] is order 9 of U and R, L[13] order 9 of M.
_KERNEL_LISTS = [(order, mt) for order in range(4) for mt in (U, M, R)] + [(9, U), (9, M)]

# "ladder a" of rfc.md section 17: block 0 claimed, its first four pages gone.
LADDER_A = "P2: 4* ... P8: 256*"


# Building a state


def blank(
    blocks=4,
    types=None,
    *,
    cpus=1,
    batch=63,
    high=(252, 4096),
    now=0,
    thr=0,
    flags=0,
    pcp_flags=0,
    watermark=(0, 0, 0, 0),
):
    """
    A zone of holes that starts at page frame 0.

    types: block index -> type of the blocks that are not M.
    high: high_min and high_max of every CPU; now: their current ``high``.
    """
    types = types or {}
    high_min, high_max = high
    pages = blocks * PAGEBLOCK_PAGES
    return {
        "start_pfn": 0,
        "spanned": pages,
        "managed": pages,
        "zone_index": 0,
        "name": "Normal",
        "watermark": list(watermark),
        "watermark_boost": 0,
        "lowmem_reserve": [0, 0, 0, 0, 0],
        "flags": flags,
        "nr_reserved_highatomic": PAGEBLOCK_PAGES * sum(mt == H for mt in types.values()),
        "nr_free_highatomic": 0,
        "nr_isolate_pageblock": 0,
        "pageset": [high_min, high_max, batch],
        "auto_sizing": False,
        "auto_threshold": False,
        "boost_factor": 15000,
        "stat": [0, 0, 0],
        "stat_threshold": thr,
        "blocks": [[types.get(block, M), 0, -1, 0] for block in range(blocks)],
        "free": {},
        "deferred": [],
        "allocated": {},
        "pcp": [
            {
                "online": 1,
                "remote_node": 0,
                "count": 0,
                "high": now,
                "high_min": high_min,
                "high_max": high_max,
                "batch": batch,
                "flags": pcp_flags,
                "alloc_factor": 0,
                "free_count": 0,
                "expire": 0,
                "stat_diff": [0, 0, 0],
                "lists": {},
                "marked": [],
                "owned": [],
                "remote": [],
                "outboxes": [],
                "pending": 0,
            }
            for _ in range(cpus)
        ],
    }


def put(state, *chunks):
    """
    The vectors' "put": each (pfn, order) goes to the head of its list, accounted on CPU 0.
    """
    for pfn, order in chunks:
        mt = state["blocks"][pfn // PAGEBLOCK_PAGES][0]
        state["free"].setdefault((order, mt), []).insert(0, pfn)
        nr_pages = 1 << order
        if order >= PAGEBLOCK_ORDER:
            _count(state, NR_FREE_BLOCKS, nr_pages)
        _count(state, NR_FREE, nr_pages)
        if mt == C:
            _count(state, NR_FREE_CMA, nr_pages)
        if mt == H:
            state["nr_free_highatomic"] += nr_pages
    state["free"] = dict(sorted(state["free"].items()))
    return state


def _count(state, item, nr_pages):
    # B-15: the whole of the per-CPU value moves when it exceeds the threshold.
    diff = state["pcp"][0]["stat_diff"]
    diff[item] += nr_pages
    if abs(diff[item]) > state["stat_threshold"]:
        state["stat"][item] += diff[item]
        diff[item] = 0


def held(state, *chunks):
    """
    Allocations that the vector frees later: page frames of order 0, or (pfn, order).
    """
    return _allocate(state, chunks, UNKNOWN, 0)


def lru(state, *pfns):
    """
    Allocated order-0 pages on an LRU list: what B-45 counts as movable.
    """
    return _allocate(state, pfns, M, 1)


def _allocate(state, chunks, mt, movable):
    for chunk in chunks:
        pfn, order = (chunk, 0) if isinstance(chunk, int) else chunk
        state["allocated"][pfn] = (order, mt, movable)
    state["allocated"] = dict(sorted(state["allocated"].items()))
    return state


def park(state, cpu, order, mt, pfns):
    """
    Entries on one list of a PCP, head first.
    """
    pcp = state["pcp"][cpu]
    pcp["lists"].setdefault((order, mt), []).extend(pfns)
    pcp["lists"] = dict(sorted(pcp["lists"].items()))
    pcp["count"] += len(pfns) << order
    return state


def mark(state, cpu, *pfns):
    """
    Mark entries that were parked on a PCP: the vectors' ``*``.
    """
    marked = state["pcp"][cpu]["marked"]
    marked[:] = sorted({*marked, *pfns})
    return state


def own(state, cpu, *blocks, linked=True):
    """
    Blocks that a CPU owns. linked: they have fragments in the zone and are on its list, in the order given.
    """
    for block in blocks:
        state["blocks"][block][2:] = [cpu, int(linked)]
    if linked:
        state["pcp"][cpu]["owned"].extend(blocks)
    return state


def outbox(state, cpu, target, *chunks):
    """
    Pages that a CPU gathers for another: page frames of order 0, or (pfn, order). The last outbox is the newest.
    """
    pages = [(chunk, 0) if isinstance(chunk, int) else chunk for chunk in chunks]
    state["pcp"][cpu]["outboxes"].append((target, pages))
    state["pcp"][target]["pending"] += sum(1 << order for _, order in pages)
    return state


# Reading the notation

_TOKEN = re.compile(
    r"(?P<kind>[FP])(?P<order>\d+)(\[(?P<type>[UMRHCI])\])?:"
    r"|L\[(?P<index>\d+)\]:"
    r"|(?P<dots>\.\.\.)"
    r"|(?P<first>\d+)\.\.(?P<last>\d+)"
    r"|(?P<pfn>\d+)(?P<mark>\*?)"
    r"|[\s,+]+"
)


def lists(text):
    """
    Read lists as the vectors write them, into what ``free_lists()`` and ``pcp_lists()`` return.

    ``F9[M]: 0 512``  chunks on a zone list, head first. A type stays in force until the next one; M to begin with.
    ``P0: 1* 2``      entries of a PCP, ``*`` = marked; ``L[4]: 6`` the same by the kernel's list index (B-10).
    ``1 2 ... 62``    continues in equal steps; ``5..66`` is every page frame from 5 to 66.
    ``F2: 4 ... F8: 256``  one chunk on each order between, each twice as far as the one before.
    """
    result = {}
    key, letter, dots, ladder = None, "M", False, None
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError(f"cannot read {text[position:]!r} in {text!r}")
        position = token.end()
        new_key = None
        if key is None and (token["dots"] or token["first"] or token["pfn"]):
            raise ValueError(f"{text!r} does not begin with the name of a list")
        if token["kind"]:
            letter = token["type"] or letter
            new_key = token["kind"], int(token["order"]), letter
        elif token["index"]:
            order, mt = _KERNEL_LISTS[int(token["index"])]
            new_key = "P", order, LETTERS[mt]
        if new_key:
            if dots:
                ladder, dots = key, False
            key = new_key
            result[_name(*key)] = []
        elif token["dots"]:
            dots = True
        elif token["first"]:
            result[_name(*key)] += [str(pfn) for pfn in range(int(token["first"]), int(token["last"]) + 1)]
        elif token["pfn"]:
            pfn, mark, entries = int(token["pfn"]), token["mark"], result[_name(*key)]
            if dots:
                before, previous = (int(entry) for entry in entries[-2:])
                step = previous - before
                if step <= 0 or (pfn - previous) % step:
                    raise ValueError(f"{before} {previous} ... does not reach {pfn} in {text!r}")
                entries += [str(page) for page in range(previous + step, pfn, step)]
                dots = False
            if ladder:
                kind, low, _ = ladder
                base = int(result[_name(*ladder)][0].rstrip("*"))
                if base << (key[1] - low) != pfn:
                    raise ValueError(f"F{low}: {base} ... does not reach F{key[1]}: {pfn} in {text!r}")
                for order in range(low + 1, key[1]):
                    result[_name(kind, order, letter)] = [f"{base << (order - low)}{mark}"]
                ladder = None
            entries.append(f"{pfn}{mark}")
    return dict(sorted(result.items()))


def _name(kind, order, letter):
    return f"{kind}{order}[{letter}]"


# Reading a zone


def free_lists(zone):
    """
    The free lists of a zone: {"F9[M]": ["512"]}.
    """
    free = zone.state()["free"]
    return dict(sorted((_name("F", o, LETTERS[mt]), [str(pfn) for pfn in pfns]) for (o, mt), pfns in free.items()))


def pcp_lists(zone, cpu=0):
    """
    The lists of one PCP: {"P0[M]": ["1*", "2"]}.
    """
    pcp = zone.state()["pcp"][cpu]
    marked = set(pcp["marked"])
    return dict(
        sorted(
            (_name("P", o, LETTERS[mt]), [f"{pfn}{'*' if pfn in marked else ''}" for pfn in pfns])
            for (o, mt), pfns in pcp["lists"].items()
        )
    )


def tuned(zone, fields, cpu=0):
    """
    Values of the named PCP fields: ``tuned(zone, "count high") == (62, 315)``.
    """
    pcp = zone.state()["pcp"][cpu]
    return tuple(pcp[field] for field in fields.split())


def types(zone):
    """
    The type of each block by its letter: "UMMC".
    """
    return "".join(LETTERS[I if iso else mt] for mt, iso, _, _ in zone.state()["blocks"])


def owners(zone):
    """
    The CPU that owns each block, -1 for nobody.
    """
    return [owner for _, _, owner, _ in zone.state()["blocks"]]


def owned(zone, cpu=0):
    """
    The blocks on a CPU's list of owned blocks with fragments; their link flags must agree.
    """
    state = zone.state()
    linked = [block for block, (_, _, _, link) in enumerate(state["blocks"]) if link]
    assert sorted(linked) == sorted(block for pcp in state["pcp"] for block in pcp["owned"])
    return state["pcp"][cpu]["owned"]


def waiting(zone, cpu=0):
    """
    What waits for a CPU: its remote list in arrival order, and pages on it and in all outboxes for the CPU.
    """
    pcp = zone.state()["pcp"][cpu]
    return [tuple(page) for page in pcp["remote"]], pcp["pending"]


def outboxes(zone, cpu):
    """
    What a CPU gathers for others: (target, pages) of each outbox, the least recently used first.
    """
    return [(target, [tuple(page) for page in pages]) for target, pages in zone.state()["pcp"][cpu]["outboxes"]]


def nr_free(zone):
    """
    NR_FREE_PAGES, exact: the global value and all per-CPU differences.
    """
    state = zone.state()
    return state["stat"][NR_FREE] + sum(pcp["stat_diff"][NR_FREE] for pcp in state["pcp"])


def zone_holds(zone):
    """
    Zone-lock holds of any kind so far.
    """
    return sum(value for name, value in zone.counters().items() if name.startswith("holds_"))


TRACE_CAPACITY = 1 << 16

_SHORT = {"zone_locked": "zl", "extfrag": "xf", "pcpu_drain": "pd"}


def log(zone, *kinds):
    """
    What happened since the last call, in the vectors' notation; ``kinds`` other than zl, xf, pd on request.

    ``zl(pfn,order,T,refill) xf(pfn,order,fallback order,T,fallback T,change) pd(pfn,order,T)``,
    the other kinds by their names: ``recover(pfn,order) pmerge(pfn,order) free(pfn,order) absorb(pfn,order)
    remote_push(pfn,target) adopt(pfn,T)``.
    The CPU is left out.
    """
    kinds = kinds or tuple(_SHORT)
    events = zone.events()
    zone.trace(TRACE_CAPACITY)
    return [_event(*event) for event in events if event[0] in kinds]


def _event(kind, _cpu, *values):
    values = list(values)
    lettered = {"zone_locked": (2,), "extfrag": (3, 4), "pcpu_drain": (2,), "alloc": (2,), "claim": (1,), "adopt": (1,)}
    for i in lettered.get(kind, ()):
        values[i] = LETTERS[values[i]]
    return f"{_SHORT.get(kind, kind)}({','.join(str(int(v) if isinstance(v, bool) else v) for v in values)})"
