"""Live pictures as H.264 in a container, each at the time at which it was taken: BT.709, limited range, tagged."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any

import av
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from stream.errors import SinkError
from stream.frame import Frame, Image
from stream.sinks.live import LiveSink
from stream.sinks.tracks import HERTZ, Sound, Track, opus_samples, track

TICKS = 90_000  # a second: the clock of MPEG-TS and RTP
STEP = TICKS // 400  # least ticks between two pictures: FLV counts whole milliseconds
KEY_S = 1.0  # from one key frame to the next: how long somebody who joins waits
BT709 = 1  # ITU-T H.273, table 4
SLACK = HERTZ // 20  # samples by which sound may be off before it jumps
WAITS_US = 200_000  # the longest that pictures wait for sound which does not come
LIVE = {"preset": "superfast", "tune": "zerolatency", "sc_threshold": "0"}


@dataclass(frozen=True)
class Way:
    """Where the container goes: its name in FFmpeg, options of it, and seconds until a peer that is silent is left."""

    muxer: str
    options: Mapping[str, str]
    timeout_s: float | None = None
    sound: Sound | None = None  # what it takes


def steady(size: tuple[int, int]) -> dict[str, str]:
    """The encoder's options for a network: a bit rate that no picture exceeds for long."""
    bits = max(1_000_000, min(size[0] * size[1] * 12, 12_000_000))  # 3.1 Mbit/s at 512x512
    return {**LIVE, "b": str(bits), "maxrate": str(bits), "bufsize": str(bits // 4)}


def kept() -> dict[str, str]:
    """The encoder's options for a file: the same quality throughout."""
    return {**LIVE, "crf": "19"}


class Muxed:
    """An open container with one picture track. Raises what FFmpeg does: `av.FFmpegError`, OSError."""

    def __init__(self, to: str | IO[bytes], way: Way, size: tuple[int, int], rate: float,
                 encoder: Mapping[str, str], sounds: bool = False) -> None:  # fmt: skip
        """`sounds`: whether there is a sound track as well, where `way` has a place for it."""
        options = {"max_interleave_delta": str(WAITS_US), **way.options}
        self._container: OutputContainer = av.open(
            to, "w", way.muxer, container_options=options, timeout=way.timeout_s, buffer_size=1316
        )
        self._size = size[0] // 2 * 2, size[1] // 2 * 2
        self._reformatter = VideoReformatter()  # keeps swscale's tables from picture to picture
        self._start: float | None = None
        self._last, self._key_at, self._heard = -STEP, 0, 0
        try:
            self._stream = self._made(rate, encoder)
            self._sound: Track | None = track(way.sound, self._container) if sounds and way.sound else None
            self._container.start_encoding()
        except BaseException:
            self.abandon()
            raise

    def write(self, frame: Frame) -> None:
        """The next picture, at the moment at which it was taken, or now."""
        picture = self._coloured(frame.image)
        picture.pts, picture.time_base = self._at(frame), Fraction(1, TICKS)
        picture.pict_type = PictureType.I if picture.pts >= self._key_at else PictureType.NONE
        if picture.pict_type == PictureType.I:
            self._key_at = picture.pts + round(KEY_S * TICKS)
        self._container.mux(self._stream.encode(picture))

    def hear(self, data: bytes, captured_at: float) -> None:
        """A packet of Opus, as it is. Its time goes on from the last one's, unless it is off by more than `SLACK`."""
        samples = opus_samples(data)
        if self._sound is None or self._start is None or not samples:
            return
        at = round((captured_at - self._start) * HERTZ)
        if abs(at - self._heard) < SLACK:
            at = self._heard
        if at < self._heard:  # before the first picture, or what the last packets were too long for
            return
        self._heard = at + samples
        packet = av.Packet(data)
        packet.pts, packet.dts, packet.time_base, packet.duration = at, at, Fraction(1, HERTZ), samples
        self._container.mux(self._sound.packets(packet))

    def close(self) -> None:
        """The encoders' last packets, and the container's end."""
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._container.mux(self._sound.rest())
        self._container.close()

    def abandon(self) -> None:
        """Lets go of it, whatever it says."""
        with suppress(av.FFmpegError, OSError, ValueError):
            self._container.close()

    def _made(self, rate: float, encoder: Mapping[str, str]) -> VideoStream:
        options = dict(encoder)
        bits = options.pop("b", None)
        stream: Any = self._container.add_stream("libx264", rate=round(rate), options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = *self._size, "yuv420p"
        context.time_base, context.max_b_frames, context.gop_size = Fraction(1, TICKS), 0, 300
        context.bit_rate = int(bits) if bits else 0
        context.colorspace, context.color_range = BT709, int(ColorRange.MPEG)
        context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
        stream.time_base = Fraction(1, TICKS)
        assert isinstance(stream, VideoStream)
        return stream

    def _at(self, frame: Frame) -> int:
        now = time.monotonic() if frame.captured_at is None else frame.captured_at
        if self._start is None:
            self._start = now
        self._last = max(self._last + STEP, round((now - self._start) * TICKS))
        return self._last

    def _coloured(self, image: Image) -> VideoFrame:
        """Limited BT.709; an odd row or column at the end is left out."""
        width, height = self._size
        return self._reformatter.reformat(
            VideoFrame.from_ndarray(image[:height, :width], format="rgb24"),
            format="yuv420p",
            src_colorspace=Colorspace.ITU709,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA,
            threads=1,
        )


class MuxedSink(LiveSink):
    """A sink with one container, which `open` makes. What FFmpeg says is told in the sink's own words."""

    def __init__(self) -> None:
        self._muxed: Muxed | None = None

    def show(self, frame: Frame) -> None:
        with self._telling():
            self._opened.write(frame)

    def hear(self, data: bytes, captured_at: float) -> None:
        with self._telling():
            self._opened.hear(data, captured_at)

    def close(self) -> None:
        muxed, self._muxed = self._muxed, None
        if muxed is None:
            return
        try:
            muxed.close()
        except (av.FFmpegError, OSError) as error:
            muxed.abandon()
            self._unfinished(error)

    @property
    def _opened(self) -> Muxed:
        assert self._muxed is not None
        return self._muxed

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise self._told(error) from error

    @abstractmethod
    def _told(self, error: Exception) -> SinkError:
        """What went wrong, and what to do."""

    def _unfinished(self, error: Exception) -> None:
        """The container's end could not be written. Nothing can be saved where the other side is gone."""
