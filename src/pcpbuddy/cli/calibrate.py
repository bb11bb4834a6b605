"""
``pcpbuddy calibrate [-o FILE.toml]``: this machine measured as a cost model, as a table, as JSON, as a file.
"""

import argparse
import dataclasses
import datetime
import sys
from pathlib import Path
from typing import Any

from ..costs import DEFAULT, costs, toml
from ..errors import UsageError
from .progress import progress

EPILOG = """\
It takes some seconds, on a busy machine a minute or more, and two CPUs. Leave the machine alone meanwhile: each number
is the median of short bursts, but a number marked noisy is not to be believed; run it again.

The numbers are those of this package's allocator on this machine. What only a kernel can measure, and other nodes where
there is one, is taken from a shipped profile; the table and the file say so for each number.

examples:
  pcpbuddy calibrate                                    measure and show
  pcpbuddy calibrate -o here.toml                       and write a profile
  pcpbuddy run exit/storm --cpus 64 --costs here.toml   use it
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "calibrate",
        help="measure this machine as a cost model of the laboratory",
        description="Measure what locks, cache lines, lists, page descriptors, faults and wake-ups take on this "
        "machine, and write it as a cost model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", metavar="FILE.toml", help="write the profile into a file")
    parser.add_argument("-f", "--force", action="store_true", help="replace an existing FILE")
    parser.add_argument(
        "--profile",
        metavar="COSTS",
        default=DEFAULT,
        help="where numbers come from that cannot be measured here (default: %(default)s)",
    )
    parser.add_argument("--rounds", metavar="N", type=int, help="of which each number is the median (default: 21)")
    parser.add_argument("--quick", action="store_true", help="three rounds with small memories: does it run")
    parser.add_argument("--date", action="store_true", help="write the day into the profile")
    parser.add_argument(
        "--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of the table"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; what cannot be written is refused before anything is measured.
    """
    base = costs(args.profile)
    output = _writable(args.output, force=args.force) if args.output else None
    # Here and not above: `pcpbuddy --help` needs no compiled part.
    from ..costs.calibration import ROUNDS, calibrate

    rounds = args.rounds if args.rounds is not None else 3 if args.quick else ROUNDS
    with progress(1, "rounds", quiet=args.quiet) as told:
        made = calibrate(profile=base, rounds=rounds, quick=args.quick, progress=told)
    if args.date:
        made = dataclasses.replace(made, machine={**made.machine, "date": datetime.date.today().isoformat()})
    if output is not None:
        # The name that the file will have for whoever reads it.
        made = dataclasses.replace(made, name=output.name)
        _write(output, toml(made))
    if args.json:
        from .costs import print_document

        print_document([made])
    else:
        from ..report.costs import with_sources

        sys.stdout.write(with_sources(made, base))
    if output is not None and not args.quiet:
        print(f"written: {output}", file=sys.stderr)
    return 0


def _writable(text: str, *, force: bool) -> Path:
    """
    The path, if a profile can be written there.
    """
    path = Path(text)
    if path.suffix != ".toml":
        raise UsageError(f"{path}: the file of a cost model ends in .toml")
    if path.is_dir():
        raise UsageError(f"{path} is a directory; expected the name of a file")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; --force replaces it")
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no directory {path.parent}")
    return path


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
