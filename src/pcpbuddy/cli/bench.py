"""
``pcpbuddy bench pool``: our pool and what else there is, on this machine, under the same loads.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, UsageError
from .options import numbers, whole
from .progress import progress

if TYPE_CHECKING:
    from ..poolbench import Measured, Plan

INTERRUPTED = 130
SCHEMA = "pcpbuddy.bench-pool/1"
POLICIES = "handover,tuned,fixed,mainline"
EPILOG = """\
Every allocator has a new process for each load and comes through the same table of functions; rounds go in turn, the
first is dropped. bulk: half of all pages, then back; rand: the same in random order; repeat: one page again and again
while half are held; lifo: 64 and back; churn: 8192 live, one at random replaced; xfree: one thread gets, the other
puts; xchg: each puts what the other got; xcpu: one thread plays two CPUs. Leave the machine alone meanwhile. Where an
allocator fails is a -, with the reason below, and the exit code is 1.

examples:
  pcpbuddy bench pool                                    all loads, our profiles and the mallocs of this system
  pcpbuddy bench pool --workload bulk,rand --order 0,9   two of them, single pages and whole pageblocks
  pcpbuddy bench pool --workload xfree --batch 64,512    64 and 512 pages at a time
  pcpbuddy bench pool --costs here.toml                  with the laboratory's predictions beside
  pcpbuddy bench pool --peer ./liballoc.so               one more allocator: a shared object with pa_ops
  pcpbuddy bench pool --quick --json - -q | jq -c '.results[]'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    group = commands.add_parser("bench", help="speed on this machine: bench pool")
    parser = group.add_subparsers(dest="what", metavar="WHAT", required=True).add_parser(
        "pool",
        help="the page pool against other allocators",
        description="Measure our pool, the system's mallocs and other allocators under the same loads.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workload", metavar="W1,W2,...", help="loads (default: all eight)")
    parser.add_argument("--threads", metavar="N1,N2,...", default="1,2", help="threads, each on a CPU (default: 1,2)")
    parser.add_argument("--order", metavar="O1,O2,...", default="0", help="orders (default: 0)")
    parser.add_argument("--memory", metavar="SIZE", help="of each allocator (default: 1GiB; with --quick 64MiB)")
    parser.add_argument("--policy", metavar="P1,P2,...", default=POLICIES, help="profiles (default: %(default)s)")
    parser.add_argument("--peer", metavar="FILE.so", action="append", default=[], help="one more, with pa_ops")
    parser.add_argument("--no-system", action="store_true", help="leave out the mallocs of this system")
    parser.add_argument("--rounds", metavar="N", default="7", help="after the first, which is dropped (default: 7)")
    parser.add_argument(
        "--batch",
        metavar="N1,N2,...",
        default="64",
        help="pages of lifo, xfree and xchg at a time, to 512 (default: 64)",
    )
    parser.add_argument("--quick", action="store_true", help="little memory, three rounds: does it run")
    parser.add_argument(
        "--costs",
        metavar="COSTS",
        help="also what the laboratory predicts for order 0, with this cost model: a shipped one, or this machine's "
        "own (pcpbuddy calibrate -o here.toml)",
    )
    parser.add_argument("--plot", metavar="FILE.svg", help="also draw it, as SVG")
    parser.add_argument("--json", metavar="FILE|-", help="one JSON document: into a file, or to stdout instead of text")
    parser.add_argument("-f", "--force", action="store_true", help="replace existing files")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; what cannot be measured or written is refused before anything is.

    What the user stopped is shown as far as it got, without predictions.
    """
    from ..costs import costs
    from ..poolbench import measure, predictions

    plan = _plan(args)
    model = costs(args.costs) if args.costs else None
    for option, name in (("--plot", args.plot), ("--json", args.json if args.json != "-" else None)):
        if name is not None:
            _need_writable(option, Path(name), force=args.force)
    with progress(1, "points", quiet=args.quiet) as told:
        measured = measure(plan, told)
    if model is not None and not measured.partial:
        measured = dataclasses.replace(measured, results=tuple(predictions(measured.results, model, plan.frames)))
    if measured.results:
        _give(args, plan, measured)
    if measured.partial:
        print(f"pcpbuddy: interrupted; {measured.points} of {len(plan.points)} points were done", file=sys.stderr)
        return INTERRUPTED
    return 1 if measured.failed else 0


def _plan(args: argparse.Namespace) -> "Plan":
    from ..poolbench import LOADS, Plan, empty, object_file, on_this_system, our
    from ..zone import parse_size

    peers = [our(name.strip()) for name in args.policy.split(",") if name.strip()]
    peers += [] if args.no_system else on_this_system()
    peers += [object_file(path) for path in args.peer]
    rounds = whole(args.rounds)
    if not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f"--rounds {args.rounds}: expected 1 or more")
    return Plan.of(
        args.workload.split(",") if args.workload else LOADS,
        numbers(args.threads),
        numbers(args.order),
        [*peers, empty()],
        memory=parse_size(args.memory or ("64MiB" if args.quick else "1GiB")),
        rounds=3 if args.quick else rounds,
        batches=numbers(args.batch),
        pairs=100_000 if args.quick else 1_000_000,
    )


def _need_writable(option: str, path: Path, *, force: bool) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{option} {path}: expected a file in a directory that exists")
    if path.exists() and not force:
        raise UsageError(f"{option} {path} exists; -f replaces it")


def _give(args: argparse.Namespace, plan: "Plan", measured: "Measured") -> None:
    from ..config import PROFILES
    from ..manifest import manifest
    from ..poolbench import rows
    from ..report.poolbench import chart, table

    ours = [PROFILES[peer.what] for peer in plan.peers if peer.kind == "our"]
    batches = numbers(args.batch)
    facts = {"costs": args.costs, "memory_pages": plan.frames, "rounds": plan.rounds, "batches": batches}
    document = {
        "schema": SCHEMA,
        "manifest": manifest(ours, **facts),
        "partial": measured.partial,
        "results": rows(measured.results),
    }
    text = json.dumps(document, indent=1) + "\n"
    stopped = (measured.points, len(plan.points)) if measured.partial else None
    sys.stdout.write(text if args.json == "-" else table(measured.results, stopped=stopped))
    written = [(args.plot, chart(measured.results)), (args.json if args.json != "-" else None, text)]
    for name, content in written:
        if name is not None:
            Path(name).write_text(content, encoding="utf-8")
            if not args.quiet:
                print(f"{name} written{' (partial)' if measured.partial else ''}", file=sys.stderr)
