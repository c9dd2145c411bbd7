"""aiortc's audio receiver without a decoder: its packets go to a `Feed`, mapped to when pictures come in.

Where both streams have sent sender reports, sound and picture are put side by side by the sender's own clock; before
that, or where the reports say nonsense, by when they came. Of a moment's packets the quickest counts.
"""

from __future__ import annotations

import asyncio
import time

from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtp import AnyRtcpPacket, RtcpSrPacket

from web.media.estimate import Least
from web.media.jitter import Clock, Packet, Unwrap
from web.media.library import inner, set_inner
from web.media.receiver import CaptureClock, LiveReceiver
from web.media.sound import RATE, Feed

SPAN_MS = 10_000  # in which the quickest packet is looked for: clocks drift half a millisecond meanwhile
NONSENSE_S = 2.0  # between what the reports say and when a packet came


class Moments:
    """When the picture came in that was captured with a packet of sound: seconds of `time.monotonic()`."""

    def __init__(self, video: LiveReceiver | None = None, clock: Clock = time.monotonic) -> None:
        self.video, self.clock = video, CaptureClock(RATE)
        self._clock, self._quickest = clock, Least(SPAN_MS)

    def of(self, ticks: int) -> float:
        """For a packet with that timestamp, unwrapped, which comes in now."""
        now = self._clock()
        came = ticks / RATE + self._quickest.add(round(now * 1000), now - ticks / RATE)
        told = self._told(ticks)
        return came if told is None or abs(told - came) > NONSENSE_S else told

    def _told(self, ticks: int) -> float | None:
        captured_ms = self.clock.ms(ticks)
        behind = None if self.video is None else self.video.behind_s
        return None if captured_ms is None or behind is None else captured_ms / 1000 + behind


class Intake:
    """In place of aiortc's `JitterBuffer`: nothing is held here, as the sound puts its packets in order."""

    def __init__(self, moments: Moments) -> None:
        self.feed: Feed | None = None
        self._moments, self._unwrap = moments, Unwrap(32)

    def add(self, packet: Packet) -> tuple[bool, None]:
        if packet._data and self.feed is not None:
            ticks = self._unwrap(packet.timestamp)
            self.feed.put(packet._data, ticks, self._moments.of(ticks))
        return False, None

    def near(self, timestamp: int) -> int:
        return self._unwrap.near(timestamp)


class LiveSoundReceiver(RTCRtpReceiver):
    """Opus from one peer, to the `feed` of `intake`. `moments.video` is the picture it belongs to."""

    def __init__(self, transport: RTCDtlsTransport) -> None:
        super().__init__("audio", transport)
        self.moments = Moments()
        self.intake = Intake(self.moments)
        set_inner(self, RTCRtpReceiver, jitter_buffer=self.intake)

    def bring(self, feed: Feed, video: LiveReceiver | None) -> None:
        """What comes goes to `feed`, in step with `video`."""
        self.intake.feed, self.moments.video = feed, video

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """As the stock one, without its decoder thread."""
        if inner(self, RTCRtpReceiver, "started"):
            return
        inner(self, RTCRtpReceiver, "codecs").update({codec.payloadType: codec for codec in parameters.codecs})
        self.transport._register_rtp_receiver(self, parameters)
        set_inner(self, RTCRtpReceiver, rtcp_task=asyncio.ensure_future(self._run_rtcp()), started=True)

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        await super()._handle_rtcp_packet(packet)
        if isinstance(packet, RtcpSrPacket):
            info = packet.sender_info
            self.moments.clock.report(info.ntp_timestamp, self.intake.near(info.rtp_timestamp))
