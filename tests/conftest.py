"""
The two implementations behind one fixture.

Every test that uses ``impl``, directly or through ``make``, runs once on the model and once on the
compiled core. Nothing is skipped: an implementation that cannot be imported is an error.
"""

import importlib
from types import SimpleNamespace

import pytest
from states import TRACE_CAPACITY

# name -> the module with Zone and Node, the module with the sizing formulas
_IMPLEMENTATIONS = {"model": ("pcpbuddy.model", "pcpbuddy.model"), "core": ("pcpbuddy", "pcpbuddy._core")}


@pytest.fixture(params=list(_IMPLEMENTATIONS))
def impl(request):
    """
    One implementation: ``Zone``, ``Node``, and ``sizing`` with the formulas of B-12 to B-20.
    """
    faces, sizing = (importlib.import_module(module) for module in _IMPLEMENTATIONS[request.param])
    return SimpleNamespace(name=request.param, Zone=faces.Zone, Node=faces.Node, sizing=sizing)


@pytest.fixture
def make(impl):
    """
    Make traced zones from states. At the end of the test each must pass ``check()`` and survive a round trip.
    """
    zones = []

    def make_zone(state, policy="fixed"):
        zone = impl.Zone.from_state(state, policy=policy)
        zone.trace(TRACE_CAPACITY)
        zones.append(zone)
        return zone

    yield make_zone
    for zone in zones:
        zone.check()
        state = zone.state()
        assert impl.Zone.from_state(state, policy=zone.policy).state() == state
