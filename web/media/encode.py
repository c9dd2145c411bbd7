"""H.264 and VP8 for a live picture: no look-ahead, small key frames, a new encoder only where the bit rate asks for it.

Stock aiortc encodes by x264's preset `medium` with no VBV (17 ms a frame at 512x512; `superfast` takes 2), and makes a
new encoder, with a key frame, whenever the bit rate changes by a tenth.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Protocol

import av
import numpy as np
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from av.video.frame import PictureType
from av.video.reformatter import Colorspace

from web.media import colour
from web.media.rate import worth_a_rebuild

log = logging.getLogger(__name__)

FRAME_RATE = 30
VBV_S = Fraction(1, 15)  # of the bit rate: cuts the burst of a key frame by three
LEAST_BITS = 0.25  # of VBV, for a pixel
KEY_EVERY = 3000  # frames; key frames are sent when they are asked for
PLENTY = 6  # bits a second for a pixel: from there on a harder search gains nothing that is seen
LIGHT = "partitions=none:subme=0:aq-strength=0.5"  # of x264: two thirds of superfast's time, and .3 dB more
LEVEL_31 = 3600  # macroblocks of a frame in H.264's level 3.1, which browsers negotiate
TIME_BASE = Fraction(1, 90000)


def video_frame(planes: colour.Planes, pts: int, key: bool) -> av.VideoFrame:
    """A frame of its own for each encoder: they write to it."""
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.pts, frame.time_base = pts, TIME_BASE
    frame.pict_type = PictureType.I if key else PictureType.NONE
    return frame


def context(name: str, width: int, height: int, rate: int, options: dict[str, str]) -> av.VideoCodecContext:
    """An encoder for pictures of that size at `rate` bits a second, tagged BT.709."""
    codec = av.CodecContext.create(name, "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.framerate, codec.time_base = Fraction(FRAME_RATE), TIME_BASE
    codec.bit_rate, codec.gop_size, codec.max_b_frames = rate, KEY_EVERY, 0
    codec.thread_count = 1 if width * height <= 1280 * 720 else 2
    codec.options = options
    return codec


def x264(width: int, height: int, rate: int) -> av.VideoCodecContext:
    options = {"preset": "superfast", "tune": "zerolatency", "sc_threshold": "0", **_vbv(width, height, rate)}
    if rate >= width * height * PLENTY:
        options["x264-params"] = LIGHT
    if width * height <= LEVEL_31 * 256:
        options["level"] = "31"
    return _h264("libx264", width, height, rate, options)


def nvenc(width: int, height: int, rate: int) -> av.VideoCodecContext:
    options = {"preset": "p2", "tune": "ull", "rc": "cbr", "zerolatency": "1", "delay": "0", "forced-idr": "1"}
    options |= {"profile": "baseline", "no-scenecut": "1"}
    return _h264("h264_nvenc", width, height, rate, options | _vbv(width, height, rate))


def _vbv(width: int, height: int, rate: int) -> dict[str, str]:
    """Bits that a picture may borrow: at low rates a key frame needs more than two pictures' share."""
    return {"maxrate": str(rate), "bufsize": str(max(int(rate * VBV_S), int(width * height * LEAST_BITS)))}


def _h264(name: str, width: int, height: int, rate: int, options: dict[str, str]) -> av.VideoCodecContext:
    codec = context(name, width, height, rate, options)
    codec.profile = "Baseline"
    colour.tag(codec)
    return codec


def libvpx(width: int, height: int, rate: int) -> av.VideoCodecContext:
    """Constant bit rate for real time; a buffer of half a second. Speed 12 takes three quarters of 8, for .5 dB."""
    options = {"deadline": "realtime", "cpu-used": "-12", "lag-in-frames": "0", "error-resilient": "0"}
    options |= {"minrate": str(rate), "maxrate": str(rate), "bufsize": str(rate // 2)}
    options |= {"undershoot-pct": "100", "overshoot-pct": "15", "static-thresh": "1", "noise-sensitivity": "0"}
    codec = context("libvpx", width, height, rate, options)
    codec.qmin, codec.qmax = 4, 56
    return codec


Maker = Callable[[int, int, int], av.VideoCodecContext]
H264_MAKERS: dict[str, Maker] = {"h264_nvenc": nvenc, "libx264": x264}


@cache
def h264_name() -> str | None:
    """The first H.264 encoder that really encodes on this machine; None without any."""
    return next((name for name, make in H264_MAKERS.items() if encodes(make)), None)


def h264(width: int, height: int, rate: int) -> av.VideoCodecContext:
    """By `h264_name`, or by x264 where a card gives no further session."""
    codec = H264_MAKERS[h264_name() or "libx264"](width, height, rate)
    try:
        codec.open()
    except av.FFmpegError as error:
        log.debug("%s did not open, x264 takes over: %s", codec.name, error)
        return x264(width, height, rate)
    return codec


def encodes(make: Maker) -> bool:
    """Whether the encoder opens and takes a picture: drivers and cards are found out by trying."""
    planes = np.full((384, 256), 128, np.uint8)
    try:
        return bool(make(256, 256, 500_000).encode(video_frame(planes, 0, key=True)))
    except (av.FFmpegError, ValueError) as error:
        log.debug("no encoder by %s: %s", make.__name__, error)
        return False


class Wanted(Protocol):
    """What an encoder reads of a `Rate`."""

    @property
    def target(self) -> int: ...
    def resize(self, width: int, height: int) -> None: ...


class Rebuilt:
    """An FFmpeg encoder made anew for another size, or where the rate is off by more than `rate.TOLERANCE`."""

    def __init__(self, make: Maker, rate: Wanted) -> None:
        self._make, self._rate = make, rate
        self._context: av.VideoCodecContext | None = None
        self._built = 0
        self.builds = 0

    def encode(self, planes: colour.Planes, pts: int, key: bool) -> bytes:
        height, width = planes.shape[0] * 2 // 3, planes.shape[1]
        packets = self._for(width, height).encode(video_frame(planes, pts, key))
        return b"".join(bytes(packet) for packet in packets)

    def _for(self, width: int, height: int) -> av.VideoCodecContext:
        context, target = self._context, self._rate.target
        if context is None or (context.width, context.height) != (width, height):
            self._rate.resize(width, height)
            return self._build(width, height)
        return self._build(width, height) if worth_a_rebuild(self._built, target) else context

    def _build(self, width: int, height: int) -> av.VideoCodecContext:
        self._built = self._rate.target
        self.builds += 1
        self._context = self._make(width, height, self._built)
        return self._context


class Rated:
    """An encoder of aiortc's that follows our rate, and has our encoder within."""

    def __init__(self, make: Callable[[int, int, int], av.VideoCodecContext], rate: Wanted) -> None:
        super().__init__()
        self.rate = rate
        self.encoder = Rebuilt(make, rate)


class H264(Rated, H264Encoder):
    """aiortc's packets (RFC 6184), another encoder."""

    matrix = Colorspace.ITU709

    def __init__(self, rate: Wanted) -> None:
        super().__init__(h264, rate)

    def payloads(self, planes: colour.Planes, pts: int, key: bool) -> list[bytes]:
        return self._packetize(self._split_bitstream(self.encoder.encode(planes, pts, key)))


class Vp8(Rated, Vp8Encoder):
    """aiortc's packets (RFC 7741), another encoder."""

    matrix = Colorspace.ITU601

    def __init__(self, rate: Wanted) -> None:
        super().__init__(libvpx, rate)

    def payloads(self, planes: colour.Planes, pts: int, key: bool) -> list[bytes]:
        self.picture_id = (self.picture_id + 1) % (1 << 15)
        return self._packetize(self.encoder.encode(planes, pts, key), self.picture_id)


LiveEncoder = H264 | Vp8


def make_encoder(codec: str, rate: Wanted) -> LiveEncoder:
    """For aiortc's codec name: "H264" or "VP8"."""
    return H264(rate) if codec == "H264" else Vp8(rate)
