"""The torch back end: any device, and the reference that every other back end is compared with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from engines import Choice, Tell
from engines.card import Card, CardEngine, CudaCard, Shapes, Station
from engines.refit import Swap, in_place
from engines.spec import Engine, Network, Port, Precision

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
COMPILE = "LIVEBRUSH_COMPILE"  # 1: by torch.compile too, on a card; minutes for every new size


class TorchEngine:
    """A network as it is, in evaluation mode, on one device and in one precision."""

    backend = "torch"

    def __init__(self, network: Network, choice: Choice) -> None:
        self.device = torch.device(choice.device)
        self.precision: Precision = choice.precision
        self._name = network.name
        self._dtype = DTYPES[choice.precision]
        self._out = network.output.dtype
        self._casts = [p.dtype.is_floating_point and not p.exact for p in network.inputs]
        self._module: nn.Module = network.module.to(self.device, self._dtype)

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Tensor:
        ready = [
            x.to(self.device, self._dtype if cast else x.dtype, non_blocking=True)
            for x, cast in zip(inputs, self._casts, strict=True)
        ]
        out: Tensor = self._module(*ready)
        return out.to(self._out)

    def prepare(self, **sizes: int) -> None:
        """Nothing to do: torch runs any size at once."""

    def refit(self, weights: Mapping[str, Tensor]) -> Swap:
        """Copies into the weights' own memory."""
        return in_place(self._module, weights, self._name)


class GraphEngine(CardEngine):
    """A network on a CUDA card, channels last, captured as a CUDA graph for each shape: one launch instead of a
    thousand. Sizes are free."""

    backend = "torch"

    def __init__(self, network: Network, choice: Choice, card: Card, compiled: bool = False) -> None:
        super().__init__(network, card)
        self.precision: Precision = choice.precision
        self._dtype = DTYPES[choice.precision]
        self._module: nn.Module = network.module.to(card.device, self._dtype)
        self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._run = torch.compile(self._module, dynamic=False) if compiled else self._module

    def _station(self, shapes: Shapes) -> Station:
        inputs = [self._card.empty(s, self._type(p)).zero_() for s, p in zip(shapes, self._inputs, strict=True)]
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]

        def work() -> Sequence[Tensor]:
            made = self._run(*inputs)
            return cast(Sequence[Tensor], made if isinstance(made, tuple) else (made,))

        return self._captured(inputs, work)

    def refit(self, weights: Mapping[str, Tensor]) -> Swap:
        """Copies into the weights' own memory, where the graphs read them."""
        return in_place(self._module, weights, self._name)

    def _type(self, port: Port) -> torch.dtype:
        return self._dtype if port.dtype.is_floating_point and not port.exact else port.dtype


def missing() -> str | None:
    """torch is always there."""
    return None


def devices() -> list[str]:
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return (["cuda", *found] if found else []) + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def precisions(device: str) -> list[Precision]:
    if device.startswith("cuda"):
        return ["f16", "bf16", "f32"]
    return ["f16", "f32"] if device == "mps" else ["f32", "bf16"]


def build(  # nothing is slow to make
    network: Network, choice: Choice, cache: Path | None, tell: Tell | None = None,  # noqa: ARG001
) -> Engine:  # fmt: skip
    device = torch.device(choice.device)
    if device.type != "cuda":
        return TorchEngine(network, choice)
    return GraphEngine(network, choice, CudaCard(device), compiled=os.environ.get(COMPILE) == "1")
