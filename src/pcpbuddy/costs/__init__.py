"""
What things cost in the laboratory: nanoseconds as data, each with where it comes from.

A cost model is one frozen struct. Shipped profiles are the TOML files beside this one; ``pcpbuddy calibrate`` writes
more. docs/reference/costs.md says what is charged when.
"""

import dataclasses
import difflib
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["DEFAULT", "FIELDS", "HOW", "MEANINGS", "PROFILES", "Costs", "Source", "costs", "profiles", "toml"]

MEANINGS = {
    "lock_ns": "taking and releasing a lock whose cache line is in the own cache",
    "line_near_ns": "a cache line that another CPU of the same node has",
    "line_far_ns": "a cache line that a CPU of another node has",
    "handover_near_ns": "from the unlock of a lock that is waited for to the next waiter running, same node",
    "handover_far_ns": "the same, other node",
    "entry_ns": "an insertion in or removal from a PCP list",
    "list_op_ns": "an insertion in or removal from a zone list",
    "move_ns": "a chunk moved from one zone list to another",
    "merge_ns": "a merge step, in the zone or a PCP",
    "split_ns": "a split step, in the zone or a PCP",
    "scan_ns": "a pfn looked at in a walk over a pageblock",
    "visit_ns": "an entry visited in a merge pass of a PCP",
    "walk_ns": "an owned block looked at in a refill",
    "descriptor_own_ns": "touching a page descriptor that the own cache has",
    "descriptor_near_ns": "touching one that another CPU of the same node touched last",
    "descriptor_far_ns": "touching one that a CPU of another node touched last",
    "descriptor_memory_ns": "touching one that no cache has",
    "cache_descriptors": "how many descriptors stay in the cache of one CPU (a number)",
    "shared_descriptors": "how many stay in that and a CPU's share of the node's shared cache together (a number)",
    "alloc_ns": "fixed work of an allocation outside locks, a call",
    "free_ns": "fixed work of a free outside locks, a call",
    "page_ns": "further fixed work for each page: preparing it, checking it when it is freed",
    "push_ns": "the atomic push on a remote list, line transfers apart",
    "fault_ns": "a page fault around an allocation: entry, page tables, exit",
    "zero_ns": "clearing one page",
    "interrupt_ns": "entry and exit of an interrupt",
    "wake_ns": "waking a sleeper, until it runs",
}
FIELDS = tuple(MEANINGS)  # the order in which the compiled side takes them
DEFAULT = "server-2s"
HOW = {
    "published": "somebody measured and published it",
    "measured": "measured for this project, or by pcpbuddy calibrate",
    "estimated": "reckoned from other figures",
    "taken": "taken from another profile",
    "given": "written by the user",
}
LARGEST_NS = 1_000_000_000
LARGEST_COUNT = (1 << 31) - 1


class Source(NamedTuple):
    """
    Where one number comes from. how: a key of HOW. text: one sentence.
    """

    how: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """
    One number for everything that takes virtual time; MEANINGS says what each is for.

    name: how results call it. calibrated: whether ``pcpbuddy calibrate`` measured it, and nobody changed it since.
    machine: what a calibrated profile was measured on. sources: where each number comes from.
    Raises ConfigError, naming the field, for a number that cannot be.
    """

    name: str
    lock_ns: float
    line_near_ns: float
    line_far_ns: float
    handover_near_ns: float
    handover_far_ns: float
    entry_ns: float
    list_op_ns: float
    move_ns: float
    merge_ns: float
    split_ns: float
    scan_ns: float
    visit_ns: float
    walk_ns: float
    descriptor_own_ns: float
    descriptor_near_ns: float
    descriptor_far_ns: float
    descriptor_memory_ns: float
    cache_descriptors: float
    shared_descriptors: float
    alloc_ns: float
    free_ns: float
    page_ns: float
    push_ns: float
    fault_ns: float
    zero_ns: float
    interrupt_ns: float
    wake_ns: float
    calibrated: bool = False
    meaning: str = dataclasses.field(default="", repr=False, compare=False)
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    sources: Mapping[str, Source] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in self.numbers().items():
            timed = name.endswith("_ns")
            largest, what = (LARGEST_NS, "nanoseconds") if timed else (LARGEST_COUNT, "a whole number")
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not 0 <= value <= largest or (not timed and value != int(value)):
                raise ConfigError(f"{name}={value!r}: expected {what} from 0 to {largest}")

    def numbers(self) -> dict[str, float]:
        """
        All fields and their values, in the order of FIELDS.
        """
        return {name: getattr(self, name) for name in FIELDS}

    def array(self) -> "npt.NDArray[np.float64]":
        """
        The values as the compiled side takes them.
        """
        import numpy as np

        return np.array([getattr(self, name) for name in FIELDS], dtype=np.float64)

    def document(self) -> dict[str, Any]:
        """
        What a manifest says of it.
        """
        return {"name": self.name, "calibrated": self.calibrated, "machine": dict(self.machine), **self.numbers()}


# Cost models as text


def costs(which: str | Costs = DEFAULT, **changes: float) -> Costs:
    """
    A cost model from its text, or from another one; keywords change numbers: ``costs("laptop", line_near_ns=60)``.

    The text is a shipped profile (``server-2s``, ``default``), a TOML file (``mine.toml``), or either with changes
    (``server-2s+line_far_ns=200``). Raises ConfigError, saying what there is.
    """
    found = which if isinstance(which, Costs) else _parse(which)
    return _change(found, changes) if changes else found


def profiles() -> dict[str, Costs]:
    """
    All shipped profiles, the default first.
    """
    return {name: _shipped(name) for name in PROFILES}


PROFILES = ("server-2s", "server-1s", "laptop", "measured-2cpu")


@functools.cache
def _shipped(name: str) -> Costs:
    return _load(Path(__file__).with_name(f"{name}.toml"), name)


def _parse(text: str) -> Costs:
    if not isinstance(text, str):
        raise ConfigError(f"cost model {text!r}: expected Costs, or a text such as {'server-2s+line_far_ns=200'!r}")
    file = re.fullmatch(r"\s*(.*\.toml)\s*((?:\+.*)?)", text, re.DOTALL)
    if file:
        base = _load(Path(file[1]), Path(file[1]).name)
        parts = file[2].split("+")[1:]
    else:
        name, *parts = (part.strip() for part in text.split("+"))
        if name != "default" and name not in PROFILES:
            raise ConfigError(_no_profile(name))
        base = _shipped(DEFAULT if name == "default" else name)
    where = f"cost model {text.strip()}"
    changes: dict[str, float] = {}
    for part in parts:
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not name:
            raise ConfigError(f"{where}: {part.strip()!r} is no FIELD=NUMBER, such as line_far_ns=200")
        if name in changes:
            raise ConfigError(f"{where}: {name} is given twice; once is enough")
        changes[name] = _number(value)
    try:
        return _change(base, changes) if changes else base
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _number(text: str) -> Any:
    """
    The number that a text is; another text as it is, for the check to refuse.
    """
    return float(text) if re.fullmatch(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?", text) else text


def _no_profile(name: str) -> str:
    if not name:
        return "empty name of a cost model" + _among("profiles", name, PROFILES)
    return f"unknown cost model {name!r}{_among('profiles', name, PROFILES)}; a file of your own ends in .toml"


def _among(what: str, name: str, known: Iterable[str]) -> str:
    """
    What is known, and if there is one, what is nearest to the name.
    """
    known = tuple(known)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"{f' (did you mean {near[0]}?)' if near else ''}; {what} are: {', '.join(known)}"


def _change(base: Costs, changes: Mapping[str, Any]) -> Costs:
    """
    Other values of some fields, named by the base and by all that differs from what it began as.
    """
    for name in changes:
        if name not in MEANINGS:
            raise ConfigError(f"unknown field {name!r}{_among('fields', name, FIELDS)}")
    stem, *parts = base.name.split("+")
    named = {part.partition("=")[0] for part in parts} | set(changes)
    numbers: dict[str, Any] = {**base.numbers(), **changes}
    changed = dataclasses.replace(
        base, **numbers, calibrated=False, sources={**base.sources, **dict.fromkeys(changes, _GIVEN)}
    )
    shown = (f"{name}={getattr(changed, name):g}" for name in FIELDS if name in named)
    return dataclasses.replace(changed, name="+".join([stem, *shown]))


_GIVEN = Source("given", "changed by the user")
_KEYS = ("meaning", "profile", "calibrated", "machine")


def _load(path: Path, name: str) -> Costs:
    """
    A TOML file: each field a number, or a table of value, how and source; ``profile`` gives those that are not named.
    """
    import tomllib

    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not TOML: it is no UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    try:
        return _from_table(table, name)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _from_table(table: dict[str, Any], name: str) -> Costs:
    for key in table:
        if key not in MEANINGS and key not in _KEYS:
            raise ConfigError(f"unknown key {key!r}{_among('keys', key, (*_KEYS, *FIELDS))}")
    kinds = (("meaning", str, "a text"), ("calibrated", bool, "true or false"), ("machine", dict, "a table"))
    for key, kind, words in kinds:
        if not isinstance(table.get(key, kind()), kind):
            raise ConfigError(f"{key}={table[key]!r}: expected {words}")
    missing = [field for field in FIELDS if field not in table]
    numbers: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    if missing:
        profile = table.get("profile", DEFAULT)
        if not isinstance(profile, str) or profile not in PROFILES:
            raise ConfigError(f"unknown profile {profile!r}{_among('profiles', str(profile), PROFILES)}")
        base = _shipped(profile)
        for field in missing:
            numbers[field] = getattr(base, field)
            source = base.sources[field]
            sources[field] = Source("taken", f"from {profile}, {source.how}: {source.text}")
    for field in FIELDS:
        if field in table:
            numbers[field], sources[field] = _entry(field, table[field])
    return Costs(
        name=name,
        meaning=table.get("meaning", ""),
        calibrated=table.get("calibrated", False),
        machine=table.get("machine", {}),
        sources={field: sources[field] for field in FIELDS},
        **numbers,
    )


def _entry(field: str, entry: Any) -> tuple[Any, Source]:
    """
    One field of a file: a number, or a table that says where it comes from too.
    """
    if not isinstance(entry, dict):
        return entry, Source("given", "no source in the file")
    for key in entry:
        if key not in ("value", "how", "source"):
            raise ConfigError(f"{field}: unknown key {key!r}{_among('keys', key, ('value', 'how', 'source'))}")
    if "value" not in entry:
        raise ConfigError(f"{field}: no value; expected value = 12.5, say")
    how, text = entry.get("how", "given"), entry.get("source", "no source in the file")
    if not isinstance(how, str) or how not in HOW:
        raise ConfigError(f"{field}: how={how!r}: expected one of {', '.join(HOW)}")
    if not isinstance(text, str):
        raise ConfigError(f"{field}: source={text!r}: expected a text")
    return entry["value"], Source(how, text)


def toml(which: Costs) -> str:
    """
    The file that ``costs()`` reads as this model: every number with where it comes from.
    """
    lines = ["# A cost model of pcpbuddy: what each number is charged for is in docs/reference/costs.md."]
    lines += ["", f"meaning = {_toml(which.meaning)}", f"calibrated = {_toml(which.calibrated)}"]
    if which.machine:
        lines += ["", "[machine]", *(f"{key} = {_toml(value)}" for key, value in which.machine.items())]
    for field, value in which.numbers().items():
        source = which.sources.get(field, _GIVEN)
        lines += ["", f"[{field}]  # {MEANINGS[field]}", f"value = {_toml(value)}"]
        lines += [f"how = {_toml(source.how)}", f"source = {_toml(source.text)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """
    A value as TOML: its texts, numbers and truths are written as JSON's are.
    """
    return json.dumps(value, ensure_ascii=False)
