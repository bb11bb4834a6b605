"""
Claims about memory: the scenes show what they say, the audit of takes finds what is planted, rules decide as written.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from pcpbuddy.claims import NOT_DECIDABLE, REFUTED, SUPPORTED, Settings, claims, cma, scenes
from pcpbuddy.claims.words import all_of, not_above, percent, plain, points, signed, within
from pcpbuddy.errors import ConfigError
from pcpbuddy.machine import Machine
from pcpbuddy.names import CMA, MOVABLE
from pcpbuddy.statistics import Interval

PUBLISHED = Path(__file__).parent.parent / "tools" / "published.py"


# Words and decisions


def test_words():
    assert percent(Interval(0.123, 0.11, 0.136, 3)) == "12.3 % [11.0, 13.6]"
    assert percent(Interval(0.123, 0.123, 0.123, 1)) == "12.3 %"
    assert points(Interval(-0.012, -0.02, 0.001, 3)) == "-1.2 points [-2.0, +0.1]"
    assert plain(Interval(7.25, 7.0, 7.5, 3), 1) == "7.2 [7.0, 7.5]"
    assert signed(Interval(3.0, 3.0, 3.0, 3)) == "+3"


@pytest.mark.parametrize(
    ("low", "high", "is_within", "is_not_above"),
    [
        (-0.01, 0.04, SUPPORTED, SUPPORTED),
        (0.04, 0.06, NOT_DECIDABLE, NOT_DECIDABLE),
        (0.06, 0.07, REFUTED, REFUTED),
        (-0.07, -0.06, REFUTED, SUPPORTED),
        (-0.06, 0.06, NOT_DECIDABLE, NOT_DECIDABLE),
    ],
)
def test_margins(low, high, is_within, is_not_above):
    of = Interval((low + high) / 2, low, high, 5)
    assert within(of, 0.05) == is_within
    assert not_above(of, 0.05) == is_not_above


def test_all_of():
    assert all_of([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert all_of([SUPPORTED, NOT_DECIDABLE]) == NOT_DECIDABLE
    assert all_of([NOT_DECIDABLE, REFUTED]) == REFUTED
    assert all_of([]) == NOT_DECIDABLE


# Scenes


def test_vectors_of_cma():
    assert [scenes.x7(policy) for policy in ("posted", "fixed")] == [(318, 0), (830, 63)]
    assert [scenes.x8(policy) for policy in ("posted", "fixed")] == [(512, 1), (6, 0)]


def test_shares_are_those_of_p82():
    """
    P-82 has 4096 / 7700 / 9748 / 11796 for the baseline and 0 / 0 / 1553 / 5579 for posted, of another drawing.
    """
    mainline = scenes.cma_shares("mainline", 0, 1, True)
    posted = scenes.cma_shares("posted", 0, 1, True)
    for taken, of_mainline, of_posted in zip(
        scenes.COUNTED, (4096, 7700, 9748, 11796), (0, 0, 1553, 5579), strict=True
    ):
        assert mainline[taken] * taken == pytest.approx(of_mainline, abs=120)
        assert posted[taken] * taken == pytest.approx(of_posted, abs=120)


def test_audit_clears_mainline_and_finds_phase_2():
    assert set(scenes.audit("mainline", 0, "small")) == {3}
    assert scenes.audit("mainline", 0, "small")[3].against == 0
    takes = scenes.audit("posted", 0, "small")
    assert takes[2].against == takes[2].pages > 0
    assert takes[3].against == 0


def test_ledger_follows_chunks():
    """
    Planted events: whole blocks, then a chunk out of a larger one, then the wrong type, then the wrong one for want.
    """
    zone = scenes.fresh("fixed", cma_blocks=40)
    ledger = scenes._Ledger(zone)
    first_cma, movable = 24 * 512, 0
    events = [
        ("zone_locked", 0, first_cma, 9, CMA, 1),
        ("claim", 0, first_cma, CMA),
        ("zone_locked", 0, first_cma + 512, 5, CMA, 1),
        ("chunk", 0, first_cma + 512, 5),
        ("zone_locked", 0, movable, 9, MOVABLE, 1),
        ("claim", 0, movable, MOVABLE),
        ("alloc", 0, movable, 0, MOVABLE),
    ]
    assert ledger.follow(events) == {1: scenes.Takes(1024, 512, 0, 0), 2: scenes.Takes(32, 0, 0, 0)}
    # 38 CMA blocks as they were, one in pieces: 32 of its pages are gone.
    assert ledger.pages([CMA]) == 39 * 512 - 32
    assert [order for order in range(10) if ledger.free[order][CMA] and order < 9] == [5, 6, 7, 8]
    for order in range(11):
        ledger.free[order][CMA] = 0
    ledger.free[3][CMA] = 10_000
    assert ledger.judge(MOVABLE, 5, 2) == 2
    assert ledger.judge(MOVABLE, 3, 2) == 1
    assert ledger.judge(CMA, 3, 2) == 0


def test_blocks_are_passed_over_by_posted_only():
    before, left, recovered = scenes.passed_over("posted", 1, "pressure")
    assert before == left > 0
    assert recovered == 0
    before, left, recovered = scenes.passed_over("fixed", 1, "pressure")
    assert before > 0
    assert left == 0
    assert recovered > 0


def test_churn_and_fill_are_what_they_say():
    run = scenes.churn("fixed", 3, 1, 0.7)
    assert run == scenes.churn.__wrapped__("fixed", 3, 1, 0.7)
    assert 0 <= run.unusable <= 1000
    assert 0 <= run.huge <= run.drained <= 1
    full = scenes.fill("fixed", 0, True, 32)
    assert 0 < full.low < full.failed < full.managed
    assert full.parked > 0


def test_adoption_makes_owners():
    pieces = "runs of 64 pages, 60 % free"
    without, with_ = (scenes.adoption(policy, 0, pieces) for policy in ("fixed", "fixed+adopt=on"))
    assert with_.owned > without.owned
    assert without.local > with_.local


# Claims


def test_claims_are_there():
    known = claims()
    for number in (15, 16, 17, 18, 19, 27, 28, 29):
        claim = known[f"K-{number}"]
        assert claim.rule.startswith("Supported")
        assert "efuted" in claim.rule
        assert claim.measurement
        assert claim.text


def test_k15_and_k18_are_found(monkeypatch):
    monkeypatch.setattr(cma, "SCENES", ("small",))
    monkeypatch.setattr(cma, "AUDITED", ("posted", "fixed"))
    settings = Settings(seeds=1, quick=True)
    share = claims()["K-15"].measure(settings)
    assert share.verdict == SUPPORTED
    assert share.value == pytest.approx(-0.94, abs=0.01)
    assert share.row()["interval"] == list(share.interval)
    takes = claims()["K-18"].measure(settings)
    assert takes.verdict == SUPPORTED
    assert takes.value == 1.0
    assert "page 318 with 0 CMA pages, fixed 830 with 63" in takes.figure


# Lists of a fixed size, and what is published


def test_limits_of_pcps():
    machine = Machine(2, "256MiB", pcp={"batch": 31, "high": "186"}, policy="mainline")
    run = machine.run("local/loop", duration="20us")
    zone = run.manifest["zones"][0]
    assert (zone["batch"], zone["high_min"], zone["high_max"]) == (31, 186, 186)
    assert run.manifest["config"]["pcp"] == {"batch": 31, "high": 186}
    assert "--pcp batch=31,high=186" in run.manifest["command"]
    usual = Machine(2, "256MiB").run("local/loop", duration="20us").manifest
    least = Machine(2, "256MiB", pcp={"high": "min"}).run("local/loop", duration="20us").manifest["zones"][0]
    assert least == {**usual["zones"][0], "high_max": usual["zones"][0]["high_min"]}
    assert "pcp" not in usual["config"]


@pytest.mark.parametrize(
    ("pcp", "sentence"),
    [
        ({"high_max": 3}, "pcp.high_max: expected batch or high"),
        ({"high": "max"}, "pcp.high=max: expected a whole number"),
        ({"batch": 0}, "pcp.batch=0: expected a whole number from 1"),
    ],
)
def test_limits_that_cannot_be(pcp, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Machine(2, pcp=pcp)


def test_published(capsys):
    spec = importlib.util.spec_from_file_location("published", PUBLISHED)
    published = importlib.util.module_from_spec(spec)
    sys.modules["published"] = published
    spec.loader.exec_module(published)
    published.BULK_PAGES, published.REPEATS = 2048, 64
    assert published.main(["--quick", "--only", "6"]) == 0
    text = capsys.readouterr().out
    assert "| figure | published | laboratory | agrees |" in text
    assert "| get, bulk, 4 cores against 1 | 10.9 times |" in text
    with pytest.raises(SystemExit):
        published.main(["--only", "7"])
