"""A number drawn in a picture as black and white blocks: what was shown when it was taken, read again where it arrives.

The blocks lie in the central square of the picture, so that a camera of another shape may be cut on the way; they are
large and far apart in brightness, so that codecs, scaling and painting leave them readable; and eight check bits tell a
misread one. Four corners are fixed: they give black and white, and a mirrored or turned picture is not read.

    image = scene(512, 512)
    draw(image, Mark(counter=7, source=1))
    assert read(image) == Mark(7, 1)

`tools/probe.js` reads the same marks in a page; it is handed `LAYOUT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.frame import Image

COLUMNS, ROWS = 8, 4
COUNTER_BITS, SOURCE_BITS, CHECK_BITS = 16, 4, 8
PLACE = (0.125, 0.08, 0.75, 0.375)  # left, top, width, height of the blocks, in sides of the central square
WHITE_CORNERS, BLACK_CORNERS = (0, 31), (7, 24)  # cells, counted along the rows
CONTRAST = 40  # grey levels between white and black corners, at least
POLYNOMIAL, FIRST = 0x07, 0xFF  # CRC-8, begun with ones so that an all-black mark is none

GRAIN = 4.0  # grey levels
PATCHES = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 128, 128), (200, 120, 90))
PATCH_PLACE = (0.08, 0.68, 0.84, 0.2)  # six in a row

SQUARES = ((1, 1), (0.75, 0.75), (0.75, 1))  # as it is; 4:3 padded into a square; 4:3 stretched to one

LAYOUT: dict[str, Any] = {
    "columns": COLUMNS, "rows": ROWS, "counterBits": COUNTER_BITS, "sourceBits": SOURCE_BITS, "place": PLACE,
    "white": WHITE_CORNERS, "black": BLACK_CORNERS, "contrast": CONTRAST, "polynomial": POLYNOMIAL, "first": FIRST,
    "patches": PATCHES, "patchPlace": PATCH_PLACE,
    "squares": SQUARES,
}  # fmt: skip

_DATA = tuple(c for c in range(COLUMNS * ROWS) if c not in WHITE_CORNERS + BLACK_CORNERS)
assert len(_DATA) == COUNTER_BITS + SOURCE_BITS + CHECK_BITS


@dataclass(frozen=True, slots=True)
class Mark:
    """What a picture says of itself: its number, 0 to 65535, and which camera it is of, 0 to 15."""

    counter: int
    source: int = 0

    def __post_init__(self) -> None:
        for name, value, bits in (("counter", self.counter, COUNTER_BITS), ("source", self.source, SOURCE_BITS)):
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} {value} does not fit its {bits} bits: use 0 to {(1 << bits) - 1}")

    @property
    def cells(self) -> NDArray[np.bool_]:
        """The blocks, `(ROWS, COLUMNS)`: True is white."""
        value = self.counter | self.source << COUNTER_BITS
        value |= check(value) << COUNTER_BITS + SOURCE_BITS
        cells = np.zeros(COLUMNS * ROWS, np.bool_)
        cells[list(WHITE_CORNERS)] = True
        cells[list(_DATA)] = [value >> k & 1 for k in range(len(_DATA))]
        return cells.reshape(ROWS, COLUMNS)


def check(value: int) -> int:
    """CRC-8 (polynomial 0x07) of the three bytes of counter and source, lowest first."""
    crc = FIRST
    for shift in (0, 8, 16):
        crc ^= value >> shift & 0xFF
        for _ in range(8):
            crc = (crc << 1 ^ (POLYNOMIAL if crc & 0x80 else 0)) & 0xFF
    return crc


def square(width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of the central square of a picture."""
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def boxes(width: int, height: int, place: Sequence[float], columns: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of pixels of each block of a grid, along the rows of the grid."""
    left, top, side = square(width, height)
    x, y, w, h = (side * p for p in place)
    xs = [round(left + x + w * k / columns) for k in range(columns + 1)]
    ys = [round(top + y + h * k / rows) for k in range(rows + 1)]
    for r in range(rows):
        for c in range(columns):
            yield slice(ys[r], ys[r + 1]), slice(xs[c], xs[c + 1])


def draw(image: Image, mark: Mark) -> None:
    """Draws the mark into an RGB picture, `(H, W, 3)` uint8."""
    height, width = image.shape[:2]
    for box, white in zip(boxes(width, height, PLACE, COLUMNS, ROWS), mark.cells.flat, strict=True):
        image[box] = 235 if white else 20


def read(image: Image) -> Mark | None:
    """The mark in a picture, `(H, W, 3)` RGB or `(H, W)` grey; None where there is none, or it is damaged."""
    height, width = image.shape[:2]
    levels = np.array([inner(image, box).mean() for box in boxes(width, height, PLACE, COLUMNS, ROWS)])
    white, black = levels[list(WHITE_CORNERS)], levels[list(BLACK_CORNERS)]
    if white.min() - black.max() < CONTRAST:
        return None
    middle = (white.mean() + black.mean()) / 2
    value = sum(int(levels[cell] > middle) << k for k, cell in enumerate(_DATA))
    data, crc = value & (1 << COUNTER_BITS + SOURCE_BITS) - 1, value >> COUNTER_BITS + SOURCE_BITS
    return Mark(data & (1 << COUNTER_BITS) - 1, data >> COUNTER_BITS) if crc == check(data) else None


def inner(image: Image, box: tuple[slice, slice]) -> Image:
    """The middle half of a block, away from its neighbours."""
    rows, columns = (slice(s.start + (s.stop - s.start) // 4, s.stop - (s.stop - s.start) // 4) for s in box)
    return image[rows, columns]


def patches(image: Image) -> NDArray[np.float64]:
    """Mean colours of the six patches of `scene` in a picture, `(6, 3)`."""
    height, width = image.shape[:2]
    return np.array([inner(image, b).mean((0, 1)) for b in boxes(width, height, PATCH_PLACE, len(PATCHES), 1)])


def scene(width: int, height: int, moment: int = 0) -> Image:
    """What the camera sees behind the mark: soft stripes that move, with a camera's grain, and the colour patches."""
    x = np.arange(width) + 4 * moment
    wave = 128 + 60 * np.sin(x / width * 4 * np.pi)[None] * np.linspace(1, 0.4, height)[:, None]
    wave = wave + np.roll(grain(width, height), (moment * 37, moment * 61), (0, 1))
    image = np.stack([wave, wave * 0.8 + 20, 230 - wave], axis=-1).astype(np.uint8)
    for box, colour in zip(boxes(width, height, PATCH_PLACE, len(PATCHES), 1), PATCHES, strict=True):
        image[box] = colour
    return image


@cache
def grain(width: int, height: int) -> NDArray[np.float64]:
    """Noise of a camera in a dim room, in grey levels: without it a codec has next to nothing to send."""
    return np.random.default_rng(0).normal(0, GRAIN, (height, width)).clip(-30, 30)


def film(size: tuple[int, int], frames: int, source: int = 0) -> Iterator[Image]:
    """The marked scene, frame by frame."""
    for number in range(frames):
        image = scene(*size, number)
        draw(image, Mark(number, source))
        yield image


def write_y4m(path: Path, size: tuple[int, int] = (512, 512), *, rate: int = 30, seconds: float = 6,
              source: int = 0) -> Path:  # fmt: skip
    """A file for Chromium's fake camera, which plays it again and again: BT.601 limited range, 4:2:0.

    The counter begins again with the file, so a frame must arrive within `seconds`. Chromium takes no other name than
    C420 for the planes. Raises ValueError where the counter does not reach.
    """
    frames = round(rate * seconds)
    Mark(frames - 1, source)  # the counter must not wrap inside
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{size[0]} H{size[1]} F{rate}:1 Ip A1:1 C420\n".encode())
        for image in film(size, frames, source):
            file.write(b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path
