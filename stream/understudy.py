"""A second worker process that stands by: it imports everything and loads nothing, so that after a death the next one
is there in the time that the model takes, and not in the several seconds that Python's imports take as well."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from stream.process import WorkerProcess

log = logging.getLogger("livebrush")
GONE_S = 1.0  # until the system has let go of one that was killed


class Understudy:
    """Owns the process until it is taken. Everything on the event loop."""

    def __init__(self) -> None:
        self._process: WorkerProcess | None = None
        self._launching: asyncio.Task[None] | None = None
        self.rehearsed = False

    def prepare(self) -> None:
        """Starts one, unless one stands by already; it imports on the processor's idle time."""
        if self._launching is None and (self._process is None or self._process.ended.done()):
            self.rehearsed = False
            self._launching = asyncio.get_running_loop().create_task(self._launch(), name="understudy")

    def take(self) -> WorkerProcess | None:
        """The process, where it lives, however much it has imported; the caller's own from now on."""
        process = self._process
        if process is None or process.ended.done() or process.dying:
            return None
        self._process = None
        return process

    async def close(self) -> None:
        """Ends it, if there is one."""
        if self._launching is not None:
            await asyncio.wait({self._launching})
        await self._end()

    async def _launch(self) -> None:
        await self._end()
        try:
            self._process = await WorkerProcess.launch()
            self._process.rehearse(self._heard)
        except OSError as error:
            log.warning("no process could be started to stand by for the worker (%s)", error.strerror)
        finally:
            self._launching = None

    def _heard(self, _: Any) -> None:
        self.rehearsed = True

    async def _end(self) -> None:
        """What there was is killed and gone."""
        process, self._process = self._process, None
        self.rehearsed = False
        if process is not None:
            process.kill()
            await process.gone(GONE_S)
            process.close()
