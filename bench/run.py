#!/usr/bin/env python3
"""
All speed figures of the project in one table, each beside its reference and its goal.

    python bench/run.py [--quick] [--only replay,kernel,machine,calls,large-zone,instructions,traces,pool] [--json FILE]

What each line means, and how noisy it is: bench/README.md.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import calls
import facts
import instructions
import kernel
import large_zone
import machine
import pool
import replay
import traces
from measure import Figure, Spread

PARTS = ("replay", "kernel", "machine", "calls", "large-zone", "instructions", "traces", "pool")
SCHEMA = "pcpbuddy.bench/1"
NOISY = 1.5  # greatest over least of the deciding figure


def measure(parts: list[str], folder: Path, quick: bool) -> Iterator[Figure]:
    """
    The figures of the chosen parts, as they come.
    """
    if "replay" in parts:
        yield from replay.figures(folder, quick=quick, rounds=3 if quick else 7)
    if "kernel" in parts:
        yield from kernel.figures(folder, quick=quick, rounds=3 if quick else 7)
    if "machine" in parts:
        yield from machine.figures(quick=quick, rounds=3 if quick else 7)
    if "calls" in parts:
        yield from calls.figures(folder, quick=quick, rounds=5 if quick else 21)
    if "large-zone" in parts:
        yield from large_zone.figures(rounds=3 if quick else 9)
    if "instructions" in parts:
        yield from instructions.figures(folder)
    if "traces" in parts:
        yield from traces.figures(folder, rounds=3 if quick else 7)
    if "pool" in parts:
        yield from pool.figures(folder, quick=quick, rounds=3 if quick else 7)


def number(value: float) -> str:
    """
    Three digits that matter.
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def spread(value: Spread | None) -> str:
    """
    Median and, where there was more than one round, least and greatest.
    """
    if value is None:
        return ""
    if value.rounds == 1:
        return number(value.median)
    return f"{number(value.median)} [{number(value.least)}..{number(value.greatest)}]"


def verdict(figure: Figure) -> str:
    """
    Met, or missed and by how much.
    """
    if figure.met is None:
        return ""
    if figure.met:
        return "met"
    away = abs(figure.decides.median / figure.goal - 1)
    return f"MISSED by {100 * away:.{0 if away >= 0.02 else 1}f} %"


def line(figure: Figure) -> str:
    """
    One line of the table.
    """
    goal = "" if figure.goal is None else f"{'>=' if figure.at_least else '<='} {number(figure.goal)}"
    sure = figure.decides.least > 0 and figure.decides.greatest / figure.decides.least > NOISY
    remarks = [*(["noisy"] if figure.goal is not None and sure else []), *([figure.note] if figure.note else [])]
    cells = (spread(figure.value) + " " + figure.unit, spread(figure.reference), spread(figure.ratio), goal)
    return f"  {figure.name:<32} {cells[0]:<32} {cells[1]:<22} {cells[2]:<24} {cells[3]:<8} {verdict(figure)}" + (
        f"  ({'; '.join(remarks)})" if remarks else ""
    )


def main() -> int:
    """
    Measure, print, and write the document that was asked for.
    """
    parser = argparse.ArgumentParser(description="Speed figures of pcpbuddy beside their references.")
    parser.add_argument("--quick", action="store_true", help="shorter loads, fewer rounds: does it run, not how fast")
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated parts: {', '.join(PARTS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything to FILE")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; parts are: {', '.join(PARTS)}")

    manifest = facts.facts()
    for name, value in manifest.items():
        print(f"{name + ':':<16} {value}")
    print("\nmedian [least..greatest] of the rounds; ratios are taken round by round")
    head = ("", "measured", "reference", "ratio", "goal", "")
    print(f"  {head[0]:<32} {head[1]:<32} {head[2]:<22} {head[3]:<24} {head[4]:<8} {head[5]}".rstrip())
    figures = []
    group = None
    with tempfile.TemporaryDirectory(prefix="pcpbuddy-bench-") as folder:
        for figure in measure(parts, Path(folder), arguments.quick):
            if figure.group != group:
                group = figure.group
                print(group)
            print(line(figure).rstrip(), flush=True)
            figures.append(figure)
    missed = [figure for figure in figures if figure.met is False]
    judged = [figure for figure in figures if figure.met is not None]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} goals met")
    if arguments.json:
        results = [figure.document() for figure in figures]
        document = {"schema": SCHEMA, "manifest": {**manifest, "quick": arguments.quick}, "results": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
