"""Spout: a texture that other programs on the same Windows machine show, through SpoutGL."""

from __future__ import annotations

import sys
from typing import Any

import cv2

from stream.errors import SinkError
from stream.frame import Frame
from stream.sinks.live import LiveSink, Target

NAME = "Livebrush"
PACKAGE = "pip install 'livebrush[textures]'"


class Spout(LiveSink):
    """SpoutGL makes an OpenGL context of its own with the first picture, in the thread that sends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sender: Any = None
        self._size = 0, 0

    def open(self, size: tuple[int, int], rate: float) -> None:  # noqa: ARG002
        import SpoutGL

        self._size = size
        self._sender = SpoutGL.SpoutSender()
        self._sender.setSenderName(self._name)

    def show(self, frame: Frame) -> None:
        from SpoutGL.enums import GL_RGBA

        picture = cv2.cvtColor(frame.image, cv2.COLOR_RGB2RGBA)
        if not self._sender.sendImage(picture, *self._size, GL_RGBA, False, 0):
            raise SinkError("Spout takes no pictures: it needs a graphics card with DirectX 11")
        self._sender.setFrameSync(self._name)

    def close(self) -> None:
        if self._sender is not None:
            self._sender.releaseSender()
            self._sender = None


def missing(_kind: str) -> str | None:
    if sys.platform != "win32":
        return "Spout is of Windows: use ndi:NAME or virtualcam here"
    try:
        import SpoutGL  # noqa: F401
    except ImportError:
        return PACKAGE
    return None


def connect(target: Target) -> Spout:
    return Spout(target.where or NAME)
