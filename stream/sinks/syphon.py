"""Syphon: a texture that other programs on the same Mac show, through syphon-python and Metal."""

from __future__ import annotations

import sys
from typing import Any

import cv2

from stream.frame import Frame
from stream.sinks.live import LiveSink, Target

NAME = "Livebrush"
LOOK_S = 0.0005  # for messages of the system, after each picture
PACKAGE = "pip install 'livebrush[textures]'"


class Syphon(LiveSink):
    """The first row of Metal's textures is at the top, and of Syphon's at the bottom: published flipped."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._server: Any = None
        self._texture: Any = None
        self._directory: Any = None

    def open(self, size: tuple[int, int], rate: float) -> None:  # noqa: ARG002
        import syphon
        from syphon.utils.raw import create_mtl_texture

        self._server = syphon.SyphonMetalServer(self._name)
        self._directory = syphon.SyphonServerDirectory()
        self._directory.run_loop_interval = LOOK_S
        self._texture = create_mtl_texture(self._server.device, *size)

    def show(self, frame: Frame) -> None:
        from syphon.utils.numpy import copy_image_to_mtl_texture

        copy_image_to_mtl_texture(cv2.cvtColor(frame.image, cv2.COLOR_RGB2RGBA), self._texture)
        self._server.publish_frame_texture(self._texture, is_flipped=True)
        self._directory.update_run_loop()  # answers programs that look for servers; this process has no window

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


def missing(_kind: str) -> str | None:
    if sys.platform != "darwin":
        return "Syphon is of macOS: use ndi:NAME or virtualcam here"
    try:
        import syphon  # noqa: F401
    except ImportError:
        return PACKAGE
    return None


def connect(target: Target) -> Syphon:
    return Syphon(target.where or NAME)
