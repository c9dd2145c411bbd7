"""The process of one live sink: it takes the newest picture and shows it, again and again.

The server starts it (`stream.sinks.host`). Whatever a sink's library does (hang, hold Python's lock, crash), it does it
here. It imports nothing that is slow, and ends with its standard input.
"""

from __future__ import annotations

import faulthandler
import logging
import queue
import signal
import sys
import time
from typing import Any

from stream.errors import SinkError
from stream.frame import Frame
from stream.mailbox import Boxes, Memory, Pulse
from stream.sinks.live import LiveSink, connect, recognise
from stream.sinks.orders import Bell, Failed, Heard, Looked, Moved, Opened, Opening, Sounds, Start, Stop
from stream.wire import Tell, Wire, bind_to, leave

TURN_S = 0.25  # the longest rest, so that the pulse goes on


class Showing:
    """A sink at work: it owns the sink, and the mailbox that its pictures come from."""

    def __init__(self, wire: Wire, memory: Memory, pulse: Pulse, sink: LiveSink, rate: float) -> None:
        self._wire, self._memory, self._pulse, self._sink, self._rate = wire, memory, pulse, sink, rate
        self._boxes: Boxes | None = None
        self._size: tuple[int, int] | None = None  # that it is open for
        self._last: Frame | None = None
        self._shown_at = 0.0

    def run(self) -> None:
        """Until it is told to stop. SinkError where the sink cannot go on."""
        while True:
            self._pulse.beat("idle")
            message = self._next()
            match message:
                case Stop():
                    return
                case Moved():
                    self._boxes = Boxes(self._memory, message.boxes)
                case Bell():
                    self._look()
                    self._wire.send(Looked())
                case Sounds() if self._sink.hears and not self._sink.sounds:
                    self._expect()
                case Heard() if self._sink.sounds and self._size is not None:
                    self._pulse.beat("tick")
                    self._sink.hear(message.data, message.captured_at)
            self._repeat()

    def finish(self) -> None:
        """What was taken is finished."""
        self._pulse.beat("preparing")
        self._sink.close()

    def _next(self) -> Any:
        repeats = self._sink.repeats_s
        rest = (
            TURN_S if repeats is None or self._last is None else max(0.0, self._shown_at + repeats - time.monotonic())
        )
        try:
            return self._wire.inbox.get(timeout=min(rest, TURN_S))
        except queue.Empty:
            return None

    def _look(self) -> None:
        letter = self._boxes.inbox.take() if self._boxes is not None else None
        if letter is not None:
            self._show(letter.frame)

    def _expect(self) -> None:
        """Sound comes along: the next picture opens the sink for it. What was open without is finished."""
        if self._size is not None:
            self.finish()
            self._size = None
        self._sink.sounds = True

    def _repeat(self) -> None:
        due = self._sink.repeats_s
        if due is not None and self._last is not None and time.monotonic() - self._shown_at >= due:
            self._show(self._last)

    def _show(self, frame: Frame) -> None:
        if frame.size != self._size:
            self._open(frame.size)
        self._pulse.beat("tick")
        self._sink.show(frame)
        self._last, self._shown_at = frame, time.monotonic()

    def _open(self, size: tuple[int, int]) -> None:
        """For pictures of that size; what was open for another is finished first."""
        self._wire.send(Opening(self._sink.opens_s))
        self._pulse.beat("preparing")
        if self._size is not None:
            self._sink.close()
        self._sink.open(size, self._rate)
        self._size = size
        self._wire.send(Opened())


def no_core_files() -> None:
    """A library that crashes at every try would fill the disk with them."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def main() -> None:
    """The process, from its first message to its end. Ctrl-C is the server's to decide on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    no_core_files()
    wire = Wire()
    start = wire.inbox.get()
    assert isinstance(start, Start)
    bind_to(start.parent)
    logging.basicConfig(level=start.log_level, handlers=[Tell(wire)], format="%(name)s: %(message)s")
    memory = Memory(start.memory)
    pulse = Pulse(memory, start.pulse)
    pulse.beat("loading")
    try:
        showing = Showing(wire, memory, pulse, connect(recognise(start.text)), start.rate)
        showing.run()
        showing.finish()
    except SinkError as error:
        wire.send(Failed(str(error)))
        leave(2)
    except Exception as error:  # noqa: BLE001 (the boundary: a library's own errors, which the server tells)
        sys.excepthook(*sys.exc_info())
        wire.send(Failed(f"{type(error).__name__}: {error}"))
        leave(1)
    leave(0)
