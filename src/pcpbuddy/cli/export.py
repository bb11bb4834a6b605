"""
``pcpbuddy export SOURCE -o FILE``: rows of a trace, or a run, for other programs: Perfetto, CSV, Parquet, kernel text.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TraceError, UsageError
from .imports import in_mib, writable
from .progress import progress

if TYPE_CHECKING:
    from ..trace.export import Exported

INCOMPLETE = 4
STDIO = "-"
# Format -> the endings of a name that mean it, the usual one first.
FORMATS = {
    "perfetto": (".pftrace", ".perfetto-trace"),
    "text": (".txt", ".trace"),
    "csv": (".csv",),
    "parquet": (".parquet",),
}
EPILOG = """\
SOURCE is what `pcpbuddy import` reads (a trace of any form, a pipe as -, a folder), a Parquet file that it made, a
recording, or a run that `pcpbuddy run -o` saved. The format follows from the ending of FILE: .pftrace or
.perfetto-trace, .txt or .trace, .csv, .parquet; --format says it where the name does not.

perfetto   for https://ui.perfetto.dev: a track a CPU with the events of a trace, waits for locks as slices, counters;
           of a run waits and holds of locks with an arrow from holder to waiter (`run --log` keeps them), and its
           memory over time
text       the kernel's own, as tracefs prints it; `pcpbuddy import` reads the same rows from it
csv        a line a row; of a run its metrics, or another of its tables with --table
parquet    the rows as columns; of a run as csv

exit codes: 0 done; 2 SOURCE cannot be read or FILE cannot be written; with --strict also 4: events are missing.

examples:
  pcpbuddy export trace.dat -o trace.pftrace
  pcpbuddy run exit/storm --cpus 16 --policy mainline --log -o storm.run
  pcpbuddy export storm.run -o storm.pftrace
  pcpbuddy export recordings/tiny-4c -o tiny.csv
  pcpbuddy export mine.parquet --format text -o - | grep mm_page_alloc_extfrag
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "export",
        help="a trace, a recording or a run for Perfetto, as CSV, Parquet or kernel text",
        description="Write a trace, a recording or a saved run in a form that other programs read.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="a trace, a file of rows, a recording or a saved run")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file to write; - is standard output")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing FILE")
    parser.add_argument("--format", choices=list(FORMATS), help="the format, whatever FILE's name is")
    parser.add_argument(
        "--table",
        metavar="NAME",
        help="of a run as csv or parquet: metrics (default), samples, cpus, histograms, locks",
    )
    parser.add_argument(
        "--kernel", metavar="RELEASE", help="the kernel that wrote a text, such as 5.15: names of flags are read by it"
    )
    parser.add_argument("--buffer", metavar="NAME", help="of a trace.dat with several buffers, read this one")
    parser.add_argument("--strict", action="store_true", help="exit with 4 if events are missing")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr, and no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; says on stderr what was written.
    """
    form = _format(args)
    source = _located(args.source)
    if args.output != STDIO:
        writable(args.output, source, force=args.force)
    kind = _kind(source)
    if args.table and kind != "run":
        raise UsageError(f"--table {args.table}: {args.source} is no run, and has one table; leave --table out")
    if kind == "run":
        return _of_run(args, form, source)
    return _of_rows(args, form, source, stored=kind == "rows")


def _of_rows(args: argparse.Namespace, form: str, source: str, *, stored: bool) -> int:
    # Here and not above: `pcpbuddy --help` needs neither numpy nor pyarrow.
    from ..trace import open_trace
    from ..trace.stored import StoredRows

    if stored:
        if args.buffer is not None:
            raise UsageError(f"--buffer {args.buffer}: {args.source} holds rows of one buffer; leave --buffer out")
        rows = StoredRows(Path(source))
        with progress(1, "rows", quiet=args.quiet or not sys.stderr.isatty()) as told:
            done = _write(args, form, rows, told and _in_rows(told, rows.name))
        incomplete = _said_incomplete(rows.facts)
    else:
        with (
            open_trace(source, kernel=args.kernel, buffer=args.buffer, digest=form == "parquet") as trace,
            progress(1, "MiB", quiet=args.quiet) as told,
        ):
            done = _write(args, form, trace, told and in_mib(told, trace.name))
            incomplete = trace.health().incomplete
    _tell(args, f"{args.output} written: {done.rows} rows", done.notes)
    if incomplete and not args.quiet:
        print(f"Incomplete: {incomplete}.", file=sys.stderr)
    return INCOMPLETE if args.strict and incomplete else 0


def _write(args: argparse.Namespace, form: str, source: Any, told: Any) -> "Exported":
    from ..manifest import manifest
    from ..trace import export, perfetto

    if form == "parquet":
        if args.output == STDIO:
            raise UsageError("-o -: a parquet file is not written to standard output; give a name")
        return export.export_parquet(source, Path(args.output), manifest(()), told)
    with export.written(args.output) as output:
        if form == "text":
            return export.export_text(source, output, args.kernel, told)
        if form == "perfetto":
            return perfetto.export_rows(source, output, told)
        return export.export_csv(source, output, told)


def _of_run(args: argparse.Namespace, form: str, source: str) -> int:
    """
    A saved run: its slices and counters, or one of its tables.
    """
    from ..run import load_run
    from ..run.perfetto import export
    from ..run.tables import write
    from ..trace.export import written

    for option, value in (("--kernel", args.kernel), ("--buffer", args.buffer)):
        if value is not None:
            raise UsageError(f"{option} {value}: {args.source} is a run, not a trace; leave {option} out")
    if form == "text":
        raise UsageError(f"{args.source} is a run, which has no events of a kernel; expected csv, parquet or perfetto")
    if form == "perfetto" and args.table:
        raise UsageError(f"--table {args.table}: only csv and parquet have tables; leave --table out")
    done = load_run(source)
    with written(args.output) as output:
        if form == "perfetto":
            slices, notes = export(done, output)
            said = (
                f"{slices} waits and holds of locks, {len(done.samples) // max(len(done.zones), 1)} samples of memory"
            )
        else:
            name = args.table or "metrics"
            notes, said = (), f"{write(done, name, form, output)} rows of table {name}"
    _tell(args, f"{args.output} written: {said}", notes)
    if done.partial and not args.quiet:
        print("Incomplete: the run was interrupted.", file=sys.stderr)
    return INCOMPLETE if args.strict and done.partial else 0


def _in_rows(told: Callable[[str, int, int], None], name: str) -> Callable[[int, int | None], None]:
    return lambda done, total: told(name, done, total or 0)


def _tell(args: argparse.Namespace, line: str, notes: tuple[str, ...]) -> None:
    if not args.quiet and args.output != STDIO:
        print("\n".join([line, *notes]), file=sys.stderr)


def _said_incomplete(facts: dict[str, Any]) -> str | None:
    """
    Why events are missing, as the import of a file of rows found it.
    """
    health = facts.get("health")
    said = health.get("incomplete") if isinstance(health, dict) else None
    return said if isinstance(said, str) else None


def _format(args: argparse.Namespace) -> str:
    if args.format:
        return str(args.format)
    for form, endings in FORMATS.items():
        if args.output.endswith(endings):
            return form
    known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
    raise UsageError(f"-o {args.output}: its ending says no format; expected one of {known}, or --format")


def _located(source: str) -> str:
    """
    The path of SOURCE; a recording may be named without its ending.
    """
    path = Path(source)
    if source != STDIO and not path.exists() and path.name and path.with_name(f"{path.name}.parquet").is_file():
        return f"{source}.parquet"
    return source


def _kind(source: str) -> str:
    """
    What SOURCE is, from its first bytes: "rows", "run" or "trace".
    """
    path = Path(source)
    if source == STDIO or not path.is_file():  # a pipe is a trace, and is read once
        return "trace"
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise TraceError(f"{source} cannot be read: {error.strerror}") from None
    return {b"PAR1": "rows", b"PK\x03\x04": "run"}.get(head, "trace")
