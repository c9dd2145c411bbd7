"""A UDP socket on the event loop, read until it is empty.

asyncio's own transport takes one datagram a turn of the loop. A loop that takes 3 ms a turn then reads 300 a second, as
many as a peer sends: what comes beyond that stands in the socket, for seconds, and everything of that peer is late,
consent checks among it (RFC 7675), until its connection is given up. What the socket has no room for is lost.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Any

BATCH = 32  # datagrams in one go: more than come in a turn, and yet an end, so that no socket keeps the others waiting
BYTES = 2**16
BUFFER_BYTES = 2**20  # of a socket, for bursts; systems allow less
Address = tuple[Any, ...]


class Datagrams(asyncio.DatagramTransport):
    """What a protocol of asyncio's sends and receives by. It owns the socket, which does not block."""

    def __init__(self, sock: socket.socket, protocol: asyncio.DatagramProtocol, batch: int = BATCH) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self._sock, self._protocol, self._batch = sock, protocol, batch
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Any, Address | None]] = deque()  # the system had no room for these
        self._closing = False
        self._loop.add_reader(sock, self._read)
        protocol.connection_made(self)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """At once, or when the system has room again; what cannot be sent at all is the network's loss."""
        if self._waiting:
            self._waiting.append((bytes(data), addr))
        elif not self._closing and not self._sent(data, addr):
            self._waiting.append((bytes(data), addr))
            self._loop.add_writer(self._sock, self._write)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._waiting.clear()
            self._loop.call_soon(self._end)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def _read(self) -> None:
        for _ in range(self._batch):
            try:
                data, address = self._sock.recvfrom(BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # what was sent before found nobody
                self._protocol.error_received(error)
                return
            self._protocol.datagram_received(data, address)
            if self._closing:
                return

    def _write(self) -> None:
        while self._waiting and self._sent(*self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting:
            self._loop.remove_writer(self._sock)

    def _sent(self, data: Any, addr: Address | None) -> bool:
        """Whether the system took it, or never will."""
        try:
            if addr is None:
                self._sock.send(data)
            else:
                self._sock.sendto(data, addr)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._protocol.error_received(error)
        return True

    def _end(self) -> None:
        self._protocol.connection_lost(None)
        self._sock.close()


async def attach(sock: socket.socket, protocol: asyncio.DatagramProtocol, batch: int = BATCH) -> None:
    """Lets a protocol send and receive by a socket, with `batch` datagrams in one go; by asyncio's own transport where
    the loop cannot watch sockets (Windows' proactor)."""
    loop = asyncio.get_running_loop()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    try:
        Datagrams(sock, protocol, batch)
    except NotImplementedError:
        await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
