"""
``pcpbuddy doctor FILE``: what a recording can and cannot answer, as text or as JSON.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecordingError
from .progress import progress

if TYPE_CHECKING:
    from ..recording.health import Health

SCHEMA = "pcpbuddy.doctor/1"
INCOMPLETE = 4
SUFFIX = ".parquet"
EPILOG = """\
FILE is NAME or NAME.parquet; NAME.snap0 and NAME.snap1 are looked at where they lie beside it. Or it is a trace of any
form that `pcpbuddy import` reads.

exit codes: 0 done, whatever was found; 2 FILE is not a recording; with --strict also 4: the recording is
incomplete (the second line of the text says why: lost, repeated, impossible or displaced rows, a snapshot that is
missing or cannot be used, time going back within a CPU).

examples:
  pcpbuddy doctor recordings/tiny-4c
  pcpbuddy doctor mine.parquet --strict -q > /dev/null || echo "record it again"
  pcpbuddy doctor recordings/cma-cut-4c --json - | jq -r '.results.modes[] | "\\(.question): \\(.answer) \\(.why)"'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "doctor",
        help="what a recording can and cannot answer, and which replay modes it supports",
        description="Examine a recording: what is in it, what is missing or damaged, and what follows from that.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", metavar="FILE", help="a recording or a trace, whole or damaged, with or without snapshots"
    )
    parser.add_argument(
        "--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of the text"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 4 if the recording is incomplete")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; prints only when all rows are read.
    """
    # Here and not above: `pcpbuddy --help` needs neither numpy nor pyarrow.
    from ..recording.health import examine
    from ..recording.verdicts import incomplete

    path = _locate(args.file, quiet=args.quiet)
    with progress(1, "rows", quiet=args.quiet or not sys.stderr.isatty()) as told:
        health = examine(path, progress=functools.partial(told, path.name) if told else None)
    if args.json:
        json.dump(document(health, path), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from ..report.doctor import text

        sys.stdout.write(text(health))
    return INCOMPLETE if args.strict and incomplete(health) else 0


def document(health: "Health", path: Path) -> dict[str, Any]:
    """
    All findings and verdicts as one JSON document: the same files give the same bytes.
    """
    from ..manifest import manifest
    from ..recording.verdicts import incomplete, items, modes, questions

    results = dataclasses.asdict(health)
    results["incomplete"] = incomplete(health)
    for name, told in (("items", items(health)), ("modes", modes(health)), ("questions", questions(health))):
        results[name] = [dataclasses.asdict(one) for one in told]
    return {
        "schema": SCHEMA,
        "manifest": manifest((), source=health.name, source_sha256=_digest(path, health)),
        "results": results,
    }


def _digest(path: Path, health: "Health") -> str:
    """
    SHA-256 over rows and snapshot 0, as `compare` gives it.
    """
    digest = hashlib.sha256()
    parts = [path]
    if health.snapshots[0].there:
        parts += [path.with_name(f"{health.name}.snap0{ending}") for ending in (".json.zst", ".npz")]
    for part in parts:
        if part.is_file():
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _locate(source: str, *, quiet: bool) -> Path:
    """
    The parquet file that FILE names, with or without its ending; of a trace, a temporary one.
    """
    from ..recording import locate
    from .sources import prepare

    path = Path(source)
    if source == "-" or (path.name and (path.exists() or path.with_name(path.name + SUFFIX).exists())):
        prepare(source, quiet=quiet)
        return locate(source)
    raise RecordingError(f"there is no file {source} and no {source}{SUFFIX}; give the NAME.parquet of a recording")
