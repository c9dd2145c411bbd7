"""RTP packets of one video stream become encoded frames, each released the moment it is complete.

The stock buffer holds a frame until the first packet of the next one has come (33 ms at 30 frames a second), and waits
without limit for a lost packet. Here the marker bit ends a frame (RFC 6184 section 5.1, RFC 7741 section 4.1), and a
hole is given up after a while: the frames it touches are left out and a key frame is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

CAPACITY = 1024  # packets; a jump further than that is a new stream
PATIENCE_S = (0.06, 0.25)  # shortest and longest wait for a lost packet: up to 0.1 s where the way is short
KEY_RETRY_S = 0.3
STALL_S = 0.025  # between two looks at a hole, which are every 5 ms: the event loop was held up, and read nothing

Clock = Callable[[], float]


class Packet(Protocol):
    """What is read of aiortc's `RtpPacket`; `_data` is its payload without the codec's RTP header."""

    sequence_number: int
    timestamp: int
    marker: int
    _data: bytes


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """`data` for the decoder, `timestamp` as in its packets, `arrived` the monotonic time of the first of them."""

    data: bytes
    timestamp: int
    arrived: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """`stalled_s`: of the buffer, by then."""

    packet: Packet
    at: float
    stalled_s: float


class Unwrap:
    """Counters of `bits` bits that wrap, made to run on: the nearest value to the last one."""

    def __init__(self, bits: int) -> None:
        self._span = 1 << bits
        self.last: int | None = None

    def __call__(self, value: int) -> int:
        self.last = self.near(value)
        return self.last

    def near(self, value: int) -> int:
        """As the call, without taking it as the last one."""
        if self.last is None:
            return value
        ahead = (value - self.last) % self._span
        return self.last + (ahead if ahead < self._span // 2 else ahead - self._span)


class KeyRequests:
    """Whether a key frame is to be asked for now: once when it is wanted, and again until one has come."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._wanted, self._asked = False, float("-inf")
        self.count = 0

    def want(self) -> None:
        self._wanted = True

    def came(self) -> None:
        self._wanted = False

    def due(self) -> bool:
        """True when one is to be sent; taken as sent."""
        now = self._clock()
        if not self._wanted or now - self._asked < KEY_RETRY_S:
            return False
        self._asked, self.count = now, self.count + 1
        return True


class FrameBuffer:
    """In place of aiortc's `JitterBuffer`: `add` has its shape, but frames go to `deliver`, as many as are complete.

    A hole's age leaves out when the event loop was held up: what repairs it may wait in the socket meanwhile.
    """

    def __init__(
        self, deliver: Callable[[EncodedFrame], None], keys: KeyRequests, clock: Clock = time.monotonic
    ) -> None:
        self._deliver, self._keys, self._clock = deliver, keys, clock
        self._unwrap = Unwrap(16)
        self._next: int | None = None
        self._packets: dict[int, Arrived] = {}
        self._looked_at: float | None = None  # where there was a hole
        self._stalled_s = 0.0
        self.patience_s = PATIENCE_S[0]
        self.given_up = 0  # holes

    def __len__(self) -> int:
        """Packets held."""
        return len(self._packets)

    @property
    def holed(self) -> bool:
        """Whether a packet is missing: then `overdue` is to be called every few milliseconds."""
        return self._looked_at is not None

    def add(self, packet: Packet) -> tuple[bool, None]:
        """Whether a key frame is to be asked for."""
        number = self._unwrap.near(packet.sequence_number)
        if self._next is None or abs(number - self._next) > CAPACITY:
            self._restart(packet.sequence_number)
            number = packet.sequence_number
        if number >= self._next:  # type: ignore[operator]  # set above
            self._unwrap(packet.sequence_number)
            self._packets.setdefault(number, Arrived(packet, self._clock(), self._stalled_s))
            self._release()
        return self.overdue(), None

    def overdue(self) -> bool:
        """Gives up a hole older than `patience_s`; whether a key frame is to be asked for."""
        age_s = self._age_s()
        if age_s is not None and age_s > self.patience_s and self._skip():
            self._looked_at = None
            self._release()
        return self._keys.due()

    def _restart(self, number: int) -> None:
        """The first packet, or a sender that counts anew."""
        if self._next is not None:
            self._keys.want()
        self._packets.clear()
        self._unwrap.last = self._next = number

    def _release(self) -> None:
        while (parts := self._complete()) is not None:
            data = b"".join(part.packet._data for part in parts)
            if data:  # none in packets of padding
                self._deliver(EncodedFrame(data, parts[0].packet.timestamp, min(part.at for part in parts)))

    def _complete(self) -> list[Arrived] | None:
        """Takes out the packets of the next frame: up to a marker, or to another timestamp where that is missing."""
        parts: list[Arrived] = []
        number = self._next or 0
        while (part := self._packets.get(number)) is not None:
            if parts and part.packet.timestamp != parts[0].packet.timestamp:
                return self._taken(parts)
            parts.append(part)
            number += 1
            if part.packet.marker:
                return self._taken(parts)
        return None

    def _taken(self, parts: list[Arrived]) -> list[Arrived]:
        start = self._next or 0
        self._next = start + len(parts)
        for number in range(start, self._next):
            del self._packets[number]
        return parts

    def _hole(self) -> int | None:
        """The first packet that is missing while later ones are here."""
        if not self._packets or self._next is None:
            return None
        number = self._next
        while number in self._packets:
            number += 1
        return number if number < max(self._packets) else None

    def _age_s(self) -> float | None:
        """For how long there has been a hole; None where there is none."""
        hole, now = self._hole(), self._clock()
        if hole is not None and self._looked_at is not None and now - self._looked_at > STALL_S:
            self._stalled_s += now - self._looked_at
        self._looked_at = None if hole is None else now
        if hole is None:
            return None
        first = min((part for number, part in self._packets.items() if number > hole), key=lambda part: part.at)
        return now - first.at - (self._stalled_s - first.stalled_s)

    def _skip(self) -> bool:
        """Goes on at the first frame behind the hole whose beginning is certain: what precedes it ends another."""
        hole = self._hole()
        starts = (n for n in sorted(self._packets) if hole is not None and n > hole + 1 and self._begins(n))
        start = next(starts, None)
        last = max(self._packets)
        if start is None and self._packets[last].packet.marker:
            start = last + 1
        if start is None:
            return False
        self._next = start
        self._packets = {number: part for number, part in self._packets.items() if number >= start}
        self._keys.want()
        self.given_up += 1
        return True

    def _begins(self, number: int) -> bool:
        before = self._packets.get(number - 1)
        return before is not None and bool(
            before.packet.marker or before.packet.timestamp != self._packets[number].packet.timestamp
        )
