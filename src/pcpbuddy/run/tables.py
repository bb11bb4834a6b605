"""
A run as Arrow tables and Parquet files. Each carries the manifest in its metadata, under ``pcpbuddy``.
"""

import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..arrow import arrow
from ..errors import UsageError
from . import locks
from .histogram import bin_edges
from .timing import HISTOGRAMS, kinds_of

if TYPE_CHECKING:
    import pyarrow as pa

    from . import Run

__all__ = ["export", "tables", "write"]


def tables(run: "Run") -> dict[str, "pa.Table"]:
    """
    Table by name. Raises UsageError without pyarrow.
    """
    columns = {"metrics": _metrics(run), "samples": _samples(run), "cpus": _cpus(run), "histograms": _histograms(run)}
    if run.holds is not None:
        columns["locks"] = locks.columns(run)
    metadata = {"pcpbuddy": json.dumps(dict(run.manifest))}
    pa = arrow("a table", UsageError)
    return {name: pa.table(of_table).replace_schema_metadata(metadata) for name, of_table in columns.items()}


def export(run: "Run", path: Path) -> list[Path]:
    """
    The tables as Parquet files, or the metrics alone as one.
    """
    made = tables(run)
    chosen = {path: "metrics"} if path.suffix == ".parquet" else {path / f"{name}.parquet": name for name in made}
    try:
        if path.suffix != ".parquet":
            path.mkdir(parents=True, exist_ok=True)
        for file, name in chosen.items():
            arrow("a table", UsageError).parquet.write_table(made[name], file)
    except OSError as error:
        raise UsageError(f"{error.filename or path} cannot be written: {error.strerror or error}") from None
    return list(chosen)


def write(run: "Run", name: str, form: str, output: IO[bytes]) -> int:
    """
    One table into a file that is open, as csv or parquet. Returns how many rows it has.

    Raises UsageError for a name that it has not.
    """
    made = tables(run)
    if name not in made:
        hint = "; `pcpbuddy run --log` keeps a log of locks" if name == "locks" else ""
        raise UsageError(f"--table {name}: the run has no such table; it has {', '.join(made)}{hint}")
    pa = arrow("a table", UsageError, "csv")
    if form == "csv":
        pa.csv.write_csv(made[name], output)
    else:
        pa.parquet.write_table(made[name], output)
    return int(made[name].num_rows)


def _metrics(run: "Run") -> dict[str, Any]:
    return {
        "metric": list(run.metrics),
        "value": np.array(list(run.metrics.values()), np.float64),
    }


def _samples(run: "Run") -> dict[str, Any]:
    """
    A row a sample and zone; times in nanoseconds since measuring began, chunks in a column an order.
    """
    rows = run.samples
    since = rows["t_ps"] / 1000 - run.metrics["time.before_ns"]
    columns: dict[str, Any] = {"t_ns": since, "zone": np.array(run.zones)[rows["zone"]].tolist()}
    for name in rows.dtype.names or ():
        if name == "nr_free":
            columns |= {f"nr_free_{order}": column for order, column in enumerate(rows[name].T)}
        elif name == "zone_wait_ps":
            columns["zone_wait_ns"] = rows[name] / 1000
        elif name not in ("t_ps", "zone"):
            columns[name] = rows[name]
    return {
        name: np.ascontiguousarray(column) if hasattr(column, "dtype") else column for name, column in columns.items()
    }


def _cpus(run: "Run") -> dict[str, Any]:
    return {"cpu": np.arange(run.nr_cpus), **run.cpus}


def _histograms(run: "Run") -> dict[str, Any]:
    """
    A row a bin that is not empty: from_ns <= time < to_ns.
    """
    rows, edges = run.counts, bin_edges()
    names = [HISTOGRAMS[what] for what in rows["what"]]
    zones = run.zones
    return {
        "histogram": names,
        "kind": [kinds_of(what)[kind] for what, kind in zip(names, rows["kind"], strict=True)],
        "zone": [
            str(zone) if what.startswith("user_lock.") else None if what.startswith("call.") else zones[zone]
            for what, zone in zip(names, rows["zone"], strict=True)
        ],
        "from_ns": edges[rows["bin"]],
        "to_ns": edges[rows["bin"].astype(np.int64) + 1],
        "count": np.ascontiguousarray(rows["count"]),
    }
