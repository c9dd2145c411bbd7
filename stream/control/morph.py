"""Ways from one look to another: numbers glide, prompts blend into each other, everything else changes half way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stream import grammar
from stream.control import values
from stream.errors import ControlError, SettingsError
from stream.settings import PROMPT_LIMIT, Settings

LONGEST_S = 3600.0
NOISE = frozenset(("strength", "steps", "t_index"))  # indices replace strength and steps, and are replaced by them


def eased(part: float) -> float:
    """0..1 for 0..1, slow at both ends: Hermite's 3t²-2t³."""
    part = min(1.0, max(0.0, part))
    return part * part * (3 - 2 * part)


def lasting(seconds: float) -> float:
    """How long a morph takes; ControlError where that is no time."""
    if not 0 <= seconds <= LONGEST_S:
        raise ControlError(f"seconds {seconds:g} is not between 0 and {LONGEST_S:g}: use e.g. 4")
    return seconds


@dataclass(frozen=True)
class Morph:
    """A way from `begin` to `target` (settings by name, right by themselves) in `seconds` from `at` on."""

    begin: Settings
    target: Mapping[str, Any]
    at: float
    seconds: float

    def over(self, now: float) -> bool:
        """Whether it has arrived."""
        return now >= self.at + self.seconds

    def without(self, names: Collection[str]) -> Morph | None:
        """The same without some of its settings; None where nothing is left."""
        left = {name: value for name, value in self.target.items() if name not in names}
        return replace(self, target=left) if left else None

    def values(self, now: float) -> dict[str, Any]:
        """Every setting of the target as it is at `now`; in the end exactly the target."""
        if self.over(now):
            return dict(self.target)
        part = eased((now - self.at) / self.seconds)
        late = part >= 0.5
        leap = NOISE if self.begin.t_index is not None or self.target.get("t_index") is not None else frozenset()
        found = {}
        for name, end in self.target.items():
            if name in leap or not values.glides(name):
                if late:
                    found[name] = end
            else:
                found[name] = between(name, getattr(self.begin, name), end, part)
        return found


def between(name: str, begin: Any, end: Any, part: float) -> Any:
    """The value of a setting that glides, at `part` of its way."""
    if begin == end:
        return end
    if name not in values.PROMPTS:
        return values.whole(name, begin + (end - begin) * part)
    try:
        mixed = grammar.blend(begin, end, part)
    except SettingsError:  # no weight at all: whoever paints says so
        mixed = None
    if mixed is None or len(mixed) > PROMPT_LIMIT:
        return end if part >= 0.5 else begin
    return mixed
