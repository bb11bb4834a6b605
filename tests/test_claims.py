"""
Claims: what the registry holds, how runs are shared, what decides a verdict, the command; cheap claims at small sizes.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

import pcpbuddy.claims
import pcpbuddy.sweeps
from pcpbuddy.claims import (
    NOT_DECIDABLE,
    REFUTED,
    SUPPORTED,
    Claim,
    Finding,
    Findings,
    Settings,
    claims,
    measure,
    verdict,
)
from pcpbuddy.claims.claim import any_of, decided
from pcpbuddy.claims.doubts import _dealt, _pairs, _step_ns
from pcpbuddy.claims.loads import CURVES, PRESSING, curve_policies, text
from pcpbuddy.claims.remote import _needless, deadlock
from pcpbuddy.claims.shapes import shape
from pcpbuddy.cli.main import main
from pcpbuddy.errors import ConfigError
from pcpbuddy.machine import Machine
from pcpbuddy.report import claims as report
from pcpbuddy.statistics import Interval

RFC = Path(__file__).parent.parent / "docs" / "reference" / "rfc.md"
TINY = {"duration": "200us", "parameters": {"pages": 4}}


def quick(**changes):
    return Settings(**{"seeds": 2, "quick": True, **changes})


# The registry


def test_every_claim_of_the_specification_is_there_once():
    numbers = re.findall(r"^\| K-(\d+) \|", RFC.read_text(), re.MULTILINE)
    assert list(claims()) == [f"K-{number}" for number in numbers]
    assert len(numbers) == 29


def test_every_claim_says_what_it_is():
    tags = re.findall(r"^\| ([A-Z]\w*) \|", RFC.read_text(), re.MULTILINE)
    for claim in claims().values():
        assert set(re.findall(r"\b[A-Z]+\d?\b", claim.source.split("(")[0])) <= set(tags), claim.name
        for words in (claim.text, claim.measurement, claim.rule):
            assert words, claim.name


def test_claims_are_chosen_in_their_order_whatever_the_case():
    assert [claim.name for claim in pcpbuddy.claims.chosen(["k-14", "K-2"])] == ["K-2", "K-14"]
    assert len(pcpbuddy.claims.chosen([])) == 29


def test_a_claim_that_does_not_exist_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match=r"^there is no claim 'K-99' \(did you mean K-9\?\); claims are K-1 to K-29$"):
        measure(["K-99"])


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.6, 0.8, SUPPORTED), (0.4, 0.6, NOT_DECIDABLE), (0.2, 0.5, REFUTED), (0.5, 0.6, NOT_DECIDABLE)],
)
def test_the_whole_interval_decides(low, high, expected):
    of = Interval((low + high) / 2, low, high, 3)
    assert verdict(of, above=0.5) == expected
    opposite = {SUPPORTED: REFUTED, REFUTED: SUPPORTED, NOT_DECIDABLE: NOT_DECIDABLE}
    if 0.5 not in (low, high):
        assert verdict(of, below=0.5) == opposite[expected]


def test_of_one_value_the_value_decides():
    one = Interval(0.7, float("nan"), float("nan"), 1)
    assert verdict(one, above=0.5) == SUPPORTED
    assert verdict(one, below=0.5) == REFUTED


def test_one_of_several_is_enough():
    assert any_of([REFUTED, SUPPORTED]) == SUPPORTED
    assert any_of([REFUTED, NOT_DECIDABLE]) == NOT_DECIDABLE
    assert any_of([REFUTED, REFUTED]) == REFUTED
    assert (decided(True), decided(False)) == (SUPPORTED, REFUTED)


def test_figures_have_their_interval():
    assert text(Interval(0.048, 0.046, 0.05, 3), "share") == "4.8% [4.6%, 5.0%]"
    assert text(Interval(1200.0, 1200.0, 1200.0, 3), "ns") == "1.20us"
    assert text([3.0]) == "3"


def test_a_finding_with_another_word_is_refused():
    with pytest.raises(ValueError, match="no verdict 'maybe'"):
        Finding(claim="K-1", verdict="maybe", figure="", command="")


def test_a_row_has_no_nan():
    found = Finding(
        claim="K-1", verdict=REFUTED, figure="", command="", value=float("nan"), interval=(float("nan"), 1.0)
    )
    assert found.row()["value"] is None
    assert found.row()["interval"] == [None, 1.0]


# Runs that several claims need


def test_a_run_is_made_once():
    told = []
    settings = quick(progress=lambda words, done, total: told.append(words))
    first = settings.sweep("local/loop", ["mainline"], [1, 2], **TINY)
    assert len(told) == 4
    more = settings.sweep("local/loop", ["mainline", "fixed"], [1, 2], **TINY)
    assert len(told) == 8
    assert more.runs["mainline", 2, 1] is first.runs["mainline", 2, 1]
    assert settings.sweep("local/loop", ["fixed"], 2, **TINY).runs["fixed", 2, 0] is more.runs["fixed", 2, 0]
    settings.sweep("local/loop", ["fixed"], 2, seeds=3, **TINY)
    assert len(told) == 11
    settings.sweep("local/loop", ["fixed"], 2, duration="100us", parameters={"pages": 4})
    assert len(told) == 13


def test_a_load_of_its_own_is_known_by_what_it_does():
    settings = quick()
    one, other = _dealt(1, 2), _dealt(512, 2)
    merges = [
        settings.sweep(load, ["merge-only"], 2, seeds=1).runs["merge-only", 2, 0].metrics["pcp.merges"]
        for load in (one, other)
    ]
    assert merges[0] < merges[1]


def test_a_sweep_that_was_stopped_decides_nothing(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    settings = quick(progress=stop)
    with pytest.raises(KeyboardInterrupt):
        settings.sweep("local/loop", ["mainline"], 1, **TINY)


def test_commands_say_what_is_not_the_default():
    assert Settings().command() == "pcpbuddy claims"
    assert quick(seeds=5, costs="laptop").command("K-1") == "pcpbuddy claims K-1 --seeds 5 --costs laptop --quick"
    shown = Settings().compare_command("exit/storm", ["mainline"], [4, 8], ["work"], {"rounds": 1}, memory="1GiB")
    assert shown == (
        "pcpbuddy compare exit/storm --policy mainline --cpus 4,8 --seeds 3 --memory 1GiB --set rounds=1 --metric work"
    )


def test_curves_have_every_policy_that_is_there():
    assert curve_policies(Settings())[:5] == ["mainline", "posted", "fixed", "llist", "handover"]
    assert set(curve_policies(quick())) < set(curve_policies(Settings())) <= set(CURVES)
    assert [load.workload for load in PRESSING] == ["purge/jemalloc", "exit/storm", "wis/page_fault1"]


# Scenes and single claims


@pytest.mark.parametrize("remote", ["block", "trylock", "llist", "handover", "local"])
@pytest.mark.parametrize("seed", range(3))
def test_only_a_free_that_waits_gets_stuck(remote, seed):
    run = Machine(2, policy=f"posted+remote={remote}", seed=seed).run(deadlock())
    stuck = run.manifest["stuck"]
    if remote != "block":
        assert stuck == []
        assert run.metrics["time.measured_ns"] == 5e6
        return
    interrupted, frees = stuck
    assert (interrupted["cpu"], interrupted["context"], frees["cpu"], frees["context"]) == (0, "interrupt", 1, "task")
    assert "lock" in interrupted["waits_for"]
    assert (interrupted["holder"], frees["holder"]) == (1, 0)
    assert run.metrics["time.measured_ns"] < 5e6


def test_without_interrupts_nobody_gets_stuck():
    run = Machine(2, policy="posted").run(deadlock(interrupts=False))
    assert run.manifest["stuck"] == []
    assert run.metrics["frees.remote"] > 1000


def test_k23_says_who_waits_for_whom():
    (found,) = measure(["K-23"], quick()).found
    assert found.verdict == SUPPORTED
    assert "2 of 2 runs with remote=block" in found.figure
    assert "in 0 of 8 with" in found.figure
    assert "CPU 0 (interrupt) waits for" in found.figure
    assert [row["runs that got stuck"] for row in found.table] == ["0 of 2", "2 of 2", *["0 of 2"] * 4]


def test_shapes_with_local_frees():
    holds = {local: shape("S2", "mainline", local=local)["zone_lock.holds"] for local in (False, True)}
    assert holds[False] == 268
    assert holds[True] < holds[False] / 10
    assert shape("S1", "fixed")["zone_lock.holds"] == 11


def test_k2_by_hand():
    (found,) = measure(["K-2"], quick(seeds=1)).found
    assert found.verdict == SUPPORTED
    assert found.table[0]["local"] == found.table[1]["local"] == "0"


def test_k14_is_not_decided_by_assumption():
    (found,) = measure(["K-14"], quick()).found
    assert found.verdict == NOT_DECIDABLE
    assert "sockets" in found.why


def test_k13_needs_recordings():
    (found,) = measure(["K-13"], quick()).found
    assert found.verdict == NOT_DECIDABLE
    assert found.value == 20


def test_merging_in_pairs():
    """
    What K-20 makes of the two drains: nothing merges in one, every page and twice in the other.
    """
    settings = quick()
    each_ns, apart, together = _step_ns(settings, "default")
    assert apart["zone_lock.merges"] < 0.05 * apart["drain.pages"]
    assert together["zone_lock.merges"] == pytest.approx(2 * together["drain.pages"], rel=0.05)
    assert 4 <= each_ns < 200  # merge_ns and list_op_ns at least
    assert _pairs(True).digest() != _pairs(False).digest()


def test_failed_frees_make_refills_needless():
    assert _needless(0.0, 1) == 0
    assert _needless(0.3, 1) > 0


# All of them together


def fake(name, verdict=SUPPORTED, error=None):
    def measured(settings):
        if error is not None:
            raise error
        return Finding(
            claim=name,
            verdict=verdict,
            figure="3 of 4",
            command=settings.command(name),
            value=0.75,
            interval=(0.7, 0.8),
            why="A limit.",
            table=({"load": "a|b", "a title that is long": "1", "other": "2"},),
        )

    return Claim(name=name, text=f"text of {name}", source="C0", measurement="how", rule="when", measure=measured)


@pytest.fixture
def three(monkeypatch):
    """
    Three claims, of which the last is stopped by the user.
    """
    found = (fake("K-1"), fake("K-2", REFUTED), fake("K-3", error=KeyboardInterrupt()))
    monkeypatch.setattr(pcpbuddy.claims, "claims", lambda: {claim.name: claim for claim in found})
    monkeypatch.setattr(report, "claims", pcpbuddy.claims.claims)


def test_progress_and_interruption(three):
    told = []
    findings = measure(progress=lambda *words: told.append(words))
    assert told == [("K-1", 0, 3), ("K-2", 1, 3), ("K-3", 2, 3)]
    assert findings.partial
    assert [found.claim for found in findings.found] == ["K-1", "K-2"]
    document = findings.document()
    assert document["manifest"]["partial"] is True
    assert document["manifest"]["wanted"] == ["K-1", "K-2", "K-3"]
    assert "PARTIAL: stopped before K-3." in report.report(findings)


def test_document_has_its_keys_and_the_same_bytes(three):
    first, second = (json.dumps(measure(["K-1", "K-2"]).document(), allow_nan=False) for _ in range(2))
    assert first == second
    document = json.loads(first)
    assert document["schema"] == "pcpbuddy.claims/1"
    assert document["manifest"]["command"] == "pcpbuddy claims K-1 K-2"
    assert document["manifest"]["costs"]["name"] == "server-2s"
    for row in document["results"]:
        assert {"claim", "verdict", "figure", "interval", "command"} <= row.keys()
        assert row["interval"] == [0.7, 0.8]


def test_report_and_overview(three):
    shown = report.report(measure(["K-1", "K-2"]))
    assert "  verdict   SUPPORTED" in shown
    assert "  again     pcpbuddy claims K-1\n" in shown
    assert re.search(r"^K-2 +refuted +text of K-2$", shown, re.MULTILINE)
    assert "1 supported, 1 refuted." in shown
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_wide_tables_go_on_below():
    rows = tuple({"load": "x" * 20, **{f"column {i}": "y" * 20 for i in range(6)}} for _ in range(2))
    found = dataclasses.replace(fake("K-1").measure(Settings()), table=rows)
    shown = report.section(fake("K-1"), found)
    assert all(len(line) <= 100 for line in shown.splitlines())
    assert shown.count("x" * 20) == 4
    assert shown.count("y" * 20) == 12


def test_markdown_is_the_same_and_can_be_read(three):
    findings = measure(["K-1", "K-2"])
    shown = report.markdown(findings)
    assert shown == report.markdown(measure(["K-1", "K-2"]))
    assert shown.startswith(report.MARK + "\n")
    assert "| [K-1](#k-1) | text of K-1 | supported |" in shown
    assert "| a\\|b | 1 | 2 |" in shown
    assert "/home" not in shown


# The command


def test_the_command_prints_json(capsys):
    assert main(["claims", "K-14", "--quick", "-q", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["claim"] for row in document["results"]] == ["K-14"]
    assert document["manifest"]["quick"] is True


def test_the_command_tells_each_claim(capsys):
    assert main(["claims", "K-14"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "K-14 (1 of 1) ...\n"
    assert captured.out.startswith("K-14  Type and owner in one cache line help the free path [P1]\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["K-99"], "pcpbuddy: there is no claim 'K-99' (did you mean K-9?); claims are K-1 to K-29"),
        (["K-1", "--seeds", "0"], "pcpbuddy: --seeds 0: expected a number from 1 to 100"),
        (["K-1", "--seeds", "many"], "pcpbuddy: --seeds many: expected a number from 1 to 100"),
        (["K-1", "--recordings", "nowhere"], "pcpbuddy: --recordings nowhere: there is no such directory"),
        (["K-1", "--markdown", "nowhere/x.md"], "pcpbuddy: --markdown nowhere/x.md: there is no directory nowhere"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(capsys, arguments, sentence):
    assert main(["claims", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err == sentence + "\n"
    assert captured.out == ""


def test_unknown_costs(capsys):
    assert main(["claims", "K-14", "--costs", "none-such"]) == 2
    assert capsys.readouterr().err.startswith("pcpbuddy: ")


def test_the_document_replaces_only_its_own(tmp_path, capsys):
    mine, foreign = tmp_path / "claims.md", tmp_path / "README.md"
    foreign.write_text("# Something else\n")
    assert main(["claims", "K-14", "-q", "--markdown", str(mine)]) == 0
    first = mine.read_bytes()
    assert main(["claims", "K-14", "-q", "--markdown", str(mine)]) == 0
    assert mine.read_bytes() == first
    capsys.readouterr()
    assert main(["claims", "K-14", "-q", "--markdown", str(foreign)]) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert foreign.read_text() == "# Something else\n"


def test_what_was_stopped_is_shown_and_marked(three, tmp_path, capsys):
    path = tmp_path / "claims.md"
    assert main(["claims", "-q", "--markdown", str(path), "--json", "-"]) == 130
    captured = capsys.readouterr()
    assert json.loads(captured.out)["manifest"]["partial"] is True
    assert captured.err == "pcpbuddy: interrupted; 2 of 3 claims were measured\n"
    assert "stopped before its end" in path.read_text()


def test_bars_on_a_terminal(monkeypatch):
    from pcpbuddy.cli import claims as command

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    told = []
    settings = quick()
    begins = command._told(lambda *words: told.append(words), settings)
    begins("K-1", 0, 2)
    settings.progress("a run", 1, 2)
    settings.progress("a run", 2, 2)
    settings.progress("a run", 1, 1)
    assert told == [("claims", 0, 2), ("runs", 1, 0), ("runs", 2, 0), ("runs", 3, 0)]


def test_findings_of_no_claims_say_so():
    assert "nothing measured" in report.overview(Findings([], [], Settings()))
