"""A process of the server's, from its start to its end: its pipes, its shared memory and its pulse. What a dead one
held is gone with it. The supervisor has one that paints at a time (`WorkerProcess`)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from stream.mailbox import Address, Arena, Beat, Boxes, Pulse
from stream.messages import Begin, Bell, Plan, Rehearse, Ticked
from stream.wire import Logged, Unpacker, packed

log = logging.getLogger("livebrush")
ROOT = Path(__file__).parents[1]  # where the rooms are imported from
TAIL = 30  # last lines of standard error that are kept
LINE = 2000  # characters of them
STDIN, STDOUT, STDERR = range(3)
PF_EXITING = 4  # linux/sched.h


class Child(asyncio.SubprocessProtocol):
    """Made by `launch`; everything on the event loop that did. A subclass says which `MAIN` it runs, and sends it a
    first message; what it says goes to `_hear` from then on, until `deafen`.

    `ended` is done the moment it is known to be dying: its standard output is closed, or the system says so. `reaped`
    is done when the system has let go of it and its pipes are empty.
    """

    NAME: ClassVar[str]  # in the log
    MAIN: ClassVar[str]  # the module whose `main` it runs
    BELL: ClassVar[Any]  # the message that a frame lies in a mailbox
    NICE: ClassVar[int] = 0  # its nice value, from its first line on

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._hear: Callable[[Any], None] | None = None
        self._unpacker = Unpacker()
        self._rung = self._again = False
        self._text = getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # of standard error, behind its last whole line
        self._transport: asyncio.SubprocessTransport | None = None
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.ended: asyncio.Future[None] = loop.create_future()
        self.reaped: asyncio.Future[None] = loop.create_future()
        self.arena = Arena()
        self._pulse_place = self.arena.lend(64)
        self._pulse = Pulse(self.arena, self._pulse_place)

    @classmethod
    async def launch(cls) -> Self:
        """A new process. OSError where the system has none to give."""
        self = cls()
        loop = asyncio.get_running_loop()
        handle = self.arena.handle
        fds = (handle,) if isinstance(handle, int) else ()
        gently = f"from stream.wire import yields; yields({cls.NICE}); " if cls.NICE else ""
        command = (sys.executable, "-P", "-c", f"{gently}from {cls.MAIN} import main; main()")
        try:
            await loop.subprocess_exec(
                lambda: self, *command, env=environment(), pass_fds=fds, start_new_session=True
            )  # a session of its own: Ctrl-C in the terminal is the server's, not the process's
        except BaseException:
            self.close()
            raise
        return self

    @property
    def pid(self) -> int:
        assert self._transport is not None
        return self._transport.get_pid()

    def send(self, message: Any) -> None:
        """Never blocks: what the pipe does not take waits here. Little does, since every sender waits for answers."""
        self._write(packed(message))

    def ring(self) -> None:
        """Tells that a frame lies in a mailbox. One bell is on its way at a time."""
        if self._rung:
            self._again = True
        else:
            self._rung = True
            self.send(self.BELL)

    def lend(self, pixels: int) -> Boxes:
        """A new pair of mailboxes for pictures of up to so many pixels."""
        return Boxes.lent(self.arena, pixels)

    def take_back(self, address: Address) -> None:
        """Lends the memory to others. The worker must have said that it has let go of it."""
        self.arena.take_back(address.place)

    def beat(self) -> Beat:
        """The newest of its pulse."""
        return self._pulse.read()

    def deafen(self) -> None:
        """Nothing more is heard of it: what it still says is of a life that is over."""
        self._hear = None

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    def close(self) -> None:
        """Lets go of everything, killing it first if it still lives. The mailboxes lent must be closed before."""
        self.deafen()
        self.kill()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        self._pulse.close()
        self.arena.close()

    async def gone(self, seconds: float) -> bool:
        """Whether it ends within so many seconds, and all that it said has been read."""
        done, _ = await asyncio.wait({self.reaped}, timeout=seconds)
        return bool(done)

    @property
    def _how(self) -> str:
        code = self._transport.get_returncode() if self._transport is not None else None
        if code is None:
            return "its pipes are closed"
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self._transport is not None and self._transport.get_returncode() == -9

    @property
    def dying(self) -> bool:
        """Whether it was killed, and the system only has to let go of its memory: its pipes are closed after that, a
        tenth of a second later with the built-in model's 600 MB. Linux tells at once, by the flags of its first thread
        (proc(5), field 9)."""
        try:
            told = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:  # another system, or it is gone, which `ended` tells
            return False
        state, *rest = told.rpartition(")")[2].split()
        return state in ("Z", "X") or bool(int(rest[5]) & PF_EXITING)

    # ---------------------------------------------------------------------------------- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == STDERR:
            self._read_lines(self._text.decode(data))
            return
        for message in self._unpacker.feed(data):
            self._heard(message)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        if fd == STDERR and self._rest:
            self._read_lines("\n")
        if fd == STDOUT:
            self._end(self.ended)

    def process_exited(self) -> None:
        self._end(self.ended)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._end(self.reaped)

    # ------------------------------------------------------------------------------------------ within

    def _signal(self, number: int) -> None:
        """Not by the transport's own method: that one reaps the process behind the back of asyncio's watcher."""
        if self._transport is not None and self._transport.get_returncode() is None:
            with suppress(ProcessLookupError):
                os.kill(self._transport.get_pid(), number)

    @staticmethod
    def _end(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            return
        pipe = cast(asyncio.WriteTransport | None, self._transport.get_pipe_transport(STDIN))
        if pipe is not None and not pipe.is_closing():
            pipe.write(data)

    def _heard(self, message: Any) -> None:
        if isinstance(message, Logged):
            log.log(message.level, "%s: %s", self.NAME, message.text)
            return
        if self._answers_bell(message):
            self._rung = False
            if self._again:
                self._again = False
                self.ring()
        if self._hear is not None:
            self._hear(message)

    def _read_lines(self, text: str) -> None:
        """Standard error, line by line; of a progress bar's line its last state."""
        *lines, rest = (self._rest + text).split("\n")
        self._rest = rest[-LINE:]
        for line in lines:
            shown = line.rstrip().rpartition("\r")[2][:LINE]
            if shown:
                self.tail.append(shown)
                log.info("%s: %s", self.NAME, shown)

    def _answers_bell(self, message: Any) -> bool:
        """Whether the process has looked into its mailboxes."""
        raise NotImplementedError


class WorkerProcess(Child):
    """The process that paints: it does nothing before `begin`, whose `hear` gets its messages."""

    NAME, MAIN, BELL = "worker", "stream.worker", Bell()

    def rehearse(self, rehearsed: Callable[[Any], None]) -> None:
        """Lets it import what every plan needs; `rehearsed` hears when it has."""
        self._hear = rehearsed
        self.send(Rehearse())

    def begin(self, plan: Plan, hear: Callable[[Any], None]) -> None:
        """Lets it load and paint."""
        self._hear = hear
        self.send(Begin(plan, self.arena.handle, self._pulse_place, os.getpid(), log.getEffectiveLevel()))

    @property
    def last_words(self) -> str:
        """How it ended, and the last that it said: of a traceback, the error."""
        return f"the painter stopped ({self._how}{': ' + self.tail[-1] if self.tail else ''})"

    def _answers_bell(self, message: Any) -> bool:
        return isinstance(message, Ticked) and message.bell


def environment() -> dict[str, str]:
    """This process's environment, in which Livebrush's rooms are found wherever they are."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
