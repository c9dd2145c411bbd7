"""What earlier implementations of this method got wrong: twelve defects, each with a test that fails where it is back.

Numbers in brackets are issues of StreamDiffusion's repository.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from reference import Counted, Reference, gaussian, linear, point
from rig import ALPHAS, CPU, CURVE, T_INDEX, Rig, arrivals, assert_same, entries, latent, plain, rig
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import engines
from engines import Choice, Network, Port
from engines.cache import LOCK, Cache, network_key
from stream.denoise import Entry, Steering, StreamBatch
from stream.errors import SettingsError
from stream.frame import Frame
from stream.guidance import Guidance, Prediction
from stream.pipeline import Painted, Painter, Session
from stream.prompt import Prompter, Text
from stream.settings import Settings
from stream.similarity import SimilarityFilter

SIDE = 64
QUIET: dict[str, Any] = {"strength": 0.05, "width": SIDE, "height": SIDE}  # so little noise that colours survive
STEPS = {n: tuple(range(50 - n, 50)) for n in (1, 2, 3, 4)}


class FakeModel:
    """A model of no weights: latents are the picture at an eighth of its size, and the denoiser finds no noise.

    A prompt brightens the picture by its length. `calls` are the names of the stages that ran, with their rows.
    """

    curve, factor, latent_channels, device = CURVE, 8, 4, CPU
    prediction: Prediction = "epsilon"

    def __init__(self) -> None:
        self.prompter = Prompter(self.words)
        self.calls: list[tuple[str, int]] = []

    def words(self, text: str, width: int, height: int) -> Text:
        self.calls.append(("text", 1))
        return Text(torch.full((1, 2, 3), float(len(text))))

    def encode(self, images: Tensor) -> Tensor:
        self.calls.append(("encode", len(images)))
        small = (images[:, ::8, ::8].permute(0, 3, 1, 2).float() - 127.5) / 8
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def denoise(self, latents: Tensor, t: Tensor, text: Text) -> Tensor:
        self.calls.append(("denoise", len(latents)))
        return (-text.tokens.mean((1, 2)) / 4).view(-1, 1, 1, 1).expand_as(latents)

    def decode(self, latents: Tensor) -> Tensor:
        self.calls.append(("decode", len(latents)))
        small = (latents[:, :3] * 8 + 127.5).round().clamp(0, 255).to(torch.uint8)
        return small.repeat_interleave(8, 2).repeat_interleave(8, 3).permute(0, 2, 3, 1).contiguous()

    def check_size(self, width: int, height: int) -> None:
        if width % 64 or height % 64:
            raise SettingsError(f"{width}x{height} is not made of 64s")

    def prepare(self, width: int, height: int) -> None:
        self.calls.append(("prepare", 1))

    def rows(self, stage: str) -> list[int]:
        return [rows for name, rows in self.calls if name == stage]


def painter() -> tuple[Painter, FakeModel]:
    model = FakeModel()
    return Painter(model), model


def flat(value: int, pts: int = 0) -> Frame:
    return Frame(np.full((SIDE, SIDE, 3), value, np.uint8), pts)


def texture(pts: int) -> Frame:
    return Frame(np.random.default_rng(pts).integers(0, 255, (SIDE, SIDE, 3), np.uint8), pts)


def grey(painted: Painted) -> float:
    return float(painted.frame.image.mean())


# 1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_1_the_first_outputs_are_no_noise_and_every_output_is_its_own_frames(n: int) -> None:
    """[#13, #65] The first n-1 outputs were brown noise, and pictures were taken for those of other frames."""
    paints, _ = painter()
    session = paints.open(Settings.checked(**QUIET, t_index=STEPS[n]))
    levels = [200, 40, 120, 220, 60, 90, 180]
    out = [p for k, level in enumerate(levels) for p in paints.paint(session, [flat(level, pts=k)])]
    assert session.delay == n - 1
    assert [p.primed for p in out] == [True] * (n - 1) + [False] * (len(levels) - n + 1)
    out += paints.flush(session)
    assert [p.frame.pts for p in out] == [0] * (n - 1) + list(range(len(levels)))
    for p in out:
        assert grey(p) == pytest.approx(levels[p.frame.pts], abs=4)
        assert p.frame.image.std() < 8


# 2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", get_args(Guidance))
@pytest.mark.parametrize("frames", [2, 3])
def test_2_frames_of_one_tick_are_each_what_they_are_alone(frames: int, guidance: Guidance) -> None:
    """With F > 1 the boundary's weights had the wrong shape, one frame came out, and noise shifted by one row."""
    now = rig(T_INDEX[4], guidance=guidance)
    together = StreamBatch(Counted(linear))
    alone = [StreamBatch(Counted(linear)) for _ in range(frames)]
    for k in range(6):
        tick = entries(range(k * frames, (k + 1) * frames))
        left = together.tick({0: (now.steering, tick)})[0]
        assert len(left) == frames
        for batch, entry, found in zip(alone, tick, left, strict=True):
            (expected,) = batch.tick({0: (now.steering, [entry])})[0]
            assert (found.tag, found.primed) == (expected.tag, expected.primed)
            torch.testing.assert_close(found.latent, expected.latent, atol=1e-5, rtol=1e-5)


# 3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", ["full", "initialize"])
@pytest.mark.parametrize("change", [{"words": -0.8}, {"negative": 0.9}, {"scale": 3.0}])
def test_3_prompts_and_scale_change_under_guidance(guidance: Guidance, change: dict[str, float]) -> None:
    """[#52, #158] A new prompt crashed `full` and `initialize`, and a new negative prompt was not heard of."""
    before, after = rig(T_INDEX[3], guidance=guidance), rig(T_INDEX[3], guidance=guidance, **change)  # type: ignore[arg-type]
    changed, unchanged, always = (StreamBatch(Counted(linear)) for _ in range(3))

    def tick(batch: StreamBatch, now: Rig, k: int) -> Tensor:
        (left,) = batch.tick({0: (now.steering, entries([k]))})[0]
        return left.latent

    for k in range(8):
        found = tick(changed, before if k < 4 else after, k)
        old, new = tick(unchanged, before, k), tick(always, after, k)
        torch.testing.assert_close(found, old if k < 6 else new, atol=1e-5, rtol=1e-5)
        assert k < 2 or not torch.allclose(old, new, atol=1e-3)  # early copies need not know the negative prompt


# 4 ---------------------------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """A network as small as they come, with a row's timestep in it."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.gain = gain

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x)) * self.gain + t.view(-1, 1, 1, 1) / 1000

    def extra_repr(self) -> str:
        return f"gain={self.gain}"


def tiny(module: nn.Module | None = None, output: str = "out") -> Network:
    inputs = (Port("x", ("rows", 4, "h", "w")), Port("t", ("rows",), exact=True))
    made = Port(output, ("rows", 4, "h", "w"))
    return Network("tiny", (module or Tiny()).eval(), inputs, made, {"rows": 1, "h": 8, "w": 8})


BACKENDS = [n for n in engines.BACKENDS if (b := engines.backend(n)).missing() is None and "cpu" in b.devices()]


def on(backend: str) -> Choice:
    return Choice(backend, "cpu", "f32", "a test")


@torch.inference_mode()
def expected_of(module: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    return cast(Tensor, module(x, t))


@pytest.mark.parametrize("backend", BACKENDS)
def test_4_an_engine_runs_every_size_and_number_of_rows(backend: str, tmp_path: Path) -> None:
    """[#149, #150, #152, #168] Engines were always of 512x512."""
    network = tiny()
    engine = engines.engine_of(network, on(backend), tmp_path)
    engine.prepare(rows=1, h=8, w=8)
    for rows, h, w in [(1, 8, 8), (3, 8, 8), (1, 16, 24), (2, 24, 16), (5, 8, 8), (1, 8, 16)]:
        x, t = torch.randn(rows, 4, h, w), torch.arange(rows) * 100.0 + 99
        out = engine(x, t)
        assert out.shape == x.shape
        torch.testing.assert_close(out, expected_of(network.module, x, t), atol=1e-4, rtol=1e-4)


def test_4_a_cached_engine_is_known_by_all_that_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key left out LoRAs, sizes, GPU and version, so that an engine of something else was used."""
    base = network_key(tiny(), "openvino 1")
    assert network_key(tiny(), "openvino 1") == base
    merged = Tiny()
    with torch.no_grad():
        merged.conv.weight[0, 0, 0, 0] += 1e-6  # a LoRA of hardly any strength
    half = Tiny().half()
    others = [network_key(tiny(merged), "openvino 1"), network_key(tiny(half), "openvino 1"),
              network_key(tiny(Tiny(gain=2.0)), "openvino 1"), network_key(tiny(output="eps"), "openvino 1"),
              network_key(tiny(), "openvino 2")]  # fmt: skip
    monkeypatch.setattr("engines.cache.version", lambda package: "another")
    others.append(network_key(tiny(), "openvino 1"))
    assert len({base, *others}) == 1 + len(others)


@pytest.mark.parametrize("backend", BACKENDS)
def test_4_an_engine_follows_its_weights_through_the_cache(backend: str, tmp_path: Path) -> None:
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([499.0])
    for gain in (1.0, 3.0, 1.0):
        module = Tiny()
        with torch.no_grad():
            module.conv.weight *= gain
        expected = expected_of(module, x, t)
        found = engines.engine_of(tiny(module), on(backend), tmp_path)(x, t)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_4_what_is_cached_is_made_once_and_again_when_damaged(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "graph").write_bytes(b"good")

    cache = Cache(tmp_path)
    assert (cache.fetch("key", make) / "graph").read_bytes() == b"good"
    assert cache.fetch("key", make) == tmp_path / "key"
    assert len(made) == 1
    (tmp_path / "key" / "graph").write_bytes(b"bad!")
    assert (cache.fetch("key", make) / "graph").read_bytes() == b"good"
    assert len(made) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [LOCK, "key", "key.damaged"]


def test_4_nothing_half_made_stays_in_the_cache(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "graph").write_bytes(b"half")
        raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="pulled the plug"):
        Cache(tmp_path).fetch("key", make)
    assert [p.name for p in tmp_path.iterdir()] == [LOCK]


# 5 and 6 ---------------------------------------------------------------------------------------------------------

ASKING = {"item", "tolist", "cpu", "numpy", "nonzero", "synchronize", "__bool__", "__float__", "__int__", "__index__"}
MAKING = {"tensor", "zeros", "ones", "full", "arange", "randn", "rand", "stack", "zeros_like", "randn_like"}


class Watch(TorchFunctionMode):
    """Names of all torch functions called within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names of all torch kernels run within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def busy() -> Iterator[dict[Hashable, tuple[Steering, Sequence[Entry]]]]:
    """Ticks of four streams, one for each guidance."""
    streams = {g: rig(T_INDEX[3], guidance=g, seed=k) for k, g in enumerate(get_args(Guidance))}
    for k in itertools.count():
        yield {g: (now.steering, entries([k])) for g, now in streams.items()}


def halved(x: Tensor, t: Tensor, text: Text) -> Tensor:
    return 0.5 * x


def test_5_a_steady_stream_makes_no_constants_and_its_work_stays_the_same() -> None:
    """Buffers were allocated on every inference."""
    batch, ticks = StreamBatch(halved), busy()
    seen: list[tuple[list[str], list[str]]] = []
    for tick in itertools.islice(ticks, 8):
        with Watch() as watch, Kernels() as kernels:
            batch.tick(tick)
        assert "aten.lift_fresh.default" in kernels.names or len(seen) > 0  # the first tick makes them all
        seen.append((watch.names, kernels.names))
    for names, kernels_run in seen[1:]:
        assert not set(names) & MAKING
        assert "aten.lift_fresh.default" not in kernels_run  # numbers to a tensor
        assert names == seen[1][0]


def test_5_steady_compositions_are_remembered_though_a_stream_skips_ticks() -> None:
    batch, ticks = StreamBatch(halved), busy()
    for k, tick in enumerate(itertools.islice(ticks, 24)):
        skipping = {s: e for s, e in tick.items() if k % 2 or s != "self"}
        with Kernels() as kernels:
            batch.tick(skipping)
        assert k < 12 or "aten.lift_fresh.default" not in kernels.names


def test_5_remembered_compositions_are_bounded_though_settings_change_at_every_tick() -> None:
    batch = StreamBatch(halved)
    for k in range(200):
        batch.tick({0: (rig(T_INDEX[2], seed=k).steering, entries([k]))})
    kept = [x for x in vars(batch).values() if isinstance(x, dict)]
    assert max(len(x) for x in kept) <= 64


def test_5_a_new_steering_is_never_taken_for_one_that_is_gone() -> None:
    """What a composition is remembered by must not be an address that something else has now."""
    batch, reference = StreamBatch(Counted(linear)), Reference(linear, "epsilon")
    for k in range(120):
        now = rig((k % 40, 41 + k % 5), words=k / 100, seed=k % 3)
        assert_same(batch.tick({0: (now.steering, entries([k]))})[0], reference.tick(now.setup, arrivals(entries([k]))),
                    within=1e-4)  # fmt: skip
        del now


@pytest.mark.parametrize("backend", BACKENDS)
def test_5_an_engine_reads_what_it_is_given_and_not_where_it_was_given_before(backend: str, tmp_path: Path) -> None:
    """A captured graph was replayed on addresses that had gone stale."""
    network = tiny()
    engine = engines.engine_of(network, on(backend), tmp_path)
    shared, t = torch.zeros(2, 4, 8, 8), torch.tensor([9.0, 99.0])
    for k in range(4):
        shared.copy_(torch.full_like(shared, float(k)))
        fresh = torch.randn(2, 8, 8, 4).permute(0, 3, 1, 2)  # not contiguous, at another address every time
        for x in (shared, fresh, fresh[:1].expand(2, -1, -1, -1)):
            torch.testing.assert_close(engine(x, t), expected_of(network.module, x, t), atol=1e-4, rtol=1e-4)


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError("the hot path waits")


def test_6_a_tick_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device-wide synchronize, a `.item()` and a `sleep` were in the hot path."""
    monkeypatch.setattr(time, "sleep", never)
    monkeypatch.setattr(torch.cuda, "synchronize", never)
    batch = StreamBatch(halved)
    for tick in itertools.islice(busy(), 6):
        with Watch() as watch, Kernels() as kernels:
            batch.tick(tick)
        assert not set(watch.names) & ASKING
        assert not {k for k in kernels.names if "_local_scalar_dense" in k or "nonzero" in k or "is_nonzero" in k}


def test_6_the_whole_path_asks_the_device_once_for_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", never)
    monkeypatch.setattr(torch.cuda, "synchronize", never)
    paints, _ = painter()
    session = paints.open(Settings.checked(**QUIET, t_index=STEPS[2], guidance="self", guidance_scale=1.2))
    for k in range(5):
        with Watch() as watch:
            paints.paint(session, [flat(100, k)])
        assert sorted(set(watch.names) & (ASKING - {"numpy"})) in ([], ["cpu"])
        assert watch.names.count("cpu") <= 1


# 7 ---------------------------------------------------------------------------------------------------------------


def test_7_an_output_is_its_callers_own() -> None:
    """Output tensors were aliased, and the next frame was written over them."""
    batch, kept = StreamBatch(halved), []
    for tick in itertools.islice(busy(), 6):
        kept += [(x.latent, x.latent.clone()) for out in batch.tick(tick).values() for x in out]
    assert all(torch.equal(latent, copy) for latent, copy in kept)


def test_7_writing_into_an_output_or_an_input_changes_nothing_to_come() -> None:
    left_alone, spoilt = StreamBatch(halved), StreamBatch(halved)
    for one, two in itertools.islice(zip(busy(), busy(), strict=True), 6):
        expected, found = left_alone.tick(one), spoilt.tick(two)
        for stream, out in found.items():
            for a, b in zip(expected[stream], out, strict=True):
                assert torch.equal(a.latent, b.latent)
        with torch.inference_mode():
            for tensor in [x.latent for out in found.values() for x in out] + [
                e.latent for _, entering in two.values() for e in entering if e.latent is not None
            ]:
                tensor.fill_(1e6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_7_an_engines_output_is_its_callers_own(backend: str, tmp_path: Path) -> None:
    engine = engines.engine_of(tiny(), on(backend), tmp_path)
    kept = []
    for k in range(6):
        rows = 1 + k % 3
        out = engine(torch.full((rows, 4, 8, 8), float(k)), torch.full((rows,), 9.0))
        kept.append((out, out.clone()))
    assert all(torch.equal(out, copy) for out, copy in kept)


def test_7_pictures_and_camera_buffers_are_nobody_elses() -> None:
    paints, _ = painter()
    session = paints.open(Settings.checked(**QUIET, t_index=STEPS[3]))
    buffer, kept = np.zeros((SIDE, SIDE, 3), np.uint8), []
    for k in range(8):
        buffer[:] = 20 * k + 40  # the camera writes every frame into the same memory
        kept += [(p, p.frame.image.copy()) for p in paints.paint(session, [Frame(buffer, k)])]
    kept += [(p, p.frame.image.copy()) for p in paints.flush(session)]
    for painted, copy in kept:
        assert np.array_equal(painted.frame.image, copy)
        assert grey(painted) == pytest.approx(20 * painted.frame.pts + 40, abs=4)


# 8 ---------------------------------------------------------------------------------------------------------------


def test_8_sessions_never_see_each_others_frames() -> None:
    """[#156] With one global pipeline, browser tabs were shown each other's cameras."""
    paints, model = painter()
    rng = random.Random(8)
    levels = {30: 1, 90: 3, 150: 2, 210: 4}
    sessions = {paints.open(Settings.checked(**QUIET, t_index=STEPS[n], seed=v)): v for v, n in levels.items()}
    pts = itertools.count()
    entered: dict[Session, list[int]] = {s: [] for s in sessions}
    painted: dict[Session, list[int]] = {s: [] for s in sessions}

    def take(out: dict[Session, list[Painted]]) -> None:
        for session, pictures in out.items():
            for p in pictures:
                assert grey(p) == pytest.approx(sessions[session], abs=4)
            painted[session] += [p.frame.pts for p in pictures if not p.primed]

    for _ in range(60):
        model.calls.clear()
        tick = {s: [flat(v, next(pts))] for s, v in sessions.items() if rng.random() < 0.6}
        for session, frames in tick.items():
            entered[session] += [f.pts for f in frames]
        take(paints.tick(tick))
        assert [len(model.rows(stage)) for stage in ("encode", "denoise", "decode")] == [bool(tick)] * 3
    for session in sessions:
        take({session: paints.flush(session)})
    assert painted == entered


def test_8_lag_does_not_grow() -> None:
    """An unbounded queue only ever grew."""
    paints, _ = painter()
    session = paints.open(Settings.checked(**QUIET, t_index=STEPS[3]))
    for k in range(120):
        (p,) = paints.paint(session, [flat(80, k)])
        assert p.frame.pts == max(k - session.delay, 0)


# 9 ---------------------------------------------------------------------------------------------------------------


def test_9_a_new_seed_keeps_the_residual_noise() -> None:
    """Blending seeds zeroed the residual, which flickered: the unconditional prediction was 0 for some frames."""
    before, after = rig(T_INDEX[3], guidance="self", scale=2.0), rig(T_INDEX[3], seed=7, guidance="self", scale=2.0)
    zeroed = rig(T_INDEX[3], seed=7, guidance="self", scale=2.0, delta=0.0)
    batch, reference, old = StreamBatch(Counted(linear)), Reference(linear, "epsilon"), StreamBatch(Counted(linear))
    for k in range(9):
        now = before if k < 4 else after
        left = batch.tick({0: (now.steering, entries([k]))})[0]
        assert_same(left, reference.tick(now.setup, arrivals(entries([k]))))
        (without,) = old.tick({0: ((before if k < 4 else zeroed).steering, entries([k]))})[0]
        assert k < 6 or not torch.allclose(left[0].latent, without.latent, atol=1e-2)


def test_9_a_new_prompt_keeps_the_seeds_noise() -> None:
    """A prompt change drew the noise anew, so the picture jumped."""
    paints, _ = painter()
    settings = Settings.checked(**QUIET, seed=3, t_index=STEPS[2], guidance="self", guidance_scale=1.5)
    session = paints.open(settings)
    noise = session.steering.noise.clone()
    for change in ({"prompt": "oil"}, {"negative_prompt": "x"}, {"guidance": "full"}, {"t_index": STEPS[4]}):
        session.apply(session.settings.changed(**change))
        assert torch.equal(session.steering.noise[:2], noise)
    session.apply(session.settings.changed(seed=4))
    assert not torch.allclose(session.steering.noise[:2], noise)
    session.apply(settings)
    assert torch.equal(session.steering.noise, noise)


def test_9_a_prompt_that_comes_back_brings_its_picture_back() -> None:
    paints, _ = painter()
    session = paints.open(Settings.checked(**QUIET, t_index=STEPS[2]))
    pictures = []
    for prompt in ("", "a longer prompt", ""):
        session.apply(session.settings.changed(prompt=prompt))
        for k in range(4):
            *_, last = paints.paint(session, [flat(100, k)])
        pictures.append(last.frame.image)
    assert np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])


# 10 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", get_args(Guidance))
def test_10_every_kind_of_prediction_paints_the_same_picture(guidance: Guidance) -> None:
    """Checkpoints that predict v were taken for such that predict noise, and nobody was told."""
    batches = {k: StreamBatch(Counted(gaussian(ALPHAS, k, 0.6)), k) for k in get_args(Prediction)}
    now = rig(T_INDEX[3], guidance=guidance)
    for k in range(5):
        left = {kind: b.tick({0: (now.steering, entries([k]))})[0][0].latent for kind, b in batches.items()}
        torch.testing.assert_close(left["v_prediction"], left["epsilon"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(left["sample"], left["epsilon"], atol=1e-4, rtol=1e-4)


def test_10_a_v_model_finds_its_point() -> None:
    target = latent(9)
    predict = point(ALPHAS, "v_prediction", plain(target))
    entering: dict[Hashable, tuple[Steering, Sequence[Entry]]] = {0: (rig((16,)).steering, entries([0]))}
    (right,) = StreamBatch(Counted(predict), "v_prediction").tick(entering)[0]
    (wrong,) = StreamBatch(Counted(predict), "epsilon").tick(entering)[0]
    torch.testing.assert_close(right.latent, target, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(wrong.latent, target, atol=0.5)


@pytest.mark.parametrize("kind", get_args(Prediction))
def test_10_the_kind_is_read_from_the_models_own_scheduler(kind: Prediction) -> None:
    from diffusers import DDIMScheduler

    from stream.config import ModelSpec
    from stream.models import noise_of

    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler: Any = DDIMScheduler(prediction_type=kind, **betas)
    curve, found = noise_of(SimpleNamespace(config=scheduler.config), ModelSpec("it", "it"))
    assert found == kind
    torch.testing.assert_close(curve.alphas_cumprod, CURVE.alphas_cumprod)


# 11 --------------------------------------------------------------------------------------------------------------

ANOTHER: dict[str, Any] = {
    "prompt": "neon", "negative_prompt": "blurred", "strength": 0.06, "steps": 3, "t_index": (45, 46), "seed": 5,
    "guidance": "full", "guidance_scale": 3.0, "delta": 0.5, "add_noise": False, "mode": "text", "drift": 0.3,
    "similarity": True, "similarity_threshold": 0.5, "max_skip": 3, "width": 128, "height": 128, "fit": "pad",
}  # fmt: skip


def test_every_setting_is_changed_in_these_tests() -> None:
    assert set(ANOTHER) == set(Settings.model_fields)


@pytest.mark.parametrize("field", sorted(set(ANOTHER) - {"steps", "t_index", "width", "height", "guidance"}))
def test_11_a_change_runs_nothing_twice_and_leaves_no_gap(field: str) -> None:
    """Any change ran the warm-up again, and the picture stuttered."""
    paints, model = painter()
    session = paints.open(Settings.checked(**QUIET, steps=2, guidance="self", guidance_scale=1.5))
    tags = []
    for k in range(10):
        if k == 5:
            session.apply(session.settings.changed(**{field: ANOTHER[field]}))
        model.calls.clear()
        out = paints.paint(session, [texture(k)])  # no two alike: the filter has nothing to skip
        assert len(out) == 1
        assert model.rows("denoise") == [2]
        assert (model.rows("encode"), model.rows("prepare")) == ([1] if session.settings.mode == "image" else [], [])
        tags += [p.frame.pts for p in out if not p.primed]
    assert tags == list(range(9))


RESHAPING = [{"steps": 1}, {"steps": 4}, {"t_index": (40, 45)}, {"width": 128}, {"height": 128},
             {"guidance": "full"}, {"guidance": "initialize"}, {"guidance": "none"}]  # fmt: skip


@pytest.mark.parametrize("change", RESHAPING)
def test_11_a_change_of_shape_leaves_no_gap_either(change: dict[str, Any]) -> None:
    paints, model = painter()
    session = paints.open(Settings.checked(**QUIET, steps=2, guidance="self", guidance_scale=1.5))
    tags = []
    for k in range(10):
        if k == 5:
            session.apply(session.settings.changed(**change))
        model.calls.clear()
        out = paints.paint(session, [flat(100, k)])
        assert out
        assert len(model.rows("denoise")) <= 2  # one a size
        assert sum(model.rows("denoise")) <= 2 * max(2, session.delay + 1)
        tags += [p.frame.pts for p in out if not p.primed]
    tags += [p.frame.pts for p in paints.flush(session)]
    assert tags == list(range(10))


def test_11_settings_that_the_model_cannot_follow_change_nothing() -> None:
    paints, _ = painter()
    session = paints.open(Settings.checked(**QUIET))
    kept = session.settings, session.steering
    with pytest.raises(SettingsError):
        session.apply(session.settings.changed(width=72))
    assert (session.settings, session.steering) == kept


# 12 --------------------------------------------------------------------------------------------------------------


class Always(random.Random):
    """Chance that always falls on skipping."""

    def random(self) -> float:
        return 0.0


def test_12_skips_are_counted_in_a_row_and_start_again() -> None:
    """The count was never reset: after `max_skip` skips the filter was stuck, one way or the other."""
    still, skips = SimilarityFilter(Always()), flat(100).image
    pattern = [still.skips(skips, 0.98, 4) for _ in range(21)]
    assert pattern == ([False] + [True] * 4) * 4 + [False]


def test_12_a_frame_that_passes_starts_the_count_again() -> None:
    watch, grey_one = SimilarityFilter(Always()), flat(100).image
    other = texture(0).image
    pattern = [watch.skips(image, 0.98, 3) for image in [grey_one] * 3 + [other] * 5]
    assert pattern == [False, True, True, False, True, True, True, False]


@pytest.mark.parametrize("field", sorted(ANOTHER))
def test_12_any_change_is_seen_in_the_next_frame_of_a_still_scene(field: str) -> None:
    """While the filter skipped, a new prompt was invisible."""
    paints, model = painter()
    session = paints.open(Settings.checked(**QUIET, similarity=field != "similarity", max_skip=1000))
    session.filter = SimilarityFilter(Always())
    for k in range(5):
        paints.paint(session, [flat(100, k)])
    assert len(model.rows("denoise")) == (1 if field != "similarity" else 5)
    model.calls.clear()
    session.apply(session.settings.changed(**{field: ANOTHER[field]}))
    paints.paint(session, [flat(100, 5)])
    assert len(model.rows("denoise")) == 1


def test_12_a_skip_costs_nothing_and_shows_the_last_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", never)
    paints, model = painter()
    session = paints.open(Settings.checked(**QUIET, similarity=True))
    session.filter = SimilarityFilter(Always())
    (first,) = paints.paint(session, [flat(100, 0)])
    model.calls.clear()
    with Watch() as watch:
        (again,) = paints.paint(session, [flat(100, 1)])
    assert (model.calls, watch.names) == ([], [])
    assert (again.repeated, again.frame.pts) == (True, 1)
    assert np.array_equal(again.frame.image, first.frame.image)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_12_skipped_frames_keep_their_place_behind_those_in_flight(n: int) -> None:
    paints, _ = painter()
    session = paints.open(Settings.checked(**QUIET, t_index=STEPS[n], similarity=True, max_skip=3))
    session.filter = SimilarityFilter(Always())
    out = [p for k in range(30) for p in paints.paint(session, [flat(100, k)])]
    out += paints.flush(session)
    assert [p.frame.pts for p in out if not p.primed] == list(range(30))
    assert sum(p.repeated for p in out) == 30 - 8
