"""
``Machine``: its configuration, what a run of it leaves, that the same input gives the same bytes, and interruption.
"""

import dataclasses

import numpy as np
import pytest
from test_recording import SHIPPED

import pcpbuddy
from pcpbuddy import Machine
from pcpbuddy.errors import ConfigError
from pcpbuddy.machine import find_load
from pcpbuddy.workload.load import load

SHORT = {"duration": "50us"}


def test_a_run_and_its_figures():
    run = Machine(4, "1GiB", "fixed", seed=3).run("local/loop", **SHORT)
    assert not run.partial
    assert run.stuck == []
    assert run.metrics["time.measured_ns"] == 50_000
    assert run.metrics["time.cpus"] == 4
    assert run.metrics["allocs"] > 0
    assert run.metrics["work"] == run.cpus["work"].sum() > 0
    shares = [run.metrics[name] for name in run.metrics if name.startswith("cpu.") and name != "cpu.utilisation"]
    assert sum(shares) == pytest.approx(1)
    assert run.elapsed_ns > 0
    assert "allocs" in run.cpus
    assert run.cpus["allocs"].sum() == run.metrics["allocs"]


def test_machine_and_zones_count_the_same():
    """
    Holds of the zone lock, by kind: the machine's own count against the allocator's counters.
    """
    run = Machine(8, "128MiB", "mainline").run("exit/storm", touch_mib=2, rounds=1, warm_up=0)
    assert run.metrics["zone_lock.holds"] > 10
    for kind in ("", ".refill", ".direct_alloc", ".direct_free", ".drain", ".other"):
        assert run.metrics[f"zone_lock.holds{kind}"] == run.cpus[f"zone_lock.holds{kind}"].sum()
    assert run.metrics["cpu.zone_wait"] == pytest.approx(run.metrics["zone_lock.wait_ns.share"], rel=1e-6)
    assert run.metrics["pcp_lock.holds"] == sum(run.metrics[f"pcp_lock.holds.{side}"] for side in ("local", "remote"))


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        Machine(5, "256MiB", "llist", nodes=2, seed=9).run("purge/jemalloc", duration="300us").save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = Machine(5, "256MiB", "llist", nodes=2, seed=10).run("purge/jemalloc", duration="300us")
    assert other.digest != pcpbuddy.load_run(tmp_path / "a").digest


def test_a_load_is_as_good_as_its_name():
    by_name = Machine(3, seed=1).run("local/loop", pages=8, **SHORT)
    given = Machine(3, seed=1).run(load("local/loop", 3, pages=8), **SHORT)
    assert by_name.metrics == given.metrics
    with pytest.raises(ConfigError, match="parameter 'pages': a Load has its parameters already"):
        Machine(3).run(load("local/loop", 3), pages=8)
    with pytest.raises(ConfigError, match=r"^cpus=3: local/loop is for 4 CPUs"):
        Machine(3).run(load("local/loop", 4))


def test_nodes_and_zones():
    zones = {"DMA": "16MiB", "DMA32": "256MiB", "Movable": "64MiB"}
    machine = Machine(4, "2GiB", nodes=2, zones=zones, cma="32MiB")
    run = machine.run("local/loop", **SHORT)
    facts = {zone["name"]: zone for zone in run.manifest["zones"]}
    assert list(facts) == ["node0.DMA", "node0.DMA32", "node0.Normal", "node0.Movable", "node1.Normal", "node1.Movable"]
    assert sum(zone["pages"] for zone in facts.values()) == (2 << 30) // 4096
    assert facts["node0.Normal"]["cma_pages"] == (32 << 20) // 4096
    assert run.zones == list(facts)
    assert sum(run.metrics[f"zones.{name}.allocs"] for name in facts) == run.metrics["allocs"]
    # The kernel's formulas: each zone's watermark is its share of one pool, PCP limits count the node's own CPUs.
    assert facts["node1.Normal"]["watermark"][0] > facts["node0.Normal"]["watermark"][0]
    assert 32 <= facts["node0.Movable"]["watermark"][0] <= 128
    assert facts["node1.Normal"]["high_max"] == facts["node1.Normal"]["pages"] // 8 // 2


def test_samples_are_as_many_as_asked_for():
    run = Machine(2).run("local/loop", duration="50us", sample="10us")
    assert run.over_time()["t_ns"][:3] == pytest.approx([0, 10_000, 20_000])
    assert 5 <= len(run.samples) <= 7
    assert run.manifest["config"]["sample_ns"] == 10_000


def test_warm_up_is_not_measured():
    """
    The measured part is as long as asked for, whenever it begins.
    """
    run = Machine(2, "64MiB").run("local/loop", duration="30us", fragment=0.01)
    assert run.metrics["time.before_ns"] > 30_000
    assert run.metrics["time.measured_ns"] == 30_000


def test_a_recording_in_closed_loop():
    run = Machine(4, policy="mainline").run(SHIPPED / "tiny-4c")
    assert run.workload == "tiny-4c"
    assert run.metrics["allocs"] == 1901
    assert run.zones == ["DMA", "DMA32"] or "DMA32" in run.zones or "Normal" in run.zones
    assert run.metrics["time.measured_ns"] > 2e9
    assert len(run.samples) / len(run.zones) < 600
    doubled = Machine(4, policy="mainline").run(SHIPPED / "tiny-4c", gaps=0)
    assert doubled.metrics["time.measured_ns"] < 1e7


def test_command_repeats_the_run():
    machine = Machine(
        4, "64MiB", "fixed+merge=free", nodes=2, zones={"Movable": "4MiB"}, cma="2MiB", seed=5, tick="10ms"
    )
    run = machine.run("local/loop", duration="20us", sample="7us", pages=4)
    words = run.manifest["command"].split()
    assert words[:3] == ["pcpbuddy", "run", "local/loop"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options == {
        "--cpus": "4",
        "--policy": "fixed+merge=free",
        "--memory": "64MiB",
        "--nodes": "2",
        "--zones": "Movable=4MiB",
        "--cma": "2MiB",
        "--costs": "server-2s",
        "--seed": "5",
        "--tick": "10ms",
        "--duration": "20us",
        "--sample": "7us",
        "--set": "pages=4",
    }


def test_a_policy_of_ones_own_is_written_out():
    own = dataclasses.replace(pcpbuddy.policy("fixed", gate="never"), name="mine")
    run = Machine(1, "2MiB", own).run("local/loop", **SHORT, pages=1)
    assert "--policy fixed+gate=never " in run.manifest["command"]
    assert run.policy == "mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"cpus": 0}, "cpus=0: expected a whole number from 1 to 512"),
        ({"cpus": 513}, "cpus=513: expected a whole number from 1 to 512"),
        ({"cpus": "many"}, "cpus=many: expected a whole number from 1 to 512"),
        ({"cpus": 4, "nodes": 5}, "nodes=5: expected a whole number from 1 to 4"),
        ({"cpus": 64, "nodes": 9}, "nodes=9: expected a whole number from 1 to 8"),
        ({"cpus": 4, "seed": -1}, f"seed=-1: expected a whole number from 0 to {2**63 - 1}"),
        (
            {"cpus": 4, "memory": "1MiB"},
            "memory=1MiB: zone Normal would have 1MiB; expected at least one pageblock, 2MiB",
        ),
        (
            {"cpus": 4, "memory": "6MiB", "nodes": 2},
            "memory=6MiB: zone Normal of node 0 would have 0B; expected at least one pageblock, 2MiB",
        ),
        (
            {"cpus": 4, "memory": "1GiB", "zones": {"DMA32": "2GiB"}},
            "memory=1GiB: zone Normal would have 0B; expected at least one pageblock, 2MiB",
        ),
        (
            {"cpus": 4, "memory": "1GiB", "zones": {"DMA": "64KiB"}},
            "zones.DMA=64KiB: zone DMA would have 64KiB; expected at least one pageblock, 2MiB",
        ),
        (
            {"cpus": 4, "zones": {"Normal": "1GiB"}},
            "zones.Normal: expected DMA, DMA32 or Movable; zone Normal gets what they leave",
        ),
        (
            {"cpus": 4, "memory": "lots"},
            "memory: size 'lots': expected a number with KiB, MiB, GiB or TiB, such as 256MiB",
        ),
        (
            {"cpus": 4, "memory": "16MiB", "cma": "1MiB"},
            "cma=1MiB: expected whole pageblocks, a multiple of 2MiB, up to the 16MiB of zone Normal",
        ),
        (
            {"cpus": 4, "memory": "16MiB", "cma": "18MiB"},
            "cma=18MiB: expected whole pageblocks, a multiple of 2MiB, up to the 16MiB of zone Normal",
        ),
        (
            {"cpus": 4, "tick": "often"},
            "tick=often: expected a time such as 10ms, with ns, us, ms or s, from 0 to 3600s",
        ),
    ],
)
def test_what_cannot_be(arguments, sentence):
    with pytest.raises(ConfigError) as caught:
        Machine(**arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "words"), [({"policy": "best"}, "unknown policy"), ({"costs": "x"}, "unknown cost")]
)
def test_names_that_do_not_exist(arguments, words):
    with pytest.raises(ConfigError, match=words):
        Machine(4, **arguments)


def test_a_recording_brings_its_own_zones():
    for key, value in {"memory": "1GiB", "cma": "2MiB", "nodes": 2, "zones": {"DMA": "16MiB"}}.items():
        with pytest.raises(ConfigError, match=f"^{key}: a recording brings its own zones and pages"):
            Machine(4, **{key: value}).run(SHIPPED / "tiny-4c")
    with pytest.raises(ConfigError, match="cpus=5: tiny-4c is for 4 CPUs; expected 4"):
        Machine(5).run(SHIPPED / "tiny-4c")
    with pytest.raises(ConfigError, match="a recording has no parameter 'pages'; it has: gaps"):
        find_load(SHIPPED / "tiny-4c", 4, parameters={"pages": 3})


# Stopped by the user.


def test_interrupted_between_slices():
    """
    What was measured until then stays, marked; the state is sound, calls under way are over.
    """
    seen = []

    def stop(name, done_ns, total_ns):
        seen.append((name, done_ns, total_ns))
        if done_ns > 1_000_000:
            raise KeyboardInterrupt

    run = Machine(8, policy="mainline").run("local/loop", duration="60s", progress=stop)
    assert run.partial
    assert 1_000_000 < run.metrics["time.measured_ns"] < 60_000_000_000
    assert run.metrics["allocs"] > 0
    assert {(name, total) for name, _, total in seen} == {("mainline", 60_000_000_000)}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert run.document()["results"]["partial"] is True


def test_interrupted_before_it_measured_anything():
    def stop(*_):
        raise KeyboardInterrupt

    run = Machine(2, "256MiB").run("local/loop", progress=stop, fragment=0.5, duration="60s")
    assert run.partial
    assert run.metrics["time.measured_ns"] >= 0
    assert run._repr_html_()


def test_progress_ends_with_all():
    seen = []
    Machine(2).run("local/loop", progress=lambda *told: seen.append(told), **SHORT)
    assert seen[-1] == ("fixed", 50_000, 50_000)


def test_numbers_of_a_run_are_plain():
    """
    Nothing of NumPy in metrics and manifest: JSON and repr show numbers.
    """
    run = Machine(2).run("local/loop", **SHORT)
    assert {type(value) for value in run.metrics.values()} <= {int, float}
    assert not any(isinstance(value, np.generic) for zone in run.manifest["zones"] for value in zone.values())


@pytest.mark.parametrize("policy", ["mainline", "posted", "fixed", "llist", "handover", "tuned"])
def test_interrupts_wait_for_locks_while_their_task_sleeps(policy):
    """
    A CPU is then in a lock's queue and among the sleepers of a queue of pages at once.
    """
    run = Machine(8, policy=policy).run("purge/jemalloc", interrupt_us=20, duration="3ms")
    assert run.stuck is None or not run.stuck
    assert run.metrics["cpu.interrupt"] > 0


def test_samples_of_a_long_run_are_thinned_out():
    run = Machine(2).run("local/loop", duration="2ms", sample="1us")
    times = run.samples["t_ps"]
    assert 256 <= len(times) <= 513
    assert len(set(np.diff(times)[:-1].tolist())) == 1
