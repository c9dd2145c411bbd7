"""LoRAs in a model that is loaded: by value against diffusers' own merging, and against models loaded with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from engines import Choice, EngineError
from stream import models
from stream.config import Lora, ModelSpec, called, spec
from stream.errors import ModelError
from stream.frame import Frame
from stream.lora import Mix, strengths
from stream.pipeline import Painter
from stream.settings import Settings
from stream.weights import read_pipeline

KINDS = ("sd15", "sdxl")
NEAR, F32 = 1e-5, 2e-4  # of the largest value: rounding in float32, on one back end and on two
SMALL = Settings(width=64, height=64, prompt="a cat")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Paths of tiny models (`get("sd15")`) and LoRAs for them (`get("sd15", seed, kohya)`), made once."""
    folder = tmp_path_factory.mktemp("shelf")

    def get(kind: str, seed: int = 0, kohya: bool = False) -> str:
        place = folder / (f"{kind}-{seed}-{kohya}.safetensors" if seed else kind)
        if not place.exists():
            _ = tiny.save_wide_lora(kind, place, kohya, seed) if seed else tiny.save(kind, place)
        return str(place)

    return get


def load(source: str, *loras: Lora, engine: str = "torch") -> models.Model:
    return models.load(replace(spec(source), loras=loras), Choice(engine, "cpu", "f32", "a test"))


def outputs(model: models.Model) -> tuple[torch.Tensor, torch.Tensor]:
    """What the denoiser and the text encoders give."""
    text = model.prompter("a cat", 32, 32)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    pair = type(text).cat([text, text])
    return model.denoise(x, torch.tensor([999, 19]), pair), torch.cat([t.flatten() for t in text.tensors()[:2]])


def far(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


# ------------------------------------------------------------------------------------------------- the sum


@pytest.mark.parametrize("kohya", [False, True], ids=["diffusers", "kohya"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_is_what_diffusers_merges(kind: str, kohya: bool, shelf: Any) -> None:
    source, one, two = shelf(kind), shelf(kind, 1, kohya), shelf(kind, 2)
    theirs = read_pipeline(ModelSpec("x", source))
    for file, strength in ((one, 0.7), (two, -0.4)):
        theirs.load_lora_weights(Path(file).parent, weight_name=Path(file).name, adapter_name="a")
        theirs.fuse_lora(components=sorted(theirs.get_list_adapters()), lora_scale=strength)
        theirs.unload_lora_weights()
    made = Mix(lambda: read_pipeline(ModelSpec("x", source))).weights((Lora(one, 0.7), Lora(two, -0.4)))
    base = read_pipeline(ModelSpec("x", source))
    assert set(made) == {"unet", "text_encoder", *(["text_encoder_2"] if kind == "sdxl" else [])}
    for part in made:
        changed = dict(getattr(theirs, part).named_parameters())
        plain = dict(getattr(base, part).named_parameters())
        assert set(made[part]) == {n for n in changed if not torch.equal(changed[n], plain[n])}
        for name, value in made[part].items():
            assert torch.allclose(value, changed[name], atol=1e-6)
            assert not torch.allclose(value, plain[name], atol=1e-3)


def test_neither_the_order_of_loras_nor_the_way_to_a_mix_matters(shelf: Any) -> None:
    source, a, b = shelf("sd15"), Lora(shelf("sd15", 1), 0.7), Lora(shelf("sd15", 2), -0.4)
    mix = Mix(lambda: read_pipeline(ModelSpec("x", source)))
    straight = mix.weights((a, b))
    for loras in ((b,), (), (replace(a, strength=2.0),)):
        mix.weights(loras)
        mix.loras = loras
    again = mix.weights((b, a))
    assert all(torch.equal(again[part][n], straight[part][n]) for part in straight for n in straight[part])


def test_strengths_of_one_file_add_up_and_none_is_none() -> None:
    assert strengths([Lora("a", 0.5), Lora("b", 0.0), Lora("a", -0.2)]) == {"a": pytest.approx(0.3)}
    assert strengths([Lora("a", 0.5), Lora("a", -0.5)]) == {}


def test_files_are_read_when_they_are_needed_and_once(shelf: Any) -> None:
    read = []
    one, two = shelf("sd15", 1), shelf("sd15", 2)
    mix = Mix(lambda: (read.append(1), read_pipeline(ModelSpec("x", shelf("sd15"))))[1])
    assert mix.weights((Lora(one, 0.0),)) == {}
    assert not read
    mix.weights((Lora(one, 1.0),))
    mix.weights((Lora(one, 0.3),))
    assert len(read) == 1
    mix.weights((Lora(one, 0.3), Lora(two, 0.1)))
    mix.weights((Lora(one, 0.1), Lora(two, 0.5)))
    assert len(read) == 2


def test_a_model_that_never_changes_keeps_nothing_and_the_first_change_reads_once(shelf: Any) -> None:
    read = []
    one, two = Lora(shelf("sd15", 1), 0.7), Lora(shelf("sd15", 2), -0.4)
    base = ModelSpec("x", shelf("sd15"))
    mix = Mix(lambda: (read.append(1), read_pipeline(base))[1])
    pipeline = read_pipeline(base)
    mix.merge(pipeline, (one,))
    assert (mix._known, mix._base, read) == ({}, {}, [])
    merged = {n: p.clone() for n, p in pipeline.unet.named_parameters()}
    mix.weights((one, two))
    back = mix.weights((replace(one, strength=0.0), two))
    assert len(read) == 1
    mix.loras = (one, two)
    again = mix.weights((one,))
    assert again["unet"]
    assert all(torch.equal(value, merged[name]) for name, value in again["unet"].items())
    assert any(not torch.equal(value, merged[name]) for name, value in back["unet"].items())


def test_only_what_a_change_touches_is_given(shelf: Any, tmp_path: Path) -> None:
    narrow, wide = Lora(str(tiny.save_lora(tmp_path / "narrow.safetensors"))), Lora(shelf("sd15", 1))
    mix = Mix(lambda: read_pipeline(ModelSpec("x", shelf("sd15"))))
    mix.weights((narrow, wide))
    mix.loras = narrow, wide
    changed = mix.weights((replace(narrow, strength=0.5), wide))
    assert {part: list(names) for part, names in changed.items()} == {"unet": [f"{tiny.LORA_LAYER}.weight"]}
    assert mix.weights((wide, narrow)) == {}


def test_names_tell_nothing_of_folders() -> None:
    loras = tuple(map(Lora, ("/home/me/ink.safetensors", "owner/name", "ink.safetensors", "o/n/deep/x.v1.safetensors")))
    assert dict(zip(called(loras), loras, strict=True)) == called(loras)
    assert list(called(loras)) == ["ink", "name", "ink 2", "x.v1"]


# ------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize(("kind", "engine"), [("sd15", "torch"), ("sdxl", "torch"), ("sd15", "openvino")])
def test_a_live_change_gives_what_a_model_loaded_so_gives(kind: str, engine: str, shelf: Any) -> None:
    loras = (Lora(shelf(kind, 1, True), 0.8), Lora(shelf(kind, 2), -0.3))
    live, loaded = load(shelf(kind), engine=engine), load(shelf(kind), *loras, engine=engine)
    before = outputs(live)
    swap = live.mix(loras)
    assert all(torch.equal(a, b) for a, b in zip(outputs(live), before, strict=True))
    swap()
    assert far(outputs(live), outputs(loaded)) < NEAR
    assert far(outputs(live), before) > 0.05
    others = (loras[0], replace(loras[1], strength=1.0))
    loaded.mix(others)()
    live.mix(others)()
    assert far(outputs(live), outputs(loaded)) < NEAR
    assert far(outputs(live), outputs(load(shelf(kind), *others))) < (NEAR if engine == "torch" else F32)
    for model in (live, loaded):
        model.mix(tuple(replace(x, strength=0.0) for x in loras))()
        assert all(torch.equal(a, b) for a, b in zip(outputs(model), before, strict=True))


def test_pictures_follow_a_live_change(shelf: Any) -> None:
    lora = Lora(shelf("sd15", 1), 1.0)
    live, loaded = Painter(load(shelf("sd15"))), Painter(load(shelf("sd15"), lora))
    frame = Frame(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), 0)
    one, two = live.open(SMALL), loaded.open(SMALL)
    before = live.paint(one, [frame])[-1].frame.image
    live.model.mix((lora,))()  # type: ignore[attr-defined]
    one.refresh()
    after, wanted = live.paint(one, [frame])[-1].frame.image, loaded.paint(two, [frame])[-1].frame.image
    assert np.abs(after.astype(int) - wanted).max() <= 1  # a grey level, where rounding falls the other way
    assert np.abs(after.astype(int) - before).max() > 1


def test_texts_are_encoded_anew_when_text_encoders_change_and_only_then(shelf: Any, tmp_path: Path) -> None:
    model = load(shelf("sd15"))
    before = model.prompter("a cat", 32, 32)
    model.mix((Lora(str(tiny.save_lora(tmp_path / "unet.safetensors"))),))()
    assert model.prompter("a cat", 32, 32) is before
    model.mix((Lora(shelf("sd15", 1)),))()
    assert float((model.prompter("a cat", 32, 32).tokens - before.tokens).abs().max()) > 0.01


@pytest.mark.parametrize("changes", [False, True])
def test_engines_hear_whether_weights_may_change(changes: bool, tmp_path: Path) -> None:
    parts = models.networks_of(tiny.pipeline("sd15", tmp_path), ModelSpec("x", "x", changes=changes))
    assert {n.name: n.changes for n in parts} == {"encoder": False, "denoiser": changes, "decoder": False}


# ------------------------------------------------------------------------------------------------- what does not fit


def stays(model: models.Model, loras: tuple[Lora, ...], error: type[Exception], why: str) -> None:
    before, held = outputs(model), model.lora.loras
    with pytest.raises(error, match=why):
        model.mix(loras)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), before, strict=True))
    assert model.lora.loras == held


def test_a_lora_that_is_not_there_or_does_not_fit_leaves_the_old_mix(shelf: Any, tmp_path: Path) -> None:
    good = Lora(shelf("sd15", 1), 0.5)
    model = load(shelf("sd15"), good)
    wrong, gone = tiny.save_lora(tmp_path / "other.safetensors", width=20), tmp_path / "gone.safetensors"
    stays(model, (good, Lora(str(gone))), ModelError, r"lora .*gone.safetensors is not there: check the path")
    stays(
        model, (Lora(str(wrong)),), ModelError, r"lora .*other.safetensors does not fit this model \(.+\): use one made"
    )
    stays(model, (Lora(shelf("sd2", 1)), good), ModelError, r"lora .*sd2-1-False.safetensors")
    model.mix((replace(good, strength=0.9),))()
    assert far(outputs(model), outputs(load(shelf("sd15"), replace(good, strength=0.9)))) < NEAR


def test_what_is_no_product_of_two_factors_is_refused(shelf: Any, tmp_path: Path) -> None:
    weights = load_file(tiny.save_lora(tmp_path / "dora.safetensors"))
    weights[f"unet.{tiny.LORA_LAYER}.lora_magnitude_vector"] = torch.ones(16)
    save_file(weights, tmp_path / "dora.safetensors")
    stays(load(shelf("sd15")), (Lora(str(tmp_path / "dora.safetensors")),), ModelError, "use a plain LoRA")


def test_an_engine_that_cannot_change_leaves_everything_as_it_is(shelf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(shelf("sd15"))

    def refuse(_weights: object) -> None:
        raise EngineError("cannot")

    monkeypatch.setattr(model.engines["denoiser"], "refit", refuse)
    stays(model, (Lora(shelf("sd15", 1)),), EngineError, "cannot")


# ------------------------------------------------------------------------------------------------- how long


def test_the_builtin_model_changes_in_seconds(tmp_path: Path) -> None:
    """Every weight of its UNet's convolutions, the first time with its files to read; on OpenVINO, at its own size."""
    preset = spec("builtin")
    model = models.load(preset, Choice("openvino", "cpu", "f32", "a test"))
    model.prepare(preset.settings.width, preset.settings.height)
    made = torch.Generator().manual_seed(1)
    weights = {}
    for name, p in read_pipeline(preset).unet.named_parameters():
        if p.dim() == 4 and "conv_in" not in name:
            layer, (out, into, *sides) = name.removesuffix(".weight"), p.shape
            weights[f"unet.{layer}.lora_A.weight"] = torch.randn(4, into, *sides, generator=made) * 0.01
            weights[f"unet.{layer}.lora_B.weight"] = torch.randn(out, 4, 1, 1, generator=made) * 0.01
    save_file(weights, tmp_path / "all.safetensors")
    took = []
    for strength in (1.0, 0.5, 0.25, 0.75):
        start = time.process_time()  # of all threads: how busy the machine is with other work does not count
        model.mix((Lora(str(tmp_path / "all.safetensors"), strength),))()
        took.append(time.process_time() - start)
    assert len(weights) > 60
    assert took[0] < 15
    assert min(took[1:]) < 6
