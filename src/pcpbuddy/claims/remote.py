"""
Claims K-23 to K-26: how a free reaches the CPU that owns the page, and what goes wrong on the way.
"""

import collections
import itertools
import random

import numpy as np

from .. import _core
from ..machine import Machine
from ..metrics import Metrics
from ..quantities import share_text
from ..run import Run
from ..statistics import difference, interval
from ..sweeps import Sweep
from ..workload import NAMES
from ..workload.load import Load
from ..workload.program import Program, Queues
from .claim import Claim, Finding, Settings, any_of, decided, verdict
from .loads import MIDDLE, per_1000, refilled_pages, text, values
from .words import all_of, not_above

__all__ = ["CLAIMS", "deadlock"]

MIB = 1 << 20
BATCH = 32  # pages that the freeing CPU gives back under the lock
INTERRUPT_NS = 2000
BLOCKING = "posted"
OTHERS = ("posted+remote=trylock", "posted+remote=llist", "posted+remote=handover", "posted+remote=local")


def deadlock(*, interrupts: bool = True) -> Load:
    """
    The scene of rule P-43: CPU 0 allocates; interrupts take a lock; CPU 1 frees CPU 0's pages under that lock.

    interrupts: without them nobody can wait in a circle.
    """
    queues = Queues(2)
    own, given, back = queues.shared(), queues.shared(), queues.shared()
    lock = 0
    allocator = Program("allocating")
    with allocator.forever():
        allocator.alloc(own, 2 * BATCH)
        allocator.move(own, given, BATCH)
        allocator.free(own, 2 * BATCH)
        allocator.wait_at_most(given, 8 * BATCH)
    freer = Program("freeing under the lock")
    with freer.forever():
        freer.wait_at_least(given, BATCH)
        freer.move(given, back, BATCH)
        freer.lock(lock)
        freer.free(back, BATCH, "oldest")
        freer.unlock(lock)
    interrupt = Program("an interrupt that takes the lock")
    interrupt.lock(lock)
    interrupt.think(100)
    interrupt.unlock(lock)
    return Load(
        name="claims/interrupt",
        meaning="an interrupt takes a lock under which another CPU frees pages of the interrupted one",
        source="docs/reference/rfc.md, P-43",
        parameters={"interrupts": interrupts},
        programs=(allocator.instructions(), freer.instructions()),
        cpu_program=np.arange(2, dtype=np.uint32),
        nr_queues=queues.nr,
        nr_locks=1,
        irq_program=interrupt.instructions() if interrupts else None,
        irq_every_ns=INTERRUPT_NS if interrupts else 0.0,
        memory_bytes=1024 * MIB,
        duration_ns=5e6,
        unit="",
    )


def _circle(run: Run) -> str:
    """
    Who waits for whom, in words; nothing where nobody is stuck.
    """
    waits = []
    for row in run.manifest["stuck"]:
        holder = "nobody" if row["holder"] is None else f"CPU {row['holder']}"
        waits.append(
            f"CPU {row['cpu']} ({row['context']}) waits for {row['waits_for']} {row['number']}, {holder} has it"
        )
    return "; ".join(waits)


def k23(settings: Settings) -> Finding:
    load, quiet = deadlock(), deadlock(interrupts=False)
    rows, stuck = [], {}
    circle = ""
    for name, which in ((BLOCKING, quiet), *((name, load) for name in (BLOCKING, *OTHERS))):
        runs = [Machine(2, policy=name, costs=settings.costs, seed=seed).run(which) for seed in range(settings.seeds)]
        if any(run.partial for run in runs):
            raise KeyboardInterrupt
        number = sum(bool(run.manifest["stuck"]) for run in runs)
        if which is load:
            stuck[name] = number
            circle = circle or next((_circle(run) for run in runs if run.manifest["stuck"]), "")
        rows.append(
            {
                "policy": name,
                "remote": {BLOCKING: "block"}.get(name, name.rpartition("=")[2]),
                "interrupts": "every 2 us" if which is load else "none",
                "runs that got stuck": f"{number} of {len(runs)}",
            }
        )
    found = stuck[BLOCKING] == settings.seeds and not any(stuck[name] for name in OTHERS)
    return Finding(
        claim="K-23",
        verdict=decided(found),
        figure=(
            f"the scene of P-43 gets stuck in {stuck[BLOCKING]} of {settings.seeds} runs with remote=block"
            f"{f' ({circle})' if circle else ''}, in {sum(stuck[name] for name in OTHERS)} of "
            f"{len(OTHERS) * settings.seeds} with trylock, llist, handover and local"
        ),
        value=stuck[BLOCKING] / settings.seeds,
        command=settings.command("K-23"),
        why=(
            "The scene is made for it: an interrupt every 2 us and a lock held over frees all the time. How often a "
            "real machine would meet it is another question; that it can is what the claim says."
        ),
        table=tuple(rows),
    )


PURGE, RECLAIM = "purge/jemalloc", "reclaim/kswapd"
FREERS = (1, 2, 4, 8, 16)  # of MIDDLE CPUs
RECLAIMERS = (4, 16, 64)  # CPUs, all of which free to all
BUSY = {"read_ns": 1000}  # a reader that gets a page every microsecond: 4 GB/s
FEW = 0.03
HOLDS = "zone_lock.holds_per_1000_allocs"
POLICIES = ("mainline", "fixed", "llist", "handover")
DURATION = "20ms"


def _failed(m: Metrics) -> float:
    """
    Remote frees that found the owner's lock taken, as a share of all remote frees.
    """
    tried = m["frees.remote"] + m["frees.failed_trylock"]
    return m["frees.failed_trylock"] / tried if tried else 0.0


def _own_fragments(m: Metrics) -> float:
    """
    Of the pages that refills brought, the share that were fragments of own blocks: free already, but in the zone.
    """
    pages = refilled_pages(m)
    return m["refill.phase0_pages"] / pages if pages else 0.0


def _absorbed(m: Metrics) -> float:
    return m["remote.absorbed_pages"] / m["remote.absorbs"] if m["remote.absorbs"] else 0.0


def _refills(m: Metrics) -> float:
    return per_1000(m["refill.count"], m["allocs"])


def _purge(settings: Settings, freers: int) -> Sweep:
    return settings.sweep(PURGE, POLICIES, MIDDLE, parameters={"purgers": freers}, duration=DURATION)


def _reclaim(settings: Settings, cpus: int) -> Sweep:
    return settings.sweep(RECLAIM, POLICIES, cpus, parameters=BUSY, duration=DURATION)


def _sweeps(settings: Settings) -> list[tuple[str, list[tuple[int, Sweep]]]]:
    """
    The two sweeps over the number of CPUs that free, which three claims share: load, and (freeing CPUs, runs).
    """
    freers = settings.pick(FREERS, FREERS[:: len(FREERS) - 1])
    return [
        (PURGE, [(number, _purge(settings, number)) for number in freers]),
        (RECLAIM, [(number, _reclaim(settings, number)) for number in settings.pick(RECLAIMERS, RECLAIMERS[:2])]),
    ]


def _rows(settings: Settings, *policies: str) -> tuple[dict[str, str], ...]:
    """
    The sweeps as a table.
    """
    return tuple(
        {
            "load": load,
            "freeing CPUs": f"{freers} of {sweep.cpus[0]}",
            "policy": policy,
            "frees that failed to lock": text(interval(values(sweep, policy, _failed)), "share"),
            "holds per 1000 allocations": text(interval(values(sweep, policy, HOLDS))),
            "zone lock wait, of CPU time": text(interval(values(sweep, policy, "zone_lock.wait_ns.share")), "share"),
            "refills per 1000": text(interval(values(sweep, policy, _refills))),
            "own fragments, of refilled pages": text(interval(values(sweep, policy, _own_fragments)), "share"),
            "pages absorbed at a time": text(interval(values(sweep, policy, _absorbed))),
            "parked at worst, of what PCPs may hold": text(interval(_parked(sweep, policy)), "share"),
        }
        for load, sweeps in _sweeps(settings)
        for freers, sweep in sweeps
        for policy in policies
    )


def _parked(sweep: Sweep, policy: str) -> list[float]:
    """
    Pages in PCPs, on remote lists and in outboxes at worst, as a share of high_max of all PCPs.
    """
    cpus = sweep.cpus[0]
    runs = [sweep.runs[policy, cpus, seed] for seed in sweep.seeds]
    return [
        float(run.metrics["pcp.parked_pages_max"] / (cpus * sum(zone["high_max"] for zone in run.manifest["zones"])))
        for run in runs
    ]


def _commands(settings: Settings, metrics: list[str]) -> tuple[str, ...]:
    return (
        settings.compare_command(PURGE, POLICIES, MIDDLE, metrics, {"purgers": FREERS[-1]}, duration=DURATION),
        settings.compare_command(RECLAIM, POLICIES, RECLAIMERS, metrics, BUSY, duration=DURATION),
    )


def k24(settings: Settings) -> Finding:
    verdicts, words = [], []
    most = interval([0.0])
    for load, sweeps in _sweeps(settings):
        (first, alone), (last, many) = sweeps[0], sweeps[-1]
        few, more = (values(sweep, "fixed", _failed) for sweep in (alone, many))
        verdicts.append(all_of([verdict(interval(more), above=FEW), verdict(difference(few, more), above=0)]))
        most = max(most, interval(more))
        holds = {name: text(interval(values(many, name, HOLDS))) for name in POLICIES}
        words.append(
            f"{load}: {text(interval(few), 'share')} of remote frees fail with {first} freeing "
            f"CPU{'s' if first > 1 else ''}, {text(interval(more), 'share')} with {last}; zone-lock holds per 1000 "
            f"allocations are then {holds['fixed']}, mainline's {holds['mainline']}, llist's {holds['llist']}"
        )
    return Finding(
        claim="K-24",
        verdict=any_of(verdicts),
        figure=f"with trylock (fixed), {'; '.join(words)}",
        value=most.mean,
        interval=(most.low, most.high),
        command=settings.command("K-24"),
        also=_commands(settings, [HOLDS, "frees.failed_trylock", "frees.remote", "zone_lock.wait_ns.share"]),
        why=(
            "How many fail depends on how busy it is: with 20 us for a page, as a disk has it, 0.2 to 1 % fail in "
            f"{RECLAIM}. mainline has few holds there because every CPU frees as many pages as it takes, whoever's "
            "they are; routing them home is what makes the locks meet."
        ),
        table=_rows(settings, "fixed"),
    )


BACK, OVER = 1.1, 0.01


def k25(settings: Settings) -> Finding:
    alone = values(_purge(settings, FREERS[0]), "fixed", HOLDS)
    verdicts, words = [], []
    for load, sweeps in _sweeps(settings):
        last, sweep = sweeps[-1]
        many = values(sweep, "llist", HOLDS)
        beyond = difference([BACK * count for count in alone], many)
        parked = interval(_parked(sweep, "llist"))
        over = values(sweep, "llist", lambda m: m["remote.over_bound"] / max(m["remote.pushes"], 1))
        verdicts += [not_above(beyond, 0), not_above(parked, 1), decided(max(over) <= OVER)]
        words.append(
            f"{load} with {last} freeing CPUs: {text(interval(many))} zone-lock holds per 1000 allocations, "
            f"{share_text(max(over))} of pushes turned away at the bound, PCPs and remote lists hold "
            f"{text(parked, 'share')} of what PCPs may hold at worst"
        )
    most = interval(many)
    return Finding(
        claim="K-25",
        verdict=all_of(verdicts),
        figure=f"llist, {'; '.join(words)}; fixed with one freeing CPU {text(interval(alone))} holds",
        value=most.mean,
        interval=(most.low, most.high),
        command=settings.command("K-25"),
        also=_commands(settings, [HOLDS, "remote.absorbed_pages", "remote.absorbs", "remote.over_bound"]),
        why=(
            "An owner absorbs what was pushed when it allocates next, so how long pages wait is how long it does not "
            "allocate; here every owner allocates all the time. One that is idle keeps them until its tick."
        ),
        table=_rows(settings, "llist", "handover"),
    )


RATES = (0.0, 0.05, 0.2)
STREAM, LAG = 16384, 256  # as shape/S2


def _needless(rate: float, seed: int) -> float:
    """
    Refills per 1000 allocations that found pages of own blocks in the zone, where so many remote frees fail to lock.

    CPU 0 allocates, CPU 1 frees what was allocated LAG pages before; nothing else can fail.
    """
    draw = random.Random(seed)
    zone = _core.Zone(policy="fixed", **NAMES["shape/S2"].zone())
    live: collections.deque[int] = collections.deque()
    needless = found = 0
    for _ in range(STREAM):
        live.append(zone.alloc())
        recovered = zone.counters(0)["phase0_pages"]
        needless += recovered > found
        found = recovered
        if len(live) > LAG:
            zone.fail_trylocks(draw.random() < rate)
            zone.free(live.popleft(), cpu=1)
    return per_1000(needless, STREAM)


def k26(settings: Settings) -> Finding:
    injected = {rate: [_needless(rate, seed) for seed in range(settings.seeds)] for rate in RATES}
    steps = [verdict(difference(injected[a], injected[b]), above=0) for a, b in itertools.pairwise(RATES)]
    most = interval(injected[RATES[-1]])
    words = ", ".join(f"{share_text(rate)}: {text(interval(found))}" for rate, found in injected.items())
    sweep = _reclaim(settings, RECLAIMERS[1])
    fixed, llist = (interval(values(sweep, policy, _refills)) for policy in ("fixed", "llist"))
    return Finding(
        claim="K-26",
        verdict=all_of([*steps, verdict(most, above=0)]),
        figure=(
            f"refills per 1000 allocations that found pages of own blocks in the zone, in shape/S2 under fixed, by the "
            f"share of remote frees that fail to lock: {words}; in {RECLAIM} on {RECLAIMERS[1]} CPUs fixed refills "
            f"{text(fixed)} times per 1000 allocations, llist {text(llist)}"
        ),
        value=most.mean,
        interval=(most.low, most.high),
        command=settings.command("K-26"),
        also=_commands(settings, ["refill.phase0_pages", "refill.count", "frees.failed_trylock"]),
        why=(
            "Failures are put in by chance, so that nothing but them differs; the table has those that happen under "
            "load. In purge/jemalloc no owner has to refill within the time measured, since what fails there, 0.6 % of "
            "frees, is less than what the PCPs hold."
        ),
        table=_rows(settings, "fixed", "llist"),
    )


CLAIMS = (
    Claim(
        name="K-23",
        text="A free that waits for the owner's PCP lock can deadlock",
        source="F1",
        measurement="the scene of P-43: an interrupt takes a lock under which another CPU frees pages of this one",
        rule="every run gets stuck with remote=block, none with trylock, llist, handover or local",
        measure=k23,
    ),
    Claim(
        name="K-24",
        text="Falling back to the zone when the trylock fails defeats the PCP on busy systems",
        source="F2",
        measurement=(
            "fixed: frees that fail to lock, and zone-lock holds, in purge/jemalloc (1 to 16 of 32 CPUs free) and in "
            "reclaim/kswapd with a microsecond for a page (4 to 64 CPUs, all of which free)"
        ),
        rule=f"in one of them more than {share_text(FEW)} fail with the most freeing CPUs, more than with the fewest",
        measure=k24,
        changed=(
            "the load was purge/jemalloc alone; reclaim in which all CPUs free was added, and one of the two is enough."
        ),
    ),
    Claim(
        name="K-25",
        text="The lock-free remote list removes that",
        source="F2",
        measurement="the same sweeps under llist: zone-lock holds, pages absorbed at a time, pages parked",
        rule=(
            f"in both, holds per 1000 allocations with the most freeing CPUs are at most {BACK} times those of one "
            f"purger under fixed, at most {share_text(OVER)} of pushes are turned away, and PCPs hold what they may"
        ),
        measure=k25,
        changed="the load was purge/jemalloc alone; both of K-24 count now.",
    ),
    Claim(
        name="K-26",
        text="With the trylock fallback, count understates what a CPU could use again",
        source="F2",
        measurement="refills that find pages of own blocks in the zone, against the share of frees that fail to lock",
        rule="above 0, and more with each step of failures (whole intervals)",
        measure=k26,
        changed="it was the sweep of K-24; now the share of frees that fail to lock is set.",
    ),
)
