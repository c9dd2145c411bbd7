"""The bench runs, says what it must, and counts right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines import choose
from stream.config import spec
from stream.fakes import EchoModel
from stream.models import load
from stream.pipeline import Painter
from stream.settings import Settings
from tools import bench
from tools.clip_bench import clips

SETTINGS = Settings.checked(width=64, height=64, strength=0.33)


def test_the_bench_says_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(tmp_path))
    preset = spec("builtin")
    small = replace(preset, settings=preset.settings.changed(width=128, height=128))
    monkeypatch.setattr(bench, "STREAMS", (1, 2))
    torch_only = {"engine": "torch", "precision": "f32"}  # nothing to compile
    tiny = replace(preset, settings=SETTINGS)
    monkeypatch.setattr(bench, "clips", lambda _model, _options, **_few: clips(tiny, torch_only, 20, 6))
    bench.main(small, quick=True, json_file=tmp_path / "b.json")
    result = json.loads((tmp_path / "b.json").read_text())
    assert {"fps", "wall_over_networks", "vs_diffusers", "stages_ms", "streams", "similarity", "precisions",
            "conditions"} <= set(result)  # fmt: skip
    assert result["fps"] > 0
    assert result["file"]["frames_a_tick"] > 1
    assert result["file"]["vs_diffusers"] > 0
    assert result["wall_over_networks"] >= 1
    assert set(result["stages_ms"]) == {"preprocess", "encode", "denoise", "decode", "postprocess"}
    assert set(result["stages_ms"]["encode"]) == {"count", "p50", "p95", "p99", "total"}
    assert set(result["streams"]) == {"1", "2"}
    assert 0.5 < result["similarity"]["skip_rate"] < 0.95
    clip = result["clips"]
    assert clip["calls"] == clip["calls_first"] == clip["calls_predicted"] > 0
    assert clip["frames"] / clip["seconds"] == pytest.approx(clip["fps"], rel=0.05)
    flicker = clip["warp_error"]
    assert flicker["input"] > 0
    assert 0 < flicker["clip"] < flicker["frame_by_frame_fresh_noise"]
    assert result["conditions"]["engine"]["why"]
    assert result["conditions"]["versions"]["torch"]


def test_diffusers_paints_the_same_picture_from_the_same_noise() -> None:
    """The baseline is honest: with our noise in its generator's place, its picture is ours."""
    settings = SETTINGS.changed(prompt="sepia photograph")
    frames = bench.frames_of(settings, 1)
    model = load(spec("builtin"), choose("torch", "cpu", "f32"))
    painter = Painter(model)
    session = painter.open(settings)
    ours = painter.paint(session, frames)[0].frame.image
    plain = bench.Diffusers(model.spec, settings, session.steering.schedule.timesteps, frames)
    theirs = plain.paint(0).astype(float)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator("cpu").manual_seed(0))
    assert torch.equal(noise[0], session.steering.noise[0])
    assert np.abs(ours - theirs).mean() < 1


def test_rounds_are_taken_in_turn() -> None:
    order: list[str] = []
    runs = [lambda n=n: order.append(n) or 1.0 for n in "ab"]
    assert bench.rounds(3, *runs) == [[1.0] * 3] * 2
    assert order == list("ababab")


def test_speed_counts_frames_of_all_streams() -> None:
    model = EchoModel()
    rig = bench.Rig(model, SETTINGS, bench.frames_of(SETTINGS, 4), streams=3)  # type: ignore[arg-type]
    rig.run(10)
    figures = bench.speed(rig, 10, [0.5])
    assert figures["fps"] == 60
    assert figures["frame_ms"] == pytest.approx(500 / 30, abs=1e-3)
    assert figures["stages_ms"]["encode"]["count"] == 10
