"""What is wrong with a timeline's values, in words; and all the keys that it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from stream.clips.timeline import Timeline

At = tuple[str | int, ...]


def explain(error: ValidationError, table: Any, where: Callable[[At], str]) -> str:
    """One line for each wrong value: its place, its name, what was got and what is expected."""
    lines = []
    for item in error.errors():
        at = item["loc"]
        place = where(at)
        lines.append((f"{place}: " if place else "") + _wrong(at, item, _value(table, at)))
    return "\n".join(lines)


def _wrong(at: At, item: Any, got: Any) -> str:
    name, kind, message = named(at), item["type"], item["msg"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(at)
    if kind == "missing":
        return f"{named(at[:-1])} has no {at[-1]}: say it"
    if kind == "value_error":
        return f"{name} {got!r:.80} {item['ctx']['error']}"
    if kind == "string_too_long":
        return f"{name} has {len(got)} characters: use at most {item['ctx']['max_length']}"
    if kind in ("dataclass_type", "model_type", "model_attributes_type"):
        return f"{name} is {got!r:.80}: expected a table with {', '.join(fields_at(at))}"
    if kind == "tuple_type":
        hint = f", so write [[{at[-1]}]]" if isinstance(got, dict) else ""
        return f"{name} is {got!r:.80}: expected a list{hint}"
    if kind == "json_invalid":
        return f"a value cannot be kept ({item['ctx']['error']}): leave it out, or say it more simply"
    return f"{name} is {got!r:.80}: {message[0].lower()}{message[1:]}"


def _unknown(at: At) -> str:
    """What to write instead of an unknown key."""
    name, known = str(at[-1])[:80], list(fields_at(at[:-1]))
    inside = f" of {named(at[:-1])}" if at[:-1] else ""
    near = get_close_matches(name, known, 1)
    elsewhere = sorted({place for place, _ in keys() if place.rpartition(".")[2] == name})
    if near:
        hint = f"did you mean {near[0]}?"
    elif elsewhere:
        hint = f"it is a key of {' or of '.join(x.rpartition('.')[0] or 'the timeline itself' for x in elsewhere)}"
    else:
        hint = f"use one of {', '.join(known)}"
    return f"{name!r} is not a key{inside}: {hint}"


def named(at: At) -> str:
    """`segment 2: keys` of `("segments", 1, "keys")`."""
    out = ""
    for name in at:
        if isinstance(name, int):
            out = f"{out.removesuffix('s')} {name + 1}: "
        else:
            out += name if not out or out.endswith(": ") else f".{name}"
    return out.removesuffix(": ") or "timeline"


def _value(table: Any, at: At) -> Any:
    for name in at:
        try:
            table = table[name]
        except (KeyError, IndexError, TypeError):
            return None
    return table


def fields_at(at: At) -> Mapping[str, FieldInfo | None]:
    """The keys that a table of a timeline takes."""
    model: Any = Timeline
    for name in at:
        if isinstance(name, str):
            found = _fields(model).get(name)
            model = None if found is None else inner(found.annotation)
    return _fields(model)


def keys() -> Iterator[tuple[str, FieldInfo | None]]:
    """Every key of a timeline: `frames`, `output.codec`, `segments.motion`."""
    return _keys(Timeline, "")


def _keys(model: Any, before: str) -> Iterator[tuple[str, FieldInfo | None]]:
    for name, found in _fields(model).items():
        yield before + name, found
        deeper = None if found is None else inner(found.annotation)
        if deeper is not None:
            yield from _keys(deeper, f"{before}{name}.")


def _fields(model: Any) -> Mapping[str, FieldInfo | None]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return model.model_fields
    return {f.name: None for f in dataclasses.fields(model)} if dataclasses.is_dataclass(model) else {}


def inner(kind: Any) -> Any:
    """The table that stands in an annotation, or None."""
    if isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
        return kind
    return next((found for part in get_args(kind) if (found := inner(part)) is not None), None)
