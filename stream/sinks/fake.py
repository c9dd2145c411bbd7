"""Sinks that misbehave, for tests and the bench: one that hangs and holds Python's lock, one that always fails, one
that takes its process down."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable

from stream.errors import SinkError
from stream.frame import Frame
from stream.sinks.live import LiveSink, Target

FOR_EVER_S = 3600


def stuck() -> None:
    """A library's call that never returns and never lets go of the interpreter's lock."""
    if os.name == "posix":
        ctypes.PyDLL(None).sleep(FOR_EVER_S)
    time.sleep(FOR_EVER_S)


def failing() -> None:
    raise SinkError("asked to fail")


def crash() -> None:
    ctypes.string_at(0)


WAYS: dict[str, Callable[[], None]] = {"stuck": stuck, "failing": failing, "crash": crash}


class Trouble(LiveSink):
    """Takes two pictures well, then misbehaves."""

    def __init__(self, way: Callable[[], None]) -> None:
        self._way, self._taken = way, 0

    def open(self, size: tuple[int, int], rate: float) -> None:
        pass

    def show(self, frame: Frame) -> None:  # noqa: ARG002
        self._taken += 1
        if self._taken > 2:
            self._way()

    def close(self) -> None:
        pass


def missing(_kind: str) -> str | None:
    return None


def connect(target: Target) -> Trouble:
    if target.where not in WAYS:
        raise SinkError(f"output {target.text} is no trouble that is known: use fake:{', fake:'.join(WAYS)}")
    return Trouble(WAYS[target.where])
