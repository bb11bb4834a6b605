"""
The entry point of ``pcpbuddy``: parser, exit codes, and nothing else.

Exit codes: 0 the command did its work, 1 it failed, 2 usage or bad input. Results go to stdout, all else to stderr.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import PcpBuddyError, RecordingError, TraceError, UsageError
from . import (
    bench,
    calibrate,
    claims,
    cma,
    compare,
    costs,
    doctor,
    explain,
    export,
    imports,
    policies,
    record,
    replay,
    run,
)

__all__ = ["main", "parser"]

EPILOG = """\
examples:
  pcpbuddy compare shape/S1 --policy mainline,fixed     one workload under two policies
  pcpbuddy run exit/storm --cpus 64 --policy fixed      a workload on 64 virtual CPUs, in virtual time
  pcpbuddy compare exit/storm --cpus 4,64,256           the same under several policies and CPU counts
  pcpbuddy claims K-1 K-2                               what the thread claims, measured
  pcpbuddy cma                                          movable pages from CMA, against the 50 % rule
  pcpbuddy policies                                     what policies there are, and how to write one
  pcpbuddy replay recordings/tiny-4c                    a recording against the kernel that made it, page by page
  pcpbuddy import trace.dat -o mine.parquet             a trace of any form as a file of rows
  pcpbuddy record --for 10s --compare mainline,fixed    this machine's page allocator, recorded and compared
  pcpbuddy export trace.dat -o trace.pftrace            a trace for Perfetto; also CSV, Parquet, kernel text, and runs
  pcpbuddy bench pool                                   the page pool against the mallocs of this machine
  pcpbuddy COMMAND --help                               more about a command
"""
OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """
    The parser of all commands.
    """
    top = argparse.ArgumentParser(
        prog="pcpbuddy",
        description="The Linux page allocator and its per-CPU pageblock buddy variant, side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"pcpbuddy {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    bench.add_parser(commands)
    calibrate.add_parser(commands)
    claims.add_parser(commands)
    cma.add_parser(commands)
    compare.add_parser(commands)
    costs.add_parser(commands)
    doctor.add_parser(commands)
    explain.add_parser(commands)
    export.add_parser(commands)
    imports.add_parser(commands)
    policies.add_parser(commands)
    record.add_parser(commands)
    replay.add_parser(commands)
    run.add_parser(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code.
    """
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except (UsageError, RecordingError, TraceError) as error:
        print(f"pcpbuddy: {error}", file=sys.stderr)
        return BAD_INPUT
    except PcpBuddyError as error:
        print(f"pcpbuddy: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print("pcpbuddy: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
