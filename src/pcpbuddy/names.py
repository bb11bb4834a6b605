"""
The kernel's numbers and their names: orders, migratetypes, allocation and GFP flags.

Numbers are those of Linux 7.3 (docs/reference/baseline.md, sections 1.1 to 1.13).
"""

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

MAX_PAGE_ORDER = 10
NR_ORDERS = MAX_PAGE_ORDER + 1
PAGEBLOCK_ORDER = 9
PAGEBLOCK_PAGES = 1 << PAGEBLOCK_ORDER
COSTLY_ORDER = 3
PCP_BATCH_SCALE_MAX = 5
FOLIO_BATCH = 31
WATERMARK_BOOST_FACTOR = 15000
MAX_CPUS = 512

# Migratetypes (1.2). UNKNOWN is ours: an allocation whose request nobody saw.
UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, CMA, ISOLATE = range(6)
NR_MIGRATETYPES = 6
NR_PCP_TYPES = 3
UNKNOWN = 7
MIGRATETYPE_NAMES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate")

# Allocation flags (1.13).
WMARK_MIN, WMARK_LOW, WMARK_HIGH, WMARK_PROMO = range(4)
ALLOC_NO_WATERMARKS = 0x4
ALLOC_OOM = 0x8
ALLOC_NON_BLOCK = 0x10
ALLOC_MIN_RESERVE = 0x20
ALLOC_CPUSET = 0x40
ALLOC_CMA = 0x80
ALLOC_NOFRAGMENT = 0x100
ALLOC_HIGHATOMIC = 0x200
ALLOC_NOLOCK = 0x400
ALLOC_KSWAPD = 0x800
ALLOC_RESERVES = ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_HIGHATOMIC | ALLOC_OOM

# Zone flags and per_cpu_pages flags (1.5, 1.7).
ZONE_BOOSTED_WATERMARK, ZONE_RECLAIM_ACTIVE, ZONE_BELOW_HIGH = 1, 2, 4
PCPF_PREV_FREE_HIGH_ORDER, PCPF_FREE_HIGH_BATCH = 1, 2

# GFP bits (1.12) and the composites that are printed by name (B-27).
GFP_BITS = {
    "__GFP_DMA": 0x1,
    "__GFP_HIGHMEM": 0x2,
    "__GFP_DMA32": 0x4,
    "__GFP_MOVABLE": 0x8,
    "__GFP_RECLAIMABLE": 0x10,
    "__GFP_HIGH": 0x20,
    "__GFP_IO": 0x40,
    "__GFP_FS": 0x80,
    "__GFP_ZERO": 0x100,
    "__GFP_DIRECT_RECLAIM": 0x400,
    "__GFP_KSWAPD_RECLAIM": 0x800,
    "__GFP_WRITE": 0x1000,
    "__GFP_NOWARN": 0x2000,
    "__GFP_RETRY_MAYFAIL": 0x4000,
    "__GFP_NOFAIL": 0x8000,
    "__GFP_NORETRY": 0x10000,
    "__GFP_MEMALLOC": 0x20000,
    "__GFP_COMP": 0x40000,
    "__GFP_NOMEMALLOC": 0x80000,
    "__GFP_HARDWALL": 0x100000,
    "__GFP_THISNODE": 0x200000,
    "__GFP_ACCOUNT": 0x400000,
    "__GFP_ZEROTAGS": 0x800000,
}
GFP_COMPOSITES = {
    "GFP_TRANSHUGE": 0x1C24CA,
    "GFP_TRANSHUGE_LIGHT": 0x1C20CA,
    "GFP_HIGHUSER_MOVABLE": 0x100CCA,
    "GFP_HIGHUSER": 0x100CC2,
    "GFP_USER": 0x100CC0,
    "GFP_KERNEL_ACCOUNT": 0x400CC0,
    "GFP_KERNEL": 0xCC0,
    "GFP_NOFS": 0xC40,
    "GFP_ATOMIC": 0x820,
    "GFP_NOIO": 0xC00,
    "GFP_NOWAIT": 0x2800,
    "GFP_DMA": 0x1,
    "GFP_DMA32": 0x4,
    "__GFP_RECLAIM": 0xC00,
}
GFP_HIGHUSER_MOVABLE = GFP_COMPOSITES["GFP_HIGHUSER_MOVABLE"]
GFP_KERNEL = GFP_COMPOSITES["GFP_KERNEL"]
GFP_ATOMIC = GFP_COMPOSITES["GFP_ATOMIC"]


def gfp_text(gfp: int) -> str:
    """
    Print GFP flags as the tracepoints do: composites first, greedily, then single bits (B-27).
    """
    if gfp == 0:
        return "none"
    parts = []
    for table in (GFP_COMPOSITES, GFP_BITS):
        for name, bits in table.items():
            if gfp & bits == bits:
                parts.append(name)
                gfp &= ~bits
    if gfp:
        parts.append(hex(gfp))
    return "|".join(parts)


def gfp_migratetype(gfp: int) -> int:
    """
    The migratetype of a request (B-25): neither bit U, MOVABLE M, RECLAIMABLE R.
    """
    return (gfp & 0x18) >> 3


# What an event record is (baseline section 17; rfc.md P-110 for those without a kernel counterpart).
EVENT_NAMES = (
    "none",
    "alloc",
    "free",
    "free_batched",
    "zone_locked",
    "extfrag",
    "pcpu_drain",
    "claim",
    "recover",
    "chunk",
    "pmerge",
    "disown",
    "own_link",
    "own_unlink",
    "remote_fail",
    "remote_push",
    "absorb",
    "adopt",
)
DISOWN_REASONS = ("free", "retype", "isolate", "offline")
