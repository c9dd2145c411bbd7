"""How much each window counts for each of its frames, where several windows have predicted one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from stream.clips.timeline import Fuse
from stream.clips.windows import Window

Weights = NDArray[np.float64]  # one for each frame of a window, in its order


def weights(fuse: Fuse, windows: Sequence[Window], frames: int, closed: bool = False) -> list[Weights]:
    """The weights of every window; over the windows that hold a frame they sum to 1. `closed`: the last window runs
    into the first one."""
    raw = [SHAPES[fuse](len(w), *sides) for w, sides in zip(windows, overlaps(windows, frames, closed), strict=True)]
    places, shares = np.fromiter(chain(*windows), np.intp), np.concatenate(raw)
    total = np.bincount(places, shares, frames)
    return np.split(shares / total[places], np.cumsum([len(w) for w in windows])[:-1])


def overlaps(windows: Sequence[Window], frames: int, closed: bool) -> list[tuple[int, int]]:
    """How many frames each window shares with the one before and the one after it."""
    if len(windows) == 1:
        return [(0, 0)]
    pairs = zip(windows, [*windows[1:], windows[0]], strict=True)
    shared = [max(0, len(w) - (after[0] - w[0]) % frames) for w, after in pairs]
    if not closed:
        shared[-1] = 0
    return [(shared[k - 1], shared[k]) for k in range(len(windows))]


@lru_cache
def linear(length: int, before: int, after: int) -> Weights:
    """Ramps on the overlaps, 1 between them; where two windows overlap, their ramps sum to 1 as they are."""
    place = np.arange(1, length + 1)
    ramps: Weights = np.minimum(1, place / (before + 1)) * np.minimum(1, place / (after + 1))[::-1]
    return ramps


def flat(length: int, *_sides: int) -> Weights:
    """A plain mean."""
    return np.ones(length)


def pyramid(length: int, *_sides: int) -> Weights:
    """1, 2, ... in the middle ... 2, 1."""
    place = np.arange(1.0, length + 1)
    steps: Weights = np.minimum(place, place[::-1])
    return steps


def relative(length: int, *_sides: int) -> Weights:
    """1 in the middle, falling to .01 at the edges."""
    away = np.abs(np.arange(length) - (length - 1) / 2)
    slopes: Weights = np.maximum(0.01, 1 - away / (length / 2))
    return slopes


SHAPES: dict[Fuse, Callable[..., Weights]] = {"linear": linear, "flat": flat, "pyramid": pyramid, "relative": relative}
