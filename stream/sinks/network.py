"""Over a network: MPEG-TS by UDP and SRT, RTMP, RTSP. H.264 with a key frame every second, so that one may join late.

PyAV's wheels have no SRT. The stream is made here all the same, and an `ffmpeg` that has it sends it, byte for byte.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from urllib.parse import parse_qs, urlsplit

import av

from stream.errors import SinkError
from stream.sinks.live import OPENS_S, Target
from stream.sinks.muxed import Muxed, MuxedSink, Way, steady
from stream.wire import PR_SET_PDEATHSIG

PACKET = 1316  # bytes: seven packets of MPEG-TS, which is what UDP and SRT send at once
PADDING = (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 7  # null packets, ISO 13818-1 2.4.1: read over by everybody
CONNECTS_S = 5.0
POKE_S = 0.1
ENDS_S = 1.0
AT_ONCE = {"flush_packets": "1"}
MICROSECONDS = str(int(CONNECTS_S * 1e6))
FLV = Way("flv", {"rw_timeout": MICROSECONDS, "flvflags": "no_duration_filesize"}, CONNECTS_S, sound="aac")
WAYS = {
    "udp": Way("mpegts", {"pkt_size": str(PACKET), **AT_ONCE}, sound="opus"),
    "srt": Way("mpegts", AT_ONCE, sound="opus"),
    "rtmp": FLV,
    "rtmps": FLV,
    "rtsp": Way("rtsp", {"rtsp_transport": "tcp", "timeout": MICROSECONDS}, CONNECTS_S, sound="opus"),
}
HINTS = {
    "udp": "check host and port",
    "srt": "start the receiver with mode=listener, or use ?mode=listener here",
    "rtmp": "check address and key, and that the server is there",
    "rtmps": "check address and key, and that the server is there",
    "rtsp": "check the address, and that the server takes publishers",
}


class Sending(MuxedSink):
    """What PyAV sends itself. Not every protocol of FFmpeg's heeds its timeout: a server that is silent counts as stuck
    soon after it."""

    opens_s = CONNECTS_S + 1

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        self.hears = WAYS[target.kind].sound is not None

    def open(self, size: tuple[int, int], rate: float) -> None:
        with self._telling():
            self._muxed = Muxed(self._target.where, WAYS[self._target.kind], size, rate, steady(size), self.sounds)

    def _told(self, error: Exception) -> SinkError:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return SinkError(f"{self._target.shown}: {why}: {HINTS[self._target.kind]}")


class Srt(MuxedSink):
    """Through ffmpeg. As a listener (`?mode=listener`) it waits until somebody calls."""

    hears = True

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        listens = parse_qs(urlsplit(target.where).query).get("mode") == ["listener"]
        self.opens_s = None if listens else OPENS_S
        self._pump: Pump | None = None

    def open(self, size: tuple[int, int], rate: float) -> None:
        self._pump = Pump(self._target.where)
        with self._telling():
            self._pump.connected()
            self._muxed = Muxed(self._pump.stdin, WAYS["srt"], size, rate, steady(size), self.sounds)

    def close(self) -> None:
        super().close()
        if self._pump is not None:
            self._pump.close()
            self._pump = None

    def _told(self, _error: Exception) -> SinkError:
        assert self._pump is not None
        return SinkError(f"{self._target.shown}: {self._pump.ended()}: {HINTS['srt']}")


def tied() -> Callable[[], object] | None:
    """What lets ffmpeg end with this process on Linux: while it waits for a caller, it does not see its input end."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL)


class Pump:
    """An `ffmpeg` that sends what it reads, as it is. It ends with its standard input."""

    def __init__(self, url: str) -> None:
        command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-nostats", "-stats_period", "0.1", "-progress",
                   "pipe:1", "-probesize", "32", "-f", "data", "-raw_packet_size", str(PACKET), "-i", "pipe:0",
                   "-map", "0", "-c", "copy", "-f", "data", "-flush_packets", "1", url]  # fmt: skip
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 (a list, without a shell)
            command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=tied()
        )
        assert self._process.stdin is not None
        self.stdin = self._process.stdin
        self._goes = threading.Event()
        self._said: deque[str] = deque(maxlen=5)
        self._readers = [threading.Thread(target=x, daemon=True) for x in (self._watch, self._listen)]
        for reader in self._readers:
            reader.start()

    def connected(self) -> None:
        """Waits until something has gone out. OSError where ffmpeg ends before."""
        os.set_blocking(self.stdin.fileno(), False)
        while not self._goes.wait(POKE_S):
            if self._process.poll() is not None:
                raise BrokenPipeError
            with suppress(BlockingIOError):  # it does not read before somebody calls
                self.stdin.write(PADDING)
        os.set_blocking(self.stdin.fileno(), True)

    def ended(self) -> str:
        """Why, as far as it said."""
        self.close()
        return (self._said[-1] if self._said else "ffmpeg ended").rpartition(": ")[2]

    def close(self) -> None:
        with suppress(OSError):
            self.stdin.close()
        try:
            self._process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()

    def _watch(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as out:
            for line in out:
                name, _, value = line.decode(errors="replace").strip().partition("=")
                if name == "total_size" and value.isdigit() and int(value) > 0:
                    self._goes.set()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as out:
            self._said.extend(line.decode(errors="replace").strip() for line in out)


FFMPEG = "ffmpeg"


def missing(kind: str) -> str | None:
    if "libx264" not in av.codecs_available:
        return f"PyAV {av.__version__} lacks libx264: pip install --force-reinstall av"
    if kind == "srt" and not _sends_srt():
        return "no ffmpeg with SRT is there (PyAV has none): install ffmpeg, or use udp://HOST:PORT"
    return None


def _sends_srt() -> bool:
    if shutil.which(FFMPEG) is None:
        return False
    told = subprocess.run([FFMPEG, "-hide_banner", "-protocols"], capture_output=True, text=True, timeout=10)  # noqa: S603
    return "srt" in told.stdout.partition("Output:")[2].split()


def connect(target: Target) -> Sending | Srt:
    return Srt(target) if target.kind == "srt" else Sending(target)
