"""SRT where FFmpeg's libraries lack it, as in PyAV's wheels: the `ffmpeg` command, if it is installed, hands on the
bytes as they come."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from threading import Thread

from stream.errors import SourceError

END_S = 2.0  # until a command that was asked to end is killed


class Relay:
    """Owns an `ffmpeg` that copies what an address sends to its standard output. For `av.open`."""

    def __init__(self, address: str, options: dict[str, str]) -> None:
        """SourceError where there is no such command. The address is among its arguments, which this machine's users
        can see."""
        command = shutil.which("ffmpeg")
        if command is None:
            scheme = address.partition(":")[0]
            raise SourceError(f"{scheme}:// needs the ffmpeg command beside Livebrush: install ffmpeg, with libsrt")
        given = [word for name, value in options.items() for word in (f"-{name}", value)]
        words = [command, "-v", "error", "-nostdin", *given, "-f", "data", "-i", address]
        words += ["-map", "0", "-c", "copy", "-f", "data", "-flush_packets", "1", "pipe:1"]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)  # noqa: S603

    def read(self, size: int) -> bytes:
        """What came, at most `size` bytes; nothing once it ended."""
        assert self._process.stdout is not None
        return self._process.stdout.read(size) or b""

    def why(self) -> str:
        """What it said before it ended, without the address; nothing where it goes on."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
            assert self._process.stderr is not None
            lines = (self._process.stderr.read() or b"").decode(errors="replace").strip().splitlines()
            return lines[-1].rpartition(": ")[2] if lines else "it ended"
        return ""

    def close(self) -> None:
        """Ends the command; waits for it beside whoever asks."""
        if self._process.poll() is None:
            self._process.terminate()
        Thread(target=self._buried, name="relay", daemon=True).start()

    def _buried(self) -> None:
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
