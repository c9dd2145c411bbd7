"""Engines: the choice, the cache, exact rewrites, and parity of every back end with torch."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import engines
from engines import Choice, EngineError, Network, Port, choose, engine_of
from engines.cache import LOCK, MANIFEST, Cache, network_key
from engines.fold import folded
from engines.quantise import Recorder, quantised

ON_CPU = ["torch", "openvino"]
F32, BF16, INT8 = 2e-4, 6e-2, 4e-2  # largest difference from torch in float32, relative to the largest value


class Small(nn.Module):
    """A network with a picture, a timestep and a text, like a denoiser's."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.text = nn.Linear(6, width)
        self.last = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, latents: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        weights = self.first.weight.dtype
        told = self.text(tokens.to(weights)).mean(1)[..., None, None]
        wave = torch.sin(t * 0.01)[:, None, None, None].to(weights)
        return self.last(torch.nn.functional.silu(self.norm(self.first(latents.to(weights)) + told + wave))).float()


def small(seed: int = 0, width: int = 8) -> Network:
    torch.manual_seed(seed)
    ports = (Port("latents", ("rows", 4, "h", "w")), Port("t", ("rows",), exact=True), Port("tokens", ("rows", 5, 6)))
    output = Port("prediction", ("rows", 4, "h", "w"))
    return Network("denoiser", Small(width).eval(), ports, output, {"rows": 1, "h": 8, "w": 8})


def inputs(rows: int, h: int = 8, w: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(rows)
    t = torch.full((rows,), 999.0) - 20 * torch.arange(rows)
    return torch.randn(rows, 4, h, w, generator=made), t, torch.randn(rows, 5, 6, generator=made)


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# ------------------------------------------------------------------------------------------------- choice


def test_auto_says_what_and_why() -> None:
    choice = choose()
    assert choice.backend in engines.BACKENDS
    assert choice.backend in str(choice)
    assert len(choice.why) > 10


def test_without_openvino_auto_takes_torch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("engines.openvino.missing", lambda: "No module named 'openvino': pip install openvino")
    choice = choose()
    assert choice.backend == "torch"
    assert "pip install openvino" in choice.why
    with pytest.raises(EngineError, match="pip install openvino"):
        choose("openvino")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("cuda-graphs", "auto", "auto"), r"is unknown: use auto, torch, openvino, tensorrt or tensorrt-rtx"),
        (("openvino", "npu7", "auto"), r"no device 'npu7' here: use cpu"),
        (("torch", "cpu", "fp4"), r"does not run 'fp4': use f32 or bf16"),
    ],
)
def test_a_wrong_wish_lists_what_there_is(asked: tuple[str, str, str], told: str) -> None:
    with pytest.raises(EngineError, match=told):
        choose(*asked)


# ------------------------------------------------------------------------------------------------- parity


def wanted(network: Network, *x: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.module(*x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("backend", ON_CPU)
def test_every_backend_agrees_with_torch(backend: str, rows: int) -> None:
    network = small()
    reference = wanted(network, *inputs(rows))
    engine = engine_of(network, choose(backend, "cpu", "f32"))
    assert error(engine(*inputs(rows)), reference) < F32


@pytest.mark.parametrize("backend", ON_CPU)
def test_bf16_is_close_and_keeps_late_timesteps_apart(backend: str) -> None:
    if "bf16" not in engines.backend(backend).precisions("cpu"):
        pytest.skip("this processor has no bf16")
    network = small()
    reference = wanted(network, *inputs(3))
    engine = engine_of(network, choose(backend, "cpu", "bf16"))
    assert error(engine(*inputs(3)), reference) < BF16


@pytest.mark.parametrize("backend", ON_CPU)
def test_sizes_change_without_a_new_engine_and_outputs_are_the_callers_own(backend: str) -> None:
    network = small()
    engine = engine_of(network, choose(backend, "cpu", "f32"))
    engine.prepare(rows=1, h=8, w=12)
    first = engine(*inputs(2))
    kept = first.clone()
    other = engine(*inputs(2, 16, 8))
    assert other.shape == (2, 4, 16, 8)
    engine(*inputs(1))
    engine(inputs(2)[0] + 1, *inputs(2)[1:])
    assert torch.equal(first, kept)


def test_openvino_tells_nobody_what_it_converts() -> None:
    """Its converter would fork this process to report to a server, once for every network."""
    code = """
import multiprocessing.process, os, sys
sys.path.insert(0, "tests")
from test_engines import choose, engine_of, inputs, small
def told(*_): raise SystemExit("a process was started")
multiprocessing.process.BaseProcess.start = os.fork = told
engine_of(small(), choose("openvino", "cpu", "f32"))(*inputs(1))
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("telemetry_stub"), done.stdout + done.stderr


def test_openvino_names_a_wrong_shape() -> None:
    engine = engine_of(small(), choose("openvino", "cpu", "f32"))
    with pytest.raises(EngineError, match=r"latents has shape \(4, 8, 12\), expected"):
        engine(inputs(1)[0][0], *inputs(1)[1:])


# --------------------------------------------------------------------------------------------------- int8


def measured() -> Network:
    """`small`, with the ranges that were seen in it."""
    network = small(width=32)
    recorder = Recorder(network.module)
    for rows in range(1, 9):
        wanted(network, *inputs(rows))
    return replace(network, ranges=recorder.ranges())


def int8() -> Choice:
    if "int8" not in engines.backend("openvino").precisions("cpu"):
        pytest.skip("this processor has no byte products")
    return choose("openvino", "cpu", "int8", ranges=True)


def test_int8_is_close_and_no_float_result(tmp_path: Path) -> None:
    network, choice = measured(), int8()
    reference = wanted(network, *inputs(3))
    out = engine_of(network, choice, tmp_path)(*inputs(3))
    assert 1e-4 < error(out, reference) < INT8
    assert torch.equal(engine_of(network, choice, tmp_path)(*inputs(3)), out)


def test_int8_runs_in_whole_numbers() -> None:
    """The graph that OpenVINO compiled, not the one that was asked for."""
    engine = engine_of(measured(), int8())
    engine.prepare(rows=1, h=8, w=12)
    (sized,) = engine._sized.values()
    graph = sized._one.get_compiled_model().get_runtime_model()
    facts = [{k: op.get_rt_info()[k].astype(str) for k in ("layerType", "primitiveType")} for op in graph.get_ops()]
    kinds = [fact["primitiveType"] for fact in facts if fact["layerType"] == "Convolution"]
    assert len(kinds) == 2
    assert all(kind.endswith("I8") for kind in kinds)


def test_ranges_are_part_of_the_key(tmp_path: Path) -> None:
    network, choice = measured(), int8()
    assert network.ranges is not None
    narrow = {name: (low / 4, high / 4) for name, (low, high) in network.ranges.items()}
    outputs = [engine_of(n, choice, tmp_path)(*inputs(1)) for n in (network, replace(network, ranges=narrow))]
    assert not torch.equal(*outputs)
    assert len(list((tmp_path / "openvino").glob("*/graph.xml"))) == 2


def test_a_range_cuts_off_what_is_rare() -> None:
    """A number a little outside, once among a million, is not worth the steps that it takes from the others."""
    module = nn.Conv2d(1, 1, 1)
    recorder = Recorder(module)
    inside = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    outside = inside.clone()
    outside[0, 0, 0, 0] = 1.2
    for x in [outside] + 300 * [inside]:
        module(x)
    ((low, high),) = recorder.ranges().values()
    assert -1 <= low < 0
    assert 0.95 < high < 1.2


@pytest.mark.parametrize(
    ("ranges", "told"),
    [({"middle": (0.0, 1.0)}, "no convolution middle"), ({"first": (1.0, 2.0)}, r"range of first is 1.0\.\.2.0")],
)
def test_ranges_that_do_not_fit_are_refused(ranges: Mapping[str, tuple[float, float]], told: str) -> None:
    with pytest.raises(EngineError, match=told):
        quantised(small().module, ranges)


def test_int8_without_ranges_is_refused() -> None:
    with pytest.raises(EngineError, match="int8 needs ranges measured for the model"):
        choose("openvino", "cpu", "int8")
    with pytest.raises(EngineError, match="denoiser has no ranges for int8"):
        engine_of(small(), replace(choose("openvino", "cpu", "f32"), precision="int8"))
    assert choose("openvino", "cpu").precision != "int8"


# -------------------------------------------------------------------------------------------------- cache


def test_a_cached_graph_is_made_once_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose("openvino", "cpu", "f32")
    first = engine_of(small(), choice, tmp_path)(*inputs(2))
    monkeypatch.setattr("openvino.convert_model", lambda *_, **__: pytest.fail("traced again"))
    assert torch.equal(engine_of(small(), choice, tmp_path)(*inputs(2)), first)


def test_bf16_from_the_cache_is_finite(tmp_path: Path) -> None:
    choice = choose("openvino", "cpu")
    for _ in range(2):
        assert torch.isfinite(engine_of(small(), choice, tmp_path)(*inputs(2))).all()


def test_keys_follow_weights_structure_ports_and_more() -> None:
    keys = [network_key(small()), network_key(small(seed=1)), network_key(small(width=12)), network_key(small(), "v2")]
    changed = small()
    with torch.no_grad():
        changed.module.get_parameter("last.bias")[0] += 1e-7  # as small as a LoRA may be
    assert len({*keys, network_key(changed)}) == 5
    assert network_key(small()) == keys[0]


@pytest.mark.parametrize("harm", ["cut", "flip", "remove", "manifest"])
def test_a_damaged_entry_is_set_aside_and_made_again(tmp_path: Path, harm: str) -> None:
    cache, made = Cache(tmp_path), []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "graph.bin").write_bytes(bytes(1000))

    place = cache.fetch("k", make)
    file = place / "graph.bin"
    if harm == "cut":
        file.write_bytes(bytes(500))
    elif harm == "flip":
        file.write_bytes(bytes(999) + b"\x01")
    elif harm == "remove":
        file.unlink()
    else:
        (place / MANIFEST).write_text("{")
    assert cache.fetch("k", make).joinpath("graph.bin").read_bytes() == bytes(1000)
    assert len(made) == 2
    assert (tmp_path / "k.damaged").is_dir()
    cache.fetch("k", make)
    assert len(made) == 2


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise EngineError("cannot be converted")

    with pytest.raises(EngineError, match="converted"):
        Cache(tmp_path).fetch("k", make)
    assert [p.name for p in tmp_path.iterdir()] == [LOCK]


def test_an_unwritable_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="LIVEBRUSH_CACHE"):
        Cache(tmp_path / "file" / "below").fetch("k", lambda folder: None)


def _race(folder: str) -> str:
    def make(new: Path) -> None:
        (new / "graph.bin").write_bytes(bytes(10_000_000))

    place = Cache(Path(folder)).fetch("k", make)
    return json.loads((place / MANIFEST).read_text())["files"]["graph.bin"]["sha256"]  # type: ignore[no-any-return]


def test_processes_that_make_the_same_thing_at_once_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_race, [str(tmp_path)] * 4))) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [LOCK, "k"]


# --------------------------------------------------------------------------------------------------- fold


def tail(pointwise: bool = True, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    last = nn.Conv2d(8, 3, 3, padding=1, bias=bias)
    if pointwise:
        off = torch.zeros_like(last.weight)
        off[:, :, 1, 1] = 1
        last.weight.data *= off
    body = [nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)]
    return nn.Sequential(*body, nn.Conv2d(8, 8, 3, padding=1, bias=False), last).eval()


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_upsampling_tail_folds_exactly_borders_included(bias: bool) -> None:
    module, x = tail(bias=bias), torch.randn(2, 4, 7, 5)
    quick = folded(module)
    assert quick is not module
    assert [type(m) for m in quick][-2:] == [nn.PixelShuffle, nn.Identity]  # type: ignore[arg-type]
    with torch.inference_mode():
        assert torch.allclose(quick(x), module(x), atol=1e-5)


def test_what_is_not_linear_or_pointwise_stays() -> None:
    module = tail(pointwise=False)
    assert folded(module) is module


def test_the_builtin_decoder_folds() -> None:
    from stream.config import spec
    from stream.networks import DecoderNet
    from stream.weights import read_pipeline

    decoder = DecoderNet(read_pipeline(spec("builtin")).vae).eval()
    quick, z = folded(decoder), torch.randn(1, 4, 16, 24)
    assert quick is not decoder
    with torch.inference_mode():
        assert (quick(z).int() - decoder(z).int()).abs().max() <= 1


def test_choice_is_a_value() -> None:
    assert Choice("torch", "cpu", "f32", "asked for") == choose("torch", "cpu", "f32")
