"""A session's sound: Opus packets as they came, held back for as long as the picture is on its way, to whoever listens.

Nothing is decoded. Every packet is mapped to the moment at which a picture captured with it would have come in, waits
as long as pictures wait from there until they are shown, and goes out. That wait is measured by the pictures
themselves, rows in flight included. It changes by stretching the time between packets, which a receiver follows by
stretching sound, and never by a jump, which clicks.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import median
from typing import NamedTuple

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

RATE = 48_000  # of every Opus stream's clock (RFC 7587 section 4.1)
SLEW = 0.1, 0.25  # seconds a second by which the wait may change: browsers stretch sound by that without a click
FAR_S = 0.1  # off by more: the faster one
JUMP_S = 5.0  # off by more: the sender's clock has begun anew
WAYS = 15  # pictures whose median is the way: half a second
WAITING = 500  # packets that may wait for their moment, 10 s; then the oldest go
QUEUED = 50  # packets that a listener may be behind, 1 s

Clock = Callable[[], float]


class Heard(NamedTuple):
    """A packet whose moment has come: `data` is Opus; `pts` in 1/48000 s of `time.monotonic()`, as is the `shown_at` of
    pictures that belong to it; `captured_at` in seconds as the `captured_at` of frames."""

    data: bytes
    pts: int
    captured_at: float


@dataclass(frozen=True, slots=True)
class Due:
    """`ticks` run as the sender's own do, without gaps where the wait changes: what RTP wants."""

    heard: Heard
    ticks: int


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    ticks: int
    data: bytes = field(compare=False)
    captured_at: float = field(compare=False)


class Listener:
    """One who listens: `async for data, pts, captured_at in sound.listen()`. Holds `QUEUED` packets, then drops the
    oldest and counts them in `dropped`. Ends when it or the sound is closed."""

    def __init__(self, sound: Sound) -> None:
        self._sound, self._queue, self._wake = sound, deque[Due](), asyncio.Event()
        self.closed = False
        self.dropped = 0

    def __aiter__(self) -> AsyncIterator[Heard]:
        return self

    async def __anext__(self) -> Heard:
        return (await self.due()).heard

    async def due(self) -> Due:
        """The next packet. StopAsyncIteration once closed."""
        while not self.closed:
            if self._queue:
                return self._queue.popleft()
            self._wake.clear()
            await self._wake.wait()
        raise StopAsyncIteration

    def put(self, packet: Due) -> None:
        self._queue.append(packet)
        if len(self._queue) > QUEUED:
            self._queue.popleft()
            self.dropped += 1
        self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._sound.forget(self)
        self._wake.set()


class Feed:
    """One who brings sound. The newest one of a `Sound` counts; what an older one still brings is not taken."""

    def __init__(self, sound: Sound) -> None:
        self._sound = sound

    def put(self, data: bytes, ticks: int, captured_at: float) -> None:
        """A packet of Opus in any order; `ticks` in 1/48000 s, unwrapped; `captured_at` as that of frames."""
        self._sound.take(self, Waiting(ticks, data, captured_at))


class Timeline:
    """When packets are due: `ticks / RATE + lag`, where the lag follows its target at `SLEW`."""

    def __init__(self) -> None:
        self._lag: float | None = None
        self._ticks = self._anchor = 0

    def begin(self) -> None:
        """Another sender, other ticks: the next packet is due when it should be."""
        self._lag = None

    def due(self, ticks: int, wanted: float) -> tuple[float, int]:
        """The moment for the packet at `ticks` that should go out at `wanted`, and its ticks on the way out."""
        target = wanted - ticks / RATE
        if self._lag is None or abs(target - self._lag) > JUMP_S:
            self._lag, self._anchor = target, round(wanted * RATE) - ticks
        else:
            off = target - self._lag
            most = SLEW[abs(off) > FAR_S] * max(0, ticks - self._ticks) / RATE
            self._lag += min(max(off, -most), most)
        self._ticks = ticks
        return ticks / RATE + self._lag, ticks + self._anchor


class Sound:
    """The sound of one session. All on the event loop. Without anybody who feeds it, nobody hears anything.

    `shown` is told of every picture: how long after its coming in it is shown is how long sound is held back.
    """

    def __init__(self, belongs: Callable[[], bool] = lambda: True, clock: Clock = time.monotonic) -> None:
        """`belongs`: whether what is brought is of the picture that is shown now; else nobody hears it."""
        self._belongs, self._clock = belongs, clock
        self._ways = deque[float](maxlen=WAYS)
        self._feed: Feed | None = None
        self._timeline = Timeline()
        self._waiting: list[Waiting] = []  # by ticks: packets that came out of order are put in order here
        self._last_ticks: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: set[Listener] = set()
        self.closed = False
        self.late = self.dropped = self.sent = 0

    @property
    def way_s(self) -> float | None:
        """From a picture's coming in to its showing; None before the first."""
        return median(self._ways) if self._ways else None

    @property
    def fed(self) -> bool:
        """Whether somebody ever brought sound."""
        return self._feed is not None

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def shown(self, captured_at: float | None) -> None:
        """A picture captured then is shown now."""
        if captured_at is not None:
            self._ways.append(max(0.0, self._clock() - captured_at))

    def feed(self) -> Feed:
        """Takes the place of whoever fed it before."""
        self._feed, self._last_ticks = Feed(self), None
        self._waiting.clear()
        self._timeline.begin()
        return self._feed

    def listen(self) -> Listener:
        """From now on."""
        listener = Listener(self)
        listener.closed = self.closed
        if not self.closed:
            self._listeners.add(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def take(self, feed: Feed, packet: Waiting) -> None:
        """For `Feed.put`. Before the first picture there is nothing to be in step with: the packet is dropped."""
        if self.closed or feed is not self._feed or self.way_s is None or not self._belongs():
            return
        if packet in self._waiting or (self._last_ticks is not None and packet.ticks <= self._last_ticks):
            self.late += 1
            return
        bisect.insort(self._waiting, packet)
        if len(self._waiting) > WAITING:
            self._waiting.pop(0)
            self.dropped += 1
        self._go()

    def close(self) -> None:
        """Ends every listener."""
        self.closed = True
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        for listener in list(self._listeners):
            listener.close()

    def _go(self) -> None:
        """Sets the timer for the first packet: one that came later may be earlier."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            moment = self._due()[0]
            self._timer = asyncio.get_running_loop().call_later(max(0.0, moment - self._clock()), self._ring)

    def _due(self) -> tuple[float, int]:
        first = self._waiting[0]
        return self._timeline.due(first.ticks, first.captured_at + (self.way_s or 0.0))

    def _ring(self) -> None:
        """The first packet's moment has come."""
        self._timer = None
        moment, ticks = self._due()
        packet = self._waiting.pop(0)
        self._last_ticks = packet.ticks
        self.sent += 1
        due = Due(Heard(packet.data, round(moment * RATE), packet.captured_at), ticks)
        for listener in tuple(self._listeners):
            listener.put(due)
        self._go()


class SoundTrack(MediaStreamTrack):
    """A session's sound as a track, for aiortc's own sender: packets pass through it as they are."""

    kind = "audio"

    def __init__(self, sound: Sound) -> None:
        super().__init__()
        self.listener = sound.listen()

    async def recv(self) -> av.Packet[av.stream.Stream]:
        """The next packet; MediaStreamError once the sound has ended."""
        try:
            due = await self.listener.due()
        except StopAsyncIteration:
            raise MediaStreamError from None
        packet: av.Packet[av.stream.Stream] = av.Packet(due.heard.data)
        packet.pts, packet.time_base = due.ticks, Fraction(1, RATE)
        return packet

    def stop(self) -> None:
        self.listener.close()
        super().stop()
