"""What a clip starts from: noise, and the pictures of an input, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stream.clips.latents import Shape
from stream.clips.windows import Window


def fresh(generator: torch.Generator, shape: Shape, blocks: Sequence[Window], rows: bool = False) -> Iterator[Tensor]:
    """Noise of its own for every frame, drawn block by block as diffusers draws it for one window: by channels, or,
    where an input is repainted, by frames (`rows`)."""
    channels, *sides = shape
    for block in blocks:
        if rows:
            yield torch.randn((1, len(block), channels, *sides), generator=generator).transpose(1, 2)
        else:
            yield torch.randn((1, channels, len(block), *sides), generator=generator)
