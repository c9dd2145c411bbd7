"""A wire between two interfaces that loses and delays datagrams: raw frames in on one, out on the other.

    python -m tools.relay '{"left": "eth1", "right": "eth2", "loss": 0.05, "delay_ms": 30, "jitter_ms": 10, "seed": 1}'

Runs in the namespace of both (tools/lossy.py) until its standard input ends, and says when it has begun. What
is not UDP passes at once. Chance is seeded, one generator a direction.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from typing import Any

FRAME = 65_536
ETH_P_ALL, PACKET_OUTGOING = 0x0003, 4
IPV4, UDP = b"\x08\x00", 17


class Fate:
    """What happens to datagrams of one direction."""

    def __init__(self, loss: float, delay_ms: float, jitter_ms: float, seed: int) -> None:
        self._loss, self._delay_ms, self._jitter_ms = loss, delay_ms, jitter_ms
        self._chance = random.Random(seed)

    def delay_s(self, frame: bytes) -> float | None:
        """For how long a frame is held; None: it is lost."""
        if frame[12:14] != IPV4 or frame[23] != UDP:
            return 0.0
        lost = self._chance.random() < self._loss
        jitter_ms = self._chance.uniform(0, self._jitter_ms)
        return None if lost else (self._delay_ms + jitter_ms) / 1000


def opened(device: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    raw.bind((device, ETH_P_ALL))
    raw.setblocking(False)
    return raw


class Wire:
    """One direction."""

    def __init__(self, source: socket.socket, target: socket.socket, fate: Fate) -> None:
        self._source, self._target, self._fate = source, target, fate
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        while True:
            try:
                frame, whence = self._source.recvfrom(FRAME)
            except BlockingIOError:
                return
            held_s = None if whence[2] == PACKET_OUTGOING else self._fate.delay_s(frame)
            if held_s == 0:
                self._send(frame)
            elif held_s is not None:
                self._loop.call_later(held_s, self._send, frame)

    def _send(self, frame: bytes) -> None:
        try:
            self._target.send(frame)
        except OSError as error:  # a full queue loses a datagram too
            sys.stderr.write(f"relay: {error}\n")


async def relay(left: str, right: str, **fate: Any) -> None:
    seed = fate.pop("seed", 0)
    one, other = opened(left), opened(right)
    Wire(one, other, Fate(**fate, seed=seed))
    Wire(other, one, Fate(**fate, seed=seed + 1))
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(relay(**json.loads(sys.argv[1])))
