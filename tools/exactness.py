#!/usr/bin/env python3
"""
The table of docs/explanation/4-why-believe-the-baseline.md: every recording replayed, and how much of it was exact.

    python tools/exactness.py recordings ../shared/oracle            # print the table
    python tools/exactness.py recordings ../shared/oracle --write    # and put it into the page
    python tools/exactness.py recordings --check                     # are the rows of these recordings in the page?

Recordings with probes are replayed in free-run, and in guided too where free-run is not exact; plain ones in both.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pcpbuddy.replay import replay
from pcpbuddy.report.replay import percent

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "4-why-believe-the-baseline.md"
BEGIN, END = "<!-- table: tools/exactness.py -->", "<!-- end -->"
HEAD = (
    "| recording | rows | mode | allocations | same page frame | refills | drained pages "
    "| PCP fields | end state | taken |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def rows_of(path: Path) -> Iterator[str]:
    """
    One line for each mode that says something about a recording.
    """
    first = replay(path, "free-run")
    results = first.results
    yield line(path, results)
    if results["exact"] != results["allocs"]:
        yield line(path, replay(path, "guided").results)


def line(path: Path, results: dict[str, Any]) -> str:
    """
    A row of the table.
    """

    def both(name: str) -> str:
        seen, exact = results[name], results[f"{name}_exact"]
        return "-" if not seen else str(seen) if seen == exact else f"{exact} of {seen}"

    final = results["final_state"]
    end = (
        "equal" if final["equal"] else f"{len(final['differences']) + final.get('further_differences', 0)} differences"
    )
    if "derived" in final:
        end += " (derived)"
    taken = ", ".join(f"{count} {item}" for item, count in results["taken"].items()) or "-"
    share = percent(results["exact"], results["allocs"])
    exact = f"{share}" if results["exact"] == results["allocs"] else f"{results['exact']}, {share}"
    cells = (
        f"`{path.name.removesuffix('.parquet')}`",
        str(results["recording"]["replayed"]),
        results["mode"],
        str(results["allocs"]),
        exact,
        both("refills"),
        both("drained"),
        both("fields"),
        end,
        taken,
    )
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """
    Replay, then print, write or check.
    """
    parser = argparse.ArgumentParser(description="How much of each recording is replayed exactly.")
    parser.add_argument("folders", nargs="+", type=Path, help="folders of recordings")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put the table into the page")
    action.add_argument("--check", action="store_true", help="fail if a row is not in the page")
    arguments = parser.parse_args()
    found = {path.name: path for folder in arguments.folders for path in folder.glob("*.parquet")}  # one of each name
    paths = [found[name] for name in sorted(found)]
    page = PAGE.read_text() if arguments.write or arguments.check else ""
    table, missing = list(HEAD), 0
    for path in paths:
        for text in rows_of(path):
            table.append(text)
            if arguments.check and text not in page:
                missing += 1
                print(f"not in {PAGE.name}: {text}")
            elif not arguments.check:
                print(text, flush=True)
    if arguments.write:
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(page[:start] + "\n" + "\n".join(table) + "\n" + page[end:])
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
