"""The two pipes between the server and a process of its own: plain values, pickled, each behind its length.

Imports nothing heavy, so that a process may be there at once. Both ends are Livebrush's own processes under one user,
joined by anonymous pipes: nobody else can write a pickle into them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

LENGTH = struct.Struct("<I")
PR_SET_PDEATHSIG = 1
AUTOGROUP = Path("/proc/self/autogroup")
GROUP_TRIES, GROUP_S = 5, 0.12  # the system takes ten values a second, from everybody


@dataclass(frozen=True)
class Logged:
    """A record of the process's log."""

    level: int
    text: str


# ------------------------------------------------------------------------------------------------- framing


def packed(message: Any) -> bytes:
    """A message as it goes through a pipe."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


class Unpacker:
    """Bytes as they come, back to messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that these bytes complete, in order."""
        self._bytes += data
        out = []
        while len(self._bytes) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                break
            out.append(pickle.loads(memoryview(self._bytes)[LENGTH.size : end].toreadonly()))  # noqa: S301
            del self._bytes[:end]
        return out


# ------------------------------------------------------------------------------------------------- the process's end


class Wire:
    """The two pipes to the server. What comes lies in `inbox`; the process ends with the pipe, at once.

    Libraries that print to standard output write to standard error instead from now on.
    """

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name="wire", daemon=True).start()

    def send(self, message: Any) -> None:
        """From any thread."""
        data = memoryview(packed(message))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._out, data) :]
            except OSError:
                leave(0)  # nobody is there any more

    def _read(self) -> None:
        unpacker = Unpacker()
        with suppress(OSError):
            while data := os.read(0, 65536):
                for message in unpacker.feed(data):
                    self.inbox.put(message)
        leave(0)


def leave(code: int) -> NoReturn:
    """Ends the process without tearing down the interpreter: libraries have threads of their own, which may take long
    to end, or crash in it; and the main thread may be deep inside one."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


class Tell(logging.Handler):
    """Log records, sent to the server."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        self._wire.send(Logged(record.levelno, self.format(record)))


def yields(nice: int) -> None:
    """Lets others go first, by a nice value, for good."""
    if hasattr(os, "nice"):
        os.nice(nice)
    group_yields(nice)


def group_yields(nice: int) -> None:
    """Where Linux shares the processor out by sessions (sched(7), autogroup), a thread's nice value counts for nothing
    outside its own: that of this process, which leads one, gets the value. Unlike a thread's it can be taken back."""
    for _ in range(GROUP_TRIES):
        try:
            AUTOGROUP.write_text(str(nice))
        except BlockingIOError:  # somebody has just done the same
            time.sleep(GROUP_S)
        except OSError:  # no such file: another system, or one without autogroups
            return
        else:
            return


def bind_to(parent: int) -> None:
    """Lets Linux kill this process when the server dies, in case it is stuck so badly that no thread runs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            leave(0)
