"""Video files, through FFmpeg's libraries: in BT.709, each frame at its own time, with its sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from stream.errors import SinkError
from stream.frame import Frame, Image
from stream.sinks import Place, Sink, explain, publish, remove, unfinished
from stream.sources import Audio, Source

if TYPE_CHECKING:
    SoundPacket = Packet[AudioStream]


@dataclass(frozen=True)
class Container:
    """A container: its name in FFmpeg, its codecs, the sound it takes as it is ("*": any), and its options."""

    muxer: str
    video: str
    audio: str
    copied: tuple[str, ...]
    early: bool = False  # has a place for sound before 0: what an encoder needs to get going
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Coding:
    """How pictures are coded: FFmpeg's encoder, its options, the pixels it takes and the name it goes by in the file.

    `exact`: the same pictures give the same bytes, on any number of cores and at any date.
    """

    codec: str
    options: Mapping[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    tag: str | None = None
    exact: bool = False

    @property
    def even(self) -> tuple[int, int]:
        """What width and height are multiples of."""
        return (2, 2) if "420" in self.pixels else (2, 1) if "422" in self.pixels else (1, 1)


THREADS = 4  # of an encoder whose bytes must not depend on the machine
MP4_AUDIO = ("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus")
MOV_AUDIO = ("aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le")
FRONT = (("movflags", "+faststart"),)  # the index first, so that a browser starts at once
CONTAINERS = {
    ".mp4": Container("mp4", "libx264", "aac", MP4_AUDIO, True, FRONT),
    ".m4v": Container("mp4", "libx264", "aac", MP4_AUDIO, True, FRONT),
    ".mov": Container("mov", "libx264", "aac", MOV_AUDIO, True, FRONT),
    ".mkv": Container("matroska", "libx264", "aac", ("*",)),
    ".webm": Container("webm", "libvpx-vp9", "libopus", ("opus", "vorbis")),
}
CODINGS = {
    "libx264": Coding("libx264", {"crf": "18", "preset": "veryfast"}),
    "libvpx-vp9": Coding("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"}),
}


class VideoSink(Sink):
    """`rate` is a hint for the encoder and the length of the last frame; times come from the frames."""

    def __init__(self, path: Path, rate: Fraction | None = None, audio: Audio | None = None) -> None:
        self._path, self._made = path, unfinished(path)
        self._kind = CONTAINERS[path.suffix.lower()]
        self._rate, self._audio = rate or Fraction(30), audio
        self._writer: Writer | None = None

    def write(self, frame: Frame) -> None:
        with coding_told(self._path):
            if self._writer is None:
                self._writer = Writer(self._made, self._kind, frame, self._rate, self._audio)
            self._writer.write(frame)

    def close(self, complete: bool = True) -> None:
        if self._writer is None:
            return
        with coding_told(self._path):
            self._writer.finish(complete)
        publish(self._made, self._path)

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
        remove(self._made)


@contextmanager
def coding_told(path: Path) -> Iterator[None]:
    """Turns errors of the disk and of FFmpeg into a SinkError about `path`."""
    try:
        yield
    except OSError as error:
        raise SinkError(explain(path, error)) from error
    except av.FFmpegError as error:
        raise SinkError(f"output {path} cannot be written ({error}): try another kind, e.g. .mkv") from error


class Writer:
    """An open video file: the picture, and the sound that goes along with it. `tags` are the file's metadata."""

    def __init__(self, path: Path, kind: Container, first: Frame, rate: Fraction, audio: Audio | None, *,
                 coding: Coding | None = None, tags: Mapping[str, str] | None = None) -> None:  # fmt: skip
        self._coding = coding or CODINGS[kind.video]
        options = dict(kind.options) | ({"fflags": "+bitexact"} if self._coding.exact else {})
        self._container: OutputContainer = av.open(str(path), "w", kind.muxer, options=options)
        self._container.metadata.update(tags or {})
        self._base = first.time_base
        self._stream = _video_stream(self._container, self._coding, first, rate)
        self._step = max(round(1 / rate / self._base), 1)
        self._tracks = Tracks(audio, self._container, kind) if audio else None
        self._last: int | None = None

    def write(self, frame: Frame) -> None:
        pts = round(frame.pts * frame.time_base / self._base)
        pts = pts if self._last is None else max(pts, self._last + 1)
        self._last = pts
        if self._tracks:
            self._tracks.until(pts * self._base)
        self._container.mux(self._stream.encode(_coloured(frame.image, self._coding, pts, self._base, self._step)))

    def finish(self, complete: bool) -> None:
        """The encoder's last packets, the sound to the end of the last frame (all of it if `complete`), the index."""
        if self._tracks:
            shown = ((self._last or 0) + self._step) * self._base
            self._tracks.finish(None if complete else shown)
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        if self._tracks:
            self._tracks.close()
        with suppress(av.FFmpegError, OSError, ValueError):  # thrown away; why was told before
            self._container.close()


class Tracks:
    """All sound of the input, copied packet by packet where the container takes it, else encoded anew.

    The input is opened a second time and read only as far as the pictures are, so that memory stays flat.
    """

    def __init__(self, audio: Audio, out: OutputContainer, kind: Container) -> None:
        self._in: InputContainer = av.open(str(audio.path), metadata_errors="replace")
        self._out, self._start, self._early = out, audio.start, kind.early
        sounds = [s for s in self._in.streams.audio if s.codec_context is not None]
        self._to = {s.index: _track(out, s, kind) for s in sounds}
        self._copied = {s.index for s in sounds if _copies(s, kind)}
        self._packets = cast("Iterator[SoundPacket]", self._in.demux(*sounds) if sounds else iter(()))
        self._next: SoundPacket | None = next(self._packets, None)

    def until(self, seconds: Fraction) -> None:
        """Everything that starts before this moment of the picture."""
        while (packet := self._next) is not None and not self._later(packet, seconds):
            self._pass(packet)
            self._next = next(self._packets, None)

    def finish(self, seconds: Fraction | None) -> None:
        """Up to a moment, or to the end."""
        if seconds is not None:
            self.until(seconds)
        else:
            while self._next is not None:
                self._pass(self._next)
                self._next = next(self._packets, None)
        for index, stream in self._to.items():
            if index not in self._copied:
                self._out.mux(stream.encode(None))
        self.close()

    def close(self) -> None:
        self._in.close()

    def _later(self, packet: SoundPacket, seconds: Fraction) -> bool:
        if packet.pts is None or packet.time_base is None:
            return False
        return packet.pts * packet.time_base - self._start >= seconds

    def _pass(self, packet: SoundPacket) -> None:
        index = packet.stream.index  # the last packet of all, which drains a decoder, has no other
        stream = self._to[index]
        if index not in self._copied:
            for sound in packet.decode():
                if sound.pts is not None and sound.time_base is not None:
                    sound.pts -= round(self._start / sound.time_base)
                self._out.mux(stream.encode(sound))
        elif packet.dts is not None and packet.time_base is not None:
            back = round(self._start / packet.time_base)
            packet.dts -= back
            packet.pts = None if packet.pts is None else packet.pts - back
            if self._early or packet.pts is None or packet.pts + (packet.duration or 0) > 0:
                packet.stream = stream
                self._out.mux_one(packet)


def _copies(sound: AudioStream, kind: Container) -> bool:
    return "*" in kind.copied or sound.codec_context.name in kind.copied


def _track(out: OutputContainer, sound: AudioStream, kind: Container) -> AudioStream:
    if _copies(sound, kind):
        return out.add_stream_from_template(sound)
    rate = 48000 if kind.audio == "libopus" else sound.codec_context.sample_rate
    stream = out.add_stream(kind.audio, rate=rate)
    assert isinstance(stream, AudioStream)
    stream.codec_context.flags |= Flags.bitexact
    stream.codec_context.layout = "mono" if sound.codec_context.layout.nb_channels == 1 else "stereo"
    return stream


def _video_stream(out: OutputContainer, coding: Coding, first: Frame, rate: Fraction) -> VideoStream:
    stream = out.add_stream(coding.codec, rate=rate, options=dict(coding.options))
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    across, down = coding.even
    width, height = first.size
    context.width, context.height, context.pix_fmt = width + width % across, height + height % down, coding.pixels
    context.time_base = first.time_base
    if coding.exact:
        context.thread_count = THREADS
        context.flags |= Flags.bitexact
    if coding.tag:
        context.codec_tag = coding.tag
    if not _is_rgb(coding):
        context.colorspace, context.color_range = int(Colorspace.ITU709), int(ColorRange.MPEG)
        context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
    return stream


def _is_rgb(coding: Coding) -> bool:
    return not coding.pixels.startswith("yuv")


def _coloured(image: Image, coding: Coding, pts: int, base: Fraction, duration: int) -> VideoFrame:
    """A frame for the encoder; an odd side grows by a pixel where the pixels' colours come in pairs."""
    height, width = image.shape[:2]
    across, down = coding.even
    if width % across or height % down:
        image = np.pad(image, ((0, height % down), (0, width % across), (0, 0)), mode="edge")
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    if not _is_rgb(coding):
        frame = frame.reformat(
            format=coding.pixels,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            dst_color_trc=ColorTrc.BT709,
            dst_color_primaries=ColorPrimaries.BT709,
            threads=1 if coding.exact else None,  # several dither the first rows of their shares as it happens
        )
    frame.pts, frame.time_base, frame.duration = pts, base, duration
    return frame


def connect(place: Place, source: Source) -> VideoSink:
    return VideoSink(place.path, source.rate, source.audio)
