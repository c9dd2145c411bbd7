"""Weights exchanged on a real card, while graphs that read them stay captured."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from test_engines import error, inputs, small, wanted
from test_engines_gpu import HALF, on_card, ranged

from engines import Choice, EngineError, Network, engine_of
from stream import models
from stream.config import Lora, spec


def changing(network: Network) -> Network:
    return replace(ranged(network), changes=True)


def test_an_engine_takes_other_weights_and_goes_back(choice: Choice, tmp_path: Path) -> None:
    engine, x = engine_of(changing(small()), choice, tmp_path), inputs(3)
    for seed in (0, 5, 6, 0):
        engine.refit(dict(small(seed).module.named_parameters()))()
        for _ in range(3):  # warmed up, captured, replayed
            assert error(engine(*on_card(*x)).cpu(), wanted(small(seed), *x)) < HALF


def test_nothing_changes_before_the_swap(choice: Choice, tmp_path: Path) -> None:
    engine, x = engine_of(changing(small()), choice, tmp_path), on_card(*inputs(2))
    before = engine(*x)
    swap = engine.refit(dict(small(5).module.named_parameters()))
    assert torch.equal(engine(*x), before)
    swap()
    assert not torch.equal(engine(*x), before)


def test_one_built_engine_serves_other_checkpoints(choice: Choice, tmp_path: Path) -> None:
    if choice.backend == "torch":
        pytest.skip("torch builds nothing")
    engine_of(changing(small()), choice, tmp_path)
    began, x = time.perf_counter(), inputs(2)
    other = engine_of(changing(small(5)), choice, tmp_path)
    assert time.perf_counter() - began < 5  # read and filled, not built
    assert error(other(*on_card(*x)).cpu(), wanted(small(5), *x)) < HALF


def test_engines_with_their_weights_in_them_say_so(choice: Choice, tmp_path: Path) -> None:
    if choice.backend == "torch":
        pytest.skip("torch always takes others")
    engine = engine_of(ranged(small()), choice, tmp_path)
    with pytest.raises(EngineError, match="are built into its"):
        engine.refit(dict(small(5).module.named_parameters()))


def test_a_lora_changes_live(choice: Choice, tmp_path: Path) -> None:
    source, lora = tiny.save("sd15", tmp_path / "model"), tiny.save_wide_lora("sd15", tmp_path / "ink.safetensors")
    plain = replace(spec(str(source)), changes=True)
    live = models.load(plain, choice, tmp_path / "cache")
    mixed = models.load(replace(plain, loras=(Lora(str(lora), 0.8),)), choice, tmp_path / "cache")
    assert not live.notice
    x, t = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1)).cuda(), torch.tensor([499]).cuda()
    before = live.denoise(x, t, live.prompter("a cat", 256, 256))
    live.mix((Lora(str(lora), 0.8),))()
    ours, theirs = (m.denoise(x, t, m.prompter("a cat", 256, 256)) for m in (live, mixed))
    assert error(ours, theirs) < 5e-3
    assert error(before, theirs) > 0.05
    live.mix(())()
    assert error(live.denoise(x, t, live.prompter("a cat", 256, 256)), before) < 1e-3
