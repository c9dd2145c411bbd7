"""The measure of flicker, on videos whose motion and flicker are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from clip_rig import drawing

from stream.frame import Frame, Image
from stream.sinks.images import ImagesSink
from tools import flicker as module
from tools.flicker import flicker, flow, seen

SIZE = (160, 120)
STEP = 3  # pixels to the left, a frame


def scene() -> Image:
    """A soft texture, larger than a picture."""
    noise = np.random.default_rng(0).normal(size=(SIZE[1] + 40, SIZE[0] + 80, 3))
    soft = cv2.GaussianBlur(noise, (0, 0), 4)
    return cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


WIDE = scene()


def pan(frames: int = 8) -> list[Image]:
    """A camera that goes right."""
    return [WIDE[: SIZE[1], STEP * i : STEP * i + SIZE[0]] for i in range(frames)]


def flickering(frames: list[Image], levels: float) -> list[Image]:
    """Fresh noise on every picture, whose mean absolute value is `levels`."""
    chance = np.random.default_rng(1)
    grain = levels * np.sqrt(np.pi / 2)
    return [np.clip(f + chance.normal(0, grain, f.shape), 0, 255).astype(np.uint8) for f in frames]


def test_the_flow_is_that_of_the_pan() -> None:
    one, other = pan(2)
    found = flow(one, other)[10:-10, 20:-20]
    assert found[..., 0].mean() == pytest.approx(-STEP, abs=0.1)
    assert abs(found[..., 1]).mean() < 0.1


def test_motion_alone_is_no_flicker() -> None:
    found = flicker(pan(), pan())
    assert found.warp < 1 < found.raw / 5
    assert found.pairs == 7
    assert found.seen > 0.9


def test_flicker_is_measured_under_the_motion() -> None:
    still, some, much = (flicker(pan(), flickering(pan(), levels)).warp for levels in (0, 4, 8))
    assert some - still > 0.7 * (much - some) > 1.5
    # two pictures' noise, one of them softened by half a pixel at most
    assert 4 < some < 4 * np.sqrt(2) + still + 0.5


def test_a_painting_that_sticks_to_the_screen_is_flicker() -> None:
    """Strokes that do not go along with what they paint, although no picture differs much from the next."""
    stuck = [drawing(0, SIZE)] * 8
    found = flicker(pan(), stuck)
    assert found.raw == 0
    assert found.warp > 1


def test_what_appears_from_behind_does_not_count() -> None:
    """A card slides over a texture: at its edges one side is hidden in one of two pictures."""
    card = 255 - WIDE[:60, :50]
    frames = []
    for index in range(6):
        frame = WIDE[: SIZE[1], : SIZE[0]].copy()
        frame[30:90, 20 + 8 * index : 70 + 8 * index] = card
        frames.append(frame)
    forth, back = flow(frames[0], frames[1]), flow(frames[1], frames[0])
    mask = seen(forth, back)
    covered = mask[34:86, 71:77]  # hidden by the card in the second picture
    assert covered.mean() < 0.5 < 0.9 < mask[:, 110:].mean()
    assert flicker(frames, frames).warp < 3 < flicker(frames, frames).raw


def test_another_size_is_measured_as_it_is_painted() -> None:
    large = [cv2.resize(f, (320, 240), interpolation=cv2.INTER_CUBIC) for f in pan()]
    assert flicker(large, pan()).warp < 1.5


def test_one_picture_has_no_flicker() -> None:
    with pytest.raises(ValueError, match="two pictures"):
        flicker(pan(1), pan(1))


def test_files_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = []
    for name, frames in (("in", pan(3)), ("calm", pan(3)), ("wild", flickering(pan(3), 8))):
        with ImagesSink(tmp_path / name) as sink:
            for index, image in enumerate(frames):
                sink.write(Frame(image, index))
        names.append(str(tmp_path / name))
    monkeypatch.setattr("sys.argv", ["flicker", *names])
    module.main()
    calm, wild = capsys.readouterr().out.splitlines()
    assert float(calm.split("warp error ")[1].split(",")[0]) < float(wild.split("warp error ")[1].split(",")[0])
