"""Lost packets are asked for again (RFC 4585 section 6.2.1): after a window for mere reordering, and more than once.

The stock generator asks the moment a number is missing, so that every reordered packet costs a NACK, and never again,
so that a lost NACK or a lost answer freezes the picture.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

from web.media.jitter import PATIENCE_S, Clock, Unwrap

REORDER_S = 0.012  # a packet that is later than that is lost
RETRY_S = (0.015, 0.06)  # shortest and longest time to the next try
TRIES = 3, 8  # least and most that a frame is held for
GIVEN_UP = 0.002  # share of frames that may be given up though trying on would have brought them
FRAME = 12  # packets, about
MEMORY = 0.998  # of a packet, until the next: loss is that of the last 500 or so
SPARE_S = 0.01
TICK_S = 0.005
BURST = 100  # packets lost in a row that are still worth asking for
FORGET_S = 0.3


class Numbered(Protocol):
    sequence_number: int


@dataclass(slots=True)
class Hole:
    since: float
    asked_at: float = 0.0
    times: int = 0


class Nacks:
    """In place of aiortc's `NackGenerator`. `add` never asks for a NACK at once: `due` says what to ask for, when."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._unwrap = Unwrap(16)
        self.missing: dict[int, Hole] = {}
        self.rtt_s = 0.03
        self.asked = self.recovered = 0
        self._seen = self._lost = 0.0

    @property
    def retry_s(self) -> float:
        """Half a round trip: on a long way some packets come twice, which costs less than a try that comes late."""
        return min(max(self.rtt_s / 2, RETRY_S[0]), RETRY_S[1])

    @property
    def loss(self) -> float:
        """Share of the packets that had to be asked for lately."""
        return self._lost / self._seen if self._seen else 0.0

    @property
    def tries(self) -> int:
        """For which a frame is held, so that no more than `GIVEN_UP` are in vain: of two packets in a row, the question
        and the answer, one is lost oftener than one alone. A key frame instead costs more, and may be lost as well."""
        holed, fails = FRAME * self.loss, 1 - (1 - min(self.loss, 0.5)) ** 2
        if holed <= GIVEN_UP:
            return TRIES[0]
        wanted = math.ceil(math.log(GIVEN_UP / holed) / math.log(fails))  # holed * fails ** wanted <= GIVEN_UP
        return min(max(wanted, TRIES[0]), TRIES[1])

    @property
    def patience_s(self) -> float:
        """How long a hole is worth waiting for."""
        wanted = REORDER_S + self.tries * self.retry_s + self.rtt_s + SPARE_S
        return min(max(wanted, PATIENCE_S[0]), PATIENCE_S[1])

    def add(self, packet: Numbered) -> bool:
        highest = self._unwrap.last
        number = self._unwrap.near(packet.sequence_number)
        if highest is None or number > highest:
            self._unwrap(packet.sequence_number)
            self._seen = MEMORY * self._seen + (1 if highest is None else min(number - highest, BURST))
            self._lost *= MEMORY
            if highest is not None and number - highest <= BURST:
                self.missing |= {lost: Hole(self._clock()) for lost in range(highest + 1, number)}
        else:
            self._found(number)
        return False

    def due(self) -> list[int]:
        """Sequence numbers to ask for now, which are taken as asked for; rising, as aiortc's packet wants them."""
        now = self._clock()
        self.missing = {number: hole for number, hole in self.missing.items() if now - hole.since < FORGET_S}
        asked = [number for number, hole in self.missing.items() if self._is_due(hole, now)]
        for number in asked:
            hole = self.missing[number]
            self._lost += hole.times == 0
            hole.asked_at, hole.times = now, hole.times + 1
        self.asked += len(asked)
        return sorted(number & 0xFFFF for number in asked)

    def _is_due(self, hole: Hole, now: float) -> bool:
        return now - hole.asked_at >= self.retry_s if hole.times else now - hole.since >= REORDER_S

    def _found(self, number: int) -> None:
        hole = self.missing.pop(number, None)
        if hole is None or not hole.times:
            return
        self.recovered += 1
        took = self._clock() - hole.since - REORDER_S  # since the first try, which was answered more often than not
        self.rtt_s = took if took < self.rtt_s else self.rtt_s + 0.05 * (took - self.rtt_s)
