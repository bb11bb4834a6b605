"""
Zones of their own in threads of their own: the core keeps no state outside a zone and needs no GIL.
"""

import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import pcpbuddy
from pcpbuddy import _core
from pcpbuddy.workload import shapes


def replayed(policy):
    """
    Counters after shape S1 under a policy.
    """
    return pcpbuddy.compare("shape/S1", [policy]).runs[0].metrics


def single_steps(seed):
    zone = pcpbuddy.Zone(16 * 512, cpus=4, policy="fixed")
    pfns = []
    for k in range(4000):
        if (k * seed) % 7 < 4 or not pfns:
            pfns.append(zone.alloc(k % 3 % 2, k % 3, k % 4))
        else:
            zone.free(pfns.pop(k % len(pfns)), (k + seed) % 4)
    zone.check()
    return zone.state()


def test_threads_with_their_own_zones_do_not_meet():
    assert shapes
    expected = [single_steps(seed) for seed in range(1, 9)]
    metrics = replayed("fixed")
    start = threading.Barrier(8)

    def work(seed):
        start.wait()
        return single_steps(seed), replayed("fixed")

    with ThreadPoolExecutor(8) as pool:
        for (state, got), wanted in zip(pool.map(work, range(1, 9)), expected, strict=True):
            assert state == wanted
            assert got == metrics


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter has a GIL")
def test_the_core_leaves_the_gil_off():
    assert _core
    assert not sys._is_gil_enabled()
