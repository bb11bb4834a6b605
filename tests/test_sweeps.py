"""
Comparisons in virtual time: means and intervals over seeds, verdicts, the table.
"""

import json
import re

import labdata
import pytest

from pcpbuddy import comparison, sweeps
from pcpbuddy.config import PROFILES, parse_policies
from pcpbuddy.errors import ConfigError
from pcpbuddy.report.sweep import FEW, TITLE, change_text, table
from pcpbuddy.statistics import interval

COUNTED = {
    "zone_lock.holds_per_1000_allocs": 20.0,
    "zone_lock.pages_per_hold": 30.0,
    "allocs.from_pcp": 0.9,
    "frees.failed_trylock": 0,
    "cma.movable_share": 0.0,
}
# By policy, the value of one figure for seeds 0 to 4.
VALUES = {
    "mainline": [100, 104, 98, 101, 97],
    "fixed": [50, 53, 49, 50, 48],  # half, every time
    "llist": [100, 104, 98, 101, 97],  # the same
    "posted": [103, 100, 99, 97, 102],  # now this, now that
}


def made(policies=tuple(VALUES), cpus=(4, 16), seeds=5, partial=False):
    runs = {}
    for policy in policies:
        for nr in cpus:
            for seed in range(seeds):
                counted = COUNTED | {"zone_lock.pages_per_hold": float(VALUES[policy][seed])}
                runs[policy, nr, seed] = labdata.run(seed, zones=1, counted=counted, policy=policy)
    chosen = [PROFILES[policy] for policy in policies]
    return sweeps.Sweep("exit/storm", chosen, list(cpus), list(range(seeds)), runs, partial)


@pytest.fixture(scope="module")
def sweep():
    return made()


METRIC = "zone_lock.pages_per_hold"


def test_values_and_intervals(sweep):
    assert sweep.values(METRIC, "fixed", 16) == dict(enumerate(VALUES["fixed"]))
    assert sweep.interval(METRIC, "fixed", 16) == interval(VALUES["fixed"])


def test_verdicts(sweep):
    verdicts = {policy: sweep.change(METRIC, policy, 4).verdict for policy in VALUES}
    assert verdicts == {"mainline": "equal", "fixed": "lower", "llist": "equal", "posted": "no difference found"}
    assert sweep.change(METRIC, "mainline", 4, base="fixed").verdict == "higher"


def test_change_is_that_of_pairs(sweep):
    change = sweep.change(METRIC, "fixed", 4)
    assert change.base == 100
    assert change.difference == interval([-50, -51, -49, -51, -49])
    assert change.relative().mean == pytest.approx(-0.5)
    assert change.relative().low < change.relative().mean < change.relative().high


def test_one_seed_has_no_interval():
    one = made(seeds=1)
    assert one.change(METRIC, "fixed", 4).verdict == "one seed"
    assert "one seed: no intervals" in table(one)
    assert "-50.0%" in table(one)
    assert "no difference" not in table(one)


def test_missing_runs_leave_pairs_out(sweep):
    """
    A sweep that was stopped compares the seeds that both have.
    """
    runs = {point: run for point, run in sweep.runs.items() if point not in [("fixed", 16, 3), ("fixed", 16, 4)]}
    part = sweeps.Sweep("exit/storm", sweep.policies, sweep.cpus, sweep.seeds, runs, True)
    assert part.change(METRIC, "fixed", 16).difference.n == 3
    text = table(part)
    assert text.startswith("PARTIAL: stopped when 38 of 40 runs were done")
    assert part.manifest()["partial"] is True


def test_runs_that_are_not_there(sweep):
    runs = {point: run for point, run in sweep.runs.items() if point[1] == 4}
    part = sweeps.Sweep("exit/storm", sweep.policies, sweep.cpus, sweep.seeds, runs, True)
    assert part.change(METRIC, "fixed", 16).verdict == "not run"
    assert "16 CPUs" not in table(part)
    assert re.search(r"16 CPUs +- +- +-", table(part, [METRIC]))
    json.dumps(part.document(), allow_nan=False)


def test_document(sweep):
    document = json.loads(json.dumps(sweep.document(), allow_nan=False))
    assert document["schema"] == "pcpbuddy.sweep/1"
    assert "Student's t" in document["manifest"]["method"]
    assert list(document["manifest"]["policies"]) == list(VALUES)
    assert [(row["policy"], row["cpus"]) for row in document["results"]] == [(p, c) for c in (4, 16) for p in VALUES]
    row = document["results"][1]
    assert row["seeds"] == [0, 1, 2, 3, 4]
    assert len(set(row["digests"])) == 5
    assert row["metrics"][METRIC]["values"] == VALUES["fixed"]
    assert row["metrics"][METRIC]["change"]["verdict"] == "lower"
    assert "change" not in document["results"][0]["metrics"][METRIC]
    assert not [name for name in row["metrics"] if name.startswith("zones.")]


def test_table(sweep):
    text = table(sweep)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert max(len(f"  {title}") for _, title, _ in FEW) <= TITLE
    assert text.isascii()
    # The first policy stands beside two others, then beside the last.
    assert sum(line.startswith("4 CPUs, 16MiB") for line in lines) == 2
    (wide, narrow) = [line for line in lines if line.startswith("  pages per hold")][:2]
    assert wide.split() == ["pages", "per", "hold", "100+-3", "50+-2", "-50.0%+-1.2", "100+-3", "="]
    assert narrow.split() == ["pages", "per", "hold", "100+-3", "100+-3", "no", "difference"]
    assert "no difference: no difference found, as the 95% interval of the change contains 0" in text
    assert "not calibrated" in text


def test_two_policies_fit_into_a_mail():
    text = table(made(("mainline", "fixed")))
    body = text.split("\n\n")[1:-1]
    assert max(len(line) for block in body for line in block.splitlines()) <= 72


def test_a_metric_by_cpus(sweep):
    text = table(sweep, [METRIC, "zone_lock.wait_ns.share"])
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("  ")][:2] == [
        ["4", "CPUs"],
        ["16", "CPUs"],
    ]
    assert METRIC in text


def test_changes_in_words():
    def text(values, kind):
        first, second = values
        return change_text(sweeps.Change(sweeps.difference(first, second), interval(first).mean), kind)

    assert text(([1, 1, 1], [1, 1, 1]), "count") == "="
    assert text(([1, 2, 3], [3, 2, 1]), "count") == "no difference"
    assert text(([0, 0, 0], [5, 6, 7]), "count") == "from 0"
    assert text(([0.5, 0.5], [0.25, 0.25]), "share") == "-25.0pt"
    assert text(([10, 10], [10.0001, 10.0001]), "ns") == "~0%"
    assert text(([1, 1], [20, 20]), "ns") == "x20"
    assert text(([], []), "ns") == "-"


def test_seeds_that_say_nothing_are_told():
    same = made(("mainline",), seeds=2)
    assert not same.seedless()
    runs = {(p, c, s): same.runs[p, c, 0] for p, c, s in same.runs}
    told = sweeps.Sweep("tiny-4c", same.policies, same.cpus, same.seeds, runs)
    assert told.seedless()
    assert "nothing here is drawn by chance" in table(told)


# With the machine.


def test_compare_in_virtual_time():
    swept = comparison.compare("local/loop", "mainline,fixed", cpus=[1, 3], seeds=2, duration="20us", tick=0)
    assert sorted(swept.runs) == sorted((p, c, s) for p in ("mainline", "fixed") for c in (1, 3) for s in (0, 1))
    assert all(run.metrics["time.measured_ns"] == 20_000 for run in swept.runs.values())
    again = comparison.compare("local/loop", "mainline,fixed", cpus=[1, 3], seeds=2, duration="20us", tick=0, workers=1)
    assert {point: run.digest for point, run in again.runs.items()} == {p: r.digest for p, r in swept.runs.items()}
    assert again.document() == swept.document()
    assert list(again.runs) == list(swept.runs)


def test_workloads_of_virtual_cpus_always_have_time():
    swept = comparison.compare("local/loop", parse_policies("fixed"), cpus=None, seeds=[7], duration="5us")
    assert list(swept.runs) == [("fixed", 16, 7)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpus": []}, "cpus: expected one number or more"),
        ({"cpus": [4, 4]}, "cpus: 4 is given 2 times"),
        ({"cpus": [0]}, "cpus=0: expected a whole number from 1 to 512"),
        ({"cpus": 4, "seeds": 0}, "seeds=0: expected how many, 1 to 1000"),
        ({"cpus": 4, "seeds": [1, 1]}, "seeds: 1 is given 2 times"),
        ({"cpus": 4, "level": 1.5}, "level=1.5: expected a number between 0 and 1"),
        ({"cpus": 4, "parameters": {"pagess": 3}}, "no parameter 'pagess'"),
        ({"cpus": 4, "duration": "long"}, "duration=long: expected a time"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(options, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        comparison.compare("local/loop", "mainline", **options)


def test_options_of_time_need_time():
    with pytest.raises(ConfigError, match="seeds: only runs in virtual time have it; give cpus too"):
        comparison.compare("shape/S1", "mainline", seeds=3)
    with pytest.raises(ConfigError, match=r"shape/S1 is a fixed sequence of requests without time"):
        comparison.compare("shape/S1", "mainline", cpus=4)


def test_names_of_metrics_are_known_without_a_run():
    names = sweeps.metric_names()
    assert {"zone_lock.wait_ns.refill.p99", "refill.count", "pcp_lock.wait_ns.share", "cpu.user"} <= set(names)
    assert set(names) == {
        name
        for name in comparison.compare("local/loop", "fixed", cpus=1, seeds=1, duration="5us")
        .runs["fixed", 1, 0]
        .metrics
        if not name.startswith("zones.")
    }
