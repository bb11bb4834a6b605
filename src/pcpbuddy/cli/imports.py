"""
``pcpbuddy import TRACE -o FILE.parquet``: a trace of any form as a file of rows, with what is wrong with it.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .progress import progress

if TYPE_CHECKING:
    from ..trace.importing import Imported

SCHEMA = "pcpbuddy.import/1"
INCOMPLETE = 4
EPILOG = """\
TRACE is the text of tracefs (trace, trace_pipe), of trace-cmd report or of perf script; a trace.dat of version 6 or 7;
a perf.data, where perf is installed; or a folder of raw sub-buffers (cpu0.raw or per_cpu/cpu0/trace_pipe_raw, with
header_page and format files beside them). - is standard input. gzip, zstd and xz are unpacked. The form is recognised
from the content.

The rows are those of docs/reference/traces.md, in the order of time. Lost events are counted and located; where their
number is known, the numbers of the rows (cpu_seq) skip as many. The file's metadata say what it was made from; copies
of /proc/zoneinfo, pagetypeinfo and buddyinfo in TRACE.proc (or in TRACE, a folder) travel in it, for `compare`.

exit codes: 0 done, whatever was found; 2 TRACE is no trace, or damaged; with --strict also 4: events are missing.

examples:
  pcpbuddy import trace.dat -o mine.parquet
  zcat trace.txt.gz | pcpbuddy import - --kernel 5.15 -o mine.parquet
  perf script | pcpbuddy import - -o mine.parquet
  pcpbuddy import trace.dat -o mine.parquet --strict --json - -q | jq .results.health.lost
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "import",
        help="a trace of any form as a file of rows",
        description="Read a trace, whatever wrote it, and write its rows as a Parquet file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", metavar="TRACE", help="a trace: a file, a folder of raw sub-buffers, or -")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the Parquet file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing FILE")
    parser.add_argument(
        "--kernel", metavar="RELEASE", help="the kernel that wrote a text, such as 5.15: names of flags are read by it"
    )
    parser.add_argument("--buffer", metavar="NAME", help="of a trace.dat with several buffers, read this one")
    parser.add_argument(
        "--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of the text"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 4 if events are missing")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; prints when the file is written.
    """
    # Here and not above: `pcpbuddy --help` needs neither numpy nor pyarrow.
    from ..manifest import manifest
    from ..recording.proctexts import beside
    from ..trace import open_trace
    from ..trace.importing import import_trace

    output = writable(args.output, args.trace, force=args.force)
    made_by = manifest(())
    with (
        open_trace(args.trace, kernel=args.kernel, buffer=args.buffer, digest=True) as trace,
        progress(1, "MiB", quiet=args.quiet) as told,
    ):
        texts = {} if args.trace == "-" else beside(args.trace)
        done = import_trace(trace, output, made_by, told and in_mib(told, trace.name), texts)
    if args.json:
        json.dump(document(done, made_by), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from ..report.imports import text

        sys.stdout.write(text(done))
    if not args.quiet:
        print(f"{output} written", file=sys.stderr)
    return INCOMPLETE if args.strict and done.health.incomplete else 0


def document(done: "Imported", made_by: dict[str, Any]) -> dict[str, Any]:
    """
    What was read and what is wrong with it, as one JSON document.
    """
    return {
        "schema": SCHEMA,
        "manifest": {**made_by, **done.facts},
        "results": {
            "rows": done.health.rows,
            "columns": list(done.columns),
            "events": done.events,
            "health": done.health.document(),
        },
    }


def writable(text: str, source: str, *, force: bool) -> Path:
    """
    The path, if a file can be written there; refused before the trace is read.
    """
    path = Path(text)
    if path.is_dir():
        raise UsageError(f"-o {path} is a directory; expected the name of a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"-o {path} is no ordinary file, and would be replaced by one; give another name")
    if path.exists() and not force:
        raise UsageError(f"-o {path} exists; -f replaces it")
    if path.exists() and source != "-" and Path(source).exists() and path.samefile(source):
        raise UsageError(f"-o {path} is the trace itself; give another name")
    if not path.parent.is_dir():
        raise UsageError(f"-o {path}: there is no directory {path.parent}")
    return path


def in_mib(told: Callable[[str, int, int], None], name: str) -> Callable[[int, int | None], None]:
    """
    Progress in bytes as progress in mebibytes.
    """
    return lambda done, total: told(name, done >> 20, (total or 0) >> 20)
