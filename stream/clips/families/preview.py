"""A small picture of what is being painted: a linear map from latents to colours, fitted to the model's own VAE.

The map is the least-squares fit over a picture of coloured squares that the VAE encodes once, when the model is loaded.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stream.frame import Image

Layout = Literal["bcfhw", "bfchw", "packed"]
SQUARES = 8  # a side
RIDGE = 1e-3


@torch.no_grad()
def colours_of(vae: Any, pixels: int) -> Tensor:
    """The map `(channels + 1, 3)` of a video VAE; `pixels` are those of a latent, a side."""
    made = torch.Generator().manual_seed(0)
    squares = torch.rand(3, SQUARES, SQUARES, generator=made) * 2 - 1
    shown = squares.repeat_interleave(pixels, 1).repeat_interleave(pixels, 2)
    weight = next(vae.parameters())
    shown = shown.to(weight.device, weight.dtype)
    image = type(vae).__name__ == "AutoencoderKLTemporalDecoder"  # SVD encodes picture by picture
    coded = vae.encode(shown[None] if image else shown[None, :, None]).latent_dist.mode().float().cpu()
    latents = normal(coded if image else coded[:, :, 0], vae)[0]
    return fit(latents.flatten(1).T, squares.flatten(1).T)


def normal(latents: Tensor, vae: Any) -> Tensor:
    """Latents `(b, c, h, w)` as the denoiser sees them."""
    mean, std = (_of(vae, name) for name in ("latents_mean", "latents_std"))
    scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
    if mean is None or std is None:
        return latents * scale
    return (latents - mean.view(1, -1, 1, 1)) * scale / std.view(1, -1, 1, 1)


def _of(vae: Any, name: str) -> Tensor | None:
    value = getattr(vae.config, name, None)
    value = dict(vae.named_buffers()).get(name) if value is None else value
    return None if value is None else torch.as_tensor(value, dtype=torch.float32).cpu().flatten()


def fit(latents: Tensor, colours: Tensor) -> Tensor:
    """`(n, c)` latents and `(n, 3)` colours to the map `(c + 1, 3)` that takes the one to the other best."""
    whole = torch.cat([latents, torch.ones(len(latents), 1)], 1)
    square = whole.T @ whole + RIDGE * torch.eye(whole.shape[1])
    solved: Tensor = torch.linalg.solve(square, whole.T @ colours)
    return solved


def picture(latents: Tensor, colours: Tensor) -> Image:
    """One latent frame `(c, h, w)` as a picture `(h, w, 3)`."""
    flat = latents.detach().float().cpu().flatten(1).T
    shown = flat @ colours[:-1] + colours[-1]
    out = ((shown.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.asarray(out.view(*latents.shape[1:], 3).numpy(), np.uint8)


def middle(tensor: Tensor, layout: Layout, channels: int, grid: tuple[int, int, int]) -> Tensor:
    """The middle frame `(c, h, w)` of what a denoiser is given; `grid` is frames, rows and columns of packed tokens.

    Conditions that are joined on come behind the channels, and before the tokens.
    """
    if layout == "packed":
        tokens = tensor[0, -grid[0] * grid[1] * grid[2] :]
        return tokens.view(*grid, -1)[grid[0] // 2, ..., :channels].permute(2, 0, 1)
    clip = tensor[0] if layout == "bfchw" else tensor[0].transpose(0, 1)
    return clip[len(clip) // 2, :channels]
