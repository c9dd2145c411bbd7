"""The test card: a small moving landscape that the project draws, so that everything can be tried with nothing at hand.

The sun stands still; clouds and hills drift by, a windmill turns, a ball bounces, a wheel rolls, a clock runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from stream.frame import Frame, Image
from stream.sources import Listed, Source

RATE = 30
FRAMES = 300
SIZE = (640, 360)
SHIFT = 4  # fractional bits of the coordinates that OpenCV draws at
Colour = tuple[int, int, int]
Point = tuple[float, float]

SKY = ((38, 92, 168), (120, 176, 214), (250, 214, 165), (255, 170, 110))
SUN = (255, 236, 170)
HILLS = ((128, 140, 178), (92, 128, 132), (84, 140, 84), (52, 104, 58))  # far to near
RAINBOW = ((214, 52, 56), (240, 140, 40), (250, 214, 66), (70, 168, 84), (48, 120, 200), (124, 72, 168))
WHITE = (250, 246, 238)
WOOD = (112, 72, 48)


class CardSource(Source):
    """`frames` pictures of `size` (width, height), 30 a second. Picture i is the same whenever it is drawn."""

    endless = True
    rate = Fraction(RATE)

    def __init__(self, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> None:
        self.name, self.count, self.size = "testcard", frames, size
        self._canvas = Canvas(*size)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count or 0):
            yield Frame(self.draw(index), index, Fraction(1, RATE))

    def draw(self, index: int) -> Image:
        """Picture number `index`, RGB `(height, width, 3)` uint8."""
        canvas, seconds = self._canvas, index / RATE
        canvas.clear()
        _clouds(canvas, seconds)
        for depth, colour in enumerate(HILLS):
            _hill(canvas, depth, colour, seconds)
            if depth == 2:
                _windmill(canvas, seconds)
        _wheel(canvas, seconds)
        _ball(canvas, seconds)
        _sign(canvas, f"livebrush  {int(seconds) // 60:02}:{seconds % 60:05.2f}  #{index}")
        return canvas.picture.copy()


class Canvas:
    """A picture to draw on. Lengths are shares of its height, x = 0 is its left edge and x = `wide` its right one."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height, self.wide = width, height, width / height
        self.picture: Image = self._sky.copy()

    def clear(self) -> None:
        """Only the sky again."""
        self.picture[:] = self._sky

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        at = np.array(points) * self.height * 2**SHIFT
        cv2.fillPoly(self.picture, [at.round().astype(np.int32)], colour, cv2.LINE_AA, SHIFT)

    def circle(self, centre: Point, radius: float, colour: Colour) -> None:
        x, y, r = (round(v * self.height * 2**SHIFT) for v in (*centre, radius))
        cv2.circle(self.picture, (x, y), r, colour, -1, cv2.LINE_AA, SHIFT)

    def sector(self, centre: Point, radius: float, start: float, end: float, colour: Colour) -> None:
        """A slice of a disc between two angles in radians."""
        angles = np.linspace(start, end, 12)
        rim = [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]
        self.polygon([centre, *rim], colour)

    @cached_property
    def _sky(self) -> Image:
        """The sky's colours from top to horizon, and the sun with its glow."""
        rows = np.linspace(0, 1, self.height)
        stops = (0, 0.25, 0.55, 0.8)
        column = np.stack([np.interp(rows, stops, [c[i] for c in SKY]) for i in range(3)], axis=1)
        y, x = np.mgrid[: self.height, : self.width] / self.height
        away = np.hypot(x - 0.72 * self.wide, y - 0.3)
        glow = np.exp(-((away / 0.22) ** 2))[..., None] * 0.75
        disc = np.clip((0.085 - away) * self.height + 0.5, 0, 1)[..., None]
        share = np.maximum(glow, disc)
        blended: NDArray[np.float64] = column[:, None] * (1 - share) + np.array(SUN) * share
        return blended.round().astype(np.uint8)


PUFFS = ((-1.9, 0.35, 0.75), (-0.9, -0.15, 1.05), (0.3, -0.4, 1.25), (1.4, 0.05, 0.95), (2.2, 0.4, 0.65))


def _clouds(canvas: Canvas, seconds: float) -> None:
    for k, (height, size) in enumerate(((0.13, 0.055), (0.22, 0.04), (0.09, 0.035))):
        span = canvas.wide + 0.8
        x = (k * span / 3 + 0.25 + seconds * (0.02 + 0.008 * k)) % span - 0.4
        for dx, dy, r in PUFFS:
            canvas.circle((x + dx * size, height + dy * size), r * size, (244, 240, 238))


def _ridge(x: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    """The height of a hill over x: waves that get larger as it comes nearer."""
    base = (0.58, 0.66, 0.74, 0.86)[depth]
    k = depth + 1
    return base + 0.05 * np.sin(x * 2.1 + 1.7 * k) + 0.025 * np.sin(x * 4.7 + 2.9 * k) + 0.006 * np.sin(x * 13 + k)


def _hill(canvas: Canvas, depth: int, colour: Colour, seconds: float) -> None:
    moved = seconds * 0.015 * (depth + 1) ** 1.5 if depth != 2 else 0.0
    x = np.linspace(-0.05, canvas.wide + 0.05, 160)
    y = _ridge(x + moved, depth)
    for low, shade in ((0.0, 1.0), (0.05, 0.93), (0.11, 0.86)):  # a hill gets darker towards its foot
        edge = [(float(a), float(b) + low) for a, b in zip(x, y, strict=True)]
        tone = (round(colour[0] * shade), round(colour[1] * shade), round(colour[2] * shade))
        canvas.polygon([(-0.05, 1.05), *edge, (canvas.wide + 0.05, 1.05)], tone)
    if depth in (1, 3):
        _trees(canvas, depth, moved)


def _trees(canvas: Canvas, depth: int, moved: float) -> None:
    size = 0.02 if depth == 1 else 0.05
    gap = size * 4.3
    for k in range(math.floor((moved - 0.1) / gap), math.ceil((moved + canvas.wide + 0.1) / gap)):
        if math.sin(k * 12.9898) > 0.15:  # here and there, the same at every moment
            x = k * gap + 0.3 * gap * math.sin(k * 78.233)
            y = float(_ridge(np.array([x]), depth)[0])
            _tree(canvas, (x - moved, y), size * (1 + 0.35 * math.sin(k * 37.7)), depth)


def _tree(canvas: Canvas, foot: Point, size: float, depth: int) -> None:
    x, y = foot
    leaves = (58, 104, 104) if depth == 1 else (34, 84, 52)
    canvas.polygon([(x - size * 0.12, y + size * 0.2), (x + size * 0.12, y + size * 0.2), (x, y - size)], WOOD)
    for up, wide in ((0.3, 0.75), (0.95, 0.6), (1.55, 0.42)):
        base = y - size * up
        canvas.polygon([(x - size * wide, base), (x + size * wide, base), (x, base - size * 1.15)], leaves)


def _windmill(canvas: Canvas, seconds: float) -> None:
    x = 0.27 * canvas.wide
    foot, top = float(_ridge(np.array([x]), 2)[0]) + 0.03, 0.42
    canvas.polygon([(x - 0.06, foot), (x + 0.06, foot), (x + 0.036, top), (x - 0.036, top)], WHITE)
    canvas.polygon([(x, foot), (x + 0.06, foot), (x + 0.036, top), (x, top)], (222, 210, 196))
    canvas.polygon([(x - 0.046, top + 0.005), (x + 0.046, top + 0.005), (x, top - 0.06)], (186, 68, 52))
    canvas.polygon([(x - 0.014, foot), (x + 0.014, foot), (x + 0.014, foot - 0.06), (x - 0.014, foot - 0.06)], WOOD)
    for k in range(4):
        _sail(canvas, (x, top), seconds * 1.1 + k * math.pi / 2)
    canvas.circle((x, top), 0.012, WOOD)


def _sail(canvas: Canvas, hub: Point, angle: float) -> None:
    c, s = math.cos(angle), math.sin(angle)

    def at(along: float, across: float) -> Point:
        return hub[0] + along * c - across * s, hub[1] + along * s + across * c

    canvas.polygon([at(0.0, -0.004), at(0.19, -0.004), at(0.19, 0.004), at(0.0, 0.004)], WOOD)
    canvas.polygon([at(0.04, 0.004), at(0.19, 0.004), at(0.19, 0.05), at(0.04, 0.038)], (244, 226, 190))


def _wheel(canvas: Canvas, seconds: float) -> None:
    """A wheel of six colours that rolls along the lower edge without sliding."""
    radius, speed = 0.1, 0.24
    span = canvas.wide + 4 * radius
    way = seconds * speed + 0.62 * canvas.wide
    x, y, turn = way % span - 2 * radius, 0.985 - radius, way / radius
    canvas.circle((x, y), radius, (56, 50, 60))
    for k, colour in enumerate(RAINBOW):
        canvas.sector((x, y), radius * 0.86, turn + k * math.pi / 3, turn + (k + 0.94) * math.pi / 3, colour)
    canvas.circle((x, y), radius * 0.3, WHITE)
    canvas.circle((x, y), radius * 0.14, (56, 50, 60))


def _ball(canvas: Canvas, seconds: float) -> None:
    """A striped ball that bounces every 1.2 seconds and goes from side to side."""
    radius, beat = 0.07, seconds / 1.2 % 1
    side = seconds * 0.19 / canvas.wide % 2
    x = radius + (canvas.wide - 2 * radius) * (side if side < 1 else 2 - side)
    y = 0.93 - radius - 4 * beat * (1 - beat) * 0.5
    canvas.circle((x, y), radius * 1.04, (70, 40, 44))
    for k in range(6):
        colour = (222, 58, 62) if k % 2 else WHITE
        canvas.sector((x, y), radius, seconds * 2.4 + k * math.pi / 3, seconds * 2.4 + (k + 1) * math.pi / 3, colour)
    canvas.circle((x - radius * 0.35, y - radius * 0.4), radius * 0.16, (255, 255, 255))


def _sign(canvas: Canvas, text: str) -> None:
    """A dark plate with the clock at the top left; left out where it could not be read."""
    size = round(canvas.height * 0.052)
    if size < 7 or canvas.wide < 1:
        return
    font = ImageFont.load_default(size)
    width = math.ceil(font.getlength(text)) + size
    plate = PIL.Image.new("RGB", (width, round(size * 1.7)), (34, 36, 52))
    ImageDraw.Draw(plate).text((size // 2, size * 0.85), text, WHITE, font, anchor="lm")
    pixels = np.asarray(plate)[: canvas.height - size, : canvas.width - size]
    top = size // 2
    canvas.picture[top : top + pixels.shape[0], top : top + pixels.shape[1]] = pixels


def connect(_text: str) -> CardSource:
    return CardSource()


def listed() -> list[Listed]:
    return [Listed("testcard", "Test card", "testcard")]
