"""`livebrush serve` as it is run: how it starts, what it says, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner
from waiting import run
from webrig import Room, flat
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from workers import shared

import livebrush
from stream.errors import ConfigError, SettingsError
from stream.messages import Fake
from web import jpeg, serve, status
from web.config import Config
from web.messages import PICTURE
from web.serve import PASS_THROUGH, bind, plan, wants_browser

ROOT = Path(livebrush.__file__).parent
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def command(*words: Any) -> Any:
    return CliRunner().invoke(livebrush.app, ["serve", *map(str, words)])


def refused(*words: Any) -> str:
    """What `livebrush serve` says before it gives up with exit code 2: one message and nothing else."""
    with patch.object(serve, "import_module", side_effect=AssertionError("it started")):
        result = command(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


# ------------------------------------------------------------------------------------------------- what is wrong


def test_a_port_in_use_is_one_message_that_names_a_free_one(taken: int) -> None:
    said = refused("--port", taken)
    assert f"127.0.0.1:{taken} cannot be bound (Address already in use): use --port" in said
    free = int(said.rsplit(" ", 1)[1])
    assert taken < free < taken + 20
    socket.create_server(("127.0.0.1", free)).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7"])
def test_off_loopback_nobody_listens_by_mistake(host: str) -> None:
    said = refused("--host", host)
    assert f"host {host} is open to the network" in said
    assert "--insecure" in said


@pytest.mark.parametrize(("words", "told"), [
    (("--model", "nothing"), "model 'nothing' is unknown: use builtin"),
    (("--source", "nothing.mp4"), "input nothing.mp4 is not there"),
    (("--source", "camera:left"), "use camera, camera:1 or /dev/video0"),
    (("--source", "gopher://x/y"), "addresses that begin with gopher:// are not opened"),
    (("--source", "rtsp:///live"), "names no host"),
    (("--size", "65"), "width 65 is not a multiple of 8"),
    (("--size", "big"), "'big' is no size"),
    (("--engine", "steam"), "engine 'steam' is unknown: use auto, torch, openvino"),
    (("--precision", "f8"), "precision 'f8' is unknown: use auto, f32"),
    (("--port", 70000), "port 70000 is none"),
    (("--port", -1), "port -1 is none"),
    (("--token", "short"), "a token has 5 characters, at least 16 are needed: use e.g. admin:"),
    (("--token-file", "nowhere"), "token file nowhere cannot be read"),
    (("--jwt-key", "short"), "the JWT key has 5 bytes, and HS256 needs 32"),
    (("--origin", "stage.example", "--token", "new"), "origin 'stage.example' is none: use e.g. https://stage.example"),
    (("--proxy", "127.0.0.1"), "--origin, --proxy) is open to the network, and nobody is asked for a token"),
    (("--proxy", "localhost", "--token", "new"), "proxy 'localhost' is no address"),
    (("--cert", "nowhere.pem", "--key", "nowhere.key"), "the certificate nowhere.pem is not there"),
    (("--key", "nowhere.key"), "give --cert FILE as well"),
    (("--log-format", "xml"), "log-format 'xml' is unknown: use text or json"),
    (("--log-level", "loud"), "log-level 'loud' is unknown: use debug, info, warning or error"),
    (("--host", "no.such.place.invalid", "--insecure"), "host no.such.place.invalid is unknown"),
    (("--host", "192.0.2.1", "--insecure"), "192.0.2.1:8000 cannot be bound"),
])  # fmt: skip
def test_what_is_wrong_is_told_before_anything_starts(words: tuple[Any, ...], told: str) -> None:
    port = [] if "--port" in words or "--host" in words else ["--port", 0]
    assert told in refused("--model", PASS_THROUGH, *port, *words)


def test_a_port_that_the_system_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(host: str, port: int) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(serve, "listening", denied)
    assert "port 80 is kept for the system: use 8000" in refused("--port", 80)


def test_the_plan() -> None:
    made = plan(Config(model=PASS_THROUGH, size=(640, 384)))
    assert (made.fake, made.spec.settings.width, made.spec.settings.height) == (Fake(), 640, 384)
    made = plan(Config(engine="torch", device="cpu", precision="f32"))
    assert (made.fake, made.spec.name, made.engine, made.device, made.precision) == (
        None, "builtin", "torch", "cpu", "f32")  # fmt: skip
    with pytest.raises(ConfigError):
        plan(Config(model="nothing"))
    with pytest.raises(SettingsError):
        plan(Config(size=(65, 64)))


def test_ipv6_and_any_free_port() -> None:
    with bind(Config(host="::1", port=0)) as bound:
        assert bound.family == socket.AF_INET6
        assert bound.getsockname()[1] > 0


def test_what_is_accepted_is_known_as_tcp_so_that_asyncio_sends_at_once() -> None:
    """A protocol of 0 keeps Nagle's algorithm: 40 ms for every answer on a connection that is kept."""

    async def job() -> int:
        seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def came(_reader: Any, writer: asyncio.StreamWriter) -> None:
            seen.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind(Config(port=0)) as bound:
            async with await asyncio.start_server(came, sock=bound):
                _, writer = await asyncio.open_connection(*bound.getsockname())
                writer.close()
                return await seen

    assert asyncio.run(job())


def test_a_browser_is_opened_where_there_is_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert not wants_browser(None)
    monkeypatch.setenv("DISPLAY", ":0")
    assert wants_browser(None)
    assert not wants_browser(False)
    monkeypatch.setenv("SSH_CONNECTION", "there")
    assert not wants_browser(None)
    assert wants_browser(True)


# ------------------------------------------------------------------------------------------------- the status line


def test_the_status_line() -> None:
    async def job() -> None:
        room = Room()
        summary = room.sessions.summary
        assert status.line(room.worker, summary()) == "stopping fake · 0 sessions"  # type: ignore[arg-type]
        room.worker.become("starting", "")
        assert status.line(room.worker, summary()).startswith("loading the model fake")  # type: ignore[arg-type]
        room.worker.start()
        session, link, stream = await room.enter()
        link.receive(stream_frame())
        stream.paint()
        session.tick()
        link.control.received('{"type":"latency","p50":61.6,"p95":80,"count":9}')
        line = status.line(room.worker, summary())  # type: ignore[arg-type]
        assert line.startswith("fake on fake on cpu · 1 session · ")
        assert line.endswith(" fps · 62 ms glass to glass")
        room.worker.become("restarting", "the engine [died]")
        line = status.line(room.worker, summary())  # type: ignore[arg-type]
        assert line.startswith("the engine [died] · 1 session")
        assert line.endswith("1 restart")
        await room.sessions.close_all("done")

    run(job())


def stream_frame() -> Any:
    from stream.frame import Frame

    return Frame(flat(1), captured_at=time.monotonic())


@pytest.mark.parametrize("terminal", [True, False])
def test_the_status_is_shown(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "EVERY_S", 0.01)

    async def job() -> str:
        import asyncio

        room = Room()
        console = Console(record=True, force_terminal=terminal, width=100, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
        shown = asyncio.ensure_future(status.StatusLine(console, room.worker, room.sessions).run())  # type: ignore[arg-type]
        for state in ("starting", "ready"):
            room.worker.become(state, "")
            await asyncio.sleep(0.3)
        shown.cancel()
        await asyncio.gather(shown, return_exceptions=True)
        console.file.close()
        return console.export_text()

    text = run(job())
    if not terminal:
        assert [line.strip() for line in text.splitlines()] == [
            "loading the model fake · 0 sessions", "fake on fake on cpu · 0 sessions"]  # fmt: skip


# ------------------------------------------------------------------------------------------------- the process


class Process:
    """`livebrush serve` in a process of its own."""

    def __init__(self, *words: Any, environ: Mapping[str, str] | None = None) -> None:
        line = [sys.executable, "-m", "livebrush", "serve", "--no-open", "--port", "0", *map(str, words)]
        self._folder = tempfile.TemporaryDirectory()  # its clips are not the user's
        env = os.environ | {"LIVEBRUSH_CLIPS": self._folder.name} | dict(environ or {})
        self.job = subprocess.Popen(
            line, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.job.stdout is not None
        said = self.job.stdout.readline()
        assert said.startswith("Livebrush is at http://127.0.0.1:"), said + self.rest()
        self.url = said.split()[3]
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def rest(self) -> str:
        """What it says until it ends."""
        return "".join(self.job.communicate(timeout=30))

    def ready(self) -> None:
        end = time.monotonic() + 30
        while self.http.get("/healthz").json()["worker"] != "ready":
            assert time.monotonic() < end
            time.sleep(0.02)

    def stop(self, number: int) -> tuple[int, float, str]:
        """Exit code, seconds, and what it said, after a signal."""
        family = psutil.Process(self.job.pid).children(recursive=True)
        began = time.monotonic()
        os.killpg(self.job.pid, number)  # as a terminal does: the worker hears Ctrl-C as well
        said = self.rest()
        spent = time.monotonic() - began
        _gone, alive = psutil.wait_procs(family, 3)
        assert not alive, "an orphan"
        return self.job.returncode, spent, said

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.job.pid, signal.SIGKILL)
        self.job.communicate()
        self.http.close()
        self._folder.cleanup()


@pytest.fixture
def process() -> Iterator[Any]:
    made: list[Process] = []

    def start(*words: Any) -> Process:
        made.append(Process(*words))
        return made[-1]

    yield start
    for one in made:
        one.kill()


def memory() -> set[str]:
    """Shared memory that is there, other programs' left out."""
    return set(shared()) if Path("/dev/shm").is_dir() else set()


@POSIX
def test_it_starts_paints_and_stops_in_good_order(process: Any) -> None:
    before = memory()
    server = process("--model", PASS_THROUGH, "--size", "128x64", "--source", "testcard")
    assert server.http.get("/").status_code == 200, "the page is there at once"
    server.ready()
    schema = server.http.get("/api/schema").json()
    assert (schema["defaults"]["width"], schema["defaults"]["height"], schema["sources"][-1]) == (128, 64, "server")
    with connect(server.url.replace("http", "ws") + "/api/sessions/ws", compression=None) as ws:
        ws.send(json.dumps({"type": "hello", "settings": {"prompt": "ink"}}))
        ws.send(PICTURE.pack(1, 0, 5.0) + jpeg.encode(flat(90, (128, 64))))
        painted = until(ws, lambda m: m.get("type") == "stats" and m["fps_out"] > 0, feed=flat(90, (128, 64)))
        assert painted["dropped_out"] >= 0
        reasons: list[str] = []
        listening = threading.Thread(target=goodbye, args=(ws, reasons))
        listening.start()
        code, spent, said = server.stop(signal.SIGTERM)
        listening.join(5)
    assert (code, reasons) == (0, ["the server stops"])
    assert spent < 5
    assert "Traceback" not in said
    assert "pass-through" in said, "the status line"
    assert memory() <= before


def until(ws: Any, true: Any, feed: Any) -> dict[str, Any]:
    """The first message that is true of it; a picture goes out for everything that comes in."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        message = ws.recv(10)
        ws.send(PICTURE.pack(1, 0, time.time() * 1000) + jpeg.encode(feed))
        if isinstance(message, str) and true(json.loads(message)):
            return dict(json.loads(message))
    raise AssertionError("it never came")


def goodbye(ws: Any, reasons: list[str]) -> None:
    with contextlib.suppress(ConnectionClosed):
        for message in ws:
            if isinstance(message, str) and json.loads(message)["type"] == "bye":
                reasons.append(json.loads(message)["reason"])


@POSIX
@pytest.mark.parametrize("ready", [False, True])
def test_ctrl_c_is_no_error(process: Any, ready: bool) -> None:
    server = process("--model", PASS_THROUGH)
    if ready:
        server.ready()
    code, spent, said = server.stop(signal.SIGINT)
    assert (code, "Traceback" in said) == (0, False), said
    assert spent < 5


@POSIX
def test_ctrl_c_in_the_middle_of_an_import_is_no_error(tmp_path: Path) -> None:
    """A dataclass is made by `exec`: an interrupt out of it ends Python by SIGINT, unless that is undone."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "LIVEBRUSH_CLIPS": str(tmp_path)}
    line = [sys.executable, "-m", "livebrush", "serve", "--no-open", "--port", "0", "--model", PASS_THROUGH]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Livebrush is at http://127.0.0.1:")


INTERRUPTED = """
import sys

class Finder:
    def find_spec(name, path, target=None):
        if name == "web.server":
            exec("raise KeyboardInterrupt")

sys.meta_path.insert(0, Finder)
"""


@POSIX
def test_a_camera_that_is_away_is_waited_for(process: Any) -> None:
    server = process("--model", PASS_THROUGH, "--size", "64x64", "--source", "camera:97")
    server.ready()
    with connect(server.url.replace("http", "ws") + "/api/sessions/ws", compression=None) as ws:
        ws.send(json.dumps({"type": "hello", "source": "server"}))
        told = [json.loads(ws.recv(10)) for _ in range(2)]
        while not any("camera 97 is not there or is in use" in message.get("notice", "") for message in told):
            told.append(json.loads(ws.recv(10)))
    code, _, said = server.stop(signal.SIGTERM)
    assert code == 0
    assert said.count("camera 97 is not there or is in use") == 1, "not at every attempt"


@POSIX
def test_a_worker_that_is_killed_comes_back_and_nobody_is_cut_off(process: Any) -> None:
    server = process("--model", PASS_THROUGH, "--size", "64x64")
    server.ready()
    with connect(server.url.replace("http", "ws") + "/api/sessions/ws", compression=None) as ws:
        ws.send(json.dumps({"type": "hello", "settings": {"prompt": "ink"}}))
        until(ws, lambda m: m.get("type") == "stats" and m["fps_out"] > 0, feed=flat(90))
        (worker,) = (p for p in psutil.Process(server.job.pid).children() if "resource_tracker" not in str(p.cmdline()))
        worker.kill()
        state = until(ws, lambda m: m.get("type") == "state", feed=flat(90))
        assert (state["state"], bool(state["notice"])) == ("restarting", True)
        until(ws, lambda m: m.get("type") == "state" and m["state"] == "painting", feed=flat(90))
        stats = until(ws, lambda m: m.get("type") == "stats" and m["fps_out"] > 0, feed=flat(90))
        assert stats["restarts"] == 1
    health = server.http.get("/healthz").json()
    assert (health["worker"], health["restarts"]) == ("ready", 1)
    code, _, _ = server.stop(signal.SIGTERM)
    assert code == 0
