"""The chain against diffusers' own AnimateDiff pipelines, its cross-fades, and what it does when it is killed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel
from torch import Tensor

from stream.clips.backend import Watch
from stream.clips.beginning import fresh
from stream.clips.chain import Chain, Layout
from stream.clips.latents import Store
from stream.clips.sampler import Sampler, scheduler_of
from stream.prompt import Text
from stream.quiet import quiet

SHAPE = (4, 8, 8)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "clip_sample": False, "steps_offset": 1}
Shares = Callable[[int], Mapping[str, float]]


def adapter(seed: int, length: int = 32) -> MotionAdapter:
    torch.manual_seed(seed)
    made = MotionAdapter(block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=4,
                         motion_norm_num_groups=8, motion_max_seq_length=length)  # fmt: skip
    for name, weight in made.named_parameters():  # as drawn, its outputs are zero
        if "proj_out" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return made.eval()


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' Euler


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    """Two motion networks over one UNet."""
    torch.manual_seed(1)
    unet = tiny.unet(32)
    with quiet():
        return {name: UNetMotionModel.from_unet2d(unet, adapter(k)).eval() for k, name in enumerate("ab")}


@pytest.fixture(scope="module")
def text() -> tuple[Text, Text]:
    """A prompt and a negative one."""
    torch.manual_seed(2)
    return Text(torch.randn(1, 16, 32)), Text(torch.randn(1, 16, 32))


class Calls:
    """A network as the chain calls it, counted."""

    def __init__(self, network: Any) -> None:
        self.network, self.count = network, 0

    def __call__(self, x: Tensor, t: Tensor, text: Text, frames: tuple[int, ...]) -> Tensor:
        self.count += 1
        out: Tensor = self.network(x, t, encoder_hidden_states=text.tokens).sample
        return out


def chained(networks: Any, text: Any, frames: int, *, steps: int = 3, shares: Shares | None = None,
            sampler: str = "ddim", strength: float = 1.0, guidance: float = 1.0, schedule: str = "static",
            length: int = 8, overlap: int = 4, **more: Any) -> Chain[str]:  # fmt: skip
    layout = Layout(frames, schedule, length, overlap, "linear", shares or (lambda _frame: {"a": 1.0}))
    nets = {name: Calls(network) for name, network in networks.items()}
    row, negative = text
    return Chain(layout, nets, Sampler(scheduler_of(sampler, BETAS), steps, strength),
                 lambda window: Text.cat([row] * len(window)), negative if guidance > 1 else None,
                 lambda _frame: guidance, **more)  # fmt: skip


def rendered(chain: Chain[str], folder: Path, seed: int = 7, watch: Watch | None = None) -> Tensor:
    """The finished latents, `(1, C, frames, h, w)`; goes on where the folder holds a part of them."""
    generator = torch.Generator().manual_seed(seed)
    with Store(folder, "key", chain.layout.frames, SHAPE, chain.slabs) as store:
        state = store.state() or chain.begin(store, "key", generator, fresh(generator, SHAPE, chain.layout.blocks))
        return chain.run(store, state, watch or Watch()).read(range(chain.layout.frames))


def from_diffusers(
    network: Any, text: tuple[Text, Text], sampler: str, frames: int, guidance: float, steps: int = 3
) -> Tensor:
    pipe = AnimateDiffPipeline(None, None, None, network, None, scheduler_of(sampler, BETAS))
    pipe.vae_scale_factor = 1
    pipe.set_progress_bar_config(disable=True)
    row, negative = (t.tokens for t in text)
    out: Tensor = pipe(
        num_frames=frames, height=8, width=8, num_inference_steps=steps, guidance_scale=guidance, prompt_embeds=row,
        negative_prompt_embeds=negative, generator=torch.Generator().manual_seed(7), output_type="latent",
    ).frames  # fmt: skip
    return out


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "lcm", "euler_a", "dpm"])
def test_one_window_is_diffusers_own_bit_for_bit(
    networks: Any, text: Any, tmp_path: Path, sampler: str, guidance: float
) -> None:
    ours = rendered(chained(networks, text, 8, sampler=sampler, guidance=guidance), tmp_path)
    assert torch.equal(ours, from_diffusers(networks["a"], text, sampler, 8, guidance))
