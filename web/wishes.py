"""Changes of settings on their way to the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stream.settings import Settings

Tell = Callable[[Settings, str | None], None]  # what holds now, and why it is not what was asked for


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with `changes`; SettingsError where one is wrong. Strength and steps replace a preset's indices."""
    if {"strength", "steps"} & set(changes) and "t_index" not in changes:
        changes = {**changes, "t_index": None}
    return settings.changed(**changes)


class Wishes:
    """One change is under way at a time; what is asked for meanwhile waits, the newest value of each setting.

    Whoever asked is told what came of it. While the worker does not answer (it starts, or starts again) a change that
    is right by itself is taken at once: the worker gets it when it is there.
    """

    def __init__(self, held: Settings, apply: Callable[[Settings], None]) -> None:
        self.held = held
        self.answers = False  # whether the worker holds this session's settings, and so answers
        self._apply = apply
        self._asked: Settings | None = None
        self._askers: list[Tell] = []
        self._waiting: dict[str, Any] = {}
        self._waiters: list[Tell] = []

    @property
    def wanted(self) -> Settings:
        """What was asked of the worker last."""
        return self._asked or self.held

    def ask(self, changes: Mapping[str, Any], tell: Tell) -> None:
        """Asks for other settings. Raises SettingsError where one of them is wrong."""
        changed(self.held, changes)
        self._waiting.update(changes)
        self._waiters.append(tell)
        if self._asked is None:
            self._next()

    def answered(self, settings: Settings, error: str | None) -> bool:
        """The worker's answer. Whether it is news: nobody asked for what holds now, or something went wrong."""
        self.answers = True
        if self._asked is None:
            news = settings != self.held or error is not None
            self.held = settings
            return news
        if error is not None or settings == self._asked:  # else an answer to what was asked before
            self._finish(settings, error)
        return False

    def lost(self) -> None:
        """The worker is gone: it gets everything when it is there again, and nobody waits for that."""
        self.answers = False
        if self._asked is not None:
            self._finish(self._asked, None)

    def _next(self) -> None:
        wanted = changed(self.held, self._waiting)
        self._asked, self._askers = wanted, self._waiters
        self._waiting, self._waiters = {}, []
        known = wanted == self.held
        if not known:
            self._apply(wanted)
        if known or not self.answers:
            self._finish(wanted, None)

    def _finish(self, settings: Settings, error: str | None) -> None:
        self.held, self._asked = settings, None
        askers, self._askers = self._askers, []
        for tell in askers:
            tell(settings, error)
        if self._waiters and self._asked is None:
            self._next()
