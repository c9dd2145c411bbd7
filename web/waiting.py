"""The queue before a full server: who waits, in order, by tickets that lapse when nobody asks with them any more.

Where sessions have a limited time, those that are there longest make room for those who wait, and are told before.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from web.bodies import Place

RETRY_S = 3.0  # how often a page that waits should ask
LAPSE_S = 12.0  # a ticket nobody asked with for so long is given up
LENGTH = 100  # tickets at most
NOTICE_S = 30.0  # before the end of a turn it is told


class Line:
    """Tickets in the order in which they were given."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}  # by ticket, in order: when somebody asked with it last

    def __len__(self) -> int:
        self._lapse()
        return len(self._seen)

    def passes(self, ticket: str | None, free: int) -> bool:
        """Whether whoever asks is among the next `free`."""
        self._lapse()
        return self._ahead(ticket) < free

    def leave(self, ticket: str | None) -> None:
        """The ticket is used."""
        self._seen.pop(ticket or "", None)

    def wait(self, ticket: str | None) -> Place | None:
        """The place of a ticket, or of a new one where it is unknown; None where the queue is full as well."""
        self._lapse()
        if ticket is None or ticket not in self._seen:
            if len(self._seen) >= LENGTH:
                return None
            ticket = secrets.token_urlsafe(12)
        self._seen[ticket] = self._clock()
        return Place(ticket=ticket, place=self._ahead(ticket) + 1, retry_after_s=RETRY_S)

    def _ahead(self, ticket: str | None) -> int:
        return list(self._seen).index(ticket) if ticket in self._seen else len(self._seen)

    def _lapse(self) -> None:
        now = self._clock()
        self._seen = {ticket: seen for ticket, seen in self._seen.items() if now - seen < LAPSE_S}


class Taking(Protocol):
    """A session that has a place."""

    since: float
    ends_at: float | None  # by the clock of `Turns`; None while nobody wants its place

    def notice(self, text: str) -> None: ...


Taker = TypeVar("Taker", bound=Taking)


class Turns:
    """How long somebody may stay while others wait: `limit_s`, and from when others come never less than NOTICE_S."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s, self._clock = limit_s, clock

    def over(self, taking: Iterable[Taker], wanted: int) -> Iterator[Taker]:
        """Those whose turn is over. `wanted` places are: those who came first have an end, and are told before it."""
        now = self._clock()
        for number, one in enumerate(sorted(taking, key=lambda one: one.since)):
            if number >= wanted:
                self._stays(one)
            elif one.ends_at is None:
                one.ends_at = max(one.since + self._limit_s, now + NOTICE_S)
                self._warn(one, now)
            elif now >= one.ends_at:
                yield one
            else:
                self._warn(one, now)

    def _stays(self, one: Taking) -> None:
        if one.ends_at is not None:
            one.ends_at = None
            one.notice("")

    def _warn(self, one: Taking, now: float) -> None:
        assert one.ends_at is not None
        if (left_s := one.ends_at - now) <= NOTICE_S:
            one.notice(f"others wait: your turn ends in {left_s:.0f} s")
