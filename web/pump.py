"""A source on the server, read in a thread of its own: newest wins, files again and again, and what is lost is opened
anew until it is back.

The event loop never waits for it, and neither does its end: a driver that hangs keeps its thread to itself.
"""

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
from stream.sources import Source, open_source, shown
from web.bodies import SourceFacts
from web.fields import ONCE, SourceState

log = logging.getLogger("livebrush")
CLOCK = Fraction(1, 90000)
RETRY_S, RETRY_MOST_S = 1.0, 5.0  # before a source that stopped is opened again: at first, and at most
CHECK_S = 0.5  # between two looks at how it goes
SLOW_S = 1.0  # until whoever waits is told that it is still being opened
OPEN_S = 20.0  # until opening counts as stuck: more than any source takes to say that it cannot be
STUCK_S = 5.0  # until reading counts as stuck
LEFT_BEHIND = 3  # threads that may hang before no more are begun
ENDLESS = 2**62  # frames: as long as it is wanted
Shape = tuple[int, int, Fit]
Connect = Callable[[str], Source]


def connect(text: str) -> Source:
    """The source called `text`, without an end where it has none; SourceError where it cannot be opened."""
    return open_source(text, ENDLESS)


def title(text: str) -> str:
    """A source's name without the passwords in it."""
    once = ONCE if text.startswith(ONCE) else ""
    return once + shown(text.removeprefix(ONCE))


class Taker:
    """One session that takes the source's pictures. Holds one: newest wins."""

    def __init__(
        self, shape: Callable[[], Shape], receive: Callable[[Frame], None], told: Callable[[SourceFacts], None]
    ) -> None:
        self.shape, self._receive, self.told = shape, receive, told
        self._lock = Lock()
        self._slot: Frame | None = None
        self.ended = False

    def put(self, frame: Frame) -> bool:
        """In the thread. Whether `deliver` must be called: it is not on its way yet."""
        with self._lock:
            waiting, self._slot = self._slot, frame
        return waiting is None

    def deliver(self) -> None:
        """On the event loop."""
        with self._lock:
            frame, self._slot = self._slot, None
        if frame is not None and not self.ended:
            self._receive(frame)


class Pump:
    """Owns a source, its thread, and who takes its pictures. Nobody there: nothing is read."""

    def __init__(self, text: str, connect: Connect = connect, clock: Callable[[], float] = time.monotonic) -> None:
        """`text` names the source; with `once:` before it, it stops at its end."""
        self.once, self._name = text.startswith(ONCE), shown(text.removeprefix(ONCE))
        self._open = partial(connect, text.removeprefix(ONCE))
        self._clock = clock
        self.facts = SourceFacts(name=self._name, state="opening")
        self.takers: tuple[Taker, ...] = ()
        self.served = 0  # how many came
        self._wanted = Event()
        self._lost: list[Reader] = []  # that hang, or did when they were last looked at
        self._silent = True  # whether nobody was told anything yet
        self._counted = 0, 0.0  # pictures of the reader, and when
        self._reader: Reader
        self._loop: asyncio.AbstractEventLoop
        self._check: asyncio.TimerHandle

    def start(self) -> None:
        """Inside a running event loop: pictures are handed over on it."""
        self._loop = asyncio.get_running_loop()
        self._begin()
        self._check = self._loop.call_later(CHECK_S, self._look)

    def subscribe(
        self, shape: Callable[[], Shape], receive: Callable[[Frame], None], told: Callable[[SourceFacts], None]
    ) -> Callable[[], None]:
        """`receive` gets every newest picture, fitted to `shape()`; `told` how the source is, at once where something
        is to be said of it, and when that changes. Returns what ends it."""
        taker = Taker(shape, receive, told)
        self.takers, self.served = (*self.takers, taker), self.served + 1
        self._wanted.set()
        if self.facts.state != "opening":
            told(self.facts)

        def end() -> None:
            taker.ended = True
            self.takers = tuple(x for x in self.takers if x is not taker)
            if not self.takers:
                self._wanted.clear()

        return end

    def close(self) -> None:
        """Asks the thread to end, and waits for nothing; see `join`."""
        self._check.cancel()
        self._reader.over.set()
        self._wanted.set()

    @property
    def alive(self) -> bool:
        """Whether its thread still runs."""
        return self._reader.thread.is_alive()

    def join(self, seconds: float) -> None:
        """Waits for the thread, at most so long: one that hangs is left behind."""
        self._reader.thread.join(seconds)

    # ------------------------------------------------------------------------------------------- how it goes

    def heard(self, reader: Reader, state: SourceState, error: str, size: tuple[int, int] | None) -> None:
        """The reader found out something."""
        size = size or self.facts.size
        if reader is not self._reader or (state, error, size) == (self.facts.state, self.facts.error, self.facts.size):
            return
        if error:
            log.warning("%s", error)
        self._tell(state, error, size)

    def call(self, what: Callable[[], object]) -> None:
        """From the thread: calls something on the event loop."""
        self._loop.call_soon_threadsafe(what)

    def _tell(self, state: SourceState, error: str = "", size: tuple[int, int] | None = None) -> None:
        self.facts = SourceFacts(name=self._name, state=state, error=error, size=size)
        self._pass_on()

    def _pass_on(self) -> None:
        self._silent = False
        for taker in self.takers:
            taker.told(self.facts)

    def _begin(self) -> None:
        self._reader = Reader(self, self._open, self._wanted, self._clock)
        self._counted = 0, self._clock()
        self._reader.thread.start()

    def _look(self) -> None:
        """Now and then: whether the reader still reads."""
        self._check = self._loop.call_later(CHECK_S, self._look)
        reader = self._reader
        self._count(reader)
        broke = not reader.thread.is_alive() and reader.silent_s > RETRY_MOST_S
        if reader.stuck or broke:
            self._replace(reader)
        elif self._silent and reader.silent_s > SLOW_S:
            self._pass_on()

    def _replace(self, reader: Reader) -> None:
        """Leaves a reader behind that hangs, or broke, and begins another, unless too many hang already."""
        doing = "is not opened after" if self.facts.state == "opening" else "gives no picture for"
        told = f"{self._name} {doing} {reader.silent_s:.0f} s: check its cable, or the program that it comes from"
        if self.facts.state != "waiting":
            log.warning("%s", told)
            self._tell("waiting", told, self.facts.size)
        if not reader.over.is_set():
            reader.over.set()
            self._lost.append(reader)
        self._lost = [r for r in self._lost if r.thread.is_alive()]
        if len(self._lost) < LEFT_BEHIND:
            self._begin()

    def _count(self, reader: Reader) -> None:
        number, now = reader.count, self._clock()
        before, since = self._counted
        if now - since >= 2 * CHECK_S:
            fps = round((number - before) / (now - since), 1)
            self._counted = number, now
            self.facts = self.facts.model_copy(update={"fps": fps})


class Reader:
    """A thread, and the source that it opens, reads and closes: nobody else touches it."""

    def __init__(
        self, pump: Pump, open_it: Callable[[], Source], wanted: Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pump, self._open, self._wanted, self._clock = pump, open_it, wanted, clock
        self.over = Event()
        self.count = 0  # pictures handed over
        self._beat, self._patience_s = clock(), OPEN_S
        self._resting = False  # whether it waits for something that is no source
        self._failed = 0  # times in a row
        self.thread = Thread(target=self._run, name="source", daemon=True)

    @property
    def silent_s(self) -> float:
        """Seconds since it last did something. From any thread."""
        return self._clock() - self._beat

    @property
    def stuck(self) -> bool:
        """Whether it hangs in its source. From any thread."""
        return not self._resting and self.silent_s > self._patience_s

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                self._alive(OPEN_S)
                source = self._open()
                try:
                    self._read(source)
                finally:
                    source.close()
            except SourceError as error:
                self._hear("waiting", str(error))
                self._rest(partial(self.over.wait, min(RETRY_S * 2**self._failed, RETRY_MOST_S)))
                self._failed = min(self._failed + 1, 8)

    def _read(self, source: Source) -> None:
        """The source's pictures once, or its last one for as long as it is wanted."""
        pace = Pace(source.rate, self.over)
        self._alive(max(STUCK_S, 3 / float(source.rate or 30)))
        for frame in self._frames(source):
            if not self._wanted.is_set():
                self._rest(self._wanted.wait)
                pace.restart()
            if self.over.is_set():
                return
            if frame.captured_at is None:  # a camera has its own pace
                pace.wait()
            self._hand_over(frame)

    def _frames(self, source: Source) -> Iterator[Frame]:
        frames = iter(source)
        frame = next(frames, None)
        if frame is None:
            raise SourceError(f"input {source.name} has no picture: give another")
        self._hear("running", size=source.size)
        yield frame
        for frame in frames if source.count != 1 else ():
            yield frame
        if self._pump.once and source.count != 1:
            self._hear("ended")
        while self._pump.once or source.count == 1:
            yield frame

    def _hand_over(self, frame: Frame) -> None:
        self._beat, self._failed, self.count = self._clock(), 0, self.count + 1
        now = time.monotonic()
        shapes: dict[Shape, Image] = {}
        for taker in self._pump.takers:
            shape = taker.shape()
            if shape not in shapes:
                shapes[shape] = fitted(frame.image, *shape)
            mine = Frame(shapes[shape], round(now / CLOCK), CLOCK, frame.captured_at or now)
            if not self.over.is_set() and taker.put(mine):
                self._pump.call(taker.deliver)

    def _hear(self, state: SourceState, error: str = "", size: tuple[int, int] | None = None) -> None:
        if not self.over.is_set():
            self._pump.call(partial(self._pump.heard, self, state, error, size))

    def _alive(self, patience_s: float) -> None:
        self._beat, self._patience_s = self._clock(), patience_s

    def _rest(self, wait: Callable[[], object]) -> None:
        """Waits for something else than the source."""
        self._resting = True
        wait()
        self._beat, self._resting = self._clock(), False


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
