"""The beginning of a connection on a line that loses packets: flights and messages are sent again soon."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtptransceiver import RTCRtpTransceiver
from rtc_client import Client
from test_rtc import Mirror, needs_address
from waiting import PATIENCE_S, run, until

from web.media import handshake
from web.media.handshake import FIRST_RTO_S, RTO_S, Flights
from web.media.library import set_inner


class Line:
    """What is sent over an agent of ICE."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def send(self, data: bytes) -> None:
        self.sent.append(data)


def transport(line: Line, shake: Any) -> Any:
    """A DTLS transport as far as a handshake asks for one."""
    ice, ssl = SimpleNamespace(_connection=line, _send=line.send), SimpleNamespace(DTLSv1_get_timeout=lambda: None)
    made = SimpleNamespace(transport=ice, _do_handshake=shake, _ssl=ssl, state="connecting", encrypted=False)
    made._RTCDtlsTransport__rx_packets = 0
    return made


def heard(dtls: Any) -> None:
    set_inner(dtls, RTCDtlsTransport, rx_packets=dtls._RTCDtlsTransport__rx_packets + 1)


def test_a_flight_is_repeated_until_the_next_and_nothing_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "AGAIN_S", (0.01, 0.02))
    line = Line()

    async def shake() -> None:
        ice = dtls.transport
        await ice._send(b"one a")
        await ice._send(b"one b")
        await until(lambda: line.sent.count(b"one b") >= 4)
        heard(dtls)
        await ice._send(b"two")
        await until(lambda: line.sent.count(b"two") >= 4)
        assert b"one a" not in line.sent[line.sent.index(b"two") :]

    dtls = transport(line, shake)
    Flights(dtls)

    async def job() -> None:
        await dtls._do_handshake()
        before = len(line.sent)
        assert dtls.transport._send == line.send
        await asyncio.sleep(0.1)
        assert len(line.sent) == before

    run(job())


@pytest.mark.parametrize("end", ["acknowledged", "closed"])
def test_a_last_flight_of_ours_is_repeated_until_it_is_acknowledged(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """By DTLS 1.3 the handshake is over then for us, and not for the other side."""
    monkeypatch.setattr(handshake, "AGAIN_S", (0.01, 0.02))
    line = Line()

    async def shake() -> None:
        await dtls.transport._send(b"finished")
        dtls.encrypted, dtls._ssl.DTLSv1_get_timeout = True, lambda: 0.5

    dtls = transport(line, shake)
    Flights(dtls)

    async def job() -> None:
        await dtls._do_handshake()
        dtls.state = "connected"
        await dtls.transport._send(b"media")
        await until(lambda: line.sent.count(b"finished") >= 4)
        assert line.sent.count(b"media") == 1
        if end == "closed":
            dtls.state = "closed"
        else:
            dtls._ssl.DTLSv1_get_timeout = lambda: None

    run(job())  # and no task is left behind


def test_what_ends_the_handshake_ends_the_repeating() -> None:
    line = Line()

    async def shake() -> None:
        await dtls.transport._send(b"one")
        raise ConnectionError("gone")

    dtls = transport(line, shake)
    Flights(dtls)

    async def job() -> None:
        with pytest.raises(ConnectionError, match="gone"):
            await dtls._do_handshake()

    run(job())
    assert (line.sent, dtls.transport._send) == ([b"one"], line.send)


@needs_address
def test_a_connection_whose_first_flights_are_lost_is_made_by_those_sent_again() -> None:
    """By the very datagrams: those that OpenSSL repeats, a second later, have other numbers."""
    mirror, sent = Mirror(), list[bytes]()

    async def exchange(offer: str) -> str:
        answer = await mirror.answer(offer)
        agent = transceiver(mirror).receiver.transport.transport._connection
        send = agent.send

        async def lossy(data: bytes) -> None:
            sent.append(data)
            if len(sent) > 3:
                await send(data)

        agent.send = lossy  # type: ignore[method-assign]
        return answer

    async def job() -> None:
        async with Client() as client:
            await client.connect(exchange, PATIENCE_S)
            assert sent[0] == sent[1] == sent[2] == sent[3]
            assert mirror.peer is not None
            await mirror.peer.close()

    run(job())


@needs_address
def test_messages_are_sent_again_soon() -> None:
    async def job() -> None:
        mirror = Mirror()
        async with Client() as client:
            await client.connect(mirror.answer, PATIENCE_S)
            assert mirror.peer is not None
            sctp = mirror.peer._connection.sctp
            assert sctp is not None
            assert sctp._rto in (FIRST_RTO_S, RTO_S[0])
            for _ in range(20):
                sctp._update_rto(0.001)
            assert sctp._rto == RTO_S[0]
            sctp._update_rto(60)
            assert sctp._rto == RTO_S[1]
            await mirror.peer.close()

    run(job())


def transceiver(mirror: Mirror) -> RTCRtpTransceiver:
    assert mirror.peer is not None
    return mirror.peer._connection.getTransceivers()[0]
