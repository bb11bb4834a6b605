"""
``pcpbuddy cma``: how much of movable memory comes from CMA under several policies, while a zone fills up.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, UsageError
from .options import numbers, whole
from .progress import progress

if TYPE_CHECKING:
    from ..cma import Setting, Study

INTERRUPTED = 130
PCP_KEYS = ("batch", "high_min", "high_max")
EPILOG = """\
A zone is filled with single movable pages, and each page is looked at: is it CMA? Beside the policies stands the 50 %
rule of mainline (use CMA while more than half of what is free is CMA), asked for each page. Then the same once more
with unmovable requests in between, which CMA cannot serve. Nothing is timed; the same options give the same text.

--before used: all of the zone was taken, and most of it freed at random. --before churned: processes have come and
gone, and what share of CMA they took is shown too, round by round. A zone that was never used hides the difference
between the policies: try --before fresh.

examples:
  pcpbuddy cma                                      1GiB with 62.5 % CMA, 4 CPUs, five policies
  pcpbuddy cma --cma 30,60,90 --plot shares.svg     three zones, and a chart
  pcpbuddy cma --size 128MiB --cpus 1 --pcp batch=63,high_min=1000,high_max=4096     the zone of rfc.md, P-82
  pcpbuddy cma --policy mainline,fixed,mine.toml:eager --style lkml                  to paste into a mail
  pcpbuddy cma --json - -q | jq -c '.results[] | [.policy, .seed, .left]'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "cma",
        help="how much of movable memory comes from CMA, against the 50 %% rule, as a zone fills up",
        description="Fill a zone that has a large CMA area, and count which movable pages came from it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", metavar="SIZE", default="1GiB", help="memory of the zone (default: 1GiB)")
    parser.add_argument(
        "--cma", metavar="P1,P2,...", default="62.5", help="CMA's per cent of it, 10 to 90 (default: 62.5)"
    )
    parser.add_argument(
        "--before",
        metavar="WHAT",
        default="used",
        help="used: filled, freed at random, drained; churned: processes came and went; fresh (default: used)",
    )
    parser.add_argument("--freed", metavar="P", help="per cent of the pages freed then (default: 87.8, as in P-82)")
    parser.add_argument("--cpus", metavar="N", default="4", help="CPUs, which take pages in turn (default: 4)")
    parser.add_argument("--pages", metavar="N", default="0", help="movable pages to take (default: all that are free)")
    parser.add_argument(
        "--unmovable", metavar="N", default="8", help="second pass: one request in N is unmovable; 0: none (default: 8)"
    )
    parser.add_argument(
        "--pcp",
        metavar="K=N,...",
        help="limits of the PCPs: batch=N,high_min=N,high_max=N (default: as the kernel sizes them)",
    )
    parser.add_argument("--seeds", metavar="N", default="3", help="how many seeds, or which: 1,2,3 or 7, (default: 3)")
    parser.add_argument(
        "--policy", metavar="P1,P2,...", help="policies (default: mainline,posted,fixed,balanced,tuned)"
    )
    parser.add_argument(
        "--style", metavar="STYLE", default="report", help="report, or lkml: 72 columns for a mail (default: report)"
    )
    parser.add_argument("--plot", metavar="FILE.svg", help="also draw the shares, as SVG")
    parser.add_argument("--json", metavar="FILE|-", help="one JSON document: into a file, or to stdout instead of text")
    parser.add_argument("--all", action="store_true", help="all 32 points in the table")
    parser.add_argument("-f", "--force", action="store_true", help="replace existing files")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command; prints and writes when all was measured, or when it was ended.
    """
    # Here and not above: `pcpbuddy --help` needs neither numpy nor the core.
    from ..cma import measure

    setting = _setting(args)
    if args.style not in ("report", "lkml"):
        raise UsageError(f"--style {args.style}: expected report or lkml")
    _refuse_existing(args)
    wanted = len(setting.shares) * len(setting.drawn) * len(setting.policies)
    with progress(None, "trials", quiet=args.quiet) as told:
        study = measure(setting, progress=told)
    if study.trials:
        _print(args, study)
        _write(args, study)
    if study.partial:
        print(f"pcpbuddy: interrupted; {len(study.trials)} of {wanted} trials were done", file=sys.stderr)
    return INTERRUPTED if study.partial else 0


def _setting(args: argparse.Namespace) -> "Setting":
    """
    The options, checked. Those that are no numbers are refused here, all else where it is used.
    """
    from ..cma import POLICIES, Setting

    given: dict[str, Any] = {"before": args.before, "pcp": _pcp(args.pcp) if args.pcp else None}
    for option, name in (("cpus", "cpus"), ("pages", "pages"), ("unmovable", "unmovable_every")):
        given[name] = _number(option, getattr(args, option))
    if args.freed is not None:
        if args.before != "used":
            raise ConfigError(f"--freed {args.freed}: only a zone that was used before has it; --before used")
        given["freed"] = _share("freed", args.freed)
    given["shares"] = tuple(_share("cma", text) for text in args.cma.split(","))
    return Setting.of(args.policy or POLICIES, size=args.size, seeds=_seeds(args.seeds), **given)


def _number(option: str, text: str) -> int:
    value = whole(text)
    if not isinstance(value, int):
        raise ConfigError(f"--{option} {text}: expected a whole number")
    return value


def _share(option: str, text: str) -> float:
    if not re.fullmatch(r"\s*[0-9]{1,3}(\.[0-9]{1,9})?\s*%?\s*", text):
        raise ConfigError(f"--{option} {text}: expected per cent, such as 62.5")
    return float(text.strip().rstrip("%")) / 100


def _pcp(text: str) -> tuple[int, int, int]:
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    if set(pairs) != set(PCP_KEYS) or not all(re.fullmatch(r"[0-9]{1,9}", value) for value in pairs.values()):
        raise ConfigError(f"--pcp {text}: expected batch=N,high_min=N,high_max=N")
    batch, high_min, high_max = (int(pairs[key]) for key in PCP_KEYS)
    return batch, high_min, high_max


def _seeds(text: str) -> tuple[int, ...]:
    from ..cma import MOST_SEEDS

    if "," in text:
        seeds = numbers(text.rstrip().removesuffix(","))
        if not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
            raise ConfigError(f"--seeds {text}: expected numbers from 0 up, with commas between them")
        return tuple(seeds)
    many = whole(text)
    if not isinstance(many, int) or not 1 <= many <= MOST_SEEDS:
        raise ConfigError(f"--seeds {text}: expected how many, 1 to {MOST_SEEDS}, or which ones, such as 1,2,3")
    return tuple(range(many))


def _refuse_existing(args: argparse.Namespace) -> None:
    """
    Before the work, not after it.
    """
    for option, name in (("--plot", args.plot), ("--json", args.json if args.json != "-" else None)):
        if name is None:
            continue
        path = Path(name)
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"{option} {name}: expected a file in a directory that exists")
        if path.exists() and not args.force:
            raise UsageError(f"{option} {name} exists; -f replaces it")


def _print(args: argparse.Namespace, study: "Study") -> None:
    from ..report.cma import mail, report

    if args.json == "-":
        sys.stdout.write(_json(study))
    elif args.style == "lkml":
        commit = study.document()["manifest"]["commit"]
        sys.stdout.write(mail(study, commit))
    else:
        sys.stdout.write(report(study, everything=args.all))


def _write(args: argparse.Namespace, study: "Study") -> None:
    from ..report.cma import chart

    texts: list[tuple[str | None, Callable[[Study], str]]] = [(args.plot, chart)]
    texts.append((args.json if args.json != "-" else None, _json))
    for name, text in texts:
        if name:
            Path(name).write_text(text(study), encoding="utf-8")
            if not args.quiet:
                print(f"{name} written{' (partial)' if study.partial else ''}", file=sys.stderr)


def _json(study: "Study") -> str:
    return json.dumps(study.document(), indent=1) + "\n"
