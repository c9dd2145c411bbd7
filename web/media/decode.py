"""Encoded frames to pictures: decoded in order in a thread, as many at once as have come, and only the newest goes on.

The stock receiver has a thread and two endless queues for each track; an engine slower than the camera then lags by
seconds. Here the frames that came while the thread was busy are decoded together, and only the last is converted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter

import av
from av.codec.context import Flags

from stream.frame import Image
from web.media.jitter import EncodedFrame, KeyRequests

log = logging.getLogger(__name__)

BACKLOG = 8  # encoded frames that may wait; then all are dropped up to the next key frame
FFMPEG_NAMES = {"H264": "h264", "VP8": "libvpx"}

Finish = Callable[[av.VideoFrame], Image]


@dataclass(frozen=True, slots=True)
class Decoded:
    """`image` is RGB; `encoded` what it was made of; `ms` what decoding and converting took."""

    image: Image
    encoded: EncodedFrame
    ms: float


def is_key(codec: str, data: bytes) -> bool:
    """Whether decoding can begin here: a VP8 key frame (RFC 6386 section 9.1), an H.264 SPS or IDR slice."""
    if codec == "VP8":
        return not data[0] & 1
    at = data.find(b"\x00\x00\x01")
    while 0 <= at < len(data) - 3:
        if data[at + 3] & 0x1F in (5, 7):
            return True
        at = data.find(b"\x00\x00\x01", at + 3)
    return False


class Decoder:
    """One codec's FFmpeg context ; for one thread at a time."""

    def __init__(self, codec: str) -> None:
        self.codec = codec
        context = av.CodecContext.create(FFMPEG_NAMES[codec], "r")
        assert isinstance(context, av.VideoCodecContext)
        self._context = context
        self._context.thread_count = 1
        self._context.flags |= Flags.low_delay

    def pictures(self, data: bytes) -> list[av.VideoFrame]:
        """None or one; FFmpegError where the data is damaged."""
        return self._context.decode(av.Packet(data))


class Decoding:
    """One track's way from encoded frames to the newest picture. All methods on the event loop, the work in `pool`."""

    def __init__(self, pool: Executor, keys: KeyRequests, deliver: Callable[[Decoded], None], finish: Finish) -> None:
        """`finish` makes RGB of every picture that goes on, in the thread."""
        self._pool, self._keys, self._deliver, self._finish = pool, keys, deliver, finish
        self._waiting: deque[EncodedFrame] = deque()
        self._decoder: Decoder | None = None
        self._job: asyncio.Future[Decoded | None] | None = None
        self._started = self._closed = False
        self.decoded = self.dropped = self.damaged = 0

    def __len__(self) -> int:
        """Encoded frames that wait."""
        return len(self._waiting)

    def put(self, codec: str, frame: EncodedFrame) -> None:
        if self._closed:
            return
        if is_key(codec, frame.data):
            self._started = True
            self._keys.came()
        if not self._started:
            self._keys.want()
            return
        if self._decoder is None or self._decoder.codec != codec:
            self._decoder = Decoder(codec)
        self._waiting.append(frame)
        if len(self._waiting) > BACKLOG:
            self._overflow()
        self._go()

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        self._decoder = None

    def _overflow(self) -> None:
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._started = False
        self._keys.want()

    def _go(self) -> None:
        if self._job is None and self._waiting and self._decoder is not None:
            batch = list(self._waiting)
            self._waiting.clear()
            loop = asyncio.get_running_loop()
            self._job = loop.run_in_executor(self._pool, self._work, self._decoder, batch)
            self._job.add_done_callback(self._done)

    def _work(self, decoder: Decoder, batch: list[EncodedFrame]) -> Decoded | None:
        """In a thread."""
        start = perf_counter()
        newest: tuple[av.VideoFrame, EncodedFrame] | None = None
        for frame in batch:
            try:
                pictures = decoder.pictures(frame.data)
            except av.FFmpegError as error:
                log.debug("a %s frame of %d bytes cannot be decoded: %s", decoder.codec, len(frame.data), error)
                self.damaged += 1
                continue
            self.decoded += len(pictures)
            self.dropped += newest is not None and bool(pictures)
            newest = (pictures[-1], frame) if pictures else newest
        if newest is None:
            return None
        return Decoded(self._finish(newest[0]), newest[1], (perf_counter() - start) * 1000)

    def _done(self, job: asyncio.Future[Decoded | None]) -> None:
        self._job = None
        if self._closed or job.cancelled():
            return
        decoded = job.result()
        if decoded is None:
            self._keys.want()
        else:
            self._deliver(decoded)
        self._go()
