"""Loss, delay and jitter in simulated time: what the way in makes of them, with no machine in between.

The buffer and the NACKs are the real ones; sender, line and clock are played. The rows R1 and R2 in a real browser
(tests/browser/test_network.py) take as long as the machine makes them, these figures are always the same.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tools.sightings import frozen
from web.media.jitter import EncodedFrame, FrameBuffer, KeyRequests
from web.media.nack import TICK_S, Nacks

FPS = 30
PACKETS, KEY_PACKETS = 9, 20  # of a frame at 2.5 Mbit/s, of a key frame
APART_S = 0.0005  # between the packets of a frame


@dataclass
class Played:
    """A sender that answers NACKs and requests for key frames, a line in both directions, and our receiver."""

    loss: float
    way_s: float
    jitter_s: float = 0.0
    seed: int = 0
    now: float = 0.0
    sent: list[float] = field(default_factory=list)
    came: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance, self._order = random.Random(self.seed), itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._history: dict[int, Any] = {}
        self._key_wanted, self._ticking, self._keys_sent = True, False, set[int]()
        self.keys = KeyRequests(lambda: self.now)
        self.nacks = Nacks(lambda: self.now)
        self.buffer = FrameBuffer(self._delivered, self.keys, lambda: self.now)

    def play(self, seconds: float) -> Played:
        self._at(0.0, self._send_frame)
        while self._events[0][0] < seconds:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self

    @property
    def latency_ms(self) -> list[float]:
        return [(at - self.sent[number]) * 1000 for number, at in self.came]

    def _at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def _over(self, event: Callable[[], None], after_s: float = 0.0) -> None:
        """Through the line, if it is not lost."""
        if self._chance.random() >= self.loss:
            self._at(self.now + after_s + self.way_s + self._chance.uniform(0, self.jitter_s), event)

    # The sender

    def _send_frame(self) -> None:
        number = len(self.sent)
        self.sent.append(self.now)
        count = KEY_PACKETS if self._key_wanted else PACKETS
        if self._key_wanted:
            self._keys_sent.add(number)
            self._key_wanted = False
        for k in range(count):
            sequence = len(self._history)
            packet = SimpleNamespace(sequence_number=sequence & 0xFFFF, timestamp=number, marker=int(k == count - 1),
                                     _data=b"x")  # fmt: skip
            self._history[sequence] = packet
            self._over(lambda packet=packet: self._receive(packet), k * APART_S)  # type: ignore[misc]
        self._at(self.now + 1 / FPS, self._send_frame)

    def _repair(self, lost: list[int]) -> None:
        newest = len(self._history) - 1
        for number in lost:
            packet = self._history[newest - (newest - number) % 65536]
            self._over(lambda packet=packet: self._receive(packet))  # type: ignore[misc]

    def _want_key(self) -> None:
        self._key_wanted = True

    # The receiver, as web.media.receiver.LiveReceiver has it

    def _receive(self, packet: Any) -> None:
        self.nacks.add(packet)
        if self.buffer.add(packet)[0]:
            self._over(self._want_key)
        if self.nacks.missing and not self._ticking:
            self._ticking = True
            self._at(self.now + TICK_S, self._tick)

    def _tick(self) -> None:
        self.buffer.patience_s = self.nacks.patience_s
        lost, key = self.nacks.due(), self.buffer.overdue()
        if lost:
            self._over(lambda: self._repair(lost))
        if key:
            self._over(self._want_key)
        self._ticking = bool(self.nacks.missing)
        if self._ticking:
            self._at(self.now + TICK_S, self._tick)

    def _delivered(self, frame: EncodedFrame) -> None:
        self.came.append((frame.timestamp, self.now))
        if frame.timestamp in self._keys_sent:
            self.keys.came()


@pytest.mark.parametrize(
    ("loss", "rtt_s", "jitter_s", "p95_ms", "given_up"),
    [(0.0, 0.002, 0.0, 6, 0), (0.05, 0.002, 0.0, 60, 0), (0.1, 0.002, 0.0, 75, 0.001), (0.2, 0.002, 0.0, 120, 0.01),
     (0.0, 0.05, 0.01, 50, 0), (0.05, 0.05, 0.01, 170, 0.002)],
)  # fmt: skip
def test_what_a_line_loses_costs_tenths_of_a_second_and_hardly_a_frame(
    loss: float, rtt_s: float, jitter_s: float, p95_ms: float, given_up: float
) -> None:
    played = [Played(loss, rtt_s / 2, jitter_s, seed).play(30) for seed in range(3)]
    latency = [ms for one in played for ms in one.latency_ms]
    assert np.percentile(latency, 95) <= p95_ms
    assert sum(one.buffer.given_up for one in played) <= given_up * sum(len(one.sent) for one in played)
    for one in played:
        assert frozen([at * 1000 for _, at in one.came]) <= 0.01
        assert len(one.came) >= (1 - given_up) * len(one.sent) - 12


def test_key_frames_are_not_asked_for_while_packets_come_back() -> None:
    played = Played(0.05, 0.001).play(60)
    assert played.keys.count == 0
    assert played.nacks.recovered > 500
