"""
``pcpbuddy claims [K-n ...]``: what was said about the proposal, measured.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import whole
from .progress import progress

if TYPE_CHECKING:
    from ..claims import Findings, Settings

INTERRUPTED = 130
MOST_SEEDS = 100
EPILOG = """\
The claims are those of docs/reference/rfc.md, section 19. For each: what it says, what was measured, with the interval
and the command that measures it again, the verdict (supported, refuted, or not decidable here), and the limits.
The same options give the same text. Ctrl-C ends it; the claims that were measured until then are shown.

examples:
  pcpbuddy claims                              all, in some minutes
  pcpbuddy claims --quick                      all, smaller, in less than two
  pcpbuddy claims K-1 K-23                     two of them
  pcpbuddy claims K-8 --seeds 10 --costs laptop
  pcpbuddy claims --json - -q | jq -r '.results[] | [.claim, .verdict] | @tsv'
  pcpbuddy claims --markdown docs/case-studies/claims.md
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "claims",
        help="what was said about the proposal, measured: supported, refuted or not decidable",
        description="Measure the claims that were made about the per-CPU pageblock buddy allocator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("claims", metavar="K-n", nargs="*", help="which claims (default: all)")
    parser.add_argument("--seeds", metavar="N", help="runs of each point, for the intervals (default: 3)")
    parser.add_argument("--costs", metavar="PROFILE", default="default", help="cost model (default: server-2s)")
    parser.add_argument("--quick", action="store_true", help="fewer CPUs and shorter runs")
    parser.add_argument(
        "--recordings", metavar="DIR", help="the project's recordings (default: ./recordings, if it is there)"
    )
    parser.add_argument(
        "--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of the text"
    )
    parser.add_argument("--markdown", metavar="FILE", help="also write the document of the case study")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; prints when all claims are measured, or when it was ended.
    """
    # Here and not above: `pcpbuddy --help` needs neither numpy nor the core.
    from ..claims import QUICK_SEEDS, SEEDS, Settings, chosen, measure
    from ..claims.claim import recordings_here
    from ..costs import costs

    chosen(args.claims)
    costs(args.costs)
    settings = Settings(
        seeds=(QUICK_SEEDS if args.quick else SEEDS) if args.seeds is None else _seeds(args.seeds),
        costs=args.costs,
        quick=args.quick,
        recordings=_recordings(args.recordings) if args.recordings else recordings_here(),
    )
    if args.markdown:
        _refuse_foreign(Path(args.markdown))
    wanted = len(chosen(args.claims))
    with progress(wanted, "so far", quiet=args.quiet) as told:
        findings = measure(args.claims, settings, progress=told and _told(told, settings))
    _print(args, findings)
    if args.markdown:
        _write(Path(args.markdown), findings, quiet=args.quiet)
    if findings.partial:
        print(
            f"pcpbuddy: interrupted; {len(findings.found)} of {len(findings.wanted)} claims were measured",
            file=sys.stderr,
        )
    return INTERRUPTED if findings.partial else 0


def _told(told: Callable[[str, int, int], None], settings: "Settings") -> Callable[[str, int, int], None]:
    """
    On a terminal a bar of claims and a count of runs; elsewhere a line a claim.
    """
    if not sys.stderr.isatty():
        return lambda name, done, total: told(name, 0, 0) if done < total else None
    before, now = [0], [0]

    def runs(_: str, done: int, total: int) -> None:
        now[0] = before[0] + done
        told("runs", now[0], 0)
        if done == total:
            before[0] = now[0]

    settings.progress = runs
    return lambda name, done, total: told("claims", done, total)


def _seeds(text: str) -> int:
    seeds = whole(text)
    if not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise UsageError(f"--seeds {text}: expected a number from 1 to {MOST_SEEDS}")
    return seeds


def _recordings(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise UsageError(f"--recordings {text}: there is no such directory")
    return path


def _refuse_foreign(path: Path) -> None:
    """
    Before the work: a file that this command did not write stays as it is.
    """
    from ..report.claims import MARK

    if path.is_dir():
        raise UsageError(f"--markdown {path}: that is a directory")
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().rstrip("\n") != MARK:
                raise UsageError(f"--markdown {path} exists and was not written by this command; give it another name")
    elif not path.parent.is_dir():
        raise UsageError(f"--markdown {path}: there is no directory {path.parent}")


def _print(args: argparse.Namespace, findings: "Findings") -> None:
    if args.json:
        json.dump(findings.document(), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from ..report.claims import report

        sys.stdout.write(report(findings))


def _write(path: Path, findings: "Findings", *, quiet: bool) -> None:
    from ..report.claims import markdown

    path.write_text(markdown(findings), encoding="utf-8")
    if not quiet:
        print(f"{path} written{' (partial)' if findings.partial else ''}", file=sys.stderr)
