"""Errors of controllers: each address is heard once a second, however often it is wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("livebrush")
AGAIN_S = 1.0
ADDRESSES = 256  # that are remembered

Listener = Callable[[str, str], None]  # the address, and what is wrong


class Complaints:
    """Who hears what went wrong. Owned by the hub."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.listeners: list[Listener] = []
        self._clock = clock
        self._said: dict[str, float] = {}  # by address: when

    def __call__(self, address: str, text: str) -> None:
        """Tells everybody, unless the same address was told of within the last second."""
        now = self._clock()
        if now - self._said.get(address, -AGAIN_S) < AGAIN_S:
            return
        self._said.pop(address, None)
        self._said[address] = now
        while len(self._said) > ADDRESSES:
            del self._said[next(iter(self._said))]
        log.warning("%s: %s", address, text)
        for listener in self.listeners:
            listener(address, text)
