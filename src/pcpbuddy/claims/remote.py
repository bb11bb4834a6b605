"""
Claims K-23 to K-26: how a free reaches the CPU that owns the page, and what goes wrong on the way.
"""

import numpy as np

from ..machine import Machine
from ..metrics import Metrics
from ..quantities import share_text
from ..run import Run
from ..statistics import difference, interval
from ..sweeps import Sweep
from ..workload.load import Load
from ..workload.program import Program, Queues
from .claim import REFUTED, SUPPORTED, Claim, Finding, Settings
from .loads import MIDDLE, outright, per_1000, refilled_pages, text, values

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
        verdict=SUPPORTED if found else REFUTED,
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


PURGE = "purge/jemalloc"
FREERS = (1, 2, 4, 8, 16)
FEW = 0.03


def _parameters(freers: int) -> dict[str, int]:
    return {"purgers": freers}


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


HOLDS = "zone_lock.holds_per_1000_allocs"
POLICIES = ("mainline", "fixed", "llist", "handover")


def _rows(settings: Settings) -> list[dict[str, str]]:
    """
    The sweep over the number of freeing CPUs, that three claims share.
    """
    rows = []
    for freers in settings.pick(FREERS, FREERS[::2]):
        sweep = _sweep(settings, freers)
        for policy in POLICIES[1:]:
            rows.append(
                {
                    "freeing CPUs": str(freers),
                    "policy": policy,
                    "frees that failed to lock": text(interval(values(sweep, policy, _failed)), "share"),
                    "holds per 1000 allocations": text(interval(values(sweep, policy, HOLDS))),
                    "own fragments, of refilled pages": text(interval(values(sweep, policy, _own_fragments)), "share"),
                    "pages absorbed at a time": text(interval(values(sweep, policy, _absorbed))),
                    "parked at worst, of what PCPs may hold": text(
                        interval(_parked(settings, freers, policy)), "share"
                    ),
                }
            )
    return rows


def _absorbed(m: Metrics) -> float:
    return m["remote.absorbed_pages"] / m["remote.absorbs"] if m["remote.absorbs"] else 0.0


def _parked(settings: Settings, freers: int, policy: str) -> list[float]:
    """
    Pages in PCPs, on remote lists and in outboxes at worst, as a share of high_max of all PCPs.
    """
    sweep = _sweep(settings, freers)
    runs = [sweep.runs[policy, MIDDLE, seed] for seed in sweep.seeds]
    return [
        float(run.metrics["pcp.parked_pages_max"] / (MIDDLE * sum(zone["high_max"] for zone in run.manifest["zones"])))
        for run in runs
    ]


def _sweep(settings: Settings, freers: int) -> Sweep:
    return settings.sweep(PURGE, POLICIES, MIDDLE, parameters=_parameters(freers), duration="20ms")


def k24(settings: Settings) -> Finding:
    first, last = FREERS[0], FREERS[-1]
    rate = {freers: values(_sweep(settings, freers), "fixed", _failed) for freers in (first, last)}
    growth = difference(rate[first], rate[last])
    most = interval(rate[last])
    holds = {name: interval(values(_sweep(settings, last), name, HOLDS)) for name in ("mainline", "fixed", "llist")}
    found = outright(most)[0] > FEW and outright(growth)[0] > 0
    return Finding(
        claim="K-24",
        verdict=SUPPORTED if found else REFUTED,
        figure=(
            f"with trylock (fixed), {text(interval(rate[first]), 'share')} of remote frees fail with {first} freeing "
            f"CPU of {MIDDLE} and {text(most, 'share')} with {last}; zone-lock holds per 1000 allocations are then "
            f"{text(holds['fixed'])}, mainline's {text(holds['mainline'])}, llist's {text(holds['llist'])}"
        ),
        value=most.mean,
        interval=(most.low, most.high),
        command=settings.command("K-24"),
        also=(_command(settings, last, [HOLDS, "frees.failed_trylock", "frees.remote"]),),
        why="An owner's lock is found taken while the owner allocates or another CPU frees to it; both take some ns.",
        table=tuple(row for row in _rows(settings) if row["policy"] == "fixed"),
    )


def k25(settings: Settings) -> Finding:
    first, last = FREERS[0], FREERS[-1]
    alone = values(_sweep(settings, first), "fixed", HOLDS)
    many = values(_sweep(settings, last), "llist", HOLDS)
    above = difference(alone, many)
    parked = interval(_parked(settings, last, "llist"))
    over = values(_sweep(settings, last), "llist", lambda m: m["remote.over_bound"] / max(m["remote.pushes"], 1))
    returned = outright(above)[1] <= 0 or interval(many).mean <= BACK * interval(alone).mean
    found = returned and outright(parked)[1] <= 1 and max(over) <= OVER
    return Finding(
        claim="K-25",
        verdict=SUPPORTED if found else REFUTED,
        figure=(
            f"under llist {last} freeing CPUs of {MIDDLE} cause {text(interval(many))} zone-lock holds per 1000 "
            f"allocations, fixed with one {text(interval(alone))}; {share_text(max(over))} of pushes are turned away "
            f"at the bound; PCPs and remote lists hold {text(parked, 'share')} of what PCPs may hold at worst"
        ),
        value=interval(many).mean,
        interval=(interval(many).low, interval(many).high),
        command=settings.command("K-25"),
        also=(_command(settings, last, [HOLDS, "remote.absorbed_pages", "remote.absorbs", "remote.over_bound"]),),
        why=(
            "An owner absorbs what was pushed when it allocates next, so how long pages wait is how long it does not "
            "allocate; here every owner allocates all the time. One that is idle keeps them until its tick."
        ),
        table=tuple(row for row in _rows(settings) if row["policy"] in ("llist", "handover")),
    )


BACK, OVER = 1.1, 0.01


def k26(settings: Settings) -> Finding:
    first, last = FREERS[0], FREERS[-1]
    own = {freers: values(_sweep(settings, freers), "fixed", _own_fragments) for freers in (first, last)}
    growth = difference(own[first], own[last])
    control = interval(values(_sweep(settings, last), "llist", _own_fragments))
    most = interval(own[last])
    pages = interval(
        values(_sweep(settings, last), "fixed", lambda m: per_1000(m["refill.phase0_pages"], m["pages.allocated"]))
    )
    return Finding(
        claim="K-26",
        verdict=SUPPORTED if outright(most)[0] > 0 and outright(growth)[0] > 0 else REFUTED,
        figure=(
            f"of the pages that owners' refills brought under fixed, {text(interval(own[first]), 'share')} lay in "
            f"their own blocks already with {first} freeing CPU of {MIDDLE} and {text(most, 'share')} with {last} "
            f"({text(pages)} of 1000 allocated pages); under llist {text(control, 'share')}"
        ),
        value=most.mean,
        interval=(most.low, most.high),
        command=settings.command("K-26"),
        also=(_command(settings, last, ["refill.phase0_pages", "refill.count", "frees.failed_trylock"]),),
        why=(
            "A page whose free failed to lock is in the zone and no longer in count. Drained pages come back the same "
            "way; llist, where no free fails, shows how many those are. Refills that found own fragments are counted "
            "by the pages, not one by one."
        ),
        table=tuple(row for row in _rows(settings) if row["policy"] in ("fixed", "llist")),
    )


def _command(settings: Settings, freers: int, metrics: list[str]) -> str:
    return settings.compare_command(PURGE, POLICIES, MIDDLE, metrics, _parameters(freers), duration="20ms")


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
        measurement="purge/jemalloc at 32 CPUs, 1 to 16 of them freeing, fixed: frees that fail, zone-lock holds",
        rule=f"more than {share_text(FEW)} fail with {FREERS[-1]} freeing CPUs, more than with one (whole intervals)",
        measure=k24,
    ),
    Claim(
        name="K-25",
        text="The lock-free remote list removes that",
        source="F2",
        measurement="the same sweep under llist: zone-lock holds, pages absorbed at a time, pages parked",
        rule=(
            f"holds per 1000 allocations with {FREERS[-1]} freeing CPUs are at most {BACK} times those of one under "
            f"fixed, at most {share_text(OVER)} of pushes are turned away, and PCPs hold no more than they may"
        ),
        measure=k25,
    ),
    Claim(
        name="K-26",
        text="With the trylock fallback, count understates what a CPU could use again",
        source="F2",
        measurement="the same sweep under fixed: pages of own blocks among those that an owner's refills bring",
        rule="above 0, and more with 16 freeing CPUs than with one (whole interval)",
        measure=k26,
    ),
)
