"""
All trials of a setting, and what they are as a document.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ..manifest import manifest
from .setting import Setting
from .trial import Trial, marks, trial

__all__ = ["Study", "measure"]

SCHEMA = "pcpbuddy.cma/1"

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Study:
    """
    All trials of a setting. partial: it was ended before it was through.
    """

    setting: Setting
    trials: tuple[Trial, ...]
    partial: bool = False

    @property
    def pages_at(self) -> tuple[int, ...]:
        """
        How many pages are taken at each point.
        """
        return marks(self.setting.counted)

    def of(self, policy: str, share: float) -> list[Trial]:
        """
        The trials of a policy, seed by seed.
        """
        return [one for one in self.trials if (one.policy, one.share) == (policy, share)]

    def document(self) -> dict[str, Any]:
        """
        As one JSON document: the same setting gives the same bytes.
        """
        setting = self.setting
        config = {field.name: getattr(setting, field.name) for field in dataclasses.fields(setting)[1:]}
        facts = {"command": setting.command(), "config": config, "partial": self.partial}
        return {
            "schema": SCHEMA,
            "manifest": manifest(setting.policies, **facts),
            "results": [
                {
                    **{name: getattr(one, name) for name in ("policy", "share", "seed", "listed", "left")},
                    "points": [point._asdict() | {"rule_says_cma": point.rule_says_cma} for point in one.points],
                    "by_phase": one.by_phase,
                    "steps": one.steps._asdict(),
                    "mixed": one.mixed and one.mixed._asdict(),
                    "rounds": one.rounds,
                }
                for one in self.trials
            ],
        }


def measure(setting: Setting, progress: Progress | None = None) -> Study:
    """
    Run all trials, policy after policy for each seed. Ctrl-C ends it with what was measured, as a partial study.

    progress: called as f(name, done, total) before each trial and at the end.
    """
    wanted = [
        (share, seed, policy) for share in setting.shares for seed in setting.drawn for policy in setting.policies
    ]
    trials: list[Trial] = []
    try:
        for done, (share, seed, policy) in enumerate(wanted):
            if progress is not None:
                progress("cma", done, len(wanted))
            trials.append(trial(setting, policy, share, seed))
    except KeyboardInterrupt:
        return Study(setting, tuple(trials), partial=True)
    if progress is not None:
        progress("cma", len(wanted), len(wanted))
    return Study(setting, tuple(trials))
