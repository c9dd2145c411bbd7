"""A camera of this machine, through OpenCV. Frames carry the moment they were taken."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2

from stream.errors import SourceError
from stream.frame import Frame
from stream.sources import Listed, Source

CLOCK = Fraction(1, 90000)  # a video clock fine enough for any camera
LOST = 10  # reads that may fail in a row before the camera counts as unplugged
DEVICES, DRIVERS = Path("/dev"), Path("/sys/class/video4linux")  # of Linux
PROBED = 4  # indices looked at where the system has no list of cameras


class CameraSource(Source):
    """Camera number `index`, or the one at a path such as /dev/video2. Never ends by itself."""

    endless = True

    def __init__(self, camera: int | str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self._clock = f"camera {camera}", clock
        self._device = _open(camera)
        ok, self._first = self._device.read()
        if not ok:
            self.close()
            raise SourceError(f"{self.name} gives no picture: close other programs that use it; {_others(camera)}")
        self.size = (self._first.shape[1], self._first.shape[0])
        told = self._device.get(cv2.CAP_PROP_FPS)
        self.rate = Fraction(told).limit_denominator(1001) if 1 <= told <= 1000 else None

    def __iter__(self) -> Iterator[Frame]:
        began, last, failed = self._clock(), -1, 0
        while failed < LOST:
            ok, picture = self._device.read()
            if not ok:
                failed += 1
                continue
            failed, now = 0, self._clock()
            last = max(round((now - began) / CLOCK), last + 1)
            yield Frame(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), last, CLOCK, now)
        raise SourceError(f"{self.name} stopped giving pictures: check its cable")

    def close(self) -> None:
        self._device.release()


def _open(camera: int | str) -> Any:
    with Quiet():
        device = cv2.VideoCapture(camera)
    if not device.isOpened():
        device.release()
        raise SourceError(f"camera {camera} is not there or is in use: {_others(camera)}")
    device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return device


class Quiet:
    """OpenCV tells standard error about every camera it does not find; a command tells it once, itself."""

    def __enter__(self) -> None:
        self._level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

    def __exit__(self, *_: object) -> None:
        cv2.utils.logging.setLogLevel(self._level)


def cameras() -> list[str]:
    """What to call the cameras that are here: camera, camera:1, ..."""
    return [camera.name for camera in listed()]


def listed() -> list[Listed]:
    """The cameras that are here, with what their drivers call them where the system says so (Linux)."""
    if sys.platform.startswith("linux"):
        found = [p.name.removeprefix("video") for p in DEVICES.glob("video*")]
        indices = sorted(int(n) for n in found if n.isdigit() and _pictures(int(n)))
    else:
        indices = [i for i in range(PROBED) if _answers(i)]
    return [Listed("camera" if i == 0 else f"camera:{i}", _title(i), "camera") for i in indices]


def _pictures(index: int) -> bool:
    """Whether a device may be read, and is no camera's second one, which gives facts about its pictures (V4L2)."""
    return os.access(DEVICES / f"video{index}", os.R_OK) and _told(index, "index") in ("0", "")


def _title(index: int) -> str:
    return _told(index, "name") or f"Camera {index}"


def _told(index: int, what: str) -> str:
    """What the kernel says of a device, in one line."""
    try:
        return (DRIVERS / f"video{index}" / what).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # the driver says nothing, or the camera was unplugged just now
        return ""


def _answers(index: int) -> bool:
    with Quiet():
        device = cv2.VideoCapture(index)
        found = bool(device.isOpened())
        device.release()
    return found


def _others(camera: int | str) -> str:
    known = [name for name in cameras() if name != ("camera" if camera == 0 else f"camera:{camera}")]
    return f"use {' or '.join(known)}" if known else "no other camera is here; plug one in, or use a file or testcard"


def named(text: str) -> int | str:
    """The index or the path that `text` means; SourceError where it means no camera."""
    where = text.removeprefix("camera").removeprefix(":") or "0"
    if not where.isdigit() and not where.startswith("/"):
        raise SourceError(f"input {text!r} is no camera: use camera, camera:1 or /dev/video0")
    return int(where) if where.isdigit() else where


def check(text: str) -> None:
    """SourceError where `text` means no camera."""
    named(text)


def connect(text: str) -> CameraSource:
    return CameraSource(named(text))
