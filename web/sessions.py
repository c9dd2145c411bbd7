"""The registry: it owns every session, lets in as many as there are places, and ends them.

session = sessions.admit(changes, source, ticket)    # or a RefusalError, with a place in the queue
answer_sdp = await session.answer(offer_sdp)         # the page's peer; a WebSocket attaches itself
await sessions.close(session, "the page left")
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stream.control.hub import Hub
from stream.memory import give_back
from stream.settings import Settings
from stream.supervisor import Supervisor
from web.errors import RefusalError
from web.messages import SourceName
from web.pump import Pump
from web.rtc import Peer
from web.session import Answers, Session, World, near
from web.waiting import RETRY_S, Line
from web.wishes import changed

log = logging.getLogger("livebrush")
NO_SOURCE = "the offer sends no video, and the server has no source: send a video track, or start it with --source"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
FRAMES_S = 0.1  # between two messages "frames"
STATS_TICKS = 10  # of them make a second


@dataclass(frozen=True)
class Summary:
    """All sessions in a line."""

    sessions: int
    waiting: int
    fps: float  # of the slowest that gets pictures
    latency_ms: float | None  # glass to glass: the largest p50 that a page told


class Sessions:
    """Every session there is, by its id."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        limit: int,
        pump: Pump | None = None,
        answers: Answers = Peer.answer,
        clock: Callable[[], float] = time.monotonic,
        hub: Hub | None = None,
    ) -> None:
        self.limit, self.pump = limit, pump
        self.hub = hub or Hub(clock=clock)
        self._by_id: dict[str, Session] = {}
        self._by_name: dict[str, Session] = {}  # those that stand
        self._line = Line(clock)
        self._closed = False
        self._jobs: set[asyncio.Task[None]] = set()
        self._ended_one = False  # since memory was given back
        self._world = World(supervisor, answers, pump, clock, self.__len__, self._end, self.hub)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    @property
    def world(self) -> World:
        return self._world

    @property
    def defaults(self) -> Settings:
        """What a session begins with: the model's own settings, in a size that it can paint."""
        facts = self._world.supervisor.facts
        return near(facts.defaults, facts.multiple)

    def admit(
        self, changes: Mapping[str, Any], source: SourceName, ticket: str | None, offer: Callable[[], None]
    ) -> Session:
        """A new session. Raises SettingsError, and RefusalError where there is no place or no such source.

        `offer` is called before there is one; it may refuse. Asking for a place costs nothing and is not counted.
        """
        settings = changed(self.defaults, changes)
        if source == "server" and self.pump is None:
            raise RefusalError(422, NO_SOURCE)
        if self._closed:
            raise RefusalError(503, "the server stops: come back when it is there again", headers={"Retry-After": "5"})
        if not self._line.passes(ticket, self.limit - len(self)):
            raise self._full(ticket)
        offer()
        self._line.leave(ticket)
        session = Session(self._world, settings, source)
        self._by_id[session.id] = session
        return session

    def stand(self, name: str, source: SourceName, changes: Mapping[str, Any] | None = None) -> Session:
        """A session under a name that is not taken; it goes on without any page until it is closed."""
        if not NAME.fullmatch(name):
            raise RefusalError(422, f"name {name[:40]!r} is none: use up to 32 of a-z, 0-9, _ and -, a letter first")
        if name in self._by_name:
            raise RefusalError(409, f"session {name!r} is there already: use another name, or end that one")
        if self._closed:
            raise RefusalError(503, "the server stops: come back when it is there again", headers={"Retry-After": "5"})
        session = Session(self._world, changed(self.defaults, changes or {}), source, name)
        self._by_id[session.id] = self._by_name[name] = session
        session.begin()
        return session

    @property
    def standing(self) -> Mapping[str, Session]:
        """The sessions that have a name, by it."""
        return self._by_name

    def find(self, name: str) -> Session:
        """The session of that id or name; RefusalError where there is none."""
        session = self._by_id.get(name) or self._by_name.get(name)
        if session is None:
            raise RefusalError(404, f"session {name[:40]!r} is not here: it ended, or never was; begin a new one")
        return session

    async def close(self, session: Session, reason: str) -> None:
        """Ends a session; its place is free at once."""
        self._by_id.pop(session.id, None)
        if session.name is not None and self._by_name.get(session.name) is session:
            del self._by_name[session.name]
        await session.close(reason)
        self._ended_one = True

    async def close_all(self, reason: str) -> None:
        """Ends every session, lets nobody in any more, and waits for what is still ending."""
        self._closed = True
        for session in self:
            self._end(session, reason)
        while self._jobs:
            await asyncio.wait(self._jobs)

    async def run(self) -> None:
        """Tells the pages how it goes, until it is cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(FRAMES_S)
            turn = (turn + 1) % STATS_TICKS
            for session in self:
                session.tell_frames()
                if turn == 0:
                    session.tick()
            if turn == 0 and self._ended_one:
                self._ended_one = False
                await asyncio.to_thread(give_back)

    def summary(self) -> Summary:
        """All of them in a line."""
        fps = [s.fps for s in self if s.fps]
        latencies = [s.latency_ms for s in self if s.latency_ms is not None]
        return Summary(len(self), len(self._line), min(fps, default=0.0), max(latencies, default=None))

    def _full(self, ticket: str | None) -> RefusalError:
        place = self._line.wait(ticket)
        taken = f"all {self.limit} places are taken"
        told = f"{taken}: yours is number {place.place} in the queue" if place else f"{taken}, and the queue is full"
        more = {"queue": place.model_dump() if place else None}
        return RefusalError(503, told, headers={"Retry-After": f"{RETRY_S:.0f}"}, **more)

    def _end(self, session: Session, reason: str) -> None:
        job: Coroutine[Any, Any, None] = self.close(session, reason)
        task = asyncio.get_running_loop().create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a session did not end well", exc_info=task.exception())
