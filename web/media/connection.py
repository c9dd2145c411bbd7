"""aiortc's peer connection with the live sender and receiver in its video transceivers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection
from aiortc.codecs import is_rtx
from aiortc.exceptions import InvalidStateError
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtcrtptransceiver import RTCRtpTransceiver

from web.media.extensions import common, heed_colours
from web.media.handshake import Flights, quicken
from web.media.ice import Ice
from web.media.library import check_library, inner, set_inner
from web.media.listening import LiveSoundReceiver
from web.media.receiver import LiveReceiver
from web.media.sender import LiveSender
from web.network import Network

log = logging.getLogger(__name__)


class LiveConnection(RTCPeerConnection):
    """`on_broken(reason)` is called when connecting fails in a way that aiortc does not tell."""

    def __init__(self, network: Network | None = None) -> None:
        check_library()
        self.on_broken: Callable[[str], None] | None = None
        self.ice = Ice(network or Network())
        self._transports: list[RTCDtlsTransport] = []
        super().__init__(RTCConfiguration(iceServers=[]))  # the default asks a public STUN server

    async def close(self) -> None:
        """The stock one does not get through when a bad offer has left the connection half made."""
        await self.ice.close()
        try:
            await super().close()
        except AttributeError as error:
            log.debug("closing a half made connection: %r", error)
            inner(self, RTCPeerConnection, "isClosed").set_result(True)
            for transport in self._transports:
                await transport.stop()
                await transport.transport.stop()

    @property
    def heard(self) -> int:
        """Datagrams that came so far, connectivity checks included: does not grow once the other side is gone."""
        transports = inner(self, RTCPeerConnection, "dtlsTransports")
        return self.ice.checks + sum(int(inner(transport, RTCDtlsTransport, "rx_packets")) for transport in transports)

    @property
    def bytes(self) -> dict[str, int]:
        """What came `in` and went `out` so far, of media and messages."""
        transports = inner(self, RTCPeerConnection, "dtlsTransports")
        return {direction: sum(int(inner(transport, RTCDtlsTransport, name)) for transport in transports)
                for direction, name in (("in", "rx_bytes"), ("out", "tx_bytes"))}  # fmt: skip

    def video(self) -> list[tuple[RTCRtpTransceiver, LiveSender, LiveReceiver]]:
        return [(t, t.sender, t.receiver) for t in self.getTransceivers() if t.kind == "video"]  # type: ignore[misc]

    def audio(self) -> list[tuple[RTCRtpTransceiver, RTCRtpSender, LiveSoundReceiver]]:
        return [(t, t.sender, t.receiver) for t in self.getTransceivers() if t.kind == "audio"]  # type: ignore[misc]

    def answer_colours(self, transceiver: RTCRtpTransceiver) -> None:
        """Takes the colour space among the extensions of the answer, where it was offered."""
        media = inner(self, RTCPeerConnection, "remoteDescription")().media[transceiver._get_mline_index()]
        transceiver._headerExtensions += common(media.rtp.headerExtensions)

    # The stock class calls these by their mangled names, so that a subclass can put its own in their place.

    def _RTCPeerConnection__createTransceiver(  # noqa: N802
        self, direction: str, kind: str, sender_track: MediaStreamTrack | None = None
    ) -> RTCRtpTransceiver:
        make = inner(super(), RTCPeerConnection, "createTransceiver")
        transceiver: RTCRtpTransceiver = make(direction=direction, kind=kind, sender_track=sender_track)
        if kind == "video":
            enliven(transceiver)
        else:
            listen_by(transceiver)
        return transceiver

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:  # noqa: N802
        transport: RTCDtlsTransport = inner(super(), RTCPeerConnection, "createDtlsTransport")()
        self._transports.append(transport)
        self.ice.take(transport.transport)
        heed_colours(transport)
        Flights(transport)
        return transport

    def _RTCPeerConnection__createSctpTransport(self) -> None:  # noqa: N802
        inner(super(), RTCPeerConnection, "createSctpTransport")()
        assert self.sctp is not None
        quicken(self.sctp)

    async def _RTCPeerConnection__connect(self) -> None:  # noqa: N802
        """The stock one, which runs as a task that nobody awaits."""
        try:
            await inner(super(), RTCPeerConnection, "connect")()
        except (AssertionError, ValueError, AttributeError, ConnectionError, InvalidStateError) as error:
            log.debug("connecting ended: %r", error)
            if self.on_broken is not None:
                self.on_broken(f"the connection could not be made: {error!r}")


def enliven(transceiver: RTCRtpTransceiver) -> None:
    """Puts the live sender and receiver in place of the stock ones, which have not started."""
    stock = transceiver.sender
    sender, receiver = LiveSender(stock.transport), LiveReceiver(stock.transport)
    sender._stream_id = stock._stream_id
    sender.replaceTrack(stock.track)
    receiver._set_rtcp_ssrc(sender._ssrc)
    set_inner(transceiver, RTCRtpTransceiver, sender=sender, receiver=receiver)


def listen_by(transceiver: RTCRtpTransceiver) -> None:
    """Puts the live sound receiver in place of the stock one; the stock sender stays."""
    receiver = LiveSoundReceiver(transceiver.sender.transport)
    receiver._set_rtcp_ssrc(transceiver.sender._ssrc)
    set_inner(transceiver, RTCRtpTransceiver, receiver=receiver)


def hint_bitrate(transceiver: RTCRtpTransceiver, low: int, start: int, high: int) -> None:
    """Tells a Chromium that sends to us, in the answer, what to send (bits a second): left alone it begins with 0.3
    Mbit/s, makes its picture smaller, and stays under 1.7 Mbit/s at 512x512. Others ignore unknown parameters."""
    for codec in transceiver._codecs:
        if not is_rtx(codec):
            codec.parameters |= {
                "x-google-min-bitrate": str(low // 1000),
                "x-google-start-bitrate": str(start // 1000),
                "x-google-max-bitrate": str(high // 1000),
            }
