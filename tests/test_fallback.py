"""Never half converted: each step of TensorRT that fails leaves torch running all of the model, and says why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from fake_tensorrt import FakeCard, FakeLibrary
from test_engines import small
from waiting import run
from webrig import Room, served
from workers import Ear, fed, painted, working

from engines import Choice, EngineError, Network, choose, tensorrt
from stream import fallback, models, worker
from stream.config import spec
from stream.doctor import examine
from stream.fakes import EchoModel
from stream.messages import Chosen, Loading
from stream.settings import Settings
from stream.supervisor import Fake, Plan, Supervisor

ASKED = Choice("tensorrt", "cuda", "f32", "asked for")
PROFILE = {"rows": (1, 1, 4), "H": (32, 64, 256), "W": (32, 64, 256), "h": (4, 8, 32), "w": (4, 8, 32)}
SIZE = Settings(width=64, height=64)
NETWORKS = ["encoder", "denoiser", "decoder"]


class Machine:
    """A machine with a fake card and a fake TensorRT, on which one step may fail with one network."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.profile = folder, PROFILE
        self.made: list[str] = []
        self.libraries: list[FakeLibrary] = []
        self.breaks: dict[str, Callable[[Path, FakeLibrary], Any]] = {}
        monkeypatch.setattr(tensorrt, "CudaCard", lambda device: self.libraries[-1].card)
        monkeypatch.setattr(
            tensorrt, "import_module", lambda name: self.libraries[-1] if self.libraries else import_module(name)
        )
        monkeypatch.setattr(tensorrt, "made", self._made)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
        monkeypatch.setattr("stream.models.TextEncoder", self._text)

    @staticmethod
    def _text(pipeline: Any, device: torch.device, dtype: torch.dtype) -> Any:
        from stream.text import TextEncoder

        return TextEncoder(pipeline, torch.device("cpu"), torch.float32)

    def _made(self, network: Network, choice: Choice, capability: tuple[int, int], cache: Path | None,
              tell: Any = None) -> Path:  # fmt: skip
        library = FakeLibrary(FakeCard())
        self.libraries.append(library)
        self.made.append(network.name)
        plan = library.plan(self.folder / f"{network.name}.plan", network, self.profile)
        if network.name in self.breaks:
            self.breaks[network.name](plan, library)
        return plan

    def load(self, settings: Settings = SIZE) -> models.Model:
        return models.load(replace(spec(str(self.folder / "sd15")), settings=settings), ASKED, self.folder / "cache")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    tiny.save("sd15", tmp_path / "sd15")
    return Machine(tmp_path, monkeypatch)


def refused(plan: Path, library: FakeLibrary) -> None:
    raise EngineError("tensorrt could not build the engine: no space\nuse --engine torch, which needs no build")


def surprised(plan: Path, library: FakeLibrary) -> None:
    raise ZeroDivisionError("in somebody else's builder")


def corrupt(plan: Path, library: FakeLibrary) -> None:
    plan.write_bytes(plan.read_bytes()[:100])


def foreign(plan: Path, library: FakeLibrary) -> None:
    plan.write_text(plan.read_text().replace('"names": ["', '"names": ["another_'))


def gone(plan: Path, library: FakeLibrary) -> None:
    plan.unlink()


def crashing(plan: Path, library: FakeLibrary) -> None:
    library.fails = "Cuda Runtime (an illegal memory access was encountered)"


def full(plan: Path, library: FakeLibrary) -> None:
    def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    library.card.empty = empty  # type: ignore[method-assign]


def missing(plan: Path, library: FakeLibrary) -> None:
    raise ImportError("libnvinfer.so.10: cannot open shared object file")


STEPS = [
    (refused, "tensorrt could not build the engine: no space; use --engine torch, which needs no build"),
    (surprised, "ZeroDivisionError: in somebody else's builder"),
    (corrupt, "tensorrt cannot read the {0}'s engine {1}: Serialization assertion failed: magic tag does not match"),
    (foreign, "expected "),
    (gone, "cannot be read: No such file or directory"),
    (crashing, "tensorrt cannot run the {0}: Cuda Runtime (an illegal memory access was encountered)"),
    (full, "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"),
    (missing, "ImportError: libnvinfer.so.10: cannot open shared object file"),
]


def test_where_nothing_fails_tensorrt_runs_every_network(machine: Machine) -> None:
    fallback.remember(fallback.Failure("then", "sd15", "tensorrt", "an old trouble"), machine.folder / "cache")
    model = machine.load()
    assert [e.backend for e in model.engines.values()] == ["tensorrt"] * 3
    assert (model.choice, model.notice) == (ASKED, "")
    assert fallback.last_failure(machine.folder / "cache") is None


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("step", "why"), STEPS, ids=[s.__name__ for s, _ in STEPS])
def test_each_failing_step_leaves_torch_running_all_of_it(
    machine: Machine, caplog: pytest.LogCaptureFixture, step: Callable[[Path, FakeLibrary], Any], why: str, network: str
) -> None:
    machine.breaks[network] = step
    model = machine.load()
    assert [e.backend for e in model.engines.values()] == ["torch"] * 3
    assert {e.device for e in model.engines.values()} == {torch.device("cpu")}
    assert model.choice.backend == "torch"
    assert model.notice.startswith("tensorrt failed, so torch runs the model: ")
    assert why.format(network, machine.folder / f"{network}.plan") in model.notice
    assert "\n" not in model.notice
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [model.notice]


def test_the_pictures_are_torchs_own(machine: Machine) -> None:
    machine.breaks["decoder"] = crashing
    ours = machine.load()
    plain = models.load(ours.spec, Choice("torch", "cpu", "f32", ""))
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(ours.decode(ours.encode(images)), plain.decode(plain.encode(images)))


def test_a_size_that_the_engines_do_not_run_is_a_failure_of_theirs(machine: Machine) -> None:
    model = machine.load(SIZE.changed(width=512, height=320))
    assert "the encoder's engine runs H 32 to 256, W 32 to 256, got H 320, W 512" in model.notice
    model.prepare(512, 320)


def test_what_torch_cannot_load_either_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.breaks["encoder"] = crashing

    def build(network: Network, choice: Choice, cache: Path | None, tell: Any) -> Any:
        raise EngineError("torch has none of it either")

    monkeypatch.setattr("engines.torch.build", build)
    with pytest.raises(EngineError, match="torch has none"):
        machine.load()


def test_other_back_ends_do_not_fall_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save("sd15", tmp_path / "sd15")

    def build(network: Network, choice: Choice, cache: Path | None, tell: Any) -> Any:
        raise EngineError("OpenVINO cannot convert it")

    monkeypatch.setattr("engines.openvino.build", build)
    with pytest.raises(EngineError, match="cannot convert"):
        models.load(spec(str(tmp_path / "sd15")), Choice("openvino", "cpu", "f32", ""))


def test_a_missing_library_is_told_by_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("a card is there: choose may find all that is needed")
    tiny.save("sd15", tmp_path / "sd15")
    model = models.load(spec(str(tmp_path / "sd15")), choose("tensorrt", precision="f16"))
    assert model.choice.backend != "tensorrt"
    assert model.notice.startswith("engine tensorrt cannot be used here: ")
    assert model.notice in [r.message for r in caplog.records]


# ------------------------------------------------------------------------------------------------ the doctor


def findings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(folder))
    return {f.name: f for f in examine()}


def test_the_doctor_tells_of_the_last_failure_until_it_is_mended(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = machine.folder / "cache"
    assert "last fallback" not in findings(cache, monkeypatch)
    machine.breaks["denoiser"] = corrupt
    notice = machine.load().notice
    found = findings(cache, monkeypatch)["last fallback"]
    assert not found.here
    assert notice in found.text
    assert "sd15" in found.text
    machine.breaks.clear()
    machine.load()
    assert "last fallback" not in findings(cache, monkeypatch)


def test_the_doctor_says_what_each_back_end_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a card is there")
    for name in ("tensorrt", "tensorrt-rtx"):
        found = findings(tmp_path, monkeypatch)[f"engine {name}"]
        assert not found.here
        assert any(todo in found.text for todo in ("pip install", "install a CUDA build", "nvidia-smi"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"at": "then"}'])
def test_a_damaged_note_is_no_note(tmp_path: Path, content: str) -> None:
    (tmp_path / fallback.LAST).write_text(content)
    assert fallback.last_failure(tmp_path) is None


def test_a_cache_that_cannot_be_written_stops_nothing(machine: Machine) -> None:
    (machine.folder / "cache").write_text("a file")
    machine.breaks["denoiser"] = corrupt
    assert machine.load().choice.backend == "torch"


# ------------------------------------------------------------------------------------------- worker and page

NOTICE = "tensorrt failed, so torch runs the model: no space"


def test_the_notice_goes_from_the_worker_to_the_servers_facts() -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake(), notice=NOTICE)) as supervisor:
            assert (supervisor.facts.notice, supervisor.notice) == (NOTICE, "")

    run(test())


def test_the_notice_stands_on_the_page_while_nothing_presses_more() -> None:
    async def test() -> None:
        room = Room()
        room.worker.know(notice=NOTICE)
        assert room.worker.state != "ready"
        room.worker.start()
        session, link, stream = await room.enter()
        stream.listener.applied(stream.settings, None)
        assert (session.state, session.remark) == ("painting", NOTICE)
        assert link.of("state")[-1]["notice"] == NOTICE
        stream.listener.notice("memory ran out at 512x512: 384x384 instead")
        assert session.remark == "memory ran out at 512x512: 384x384 instead"
        room.worker.become("restarting", "the painter stopped: starting it again")
        assert session.remark == "the painter stopped: starting it again"
        await room.sessions.close_all("done")

    run(test())


def test_health_tells_it_too() -> None:
    with served() as server:
        assert server.http.get("/healthz").json()["notice"] == ""
        server.call(lambda: server.worker.know(notice=NOTICE))
        assert server.http.get("/healthz").json()["notice"] == NOTICE


def test_tensorrt_that_fails_while_it_paints_gives_way_to_torch(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake(backend="tensorrt"))) as supervisor:
            ear = Ear()
            stream = supervisor.open(SIZE, ear)
            await painted(stream, ear)
            for _ in range(3):
                supervisor.fault("raise")
            await fed(stream, lambda: supervisor.restarts == 1 and supervisor.state == "ready")
            await painted(stream, ear)
            assert supervisor.plan.engine == "torch"
            assert supervisor.facts.notice == "tensorrt failed, so torch runs the model: RuntimeError: asked to fail"

    run(test())


def test_tensorrt_that_takes_the_worker_along_gives_way_to_torch() -> None:
    async def test() -> None:
        plan = Plan(fake=Fake(backend="tensorrt", fail="exit"))
        async with working(plan) as supervisor:
            assert (supervisor.restarts, supervisor.plan.engine) == (2, "torch")
            assert "so torch runs the model: the painter stopped (exit code 3)" in supervisor.facts.notice

    run(test())


def test_another_engine_that_dies_is_started_again_as_it_was() -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake())) as supervisor:
            ear = Ear()
            stream = supervisor.open(SIZE, ear)
            for n in (1, 2, 3):
                await painted(stream, ear)
                supervisor.fault("exit")
                await fed(stream, lambda n=n: supervisor.restarts == n and supervisor.state == "ready")
            assert (supervisor.plan.engine, supervisor.facts.notice) == ("auto", "")

    run(test())


# ------------------------------------------------------------------------------------------- while it is built


def test_a_long_build_is_told_and_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each per cent once, and a beat of the pulse for every word of the builder's."""
    told: list[Any] = []
    beats: list[str] = []

    def load(spec: Any, choice: Choice, cache: Path, tell: Callable[[str, float], None]) -> Any:
        for far in (0.0, 0.101, 0.104, 1.0):
            tell("the denoiser's engine: building", far)
        return EchoModel(spec)

    monkeypatch.setattr("stream.models.load", load)
    monkeypatch.setattr(EchoModel, "mix", None, raising=False)
    worker.load(Plan(spec("builtin"), "torch", "cpu"), told.append, lambda: beats.append("beat"))
    assert [m.text for m in told if isinstance(m, Loading)] == [
        f"the denoiser's engine: building, {percent}%" for percent in (0, 10, 100)
    ]
    assert len(beats) == 4
    assert told[0] == Chosen("torch")


def test_whoever_waits_for_a_build_reads_how_far_it_is() -> None:
    supervisor = Supervisor(Plan(fake=Fake()))
    supervisor.state = "starting"
    supervisor._loading(Loading("the denoiser's engine: building, 40%"))
    assert (supervisor.state, supervisor.notice) == (
        "starting", "loading pass-through: the denoiser's engine: building, 40%"
    )  # fmt: skip
    supervisor.state, supervisor.notice = "ready", ""
    supervisor._loading(Loading("late"))
    assert supervisor.notice == ""


def test_the_builder_is_asked_for_what_the_card_and_the_model_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    told: list[tuple[str, float]] = []

    def ready(network: Network, wish: Any, cache: Path, *, tell: Callable[[str, float], None]) -> Path:
        asked.append((network, wish, cache))
        tell("parsing", 0.5)
        return tmp_path / "engine.plan"

    monkeypatch.setattr(tensorrt, "ready", ready)
    network = replace(small(), spans={"rows": (1, 1, 4), "h": (32, 64, 128), "w": (32, 64, 128)})
    choice = Choice("tensorrt-rtx", "cuda", "bf16", "")
    plan = tensorrt.made(network, choice, (12, 0), tmp_path, lambda what, far: told.append((what, far)))
    assert plan == tmp_path / "engine.plan"
    ((of, wish, cache),) = asked
    assert (of, cache) == (network, tmp_path)
    assert (wish.backend, wish.precision, wish.compute, wish.fp8, wish.refit) == (
        "tensorrt-rtx",
        "bf16",
        (120,),
        False,
        False,
    )
    assert dict(wish.profiles.spans) == network.spans
    assert told == [("the denoiser's engine: parsing", 0.5)]


def test_the_real_tensorrt_rtx_builds_here_cannot_run_here_and_torch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is faked but the card that was asked for."""
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    pytest.importorskip("polygraphy", exc_type=ImportError)
    if torch.cuda.is_available():
        pytest.skip("a card is there: tests/gpu runs real engines")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    monkeypatch.setattr(tensorrt, "CudaCard", lambda device: FakeCard())
    tiny.save("sd15", tmp_path / "sd15")
    told: list[str] = []
    choice = Choice("tensorrt-rtx", "cuda", "f16", "asked for")
    model = models.load(spec(str(tmp_path / "sd15")), choice, tmp_path / "cache", lambda what, far: told.append(what))
    assert any(what.startswith("the encoder's engine: ") for what in told)
    plans = list((tmp_path / "cache" / "engines").glob("*/engine.plan"))
    assert len(plans) == 1
    assert f"tensorrt-rtx cannot read the encoder's engine {plans[0]}: " in model.notice
    assert "CUDA driver version is insufficient" in model.notice
    assert {e.backend for e in model.engines.values()} == {"torch"}
    assert model.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 64, 64, 3)
