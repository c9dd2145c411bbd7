"""The AnimateDiff back end: tiny models against diffusers' pipelines, what it refuses, and the built-in model."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import tiny
import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    MotionAdapter,
    SparseControlNetModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from media import video as write_video
from safetensors.torch import save_file
from torch import Tensor

from stream.clips.backend import Cancelled, Watch
from stream.clips.beginning import Flow, mixed, pictures
from stream.clips.families import family
from stream.clips.recipe import recipe
from stream.clips.sampler import scheduler_of
from stream.clips.timeline import Camera, Timeline
from stream.errors import ClipError, LivebrushError, ModelError
from stream.frame import Image
from stream.preprocess import fitted
from stream.quiet import quiet

BACKEND = family("animatediff")
TORCH = {"engine": "torch", "precision": "f32"}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' Euler


def save_adapter(folder: Path, seed: int, facts: dict[str, Any] | None = None, std: float = 0.2, **changes: Any) -> str:
    torch.manual_seed(seed)
    shape = {"block_out_channels": (16, 32), "motion_layers_per_block": 1, "motion_num_attention_heads": 4,
             "motion_norm_num_groups": 8, "motion_max_seq_length": 16}  # fmt: skip
    made = MotionAdapter(**(shape | changes))
    for name, weight in made.named_parameters():  # as drawn, its outputs are zero
        if "proj_out" in name:
            torch.nn.init.normal_(weight, std=std)
    made.save_pretrained(folder)
    if facts:
        (folder / "facts.json").write_text(json.dumps(facts))
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "sd15": str(tiny.save("sd15", folder / "sd15")),
        "a": save_adapter(folder / "a", 1),
        "b": save_adapter(folder / "b", 2, {"loras": True, "version": "v2"}, motion_max_seq_length=8),
        "middle": save_adapter(folder / "middle", 3, use_motion_mid_block=False),
    }


@pytest.fixture(scope="module")
def renderer(models: dict[str, str]) -> Any:
    made = BACKEND.load(timeline(models), lambda _told: None)
    yield made
    made.close()


def timeline(models: dict[str, str], *motions: str, **values: Any) -> Timeline:
    segments = [{"motion": models[m]} for m in motions or ("a",)]
    plain = {"model": models["sd15"], "segments": segments, "width": 64, "height": 64, "frames": 8, "window": 8,
             "steps": 3, "sampler": "ddim", "guidance_scale": 1, "prompt": "sea", "noise": "fresh",
             "options": TORCH}  # fmt: skip
    return Timeline.model_validate(plain | values)


class Counts(Watch):
    """Counts calls, keeps a preview, and cancels at one of them."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.calls, self.preview = at, 0, None
        self.stages: dict[str, int] = {}

    def tell(self, stage: str, done: int, total: int, preview: Callable[[], Image] | None = None) -> None:
        self.stages[stage] = self.stages.get(stage, 0) + 1
        assert 0 <= done < total
        if stage == "denoise":
            if self.calls == self.at:
                raise Cancelled
            self.calls += 1
        self.preview = preview or self.preview


def painted(renderer: Any, asked: Timeline, folder: Path, watch: Watch | None = None) -> Image:
    return np.concatenate(list(renderer.render(asked, folder, watch or Watch()).frames))


def latents(folder: Path, frames: int = 8) -> Tensor:
    """What was denoised, as diffusers gives it."""
    (file,) = (folder / "latents").glob("latents-*.bin")
    return torch.from_numpy(np.fromfile(file, np.float32)).view(frames, 4, 8, 8).transpose(0, 1)[None]


def diffusers_own(
    kind: Any, models: dict[str, str], scheduler: Any, more: dict[str, Any], lora: Path | None = None, **asked: Any
) -> Tensor:
    with quiet():
        parts = StableDiffusionPipeline.from_pretrained(models["sd15"], safety_checker=None).components
        keep = {k: parts[k] for k in ("vae", "text_encoder", "tokenizer", "unet")}
        pipe = kind(**keep, motion_adapter=MotionAdapter.from_pretrained(models["a"]), scheduler=scheduler, **more)
        pipe.set_progress_bar_config(disable=True)
        if lora is not None:
            pipe.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="motion")
            pipe.set_adapters(["motion"], [0.7])
        out: Tensor = pipe(
            prompt="sea", negative_prompt="", num_frames=8, height=64, width=64, num_inference_steps=3,
            generator=torch.Generator().manual_seed(5), output_type="latent", **asked,
        ).frames  # fmt: skip
    return out


def schedulers(models: dict[str, str]) -> dict[str, Any]:
    config = DDIMScheduler.from_pretrained(models["sd15"], subfolder="scheduler").config
    kinds = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "lcm": LCMScheduler}
    with quiet():
        return {name: kind.from_config(config) for name, kind in kinds.items()}


@pytest.mark.parametrize(("sampler", "guidance"), [("ddim", 1), ("ddim", 7.5), ("euler", 7.5), ("lcm", 1.5)])
def test_one_window_is_diffusers_own_bit_for_bit(
    models: Any, renderer: Any, tmp_path: Path, sampler: str, guidance: float
) -> None:
    asked = timeline(models, seed=5, sampler=sampler, guidance_scale=guidance)
    watch = Counts()
    frames = painted(renderer, asked, tmp_path, watch)
    theirs = diffusers_own(AnimateDiffPipeline, models, schedulers(models)[sampler], {}, guidance_scale=guidance)
    assert torch.equal(latents(tmp_path), theirs)
    assert frames.shape == (8, 64, 64, 3)
    assert watch.calls == 3 == BACKEND.plan(asked).unet_calls


def test_motions_of_clips_that_are_over_are_let_go(models: Any, renderer: Any, tmp_path: Path) -> None:
    kept = []
    for k, scale in enumerate((1.0, 0.5, 0.7)):
        segments = [{"motion": models["a"], "scale": scale}, {"motion": models["middle"]}]
        painted(renderer, timeline(models, segments=segments, steps=1), tmp_path / str(k))
        kept += [weakref.ref(net) for net in renderer._nets._units.values()]
    gc.collect()
    assert sum(net() is not None for net in kept) == 4  # `middle` three times over, and the last `a`


def test_a_chain_takes_the_calls_that_its_plan_says(models: Any, renderer: Any, tmp_path: Path) -> None:
    asked = timeline(models, "a", "b", "middle", frames=40, steps=2, prompt="sea", negative_prompt="sand",
                     guidance_scale=3)  # fmt: skip
    plan, watch = BACKEND.plan(asked), Counts()
    frames = painted(renderer, asked, tmp_path, watch)
    assert len(frames) == 40
    assert (plan.windows, plan.steps, plan.frames) == (9, 2, 40)
    assert watch.calls == plan.unet_calls > 18
    assert watch.preview is not None
    small = watch.preview()
    assert small.shape == (8, 8, 3)
    assert small.dtype == np.uint8
    again = BACKEND.plan(asked)
    assert again.seconds is not None  # it has been measured now
    assert again.memory_mb is not None


def test_prompts_travel(models: Any, renderer: Any, tmp_path: Path) -> None:
    keys = [{"frame": 0, "prompt": "sea"}, {"frame": 7, "prompt": "fire"}]
    whole = painted(renderer, timeline(models, prompt="", keys=keys), tmp_path / "1")
    sea, fire = (painted(renderer, timeline(models, prompt=p), tmp_path / p) for p in ("sea", "fire"))
    assert not np.array_equal(sea[-1], fire[-1])
    assert not np.array_equal(whole, sea)
    assert not np.array_equal(whole, fire)


def test_cancelled_within_one_call_and_the_same_clip_afterwards(models: Any, renderer: Any, tmp_path: Path) -> None:
    asked = timeline(models, "a", "b", frames=20, sampler="euler_a")
    whole, watch = painted(renderer, asked, tmp_path / "whole"), Counts(at=7)
    with pytest.raises(Cancelled):
        painted(renderer, asked, tmp_path / "part", watch)
    assert watch.calls == 7
    rest = Counts()
    assert np.array_equal(painted(renderer, asked, tmp_path / "part", rest), whole)
    assert rest.calls < BACKEND.plan(asked).unet_calls
    assert np.array_equal(painted(renderer, asked, tmp_path / "new"), whole)
    other = asked.model_copy(update={"seed": 9})
    assert not np.array_equal(painted(renderer, other, tmp_path / "part"), whole)  # another clip in the same folder


# ------------------------------------------------------------------------------------------------ control, LoRAs


def test_a_control_net_is_diffusers_own(models: Any, renderer: Any, tmp_path: Path) -> None:
    torch.manual_seed(4)
    unet = tiny.unet(32)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 16))
    for block in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
        torch.nn.init.normal_(block.weight, std=0.1)
    net.eval().save_pretrained(tmp_path / "net")
    (tmp_path / "video").mkdir()
    shown = [PIL.Image.fromarray(noise(k)) for k in range(8)]
    for k, image in enumerate(shown):
        image.save(tmp_path / "video" / f"{k}.png")
    followed = {"model": str(tmp_path / "net"), "input": str(tmp_path / "video"), "scale": 0.7}
    asked = timeline(models, seed=5, guidance_scale=3, control=followed)
    painted(renderer, asked, tmp_path / "job")
    theirs = diffusers_own(
        AnimateDiffControlNetPipeline,
        models,
        schedulers(models)["ddim"],
        {"controlnet": net},
        guidance_scale=3.0,
        conditioning_frames=shown,
        controlnet_conditioning_scale=0.7,
    )
    torch.testing.assert_close(latents(tmp_path / "job"), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scribble", [False, True])
def test_sparse_control_is_diffusers_own(models: Any, renderer: Any, tmp_path: Path, scribble: bool) -> None:
    torch.manual_seed(4)
    net = SparseControlNetModel(
        in_channels=4, conditioning_channels=3 if scribble else 4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), cross_attention_dim=32, norm_num_groups=8,
        attention_head_dim=4, conditioning_embedding_out_channels=(8, 8, 8, 16), motion_num_attention_heads=4,
        use_simplified_condition_embedding=not scribble,
    )  # fmt: skip
    for block in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
        torch.nn.init.normal_(block.weight, std=0.1)
    net.eval().save_pretrained(tmp_path / "net")
    shown = [PIL.Image.fromarray(noise(k)) for k in range(2)]
    for k, image in enumerate(shown):
        image.save(tmp_path / f"{k}.png")
    keyframes = [{"frame": f, "image": str(tmp_path / f"{k}.png")} for k, f in enumerate((0, 5))]
    asked = timeline(models, seed=5, guidance_scale=3, control={"model": str(tmp_path / "net"), "keyframes": keyframes})
    painted(renderer, asked, tmp_path / "job")
    theirs = diffusers_own(AnimateDiffSparseControlNetPipeline, models, schedulers(models)["ddim"], {"controlnet": net},
                           guidance_scale=3.0, conditioning_frames=shown, controlnet_frame_indices=[0, 5])  # fmt: skip
    without = timeline(models, seed=5, guidance_scale=3)
    painted(renderer, without, tmp_path / "without")
    assert not torch.allclose(latents(tmp_path / "without"), theirs, atol=0.05)
    tolerance = 1e-4 if scribble else 0.05  # theirs draws from the encoded picture's spread, ours is its middle
    assert (latents(tmp_path / "job") - theirs).abs().max() < tolerance


def noise(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)


def test_a_motion_lora_is_diffusers_own(models: Any, tmp_path: Path) -> None:
    torch.manual_seed(6)
    at = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    save_file({f"unet.{at}.lora_A.weight": down, f"unet.{at}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    old = at.replace("to_q", "processor.to_q_lora")
    save_file({f"{old}.down.weight": down, f"{old}.up.weight": up}, tmp_path / "old.safetensors")
    facts = {"loras": True, "version": "v2"}
    v2 = {**models, "a": save_adapter(tmp_path / "v2", 1, facts)}
    made = BACKEND.load(timeline(v2), lambda _told: None)
    found = []
    for name in ("lora", "old"):
        loras = [{"source": str(tmp_path / f"{name}.safetensors"), "strength": 0.7}]
        asked = timeline(v2, seed=5, segments=[{"motion": v2["a"], "motion_loras": loras}])
        painted(made, asked, tmp_path / name)
        found.append(latents(tmp_path / name))
    theirs = diffusers_own(AnimateDiffPipeline, v2, schedulers(models)["ddim"], {}, guidance_scale=1.0,
                           lora=tmp_path / "lora.safetensors")  # fmt: skip
    plain = diffusers_own(AnimateDiffPipeline, v2, schedulers(models)["ddim"], {}, guidance_scale=1.0)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, theirs, atol=1e-2)


def test_sdxl_is_diffusers_own(models: Any, tmp_path: Path) -> None:
    folder = str(tiny.save("sdxl", tmp_path / "sdxl"))
    asked = timeline(models, model=folder, seed=5)
    painted(BACKEND.load(asked, lambda _told: None), asked, tmp_path / "job")
    with quiet():
        parts = StableDiffusionXLPipeline.from_pretrained(folder).components
        parts = {k: v for k, v in parts.items() if k not in ("scheduler", "feature_extractor", "image_encoder")}
        scheduler = DDIMScheduler.from_config(EulerDiscreteScheduler.load_config(folder, subfolder="scheduler"))
        adapter = MotionAdapter.from_pretrained(models["a"])
        pipe = AnimateDiffSDXLPipeline(**parts, motion_adapter=adapter, scheduler=scheduler)
        pipe.unet.add_embedding.load_state_dict(parts["unet"].add_embedding.state_dict())  # which it forgets to copy
        pipe.set_progress_bar_config(disable=True)
        theirs = pipe(
            prompt="sea", num_frames=8, height=64, width=64, num_inference_steps=3, guidance_scale=1.0,
            generator=torch.Generator().manual_seed(5), output_type="latent",
        ).frames  # fmt: skip
    torch.testing.assert_close(latents(tmp_path / "job"), theirs, atol=1e-4, rtol=1e-4)


# -------------------------------------------------------------------------------------------------- an input video


def moving(count: int, size: int = 64) -> list[Image]:
    """A picture that moves right by a pixel a frame."""
    wide = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (size, size + count, 3), np.uint8), (9, 9), 0)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX)
    return [np.ascontiguousarray(wide[:, count - k : count - k + size]) for k in range(count)]


def test_a_video_is_read_in_windows_and_repainted(models: Any, renderer: Any, tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    for k, image in enumerate(moving(20)):
        PIL.Image.fromarray(image).save(tmp_path / "video" / f"{k}.png")
    video = str(tmp_path / "video")
    asked = timeline(models, frames=20, steps=4, input=video, strength=0.5, noise="auto")
    plan, watch = BACKEND.plan(asked), Counts()
    frames = painted(renderer, asked, tmp_path / "job", watch)
    assert len(frames) == 20
    assert plan.steps == 2
    assert watch.calls == plan.unet_calls == 2 * plan.windows
    assert watch.stages["encode"] == 3  # blocks of 8 frames
    assert any("strength 0.5: 2 of 4 steps" in note for note in plan.notes)
    stays = painted(renderer, asked.model_copy(update={"strength": 0.0}), tmp_path / "stays")
    kept = renderer._parts.decoder(renderer._encoded(moving(20))[0].transpose(0, 1).contiguous()).numpy()
    assert np.abs(stays.astype(int) - kept).max() <= 1  # a convolution's sums depend on how many it does at once
    with pytest.raises(ClipError, match=r"input .* has 20 frames, the clip 21: set frames = 20 or fewer"):
        painted(renderer, asked.model_copy(update={"frames": 21}), tmp_path / "long")


def test_the_flow_of_an_input_is_what_is_seen_to_move() -> None:
    fine, coarse = Flow((128, 128)), Flow((32, 32))
    for flow in (fine, coarse):
        flow.see(moving(4, 128))
    for frame in (1, 2, 3):
        came = fine(frame)
        assert came.shape == (2, 128, 128)
        assert came[:, 32:-32, 32:-32].mean((1, 2)).tolist() == pytest.approx([1, 0], abs=0.2)
        assert not coarse(frame)[:, 8:-8, 8:-8].any()  # a quarter of a cell: it rests


@pytest.mark.parametrize(
    ("camera", "way"), [(Camera(x=0.02), (1, 0)), (Camera(y=-0.02), (0, -1)), (Camera(zoom=1.05), (0, 0))]
)
def test_a_camera_moves_over_a_still_picture(tmp_path: Path, camera: Camera, way: tuple[int, int]) -> None:
    PIL.Image.fromarray(moving(1, 256)[0]).save(tmp_path / "photo.png")
    images = list(pictures(str(tmp_path / "photo.png"), 4, (128, 128), lambda _frame: camera))
    first = fitted(moving(1, 256)[0], 128, 128)
    assert np.abs(images[0].astype(int) - first).mean() < 3
    flow = Flow((128, 128))
    flow.see(images)
    inner = flow(2)[:, 16:-16, 16:-16]
    assert inner.mean((1, 2)).tolist() == pytest.approx([0.02 * 128 * w for w in way], abs=0.3)
    outwards = inner[0, :, -1].mean() - inner[0, :, 0].mean()
    assert outwards == pytest.approx((camera.zoom - 1) * 96, abs=0.5)


def test_cameras_cross_fade() -> None:
    made = mixed([(Camera(x=0.1, zoom=1.21), 0.5), (Camera(x=-0.1, rotate=10), 0.5)])
    assert (made.x, made.rotate) == (0, 5)
    assert made.zoom == pytest.approx(1.1)


GROWTH = """
import json, resource, sys
from pathlib import Path
import test_animatediff as t

models, frames, folder = json.loads(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
asked = t.timeline(models, frames=frames, steps=1, strength=1, input=sys.argv[4], noise="auto")
made = t.BACKEND.load(asked, lambda _told: None)
count = sum(len(part) for part in made.render(asked, folder, t.Watch()).frames)
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_the_memory_of_a_long_video_is_that_of_a_short_one(models: Any, tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", 100)
    kb = {}
    for frames in (20, 100):
        command = [
            sys.executable,
            "-c",
            GROWTH,
            json.dumps(models),
            str(frames),
            str(tmp_path / f"{frames}"),
            str(video),
        ]
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
        assert int(told[0]) == frames
        kb[frames] = int(told[1])
    assert kb[100] < 1.05 * kb[20]


# ------------------------------------------------------------------------------------------------------- refused


def test_what_does_not_fit_is_refused_in_the_plan(models: Any, tmp_path: Path) -> None:
    lora = {"motion_loras": [{"source": "zoom.safetensors"}]}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"window": 16, "frames": 20, "segments": [{"motion": models["b"]}]}, r"at once \(8 frames\): use window = 8"),
        ({"window": 8, "overlap": 8}, "overlap 8 does not fit windows of 8 frames: use 0 to 7"),
        ({"segments": [{"motion": models["a"], **lora}]}, "motion LoRAs are made for AnimateDiff v2"),
        ({"segments": [lora]}, "segment 1: motion LoRAs need a motion module"),
        ({"segments": [{"motion": "nothing"}]}, "motion module 'nothing' is unknown"),
        ({"width": 72}, "width 72 is not a multiple of 16: use 64 or 80"),
        ({"options": {"engin": "torch"}}, "has no option 'engin': it has device, engine, precision"),
        ({"memory": {"quantise": "torchao-int8"}}, "animatediff cannot be quantised by 'torchao-int8': it knows none"),
        ({"memory": {"offload": "group"}}, "animatediff does not take offload 'group': leave it out"),
        ({"memory": {"tiling": True}}, "animatediff has no tiling: leave it out"),
        ({"strength": 0.5}, "strength says how far an input may be left, and there is none: say input"),
        ({"sampler": "lcm", "steps": 60}, "steps 60 are too many for lcm: use 50 or fewer"),
        ({"input": "v.mp4", "free_init": 1}, "free_init begins with pure noise"),
        ({"input": "v.mp4", "strength": 0.1}, "strength 0.1 of 3 steps is no step at all: use 0.33 or more"),
        ({"keyframes": [{"frame": 0, "image": "a.png"}]}, "keyframes need a SparseCtrl: set control.model"),
        ({"control": {"model": models["a"]}}, "is a MotionAdapter: use a ControlNet or a SparseCtrl"),
    ]  # fmt: skip
    for values, told in cases:
        with pytest.raises(LivebrushError, match=told):
            BACKEND.plan(timeline(models, **values))
        assert re.search(told, str(BACKEND.missing(timeline(models, **values))))
    assert BACKEND.missing(timeline(models)) is None


def test_modules_that_want_different_samplers_are_refused(models: Any, tmp_path: Path) -> None:
    lcm = save_adapter(tmp_path / "animate-lcm", 1)
    fast = save_adapter(tmp_path / "lightning-4step", 1)
    asked = timeline({**models, "lcm": lcm, "fast": fast}, "lcm", "fast", sampler="auto", steps=None)
    with pytest.raises(ClipError, match=r"different kinds of sampler \(euler and lcm\): set sampler in the timeline"):
        BACKEND.plan(asked)


@pytest.mark.parametrize(
    ("name", "told"),
    [("AnimateLCM", ("lcm", 6, 1.5, {"beta_schedule": "linear"})),
     ("lightning-4step", ("euler", 4, 1, {"beta_schedule": "linear", "timestep_spacing": "trailing"}))],
)  # fmt: skip
def test_the_sampler_comes_from_the_modules_facts(models: Any, tmp_path: Path, name: str, told: Any) -> None:
    known = {**models, "named": save_adapter(tmp_path / name, 1)}
    asked = timeline(known, "named", sampler="auto", steps=None, guidance_scale=None)
    made = recipe(asked)
    sampler, steps, guidance, changes = told
    assert (made.sampler, made.steps, made.guidance(0)) == (sampler, steps, guidance)
    assert changes.items() <= made.scheduling.items()
    made_scheduler = scheduler_of(made.sampler, schedulers(models)["ddim"].config, **made.scheduling)
    assert made_scheduler.config.beta_schedule == "linear"
    assert BACKEND.plan(asked).steps == steps


def test_a_damaged_control_network_or_another_models_is_refused(models: Any, renderer: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    ControlNetModel.from_unet(tiny.unet(48)).save_pretrained(tmp_path / "net")
    asked = timeline(models, control={"model": str(tmp_path / "net"), "input": "v.mp4"})
    with pytest.raises(ModelError, match=r"made for blocks .* 48.* this model has .* 32.*: use one made for it"):
        painted(renderer, asked, tmp_path / "job")


# -------------------------------------------------------------------------------------------------- the built-in model


@pytest.fixture(scope="module")
def builtin_motion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A module that has learnt nothing, and jumbles its frames a little."""
    folder = tmp_path_factory.mktemp("module") / "drifts"
    shape = {"block_out_channels": (32, 64, 96, 128), "motion_norm_num_groups": 16, "motion_max_seq_length": 32}
    return save_adapter(folder, 1, {"camera": {"x": 0.02}}, std=0.02, **shape)


def builtin(motion: str, **values: Any) -> Timeline:
    plain = {"frames": 12, "window": 8, "overlap": 4, "width": 64, "height": 64, "steps": 3, "prompt": "watercolor"}
    return Timeline.model_validate({"segments": [{"motion": motion}], "options": TORCH} | plain | values)


def test_openvino_paints_what_torch_paints(builtin_motion: str, tmp_path: Path) -> None:
    found = {}
    for engine in ("torch", "openvino"):
        asked = builtin(builtin_motion, options={"engine": engine, "precision": "f32"})
        made = BACKEND.load(asked, lambda _told: None)
        found[engine] = painted(made, asked, tmp_path / engine).astype(int)
        assert np.array_equal(painted(made, asked, tmp_path / f"{engine} again"), found[engine])
        made.close()
    assert np.abs(found["torch"] - found["openvino"]).mean() < 0.5


def test_no_seam_is_seen_where_windows_and_segments_meet(builtin_motion: str, tmp_path: Path) -> None:
    segments = [{"motion": builtin_motion}, {"motion": builtin_motion, "camera": {"zoom": 1.03}, "scale": 1.5}]
    asked = builtin(builtin_motion, frames=40, segments=segments)
    plan, watch = BACKEND.plan(asked), Counts()
    frames = painted(BACKEND.load(asked, lambda _told: None), asked, tmp_path, watch).astype(int)
    step = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))  # from each frame to the next
    assert watch.calls == plan.unet_calls == 3 * (9 + 3)  # 9 windows, 3 of them in the cross-fade
    border = range(17, 23)  # the cross-fade and the frames beside it
    inside = np.median([step[k] for k in range(len(step)) if k not in border])
    assert inside > 1
    assert step.max() <= 1.5 * inside, step.round(2)
