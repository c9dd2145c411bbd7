"""Motion networks on engines: one for each motion module and window length, over one model's weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines import Choice, Engine, Network, Port, engine_of
from engines.torch import DTYPES
from stream.clips import motion_lora
from stream.clips.control import Guide, Guided
from stream.clips.modules import MotionModule
from stream.clips.recipe import Motion
from stream.clips.unet import motion_unet, set_motion
from stream.clips.windows import Window
from stream.networks import TIME_IDS, dtype_of, settled
from stream.prompt import Text

TRACE = 8  # latent cells a side that networks are traced with, at least


class MotionNet(nn.Module):
    """Clips `(rows, C, F, h, w)` and text of every frame `(rows, F, ...)` to predictions, whatever the precision."""

    def __init__(self, unet: nn.Module, motion: Motion) -> None:
        super().__init__()
        self.unet = unet
        self._motion = motion

    def forward(
        self, latents: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None = None, time_ids: Tensor | None = None
    ) -> Tensor:
        dtype = dtype_of(self)
        more = None
        if pooled is not None and time_ids is not None:
            more = {"text_embeds": pooled.to(dtype).flatten(0, 1), "time_ids": time_ids.flatten(0, 1)}
        out = self.unet(latents.to(dtype), t, tokens.to(dtype).flatten(0, 1), added_cond_kwargs=more, return_dict=False)
        prediction: Tensor = out[0].float()
        return prediction

    def extra_repr(self) -> str:
        return f"scale={self._motion.scale}, effect={self._motion.effect}, {settled(self.unet)}"


@dataclass(frozen=True, eq=False)
class Driven:
    """An engine as the chain calls a network."""

    engine: Engine

    def __call__(self, x: Tensor, t: Tensor, text: Text, frames: Window) -> Tensor:
        rows = [part.view(len(x), len(frames), *part.shape[1:]) for part in text.tensors()]
        return self.engine(x, t.float().expand(len(x)), *rows).cpu()


@dataclass(eq=False)
class Nets:
    """The motion networks of one model, built when they are first needed and kept."""

    unet: Any
    text_shape: tuple[int, int, int | None]  # tokens, their width, the width of SDXL's pooled text
    modules: Mapping[str, MotionModule]
    choice: Choice
    cache: Path | None = None
    _units: dict[Motion, nn.Module] = field(default_factory=dict)
    _engines: dict[tuple[Motion, int], Engine] = field(default_factory=dict)

    def keep(self, motions: Collection[Motion]) -> None:
        """Lets go of all others: one after another, a queue may ask for many."""
        for key in [k for k in self._engines if k[0] not in motions]:
            del self._engines[key]
        for motion in [m for m in self._units if m not in motions]:
            del self._units[motion]

    def unit(self, motion: Motion) -> nn.Module:
        """The network itself, in torch; it shares every 2-D weight with the others."""
        if motion not in self._units:
            adapter = None
            if motion.source is not None:
                adapter = self.modules[motion.source].load()
                motion_lora.merge(adapter, motion.loras)
            net = motion_unet(self.unet, adapter).eval()
            set_motion(net, motion.scale, motion.effect)
            self._units[motion] = net
        return self._units[motion]

    def __call__(self, motion: Motion, frames: int, size: tuple[int, int], tell: Callable[[], None]) -> Driven:
        """Ready for windows of `frames` frames of `size` cells (height, width); `tell` hears before it takes long."""
        key = (motion, frames)
        if key not in self._engines:
            tell()
            self._engines[key] = engine_of(self._network(motion, frames), self.choice, self.cache)
        engine = self._engines[key]
        engine.prepare(rows=1, h=size[0], w=size[1])
        return Driven(engine)

    def guided(self, motion: Motion, guide: Guide) -> Guided:
        """In torch, with what a guide adds to it."""
        return Guided(self.unit(motion).to(*self.in_torch), guide)

    @property
    def in_torch(self) -> tuple[torch.device, torch.dtype]:
        """Where what no engine runs is, and in which precision."""
        if self.choice.backend != "torch":
            return torch.device("cpu"), torch.float32
        return torch.device(self.choice.device), DTYPES[self.choice.precision]

    def _network(self, motion: Motion, frames: int) -> Network:
        channels, (tokens, width, pooled) = int(self.unet.config.in_channels), self.text_shape
        ports = [
            Port("latents", ("rows", channels, frames, "h", "w")),
            Port("t", ("rows",), exact=True),
            Port("tokens", ("rows", frames, tokens, width)),
        ]
        if pooled is not None:
            ports += [
                Port("pooled", ("rows", frames, pooled)),
                Port("time_ids", ("rows", frames, TIME_IDS), exact=True),
            ]
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        cells = -(-TRACE // multiple) * multiple
        output = Port("prediction", ("rows", int(self.unet.config.out_channels), frames, "h", "w"))
        sizes = {"rows": 1, "h": cells, "w": cells}
        module = MotionNet(self.unit(motion), motion).eval()
        return Network("motion network", module, tuple(ports), output, sizes)
