"""
Cost models as plain text: what there is, several side by side, or one with where each number comes from.
"""

import textwrap
from collections.abc import Sequence

from ..costs import FIELDS, HOW, MEANINGS, PROFILES, Costs

__all__ = ["overview", "side_by_side", "with_sources"]

WIDTH = 100
NAME_WIDTH = 22  # what stands left of the numbers
VALUE_WIDTH = 11
LONGEST_NAME = 14  # a longer one stands in a legend, and a number over the column
FIT = 5  # columns

WRITTEN = (
    ("server-2s", "a shipped profile; default is server-2s too"),
    ("server-2s+line_far_ns=200", "a profile with other numbers"),
    ("mine.toml", "a TOML file, as pcpbuddy calibrate -o writes one"),
    ("mine.toml+zero_ns=0", "such a file with other numbers"),
)


def overview(shipped: Sequence[Costs]) -> str:
    """
    Shipped profiles, their numbers side by side, and what each is for; ends in a newline.
    """
    lines = ["Cost models: what takes virtual time in the laboratory.", ""]
    for which in shipped:
        lines += _entry(which.name, which.meaning)
    lines += ["", side_by_side(shipped), "What is charged (docs/reference/costs.md says when):", ""]
    for field, meaning in MEANINGS.items():
        lines += _entry(field, meaning)
    lines += ["", "How a cost model is written:", ""]
    lines += [f"  {text:29}{meaning}" for text, meaning in WRITTEN]
    lines += ["", f"Where a number comes from: pcpbuddy costs {PROFILES[0]}"]
    return "\n".join(lines) + "\n"


def side_by_side(models: Sequence[Costs]) -> str:
    """
    All numbers of the models; ends in a newline.
    """
    numbered = any(len(which.name) > LONGEST_NAME for which in models) or len(models) > FIT
    titles = [f"[{number}]" if numbered else which.name for number, which in enumerate(models, 1)]
    lines = [f"{title} {which.name}" for title, which in zip(titles, models, strict=True)] if numbered else []
    width = max(VALUE_WIDTH, *(len(title) + 2 for title in titles))
    most = (WIDTH - NAME_WIDTH - 2) // width
    for at in range(0, len(models), most):
        lines += [""] if lines else []
        shown = range(at, min(at + most, len(models)))
        lines.append(" " * (NAME_WIDTH + 2) + "".join(titles[k].rjust(width) for k in shown))
        for field in FIELDS:
            row = "".join(f"{getattr(models[k], field):g}".rjust(width) for k in shown)
            lines.append(f"  {field:{NAME_WIDTH}}{row}")
    return "\n".join(lines) + "\n"


def with_sources(which: Costs, beside: Costs | None = None) -> str:
    """
    Every number with where it comes from, and the one of another model beside it; ends in a newline.
    """
    about = [which.meaning] if which.meaning else []
    about.append("calibrated" if which.calibrated else "not calibrated")
    about += [f"{key} {value}" for key, value in which.machine.items() if value != ""]
    lines = _wrap(f"{which.name}: {'; '.join(about)}", "", "  ")
    counts = {how: sum(source.how == how for source in which.sources.values()) for how in HOW}
    lines += _wrap(", ".join(f"{count} numbers {how}" for how, count in counts.items() if count), "", "  ")
    head = " " * (NAME_WIDTH + 2) + "value".rjust(VALUE_WIDTH)
    if beside is not None:
        head += beside.name[: VALUE_WIDTH - 1].rjust(VALUE_WIDTH)
    lines += ["", head]
    for field, value in which.numbers().items():
        left = f"  {field:{NAME_WIDTH}}{value:>{VALUE_WIDTH}g}"
        if beside is not None:
            left += f"{getattr(beside, field):>{VALUE_WIDTH}g}"
        source = which.sources.get(field)
        text = f"{source.how}: {source.text}" if source is not None else ""
        lines += _wrap(text, left + "  ", " " * (len(left) + 2)) or [left]
    return "\n".join(lines) + "\n"


def _entry(name: str, text: str) -> list[str]:
    left = f"  {name:{NAME_WIDTH}}"
    return _wrap(text, left, " " * len(left)) or [left.rstrip()]


def _wrap(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
