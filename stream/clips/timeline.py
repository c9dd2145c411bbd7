"""The timeline: all that decides a clip, in one frozen value. Light to import: the page and the queue read it."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from stream.config import BUILTIN, Lora
from stream.errors import ClipError
from stream.settings import PROMPT_LIMIT, Side

FRAMES_LIMIT = 100_000
RATE = re.compile(r"\d{1,9}(\.\d{1,9})?|\d{1,9}/\d{1,9}")

Schedule = Literal["static", "looped", "batched"]
Fuse = Literal["linear", "flat", "pyramid", "relative"]
NoiseKind = Literal["auto", "fresh", "constant", "repeat", "freenoise", "warped"]
Sampler = Literal["auto", "ddim", "euler", "euler_a", "dpm", "lcm"]
Travel = Literal["lerp", "slerp"]
Prompt = Annotated[str, Field(max_length=PROMPT_LIMIT)]


def _rate(value: Any) -> Any:
    """`24`, `12.5` or `30000/1001`, as a Fraction."""
    if isinstance(value, Fraction):
        return value
    try:
        return Fraction(str(value) if RATE.fullmatch(str(value)) else "")
    except (ValueError, ZeroDivisionError):
        raise ValueError("is no rate: use e.g. 24, 12.5 or 30000/1001") from None


Rate = Annotated[
    Fraction, BeforeValidator(_rate), Field(gt=0, le=240), PlainSerializer(str, return_type=str, when_used="json")
]


class Part(BaseModel):
    """What every table of a timeline has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Key(Part):
    """A prompt at a frame of the clip; between keys it travels, after the last one it holds."""

    frame: Annotated[int, Field(ge=0, description="Frame of the clip at which the prompt is reached.")]
    prompt: Annotated[Prompt, Field(description="The prompt at that frame.")]


class Camera(Part):
    """How the noise canvas (and a still input) moves from one frame to the next, in shares of the picture's width."""

    x: Annotated[float, Field(ge=-1, le=1, description="What is seen moves right by this share of the width.")] = 0.0
    y: Annotated[float, Field(ge=-1, le=1, description="What is seen moves down by this share of the width.")] = 0.0
    zoom: Annotated[float, Field(ge=0.5, le=2, description="What is seen grows by this factor.")] = 1.0
    rotate: Annotated[float, Field(ge=-45, le=45, description="What is seen turns clockwise by so many degrees.")] = 0.0


class Segment(Part):
    """Frames `start` up to `end` (not included), with one motion module. Segments lie in a row with no gap."""

    start: Annotated[int | None, Field(ge=0, description="First frame (default: where the last segment ends).")] = None
    end: Annotated[int | None, Field(ge=1, description="Frame after the last (default: an equal share).")] = None
    motion: Annotated[
        str | None, Field(description="Motion module: a built-in name, a folder, a .safetensors file or a hub id.")
    ] = None
    motion_loras: Annotated[
        tuple[Lora, ...], Field(description="Motion LoRAs, each with a source and a strength.")
    ] = ()
    prompt: Annotated[Prompt | None, Field(description="Its own prompt (default: the timeline's).")] = None
    keys: Annotated[tuple[Key, ...], Field(description="Prompts at frames of the clip, instead of `prompt`.")] = ()
    camera: Annotated[Camera | None, Field(description="How the picture moves (default: as the motion module's).")] = (
        None
    )
    scale: Annotated[float, Field(ge=0, le=3, description="Motion scale: multiplies the temporal keys.")] = 1.0
    effect: Annotated[float, Field(ge=0, le=1, description="How much of the motion module counts.")] = 1.0
    fade: Annotated[
        int | None,
        Field(ge=0, description="Frames of cross-fade into the next segment, half on each side of the border."),
    ] = None


class Keyframe(Part):
    """A picture that a frame must look like."""

    frame: Annotated[int, Field(ge=0, description="Frame of the clip.")]
    image: Annotated[str, Field(description="The picture.")]
    strength: Annotated[float, Field(ge=0, le=1, description="How much it counts.")] = 1.0


class Control(Part):
    """A video or folder that controls the clip, through a ControlNet (every frame) or SparseCtrl (the keyframes)."""

    model: Annotated[str, Field(description="A folder or a hub id of a ControlNet, or of a SparseCtrl.")]
    input: Annotated[str | None, Field(description="A video or folder, one picture a frame (ControlNet).")] = None
    keyframes: Annotated[tuple[Keyframe, ...], Field(description="Pictures at frames (SparseCtrl).")] = ()
    scale: Annotated[float, Field(ge=0, le=2, description="How much it counts.")] = 1.0


class Output(Part):
    """How the clip is written. The file's suffix says the container."""

    codec: Annotated[
        Literal["auto", "h264", "h265", "av1", "vp9", "prores"], Field(description="How the pictures are packed.")
    ] = "auto"
    quality: Annotated[int | None, Field(ge=0, le=63, description="The encoder's CRF; lower is better.")] = None
    audio: Annotated[str, Field(description="keep (the input's), none, generate, or a file.")] = "keep"
    interpolate: Annotated[int, Field(ge=1, le=8, description="Frames out for one frame in.")] = 1
    upscale: Annotated[int, Field(ge=1, le=4, description="Pixels out for one in, a side.")] = 1
    upscaler: Annotated[str | None, Field(description="Weights for spandrel (e.g. an ESRGAN); else Lanczos.")] = None


class Memory(Part):
    """What a large model may do to fit."""

    quantise: Annotated[str | None, Field(description="As the back end's table says, e.g. torchao-int8.")] = None
    offload: Annotated[
        Literal["none", "group", "model", "sequential"], Field(description="What waits in main memory while unused.")
    ] = "none"
    tiling: Annotated[bool, Field(description="The autoencoder works in tiles.")] = False
    cache: Annotated[Literal["none", "first-block"], Field(description="Skip most of a step that changes little.")] = (
        "none"
    )


class Timeline(Part):
    """One clip. `None` means the back end's or the model's own value."""

    frames: Annotated[int, Field(ge=1, le=FRAMES_LIMIT, description="How many frames.")] = 64
    width: Annotated[Side | None, Field(description="Width in pixels (default: the model's).")] = None
    height: Annotated[Side | None, Field(description="Height in pixels (default: the model's).")] = None
    fps: Annotated[Rate | None, Field(description="Frames a second: 24, 12.5 or 30000/1001.")] = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Seed of the noise.")] = 0
    backend: Annotated[str, Field(description="What renders it: see livebrush clip backends.")] = "animatediff"
    model: Annotated[str, Field(description="A preset, a folder, a .safetensors file or a hub id.")] = BUILTIN
    loras: Annotated[tuple[Lora, ...], Field(description="LoRAs, each with a source and a strength.")] = ()
    prompt: Annotated[
        Prompt, Field(description="What to paint. Parts split by | are blended; part:0.3 weighs one.")
    ] = ""
    keys: Annotated[tuple[Key, ...], Field(description="Prompts at frames, instead of `prompt`: it travels.")] = ()
    travel: Annotated[Travel, Field(description="How a prompt goes over into the next: straight, or on the arc.")] = (
        "lerp"
    )
    negative_prompt: Annotated[Prompt, Field(description="What to keep away from, where guidance is above 1.")] = ""
    segments: Annotated[tuple[Segment, ...], Field(description="Stretches of the clip, each with its motion.")] = ()
    steps: Annotated[int | None, Field(ge=1, le=1000, description="Denoising steps.")] = None
    guidance_scale: Annotated[float | None, Field(ge=1, le=50, description="Guidance scale; 1 is no guidance.")] = None
    sampler: Annotated[Sampler, Field(description="How a step is taken; auto is the motion module's own.")] = "auto"
    window: Annotated[int, Field(ge=1, le=128, description="Frames that go through the model together.")] = 16
    overlap: Annotated[int, Field(ge=0, le=127, description="Frames that a window shares with the next one.")] = 4
    schedule: Annotated[Schedule, Field(description="Where windows lie: at rest, wandering, or side by side.")] = (
        "static"
    )
    fuse: Annotated[Fuse, Field(description="How overlapping windows are weighed.")] = "linear"
    noise: Annotated[NoiseKind, Field(description="How the noise of the frames hangs together.")] = "auto"
    free_init: Annotated[int, Field(ge=0, le=10, description="FreeInit iterations.")] = 0
    loop: Annotated[bool, Field(description="The last frame leads into the first.")] = False
    input: Annotated[str | None, Field(description="A video, a folder or a picture to repaint.")] = None
    strength: Annotated[
        float | None, Field(ge=0, le=1, description="How far it may go from the input: 0 keeps it, 1 forgets it.")
    ] = None
    keyframes: Annotated[tuple[Keyframe, ...], Field(description="Pictures that frames must look like.")] = ()
    control: Annotated[Control | None, Field(description="A ControlNet or SparseCtrl, and what it follows.")] = None
    licence: Annotated[str | None, Field(description="Accepts a licence, by name, where one must be.")] = None
    memory: Annotated[Memory, Field(description="What a large model may do to fit into memory.")] = Memory()
    output: Annotated[Output, Field(description="How the clip is written.")] = Output()
    options: Annotated[dict[str, Any], Field(description="A back end's own: see livebrush clip backends.")] = {}

    def changed(self, /, **values: Any) -> Self:
        """This timeline with some values changed, checked again. pydantic's ValidationError where one is wrong."""
        return type(self).model_validate(self.model_dump() | values)

    def resolved(self) -> Self:
        """This timeline with every segment's start, end, fade and prompt (or keys) filled in; at least one segment.

        ClipError where segments leave a gap, overlap or are empty, a fade does not fit, or keys are out of place.
        """
        _check_keys(self.keys, self.prompt, self.frames, 0, ())
        given = self.segments or (Segment(),)
        spans = list(pairwise(_borders(given, self.frames)))
        lengths = [end - start for start, end in spans]
        fades = _fades(given, lengths, self.window, self.loop)
        filled = []
        for index, (segment, (start, end), fade) in enumerate(zip(given, spans, fades, strict=True)):
            _check_keys(segment.keys, segment.prompt, self.frames, start, ("segments", index))
            text: dict[str, Any] = {}
            if segment.prompt is None and not segment.keys:
                text = {"keys": self.keys} if self.keys else {"prompt": self.prompt}
            filled.append(segment.model_copy(update={"start": start, "end": end, "fade": fade} | text))
        return self.model_copy(update={"segments": tuple(filled)})


def _borders(segments: tuple[Segment, ...], frames: int) -> list[int]:
    """Where segments begin, and where the last one ends. Those not said share evenly what lies between the others."""
    known: dict[int, int] = {0: 0, len(segments): frames}
    for index, segment in enumerate(segments):
        for place, frame in ((index, segment.start), (index + 1, segment.end)):
            if frame is not None and known.setdefault(place, frame) != frame:
                name = "start" if place == index else "end"
                told = _misfit(place, len(segments), known[place], frame, frames)
                raise ClipError(told, ("segments", index, name))
    places = sorted(known)
    borders = [0]
    for left, right in pairwise(places):
        low, width = known[left], known[right] - known[left]
        borders += [low + round(width * k / (right - left)) for k in range(1, right - left + 1)]
    for index, (start, end) in enumerate(pairwise(borders)):
        if end <= start:
            raise ClipError(_empty(index + 1, start, end, frames, len(segments)), ("segments", index))
    return borders


def _misfit(place: int, count: int, known: int, frame: int, frames: int) -> str:
    if place == 0:
        return f"segment 1: start is {frame}, which leaves frames 0 to {frame - 1} without a segment: use 0"
    if place == count:
        what = "goes beyond the clip's end" if frame > frames else f"leaves frames {frame} to {frames - 1} without one"
        return f"segment {count}: end is {frame}, which {what}: use {frames}, or frames = {frame}"
    what = "leave a gap" if frame > known else "overlap"
    return (
        f"segments {place} and {place + 1} {what}: one ends at {known}, the next starts at {frame}: use the same "
        "frame, or leave one of them out (for a cross-fade set fade)"
    )


def _empty(number: int, start: int, end: int, frames: int, count: int) -> str:
    if count > frames:
        return f"{count} segments do not fit into {frames} frames: use more frames or fewer segments"
    kind = "is empty" if start == end else "is reversed"
    return f"segment {number} {kind}: it goes from frame {start} to {end} of {frames}: its end must be above its start"


def _fades(segments: tuple[Segment, ...], lengths: list[int], window: int, loop: bool) -> list[int]:
    """The cross-fade after each segment: half a window where none is said, or what its segments have room for.

    Each segment gives `fade // 2` of its last frames and the rest comes from the next one's first.
    """
    last = len(segments) - 1
    if segments[last].fade and (last == 0 or not loop):
        instead = "leave it out" if last == 0 else "leave it out, or set loop = true"
        raise ClipError(
            f"segment {last + 1}: fade has no next segment to go into: {instead}", ("segments", last, "fade")
        )
    fades = []
    for index, segment in enumerate(segments):
        room = min(lengths[index], lengths[(index + 1) % len(segments)])
        none = last == 0 or (index == last and not loop)
        fades.append(0 if none else min(window // 2, room // 2) if segment.fade is None else segment.fade)
    for index, length in enumerate(lengths):
        before = fades[index - 1] - fades[index - 1] // 2
        if before + fades[index] // 2 > length:
            raise ClipError(
                f"segment {index + 1}: its cross-fades take {before} + {fades[index] // 2} frames, and it has "
                f"{length}: use a shorter fade or a longer segment",
                ("segments", index, "fade"),
            )
    return fades


def _check_keys(keys: tuple[Key, ...], prompt: str | None, frames: int, start: int, at: tuple[str | int, ...]) -> None:
    where = f"segment {int(at[1]) + 1}: " if at else ""
    at = (*at, "keys")
    if not keys:
        return
    if prompt:
        raise ClipError(f"{where}prompt and keys are both given: use one of them", at)
    if keys[0].frame > start:
        told = f"{where}keys: the first is at frame {keys[0].frame}: it must be at {start}, where it begins"
        raise ClipError(told, (*at, 0))
    for index, (one, other) in enumerate(pairwise(keys)):
        if other.frame <= one.frame:
            told = f"{where}keys: frame {other.frame} comes after frame {one.frame}: sort them by frame"
            raise ClipError(told, (*at, index + 1))
    if keys[-1].frame >= frames:
        told = f"{where}keys: frame {keys[-1].frame} is not in the clip: its frames are 0 to {frames - 1}"
        raise ClipError(told, (*at, len(keys) - 1))
