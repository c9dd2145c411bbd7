"""The queue before a full server: who waits, in order, by tickets that lapse when nobody asks with them any more."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from web.messages import Place

RETRY_S = 3.0  # how often a page that waits should ask
LAPSE_S = 12.0  # a ticket nobody asked with for so long is given up
LENGTH = 100  # tickets at most


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
