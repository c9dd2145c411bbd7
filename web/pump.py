"""A source on the server, for the sessions that take it: read in a thread, newest wins, files again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from threading import Event, Lock, Thread

from stream.errors import SourceError
from stream.frame import Frame, Image
from stream.preprocess import Fit, fitted
from stream.sources import Source, open_source

log = logging.getLogger("livebrush")
CLOCK = Fraction(1, 90000)
RETRY_S = 2.0  # before a source that stopped is opened again
JOIN_S = 1.0
ENDLESS = 2**62  # frames: as long as it is wanted
Shape = tuple[int, int, Fit]


def connect(text: str) -> Source:
    """The source called `text`, without an end where it has none; SourceError where it cannot be opened."""
    return open_source(text, ENDLESS)


class Taker:
    """One session that takes the source's pictures. Holds one: newest wins."""

    def __init__(
        self, shape: Callable[[], Shape], receive: Callable[[Frame], None], told: Callable[[str], None]
    ) -> None:
        self.shape, self._receive, self.told = shape, receive, told
        self._lock = Lock()
        self._slot: Frame | None = None

    def put(self, frame: Frame) -> bool:
        """In the thread. Whether `deliver` must be called: it is not on its way yet."""
        with self._lock:
            waiting, self._slot = self._slot, frame
        return waiting is None

    def deliver(self) -> None:
        """On the event loop."""
        with self._lock:
            frame, self._slot = self._slot, None
        if frame is not None:
            self._receive(frame)


class Pump:
    """Owns an opened source and the thread that reads it. Nobody there: nothing is read."""

    def __init__(self, text: str, source: Source, open_again: Callable[[str], Source] = connect) -> None:
        self._text, self._open_again = text, open_again
        self._source: Source | None = source
        self._takers: tuple[Taker, ...] = ()
        self._wanted, self._over = Event(), Event()
        self._thread = Thread(target=self._run, name="source", daemon=True)
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Inside a running event loop: pictures are handed over on it."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def subscribe(
        self, shape: Callable[[], Shape], receive: Callable[[Frame], None], told: Callable[[str], None]
    ) -> Callable[[], None]:
        """`receive` gets every newest picture, fitted to `shape()`; `told` what is wrong. Returns what ends it."""
        taker = Taker(shape, receive, told)
        self._takers += (taker,)
        self._wanted.set()

        def end() -> None:
            self._takers = tuple(x for x in self._takers if x is not taker)
            if not self._takers:
                self._wanted.clear()

        return end

    def close(self) -> None:
        """Ends the thread and lets go of the source."""
        self._over.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        self._let_go()

    # ------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                if self._source is None:
                    self._source = self._open_again(self._text)
                    self._tell("")
                self._read(self._source)
                self._let_go()
            except SourceError as error:
                self._let_go()
                log.warning("%s", error)
                self._tell(str(error))
                self._over.wait(RETRY_S)

    def _let_go(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _tell(self, text: str) -> None:
        for taker in self._takers:
            self._call(partial(taker.told, text))

    def _read(self, source: Source) -> None:
        """The source's pictures once, or its only one for as long as it is wanted."""
        pace = Pace(source.rate, self._over)
        for frame in self._frames(source):
            if not self._wanted.is_set():
                self._wanted.wait()
                pace.restart()
            if self._over.is_set():
                return
            if frame.captured_at is None:  # a camera has its own pace
                pace.wait()
            self._hand_over(frame)

    def _frames(self, source: Source) -> Iterator[Frame]:
        frames = iter(source)
        first = next(frames, None)
        if first is None:
            raise SourceError(f"input {self._text} has no picture: give another")
        while source.count == 1:
            yield first
        yield first
        yield from frames

    def _hand_over(self, frame: Frame) -> None:
        now = time.monotonic()
        shapes: dict[Shape, Image] = {}
        for taker in self._takers:
            shape = taker.shape()
            if shape not in shapes:
                shapes[shape] = fitted(frame.image, *shape)
            mine = Frame(shapes[shape], round(now / CLOCK), CLOCK, frame.captured_at or now)
            if taker.put(mine):
                self._call(taker.deliver)

    def _call(self, what: Callable[[], object]) -> None:
        if not self._over.is_set():
            self._loop.call_soon_threadsafe(what)


class Pace:
    """Waits so that pictures come at their rate; never runs to catch up."""

    def __init__(self, rate: Fraction | None, over: Event) -> None:
        self._step, self._over = 1 / float(rate or 30), over
        self.restart()

    def restart(self) -> None:
        self._next = time.monotonic()

    def wait(self) -> None:
        now = time.monotonic()
        self._next = max(self._next, now - self._step)
        self._over.wait(max(0.0, self._next - now))
        self._next += self._step
