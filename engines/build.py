"""Engines of `tensorrt` and `tensorrt-rtx`: built once, from a network or from an exported graph, and kept by content.

`ready` is the whole way: looked up, else exported, built and kept. `build` is one build. The builder runs in a process
of its own (`engines.builder`): whatever happens to it is one EngineError here, and leaves nothing behind.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engines import preflight
from engines.cache import Cache, Entry, Facts, key_of, network_key
from engines.errors import EngineError

if TYPE_CHECKING:
    from engines.export import Exported
    from engines.fp8 import Samples
    from engines.spec import Network, Precision

log = logging.getLogger("livebrush")
PLAN = "engine.plan"
SIDES = (256, 1024)  # pixels that an engine takes a side, unless the wanted size lies outside
SHELF, GRAPHS, TIMING = "engines", "graphs", "timing"  # folders of the cache
TOLD = 12  # last lines of the builder's own words that are searched for its reason
Span = tuple[int, int, int]  # least, usual (the fastest), most
Tell = Callable[[str, float], None]  # the phase of the build, and how far it is, 0 to 1


@dataclass(frozen=True)
class Profiles:
    """What sizes an engine takes: a span for every named axis of its network's ports."""

    spans: Mapping[str, Span]

    @classmethod
    def around(
        cls, width: int, height: int, factor: int, rows: Span = (1, 1, 4), sides: tuple[int, int] = SIDES
    ) -> Profiles:
        """For pictures from `sides[0]` to `sides[1]` pixels a side, of any aspect, fastest at `width` x `height`.

        `factor` is the pixels a side of one latent cell, `rows` the rows of a call: frames in flight of all streams.
        """
        spans: dict[str, Span] = {"rows": rows}
        for axis, side in (("H", height), ("W", width)):
            least, most = min(side, sides[0]), max(side, sides[1])
            spans[axis] = (least, side, most)
            spans[axis.lower()] = (least // factor, side // factor, most // factor)
        return cls(spans)

    def covers(self, other: Profiles) -> bool:
        """Whether an engine with these takes everything that one with `other` takes."""
        return all(axis in self.spans and self.spans[axis][0] <= least and most <= self.spans[axis][2]
                   for axis, (least, _, most) in other.spans.items())  # fmt: skip

    def named(self, axes: Sequence[str]) -> Profiles:
        """Of these axes alone. EngineError where one has no span."""
        if lacking := [a for a in axes if a not in self.spans]:
            raise EngineError(
                f"the axis {lacking[0]!r} has no span: expected least, usual and most of {', '.join(axes)}"
            )
        return Profiles({a: self.spans[a] for a in sorted(axes)})


@dataclass(frozen=True)
class Wish:
    """How an engine is to be built. Every part of it is part of the engine's key.

    `compute` are the compute capabilities it runs on, as 89; none means the card that is here. `refit` leaves the
    weights out and lets them be exchanged: one engine for every checkpoint, built only where a card is. `loras` names
    what has been merged into the weights, with strengths.
    """

    backend: str
    precision: Precision
    profiles: Profiles
    compute: tuple[int, ...] = ()
    fp8: bool = False
    refit: bool = False
    loras: tuple[tuple[str, float], ...] = ()

    def settled(self) -> Wish:
        """With the card that is here where none was named, in order."""
        here = preflight.card_here() if not self.compute else None
        return replace(self, compute=tuple(sorted({*self.compute, *([here] if here is not None else [])})))


@dataclass(frozen=True)
class Built:
    """An engine that was built, and what it took."""

    file: Path
    bytes: int
    parse_s: float
    build_s: float
    peak_bytes: int  # of the builder's process
    version: str

    def statistics(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "file"}


# ------------------------------------------------------------------------------------------------ the whole way


def ready(network: Network, wish: Wish, cache: Path, *, tell: Tell | None = None, label: str = "",
          exact: bool = False, samples: Callable[[], Samples] | None = None) -> Path:  # fmt: skip
    """The engine's file: from the cache where it is there, else exported, built and kept there.

    One that takes more (sizes, rows, cards) serves as well, unless `exact`. `label` is written beside it for those who
    read the list; `samples` are inputs of the network that FP8 is measured with. EngineError where it cannot be built,
    with what to do.
    """
    preflight.check_library(wish.backend)
    wish = replace(wish.settled(), profiles=wish.profiles.named(axes_of(network)))
    shelf, graphs = Cache(cache / SHELF), Cache(cache / GRAPHS)
    source = _source(network, wish)
    if (hashes := recalled(graphs, source)) and (found := stored(shelf, facts_of(network.name, hashes, wish), exact)):
        return found / PLAN
    weights = weight_bytes(network, wish.precision)
    preflight.check(wish.backend, wish.compute, wish.precision, weights, shelf.folder, fp8=wish.fp8, refit=wish.refit)
    with shelf.making() as new:
        if (hashes := recalled(graphs, source)) and (
            found := stored(shelf, facts_of(network.name, hashes, wish), exact)
        ):
            return found / PLAN  # another process was faster
        exported = _exported(network, wish, new, tell, samples)
        hashes = {"graph": exported.graph, "weights": exported.weights}
        graphs.fetch(source, lambda folder: _remember(folder, hashes))
        facts = facts_of(network.name, hashes, wish)
        how = {"label": label, "weight_bytes": weights, "export_s": exported.seconds,
               "export_peak_bytes": exported.peak_bytes}  # fmt: skip

        def make(folder: Path) -> dict[str, Any]:
            return how | build(exported, folder, wish, tell, cache / TIMING).statistics()

        found = stored(shelf, facts, exact) or shelf.put(new, key_of(facts), make, facts)
    return found / PLAN


def axes_of(network: Network) -> list[str]:
    """The named axes of a network's inputs."""
    return sorted({a for port in network.inputs for a in port.shape if isinstance(a, str)})


def weight_bytes(network: Network, precision: Precision) -> int:
    """What a network's weights take in a precision."""
    numbers: int = sum(w.numel() for w in network.module.state_dict().values())
    return numbers * (4 if precision == "f32" else 2)


def facts_of(name: str, hashes: Mapping[str, str], wish: Wish) -> dict[str, Any]:
    """Everything that an engine depends on, as plain values: its key is their hash."""
    return {
        "network": name,
        "graph": hashes["graph"],
        "weights": None if wish.refit else hashes["weights"],
        "loras": None if wish.refit else [list(x) for x in wish.loras],
        "precision": wish.precision,
        "fp8": wish.fp8,
        "refit": wish.refit,
        "profiles": {axis: list(span) for axis, span in sorted(wish.profiles.spans.items())},
        "compute": list(wish.compute),
        "backend": wish.backend,
        "version": preflight.library_version(wish.backend),
        "system": f"{platform.system()} {platform.machine()}".lower(),
        # kernels are timed on the card by tensorrt; tensorrt-rtx compiles them where the engine runs
        "driver": preflight.driver() if wish.backend == "tensorrt" else None,
    }  # fmt: skip


def stored(shelf: Cache, facts: Facts, exact: bool = True) -> Path | None:
    """The folder of an engine with these facts; unless `exact`, of one that takes more and is otherwise the same."""
    found = shelf.found(key_of(facts), facts)
    if found is not None or exact:
        return found
    serving = (e for e in shelf.entries() if _serves(e, facts))
    return next((p for e in serving if (p := shelf.found(e.place.name, e.facts)) is not None), None)


def _serves(entry: Entry, facts: Facts) -> bool:
    fixed = set(facts) - {"profiles", "compute", "loras"}  # what is merged is in the weights, and they are the same
    if any(entry.facts.get(name) != facts[name] for name in fixed):
        return False
    wide, asked = (Profiles({a: tuple(s) for a, s in f["profiles"].items()}) for f in (entry.facts, facts))
    return set(entry.facts["compute"]) >= set(facts["compute"]) and wide.covers(asked)


def _source(network: Network, wish: Wish) -> str:
    """The key of what an export depends on: known before it is made."""
    from engines import export

    return network_key(network, wish.precision, f"fp8 {wish.fp8}", inspect.getsource(export))


def recalled(graphs: Cache, source: str) -> dict[str, str] | None:
    """The hashes of a graph that was exported before, so that it need not be again."""
    found = graphs.found(source)
    return json.loads((found / "hashes.json").read_text()) if found is not None else None


def _remember(folder: Path, hashes: Mapping[str, str]) -> None:
    (folder / "hashes.json").write_text(json.dumps(dict(hashes)))


def _exported(network: Network, wish: Wish, new: Path, tell: Tell | None,
              samples: Callable[[], Samples] | None) -> Exported:  # fmt: skip
    from engines.export import export

    if tell is not None:
        tell("exporting", 0.0)
    place = new / "graph"
    place.mkdir()
    exported = export(network, place, wish.precision)
    if wish.fp8:
        from engines.fp8 import quantized

        if samples is None:
            raise EngineError("FP8 is not available: it is measured on samples, and there are none: leave fp8")
        exported = quantized(exported, network.module, samples())
    return exported


# ------------------------------------------------------------------------------------------------ one build


def build(exported: Exported, place: Path, wish: Wish, tell: Tell | None = None, timing: Path | None = None) -> Built:
    """Builds `place/engine.plan` from an exported graph. `timing` is a folder for the timing caches, shared by builds.

    EngineError where it cannot be built; nothing of it is left in `place` then.
    """
    wish = wish.settled()
    file = place / PLAN
    asked = {"onnx": str(exported.file), "engine": str(file), "backend": wish.backend, "compute": list(wish.compute),
             "spans": dict(wish.profiles.spans), "refit": wish.refit, "timing": _timing(timing, wish)}  # fmt: skip
    try:
        told = _Builder(asked, wish).run(tell)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return Built(file, file.stat().st_size, **told)


def _timing(folder: Path | None, wish: Wish) -> str | None:
    """The timing cache of a version and card; None without a card: nothing is timed then."""
    if folder is None or preflight.card_here() is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    cards = "-".join(map(str, wish.compute))
    return str(folder / f"{wish.backend}-{preflight.library_version(wish.backend)}-sm{cards}.cache")


@dataclass
class _Builder:
    """One run of `engines.builder`."""

    asked: Mapping[str, Any]
    wish: Wish
    facts: dict[str, Any] = field(default_factory=dict)

    def run(self, tell: Tell | None) -> dict[str, Any]:
        with tempfile.TemporaryFile() as words:
            code = self._watched(tell, words)
            if "build_s" in self.facts:
                return self.facts
            raise EngineError(self._reason(code, words))

    def _watched(self, tell: Tell | None, words: IO[bytes]) -> int:
        root = str(Path(__file__).parents[1])
        env = os.environ | {
            "POLYGRAPHY_USE_TENSORRT_RTX": "1" if self.wish.backend == "tensorrt-rtx" else "0",
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        command = [sys.executable, "-m", "engines.builder", json.dumps(self.asked)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=words, env=env)  # noqa: S603 (our own)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                self._heard(line, tell)
            return process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            with suppress(OSError):
                process.stdin.close()

    def _heard(self, line: bytes, tell: Tell | None) -> None:
        fact = json.loads(line)
        if "phase" not in fact:
            self.facts = fact
        elif tell is not None:
            tell(fact["phase"], fact["far"])

    def _reason(self, code: int, words: IO[bytes]) -> str:
        """One message: what failed, why, and what to do."""
        weights = sum(p.stat().st_size for p in Path(self.asked["onnx"]).parent.iterdir())
        what = f"{self.wish.backend} could not build the engine"
        if "disk" in self.facts:
            needed = preflight.gigabytes(preflight.disk_needed(weights))
            place = Path(self.asked["engine"]).parent
            return (
                f"{what}: {place} cannot be written ({self.facts['disk']}): it needs about {needed}: {preflight.SPACE}"
            )
        if code == -getattr(signal, "SIGKILL", 9):
            needed = preflight.gigabytes(preflight.memory_needed(weights))
            return (
                f"{what}: its process was killed, most likely for lack of memory: it needs about {needed}: "
                f"{preflight.MEMORY}"
            )
        words.seek(0)
        said = words.read().decode(errors="replace").splitlines()
        why = _cause(said) or self.facts.get("failed") or (said[-1] if said else f"its process ended with {code}")
        return f"{what}: {why}\nuse --engine torch, which needs no build"


def _cause(said: list[str]) -> str | None:
    """The first error among the builder's last words."""
    errors = [line for line in said[-TOLD:] if line.startswith(("[E]", "[!]"))]
    return errors[0][4:].strip() if errors else None
