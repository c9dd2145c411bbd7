"""The noise that a clip begins with, in slices of frames, on the CPU: so that it is the same wherever it is painted.

Warped noise is one canvas of noise that moves as the picture should: motion is then in the noise itself, and the
network only has to follow (Burgert et al., Go-with-the-Flow, arXiv 2501.08331; Chang et al., How I Warped Your Noise,
ICLR 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.clips.timeline import Camera, NoiseKind

FINE = 4  # cells of the canvas in one latent cell, a side: it moves by quarters of a latent cell
Field = Callable[[int], Camera | Tensor]  # how frame f differs from the one before: see `NoiseCanvas.move`
Shape = tuple[int, int, int, int, int]  # (1, channels, frames, height, width) of latents


def draw(kind: NoiseKind, shape: Shape, seed: int, window: int, overlap: int, field: Field | None = None,
         loop: bool = False) -> Tensor:  # fmt: skip
    """All frames at once, `shape`; the same values as `slices`."""
    return torch.cat(list(slices(kind, shape, seed, window, overlap, field, loop)), 2)


def slices(kind: NoiseKind, shape: Shape, seed: int, window: int, overlap: int, field: Field | None = None,
           loop: bool = False) -> Iterator[Tensor]:  # fmt: skip
    """The noise in order, `(1, channels, up to window, height, width)` at a time, float32, standard normal.

    Every kind but warped begins with what `torch.Generator(seed)` draws for the first window, as diffusers does. With
    `loop` warped noise comes back to where it began. Warped noise needs a `field`; `auto` is warped where there is one,
    else fresh.
    """
    kind = ("fresh" if field is None else "warped") if kind == "auto" else kind
    frames = shape[2]
    if kind == "warped":
        assert field is not None, "warped noise needs a field"
        moved = warped(shape, seed, field, 2 * overlap if loop else 0)
        for start in range(0, frames, window):
            yield torch.stack(list(islice(moved, min(window, frames - start))), 1)[None]
        return
    blocks = {"fresh": _fresh, "constant": _constant, "repeat": _repeat, "freenoise": _freenoise}[kind]
    made = blocks(shape, torch.Generator().manual_seed(seed), window, overlap)
    for start in range(0, frames, window):
        yield next(made)[:, :, : frames - start]


# ------------------------------------------------------------------------------------------------ plain kinds


def _block(shape: Shape, generator: torch.Generator, frames: int) -> Tensor:
    return torch.randn((1, shape[1], frames, *shape[3:]), generator=generator)


def _fresh(shape: Shape, generator: torch.Generator, window: int, _overlap: int) -> Iterator[Tensor]:
    """Every frame its own; the last block is drawn as short as it is, which is diffusers' noise for a short clip."""
    for start in range(0, shape[2], window):
        yield _block(shape, generator, min(window, shape[2] - start))


def _constant(shape: Shape, generator: torch.Generator, window: int, _overlap: int) -> Iterator[Tensor]:
    """The same in every frame."""
    one = _block(shape, generator, 1)
    while True:
        yield one.expand(-1, -1, window, -1, -1)


def _repeat(shape: Shape, generator: torch.Generator, window: int, _overlap: int) -> Iterator[Tensor]:
    """The first window's again and again (a repeated context)."""
    first = _block(shape, generator, min(window, shape[2]))
    while True:
        yield first


def _freenoise(shape: Shape, generator: torch.Generator, window: int, overlap: int) -> Iterator[Tensor]:
    """FreeNoise (arXiv 2310.15169): frames from `start + window` on are those from `start` on, `window - overlap` of
    them in another order, for every start a stride apart."""
    kept = _block(shape, generator, min(window, shape[2]))
    ready = kept
    stride = window - overlap
    while True:
        while ready.shape[2] < window and kept.shape[2] == window:
            chosen = kept[:, :, torch.randperm(stride, generator=generator)]
            kept = torch.cat([kept[:, :, stride:], chosen], 2)
            ready = torch.cat([ready, chosen], 2)
        yield ready[:, :, :window]
        ready = ready[:, :, window:]


# ----------------------------------------------------------------------------------------------------- warped


def warped(shape: Shape, seed: int, field: Field, joint: int = 0) -> Iterator[Tensor]:
    """Frames `(channels, h, w)` of a moving canvas. With a `joint` of so many frames (less than the clip has) the last
    ones turn into those that lead to the first, so that the clip closes; sums of squares of shares stay 1."""
    _, channels, frames, height, width = shape
    joint = min(joint, frames // 2)
    canvas = NoiseCanvas(channels, height, width, seed)
    lead = [canvas.frame()]
    lead += [canvas.move(field((f - joint) % frames)) for f in range(1, joint + 1)]
    yield lead.pop()
    for f in range(1, frames):
        frame = canvas.move(field(f))
        place = f - (frames - joint)
        if place >= 0:
            angle = math.pi / 2 * (place + 1) / (joint + 1)
            frame = math.cos(angle) * frame + math.sin(angle) * lead[place]
        yield frame


class NoiseCanvas:
    """White Gaussian noise that moves and stays white and Gaussian, whatever the motion.

    It is held `FINE` times finer than latents. Every fine cell holds a value and how far its bearer stands from the
    cell's middle, so that small motions add up. Where one cell becomes n, each gets its value over sqrt(n) and fresh
    noise of mean 0 among them: n values of variance 1, all uncorrelated. What enters the picture is fresh. The latent
    noise is the sum of FINE x FINE cells over FINE.
    """

    def __init__(self, channels: int, height: int, width: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._size = (height * FINE, width * FINE)
        self._values = torch.randn((channels, *self._size), generator=self._generator)
        self._stands = torch.zeros(2, *self._size)
        y, x = torch.meshgrid(torch.arange(self._size[0]), torch.arange(self._size[1]), indexing="ij")
        self._cells = torch.stack([x, y]).float()  # (2, h, w): right, down

    def frame(self) -> Tensor:
        """The noise as it is now, `(channels, height, width)`."""
        c, h, w = self._values.shape
        return self._values.view(c, h // FINE, FINE, w // FINE, FINE).sum((2, 4)) / FINE

    def move(self, by: Camera | Tensor) -> Tensor:
        """One frame on. `by` is a camera, or `(2, height, width)`: how many latent cells (right, down) what is seen at
        each place has come since the frame before."""
        came = camera_flow(by, *self._size) if isinstance(by, Camera) else _finer(by, self._size)
        self._take(came, self._sources(came))
        return self.frame()

    def _sources(self, came: Tensor) -> Tensor:
        """The cell that moves to each cell, `(2, h, w)` whole numbers, also outside."""
        h, w = self._size
        near = (self._cells - came).round().long()
        at = near[1].clamp(0, h - 1) * w + near[0].clamp(0, w - 1)
        stands = self._stands.flatten(1)[:, at.flatten()].view_as(self._stands)
        return (self._cells - came - stands).round().long()

    def _take(self, came: Tensor, source: Tensor) -> None:
        h, w = self._size
        inside = (source[0] >= 0) & (source[0] < w) & (source[1] >= 0) & (source[1] < h)
        at = (source[1].clamp(0, h - 1) * w + source[0].clamp(0, w - 1)).flatten()
        fresh = torch.randn(self._values.shape, generator=self._generator)
        takers = torch.bincount(at, weights=inside.flatten().double(), minlength=h * w).float()
        n = takers[at].clamp(min=1).view(h, w)
        sums = torch.zeros(len(fresh), h * w).index_add_(1, at, (fresh * inside).flatten(1))
        mean = sums[:, at].view_as(fresh) / n
        shared = self._values.flatten(1)[:, at].view_as(fresh) / n.sqrt() + (fresh - mean)
        stands = source + self._stands.flatten(1)[:, at].view_as(came) + came - self._cells
        self._values = torch.where(inside, shared, fresh)
        self._stands = torch.where(inside & (n == 1), stands, torch.zeros(()))


def camera_flow(camera: Camera, height: int, width: int) -> Tensor:
    """How far what is seen at each cell of a `height` x `width` grid has come, in cells: `(2, height, width)`."""
    back = torch.from_numpy(np.linalg.inv(camera_matrix(camera, height, width))).float()
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    here = torch.stack([x, y])
    return here - (torch.einsum("ij,jyx->iyx", back[:2, :2], here) + back[:2, 2, None, None])


def camera_matrix(camera: Camera, height: int, width: int) -> NDArray[np.float64]:
    """Where a camera takes what is seen at `(x, y, 1)` in one frame, for pictures of this size; matrices multiply."""
    angle = math.radians(camera.rotate)
    cos, sin = camera.zoom * math.cos(angle), camera.zoom * math.sin(angle)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    turn = np.array([[cos, -sin], [sin, cos]])  # y points down: a positive angle turns clockwise
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = middle - turn @ middle + np.array([camera.x, camera.y]) * width
    return matrix


def between(a: Camera, b: Camera, share: float) -> Camera:
    """The camera on the way from `a` to `b`."""
    ways = {name: getattr(a, name) * (1 - share) + getattr(b, name) * share for name in ("x", "y", "rotate")}
    return Camera(**ways, zoom=a.zoom ** (1 - share) * b.zoom**share)


def _finer(flow: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(flow[None].float(), size=size, mode="bilinear")[0] * FINE
