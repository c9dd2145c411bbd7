"""Every family of video models, run for real with tiny random weights through the loading code that real ones take."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import stand_in
import tiny_video
from safetensors.torch import load_file, save_file

from stream.clips.backend import Cancelled, Watch
from stream.clips.families import FAMILIES, family, ready
from stream.clips.families.inputs import given
from stream.clips.timeline import Control, Keyframe, Memory, Segment, Timeline
from stream.config import Lora
from stream.errors import ClipError, LivebrushError, ModelError

SIDE = 64


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`picture.png` and the folder `video` of nine pictures that move."""
    folder = tmp_path_factory.mktemp("media")
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    PIL.Image.fromarray(image).save(folder / "picture.png")
    (folder / "video").mkdir()
    for i in range(9):
        PIL.Image.fromarray(np.roll(image, 3 * i, 1)).save(folder / "video" / f"{i}.png")
    return folder


class Models:
    """Tiny models in a folder, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> str:
        place = self.folder / name
        return str(place if place.exists() else tiny_video.save(name, place))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


class Recorder(Watch):
    """Remembers what it is told, makes every preview, and cancels before the denoiser call numbered `until`."""

    def __init__(self, until: int | None = None) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.previews: list[Any] = []
        self.until = until

    def tell(self, stage: str, done: int, total: int, preview: Any = None) -> None:
        self.told.append((stage, done, total))
        if preview is not None:
            self.previews.append(preview())
        if stage == "denoise" and done == self.until:
            raise Cancelled

    def calls(self) -> list[int]:
        return [done for stage, done, _ in self.told if stage == "denoise"]


def timeline(backend: str, model: str, **more: Any) -> Timeline:
    asked = {"frames": 8, "width": SIDE, "height": SIDE, "steps": 2, "prompt": "a red bird", "seed": 5}
    asked |= OWN.get(backend, {})
    return Timeline(**{**asked, "backend": backend, "model": model, "licence": family(backend).facts.accept, **more})


def painted(renderer: Any, asked: Timeline, watch: Watch | None = None) -> Any:
    return np.concatenate(list(renderer.render(asked, Path(), watch or Watch()).frames))


def rendered(asked: Timeline) -> Any:
    return painted(family(asked.backend).load(asked, lambda _text: None), asked)


@dataclass(frozen=True)
class Case:
    """A mode of a family: `frames` are what it says that it renders for eight."""

    backend: str
    model: str
    mode: str
    frames: int
    calls: int  # of the denoiser in two steps
    steps: int = 2

    def __str__(self) -> str:
        return f"{self.model} {self.mode}"


CASES = [
    Case("wan", "wan", "t2v", 9, 4),
    Case("wan", "wan-i2v", "i2v", 9, 4),
    Case("wan", "wan-flf", "keyframes", 9, 4),
    Case("wan", "wan", "v2v", 9, 2, steps=1),
    Case("wan", "wan-vace", "control", 9, 4),
    Case("wan", "wan-vace", "control video", 9, 4),
    Case("wan22", "wan22", "t2v", 9, 4),
    Case("wan22", "wan22-i2v", "i2v", 9, 4),
    Case("wan22-5b", "wan22-5b", "t2v", 9, 4),
    Case("wan22-5b", "wan22-5b", "i2v", 9, 4),
    Case("ltx", "ltx", "t2v", 9, 2),
    Case("ltx", "ltx", "i2v", 9, 2),
    Case("ltx", "ltx-0.9.5", "keyframes", 9, 2),
    Case("ltx", "ltx-0.9.5", "v2v", 9, 2),
    Case("ltx2", "ltx2", "t2v", 9, 6),
    Case("ltx2", "ltx2", "i2v", 9, 6),
    Case("ltx2", "ltx2", "keyframes", 9, 6),
    Case("cogvideox", "cogvideox", "t2v", 9, 2),
    Case("cogvideox", "cogvideox-i2v", "i2v", 9, 2),
    Case("cogvideox", "cogvideox", "v2v", 9, 1, steps=1),
    Case("cogvideox15", "cogvideox15", "t2v", 9, 2),
    Case("cogvideox15", "cogvideox15-i2v", "i2v", 9, 2),
    Case("mochi", "mochi", "t2v", 13, 2),
    Case("hunyuan", "hunyuan", "t2v", 9, 2),
    Case("hunyuan", "hunyuan-i2v", "i2v", 9, 2),
    Case("hunyuan", "hunyuan-i2v-later", "i2v", 9, 2),
    Case("framepack", "framepack", "i2v", 37, 2),
    Case("framepack", "framepack", "keyframes", 37, 2),
    Case("hunyuan15", "hunyuan15", "t2v", 9, 4),
    Case("hunyuan15", "hunyuan15-i2v", "i2v", 9, 4),
    Case("svd", "svd", "i2v", 8, 2),
]
OWN = {"ltx2": {"options": {"stg_block": 1}}}  # what the tiny model needs; the real ones have more blocks


def inputs(mode: str, media: Path) -> dict[str, Any]:
    picture, video = str(media / "picture.png"), str(media / "video")
    ends = (Keyframe(frame=0, image=picture), Keyframe(frame=7, image=picture))
    return {
        "t2v": {},
        "i2v": {"input": picture},
        "v2v": {"input": video, "strength": 0.6},
        "keyframes": {"keyframes": ends},
        "control": {"control": Control(model="vace", keyframes=ends[:1]), "input": picture},
        "control video": {"control": Control(model="vace", input=video)},
    }[mode]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_mode_does_what_its_plan_says_and_is_the_same_after_a_cancel(
    case: Case, models: Models, media: Path
) -> None:
    back_end, asked = family(case.backend), timeline(case.backend, models(case.model), **inputs(case.mode, media))
    plan = back_end.plan(asked)
    assert back_end.missing(asked) is None
    assert (plan.frames, plan.steps, plan.unet_calls) == (case.frames, case.steps, case.calls)
    assert any("8 frames are asked for" in n or "nine" in n for n in plan.notes) == (case.frames != 8)

    renderer, watch = back_end.load(asked, lambda _text: None), Recorder()
    clip = painted(renderer, asked, watch)
    assert clip.shape == (plan.frames, SIDE, SIDE, 3)
    assert clip.dtype == np.uint8
    assert clip.std() > 1
    assert watch.calls() == list(range(plan.unet_calls))
    assert ("decode", plan.frames, plan.frames) in watch.told
    assert all(p.ndim == 3 and p.shape[2] == 3 and p.dtype == np.uint8 for p in watch.previews)
    assert len(watch.previews) == plan.unet_calls

    with pytest.raises(Cancelled):
        painted(renderer, asked, Recorder(until=plan.unet_calls - 1))
    assert np.array_equal(painted(renderer, asked), clip)
    if case.mode == "t2v":
        assert not np.array_equal(painted(renderer, asked.model_copy(update={"seed": 6})), clip)
    assert asked.model in renderer.models().values()
    assert any(len(x) == 64 for x in renderer.models().values())
    renderer.close()


LORAS = {
    "wan": ("blocks.0.attn1.to_q", 24),
    "wan22": ("blocks.0.attn1.to_q", 24),
    "ltx": ("transformer_blocks.0.attn1.to_q", 32),
    "ltx2": ("transformer_blocks.0.attn1.to_q", 16),
    "cogvideox": ("transformer_blocks.0.attn1.to_q", 64),
    "mochi": ("transformer_blocks.0.attn1.to_q", 16),
    "hunyuan": ("transformer_blocks.0.attn.to_q", 20),
}


@pytest.mark.parametrize("name", LORAS)
def test_loras_change_the_clip_by_their_strength(name: str, models: Models, tmp_path: Path) -> None:
    layer, width = LORAS[name]
    file = tiny_video.save_lora(tmp_path / "style.safetensors", layer, width)
    asked = timeline(name, models(name))
    plain = rendered(asked)
    off, on = (rendered(asked.model_copy(update={"loras": (Lora(str(file), strength),)})) for strength in (0.0, 1.0))
    assert np.array_equal(off, plain)
    assert not np.array_equal(on, plain)


def test_the_second_expert_has_loras_of_its_own(models: Models, tmp_path: Path) -> None:
    file = tiny_video.save_lora(tmp_path / "low.safetensors", *LORAS["wan22"])
    asked = timeline("wan22", models("wan22"), options={"low_noise_loras": [f"{file}:0.5"]})
    renderer = family("wan22").load(asked, lambda _text: None)
    assert renderer.pipeline.get_list_adapters() == {"transformer_2": ["lora_2_0"]}


def test_a_lora_of_another_model_is_refused(models: Models, tmp_path: Path) -> None:
    file = tiny_video.save_lora(tmp_path / "other.safetensors", "nothing.to_q", 24)
    with pytest.raises(ModelError, match=r"other\.safetensors"):
        rendered(timeline("wan", models("wan"), loras=(Lora(str(file)),)))


def differs(one: Any, other: Any) -> float:
    """Grey levels, on average."""
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize(("quantise", "package"), [("quanto-int8", "optimum.quanto"), ("torchao-int8", "torchao")])
def test_int8_paints_nearly_the_same(quantise: str, package: str, models: Models) -> None:
    pytest.importorskip(package)
    asked = timeline("ltx", models("ltx"))
    plain = rendered(asked)
    small = asked.model_copy(update={"memory": Memory(quantise=quantise)})
    assert family("ltx").missing(small) is None
    assert family("ltx").key(small) != family("ltx").key(asked)
    assert 0 < differs(rendered(small), plain) < 4


def test_a_gguf_file_paints_nearly_the_same(models: Models, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    asked = timeline("wan", models("wan"))
    weights = load_file(Path(asked.model) / "transformer" / "diffusion_pytorch_model.safetensors")
    writer = gguf.GGUFWriter(tmp_path / "wan.gguf", "wan")
    for name, weight in weights.items():
        eight = weight.ndim == 2 and weight.shape[1] % 32 == 0
        data = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0) if eight else weight.numpy()
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0 if eight else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    memory, options = Memory(quantise="gguf"), {"gguf": str(tmp_path / "wan.gguf")}
    small = rendered(asked.model_copy(update={"memory": memory, "options": options}))
    assert 0 < differs(small, rendered(asked)) < 4
    with pytest.raises(ClipError, match=r"option gguf is '': give the \.gguf file"):
        rendered(asked.model_copy(update={"memory": memory}))


def test_group_offload_and_tiling_paint_the_same(models: Models) -> None:
    asked = timeline("wan", models("wan"))
    offloaded = rendered(asked.model_copy(update={"memory": Memory(offload="group", tiling=True)}))
    assert differs(offloaded, rendered(asked)) < 0.01


def test_the_first_block_cache_leaves_out_the_other_blocks(models: Models) -> None:
    asked = timeline("ltx", models("ltx"), steps=8)
    ran = []
    for cache in ("none", "first-block"):
        renderer = family("ltx").load(asked.model_copy(update={"memory": Memory(cache=cache)}), lambda _text: None)
        counted: list[int] = []
        inner = renderer.pipeline.transformer.transformer_blocks[1].attn1
        inner.register_forward_pre_hook(lambda *_a, seen=counted: seen.append(1))
        painted(renderer, asked)
        ran.append(len(counted))
    assert 0 < ran[1] < ran[0] == 8


def test_ltx2_is_heard(models: Models) -> None:
    asked = timeline("ltx2", models("ltx2"))
    clip = family("ltx2").load(asked, lambda _text: None).render(asked, Path(), Watch())
    assert clip.sound() is None
    assert sum(len(part) for part in clip.frames) == 9
    sound = clip.sound()
    assert sound is not None
    assert (sound.samples.dtype, sound.rate, len(sound.samples)) == (np.float32, 16000, 2)
    assert 0 < np.abs(sound.samples).max() <= 1


def test_framepack_is_put_together_from_the_repositories_that_it_lies_in(
    models: Models, media: Path, tmp_path: Path
) -> None:
    """The network and the image encoder lie apart from the text encoders and the VAE, which are HunyuanVideo's."""
    whole = timeline("framepack", models("framepack"), **inputs("i2v", media))
    plain = Path(shutil.copytree(models("framepack"), tmp_path / "plain"))
    index = json.loads((plain / "model_index.json").read_text())
    for name in ("transformer", "image_encoder", "feature_extractor"):
        shutil.move(plain / name, tmp_path / "eyes" / name)
        index.pop(name)
    (plain / "model_index.json").write_text(json.dumps(index | {"_class_name": "HunyuanVideoPipeline"}))
    asked = timeline("framepack", str(plain), **inputs("i2v", media))
    missing = str(family("framepack").missing(asked))
    assert "hf download lllyasviel/FramePackI2V_HY" in missing
    assert "hf download lllyasviel/flux_redux_bfl" in missing
    parts = {"transformer": str(tmp_path / "eyes" / "transformer"), "image_encoder": str(tmp_path / "eyes")}
    asked = asked.model_copy(update={"options": parts})
    assert family("framepack").missing(asked) is None
    assert np.array_equal(rendered(asked), rendered(whole))


# ------------------------------------------------------------------------------------------------- refusals


REFUSED = {
    "width 80 is not a multiple of 32, as ltx needs: use 64 or 96": ("ltx", {"width": 80}),
    "backend wan does not take a closed loop": ("wan", {"loop": True}),
    "backend wan has no option 'magic'": ("wan", {"options": {"magic": 1}}),
    "backend svd does not take a LoRA or a cache": (
        "svd", {"loras": (Lora("x"),), "memory": Memory(cache="first-block"), "input": "picture.png"}),
    "backend svd has no t2v (only a prompt is given), only i2v": ("svd", {}),
    "backend svd cannot be quantised by 'gguf'": ("svd", {"memory": Memory(quantise="gguf"), "input": "picture.png"}),
    "backend svd has no VAE tiling": ("svd", {"memory": Memory(tiling=True), "input": "picture.png"}),
    "option motion_bucket_id is 'much': expected e.g. 127": (
        "svd", {"options": {"motion_bucket_id": "much"}, "input": "picture.png"}),
    "strength 0.1 of 2 steps is not one step": ("wan", {"input": "video", "strength": 0.1}),
    "a strength without an input video": ("wan", {"strength": 0.5}),
    "takes pictures for the first and the last frame (0 and 7), got [3, 7]": (
        "wan", {"keyframes": (Keyframe(frame=3, image="picture.png"), Keyframe(frame=7, image="picture.png"))}),
    "keyframe 8 is not in the clip: it has frames 0 to 7": (
        "ltx", {"keyframes": (Keyframe(frame=8, image="picture.png"),)}),
    "the control model \"vace\", got 'canny'": ("wan", {"control": Control(model="canny", input="video")}),
    "backend mochi takes 2 steps or more, got 1": ("mochi", {"steps": 1}),
    "backend ltx2 does not take a cache": ("ltx2", {"memory": Memory(cache="first-block")}),
    "backend hunyuan15 does not take a LoRA or a cache": (
        "hunyuan15", {"loras": (Lora("x"),), "memory": Memory(cache="first-block")}),
    "backend framepack takes pictures for the first and the last frame, got [0, 4]": (
        "framepack", {"keyframes": (Keyframe(frame=0, image="picture.png"), Keyframe(frame=4, image="picture.png"))}),
    "option sampling is 'backwards': use inverted_anti_drifting or vanilla": (
        "framepack", {"input": "picture.png", "options": {"sampling": "backwards"}}),
    "backend cogvideox15 has no v2v (the input is a video), only t2v, i2v": ("cogvideox15", {"input": "video"}),
    "takes one prompt for the whole clip, got 2": (
        "wan", {"segments": (Segment(prompt="a", end=4), Segment(prompt="b", start=4))}),
    "input testcard has no end": ("wan", {"input": "testcard"}),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_it_cannot_do_is_refused_before_anything_is_loaded(
    message: str, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(media)
    backend, asked = REFUSED[message]
    with pytest.raises(LivebrushError) as refused:
        family(backend).plan(timeline(backend, "nowhere", **asked))
    assert message in str(refused.value)


@pytest.mark.parametrize("name", [n for n in FAMILIES if family(n).facts.accept])
def test_a_licence_must_be_accepted(name: str, media: Path) -> None:
    asked = timeline(name, "builtin", licence=None, input=str(media / "picture.png"))
    accept = family(name).facts.accept
    with pytest.raises(ClipError, match=f'put licence = "{accept}" into the timeline'):
        family(name).plan(asked)


def test_a_short_video_gives_a_shorter_clip_and_says_so(models: Models, media: Path) -> None:
    plan = family("wan").plan(timeline("wan", models("wan"), frames=40, input=str(media / "video")))
    assert plan.frames == 9
    assert "the input has 9 frames: 9 are rendered, not 40 (frames: 4k+1, at most 81)" in plan.notes


@pytest.mark.parametrize(("fps", "frames"), [(None, 21), (24, 21), (12, 9)])
def test_a_video_keeps_its_pace(fps: int | None, frames: int, models: Models, tmp_path: Path) -> None:
    """24 pictures in a second: at 12 a second every other one, and half as many are there."""
    stand_in.write(tmp_path / "clip.mp4", 24, 24)
    asked = timeline("wan", models("wan"), frames=40, fps=fps, input=str(tmp_path / "clip.mp4"))
    plan = family("wan").plan(asked)
    assert (plan.frames, plan.fps) == (frames, str(fps or 24))
    seen = np.array([np.asarray(p).mean() for p in given(family("wan").ask(asked))])
    assert np.allclose(np.diff(seen), 4 * 24 / (fps or 24), atol=1)


UNHEARD = {
    "SVD moves the picture by itself: the prompt is left out": ("svd", {"input": "picture.png"}),
    "the negative prompt counts only with guidance_scale above 1": ("wan", {"guidance_scale": 1}),
    "the negative prompt counts only with --option true_cfg_scale above 1": ("hunyuan", {}),
}


@pytest.mark.parametrize("note", UNHEARD)
def test_what_a_model_does_not_heed_is_said(note: str, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(media)
    backend, more = UNHEARD[note]
    assert note in family(backend).plan(timeline(backend, "nowhere", negative_prompt="blue", **more)).notes


def test_a_keyframe_that_counts_in_part_is_one_of_many(models: Models, media: Path) -> None:
    """A picture at frame 0 is the first frame; with a strength it is a condition, which LTX-Video knows of."""
    half = {"keyframes": (Keyframe(frame=0, image=str(media / "picture.png"), strength=0.5),)}
    asked = timeline("ltx", models("ltx-0.9.5"), **half)
    one = timeline("ltx", models("ltx-0.9.5"), keyframes=(Keyframe(frame=0, image=str(media / "picture.png")),))
    assert not np.array_equal(rendered(asked), rendered(one))
    with pytest.raises(ClipError, match="backend framepack takes a keyframe as it is"):
        family("framepack").plan(timeline("framepack", "nowhere", **half))


def test_an_input_of_another_shape_is_cut_and_it_is_said(models: Models, media: Path) -> None:
    plan = family("wan").plan(timeline("wan", models("wan-i2v"), width=128, input=str(media / "picture.png")))
    assert "picture.png is 64x64: cut to the shape of 128x64, from the middle" in plan.notes


@pytest.mark.parametrize("name", FAMILIES)
def test_frame_rules_say_what_is_rendered(name: str) -> None:
    rule = family(name).facts.rule
    for asked in range(1, 40):
        made = rule.nearest(asked)
        assert made % rule.step == rule.rest % rule.step
        assert made - asked < max(rule.step, rule.least) or made == rule.least


# ------------------------------------------------------------------------------------------------- what is missing


def test_weights_that_are_not_here_are_named_with_the_command() -> None:
    said = family("wan").missing(timeline("wan", "nobody/nothing"))
    assert said is not None
    assert "hf download nobody/nothing" in said


def test_a_folder_that_lacks_weights_is_known_without_loading(models: Models, tmp_path: Path) -> None:
    place = tiny_video.save("ltx", tmp_path / "ltx")
    (place / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    asked = timeline("ltx", str(place))
    assert "vae/*.safetensors of the weights" in str(family("ltx").missing(asked))
    with pytest.raises(ModelError, match=r"lacks vae/\*\.safetensors"):
        family("ltx").load(asked, lambda _text: None)


def test_a_text_encoder_is_never_half_random(tmp_path: Path) -> None:
    place = tiny_video.save("ltx", tmp_path / "ltx")
    file = place / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights.pop(next(k for k in weights if k.endswith("wo.weight")))
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        family("ltx").load(timeline("ltx", str(place)), lambda _text: None)


def test_weights_of_another_kind_are_refused(models: Models, media: Path) -> None:
    asked = timeline("wan", models("wan"), input=str(media / "picture.png"))
    with pytest.raises(ModelError, match="is a WanPipeline, and this clip needs WanImageToVideoPipeline"):
        family("wan").load(asked, lambda _text: None)
    ends = inputs("keyframes", media)
    with pytest.raises(ModelError, match=r"older than 0\.9\.5"):
        family("ltx").load(timeline("ltx", models("ltx"), **ends), lambda _text: None)


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "find_spec", lambda _name: None)
    assert ready.packages(("ftfy",), "quanto-int8") == (
        "ftfy, optimum.quanto not installed: pip install 'livebrush[video]'"
    )
    assert "livebrush[bnb]" in str(ready.packages((), "bnb-nf4"))


def test_too_large_for_this_machine_needs_a_card(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "has_card", lambda: False)
    assert ready.room("nobody/nothing", 1e6) is not None
    assert ready.room(models("wan"), 1e6) is None  # what is here is small
    monkeypatch.setattr(ready, "has_card", lambda: True)
    assert ready.room("nobody/nothing", 1e6) is None


def test_an_index_names_every_shard(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "X"], "_class_name": "Y"}))
    index = tmp_path / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    (tmp_path / "vae" / "one.safetensors").write_bytes(b"")
    assert ready.incomplete(tmp_path) == "vae/two.safetensors"
    (tmp_path / "vae" / "two.safetensors").write_bytes(b"")
    assert ready.incomplete(tmp_path) is None
