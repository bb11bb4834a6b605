"""
Findings about claims as plain text, 100 columns wide, and as the Markdown document of the case study.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from ..claims import Claim, Finding, Findings, claims
from ..costs import costs
from ..run.limits import LEFT_OUT
from ..statistics import LEVEL

__all__ = ["MARK", "markdown", "overview", "report", "section"]

WIDTH = 100
TITLE = 14  # no title is broken that is shorter
INDENT = " " * 12
# A Markdown file that begins so was written by this command and may be replaced by it.
MARK = "<!-- written by `pcpbuddy claims --markdown`; edit the measurements, not this file -->"


def report(findings: Findings) -> str:
    """
    Every claim and an overview at the end, ending in a newline.
    """
    known = claims()
    parts = [section(known[found.claim], found) for found in findings.found]
    return "\n".join([*parts, overview(findings)])


def section(claim: Claim, found: Finding) -> str:
    """
    One claim: what it says, how and what was measured, the verdict, limits, how to see it again.
    """
    head = f"{claim.name}  {claim.text.rstrip('.')} [{claim.source}]"
    lines = [*textwrap.wrap(head, WIDTH, subsequent_indent=" " * 6), ""]
    lines += _entry("measured", _sentence(claim.measurement))
    lines += _entry("rule", _sentence(claim.rule))
    if claim.changed:
        lines += _entry("changed", f"After a first look: {claim.changed}")
    lines += _entry("found", _sentence(found.figure))
    lines += _entry("verdict", found.verdict.upper())
    if found.why:
        lines += _entry("limits", found.why)
    lines += ["", *_table(found.table), ""] if found.table else [""]
    lines += _commands("again", (found.command, *found.also))
    return "\n".join([*lines, "", "-" * WIDTH, ""])


def overview(findings: Findings) -> str:
    """
    A line for each claim that was measured, and which were not.
    """
    known = claims()
    lines = [f"{'claim':<7}{'verdict':<16}what it says", "-" * WIDTH]
    for found in findings.found:
        first, *rest = textwrap.wrap(known[found.claim].text.rstrip("."), WIDTH - 23)
        lines += [f"{found.claim:<7}{found.verdict:<16}{first}", *(" " * 23 + line for line in rest)]
    counts = ", ".join(f"{number} {name}" for name, number in _counts(findings.found).items())
    lines += ["", *textwrap.wrap(f"{counts or 'nothing measured'}. {_method(findings)}", WIDTH)]
    if findings.partial:
        missing = findings.wanted[len(findings.found) :]
        lines += textwrap.wrap(f"PARTIAL: stopped before {', '.join(missing)}.", WIDTH)
    return "\n".join(lines) + "\n"


def markdown(findings: Findings) -> str:
    """
    The document: the same findings give the same bytes.
    """
    known = claims()
    lines = [
        MARK,
        "",
        "# The claims, measured",
        "",
        "What was said about the per-CPU pageblock buddy allocator on the mailing list, by its authors, by reviewers "
        "and by who took it further, and what the laboratory says of it. Each claim is one of section 19 of "
        "[rfc.md](../reference/rfc.md), which has the tags of the sources and the rules. A rule was written down "
        "before its figures were looked at; where they showed that a rule or a load measured something else, it was "
        "changed, and the text says so.",
        "",
        f"{_method(findings)} {LEFT_OUT}",
        "",
        f"Made by `{findings.document()['manifest']['command']}`"
        + (" (stopped before its end)." if findings.partial else "."),
        "",
        "| claim | says | verdict |",
        "|---|---|---|",
        *(
            f"| [{found.claim}](#{found.claim.lower()}) | {_cell(known[found.claim].text).rstrip('.')} | "
            f"{found.verdict} |"
            for found in findings.found
        ),
        "",
        f"{', '.join(f'{number} {name}' for name, number in _counts(findings.found).items())}.",
    ]
    for found in findings.found:
        lines += ["", *_markdown_section(known[found.claim], found)]
    return "\n".join(lines) + "\n"


def _markdown_section(claim: Claim, found: Finding) -> Iterable[str]:
    yield f"## {claim.name}"
    yield ""
    yield f"**{claim.text.rstrip('.')}** ({claim.source}): **{found.verdict}**."
    yield ""
    yield f"- Measured: {_sentence(claim.measurement)}"
    yield f"- Supported if: {_sentence(claim.rule)}"
    if claim.changed:
        yield f"- Changed after a first look: {claim.changed}"
    yield f"- Found: {_sentence(found.figure)}"
    if found.why:
        yield f"- Limits: {found.why}"
    yield ""
    if found.table:
        heads = list(found.table[0])
        yield f"| {' | '.join(_cell(head) for head in heads)} |"
        yield "|---" * len(heads) + "|"
        for row in found.table:
            yield f"| {' | '.join(_cell(row.get(head, '')) for head in heads)} |"
        yield ""
    yield "```"
    yield from (found.command, *found.also)
    yield "```"


def _method(findings: Findings) -> str:
    """
    How the figures came about.
    """
    settings = findings.settings
    model = costs(settings.costs)
    calibrated = "calibrated on the machine that it names" if model.calibrated else "not calibrated on any machine here"
    return (
        f"Virtual time, costs {model.name} ({calibrated}); {settings.seeds} seeds, means with their {LEVEL:.0%} "
        f"intervals in brackets (Student's t){', small sizes (--quick)' if settings.quick else ''}. Supported or "
        "refuted: the whole interval is on one side of the rule's mark; not decidable: it holds the mark, or this "
        "cannot be measured here."
    )


def _counts(found: Iterable[Finding]) -> dict[str, int]:
    verdicts = [each.verdict for each in found]
    return {name: verdicts.count(name) for name in ("supported", "refuted", "not decidable") if name in verdicts}


def _sentence(text: str) -> str:
    """
    With a capital letter, unless it begins with a name such as purge/jemalloc, and a full stop.
    """
    first = text.split(maxsplit=1)[0]
    begun = text if re.search(r"[/_=A-Z]", first) else text[:1].upper() + text[1:]
    return f"{begun.rstrip('.')}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _entry(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {name:<10}", subsequent_indent=INDENT, break_on_hyphens=False)


def _commands(name: str, commands: Sequence[str]) -> list[str]:
    """
    Commands, each on a line of its own however long: they are there to be copied.
    """
    return [f"  {name if number == 0 else '':<10}{command}" for number, command in enumerate(commands)]


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """
    Rows in columns. Titles too long for their column are broken into several lines; a table too wide goes on below.
    """
    names = list(rows[0])
    widths = {name: max(_title_width(name), *(len(row.get(name, "")) for row in rows)) for name in names}
    lines: list[str] = []
    for group in _groups(names, widths):
        titles = {name: textwrap.wrap(name, widths[name], break_long_words=False) for name in group}
        height = max(len(title) for title in titles.values())
        for at in range(height):
            cells = [_at(titles[name], at, height).ljust(widths[name]) for name in group]
            lines.append(("  " + "  ".join(cells)).rstrip())
        lines += [("  " + "  ".join(row.get(name, "").ljust(widths[name]) for name in group)).rstrip() for row in rows]
        lines.append("")
    return lines[:-1]


def _title_width(name: str) -> int:
    return max(min(len(name), TITLE), max(len(word) for word in name.split()))


def _at(title: Sequence[str], line: int, height: int) -> str:
    """
    A line of a title whose last line stands on the table.
    """
    empty = height - len(title)
    return "" if line < empty else title[line - empty]


def _groups(names: Sequence[str], widths: Mapping[str, int]) -> list[list[str]]:
    """
    Columns that fit beside each other; the first ones, which say what a row is, come again in each group.
    """
    keys = [name for name in names if name in ("load", "policy", "recording")][:2] or names[:1]
    used = sum(widths[name] + 2 for name in keys)
    groups: list[list[str]] = [list(keys)]
    room = WIDTH - used
    for name in names:
        if name in keys:
            continue
        if widths[name] + 2 > room and len(groups[-1]) > len(keys):
            groups.append(list(keys))
            room = WIDTH - used
        groups[-1].append(name)
        room -= widths[name] + 2
    return groups
