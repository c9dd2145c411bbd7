"""A folder of pictures that keep their names; frames of a video are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stream.frame import Frame
from stream.sinks import Place, Sink, publish, remove, told, unfinished
from stream.sinks.image import save
from stream.sources import Source

KEPT = (".png", ".jpg", ".jpeg")  # other formats become PNG


class ImagesSink(Sink):
    """`names` are file names by the frames' pts; without them, frames are 000001.png and so on."""

    def __init__(self, path: Path, names: Sequence[str] = ()) -> None:
        self._path, self._made, self._names = path, unfinished(path), targets(names)
        self._written = 0

    def write(self, frame: Frame) -> None:
        if not self._written:
            with told(self._path):
                self._made.mkdir()
        self._written += 1
        name = self._names[frame.pts] if self._names else f"{self._written:06}.png"
        save(frame.image, self._made / name, self._path / name)

    def close(self, complete: bool = True) -> None:  # noqa: ARG002
        if self._written:
            publish(self._made, self._path)

    def discard(self) -> None:
        remove(self._made)


def targets(names: Sequence[str]) -> list[str]:
    """What each input is called in the output: a.jpg stays, b.tif is b.png, or b.tif.png where b.png is taken."""
    out = [n for n in names if Path(n).suffix.lower() in KEPT]
    taken = {n.casefold() for n in out}
    made: list[str] = []
    for name in names:
        target = name
        if Path(name).suffix.lower() not in KEPT:
            target = Path(name).stem + ".png"
            if target.casefold() in taken:
                target = name + ".png"
            taken.add(target.casefold())
        made.append(target)
    return made


def connect(place: Place, source: Source) -> ImagesSink:
    return ImagesSink(place.path, source.names)
