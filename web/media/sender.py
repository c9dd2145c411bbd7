"""aiortc's video sender with pictures, encoder, rate and threads of its own.

Of the stock class remain: packets, RTX, history for NACKs, sender reports, round-trip time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from time import perf_counter

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import RTCEncodedFrame, RTCRtpSender
from aiortc.rtp import AnyRtcpPacket, RtcpRrPacket, RtcpSrPacket

from web.media import pools
from web.media.encode import LiveEncoder, make_encoder, video_frame
from web.media.library import inner, set_inner
from web.media.rate import EXPECTED, Limits, Rate
from web.pictures import Picture, Pictures

STILL_S = 0.5  # a picture that stands still is sent again: the first packets may come before a peer is ready
KEY_GAP_S = 0.1  # between key frames that a peer asks for
REMEMBERED = 128  # sent pictures whose times are kept until somebody asks


class PaintedTrack(MediaStreamTrack):
    """The newest of a session's pictures as a track. `LiveSender` takes the pictures themselves, by `next`."""

    kind = "video"

    def __init__(self, pictures: Pictures) -> None:
        super().__init__()
        self.watcher = pictures.watch()

    async def next(self) -> Picture:
        """A new picture, or after `STILL_S` the last one again; MediaStreamError once the pictures have ended."""
        try:
            async with asyncio.timeout(STILL_S):
                return await self.watcher.next()
        except TimeoutError:
            self.watcher.again()
            return await self.next()
        except StopAsyncIteration:
            raise MediaStreamError from None

    async def recv(self) -> av.VideoFrame:
        """For any other sender."""
        picture = await self.next()
        planes = await asyncio.get_running_loop().run_in_executor(pools.encoding(), picture.planes)
        return video_frame(planes, round(picture.shown_at * 90000), key=False)

    def stop(self) -> None:
        self.watcher.close()
        super().stop()


class LiveSender(RTCRtpSender):
    """Pictures to one peer."""

    def __init__(self, transport: RTCDtlsTransport) -> None:
        super().__init__("video", transport)
        self.rate = Rate(Limits.of(*EXPECTED))
        self.codec = ""
        self.sent = self.keys = 0
        self.encode_ms = 0.0
        self.times: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._key, self._key_at = True, float("-inf")
        self._pts = 0
        self._handed_on: Picture | None = None
        self._last: Picture | None = None

    @property
    def encoder(self) -> LiveEncoder | None:
        encoder: LiveEncoder | None = inner(self, RTCRtpSender, "encoder")
        return encoder

    @property
    def rtt_s(self) -> float | None:
        rtt: float | None = inner(self, RTCRtpSender, "rtt")
        return rtt

    async def _next_encoded_frame(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        self._note_sent()
        track = self.track
        assert isinstance(track, PaintedTrack)
        picture = await track.next()
        if not self._enabled:
            return None
        encoder, key = self._encoder_for(codec), self._key_is_due()
        again, self._last = picture is self._last, picture
        moment = time.monotonic() if key or again else picture.shown_at  # else a browser takes it for a late one
        self._pts = max(self._pts + 1, round(moment * 90000))
        loop = asyncio.get_running_loop()
        payloads = await loop.run_in_executor(pools.encoding(), self._encode, encoder, picture, self._pts, key)
        if not payloads:
            return None
        self._handed_on = None if again else picture
        self.sent += 1
        return RTCEncodedFrame(payloads, self._pts, None)  # type: ignore[arg-type]  # no audio, no level

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        await super()._handle_rtcp_packet(packet)
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    self.rate.report(report.fraction_lost / 256, self.rtt_s)

    def _send_keyframe(self) -> None:
        """A key frame as soon as `KEY_GAP_S` allows: of the newest picture, if no new one comes."""
        self._key = True
        track = self.track
        if isinstance(track, PaintedTrack) and time.monotonic() - self._key_at >= KEY_GAP_S:
            track.watcher.again()

    def _key_is_due(self) -> bool:
        now = time.monotonic()
        if not self._key or now - self._key_at < KEY_GAP_S:
            return False
        self._key, self._key_at = False, now
        self.keys += 1
        return True

    def _encoder_for(self, codec: RTCRtpCodecParameters) -> LiveEncoder:
        encoder = self.encoder
        if encoder is None:
            self.codec = codec.name
            encoder = make_encoder(codec.name, self.rate)
            set_inner(self, RTCRtpSender, encoder=encoder)
        return encoder

    def _encode(self, encoder: LiveEncoder, picture: Picture, pts: int, key: bool) -> list[bytes]:
        """In a thread."""
        start = perf_counter()
        payloads = encoder.payloads(picture.planes(encoder.matrix), pts, key)
        self.encode_ms += 0.1 * ((perf_counter() - start) * 1000 - self.encode_ms)
        return payloads

    def _note_sent(self) -> None:
        """aiortc adds a random start to the timestamps, and keeps what it sent: by now that is of the last picture."""
        picture, self._handed_on = self._handed_on, None
        if picture is not None and picture.captured_ms is not None:
            self.times.append((inner(self, RTCRtpSender, "rtp_timestamp"), picture.captured_ms))
