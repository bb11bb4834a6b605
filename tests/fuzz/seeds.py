"""
What the fuzzer begins with, for each reader: small traces that are whole, made by the helpers of the tests.
"""

import gzip
import itertools
import lzma
import struct
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pyarrow as pa
from test_start_states import zone_text
from test_trace_text import FIELDS, FRONTS, MIXED
from tracedata import HEADER_PAGE, PAGE, Kernel, dat6, dat7, page, perf_line, record, text_line

from pcpbuddy import Zone, procfs
from pcpbuddy.trace.schema import EVENTS

__all__ = ["BETWEEN", "FILE", "LONGEST", "PACKED", "READERS", "parts", "seeds", "words"]

FILE = "given.file"  # what an input is called: no word of a message by chance
BETWEEN = b"\n----\n"  # inputs of several files
LONGEST = 16384  # bytes of an input
SUB_BUFFER = 320  # bytes
READERS = ("tracefs", "report", "perf", "dat6", "dat7", "raw", "packed", "proc")
PARTS = {
    "raw": ("header_page", "formats.txt", "saved_cmdlines", "cpu0.raw", "cpu1.raw"),
    "proc": ("zoneinfo", "pagetypeinfo", "buddyinfo", "iomem"),
}
# The first byte of an input for "packed" says how the others become a file; 0: they are one.
PACKED = (
    bytes,
    gzip.compress,
    lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    lambda data: lzma.compress(data, preset=0),
)
OLD, NEW = Kernel("5.10"), Kernel("6.6")


def parts(reader: str, data: bytes) -> dict[str, bytes]:
    """
    The files that an input stands for.
    """
    if reader in PARTS:
        return dict(zip(PARTS[reader], data.split(BETWEEN, len(PARTS[reader]) - 1), strict=False))
    if reader == "packed":
        data = PACKED[data[0] % len(PACKED)](data[1:]) if data else b""
    return {FILE: data}


def words() -> set[bytes]:
    """
    Words that inputs are made of, beside bytes.
    """
    fields = {name for event in EVENTS.values() for field in event for name in field.names}
    return (
        {name.encode() + b":" for name in EVENTS}
        | {name.encode() + b"=" for name in fields}
        | {b"field:", b"offset:", b"size:", b"print fmt:", b"\nname: ", b"\nID: ", b"flyrecord\0", b"options  \0"}
        | {b"LOST ", b" EVENTS]\n", b"# tracer: nop\n", b"cpus=4\n", b"tracing_mark_write: ", b"GFP_KERNEL|__GFP_ZERO"}
        | {b"PERF_RECORD_LOST lost 5", b"# os release : 6.1\n", b"[003] d.h2. 12345.678901: ", b"(null)", BETWEEN}
    )


def seeds(reader: str) -> list[bytes]:
    """
    Whole inputs.
    """
    return {
        "tracefs": _tracefs,
        "report": lambda: [b"version = 7\ncpus=4\n" + one for one in _tracefs()],
        "perf": _perf,
        "dat6": _dat6,
        "dat7": _dat7,
        "raw": _raw,
        "packed": lambda: [bytes([how]) + pack(MIXED[:900]) for how, pack in _ways()] + [b"\1" + _dat7()[0]],
        "proc": _proc,
    }[reader]()


def _ways():
    """
    Each container once as a file, which damage breaks, and once packed after the damage.
    """
    return [*((0, pack) for pack in PACKED), *((how, bytes) for how in range(1, len(PACKED)))]


def _tracefs() -> list[bytes]:
    lines = [front + rest + "\n" for (front, _), (rest, _) in itertools.product(FRONTS[:3], FIELDS)]
    fronts = "".join(front + FIELDS[0][0] + "\n" for front, _ in FRONTS)
    other = "CPU:1 [LOST 5 EVENTS]\nCPU:2 [EVENTS DROPPED]\n# entries-in-buffer/entries-written: 4/9   #P:4\nnoise\n"
    other += text_line("b", 2, 1, 77000, "print: 0x1: wl:begin") + text_line("b", 2, 1, 1, "sched_switch: a=1") + "cut"
    return [text.encode() for text in ("# tracer: nop\n" + "".join(lines[::3]), fronts, other)] + [MIXED[:3000]]


def _perf() -> list[bytes]:
    lines = "".join(perf_line("a b", 7, at, 1000 * at, rest) for at, (rest, _) in enumerate(FIELDS))
    lost = "# os release : 6.1.0\n   a 1 [001] 1.5: PERF_RECORD_LOST lost 5\n\tffff81 call chain\n"
    return [(lost + lines).encode(), lines[:400].replace(" 7 [", " 7/8 [").encode()]


def _full(kernel: Kernel, start: int, *names: str, **options: int) -> bytes:
    """
    A small sub-buffer without a byte to spare: what is read too far is out of bounds.
    """
    data = b"".join(record(1 << 3 * at, kernel.event(name, pid=at % 3)) for at, name in enumerate(names))
    if options:
        return page(start, data, size=SUB_BUFFER, **options)
    left = SUB_BUFFER - 16 - len(data)  # for a head of 4 or 8 bytes, 16 bytes of fields, the text and its zero
    data += record(0, kernel.event("print", text=b"x" * (left - (4 if left <= 116 else 8) - 17)))
    return page(start, data, size=SUB_BUFFER)


def _cpu(kernel: Kernel, start: int = 0) -> bytes:
    new = ("contention_begin", "contention_end") if kernel is NEW else ("sched_switch",)
    return (
        _full(kernel, start + 9, "mm_page_free", missed=3)
        + _full(kernel, start, "mm_page_alloc", "mm_page_free", "mm_page_pcpu_drain", *new)
        + _full(kernel, start + 10**6, "mm_page_alloc_zone_locked", "mm_page_alloc_extfrag")
    )


def _few(kernel: Kernel) -> list[str]:
    names = ("mm_page_alloc", "mm_page_free", "print", "mm_page_alloc_zone_locked", "sched_switch")
    return [kernel.format(name) for name in names]


def _dat6() -> list[bytes]:
    options = ((5, b"Linux host 5.10.1 x86_64\0"), (4, b"local [global] mono\n"), (14, bytes([1] * 16)))
    options += ((2, b"CPU: 0\noverrun: 12\ncommit overrun: 1\ndropped events: 2\n\0"),)
    made = [
        dat6({"": [_cpu(OLD), _cpu(OLD, 5)]}, OLD.formats(), cmdlines=b"1 a\n2 b c\n", options=options[:2]),
        dat6({"": [_cpu(OLD)], "b": [_cpu(OLD, 7)]}, _few(OLD), cmdlines=b"1 a\n", options=options),
    ]
    return [one.replace(struct.pack("<I", PAGE), struct.pack("<I", SUB_BUFFER), 1) for one in made]


def _dat7() -> list[bytes]:
    cpus = {"": {0: _cpu(NEW), 3: _cpu(NEW, 5)}}
    options = ((5, b"Linux host 6.6.1 x86_64\0"), (14, bytes([1] * 16)), (2, b"CPU: 0\noverrun: 12\n\0"))

    def made(buffers: Any, formats: list[str], codec: str = "none") -> bytes:
        names = b"1 a\n2 b c\n"
        return dat7(buffers, formats, codec=codec, cmdlines=names, options=options, page_size=SUB_BUFFER)

    return [
        made({"": {0: _cpu(NEW)}}, NEW.formats()),
        made(cpus | {"b": {1: _cpu(NEW, 9)}}, _few(NEW)),
        *(made(cpus, _few(NEW), codec) for codec in ("zstd", "zlib")),
    ]


def _raw() -> list[bytes]:
    header = HEADER_PAGE.replace("4080", str(SUB_BUFFER - 16))
    one = ["".join(_few(NEW)).encode(), b"1 a\n2 b c\n", _cpu(NEW), _cpu(NEW, 7)]
    two = ["".join(_few(OLD)).encode(), b"", _cpu(OLD) + _cpu(OLD, 9)[:-100]]
    whole = page(3, record(0, NEW.event("mm_page_free", pfn=1)))
    return [BETWEEN.join([header.encode(), *rest]) for rest in (one, two)] + [BETWEEN.join([b"", *one[:2], whole])]


def _proc() -> list[bytes]:
    zone = Zone(4096, cpus=2, cma="4MiB")
    for cpu in range(2):
        zone.free(zone.alloc(0, cpu=cpu), cpu=cpu)
    texts = [procfs.zoneinfo([zone]), procfs.pagetypeinfo([zone]), procfs.buddyinfo([zone])]
    texts.append("00001000-017fffff : System RAM\n")
    counted = texts[1].replace(" 0 ", ">100000 ", 1)
    other = [zone_text(zone.name, old=True), counted, texts[2]]
    return [BETWEEN.join(text.encode() for text in made) for made in (texts, other, [zone_text(), texts[1], texts[2]])]
