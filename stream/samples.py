"""What a denoiser meets when it is used, for whoever measures it: the test card in noise, and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engines import Network
from stream.config import ModelSpec
from stream.models import noise_of
from stream.sources.testcard import CardSource
from stream.text import TextEncoder

SIDE = 256  # pixels
INDICES = (0, 16, 32, 45)  # of the schedule: from noise to hardly any
PROMPTS = ("", "oil painting of a city at night, highly detailed", "portrait of a woman, watercolor")


@torch.inference_mode()
def samples(pipeline: Any, spec: ModelSpec, parts: Sequence[Network]) -> list[tuple[Tensor, ...]]:
    """Inputs of the denoiser among `parts`, one row each. The pipeline's other networks are let go, as `TextEncoder`
    does."""
    encoder = next(n for n in parts if n.name == "encoder").module
    curve, _ = noise_of(pipeline.scheduler, spec)
    schedule = curve.schedule(INDICES)
    text = TextEncoder(pipeline, torch.device("cpu"), torch.float32)
    card, noise = CardSource(size=(SIDE, SIDE)), torch.Generator().manual_seed(0)
    prompts = [*PROMPTS, *spec.prompts][: max(len(PROMPTS), len(INDICES))]
    made = []
    for k, (t, a, b) in enumerate(zip(schedule.timesteps, schedule.a, schedule.b, strict=True)):
        z = encoder(torch.from_numpy(card.draw(30 * k))[None])
        x = a * z + b * torch.randn(z.shape, generator=noise)
        words = text(prompts[k % len(prompts)], SIDE, SIDE)
        made.append((x, torch.tensor([float(t)]), *words.tensors()))
    return made
