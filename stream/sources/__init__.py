"""Sources: where frames come from. A new one is a file here and a line in `KINDS`.

    with open_source("holiday.mp4") as source:
        for frame in source:
            show(frame)

Whatever is wrong with an input is a SourceError, told when it is opened, or else when the bad frame is reached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stream.errors import SourceError

if TYPE_CHECKING:
    from stream.frame import Frame

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mpg")


@dataclass(frozen=True)
class Audio:
    """The sound of a video: the file it is in, and the seconds its clock is moved back by, as the pictures' is."""

    path: Path
    start: Fraction = Fraction(0)


class Source(ABC):
    """Frames, in order, each once. A context manager that closes itself.

    `size` is (width, height) of the first picture; `rate` frames a second where it is known; `count` how many frames
    there are, as far as the input itself says; `names` the frames' file names, where `pts` is the index into them.
    """

    name: str
    size: tuple[int, int]
    rate: Fraction | None = None
    count: int | None = None
    audio: Audio | None = None
    names: tuple[str, ...] = ()
    endless: bool = False  # goes on until it is stopped, or as long as it is asked to

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames; SourceError where one cannot be read."""

    def close(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Lets go of files and devices; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Kind:
    """A kind of source: which inputs are its own, and the module whose `connect(text)` opens them."""

    takes: Callable[[str], bool]
    module: str


def is_camera(text: str) -> bool:
    return text == "camera" or text.startswith(("camera:", "/dev/video"))


def is_pictures(text: str) -> bool:
    return Path(text).is_dir() or Path(text).suffix.lower() in PICTURES


KINDS = {
    "testcard": Kind(lambda text: text == "testcard", "stream.sources.testcard"),
    "camera": Kind(is_camera, "stream.sources.camera"),
    "images": Kind(is_pictures, "stream.sources.images"),
    "video": Kind(lambda _text: True, "stream.sources.video"),
}


def kind_of(text: str) -> str:
    """The name of the kind that opens `text`: the first that takes it."""
    return next(name for name, kind in KINDS.items() if kind.takes(text))


def open_source(text: str, frames: int | None = None) -> Source:
    """The source called `text`: testcard, camera, camera:1, a folder, a picture or a video.

    `frames` is how many will be asked for, for sources that have no end of their own. SourceError where there is
    nothing by that name, or it cannot be read.
    """
    kind = kind_of(text)
    if kind in ("images", "video") and not Path(text).exists():
        raise SourceError(f"input {text} is not there: give a video, a picture, a folder, testcard or camera")
    source: Source = import_module(KINDS[kind].module).connect(text)
    if frames is not None and source.endless:
        source.count = frames
    return source
