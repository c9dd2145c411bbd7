"""A sink that keeps what it gets: the fake for tests."""

from __future__ import annotations

from stream.frame import Frame
from stream.sinks import Sink


class RecordingSink(Sink):
    """`frames` holds what was written; `state` is open, closed or discarded."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.state = "open"
        self.complete = False

    def write(self, frame: Frame) -> None:
        self.frames.append(frame)

    def close(self, complete: bool = True) -> None:
        self.state, self.complete = "closed", complete

    def discard(self) -> None:
        self.state = "discarded"
