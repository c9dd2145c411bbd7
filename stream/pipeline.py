"""Frames in, painted frames out: the way of a frame, from preprocess to decode.

painter = Painter(model)
session = painter.open(settings)
for painted in painter.paint(session, [frame]):
    show(painted.frame)
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stream.denoise import Entry, Left, Steering, StreamBatch, draw_noise
from stream.frame import Frame, Image
from stream.guidance import Prediction
from stream.preprocess import fitted
from stream.prompt import Prompter, Text
from stream.schedule import NoiseCurve
from stream.settings import Settings
from stream.similarity import SimilarityFilter
from stream.timing import Stopwatch


class Model(Protocol):
    """What the pipeline needs of a model; `stream.models.load` gives one.

    Pictures are `(rows, H, W, 3)` uint8 and latents `(rows, channels, H / factor, W / factor)` float32.
    """

    @property
    def curve(self) -> NoiseCurve: ...
    @property
    def prediction(self) -> Prediction: ...
    @property
    def factor(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def prompter(self) -> Prompter: ...

    def encode(self, images: Tensor) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...
    def denoise(self, latents: Tensor, t: Tensor, text: Text) -> Tensor: ...
    def check_size(self, width: int, height: int) -> None: ...
    def prepare(self, width: int, height: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Painted:
    """A painted picture under the clock of the frame that it came from.

    `primed`: an early copy from the first ticks (its frame still comes; files leave it out). `repeated`: the filter
    skipped this frame, and the picture is the last one again.
    """

    frame: Frame
    primed: bool = False
    repeated: bool = False


class Session:
    """One stream's settings and state. Made by `Painter.open`; nothing in it is shared with another."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._noise: tuple[tuple[int, int, tuple[int, ...]], Tensor] | None = None
        self.filter = SimilarityFilter(random.Random(settings.seed))
        self.last: Image | None = None
        self.skipped: dict[int, list[Frame]] = {}  # by the identity of the frame in flight before them
        self.walk = NoiseWalk(settings.seed)
        self.settings = settings
        self.steering = self._steer(settings)

    def apply(self, settings: Settings) -> None:
        """Frames that enter from now on follow these; those in flight keep what they entered with.

        Raises SettingsError, and keeps the old settings, where the model cannot follow.
        """
        if settings == self.settings:
            return
        steering = self._steer(settings)
        self._model.prepare(settings.width, settings.height)  # a new size is compiled here, not in the next tick
        self.steering = steering
        if settings.seed != self.settings.seed:
            self.walk = NoiseWalk(settings.seed)
        self.settings = settings
        self.filter.force()

    def refresh(self) -> None:
        """The model's weights are others now: frames that enter from now on get texts that were encoded with them."""
        self.steering = self._steer(self.settings)
        self.filter.force()

    @property
    def delay(self) -> int:
        """Ticks between a frame's entering and its leaving."""
        return self.steering.schedule.delay

    def _steer(self, settings: Settings) -> Steering:
        model, size = self._model, (settings.width, settings.height)
        model.check_size(*size)
        curve = model.curve
        if settings.t_index is not None:
            t_index = settings.t_index
        else:
            strength = settings.strength if settings.mode == "image" else 1.0
            t_index = curve.t_index(strength, settings.steps)
        schedule = curve.schedule(t_index)
        return Steering(
            schedule=schedule,
            text=model.prompter(settings.prompt, *size),
            negative=model.prompter(settings.negative_prompt, *size),
            noise=self._noise_for(settings, len(schedule)),
            guidance=settings.guidance,
            scale=settings.guidance_scale,
            delta=settings.delta,
            add_noise=settings.add_noise,
        )

    def _noise_for(self, settings: Settings, steps: int) -> Tensor:
        """The stream's noise: drawn again only for another seed or shape, or for more steps."""
        factor = self._model.factor
        shape = (self._model.latent_channels, settings.height // factor, settings.width // factor)
        key = (settings.seed, steps, shape)
        if self._noise is None or self._noise[0] != key:
            self._noise = key, draw_noise(settings.seed, steps, shape, self._model.device)
        return self._noise[1]


class NoiseWalk:
    """Noise that wanders: each call turns it a little towards fresh noise, its variance kept."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._now: Tensor | None = None

    def __call__(self, like: Tensor, drift: float) -> Tensor:
        """The next noise, of the shape and device of `like`; drift 0 stands still, 1 is all new."""
        if self._now is None or self._now.shape != like.shape:
            self._now = like.cpu()
        angle = drift * math.pi / 2
        if angle:
            fresh = torch.randn(like.shape, generator=self._generator)
            self._now = math.cos(angle) * self._now + math.sin(angle) * fresh
        return self._now.to(like.device)


class Painter:
    """Paints the frames of any number of sessions with one model, their rows in one call of each network."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.stopwatch = Stopwatch()
        self._batch = StreamBatch(self._denoise, model.prediction)

    def open(self, settings: Settings) -> Session:
        """A session with these settings; SettingsError where the model cannot follow them. The engines get ready."""
        session = Session(self.model, settings)
        self.model.prepare(settings.width, settings.height)
        return session

    def close(self, session: Session) -> None:
        """Forgets the session's frames in flight."""
        self._batch.close(session)

    def paint(self, session: Session, frames: Sequence[Frame]) -> list[Painted]:
        """One tick of one session; see `tick`."""
        return self.tick({session: frames})[session]

    def tick(self, arrived: Mapping[Session, Sequence[Frame]]) -> dict[Session, list[Painted]]:
        """One tick of every session that has new frames. Its frames leave `session.delay` ticks later, in order.

        A session named with no frames only moves on those in flight (`flush` uses it).
        """
        passing = {s: self._passing(s, frames) for s, frames in arrived.items()}
        ready = {s: f for s, f in passing.items() if f or not arrived[s]}
        at_once = {s: self._skipped(s, frames, passing[s]) for s, frames in arrived.items()}
        entries = self._encode(ready)
        left = self._batch.tick({s: (s.steering, entries[s]) for s in ready}) if ready else {}
        pictures = self._decode([x for s in ready for x in left[s]])
        out: dict[Session, list[Painted]] = {}
        for session in arrived:
            out[session] = [repeat(f, session.last) for f in at_once[session] if session.last is not None]
            out[session] += [p for x in left.get(session, []) for p in self._painted(session, x, pictures)]
        return out

    def flush(self, session: Session) -> list[Painted]:
        """Paints the session's frames still in flight to their end, in order."""
        out: list[Painted] = []
        while self._batch.in_flight(session):
            out += self.paint(session, [])
        return out

    # --------------------------------------------------------------------------------------------- stages

    def _passing(self, session: Session, frames: Sequence[Frame]) -> list[Frame]:
        """The frames that the similarity filter lets through."""
        settings = session.settings
        if not settings.similarity or settings.mode == "text":
            return list(frames)
        with self.stopwatch.measure("similarity"):
            limits = settings.similarity_threshold, settings.max_skip
            return [f for f in frames if not session.filter.skips(f.image, *limits)]

    def _skipped(self, session: Session, frames: Sequence[Frame], passed: Iterable[Frame]) -> list[Frame]:
        """Skipped frames that repeat the last picture at once. The others wait behind the frame before them, which is
        still in flight or has just passed."""
        kept, flying = {id(f) for f in passed}, self._batch.in_flight(session)
        before, at_once = flying[-1] if flying else None, []
        for frame in frames:
            if id(frame) in kept:
                before = frame
            elif before is None:
                at_once.append(frame)
            else:
                session.skipped.setdefault(id(before), []).append(frame)
        return at_once

    def _encode(self, passing: Mapping[Session, Sequence[Frame]]) -> dict[Session, list[Entry]]:
        """Frames as entries, pictures of one size through the encoder together."""
        entries: dict[Session, list[Entry]] = {}
        shapes: dict[tuple[int, int], list[tuple[Session, Frame]]] = {}
        for session, frames in passing.items():
            entries[session] = []
            size = session.settings.width, session.settings.height
            if session.settings.mode == "text":
                noise = session.steering.noise[0]
                entries[session] = [Entry(f, None, session.walk(noise, session.settings.drift)) for f in frames]
            elif frames:
                shapes.setdefault(size, []).extend((session, f) for f in frames)
        for (width, height), group in shapes.items():
            with self.stopwatch.measure("preprocess"):
                images = torch.from_numpy(np.stack([fitted(f.image, width, height, s.settings.fit) for s, f in group]))
            with self.stopwatch.measure("encode"):
                latents = self.model.encode(images.to(self.model.device, non_blocking=True))
            for (session, frame), latent in zip(group, latents, strict=True):
                entries[session].append(Entry(frame, latent))
        return entries

    def _denoise(self, latents: Tensor, t: Tensor, text: Text) -> Tensor:
        with self.stopwatch.measure("denoise"):
            return self.model.denoise(latents, t, text)

    def _decode(self, left: Sequence[Left]) -> dict[int, Image]:
        """The pictures of what left, by the identity of its `Left`; one size through the decoder together."""
        shapes: dict[torch.Size, list[Left]] = {}
        for item in left:
            shapes.setdefault(item.latent.shape, []).append(item)
        pictures: dict[int, Image] = {}
        for group in shapes.values():
            with self.stopwatch.measure("decode"):
                images = self.model.decode(torch.stack([x.latent for x in group]))
            with self.stopwatch.measure("postprocess"):
                for item, image in zip(group, images.cpu().numpy(), strict=True):
                    pictures[id(item)] = image
        return pictures

    def _painted(self, session: Session, left: Left, pictures: Mapping[int, Image]) -> list[Painted]:
        """What left, and the frames behind it that the filter skipped while it was in flight."""
        picture = session.last = pictures[id(left)]
        behind = [] if left.primed else session.skipped.pop(id(left.tag), [])
        return [Painted(left.tag.with_image(picture), primed=left.primed)] + [repeat(f, picture) for f in behind]


def repeat(frame: Frame, picture: Image) -> Painted:
    """`picture` again, at the moment of `frame`."""
    return Painted(frame.with_image(picture), repeated=True)
