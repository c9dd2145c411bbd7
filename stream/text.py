"""Prompts through a model's own text encoders, in plain torch: they run only when a prompt changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engines.refit import Swap, in_place
from stream.prompt import Text
from stream.quiet import quiet

log = logging.getLogger("livebrush")


class TextEncoder:
    """One or two CLIP text encoders, behind the pipeline of diffusers that knows how they go together.

    `pipeline` is a StableDiffusionPipeline, or a StableDiffusionXLPipeline, whose `pooled` and `time_ids` are then set.
    Its other networks are let go, so that their weights can be freed.
    """

    def __init__(self, pipeline: Any, device: torch.device, dtype: torch.dtype) -> None:
        pipeline.register_modules(unet=None, vae=None)
        for name in encoders_of(pipeline):
            getattr(pipeline, name).to(device, dtype)
        self._pipeline = pipeline
        self._device = device
        self._pooled = len(encoders_of(pipeline)) > 1

    @torch.inference_mode()
    def __call__(self, prompt: str, width: int, height: int) -> Text:
        """The `Text` of one row, float32, for pictures of this size. What is too long is cut, with a warning."""
        with quiet():
            self._warn(prompt)
            found = self._pipeline.encode_prompt(
                prompt, device=self._device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        if not self._pooled:
            return Text(found[0].float())
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=self._device)
        return Text(found[0].float(), found[2].float(), time_ids)

    def refit(self, weights: Mapping[str, Mapping[str, Tensor]]) -> Swap:
        """Other weights, by text encoder and name; as `Engine.refit`."""
        swaps = [in_place(getattr(self._pipeline, part), values, part) for part, values in weights.items()]

        def swap() -> None:
            for part in swaps:
                part()

        return swap

    def _warn(self, prompt: str) -> None:
        tokenizer = self._pipeline.tokenizer
        length, limit = len(tokenizer(prompt).input_ids), int(tokenizer.model_max_length)
        if length > limit:
            log.warning("the prompt has %d tokens, the model reads %d: its end is ignored", length, limit)


def encoders_of(pipeline: Any) -> list[str]:
    """The names of a pipeline's text encoders."""
    return [n for n in ("text_encoder", "text_encoder_2") if getattr(pipeline, n, None) is not None]
