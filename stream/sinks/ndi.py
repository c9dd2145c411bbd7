"""A source on the network by NDI, through cyndilib, which brings the NDI library along."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stream.errors import SinkError
from stream.frame import Frame
from stream.sinks.live import LiveSink, Target

if TYPE_CHECKING:
    from cyndilib.sender import Sender

NAME = "Livebrush"
PACKAGE = "pip install 'livebrush[ndi]'"
AVAHI = Path("/run/avahi-daemon/socket")  # NDI on Linux is found through it


class Ndi(LiveSink):
    """Receivers keep the last picture, so that nothing needs to be repeated."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sender: Sender | None = None

    def open(self, size: tuple[int, int], rate: float) -> None:
        from cyndilib.sender import Sender
        from cyndilib.video_frame import VideoSendFrame
        from cyndilib.wrapper import FourCC

        sender = Sender(self._name, clock_video=False, clock_audio=False)  # live: NDI need not pace it
        picture = VideoSendFrame()
        picture.set_fourcc(FourCC.RGBX)
        picture.set_resolution(*size)
        picture.set_frame_rate(Fraction(rate).limit_denominator(1001))
        sender.set_video_frame(picture)
        try:
            sender.open()
        except RuntimeError as error:
            raise SinkError(f"NDI does not open ({error}): is another source called {self._name!r}?") from error
        self._sender = sender

    def show(self, frame: Frame) -> None:
        assert self._sender is not None
        picture = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2RGBA), np.uint8)
        if not self._sender.write_video(picture.reshape(-1)):
            raise SinkError("NDI takes no pictures any more: it is opened anew")

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None


def missing(_kind: str) -> str | None:
    try:
        import cyndilib  # noqa: F401
    except ImportError:
        return PACKAGE
    if sys.platform == "linux" and not AVAHI.exists():
        return "avahi-daemon does not run, through which NDI is found: sudo systemctl start avahi-daemon"
    return None


def connect(target: Target) -> Ndi:
    return Ndi(target.where or NAME)
