"""
What a machine in virtual time counts, made up, for tests of what becomes of it.
"""

import numpy as np

from pcpbuddy.run import histogram, measured, timing

SAMPLE = np.dtype(
    [
        ("t_ps", "i8"),
        ("zone", "i8"),
        ("nr_free", "i8", 11),
        ("free_pages", "i8"),
        ("parked_pages", "i8"),
        ("cma_free", "i8"),
        ("allocated_pages", "i8"),
        ("owned_blocks", "i8"),
        ("zone_wait_ps", "i8"),
        ("zone_holds", "i8"),
        ("allocs", "i8"),
    ]
)


def times_ns(rng, n):
    """
    Nanoseconds over several orders of magnitude.
    """
    return np.floor(10 ** rng.uniform(0, 6, n)).astype(np.int64)


def histogram_of(values_ns):
    counts = np.zeros(histogram.NR_BINS, np.int64)
    np.add.at(counts, [histogram.bin_of(int(value)) for value in values_ns], 1)
    return counts


def section(waits_ns, holds_ns):
    """
    What is counted of one kind of section: its waits (only those that were any) and its holds.
    """
    return {
        "count": len(holds_ns),
        "waited": len(waits_ns),
        "failed": 0,
        "wait_ps": int(np.sum(waits_ns)) * 1000,
        "wait_max_ps": int(np.max(waits_ns, initial=0)) * 1000,
        "hold_ps": int(np.sum(holds_ns)) * 1000,
        "hold_max_ps": int(np.max(holds_ns, initial=0)) * 1000,
        "wait_hist": histogram_of(waits_ns),
        "hold_hist": histogram_of(holds_ns),
    }


def stacked(sections):
    """
    [zone][kind] of sections as one dict of arrays.
    """
    keys = sections[0][0] if sections else section([], [])
    return {key: np.array([[kind[key] for kind in zone] for zone in sections]) for key in keys}


def lock(rng, zones, kinds, nr=200):
    """
    A lock in each zone; returns what is counted, and the raw (waits, holds) by (zone, kind).
    """
    raw = {(z, k): (times_ns(rng, nr // 4), times_ns(rng, nr)) for z in range(zones) for k in range(kinds)}
    return stacked([[section(*raw[z, k]) for k in range(kinds)] for z in range(zones)]), raw


def result(seed=1, zones=2, cpus=4, samples=8):
    """
    The result of a simulation, and the raw times behind its locks.
    """
    rng = np.random.default_rng(seed)
    zone_lock, zone_raw = lock(rng, zones, 5)
    pcp_lock, pcp_raw = lock(rng, zones, 5)
    pcp_lock["failed"] = rng.integers(0, 9, (zones, 5))
    calls = [times_ns(rng, 100) for _ in timing.CALLS]
    shares = rng.dirichlet(np.ones(len(timing.CATEGORIES)), cpus)
    rows = np.zeros(samples * zones, SAMPLE)
    rows["t_ps"] = np.repeat(np.arange(1, samples + 1), zones) * 10**9 + 5 * 10**9
    rows["zone"] = np.tile(np.arange(zones), samples)
    rows["nr_free"] = rng.integers(0, 50, (len(rows), 11))
    rows["free_pages"] = (rows["nr_free"] << np.arange(11)).sum(axis=1)
    for name in ("parked_pages", "cma_free", "allocated_pages", "owned_blocks"):
        rows[name] = rng.integers(0, 5000, len(rows))
    for name in ("zone_wait_ps", "zone_holds", "allocs"):
        for zone in range(zones):
            rows[name][rows["zone"] == zone] = np.cumsum(rng.integers(0, 10**8, samples))
    made = {
        "start_ps": 5 * 10**9,
        "now_ps": (5 + samples) * 10**9,
        "events": 12345,
        "calls": 700,
        "failed": 3,
        "stalls": 2,
        "stall_ps": 4 * 10**6,
        "zone_lock": zone_lock,
        "pcp_lock": pcp_lock,
        "user_lock": stacked([]) | {"count": np.zeros((0, 1))},
        "call_hist": np.array([histogram_of(times) for times in calls]),
        "call_count": np.array([len(times) for times in calls]),
        "call_ps": np.array([times.sum() * 1000 for times in calls]),
        "call_max_ps": np.array([times.max() * 1000 for times in calls]),
        "cpu_ps": np.round(shares * samples * 10**9).astype(np.int64),
        "work": rng.integers(0, 100, cpus),
        "samples": rows,
    }
    for key in ("wait_hist", "hold_hist"):
        made["user_lock"][key] = np.zeros((0, 1, histogram.NR_BINS))
    for key in ("waited", "failed", "wait_ps", "wait_max_ps", "hold_ps", "hold_max_ps"):
        made["user_lock"][key] = np.zeros((0, 1))
    return made, {"zone_lock": zone_raw, "pcp_lock": pcp_raw, "call": calls}


def manifest(zones=2, *, partial=False, policy="fixed", **changes):
    """
    A manifest as Machine.run makes it.
    """
    return {
        "version": "1.2.3",
        "commit": None,
        "python": "3.13.0",
        "numpy": "2.0.0",
        "machine": {"system": "Linux", "arch": "x86_64", "cpus": 2},
        "mode": "machine",
        "command": "pcpbuddy run exit/storm --cpus 4",
        "workload": {
            "name": "exit/storm",
            "meaning": "processes exit at once",
            "source": "a mail",
            "unit": "exits",
            "parameters": {"pages": 100},
            "left_out": {},
        },
        "config": {"cpus": 4, "memory": "1GiB", "nodes": 1, "zones": {}, "cma": "0B", "duration_ns": 8_000_000},
        "costs": {"name": "server-2s", "calibrated": False, "machine": {}, "lock_ns": 10.0},
        "seed": 1,
        "partial": partial,
        "stuck": [],
        "zones": [{"name": f"Z{zone}", "node": 0, "pages": 4096, "cma_pages": 0} for zone in range(zones)],
        "policies": {policy: {"gate": "fit"}},
        **changes,
    }


# What zones count themselves, as metrics.of_zones and .of_cpu would say.
COUNTED = {"allocs": 4000, "allocs.failed": 1, "pages.allocated": 5000, "pages.freed": 4500, "zone_lock.holds": 2000}


def run(seed=1, zones=2, cpus=4, counted=None, elapsed_ns=0, **manifest_changes):
    """
    A whole run.
    """
    return measured(
        result(seed, zones, cpus)[0],
        {**COUNTED, **(counted or {})},
        [{"allocs": 1000 + cpu} for cpu in range(cpus)],
        manifest(zones, **{"seed": seed, **manifest_changes}),
        elapsed_ns,
    )
