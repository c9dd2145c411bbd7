"""Peers that cost little: own WebRTC clients that send a film encoded once, and count what comes back.

    python -m tools.peers '{"url": "http://127.0.0.1:8000", "count": 6, "seconds": 8}'

They run in a process of their own and write one line of JSON when they are done (`Seen` by peer). With `look`, every
picture is decoded and its mark read; without it nothing is decoded, so that six of them fit beside the server on two
cores.
"""

from __future__ import annotations

import asyncio
import fractions
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import av
import numpy as np

from tools.barcode import film, read
from tools.observed import limited

SAYS_S = 180.0  # more than any bench lets them work
ROOT = Path(__file__).parents[1]
RATE = 30
TICKS = 90_000 // RATE  # of the RTP clock to a frame
BITRATE = 2_500_000
KEY_FRAMES = 30  # frames from one to the next
Codec = Literal["H264", "VP8"]
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "H264": ("libx264", {"preset": "superfast", "tune": "zerolatency", "profile": "baseline", "level": "31"}),
    "VP8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
}


@dataclass(frozen=True)
class Options:
    """What the peers do. `cycles` instead of `seconds`: each connects and closes so often, one after another.

    `stagger_s` between one peer's beginning and the next one's. `viewers` look on at the first one's session; what they
    saw follows what the others did.
    """

    url: str
    count: int = 1
    viewers: int = 0
    seconds: float = 5.0
    cycles: int = 0
    codec: Codec = "H264"
    side: int = 512
    film_s: float = 4.0
    look: bool = False
    one_more: bool = False  # whether another one asks when all are there, and is refused
    stagger_s: float = 0.3
    told_s: float = 0.0  # a line every so many seconds, beside the one at the end
    settings: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()  # that the first one's session gets


@dataclass
class Seen:
    """What one peer saw. Times are milliseconds: `arrived` of each picture, `latency` from sending to arrival."""

    source: int
    sent: int = 0
    arrived: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    foreign: int = 0
    unread: int = 0
    connect_ms: float = 0.0
    stats: dict[str, Any] = field(default_factory=dict)
    ended: str = ""  # why, where the server ended it


@contextmanager
def peers(url: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The peers at work in the background; `gathered` waits for what they saw."""
    process = subprocess.Popen(  # noqa: S603 (ourselves)
        [sys.executable, "-m", "tools.peers", json.dumps({"url": url, **options})], stdout=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def began(process: subprocess.Popen[str]) -> None:
    """Waits until all peers get pictures."""
    said(process)


def gathered(process: subprocess.Popen[str], seconds: float = SAYS_S) -> tuple[list[Seen], str]:
    """What the peers saw, when they are done, at most after `seconds`, and what `one_more` was told."""
    seen, refused = said(process, seconds)
    return [Seen(**s) for s in seen], refused


def said(process: subprocess.Popen[str], seconds: float = SAYS_S) -> Any:
    """The next line; RuntimeError where there is none."""
    assert process.stdout is not None
    with limited(process, seconds):
        line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the peers ended with exit code {process.wait()} and said nothing: see above")
    return json.loads(line)


# ------------------------------------------------------------------------------------------------- what they send


def encoded(codec: Codec, side: int, frames: int, source: int = 0) -> list[bytes]:
    """The marked film, frame by frame, encoded; it may be played again and again."""
    name, options = ENCODERS[codec]
    context = av.CodecContext.create(name, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width = context.height = side
    context.pix_fmt, context.bit_rate, context.options = "yuv420p", BITRATE, options
    context.framerate, context.time_base = fractions.Fraction(RATE), fractions.Fraction(1, RATE)
    context.gop_size = KEY_FRAMES
    packets: list[bytes] = []
    for number, image in enumerate(film((side, side), frames, source)):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number
        packets += [bytes(p) for p in context.encode(frame)]
    return packets + [bytes(p) for p in context.encode(None)]


def track_of(packets: list[bytes], sent: list[float]) -> Any:
    """A track of aiortc that plays encoded frames in time, and writes down when it sent each."""
    from aiortc import VideoStreamTrack

    class Film(VideoStreamTrack):
        start: float | None = None

        async def recv(self) -> Any:
            now = time.perf_counter()
            self.start = self.start or now
            due = self.start + len(sent) / RATE
            await asyncio.sleep(max(0.0, due - now))
            packet = av.Packet(packets[len(sent) % len(packets)])
            packet.pts, packet.time_base = len(sent) * TICKS, fractions.Fraction(1, 90_000)
            sent.append(time.perf_counter() * 1000)
            return packet

    return Film()


class Counted:
    """Instead of a decoder: every frame that is whole is a small black one with its time."""

    def decode(self, encoded_frame: Any) -> list[av.VideoFrame]:
        frame = av.VideoFrame(16, 16)
        frame.pts, frame.time_base = encoded_frame.timestamp, fractions.Fraction(1, 90_000)
        return [frame]


# ------------------------------------------------------------------------------------------------- one of them


class Client:
    """One peer with its connection, its session on the server and what it has seen.

    `of`: it looks on at that one's session, and sends nothing.
    """

    def __init__(self, options: Options, packets: list[bytes], source: int = 0, of: Client | None = None) -> None:
        from aiortc import RTCConfiguration, RTCPeerConnection

        self.seen = Seen(source)
        self.first = asyncio.Event()
        self._options, self._of, self._loop = options, of, len(packets)
        self._sent: list[float] = of._sent if of else []
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._track = track_of(packets, self._sent)
        self._session, self._watching = "", set[asyncio.Task[None]]()

    async def connect(self) -> None:
        """Offers the film, and takes the answer; RuntimeError with the server's words where it refuses."""
        start = time.perf_counter()
        self._prefer()
        channel = self._connection.createDataChannel("control")
        channel.on("message", self._heard)
        self._connection.on("track", self._take)
        await self._connection.setLocalDescription(await self._connection.createOffer())
        offer: dict[str, Any] = {"sdp": self._connection.localDescription.sdp, "type": "offer"}
        answer = await asyncio.to_thread(self._ask, "POST", *self._request(offer))
        self._session = "" if self._of else answer["id"]
        await self._accept(answer["sdp"])
        for to in self._options.outputs if self.seen.source == 0 else ():
            await asyncio.to_thread(self._ask, "POST", f"/api/sessions/{self._session}/outputs", {"to": to})
        self.seen.connect_ms = round((time.perf_counter() - start) * 1000, 1)

    def _request(self, offer: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Where to send an offer, and with what."""
        if self._of is not None:
            return f"/api/sessions/{self._of._session}/viewers", offer
        return "/api/sessions", offer | {"settings": self._options.settings}

    async def close(self) -> Seen:
        self.seen.sent = 0 if self._of else len(self._sent)
        if self._session and not self.seen.ended:
            await asyncio.to_thread(self._ask, "DELETE", f"/api/sessions/{self._session}")
        await self._connection.close()
        self._track.stop()
        for task in self._watching:
            task.cancel()
        return self.seen

    async def _accept(self, sdp: str) -> None:
        from aiortc import RTCSessionDescription

        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    def _prefer(self) -> None:
        """Offers one codec only."""
        from aiortc.rtcrtpsender import RTCRtpSender

        way = self._connection.addTransceiver(*(("video", "recvonly") if self._of else (self._track, "sendrecv")))
        found = RTCRtpSender.getCapabilities("video").codecs
        way.setCodecPreferences([c for c in found if c.name == self._options.codec])

    def _take(self, track: Any) -> None:
        self._watching.add(asyncio.create_task(self._watch(track)))

    async def _watch(self, track: Any) -> None:
        from aiortc.mediastreams import MediaStreamError

        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            self.seen.arrived.append(time.perf_counter() * 1000)
            self.first.set()
            if self._options.look:
                self._read(frame, self.seen.arrived[-1])

    def _read(self, frame: av.VideoFrame, now: float) -> None:
        mark = read(np.asarray(frame.to_ndarray(format="gray"), np.uint8))
        if mark is None:
            self.seen.unread += 1
        elif mark.source != self.seen.source:
            self.seen.foreign += 1
        elif (last := self._newest(mark.counter)) is not None:
            self.seen.latency.append(round(now - self._sent[last], 1))

    def _newest(self, counter: int) -> int | None:
        """Which of the frames sent last bears this counter."""
        last = len(self._sent) - 1
        found = last - (last - counter) % self._loop
        return found if found >= 0 else None

    def _heard(self, message: str) -> None:
        value = json.loads(message)
        if value["type"] == "stats":
            self.seen.stats = value
        elif value["type"] == "bye":
            self.seen.ended = value["reason"]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return ask(self._options.url, method, path, body)


def ask(url: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """An HTTP request; RuntimeError with status and body of an answer that is none of 2xx."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status // 100 != 2:
        raise RuntimeError(f"{method} {path.partition('?')[0][:40]}: {answer.status} {text.decode()[:400]}")
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


# ------------------------------------------------------------------------------------------------- all of them


async def together(options: Options) -> tuple[list[Seen], str]:
    """All peers at once for `seconds`, from the moment on when all of them get pictures."""
    films = [encoded(options.codec, options.side, round(options.film_s * RATE), k) for k in range(options.count)]
    clients = [Client(options, packets, k) for k, packets in enumerate(films)]
    clients += [Client(options, films[0], of=clients[0]) for _ in range(options.viewers)]
    for client in clients:
        await client.connect()
        await asyncio.sleep(options.stagger_s)
    await asyncio.wait_for(asyncio.gather(*(c.first.wait() for c in clients)), 20)
    told = await refused(options, films[0]) if options.one_more else ""
    say(None)
    for client in clients:
        client.seen.arrived.clear()
        client.seen.latency.clear()
    await watched(options, clients)
    return [await c.close() for c in clients], told


async def watched(options: Options, clients: list[Client]) -> None:
    """Lets them work; with `told_s` a line now and then says what they saw since the last one."""
    end = time.monotonic() + options.seconds
    while options.told_s and time.monotonic() + options.told_s <= end:
        await asyncio.sleep(options.told_s)
        say([[asdict(c.seen) for c in clients], ""])
        for client in clients:
            client.seen.arrived.clear()
            client.seen.latency.clear()
    await asyncio.sleep(max(0.0, end - time.monotonic()))


async def refused(options: Options, packets: list[bytes]) -> str:
    """What a peer is told for which there is no place; "" where it is let in."""
    client = Client(options, packets)
    try:
        await client.connect()
    except RuntimeError as error:
        return str(error)
    finally:
        await client.close()
    return ""


async def in_turn(options: Options) -> tuple[list[Seen], str]:
    """One peer after another, `cycles` times: each connects, gets a picture, and closes."""
    packets = encoded(options.codec, options.side, RATE)
    out = []
    say(None)
    for _ in range(options.cycles):
        client = Client(options, packets)
        await client.connect()
        await asyncio.wait_for(client.first.wait(), 20)
        out.append(await client.close())
    return out, ""


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    from aiortc import rtcrtpreceiver

    options = Options(**json.loads(sys.argv[1]))
    if not options.look:
        vars(rtcrtpreceiver)["get_decoder"] = lambda _codec: Counted()
    seen, told = asyncio.run(in_turn(options) if options.cycles else together(options))
    say([[asdict(s) for s in seen], told])


if __name__ == "__main__":
    main()
