"""Clips over HTTP: OpenAI's client and its wire form, the guards, uploads, and what strangers may not name."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import clipfakes
import httpx
import numpy as np
import openai
import pytest
from clipfakes import FILES, command, drawn, plans
from PIL import Image
from waiting import PATIENCE_S, run
from webrig import Served, served

from stream.clips.caretaker import Caretaker
from stream.clips.planner import LateError, Planner
from stream.clips.queue import Queue
from stream.clips.timeline import Timeline
from web import auth, uploads
from web.clips import Clips
from web.errors import RefusalError
from web.orders import Rules, named

TESTS = Path(__file__).parent
JSON = {"content-type": "application/json"}
LIMIT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Served]:
    """A server whose back end draws: the first job starts the runner, which stays."""
    before = dict(clipfakes.FAMILIES)
    clipfakes.stand_in()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        queue = Queue(folder)
        rules = Rules({"pan": "to one side", "zoom": "into it"}, frozenset(), ("drawing",))
        caretaker = Caretaker(queue, lambda q: command(q, FILES))
        clips = Clips(queue, rules, limit=LIMIT, caretaker=caretaker, planner=Planner(plans()))
        with served(clips=clips) as server:
            yield server
        queue.close()
    clipfakes.FAMILIES.clear()
    clipfakes.FAMILIES.update(before)


@pytest.fixture
def server(running: Served) -> Iterator[Served]:
    """The module's server, with no clips."""
    yield running
    for video in running.http.get("/v1/videos", params={"limit": 100}).json()["data"]:
        running.http.delete(f"/v1/videos/{video['id']}")


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(server: Served, **fields: Any) -> httpx.Response:
    return server.http.post("/v1/videos", json=fields)


def until(
    server: Served, video: str, holds: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE_S
) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while not holds(now := server.http.get(f"/v1/videos/{video}").json()):
        assert time.monotonic() < deadline, now
        time.sleep(0.02)
    return now


def over(video: dict[str, Any]) -> bool:
    return video["status"] in ("completed", "failed")


def png(width: int = 64, height: int = 48) -> bytes:
    made = io.BytesIO()
    Image.fromarray(drawn(1, 8, width, height)).save(made, "PNG")
    return made.getvalue()


def film(frames: int = 6) -> bytes:
    made = io.BytesIO()
    with av.open(made, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(number, frames, 64, 48), format="rgb24")))
        container.mux(stream.encode())
    return made.getvalue()


# ------------------------------------------------------------------------------------------------- OpenAI's client


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openais_client_makes_lists_downloads_and_deletes(client: openai.OpenAI, server: Served) -> None:
    video = client.videos.create_and_poll(prompt="a disc", seconds="4", poll_interval_ms=50)
    assert (video.status, video.progress, video.error, video.object) == ("completed", 100, None, "video")
    assert (video.seconds, video.size, video.model, video.prompt) == ("4", "64x64", "drawing", "a disc")
    assert video.id.startswith("video_")
    assert video.completed_at is not None
    assert video.created_at <= video.completed_at
    file = client.videos.download_content(video.id).read()
    with av.open(io.BytesIO(file)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert container.streams.video[0].average_rate == Fraction(8)
    assert len(frames) == 32
    assert np.abs(frames[5].astype(int) - drawn(5, 32)).mean() < 6
    picture = client.videos.download_content(video.id, variant="thumbnail").read()
    assert Image.open(io.BytesIO(picture)).size == (64, 64)
    other = client.videos.create(prompt="another", seconds="4")
    assert [v.id for v in client.videos.list(limit=1, order="asc")] == [video.id, other.id], "page by page"
    assert [v.id for v in client.videos.list()] == [other.id, video.id]
    gone = client.videos.delete(video.id)
    assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError, match="is not here"):
        client.videos.retrieve(video.id)
    assert not list((server.house.clips.queue.folder / "jobs").glob(f"{video.id}*"))  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_example_of_the_docs_runs(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (TESTS.parent / "docs" / "clips-server.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8000", server.url), found)
    found["client"].close()
    assert (tmp_path / "out.mp4").stat().st_size > 1000


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openais_client_sends_a_picture_and_hears_what_is_wrong(client: openai.OpenAI, server: Served) -> None:
    video = client.videos.create(prompt="slow 5", size="64x128", input_reference=("mine.png", png()))  # type: ignore[arg-type]
    assert video.size == "64x128"
    told = server.http.get(f"/v1/videos/{video.id}").json()
    assert told["timeline"]["input"] == f"{video.id}/input"
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        client.videos.create(prompt="x", model="sora-2")
    assert wrong.value.body == {
        "message": "model 'sora-2' is not for everybody: use builtin, or start the server with --allow NAME",
        "type": "invalid_request_error", "param": "model", "code": None,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- a clip's life


def test_a_clip_is_followed_previewed_and_read_in_parts(server: Served) -> None:
    made = post(server, timeline={"prompt": "slow 0.4", "frames": 16, "fps": "25/2", "loop": True}, seed=7).json()
    assert (made["status"], made["seed"], made["timeline"]["fps"]) == ("queued", 7, "25/2")
    address = f"/v1/videos/{made['id']}"
    assert server.http.get(address + "/content").json()["error"]["code"] == "not_ready"
    seen: list[dict[str, Any]] = []
    with server.http.stream("GET", address + "/events", timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
                if preview := seen[-1]["preview"]:
                    picture = server.http.get(preview)
                    assert picture.status_code == 404 or Image.open(io.BytesIO(picture.content)).size == (64, 64)
    assert {video["status"] for video in seen[-1:]} == {"completed"}
    assert any(video["preview"] and video["status"] == "in_progress" for video in seen)
    far = [video["progress"] for video in seen]
    assert far == sorted(far)
    assert len(set(far)) > 3
    whole = server.http.get(address + "/content")
    part = server.http.get(address + "/content", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content, whole.headers["content-type"]) == (206, b"ftyp", "video/mp4")
    manifest = server.http.get(address + "/content", params={"variant": "manifest"}).json()
    assert manifest["timeline"] == seen[-1]["timeline"]
    again = post(server, timeline=manifest["timeline"]).json()
    until(server, again["id"], over)
    assert server.http.get(f"/v1/videos/{again['id']}/content").content == whole.content, "rendered again, the same"


def test_cancel_ends_between_two_steps_and_the_next_goes_on(server: Served) -> None:
    slow, after = post(server, prompt="slow 1").json(), post(server, prompt="after").json()
    address = f"/v1/videos/{slow['id']}"
    until(server, slow["id"], lambda v: v["stage"] == "denoise")
    wanted = {"runner": "running", "pid": 0, "notice": "", "restarts": 0, "waiting": 1, "running": 1}
    deadline = time.monotonic() + PATIENCE_S
    while (health := server.http.get("/healthz").json()["clips"] | {"pid": 0}) != wanted:
        assert time.monotonic() < deadline, health
    assert server.http.post(address + "/resume").status_code == 409
    assert server.http.post(address + "/cancel").status_code == 200
    assert until(server, slow["id"], over)["error"] == {"code": "cancelled", "message": "it was cancelled"}
    assert until(server, after["id"], over)["status"] == "completed"
    assert server.http.post(address + "/cancel").status_code == 409
    assert server.http.post(address + "/resume").json()["status"] == "queued"
    assert until(server, slow["id"], over)["status"] == "completed"


def test_a_clip_that_fails_says_why(server: Served) -> None:
    made = post(server, prompt="wrong").json()
    error = until(server, made["id"], over)["error"]
    assert error == {"code": "failed", "message": "steps 7 is not what this takes: use 4"}


def test_several_at_once_have_a_seed_each_and_a_folder_each(server: Served) -> None:
    answer = server.http.post("/v1/videos", data={"prompt": "slow 9", "n": "3", "seed": "5"},
                              files={"input_reference": ("a.mp4", film())})  # fmt: skip
    assert answer.status_code == 200, answer.text
    videos = server.http.get("/v1/videos", params={"order": "asc"}).json()["data"]
    assert [v["seed"] for v in videos] == [5, 6, 7]
    assert {v["batch"] for v in videos} == {answer.json()["batch"]}
    assert server.http.delete(f"/v1/videos/{videos[0]['id']}").status_code == 200
    again = post(server, timeline={"prompt": "slow 9", "input": f"{videos[1]['id']}/input"})
    assert again.json()["timeline"]["input"] == f"{again.json()['id']}/input"


def test_a_finished_clip_is_an_input(server: Served) -> None:
    first = post(server, prompt="quick").json()
    early = post(server, timeline={"input": first["id"]})
    until(server, first["id"], over)
    second = post(server, timeline={"input": first["id"]})
    assert (early.status_code == 422 and "not there" in early.text) or early.status_code == 200
    assert second.status_code == 200
    assert until(server, second.json()["id"], over)["status"] == "completed"


def test_the_page_follows_all_of_them(server: Served) -> None:
    first = post(server, prompt="slow 0.3").json()
    with server.http.stream("GET", "/api/clips/events", timeout=30) as answer:
        data = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
        began = next(data)
        assert [v["id"] for v in began["changed"]] == began["ids"] == [first["id"]]
        while next(data)["changed"][0]["status"] != "completed":
            pass
        server.http.delete(f"/v1/videos/{first['id']}")
        assert next(data) == {"changed": [], "ids": []}


def test_facts_and_plan(server: Served) -> None:
    facts = server.http.get("/api/clips").json()
    assert [m["name"] for m in facts["motions"]] == ["pan", "zoom"]
    assert facts["timeline"]["properties"].keys() == Timeline.model_fields.keys()
    assert (facts["fps"], facts["size"], facts["formats"][0]) == (8, [64, 64], "mp4")
    asked = {"timeline": {"frames": 20, "input": "upload", "segments": [{"motion": "pan"}, {"motion": "zoom"}]}}
    plan = server.http.post("/api/clips/plan", json=asked).json()
    assert (plan["frames"], plan["unet_calls"], plan["width"]) == (20, 4, 64)
    assert "without the input" in plan["notes"][0]
    assert [(s["start"], s["end"]) for s in plan["timeline"]["segments"]] == [(0, 10), (10, 20)]


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"size": "64"}, "size", "WIDTHxHEIGHT"),
        ({"size": "63x64"}, "width", "63"),
        ({"seconds": "-4"}, "seconds", "no length"),
        ({"seconds": "4e9"}, "seconds", "no length"),
        ({"n": 0}, "n", "greater than"),
        ({"colour": "red"}, "colour", "not known"),
        ({"format": "exe"}, "format", "mp4"),
        ({"timeline": {"frames": 10**9}}, "frames", "100000"),
        ({"timeline": {"frames": 20_000}}, "frames", "10000"),
        ({"timeline": {"segments": [{"start": 0, "end": 9}, {"start": 30}]}}, "segments.1.start", "leave a gap"),
        ({"timeline": {"segments": [{"colour": 1}]}}, "segments.0.colour", "not a key"),
        ({"timeline": {"steps": 7}}, "steps", "use 4"),
        ({"timeline": {"frames": 9000, "output": {"interpolate": 4}}}, "output.interpolate", "use less"),
        ({"size": "2048x2048", "timeline": {"output": {"upscale": 4}}}, "output.upscale", "use less"),
        ({"timeline": {"backend": "command"}}, "backend", "use drawing"),
        ({"timeline": {"backend": "nonsense"}}, "backend", "use drawing"),
        ({"timeline": {"model": "/etc/passwd"}}, "model", "--allow"),
        ({"timeline": {"model": "owner/name"}}, "model", "--allow"),
        ({"timeline": {"options": {"command": "rm"}}}, "options", "--allow"),
        ({"timeline": {"input": "/etc/passwd"}}, "input", "send the file"),
        ({"timeline": {"input": "../../secret.png"}}, "input", "send the file"),
        ({"timeline": {"input": "camera"}}, "input", "send the file"),
        ({"timeline": {"input": "video_x/../../secret"}}, "input", "send the file"),
        ({"timeline": {"input": "video_0123"}}, "input", "not here"),
        ({"timeline": {"input": "upload"}}, "input", "send the file"),
        ({"timeline": {"segments": [{"motion": "owner/module"}]}}, "segments.0.motion", "use pan or zoom"),
        ({"timeline": {"output": {"audio": "/home/me/song.wav"}}}, "output.audio", "--allow"),
        ({"timeline": {"output": {"upscaler": "weights.pth"}}}, "output.upscaler", "--allow"),
        ({"timeline": {"memory": {"quantise": "model.gguf"}}}, "memory.quantise", "--allow"),
        ({"timeline": {"loras": [{"source": "a.safetensors"}]}}, "loras.0.source", "--allow"),
        ({"timeline": {"keyframes": [{"frame": 0, "image": "a.png"}]}}, "keyframes.0.image", "--allow"),
        ({"timeline": {"control": {"model": "builtin"}}}, "control.model", "--allow"),
        ({"input_reference": {"image_url": "http://169.254.169.254/"}}, "input_reference", "data:"),
        ({"input_reference": {"image_url": "data:image/png;base64,%%"}}, "input_reference", "base64"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(server: Served, fields: dict[str, Any], param: str, word: str) -> None:
    answer = post(server, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, param), error
    assert word in error["message"]
    assert server.http.get("/v1/videos").json()["data"] == []
    if "input" not in param:
        plain = server.http.post("/api/clips/plan", json=fields)
        assert (plain.status_code, plain.json().get("param", param)) == (422, param)
        assert word in plain.json()["error"]


def test_every_text_of_a_timeline_is_known_to_be_harmless_or_checked() -> None:
    """A new field of a timeline that takes a name must be given a rule."""
    schema = Timeline.model_json_schema()
    harmless = {"prompt", "negative_prompt", "licence", "Key.prompt", "Segment.prompt"}
    checked = {"input", "backend", "model", "Lora.source", "Segment.motion", "Keyframe.image", "Control.model",
               "Control.input", "Memory.quantise", "Output.audio", "Output.upscaler"}  # fmt: skip
    found = set(texts("", schema)) | {name for k, part in schema["$defs"].items() for name in texts(f"{k}.", part)}
    assert found == harmless | checked
    lora = {"source": "lora"}
    full = Timeline.model_validate({
        "backend": "backend", "model": "model", "loras": [lora],
        "segments": [{"motion": "motion", "motion_loras": [lora]}], "keyframes": [{"frame": 0, "image": "image"}],
        "control": {"model": "control", "input": "video", "keyframes": [{"frame": 0, "image": "image"}]},
        "memory": {"quantise": "quantise"}, "output": {"audio": "sound", "upscaler": "weights"},
    })  # fmt: skip
    assert [name for _, name in named(full)] == ["backend", "model", "lora", "motion", "lora", "image", "control",
                                                 "video", "image", "quantise", "sound", "weights"]  # fmt: skip


def texts(prefix: str, schema: dict[str, Any]) -> Iterator[str]:
    """The fields that take any text."""
    for name, field in schema["properties"].items():
        kinds = field.get("anyOf", [field])
        if any(k.get("type") == "string" and "enum" not in k for k in kinds):
            yield prefix + name


def test_what_the_server_allows_is_taken(folder: Path) -> None:
    rules = Rules({"pan": ""}, frozenset({"owner/module", "wan"}))
    rules.check(Timeline.model_validate({"backend": "wan", "segments": [{"motion": "owner/module"}]}))
    with pytest.raises(RefusalError, match="not for everybody"):
        rules.check(Timeline(model="owner/other"))


def test_a_full_queue_says_when_to_come_back(server: Served) -> None:
    assert post(server, prompt="slow 9", n=LIMIT).status_code == 200
    until(server, server.http.get("/v1/videos").json()["data"][-1]["id"], lambda v: v["status"] == "in_progress")
    assert post(server, prompt="slow 9").status_code == 200, "one runs"
    full = post(server, prompt="slow 9")
    assert (full.status_code, full.headers["retry-after"], full.json()["error"]["code"]) == (429, "20", "queue_full")


def test_a_back_end_that_is_not_ready_says_what_is_missing(server: Served) -> None:
    answer = post(server, prompt="missing")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        503,
        "backend drawing is not ready: its pencil: buy one",
    )


def test_strangers_and_their_bodies(server: Served) -> None:
    """The same guards as everything else, for the form as well."""
    form: dict[str, Any] = {"data": {"prompt": "x"}, "files": {"input_reference": ("a.png", png())}}
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for answer in (server.http.post("/v1/videos", headers=headers, **form),
                       server.http.post("/v1/videos/video_1/cancel", headers=headers),
                       server.http.delete("/v1/videos/video_1", headers=headers)):  # fmt: skip
            told = answer.json()["error"]
            assert answer.status_code == 403 or ("Sec-Fetch-Site" in headers and answer.status_code in (403, 404)), told
            assert told["type"] == "invalid_request_error"
    assert server.http.post("/v1/videos", content=b"prompt=x").status_code == 403
    assert server.http.post("/v1/videos", content=b"{", headers=JSON).status_code == 400
    assert server.http.post("/v1/videos", content=b"[" * 100_000, headers=JSON).status_code == 400
    assert server.http.post("/v1/videos", content=b"3", headers=JSON).status_code == 422
    large = server.http.post("/v1/videos", content=b" " * (auth.TIMELINE_LIMIT + 1), headers=JSON)
    assert large.status_code == 413
    assert server.http.post("/api/sessions", **form).status_code == 403, "forms are for clips only"
    wrong = server.http.post("/v1/videos", data={"prompt": "x"}, files={"other": ("a.png", png())})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "other")
    assert server.http.get("/v1/videos").json()["data"] == []


def test_an_upload_that_is_too_large_is_cut_off(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "UPLOAD_LIMIT", 200_000)

    def chunks() -> Iterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="input_reference"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            yield b"\0" * 10_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert server.http.post("/v1/videos", content=chunks(), headers=headers).status_code == 413
    whole = b"".join(chunks())
    assert server.http.post("/v1/videos", content=whole, headers=headers).status_code == 413
    monkeypatch.setattr(auth, "UPLOAD_S", 0.0)
    assert server.http.post("/v1/videos", content=whole[:1000], headers=headers).status_code == 408


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/passwd\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


@pytest.mark.parametrize(
    "data", [b"", b"text", PLAYLIST, CONCAT, SVG, png()[:200], film()[:100], b"\0\0\0\x18ftypisom", b"GIF89a",
             b"\x1a\x45\xdf\xa3"],
)  # fmt: skip
def test_what_is_no_picture_and_no_video_is_not_taken(server: Served, data: bytes) -> None:
    jobs = server.house.clips.queue.folder / "jobs"  # type: ignore[union-attr]
    before = set(jobs.iterdir())
    answer = server.http.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": ("fine.mp4", data)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "input_reference")
    assert set(jobs.iterdir()) <= before


def test_uploads_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    assert uploads.store(io.BytesIO(png()), tmp_path).name == "upload.png"
    assert uploads.store(io.BytesIO(film()), tmp_path).name == "upload.mp4"
    huge = io.BytesIO()
    Image.new("1", (9000, 8)).save(huge, "PNG")
    with pytest.raises(RefusalError, match="9000x8"):
        uploads.store(io.BytesIO(huge.getvalue()), tmp_path)
    assert uploads.from_url("data:image/png;base64," + base64.b64encode(b"abc").decode()) == b"abc"


# ------------------------------------------------------------------------------------------------- around it


def test_a_server_without_clips_says_so() -> None:
    with served() as server:
        assert server.http.get("/healthz").json()["clips"] is None
        assert server.http.get("/api/schema").json()["clips"] is False
        answer = post(server, prompt="x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "off")
        assert "--no-clips" in server.http.get("/api/clips").json()["error"]


def test_who_says_what_it_takes_is_started_again_when_it_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    dies = [sys.executable, "-c", "import sys; sys.stdin.readline()"]

    async def job() -> None:
        planner = Planner(dies)
        for started in (dies, plans()):
            planner._command = started
            try:
                assert (await planner.plan(Timeline(backend="drawing", frames=9))).frames == 9
            except LateError:
                assert started is dies
        assert planner._process is not None
        assert planner._process.returncode is None
        await planner.close()
        await planner.close()

    run(job())
