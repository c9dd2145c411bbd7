"""One picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image

from stream.errors import SinkError
from stream.frame import Frame, Image
from stream.sinks import Place, Sink, publish, remove, told, unfinished
from stream.sources import Source

OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 3},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_deflate"},
}


class ImageSink(Sink):
    """A file that holds one picture; a second one is a SinkError."""

    def __init__(self, path: Path) -> None:
        self._path, self._made, self._written = path, unfinished(path), False

    def write(self, frame: Frame) -> None:
        if self._written:
            raise SinkError(f"output {self._path} holds one picture, and the input has more: {INSTEAD}")
        save(frame.image, self._made, self._path)
        self._written = True

    def close(self, complete: bool = True) -> None:  # noqa: ARG002
        if self._written:
            publish(self._made, self._path)

    def discard(self) -> None:
        remove(self._made)


INSTEAD = "give a video or a folder (name/), or --frames 1"


def save(image: Image, made: Path, path: Path) -> None:
    """Writes `made` in the format of `path`'s suffix."""
    kind = PIL.Image.registered_extensions()[path.suffix.lower()]
    encoded = io.BytesIO()
    PIL.Image.fromarray(image).save(encoded, kind, **OPTIONS.get(kind, {}))
    with told(path):
        made.write_bytes(encoded.getbuffer())


def connect(place: Place, _source: Source) -> ImageSink:
    return ImageSink(place.path)
