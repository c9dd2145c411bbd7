"""The similarity filter."""

from __future__ import annotations

import random

import numpy as np
import pytest

from stream.frame import Image
from stream.similarity import SimilarityFilter, cosine, signature


def picture(seed: int, value: int | None = None) -> Image:
    if value is not None:
        return np.full((48, 64, 3), value, np.uint8)
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


class Always(random.Random):
    """Chance that always says: skip if you may."""

    def random(self) -> float:
        return 0.0


def test_cosine_of_itself_is_one_and_black_is_like_black() -> None:
    a, black, white = signature(picture(1)), signature(picture(0, 0)), signature(picture(0, 255))
    assert cosine(a, a) == pytest.approx(1)
    assert cosine(black, black) == pytest.approx(1)
    assert cosine(black, white) == pytest.approx(0, abs=1e-6)


def test_a_fade_is_seen_though_it_points_the_same_way() -> None:
    image = picture(1)
    assert cosine(signature(image), signature((image * 0.5).astype(np.uint8))) < 0.95


def test_colour_counts_not_only_light() -> None:
    red, green = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0], green[..., 1] = 200, 102  # about the same luma
    assert cosine(signature(red), signature(green)) < 0.97


def test_a_still_scene_is_skipped_max_skip_times_in_a_row_then_painted() -> None:
    still = SimilarityFilter(Always())
    skips = [still.skips(picture(1), 0.98, 10) for _ in range(23)]
    assert skips == ([False] + [True] * 10) * 2 + [False]
    assert still.rate == pytest.approx(20 / 23)


def test_a_new_scene_passes_at_once() -> None:
    some = SimilarityFilter(Always())
    assert [some.skips(picture(i), 0.98, 10) for i in range(5)] == [False] * 5


def test_slow_change_adds_up_against_the_last_that_passed() -> None:
    some = SimilarityFilter(Always())
    base, target = picture(1).astype(float), picture(2).astype(float)
    fade = [((1 - k / 40) * base + k / 40 * target).astype(np.uint8) for k in range(40)]
    passed = [k for k, frame in enumerate(fade) if not some.skips(frame, 0.98, 1000)]
    assert len(passed) >= 3


def test_probability_rises_with_likeness() -> None:
    base = picture(1, 128)
    base[:24] = 90

    def rate(change: int) -> float:
        other = base.copy()
        other[:, :change] = 0
        some = SimilarityFilter(random.Random(0))
        skipped = 0
        for _ in range(400):
            some.force()
            some.skips(base, 0.9, 10)
            skipped += some.skips(other, 0.9, 10)
        return skipped / 400

    rates = [rate(c) for c in (0, 2, 5, 40)]
    assert rates[0] > 0.99
    assert rates == sorted(rates, reverse=True)
    assert 0.05 < rates[1] < 0.98
    assert rates[3] == 0


def test_force_lets_the_next_one_through_and_a_seed_repeats() -> None:
    def run() -> list[bool]:
        some, out = SimilarityFilter(random.Random(7)), []
        for i in range(30):
            if i == 15:
                some.force()
            out.append(some.skips(np.clip(picture(1).astype(int) + i % 4 * 9, 0, 255).astype(np.uint8), 0.95, 10))
        return out

    first = run()
    assert first == run()
    assert first[15] is False
    assert any(first)
    assert not all(first)
