"""One tempo for the server: tapped, typed, from a MIDI clock or from Ableton Link. Time is an argument everywhere.

beat.tap(now); beat.set(128, now); beat.clock(now)      # whoever leads
position = beat.position(now)                           # beats since the first; settings follow it

MIDI's clock is that of the MIDI 1.0 specification: 24 ticks a quarter note, start, stop, continue, song position.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Literal

from stream.errors import ControlError

LIMITS = (20.0, 400.0)  # beats a minute
BPM = 120.0  # before anybody says one
TAPS = 8  # whose median is the tempo
TAP_S = 60 / LIMITS[0]  # a longer pause begins anew
TICKS = 24  # of a MIDI clock, in a beat
WINDOW = 2 * TICKS  # ticks that the tempo is taken from
FEW = 6  # ticks before they give a tempo
GAP_S = 0.25  # without a tick: the clock begins anew (MIDI's slowest tick here takes 0.125 s)

Lead = Literal["none", "typed", "tap", "midi", "link"]


@dataclass(frozen=True)
class Tempo:
    """A straight line through time: `beat` at `at` seconds, `bpm` from there on; 0 stands still."""

    bpm: float = BPM
    beat: float = 0.0
    at: float = 0.0

    def position(self, now: float) -> float:
        """The beat at `now`, as a fraction."""
        return self.beat + (now - self.at) * self.bpm / 60


@dataclass(frozen=True)
class BeatFacts:
    """How the beat is at one moment."""

    bpm: float
    position: float
    running: bool
    lead: Lead


def checked(bpm: float) -> float:
    """A tempo that somebody typed; ControlError where it is none."""
    low, high = LIMITS
    if not (math.isfinite(bpm) and low <= bpm <= high):
        raise ControlError(f"bpm {bpm:g} is not between {low:g} and {high:g}: use e.g. 128")
    return bpm


class Beat:
    """Owns the tempo. Whoever spoke last leads; what was before goes on without a jump where it can."""

    def __init__(self) -> None:
        self.lead: Lead = "none"
        self.revision = 0  # grows with everything that is worth telling
        self._tempo = Tempo(at=0.0)
        self._bpm = BPM  # also while it stands
        self._running = True
        self._taps: deque[float] = deque(maxlen=TAPS + 1)
        self._ticks = Ticks()

    def position(self, now: float) -> float:
        """Beats since the first; stands while the clock is stopped."""
        return self._tempo.position(now)

    def facts(self, now: float) -> BeatFacts:
        """How it is now."""
        return BeatFacts(self._bpm, self.position(now), self._running, self.lead)

    # ------------------------------------------------------------------------------------------- by hand

    def set(self, bpm: float, now: float, position: float | None = None) -> None:
        """A tempo that was typed; the beat goes on from where it is, or from `position`. ControlError."""
        self._go(checked(bpm), self.position(now) if position is None else position, now, "typed")
        self._taps.clear()

    def tap(self, now: float) -> None:
        """A tap is a beat; the median of the last ones' distances is the tempo, from the second on."""
        if self._taps and not 0 <= now - self._taps[-1] <= TAP_S:
            self._taps.clear()
        self._taps.append(now)
        bpm = self._bpm
        if len(self._taps) > 1:
            steps = [b - a for a, b in pairwise(self._taps)]
            bpm = 60 / max(60 / LIMITS[1], median(steps))
        self._go(bpm, float(round(self.position(now))), now, "tap")

    # ------------------------------------------------------------------------------------------- by others

    def clock(self, now: float) -> None:
        """A tick of a MIDI clock that came at `now`."""
        line = self._ticks.tick(now, self.position(now))
        if line is None:
            return
        seconds, tick = line
        bpm = min(LIMITS[1], max(LIMITS[0], 60 / (TICKS * seconds)))
        news = abs(bpm - self._bpm) > 0.05 or self.lead != "midi"
        if self._running:
            self._tempo = Tempo(bpm, tick / TICKS, now)
        self._bpm, self.lead = bpm, "midi"
        self.revision += news

    def start(self, now: float) -> None:
        """The next tick is the first beat."""
        self._ticks.locate(0)
        self._go(self._bpm, 0.0, now, "midi")

    def stop(self, now: float) -> None:
        """The beat stands where it is."""
        held = self.position(now)
        self._running, self.lead = False, "midi"
        self._tempo = Tempo(0.0, held, now)
        self.revision += 1

    def go_on(self, now: float) -> None:
        """MIDI's continue: from where it stands."""
        self._ticks.locate(round(self.position(now) * TICKS))
        self._go(self._bpm, self.position(now), now, "midi")

    def locate(self, sixteenths: int, now: float) -> None:
        """MIDI's song position: so many sixteenths from the beginning."""
        self._ticks.locate(sixteenths * TICKS // 4)
        self._tempo = Tempo(self._tempo.bpm, sixteenths / 4, now)
        self.revision += 1

    def follow(self, bpm: float, position: float, now: float) -> None:
        """What another clock says that needs no filter (Ableton Link)."""
        news = self.lead != "link" or abs(bpm - self._bpm) > 0.01
        self._tempo, self._bpm, self._running, self.lead = Tempo(bpm, position, now), bpm, True, "link"
        self.revision += news

    def _go(self, bpm: float, position: float, now: float, lead: Lead) -> None:
        self._tempo, self._bpm, self._running, self.lead = Tempo(bpm, position, now), bpm, True, lead
        self.revision += 1


class Ticks:
    """Ticks of a MIDI clock, and the straight line through the last of them: what comes late or early is evened out."""

    def __init__(self) -> None:
        self._next = 0  # the number of the tick that comes next
        self._placed = False  # whether somebody said that number
        self._last: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def locate(self, tick: int) -> None:
        """The next tick has this number; the tempo stays known."""
        moved = tick - self._next
        self._last = deque(((n + moved, at) for n, at in self._last), WINDOW)
        self._next, self._placed = tick, True

    def tick(self, now: float, position: float) -> tuple[float, float] | None:
        """Seconds a tick, and the tick that it is now as a fraction; None while there are too few. `position` is the
        beat that a clock begins at which nobody started."""
        if self._last and not 0 <= now - self._last[-1][1] <= GAP_S:
            self._last.clear()
        if not self._last and not self._placed:
            self._next = round(position * TICKS)
        self._last.append((self._next, now))
        self._next, self._placed = self._next + 1, False
        if len(self._last) < FEW:
            return None
        seconds, tick = fit(self._last, now)
        if abs(self._next - 1 - tick) > 1:  # the tempo jumped: only what came since counts
            self._last = deque(list(self._last)[-FEW:], WINDOW)
            seconds, tick = fit(self._last, now)
        return seconds, tick


def fit(points: deque[tuple[int, float]], now: float) -> tuple[float, float]:
    """The straight line through (tick, time) by least squares: seconds a tick, and its tick at `now`."""
    tick, time = fmean(n for n, _ in points), fmean(at for _, at in points)
    across = sum((n - tick) ** 2 for n, _ in points)
    slope = sum((n - tick) * (at - time) for n, at in points) / across
    slope = max(slope, 60 / LIMITS[1] / TICKS / 4)  # ticks that all came at once have no tempo
    return slope, tick + (now - time) / slope
