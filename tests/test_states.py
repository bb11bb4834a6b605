"""
The notation that the vector tests rely on: read as meant, or refused.
"""

import pytest
from states import C, blank, lists, put


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("F9[M]: 0 512, F10: 1024", {"F9[M]": ["0", "512"], "F10[M]": ["1024"]}),
        ("F0[U]: 7, F1: 8", {"F0[U]": ["7"], "F1[U]": ["8"]}),
        ("P0: 1* 2 P1: 4*", {"P0[M]": ["1*", "2"], "P1[M]": ["4*"]}),
        ("L[4]: 6, L[12]: 512", {"P1[M]": ["6"], "P9[U]": ["512"]}),
        ("F2: 4 8 ... 16", {"F2[M]": ["4", "8", "12", "16"]}),
        ("P0[U]: 5..8", {"P0[U]": ["5", "6", "7", "8"]}),
        ("P2: 4* ... P4: 16*", {"P2[M]": ["4*"], "P3[M]": ["8*"], "P4[M]": ["16*"]}),
    ],
)
def test_lists(text, entries):
    assert lists(text) == entries


@pytest.mark.parametrize("text", ["F9[X]: 1", "F9 1", "F0: 1 ... 5", "F0: 2 4 ... 7", "F2: 4 ... F4: 8", "1 2"])
def test_lists_refuses(text):
    with pytest.raises((ValueError, KeyError)):
        lists(text)


def test_put_folds_what_exceeds_the_threshold():
    state = put(blank(2, {1: C}, thr=125), (0, 6), (512, 6), (576, 4))
    assert state["stat"] == [128, 0, 0]
    assert state["pcp"][0]["stat_diff"] == [16, 80, 0]
    assert state["free"] == {(4, C): [576], (6, 1): [0], (6, C): [512]}
