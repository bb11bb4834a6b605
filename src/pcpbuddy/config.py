"""
Policies as data: the switches of rfc.md section 15, the named profiles over them, and how a policy is written.

A policy is one frozen struct. Both the model and the compiled core read it when a
zone is made; nothing else decides how the allocator behaves.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .errors import ConfigError, UsageError

__all__ = [
    "LARGEST",
    "NEEDS",
    "POOL_PROFILE",
    "PROFILES",
    "SWITCHES",
    "Need",
    "Policy",
    "Switch",
    "parse_policies",
    "policy",
]

# Of a PagePool, where none is asked for: chosen by the figures of `pcpbuddy bench pool` (docs/reference/bench-pool.md).
POOL_PROFILE = "handover"
LARGEST = (1 << 31) - 1  # numbers of a switch are C ints in the core


class Switch(NamedTuple):
    """
    One choice that the RFC left open.

    values: all of them, the project's default first. Of a switch that counts, the default and the smallest number.
    rule: of docs/reference/rfc.md; docs/reference/switches.md says the rest. most: the largest number.
    """

    name: str
    values: tuple[str | int, ...]
    rule: str
    meaning: str
    most: int = LARGEST

    @property
    def counts(self) -> bool:
        """
        Whether any number from the last value up will do.
        """
        return self.name in ("handover_batch", "handover_targets", "adopt_min_order", "remote_bound")

    def accepts(self, value: object) -> bool:
        """
        Whether the switch has that value. True and 8.0 are neither 1 nor 8: manifests show what was given.
        """
        if self.counts and type(value) is int:
            return int(self.values[-1]) <= value <= self.most
        return type(value) in (str, int) and value in self.values

    def choices(self) -> str:
        """
        The values in words: "drain, free, never or tail", "a number from 1 to 2147483647".
        """
        named = [str(v) for v in self.values if not (self.counts and isinstance(v, int))]
        if self.counts:
            named.append(f"a number from {self.values[-1]} to {self.most}")
        return _either(named)


def _either(words: Iterable[object]) -> str:
    """
    "a", "a or b", "a, b or c".
    """
    *others, last = map(str, words)
    return f"{', '.join(others)} or {last}" if others else last


SWITCHES = (
    Switch(
        "remote",
        ("trylock", "block", "llist", "handover", "local"),
        "P-42",
        "how a free reaches the CPU that owns the pageblock",
    ),
    Switch("handover_batch", (32, 1), "P-46b", "pages that an outbox gathers before it is handed over"),
    Switch("handover_targets", (4, 1), "P-46b", "outboxes of a CPU"),
    Switch("mark", ("owned", "all"), "P-4", "which PCP entries may merge"),
    Switch("pcp_lists", (30, 14), "P-3, B-10", "per-CPU lists: one per order and type, or the kernel's 14"),
    Switch("phase0_cap", ("off", "high"), "P-33", "stop recovering when count reaches high"),
    Switch("take_prefer", ("none", "unmarked"), "P-23", "which entry of an order is taken first"),
    Switch("refill_hold", ("one", "per_phase"), "P-32", "zone-lock holds of one refill"),
    Switch("drain_by", ("freer", "owner", "visitor"), "P-45", "who drains an owner's PCP after a remote free"),
    Switch("pressure", ("owner", "local"), "P-40b", "where frees go while the zone is short of memory"),
    Switch("cma", ("fixed", "as-posted", "balanced", "rule"), "P-33, P-36, P-81", "CMA in phases 0 and 2"),
    Switch("gate", ("fit", "always", "never", "min", "plenty"), "P-34", "when a refill may claim whole blocks"),
    Switch("phase0", ("on", "off"), "P-33", "recover fragments of own blocks"),
    Switch("phase2", ("on", "off"), "P-35", "take chunks larger than the request"),
    Switch("phase1_source", ("rmqueue", "own_type"), "P-34", "may phase 1 convert foreign whole blocks"),
    Switch("phase2_max", (8, 10), "P-35", "largest chunk order that phase 2 breaks"),
    Switch("phase3", ("rest", "if_empty"), "P-37", "phase 3 completes the batch, or only saves an empty one"),
    Switch("merge", ("drain", "free", "never", "tail"), "P-50, P-53, P-55", "when buddies merge inside a PCP"),
    Switch("drain", ("largest_fit", "index", "smallest", "near"), "P-61, P-64", "which entries a drain returns first"),
    Switch("drain_overshoot", ("allow", "stop", "split"), "P-61", "when no entry fits the amount"),
    Switch("owned_order", ("tail", "head"), "P-16", "where a block joins its owner's list"),
    Switch("owned_lists", ("one", "per_type"), "P-15", "one list of owned blocks, or one per type"),
    Switch("retype", ("disown", "keep"), "P-12", "ownership of a block whose type changes"),
    Switch("adopt", ("off", "on"), "P-17", "own a block of which phase 2 took a chunk"),
    Switch("adopt_min_order", (5, 0), "P-17", "smallest chunk order that adopts", most=8),
    Switch("high_growth", ("refill", "pages"), "P-70", "unit in which refills advance high"),
    Switch("pcp_orders", ("baseline", "all"), "P-30", "request orders that the PCP serves"),
    Switch("local_split", ("on", "off"), "P-22", "split larger entries inside the PCP"),
    Switch("remote_bound", ("high_max", "inf", 1), "P-46", "pages that may wait on a remote list"),
    Switch("batch_sort", ("off", "on"), "P-47", "sort a batch of frees by target"),
)

_BY_NAME = {s.name: s for s in SWITCHES}


class Need(NamedTuple):
    """
    A value that makes sense only with certain values of other switches; any other combination is refused.
    """

    switch: str
    value: str | int
    others: Mapping[str, tuple[str | int, ...]]
    why: str

    def __str__(self) -> str:
        """
        The one sentence, without its full stop.
        """
        *others, last = (f"{name}={_either(values)}" for name, values in self.others.items())
        needed = f"{', '.join(others)} and {last}" if others else last
        return f"{self.switch}={self.value} needs {needed}: {self.why}"

    def broken(self, switches: Mapping[str, str | int]) -> list[str]:
        """
        The switches that stand in the way, as NAME=VALUE.
        """
        if switches[self.switch] != self.value:
            return []
        return [f"{name}={switches[name]}" for name, values in self.others.items() if switches[name] not in values]


NEEDS = (
    Need(
        "pcp_lists",
        14,
        {
            "gate": ("never",),
            "phase2": ("off",),
            "merge": ("never",),
            "drain_overshoot": ("allow", "stop"),
            "pcp_orders": ("baseline",),
            "local_split": ("off",),
        },
        "it has no lists for orders 4 to 8",
    ),
    Need(
        "local_split",
        "off",
        {"gate": ("never",), "phase2": ("off",), "merge": ("never",), "adopt": ("off",)},
        "else there would be entries that nothing can split",
    ),
    Need("drain", "index", {"drain_overshoot": ("allow",)}, "it overshoots as it walks the lists (B-85)"),
    Need("drain", "near", {"drain_overshoot": ("allow",)}, "it has a rule of its own for what does not fit"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    One value for every switch of rfc.md section 15; the defaults are the profile ``fixed``.

    name: how tables and documents call it; if none is given, what makes it, such as ``fixed+gate=never``.
    meaning: of a profile, in one line; no part of what the policy is.
    Raises ConfigError, naming the switch, for a value or a combination that does not exist.
    """

    name: str = ""
    meaning: str = dataclasses.field(default="", repr=False, compare=False)
    remote: str = "trylock"
    handover_batch: int = 32
    handover_targets: int = 4
    mark: str = "owned"
    pcp_lists: int = 30
    phase0_cap: str = "off"
    take_prefer: str = "none"
    refill_hold: str = "one"
    drain_by: str = "freer"
    pressure: str = "owner"
    cma: str = "fixed"
    gate: str = "fit"
    phase0: str = "on"
    phase2: str = "on"
    phase1_source: str = "rmqueue"
    phase2_max: int = 8
    phase3: str = "rest"
    merge: str = "drain"
    drain: str = "largest_fit"
    drain_overshoot: str = "allow"
    owned_order: str = "tail"
    owned_lists: str = "one"
    retype: str = "disown"
    adopt: str = "off"
    adopt_min_order: int = 5
    high_growth: str = "refill"
    pcp_orders: str = "baseline"
    local_split: str = "on"
    remote_bound: str | int = "high_max"
    batch_sort: str = "off"

    def __post_init__(self) -> None:
        switches = self.switches()
        for switch in SWITCHES:
            value = switches[switch.name]
            if not switch.accepts(value):
                shown = value if isinstance(value, str) and value and not value.isdecimal() else repr(value)
                raise ConfigError(f"{switch.name}={shown} ({switch.rule}): expected {switch.choices()}")
        for need in NEEDS:
            if broken := need.broken(switches):
                raise ConfigError(f"{need}; seen: {', '.join(broken)}")
        if not self.name:
            changed = [s.name for s in SWITCHES if switches[s.name] != s.values[0]]
            object.__setattr__(self, "name", _name("fixed", switches, changed))

    @property
    def owns(self) -> bool:
        """
        Whether any block can ever have an owner under this policy.
        """
        return self.gate != "never" or self.adopt == self.phase2 == "on"

    def numbers(self) -> dict[str, int]:
        """
        The fields of the compiled core's ``Policy`` (_core/page.pxd): numbers as they are, a named value by its place.

        What is looked at in the core's short cuts is worked out here, once.
        """
        numbers = {
            s.name: value if isinstance(value := getattr(self, s.name), int) else s.values.index(value)
            for s in SWITCHES
        }
        return numbers | {
            "pcp_orders": 0x3FF if self.pcp_orders == "all" else 0x20F,
            "remote_bound": {"high_max": 0, "inf": LARGEST}.get(str(self.remote_bound)) or numbers["remote_bound"],
            "handover_targets": self.handover_targets if self.remote == "handover" else 0,
            "owns": int(self.owns),
            "plain": int(
                self.remote not in ("llist", "handover")
                and (self.mark, self.take_prefer, self.drain_by) == ("owned", "none", "freer")
                and self.merge != "free"
            ),
        }

    def switches(self) -> dict[str, str | int]:
        """
        All switches and their values, in the order of rfc.md section 15.
        """
        return {s.name: getattr(self, s.name) for s in SWITCHES}


def _name(stem: str, switches: Mapping[str, str | int], changed: Iterable[str]) -> str:
    """
    The name of a changed policy: the same whatever the order of the changes.
    """
    return "+".join([stem, *(f"{s.name}={switches[s.name]}" for s in SWITCHES if s.name in changed)])


def _baseline(name: str, pcp_lists: int, meaning: str) -> Policy:
    return Policy(
        name=name,
        meaning=meaning,
        pcp_lists=pcp_lists,
        gate="never",
        phase0="off",
        phase2="off",
        remote="local",
        merge="never",
        local_split="off",
        drain="index",
    )


PROFILES = {
    which.name: which
    for which in (
        _baseline("mainline", 14, "Linux 7.3 as it is: nothing of the proposal"),
        _baseline("null", 30, "the proposal's code with everything off; must equal mainline"),
        Policy(
            name="posted",
            meaning="the proposal as it was mailed, as far as it can be reconstructed",
            remote="block",
            cma="as-posted",
        ),
        Policy(name="fixed", meaning="the proposal with the fixes of its review; the default"),
        Policy(
            name="balanced", meaning="fixed, and phase 0 too keeps the balance between CMA and other", cma="balanced"
        ),
        Policy(
            name="llist", meaning="fixed, but a remote free is pushed on a lockless list of the owner", remote="llist"
        ),
        Policy(name="handover", meaning="llist, but remote frees are gathered and pushed together", remote="handover"),
        Policy(
            name="merge-only",
            meaning="no ownership: all that meets in a PCP may merge there",
            remote="local",
            gate="never",
            phase0="off",
            mark="all",
        ),
        Policy(
            name="chunk-only",
            meaning="no ownership, no merging: refills only take larger chunks",
            remote="local",
            gate="never",
            merge="never",
        ),
        Policy(name="own-no-merge", meaning="ownership, but buddies never merge in a PCP", merge="never"),
        Policy(
            name="tuned",
            meaning="our own: handover, with what the laboratory showed to be better (decision 0006)",
            remote="handover",
            drain_by="visitor",
            pressure="local",
            gate="plenty",
            merge="tail",
            drain="near",
            high_growth="pages",
            cma="rule",
        ),
    )
}


# Writing policies


def policy(which: str | Policy, **changes: str | int) -> Policy:
    """
    One policy from its text, or from another policy; keywords change switches: ``policy("fixed", merge="free")``.

    The text is a profile (``fixed``), a profile with changes (``fixed+merge=free+remote_bound=512``), or a table of
    a TOML file (``policies.toml:mine``, which can have changes too). Raises ConfigError, saying what there is.
    """
    if isinstance(which, Policy):
        return _change(which, changes) if changes else which
    found = _parse(which)
    if len(found) != 1:
        names = ", ".join(each.name for each in found)
        raise ConfigError(f"{which} has {len(found)} policies ({names}); one is meant here: {which}:{found[0].name}")
    return _change(found[0], changes) if changes else found[0]


def parse_policies(policies: str | Policy | Iterable[str | Policy]) -> list[Policy]:
    """
    Policies from a comma-separated text or a mixed list; each text as ``policy()`` takes it, or a TOML file for all
    its tables in order. Raises ConfigError, or UsageError for no policy or two of one name.
    """
    if isinstance(policies, Policy):
        policies = [policies]
    items = policies.split(",") if isinstance(policies, str) else policies
    chosen = [each for item in items for each in ([item] if isinstance(item, Policy) else _parse(item))]
    if not chosen:
        raise UsageError("no policy given; name one or more, for example mainline,fixed")
    names = [which.name for which in chosen]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"policy {name} is given {names.count(name)} times; once is enough")
    return chosen


def _parse(text: str) -> list[Policy]:
    """
    The policy that a text means; of a whole TOML file, all.
    """
    if not isinstance(text, str):
        raise ConfigError(f"policy {text!r}: expected a Policy, or a text such as {'fixed+merge=free'!r}")
    file = re.fullmatch(r"\s*(.*\.toml)\s*(?::(.*))?", text, re.DOTALL)
    if file is None:
        return [_parse_changes(text, PROFILES)]
    path, table = file.groups()
    policies = _load(path)
    if table is None:
        return list(policies.values())
    return [_parse_changes(table, policies, f" in {path}")]


def _parse_changes(text: str, bases: Mapping[str, Policy], where: str = "") -> Policy:
    """
    A name with changes; ``where`` ends the sentence that the name does not exist.
    """
    base, *parts = (part.strip() for part in text.split("+"))
    if base not in bases:
        raise ConfigError(_no_policy(base, bases, where))
    which = f"policy {text.strip()}{where}"
    changes: dict[str, str | int] = {}
    for part in parts:
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not name:
            raise ConfigError(f"{which}: {part!r} is no SWITCH=VALUE, such as merge=free")
        if name in changes:
            raise ConfigError(f"{which}: {name} is given twice; once is enough")
        changes[name] = int(value) if re.fullmatch("[0-9]{1,4000}", value) else value
    try:
        return _change(bases[base], changes) if changes else bases[base]
    except ConfigError as error:
        raise ConfigError(f"{which}: {error}") from None


def _no_policy(name: str, bases: Mapping[str, Policy], where: str) -> str:
    sentence = f"unknown policy {name!r}{where}" if name else f"empty name of a policy{where}"
    if "=" in name:
        return f"{sentence}: a policy begins with a name, such as {next(iter(bases)) if where else 'fixed'}+{name}"
    if where:
        return sentence + _among("policies", name, bases)
    if name.endswith(".toml"):
        return f"{sentence}; which one of that file is changed stands after a colon: {name}:NAME+..."
    return f"{sentence}{_among('profiles', name, bases)}; a file of policies ends in .toml"


def _among(what: str, name: str, known: Iterable[str]) -> str:
    """
    What is known, and if there is one, what is nearest to the name.
    """
    near = _near(name, known)
    return f"{f' (did you mean {near}?)' if near else ''}; {what} are: {', '.join(known)}"


def _near(name: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1)), "")


def _change(base: Policy, changes: Mapping[str, Any]) -> Policy:
    """
    A policy with other values of some switches, named by its base and by what was written.
    """
    for name in changes:
        if name not in _BY_NAME:
            near = _near(name, _BY_NAME)
            hint = f"did you mean {near}?" if near else f"switches are: {', '.join(_BY_NAME)}"
            raise ConfigError(f"no switch {name!r}; {hint}")
    # What was changed before is part of the base's name; it takes its place among the new changes.
    parts = [(part, part.partition("=")[0]) for part in base.name.split("+")]
    stem = "+".join(part for part, name in parts if name not in _BY_NAME)
    named = {name for _, name in parts} | set(changes)
    switches: dict[str, Any] = {**base.switches(), **changes}
    return Policy(name=_name(stem, switches, named), **switches)


def _load(path: str) -> dict[str, Policy]:
    """
    The policies of a TOML file: each table is one, each of its keys a switch, ``profile`` what it starts from.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not TOML: it is no UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        hint = '; words stand in quotes: merge = "free"' if "Invalid value" in str(error) else ""
        raise ConfigError(f"{path} is not TOML: {error}{hint}") from None
    if not tables:
        raise ConfigError(f'{path} has no policy in it; expected tables: [mine], and below it merge = "free"')
    return {name: _from_table(path, name, table) for name, table in tables.items()}


def _from_table(path: str, name: str, table: Any) -> Policy:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} is no table; expected [mine], say, and the switches of that policy below it")
    where = f"{path}, [{name}]"
    if name in PROFILES:
        raise ConfigError(f"{where}: {name} is a profile; a policy of your own needs another name")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ConfigError(f"{where}: a policy's name has letters, digits, '-', '_' and '.', nothing else")
    profile = table.pop("profile", "fixed")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ConfigError(f"{where}: unknown profile {profile!r}{_among('profiles', str(profile), PROFILES)}")
    try:
        return dataclasses.replace(_change(PROFILES[profile], table), name=name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
