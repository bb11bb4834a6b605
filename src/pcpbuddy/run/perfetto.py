"""
A run for Perfetto: waits for locks and holds of locks as slices on the track of their CPU, arrows from who had a lock
to who waited for it, and counters of memory over time.
"""

import dataclasses
from typing import IO, TYPE_CHECKING

import numpy as np

from ..trace import _write, perfetto
from .locks import WHAT, Locks
from .overtime import series
from .timing import LOCKS

if TYPE_CHECKING:
    from . import Run

__all__ = ["export"]

EDGES_AT_ONCE = 1 << 16
_CPUS, _LANES, _ZONES, _COUNTERS = 0x1000, 0x10000, 0x100, 0x20000  # the first track of each kind
_MOST_LANES = 255
_WAIT = 64  # by so much the number of a wait's name is larger than that of the hold's
_NOTES = {1: "zone", 2: "PCP of CPU", 3: "lock"}
_WORDS = {"zone_lock": "zone lock", "pcp_lock": "PCP lock", "user_lock": "program's lock"}


def export(run: "Run", output: IO[bytes]) -> tuple[int, tuple[str, ...]]:
    """
    Write the file. Returns how many slices there are, and what the reader should know, a sentence each.
    """
    names, numbers = _names()
    label = f"{run.workload}, {run.policy}, {run.nr_cpus} CPUs"
    output.write(perfetto.head(label, names, dict(enumerate(WHAT, 1)), _NOTES))
    for cpu in range(run.nr_cpus):
        output.write(perfetto.track(_CPUS + cpu, f"CPU {cpu}", perfetto.ROOT, rank=cpu * (_MOST_LANES + 1)))
    _counters(run, output)
    if run.holds is None:
        return 0, ("the run has no log of its locks, so waits and holds are missing: `pcpbuddy run --log` keeps one",)
    found = _slices(run, numbers)
    _write_slices(run, found, output)
    notes = []
    left_out = int(run.manifest["config"]["log"]["left_out"])
    if left_out:
        last = _since(run, run.holds["to_ps"][-1:])[0] / 1e6
        notes.append(f"the log was full after {last:.3f} ms: {left_out} holds that ended later are missing")
    arrows = int((found.by > 0).sum())
    return len(found.begin), (*notes, f"{arrows} arrows from who had a lock to who waited for it")


@dataclasses.dataclass(slots=True)
class _Slices:
    """
    Slices by CPU, by beginning, the longer one first. Times in ps; note, lock and so on one of each.
    """

    begin: np.ndarray
    end: np.ndarray
    cpu: np.ndarray
    lock: np.ndarray
    name: np.ndarray
    what: np.ndarray
    to: np.ndarray
    by: np.ndarray

    def taken(self, which: np.ndarray) -> "_Slices":
        """
        Those, in that order.
        """
        fields = (field.name for field in dataclasses.fields(self))
        return _Slices(*(np.ascontiguousarray(getattr(self, name)[which]) for name in fields))


def _names() -> tuple[dict[int, str], np.ndarray]:
    """
    Names of slices by their numbers, and the numbers of holds by [what, kind].
    """
    names: dict[int, str] = {}
    numbers = np.zeros((len(WHAT), 8), np.int64)
    for what, lock in enumerate(WHAT):
        for kind, section in enumerate(LOCKS.get(lock, ("",))):
            numbers[what, kind] = 1 + 8 * what + kind
            words = f"{_WORDS[lock]}: {section.replace('_', ' ')}" if section else _WORDS[lock]
            names[1 + 8 * what + kind] = words
            names[1 + 8 * what + kind + _WAIT] = f"wait for {words}"
    return names, numbers


def _slices(run: "Run", numbers: np.ndarray) -> _Slices:
    """
    All waits and holds. The arrow to a hold that was waited for has the number of its row, and comes from the hold of
    the same lock before it.
    """
    log = run.holds
    assert log is not None
    what = Locks(run.nr_cpus, run.zones).what(log["lock"])
    name = numbers[what, log["kind"]]
    waits = np.flatnonzero((log["asked_ps"] < log["from_ps"]) | (log["from_ps"] < 0))
    holds = np.flatnonzero(log["from_ps"] >= 0)
    to, by = _arrows(log)
    none = np.zeros(len(waits), np.int64)
    never = log["from_ps"][waits] < 0
    found = _Slices(
        begin=np.concatenate([log["asked_ps"][waits], log["from_ps"][holds]]),
        end=np.concatenate([np.where(never, log["to_ps"][waits], log["from_ps"][waits]), log["to_ps"][holds]]),
        cpu=np.concatenate([log["cpu"][waits], log["cpu"][holds]]).astype(np.int64),
        lock=np.concatenate([log["lock"][waits], log["lock"][holds]]).astype(np.int64),
        name=np.concatenate([name[waits] + _WAIT, name[holds]]),
        what=np.concatenate([what[waits], what[holds]]).astype(np.int64) + 1,
        to=np.concatenate([none, to[holds]]),
        by=np.concatenate([none, by[holds]]),
    )
    return found.taken(np.lexsort((-found.end, found.begin, found.cpu)))


def _arrows(log: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Of each row the number of the arrow that leaves it, and of the one that comes to it; 0 for none.
    """
    to, by = np.zeros(len(log), np.int64), np.zeros(len(log), np.int64)
    got = np.flatnonzero(log["from_ps"] >= 0)
    order = got[np.argsort(log["lock"][got], kind="stable")]
    before, after = order[:-1], order[1:]
    one, other = log[before], log[after]
    handed = (one["lock"] == other["lock"]) & (other["asked_ps"] < other["from_ps"])
    handed &= (one["to_ps"] <= other["from_ps"]) & (one["to_ps"] >= other["asked_ps"])
    by[after[handed]] = to[before[handed]] = after[handed] + 1
    return to, by


def _write_slices(run: "Run", found: _Slices, output: IO[bytes]) -> None:
    lane = np.zeros(len(found.begin), np.uint8)
    if _write.lanes(found.begin, found.end, found.cpu, lane):
        raise AssertionError("more locks at a time that are not given back in turn than a CPU can have")
    for cpu, number in sorted(
        {(int(one), int(other)) for one, other in zip(found.cpu[lane > 0], lane[lane > 0], strict=True)}
    ):
        uuid, rank = _LANES + cpu * (_MOST_LANES + 1) + number, cpu * (_MOST_LANES + 1) + number
        output.write(perfetto.track(uuid, f"CPU {cpu}, at the same time", perfetto.ROOT, rank=rank))
    track = np.where(lane == 0, _CPUS + found.cpu, _LANES + found.cpu * (_MOST_LANES + 1) + lane)
    order = np.lexsort((-found.end, found.begin, track))
    found, track = found.taken(order), np.ascontiguousarray(track[order])
    edges = np.zeros(2 * len(track), np.int64)
    _write.edges(found.begin, found.end, track, edges)
    at = _since(run, np.where(edges & 1, found.end[edges >> 1], found.begin[edges >> 1]))
    in_time = np.argsort(at, kind="stable")
    edges, at = np.ascontiguousarray(edges[in_time]), np.ascontiguousarray(at[in_time])
    locks, note = np.unique(found.lock, return_inverse=True)
    notes = [_note(Locks(run.nr_cpus, run.zones), int(lock)) for lock in locks]
    for k in range(0, len(edges), EDGES_AT_ONCE):
        here = slice(k, k + EDGES_AT_ONCE)
        output.write(
            _write.slice_packets(
                edges[here], at[here], track, found.name, found.what, note.astype(np.int64), notes, found.to, found.by
            )
        )


def _note(locks: Locks, lock: int) -> bytes:
    """
    Which lock it is, as annotations.
    """
    what, zone, number = locks.place(lock)
    parts = [perfetto.note_text(1, zone)] if zone is not None else []
    if number is not None:
        parts.append(perfetto.note_number(2 if what == "pcp_lock" else 3, number))
    return b"".join(parts)


def _since(run: "Run", ps: np.ndarray) -> np.ndarray:
    """
    Nanoseconds since measuring began.
    """
    since: np.ndarray = np.maximum(ps.astype(np.int64) - round(run.metrics["time.before_ns"] * 1000), 0) // 1000
    return since


def _counters(run: "Run", output: IO[bytes]) -> None:
    """
    Memory over time, zone by zone.
    """
    for zone, name in enumerate(run.zones):
        columns = series(run.samples, [zone])
        at = _since(run, columns["t_ps"])
        parent = _ZONES + zone
        output.write(perfetto.track(parent, f"zone {name}", perfetto.ROOT, rank=(1 << 20) + zone))
        told = {"free pages": columns["free_pages"], "pages in PCPs": columns["parked_pages"]}
        if int(run.manifest["zones"][zone]["cma_pages"]):
            told["free CMA pages"] = columns["cma_free"]
        told |= {"pages in use": columns["allocated_pages"], "owned pageblocks": columns["owned_blocks"]}
        for order in range(columns["nr_free"].shape[1]):
            told[f"free pages of order {order}"] = columns["nr_free"][:, order] << order
        for number, (words, values) in enumerate(told.items()):
            uuid = _COUNTERS + 64 * zone + number
            output.write(perfetto.counter(uuid, words, parent, perfetto.COUNT, rank=number))
            output.write(_write.counter_packets(at, np.ascontiguousarray(values, np.int64), uuid))
