"""What the probe saw (`tools/probe.js`), as figures: latencies, gaps, rates. Times are ms of the page's clock.

Rows are as the probe writes them: `counter` and `source` of the mark (None where unread), `shown`, `captured`, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
Numbers = NDArray[np.float64]

PERCENTILES = (50, 95, 99)


def percentiles(values: Sequence[float] | Numbers) -> dict[str, float]:
    """`p50`, `p95`, `p99` to a tenth, and how many there were; ValueError where there are none."""
    if not len(values):
        raise ValueError("no values: nothing was measured")
    return {f"p{p}": round(float(np.percentile(values, p)), 1) for p in PERCENTILES} | {"count": len(values)}


def marked(rows: Iterable[Row]) -> list[Row]:
    """Those whose mark was read."""
    return [r for r in rows if r["counter"] is not None]


def unwrapped(counters: Sequence[int], loop: int) -> NDArray[np.int64]:
    """Counters of a film that begins again every `loop` frames as numbers that go on; steps are taken forwards."""
    steps = np.mod(np.diff(np.asarray(counters, np.int64), prepend=counters[:1]), loop)
    return np.asarray(np.cumsum(steps), np.int64) + counters[0]


class Clock:
    """When the camera took its frames, from those that the page saw of it; the others by interpolation."""

    def __init__(self, camera: Iterable[Row], loop: int) -> None:
        rows = marked(camera)
        if len(rows) < 2:
            raise ValueError(f"the camera showed {len(rows)} marked frames: at least 2 are needed")
        self._loop = loop
        numbers = unwrapped([r["counter"] for r in rows], loop)
        self.numbers, first = np.unique(numbers, return_index=True)
        times = [taken(r) for r in rows]
        self.times: Numbers = np.asarray(times, np.float64)[first]

    def at(self, counter: int, before: float) -> tuple[int, float] | None:
        """Number and moment of the newest frame of that counter taken before a moment; None where none is known."""
        last, first = int(self.numbers[-1]), int(self.numbers[0])
        for number in range(last - (last - counter) % self._loop, first - 1, -self._loop):
            moment = float(np.interp(number, self.numbers, self.times))
            if moment <= before:
                return number, moment
        return None


def taken(row: Row) -> float:
    """When a frame of the camera was captured; when it was shown where the browser does not say."""
    return float(row["shown"] if row["captured"] is None else row["captured"])


def glass_to_glass(camera: Iterable[Row], picture: Iterable[Row], loop: int, end: str = "shown") -> Numbers:
    """From the capture of a frame to the first showing of its picture, ms, in the order shown.

    `end` may be `received` instead: when its last packet came, before the browser's own decoding and drawing.
    """
    clock, seen, out = Clock(camera, loop), set[int](), []
    for row in marked(picture):
        found = clock.at(row["counter"], row["shown"])
        if found is not None and found[0] not in seen:
            seen.add(found[0])
            out.append(row[end] - found[1])
    return np.asarray(out, np.float64)


def drift(values: Numbers) -> float:
    """Mean of the second half less that of the first: a browser shows pictures at the screen's pace, and a median may
    leap by a whole repaint where next to nothing has changed."""
    middle = len(values) // 2
    return float(values[middle:].mean() - values[:middle].mean())


def rate(rows: Sequence[Row]) -> float:
    """Frames a second that the browser presented, those included that the probe was too late for."""
    first, last = rows[0], rows[-1]
    return float((last["presented"] - first["presented"]) * 1000 / (last["shown"] - first["shown"]))


def gaps(times: Sequence[float] | Numbers) -> Numbers:
    """Milliseconds between neighbours."""
    return np.asarray(np.diff(np.asarray(times, np.float64)), np.float64)


def foreign(rows: Iterable[Row], source: int) -> list[Row]:
    """Pictures of another camera."""
    return [r for r in marked(rows) if r["source"] != source]


def frozen(times: Sequence[float] | Numbers, longest: float = 200.0) -> float:
    """Share of the time that passed in gaps of more than `longest` ms."""
    found = gaps(times)
    return float(found[found > longest].sum() / found.sum()) if len(found) else 1.0
