"""Exact rewrites of a network that make it cheaper to run, up to float rounding."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


def folded(module: nn.Module) -> nn.Module:
    """A copy of `module` with every linear upsampling tail folded and every group norm spelt out; itself where there
    is neither."""
    if not any(_tail(m) or isinstance(m, nn.GroupNorm) for m in module.modules()):
        return module
    copy = deepcopy(module)
    for part in list(copy.modules()):
        if _tail(part):
            assert isinstance(part, nn.Sequential)
            _fold(part)
        for name, child in part.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(part, name, SpeltNorm(child))
    return copy


class SpeltNorm(nn.Module):
    """A group norm as means over pixels, a small matrix that averages channels within their group, and one scale and
    shift a channel. OpenVINO's own turns every picture to another memory layout and back, which this
    spares it."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias
        size = norm.num_channels // norm.num_groups
        self.within: Tensor
        within = torch.kron(torch.eye(norm.num_groups), torch.full((size, size), 1 / size))
        self.register_buffer("within", within.to(norm.weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = tuple(range(2, x.dim()))
        shape = (-1, x.shape[1], *[1] * len(pixels))
        centred = x - (x.mean(pixels) @ self.within).reshape(shape)
        variance = (centred * centred).mean(pixels) @ self.within
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.reshape(shape) + self.bias.reshape(shape[1:])


def _tail(module: nn.Module) -> bool:
    """Whether a sequence ends in: double by nearest neighbour, 3x3 convolution without bias, pointwise convolution."""
    if not isinstance(module, nn.Sequential) or len(module) < 3:
        return False
    up, first, last = list(module)[-3:]
    return (
        isinstance(up, nn.Upsample) and up.mode == "nearest" and up.scale_factor in (2, 2.0)
        and _plain(first) and _plain(last) and first.bias is None and _pointwise(last)
    )  # fmt: skip


def _plain(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and (
        (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
        == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    )


def _pointwise(conv: nn.Module) -> bool:
    assert isinstance(conv, nn.Conv2d)
    off = conv.weight.detach().clone()
    off[:, :, 1, 1] = 0
    return not bool(off.any())


@torch.no_grad()
def _fold(sequence: nn.Sequential) -> None:
    """The three as one 3x3 convolution at the lower size, with four outputs a pixel.

    On a picture doubled by nearest neighbour, the taps -1, 0, 1 of the even pixel 2i fall on i-1, i, i and those of the
    odd one on i, i, i+1: every output pixel is a 3x3 convolution of the small picture, borders included.
    """
    first, last = sequence[-2], sequence[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    kernel = torch.einsum("oc,cikl->oikl", last.weight[:, :, 1, 1].double(), first.weight.double())
    parts = [_phase(kernel, dy, dx) for dy in (0, 1) for dx in (0, 1)]
    small = nn.Conv2d(first.in_channels, 4 * last.out_channels, 3, padding=1)
    small.weight.copy_(torch.stack(parts, 1).flatten(0, 1))
    bias = torch.zeros(last.out_channels) if last.bias is None else last.bias
    assert small.bias is not None
    small.bias.copy_(bias.repeat_interleave(4))
    small.to(first.weight.device, first.weight.dtype)
    for index, part in zip((-3, -2, -1), (small, nn.PixelShuffle(2), nn.Identity()), strict=True):
        sequence[index] = part


def _phase(kernel: Tensor, dy: int, dx: int) -> Tensor:
    """The small picture's kernel for output pixels (2i + dy, 2j + dx)."""
    taps = ((0, 1, 1), (1, 1, 2))
    out = torch.zeros_like(kernel)
    for k, row in enumerate(taps[dy]):
        for m, column in enumerate(taps[dx]):
            out[:, :, row, column] += kernel[:, :, k, m]
    return out
