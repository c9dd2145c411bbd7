"""A live stream, as the server sees it: frames go in, painted pictures come to a listener, settings may change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stream.frame import Frame
from stream.mailbox import PRIMED, REPEATED, Address, Boxes, Mailbox
from stream.memory import area
from stream.messages import Applied, Apply, Open
from stream.preprocess import fitted
from stream.process import WorkerProcess
from stream.settings import Settings

log = logging.getLogger("livebrush")


@dataclass(frozen=True, eq=False)
class Painted:
    """A painted picture under the clock of the frame that it came from; `frame.image` is the receiver's own.

    `repeated`: the similarity filter skipped the frame, and this is the last picture again. `primed`: an early copy
    from the first ticks. `engine_ms`: how long the tick took that gave it.
    """

    frame: Frame
    repeated: bool
    primed: bool
    engine_ms: float


@dataclass(frozen=True)
class Counts:
    """What became of a stream's frames since it was opened."""

    put: int = 0
    overwritten_in: int = 0  # newer came before the worker took them, or there was no worker
    painted: int = 0
    overwritten_out: int = 0  # painted, but newer came before the server took them
    skipped: int = 0  # of the painted: repeated
    failed: int = 0  # ticks of it that failed


class Listener(Protocol):
    """Who hears of a stream. Always called on the event loop, never after `Stream.close`."""

    def painted(self, picture: Painted) -> None:
        """A picture came; older ones that came at the same time were overwritten."""

    def applied(self, settings: Settings, error: str | None) -> None:
        """What now holds in the worker, and why it is not what was asked for: after `open` (and again after every
        restart), after `apply`, and when memory ran out.

        An `apply` that a newer one overtook has no answer of its own: an answer stands for every question so far.
        Where nothing holds (the first settings were refused), `settings` are those asked for; apply others.
        """

    def notice(self, text: str) -> None:
        """Something that whoever looks should know, e.g. a smaller size for lack of memory."""

    def failed(self, text: str) -> None:
        """A frame could not be painted, and why; the next one may be."""


class Stream:
    """One source of frames, painted by the worker under its own settings. Made by `Supervisor.open`.

    `settings` are the newest that were asked for, or what holds where those were refused; they outlive the worker.
    `delay`: ticks between a frame's entering and its leaving. `skip_rate`: share of frames that the filter skipped.
    """

    def __init__(
        self, key: int, settings: Settings, listener: Listener,
        ring: Callable[[], None], forget: Callable[[Stream], None],
    ) -> None:  # fmt: skip
        self.key, self.settings = key, settings
        self.delay, self.skip_rate = 0, 0.0
        self._listener, self._ring, self._forget = listener, ring, forget
        self._line: Line | None = None  # to the worker, while there is one
        self._lock = threading.Lock()  # of the line's mailboxes: `put` may come from another thread
        self._closed = False
        self._put = self._unsent = 0  # counted by whoever puts; the rest on the event loop
        self._painted = self._skipped = self._failed = self._lost_in = self._lost_out = 0

    def put(self, frame: Frame) -> None:
        """Hands over a frame: newest wins, never blocks. From any thread, one at a time. Fitted here if it must be."""
        self._put += 1
        line = self._line
        if line is None:
            self._unsent += 1
            return
        s = line.fitting
        image = fitted(frame.image, s.width, s.height, s.fit)
        with self._lock:
            if self._line is not line:  # it died meanwhile
                self._unsent += 1
                return
            line.boxes.inbox.put(frame.with_image(image))
        self._ring()

    def apply(self, settings: Settings) -> None:
        """Asks for other settings; `Listener.applied` answers. The newest question waits for the answer to the last."""
        self.settings = settings
        if self._line is not None and not self._closed:
            with self._lock:
                self._line.ask(settings)

    def close(self) -> None:
        """Ends the stream; the listener hears nothing more. A second time does nothing."""
        if not self._closed:
            self._closed = True
            self._forget(self)

    @property
    def counts(self) -> Counts:
        """As they stand."""
        with self._lock:
            lost_in, lost_out = self._line.overwritten if self._line is not None else (0, 0)
        return Counts(
            self._put, self._unsent + self._lost_in + lost_in, self._painted, self._lost_out + lost_out,
            self._skipped, self._failed,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------- for the supervisor

    def connect(self, process: WorkerProcess) -> None:
        """There is a worker: it is asked to open the stream."""
        with self._lock:
            self._line = Line(process, self.key, self.settings)

    def disconnect(self) -> set[Address]:
        """There is none any more, or this stream needs none. Returns where its mailboxes were."""
        with self._lock:
            line, self._line = self._line, None
            if line is None:
                return set()
            lost_in, lost_out = line.close()
            self._lost_in, self._lost_out = self._lost_in + lost_in, self._lost_out + lost_out
            return line.addresses

    def collect(self) -> None:
        """The worker has painted: the newest picture goes to the listener."""
        letter = self._line.outbox.take() if self._line is not None else None
        if letter is None:
            return
        repeated = bool(letter.flags & REPEATED)
        self._painted += 1
        self._skipped += repeated
        picture = Painted(letter.frame, repeated, bool(letter.flags & PRIMED), letter.engine_ms)
        safely(self._listener.painted, picture)

    def answered(self, message: Applied) -> None:
        """The worker has answered the question that was on its way."""
        if self._line is None:
            return
        self.delay = message.delay
        with self._lock:
            newest = self._line.answered(message)
        if newest:
            self._tell(message.settings, message.error)

    def shrunk(self, settings: Settings, text: str) -> None:
        """Memory ran out: the worker goes on with these."""
        if self._line is None:
            return
        if self._line.changed(settings):
            self._tell(settings, None)
        safely(self._listener.notice, text)

    def refused(self, text: str) -> None:
        """The stream is no longer open in the worker."""
        if self._line is not None:
            self._line.refused()
        safely(self._listener.notice, text)

    def retry(self) -> None:
        """Another stream has gone: there may be room again."""
        if self._line is not None and self._line.waits:
            self.apply(self.settings)

    def lessen(self, settings: Settings, text: str) -> None:
        """The worker was killed because memory ran out: the next one gets these."""
        self.settings = settings
        safely(self._listener.notice, text)

    def failed(self, text: str) -> None:
        """A tick with a frame of this stream failed."""
        self._failed += 1
        safely(self._listener.failed, text)

    def _tell(self, holds: Settings | None, error: str | None) -> None:
        if holds is not None:
            self.settings = holds
        safely(self._listener.applied, self.settings, error)


class Line:
    """A stream's link with one worker process: its mailboxes, and the question about settings that is on its way.

    Frames go into `boxes` from the moment that a question is sent; pictures come out of `outbox`, which the worker
    fills until it has answered. Both are of one pair, unless a question needed a larger one.
    """

    def __init__(self, process: WorkerProcess, key: int, settings: Settings) -> None:
        """Asks the worker to open the stream."""
        self._process, self._key = process, key
        self.boxes = self._answering = process.lend(area(settings))
        self.fitting = settings  # frames are made to fit these
        self._holds: Settings | None = None  # None: it is not open in the worker
        self._asked: Settings | None = None
        self._next: Settings | None = None
        self._lost_in = self._lost_out = 0  # in pairs that were given back
        self.waits = False  # refused for lack of memory
        self.ask(settings)

    @property
    def outbox(self) -> Mailbox:
        return self._answering.outbox

    @property
    def overwritten(self) -> tuple[int, int]:
        """Frames and pictures that newer ones overwrote."""
        return self._lost_in + self.boxes.inbox.missed, self._lost_out + self.outbox.missed

    def ask(self, settings: Settings) -> None:
        """For these settings; where a question is on its way, after its answer."""
        if self._asked is not None:
            self._next = settings
            return
        self._asked = self.fitting = settings
        self.waits = False
        larger = area(settings) > self.boxes.address.pixels
        if larger:
            self.boxes = self._process.lend(area(settings))
        if self._holds is None:
            self._process.send(Open(self._key, settings, self.boxes.address))
        else:
            self._process.send(Apply(self._key, settings, self.boxes.address if larger else None))

    def answered(self, message: Applied) -> bool:
        """Whether there is no newer question; where there is, it is on its way now."""
        self._asked, self._holds = None, message.settings
        if self._answering is not self.boxes:
            self._process.take_back(self._retired(self._answering))
            self._answering = self.boxes
        newer, self._next = self._next, None
        if newer is not None:
            self.ask(newer)
            return False
        self.fitting = message.settings or self.fitting
        return True

    def changed(self, settings: Settings) -> bool:
        """The worker holds others of itself: whether no question is on its way, whose answer will say so."""
        self._holds = settings
        if self._asked is None:
            self.fitting = settings
        return self._asked is None

    def refused(self) -> None:
        """The worker has closed it of itself."""
        self._holds, self.waits = None, self._asked is None

    def close(self) -> tuple[int, int]:
        """Lets go of the mailboxes: frames and pictures lost, those included that nobody will take any more."""
        for boxes in {id(x): x for x in (self.boxes, self._answering)}.values():
            self._retired(boxes)
        return self._lost_in, self._lost_out

    @property
    def addresses(self) -> set[Address]:
        """Where the mailboxes are."""
        return {self.boxes.address, self._answering.address}

    def _retired(self, boxes: Boxes) -> Address:
        self._lost_in += boxes.inbox.lost
        self._lost_out += boxes.outbox.lost
        boxes.close()
        return boxes.address


def safely(call: Callable[..., None], *arguments: object) -> None:
    """Calls somebody else's function: its errors are logged, and nobody else's trouble."""
    try:
        call(*arguments)
    except Exception:  # the boundary: one listener's fault must not stop the others' pictures
        log.exception("%r failed", call)
