"""
Model and core side by side: one operation on both, then everything that can be seen is compared.

A ``Twins`` holds the two implementations of one zone or node and the operations they have done. When
they differ, or when a check fails, it raises ``Different``; the message ends with a Python script
that needs nothing but pcpbuddy and shows the difference again.
"""

import importlib
from typing import NamedTuple

from pcpbuddy.config import SWITCHES, Policy
from pcpbuddy.errors import PcpBuddyError

TRACE_CAPACITY = 1 << 14
KEEP, BRING_BACK, RELOAD = "keep", "bring back", "reload"  # operations on the twins, not on the zones


class Different(AssertionError):
    """
    The two implementations differ, or one breaks an invariant.
    """


class Op(NamedTuple):
    """
    One method call; or, with ``each``, one for every value of the first argument.

    name: dotted where the method is a zone's of a node: ``zones.1.isolate``.
    """

    name: str
    args: tuple = ()
    kwargs: dict = {}  # noqa: RUF012 (a default that nobody changes)
    each: tuple = ()
    times: int = 1

    def calls(self):
        """
        The calls that this is, in order, each as an Op.
        """
        if self.each:
            return [Op(self.name, (first, *self.args), self.kwargs) for first in self.each]
        return [Op(self.name, self.args, self.kwargs)] * self.times

    def run(self, target):
        *path, method = self.name.split(".")
        for step in path:
            target = target[int(step)] if step.isdigit() else getattr(target, step)
        return getattr(target, method)(*self.args, **self.kwargs)

    def text(self):
        """
        An element of the script's list of operations.
        """
        if self.name in (KEEP, BRING_BACK, RELOAD):
            return repr(self.name)
        names, variable = [], "zone"
        for step in self.name.split("."):
            if step.isdigit():
                names[-1] += f"[{step}]"
            else:
                names.append(step)
        if len(names) > 1:
            variable = "node"
        arguments = [repr(value) for value in self.args] + [f"{key}={value!r}" for key, value in self.kwargs.items()]
        if self.each:
            call = f"{variable}.{'.'.join(names)}({', '.join(['pfn', *arguments])})"
            return f"*[lambda {variable}, pfn=pfn: {call} for pfn in {_numbers(self.each)}]"
        call = f"{variable}.{'.'.join(names)}({', '.join(arguments)})"
        if self.times > 1:
            return f"*[lambda {variable}: {call}] * {self.times}"
        return f"lambda {variable}: {call}"


class Refusing:
    """
    Moves a page of a contiguous range unless its pfn is a multiple of ``every`` (0: moves all); prints as a function.
    """

    def __init__(self, every):
        self.every = every

    def __call__(self, old, new, order):
        return not self.every or old % self.every != 0

    def __repr__(self):
        return f"lambda old, new, order: old % {self.every} != 0" if self.every else "lambda old, new, order: True"


class Recipe(NamedTuple):
    """
    How a zone or node is made.

    made_by: "Zone", "Zone.from_state" or "Node.from_state"; argument: pages or a state.
    """

    made_by: str
    argument: object
    policy: str | Policy
    kwargs: dict

    def make(self, module, policy=None):
        target = module
        for name in self.made_by.split("."):
            target = getattr(target, name)
        made = target(self.argument, policy=policy or self.policy, **self.kwargs)
        for zone in zones_of(made):
            zone.trace(TRACE_CAPACITY)
        return made

    def text(self, policy):
        arguments = ["SHAPE", f"policy={_policy(policy)}"] + [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"{self.made_by}({', '.join(arguments)})"


def zones_of(target):
    """
    The zones of a node, or the zone itself.
    """
    return getattr(target, "zones", None) or [target]


def outcome(call):
    """
    What a call returned, or the kind of its refusal. Anything else that it raises is a bug and goes on.
    """
    try:
        result = call()
    except PcpBuddyError as error:
        return type(error).__name__
    if result is None or isinstance(result, bool | int):
        return result
    return tuple(result) if hasattr(result, "_fields") else [int(pfn) for pfn in result]


class Twins:
    """
    Two zones or nodes that must behave alike.

    what: the recipe of both. policies: one policy for each where they differ. modules: where the two come from.
    """

    def __init__(self, recipe, policies=(None, None), modules=("pcpbuddy.model", "pcpbuddy"), check_both=True):
        self.recipe = recipe
        self.modules = modules
        self.policies = [policy or recipe.policy for policy in policies]
        self.ops = []
        self.kept = None
        self.since_kept = []
        self.check_both = check_both
        makers = [importlib.import_module(module) for module in modules]
        self.pair = [recipe.make(maker, policy) for maker, policy in zip(makers, self.policies, strict=True)]
        self.counters = [zone.counters() for zone in zones_of(self.pair[1])]
        self.look([])
        self.pages = [self.always(state) for state in self.states]

    # Doing

    def do(self, name, *args, each=(), times=1, **kwargs):
        """
        One operation on both, then look at both. Returns its outcome, or those of its calls.
        """
        op = Op(name, args, kwargs, tuple(each), times)
        self.ops.append(op)
        outcomes = []
        for call in op.calls():
            mine, yours = (self.attempt(call, target) for target in self.pair)
            outcomes.append(yours)
            if mine != yours:
                self.differ(f"{call.text()}: {_side_by_side(mine, yours)}")
        if self.kept:
            self.since_kept.append((op, outcomes))
        self.look(outcomes)
        return outcomes if op.each or op.times > 1 else outcomes[0]

    def attempt(self, call, target):
        try:
            return outcome(lambda: call.run(target))
        except Exception as error:
            self.differ(f"{call.text()} on {type(target).__module__}: {type(error).__name__}: {error}", error)

    def keep(self):
        """
        Take a snapshot of both.
        """
        self.ops.append(Op(KEEP))
        self.kept = [[zone.snapshot() for zone in zones_of(target)] for target in self.pair], self.states
        self.since_kept = []

    def bring_back(self):
        """
        Restore the snapshot, and do again what was done since: everything happens as before.
        """
        if not self.kept:
            return
        self.ops.append(Op(BRING_BACK))
        snapshots, states = self.kept
        after, again = self.states, self.since_kept
        for target, kept in zip(self.pair, snapshots, strict=True):
            for zone, snapshot in zip(zones_of(target), kept, strict=True):
                zone.restore(snapshot)
        self.look()
        if self.states != states:
            self.differ(f"a restored snapshot: {difference(states, self.states)}")
        self.kept = None
        for op, outcomes in again:
            now = self.do(op.name, *op.args, each=op.each, times=op.times, **op.kwargs)
            if (now if op.each or op.times > 1 else [now]) != outcomes:
                self.differ(f"{op.text()} after restore: {outcomes} the first time, {now} the second")
        if self.states != after:
            self.differ(f"the same operations after restore: {difference(after, self.states)}")

    def reload(self):
        """
        Make both anew from their states, and go on with those.
        """
        self.ops.append(Op(RELOAD))
        self.pair = [
            type(target).from_state(_whole_state(target), policy=policy)
            for target, policy in zip(self.pair, self.policies, strict=True)
        ]
        for target in self.pair:
            for zone in zones_of(target):
                zone.trace(TRACE_CAPACITY)
        before, self.kept = self.states, None
        self.look()
        if before != self.states:
            self.differ(f"from_state(state()): {difference(before, self.states)}")

    # Looking

    def look(self, outcomes=None):
        """
        Compare all that can be seen. With outcomes: those of the operation that has just been done.
        """
        mine, yours = (zones_of(target) for target in self.pair)
        self.states = []
        for number, (one, other) in enumerate(zip(mine, yours, strict=True)):
            state = other.state()
            self.states.append(state)
            first = one.state()
            if first != state:
                self.differ(f"state of zone {number}: {difference(first, state)}")
            counters = other.counters()
            first = one.counters()
            if first != counters:
                self.differ(f"counters of zone {number}: {difference(first, counters)}")
            events = other.events()
            if events or outcomes is None:
                first = [tuple(event) for event in one.events()]
                if first != events:
                    self.differ(f"events of zone {number}: {_first_difference(first, events)}")
                for zone in (one, other):
                    zone.trace(TRACE_CAPACITY)
            elif one.events():
                self.differ(f"events of zone {number}: {_first_difference(one.events(), [])}")
            if outcomes is not None and self.ops and len(events) < TRACE_CAPACITY:
                self.tally(number, events, counters)
            elif self.ops:
                self.counters[number] = counters
            if self.ops and self.always(state) != self.pages[number]:
                self.differ(f"zone {number} had {self.pages[number]} pages more than managed, now {self.always(state)}")
            for zone in (one, other) if self.check_both else (other,):
                try:
                    zone.check()
                except Exception as error:
                    self.differ(f"check() of {type(zone).__module__}: {type(error).__name__}: {error}", error)

    @staticmethod
    def always(state):
        """
        What never changes: pages come and go only with ``managed``.
        """
        return parts(state) - state["managed"]

    def tally(self, number, events, counters):
        """
        What the events say must be what the counters say.
        """
        before, self.counters[number] = self.counters[number], counters
        pages = {"free": 0, "alloc": 0, "pcpu_drain": 0, "recover": 0, "chunk": 0, "absorb": 0}
        count = {"failed": 0, "pcpu_drain": 0, "claim": 0, "pmerge": 0, "remote_fail": 0, "free": 0}
        for kind, _, pfn, *rest in events:
            if kind in pages and pfn >= 0:
                pages[kind] += 1 << rest[0]
            if kind in count:
                count[kind] += 1
            elif kind == "alloc" and pfn < 0:
                count["failed"] += 1
        new = {name: value - before[name] for name, value in counters.items()}
        bulk = self.ops[-1].name.endswith("alloc_bulk")  # B-93: no event
        for name, value in (
            ("pages_freed", pages["free"]),
            ("pages_allocated", new["pages_allocated"] if bulk else pages["alloc"]),
            ("allocs_failed", count["failed"]),
            ("drained_pages", pages["pcpu_drain"]),
            ("drained_entries", count["pcpu_drain"]),
            ("phase0_pages", pages["recover"]),
            ("phase1_pages", count["claim"] << 9),
            ("phase2_pages", pages["chunk"]),
            ("absorbed_pages", pages["absorb"]),
            ("pcp_merges", count["pmerge"]),
            ("frees_failed_trylock", max(count["remote_fail"], new["frees_failed_trylock"])),
        ):
            if new[name] != value:
                self.differ(f"zone {number}: counter {name} grew by {new[name]}, the events say {value}")

    def differ(self, what, cause=None):
        raise Different(f"{what}\n\n{self.script()}") from cause

    # Telling

    def script(self):
        """
        A Python program that does the same and stops where the two differ.
        """
        shape = state_text(self.recipe.argument)
        made_by = self.recipe.made_by.split(".")[0]
        policies = [_policy(policy) for policy in self.policies]
        mine, yours = (f"{module}.{self.recipe.text(p)}" for module, p in zip(self.modules, self.policies, strict=True))
        lines = [
            "import pcpbuddy",
            *(f"import {module}" for module in sorted(set(self.modules) - {"pcpbuddy"})),
            *(["from pcpbuddy import Policy"] if any(p.startswith("Policy") for p in policies) else []),
            "",
            f"SHAPE = {shape}",
            "OPERATIONS = [",
            *(f"    {op.text()}," for op in self.ops),
            "]",
            f"POLICIES = [{policies[0]}, {policies[1]}]",
            f"pair = [{mine}, {yours}]",
            _SCRIPT_NODE if made_by == "Node" else _SCRIPT_ZONE,
            _SCRIPT.strip("\n"),
        ]
        return "\n".join(lines) + "\n"


_SCRIPT_ZONE = """
def zones_of(zone):
    return [zone]


def whole_state(zone):
    return zone.state()
"""

_SCRIPT_NODE = """
def zones_of(node):
    return node.zones


def whole_state(node):
    return {"cpus": node.cpus, "zones": [zone.state() for zone in node.zones]}
"""

_SCRIPT = """
def seen(target):
    found = [(zone.state(), zone.counters(), [tuple(event) for event in zone.events()]) for zone in zones_of(target)]
    for zone in zones_of(target):
        zone.trace()
    return found


def call(operation, target):
    try:
        result = operation(target)
    except pcpbuddy.PcpBuddyError as error:
        return type(error).__name__
    if result is None or isinstance(result, (bool, int)):
        return result
    return tuple(result) if hasattr(result, "_fields") else [int(pfn) for pfn in result]


for target in pair:
    for zone in zones_of(target):
        zone.trace()
kept = None
for number, operation in enumerate(OPERATIONS):
    before = [[zone.state() for zone in zones_of(target)] for target in pair]
    results = [None, None]
    if operation == "keep":
        kept = [[zone.snapshot() for zone in zones_of(target)] for target in pair], before
    elif operation == "bring back":
        for target, snapshots in zip(pair, kept[0]):
            for zone, snapshot in zip(zones_of(target), snapshots):
                zone.restore(snapshot)
        states = [[zone.state() for zone in zones_of(target)] for target in pair]
        assert states == kept[1], f"operation {number}: restore"
    elif operation == "reload":
        pair = [type(target).from_state(whole_state(target), policy=p) for target, p in zip(pair, POLICIES)]
        for target in pair:
            for zone in zones_of(target):
                zone.trace()
        states = [[zone.state() for zone in zones_of(target)] for target in pair]
        assert states == before, f"operation {number}: reload"
    else:
        results = [call(operation, target) for target in pair]
    assert results[0] == results[1], f"operation {number}: {results[0]} and {results[1]}"
    mine, yours = (seen(target) for target in pair)
    assert mine == yours, f"operation {number} returned {results[0]}; afterwards the two differ"
    for target in pair:
        for zone in zones_of(target):
            zone.check()
print(f"{len(OPERATIONS)} operations, no difference")
"""


def parts(state):
    """
    Pages of a state that are in some place; the others are holes (I-1).
    """
    pages = sum(len(pfns) << order for (order, _), pfns in state["free"].items())
    pages += sum(1 << order for _, order in state["deferred"])
    pages += sum(1 << allocation[0] for allocation in state["allocated"].values())
    for pcp in state["pcp"]:
        on_lists = sum(len(pfns) << order for (order, _), pfns in pcp["lists"].items())
        pages += on_lists
        for _, runs in [(None, pcp["remote"]), *pcp["outboxes"]]:
            pages += sum(1 << order for _, order in runs)
    return pages


def difference(one, other, where="", left=6):
    """
    The first places in which two nested values differ: "pcp[1].count: 3 and 4".
    """
    found = list(_differences(one, other, where))
    more = f"; {len(found) - left} more" if len(found) > left else ""
    return "; ".join(found[:left]) + more


def _differences(one, other, where):
    if one == other:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            nothing = "nothing"
            yield from _differences(one.get(key, nothing), other.get(key, nothing), f"{where}[{key!r}]")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and len(one) <= 64:
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(left, right, f"{where}[{index}]")
    else:
        yield f"{where}: {_side_by_side(one, other)}"


def _side_by_side(one, other):
    return f"{_short(one)} and {_short(other)}"


def _short(value):
    text = repr(value)
    return text if len(text) < 400 else f"{text[:400]}..."


def _first_difference(one, other):
    for number, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return f"event {number}: {_side_by_side(one[number : number + 4], other[number : number + 4])}"
    shorter = min(len(one), len(other))
    return f"{len(one)} and {len(other)}; after event {shorter}: {_side_by_side(one[shorter:], other[shorter:])}"


def _whole_state(target):
    if hasattr(target, "zones"):
        return {"cpus": target.cpus, "zones": [zone.state() for zone in target.zones]}
    return target.state()


# Writing values as Python


def _policy(policy):
    if isinstance(policy, str):
        return repr(policy)
    default = Policy()
    names = ["name", *(switch.name for switch in SWITCHES)]
    changed = [f"{name}={getattr(policy, name)!r}" for name in names if getattr(policy, name) != getattr(default, name)]
    return f"Policy({', '.join(changed)})"


def _numbers(values):
    """
    A range where it is one, else a tuple.
    """
    if len(values) > 2:
        step = values[1] - values[0]
        if step and list(values) == list(range(values[0], values[0] + step * len(values), step)):
            return repr(range(values[0], values[-1] + (1 if step > 0 else -1), step))
    return repr(tuple(values))


def state_text(value):
    """
    A state (or a number of pages) as an expression; long runs of equal allocations as ``dict.fromkeys``.
    """
    if isinstance(value, int):
        return repr(value)
    lines = ["{"]
    for key, field in value.items():
        if key == "allocated":
            field = _allocations(field)
        elif key == "zones":
            field = "[" + ", ".join(state_text(zone) for zone in field) + "]"
        else:
            field = repr(field)
        lines.append(f"    {key!r}: {field},")
    return "\n".join([*lines, "}"])


def _allocations(allocated):
    runs = []
    for pfn, value in allocated.items():
        if runs and runs[-1][1] == value:
            pfns = runs[-1][0]
            if len(pfns) == 1 or pfn - pfns[-1] == pfns[1] - pfns[0]:
                pfns.append(pfn)
                continue
        runs.append(([pfn], value))
    return "{" + ", ".join(f"**dict.fromkeys({_numbers(pfns)}, {value!r})" for pfns, value in runs) + "}"
