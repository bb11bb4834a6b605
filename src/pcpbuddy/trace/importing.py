"""
A trace into a Parquet file, in one pass: rows, and in the metadata what they come from and what is wrong with them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import Progress, Trace
from .health import Health
from .schema import KNOWN
from .store import ParquetFile

__all__ = ["Imported", "import_trace"]


@dataclasses.dataclass(frozen=True, slots=True)
class Imported:
    """
    What was written. events: rows by name. facts: where they come from, for a manifest.
    """

    form: str
    source: str
    kernel: str | None
    clock: str | None
    columns: tuple[str, ...]
    events: dict[str, int]
    health: Health
    facts: dict[str, Any]


def import_trace(
    trace: Trace,
    output: Path,
    manifest: dict[str, Any],
    progress: Progress | None = None,
    proc: Mapping[str, str] | None = None,
) -> Imported:
    """
    All rows of an open trace into ``output``, which is replaced. Nothing is left there if the trace turns out damaged.

    manifest: what made the file; the source and its health are added to it. proc: /proc texts of the machine, which the
    file then carries. Raises TraceError and UsageError.
    """
    counts = np.zeros(len(KNOWN), np.int64)
    with ParquetFile(output) as file:
        for batch in trace.batches(progress):
            counts += np.bincount(batch.rows["event"], minlength=len(KNOWN))
            file.add(batch)
        file.flush()
        health = trace.health()
        health = dataclasses.replace(health, out_of_range=health.out_of_range + file.too_large)
        facts = {
            "source": trace.name,
            "source_bytes": trace.size_bytes,
            "source_sha256": trace.sha256,
            "form": trace.form,
            "kernel": trace.kernel,
            "clock": trace.clock,
        }
        file.finish({**manifest, **facts, "health": health.document()}, proc)
    found = {KNOWN[code]: int(counts[code]) for code in np.argsort(-counts, kind="stable") if counts[code]}
    return Imported(trace.form, trace.name, trace.kernel, trace.clock, file.columns, found, health, facts)
