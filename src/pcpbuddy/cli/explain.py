"""
``pcpbuddy explain FILE --pfn N``: the life of one page in a recording, as text or as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

SCHEMA = "pcpbuddy.explain/1"
EPILOG = """\
FILE is a recording (NAME or NAME.parquet) or a trace of any form that `pcpbuddy import` reads. NAME.snap0 and
NAME.snap1 beside it are used where they are there: the first says where the page was before, the second whether the
followed life ends where it should.

examples:
  pcpbuddy explain recordings/tiny-4c.parquet --pfn 18566
  pcpbuddy explain recordings/mixed-cut-4c --pfn 0x12818
  pcpbuddy explain recordings/tiny-4c --pfn 18566 --json - | jq '.results.summary'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "explain",
        help="the life of one page in a recording",
        description="Tell what happened to one page in a recording: taken, allocated, freed, drained, merged.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="a recording or a trace")
    parser.add_argument("--pfn", metavar="N", required=True, help="the page frame number, decimal or 0x...")
    parser.add_argument("--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of text")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command.
    """
    pfn = page_number(args.pfn)
    from ..recording import locate, origin
    from ..recording.life import explain
    from .sources import prepare

    prepare(args.file, quiet=args.quiet)
    begun = time.perf_counter()
    path = locate(args.file)
    life = explain(path, pfn)
    from_trace = origin(path)
    notes = from_trace.notes if from_trace else []
    if args.json:
        json.dump(document(life, notes), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from ..report.life import text

        sys.stdout.write(text(life))
        for note in notes:
            sys.stdout.write(f"{note[:1].upper()}{note[1:]}.\n")
    if not args.quiet:
        print(f"{life.name}: {life.nr_rows} rows read in {time.perf_counter() - begun:.1f} s", file=sys.stderr)
    return 0


def page_number(text: str) -> int:
    """
    A page frame number as it is typed. Raises UsageError.
    """
    from ..errors import UsageError

    try:
        return int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        raise UsageError(
            f"--pfn {text!r} is no page frame number; give one in decimal or with 0x, such as 18566 or 0x4886"
        ) from None


def document(life: Any, notes: Sequence[str] = ()) -> dict[str, Any]:
    """
    The life as one JSON document. notes: what the trace lacks that it was read from.
    """
    from ..manifest import manifest

    noted = {"notes": list(notes)} if notes else {}
    return {
        "schema": SCHEMA,
        "manifest": manifest((), source=life.name, source_sha256=life.digest, rows=life.nr_rows, **noted),
        "results": life.document(),
    }
