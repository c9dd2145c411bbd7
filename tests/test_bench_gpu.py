"""The card's bench, with tiny networks on the processor: it counts right, tells everything, and needs a card."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from rich.console import Console
from torch import nn

from engines import Choice, EngineError, Network, Port
from stream.networks import DenoiserNet
from tools import bench_gpu
from tools.bench_gpu import Case, Ceilings, Plan, Row, Subject

CPU = torch.device("cpu")
TORCH = Choice("torch", "cpu", "f32", "a test")
BEST = Ceilings(2.0, 10.0)
SMALL = Plan((64,), (1, 2), (1, 3), 0.001, 1)


def sd() -> Subject:
    torch.manual_seed(0)
    return Subject("tiny-sd", tiny.unet(32).eval(), tiny.small_vae().eval())


def xl() -> Subject:
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "use_linear_projection": True}
    unet = tiny.unet(96, projection_class_embeddings_input_dim=6 * 8 + 64, **more)
    return Subject("tiny-xl", unet.eval(), tiny.small_vae().eval(), pooled=64)


# ------------------------------------------------------------------------------------------------- counting


def test_a_convolution_and_a_product_are_counted() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.out(self.conv(images).permute(0, 2, 3, 1))  # type: ignore[no-any-return]

    port = Port("images", ("rows", 3, "H", "W"))
    network = Network("two", Two(), (port,), Port("out", ("rows", "H", "W", 5)), {"rows": 1, "H": 8, "W": 8})
    assert bench_gpu.flops(network, 2, 16, 24, 8) == 2 * 2 * 16 * 24 * (3 * 8 * 9 + 8 * 5)
    assert network.module.conv.weight.device == CPU  # type: ignore[union-attr]
    assert bench_gpu.weight_bytes(network, "f16") == 2 * (3 * 8 * 9 + 8 + 8 * 5 + 5)


def test_work_grows_with_pictures_steps_and_size() -> None:
    subject = sd()
    one, two_steps, two = (bench_gpu.work_of(subject, Case(64, s, b)) for s, b in ((1, 1), (2, 1), (1, 2)))
    unet = bench_gpu.flops(subject.networks()["denoiser"], 1, 64, 64, 8)
    assert two_steps - one == unet
    assert two == 2 * one
    assert bench_gpu.work_of(subject, Case(128, 1, 1)) > 3.9 * one


@pytest.mark.parametrize(("model", "gflop"), [("sd-turbo", 804), ("sdxl-turbo", 1589)])
def test_full_size_arithmetic_is_that_of_the_projects_figures(model: str, gflop: float) -> None:
    """As counted for its design: 512x512, one row."""
    subject = bench_gpu.subject(model, torch.float16, "meta")
    parts = subject.networks()
    counted = {n: bench_gpu.flops(net, 1, 512, 512, subject.factor) / 1e9 for n, net in parts.items()}
    assert counted == pytest.approx({"encoder": 122, "denoiser": gflop, "decoder": 141}, rel=0.01)


def test_clocks_take_the_median_of_enough_work() -> None:
    calls: list[int] = []
    took = bench_gpu.seconds(lambda: calls.append(sum(range(20_000))), CPU, enough_s=0.01, rounds=3)
    assert 1e-6 < took < 10  # on a machine that does much else
    assert len(calls) > 6


def test_ceilings_are_those_of_the_machine() -> None:
    best = bench_gpu.ceilings(CPU, torch.float32, side=128, megabytes=1)
    assert 1e-7 < best.matrix_tflops < 50
    assert 1e-4 < best.copy_gbs < 5000


# ------------------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize("make", [sd, xl], ids=["sd", "xl"])
def test_every_case_has_its_figures_beside_diffusers(make: Any) -> None:
    told: list[Row] = []
    rows = bench_gpu.measured(make(), [TORCH], SMALL, BEST, told.append)
    assert told == rows
    assert [(r.steps, r.batch) for r in rows] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    for row in rows:
        assert not row.failed
        assert row.fps == pytest.approx(1000 * row.batch / row.tick_ms)
        assert min(row.encode_ms, row.denoise_ms, row.decode_ms, row.diffusers_ms, row.floor_ms) > 0
        assert row.vs_diffusers == pytest.approx(row.diffusers_ms / row.tick_ms)
        assert row.of_matrix == pytest.approx(row.tflops / 2.0)
    works = {(r.steps, r.batch): r.tflops * r.tick_ms for r in rows}
    assert works[1, 3] == pytest.approx(3 * works[1, 1])


def test_the_floor_is_the_larger_of_arithmetic_and_reading_the_weights() -> None:
    row, subject = Row("m", "e", 64, 1, 1), sd()
    made = {n: bench_gpu.engines.engine_of(net, TORCH) for n, net in subject.networks().items()}
    tick = bench_gpu.Tick(subject, made, Case(64, 1, 1), CPU)
    assert bench_gpu.filled(row, tick, int(2e9), 10, BEST, SMALL).floor_ms == pytest.approx(1.0)
    assert bench_gpu.filled(row, tick, 2, int(10e9), BEST, SMALL).floor_ms == pytest.approx(1000.0)


def test_a_tick_takes_and_gives_what_the_pipeline_does() -> None:
    subject = xl()
    made = {n: bench_gpu.engines.engine_of(net, TORCH) for n, net in subject.networks().items()}
    tick = bench_gpu.Tick(subject, made, Case(64, 2, 3), CPU)
    assert tick.encode().shape == (3, 4, 8, 8)
    assert tick.denoise().shape == (6, 4, 8, 8)
    assert tick().shape == (3, 64, 64, 3)
    assert tick().dtype == torch.uint8


def test_what_cannot_be_had_or_has_no_memory_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise EngineError("tensorrt could not build the engine: no\nuse --engine torch")

    subject = sd()
    monkeypatch.setattr(bench_gpu.engines, "engine_of", refuse)
    rows = bench_gpu.measured(subject, [TORCH], SMALL, BEST)
    assert [r.failed.splitlines()[0] for r in rows] == ["tensorrt could not build the engine: no"] * 4
    monkeypatch.undo()

    def run_out(self: DenoiserNet, latents: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        if len(latents) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return latents

    monkeypatch.setattr(DenoiserNet, "forward", run_out)
    work = dict.fromkeys(SMALL.cases(), 1)
    rows = list(bench_gpu.engine_rows(subject, TORCH, SMALL, BEST, work))
    assert [r.failed for r in rows] == ["", "", "", "CUDA out of memory."]


def test_the_whole_plan_is_what_was_asked_for() -> None:
    cases = list(Plan().cases())
    assert {c.size for c in cases} == {512, 1024}
    assert {c.steps for c in cases} == {1, 2, 3, 4}
    assert {c.batch for c in cases} == {1, 2, 4, 8, 16}
    assert max(c.rows for c in cases) == 64


# ------------------------------------------------------------------------------------------------- telling


def test_the_page_and_the_json_say_everything(tmp_path: Path) -> None:
    rows = [
        *bench_gpu.run([sd, xl], [TORCH], replace(SMALL, steps=(1,)), BEST, Console(quiet=True)),
        Row("tiny-xl", "tensorrt f16", 64, 1, 1, failed="no | memory\nat all"),
        Row("tiny-xl", "torch f16", 64, 4, 16, tick_ms=2.0, fps=8000.0),
    ]
    bench_gpu.write(bench_gpu.result_of(rows, BEST, quick=True), tmp_path / "card.json")
    result = json.loads((tmp_path / "card.json").read_text())
    assert len(result["rows"]) == 6
    assert result["ceilings"] == {"matrix_tflops": 2.0, "copy_gbs": 10.0}
    assert {"date", "card", "cuda", "versions", "capability", "weights"} <= set(result["conditions"])
    page = (tmp_path / "card.md").read_text()
    assert page.count("\n## ") == 2
    assert "2.0 TFLOP/s of a large product, 10 GB/s of a copy" in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {len(bench_gpu.COLUMNS) + 1}
    assert "| 64² | 1 | 1 | tensorrt f16 | no / memory |" in page
    assert "| 64² | 4 | 16 | torch f16 | 2.00 |" in page
    assert "no memory | - |" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.json", "card.md"]


def test_without_a_card_it_says_so_with_exit_code_2() -> None:
    if torch.cuda.is_available():
        pytest.skip("a card is there")
    command = [sys.executable, "-c", "import livebrush; livebrush.main()", "bench", "--gpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "no CUDA card here: livebrush bench --gpu measures one" in " ".join(done.stderr.split())
