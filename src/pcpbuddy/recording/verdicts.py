"""
What follows from the health of a recording: which questions it answers, and how each replay mode fares with it.

An answer is ``yes``, ``no: because ...`` or ``yes, but ...``, in one sentence. The modes are those of
docs/reference/replay.md, section 1; R-items are those of docs/reference/baseline.md, section 18.4.
"""

import dataclasses
from collections.abc import Iterable

from .health import Health

__all__ = ["Item", "Verdict", "incomplete", "items", "modes", "questions", "refusals"]

YES, NO, BUT = "yes", "no", "yes, but"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """
    An answer to one question. why: the rest of the sentence, empty for a plain yes.
    """

    question: str
    answer: str
    why: str

    def __str__(self) -> str:
        joint = ": because " if self.answer == NO else " "
        return self.answer + (joint + self.why if self.why else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """
    One R-item: whether the recording leaves it open, and what its rows say of it.
    """

    name: str
    title: str
    is_open: bool
    why: str


def incomplete(health: Health) -> list[str]:
    """
    Why the recording is not complete, one phrase each; empty if it is.
    """
    found = []
    if not health.rows:
        found.append("there are no rows")
    elif not health.phases[1]:
        found.append("no row lies between the snapshots (phase 1)")
    if health.lost:
        found.append(f"{_n(health.lost, 'row')} lost")
    if health.trace_incomplete:
        found.append(f"the trace it was imported from lacks events ({health.trace_incomplete})")
    if health.ring_losses:
        found.append(f"the kernel counted {_n(health.ring_losses, 'event')} as overwritten or dropped")
    for snap in health.snapshots:
        if not snap.there:
            found.append(f"snapshot {snap.which} is missing")
        elif not snap.usable:
            found.append(f"snapshot {snap.which} cannot be used")
    if health.repeated:
        found.append(f"{_n(health.repeated, 'row')} with a number that occurs twice")
    if health.impossible or health.events_unknown:
        count = sum(fault.rows for fault in health.impossible) + sum(health.events_unknown.values())
        found.append(f"{_n(count, 'impossible value')}")
    if health.displaced:
        found.append(f"{_n(health.displaced, 'row')} behind a later one of the same CPU")
    if health.clock.back_within_cpu:
        found.append(f"time goes back {_times(health.clock.back_within_cpu)} within a CPU")
    return found


def refusals(health: Health, *, loading: bool = True) -> list[str]:
    """
    Why a replay refuses the recording; empty if it does not.

    loading: handle mode and ``compare`` read all rows at once and take no file that has rows twice or ends too early;
    the other modes count both and go on. Without a snapshot these two make up a state, and take all rows.
    """
    found = []
    if not health.rows:
        return ["there are no rows"]
    first, last = health.snapshots
    if not first.there:
        if not loading or last.there:
            found.append("snapshot 0 is missing, the state that a replay starts from")
    elif not first.usable:
        found.append("snapshot 0 cannot be used")
    if last.there and not last.usable:
        found.append("snapshot 1 cannot be used (move it away to replay without it)")
    if loading and first.usable and first.cut_off:
        found.append(f"rows of {_cpus(first.cut_off)} end before snapshot 0")
    elif loading and last.usable and last.cut_off:
        found.append(f"rows of {_cpus(last.cut_off)} end before snapshot 1 (move it away to replay what is there)")
    if loading and health.repeated:
        found.append(f"{_n(health.repeated, 'row')} {_have(health.repeated)} a number that occurs twice")
    refused = [fault for fault in health.impossible if fault.column != "ts_ns"]
    if refused or health.events_unknown:
        parts = [f"{_n(fault.rows, 'row')} with an impossible {fault.column}" for fault in refused]
        parts += [f"{_n(count, 'row')} of unknown event {name}" for name, count in health.events_unknown.items()]
        found.append(f"the file has {', '.join(parts)}")
    if not health.phases[1] and (first.there or last.there or not loading):
        found.append("no row lies between the snapshots")
    return found


def modes(health: Health) -> list[Verdict]:
    """
    How each replay mode, and ``compare``, fares with the recording.
    """
    told = (
        ("free-run", _free_run, False),
        ("guided", _guided, False),
        ("resync", _resync, False),
        ("handle", _handle, True),
        ("compare", _handle, True),
    )
    verdicts = []
    for name, drawbacks, loading in told:
        refused = refusals(health, loading=loading)
        verdicts.append(Verdict(name, NO, " and ".join(refused)) if refused else _but(name, drawbacks(health)))
    return verdicts


def _free_run(health: Health) -> list[str]:
    """
    Drawbacks, the weightiest first.
    """
    found = _damage(health, "exact up to there at most")
    wanting = ", ".join(item.name for item in items(health) if item.is_open and _hurts(item, health))
    if wanting and health.with_probes:
        found.append(f"it may part from the kernel where the rows leave a cause open ({wanting})")
    elif wanting:
        found.append(
            f"it parts from the kernel sooner or later, for the rows leave causes open ({wanting}): guided takes what "
            "it can from the rows that follow"
        )
    return found + _end_state(health)


def _guided(health: Health) -> list[str]:
    found = _damage(health, "exact up to there at most")
    if not health.signs.decays and not health.with_probes:
        found.append("ticks (R7) have to be guessed from the drains they cause")
        if "pid" in health.columns_missing:
            found.append(
                "operations that were preempted (R3) cannot be put in order, for no column pid tells tasks apart"
            )
    elif health.signs.compaction:
        found.append("what compaction and isolation did to the lists (R6) has to be resynced")
    count = health.pages.frees_unknown
    if count and not health.lost_between_snapshots:
        found.append(f"{_n(count, 'page')} freed here {_were(count)} taken unseen (R1)")
    return found + _end_state(health)


def _resync(health: Health) -> list[str]:
    found = []
    if health.lost_between_snapshots or health.ring_losses:
        found.append(f"{_loss(health)}, and each gap costs resyncs (R11)")
    found += _displaced(health)
    return found + _end_state(health)


def _handle(health: Health) -> list[str]:
    found = []
    if not health.snapshots[0].there and "zoneinfo" in health.proc:
        found.append("the start state is assumed, from the /proc texts that came with it")
    elif not health.snapshots[0].there:
        found.append("the start state is inferred from the rows alone (better: --proc DIR with /proc texts)")
    if health.lost_between_snapshots or health.ring_losses:
        found.append(f"{_loss(health)}, and the requests among them are missing")
    pages = health.pages
    skipped = [
        (pages.frees_unknown, "of pages never seen allocated"),
        (pages.frees_double, "of pages already free"),
    ]
    if any(count for count, _ in skipped):
        parts = [f"{count} {what}" for count, what in skipped if count]
        found.append(f"frees are skipped ({', '.join(parts)})")
    if pages.frees_unseen:
        count = pages.frees_unseen
        found.append(f"{_n(count, 'page')} {_are(count)} allocated twice with no free between, so freed at that point")
    found += _displaced(health)
    if not health.with_probes:
        found.append("ticks are assumed (one per CPU and second)")
    return found


def _damage(health: Health, consequence: str) -> list[str]:
    found = []
    if health.lost_between_snapshots or health.ring_losses:
        where = f", the first before row {health.first_loss_row}" if health.first_loss_row is not None else ""
        found.append(f"{_loss(health)}{where}: {consequence} (R11)")
    return found + _displaced(health)


def _loss(health: Health) -> str:
    if not health.lost_between_snapshots:
        return f"the kernel counted {_n(health.ring_losses, 'event')} as lost"
    count = health.lost_between_snapshots
    return f"{_n(count, 'row')} between the snapshots {_are(count)} lost"


def _displaced(health: Health) -> list[str]:
    if health.repeated:
        return [f"{_n(health.repeated, 'row')} {_have(health.repeated)} a number that occurs twice and count twice"]
    if health.displaced:
        return [f"{_n(health.displaced, 'row')} {_are(health.displaced)} out of place and taken where they stand"]
    if health.clock.back:
        return [f"time goes back {_times(health.clock.back)} in row order, and rows are taken in that order"]
    return []


def _end_state(health: Health) -> list[str]:
    last = health.snapshots[1]
    if not last.there:
        return ["there is no snapshot 1 to compare the final state with"]
    return []


def _hurts(item: Item, health: Health) -> bool:
    """
    Whether an open item can make the policy decide otherwise. Lost rows are spoken of by themselves.
    """
    if item.name == "R11":
        return False
    # Counters matter at the 50 % edge of CMA; near watermarks too, which no recording without pressure comes to.
    return item.name != "R10" or bool(health.signs.cma_pages) or bool(health.signs.reclaim)


def questions(health: Health) -> list[Verdict]:
    """
    The plain questions that people ask of a recording.
    """
    return [
        _page_frames(health),
        _refills(health),
        _lock_waits(health),
        _cma_share(health),
        _fragmentation(health),
        _task(health),
    ]


def _lock_waits(health: Health) -> Verdict:
    question = "lock waits?"
    if not health.events.get("contention_begin"):
        return Verdict(question, NO, "no lock events are recorded")
    found = [
        "how long CPUs waited, not how long locks were held",
        "which lock is a zone's its address alone does not say",
    ]
    return _but(question, found)


def _page_frames(health: Health) -> Verdict:
    question = "page frames exact?"
    if not health.rows:
        return Verdict(question, NO, "there are no rows")
    found = []
    if health.lost or health.ring_losses:
        found.append("those of lost rows are not known")
    if not health.with_probes:
        found.append("pages taken in bulk (R1) leave no row")
    return _but(question, found)


def _refills(health: Health) -> Verdict:
    question = "refill and drain sizes?"
    there = [name for name in ("mm_page_alloc_zone_locked", "mm_page_pcpu_drain") if health.events.get(name)]
    if not there:
        return Verdict(question, NO, "there is neither a mm_page_alloc_zone_locked nor a mm_page_pcpu_drain row")
    found = []
    if health.lost or health.ring_losses:
        found.append("lost rows make them look smaller")
    if not health.with_probes:
        found.append("drains of one CPU that follow each other show as one")
    found += _displaced(health)
    return _but(question, found)


def _cma_share(health: Health) -> Verdict:
    question = "CMA share?"
    if not health.rows:
        return Verdict(question, NO, "there are no rows")
    signs = health.signs
    if signs.cma_pages == 0 and not signs.cma_takes:
        return Verdict(question, BUT, "it is 0, for this machine has no CMA area")
    if signs.cma_pages is None:
        return Verdict(
            question,
            BUT,
            f"only of pages taken from the zone ({signs.cma_takes} from CMA lists): without snapshot 0 nobody knows "
            "which pageblocks are CMA",
        )
    return _but(question, ["lost rows are missing from it"] if health.lost or health.ring_losses else [])


def _fragmentation(health: Health) -> Verdict:
    question = "fragmentation over time?"
    if not health.snapshots[0].usable:
        return Verdict(question, NO, "it starts from the free lists of snapshot 0, which cannot be had")
    if not health.phases[1]:
        return Verdict(question, NO, "no row lies between the snapshots")
    found = []
    if health.lost_between_snapshots or health.ring_losses:
        found.append(f"only up to the first lost row ({health.first_loss_row or 0})")
    if health.signs.compaction:
        found.append("pages that compaction holds have no rows (R6)")
    if not health.with_probes:
        found.append("when a page freed past its PCP reached the zone is not shown (R2)")
    found += _displaced(health)
    return _but(question, found)


def _task(health: Health) -> Verdict:
    question = "which task?"
    if "pid" in health.columns_missing:
        return Verdict(question, NO, "the file has no column pid (tools/cut_recording.py leaves it out)")
    if not health.rows:
        return Verdict(question, NO, "there are no rows")
    signs = health.signs
    found = ["by number only, for there is no column comm"] if "comm" in health.columns_missing else []
    if signs.in_interrupt:
        found.append(
            f"{signs.in_interrupt} of {signs.requests} mm_page_alloc and mm_page_free rows were printed in interrupts "
            "and name the task that was interrupted"
        )
    if signs.in_interrupt is None:
        found.append("without column irq_flags nobody knows which rows come from interrupts")
    return _but(question, found)


def items(health: Health) -> list[Item]:
    """
    All R-items, in order.
    """
    return [
        _r1(health),
        _r2(health),
        _r3(health),
        Item("R4", "refill of one, or direct take", False, "both give the same result"),
        _r5(health),
        _r6(health),
        _r7(health),
        _r8(health),
        _r9(health),
        _r10(health),
        _r11(health),
    ]


def _r1(health: Health) -> Item:
    title, pages, signs = "bulk allocations", health.pages, health.signs
    if health.with_probes:
        unseen = pages.frees_unknown > 0 and not (health.lost or health.displaced)
        why = f"{_n(signs.bulk_pages, 'page')} in pcp_alloc_bulk rows"
        if unseen:
            why += f", but {_n(pages.frees_unknown, 'page')} more were freed that no row allocated"
        return Item("R1", title, unseen, why)
    if not pages.from_snapshot:
        return Item("R1", title, True, "such pages leave no row, and without snapshot 0 they cannot be counted")
    if pages.frees_unknown or pages.differ_allocated:
        why = f"no row allocated {_n(pages.frees_unknown, 'page')} that {_were(pages.frees_unknown)} freed"
        if pages.differ_allocated:
            why += f", and {pages.differ_allocated} that snapshot 1 shows allocated"
        if health.lost or health.displaced:
            why += "; lost or displaced rows may be the cause"
        return Item("R1", title, True, why)
    where = "nor allocated in snapshot 1 " if pages.differ_allocated == 0 else ""
    return Item("R1", title, True, f"such pages leave no row; but none was freed {where}that no row allocated")


def _r2(health: Health) -> Item:
    title, signs = "failed trylocks", health.signs
    if not health.with_probes:
        return Item("R2", title, True, "whether a page went past its PCP is not shown")
    why = f"{_n(signs.tryfails, 'allocation')} and {_n(signs.frees_past_pcp, 'free')} went past the PCP"
    return Item("R2", title, False, why)


def _r3(health: Health) -> Item:
    title = "migration before the event"
    if not health.with_probes:
        return Item("R3", title, True, "mm_page_alloc may be printed on another CPU than the one that served it")
    return Item("R3", title, False, f"pcp_alloc shows the CPU; {_n(health.signs.moved, 'mm_page_alloc row')} moved")


def _r5(health: Health) -> Item:
    title, signs = "contiguous frees", health.signs
    if health.with_probes and "fpi" not in health.columns_missing:
        return Item("R5", title, False, f"{_n(signs.contiguous, 'entry', 'entries')} with the flag for them (fpi & 8)")
    why = "single pages may enter the lists as one larger entry"
    if health.with_probes:
        return Item("R5", title, True, f"{why}: no column fpi says which")
    seen = signs.drained_contiguous
    return Item("R5", title, True, f"{why}; {_n(seen, 'drained entry', 'drained entries')} show that it happened")


def _r6(health: Health) -> Item:
    title = "compaction, isolation, CMA ranges"
    if not health.signs.compaction:
        return Item("R6", title, False, "no such rows (provided their tracepoints were on)")
    count = _n(health.signs.compaction, "row")
    return Item("R6", title, True, f"{count}; what it does to the order of free lists has no event")


def _r7(health: Health) -> Item:
    title, signs = "ticks", health.signs
    if signs.decays:
        return Item("R7", title, False, f"{_n(signs.decays, 'decay row')}; for folds of counters see R10")
    why = "no decay rows, so when high decays is not shown"
    return Item("R7", title, True, why)


def _r8(health: Health) -> Item:
    title, signs = "zone flags", health.signs
    reclaim = f"{_n(signs.reclaim, 'vmscan row')}"
    if health.with_probes and "zflags" not in health.columns_missing:
        why = f"pcp_free rows show them, {_n(signs.zone_flags_set, 'time')} set; {reclaim}"
        return Item("R8", title, False, why)
    return Item("R8", title, True, f"BELOW_HIGH and RECLAIM_ACTIVE are not shown; {reclaim}")


def _r9(health: Health) -> Item:
    title, claims = "LRU bits at claims", health.signs.claims
    if not claims:
        return Item("R9", title, False, "no claim looked at them, for none was of less than a pageblock")
    return Item("R9", title, True, f"{_n(claims, 'claim')} below pageblock size; LRU bits are in snapshot 0 at most")


def _r10(health: Health) -> Item:
    title, signs = "drift of counters", health.signs
    if signs.folds:
        raced = bool(signs.cma_pages or signs.cma_takes)
        why = f"{_n(signs.folds, 'vmfold row')}"
        if raced:
            why += ", but near the 50 % edge of CMA (B-40) a fold may race with the test"
        return Item("R10", title, raced, why)
    if signs.cma_pages or signs.cma_takes:
        edge = "at the 50 % edge of CMA (B-40) and near watermarks"
    else:
        edge = "near watermarks only, for there is no CMA" if signs.cma_pages == 0 else "near watermarks and CMA's edge"
    return Item("R10", title, True, f"no vmfold rows; it matters {edge}")


def _r11(health: Health) -> Item:
    title = "lost rows"
    if health.lost or health.ring_losses:
        known = any(snap.usable for snap in health.snapshots)
        between = f", {health.lost_between_snapshots} of them between the snapshots" if known else ""
        kernel = f"; the kernel counted {health.ring_losses} lost" if health.ring_losses else ""
        return Item("R11", title, True, f"{_n(health.lost, 'row')}{between}{kernel}")
    if health.snapshots[1].usable:
        return Item("R11", title, False, "none")
    return Item("R11", title, False, "none seen; without snapshot 1 a missing end would not show")


def _but(question: str, drawbacks: Iterable[str]) -> Verdict:
    why = "; ".join(drawbacks)
    return Verdict(question, BUT if why else YES, why)


def _cpus(cpus: Iterable[int]) -> str:
    named = list(cpus)
    return ("CPU " if len(named) == 1 else "CPUs ") + ", ".join(map(str, named))


def _n(count: int, noun: str, plural: str = "") -> str:
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
