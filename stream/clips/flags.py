"""Flags of `livebrush clip` as values of a timeline: most are made from its model, some have a form of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from stream.clips.explain import At, inner
from stream.clips.reading import Table, merged
from stream.clips.timeline import Camera, Memory, Output, Segment, Timeline
from stream.commandline import lora, option, sides
from stream.errors import ClipError

OWN_FORM = ("width", "height", "start", "end", "motion")  # --size, --motion; the rest is for files
TABLES: tuple[tuple[At, Any], ...] = (((), Timeline), (("output",), Output), (("memory",), Memory),
                                      (("segments",), Segment))  # fmt: skip


def plain() -> dict[str, tuple[At, FieldInfo]]:
    """The keys that are one flag each, by name, with their place."""
    found: dict[str, tuple[At, FieldInfo]] = {}
    for before, model in TABLES:
        for name, fact in model.model_fields.items():
            one = inner(fact.annotation) is None and get_origin(fact.annotation) not in (tuple, dict)
            if one and name not in OWN_FORM:
                found.setdefault(name, ((*before, name), fact))
    return found


def options() -> Mapping[str, Any]:
    """The annotation of a command's parameter for each of `plain`."""
    return {name: option(fact) for name, (_, fact) in plain().items()}


@dataclass(frozen=True)
class Flags:
    """What flags say: the timeline's own values, those of every segment, and by which flag each was said."""

    table: Table = field(default_factory=dict)
    segment: Table = field(default_factory=dict)
    said: Mapping[At, str] = field(default_factory=dict)

    def over(self, table: Table) -> Table:
        """`table` with these on top."""
        out = merged(table, self.table)
        given = out.get("segments") or ([{}] if self.segment else [])
        if not isinstance(given, list) or not self.segment:
            return out
        segments = [merged(s, self.segment) if isinstance(s, dict) else s for s in given]
        if len(segments) > 1 and not out.get("loop") and isinstance(segments[-1], dict):
            segments[-1].pop("fade", None)  # there is nothing after the last one
        return out | {"segments": segments}


@dataclass(frozen=True)
class Forms:
    """Flags with a form of their own, as they were given."""

    size: str | None = None
    motions: Sequence[str] = ()
    motion_loras: Sequence[str] = ()
    loras: Sequence[str] = ()
    keys: Sequence[str] = ()
    keyframes: Sequence[str] = ()
    camera: str | None = None
    control: str | None = None
    control_input: str | None = None
    control_keyframes: Sequence[str] = ()
    control_scale: float | None = None
    options: Sequence[str] = ()


def flags(given: Mapping[str, Any], forms: Forms) -> Flags:
    """`given` by name (see `plain`), and the others. ClipError where one is not of its form."""
    table, segment, said = _forms(forms)
    for name, value in given.items():
        at = plain()[name][0]
        said[at] = "--" + name.replace("_", "-")
        if at[0] == "segments":
            segment[name] = value
        elif len(at) > 1:
            table.setdefault(str(at[0]), {})[name] = value
        else:
            table[name] = value
    return Flags(table, segment, said)


def _forms(forms: Forms) -> tuple[Table, Table, dict[At, str]]:
    table: Table = dict(sides(forms.size)) if forms.size else {}
    segment: Table = {}
    said: dict[At, str] = dict.fromkeys([("width",), ("height",)], "--size") if forms.size else {}
    lists = (("loras", "--lora", [_lora(x) for x in forms.loras]), ("keys", "--key", [_key(x) for x in forms.keys]),
             ("keyframes", "--keyframe", [_keyframe(x, "keyframe") for x in forms.keyframes]),
             ("segments", "--motion", [{"motion": x} for x in forms.motions]),
             ("options", "--option", dict(_option(x) for x in forms.options)),
             ("control", "--control", _control(forms)))  # fmt: skip
    for name, flag, value in lists:
        if value:
            table[name], said[(name,)] = value, flag
    if forms.motion_loras:
        segment["motion_loras"], said["segments", "motion_loras"] = (
            [_lora(x) for x in forms.motion_loras],
            "--motion-lora",
        )
    if forms.camera:
        segment["camera"], said["segments", "camera"] = _camera(forms.camera), "--camera"
    return table, segment, said


def _lora(text: str) -> Table:
    found = lora(text)
    return {"source": found.source, "strength": found.strength}


def _control(forms: Forms) -> Table:
    parts = {"model": forms.control, "input": forms.control_input, "scale": forms.control_scale,
             "keyframes": [_keyframe(x, "control-keyframe") for x in forms.control_keyframes]}  # fmt: skip
    return {name: value for name, value in parts.items() if value is not None and value != []}


def _numbered(text: str, flag: str, what: str) -> tuple[int, str]:
    """`48:night vision`."""
    number, colon, rest = text.partition(":")
    if not colon or not number.strip().isdecimal() or not rest.strip():
        raise ClipError(f"--{flag} {text[:80]!r} is not FRAME:{what}: use e.g. 0:{what.lower()}")
    return int(number), rest.strip()


def _key(text: str) -> Table:
    frame, prompt = _numbered(text, "key", "PROMPT")
    return {"frame": frame, "prompt": prompt}


def _keyframe(text: str, flag: str) -> Table:
    """`0:first.png` or `0:first.png:0.8`."""
    frame, rest = _numbered(text, flag, "IMAGE")
    image, _, strength = rest.rpartition(":")
    try:
        return (
            {"frame": frame, "image": image, "strength": float(strength)} if image else {"frame": frame, "image": rest}
        )
    except ValueError:
        return {"frame": frame, "image": rest}


def _camera(text: str) -> Table:
    """`x=0.01,zoom=1.02`."""
    out: Table = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            known = ", ".join(Camera.model_fields)
            raise ClipError(f"--camera {text[:80]!r} is not NAME=NUMBER,… ({known}): use e.g. x=0.01") from None
    return out


def _option(text: str) -> tuple[str, Any]:
    """`name=value`, the value as JSON where it is any."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ClipError(f"--option {text[:80]!r} is not NAME=VALUE: see livebrush clip backends")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
