"""What a timeline comes to with its model and its motion modules: every value that it leaves open, and what it counts.

Nothing is loaded for it, so that a clip can be planned, and refused, before any work is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from stream.clips import control, travel, windows
from stream.clips.beginning import is_still, mixed, rate_of
from stream.clips.chain import Layout
from stream.clips.modules import MotionFacts, MotionModule, find
from stream.clips.timeline import Camera, NoiseKind, Sampler, Segment, Timeline
from stream.config import BUILTIN, Lora, ModelSpec, spec
from stream.errors import ClipError

FPS = Fraction(8)  # what AnimateDiff was trained on
STILL = Camera()
STEPS, GUIDANCE, STRENGTH = 25, 7.5, 0.6
PLAIN = MotionFacts(sampler="ddim", steps=STEPS, guidance_scale=GUIDANCE)
OWN = MotionFacts(  # the built-in model's without a motion module, as with one
    sampler="ddim", spacing="trailing", steps=8, guidance_scale=1.0, strength=0.2
)  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """A motion network: a module with its LoRAs and how much of it counts. None: every frame for itself."""

    source: str | None
    loras: tuple[Lora, ...] = ()
    scale: float = 1.0
    effect: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A resolved timeline, its model, and the motion modules that its segments name."""

    timeline: Timeline
    spec: ModelSpec
    modules: Mapping[str, MotionModule]

    @cached_property
    def layout(self) -> Layout[Motion]:
        asked = self.timeline
        schedule = "looped" if asked.loop else asked.schedule
        return Layout(asked.frames, schedule, asked.window, asked.overlap, asked.fuse, self.shares)

    @cached_property
    def fps(self) -> Fraction:
        """The timeline's, else the input's own."""
        return self.timeline.fps or rate_of(self.timeline.input) or FPS

    @property
    def width(self) -> int:
        return self.timeline.width or self.spec.settings.width

    @property
    def height(self) -> int:
        return self.timeline.height or self.spec.settings.height

    @cached_property
    def motions(self) -> tuple[Motion, ...]:
        """Each segment's."""
        return tuple(Motion(s.motion, s.motion_loras, s.scale, s.effect) for s in self.timeline.segments)

    def shares(self, frame: int) -> dict[Motion, float]:
        """How much each motion network counts at a frame; they add up to 1."""
        found: dict[Motion, float] = {}
        for index, share in travel.alphas(self.timeline, frame).items():
            found[self.motions[index]] = found.get(self.motions[index], 0.0) + share
        return found

    def facts(self, segment: Segment) -> MotionFacts:
        """What is known of a segment's motion module."""
        if segment.motion is None:
            return OWN if self.spec.model == BUILTIN else PLAIN
        return self.modules[segment.motion].facts

    @cached_property
    def sampler(self) -> Sampler:
        if self.timeline.sampler != "auto":
            return self.timeline.sampler
        names = {"ddim" if f.sampler == "auto" else f.sampler for f in self._all}
        agreed: Sampler = _agreed(names, "sampler")
        return agreed

    @cached_property
    def steps(self) -> int:
        known = self.timeline.steps
        return known or max(f.steps or STEPS for f in self._all)

    @cached_property
    def strength(self) -> float:
        """How much of the way from noise to picture is gone; all of it where there is no input."""
        if self.timeline.input is None:
            return 1.0
        known = self.timeline.strength
        return next(f.strength or STRENGTH for f in self._all) if known is None else known

    @property
    def taken(self) -> int:
        """Steps that are taken: of a repainted input the last ones."""
        return min(int(self.steps * self.strength), self.steps)

    def guidance(self, frame: int) -> float:
        """The guidance scale at a frame: each module's own where the timeline has none."""
        if self.timeline.guidance_scale is not None:
            return self.timeline.guidance_scale
        segments = self.timeline.segments
        shares = travel.alphas(self.timeline, frame)
        return sum(share * (self.facts(segments[i]).guidance_scale or GUIDANCE) for i, share in shares.items())

    @cached_property
    def guided(self) -> bool:
        known = self.timeline.guidance_scale
        return (known or max(f.guidance_scale or GUIDANCE for f in self._all)) > 1

    @cached_property
    def scheduling(self) -> dict[str, Any]:
        """What the modules change in their model's noise schedule."""
        betas = _agreed({f.betas for f in self._all}, "noise schedule (betas)")
        spacing = _agreed({f.spacing for f in self._all}, "spacing of steps")
        changes = {} if betas is None else {"beta_schedule": betas, "clip_sample": False, "steps_offset": 1}
        changes |= {} if spacing is None else {"timestep_spacing": spacing}
        return changes

    @cached_property
    def noise(self) -> NoiseKind:
        if self.timeline.noise != "auto":
            return self.timeline.noise
        moves = any(self._camera(s) != STILL for s in self.timeline.segments)
        return "warped" if moves or self.timeline.input is not None else "fresh"

    @property
    def flows(self) -> bool:
        """Whether the noise moves as the input video does."""
        source = self.timeline.input
        return self.noise == "warped" and source is not None and not is_still(source)

    def camera(self, frame: int) -> Camera:
        """How the picture moves at a frame; in a cross-fade as both segments do."""
        shares = travel.alphas(self.timeline, frame)
        return mixed([(self._camera(self.timeline.segments[i]), share) for i, share in shares.items()])

    def _camera(self, segment: Segment) -> Camera:
        return segment.camera or self.facts(segment).camera or STILL

    @cached_property
    def _all(self) -> tuple[MotionFacts, ...]:
        return tuple(self.facts(s) for s in self.timeline.segments)


def recipe(timeline: Timeline) -> Recipe:
    """What a timeline comes to. ClipError, ConfigError or ModelError where it does not fit its model or modules."""
    asked = timeline.resolved()
    named = {s.motion: index for index, s in reversed([*enumerate(asked.segments)]) if s.motion is not None}
    model = spec(asked.model)
    model = replace(model, loras=model.loras + asked.loras)
    made = Recipe(asked, model, {name: _found(name, index) for name, index in named.items()})
    windows.check(asked.window, asked.overlap)
    for index, segment in enumerate(asked.segments):
        _check_motion(made, index, segment)
    _check_steps(made)
    control.check(asked)
    return made


def _found(source: str, index: int) -> MotionModule:
    """A motion module; its error says which segment asks for it."""
    try:
        return find(source)
    except ClipError as error:
        raise ClipError(f"segment {index + 1}: {error}", ("segments", index, "motion")) from None


def _check_motion(made: Recipe, index: int, segment: Segment) -> None:
    if segment.motion is None:
        if segment.motion_loras:
            raise ClipError(
                f"segment {index + 1}: motion LoRAs need a motion module: set motion", ("segments", index, "motion")
            )
        return
    module, asked = made.modules[segment.motion], made.timeline
    length = min(asked.window, asked.frames)
    if length > module.frames:
        raise ClipError(
            f"window {asked.window} is longer than what motion module {segment.motion} takes at once "
            f"({module.frames} frames): use window = {module.frames}", ("window",),
        )  # fmt: skip
    if segment.motion_loras and not module.facts.loras:
        raise ClipError(
            f"segment {index + 1}: motion LoRAs are made for AnimateDiff v2, and {segment.motion} is "
            f"{module.facts.version}: use a v2 module, or leave them out", ("segments", index, "motion_loras"),
        )  # fmt: skip


def _check_steps(made: Recipe) -> None:
    asked = made.timeline
    if made.sampler == "lcm" and made.steps > 50:
        raise ClipError(f"steps {made.steps} are too many for lcm: use 50 or fewer", ("steps",))
    if asked.input is not None and asked.free_init:
        raise ClipError(
            "free_init begins with pure noise, and an input is given: leave one of them out", ("free_init",)
        )
    if asked.input is not None and not made.taken and made.strength:
        least = 1 / made.steps
        raise ClipError(
            f"strength {made.strength} of {made.steps} steps is no step at all: use {least:.2g} or more", ("strength",)
        )
    _ = made.scheduling


def _agreed(values: Iterable[Any], what: str) -> Any:
    """The one value that all modules have."""
    found = sorted(set(values), key=str)
    if len(found) > 1:
        told = " and ".join(map(str, found))
        hint = "set sampler in the timeline, or chain modules of one kind" if what == "sampler" else (
            "chain modules of one kind")  # fmt: skip
        raise ClipError(f"the motion modules want different kinds of {what} ({told}): {hint}")
    return found[0]
