"""
Block maps: every page is told once and rightly, as data, as text and in the picture.
"""

import itertools
import random
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from states import C, M, R, U, blank, held, park, put

import pcpbuddy as pb
from pcpbuddy.report import blockmap, drawing
from pcpbuddy.report.blockmap import ALLOCATED, DEFERRED, FREE, HOLE, PCP, REMOTE, blocks, pieces, text_map
from pcpbuddy.report.drawing import Drawing

SVG = "{http://www.w3.org/2000/svg}"


def used(impl, policy="fixed"):
    """
    A zone of 8 blocks, two of them CMA, in which two CPUs and all three types have been at work.
    """
    zone = impl.Zone(4096, cpus=2, cma_pages=1024, policy=policy, batch=31, high_min=600, high_max=600)
    rng = random.Random(7)
    live = []
    for _ in range(900):
        if live and rng.random() < 0.4:
            zone.free(live.pop(int(rng.random() * len(live))), cpu=int(rng.random() * 2))
        else:
            order = int(rng.random() * 4)
            live.append(zone.alloc(order=order, migratetype=(M, U, R)[len(live) % 3], cpu=int(rng.random() * 2)))
    return zone


def everything():
    """
    A state that has each kind of page: free, in a list, on its way, deferred, allocated, hole.
    """
    state = blank(3, {1: C}, cpus=3)
    put(state, (256, 8), (512, 9))
    held(state, 0, (2, 1))
    park(state, 1, 2, M, [4])
    state["pcp"][1]["marked"] = [4]
    state["deferred"] = [(8, 3)]
    state["pcp"][2] |= {"remote": [(16, 4)], "outboxes": [(0, [(32, 0), (33, 0)])], "pending": 16}
    return state


# The data


@pytest.mark.parametrize("policy", ["mainline", "fixed"])
def test_pieces_are_what_the_state_says(impl, policy):
    zone = used(impl, policy)
    state = zone.state()
    found = pieces(state)
    assert sum(piece.pages for piece in found) == 4096
    assert all(a.pfn + a.pages == b.pfn for a, b in itertools.pairwise(found))

    kinds = {kind: {p.pfn: p for p in found if p.kind == kind} for kind in (FREE, PCP, ALLOCATED)}
    assert {pfn: (p.order, p.type) for pfn, p in kinds[FREE].items()} == {
        pfn: key for key, pfns in state["free"].items() for pfn in pfns
    }
    assert {pfn: (p.order, p.type) for pfn, p in kinds[ALLOCATED].items()} == {
        pfn: allocation[:2] for pfn, allocation in state["allocated"].items()
    }
    for cpu, pcp in enumerate(state["pcp"]):
        mine = [p for p in kinds[PCP].values() if p.cpu == cpu]
        assert sum(p.pages for p in mine) == pcp["count"] > 0
        assert sorted(p.pfn for p in mine if p.marked) == pcp["marked"]
    assert not [p for p in found if p.kind in (REMOTE, DEFERRED, HOLE)]


def test_all_kinds_of_pages():
    told = [(p.pfn, p.pages, p.kind, p.order, p.cpu) for p in pieces(everything())]
    assert told == [
        (0, 1, ALLOCATED, 0, -1),
        (1, 1, HOLE, -1, -1),
        (2, 2, ALLOCATED, 1, -1),
        (4, 4, PCP, 2, 1),
        (8, 8, DEFERRED, 3, -1),
        (16, 16, REMOTE, 4, 2),
        (32, 1, REMOTE, 0, 0),
        (33, 1, REMOTE, 0, 0),
        (34, 222, HOLE, -1, -1),
        (256, 256, FREE, 8, -1),
        (512, 512, FREE, 9, -1),
        (1024, 512, HOLE, -1, -1),
    ]


def test_a_zone_that_starts_inside_a_block(impl):
    zone = impl.Zone(1500, start_pfn=1024 + 512 + 10, policy="mainline")
    found = pieces(zone.state())
    assert found[0] == (1024, 522, HOLE, -1, -1, -1, False)
    assert found[-1].kind == HOLE
    assert found[-1].pfn == 1024 + 522 + 1500
    assert [block.pfn for block in blocks(zone.state())] == [1024, 1536, 2048, 2560]
    assert [block.word for block in blocks(zone.state())] == ["HOLE", "ORPHAN", "FREE", "ORPHAN"]


def test_a_chunk_over_two_blocks_is_told_in_both(impl):
    first, second = blocks(impl.Zone(1024).state())
    assert first.pieces == ((0, 512, FREE, 10, M, -1, False),)
    assert second.pieces == ((512, 512, FREE, 10, M, -1, False),)


@pytest.mark.parametrize("where", [{"free": {(0, M): [257]}}, {"allocated": {3 * 512: (0, M, 0)}}])
def test_a_page_in_two_places_or_outside(where):
    state = put(blank(3), (256, 8))
    for name, content in where.items():
        state[name] |= content
    with pytest.raises(pb.Corruption, match="I-1 pfn"):
        pieces(state)


def test_the_words_of_a_blocks_life(impl):
    zone = impl.Zone(2048, cpus=2, policy="fixed", batch=63, high_min=1000, high_max=4096)
    words = []

    def note():
        block = blocks(zone.state())[0]
        words.append((block.word, block.owner, block.linked))

    note()
    pages = [zone.alloc(cpu=0) for _ in range(4)]
    note()
    zone.free(pages[0], cpu=1)
    zone.drain(0)
    note()
    while any(piece.kind == FREE for piece in blocks(zone.state())[0].pieces):
        zone.take(0, M)
    note()
    assert words == [("FREE", -1, False), ("PRIVATE", 0, False), ("PARTIAL", 0, True), ("STALE", 0, True)]
    zone.offline(0)
    assert blocks(zone.state())[0].word == "ORPHAN"
    assert zone.isolate(1024)
    assert [(b.letter, b.word) for b in blocks(zone.state())[2:]] == [("I", "ISOLATED"), ("M", "FREE")]


# The text


def test_text_of_everything():
    assert text_map(everything()).splitlines() == [
        "        0 M ORPHAN               |+~~~                            ................................|",
        "        1 C FREE                 |................................................................|",
        "        2 M HOLE                 |                                                                |",
        "One sign: 8 pages. . free in the zone, + partly allocated, ~ waiting on a list, blank: no memory.",
    ]


def test_text_page_by_page():
    line = text_map(everything(), only=[0], width=512).splitlines()[0]
    cells = line[line.index("|") + 1 : -1]
    assert cells == "# ##1111" + "~" * 26 + " " * 222 + "." * 256


def test_text_of_owned_blocks_and_of_many_alike(impl):
    zone = impl.Zone(4096, cpus=2, policy="fixed", batch=63, high_min=1000, high_max=4096)
    for _ in range(256):
        zone.alloc(cpu=1)
    zone.drain(1)
    zone.alloc(order=9, cpu=0)
    lines = text_map(zone.state(), width=16).splitlines()
    assert lines[0] == "        0 M PARTIAL  CPU 1 list  |########........|"
    assert lines[1] == "        1 M PRIVATE  CPU 0       |################|"
    assert lines[2] == "        2 M PRIVATE  CPU 0       |0000000000000000|"
    assert lines[3] == "      3-7 M FREE                 |................|"
    assert len(lines) == 5
    assert text_map(zone.state(), width=16, only=[1, 4, 5, 7], ownership=False).splitlines()[:3] == [
        "        1 M |################|",
        "      4-5 M |................|",
        "        7 M |................|",
    ]
    assert text_map(zone.state(), width=8, rows=2, unicode=True).splitlines()[:2] == [
        "        0 M PARTIAL  CPU 1 list  |████████|",
        "                                 |░░░░░░░░|",
    ]


def test_cpus_have_signs():
    state = blank(1, cpus=40)
    for place, cpu in enumerate((9, 10, 35, 36)):
        park(state, cpu, 0, M, [place])
    held(state, *range(4, 512))
    line = text_map(state, width=512).splitlines()[0]
    assert line[line.index("|") + 1 :][:5] == "9az0#"


@pytest.mark.parametrize(
    "call",
    [
        lambda state: text_map(state, width=48),
        lambda state: text_map(state, width=0),
        lambda state: text_map(state, width=512, rows=2),
        lambda state: text_map(state, only=[3]),
        lambda state: Drawing("").strips(state, rows=3),
        lambda state: Drawing("").strips(state, [-1]),
        lambda state: Drawing("").pcp_lists(state, 3),
    ],
)
def test_what_cannot_be_shown_is_refused(call):
    with pytest.raises(pb.UsageError):
        call(everything())


# The picture


def parts(picture):
    root = ET.fromstring(picture.svg())
    return root, [element for element in root.iter(SVG + "rect") if element.get("height")]


def texts(picture):
    return ["".join(element.itertext()) for element in parts(picture)[0].iter(SVG + "text")]


@pytest.mark.parametrize("rows", [1, 2, 4, 8])
@pytest.mark.parametrize("policy", ["mainline", "fixed"])
def test_areas_in_the_strips_are_pages(impl, policy, rows):
    """
    What is coloured, colour by colour, has the area of the pages of that kind.
    """
    state = used(impl, policy).state()
    names = dict.fromkeys((drawing.USED[U], drawing.USED[M], drawing.USED[R]), ALLOCATED)
    names |= {drawing.FREE_FILL: FREE, "url(#c0)": (PCP, 0), "url(#c1)": (PCP, 1)}
    for block in blocks(state):
        area = Counter()
        for rect in parts(Drawing("t", ownership=False).strips(state, [block.number], rows=rows))[1]:
            height = float(rect.get("height"))
            if rect.get("fill") in names and rect.get("x") and height % drawing.ROW == 0:
                area[names[rect.get("fill")]] += float(rect.get("width")) * height
        told = Counter()
        for piece in block.pieces:
            told[(PCP, piece.cpu) if piece.kind == PCP else piece.kind] += piece.pages
        page = drawing.INNER * drawing.ROW * rows / 512
        assert {kind: round(pixels / page, 1) for kind, pixels in area.items()} == told


def test_a_run_of_one_colour_is_one_rectangle_in_each_row():
    state = held(put(blank(1), (256, 8)), *range(256))
    picture = Drawing("t").strips(state, rows=4)
    fills = [(r.get("fill"), r.get("width"), r.get("height")) for r in parts(picture)[1] if r.get("height") == "36"]
    assert fills == [(drawing.USED_UNKNOWN, "764", "36"), (drawing.FREE_FILL, "764", "36")]
    edges = re.search(r'<path d="([^"]*)" stroke="#ffffff"', picture.svg())[1]
    assert edges.count("v") == 2 * 127  # between the single pages of two rows
    assert edges.count("h") == 128 + 1  # above the second row's pages, and above the chunk


def test_headings_and_labels(impl):
    zone = impl.Zone(2048, cpus=2, policy="fixed", batch=63, high_min=1000, high_max=4096)
    zone.alloc(cpu=1)
    told = texts(Drawing("Title <&>").caption("words").step(3, "a step").strips(zone.state(), [0, 1, 2]))
    assert told[:3] == ["Title <&>", "words", "3"]
    assert "pfn 0 to 511" in told[told.index("block 0") :]
    assert "PRIVATE, owner CPU 1" in told
    assert "CPU 1, order 8: pfn 256, 256 pages" in told
    assert "free, order 9: pfn 512, 512 pages" in told
    assert "free, half of a chunk of order 10" in told
    assert [text for text in told if len(text) == 1] == ["3", "M", "1", "2", "3", "M", "M"]
    # As much as there is room for.
    assert {"order 4", "CPU 1, order 5", "CPU 1, order 6: pfn 64, 64 pages"} <= set(told)
    zone.drain(1)
    assert "PARTIAL, owner CPU 1, on its list" in texts(Drawing("t").strips(zone.state(), [0]))
    assert "PARTIAL" not in Drawing("t", ownership=False).strips(zone.state(), [0]).svg()


def test_marks_are_underlined(impl):
    zone = impl.Zone(2048, policy="fixed", batch=63, high_min=1000, high_max=4096)
    zone.alloc()
    picture = Drawing("t").strips(zone.state(), [0])
    bars = re.findall(r'<path d="([^"]*)" stroke="#1c2127" stroke-width="2.6"', picture.svg())
    assert bars[0].count("M") == len(zone.state()["pcp"][0]["marked"]) == 9
    assert "underlined: marked, may merge" in texts(picture)
    mainline = impl.Zone(2048, policy="mainline", batch=63, high_min=1000, high_max=4096)
    mainline.alloc()
    assert "underlined: marked, may merge" not in texts(Drawing("t").strips(mainline.state(), [0]))


def test_the_legend_has_what_was_drawn_and_no_more():
    legend = {
        "allocated, type unknown",
        "deferred, to be freed later",
        "free, in CPU 1's lists",
        "free, in the zone",
        "no memory (hole)",
        "on its way to CPU 0",
        "on its way to CPU 2",
        "underlined: marked, may merge",
    }
    assert legend <= set(texts(Drawing("t").strips(everything())))
    assert not legend & set(texts(Drawing("t")))
    for name in re.findall(r"url\(#(\w+)\)", Drawing("t").strips(everything()).svg()):
        assert f'id="{name}"' in Drawing("t").strips(everything()).svg()


def test_lists_are_shown_in_order_and_nothing_is_lost(impl):
    zone = used(impl, "mainline")
    state = zone.state()
    told = texts(Drawing("t").free_lists(state))
    for (_, mt), pfns in state["free"].items():
        assert f"{pb.names.MIGRATETYPE_NAMES[mt]} ({blockmap.LETTERS[mt]})" in told
        assert str(pfns[0]) in told
    shown = sum(text.isdigit() for text in told)
    more = sum(int(text.split()[1]) for text in told if re.fullmatch(r"and \d+ more", text))
    assert shown + more == sum(map(len, state["free"].values()))

    pcp = state["pcp"][1]
    told = texts(Drawing("t").pcp_lists(state, 1))
    assert f"CPU 1's lists: count {pcp['count']} pages, high {pcp['high']}, batch 31" in told
    assert [text for text in told if text.startswith("order")] == [f"order {order}" for order in range(10)]
    shown = [int(text) for text in told if text.isdigit()]
    heads = [shown.index(pfns[0]) for _, pfns in sorted(pcp["lists"].items())]
    assert heads == sorted(heads)  # by order, then type
    for (_, pfns), start, end in zip(sorted(pcp["lists"].items()), heads, [*heads[1:], len(shown)], strict=True):
        assert shown[start:end] == pfns[: end - start]
    more = sum(int(text.split()[1]) for text in told if re.fullmatch(r"and \d+ more", text))
    assert len(shown) + more == sum(map(len, pcp["lists"].values()))


def test_model_and_core_give_the_same_picture(impl):
    state = used(impl).state()
    again = used(impl).state()
    picture = Drawing("t").strips(state).free_lists(state).pcp_lists(state)
    assert picture.svg() == picture.svg() == Drawing("t").strips(again).free_lists(again).pcp_lists(again).svg()
    reference = pb.Zone.from_state(state).state()
    assert Drawing("t").strips(reference).svg() == Drawing("t").strips(state).svg()
