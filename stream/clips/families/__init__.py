"""The back ends, by name: each is one file and one line here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from stream.clips.backend import Backend, Facts
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
    "opensora": f"{HERE}.opensora:BACKEND",
    "opensora-plan": f"{HERE}.opensora:PLAN",
    "http": f"{HERE}.served:BACKEND",
}  # name: "module:attribute", imported when it is asked for


def family(name: str) -> Backend:
    """The back end called `name`; ClipError listing the known ones."""
    if name not in FAMILIES:
        raise ClipError(f"backend {name[:80]!r} is unknown: use one of {', '.join(FAMILIES)}")
    module, _, attribute = FAMILIES[name].partition(":")
    found: Backend = getattr(import_module(module), attribute)
    return found


@dataclass(frozen=True)
class Row:
    """A line of `livebrush clip backends`."""

    facts: Facts
    missing: str | None  # on this machine, with how to get it; None where it is ready

    def cells(self) -> dict[str, str]:
        """The columns in words."""
        facts = self.facts
        return {
            "backend": facts.name, "model": facts.title, "modes": " ".join(facts.modes), "frames": facts.rule.told(),
            "size": f"{facts.size[0]}x{facts.size[1]}", "memory": facts.memory,
            "licence": facts.licence + (f" (--licence {facts.accept})" if facts.accept else ""),
            "state": self.missing or "ready",
        }  # fmt: skip


def table() -> list[Row]:
    """Every back end with what is missing on this machine for its default model. Imports no torch."""
    found = [family(name) for name in FAMILIES]
    return [Row(backend.facts, backend.missing()) for backend in found]
