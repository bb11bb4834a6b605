"""
Rows of a trace into a file of another form, in one pass: the kernel's text, CSV, Parquet, and Perfetto's own form.

A file is there under its name only when all of it was written.
"""

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..arrow import arrow
from ..errors import TraceError, UsageError
from . import Trace, shapes
from ._write import TextRows
from .importing import import_trace
from .schema import Batch
from .source import first_line, shown
from .stored import StoredRows

__all__ = [
    "Exported",
    "Progress",
    "as_bytes",
    "batches",
    "export_csv",
    "export_parquet",
    "export_text",
    "left_out",
    "written",
]

Progress = Callable[[int, int | None], None]
# What a line of the kernel's text has no place for.
NOT_IN_TEXT = ("phase", "zone", "pcp_cpu")
STDOUT = "-"

TEXT_HEAD = b"""\
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """
    What was written. rows: how many. notes: what the form cannot carry, or was left out, a sentence each.
    """

    rows: int
    notes: tuple[str, ...]


@contextlib.contextmanager
def written(path: str) -> Iterator[IO[bytes]]:
    """
    A file to write into: it gets its name when all was written, and nothing is left where that fails. "-" is stdout.
    """
    if path == STDOUT:
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"standard output cannot be written: {error.strerror or error}") from None
        return
    output = Path(path)
    beside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with beside.open("xb") as file:
            yield file
        beside.replace(output)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"-o {output} cannot be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)


def export_text(
    source: Trace | StoredRows, output: IO[bytes], kernel: str | None = None, progress: Progress | None = None
) -> Exported:
    """
    Rows as the text of tracefs. kernel: whose names of flags they get, where the source does not say.

    Times are microseconds if all of the first batch are whole ones; a time that is none is written to the nanosecond.
    """
    release = kernel or source.kernel
    words = shapes.words(release)
    writer: TextRows | None = None
    output.write(b"# tracer: nop\n#\n")
    if release:  # as perf prints it, and as the reader here finds it
        output.write(f"# os release : {shown(release.removeprefix('Linux '))}\n#\n".encode())
    output.write(TEXT_HEAD)
    for batch in batches(source, progress):
        if writer is None:
            writer = TextRows(shapes.shapes(words), bool((batch.rows["ts_ns"] % 1000).any()))
        comms = [shapes.cleaned_comm(name) for name in batch.comms]
        markers = [shapes.cleaned_marker(text) for text in batch.markers]
        output.write(writer.rows(as_bytes(batch), comms, markers))
    if writer is None:
        return Exported(0, tuple(left_out(source, 0)))
    lacking = [name for name in NOT_IN_TEXT if isinstance(source, StoredRows) and name in source.arrow_schema.names]
    notes = [f"the kernel's text has no place for {', '.join(lacking)}"] if lacking else []
    if writer.nr_lost:
        notes.append(f"{writer.nr_lost} lines say where events are missing")
    return Exported(writer.nr_rows, (*notes, *left_out(source, writer.left_out)))


def export_csv(source: Trace | StoredRows, output: IO[bytes], progress: Progress | None = None) -> Exported:
    """
    Rows as CSV: a line of names, then a line a row; texts in quotes, null is empty.

    Which columns a trace fills is known only at its end, so its rows lie in a temporary file until then.
    """
    if isinstance(source, Trace):
        with tempfile.TemporaryDirectory(prefix="pcpbuddy-") as folder:
            stored = Path(folder) / "rows.parquet"
            import_trace(source, stored, {}, progress)
            return export_csv(StoredRows(stored), output)
    pa = arrow("a CSV file", TraceError, "csv")
    fields = [
        pa.field(one.name, pa.string() if pa.types.is_dictionary(one.type) else one.type) for one in source.arrow_schema
    ]
    done = 0
    try:
        with pa.csv.CSVWriter(output, pa.schema(fields)) as file:
            for batch in source.arrow_batches():
                columns = [column.cast(field.type) for column, field in zip(batch.columns, fields, strict=True)]
                file.write_batch(pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields)))
                done += batch.num_rows
                if progress is not None:
                    progress(done, source.nr_rows)
    except pa.ArrowException as error:
        raise TraceError(
            f"{source.name} cannot be written as csv ({first_line(error)}); expected numbers and texts"
        ) from None
    return Exported(done, ())


def export_parquet(
    source: Trace | StoredRows, output: Path, manifest: dict[str, Any], progress: Progress | None = None
) -> Exported:
    """
    Rows as a Parquet file: what ``import`` does, or a copy of what it has done.
    """
    if isinstance(source, Trace):
        return Exported(sum(import_trace(source, output, manifest, progress).events.values()), ())
    with written(str(output)) as file, source.path.open("rb") as stored:
        while data := stored.read(1 << 20):
            file.write(data)
    return Exported(source.nr_rows, ())


def as_bytes(batch: Batch) -> np.ndarray:
    """
    The rows of a batch as the compiled writers take them.
    """
    return np.ascontiguousarray(batch.rows).view(np.uint8)


def batches(source: Trace | StoredRows, progress: Progress | None) -> Iterable[Batch]:
    """
    The batches, with progress told in bytes of a trace and in rows of a file of rows.
    """
    if isinstance(source, Trace):
        yield from source.batches(progress)
        return
    done = 0
    for batch in source.batches():
        yield batch
        done += len(batch)
        if progress is not None:
            progress(done, source.nr_rows)


def left_out(source: Trace | StoredRows, rows: int) -> Iterator[str]:
    """
    What was left out, a sentence each. rows: those that have no place in time.
    """
    if rows:
        yield f"{rows} rows without a time or a CPU were left out"
    if isinstance(source, StoredRows) and source.unknown:
        names = ", ".join(f"{name} ({count})" for name, count in source.unknown.items())
        yield f"rows of events that no trace has were left out: {names}"
