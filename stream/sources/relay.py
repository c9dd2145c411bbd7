"""SRT where FFmpeg's libraries lack it, as in PyAV's wheels: the `ffmpeg` command, if it is installed, hands on the
bytes as they come."""

from __future__ import annotations

import shutil
import subprocess
import time
from threading import Event, Thread

from stream.errors import SourceError

LOOK_S = 0.25  # between two looks at whether something comes
END_S = 2.0  # until a command that was asked to end is killed


class Relay:
    """Owns an `ffmpeg` that copies what an address sends to its standard output. For `av.open`.

    A thread ends the command when it is closed, or when nothing comes: it waits for callers for ever by itself.
    """

    def __init__(self, address: str, options: dict[str, str], first_s: float, stall_s: float) -> None:
        """Something must come within `first_s`, and then every `stall_s`. SourceError where there is no such command.
        The address is among its arguments, which this machine's users can see."""
        command = shutil.which("ffmpeg")
        if command is None:
            scheme = address.partition(":")[0]
            raise SourceError(f"{scheme}:// needs the ffmpeg command beside Livebrush: install ffmpeg, with libsrt")
        given = [word for name, value in options.items() for word in (f"-{name}", value)]
        words = [command, "-v", "error", "-nostdin", *given, "-f", "data", "-i", address]
        words += ["-map", "0", "-c", "copy", "-f", "data", "-flush_packets", "1", "pipe:1"]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)  # noqa: S603
        self._patience_s, self._stall_s, self._came_at = first_s, stall_s, time.monotonic()
        self._over, self._ended = Event(), Event()
        self._said = ""
        Thread(target=self._watched, name="relay", daemon=True).start()

    def read(self, size: int) -> bytes:
        """What came, at most `size` bytes; nothing once it ended."""
        assert self._process.stdout is not None
        data = self._process.stdout.read(size) or b""
        self._came_at, self._patience_s = time.monotonic(), self._stall_s
        return data

    def why(self) -> str:
        """Why it ended, without the address; nothing where it goes on."""
        self._ended.wait(END_S)
        return self._said

    def close(self) -> None:
        """Asks the command to end, and waits for nothing."""
        self._over.set()

    def _watched(self) -> None:
        while self._process.poll() is None and not self._over.wait(LOOK_S):
            if time.monotonic() - self._came_at > self._patience_s:
                self._said = f"nothing came for {self._patience_s:g} s"
                break
        self._end()
        assert self._process.stderr is not None
        lines = (self._process.stderr.read() or b"").decode(errors="replace").strip().splitlines()
        self._said = self._said or (lines[-1].rpartition(": ")[2] if lines else "the other side ended it")
        self._process.stderr.close()
        self._ended.set()
        self._over.wait()  # whoever reads is done
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
