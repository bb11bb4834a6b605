"""
Rows into a Parquet file. The door of this room to pyarrow.

A column that no row fills is not in the file, as in the recordings; which those are is known only at the end. So rows
go into parts: a part has the columns that were filled when it began, and when a row fills another one the next part
begins. One part is the file; several are copied into one, row group by row group.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import TraceError, UsageError
from .schema import ARROW, EVENT, KNOWN, NULLS, TEXTS, Batch, columns

__all__ = ["ParquetFile", "arrow"]

ROWS_AT_ONCE = 1 << 17
ALWAYS = ("ts_ns", "cpu", "cpu_seq", "event", "pfn", "order", "migratetype", "gfp_flags")
# Between two snapshots, where there are any; a trace without is taken as a whole.
PHASE = 1
METADATA_KEY = b"pcpbuddy"


def arrow(what: str = "a parquet file") -> Any:
    """
    The module pyarrow. Raises TraceError with the command that installs it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TraceError(f"{what} needs pyarrow, which is not installed: pip install 'pcpbuddy[lab]'") from None
    return pyarrow


class ParquetFile:
    """
    A Parquet file that grows batch by batch, and is there under its name only when all of it was written.

    Used as a context; ``finish`` gives it its metadata, and without that nothing is left behind. Raises UsageError
    where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._pa = arrow("writing a parquet file")
        self._held: list[Any] = []
        self._held_rows = 0
        self._filled: set[str] = set(ALWAYS)
        self._parts: list[Path] = []
        self._columns: list[tuple[str, ...]] = []
        self._writer: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "ParquetFile":
        try:
            self._folder = tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=self.path.parent)
        except OSError as error:
            raise UsageError(f"-o {self.path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError, ValueError):
                self._writer.close()
        if self._folder is not None:
            self._folder.cleanup()
        if isinstance(error, OSError):
            raise UsageError(f"-o {self.path} cannot be written: {error.strerror or error}") from None

    @property
    def columns(self) -> tuple[str, ...]:
        """
        Those of the file, as far as it was written.
        """
        return (*self._columns[-1], "phase") if self._columns else ()

    def add(self, batch: Batch) -> None:
        """
        More rows.
        """
        arrays = {name: self._array(batch, name) for name in columns()}
        self._filled |= {name for name, array in arrays.items() if array.null_count < len(array)}
        self._held.append(self._pa.table({**arrays, "phase": self._pa.array(np.full(len(batch), PHASE, np.int8))}))
        self._held_rows += len(batch)
        self.rows += len(batch)
        if self._held_rows >= ROWS_AT_ONCE:
            self._flush()

    def finish(self, manifest: dict[str, Any]) -> None:
        """
        Write what is left, give the file its metadata and its name.
        """
        if self._held or self._writer is None:
            self._flush()
        metadata = {METADATA_KEY: json.dumps(manifest).encode()}
        if len(self._parts) > 1:
            self._close_part({})
            self._join(metadata)
        else:
            self._close_part(metadata)
        os.replace(self._parts[0], self.path)

    def _flush(self) -> None:
        names = tuple(name for name in columns() if name in self._filled)
        if self._writer is None or names != self._columns[-1]:
            self._close_part({})
            self._columns.append(names)
            self._writer = self._open_part(self._schema(names))
        schema = self._schema(names)
        if not self._held:
            return
        table = self._pa.concat_tables(self._held).select([*names, "phase"]).unify_dictionaries()
        self._writer.write_table(table.cast(schema), row_group_size=ROWS_AT_ONCE)
        self._held, self._held_rows = [], 0

    def _open_part(self, schema: Any) -> Any:
        assert self._folder is not None
        path = Path(self._folder.name) / f"{len(self._parts)}.parquet"
        self._parts.append(path)
        return self._pa.parquet.ParquetWriter(path, schema, compression="zstd")

    def _close_part(self, metadata: dict[bytes, bytes]) -> None:
        if self._writer is not None:
            if metadata:
                self._writer.add_key_value_metadata(metadata)
            self._writer.close()
            self._writer = None

    def _join(self, metadata: dict[bytes, bytes]) -> None:
        """
        All parts as one, with the columns of the last, which has them all.
        """
        parts, self._parts = self._parts, []
        schema = self._schema(self._columns[-1])
        self._parts = list(parts)
        writer = self._open_part(schema)
        for part in parts:
            stored = self._pa.parquet.ParquetFile(part)
            for group in range(stored.num_row_groups):
                table = stored.read_row_group(group)
                for field in schema:
                    if field.name not in table.column_names:
                        table = table.append_column(field.name, self._pa.nulls(len(table), field.type))
                writer.write_table(table.select(schema.names).cast(schema), row_group_size=ROWS_AT_ONCE)
        writer.add_key_value_metadata(metadata)
        writer.close()
        self._parts = [self._parts[-1]]

    def _array(self, batch: Batch, name: str) -> Any:
        """
        A column as Arrow: numbers with nulls, or texts by their tables.
        """
        pa, values, null = self._pa, np.ascontiguousarray(batch.rows[name]), batch.null(name)
        if name in TEXTS:
            # What stands where an index is null is looked up all the same when tables are joined.
            indices = pa.array(np.where(null, 0, values), pa.int32(), mask=null)
            return pa.DictionaryArray.from_arrays(indices, pa.array(batch.texts(name), pa.string()))
        if name == "event":
            return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int8)), pa.array(KNOWN, pa.string()))
        kind = np.dtype(ARROW[name])
        if kind.itemsize < values.dtype.itemsize:
            limits = np.iinfo(kind)
            null = null | (values < limits.min) | (values > limits.max)
            values = np.where(null, 0, values).astype(kind)
        return pa.array(values, mask=null) if null.any() else pa.array(values)

    def _schema(self, names: tuple[str, ...]) -> Any:
        pa = self._pa
        types = {"text": pa.dictionary(pa.int32(), pa.string()), "event": pa.dictionary(pa.int8(), pa.string())}
        fields = [(name, types.get(ARROW[name]) or pa.from_numpy_dtype(np.dtype(ARROW[name]))) for name in names]
        return pa.schema([*fields, ("phase", pa.int8())])


def narrowed(batch: Batch) -> int:
    """
    Numbers of a batch that their column in a file cannot hold; they are null there.
    """
    count = 0
    for name in EVENT.names or ():
        if name in TEXTS or name == "event" or np.dtype(ARROW[name]).itemsize == EVENT[name].itemsize:
            continue
        values, limits = batch.rows[name], np.iinfo(np.dtype(ARROW[name]))
        count += int(((values != NULLS[values.dtype.itemsize]) & ((values < limits.min) | (values > limits.max))).sum())
    return count
