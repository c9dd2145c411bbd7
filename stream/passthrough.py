"""A painter that paints nothing: what goes in comes out, in the settings' size. It has the shape of
`stream.pipeline.Painter` and imports no torch, so that everything around the painting can be tried and timed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream.config import Lora
from stream.errors import ModelError, SettingsError
from stream.frame import Frame, Image
from stream.messages import Fake
from stream.preprocess import fitted
from stream.settings import Settings
from stream.similarity import SimilarityFilter
from stream.timing import Stopwatch


@dataclass(frozen=True, eq=False)
class Passed:
    """A frame that came back; as `stream.pipeline.Painted`."""

    frame: Frame
    primed: bool = False
    repeated: bool = False


class Session:
    """One stream's settings. Made by `PassThrough.open`."""

    delay = 0

    def __init__(self, painter: PassThrough, settings: Settings) -> None:
        self._painter = painter
        self.filter = SimilarityFilter(random.Random(settings.seed))
        self.last: Image | None = None
        self.settings = settings
        painter.prepare(settings)

    def apply(self, settings: Settings) -> None:
        """Frames that enter from now on follow these; SettingsError, and the old ones stay, where they do not fit."""
        self._painter.prepare(settings)
        self.settings = settings
        self.filter.force()

    def refresh(self) -> None:
        """Other LoRAs are mixed in."""
        self.filter.force()


class PassThrough:
    """Gives frames back. `sleep` takes seconds."""

    def __init__(self, fake: Fake, sleep: Callable[[float], None] = time.sleep) -> None:
        self._fake, self._sleep = fake, sleep
        self._sizes: set[tuple[int, int]] = set()
        self.multiple = fake.multiple
        self.stopwatch = Stopwatch()

    def open(self, settings: Settings) -> Session:
        """A session with these settings; SettingsError where they do not fit."""
        return Session(self, settings)

    def close(self, session: Session) -> None:
        """Nothing is in flight."""

    def mix(self, loras: tuple[Lora, ...]) -> Callable[[], None]:
        """Other LoRAs, as slowly as the fake says; ModelError where one of them is not there. They change nothing."""
        self._sleep(self._fake.mix_ms / 1000)
        for lora in loras:
            if lora.strength and not Path(lora.source).exists():
                raise ModelError(f"lora {lora.source} is not there: check the path")
        return lambda: None

    def tick(self, arrived: Mapping[Session, Sequence[Frame]]) -> dict[Session, list[Passed]]:
        """Every frame, at once, in order."""
        self._sleep(self._fake.delay_ms / 1000)
        return {session: [self._passed(session, frame) for frame in frames] for session, frames in arrived.items()}

    def prepare(self, settings: Settings) -> None:
        """Gets ready for a size, as slowly as the fake says; SettingsError where a side is no multiple."""
        for name, side in (("width", settings.width), ("height", settings.height)):
            if side % self.multiple:
                near = max(side // self.multiple, 1) * self.multiple
                raise SettingsError(f"{name} {side} is not a multiple of {self.multiple}: use {near}")
        size = settings.width, settings.height
        if size not in self._sizes:
            self._sleep(self._fake.prepare_ms / 1000)
            self._sizes.add(size)

    def _passed(self, session: Session, frame: Frame) -> Passed:
        s = session.settings
        skips = s.similarity and session.filter.skips(frame.image, s.similarity_threshold, s.max_skip)
        if skips and session.last is not None:
            return Passed(frame.with_image(session.last), repeated=True)
        with self.stopwatch.measure("preprocess"):
            session.last = fitted(frame.image, s.width, s.height, s.fit)
        return Passed(frame.with_image(session.last))
