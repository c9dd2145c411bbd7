"""Sinks: where painted frames go. A new one is a file here and a line in `KINDS`.

    place = locate("painted.mp4")
    place.check(overwrite=False)
    with open_sink(place, source) as sink:
        sink.write(frame)

Nothing appears at its place before it is whole: a sink writes under another name beside it, and `close` renames it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from stream.errors import SinkError
from stream.sources import PICTURES, Source

if TYPE_CHECKING:
    from stream.frame import Frame

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
ROOM = 2**20  # bytes that must be free before anything starts
KINDS = {"video": "stream.sinks.video", "image": "stream.sinks.image", "images": "stream.sinks.images"}


class Sink(ABC):
    """Takes painted frames in order. As a context manager it closes itself, or discards itself after an error."""

    @abstractmethod
    def write(self, frame: Frame) -> None:
        """The next frame; SinkError where it cannot be written."""

    @abstractmethod
    def close(self, complete: bool = True) -> None:
        """What was written appears at its place. `complete`: the input was read to its end, so that the rest of its
        sound goes in too."""

    @abstractmethod
    def discard(self) -> None:
        """Leaves nothing behind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        done = False
        try:
            if error is None:
                self.close()
                done = True
        finally:
            if not done:
                self.discard()


@dataclass(frozen=True)
class Place:
    """An output: a kind of `KINDS`, and where it goes."""

    kind: str
    path: Path

    def check(self, overwrite: bool = False, source: Path | None = None) -> None:
        """SinkError unless something can be written there, and not over `source`, the input. Folders with something
        in them count as existing."""
        if source is not None and self._is_over(source):
            raise SinkError(f"output {self.path} would be written over its own input: give another name")
        if not overwrite and (not _empty_folder(self.path) if self.path.is_dir() else self.path.exists()):
            raise SinkError(f"output {self.path} exists: give another name, or --overwrite")
        if self.kind != "images" and self.path.is_dir():
            raise SinkError(f"output {self.path} is a folder: give the name of a file")
        if self.kind == "images" and self.path.exists() and not self.path.is_dir():
            raise SinkError(f"output {self.path} is a file: give the name of a folder")
        self._check_folder(self.path.absolute().parent)

    def _is_over(self, source: Path) -> bool:
        """Whether files of the input could be replaced."""
        if not source.exists() or not self.path.exists():
            return False
        inputs = [source, source.parent] if source.suffix.lower() in PICTURES else [source]
        return any(self.path.samefile(i) for i in inputs)

    def _check_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SinkError(f"folder {folder} for output {self.path.name} is not there: make it first")
        with told(self.path):
            with tempfile.TemporaryFile(dir=folder):
                pass
            free = shutil.disk_usage(folder).free
            if free < ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def locate(text: str, from_folder: bool = False) -> Place:
    """What an output means: a name ending in / or an existing folder is a folder, else its suffix says what it is.
    Without a suffix it is a folder too, when the input is one (`from_folder`)."""
    path, suffix = Path(text), Path(text).suffix.lower()
    if text.endswith(("/", os.sep)) or path.is_dir():
        return Place("images", path)
    if suffix in CONTAINERS:
        return Place("video", path)
    if suffix in PICTURES:
        return Place("image", path)
    if from_folder and not suffix:
        return Place("images", path)
    raise SinkError(
        f"output {text} is of no known kind: use a video ({' '.join(CONTAINERS)}), a picture ({' '.join(PICTURES)}), "
        "or a folder, with / at its end"
    )


def open_sink(place: Place, source: Source) -> Sink:
    """The sink for `place`; `source` gives it its rate, its sound and its names. Nothing is written yet."""
    sink: Sink = import_module(KINDS[place.kind]).connect(place, source)
    return sink


def unfinished(path: Path) -> Path:
    """A name beside `path` that nothing else uses."""
    return path.absolute().parent / f".livebrush-{uuid4().hex[:12]}.part"


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns errors of the disk into a SinkError that says what to do."""
    try:
        yield
    except OSError as error:
        raise SinkError(explain(path, error)) from error


def explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no room on the disk for {path}: free some space, or write to another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"output {path} may not be written ({error.strerror}): check the folder's permissions"
    return f"output {path} cannot be written ({error.strerror or error}): write to another place"


def publish(made: Path, path: Path) -> None:
    """Moves a finished file or folder to its place. Into a folder that is there, file by file."""
    with told(path):
        if not made.is_dir() or not path.is_dir():
            made.replace(path)
            return
        for file in sorted(made.iterdir()):
            file.replace(path / file.name)
        made.rmdir()


def remove(made: Path) -> None:
    """Deletes an unfinished file or folder, if it is there."""
    if made.is_dir():
        shutil.rmtree(made, ignore_errors=True)
    with suppress(OSError):
        made.unlink(missing_ok=True)


def _empty_folder(path: Path) -> bool:
    return next(path.iterdir(), None) is None
