"""What an engine is: one network, turned into a fast callable on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Precision = Literal["f32", "bf16", "f16", "int8"]
Ranges = Mapping[str, tuple[float, float]]  # of what goes into a convolution, by its name in the network


@dataclass(frozen=True)
class Port:
    """One tensor in or out: its name, type and shape. A named axis is dynamic; the first one is always `rows`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32
    exact: bool = False  # stays as it is whatever the engine's precision: a timestep of 999 is no bf16 number


@dataclass(frozen=True, eq=False)
class Network:
    """A torch module with the ports of its `forward`, in order.

    `sizes` holds a small legal value for every named axis (to trace with), `spans` its least, usual and most value for
    engines that are built for a range; `module` is in evaluation mode, in float32 on the CPU, and takes and gives
    exactly the ports' types. `ranges` are what int8 needs, where they were measured. With `more`, the module gives a
    tuple: `output`, then those. `changes`: its weights may be exchanged while it runs, where an engine has the choice.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    output: Port
    sizes: dict[str, int]
    ranges: Ranges | None = None
    more: tuple[Port, ...] = ()
    spans: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    changes: bool = False

    def example(self) -> tuple[Tensor, ...]:
        """Zeros of every input at `sizes`."""
        shapes = (tuple(a if isinstance(a, int) else self.sizes[a] for a in p.shape) for p in self.inputs)
        return tuple(torch.zeros(s, dtype=p.dtype) for s, p in zip(shapes, self.inputs, strict=True))


class Engine(Protocol):
    """A network, ready to run. The same call whatever the back end.

    Tensors go in and come out as the network's ports say, on `device`. What comes out belongs to the caller and is
    never overwritten by a later call.
    """

    backend: str
    device: torch.device
    precision: Precision

    def __call__(self, *inputs: Tensor) -> Tensor: ...

    def prepare(self, **sizes: int) -> None:
        """Gets ready for these sizes of the named axes, so that the first call is as fast as the next."""
        ...

    def refit(self, weights: Mapping[str, Tensor]) -> Callable[[], None]:
        """Gets other values ready for weights, named as the network's `module` has them; in any thread, while calls go
        on. The function that comes back puts them in place, at once, all or none; call it between two calls.

        Raises EngineError, and nothing changes, where a weight is unknown, has another shape, or cannot be changed.
        """
        ...
