"""The timeline: all that decides a clip, in one frozen value. Light to import: the page and the queue read it."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from stream.config import BUILTIN, Lora
from stream.settings import PROMPT_LIMIT, Side

FRAMES_LIMIT = 100_000

Schedule = Literal["static", "looped", "batched"]
Fuse = Literal["linear", "flat", "pyramid", "relative"]
NoiseKind = Literal["auto", "fresh", "constant", "repeat", "freenoise", "warped"]
Sampler = Literal["auto", "ddim", "euler", "euler_a", "dpm", "lcm"]
Prompt = Annotated[str, Field(max_length=PROMPT_LIMIT)]


def _rate(value: Any) -> Any:
    """`24`, `12.5` or `30000/1001`, as a Fraction."""
    return Fraction(str(value)) if isinstance(value, int | float | str) and not isinstance(value, bool) else value


Rate = Annotated[
    Fraction, BeforeValidator(_rate), Field(gt=0, le=240), PlainSerializer(str, return_type=str, when_used="json")
]


class Part(BaseModel):
    """What every table of a timeline has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Key(Part):
    """A prompt at a frame of the clip; between keys it travels."""

    frame: Annotated[int, Field(ge=0, description="Frame of the clip at which the prompt is reached.")]
    prompt: Prompt


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
    motion_loras: tuple[Lora, ...] = ()
    prompt: Prompt | None = None  # the timeline's where none is given
    keys: tuple[Key, ...] = ()  # instead of `prompt`
    camera: Camera | None = None  # the motion module's own where none is given
    scale: Annotated[float, Field(ge=0, le=3, description="Motion scale: multiplies the temporal keys.")] = 1.0
    effect: Annotated[float, Field(ge=0, le=1, description="How much of the motion module counts.")] = 1.0
    fade: Annotated[int | None, Field(ge=0, description="Frames of cross-fade into the next segment.")] = None


class Keyframe(Part):
    """A picture that a frame must look like."""

    frame: Annotated[int, Field(ge=0)]
    image: str
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0


class Control(Part):
    """A video or folder that controls the clip, through a ControlNet (every frame) or SparseCtrl (the keyframes)."""

    model: str
    input: str | None = None
    keyframes: tuple[Keyframe, ...] = ()
    scale: Annotated[float, Field(ge=0, le=2)] = 1.0


class Output(Part):
    """How the clip is written. The file's suffix says the container."""

    codec: Literal["auto", "h264", "h265", "av1", "vp9", "prores"] = "auto"
    quality: Annotated[int | None, Field(ge=0, le=63, description="The encoder's CRF; lower is better.")] = None
    audio: Annotated[str, Field(description="keep, none, generate, or a file.")] = "keep"
    interpolate: Annotated[int, Field(ge=1, le=8, description="Frames out for one frame in.")] = 1
    upscale: Annotated[int, Field(ge=1, le=4, description="Pixels out for one in, a side.")] = 1
    upscaler: Annotated[str | None, Field(description="Weights for spandrel (e.g. an ESRGAN); else Lanczos.")] = None


class Memory(Part):
    """What a large model may do to fit."""

    quantise: Annotated[str | None, Field(description="As the back end's table says, e.g. torchao-int8.")] = None
    offload: Literal["none", "group", "model", "sequential"] = "none"
    tiling: bool = False
    cache: Literal["none", "first-block"] = "none"


class Timeline(Part):
    """One clip. `None` means the back end's or the model's own value."""

    frames: Annotated[int, Field(ge=1, le=FRAMES_LIMIT)] = 64
    width: Side | None = None
    height: Side | None = None
    fps: Rate | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    backend: str = "animatediff"
    model: str = BUILTIN
    loras: tuple[Lora, ...] = ()
    prompt: Prompt = ""
    negative_prompt: Prompt = ""
    segments: tuple[Segment, ...] = ()
    steps: Annotated[int | None, Field(ge=1, le=1000)] = None
    guidance_scale: Annotated[float | None, Field(ge=1, le=50)] = None
    sampler: Sampler = "auto"
    window: Annotated[int, Field(ge=1, le=128)] = 16
    overlap: Annotated[int, Field(ge=0, le=127)] = 4
    schedule: Schedule = "static"
    fuse: Fuse = "linear"
    noise: NoiseKind = "auto"
    free_init: Annotated[int, Field(ge=0, le=10, description="FreeInit iterations.")] = 0
    loop: bool = False
    input: Annotated[str | None, Field(description="A video, a folder or a picture to repaint.")] = None
    strength: Annotated[float | None, Field(ge=0, le=1)] = None
    keyframes: tuple[Keyframe, ...] = ()
    control: Control | None = None
    licence: Annotated[str | None, Field(description="Accepts a licence, by name, where one must be.")] = None
    memory: Memory = Memory()
    output: Output = Output()
    options: dict[str, Any] = {}  # a back end's own: each says which it takes
