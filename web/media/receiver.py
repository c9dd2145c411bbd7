"""aiortc's video receiver with a buffer, NACKs and a decoder of its own; pictures go to `receive`, there is no track.

Of the stock class remain: codecs, RTX, statistics, receiver reports.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from statistics import median

import av
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtp import AnyRtcpPacket, RtcpByePacket, RtcpSrPacket, RtpPacket

from stream.frame import Frame, Image
from stream.preprocess import Fit, fitted
from web.media import pools
from web.media.colour import ToRgb
from web.media.decode import Decoded, Decoding
from web.media.estimate import Estimator, Least
from web.media.extensions import ColourSpace, Extensions
from web.media.jitter import EncodedFrame, FrameBuffer, KeyRequests, Unwrap
from web.media.library import inner, set_inner
from web.media.nack import TICK_S, Nacks
from web.media.rate import EXPECTED, Limits

TIME_BASE = Fraction(1, 90000)
Shape = Callable[[], tuple[int, int, Fit]]
QUICKEST_MS = 10_000  # in which the quickest frame is looked for
REPORTS = 7  # whose median counts
ANOTHER_MS = 500  # off by more: the sender's clock was set, or it is another stream

QUIET_S = 1.0  # a stream of which nothing came for so long may be followed by another one
NTP_TO_UNIX_S = 2_208_988_800  # from 1900 to 1970


class CaptureClock:
    """The sender's wall clock for an RTP timestamp, from its sender reports (RFC 3550 section 6.4.1).

    Some senders report when a packet was sent, and not when its picture was taken: of a busy one, a report alone may be
    off by tens of milliseconds. The median of the newest counts.
    """

    def __init__(self, rate: int = 90_000) -> None:
        """`rate`: ticks a second of the timestamps."""
        self._origins = deque[float](maxlen=REPORTS)
        self._rate = rate

    @property
    def origin_ms(self) -> float | None:
        """When the timestamp was 0; None before the first report."""
        return median(self._origins) if self._origins else None

    def report(self, ntp: int, pts: int) -> None:
        """`ntp` in 1/2**32 s since 1900, and the timestamp of the same moment."""
        origin_ms = (ntp / 2**32 - NTP_TO_UNIX_S) * 1000 - pts * 1000 / self._rate
        if self.origin_ms is not None and abs(origin_ms - self.origin_ms) > ANOTHER_MS:
            self._origins.clear()
        self._origins.append(origin_ms)

    def ms(self, pts: int) -> float | None:
        """Milliseconds since 1970; None before the first report."""
        return None if self.origin_ms is None else self.origin_ms + pts * 1000 / self._rate


class LiveReceiver(RTCRtpReceiver):
    """Video from one peer. `on_frame` gets the newest picture, on the event loop."""

    def __init__(self, transport: RTCDtlsTransport) -> None:
        super().__init__("video", transport)
        self.on_frame: Callable[[Frame], None] | None = None
        self.shape: Shape | None = None
        self.clock = CaptureClock()
        self.keys = KeyRequests()
        self.nacks = Nacks()
        self.buffer = FrameBuffer(self._assembled, self.keys)
        self.decoding = Decoding(pools.decoding(), self.keys, self._decoded, self._finished)
        self.codec = ""
        self.received = 0
        self.decode_ms = 0.0
        self.colours: ColourSpace | None = None
        self._quickest, self._quickest_s = Least(QUICKEST_MS), 0.0
        self._rgb = ToRgb()
        self._pts = Unwrap(32)
        self._ssrc, self._heard = 0, float("-inf")
        self._tick: asyncio.TimerHandle | None = None
        self._asking: asyncio.Future[None] | None = None
        limits = Limits.of(*EXPECTED)
        self.estimator = Estimator(limits.low, limits.high)
        set_inner(
            self,
            RTCRtpReceiver,
            jitter_buffer=self.buffer,
            nack_generator=self.nacks,
            remote_bitrate_estimator=self.estimator,
        )

    @property
    def behind_s(self) -> float | None:
        """From the sender's wall clock to our monotonic one, and over the quickest way; None before a report."""
        origin_ms = self.clock.origin_ms
        return None if origin_ms is None or not self.received else self._quickest_s - origin_ms / 1000

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """As the stock one, without its decoder thread."""
        if inner(self, RTCRtpReceiver, "started"):
            return
        inner(self, RTCRtpReceiver, "codecs").update({codec.payloadType: codec for codec in parameters.codecs})
        repairs = {encoding.rtx.ssrc: encoding.ssrc for encoding in parameters.encodings if encoding.rtx}
        inner(self, RTCRtpReceiver, "rtx_ssrc").update(repairs)
        self.transport._register_rtp_receiver(self, parameters)
        set_inner(self, RTCRtpReceiver, rtcp_task=asyncio.ensure_future(self._run_rtcp()), started=True)

    async def stop(self) -> None:
        self._end()
        await super().stop()

    def _handle_disconnect(self) -> None:
        self._end()

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        await super()._handle_rtcp_packet(packet)
        if isinstance(packet, RtcpSrPacket) and packet.ssrc == self._ssrc:
            info = packet.sender_info
            self.clock.report(info.ntp_timestamp, self._pts.near(info.rtp_timestamp))
        elif isinstance(packet, RtcpByePacket):
            self._end()

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        codec = inner(self, RTCRtpReceiver, "codecs").get(packet.payload_type)
        if codec is not None and codec.name != "rtx":
            if self._is_foreign(packet.ssrc):
                return
            self.codec, self._ssrc = codec.name, packet.ssrc
        if isinstance(packet.extensions, Extensions):
            self.colours = packet.extensions.colour_space
        await super()._handle_rtp_packet(packet, arrival_time_ms)
        if self._waits and self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._ticked)

    def _is_foreign(self, ssrc: int) -> bool:
        """Whether it is of another stream than the one that comes: a sender that simulcasts unasked sends its picture
        in several sizes, and decoded together they are none."""
        now = time.monotonic()
        if ssrc != self._ssrc and now - self._heard < QUIET_S:
            return True
        self._heard = now
        return False

    @property
    def _waits(self) -> bool:
        """Whether packets are missing, worth asking for or not."""
        return bool(self.nacks.missing) or self.buffer.holed

    def _ticked(self) -> None:
        """While packets are missing: asks for them, and gives up what is too late."""
        self._tick = None
        self.buffer.patience_s = self.nacks.patience_s
        lost, key = self.nacks.due(), self.buffer.overdue()
        if lost or key:
            self._asking = asyncio.ensure_future(self._ask(lost, key))
        if self._waits:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._ticked)

    async def _ask(self, lost: list[int], key: bool) -> None:
        if lost:
            await self._send_rtcp_nack(self._ssrc, lost)
        if key:
            await self._send_rtcp_pli(self._ssrc)

    def _assembled(self, frame: EncodedFrame) -> None:
        self.decoding.put(self.codec, frame)

    def _finished(self, picture: av.VideoFrame) -> Image:
        """In a decoding thread."""
        image = self._rgb(picture, self.colours)
        return image if self.shape is None else fitted(image, *self.shape())

    def _decoded(self, decoded: Decoded) -> None:
        self.received += 1
        self.decode_ms += 0.1 * (decoded.ms - self.decode_ms)
        if self.on_frame is not None:
            pts = self._pts(decoded.encoded.timestamp)
            arrived = decoded.encoded.arrived
            self._quickest_s = self._quickest.add(round(arrived * 1000), arrived - float(pts * TIME_BASE))
            self.on_frame(Frame(decoded.image, pts, TIME_BASE, decoded.encoded.arrived))

    def _end(self) -> None:
        self.decoding.close()
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
