"""The mark survives what happens to a picture on its way, and a damaged one is never misread."""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.frame import Image
from tools.barcode import PATCHES, Mark, draw, film, patches, read, scene, write_y4m

MARK = Mark(0xA53C, 9)


def marked(width: int = 512, height: int = 512, mark: Mark = MARK) -> Image:
    image = scene(width, height)
    draw(image, mark)
    return image


def through(codec: str, image: Image, bitrate: int) -> Image:
    """The picture after a codec at a low bitrate."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream(codec, rate=30)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", bitrate
        for _ in range(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    out.seek(0)
    with av.open(out) as file:
        return [f.to_ndarray(format="rgb24") for f in file.decode(video=0)][-1]


@given(st.integers(0, 0xFFFF), st.integers(0, 15))
def test_every_mark_is_read_as_it_was_drawn(counter: int, source: int) -> None:
    assert read(marked(96, 64, Mark(counter, source))) == Mark(counter, source)


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (512, 512), (640, 480), (360, 640)])
def test_it_is_read_in_any_size(size: tuple[int, int]) -> None:
    assert read(marked(*size)) == MARK


@pytest.mark.parametrize("side", [64, 100, 256, 700])
def test_it_survives_scaling_and_the_cut_to_a_square(side: int) -> None:
    cut = marked(640, 480)[:, 80:560]
    assert read(cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)) == MARK


@pytest.mark.parametrize("codec", ["libx264", "libvpx"])
def test_it_survives_codecs_at_a_low_bitrate(codec: str) -> None:
    assert read(through(codec, marked(), 200_000)) == MARK


def test_it_survives_blur_noise_and_a_flat_contrast() -> None:
    image = cv2.GaussianBlur(marked(256, 256), (0, 0), 4).astype(float) * 0.4 + 60
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    assert read(np.clip(image + noise, 0, 255).astype(np.uint8)) == MARK


@pytest.mark.parametrize("spoil", [lambda i: i[:, ::-1], lambda i: i[::-1], lambda i: 255 - i, lambda i: i // 20])
def test_mirrored_turned_inverted_or_dark_pictures_are_not_read(spoil: object) -> None:
    assert read(spoil(marked())) is None  # type: ignore[operator]


def test_a_wrong_block_is_noticed() -> None:
    for mine in range(28):
        cells = Mark(1234, 5).cells.copy().reshape(-1)
        data = [c for c in range(32) if c not in (0, 7, 24, 31)]
        cells[data[mine]] ^= True
        image = scene(256, 256)
        draw(image, type("Spoilt", (), {"cells": cells})())  # type: ignore[arg-type]
        assert read(image) is None


def test_random_pictures_hold_no_mark() -> None:
    rng = np.random.default_rng(0)
    assert all(read(rng.integers(0, 256, (32, 32, 3), np.uint8)) is None for _ in range(200))
    assert read(np.zeros((64, 64, 3), np.uint8)) is None


@pytest.mark.parametrize("wrong", [{"counter": 65536}, {"counter": -1}, {"counter": 0, "source": 16}])
def test_marks_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="does not fit its"):
        Mark(**wrong)


def test_the_patches_are_where_they_are_read() -> None:
    assert np.abs(patches(marked(640, 480)) - np.array(PATCHES)).max() == 0


def test_the_film_counts(tmp_path: Path) -> None:
    images = list(film((64, 64), 5, source=3))
    assert [read(i) for i in images] == [Mark(k, 3) for k in range(5)]
    assert any((images[0] != images[1]).any(axis=(0, 2)))


def test_the_camera_file_is_read_by_ffmpeg_and_keeps_marks_and_colours(tmp_path: Path) -> None:
    path = write_y4m(tmp_path / "camera.y4m", (96, 64), seconds=0.2, source=2)
    assert path.read_bytes().startswith(b"YUV4MPEG2 W96 H64 F30:1 Ip A1:1 C420\nFRAME\n")
    with av.open(str(path)) as file:
        images = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    assert [read(i) for i in images] == [Mark(k, 2) for k in range(6)]
    big = write_y4m(tmp_path / "big.y4m", (512, 512), seconds=0.04)
    with av.open(str(big)) as file:
        image = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(patches(image) - np.array(PATCHES)).max() < 6


def test_a_counter_that_would_wrap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="counter 65536"):
        write_y4m(tmp_path / "x.y4m", (16, 16), seconds=65537 / 30)
