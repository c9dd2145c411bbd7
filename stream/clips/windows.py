"""Which frames go through the motion network together: windows of `length` frames, laid over the clip with an overlap.

A window is a row of frames in order; of a looped schedule it may run over the clip's end into its beginning. All
schedules take neighbouring frames (stride 1): other strides leave frames out.
"""

from __future__ import annotations

from stream.clips.timeline import Schedule
from stream.errors import ClipError

Window = tuple[int, ...]


def windows(schedule: Schedule, frames: int, length: int, overlap: int, step: int = 0) -> list[Window]:
    """The windows of denoising step `step`; every frame is in one or more.

    static: `length - overlap` apart, the last one moved back to end at the last frame. batched: side by side, the last
    one may be shorter. looped: round the closed clip, beginning elsewhere at every step. A clip no longer than one
    window is one window. ClipError unless `0 <= overlap < length`.
    """
    check(length, overlap)
    if frames <= length:
        return [tuple(range(frames))]
    if schedule == "batched":
        return [tuple(range(at, min(at + length, frames))) for at in range(0, frames, length)]
    advance = length - overlap
    if schedule == "static":
        starts = [*range(0, frames - length, advance), frames - length]
        return [tuple(range(at, at + length)) for at in starts]
    first = round(frames * reversed_bits(step))
    return [tuple((first + at + k) % frames for k in range(length)) for at in range(0, frames, advance)]


def check(length: int, overlap: int) -> None:
    """ClipError unless windows of `length` can overlap by `overlap`."""
    if not 0 <= overlap < length:
        told = f"overlap {overlap} does not fit windows of {length} frames: use 0 to {length - 1}"
        raise ClipError(told, ("overlap",))


def reversed_bits(step: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, ...: van der Corput's sequence, which soon comes near every part of 0..1."""
    share, half = 0.0, 0.5
    while step:
        share += half * (step & 1)
        step, half = step >> 1, half / 2
    return share
