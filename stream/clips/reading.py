"""Timelines from files: TOML or JSON to a `Timeline`, and from any place in it back to the line that says it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stream.clips.explain import At, explain
from stream.clips.lines import NodeLines, TomlLines
from stream.clips.timeline import Timeline
from stream.errors import ClipError
from stream.sources import kind_of

Table = dict[str, Any]
LIMIT = 16 * 2**20  # bytes of a file
FILES = ("input", "image", "upscaler")  # keys that name a file; `source`, `motion` and `model` may name a hub id
SOURCES = ("model", "motion", "source")
SOUNDS = ("keep", "none", "generate")


@dataclass(frozen=True)
class Script:
    """The text that a timeline was read from, and which of its values came from flags instead."""

    name: str = ""
    text: str = ""
    flags: Mapping[At, str] = field(default_factory=dict)

    def where(self, at: At) -> str:
        """`clip.toml:12`, the file's name alone, a flag, or nothing."""
        named = tuple(name for name in at if isinstance(name, str))  # flags say the same of every segment
        for length in range(len(named), 0, -1):
            if named[:length] in self.flags:
                return self.flags[named[:length]]
        line = self._line(at) if at else None
        return f"{self.name}:{line}" if line else self.name

    def told(self, error: ClipError) -> ClipError:
        """The error with its place in front."""
        where = self.where(error.at)
        return ClipError(f"{where}: {error}" if where else str(error), error.at)

    def _line(self, at: At) -> int | None:
        for length in range(len(at), 0, -1):
            line = self._lines.line(at[:length])
            if line is not None:
                return line
        return None

    @cached_property
    def _lines(self) -> TomlLines | NodeLines:
        return NodeLines(self.text) if self.name.lower().endswith(".json") else TomlLines(self.text)


def read(path: Path) -> tuple[Table, str]:
    """The values in a file, and its text. ClipError where it cannot be read. Paths in it start from its folder."""
    text = _text(path)
    return near(_table(path, text), path.parent), text


def checked(table: Table, script: Script) -> Timeline:
    """The timeline that plain values make. ClipError with every value that is wrong."""
    try:
        return Timeline.model_validate_json(json.dumps(table, default=_strange), strict=True)
    except ValidationError as error:
        raise ClipError(explain(error, table, script.where)) from None


def merged(table: Table, over: Mapping[str, Any]) -> Table:
    """`table` with `over` on top, table by table."""
    out = dict(table)
    if "prompt" in over:
        out.pop("keys", None)
    if "keys" in over:
        out.pop("prompt", None)
    for name, value in over.items():
        before = out.get(name)
        inside = isinstance(value, Mapping) and isinstance(before, Mapping)
        out[name] = merged(dict(before), value) if inside and before is not None else value
    return out


# ------------------------------------------------------------------------------------------------- files


def _text(path: Path) -> str:
    if path.suffix.lower() not in (".toml", ".json"):
        raise ClipError(f"timeline {path} is of no known kind: use .toml or .json (--input gives it a video)")
    try:
        if path.stat().st_size > LIMIT:
            raise ClipError(f"timeline {path} has {path.stat().st_size >> 20} MB: that is no timeline")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ClipError(f"timeline {path} cannot be read ({error.strerror}): check the path") from None
    except UnicodeDecodeError:
        raise ClipError(f"timeline {path} is no text in UTF-8: give a .toml or .json file") from None


def _table(path: Path, text: str) -> Table:
    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ClipError(f"timeline {path} is not valid {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(found, dict):
        raise ClipError(f"timeline {path} holds a {type(found).__name__}: expected one object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> Table:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name[:80]!r} is there twice in one object")
    return dict(pairs)


def near(value: Any, folder: Path, name: str = "") -> Any:
    """`value` with paths that start from `folder`: files always, models where they are there."""
    if isinstance(value, dict):
        return {k: v if k == "options" else near(v, folder, k) for k, v in value.items()}
    if isinstance(value, list):
        return [near(x, folder, name) for x in value]
    if not isinstance(value, str) or not value:
        return value
    is_file = (name in FILES and kind_of(value) in ("images", "video")) or (name == "audio" and value not in SOUNDS)
    beside = folder / Path(value).expanduser()
    return str(beside) if is_file or (name in SOURCES and _there(beside, value)) else value


def _there(beside: Path, value: str) -> bool:
    """Whether a name that may be a preset's or a built-in module's is a path: those have a suffix or a folder."""
    return ("/" in value or "." in value) and beside.exists()


def _strange(value: object) -> list[str]:
    """TOML's dates and times: of no kind that a timeline takes."""
    return [str(value)]
