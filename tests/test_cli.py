"""The command line, with a model that paints nothing: what comes out, what is said, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
from media import coded, number, numbers, picture, seconds, sound_of, uneven, video
from rich.console import Console
from typer.testing import CliRunner

import livebrush
from engines import Choice
from stream import terminal
from stream.fakes import EchoModel
from stream.overlap import DEPTH, Ahead, Behind
from stream.pipeline import Painter
from stream.render import Job, default_size
from stream.settings import Settings
from stream.sinks.recording import RecordingSink
from stream.sources.testcard import CardSource

ROOT = Path(livebrush.__file__).parent


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is the echo, but for its preset."""
    monkeypatch.setattr("stream.models.load", lambda spec, choice, cache: EchoModel(spec, multiple=32))


def command(*words: Any) -> Any:
    return CliRunner().invoke(livebrush.app, [str(w) for w in words])


def paint(*words: Any) -> Any:
    result = command("run", *words, "--engine", "torch")
    assert result.exit_code == 0, result.output
    return result


# ---------------------------------------------------------------------------------------------- file to file


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_every_frame_is_painted_once_at_its_time_with_its_sound(tmp_path: Path, steps: int, suffix: str) -> None:
    given, out = video(tmp_path / "my video ä.mp4", times=uneven(30), sound="aac"), tmp_path / f"out.{suffix}"
    paint(given, out, "--prompt", "watercolor", "--steps", steps, "--size", "96x64")
    assert numbers(out) == list(range(30))
    assert [round(s * 1000) for s in seconds(out)] == uneven(30)
    assert sound_of(out)[2] == pytest.approx(sound_of(given)[2], abs=0.012)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_folder_of_photos_keeps_its_names(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for k, name in enumerate(["2.png", "10.jpg", "bär.png"]):
        PIL.Image.fromarray(coded(k, (333, 221))).save(photos / name)
    paint(photos, tmp_path / "painted")
    painted = {p.name: number(picture(p)) for p in (tmp_path / "painted").iterdir()}
    assert painted == {"2.png": 0, "10.jpg": 1, "bär.png": 2}


def test_pictures_of_every_kind_become_a_video(tmp_path: Path) -> None:
    PIL.Image.fromarray(coded(0)[..., 0]).save(tmp_path / "1 grey.png")
    PIL.Image.fromarray(np.dstack([coded(1), np.full((64, 96), 255, np.uint8)])).save(tmp_path / "2 rgba.png")
    PIL.Image.fromarray(coded(2)[..., 0].astype(np.uint16) * 257).save(tmp_path / "3 deep.png")
    paint(tmp_path, tmp_path.parent / "pictures.mp4", "--overwrite")
    assert numbers(tmp_path.parent / "pictures.mp4") == [0, 1, 2]


def test_one_picture(tmp_path: Path) -> None:
    PIL.Image.fromarray(coded(42, (333, 221))).save(tmp_path / "a.png")
    paint(tmp_path / "a.png", tmp_path / "b.jpg", "--steps", 4)
    assert number(picture(tmp_path / "b.jpg")) == 42


def test_a_gif_into_a_new_folder(tmp_path: Path) -> None:
    paint(video(tmp_path / "a.gif", 3, codec="gif"), f"{tmp_path}/out/")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000001.png", "000002.png", "000003.png"]


def test_the_test_card_as_a_video_and_as_a_picture(tmp_path: Path) -> None:
    paint("testcard", tmp_path / "card.mp4", "--frames", 7)
    assert len(seconds(tmp_path / "card.mp4")) == 7
    paint("testcard", tmp_path / "card.png")
    assert picture(tmp_path / "card.png").shape == (192, 352, 3)


def test_frames_and_sound_stop_after_so_many(tmp_path: Path) -> None:
    paint(video(tmp_path / "a.mp4", 50, sound="aac"), tmp_path / "b.mp4", "--frames", 25)
    assert numbers(tmp_path / "b.mp4") == list(range(25))
    assert sound_of(tmp_path / "b.mp4")[1] == pytest.approx(1.0, abs=0.05)


def test_compare_puts_the_input_to_the_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    black = EchoModel(multiple=32, paint=lambda images: images * 0)
    monkeypatch.setattr("stream.models.load", lambda spec, choice, cache: black)
    paint(video(tmp_path / "a.mp4", 6), tmp_path / "b.mp4", "--compare", "--size", "96x64", "--steps", 2)
    with av.open(str(tmp_path / "b.mp4")) as file:
        pictures = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    assert [p.shape for p in pictures] == [(64, 192, 3)] * 6
    assert [number(p[:, :96]) for p in pictures] == list(range(6))
    assert max(p[:, 98:].mean() for p in pictures) < 3


def test_a_still_picture_is_painted_seldom_with_the_filter(tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    still = video(tmp_path / "a.mp4", times=[40 * k for k in range(30)], size=(64, 64))
    paint(still, tmp_path / "b.mp4", "--similarity", "--similarity-threshold", 0.1, "--report", report)
    facts = json.loads(report.read_text())
    assert facts["frames_out"] == 30
    assert facts["skipped"]["skipped"] == facts["skipped"]["repeated"] > 0
    assert len(seconds(tmp_path / "b.mp4")) == 30


@pytest.mark.parametrize(
    ("size", "pixels", "multiple", "expected"),
    [((1280, 720), 256 * 256, 32, (352, 192)), ((512, 512), 256 * 256, 32, (256, 256)),
     ((720, 1280), 256 * 256, 32, (192, 352)), ((1920, 1080), 512 * 512, 64, (704, 384))],
)  # fmt: skip
def test_the_size_follows_the_input(size: tuple[int, int], pixels: int, multiple: int, expected: Any) -> None:
    assert default_size(size, pixels, multiple) == expected


@pytest.mark.parametrize("size", [(5000, 100), (100, 5000), (1, 1), (333, 221)])
def test_a_size_is_found_for_every_input(size: tuple[int, int]) -> None:
    width, height = default_size(size, 256 * 256, 32)
    assert width % 32 == height % 32 == 0
    Settings.checked(width=width, height=height)


# ------------------------------------------------------------------------------------------------- settings


def test_the_report_tells_everything(tmp_path: Path) -> None:
    result = paint(video(tmp_path / "a.mp4", 10, sound="aac"), tmp_path / "b.mp4", "--prompt", "neon", "--steps", 2,
                   "--seed", 7, "--report", tmp_path / "r.json")  # fmt: skip
    facts = json.loads((tmp_path / "r.json").read_text())
    assert (facts["frames_in"], facts["frames_out"], facts["delay_ticks"], facts["stopped"]) == (10, 10, 1, False)
    assert (facts["settings"]["prompt"], facts["settings"]["seed"], facts["model"]) == ("neon", 7, "echo")
    assert facts["engine"] == {"backend": "echo", "device": "cpu", "precision": "f32", "why": "nothing is painted"}
    assert facts["input"] | {"name": ""} == {"name": "", "width": 96, "height": 64, "rate": 25.0, "frames": 10,
                                             "sound": True}  # fmt: skip
    assert {"read", "preprocess", "encode", "denoise", "decode", "write"} <= set(facts["stages_ms"])
    assert {"p50", "p95", "p99"} <= set(facts["stages_ms"]["denoise"])
    assert {"python", "torch", "av"} <= set(facts["versions"])
    assert "10 frames" in result.stdout
    assert "engine: torch on cpu in f32 (asked for)" in result.stderr


def test_what_is_not_asked_for_comes_from_the_preset(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('model = "builtin"\n[settings]\nt_index = [32, 45]\nseed = 5\nwidth = 96\n'
                                        "height = 64\n")  # fmt: skip
    report = tmp_path / "r.json"

    def settings(*words: Any) -> Any:
        paint("testcard", tmp_path / "a.mp4", "--model", tmp_path / "mine.toml", "--frames", 2, "--overwrite",
              "--report", report, *words)  # fmt: skip
        return json.loads(report.read_text())["settings"]

    plain = settings()
    assert (plain["t_index"], plain["seed"]) == ([32, 45], 5)
    assert settings("--seed", 0)["seed"] == 0
    assert settings("--t-index", "20,30,40")["t_index"] == [20, 30, 40]
    asked = settings("--strength", 0.7)
    assert (asked["t_index"], asked["strength"], asked["seed"]) == (None, 0.7, 5)


def test_every_setting_is_an_option_with_its_own_help() -> None:
    text = " ".join(command("run", "--help").output.split())
    for name, field in Settings.model_fields.items():
        if name not in ("width", "height"):
            assert f"--{name.replace('_', '-')}" in text
            assert " ".join(str(field.description).split()) in text
    assert "(0 to 1; default: the model's, or 0.4)" in text
    assert "none|full|self|initialize" in text


def test_loras_and_vae_reach_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(spec: Any, choice: Any, cache: Any) -> EchoModel:
        asked.append(spec)
        return EchoModel(spec, multiple=32)

    monkeypatch.setattr("stream.models.load", load)
    paint("testcard", tmp_path / "a.png", "--lora", "a b.safetensors:0.8", "--lora", "owner/name", "--vae", "own/vae")
    assert [(x.source, x.strength) for x in asked[0].loras] == [("a b.safetensors", 0.8), ("owner/name", 1.0)]
    assert asked[0].vae == "own/vae"


def test_a_build_is_told_and_what_runs_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: Any, choice: Any, cache: Any, tell: Any) -> EchoModel:
        tell("the denoiser's engine: building", 0.4)
        return EchoModel(spec, multiple=32)

    monkeypatch.setattr("stream.models.load", load)
    monkeypatch.setattr("stream.choice.choose", lambda *_: Choice("tensorrt", "cuda", "f16", "the fastest on a card"))
    said = " ".join(paint("testcard", tmp_path / "a.png").stderr.split())
    began, built, ran = "engine: tensorrt on cuda", "40% the denoiser's engine: building", "engine: echo on cpu in f32"
    assert said.index(began) < said.index(built) < said.index(ran)


# ------------------------------------------------------------------------------------------------- stopping

SLOWLY = """
import time
import livebrush, stream.models
from stream.fakes import EchoModel
def slow(images):
    time.sleep(0.02)
    return images
stream.models.load = lambda spec, choice, cache: EchoModel(spec, multiple=32, paint=slow)
livebrush.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "output"), [(signal.SIGINT, "out.mp4"), (signal.SIGTERM, "out/")])
def test_stopping_leaves_what_was_painted_so_far(tmp_path: Path, number: int, output: str) -> None:
    words = ["run", "testcard", f"{tmp_path}/{output}", "--frames", "100000", "--engine", "torch", "--size", "64x64"]
    job = subprocess.Popen([sys.executable, "-c", SLOWLY, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    for line in job.stderr:  # it says so when something is painted
        if line.startswith("painted"):
            break
    job.send_signal(number)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 130, said
    out = tmp_path / output
    painted = len(list(out.iterdir())) if out.is_dir() else len(seconds(out))
    assert painted > 0
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_a_job_that_is_stopped_closes_its_sink() -> None:
    stop, sink = Event(), RecordingSink()
    job, _ = job_of(sink, frames=50)
    outcome = job.run(stop, lambda done: stop.set() if done == 5 else None)
    assert outcome.stopped
    assert (sink.state, sink.complete) == ("closed", False)
    assert 5 <= outcome.frames_out == len(sink.frames) < 50


def test_a_job_stopped_before_its_first_frame_leaves_nothing() -> None:
    stop, sink = Event(), RecordingSink()
    stop.set()
    job, _ = job_of(sink)
    assert job.run(stop).frames_out == 0
    assert sink.state == "discarded"


def job_of(sink: RecordingSink, frames: int = 10, steps: int = 1, **options: Any) -> tuple[Job, CardSource]:
    painter = Painter(EchoModel())
    session = painter.open(Settings.checked(width=64, height=64, steps=steps))
    source = CardSource(frames, (64, 64))
    return Job(source, painter, session, sink, **options), source


@pytest.mark.parametrize("together", [1, 2, 3])
def test_frames_painted_together_are_the_same(together: int) -> None:
    sink = RecordingSink()
    job, source = job_of(sink, frames=7, steps=2, together=together)
    outcome = job.run(Event())
    assert (outcome.frames_in, outcome.frames_out, sink.complete) == (7, 7, True)
    assert [f.pts for f in sink.frames] == list(range(7))
    assert all(np.array_equal(f.image, source.draw(k)) for k, f in enumerate(sink.frames))


def test_an_error_while_writing_ends_the_job_and_discards() -> None:
    class Broken(RecordingSink):
        def write(self, frame: Any) -> None:
            if frame.pts == 3:
                raise OSError("disk")
            super().write(frame)

    sink = Broken()
    job, _ = job_of(sink, frames=100000)
    with pytest.raises(OSError, match="disk"):
        job.run(Event())
    assert sink.state == "discarded"


def test_reading_ahead_keeps_memory_flat() -> None:
    drawn = []
    ahead = Ahead(map(drawn.append, range(1000)))
    taken = ahead.take(Event())
    next(taken)
    time.sleep(0.2)
    assert len(drawn) <= DEPTH + 3
    ahead.close()


def test_writing_behind_keeps_memory_flat_and_order() -> None:
    written: list[int] = []
    go = Event()
    behind: Behind[int] = Behind(lambda item: (go.wait(), written.append(item))[1])
    for item in range(DEPTH):
        behind.put(item)
    assert written == []
    go.set()
    behind.finish()
    behind.close()
    assert written == list(range(DEPTH))


# ------------------------------------------------------------------------------------------------- speaking


def test_progress_says_a_line_now_and_then() -> None:
    console = Console(record=True, force_terminal=False, file=open(os.devnull, "w"), width=80)  # noqa: SIM115, PTH123
    moments = iter([0.0, 1.0, 2.5, 4.0, 5.0])
    with terminal.progress(console, 100, clock=lambda: next(moments)) as tell:
        for done in (10, 25, 40, 100):
            tell(done)
    console.file.close()
    assert console.export_text().splitlines() == ["painted 25 of 100, 0:08 left, 10.0 fps",
                                                  "painted 100 of 100, 0:00 left, 20.0 fps"]  # fmt: skip


def test_progress_on_a_terminal_shows_fps_and_time_left() -> None:
    console = Console(record=True, force_terminal=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    moments = iter([0.0, *[2.0] * 20])
    with terminal.progress(console, 100, clock=lambda: next(moments)) as tell:
        tell(50)
    text = console.export_text()
    console.file.close()
    assert "50/100" in text
    assert "25.0 fps" in text


@pytest.mark.parametrize(("frames", "fps", "text"), [(10, 0, "?"), (100, 10, "0:10"), (7384, 1, "2:03:04")])
def test_time_left(frames: int, fps: float, text: str) -> None:
    assert terminal.time_left(frames, fps) == text


def test_help_is_there_at_once_and_brings_no_torch() -> None:
    code = "import sys, livebrush; sys.exit('torch' in sys.modules or 'numpy' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_version() -> None:
    assert command("--version").output.startswith("livebrush")


def test_models_lists_the_presets() -> None:
    result = command("models")
    assert result.exit_code == 0
    for word in ("builtin", "sd-turbo", "Apache-2.0", "256x256"):
        assert word in result.output


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    result = command("models")
    assert "hf download" in " ".join(result.output.split())
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "1"
    for part in ("unet", "text_encoder"):
        (snapshot / part).mkdir(parents=True)
        (snapshot / part / "w.safetensors").write_text("")
    from stream.config import ModelSpec
    from stream.doctor import missing_weights

    assert "not here: owner/name" in str(missing_weights(ModelSpec("x", "owner/name")))
    (snapshot / "model_index.json").write_text("{}")
    assert missing_weights(ModelSpec("x", "owner/name")) is None
    assert "not here: owner/vae" in str(missing_weights(ModelSpec("x", "owner/name", vae="owner/vae")))


def test_the_doctor_spells_extras_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.tensorrt.import_module", never)
    told = " ".join(command("doctor").stdout.split())
    assert "missing engine tensorrt: it is not there: pip install 'livebrush[tensorrt]'" in told
    assert "missing engine tensorrt-rtx: it is not there: pip install 'livebrush[rtx]'" in told


def never(name: str) -> None:
    raise ImportError("it is not there")


def test_the_doctor_looks_at_everything() -> None:
    result = command("doctor")
    assert result.exit_code == 0
    for word in ("Python", "processor", "torch", "engine openvino", "engine auto", "PyAV", "cache", "built-in model",
                 "cameras"):  # fmt: skip
        assert word in result.output


def test_bench_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    names = ("model", "engine", "device", "precision", "quick", "json_file")
    said = SimpleNamespace(main=lambda *given: asked.update(zip(names, given, strict=True)))
    monkeypatch.setitem(sys.modules, "tools.bench", said)
    assert command("bench", "--json", "b.json", "--quick", "--size", "128").exit_code == 0
    model = asked.pop("model")
    assert (model.name, model.settings.width) == ("builtin", 128)
    auto = dict.fromkeys(("engine", "device", "precision"), "auto")
    assert asked == {"json_file": Path("b.json"), "quick": True} | auto
