"""LoRAs over HTTP and on the pages' control channels, with a worker by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner
from waiting import run
from webrig import SPEC, FakeSupervisor, Room, Served, served

from livebrush import app
from stream.config import Lora
from stream.messages import Mixed
from stream.mixing import LOST
from web import loras
from web.config import Config
from web.errors import RefusalError
from web.serve import plan

INK, OIL = Lora("/home/me/ink.safetensors", 0.8), Lora("owner/oil", 0.0)
KNOWS = replace(SPEC, loras=(INK, OIL))
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    with served(worker=FakeSupervisor(KNOWS)) as server:
        yield server


@pytest.fixture
def server(running: Served) -> Iterator[Served]:
    """The module's server, its worker ready and obedient, with the LoRAs that it began with."""
    yield running
    running.worker.answers, running.worker.mixed = True, Mixed(None)
    running.call(running.worker.become, "restarting")
    running.call(running.worker.become, "ready")
    assert running.http.put("/api/loras", json={"strengths": {"ink": 0.8, "oil": 0.0}}).status_code == 200
    running.worker.remixes.clear()


def told(ink: float, oil: float, changing: bool = False) -> dict[str, object]:
    known = [{"name": "ink", "strength": ink}, {"name": "oil", "strength": oil}]
    return {"loras": known, "changing": changing}


# ------------------------------------------------------------------------------------------------- HTTP


def test_strengths_are_told_and_changed_and_folders_are_nobodys_business(server: Served) -> None:
    assert server.http.get("/api/loras").json() == told(0.8, 0.0)
    answer = server.http.put("/api/loras", json={"strengths": {"oil": 1}})
    assert (answer.status_code, answer.json()) == (200, told(0.8, 1.0))
    assert server.worker.remixes[-1].loras == (INK, replace(OIL, strength=1.0))
    assert server.http.put("/api/loras", json={"strengths": {}}).json() == told(0.8, 1.0)


def test_what_the_worker_refuses_is_told_and_the_old_ones_stay(server: Served) -> None:
    server.worker.mixed = Mixed("lora owner/oil has no weights for this model: use one made for its kind")
    answer = server.http.put("/api/loras", json={"strengths": {"oil": 1.0}})
    assert (answer.status_code, answer.json()["error"]) == (422, server.worker.mixed.error)
    assert server.http.get("/api/loras").json() == told(0.8, 0.0)


@pytest.mark.parametrize(("body", "why"), [
    (b'{"strengths":{"moon":1}}', "lora 'moon' is unknown here: use ink, oil"),
    (b'{"strengths":{"/home/me/ink.safetensors":1}}', "is unknown here: use ink, oil"),
    (b'{"strengths":{"ink":11}}', "strengths.ink is 11: input should be less than or equal to 10"),
    (b'{"strengths":{"ink":-10.5}}', "greater than or equal to -10"),
    (b'{"strengths":{"ink":NaN}}', "strengths.ink"), (b'{"strengths":{"ink":"1"}}', "valid number"),
    (b'{"strengths":{"ink":null}}', "valid number"), (b'{"strengths":[]}', "strengths is []"),
    (b"{}", "strengths is missing"), (b'{"strengths":{},"more":1}', "more is not known here"),
    (b"[]", "the body is []"),
    (b'{"strengths":{"\\ud800":1}}', ""), (b'{"strengths":{"' + b"x" * 9000 + b'":1}}', "is unknown here"),
])  # fmt: skip
def test_what_is_wrong_with_a_body_is_one_clear_error(server: Served, body: bytes, why: str) -> None:
    answer = server.http.put("/api/loras", content=body, headers=JSON)
    assert answer.status_code in (400, 422)
    assert why in answer.json()["error"]
    assert len(answer.json()["error"]) < 300
    assert not server.worker.remixes


def test_the_guard_is_in_front_of_it_too(server: Served) -> None:
    body = b'{"strengths":{"ink":0}}'
    refused = [({"origin": "http://evil.example"}, 403), ({"host": "evil.example"}, 403),
               ({"sec-fetch-site": "cross-site"}, 403), ({"content-type": "text/plain"}, 403)]  # fmt: skip
    for header, status in refused:
        assert server.http.put("/api/loras", content=body, headers=JSON | header).status_code == status
    assert server.http.put("/api/loras", content=b" " * 70_000, headers=JSON).status_code == 413
    assert server.http.post("/api/loras", content=body, headers=JSON).status_code == 405
    assert not server.worker.remixes


def test_a_long_change_is_answered_before_it_holds(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loras, "MIX_S", 0.05)
    server.worker.answers = False
    answer = server.http.put("/api/loras", json={"strengths": {"ink": 0.5}})
    assert (answer.status_code, answer.json()) == (202, told(0.8, 0.0, changing=True))
    server.call(server.worker.mixing.answered, Mixed(None))
    assert server.http.get("/api/loras").json() == told(0.5, 0.0)


def test_changes_of_two_pages_add_up(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loras, "MIX_S", 0.02)
    server.worker.answers = False
    for strengths in ({"ink": 0.5}, {"oil": 0.25}, {"oil": 0.75}):
        assert server.http.put("/api/loras", json={"strengths": strengths}).status_code == 202
    server.call(server.worker.mixing.answered, Mixed(None))
    server.call(server.worker.mixing.answered, Mixed(None))
    assert server.http.get("/api/loras").json() == told(0.5, 0.75)
    assert len(server.worker.remixes) == 2


def test_without_a_worker(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loras, "MIX_S", 0.02)
    server.call(server.worker.become, "failed", "no such model")
    answer = server.http.put("/api/loras", json={"strengths": {"ink": 0.5}})
    assert (answer.status_code, answer.json()["error"]) == (503, "nothing paints: no such model")
    assert answer.headers["retry-after"]


def test_a_worker_that_dies_of_it_is_told() -> None:
    async def test() -> None:
        worker = FakeSupervisor(KNOWS, answers=False)
        worker.start()
        asked = asyncio.ensure_future(loras.change(worker, {"ink": 0.1}))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        worker.mixing.lost()
        with pytest.raises(RefusalError) as error:
            await asked
        assert (error.value.status, str(error.value)) == (503, LOST)

    run(test())


def test_a_server_without_loras_has_none_and_says_how_to_get_some() -> None:
    with served() as server:
        assert server.http.get("/api/loras").json() == {"loras": [], "changing": False}
        answer = server.http.put("/api/loras", json={"strengths": {"ink": 1.0}})
        assert answer.status_code == 422
        assert answer.json()["error"] == "lora 'ink' is unknown here: start the server with --lora FILE:0"


# ------------------------------------------------------------------------------------------------- the pages


def test_every_page_hears_of_a_change() -> None:
    async def test() -> None:
        room = Room(spec=KNOWS)
        room.worker.start()
        (_, one, _), (_, two, _) = await room.enter(), await room.enter()
        assert one.of("loras")[0] == two.of("loras")[0] == {"type": "loras", **told(0.8, 0.0)}
        await room.worker.mix((replace(INK, strength=0.1), OIL))
        for link in (one, two):
            assert [(m["changing"], m["loras"][0]["strength"]) for m in link.of("loras")[-2:]] == [
                (True, 0.8), (False, 0.1)
            ]  # fmt: skip
            assert not link.of("error")
        await room.sessions.close_all("the end")

    run(test())


def test_pages_of_a_server_without_loras_hear_nothing_of_them() -> None:
    async def test() -> None:
        room = Room()
        room.worker.start()
        _, link, _ = await room.enter()
        await room.worker.mix(())
        assert not link.of("loras")
        await room.sessions.close_all("the end")

    run(test())


# ------------------------------------------------------------------------------------------------- the start


def test_the_servers_loras_come_after_the_presets() -> None:
    made = plan(Config(model="sd15-lcm", loras=(INK,), size=(128, 64)))
    assert [x.source for x in made.spec.loras] == ["latent-consistency/lcm-lora-sdv1-5", INK.source]
    assert (made.spec.settings.width, made.spec.settings.height) == (128, 64)
    assert plan(Config(model="pass-through", loras=(INK,))).spec.loras == (INK,)
    assert made.spec.changes
    assert not plan(Config(model="sd15-lcm")).spec.changes


def test_the_command_line_names_loras_and_folders_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Config] = []
    monkeypatch.setattr("web.serve.serve", lambda config, _out, _console: asked.append(config))
    for name in ("b.safetensors", "a.safetensors", "c.txt"):
        (tmp_path / name).touch()
    given = ["serve", "--lora", "ink.safetensors:0.8", "--lora", "owner/oil", "--lora-folder", str(tmp_path)]
    assert CliRunner().invoke(app, given).exit_code == 0
    assert asked[0].loras == (
        Lora("ink.safetensors", 0.8), Lora("owner/oil", 1.0),
        Lora(str(tmp_path / "a.safetensors"), 0.0), Lora(str(tmp_path / "b.safetensors"), 0.0),
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    refused = CliRunner().invoke(app, ["serve", "--lora-folder", str(tmp_path / "empty")])
    assert (refused.exit_code, "has no .safetensors files: name the folder" in refused.output) == (2, True)
    assert len(asked) == 1
