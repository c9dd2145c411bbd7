"""Timelines: filled in, checked, read from files and flags; prompts that travel."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from media import video

from stream.clips import reading, spread, travel
from stream.clips.checks import check
from stream.clips.flags import Flags
from stream.clips.lines import NodeLines, TomlLines
from stream.clips.timeline import Key, Segment, Timeline
from stream.errors import ClipError
from stream.prompt import Text
from tools.documents import DOCS


def timeline(frames: int, *segments: dict[str, Any], **values: Any) -> Timeline:
    return Timeline(frames=frames, segments=tuple(Segment(**s) for s in segments), **values)


def spans(made: Timeline) -> list[tuple[int | None, int | None, int | None]]:
    return [(s.start, s.end, s.fade) for s in made.resolved().segments]


# ------------------------------------------------------------------------------------------------- filled in


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (timeline(64), [(0, 64, 0)]),
        (timeline(64, {}, {}), [(0, 32, 8), (32, 64, 0)]),
        (timeline(64, {}, {}, loop=True), [(0, 32, 8), (32, 64, 8)]),
        (timeline(10, {}, {}, {}), [(0, 3, 1), (3, 7, 1), (7, 10, 0)]),
        (timeline(64, {"end": 16}, {}, {}), [(0, 16, 8), (16, 40, 8), (40, 64, 0)]),
        (timeline(64, {}, {"start": 40, "fade": 4}, {}), [(0, 40, 6), (40, 52, 4), (52, 64, 0)]),
        (timeline(64, {"end": 40}, {"start": 40, "end": 64}), [(0, 40, 8), (40, 64, 0)]),
        (timeline(2, {}, {}), [(0, 1, 0), (1, 2, 0)]),
    ],
)
def test_segments_share_the_clip(made: Timeline, expected: list[tuple[int, int, int]]) -> None:
    assert spans(made) == expected


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (timeline(64, {"end": 20}, {"start": 30}), "segments 1 and 2 leave a gap: one ends at 20, the next starts at"),
        (timeline(64, {"end": 30}, {"start": 20}), "segments 1 and 2 overlap"),
        (timeline(64, {"start": 4}), "segment 1: start is 4, which leaves frames 0 to 3 without a segment: use 0"),
        (timeline(64, {}, {"end": 60}), "segment 2: end is 60, which leaves frames 60 to 63 without one"),
        (timeline(64, {"end": 65}), "goes beyond the clip's end: use 64, or frames = 65"),
        (timeline(64, {"end": 20}, {"end": 20}, {}), "segment 2 is empty: it goes from frame 20 to 20"),
        (timeline(64, {"end": 20}, {"end": 10}, {}), "segment 2 is reversed: it goes from frame 20 to 10"),
        (timeline(2, {}, {}, {}), "3 segments do not fit into 2 frames"),
        (timeline(64, {"fade": 70}, {}), "segment 1: its cross-fades take 0 + 35 frames, and it has 32"),
        (timeline(64, {"fade": 30}, {"start": 30, "end": 46, "fade": 4}, {}), "segment 2: its cross-fades take 15 + 2"),
        (timeline(64, {}, {"fade": 8}), "segment 2: fade has no next segment to go into: leave it out, or set loop"),
        (timeline(64, {"fade": 8}, loop=True), "segment 1: fade has no next segment to go into: leave it out"),
        (timeline(64, keys=[{"frame": 3, "prompt": "a"}]), "keys: the first is at frame 3: it must be at 0"),
        (timeline(64, {}, {"keys": [{"frame": 40, "prompt": "a"}]}), "segment 2: keys: the first is at frame 40"),
        (timeline(64, keys=[{"frame": 0, "prompt": "a"}, {"frame": 64, "prompt": "b"}]), "frame 64 is not in the clip"),
        (timeline(64, keys=[{"frame": f, "prompt": "a"} for f in (0, 9, 5)]), "frame 5 comes after frame 9: sort them"),
        (timeline(64, keys=[{"frame": 0, "prompt": "a"}], prompt="b"), "prompt and keys are both given"),
        (timeline(64, {"keys": [{"frame": 0, "prompt": "a"}], "prompt": "b"}), "segment 1: prompt and keys are both"),
    ],
)  # fmt: skip
def test_segments_and_keys_that_do_not_fit(made: Timeline, told: str) -> None:
    with pytest.raises(ClipError) as error:
        made.resolved()
    assert told in str(error.value)


def test_prompts_come_from_the_timeline_where_a_segment_has_none() -> None:
    key = Key(frame=0, prompt="k")
    made = timeline(9, {}, {"prompt": "own"}, {"keys": [key]}, prompt="all").resolved()
    assert [(s.prompt, s.keys) for s in made.segments] == [("all", ()), ("own", ()), (None, (key,))]
    assert timeline(9, {}, keys=[key]).resolved().segments[0].keys == (key,)


cuts = st.lists(st.booleans(), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.integers(12, 200), cuts, st.booleans(), st.integers(1, 32))
def test_every_frame_is_covered_with_shares_that_add_up_to_one(
    frames: int, given_ends: list[bool], loop: bool, window: int
) -> None:
    count = len(given_ends)
    segments = [{"end": (k + 1) * (frames // count)} if asked and k < count - 1 else {}
                for k, asked in enumerate(given_ends)]  # fmt: skip
    made = timeline(frames, *segments, loop=loop, window=window).resolved()
    assert made.resolved() == made
    edges = [0, *(s.end for s in made.segments)]
    assert [s.start for s in made.segments] == edges[:-1]
    assert edges[-1] == frames
    counted = [travel.alphas(made, f) for f in range(frames)]
    assert all(math.isclose(sum(c.values()), 1) and min(c.values()) > 0 for c in counted)
    assert all(segment.fade == sum(c.get(k, 0) not in (0, 1) and c.get((k + 1) % count, 0) not in (0, 1)
                                   for c in counted)
               for k, segment in enumerate(made.segments) if count > 2)  # fmt: skip


def test_a_cross_fade_lies_around_its_border_and_goes_evenly() -> None:
    made = timeline(12, {"fade": 3}, {}).resolved()
    assert [travel.alphas(made, f).get(1, 0) for f in range(4, 9)] == [0, 0.25, 0.5, 0.75, 1]


def test_a_loop_fades_over_its_end() -> None:
    made = timeline(8, {"fade": 0}, {"fade": 3}, loop=True).resolved()
    assert [travel.alphas(made, f).get(0, 0) for f in range(8)] == [.5, .75, 1, 1, 0, 0, 0, .25]  # fmt: skip


# ------------------------------------------------------------------------------------------------- the examples


@pytest.mark.parametrize("path", sorted((DOCS / "examples").glob("*.toml")), ids=lambda p: p.stem)
def test_the_examples_of_the_docs_are_right(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path)
    video(tmp_path / "holiday.mp4", 6)
    table, text = reading.read(tmp_path / path.name)
    made = reading.checked(table, reading.Script(str(path), text))
    assert check(made).frames == made.frames
    assert path.name in (DOCS / "clips.md").read_text()


def test_the_example_of_a_batch_is_right() -> None:
    batch = spread.rows(DOCS / "examples" / "styles.csv")
    found = list(spread.drafts({}, reading.Script(), Flags(), batch, []))
    made = [reading.checked(draft.table, draft.script).resolved() for draft in found]
    assert [[s.motion for s in m.segments] for m in made] == [["pan"], ["pan", "zoom"], ["drift"]]
    assert [m.output.quality for m in made] == [None, 16, None]
    assert spread.outputs(found, None, "{row}") == [Path("oil.mp4"), Path("pencil.mp4"), Path("mixed.mp4")]


# ------------------------------------------------------------------------------------------------- lines

BLOCKS: dict[str, dict[tuple[str | int, ...], int]] = {  # TOML, and the line in it of each place
    "{0} = 1\n": {(): 0},
    "# {0} = 1\n\n{0} = 2 # x\n": {(): 2},
    '{0} = """\na = 1\n[b]\n"""\n': {(): 0},
    "{0} = [\n  1, # [\n\n  2,\n]\n": {(): 0, (0,): 1, (1,): 3},
    "{0} = [ {{ a = 1 }},\n  {{ b = 2, c = [\n   3,\n  ] }},\n]\n": {(0, "a"): 0, (1, "b"): 1, (1, "c", 0): 2},
    "[{0}]\na = 1\n\n# x\nb.c = 2\n": {(): 0, ("a",): 1, ("b", "c"): 4},
    "[[{0}]]\na = 1\n[{0}.t]\nb = '''\n'''\n\n[[{0}]]\n": {(0, "a"): 1, (0, "t", "b"): 3, (1,): 6},
}  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=12))
def test_the_line_of_every_place_in_toml_is_found(blocks: list[str]) -> None:
    text, expected = "", {}
    for number, block in enumerate(sorted(blocks, key=lambda b: b.startswith("["))):  # tables come last
        begin = text.count("\n") + 1
        expected |= {(f"k{number}", *place): begin + line for place, line in BLOCKS[block].items()}
        text += block.format(f"k{number}")
    lines = TomlLines(text)
    assert {place: lines.line(place) for place in expected} == expected
    assert lines.line(("k0", "gone")) is None


def test_the_line_of_every_place_in_json_and_yaml_is_found() -> None:
    lines = NodeLines('{\n"a": [\n\t1,\n\t{"b":\n2}\n],\n"c": {"d": null}}')
    places = [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c", "d"), ("a", 2), ("a", "b"), ("x",)]
    assert [lines.line(place) for place in places] == [2, 3, 4, 4, 7, None, None, None]
    assert NodeLines("- a: 1\n\n- b:\n    - 2\n").line((1, "b", 0)) == 4


# ------------------------------------------------------------------------------------------------- prompt travel

KEYS = (Key(frame=0, prompt="a"), Key(frame=4, prompt="b"))


def test_a_prompt_travels_and_holds_after_its_last_key() -> None:
    assert travel.shares(KEYS, 6, loop=False) == [("a", "b", 0.0), ("a", "b", 0.25), ("a", "b", 0.5), ("a", "b", 0.75),
                                                  ("b", "b", 0.0), ("b", "b", 0.0)]  # fmt: skip


def test_in_a_loop_a_prompt_travels_back_to_its_first_key() -> None:
    assert travel.shares(KEYS, 6, loop=True)[4:] == [("b", "a", 0.0), ("b", "a", 0.5)]


def embed(prompt: str) -> Text:
    generator = torch.Generator().manual_seed(sum(map(ord, prompt)))
    return Text(torch.randn(1, 3, 8, generator=generator), torch.randn(1, 5, generator=generator))


def test_frames_get_rows_of_their_own() -> None:
    made = timeline(8, keys=KEYS).resolved()
    a, b = embed("a"), embed("b")
    rows = travel.texts(made, range(8), embed)
    assert rows.tokens.shape == (8, 3, 8)
    assert torch.equal(rows.tokens[:1], a.tokens)
    assert torch.allclose(rows.tokens[1:2], a.tokens * 0.75 + b.tokens * 0.25)
    assert torch.equal(rows.tokens[5:6], b.tokens)
    assert rows.pooled is not None
    assert b.pooled is not None
    assert torch.equal(rows.pooled[7:], b.pooled)


def test_prompts_of_segments_blend_as_their_motions_do() -> None:
    made = timeline(12, {"fade": 3, "prompt": "a"}, {"prompt": "b"}).resolved()
    a, b = embed("a").tokens, embed("b").tokens
    for frame, part in ((0, 0.0), (5, 0.25), (6, 0.5), (7, 0.75), (11, 1.0)):
        assert torch.allclose(travel.text(made, frame, embed).tokens, a * (1 - part) + b * part, atol=1e-6)


def test_segments_with_the_same_prompt_are_bit_for_bit_that_prompt() -> None:
    made = timeline(12, {"fade": 3}, {}, prompt="a", loop=True).resolved()
    assert all(travel.text(made, f, embed).tokens.equal(embed("a").tokens) for f in range(12))


def test_in_a_loop_the_keys_of_a_segment_hold_across_the_end() -> None:
    made = timeline(12, {"keys": KEYS}, {"prompt": "c", "fade": 4}, loop=True).resolved()
    a, c = embed("a").tokens, embed("c").tokens
    assert torch.allclose(travel.text(made, 11, embed).tokens, a * 0.4 + c * 0.6, atol=1e-6)
    assert torch.allclose(travel.text(made, 0, embed).tokens, a * 0.6 + c * 0.4, atol=1e-6)


def test_the_arc_keeps_lengths_and_angles() -> None:
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    for part in (0.0, 0.2, 0.5, 1.0):
        angle = part * math.pi / 2
        expected = torch.tensor([[3 * math.cos(angle), 3 * math.sin(angle)]])
        assert torch.allclose(travel.slerp(a, b, part), expected, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_vectors_that_are_all_but_parallel_go_straight(sign: int) -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[sign * 2.0, 1e-3], [1.0, 1.0]])
    made = travel.slerp(a, b, 0.25)
    assert torch.allclose(made[0], a[0] * 0.75 + b[0] * 0.25)
    assert not torch.allclose(made[1], a[1] * 0.75 + b[1] * 0.25)


def test_the_travel_that_is_asked_for_is_taken() -> None:
    straight, arc = (travel.text(timeline(8, keys=KEYS, travel=way).resolved(), 2, embed) for way in ("lerp", "slerp"))
    assert torch.allclose(straight.tokens, (embed("a").tokens + embed("b").tokens) / 2)
    assert torch.allclose(arc.tokens, travel.slerp(embed("a").tokens, embed("b").tokens, 0.5))
    assert not torch.allclose(straight.tokens, arc.tokens)
