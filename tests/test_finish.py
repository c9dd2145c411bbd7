"""What is done to pictures after they are rendered: more of them, larger ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from clip_rig import drawing, drawn
from safetensors.torch import save_file
from torch import nn

from stream.clips.backend import Watch
from stream.clips.finish import Finish, Moving, between, upscaler
from stream.clips.make import Keep, make
from stream.clips.timeline import Output, Timeline
from stream.errors import ClipError
from stream.frame import Image

RATE = Fraction(24000, 1001)


def disc(image: Image) -> tuple[float, float]:
    """Where the drawing's disc is."""
    red, green, blue = (image[..., k].astype(int) for k in range(3))
    y, x = np.nonzero((red > 200) & (green > 150) & (blue < 120))
    return float(x.mean()), float(y.mean())


def distance(one: Image, other: Image) -> float:
    return float(np.hypot(*np.subtract(disc(one), disc(other))))


# ------------------------------------------------------------------------------------------------- interpolation


@pytest.mark.parametrize(("count", "times", "loop"), [(16, 2, False), (16, 3, True), (1, 2, False), (1, 8, True),
                                                      (2, 2, True), (3, 4, False), (5, 3, True)])  # fmt: skip
def test_every_picture_stays_and_gets_company(count: int, times: int, loop: bool) -> None:
    given = [drawing(i) for i in range(count)]
    made = list(between(iter(given), times, RATE, loop))
    assert len(made) == count * times
    assert all(np.array_equal(made[i * times], given[i]) for i in range(count))


def test_what_moves_is_on_its_way() -> None:
    made = list(between((drawing(i) for i in range(16)), 2, RATE, loop=True))
    shares = []
    for index in range(16):  # the last one on its way to the first
        before, middle, after = (made[(2 * index + k) % 32] for k in range(3))
        shares.append(distance(before, middle) / (distance(before, middle) + distance(middle, after)))
    assert np.median(shares) == pytest.approx(0.5, abs=0.1)
    assert all(0.15 < share < 0.85 for share in (shares[0], shares[-1]))


def test_the_last_picture_of_no_loop_stands_still() -> None:
    made = list(between((drawing(i) for i in range(6)), 2, RATE, loop=False))
    assert np.abs(made[11].astype(int) - made[10]).mean() < 2


def test_pictures_come_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def given() -> Iterator[Image]:
        nonlocal read
        for index in range(200):
            read += 1
            yield drawing(index, (32, 32))

    made = between(given(), 2, RATE, loop=False)
    for index in range(100):
        next(made)
        assert read <= index / 2 + 5
    assert len(list(made)) == 300
    assert isinstance(Moving((32, 32, 3), 2, RATE), Moving)


# ------------------------------------------------------------------------------------------------- upscaling


def test_lanczos_keeps_what_is_there() -> None:
    small = drawing(3)
    large = next(Finish(Output(upscale=3)).run(iter([small]), RATE, False))
    assert large.shape == (192, 288, 3)
    assert np.abs(large[1::3, 1::3].astype(int) - small).mean() < 1
    assert np.array_equal(next(Finish(Output()).run(iter([small]), RATE, False)), small)


class Fake(nn.Module):
    """What spandrel gives: doubles a picture, whose green it inverts."""

    scale, input_channels, output_channels = 2, 3, 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        x = torch.stack([x[:, 0], 1.1 - x[:, 1], x[:, 2]], dim=1)
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Unknown(Exception):
    pass


def spandrel(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    """A stand-in: whoever installs the extra gets the tests below too."""

    def load(weights: Path) -> Any:
        if isinstance(model, Exception):
            raise model
        return model

    there = SimpleNamespace(ModelLoader=lambda device: SimpleNamespace(load_from_file=load),
                            UnsupportedModelError=Unknown, ImageModelDescriptor=Fake)  # fmt: skip
    monkeypatch.setitem(sys.modules, "spandrel", there)


def test_weights_of_ones_own_enlarge(monkeypatch: pytest.MonkeyPatch) -> None:
    spandrel(monkeypatch, Fake())
    small = drawing(3)
    large = upscaler(Path("any.pth"), 2)(small)
    assert large.shape == (128, 192, 3)
    assert np.array_equal(large[::2, ::2, 0], small[..., 0])
    assert np.abs(large[1::2, 1::2, 1].astype(int) - np.minimum(280.5 - small[..., 1], 255)).max() <= 1


@pytest.mark.parametrize(
    ("model", "times", "said"),
    [(Fake(), 4, "enlarges by 2, not 4: use upscale = 2"), (Unknown(), 2, "cannot be loaded"),
     (OSError(2, "No such file"), 2, "cannot be loaded.*No such file"), (nn.Identity(), 2, "wants more than")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_told(monkeypatch: pytest.MonkeyPatch, model: Any, times: int, said: str) -> None:
    spandrel(monkeypatch, model)
    with pytest.raises(ClipError, match=said) as told:
        upscaler(Path("any.pth"), times)
    assert told.value.at == ("output", "upscaler")


def test_without_spandrel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ClipError, match=r"pip install livebrush\[upscale\]"):
        upscaler(Path("any.pth"), 2)


def works() -> bool:
    try:
        import spandrel  # noqa: F401
    except (ImportError, RuntimeError):  # the latter where torchvision belongs to another torch
        return False
    return True


@pytest.mark.skipif(not works(), reason="needs the extra `upscale`")
def test_spandrel_itself(tmp_path: Path) -> None:
    from spandrel.architectures.ESRGAN import ESRGAN

    network = ESRGAN(in_nc=3, out_nc=3, num_filters=4, num_blocks=1, scale=2)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    large = [upscaler(tmp_path / name, 2)(drawing(1)) for name in ("a.pth", "a.safetensors")]
    assert large[0].shape == (128, 192, 3)
    assert np.array_equal(*large)
    for name in ("b.pth", "b.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ClipError, match="cannot be loaded"):
            upscaler(tmp_path / name, 2)


# ------------------------------------------------------------------------------------------------- in a clip


def test_a_clip_is_finished_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn(monkeypatch)
    timeline = Timeline(backend="drawn", frames=8, fps="24000/1001", output={"interpolate": 2, "upscale": 2}, loop=True)
    made = [make(timeline, tmp_path / f"{i}.mp4", tmp_path / f"job{i}", Watch(), keep=Keep()) for i in (0, 1)]
    assert made[0].sha256 == made[1].sha256
    assert (made[0].frames, made[0].width, made[0].height, made[0].fps) == (16, 192, 128, RATE * 2)
    with av.open(str(tmp_path / "0.mp4")) as file:
        assert file.streams.video[0].average_rate == RATE * 2
        assert len(list(file.decode(video=0))) == 16
