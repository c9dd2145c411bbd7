"""The built-in motion modules, trained on top of the built-in model, whose own weights do not change. Each resumes.

First a *domain adapter*: an ordinary LoRA learnt by plain diffusion at every t, for clips from pure noise (the model
itself was trained on photos with little noise).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from . import training
from .prompts import photo_prompt, style_prompt
from .training import NAMES, Average, Checkpoint, Noised, Words, hold_then_fall, optimizer, train


@dataclass(frozen=True)
class MotionRecipe:
    """Everything that decides the motion modules."""

    domain_steps: int = 2000
    domain_batch: int = 16
    rank: int = 12
    seed: int = 0
    device: str = "cpu"


def told_of(rng: np.random.Generator, columns: list[int]) -> list[str]:
    """A prompt for each style, by its column in the table."""
    return [photo_prompt(rng) if c == 0 else style_prompt(NAMES[c], rng) for c in columns]


def add_domain(unet: Any, recipe: MotionRecipe) -> None:
    """Puts an empty LoRA on every convolution and every matrix of the UNet; only it learns."""
    layers = [n for n, m in unet.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    torch.manual_seed(recipe.seed)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=layers), "domain")


def train_domain(folder: Path, pipeline: Any, latents: np.ndarray, recipe: MotionRecipe) -> None:
    """Plain diffusion of styled latents, t anywhere: `x_t` to the picture that it was made of."""
    unet, words = pipeline.unet, Words(pipeline.tokenizer, pipeline.text_encoder, recipe.device)
    add_domain(unet, recipe)
    unet.to(recipe.device, memory_format=torch.channels_last)
    alphas = training.make_scheduler().alphas_cumprod.to(recipe.device)
    learns = nn.ParameterList(p for p in unet.parameters() if p.requires_grad)
    keep = Checkpoint(folder / "domain.pt", Average({"domain": learns}), optimizer(1e-3, (learns, 1)))

    def step_of(step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, 11, step])
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        whole = step % 4 == 0
        count, side = (recipe.domain_batch // 4, 64) if whole else (recipe.domain_batch, 32)
        columns = rng.integers(0, len(NAMES), count).tolist()
        z = torch.from_numpy(_cut(latents, rng, columns, side)).to(recipe.device).float()
        noised = Noised.at(torch.from_numpy(rng.integers(1, 1000, count)).to(recipe.device), alphas)
        x = noised.mix(z).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            told = words(told_of(rng, columns))
        ours = noised.a * x - noised.b * unet(x, noised.t, told, return_dict=False)[0]
        return (noised.weight() * (ours - z).square()).mean()

    train("domain", recipe.domain_steps, keep, step_of, rate=hold_then_fall)


def _cut(latents: np.ndarray, rng: np.random.Generator, columns: list[int], side: int) -> np.ndarray:
    """Pieces of pictures in these styles; corners are multiples of 8, so that the styles' screens stay in place."""
    chosen = rng.integers(len(latents), size=len(columns))
    corners = rng.integers(0, (64 - side) // 8 + 1, (len(columns), 2)) * 8
    places = zip(chosen, columns, corners, strict=True)
    return np.stack([latents[i, c, :, y : y + side, x : x + side] for i, c, (y, x) in places])


def save_domain(file: Path, unet: Any) -> None:
    """The LoRA alone, in diffusers' format."""
    weights = {k: v.half() for k, v in get_peft_model_state_dict(unet, adapter_name="domain").items()}
    StableDiffusionPipeline.save_lora_weights(file.parent, unet_lora_layers=weights, weight_name=file.name)
