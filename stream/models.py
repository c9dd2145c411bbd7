"""Models: weights to three networks on engines and a text encoder, ready for the pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from engines import Choice, Engine, Network, Tell
from engines.refit import Swap
from engines.torch import DTYPES
from stream import fallback, networks
from stream.choice import ranges
from stream.config import Lora, ModelSpec
from stream.errors import ModelError, SettingsError
from stream.guidance import Prediction
from stream.lora import Mix
from stream.networks import TIME_IDS
from stream.prompt import Prompter, Text
from stream.quiet import quiet
from stream.schedule import SPACING, NoiseCurve
from stream.spans import ranged
from stream.text import TextEncoder, encoders_of
from stream.weights import read_pipeline

log = logging.getLogger("livebrush")
VAES = ("AutoencoderKL", "AutoencoderTiny")


@dataclass(frozen=True, eq=False)
class Model:
    """What the pipeline paints with.

    Pictures are `(rows, H, W, 3)` uint8, latents `(rows, latent_channels, H / factor, W / factor)` float32, all on
    `device`. `multiple` divides the sides of every picture; `engines` are `encoder`, `denoiser` and `decoder`.
    """

    spec: ModelSpec
    curve: NoiseCurve
    prediction: Prediction
    factor: int
    multiple: int
    latent_channels: int
    engines: Mapping[str, Engine]
    prompter: Prompter
    text: TextEncoder
    lora: Mix
    choice: Choice  # what the denoiser runs on
    notice: str = ""  # why that is not what was asked for

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def device(self) -> torch.device:
        return self.engines["denoiser"].device

    def encode(self, images: Tensor) -> Tensor:
        """Pictures to latents, already scaled for the denoiser."""
        return self.engines["encoder"](images)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures."""
        return self.engines["decoder"](latents)

    def denoise(self, latents: Tensor, t: Tensor, text: Text) -> Tensor:
        """The UNet's prediction, of the latents' shape; `t` is `(rows,)`."""
        return self.engines["denoiser"](latents, t.float(), *text.tensors())

    def check_size(self, width: int, height: int) -> None:
        """SettingsError unless the model can paint pictures of this size."""
        for name, side in (("width", width), ("height", height)):
            if side < self.multiple or side % self.multiple:
                down = max(side // self.multiple, 1) * self.multiple
                near = f"{down} or {down + self.multiple}" if side > self.multiple else f"{down}"
                raise SettingsError(f"{name} {side} is not a multiple of {self.multiple}: use {near}")

    def prepare(self, width: int, height: int) -> None:
        """Gets the engines ready for pictures of this size; SettingsError as `check_size`."""
        self.check_size(width, height)
        for engine in self.engines.values():
            engine.prepare(**sizes_of(width, height, self.factor))

    def mix(self, loras: tuple[Lora, ...]) -> Swap:
        """Gets ready for other LoRAs, in any thread and one at a time, while pictures are painted. The function that
        comes back puts them in, all or none; call it between two ticks. Texts encoded before are then of the old ones.

        Raises ModelError or EngineError, and nothing changes, where one of them is not there or does not fit.
        """
        weights = self.lora.weights(loras)
        unet = {f"unet.{name}": value for name, value in weights.pop("unet", {}).items()}
        swaps = [self.engines["denoiser"].refit(unet)] if unet else []
        if weights:
            swaps += [self.text.refit(weights), self.prompter.forget]

        def swap() -> None:
            for part in swaps:
                part()
            self.lora.loras = loras

        return swap


def load(spec: ModelSpec, choice: Choice, cache: Path | None = None, tell: Tell | None = None) -> Model:
    """The model of `spec` on the engine of `choice`; `cache` keeps what engines are slow to make, `tell` hears of it.

    Where TensorRT fails, torch runs all of it, and the model's `notice` says why. Raises ModelError where the weights
    are missing, damaged or of an unknown kind, EngineError where they cannot run.
    """
    if choice.backend != "torch":
        torch.set_num_threads(1)  # little is left to torch, and its idle threads would spin on the engines' cores
    pipeline = read_pipeline(spec)
    lora = Mix(lambda: read_pipeline(spec))
    lora.merge(pipeline, spec.loras)
    curve, prediction = noise_of(pipeline.scheduler, spec)
    measured = ranges(spec) if choice.precision == "int8" else {}
    parts = [replace(n, ranges=measured.get(n.name)) for n in networks_of(pipeline, spec)]
    vae, unet = pipeline.vae, pipeline.unet
    factor = networks.factor_of(vae)
    codec = codec_choice(pipeline, choice)
    multiple = factor * networks.halvings_of(unet)
    width, height = (max(s // multiple, 1) * multiple for s in (spec.settings.width, spec.settings.height))
    found = fallback.running(
        parts, {n.name: choice if n.name == "denoiser" else codec for n in parts},
        sizes_of(width, height, factor), spec.name, cache, tell,
    )  # fmt: skip
    device = found.engines["denoiser"].device
    text = TextEncoder(pipeline, device, torch.float32 if device.type == "cpu" else DTYPES[found.choice.precision])
    return Model(
        spec, curve, prediction, factor, multiple, int(vae.config.latent_channels), found.engines, Prompter(text), text,
        lora, found.choice, found.notice,
    )  # fmt: skip


def sizes_of(width: int, height: int, factor: int) -> dict[str, int]:
    """The named axes of one picture of this size."""
    return {"rows": 1, "H": height, "W": width, "h": height // factor, "w": width // factor}


def codec_choice(pipeline: Any, choice: Choice) -> Choice:
    """SDXL's own VAE overflows in f16, and says so; other models' say so by default, and do not."""
    overflows = len(encoders_of(pipeline)) > 1 and getattr(pipeline.vae.config, "force_upcast", False)
    if choice.precision != "f16" or not overflows:
        return choice
    return replace(choice, precision="f32", why="this VAE overflows in f16")


def noise_of(scheduler: Any, spec: ModelSpec) -> tuple[NoiseCurve, Prediction]:
    """The noise that a model was trained with, and what it predicts, from its own scheduler."""
    from diffusers import LCMScheduler

    with quiet():
        own = LCMScheduler.from_config(scheduler.config)
    prediction = own.config.prediction_type
    if prediction not in get_args(Prediction):
        known = ", ".join(get_args(Prediction))
        raise ModelError(f"model {spec.model} predicts {prediction!r}: expected {known} in scheduler/")
    if len(own.alphas_cumprod) < SPACING:
        raise ModelError(f"model {spec.model} has {len(own.alphas_cumprod)} timesteps: expected {SPACING} or more")
    return NoiseCurve(own.alphas_cumprod.float()), cast(Prediction, prediction)


def networks_of(pipeline: Any, spec: ModelSpec) -> list[Network]:
    """Encoder, denoiser and decoder; ModelError where the parts do not fit each other or are of another kind."""
    vae, unet = pipeline.vae, pipeline.unet
    _check_fit(vae, unet, spec)
    pooled = int(pipeline.text_encoder_2.config.projection_dim) if len(encoders_of(pipeline)) > 1 else None
    _check_text(pipeline, unet, pooled, spec)
    factor = networks.factor_of(vae)
    multiple = factor * networks.halvings_of(unet)
    tokens = int(pipeline.tokenizer.model_max_length)
    denoiser = replace(networks.denoiser(unet, tokens, pooled), changes=spec.changes)
    parts = [networks.encoder(vae, multiple), denoiser, networks.decoder(vae, multiple)]
    return ranged(parts, spec.settings, factor)


def _check_fit(vae: Any, unet: Any, spec: ModelSpec) -> None:
    if type(vae).__name__ not in VAES:
        raise ModelError(f"vae of model {spec.model} is a {type(vae).__name__}: use an {' or '.join(VAES)}")
    made, taken = vae.config.latent_channels, unet.config.in_channels
    if made != taken:
        whose = f"vae {spec.vae}" if spec.vae else "its vae"
        raise ModelError(
            f"model {spec.model} takes latents of {taken} channels, {whose} makes {made}: use a vae made for it "
            "(inpainting and depth models cannot be used)"
        )


def _check_text(pipeline: Any, unet: Any, pooled: int | None, spec: ModelSpec) -> None:
    width = sum(int(getattr(pipeline, n).config.hidden_size) for n in encoders_of(pipeline))
    if unet.config.cross_attention_dim != width:
        raise ModelError(
            f"model {spec.model} takes text of width {unet.config.cross_attention_dim}, its text encoders make {width}"
        )
    if unet.config.time_cond_proj_dim is not None:
        raise ModelError(f"model {spec.model} takes a guidance scale as input: use its base model with an LCM-LoRA")
    extra = 0 if pooled is None else pooled + TIME_IDS * (unet.config.addition_time_embed_dim or 0)
    if (unet.config.projection_class_embeddings_input_dim or 0) != extra:
        raise ModelError(f"model {spec.model} takes other inputs than {TIME_IDS} sizes and pooled text (a refiner?)")
