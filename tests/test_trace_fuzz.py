"""
Damaged traces, drawn by chance from a seed: whatever comes of one, it is rows that can be, or one sentence.

PCPBUDDY_FUZZ_SECONDS makes it longer; PCPBUDDY_FUZZ_SEED begins elsewhere. A failure names its seed. ``make fuzz`` is
guided by what the readers do (tests/fuzz); what it found once stands at the end.
"""

import gzip
import os
import struct
import time

import numpy as np
import pytest
from test_trace_text import MIXED
from tracedata import Kernel, dat6, dat7, pages

from pcpbuddy.errors import RecordingError, TraceError
from pcpbuddy.recording import proctexts
from pcpbuddy.trace import open_trace
from pcpbuddy.trace.schema import KNOWN

SECONDS = float(os.environ.get("PCPBUDDY_FUZZ_SECONDS", "0.6"))
SEED = int(os.environ.get("PCPBUDDY_FUZZ_SEED", "0"))
MOST_ROWS = 1_000_000


def _events(kernel):
    events = []
    for ns in range(0, 60000, 100):
        name = ("mm_page_free", "mm_page_alloc", "print", "sched_switch")[ns // 100 % 4]
        fields = {"mm_page_free": {"pfn": ns, "order": 1}, "mm_page_alloc": {"pfn": ns, "gfp_flags": 0xCC0}}
        text = b"a marker\n" if name == "print" else None
        events.append((ns << (ns % 7), kernel.event(name, pid=ns % 5, text=text, **fields.get(name, {}))))
    return pages(sorted(events, key=lambda one: one[0]))


OLD, NEW = Kernel("5.10"), Kernel("6.6")
WHOLE = {
    "text": MIXED,
    "dat6": dat6({"": [_events(OLD), _events(OLD)], "b": [_events(OLD), b""]}, OLD.formats(), cmdlines=b"1 a\n"),
    "dat7": dat7({"": {0: _events(NEW), 3: _events(NEW)}}, NEW.formats(), codec="none", cmdlines=b"1 a\n"),
    "zstd": dat7({"": {0: _events(NEW)}, "b": {3: _events(NEW)}}, NEW.formats(), codec="zstd"),
    "zlib": dat7({"": {0: _events(NEW)}}, NEW.formats(), codec="zlib"),
    "gzip": gzip.compress(MIXED),
}
WORDS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 29, 30, 31, 4096, 4080, 1 << 27]


def damaged(data, rng):
    """
    Some bytes changed, cut out, doubled, or cut off.
    """
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, len(data)))
        kind = int(rng.integers(0, 7))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at : at + 4] = struct.pack("<I", int(rng.choice(WORDS)))
        elif kind == 2:
            data[at : at + 8] = struct.pack("<Q", int(rng.choice(WORDS)) << int(rng.integers(0, 32)))
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 40))]
        elif kind == 4:
            there = int(rng.integers(0, len(data)))
            data[at:at] = data[there : there + int(rng.integers(1, 200))]
        elif kind == 5:
            data[at] = int(rng.integers(0, 256))
        elif rng.integers(0, 4) == 0:
            del data[at:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("form", WHOLE)
def test_damage_is_rows_or_one_sentence(tmp_path, form):
    path, until, seed = tmp_path / "trace", time.monotonic() + SECONDS, SEED
    while time.monotonic() < until:
        path.write_bytes(damaged(WHOLE[form], np.random.default_rng(seed)))
        try:
            look_at(path)
        except TraceError as error:
            text = str(error)
            assert text.startswith("trace"), f"seed {seed}: {text}"
            assert text.isprintable(), f"seed {seed}: {text}"
        except BaseException:
            print(f"seed {seed} of {form}")
            raise
        seed += 1
    assert seed > SEED + 10


def look_at(path):
    rows = 0
    with open_trace(path) as trace:
        for batch in trace.batches():
            rows += len(batch)
            assert rows < MOST_ROWS
            assert batch.rows["event"].min() >= 0
            assert batch.rows["event"].max() < len(KNOWN)
            for name in ("comm", "marker"):
                assert batch.rows[name].max() < len(batch.texts(name))
        health = trace.health()
    assert health.rows == rows == sum(cpu.rows for cpu in health.cpus)
    assert all(text.isprintable() for odd in (*health.odd, *health.damages) for text in [odd.what])


def test_a_number_behind_none_is_a_name_that_nobody_knows(tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(b"bash-1 [000] 1.5: mm_page_alloc: pfn=1 order=0 gfp_flags=nonex1000|none|0x10\n")
    with open_trace(path) as trace:
        (batch,) = trace.batches()
        assert batch.rows["gfp_flags"].tolist() == [0x10]
        assert trace.health().unknown_flags == {"nonex1000": 1}


ZONE = b"Node 0, zone Normal\n pages free 1\n spanned 512\n present 512\n managed 512\n cpu: 0\n start_pfn: 512\n"
TYPES = b"Page block order: 9\nNumber of blocks type Unmovable Movable Reclaimable\n"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"zoneinfo": ZONE + b" protection: ( )\n"}, None),
        ({"zoneinfo": ZONE + b" protection: (,1,)\n"}, None),
        ({"zoneinfo": ZONE.replace(b"managed 512", b"managed " + b"9" * 5000)}, "zoneinfo has '99999"),
        (
            {"zoneinfo": ZONE, "buddyinfo": b"Node 0, zone Normal" + b" 9" * 10 + b" " + b"9" * 19},
            "buddyinfo has '9999",
        ),
        ({"zoneinfo": ZONE, "pagetypeinfo": b"Page block order: " + b"9" * 5000}, "no page block order"),
        ({"zoneinfo": ZONE, "pagetypeinfo": TYPES + b"Node 0, zone Normal 1 2\n"}, "blocks of 2 types .* names 3"),
        (
            {"zoneinfo": ZONE, "pagetypeinfo": TYPES + b"Node 0, zone Normal, type Movable 1> 2\n"},
            "pagetypeinfo has '1>2'",
        ),
        ({"zoneinfo": ZONE, "pagetypeinfo": TYPES + b"Node 0, zone Normal, type Movable > 2\n"}, None),
    ],
)
def test_proc_texts_that_a_fuzzer_made(texts, words):
    texts = {name: text.decode() for name, text in texts.items()}
    if words is None:
        assert [zone.name for zone in proctexts.parse(texts).zones] == ["Normal"]
    else:
        with pytest.raises(RecordingError, match=words):
            proctexts.parse(texts)
