"""Weights changed while an engine is there: by value on every back end, and TensorRT's own against a fake refitter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_tensorrt import FakeCard, FakeEngine, FakeLibrary, FakeRefitter, Type
from test_engines import error, inputs, small
from torch import Tensor

from engines import Choice, EngineError, Network, engine_of
from engines.refit import Home, Homes, Supply, homes

NEAR = 1e-5  # of the largest value: rounding of two ways to compute the same in float32
BACKENDS = ("torch", "openvino")


def mixed(seed: int = 0) -> Network:
    """`small`, all of its weights somewhere: converters drop a norm that multiplies by 1 and adds 0."""
    network = small(seed)
    network.module.load_state_dict(others(network, 4))
    return network


def engine(backend: str, network: Network, cache: Path | None = None) -> object:
    return engine_of(network, Choice(backend, "cpu", "f32", "a test"), cache)


def others(network: Network, seed: int = 5) -> dict[str, Tensor]:
    """Other values for every weight."""
    made = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=made) * 0.2 for n, p in network.module.named_parameters()}


# ------------------------------------------------------------------------------------------------- engines


@pytest.mark.parametrize("backend", BACKENDS)
def test_new_weights_give_what_a_network_built_with_them_gives(backend: str, tmp_path: Path) -> None:
    ours, fresh = mixed(), mixed()
    weights = others(ours)
    fresh.module.load_state_dict(weights)
    changed, built = engine(backend, ours, tmp_path), engine("torch", fresh)
    for sizes in ((8, 12), (8, 8)):
        changed(*inputs(1, *sizes))
    changed.refit(weights)()
    for rows, h, w in ((1, 8, 12), (3, 8, 8), (2, 16, 16)):
        assert error(changed(*inputs(rows, h, w)), built(*inputs(rows, h, w))) < NEAR


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_changes_before_the_swap_and_all_of_it_goes_back(backend: str, tmp_path: Path) -> None:
    network = mixed()
    base = {n: p.detach().clone() for n, p in network.module.named_parameters()}
    one = engine(backend, network, tmp_path)
    before = one(*inputs(2))
    swap = one.refit(others(network))
    assert torch.equal(one(*inputs(2)), before)
    swap()
    assert error(one(*inputs(2)), before) > 0.1
    one.refit(base)()
    assert torch.equal(one(*inputs(2)), before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_part_may_change_and_the_rest_stays(backend: str) -> None:
    ours, fresh = mixed(), mixed()
    part = {"text.weight": torch.ones(8, 6)}
    with torch.no_grad():
        fresh.module.text.weight.fill_(1.0)
    changed, built = engine(backend, ours), engine("torch", fresh)
    changed.refit(part)()
    assert error(changed(*inputs(2)), built(*inputs(2))) < NEAR


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_and_misshapen_weights_are_refused_and_change_nothing(backend: str) -> None:
    one = engine(backend, mixed())
    before = one(*inputs(1))
    good = torch.zeros(8, 6)
    with pytest.raises(EngineError, match=r"the denoiser has no weight text.strange that can be changed .*: restart"):
        one.refit({"text.weight": good, "text.strange": good})
    with pytest.raises(EngineError, match=r"weight text.weight of the denoiser has shape \(6, 8\), expected \(8, 6\)"):
        one.refit({"text.weight": good.T})
    assert torch.equal(one(*inputs(1)), before)


def test_int8_is_not_changed() -> None:
    """Its ranges were measured with the weights as they are."""
    network = replace(mixed(), ranges={"first": (-4.0, 4.0)})
    one = engine_of(network, Choice("openvino", "cpu", "int8", "a test"), None)
    before = one(*inputs(1))
    with pytest.raises(EngineError, match="weights of the denoiser cannot change in int8: use --precision bf16 or f32"):
        one.refit(others(network))
    assert torch.equal(one(*inputs(1)), before)


def test_torch_keeps_the_memory_of_its_weights() -> None:
    network = mixed()
    one = engine("torch", network)
    places = [p.data_ptr() for p in network.module.parameters()]
    one.refit(others(network))()
    assert [p.data_ptr() for p in network.module.parameters()] == places


def test_a_graph_from_the_cache_can_be_refitted_too(tmp_path: Path) -> None:
    engine("openvino", mixed(), tmp_path)
    network = mixed()
    again, built = engine("openvino", network, tmp_path), engine("torch", mixed())
    weights = others(network)
    again.refit(weights)()
    built.refit(weights)()
    assert error(again(*inputs(2)), built(*inputs(2))) < NEAR


def test_openvino_has_the_sizes_in_use_ready_before_the_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine("openvino", mixed())
    for side in (8, 16, 24, 32, 40, 48, 56, 64):
        one.prepare(h=side, w=side)
    one.prepare(h=8, w=8)
    compiled: list[tuple[int, ...]] = []
    own = one._compile
    monkeypatch.setattr(one, "_compile", lambda model, sizes: (compiled.append(sizes), own(model, sizes))[1])
    one.refit({"text.weight": torch.ones(8, 6)})()
    assert compiled == [(s, s) for s in (32, 40, 48, 56, 64, 8)]
    one.prepare(h=8, w=8)
    one.prepare(h=16, w=16)
    assert compiled[6:] == [(16, 16)]


# ------------------------------------------------------------------------------------------------- homes

SQUARE, BIAS = torch.arange(9.0).reshape(3, 3), torch.tensor([1.0, 2.0, 3.0])


def test_homes_are_found_by_value_whatever_the_name_type_and_shape() -> None:
    known = {"a.weight": SQUARE, "a.bias": BIAS}
    turned, shaped = SQUARE.T.contiguous().half(), BIAS.reshape(1, 3, 1)
    constants = [("onnx::MatMul_7", turned), ("c1", shaped), ("scale", torch.ones(3))]
    found = homes(known, constants)
    assert found.of == {"a.weight": (Home("onnx::MatMul_7", torch.float16, (3, 3), True),),
                        "a.bias": (Home("c1", torch.float32, (1, 3, 1)),)}  # fmt: skip
    new = dict(found.values({"a.weight": SQUARE + 1, "a.bias": BIAS * 2}))
    assert torch.equal(new["onnx::MatMul_7"], (SQUARE + 1).T.half())
    assert torch.equal(new["c1"], (BIAS * 2).reshape(1, 3, 1))


def test_equal_values_are_told_apart_by_name_or_not_at_all() -> None:
    known = {"a.bias": torch.zeros(3), "b.bias": torch.zeros(3)}
    apart = homes(known, [("self.a.bias", torch.zeros(3)), ("self.b.bias", torch.zeros(3))])
    assert {n: [h.constant for h in lies] for n, lies in apart.of.items()} == {
        "a.bias": ["self.a.bias"], "b.bias": ["self.b.bias"]
    }  # fmt: skip
    merged = homes(known, [("shared", torch.zeros(3))])
    assert not merged.of


def test_a_weight_that_a_graph_holds_twice_changes_twice() -> None:
    found = homes({"a.weight": SQUARE}, [("x", SQUARE), ("y", SQUARE.T.contiguous())])
    values = dict(found.values({"a.weight": SQUARE * 2}))
    assert torch.equal(values["x"], SQUARE * 2)
    assert torch.equal(values["y"], SQUARE.T * 2)


def test_homes_are_written_and_read(tmp_path: Path) -> None:
    known = {"a.weight": SQUARE, "a.bias": BIAS}
    made = homes(known, [("w", SQUARE.T.contiguous().bfloat16()), ("scale", torch.ones(3))])
    made.write(tmp_path)
    read = Homes.read(tmp_path)
    assert (read.of, read.shapes) == (made.of, {"a.weight": (3, 3)})


# ------------------------------------------------------------------------------------------------- TensorRT


def refitter(library: FakeLibrary, folder: Path, network: Network) -> FakeRefitter:
    library.plan(folder / "plan", network, stripped=True)
    plan = json.loads((folder / "plan").read_text())
    return FakeRefitter(library, FakeEngine(library, plan))


def test_what_a_refitter_refuses_lacks_or_cannot_do_is_told(tmp_path: Path) -> None:
    library, network = FakeLibrary(FakeCard()), small()
    state = dict(network.module.named_parameters())
    weight = {"first.weight": state["first.weight"]}
    with pytest.raises(EngineError, match=r"the engine has no weight first.weight of 5 numbers: build it anew"):
        Supply(library, state)(refitter(library, tmp_path, network), {"first.weight": torch.zeros(5)})
    with pytest.raises(EngineError, match=r"the engine has no weight strange of 5 numbers"):
        Supply(library, state)(refitter(library, tmp_path, network), {"strange": torch.zeros(5)})
    with pytest.raises(EngineError, match=r"the engine wants weights that the network has not \(first.bias, ...\)"):
        Supply(library, weight)(refitter(library, tmp_path, network), weight)
    library.kind = Type.FP8
    with pytest.raises(EngineError, match=r"the engine has no weight first.weight"):
        Supply(library, state)(refitter(library, tmp_path, network), weight)


def test_an_engine_that_lacks_nothing_is_not_touched(tmp_path: Path) -> None:
    library, network = FakeLibrary(FakeCard()), small()
    whole = refitter(library, tmp_path, network)
    Supply(library, dict(network.module.named_parameters()))(whole, {})
    library.fails = "it must not be asked"
    Supply(library, {})(whole, {})
    assert all(torch.equal(whole.held[n], p) for n, p in network.module.named_parameters())


@pytest.mark.parametrize(("kind", "dtype"), [("FLOAT", torch.float32), ("HALF", torch.float16)])
def test_the_real_library_takes_weights_as_they_lie_in_memory(kind: str, dtype: torch.dtype) -> None:
    """As far as it goes without a card; `tests/gpu` has the rest."""
    real = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    supply = Supply(real, {})
    got: list[torch.Tensor] = []
    fake = SimpleNamespace(
        get_weights_prototype=lambda _name: real.Weights(getattr(real.DataType, kind)),
        set_named_weights=lambda _name, weights: got.append(torch.from_numpy(weights.numpy().copy())) or True,
    )
    kept = supply._put(fake, "w", SQUARE.T)
    assert kept.dtype == got[0].dtype == dtype
    assert torch.equal(got[0].reshape(3, 3), SQUARE.T.to(dtype))
