"""A model that paints nothing: what goes in comes out. For tests, and to time everything around the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engines import Choice
from stream.config import ModelSpec
from stream.errors import SettingsError
from stream.guidance import Prediction
from stream.prompt import Prompter, Text
from stream.schedule import NoiseCurve

FACTOR = 8


class EchoModel:
    """The pipeline's `Model`, without networks: latents are the picture's pixels, rearranged, and hardly any noise is
    ever added, so that the picture comes back as it was, whatever the settings."""

    name = "echo"
    prediction: Prediction = "sample"
    factor = FACTOR
    latent_channels = 3 * FACTOR**2
    device = torch.device("cpu")
    engines: Mapping[str, Any] = {}
    choice = Choice("echo", "cpu", "f32", "nothing is painted")
    notice = ""

    def __init__(self, spec: ModelSpec | None = None, multiple: int = FACTOR,
                 paint: Callable[[Tensor], Tensor] | None = None) -> None:  # fmt: skip
        """`paint` may change the pictures, `(rows, H, W, 3)` uint8, on their way out."""
        self.spec = spec or ModelSpec("echo", "echo")
        self.multiple, self._paint = multiple, paint
        self.curve = NoiseCurve(torch.full((1000,), 1 - 1e-8, dtype=torch.float64))
        self.prompter = Prompter(lambda _text, _width, _height: Text(torch.zeros(1, 1, 1)))

    def encode(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images.permute(0, 3, 1, 2).float() / 127.5 - 1, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        pictures = F.pixel_shuffle(latents, self.factor).permute(0, 2, 3, 1)
        images = (pictures * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).contiguous()
        return images if self._paint is None else self._paint(images)

    def denoise(self, latents: Tensor, t: Tensor, text: Text) -> Tensor:  # noqa: ARG002
        return latents

    def check_size(self, width: int, height: int) -> None:
        for name, side in (("width", width), ("height", height)):
            if side % self.multiple:
                raise SettingsError(f"{name} {side} is not a multiple of {self.multiple}")

    def prepare(self, width: int, height: int) -> None:
        self.check_size(width, height)
