"""The hub of live control: the desks of all sessions, one beat, the presets. OSC, MIDI and the web come here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stream.control.beat import Beat
from stream.control.complaints import Complaints
from stream.control.desk import TICK_S, Desk, Steered
from stream.control.follow import Follow
from stream.control.presets import Presets
from stream.errors import ControlError, LivebrushError

STANDING = "live"  # the session that is meant where none is named
Which = str | Desk | None  # a session: by its name, itself, or the one that is meant


class Hub:
    """Owns the desks and the beat. `run` moves what moves by itself; hands go through at once."""

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`folder`: of presets and mappings; None is the user's."""
        self.beat, self.presets, self.complain = Beat(), Presets(folder), Complaints(clock)
        self.turn_lora: Callable[[str, str, float], None] = self._no_loras
        self.clock = clock
        self._desks: list[Desk] = []
        self._woken = asyncio.Event()

    def __iter__(self) -> Iterator[Desk]:
        return iter(list(self._desks))

    # ------------------------------------------------------------------------------------------- sessions

    def open(self, steered: Steered) -> Desk:
        """The desk of a session that begins."""
        desk = Desk(steered, self.beat, self.complain, self._woken.set)
        self._desks.append(desk)
        return desk

    def close(self, desk: Desk) -> None:
        """The session ends."""
        self._desks = [other for other in self._desks if other is not desk]

    @property
    def target(self) -> Desk | None:
        """The session that is meant where none is named: `live`, else the one touched last, else the newest."""
        named = (desk for desk in self._desks if desk.steered.name == STANDING)
        return next(named, None) or max(reversed(self._desks), key=lambda desk: desk.touched, default=None)

    def find(self, session: Which) -> Desk:
        """The desk of the session of that name, or of the one that is meant; ControlError where there is none."""
        if isinstance(session, Desk):
            return session
        found = self.target if session is None else self._named(session)
        if found is None:
            names = [desk.steered.name for desk in self._desks if desk.steered.name]
            there = f"use one of {', '.join(names)}, or none" if names else "open the page, or start with --output"
            which = f"session {session[:40]!r} is not" if session else "no session is"
            raise ControlError(f"{which} here: {there}")
        return found

    def _named(self, session: str) -> Desk | None:
        return next((desk for desk in self._desks if desk.steered.name == session), None)

    # ------------------------------------------------------------------------------------------- what is asked

    def ask(self, address: str, what: Callable[[], None]) -> bool:
        """Does what a controller asks for; whether it could. What is wrong is complained of."""
        try:
            what()
        except LivebrushError as error:
            self.complain(address, "; ".join(str(error).splitlines()))
            return False
        return True

    def set(self, name: str, value: Any, *, session: Which = None, seconds: float = 0.0, address: str = "") -> None:
        """A hand sets a value, or begins a way to it over `seconds`. ControlError, SettingsError."""
        desk, now = self.find(session), self.clock()
        if seconds:
            desk.morph({name: value}, seconds, now, address or name)
        else:
            desk.set(name, value, now, address)

    def morph(self, to: str | int | Mapping[str, Any], seconds: float, *, session: Which = None,
              address: str = "morph") -> None:  # fmt: skip
        """To a preset, by its name or number, or to settings. ControlError, SettingsError."""
        target = to if isinstance(to, Mapping) else self.presets.find(to).settings
        self.find(session).morph(target, seconds, self.clock(), address)

    def follow(self, name: str, given: Mapping[str, Any] | None, *, session: Which = None) -> None:
        """Lets a setting follow the beat; with None no longer. ControlError, SettingsError."""
        follow = None if given is None else Follow.checked(name, dict(given))
        self.find(session).follow(name, follow, self.clock())

    def _no_loras(self, address: str, name: str, _strength: float) -> None:
        self.complain(address, f"lora {name[:80]!r} is unknown here: start the server with --lora FILE:0")

    # ------------------------------------------------------------------------------------------- time

    async def run(self) -> None:
        """Ticks while something moves, until it is cancelled."""
        while True:
            if not any(desk.busy for desk in self._desks):
                self._woken.clear()
                await self._woken.wait()
            now = self.clock()
            for desk in self:
                if desk.busy:
                    desk.tick(now)
            await asyncio.sleep(TICK_S)
