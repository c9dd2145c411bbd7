"""A back end that draws: what the tests of files and jobs render with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.clips import families
from stream.clips.backend import Facts, FrameRule, Plan, Rendered, Sound, Watch
from stream.clips.timeline import Timeline
from stream.errors import ClipError
from stream.frame import Image

SIZE = (96, 64)
SLICE = 4
FACTS = Facts("drawn", "Drawn", ("t2v", "v2v", "audio"), FrameRule(), 1, SIZE, 24, 2, 1.0, "none", "Apache-2.0", "here")


def drawing(index: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Image:
    """A disc on a slope that comes round after 16 pictures."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    at = width * (0.5 + 0.3 * math.cos(index * math.tau / 16)), height * (0.5 + 0.3 * math.sin(index * math.tau / 16))
    disc = np.hypot(x - at[0], y - at[1]) < height / 5
    rgb = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, (40 * seed) % 256)], axis=-1)
    rgb[disc] = 240, 200, 60
    return rgb.astype(np.uint8)


@dataclass
class DrawnRenderer:
    """Draws; `calls` counts its renderings."""

    size: tuple[int, int]
    frames: int | None = None  # how many it gives, where that is wrong
    error: Exception | None = None  # raised after the first slice
    sounds: bool = False
    calls: list[Path] = field(default_factory=list)
    closed: bool = False

    def render(self, timeline: Timeline, folder: Path, watch: Watch) -> Rendered:
        self.calls.append(folder)
        watch.tell("denoise", 0, 1)
        return Rendered(self._slices(timeline, watch), lambda: tone(timeline) if self.sounds else None)

    def _slices(self, timeline: Timeline, watch: Watch) -> Iterator[Image]:
        count = timeline.frames if self.frames is None else self.frames
        for start in range(0, count, SLICE):
            watch.tell("decode", start, count)
            numbers = range(start, min(start + SLICE, count))
            yield np.stack([drawing(i, self.size, timeline.seed) for i in numbers])
            if self.error:
                raise self.error

    def models(self) -> Mapping[str, str]:
        return {"drawn": hashlib.sha256(b"drawn").hexdigest()}

    def close(self) -> None:
        self.closed = True


@dataclass
class Drawn:
    """The back end; `loaded` are its renderers."""

    size: tuple[int, int] = SIZE
    made: Mapping[str, Any] = field(default_factory=dict)
    lacks: str | None = None
    facts: Facts = FACTS
    loaded: list[DrawnRenderer] = field(default_factory=list)

    def missing(self, timeline: Timeline | None = None) -> str | None:
        return self.lacks

    def plan(self, timeline: Timeline) -> Plan:
        if timeline.frames > 2000:
            raise ClipError(f"frames {timeline.frames} is too many: use 2000")
        fps = timeline.fps or Fraction(24)
        return Plan(timeline.frames, *self.size, str(fps), 1, 2, 2, None, None, ("drawn by hand",))

    def key(self, timeline: Timeline) -> Hashable:
        return timeline.model

    def load(self, timeline: Timeline, tell: Callable[[str], Any]) -> DrawnRenderer:
        tell("load")
        self.loaded.append(DrawnRenderer(self.size, **self.made))
        return self.loaded[-1]


def tone(timeline: Timeline) -> Sound:
    """A sine as long as the clip, in stereo."""
    rate = 32000
    at = np.arange(round(timeline.frames / (timeline.fps or 24) * rate)) / rate
    return Sound(np.stack([np.sin(at * math.tau * 440) * 0.4] * 2).astype(np.float32), rate)


def drawn(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Drawn:
    """The back end `drawn`, known until the test ends."""
    backend = Drawn(**options)
    monkeypatch.setitem(families.FAMILIES, "drawn", "clip_rig:BACKEND")
    monkeypatch.setattr("clip_rig.BACKEND", backend, raising=False)
    return backend


BACKEND = Drawn()
