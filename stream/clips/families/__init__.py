"""The back ends, by name: each is one file and one line here."""

from __future__ import annotations

from importlib import import_module

from stream.clips.backend import Backend
from stream.errors import ClipError

HERE = "stream.clips.families"
FAMILIES: dict[str, str] = {
    "animatediff": f"{HERE}.animatediff:BACKEND",
    "svd": f"{HERE}.svd:BACKEND",
    "cogvideox": f"{HERE}.cogvideox:BACKEND",
    "cogvideox15": f"{HERE}.cogvideox:LATER",
    "ltx": f"{HERE}.ltx:BACKEND",
    "ltx2": f"{HERE}.ltx2:BACKEND",
    "mochi": f"{HERE}.mochi:BACKEND",
    "hunyuan": f"{HERE}.hunyuan:BACKEND",
    "framepack": f"{HERE}.hunyuan:FRAMEPACK",
    "hunyuan15": f"{HERE}.hunyuan15:BACKEND",
    "wan": f"{HERE}.wan:BACKEND",
    "wan22": f"{HERE}.wan:MIXTURE",
    "wan22-5b": f"{HERE}.wan:SMALL",
}  # name: "module:attribute", imported when it is asked for


def family(name: str) -> Backend:
    """The back end called `name`; ClipError listing the known ones."""
    if name not in FAMILIES:
        raise ClipError(f"backend {name[:80]!r} is unknown: use one of {', '.join(FAMILIES)}")
    module, _, attribute = FAMILIES[name].partition(":")
    found: Backend = getattr(import_module(module), attribute)
    return found
