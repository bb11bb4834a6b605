"""
Properties of any sequence of operations: model and core behave alike, and no invariant breaks.

The machines draw a zone or a node and then operations on it. What is compared after each is in
statemachine.py; a failure ends with a script that shows it again without Hypothesis. The ordinary run
draws the same examples every time. ``PCPBUDDY_LONG=1`` with ``-m long`` draws others, and many more.
"""

import dataclasses
import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from statemachine import Different, Recipe, Refusing, Twins, difference, parts, zones_of
from states import C, H, M, R, U, blank

import pcpbuddy
from pcpbuddy import names
from pcpbuddy.config import PROFILES, SWITCHES, Policy
from pcpbuddy.errors import ConfigError

LONG = bool(os.environ.get("PCPBUDDY_LONG"))
BLOCK = names.PAGEBLOCK_PAGES
MODEL, CORE = "pcpbuddy.model", "pcpbuddy"


def effort(examples, steps):
    """
    Settings of an ordinary run, the same every time.
    """
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


ORDINARY = effort(40, 50)
THOROUGH = settings(ORDINARY, max_examples=600, stateful_step_count=100, derandomize=False)

RUNS = [
    pytest.param(ORDINARY, id="ordinary"),
    pytest.param(
        THOROUGH,
        id="long",
        marks=[pytest.mark.long, pytest.mark.skipif(not LONG, reason="takes long; set PCPBUDDY_LONG=1")],
    ),
]


# What there is to draw


def policies():
    """
    Any combination of switch values that is valid: a profile, changed. Shrinks to mainline unchanged.
    """
    values = {switch.name: st.sampled_from([*switch.values, *NUMBERS.get(switch.name, ())]) for switch in SWITCHES}
    profiles = st.sampled_from(list(PROFILES.values()))
    return st.builds(_policy_or_none, profiles, st.fixed_dictionaries({}, optional=values)).filter(bool)


# Besides the default and the smallest: small enough that the runs of a test reach them.
NUMBERS = {
    "handover_batch": (2, 3, 7),
    "handover_targets": (2, 3),
    "adopt_min_order": (1, 3, 8),
    "remote_bound": (2, 7, 60, 600),
}


def _policy_or_none(profile, changes):
    try:
        return dataclasses.replace(profile, name="drawn", **changes)
    except ConfigError:
        return None


# batch, high_min, high_max: disabled, tiny, narrow, wide, and large enough for whole blocks (P-34).
SIZINGS = [
    (63, 1000, 4096),
    (7, 600, 600),
    (31, 700, 2000),
    (3, 520, 1500),
    (63, 2048, 4096),
    (1, 0, 0),
    (1, 0, 1),
    (2, 1, 1),
    (3, 12, 12),
    (7, 28, 112),
    (15, 60, 2000),
    (63, 252, 252),
    (63, 252, 4096),
]
THRESHOLDS = [0, 0, 1, 10, 60, 125]
WATERMARKS = [(0, 0, 0, 0), (40, 60, 80, 100), (300, 600, 900, 1200), (10, 500, 1400, 1500)]


@st.composite
def fresh_zones(draw, policy):
    """
    Recipes of new zones: any size and place, with and without CMA blocks, sizing by formula or given.
    """
    cma_blocks = draw(st.sampled_from([0, 0, 0, 1, 2]))
    start = draw(st.sampled_from([0, 0, BLOCK, 1024, 37, 700, 1023]))
    pages = draw(st.one_of(st.sampled_from([2048, 1024, 1536, 3072]), st.integers(1, 3072)))
    if cma_blocks:
        end = max(-(-(start + pages) // BLOCK), -(-start // BLOCK) + cma_blocks) * BLOCK
        pages = end - start
    kwargs = {"cpus": draw(st.sampled_from([2, 1, 3, 4])), "cma_pages": cma_blocks * BLOCK, "start_pfn": start}
    sizing = draw(st.sampled_from([*SIZINGS, None]))
    if sizing:
        kwargs |= dict(zip(("batch", "high_min", "high_max"), sizing, strict=True))
    kwargs["stat_threshold"] = draw(st.sampled_from([*THRESHOLDS, None]))
    kwargs["watermark"] = draw(st.sampled_from([None, *WATERMARKS]))
    kwargs["llc_pages"] = draw(st.sampled_from([512, 0]))
    return Recipe("Zone", pages, policy, kwargs)


@st.composite
def worn_states(draw, first_pfn=None, blocks=None, cpus=None):
    """
    States in which every page is allocated, in pieces that differ from block to block; frees then make holes.
    """
    blocks = blocks or draw(st.integers(2, 6))
    cpus = cpus or draw(st.sampled_from([2, 1, 3, 4]))
    base = draw(st.sampled_from([0, 0, 1024])) if first_pfn is None else first_pfn
    start = base + draw(st.sampled_from([0, 0, 0, 37, BLOCK, BLOCK + 200]))
    end = base + blocks * BLOCK - draw(st.sampled_from([0, 0, 0, 1, 100, 256]))
    sizing = draw(st.sampled_from(SIZINGS))
    state = blank(
        blocks,
        {block: draw(st.sampled_from([M, M, M, U, U, R, C, C, H])) for block in range(blocks)},
        cpus=cpus,
        batch=sizing[0],
        high=sizing[1:],
        now=draw(st.sampled_from([0, sizing[1], sizing[2]])),
        thr=draw(st.sampled_from(THRESHOLDS)),
        flags=draw(st.sampled_from([0, 0, 0, names.ZONE_BELOW_HIGH, names.ZONE_RECLAIM_ACTIVE, 7])),
        pcp_flags=draw(st.sampled_from([0, names.PCPF_FREE_HIGH_BATCH])),
        watermark=draw(st.sampled_from(WATERMARKS)),
    )
    state |= {"start_pfn": start, "spanned": end - start}
    state["managed"] = draw(st.sampled_from([end - start, 51200, 102400]))
    state["boost_factor"] = draw(st.sampled_from([names.WATERMARK_BOOST_FACTOR, 0]))
    state["auto_sizing"], state["auto_threshold"] = draw(st.booleans()), draw(st.booleans())
    state["lowmem_reserve"] = draw(st.sampled_from([[0] * 5, [0, 0, 0, 8, 16], [0, 100, 200, 400, 400]]))
    # A state's blocks begin at start_pfn rounded down to the largest order (contract of from_state).
    missing = (start - base) // 1024 * 2
    del state["blocks"][:missing]
    for number, block in enumerate(state["blocks"], missing):
        pfn = base + number * BLOCK
        if block[0] == H and not start <= pfn <= end - BLOCK:
            block[0] = M  # a block that the zone has only in part is never reserved (B-70)
    state["nr_reserved_highatomic"] = BLOCK * sum(block[0] == H for block in state["blocks"])
    for pcp in state["pcp"]:
        pcp["remote_node"] = draw(st.sampled_from([0, 0, 1]))
    allocated = state["allocated"]
    for block in range(blocks):
        largest = draw(st.sampled_from([0, 9, 3, 1, 5]))
        mt = state["blocks"][block - missing][0] if block >= missing else M
        # Only movable requests get C pages (I-27).
        kind = (draw(st.sampled_from([names.UNKNOWN, mt if mt < H else M])), draw(st.integers(0, 1)))
        pfn, stop = max(start, base + block * BLOCK), min(end, base + (block + 1) * BLOCK)
        while pfn < stop:
            order = largest
            while pfn & ((1 << order) - 1) or pfn + (1 << order) > stop:
                order -= 1
            allocated[pfn] = (order, *kind)
            pfn += 1 << order
    return state


@st.composite
def holes(draw, state):
    """
    Which allocations of a worn state are freed to begin with.
    """
    every = draw(st.sampled_from([1, 2, 3, 7, 64]))
    spared = draw(st.integers(0, 6))
    if every == 1:  # all but the first few
        return list(state["allocated"])[spared * 40 :]
    return [pfn for number, pfn in enumerate(state["allocated"]) if (number + spared) % every]


AFLAGS = [
    names.ALLOC_NOFRAGMENT,
    names.ALLOC_HIGHATOMIC,
    names.ALLOC_MIN_RESERVE,
    names.ALLOC_OOM,
    names.ALLOC_NON_BLOCK,
    names.ALLOC_KSWAPD,
    names.ALLOC_NOLOCK,
    names.ALLOC_NO_WATERMARKS,
]


@st.composite
def alloc_flags(draw, migratetype):
    """
    -1, or any flags, CMA only for movable requests.
    """
    if draw(st.integers(0, 2)):
        return -1
    flags = draw(st.integers(0, 2))
    for flag in draw(st.lists(st.sampled_from(AFLAGS), max_size=3)):
        flags |= flag
    if migratetype == M and draw(st.booleans()):
        flags |= names.ALLOC_CMA
    return flags


ORDERS = st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 8, 9, 9, 10])
TYPES = st.sampled_from([M, M, M, U, U, R])
MANY = st.sampled_from([1, 1, 2, 5, 20, 100, 300, 520])
CPU = st.integers(0, 3)
WHICH = st.integers(0, 1 << 12)
# Which trylocks of the next operation fail: none, the first ones, or some between chunks (B-82).
FAILING = st.sampled_from([0, 0, 0, 0, 0, 1, 1, 3, 2, 4, 0b101010, (1 << 64) - 1])


class Machine(RuleBasedStateMachine):
    """
    Rules that a zone and a node share. A rule draws numbers; what they stand for depends on the state.
    """

    twins = None

    @property
    def cpus(self):
        return zones_of(self.twins.pair[1])[0].cpus

    def online(self, number):
        """
        An on-line CPU.
        """
        on = [cpu for cpu, pcp in enumerate(self.twins.states[0]["pcp"]) if pcp["online"]]
        return on[number % len(on)]

    def live(self, first=0, step=1, n=None):
        """
        Allocations, ascending by pfn: n of them from the first on, in steps, around the end.
        """
        pfns = [pfn for state in self.twins.states for pfn in state["allocated"]]
        if not pfns:
            return []
        n = len(pfns) if n is None else min(n, len(pfns))
        found = dict.fromkeys(pfns[(first + k * step) % len(pfns)] for k in range(n))
        return list(found)

    def allocation(self, pfn):
        return next(state["allocated"][pfn] for state in self.twins.states if pfn in state["allocated"])

    def may_free(self, pfns):
        """
        Those that this machine may free through the PCP.
        """
        return pfns

    def fail(self, mask, pfn=None):
        """
        The next operation's trylocks fail as the mask says.
        """
        if mask:
            self.twins.do("fail_trylocks", mask)

    # Frees

    @rule(first=WHICH, step=st.sampled_from([1, 2, 7, 64]), n=MANY, cpu=CPU, mask=FAILING, how=st.integers(0, 5))
    def free(self, first, step, n, cpu, mask, how):
        pfns = self.may_free(self.live(first, step, n))
        if not pfns:
            return
        kwargs = {"cpu": self.online(cpu)}
        if how == 0:
            kwargs["irq"] = True
        if how == 1:
            kwargs["nolock"] = True
        if how == 2:
            pfns = pfns[:1]
            kwargs["order"] = self.allocation(pfns[0])[0]
        if mask:
            pfns = pfns[:1]
            self.fail(mask, pfns[0])
        self.twins.do("free", each=pfns, **kwargs)

    @rule(
        first=WHICH, step=st.sampled_from([1, 2, 7, -1]), n=st.sampled_from([1, 5, 31, 32, 100]), cpu=CPU, mask=FAILING
    )
    def free_batch(self, first, step, n, cpu, mask):
        pfns = self.may_free(self.live(first, step, n))
        if pfns:
            self.fail(mask, pfns[0])
            self.twins.do("free_batch", pfns, cpu=self.online(cpu))

    def run_of_pages(self, pfn, most):
        """
        Pages from this one on that are allocated one by one.
        """
        allocated = next(state["allocated"] for state in self.twins.states if pfn in state["allocated"])
        n = 0
        while n < most and allocated.get(pfn + n, (1,))[0] == 0:
            n += 1
        return n

    @rule(first=WHICH, n=st.sampled_from([3, 1, 27, 64, 700, 1500]), cpu=CPU, split=st.booleans(), mask=FAILING)
    def free_contig(self, first, n, cpu, split, mask):
        pfns = self.live(first, 1, 1)
        if not pfns:
            return
        if split and self.allocation(pfns[0])[0]:
            self.twins.do("split", pfns[0])
        n = self.run_of_pages(pfns[0], n)
        if n:
            self.fail(mask, pfns[0])
            self.twins.do("free_contig", pfns[0], n, cpu=self.online(cpu))

    @rule(first=WHICH)
    def split(self, first):
        for pfn in self.live(first, 1, 1):
            self.twins.do("split", pfn)

    # Housekeeping

    @rule(cpu=CPU, what=st.sampled_from(["tick", "tick", "fold", "decay"]), times=st.sampled_from([1, 1, 3, 8]))
    def housekeeping(self, cpu, what, times):
        self.twins.do(what, self.online(cpu), times=times)

    @rule(cpu=st.sampled_from([None, None, 0, 1, 2, 3]))
    def drain(self, cpu):
        self.twins.do("drain", None if cpu is None else self.online(cpu))

    @rule(cpu=CPU, off=st.integers(0, 2))
    def hotplug(self, cpu, off):
        pcps = self.twins.states[0]["pcp"]
        dead = [number for number, pcp in enumerate(pcps) if not pcp["online"]]
        if dead and off != 2:
            self.twins.do("online", dead[cpu % len(dead)])
        elif off:
            self.twins.do("offline", cpu % len(pcps))

    # Contiguous memory

    def a_pfn(self, number, step=1):
        """
        A page of some zone, or a multiple of step in it.
        """
        state = self.twins.states[number % len(self.twins.states)]
        pfn = state["start_pfn"] + number * step % state["spanned"]
        return pfn // step * step

    @rule(
        number=st.integers(0, 4000),
        n=st.sampled_from([1, 5, 40, 300, 512, 700, 1024, 2000]),
        whole=st.booleans(),
        cma=st.booleans(),
        refuse=st.sampled_from([0, 0, 0, 64, 3, 1]),
        cpu=CPU,
        mask=FAILING,
    )
    def alloc_contig_range(self, number, n, whole, cma, refuse, cpu, mask):
        start = self.a_pfn(number, BLOCK if whole else 1)
        self.fail(mask)
        self.twins.do("alloc_contig_range", start, start + n, cma=cma, move=Refusing(refuse), cpu=self.online(cpu))

    @rule(
        count=st.sampled_from([1, 7, 64, 100, 512, 600, 1024]),
        align=st.sampled_from([5, 6, 7, 9, 10]),
        refuse=st.sampled_from([0, 0, 0, 64, 3, 1]),
        cpu=CPU,
        mask=FAILING,
    )
    def cma_alloc(self, count, align, refuse, cpu, mask):
        if any(block[0] == C for state in self.twins.states for block in state["blocks"]):
            self.fail(mask)
            self.twins.do("cma_alloc", count, align, move=Refusing(refuse), cpu=self.online(cpu))

    @rule(which=WHICH, cut=st.sampled_from([1, 1, 2]), cpu=CPU)
    def cma_release(self, which, cut, cpu):
        claimed = [run for state in self.twins.states for run in state["cma_claimed"]]
        if claimed:
            pfn, pages = claimed[which % len(claimed)]
            self.twins.do("cma_release", pfn, -(-pages // cut), cpu=self.online(cpu))

    @rule(
        number=st.integers(0, 40),
        blocks=st.sampled_from([1, 1, 2, 3]),
        on=st.booleans(),
        refuse=st.sampled_from([0, 0, 0, 64, 3]),
        cpu=CPU,
    )
    def memory_hotplug(self, number, blocks, on, refuse, cpu):
        start, pages, cpu = self.a_pfn(number, BLOCK), blocks * BLOCK, self.online(cpu)
        if on:
            self.twins.do("online_pages", start, pages, cpu=cpu)
        else:
            self.twins.do("offline_pages", start, pages, move=Refusing(refuse), cpu=cpu)

    # Going back, and starting from a state

    @rule()
    def keep(self):
        self.twins.keep()

    @precondition(lambda self: self.twins and self.twins.kept)
    @rule()
    def bring_back(self):
        self.twins.bring_back()

    @rule()
    def reload(self):
        self.twins.reload()


class ZoneMachine(Machine):
    """
    One zone, all its operations.
    """

    policies = (None, None)
    modules = (MODEL, CORE)
    order_9_types = (U, M, R)

    def __init__(self, policy, policies=(None, None), modules=(MODEL, CORE)):
        super().__init__()
        self.policy = st.just(policy) if isinstance(policy, str) else policy
        self.policies, self.modules = policies, modules

    @initialize(data=st.data(), fresh=st.booleans())
    def begin(self, data, fresh):
        policy = data.draw(self.policy, "policy")
        if fresh:
            recipe, freed = data.draw(fresh_zones(policy), "zone"), []
        else:
            state = data.draw(worn_states(), "state")
            recipe, freed = Recipe("Zone.from_state", state, policy, {}), data.draw(holes(state), "holes")
        self.twins = Twins(recipe, self.policies, self.modules)
        if freed:
            self.twins.do("free_direct", each=freed)

    @rule(data=st.data(), order=ORDERS, mt=TYPES, cpu=CPU, times=MANY, mask=FAILING)
    def alloc(self, data, order, mt, cpu, times, mask):
        if order == names.PAGEBLOCK_ORDER and mt not in self.order_9_types:
            mt = M
        aflags = data.draw(alloc_flags(mt), "aflags")
        self.fail(mask)
        self.twins.do("alloc", order, mt, self.online(cpu), aflags, times=1 if mask else min(times, 3072 >> order))

    @rule(
        mt=st.lists(TYPES, min_size=1, max_size=3),
        cpu=CPU,
        times=st.sampled_from([64, 200, 520]),
        every=st.sampled_from([2, 3, 1, 5]),
        other=CPU,
        batched=st.booleans(),
        drained=st.booleans(),
    )
    def churn(self, mt, cpu, times, every, other, batched, drained):
        """
        Many pages on one CPU; another CPU frees them, or some of them; both again and again (rfc.md section 1).
        """
        cpu, other = self.online(cpu), self.online(other)
        for one in mt:
            pfns = self.twins.do("alloc", 0, one, cpu, times=times)
            pfns = [pfn for number, pfn in enumerate(pfns) if isinstance(pfn, int) and number % every == 0]
            if pfns and batched:
                self.twins.do("free_batch", pfns, cpu=other)
            elif pfns:
                self.twins.do("free", each=pfns, cpu=other)
            if drained:
                self.twins.do("drain", cpu)

    @rule(n=st.sampled_from([1, 2, 10, 64, 200, 600]), mt=TYPES, cpu=CPU, mask=FAILING)
    def alloc_bulk(self, n, mt, cpu, mask):
        self.fail(mask)
        self.twins.do("alloc_bulk", n, mt, cpu=self.online(cpu))

    @rule(
        data=st.data(), take=st.booleans(), order=ORDERS, mt=TYPES, cpu=CPU, first=WHICH, n=MANY, to_tail=st.booleans()
    )
    def past_the_pcp(self, data, take, order, mt, cpu, first, n, to_tail):
        pfns = self.live(first, 1, n)
        if take:
            aflags = data.draw(alloc_flags(mt), "aflags")
            aflags = names.WMARK_LOW if aflags < 0 else aflags & ~names.ALLOC_KSWAPD  # that is B-60's
            self.twins.do("take", order, mt, aflags=aflags, cpu=self.online(cpu))
        elif pfns:
            self.twins.do("free_direct", each=pfns, cpu=self.online(cpu), to_tail=to_tail)

    @rule(first=WHICH, n=st.sampled_from([1, 20, 200, 1000]), movable=st.booleans())
    def set_movable(self, first, n, movable):
        pfns = self.live(first, 1, n)
        if pfns:
            self.twins.do("set_movable", each=pfns, movable=movable)

    @rule(
        cpu=CPU,
        n=st.sampled_from([1, 5, 63, 300, 512, 4000]),
        start=st.integers(0, 2),
        by=st.sampled_from([None, 0, 1]),
    )
    def drain_some(self, cpu, n, start, by):
        kwargs = {} if by is None else {"by": self.online(by)}
        self.twins.do("drain", self.online(cpu), n, start=start, **kwargs)

    def any_pfn(self, number):
        state = self.twins.states[0]
        return state["start_pfn"] + number % state["spanned"]

    @rule(block=st.integers(0, 6), undo=st.booleans(), cma=st.booleans(), check=st.booleans(), by=CPU)
    def isolate(self, block, undo, cma, check, by):
        pfn, by = self.any_pfn(block * BLOCK), self.online(by) if by else None
        if undo:
            self.twins.do("unisolate", pfn, by=by)
        else:
            self.twins.do("isolate", pfn, cma=cma, check=check, by=by)

    @rule(
        what=st.integers(0, 2),
        flags=st.sampled_from([0, 1, 2, 4, 7]),
        order=st.integers(0, 10),
        mark=st.sampled_from([0, 10, 100, 500, 1000, 2000]),
        aflags=st.integers(0, 0x3FF),
        hz=st.integers(0, 4),
    )
    def rest(self, what, flags, order, mark, aflags, hz):
        if what == 0:
            self.twins.do("__setattr__", "flags", flags)
        elif what == 1:
            self.twins.do("watermark_ok", order, mark, aflags, hz)
        else:
            self.twins.do("unreserve", force=bool(hz % 2), migratetype=order % 3)

    @rule(number=st.integers(-3, 3100), what=st.integers(0, 15))
    def misuse(self, number, what):
        """
        Calls with one thing wrong, and frees of whatever is at a pfn: refused by both in the same way.
        """
        pfn, on, off = self.twins.states[0]["start_pfn"] + number, self.online(number), self.cpus + number % 2
        off = next((cpu for cpu, pcp in enumerate(self.twins.states[0]["pcp"]) if not pcp["online"]), off)
        calls = [
            ("alloc", 11 + number % 2, M, on),
            ("alloc", -1, M, on),
            ("alloc", 0, 3 + number % 3, on),
            ("alloc", 0, M, off),
            ("take", 0, M, 1, off),
            ("alloc_bulk", min(number, 0), M, on),
            ("alloc_bulk", 4, M, off),
            ("free_direct", pfn, on),
            ("free_batch", [pfn, pfn], on),
            ("free_contig", pfn, 1 + number % 3, on),
            ("split", pfn),
            ("set_movable", pfn),
            ("tick", off),
            ("drain", off),
            ("offline", off),
            ("online", on),
        ]
        name, *args = calls[what]
        self.twins.do(name, *args)


class BaselineMachine(ZoneMachine):
    """
    ``null`` beside ``mainline`` (P-95, I-24): page for page, as long as the order-9 traffic of the PCPs is movable.
    """

    order_9_types = (M,)

    def __init__(self, modules):
        super().__init__("mainline", ("mainline", "null"), modules)

    def may_free(self, pfns):
        # U and R share a PCP list at order 9 in the kernel's 14, and have one each in 30 (B-10, P-3).
        allowed = []
        (state,) = self.twins.states
        first_block = state["start_pfn"] >> 10 << 1
        for pfn in pfns:
            type_of_block = state["blocks"][(pfn >> names.PAGEBLOCK_ORDER) - first_block][0]
            if state["allocated"][pfn][0] < names.PAGEBLOCK_ORDER or type_of_block not in (U, R):
                allowed.append(pfn)
        return allowed

    def run_of_pages(self, pfn, most):
        return super().run_of_pages(pfn, min(most, BLOCK - 1))  # no pieces of order 9


GFPS = [
    names.GFP_HIGHUSER_MOVABLE,
    names.GFP_KERNEL,
    names.GFP_ATOMIC,
    names.GFP_COMPOSITES["GFP_NOWAIT"],
    names.GFP_COMPOSITES["GFP_TRANSHUGE"],
    names.GFP_COMPOSITES["GFP_HIGHUSER"],
    names.GFP_KERNEL | names.GFP_BITS["__GFP_RECLAIMABLE"],
    names.GFP_KERNEL | names.GFP_BITS["__GFP_DMA32"],
    names.GFP_KERNEL | names.GFP_BITS["__GFP_DMA"],
    names.GFP_ATOMIC | names.GFP_BITS["__GFP_NOMEMALLOC"],
    names.GFP_KERNEL | names.GFP_BITS["__GFP_MOVABLE"],
]


@st.composite
def nodes(draw, policy):
    """
    Recipes of nodes of two or three worn zones, and what is freed in them to begin with.
    """
    kinds = draw(
        st.sampled_from(
            [
                ("DMA32", "Normal"),
                ("Normal", "Movable"),
                ("DMA", "Normal"),
                ("DMA", "DMA32", "Normal"),
                ("DMA32", "Normal", "Movable"),
            ]
        )
    )
    cpus = draw(st.sampled_from([2, 1, 3]))
    states, freed = [], []
    for number, name in enumerate(kinds):
        state = draw(worn_states(first_pfn=number * 4096, blocks=draw(st.integers(2, 3)), cpus=cpus))
        if draw(st.booleans()):  # else most requests fail
            state["watermark"], state["lowmem_reserve"] = [0, 0, 0, 0], [0] * 5
        state["name"], state["zone_index"] = name, ("DMA", "DMA32", "Normal", "Movable").index(name)
        states.append(state)
        freed.append(draw(holes(state)))
    return Recipe("Node.from_state", {"cpus": cpus, "zones": states}, policy, {}), freed


class NodeMachine(Machine):
    """
    Several zones: GFP masks, watermarks, the slow path.
    """

    def __init__(self, policy, modules=(MODEL, CORE)):
        super().__init__()
        self.policy, self.modules = policy, modules

    @initialize(data=st.data())
    def begin(self, data):
        recipe, freed = data.draw(nodes(data.draw(self.policy, "policy")), "node")
        self.twins = Twins(recipe, modules=self.modules)
        for number, pfns in enumerate(freed):
            if pfns:
                self.twins.do(f"zones.{number}.free_direct", each=pfns)

    def fail(self, mask, pfn=None):
        if not mask:
            return
        for number, state in enumerate(self.twins.states):
            if pfn is None or 0 <= pfn - state["start_pfn"] < state["spanned"]:
                self.twins.do(f"zones.{number}.fail_trylocks", mask)

    @rule(order=ORDERS, gfp=st.sampled_from(GFPS), cpu=CPU, times=MANY, mask=FAILING)
    def alloc(self, order, gfp, cpu, times, mask):
        self.fail(mask)
        self.twins.do("alloc", order, gfp, self.online(cpu), times=1 if mask else min(times, 3072 >> order))

    @rule(
        order=st.sampled_from([0, 3, 9]),
        zone=st.sampled_from([0, 1, 2, 4, 8, 9, 10, 12]),
        bits=st.integers(0, (1 << 17) - 1),
        cpu=CPU,
    )
    def alloc_any_gfp(self, order, zone, bits, cpu):
        self.twins.do("alloc", order, zone | bits << 4, self.online(cpu))

    @rule(n=st.sampled_from([1, 2, 10, 64, 200, 600]), gfp=st.sampled_from(GFPS), cpu=CPU, mask=FAILING)
    def alloc_bulk(self, n, gfp, cpu, mask):
        self.fail(mask)
        self.twins.do("alloc_bulk", n, gfp, cpu=self.online(cpu))

    @rule(zone=st.integers(0, 2), flags=st.integers(0, 7))
    def zone_flags(self, zone, flags):
        self.twins.do(f"zones.{zone % len(self.twins.states)}.__setattr__", "flags", flags)

    @rule(zone=st.integers(0, 2), block=st.integers(0, 3), undo=st.booleans())
    def isolate(self, zone, block, undo):
        zone %= len(self.twins.states)
        state = self.twins.states[zone]
        pfn = state["start_pfn"] + block * BLOCK % state["spanned"]
        self.twins.do(f"zones.{zone}.{'unisolate' if undo else 'isolate'}", pfn, **({} if undo else {"check": False}))

    @rule(pfn=st.integers(-1, 12000), n=st.integers(1, 3), what=st.integers(0, 4), step=WHICH)
    def misuse(self, pfn, n, what, step):
        """
        Frees of whatever is at a pfn, and a batch over all zones that has a page twice.
        """
        batch = self.live(pfn, step, 5)
        calls = [
            ("free_batch", batch + batch[:1]),
            ("free", pfn),
            ("free_contig", pfn, n),
            ("split", pfn),
            ("alloc", n, names.GFP_KERNEL | 0x18),
        ]
        name, *args = calls[what]
        self.twins.do(name, *args, **({} if name == "split" else {"cpu": self.online(n)}))

    @rule(first=WHICH, n=st.sampled_from([1, 100]), movable=st.booleans())
    def set_movable(self, first, n, movable):
        for number, state in enumerate(self.twins.states):
            pfns = list(state["allocated"])[first % 64 : first % 64 + n]
            if pfns:
                self.twins.do(f"zones.{number}.set_movable", each=pfns, movable=movable)


# Model and core


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("policy", PROFILES)
def test_zone_of_each_profile(policy, run):
    run_state_machine_as_test(lambda: ZoneMachine(policy), settings=run)


@pytest.mark.parametrize("run", RUNS)
def test_zone_of_any_policy(run):
    run_state_machine_as_test(lambda: ZoneMachine(policies()), settings=run)


@pytest.mark.parametrize("run", RUNS)
def test_node_of_any_policy(run):
    drawn = st.one_of(st.sampled_from(list(PROFILES)), policies())
    run_state_machine_as_test(lambda: NodeMachine(drawn), settings=run)


@pytest.mark.parametrize("run", RUNS)
def test_null_equals_mainline(run):
    run_state_machine_as_test(lambda: BaselineMachine((CORE, CORE)), settings=run)


@pytest.mark.parametrize("run", [pytest.param(effort(100, 1), id="ordinary"), *RUNS[1:]])
def test_fresh_zones_are_equal(run):
    @settings(run)
    @given(st.sampled_from(list(PROFILES)).flatmap(fresh_zones))
    def fresh(recipe):
        twins = Twins(recipe)
        (state,) = twins.states
        assert parts(state) == recipe.argument
        assert state["stat"][0] + sum(pcp["stat_diff"][0] for pcp in state["pcp"]) == recipe.argument
        assert not any(twins.counters[0].values())
        twins.reload()

    fresh()


# The script that a failure prints


class _Broken(pcpbuddy.Zone):
    """
    A core with a fault: a drain of one CPU does nothing when there is much to drain.
    """

    def drain(self, cpu=None, n=None, start=0, by=None):
        if cpu in range(self.cpus) and self.state()["pcp"][cpu]["count"] > 6:
            return
        super().drain(cpu, n, start, by)


def test_the_script_of_a_failure_reproduces_it(monkeypatch):
    monkeypatch.setattr(pcpbuddy, "Zone", _Broken)
    state = blank(2, cpus=2)
    state["allocated"] = dict.fromkeys(range(64), (0, names.UNKNOWN, 0)) | {512: (9, M, 1)}
    twins = Twins(Recipe("Zone.from_state", state, Policy(name="drawn", merge="never"), {}))
    twins.do("free_direct", each=[1, 2, 3, 5, 8, 13])
    twins.do("fail_trylocks", 1)
    twins.do("free", 20, cpu=1)
    twins.keep()
    twins.do("alloc", 0, M, 1, -1, times=3)
    twins.bring_back()
    twins.do("drain", 1)  # goes well: there is too little to drain
    twins.reload()
    twins.do("free", each=range(30, 38), cpu=1)
    with pytest.raises(Different) as caught:
        twins.do("drain", 1)
    script = str(caught.value).partition("\n\n")[2]
    with pytest.raises(AssertionError, match=r"operation 26 returned None"):
        exec(compile(script, "script", "exec"), {})
    monkeypatch.undo()
    exec(compile(script, "script", "exec"), {})


def test_the_script_of_a_node_reproduces_it(monkeypatch):
    node_class = type("Node", (pcpbuddy.Node,), {"zone_class": _Broken})
    monkeypatch.setattr(pcpbuddy, "Node", node_class)
    zones = []
    for index, name in ((2, "Normal"), (3, "Movable")):
        state = blank(2, cpus=2) | {"start_pfn": index * 1024, "name": name, "zone_index": index}
        zones.append(state | {"allocated": {index * 1024 + pfn: (0, M, 1) for pfn in range(512)}})
    twins = Twins(Recipe("Node.from_state", {"cpus": 2, "zones": zones}, "fixed", {}))
    twins.do("zones.1.set_movable", each=range(3072, 3080), movable=False)
    twins.do("free", each=range(2048, 2148), cpu=1)
    with pytest.raises(Different) as caught:
        twins.do("drain", 1)
    script = str(caught.value).partition("\n\n")[2]
    with pytest.raises(AssertionError, match=r"operation 108 returned None"):
        exec(compile(script, "script", "exec"), {})
    monkeypatch.undo()
    exec(compile(script, "script", "exec"), {})


def test_a_machine_finds_a_fault_and_prints_its_script(monkeypatch):
    monkeypatch.setattr(pcpbuddy, "Zone", _Broken)
    with pytest.raises(Different) as caught:
        run_state_machine_as_test(
            lambda: ZoneMachine("mainline"), settings=settings(effort(200, 30), phases=[Phase.generate])
        )
    script = str(caught.value).partition("\n\n")[2]
    with pytest.raises(AssertionError, match="operation"):
        exec(compile(script, "script", "exec"), {})
    monkeypatch.undo()
    exec(compile(script, "script", "exec"), {})


def test_difference_names_the_place():
    one = blank(2, cpus=2)
    other = blank(2, cpus=2)
    other["pcp"][1]["count"] = 4
    other["free"][0, 1] = [5]
    assert difference(one, other) == "['free'][(0, 1)]: 'nothing' and [5]; ['pcp'][1]['count']: 0 and 4"
