"""A back end of mido with ports by hand, which come and go: `MIDO_BACKEND=midi_ports`, or `Backend("midi_ports")`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mido.ports import BaseInput

there: list[str] = []  # the names of the ports
taken: set[str] = set()  # those that another program has
opened: dict[str, Input] = {}
broken: list[Exception] = []  # what a look for ports raises


def get_devices(**_options: Any) -> list[dict[str, Any]]:
    if broken:
        raise broken[0]
    return [{"name": name, "is_input": True, "is_output": False} for name in there]


class Input(BaseInput):  # type: ignore[misc]
    """A port; `play` is a hand on the device, in whatever thread it is called."""

    def _open(self, callback: Callable[[Any], None] | None = None, **_options: Any) -> None:
        if self.name in taken:
            raise OSError(f"{self.name} is taken")
        self.callback = callback
        opened[self.name] = self

    def _close(self) -> None:
        opened.pop(self.name, None)

    def _receive(self, block: bool = True) -> None:
        """Nothing waits here: messages go to the callback."""

    def play(self, *messages: Any) -> None:
        for message in messages:
            assert self.callback is not None
            self.callback(message)


def forget() -> None:
    """No ports, as at the beginning."""
    for kept in (there, taken, opened, broken):
        kept.clear()
