"""
Policies as data: the switches of rfc.md section 15, and the named profiles over them.

A policy is one frozen struct. Both the model and the compiled core read it when a
zone is made; nothing else decides how the allocator behaves.
"""

import dataclasses
from typing import NamedTuple

from .errors import ConfigError

__all__ = ["PROFILES", "SWITCHES", "Policy", "Switch", "policy"]


class Switch(NamedTuple):
    """
    One choice that the RFC left open.

    values: all of them, the project's default first. Of a switch that counts, the default and the smallest number.
    rule: of docs/reference/rfc.md; docs/reference/switches.md says the rest.
    """

    name: str
    values: tuple[str | int, ...]
    rule: str
    meaning: str

    @property
    def counts(self) -> bool:
        """
        Whether any number from the last value up will do.
        """
        return self.name in ("handover_batch", "handover_targets", "adopt_min_order", "remote_bound")

    def accepts(self, value: object) -> bool:
        """
        Whether the switch has that value.
        """
        if self.counts and isinstance(value, int) and not isinstance(value, bool):
            return value >= int(self.values[-1])
        return value in self.values

    def choices(self) -> str:
        """
        The values in words: "drain, free or never", "a number from 1 up".
        """
        named = [str(v) for v in self.values if not (self.counts and isinstance(v, int))]
        if self.counts:
            named.append(f"a number from {self.values[-1]} up")
        return " or ".join(filter(None, (", ".join(named[:-1]), named[-1])))


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
    Switch("drain_by", ("freer", "owner"), "P-45", "who drains an owner's PCP after a remote free"),
    Switch("cma", ("fixed", "as-posted", "balanced"), "P-33, P-36, P-81", "CMA in phases 0 and 2"),
    Switch("gate", ("fit", "always", "never", "min"), "P-34", "when a refill may claim whole blocks"),
    Switch("phase0", ("on", "off"), "P-33", "recover fragments of own blocks"),
    Switch("phase2", ("on", "off"), "P-35", "take chunks larger than the request"),
    Switch("phase1_source", ("rmqueue", "own_type"), "P-34", "may phase 1 convert foreign whole blocks"),
    Switch("phase2_max", (8, 10), "P-35", "largest chunk order that phase 2 breaks"),
    Switch("phase3", ("rest", "if_empty"), "P-37", "phase 3 completes the batch, or only saves an empty one"),
    Switch("merge", ("drain", "free", "never"), "P-50, P-53", "when buddies merge inside a PCP"),
    Switch("drain", ("largest_fit", "index", "smallest"), "P-61", "which entries a drain returns first"),
    Switch("drain_overshoot", ("allow", "stop", "split"), "P-61", "when no entry fits the amount"),
    Switch("owned_order", ("tail", "head"), "P-16", "where a block joins its owner's list"),
    Switch("owned_lists", ("one", "per_type"), "P-15", "one list of owned blocks, or one per type"),
    Switch("retype", ("disown", "keep"), "P-12", "ownership of a block whose type changes"),
    Switch("adopt", ("off", "on"), "P-17", "own a block of which phase 2 took a chunk"),
    Switch("adopt_min_order", (5, 0), "P-17", "smallest chunk order that adopts"),
    Switch("high_growth", ("refill", "pages"), "P-70", "unit in which refills advance high"),
    Switch("pcp_orders", ("baseline", "all"), "P-30", "request orders that the PCP serves"),
    Switch("local_split", ("on", "off"), "P-22", "split larger entries inside the PCP"),
    Switch("remote_bound", ("high_max", "inf", 1), "P-46", "pages that may wait on a remote list"),
    Switch("batch_sort", ("off", "on"), "P-47", "sort a batch of frees by target"),
)

_BY_NAME = {s.name: s for s in SWITCHES}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    One value for every switch of rfc.md section 15; the defaults are the profile ``fixed``.

    Raises ConfigError, naming the switch, for a value that does not exist or is not built yet.
    """

    name: str = "fixed"
    remote: str = "trylock"
    handover_batch: int = 32
    handover_targets: int = 4
    mark: str = "owned"
    pcp_lists: int = 30
    phase0_cap: str = "off"
    take_prefer: str = "none"
    refill_hold: str = "one"
    drain_by: str = "freer"
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
        for switch in SWITCHES:
            value = getattr(self, switch.name)
            if not switch.accepts(value):
                raise ConfigError(f"{switch.name}={value} ({switch.rule}): expected {switch.choices()}")
        for senseless, sentence in (
            (
                self.pcp_lists == 14
                and not (
                    self.gate == self.merge == "never"
                    and self.phase2 == self.local_split == "off"
                    and self.pcp_orders == "baseline"
                    and self.drain_overshoot != "split"
                ),
                "pcp_lists=14 has no lists for orders 4 to 8; use it with gate=never, phase2=off, merge=never, "
                "local_split=off, pcp_orders=baseline, and without drain_overshoot=split",
            ),
            (
                self.local_split == "off" and not (self.gate == self.merge == "never" and self.phase2 == "off"),
                "local_split=off cannot serve from larger entries, so nothing may make any; use it with gate=never, "
                "phase2=off, merge=never",
            ),
            (
                self.drain == "index" and self.drain_overshoot != "allow",
                f"drain=index overshoots as it walks (B-85); drain_overshoot={self.drain_overshoot} is for "
                "drain=largest_fit and drain=smallest",
            ),
            (
                self.adopt_min_order > 8,
                f"adopt_min_order={self.adopt_min_order}: phase 2 takes no chunk above order 8 (P-35); expected 0..8",
            ),
        ):
            if senseless:
                raise ConfigError(sentence)

    @property
    def owns(self) -> bool:
        """
        Whether any block can ever have an owner under this policy.
        """
        return self.gate != "never" or self.adopt == self.phase2 == "on"

    def switches(self) -> dict[str, str | int]:
        """
        All switches and their values, in the order of rfc.md section 15.
        """
        return {s.name: getattr(self, s.name) for s in SWITCHES}


def _baseline(name: str, pcp_lists: int) -> Policy:
    return Policy(
        name=name,
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
    "mainline": _baseline("mainline", 14),
    "null": _baseline("null", 30),
    "posted": Policy(name="posted", remote="block", cma="as-posted"),
    "fixed": Policy(name="fixed"),
    "balanced": Policy(name="balanced", cma="balanced"),
    "llist": Policy(name="llist", remote="llist"),
    "handover": Policy(name="handover", remote="handover"),
    "merge-only": Policy(name="merge-only", remote="local", gate="never", phase0="off", mark="all"),
    "chunk-only": Policy(name="chunk-only", remote="local", gate="never", merge="never"),
    "own-no-merge": Policy(name="own-no-merge", merge="never"),
}


def policy(which: "str | Policy") -> Policy:
    """
    The policy of that name, or the policy itself.

    Raises ConfigError for a name that is no profile, and says which there are.
    """
    if isinstance(which, Policy):
        return which
    if which in PROFILES:
        return PROFILES[which]
    raise ConfigError(f"unknown policy {which!r}; policies are: {', '.join(PROFILES)}")
