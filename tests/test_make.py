"""Making a clip: whole or not there, the same however often it is killed, and its model kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_rig import Drawn, drawing, drawn
from filelock import FileLock
from media import picture

from stream.clips import make as module
from stream.clips.backend import Cancelled, Watch
from stream.clips.make import MADE, Keep, make
from stream.clips.manifest import Manifest, digest, load, sidecar
from stream.clips.timeline import Timeline
from stream.errors import ClipError, SinkError


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return drawn(monkeypatch)


def line(frames: int = 6, **more: Any) -> Timeline:
    return Timeline(backend="drawn", frames=frames, **more)


def made(tmp_path: Path, timeline: Timeline | None = None, name: str = "out", *, keep: Keep | None = None,
         watch: Watch | None = None, job: str = "job", overwrite: bool = False) -> Manifest:  # fmt: skip
    return make(timeline or line(), tmp_path / name, tmp_path / job, watch or Watch(), keep=keep or Keep(),
                overwrite=overwrite)  # fmt: skip


def here(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


class Listener(Watch):
    """Hears everything, and cancels or breaks off at a stage."""

    def __init__(self, at: tuple[str, int] | None = None, error: BaseException | None = None) -> None:
        self.heard: list[tuple[str, int, int]] = []
        self._at, self._error = at, error or Cancelled()

    def tell(self, stage: str, done: int, total: int, preview: Any = None) -> None:
        self.heard.append((stage, done, total))
        if self._at == (stage, done):
            raise self._error


# ------------------------------------------------------------------------------------------------- whole clips


def test_a_clip_is_made_with_its_manifest_beside_it(backend: Drawn, tmp_path: Path) -> None:
    watch = Listener()
    manifest = made(tmp_path, line(seed=3), watch=watch)
    assert here(tmp_path) == {"out", "out.json", "job"}
    assert len(here(tmp_path / "out")) == 6
    assert np.array_equal(picture(tmp_path / "out" / "000006.png"), drawing(5, seed=3))
    assert manifest.sha256 == digest(tmp_path / "out")
    assert load(tmp_path / "out.json") == manifest
    assert (manifest.frames, manifest.width, manifest.height, manifest.fps, manifest.seed) == (6, 96, 64, 24, 3)
    assert manifest.notes == ("drawn by hand",)
    assert {"livebrush", "torch", "diffusers", "av"} <= set(manifest.versions)
    stages = [s for s, _, _ in watch.heard]
    assert list(dict.fromkeys(stages)) == ["load", "denoise", "decode", "write"]
    assert watch.heard[-1] == ("write", 6, 6)
    assert set(manifest.timings) <= {"load", "denoise", "decode", "write"}
    assert 0 < sum(manifest.timings.values()) <= manifest.seconds + 0.01


def test_the_model_is_kept_until_another_one_is_needed(backend: Drawn, tmp_path: Path) -> None:
    keep = Keep()
    for index in range(3):
        made(tmp_path, line(seed=index), f"out{index}", keep=keep, job=f"job{index}")
    assert [len(r.calls) for r in backend.loaded] == [3]
    made(tmp_path, line(model="other"), "out3", keep=keep, job="job3")
    assert [r.closed for r in backend.loaded] == [True, False]
    keep.close()
    assert [r.closed for r in backend.loaded] == [True, True]


# ------------------------------------------------------------------------------------------------- before any work


@pytest.mark.parametrize(
    ("timeline", "name", "said"),
    [(line(frames=3000), "out", "too many"), (line(), "out.xyz", "no known kind.*mp4"),
     (line(), "gone/out.mp4", "make it first"), (line(output={"codec": "vp9"}), "out.mov", r"not vp9: use .*\.webm"),
     (line(output={"quality": 60}), "out.mp4", "between 0 and 51"), (line(fps=60), "out.gif", "at most 50"),
     (line(output={"audio": "gone.wav"}), "out.mp4", "gone.wav is not there"),
     (line(output={"audio": "generate"}), "out.gif", "holds no sound"),
     (line(output={"quality": 20}), "out", "leave out codec and quality"),
     (line(output={"quality": 20}), "out.mov", "prores has no quality")],
)  # fmt: skip
def test_what_cannot_be_made_is_told_before_anything_is_loaded(
    backend: Drawn, tmp_path: Path, timeline: Timeline, name: str, said: str
) -> None:
    with pytest.raises((ClipError, SinkError), match=said):
        made(tmp_path, timeline, name)
    assert not backend.loaded
    assert here(tmp_path) == {"job"}


def test_a_backend_that_is_not_ready_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn(monkeypatch, lacks="pip install paint")
    with pytest.raises(ClipError, match="drawn is not ready: pip install paint"):
        made(tmp_path)


def test_an_output_that_exists_is_kept_unless_it_may_go(backend: Drawn, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(SinkError, match="exists"):
        made(tmp_path, name="out.mp4")
    assert (tmp_path / "out.mp4").read_text() == "mine"
    manifest = made(tmp_path, name="out.mp4", overwrite=True)
    assert digest(tmp_path / "out.mp4") == manifest.sha256


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif", "out.apng", "out"])
def test_a_kill_while_writing_leaves_one_file_that_the_next_run_takes_away(
    backend: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, "remove", lambda _path: None)
        with pytest.raises(Killed):
            made(tmp_path, name=name, watch=Listener(("write", 4), Killed()))
    assert len(here(tmp_path)) <= 2
    made(tmp_path, name=name)
    assert here(tmp_path) == {name, f"{name}.json", "job"}


def test_a_job_is_made_by_one_process_at_a_time(backend: Drawn, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    with FileLock(tmp_path / "job" / "lock"), pytest.raises(ClipError, match="another process"):
        made(tmp_path)
    made(tmp_path)


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_a_shorter_clip_leaves_no_frame_of_a_longer_one(backend: Drawn, tmp_path: Path) -> None:
    made(tmp_path, line(frames=6))
    (tmp_path / "out" / "mine.txt").write_text("kept")
    manifest = made(tmp_path, line(frames=4), job="other", overwrite=True)
    assert here(tmp_path / "out") == {f"{i:06}.png" for i in range(1, 5)} | {"mine.txt"}
    assert digest(tmp_path / "out") == manifest.sha256


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out.apng", "out"])
@pytest.mark.parametrize("at", [("load", 0), ("denoise", 0), ("decode", 4), ("write", 4), ("write", 6)])
def test_cancelled_anywhere_leaves_nothing_and_the_model_ready(
    backend: Drawn, tmp_path: Path, name: str, at: tuple[str, int]
) -> None:
    keep = Keep()
    with pytest.raises(Cancelled):
        made(tmp_path, name=name, keep=keep, watch=Listener(at))
    assert here(tmp_path) == {"job"}
    assert here(tmp_path / "job") <= {"lock"}
    made(tmp_path, name=name, keep=keep)
    assert len(backend.loaded) == 1


def test_a_model_that_failed_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backend, keep = drawn(monkeypatch, made={"error": RuntimeError("out of memory")}), Keep()
    with pytest.raises(RuntimeError, match="out of memory"):
        made(tmp_path, keep=keep)
    assert backend.loaded[0].closed
    assert here(tmp_path) == {"job"}


@pytest.mark.parametrize("frames", [0, 5, 7])
def test_a_wrong_number_of_frames_is_no_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, frames: int) -> None:
    drawn(monkeypatch, made={"frames": frames})
    with pytest.raises(ClipError, match=r"gave [057] frames, and 6 were planned"):
        made(tmp_path, name="out.mp4")
    assert here(tmp_path) == {"job"}


class Killed(BaseException):
    """Nobody cleans up after it."""


@pytest.mark.parametrize("where", ["publish", "sidecar"])
def test_killed_while_it_is_moved_the_clip_is_there_once(
    backend: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(module, "remove", lambda _path: None)
        patched.setattr(module, *(("publish", killed) if where == "publish" else ("sidecar", killed)))
        with pytest.raises(Killed):
            made(tmp_path, name="out.mp4")
    assert (tmp_path / "out.mp4").exists() == (where == "sidecar")
    before = load(tmp_path / "job" / MADE)
    again = made(tmp_path, name="out.mp4")
    assert again.sha256 == before.sha256 == digest(tmp_path / "out.mp4")
    assert load(sidecar(tmp_path / "out.mp4")) == again
    assert here(tmp_path) == {"out.mp4", "out.mp4.json", "job"}
    assert len(backend.loaded) == (2 if where == "publish" else 1)


# ------------------------------------------------------------------------------------------------- the real thing


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_killed_at_any_moment_the_built_in_model_makes_the_same_clip(tmp_path: Path) -> None:
    here = Path(__file__).parent
    paths = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, here / "clip_kills.py", tmp_path], env=os.environ | paths, check=True,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    whole, *killed = json.loads(done.stdout)
    assert {k["killed"].split()[0] for k in killed} == {"load", "encode", "denoise", "decode", "write"}
    assert {k["sha256"] for k in killed} == {whole["sha256"]}
    assert not any(k["half"] for k in killed)
    assert all(k["left"] == ["heard", "job", "out.mp4", "out.mp4.json"] for k in killed)
    calls = [k["calls"] for k in killed]  # none is made twice but the one at which it was killed
    assert calls == sorted(calls, reverse=True)
    assert (calls[0], calls[-1]) == (6, 0)
