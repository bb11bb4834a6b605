"""
``PagePool``: the allocator on real threads, over real memory.

What each method of the compiled part takes and raises is told in _core/core.pyi; here is what runs once.
"""

import os
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import _core, arena
from .config import POOL_PROFILE, Policy
from .config import policy as find_policy
from .contig import ContigResult
from .errors import ConfigError, PoolBroken, UsageError
from .names import MAX_CPUS, MAX_PAGE_ORDER, PAGE_SIZE
from .zone import Zone, parse_size

__all__ = ["PagePool"]

TICK_S = 1.0  # vmstat_interval
_POOLS: "weakref.WeakSet[PagePool]" = weakref.WeakSet()
# stat_threshold: counters are exact. No watermark: nobody reclaims here, so nothing is held back for it.
_ZONE: dict[str, Any] = {"stat_threshold": 0, "watermark": (0, 0, 0, 0)}


class PagePool(_core.PagePool):
    """
    Pages of 4 KiB, from as many threads as there are.

    A page is its number in the pool, from 0 on; 2^order pages are named by the first, which is a multiple of 2^order.
    Any thread may free what another allocated. A pool is a context, too: it closes at the end.

    Args:
        size: such as "1GiB", or bytes.
        cpus: sets of per-CPU lists; default: one for each CPU that this process may run on.
        policy: a ``Policy``, or text as ``pcpbuddy.policy()`` takes it.
        cma: size of the CMA area at the end, whole pageblocks (2 MiB).
        share: other processes can attach: a path, a name for POSIX shared memory, or True (a memfd, for children and
            whoever
            is sent the descriptor).
        huge: of private memory: "transparent" (asked for), "explicit" (reserved ones or an error), "never".
        per: "cpu": the lists of the CPU that a thread is on; "thread": each thread its own, in turn.
        ticks: once a second whoever comes by does what the kernel's timer does (high decays, idle lists drain).
            "thread": a thread of the pool's own does, also where nobody comes by. False: ``tick()`` alone does.

    Raises:
        ConfigError: sizes, policies and memory that cannot be had.
    """

    zone: Zone

    def __init__(
        self,
        size: str | int,
        *,
        cpus: int | None = None,
        policy: str | Policy = POOL_PROFILE,
        cma: str | int = 0,
        share: str | os.PathLike[str] | bool = False,
        huge: str = "transparent",
        per: str = "cpu",
        ticks: bool | str = True,
    ) -> None:
        nr_pages = parse_size(size) // PAGE_SIZE
        chosen = find_policy(policy)
        slots = _slots(cpus)
        nr_cpus = cpus or len(slots)
        options: dict[str, Any] = {"cpus": nr_cpus, "policy": chosen, "cma": cma} | _ZONE
        if nr_pages < 1:
            raise ConfigError(f"a pool of {size}: expected a page or more")
        if share is False:
            _need_memory(nr_pages)
            place = arena.private(nr_pages, huge)
            zone = Zone(nr_pages, **options)
        else:
            facts = {"cpus": nr_cpus, "slots": slots, "policy": chosen.switches(), "name": chosen.name}
            state_bytes = _core.zone_bytes(nr_pages, nr_cpus, chosen)
            place = arena.shared(None if share is True else share, nr_pages, state_bytes, facts)
            zone = Zone(nr_pages, **options, memory=place.state)
        self._open(zone, place, slots, per, ticks)
        if share is not False:
            arena.ready(place)

    def _open(self, zone: Zone, place: arena.Arena, slots: dict[int, int], per: str, ticks: bool | str) -> None:
        if per not in ("cpu", "thread"):
            raise ConfigError(f"per={per!r}: expected cpu or thread")
        if not isinstance(ticks, bool) and ticks != "thread":
            raise ConfigError(f"ticks={ticks!r}: expected True, False or thread")
        super().__init__(zone, place.memory, slots, per == "thread", ticks is True, place.me, place.fd)
        self._place = place
        self._contig = threading.Lock()  # one cma_alloc at a time (CT-9), and memory does not go meanwhile
        self._ticker = _Ticker(self) if ticks == "thread" else None
        _POOLS.add(self)

    @classmethod
    def attach(cls, share: str | os.PathLike[str] | int, *, per: str = "cpu", ticks: bool | str = True) -> Self:
        """
        The pool that another process shares: its path or name, or the descriptor of its memfd.
        """
        place = arena.attached(share)
        facts = place.facts
        try:
            chosen = Policy(name=facts["name"], **facts["policy"])
            zone = Zone.attached(place.state, chosen)
        except BaseException:
            place.close()
            raise
        self = cls.__new__(cls)
        self._open(zone, place, {int(cpu): slot for cpu, slot in facts["slots"].items()}, per, ticks)
        self.look_for_dead()
        return self

    # What there is

    @property
    def policy(self) -> Policy:
        return self.zone.policy

    @property
    def cpus(self) -> int:
        return self.zone.cpus

    @property
    def path(self) -> Path | None:
        """
        The file of a shared pool.
        """
        return self._place.path

    def fileno(self) -> int:
        """
        The descriptor of a shared pool, for whoever is to attach to it.
        """
        if self._place.fd < 0:
            raise UsageError("the pool is private: only a shared one (share=) has a file")
        return self._place.fd

    def __len__(self) -> int:
        """
        Pages.
        """
        return self.zone.pages

    def __repr__(self) -> str:
        where = "" if self._place.fd < 0 else f", shared as {self._place.path or 'a memfd'}"
        return f"<PagePool: {len(self)} pages, {self.cpus} CPUs, {self.policy.name}{where}>"

    def buddyinfo(self) -> str:
        """
        As /proc/buddyinfo. While others use the pool, each number is true of a moment.
        """
        return self.zone.buddyinfo()

    def pagetypeinfo(self) -> str:
        """
        As /proc/pagetypeinfo.
        """
        return self.zone.pagetypeinfo()

    def zoneinfo(self) -> str:
        """
        The allocator's lines of /proc/zoneinfo.
        """
        return self.zone.zoneinfo()

    def stats(self) -> dict[str, int]:
        """
        Pages by where they are, and the counters of all CPUs (rfc.md P-111). Two threads on one pageset at a moment
        may lose a count; what pages are free is exact.
        """
        summary = self.zone.summary()
        in_lists = sum(pcp["count"] for pcp in summary["pcp"])
        waiting = sum(pcp["pending"] for pcp in summary["pcp"])
        free = summary["stat"][0]
        return {
            "pages": summary["managed"],
            "free": free,
            "in_lists": in_lists,
            "waiting": waiting,
            "used": summary["managed"] - free - in_lists - waiting,
            "meta_bytes": self.zone.meta_bytes,
            **self.zone.counters(),
        }

    def check(self) -> None:
        """
        All invariants, while nobody else uses the pool. Raises PoolBroken if a process that died holds a lock, and
        Corruption, naming the rule and the page: in a shared pool also for pages that a process had on their way when
        it was killed between two locks. They are lost, and the pool goes on without them.
        """
        self.look_for_dead()
        self.zone.check()

    # Memory that comes and goes

    def trim(self) -> int:
        """
        The contents of free memory go back to the system, chunk by chunk; pages in per-CPU lists stay. Returns how
        many pages.

        Each chunk is out of the pool for a moment; what is freed or allocated meanwhile is not noticed.
        """
        given = 0
        for order in range(MAX_PAGE_ORDER, -1, -1):
            for _ in range(int(self.zone.census()["nr_free"][order].sum())):
                pfn = self.take_largest(order)
                if pfn is None:
                    break
                try:
                    self._place.give_back(pfn, 1 << order)
                finally:
                    self.zone.free_direct(pfn, self.this_slot(), to_tail=True)
                given += 1 << order
        return given

    def cma_alloc(self, count: int, align: int = 0) -> ContigResult:
        """
        Contiguous pages of the CMA area (CT-9); what ``pages()`` has there moves, contents and all, unless it is being
        looked at.

        Returns the first page as ``pfn``, None if there was no such range, and what kept each one that was tried.
        """
        with self._contig:
            return self.zone.cma_alloc(count, align, move=self.moved, cpu=self.this_slot())

    def cma_release(self, pfn: int, count: int) -> None:
        """
        Pages that ``cma_alloc`` handed out.
        """
        with self._contig:
            self.zone.cma_release(pfn, count, self.this_slot())

    # The end

    def close(self) -> None:
        """
        The memory is unmapped; a shared pool lives on while others have it, and its file until ``unlink``.

        Raises BufferError while buffers of it exist: they would show memory that is gone.
        """
        if self.closed:
            return
        if self._ticker:  # it must not look at memory that is gone
            self._ticker.end()
        try:
            self.shut()
        except BufferError:
            self._ticker = self._ticker and _Ticker(self)
            raise
        _POOLS.discard(self)
        self._place.close()

    def unlink(self) -> None:
        """
        The file of a shared pool is removed; who has it keeps it.
        """
        if self._place.path is not None:
            self._place.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _renew(self) -> None:
        """
        In the child of a fork: private memory is a copy, whose locks this process holds; shared memory has one user
        more.
        """
        if self._place.fd < 0:
            self.unlock_all()
        else:
            self._place.renew()
            self.set_process(self._place.me, self._place.fd)
        self._ticker = self._ticker and _Ticker(self)  # threads are not copied


class _Ticker:
    """
    The thread of ``ticks="thread"``. It does not keep the pool alive, and ends with it.
    """

    def __init__(self, pool: PagePool) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(weakref.ref(pool), self._over), name="pcpbuddy ticks", daemon=True
        )
        self._thread.start()

    @staticmethod
    def _run(find: "weakref.ref[PagePool]", over: threading.Event) -> None:
        while not over.wait(TICK_S):
            pool = find()
            if pool is None:
                return
            try:
                pool.tick()
            except PoolBroken:  # whoever calls next is told
                return
            del pool

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def _slots(cpus: int | None) -> dict[int, int]:
    """
    The pageset of each CPU that this process may run on; containers have few, with any numbers.
    """
    if cpus is not None and not 1 <= cpus <= MAX_CPUS:
        raise ConfigError(f"cpus={cpus}: expected 1..{MAX_CPUS}")
    allowed = sorted(os.sched_getaffinity(0))
    return {cpu: k % (cpus or min(len(allowed), MAX_CPUS)) for k, cpu in enumerate(allowed)}


def _need_memory(nr_pages: int) -> None:
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // PAGE_SIZE
    if nr_pages > there:
        raise ConfigError(
            f"a pool of {nr_pages} pages on a machine that has {there}: ask for less, or share= a larger file"
        )


def _before_fork() -> None:
    for pool in list(_POOLS):
        if pool._place.fd < 0:
            pool.lock_all()


def _after_in_parent() -> None:
    for pool in list(_POOLS):
        if pool._place.fd < 0:
            pool.unlock_all()


def _after_in_child() -> None:
    for pool in list(_POOLS):
        pool._renew()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
