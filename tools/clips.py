"""Pictures of clips for the docs: `python -m tools.clips OUT.jpg|OUT.gif "label=clip.mp4" ...`.

A JPEG is a contact sheet, one row for each clip, its frames evenly apart; a GIF shows the clips moving, side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from stream.clips.timeline import Output
from stream.clips.write import target, write
from stream.frame import Image
from stream.preprocess import fitted
from stream.sources import open_source
from tools.builtin.report import label


def frames(clip: str, height: int) -> Iterator[Image]:
    """The clip's pictures, `height` pixels high."""
    with open_source(clip) as source:
        width = round(source.size[0] * height / source.size[1])
        for frame in source:
            yield fitted(frame.image, width, height, "stretch")


def sheet(clips: dict[str, str], columns: int, height: int) -> Image:
    """A contact sheet `(rows, width, 3)`: for each label, `columns` frames of its clip, the first and the last too."""
    rows = []
    for name, clip in clips.items():
        every = list(frames(clip, height))
        shown = [every[round(i)] for i in np.linspace(0, len(every) - 1, columns)]
        rows.append(label(np.hstack(shown), name))
    widest = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 2), (0, widest - row.shape[1]), (0, 0))) for row in rows])


def beside(clips: dict[str, str], height: int) -> Iterator[Image]:
    """The clips' pictures next to each other, as long as the shortest of them."""
    for row in zip(*(frames(clip, height) for clip in clips.values()), strict=False):
        yield np.hstack([label(image, name) for image, name in zip(row, clips, strict=True)])


def animated(clips: dict[str, str], path: Path, height: int, every: int) -> None:
    """A GIF of each `every`th picture, in the clips' own time."""
    with open_source(next(iter(clips.values()))) as source:
        rate = Fraction(source.rate or 8) / every
    to = target(path, path.with_name(f".{path.name}.part"), Output(), rate, (height, height))
    write(to, islice(beside(clips, height), 0, None, every), path.with_name(f".{path.name}.raw"), None, "{}")
    to.made.replace(path)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tools.clips", description=__doc__)
    options.add_argument("out", type=Path)
    options.add_argument("clips", nargs="+", metavar="label=clip")
    options.add_argument("--columns", type=int, default=8, help="frames of a clip in a contact sheet")
    options.add_argument("--height", type=int, default=160, help="of a picture")
    options.add_argument("--every", type=int, default=1, help="each so many-th picture of a GIF")
    asked = options.parse_args()
    clips = dict(pair.rpartition("=")[::2] for pair in asked.clips)
    if asked.out.suffix == ".gif":
        animated(clips, asked.out, asked.height, asked.every)
    else:
        image = sheet(clips, asked.columns, asked.height)
        cv2.imwrite(str(asked.out), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
