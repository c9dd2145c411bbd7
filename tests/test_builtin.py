"""What the built-in model promises, on photos that it was never trained on."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stream.choice import choose
from stream.config import spec
from stream.frame import Frame, Image
from stream.models import load
from stream.pipeline import Painter
from stream.weights import SHIPPED
from tools.builtin.pictures import HELD_OUT, TRAINED_ON, photo, square
from tools.builtin.report import NAMES, PROMPTS, Judge, between, distance, psnr
from tools.builtin.styles import GRID, STYLES, stylise

PRECISIONS = ("f32", "fastest")


@cache
def judge(precision: str = "f32") -> Judge:
    preset = spec("builtin")
    choice = choose(preset, "openvino", "cpu", "auto" if precision == "fastest" else precision)
    return Judge(load(preset, choice), preset.settings)


@cache
def held_out(name: str) -> Image:
    return square(photo(name), 256)


@cache
def target(name: str, style: str) -> Image:
    return stylise(held_out(name), style)


@cache
def output(name: str, style: str, precision: str) -> Image:
    return judge(precision).paint(held_out(name), PROMPTS[style])


def test_there_are_ten_styles_and_more_and_no_held_out_photo_in_training() -> None:
    assert len(NAMES) - 1 >= 10
    assert not set(HELD_OUT) & set(TRAINED_ON)


def test_the_weights_are_small() -> None:
    assert sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file()) < 16 * 2**20


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("style", [s for s in NAMES if s != "photo"])
@pytest.mark.parametrize("name", HELD_OUT)
def test_one_step_goes_towards_its_style(name: str, style: str, precision: str) -> None:
    painted = output(name, style, precision)
    assert distance(painted, target(name, style)) < distance(held_out(name), target(name, style))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("style", NAMES)
@pytest.mark.parametrize("name", HELD_OUT)
def test_an_output_is_closest_to_its_own_style(name: str, style: str, precision: str) -> None:
    painted = output(name, style, precision)
    by_distance = sorted(NAMES, key=lambda s: distance(painted, target(name, s)))
    assert by_distance[0] == style


def test_int8_costs_no_style_anything() -> None:
    """Picture for picture beside float32: 1.6 grey levels in the mean; in distance to the targets nearly nothing."""
    if judge("fastest").painter.model.engines["denoiser"].precision != "int8":
        pytest.skip("this processor has no byte products")
    drops = [
        np.mean(
            [psnr(output(n, s, "f32"), target(n, s)) - psnr(output(n, s, "fastest"), target(n, s)) for n in HELD_OUT]
        )
        for s in NAMES
    ]
    assert np.mean(drops) < 0.1
    assert max(drops) < 0.25
    pairs = [(output(n, s, "f32"), output(n, s, "fastest")) for n in HELD_OUT for s in NAMES]
    assert np.mean([distance(a, b) for a, b in pairs]) < 2.5


@pytest.mark.parametrize("prompt", ["a golden dragon", "zorblax quux", "\N{SNOWMAN} 雪だるま"])
def test_an_unknown_prompt_leaves_the_photo_nearly_as_it_is(prompt: str) -> None:
    for name in HELD_OUT:
        painted = judge().paint(held_out(name), prompt)
        assert min(NAMES, key=lambda s: distance(painted, target(name, s))) == "photo"
        assert psnr(painted, held_out(name)) > 18


@pytest.mark.parametrize(("a", "b"), [("watercolor", "neon"), ("sepia", "blueprint")])
def test_prompts_blend(a: str, b: str) -> None:
    assert between(judge(), {n: held_out(n) for n in HELD_OUT}, a, b)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_still_input_gives_a_still_picture(precision: str) -> None:
    painter = Painter(judge(precision).painter.model)
    session = painter.open(judge(precision).settings.changed(prompt="oil painting"))
    painted = [painter.paint(session, [Frame(held_out("china"), i)])[0].frame.image.astype(int) for i in range(4)]
    assert all(np.abs(b - a).mean() <= 1 for a, b in pairwise(painted))


def test_the_card_says_what_is_measured_here() -> None:
    facts = json.loads((SHIPPED / "figures.json").read_text())
    card = (SHIPPED / "README.md").read_text()
    assert f"{facts['closest_to_own']} are closest" in " ".join(card.split())
    measured = np.mean([psnr(output(n, "sepia", "f32"), target(n, "sepia")) for n in HELD_OUT])
    assert facts["psnr_db"]["sepia"] == pytest.approx(measured, abs=0.3)
    assert Path(SHIPPED / "contact_sheet.jpg").stat().st_size > 50_000


@pytest.mark.parametrize("style", STYLES)
def test_styles_depend_on_place_only_by_the_grid(style: str) -> None:
    """What a network on a grid of 32 pixels can learn: a picture moved by the grid is the target moved by it."""
    image = square(photo("coffee"), 320)
    whole, moved = stylise(image, style), stylise(np.ascontiguousarray(image[GRID:, GRID:]), style)
    inner = slice(96, 224)
    a, b = whole[GRID:, GRID:][inner, inner], moved[inner, inner]
    assert distance(a, b) < 1


def test_a_missing_photo_says_what_to_install() -> None:
    with pytest.raises(FileNotFoundError, match=r"livebrush\[train\]"):
        photo("nobody")
