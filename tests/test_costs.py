"""
Cost models: what a text means, what is refused, that every number has a source, and what a calibration makes of times.
"""

import copy
import dataclasses
import json
import math
import os
import pickle
import re
import tomllib
from pathlib import Path

import pytest
from test_compare_cli import run

from pcpbuddy.costs import DEFAULT, FIELDS, HOW, MEANINGS, PROFILES, Costs, Source, costs, profiles, toml
from pcpbuddy.costs import calibration as cal
from pcpbuddy.errors import ConfigError, PcpBuddyError, UsageError
from pcpbuddy.report import costs as report

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference" / "costs.md").read_text()


# Fields and profiles


def test_the_compiled_side_gets_the_fields_in_order():
    model = costs()
    declared = [field.name for field in dataclasses.fields(Costs) if field.name in MEANINGS]
    assert declared == list(FIELDS) == list(MEANINGS) == list(model.numbers())
    values = model.array()
    assert values.dtype == "float64"
    assert list(values) == list(model.numbers().values())


@pytest.mark.parametrize("name", PROFILES)
def test_every_number_of_a_profile_has_a_source(name):
    model = costs(name)
    assert model.name == name
    assert model.meaning
    assert not model.calibrated
    assert list(model.sources) == list(FIELDS)
    for source in model.sources.values():
        assert source.how in HOW
        assert source.text.strip().endswith(".")
        assert len(source.text) > 10


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_plausible(name):
    model = costs(name)
    assert model.line_near_ns < model.line_far_ns
    assert model.handover_near_ns < model.handover_far_ns
    assert model.descriptor_own_ns < model.descriptor_near_ns < model.descriptor_far_ns
    assert model.descriptor_own_ns < model.descriptor_memory_ns
    assert model.cache_descriptors < model.shared_descriptors
    assert all(value > 0 for value in model.numbers().values())


def test_default_is_a_profile():
    assert costs() == costs("default") == costs(DEFAULT) == profiles()[DEFAULT]
    assert costs("default").name == DEFAULT
    assert list(profiles()) == list(PROFILES)
    assert PROFILES[0] == DEFAULT


def test_the_reference_has_the_numbers():
    rows = re.findall(r"^\| `(\w+)` \| ([\d. |]+) \| (\w+) \|$", REFERENCE, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(FIELDS)
    models = profiles().values()
    for name, cells, how in rows:
        assert [float(cell) for cell in cells.split("|")] == [getattr(model, name) for model in models]
        assert how == costs(DEFAULT).sources[name].how


def test_the_reference_says_when_each_is_charged():
    table = REFERENCE.split("| field | charged |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))) == set(FIELDS)


def test_a_model_can_be_copied_sent_and_compared():
    model = costs("laptop")
    assert pickle.loads(pickle.dumps(model)) == copy.deepcopy(model) == model
    assert len({model, costs("laptop"), costs("server-2s")}) == 2
    assert costs(model) is model
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.lock_ns = 3


# Texts


def test_changes():
    model = costs("server-2s+line_far_ns=200+zero_ns=0")
    assert (model.line_far_ns, model.zero_ns, model.lock_ns) == (200, 0, costs().lock_ns)
    assert model.name == "server-2s+line_far_ns=200+zero_ns=0"
    assert model.sources["zero_ns"].how == "given"
    assert model.sources["lock_ns"] == costs().sources["lock_ns"]
    assert costs(" server-2s + zero_ns = 0 + line_far_ns = 2e2".replace("2e2", "200.0")) == model
    assert costs("default", zero_ns=0, line_far_ns=200) == model
    assert costs(costs("server-2s+zero_ns=7"), line_far_ns=200, zero_ns=0) == model
    assert costs(model, lock_ns=2.5).name == "server-2s+lock_ns=2.5+line_far_ns=200+zero_ns=0"


def test_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        profile = "laptop"
        meaning = "mine"
        line_near_ns = 31
        zero_ns = {value = 120, how = "measured", source = "here."}
        """
    )
    model = costs(str(path))
    assert (model.name, model.meaning, model.calibrated) == ("mine.toml", "mine", False)
    assert (model.line_near_ns, model.zero_ns, model.lock_ns) == (31, 120, costs("laptop").lock_ns)
    assert model.sources["zero_ns"] == Source("measured", "here.")
    assert model.sources["line_near_ns"].how == "given"
    assert model.sources["lock_ns"].how == "taken"
    assert model.sources["lock_ns"].text.startswith("from laptop, estimated: ")
    changed = costs(f"{path}+zero_ns=1")
    assert (changed.name, changed.zero_ns, changed.line_near_ns) == ("mine.toml+zero_ns=1", 1, 31)


def test_an_empty_file_is_the_default(tmp_path):
    path = tmp_path / "empty.toml"
    path.touch()
    assert costs(str(path)).numbers() == costs().numbers()


def test_a_written_model_is_read_again(tmp_path):
    made = dataclasses.replace(
        costs("laptop+lock_ns=3.25"),
        calibrated=True,
        machine={"cpu": 'a "b" \\ µ', "cpus": 2, "load": 0.5},
        name="a.toml",
    )
    path = tmp_path / "a.toml"
    path.write_text(toml(made), encoding="utf-8")
    again = costs(str(path))
    assert again == made
    assert (again.machine, again.sources, again.meaning) == (made.machine, made.sources, made.meaning)
    assert costs(f"{path}+lock_ns=1").calibrated is False, "a changed number was not measured"
    assert set(tomllib.loads(toml(made))) >= {"meaning", "calibrated", "machine", *FIELDS}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("serer-2s", "unknown cost model 'serer-2s' (did you mean server-2s?); profiles are: server-2s, "),
        ("", "empty name of a cost model; profiles are: "),
        ("server-2s+lne_far_ns=3", "unknown field 'lne_far_ns' (did you mean line_far_ns?); fields are: lock_ns, "),
        ("laptop+lock_ns=-1", "cost model laptop+lock_ns=-1: lock_ns=-1.0: expected nanoseconds from 0 to 1000000000"),
        ("laptop+lock_ns=nan", "lock_ns='nan': expected nanoseconds"),
        ("laptop+lock_ns=2000000000", "expected nanoseconds from 0 to 1000000000"),
        ("laptop+cache_descriptors=1.5", "cache_descriptors=1.5: expected a whole number from 0 to 2147483647"),
        ("laptop+lock_ns", "'lock_ns' is no FIELD=NUMBER"),
        ("laptop+lock_ns=1+lock_ns=2", "lock_ns is given twice"),
        ("/nowhere/x.toml", "/nowhere/x.toml cannot be read: No such file"),
    ],
)
def test_what_is_refused(text, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        costs(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("line_nere_ns = 3", "unknown key 'line_nere_ns' (did you mean line_near_ns?); keys are: meaning, profile, "),
        ("lock_ns = true", "lock_ns=True: expected nanoseconds from 0"),
        ("lock_ns = 'x'", "lock_ns='x': expected nanoseconds from 0"),
        ("lock_ns = -1", "lock_ns=-1: expected nanoseconds from 0"),
        ("lock_ns = nan", "lock_ns=nan: expected nanoseconds from 0"),
        ("lock_ns = inf", "lock_ns=inf: expected nanoseconds from 0"),
        ("lock_ns = [1]", "lock_ns=[1]: expected nanoseconds from 0"),
        ("lock_ns = {source = 'x'}", "lock_ns: no value; expected value = 12.5, say"),
        ("lock_ns = {value = 1, sources = 'x'}", "lock_ns: unknown key 'sources' (did you mean source?)"),
        ("lock_ns = {value = 1, how = 'guessed'}", "lock_ns: how='guessed': expected one of published, measured, "),
        ("lock_ns = {value = 1, source = 3}", "lock_ns: source=3: expected a text"),
        ("profile = 'big'", "unknown profile 'big'; profiles are: server-2s, "),
        ("calibrated = 1", "calibrated=1: expected true or false"),
        ("meaning = 1", "meaning=1: expected a text"),
        ("machine = 1", "machine=1: expected a table"),
        ("lock_ns = ", "is not TOML: "),
    ],
)
def test_what_is_refused_in_a_file(tmp_path, text, says):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(says)) as refused:
        costs(str(path))
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_what_is_no_text(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        costs(str(path))
    with pytest.raises(ConfigError, match="expected Costs, or a text"):
        costs(3)


# pcpbuddy costs


def test_the_page_of_all(capsys):
    code, out, err = run(capsys, "costs")
    assert (code, err) == (0, "")
    assert all(name in out for name in (*PROFILES, *FIELDS))
    assert max(map(len, out.splitlines())) <= report.WIDTH


def test_the_page_of_one_has_every_source(capsys):
    code, out, err = run(capsys, "costs", "server-2s+lock_ns=3")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= report.WIDTH
    shown = " ".join(out.split())
    for field, source in costs("server-2s+lock_ns=3").sources.items():
        assert field in shown
        assert f"{source.how}: {' '.join(source.text.split())}" in shown


def test_the_page_of_several(capsys):
    many = [f"laptop+lock_ns={n}" for n in range(1, 10)]
    code, out, _ = run(capsys, "costs", *many)
    assert code == 0
    assert all(name in out for name in many)
    assert max(map(len, out.splitlines())) <= report.WIDTH
    assert out.count("  line_near_ns") == 2, "nine columns take two blocks"


def test_json(capsys):
    code, out, _ = run(capsys, "costs", "laptop", "--json", "-")
    assert code == 0
    document = json.loads(out)
    assert document["schema"] == "pcpbuddy.costs/1"
    (model,) = document["results"]["costs"]
    assert model["name"] == "laptop"
    assert model["numbers"]["line_near_ns"] == {
        "value": 27,
        **costs("laptop").sources["line_near_ns"]._asdict(),
    }
    assert len(json.loads(run(capsys, "costs", "--json", "-")[1])["results"]["costs"]) == len(PROFILES)


def test_bad_input_is_one_sentence_and_2(capsys):
    code, out, err = run(capsys, "costs", "none")
    assert (code, out, err.count("\n")) == (2, "", 1)


# What a calibration makes of a machine and of times


def machine(tmp_path, monkeypatch, *, allowed, nodes, siblings="0", caches=()):
    """
    A sysfs of its own.
    """
    for number, cpus in enumerate(nodes):
        folder = tmp_path / "node" / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    cpu = tmp_path / "cpu" / f"cpu{min(allowed)}"
    (cpu / "topology").mkdir(parents=True)
    (cpu / "topology" / "thread_siblings_list").write_text(siblings)
    for number, (level, kind, size, sharers) in enumerate(caches):
        folder = cpu / "cache" / f"index{number}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", sharers)):
            (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(cal, "SYSTEM", tmp_path)
    monkeypatch.setattr(cal.os, "sched_getaffinity", lambda _: set(allowed))
    return cal.topology()


def test_topology_of_two_nodes(tmp_path, monkeypatch):
    found = machine(
        tmp_path,
        monkeypatch,
        allowed=range(1, 64),
        nodes=["0-15,32-47", "16-31,48-63"],
        siblings="1,33",
        caches=[("1", "Data", "48K", "1"), ("1", "Instruction", "32K", "1"), ("2", "Unified", "1280K", "1,33"),
                ("3", "Unified", "54M", "0-15,32-47")],
    )  # fmt: skip
    assert (found.cpu, found.nodes, found.own_bytes, found.shared_bytes, found.sharers) == (
        1,
        2,
        1280 << 10,
        54 << 20,
        32,
    )
    assert len(found.near) == len(found.far) == 8
    assert set(found.near) <= {*range(2, 16), *range(32, 48)} - {33}, "no sibling, which would share the caches"
    assert set(found.far) <= {*range(16, 32), *range(48, 64)}


def test_topology_of_little(tmp_path, monkeypatch):
    alone = machine(tmp_path / "a", monkeypatch, allowed=[3], nodes=[])
    assert alone == cal.Topology(3, (), (), 1, None, None, 1)
    pair = machine(tmp_path / "b", monkeypatch, allowed=[0, 1], nodes=["0-1"], siblings="0-1")
    assert pair.near == (1,), "siblings are better than nothing"


TIMES = {
    "lock": 3.0, "push": 3.0, "clock": 30.0, "entry": 3.0, "list_op": 7.0, "move": 3.0, "ladder": 11.0, "scan": 1.5,
    "visit": 3.0, "walk": 2.4, "page": 3.0, "relink.own": 11.0, "relink.memory": 209.0, "chase": 140.0, "touch": 11.0,
    "clear": 300.0, "fault": 2100.0, "pair": 25.0,
}  # fmt: skip
NEAR = {"line.near": 40.0, "hand_over.near": 75.0, "relink.near": 79.0, "wake.near": 5030.0}


def test_numbers_give_back_what_was_measured():
    made = cal._numbers(TIMES | NEAR)
    own = made["descriptor_own_ns"]
    assert own == pytest.approx(1.0)
    for name, field in (("relink.memory", "descriptor_memory_ns"), ("relink.near", "descriptor_near_ns")):
        assert 2 * made["entry_ns"] + 6 * own + 2 * made[field] == pytest.approx((TIMES | NEAR)[name])
    assert 2 * made["list_op_ns"] + made["split_ns"] + made["merge_ns"] == pytest.approx(TIMES["ladder"])
    assert made["handover_near_ns"] == 45
    assert made["wake_ns"] == 5000
    assert made["fault_ns"] + made["zero_ns"] == TIMES["fault"]
    assert made["alloc_ns"] + made["free_ns"] == pytest.approx(25 - 3 - 3 - 12)


def test_numbers_are_never_negative():
    noisy = dict.fromkeys(TIMES, 100.0) | {"entry": 500.0, "list_op": 900.0, "clear": 9e9}
    made = cal._numbers(noisy | dict.fromkeys(NEAR, 1.0))
    assert all(value >= 0 for value in made.values())


def test_what_was_not_measured_is_taken_and_says_so():
    base = costs("server-2s")
    values, sources = cal._measured([TIMES | NEAR] * 3, 1 << 20)
    cal._caches(values, sources, cal.Topology(0, (1,), (), 1, None, None, 1))
    cal._fill(values, sources, base)
    model = Costs(name="x", **values)
    assert set(values) == set(sources) == set(FIELDS)
    assert model.line_far_ns == pytest.approx(40 * base.line_far_ns / base.line_near_ns, rel=0.01)
    assert "there is one node: 2.1 times line_near_ns" in sources["line_far_ns"].text
    assert model.interrupt_ns == base.interrupt_ns
    assert sources["interrupt_ns"].how == "taken"
    assert sources["lock_ns"].how == "measured"
    assert sources["lock_ns"].text.startswith("median of 3, half of them 3 to 3: ")
    assert "In 64 MiB; reads that wait for each other took 140, others 11." in sources["descriptor_memory_ns"].text


def test_one_cpu_measures_what_it_can():
    base = costs("laptop")
    values, sources = cal._measured([TIMES], 1 << 20)
    cal._fill(values, sources, base)
    for field in ("line_near_ns", "line_far_ns", "handover_near_ns", "descriptor_far_ns", "wake_ns"):
        assert values[field] == getattr(base, field)
        assert "it takes two CPUs; from laptop" in sources[field].text
    assert sources["lock_ns"].text.startswith("once: ")


def test_a_loop_that_found_nobody_spoils_no_number():
    lonely = TIMES | NEAR | {"hand_over.near": math.inf}
    values, sources = cal._measured([lonely, TIMES | NEAR, lonely], 1 << 20)
    assert values["handover_near_ns"] == 45
    assert sources["handover_near_ns"].text.startswith("once: ")
    values, _ = cal._measured([lonely], 1 << 20)
    assert "handover_near_ns" not in values


def test_caches():
    values, sources = {}, {}
    cal._caches(values, sources, cal.Topology(0, (), (), 1, 1280 << 10, 54 << 20, 32))
    assert values == {"cache_descriptors": 10240, "shared_descriptors": 10240 + 54 * (1 << 20) // 32 // 128}
    assert {source.how for source in sources.values()} == {"measured"}


def test_spread_says_when_it_is_wide():
    assert cal._spread([10, 11, 12, 13]).endswith("10.2 to 12.8")
    assert cal._spread([10, 11, 30, 50]).endswith(", noisy")
    assert cal._spread([0.1, 0.1, 0.9, 0.9]) == "median of 4, half of them 0.1 to 0.9", "a nanosecond is no noise"


# This machine


@pytest.fixture(scope="module")
def calibrated():
    """
    The quickest calibration there is, of the machine that runs the tests.
    """
    told = []
    made = cal.calibrate(rounds=1, quick=True, progress=lambda *args: told.append(args))
    assert told[0] == ("rounds", 0, 2)
    assert told[-1] == ("rounds", 2, 2)
    return made


def test_this_machine(calibrated):
    assert calibrated.calibrated
    assert calibrated.meaning.startswith("tried with small memories on ")
    assert calibrated.machine["rounds"] == 1
    assert calibrated.lock_ns > 0
    assert calibrated.zero_ns > 0
    assert calibrated.descriptor_memory_ns >= calibrated.descriptor_own_ns
    for field, source in calibrated.sources.items():
        assert source.how in ("measured", "taken"), field
    assert calibrated.sources["lock_ns"].how == "measured"
    assert sum(source.how == "measured" for source in calibrated.sources.values()) >= 17


def test_affinity_is_put_back(calibrated):
    before = cal.os.sched_getaffinity(0)
    with cal._pinned(min(before)):
        assert cal.os.sched_getaffinity(0) == {min(before)}
    assert cal.os.sched_getaffinity(0) == before


def test_loops_refuse_what_does_not_fit():
    from pcpbuddy._core import calibrate as core

    memory = cal._memory(1)
    with pytest.raises(PcpBuddyError, match="do not fit"):
        core.prepare(memory, 1 << 30, 0)
    with pytest.raises(PcpBuddyError, match="no pageblock"):
        core.ladder(bytearray(4096), memory.cast("B").cast("q"), 1)
    with pytest.raises(PcpBuddyError, match="expected 1 to"):
        core.hand_over(memory.cast("B").cast("I"), 0, 1, 1000)


@pytest.mark.long
@pytest.mark.skipif(not os.environ.get("PCPBUDDY_LONG"), reason="takes two seconds; set PCPBUDDY_LONG=1")
def test_a_partner_that_does_not_come():
    from pcpbuddy._core import calibrate as core

    with pytest.raises(PcpBuddyError, match="the second thread did not come"):
        core.line(cal._memory(1).cast("B").cast("I"), 0, 1)


@pytest.fixture
def instant(monkeypatch, calibrated):
    """
    A calibration that has been done before.
    """
    asked = []

    def calibrate(**options):
        asked.append(options)
        return calibrated

    monkeypatch.setattr(cal, "calibrate", calibrate)
    return asked


def test_calibrate_shows_and_writes(capsys, tmp_path, instant, calibrated):
    path = tmp_path / "here.toml"
    code, out, err = run(capsys, "calibrate", "-o", str(path), "--profile", "laptop", "--rounds", "5")
    assert code == 0
    assert err.endswith(f"written: {path}\n")
    assert (instant[0]["profile"].name, instant[0]["rounds"], instant[0]["quick"]) == ("laptop", 5, False)
    assert all(field in out for field in FIELDS)
    assert max(map(len, out.splitlines())) <= report.WIDTH
    again = costs(str(path))
    assert again.numbers() == calibrated.numbers()
    assert (again.name, again.calibrated) == ("here.toml", True)
    assert again.sources == calibrated.sources
    assert "date" not in again.machine


def test_calibrate_json_and_date(capsys, instant):
    code, out, err = run(capsys, "calibrate", "--json", "-", "-q", "--quick", "--date")
    assert (code, err) == (0, "")
    assert (instant[0]["rounds"], instant[0]["quick"]) == (3, True)
    (model,) = json.loads(out)["results"]["costs"]
    assert model["calibrated"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", model["machine"]["date"])


def test_calibrate_replaces_nothing(capsys, tmp_path, instant):
    path = tmp_path / "here.toml"
    path.write_text("mine")
    code, out, err = run(capsys, "calibrate", "-q", "-o", str(path))
    assert (code, out) == (2, "")
    assert err == f"pcpbuddy: {path} exists; --force replaces it\n"
    assert path.read_text() == "mine"
    assert instant == [], "refused before anything is measured"
    assert run(capsys, "calibrate", "-q", "-o", str(path), "--force")[0] == 0
    assert costs(str(path)).calibrated


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["-o", "x.json"], "x.json: the file of a cost model ends in .toml"),
        (["-o", "nowhere/x.toml"], "nowhere/x.toml cannot be written: there is no directory nowhere"),
        (["-o", "folder.toml"], "folder.toml is a directory"),
        (["--profile", "none"], "unknown cost model 'none'"),
    ],
)
def test_calibrate_refuses_first(capsys, tmp_path, monkeypatch, instant, argv, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    code, out, err = run(capsys, "calibrate", *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert instant == []


def test_calibrate_needs_a_round():
    with pytest.raises(UsageError, match="0 rounds: expected 1 or more"):
        cal.calibrate(rounds=0)
