"""Pictures to learn from: procedural ones, and crops of the photos that well-known packages bring along.

Every picture comes from its own seed, so the set can be made in any order and on any number of processes. The photos
of `HELD_OUT` judge the model and are never trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Rng = np.random.Generator

HELD_OUT = ("astronaut", "chelsea", "china")
TRAINED_ON = (
    "coffee", "rocket", "camera", "motorcycle_left", "motorcycle_right", "hubble_deep_field", "retina", "ihc", "coins",
    "moon", "brick", "grass", "gravel", "horse", "cell", "flower", "grace_hopper",
)  # fmt: skip
LETTERS = list("ABCDEFGHIKLMNOPRSTUVWXYZabcdefghiklmnoprstuvwxyz0123456789")
GREY_OR_ODD = frozenset({"camera", "hubble_deep_field", "retina", "ihc", "coins", "moon", "brick", "grass", "gravel",
                         "horse", "cell"})  # fmt: skip


def square(image: Image, size: int) -> Image:
    """The largest square in the middle, at `size` pixels."""
    h, w = image.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)


@cache
def photo(name: str) -> Image:
    """A bundled photo by name, `(H, W, 3)` RGB."""
    from pathlib import Path

    import matplotlib
    import skimage
    import sklearn

    folders = [
        Path(skimage.__file__).parent / "data",
        Path(sklearn.__file__).parent / "datasets" / "images",
        Path(matplotlib.get_data_path()) / "sample_data",
    ]
    for path in (folder / f"{name}{ending}" for folder in folders for ending in (".png", ".jpg")):
        if path.exists():
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None:
                return np.ascontiguousarray(image[..., ::-1])
    raise FileNotFoundError(f"photo {name!r} is in none of {[str(f) for f in folders]}: pip install 'livebrush[train]'")


def recolour(image: Image, rng: Rng, much: float = 1.0) -> Image:
    """Another exposure, white balance, saturation and hue."""
    x = image.astype(np.float32) / 255
    x = x ** rng.uniform(1 - 0.4 * much, 1 + 0.7 * much)
    x = (x - 0.5) * rng.uniform(1 - 0.35 * much, 1 + 0.35 * much) + 0.5 + rng.uniform(-0.12, 0.12) * much
    x = x * rng.uniform(1 - 0.18 * much, 1 + 0.18 * much, 3).astype(np.float32)
    grey = x.mean(-1, keepdims=True)
    x = np.clip(grey + (x - grey) * rng.uniform(1 - 0.5 * much, 1 + 0.6 * much), 0, 1).astype(np.float32)
    if rng.random() < 0.3 * much:
        hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(0, 360)) % 360
        x = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)


def crop(name: str, size: int, rng: Rng) -> Image:
    """A turned, mirrored, scaled, recoloured piece of a photo."""
    source = photo(name)
    h, w = source.shape[:2]
    side = min(h, w) * rng.uniform(0.3, 1.0)
    angle = rng.normal(0, 12) if rng.random() < 0.7 else rng.uniform(0, 360)
    centre = rng.uniform(side / 2, w - side / 2), rng.uniform(side / 2, h - side / 2)
    matrix = cv2.getRotationMatrix2D(centre, angle, size / side)
    matrix[:, 2] += size / 2 - np.array(centre)
    if side > 1.6 * size:
        source = cv2.GaussianBlur(source, (0, 0), 0.4 * side / size)
    image = cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    return recolour(np.ascontiguousarray(image), rng, 0.8 if name not in GREY_OR_ODD else 1.0)


def colour(rng: Rng) -> tuple[float, float, float]:
    hsv = np.float32([[[rng.uniform(0, 360), rng.beta(1.5, 2), rng.beta(2, 1.4)]]])
    r, g, b = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255
    return float(r), float(g), float(b)


def clouds(size: int, rng: Rng, roughness: float | None = None) -> NDArray[np.float32]:
    """Fractal noise in 0..1, `(size, size)`."""
    fall = rng.uniform(0.35, 0.8) if roughness is None else roughness
    out, weight = np.zeros((size, size), np.float32), 1.0
    for octave in range(2, 8):
        cell = rng.random((2**octave, 2**octave)).astype(np.float32)
        out += weight * cv2.resize(cell, (size, size), interpolation=cv2.INTER_CUBIC)
        weight *= fall
    return (out - out.min()) / (np.ptp(out) + 1e-6)


def ramp(size: int, rng: Rng) -> NDArray[np.float32]:
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    t = x * np.cos(angle) + y * np.sin(angle) if rng.random() < 0.6 else np.hypot(x, y) * 1.4 - 0.3
    return np.clip(t + 0.5, 0, 1)


def texture(size: int, rng: Rng) -> Image:
    """Two or three colours through clouds, a ramp, stripes or a check."""
    kind = rng.integers(5)
    if kind == 0:
        t = ramp(size, rng)
    elif kind == 1:
        t = clouds(size, rng)
    elif kind == 2:
        t = 0.5 + 0.5 * np.sin(ramp(size, rng) * rng.uniform(10, 90) + 6 * clouds(size, rng))
    elif kind == 3:
        y, x = np.mgrid[:size, :size] // int(rng.integers(6, 40))
        t = ((x + y) % 2).astype(np.float32)
    else:
        t = np.clip(clouds(size, rng, 0.9) * 3 - 1, 0, 1)
    t = t[..., None].astype(np.float32)
    a, b = np.float32(colour(rng)), np.float32(colour(rng))
    out = a + (b - a) * t
    out += rng.uniform(0, 10) * rng.standard_normal((size, size, 1)).astype(np.float32)
    return np.clip(out, 0, 255).astype(np.uint8)


def blob(size: int, rng: Rng, at: tuple[float, float], radius: float) -> NDArray[np.float32]:
    """The mask of an ellipse, a polygon or a wobbly leaf, with soft or hard rim."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9))) if rng.random() < 0.4 else np.linspace(0, 6.28, 40)
    wobble = 1 + rng.uniform(0, 0.35) * np.sin(angles * rng.integers(2, 6) + rng.uniform(0, 6))
    stretch, turn = rng.uniform(0.4, 1), rng.uniform(0, np.pi)
    px, py = np.cos(angles) * wobble * radius, np.sin(angles) * wobble * radius * stretch
    points = np.stack([at[0] + px * np.cos(turn) - py * np.sin(turn), at[1] + px * np.sin(turn) + py * np.cos(turn)], 1)
    mask = np.zeros((size, size), np.float32)
    cv2.fillPoly(mask, [np.int32(points * 8)], 1.0, cv2.LINE_AA, 3)
    return cv2.GaussianBlur(mask, (0, 0), rng.choice([0.5, 0.7, 3.0], p=[0.5, 0.4, 0.1]))[..., None]


def shade(layer: Image, size: int, rng: Rng, at: tuple[float, float], radius: float) -> NDArray[np.float32]:
    """A layer lit like a ball, with a highlight."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    u, v = (x - at[0]) / radius, (y - at[1]) / radius
    light = np.clip(0.75 + 0.5 * (u * np.cos(angle) + v * np.sin(angle)), 0.15, 1.2)[..., None]
    shine = np.exp(-(((u - 0.4 * np.cos(angle)) ** 2 + (v - 0.4 * np.sin(angle)) ** 2) * 14))[..., None]
    return np.clip(layer * light + 200 * shine * rng.uniform(0, 1), 0, 255)


def dead_leaves(size: int, rng: Rng) -> Image:
    """Overlapping shapes of all sizes, textured and shaded: the statistics of natural pictures, roughly."""
    out = texture(size, rng).astype(np.float32)
    for radius in np.sort(size * 0.5 * rng.uniform(0.06, 0.9, rng.integers(6, 40)) ** 1.5)[::-1]:
        at = rng.uniform(0, size), rng.uniform(0, size)
        layer = texture(size, rng) if rng.random() < 0.5 else np.full((size, size, 3), colour(rng), np.float32)
        if rng.random() < 0.5:
            layer = shade(layer, size, rng, at, radius)
        mask = blob(size, rng, at, radius)
        out += mask * (layer - out)
    return np.clip(out, 0, 255).astype(np.uint8)


def lettering(size: int, rng: Rng) -> Image:
    """Words and lines over a texture."""
    out = np.ascontiguousarray(texture(size, rng) if rng.random() < 0.5 else dead_leaves(size, rng))
    for _ in range(rng.integers(3, 12)):
        word = "".join(rng.choice(LETTERS, rng.integers(2, 9)))
        at = int(rng.integers(-20, size - 20)), int(rng.integers(10, size))
        scale, thick = rng.uniform(0.4, 2.2), int(rng.integers(1, 5))
        cv2.putText(out, word, at, int(rng.integers(0, 8)), scale, colour(rng), thick, cv2.LINE_AA)
        a, b = rng.integers(0, size, 2), rng.integers(0, size, 2)
        cv2.line(out, a.tolist(), b.tolist(), colour(rng), thick, cv2.LINE_AA)
    return out


def figure(size: int, rng: Rng) -> Image:
    """A made-up head and shoulders, so that a webcam's usual picture is not unknown."""
    back = texture(size, rng) if rng.random() < 0.5 else any_photo(size, rng)
    out = back.astype(np.float32)
    r, at = size * rng.uniform(0.14, 0.3), (size * rng.uniform(0.3, 0.7), size * rng.uniform(0.3, 0.55))
    skin = np.float32([235, 190, 160]) * rng.uniform(0.25, 1.05) * rng.uniform(0.9, 1.1, 3)
    layers = [((at[0], at[1] + 2.6 * r), 1.9 * r, colour(rng)), ((at[0], at[1] - 0.25 * r), 1.3 * r, colour(rng)),
              (at, r, skin)]  # fmt: skip
    for centre, radius, tint in layers:
        layer = shade(np.full((size, size, 3), tint, np.float32), size, rng, centre, radius)
        out += blob(size, rng, centre, radius) * (layer - out)
    canvas = np.ascontiguousarray(np.clip(out, 0, 255).astype(np.uint8))
    dark = tuple(float(v) for v in skin * 0.25)
    for side in (-1, 1):
        eye = int(at[0] + side * 0.4 * r), int(at[1] - 0.15 * r)
        cv2.ellipse(canvas, eye, (int(0.17 * r), int(0.1 * r)), 0, 0, 360, (240, 240, 235), -1, cv2.LINE_AA)
        cv2.circle(canvas, eye, max(1, int(0.08 * r)), dark, -1, cv2.LINE_AA)
        cv2.ellipse(canvas, (eye[0], eye[1] - int(0.2 * r)), (int(0.22 * r), int(0.08 * r)), 0, 180, 360, dark, 2)
    mouth = int(at[0]), int(at[1] + 0.45 * r)
    lips = (int(0.35 * r), int(rng.uniform(0.05, 0.2) * r))
    cv2.ellipse(canvas, mouth, lips, 0, 0, 180, (170.0, 60.0, 60.0), -1, cv2.LINE_AA)
    return recolour(canvas, rng, 0.5)


def collage(size: int, rng: Rng) -> Image:
    """Pieces of several photos, cut out and laid over each other."""
    out = crop(str(rng.choice(TRAINED_ON)), size, rng).astype(np.float32)
    for _ in range(rng.integers(1, 5)):
        at = rng.uniform(0, size), rng.uniform(0, size)
        mask = blob(size, rng, at, size * rng.uniform(0.1, 0.45))
        out += mask * (crop(str(rng.choice(TRAINED_ON)), size, rng) - out)
    return np.clip(out, 0, 255).astype(np.uint8)


def colour_photo(size: int, rng: Rng) -> Image:
    return crop(str(rng.choice([n for n in TRAINED_ON if n not in GREY_OR_ODD])), size, rng)


def any_photo(size: int, rng: Rng) -> Image:
    return crop(str(rng.choice(TRAINED_ON)), size, rng)


KINDS: list[tuple[float, Callable[[int, Rng], Image]]] = [
    (0.4, colour_photo), (0.1, any_photo), (0.14, collage), (0.14, dead_leaves), (0.08, lettering), (0.1, figure),
    (0.04, texture),
]  # fmt: skip


def picture(index: int, size: int, seed: int = 0) -> Image:
    """Picture `index` of the training set, `(size, size, 3)` RGB."""
    rng = np.random.default_rng([seed, index])
    make = KINDS[rng.choice(len(KINDS), p=[share for share, _ in KINDS])][1]
    return np.ascontiguousarray(make(size, rng))
