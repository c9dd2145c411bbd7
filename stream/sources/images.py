"""A picture, or a folder of pictures in natural order, upright and whole."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageOps, UnidentifiedImageError

from stream.errors import SourceError
from stream.frame import Frame, Image
from stream.sources import PICTURES, Source

RATE = Fraction(30)  # pictures a second, where a folder becomes a video
Pieces = tuple[tuple[int, int, str], ...]


class ImagesSource(Source):
    """One picture, or those in a folder. A frame's `pts` is its place in `names`."""

    def __init__(self, path: Path) -> None:
        self.name, self.rate = str(path), RATE
        self._paths = pictures_in(path) if path.is_dir() else [path]
        if not self._paths:
            raise SourceError(f"folder {path} has no picture in it: expected files ending in {' '.join(PICTURES)}")
        self.names = tuple(p.name for p in self._paths)
        self.count = len(self._paths)
        self._first: Image | None = read_picture(self._paths[0])
        self.size = (self._first.shape[1], self._first.shape[0])

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            image = self._first if index == 0 and self._first is not None else read_picture(path)
            self._first = None
            yield Frame(image, index, 1 / RATE)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order: 2.png comes before 10.png."""
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"folder {folder} cannot be read ({error.strerror}): check its permissions") from error
    return sorted((p for p in found if p.is_file()), key=lambda p: (natural(p.name), p.name))


def natural(name: str) -> Pieces:
    """A sort key under which numbers count as numbers."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in pieces)


def read_picture(path: Path) -> Image:
    """An RGB picture, upright by its EXIF tag; transparent parts are white. SourceError if it is not whole."""
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path} is empty (0 bytes): give a picture")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # a large photo is welcome
            with PIL.Image.open(path) as picture:
                picture.load()
                return to_rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        raise SourceError(f"{path} is not a picture: expected {' '.join(PICTURES)}") from error
    except PIL.Image.DecompressionBombError as error:
        raise SourceError(f"{path} is too large ({error}): make it smaller first") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise SourceError(f"{path} is damaged ({error}): copy it again, or take it out of the folder") from error


def to_rgb(picture: PIL.Image.Image) -> Image:
    """Any mode, 16 bits included, as RGB `(height, width, 3)` uint8."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        eight = np.clip(grey // 257, 0, 255).astype(np.uint8)
        return np.repeat(eight[..., None], 3, axis=2)
    if picture.mode == "F":
        raise SourceError("floating point pictures have no known white: save it as PNG or JPEG first")
    if picture.has_transparency_data:
        see_through = picture.convert("RGBA")
        picture = PIL.Image.alpha_composite(PIL.Image.new("RGBA", see_through.size, "white"), see_through)
    return np.array(picture.convert("RGB"))


def connect(text: str) -> ImagesSource:
    return ImagesSource(Path(text))
