"""Sources: where frames come from. A new one is a file here and a line in `KINDS`.

    with open_source("holiday.mp4") as source:
        for frame in source:
            show(frame)

Whatever is wrong with an input is a SourceError, told when it is opened, or else when the bad frame is reached.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from stream.errors import SourceError

if TYPE_CHECKING:
    from stream.frame import Frame

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mpg")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # RFC 3986, and an authority


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
    """A kind of source: which inputs are its own, and the module whose `connect(text)` opens them.

    What `comes_and_goes` (a camera, an address) may be away when it is asked for: its module has `check(text)`, which
    looks at the name alone. What `is_listed` has `listed()`, all that are here now.
    """

    takes: Callable[[str], bool]
    module: str
    comes_and_goes: bool = False
    is_listed: bool = False

    def load(self) -> Any:
        """The module."""
        return import_module(self.module)


@dataclass(frozen=True)
class Listed:
    """A source that is here: the `name` to ask for it by, a `title` to show, and its kind."""

    name: str
    title: str
    kind: str


def is_camera(text: str) -> bool:
    return text == "camera" or text.startswith(("camera:", "/dev/video"))


def is_screen(text: str) -> bool:
    return text == "screen" or text.startswith(("screen:", "window:"))


def is_address(text: str) -> bool:
    return ADDRESS.match(text) is not None


def is_pictures(text: str) -> bool:
    return there(text, Path.is_dir) or Path(text).suffix.lower() in PICTURES


def there(text: str, how: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether a path is there; one that no file system takes, or that may not be looked at, is not."""
    try:
        return how(Path(text))
    except OSError:
        return False


KINDS = {
    "testcard": Kind(lambda text: text == "testcard", "stream.sources.testcard", is_listed=True),
    "camera": Kind(is_camera, "stream.sources.camera", comes_and_goes=True, is_listed=True),
    "screen": Kind(is_screen, "stream.sources.screen", comes_and_goes=True, is_listed=True),
    "ndi": Kind(lambda text: text.startswith("ndi:"), "stream.sources.ndi", comes_and_goes=True, is_listed=True),
    "url": Kind(is_address, "stream.sources.url", comes_and_goes=True),
    "images": Kind(is_pictures, "stream.sources.images"),
    "video": Kind(lambda _text: True, "stream.sources.video"),
}
LISTED = tuple(name for name, kind in KINDS.items() if kind.is_listed)


def kind_of(text: str) -> str:
    """The name of the kind that opens `text`: the first that takes it."""
    return next(name for name, kind in KINDS.items() if kind.takes(text))


def open_source(text: str, frames: int | None = None) -> Source:
    """The source called `text`: testcard, camera, screen, window:TITLE, ndi:NAME, an address such as rtsp://host/path,
    a folder, a picture or a video.

    `frames` is how many will be asked for, for sources that have no end of their own. SourceError where there is
    nothing by that name, or it cannot be read.
    """
    kind = kind_of(text)
    if kind in ("images", "video") and not there(text):
        raise SourceError(
            f"input {text[:200]} is not there: give a video, a picture, a folder, testcard, camera, screen, "
            "window:TITLE, ndi:NAME or an address such as rtsp://"
        )
    source: Source = KINDS[kind].load().connect(text)
    if frames is not None and source.endless:
        source.count = frames
    return source


def check(text: str) -> None:
    """SourceError where `text` can be no source: its name is wrong, or a file is not there or cannot be read. A camera
    or an address may be away: only its name is looked at, and nothing is asked."""
    kind = KINDS[kind_of(text)]
    if kind.comes_and_goes:
        kind.load().check(text)
    else:
        open_source(text).close()


def listed(kind: str) -> list[Listed]:
    """The sources of a kind of `LISTED` that are here now; SourceError where that cannot be known. May take seconds."""
    found: list[Listed] = KINDS[kind].load().listed()
    return found


def shown(text: str) -> str:
    """A source's name without the passwords in it, for whoever looks."""
    from stream.sources.url import shown as hidden

    return hidden(text) if is_address(text) else text
