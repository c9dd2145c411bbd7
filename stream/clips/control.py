"""What a clip follows besides its prompts: a control video through a ControlNet, keyframes through SparseCtrl.

Both run beside the motion network in torch, and add their residuals to it (arXiv 2302.05543, 2311.16933).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stream.clips.latents import Slab
from stream.clips.timeline import Keyframe, Timeline
from stream.clips.windows import Window
from stream.errors import ClipError, ModelError
from stream.hub import Wanted, fetch
from stream.prompt import Text
from stream.quiet import quiet
from stream.weights import WEIGHTS, check_whole, locate, reading

CONFIG = "config.json"
KINDS = {"ControlNetModel": "a ControlNet", "SparseControlNetModel": "a SparseCtrl"}
Residuals = tuple[tuple[Tensor, ...], Tensor]


class Guide(Protocol):
    """What is added to a motion network's blocks; None where it has nothing to say."""

    def __call__(self, x: Tensor, t: Tensor, text: Text, frames: Window) -> Residuals | None: ...


def folder_of(source: str) -> Path:
    """The folder of a control network. ModelError where it is not there."""
    place = locate(source, "control model")
    if isinstance(place, str):
        place = fetch(Wanted(place, "control model", (CONFIG, f"{WEIGHTS}*.safetensors"), "control.model = FOLDER"))
    if place.is_file():
        raise ModelError(f"control model {source} is a file: use a folder with {CONFIG} and {WEIGHTS}.safetensors")
    return place


def kind_of(folder: Path) -> str:
    """ControlNetModel or SparseControlNetModel. ModelError where it is neither."""
    try:
        kind = str(json.loads((folder / CONFIG).read_text())["_class_name"])
    except (OSError, ValueError, KeyError):
        raise ModelError(
            f"control model {folder} has no {CONFIG} that says what it is: use a diffusers folder"
        ) from None
    if kind not in KINDS:
        raise ModelError(f"control model {folder} is a {kind}: use {' or '.join(KINDS.values())}")
    return kind


def check(timeline: Timeline) -> None:
    """ClipError unless what is to be followed goes with the network that is to follow it."""
    control = timeline.control
    keyframes = keyframes_of(timeline)
    if control is None:
        if keyframes:
            raise ClipError("keyframes need a SparseCtrl: set control.model to one", ("keyframes",))
        return
    if kind_of(folder_of(control.model)) == "ControlNetModel":
        if control.input is None or keyframes:
            raise ClipError("a ControlNet follows a video or folder: set control.input, and no keyframes", ("control",))
    elif control.input is not None or not keyframes:
        raise ClipError("a SparseCtrl follows keyframes: set control.keyframes, and no control.input", ("control",))
    for keyframe in keyframes:
        if keyframe.frame >= timeline.frames:
            told = f"keyframe {keyframe.frame} is not in the clip: its frames are 0 to {timeline.frames - 1}"
            raise ClipError(told, ("keyframes",))


def keyframes_of(timeline: Timeline) -> tuple[Keyframe, ...]:
    return timeline.keyframes + (timeline.control.keyframes if timeline.control else ())


def load(source: str, unet: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The network, ready to run. ModelError where it is damaged or made for another kind of model."""
    import diffusers

    folder = folder_of(source)
    with quiet(), reading(f"control model {source}", folder):
        network = getattr(diffusers, kind_of(folder)).from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True
        )
    check_whole(network, f"control model {source}")
    ours, theirs = ((tuple(n.config.block_out_channels), n.config.cross_attention_dim) for n in (unet, network))
    if ours != theirs:
        raise ModelError(
            f"control model {source} is made for blocks {theirs}, this model has {ours}: use one made for it"
        )
    with quiet():
        return network.to(device, dtype).eval()


@dataclass(frozen=True, eq=False)
class Follow:
    """A ControlNet and the pictures that it follows: uint8 `(3, height, width)`, on disk."""

    network: Any
    opened: Callable[[], Slab]
    scale: float

    def __call__(self, x: Tensor, t: Tensor, text: Text, frames: Window) -> Residuals:
        with closing(self.opened()) as pictures:
            shown = pictures.read(frames)[0].transpose(0, 1).to(x.device, x.dtype) / 255
        rows = x.transpose(1, 2).flatten(0, 1)
        found: Residuals = self.network(
            rows, t, encoder_hidden_states=text.tokens, controlnet_cond=torch.cat([shown] * len(x)),
            conditioning_scale=self.scale, added_cond_kwargs=added(text), return_dict=False,
        )  # fmt: skip
        return found


@dataclass(frozen=True, eq=False)
class Meet:
    """A SparseCtrl and the pictures that frames must look like: latents or pixels `(c, h, w)`, with their strengths."""

    network: Any
    pictures: Mapping[int, tuple[Tensor, float]]
    scale: float

    def __call__(self, x: Tensor, t: Tensor, text: Text, frames: Window) -> Residuals | None:
        here = {place: self.pictures[f] for place, f in enumerate(frames) if f in self.pictures}
        if not here:
            return None
        channels, *sides = next(iter(self.pictures.values()))[0].shape
        shown = torch.zeros(1, channels, len(frames), *sides, dtype=x.dtype, device=x.device)
        mask = torch.zeros_like(shown[:, :1])
        for place, (picture, strength) in here.items():
            shown[0, :, place], mask[:, :, place] = picture.to(x.device, x.dtype), strength
        found: Residuals = self.network(
            x, t, encoder_hidden_states=text.tokens, controlnet_cond=shown, conditioning_mask=mask,
            conditioning_scale=self.scale, return_dict=False,
        )  # fmt: skip
        return found


@dataclass(frozen=True, eq=False)
class Guided:
    """A motion network that a guide adds to, as the chain calls it."""

    network: nn.Module
    guide: Guide

    def __call__(self, x: Tensor, t: Tensor, text: Text, frames: Window) -> Tensor:
        weight = next(self.network.parameters())
        x, tokens = (v.to(weight.device, weight.dtype) for v in (x, text.tokens))
        pooled, times = (None if v is None else v.to(weight.device) for v in (text.pooled, text.time_ids))
        text, t = Text(tokens, pooled, times), t.to(weight.device)
        down, middle = self.guide(x, t, text, frames) or (None, None)
        out = self.network(
            x, t, text.tokens, added_cond_kwargs=added(text), down_block_additional_residuals=down,
            mid_block_additional_residual=middle, return_dict=False,
        )  # fmt: skip
        prediction: Tensor = out[0].float().cpu()
        return prediction


def added(text: Text) -> dict[str, Tensor] | None:
    """SDXL's further conditions."""
    if text.pooled is None or text.time_ids is None:
        return None
    return {"text_embeds": text.pooled, "time_ids": text.time_ids}
