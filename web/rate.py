"""How often somebody may do something."""

from __future__ import annotations

import time
from collections.abc import Callable

KEYS = 4096  # that are remembered at most


class Rate:
    """At most `count` in `per_s` seconds by key, spread evenly after a burst (a token bucket for each key)."""

    def __init__(self, count: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._per_s, self._clock = count, per_s, clock
        self._left: dict[str, tuple[float, float]] = {}  # by key: tokens, and when they were counted

    def wait_s(self, key: str = "") -> float:
        """Takes one; 0, or the seconds until there is one again."""
        now, tokens = self._clock(), self._tokens(key)
        taken = tokens >= 1
        self._left.pop(key, None)
        self._left[key] = tokens - taken, now
        while len(self._left) > KEYS:
            del self._left[next(iter(self._left))]  # whoever asked longest ago
        return 0.0 if taken else self._until_one(tokens)

    def left_s(self, key: str = "") -> float:
        """As `wait_s`, and takes none."""
        return self._until_one(self._tokens(key))

    def _tokens(self, key: str) -> float:
        now = self._clock()
        tokens, since = self._left.get(key, (float(self._count), now))
        return min(self._count, tokens + (now - since) * self._count / self._per_s)

    def _until_one(self, tokens: float) -> float:
        return max(0.0, 1 - tokens) * self._per_s / self._count
