"""What is wrong with a timeline is said before any work is done: segments, files, and what the back end says of it.
Errors have their place in the timeline."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path

from stream.clips.backend import Backend, Plan
from stream.clips.explain import At, named
from stream.clips.families import FAMILIES, family
from stream.clips.reading import SOUNDS, Table
from stream.clips.timeline import Keyframe, Timeline
from stream.config import BUILTIN, Lora, spec
from stream.errors import ClipError, LivebrushError
from stream.sources import PICTURES, Source, kind_of, open_source

ANIMATED = str(Timeline.model_fields["backend"].default)


def check(timeline: Timeline) -> Plan:
    """What the clip will take. ClipError where it cannot be made as the timeline says; reads no weights."""
    resolved = timeline.resolved()
    backend = known(resolved.backend)
    _keyframes(resolved)
    for at, text in pictures(resolved):
        _named(text, at)
        readable(text, at)
    for at, text in others(resolved):
        _named(text, at)
        if not Path(text).expanduser().exists():
            raise ClipError(f"{text} is not there: check the path", at)
    return backend.plan(resolved)


def _named(text: str, at: At) -> None:
    if not text.strip():
        raise ClipError(f"{named(at)} is empty: name a file, or leave it out", at)


def like_input(table: Table) -> Table:
    """`table` with the frames of its input, at its fps, and the input's shape, where it does not say others."""
    text = table.get("input")
    if not isinstance(text, str) or not text or kind_of(text) not in ("images", "video"):
        return table
    try:
        with open_source(text) as source:
            sides = {} if {"width", "height"} & set(table) else _shape(table, source.size)
            return _length(table, source, kind_of(text)) | sides | table
    except (LivebrushError, ValueError, ZeroDivisionError):
        return table  # `check` says it, with its place


def _length(table: Table, source: Source, kind: str) -> Table:
    """As many frames as there are, or as many as last as long at the clip's own rate."""
    count = source.count or 1
    if count > 1 and source.rate and "fps" in table and kind == "video":
        count = round(count / source.rate * Fraction(str(table["fps"])))
    return {} if (source.count or 1) == 1 else {"frames": max(count, 1)}


def _shape(table: Table, size: tuple[int, int]) -> Table:
    """Width and height of about as many pixels as the model paints, in the aspect of `size`."""
    from stream.render import default_size

    facts = known(str(table.get("backend", ANIMATED))).facts
    model = str(table.get("model", BUILTIN))
    if facts.name != ANIMATED:
        width, height, multiple = *facts.size, facts.multiple
    else:
        settings = spec(model).settings
        width, height, multiple = settings.width, settings.height, 32 if model == BUILTIN else 64
    width, height = default_size(size, width * height, multiple)
    return {"width": width, "height": height}


def check_ready(timeline: Timeline) -> None:
    """ClipError where the back end cannot work on this machine."""
    if missing := known(timeline.backend).missing(timeline):
        raise ClipError(f"backend {timeline.backend} is not ready: {missing}", ("backend",))


def known(name: str) -> Backend:
    """The back end called `name`; ClipError with the nearest one where there is none."""
    if name in FAMILIES:
        return family(name)
    near = get_close_matches(name, FAMILIES, 1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(FAMILIES)}"
    raise ClipError(f"backend {name[:80]!r} is unknown: {hint} (livebrush clip backends lists them)", ("backend",))


def readable(text: str, at: At = ()) -> None:
    """ClipError unless there is a first picture in an input."""
    if kind_of(text) == "camera":
        raise ClipError(f"{text} has no end: record it to a file first", at)
    try:
        if kind_of(text) in ("images", "video"):
            open_source(text).close()
    except LivebrushError as error:
        raise ClipError(str(error), at) from None


def pictures(timeline: Timeline) -> Iterator[tuple[At, str]]:
    """Every video, folder and picture that a timeline names, with its place."""
    if timeline.input is not None:
        yield ("input",), timeline.input
    for index, keyframe in enumerate(timeline.keyframes):
        yield ("keyframes", index, "image"), keyframe.image
    if timeline.control is None:
        return
    if timeline.control.input is not None:
        yield ("control", "input"), timeline.control.input
    for index, keyframe in enumerate(timeline.control.keyframes):
        yield ("control", "keyframes", index, "image"), keyframe.image


def others(timeline: Timeline) -> Iterator[tuple[At, str]]:
    """Every other file that a timeline names, with its place. Hub ids are no files."""
    if timeline.output.audio not in SOUNDS:
        yield ("output", "audio"), timeline.output.audio
    if timeline.output.upscaler is not None:
        yield ("output", "upscaler"), timeline.output.upscaler
    groups: list[tuple[At, tuple[Lora, ...]]] = [(("loras",), timeline.loras)]
    groups += [(("segments", i, "motion_loras"), s.motion_loras) for i, s in enumerate(timeline.segments)]
    for at, loras in groups:
        yield from (((*at, i, "source"), x.source) for i, x in enumerate(loras) if _is_path(x.source))


def _is_path(source: str) -> bool:
    """Whether weights are a file or folder and no hub id: `owner/name`, or `owner/name/file.safetensors`."""
    plain = not source.startswith((".", "~", "/")) and "\\" not in source
    return not (plain and source.count("/") in (1, 2)) or Path(source).expanduser().exists()


def _keyframes(timeline: Timeline) -> None:
    _frames(timeline.keyframes, timeline.frames, ("keyframes",))
    if timeline.control is not None:
        _frames(timeline.control.keyframes, timeline.frames, ("control", "keyframes"))


def _frames(keyframes: tuple[Keyframe, ...], frames: int, at: At) -> None:
    """ClipError unless all are in the clip, each frame once, and name pictures."""
    seen: dict[int, int] = {}
    for index, keyframe in enumerate(keyframes):
        number = index + 1
        if keyframe.frame >= frames:
            told = f"keyframe {number}: frame {keyframe.frame} is not in the clip: its frames are 0 to {frames - 1}"
            raise ClipError(told, (*at, index, "frame"))
        if keyframe.frame in seen:
            told = f"keyframes {seen[keyframe.frame]} and {number} are both for frame {keyframe.frame}: use one of them"
            raise ClipError(told, (*at, index, "frame"))
        if Path(keyframe.image).suffix.lower() not in PICTURES:
            told = f"keyframe {number}: image {keyframe.image} is no picture: use one of {' '.join(PICTURES)}"
            raise ClipError(told, (*at, index, "image"))
        seen[keyframe.frame] = number
