"""
Traces made by hand: formats of several kernels, ring-buffer sub-buffers, trace.dat files, lines of text.

What a kernel writes is written here a second time, from its documented layout and not with the readers' code, so that
a reader and its test do not share a mistake. Times are nanoseconds, payloads the bytes of an event.
"""

import dataclasses
import struct
import zlib

import pyarrow as pa

PAGE = 4096
HEADER_PAGE = (
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
    "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
    "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
    "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n"
)
HEADER_EVENT = "# compressed entry header\n\ttype_len    :    5 bits\n"
SIZES = {"unsigned long": "Q", "gfp_t": "I", "unsigned int": "I", "int": "i", "bool": "B", "u8": "B", "long": "q"}

# Kernel -> event -> (number, fields, how it is printed). Field orders and widths differ on purpose as they did.
_PAGE = (("unsigned long", "pfn"), ("unsigned int", "order"))
_TYPED = (*_PAGE, ("int", "migratetype"))
_FALLBACK = (
    ("unsigned long", "pfn"),
    *((("int", name)) for name in ("alloc_order", "fallback_order", "alloc_migratetype", "fallback_migratetype")),
    ("int", "change_ownership"),
)
KERNELS = {
    "5.10": {
        "mm_page_alloc": (300, (*_PAGE, ("gfp_t", "gfp_flags"), ("int", "migratetype")), "page=%p pfn=%lu"),
        "mm_page_free": (301, _PAGE, "page=%p pfn=%lu order=%d"),
        "mm_page_free_batched": (302, (("unsigned long", "pfn"),), "page=%p pfn=%lu order=0"),
        "mm_page_alloc_zone_locked": (303, _TYPED, "pfn=%lu order=%u migratetype=%d percpu_refill=%d"),
        "mm_page_pcpu_drain": (304, _TYPED, "page=%p pfn=%lu order=%d migratetype=%d"),
        "mm_page_alloc_extfrag": (305, _FALLBACK, "page=%p pfn=%lu alloc_order=%d"),
        "sched_switch": (310, (("int", "prev_pid"),), "prev_pid=%d"),
        "print": (5, (("unsigned long", "ip"),), "%ps: %s"),
    },
    "6.6": {
        "mm_page_alloc": (
            520,
            (*_PAGE, ("unsigned long", "gfp_flags"), ("int", "migratetype")),
            "page=%p pfn=0x%lx order=%d migratetype=%d gfp_flags=%s",
        ),
        "mm_page_free": (521, _PAGE, "page=%p pfn=0x%lx order=%d"),
        "mm_page_free_batched": (522, (("unsigned long", "pfn"),), "page=%p pfn=0x%lx order=0"),
        "mm_page_alloc_zone_locked": (523, (*_TYPED, ("int", "percpu_refill")), "percpu_refill=%d"),
        "mm_page_pcpu_drain": (524, _TYPED, "page=%p pfn=0x%lx order=%d migratetype=%d"),
        "mm_page_alloc_extfrag": (525, _FALLBACK, "page=%p pfn=0x%lx alloc_order=%d"),
        "contention_begin": (530, (("unsigned long", "lock_addr"), ("unsigned int", "flags")), "%p (flags=%s)"),
        "contention_end": (531, (("unsigned long", "lock_addr"), ("int", "ret")), "%p (ret=%d)"),
        "sched_switch": (310, (("int", "prev_pid"),), "prev_pid=%d"),
        "print": (5, (("unsigned long", "ip"),), "%ps: %s"),
    },
}


@dataclasses.dataclass
class Kernel:
    """
    The events of one kernel, as format files and as payloads.
    """

    release: str

    def layout(self, name):
        """
        (field -> (byte, struct letter), size), aligned as a C struct behind the eight common bytes.
        """
        at, found = 8, {}
        for kind, field in KERNELS[self.release][name][1]:
            size = struct.calcsize(SIZES[kind])
            at = (at + size - 1) // size * size
            found[field] = (at, SIZES[kind])
            at += size
        return found, at

    def format(self, name):
        """
        The ``format`` file.
        """
        number, fields, printed = KERNELS[self.release][name]
        lines = [f"name: {name}", f"ID: {number}", "format:"]
        common = (("unsigned short", "common_type", 0, 2, 0), ("unsigned char", "common_flags", 2, 1, 0))
        common += (("unsigned char", "common_preempt_count", 3, 1, 0), ("int", "common_pid", 4, 4, 1))
        for kind, field, offset, size, signed in common:
            lines.append(f"\tfield:{kind} {field};\toffset:{offset};\tsize:{size};\tsigned:{signed};")
        layout, _ = self.layout(name)
        lines.append("")
        for kind, field in fields:
            offset, letter = layout[field]
            signed = int(letter.islower())
            lines.append(
                f"\tfield:{kind} {field};\toffset:{offset};\tsize:{struct.calcsize(letter)};\tsigned:{signed};"
            )
        if name == "print":
            lines.append("\tfield:char buf[];\toffset:16;\tsize:0;\tsigned:0;")
        return "\n".join([*lines, "", f'print fmt: "{printed}", REC->x', ""])

    def formats(self):
        """
        All of them.
        """
        return [self.format(name) for name in KERNELS[self.release]]

    def event(self, name, pid=1, irq=0, preempt=0, text=None, **fields):
        """
        The payload of an event.
        """
        layout, size = self.layout(name)
        data = bytearray(size)
        struct.pack_into("<HBBi", data, 0, KERNELS[self.release][name][0], irq, preempt, pid)
        for field, value in fields.items():
            at, letter = layout[field]
            bits = struct.calcsize(letter) * 8
            struct.pack_into("<" + letter, data, at, value if letter.islower() else value & (1 << bits) - 1)
        return bytes(data) + (b"" if text is None else text + b"\0")


def record(delta, payload):
    """
    One event of a ring buffer: its head, and time bits before it where they are needed.
    """
    payload = payload + bytes(-len(payload) % 4)
    extend = b""
    if delta >= 1 << 27:
        extend, delta = struct.pack("<II", 30 | (delta & (1 << 27) - 1) << 5, delta >> 27), 0
    if len(payload) <= 28 * 4:
        return extend + struct.pack("<I", len(payload) // 4 | delta << 5) + payload
    return extend + struct.pack("<II", delta << 5, len(payload) + 4) + payload


def page(ts_ns, data, *, missed=None, size=PAGE, count_size=8):
    """
    One sub-buffer. missed: events lost before it, -1 for an unknown number.
    """
    used = len(data)
    if missed is not None:
        used |= 1 << 31
        if missed >= 0:
            used |= 1 << 30
            data = data + struct.pack("<q", missed)[:count_size]
    head = struct.pack("<Q", ts_ns) + (used.to_bytes(count_size, "little"))
    whole = head + data
    assert len(whole) <= size
    return whole + bytes(size - len(whole))


def pages(events, size=PAGE):
    """
    The sub-buffers of one CPU, from [(ts_ns, payload)].
    """
    made, data, start, before = b"", b"", None, 0
    for ts_ns, payload in events:
        one = record(ts_ns - before if data else 0, payload)
        if data and len(data) + len(one) > size - 16:
            made += page(start, data, size=size)
            data, one = b"", record(0, payload)
        if not data:
            start = ts_ns
        data, before = data + one, ts_ns
    return made + (page(start, data, size=size) if data else b"")


def dat6(buffers, formats, *, cmdlines=b"", options=(), endian=0):
    """
    A trace.dat of version 6. buffers: {name: [bytes of each CPU]}, "" first.
    """
    cpus = len(next(iter(buffers.values())))
    out = b"\x17\x08\x44tracing6\0" + bytes([endian, 8]) + struct.pack("<I", PAGE)
    out += b"header_page\0" + struct.pack("<Q", len(HEADER_PAGE)) + HEADER_PAGE.encode()
    out += b"header_event\0" + struct.pack("<Q", len(HEADER_EVENT)) + HEADER_EVENT.encode()
    out += _format_parts(formats) + struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0)
    out += struct.pack("<Q", len(cmdlines)) + cmdlines + struct.pack("<I", cpus) + b"options  \0"
    for number, data in options:
        out += struct.pack("<HI", number, len(data)) + data
    others = [name for name in buffers if name]
    places = {}
    for name in others:
        places[name] = len(out) + 6
        out += struct.pack("<HI", 3, 8 + len(name) + 1) + bytes(8) + name.encode() + b"\0"
    out = bytearray(out + struct.pack("<H", 0))
    for name in buffers:
        if name:
            struct.pack_into("<Q", out, places[name], len(out))
        head = len(out)
        out += b"flyrecord\0" + bytes(16 * cpus)
        out += bytes(-len(out) % PAGE)
        for cpu, data in enumerate(buffers[name]):
            struct.pack_into("<QQ", out, head + 10 + 16 * cpu, len(out), len(data))
            out += data
        if not name:
            continue
    return bytes(out)


def _format_parts(formats):
    out = struct.pack("<I", 0) + struct.pack("<I", 1) + b"kmem\0" + struct.pack("<I", len(formats))
    for text in formats:
        out += struct.pack("<Q", len(text)) + text.encode()
    return out


def pack(codec, data):
    """
    A block as trace-cmd packs it.
    """
    return zlib.compress(data) if codec == "zlib" else pa.Codec("zstd").compress(data, asbytes=True)


def dat7(buffers, formats, *, codec="zstd", cmdlines=b"", options=(), page_size=PAGE, chunk_pages=2):
    """
    A trace.dat of version 7. buffers: {name: {cpu: bytes}}; codec: zstd, zlib or none.
    """
    out = bytearray(b"\x17\x08\x44tracing7\0" + bytes([0, 8]) + struct.pack("<I", PAGE))
    out += codec.encode() + b"\0" + b"1.5\0" + bytes(8)
    at_options = len(out) - 8
    packed = codec != "none"

    def section(number, data):
        place = len(out)
        body = struct.pack("<II", len(pack(codec, data)), len(data)) + pack(codec, data) if packed else data
        out.extend(struct.pack("<HHIQ", number, int(packed), 0, len(body)) + body)
        return place

    parts = [
        (
            16,
            b"header_page\0"
            + struct.pack("<Q", len(HEADER_PAGE))
            + HEADER_PAGE.encode()
            + b"header_event\0"
            + struct.pack("<Q", len(HEADER_EVENT))
            + HEADER_EVENT.encode(),
        ),
        (18, _format_parts(formats)[4:]),
        (21, struct.pack("<Q", len(cmdlines)) + cmdlines),
    ]
    listed = [(number, struct.pack("<Q", section(number, data))) for number, data in parts]
    listed += list(options)
    for name, cpus in buffers.items():
        place = len(out)
        out += struct.pack("<HHIQ", 3, int(packed), 0, 0) + bytes(-(len(out) + 16) % PAGE)
        told = struct.pack("<Q", place) + name.encode() + b"\0local\0" + struct.pack("<II", page_size, len(cpus))
        for cpu, data in cpus.items():
            at, body = len(out), data
            if packed:
                chunks = [data[i : i + chunk_pages * page_size] for i in range(0, len(data), chunk_pages * page_size)]
                blocks = [struct.pack("<II", len(pack(codec, one)), len(one)) + pack(codec, one) for one in chunks]
                body = b"".join(blocks)
                out += struct.pack("<I", len(chunks))
            out += body
            told += struct.pack("<IQQ", cpu, at, len(body))
        listed.append((3, told))
    data = b"".join(struct.pack("<HI", number, len(data)) + data for number, data in listed)
    struct.pack_into("<Q", out, at_options, section(0, data + struct.pack("<HIQ", 0, 8, 0)))
    return bytes(out)


def text_line(comm, pid, cpu, ts_ns, rest, *, flags=".....", tgid=None):
    """
    A line of tracefs.
    """
    group = "" if tgid is None else f"({tgid:>7}) "
    return f"{comm:>16}-{pid:<7} {group}[{cpu:03}] {flags} {ts_ns // 10**9:5}.{ts_ns // 1000 % 10**6:06}: {rest}\n"


def perf_line(comm, pid, cpu, ts_ns, rest, system="kmem"):
    """
    A line of perf script.
    """
    return f"{comm:>16} {pid:>7} [{cpu:03}] {ts_ns // 10**9:5}.{ts_ns // 1000 % 10**6:06}: {system}:{rest}\n"
