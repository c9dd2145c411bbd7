"""The sources of the server's machine: each is opened once, for all the sessions that take it, and closed when nobody
has wanted it for a while.

    end = pumps.subscribe("rtsp://camera.local/live", session.shape, session.receive, told)
    end()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import TypeVar

from stream.errors import LivebrushError, SourceError
from stream.frame import Frame
from stream.sources import LISTED, check, listed
from web.access import Role, refusal
from web.bodies import SourceFacts, SourceList, SourceListed
from web.errors import RefusalError
from web.fields import ONCE
from web.pump import Connect, Pump, Shape, connect, title

LINGER_S = 8.0  # that a source stays open for whoever may come back
JOIN_S = 1.0  # for all threads together, when the server stops
ASK_S = 6.0  # for a system to say what sources it has
BROUGHT = ("page", "whip")  # pictures that come to the server by themselves
NO_SOURCE = "the offer sends no video, and the server has no source: send a video track, or start it with --source"
T = TypeVar("T")


class Pumps:
    """Every source that somebody takes. All on the event loop; the sources themselves are in threads."""

    def __init__(self, own: str | None = None, connect: Connect = connect, linger_s: float = LINGER_S) -> None:
        """`own` is the source that the server was started with, which sessions call `server`."""
        self.own = own
        self._connect, self._linger_s = connect, linger_s
        self._by_text: dict[str, Pump] = {}
        self._closing: list[Pump] = []

    def __len__(self) -> int:
        return len(self._by_text)

    def start(self) -> None:
        """The server's own source is opened, so that it is known whether it is there."""
        if self.own is not None:
            self._pump(self.own)
            self._linger(self.own)

    def subscribe(
        self, source: str, shape: Callable[[], Shape], receive: Callable[[Frame], None],
        told: Callable[[SourceFacts], None],
    ) -> Callable[[], None]:  # fmt: skip
        """As `Pump.subscribe`, of the source of that name. Returns at once, whatever the source does."""
        text = self.text(source)
        end = self._pump(text).subscribe(shape, receive, told)

        def leave() -> None:
            end()
            self._linger(text)

        return leave

    def facts(self, source: str) -> SourceFacts | None:
        """How a source is; None where nobody takes it."""
        pump = self._by_text.get(self.text(source)) if source not in BROUGHT else None
        return pump.facts if pump is not None else None

    def text(self, source: str) -> str:
        """What to open for a session's source; RefusalError where it is the server's own, and there is none."""
        if source != "server":
            return source
        if self.own is None:
            raise RefusalError(422, NO_SOURCE)
        return self.own

    async def close(self) -> None:
        """Ends every thread, but waits for none that hangs."""
        pumps = list(self._by_text.values())
        self._by_text.clear()
        for pump in pumps:
            pump.close()
        end = time.monotonic() + JOIN_S

        def join() -> None:
            for pump in (*pumps, *self._closing):
                pump.join(max(0.0, end - time.monotonic()))

        await asyncio.to_thread(join)

    def _pump(self, text: str) -> Pump:
        if text not in self._by_text:
            self._by_text[text] = Pump(text, self._connect)
            self._by_text[text].start()
        return self._by_text[text]

    def _linger(self, text: str) -> None:
        """Closes a source after a while, unless somebody takes it then."""
        pump = self._by_text.get(text)
        if pump is not None and not pump.takers:
            asyncio.get_running_loop().call_later(self._linger_s, self._let_go, text, pump, pump.served)

    def _let_go(self, text: str, pump: Pump, served: int) -> None:
        if self._by_text.get(text) is pump and not pump.takers and pump.served == served:
            del self._by_text[text]
            pump.close()
            self._closing = [*(p for p in self._closing if p.alive), pump]


# ------------------------------------------------------------------------------------------------- asked for


def allow(role: Role, source: str | None) -> None:
    """RefusalError unless that role may take that source: what this machine sees is for admins alone. An address is
    asked by this machine, from within its network."""
    if source not in (None, "server", *BROUGHT) and role < Role.ADMIN:
        raise refusal(role, Role.ADMIN)


async def wanted(source: str, once: bool = False) -> str:
    """What a session is to take, checked as far as it can be without opening it. RefusalError where it is wrong."""
    if source in ("server", *BROUGHT):
        return source
    try:
        await aside(partial(check, source.removeprefix(ONCE)))
    except (SourceError, TimeoutError) as error:
        told = str(error) or f"{title(source)} cannot be looked at within {ASK_S:g} s: is its disk well?"
        raise RefusalError(422, told) from None
    return f"{ONCE}{source}" if once and not source.startswith(ONCE) else source


async def there(pumps: Pumps) -> SourceList:
    """What is there now. A kind that does not answer holds up no other."""
    answers = await asyncio.gather(*(aside(partial(listed, kind)) for kind in LISTED), return_exceptions=True)
    found = [SourceListed(name="server", title=title(pumps.own), kind="server")] if pumps.own is not None else []
    missing = []
    for kind, answer in zip(LISTED, answers, strict=True):
        if isinstance(answer, list):
            found += [SourceListed(name=item.name, title=item.title, kind=item.kind) for item in answer]
        elif isinstance(answer, LivebrushError | TimeoutError):
            missing.append(str(answer) or f"{kind}: nothing is known after {ASK_S:g} s")
        else:
            raise answer
    return SourceList(sources=found, missing=missing)


async def aside(job: Callable[[], T]) -> T:
    """Runs something that may hang in a thread of its own, for whose end nobody waits longer than `ASK_S`; then it is
    a TimeoutError."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def give(result: T | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result, error = job(), None
        except Exception as broke:  # noqa: BLE001 (whoever waits gets it)
            result, error = None, broke
        if not loop.is_closed():
            loop.call_soon_threadsafe(give, result, error)

    Thread(target=run, name="asked", daemon=True).start()
    return await asyncio.wait_for(answer, ASK_S)
