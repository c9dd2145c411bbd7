"""A live sink, as the server sees it: a process of its own that gets the newest picture, is watched, and comes back.

    host = SinkHost(check("ndi:Livebrush"), told)
    host.start()
    host.put(frame)        # never blocks; newest wins
    await host.close()

A sink that is stuck for two seconds, fails or crashes is started anew, after a while that grows with every time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from stream.frame import Frame
from stream.live import safely
from stream.mailbox import Boxes
from stream.process import Child
from stream.sinks.live import OPENS_S, Target
from stream.sinks.orders import Bell, Failed, Heard, Looked, Moved, Opened, Opening, Sounds, Start, Stop

log = logging.getLogger("livebrush")
RATE = 30.0  # pictures a second, about
WAITS = "waits until somebody connects"
State = Literal["starting", "running", "waiting", "stopped"]


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    loads: float = 20.0  # to import its library
    stuck: float = 2.0  # without a sign
    closes: float = 1.5  # to finish what it took
    first: float = 0.5  # before it is started anew; twice as long each time,
    last: float = 10.0  # up to this,
    healthy: float = 5.0  # unless it went well for so long
    look: float = 0.25  # between two looks at it


LIMITS = Limits()


class SinkProcess(Child):
    """The process: it does nothing before `begin`, whose `hear` gets its messages."""

    NAME, MAIN, BELL = "output", "stream.sinks.child", Bell()
    NICE = 5  # of what it does, painting comes first: one that is started again and again costs it nothing

    def begin(self, text: str, hear: Callable[[Any], None]) -> None:
        self._hear = hear
        memory, level = self.arena.handle, log.getEffectiveLevel()
        self.send(Start(text, RATE, memory, self._pulse_place, os.getpid(), level))

    @property
    def last_words(self) -> str:
        """How it ended."""
        return f"its process stopped ({self._how})"

    def _answers_bell(self, message: Any) -> bool:
        return isinstance(message, Looked)


class Life:
    """A sink's life in one process, from the launch to the end; the mailbox that its pictures go through."""

    def __init__(self, process: SinkProcess, limits: Limits, opened: Callable[[float | None, bool], None]) -> None:
        """`opened` hears when the sink begins to open, for at most so many seconds, and when it has."""
        self.process, self.trouble = process, ""
        self.opened_at: float | None = None
        self._limits, self._opened, self._opens_s = limits, opened, float(OPENS_S)
        self._boxes: Boxes | None = None
        self._put = self._lost = 0  # in mailboxes that are no more
        self._put_here = 0

    def put(self, frame: Frame) -> None:
        width, height = frame.size
        if self._boxes is None or width * height > self._boxes.address.pixels:
            self._retire()
            self._boxes = Boxes.lent(self.process.arena, width * height)
            self.process.send(Moved(self._boxes.address))
        self._boxes.inbox.put(frame)
        self._put_here += 1
        self.process.ring()

    def expect_sound(self) -> None:
        self.process.send(Sounds())

    def hear(self, data: bytes, captured_at: float) -> None:
        if self.opened_at is not None:  # while it opens, packets would pile up in the pipe
            self.process.send(Heard(data, captured_at))

    @property
    def counts(self) -> tuple[int, int]:
        """Pictures that the sink took, and that newer ones overwrote."""
        if self._boxes is None:
            return self._put - self._lost, self._lost
        box = self._boxes.inbox
        return self._put - self._lost + self._put_here - box.lost, self._lost + box.missed

    def heard(self, message: Any) -> None:
        match message:
            case Opening():
                self.opened_at = None
                self._opens_s = float("inf") if message.seconds is None else message.seconds
                self._opened(message.seconds, False)
            case Opened():
                self.opened_at = time.monotonic()
                self._opened(None, True)
            case Failed():
                self.trouble = message.text

    async def end(self) -> str:
        """Waits until the process ends, or is stuck and killed; why."""
        number, silent = -1, 0.0
        while not self.process.ended.done():
            await asyncio.wait({self.process.ended}, timeout=self._limits.look)
            beat = self.process.beat()
            silent = 0.0 if beat.number != number else silent + self._limits.look  # not by the clock: the server
            number = beat.number  # itself may have stood still
            patience = {"loading": self._limits.loads, "preparing": self._opens_s}.get(
                beat.activity, self._limits.stuck
            )
            if silent > patience:
                self.process.kill()
                await self.process.gone(self._limits.closes)
                return f"stuck: it gave no sign for {silent:.0f} s"
        await self.process.gone(self._limits.closes)
        return self.trouble or self.process.last_words

    def close(self) -> None:
        """Lets go of everything."""
        self._retire()
        self.process.close()

    def _retire(self) -> None:
        if self._boxes is not None:
            self._put, self._lost = self._put + self._put_here, self._lost + self._boxes.inbox.lost
            self._put_here = 0
            self._boxes.close()
            self._boxes = None


class SinkHost:
    """One output. All on the event loop; `told` hears of every other state or error."""

    def __init__(self, target: Target, told: Callable[[], None], limits: Limits = LIMITS) -> None:
        self.target = target
        self.state: State = "starting"
        self.error = ""
        self.restarts = 0
        self._told, self._limits = told, limits
        self._life: Life | None = None
        self._sounds = False
        self._newest: Frame | None = None  # for a sink that begins anew while nothing comes
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        self._frames = self._dropped = 0  # in lives that are over, and between them

    def start(self) -> None:
        """Begins; not for a second time."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, frame: Frame) -> None:
        """The newest picture, for whenever the sink comes to it."""
        if self._life is None:
            self._dropped += self._newest is not None
        else:
            self._life.put(frame)
        self._newest = frame

    def expect_sound(self) -> None:
        """Sound comes along: a sink that can take it is opened for it, or anew. A second time does nothing."""
        if not self._sounds:
            self._sounds = True
            if self._life is not None:
                self._life.expect_sound()

    def hear(self, data: bytes, captured_at: float) -> None:
        """A packet of Opus, for a sink that takes sound."""
        if self._life is not None and self._sounds:
            self._life.hear(data, captured_at)

    @property
    def frames(self) -> int:
        """Pictures that it took."""
        return self._frames + (self._life.counts[0] if self._life else 0)

    @property
    def dropped(self) -> int:
        """Pictures that newer ones overwrote, or that came while there was no sink."""
        return self._dropped + (self._life.counts[1] if self._life else 0)

    @property
    def since_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    async def close(self) -> None:
        """Lets the sink finish what it took; kills it where that takes long. A second time does nothing."""
        self._closing.set()
        if self._task is None:
            return
        if self._life is not None:
            self._life.process.send(Stop())
        _, late = await asyncio.wait({self._task}, timeout=self._limits.closes)
        if late and self._life is not None:
            self._life.process.kill()
        await self._task
        self._become("stopped", "")

    async def _run(self) -> None:
        pause = self._limits.first
        while True:
            trouble, healthy = await self._live()
            if self._closing.is_set():
                return
            pause = self._limits.first if healthy else pause
            self.restarts += 1
            self._become("waiting", self.target.hides(trouble))
            log.warning("output %s: %s", self.target.shown, self.error)
            if await self._closes_within(pause):
                return
            pause = min(2 * pause, self._limits.last)

    async def _live(self) -> tuple[str, bool]:
        """One life: how it ended, and whether it was a good one."""
        try:
            process = await SinkProcess.launch()
        except OSError as error:
            return f"no process can be started ({error.strerror or error}): end others first", False
        self._life = life = Life(process, self._limits, self._opened)
        process.begin(self.target.text, life.heard)
        if self._sounds:
            life.expect_sound()
        if self._closing.is_set():
            process.send(Stop())
        elif self._newest is not None:
            life.put(self._newest)
        try:
            trouble = await life.end()
        finally:
            self._life = None
            life.close()
            taken, lost = life.counts
            self._frames, self._dropped = self._frames + taken, self._dropped + lost
        return trouble, life.opened_at is not None and time.monotonic() - life.opened_at > self._limits.healthy

    async def _closes_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _opened(self, seconds: float | None, done: bool) -> None:
        if done:
            self._become("running", "")
        elif seconds is None:
            self._become("waiting", WAITS)

    def _become(self, state: State, error: str) -> None:
        if (state, error) != (self.state, self.error):
            self.state, self.error = state, error
            safely(self._told)
