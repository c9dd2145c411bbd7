"""Who brings a session's picture by WHIP, and how long the session waits for one who left."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from web.errors import RefusalError

log = logging.getLogger("livebrush")
LINGER_S = 60.0  # that a session made by its publisher waits for it to come back


class Ends(Protocol):
    """What can be closed: a link."""

    async def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Publisher:
    """`id` is its secret."""

    id: str
    link: Any


class Publishing:
    """All on the event loop. `changed` is called when somebody comes or leaves, `end` with a reason when nobody came
    back. Without `name` nobody may come."""

    def __init__(self, name: str | None, changed: Callable[[], None], end: Callable[[str], None]) -> None:
        self.by: Publisher | None = None
        self.passing = False  # the session was made by its publisher, and goes when that one stays away
        self._name, self._changed, self._end = name, changed, end
        self._taken = self._closed = False  # taken: somebody publishes, or is about to
        self._timer: asyncio.TimerHandle | None = None

    @property
    def remark(self) -> str:
        """That a publisher is missing, where one is."""
        if self.by is not None:
            return ""
        end = f"; the session ends after {LINGER_S:.0f} s without" if self._timer is not None else ""
        return f"nobody publishes to /whip/{self._name}{end}"

    @property
    def idle(self) -> bool:
        """Whether the session was made for a publisher who did not come."""
        return self.passing and not self._taken and self._timer is None

    async def begin(
        self, connect: Callable[[Callable[[str], None]], Awaitable[tuple[Ends, str]]]
    ) -> tuple[Publisher, str]:
        """`connect` connects whoever wants to publish, and tells by what it is given that they left: the publisher, and
        the answer's SDP. RefusalError (409) where somebody publishes already."""
        if self._taken:
            told = f"somebody publishes to {self._name!r} already: use another name, or wait"
            raise RefusalError(409, told, headers={"Retry-After": "10"})
        self._taken = True
        try:
            link, answer = await connect(self._left)
        except BaseException:  # also a cancelled request
            self._taken = False
            raise
        self._stop_waiting()
        self.by = Publisher(secrets.token_urlsafe(16), link)
        self._changed()
        return self.by, answer

    def keep(self) -> None:
        """The session no longer goes with its publisher."""
        self.passing = False
        self._stop_waiting()
        self._changed()

    def close(self) -> list[Ends]:
        """The session ends: what is still to be closed."""
        self._closed = True
        self._stop_waiting()
        return [] if self.by is None else [self.by.link]

    def _left(self, reason: str) -> None:
        self.by, self._taken = None, False
        if self._closed:
            return
        log.info("the publisher of %s left: %s", self._name, reason)
        if self.passing:
            told = f"nobody published for {LINGER_S:.0f} s"
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._end, told)
        self._changed()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
