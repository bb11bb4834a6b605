"""
What /proc says of a machine's zones, read back: zoneinfo, pagetypeinfo, buddyinfo, and iomem where it is there.

Texts of Linux 5.10 to 7.3. A start state is made of them (startstate.py); files are looked for by their names.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import RecordingError
from ..names import HIGHATOMIC, ISOLATE, MIGRATETYPE_NAMES, MOVABLE, NR_MIGRATETYPES, NR_ORDERS, PAGEBLOCK_ORDER

__all__ = ["TEXTS", "Pageset", "ProcTexts", "ZoneText", "beside", "read_folder"]

TEXTS = ("zoneinfo", "pagetypeinfo", "buddyinfo", "iomem")
ENDINGS = ("", ".0", ".txt", ".before")
PLACES = ("", "before")
LARGEST_TEXT = 64 << 20
LONGEST_NUMBER = 12  # digits: no machine has so many pages
ZONES = ("DMA", "DMA32", "Normal", "Movable")  # of 64-bit machines; the index is the kernel's
WMARKS = ("min", "low", "high", "promo")

_ZONE = re.compile(r"^Node\s+(\d+),\s+zone\s+(\w+)\s*$")
_FREE = re.compile(r"^Node\s+(\d+),\s+zone\s+(\w+),\s+type\s+(\w+)\s+([\d> ]+)$")
_COUNTS = re.compile(r"^Node\s+(\d+),\s+zone\s+(\w+)\s+([\d ]+)$")
_NUMBER = re.compile(r"^\s+(?:pages )?(free|boost|min|low|high|promo|spanned|present|managed|cma)\s+(\d+)\s*$")
_KEYS = "start_pfn|reserved_highatomic|count|high|batch|high_min|high_max|vm stats threshold"
_KEYED = re.compile(rf"^\s+({_KEYS}):\s+(\d+)")
_CPU = re.compile(r"^\s+cpu:\s+(\d+)")
_RESERVE = re.compile(r"^\s+protection: \((\d+(?:, ?\d+)*)\)")
_RAM = re.compile(r"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) : System RAM\s*$", re.MULTILINE)


@dataclasses.dataclass(slots=True)
class Pageset:
    """
    The PCP of one CPU. high_min and high_max are None where the kernel is too old to have them.
    """

    count: int = 0
    high: int = 0
    batch: int = 1
    high_min: int | None = None
    high_max: int | None = None


@dataclasses.dataclass(slots=True)
class ZoneText:
    """
    One zone. watermark: without boost. free: chunks per order and type; blocks: per type. None: no text says.
    """

    node: int
    name: str
    pages_free: int = 0
    boost: int = 0
    watermark: list[int] = dataclasses.field(default_factory=lambda: [0, 0, 0, 0])
    spanned: int = 0
    present: int = 0
    managed: int = 0
    cma: int = 0
    start_pfn: int = 0
    reserved_highatomic: int | None = None
    lowmem_reserve: list[int] = dataclasses.field(default_factory=list)
    stat_threshold: int = 1
    pagesets: dict[int, Pageset] = dataclasses.field(default_factory=dict)
    free: np.ndarray | None = None
    blocks: np.ndarray | None = None

    @property
    def end_pfn(self) -> int:
        """
        The first page behind it.
        """
        return self.start_pfn + self.spanned


@dataclasses.dataclass(frozen=True, slots=True)
class ProcTexts:
    """
    Texts of one machine. notes: what had to be assumed for want of one, in words.
    """

    zones: list[ZoneText]
    ram: list[tuple[int, int]]
    texts: Mapping[str, str]
    notes: tuple[str, ...]


def read_folder(folder: str | os.PathLike[str]) -> dict[str, str]:
    """
    The texts that lie in a folder, or in its folder ``before``. Raises RecordingError if zoneinfo is not there.
    """
    found = _texts(Path(folder))
    if "zoneinfo" not in found:
        raise RecordingError(
            f"{folder} holds no zoneinfo; expected copies of /proc/zoneinfo, /proc/pagetypeinfo and /proc/buddyinfo, "
            "taken just before the trace began"
        )
    return found


def beside(source: str | os.PathLike[str]) -> dict[str, str]:
    """
    The texts that belong to a trace: in its folder if it is one, else in NAME.proc beside it. Empty if there are none.
    """
    path = Path(source)
    folders = [path] if path.is_dir() else [path.with_name(f"{path.name}.proc"), path.with_suffix(".proc")]
    for folder in folders:
        found = _texts(folder) if folder.is_dir() else {}
        if "zoneinfo" in found:
            return found
    return {}


def _texts(folder: Path) -> dict[str, str]:
    found = {}
    for name in TEXTS:
        candidates = [folder / place / f"{name}{ending}" for ending in ENDINGS for place in PLACES]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            continue
        try:
            with path.open("rb") as file:
                found[name] = file.read(LARGEST_TEXT).decode("utf-8", "replace")
        except OSError as error:
            raise RecordingError(f"{path} cannot be read: {error.strerror}") from None
    return found


def parse(texts: Mapping[str, str]) -> ProcTexts:
    """
    The zones that the texts describe, those without pages left out.

    Raises RecordingError for a text that is none of these, or of a machine that cannot be taken over.
    """
    zones = [zone for zone in _zoneinfo(texts["zoneinfo"]) if zone.managed and zone.name != "Device"]
    if not zones:
        raise RecordingError(
            "zoneinfo names no zone with managed pages; expected a copy of /proc/zoneinfo of the machine of the trace"
        )
    for zone in zones:
        if zone.name not in ZONES:
            raise RecordingError(
                f"zoneinfo has zone {zone.name}; zones {', '.join(ZONES)} of 64-bit machines are what can be taken over"
            )
        wrong = not zone.managed <= zone.present <= zone.spanned
        if wrong or not zone.pagesets or zone.end_pfn > 1 << 31:
            raise RecordingError(
                f"zoneinfo says of zone {zone.name} spanned {zone.spanned}, present {zone.present}, managed "
                f"{zone.managed}, {len(zone.pagesets)} pagesets, which cannot be; copy /proc/zoneinfo again"
            )
    by_name = {(zone.node, zone.name): zone for zone in zones}
    notes = []
    if "buddyinfo" in texts:
        _buddyinfo(texts["buddyinfo"], by_name)
    if "pagetypeinfo" in texts:
        _pagetypeinfo(texts["pagetypeinfo"], by_name)
    without = [zone for zone in zones if zone.blocks is None]
    if without and any(zone.free is not None for zone in without):
        notes.append("pagetypeinfo is missing: free chunks are taken to be movable, as buddyinfo does not name types")
    for zone in (zone for zone in zones if zone.free is None):
        zone.free = np.zeros((NR_ORDERS, NR_MIGRATETYPES), np.int64)
        for order in reversed(range(NR_ORDERS)):
            done = int((zone.free.sum(axis=1) << np.arange(NR_ORDERS)).sum())
            left = (zone.pages_free - done) >> order
            zone.free[order, MOVABLE] = left if order == NR_ORDERS - 1 else left & 1
        note = f"no text has the free lists of zone {zone.name}: its free pages are taken as the largest chunks"
        notes.append(note)
    ram = [(int(low, 16) >> 12, (int(high, 16) + 1) >> 12) for low, high in _RAM.findall(texts.get("iomem", ""))]
    return ProcTexts(zones, [part for part in ram if part[1] > part[0]], texts, tuple(notes))


def _zoneinfo(text: str) -> list[ZoneText]:
    zones: list[ZoneText] = []
    cpu: Pageset | None = None
    for line in text.splitlines():
        if match := _ZONE.match(line):
            zones.append(ZoneText(_whole(match[1], "zoneinfo"), match[2]))
            cpu = None
        elif not zones:
            continue
        elif match := _CPU.match(line):
            cpu = zones[-1].pagesets.setdefault(_whole(match[1], "zoneinfo"), Pageset())
        elif match := _KEYED.match(line):
            _keyed(zones[-1], cpu, match[1], _whole(match[2], "zoneinfo"))
        elif match := _RESERVE.match(line):
            zones[-1].lowmem_reserve = [_whole(part.strip(), "zoneinfo") for part in match[1].split(",")]
        elif cpu is None and (match := _NUMBER.match(line)):
            _numbered(zones[-1], match[1], _whole(match[2], "zoneinfo"))
    for zone in zones:
        if not zone.watermark[3]:
            zone.watermark[3] = 2 * zone.watermark[2] - zone.watermark[1]
        else:
            zone.watermark[3] -= zone.boost
        zone.watermark[:3] = [max(0, mark - zone.boost) for mark in zone.watermark[:3]]
    return zones


def _keyed(zone: ZoneText, cpu: Pageset | None, key: str, value: int) -> None:
    if key in ("start_pfn", "reserved_highatomic"):
        setattr(zone, key, value)
    elif key == "vm stats threshold":
        zone.stat_threshold = max(1, value)
    elif cpu is not None:
        setattr(cpu, key, value)


def _numbered(zone: ZoneText, key: str, value: int) -> None:
    if key in WMARKS:
        zone.watermark[WMARKS.index(key)] = value
    else:
        setattr(zone, {"free": "pages_free"}.get(key, key), value)


def _buddyinfo(text: str, zones: Mapping[tuple[int, str], ZoneText]) -> None:
    for line in text.splitlines():
        match = _COUNTS.match(line)
        zone = match and _zone_of(match, "buddyinfo", zones)
        if not match or not zone:
            continue
        counts = [_whole(part, "buddyinfo") for part in match[3].split()]
        if len(counts) != NR_ORDERS:
            raise RecordingError(
                f"buddyinfo has {len(counts)} orders in zone {zone.name}; {NR_ORDERS} (0 to {NR_ORDERS - 1}) are what "
                "can be taken over"
            )
        zone.free = np.zeros((NR_ORDERS, NR_MIGRATETYPES), np.int64)
        zone.free[:, MOVABLE] = counts


def _pagetypeinfo(text: str, zones: Mapping[tuple[int, str], ZoneText]) -> None:
    """
    Chunks per type, and blocks per type. A count that is printed as ">100000" is completed from buddyinfo.
    """
    order = re.search(r"^Page block order:\s*(\d{1,4})\b", text, re.MULTILINE)
    if not order or int(order[1]) != PAGEBLOCK_ORDER:
        seen = f"pageblocks of order {order[1]}" if order else "no page block order"
        raise RecordingError(
            f"pagetypeinfo has {seen}; order {PAGEBLOCK_ORDER} (2 MiB on x86-64) is what can be taken over"
        )
    types: list[int] = []
    fresh: dict[tuple[int, str], np.ndarray] = {}
    capped: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for line in text.splitlines():
        if line.startswith("Number of blocks type"):
            types = [_type(word) for word in line.split()[4:]]
        elif match := _FREE.match(line):
            key = (_whole(match[1], "pagetypeinfo"), match[2])
            if key not in zones:
                continue
            counts = fresh.setdefault(key, np.zeros((NR_ORDERS, NR_MIGRATETYPES), np.int64))
            for at, word in enumerate(match[4].replace("> ", ">").split()[:NR_ORDERS]):
                counts[at, _type(match[3])] = _whole(word.removeprefix(">"), "pagetypeinfo")
                if word.startswith(">"):
                    capped.setdefault(key, []).append((at, _type(match[3])))
        elif types and (match := _COUNTS.match(line)) and (zone := _zone_of(match, "pagetypeinfo", zones)):
            zone.blocks = _blocks(zone, types, match[3].split())
    for key, counts in fresh.items():
        zone = zones[key]
        for at, kind in capped.get(key, ()):
            if zone.free is not None:
                counts[at, kind] = max(counts[at, kind], zone.free[at].sum() - counts[at].sum() + counts[at, kind])
        zone.free = counts
        # Blocks are isolated for a moment; here they are what they were before: movable, nearly always.
        counts[:, MOVABLE] += counts[:, ISOLATE]
        counts[:, ISOLATE] = 0
        if zone.blocks is not None:
            zone.blocks[MOVABLE] += zone.blocks[ISOLATE]
            zone.blocks[ISOLATE] = 0
            if zone.reserved_highatomic is None:
                zone.reserved_highatomic = int(zone.blocks[HIGHATOMIC]) << PAGEBLOCK_ORDER


def _zone_of(match: re.Match[str], text: str, zones: Mapping[tuple[int, str], ZoneText]) -> ZoneText | None:
    return zones.get((_whole(match[1], text), match[2]))


def _blocks(zone: ZoneText, types: list[int], words: list[str]) -> np.ndarray:
    if len(words) < len(types):
        raise RecordingError(
            f"pagetypeinfo counts blocks of {len(words)} types in zone {zone.name} and names {len(types)}; copy "
            "/proc/pagetypeinfo again"
        )
    blocks = np.zeros(NR_MIGRATETYPES, np.int64)
    blocks[types] = [_whole(word, "pagetypeinfo") for word in words[: len(types)]]
    return blocks


def _whole(word: str, text: str) -> int:
    """
    A number of a text, which names it if it can be none.
    """
    if not word.isdecimal() or len(word) > LONGEST_NUMBER:
        raise RecordingError(
            f"{text} has {word[:20]!r} where a number of at most {LONGEST_NUMBER} digits should stand; copy "
            f"/proc/{text} again"
        )
    return int(word)


def _type(name: str) -> int:
    known = [kind.lower() for kind in MIGRATETYPE_NAMES]
    if name.lower() not in known:
        raise RecordingError(f"pagetypeinfo has migratetype {name!r}; {', '.join(MIGRATETYPE_NAMES)} are known")
    return known.index(name.lower())
