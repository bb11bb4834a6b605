"""
The compiled core's faces: what each method takes, returns and raises.

Page frames are absolute pfns. ``cpu`` executes an operation; ``by`` names another executing CPU
where the work concerns a CPU that may be off-line. Rule numbers are those of docs/reference.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from ..config import Policy
from ..contig import ContigResult

Move = Callable[[int, int, int], bool | None]

class Zone:
    """
    One zone and its per-CPU lists under one policy; see ``pcpbuddy.Zone`` for the arguments.
    """

    policy: Policy
    name: str
    flags: int
    """Zone flags: 1 BOOSTED_WATERMARK, 2 RECLAIM_ACTIVE, 4 BELOW_HIGH. Settable."""

    def __init__(
        self,
        pages: int,
        *,
        cpus: int = 1,
        policy: str | Policy = "fixed",
        cma_pages: int = 0,
        start_pfn: int = 0,
        zone_index: int = 0,
        name: str = "Normal",
        batch: int | None = None,
        high_min: int | None = None,
        high_max: int | None = None,
        stat_threshold: int | None = None,
        watermark: Sequence[int] | None = None,
        llc_pages: int = 512,
        memory: object = None,
    ) -> None:
        """
        memory: a writable buffer, all zero, for the state (zone_bytes says how much); None: memory of its own.
        """

    @classmethod
    def attached(cls, memory: object, policy: Policy, name: str = "Normal") -> Self:
        """
        The zone whose state lies in this memory already. ConfigError: none does, or not under this policy.
        """
    @property
    def cpus(self) -> int: ...
    @property
    def pages(self) -> int: ...
    @property
    def managed(self) -> int: ...
    @property
    def start_pfn(self) -> int: ...
    @property
    def zone_index(self) -> int: ...
    @property
    def meta_bytes(self) -> int: ...
    def alloc(self, order: int = 0, migratetype: int = 1, cpu: int = 0, aflags: int = -1) -> int:
        """
        Allocate 2^order pages (B-60, P-31). Returns the first pfn.

        aflags: allocation flags (baseline 1.13); -1: WMARK_LOW, and CMA for movable requests. No
        watermark is tested here; that is the node's.
        Raises UsageError (order 0..10, migratetype 0..2, cpu), CpuOffline, OutOfPages.
        """

    def free(self, pfn: int, cpu: int = 0, order: int = -1, irq: bool = False, nolock: bool = False) -> None:
        """
        Free an allocation by its first pfn (B-80, P-40). order: -1, or the order it was taken with.

        irq: from interrupt context, which never waits for another CPU's PCP lock (P-42).
        nolock: B-92, never waits at all. Raises BadFree, UsageError, CpuOffline.
        """

    def alloc_bulk(self, n: int, migratetype: int = 1, cpu: int = 0) -> list[int]:
        """
        Up to n single pages (B-93); an empty list when there is none.
        """

    def free_batch(self, pfns: Iterable[int], cpu: int = 0) -> None:
        """
        Free allocations in groups of 31 folios (B-91, P-47).
        """

    def free_contig(self, pfn: int, n: int, cpu: int = 0) -> None:
        """
        Free n single pages that lie side by side, in the largest aligned pieces (B-94).
        """

    def split(self, pfn: int) -> None:
        """
        An allocation of order o becomes 2^o of order 0, as the kernel's split_page does.
        """

    def take(self, order: int, migratetype: int, aflags: int = 1, cpu: int = 0) -> int: ...
    def free_direct(self, pfn: int, cpu: int = 0, to_tail: bool = False) -> None: ...
    def set_movable(self, pfn: int, movable: bool = True) -> None:
        """
        Say that an allocation is on an LRU list or migratable: an input of claims (B-46) and isolation.
        """

    def drain(self, cpu: int | None = None, n: int | None = None, start: int = 0, by: int | None = None) -> None:
        """
        Drain all PCPs, one CPU's, or about n pages of one CPU's from type ``start`` on (B-100, P-60).
        """

    def tick(self, cpu: int = 0) -> None:
        """
        The vmstat tick of a CPU: fold, decay, expiry (B-101 to B-103).
        """

    def fold(self, cpu: int = 0) -> None:
        """
        A CPU's counter deltas into the globals (B-17).
        """

    def decay(self, cpu: int = 0) -> None:
        """
        Lower ``high`` and drain what exceeds it (B-102).
        """

    def offline(self, cpu: int) -> None:
        """
        Drain, fold and disown a CPU (B-105, P-85). Raises CpuOffline for the last one.
        """

    def online(self, cpu: int) -> None: ...
    def isolate(self, pfn: int, cma: bool = False, check: bool = True, by: int | None = None) -> bool:
        """
        Isolate the pageblock of pfn (B-110). False: refused. check=False ignores unmovable pages.
        """

    def unisolate(self, pfn: int, by: int | None = None) -> bool:
        """
        Undo an isolation (B-111). False: it was not isolated.
        """

    def alloc_contig_range(
        self, start: int, end: int, *, cma: bool = False, move: Move | None = None, cpu: int = 0
    ) -> ContigResult:
        """
        Pages [start, end), whatever is movable there moved out (B-112, CT-1 to CT-8).

        cma: for a CMA allocation. move(old_pfn, new_pfn, order): moves the contents of an allocation, and notes where
        it is from then on; False refuses, nothing said is a yes. Without it all moves are granted. The pages are
        allocations of order 0, not movable; ``free_contig`` gives them back. A failure is no exception: the result
        says what stood in the way. What ``move`` raises comes out after everything has been put back.
        Raises UsageError, CpuOffline.
        """

    def cma_alloc(
        self, count: int, align: int = 0, *, area: int = 0, move: Move | None = None, cpu: int = 0
    ) -> ContigResult:
        """
        ``count`` pages of a CMA area (numbers as in ``cma_areas``), the first pfn a multiple of 2^align (B-112, CT-9).

        First fit; a busy range is given up for the next aligned position. ``cma_release`` gives it back.
        """

    def cma_release(self, pfn: int, count: int, cpu: int = 0) -> None:
        """
        Give back pages that ``cma_alloc`` handed out, all of a range or some. Raises UsageError for others.
        """

    def cma_areas(self) -> list[tuple[int, int]]:
        """
        Runs of whole CMA blocks, ascending: (first pfn, pages).
        """

    def offline_pages(self, start: int, pages: int, *, move: Move | None = None, cpu: int = 0) -> ContigResult:
        """
        Memory goes off-line: whole pageblocks, emptied as by ``alloc_contig_range``, become holes (CT-10, CT-11).
        """

    def online_pages(self, start: int, pages: int, cpu: int = 0) -> None:
        """
        Memory comes on-line where it was off-line: free and movable (CT-12). Raises UsageError for anything but holes.
        """

    def unreserve(self, force: bool = False, migratetype: int = 1, by: int | None = None) -> bool:
        """
        Give back one high-atomic block (B-71). False: there was none to give.
        """

    def watermark_ok(self, order: int, mark: int, aflags: int = 0, hz: int = 0) -> bool:
        """
        B-73 with the visible counters.
        """

    def fail_trylocks(self, mask: int) -> None:
        """
        For the next operation: its k-th trylock fails if bit k is set.
        """

    def check(self) -> None:
        """
        Verify the invariants of rfc.md section 14 and the accounting. Raises Corruption.
        """

    def counters(self, cpu: int | None = None) -> dict[str, int]:
        """
        What was counted (P-111), of one CPU or summed.
        """

    def census(self) -> dict[str, Any]:
        """
        What is there now: nr_free (11 x 6 chunks), blocks_by_type, blocks_mixed, parked, allocated, owned.
        """

    def walk_lengths(self) -> Any:
        """
        Histogram (64,) of owned_blocks walk lengths in blocks; the last bin is 63 and more.
        """

    def cma_by_phase(self) -> Any:
        """
        Pages that movable refills obtained: (4, 2, 2), [phase][the 50 % rule said CMA][page is CMA].
        """

    def trace(self, capacity: int = 65536) -> None:
        """
        Switch the event ring on, empty, for at least ``capacity`` events; 0 switches it off.
        """

    @property
    def events_lost(self) -> int: ...
    def events(self) -> list[tuple[Any, ...]]:
        """
        Events, oldest first: (name, cpu, pfn, ...) in the order of the kernel's fields (section 17, P-110).
        """

    def snapshot(self) -> bytes:
        """
        The whole state as bytes; equal states of one history are equal bytes.
        """

    def restore(self, snapshot: bytes) -> None: ...
    def summary(self) -> dict[str, Any]: ...
    def state(self) -> dict[str, Any]:
        """
        The whole state as plain objects: lists in order, blocks, PCPs, allocations.
        """

    @classmethod
    def from_state(cls, state: Mapping[str, Any], policy: str | Policy = "fixed") -> Self: ...

class Node:
    """
    Several zones of one node; see ``pcpbuddy.Node``.
    """

    zones: list[Zone]
    zone_class: ClassVar[type[Zone]]

    def __init__(self, zones: Iterable[Zone]) -> None: ...
    @classmethod
    def from_state(cls, state: Mapping[str, Any], policy: str | Policy = "fixed") -> Self: ...
    @property
    def cpus(self) -> int: ...
    def describe(self, pfn: int) -> str:
        """
        Where a page is, in words. Raises BadFree if in no zone.
        """

    def alloc(self, order: int = 0, gfp: int = 0x100CCA, cpu: int = 0) -> int:
        """
        Allocate as the kernel's entry point does: zone, type and flags from gfp (B-25 to B-29, B-75, B-76).

        Nothing is reclaimed here; where the kernel would, the drain and unreserve that follow still happen.
        Raises UsageError, CpuOffline, OutOfPages.
        """

    def alloc_bulk(self, n: int, gfp: int = 0x100CCA, cpu: int = 0) -> list[int]: ...
    def free(self, pfn: int, cpu: int = 0, order: int = -1, irq: bool = False, nolock: bool = False) -> None: ...
    def free_contig(self, pfn: int, n: int, cpu: int = 0) -> None: ...
    def free_batch(self, pfns: Iterable[int], cpu: int = 0) -> None: ...
    def split(self, pfn: int) -> None: ...
    def alloc_contig_range(
        self, start: int, end: int, *, cma: bool = False, move: Move | None = None, cpu: int = 0
    ) -> ContigResult:
        """
        Of one zone; what is moved goes to any zone of the node. So with the next four.
        """

    def cma_alloc(
        self, count: int, align: int = 0, *, area: int = 0, move: Move | None = None, cpu: int = 0
    ) -> ContigResult: ...
    def cma_release(self, pfn: int, count: int, cpu: int = 0) -> None: ...
    def cma_areas(self) -> list[tuple[int, int]]: ...
    def offline_pages(self, start: int, pages: int, *, move: Move | None = None, cpu: int = 0) -> ContigResult: ...
    def online_pages(self, start: int, pages: int, cpu: int = 0) -> None: ...
    def drain(self, cpu: int | None = None, by: int | None = None) -> None: ...
    def tick(self, cpu: int = 0) -> None: ...
    def fold(self, cpu: int = 0) -> None: ...
    def decay(self, cpu: int = 0) -> None: ...
    def offline(self, cpu: int) -> None: ...
    def online(self, cpu: int) -> None: ...
    def check(self) -> None: ...
    def state(self) -> dict[str, Any]: ...

class Operation:
    """
    One operation, lock by lock, for drivers in tests (decision 0001).
    """

    zone: Zone

    @staticmethod
    def alloc(zone: Zone, order: int = 0, migratetype: int = 1, cpu: int = 0, aflags: int = -1) -> Operation: ...
    @staticmethod
    def free(zone: Zone, pfn: int, cpu: int = 0, irq: bool = False) -> Operation: ...
    @staticmethod
    def drain(zone: Zone, target: int, cpu: int = 0) -> Operation: ...
    def step(self, got: bool = True) -> tuple[str, tuple[Any, ...]] | None:
        """
        Go to the next lock action: ("lock" | "try" | "unlock", ("pcp", cpu) | ("zone",)); None: done.

        got answers the trylock that the last step returned.
        """

    @property
    def pfn(self) -> int | None: ...

class Call:
    """
    A whole call, lock by lock, for drivers in tests (decision 0001). nodes: a Node, or several, the nearest first.
    """

    zones: list[Zone]

    @staticmethod
    def alloc(nodes: Node | Sequence[Node], order: int = 0, gfp: int = 0x100CCA, cpu: int = 0) -> Call:
        """
        Node.alloc; several nodes are a system of several NUMA nodes (B-28, B-76).
        """

    @staticmethod
    def alloc_bulk(nodes: Node | Sequence[Node], n: int, gfp: int = 0x100CCA, cpu: int = 0) -> Call: ...
    @staticmethod
    def free(nodes: Node | Sequence[Node], pfn: int, cpu: int = 0, irq: bool = False) -> Call: ...
    @staticmethod
    def free_batch(nodes: Node | Sequence[Node], pfns: Sequence[int], cpu: int = 0, irq: bool = False) -> Call: ...
    @staticmethod
    def free_run(nodes: Node | Sequence[Node], pfn: int, n: int, cpu: int = 0) -> Call:
        """
        Node.free_contig without its events and counts (B-94).
        """

    @staticmethod
    def tick(nodes: Node | Sequence[Node], cpu: int = 0, zone: int = 0) -> Call:
        """
        Of one of ``zones``.
        """

    @staticmethod
    def drain(nodes: Node | Sequence[Node], cpu: int = 0) -> Call: ...
    @staticmethod
    def offline(nodes: Node | Sequence[Node], target: int, cpu: int, zone: int = 0) -> Call: ...
    @staticmethod
    def isolate(
        nodes: Node | Sequence[Node], pfn: int, cma: bool = False, check: bool = True, cpu: int = 0
    ) -> Call: ...
    def step(self, got: bool = True) -> tuple[str, tuple[Any, ...]] | None:
        """
        Go to the next lock action: ("lock" | "try" | "unlock", ("pcp", zone, cpu) | ("zone", zone)); None: done.

        got answers the trylock that the last step returned.
        """

    @property
    def pfns(self) -> list[int]:
        """
        What an allocation obtained.
        """

    @property
    def got(self) -> int:
        """
        Pages obtained in bulk; of an isolation, whether it was done.
        """

class Contig(Call):
    """
    Contiguous allocation, cma_alloc and memory hotplug, lock by lock or to the end. What nodes are: as of a Call.
    """

    @staticmethod
    def alloc(  # type: ignore[override]
        nodes: Node | Sequence[Node], start: int, end: int, cma: bool = False, cpu: int = 0
    ) -> Contig: ...
    @staticmethod
    def cma_alloc(nodes: Node | Sequence[Node], count: int, align: int = 0, area: int = 0, cpu: int = 0) -> Contig: ...
    @staticmethod
    def cma_release(nodes: Node | Sequence[Node], pfn: int, count: int, cpu: int = 0) -> Contig: ...
    @staticmethod
    def offline_pages(nodes: Node | Sequence[Node], start: int, pages: int, cpu: int = 0) -> Contig: ...
    @staticmethod
    def online_pages(nodes: Node | Sequence[Node], start: int, pages: int, cpu: int = 0) -> Contig: ...
    def run(self, move: Move | None = None) -> ContigResult: ...
    def step(self, got: bool = True) -> tuple[str, tuple[Any, ...]] | None:
        """
        As of a Call. Also ("move", (old_pfn, new_pfn, order)): a page is to be moved, got says at the next step whether
        it was. ("next", ()): a call is over, more are to come.
        """

    @property
    def result(self) -> ContigResult:
        """
        When it is over.
        """

class HandleReplay:
    """
    Replay requests in handle mode (docs/reference/replay.md section 2).
    """

    node: Node

    def __init__(self, node: Node, nr_handles: int) -> None: ...
    def run(self, requests: Any) -> None:
        """
        Replay a contiguous slice of requests.REQUEST rows; releases the GIL. Raises UsageError before it starts.
        """

    def result(self) -> dict[str, int]: ...

class KernelReplay:
    """
    Rows of a recording against a node under ``mainline`` (docs/reference/replay.md section 5).

    mode: "free-run", "guided" or "resync". folds: whether vmfold rows were recorded; else decay rows fold counters.
    plain: whether standard tracepoints only were recorded: then their true order has to be found (R3).
    drift_marks: of each zone, percpu_drift_mark (B-16). The node's event rings are used, and gone afterwards.
    """

    node: Node

    def __init__(
        self,
        node: Node,
        nr_handles: int,
        *,
        mode: str = "free-run",
        folds: bool = False,
        plain: bool = False,
        drift_marks: Sequence[int] | None = None,
    ) -> None: ...
    def feed(
        self, rows: Any, *, last: bool = False, until_difference: bool = False, until: int = -1
    ) -> Literal["until", "difference"] | None:
        """
        Replay further rows (recording.rows.ROW, checked: they name pages and CPUs of this node). Releases the GIL.

        A row waits until the rows are there that it needs to be understood. last: nothing follows.
        until_difference: stop behind the first row that differs. until: stop before this row of the file.
        Returns why it stopped; call again, with no rows, to go on.
        """

    def result(self) -> dict[str, Any]:
        """
        What was counted; pairs are (recorded, exact).
        """

    def open_operations(self) -> int:
        """
        How many drains were predicted and have not come yet; the state may lack them.
        """

    def differences(self) -> list[dict[str, Any]]:
        """
        The first 1024 of them, as dicts of row, kind, cpu, order, type, zone, predicted, recorded and cause.
        """

def bench(zone: Zone, what: str, n: int, cpu: int = 0) -> int: ...
def pcp_sizing(managed: int, cpus: int, low: int, fraction: int = 0) -> tuple[int, int, int]:
    """
    B-12 and B-13: (batch, high_min, high_max).
    """

def stat_threshold(managed: int, cpus: int) -> int:
    """
    B-16.
    """

def min_free_kbytes(lowmem_kbytes: int) -> int:
    """
    B-20, before the raise for transparent huge pages.
    """

def watermarks(managed: int, lowmem_pages: int, min_free_kbytes: int) -> tuple[int, int, int, int]:
    """
    B-20: (min, low, high, promo) in pages.
    """

def address_of(zone: Zone) -> int:
    """
    Where the state of a zone lies in this process, for the machine, which works in it too. The zone must outlive that.
    """

def zone_bytes(pages: int, cpus: int, policy: Policy) -> int:
    """
    Bytes of the state of such a zone.
    """

class PagePool:
    """
    One zone under real threads, over memory; see ``pcpbuddy.PagePool``.

    Every method may be called from any thread. Raises UsageError when the pool is closed, PoolBroken when a process of
    it died with a lock in its hands. From Cython: _core/core.pxd.
    """

    zone: Zone
    closed: bool

    def __init__(
        self,
        zone: Zone,
        arena: object,
        slots: Mapping[int, int],
        by_thread: bool = False,
        ticks: bool = True,
        me: int = 1,
        fd: int = -1,
    ) -> None: ...
    def alloc(self, order: int = 0, migratetype: int = 1, zero: bool = False) -> int:
        """
        2^order pages (B-60): the first, a multiple of 2^order. OutOfPages if there are none, after all lists were
        drained.

        zero: filled with zeros; else they hold what their last user left.
        """

    def free(self, pfn: int, order: int = -1) -> None:
        """
        What ``alloc`` gave, from any thread (B-80, P-40). BadFree, and nothing is changed: it is no allocation, or not
        of this order (-1: of any). Two threads that free one page at the same moment are not told apart.
        """

    def alloc_bulk(self, n: int, out: Any = None) -> Any:
        """
        Single pages (B-93), n of them or none: an array.array of int64, or ``out``, any writable buffer of n int64.
        """

    def free_bulk(self, pfns: Any) -> None:
        """
        A buffer of int64, or a list: allocations of any order, each once (B-91). BadFree, and nothing is freed, else.
        """

    def pages(self, order: int = 0, migratetype: int = 1, zero: bool = False) -> Pages:
        """
        The same as an object: a writable buffer and a context.
        """

    def view(self, pfn: int, pages: int = 1) -> memoryview:
        """
        The memory of pages, to write to. Nothing keeps them from being freed meanwhile; ``pages()`` does.
        """

    def address(self, pfn: int) -> int:
        """
        Where a page is in this process.
        """

    def tick(self) -> None:
        """
        What the kernel does once a second on each CPU (B-101 to B-103); a pool does so itself unless ticks=False.
        """

    def drain(self) -> None:
        """
        All per-CPU lists into the zone (B-100).
        """

    def this_slot(self) -> int:
        """
        The pageset that the calling thread uses at this moment.
        """

    def take_largest(self, order: int) -> int | None:
        """
        A chunk out of the zone, past the per-CPU lists; for ``trim``.
        """

    def moved(self, old: int, new: int, order: int) -> bool:
        """
        Moves the contents of a ``pages()`` that nobody looks at; a callback for contiguous allocation.
        """

    def look_for_dead(self) -> None:
        """
        Raises PoolBroken if a process that is gone holds a lock of the pool.
        """

    def lock_all(self) -> None: ...
    def unlock_all(self) -> None: ...
    def set_process(self, me: int, fd: int) -> None: ...
    @property
    def broken(self) -> int:
        """
        The number of the process that died with a lock in its hands; 0: none.
        """

    @property
    def capsule(self) -> object:
        """
        For C: include/pcpbuddy.h.
        """

    def shut(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Pages:
    """
    2^order pages of a pool: a writable buffer (memoryview, NumPy, DLPack), and a context that gives them back.

    BufferError from ``free`` while buffers made of it exist: what they show would be somebody else's.
    """

    @property
    def pfn(self) -> int: ...
    @property
    def order(self) -> int: ...
    @property
    def view(self) -> memoryview:
        """
        Released with the pages.
        """

    def free(self) -> None: ...
    def __len__(self) -> int:
        """
        Bytes.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any: ...
    def __dlpack__(self, **options: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
