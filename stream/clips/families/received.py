"""Clips that another program painted: its file, as the pictures that were planned."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from stream.clips.backend import Watch
from stream.clips.families.asked import Job
from stream.errors import ClipError, SourceError
from stream.frame import Image
from stream.preprocess import fitted
from stream.sources import open_source

SLICE = 16  # pictures at a time
NOTE = "what it sends is cut to this size and length, where it is larger"


def frames_of(file: Path, job: Job, watch: Watch) -> Iterator[Image]:
    """The pictures in a file, as many and as large as planned. ClipError where there are fewer."""
    done = 0
    try:
        with open_source(str(file)) as source:
            pictures = (fitted(frame.image, job.width, job.height) for frame in islice(source, job.frames))
            while part := list(islice(pictures, SLICE)):
                done += len(part)
                watch.tell("decode", done, job.frames)
                yield np.stack(part)
    except SourceError as error:
        raise ClipError(f"backend {job.timeline.backend} gave a file that cannot be read: {error}") from None
    if done < job.frames:
        raise ClipError(
            f"backend {job.timeline.backend} gave {done} frames, expected {job.frames}: ask for fewer, or another fps"
        )
