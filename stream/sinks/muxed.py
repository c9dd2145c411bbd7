"""Live pictures as H.264 in a container, each at the time at which it was taken: BT.709, limited range, tagged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any

import av
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from stream.frame import Frame, Image

TICKS = 90_000  # a second: the clock of MPEG-TS and RTP
STEP = TICKS // 400  # least ticks between two pictures: FLV counts whole milliseconds
KEY_S = 1.0  # from one key frame to the next: how long somebody who joins waits
BT709 = 1  # ITU-T H.273, table 4
LIVE = {"preset": "superfast", "tune": "zerolatency", "sc_threshold": "0"}


@dataclass(frozen=True)
class Way:
    """Where the container goes: its name in FFmpeg, options of it, and seconds until a peer that is silent is left."""

    muxer: str
    options: Mapping[str, str]
    timeout_s: float | None = None


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
                 encoder: Mapping[str, str]) -> None:  # fmt: skip
        self._container: OutputContainer = av.open(
            to, "w", way.muxer, container_options=dict(way.options), timeout=way.timeout_s, buffer_size=1316
        )
        self._size = size[0] // 2 * 2, size[1] // 2 * 2
        self._reformatter = VideoReformatter()  # keeps swscale's tables from picture to picture
        self._start: float | None = None
        self._last, self._key_at = -STEP, 0
        try:
            self._stream = self._made(rate, encoder)
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

    def close(self) -> None:
        """The encoder's last packets, and the container's end."""
        self._container.mux(self._stream.encode(None))
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
