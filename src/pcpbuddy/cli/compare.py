"""
``pcpbuddy compare SOURCE --policy P1,P2,...``: one load under several policies, as a table or as JSON.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..config import parse_policies
from ..errors import ConfigError
from .options import KEYS, RUN_KEYS, add_options, collect, numbers, read_config, whole
from .progress import progress

if TYPE_CHECKING:
    from ..comparison import Comparison
    from ..sweeps import Sweep

INTERRUPTED = 130
OPTIONS = (*KEYS, *RUN_KEYS, "seeds", "set")
EPILOG = """\
SOURCE is a recording (NAME or NAME.parquet, with NAME.snap0 beside it), a trace of any form that `pcpbuddy import`
reads (trace.dat, text, perf, raw; packed; the folder of `pcpbuddy record`), or a workload: shape/S1 .. shape/S6, or one
of virtual CPUs, such as exit/storm. A policy is a profile, a profile with changes such as fixed+gate=never+phase2=off,
a TOML file of policies (mine.toml) or one of them (mine.toml:NAME). `pcpbuddy policies` shows all there are.

Recordings and shapes are replayed request by request, without time. With --cpus or --machine, and for workloads of
virtual CPUs always, every policy gets a machine in virtual time for each number of CPUs and each seed; a recording then
runs in closed loop on its own number of CPUs. A change is shown where the interval of the difference, seed by seed,
does not contain 0; else the table says that no difference was found.

A trace has no snapshot to start from. With --proc DIR, or where the texts came with the trace (record), the state is
made up of copies of /proc/zoneinfo, pagetypeinfo and buddyinfo; else it is inferred from the trace alone. The table
says which.

examples:
  pcpbuddy compare shape/S1 --policy mainline,fixed
  pcpbuddy compare recordings/tiny-4c.parquet --policy mainline,posted,fixed --all
  pcpbuddy compare trace.dat --policy mainline,fixed --proc before/
  pcpbuddy compare exit/storm --policy mainline,fixed --cpus 4,16,64 --seeds 5
  pcpbuddy compare purge/jemalloc --policy mainline,fixed,llist --cpus 4,64,256 --metric zone_lock.wait_ns.share
  pcpbuddy compare recordings/tiny-4c --json - | jq '.results[].metrics["zone_lock.holds"]'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "compare",
        help="one recording or workload under several policies, side by side",
        description="Run one recording or workload under several policies and show them side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="a recording, a trace, or the name of a workload")
    parser.add_argument(
        "--policy",
        metavar="P1,P2,...",
        default="mainline,fixed",
        help="policies; the first is what the others are compared with (default: %(default)s)",
    )
    parser.add_argument(
        "--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of the table"
    )
    parser.add_argument(
        "--proc",
        metavar="DIR",
        help="of a trace: copies of /proc/zoneinfo, pagetypeinfo and buddyinfo from just before it, to start from",
    )
    parser.add_argument("--all", action="store_true", help="also metrics that are zero everywhere, and all detail")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    timed = parser.add_argument_group("in virtual time")
    timed.add_argument("--cpus", metavar="N1,N2,...", help="numbers of virtual CPUs, 1 to 512 (default: 16)")
    timed.add_argument("--machine", action="store_true", help="virtual time, also for a recording")
    timed.add_argument("--seeds", metavar="N", help="how many seeds, or the seeds themselves: 1,2,3 (default: 5)")
    timed.add_argument("--metric", metavar="M1,M2,...", help="these metrics, a line for each number of CPUs")
    add_options(timed)
    timed.add_argument("--config", metavar="FILE", help="a TOML file of these options: cpus, seeds, memory ..")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; prints only when all runs are done, or were ended.
    """
    # Here and not above: `pcpbuddy --help` needs neither numpy nor the core.
    from ..comparison import in_virtual_time
    from .sources import prepare

    prepare(args.source, quiet=args.quiet)
    config = read_config(args.config, ("cpus", *OPTIONS)) if args.config else {}
    options = collect(args, OPTIONS, config)
    if args.cpus is None and "cpus" not in config and not args.machine and not in_virtual_time(args.source):
        given = {**options, "metric": args.metric, "set": options["set"] or None}
        for key in (key for key, value in given.items() if value is not None):
            raise ConfigError(f"--{key}: only runs in virtual time have it; add --cpus N or --machine")
        return _without_time(args)
    cpus = config.get("cpus") if args.cpus is None else numbers(args.cpus)
    return _in_virtual_time(args, cpus, options)


def _without_time(args: argparse.Namespace) -> int:
    from ..comparison import compare

    policies = parse_policies(args.policy)
    with progress(len(policies), "requests", quiet=args.quiet) as told:
        comparison = compare(args.source, policies, progress=told, proc=args.proc)
    _print(args, comparison)
    if not args.quiet:
        for done in comparison.runs:
            rate = comparison.nr_requests / max(done.elapsed_ns, 1) * 1e3
            print(
                f"{done.policy.name}: {comparison.nr_requests} requests in {done.elapsed_ns / 1e9:.3f} s "
                f"({rate:.1f} M/s, reading the source not counted)",
                file=sys.stderr,
            )
    return 0


def _in_virtual_time(args: argparse.Namespace, cpus: Any, options: dict[str, Any]) -> int:
    """
    The sweep. What the user stopped is shown as far as it got.
    """
    from ..comparison import compare
    from ..sweeps import metric_names

    metrics = args.metric.split(",") if args.metric else []
    _refuse_unknown(metrics, metric_names() if metrics else ())
    policies = parse_policies(args.policy)
    seeds = options.pop("seeds", None)
    if seeds is not None:
        options["seeds"] = (numbers(seeds) if "," in seeds else whole(seeds)) if isinstance(seeds, str) else seeds
    parameters = options.pop("set")
    with progress(None, "runs", quiet=args.quiet) as told:
        swept = compare(
            args.source,
            policies,
            cpus=cpus,
            parameters=parameters,
            progress=told and _as_one(told),
            proc=args.proc,
            **options,
        )
    if swept.runs:
        _print(args, swept, metrics)
    if not args.quiet and swept.runs:
        events = sum(run.metrics["machine.events"] for run in swept.runs.values())
        seconds = sum(run.elapsed_ns for run in swept.runs.values()) / 1e9
        print(f"{len(swept.runs)} runs, {events} events in {seconds:.1f} s of all threads", file=sys.stderr)
    if swept.partial:
        print(f"pcpbuddy: interrupted; {len(swept.runs)} runs were done", file=sys.stderr)
    return INTERRUPTED if swept.partial else 0


def _as_one(told: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """
    All runs on one bar.
    """
    return lambda _, done, total: told("virtual time", done, total)


def _refuse_unknown(metrics: Iterable[str], known: Iterable[str]) -> None:
    names = list(known)
    for metric in metrics:
        if metric not in names and not metric.startswith("zones."):
            near = difflib.get_close_matches(metric, names, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "docs/reference/replay.md, section 3, has all"
            raise ConfigError(f"--metric {metric}: there is none of that name; {hint}")


def _print(args: argparse.Namespace, comparison: "Comparison | Sweep", metrics: Iterable[str] = ()) -> None:
    from ..comparison import Comparison

    if args.json:
        json.dump(comparison.document(), sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif isinstance(comparison, Comparison):
        from ..report.table import table

        sys.stdout.write(table(comparison, everything=args.all))
    else:
        from ..report.sweep import table as sweep_table

        sys.stdout.write(sweep_table(comparison, list(metrics), everything=args.all))
