"""What OSC addresses mean. docs/control.md has this table; whatever is wrong is complained of, and never fatal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stream.control import values
from stream.control.follow import SHAPES
from stream.control.hub import Hub
from stream.errors import ControlError

ROOT = "livebrush"
Arguments = Sequence[Any]
Sender = tuple[str, int]  # host and port of a datagram


@dataclass(frozen=True)
class Address:
    """One row of the table: the address below /livebrush/ (or below a session), its arguments, and what it does."""

    path: str
    arguments: str
    about: str


ADDRESSES = (
    Address("<setting>", "value [seconds]", "Changes a setting, at once or over so many seconds."),
    Address("<session>/<setting>", "value [seconds]", "The same in the session of that name."),
    Address("preset", "name or number [seconds]", "Loads a preset; 0 is the first."),
    Address("morph", "seconds, setting, value, ...", "Moves some settings over time."),
    Address("follow", "setting, shape [beats low high phase]", f"Follows the beat: {', '.join(SHAPES)}; off ends it."),
    Address("tap", "", "A beat, now; the last taps make the tempo. 0, as from a button let go, is none."),
    Address("bpm", "number", "The tempo."),
    Address("lora/<name>", "strength", "A LoRA's strength, for everybody."),
    Address("ping", "[anything]", "Answered with /livebrush/pong and the same arguments."),
    Address("subscribe", "", "What changes is told to the sender for a minute; ask again before it is over."),
    Address("unsubscribe", "", "No more."),
)
IN_SESSIONS = ("preset", "morph", "follow")


class Router:
    """Follows OSC messages. `answer` sends one back; `subscribe` and `unsubscribe` are the state's way out."""

    def __init__(
        self,
        hub: Hub,
        answer: Callable[[Sender, str, Arguments], None],
        subscribe: Callable[[Sender], None],
        unsubscribe: Callable[[Sender], None],
    ) -> None:
        self._hub, self._answer = hub, answer
        self._subscribe, self._unsubscribe = subscribe, unsubscribe

    def follow(self, address: str, arguments: Arguments, sender: Sender) -> bool:
        """Does what a message asks for; whether it could."""
        return self._hub.ask(address[:120], lambda: self._route(address, arguments, sender))

    def _route(self, address: str, arguments: Arguments, sender: Sender) -> None:
        root, *parts = address.strip("/").split("/")
        if root != ROOT or not parts:
            raise ControlError(f"{address[:80]!r} is not below /{ROOT}: use e.g. /{ROOT}/strength")
        word, *rest = parts
        match word:
            case "lora" if rest:
                self._hub.turn_lora(address[:120], "/".join(rest), number(arguments, 0, "strength"))
            case "ping" if not rest:
                self._answer(sender, f"/{ROOT}/pong", arguments)
            case "subscribe" if not rest:
                self._subscribe(sender)
            case "unsubscribe" if not rest:
                self._unsubscribe(sender)
            case "tap" if not rest:
                if not arguments or arguments[0]:
                    self._hub.beat.tap(self._hub.clock())
            case "bpm" if not rest:
                self._hub.beat.set(number(arguments, 0, "bpm"), self._hub.clock())
            case _ if not rest:
                self._steer(word, arguments, None, address)
            case _ if len(rest) == 1:
                self._steer(rest[0], arguments, word, address)
            case _:
                raise ControlError(f"{address[:80]!r} has too many parts: use /{ROOT}/[session/]setting")

    def _steer(self, word: str, arguments: Arguments, session: str | None, address: str) -> None:
        """What goes to a session."""
        hub = self._hub
        match word:
            case "preset":
                hub.morph(preset(arguments), seconds(arguments, 1), session=session, address=address)
            case "morph":
                hub.morph(pairs(arguments[1:]), seconds(arguments, 0), session=session, address=address)
            case "follow":
                name = text(arguments, 0, "setting")
                hub.follow(name, follower(arguments[1:]), session=session)
            case _:
                values.kind(word)
                if not arguments:
                    raise ControlError(f"{word} needs a value: send one argument")
                hub.set(word, arguments[0], session=session, seconds=seconds(arguments, 1), address=address)


# ------------------------------------------------------------------------------------------------- arguments


def text(arguments: Arguments, index: int, what: str) -> str:
    """An argument that is a text; ControlError."""
    found = arguments[index] if index < len(arguments) else None
    if not isinstance(found, str):
        raise ControlError(f"argument {index + 1} is {found!r:.80}: expected the {what}, as text")
    return found


def number(arguments: Arguments, index: int, what: str) -> float:
    """An argument that is a number; ControlError."""
    found = arguments[index] if index < len(arguments) else None
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise ControlError(f"argument {index + 1} is {found!r:.80}: expected the {what}, a number")
    return float(found)


def seconds(arguments: Arguments, index: int) -> float:
    """An argument that may be left out: seconds; ControlError."""
    return number(arguments, index, "seconds") if index < len(arguments) else 0.0


def preset(arguments: Arguments) -> str | int:
    """A preset by name, or by number (a float as TouchOSC sends it); ControlError."""
    if arguments and isinstance(arguments[0], int | float):
        found = number(arguments, 0, "preset")
        if not found.is_integer():
            raise ControlError(f"preset {found:g} is none: use its name, or a whole number")
        return int(found)
    return text(arguments, 0, "preset")


def pairs(arguments: Arguments) -> dict[str, Any]:
    """Settings and their values by turns; ControlError."""
    if not arguments or len(arguments) % 2:
        raise ControlError("morph needs seconds, and then settings and values by turns: 4 strength 0.7")
    return {text(arguments, i, "setting"): arguments[i + 1] for i in range(0, len(arguments), 2)}


def follower(arguments: Arguments) -> dict[str, Any] | None:
    """A follower's fields; None where it is to end."""
    if not arguments or arguments[0] in ("off", "", 0, False):
        return None
    names = ("beats", "low", "high", "phase")
    return {"shape": text(arguments, 0, "shape"), **dict(zip(names, arguments[1:], strict=False))}
