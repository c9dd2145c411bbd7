"""What the terminal shows while the server runs: a line that lives, or lines now and then where there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.status import Status

from stream.supervisor import Supervisor
from web.sessions import Sessions, Summary

EVERY_S = 0.5
WORDS = {
    "starting": "loading the model",
    "ready": "ready",
    "restarting": "the worker starts again",
    "failed": "the worker failed",
    "stopped": "stopping",
}


def worker(supervisor: Supervisor) -> str:
    """How the worker is, in a few words."""
    facts, word = supervisor.facts, WORDS[supervisor.state]
    if supervisor.state == "ready":
        return f"{facts.model} on {facts.engine.partition(' (')[0]}" if facts.engine else facts.model
    return supervisor.notice or f"{word} {facts.model}"


def line(supervisor: Supervisor, summary: Summary) -> str:
    """`builtin on openvino on cpu in bf16 · 2 sessions · 29.8 fps · 62 ms`."""
    parts = [worker(supervisor), counted(summary.sessions, "session")]
    if summary.waiting:
        parts.append(f"{summary.waiting} waiting")
    if summary.fps:
        parts.append(f"{summary.fps:.1f} fps")
    if summary.latency_ms is not None:
        parts.append(f"{summary.latency_ms:.0f} ms glass to glass")
    if supervisor.restarts:
        parts.append(counted(supervisor.restarts, "restart"))
    return " · ".join(parts)


def counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


class StatusLine:
    """Keeps the line up to date. The terminal is written to in a thread of rich's, never on the event loop."""

    def __init__(self, console: Console, supervisor: Supervisor, sessions: Sessions) -> None:
        self._console, self._supervisor, self._sessions = console, supervisor, sessions
        self._said: tuple[str, int] | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        with self._shown() as shown:
            while True:
                if shown is not None:
                    shown.update(plain(line(self._supervisor, self._sessions.summary())))
                else:
                    await self._say()
                await asyncio.sleep(EVERY_S)

    async def _say(self) -> None:
        """A line, where the worker or the number of sessions changed."""
        summary = self._sessions.summary()
        now = worker(self._supervisor), summary.sessions
        if now != self._said:
            self._said = now
            text = plain(line(self._supervisor, summary))
            await asyncio.to_thread(self._console.print, text, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Status | None]:
        if not self._console.is_terminal:
            yield None
            return
        with self._console.status("") as status:
            yield status


def plain(text: str) -> str:
    """Text as rich shows it letter by letter."""
    return text.replace("[", r"\[")
