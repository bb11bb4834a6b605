"""
Every claim of the discussion of the proposal (docs/reference/rfc.md, section 19), measured.

``measure(["K-1"])`` gives ``Findings``; ``claims()`` gives all there are. A claim's rule stands in the code beside its
measurement and was written before anything was measured.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import ConfigError
from ..statistics import LEVEL
from .claim import NOT_DECIDABLE, QUICK_SEEDS, REFUTED, SEEDS, SUPPORTED, Claim, Finding, Settings, verdict

__all__ = [
    "NOT_DECIDABLE",
    "QUICK_SEEDS",
    "REFUTED",
    "SCHEMA",
    "SEEDS",
    "SUPPORTED",
    "Claim",
    "Finding",
    "Findings",
    "Settings",
    "claims",
    "measure",
    "verdict",
]

SCHEMA = "pcpbuddy.claims/1"

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """
    What was found of some claims.

    wanted: the names of all that were to be measured. partial: stopped before all were; those that were are here.
    """

    wanted: list[str]
    found: list[Finding]
    settings: Settings
    partial: bool = False

    def document(self) -> dict[str, Any]:
        """
        The findings as one JSON document: the same settings give the same bytes.
        """
        from ..config import PROFILES
        from ..costs import costs
        from ..manifest import manifest

        facts = manifest(
            PROFILES.values(),
            command=self.settings.command(*([] if self.wanted == list(claims()) else self.wanted)),
            costs=costs(self.settings.costs).document(),
            seeds=self.settings.seeds,
            quick=self.settings.quick,
            recordings=[path.replace("\\", "/").rsplit("/", 1)[-1] for path in self.settings.recorded()],
            level=LEVEL,
            wanted=self.wanted,
            partial=self.partial,
        )
        known = claims()
        rows = [
            {**finding.row(), "text": known[finding.claim].text, "source": known[finding.claim].source}
            for finding in self.found
        ]
        return {"schema": SCHEMA, "manifest": facts, "results": rows}


def claims() -> dict[str, Claim]:
    """
    All claims by name, in their order.
    """
    # Here and not above: both take their words from this package.
    from . import locks, memory

    found = (*locks.CLAIMS, *memory.CLAIMS)
    return {claim.name: claim for claim in sorted(found, key=lambda claim: int(claim.name.removeprefix("K-")))}


def chosen(names: Iterable[str]) -> list[Claim]:
    """
    The claims of these names, in the order of the list; without any name, all. Raises ConfigError for one unknown.
    """
    known = claims()
    wanted = [name.strip().upper() for name in names]
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            first, *_, last = known
            raise ConfigError(f"there is no claim {name!r}{hint}; claims are {first} to {last}")
    return [claim for claim in known.values() if not wanted or claim.name in wanted]


def measure(
    names: Iterable[str] = (), settings: Settings | None = None, *, progress: Progress | None = None
) -> Findings:
    """
    Measure claims, one after the other.

    progress: called as progress("K-1", claims done, in all) before each and at the end; the runs within a claim are
    told to ``settings.progress``. Stopped by KeyboardInterrupt, it returns what was found until then, marked partial.
    Raises ConfigError for a claim that does not exist, before anything runs.
    """
    wanted = chosen(names)
    using = Settings() if settings is None else settings
    found: list[Finding] = []
    partial = False
    try:
        for number, claim in enumerate(wanted):
            if progress is not None:
                progress(claim.name, number, len(wanted))
            found.append(claim.measure(using))
        if progress is not None:
            progress(wanted[-1].name, len(wanted), len(wanted))
    except KeyboardInterrupt:
        partial = True
    return Findings([claim.name for claim in wanted], found, using, partial)
