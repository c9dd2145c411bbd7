"""The networks of well-known models at full size with random weights, for building and timing without any download.

Sizes follow the models' published configurations; the tests compare them with the published numbers of parameters.
Weights are drawn in the precision and on the device that they are used in, so no larger copy ever exists; to be
exported, one at a time.

    python -m tools.full_size sd-turbo denoiser --precision f16 --out FOLDER

exports one network (or all) and prints time, memory and size of each.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines import Network
from engines.export import export
from engines.torch import DTYPES
from stream import networks

TOKENS = 77
NOISE = 1 << 20  # numbers drawn; every weight is made of them, over and over, each from another one on
STRIDE = 104_729  # from a weight's first number to the next one's

Make = Callable[[], Any]


def _unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, **more)


def _sd_unet(**more: Any) -> Any:
    return _unet(block_out_channels=(320, 640, 1280, 1280), **more)


def _sdxl_unet() -> Any:
    return _unet(
        block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20), cross_attention_dim=2048, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def _taesd() -> Any:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny()


def _vae(scaling: float) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, sample_size=512, scaling_factor=scaling,
    )  # fmt: skip


def _clip(width: int, layers: int, heads: int, act: str, pooled: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=TOKENS, hidden_act=act, projection_dim=pooled or 512,
        bos_token_id=49406, eos_token_id=49407, pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if pooled else CLIPTextModel(config)


CLIP_L = partial(_clip, 768, 12, 12, "quick_gelu")
CLIP_H = partial(_clip, 1024, 23, 16, "gelu")
CLIP_G = partial(_clip, 1280, 32, 20, "gelu", 1280)

MODELS: dict[str, dict[str, Make]] = {
    "sd-turbo": {
        "unet": partial(
            _sd_unet, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        ),
        "taesd": _taesd, "vae": partial(_vae, 0.18215), "text_encoder": CLIP_H,
    },
    "sd15": {
        "unet": partial(_sd_unet, cross_attention_dim=768, attention_head_dim=8),
        "taesd": _taesd, "vae": partial(_vae, 0.18215), "text_encoder": CLIP_L,
    },
    "sdxl-turbo": {
        "unet": _sdxl_unet, "taesd": _taesd, "vae": partial(_vae, 0.13025),
        "text_encoder": CLIP_L, "text_encoder_2": CLIP_G,
    },
}  # fmt: skip
POOLED = {"sdxl-turbo": 1280}


def names(model: str) -> list[str]:
    """The networks of a model: of the small and of the full autoencoder, and the text encoders."""
    texts = [n for n in MODELS[model] if n.startswith("text_encoder")]
    return ["denoiser", "encoder", "decoder", "vae-encoder", "vae-decoder", *texts]


def network(model: str, name: str, dtype: torch.dtype = torch.float16, device: str = "cpu") -> Network:
    """One of `names`, with the same random weights every time. Nothing else of the model is made."""
    return _described(model, name, lambda make: drawn(hollow(make, dtype), device))


def outline(model: str, name: str, dtype: torch.dtype = torch.float16) -> tuple[Network, Drawn]:
    """The same network without memory for its weights, and those: each is drawn when it is asked for."""
    found = _described(model, name, lambda make: hollow(make, dtype))
    return found, Drawn(found.module)


def _described(model: str, name: str, made: Callable[[Make], Any]) -> Network:
    parts = MODELS[model]
    if name == "denoiser":
        return networks.denoiser(made(parts["unet"]), TOKENS, POOLED.get(model))
    if name.startswith("text_encoder"):
        return networks.text_encoder(name, made(parts[name]), "text_encoder_2" in parts)
    describe = networks.encoder if name.endswith("encoder") else networks.decoder
    return describe(made(parts["vae" if name.startswith("vae-") else "taesd"]), 64)


def hollow(make: Make, dtype: torch.dtype) -> nn.Module:
    """A module without memory for its weights; its buffers are whole."""
    with _in(dtype), torch.device("meta"):
        module: nn.Module = make()
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name != "position_ids":
                raise ValueError(f"{type(part).__name__} has the buffer {name}: say what belongs in it")
            setattr(part, name, torch.arange(buffer.shape[-1]).expand(buffer.shape).clone())
    return module.eval()


def drawn(module: nn.Module, device: str) -> nn.Module:
    """`module` with every weight on `device`."""
    weights = Drawn(module, device)
    for part_name, part in module.named_modules():
        for name in part._parameters:
            if part._parameters[name] is not None:
                full = f"{part_name}.{name}" if part_name else name
                part._parameters[name] = nn.Parameter(weights[full], requires_grad=False)
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))
    return module


class Drawn(Mapping[str, Tensor]):
    """A module's weights, each drawn when it is asked for: spread as torch does it, norms at one, shifts at zero."""

    def __init__(self, module: nn.Module, device: str = "cpu") -> None:
        weights = list(module.named_parameters())
        self._shapes = {name: (w.shape, w.dtype, k * STRIDE % NOISE) for k, (name, w) in enumerate(weights)}
        self._device = device
        self._noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(5)).to(device)

    def __getitem__(self, name: str) -> Tensor:
        shape, dtype, start = self._shapes[name]
        if len(shape) < 2:
            return torch.full(shape, float(name.endswith("weight")), dtype=dtype, device=self._device)
        noise = self._noise.roll(start)  # no two alike: builders keep equal weights once
        spread = (noise / math.sqrt(3 * shape[1:].numel())).to(dtype)
        weight = torch.empty(shape, dtype=dtype, device=self._device)
        for piece in weight.view(-1).split(NOISE):
            piece.copy_(spread[: len(piece)])
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@contextmanager
def _in(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("name", nargs="*", help="networks; all where none is named")
    parser.add_argument("--precision", choices=list(DTYPES), default="f16")
    parser.add_argument("--out", type=Path, required=True, help="a folder; one of its own for each network")
    wish = parser.parse_args()
    for name in wish.name or names(wish.model):
        place = wish.out / name
        place.mkdir(parents=True, exist_ok=True)
        found, weights = outline(wish.model, name, DTYPES[wish.precision])
        done = export(found, place, wish.precision, weights)
        print(  # noqa: T201
            f"{wish.model} {name} {wish.precision}: {done.seconds:.1f} s, {done.bytes / 1e6:.0f} MB written, "
            f"{done.peak_bytes / 1e6:.0f} MB of memory"
        )


if __name__ == "__main__":
    main()
