"""The card's bench on a card, with tiny networks: every engine has its figures, and they are possible ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_bench_gpu import SMALL, sd, xl

from tools import bench_gpu


def test_ceilings_are_those_of_a_card(card: torch.device) -> None:
    best = bench_gpu.ceilings(card, torch.float16, side=4096, megabytes=256)
    assert 2 < best.matrix_tflops < 5000
    assert 50 < best.copy_gbs < 20_000


def test_every_engine_has_figures_below_the_ceilings(
    card: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(tmp_path))
    best = bench_gpu.ceilings(card, torch.float16, side=4096, megabytes=256)
    choices = bench_gpu.choices_here("f16")
    for make in (sd, xl):
        rows = bench_gpu.measured(make(), choices, SMALL, best)
        assert {r.engine.split()[0] for r in rows} == {c.backend for c in choices}
        for row in rows:
            assert row.failed == ""
            assert 0 < row.of_matrix < 1
            assert row.tick_ms > row.floor_ms
            assert row.peak_gb > 0
