"""Other values for the weights of a network that runs, by the names of `Network.module`'s parameters.

A back end may rename, transpose, merge and drop weights when it makes a graph of a network. `homes` finds them there
again, by value, so that it holds for every converter; what it finds is kept beside the graph. ONNX files of ours keep
the module's names, and so do TensorRT engines made of them: there `Supply` puts values in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engines.errors import EngineError

HOMES = "homes.json"
Swap = Callable[[], None]


def checked(weights: Mapping[str, Tensor], known: Mapping[str, tuple[int, ...]], network: str) -> None:
    """EngineError unless every weight is known, and has its shape."""
    for name, value in weights.items():
        if name not in known:
            raise EngineError(f"the {network} has no weight {name} that can be changed while it runs: restart with it")
        got, expected = tuple(value.shape), tuple(known[name])
        if got != expected:
            raise EngineError(f"weight {name} of the {network} has shape {got}, expected {expected}")


def in_place(module: nn.Module, weights: Mapping[str, Tensor], network: str) -> Swap:
    """`Engine.refit` for a torch module: values are made ready on its device, and copied into the weights' own memory,
    so that what was captured in a CUDA graph stays right. The copying is on the stream that is current then."""
    held = dict(module.named_parameters())
    checked(weights, {name: p.shape for name, p in held.items()}, network)
    ready = {name: value.to(held[name]) for name, value in weights.items()}

    @torch.inference_mode()
    def swap() -> None:
        for name, value in ready.items():
            held[name].copy_(value)

    return swap


# ------------------------------------------------------------------------------------------------- homes


@dataclass(frozen=True)
class Home:
    """Where a parameter lies in a graph: a constant's name, its type and shape there, and whether it is transposed."""

    constant: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    transposed: bool = False

    def fitted(self, value: Tensor) -> Tensor:
        """A parameter's value as the graph has it."""
        turned = value.T if self.transposed else value
        return turned.to(self.dtype).reshape(self.shape).contiguous()


@dataclass(frozen=True, eq=False)
class Homes:
    """The homes of a network's parameters in a graph.

    A parameter that a graph folded into something else, or whose value another one has too, has no home.
    """

    of: Mapping[str, tuple[Home, ...]]
    shapes: Mapping[str, tuple[int, ...]]  # of the parameters that have one

    def values(self, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Constants and what they are to be for these parameters."""
        for name, value in weights.items():
            for home in self.of[name]:
                yield home.constant, home.fitted(value)

    def write(self, folder: Path) -> None:
        """Into a folder; `read` has it back."""
        told = {name: [self.shapes[name], *([h.constant, str(h.dtype), h.shape, h.transposed] for h in lies)]
                for name, lies in self.of.items()}  # fmt: skip
        (folder / HOMES).write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Homes:
        told = json.loads((folder / HOMES).read_text(encoding="utf-8"))
        of = {name: tuple(_home(*lie) for lie in lies) for name, (_, *lies) in told.items()}
        return cls(of, {name: tuple(shape) for name, (shape, *_) in told.items()})


def _home(constant: str, dtype: str, shape: list[int], transposed: bool) -> Home:
    return Home(constant, getattr(torch, dtype.removeprefix("torch.")), tuple(shape), transposed)


def homes(parameters: Mapping[str, Tensor], constants: Iterable[tuple[str, Tensor]]) -> Homes:
    """Finds a network's parameters among a graph's constants, which hold the same values in whatever type.

    Where several parameters have the same value, the one whose name the constant bears is meant; bears it none, no one.
    """
    index: dict[torch.dtype, dict[bytes, list[tuple[str, bool]]]] = {}
    found: dict[str, list[Home]] = {}
    for constant, value in constants:
        if value.dtype not in index:
            index[value.dtype] = _index(parameters, value.dtype)
        alike = index[value.dtype].get(digest(value), [])
        named = [a for a in alike if constant.endswith(a[0])] if len({n for n, _ in alike}) > 1 else alike
        if named:
            name, transposed = named[0]
            found.setdefault(name, []).append(Home(constant, value.dtype, tuple(value.shape), transposed))
    shapes = {name: tuple(parameters[name].shape) for name in found}
    return Homes({name: tuple(lies) for name, lies in found.items()}, shapes)


def _index(parameters: Mapping[str, Tensor], dtype: torch.dtype) -> dict[bytes, list[tuple[str, bool]]]:
    """Names by value, as they are and transposed."""
    index: dict[bytes, list[tuple[str, bool]]] = {}
    for name, parameter in parameters.items():
        if not parameter.dtype.is_floating_point:
            continue
        value = parameter.detach().cpu().to(dtype)
        index.setdefault(digest(value), []).append((name, False))
        if value.dim() == 2 and min(value.shape) > 1:
            index.setdefault(digest(value.T), []).append((name, True))
    return index


def digest(value: Tensor) -> bytes:
    """A hash of the values in order, whatever the shape: graphs drop and add axes of one."""
    raw: Any = value.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(raw, digest_size=16).digest()


# ------------------------------------------------------------------------------------------------- TensorRT


class Refitter(Protocol):
    """What is used of TensorRT's `Refitter(engine, logger)`; the same in tensorrt and tensorrt_rtx."""

    def get_weights_prototype(self, weights_name: str) -> Any: ...
    def set_named_weights(self, name: str, weights: Any) -> bool: ...
    def get_missing_weights(self) -> list[str]: ...
    def refit_cuda_engine(self) -> bool: ...


class Supply:
    """Puts weights into a TensorRT engine in which nothing runs, under the names that the network's module has.

    `state` is all of the module's. An engine without weights asks for each of them; one that has merged some weights
    asks for the others of those that are `changed`. `library` is the module, tensorrt or tensorrt_rtx.
    """

    def __init__(self, library: Any, state: Mapping[str, Tensor]) -> None:
        self._library, self._state = library, state
        kinds = library.DataType
        self._types = {kinds.FLOAT: torch.float32, kinds.HALF: torch.float16, kinds.BF16: torch.bfloat16}

    def __call__(self, refitter: Refitter, changed: Mapping[str, Tensor]) -> None:
        """EngineError where the engine does not take one of them, lacks some, or cannot be refitted: it is then in no
        known state, and must not run."""
        held: dict[str, Tensor] = {}  # TensorRT reads them when it refits
        for name, value in changed.items():
            held[name] = self._put(refitter, name, value)
        while missing := refitter.get_missing_weights():
            lost = [name for name in missing if name in held or name not in self._state]
            if lost:
                raise EngineError(f"the engine wants weights that the network has not ({lost[0]}, ...): build it anew")
            for name in missing:
                held[name] = self._put(refitter, name, self._state[name])
        if held and not refitter.refit_cuda_engine():
            raise EngineError("TensorRT could not put the weights into its engine; its log says why")

    def _put(self, refitter: Refitter, name: str, value: Tensor) -> Tensor:
        kind = refitter.get_weights_prototype(name).dtype
        ready = value.detach().to("cpu", self._types.get(kind)).contiguous()
        weights = self._library.Weights(kind, ready.data_ptr(), ready.numel())
        if kind not in self._types or not refitter.set_named_weights(name, weights):
            raise EngineError(f"the engine has no weight {name} of {ready.numel()} numbers: build it anew")
        return ready
