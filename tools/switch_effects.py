#!/usr/bin/env python3
"""
What each switch does on its own: every other value of every switch, one at a time, against its base.

    python tools/switch_effects.py SOURCE [SOURCE ...]

SOURCE: what `pcpbuddy compare` takes. The base is `fixed`; `llist` and `handover` for the switches that say nothing
without them. Prints a Markdown table for each source: the figures of the base, and of the others only where they
differ. A switch value that changes nothing at all is listed under the table.
"""

import argparse
import sys

import pcpbuddy
from pcpbuddy.config import SWITCHES
from pcpbuddy.errors import ConfigError, PcpBuddyError

BASES = {"handover_batch": "handover", "handover_targets": "handover", "remote_bound": "llist"}
NUMBERS = {"handover_batch": (1, 8, 128), "handover_targets": (1, 2), "remote_bound": ("inf", 64, 512)}
WITH = {"adopt_min_order": "+adopt=on"}
# heading: (metric, factor, digits)
COLUMNS = {
    "holds": ("zone_lock.holds", 1, 0),
    "list ops": ("zone_lock.list_ops", 1, 0),
    "merges under it": ("zone_lock.merges", 1, 0),
    "refills": ("refill.count", 1, 0),
    "PCP merges": ("pcp.merges", 1, 0),
    "PCP splits": ("pcp.splits", 1, 0),
    "unusable 9, x 1000": ("frag.unusable_9", 1, 0),
    "U blocks": ("blocks.by_type.unmovable", 1, 0),
    "parked max": ("pcp.parked_pages_max", 1, 0),
    "skipped": ("owned.skipped", 1, 0),
    "movable CMA %": ("cma.movable_share", 100, 1),
}


def changed():
    """
    (base, policy) for every value of every switch that is not its base's and makes sense.
    """
    for switch in SWITCHES:
        base = BASES.get(switch.name, "fixed")
        extra = WITH.get(switch.name, "")
        values = NUMBERS.get(switch.name, [v for v in switch.values if v != switch.values[0]])
        if switch.name == "adopt_min_order":
            values = (0, 3, 8)
        for value in values:
            try:
                yield base, pcpbuddy.policy(f"{base}{extra}+{switch.name}={value}")
            except ConfigError as error:
                print(f"left out: {error}", file=sys.stderr)


def row(name, metrics, base):
    """
    One line of the table. What equals the base is left empty.
    """
    cells = []
    for metric, factor, digits in COLUMNS.values():
        text = f"{metrics[metric] * factor:.{digits}f}"
        cells.append("" if base is not None and text == f"{base[metric] * factor:.{digits}f}" else text)
    return f"| {name} | " + " | ".join(cells) + " |"


def main():
    """
    Print the tables.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", metavar="SOURCE", nargs="+")
    args = parser.parse_args()
    pairs = list(changed())
    try:
        for source in args.sources:
            bases = {base: pcpbuddy.policy(base) for base in ("fixed", "llist", "handover")}
            done = pcpbuddy.compare(source, [*bases.values(), *(policy for _, policy in pairs)])
            metrics = {run.policy.name: run.metrics for run in done.runs}
            print(f"## {source}\n\n| policy | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
            for base in bases:
                print(row(base, metrics[base], None))
            idle = []
            for base, policy in pairs:
                if metrics[policy.name] == metrics[base]:
                    idle.append(policy.name)
                else:
                    print(row(policy.name, metrics[policy.name], metrics[base]))
            print(f"\nNo difference in any metric: {', '.join(idle) or 'none'}.\n")
    except PcpBuddyError as error:
        sys.exit(f"switch_effects: {error}")


if __name__ == "__main__":
    main()
