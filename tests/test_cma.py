"""
The share of CMA among movable allocations: the experiment, its texts, its chart, and the command.
"""

import json
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compare_cli import golden, run
from test_recording import SHIPPED, needs_oracle, oracle

from pcpbuddy import cma
from pcpbuddy.config import PROFILES
from pcpbuddy.errors import ConfigError
from pcpbuddy.names import CMA, MOVABLE, PAGEBLOCK_PAGES
from pcpbuddy.replay import replay
from pcpbuddy.report import cma as report

SMALL = {"size": "32MiB", "cpus": 2, "pcp": (63, 1000, 4096), "seeds": (0, 1)}
P82 = {"size": "128MiB", "cpus": 1, "pcp": (63, 1000, 4096), "unmovable_every": 0}
SMALL_ARGV = ("--size", "32MiB", "--cpus", "2", "--pcp", "batch=63,high_min=1000,high_max=4096", "--seeds", "2")


def measured(policies=cma.POLICIES, **changes):
    return cma.measure(cma.Setting.of(policies, **{**SMALL, **changes}))


@pytest.fixture(scope="module")
def small():
    return measured()


@pytest.fixture(scope="module")
def fresh():
    return measured("mainline,posted,fixed,balanced", before="fresh", cpus=1)


def one(study, policy, seed=0):
    return next(trial for trial in study.trials if (trial.policy, trial.seed) == (policy, seed))


# The rule by itself.


def test_rule_by_hand():
    """
    Of 10 pages with 7 CMA: 4 come from CMA until 3 of 6 are left, then the kinds take turns, the movable one first.
    """
    assert cma.rule_path(10, 7, tuple(range(11))) == (0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7)
    assert cma.rule_path(4, 0, (4,)) == (0,)
    assert cma.rule_path(4, 4, (2, 4)) == (2, 4)


@given(movable=st.integers(0, 200), of_cma=st.integers(0, 200))
def test_rule_keeps_the_half(movable, of_cma):
    free = movable + of_cma
    path = cma.rule_path(free, of_cma, tuple(range(free + 1)))
    assert path[-1] == of_cma
    for taken, (before, now) in enumerate(pairwise(path)):
        left, cma_left = free - taken, of_cma - before
        assert now - before == (cma_left > left // 2 or cma_left == left)


# The experiment.


def test_a_used_zone_shows_the_difference(small):
    """
    X8 and P-82: as mailed, own CMA blocks are never recovered, and movable ones are used up before any CMA.
    """
    mainline, posted = one(small, "mainline"), one(small, "posted")
    early = 4
    assert mainline.points[early].cma == mainline.points[early].taken == mainline.points[early].rule
    assert posted.points[early].cma == 0
    assert posted.refilled(0, rule_cma=True, cma=True) == posted.refilled(0, rule_cma=False, cma=True) == 0
    assert posted.listed == posted.left == 10
    for policy in ("fixed", "balanced"):
        assert one(small, policy).listed == 10
        assert one(small, policy).left == 0
        assert one(small, policy).points[early].cma > 0
    assert mainline.listed == mainline.left == 0


def test_a_fresh_zone_hides_it(fresh):
    """
    P-82: the policies agree within a few whole blocks; P-80: they step by whole blocks all the same.
    """
    for trial in fresh.trials:
        for point, base in zip(trial.points, one(fresh, "mainline").points, strict=True):
            assert abs(point.cma - base.cma) <= PAGEBLOCK_PAGES
    assert one(fresh, "mainline").steps == (2048, 0, 1)  # 10 of 16 blocks: 4 of them, then pages in turn
    for policy in ("posted", "fixed", "balanced"):
        assert one(fresh, policy).steps == (2048, PAGEBLOCK_PAGES // 2, PAGEBLOCK_PAGES)


def test_mainline_follows_the_rule_in_every_phase(small, fresh):
    for trial in (*small.trials, *fresh.trials):
        if trial.policy == "mainline":
            assert [trial.against(phase) for phase in range(4)] == [0] * 4
            assert max(abs(point.cma - point.rule) for point in trial.points) <= 2 * 63


def test_figures_of_p82_with_our_own_seeds():
    """
    Shares of the first 4096, 8192, 12288 and 16384 movable pages of the zone of P-82 (K-15 has them with intervals).
    """
    shares = {}
    for pages in (4096, 8192, 12288, 16384):
        for trial in cma.measure(
            cma.Setting.of("mainline,posted,fixed,balanced", **P82, seeds=(0,), pages=pages)
        ).trials:
            assert trial.points[-1].taken == pages
            shares.setdefault(trial.policy, []).append(trial.points[-1].cma)
    assert shares["mainline"][0] == shares["balanced"][0] == 4096
    assert shares["posted"][:2] == [0, 0]
    prototype = (7700, 9748, 11796)
    assert shares["mainline"][1:] == pytest.approx(prototype, abs=100)
    assert shares["posted"][2:] == pytest.approx((1553, 5579), abs=100)
    assert all(0.4 < cma / pages < 0.8 for cma, pages in zip(shares["fixed"], (4096, 8192, 12288, 16384), strict=True))


def test_unmovable_requests_fail_while_cma_lies_free(small):
    """
    What the 50 % rule is for: as mailed, movable requests take the memory that alone can serve the others.
    """
    for seed in (0, 1):
        mainline, posted = one(small, "mainline", seed).mixed, one(small, "posted", seed).mixed
        assert mainline.failed == 0
        assert mainline.slow_cma_free <= 1
        assert posted.slow_cma_free > 100
    for trial in small.trials:
        mixed = trial.mixed
        assert mixed.failed_cma_free <= mixed.failed <= mixed.slow <= mixed.requests
        assert mixed.failed_cma_free <= mixed.slow_cma_free <= mixed.slow
        assert mixed.converted_cma_free <= mixed.converted
        # No CMA page went to an unmovable request; what else is free at the end is in PCPs, on lists of that type.
        assert mixed.cma == trial.points[0].free_cma
        parked = trial.points[0].free - (mixed.movable + mixed.requests - mixed.failed)
        assert 0 <= parked < 2 * 4096


def test_draining_does_not_help_either():
    """
    In the zone of P-82 the failures stay when all PCPs were drained.
    """
    study = cma.measure(cma.Setting.of("mainline,posted,balanced", **{**P82, "unmovable_every": 8}, seeds=(0,)))
    failed = {trial.policy: trial.mixed.failed_cma_free for trial in study.trials}
    assert failed["mainline"] == failed["balanced"] == 0
    assert failed["posted"] > 100
    assert one(study, "posted").mixed.cma_free_at_failure > 1000


def test_processes_that_come_and_go():
    """
    Over time: as mailed, CMA is used less in every round but the first, whose memory nobody used before.
    """
    study = measured("mainline,posted,fixed", before="churned", unmovable_every=0)
    held = study.setting.held
    for trial in study.trials:
        assert [pages for pages, _ in trial.rounds] == [study.setting.cpus * (held + held // 2)] * cma.ROUNDS
        assert trial.points[0].free == study.setting.free_pages
    for seed in (0, 1):
        mainline, posted = one(study, "mainline", seed).rounds, one(study, "posted", seed).rounds
        assert all(posted[k][1] < mainline[k][1] for k in range(1, cma.ROUNDS))
        assert one(study, "posted", seed).left > 0
        assert one(study, "fixed", seed).left == 0


def test_same_setting_same_document(small):
    assert measured().document() == small.document()
    assert json.loads(json.dumps(small.document()))["results"][0]["points"][0]["cma"] == 0


def test_a_seed_is_a_drawing(small):
    assert one(small, "fixed", 0).points != one(small, "fixed", 1).points
    assert measured("fixed", seeds=(1,)).trials[0] == one(small, "fixed", 1)
    assert len(measured("mainline", before="fresh", unmovable_every=0).trials) == 1  # nothing is drawn


@settings(max_examples=25, deadline=None)
@given(
    policy=st.sampled_from(sorted(PROFILES)),
    blocks=st.integers(cma.LEAST_BLOCKS, 12),
    share=st.floats(0.15, 0.85),
    before=st.sampled_from(cma.BEFORE),
    freed=st.floats(0.05, 1),
    cpus=st.integers(1, 3),
    pages=st.sampled_from((0, 1, 40, 1000)),
    every=st.sampled_from((0, 2, 9)),
)
def test_any_setting_adds_up(policy, blocks, share, before, freed, cpus, pages, every):
    study = measured(
        policy,
        size=blocks * 2 << 20,
        shares=(share,),
        before=before,
        freed=freed,
        cpus=cpus,
        pages=pages,
        unmovable_every=every,
        seeds=(3,),
        pcp=None,
    )
    (trial,) = study.trials
    first, last = trial.points[0], trial.points[-1]
    assert (first.taken, first.cma, first.free) == (0, 0, study.setting.free_pages)
    assert last.taken == study.setting.counted
    assert [point.taken for point in trial.points] == list(study.pages_at)
    for before_, now in pairwise(trial.points):
        assert 0 <= now.cma - before_.cma <= now.taken - before_.taken
        assert 0 <= now.rule - before_.rule <= now.taken - before_.taken
        assert now.free <= before_.free
    refilled = sum(sum(map(sum, phase)) for phase in trial.by_phase)
    assert refilled == first.free - last.free  # what left the zone, in PCPs or in use
    if last.taken == first.free:
        assert last.cma == last.rule == first.free_cma
        assert (last.free, last.free_cma) == (0, 0)
    assert 0 <= trial.left <= trial.listed
    assert (trial.mixed is None) == (every == 0)
    text = report.report(study)
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert "nan" not in text
    assert text.isascii()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": "33MiB"}, "whole pageblocks of 2MiB"),
        ({"size": "2MiB"}, "8 or more"),
        ({"shares": (0.05,)}, "10 to 90"),
        ({"shares": (math.nan,)}, "10 to 90"),
        ({"shares": (0.5, 0.501)}, "another number of pageblocks"),
        ({"shares": ()}, "one or more shares"),
        ({"before": "old"}, "one of used, churned, fresh"),
        ({"freed": 0.0}, "one page or more"),
        ({"freed": 1e-6}, "one page or more"),
        ({"pages": -1}, "how many movable pages"),
        ({"unmovable_every": 1}, "2 or more"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "different"),
        ({"cpus": 0}, "cpus"),
        ({"pcp": (63, 100, 50)}, "high"),
    ],
)
def test_settings_that_cannot_be(changes, words):
    with pytest.raises(ConfigError, match=words):
        cma.Setting.of("mainline", **{**SMALL, **changes})


@pytest.mark.parametrize("mode", ["free-run", "guided"])
@pytest.mark.parametrize(
    "base", [SHIPPED / "cma-cut-4c", pytest.param("cma-4c", marks=needs_oracle)], ids=["cma-cut-4c", "cma-4c"]
)
def test_mainline_takes_what_the_recorded_kernel_took(base, mode):
    """
    Shares of pages in CMA blocks, counted in the recording by itself and by a replay.
    """
    base = oracle() / base if isinstance(base, str) else base
    types = np.load(f"{base}.snap0.npz")["pageblock_flags"] & 7
    rows = pq.read_table(f"{base}.parquet", columns=["event", "phase", "pfn", "order", "migratetype"])
    taken = (np.array(rows["event"].cast("string")) == "mm_page_alloc") & (rows["phase"].to_numpy() == 1)
    pfn, order, type_ = (rows[name].to_numpy()[taken].astype(np.int64) for name in ("pfn", "order", "migratetype"))
    pages = 1 << order
    of_cma = pages * (types[pfn // PAGEBLOCK_PAGES] == CMA)
    metrics = replay(base, mode=mode).results["metrics"]
    assert metrics["cma.alloc_share"] == pytest.approx(of_cma.sum() / pages.sum(), abs=0.001)
    of_movable = of_cma[type_ == MOVABLE].sum() / pages[type_ == MOVABLE].sum()
    assert metrics["cma.movable_share"] == pytest.approx(of_movable, abs=0.001)
    if base.name == "cma-4c":
        assert (of_cma.sum(), pages.sum()) == (120838, 158908)
        assert of_movable == pytest.approx(0.7691, abs=0.0001)


# Texts and chart.


def test_answer_is_three_sentences(small):
    sentences = report.answer(small)
    assert len(sentences) == 3
    figures = dict(re.findall(r"(mainline|posted|fixed|balanced|tuned) (\d+\.\d)%", sentences[0]))
    at = 8
    for policy, figure in figures.items():
        shares = [one(small, policy, seed).points[at].cma / small.pages_at[at] for seed in (0, 1)]
        assert float(figure) == pytest.approx(50 * sum(shares), abs=0.051)
    assert "posted (-100.0)" in sentences[1]
    assert "posted 10" in sentences[2]


def test_chart_draws_every_policy_in_its_frame(small):
    text = report.chart(small)
    assert text == report.chart(measured())
    root = ET.fromstring(text)
    names = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for policy in cma.POLICIES.split(","):
        assert policy in names
    width, height = float(root.get("width")), float(root.get("height"))
    drawn = [path.get("d") for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("fill") == "none"]
    assert len(drawn) == 2 * (1 + 1 + 5)  # two plots: axes, the rule, five policies
    for d in drawn:
        for x, y in re.findall(r"([\d.]+) ([\d.]+)", d):
            assert 0 < float(x) < width
            assert 0 < float(y) < height


def test_a_long_name_of_a_policy_has_a_number(small):
    text = report.report(measured("mainline,fixed+remote=block+merge=never", seeds=(0,), unmovable_every=0))
    assert "[2] fixed+remote=block+merge=never" in text
    assert max(map(len, text.splitlines())) <= report.WIDTH
    text = report.mail(measured("mainline,fixed+merge=never", seeds=(0,), unmovable_every=0))
    assert "[2] fixed+merge=never" in text


# The command.


@pytest.mark.parametrize(
    ("name", "argv", "width"),
    [
        ("cma.txt", (), report.WIDTH),
        ("cma-fresh-all.txt", ("--before", "fresh", "--all", "--policy", "mainline,fixed"), report.WIDTH),
        ("cma-churned.txt", ("--before", "churned", "--policy", "mainline,posted,fixed,balanced"), report.WIDTH),
        ("cma-lkml.txt", ("--style", "lkml", "--cma", "30,62.5"), report.MAIL_WIDTH),
        (
            "cma-pages.txt",
            ("--pages", "1000", "--unmovable", "0", "--policy", "fixed,balanced", "--freed", "50"),
            report.WIDTH,
        ),
    ],
)
def test_golden_pages(capsys, monkeypatch, name, argv, width):
    monkeypatch.setattr("pcpbuddy.manifest._commit", lambda: "0123456789abcdef")
    code, out, err = run(capsys, "cma", *SMALL_ARGV, *argv, "-q")
    assert (code, err) == (0, "")
    golden(name, out)
    assert max(map(len, out.splitlines())) <= width
    assert out.isascii()


def test_json_and_the_command_that_makes_it_again(capsys, tmp_path):
    argv = (*SMALL_ARGV, "--policy", "mainline,fixed", "--pages", "500", "--unmovable", "9", "--freed", "60")
    code, out, err = run(capsys, "cma", *argv, "--json", "-", "-q")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document) == ["schema", "manifest", "results"]
    assert document["schema"] == "pcpbuddy.cma/1"
    assert not document["manifest"]["partial"]
    assert set(document["manifest"]["policies"]) == {"mainline", "fixed"}
    again = document["manifest"]["command"].split()[1:]
    assert run(capsys, *again, "--json", "-", "-q")[1] == out
    file = tmp_path / "cma.json"
    code, text, err = run(capsys, "cma", *argv, "--json", file)
    assert code == 0
    assert file.read_text() == out
    assert "Again: pcpbuddy cma" in text
    assert err.splitlines() == ["cma: 4 trials ...", f"{file} written"]


def test_plot_is_written_and_not_over_another_file(capsys, tmp_path):
    argv = ("cma", *SMALL_ARGV, "--policy", "mainline,fixed", "--unmovable", "0", "--plot", tmp_path / "a.svg", "-q")
    assert run(capsys, *argv)[0] == 0
    assert (tmp_path / "a.svg").read_text().startswith("<svg ")
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert "exists; -f replaces it" in err
    assert run(capsys, *argv, "-f")[0] == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--cma", "5"), "cma=5: expected per cent of the zone, 10 to 90"),
        (("--cma", "many"), "--cma many: expected per cent, such as 62.5"),
        (("--size", "big"), "expected a number with KiB"),
        (("--cpus", "x"), "--cpus x: expected a whole number"),
        (("--cpus", "600"), "cpus"),
        (("--before", "old"), "before=old: expected one of used, churned, fresh"),
        (("--before", "fresh", "--freed", "50"), "only a zone that was used before"),
        (("--unmovable", "1"), "unmovable=1: expected one request in how many"),
        (("--pages", "-4"), "pages=-4: expected how many movable pages"),
        (("--seeds", "0"), "--seeds 0: expected how many"),
        (("--seeds", "1,x"), "--seeds 1,x: expected numbers"),
        (("--seeds", "1,1"), "seeds"),
        (("--pcp", "batch=63"), "--pcp batch=63: expected batch=N,high_min=N,high_max=N"),
        (("--policy", "fixd"), "did you mean fixed?"),
        (("--style", "html"), "--style html: expected report or lkml"),
        (("--plot", "no/such/dir.svg"), "--plot no/such/dir.svg: expected a file in a directory that exists"),
    ],
)
def test_bad_input(capsys, argv, words):
    code, out, err = run(capsys, "cma", *argv, "-q")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("pcpbuddy: ")
    assert words in err


def test_ctrl_c_keeps_what_was_measured(capsys, monkeypatch):
    real, calls = cma.study.trial, []

    def trial(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(cma.study, "trial", trial)
    code, out, err = run(capsys, "cma", *SMALL_ARGV, "-q")
    assert code == 130
    assert out.startswith("PARTIAL: stopped when 3 of 10 trials were done.")
    assert "means of the trials that were done" in " ".join(out.split())
    assert "pcpbuddy: interrupted; 3 of 10 trials were done" in err
    (line,) = (line for line in out.splitlines() if line.startswith("furthest from mainline"))
    assert line.split()[-2:] == ["-", "-"]
    calls[:] = [None] * 3
    code, out, err = run(capsys, "cma", *SMALL_ARGV, "-q")
    assert (code, out) == (130, "")


def test_help(capsys):
    code, out, _ = run(capsys, "cma", "--help")
    assert code == 0
    assert "rfc.md, P-82" in out
    assert "pcpbuddy cma " in run(capsys, "--help")[1]
