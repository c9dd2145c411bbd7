"""The networks of a model as engines take them: pictures in, pictures out, every constant inside.

Pictures are RGB uint8 `(rows, H, W, 3)`; latents float32 `(rows, channels, h, w)`, already scaled as the denoiser
expects them. Each module casts what it gets to its own precision and gives back the ports' types.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engines import Network, Port
from stream.text import encoders_of

TRACE = 8  # latent cells a side that networks are traced with, at least
TIME_IDS = 6  # height, width, top, left, height, width


class EncoderNet(nn.Module):
    """Pictures to scaled latents; of a full VAE the mode, so that a still picture stays still."""

    def __init__(self, vae: Any) -> None:
        from diffusers import AutoencoderTiny

        super().__init__()
        self.vae = vae
        self.tiny = isinstance(vae, AutoencoderTiny)
        self.scale, self.shift = scaling(vae)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float().permute(0, 3, 1, 2) / 127.5 - 1  # TensorRT casts bytes at its edge, and no more
        encoded = self.vae.encode(pixels.to(dtype_of(self)), return_dict=False)[0]
        latents = encoded if self.tiny else encoded.mode()
        scaled: Tensor = (latents.float() - self.shift) * self.scale
        return scaled

    def extra_repr(self) -> str:
        return settled(self.vae)


class DecoderNet(nn.Module):
    """Scaled latents to pictures."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self.scale, self.shift = scaling(vae)

    def forward(self, latents: Tensor) -> Tensor:
        raw = latents.float() / self.scale + self.shift
        pixels = self.vae.decode(raw.to(dtype_of(self)), return_dict=False)[0].float()
        grey = (pixels.clamp(-1, 1) * 127.5 + 127.5).round()
        images: Tensor = grey.permute(0, 2, 3, 1).to(torch.uint8)
        return images

    def extra_repr(self) -> str:
        return settled(self.vae)


class DenoiserNet(nn.Module):
    """Latents, timesteps and text to the UNet's prediction. `pooled` and `time_ids` are SDXL's."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, latents: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None = None, time_ids: Tensor | None = None
    ) -> Tensor:
        dtype = dtype_of(self)
        more = None if pooled is None else {"text_embeds": pooled, "time_ids": time_ids}
        out = self.unet(latents.to(dtype), t, tokens.to(dtype), added_cond_kwargs=more, return_dict=False)[0]
        prediction: Tensor = out.float()
        return prediction

    def extra_repr(self) -> str:
        return settled(self.unet)


class TextNet(nn.Module):
    """Token ids to what the denoiser reads of one CLIP text encoder, as diffusers' pipelines take it: of SD the last
    layer, normed; of SDXL the last but one as it is, and the second encoder's pooled text besides."""

    def __init__(self, encoder: Any, penultimate: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.penultimate = penultimate
        self.pools = penultimate and hasattr(encoder, "text_projection")

    def forward(self, ids: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        out = self.encoder(ids, output_hidden_states=self.penultimate)
        tokens: Tensor = (out.hidden_states[-2] if self.penultimate else out[0]).float()
        return (tokens, out.text_embeds.float()) if self.pools else tokens

    def extra_repr(self) -> str:
        return f"penultimate={self.penultimate}, {self.encoder.config.to_json_string(use_diff=False)}"


def dtype_of(module: nn.Module) -> torch.dtype:
    """The precision that a module's weights are in."""
    return next(module.parameters()).dtype


def settled(model: Any) -> str:
    """A model's configuration, for keys of caches: weights alone do not tell heads, scales or activations."""
    return ", ".join(f"{k}={v!r}" for k, v in sorted(model.config.items()) if not k.startswith("_"))


def scaling(vae: Any) -> tuple[float, float]:
    """`scale` and `shift` of latents = (encoded - shift) * scale."""
    return float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0.0)


def factor_of(vae: Any) -> int:
    """Pixels a side of one latent cell: 8 of most models, 4 of the built-in one."""
    widths = getattr(vae.config, "encoder_block_out_channels", None) or vae.config.block_out_channels
    return int(2 ** (len(widths) - 1))


def halvings_of(unet: Any) -> int:
    """What sides of a latent must be a multiple of: 2 for each time that the UNet halves them."""
    return int(2 ** (len(unet.config.block_out_channels) - 1))


def encoder(vae: Any, multiple: int) -> Network:
    """The encoder, described for engines; picture sides are multiples of `multiple`."""
    return _codec("encoder", EncoderNet(vae), vae, multiple)


def decoder(vae: Any, multiple: int) -> Network:
    """The decoder, described for engines."""
    return _codec("decoder", DecoderNet(vae), vae, multiple)


def _codec(name: str, module: nn.Module, vae: Any, multiple: int) -> Network:
    pictures = Port("images", ("rows", "H", "W", 3), torch.uint8)
    latents = Port("latents", ("rows", int(vae.config.latent_channels), "h", "w"))
    given, made = (pictures, latents) if name == "encoder" else (latents, pictures)
    factor = factor_of(vae)
    cells = _cells(multiple // factor)
    side = cells * factor
    sizes = {"rows": 1, "H": side, "W": side, "h": cells, "w": cells}
    return Network(name, module.eval(), (given,), made, sizes)


def denoiser(unet: Any, tokens: int, pooled: int | None) -> Network:
    """The denoiser, described for engines; `tokens` is the prompt's length, `pooled` SDXL's width of pooled text."""
    channels, width = int(unet.config.in_channels), int(unet.config.cross_attention_dim)
    ports = [
        Port("latents", ("rows", channels, "h", "w")),
        Port("t", ("rows",), exact=True),
        Port("tokens", ("rows", tokens, width)),
    ]
    if pooled is not None:
        ports += [Port("pooled", ("rows", pooled)), Port("time_ids", ("rows", TIME_IDS), exact=True)]
    cells = _cells(halvings_of(unet))
    sizes = {"rows": 1, "h": cells, "w": cells}
    output = Port("prediction", ("rows", int(unet.config.out_channels), "h", "w"))
    return Network("denoiser", DenoiserNet(unet).eval(), tuple(ports), output, sizes)


def text_encoders(pipeline: Any) -> list[Network]:
    """A pipeline's text encoders, described for engines under their names in it."""
    names = encoders_of(pipeline)
    return [text_encoder(n, getattr(pipeline, n), len(names) > 1) for n in names]


def text_encoder(name: str, encoder: Any, penultimate: bool) -> Network:
    """One text encoder, described for engines; `penultimate` as `TextNet`."""
    config, module = encoder.config, TextNet(encoder, penultimate)
    length = int(config.max_position_embeddings)
    ids = Port("ids", ("rows", length), torch.int64)
    tokens = Port("tokens", ("rows", length, int(config.hidden_size)))
    pooled = (Port("pooled", ("rows", int(config.projection_dim))),) if module.pools else ()
    return Network(name, module.eval(), (ids,), tokens, {"rows": 1}, more=pooled)


def _cells(multiple: int) -> int:
    """The smallest legal number of latent cells a side that is no less than TRACE."""
    return -(-TRACE // multiple) * multiple
