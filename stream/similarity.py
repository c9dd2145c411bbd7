"""The similarity filter: frames that look like the last one painted need not be painted again.

Method: Kodaira et al., StreamDiffusion, arXiv 2312.12491, section 3.4 (stochastic similarity filter).
"""

from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.frame import Image

SIDE = 64  # pixels that pictures are compared at


def signature(image: Image) -> NDArray[np.float32]:
    """A small picture as a vector: luma, what luma lacks of white, and chroma about its middle. A cosine alone does
    not see a picture fade, since a darker one points the same way; with the second plane it does."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    planes = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    planes[..., 1:] -= 128
    return np.concatenate([planes.ravel(), 255 - planes[..., 0].ravel()])


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """1 for the same picture; signatures are never zero."""
    return float(a.dot(b) / np.sqrt(a.dot(a) * b.dot(b)))


class SimilarityFilter:
    """Skips a frame with probability max(0, (cos - eta) / (1 - eta)), at most `max_skip` times in a row.

    The comparison is with the last frame that passed, so slow change adds up and is seen. `rng` is seeded by the
    caller; a skip costs a 64-pixel comparison and nothing else.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last: NDArray[np.float32] | None = None
        self._in_a_row = 0
        self.seen = 0
        self.skipped = 0

    def force(self) -> None:
        """Lets the next frame through, whatever it looks like."""
        self._last = None

    def skips(self, image: Image, threshold: float, max_skip: int) -> bool:
        """Whether this frame may be skipped; it counts as seen either way."""
        self.seen += 1
        now = signature(image)
        if self._last is not None and self._in_a_row < max_skip and self._alike(now, threshold):
            self._in_a_row += 1
            self.skipped += 1
            return True
        self._last, self._in_a_row = now, 0
        return False

    def _alike(self, now: NDArray[np.float32], threshold: float) -> bool:
        assert self._last is not None
        return self._rng.random() < (cosine(now, self._last) - threshold) / (1 - threshold)

    @property
    def rate(self) -> float:
        """Share of frames skipped so far."""
        return self.skipped / self.seen if self.seen else 0.0

    def report(self) -> dict[str, Any]:
        return {"seen": self.seen, "skipped": self.skipped, "rate": round(self.rate, 4)}
