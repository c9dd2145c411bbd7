"""The beginning of a connection, and its messages, on a line that loses packets: what was lost is sent again soon.

OpenSSL repeats a flight of the DTLS handshake after one second, then after two, four and so on, and aiortc's SCTP what
was lost after three; a browser after .05 s and .5. Where a packet in five is lost, a connection takes up to eight
seconds by that, and its first message up to ten more.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import RTCSctpTransport

from web.media.library import inner

AGAIN_S = (0.08, 0.64)  # to the first repetition of a flight, and at most: each wait is twice the last
RTO_S = (0.3, 3.0)  # least and most until a message is sent again
FIRST_RTO_S = 1.0  # before a round trip was measured, as RFC 9260 (section 16) has it


class Flights:
    """The handshake of a transport, in place of its own, which it calls: each flight is repeated until the next one.

    A record that comes twice is dropped by its number (RFC 6347, section 4.1.2.6). In DTLS 1.3 the last flight may be
    ours: the handshake is over for us then, and the other side waits for it until it has acknowledged it.
    """

    def __init__(self, transport: RTCDtlsTransport) -> None:
        self._dtls, self._ice = transport, transport.transport
        self._handshake = transport._do_handshake
        self._flight: list[bytes] = []
        self._heard = 0  # datagrams, when the flight began
        self._fresh = False  # since it was looked at last
        self._repeating: asyncio.Task[None] | None = None
        transport._do_handshake = self.run  # type: ignore[method-assign]

    async def run(self) -> None:
        """Ends as the stock one does: connected, or with the transport failed."""
        self._ice._send = self._send
        self._repeating = asyncio.create_task(self._repeat())
        try:
            await self._handshake()
        finally:
            self._ice._send = self._ice._connection.send
            if not (self._dtls.encrypted and self._unanswered):
                self._repeating.cancel()
                await asyncio.gather(self._repeating, return_exceptions=True)

    @property
    def _unanswered(self) -> bool:
        """Whether OpenSSL itself would repeat something."""
        ssl, open_ = self._dtls._ssl, self._dtls.state in ("connecting", "connected")
        return open_ and ssl is not None and ssl.DTLSv1_get_timeout() is not None

    async def _send(self, data: bytes) -> None:
        heard = inner(self._dtls, RTCDtlsTransport, "rx_packets")
        if heard != self._heard:
            self._flight.clear()
        self._heard = heard
        self._flight.append(data)
        self._fresh = True
        await self._ice._connection.send(data)

    async def _repeat(self) -> None:
        least, most = AGAIN_S
        wait = least
        while self._unanswered or not self._dtls.encrypted:
            await asyncio.sleep(wait)
            wait = least if self._fresh else min(2 * wait, most)
            if not self._fresh:
                await self._send_again()
            self._fresh = False

    async def _send_again(self) -> None:
        with contextlib.suppress(ConnectionError):  # of which whoever receives hears, too
            for data in list(self._flight):
                await self._ice._connection.send(data)


def quicken(sctp: RTCSctpTransport) -> None:
    """Lost messages of the transport, and what begins it, are sent again sooner than by its own reckoning."""
    reckon = sctp._update_rto

    def update(R: float) -> None:  # noqa: N803 (the stock one's)
        reckon(R)
        least, most = RTO_S
        assert sctp._srtt is not None
        assert sctp._rttvar is not None
        sctp._rto = min(max(sctp._srtt + 4 * sctp._rttvar, least), most)

    sctp._rto = FIRST_RTO_S
    sctp._update_rto = update  # type: ignore[method-assign]
