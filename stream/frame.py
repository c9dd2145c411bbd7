"""A picture with its clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One picture on its way through the pipeline.

    `image` is RGB, `(height, width, 3)` uint8. `pts * time_base` is the moment it is shown, in seconds; `captured_at`
    the moment it was taken, in seconds of `time.monotonic()`, or None where nobody knows (a file).
    """

    image: Image
    pts: int = 0
    time_base: Fraction = Fraction(1, 30)
    captured_at: float | None = None

    @property
    def seconds(self) -> float:
        return float(self.pts * self.time_base)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]

    def with_image(self, image: Image) -> Frame:
        """The same moment, another picture."""
        return replace(self, image=image)
