"""Pictures of any size, made to fit."""

from __future__ import annotations

import numpy as np
import pytest

from stream.preprocess import fitted


def halves(w: int, h: int) -> np.ndarray:
    image = np.zeros((h, w, 3), np.uint8)
    image[:, : w // 2], image[:, w // 2 :] = (255, 0, 0), (0, 0, 255)
    return image


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (333, 221), (221, 333), (4000, 10), (640, 360)])
def test_every_size_fits(size: tuple[int, int], fit: str) -> None:
    out = fitted(halves(*size), 96, 64, fit)
    assert out.shape == (64, 96, 3)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


def test_the_right_size_is_not_copied() -> None:
    image = halves(96, 64)
    assert fitted(image, 96, 64) is image


def test_crop_keeps_the_middle_and_the_shapes() -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    assert (fitted(image, 64, 64) == 255).all()


def test_pad_keeps_everything() -> None:
    out = fitted(np.full((100, 300, 3), 255, np.uint8), 96, 96, "pad")
    assert (out[32:64] == 255).all()
    assert not out[:31].any()
    assert not out[65:].any()


def test_stretch_keeps_both_ends() -> None:
    out = fitted(halves(300, 100), 64, 64, "stretch")
    assert out[:, 0].tolist() == [[255, 0, 0]] * 64
    assert out[:, -1].tolist() == [[0, 0, 255]] * 64


def test_shrinking_averages() -> None:
    checks = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert abs(int(fitted(checks, 32, 32).mean()) - 127) <= 1
