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

    values: all of them, the project's default first; an int stands for "any number from here up".
    built: those that model and core have; the others are refused by name.
    """

    name: str
    values: tuple[str | int, ...]
    built: tuple[str | int, ...]
    rule: str
    meaning: str


SWITCHES = (
    Switch(
        "remote",
        ("trylock", "block", "llist", "handover", "local"),
        ("trylock", "block", "local"),
        "P-42",
        "how a free reaches the CPU that owns the pageblock",
    ),
    Switch("handover_batch", (32, 1), (32,), "P-46b", "pages an outbox gathers before it is handed over"),
    Switch("handover_targets", (4, 1), (4,), "P-46b", "outboxes of a CPU"),
    Switch("mark", ("owned", "all"), ("owned",), "P-4", "which PCP entries may merge"),
    Switch("pcp_lists", (30, 14), (30, 14), "P-3, B-10", "per-CPU lists: one per order and type, or the kernel's 14"),
    Switch("phase0_cap", ("off", "high"), ("off",), "P-33", "stop recovering when count reaches high"),
    Switch("take_prefer", ("none", "unmarked"), ("none",), "P-23", "which entry of an order is taken first"),
    Switch("refill_hold", ("one", "per_phase"), ("one",), "P-32", "zone-lock holds of one refill"),
    Switch("drain_by", ("freer", "owner"), ("freer",), "P-45", "who drains an owner's PCP after a remote free"),
    Switch("cma", ("fixed", "as-posted", "balanced"), ("fixed", "as-posted"), "section 10", "CMA in phases 0 and 2"),
    Switch("gate", ("fit", "always", "never", "min"), ("fit", "never"), "P-34", "when a refill may claim whole blocks"),
    Switch("phase0", ("on", "off"), ("on", "off"), "P-33", "recover fragments of own blocks"),
    Switch("phase2", ("on", "off"), ("on", "off"), "P-35", "take chunks larger than the request"),
    Switch("phase1_source", ("rmqueue", "own_type"), ("rmqueue",), "P-34", "may phase 1 convert foreign whole blocks"),
    Switch("phase2_max", (8, 10), (8, 10), "P-35", "largest chunk order that phase 2 breaks"),
    Switch(
        "phase3", ("rest", "if_empty"), ("rest",), "P-37", "phase 3 completes the batch, or only saves an empty one"
    ),
    Switch("merge", ("drain", "free", "never"), ("drain", "never"), "P-50, P-53", "when buddies merge inside a PCP"),
    Switch(
        "drain",
        ("largest_fit", "index", "smallest"),
        ("largest_fit", "index"),
        "P-61",
        "which entries a drain returns first",
    ),
    Switch("drain_overshoot", ("allow", "stop", "split"), ("allow",), "P-61", "when no entry fits the amount"),
    Switch("owned_order", ("tail", "head"), ("tail",), "P-16", "where a block joins its owner's list"),
    Switch("owned_lists", ("one", "per_type"), ("one",), "P-15", "one list of owned blocks, or one per type"),
    Switch("retype", ("disown", "keep"), ("disown",), "P-12", "ownership of a block whose type changes"),
    Switch("adopt", ("off", "on"), ("off",), "P-17", "own a block of which phase 2 took a chunk"),
    Switch("adopt_min_order", (5, 0), (5,), "P-17", "smallest chunk order that adopts"),
    Switch("high_growth", ("refill", "pages"), ("refill",), "P-70", "unit in which phase 1 refills advance high"),
    Switch("pcp_orders", ("baseline", "all"), ("baseline",), "P-30", "request orders that the PCP serves"),
    Switch("local_split", ("on", "off"), ("on", "off"), "P-22", "split larger entries inside the PCP"),
    Switch("remote_bound", ("high_max", "inf", 1), ("high_max",), "P-46", "pages that may wait on a remote list"),
    Switch("batch_sort", ("off", "on"), ("off",), "P-47", "sort a batch of frees by target"),
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
            if value in switch.built:
                continue
            built = ", ".join(str(v) for v in switch.built)
            if value in switch.values or (
                isinstance(value, int) and any(isinstance(v, int) and value >= v for v in switch.values)
            ):
                raise ConfigError(f"switch {switch.name}={value} ({switch.rule}) is not built yet; built are: {built}")
            raise ConfigError(f"switch {switch.name} has no value {value!r}; built are: {built}")
        plain = self.gate == self.merge == "never" and self.phase0 == self.phase2 == self.local_split == "off"
        if self.pcp_lists == 14 and not plain:
            raise ConfigError(
                "pcp_lists=14 has no lists for split, merged or owned chunks; "
                "use it with gate=never, phase0=off, phase2=off, merge=never, local_split=off"
            )

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
}
PLANNED_PROFILES = ("llist", "handover", "merge-only", "chunk-only", "own-no-merge")


def policy(which: "str | Policy") -> Policy:
    """
    The policy of that name, or the policy itself.

    Raises ConfigError for a name that is no profile, and says which there are.
    """
    if isinstance(which, Policy):
        return which
    if which in PROFILES:
        return PROFILES[which]
    known = ", ".join(PROFILES)
    if which in PLANNED_PROFILES:
        raise ConfigError(f"policy {which!r} is not built yet; built are: {known}")
    raise ConfigError(f"unknown policy {which!r}; policies are: {known}")
