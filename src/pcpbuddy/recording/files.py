"""
The files of a recording as arrays.

Damage that the formats themselves can show ends here, with one sentence.
"""

import dataclasses
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..arrow import arrow
from ..errors import RecordingError

# A field that is null in the file. Page frames, orders, CPUs and flags never come near it.
MISSING = -(1 << 62)

COLUMNS = ("ts_ns", "cpu", "cpu_seq", "phase", "pfn", "order", "migratetype", "gfp_flags")
OPTIONAL_COLUMNS = ("zone", "pcp_cpu", "isolate", "fallback_order", "fallback_migratetype")
ARRAYS = ("pageblock_flags", "page_state", "page_order", "page_flags")

# Every event that a recording may hold, and the tracepoint systems of which any event is welcome.
EVENT_ORDER = (
    "mm_page_alloc",
    "mm_page_free",
    "mm_page_free_batched",
    "mm_page_alloc_zone_locked",
    "mm_page_pcpu_drain",
    "mm_page_alloc_extfrag",
    "pcp_alloc",
    "pcp_alloc_bulk",
    "pcp_alloc_tryfail",
    "pcp_free",
    "pcp_bulk_free",
    "free_one",
    "buddy_free",
    "claim",
    "set_pageblock",
    "move_block",
    "unreserve",
    "isolate",
    "putback",
    "block_isolate",
    "take_buddy",
    "decay",
    "vmfold",
    "drain_zone",
    "drain_zone_pages",
    "split",
    "print",
    "test_pages_isolated",
    "mm_migrate_pages",
    "mm_migrate_pages_start",
    "mark_victim",
    "mm_vmscan_kswapd_wake",
    "mm_vmscan_kswapd_sleep",
)
EVENTS = frozenset(EVENT_ORDER)
EVENT_FAMILIES = ("cma_", "mm_vmscan_", "mm_compaction_", "contention_")
EVENT_CODES = {name: code for code, name in enumerate(EVENT_ORDER)}
OTHER_EVENT = len(EVENT_ORDER)
TEXT_COLUMNS = ("marker", "comm")


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """
    The columns that a replay needs, one element a row; null is MISSING.

    event: index into names. first: the number in the file of the first of them.
    """

    label: str
    names: list[str]
    event: np.ndarray
    columns: dict[str, np.ndarray]
    first: int = 0

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.columns[name]
        except KeyError:
            raise AttributeError(name) from None

    def code(self, name: str) -> int:
        """
        The number of an event name, -1 if it does not occur.
        """
        return self.names.index(name) if name in self.names else -1

    def which(self, *names: str) -> np.ndarray:
        """
        A mask of the rows of these events.
        """
        return np.isin(self.event, [self.code(name) for name in names])

    @property
    def with_probes(self) -> bool:
        """
        Whether ``ora/*`` rows are there, which show the true order of operations.
        """
        return "pcp_alloc" in self.names or "pcp_free" in self.names


class RowFile:
    """
    The rows of a recording, batch by batch: memory grows with the batch, not with the file.

    nr_rows: how many there are. columns: the columns of the file. Raises RecordingError for a file that is not a
    recording, is damaged, or holds an event that no recording has.
    """

    def __init__(self, path: Path) -> None:
        self.label = path.name
        self._pa = arrow("a recording", RecordingError)
        self._parquet = _open_parquet(self._pa, path)
        self.columns = frozenset(self._parquet.schema_arrow.names)
        self.nr_rows: int = self._parquet.metadata.num_rows

    def event_names(self) -> frozenset[str]:
        """
        The events that occur.
        """
        found: set[str] = set()
        for batch in self.batches(["event"]):
            found |= {EVENT_ORDER[code] for code in np.unique(batch["event"]) if code != OTHER_EVENT}
        return frozenset(found)

    def batches(self, columns: Iterable[str], size: int = 1 << 16) -> Iterator[dict[str, np.ndarray]]:
        """
        Arrays of int64, one a column, of up to ``size`` rows at a time; null is MISSING.

        ``event`` is a position in EVENT_ORDER, or OTHER_EVENT for the welcome ones that are not in it. ``marker``
        and ``comm`` come as arrays of objects. A column that the file does not have is all MISSING.
        """
        pa = self._pa
        wanted = list(columns)
        done = 0
        try:
            there = [name for name in wanted if name in self.columns]
            for batch in self._parquet.iter_batches(size, columns=there, use_threads=False):  # each keeps memory
                arrays = {
                    name: self._array(pa, name, batch, done) if name in self.columns else _missing(batch.num_rows)
                    for name in wanted
                }
                done += batch.num_rows
                del batch
                yield arrays
                del arrays  # before the next ones are made
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.label, error) from None

    def _array(self, pa: Any, name: str, batch: Any, done: int) -> np.ndarray:
        column = batch.column(name)
        if name in TEXT_COLUMNS:
            return _texts(pa, column)
        if name != "event":
            return column.cast(pa.int64()).fill_null(MISSING).to_numpy()  # type: ignore[no-any-return]
        names, numbers = _events(pa, pa.chunked_array([column]))
        codes = np.array([EVENT_CODES.get(text, OTHER_EVENT) for text in names], np.int64)
        for code, text in enumerate(names):
            _known_event(self.label, text, numbers, code, done)
        return codes[numbers] if len(codes) else numbers


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """
    One snapshot: the JSON document and the per-page arrays.
    """

    label: str
    json: dict[str, Any]
    arrays: dict[str, np.ndarray]
    paths: tuple[Path, ...]


def read_rows(path: Path) -> Rows:
    """
    The rows of a recording.
    """
    pa = arrow("a recording", RecordingError)
    parquet = _open_parquet(pa, path)
    there = parquet.schema_arrow.names
    try:
        wanted = ["event", *COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in there)]
        table = parquet.read(columns=wanted)
        names, event = _events(pa, table["event"])
        columns = {
            name: table[name].cast(pa.int64()).fill_null(MISSING).to_numpy() for name in wanted if name != "event"
        }
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path.name, error) from None
    for name in OPTIONAL_COLUMNS:
        columns.setdefault(name, _missing(len(event)))
    for code, name in enumerate(names):
        _known_event(path.name, name, event, code)
    return Rows(path.name, names, event, columns)


def read_snapshot(base: Path, which: int) -> Snapshot | None:
    """
    Snapshot 0 or 1 of the recording whose files begin with ``base``; None if there is none.
    """
    document = base.with_name(f"{base.name}.snap{which}.json.zst")
    pages = base.with_name(f"{base.name}.snap{which}.npz")
    if not document.exists() and not pages.exists():
        return None
    for path, other in ((document, pages), (pages, document)):
        if not path.exists():
            raise RecordingError(f"{other.name} is there but {path.name} is not; a snapshot is both files")
    pa = arrow("a recording", RecordingError)
    try:
        with pa.CompressedInputStream(pa.OSFile(str(document)), "zstd") as file:
            loaded = json.loads(file.read())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RecordingError(
            f"{document.name} is truncated or damaged ({_first_line(error)}); copy or record it again"
        ) from None
    try:
        with pages.open("rb") as file, np.load(file) as archive:
            arrays = {name: archive[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RecordingError(
            f"{pages.name} is truncated or not a snapshot ({_first_line(error)}); copy or record it again"
        ) from None
    return Snapshot(f"{base.name}.snap{which}", loaded, arrays, (document, pages))


def _open_parquet(pa: Any, path: Path) -> Any:
    """
    The parquet file, if it is one and has the columns that every recording has.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise RecordingError(f"{path.name} cannot be read: {error.strerror}") from None
    if magic != b"PAR1":
        raise RecordingError(
            f"{path.name} is not a recording: it does not begin like a parquet file; give NAME.parquet of a recording"
        )
    try:
        # As they are, both would make memory grow with the file: read ahead, and whole columns of a row group.
        parquet = pa.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path.name, error) from None
    absent = [name for name in ("event", *COLUMNS) if name not in parquet.schema_arrow.names]
    if absent:
        raise RecordingError(f"{path.name} is a parquet file but not a recording: it has no column {', '.join(absent)}")
    return parquet


def _damaged(label: str, error: BaseException) -> RecordingError:
    return RecordingError(f"{label} is truncated or damaged ({_first_line(error)}); copy or record it again")


def _missing(rows: int) -> np.ndarray:
    return np.full(rows, MISSING, np.int64)


def _known_event(label: str, name: str, event: np.ndarray, code: int, first_row: int = 0) -> None:
    if name not in EVENTS and not name.startswith(EVENT_FAMILIES):
        row = first_row + int(np.argmax(event == code))
        raise RecordingError(
            f"{label}, row {row}: event {name!r} is none that a recording has; the file is damaged or "
            "comes from a newer recorder"
        )


def _events(pa: Any, column: Any) -> tuple[list[str], np.ndarray]:
    """
    The event column as (names, numbers), whether the file keeps it as a dictionary or as text.
    """
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    joined = column.unify_dictionaries().combine_chunks()
    if joined.null_count:
        raise RecordingError("a row has no event name; the file is damaged: copy or record it again")
    if not isinstance(joined, pa.DictionaryArray):  # an empty table
        return [], np.zeros(0, np.int64)
    names = joined.dictionary.cast(pa.string()).to_pylist()
    numbers = joined.indices.to_numpy().astype(np.int64)
    # A dictionary may hold names that no row uses; only those in use are judged.
    used = np.unique(numbers)
    renumber = np.zeros(len(names), np.int64)
    renumber[used] = np.arange(len(used))
    return [names[i] for i in used], renumber[numbers]


def _texts(pa: Any, column: Any) -> np.ndarray:
    """
    Text as objects, each different one made once.
    """
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    words = np.array([*column.dictionary.to_pylist(), None], object)
    texts: np.ndarray = words[column.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)]
    return texts


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
