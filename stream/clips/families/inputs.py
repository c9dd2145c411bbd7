"""Input pictures and videos as the pipelines of diffusers take them: PIL pictures of the clip's size."""

from __future__ import annotations

from itertools import islice
from typing import Any

import PIL.Image

from stream.clips.families.asked import Job
from stream.errors import ClipError
from stream.preprocess import fitted
from stream.sources import open_source


def picture(source: str, job: Job) -> PIL.Image.Image:
    """The picture (of a video: its first)."""
    return video(source, job, 1)[0]


def video(source: str, job: Job, frames: int) -> list[PIL.Image.Image]:
    """The first `frames` pictures, of a video those at the clip's moments. ClipError where there are fewer."""
    from stream.clips.beginning import in_time, rate_of

    rate = rate_of(source)
    with open_source(source) as opened:
        shown = iter(opened) if rate in (None, job.fps) else in_time(opened, rate, job.fps)
        out = [PIL.Image.fromarray(fitted(f.image, job.width, job.height)) for f in islice(shown, frames)]
    if len(out) < frames:
        raise ClipError(f"input {source} has {len(out)} frames, {frames} are needed: ask for fewer")
    return out


def given(job: Job) -> list[PIL.Image.Image]:
    """The input video, as many frames as are rendered."""
    assert job.timeline.input is not None
    return video(job.timeline.input, job, job.frames)


def first(job: Job) -> PIL.Image.Image:
    """The picture that the clip begins with."""
    return picture(job.keyframes[0].image, job)


def keyframe(job: Job, frame: int) -> Any:
    """The picture for a frame, or None."""
    return next((picture(k.image, job) for k in job.keyframes if k.frame == frame), None)
