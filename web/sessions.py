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
from web.bodies import Place
from web.config import VIEWERS
from web.errors import RefusalError
from web.fields import SourceName
from web.inputs import BROUGHT, Pumps
from web.metrics import Figures
from web.rtc import Peer
from web.session import Answers, Session, World, near
from web.waiting import RETRY_S, Line, Turns
from web.wishes import changed

log = logging.getLogger("livebrush")
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
STANDING = 16  # sessions with names at once
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
        pumps: Pumps | None = None,
        answers: Answers = Peer.answer,
        clock: Callable[[], float] = time.monotonic,
        minutes: float | None = None,
        hub: Hub | None = None,
        viewers: int = VIEWERS,
    ) -> None:
        """`limit`: pages at once; `viewers`: that look on at one session; `minutes` of a page's session, while others
        wait."""
        self.limit, self.pumps = limit, Pumps() if pumps is None else pumps
        self.hub = hub or Hub(clock=clock)
        self._turns = Turns(minutes * 60, clock) if minutes is not None else None
        self._by_id: dict[str, Session] = {}
        self._by_name: dict[str, Session] = {}  # those that stand
        self._line = Line(clock)
        self._closed = False
        self._jobs: set[asyncio.Task[None]] = set()
        self._ended_one = False  # since memory was given back
        self._world = World(supervisor, answers, self.pumps, clock, self.__len__, self._end, Figures(), self.hub,
                            viewers)  # fmt: skip

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
        self._check(source)
        self._check_open()
        if not self._line.passes(ticket, self._free):
            raise self._full(ticket)
        offer()
        self._line.leave(ticket)
        return self._new(Session(self._world, settings, source))

    def stand(self, name: str, source: SourceName, changes: Mapping[str, Any] | None = None) -> Session:
        """A session under a name that is not taken; it goes on without any page until it is closed."""
        if not NAME.fullmatch(name):
            raise RefusalError(422, f"name {name[:40]!r} is none: use up to 32 of a-z, 0-9, _ and -, a letter first")
        if name in self._by_name:
            raise RefusalError(409, f"session {name!r} is there already: use another name, or end that one")
        self._check_open()
        self._check(source)
        if len(self._by_name) >= STANDING:
            raise RefusalError(503, f"{STANDING} sessions have names already: end one of them")
        session = self._new(Session(self._world, changed(self.defaults, changes or {}), source, name))
        self._by_name[name] = session
        session.begin()
        return session

    def _new(self, session: Session) -> Session:
        self._by_id[session.id] = session
        log.info("a session begins", extra={"event": "session begins", "session": session.label})
        return session

    def _check_open(self) -> None:
        if self._closed:
            raise RefusalError(503, "the server stops: come back when it is there again", headers={"Retry-After": "5"})

    @property
    def _free(self) -> int:
        """Places for pages; what stands under a name takes none."""
        return self.limit - (len(self) - len(self._by_name))

    @property
    def stopping(self) -> bool:
        """Whether nobody is let in any more."""
        return self._closed

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

    async def close(self, session: Session, reason: str, place: Place | None = None) -> None:
        """Ends a session; its place is free at once. `place` in the queue is told to its page."""
        if self._by_id.pop(session.id, None) is not None:
            told = {"event": "session ends", "session": session.label, "reason": reason}
            log.info("a session ends: %s", reason, extra=told)
        if session.name is not None and self._by_name.get(session.name) is session:
            del self._by_name[session.name]
        await session.close(reason, place)
        self._ended_one = True

    def refuse(self) -> None:
        """Lets nobody in any more."""
        self._closed = True

    async def close_all(self, reason: str) -> None:
        """Ends every session, lets nobody in any more, and waits for what is still ending."""
        self.refuse()
        for session in self:
            self._end(session, reason)
        while self._jobs:
            await asyncio.wait(self._jobs)

    async def run(self) -> None:
        """Tells the pages how it goes, until it is cancelled."""
        turn, loop = 0, asyncio.get_running_loop()
        while True:
            due = loop.time() + FRAMES_S
            await asyncio.sleep(FRAMES_S)
            self._world.figures.late(loop.time() - due)
            turn = (turn + 1) % STATS_TICKS
            if turn == 0:
                self.take_turns()
            for session in self:
                session.tell_frames()
                if turn == 0:
                    session.tick()
            if turn == 0 and self._ended_one:
                self._ended_one = False
                await asyncio.to_thread(give_back)

    def take_turns(self) -> None:
        """Ends the sessions of pages whose turn is over, where others wait; these go to the end of the queue."""
        if self._turns is None:
            return
        pages = [session for session in self if session.name is None and not session.closing]
        for session in self._turns.over(pages, len(self._line) - max(0, self._free)):
            self._end(session, "your turn is over, and others wait", self._line.wait(None))

    def summary(self) -> Summary:
        """All of them in a line."""
        fps = [s.fps for s in self if s.fps]
        latencies = [s.latency_ms for s in self if s.latency_ms is not None]
        return Summary(len(self), len(self._line), min(fps, default=0.0), max(latencies, default=None))

    def _check(self, source: SourceName) -> None:
        """RefusalError where the server's own source is asked for, and there is none."""
        if source not in BROUGHT:
            self.pumps.text(source)

    def _full(self, ticket: str | None) -> RefusalError:
        place = self._line.wait(ticket)
        taken = f"all {self.limit} places are taken"
        told = f"{taken}: yours is number {place.place} in the queue" if place else f"{taken}, and the queue is full"
        more = {"queue": place.model_dump() if place else None}
        return RefusalError(503, told, headers={"Retry-After": f"{RETRY_S:.0f}"}, **more)

    def _end(self, session: Session, reason: str, place: Place | None = None) -> None:
        job: Coroutine[Any, Any, None] = self.close(session, reason, place)
        task = asyncio.get_running_loop().create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a session did not end well", exc_info=task.exception())
