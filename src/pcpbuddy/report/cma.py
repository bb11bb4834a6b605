"""
The share of CMA under several policies: as text of 100 columns, as 72 columns for a mail, as a chart.
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence

from .. import __version__
from ..cma import NR_PHASES, POINTS, ROUNDS, Setting, Study, Trial
from ..names import PAGEBLOCK_PAGES
from ..quantities import size_text
from .chart import Line, Panel, charts

Figure = Callable[[Trial], float]

__all__ = ["MAIL_WIDTH", "WIDTH", "answer", "chart", "mail", "report"]

WIDTH, MAIL_WIDTH = 100, 72
TITLE, RULE, COLUMN = 29, 9, 12
MAIL_TITLE, MAIL_COLUMN = 18, 9
FIT = 5  # policies side by side
SHOWN = 8  # of the 32 points, unless all are asked for
NEAR = 0.05  # K-19: this near to mainline is near enough
PHASES = ("own fragments", "whole blocks", "larger chunks", "as mainline")
BASE = "mainline"
RULE_NAME = "50% rule"
MISSING = "-"


def report(study: Study, *, everything: bool = False) -> str:
    """
    The text, ending in a newline. everything: all 32 points.
    """
    lines = _partial(study, WIDTH)
    for share in study.setting.shares:
        if _any(study, share):
            for group in _groups(study):
                lines += [*_wrap(_scene(study, share)), "", *_shares(study, share, group, everything), ""]
                lines += [
                    *_rounds(study, share, group),
                    *_phases(study, share, group),
                    "",
                    *_rows(study, share, group),
                    "",
                ]
    for sentence in answer(study):
        lines += _wrap(sentence)
    lines += ["", *_wrap(_limits(study)), *_command("Again: ", study.setting.command(), WIDTH)]
    return "\n".join(lines) + "\n"


def mail(study: Study, commit: str | None = None) -> str:
    """
    The same in short, 72 columns of ASCII, ending in a newline. commit: of the source tree, None if nobody knows.
    """
    setting = study.setting
    built = f"pcpbuddy {__version__}" + (f", commit {commit[:12]}" if commit else "")
    lines = [*_command("$ ", setting.command() + " --style lkml", MAIL_WIDTH), ""]
    lines += _partial(study, MAIL_WIDTH)
    lines += _wrap(f"{built}: a user-space reimplementation of the allocator, not a kernel.", MAIL_WIDTH)
    lines += _wrap(f"{_config(setting)} {_before(setting)}; then single movable pages, CPUs in turn.", MAIL_WIDTH)
    for share in setting.shares:
        if _any(study, share):
            for group in _groups(study):
                lines += ["", *_wrap(_scene(study, share), MAIL_WIDTH), "", *_mail_table(study, share, group)]
    lines += ["", *_wrap(_mail_notes(study), MAIL_WIDTH), ""]
    for sentence in answer(study):
        lines += _wrap(sentence, MAIL_WIDTH)
    return "\n".join(lines) + "\n"


def chart(study: Study) -> str:
    """
    The shares as SVG: for each share of CMA one plot of all pages so far and one of those since the last point.
    """
    setting = study.setting
    rows = []
    for share in setting.shares:
        if not _any(study, share):
            continue
        ks = range(1, len(study.pages_at))
        at = [study.pages_at[k] / setting.counted for k in ks]
        rule = _starts(study, share)
        left = [Line(RULE_NAME, list(zip(at, [_mean(rule, _rule_so_far(k)) for k in ks], strict=True)))]
        right = [Line(RULE_NAME, list(zip(at, [_mean(rule, _rule_lately(k)) for k in ks], strict=True)))]
        for policy in _names(study):
            trials = study.of(policy, share)
            if trials:
                left.append(_line(policy, at, [[_so_far(k)(trial) for trial in trials] for k in ks]))
                right.append(Line(policy, list(zip(at, [_mean(trials, _lately(k)) for k in ks], strict=True))))
        words = f"movable pages taken, of {setting.counted}"
        cma = f"{100 * share:g} % CMA: share of CMA"
        rows.append([Panel(f"{cma}, all pages so far", words, left), Panel("the same, last 1/32 only", words, right)])
    seeds = (
        f"{len(setting.drawn)} drawings: means, and their range at the left" if len(setting.drawn) > 1 else "one run"
    )
    captions = [f"{_config(setting)}", f"{_before(setting)}; {seeds}."]
    wrapped = [line for caption in captions for line in textwrap.wrap(caption, 104)]
    return charts("Share of CMA among movable allocations", wrapped, rows, RULE_NAME)


def answer(study: Study) -> list[str]:
    """
    Three sentences: what the percentages are, how far from mainline that is, and what it leads to.
    """
    shares = [share for share in study.setting.shares if _any(study, share)]
    names = [name for name in _names(study) if any(study.of(name, share) for share in shares)]
    if not names:
        return ["Nothing was measured."]
    share = max(
        shares, key=lambda each: max(abs(_worst(study, name, each)[0]) for name in names if study.of(name, each))
    )
    k = max(POINTS // 4 * (len(study.pages_at) - 1) // POINTS, 1)
    figures = ", ".join(
        f"{name} {_percent(_mean(study.of(name, share), _so_far(k)))}" for name in names if study.of(name, share)
    )
    rule = _mean(_starts(study, share), _rule_so_far(k))
    zone = {"used": "used before", "churned": "used by processes before", "fresh": "never used before"}[
        study.setting.before
    ]
    first = (
        f"In a zone with {100 * share:g}% CMA, {zone}, the 50% rule gives {_percent(rule)} of the first "
        f"{study.pages_at[k]} movable pages from CMA: {figures}."
    )
    worst = {
        name: max(
            (_worst(study, name, each) for each in shares if study.of(name, each)), key=lambda found: abs(found[0])
        )
        for name in names
    }
    base = BASE if BASE in names else f"the {RULE_NAME}"
    near = [name for name in names if name != BASE and abs(worst[name][0]) <= NEAR]
    far = [f"{name} ({100 * worst[name][0]:+.1f})" for name in names if abs(worst[name][0]) > NEAR]
    second = (
        f"Within {100 * NEAR:g} percentage points of {base} at every point: {_list(near)}; further away (at worst): "
        f"{_list(far)}."
    )
    return [first, second, _consequence(study, names, shares)]


def _consequence(study: Study, names: Sequence[str], shares: Sequence[float]) -> str:
    """
    Blocks that stay on lists, and unmovable requests that fail, over all shares.
    """

    def total(name: str, value: Figure) -> float:
        return sum(_mean(trials, value) for trials in (study.of(name, share) for share in shares) if trials)

    left = [f"{name} {_count(pages)}" for name in names if (pages := total(name, lambda trial: trial.left))]
    zones = f", all {len(shares)} zones together" if len(shares) > 1 else ""
    state = f"after {study.setting.pages} pages" if study.setting.pages else "that phase 0 never recovered"
    words = f"CMA blocks on lists of owned blocks {state}{zones}: {_list(left)}"
    if not study.setting.unmovable_every:
        return f"{words}."
    refused = [
        f"{name} {_count(pages)}"
        for name in names
        if (pages := total(name, lambda trial: trial.mixed.failed_cma_free if trial.mixed else 0))
    ]
    return (
        f"{words}; unmovable requests (one in {study.setting.unmovable_every}) that failed while CMA lay free: "
        f"{_list(refused)}."
    )


# Tables


def _shares(study: Study, share: float, group: Sequence[str], everything: bool) -> list[str]:
    taken, starts = study.pages_at, _starts(study, share)
    heads = [RULE_NAME, *_titles(group)]
    lines = [*_legend(group), "CMA share of the movable pages", _row("  so far", heads)]
    shown = _shown(len(taken), everything)

    def line(k: int, rule: Figure, share_of: Figure) -> str:
        cells = [_mean(starts, rule), *(_mean(study.of(name, share), share_of) for name in group)]
        words = f"  {taken[k]:>9} taken, {100 * taken[k] / study.setting.counted:5.1f}%"
        return _row(words, [_percent(cell) for cell in cells])

    lines += [line(k, _rule_so_far(k), _so_far(k)) for k in shown]
    lines.append(_row("  since the line above", heads))
    lines += [
        line(k, _rule_lately(k, k - before), _lately(k, k - before))
        for before, k in zip([0, *shown], shown, strict=False)
    ]
    lines.append(
        _row("furthest from the rule", ["", *(_points(_furthest(study, name, share, None)[0]) for name in group)])
    )
    if _has_base(study, share):
        worst = [_worst(study, name, share) for name in group]
        lines.append(_row(f"furthest from {BASE}", ["", *(_points(found[0]) for found in worst)]))
        lines.append(
            _row(
                "  at so many pages",
                ["", *(MISSING if math.isnan(found[0]) else str(taken[found[1]]) for found in worst)],
            )
        )
    return lines


def _rounds(study: Study, share: float, group: Sequence[str]) -> list[str]:
    """
    What share the processes of a churned zone took before, round by round.
    """
    nr = max(len(trial.rounds) for trial in study.trials)
    if not nr:
        return []
    lines = [_row("before: processes, by round", ["", *_titles(group)])]
    for k in range(nr):
        figures = [_mean(study.of(name, share), _in_round(k)) for name in group]
        lines.append(_row(f"  {k + 1}", ["", *map(_percent, figures)]))
    return [*lines, ""]


def _phases(study: Study, share: float, group: Sequence[str]) -> list[str]:
    lines = [
        f"{'pages that refills took, by phase':<41}{'while the rule said CMA':>27}{'while it said movable':>27}",
        f"{'':<41}{'CMA':>14}{'movable':>13}{'CMA':>14}{'movable':>13}",
    ]
    for name in group:
        trials = study.of(name, share)
        for phase in range(NR_PHASES):
            figures = [_mean(trials, _refilled(phase, rule, cma)) for rule in (True, False) for cma in (True, False)]
            if any(figures):
                texts = [_count(figure) for figure in figures]
                left = f"  {_cut(name, 18):<18} {phase} {PHASES[phase]}"
                lines.append(f"{left:<41}{texts[0]:>14}{texts[1]:>13}{texts[2]:>14}{texts[3]:>13}")
    return lines


def _rows(study: Study, share: float, group: Sequence[str]) -> list[str]:
    """
    What is one figure a policy.
    """
    setting = study.setting
    many = setting.unmovable_every
    rows: list[tuple[str, Figure | None, Callable[[float], str]]] = [
        ("CMA, of free at the start", lambda trial: trial.points[0].free_cma / trial.points[0].free, _percent),
        ("taken against the rule", _against, _percent),
        ("owned CMA blocks", None, _count),
        ("  on lists at the start", lambda trial: trial.listed, _count),
        (
            "  still there at the end" if setting.pages else "  never recovered by phase 0",
            lambda trial: trial.left,
            _count,
        ),
        ("  pages phase 0 recovered", lambda trial: sum(rule[1] for rule in trial.by_phase[0]), _count),
        ("half of free is CMA (P-80)", None, _count),
        ("  reached, pages taken", _balanced_at, _count),
        ("  then off by at most, pages", lambda trial: _after(trial, trial.steps.swing), _count),
        ("  longest run of one kind", lambda trial: _after(trial, trial.steps.longest_run), _count),
        ("  whole blocks taken", _whole_blocks, _count),
    ]
    if many:
        rows += [
            (f"1 request in {many} unmovable", None, _count),
            ("  unmovable requests", lambda trial: _mixed(trial, "requests"), _count),
            ("  found nothing at first", lambda trial: _mixed(trial, "slow"), _count),
            ("    while CMA lay free", lambda trial: _mixed(trial, "slow_cma_free"), _count),
            ("  nor after drain_all_pages", lambda trial: _mixed(trial, "failed"), _count),
            ("    while CMA lay free", lambda trial: _mixed(trial, "failed_cma_free"), _count),
            ("    CMA free at the first", lambda trial: _known(_mixed(trial, "cma_free_at_failure")), _count),
            ("  movable blocks converted", lambda trial: _mixed(trial, "converted"), _count),
            ("    while CMA lay free", lambda trial: _mixed(trial, "converted_cma_free"), _count),
        ]
    lines = [_row("", ["", *_titles(group)])]
    for words, value, text in rows:
        cells = ["", *(text(_mean(study.of(name, share), value)) if value else "" for name in group)]
        lines.append(_row(words, cells))
    return lines


def _mail_table(study: Study, share: float, group: Sequence[str]) -> list[str]:
    taken, starts = study.pages_at, _starts(study, share)

    def row(words: str, cells: Iterable[str]) -> str:
        return (f"{words:<{MAIL_TITLE}}" + "".join(f"{cell:>{MAIL_COLUMN}}" for cell in cells)).rstrip()

    def figures(value: Figure, text: Callable[[float], str] = _count) -> list[str]:
        return ["", *(text(_mean(study.of(name, share), value)) for name in group)]

    titles = [name if len(name) < MAIL_COLUMN else f"[{k}]" for k, name in enumerate(group, 1)]
    lines = [f"[{k}] {name}" for k, name in enumerate(group, 1) if len(name) >= MAIL_COLUMN]
    lines.append(row("pages taken", ["rule", *titles]))
    for k in _shown(len(taken), False):
        cells = [_mean(starts, _rule_so_far(k)), *(_mean(study.of(name, share), _so_far(k)) for name in group)]
        lines.append(row(f"{taken[k]:>8}", map(_percent, cells)))
    if _has_base(study, share):
        lines.append(row(f"vs {BASE}, pt", ["", *(_points(_worst(study, name, share)[0]) for name in group)]))
    lines.append(row("against the rule", figures(_against, _percent)))
    lines.append(row("CMA blocks left", figures(lambda trial: trial.left)))
    if study.setting.unmovable_every:
        lines.append(row("unmovable asked", figures(lambda trial: _mixed(trial, "requests"))))
        lines.append(row("  slow path", figures(lambda trial: _mixed(trial, "slow"))))
        lines.append(row("    CMA free then", figures(lambda trial: _mixed(trial, "slow_cma_free"))))
        lines.append(row("  failed", figures(lambda trial: _mixed(trial, "failed"))))
        lines.append(row("    CMA free then", figures(lambda trial: _mixed(trial, "failed_cma_free"))))
    return lines


def _mail_notes(study: Study) -> str:
    setting = study.setting
    left = f"after {setting.pages} pages" if setting.pages else "that phase 0 never recovered"
    notes = ["Percentages: CMA among the movable pages so far; rule: the 50% rule asked for each page"]
    if BASE in _names(study):
        notes.append(f"vs {BASE}: the largest difference, of {len(study.pages_at) - 1} points")
    notes.append("against the rule: of the pages that refills took, those of the other kind than it said")
    notes.append(f"blocks left: on owned lists, {left}")
    if setting.unmovable_every:
        notes.append(f"unmovable: a second pass, one request in {setting.unmovable_every}")
        notes.append("slow path: it found nothing; failed: nor after drain_all_pages")
    return f"{'; '.join(notes)}. No watermark is tested, nothing is reclaimed."


# Words about the setting


def _scene(study: Study, share: float) -> str:
    setting = study.setting
    first = next(trial.points[0] for trial in study.trials if trial.share == share)
    return (
        f"{setting.cma_blocks(share)} of {setting.total // PAGEBLOCK_PAGES} pageblocks are CMA ({100 * share:g}%), "
        f"{_percent(first.free_cma / first.free)} of the {first.free} pages that are free."
    )


def _config(setting: Setting) -> str:
    cpus = f"{setting.cpus} CPU{'s' if setting.cpus > 1 else ''}"
    zone = setting.zone(setting.policies[0], setting.shares[0]).summary()
    high_min, high_max, batch = zone["pageset"]
    drawn = f"; seeds {_seeds(setting.drawn)}" if setting.before != "fresh" else ""
    return f"Zone of {size_text(setting.size_bytes)}, {cpus}, batch {batch}, high {high_min} to {high_max}{drawn}."


def _before(setting: Setting) -> str:
    if setting.before == "fresh":
        return "Nothing of the zone was used before"
    if setting.before == "churned":
        return (
            f"Before: {ROUNDS} rounds of processes, one on each CPU, with {setting.held} pages each: all taken, half "
            "freed at random, taken again, freed but for one in 8, which the next CPU frees a round later; PCPs drained"
        )
    freed = f"{setting.free_pages} of {setting.total} freed at random by CPUs in turn"
    return f"Before: all pages taken, {freed}, PCPs drained"


def _limits(study: Study) -> str:
    setting = study.setting
    drawn = f"means of {len(setting.drawn)} seeds" if len(setting.drawn) > 1 else "one run"
    drawn = "means of the trials that were done" if study.partial else drawn
    if setting.before == "churned":
        last = "Each policy has left other pages free, so the rule gives other shares under each; shown: of the first."
    else:
        last = "Once all free pages are taken every policy has taken the same."
    return (
        f"{_config(setting)} {_before(setting)}; then single movable pages, CPUs in turn; {drawn}. {RULE_NAME}: asked "
        "for each page, without PCPs. Differences are in percentage points, the largest of all points. Counters are "
        f"exact, no watermark is tested, nothing is reclaimed or compacted. {last}"
    )


def _partial(study: Study, width: int) -> list[str]:
    if not study.partial:
        return []
    setting = study.setting
    wanted = len(setting.shares) * len(setting.drawn) * len(setting.policies)
    return [*_wrap(f"PARTIAL: stopped when {len(study.trials)} of {wanted} trials were done.", width), ""]


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


# Figures of trials


def _so_far(k: int) -> Figure:
    """
    The share of CMA at point k; of the pages so far.
    """
    return lambda trial: trial.points[k].cma / trial.points[k].taken


def _lately(k: int, points: int = 1) -> Figure:
    """
    The same of the pages since so many points.
    """

    def share(trial: Trial) -> float:
        now, before = trial.points[k], trial.points[k - points]
        return (now.cma - before.cma) / (now.taken - before.taken)

    return share


def _rule_so_far(k: int) -> Figure:
    return lambda trial: trial.points[k].rule / trial.points[k].taken


def _rule_lately(k: int, points: int = 1) -> Figure:
    def share(trial: Trial) -> float:
        now, before = trial.points[k], trial.points[k - points]
        return (now.rule - before.rule) / (now.taken - before.taken)

    return share


def _in_round(k: int) -> Figure:
    return lambda trial: trial.rounds[k][1] / trial.rounds[k][0]


def _refilled(phase: int, rule: bool, cma: bool) -> Figure:
    return lambda trial: trial.refilled(phase, rule_cma=rule, cma=cma)


def _against(trial: Trial) -> float:
    refilled = sum(sum(map(sum, phase)) for phase in trial.by_phase)
    return sum(trial.against(phase) for phase in range(NR_PHASES)) / max(refilled, 1)


def _whole_blocks(trial: Trial) -> float:
    return sum(map(sum, trial.by_phase[1])) / PAGEBLOCK_PAGES


def _balanced_at(trial: Trial) -> float:
    return _known(trial.steps.balanced_at)


def _after(trial: Trial, value: float) -> float:
    return value if trial.steps.balanced_at >= 0 else math.nan


def _mixed(trial: Trial, name: str) -> float:
    return float(getattr(trial.mixed, name)) if trial.mixed else math.nan


def _known(value: float) -> float:
    return value if value >= 0 else math.nan


def _mean(trials: Sequence[Trial], value: Figure) -> float:
    """
    Over the seeds that have it; NaN if none has.
    """
    values = [found for found in map(value, trials) if not math.isnan(found)]
    return math.fsum(values) / len(values) if values else math.nan


def _furthest(study: Study, name: str, share: float, base: str | None) -> tuple[float, int]:
    """
    The largest difference of the share so far from another policy's, or from the rule, and the point that has it.

    Policies are held against each other seed by seed, and the means of the differences compared. NaN: no trial.
    """
    others = {trial.seed: trial for trial in study.of(base, share)} if base else {}
    pairs = [(trial, others.get(trial.seed)) for trial in study.of(name, share) if not base or trial.seed in others]
    worst = (0.0 if pairs else math.nan, 1)
    for k in range(1, len(study.pages_at)) if pairs else ():
        mine, rule = _so_far(k), _rule_so_far(k)
        differences = [mine(trial) - (mine(other) if other else rule(trial)) for trial, other in pairs]
        worst = max(worst, (math.fsum(differences) / len(pairs), k), key=lambda found: abs(found[0]))
    return worst


def _worst(study: Study, name: str, share: float) -> tuple[float, int]:
    return _furthest(study, name, share, BASE if _has_base(study, share) else None)


def _has_base(study: Study, share: float) -> bool:
    return bool(study.of(BASE, share))


def _any(study: Study, share: float) -> bool:
    return any(trial.share == share for trial in study.trials)


def _starts(study: Study, share: float) -> list[Trial]:
    """
    The first policy's trial of each seed. What the rule gives is the same for all, but in a churned zone, where each
    policy has left other pages free.
    """
    found: dict[int, Trial] = {}
    for trial in study.trials:
        if trial.share == share:
            found.setdefault(trial.seed, trial)
    return list(found.values())


def _names(study: Study) -> list[str]:
    return [which.name for which in study.setting.policies]


def _groups(study: Study) -> list[list[str]]:
    names = _names(study)
    return [names[at : at + FIT] for at in range(0, len(names), FIT)]


def _shown(nr: int, everything: bool) -> list[int]:
    """
    Which points a table has: all but the first, or eight of them.
    """
    step = 1 if everything or nr <= SHOWN else (nr - 1) // SHOWN
    return list(range(step, nr, step))


def _line(name: str, at: Sequence[float], values: Sequence[Sequence[float]]) -> Line:
    means = [math.fsum(each) / len(each) for each in values]
    points = list(zip(at, means, strict=True))
    if len(values[0]) < 2:
        return Line(name, points)
    return Line(name, points, [min(each) for each in values], [max(each) for each in values])


# How figures are written


def _percent(share: float) -> str:
    return MISSING if math.isnan(share) else f"{100 * share:.1f}%"


def _points(difference: float) -> str:
    return MISSING if math.isnan(difference) else f"{100 * difference:+.1f}"


def _count(value: float) -> str:
    if math.isnan(value):
        return MISSING
    return f"{value:.0f}" if float(value).is_integer() or value >= 100 else f"{value:.1f}"


def _titles(group: Sequence[str]) -> list[str]:
    return [name if len(name) < COLUMN else f"[{k}]" for k, name in enumerate(group, 1)]


def _legend(group: Sequence[str]) -> list[str]:
    return [f"[{k}] {name}" for k, name in enumerate(group, 1) if len(name) >= COLUMN]


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 2]}.."


def _row(words: str, cells: Sequence[str]) -> str:
    first, *others = cells
    return (f"{words:<{TITLE}}{first:>{RULE}}" + "".join(f"{cell:>{COLUMN}}" for cell in others)).rstrip()


def _list(words: Sequence[str]) -> str:
    return ", ".join(words) if words else "none"


def _wrap(text: str, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _command(before: str, text: str, width: int) -> list[str]:
    """
    A command line in several lines that a shell takes as one.
    """
    # An option stays in one line with its value.
    kept = re.sub(r"(--\w+) ", "\\1\0", before + text)
    lines = textwrap.wrap(kept, width - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    lines = [line.replace("\0", " ") for line in lines]
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
