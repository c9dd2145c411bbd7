"""Bad input: one clear message on standard error, exit code 2, and nothing half-written left behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from media import coded, no_frames, sound_only, spoil_middle, video
from typer.testing import CliRunner

import livebrush
from stream.fakes import EchoModel

Words = list[Any]


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model is the echo; the list tells whether one was loaded."""
    loaded: list[str] = []

    def load(spec: Any, choice: Any, cache: Any) -> EchoModel:
        loaded.append(spec.name)
        return EchoModel(spec, multiple=32)

    monkeypatch.setattr("stream.models.load", load)
    return loaded


def refused(folder: Path, *words: Any) -> str:
    """What the command says when it refuses; the folder must be as it was."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = CliRunner().invoke(livebrush.app, ["run", *map(str, words), "--engine", "torch"])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    said = result.stderr[result.stderr.index("error:") :]
    assert "Traceback" not in said
    assert len(said) < 700
    return " ".join(said.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "dall-e"], "model 'dall-e' is unknown: use builtin, sd-turbo"),
        (["--prompt", "x" * 100_000], "prompt has 100000 characters: use at most 2000"),
        (["--negative-prompt", "x" * 100_000], "negative_prompt has 100000 characters: use at most 2000"),
        (["--size", "0x0"], "width 0 is not between 64 and 2048 pixels"),
        (["--size", "7x7"], "width 7 is not between 64 and 2048 pixels"),
        (["--size", "100000x100000"], "width 100000 is not between 64 and 2048 pixels"),
        (["--size", "0"], "width 0 is not between"),
        (["--size", "256x100"], "height 100 is not a multiple of 8: use 96 or 104"),
        (["--size", "big"], "size 'big' is no size: use WIDTHxHEIGHT"),
        (["--size", "1x2x3"], "size '1x2x3' is no size"),
        (["--strength", "nan"], "strength is nan"),
        (["--strength", "inf"], "strength is inf"),
        (["--strength", "1.5"], "strength is 1.5: input should be less than or equal to 1"),
        (["--steps", "0"], "steps is 0"),
        (["--t-index", "9,x"], "t_index '9,x' is no list of whole numbers: use e.g. 32,45"),
        (["--t-index", "45,32"], "is not an increasing list"),
        (["--guidance", "strong"], "guidance is 'strong': input should be 'none', 'full', 'self' or 'initialize'"),
        (["--seed", "-1"], "seed is -1"),
        (["--lora", "a.safetensors:nan"], "lora 'a.safetensors:nan'"),
        (["--device", "toaster"], "engine torch has no device 'toaster' here: use cpu"),
        (["--precision", "f8"], "does not run 'f8'"),
    ],
)
def test_settings_are_checked_before_the_model_is_loaded(
    tmp_path: Path, echo: list[str], words: Words, message: str
) -> None:
    assert message in refused(tmp_path, "testcard", tmp_path / "out.mp4", *words)
    assert echo == []


def test_an_unknown_engine_lists_the_known_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(livebrush.app, ["run", "testcard", f"{tmp_path}/a.mp4", "--engine", "magic"])
    assert result.exit_code == 2
    assert "engine 'magic' is unknown: use auto, torch, openvino" in " ".join(result.stderr.split())


def test_a_size_that_does_not_fit_the_model(tmp_path: Path) -> None:
    assert "is not a multiple of 32" in refused(tmp_path, "testcard", tmp_path / "a.mp4", "--size", "264x256")


# -------------------------------------------------------------------------------------------------- inputs


def cut_video(path: Path) -> None:
    video(path, 60, front=True, grain=25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bad_middle(path: Path) -> None:
    video(path, 60, grain=25)
    spoil_middle(path)


def cut_photo(path: Path) -> None:
    PIL.Image.fromarray(coded(3, (320, 240))).save(path)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.mp4", lambda p: p.write_bytes(os.urandom(5000)), "cannot be read as a video"),
        ("a.mp4", lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
        ("a.mp4", cut_video, "a.mp4 is damaged after frame"),
        ("a.mp4", bad_middle, "a.mp4 is damaged after frame"),
        ("a.mp4", sound_only, "has no video stream, only audio"),
        ("a.avi", no_frames, "has no frame in it"),
        ("a.jpg", cut_photo, "a.jpg is damaged"),
        ("a.jpg", lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
        ("a.jpg", lambda p: p.write_text("hello"), "is not a picture"),
        ("photos", Path.mkdir, "has no picture in it"),
        ("a.xyz", lambda p: p.write_text("hello"), "cannot be read as a video"),
        ("a.mp4", lambda p: None, "is not there"),
    ],
)
def test_bad_inputs(tmp_path: Path, name: str, make: Callable[[Path], Any], message: str) -> None:
    make(tmp_path / name)
    for out in ("out.mp4", "out/"):
        assert message in refused(tmp_path, tmp_path / name, f"{tmp_path}/{out}")
    assert not (tmp_path / "out").exists()


def test_one_bad_photo_spoils_the_folder_and_is_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(3):
        PIL.Image.fromarray(coded(k)).save(photos / f"{k}.jpg")
    cut_photo(photos / "3.jpg")
    assert "3.jpg is damaged" in refused(tmp_path, photos, tmp_path / "painted")
    assert not (tmp_path / "painted").exists()


@pytest.mark.parametrize("name", ["camera:93", "/dev/video93"])
def test_no_camera(tmp_path: Path, name: str) -> None:
    assert "is not there or is in use" in refused(tmp_path, name, tmp_path / "a.mp4")


# -------------------------------------------------------------------------------------------------- outputs


def test_an_output_that_exists(tmp_path: Path, echo: list[str]) -> None:
    (tmp_path / "a.mp4").write_text("mine")
    assert "a.mp4 exists: give another name, or --overwrite" in refused(tmp_path, "testcard", tmp_path / "a.mp4")
    assert echo == []


def test_an_output_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "exists: give another name, or --overwrite" in refused(tmp_path, "testcard", tmp_path / "out")


@pytest.mark.parametrize(
    ("output", "message"),
    [("a.xyz", "is of no known kind"), ("a", "is of no known kind"), ("nowhere/a.mp4", "make it first")],
)
def test_outputs_that_cannot_be(tmp_path: Path, output: str, message: str) -> None:
    assert message in refused(tmp_path, "testcard", tmp_path / output)


def test_input_and_output_the_same(tmp_path: Path) -> None:
    given = video(tmp_path / "a.mp4", 3)
    assert "over its own input" in refused(tmp_path, given, given, "--overwrite")
    assert "over its own input" in refused(tmp_path, given, tmp_path / ".." / tmp_path.name / "a.mp4", "--overwrite")


def test_a_video_does_not_fit_into_a_picture(tmp_path: Path) -> None:
    given = video(tmp_path / "a.mp4", 3)
    assert "holds one picture, and" in refused(tmp_path, given, tmp_path / "a.png")


def test_a_report_that_is_the_output(tmp_path: Path) -> None:
    words = ["testcard", tmp_path / "a.mp4", "--report", tmp_path / "a.mp4"]
    assert "is the input or the output" in refused(tmp_path, *words)


def test_a_report_in_a_missing_folder(tmp_path: Path, echo: list[str]) -> None:
    words = ["testcard", tmp_path / "a.mp4", "--report", tmp_path / "nowhere" / "r.json"]
    assert "make it first" in refused(tmp_path, *words)
    assert echo == []


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert "may not be written" in refused(tmp_path, "testcard", tmp_path / "a.mp4")


@pytest.mark.parametrize("output", ["a.png", "out/"])
def test_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    def full(self: Path, content: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "no room on the disk" in refused(tmp_path, "testcard", f"{tmp_path}/{output}", "--frames", 3)
    assert not (tmp_path / "out").exists()


def test_no_room_in_the_middle_of_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stream.sinks.video import Writer

    def full(self: Writer, frame: Any) -> None:
        if frame.pts == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, frame)

    write = Writer.write
    monkeypatch.setattr(Writer, "write", full)
    assert "no room on the disk" in refused(tmp_path, "testcard", tmp_path / "a.mp4", "--frames", 9)
