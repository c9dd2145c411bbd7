"""How much a page may send to us: REMB by the delay that its packets gather on their way.

In place of aiortc's estimator, which takes every hiccup of a busy machine for a full link, and then brings a camera
from 2.5 to 0.3 Mbit/s and a quarter of its pixels for minutes. Here only the smallest delay of half a second counts:
a full queue delays every packet, a hiccup some. The answers are those of draft-ietf-rmcat-gcc-02 section 5.5.
"""

from __future__ import annotations

from collections import deque

WINDOW_MS = 500
BASE_MS = 20_000  # the shortest way is looked for in as long; clocks drift 1 ms meanwhile
QUEUE_MS = 60  # of delay over the shortest way: the link is full
REPORT_MS = 1000  # between estimates
DECREASE_MS = 400  # between decreases: the last one has to show
BACK_OFF = 0.85  # of what came through
GROWTH = 1.08  # a second
SEND_TICKS = 1 << 24  # abs_send_time wraps, 64 s
SEND_MS = 1000 / (1 << 18)


class Least:
    """The smallest value of the newest `span_ms`."""

    def __init__(self, span_ms: int) -> None:
        self._span_ms = span_ms
        self._rising: deque[tuple[int, float]] = deque()  # each the smallest of those behind it

    def add(self, now_ms: int, value: float) -> float:
        while self._rising and self._rising[-1][1] >= value:
            self._rising.pop()
        self._rising.append((now_ms, value))
        while self._rising[0][0] < now_ms - self._span_ms:
            self._rising.popleft()
        return self._rising[0][1]


class Throughput:
    """Bits a second that came in the newest `WINDOW_MS`."""

    def __init__(self) -> None:
        self._came: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def add(self, now_ms: int, size: int) -> float:
        self._came.append((now_ms, size))
        self._bytes += size
        while self._came[0][0] <= now_ms - WINDOW_MS:
            self._bytes -= self._came.popleft()[1]
        return self._bytes * 8000 / WINDOW_MS


class Estimator:
    """The shape of aiortc's `RemoteBitrateEstimator`; never under `low` nor over `high` bits a second."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self.bitrate = float(high)
        self.queue_ms = 0.0
        self._ssrcs: dict[int, None] = {}
        self._throughput = Throughput()
        self._sent: int | None = None
        self._sent_ms = 0.0
        self._newest, self._base = Least(WINDOW_MS), Least(BASE_MS)
        self._reported_ms = self._decreased_ms = 0

    def add(
        self, arrival_time_ms: int, abs_send_time: int, payload_size: int, ssrc: int
    ) -> tuple[int, list[int]] | None:
        """The estimate and the streams it is for, when it is time to report it."""
        self._ssrcs[ssrc] = None
        rate = self._throughput.add(arrival_time_ms, payload_size)
        delay = arrival_time_ms - self._unwrapped(abs_send_time)
        self.queue_ms = self._newest.add(arrival_time_ms, delay) - self._base.add(arrival_time_ms, delay)
        self._reported_ms = self._reported_ms or arrival_time_ms
        if self.queue_ms > QUEUE_MS and arrival_time_ms - self._decreased_ms >= DECREASE_MS:
            self._decreased_ms = arrival_time_ms
            self._set(min(self.bitrate, BACK_OFF * rate))
            return self._report(arrival_time_ms)
        if arrival_time_ms - self._reported_ms < REPORT_MS:
            return None
        if self.queue_ms < QUEUE_MS / 2:
            self._set(self.bitrate * GROWTH)
        return self._report(arrival_time_ms)

    def _set(self, bitrate: float) -> None:
        self.bitrate = min(max(bitrate, self._low), self._high)

    def _report(self, now_ms: int) -> tuple[int, list[int]]:
        self._reported_ms = now_ms
        return int(self.bitrate), list(self._ssrcs)

    def _unwrapped(self, abs_send_time: int) -> float:
        """Milliseconds of the sender's clock."""
        if self._sent is not None:
            ahead = (abs_send_time - self._sent + SEND_TICKS // 2) % SEND_TICKS - SEND_TICKS // 2
            self._sent_ms += ahead * SEND_MS
        self._sent = abs_send_time
        return self._sent_ms
