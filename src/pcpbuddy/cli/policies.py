"""
``pcpbuddy policies [P1,P2,...]``: what there is to choose from, or some policies side by side; as text or as JSON.
"""

import argparse
import json
import sys
from typing import Any

from ..config import NEEDS, PROFILES, SWITCHES, Policy, parse_policies

SCHEMA = "pcpbuddy.policies/1"
EPILOG = """\
examples:
  pcpbuddy policies
  pcpbuddy policies fixed posted fixed+merge=free
  pcpbuddy policies mine.toml, where mine.toml has, say:
    [eager]
    profile = "llist"
    merge = "free"
    remote_bound = 512
  pcpbuddy policies --json - | jq '.manifest.policies.fixed'
"""


def add_parser(commands: Any) -> None:
    """
    Add the command to the parser.
    """
    parser = commands.add_parser(
        "policies",
        help="the profiles and switches, or some policies side by side",
        description="Show all profiles and switches, or all switches of the given policies side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "policies",
        metavar="POLICY",
        nargs="*",
        help="a profile, a profile with changes, or a TOML file; the first is what the others are compared with",
    )
    parser.add_argument("--json", metavar="-", choices=["-"], help="print one JSON document to stdout instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """
    Run the command.
    """
    chosen = parse_policies(",".join(args.policies)) if args.policies else []
    if args.json:
        json.dump(document(chosen or list(PROFILES.values())), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        from ..report.policies import overview, side_by_side

        sys.stdout.write(side_by_side(chosen) if chosen else overview())
    return 0


def document(policies: list[Policy]) -> dict[str, Any]:
    """
    The policies, all switches and all that is refused, as one JSON document.
    """
    from ..manifest import manifest

    fixed = PROFILES["fixed"].switches()
    return {
        "schema": SCHEMA,
        "manifest": manifest(policies),
        "results": {
            "policies": [
                {
                    "policy": which.name,
                    "meaning": which.meaning,
                    "changes": {name: value for name, value in which.switches().items() if value != fixed[name]},
                }
                for which in policies
            ],
            "switches": [
                {
                    "switch": switch.name,
                    "meaning": switch.meaning,
                    "rule": switch.rule,
                    "default": switch.values[0],
                    "values": [value for value in switch.values if not (switch.counts and isinstance(value, int))],
                    "numbers": [switch.values[-1], switch.most] if switch.counts else None,
                }
                for switch in SWITCHES
            ],
            "refused": [str(need) for need in NEEDS],
        },
    }
