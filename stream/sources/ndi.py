"""NDI sources of the network, through cyndilib (an extra: `pip install 'livebrush[ndi]'`). The newest picture only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib import import_module
from typing import Any

import cv2
import numpy as np

from stream.errors import SourceError
from stream.frame import Frame, Image
from stream.sources import Listed, Source

CLOCK = Fraction(1, 90000)
FIND_S = 5.0  # until a source that is there was heard of; 1 s is usual
LIST_S = 1.5
FIRST_S = 5.0  # until its first picture came
LOST_S = 3.0  # without a connection
STEP_S = 1 / 250  # between two looks: a look costs microseconds
Wait = Callable[[float], None]


class NdiSource(Source):
    """The newest picture of an NDI source. Never ends by itself; a source that is lost is a SourceError."""

    endless = True

    def __init__(
        self, name: str, receiver: Any, frame: Any, ears: Any, clock: Callable[[], float] = time.monotonic,
        wait: Wait = time.sleep,
    ) -> None:  # fmt: skip
        """`ears` owns the source's address, which the receiver goes back to."""
        self.name, self._receiver, self._frame, self._ears = name, receiver, frame, ears
        self._clock, self._wait = clock, wait
        self._seen: float | None = None
        first = self._next(FIRST_S)
        if first is None:
            raise SourceError(f"{name} is there, but sends no picture: is it switched on?")
        self._first: Image | None = first
        self.size, self.rate = (first.shape[1], first.shape[0]), Fraction(frame.get_frame_rate()) or None

    def __iter__(self) -> Iterator[Frame]:
        began, last = self._clock(), -1
        while True:
            picture, self._first = self._first, None
            if picture is None:
                picture = self._next(LOST_S)
            if picture is None:
                if self._receiver.is_connected():
                    continue  # it is there, and stands still
                raise SourceError(f"{self.name} is lost: is it still on, and in this network?")
            now = self._clock()
            last = max(round((now - began) / CLOCK), last + 1)
            yield Frame(picture, last, CLOCK, now)

    def close(self) -> None:
        if self._receiver is not None:
            self._receiver.disconnect()
            self._receiver = self._ears = None

    def _next(self, patience_s: float) -> Image | None:
        """The next picture that was not seen; None where none comes for so long."""
        end = self._clock() + patience_s
        while self._clock() < end:
            self._receiver.frame_sync.capture_video()
            stamp = self._frame.get_timestamp_posix()
            if self._frame.xres and stamp != self._seen:
                self._seen = stamp
                return pixels(self._frame)
            self._wait(STEP_S)
        return None


def pixels(frame: Any) -> Image:
    """The RGB of a frame of RGBA or RGBX; its lines may be longer than they show."""
    width, height, stride = frame.xres, frame.yres, frame.get_line_stride() or frame.xres * 4
    lines = frame.get_array()[: stride * height].reshape(height, stride)[:, : width * 4]
    picture: Image = cv2.cvtColor(np.ascontiguousarray(lines).reshape(height, width, 4), cv2.COLOR_RGBA2RGB)
    return picture


def library(module: str) -> Any:
    """A module of cyndilib; SourceError where it is not installed."""
    try:
        return import_module(f"cyndilib.{module}")
    except ImportError as error:
        raise SourceError(f"NDI needs cyndilib ({error}): pip install 'livebrush[ndi]'") from error


def finder() -> Any:
    """What listens for NDI sources; it needs avahi on Linux. `update_sources()` says what it has heard of.

    Its own thread is not started: once it knows a source, it looks for others every five seconds only.
    """
    return library("finder").Finder()


def matching(wanted: str, names: list[str]) -> str | None:
    """The full name, `MACHINE (Stream)`, that `wanted` means: itself, the part in brackets, or a part of one only."""
    small = wanted.casefold()
    exact = [n for n in names if n.casefold() == small or n.casefold().endswith(f"({small})")]
    near = [n for n in names if small in n.casefold()]
    return exact[0] if exact else near[0] if len(near) == 1 else None


def check(text: str) -> None:
    """SourceError where `text` names no NDI source."""
    if not text.removeprefix("ndi:").strip():
        raise SourceError(f"input {text!r} names no NDI source: use ndi:NAME, e.g. 'ndi:STUDIO (Camera 1)'")


def connect(text: str) -> NdiSource:
    check(text)
    ears = finder()
    name = heard(ears, text.removeprefix("ndi:").strip())
    formats = library("wrapper.ndi_recv")
    receiver = library("receiver").Receiver(
        color_format=formats.RecvColorFormat.RGBX_RGBA, bandwidth=formats.RecvBandwidth.highest, recv_name="Livebrush"
    )
    frame = library("video_frame").VideoFrameSync()
    receiver.frame_sync.set_video_frame(frame)
    receiver.set_source(ears.get_source(name))
    try:
        return NdiSource(f"ndi:{name}", receiver, frame, ears)
    except SourceError:
        receiver.disconnect()
        raise


def heard(ears: Any, wanted: str) -> str:
    """Waits until the source is heard of: its full name. SourceError names those that were.

    It is asked again and again: the library's own `wait_for_sources` holds the GIL.
    """
    end = time.monotonic() + FIND_S
    names: list[str] = []
    while time.monotonic() < end:
        names = ears.update_sources()
        if name := matching(wanted, names):
            return name
        time.sleep(0.05)
    known = f"there are {', '.join(sorted(names))}" if names else "there is none in this network"
    raise SourceError(f"NDI source {wanted[:80]!r} is not there: {known}")


def listed() -> list[Listed]:
    """What is heard of within a moment."""
    ears = finder()
    time.sleep(LIST_S)
    return [Listed(f"ndi:{name}", name, "ndi") for name in sorted(ears.update_sources())]
