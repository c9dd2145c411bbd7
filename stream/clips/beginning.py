"""What a clip starts from: noise, and the pictures of an input, block by block.

A still input becomes a video: the camera moves over it, mirrored at its edges. Of a video the optical flow moves the
noise, so that what is painted moves as the input does (Go-with-the-Flow, arXiv 2501.08331).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.clips.latents import Shape
from stream.clips.noise import camera_matrix
from stream.clips.timeline import Camera
from stream.clips.windows import Window
from stream.errors import ClipError
from stream.frame import Frame, Image
from stream.preprocess import fitted
from stream.sources import PICTURES, kind_of, open_source

Begun = tuple[Tensor, Tensor | None]  # noise of a block, and its input's latents
Encode = Callable[[Sequence[Image]], Tensor]  # pictures to latents (1, C, frames, h, w)
RESTS = 0.5  # cells a frame: the noise of what moves less than that is steadier at rest
FINER = 2  # a still picture is kept so many times finer than the clip, for a camera that comes nearer


def fresh(generator: torch.Generator, shape: Shape, blocks: Sequence[Window], rows: bool = False) -> Iterator[Tensor]:
    """Noise of its own for every frame, drawn block by block as diffusers draws it for one window: by channels, or,
    where an input is repainted, by frames (`rows`)."""
    channels, *sides = shape
    for block in blocks:
        if rows:
            yield torch.randn((1, len(block), channels, *sides), generator=generator).transpose(1, 2)
        else:
            yield torch.randn((1, channels, len(block), *sides), generator=generator)


def beginning(blocks: Sequence[Window], noise: Iterator[Tensor], pictures: Iterator[Image], encode: Encode,
              flow: Flow | None) -> Iterator[Begun]:  # fmt: skip
    """Noise and input of every block; `flow` sees the pictures of a block before its noise is drawn."""
    for block in blocks:
        images = list(islice(pictures, len(block)))
        if flow is not None:
            flow.see(images)
        yield next(noise), encode(images)


def mixed(cameras: Sequence[tuple[Camera, float]]) -> Camera:
    """Several cameras at once, each with its share."""
    ways = {name: sum(getattr(c, name) * share for c, share in cameras) for name in ("x", "y", "rotate")}
    return Camera(**ways, zoom=float(np.prod([c.zoom**share for c, share in cameras])))


def is_still(source: str) -> bool:
    return Path(source).suffix.lower() in PICTURES and not Path(source).is_dir()


def rate_of(source: str | None) -> Fraction | None:
    """Frames a second of an input that has a clock: pictures have none."""
    if source is None or kind_of(source) == "images":
        return None
    with closing(open_source(source)) as opened:
        return None if opened.rate is None else opened.rate.limit_denominator(1001)


def pictures(source: str, frames: int, size: tuple[int, int], camera: Callable[[int], Camera],
             fps: Fraction | None = None) -> Iterator[Image]:  # fmt: skip
    """The first `frames` pictures of an input, of the clip's `size`: of a video those shown at the clip's moments,
    `fps` a second, so that it keeps its pace and its sound. ClipError where it has fewer."""
    if is_still(source):
        yield from panned(source, frames, size, camera)
        return
    rate = rate_of(source)
    with closing(open_source(source)) as opened:
        shown = iter(opened) if fps is None or rate is None or rate == fps else in_time(opened, rate, fps)
        count = -1
        for count, frame in enumerate(islice(shown, frames)):  # noqa: B007 (it is asked for below)
            yield fitted(frame.image, *size)
    if count + 1 < frames:
        raise ClipError(f"input {source} has {count + 1} frames, the clip {frames}: set frames = {count + 1} or fewer")


def in_time(frames: Iterable[Frame], rate: Fraction, fps: Fraction) -> Iterator[Frame]:
    """The frame that is shown at each moment, `fps` a second, of a video with `rate`."""
    last, moment = None, Fraction(0)
    near = min(1 / rate, 1 / fps) / 2  # clocks of containers are rounded
    for frame in frames:
        while last is not None and moment < frame.pts * frame.time_base - near:
            yield last
            moment += 1 / fps
        last = frame
    end = last.pts * last.time_base + 1 / rate if last is not None else Fraction(0)
    while last is not None and moment < end - near:
        yield last
        moment += 1 / fps


def panned(source: str, frames: int, size: tuple[int, int], camera: Callable[[int], Camera]) -> Iterator[Image]:
    """A still picture with the camera moving over it."""
    width, height = size
    with closing(open_source(source)) as opened:
        still = fitted(next(iter(opened)).image, FINER * width, FINER * height)
    place: NDArray[np.float64] = np.diag([1 / FINER, 1 / FINER, 1.0])
    place[:2, 2] = 0.5 / FINER - 0.5  # pixels are counted from their middles
    for frame in range(frames):
        if frame:
            place = camera_matrix(camera(frame), height, width) @ place
        yield np.asarray(cv2.warpAffine(still, place[:2], size, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


class Flow:
    """How what is seen has come since the frame before: `(2, h, w)` cells of a latent, right and down. What hardly
    moves rests."""

    def __init__(self, size: tuple[int, int]) -> None:
        """`size`: width and height in cells."""
        self._size = size
        self._finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: NDArray[np.uint8] | None = None
        self._seen, self._fields = 0, dict[int, Tensor]()

    def see(self, images: Sequence[Image]) -> None:
        """The next pictures of the input."""
        for image in images:
            grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
            if self._last is not None:
                self._fields[self._seen] = self._cells(self._finder.calc(grey, self._last, None))
            self._last, self._seen = grey, self._seen + 1

    def __call__(self, frame: int) -> Tensor:
        """Of a frame that was seen; each is asked for once."""
        return self._fields.pop(frame)

    def _cells(self, back: NDArray[np.float32]) -> Tensor:
        height, width = back.shape[:2]
        small = cv2.resize(back, self._size, interpolation=cv2.INTER_AREA)
        came = -small * np.array([self._size[0] / width, self._size[1] / height], np.float32)
        came[np.linalg.norm(came, axis=-1) < RESTS] = 0
        return torch.from_numpy(np.ascontiguousarray(came.transpose(2, 0, 1)))
