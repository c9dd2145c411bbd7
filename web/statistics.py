"""How a session goes: rates, and milliseconds by percentile, over the last moments."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from stream.timing import percentiles
from web.fields import Percentiles

KEPT = 90  # newest measurements: three seconds at 30 fps


def summed(values_ms: Mapping[str, float]) -> Percentiles:
    """p50 and p95 of what `stream.timing.percentiles` found."""
    return Percentiles(p50=values_ms.get("p50"), p95=values_ms.get("p95"))


class Meter:
    """Counts a session's pictures. `tick` turns the counts since the last one into rates."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, clock()
        self._arrived = self._left = 0
        self._engine_ms: deque[float] = deque(maxlen=KEPT)
        self._server_ms: deque[float] = deque(maxlen=KEPT)
        self.fps_in = self.fps_out = 0.0

    def arrived(self) -> None:
        """A picture came in."""
        self._arrived += 1

    def left(self, captured_at: float | None, engine_ms: float) -> float | None:
        """A painted picture goes out; `captured_at` is when its input came, by the same clock: ms since then."""
        self._left += 1
        self._engine_ms.append(engine_ms)
        if captured_at is None:
            return None
        self._server_ms.append(max(0.0, self._clock() - captured_at) * 1000)
        return self._server_ms[-1]

    def tick(self) -> None:
        """Begins the next span."""
        now = self._clock()
        span = max(now - self._since, 1e-3)
        self.fps_in, self.fps_out = round(self._arrived / span, 1), round(self._left / span, 1)
        self._since, self._arrived, self._left = now, 0, 0

    def forget(self) -> None:
        """Milliseconds of before say nothing any more: the worker died."""
        self._engine_ms.clear()
        self._server_ms.clear()

    @property
    def engine_ms(self) -> Percentiles:
        return summed(percentiles(list(self._engine_ms)))

    @property
    def server_ms(self) -> Percentiles:
        return summed(percentiles(list(self._server_ms)))
