"""Models from every kind of source, against diffusers itself."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import engines
from engines import Choice
from stream import choice, models
from stream.config import Lora, ModelSpec, spec
from stream.errors import ModelError, SettingsError
from stream.networks import DenoiserNet
from stream.prompt import Text

KINDS = ("sd15", "sd2", "sd-turbo", "sdxl")
TORCH = Choice("torch", "cpu", "f32", "a test")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny pipelines, saved once."""
    folder = tmp_path_factory.mktemp("models")

    def get(kind: str) -> Path:
        return folder / kind if (folder / kind).is_dir() else tiny.save(kind, folder / kind)

    return get


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def load(source: Path | str, choice: Choice = TORCH, **changes: Any) -> models.Model:
    return models.load(replace(spec(str(source)), **changes), choice)


def pictures(rows: int = 2, height: int = 64, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (rows, height, width, 3), dtype=torch.uint8, generator=generator)


def weight(model: models.Model, name: str = tiny.LORA_LAYER) -> torch.Tensor:
    return model.engines["denoiser"]._module.state_dict()[f"unet.{name}.weight"]  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_folder_loads_and_its_denoiser_is_the_unet_of_diffusers(kind: str, shelf: Any, tmp_path: Path) -> None:
    model, own = load(shelf(kind)), tiny.pipeline(kind, tmp_path)
    text = model.prompter("a cat", 32, 64)
    x, t = torch.randn(2, 4, 8, 4), torch.tensor([999, 19])
    got = model.denoise(x, t, Text.cat([text, text]))
    encoded = own.encode_prompt("a cat", "cpu", 1, False) if kind != "sdxl" else own.encode_prompt(
        "a cat", device="cpu", do_classifier_free_guidance=False
    )  # fmt: skip
    more = {}
    if kind == "sdxl":
        time_ids = torch.tensor([[64.0, 32, 0, 0, 64, 32]]).repeat(2, 1)
        more = {"added_cond_kwargs": {"text_embeds": encoded[2].repeat(2, 1), "time_ids": time_ids}}
    expected = own.unet(x, t, encoded[0].repeat(2, 1, 1), **more).sample
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert got.dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "prediction"),
    [("sd15", "epsilon"), ("sd2", "v_prediction"), ("sd-turbo", "epsilon"), ("sdxl", "epsilon")],
)
def test_what_the_model_predicts_and_its_noise_are_read_from_its_scheduler(
    kind: str, prediction: str, shelf: Any
) -> None:
    model = load(shelf(kind))
    assert model.prediction == prediction
    assert (model.factor, model.multiple, model.latent_channels) == (8, 16, 4)
    own = tiny.scheduler(kind).alphas_cumprod
    torch.testing.assert_close(model.curve.alphas_cumprod, own.float(), atol=1e-7, rtol=1e-6)


def test_sample_prediction_is_read_and_an_unknown_one_refused(shelf: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(shelf("sd15"), tmp_path / "sd15")
    config = folder / "scheduler" / "scheduler_config.json"
    text = config.read_text()
    config.write_text(text.replace('"epsilon"', '"sample"'))
    assert load(folder).prediction == "sample"
    config.write_text(text.replace('"epsilon"', '"flow"'))
    with pytest.raises(ModelError, match="predicts 'flow': expected epsilon, v_prediction, sample"):
        load(folder)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@torch.inference_mode()
def test_encoder_and_decoder_are_the_full_vae_of_diffusers(kind: str, shelf: Any, tmp_path: Path) -> None:
    model, vae = load(shelf(kind)), tiny.pipeline(kind, tmp_path).vae
    images = pictures()
    latents = model.encode(images)
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    assert latents.shape == (2, 4, 8, 4)
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)
    out = model.decode(latents)
    raw = vae.decode(expected / vae.config.scaling_factor).sample
    grey = (raw.clamp(-1, 1) * 127.5 + 127.5).round().permute(0, 2, 3, 1)
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert (out.float() - grey).abs().max() <= 1
    assert torch.equal(model.encode(images), latents)  # the mode, not a draw


@pytest.mark.parametrize(("stages", "factor"), [(4, 8), (3, 4)])
@torch.inference_mode()
def test_a_small_autoencoder_takes_the_place_of_the_full_one(
    stages: int, factor: int, shelf: Any, tmp_path: Path
) -> None:
    tiny.small_vae(stages).save_pretrained(tmp_path / "taesd")
    model, vae = load(shelf("sd15"), vae=str(tmp_path / "taesd")), tiny.small_vae(stages)
    images = pictures()
    latents = model.encode(images)
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(latents, vae.encode(pixels).latents, atol=1e-5, rtol=1e-5)
    assert (model.factor, model.multiple) == (factor, 2 * factor)
    assert model.decode(latents).shape == images.shape


def test_a_vae_that_does_not_fit_is_refused(shelf: Any, tmp_path: Path) -> None:
    vae = tiny.full_vae()
    vae = type(vae).from_config({**vae.config, "latent_channels": 16})
    vae.save_pretrained(tmp_path / "wide")
    with pytest.raises(ModelError, match=r"takes latents of 4 channels, vae .*wide makes 16"):
        load(shelf("sd15"), vae=str(tmp_path / "wide"))


def test_an_sdxl_vae_stays_in_float32_where_the_rest_is_f16(shelf: Any) -> None:
    model = load(shelf("sdxl"), Choice("torch", "cpu", "f16", "a test"))
    assert {n: e.precision for n, e in model.engines.items()} == {"encoder": "f32", "denoiser": "f16", "decoder": "f32"}
    assert model.decode(model.encode(pictures())).shape == (2, 64, 32, 3)
    assert {e.precision for e in load(shelf("sd15"), Choice("torch", "cpu", "f16", "")).engines.values()} == {"f16"}


@pytest.mark.parametrize("precision", ["bf16", "f16"])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_half_precision_runs_close_to_full(kind: str, precision: Any, shelf: Any) -> None:
    full, half = load(shelf(kind)), load(shelf(kind), Choice("torch", "cpu", precision, "a test"))
    text = full.prompter("a cat", 64, 64)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([999])
    a, b = full.denoise(x, t, text), half.denoise(x, t, text)
    assert b.dtype == torch.float32
    assert (a - b).abs().mean() < 0.02 * a.abs().mean()
    assert (full.encode(pictures()) - half.encode(pictures())).abs().max() < 0.05


def test_weights_of_half_precision_are_read_as_float32(shelf: Any, tmp_path: Path) -> None:
    tiny.pipeline("sd15", tmp_path).to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    model = load(tmp_path / "half")  # only fp16 files are there
    assert weight(model).dtype == torch.float32
    torch.testing.assert_close(weight(model), weight(load(shelf("sd15"))).half().float())
    assert torch.equal(weight(load(shelf("sd15"), variant="fp16")), weight(load(shelf("sd15"))))  # none: the plain ones


# ------------------------------------------------------------------------------------------------- one file


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_single_file_is_the_same_model_as_its_folder(kind: str, shelf: Any, tmp_path: Path, offline: Path) -> None:
    file = tiny.save_single(kind, tmp_path / "one.safetensors")
    named = load(file, config=str(shelf(kind)))
    shutil.copytree(shelf(kind), tmp_path / "one", ignore=shutil.ignore_patterns("*.safetensors"))
    beside, folder = load(file), load(shelf(kind))
    for model in (named, beside):
        for name, engine in model.engines.items():
            state = folder.engines[name]._module.state_dict()  # type: ignore[attr-defined]
            for key, value in engine._module.state_dict().items():  # type: ignore[attr-defined]
                assert torch.equal(value, state[key]), key
        pairs = zip(model.prompter("cat", 64, 64).tensors(), folder.prompter("cat", 64, 64).tensors(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_single_file_offline_names_the_configuration_and_where_to_put_it(tmp_path: Path, offline: Path) -> None:
    file = tiny.save_single("sd15", tmp_path / "one.safetensors")
    with pytest.raises(ModelError) as caught:
        load(file)
    message = str(caught.value)
    assert "the configuration of one.safetensors, from stable-diffusion-v1-5/stable-diffusion-v1-5 is not on" in message
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include '*.json'" in message
    assert f"config = FOLDER in a .toml preset, or name the folder {tmp_path / 'one'}" in message


def test_a_single_file_of_sd2_must_say_what_it_predicts(tmp_path: Path) -> None:
    file = tmp_path / "two.safetensors"
    key = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({key: torch.zeros(2, 1024)}, file)
    with pytest.raises(ModelError, match=r'SD 2.x checkpoint.*config = "stabilityai/sd-turbo" \(epsilon\)'):
        load(file)


def test_a_lora_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no whole checkpoint: expected one of SD 1.x.*a LoRA goes under --lora"):
        load(tiny.save_lora(tmp_path / "lora.safetensors"))


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
@pytest.mark.parametrize("whole", [True, False])
def test_a_single_file_that_lacks_weights_is_refused(prefix: str, whole: bool, shelf: Any, tmp_path: Path) -> None:
    file = tiny.save_single("sd15", tmp_path / "one.safetensors")
    weights = load_file(file)
    gone = [k for k in weights if k.startswith(prefix)]
    save_file({k: v for k, v in weights.items() if k not in (gone if whole else gone[-1:])}, file)
    with pytest.raises(ModelError, match=r"one\.safetensors"):
        load(file, config=str(shelf("sd15")))


# ------------------------------------------------------------------------------------------------- LoRAs


@pytest.mark.parametrize("kohya", [False, True], ids=["diffusers", "kohya"])
def test_a_lora_is_merged_with_its_strength(kohya: bool, shelf: Any, tmp_path: Path) -> None:
    file = tiny.save_lora(tmp_path / "style.safetensors", kohya)
    plain = load(shelf("sd15"))
    merged = load(shelf("sd15"), loras=(Lora(str(file), 0.5), Lora(str(file), -0.2)))
    down, up = tiny.lora_weights()
    torch.testing.assert_close(weight(merged), weight(plain) + (0.5 - 0.2) * up @ down, atol=1e-5, rtol=1e-5)
    keys = merged.engines["denoiser"]._module.state_dict()  # type: ignore[attr-defined]
    assert keys.keys() == plain.engines["denoiser"]._module.state_dict().keys()  # type: ignore[attr-defined]
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), plain.prompter("", 64, 64)
    assert not torch.allclose(plain.denoise(x, t, text), merged.denoise(x, t, text), atol=1e-4)


def test_a_folder_with_one_lora_stands_for_it_and_one_with_two_asks(shelf: Any, tmp_path: Path) -> None:
    tiny.save_lora(tmp_path / "loras" / "a.safetensors")
    merged = load(shelf("sd15"), loras=(Lora(str(tmp_path / "loras")),))
    assert not torch.equal(weight(merged), weight(load(shelf("sd15"))))
    tiny.save_lora(tmp_path / "loras" / "b.safetensors")
    with pytest.raises(ModelError, match=r"2 .safetensors files \(a.safetensors, b.safetensors\): name the one"):
        load(shelf("sd15"), loras=(Lora(str(tmp_path / "loras")),))


@pytest.mark.parametrize("kohya", [False, True])
def test_a_lora_for_another_kind_of_model_is_refused(kohya: bool, shelf: Any, tmp_path: Path) -> None:
    file = tiny.save_lora(tmp_path / "other.safetensors", kohya, width=20)
    with pytest.raises(ModelError, match=r"lora .*other.safetensors does not fit this model \(.+\): use one made"):
        load(shelf("sd15"), loras=(Lora(str(file)),))


def test_a_damaged_lora_is_refused(shelf: Any, tmp_path: Path) -> None:
    file = tiny.save_lora(tmp_path / "cut.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ModelError, match=r"lora .*cut.safetensors cannot be read"):
        load(shelf("sd15"), loras=(Lora(str(file)),))


# ------------------------------------------------------------------------------------------------- missing, damaged

PIECES = ["model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "unet/config.json",
          "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json",
          "tokenizer/tokenizer_config.json", "vae/diffusion_pytorch_model.safetensors"]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_a_file_missing_or_cut_short_is_one_clear_error(piece: str, shelf: Any, tmp_path: Path) -> None:
    file = shutil.copytree(shelf("sd15"), tmp_path / "sd15") / piece
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="sd15") as caught:
        load(tmp_path / "sd15")
    assert caught.value.__suppress_context__
    file.unlink()
    with pytest.raises(ModelError, match="sd15"):
        load(tmp_path / "sd15")


@pytest.mark.parametrize("piece", [x for x in PIECES if x.endswith(".safetensors")])
def test_weights_that_lack_one_are_never_filled_in(piece: str, shelf: Any, tmp_path: Path) -> None:
    file = shutil.copytree(shelf("sd15"), tmp_path / "sd15") / piece
    weights = load_file(file)
    weights.pop(sorted(weights)[3])
    save_file(weights, file)
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        load(tmp_path / "sd15")


def test_another_kind_of_pipeline_is_named(shelf: Any, tmp_path: Path) -> None:
    index = shutil.copytree(shelf("sd15"), tmp_path / "flux") / "model_index.json"
    text = index.read_text().replace("UNet2DConditionModel", "FluxTransformer2DModel")
    index.write_text(text.replace("StableDiffusionPipeline", "FluxPipeline"))
    with pytest.raises(ModelError, match=r"is a FluxPipeline: Livebrush paints with SD 1.x, SD 2.x"):
        load(tmp_path / "flux")


def test_an_empty_folder_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model_index.json: expected a diffusers folder with"):
        load(tmp_path)
    (tmp_path / "old.ckpt").touch()
    with pytest.raises(ModelError, match=r"is a .ckpt file: use a .safetensors file or a folder"):
        load(tmp_path / "old.ckpt")
    with pytest.raises(ModelError, match=r"gone.safetensors is not there: check the path"):
        load("gone/gone.safetensors")


def test_a_hub_id_offline_says_what_to_fetch_and_where_to_put_it(offline: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load("stabilityai/sd-turbo")
    message = str(caught.value)
    assert "model stabilityai/sd-turbo is not on this machine and could not be fetched (offline" in message
    assert "hf download stabilityai/sd-turbo" in message
    assert "model_index.json, scheduler/, text_encoder/, tokenizer/, unet/, vae/" in message
    assert "--model FOLDER" in message
    assert caught.value.__suppress_context__


def test_a_vae_and_a_lora_offline_are_named(offline: Path, shelf: Any) -> None:
    with pytest.raises(ModelError, match=r"vae madebyollin/taesd is not on this machine(.|\n)*config.json"):
        load(shelf("sd15"), vae="madebyollin/taesd")
    with pytest.raises(ModelError, match=r"lora owner/name is not on(.|\n)*hf download owner/name pytorch_lora_we"):
        load(shelf("sd15"), loras=(Lora("owner/name"),))
    with pytest.raises(ModelError, match=r"lora owner/name is not on(.|\n)*hf download owner/name deep/x.safetensors"):
        load(shelf("sd15"), loras=(Lora("owner/name/deep/x.safetensors"),))


def cached(hub: Path, repo: str, files: Path) -> None:
    """Puts `files` into the hub cache as `repo`."""
    place, commit = hub / f"models--{repo.replace('/', '--')}", "0123456789" * 4
    shutil.copytree(files, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)


def test_what_is_in_the_hub_cache_loads_offline(offline: Path, shelf: Any, tmp_path: Path) -> None:
    tiny.small_vae().save_pretrained(tmp_path / "taesd")
    tiny.save_lora(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    for repo, files in (("tiny/sd", shelf("sd15")), ("tiny/vae", tmp_path / "taesd"), ("tiny/lora", tmp_path / "lora")):
        cached(offline, repo, files)
    model = load("tiny/sd", vae="tiny/vae", loras=(Lora("tiny/lora"),), variant="fp16")
    down, up = tiny.lora_weights()
    torch.testing.assert_close(weight(model), weight(load(shelf("sd15"))) + up @ down, atol=1e-5, rtol=1e-5)


def test_a_half_downloaded_repository_is_never_half_loaded(offline: Path, shelf: Any, tmp_path: Path) -> None:
    files = shutil.copytree(shelf("sd15"), tmp_path / "part")
    (files / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    cached(offline, "tiny/part", files)
    with pytest.raises(ModelError, match="tiny/part"):
        load("tiny/part")


# ------------------------------------------------------------------------------------------------- the model


def test_sizes_are_checked_against_the_model(shelf: Any) -> None:
    model = load(shelf("sd15"))
    model.check_size(64, 48)
    for width, height, message in (
        (500, 512, "width 500 is not a multiple of 16: use 496 or 512"),
        (512, 520, "height 520 is not a multiple of 16: use 512 or 528"),
        (0, 64, "width 0 is not a multiple of 16: use 16"),
        (7, 64, "width 7 is not a multiple of 16: use 16"),
    ):
        with pytest.raises(SettingsError, match=message):
            model.check_size(width, height)
        with pytest.raises(SettingsError, match=message):
            model.prepare(width, height)
    model.prepare(64, 48)


def test_sdxl_text_carries_pooled_text_and_sizes(shelf: Any) -> None:
    text = load(shelf("sdxl")).prompter("a cat", 96, 64)
    assert text.tokens.shape == (1, tiny.CONTEXT, 96)
    assert text.pooled is not None
    assert text.pooled.shape == (1, 64)
    assert text.time_ids is not None
    assert text.time_ids.tolist() == [[64, 96, 0, 0, 64, 96]]


def test_a_prompt_too_long_is_cut_with_a_warning(shelf: Any, caplog: pytest.LogCaptureFixture) -> None:
    prompter = load(shelf("sd15")).prompter
    with caplog.at_level(logging.WARNING, "livebrush"):
        short = prompter("a b c d e f g h i j k l m n", 64, 64)
        assert not caplog.records
        long = prompter("a b c d e f g h i j k l m n o p q", 64, 64)
    assert [r.getMessage() for r in caplog.records] == [
        "the prompt has 19 tokens, the model reads 16: its end is ignored"
    ]
    torch.testing.assert_close(long.tokens, short.tokens)


def test_loading_says_nothing_on_the_screen_not_even_the_first_time(shelf: Any) -> None:
    code = f"""from engines import Choice
from stream import config, models
models.load(config.spec({str(shelf("sd15"))!r}), Choice("torch", "cpu", "f32", "")).prompter("a cat", 64, 64)"""
    root = Path(models.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["encoder", "denoiser", "decoder"])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_networks_are_as_their_ports_say(kind: str, name: str, tmp_path: Path) -> None:
    networks = models.networks_of(tiny.pipeline(kind, tmp_path), ModelSpec("x", "x"))
    network = next(n for n in networks if n.name == name)
    with torch.inference_mode():
        out = network.module(*network.example())
    assert out.dtype == network.output.dtype
    assert out.shape == tuple(a if isinstance(a, int) else network.sizes[a] for a in network.output.shape)


def test_the_denoiser_runs_in_bfloat16_with_a_timestep_that_bfloat16_cannot_hold() -> None:
    net = DenoiserNet(tiny.unet(32)).to(torch.bfloat16).eval()
    x, tokens = torch.randn(1, 4, 8, 8), torch.randn(1, tiny.CONTEXT, 32)
    with torch.inference_mode():
        a, b = (net(x, torch.tensor([t]), tokens) for t in (999.0, 997.0))
    assert a.dtype == torch.float32
    assert not torch.equal(a, b)


def test_networks_trace_and_run_on_openvino_at_another_size_and_rows(shelf: Any) -> None:
    a, b = load(shelf("sdxl")), load(shelf("sdxl"), engines.choose("openvino", "cpu", "f32"))
    text = a.prompter("a cat", 64, 32)
    x, t = torch.randn(3, 4, 4, 8), torch.tensor([999, 500, 19])
    texts = Text.cat([text] * 3)
    torch.testing.assert_close(a.denoise(x, t, texts), b.denoise(x, t, texts), atol=1e-3, rtol=1e-3)
    images = pictures(2, 32, 64)
    torch.testing.assert_close(a.encode(images), b.encode(images), atol=1e-3, rtol=1e-3)
    assert (a.decode(x).int() - b.decode(x).int()).abs().max() <= 1


# ------------------------------------------------------------------------------------------------- int8


def test_a_model_is_measured_only_as_it_was(tmp_path: Path) -> None:
    builtin = spec("builtin")
    found = choice.ranges(builtin)
    assert {"encoder", "denoiser", "decoder"} == set(found)
    assert not choice.ranges(replace(builtin, vae="owner/another"))
    assert not choice.ranges(replace(builtin, loras=(Lora("one.safetensors"),)))
    assert not choice.ranges(ModelSpec("empty", str(tmp_path)))
    assert not choice.ranges(ModelSpec("hub", "owner/name"))


def test_damaged_ranges_are_told(tmp_path: Path) -> None:
    (tmp_path / choice.FILE).write_text('{"encoder": {"conv": [0]}}')
    with pytest.raises(ModelError, match=r"int8\.json is damaged .* measure it anew or delete it"):
        choice.ranges(ModelSpec("mine", str(tmp_path)))
