"""Ableton Link: one tempo with every other program of the network. Needs `aalink` (GPL-3.0), an optional extra."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from stream.control.hub import Hub
from stream.errors import ControlError

LOOK_S = 0.05
OURS = ("tap", "typed", "midi")  # leads that the others are told of


def load() -> Any:
    """The library; ControlError where it is not there."""
    try:
        return importlib.import_module("aalink")
    except ImportError as error:
        raise ControlError(f"Ableton Link needs a library ({error}): pip install 'livebrush[link]'") from None


class Link:
    """Keeps the hub's beat with Link's. A tempo that is tapped or typed here becomes everybody's."""

    def __init__(self, hub: Hub, library: Any) -> None:
        self.peers = 0
        self._hub, self._library = hub, library
        self._seen = hub.beat.revision

    async def run(self) -> None:
        """Follows the network's tempo while somebody else is there, until it is cancelled."""
        beat = self._hub.beat
        link = self._library.Link(beat.facts(self._hub.clock()).bpm)
        link.enabled = True
        try:
            while True:
                self._look(link)
                await asyncio.sleep(LOOK_S)
        finally:
            link.enabled = False

    def _look(self, link: Any) -> None:
        now, beat = self._hub.clock(), self._hub.beat
        self.peers = link.num_peers
        if beat.lead in OURS and beat.revision != self._seen:
            facts = beat.facts(now)
            link.tempo = facts.bpm
            link.request_beat(facts.position)
        elif self.peers:
            beat.follow(link.tempo, link.beat, now)
        self._seen = beat.revision
