"""
Rows into a Parquet file.

A column that no row fills is not in the file, as in the recordings; which those are is known only at the end. So rows
go into parts: a part has the columns that were filled when it began, and when a row fills another one the next part
begins. One part is the file; several are copied into one, row group by row group.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..arrow import arrow
from ..errors import TraceError, UsageError
from .schema import ARROW, EVENT, KNOWN, NULLS, TEXTS, Batch, columns

__all__ = ["ParquetFile"]

ROWS_AT_ONCE = 1 << 17
TEXTS_AT_ONCE = 16 << 20  # characters
ALWAYS = ("ts_ns", "cpu", "cpu_seq", "event", "pfn", "order", "migratetype", "gfp_flags")
# Columns in which hardly a value comes twice: a dictionary of them costs time and gains nothing.
MANY_VALUES = ("ts_ns", "cpu_seq", "pfn")
# Between two snapshots, where there are any; a trace without is taken as a whole.
PHASE = 1
METADATA_KEY = b"pcpbuddy"
PROC_KEY = b"pcpbuddy.proc"  # /proc texts of the machine that was traced, where they came with the trace


class ParquetFile:
    """
    A Parquet file that grows batch by batch, and is there under its name only when all of it was written.

    Used as a context; ``finish`` gives it its metadata, and without that nothing is left behind. Raises UsageError
    where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = self.too_large = 0
        self._pa = arrow("writing a parquet file", TraceError)
        # By column: gathered from a batch while it is fresh, which costs less than from many rows at once.
        self._held = {name: np.empty(ROWS_AT_ONCE, EVENT[name]) for name in columns()}
        self._nr_held = 0
        self._texts: dict[str, dict[str, int]] = {name: {} for name in TEXTS}
        self._nr_characters = 0
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
        done = 0
        while done < len(batch):
            count = min(len(batch) - done, ROWS_AT_ONCE - self._nr_held)
            here = slice(self._nr_held, self._nr_held + count)
            for name, column in self._held.items():
                column[here] = batch.rows[name][done : done + count]
            for name in TEXTS:
                self._join_texts(name, self._held[name][here], batch.texts(name))
            done += count
            self._nr_held += count
            if self._nr_held == ROWS_AT_ONCE or self._nr_characters > TEXTS_AT_ONCE:
                self.flush()

    def _join_texts(self, name: str, places: np.ndarray, texts: list[str]) -> None:
        """
        Places in the table of a batch become places in the table of the rows that are held.
        """
        table = self._texts[name]
        self._nr_characters += sum(map(len, texts))
        joined = np.array([table.setdefault(text, len(table)) for text in texts], np.int32)
        there = places >= 0
        places[there] = joined[places[there]]

    def finish(self, manifest: dict[str, Any], proc: Mapping[str, str] | None = None) -> None:
        """
        Write what is left, give the file its metadata and its name. proc: /proc texts of the machine, by name.
        """
        if self._nr_held or self._writer is None:
            self.flush()
        metadata = {METADATA_KEY: json.dumps(manifest).encode()}
        if proc:
            metadata[PROC_KEY] = json.dumps(dict(proc)).encode()
        if len(self._parts) > 1:
            self._close_part({})
            self._join(metadata)
        else:
            self._close_part(metadata)
        os.replace(self._parts[0], self.path)

    def flush(self) -> None:
        """
        Write what is held. ``too_large`` then counts all numbers so far that their column cannot hold; they are null.
        """
        rows = self._nr_held
        arrays = {name: array for name in columns() if (array := self._array(name)) is not None}
        self._filled |= arrays.keys()
        names = tuple(name for name in columns() if name in self._filled)
        if self._writer is None or names != self._columns[-1]:
            self._close_part({})
            self._columns.append(names)
            self._writer = self._open_part(self._schema(names))
        schema = self._schema(names)
        if rows:
            arrays["phase"] = self._pa.array(np.full(rows, PHASE, np.int8))
            made = [arrays[one.name] if one.name in arrays else self._pa.nulls(rows, one.type) for one in schema]
            self._writer.write_table(self._pa.Table.from_arrays(made, schema=schema))
        self.rows += rows
        self._nr_held = self._nr_characters = 0
        self._texts = {name: {} for name in TEXTS}

    def _open_part(self, schema: Any) -> Any:
        assert self._folder is not None
        path = Path(self._folder.name) / f"{len(self._parts)}.parquet"
        self._parts.append(path)
        few = [name for name in schema.names if name not in MANY_VALUES]
        return self._pa.parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=few)

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

    def _array(self, name: str) -> Any | None:
        """
        A column as Arrow: numbers with nulls, or texts by their tables. None if it has nothing but nulls.
        """
        pa, values = self._pa, self._held[name][: self._nr_held]
        null = values == NULLS[values.dtype.itemsize]
        if null.all() and name not in ALWAYS:
            return None
        if name in TEXTS:
            indices = pa.array(np.where(null, 0, values), pa.int32(), mask=null)
            return pa.DictionaryArray.from_arrays(indices, pa.array(list(self._texts[name]), pa.string()))
        if name == "event":
            return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int8)), pa.array(KNOWN, pa.string()))
        kind = np.dtype(ARROW[name])
        if kind.itemsize < values.dtype.itemsize:
            limits = np.iinfo(kind)
            large = ~null & ((values < limits.min) | (values > limits.max))
            self.too_large += int(large.sum())
            null |= large
            values = np.where(null, 0, values)
        return pa.array(values.astype(kind), mask=null)

    def _schema(self, names: tuple[str, ...]) -> Any:
        pa = self._pa
        types = {"text": pa.dictionary(pa.int32(), pa.string()), "event": pa.dictionary(pa.int8(), pa.string())}
        fields = [(name, types.get(ARROW[name]) or pa.from_numpy_dtype(np.dtype(ARROW[name]))) for name in names]
        return pa.schema([*fields, ("phase", pa.int8())])
