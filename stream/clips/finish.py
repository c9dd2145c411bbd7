"""After rendering: pictures between the pictures, then larger ones. Through FFmpeg and OpenCV, or weights of one's own
through spandrel; a few pictures at a time, so that memory stays flat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import cycle, islice, repeat
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import av
import av.filter
import cv2
import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from safetensors import SafetensorError

from stream.clips.timeline import Output
from stream.errors import ClipError
from stream.frame import Image

AHEAD = 3  # pictures that minterpolate wants to see beyond the one it makes
PIXELS = "yuv444p"
Enlarge = Callable[[Image], Image]


class Finish:
    """The steps that `output` asks for. Making one loads the upscaler; ClipError where that cannot be."""

    def __init__(self, output: Output) -> None:
        self._times = output.interpolate
        self._enlarge: Enlarge | None = None
        if output.upscaler is not None:
            self._enlarge = upscaler(Path(output.upscaler).expanduser(), output.upscale)
        elif output.upscale > 1:
            self._enlarge = lanczos(output.upscale)

    def run(self, images: Iterator[Image], rate: Fraction, loop: bool) -> Iterator[Image]:
        """Pictures `(height, width, 3)` uint8 at `rate` a second; those of a `loop` lead into the first again."""
        if self._times > 1:
            images = between(images, self._times, rate, loop)
        return images if self._enlarge is None else map(self._enlarge, images)


def lanczos(times: int) -> Enlarge:
    """Lanczos' filter over 8x8 pixels."""

    def enlarge(image: Image) -> Image:
        size = image.shape[1] * times, image.shape[0] * times
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4), np.uint8)

    return enlarge


# ------------------------------------------------------------------------------------------------- interpolation


def between(images: Iterator[Image], times: int, rate: Fraction, loop: bool) -> Iterator[Image]:
    """`times` pictures for each: itself, untouched, and those on the way to the next, by FFmpeg's motion compensation.

    After the last comes the first where it is a `loop`; else the last stands still until its time is over.
    """
    moving: Moving | None = None
    kept: deque[Image] = deque()  # pictures whose time has not come
    first: list[Image] = []
    count = made = 0
    for count, image in enumerate(images, 1):
        moving = moving or Moving(image.shape, times, rate)
        kept.append(image)
        first += [image] if count <= AHEAD else []
        for found in moving.push(image):
            yield kept.popleft() if made % times == 0 else found
            made += 1
    if moving is None:
        return
    tail = islice(cycle(first), AHEAD) if loop else repeat(image, AHEAD)
    rest = (found for more in (*tail, None) for found in moving.push(more))
    for found in islice(rest, count * times - made):
        yield kept.popleft() if made % times == 0 else found
        made += 1


class Moving:
    """FFmpeg's minterpolate, fed one picture at a time."""

    def __init__(self, shape: tuple[int, ...], times: int, rate: Fraction) -> None:
        self._graph, self._base, self._pushed = av.filter.Graph(), 1 / rate, 0
        self._graph.threads = 1
        pictures = self._graph.add_buffer(
            width=shape[1], height=shape[0], format=VideoFormat(PIXELS), time_base=self._base
        )
        how = f"fps={rate * times}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"
        self._graph.link_nodes(pictures, self._graph.add("minterpolate", how), self._graph.add("buffersink"))
        self._graph.configure()

    def push(self, image: Image | None) -> Iterator[Image]:
        """What is ready now; None flushes."""
        self._graph.push(None if image is None else self._frame(image))
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                yield np.asarray(self._graph.vpull().reformat(format="rgb24", threads=1).to_ndarray(), np.uint8)

    def _frame(self, image: Image) -> VideoFrame:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=PIXELS, threads=1)
        frame.pts, frame.time_base = self._pushed, self._base
        self._pushed += 1
        return frame


# ------------------------------------------------------------------------------------------------- weights


def upscaler(weights: Path, times: int) -> Enlarge:
    """A network that spandrel knows (ESRGAN, SwinIR, DAT, ...), whole pictures at a time. ClipError where it cannot be
    loaded, or enlarges by another factor."""
    import torch

    model = _loaded(weights)
    if (model.input_channels, model.output_channels) != (3, 3):
        raise ClipError(f"upscaler {weights} is not for RGB pictures: give other weights", AT)
    if model.scale != times:
        raise ClipError(f"upscaler {weights} enlarges by {model.scale}, not {times}: use upscale = {model.scale}", AT)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()

    def enlarge(image: Image) -> Image:
        given = torch.from_numpy(np.ascontiguousarray(image)).to(device).movedim(2, 0)[None] / 255
        with torch.inference_mode():
            large = model(given)[0].movedim(0, 2)
        return np.asarray((large.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy(), np.uint8)

    return enlarge


AT = ("output", "upscaler")


def _loaded(weights: Path) -> Any:
    try:
        import spandrel
    except ImportError as error:
        raise ClipError(f"upscaler needs spandrel ({error}): pip install livebrush[upscale]", AT) from None
    except RuntimeError as error:  # torchvision, where it was built for another torch
        raise ClipError(f"upscaler needs spandrel, which cannot start ({error}): install the torchvision that belongs "
                        "to your torch", AT) from None  # fmt: skip
    try:
        model = spandrel.ModelLoader(device="cpu").load_from_file(weights)
    except (OSError, EOFError, ValueError, RuntimeError, UnpicklingError, SafetensorError,
            spandrel.UnsupportedModelError) as error:  # fmt: skip
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClipError(f"upscaler {weights} cannot be loaded ({why}): give weights that spandrel knows", AT) from None
    if not isinstance(model, spandrel.ImageModelDescriptor):
        raise ClipError(f"upscaler {weights} wants more than a picture: give other weights", AT)
    return model
