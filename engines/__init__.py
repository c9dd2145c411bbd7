"""Engines: one network, one interface, several ways to run it, chosen once, by name.

`choose` picks a back end, device and precision and says why; `build` turns a `Network` into an `Engine` on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from engines.errors import EngineError, LivebrushError

if TYPE_CHECKING:
    from engines.spec import Engine, Network, Port, Precision, Ranges

BACKENDS = {"torch": "engines.torch", "openvino": "engines.openvino"}
PRECISIONS = ("f32", "bf16", "f16", "int8")


def __getattr__(name: str) -> Any:
    """What a network is described with: imported when first asked for, since it brings torch."""
    if name in ("Engine", "Network", "Port", "Precision", "Ranges"):
        return getattr(import_module("engines.spec"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Choice:
    """A back end with its device and precision, and why it was taken."""

    backend: str
    device: str
    precision: Precision
    why: str

    def __str__(self) -> str:
        return f"{self.backend} on {self.device} in {self.precision} ({self.why})"


class Backend(Protocol):
    """What a back end's module offers."""

    def missing(self) -> str | None:
        """None where it can be used here, else what is missing and what to do."""
        ...

    def devices(self) -> list[str]:
        """Devices it can use here, best first."""
        ...

    def precisions(self, device: str) -> list[Precision]:
        """Precisions that the device runs, best first."""
        ...

    def build(self, network: Network, choice: Choice, cache: Path | None) -> Engine:
        """The engine; `cache` is a folder for what is slow to make, or None."""
        ...


def backend(name: str) -> Backend:
    """The back end called `name`; EngineError with the known names."""
    if name not in BACKENDS:
        raise EngineError(f"engine {name!r} is unknown: use auto, {' or '.join(BACKENDS)}")
    return cast(Backend, import_module(BACKENDS[name]))


def choose(name: str = "auto", device: str = "auto", precision: str = "auto", ranges: bool = False) -> Choice:
    """The back end to use here. `auto`: CUDA through torch, else OpenVINO on the CPU, else torch.

    `ranges` says whether the model has the ranges that int8 needs; without them int8 is neither taken nor given.
    """
    if name == "auto":
        name, why = _fastest(device)
    else:
        why = "asked for"
    module = backend(name)
    if missing := module.missing():
        raise EngineError(f"engine {name} cannot be used here: {missing}")
    known = module.devices()
    if device == "auto":
        device = known[0]
    elif device not in known:
        raise EngineError(f"engine {name} has no device {device!r} here: use {' or '.join(known)}")
    offered = [p for p in module.precisions(device) if ranges or p != "int8"]
    if precision == "int8" and not ranges:
        raise EngineError(f"int8 needs ranges measured for the model, and there are none: use {' or '.join(offered)}")
    if precision == "auto":
        precision = offered[0]
    elif precision not in offered:
        raise EngineError(f"{name} on {device} does not run {precision!r}: use {' or '.join(offered)}")
    return Choice(name, device, precision, why)


def _fastest(device: str) -> tuple[str, str]:
    import torch

    if device.startswith(("cuda", "mps")) or (device == "auto" and torch.cuda.is_available()):
        return "torch", f"a graphics card is {'there' if device == 'auto' else 'asked for'}"
    missing = backend("openvino").missing()
    if missing is None:
        if device == "auto" and torch.backends.mps.is_available():
            return "torch", "an Apple GPU is there"
        return "openvino", "no graphics card here; the fastest on a CPU"
    return "torch", f"no graphics card here, and OpenVINO cannot be used: {missing}"


def build(network: Network, choice: Choice, cache: Path | None = None) -> Engine:
    """`network` as a fast callable."""
    return backend(choice.backend).build(network, choice, cache)


__all__ = ["BACKENDS", "Backend", "Choice", "Engine", "EngineError", "LivebrushError", "Network", "Port",
           "Precision", "Ranges", "backend", "build", "choose"]  # fmt: skip
