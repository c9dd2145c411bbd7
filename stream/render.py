"""File to file: every frame of a source through the painter and into a sink, in order, each exactly once.

Reading, painting and writing overlap; nothing is dropped, and memory stays flat however long the video is.
"""

from __future__ import annotations

import math
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from threading import Event
from typing import Any

import numpy as np

from engines import Choice
from stream.errors import SourceError
from stream.frame import Frame
from stream.overlap import Ahead, Behind
from stream.pipeline import Painted, Painter, Session
from stream.preprocess import fitted
from stream.settings import SIDE_LIMITS, Settings
from stream.sinks import Sink
from stream.sources import Source
from stream.timing import Stopwatch

TOGETHER = 4  # frames in one tick: a file has no hurry, and engines like more rows
PACKAGES = ("livebrush", "torch", "diffusers", "transformers", "openvino", "av", "opencv-python-headless", "numpy")


@dataclass(frozen=True)
class Outcome:
    """What a job did. `stages` are milliseconds by stage; `stopped` tells that it was asked to end early."""

    frames_in: int
    frames_out: int
    repeated: int
    seconds: float
    stopped: bool
    stages: dict[str, dict[str, float]]

    @property
    def fps(self) -> float:
        return self.frames_out / self.seconds if self.seconds else 0.0


class Job:
    """One rendering: `source` through `session` of `painter` into `sink`.

    `frames` ends it after so many; `compare` writes the input beside each picture; `together` frames are painted in
    one tick.
    """

    def __init__(self, source: Source, painter: Painter, session: Session, sink: Sink, *, frames: int | None = None,
                 compare: bool = False, together: int = 1) -> None:  # fmt: skip
        self._source, self._painter, self._session, self._sink = source, painter, session, sink
        self._frames, self._compare, self._together = frames, compare, together
        self._watch = Stopwatch()
        self._waiting: deque[Frame] = deque()  # frames in the painter, oldest first
        self._in = self._out = self._repeated = 0

    def run(self, stop: Event, progress: Callable[[int], None] = lambda _done: None) -> Outcome:
        """Paints until the source ends or `stop` is set; the sink is closed then, with what was painted so far.

        `progress` is told how many frames are painted. On an error the sink is discarded.
        """
        began = time.perf_counter()
        self._painter.stopwatch.clear()
        finished = False
        try:
            self._paint_all(stop, progress)
            if not self._out and not stop.is_set():
                raise SourceError(f"{self._source.name} gave no frame: there is nothing to paint")
            if self._out:
                self._close(complete=not stop.is_set() and self._in != self._frames)
                finished = True
        finally:
            if not finished:
                self._sink.discard()
        seconds = time.perf_counter() - began
        return Outcome(self._in, self._out, self._repeated, seconds, stop.is_set(), self._stages())

    def _close(self, complete: bool) -> None:
        with self._watch.measure("close"):
            self._sink.close(complete)

    def _paint_all(self, stop: Event, progress: Callable[[int], None]) -> None:
        reader = Ahead(islice(self._read(), self._frames))
        writer = Behind(self._write)
        try:
            for frames in batches(reader.take(stop), self._together):
                self._waiting += frames
                self._in += len(frames)
                self._hand_on(self._painter.paint(self._session, frames), writer)
                progress(self._out)
            self._hand_on(self._painter.flush(self._session), writer)
            writer.finish()
            progress(self._out)
        finally:
            reader.close()
            writer.close()
            self._painter.close(self._session)

    def _read(self) -> Iterator[Frame]:
        frames = iter(self._source)
        while True:
            with self._watch.measure("read"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _write(self, frame: Frame) -> None:
        with self._watch.measure("write"):
            self._sink.write(frame)

    def _hand_on(self, painted: Iterable[Painted], writer: Behind[Frame]) -> None:
        for item in painted:
            if item.primed:
                continue
            original = self._waiting.popleft()
            assert original.pts == item.frame.pts, "the painter lost a frame, or gave one twice"
            writer.put(beside(original, item.frame, self._session.settings) if self._compare else item.frame)
            self._out += 1
            self._repeated += item.repeated

    def _stages(self) -> dict[str, dict[str, float]]:
        return self._painter.stopwatch.report() | self._watch.report()


def batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Frames in lists of `size`; the last one may be shorter."""
    each = iter(frames)
    while batch := list(islice(each, size)):
        yield batch


def beside(original: Frame, painted: Frame, settings: Settings) -> Frame:
    """The input, as the painter saw it, to the left of the picture."""
    width, height = painted.size
    left = fitted(original.image, width, height, settings.fit)
    return painted.with_image(np.concatenate([left, painted.image], axis=1))


def default_size(size: tuple[int, int], pixels: int, multiple: int) -> tuple[int, int]:
    """Width and height, multiples of `multiple`, nearest to the aspect of `size` with about `pixels` pixels.

    1280x720 with 256 * 256 pixels and a multiple of 32 is 352x192.
    """
    low, high = (math.ceil(SIDE_LIMITS[0] / multiple) * multiple, SIDE_LIMITS[1])
    sides = range(low, high + 1, multiple)
    wanted = math.log(size[0] / size[1])

    def distance(pair: tuple[int, int]) -> float:
        aspect, area = math.log(pair[0] / pair[1]) - wanted, math.log(pair[0] * pair[1] / pixels)
        return abs(aspect) + 0.25 * abs(area)

    pairs = ((w, h) for w in sides for h in sides if pixels / 2 <= w * h <= pixels * 2)
    return min(pairs, key=distance, default=(low, low))


def report(
    outcome: Outcome, session: Session, choice: Choice, model: str, source: Source, output: str
) -> dict[str, Any]:
    """Everything about a job, ready for JSON."""
    rate = None if source.rate is None else float(source.rate)
    width, height = source.size
    settings = session.settings
    return {
        "frames_in": outcome.frames_in,
        "frames_out": outcome.frames_out,
        "stopped": outcome.stopped,
        "seconds": round(outcome.seconds, 3),
        "fps": round(outcome.fps, 2),
        "delay_ticks": session.delay,
        "skipped": {**session.filter.report(), "repeated": outcome.repeated},
        "stages_ms": outcome.stages,
        "model": model,
        "engine": {f: getattr(choice, f) for f in ("backend", "device", "precision", "why")},
        "settings": settings.model_dump(mode="json"),
        "input": {"name": source.name, "width": width, "height": height, "rate": rate, "frames": source.count,
                  "sound": source.audio is not None},
        "output": {"name": output, "width": settings.width, "height": settings.height},
        "versions": versions(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of Python, the machine and the packages that matter."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
