"""The engines that are kept: what there is, whether it is whole, and what can go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import preflight
from engines.build import GRAPHS, SHELF
from engines.cache import DAMAGED, Cache, Entry
from engines.errors import EngineError

DAY_S = 86400
HEAD = ("engine", "model", "network", "back end", "cards", "precision", "rows", "sides", "size", "built in", "made")


def kept(cache: Path) -> list[Entry]:
    """Every engine, newest use first."""
    return [e for e in Cache(cache / SHELF).entries() if "backend" in e.facts]


def row(entry: Entry) -> tuple[str, ...]:
    """What `HEAD` says of an engine."""
    facts, how = entry.facts, entry.made
    cards = ", ".join(f"{c // 10}.{c % 10}" for c in facts["compute"])
    precision = facts["precision"] + (" + fp8" if facts["fp8"] else "") + (", refit" if facts["refit"] else "")
    return (
        entry.place.name[:10], str(how.get("label") or "?"), facts["network"], f"{facts['backend']} {facts['version']}",
        cards, precision, between(facts["profiles"].get("rows")), sides(facts["profiles"]),
        f"{entry.size / 1e6:.1f} MB", f"{how.get('build_s', 0):.1f} s", str(how.get("at", "?")),
    )  # fmt: skip


def sides(profiles: Mapping[str, Any]) -> str:
    """Least and most pixels a side, or latent cells."""
    for axes, unit in ((("H", "W"), ""), (("h", "w"), " cells")):
        if spans := [profiles[a] for a in axes if a in profiles]:
            return f"{min(s[0] for s in spans)}-{max(s[-1] for s in spans)}{unit}"
    return "any"


def between(span: list[int] | None) -> str:
    return "any" if not span else f"{span[0]}-{span[-1]}"


@dataclass(frozen=True)
class Unfit:
    """Something that no model here will use, and why."""

    place: Path
    why: str
    size: int
    damaged: bool


def unfit(
    cache: Path, days: float | None = None, *, everything: bool = False, now: float | None = None
) -> Iterator[Unfit]:
    """Damaged engines and graphs, engines of another version of their back end, and those unused for `days`."""
    folders = [Cache(cache / SHELF), *map(Cache, (cache / GRAPHS, cache / "openvino"))]
    seen = set()
    for kept_there in folders:
        for place, why in kept_there.damaged():
            seen.add(place)
            yield Unfit(place, why, size_of(place), True)
    for entry in kept(cache):
        idle = None if entry.place in seen else useless(entry, days, everything, now)
        if idle is not None:
            yield Unfit(entry.place, idle, entry.size, False)


def useless(entry: Entry, days: float | None, everything: bool, now: float | None) -> str | None:
    """Why a whole engine can go, or None."""
    if everything:
        return "all were asked for"
    backend, version = entry.facts["backend"], entry.facts["version"]
    installed = installed_version(backend)
    if installed is not None and installed != version:
        return f"it is of {backend} {version}, and {installed} is installed"
    idle = ((time.time() if now is None else now) - entry.used) / DAY_S
    return f"it was last used {idle:.0f} days ago" if days is not None and idle > days else None


def installed_version(backend: str) -> str | None:
    try:
        preflight.check_library(backend)
        return str(preflight.library_version(backend))
    except (EngineError, ImportError):
        return None


def remove(cache: Path, what: list[Unfit]) -> int:
    """Removes these and what killed builds left; the bytes that are free now. Waits for a build that is running."""
    freed = 0
    shelf = Cache(cache / SHELF)
    left = sum(map(size_of, shelf.leftovers()))
    if shelf.folder.is_dir():
        with shelf.making():
            freed += left
    for item in what:
        shutil.rmtree(item.place, ignore_errors=True)
        freed += item.size if not item.place.exists() else 0
    return freed


def size_of(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


__all__ = ["DAMAGED", "HEAD", "Unfit", "kept", "remove", "row", "unfit"]
