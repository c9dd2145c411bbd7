"""Back ends that run elsewhere: Open-Sora by a command, and any server by `/v1/videos`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import pytest
import stand_in

from stream.clips.backend import Cancelled, Watch
from stream.clips.families import FAMILIES, family, table
from stream.clips.families.external import Command
from stream.clips.families.opensora import BACKEND
from stream.clips.families.served import ADDRESS, KEY
from stream.clips.timeline import Keyframe, Memory, Timeline
from stream.errors import ClipError


@pytest.fixture
def picture(tmp_path: Path) -> str:
    PIL.Image.new("RGB", (96, 64), (200, 100, 50)).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def painted(asked: Timeline, folder: Path, watch: Watch | None = None) -> Any:
    renderer = family(asked.backend).load(asked, lambda _text: None)
    return np.concatenate(list(renderer.render(asked, folder, watch or Watch()).frames))


class Until(Watch):
    """Cancels as soon as `ready` says so."""

    def __init__(self, ready: Any) -> None:
        self.ready = ready

    def tell(self, stage: str, done: int, total: int, preview: Any = None) -> None:
        if self.ready():
            raise Cancelled


# ------------------------------------------------------------------------------------------------- Open-Sora


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone of either, and a Python that is the stand-in."""
    place = tmp_path / "checkout"
    for name, script in (
        ("OPENSORA", "scripts/diffusion/inference.py"),
        ("OPENSORA_PLAN", "opensora/sample/sample.py"),
    ):
        (place / script).parent.mkdir(parents=True, exist_ok=True)
        (place / script).touch()
        monkeypatch.setenv(f"LIVEBRUSH_{name}", str(place))
        monkeypatch.setenv(f"LIVEBRUSH_{name}_PYTHON", str(tmp_path / "python"))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in.__file__}" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return place


def asked_of(folder: Path) -> dict[str, Any]:
    return json.loads(next(folder.rglob("asked.json")).read_text())


def test_open_sora_gets_its_job_by_csv_and_gives_the_frames(checkout: Path, tmp_path: Path, picture: str) -> None:
    asked = Timeline(
        backend="opensora", prompt='a "red" bird, slowly', frames=8, width=96, height=64, seed=0, steps=7, input=picture
    )
    plan = family("opensora").plan(asked)
    assert family("opensora").missing(asked) is None
    assert plan.frames == 9
    assert "8 frames are asked for, 9 are rendered: this model takes 4k+1, at most 129" in plan.notes
    clip = painted(asked, tmp_path / "job")
    assert clip.shape == (9, 64, 96, 3)
    assert np.all(np.diff(clip.mean(axis=(1, 2, 3))) > 2)  # the stand-in's frames, in order
    told = asked_of(tmp_path / "job")
    assert (told["text"], told["ref"]) == ('a "red" bird, slowly', picture)
    given = told["arguments"]
    assert (given["cond_type"], given["num_frames"], given["num_steps"]) == ("i2v_head", "9", "7")
    assert (given["sampling_option.width"], given["sampling_option.height"]) == ("96", "64")
    assert given["sampling_option.seed"] == str(2**32)  # it takes 0 for none
    assert told["flags"] == ["scripts/diffusion/inference.py", "configs/diffusion/inference/256px.py"]


@pytest.mark.parametrize(
    ("more", "condition"),
    [
        ({}, "t2v"),
        ({"options": {"extend": True}, "input": "clip.mp4"}, "v2v_head"),
        ({"keyframes": (0, 7)}, "i2v_loop"),
    ],
)
def test_open_sora_knows_its_conditions(
    more: dict[str, Any], condition: str, checkout: Path, tmp_path: Path, picture: str
) -> None:
    if "input" in more:
        stand_in.write(tmp_path / "clip.mp4", 4, 24)
        more = more | {"input": str(tmp_path / "clip.mp4")}
    if "keyframes" in more:
        more = {"keyframes": tuple(Keyframe(frame=k, image=picture) for k in more["keyframes"])}
    painted(Timeline(backend="opensora", prompt="x", frames=8, **more), tmp_path / "job")
    told = asked_of(tmp_path / "job")
    assert told["arguments"]["cond_type"] == condition
    assert told.get("ref", "").count(";") == (condition == "i2v_loop")


def test_open_sora_plan_gets_lists_and_gives_the_frames(checkout: Path, tmp_path: Path, picture: str) -> None:
    asked = Timeline(backend="opensora-plan", prompt="a red\nbird", frames=9, width=96, height=64, input=picture)
    assert painted(asked, tmp_path / "job").shape == (9, 64, 96, 3)
    told = asked_of(tmp_path / "job")
    assert (told["text"], told["ref"]) == ("a red bird", picture)
    assert told["arguments"]["model_path"] == str(checkout / "Open-Sora-Plan-v1.3.0" / "any93x640x640_i2v")
    assert told["flags"] == ["-m", "opensora.sample.sample", "--rescale_betas_zero_snr", "--crop_for_hw"]


def test_a_command_that_is_cancelled_ends_with_all_it_started(checkout: Path, tmp_path: Path) -> None:
    asked = Timeline(backend="opensora", prompt="wait", frames=5)
    watch = Until(lambda: next((tmp_path / "job").rglob("asked.json"), None) is not None)
    with pytest.raises(Cancelled):
        painted(asked, tmp_path / "job", watch)
    ours = psutil.Process().children(recursive=True)
    assert not [p for p in ours if "stand_in.py" in " ".join(p.cmdline())]
    assert painted(asked.model_copy(update={"prompt": "x"}), tmp_path / "job").shape[0] == 5


def test_a_command_that_fails_says_what_it_said(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"ended with 1 .*\n(.*\n)*CUDA out of memory, says the stand-in"):
        painted(Timeline(backend="opensora", prompt="fail", frames=5), tmp_path / "job")


def test_a_command_that_was_killed_with_us_begins_again_and_one_that_ended_does_not(
    checkout: Path, tmp_path: Path
) -> None:
    asked = Timeline(backend="opensora", prompt="x", frames=5)
    (tmp_path / "job" / "command").mkdir(parents=True)
    (tmp_path / "job" / "command" / "half.mp4").write_bytes(b"cut off")
    once = painted(asked, tmp_path / "job")
    (tmp_path / "python").unlink()  # it is not needed again
    again = list(Command(BACKEND).render(asked, tmp_path / "job", Watch()).frames)
    assert np.array_equal(np.concatenate(again), once)


def test_what_open_sora_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEBRUSH_OPENSORA", raising=False)
    assert "git clone https://github.com/hpcaitech/Open-Sora" in str(family("opensora").missing())
    monkeypatch.setenv("LIVEBRUSH_OPENSORA", str(tmp_path))
    assert "there is no scripts/diffusion/inference.py" in str(family("opensora").missing())
    (tmp_path / "scripts" / "diffusion").mkdir(parents=True)
    (tmp_path / "scripts" / "diffusion" / "inference.py").touch()
    assert "set LIVEBRUSH_OPENSORA_PYTHON" in str(family("opensora").missing())


def test_a_timeline_names_no_command() -> None:
    with pytest.raises(ClipError, match="backend opensora has no option 'command'"):
        family("opensora").plan(Timeline(backend="opensora", options={"command": "rm"}))


# ------------------------------------------------------------------------------------------------- /v1/videos


class Server(BaseHTTPRequestHandler):
    """A small server of `/v1/videos`: a video is done when it has been looked at twice."""

    def log_message(self, *_args: Any) -> None:
        """Says nothing."""

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def tell(self, code: int, /, **values: Any) -> None:
        self.answer(code, json.dumps(values).encode())

    def do_POST(self) -> None:
        state: Any = self.server
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + self.rfile.read(int(self.headers["Content-Length"])))
        fields = {p.get_param("name", header="content-disposition"): p.get_payload(decode=True) for p in parts.walk()}
        fields.pop(None, None)
        state.asked.append({"fields": fields, "key": self.headers.get("Authorization")})
        if fields["prompt"] == b"unpaid":
            return self.tell(402, error={"message": "the account is empty", "code": "billing"})
        state.looks = 0
        return self.tell(200, id="video_1/x", object="video", status="queued", progress=0)

    def do_GET(self) -> None:
        state: Any = self.server
        if self.path.endswith("/content"):
            return self.answer(200, state.video[: state.cut], "video/mp4")
        assert self.path == "/v1/videos/video_1%2Fx"
        state.looks += 1
        prompt = state.asked[-1]["fields"]["prompt"]
        if prompt == b"flaky" and state.looks in (1, 2):
            return self.tell(502, error={"message": "not now"})
        if prompt == b"unwanted":
            return self.tell(200, id="x", status="failed", error={"message": "against the rules"})
        if prompt == b"endless" or state.looks < 3:
            return self.tell(200, id="x", status="in_progress", progress=30 * state.looks)
        return self.tell(200, id="x", status="completed", progress=100)

    def do_DELETE(self) -> None:
        state: Any = self.server
        state.deleted.append(self.path)
        self.tell(200, id="x", deleted=True)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    stand_in.write(tmp_path / "made.mp4", 12, 24)
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as made:
        state: Any = made
        state.asked, state.deleted, state.looks, state.cut = [], [], 0, None
        state.video = (tmp_path / "made.mp4").read_bytes()
        state.address = f"http://127.0.0.1:{made.server_port}"
        monkeypatch.setenv(ADDRESS, f"{state.address}/v1")
        monkeypatch.setenv(KEY, "secret")
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        made.shutdown()
        thread.join()


def served(prompt: str = "a red bird", **more: Any) -> Timeline:
    asked: dict[str, Any] = {"frames": 12, "width": 96, "height": 64, "fps": 24, "options": {"poll": 0.01}}
    return Timeline(backend="http", prompt=prompt, **(asked | more))


def test_a_server_is_asked_looked_at_and_its_video_fetched(server: Any, tmp_path: Path, picture: str) -> None:
    asked = served(input=picture, model="sora-2", options={"poll": 0.01, "fields": {"seed": 7}})
    plan = family("http").plan(asked)
    assert (plan.frames, plan.unet_calls) == (12, 0)
    assert f"0.5 s at 96x64 are asked of {server.address}" in plan.notes[0]
    clip = painted(asked, tmp_path / "job")
    assert clip.shape == (12, 64, 96, 3)
    assert np.all(np.diff(clip.mean(axis=(1, 2, 3))) > 2)
    fields = server.asked[0]["fields"]
    assert fields.pop("input_reference") == Path(picture).read_bytes()
    assert fields == {"model": b"sora-2", "prompt": b"a red bird", "size": b"96x64", "seconds": b"0.5", "seed": b"7"}
    assert server.asked[0]["key"] == "Bearer secret"
    assert np.array_equal(painted(asked, tmp_path / "job"), clip)
    assert len(server.asked) == 1  # what was fetched is not asked for again


def test_a_video_that_was_asked_for_before_a_crash_is_fetched_not_asked_for_again(server: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        painted(served(), tmp_path / "job", Until(lambda: _raise(server)))
    assert painted(served(), tmp_path / "job").shape[0] == 12
    assert len(server.asked) == 1


def _raise(server: Any) -> bool:
    if server.looks == 2:
        raise RuntimeError("killed")
    return False


def test_a_cancelled_video_is_deleted_on_the_server(server: Any, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(Cancelled):
        painted(served("endless", options={"poll": 60.0}), tmp_path / "job", Until(lambda: server.looks == 1))
    assert time.monotonic() - started < 5
    assert server.deleted == ["/v1/videos/video_1%2Fx"]
    assert painted(served(), tmp_path / "job").shape[0] == 12  # asked for anew


def test_a_server_that_stumbles_is_asked_again(server: Any, tmp_path: Path) -> None:
    assert painted(served("flaky"), tmp_path / "job").shape[0] == 12


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("unpaid", "answered 402 .*\nthe account is empty"), ("unwanted", "its state is failed: against the rules")],
)
def test_what_a_server_refuses_is_told(prompt: str, said: str, server: Any, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=said):
        painted(served(prompt), tmp_path / "job")


def test_a_video_that_is_too_short_or_cut_off_is_an_error(server: Any, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="gave 12 frames, expected 24"):
        painted(served(frames=24), tmp_path / "job")
    server.cut = 700
    with pytest.raises(ClipError, match="gave a file that cannot be read"):
        painted(served(), tmp_path / "cut")


def test_the_key_goes_to_the_server_of_the_environment_only(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeline from elsewhere may name an address: it must not get the key."""
    monkeypatch.setenv(ADDRESS, "https://api.example.com")
    painted(served(options={"poll": 0.01, "address": server.address}), tmp_path / "job")
    assert server.asked[0]["key"] is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"steps": 4}, "steps is no part of /v1/videos"),
        ({"negative_prompt": "blue"}, "negative_prompt is no part of /v1/videos"),
        ({"options": {"address": "ftp://x"}}, "address 'ftp://x' is no address"),
        ({"options": {"fields": {"a": []}}}, "option fields is a table of names with texts and numbers"),
        ({"memory": Memory(offload="group")}, "backend http does not take offload 'group'"),
    ],
)
def test_what_would_not_be_sent_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ClipError, match=said):
        family("http").plan(served(**more))


def test_no_server_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    assert f"set {ADDRESS}" in str(family("http").missing())
    with pytest.raises(ClipError, match="does not answer"):
        painted(served(options={"address": "http://127.0.0.1:9"}), tmp_path / "job")


# ------------------------------------------------------------------------------------------------- the table


def test_the_table_has_every_back_end_and_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("LIVEBRUSH_")]:
        monkeypatch.delenv(name)
    rows = {row.facts.name: row for row in table()}
    assert list(rows) == list(FAMILIES)
    assert rows["wan"].cells()["modes"] == "t2v i2v keyframes v2v control"
    assert "--licence hunyuan" in rows["hunyuan"].cells()["licence"]
    assert "hf download" in rows["wan"].cells()["state"]
    assert "LIVEBRUSH_OPENSORA" in rows["opensora"].cells()["state"]


def test_the_table_is_quick() -> None:
    """No torch: the command line and the page look at it."""
    code = (
        "import sys; from stream.clips.families import table; table(); print({'torch', 'diffusers'} & {*sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"
