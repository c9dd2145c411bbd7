"""The torch back end: any device, and the reference that every other back end is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from engines import Choice
from engines.refit import Swap, in_place
from engines.spec import Network, Precision

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


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
        if self.device.type == "cuda":
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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


def build(network: Network, choice: Choice, cache: Path | None) -> TorchEngine:  # noqa: ARG001 (nothing is slow to make)
    return TorchEngine(network, choice)
