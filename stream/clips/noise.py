"""The noise that a clip begins with, in slices of frames, on the CPU: so that it is the same wherever it is painted.

Warped noise is one canvas of noise that moves as the picture should: motion is then in the noise itself, and the
network only has to follow (Burgert et al., Go-with-the-Flow, arXiv 2501.08331; Chang et al., How I Warped Your Noise,
ICLR 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.clips.timeline import Camera, NoiseKind

FINE = 4  # cells of the canvas in one latent cell, a side: flow moves it by quarters of a latent cell
Field = Callable[[int], Camera | Tensor]  # how frame f differs from the one before: all cameras, or all flows
Shape = tuple[int, int, int, int, int]  # (1, channels, frames, height, width) of latents


def draw(kind: NoiseKind, shape: Shape, seed: int, window: int, overlap: int, field: Field | None = None,
         loop: bool = False, flows: bool = False) -> Tensor:  # fmt: skip
    """All frames at once, `shape`; the same values as `slices`."""
    return torch.cat(list(slices(kind, shape, seed, window, overlap, field, loop, flows)), 2)


def slices(kind: NoiseKind, shape: Shape, seed: int, window: int, overlap: int, field: Field | None = None,
           loop: bool = False, flows: bool = False) -> Iterator[Tensor]:  # fmt: skip
    """The noise in order, `(1, channels, up to window, height, width)` at a time, float32, standard normal.

    Every kind but warped begins with what `torch.Generator(seed)` draws for the first window, as diffusers does. With
    `loop` warped noise comes back to where it began. Warped noise needs a `field`, of cameras or (`flows`) of flows;
    `auto` is warped where there is one, else fresh.
    """
    kind = ("fresh" if field is None else "warped") if kind == "auto" else kind
    frames = shape[2]
    if kind == "warped":
        assert field is not None, "warped noise needs a field"
        moved = warped(shape, seed, field, window if loop else 0, flows)
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


def warped(shape: Shape, seed: int, field: Field, joint: int = 0, flows: bool = False) -> Iterator[Tensor]:
    """Frames `(channels, h, w)` of a moving canvas. Without a joint each frame but 0 is asked of `field` once, in
    order. With a `joint` of so many frames (less than the clip has) the last ones turn into those that lead to the
    first, so that the clip closes; its variance stays 1."""
    _, channels, frames, height, width = shape
    joint = min(joint, frames // 2)
    canvas: Any = (FlowCanvas if flows else CameraCanvas)(channels, height, width, seed)
    lead = [canvas.frame()]
    lead += [canvas.move(field((f - joint) % frames)) for f in range(1, joint + 1)]
    yield lead.pop()
    for f in range(1, frames):
        frame = canvas.move(field(f))
        place = f - (frames - joint)
        if place >= 0:
            angle = math.pi / 2 * (place + 1) / (joint + 1)
            frame = _between(frame, lead[place], angle)
        yield frame


def _between(a: Tensor, b: Tensor, angle: float) -> Tensor:
    """From noise `a` to noise `b` on the circle, of variance 1 also where they are alike (the camera has come back)."""
    cos, sin = math.cos(angle), math.sin(angle)
    alike = float((a * b).mean())
    return (cos * a + sin * b) / math.sqrt(1 + 2 * cos * sin * alike)


class CameraCanvas:
    """White Gaussian noise on an endless plane, seen by a camera.

    The plane is a lattice of independent values, two to four in the width of a latent cell. A frame is its low band:
    each value falls where the camera sees it, on a grid `FINE` times finer than latents, of which the lowest
    frequencies are kept, so that there is no grain that comes and goes as it moves by parts of a cell. Frames are white
    whatever the camera does, since the band is the frame's own. Coming close, each value is divided into four of the
    same sum; going away, four are joined; what was not seen before is fresh.
    """

    def __init__(self, channels: int, height: int, width: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._size = (height, width)
        self._sees = np.eye(3)  # the plane's places to the frame's, in latent cells
        self._pitch = 1 / 3  # of the lattice
        self._origin = np.array([-self._reach, -self._reach], float)
        sides = [int(np.ceil((side + 2 * self._reach) / self._pitch)) for side in (height, width)]
        self._values = self._draw(channels, *sides)

    _reach = 6  # latent cells round the frame, so that its edges know what lies beyond

    def frame(self) -> Tensor:
        """The noise as it is now, `(channels, height, width)`."""
        h, w = self._size
        m = self._reach - 1
        grid = torch.zeros(len(self._values), (h + 2 * m) * FINE, (w + 2 * m) * FINE)
        place = (self._seen() + m + 0.5) * FINE - 0.5  # in cells of the grid
        _splat(grid, self._values, place)
        area = (self._pitch**2) * np.linalg.det(self._sees[:2, :2])
        return _low_band(grid, splatted=True)[:, m : m + h, m : m + w] * (FINE * math.sqrt(area))

    def move(self, camera: Camera) -> Tensor:
        """One frame on."""
        self._sees = camera_matrix(camera, *self._size) @ self._sees
        pitch = self._pitch * math.sqrt(np.linalg.det(self._sees[:2, :2]))
        if pitch > 0.5:
            self._divide()
        elif pitch < 0.25:
            self._join()
        self._cover()
        return self.frame()

    def _seen(self) -> Tensor:
        """Where every value falls, in latent cells of the frame, `(2, rows, columns)`: right, down."""
        _, rows, columns = self._values.shape
        y, x = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
        plane = torch.stack([x, y]) * self._pitch + torch.from_numpy(self._origin)[:, None, None]
        sees = torch.from_numpy(self._sees)
        return (torch.einsum("ij,jyx->iyx", sees[:2, :2], plane) + sees[:2, 2, None, None]).float()

    def _cover(self) -> None:
        """Fresh values where the camera came to, none where it left."""
        h, w = self._size
        m = self._reach
        corners = np.array([[x, y, 1] for x in (-m, w - 1 + m) for y in (-m, h - 1 + m)], float).T
        plane = (np.linalg.inv(self._sees) @ corners)[:2]
        first = np.floor((plane.min(1) - self._origin) / self._pitch).astype(int)
        last = np.ceil((plane.max(1) - self._origin) / self._pitch).astype(int)
        (left, top), (right, bottom) = first, last
        kept = self._values[:, max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)]
        made = self._draw(len(kept), int(bottom - top + 1), int(right - left + 1))
        y, x = max(-top, 0), max(-left, 0)
        made[:, y : y + kept.shape[1], x : x + kept.shape[2]] = kept
        self._values, self._origin = made, self._origin + first * self._pitch

    def _divide(self) -> None:
        c, rows, columns = self._values.shape
        fresh = self._draw(c * rows, columns * 2, 2).view(c, rows, 2, columns, 2)
        fresh = fresh - fresh.mean((2, 4), keepdim=True)
        self._values = (self._values[:, :, None, :, None] / 2 + fresh).view(c, rows * 2, columns * 2)
        self._origin = self._origin - self._pitch / 4
        self._pitch /= 2

    def _join(self) -> None:
        c, rows, columns = (n - n % 2 if i else n for i, n in enumerate(self._values.shape))
        even = self._values[:, :rows, :columns]
        self._values = even.view(c, rows // 2, 2, columns // 2, 2).sum((2, 4)) / 2
        self._origin = self._origin + self._pitch / 2
        self._pitch *= 2

    def _draw(self, channels: int, rows: int, columns: int) -> Tensor:
        return torch.randn((channels, rows, columns), generator=self._generator)


class FlowCanvas:
    """White Gaussian noise that moves with the optical flow of a video, and stays white and Gaussian whatever that is.

    It is held `FINE` times finer than latents. Every fine cell holds a value and how far its bearer stands from the
    cell's middle, so that small motions add up. Where one cell becomes n, each gets its value over sqrt(n) and fresh
    noise of mean 0 among them: n values of variance 1, all uncorrelated. What enters the picture is fresh. A frame is
    the low band of it.
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
        return _low_band(self._values)

    def move(self, flow: Tensor) -> Tensor:
        """One frame on: `(2, height, width)` says how many latent cells (right, down) what is seen at each place has
        come since the frame before."""
        came = torch.nn.functional.interpolate(flow[None].float(), size=self._size, mode="bilinear")[0] * FINE
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


def _splat(grid: Tensor, values: Tensor, place: Tensor) -> None:
    """Adds values `(c, ...)` to a grid `(c, h, w)`, each shared by the four cells round its place `(2, ...)`."""
    c, h, w = grid.shape
    low = place.floor()
    far = (place - low).flatten(1)
    x, y = low.long().flatten(1)
    for dx in (0, 1):
        for dy in (0, 1):
            share = (far[0] if dx else 1 - far[0]) * (far[1] if dy else 1 - far[1])
            inside = (x + dx >= 0) & (x + dx < w) & (y + dy >= 0) & (y + dy < h)
            at = (y + dy) * w + x + dx
            grid.view(c, -1).index_add_(1, at[inside], (values.flatten(1) * share)[:, inside])


def _low_band(grid: Tensor, splatted: bool = False) -> Tensor:
    """White noise `(c, FINE h, FINE w)` to the white noise `(c, h, w)` of its lowest frequencies, sampled in the middle
    of each FINE x FINE cells; `splatted` undoes what sharing among four cells took of them."""
    h, w = (side // FINE for side in grid.shape[1:])
    rows, columns = _low(h)[:, None] / h, _low(w) / w  # turns a latent cell
    wave = torch.fft.fft2(grid, norm="ortho")[:, _low(h)][:, :, _low(w)]
    wave = wave * torch.exp(2j * math.pi * (FINE - 1) / 2 / FINE * (rows + columns))
    if splatted:
        wave = wave / (torch.sinc(rows / FINE) * torch.sinc(columns / FINE)).square()
    halved = (rows.abs() == 0.5) | (columns.abs() == 0.5)  # the real part keeps half of these
    low: Tensor = torch.fft.ifft2(torch.where(halved, wave * math.sqrt(2), wave), norm="ortho").real
    return low


def _low(count: int) -> Tensor:
    """The lowest `count` frequencies, as indices into a longer transform."""
    return torch.cat([torch.arange((count + 1) // 2), torch.arange(-(count // 2), 0)])


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
