"""
Policies as plain ASCII text: what there is to choose from, and several policies side by side.
"""

import textwrap
from collections.abc import Sequence

from ..config import LARGEST, NEEDS, PROFILES, SWITCHES, Policy, Switch

__all__ = ["overview", "side_by_side"]

WIDTH = 100
NAME_WIDTH = 18  # what stands left of the text
VALUE_WIDTH = 13  # the least width of a policy's column
LONGEST_NAME = 18  # a longer one stands in a legend, and a number over the column
SAME = "="

WRITTEN = (
    ("fixed", "a profile"),
    ("fixed+merge=free+remote_bound=512", "a profile with other values of some switches"),
    ("mine.toml", "a TOML file: every table in it is a policy"),
    ("mine.toml:eager", 'its table [eager]; below it: profile = "llist", merge = "free"'),
)


def overview() -> str:
    """
    Profiles, switches and what is refused, ending in a newline.
    """
    fixed = PROFILES["fixed"].switches()
    lines = ["Profiles, and where each differs from fixed:", ""]
    for which in PROFILES.values():
        changes = (f"{name}={value}" for name, value in which.switches().items() if value != fixed[name])
        lines += _entry(which.name, which.meaning, "  ".join(changes))
    lines += ["", "Switches; the first value is that of fixed. docs/reference/switches.md says what each does.", ""]
    for switch in SWITCHES:
        lines += _entry(switch.name, f"{switch.meaning} ({switch.rule})", _values(switch))
    lines += ["", "Some values need others; a policy that lacks them is refused:", ""]
    for need in NEEDS:
        lines += _wrap(str(need), "  ", "    ")
    lines += ["", "How a policy is written:", ""]
    lines += [f"  {text:36}{meaning}" for text, meaning in WRITTEN]
    return "\n".join(lines) + "\n"


def side_by_side(policies: Sequence[Policy]) -> str:
    """
    All switches of the policies, those of the first in full, of the others where they differ; ends in a newline.
    """
    first, *others = policies
    numbered = any(len(which.name) > LONGEST_NAME for which in policies)
    titles = [f"[{number}]" if numbered else which.name for number, which in enumerate(policies, 1)]
    lines = [f"{title} {which.name}" for title, which in zip(titles, policies, strict=True)] if numbered else []
    if numbered:
        lines.append("")
    width = max(VALUE_WIDTH, *(len(title) + 2 for title in titles))
    fits = (WIDTH - NAME_WIDTH - 2) // width - 1  # beside the first, which every block of columns begins with
    blocks = [others[at : at + fits] for at in range(0, len(others), fits)] or [[]]
    for number, block in enumerate(blocks):
        shown = titles[1 + number * fits :][: len(block)]
        lines += [] if number == 0 else [""]
        lines.append((" " * (NAME_WIDTH + 2) + "".join(title.ljust(width) for title in [titles[0], *shown])).rstrip())
        for name, value in first.switches().items():
            row = [str(value)]
            row += [SAME if getattr(which, name) == value else str(getattr(which, name)) for which in block]
            lines.append((f"  {name:{NAME_WIDTH}}" + "".join(text.ljust(width) for text in row)).rstrip())
    if others:
        lines += ["", f"{SAME} as {titles[0]}"]
    return "\n".join(lines) + "\n"


def _values(switch: Switch) -> str:
    """
    The values as they are written; of a switch that counts, the default and which numbers will do.
    """
    if not switch.counts:
        return ", ".join(map(str, switch.values))
    *named, least = switch.values
    numbers = f"{least} to {switch.most}" if switch.most < LARGEST else f"{least} up"
    return f"{', '.join(map(str, named))}, or any number from {numbers}"


def _entry(name: str, text: str, below: str) -> list[str]:
    """
    A name, its meaning, and a second line below the meaning if there is one.
    """
    left = f"  {name:{NAME_WIDTH}}"
    lines = _wrap(text, left, " " * len(left))
    return lines + _wrap(below, " " * (len(left) + 2), " " * (len(left) + 2))


def _wrap(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
