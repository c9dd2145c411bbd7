"""Sound of a container: packets of Opus go in, and what the container takes comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import av
from av.container import OutputContainer
from av.packet import Packet

HERTZ = 48_000  # of Opus' clock, whatever is in it (RFC 7587 section 4.1)
AAC_BITS = 160_000  # a second, stereo
Sound = Literal["opus", "aac"]


class Track(ABC):
    """The sound track of an open container."""

    @abstractmethod
    def packets(self, packet: Packet[Any]) -> Sequence[Packet[Any]]:
        """For the container, of a packet of Opus that knows its time."""

    def rest(self) -> Sequence[Packet[Any]]:
        """What it still holds, at the end."""
        return ()


class Copied(Track):
    """Opus as it came."""

    def __init__(self, container: OutputContainer) -> None:
        self._stream = container.add_stream("libopus", rate=HERTZ)

    def packets(self, packet: Packet[Any]) -> Sequence[Packet[Any]]:
        packet.stream = self._stream
        return (packet,)


class Aac(Track):
    """Coded anew, for those who know no Opus. A packet that cannot be decoded is left out."""

    def __init__(self, container: OutputContainer) -> None:
        self._stream: Any = container.add_stream("aac", rate=HERTZ, layout="stereo")
        self._stream.bit_rate = AAC_BITS
        self._decoder: Any = av.CodecContext.create("libopus", "r")

    def packets(self, packet: Packet[Any]) -> Sequence[Packet[Any]]:
        assert packet.pts is not None
        at = packet.pts
        try:
            frames = self._decoder.decode(packet)
        except av.error.InvalidDataError:
            return ()
        made: list[Packet[Any]] = []
        for frame in frames:
            frame.pts, frame.time_base = at, Fraction(1, HERTZ)
            at += frame.samples
            made += self._stream.encode(frame)
        return made

    def rest(self) -> Sequence[Packet[Any]]:
        return self._stream.encode(None)  # type: ignore[no-any-return]


def track(kind: Sound, container: OutputContainer) -> Track:
    return Aac(container) if kind == "aac" else Copied(container)


def opus_samples(data: bytes) -> int:
    """Samples at 48 kHz of a packet of Opus, by its first bytes (RFC 6716 section 3.1); 0 where it is none."""
    if not data:
        return 0
    mode, code = data[0] >> 3, data[0] & 3
    if mode < 12:
        frame = (480, 960, 1920, 2880)[mode & 3]  # SILK
    elif mode < 16:
        frame = (480, 960)[mode & 1]  # both
    else:
        frame = (120, 240, 480, 960)[mode & 3]  # CELT
    count = (1, 2, 2, data[1] & 63 if len(data) > 1 else 0)[code]
    return frame * count
