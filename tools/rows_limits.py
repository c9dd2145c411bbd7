"""Rows on who may do what, how much, and for how long: each asks a running server, and counts what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tools import peers
from tools.nonsense import Request
from tools.observed import ROOT, Observed
from tools.onslaught import JSON, Line, joined, offered, socket_url
from tools.rows_robust import freed
from tools.stage import Row, Stage

ELSEWHERE = "http://elsewhere.example"
SECRETS = {"view": "lookatme-lookatme-1", "control": "steerme-steerme-22", "admin": "ownall-ownall-333"}
ASKED = {  # by the least role that may
    "view": [Request("GET", "/api/schema"), Request("GET", "/api/sessions")],
    "control": [Request("POST", "/api/sessions", b"{}", {"Content-Type": JSON})],
    "admin": [Request("PUT", "/api/sessions/stage", b"{}", {"Content-Type": JSON}),
              Request("PUT", "/api/loras", b"{}", {"Content-Type": JSON})],
}  # fmt: skip
KB = 1024
STARTS_S = 60.0
OPEN = "0.0.0.0"  # noqa: S104 (that it refuses this is what is tested)


# ------------------------------------------------------------------------------------------------- S1


def s1(stage: Stage) -> Row:
    """Requests that a page of another site could make a browser send."""
    body = b'{"sdp": "v=0"}'
    with stage.server() as server:
        line = Line(server.url)
        value: dict[str, Any] = {name: line.send(request)[0] for name, request in {
            "foreign Origin": Request("POST", "/api/sessions", body, {"Content-Type": JSON, "Origin": ELSEWHERE}),
            "foreign Host": Request("GET", "/", headers={"Host": "elsewhere.example"}),
            "text/plain": Request("POST", "/api/sessions", body, {"Content-Type": "text/plain"}),
            "WHIP, foreign Origin": Request("POST", "/whip", b"v=0", {"Content-Type": "application/sdp",
                                                                     "Origin": ELSEWHERE}),
            "own Origin": Request("GET", "/api/schema", headers={"Origin": server.url}),
        }.items()}  # fmt: skip
        line.close()
        value["WebSocket, foreign Origin"] = threaded(greeting(server, origin=ELSEWHERE))
    own = value["own Origin"]
    holds = own == 200 and all(status == 403 for name, status in value.items() if name != "own Origin")
    return Row("S1", "foreign Origin or Host, text/plain", "403", value, holds)


def threaded(job: Any) -> Any:
    """A coroutine's result; in a thread of its own, since a browser's driver has an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, job).result()


async def greeting(server: Observed, **options: Any) -> int:
    """The status with which a WebSocket is refused; 101 where it is not."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    try:
        async with connect(socket_url(server.url), **options):
            return 101
    except InvalidStatus as refused:
        return int(refused.response.status_code)


# ------------------------------------------------------------------------------------------------- S2


def s2(stage: Stage) -> Row:
    """Without a token nothing is open to the network; with some, each role may do what it says."""
    value: dict[str, Any] = {"off loopback": started_open()}
    with stage.server(tokens=[f"{role}:{secret}" for role, secret in SECRETS.items()]) as server:
        line = Line(server.url)
        value |= {role: allowed(line, role) for role in (None, *SECRETS)}
        line.close()
    rights = {"view": ["view"], "control": ["view", "control"], "admin": ["view", "control", "admin"]}
    value = {str(role): may for role, may in value.items()}
    holds = (
        value["off loopback"]["refused"] and value["None"] == [] and all(value[r] == may for r, may in rights.items())
    )
    return Row("S2", "bind off loopback", "refuses to start without a token; roles view/control/admin", value, holds)


def started_open() -> dict[str, Any]:
    """What `livebrush serve` says when it is to listen on the network, and nobody has a token."""
    command = [sys.executable, "-m", "livebrush", "serve", "--host", OPEN, "--port", "0", "--no-open"]
    done = subprocess.run(command, cwd=ROOT,  # noqa: S603 (ourselves)
                          capture_output=True, text=True, timeout=STARTS_S, check=False)  # fmt: skip
    said = " ".join((done.stdout + done.stderr).split())
    return {"refused": done.returncode != 0 and "token" in said, "exit_code": done.returncode, "said": said[-300:]}


def allowed(line: Line, role: str | None) -> list[str]:
    """The roles for which a role's token is enough, by requests that are wrong otherwise: refused for what is in them,
    not for who asks."""
    held = {"Authorization": f"Bearer {SECRETS[role]}"} if role else {}
    out = []
    for least, requests in ASKED.items():
        found = {line.send(Request(r.method, r.path, r.body, {**r.headers, **held}))[0] for r in requests}
        if not found & {401, 403}:
            out.append(least)
    return out


# ------------------------------------------------------------------------------------------------- S3


def s3(stage: Stage) -> Row:
    """One more than each limit allows."""
    with stage.server(offers=10) as server:
        line = Line(server.url)
        sdp = threaded(offered())
        value: dict[str, Any] = {
            "SDP of 65 KiB": line.send(session(sdp + "a=x:" + "y" * 65 * KB + "\r\n"))[0],
            "JSON of 65 KiB": line.send(session("v=0", x="x" * 65 * KB))[0],
            "33 candidates": line.send(session(sdp + "".join(map(candidate, range(33)))))[0],
        }
        line.close()
        value |= threaded(talkative(server))
    with stage.server(offers=10) as server:
        line = Line(server.url)
        answers = [line.send(session("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n")) for _ in range(12)]
        value["offers before 429"] = next((k for k, a in enumerate(answers) if a[0] == 429), None)
        value["Retry-After"] = answers[-1][2]["Retry-After"]
        line.close()
    holds = (
        value["SDP of 65 KiB"] == value["JSON of 65 KiB"] == 413 and value["33 candidates"] in (400, 422)
        and value["message of 17 KiB"] == "passed over" and 50 <= value["answered of 200 at once"] <= 130
        and value["offers before 429"] == 10 and value["Retry-After"] is not None
    )  # fmt: skip
    return Row("S3", "limits", "SDP, JSON <= 64 KiB; <= 32 candidates; message <= 16 KiB; 60 control messages/s; "
               "10 offers/min/IP", value, holds)  # fmt: skip


def session(sdp: str, **more: Any) -> Request:
    return Request("POST", "/api/sessions", json.dumps({"sdp": sdp, **more}).encode(), {"Content-Type": JSON})


def candidate(number: int) -> str:
    return f"a=candidate:{number} 1 udp 2130706431 192.0.2.1 {20000 + number} typ host\r\n"


async def talkative(server: Observed) -> dict[str, Any]:
    """A page that says too much at once, and too often: what comes within two seconds may be answered."""
    async with joined(server.url) as (send, heard, _):
        send(json.dumps({"type": "ping", "t": 0}) + " " * 17 * KB)  # right, but for its length
        send(json.dumps({"type": "ping", "t": 1}))
        first = await anything(heard, "pong")
        for k in range(200):
            send(json.dumps({"type": "ping", "t": k + 2}))
        pongs = await counted(heard, "pong")
    return {"message of 17 KiB": "followed" if first["t"] == 0 else "passed over", "answered of 200 at once": pongs}


async def counted(heard: asyncio.Queue[dict[str, Any]], kind: str) -> int:
    """How many messages of a kind come, until none has for a second."""
    count, until = 0, time.monotonic() + 3.0
    while (left_s := until - time.monotonic()) > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                if (await heard.get())["type"] == kind:
                    count, until = count + 1, time.monotonic() + 1.0
    return count


async def anything(heard: asyncio.Queue[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The next message of a kind."""
    async with asyncio.timeout(10):
        while (message := await heard.get())["type"] != kind:
            pass
    return message


# ------------------------------------------------------------------------------------------------- S4


def s4(stage: Stage) -> Row:
    """A page that offers and never comes, one that comes and sends nothing, and a server that is to end."""
    with stage.server() as server:
        peers.ask(server.url, "POST", "/api/sessions", {"sdp": threaded(offered())})
        value: dict[str, Any] = {"never connected_s": freed(server, time.monotonic())}
        value["idle_s"] = threaded(idle(server))
    value |= threaded(drained())
    holds = (value["never connected_s"] <= 11 and value["idle_s"] <= 6.5 and value["SIGTERM_s"] <= 5
             and value["exit_code"] == 0 and bool(value["told"]))  # fmt: skip
    return Row("S4", "time-outs", "connect 10 s, idle media 6 s, SIGTERM drains <= 5 s", value, holds)


async def idle(server: Observed) -> float:
    """Seconds until the place of a page that is there and sends no picture is free."""
    async with joined(server.url):
        return await asyncio.to_thread(freed, server, time.monotonic())


async def drained() -> dict[str, Any]:
    """How long `livebrush serve` takes to end with a page on it, and whether that was told."""
    with tempfile.TemporaryDirectory(prefix="livebrush-") as folder:
        words = ["--port", "0", "--no-open", "--model", "pass-through"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "livebrush", "serve", *words, cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env={**os.environ, "LIVEBRUSH_CLIPS": folder},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), STARTS_S)
            (url,) = re.findall(r"http://[\d.:]+", line.decode())
            await asyncio.to_thread(answering, url)
            async with joined(url) as (_, heard, _end):
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                bye = await anything(heard, "bye")
                code = await asyncio.wait_for(process.wait(), 30)
                took = round(time.monotonic() - began, 2)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return {"SIGTERM_s": took, "exit_code": code, "told": bye["reason"]}


def answering(url: str) -> None:
    """Waits for a server that has said where it is; TimeoutError where nothing paints after a minute."""
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until:
        with suppress(OSError):
            if peers.ask(url, "GET", "/healthz")["worker"] == "ready":
                return
        time.sleep(0.05)
    raise TimeoutError(f"{url} does not paint after {STARTS_S:g} s")
