"""The network of a motion module: a UNet with temporal attention after every block, over the weights of the 2-D UNet.

What runs are the blocks of diffusers' UNetMotionModel. Every 2-D part is the given UNet's own, not a copy, so that n
motion modules over one model cost n times the modules and the model once. Unlike diffusers' class this one takes
UNets whose blocks are scaled and shifted by time, and whose text counts in their time embedding (the built-in model's).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_motion_model import (
    AnimateDiffTransformer3D,
    CrossAttnDownBlockMotion,
    CrossAttnUpBlockMotion,
    DownBlockMotion,
    MotionAdapter,
    UNetMidBlockCrossAttnMotion,
    UNetMotionOutput,
    UpBlockMotion,
)
from torch import Tensor, nn

from stream.errors import ClipError

SPATIAL = ("resnets", "attentions", "downsamplers", "upsamplers")  # what a block of diffusers is made of
ADDED = (None, "text", "text_time")
UNUSED = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")  # further inputs that no clip has


class Still(nn.Module):
    """The place of a temporal layer where there is none."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


class Dial:
    """How much of the motion module counts; its hooks read it whenever the network runs."""

    def __init__(self) -> None:
        self.scale, self.effect = 1.0, 1.0

    def turn(self, adapter: nn.Module) -> None:
        """Hooks it onto every temporal layer of a motion module."""
        for layer in adapter.modules():
            if isinstance(layer, AnimateDiffTransformer3D):
                layer.register_forward_hook(self._mix)
                for block in layer.transformer_blocks:
                    for attention in (block.attn1, block.attn2):
                        if attention is not None:
                            attention.to_k.register_forward_hook(self._scale)

    def _mix(self, _layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        return None if self.effect == 1 else torch.lerp(args[0], out, self.effect)

    def _scale(self, _layer: nn.Module, _args: Any, keys: Tensor) -> Tensor | None:
        return None if self.scale == 1 else keys * self.scale


class MotionUNet(nn.Module):
    """Runs B clips of F frames; see `motion_unet`."""

    time_proj: Any  # the 2-D UNet's own parts, as diffusers types them: not at all
    time_embedding: Any
    add_time_proj: Any
    add_embedding: Any
    mid_block: Any
    conv_norm_out: Any
    conv_act: Any
    conv_out: Any

    def __init__(self, unet: Any, adapter: MotionAdapter | None) -> None:
        super().__init__()
        self.config = unet.config
        self.frames = None if adapter is None else int(adapter.config.motion_max_seq_length)
        self.dial = Dial()
        if adapter is not None:
            self.dial.turn(adapter)
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        for name in ("add_time_proj", "add_embedding"):
            if getattr(unet, name, None) is not None:
                setattr(self, name, getattr(unet, name))
        self.conv_in = unet.conv_in
        down = [None] * len(unet.down_blocks) if adapter is None else adapter.down_blocks
        up = [None] * len(unet.up_blocks) if adapter is None else adapter.up_blocks
        self.down_blocks = nn.ModuleList(_moving(b, m) for b, m in zip(unet.down_blocks, down, strict=True))
        self.mid_block = _moving_middle(unet.mid_block, None if adapter is None else adapter.mid_block)
        self.up_blocks = nn.ModuleList(_moving(b, m) for b, m in zip(unet.up_blocks, up, strict=True))
        self.conv_norm_out, self.conv_act, self.conv_out = unet.conv_norm_out, unet.conv_act, unet.conv_out

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = self.conv_out.weight.dtype
        return found

    @property
    def device(self) -> torch.device:
        found: torch.device = self.conv_out.weight.device
        return found

    def forward(
        self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        down_block_additional_residuals: tuple[Tensor, ...] | None = None,
        mid_block_additional_residual: Tensor | None = None, return_dict: bool = True,
    ) -> Any:  # fmt: skip
        """Clips `(B, C, F, H, W)`, a timestep (or one a clip) and text `(B F, tokens, d)`, frames of a clip in a row,
        to the prediction, of the clips' shape. Pooled text and time ids of SDXL are `(B, ...)` or `(B F, ...)`."""
        clips, frames = sample.shape[0], sample.shape[2]
        if self.frames is not None and frames > self.frames:
            raise ClipError(f"{frames} frames at once, the motion module takes {self.frames}: use a window of as many")
        emb = self._embedding(timestep, clips, frames, encoder_hidden_states, added_cond_kwargs or {})
        x = self.conv_in(sample.permute(0, 2, 1, 3, 4).reshape(clips * frames, -1, *sample.shape[3:]))
        x, skips = self._down(x, emb, encoder_hidden_states, frames)
        if down_block_additional_residuals is not None:
            skips = tuple(s + r for s, r in zip(skips, down_block_additional_residuals, strict=True))
        middle: dict[str, Any] = {"encoder_hidden_states": encoder_hidden_states} if _reads(self.mid_block) else {}
        if hasattr(self.mid_block, "motion_modules"):
            middle["num_frames"] = frames
        x = self.mid_block(x, emb, **middle)
        if mid_block_additional_residual is not None:
            x = x + mid_block_additional_residual
        x = self._up(x, skips, emb, encoder_hidden_states, frames)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        x = x.reshape(clips, frames, *x.shape[1:]).permute(0, 2, 1, 3, 4)
        return UNetMotionOutput(sample=x) if return_dict else (x,)

    def _embedding(self, timestep: Tensor | float, clips: int, frames: int, text: Tensor,
                   added: dict[str, Tensor]) -> Tensor:  # fmt: skip
        """Time, and the text where the UNet mixes it in: `(B F, channels)`."""
        t = torch.as_tensor(timestep, device=text.device).reshape(-1).expand(clips)
        emb: Tensor = self.time_embedding(self.time_proj(t).to(self.dtype))
        kind = self.config.addition_embed_type
        if kind is None:
            return emb.repeat_interleave(frames, 0)
        if kind == "text":
            words: Tensor = self.add_embedding(text)
            return emb.repeat_interleave(frames, 0) + words
        pooled = added["text_embeds"]
        times = self.add_time_proj(added["time_ids"].flatten()).reshape(len(pooled), -1)
        more: Tensor = self.add_embedding(torch.concat([pooled, times], -1).to(emb.dtype))
        if len(more) == clips:
            return (emb + more).repeat_interleave(frames, 0)
        return emb.repeat_interleave(frames, 0) + more

    def _down(self, x: Tensor, emb: Tensor, text: Tensor, frames: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        skips: tuple[Tensor, ...] = (x,)
        for block in self.down_blocks:
            more = {"encoder_hidden_states": text} if _reads(block) else {}
            x, made = block(hidden_states=x, temb=emb, num_frames=frames, **more)
            skips += made
        return x, skips

    def _up(self, x: Tensor, skips: tuple[Tensor, ...], emb: Tensor, text: Tensor, frames: int) -> Tensor:
        block: Any
        for block in self.up_blocks:
            taken, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            more: dict[str, Any] = {"encoder_hidden_states": text} if _reads(block) else {}
            if skips:  # sides that do not halve evenly come back as they were
                more["upsample_size"] = skips[-1].shape[2:]
            x = block(hidden_states=x, temb=emb, res_hidden_states_tuple=taken, num_frames=frames, **more)
        return x


def motion_unet(unet: Any, adapter: MotionAdapter | None = None) -> MotionUNet:
    """The network of one motion module over `unet` (a UNet2DConditionModel), which shares all of its parts; None gives
    the 2-D network over clips. The adapter is the network's own: load one for each. It equals diffusers'
    `UNetMotionModel.from_unet2d(unet, adapter)` bit for bit (of SDXL once that has its `add_embedding`, which diffusers
    0.42 forgets). ClipError where the two do not fit."""
    if unet.config.addition_embed_type not in ADDED or any(unet.config.get(name) for name in UNUSED):
        raise ClipError("the UNet takes other inputs than words (an inpainting, depth or image variation model?): "
                        "use a plain SD 1.5, SDXL or the built-in model")  # fmt: skip
    if adapter is not None:
        _check_fit(unet, adapter)
        nn.Module.to(adapter, unet.device, unet.dtype)  # diffusers' own warns of a list that is empty
    return MotionUNet(unet, adapter).train(unet.training)


def set_motion(net: MotionUNet, scale: float = 1.0, effect: float = 1.0) -> None:
    """`scale` multiplies the temporal keys; `effect` mixes `x (1 - effect) + module(x) effect`. At 1 and 1 nothing is
    touched; at an effect of 0 the network paints every frame for itself."""
    net.dial.scale, net.dial.effect = scale, effect


def _check_fit(unet: Any, adapter: MotionAdapter) -> None:
    """Blocks, layers and widths of both, before a tensor of the wrong shape says it badly."""
    if adapter.conv_in is not None:
        raise ClipError("the motion module brings a first convolution of its own (PIA): use an AnimateDiff module")
    ours, theirs = _shape(unet), _shape(adapter)
    if ours != theirs:
        raise ClipError(
            f"the motion module has blocks {theirs} (layers of a width), the model {ours}: use one made for it"
        )


def _shape(network: Any) -> str:
    """`1x32 1x64 2x32 2x16`: what a network's blocks have, down and up."""
    blocks = [*network.down_blocks, *network.up_blocks]
    if isinstance(network, MotionAdapter):
        return " ".join(f"{len(b.motion_modules)}x{b.motion_modules[0].in_channels}" for b in blocks)
    return " ".join(f"{len(b.resnets)}x{b.resnets[0].out_channels}" for b in blocks)


def _reads(block: nn.Module) -> bool:
    """Whether a block looks at the words."""
    return bool(getattr(block, "has_cross_attention", False))


def _moving(block: Any, motion: Any) -> Any:
    """A block of the 2-D UNet as diffusers' block with motion, its parts the same objects."""
    reads, down = _reads(block), hasattr(block, "downsamplers")
    kind = (CrossAttnDownBlockMotion if reads else DownBlockMotion) if down else (
        CrossAttnUpBlockMotion if reads else UpBlockMotion)  # fmt: skip
    made = _hollow(kind, block)
    made.motion_modules = nn.ModuleList(Still() for _ in block.resnets) if motion is None else motion.motion_modules
    return made


def _moving_middle(block: Any, motion: Any) -> Any:
    """The middle with its temporal layers; the 2-D one itself where the module has none."""
    if motion is None:
        return block
    made = _hollow(UNetMidBlockCrossAttnMotion, block)
    made.motion_modules = motion.motion_modules
    return made


def _hollow(kind: type[nn.Module], block: nn.Module) -> Any:
    """A block of class `kind` without the weights that its constructor would draw, and with those of `block`."""
    made: Any = kind.__new__(kind)
    nn.Module.__init__(made)
    for name in SPATIAL:
        if hasattr(block, name):
            setattr(made, name, getattr(block, name))
    made.has_cross_attention = _reads(block)
    made.gradient_checkpointing = False
    made.resolution_idx = getattr(block, "resolution_idx", None)
    return made
