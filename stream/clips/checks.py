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
from stream.config import Lora
from stream.errors import ClipError, LivebrushError
from stream.sources import PICTURES, kind_of, open_source


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


def lengthened(table: Table) -> Table:
    """`table` with as many frames as its input video or folder has, at its fps, where it does not say how many."""
    text = table.get("input")
    if "frames" in table or not isinstance(text, str) or not text or kind_of(text) not in ("images", "video"):
        return table
    try:
        with open_source(text) as source:
            count = source.count or 1
            if count > 1 and source.rate and "fps" in table and kind_of(text) == "video":
                count = max(round(count / source.rate * Fraction(str(table["fps"]))), 1)
            return table if count == 1 else table | {"frames": count}
    except (LivebrushError, ValueError, ZeroDivisionError):
        return table  # `check` says it, with its place


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
