"""The live settings: limits, and what they say when something is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from stream.errors import LivebrushError, SettingsError
from stream.settings import Settings


def message(**values: Any) -> str:
    with pytest.raises(SettingsError) as error:
        Settings.checked(**values)
    return str(error.value)


def test_defaults_are_valid_and_unguided() -> None:
    settings = Settings.checked()
    assert settings == Settings()
    assert not settings.guided


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0 is not between 64 and 2048 pixels: use e.g. 256 or 512"),
        (7, "7 is not between 64 and 2048 pixels: use e.g. 256 or 512"),
        (-512, "-512 is not between 64 and 2048 pixels: use e.g. 256 or 512"),
        (100000, "100000 is not between 64 and 2048 pixels: use e.g. 256 or 512"),
        (500, "500 is not a multiple of 8: use 496 or 504"),
        (511, "511 is not a multiple of 8: use 504 or 512"),
        (math.nan, "is nan: expected a finite number"),
        (math.inf, "is inf: expected a finite number"),
        ("wide", "is 'wide': input should be a valid integer, unable to parse string as an integer"),
        (64.5, "is 64.5: input should be a valid integer, got a number with a fractional part"),
    ],
)
def test_sizes(side: str, value: object, said: str) -> None:
    assert message(**{side: value}) == f"{side} {said}"


@pytest.mark.parametrize("size", [64, 256, 504, 512, 2048])
def test_sizes_that_are_right(size: int) -> None:
    assert Settings.checked(width=size, height=size).width == size


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"strength": math.nan}, "strength is nan: expected a finite number"),
        ({"strength": math.inf}, "strength is inf: expected a finite number"),
        ({"strength": -math.inf}, "strength is -inf: expected a finite number"),
        ({"strength": 1.5}, "strength is 1.5: input should be less than or equal to 1"),
        ({"strength": -0.1}, "strength is -0.1: input should be greater than or equal to 0"),
        ({"strength": None}, "strength is None: input should be a valid number"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan: expected a finite number"),
        ({"guidance_scale": 21}, "guidance_scale is 21: input should be less than or equal to 20"),
        ({"steps": 0}, "steps is 0: input should be greater than or equal to 1"),
        ({"steps": 9}, "steps is 9: input should be less than or equal to 8"),
        ({"seed": -1}, "seed is -1: input should be greater than or equal to 0"),
        ({"seed": 2**32}, "seed is 4294967296: input should be less than or equal to 4294967295"),
        ({"similarity_threshold": 1}, "similarity_threshold is 1: input should be less than 1"),
        ({"max_skip": 0}, "max_skip is 0: input should be greater than or equal to 1"),
        ({"drift": 2}, "drift is 2: input should be less than or equal to 1"),
        ({"guidance": "some"}, "guidance is 'some': input should be 'none', 'full', 'self' or 'initialize'"),
        ({"mode": "sound"}, "mode is 'sound': input should be 'image' or 'text'"),
        ({"fit": ""}, "fit is '': input should be 'crop', 'stretch' or 'pad'"),
        ({"t_index": (45, 32)}, "t_index (45, 32) is not an increasing list: use e.g. 32,45"),
        ({"t_index": (32, 32)}, "t_index (32, 32) is not an increasing list: use e.g. 32,45"),
        ({"t_index": (32, 50)}, "t_index.1 is 50: input should be less than or equal to 49"),
        ({"t_index": (-1, 3)}, "t_index.0 is -1: input should be greater than or equal to 0"),
        ({"prompt": "a" * 100_000}, "prompt has 100000 characters: use at most 2000"),
        ({"negative_prompt": "a" * 2001}, "negative_prompt has 2001 characters: use at most 2000"),
        ({"prompt": 3}, "prompt is 3: input should be a valid string"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(values: dict[str, object], said: str) -> None:
    assert message(**values) == said


def test_an_unknown_setting_lists_the_known_ones() -> None:
    said = message(promt="oil")
    assert said == f"promt is not a setting: use one of {', '.join(Settings.model_fields)}"
    assert "prompt" in said


@pytest.mark.parametrize("t_index", [(), tuple(range(9))])
def test_a_list_of_indices_has_one_to_eight(t_index: tuple[int, ...]) -> None:
    assert "item" in message(t_index=t_index)


def test_every_wrong_setting_has_its_line() -> None:
    said = message(width=7, strength=math.nan, guidance="some").splitlines()
    assert [line.split()[0] for line in said] == ["strength", "guidance", "width"]


def test_a_huge_wrong_value_is_cut_short() -> None:
    for value in ("9" * 100_000, ["x" * 100_000], {"a": "b" * 100_000}):
        assert len(message(strength=value)) < 300
        assert len(message(width=value)) < 300
        assert len(message(t_index=value)) < 400
    assert len(message(**{"x" * 100_000: 1})) < 1000


def test_settings_errors_belong_to_the_tree() -> None:
    assert issubclass(SettingsError, LivebrushError)
    assert issubclass(SettingsError, ValueError)


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.prompt = "oil"
    assert settings.prompt == ""


def test_a_change_makes_new_ones_and_is_checked() -> None:
    settings = Settings.checked(prompt="oil", width=256, t_index=(32, 45))
    changed = settings.changed(strength=0.7)
    assert (changed.prompt, changed.width, changed.t_index, changed.strength) == ("oil", 256, (32, 45), 0.7)
    assert settings.strength == Settings().strength
    with pytest.raises(SettingsError, match="strength is nan: expected a finite number"):
        settings.changed(strength=math.nan)
    with pytest.raises(SettingsError, match="promt is not a setting"):
        settings.changed(promt="oil")


@pytest.mark.parametrize(
    ("guidance", "scale", "guided"), [("none", 5, False), ("full", 1, False), ("full", 1.5, True), ("self", 2, True)]
)
def test_guided_means_a_mode_and_a_scale_above_one(guidance: str, scale: float, guided: bool) -> None:
    assert Settings.checked(guidance=guidance, guidance_scale=scale).guided is guided


def test_plain_json_goes_there_and_back() -> None:
    settings = Settings.checked(prompt="oil | neon:0.5", t_index=[16, 32], guidance="self", guidance_scale=1.2)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_described_for_the_page_and_the_command_line(field: str) -> None:
    described = Settings.model_json_schema()["properties"][field]
    assert described["description"].endswith(".")
    assert len(described["description"]) > 10
    assert "default" in described


@pytest.mark.parametrize("field", [n for n, f in Settings.model_fields.items() if f.annotation in (int, float)])
def test_every_number_has_limits(field: str) -> None:
    described = Settings.model_json_schema()["properties"][field]
    assert {"minimum", "exclusiveMinimum"} & set(described)
    assert {"maximum", "exclusiveMaximum"} & set(described)
