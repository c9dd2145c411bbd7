"""Engines: one network, one interface, several ways to run it, chosen once, by name.

`choose` picks a back end, device and precision and says why; `engine_of` turns a `Network` into an `Engine` on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from engines.errors import EngineError, LivebrushError

if TYPE_CHECKING:
    from engines.spec import Engine, Network, Port, Precision, Ranges

BACKENDS = {  # a module, or a value of one
    "torch": "engines.torch",
    "openvino": "engines.openvino",
    "tensorrt": "engines.tensorrt:full",
    "tensorrt-rtx": "engines.tensorrt:rtx",
}
TENSORRT = ("tensorrt", "tensorrt-rtx")  # these need much that may be missing: torch runs where they do not
Tell = Callable[[str, float], None]  # what is being made, and how far it is, 0 to 1
PRECISIONS = ("f32", "bf16", "f16", "int8")


def __getattr__(name: str) -> Any:
    """What a network is described with: imported when first asked for, since it brings torch."""
    if name in ("Engine", "Network", "Port", "Precision", "Ranges"):
        return getattr(import_module("engines.spec"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Choice:
    """A back end with its device and precision, and why it was taken.

    `notice`: why it is not the one that was asked for, and what to do.
    """

    backend: str
    device: str
    precision: Precision
    why: str
    notice: str = ""

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

    def build(self, network: Network, choice: Choice, cache: Path | None, tell: Tell | None = None) -> Engine:
        """The engine; `cache` is a folder for what is slow to make, or None; `tell` hears of what takes minutes."""
        ...


def backend(name: str) -> Backend:
    """The back end called `name`; EngineError with the known names."""
    if name not in BACKENDS:
        raise EngineError(f"engine {name!r} is unknown: use {either('auto', *BACKENDS)}")
    module, _, value = BACKENDS[name].partition(":")
    found = import_module(module)
    return cast(Backend, getattr(found, value) if value else found)


def choose(name: str = "auto", device: str = "auto", precision: str = "auto", ranges: bool = False) -> Choice:
    """The back end to use here. `auto`: on a CUDA card TensorRT of the kind that serves it, else torch; without a card
    OpenVINO on the CPU, else torch.

    `ranges` says whether the model has the ranges that int8 needs; without them int8 is neither taken nor given. Where
    TensorRT was asked for and cannot be used, it is the fastest of the others, and its notice says so. EngineError for
    anything else that is not here.
    """
    why, notice = "asked for", ""
    if name in TENSORRT and (missing := backend(name).missing()):
        notice = f"engine {name} cannot be used here: {missing}"
        name, device = "auto", device if device in backend("torch").devices() else "auto"
    if name == "auto":
        name, why = _fastest(device)
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
    if precision == "auto" or (notice and precision not in offered):
        precision = offered[0]
    elif precision not in offered:
        raise EngineError(f"{name} on {device} does not run {precision!r}: use {' or '.join(offered)}")
    return Choice(name, device, precision, why, notice)


def either(*words: str) -> str:
    """`this, that or the other`."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _fastest(device: str) -> tuple[str, str]:
    import torch

    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return _on_cuda(device)
    if device.startswith("mps") or (device == "auto" and torch.backends.mps.is_available()):
        return "torch", f"an Apple GPU is {'there' if device == 'auto' else 'asked for'}"
    missing = backend("openvino").missing()
    if missing is None:
        return "openvino", "no graphics card here; the fastest on a CPU"
    return "torch", f"no graphics card here, and OpenVINO cannot be used: {missing}"


def _on_cuda(device: str) -> tuple[str, str]:
    import torch

    from engines.tensorrt import fastest

    asked = "cuda" if device == "auto" else device
    if asked not in backend("torch").devices():
        return "torch", "asked for"  # which has words for it
    major, minor = torch.cuda.get_device_capability(asked)
    card = f"{torch.cuda.get_device_name(asked)} (SM {major}.{minor})"
    lacking = []
    for best in fastest((major, minor)):
        missing = best.missing()
        if missing is None and asked in best.devices():
            return best.name, f"the fastest on {card}"
        lacking.append(f"{best.name} cannot be used: {missing or 'it serves another card of this machine'}")
    return "torch", f"{card} is there; {'; '.join(lacking) or 'TensorRT does not serve it'}"


def engine_of(network: Network, choice: Choice, cache: Path | None = None, tell: Tell | None = None) -> Engine:
    """`network` as a fast callable."""
    return backend(choice.backend).build(network, choice, cache, tell)


__all__ = ["BACKENDS", "TENSORRT", "Backend", "Choice", "Engine", "EngineError", "LivebrushError", "Network", "Port",
           "Precision", "Ranges", "Tell", "backend", "choose", "either", "engine_of"]  # fmt: skip
