"""What a request for a clip asks for, and whether strangers may: fields in OpenAI's names or a whole timeline, checked.

Over HTTP nobody names files of the server, nor models that it would have to fetch: only what is built in, what the
server was started with, an upload, and clips that the server has made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from stream.clips.explain import explain
from stream.clips.families import family
from stream.clips.modules import built_in, find
from stream.clips.timeline import Timeline
from stream.config import BUILTIN
from stream.errors import ClipError
from web.errors import RefusalError
from web.fields import Model

BATCH = 16  # clips of one request
FRAMES = 10_000  # of a clip, at most
MOST_FRAMES, MOST_SIDE = 20_000, 4096  # of its file
SECONDS = re.compile(r"\d{1,4}(\.\d{1,3})?")
SIZE = re.compile(r"(\d{2,4})x(\d{2,4})")
Format = Literal["mp4", "webm", "mov", "gif", "apng"]
UPLOAD = "upload"  # as `input` of a timeline: the file that came along
SOUNDS = ("keep", "none", "generate")
At = tuple[str | int, ...]


class ImageReference(Model):
    """A picture in the request itself."""

    image_url: Annotated[str, Field(description="A data: URL in base64.")]


class VideoAsked(Model):
    """A request for clips: OpenAI's fields, and Livebrush's own (`timeline`, `seed`, `n`, `loop`, `format`).

    Fields beside a timeline come before it. Sent as JSON, or as multipart/form-data with a file `input_reference`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    prompt: Annotated[str | None, Field(description="What to paint.")] = None
    model: Annotated[str | None, Field(description="builtin, or a model or back end that the server allows.")] = None
    seconds: Annotated[str | float | None, Field(description="Length of the clip.")] = None
    size: Annotated[str | None, Field(description="WIDTHxHEIGHT; default: the model's.")] = None
    input_reference: Annotated[ImageReference | None, Field(description="What to repaint.")] = None
    timeline: Annotated[
        Mapping[str, JsonValue],
        Field(default_factory=dict, description="Livebrush's own way to say what a clip is; see GET /api/clips."),
    ]
    seed: Annotated[int | None, Field(ge=0, le=2**32 - 1, description="Of the first clip; the next has the next.")] = (
        None
    )
    n: Annotated[int, Field(ge=1, le=BATCH, description="So many clips, a seed each.")] = 1
    loop: Annotated[bool | None, Field(description="The last frame leads into the first.")] = None
    format: Annotated[Format, Field(description="The kind of file.")] = "mp4"


@dataclass(frozen=True)
class Rules:
    """What strangers may name: `motions` are built in; `allowed` is what the server was started with."""

    motions: Mapping[str, str] = field(default_factory=dict)  # what each does, by its name
    allowed: frozenset[str] = frozenset()
    backends: tuple[str, ...] = ("animatediff",)

    def check(self, timeline: Timeline) -> None:
        """RefusalError where a timeline names what it may not."""
        if timeline.frames > FRAMES:
            raise refusal(f"frames {timeline.frames} is more than {FRAMES}: make several clips", ("frames",))
        output = timeline.output
        if timeline.frames * output.interpolate > MOST_FRAMES:
            told = f"output.interpolate {output.interpolate} makes more than {MOST_FRAMES} frames: use less"
            raise refusal(told, ("output", "interpolate"))
        if max(timeline.width or 0, timeline.height or 0) * output.upscale > MOST_SIDE:
            told = f"output.upscale {output.upscale} makes more than {MOST_SIDE} pixels a side: use less"
            raise refusal(told, ("output", "upscale"))
        if timeline.options and "options" not in self.allowed:
            raise refusal("options are not taken over HTTP: start the server with --allow options", ("options",))
        for at, name in named(timeline):
            known = self._known(at)
            if name not in known and name not in self.allowed:
                told = f"use {' or '.join(known)}, or " if known else ""
                where = ".".join(map(str, at))
                raise refusal(
                    f"{where} {name[:80]!r} is not for everybody: {told}start the server with --allow NAME", at
                )

    def _known(self, at: At) -> tuple[str, ...]:
        known = {"backend": self.backends, "model": (BUILTIN,), "motion": tuple(self.motions)}
        return known.get(str(at[-1]), ()) if at[0] != "control" else ()


def named(timeline: Timeline) -> Iterator[tuple[At, str]]:
    """Everything in a timeline that names a file, a model, or something else to be loaded, and where. Not its input."""
    yield ("backend",), timeline.backend
    yield ("model",), timeline.model
    for number, lora in enumerate(timeline.loras):
        yield ("loras", number, "source"), lora.source
    for number, segment in enumerate(timeline.segments):
        if segment.motion is not None:
            yield ("segments", number, "motion"), segment.motion
        for k, lora in enumerate(segment.motion_loras):
            yield ("segments", number, "motion_loras", k, "source"), lora.source
    for number, frame in enumerate(timeline.keyframes):
        yield ("keyframes", number, "image"), frame.image
    if (control := timeline.control) is not None:
        yield ("control", "model"), control.model
        if control.input is not None:
            yield ("control", "input"), control.input
        for number, frame in enumerate(control.keyframes):
            yield ("control", "keyframes", number, "image"), frame.image
    if timeline.memory.quantise is not None:
        yield ("memory", "quantise"), timeline.memory.quantise
    if timeline.output.audio not in SOUNDS:
        yield ("output", "audio"), timeline.output.audio
    if timeline.output.upscaler is not None:
        yield ("output", "upscaler"), timeline.output.upscaler


def timeline(asked: VideoAsked, rules: Rules, has_upload: bool) -> Timeline:
    """The timeline that a request means. RefusalError, with the field's place, where something is wrong."""
    given: dict[str, Any] = {"backend": rules.backends[0], **asked.timeline}
    if asked.model is not None:
        given |= model(asked.model)
    if asked.size is not None:
        given |= size(asked.size)
    given |= {name: value for name in ("prompt", "seed", "loop") if (value := getattr(asked, name)) is not None}
    if has_upload:
        given.setdefault("input", UPLOAD)
    made = parsed(given)
    rules.check(made)
    if asked.seconds is not None:
        made = parsed(given | {"frames": frames(str(asked.seconds), made)})
    rules.check(made)
    return made


def parsed(given: Mapping[str, Any]) -> Timeline:
    """A timeline with its segments filled in."""
    try:
        return Timeline.model_validate(dict(given)).resolved()
    except ValidationError as error:
        raise refusal(explain(error, given, lambda _at: ""), tuple(error.errors()[0]["loc"])) from None
    except ClipError as error:
        raise refusal(str(error), error.at) from None


def model(name: str) -> dict[str, str]:
    """The back end or the model that a name means."""
    from stream.clips.families import FAMILIES

    return {"backend": name} if name in FAMILIES else {"model": name}


def size(text: str) -> dict[str, int]:
    """`640x360`."""
    found = SIZE.fullmatch(text)
    if found is None:
        raise RefusalError(422, f"size {text[:80]!r} is no size: use WIDTHxHEIGHT, e.g. 512x288", param="size")
    return {"width": int(found[1]), "height": int(found[2])}


def frames(seconds: str, made: Timeline) -> int:
    """How many frames that is."""
    if not SECONDS.fullmatch(seconds) or not float(seconds):
        raise RefusalError(422, f"seconds {seconds[:80]!r} is no length: use e.g. 4", param="seconds")
    try:
        fps = float(made.fps) if made.fps is not None else family(made.backend).facts.fps
    except ClipError as error:
        raise refusal(str(error), ("backend",)) from None
    return max(1, round(float(seconds) * fps))


def motions() -> dict[str, str]:
    """The motion modules that are built in, and what each does."""
    return {name: find(name).facts.about for name in built_in()}


def refusal(told: str, at: At) -> RefusalError:
    """What is wrong with a timeline, and where."""
    return RefusalError(422, told, param=".".join(map(str, at)) or "timeline")


FORMATS: tuple[str, ...] = get_args(Format)
