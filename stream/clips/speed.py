"""How long one call of a motion network took here the last time, for the plan of the next clip."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from engines import Choice
from stream.clips.recipe import Recipe

FILE = "clips.json"  # in the cache folder: seconds a call, by what was run


def name_of(made: Recipe, choice: Choice) -> str:
    """What the time of a call depends on."""
    window = min(made.timeline.window, made.timeline.frames)
    clip = f"{made.spec.name} {made.width}x{made.height} {1 + made.guided}x{window}"
    return f"{clip} {choice.backend} {choice.device} {choice.precision}"


def known(cache: Path) -> dict[str, float]:
    """Seconds a call, as far as measured."""
    try:
        return {str(name): float(seconds) for name, seconds in json.loads((cache / FILE).read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember(cache: Path, name: str, seconds: float) -> None:
    """A cache folder that cannot be written has its own finding."""
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        new = cache / f"{FILE}.new"
        new.write_text(json.dumps(known(cache) | {name: round(seconds, 4)}))
        new.replace(cache / FILE)
