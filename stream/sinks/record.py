"""A recording of what is painted. It is whole at every moment: fragments of a quarter of a second, each written out at
once, so that a process that is killed leaves a file that plays. Nothing is ever overwritten."""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import av

from stream.errors import SinkError
from stream.frame import Frame
from stream.sinks import explain
from stream.sinks.live import Target
from stream.sinks.muxed import Muxed, MuxedSink, Way, kept

FRAGMENT_US = 250_000
AT_ONCE = {"flush_packets": "1"}
WAYS = {
    ".mp4": Way("mp4", {"movflags": "+frag_keyframe+empty_moov+default_base_moof",
                        "frag_duration": str(FRAGMENT_US), **AT_ONCE}, sound="opus"),
    ".mkv": Way("matroska", {"cluster_time_limit": str(FRAGMENT_US // 1000), **AT_ONCE}, sound="opus"),
    ".ts": Way("mpegts", AT_ONCE, sound="opus"),
}  # fmt: skip
ROOM, REST = 2**26, 2**24  # bytes that must be free to begin, and that are left to others
LOOK_S = 1.0  # between two looks at the disk


class Recording(MuxedSink):
    """`path` is the name that is used where it is free; else the time is put behind it."""

    hears = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._asked = path
        self._looked = 0.0

    def open(self, size: tuple[int, int], rate: float) -> None:
        if not self._asked.parent.is_dir():
            raise SinkError(f"folder {self._asked.parent} for the recording is not there: make it first")
        self._look(ROOM)
        self.path = taken(self._asked, datetime.now().astimezone())
        try:
            self._muxed = Muxed(str(self.path), WAYS[self.path.suffix.lower()], size, rate, kept(), self.sounds)
        except (av.FFmpegError, OSError) as error:
            with suppress(OSError):
                self.path.unlink()
            raise self._told(error) from error

    def show(self, frame: Frame) -> None:
        if time.monotonic() - self._looked > LOOK_S:
            self._look(REST)
        super().show(frame)

    def _look(self, least: int) -> None:
        self._looked = time.monotonic()
        try:
            free = shutil.disk_usage(self._asked.parent).free
        except OSError as error:
            raise self._told(error) from error
        if free < least:
            raise SinkError(explain(self._asked, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))

    def _told(self, error: Exception) -> SinkError:
        if isinstance(error, OSError):
            return SinkError(explain(self._asked, error))
        return SinkError(f"recording {self._asked} cannot be written ({error}): try another name")

    def _unfinished(self, error: Exception) -> None:
        raise self._told(error) from error


def taken(path: Path, now: datetime) -> Path:
    """An empty file of a name that nobody had, made so that nobody else has it from now on."""
    behind = f"{path.stem}-{now:%Y-%m-%d-%H.%M.%S}"
    names = [path.name, *(f"{behind}{more}{path.suffix}" for more in ("", *(f"-{n}" for n in range(2, 1000))))]
    for name in names:
        made = path.with_name(name)
        try:
            made.touch(exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise SinkError(explain(made, error)) from error
        return made
    raise SinkError(f"recording {path} has a thousand namesakes: give another name")


def missing(_kind: str) -> str | None:
    if "libx264" in av.codecs_available:
        return None
    return f"PyAV {av.__version__} lacks libx264: pip install --force-reinstall av"


def connect(target: Target) -> Recording:
    return Recording(Path(target.where).expanduser())
