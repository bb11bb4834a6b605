"""
``pcpbuddy run WORKLOAD``: a workload on a machine of virtual CPUs, measured, as a table, as JSON, as a file.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, UsageError
from .options import KEYS, RUN_KEYS, add_options, collect, read_config
from .progress import progress

if TYPE_CHECKING:
    from ..run import Run

ALL_KEYS = ("workload", "cpus", "policy", *KEYS, "seed", *RUN_KEYS, "set")
INTERRUPTED = 130
CPUS = 4  # where neither the user nor a recording says how many
EPILOG = """\
All times are virtual: 512 CPUs run on one real one. The same options and seed give the same figures, to the last bit.
A file given with --config has the options as keys, and the workload's parameters in a table:

  workload = "exit/storm"
  cpus = 64
  memory = "16GiB"
  [set]
  name = "value"

What stands on the command line wins. Ctrl-C ends a run; what was measured until then is shown, and marked partial.

examples:
  pcpbuddy run exit/storm --cpus 64 --policy mainline
  pcpbuddy run purge/jemalloc --cpus 256 --nodes 2 --policy fixed --duration 50ms -o fixed.run
  pcpbuddy run exit/storm --config lab.toml --json - -q | jq '.results.metrics["zone_lock.wait_ns.p99"]'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "run",
        help="a workload on up to 512 virtual CPUs: lock waits, holds, memory over time",
        description="Run a workload on a machine of virtual CPUs in virtual time, and show what was measured.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workload", metavar="WORKLOAD", nargs="?", help="name of a workload, a recording, or a trace")
    parser.add_argument("--cpus", metavar="N", help="virtual CPUs, 1 to 512 (default: 4; a recording's own)")
    parser.add_argument("--policy", metavar="P", help="one policy (default: fixed)")
    add_options(parser)
    parser.add_argument(
        "--proc",
        metavar="DIR",
        help="of a trace: copies of /proc/zoneinfo, pagetypeinfo and buddyinfo from just before it, to start from",
    )
    parser.add_argument("--seed", metavar="N", help="of everything drawn by chance (default: 0)")
    parser.add_argument("--config", metavar="FILE", help="a TOML file of these options")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the run into a file, for pcpbuddy.load_run")
    parser.add_argument("--export", metavar="DIR", help="write its tables as Parquet files into a directory")
    parser.add_argument(
        "--log",
        action="store_true",
        help="keep who waited for and held which lock, for `pcpbuddy export` (a million holds)",
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing FILE or DIR")
    parser.add_argument(
        "--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of the table"
    )
    parser.add_argument("--all", action="store_true", help="also every metric by its dotted name")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; prints and writes when the run has ended, or was ended.
    """
    # Here and not above: `pcpbuddy --help` needs neither numpy nor the core.
    from ..machine import Machine, find_load
    from ..workload.load import is_load_name
    from .sources import prepare

    options = collect(args, ALL_KEYS, read_config(args.config, ALL_KEYS) if args.config else {})
    workload = options.pop("workload", None)
    if not isinstance(workload, str):
        raise ConfigError("no workload given; `pcpbuddy run exit/storm`, say")
    _refuse_existing(args)
    prepare(workload, quiet=args.quiet)
    parameters = options.pop("set")
    if args.proc is not None:
        if is_load_name(workload):
            raise ConfigError(f"--proc: {workload} is a workload and brings its own zones; leave it out")
        parameters = {**parameters, "proc": args.proc}
    timing = {key: options.pop(key) for key in RUN_KEYS if key in options}
    cpus = options.pop("cpus", None)
    machine = Machine(CPUS if cpus is None else cpus, **options)
    load = find_load(workload, machine.cpus, machine.memory_bytes, machine.nodes, parameters)
    if cpus is None and load.stream is not None:
        machine = Machine(load.cpus, **options)
    with progress(None, "ms of virtual time", quiet=args.quiet) as told:
        done = machine.run(load, log=args.log, progress=told and _in_ms(told), **timing)
    _print(done, args)
    written = _write(done, args)
    if not args.quiet:
        rate = done.metrics["machine.events"] / max(done.elapsed_ns, 1) * 1e3
        print(
            f"{done.policy}: {done.metrics['machine.events']} events in {done.elapsed_ns / 1e9:.3f} s ({rate:.2f} M/s)",
            file=sys.stderr,
        )
        for line in written:
            print(line, file=sys.stderr)
    if done.partial:
        print("pcpbuddy: interrupted; the run is partial", file=sys.stderr)
    return INTERRUPTED if done.partial else 0


def _in_ms(told: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    return lambda name, done_ns, total_ns: told(name, done_ns // 1_000_000, total_ns // 1_000_000)


def _refuse_existing(args: argparse.Namespace) -> None:
    """
    Before the work, not after it.
    """
    for option, path in (("-o", args.output), ("--export", args.export)):
        if path and not args.force and Path(path).exists():
            raise UsageError(f"{option} {path} exists; -f replaces it")
    if args.output and not Path(args.output).parent.is_dir():
        raise UsageError(f"-o {args.output}: there is no directory {Path(args.output).parent}")


def _print(done: "Run", args: argparse.Namespace) -> None:
    if args.json:
        json.dump(done.document(), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from ..report.run import report

        sys.stdout.write(report(done, everything=args.all))


def _write(done: "Run", args: argparse.Namespace) -> list[str]:
    """
    The files that were asked for; says which.
    """
    lines = []
    if args.output:
        done.save(args.output)
        lines.append(f"{args.output} written{' (partial)' if done.partial else ''}")
    if args.export:
        lines += [f"{path} written" for path in done.export(args.export)]
    return lines
