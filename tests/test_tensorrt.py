"""TensorRT's run time against a fake card: memory, graphs, splitting, ownership; and the real library's refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from fake_tensorrt import FakeCard, FakeLibrary, IllegalAddress, Severity, Specialization, Strategy, Type, in_threads
from test_engines import F32, error, inputs, small, wanted
from torch import Tensor

import engines
from engines import Choice, EngineError, Network, Port, backend, card, choose, tensorrt
from engines.card import KEPT, WARM_UP, CudaCard
from engines.tensorrt import RtxEngine, TensorRTEngine
from engines.torch import COMPILE, GraphEngine
from stream import networks

CHOICE = Choice("tensorrt", "cuda", "f32", "a test")
PROFILE = {"rows": (1, 1, 4), "h": (4, 8, 16), "w": (4, 8, 16)}


class Bench:
    """An engine of the small network on a fake card."""

    def __init__(self, folder: Path, *profiles: dict[str, tuple[int, int, int]], half: bool = False,
                 stripped: bool = False) -> None:  # fmt: skip
        self.card = FakeCard()
        self.library = FakeLibrary(self.card)
        self.network = small()
        named = {"half": half, "stripped": stripped}
        self.plan = self.library.plan(folder / "engine.plan", self.network, *(profiles or (PROFILE,)), **named)
        self.engine = TensorRTEngine(self.network, CHOICE, self.plan, self.library, self.card)

    def agrees(self, rows: int, h: int = 8, w: int = 12, most: float = F32) -> None:
        x = inputs(rows, h, w)
        assert error(self.engine(*x), wanted(self.network, *x)) < most


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# ------------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (16, 4), (4, 16)])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_every_size_and_aspect_agrees_with_torch(bench: Bench, rows: int, size: tuple[int, int]) -> None:
    for _ in range(3):
        bench.agrees(rows, *size)


def test_half_inside_stays_float_outside_and_late_timesteps_stay_apart(tmp_path: Path) -> None:
    bench = Bench(tmp_path, half=True)
    assert bench.engine(*inputs(2)).dtype == torch.float32
    bench.agrees(4, most=5e-3)


def test_sizes_may_change_at_every_call(bench: Bench) -> None:
    for rows, h, w in [(1, 8, 8), (2, 8, 8), (1, 8, 8), (1, 16, 8), (2, 8, 8), (4, 16, 16), (1, 8, 8)]:
        bench.agrees(rows, h, w)


def test_what_comes_out_is_the_callers_own(bench: Bench) -> None:
    first = bench.engine(*inputs(2))
    kept = first.clone()
    second = bench.engine(inputs(2)[0] + 1, *inputs(2)[1:])
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)
    with torch.inference_mode():
        first.fill_(7)
    bench.agrees(2)


def test_what_goes_in_is_left_alone_and_may_be_freed(bench: Bench) -> None:
    x = inputs(2)
    kept = [a.clone() for a in x]
    bench.engine(*x)
    assert all(torch.equal(a, b) for a, b in zip(x, kept, strict=True))


@pytest.mark.parametrize("kind", ["tensorrt", "torch"])
def test_networks_with_more_outputs_give_them_all(tmp_path: Path, kind: str) -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + 1, x.sum(1)

    port, more = Port("x", ("rows", 3)), (Port("sums", ("rows",)),)
    network = Network("twice", Twice(), (port,), Port("tokens", ("rows", 3)), {"rows": 1}, more=more)
    made = FakeCard()
    library = FakeLibrary(made)
    plan = library.plan(tmp_path / "engine.plan", network, {"rows": (1, 1, 2)})
    choice = Choice(kind, "cuda", "f32", "")
    both = {"tensorrt": lambda: TensorRTEngine(network, choice, plan, library, made),
            "torch": lambda: GraphEngine(network, choice, made)}  # fmt: skip
    x = torch.arange(9.0).view(3, 3)
    tokens, sums = both[kind]()(x)
    assert torch.equal(tokens, x + 1)
    assert torch.equal(sums, x.sum(1))


# ------------------------------------------------------------------------------------------------- memory


def test_memory_is_asked_for_once_a_shape(bench: Bench) -> None:
    bench.engine(*inputs(2))
    asked = len(bench.card.allocated)
    assert asked == 5  # scratch, three inputs, one output
    for _ in range(10):
        bench.engine(*inputs(2))
    assert len(bench.card.allocated) == asked
    bench.engine(*inputs(1))
    assert len(bench.card.allocated) == asked + 4  # smaller: the scratch memory is enough


def test_prepare_leaves_nothing_to_be_set_up(bench: Bench) -> None:
    bench.engine.prepare(rows=1, H=64, W=96, h=8, w=12)
    asked, captured = len(bench.card.allocated), bench.card.captured
    bench.agrees(1)
    assert (len(bench.card.allocated), bench.card.captured) == (asked, captured)


def test_shapes_unused_for_long_give_their_memory_back(bench: Bench) -> None:
    for k in range(KEPT + 3):
        bench.agrees(1, 16 - k % 13, 16 - k // 13)  # the largest first: so much scratch memory serves all
    assert len(bench.card.memory) == 4 * KEPT + 1
    assert bench.card.torn == 0  # nothing is freed under a running kernel
    bench.agrees(1, 16, 16)


def test_scratch_memory_is_shared_and_grows(bench: Bench) -> None:
    bench.agrees(1, 4, 4)
    bench.agrees(4, 16, 16)
    assert len(bench.card.memory) == 5  # one scratch, one shape: the small shape went with the small scratch
    bench.agrees(1, 4, 4)
    assert len(bench.card.memory) == 9
    assert bench.card.torn == 0


# ------------------------------------------------------------------------------------------------- graphs


def test_a_shape_is_captured_once_after_its_warm_up_and_then_replayed(bench: Bench) -> None:
    for _ in range(5):
        bench.engine(*inputs(2))
    assert bench.card.captured == 1
    assert bench.card.replayed == 5
    assert bench.library.runs == WARM_UP + 5


def test_graphs_go_with_the_memory_they_were_captured_on(bench: Bench) -> None:
    bench.agrees(1, 4, 4)
    bench.agrees(4, 16, 16)  # the scratch memory moves
    bench.agrees(1, 4, 4)
    assert bench.card.captured == 3


def test_forgetting_captures_anew(bench: Bench) -> None:
    bench.agrees(2)
    bench.engine.forget()
    assert len(bench.card.memory) == 1  # the scratch
    bench.agrees(2)
    assert bench.card.captured == 2


def test_what_cannot_be_captured_runs_piece_by_piece(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.card.refuses_capture = True
    for _ in range(3):
        bench.agrees(2)
    assert bench.card.replayed == 0
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "the denoiser runs without a CUDA graph: operation not permitted when stream is capturing"
    ]


# ------------------------------------------------------------------------------------------------- rows and sizes


@pytest.mark.parametrize(("rows", "launches"), [(4, 1), (5, 2), (8, 2), (11, 3)])
def test_more_rows_than_the_profile_has_are_split(bench: Bench, rows: int, launches: int) -> None:
    bench.agrees(rows)
    before = bench.card.replayed
    bench.agrees(rows)
    assert bench.card.replayed - before == launches


def test_several_profiles_serve_the_sizes_they_have(tmp_path: Path) -> None:
    large = {"rows": (1, 1, 2), "h": (17, 24, 32), "w": (4, 24, 32)}
    bench = Bench(tmp_path, PROFILE, large)
    bench.agrees(4, 8, 8)
    bench.agrees(5, 24, 24)
    bench.agrees(2, 8, 8)


def test_a_size_outside_is_refused_in_words_and_the_engine_goes_on(bench: Bench) -> None:
    told = (
        r"runs h 4 to 16, w 4 to 16, got h 24, w 8: use such a size, or build one for it with livebrush engines build"
    )
    with pytest.raises(EngineError, match=told):
        bench.engine(*inputs(1, 24, 8))
    with pytest.raises(EngineError, match=told):
        bench.engine.prepare(rows=1, h=24, w=8)
    assert not bench.card.allocated
    bench.agrees(1)


def test_wrong_inputs_are_named(bench: Bench) -> None:
    latents, t, tokens = inputs(2)
    with pytest.raises(EngineError, match=r"latents has shape \(4, 8, 12\), expected"):
        bench.engine(latents[0], t, tokens)
    with pytest.raises(EngineError, match=r"tokens has shape \(1, 5, 6\), expected \(2, 5, 6\)"):
        bench.engine(latents, t, tokens[:1])
    with pytest.raises(EngineError, match="takes 3 inputs, got 2"):
        bench.engine(latents, t)


# ------------------------------------------------------------------------------------------------- threads


def test_threads_never_get_each_others_pictures(bench: Bench) -> None:
    bench.library.delay_s = 0.002

    def work(seed: int) -> Callable[[], None]:
        def run() -> None:
            x = torch.full((2, 4, 8, 8), float(seed)), *inputs(2)[1:]
            right = wanted(bench.network, *x)
            for _ in range(20):
                assert error(bench.engine(*x), right) < F32

        return run

    in_threads(*(work(k) for k in range(4)))


class CudaStub:
    """What `CudaCard` uses of torch.cuda. A card that is captured in global mode has no memory to give meanwhile."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.mode: str | None = None
        self.Stream = lambda device: self._stream("own", 5)
        self.graph_pool_handle = lambda: "pool"
        self.current_stream = lambda device: self._stream("caller", 0)
        self.CUDAGraph = self._graph
        self.Event = lambda: SimpleNamespace(record=lambda s: self.order.append(f"record {s.name}"),
                                             synchronize=lambda: self.order.append("wait for it"))  # fmt: skip
        self._now = "caller"

    def _stream(self, name: str, handle: int) -> Any:
        return SimpleNamespace(name=name, cuda_stream=handle,
                               wait_stream=lambda s: self.order.append(f"{name} waits for {s.name}"))  # fmt: skip

    def stream(self, stream: Any) -> Any:
        stub = self

        class Inside:
            def __enter__(self) -> None:
                stub._now = stream.name

            def __exit__(self, *_: object) -> None:
                stub._now = "caller"

        return Inside()

    def _graph(self) -> Any:
        def begin(pool: str, capture_error_mode: str = "global") -> None:
            assert self._now == "own"
            self.mode = capture_error_mode

        def end() -> None:
            self.mode = None

        return SimpleNamespace(capture_begin=begin, capture_end=end, replay=lambda: self.order.append("replay"))

    def allocate(self) -> None:
        if self.mode == "global":
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaStub:
    stub = CudaStub()
    monkeypatch.setattr(card.torch, "cuda", stub)
    return stub


def test_streams_wait_for_each_other_and_the_host_for_neither(cuda: CudaStub) -> None:
    mine = CudaCard(torch.device("cpu"))
    assert mine.stream == 5
    with mine.turn():
        cuda.order.append(f"work on {cuda._now}")
    with suppress(ZeroDivisionError), mine.turn():
        raise ZeroDivisionError
    turn = ["own waits for caller", "caller waits for own"]
    assert cuda.order == [turn[0], "work on own", turn[1], *turn]
    mine.finish()
    assert cuda.order[-2:] == ["record own", "wait for it"]


def test_other_threads_may_go_on_allocating_during_a_capture(cuda: CudaStub) -> None:
    mine = CudaCard(torch.device("cpu"))

    def work() -> list[Tensor]:
        in_threads(cuda.allocate)
        return []

    with mine.turn():
        replay, _ = mine.capture(work)
    replay()
    assert cuda.order.count("replay") == 1
    cuda.mode = "global"
    with pytest.raises(RuntimeError, match="capturing"):
        cuda.allocate()  # the stub would have noticed


def test_a_failed_capture_is_ended(cuda: CudaStub) -> None:
    def work() -> list[Tensor]:
        raise RuntimeError("not capturable")

    mine = CudaCard(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="not capturable"), mine.turn():
        mine.capture(work)
    assert cuda.mode is None


# ------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not an engine", "tensorrt cannot read the denoiser's engine .*: .*magic tag does not match"),
        (b'{"network": "another"}', "magic tag does not match"),
        (None, "engine.plan cannot be read: No such file"),
    ],
)
def test_an_engine_that_cannot_be_read_says_why(bench: Bench, content: bytes | None, told: str) -> None:
    if content is None:
        bench.plan.unlink()
    else:
        bench.plan.write_bytes(content)
    with pytest.raises(EngineError, match=told):
        TensorRTEngine(bench.network, CHOICE, bench.plan, bench.library, bench.card)


def test_an_engine_of_another_network_is_refused(bench: Bench) -> None:
    bench.plan.write_text(bench.plan.read_text().replace('"prediction"]', '"pictures"]'))
    with pytest.raises(EngineError, match="has latents, t, tokens, pictures, expected latents, t, tokens, prediction"):
        TensorRTEngine(bench.network, CHOICE, bench.plan, bench.library, bench.card)


def test_a_type_that_torch_has_not_is_refused(bench: Bench) -> None:
    bench.plan.write_text(bench.plan.read_text().replace('"prediction": "FLOAT"', '"prediction": "FP8"'))
    engine = TensorRTEngine(bench.network, CHOICE, bench.plan, bench.library, bench.card)
    with pytest.raises(EngineError, match="prediction of the denoiser's engine is FP8: expected FLOAT, HALF"):
        engine(*inputs(1))


def test_a_failed_launch_says_why_and_leaves_the_engine_whole(bench: Bench) -> None:
    bench.library.fails = "Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
    with pytest.raises(EngineError, match="tensorrt cannot run the denoiser: Error Code 1: Cuda Runtime"):
        bench.engine(*inputs(2))
    bench.library.fails = ""
    bench.agrees(2)


def test_weights_that_are_built_in_are_not_exchanged(bench: Bench) -> None:
    with pytest.raises(EngineError, match="weights of the denoiser are built into its tensorrt engine: start again"):
        bench.engine.refit({"first.weight": torch.zeros(8, 4, 3, 3)})
    bench.agrees(1)


@pytest.mark.parametrize("kind", ["FLOAT", "HALF", "BF16"])
def test_an_engine_without_weights_gets_them_when_it_is_read(tmp_path: Path, kind: str) -> None:
    bench = Bench(tmp_path, stripped=True)
    bench.library.kind = Type[kind]
    bench.engine = TensorRTEngine(bench.network, CHOICE, bench.plan, bench.library, bench.card)
    bench.agrees(2, most={"FLOAT": F32, "HALF": 5e-3, "BF16": 6e-2}[kind])


@pytest.mark.parametrize("changes", [False, True])
def test_weights_are_left_out_of_engines_where_they_may_change(
    changes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(tensorrt, "ready", lambda _network, wish, _cache, **_more: asked.append(wish) or tmp_path)
    tensorrt.made(replace(small(), changes=changes), CHOICE, (8, 9), tmp_path)
    assert (asked[0].refit, asked[0].compute) == (changes, (89,))


def test_one_engine_serves_every_checkpoint_and_changes_beside_what_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stripped=True)
    bench.agrees(2)
    before, first = bench.engine(*inputs(2)), bench.network
    for seed in (5, 6):
        bench.network = small(seed)
        swap = bench.engine.refit(dict(bench.network.module.named_parameters()))
        assert torch.equal(bench.engine(*inputs(2)), before)
        swap()
        bench.agrees(2)
        bench.agrees(4)
        before = bench.engine(*inputs(2))
    bench.engine.refit(dict(first.module.named_parameters()))()
    bench.network = first
    bench.agrees(2)


def test_changes_of_parts_add_up_and_merged_weights_come_along(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stripped=True)
    bench.library.merged = {"first.weight": "first.bias"}
    other = small(5).module
    bench.engine.refit({"first.weight": other.get_parameter("first.weight")})()
    bench.engine.refit({"text.weight": other.get_parameter("text.weight")})()
    with torch.no_grad():
        bench.network = small()
        for name in ("first.weight", "text.weight"):
            bench.network.module.get_parameter(name).copy_(other.get_parameter(name))
    bench.agrees(2)


def test_a_change_that_fails_leaves_what_runs_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stripped=True)
    good = torch.zeros(8, 4, 3, 3)
    for weights, why in (({"first.strange": good}, "no weight first.strange that can be changed"),
                         ({"first.weight": good[:4]}, r"has shape \(4, 4, 3, 3\), expected")):  # fmt: skip
        with pytest.raises(EngineError, match=why):
            bench.engine.refit(weights)
    bench.library.fails = "out of memory"
    with pytest.raises(EngineError, match="TensorRT could not put the weights into its engine"):
        bench.engine.refit({"first.weight": good})
    bench.library.fails = ""
    bench.agrees(2)


def test_captured_engines_are_captured_anew_with_other_weights(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stripped=True)
    bench.agrees(2)
    captured = bench.card.captured
    bench.engine.refit({"first.weight": bench.network.module.get_parameter("first.weight")})()
    bench.agrees(2)
    assert bench.card.captured == captured + 1


# ------------------------------------------------------------------------------------------------- TensorRT-RTX


def test_rtx_takes_other_weights_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stripped=True)
    engine = bench.engine = rtx_engine(bench, None)
    bench.agrees(2)
    bench.network = small(5)
    engine.refit(dict(bench.network.module.named_parameters()))()
    bench.agrees(2)
    assert [c.cuda_graph_strategy for c in engine._engine.contexts] == [Strategy.WHOLE_GRAPH_CAPTURE]


def rtx_engine(bench: Bench, kernels: Path | None) -> RtxEngine:
    return RtxEngine(
        bench.network, Choice("tensorrt-rtx", "cuda", "f32", ""), bench.plan, bench.library, bench.card, kernels
    )


def test_rtx_captures_by_itself_and_never_waits_for_a_compiler(bench: Bench) -> None:
    engine = bench.engine = rtx_engine(bench, None)
    for _ in range(3):
        bench.agrees(2)
    (config,) = engine._engine.contexts
    assert config.cuda_graph_strategy == Strategy.WHOLE_GRAPH_CAPTURE
    assert config.dynamic_shapes_kernel_specialization_strategy == Specialization.LAZY
    assert config.cache is not None
    assert bench.card.captured == 0


def test_rtx_keeps_its_kernels_for_the_next_start(bench: Bench, tmp_path: Path) -> None:
    kernels = tmp_path / "cache" / "kernels" / "key.bin"
    rtx_engine(bench, kernels).prepare(rows=1, h=8, w=8)
    kept = kernels.read_bytes()
    assert kept.startswith(b"kernels of")
    again = rtx_engine(bench, kernels)
    assert again._kernels.blob == kept
    assert [p.name for p in kernels.parent.iterdir()] == ["key.bin"]


def test_a_full_disk_leaves_no_half_of_the_kernels(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    kernels = tmp_path / "kernels" / "key.bin"
    bench.engine = rtx_engine(bench, kernels)
    monkeypatch.setattr(Path, "write_bytes", full)
    bench.engine.prepare(rows=1, h=8, w=8)
    assert list(kernels.parent.iterdir()) == []
    assert "cannot be kept (No space left on device)" in caplog.text
    bench.agrees(1)


def test_rtx_starts_without_kernels_that_are_damaged_or_cannot_be_kept(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = tmp_path / "key.bin"
    kernels.write_bytes(b"of another driver")
    assert rtx_engine(bench, kernels)._kernels.blob == b""
    blocked = tmp_path / "key.bin" / "below.bin"
    bench.engine = rtx_engine(bench, blocked)
    bench.engine.prepare(rows=1, h=8, w=8)
    assert "cannot be kept" in caplog.text
    bench.agrees(1)


# ------------------------------------------------------------------------------------------------- torch on CUDA


@pytest.mark.parametrize("rows", [1, 3])
def test_torch_on_a_card_is_captured_and_agrees(rows: int) -> None:
    made = FakeCard()
    network = small()
    x, other = inputs(rows), inputs(rows, 16, 8)
    right, right_other = wanted(network, *x), wanted(network, *other)
    engine = GraphEngine(network, Choice("torch", "cuda", "f32", ""), made)
    first = engine(*x)
    kept = first.clone()
    assert error(engine(*other), right_other) < F32
    assert error(engine(*x), right) < F32
    assert torch.equal(first, kept)
    assert (made.captured, made.replayed) == (2, 3)


@pytest.mark.parametrize("kind", ["sd15", "sd2", "sdxl"])
def test_models_of_every_architecture_are_captured_and_agree(kind: str, tmp_path: Path) -> None:
    pipeline = tiny.pipeline(kind, tmp_path)
    denoiser = networks.denoiser(pipeline.unet, tiny.CONTEXT, 64 if kind == "sdxl" else None)
    parts = [networks.encoder(pipeline.vae, 16), denoiser, networks.decoder(pipeline.vae, 16)]
    sizes = {"rows": 2, "h": 8, "w": 16, "H": 64, "W": 128}
    for network in parts:
        shapes = [[a if isinstance(a, int) else sizes[a] for a in port.shape] for port in network.inputs]
        x = [torch.randint(0, 256, s).to(torch.uint8) if p.dtype == torch.uint8 else torch.randn(s)
             for p, s in zip(network.inputs, shapes, strict=True)]  # fmt: skip
        right = wanted(network, *x).float()
        engine = GraphEngine(network, Choice("torch", "cuda", "f32", ""), FakeCard())
        engine.prepare(**sizes)
        assert error(engine(*x).float(), right) < max(F32, 1.1 / 255 if network.name == "decoder" else 0)


@pytest.mark.parametrize("asked", [False, True])
def test_torch_on_a_card_is_compiled_where_that_is_asked_for(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def without_a_compiler(module: torch.nn.Module, **how: Any) -> Any:
        compiled.append(module)
        return compile_(module, backend="eager", **how)

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", without_a_compiler)
    monkeypatch.setattr("engines.torch.CudaCard", lambda device: FakeCard())
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)  # there is no card to go to
    monkeypatch.setenv(COMPILE, "1" if asked else "0")
    network = small()
    engine = backend("torch").build(network, Choice("torch", "cuda", "f32", ""), None)
    for rows in (2, 3, 2):
        assert error(engine(*inputs(rows)), wanted(network, *inputs(rows))) < F32
    assert bool(compiled) == asked


def test_torch_on_a_card_runs_where_nothing_can_be_captured() -> None:
    made = FakeCard()
    made.refuses_capture = True
    network = small()
    right = [wanted(network, *inputs(2)), wanted(network, inputs(2)[0] + 1, *inputs(2)[1:])]
    engine = GraphEngine(network, Choice("torch", "cuda", "f32", ""), made)
    assert error(engine(*inputs(2)), right[0]) < F32
    assert error(engine(inputs(2)[0] + 1, *inputs(2)[1:]), right[1]) < F32


def test_torch_on_a_card_takes_other_weights_where_its_graphs_read_them() -> None:
    network, other = small(), small(seed=1)
    right = wanted(other, *inputs(2))
    engine = GraphEngine(network, Choice("torch", "cuda", "f32", ""), FakeCard())
    before = engine(*inputs(2)).clone()
    swap = engine.refit(dict(other.module.named_parameters()))
    assert torch.equal(engine(*inputs(2)), before)
    swap()
    assert error(engine(*inputs(2)), right) < F32
    with pytest.raises(EngineError, match="has no weight"):
        engine.refit({"unknown": torch.zeros(1)})


def test_torch_on_a_card_is_channels_last() -> None:
    engine = GraphEngine(small(), Choice("torch", "cuda", "bf16", ""), FakeCard())
    weight = engine._module.get_parameter("first.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == torch.bfloat16
    engine(*inputs(2))
    (station,) = engine._stations.values()
    assert station.inputs[0].is_contiguous(memory_format=torch.channels_last)
    assert [x.dtype for x in station.inputs] == [torch.bfloat16, torch.float32, torch.bfloat16]


# ------------------------------------------------------------------------------------------------- the fake itself


class Naive:
    """Engines with the defects of others (algorithm.md), to see that the fake catches each."""

    def __init__(self, bench: Bench) -> None:
        self.card, self.engine = bench.card, bench.engine._engine
        self.context: Any = None
        self.buffers: dict[str, Tensor] = {}
        self.replay: Callable[[], None] | None = None

    def set_up(self, x: tuple[Tensor, ...], fresh: bool = True) -> None:
        if self.context is None:
            self.context = self.engine.create_execution_context(tensorrt_allocation())
        if not fresh:
            return
        for port, a in zip(self.engine.network.inputs, x, strict=True):
            assert self.context.set_input_shape(port.name, tuple(a.shape))
        with self.card.turn():
            self.buffers["scratch"] = self.card.empty((self.context.needed(),), torch.uint8)
            for name in self.engine._names:
                self.buffers[name] = self.card.empty(self.context.get_tensor_shape(name), torch.float32)
                self.context.set_tensor_address(name, self.buffers[name].data_ptr())
        self.context.set_device_memory(self.buffers["scratch"].data_ptr(), self.buffers["scratch"].numel())

    def run(self, x: tuple[Tensor, ...], graph: bool = False) -> Tensor:
        with self.card.turn():
            for port, a in zip(self.engine.network.inputs, x, strict=True):
                self.buffers[port.name].copy_(a)
            if graph and self.replay is None:
                self.context.execute_async_v3(77)
                self.replay, _ = self.card.capture(lambda: [self.context.execute_async_v3(77)][:0])
            if graph and self.replay is not None:
                self.replay()
            else:
                self.context.execute_async_v3(77)
        return self.buffers["prediction"]


def tensorrt_allocation() -> Any:
    return FakeLibrary.ExecutionContextAllocationStrategy.USER_MANAGED


def test_the_fake_catches_a_graph_that_outlives_its_buffers(bench: Bench) -> None:
    naive = Naive(bench)
    naive.set_up(inputs(1))
    naive.run(inputs(1), graph=True)
    naive.set_up(inputs(2))
    with pytest.raises((IllegalAddress, AssertionError), match=r"any more|changed after the capture"):
        naive.run(inputs(2), graph=True)


def test_the_fake_catches_memory_that_was_freed(bench: Bench) -> None:
    naive = Naive(bench)
    naive.set_up(inputs(1))
    naive.buffers["prediction"] = naive.buffers["prediction"].clone()
    with pytest.raises(IllegalAddress):
        naive.run(inputs(1))


def test_the_fake_shows_outputs_that_the_next_call_overwrites(bench: Bench) -> None:
    naive = Naive(bench)
    naive.set_up(inputs(1))
    first = naive.run(inputs(1))
    kept = first.clone()
    naive.run((inputs(1)[0] + 1, *inputs(1)[1:]))
    assert not torch.equal(first, kept)


def test_the_fake_counts_memory_asked_for_at_every_call(bench: Bench) -> None:
    naive = Naive(bench)
    for _ in range(3):
        naive.set_up(inputs(1))
        naive.run(inputs(1))
    assert len(bench.card.allocated) == 3 * 5


def test_the_fake_catches_a_size_that_stays(bench: Bench) -> None:
    naive = Naive(bench)
    naive.set_up(inputs(1))
    naive.set_up(inputs(1, 16, 8), fresh=False)
    with pytest.raises(RuntimeError):  # torch's: the sizes of the buffers stayed
        naive.run(inputs(1, 16, 8))


def test_the_fake_catches_a_capture_without_a_warm_up(bench: Bench) -> None:
    naive = Naive(bench)
    naive.set_up(inputs(1))
    with bench.card.turn():
        assert bench.card.capture(lambda: [] if naive.context.execute_async_v3(77) else None)[1] is None  # type: ignore[arg-type,return-value]
    assert "before it has run" in bench.library.logger.errors[-1]


# ------------------------------------------------------------------------------------------------- the real one


def test_the_fake_has_no_call_that_the_real_one_has_not() -> None:
    real = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    import fake_tensorrt as fake

    pairs = {
        fake.FakeRuntime: real.Runtime,
        fake.FakeEngine: real.ICudaEngine,
        fake.FakeContext: real.IExecutionContext,
        fake.FakeConfig: real.IRuntimeConfig,
        fake.FakeRuntimeCache: real.IRuntimeCache,
        fake.FakeRefitter: real.Refitter,
        fake.Type: real.DataType,
        fake.Allocation: real.ExecutionContextAllocationStrategy,
        Severity: real.ILogger.Severity,
        Strategy: real.CudaGraphStrategy,
        Specialization: real.DynamicShapesKernelSpecializationStrategy,
    }
    own = {"needed", "library", "cache", "allocation", "value", "held"}  # of the fake alone
    for ours, theirs in pairs.items():
        names = {n for n in vars(ours) if not n.startswith("_")} - own
        assert names
        assert {n for n in names if not hasattr(theirs, n)} == set()


def test_the_real_runtime_refuses_an_engine_and_says_why(tmp_path: Path) -> None:
    real = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    if torch.cuda.is_available():
        pytest.skip("a card is there: tests/gpu runs real engines")
    (tmp_path / "engine.plan").write_bytes(b"ptrt" + bytes(4000))
    choice = Choice("tensorrt-rtx", "cuda", "f16", "")
    with pytest.raises(EngineError, match=r"tensorrt-rtx cannot read the denoiser's engine .*: .*\w{4}") as told:
        RtxEngine(small(), choice, tmp_path / "engine.plan", real, FakeCard())
    assert "it says no more" not in str(told.value)


# ------------------------------------------------------------------------------------------------- the choice


def on_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], *lacking: str) -> None:
    """As if a card of this kind were there, and these libraries were not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Test 90")

    def found(name: str) -> object:
        if name in lacking:
            raise ImportError(f"No module named {name!r}")
        return object()

    monkeypatch.setattr(tensorrt, "import_module", found)


@pytest.mark.parametrize(
    ("capability", "lacking", "backend"),
    [
        ((9, 0), (), "tensorrt"),
        ((8, 0), (), "tensorrt"),
        ((10, 0), (), "tensorrt"),
        ((8, 9), (), "tensorrt-rtx"),
        ((7, 5), (), "tensorrt-rtx"),
        ((12, 0), (), "tensorrt-rtx"),
        ((12, 0), ("tensorrt_rtx",), "tensorrt"),
        ((8, 0), ("tensorrt",), "tensorrt-rtx"),
        ((9, 0), ("tensorrt",), "torch"),
        ((8, 9), ("tensorrt", "tensorrt_rtx"), "torch"),
        ((6, 1), (), "torch"),
    ],
)
def test_auto_takes_the_fastest_that_serves_the_card(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], lacking: tuple[str, ...], backend: str
) -> None:
    on_card(monkeypatch, capability, *lacking)
    choice = choose()
    assert (choice.backend, choice.device, choice.precision) == (backend, "cuda", "f16")
    assert "NVIDIA Test 90" in choice.why
    for name in lacking if backend == "torch" else ():
        assert f"No module named '{name}': pip install 'livebrush[" in choice.why or capability == (9, 0)


def test_what_serves_another_card_is_left_for_the_fastest_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    on_card(monkeypatch, (9, 0))
    choice = choose("tensorrt-rtx")
    assert choice.backend == "tensorrt"
    assert "it serves RTX cards, SM 7.5, 8.x and 12.x, and there is NVIDIA Test 90" in choice.notice
    on_card(monkeypatch, (9, 0), "tensorrt")
    choice = choose("tensorrt", "cuda", "bf16")
    assert (choice.backend, choice.device, choice.precision) == ("torch", "cuda", "bf16")
    assert "No module named 'tensorrt': pip install 'livebrush[tensorrt]'" in choice.notice


def test_without_a_card_the_fastest_of_the_others_runs_and_a_notice_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("a card is there")
    for asked in (("tensorrt",), ("tensorrt-rtx", "cuda", "f16")):
        choice = choose(*asked)
        assert (choice.backend, choice.device) == (choose().backend, choose().device)
        assert choice.notice.startswith(f"engine {asked[0]} cannot be used here: ")


def test_without_a_card_both_say_what_to_do() -> None:
    if torch.cuda.is_available():
        pytest.skip("a card is there")
    for name in ("tensorrt", "tensorrt-rtx"):
        told = engines.backend(name).missing()
        assert told is not None
        assert "pip install 'livebrush[" in told or "without CUDA" in told or "nvidia-smi" in told


def test_the_lock_is_needed(bench: Bench) -> None:
    """Without it, threads meet in the buffers: what `test_threads_...` would see."""
    bench.library.delay_s = 0.002
    bench.engine(*inputs(2))

    class Open:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    bench.engine._lock = Open()  # type: ignore[assignment]
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        for _ in range(10):
            bench.agrees(2)

    with pytest.raises(AssertionError):
        in_threads(work, work)
