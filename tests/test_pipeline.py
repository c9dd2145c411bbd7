"""The whole way of a frame, on the built-in model and on the echo model."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch

from engines import choose
from stream.config import spec
from stream.errors import SettingsError
from stream.fakes import EchoModel
from stream.frame import Frame, Image
from stream.models import Model, load
from stream.pipeline import Painter
from stream.settings import Settings
from stream.sources.testcard import CardSource

SETTINGS = Settings.checked(width=64, height=64, strength=0.33)


@cache
def builtin(backend: str = "torch") -> Model:
    return load(spec("builtin"), choose(backend, "cpu", "f32"))


def card(count: int, size: int = 64) -> list[Frame]:
    return list(CardSource(count, (size, size)))


def seconds(frames: list[Frame]) -> list[float]:
    return [f.seconds for f in frames]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_every_frame_comes_out_once_in_order_with_its_clock(steps: int) -> None:
    painter = Painter(EchoModel())
    session = painter.open(SETTINGS.changed(steps=steps))
    frames = [Frame(f.image, 1000 + 7 * i * i, Fraction(1, 90_000), float(i)) for i, f in enumerate(card(6))]
    painted = [p for f in frames for p in painter.paint(session, [f])] + painter.flush(session)
    assert session.delay == steps - 1
    own = [p.frame for p in painted if not p.primed]
    assert [(f.pts, f.time_base, f.captured_at) for f in own] == [(f.pts, f.time_base, f.captured_at) for f in frames]
    for ours, theirs in zip(own, frames, strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1


def test_a_tick_always_shows_something_from_the_first_on() -> None:
    painter = Painter(EchoModel())
    session = painter.open(SETTINGS.changed(steps=4))
    for i, frame in enumerate(card(8)):
        shown = painter.paint(session, [frame])
        assert len(shown) == 1
        assert shown[0].primed == (i < 3)


def test_painted_pictures_are_the_callers_own() -> None:
    painter = Painter(builtin())
    session = painter.open(SETTINGS)
    frames = card(4)
    first = painter.paint(session, [frames[0]])[0].frame.image
    kept = first.copy()
    for frame in frames[1:]:
        painter.paint(session, [frame])
    assert np.array_equal(first, kept)


def test_a_still_input_gives_a_still_picture() -> None:
    painter = Painter(builtin())
    session = painter.open(SETTINGS.changed(prompt="watercolor painting", steps=2))
    image = card(1)[0].image
    painted = [p.frame.image for i in range(5) for p in painter.paint(session, [Frame(image, i)])]
    assert all(np.abs(p.astype(int) - painted[2]).max() <= 1 for p in painted[2:])


def test_a_prompt_changes_frames_that_enter_and_none_in_flight() -> None:
    def run(change: bool) -> list[Image]:
        painter, out = Painter(builtin()), []
        session = painter.open(SETTINGS.changed(prompt="sepia photograph", steps=3))
        for i, frame in enumerate(card(7)):
            if change and i == 4:
                session.apply(session.settings.changed(prompt="night vision"))
            out += painter.paint(session, [frame])
        return [p.frame.image for p in out + painter.flush(session) if not p.primed]

    before, after = run(False), run(True)
    same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True] * 4 + [False] * 3


def test_a_wrong_change_keeps_the_old_settings() -> None:
    session = Painter(builtin()).open(SETTINGS)
    with pytest.raises(SettingsError, match="width 72 is not a multiple of 32: use 64 or 96"):
        session.apply(SETTINGS.changed(width=72))
    assert session.settings == SETTINGS


def test_the_size_changes_in_flight_without_a_gap() -> None:
    painter = Painter(EchoModel())
    session = painter.open(SETTINGS.changed(steps=3))
    sizes = []
    for i, frame in enumerate(card(9)):
        if i == 4:
            session.apply(session.settings.changed(width=96, height=128))
        shown = painter.paint(session, [frame])
        sizes += [p.frame.size for p in shown]
        assert shown
    assert sizes[4:] == [(64, 64)] * 2 + [(96, 128)] * 3
    assert [p.frame.size for p in painter.flush(session)] == [(96, 128)] * 2


def test_streams_together_are_what_they_are_alone_and_never_mix() -> None:
    prompts = ["watercolor painting", "neon lights", "thermal camera"]
    frames = card(6)

    def alone(i: int) -> list[Image]:
        painter = Painter(builtin())
        session = painter.open(SETTINGS.changed(prompt=prompts[i], seed=i, steps=1 + i))
        out = [p for f in frames for p in painter.paint(session, [f])] + painter.flush(session)
        return [p.frame.image for p in out]

    painter = Painter(builtin())
    sessions = [painter.open(SETTINGS.changed(prompt=p, seed=i, steps=1 + i)) for i, p in enumerate(prompts)]
    together: list[list[Image]] = [[], [], []]
    for frame in frames:
        for i, painted in enumerate(painter.tick({s: [frame] for s in sessions}).values()):
            together[i] += [p.frame.image for p in painted]
    for i, session in enumerate(sessions):
        together[i] += [p.frame.image for p in painter.flush(session)]
        for ours, theirs in zip(together[i], alone(i), strict=True):
            assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_many_streams_share_one_call_of_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = EchoModel()
    rows: list[int] = []
    monkeypatch.setattr(model, "denoise", lambda x, t, text: rows.append(len(x)) or x)
    painter = Painter(model)
    sessions = [painter.open(SETTINGS.changed(steps=2, seed=i)) for i in range(4)]
    for frame in card(3):
        painter.tick({s: [frame] for s in sessions})
    assert rows == [8, 8, 8]
    assert {k: len(v) for k, v in painter.stopwatch.ms.items()} == dict.fromkeys(
        ("preprocess", "encode", "denoise", "decode", "postprocess"), 3
    )


def test_skipped_frames_repeat_the_picture_in_their_place_and_cost_no_network() -> None:
    painter = Painter(EchoModel())
    session = painter.open(SETTINGS.changed(similarity=True, max_skip=3, steps=2))
    still = card(1)[0].image
    painted = [p for i in range(12) for p in painter.paint(session, [Frame(still, i)])] + painter.flush(session)
    own = [p for p in painted if not p.primed]
    assert [p.frame.pts for p in own] == list(range(12))
    assert [p.repeated for p in own] == [False, True, True, True] * 3
    assert len(painter.stopwatch.ms["encode"]) == 3
    assert all(np.array_equal(p.frame.image, own[0].frame.image) for p in own)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_skipped_frames_of_one_tick_stay_in_their_place(steps: int) -> None:
    painter = Painter(EchoModel())
    session = painter.open(SETTINGS.changed(similarity=True, max_skip=2, steps=steps))
    image = np.full((64, 64, 3), 90, np.uint8)
    out = [p for i in range(0, 24, 4) for p in painter.paint(session, [Frame(image, i + k) for k in range(4)])]
    out += painter.flush(session)
    shown = [p for p in out if not p.primed]
    assert [p.frame.pts for p in shown] == list(range(24))
    assert [p.repeated for p in shown] == [i % 3 != 0 for i in range(24)]


def test_a_changed_prompt_is_seen_at_once_while_the_filter_skips() -> None:
    painter = Painter(builtin())
    session = painter.open(SETTINGS.changed(similarity=True, max_skip=1000, prompt="sepia photograph"))
    still = card(1)[0].image
    before = [painter.paint(session, [Frame(still, i)])[0] for i in range(4)]
    assert [p.repeated for p in before] == [False, True, True, True]
    session.apply(session.settings.changed(prompt="night vision"))
    now = painter.paint(session, [Frame(still, 4)])[0]
    assert not now.repeated
    assert not np.array_equal(now.frame.image, before[-1].frame.image)


def test_text_mode_needs_no_picture_and_drifts() -> None:
    painter = Painter(builtin())
    session = painter.open(SETTINGS.changed(mode="text", prompt="neon lights", drift=0.2))
    nothing = np.zeros((1, 1, 3), np.uint8)
    moving = [painter.paint(session, [Frame(nothing, i)])[0].frame.image for i in range(3)]
    session.apply(session.settings.changed(drift=0.0))
    painter.paint(session, [Frame(nothing, 3)])
    held = [painter.paint(session, [Frame(nothing, i)])[0].frame.image for i in (4, 5)]
    assert not np.array_equal(moving[0], moving[1])
    assert np.array_equal(held[0], held[1])
    assert moving[0].std() > 1


def test_several_frames_a_tick_leave_together() -> None:
    painter = Painter(EchoModel())
    session = painter.open(SETTINGS.changed(steps=2))
    frames = card(6)
    ticks = [painter.paint(session, frames[i : i + 3]) for i in (0, 3)] + [painter.flush(session)]
    assert [[p.frame.pts for p in t] for t in ticks] == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert [p.primed for t in ticks for p in t] == [True] * 3 + [False] * 6


def test_openvino_paints_what_torch_paints() -> None:
    outs = []
    for backend in ("torch", "openvino"):
        painter = Painter(builtin(backend))
        session = painter.open(SETTINGS.changed(prompt="watercolor painting", steps=2))
        outs.append([p.frame.image for f in card(4) for p in painter.paint(session, [f])])
    for ours, theirs in zip(*outs, strict=True):
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 4
        assert difference.mean() < 0.2


def test_closing_a_session_forgets_its_frames() -> None:
    painter = Painter(EchoModel())
    session = painter.open(SETTINGS.changed(steps=4))
    painter.paint(session, card(1))
    painter.close(session)
    assert painter.flush(session) == []


def test_rows_in_flight_stay_off_the_graph() -> None:
    painter = Painter(builtin())
    session = painter.open(SETTINGS.changed(steps=2))
    painter.paint(session, card(1))
    rows = [r for lane in painter._batch._lanes.values() for r in lane]
    assert rows
    assert not any(isinstance(r.x, torch.nn.Parameter) or r.x.requires_grad for r in rows)
