"""What a timeline asks of a back end that paints a clip in one go: checked, and rounded where it says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from stream.clips.backend import Facts, FrameRule, Mode, Plan
from stream.clips.timeline import Keyframe, Timeline
from stream.config import BUILTIN
from stream.errors import ClipError, SourceError
from stream.sources import PICTURES, kind_of, open_source

At = tuple[str | int, ...]
FAR = 1.02  # the ratio of two aspects from which on a crop is worth telling


@dataclass(frozen=True)
class Job:
    """One clip in the terms of a back end."""

    timeline: Timeline
    mode: Mode
    frames: int
    width: int
    height: int
    fps: Fraction
    steps: int
    guidance: float
    prompt: str
    keyframes: tuple[Keyframe, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def negative(self) -> str:
        return self.timeline.negative_prompt

    @property
    def guided(self) -> bool:
        """Whether the denoiser is asked without the prompt, too."""
        return self.guidance > 1

    def option(self, name: str, default: Any) -> Any:
        """An option of the back end's own, of the kind that `default` is. ClipError where it is another."""
        value = self.timeline.options.get(name, default)
        wanted = float | int if isinstance(default, float) else type(default)
        if default is None or (isinstance(value, wanted) and isinstance(value, bool) == isinstance(default, bool)):
            return value
        raise ClipError(f"option {name} is {value!r}: expected e.g. {default!r}", ("options", name))

    def plan(self, calls: int, *notes: str, steps: int | None = None) -> Plan:
        """What it will take: `calls` of the denoiser in `steps`, where those are not the ones asked for."""
        return Plan(
            frames=self.frames, width=self.width, height=self.height, fps=str(self.fps), windows=1,
            steps=self.steps if steps is None else steps, unet_calls=calls, memory_mb=None, seconds=None,
            notes=(*self.notes, *notes),
        )  # fmt: skip


def ask(facts: Facts, timeline: Timeline, rule: FrameRule | None = None, modes: tuple[Mode, ...] = ()) -> Job:
    """What `timeline` wants of the back end with these `facts`; `rule` and `modes` are those of the way it is run.

    ClipError says what does not fit.
    """
    mode = mode_of(facts, timeline, modes or facts.modes)
    _accepted(facts, timeline)
    _nothing_else(facts, timeline, mode)
    width, height = _size(facts, timeline)
    crops = _crops(timeline, width, height)
    fps = timeline.fps or _rate(timeline, mode) or Fraction(facts.fps)
    frames, notes = _frames(rule or facts.rule, timeline, mode, fps)
    guidance = facts.guidance_scale if timeline.guidance_scale is None else timeline.guidance_scale
    return Job(
        timeline, mode, frames, width, height, fps, timeline.steps or facts.steps, guidance, prompt_of(facts, timeline),
        _keyframes(timeline, mode, frames), notes + crops,
    )  # fmt: skip


def mode_of(facts: Facts, timeline: Timeline, modes: tuple[Mode, ...]) -> Mode:
    """Which of the model's modes a timeline means. ClipError where it has none for it."""
    mode, why = _meant(timeline)
    if mode == "i2v" and mode not in modes and "keyframes" in modes:
        mode = "keyframes"
    if mode not in modes:
        raise ClipError(
            f"backend {facts.name} has no {mode} ({why}), only {', '.join(modes)}: "
            "choose another back end (livebrush clip backends lists them) or another input",
            (_decides(timeline),),
        )
    return mode


def _decides(timeline: Timeline) -> str:
    """The key that makes a timeline mean its mode."""
    given = {"control": timeline.control, "keyframes": timeline.keyframes, "input": timeline.input}
    return next((name for name, value in given.items() if value), "backend")


def _meant(timeline: Timeline) -> tuple[Mode, str]:
    if timeline.control is not None:
        return "control", "the timeline has a control"
    if timeline.keyframes and timeline.input is not None:
        raise ClipError("the timeline has an input and keyframes: this back end takes one of them", ("keyframes",))
    if timeline.keyframes:
        alone = [(k.frame, k.strength) for k in timeline.keyframes] == [(0, 1.0)]
        return ("i2v", "a picture for frame 0") if alone else ("keyframes", "pictures for single frames")
    if timeline.input is None:
        return "t2v", "only a prompt is given"
    if Path(timeline.input).suffix.lower() in PICTURES:
        return "i2v", "the input is a picture"
    if timeline.options.get("extend"):
        return "extend", "the option extend is set"
    return "v2v", "the input is a video"


def whole(job: Job) -> None:
    """ClipError where a keyframe is to count in part: for models that take it or do not."""
    if any(k.strength != 1 for k in job.keyframes):
        told = f"backend {job.timeline.backend} takes a keyframe as it is: leave its strength out, or use backend ltx"
        raise ClipError(told, ("keyframes",))


def source_of(facts: Facts, timeline: Timeline, default: str | None = None) -> str:
    """The weights that a timeline means: a folder or a hub id."""
    return (default or facts.source) if timeline.model == BUILTIN else timeline.model


def _accepted(facts: Facts, timeline: Timeline) -> None:
    if facts.accept and timeline.licence != facts.accept:
        got = f"got licence {timeline.licence!r}" if timeline.licence else "no licence is accepted"
        raise ClipError(
            f"backend {facts.name} has a licence that you must accept ({facts.licence}), {got}: read it at "
            f'https://huggingface.co/{facts.source}, then put licence = "{facts.accept}" into the timeline, or '
            f"say --licence {facts.accept}",
            ("licence",),
        )


def _nothing_else(facts: Facts, timeline: Timeline, mode: Mode) -> None:
    """Refuses what a back end that paints a clip in one go would have to ignore."""
    segments = timeline.segments
    _refuse(facts, {
        "a motion module": (any(s.motion or s.motion_loras for s in segments), ("segments",)),
        "a camera": (any(s.camera for s in segments), ("segments",)),
        "a closed loop": (timeline.loop, ("loop",)),
        "FreeInit": (timeline.free_init > 0, ("free_init",)),
        f"noise {timeline.noise!r}": (timeline.noise != "auto", ("noise",)),
        f"sampler {timeline.sampler!r}": (timeline.sampler != "auto", ("sampler",)),
        "a strength without an input video": (timeline.strength is not None and mode != "v2v", ("strength",)),
    })  # fmt: skip
    check_takes(facts, timeline)


def check_takes(facts: Facts, timeline: Timeline) -> None:
    """ClipError where LoRAs, memory or options are asked for that a back end has not."""
    memory = timeline.memory
    _refuse(facts, {
        "a LoRA": (bool(timeline.loras) and not facts.lora, ("loras",)),
        "a cache": (memory.cache != "none" and not facts.cache, ("memory", "cache")),
        f"offload {memory.offload!r}": (memory.offload not in ("none", *facts.offload), ("memory", "offload")),
    })  # fmt: skip
    if memory.quantise is not None and memory.quantise not in facts.quantise:
        known = ", ".join(facts.quantise) or "none"
        raise ClipError(f"backend {facts.name} cannot be quantised by {memory.quantise!r}: it knows {known}",
                        ("memory", "quantise"))  # fmt: skip
    if strange := sorted({*timeline.options} - {*facts.options}):
        known = ", ".join(sorted(facts.options)) or "none"
        raise ClipError(f"backend {facts.name} has no option {strange[0]!r}: it has {known}", ("options", strange[0]))


def _refuse(facts: Facts, refused: Mapping[str, tuple[bool, At]]) -> None:
    if found := {what: at for what, (asked, at) in refused.items() if asked}:
        told = f"backend {facts.name} does not take {' or '.join(found)}: leave it out"
        raise ClipError(told, next(iter(found.values())))


def prompt_of(facts: Facts, timeline: Timeline) -> str:
    """The one prompt of a timeline. ClipError where there are several."""
    said = [s.prompt for s in timeline.segments if s.prompt] + [k.prompt for s in timeline.segments for k in s.keys]
    prompts = list(dict.fromkeys(said)) or [timeline.prompt]
    if len(prompts) > 1:
        raise ClipError(
            f"backend {facts.name} takes one prompt for the whole clip, got {len(prompts)}: "
            "leave one, or chain motion modules with backend animatediff",
            ("segments",),
        )
    return prompts[0]


def _size(facts: Facts, timeline: Timeline) -> tuple[int, int]:
    sides = (timeline.width or facts.size[0], timeline.height or facts.size[1])
    for name, side in zip(("width", "height"), sides, strict=True):
        if side % facts.multiple:
            down, up = side // facts.multiple * facts.multiple, -(-side // facts.multiple) * facts.multiple
            use = f"{down} or {up}" if down else f"{up}"
            raise ClipError(f"{name} {side} is not a multiple of {facts.multiple}, as {facts.name} needs: use {use}",
                            (name,))  # fmt: skip
    return sides


def _frames(rule: FrameRule, timeline: Timeline, mode: Mode, fps: Fraction) -> tuple[int, tuple[str, ...]]:
    """How many frames are rendered, and what is to be said of it."""
    asked = timeline.frames
    frames = rule.nearest(asked)
    there = _count(timeline.input, fps) if mode == "v2v" else None
    if there is not None and there < frames:
        frames = rule.nearest(there)
        frames -= rule.step if frames > there else 0
        if frames < rule.least:
            raise ClipError(
                f"input {timeline.input} has {there} frames: this model needs {rule.least} or more", ("input",)
            )
        return frames, (f"the input has {there} frames: {frames} are rendered, not {asked} (frames: {rule.told()})",)
    if frames != asked:
        return frames, (f"{asked} frames are asked for, {frames} are rendered: this model takes {rule.told()}",)
    return frames, ()


def _count(source: str | None, fps: Fraction) -> int | None:
    """How many pictures an input has, at the moments of a clip with this rate."""
    if source is None:
        return None
    with open_source(source) as opened:
        if opened.count is None or opened.rate is None or kind_of(source) != "video":
            return opened.count
        return round(opened.count / opened.rate * fps)


def _rate(timeline: Timeline, mode: Mode) -> Fraction | None:
    """A video keeps its own rate, unless another is asked for."""
    if mode not in ("v2v", "extend") or timeline.input is None or kind_of(timeline.input) != "video":
        return None
    with open_source(timeline.input) as opened:
        return None if opened.rate is None else opened.rate.limit_denominator(1001)


def _crops(timeline: Timeline, width: int, height: int) -> tuple[str, ...]:
    """Says which inputs are cut to the clip's shape. SourceError where one cannot be read."""
    notes = []
    control = timeline.control
    named = [timeline.input, *(k.image for k in timeline.keyframes)]
    named += [] if control is None else [control.input, *(k.image for k in control.keyframes)]
    for source in dict.fromkeys(x for x in named if x is not None):
        with open_source(source) as opened:
            w, h = opened.size
            if opened.endless:
                raise SourceError(f"input {source} has no end: record it to a file first")
        if not 1 / FAR < w * height / (h * width) < FAR:
            notes.append(f"{Path(source).name} is {w}x{h}: cut to the shape of {width}x{height}, from the middle")
    return tuple(notes)


def _keyframes(timeline: Timeline, mode: Mode, frames: int) -> tuple[Keyframe, ...]:
    """The keyframes; one on the last frame asked for stays on the last that is rendered."""
    given = timeline.keyframes
    if not given and mode in ("i2v", "keyframes") and timeline.input is not None:
        given = (Keyframe(frame=0, image=timeline.input),)
    out = []
    for key in given:
        if key.frame >= timeline.frames:
            raise ClipError(
                f"keyframe {key.frame} is not in the clip: it has frames 0 to {timeline.frames - 1}", ("keyframes",)
            )
        frame = frames - 1 if key.frame == timeline.frames - 1 and len(given) > 1 else key.frame
        if frame >= frames:
            raise ClipError(f"keyframe {key.frame} is not rendered: this model renders {frames} frames")
        out.append(key.model_copy(update={"frame": frame}))
    return tuple(sorted(out, key=lambda k: k.frame))
