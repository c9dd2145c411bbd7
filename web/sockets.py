"""Where UDP is blocked: the same session over a WebSocket, pictures as JPEG, messages as text.

Newest wins both ways, and nothing queues: of what comes in, one picture is decoded while the newest waits; of what goes
out, one is on its way while the newest waits. `NarrowWebSocket` keeps the system's own send buffer short as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from asyncio import transports
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from fractions import Fraction
from typing import Any, cast

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from stream.errors import SettingsError
from stream.frame import Frame
from stream.preprocess import fitted
from web import jpeg
from web.access import Role
from web.control import Channel
from web.errors import RefusalError
from web.fields import PICTURE_LIMIT
from web.inputs import allow, wanted
from web.messages import PICTURE, ErrorTold, Hello, MessageError, Refused, read_hello
from web.rtc import Picture
from web.session import Page, Session
from web.sessions import Sessions

CLOCK = Fraction(1, 90000)
HELLO_S = 10.0  # the first message must be there by then
IDLE_S = 6.0  # without a picture the page is gone, unless it is hidden
SEND_S = 6.0  # a picture that takes so long to leave never will
LAST_S = 0.5  # for the last words
WRONG_IN_A_ROW = 30  # pictures that may be no pictures before it is over
TEXTS = 200  # messages that may wait for a slow page; then it is too slow
UNSENT = 16 * 1024  # bytes that may wait in the system's send buffer
POLICY, LATER, WENT = 1008, 1013, 1001  # RFC 6455, 7.4


class NarrowWebSocket(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket with short buffers: what waits there is late when it arrives."""

    def connection_made(self, transport: transports.BaseTransport) -> None:
        super().connection_made(transport)
        high = 0 if transport.get_extra_info("sslcontext") is None else 1  # at 0, TLS never goes on again
        cast(transports.Transport, transport).set_write_buffer_limits(high, low=0)
        narrow(transport.get_extra_info("socket"))


def narrow(connection: socket.socket) -> None:
    """Bounds what the system keeps unsent, and how long it tries, where it can."""
    options = {"TCP_NOTSENT_LOWAT": UNSENT, "TCP_USER_TIMEOUT": round(SEND_S * 1000)}
    for name, value in options.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Ended(Exception):  # noqa: N818 (an end, not an error)
    """The conversation is over, with a code for the WebSocket's close and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Socket:
    """One page on a WebSocket: the `Link` of its session."""

    def __init__(self, websocket: WebSocket, session: Session, pool: Executor) -> None:
        self.hidden = False
        self._websocket, self._session, self._pool = websocket, session, pool
        self._channel = Channel(session, "websocket")
        self._newest: bytes | None = None  # the picture that waits to be decoded
        self._came = asyncio.Event()
        self._texts: deque[dict[str, Any]] = deque()
        self._said = asyncio.Event()
        self._over = asyncio.Event()
        self._wrong = self._dropped_in = self._dropped_out = 0
        self._bytes = {"in": 0, "out": 0}  # of pictures

    # ------------------------------------------------------------------------------------------- `Link`

    def captured_ms(self, pts: int) -> float | None:
        return float(pts * CLOCK * 1000)

    def sent(self) -> list[tuple[int, float]]:
        return []  # every picture carries its own

    def statistics(self) -> dict[str, Any]:
        return {"dropped_in": self._dropped_in, "dropped_out": self._dropped_out, "bytes": dict(self._bytes)}

    async def close(self) -> None:
        """Ends `run`, whose caller closes the WebSocket."""
        self._over.set()

    # ------------------------------------------------------------------------------------------- the conversation

    async def run(self) -> None:
        """Serves the page until one of both leaves; raises Ended."""
        self._session.attach(Page(self, self._channel))
        self._channel.connected(self._queue)
        jobs = [asyncio.ensure_future(job) for job in
                (self._read(), self._decode(), self._paint(), self._write(), self._over.wait())]  # fmt: skip
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
            raise Ended(WENT, "the session ended")
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await self._last_words()
            self._channel.closed()

    def _queue(self, message: dict[str, Any]) -> None:
        self._texts.append(message)
        self._said.set()
        if len(self._texts) > TEXTS:
            self._over.set()

    async def _last_words(self) -> None:
        """What is still to be said, the bye above all."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self._speak()

    # ------------------------------------------------------------------------------------------- in

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(max(0.0, self._patience())):
                    message = await self._websocket.receive()
            except TimeoutError:
                self._check_alive()
                continue
            if message["type"] == "websocket.disconnect":
                raise Ended(WENT, "the page left")
            if (text := message.get("text")) is not None:
                self._channel.received(text)
                self._check_alive()
            else:
                self._take(message["bytes"])

    def _patience(self) -> float:
        """Seconds until a page that sends no pictures is given up."""
        if self.hidden or self._session.source != "page":
            return IDLE_S
        return self._session.last_input + IDLE_S - time.monotonic()

    def _check_alive(self) -> None:
        if self._patience() <= 0:
            raise Ended(POLICY, f"no picture came for {IDLE_S:g} s")

    def _take(self, data: bytes) -> None:
        if not PICTURE.size < len(data) <= PICTURE_LIMIT:
            self._complain(f"a picture of {len(data)} bytes: send {PICTURE.size} bytes of header and a JPEG")
            return
        self._bytes["in"] += len(data)
        self._dropped_in += self._newest is not None
        self._newest = data
        self._came.set()

    async def _decode(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._came.wait()
            self._came.clear()
            data, self._newest = self._newest, None
            assert data is not None
            arrived = time.monotonic()
            try:
                frame = await loop.run_in_executor(self._pool, decoded, data, arrived, self._session.shape)
            except (jpeg.PictureError, MessageError) as error:
                self._complain(str(error))
            else:
                self._wrong = 0
                self._session.brought("page", frame)

    def _complain(self, text: str) -> None:
        self._wrong += 1
        if self._wrong == 1:
            self._channel.tell(ErrorTold(error=text))
        if self._wrong > WRONG_IN_A_ROW:
            raise Ended(POLICY, text)

    # ------------------------------------------------------------------------------------------- out

    async def _paint(self) -> None:
        loop, watcher = asyncio.get_running_loop(), self._session.pictures.watch()
        try:
            async for picture in watcher:
                data = await loop.run_in_executor(self._pool, encoded, picture)
                await self._leave(self._websocket.send_bytes(data))
                self._bytes["out"] += len(data)
                self._dropped_out = watcher.dropped
        finally:
            watcher.close()

    async def _write(self) -> None:
        while True:
            await self._said.wait()
            self._said.clear()
            await self._leave(self._speak())

    async def _speak(self) -> None:
        """Messages in order; one leaves the queue when it was sent, so that none is lost when this is cancelled."""
        while self._texts:
            await self._websocket.send_json(self._texts[0])
            self._texts.popleft()

    async def _leave(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await sending
        except TimeoutError:
            raise Ended(POLICY, f"the page took nothing for {SEND_S:g} s") from None


def decoded(data: bytes, arrived: float, shape: Callable[[], tuple[int, int, Any]]) -> Frame:
    """The frame of a binary message, fitted; its `pts` is the page's capture time in 1/90000 s."""
    _, _, captured_ms = PICTURE.unpack_from(data)
    if not 0 <= captured_ms < 1e14:
        raise MessageError(f"capture time {captured_ms} is none: send milliseconds of the wall clock")
    image = fitted(jpeg.decode(data[PICTURE.size :]), *shape())
    return Frame(image, round(captured_ms / 1000 / CLOCK), CLOCK, arrived)


def encoded(picture: Picture) -> bytes:
    """The binary message of a picture."""
    header = PICTURE.pack(picture.number & 0xFFFFFFFF, 0, picture.captured_ms or 0.0)
    return header + jpeg.encode(picture.frame.image)


# ------------------------------------------------------------------------------------------------- the endpoint


async def serve(
    websocket: WebSocket, sessions: Sessions, pool: Executor, offer: Callable[[], None], role: Role = Role.ADMIN
) -> None:
    """A whole conversation: hello, session, pictures, end. `offer` raises RefusalError where there are too many."""
    await websocket.accept()
    try:
        session = await begin(websocket, sessions, offer, role)
        try:
            await Socket(websocket, session, pool).run()
        finally:
            await sessions.close(session, "the page left")
    except Ended as end:
        await hang_up(websocket, end.code, end.reason)
    except WebSocketDisconnect:
        pass  # the page left in the middle of a word


async def begin(websocket: WebSocket, sessions: Sessions, offer: Callable[[], None], role: Role) -> Session:
    """The session that a page's hello asks for; Ended where it was refused, which the page was told."""
    try:
        hello = await greeted(websocket)
        allow(role, hello.source)
        with sessions.world.figures.offered():
            source = await wanted(hello.source or "page")
            return sessions.admit(hello.settings, source, hello.ticket, offer)
    except RefusalError as no:
        refused = Refused(status=no.status, error=str(no), queue=no.more.get("queue"))
    except (SettingsError, MessageError) as error:
        refused = Refused(status=422, error=str(error))
    await websocket.send_json(refused.model_dump(mode="json"))
    raise Ended(LATER if refused.status == 503 else POLICY, refused.error)


async def greeted(websocket: WebSocket) -> Hello:
    """The page's first message; MessageError where it is no hello, Ended where none comes."""
    try:
        message = await asyncio.wait_for(websocket.receive(), HELLO_S)
    except TimeoutError:
        raise Ended(POLICY, f"no hello came within {HELLO_S:g} s") from None
    if message["type"] == "websocket.disconnect":
        raise Ended(WENT, "the page left")
    if message.get("text") is None:
        raise MessageError("the first message is binary: send the hello, as text, first")
    return read_hello(message["text"])


async def hang_up(websocket: WebSocket, code: int, reason: str) -> None:
    """Closes the WebSocket, where the page has not done so."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(LAST_S):
            await websocket.close(code, reason.encode()[:120].decode(errors="ignore"))
