"""
Loads by name: what the virtual CPUs of the laboratory can be made to do.
"""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError
from ..names import MAX_CPUS, PAGE_SIZE
from . import contiguous, faults, frees, mixed
from .plan import COMMON, Kind, Load, Plan, Stream

__all__ = ["KINDS", "LOADS", "Kind", "Load", "Stream", "is_load_name", "load", "parameters"]

KINDS = {kind.name: kind for kind in (*faults.KINDS, *frees.KINDS, *mixed.KINDS, *contiguous.KINDS)}
LOADS = {name: kind.meaning for name, kind in KINDS.items()}
NUMBERED = "interleave/"  # interleave/N, N pages in turn
MOST_NODES = 8


def is_load_name(source: str) -> bool:
    """
    Whether a SOURCE means a load and not a file: it is one, or lies under a family of them.
    """
    return source.split("/")[0] in {name.split("/")[0] for name in KINDS}


def parameters(name: str) -> dict[str, int | float | bool | str]:
    """
    The parameters of a load and their defaults; the function that makes it says what each means.
    """
    kind, fixed = _kind(name)
    own = {key: value for key, value in _own_parameters(kind.make).items() if key not in fixed}
    return {**own, **{key: kind.defaults.get(key, default) for key, (default, _) in COMMON.items()}}


def load(name: str, cpus: int, memory_bytes: int | None = None, *, nodes: int = 1, **given: Any) -> Load:
    """
    The load of that name for a number of CPUs.

    memory_bytes: of the machine; None: what the load needs, with head room. nodes: CPU c is on node c * nodes // cpus.
    given: parameters, as numbers or as text ("0.5"). Raises ConfigError, naming what there is, for a load or parameter
    that does not exist, and for a number that cannot be.
    """
    kind, fixed = _kind(name)
    if isinstance(cpus, bool) or not isinstance(cpus, int) or not 1 <= cpus <= MAX_CPUS:
        raise ConfigError(f"cpus={cpus!r}: expected 1 to {MAX_CPUS}")
    if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= min(cpus, MOST_NODES):
        raise ConfigError(f"nodes={nodes!r}: expected 1 to {min(cpus, MOST_NODES)}, no more than CPUs")
    if memory_bytes is not None and (memory_bytes < PAGE_SIZE or memory_bytes % PAGE_SIZE):
        raise ConfigError(f"memory_bytes={memory_bytes!r}: expected a multiple of {PAGE_SIZE}")
    values = parameters(name)
    for key, value in given.items():
        if key not in values:
            near = difflib.get_close_matches(key, values, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"load {name} has no parameter {key!r}{hint}; it has: {', '.join(values)}")
        values[key] = _value(name, key, value, values[key])
    common = {key: float(values[key]) for key in COMMON}
    own = {key: value for key, value in values.items() if key not in COMMON}
    plan = Plan(kind, name, cpus, memory_bytes, nodes, common, {**fixed, **values})
    return kind.make(plan, **own, **fixed)


def _kind(name: str) -> tuple[Kind, dict[str, int]]:
    """
    What is meant by a name, and the parameters that the name itself gives.
    """
    if name in KINDS:
        return KINDS[name], {}
    family, _, turn = name.rpartition("/")
    if f"{family}/" == NUMBERED and turn.isascii() and turn.isdecimal() and 0 < len(turn) < 8:
        return KINDS[f"{NUMBERED}N"], {"turn": int(turn)}
    near = difflib.get_close_matches(name, KINDS, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ConfigError(f"unknown load {name!r}{hint}; loads are: {', '.join(KINDS)}")


def _own_parameters(make: Callable[..., Load]) -> dict[str, int | float | bool | str]:
    return {
        key: parameter.annotation(parameter.default)
        for key, parameter in inspect.signature(make).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _value(name: str, key: str, value: Any, default: int | float | bool | str) -> int | float | bool | str:
    """
    A given value in the type of the default.
    """
    kind = type(default)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    if isinstance(value, str):
        try:
            if kind is bool:
                return {"true": True, "false": False}[value.lower()]
            return kind(value)
        except (KeyError, ValueError):
            pass
    elif (kind is float and isinstance(value, int) and not isinstance(value, bool)) or type(value) is kind:
        return kind(value)
    raise ConfigError(f"load {name}, {key}={value!r}: expected {words}")
