"""A page without a browser: sends synthetic pictures over WebRTC, takes the painted ones, speaks the data channel.

    async with Client(picture, codec="H264") as client:
        await client.connect(exchange)              # exchange(offer_sdp) -> answer_sdp, a coroutine function
        client.send({"type": "ping", "t": 1})
        frame = await client.next(5)                # stream.frame.Frame, RGB
        client.messages                             # what the server said

It is built of the server's own media parts, so it costs little and shows pictures at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Literal, Self

from aiortc import RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.rtcdtlstransport import RTCDtlsTransport

from stream.frame import Frame, Image
from web.media.connection import LiveConnection
from web.media.library import inner
from web.media.sender import PaintedTrack
from web.pictures import Pictures

Exchange = Callable[[str], Awaitable[str]]
Codec = Literal["H264", "VP8"]


class Client:
    """`picture(number)` makes the pictures to send, `fps` a second; without it the client only watches."""

    def __init__(
        self,
        picture: Callable[[int], Image] | None = None,
        *,
        fps: float = 30,
        codec: Codec | None = None,
        candidates: bool = True,
        control: bool = True,
        watch: bool = True,
    ) -> None:
        self.frames: list[tuple[float, Frame]] = []  # received, with `time.monotonic()`
        self.messages: list[dict[str, Any]] = []
        self.sent_at: dict[int, float] = {}  # by number, `time.time()` in ms
        self.connection = LiveConnection()
        self.camera = Pictures()
        self._picture, self._fps, self._candidates = picture, fps, candidates
        self._arrived = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._channel = self.connection.createDataChannel("control") if control else None
        if self._channel is not None:
            self._channel.on("message", lambda text: self.messages.append(json.loads(text)))
        direction = {(True, True): "sendrecv", (True, False): "sendonly"}.get((picture is not None, watch), "recvonly")
        self.transceiver = self.connection.addTransceiver("video", direction)
        if codec is not None:
            known = RTCRtpSender.getCapabilities("video").codecs
            self.transceiver.setCodecPreferences([c for c in known if c.name in (codec, "rtx")])
        _, self.sender, self.receiver = self.connection.video()[0]
        self.receiver.on_frame = self._took
        if picture is not None:
            self.sender.replaceTrack(PaintedTrack(self.camera))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        sdp = self.connection.localDescription.sdp
        if self._candidates:
            return sdp
        return "".join(line for line in sdp.splitlines(keepends=True) if "candidate" not in line)

    async def connect(self, exchange: Exchange, timeout_s: float = 10) -> None:
        """Offers, takes the answer, waits for the connection and begins to send."""
        answer = await exchange(await self.offer())
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(timeout_s):
            while self.connection.connectionState != "connected":
                await asyncio.sleep(0.01)
        if self._picture is not None:
            self._pump = asyncio.create_task(self._send_pictures(self._picture))

    def send(self, message: dict[str, Any] | str | bytes) -> None:
        assert self._channel is not None
        self._channel.send(json.dumps(message) if isinstance(message, dict) else message)

    async def opened(self) -> None:
        """Waits for the data channel."""
        assert self._channel is not None
        while self._channel.readyState != "open":
            await asyncio.sleep(0.01)

    async def next(self, timeout_s: float = 10) -> Frame:
        """The next picture that comes."""
        self._arrived.clear()
        await asyncio.wait_for(self._arrived.wait(), timeout_s)
        return self.frames[-1][1]

    async def heard(self, kind: str, timeout_s: float = 10) -> dict[str, Any]:
        """The first message of that type."""
        async with asyncio.timeout(timeout_s):
            while True:
                for message in self.messages:
                    if message.get("type") == kind:
                        return message
                await asyncio.sleep(0.01)

    async def ask_for_key(self) -> None:
        """As a decoder that lost its way."""
        await self.receiver._send_rtcp_pli(self.receiver._ssrc)

    def stop_sending(self) -> None:
        self.camera.close()
        if self._pump is not None:
            self._pump.cancel()

    def vanish(self) -> None:
        """As if the process were killed: nothing is sent any more, not even a goodbye."""
        self.stop_sending()
        for transport in inner(self.connection, RTCPeerConnection, "dtlsTransports"):
            assert isinstance(transport, RTCDtlsTransport)
            for protocol in transport.transport._connection._protocols:
                protocol.transport.abort()

    async def close(self) -> None:
        self.stop_sending()
        await self.connection.close()

    def _took(self, frame: Frame) -> None:
        self.frames.append((time.monotonic(), frame))
        self._arrived.set()

    async def _send_pictures(self, picture: Callable[[int], Image]) -> None:
        start, number = time.monotonic(), 0
        while True:
            image = picture(number)
            self.sent_at[number] = time.time() * 1000
            self.camera.show(Frame(image), captured_ms=self.sent_at[number])
            number += 1
            await asyncio.sleep(max(0.0, start + number / self._fps - time.monotonic()))
