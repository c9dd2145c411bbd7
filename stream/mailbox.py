"""Mailboxes in shared memory: they hold the newest picture, and nobody ever waits for anybody.

The memory has no name. Its only handles are the two processes' own, so that it is gone when they are, however they
end: nothing can be left in /dev/shm, and a container's small /dev/shm is no limit. (Windows has no such files; its
mappings have names, and go with their last user all the same.)
"""

from __future__ import annotations

import math
import mmap
import os
import secrets
import struct
import sys
import tempfile
import threading
from fractions import Fraction
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stream.frame import Frame

SLOTS = 3  # the writer must write two whole pictures before it comes back to the one that is being read
LINE = 64  # bytes: a cache line; nothing of two owners shares one
CLOCK = struct.Struct("<qqqddQII")  # pts, time base, captured_at, engine_ms, flags, width, height
REPEATED, PRIMED = 1, 2  # flags
PATIENCE = 100  # torn reads in a row, before the reader leaves it for the next time
NEWEST, TAKEN, MISSED = 0, LINE // 8, LINE // 8 + 1  # words of a mailbox; the last two are the reader's
Activity = Literal["loading", "preparing", "tick", "idle"]
ACTIVITIES: tuple[Activity, ...] = ("loading", "preparing", "tick", "idle")


class Place(NamedTuple):
    """A piece of the memory, in bytes. `serial` names it among all pieces that there ever were."""

    offset: int
    size: int
    serial: int


class Address(NamedTuple):
    """Where a pair of mailboxes is, and the largest picture that fits in them, in pixels."""

    place: Place
    pixels: int


class Memory:
    """The shared memory, as the worker sees it. Pieces of it are mapped one by one."""

    def __init__(self, handle: int | str) -> None:
        self.handle = handle

    def map(self, place: Place) -> mmap.mmap:
        """A piece, zeros at first; close it when nothing looks into it any more."""
        if sys.platform == "win32":
            return mmap.mmap(-1, place.size, tagname=f"{self.handle}-{place.serial}")
        assert isinstance(self.handle, int)
        return mmap.mmap(self.handle, place.size, offset=place.offset)

    def close(self) -> None:
        """Lets go of it; what is mapped stays until it is closed."""
        if isinstance(self.handle, int):
            os.close(self.handle)


class Arena(Memory):
    """The shared memory, as the server owns it: it grows, and lends pieces that come back for others."""

    def __init__(self) -> None:
        super().__init__(nameless())
        self._end = self._serial = 0
        self._free: dict[int, list[int]] = {}  # offsets by size

    def lend(self, size: int) -> Place:
        """A piece of at least `size` bytes, all zeros. Sizes are powers of two, so that pieces fit again."""
        size = max(mmap.ALLOCATIONGRANULARITY, 1 << (size - 1).bit_length())
        free = self._free.setdefault(size, [])
        offset = free.pop() if free else self._grow(size)
        self._serial += 1
        return Place(offset, size, self._serial)

    def take_back(self, place: Place) -> None:
        """Lends the piece to others from now on. Nobody may look into it any more, in neither process."""
        with self.map(place) as mapped:
            if sys.platform == "linux":
                mapped.madvise(mmap.MADV_REMOVE)  # the pages go back to the system, and are zeros again
            else:
                mapped.write(bytes(place.size))
        self._free[place.size].append(place.offset)

    def _grow(self, size: int) -> int:
        offset, self._end = self._end, self._end + size
        if isinstance(self.handle, int):
            os.truncate(self.handle, self._end)
        return offset


def nameless() -> int | str:
    """A new file of no bytes in memory, without a name (a name for Windows, where it is none of a file)."""
    if sys.platform == "win32":
        return f"livebrush-{secrets.token_hex(8)}"
    if sys.platform == "linux":
        return os.memfd_create("livebrush", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # macOS: unlinked at once, and held in the page cache
        return os.dup(file.fileno())


# ------------------------------------------------------------------------------------------------- pictures


class Letter(NamedTuple):
    """What was taken from a mailbox: a frame, its picture the receiver's own copy, and what was said of it."""

    frame: Frame
    flags: int
    engine_ms: float


class Mailbox:
    """Holds the newest picture. One writer, one reader, in one process or two, and no lock.

    A picture is written into the slot that is furthest from being read, then named as the newest. The reader copies
    it, and looks whether the slot still holds it: if the writer came round meanwhile, the copy may be torn and is
    taken again, from a newer slot. Whoever dies, and wherever, leaves a mailbox that the other can go on using.
    """

    def __init__(self, memory: mmap.mmap, start: int, pixels: int) -> None:
        """On zeros for a new one. `start` is the mailbox's place in `memory`, `pixels` the largest picture."""
        self.pixels = pixels
        self._words: NDArray[np.uint64] = np.frombuffer(memory, np.uint64, LINE // 8 * 2, start)
        self._slots = [_Slot(memory, start + 2 * LINE + i * slot_size(pixels), pixels) for i in range(SLOTS)]
        self._fence = threading.Lock()

    @staticmethod
    def size(pixels: int) -> int:
        """Bytes of memory that a mailbox takes."""
        return 2 * LINE + SLOTS * slot_size(pixels)

    def put(self, frame: Frame, flags: int = 0, engine_ms: float = 0.0) -> None:
        """Makes `frame` the newest. ValueError where its picture is larger than the mailbox."""
        number = int(self._words[NEWEST]) + 1
        slot = self._slots[number % SLOTS]
        slot.mark[0] = 0
        self._ordered()
        slot.write(frame, flags, engine_ms)
        self._ordered()
        slot.mark[0] = number
        self._words[NEWEST] = number

    def take(self) -> Letter | None:
        """The newest, or None where there is nothing since the last time."""
        for _ in range(PATIENCE):
            number = int(self._words[NEWEST])
            before = self._taken
            if number == before:
                return None
            letter = self._read(number)
            if letter is not None:
                self._words[MISSED] += np.uint64(number - before - 1)
                self._words[TAKEN] = number
                return letter
        return None

    @property
    def missed(self) -> int:
        """Pictures that newer ones overwrote, as far as the reader has come."""
        return int(self._words[MISSED])

    @property
    def lost(self) -> int:
        """Pictures that were put and never taken, if nobody comes any more."""
        return int(self._words[NEWEST]) - self._taken + self.missed

    def close(self) -> None:
        """Lets go of the memory."""
        del self._words, self._slots

    @property
    def _taken(self) -> int:
        return int(self._words[TAKEN])

    def _read(self, number: int) -> Letter | None:
        """A copy of picture `number`, or None where the writer was there meanwhile."""
        slot = self._slots[number % SLOTS]
        if int(slot.mark[0]) != number:
            return None
        self._ordered()
        letter = slot.read()
        self._ordered()
        return letter if int(slot.mark[0]) == number else None

    def _ordered(self) -> None:
        """What was written or read before stays before what comes after, also on processors that reorder (ARM).

        Python has no fence; a lock's acquire and release are half of one each, two pairs a whole one. It is this
        process's own and never contended.
        """
        for _ in range(2):
            with self._fence:
                pass


def slot_size(pixels: int) -> int:
    return 2 * LINE + -(-pixels * 3 // LINE) * LINE


class _Slot:
    """One picture with its clock, and the number under which it was put; 0 while it is being written."""

    def __init__(self, memory: mmap.mmap, start: int, pixels: int) -> None:
        self.mark: NDArray[np.uint64] = np.frombuffer(memory, np.uint64, 1, start)
        self._clock = memoryview(memory)[start + LINE : start + LINE + CLOCK.size]
        self._bytes: NDArray[np.uint8] = np.frombuffer(memory, np.uint8, pixels * 3, start + 2 * LINE)

    def write(self, frame: Frame, flags: int, engine_ms: float) -> None:
        width, height = frame.size
        captured = math.nan if frame.captured_at is None else frame.captured_at
        base = frame.time_base
        facts = (frame.pts, base.numerator, base.denominator, captured, engine_ms, flags, width, height)
        if frame.image.size > len(self._bytes):
            room = len(self._bytes) // 3
            raise ValueError(f"a picture of {width}x{height} is larger than its mailbox, {room} pixels")
        CLOCK.pack_into(self._clock, 0, *facts)
        self._bytes[: frame.image.size].reshape(frame.image.shape)[:] = frame.image

    def read(self) -> Letter | None:
        """A copy; None where it is torn so badly that it makes no sense."""
        pts, over, under, captured, engine_ms, flags, width, height = CLOCK.unpack_from(self._clock)
        size = width * height * 3
        if size > len(self._bytes) or not under:
            return None
        image = self._bytes[:size].reshape(height, width, 3).copy()
        frame = Frame(image, pts, Fraction(over, under), None if math.isnan(captured) else captured)
        return Letter(frame, flags, engine_ms)


class Boxes:
    """A stream's pair of mailboxes in one piece of memory: `inbox` to the worker, `outbox` back."""

    def __init__(self, memory: Memory, address: Address) -> None:
        self.address = address
        self._mapped = memory.map(address.place)
        self.inbox = Mailbox(self._mapped, 0, address.pixels)
        self.outbox = Mailbox(self._mapped, Mailbox.size(address.pixels), address.pixels)

    @classmethod
    def lent(cls, arena: Arena, pixels: int) -> Self:
        """A new pair for pictures of up to so many pixels."""
        return cls(arena, Address(arena.lend(2 * Mailbox.size(pixels)), pixels))

    def close(self) -> None:
        """Lets go of the memory, in this process."""
        self.inbox.close()
        self.outbox.close()
        self._mapped.close()


# ------------------------------------------------------------------------------------------------- the pulse


class Beat(NamedTuple):
    """What the worker is doing, how often it has said so, and how long its ticks usually take."""

    number: int
    activity: Activity
    tick_s: float


class Pulse:
    """A few words that the worker writes at every turn of its loop, and the server looks at."""

    def __init__(self, memory: Memory, place: Place) -> None:
        self._mapped = memory.map(place)
        self._words: NDArray[np.uint64] = np.frombuffer(self._mapped, np.uint64, 3)

    def beat(self, activity: Activity, tick_s: float = 0.0) -> None:
        self._words[1:] = ACTIVITIES.index(activity), int(tick_s * 1e6)
        self._words[0] += np.uint64(1)

    def read(self) -> Beat:
        number, activity, tick_us = (int(x) for x in self._words)
        return Beat(number, ACTIVITIES[activity], tick_us / 1e6)

    def close(self) -> None:
        del self._words
        self._mapped.close()
