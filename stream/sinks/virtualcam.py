"""A virtual camera, by pyvirtualcam (GPL-2.0, so an extra): v4l2loopback on Linux, OBS' or Unity Capture elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stream.errors import SinkError
from stream.frame import Frame
from stream.sinks.live import LiveSink, Target

if TYPE_CHECKING:
    import pyvirtualcam

LOOPBACK = Path("/sys/devices/virtual/video4linux")  # where v4l2loopback's devices are
BUILT_IN = {"v4l2loopback", "obs", "unitycapture"}
PACKAGE = "pip install 'livebrush[virtualcam]'"
DEVICES = {
    "linux": "no v4l2loopback device is there: sudo modprobe v4l2loopback exclusive_caps=1 card_label=Livebrush",
    "darwin": "install OBS 30 or newer, and press Start Virtual Camera in it once",
    "win32": "install OBS, whose virtual camera is used",
}


class VirtualCamera(LiveSink):
    """Programs that look at it wait for pictures, so that the last one comes again where none is painted."""

    repeats_s = 0.1

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._camera: pyvirtualcam.Camera | None = None

    def open(self, size: tuple[int, int], rate: float) -> None:
        import pyvirtualcam

        try:
            self._camera = pyvirtualcam.Camera(*size, rate, fmt=pyvirtualcam.PixelFormat.RGB, device=self._device)
        except RuntimeError as error:
            why = "; ".join(str(error).splitlines())
            raise SinkError(
                f"the virtual camera does not open ({why}): {DEVICES.get(sys.platform, PACKAGE)}"
            ) from error

    def show(self, frame: Frame) -> None:
        assert self._camera is not None
        try:
            self._camera.send(frame.image)
        except RuntimeError as error:
            raise SinkError(f"the virtual camera takes no pictures any more ({error}): it is opened anew") from error

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None


def missing(_kind: str) -> str | None:
    try:
        from pyvirtualcam.camera import BACKENDS
    except ImportError:
        return PACKAGE
    registered = set(BACKENDS) - BUILT_IN
    loopback = sys.platform != "linux" or (LOOPBACK.is_dir() and any(LOOPBACK.iterdir()))
    return None if registered or loopback else DEVICES["linux"]


def connect(target: Target) -> VirtualCamera:
    return VirtualCamera(target.where or None)
