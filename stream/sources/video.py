"""Video files, through FFmpeg's libraries: every frame with its own time, upright, with square pixels."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

from stream.errors import SourceError
from stream.frame import Frame, Image
from stream.sources import VIDEOS, Audio, Source

UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
INDEXED = ("mp4", "matroska")  # containers whose header says how long the video is, reliably
SEGMENT = bytes.fromhex("18538067")  # Matroska's id of everything but the first few bytes
REPAIR = "copy it again, or repair it with: ffmpeg -i IN -c:v libx264 OUT"


class VideoSource(Source):
    """A video file. The first frame is decoded at once, so that a file which cannot be read is known early."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self._container = _open(path)
        self._stream = _video_stream(self._container, path)
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.options = {"err_detect": "explode"}  # damage is an error, not grey blocks
        start = self._container.start_time or 0
        self._start = max(Fraction(start, av.time_base), Fraction(0))
        self.rate = self._stream.average_rate or self._stream.guessed_rate
        self.count = _count(self._stream)
        if self._container.streams.audio:
            self.audio = Audio(path, self._start)
        self._decoded, self._end, self._last = 0, Fraction(0), -(2**62)
        self._frames = self._read()
        self._first: Frame | None = next(self._frames, None)
        if self._first is None:
            self.close()
            raise SourceError(f"{path} has no frame in it: give a video with pictures")
        self.size = self._first.size

    def __iter__(self) -> Iterator[Frame]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._frames

    def close(self) -> None:
        self._container.close()

    def _read(self) -> Iterator[Frame]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise self._damaged("a piece of the file is missing")
                if packet.pts is not None and packet.time_base is not None:
                    self._end = max(self._end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                for picture in packet.decode():
                    assert isinstance(picture, VideoFrame)
                    yield self._frame(picture)
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(getattr(error, "strerror", None) or str(error)) from error
        self._check_whole()

    def _frame(self, picture: VideoFrame) -> Frame:
        if picture.is_corrupt:
            raise self._damaged("the picture is incomplete")
        base = picture.time_base or self._stream.time_base or Fraction(1, 90000)
        step = max(round(1 / (self.rate or 30) / base), 1)
        pts = picture.pts
        if pts is None:  # raw streams have no clock
            pts = self._last + step if self._decoded else 0
        else:
            pts = max(pts - round(self._start / base), self._last + 1)
        self._decoded, self._last = self._decoded + 1, pts
        return Frame(rgb(picture, self._stream.sample_aspect_ratio), pts, Fraction(base))

    def _check_whole(self) -> None:
        """A file that was cut off often just ends: its header knows better."""
        kind = self._container.format.name
        missing = any(e.pos + e.size > self._path.stat().st_size for e in self._stream.index_entries)
        if missing or any(cut(self._path) for name, cut in CUT.items() if name in kind):
            raise self._damaged("the rest of the file is missing")
        if not any(name in kind for name in INDEXED):
            return
        promised = _promised(self._container, self._stream)
        if promised - self._end > max(Fraction(1, 2), promised / 50):
            raise self._damaged(f"no more can be read, though it should last {float(promised):.1f} s")

    def _damaged(self, why: str) -> SourceError:
        if not self._decoded:
            return SourceError(f"{self.name} is damaged: no frame can be read ({why}): {REPAIR}")
        return SourceError(f"{self.name} is damaged after frame {self._decoded} ({why}): {REPAIR}")


def _open(path: Path) -> InputContainer:
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes): give a video")
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{path} cannot be read as a video ({why}): give one of {' '.join(VIDEOS)}") from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first one that is no cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise SourceError(f"{path} has a video of a kind that is unknown here: convert it to H.264 first")
            return stream
    found = " and ".join(sorted({s.type for s in container.streams})) or "a header"
    raise SourceError(f"{path} has no video stream, only {found}: give a video with pictures")


def _count(stream: VideoStream) -> int | None:
    """Frames as the header says, else as duration and rate say."""
    if stream.frames:
        return stream.frames
    if stream.duration and stream.time_base and stream.average_rate:
        return round(stream.duration * stream.time_base * stream.average_rate)
    seconds = _tagged(stream)
    return round(seconds * stream.average_rate) if seconds and stream.average_rate else None


def _promised(container: InputContainer, stream: VideoStream) -> Fraction:
    """How long the header says that the video is, in seconds; 0 where it says nothing."""
    if stream.duration and stream.time_base:
        return Fraction(stream.duration * stream.time_base)
    if tagged := _tagged(stream):
        return tagged
    alone = len(container.streams) == 1 and container.duration is not None
    return Fraction(container.duration or 0, av.time_base) if alone else Fraction(0)


def _tagged(stream: VideoStream) -> Fraction | None:
    """Matroska's DURATION tag, `HH:MM:SS.fraction`, in seconds."""
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return Fraction(int(hours) * 3600 + int(minutes) * 60) + Fraction(seconds)
    except (KeyError, ValueError):
        return None


def _segment_cut(path: Path) -> bool:
    """Whether a Matroska file is shorter than its segment says (RFC 8794: an id, a size in 1 to 8 bytes, the data)."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = head.find(SEGMENT) + len(SEGMENT)
    if at < len(SEGMENT) or at >= len(head) or head[at] == 0:
        return False
    length = 9 - head[at].bit_length()
    size = int.from_bytes(head[at : at + length]) & (1 << 7 * length) - 1
    unknown = size == (1 << 7 * length) - 1  # written by something that could not go back
    return not unknown and at + length + size > path.stat().st_size


def _gif_cut(path: Path) -> bool:
    """Whether a GIF lacks the byte that every GIF ends with."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 64, 0))
        return not file.read().rstrip(b"\0\r\n").endswith(b";")


def _riff_cut(path: Path) -> bool:
    """Whether an AVI is shorter than the size after its first four bytes."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8)[4:], "little")
    return size < 2**32 - 1 and size + 8 > path.stat().st_size


CUT = {"matroska": _segment_cut, "gif": _gif_cut, "avi": _riff_cut}  # by FFmpeg's name of the container


def rgb(picture: VideoFrame, pixel: Fraction | None) -> Image:
    """RGB, with square pixels, turned upright. Untagged colours are BT.709 from 720 lines on, else BT.601."""
    wide = round(picture.width * pixel) if pixel and pixel != 1 else picture.width
    matrix = None
    if picture.colorspace == UNSPECIFIED and picture.format.components[0].bits and not picture.format.is_rgb:
        matrix = Colorspace.ITU709 if picture.height >= 720 else Colorspace.ITU601
    rgb = picture.reformat(width=wide, height=picture.height, format="rgb24", src_colorspace=matrix).to_ndarray()
    turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)).astype(np.uint8, copy=False)


def connect(text: str) -> VideoSource:
    return VideoSource(Path(text))
