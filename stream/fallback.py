"""Never half converted: where TensorRT fails at any step, torch runs every network, and whoever looks hears why."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from engines import TENSORRT, Choice, Engine, Network, Tell, backend, engine_of
from stream.errors import LivebrushError

log = logging.getLogger("livebrush")
LAST = "fallback.json"  # in the cache folder: the last time that TensorRT failed, for the doctor


@dataclass(frozen=True, eq=False)
class Running:
    """Engines by their networks' names, what they run on, and why that is not what was asked for."""

    engines: Mapping[str, Engine]
    choice: Choice
    notice: str = ""


@dataclass(frozen=True)
class Failure:
    """What the doctor is told of."""

    at: str
    model: str
    backend: str
    text: str


def running(networks: Sequence[Network], choices: Mapping[str, Choice], sizes: Mapping[str, int], model: str,
            cache: Path | None, tell: Tell | None = None) -> Running:  # fmt: skip
    """Engines for all networks, each on its choice; on torch, all of them, where TensorRT fails with one.

    With TensorRT each is also set up for `sizes` and run, since much of it fails only then. EngineError where another
    back end fails.
    """
    choice = choices["denoiser"]
    if choice.notice:
        log.warning("%s", choice.notice)
    if choice.backend not in TENSORRT:
        return Running(built(networks, choices, cache), choice, choice.notice)
    try:
        engines = built(networks, choices, cache, tell)
        for engine in engines.values():
            engine.prepare(**sizes)
    except Exception as error:  # the boundary: whatever goes wrong in there, torch can paint
        log.debug("%s failed", choice.backend, exc_info=True)
        notice = f"{choice.backend} failed, so torch runs the model: {told(error)}"
    else:
        forget(choice.backend, cache)
        return Running(engines, choice, choice.notice)
    return on_torch(networks, choices, notice, model, cache)


def on_torch(networks: Sequence[Network], choices: Mapping[str, Choice], notice: str, model: str,
             cache: Path | None) -> Running:  # fmt: skip
    """Torch in TensorRT's place, for every network."""
    log.warning("%s", notice)
    remember(
        Failure(datetime.now(UTC).isoformat(timespec="seconds"), model, choices["denoiser"].backend, notice), cache
    )
    instead = {name: torch_for(choice, notice) for name, choice in choices.items()}
    return Running(built(networks, instead, cache), instead["denoiser"], notice)


def built(networks: Sequence[Network], choices: Mapping[str, Choice], cache: Path | None,
          tell: Tell | None = None) -> dict[str, Engine]:  # fmt: skip
    return {n.name: engine_of(n, choices[n.name], cache, tell) for n in networks}


def torch_for(choice: Choice, notice: str) -> Choice:
    """The same device and precision, as far as torch has them."""
    torch = backend("torch")
    devices = torch.devices()
    device = choice.device if choice.device in devices else devices[0]
    offered = torch.precisions(device)
    precision = choice.precision if choice.precision in offered else offered[0]
    return replace(
        choice, backend="torch", device=device, precision=precision, why=f"{choice.backend} failed", notice=notice
    )


def told(error: Exception) -> str:
    """An error in one line."""
    text = str(error) if isinstance(error, LivebrushError) else f"{type(error).__name__}: {error}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


# ------------------------------------------------------------------------------------------------ for the doctor


def remember(failure: Failure, cache: Path | None) -> None:
    """Keeps the last failure. A cache folder that cannot be written has its own finding."""
    if cache is not None:
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            (cache / LAST).write_text(json.dumps(asdict(failure)), encoding="utf-8")


def forget(name: str, cache: Path | None) -> None:
    """The back end works: an old failure of it is no finding any more."""
    if cache is not None and (last := last_failure(cache)) is not None and last.backend == name:
        with suppress(OSError):
            (cache / LAST).unlink(missing_ok=True)


def last_failure(cache: Path) -> Failure | None:
    try:
        return Failure(**json.loads((cache / LAST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
