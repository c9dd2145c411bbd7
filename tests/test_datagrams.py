"""The UDP sockets of connections: emptied in one go, never blocking, closed with what they serve."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from stream.datagrams import BATCH, Datagrams, attach

pytestmark = pytest.mark.anyio


class Heard(asyncio.DatagramProtocol):
    """What a protocol is told."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data: list[bytes] = []
        self.errors: list[Exception] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, _addr: Any) -> None:
        self.data.append(data)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def udp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.setblocking(False)
    return made


@pytest.fixture
def other() -> Iterator[socket.socket]:
    """The other side."""
    with udp() as made:
        yield made


async def attached(sock: socket.socket) -> Heard:
    heard = Heard()
    await attach(sock, heard)
    return heard


async def ended(heard: Heard) -> None:
    heard.transport.close()
    heard.transport.close()
    assert await asyncio.wait_for(heard.lost, 5) is None


async def test_a_socket_is_emptied_in_few_turns_of_the_loop(other: socket.socket) -> None:
    """A stock transport takes a turn for each: a slow loop lets seconds of a stream stand in the socket."""
    heard = await attached(udp())
    sent = [str(number).encode() for number in range(2 * BATCH)]
    for data in sent:
        other.sendto(data, heard.transport.get_extra_info("sockname"))
    for _ in range(4):
        await asyncio.sleep(0)
    assert heard.data == sent
    await ended(heard)


async def test_it_answers_and_lets_go_of_its_socket(other: socket.socket) -> None:
    own = udp()
    heard = await attached(own)
    heard.transport.sendto(b"hello", other.getsockname())
    await asyncio.sleep(0.05)
    assert other.recvfrom(100) == (b"hello", own.getsockname())
    await ended(heard)
    assert own.fileno() == -1
    assert heard.transport.is_closing()
    heard.transport.sendto(b"nobody hears it", other.getsockname())


class Full:
    """A socket of a system that has no room for the first sends."""

    def __init__(self, sock: socket.socket, refusals: int) -> None:
        self._sock, self.refusals = sock, refusals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendto(self, data: bytes, addr: Any) -> int:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError
        return self._sock.sendto(data, addr)


async def test_what_the_system_has_no_room_for_goes_out_later_and_in_order(other: socket.socket) -> None:
    heard = Heard()
    made = Datagrams(Full(udp(), 3), heard)  # type: ignore[arg-type]
    packet = bytearray(b"0")
    for number in b"012":
        packet[0] = number
        made.sendto(packet, other.getsockname())
    await asyncio.sleep(0.05)
    assert [other.recv(10) for _ in range(3)] == [b"0", b"1", b"2"]
    await ended(heard)


async def test_what_nobody_takes_is_told_and_the_rest_goes_on(other: socket.socket) -> None:
    heard = await attached(udp())
    heard.transport.sendto(bytes(70_000), other.getsockname())  # more than a datagram holds
    assert [type(error) for error in heard.errors] == [OSError]
    heard.transport.sendto(b"small", other.getsockname())
    await asyncio.sleep(0.05)
    assert other.recv(10) == b"small"
    await ended(heard)


async def test_closing_in_the_middle_of_a_burst_ends_it(other: socket.socket) -> None:
    heard = await attached(udp())
    heard.datagram_received = lambda data, _addr: (heard.data.append(data), heard.transport.close())  # type: ignore[method-assign]
    for data in (b"1", b"2"):
        other.sendto(data, heard.transport.get_extra_info("sockname"))
    assert await asyncio.wait_for(heard.lost, 5) is None
    assert heard.data == [b"1"]


async def test_where_the_loop_cannot_watch_sockets_asyncios_own_serves(
    other: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise NotImplementedError

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "add_reader", none)
        heard = await attached(udp())
    assert not isinstance(heard.transport, Datagrams)
    other.sendto(b"hello", heard.transport.get_extra_info("sockname"))
    await asyncio.sleep(0.05)
    assert heard.data == [b"hello"]
    await ended(heard)
