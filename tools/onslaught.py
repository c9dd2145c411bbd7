"""Malformed messages by the thousand at a running server, and what became of them.

seen = onslaught(server, 10_000, 7, osc=9000)    # a server of tools/observed.py; `Seen`
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tools.nonsense import Nonsense, Request
from tools.observed import Observed
from tools.peers import ask

SHARES = {"offer": 0.1, "fragment": 0.1, "request": 0.4, "message": 0.1, "socket": 0.1, "hello": 0.05, "osc": 0.15}
READ = 16 * 1024  # characters of a message; what is longer is passed over
CLIENT_S = 20.0  # after which a request counts as never answered
PACE_S = 1 / 50  # between two messages of a channel: 60 a second are read
PINGED = 25  # messages between two pings
CHANNELS = 3
NEVER = 0  # the status of what was not answered
JSON, SDP, FRAGMENT = "application/json", "application/sdp", "application/trickle-ice-sdpfrag"
GOOD = {"offer": (200, 201), "fragment": (200, 204)}  # what was changed by chance may still be right
STANDING = "nonsense"
Heard = asyncio.Queue[dict[str, Any]]
Say = Callable[[str | bytes], Awaitable[None]]


@dataclass
class Seen:
    """How messages were answered: by kind, how many of each status; the slowest answer in ms; what was wrong."""

    answers: dict[str, Counter[str]] = field(default_factory=dict)
    slowest_ms: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def answered(self, kind: str, status: int, ms: float, about: str) -> None:
        """By a status of HTTP, which is to say no."""
        self.told(kind, str(status), ms)
        if status // 100 != 4 and status not in GOOD.get(kind, ()):
            self.wrong.append(f"{kind} {about[:200]}: {status}")

    def told(self, kind: str, how: str, ms: float = 0.0, count: int = 1) -> None:
        self.answers.setdefault(kind, Counter())[how] += count
        self.slowest_ms = max(self.slowest_ms, ms)

    @property
    def count(self) -> int:
        return sum(sum(c.values()) for c in self.answers.values())


def onslaught(server: Observed, count: int, seed: int, osc: int) -> Seen:
    """`count` messages in all, of every kind at once. `osc` is the port where the server hears Open Sound Control."""
    seen = Seen()
    jobs = {"offer": offers, "fragment": fragments, "request": requests}
    shares = {kind: round(count * share) for kind, share in SHARES.items()}
    with ThreadPoolExecutor(len(jobs) + 1) as pool:  # a browser's driver has an event loop in this thread
        good = pool.submit(asyncio.run, offered()).result()
        waiting = [pool.submit(job, server.url, Nonsense(seed + k), shares[kind], good, seen)
                   for k, (kind, job) in enumerate(jobs.items())]  # fmt: skip
        waiting.append(pool.submit(asyncio.run, conversations(server.url, seed, shares, seen)))
        datagrams(osc, Nonsense(seed + 9), shares["osc"], seen)
        for job in waiting:
            job.result()
    return seen


# ------------------------------------------------------------------------------------------------- HTTP


class Line:
    """A connection that is kept, and made anew where the server closed it."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url).netloc
        self._line: http.client.HTTPConnection | None = None

    def send(self, request: Request) -> tuple[int, bytes, http.client.HTTPMessage, float]:
        """Status, body, headers, and milliseconds until they were there."""
        began = time.perf_counter()
        for again in (True, False):
            line = self._line = self._line or http.client.HTTPConnection(self._place, timeout=CLIENT_S)
            try:
                line.request(request.method, request.path, request.body or None, dict(request.headers))
                answer = line.getresponse()
                body = answer.read()
                break
            except (http.client.HTTPException, BrokenPipeError, ConnectionResetError):
                self.close()  # after a body that was too long, say
                if not again:
                    raise
            except TimeoutError:
                self.close()
                return NEVER, b"", http.client.HTTPMessage(), (time.perf_counter() - began) * 1000
        if answer.will_close:
            self.close()
        return answer.status, body, answer.headers, (time.perf_counter() - began) * 1000

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


def requests(url: str, chance: Nonsense, count: int, _good: str, seen: Seen) -> None:
    """What no path of the OpenAPI document may follow."""
    document, line = ask(url, "GET", "/openapi.json"), Line(url)
    for _ in range(count):
        request = chance.request(document)
        status, _, _, ms = line.send(request)
        seen.answered("request", status, ms, f"{request.method} {request.path} {request.body[:80]!r}")
    line.close()


def offers(url: str, chance: Nonsense, count: int, good: str, seen: Seen) -> None:
    """Session descriptions, to every place that takes some; what is answered with a session is ended at once."""
    line = Line(url)
    ask(url, "PUT", f"/api/sessions/{STANDING}", {"source": "whip", "settings": {}})
    for k in range(count):
        sdp = chance.offer(good)
        text = sdp.encode(errors="surrogatepass")
        as_json = json.dumps({"sdp": sdp}).encode()
        request = (
            Request("POST", "/api/sessions", as_json, {"Content-Type": JSON}),
            Request("POST", f"/api/sessions/{STANDING}/viewers", as_json, {"Content-Type": JSON}),
            Request("POST", f"/whip/{STANDING}", text, {"Content-Type": SDP}),
            Request("POST", f"/whep/{STANDING}", text, {"Content-Type": SDP}),
        )[k % 4]
        status, body, headers, ms = line.send(request)
        seen.answered("offer", status, ms, f"{request.path} {sdp[:80]!r} {body[:200]!r}")
        if status == 201:
            made = headers["Location"] or f"/whep/{STANDING}/{json.loads(body)['id']}"
            line.send(Request("DELETE", made))
    line.send(Request("DELETE", f"/api/sessions/{STANDING}"))
    line.close()


def fragments(url: str, chance: Nonsense, count: int, good: str, seen: Seen) -> None:
    """Candidates for a publisher that has no connection yet."""
    line, until, made, tag = Line(url), 0.0, "", ""
    for _ in range(count):
        if time.monotonic() > until:
            until = time.monotonic() + 3.0  # it is given up after ten
            made, tag = published(line, good, made)
        text = chance.fragment(good)
        wrong = chance.chance.choice([tag, tag, tag, "", '"other"', chance.odd()])
        headers = {"If-Match": wrong.encode("ascii", "replace").decode().replace("\0", "?")} if wrong else {}
        kind = chance.chance.choice([FRAGMENT, FRAGMENT, FRAGMENT, SDP])
        request = Request("PATCH", made, text.encode(errors="surrogatepass"), headers | {"Content-Type": kind})
        status, _, told, ms = line.send(request)
        tag = told["ETag"] or tag
        seen.answered("fragment", status, ms, repr(text))
    line.send(Request("DELETE", made))
    line.close()


def published(line: Line, good: str, before: str) -> tuple[str, str]:
    """The address of a publisher's resource, and its ETag."""
    if before:
        line.send(Request("DELETE", before))
    status, body, headers, _ = line.send(Request("POST", "/whip/fragments", good.encode(), {"Content-Type": SDP}))
    if status != 201:
        raise RuntimeError(f"the server takes no good offer any more: {status} {body[:400]!r}")
    return headers["Location"], headers["ETag"]


async def offered() -> str:
    """A good offer: video both ways, sound, a control channel."""
    from aiortc import RTCConfiguration, RTCPeerConnection

    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.createDataChannel("control")
    peer.addTransceiver("video", "sendrecv")
    await peer.setLocalDescription(await peer.createOffer())
    sdp = peer.localDescription.sdp
    await peer.close()
    return str(sdp)


# ------------------------------------------------------------------------------------------------- conversations


async def conversations(url: str, seed: int, shares: dict[str, int], seen: Seen) -> None:
    """Control channels over WebRTC and WebSockets, side by side."""
    each, sockets = shares["message"] // CHANNELS, shares["socket"] // CHANNELS
    await asyncio.gather(
        *(channel(url, Nonsense(seed + 20 + k), each, seen) for k in range(CHANNELS)),
        *(socketed(url, Nonsense(seed + 40 + k), sockets, seen) for k in range(CHANNELS)),
        hellos(url, Nonsense(seed + 60), shares["hello"], seen),
    )


@asynccontextmanager
async def joined(url: str) -> AsyncIterator[tuple[Callable[[str | bytes], None], Heard, str]]:
    """A page that has its data channel and sends no picture: what sends a message, what is heard, and its session's
    id. The session is ended at the end, where it is still there."""
    from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    heard: Heard = asyncio.Queue()
    control, opened = peer.createDataChannel("control"), asyncio.Event()
    control.on("open", opened.set)
    control.on("message", lambda text: heard.put_nowait(json.loads(text)))
    peer.addTransceiver("video", "sendrecv")
    try:
        await peer.setLocalDescription(await peer.createOffer())
        asked = {"sdp": peer.localDescription.sdp}
        answer = await asyncio.to_thread(ask, url, "POST", "/api/sessions", asked)
        await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
        await asyncio.wait_for(opened.wait(), CLIENT_S)
        yield control.send, heard, answer["id"]
        with suppress(RuntimeError, OSError):
            await asyncio.to_thread(ask, url, "DELETE", f"/api/sessions/{answer['id']}")
    finally:
        await peer.close()


async def channel(url: str, chance: Nonsense, count: int, seen: Seen) -> None:
    """A page that says nonsense on its data channel, and is answered all the same."""
    async with joined(url) as (send, heard, _):
        send('{"type":"hidden","hidden":true}')  # else it would have to send pictures
        await talked(said_by(send), heard, chance, count, "message", seen)


async def talked(say: Say, heard: Heard, chance: Nonsense, count: int, kind: str, seen: Seen) -> None:
    """Nonsense at the pace that is read; now and then a ping shows that the other side is still there."""
    for first in range(0, count, PINGED):
        said = [sendable(chance.message()) for _ in range(min(PINGED, count - first))]
        for message in said:
            await say(message)
            await asyncio.sleep(PACE_S)
        await say(json.dumps({"type": "ping", "t": first}))
        errors, ms = await ponged(heard, first)
        texts = sum(isinstance(message, str) and len(message) <= READ for message in said)
        seen.told(kind, "error", ms, errors)
        seen.told(kind, "passed over", count=len(said) - errors)  # bytes, and what is too long
        if errors < texts:
            seen.wrong.append(f"{kind}: {texts - errors} of {texts} were not complained of")


async def ponged(heard: Heard, number: int) -> tuple[int, float]:
    """How many complaints came before the pong, and ms until it came."""
    began, errors = time.perf_counter(), 0
    while True:
        message = await asyncio.wait_for(heard.get(), CLIENT_S)
        if message["type"] == "pong" and message["t"] == number:
            return errors, (time.perf_counter() - began) * 1000
        errors += bool(message.get("error"))


def said_by(send: Callable[[str | bytes], None]) -> Say:
    """A data channel's `send`, which does not wait, as one that is awaited."""

    async def say(message: str | bytes) -> None:
        send(message)

    return say


def sendable(message: str | bytes) -> str | bytes:
    """UTF-8 all the same: what carries the message takes nothing else."""
    return message if isinstance(message, bytes) else message.encode(errors="replace").decode()


async def socketed(url: str, chance: Nonsense, count: int, seen: Seen) -> None:
    """Pages on a WebSocket that say nonsense, each until the server might have had enough of its pictures."""
    from websockets.asyncio.client import connect

    for first in range(0, count, PINGED):
        async with connect(socket_url(url)) as line:
            heard: Heard = asyncio.Queue()
            listening = asyncio.create_task(listened(line, heard))
            await line.send('{"type":"hello"}')
            await line.send('{"type":"hidden","hidden":true}')
            await talked(line.send, heard, chance, min(PINGED, count - first), "socket", seen)
        await listening


async def listened(line: Any, heard: Heard) -> None:
    """What a WebSocket's other side says, without its pictures."""
    async for said in line:
        if isinstance(said, str):
            heard.put_nowait(json.loads(said))


async def hellos(url: str, chance: Nonsense, count: int, seen: Seen) -> None:
    """First messages that are none: refused with a reason, and hung up on."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    for _ in range(count):
        began, status = time.perf_counter(), 0
        message = sendable(chance.hello())
        async with connect(socket_url(url)) as line, asyncio.timeout(CLIENT_S):
            await line.send(message)
            with suppress(ConnectionClosed):
                while True:
                    said = await line.recv()
                    status = json.loads(said).get("status", 0) if isinstance(said, str) else status
        seen.answered("hello", status, (time.perf_counter() - began) * 1000, repr(message))


def socket_url(url: str) -> str:
    return re.sub("^http", "ws", url) + "/api/sessions/ws"


# ------------------------------------------------------------------------------------------------- OSC


def datagrams(port: int, chance: Nonsense, count: int, seen: Seen) -> None:
    """Nobody answers a datagram: those who ask over HTTP meanwhile notice what it costs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(chance.datagram(), ("127.0.0.1", port))
            time.sleep(0.001)
    seen.told("osc", "sent", count=count)
