"""Presets and what a model's name may stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from stream import config
from stream.errors import ConfigError
from stream.schedule import NoiseCurve


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_shipped_presets_are_complete_and_the_builtin_one_comes_first() -> None:
    presets = config.presets()
    assert list(presets) == ["builtin", "sd-turbo", "sd15-lcm", "sdxl-turbo"]
    for name, spec in presets.items():
        assert spec.name == name
        assert spec.about.endswith(".")
        assert "\n" not in spec.about
        assert not spec.licence.startswith("unknown")
    assert presets["sd-turbo"].model == "stabilityai/sd-turbo"
    assert presets["sd-turbo"].vae == "madebyollin/taesd"
    assert presets["sdxl-turbo"].vae == "madebyollin/taesdxl"
    assert presets["sd15-lcm"].loras == (config.Lora("latent-consistency/lcm-lora-sdv1-5", 1.0),)


def test_the_builtin_preset_paints_at_its_best_step() -> None:
    settings = config.spec("builtin").settings
    curve = NoiseCurve(tiny.scheduler("sd15").alphas_cumprod)
    assert (settings.width, settings.height, settings.steps, settings.guidance) == (256, 256, 1, "none")
    assert curve.t_index(settings.strength, settings.steps) == (47,)


@pytest.mark.parametrize("name", ["owner/name", "latent-consistency/some.model_v1"])
def test_a_hub_id_stands_for_itself(name: str) -> None:
    spec = config.spec(name)
    assert (spec.model, spec.name, spec.vae, spec.loras) == (name, name.split("/")[1], None, ())


def test_a_folder_and_a_file_are_models(tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    (tmp_path / "one.safetensors").touch()
    assert config.spec(str(tmp_path / "my model")).name == "my model"
    assert config.spec(str(tmp_path / "one.safetensors")).name == "one"


def test_a_name_that_is_nothing_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"model 'sdturbo' is unknown: use builtin, sd-turbo, sd15-lcm, sdxl-turbo"):
        config.spec("sdturbo")


def test_paths_in_a_preset_are_relative_to_it(tmp_path: Path) -> None:
    for name in ("weights", "small"):
        (tmp_path / name).mkdir()
    (tmp_path / "style.safetensors").touch()
    text = 'model = "weights"\nvae = "small"\n[[loras]]\nsource = "style.safetensors"\nstrength = 0.5\n'
    spec = config.spec(str(write(tmp_path, text + "[[loras]]\nsource = 'owner/name'\n[settings]\nsteps = 2\n")))
    assert (spec.name, spec.model, spec.vae) == ("mine", str(tmp_path / "weights"), str(tmp_path / "small"))
    assert spec.loras == (config.Lora(str(tmp_path / "style.safetensors"), 0.5), config.Lora("owner/name"))
    assert spec.settings.steps == 2


def test_builtin_in_a_preset_is_the_shipped_model_even_beside_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "builtin").mkdir()
    assert config.spec(str(write(tmp_path, 'model = "builtin"'))).model == "builtin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "is not valid TOML"),
        ("about = 'x'", "model: Field required"),
        ("model = 3", "model: Input should be a valid string"),
        ("model = 'a/b'\nvea = 'c/d'", "vea is not a key: use one of name, model, vae"),
        ("model = 'a/b'\nsettings = 4", r"settings is 4, expected a table \[settings\]"),
        ("model = 'a/b'\n[settings]\nwidth = 500", "width 500 is not a multiple of 8: use 496 or 504"),
        ("model = 'a/b'\n[settings]\ncolour = 1", "colour is not a setting"),
        ("model = 'a/b'\n[[loras]]\nsource = 'x'\nstrength = nan", "loras.0.strength: Input should be a finite number"),
        ("model = 'a/b'\n[[loras]]\nstrength = 1.0", "loras.0.source"),
    ],
)
def test_a_wrong_preset_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config.spec(str(write(tmp_path, text)))
    assert "mine.toml" in str(caught.value)


def test_a_preset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.toml cannot be read \(No such file or directory\): check the path"):
        config.spec(str(tmp_path / "gone.toml"))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        config.spec(str(tmp_path / "mine.toml"))
