#!/usr/bin/env drgn
"""
A full snapshot of the page allocator of a live kernel or a crash dump, in the form that pcpbuddy replays from.

    drgn contrib/drgn_snapshot.py NAME.snap0                                      # live, as root
    drgn contrib/drgn_snapshot.py NAME.snap1 /sys/kernel/tracing/instances/mine   # live, after the trace
    drgn -c vmcore contrib/drgn_snapshot.py NAME.snap0                            # a crash dump

It writes NAME.snapN.json.zst and NAME.snapN.npz; put them beside NAME.parquet, and `pcpbuddy replay NAME` starts there.
Needs drgn, numpy and pyarrow, debug information of the kernel, Linux 5.18 or newer on x86-64, one NUMA node.

NOT TRIED: where this was written no kernel with debug information could be reached. The fields are those that
src/pcpbuddy/recording/snapshot.py reads, and `pcpbuddy doctor NAME` says whether lists and pages agree. A live kernel
goes on while it is read: stop what can be stopped, and take it again if doctor says that parts do not belong together.
A snapshot belongs to a trace by the number of events that each CPU had written then: 0 before tracing begins, and
after it what the instance's per_cpu/cpuN/stats say (second argument).
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from drgn import sizeof
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import page_to_pfn, pfn_to_page
from drgn.helpers.linux.percpu import per_cpu_ptr

SECTION_PAGES = 1 << (27 - 12)  # x86-64
BLOCK_PAGES = 512
GLOBALS = ("percpu_pagelist_high_fraction", "watermark_boost_factor", "watermark_scale_factor", "min_free_kbytes")
kernel = prog  # noqa: F821 (drgn runs a script with the kernel as ``prog``)


def pfns(head, member):
    """
    The pages of a list, head first.
    """
    return [page_to_pfn(page).value_() for page in list_for_each_entry("struct page", head.address_of_(), member)]


def section_of(pfn):
    """
    The struct mem_section of a page; None where there is no memory.
    """
    per_root = 4096 // sizeof(kernel.type("struct mem_section"))
    number = pfn // SECTION_PAGES
    root = kernel["mem_section"][number // per_root]
    if not root:
        return None
    section = root[number % per_root]
    return section if section.section_mem_map.value_() & 2 else None  # SECTION_HAS_MEM_MAP


def block_bits():
    """
    Bits of a pageblock in pageblock_flags.
    """
    for name in ("NR_PAGEBLOCK_BITS", "__NR_PAGEBLOCK_BITS"):
        try:
            return 1 << (kernel.constant(name).value_() - 1).bit_length()
        except LookupError:
            pass
    raise SystemExit("this kernel has no NR_PAGEBLOCK_BITS in its debug information")


def page_arrays(max_pfn):
    """
    State, order, flags of all pages and flags of all pageblocks; free pages are put in from the lists afterwards.
    """
    size = sizeof(kernel.type("struct page"))
    head_at = kernel.type("struct page").member("compound_head").bit_offset // 8
    reserved, lru = (kernel.constant(name).value_() for name in ("PG_reserved", "PG_lru"))
    state, order = np.zeros(max_pfn, np.uint8), np.zeros(max_pfn, np.uint8)
    flags, blocks = np.zeros(max_pfn, np.uint32), np.full(-(-max_pfn // BLOCK_PAGES), 1, np.uint8)
    base, bits = pfn_to_page(kernel, 0).value_(), block_bits()
    tails = np.zeros(max_pfn, np.int64)
    for first in range(0, max_pfn, SECTION_PAGES):
        section = section_of(first)
        if section is None:
            continue
        last = min(first + SECTION_PAGES, max_pfn)
        words = np.frombuffer(kernel.read(base + first * size, (last - first) * size), np.uint64)
        words = words.reshape(last - first, size // 8)
        flags[first:last] = words[:, 0] & 0x1FFFFFF
        heads = words[:, head_at // 8]
        is_tail = (heads & np.uint64(1)) == 1
        state[first:last] = np.where(is_tail, 5, np.where(words[:, 0] >> np.uint64(reserved) & np.uint64(1), 1, 4))
        of = ((heads[is_tail] - np.uint64(1) - np.uint64(base)) // np.uint64(size)).astype(np.int64)
        np.add.at(tails, of[of < max_pfn], 1)
        bitmap = section.usage.pageblock_flags
        for block in range(first // BLOCK_PAGES, -(-last // BLOCK_PAGES)):
            at = (block - first // BLOCK_PAGES) * bits
            blocks[block] = bitmap[at // 64].value_() >> at % 64 & ((1 << bits) - 1)
    order[:] = np.round(np.log2(tails + 1)).astype(np.uint8)
    isolated = (blocks & 7) == 5  # until Linux 6.17 isolation was a type
    blocks[isolated] = 1 | 1 << 4
    assert lru == 5, "PG_lru has moved: set bit 5 of page_flags from it"
    return {"page_state": state, "page_order": order, "page_flags": flags, "pageblock_flags": blocks}


def pageset(zone, cpu, items):
    """
    The PCP of one CPU.
    """
    pcp, stats = per_cpu_ptr(zone.per_cpu_pageset, cpu), per_cpu_ptr(zone.per_cpu_zonestats, cpu)

    def field(name, other=0):
        return getattr(pcp, name).value_() if hasattr(pcp, name) else other

    lists = {str(index): pfns(pcp.lists[index], "pcp_list") for index in range(len(pcp.lists))}
    return {
        "cpu": cpu,
        **{name: field(name) for name in ("count", "high", "batch", "flags", "alloc_factor", "free_count", "expire")},
        "high_min": field("high_min", field("high")),
        "high_max": field("high_max", field("high")),
        "lists": lists,
        "vm_stat_diff": [stats.vm_stat_diff[number].value_() for number in range(items)],
        "stat_threshold": stats.stat_threshold.value_(),
    }


def zone_document(zone, index, items, cpus):
    """
    One zone.
    """
    watermark = zone._watermark
    areas = []
    for order in range(len(zone.free_area)):
        area = zone.free_area[order]
        lists = {str(kind): pfns(area.free_list[kind], "buddy_list") for kind in range(len(area.free_list))}
        areas.append({"order": order, "nr_free": area.nr_free.value_(), "free_list": lists})
    numbers = ("zone_start_pfn", "spanned_pages", "present_pages", "watermark_boost", "nr_reserved_highatomic", "flags")
    return {
        "index": index,
        "name": zone.name.string_().decode(),
        "node": zone.node.value_(),
        **{name: getattr(zone, name).value_() for name in numbers},
        "managed_pages": zone.managed_pages.counter.value_(),
        "cma_pages": zone.cma_pages.value_() if hasattr(zone, "cma_pages") else 0,
        "nr_free_highatomic": sum(len(area["free_list"].get("3", ())) << area["order"] for area in areas),
        "watermark": ([mark.value_() for mark in watermark] + [2 * watermark[2].value_() - watermark[1].value_()])[:4],
        "lowmem_reserve": ([pages.value_() for pages in zone.lowmem_reserve] + [0] * 5)[:5],
        "percpu_drift_mark": zone.percpu_drift_mark.value_(),
        "pageset_high_min": zone.pageset_high_min.value_() if hasattr(zone, "pageset_high_min") else 0,
        "pageset_high_max": zone.pageset_high_max.value_() if hasattr(zone, "pageset_high_max") else 0,
        "pageset_batch": zone.pageset_batch.value_(),
        "vm_stat": {name: zone.vm_stat[number].counter.value_() for name, number in items.items()},
        "free_area": areas,
        "pcp": [pageset(zone, cpu, len(zone.vm_stat)) for cpu in cpus],
    }


def entries(instance, cpu):
    """
    How many events a CPU has written into a tracing instance so far.
    """
    if instance is None:
        return 0
    stats = (instance / "per_cpu" / f"cpu{cpu}" / "stats").read_text()
    return sum(int(count) for count in re.findall(r"^(?:entries|overrun|read events): (\d+)", stats, re.MULTILINE))


def main(name, instance=None):
    """
    Read it all and write the two files.
    """
    cpus = sorted(for_each_online_cpu(kernel))
    node = kernel["node_data"][0] if "node_data" in kernel else kernel["contig_page_data"].address_of_()
    items = {item[0]: item[1] for item in kernel.type("enum zone_stat_item").enumerators}
    del items["NR_VM_ZONE_STAT_ITEMS"]
    items.setdefault("NR_FREE_PAGES_BLOCKS", items["NR_FREE_PAGES"])  # until Linux 6.14: worked out below
    zones = [node.node_zones[index] for index in range(len(node.node_zones))]
    made = [
        zone_document(zone, index, items, cpus) for index, zone in enumerate(zones) if zone.managed_pages.counter > 0
    ]
    for zone in made:
        large = sum(len(p) << a["order"] for a in zone["free_area"] if a["order"] > 8 for p in a["free_list"].values())
        zone["vm_stat"]["NR_FREE_PAGES_BLOCKS"] = large
    max_pfn = max(zone["zone_start_pfn"] + zone["spanned_pages"] for zone in made)
    arrays = page_arrays(max_pfn)
    for zone in made:
        chunks = [(2, a["order"], head) for a in zone["free_area"] for p in a["free_list"].values() for head in p]
        for pcp in zone["pcp"]:
            for index, heads in pcp["lists"].items():
                chunks += [(3, 9 if int(index) > 11 else int(index) // 3, head) for head in heads]
        for state, order, head in chunks:
            arrays["page_state"][head : head + (1 << order)] = state
            arrays["page_order"][head : head + (1 << order)] = 0
            arrays["page_order"][head] = order
    document = {
        "kernel": kernel["init_uts_ns"].name.release.string_().decode(),
        "max_pfn": max_pfn,
        "online_cpus": cpus,
        "zone_stat_items": items,
        "globals": {key: kernel[key].value_() for key in GLOBALS if key in kernel},
        "ring": [{"cpu": cpu, "entries": entries(instance, cpu)} for cpu in range(max(cpus) + 1)],
        "zones": made,
    }
    with pa.CompressedOutputStream(f"{name}.json.zst", "zstd") as file:
        file.write(json.dumps(document).encode())
    np.savez_compressed(f"{name}.npz", **arrays)
    print(f"{name}.json.zst and {name}.npz written")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(sys.argv[1], *map(Path, sys.argv[2:]))
