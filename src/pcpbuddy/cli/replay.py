"""
``pcpbuddy replay RECORDING``: the recorded requests again, every page frame compared with the kernel's.
"""

import argparse
import json
import sys
from typing import Any

from .progress import progress

EPILOG = """\
RECORDING is NAME or NAME.parquet, with NAME.snap0 beside it, and NAME.snap1 to compare the end with. A trace without a
snapshot, of any form that `pcpbuddy import` reads, can be replayed in mode handle only, from a state that is made up.
modes:
  free-run   the policy decides all that it can know; what it cannot know and the recording shows is counted
  guided     what rows show but no policy can know (a lost race, LRU bits, true order) is taken from them, and counted
  resync     as guided; where our page is another one all the same, the recorded one is taken, and counted
  handle     the requests as a load, for any policy; nothing is compared

examples:
  pcpbuddy replay recordings/tiny-4c
  pcpbuddy replay recordings/cma-cut-4c --mode guided --json - | jq '.results.exact_share, .results.taken'
  pcpbuddy replay recordings/tiny-4c --until 5000
  pcpbuddy replay recordings/tiny-4c --policy fixed
"""
INCOMPLETE = 4


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "replay",
        help="a recording again, compared with the kernel that made it page by page",
        description="Replay a recording from its first snapshot and compare every page frame, refill, drain, PCP field "
        "and the final state with what the kernel did.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recording", metavar="RECORDING", help="a recording")
    parser.add_argument(
        "--mode",
        choices=["free-run", "guided", "resync", "handle"],
        help="what is taken from the recording (default: free-run for mainline, handle for other policies)",
    )
    parser.add_argument("--policy", metavar="P", default="mainline", help="one policy (default: %(default)s)")
    parser.add_argument(
        "--proc",
        metavar="DIR",
        help="of a trace: copies of /proc/zoneinfo, pagetypeinfo and buddyinfo from just before it, to start from",
    )
    parser.add_argument("--until", metavar="N", type=int, help="stop before row N of the file and show the state there")
    parser.add_argument(
        "--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of the report"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 4 if rows of the recording are missing")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; prints only when all is done. A replay that is not exact has done its work all the same.
    """
    # Here and not above: `pcpbuddy --help` needs neither numpy nor the core.
    from ..replay import replay
    from .sources import prepare

    prepare(args.recording, quiet=args.quiet)
    with progress(None, "rows" if args.mode != "handle" else "requests", quiet=args.quiet) as told:
        done = replay(args.recording, args.mode, args.policy, until=args.until, progress=told, proc=args.proc)
    if args.json:
        json.dump(done.document(), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from ..report.replay import report

        sys.stdout.write(report(done))
    if not args.quiet:
        rate = done.nr_requests / max(done.elapsed_ns, 1) * 1e3
        print(
            f"{done.nr_requests} requests in {done.elapsed_ns / 1e9:.3f} s "
            f"({rate:.1f} M/s, reading the recording not counted)",
            file=sys.stderr,
        )
    if args.strict and not done.results.get("recording", {"complete": True})["complete"]:
        return INCOMPLETE
    return 0
