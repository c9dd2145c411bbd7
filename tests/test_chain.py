"""The chain against diffusers' own AnimateDiff pipelines, its cross-fades, and what it does when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tiny
import torch
from diffusers import AnimateDiffPipeline, AnimateDiffVideoToVideoPipeline, MotionAdapter, UNetMotionModel
from torch import Tensor

from stream.clips.backend import Cancelled, Watch
from stream.clips.beginning import Begun, fresh
from stream.clips.chain import Chain, Layout, low_pass, threads
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


def made() -> dict[str, Any]:
    """Two motion networks over one UNet."""
    torch.manual_seed(1)
    unet = tiny.unet(32)
    with quiet():
        return {name: UNetMotionModel.from_unet2d(unet, adapter(k)).eval() for k, name in enumerate("ab")}


def words() -> tuple[Text, Text]:
    """A prompt and a negative one."""
    torch.manual_seed(2)
    return Text(torch.randn(1, 16, 32)), Text(torch.randn(1, 16, 32))


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return made()


@pytest.fixture(scope="module")
def text() -> tuple[Text, Text]:
    return words()


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


def begun(chain: Chain[str], generator: torch.Generator, clean: Tensor | None) -> Iterator[Begun]:
    blocks = chain.layout.blocks
    for block, noise in zip(blocks, fresh(generator, SHAPE, blocks, rows=clean is not None), strict=True):
        yield noise, None if clean is None else clean[:, :, block]


def rendered(
    chain: Chain[str], folder: Path, seed: int = 7, watch: Watch | None = None, clean: Tensor | None = None
) -> Tensor:
    """The finished latents, `(1, C, frames, h, w)`; goes on where the folder holds a part of them."""
    generator = torch.Generator().manual_seed(seed)
    with Store(folder, "key", chain.layout.frames, SHAPE, chain.slabs) as store:
        state = store.state() or chain.begin(store, "key", generator, begun(chain, generator, clean))
        return chain.run(store, state, watch or Watch()).read(range(chain.layout.frames))


def from_diffusers(
    network: Any, text: tuple[Text, Text], sampler: str, frames: int, guidance: float, rounds: int = 1
) -> Tensor:
    pipe = AnimateDiffPipeline(None, None, None, network, None, scheduler_of(sampler, BETAS))
    pipe.vae_scale_factor = 1
    pipe.set_progress_bar_config(disable=True)
    if rounds > 1:
        pipe.enable_free_init(rounds)
    row, negative = (t.tokens for t in text)
    out: Tensor = pipe(
        num_frames=frames, height=8, width=8, num_inference_steps=3, guidance_scale=guidance, prompt_embeds=row,
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


@pytest.mark.parametrize("sampler", ["ddim", "euler", "lcm"])
def test_one_repainted_window_is_diffusers_own_bit_for_bit(
    networks: Any, text: Any, tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = torch.randn((1, 4, 8, 8, 8), generator=torch.Generator().manual_seed(3))
    vae = tiny.small_vae(1).eval()
    pipe = AnimateDiffVideoToVideoPipeline(vae, None, None, networks["a"], None, scheduler_of(sampler, BETAS))
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(pipe, "encode_video", lambda *_: clean[0].transpose(0, 1) / vae.config.scaling_factor)
    theirs = pipe(
        video=[PIL.Image.new("RGB", (8, 8))] * 8, height=8, width=8, num_inference_steps=5, strength=0.7,
        guidance_scale=7.5, prompt_embeds=text[0].tokens, negative_prompt_embeds=text[1].tokens,
        generator=torch.Generator().manual_seed(7), output_type="latent",
    ).frames  # fmt: skip
    chain = chained(networks, text, 8, steps=5, sampler=sampler, strength=0.7, guidance=7.5)
    assert len(chain.sampler.timesteps) == 3
    assert torch.equal(rendered(chain, tmp_path, clean=clean), theirs)


def test_an_input_at_strength_0_stays_as_it_is(networks: Any, text: Any, tmp_path: Path) -> None:
    clean = torch.randn((1, 4, 12, 8, 8))
    assert torch.equal(rendered(chained(networks, text, 12, strength=0), tmp_path, clean=clean), clean)


# ---------------------------------------------------------------------------------------------------- chaining


def crossing(frames: int, border: int, fade: int) -> Shares:
    """From `a` to `b`, over `fade` frames around `border`."""

    def shares(frame: int) -> Mapping[str, float]:
        into = min(max((frame - border + fade / 2 + 0.5) / fade, 0), 1)
        return {"a": 1 - into, "b": into}

    return shares


def test_a_cross_fade_of_64_frames_takes_32_calls_as_predicted(networks: Any, text: Any, tmp_path: Path) -> None:
    chain = chained(networks, text, 64, steps=4, shares=crossing(64, 32, 16), length=16)
    assert [chain.layout.calls(k) for k in range(4)] == [8] * 4  # 5 windows, 3 of them in the cross-fade
    out = rendered(chain, tmp_path)
    assert chain.calls == 32 == sum(net.count for net in chain.nets.values())
    assert out.isfinite().all()


def test_weights_of_1_and_0_are_the_first_module_alone(networks: Any, text: Any, tmp_path: Path) -> None:
    alone = chained(networks, text, 20, guidance=5)
    both = chained(networks, text, 20, guidance=5, shares=lambda _frame: {"a": 1.0, "b": 0.0})
    assert torch.equal(rendered(alone, tmp_path / "1"), rendered(both, tmp_path / "2"))
    assert both.nets["b"].count == 0
    assert alone.nets["a"].count == both.nets["a"].count == alone.calls


def test_a_cross_fade_is_the_sum_of_its_modules_by_their_shares(networks: Any, text: Any, tmp_path: Path) -> None:
    share = torch.linspace(0, 1, 8)
    mixed = chained(networks, text, 8, steps=1, shares=lambda f: {"a": 1 - float(share[f]), "b": float(share[f])})
    a, b = (chained(networks, text, 8, steps=1, shares=lambda _f, n=n: {n: 1.0}) for n in "ab")
    ours, first, second = (rendered(c, tmp_path / str(k)) for k, c in enumerate((mixed, a, b)))
    weight = share.view(1, 1, -1, 1, 1)  # one step of DDIM is linear in the prediction
    torch.testing.assert_close(ours, first * (1 - weight) + second * weight, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first, second, atol=1e-2)


def test_guidance_is_each_frames_own(networks: Any, text: Any, tmp_path: Path) -> None:
    scales = [1.5] * 4 + [9.0] * 4
    mixed = replace(chained(networks, text, 8, guidance=2), guidance=lambda f: scales[f])
    low, high = (replace(mixed, guidance=lambda _f, g=g: g) for g in (1.5, 9.0))
    ours, first, second = (rendered(replace(c, sampler=Sampler(scheduler_of("ddim", BETAS), 1)), tmp_path / str(k))
                           for k, c in enumerate((mixed, low, high)))  # fmt: skip
    assert torch.equal(ours, torch.cat([first[:, :, :4], second[:, :, 4:]], 2))


def test_a_closed_loop_has_no_beginning(networks: Any, text: Any, tmp_path: Path) -> None:
    """Its last frame and its first are as near as any two others, since windows hold both of them."""
    out = rendered(chained(networks, text, 20, steps=8, schedule="looped", guidance=1), tmp_path)[0]
    step = (out - out.roll(1, 1)).pow(2).mean((0, 2, 3)).sqrt()
    assert step[0] < 1.5 * step[1:].median()


def test_free_init_keeps_what_is_slow_and_coarse() -> None:
    from diffusers.pipelines.free_init_utils import FreeInitMixin

    x = torch.randn(1, 4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    their = FreeInitMixin()._get_free_init_freq_filter((1, 4, 16, 8, 8), "cpu", "butterworth", 4, 0.25, 0.25)
    theirs = FreeInitMixin()._apply_freq_filter(x, torch.zeros_like(x), their)
    torch.testing.assert_close(low_pass(x), theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_free_init_of_one_window_is_diffusers_own(networks: Any, text: Any, tmp_path: Path, guidance: float) -> None:
    chain = chained(networks, text, 8, guidance=guidance, rounds=2)
    ours = rendered(chain, tmp_path)
    theirs = from_diffusers(networks["a"], text, "ddim", 8, guidance, rounds=2)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert sum(net.count for net in chain.nets.values()) == chain.calls == 6


@pytest.mark.parametrize("sampler", ["ddim", "lcm"])
def test_noise_that_is_held_is_added_again(networks: Any, text: Any, tmp_path: Path, sampler: str) -> None:
    """By LCM at every step, and by FreeInit: with the same noise in all frames they stay alike."""
    still = torch.randn((1, 4, 1, 8, 8), generator=torch.Generator().manual_seed(1)).expand(-1, -1, 8, -1, -1)
    spread = {}
    for held in (False, True):
        chain = chained(networks, text, 8, sampler=sampler, rounds=2, held=held)
        generator = torch.Generator().manual_seed(2)
        with Store(tmp_path / str(held), "key", 8, SHAPE, chain.slabs) as store:
            state = chain.begin(store, "key", generator, [(still, None)])
            spread[held] = chain.run(store, state, Watch()).read(range(8)).std(2).mean()
    assert spread[True] < 0.7 * spread[False]


# ------------------------------------------------------------------------------------- cancelled, killed, resumed


class Stops(Watch):
    """Cancels at one of the calls."""

    def __init__(self, at: int) -> None:
        self.at, self.heard = at, 0

    def tell(self, stage: str, done: int, total: int, preview: Any = None) -> None:
        if self.heard == self.at:
            raise Cancelled
        self.heard += 1


CASES = [("ddim", 1), ("lcm", 1), ("euler_a", 1), ("dpm", 1), ("ddim", 2)]


@pytest.mark.parametrize(("sampler", "rounds"), CASES)
def test_cancelled_anywhere_and_gone_on_it_is_the_same_clip(
    networks: Any, text: Any, tmp_path: Path, sampler: str, rounds: int
) -> None:
    def chain() -> Chain[str]:
        return chained(networks, text, 12, steps=4 - rounds, sampler=sampler, rounds=rounds)

    whole, calls = rendered(chain(), tmp_path / "whole"), chain().calls
    assert calls == 2 * (4 - rounds) * rounds
    for at in range(calls):
        with pytest.raises(Cancelled):
            rendered(chain(), tmp_path / f"{at}", watch=Stops(at))
        again = chain()
        assert torch.equal(rendered(again, tmp_path / f"{at}"), whole), at
        assert sum(net.count for net in again.nets.values()) == calls - at // 2 * 2  # whole steps are not done again


def test_cancelled_within_one_window_and_ready_for_the_next_job(networks: Any, text: Any, tmp_path: Path) -> None:
    chain = chained(networks, text, 28, sampler="euler_a")
    whole = rendered(chain, tmp_path / "1")
    before = sum(net.count for net in chain.nets.values())
    with pytest.raises(Cancelled):
        rendered(chain, tmp_path / "2", watch=Stops(4))
    assert sum(net.count for net in chain.nets.values()) == before + 4
    assert torch.equal(rendered(chain, tmp_path / "3"), whole)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[3]))
import test_chain
from stream.clips.latents import Store

class Falls(test_chain.Watch):
    heard = 0
    def tell(self, *_):
        self.heard += 1
        if self.heard == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

networks, text = test_chain.made(), test_chain.words()
test_chain.rendered(test_chain.chained(networks, text, 20, sampler="lcm"), Path(sys.argv[1]), watch=Falls())
"""


def test_killed_and_gone_on_it_is_the_same_bytes(networks: Any, text: Any, tmp_path: Path) -> None:
    def killed(at: int) -> int:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(at), "1"]
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run(command, env=environment, check=False, capture_output=True).returncode

    assert [killed(6), killed(5)] == [-signal.SIGKILL] * 2  # in the second step and in the third
    assert json.loads((tmp_path / "killed" / "state.json").read_text())["done"] == 2
    with threads(1):
        whole = rendered(chained(networks, text, 20, sampler="lcm"), tmp_path / "whole")
    with threads(2):
        rest = chained(networks, text, 20, sampler="lcm")
        assert torch.equal(rendered(rest, tmp_path / "killed"), whole)
    assert sum(net.count for net in rest.nets.values()) == 4


def test_a_folder_of_another_clip_or_a_damaged_one_begins_anew(networks: Any, text: Any, tmp_path: Path) -> None:
    chain = chained(networks, text, 20)
    whole = rendered(chain, tmp_path)
    with Store(tmp_path, "another", 20, SHAPE) as store:
        assert store.state() is None
    (tmp_path / "latents-3.bin").write_bytes(b"short")
    assert torch.equal(rendered(chain, tmp_path), whole)
    (tmp_path / "state.json").write_text("{")
    assert torch.equal(rendered(chain, tmp_path), whole)


def test_latents_are_read_and_written_in_slices(tmp_path: Path) -> None:
    with Store(tmp_path, "key", 9, SHAPE) as store:
        slab, x = store.slab("latents", 0), torch.randn(1, 4, 9, 8, 8)
        for frames in ((7, 8, 0, 1), (4, 2, 3), (5, 6)):
            slab.write(frames, x[:, :, frames])
        assert torch.equal(slab.read(range(9)), x)
        assert torch.equal(slab.read((8, 0, 1, 5)), x[:, :, (8, 0, 1, 5)])
