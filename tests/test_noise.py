"""Noise: what diffusers would draw for one window, and a canvas that moves and stays white."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from stream.clips.noise import FlowCanvas, between, camera_matrix, draw, slices, warped
from stream.clips.timeline import Camera

SHAPE = (1, 4, 22, 6, 8)


def plain(seed: int, frames: int) -> Tensor:
    return torch.randn((1, 4, frames, 6, 8), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", [8, 5])
@pytest.mark.parametrize("kind", ["fresh", "repeat", "freenoise", "auto"])
def test_one_window_is_what_diffusers_draws(kind, frames: int) -> None:
    assert torch.equal(draw(kind, (1, 4, frames, 6, 8), 7, 8, 2), plain(7, frames))


def test_fresh_is_blocks_in_order() -> None:
    generator = torch.Generator().manual_seed(7)
    blocks = [torch.randn((1, 4, n, 6, 8), generator=generator) for n in (8, 8, 6)]
    assert torch.equal(draw("fresh", SHAPE, 7, 8, 2), torch.cat(blocks, 2))


@pytest.mark.parametrize("kind", ["fresh", "constant", "repeat", "freenoise", "warped"])
def test_slices_come_a_window_at_a_time(kind) -> None:
    parts = list(slices(kind, SHAPE, 7, 8, 2, lambda f: Camera(x=0.1)))
    assert [p.shape[2] for p in parts] == [8, 8, 6]
    assert torch.equal(torch.cat(parts, 2), draw(kind, SHAPE, 7, 8, 2, lambda f: Camera(x=0.1)))
    assert not torch.equal(parts[0], next(slices(kind, SHAPE, 8, 8, 2, lambda f: Camera(x=0.1))))


def test_constant_and_repeat() -> None:
    constant, repeat = draw("constant", SHAPE, 7, 8, 2), draw("repeat", SHAPE, 7, 8, 2)
    assert torch.equal(constant, constant[:, :, :1].expand_as(constant))
    assert torch.equal(repeat[:, :, 8:16], repeat[:, :, :8])
    assert torch.equal(repeat[:, :, 16:], repeat[:, :, :6])


@pytest.mark.parametrize("frames", [17, 22, 23, 40])
@pytest.mark.parametrize(("window", "overlap"), [(8, 2), (8, 0), (6, 5)])
def test_freenoise_shuffles_the_frames_before(frames: int, window: int, overlap: int) -> None:
    noise = draw("freenoise", (1, 4, frames, 6, 8), 7, window, overlap)[0].transpose(0, 1).flatten(1)
    stride = window - overlap
    for start in range(0, frames - window, stride):
        copied = noise[start + window : start + window + stride]
        same = torch.cdist(copied, noise[start : start + stride]) < 1e-3
        assert (same.sum(1) == 1).all()  # each is one of them, and none comes twice
        assert (same.sum(0) <= 1).all()
    assert noise.std() == pytest.approx(1, abs=0.03)


# ----------------------------------------------------------------------------------------------------- warped

CAMERAS = {
    "still": Camera(), "pan": Camera(x=0.013, y=-0.004), "in": Camera(zoom=1.04), "out": Camera(zoom=0.96),
    "turn": Camera(rotate=3), "all": Camera(x=0.02, zoom=1.03, rotate=-2), "leap": Camera(x=0.7, zoom=0.5, rotate=40),
}  # fmt: skip


def correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / (a.std() * b.std()))


def frames_of(camera: Camera, count: int, side: int = 48, seed: int = 3) -> Tensor:
    return torch.stack(list(warped((1, 4, count, side, side), seed, lambda f: camera)))


@pytest.mark.parametrize("name", CAMERAS)
def test_the_canvas_stays_white_and_gaussian(name: str) -> None:
    moved = frames_of(CAMERAS[name], 24, 64)[[8, 16, 23]]
    assert moved.mean().item() == pytest.approx(0, abs=0.03)
    assert moved.var().item() == pytest.approx(1, abs=0.03)
    assert moved.pow(4).mean().item() == pytest.approx(3, abs=0.25)
    for step in ((..., slice(1, None), slice(None)), (..., slice(None), slice(1, None))):
        back = tuple(slice(None, -1) if s == slice(1, None) else s for s in step)
        assert abs(correlation(moved[step], moved[back])) < 0.03
    assert abs(correlation(moved[:, 0], moved[:, 1])) < 0.04


def test_a_pan_by_whole_cells_is_exact() -> None:
    before, *_, after = frames_of(Camera(x=1 / 48, y=-1 / 48), 6)
    assert correlation(after[:, 4:-9, 9:-4], before[:, 9:-4, 4:-9]) > 0.99


def test_small_steps_add_up() -> None:
    before, *_, after = frames_of(Camera(x=0.1 / 48), 41)  # four cells, a tenth at a time
    assert correlation(after[:, :, 4:], before[:, :, :-4]) > 0.98


def test_a_camera_that_stands_changes_nothing() -> None:
    before, *_, after = frames_of(Camera(), 4)
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("camera", [Camera(zoom=1.02), Camera(zoom=0.98), Camera(rotate=1.5)])
def test_frames_are_the_same_noise_moved(camera: Camera) -> None:
    """What the first frame shows, moved and smoothed as pictures are, is what the last one shows."""
    first, *_, last = frames_of(camera, 9)
    matrix = np.linalg.matrix_power(camera_matrix(camera, 48, 48), 8)[:2]
    smooth = [cv2.GaussianBlur(x.permute(1, 2, 0).numpy(), None, 1.2) for x in (first, last)]
    moved = cv2.warpAffine(smooth[0], matrix, (48, 48), flags=cv2.INTER_CUBIC)
    inner = (slice(12, -12), slice(12, -12))
    assert correlation(torch.from_numpy(moved[inner]), torch.from_numpy(smooth[1][inner])) > 0.9


def test_flow_moves_the_canvas() -> None:
    flow = torch.stack([torch.full((12, 16), 2.0), torch.full((12, 16), -1.0)])
    canvas = FlowCanvas(4, 12, 16, 5)
    before, after = canvas.frame(), canvas.move(flow)
    assert correlation(after[:, 1:-4, 5:-1], before[:, 2:-3, 3:-3]) > 0.9
    slow = FlowCanvas(4, 12, 16, 5)
    for _ in range(10):
        last = slow.move(flow / 10)
    assert correlation(last[:, 1:-4, 5:-1], before[:, 2:-3, 3:-3]) > 0.9


def test_every_flow_is_asked_for_once_and_not_ahead() -> None:
    flows = {f: torch.zeros(2, 6, 8) for f in range(1, 22)}
    assert draw("warped", SHAPE, 7, 8, 2, flows.pop, flows=True).shape == SHAPE
    assert not flows
    flows = {f: torch.zeros(2, 6, 8) for f in range(1, 8)}
    assert next(slices("warped", SHAPE, 7, 8, 2, flows.pop, flows=True)).shape[2] == 8
    assert next(slices("warped", SHAPE, 7, 1, 0, {}.pop, flows=True)).shape[2] == 1


@pytest.mark.parametrize("size", [0.3, 3])
def test_any_flow_leaves_the_canvas_white(size: float) -> None:
    flow = torch.randn(2, 24, 24, generator=torch.Generator().manual_seed(1)) * size
    moved = torch.stack([list(warped((1, 4, 6, 24, 24), seed, lambda f: flow, flows=True))[-1] for seed in range(16)])
    assert moved.var().item() == pytest.approx(1, abs=0.03)
    assert abs(correlation(moved[..., 1:], moved[..., :-1])) < 0.03
    assert abs(correlation(moved[..., 1:, :], moved[..., :-1, :])) < 0.03


def test_a_loop_closes() -> None:
    camera = Camera(x=1 / 48)
    closed = list(slices("warped", (1, 4, 24, 48, 48), 3, 8, 4, lambda f: camera, loop=True))
    noise = torch.cat(closed, 2)[0].transpose(0, 1)
    steps = [correlation(noise[(f + 1) % 24][:, :, 1:], noise[f][:, :, :-1]) for f in range(24)]
    assert min(steps) > 0.95
    assert noise.var().item() == pytest.approx(1, abs=0.03)


def test_a_loop_whose_camera_comes_back_by_itself_is_as_loud_at_its_end() -> None:
    there_and_back = [Camera(x=1 / 48)] * 12 + [Camera(x=-1 / 48)] * 12
    made = list(slices("warped", (1, 4, 24, 48, 48), 3, 8, 4, lambda f: there_and_back[f], loop=True))
    assert torch.cat(made, 2)[0].transpose(0, 1).var((1, 2, 3)).tolist() == pytest.approx([1.0] * 24, abs=0.08)


def test_cameras() -> None:
    assert camera_matrix(Camera(x=0.1, y=0.2), 20, 40)[:2, 2] == pytest.approx([4, 8])
    turned = camera_matrix(Camera(rotate=90 / 2), 21, 41) @ [30, 10, 1]
    assert turned[:2] == pytest.approx([20 + 10 * math.cos(math.pi / 4), 10 + 10 * math.sin(math.pi / 4)])  # clockwise
    assert (camera_matrix(Camera(zoom=2), 21, 41) @ [30, 10, 1]).tolist() == pytest.approx([40, 10, 1])
    half = between(Camera(x=0.2, zoom=0.5), Camera(rotate=10, zoom=2), 0.5)
    assert (half.x, half.rotate, half.zoom) == pytest.approx((0.1, 5, 1))
