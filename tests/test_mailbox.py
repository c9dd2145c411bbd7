"""Mailboxes: newest wins and is counted, a torn picture is never seen, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from workers import fds, shared

from stream.frame import Frame
from stream.mailbox import PRIMED, REPEATED, SLOTS, Arena, Boxes, Mailbox, Pulse

ROOT = Path(__file__).parents[1]
PIXELS = 32 * 16


def picture(value: int, width: int = 32, height: int = 16) -> Frame:
    return Frame(np.full((height, width, 3), value % 256, np.uint8), value)


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena()
    yield arena
    arena.close()


@pytest.fixture
def box(arena: Arena) -> Iterator[Mailbox]:
    boxes = Boxes.lent(arena, PIXELS)
    yield boxes.inbox
    boxes.close()


def test_a_frame_comes_out_as_it_went_in_and_only_once(box: Mailbox) -> None:
    assert box.take() is None
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    box.put(Frame(image, 90_001, Fraction(1, 90_000), 12.25), REPEATED | PRIMED, 7.5)
    letter = box.take()
    assert letter is not None
    frame, flags, engine_ms = letter
    assert (frame.image == image).all()
    assert (frame.pts, frame.time_base, frame.captured_at) == (90_001, Fraction(1, 90_000), 12.25)
    assert (flags, engine_ms) == (REPEATED | PRIMED, 7.5)
    assert box.take() is None


def test_an_unknown_capture_time_stays_unknown(box: Mailbox) -> None:
    box.put(picture(1))
    letter = box.take()
    assert letter is not None
    assert letter.frame.captured_at is None


def test_newest_wins_and_the_others_are_counted(box: Mailbox) -> None:
    for value in range(1, 6):
        box.put(picture(value))
    letter = box.take()
    assert letter is not None
    assert letter.frame.pts == 5
    assert (box.missed, box.lost) == (4, 4)
    box.put(picture(6))
    assert (box.missed, box.lost) == (4, 5)  # the last one may still be taken


def test_smaller_pictures_fit_and_larger_ones_do_not(box: Mailbox) -> None:
    box.put(picture(3, 8, 24))
    letter = box.take()
    assert letter is not None
    assert letter.frame.size == (8, 24)
    with pytest.raises(ValueError, match="a picture of 33x16 is larger than its mailbox, 512 pixels"):
        box.put(picture(4, 33, 16))
    assert box.take() is None
    box.put(picture(5))
    assert box.take() is not None


def test_a_picture_that_lies_oddly_in_memory_goes_in(box: Mailbox) -> None:
    wide = np.arange(16 * 64 * 3, dtype=np.uint8).reshape(16, 64, 3)
    box.put(Frame(wide[::-1, ::2]))
    letter = box.take()
    assert letter is not None
    assert (letter.frame.image == wide[::-1, ::2]).all()


def test_what_was_taken_is_the_takers_own(box: Mailbox) -> None:
    box.put(picture(1))
    letter = box.take()
    for value in range(2, 2 + SLOTS):
        box.put(picture(value))
    assert letter is not None
    assert (letter.frame.image == 1).all()


def test_a_writer_that_dies_in_the_middle_leaves_the_picture_before(box: Mailbox) -> None:
    box.put(picture(1))
    box._slots[2].mark[0] = 0  # where it was when it died: the next picture's slot, half written
    box._slots[2]._bytes[:100] = 99
    letter = box.take()
    assert letter is not None
    assert letter.frame.pts == 1
    box.put(picture(2))  # the next writer's
    assert box.take() is not None


def test_a_reader_that_was_overtaken_reads_again(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    box.put(picture(1))
    slot = box._slots[1]
    read = slot.read

    def overtaken() -> object:
        torn = read()
        monkeypatch.undo()
        for value in range(2, 2 + SLOTS):
            box.put(picture(value))
        return torn

    monkeypatch.setattr(slot, "read", overtaken)
    letter = box.take()
    assert letter is not None
    assert letter.frame.pts == 1 + SLOTS
    assert box.missed == SLOTS


def test_a_reader_that_is_always_overtaken_does_not_wait(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    box.put(picture(1))
    with monkeypatch.context() as patched:
        patched.setattr(box, "_read", lambda number: None)
        assert box.take() is None
    letter = box.take()
    assert letter is not None
    assert letter.frame.pts == 1


HAMMER = """
import sys, time
import numpy as np
from stream.frame import Frame
from stream.mailbox import Address, Boxes, Memory, Place

handle, pixels, *place = map(int, sys.argv[1:])
boxes = Boxes(Memory(handle), Address(Place(*place), pixels))
images = [np.full((256, 256, 3), value, np.uint8) for value in range(256)]
end = time.monotonic() + 1.0
number = 0
while time.monotonic() < end:
    number += 1
    boxes.inbox.put(Frame(images[number % 256], number))
print(number)
"""


def test_a_torn_picture_is_never_seen_under_the_hammer(arena: Arena) -> None:
    boxes = Boxes.lent(arena, 256 * 256)
    assert isinstance(arena.handle, int)
    arguments = [arena.handle, boxes.address.pixels, *boxes.address.place]
    with subprocess.Popen(
        [sys.executable, "-c", HAMMER, *map(str, arguments)],
        pass_fds=[arena.handle], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        seen, last = 0, 0
        while writer.poll() is None or last < int(boxes.inbox._words[0]):
            letter = boxes.inbox.take()
            if letter is None:
                continue
            image, number = letter.frame.image, letter.frame.pts
            assert number > last
            assert (image == number % 256).all()
            seen, last = seen + 1, number
        assert writer.stdout is not None
        written = int(writer.stdout.read())
    assert writer.returncode == 0
    assert seen > 20
    assert last == written
    assert seen + boxes.inbox.missed == written
    boxes.close()


def test_memory_that_came_back_is_lent_again_and_is_empty(arena: Arena) -> None:
    first = Boxes.lent(arena, PIXELS)
    first.inbox.put(picture(77))
    address = first.address
    first.close()
    arena.take_back(address.place)
    second = Boxes.lent(arena, PIXELS)
    assert second.address.place.offset == address.place.offset
    assert second.inbox.take() is None
    assert not any(second._mapped[:])
    second.close()


def test_pieces_do_not_overlap(arena: Arena) -> None:
    places = [arena.lend(size) for size in (1, 5000, 4096, 100_000, 64, 5000)]
    ends = 0
    for place in sorted(places):
        assert place.offset >= ends
        ends = place.offset + place.size


def test_memory_has_no_name_and_is_gone_when_closed() -> None:
    before = fds()
    arena = Arena()
    boxes = [Boxes.lent(arena, PIXELS) for _ in range(4)]
    for x in boxes:
        x.inbox.put(picture(1))
    assert not shared()
    for x in boxes:
        x.close()
    arena.close()
    assert fds() == before


def test_the_pulse_says_what_is_done_and_how_often(arena: Arena) -> None:
    pulse = Pulse(arena, arena.lend(64))
    assert pulse.read() == (0, "loading", 0.0)
    pulse.beat("preparing")
    pulse.beat("tick", 0.25)
    assert pulse.read() == (2, "tick", 0.25)
    pulse.close()
