"""Engines on a real card: parity with torch, graphs, memory that stays, order between streams, nothing waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_engines import error, inputs, small, wanted

from engines import Choice, EngineError, Network, choose, engine_of
from engines.card import KEPT, CardEngine
from stream import networks
from stream.config import spec
from stream.models import load
from stream.pipeline import Painter
from stream.settings import Settings
from tools import bench

HALF = 2e-2  # largest difference from torch in float32 on the CPU, relative to the largest value
SPANS = {"rows": (1, 2, 4), "h": (4, 8, 32), "w": (4, 8, 32), "H": (32, 64, 256), "W": (32, 64, 256)}
CALLS = 200


def ranged(network: Network) -> Network:
    """With spans, for engines that are built for a range."""
    named = {a for port in network.inputs for a in port.shape if isinstance(a, str)}
    return replace(network, spans={a: SPANS[a] for a in named})


def on_card(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(x.cuda() for x in tensors)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def engine(choice: Choice, kept: Path) -> CardEngine:
    made = engine_of(ranged(small()), choice, kept)
    assert isinstance(made, CardEngine)
    return made


@contextmanager
def without_waiting() -> Iterator[None]:
    """Any call that makes the host wait for the card is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (16, 4), (32, 32)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_every_size_and_number_of_rows_agrees_with_torch(engine: CardEngine, rows: int, size: tuple[int, int]) -> None:
    x = inputs(rows, *size)
    right = wanted(small(), *x)
    for _ in range(3):
        assert error(engine(*on_card(*x)).cpu(), right) < HALF


@pytest.mark.parametrize("kind", ["sd15", "sd2", "sdxl"])
def test_networks_of_every_architecture_agree(choice: Choice, kept: Path, tmp_path: Path, kind: str) -> None:
    pipeline = tiny.pipeline(kind, tmp_path)
    pooled = 64 if kind == "sdxl" else None
    multiple = 16
    parts = [networks.encoder(tiny.small_vae(), multiple), networks.denoiser(pipeline.unet, tiny.CONTEXT, pooled),
             networks.decoder(tiny.small_vae(), multiple)]  # fmt: skip
    sizes = {"rows": 2, "h": 8, "w": 16, "H": 64, "W": 128}
    for network in parts:
        shapes = [[a if isinstance(a, int) else sizes[a] for a in port.shape] for port in network.inputs]
        given = [
            torch.randint(0, 256, shape, dtype=torch.uint8) if port.dtype == torch.uint8 else torch.randn(shape)
            for port, shape in zip(network.inputs, shapes, strict=True)
        ]
        right = wanted(network, *given).float()
        ours = engine_of(ranged(network), choice, kept)(*on_card(*given)).cpu().float()
        assert ours.shape == right.shape
        assert error(ours, right) < 2 * HALF


# ------------------------------------------------------------------------------------------------- graphs and memory


def test_shapes_are_captured_once_and_memory_stays(engine: CardEngine) -> None:
    sizes = [(1, 8, 8), (2, 8, 8), (4, 16, 16), (1, 8, 8)]
    given = [on_card(*inputs(*s)) for s in sizes]
    for x in given:
        engine(*x)
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    for k in range(CALLS):
        engine(*given[k % len(given)])
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == held
    assert len(engine._stations) == 3


def test_dropped_shapes_give_their_memory_back(engine: CardEngine) -> None:
    def fill(rows: int) -> int:
        for k in range(KEPT):
            engine(*on_card(*inputs(rows, 4 + k % 29, 8 + k // 29)))
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    held = fill(1)
    assert fill(2) <= 3 * held
    assert len(engine._stations) == KEPT


def test_a_call_waits_for_nothing(engine: CardEngine) -> None:
    x = on_card(*inputs(2))
    engine(*x)
    torch.cuda.synchronize()
    with without_waiting():
        for _ in range(10):
            engine(*x)


def test_calls_return_before_the_card_is_done(engine: CardEngine) -> None:
    """A long product is queued first: were the call to wait, the event after it would have happened."""
    x = on_card(*inputs(2))
    engine(*x)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    torch.cuda.synchronize()
    for _ in range(20):
        a = (a @ a).clamp(-1, 1)
    engine(*x)
    done = torch.cuda.Event()
    done.record()
    assert not done.query()


def test_what_the_caller_queues_before_and_after_is_in_order(engine: CardEngine) -> None:
    """Inputs that a slow stream still fills, and outputs that are read and overwritten at once."""
    x = on_card(*inputs(2))
    right = engine(*x).clone()
    a = torch.randn(4096, 4096, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            late = torch.zeros_like(x[0])
            for _ in range(5):
                a = (a @ a).clamp(-1, 1)
            late.copy_(x[0])
            out = engine(late, *x[1:])
            late.fill_(99)  # after the engine has read it
            assert torch.equal(out, right)
            del out, late


def test_outputs_belong_to_the_caller(engine: CardEngine) -> None:
    x = on_card(*inputs(2))
    first = engine(*x)
    copy = first.clone()
    for k in range(10):
        engine(x[0] + k + 1, *x[1:])
    assert torch.equal(first, copy)


def test_other_threads_allocate_during_a_capture(engine: CardEngine) -> None:
    stop, errors = threading.Event(), []

    def allocate() -> None:
        held = []
        try:
            while not stop.is_set():
                held.append(torch.empty(32 * 2**20, dtype=torch.uint8, device="cuda"))  # so much asks the driver
                if len(held) == 64:
                    held.clear()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=allocate)
    thread.start()
    try:
        for h in range(4, 20):
            x = inputs(1, h, 8)
            assert error(engine(*on_card(*x)).cpu(), wanted(small(), *x)) < HALF
    finally:
        stop.set()
        thread.join()
    assert not errors


def test_threads_never_get_each_others_pictures(engine: CardEngine) -> None:
    wrong: list[int] = []

    def work(seed: int) -> Callable[[], None]:
        def run() -> None:
            x = (torch.full((2, 4, 8, 8), float(seed)), *inputs(2)[1:])
            right, given = wanted(small(), *x), on_card(*x)
            for _ in range(CALLS // 4):
                if error(engine(*given).cpu(), right) > HALF:
                    wrong.append(seed)

        return run

    threads = [threading.Thread(target=work(k)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_size_outside_is_refused_and_the_engine_goes_on(engine: CardEngine) -> None:
    if engine.backend == "torch":
        pytest.skip("torch runs any size")
    with pytest.raises(EngineError, match="got h 64, w 8"):
        engine(*on_card(*inputs(1, 64, 8)))
    assert error(engine(*on_card(*inputs(1))).cpu(), wanted(small(), *inputs(1))) < HALF


# ------------------------------------------------------------------------------------------------- the whole pipeline


def test_the_built_in_model_paints_what_the_processor_paints(choice: Choice, kept: Path) -> None:
    preset = spec("builtin")
    settings = preset.settings.changed(width=256, height=256, prompt="watercolor painting")
    here = replace(preset, settings=settings)
    frames = bench.frames_of(settings, 6)
    pictures = []
    for made in (choice, choose("torch", "cpu", "f32")):
        model = load(here, made, kept)
        assert model.notice == ""
        painter = Painter(model)
        session = painter.open(settings)
        pictures.append([p.frame.image.astype(int) for f in frames for p in painter.paint(session, [f])])
    ours, theirs = pictures
    assert len(ours) == len(theirs) > 0
    assert max(abs(a - b).mean() for a, b in zip(ours, theirs, strict=True)) < 2


def test_a_graph_is_faster_than_launching_one_by_one(card: torch.device) -> None:
    choice = Choice("torch", "cuda", "f16", "a test")
    unet = tiny.unet(32)
    x = (
        torch.randn(1, 4, 8, 8, device=card),
        torch.full((1,), 499.0, device=card),
        torch.randn(1, 16, 32, device=card),
    )
    engine = engine_of(networks.denoiser(unet, 16, None), choice)
    module: Any = engine._module  # type: ignore[attr-defined]

    @torch.inference_mode()
    def plain() -> torch.Tensor:
        return module(x[0], x[1], x[2].half())  # type: ignore[no-any-return]

    from tools.bench_gpu import seconds

    assert 2 * seconds(lambda: engine(*x), card) < seconds(plain, card)


def test_fps_of_the_built_in_model_is_told(choice: Choice, kept: Path) -> None:
    """No limit but that of a stream: 30 pictures a second at 512x512."""
    preset = spec("builtin")
    settings: Settings = preset.settings.changed(width=512, height=512)
    model = load(replace(preset, settings=settings), choice, kept)
    rig = bench.Rig(model, settings, bench.frames_of(settings, 30))
    fps = 100 / rig.run(100)
    print(f"\n{choice.backend} on {torch.cuda.get_device_name()}: {fps:.0f} fps")  # noqa: T201 (for whoever reads the run)
    assert fps > 30
