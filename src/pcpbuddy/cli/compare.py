"""
``pcpbuddy compare SOURCE --policy P1,P2,...``: one load under several policies, as a table or as JSON.
"""

import argparse
import json
import sys
from typing import Any

from ..config import parse_policies
from .progress import progress

EPILOG = """\
SOURCE is a recording (NAME or NAME.parquet, with NAME.snap0 beside it) or a workload: shape/S1 .. shape/S6.
A policy is a profile, a profile with changes such as fixed+gate=never+phase2=off, a TOML file of policies
(mine.toml) or one of them (mine.toml:NAME). `pcpbuddy policies` shows all profiles and switches.

examples:
  pcpbuddy compare shape/S1 --policy mainline,fixed
  pcpbuddy compare recordings/tiny-4c.parquet --policy mainline,posted,fixed --all
  pcpbuddy compare recordings/tiny-4c --json - | jq '.results[].metrics["zone_lock.holds"]'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "compare",
        help="one recording or workload under several policies, side by side",
        description="Replay one recording or workload under several policies and show them side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="a recording, or the name of a workload")
    parser.add_argument(
        "--policy",
        metavar="P1,P2,...",
        default="mainline,fixed",
        help="policies; the first is what the others are compared with (default: %(default)s)",
    )
    parser.add_argument(
        "--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of the table"
    )
    parser.add_argument("--all", action="store_true", help="also metrics that are zero everywhere, and all detail")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; prints only when all runs are done.
    """
    # Here and not above: `pcpbuddy --help` needs neither numpy nor the core.
    from ..comparison import compare

    policies = parse_policies(args.policy)
    with progress(len(policies), "requests", quiet=args.quiet) as told:
        comparison = compare(args.source, policies, progress=told)
    if args.json:
        json.dump(comparison.document(), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from ..report.table import table

        sys.stdout.write(table(comparison, everything=args.all))
    if not args.quiet:
        for done in comparison.runs:
            rate = comparison.nr_requests / max(done.elapsed_ns, 1) * 1e3
            print(
                f"{done.policy.name}: {comparison.nr_requests} requests in {done.elapsed_ns / 1e9:.3f} s "
                f"({rate:.1f} M/s, reading the source not counted)",
                file=sys.stderr,
            )
    return 0
