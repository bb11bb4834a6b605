"""
What a run in virtual time leaves behind: ``Run``, its figures, its file.

``Machine.run`` makes one; ``load_run`` reads one from a file. Every figure has a name of docs/reference/replay.md,
section 3.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..metrics import Metrics
from ..names import PAGE_SIZE
from ..quantities import ns_text, share_text
from . import files, locks, timing
from .files import SCHEMA
from .histogram import NR_BINS
from .overtime import frag_index, series, unusable
from .timing import HISTOGRAMS, kinds_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SCHEMA", "Run", "load_run", "measured"]


@dataclasses.dataclass(frozen=True, slots=True, repr=False, eq=False)
class Run:
    """
    A workload on a machine in virtual time: what it was, and what was measured.

    manifest: enough to make it again. metrics: the figures, by dotted name. cpus: figures of each CPU, an array a
    metric. samples: state of each zone over time, one record a zone and time. counts: all histograms, one record a bin.
    elapsed_ns: how long the simulation took, which is no part of the result and in no file. holds: the log of its locks
    (locks.py), None if none was kept.
    """

    manifest: Mapping[str, Any]
    metrics: Metrics
    cpus: Mapping[str, np.ndarray]
    samples: np.ndarray
    counts: np.ndarray
    elapsed_ns: int = 0
    holds: np.ndarray | None = None

    @property
    def partial(self) -> bool:
        """
        Whether the run was stopped before its end; the figures are of what had happened by then.
        """
        return bool(self.manifest["partial"])

    @property
    def policy(self) -> str:
        """
        Name of the policy.
        """
        return str(next(iter(self.manifest["policies"])))

    @property
    def workload(self) -> str:
        """
        Name of the workload.
        """
        return str(self.manifest["workload"]["name"])

    @property
    def zones(self) -> list[str]:
        """
        Names of the zones, in the order of their numbers in ``samples`` and ``counts``.
        """
        return [str(zone["name"]) for zone in self.manifest["zones"]]

    @property
    def nr_cpus(self) -> int:
        """
        How many CPUs it had.
        """
        return len(next(iter(self.cpus.values())))

    @property
    def memory_bytes(self) -> int:
        """
        Memory of all zones.
        """
        return sum(int(zone["pages"]) for zone in self.manifest["zones"]) * PAGE_SIZE

    @property
    def stuck(self) -> list[dict[str, Any]]:
        """
        Where every CPU came to wait for another one: who waits for what. Empty where that did not happen.
        """
        return list(self.manifest["stuck"])

    @property
    def digest(self) -> str:
        """
        SHA-256 of what was asked for and what came out, whatever the program's version and the machine were.
        """
        return files.digest(self)

    def __repr__(self) -> str:
        waited, duration = self.metrics["zone_lock.wait_ns.share"], self.metrics["time.measured_ns"]
        kind = "stuck Run" if self.stuck else "partial Run" if self.partial else "Run"
        return (
            f"<{kind} of {self.workload} on {self.metrics['time.cpus']} CPUs under "
            f"{self.policy}: {ns_text(duration)}, {share_text(waited)} of CPU time waiting for the zone lock>"
        )

    def _repr_html_(self) -> str:
        from .notebook import html

        return html(self)

    def histogram(self, what: str, *, kind: str | None = None, zone: str | None = None) -> np.ndarray:
        """
        One histogram as counts by bin; ``run.histogram.bin_edges()`` has their edges in nanoseconds.

        what: "zone_lock.wait_ns", "pcp_lock.hold_ns", "call.ns" ..; acquisitions that did not wait are in no histogram
        of waits. kind: of section or call, such as "refill" or "alloc"; else all. zone: its name; else all.
        """
        chosen = self.counts[self.counts["what"] == HISTOGRAMS.index(what)]
        if kind is not None:
            chosen = chosen[chosen["kind"] == kinds_of(what).index(kind)]
        if zone is not None:
            chosen = chosen[chosen["zone"] == self.zones.index(zone)]
        counts = np.zeros(NR_BINS, np.int64)
        np.add.at(counts, chosen["bin"], chosen["count"])
        return counts

    def over_time(self, zone: str | None = None) -> dict[str, np.ndarray]:
        """
        The samples as columns, zones added up or of one zone.

        ``t_ns`` since measuring began, ``free_pages``, ``parked_pages``, ``cma_free``, ``allocated_pages``,
        ``owned_blocks``, ``nr_free`` (n, 11), ``frag.unusable_<k>``, ``frag.index_<k>``, and the sums so far of
        ``zone_wait_ns``, ``zone_holds`` and ``allocs``.
        """
        columns = series(self.samples, range(len(self.zones)) if zone is None else [self.zones.index(zone)])
        since = columns.pop("t_ps") / 1000 - self.metrics["time.before_ns"]
        columns = {"t_ns": since, "zone_wait_ns": columns.pop("zone_wait_ps") / 1000, **columns}
        for order in range(1, columns["nr_free"].shape[1]):
            columns[f"frag.unusable_{order}"] = unusable(columns["nr_free"], order)
            columns[f"frag.index_{order}"] = frag_index(columns["nr_free"], order)
        return columns

    def document(self) -> dict[str, Any]:
        """
        The run as one JSON document, without histograms: the same input gives the same text.
        """
        samples = {name: column.tolist() for name, column in self.over_time().items() if not name.startswith("frag.")}
        return {
            "schema": SCHEMA,
            "manifest": dict(self.manifest),
            "results": {
                "partial": self.partial,
                "digest": self.digest,
                "metrics": self.metrics,
                "cpus": {name: column.tolist() for name, column in self.cpus.items()},
                "samples": samples,
            },
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the run into one file, for ``load_run``. The same run gives the same bytes; an older file is replaced.
        """
        files.save(self, Path(path))

    def tables(self) -> dict[str, "pa.Table"]:
        """
        The run as Arrow tables: metrics, samples, cpus, histograms, and locks where their log was kept. Needs pyarrow.

        The manifest is in their metadata.
        """
        from .tables import tables

        return tables(self)

    def export(self, path: str | os.PathLike[str]) -> list[Path]:
        """
        Write the tables as Parquet: ``NAME.parquet`` gets the metrics, any other path is a directory for all tables.

        Needs pyarrow. Returns what was written; older files of these names are replaced.
        """
        from .tables import export

        return export(self, Path(path))


def measured(
    result: Mapping[str, Any],
    counted: Metrics,
    by_cpu: Sequence[Metrics],
    manifest: Mapping[str, Any],
    elapsed_ns: int = 0,
    holds: bytes | None = None,
) -> Run:
    """
    The run that a machine has carried out.

    result: what the machine counted. counted, by_cpu: what its zones counted (``metrics.of_zones``, ``.of_cpu``).
    holds: the log of its locks.
    """
    metrics = {**counted, **timing.figures(result, [zone["name"] for zone in manifest["zones"]])}
    metrics |= timing.rates(metrics)
    names = by_cpu[0] if by_cpu else {}
    cpus = timing.per_cpu(result) | {name: np.array([figures[name] for figures in by_cpu]) for name in names}
    log = None if holds is None else locks.rows(holds)
    return Run(manifest, metrics, cpus, np.array(result["samples"]), timing.histograms(result), elapsed_ns, log)


def load_run(path: str | os.PathLike[str]) -> Run:
    """
    A run from its file. Raises UsageError for a file that is none, or is damaged.
    """
    head, figures, cpus, samples, counts, holds = files.load(Path(path))
    run = Run(head["manifest"], figures, cpus, samples, counts, holds=holds)
    if run.digest != head["digest"]:
        raise UsageError(f"{path} is damaged: its content is not what it was written with")
    return run
