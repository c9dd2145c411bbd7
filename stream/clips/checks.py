"""What is wrong with a timeline is said before any work is done: values, files, motion modules, and what the back end
says of it. Every error has its place in the timeline."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from stream.clips.backend import Backend, Plan
from stream.clips.explain import At, named
from stream.clips.families import FAMILIES, family
from stream.clips.reading import SOUNDS, Table
from stream.clips.timeline import Keyframe, Segment, Timeline
from stream.config import Lora
from stream.errors import ClipError, LivebrushError
from stream.sources import PICTURES, kind_of, open_source

if TYPE_CHECKING:
    from stream.clips.modules import MotionModule


def check(timeline: Timeline) -> Plan:
    """What the clip will take. ClipError where it cannot be made as the timeline says; reads no weights."""
    resolved = timeline.resolved()
    backend = known(resolved.backend)
    _windows(resolved)
    _keyframes(resolved)
    _motions(resolved)
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


def _windows(timeline: Timeline) -> None:
    if timeline.overlap >= timeline.window:
        raise ClipError(
            f"overlap {timeline.overlap} is not below window {timeline.window}: use 0 to {timeline.window - 1}",
            ("overlap",),
        )


def _motions(timeline: Timeline) -> None:
    """ClipError unless every motion module is there and takes a window, and motion LoRAs fit it. Those on the hub are
    left to the back end, since looking at them downloads them."""
    if not any(s.motion is not None or s.motion_loras for s in timeline.segments) or timeline.backend != "animatediff":
        return
    from stream.clips.modules import find

    for index, segment in enumerate(timeline.segments):
        source, at = segment.motion, ("segments", index)
        if source is None:
            if segment.motion_loras:
                raise ClipError(
                    f"segment {index + 1}: motion_loras need a motion module: say motion", (*at, "motion_loras")
                )
            continue
        if not _is_path(source):
            continue
        try:
            module = find(source)
        except LivebrushError as error:
            raise ClipError(f"segment {index + 1}: {error}", (*at, "motion")) from None
        _fits(module, segment, timeline, index)


def _fits(module: MotionModule, segment: Segment, timeline: Timeline, index: int) -> None:
    at = ("segments", index)
    if module.frames < min(timeline.window, timeline.frames):
        raise ClipError(
            f"segment {index + 1}: motion module {segment.motion} takes {module.frames} frames at once, and the window "
            f"has {timeline.window}: use window {module.frames} or less",
            (*at, "motion"),
        )
    if segment.motion_loras and not module.facts.loras:
        raise ClipError(
            f"segment {index + 1}: motion module {segment.motion} ({module.facts.version}) takes no motion LoRAs: only "
            "AnimateDiff v2 does",
            (*at, "motion_loras"),
        )


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
