"""The network of motion modules: diffusers' own over shared weights, and the 2-D UNet where it adds nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from stream.clips.unet import MotionUNet, motion_unet, set_motion
from stream.config import spec
from stream.errors import ClipError
from stream.quiet import quiet
from stream.weights import read_pipeline

FRAMES, SIDE, TOKENS = 5, 8, 3


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(3)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def builtin() -> UNet2DConditionModel:
    return read_pipeline(spec("builtin")).unet.eval()


def sd15() -> UNet2DConditionModel:
    return tiny.unet(32).eval()


def sdxl() -> UNet2DConditionModel:
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "use_linear_projection": True}
    return tiny.unet(32, projection_class_embeddings_input_dim=6 * 8 + 16, **more).eval()


def adapter(
    widths: tuple[int, ...] = (16, 32), mid: bool = True, length: int = 8, still: bool = False
) -> MotionAdapter:
    made = MotionAdapter(
        widths, motion_layers_per_block=1, motion_num_attention_heads=4, motion_norm_num_groups=8,
        motion_max_seq_length=length, use_motion_mid_block=mid,
    ).eval()  # fmt: skip
    for name, value in made.named_parameters():
        if "proj_out" in name:  # zero in a module that has learnt nothing
            value.zero_() if still else value.normal_(0, 0.3)
    return made


def inputs(net: UNet2DConditionModel, clips: int = 2, side: int = SIDE) -> dict[str, Tensor]:
    width = net.config.cross_attention_dim
    given: dict[str, object] = {
        "sample": torch.randn(clips, 4, FRAMES, side, side), "timestep": torch.tensor(321),
        "encoder_hidden_states": torch.randn(clips * FRAMES, TOKENS, width),
    }  # fmt: skip
    if net.config.addition_embed_type == "text_time":
        given["added_cond_kwargs"] = {"text_embeds": torch.randn(clips, 16), "time_ids": torch.rand(clips, 6) * 99}
    return given


def plain(net: UNet2DConditionModel, given: dict[str, Tensor]) -> Tensor:
    """Frame by frame through the 2-D UNet."""
    frames = given["sample"].permute(0, 2, 1, 3, 4).flatten(0, 1)
    out = [net(f[None], given["timestep"], w[None], return_dict=False)[0] for f, w in
           zip(frames, given["encoder_hidden_states"], strict=True)]  # fmt: skip
    return torch.cat(out).unflatten(0, (-1, FRAMES)).permute(0, 2, 1, 3, 4)


def diffusers_own(net: UNet2DConditionModel, module: MotionAdapter) -> UNetMotionModel:
    with quiet():
        made = UNetMotionModel.from_unet2d(net, module).eval()
    if hasattr(net, "add_embedding"):  # diffusers leaves it random
        made.add_embedding.load_state_dict(net.add_embedding.state_dict())
    return made


@pytest.mark.parametrize("make", [sd15, sdxl])
@pytest.mark.parametrize("mid", [True, False])
@pytest.mark.parametrize("side", [8, 9])
def test_it_equals_diffusers_bit_for_bit(make, mid: bool, side: int) -> None:
    net, module = make(), adapter(mid=mid)
    theirs = diffusers_own(net, module)
    given = inputs(net, side=side)
    assert torch.equal(motion_unet(net, module)(**given).sample, theirs(**given).sample)


def test_residuals_of_a_controlnet_go_where_diffusers_adds_them() -> None:
    net, module = sd15(), adapter()
    theirs = diffusers_own(net, module)
    given, rows = inputs(net), 2 * FRAMES
    shapes = [(rows, 16, 8, 8), (rows, 16, 8, 8), (rows, 16, 4, 4), (rows, 32, 4, 4)]
    given["down_block_additional_residuals"] = tuple(torch.randn(s) for s in shapes)
    given["mid_block_additional_residual"] = torch.randn(rows, 32, 4, 4)
    ours = motion_unet(net, module)(**given, return_dict=False)[0]
    assert torch.equal(ours, theirs(**given, return_dict=False)[0])
    with pytest.raises(ValueError):
        motion_unet(net)(**given | {"down_block_additional_residuals": given["down_block_additional_residuals"][:3]})


@pytest.mark.parametrize("module", [True, False])
def test_a_module_that_has_learnt_nothing_is_the_builtin_unet_frame_by_frame(builtin, module: bool) -> None:
    made = adapter((32, 64, 96, 128), still=True) if module else None
    given = inputs(builtin, side=16)
    ours = motion_unet(builtin, made)(**given).sample
    assert torch.allclose(ours, plain(builtin, given), atol=2e-5)


def test_every_frame_has_its_own_words(builtin) -> None:
    net, given = motion_unet(builtin), inputs(builtin, clips=1, side=16)
    before = net(**given).sample
    given["encoder_hidden_states"][2] = torch.randn(TOKENS, 128)
    moved = (net(**given).sample - before).abs().amax((0, 1, 3, 4))
    assert moved[2] > 1e-2
    assert moved[[0, 1, 3, 4]].max() < 1e-5


def test_pooled_words_may_be_one_a_clip_or_one_a_frame() -> None:
    net = sdxl()
    given = inputs(net)
    each = given | {
        "added_cond_kwargs": {k: v.repeat_interleave(FRAMES, 0) for k, v in given["added_cond_kwargs"].items()}
    }
    ours = motion_unet(net, adapter())
    assert torch.allclose(ours(**given).sample, ours(**each).sample, atol=1e-5)


def test_modules_share_every_weight_of_the_model() -> None:
    net = sd15()
    nets = [motion_unet(net, adapter()), motion_unet(net, adapter(mid=False, length=32)), motion_unet(net)]
    own = {name: p.data_ptr() for name, p in net.named_parameters()}
    for made in nets:
        shared = {name: p.data_ptr() for name, p in made.named_parameters() if "motion_modules" not in name}
        assert shared == own
    before = nets[0](**(given := inputs(net))).sample
    net.conv_out.weight.mul_(2)
    assert not torch.equal(nets[0](**given).sample, before)


def test_modules_of_other_lengths_and_without_a_mid_block_stand_side_by_side() -> None:
    net = sd15()
    long, short = motion_unet(net, adapter(length=32)), motion_unet(net, adapter(mid=False, length=4))
    given = inputs(net)
    assert (long.frames, short.frames) == (32, 4)
    assert long(**given).sample.shape == given["sample"].shape
    with pytest.raises(ClipError, match="5 frames at once, the motion module takes 4"):
        short(**given)


def still(net: MotionUNet, given: dict[str, Tensor]) -> Tensor:
    set_motion(net, effect=0.0)
    return net(**given).sample


def test_scale_and_effect() -> None:
    net = sd15()
    made, given = motion_unet(net, adapter()), inputs(net)
    full = made(**given).sample
    assert torch.allclose(still(made, given), plain(net, given), atol=1e-5)
    set_motion(made, effect=0.5)
    half = made(**given).sample
    set_motion(made, scale=1.5)
    scaled = made(**given).sample
    assert all((a - b).abs().max() > 1e-4 for a, b in [(half, full), (scaled, full), (half, scaled)])
    set_motion(made, 1, 1)
    assert torch.equal(made(**given).sample, full)


def test_scale_multiplies_the_temporal_keys() -> None:
    net, one, two = sd15(), adapter(), adapter()
    two.load_state_dict(one.state_dict())
    for name, value in two.named_parameters():
        if ".to_k." in name:
            value.mul_(2)
    given, ours = inputs(net), motion_unet(net, one)
    set_motion(ours, scale=2)
    assert torch.equal(ours(**given).sample, motion_unet(net, two)(**given).sample)


def test_a_module_for_another_model_is_refused() -> None:
    with pytest.raises(ClipError, match="use one made for it"):
        motion_unet(sd15(), adapter((16, 16)))
    with pytest.raises(ClipError, match="use one made for it"):
        motion_unet(sd15(), adapter((16, 32, 32)))
    with pytest.raises(ClipError, match="PIA"):
        motion_unet(sd15(), MotionAdapter((16, 32), 1, motion_norm_num_groups=8, conv_in_channels=9))
    with pytest.raises(ClipError, match="other inputs than words"):
        motion_unet(tiny.unet(32, class_embed_type="timestep"), adapter())
