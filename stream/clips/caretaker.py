"""Starts the runner's process when a clip waits, tells it when live streams have priority, and starts it again when it
has died. The server's; everything on the event loop, and every look at the queue in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from stream.clips.queue import Counts, Queue
from stream.errors import ClipError
from stream.memory import kills
from stream.process import LINE, TAIL, environment

log = logging.getLogger("livebrush")
State = Literal["idle", "running", "restarting", "stopped"]
LOOK_S = 0.5  # between two looks at the queue
PAUSE_S = 5.0  # that a pause holds by itself
GRACE_S = 1.5  # from asking the runner to stop to killing it: its job goes on later all the same
BACKOFF_S = (0.5, 2.0, 10.0, 60.0)  # before it is started again, by how often it died in a row
STEADY_S = 60.0  # of life, and deaths before count no more
PAUSE = "live"


def command(queue: Queue) -> Sequence[str]:
    """What the runner's process is started with."""
    parent = str(os.getpid())
    return sys.executable, "-P", "-m", "stream.clips.runner", "--folder", str(queue.folder), "--parent", parent


class Caretaker:
    """Owns the runner's process."""

    def __init__(self, queue: Queue, command: Callable[[Queue], Sequence[str]] = command) -> None:
        self.queue, self._command = queue, command
        self._live: Callable[[], bool] = lambda: False
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._poked = asyncio.Event()
        self._deaths = 0
        self.state: State = "idle"
        self.notice, self.restarts = "", 0
        self.counts = Counts(0, 0)

    @property
    def pid(self) -> int | None:
        """Of the runner, where there is one."""
        return self._process.pid if self._process is not None else None

    def start(self, live: Callable[[], bool] = lambda: False) -> None:
        """Looks after the queue from now on. `live`: whether live streams paint on what clips would be rendered on."""
        self._live = live
        self._task = asyncio.get_running_loop().create_task(self._run(), name="clips")

    def poke(self) -> None:
        """Something was added: looks at once."""
        self._poked.set()

    async def stop(self) -> None:
        """Ends the runner; the job in its hand goes on the next time. A second time does nothing."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait({task})
        self.state = "stopped"
        await asyncio.to_thread(self.queue.pause, PAUSE, 0.0)

    # ------------------------------------------------------------------------------------------ within

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
                if self.counts.waiting:
                    await self._life()
            except ClipError as error:
                self.notice = str(error)
            self._poked.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), LOOK_S)

    async def _look(self) -> None:
        self.counts = await asyncio.to_thread(self.queue.counts)
        await asyncio.to_thread(self.queue.pause, PAUSE, PAUSE_S if self._live() else 0.0)

    async def _life(self) -> None:
        """One runner, from its start to its end."""
        tail: deque[str] = deque(maxlen=TAIL)
        kills_before = kills()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(self.queue), env=environment(), stdin=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, limit=LINE * 100, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            await self._died(f"the clips' process could not be started ({error.strerror})")
            return
        self.state, began = "running", asyncio.get_running_loop().time()
        reading = asyncio.ensure_future(self._read(tail))
        try:
            await self._watched(self._process)
        finally:
            code = await asyncio.shield(ended(self._process))
            reading.cancel()
        pid, self._process, self.state = self._process.pid, None, "idle"
        if asyncio.get_running_loop().time() - began > STEADY_S:
            self._deaths = 0
        if code:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            told = f"the clips' process died ({how}{': ' + tail[-1] if tail else ''})"
            if code != -signal.SIGKILL or kills() > kills_before:  # somebody's kill is no fault of the job
                await asyncio.to_thread(self.queue.blame, pid, told)
            await self._died(told)
        else:
            self._deaths, self.notice = 0, ""

    async def _watched(self, process: asyncio.subprocess.Process) -> None:
        waiting = asyncio.ensure_future(process.wait())
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=LOOK_S)
                await self._look()
        finally:
            waiting.cancel()

    async def _died(self, told: str) -> None:
        log.warning("%s", told)
        self.notice, self.state = told, "restarting"
        self.restarts += 1
        await asyncio.sleep(BACKOFF_S[min(self._deaths, len(BACKOFF_S) - 1)])
        self._deaths += 1
        self.state = "idle"

    async def _read(self, tail: deque[str]) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            shown = line.decode(errors="replace").rstrip().rpartition("\r")[2][:LINE]
            if shown:
                tail.append(shown)
                log.info("clips: %s", shown)


async def ended(process: asyncio.subprocess.Process) -> int:
    """Its exit code; it is asked to end, then killed, where it still lives."""
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            process.terminate()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), GRACE_S)
        process.kill()
    return await process.wait()
