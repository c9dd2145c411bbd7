"""What a knob, a fader or a plain text means to a setting. Kinds and limits are read from the settings' own schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from stream.errors import ControlError, SettingsError
from stream.settings import Settings

PROMPTS = ("prompt", "negative_prompt")  # blend, in the grammar of `stream.grammar`
LEAP = ("seed", "width", "height")  # whole numbers without a way between two of them
WORDS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


@cache
def facts() -> dict[str, dict[str, Any]]:
    """The JSON Schema of every setting."""
    return dict(Settings.model_json_schema()["properties"])


def kind(name: str) -> str:
    """number, integer, boolean, choice, text or list; ControlError where there is no such setting."""
    known = facts()
    if name not in known:
        raise ControlError(f"{name[:80]!r} is not a setting: use one of {', '.join(known)}")
    if "enum" in known[name]:
        return "choice"
    said = str(known[name].get("type", "list"))
    return "text" if said == "string" else said


def glides(name: str) -> bool:
    """Whether there is something between two values of a setting."""
    return name in PROMPTS or (kind(name) in ("number", "integer") and name not in LEAP)


def follows(name: str) -> None:
    """ControlError unless a setting may follow the beat."""
    if kind(name) not in ("number", "integer") or name in LEAP:
        able = ", ".join(n for n in facts() if n not in PROMPTS and glides(n))
        raise ControlError(f"{name} cannot follow the beat: use one of {able}")


def whole(name: str, value: float) -> float | int:
    """A number as the setting has it."""
    return round(value) if kind(name) == "integer" else value


def meant(name: str, value: Any) -> Any:
    """A value as controllers send it (numbers for everything, texts for numbers) as the setting has it.

    Numbers stay what they are, so that the settings' own limits speak; ControlError where nothing can be made of it.
    """
    match kind(name):
        case "boolean":
            return _truth(name, value)
        case "choice" if isinstance(value, int | float):
            return _one_of(name, value)
        case "integer" if isinstance(value, float) and math.isfinite(value):
            return round(value)
        case "integer" | "number" if isinstance(value, bool):
            return int(value)
        case "list" if isinstance(value, str):
            return [part.strip() for part in value.split(",")] if value.strip() else None
        case "list" if isinstance(value, int | float) and not isinstance(value, bool):
            return [round(value)] if math.isfinite(value) else value
    return value


def _truth(name: str, value: Any) -> Any:
    if isinstance(value, int | float):
        return value >= 0.5
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in WORDS:
        raise ControlError(f"{name} is {value!r:.80}: expected on or off, or 1 or 0")
    return WORDS[word]


def _one_of(name: str, value: float) -> Any:
    known = facts()[name]["enum"]
    if not (math.isfinite(value) and 0 <= round(value) < len(known)):
        raise ControlError(f"{name} is {value:g}: expected one of {', '.join(known)}, or 0 to {len(known) - 1}")
    return known[round(value)]


def limits(name: str) -> tuple[float, float]:
    """The smallest and the largest value of a setting that a knob can turn: 0 and 1 for switches, positions for
    choices. ControlError for texts and lists."""
    found = facts()[name] if kind(name) else {}
    match kind(name):
        case "boolean":
            return 0, 1
        case "choice":
            return 0, len(found["enum"]) - 1
        case "number" | "integer":
            low = float(found.get("minimum", 0))
            high = float(found.get("maximum", found.get("exclusiveMaximum", 1)))
            return low, high if "exclusiveMaximum" not in found else high - (high - low) / 1000
    raise ControlError(f"{name} cannot be turned with a knob: use a preset, or one of {', '.join(turned())}")


@cache
def turned() -> tuple[str, ...]:
    """The settings that a knob can turn."""
    return tuple(name for name in facts() if kind(name) not in ("text", "list"))


def scaled(name: str, unit: float, low: float | None = None, high: float | None = None) -> Any:
    """The value at `unit` (0..1) of the way from `low` to `high`, which are the setting's own limits where None."""
    least, most = limits(name)
    begin, end = least if low is None else low, most if high is None else high
    value = begin + (end - begin) * min(1.0, max(0.0, unit))
    if step := facts()[name].get("multipleOf"):
        return int(min(most, max(least, round(value / step) * step)))
    return meant(name, value)


def unit(name: str, value: Any, low: float | None = None, high: float | None = None) -> float:
    """Where a value lies between `low` and `high`, 0..1: `scaled` backwards."""
    least, most = limits(name)
    begin, end = least if low is None else low, most if high is None else high
    number = facts()[name]["enum"].index(value) if kind(name) == "choice" else float(value)
    return min(1.0, max(0.0, (number - begin) / (end - begin))) if end != begin else 0.0


def checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes as the settings have them, each right by itself; SettingsError names all that are wrong."""
    given = {str(name): value for name, value in changes.items()}
    known = Settings.checked(**given)
    return {name: getattr(known, name) for name in given}


def told(error: ControlError | SettingsError) -> str:
    """An error in one line."""
    return "; ".join(str(error).splitlines())
