"""INT8: convolutions with 8-bit inputs and weights, the rest of a network as it is.

`quantised` writes the rounding into the graph (a scale and a zero point for what goes in, a scale a channel for the
weights); OpenVINO turns such a convolution into one of whole numbers. What goes in is rounded to 256 steps of a range
that was measured on typical pictures: `Recorder` measures it, and cuts off what costs less than it gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.errors import EngineError
from engines.spec import Ranges

STEPS = 255
WEIGHT = 127
CUTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the range seen
SAMPLES = 3000  # numbers kept of one tensor


class RoundedConv(nn.Module):
    """A convolution whose input is rounded to 256 steps of `low`..`high`, and each output's weights to 255."""

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self._form = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self.scale = (high - low) / STEPS
        self.zero = round(-low / self.scale)
        self.scales: Tensor
        self.zeros: Tensor
        scales = conv.weight.detach().abs().amax((1, 2, 3)).clamp_min(1e-9) / WEIGHT
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, 0, STEPS)
        weight = torch.fake_quantize_per_channel_affine(self.weight, self.scales, self.zeros, 0, -WEIGHT, WEIGHT)
        return F.conv2d(x, weight, self.bias, *self._form)  # type: ignore[arg-type]


def quantised(module: nn.Module, ranges: Ranges) -> nn.Module:
    """A copy of `module` with the convolutions that `ranges` names rounded. EngineError where it has no such one."""
    copy = deepcopy(module)
    known = dict(convolutions(copy))
    for name, (low, high) in ranges.items():
        if name not in known:
            raise EngineError(f"int8: the network has no convolution {name}: measure its ranges anew")
        if not low <= 0 < high:
            raise EngineError(f"int8: the range of {name} is {low}..{high}, expected one around 0: measure it anew")
        place, _, last = name.rpartition(".")
        setattr(copy.get_submodule(place), last, RoundedConv(known[name], low, high))
    return copy


def convolutions(module: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Those that can be rounded: zero padding of a fixed width."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and part.padding_mode == "zeros" and not isinstance(part.padding, str):
            yield name, part


class Recorder:
    """Sees what goes into a module's convolutions while it runs, and says which ranges to round it in."""

    def __init__(self, module: nn.Module) -> None:
        self._seen: dict[str, list[Tensor]] = {}
        self._random = torch.Generator().manual_seed(0)
        self._hooks = [conv.register_forward_pre_hook(self._see(name)) for name, conv in convolutions(module)]

    def _see(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().float().flatten()
            some = x[torch.randint(0, x.numel(), (SAMPLES,), generator=self._random)]
            self._seen.setdefault(name, []).append(torch.cat([some, x.min()[None], x.max()[None]]))

        return see

    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The range of each convolution that rounds what was seen with the least mean square error; ends recording."""
        for hook in self._hooks:
            hook.remove()
        return {name: _best(torch.cat(parts)) for name, parts in self._seen.items()}


def _best(x: Tensor) -> tuple[float, float]:
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 1e-6)
    return min(((low * a, high * b) for a in CUTS for b in CUTS if low or a == 1), key=lambda ends: _error(x, *ends))


def _error(x: Tensor, low: float, high: float) -> float:
    scale = (high - low) / STEPS
    return float((torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, STEPS) - x).square().mean())
