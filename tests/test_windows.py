"""Windows and fuse weights: every frame covered, weights that sum to 1, for every legal combination."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from stream.clips.fuse import SHAPES, overlaps, weights
from stream.clips.windows import reversed_bits, windows
from stream.errors import ClipError

LENGTHS = (8, 16, 24, 32)
FRAMES = range(1, 201)
FUSES = tuple(SHAPES)


def laid(schedule: str, frames: int, length: int, overlap: int, step: int = 0) -> list[tuple[int, ...]]:
    return windows(schedule, frames, length, overlap, step)


@pytest.mark.parametrize("schedule", ["static", "looped", "batched"])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_frame_is_covered_and_its_weights_sum_to_one(schedule: str, length: int) -> None:
    for frames in FRAMES:
        for overlap in range(length) if schedule != "batched" else (0,):
            found = laid(schedule, frames, length, overlap, step=frames)
            flat = np.concatenate(found)
            assert flat.min() == 0
            assert flat.max() == frames - 1
            assert np.bincount(flat, minlength=frames).min() >= 1, (frames, overlap)
            fuse = FUSES[(frames + overlap) % len(FUSES)]  # each takes its turn: all of them would take a minute
            shares = np.concatenate(weights(fuse, found, frames, closed=schedule == "looped"))
            assert shares.min() > 0
            assert np.abs(np.bincount(flat, shares, frames) - 1).max() < 1e-12, (frames, overlap, fuse)


@pytest.mark.parametrize("schedule", ["static", "looped", "batched"])
def test_a_window_is_a_row_of_different_frames_no_longer_than_asked(schedule: str) -> None:
    for frames in (1, 7, 16, 17, 40, 199):
        for step in range(9):
            for window in laid(schedule, frames, 16, 5, step):
                assert len(set(window)) == len(window) <= 16
                assert all((b - a) % frames == 1 for a, b in pairwise(window))


def test_the_number_of_windows_is_known_beforehand() -> None:
    assert [w[0] for w in laid("static", 64, 16, 4)] == [0, 12, 24, 36, 48]
    assert [w[0] for w in laid("static", 60, 16, 4)] == [0, 12, 24, 36, 44]  # the last one ends at the end
    assert [len(w) for w in laid("batched", 40, 16, 4)] == [16, 16, 8]
    assert len(laid("looped", 64, 16, 4)) == 6  # round the whole circle
    assert laid("looped", 12, 16, 4, 3) == laid("static", 12, 16, 4) == [tuple(range(12))]


def test_a_looped_schedule_begins_elsewhere_at_every_step() -> None:
    assert [reversed_bits(k) for k in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]
    assert [laid("looped", 64, 16, 4, k)[0][0] for k in range(4)] == [0, 32, 16, 48]
    over = [w for k in range(4) for w in laid("looped", 64, 16, 4, k) if w[-1] < w[0]]
    assert over, "no window runs over the end into the beginning"


def test_linear_weights_ramp_on_the_overlaps_alone() -> None:
    found = laid("static", 28, 16, 4)
    first, second = weights("linear", found, 28)
    assert first[:12] == pytest.approx(np.ones(12))
    assert first[12:] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert second[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert second[4:] == pytest.approx(np.ones(12))


def test_the_overlap_of_a_moved_last_window_and_of_the_circle_is_its_own() -> None:
    assert overlaps(laid("static", 60, 16, 4), 60, closed=False)[-2:] == [(4, 8), (8, 0)]
    assert overlaps(laid("looped", 20, 16, 4), 20, closed=True) == [(8, 4), (4, 8)]
    assert overlaps(laid("batched", 40, 16, 4), 40, closed=False) == [(0, 0)] * 3


def test_one_window_counts_for_all_of_its_frames() -> None:
    for fuse in SHAPES:
        assert (weights(fuse, laid("static", 16, 16, 4), 16)[0] == 1).all()


@pytest.mark.parametrize("overlap", [16, 20, -1])
def test_an_overlap_that_does_not_fit_is_refused(overlap: int) -> None:
    with pytest.raises(ClipError, match=f"overlap {overlap} does not fit windows of 16 frames: use 0 to 15"):
        laid("static", 64, 16, overlap)
