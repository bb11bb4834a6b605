"""
Policies: how one is written as text, in TOML and in Python, what is refused, and with which sentence.
"""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pcpbuddy
from pcpbuddy.config import NEEDS, PROFILES, SWITCHES, Policy, parse_policies, policy
from pcpbuddy.errors import ConfigError, UsageError

EXAMPLES = Path(__file__).parent.parent / "examples"


def changes(which):
    """
    The switches in which a policy differs from fixed.
    """
    return {name: value for name, value in which.switches().items() if value != PROFILES["fixed"].switches()[name]}


# Text.


@pytest.mark.parametrize(
    ("text", "name", "changed"),
    [
        ("fixed", "fixed", {}),
        ("posted", "posted", {"remote": "block", "cma": "as-posted"}),
        ("fixed+merge=free", "fixed+merge=free", {"merge": "free"}),
        ("fixed+merge=free+gate=min", "fixed+gate=min+merge=free", {"gate": "min", "merge": "free"}),
        (" fixed + merge = free ", "fixed+merge=free", {"merge": "free"}),
        ("llist+remote_bound=512", "llist+remote_bound=512", {"remote": "llist", "remote_bound": 512}),
        ("llist+remote_bound=inf", "llist+remote_bound=inf", {"remote": "llist", "remote_bound": "inf"}),
        ("fixed+handover_batch=016", "fixed+handover_batch=16", {"handover_batch": 16}),
        ("fixed+merge=drain", "fixed+merge=drain", {}),
        ("llist+remote=trylock", "llist+remote=trylock", {}),
        ("fixed+adopt=on+adopt_min_order=0", "fixed+adopt=on+adopt_min_order=0", {"adopt": "on", "adopt_min_order": 0}),
    ],
)
def test_text(text, name, changed):
    which = policy(text)
    assert (which.name, changes(which)) == (name, changed)
    assert policy(name) == which


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "fixd",
            "unknown policy 'fixd' (did you mean fixed?); profiles are: mainline, null, posted, fixed, balanced, ",
        ),
        ("MAINLINE", "unknown policy 'MAINLINE' (did you mean mainline?); "),
        ("best", "unknown policy 'best'; profiles are: "),
        ("p.tml:mine", "unknown policy 'p.tml:mine'; profiles are: "),
        ("", "empty name of a policy; profiles are: "),
        ("+merge=free", "empty name of a policy; profiles are: "),
        ("merge=free", "unknown policy 'merge=free': a policy begins with a name, such as fixed+merge=free"),
        (
            "p.toml+merge=free",
            "unknown policy 'p.toml'; which one of that file is changed stands after a colon: p.toml:",
        ),
        ("fixed+", "policy fixed+: '' is no SWITCH=VALUE, such as merge=free"),
        ("fixed+merge", "policy fixed+merge: 'merge' is no SWITCH=VALUE, such as merge=free"),
        ("fixed+=free", "policy fixed+=free: '=free' is no SWITCH=VALUE, such as merge=free"),
        ("fixed+merg=free", "policy fixed+merg=free: no switch 'merg'; did you mean merge?"),
        ("fixed+door=open", "policy fixed+door=open: no switch 'door'; switches are: remote, handover_batch, "),
        ("fixed+merge=", "policy fixed+merge=: merge='' (P-50, P-53, P-55): expected drain, free, never or tail"),
        (
            "fixed+merge=fre",
            "policy fixed+merge=fre: merge=fre (P-50, P-53, P-55): expected drain, free, never or tail",
        ),
        ("fixed+phase2_max=9", "policy fixed+phase2_max=9: phase2_max=9 (P-35): expected 8 or 10"),
        (
            "fixed+remote_bound=0",
            "policy fixed+remote_bound=0: remote_bound=0 (P-46): expected high_max, inf or a number from 1 to "
            "2147483647",
        ),
        (
            "fixed+remote_bound=2147483648",
            "policy fixed+remote_bound=2147483648: remote_bound=2147483648 (P-46): expected high_max, inf or a number ",
        ),
        (
            "fixed+handover_batch=1.5",
            "policy fixed+handover_batch=1.5: handover_batch=1.5 (P-46b): expected a number from 1 to 2147483647",
        ),
        (
            "fixed+adopt_min_order=9",
            "policy fixed+adopt_min_order=9: adopt_min_order=9 (P-17): expected a number from 0 to 8",
        ),
        ("fixed+merge=free+merge=never", "policy fixed+merge=free+merge=never: merge is given twice; once is enough"),
        (
            "mainline+merge=free",
            "policy mainline+merge=free: pcp_lists=14 needs gate=never, phase2=off, merge=never, drain_overshoot=allow "
            "or stop, pcp_orders=baseline and local_split=off: it has no lists for orders 4 to 8; seen: merge=free",
        ),
        (
            "null+gate=fit+phase2=on",
            "policy null+gate=fit+phase2=on: local_split=off needs gate=never, phase2=off, merge=never and adopt=off: "
            "else there would be entries that nothing can split; seen: gate=fit, phase2=on",
        ),
        (
            "fixed+drain=index+drain_overshoot=split",
            "policy fixed+drain=index+drain_overshoot=split: drain=index needs drain_overshoot=allow: it overshoots as "
            "it walks the lists (B-85); seen: drain_overshoot=split",
        ),
    ],
)
def test_bad_text(text, sentence):
    with pytest.raises(ConfigError) as caught:
        policy(text)
    assert str(caught.value).startswith(sentence)
    if not sentence.endswith((" ", ":")):
        assert str(caught.value) == sentence
    with pytest.raises(ConfigError):
        pcpbuddy.Zone(512, policy=text)


def test_lists():
    assert [which.name for which in parse_policies("mainline, fixed+merge=free")] == ["mainline", "fixed+merge=free"]
    mine = Policy(name="mine", merge="free")
    assert parse_policies(["mainline", mine]) == [PROFILES["mainline"], mine]
    assert parse_policies(mine) == [mine]
    with pytest.raises(UsageError, match=r"^no policy given; name one or more, for example mainline,fixed$"):
        parse_policies([])
    with pytest.raises(ConfigError, match=r"^empty name of a policy; "):
        parse_policies("mainline,,fixed")


@pytest.mark.parametrize(
    "twice", ["fixed,fixed", "fixed+gate=min+merge=free,fixed+merge=free+gate=min", ["fixed", Policy(name="fixed")]]
)
def test_a_name_is_given_once(twice):
    with pytest.raises(UsageError, match="is given 2 times; once is enough"):
        parse_policies(twice)


# Python.


def test_keywords():
    assert policy("fixed", merge="free") == policy("fixed+merge=free")
    assert policy("fixed", merge="free", gate="min").name == "fixed+gate=min+merge=free"
    assert policy(policy("fixed", merge="free"), gate="min") == policy("fixed+gate=min+merge=free")
    assert policy("fixed+merge=free", merge="never") == policy("fixed+merge=never")
    mine = Policy(name="mine", merge="free")
    assert policy(mine) is mine
    assert policy(mine, gate="min") == dataclasses.replace(mine, name="mine+gate=min", gate="min")


@pytest.mark.parametrize(
    ("which", "changed", "sentence"),
    [
        ("fixed", {"merg": "free"}, "no switch 'merg'; did you mean merge?"),
        ("fixed", {"merge": "fre"}, "merge=fre (P-50, P-53, P-55): expected drain, free, never or tail"),
        ("fixed", {"merge": None}, "merge=None (P-50, P-53, P-55): expected drain, free, never or tail"),
        ("fixed", {"remote_bound": "512"}, "remote_bound='512' (P-46): expected high_max, inf or a number from 1 to "),
        ("fixed", {"handover_batch": True}, "handover_batch=True (P-46b): expected a number from 1 to 2147483647"),
        ("fixed", {"phase2_max": 8.0}, "phase2_max=8.0 (P-35): expected 8 or 10"),
        ("fixed", {"merge": ["free"]}, "merge=['free'] (P-50, P-53, P-55): expected drain, free, never or tail"),
        (5, {}, "policy 5: expected a Policy, or a text such as 'fixed+merge=free'"),
        (["fixed"], {}, "policy ['fixed']: expected a Policy, or a text such as 'fixed+merge=free'"),
    ],
)
def test_bad_keywords(which, changed, sentence):
    with pytest.raises(ConfigError) as caught:
        policy(which, **changed)
    assert str(caught.value).startswith(sentence)


def test_a_policy_without_a_name_is_named_by_what_makes_it():
    assert Policy() == PROFILES["fixed"]
    assert Policy(gate="min", cma="balanced").name == "fixed+cma=balanced+gate=min"
    assert Policy(gate="min", cma="balanced") == policy("fixed+gate=min+cma=balanced")


def test_zones_take_what_compare_takes(tmp_path):
    assert pcpbuddy.Zone(512, policy="fixed+merge=never").policy == policy("fixed", merge="never")
    file = tmp_path / "mine.toml"
    file.write_text('[mine]\nmerge = "never"\n')
    assert pcpbuddy.Zone(512, policy=f"{file}:mine").policy == Policy(name="mine", merge="never")
    (run,) = pcpbuddy.compare("shape/S4", str(file)).runs
    assert run.policy == Policy(name="mine", merge="never")


# TOML.

TOML = """\
[mine]
profile = "llist"
merge = "free"
remote_bound = 512

[as-fixed]
[other]
remote_bound = "inf"
"""
MINE = Policy(name="mine", remote="llist", merge="free", remote_bound=512)
OTHER = Policy(name="other", remote_bound="inf")


@pytest.fixture
def toml(tmp_path, monkeypatch):
    """
    Write p.toml, where the test then runs.
    """
    monkeypatch.chdir(tmp_path)
    return Path("p.toml").write_bytes


def test_toml(toml):
    toml(TOML.encode())
    assert parse_policies("p.toml") == [MINE, Policy(name="as-fixed"), OTHER]
    assert parse_policies("p.toml:other,mainline, p.toml:mine ") == [OTHER, PROFILES["mainline"], MINE]
    assert policy("p.toml:mine") == MINE
    assert policy("p.toml:mine+merge=never") == policy("p.toml:mine", merge="never")
    assert policy("p.toml:mine+merge=never") == dataclasses.replace(MINE, name="mine+merge=never", merge="never")


def test_toml_of_one_policy_is_that_policy(toml):
    toml(b'[mine]\nmerge = "free"\n')
    assert policy("p.toml") == Policy(name="mine", merge="free")


def test_example_file():
    assert [which.name for which in parse_policies(str(EXAMPLES / "policies.toml"))] == ["eager", "two-bounds"]


@pytest.mark.parametrize(
    ("text", "which", "sentence"),
    [
        (
            TOML,
            "p.toml:min",
            "unknown policy 'min' in p.toml (did you mean mine?); policies are: mine, as-fixed, other",
        ),
        (TOML, "p.toml:", "empty name of a policy in p.toml; policies are: mine, as-fixed, other"),
        (TOML, "p.toml:fixed", "unknown policy 'fixed' in p.toml (did you mean as-fixed?); policies are: mine, as-"),
        (TOML, "p.toml:mine+merg=1", "policy mine+merg=1 in p.toml: no switch 'merg'; did you mean merge?"),
        (
            TOML,
            "p.toml:merge=free",
            "unknown policy 'merge=free' in p.toml: a policy begins with a name, such as mine+",
        ),
        (TOML, "p.toml", "p.toml has 3 policies (mine, as-fixed, other); one is meant here: p.toml:mine"),
        (TOML, "q.toml", "q.toml cannot be read: No such file or directory"),
        ("", "p.toml", 'p.toml has no policy in it; expected tables: [mine], and below it merge = "free"'),
        ("# nothing\n", "p.toml:mine", "p.toml has no policy in it; expected tables: [mine], "),
        (
            "[mine]\nmerge = free\n",
            "p.toml",
            "p.toml is not TOML: Invalid value (at line 2, column 9); words stand in ",
        ),
        ("[mine\n", "p.toml", "p.toml is not TOML: "),
        ("[mine]\n[mine]\n", "p.toml", "p.toml is not TOML: "),
        (b"\xff\xfe", "p.toml", "p.toml is not TOML: it is no UTF-8 text"),
        (
            'merge = "free"\n',
            "p.toml",
            "p.toml: merge is no table; expected [mine], say, and the switches of that policy",
        ),
        (
            '[[mine]]\nmerge = "free"\n',
            "p.toml",
            "p.toml: mine is no table; expected [mine], say, and the switches of ",
        ),
        (
            '[fixed]\nmerge = "free"\n',
            "p.toml",
            "p.toml, [fixed]: fixed is a profile; a policy of your own needs another ",
        ),
        ('["a b"]\n', "p.toml", "p.toml, [a b]: a policy's name has letters, digits, '-', '_' and '.', nothing else"),
        (
            '[mine]\nprofile = "fixd"\n',
            "p.toml",
            "p.toml, [mine]: unknown profile 'fixd' (did you mean fixed?); profiles ",
        ),
        ("[mine]\nprofile = 3\n", "p.toml", "p.toml, [mine]: unknown profile 3; profiles are: mainline, null, "),
        ('[mine]\nmerg = "free"\n', "p.toml", "p.toml, [mine]: no switch 'merg'; did you mean merge?"),
        ('[mine]\nname = "x"\n', "p.toml", "p.toml, [mine]: no switch 'name'; switches are: "),
        (
            '[mine]\nmerge = "fre"\n',
            "p.toml",
            "p.toml, [mine]: merge=fre (P-50, P-53, P-55): expected drain, free, never or tail",
        ),
        ("[mine]\nphase0 = true\n", "p.toml", "p.toml, [mine]: phase0=True (P-33): expected on or off"),
        (
            '[mine]\nhandover_batch = "16"\n',
            "p.toml",
            "p.toml, [mine]: handover_batch='16' (P-46b): expected a number ",
        ),
        (
            "[mine]\nhandover_batch = 16.0\n",
            "p.toml",
            "p.toml, [mine]: handover_batch=16.0 (P-46b): expected a number ",
        ),
        ("[mine]\npcp_lists = 14\n", "p.toml", "p.toml, [mine]: pcp_lists=14 needs gate=never, "),
        ('[mine.more]\nmerge = "free"\n', "p.toml", "p.toml, [mine]: no switch 'more'; "),
    ],
)
def test_bad_toml(toml, text, which, sentence):
    toml(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        policy(which)
    assert str(caught.value).startswith(sentence)


def test_a_folder_is_no_file_of_policies(tmp_path):
    (tmp_path / "p.toml").mkdir()
    with pytest.raises(ConfigError, match=r"p\.toml cannot be read: Is a directory$"):
        policy(str(tmp_path / "p.toml"))


# Profiles and combinations.


def test_profiles_have_a_meaning_and_their_own_name():
    assert [which.name for which in PROFILES.values()] == list(PROFILES)
    meanings = [which.meaning for which in PROFILES.values()]
    assert all(meanings)
    assert len(set(meanings)) == len(meanings)


def test_policy_has_the_switches_and_their_defaults():
    fields = dataclasses.fields(Policy)
    assert [field.name for field in fields] == ["name", "meaning", *(switch.name for switch in SWITCHES)]
    assert [field.default for field in fields[2:]] == [switch.values[0] for switch in SWITCHES]


def refused(switches):
    """
    Which rows of "Refused" in docs/reference/switches.md a combination falls under: how each sentence begins.
    """
    bare = switches["gate"] == switches["merge"] == "never" and switches["phase2"] == "off"
    baseline = bare and switches["local_split"] == "off" and switches["pcp_orders"] == "baseline"
    if switches["pcp_lists"] == 14 and (not baseline or switches["drain_overshoot"] == "split"):
        yield "pcp_lists=14 needs "
    if switches["local_split"] == "off" and (not bare or switches["adopt"] == "on"):
        yield "local_split=off needs "
    for drain in ("index", "near"):
        if switches["drain"] == drain and switches["drain_overshoot"] != "allow":
            yield f"drain={drain} needs drain_overshoot=allow"


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(
    st.fixed_dictionaries({switch.name: st.sampled_from(switch.values) for switch in SWITCHES}),
    st.dictionaries(
        st.sampled_from(["gate", "merge", "phase2", "local_split", "adopt", "drain_overshoot"]),
        st.just(None),
        max_size=6,
    ),
)
def test_refused_combinations_are_refused_and_all_others_accepted(switches, calm):
    """
    calm: switches that are set as mainline has them, else hardly a combination with local_split=off would do.
    """
    switches |= {name: getattr(PROFILES["mainline"], name) for name in calm}
    expected = list(refused(switches))
    if not expected:
        assert Policy(name="drawn", **switches).switches() == switches
        return
    with pytest.raises(ConfigError) as caught:
        Policy(name="drawn", **switches)
    assert str(caught.value).startswith(expected[0])
    assert str(next(need for need in NEEDS if str(need).startswith(expected[0]))) in str(caught.value)


def test_each_need_is_refused_by_its_sentence_for_each_switch_alone():
    for need in NEEDS:
        base = PROFILES[{14: "mainline", "near": "tuned"}.get(need.value, "null")]
        assert base.switches()[need.switch] == need.value
        for name, allowed in need.others.items():
            switch = next(switch for switch in SWITCHES if switch.name == name)
            for value in switch.values:
                if value in allowed and not (need.switch == "pcp_lists" and value == "stop"):
                    assert policy(base, **{name: value}).switches()[name] == value
                elif value not in allowed:
                    with pytest.raises(ConfigError) as caught:
                        policy(base, **{name: value})
                    assert str(caught.value) == f"{need}; seen: {name}={value}"


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_each_value_of_each_switch_is_accepted_alone_or_refused_by_a_need(switch):
    for value in switch.values:
        needs = [need for need in NEEDS if (need.switch, need.value) == (switch.name, value)]
        others = {name: values[0] for need in needs for name, values in need.others.items()}
        for need in NEEDS:  # a value that is needed may need others itself
            if others.get(need.switch) == need.value:
                others = {name: values[0] for name, values in need.others.items()} | others
        assert policy("fixed", **{switch.name: value}, **others).switches()[switch.name] == value
