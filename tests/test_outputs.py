"""Outputs of sessions: over HTTP, on the control channel, from the command line; snapshots."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from outlet_rig import decoded, opus
from PIL import Image as Pictured
from test_serve import refused
from waiting import comes_to, run
from webrig import Room, Served, flat, served

from stream.errors import SinkError
from stream.frame import Frame
from stream.settings import Settings
from stream.sinks.live import recognise
from tools.rows_sinks import r12
from tools.stage import Stage
from web.access import SCOPE, Role
from web.errors import RefusalError
from web.outputs import MOST


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as made:
        yield made


@pytest.fixture
def session(server: Served) -> Iterator[str]:
    """The address of a session whose page is there."""
    begun = server.offer().json()["id"]
    server.call(server.answers.links[-1].connect)
    yield f"/api/sessions/{begun}"
    server.empty()


def frames(server: Served, count: int = 1, first: int = 0) -> None:
    """So many pictures of the session's camera, a thirtieth of a second apart."""
    for number in range(first, first + count):
        frame = Frame(flat(40 + number), number * 3000, captured_at=time.monotonic())
        server.call(server.answers.links[-1].receive, frame)
        time.sleep(0.033)


# ------------------------------------------------------------------------------------------------- outputs


def test_an_output_gets_the_painted_picture_until_it_is_ended(server: Served, session: str, tmp_path: Path) -> None:
    assert server.http.get(f"{session}/outputs").json() == {"outputs": []}
    answer = server.http.post(f"{session}/outputs", json={"to": f"record:{tmp_path}/show.mp4"})
    made = answer.json()
    assert (answer.status_code, made["to"], made["kind"]) == (201, "record:show.mp4", "record")
    assert (made["state"], made["error"], made["frames"]) == ("starting", None, 0)

    def running() -> bool:
        frames(server)
        (now,) = server.http.get(f"{session}/outputs").json()["outputs"]
        return now["state"] == "running" and now["frames"] >= 10 and now["since_s"] > 0

    comes_to(running)
    told = [m["outputs"] for m in server.answers.links[-1].told if m["type"] == "outputs"]
    assert [o[0]["state"] for o in told] == ["starting", "running"]
    listed = [s for s in server.http.get("/api/sessions").json()["sessions"] if s["id"] in session]
    assert listed[0]["outputs"][0]["id"] == made["id"]
    assert server.http.delete(f"{session}/outputs/{made['id']}").status_code == 204
    assert server.http.delete(f"{session}/outputs/{made['id']}").status_code == 404
    assert server.http.get(f"{session}/outputs").json() == {"outputs": []}
    told = [m["outputs"] for m in server.answers.links[-1].told if m["type"] == "outputs"]
    assert told[-1] == []
    pictures = decoded(tmp_path / "show.mp4")
    assert len(pictures) >= 10
    grey = pictures[0].to_ndarray(format="gray")[10, 10]
    assert grey > 140, "the picture that the worker paints is the input's negative"


def test_the_end_of_a_session_finishes_its_outputs(server: Served, session: str, tmp_path: Path) -> None:
    server.http.post(f"{session}/outputs", json={"to": f"{tmp_path}/show.ts"})

    def running() -> bool:
        frames(server)
        return bool(server.http.get(f"{session}/outputs").json()["outputs"][0]["frames"] >= 5)

    comes_to(running)
    assert server.http.delete(session).status_code == 204
    assert len(decoded(tmp_path / "show.ts")) >= 5


def test_the_sessions_sound_goes_along(server: Served, session: str, tmp_path: Path) -> None:
    begun = server.call(server.house.sessions.find, session.rpartition("/")[2])
    feed = server.call(begun.sound.feed)
    server.http.post(f"{session}/outputs", json={"to": f"record:{tmp_path}/show.mp4"})
    packets = iter(opus(20, (0.0, 20.0)))

    def running() -> bool:
        for number in range(15):
            now = time.monotonic()
            frame = Frame(flat(60), round(now * 90_000), captured_at=now)
            server.call(server.answers.links[-1].receive, frame)
            for _ in range(2):
                server.call(feed.put, next(packets), round(now * 48_000) + number, now)
            time.sleep(0.04)
        return bool(server.http.get(f"{session}/outputs").json()["outputs"][0]["frames"] >= 15)

    comes_to(running)
    assert server.http.delete(session).status_code == 204
    assert len(decoded(tmp_path / "show.mp4")) >= 10
    with av.open(str(tmp_path / "show.mp4")) as container:
        heard = list(container.decode(audio=0))
    assert sum(frame.samples for frame in heard) >= 10 * 960


@pytest.mark.parametrize(("body", "status", "says"), [
    ({"to": "nonsense"}, 422, "use virtualcam"),
    ({"to": "spout:X"}, 422, "Spout is of Windows"),
    ({"to": ""}, 422, "to is ''"),
    ({}, 422, "to is missing"),
    ({"to": "ndi", "more": 1}, 422, "more is not known here"),
])  # fmt: skip
def test_what_is_no_output_is_refused(server: Served, session: str, body: Any, status: int, says: str) -> None:
    answer = server.http.post(f"{session}/outputs", json=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert server.http.post("/api/sessions/none/outputs", json={"to": "ndi"}).status_code == 404


def test_kinds_say_whether_they_can_be_used(server: Served) -> None:
    found = {kind["kind"]: kind for kind in server.http.get("/api/outputs").json()["outputs"]}
    assert "fake" not in found
    assert (found["record"]["usable"], found["record"]["why"]) == (True, None)
    assert found["record"]["form"] == "record:FILE.mp4, FILE.ts, FILE.mkv"
    assert [k for k, v in found.items() if v["usable"] is (v["why"] is not None)] == []


def test_only_admins_open_outputs(server: Served, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from web import access

    for role, status in ((Role.NOBODY, 401), (Role.CONTROL, 403), (Role.ADMIN, 200)):
        monkeypatch.setattr(access, "role_of", lambda _connection, role=role: role)
        assert server.http.get(f"{session}/outputs").status_code == status
        assert server.http.get("/api/outputs").status_code == status
    assert SCOPE


def test_there_is_an_end_to_outputs() -> None:
    async def test() -> None:
        room = Room()
        session, link, _ = await room.enter()
        for _ in range(MOST):
            session.outputs.add(recognise("fake:failing"))
        with pytest.raises(RefusalError, match="8 outputs are there already"):
            session.outputs.add(recognise("fake:failing"))
        other = await session.outputs.detach(session.outputs.facts()[0].id)
        assert other is None
        session.outputs.add(recognise("fake:failing"))
        link.told.clear()
        session.parted(link.control)
        link.connect()  # whoever comes later is told
        assert len(next(m for m in link.told if m["type"] == "outputs")["outputs"]) == MOST
        await room.sessions.close(session, "over")
        with pytest.raises(RefusalError, match="the session ends"):
            session.outputs.add(recognise("fake:failing"))
        assert session.outputs.facts() == []

    run(test())


# ------------------------------------------------------------------------------------------------- snapshots


def test_a_snapshot_is_the_newest_picture_with_its_settings(server: Served, session: str) -> None:
    early = server.http.get(f"{session}/snapshot.png")
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    frames(server)
    answer = comes_to(lambda: (got := server.http.get(f"{session}/snapshot.png")).status_code == 200 and got)
    assert answer.headers["content-type"] == "image/png"
    with Pictured.open(io.BytesIO(answer.content)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), 255 - flat(40))
        told = json.loads(picture.text["livebrush"])  # type: ignore[attr-defined]
    assert told["model"] == "fake"
    assert Settings.checked(**told["settings"]) == server.worker.facts.defaults
    assert b"iTXtlivebrush\0" in answer.content, "as web/static/js/png.js writes it"
    assert server.http.get("/api/sessions/none/snapshot.png").status_code == 404


# ------------------------------------------------------------------------------------------------- from the start


def test_outputs_of_the_command_line_are_there_before_the_first_page(tmp_path: Path) -> None:
    with served(outputs=(f"record:{tmp_path}/show.mp4", "fake:failing")) as server:
        (live,) = server.http.get("/api/sessions").json()["sessions"]
        assert (live["name"], live["source"]) == ("live", "whip")
        assert [o["to"] for o in live["outputs"]] == ["record:show.mp4", "fake:failing"]
        assert server.http.get("/api/sessions/live/snapshot.png").status_code == 503


def test_the_command_line_says_what_is_no_output() -> None:
    assert "output nonsense is of no known kind: use virtualcam" in refused("--output", "nonsense").replace("'", "")
    assert "Syphon is of macOS" in refused("--output", "record:a.mp4", "--output", "syphon:X")
    with pytest.raises(SinkError):
        recognise("nonsense")


# ------------------------------------------------------------------------------------------------- what others notice


@pytest.mark.alone
def test_stuck_failing_and_crashing_outputs_cost_the_peers_nothing(tmp_path: Path) -> None:
    """Row R12. Taken anew where the machine was disturbed, twice at most, as in tests/browser/conftest.py."""
    for _ in range(3):
        row = r12(Stage(tmp_path, 4.0))
        if row.holds:
            return
    raise AssertionError(f"{row.figure}: {row.hold}, got {row.value} {row.note}")
