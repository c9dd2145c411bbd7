"""A session's pictures, encoded once for all who look: every sender of a codec takes the same frames.

A sender whose line carries less than the others' moves to a lower rung, which is an encoder of its own at a rate of
its own: the others lose nothing by it. Who asks for key frames again and again moves too, as all of a rung get them.
Mostly there is one rung. Moves take time both ways, so that nobody goes up and down with every report.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import av

from web.media import pools
from web.media.encode import LiveEncoder, make_encoder
from web.media.rate import EXPECTED, Limits, Rate

if TYPE_CHECKING:
    from web.pictures import Picture, Pictures

log = logging.getLogger(__name__)

Clock = Callable[[], float]

STILL_S = 0.5  # a picture that stands still is sent again: the first packets may come before a peer is ready
KEY_GAP_S = 0.1  # between key frames that a peer asks for
BACKLOG = 8  # encoded frames that a sender may be behind; then it goes on with a key frame
FLOORS = 0.6, 0.3, 0.0  # of the best line's rate: the least that a line must carry for its rung
ABOVE = 1.25  # times the floor of the next rung up: enough to go there
DOWN_S, UP_S = 1.0, 5.0  # for which a line must be worse or better than its rung
CALM_S = 10.0  # without a sign of a full line: then the next rung is tried, whatever a receiver says that got little
CALM_MOST_S = 160.0  # each try that fails doubles it up to this
NEEDY, NEEDY_S = 6, 5.0  # key frames asked for within: more than a rung that is shared should give
ARRANGE_S = 0.25  # between looks at who is where


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame for whoever takes it. `picture`: what it is of, None where it was sent before; `pts` in 1/90000 s."""

    payloads: list[bytes]
    pts: int
    key: bool
    picture: Picture | None


class Seat:
    """One sender's place: it takes frames by `next` and tells by `rate` what its line carries."""

    def __init__(self, group: Group, rate: Rate) -> None:
        self.rate, self.rung = rate, 0
        self.closed = False
        self.keys = self.dropped = self.moves = 0
        self._group = group
        self._frames, self._wake = deque[Encoded](), asyncio.Event()
        self._asked = deque[float](maxlen=NEEDY)
        self._behind = True  # until a key frame comes
        self._fell = False  # and asks for one when it takes frames again
        self.encoding: Encoding | None = None
        self.changing: Encoding | None = None  # to it, with its next key frame
        self.line = Line(rate)

    async def next(self) -> Encoded:
        """The next frame; StopAsyncIteration once the pictures have ended."""
        while not self._frames:
            if self.closed:
                raise StopAsyncIteration
            if self._fell:
                self._fell = False
                self.ask_key()
            self._wake.clear()
            await self._wake.wait()
        return self._frames.popleft()

    def ask_key(self) -> None:
        """The other side cannot go on without a key frame."""
        self._asked.append(self._group.clock())
        if self.encoding is not None:
            self.encoding.want_key()

    def needy(self, now: float) -> bool:
        return len(self._asked) == NEEDY and now - self._asked[0] < NEEDY_S

    def put(self, frame: Encoded, by: Encoding) -> None:
        """Of its encoding, or of the one that it is changing to."""
        if by is self.changing and frame.key:
            self._change()
        if by is not self.encoding or (self._behind and not frame.key):
            return
        if len(self._frames) >= BACKLOG:
            self._fall_behind()
            return
        self._behind = False
        self.keys += frame.key
        self._frames.append(frame)
        self._wake.set()

    def end(self) -> None:
        """No more frames come."""
        self.closed = True
        self._wake.set()

    def close(self) -> None:
        """Leaves."""
        self.end()
        self._group.leave(self)

    def takes(self, encoding: Encoding) -> bool:
        """Whether it is that one's, by now or soon."""
        return encoding is (self.changing or self.encoding)

    def _fall_behind(self) -> None:
        self.dropped += len(self._frames) + 1
        self._frames.clear()
        self._behind = self._fell = True

    def _change(self) -> None:
        old, self.encoding, self.changing = self.encoding, self.changing, None
        self.moves += 1
        if old is not None:
            old.leave(self)


class Line:
    """Which rung a line is good for, by what it carries beside the best one."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._worse_since: float | None = None
        self._better_since: float | None = None
        self._calm_since = float("-inf")
        self._calm_s = CALM_S
        self._tried_at = float("-inf")

    def rung(self, now: int, at: float, best: int, needy: bool) -> int:
        """The rung to be on, of one that is on rung `now`."""
        target, crowded = self._rate.target, self._rate.crowded
        if crowded:
            self._calm_since = at
        worse = (crowded and target < FLOORS[now] * best) or (needy and now == 0)
        better = now > 0 and not needy and target > ABOVE * FLOORS[now - 1] * best
        self._worse_since = (self._worse_since or at) if worse else None
        self._better_since = (self._better_since or at) if better else None
        if self._worse_since is not None and at - self._worse_since >= DOWN_S:
            return self._moved(now + 1, at)
        if self._better_since is not None and at - self._better_since >= UP_S:
            return self._moved(now - 1, at)
        if now > 0 and not needy and at - max(self._calm_since, self._tried_at) >= self._calm_s:
            return self._moved(now - 1, at)
        return now

    def _moved(self, rung: int, at: float) -> int:
        if self._worse_since is not None:
            failed = at - self._tried_at < self._calm_s
            self._calm_s = min(2 * self._calm_s, CALM_MOST_S) if failed else CALM_S
        self._worse_since = self._better_since = None
        self._tried_at = at
        return rung


class Wanted:
    """The rate of an encoder as `encode.Rebuilt` asks for it; set before each picture."""

    def __init__(self, target: int) -> None:
        self.target = target

    def resize(self, width: int, height: int) -> None:
        """The rates of the lines know the size already."""


class Encoding:
    """One encoder and those who take its frames. Works from the first one to the last one's leaving."""

    def __init__(self, pictures: Pictures, codec: str, group: Group, rung: int) -> None:
        self._group, self._clock, self.rung = group, group.clock, rung
        self._watcher = pictures.watch()
        self._wanted = Wanted(Limits.of(*EXPECTED).start)
        self.encoder: LiveEncoder = make_encoder(codec, self._wanted)
        self.seats: set[Seat] = set()
        self.encode_ms = 0.0
        self._key, self._key_at = True, float("-inf")
        self._pts = self._missed = 0
        self._last: Picture | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def builds(self) -> int:
        return self.encoder.encoder.builds

    def join(self, seat: Seat) -> None:
        self.seats.add(seat)
        self.want_key()

    def leave(self, seat: Seat) -> None:
        self.seats.discard(seat)
        if not self.seats:
            self._watcher.close()
            self._group.ended(self)

    def want_key(self) -> None:
        """A key frame as soon as `KEY_GAP_S` allows: of the newest picture, if no new one comes."""
        if not self._key:
            self._key = True
            wait = max(0.0, self._key_at + KEY_GAP_S - self._clock())
            asyncio.get_running_loop().call_later(wait, self._key_now)

    def _key_now(self) -> None:
        if self._key:
            self._watcher.again()

    async def _run(self) -> None:
        try:
            while True:
                picture = await self._next()
                frame = await self._encoded(picture)
                for seat in tuple(self.seats) if frame is not None else ():
                    seat.put(frame, self)  # type: ignore[arg-type]  # mypy forgets the line above
        except StopAsyncIteration:
            log.debug("an encoder is not needed any more")
        except av.FFmpegError as error:
            log.warning("an encoder failed, whoever took its pictures is closed: %s", error)
        finally:
            self._watcher.close()
            self._group.ended(self)
            for seat in tuple(self.seats):
                seat.end()

    async def _next(self) -> Picture:
        """A new picture, or after `STILL_S` the last one again."""
        while True:
            try:
                async with asyncio.timeout(STILL_S):
                    return await self._watcher.next()
            except TimeoutError:
                self._watcher.again()

    async def _encoded(self, picture: Picture) -> Encoded | None:
        self._prepare(picture)
        key, builds, again = self._key_is_due(), self.builds, picture is self._last
        self._last = picture
        moment = self._clock() if key or again else picture.shown_at  # else a browser takes it for a late one
        self._pts = max(self._pts + 1, round(moment * 90_000))
        loop = asyncio.get_running_loop()
        payloads = await loop.run_in_executor(pools.encoding(), self._encode, picture, self._pts, key)
        if not payloads:
            return None
        return Encoded(payloads, self._pts, key or self.builds > builds, None if again else picture)

    def _prepare(self, picture: Picture) -> None:
        """What is known before a picture is encoded: its size, who missed some, who should be elsewhere, the rate."""
        missed, self._missed = self._watcher.dropped - self._missed, self._watcher.dropped
        height, width = picture.frame.image.shape[:2]
        for seat in self.seats:
            seat.dropped += missed if seat.encoding is self else 0
            seat.rate.resize(width // 2 * 2, height // 2 * 2)
        self._group.arrange()
        self._wanted.target = self._group.rate(self, self._wanted.target)

    def _key_is_due(self) -> bool:
        now = self._clock()
        if not self._key or now - self._key_at < KEY_GAP_S:
            return False
        self._key, self._key_at = False, now
        return True

    def _encode(self, picture: Picture, pts: int, key: bool) -> list[bytes]:
        """In a thread."""
        start = perf_counter()
        payloads = self.encoder.payloads(picture.planes(self.encoder.matrix), pts, key)
        self.encode_ms += 0.1 * ((perf_counter() - start) * 1000 - self.encode_ms)
        return payloads


class Group:
    """All who take one codec, and the encoders of the rungs that they are on."""

    def __init__(self, pictures: Pictures, codec: str, clock: Clock) -> None:
        self.clock = clock
        self._pictures, self._codec = pictures, codec
        self.seats: set[Seat] = set()
        self.rungs: dict[int, Encoding] = {}
        self._arranged_at = float("-inf")

    def join(self, rate: Rate) -> Seat:
        seat = Seat(self, rate)
        if self._pictures.closed:
            seat.end()
            return seat
        self.seats.add(seat)
        seat.encoding = self._at(0)
        seat.encoding.join(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        self.seats.discard(seat)
        for encoding in tuple(self.rungs.values()):
            if seat in encoding.seats:
                encoding.leave(seat)

    def ended(self, encoding: Encoding) -> None:
        self.rungs = {rung: e for rung, e in self.rungs.items() if e is not encoding}

    def arrange(self) -> None:
        """Now and then: who should be on another rung begins to change to it."""
        now = self.clock()
        if now - self._arranged_at < ARRANGE_S:
            return
        self._arranged_at = now
        if len(self.seats) == 1 and not any(seat.rung for seat in self.seats):
            return  # alone: the encoder follows
        best = max(seat.rate.target for seat in self.seats)
        for seat in tuple(self.seats):
            rung = seat.line.rung(seat.rung, now, best, seat.needy(now))
            if rung != seat.rung and seat.changing is None:
                self._move(seat, rung)

    def rate(self, encoding: Encoding, before: int) -> int:
        """What an encoder sends: what the best of its lines takes, but no more than a full one carries that stays."""
        mine = [seat.rate for seat in encoding.seats if seat.takes(encoding)]
        if not mine:
            return before
        least = FLOORS[encoding.rung] * max(seat.rate.target for seat in self.seats)
        full = (rate.target for rate in mine if rate.crowded and rate.target >= least)
        return min([max(rate.target for rate in mine), *full])

    def _move(self, seat: Seat, rung: int) -> None:
        log.debug("a viewer of %s moves from rung %d to %d", self._codec, seat.rung, rung)
        seat.rung, seat.changing = rung, self._at(rung)
        seat.changing.join(seat)

    def _at(self, rung: int) -> Encoding:
        if rung not in self.rungs:
            self.rungs[rung] = Encoding(self._pictures, self._codec, self, rung)
        return self.rungs[rung]


class Encodings:
    """Of one session's pictures: a `Group` for each codec that somebody takes. All on the event loop."""

    def __init__(self, pictures: Pictures, clock: Clock = time.monotonic) -> None:
        self._pictures, self._clock = pictures, clock
        self._groups: dict[str, Group] = {}

    def join(self, codec: str, rate: Rate) -> Seat:
        """A place for one more sender, of aiortc's codec "H264" or "VP8"; it begins with a key frame, made at once."""
        group = self._groups.setdefault(codec, Group(self._pictures, codec, self._clock))
        return group.join(rate)

    @property
    def encoders(self) -> int:
        """At work."""
        return sum(len(group.rungs) for group in self._groups.values())
