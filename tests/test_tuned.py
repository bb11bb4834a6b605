"""
The profile ``tuned`` at small sizes: what decision 0006 says of it, held by the machine. And the page of questions.
"""

import importlib.util
from pathlib import Path

import pytest

from pcpbuddy import config
from pcpbuddy.sweeps import sweep

ROOT = Path(__file__).parent.parent
OTHERS = ("mainline", "fixed", "llist", "handover")
LOADS = {
    "faults": ("wis/page_fault1", {"mapping_mib": 8}, "8ms", "256MiB"),
    "faults that do not fit": ("wis/page_fault1", {"mapping_mib": 16}, "8ms", "256MiB"),
    "faults, small": ("wis/page_fault2", {"mapping_mib": 2}, "2ms", "32MiB"),
    "control": ("local/loop", {}, "100us", None),
    "turns": ("interleave/1", {"pages": 1536, "rounds": 1}, None, "128MiB"),
    "purge": ("purge/jemalloc", {"live_mib": 1}, "4ms", "128MiB"),
    "purge, small": ("purge/jemalloc", {"live_mib": 1, "backlog": 2, "extent_pages": 16}, "2ms", "16MiB"),
    "storm": ("exit/storm", {"touch_mib": 6, "rounds": 1}, None, "256MiB"),
    "storm, small": ("exit/storm", {"touch_mib": 2, "rounds": 1}, None, "32MiB"),
    "storm, where a block just fits": ("exit/storm", {"touch_mib": 2}, None, "64MiB"),
    "reclaim": ("reclaim/kswapd", {}, "4ms", "64MiB"),
    "pipes": ("pipe/pingpong", {}, "1ms", None),
    "used memory": ("purge/jemalloc", {"live_mib": 1, "fragment": 0.5}, "2ms", "128MiB"),
}


@pytest.mark.parametrize("load", LOADS)
def test_no_worse_than_any_other(load):
    """
    Better or equal, or the difference may be chance: the 95 % interval over pairs of seeds, but for a thousandth.
    """
    name, parameters, duration, memory = LOADS[load]
    done = sweep(
        name, (*OTHERS, "tuned"), cpus=4, seeds=3, duration=duration, parameters=parameters, memory=memory, workers=1
    )
    for other in OTHERS:
        change = done.change("work.per_s", "tuned", 4, base=other)
        assert change.difference.high >= -0.001 * change.base, (other, change)
    assert {run.metrics["call.failed"] for (policy, *_), run in done.runs.items() if policy == "tuned"} == {0}


def test_readers_that_only_allocate_hoard_nothing():
    """
    Under llist their PCPs absorb without end; under tuned who pushes drains them, as under fixed.
    """
    done = sweep("reclaim/kswapd", ("fixed", "llist", "tuned"), cpus=8, seeds=1, duration="5ms", workers=1)
    fixed, llist, tuned = (
        run.metrics["pcp.parked_pages_max"] / sum(zone["pages"] for zone in run.manifest["zones"])
        for run in done.runs.values()
    )
    assert llist > 3 * fixed
    assert tuned < 1.5 * fixed


def test_a_merge_pass_is_no_longer_than_its_drain():
    """
    The longest hold of a PCP lock is a merge pass: under fixed over all that the PCP has.
    """
    done = sweep(
        "wis/page_fault1",
        ("fixed", "tuned", "tuned+merge=never"),
        cpus=2,
        seeds=1,
        duration="20ms",
        parameters={"mapping_mib": 32},
        memory="512MiB",
        workers=1,
    )
    fixed, tuned, never = (run.metrics for run in done.runs.values())
    assert tuned["pcp_lock.hold_ns.max"] < fixed["pcp_lock.hold_ns.max"] / 2
    assert tuned["zone_lock.list_ops"] < never["zone_lock.list_ops"] / 10


def test_what_it_is():
    """
    As docs/decisions/0006-tuned.md has it: fixed, with eight other values.
    """
    tuned, fixed = config.PROFILES["tuned"].switches(), config.PROFILES["fixed"].switches()
    assert {name: value for name, value in tuned.items() if value != fixed[name]} == {
        "remote": "handover",
        "drain_by": "visitor",
        "pressure": "local",
        "gate": "plenty",
        "merge": "tail",
        "drain": "near",
        "high_growth": "pages",
        "cma": "rule",
    }


def test_every_table_has_its_place_in_the_page():
    """
    tools/questions.py --write finds the marks of each table it makes, and the page has no others.
    """
    spec = importlib.util.spec_from_file_location("questions", ROOT / "tools" / "questions.py")
    questions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(questions)
    settings = questions.Settings(None, 1, "server-2s", 1)
    tables = [f"{name} {part}" for name, tables in questions.QUESTIONS.items() for part in tables(settings)]
    page = questions.PAGE.read_text()
    for name in tables:
        assert "a table" in questions.written(page, name, ["a table"])
    assert page.count("<!-- table ") == page.count("<!-- end -->") == len(tables)
