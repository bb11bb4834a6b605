"""
The rows of a Parquet file that was imported, or recorded, as batches like those of a trace.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..arrow import arrow
from ..errors import TraceError
from .schema import EVENT, KNOWN, NULLS, TEXTS, Batch, blank, columns
from .source import first_line, shown
from .store import METADATA_KEY

__all__ = ["StoredRows"]

ROWS_AT_ONCE = 1 << 14
NEEDED = ("ts_ns", "cpu", "event")


class StoredRows:
    """
    A Parquet file of rows that is open.

    name: how messages call it. columns: those of the schema that it has. nr_rows: how many rows. facts: its manifest,
    empty where it has none. unknown: rows so far whose event no trace has, by name; they are in no batch.
    Raises TraceError for a file that is damaged, or has no such rows.
    """

    def __init__(self, path: Path) -> None:
        pa = self._pa = arrow("a parquet file", TraceError)
        self.name, self.path = path.name, path
        self.unknown: Counter[str] = Counter()
        try:
            self._file = pa.parquet.ParquetFile(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from None
        there = self._file.schema_arrow.names
        self.columns = tuple(name for name in columns() if name in there)
        lacks = [name for name in NEEDED if name not in there]
        if lacks:
            raise TraceError(
                f"{self.name} has no rows of a trace: column {lacks[0]} is not there; expected a file that "
                "`pcpbuddy import` made, or a recording"
            )
        self.nr_rows: int = self._file.metadata.num_rows
        self.facts = _facts(self._file.schema_arrow.metadata, self._file.metadata.metadata)

    @property
    def kernel(self) -> str | None:
        """
        The release that wrote the trace, where the file says it.
        """
        release = self.facts.get("kernel")
        return release if isinstance(release, str) else None

    def batches(self) -> Iterator[Batch]:
        """
        The rows in the order of the file, some thousands at a time.
        """
        template = blank()
        try:
            for stored in self._file.iter_batches(ROWS_AT_ONCE, columns=list(self.columns), use_threads=False):
                rows = np.repeat(template, stored.num_rows)
                texts: dict[str, list[str]] = {name: [] for name in TEXTS}
                for name in self.columns:
                    column = stored.column(name)
                    if name == "event":
                        rows[name] = self._events(column)
                    elif name in TEXTS:
                        rows[name], texts[name] = self._texts(column)
                    else:
                        rows[name] = self._numbers(name, column)
                known = rows["event"] >= 0
                yield Batch(rows if known.all() else rows[known], texts["comm"], texts["marker"])
        except (self._pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def arrow_batches(self) -> Iterator[Any]:
        """
        The same as Arrow has it, all columns of the file, for what writes columns.
        """
        try:
            yield from self._file.iter_batches(ROWS_AT_ONCE, use_threads=False)
        except (self._pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    @property
    def arrow_schema(self) -> Any:
        """
        Of the batches that Arrow has.
        """
        return self._file.schema_arrow

    def _numbers(self, name: str, column: Any) -> np.ndarray:
        kind = EVENT[name]
        try:
            whole = column.cast(self._pa.from_numpy_dtype(kind))
        except self._pa.ArrowInvalid:
            raise TraceError(
                f"{self.name} has numbers in column {name} that no trace has; expected at most {8 * kind.itemsize} bits"
            ) from None
        numbers: np.ndarray = whole.fill_null(NULLS[kind.itemsize]).to_numpy(zero_copy_only=False)
        return numbers

    def _events(self, column: Any) -> np.ndarray:
        """
        Codes of the events; -1 for one that no trace has, or none, which is counted.
        """
        places, names = self._texts(column)
        codes = np.array([KNOWN.index(name) if name in KNOWN else -1 for name in names] + [-1], np.int16)
        found = codes[np.where(places < 0, len(names), places)]
        for place, count in zip(*np.unique(places[found < 0], return_counts=True), strict=True):
            self.unknown[shown(names[place]) if place >= 0 else "(none)"] += int(count)
        return found

    def _texts(self, column: Any) -> tuple[np.ndarray, list[str]]:
        """
        Places in a list of those that occur, null as in a batch; and the list.
        """
        pa, null = self._pa, NULLS[4]
        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        indices = column.indices.cast(pa.int32()).fill_null(null).to_numpy(zero_copy_only=False)
        used = np.unique(indices[indices >= 0])
        renumber = np.zeros(int(used[-1]) + 1 if len(used) else 1, np.int32)
        renumber[used] = np.arange(len(used))
        texts = column.dictionary.take(pa.array(used)).cast(pa.string()).to_pylist()
        places = np.where(indices < 0, null, renumber[np.maximum(indices, 0)])
        return places, ["" if one is None else one for one in texts]

    def _damaged(self, error: BaseException) -> TraceError:
        return TraceError(
            f"{self.name} is truncated or no parquet file ({first_line(error)}); copy it again, or import it again"
        )


def _facts(*metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """
    What the file says of where it comes from.
    """
    for one in metadata:
        try:
            facts = json.loads((one or {}).get(METADATA_KEY, b"{}"))
        except ValueError:
            continue
        if isinstance(facts, dict) and facts:
            return facts
    return {}
