"""
Options of a machine in virtual time, shared by ``run`` and ``compare``: on the command line, or as keys of a TOML file.
"""

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ConfigError

__all__ = ["KEYS", "RUN_KEYS", "add_options", "collect", "numbers", "read_config"]

# Key of a file, and of Machine: what stands for its value in --help, and the help.
KEYS = {
    "memory": ("SIZE", "memory of all nodes, such as 256GiB (default: what the workload is made for)"),
    "nodes": ("N", "NUMA nodes, which share CPUs and memory equally (default: 1)"),
    "zones": ("Z=SIZE,...", "further zones: DMA and DMA32 below node 0, Movable at the end of each node"),
    "cma": ("SIZE", "a CMA area (default: what the workload asks for)"),
    "pcp": (
        "batch=N,high=N",
        "limits of the per-CPU lists; high=min: no auto-tuning (default: as the kernel sizes them)",
    ),
    "costs": ("PROFILE", "cost model: a shipped profile, a TOML file, changes such as server-2s+line_far_ns=200"),
    "tick": ("TIME", "distance of a CPU's vmstat ticks; 0: none (default: 1s)"),
}
RUN_KEYS = {
    "duration": ("TIME", "virtual time to measure, such as 100ms (default: what the workload is made for)"),
    "sample": ("TIME", "distance of the samples of memory (default: 256 in all, or 1ms)"),
}
WHOLE = ("cpus", "nodes", "seed")


def add_options(parser: Any) -> None:
    """
    Add them to a parser or group; what is not given is None.
    """
    for key, (metavar, words) in {**KEYS, **RUN_KEYS}.items():
        parser.add_argument(f"--{key}", metavar=metavar, help=words)
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="a parameter of the workload; may be repeated"
    )


def read_config(path: str, keys: Iterable[str]) -> dict[str, Any]:
    """
    A TOML file of options. Raises ConfigError for a key that is none of ``keys``, and says which there are.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            config = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not TOML: it is no UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        unquoted = "Invalid value" in str(error) or "Expected newline" in str(error)
        hint = '; words stand in quotes: memory = "4GiB"' if unquoted else ""
        raise ConfigError(f"{path} is not TOML: {error}{hint}") from None
    known = list(keys)
    for key, value in config.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"{path}: unknown key {key!r}{hint}; keys are: {', '.join(known)}")
        if key in ("set", "zones", "pcp"):
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: {key}={value!r}: expected a table, [{key}], with one line for each")
        elif isinstance(value, dict | list):
            raise ConfigError(f"{path}: {key}: expected one value, not a table or list")
    return config


def collect(args: argparse.Namespace, keys: Iterable[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """
    The options that were given: the command line's, else the file's. Values are checked where they are used.

    Parameters of the workload are in "set".
    """
    given: dict[str, Any] = {}
    for key in keys:
        value = getattr(args, key, None)
        if key == "set":
            given[key] = {**config.get("set", {}), **_pairs("--set", value or [], _value)}
        elif value is None:
            if key in config:
                given[key] = config[key]
        elif key in ("zones", "pcp"):
            given[key] = _pairs(f"--{key}", value.split(","), str)
        else:
            given[key] = whole(value) if key in WHOLE else value
    return given


def numbers(text: str) -> list[int]:
    """
    "4,16,64" as numbers; a part that is none stays text, for the check to refuse.
    """
    return [whole(part) for part in text.split(",")]


def whole(text: str) -> Any:
    """
    The whole number that a text is; another text as it is, for the check to refuse.
    """
    return int(text) if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) else text


def _pairs(option: str, texts: Iterable[str], value_of: Any) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise ConfigError(f"{option} {text}: expected NAME=VALUE")
        if name in pairs:
            raise ConfigError(f"{option} {text}: {name} is given twice; once is enough")
        pairs[name] = value_of(value)
    return pairs


def _value(text: str) -> int | float | bool | str:
    """
    A number, true or false, or a text.
    """
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?[0-9]{0,18}\.?[0-9]{1,18}(e[+-]?[0-9]{1,2})?", text):
        return float(text)
    return text
