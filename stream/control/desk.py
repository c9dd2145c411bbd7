"""The mixing desk of one session: hands, morphs and followers on their way to its settings, one change a tick.

desk.set("strength", 0.7, now)    # at once where nothing went out within the tick, else the newest with the next
desk.morph({"prompt": "neon"}, 4, now);  desk.follow("delta", follow);  desk.tick(now)

The hand always wins: what it changes leaves its morph and its follower. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from stream.control import values
from stream.control.beat import Beat
from stream.control.follow import Follow
from stream.control.morph import NOISE, Morph, lasting
from stream.errors import SettingsError
from stream.settings import Settings

TICK_S = 1 / 60
Tell = Callable[[Settings, str | None], None]
Complain = Callable[[str, str], None]


class Steered(Protocol):
    """What a desk steers: a session."""

    @property
    def name(self) -> str | None: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def state(self) -> str: ...
    @property
    def fps(self) -> float: ...
    def steer(self, changes: Mapping[str, Any], tell: Tell, *, quietly: bool = False) -> None:
        """Asks for other settings; `quietly`: pages need not be told of each. SettingsError where they are wrong."""


class Desk:
    """Made by `Hub.open`. Holds the newest value of each setting that was asked for and has not gone out yet."""

    def __init__(self, steered: Steered, beat: Beat, complain: Complain, wake: Callable[[], None]) -> None:
        self.steered = steered
        self.touched = -1.0  # when a hand was here last
        self.revision = 0  # grows when somebody begins or ends to follow
        self.coalesced = 0  # values that a newer one overtook
        self._beat, self._complain, self._wake = beat, complain, wake
        self._follows: dict[str, Follow] = {}
        self._morphs: list[Morph] = []
        self._asked: dict[str, tuple[Any, str]] = {}  # by setting: the value, and the address that asked
        self._under_way: dict[str, Any] = {}  # sent, and not answered yet
        self._moved: dict[str, Any] = {}  # what moved by itself, as it went out last
        self._sent_at = -TICK_S

    @property
    def follows(self) -> Mapping[str, Follow]:
        """Who follows the beat, by setting."""
        return self._follows

    @property
    def busy(self) -> bool:
        """Whether ticks have something to do."""
        return bool(self._asked or self._morphs or self._follows)

    def value(self, name: str) -> Any:
        """What a setting is, or is about to be."""
        if name in self._asked:
            return self._asked[name][0]
        return self._under_way.get(name, getattr(self.steered.settings, name))

    # ------------------------------------------------------------------------------------------- hands

    def set(self, name: str, value: Any, now: float, address: str = "") -> None:
        """A hand wants a value as its controller sends it. ControlError where nothing can be made of it; a value that
        is out of its limits is complained of when it goes out."""
        made = values.meant(name, value)
        self.coalesced += name in self._asked
        self.by_hand((name,), now)
        self._asked[name] = made, address or name
        if now - self._sent_at >= TICK_S:
            self.tick(now)
        else:
            self._wake()

    def by_hand(self, names: Collection[str], now: float) -> None:
        """A hand changes these, here or elsewhere: nothing else moves them any more, what was asked before is old."""
        self.touched = now
        self._let_go(entangled(names))
        for name in names:
            if self._follows.pop(name, None) is not None:
                self.revision += 1
            self._asked.pop(name, None)

    # ------------------------------------------------------------------------------------------- by themselves

    def morph(self, target: Mapping[str, Any], seconds: float, now: float, address: str = "morph") -> None:
        """To other settings over time, but for those that follow the beat. ControlError, SettingsError."""
        lasting(seconds)
        asked = {name: values.meant(name, value) for name, value in target.items()}
        wanted = {name: value for name, value in values.checked(asked).items() if name not in self._follows}
        self.touched = now
        self._let_go(entangled(wanted))
        for name in wanted:
            self._asked.pop(name, None)
        if not seconds:
            self._asked |= {name: (value, address) for name, value in wanted.items()}
        elif wanted:
            self._morphs.append(Morph(self.steered.settings, wanted, now, seconds))
        if now - self._sent_at >= TICK_S:
            self.tick(now)
        self._wake()

    def follow(self, name: str, follow: Follow | None, now: float) -> None:
        """Lets a setting follow the beat, or (None) no longer."""
        self.touched = now
        self._let_go({name})
        self._asked.pop(name, None)
        if follow is not None:
            self._follows[name] = follow
        else:
            self._follows.pop(name, None)
        self.revision += 1
        self._wake()

    def tick(self, now: float) -> None:
        """Sends everything that is new in one change."""
        asked, self._asked = self._asked, {}
        moving = self._moving(now)
        news = {name: value for name, value in moving.items() if self._moved.get(name) != value}
        self._moved = moving
        changes = news | {name: value for name, (value, _) in asked.items()}
        if changes:
            self._sent_at = now
            self._send(changes, {name: address for name, (_, address) in asked.items()})

    def _moving(self, now: float) -> dict[str, Any]:
        """The settings that move by themselves, as they are now; morphs that have arrived are over."""
        found: dict[str, Any] = {}
        for morph in self._morphs:
            found |= morph.values(now)
        self._morphs = [morph for morph in self._morphs if not morph.over(now)]
        position = self._beat.position(now)
        return found | {name: values.whole(name, f.value(position)) for name, f in self._follows.items()}

    def _let_go(self, names: Collection[str]) -> None:
        self._morphs = [left for morph in self._morphs if (left := morph.without(names)) is not None]

    # ------------------------------------------------------------------------------------------- out

    def _send(self, changes: Mapping[str, Any], addresses: Mapping[str, str]) -> None:
        """All at once; where one of them is wrong, each alone, so that the others hold."""
        address = next(iter(addresses.values()), next(iter(changes)))

        def told(_settings: Settings, error: str | None) -> None:
            self._answered(changes)
            if error is not None:
                self._complain(address, error)

        self._under_way |= changes
        try:
            self.steered.steer(changes, told, quietly=not addresses)
        except SettingsError as error:
            self._answered(changes)
            if len(changes) == 1:
                self._complain(address, values.told(error))
                return
            for name, value in changes.items():
                self._send({name: value}, {name: addresses[name]} if name in addresses else {})

    def _answered(self, changes: Mapping[str, Any]) -> None:
        """What was sent holds, or does not, unless something newer is under way."""
        self._under_way = {n: v for n, v in self._under_way.items() if n not in changes or changes[n] != v}


def entangled(names: Collection[str]) -> set[str]:
    """These settings and those that a change of them replaces: indices strength and steps, and the other way."""
    found = set(names)
    if "t_index" in found:
        return found | NOISE
    return found | {"t_index"} if found & NOISE else found
