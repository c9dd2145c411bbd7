"""How long each stage took, for the overlay, the report and the bench."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

KEPT = 4096  # newest measurements a stage keeps


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """p50, p95 and p99 of milliseconds, and how many there are."""
    if not values_ms:
        return {"count": 0}
    p50, p95, p99 = np.percentile(values_ms, [50, 95, 99])
    named = {"p50": p50, "p95": p95, "p99": p99}
    return {"count": len(values_ms)} | {name: round(float(value), 3) for name, value in named.items()}


class Stopwatch:
    """Milliseconds by stage: the newest `KEPT` of each, and the sum of all."""

    def __init__(self) -> None:
        self.ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
        self.total_ms: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent = (time.perf_counter() - start) * 1000
        self.ms[stage].append(spent)
        self.total_ms[stage] += spent

    def clear(self) -> None:
        self.ms.clear()
        self.total_ms.clear()

    def report(self) -> dict[str, dict[str, float]]:
        """Percentiles and the sum of every stage."""
        return {
            stage: percentiles(list(values)) | {"total": round(self.total_ms[stage], 1)}
            for stage, values in self.ms.items()
        }
