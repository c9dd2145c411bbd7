"""The server's seams, faked: a worker that paints when it is told to, a page's connection, and a server in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import httpx
import numpy as np
from waiting import PATIENCE_S

from stream.config import Lora, ModelSpec
from stream.frame import Frame, Image
from stream.messages import Mixed, Remix
from stream.mixing import Answer, Mixing
from stream.settings import Settings
from stream.supervisor import Counts, Facts, Listener, Painted
from web.app import House, create_app
from web.config import Config
from web.server import Server
from web.session import World
from web.sessions import Sessions

T = TypeVar("T")
SDP = "v=0\r\ns=-\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=sendrecv\r\n"
WATCHES = SDP.replace("sendrecv", "recvonly")
SPEC = ModelSpec("fake", "fake", settings=Settings.checked(width=64, height=64), about="Paints by hand.")


def flat(grey: int, size: tuple[int, int] = (64, 64)) -> Image:
    """A picture of one grey."""
    return np.full((size[1], size[0], 3), grey, np.uint8)


class FakeStream:
    """A stream of the fake worker: keeps what it gets."""

    def __init__(self, owner: FakeSupervisor, settings: Settings, listener: Listener) -> None:
        self.settings, self.listener, self.counts = settings, listener, Counts()
        self.delay, self.skip_rate, self.closed = 1, 0.0, False
        self.frames: list[Frame] = []
        self.asked: list[Settings] = []
        self._owner = owner

    def put(self, frame: Frame) -> None:
        self.counts = replace(self.counts, put=self.counts.put + 1)
        self.frames.append(frame)
        if self._owner.paints and self._owner.state == "ready":
            self.paint()

    def apply(self, settings: Settings) -> None:
        self.asked.append(settings)
        self.settings = settings
        if self._owner.answers and self._owner.state == "ready":
            self.listener.applied(settings, None)

    def close(self) -> None:
        self.closed = True
        self._owner.streams = [s for s in self._owner.streams if s is not self]

    def paint(self, image: Image | None = None) -> None:
        """The newest frame comes back, negative, or as `image`."""
        frame = self.frames[-1]
        picture = 255 - frame.image if image is None else image
        self.listener.painted(Painted(frame.with_image(picture), repeated=False, primed=False, engine_ms=5.0))


class FakeSupervisor:
    """A worker that is what it is told to be. `answers`: settings hold at once; `paints`: so do pictures come back."""

    def __init__(self, spec: ModelSpec = SPEC, *, answers: bool = True, paints: bool = False) -> None:
        self.facts = Facts(spec.name, spec.about, spec.licence, spec.settings, ("watercolor painting",), "fake on cpu")
        self.state, self.notice, self.restarts, self.pid = "stopped", "", 0, None
        self.answers, self.paints, self.stopped = answers, paints, False
        self.streams: list[FakeStream] = []
        self._watching: list[Callable[[], None]] = []
        self.mixing = Mixing(spec.loras, self._tell)
        self.remixes: list[Remix] = []
        self.mixed = Mixed(None)  # the answer to a `Remix`, where the worker answers

    def start(self) -> None:
        self.become("ready")

    async def stop(self) -> None:
        self.stopped = True
        self.become("stopped")

    def open(self, settings: Settings, listener: Listener) -> FakeStream:
        stream = FakeStream(self, settings, listener)
        self.streams.append(stream)
        if self.answers and self.state == "ready":
            asyncio.get_running_loop().call_soon(self._opened, stream)
        return stream

    def watch(self, told: Callable[[], None]) -> Callable[[], None]:
        self._watching.append(told)
        return lambda: self._watching.remove(told)

    def become(self, state: str, notice: str = "") -> None:
        """Another state; a worker that is ready again answers for every stream."""
        again = state == "ready" and self.state != "ready"
        self.restarts += state == "restarting"
        self.state, self.notice = state, notice
        self._tell()
        if again:
            self.mixing.ready(self._remix)
        for stream in self.streams if again and self.answers else []:
            self._opened(stream)

    def mix(self, loras: tuple[Lora, ...]) -> Answer:
        return self.mixing.ask(loras)

    def _remix(self, message: Remix) -> None:
        self.remixes.append(message)
        if self.answers:
            asyncio.get_running_loop().call_soon(self.mixing.answered, self.mixed)

    def _tell(self) -> None:
        for told in list(self._watching):
            told()

    def know(self, **facts: Any) -> None:
        self.facts = replace(self.facts, **facts)

    @staticmethod
    def _opened(stream: FakeStream) -> None:
        if not stream.closed:
            stream.listener.applied(stream.settings, None)


class FakeLink:
    """A page's connection: takes pictures, messages and an end from the test."""

    def __init__(self, receive: Any, pictures: Any, control: Any, on_closed: Callable[[str], None]) -> None:
        self.receive, self.pictures, self.control, self.on_closed = receive, pictures, control, on_closed
        self.hidden, self.closed = False, False
        self.told: list[dict[str, Any]] = []
        self.times: list[tuple[int, float]] = []

    def connect(self) -> None:
        """The page's channel opens."""
        self.control.connected(self.told.append)

    def captured_ms(self, pts: int) -> float | None:
        return pts / 90

    def sent(self) -> list[tuple[int, float]]:
        times, self.times = self.times, []
        return times

    def statistics(self) -> dict[str, Any]:
        return {"rtt_ms": 1.0}

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            if self.control is not None:
                self.control.closed()
            self.on_closed("closed")

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a kind that the page got."""
        return [m for m in self.told if m["type"] == kind]


class FakeAnswers:
    """`Peer.answer`: every offer is answered, unless `error` is set."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.error: Exception | None = None
        self.before: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, offer_sdp: str, *, receive: Any, pictures: Any, control: Any, on_closed: Any,
                       shape: Any = None, sound: Any = None) -> tuple[FakeLink, str]:  # fmt: skip
        if self.before is not None:
            await self.before()
        if self.error is not None:
            raise self.error
        self.links.append(FakeLink(receive, pictures, control, on_closed))
        return self.links[-1], "answer to " + offer_sdp[:3]


class Room:
    """Sessions with everything around them faked."""

    def __init__(self, *, limit: int = 6, clock: Callable[[], float] | None = None, pumps: Any = None,
                 spec: ModelSpec = SPEC, minutes: float | None = None, **worker: Any) -> None:  # fmt: skip
        self.worker, self.answers = FakeSupervisor(spec, **worker), FakeAnswers()
        given: dict[str, Any] = {"clock": clock} if clock else {}
        self.sessions = Sessions(self.worker, limit=limit, answers=self.answers, pumps=pumps, minutes=minutes, **given)  # type: ignore[arg-type]

    @property
    def world(self) -> World:
        return self.sessions.world

    async def enter(self, source: str = "page", **settings: Any) -> tuple[Any, FakeLink, FakeStream]:
        """A session that began, its page's link and its stream."""
        session = self.sessions.admit(settings, source, None, lambda: None)  # type: ignore[arg-type]
        await session.answer(SDP)
        link = self.answers.links[-1]
        link.connect()
        await asyncio.sleep(0)
        return session, link, self.worker.streams[-1]


class Served:
    """A server on a free port, in a thread of its own, with a fake worker."""

    def __init__(self, server: Server, worker: FakeSupervisor, answers: FakeAnswers, port: int, loop: Any) -> None:
        self.worker, self.answers, self.port, self._server, self._loop = worker, answers, port, server, loop
        self.url = f"{'https' if server.config.is_ssl else 'http'}://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S, verify=False)

    @property
    def house(self) -> House:
        return self._server.house

    def call(self, what: Callable[..., T], *given: Any) -> T:
        """Calls something on the server's event loop."""

        async def called() -> T:
            return what(*given)

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    def stop(self) -> None:
        self._server.should_exit = True

    def offer(self, **more: Any) -> httpx.Response:
        return self.http.post("/api/sessions", json={"sdp": SDP, "type": "offer"} | more)

    def empty(self) -> None:
        """Ends every session and forgets who waits."""
        for session in self.call(lambda: list(self.house.sessions)):
            self.http.delete(f"/api/sessions/{session.id}")
        self.call(self.house.sessions._line._seen.clear)


@contextlib.contextmanager
def served(
    pumps: Any = None, answers: Any = None, worker: FakeSupervisor | None = None, clips: Any = None, real: bool = False,
    certificate: Any = None, **config: Any,
) -> Iterator[Served]:  # fmt: skip
    """The whole server but for its worker, and its peers unless `answers` are given, or they are `real`."""
    worker, fake = worker or FakeSupervisor(paints=True), FakeAnswers()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        settled = Config(port=port, **{"offers_per_minute": 10_000} | config)
        given = {"pumps": pumps, "answers": None if real else answers or fake, "clips": clips}
        server = Server(create_app(settled, worker, **given), certificate)  # type: ignore[arg-type]
        loops: list[asyncio.AbstractEventLoop] = []
        up = threading.Event()

        async def run() -> None:
            loops.append(asyncio.get_running_loop())
            job = asyncio.ensure_future(server.serve([bound]))
            while not server.started and not job.done():
                await asyncio.sleep(0.005)
            up.set()
            await job

        thread = threading.Thread(target=asyncio.run, args=(run(),))
        thread.start()
        assert up.wait(PATIENCE_S)
        made = Served(server, worker, fake, port, loops[0])
        try:
            yield made
        finally:
            made.http.close()
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
