"""
Progress on stderr: a bar on a terminal, a line a run elsewhere, nothing when quiet.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["progress"]


@contextlib.contextmanager
def progress(nr_runs: int | None, unit: str, *, quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """
    Gives a function to call as f(name of the run, done, total) while runs go on.

    nr_runs: how many there will be, None if nobody knows. unit: what is counted, in the plural. A total of 0: nobody
    knows how many of them there will be.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            tasks: dict[str, Any] = {}

            def advance(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(f"{name}: {unit}", total=total or None)
                bar.update(tasks[name], completed=done)

            yield advance
    else:
        begun: set[str] = set()

        def announce(name: str, done: int, total: int) -> None:
            if name not in begun:
                begun.add(name)
                which = f" ({len(begun)} of {nr_runs})" if nr_runs is not None else ""
                many = f": {total} {unit}" if total else ""
                print(f"{name}{which}{many} ...", file=sys.stderr)

        yield announce
