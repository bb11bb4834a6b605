"""
``pcpbuddy costs [COSTS ...]``: the cost models there are, some side by side, or one with its sources; text or JSON.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from ..costs import MEANINGS, Costs, costs, profiles

SCHEMA = "pcpbuddy.costs/1"
EPILOG = """\
A file can give some numbers and take all others from a profile:
  profile = "laptop"
  line_near_ns = 31
  zero_ns = {value = 120, how = "measured", source = "perf bench mem memset, here"}

examples:
  pcpbuddy costs
  pcpbuddy costs server-2s
  pcpbuddy costs server-2s mine.toml
  pcpbuddy costs mine.toml --json - | jq '.results.costs[0].numbers.lock_ns'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "costs",
        help="the cost models of the laboratory, and where each number comes from",
        description="Show the cost models there are, all numbers of some side by side, or one with every source.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "costs", metavar="COSTS", nargs="*", help="a shipped profile, a TOML file, or either with changes"
    )
    parser.add_argument("--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command.
    """
    chosen = [costs(which) for which in args.costs]
    if args.json:
        print_document(chosen or profiles().values())
        return 0
    from ..report.costs import overview, side_by_side, with_sources

    if not chosen:
        sys.stdout.write(overview(list(profiles().values())))
    elif len(chosen) == 1:
        sys.stdout.write(with_sources(chosen[0]))
    else:
        sys.stdout.write(side_by_side(chosen))
    return 0


def print_document(models: Iterable[Costs]) -> None:
    """
    The models, and what each number is for, as one JSON document on stdout.
    """
    from ..manifest import manifest

    document = {
        "schema": SCHEMA,
        "manifest": manifest([]),
        "results": {"costs": [_model(which) for which in models], "meanings": MEANINGS},
    }
    json.dump(document, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _model(which: Costs) -> dict[str, Any]:
    numbers = {
        field: {"value": value, **(source._asdict() if (source := which.sources.get(field)) else {})}
        for field, value in which.numbers().items()
    }
    return {
        "name": which.name,
        "meaning": which.meaning,
        "calibrated": which.calibrated,
        "machine": dict(which.machine),
        "numbers": numbers,
    }
