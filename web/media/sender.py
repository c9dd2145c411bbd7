"""aiortc's video sender that takes frames of a session's shared encoders, with a rate of its own.

Of the stock class remain: packets, RTX, history for NACKs, sender reports, round-trip time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import RTCEncodedFrame, RTCRtpSender
from aiortc.rtp import AnyRtcpPacket, RtcpRrPacket, RtcpSrPacket

from web.media import pools
from web.media.encode import video_frame
from web.media.encodings import Seat
from web.media.library import inner, set_inner
from web.media.rate import EXPECTED, Limits, Rate
from web.pictures import Picture, Pictures, Watcher

REMEMBERED = 128  # sent pictures whose times are kept until somebody asks


class PaintedTrack(MediaStreamTrack):
    """A session's pictures as a track. `LiveSender` takes encoded ones, by `seat`."""

    kind = "video"

    def __init__(self, pictures: Pictures) -> None:
        super().__init__()
        self._pictures = pictures
        self._seat: Seat | None = None
        self._watcher: Watcher | None = None

    def seat(self, codec: str, rate: Rate) -> Seat:
        """The place among those who take the pictures in that codec."""
        if self._seat is None:
            self._seat = self._pictures.encodings.join(codec, rate)
        return self._seat

    async def recv(self) -> av.VideoFrame:
        """For any other sender. MediaStreamError once the pictures have ended."""
        self._watcher = self._watcher or self._pictures.watch()
        try:
            picture = await self._watcher.next()
        except StopAsyncIteration:
            raise MediaStreamError from None
        planes = await asyncio.get_running_loop().run_in_executor(pools.encoding(), picture.planes)
        return video_frame(planes, round(picture.shown_at * 90000), key=False)

    def stop(self) -> None:
        for place in (self._seat, self._watcher):
            if place is not None:
                place.close()
        super().stop()


class Ceiling:
    """In place of aiortc's encoder, of which its sender sets the rate on every REMB."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate

    @property
    def target_bitrate(self) -> int:
        return self._rate.target

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._rate.estimate = bitrate


class LiveSender(RTCRtpSender):
    """Pictures to one peer."""

    def __init__(self, transport: RTCDtlsTransport) -> None:
        super().__init__("video", transport)
        self.rate = Rate(Limits.of(*EXPECTED))
        self.codec = ""
        self.sent = 0
        self.seat: Seat | None = None
        self.times: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._pts = 0
        self._handed_on: Picture | None = None
        set_inner(self, RTCRtpSender, encoder=Ceiling(self.rate))

    @property
    def rtt_s(self) -> float | None:
        rtt: float | None = inner(self, RTCRtpSender, "rtt")
        return rtt

    async def _next_encoded_frame(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        self._note_sent()
        track = self.track
        assert isinstance(track, PaintedTrack)
        self.codec = codec.name
        self.seat = track.seat(codec.name, self.rate)
        try:
            frame = await self.seat.next()
        except StopAsyncIteration:
            raise MediaStreamError from None
        if not self._enabled:
            return None
        self._handed_on = frame.picture
        self._pts = max(self._pts + 1, frame.pts)  # of another encoder it may be the same
        self.sent += 1
        return RTCEncodedFrame(frame.payloads, self._pts, None)  # type: ignore[arg-type]  # no audio, no level

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        await super()._handle_rtcp_packet(packet)
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    self.rate.report(report.fraction_lost / 256, self.rtt_s)

    def _send_keyframe(self) -> None:
        """The other side asks for one."""
        if self.seat is not None:
            self.seat.ask_key()

    def _note_sent(self) -> None:
        """The last picture is on its way. Its timestamp, which aiortc gives a random start, is told to whoever asks.

        Sender reports are to say when it was shown; aiortc's say when it was sent, and sound would be late by that.
        """
        if self._pts:
            late_s = time.monotonic() - self._pts / 90_000
            ntp = inner(self, RTCRtpSender, "ntp_timestamp") - int(late_s * 2**32)
            set_inner(self, RTCRtpSender, ntp_timestamp=ntp)
        picture, self._handed_on = self._handed_on, None
        if picture is not None and picture.captured_ms is not None:
            self.times.append((inner(self, RTCRtpSender, "rtp_timestamp"), picture.captured_ms))
