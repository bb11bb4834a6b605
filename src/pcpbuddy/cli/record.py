"""
``pcpbuddy record``: what the page allocator of this machine does, recorded through tracefs.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import UsageError

INTERRUPTED = 128  # and the number of the signal
FOR, FOR_LONG = "10s", "3600s"
EPILOG = """\
Records in an instance of tracefs of its own, bounded in time and size, and leaves tracefs as it was, also when it is
killed: a watcher process removes the instance then; what is left behind all the same goes at the next start, or with
--clean. The folder holds the raw events of each CPU with their formats, /proc/zoneinfo, pagetypeinfo and buddyinfo
before and after, and recorder.json; doctor, compare, explain, run and import take it as it is. Needs root.

With --flight the buffers keep the last events, and nothing is read until the end: use it with --until.

exit codes: 0 recorded; 2 it cannot be; 128 + N: ended by signal N, what was recorded until then is kept.

examples:
  sudo pcpbuddy record --for 10s --compare mainline,fixed
  sudo pcpbuddy record -o build -- make -j8
  sudo pcpbuddy record --flight --until 'latency 20' -o stall
  pcpbuddy record --for 10s --print > record.sh          # for a machine where nothing may be installed
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "record",
        help="this machine's page allocator, through tracefs",
        description="Record what the page allocator of this machine does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--for",
        dest="duration",
        metavar="TIME",
        help=f"how long at most (default: {FOR}; with a command, --flight or --until {FOR_LONG})",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="where it goes (default: pcpbuddy-DATE-TIME)")
    parser.add_argument(
        "--max-size", metavar="SIZE", default="1GiB", help="of all files together (default: %(default)s)"
    )
    parser.add_argument("--buffer", metavar="SIZE", help="ring buffer of each CPU (default: by the memory there is)")
    parser.add_argument(
        "--flight", action="store_true", help="keep the last events only; nothing is read until the end"
    )
    parser.add_argument(
        "--until",
        metavar="WHAT",
        help="end when: 'latency MS' (taking pages takes longer), 'command CMD' (it ends), 'signal USR1'",
    )
    parser.add_argument("--compare", metavar="P1,P2,...", help="compare these policies on it afterwards")
    parser.add_argument("--print", dest="script", action="store_true", help="print a POSIX shell script that does it")
    parser.add_argument("--clean", action="store_true", help="remove what killed recorders have left behind, and end")
    parser.add_argument("--json", metavar="-", choices=["-"], help="print recorder.json to stdout instead of text")
    parser.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr but errors")
    # Not "command", which says which command of pcpbuddy it is.
    parser.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run meanwhile, behind --")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command.
    """
    from ..config import parse_policies
    from ..quantities import parse_ns
    from ..record import Options, clean, parse_until, record, sentences
    from ..record.script import script
    from ..zone import parse_size

    words = tuple(args.words[1:] if args.words[:1] == ["--"] else args.words)
    long = bool(words or args.flight or args.until)
    seconds = parse_ns(args.duration or (FOR_LONG if long else FOR), "--for") / 1e9
    if not seconds:
        raise UsageError(f"--for {args.duration}: expected more than no time")
    most_bytes, buffer_bytes = parse_size(args.max_size), parse_size(args.buffer) if args.buffer else None
    if most_bytes < 1 << 20 or (buffer_bytes is not None and not 1 << 14 <= buffer_bytes <= 1 << 36):
        raise UsageError("--max-size is 1MiB at least, --buffer 16KiB at least and 64GiB at most")
    until = parse_until(args.until) if args.until else None
    if args.script:
        if until is not None or args.compare or args.clean:
            raise UsageError("--print goes with --for, --buffer and --flight only; give the script its command")
        sys.stdout.write(script(seconds, buffer_bytes or 8 << 20, flight=args.flight))
        return 0
    if args.clean:
        gone = clean()
        print(f"removed: {', '.join(gone)}" if gone else "nothing was left behind")
        return 0
    if args.compare:
        parse_policies(args.compare)
    folder = Path(args.output or time.strftime("pcpbuddy-%Y%m%d-%H%M%S"))
    options = Options(folder, seconds, most_bytes, args.flight, until, buffer_bytes, words)

    def say(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr)

    done = record(options, say)
    if args.json:
        json.dump(done.facts, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in sentences(done.facts)))
    say(f"{folder} written")
    if done.signal:
        return INTERRUPTED + done.signal
    if args.compare:
        from .main import main

        sys.stdout.flush()
        return main(["compare", str(folder), "--policy", args.compare, *(["-q"] if args.quiet else [])])
    return 0
