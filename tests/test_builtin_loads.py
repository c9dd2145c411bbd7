"""The built-in model goes through the very code that loads SD-Turbo, and starts at once."""

from __future__ import annotations

import time

import pytest
import torch

from engines import Choice
from stream import models
from stream.config import spec

TORCH = Choice("torch", "cpu", "f32", "a test")


def test_the_builtin_model_loads_and_paints() -> None:
    model = models.load(spec("builtin"), TORCH)
    settings = model.spec.settings
    assert (model.prediction, model.factor, model.latent_channels) == ("v_prediction", 4, 4)
    model.check_size(settings.width, settings.height)
    images = torch.full((1, 64, 96, 3), 128, dtype=torch.uint8)
    latents = model.encode(images)
    text = model.prompter("watercolor painting", 96, 64)
    assert model.denoise(latents, torch.tensor([99]), text).shape == latents.shape == (1, 4, 16, 24)
    assert model.decode(latents).shape == images.shape


@pytest.mark.alone
def test_the_builtin_model_loads_quickly() -> None:
    models.load(spec("builtin"), TORCH)  # imports
    start = time.perf_counter()
    models.load(spec("builtin"), TORCH)
    assert time.perf_counter() - start < 10
