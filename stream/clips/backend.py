"""What renders a clip: the protocol of a back end, and the values that go to and fro."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.clips.timeline import Timeline
from stream.frame import Image

Mode = Literal["t2v", "i2v", "v2v", "keyframes", "control", "extend", "audio"]


@dataclass(frozen=True)
class FrameRule:
    """Frame counts that a model takes: `step * k + rest`, at most `most` in one go (None: any number)."""

    step: int = 1
    rest: int = 0
    most: int | None = None
    least: int = 1

    def nearest(self, frames: int) -> int:
        """The count that it will render for `frames` asked: the next one up, else the largest."""
        up = max(frames, self.least)
        up += (self.rest - up) % self.step
        if self.most is not None and up > self.most:
            up = self.most - (self.most - self.rest) % self.step
        return up

    def told(self) -> str:
        """`4k+1, at most 81`."""
        every = "any" if self.step == 1 else f"{self.step}k+{self.rest}" if self.rest else f"{self.step}k"
        return every if self.most is None else f"{every}, at most {self.most}"


@dataclass(frozen=True)
class Facts:
    """A back end in the table of `livebrush clip backends`."""

    name: str
    title: str
    modes: tuple[Mode, ...]
    rule: FrameRule
    multiple: int  # both sides are a multiple of it
    size: tuple[int, int]  # width and height where none are asked for
    fps: int
    steps: int
    guidance_scale: float
    memory: str  # as its makers state it
    licence: str
    source: str  # the hub id, address or command that it uses by default
    accept: str | None = None  # the name that `licence` of a timeline must have
    lora: bool = False
    quantise: tuple[str, ...] = ()
    offload: tuple[str, ...] = ()
    cache: bool = False
    resumes: bool = False  # from the last step; others start again, and give the same clip
    options: Mapping[str, str] = field(default_factory=dict)  # its own, each with its help


@dataclass(frozen=True)
class Plan:
    """What a clip will take, said before any work is done."""

    frames: int
    width: int
    height: int
    fps: str
    windows: int
    steps: int
    unet_calls: int  # of the denoiser: one window, all its frames
    memory_mb: float | None
    seconds: float | None  # None where nobody measured it on such a machine
    notes: tuple[str, ...] = ()  # what differs from what was asked, and why


class Cancelled(Exception):  # noqa: N818 (no error: somebody asked for it)
    """The job was cancelled; what was saved stays."""


class Watch:
    """How a job tells how far it is; cancel and pause come back the same way. This one hears nothing."""

    def tell(self, stage: str, done: int, total: int, preview: Callable[[], Image] | None = None) -> None:
        """Called between any two calls of a denoiser, and between slices of encoding, decoding and writing. May wait
        (while a live stream has priority) and raises Cancelled. `preview` makes a small picture `(h, w, 3)` uint8."""


@dataclass(frozen=True, eq=False)
class Sound:
    """Sound made with the clip: `(channels, samples)` float32 in -1..1."""

    samples: NDArray[np.float32]
    rate: int


@dataclass(frozen=True, eq=False)
class Rendered:
    """Pictures in order, a few at a time: `(n, height, width, 3)` uint8. `sound` is there once they are read."""

    frames: Iterator[Image]
    sound: Callable[[], Sound | None] = lambda: None


class Renderer(Protocol):
    """A loaded model. The queue keeps it while jobs with the same `Backend.key` follow."""

    @abstractmethod
    def render(self, timeline: Timeline, folder: Path, watch: Watch) -> Rendered:
        """Renders; `folder` is the job's own, for what resuming needs. A second call with the same folder goes on."""

    @abstractmethod
    def models(self) -> Mapping[str, str]:
        """What it runs, for the manifest: ids and sha256 of the weights' files."""

    def close(self) -> None:
        """Lets go of memory."""


class Backend(Protocol):
    """One family of models."""

    facts: Facts

    @abstractmethod
    def missing(self, timeline: Timeline | None = None) -> str | None:
        """What is missing on this machine and how to get it, or None where it is ready."""

    @abstractmethod
    def plan(self, timeline: Timeline) -> Plan:
        """Checks everything that can be checked without loading, and says what it will take. ClipError otherwise."""

    @abstractmethod
    def key(self, timeline: Timeline) -> Hashable:
        """Equal for timelines that one loaded model can render."""

    @abstractmethod
    def load(self, timeline: Timeline, tell: Callable[[str], Any]) -> Renderer:
        """Loads it. ModelError or ClipError where it cannot."""
