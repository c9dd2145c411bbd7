"""Pictures from an address (RTSP, SRT, HTTP, RTMP, UDP), through FFmpeg's libraries, with as little delay as it gives.

A live one is read in a thread of its own, as fast as it comes: whoever asks gets the newest picture, and a decoder
that is behind leaves out what is older. What has a length (a film on a web server) is read like a file, in order.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from threading import Condition, Thread
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stream.errors import SourceError
from stream.frame import Frame
from stream.sources import Source
from stream.sources.relay import Relay
from stream.sources.video import rgb

CLOCK = Fraction(1, 90000)
HINT = "is it on, and is the address right?"
OPEN_S, STALL_S = 10.0, 5.0  # without a word from the other side
BEHIND = 45  # packets that wait for the decoder before older ones are left out
SECRET = re.compile(r"pass|pwd|token|key|secret|sig|auth|streamid", re.IGNORECASE)
MICROSECONDS = str(round(STALL_S * 1e6))

# By scheme: the protocols that FFmpeg may open for it, and its options. What an address answers may name further
# addresses (playlists): those on this list are followed, a file of this machine never is.
WEB = {"protocol_whitelist": "http,https,tls,tcp,crypto", "rw_timeout": MICROSECONDS}
RTSP = {"protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls", "rtsp_transport": "tcp", "timeout": MICROSECONDS}
RTMP = {"protocol_whitelist": "rtmp,rtmps,tcp,tls", "rw_timeout": MICROSECONDS}
SCHEMES: dict[str, dict[str, str]] = {
    "rtsp": RTSP,
    "rtsps": RTSP,
    "srt": {"protocol_whitelist": "srt", "latency": "120000", "timeout": MICROSECONDS},
    "http": WEB,
    "https": WEB,
    "rtmp": RTMP,
    "rtmps": RTMP,
    "udp": {"protocol_whitelist": "udp", "timeout": MICROSECONDS, "overrun_nonfatal": "1", "fifo_size": "50000"},
}
# Not "nobuffer": it throws away what was read to learn the codec, the first key frame above all
QUICK = {"fflags": "discardcorrupt", "flags": "low_delay", "probesize": "1000000", "analyzeduration": "500000",
         "fpsprobesize": "0"}  # fmt: skip


def shown(address: str) -> str:
    """The address without the passwords in it."""
    parts = urlsplit(address)
    user, at, place = parts.netloc.rpartition("@")
    name, colon, _password = user.partition(":")
    query = [(k, "***" if SECRET.search(k) else v) for k, v in parse_qsl(parts.query, keep_blank_values=True)]
    netloc = f"{name}{':***' if colon else ''}{at}{place}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*:/,", quote_via=quote)))


def check(text: str) -> None:
    """SourceError where `text` is no address that can be opened."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise SourceError(f"this address cannot be read ({error}): expected e.g. rtsp://host:554/path") from None
    if parts.scheme.lower() not in SCHEMES:
        known = " ".join(f"{scheme}://" for scheme in SCHEMES)
        raise SourceError(f"addresses that begin with {parts.scheme}:// are not opened: use one of {known}")
    if not parts.hostname and not (parts.scheme in ("srt", "udp") and port):
        raise SourceError(f"address {shown(text)} names no host: expected e.g. {parts.scheme}://host/path")


def connect(text: str) -> Source:
    check(text)
    scheme = urlsplit(text).scheme.lower()
    with ExitStack() as opening:
        container = opened(text, scheme, opening)
        opening.callback(container.close)
        stream = video(container, shown(text))
        let_go = opening.pop_all()
    if container.duration and scheme in ("http", "https"):
        return FilmSource(shown(text), container, stream)
    return LiveSource(shown(text), container, stream, let_go)


def opened(text: str, scheme: str, opening: ExitStack) -> InputContainer:
    """The address, opened; SourceError where that cannot be. What else is to be closed goes to `opening`."""
    given, began = SCHEMES[scheme], time.monotonic()
    try:
        try:
            return av.open(text, "r", options=QUICK | given, timeout=(OPEN_S, STALL_S), metadata_errors="replace")
        except av.ProtocolNotFoundError:
            relay = Relay(text, given, OPEN_S, STALL_S)
            opening.callback(relay.close)
            return relayed(relay, shown(text))
    except (av.FFmpegError, OSError) as error:
        why = "it does not answer" if time.monotonic() - began >= OPEN_S else reason(error)
        raise SourceError(f"{shown(text)} cannot be opened ({why}): {HINT}") from None  # the error has the password


def relayed(relay: Relay, name: str) -> InputContainer:
    """What the command hands on, opened. SourceError where it ended."""
    try:
        return av.open(relay, "r", options=QUICK, format="mpegts", metadata_errors="replace")
    except av.FFmpegError as error:
        why = relay.why() or reason(error)
        raise SourceError(f"{name} cannot be opened ({why}): {HINT}") from None


def video(container: InputContainer, name: str) -> VideoStream:
    """The first video that is no cover picture."""
    found = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not found or found[0].codec_context is None:
        raise SourceError(f"{name} has no video that can be read here: give an address that sends some")
    return found[0]


def reason(error: Exception) -> str:
    """What FFmpeg says went wrong, without the address."""
    if isinstance(error, av.ExitError):
        return "it does not answer"
    return getattr(error, "strerror", None) or type(error).__name__


def picture(frame: VideoFrame, stream: VideoStream, pts: int, captured_at: float | None) -> Frame:
    return Frame(rgb(frame, stream.sample_aspect_ratio), pts, CLOCK, captured_at)


# ------------------------------------------------------------------------------------------------- with a length


class FilmSource(Source):
    """A film on a web server: every frame once, in order."""

    def __init__(self, name: str, container: InputContainer, stream: VideoStream) -> None:
        self.name, self._container, self._stream = name, container, stream
        self.rate = stream.average_rate or stream.guessed_rate
        stream.thread_type = "AUTO"
        self._frames = self._read()
        first = next(self._frames, None)
        if first is None:
            self.close()
            raise SourceError(f"{name} has no frame in it: give an address with pictures")
        self._first: Frame | None = first
        self.size = first.size

    def __iter__(self) -> Iterator[Frame]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        yield from self._frames

    def close(self) -> None:
        self._container.close()

    def _read(self) -> Iterator[Frame]:
        last = -1
        step = 1 / (self.rate or Fraction(30))
        try:
            for frame in self._container.decode(self._stream):
                told = frame.pts * frame.time_base if frame.pts is not None and frame.time_base else None
                last = max(round((told if told is not None else (last + 1) * CLOCK + step) / CLOCK), last + 1)
                yield picture(frame, self._stream, last, None)
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"{self.name} broke off ({reason(error)}): is the connection well?") from None


# ------------------------------------------------------------------------------------------------- live


class LiveSource(Source):
    """The newest picture of what is sent. Never ends by itself: where nothing comes any more, that is a SourceError."""

    endless = True

    def __init__(
        self, name: str, container: InputContainer, stream: VideoStream, let_go: ExitStack,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`let_go` closes the container, and what it reads from."""
        self.name, self._stream, self._clock = name, stream, clock
        self.rate = stream.average_rate
        self._packets = Packets(name, container, stream, let_go)
        self._began, self._last = clock(), -1
        try:
            self._first: Frame | None = self._newest()
        except SourceError:
            self.close()
            raise
        self.size = self._first.size

    def __iter__(self) -> Iterator[Frame]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        while True:
            yield self._newest()

    def close(self) -> None:
        self._packets.close()

    @property
    def left_out(self) -> int:
        """Packets that were not decoded, because the decoder was behind."""
        return self._packets.left_out

    def _newest(self) -> Frame:
        """Waits for the next picture. Everything that came is decoded, only the newest of it becomes RGB."""
        frame, end = None, self._clock() + STALL_S
        while frame is None:
            if self._clock() > end:
                raise SourceError(f"{self.name} sends no picture for {STALL_S:g} s: is it well?")
            for packet in self._packets.take():
                frame = self._decoded(packet) or frame
        now = self._clock()
        self._last = max(round((now - self._began) / CLOCK), self._last + 1)
        return picture(frame, self._stream, self._last, now)

    def _decoded(self, packet: Packet[VideoStream]) -> VideoFrame | None:
        """The last picture of a packet; None where it has none, or is damaged: the next key frame mends it."""
        try:
            frames = [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]
        except av.InvalidDataError:
            return None
        return frames[-1] if frames else None


class Packets:
    """Owns the opened address, and the thread that reads it. Holds what came; whoever is slow misses the oldest."""

    def __init__(self, name: str, container: InputContainer, stream: VideoStream, let_go: ExitStack) -> None:
        self._name, self._container, self._stream, self._let_go = name, container, stream, let_go
        self._there = Condition()
        self._waiting: deque[Packet[VideoStream]] = deque()
        self._ended: str | None = None  # why nothing comes any more
        self._over = False
        self._torn = False  # whether pictures miss those that they build on
        self.left_out = 0
        self._thread = Thread(target=self._run, name="address", daemon=True)
        self._thread.start()

    def take(self) -> list[Packet[VideoStream]]:
        """What came since the last call; waits for something. SourceError where nothing comes any more."""
        with self._there:
            if not self._waiting and self._ended is None:
                self._there.wait(STALL_S / 10)
            if not self._waiting and self._ended is not None:
                raise SourceError(f"{self._name} broke off ({self._ended}): is it still on?")
            found = list(self._waiting)
            self._waiting.clear()
        return found

    def close(self) -> None:
        """Never waits: where the thread is stuck in a read, it closes the address when it leaves that."""
        with self._there:
            first, self._over = not self._over, True
            if first and self._ended is not None:
                self._let_go.close()

    def _run(self) -> None:
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    self._put(packet)
                if self._over:
                    break
            self._end("the other side ended it")
        except (av.FFmpegError, OSError) as error:
            self._end(reason(error))

    def _put(self, packet: Packet[VideoStream]) -> None:
        with self._there:
            if self._torn and not packet.is_keyframe:
                self.left_out += 1
                return
            self._torn = False
            self._waiting.append(packet)
            if len(self._waiting) > BEHIND:
                self._leave_out()
            self._there.notify()

    def _leave_out(self) -> None:
        """All before the newest key frame. Without one the newest, and all until the next key frame."""
        keys = [n for n, packet in enumerate(self._waiting) if packet.is_keyframe]
        for _ in range(keys[-1] if keys else 0):
            self._waiting.popleft()
            self.left_out += 1
        if len(self._waiting) > BEHIND:
            self._waiting.pop()
            self.left_out, self._torn = self.left_out + 1, True

    def _end(self, why: str) -> None:
        with self._there:
            self._ended = why
            if self._over:
                self._let_go.close()
            self._there.notify()
