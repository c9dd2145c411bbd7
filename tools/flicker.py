"""How much a painted video flickers: `python -m tools.flicker INPUT PAINTED [OTHER ...]`.

The motion is that of the input, by DIS optical flow (arXiv 1603.03590); each painted picture is moved back by it onto
the one before, and the difference of the two is the warp error of Lai et al. (arXiv 1808.00449), in grey levels. What
is hidden in one of the two does not count: there the flow forth and the flow back do not cancel out (Ruder et al.,
arXiv 1604.08610, eq. 5).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.frame import Image
from stream.preprocess import fitted
from stream.sources import open_source

Flow = NDArray[np.float32]  # (height, width, 2): where each pixel goes, in pixels
Mask = NDArray[np.bool_]
LOOSE, SLACK = 0.01, 0.5  # of the squared length of both flows, and squared pixels


@dataclass(frozen=True)
class Flicker:
    """Grey levels, 0 to 255, as means over pixels and then over pairs of pictures."""

    warp: float  # left after the motion is taken out: flicker
    raw: float  # between one picture and the next as they are
    seen: float  # share of the pixels that are in both
    pairs: int

    def told(self) -> str:
        return (
            f"warp error {self.warp:.2f}, frame to frame {self.raw:.2f} grey levels ({self.pairs} pairs, "
            f"{self.seen:.0%} of the pixels seen twice)"
        )


def flicker(given: Iterable[Image], painted: Iterable[Image]) -> Flicker:
    """Of `painted`, which was made of `given`, picture for picture. Both `(height, width, 3)` uint8, of any size.

    ValueError where there are fewer than two pairs of pictures.
    """
    rows = [_pair(*a, *b) for a, b in pairwise(_together(given, painted))]
    if not rows:
        raise ValueError("flicker needs two pictures of each")
    warp, raw, seen = (float(v) for v in np.mean(rows, axis=0))
    return Flicker(warp, raw, seen, len(rows))


def flow(one: Image, other: Image) -> Flow:
    """Where the pixels of `one` are in `other`."""
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (one, other)]
    found = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)
    return np.asarray(found, np.float32)


def moved(image: NDArray[np.float32], by: Flow) -> NDArray[np.float32]:
    """`image` as seen from where its pixels come from: at p, its value at p + by(p)."""
    height, width = by.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    mode = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    return np.asarray(cv2.remap(image, x + by[..., 0], y + by[..., 1], **mode), np.float32)


def seen(forth: Flow, back: Flow) -> Mask:
    """Pixels whose way forth and back cancels out, and leads to inside the picture."""
    height, width = forth.shape[:2]
    returned = moved(back, forth)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    to_x, to_y = x + forth[..., 0], y + forth[..., 1]
    inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    off = ((forth + returned) ** 2).sum(axis=-1)
    return np.asarray(inside & (off < LOOSE * ((forth**2).sum(axis=-1) + (returned**2).sum(axis=-1)) + SLACK))


def _together(given: Iterable[Image], painted: Iterable[Image]) -> Iterator[tuple[Image, Image]]:
    """Pairs of one size, that of the painted pictures."""
    for one, other in zip(given, painted, strict=False):
        yield fitted(one, other.shape[1], other.shape[0], "crop"), other


def _pair(given: Image, painted: Image, next_given: Image, next_painted: Image) -> tuple[float, float, float]:
    """Warp error, difference as it is, and the share of pixels that count."""
    forth, back = flow(given, next_given), flow(next_given, given)
    mask = seen(forth, back)
    now, then = painted.astype(np.float32), next_painted.astype(np.float32)
    off = np.abs(moved(then, forth) - now).mean(axis=-1)
    return float(off[mask].mean()) if mask.any() else 0.0, float(np.abs(then - now).mean()), float(mask.mean())


def main() -> None:
    given, *videos = sys.argv[1:]
    for name in videos:
        with open_source(given) as source, open_source(name) as painted:
            found = flicker((f.image for f in source), (f.image for f in painted))
        sys.stdout.write(f"{name}: {found.told()}\n")


if __name__ == "__main__":
    main()
