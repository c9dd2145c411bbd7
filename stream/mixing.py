"""The LoRAs of a server: what its worker paints with, and what is asked of it, one change at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stream.config import Lora
from stream.messages import Mixed, Remix

log = logging.getLogger("livebrush")
Loras = tuple[Lora, ...]
Answer = asyncio.Future[str | None]  # why what was asked for does not hold, or None
LOST = "the painter stopped while the LoRAs changed: they are as they were, ask again"


class Mixing:
    """What is asked for meanwhile waits, the newest alone; whoever asked before it hears what came of that.

    `held` outlives the worker: the next one loads with it. A change that a worker dies of is not tried again. `told` is
    called after every change of `held` or `changing`.
    """

    def __init__(self, held: Loras, told: Callable[[], None]) -> None:
        self.held = held
        self._told = told
        self._send: Callable[[Remix], None] | None = None  # to the worker, while it is ready
        self._asked: Loras | None = None  # of the worker
        self._askers: list[Answer] = []
        self._next: Loras | None = None
        self._waiters: list[Answer] = []

    @property
    def changing(self) -> bool:
        """Whether something else than `held` was asked for."""
        return self._asked is not None or self._next is not None

    @property
    def wanted(self) -> Loras:
        """What was asked for last, or what holds."""
        waiting = self._asked if self._next is None else self._next
        return self.held if waiting is None else waiting

    def ask(self, loras: Loras) -> Answer:
        """Asks for other LoRAs; in every state of the worker, which gets to know when it is ready."""
        answer: Answer = asyncio.get_running_loop().create_future()
        self._next = loras
        self._waiters.append(answer)
        self._go_on()
        self._told()
        return answer

    def ready(self, send: Callable[[Remix], None]) -> None:
        """A worker has loaded with `held`."""
        self._send = send
        self._go_on()

    def answered(self, message: Mixed) -> None:
        """The worker's answer."""
        if self._asked is None:
            return
        if message.error is None:
            self.held = self._asked
        else:
            log.warning("the LoRAs stay as they were: %s", message.error)
        self._finish(message.error)

    def lost(self) -> None:
        """The worker is gone."""
        self._send = None
        if self._asked is not None:
            self._finish(LOST)

    def _finish(self, error: str | None) -> None:
        self._asked, askers, self._askers = None, self._askers, []
        for answer in askers:
            if not answer.done():
                answer.set_result(error)
        self._go_on()
        self._told()

    def _go_on(self) -> None:
        if self._next is not None and self._asked is None and self._send is not None:
            self._asked, self._next = self._next, None
            self._askers, self._waiters = self._waiters, []
            self._send(Remix(self._asked))
