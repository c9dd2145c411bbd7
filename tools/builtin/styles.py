"""The styles that the built-in model learns, as classic image processing.

Every style is a deterministic function of an RGB picture, `(H, W, 3) uint8 -> (H, W, 3) uint8`, and depends on the
pixel's place only modulo `GRID` pixels: a network that works on a grid of 32 pixels can learn such a screen, and no
other. Each has a bold local signature of its own, since a timid target stays timid when it is learned.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Float = NDArray[np.float32]

GRID = 32  # pixels: the built-in UNet's coarsest cell, and the period of every screen below


def luma(image: Float) -> Float:
    """BT.601 luma of an RGB picture in 0..1, `(H, W)`."""
    return image @ np.float32([0.299, 0.587, 0.114])


def blur(image: Float, sigma: float) -> Float:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def flatten(image: Float, rounds: int = 2, colour: float = 0.16, space: float = 4) -> Float:
    """Edge-preserving smoothing: areas become flat, edges stay."""
    for _ in range(rounds):
        image = cv2.bilateralFilter(image, 9, colour, space)
    return image


def smoothstep(low: float, high: float, x: Float) -> Float:
    s = np.clip((x - low) / (high - low), 0, 1)
    return s * s * (3 - 2 * s)


def outlines(grey: Float, sigma: float = 1.0, gain: float = 18.0) -> Float:
    """Extended difference of Gaussians (Winnemoeller 2011): 1 on an outline, 0 off it."""
    difference = blur(grey, sigma) - blur(grey, 1.6 * sigma)
    return smoothstep(0.15, 0.6, -gain * difference)


def edges(grey: Float, sigma: float = 0.8) -> Float:
    """Gradient magnitude of a slightly smoothed picture; about 1 on a full black-to-white step."""
    soft = blur(grey, sigma)
    return np.hypot(cv2.Sobel(soft, -1, 1, 0, scale=0.25), cv2.Sobel(soft, -1, 0, 1, scale=0.25))


def saturate(image: Float, gain: float) -> Float:
    grey = luma(image)[..., None]
    return np.clip(grey + gain * (image - grey), 0, 1)


def posterise(x: Float, levels: int, softness: float = 0.15) -> Float:
    """Steps of equal height with short ramps between them."""
    scaled = x * levels
    whole = np.floor(scaled)
    return np.clip((whole + smoothstep(0.5 - softness, 0.5 + softness, scaled - whole)) / levels, 0, 1)


def gradient_map(grey: Float, stops: list[tuple[float, tuple[int, int, int]]]) -> Float:
    """Colours by luma: `stops` are (luma, RGB)."""
    at = [s for s, _ in stops]
    colours = np.float32([c for _, c in stops]) / 255
    return np.stack([np.interp(grey, at, colours[:, i]) for i in range(3)], -1).astype(np.float32)


def lattice(shape: tuple[int, ...]) -> tuple[Float, Float]:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return y, x


def kuwahara(image: Float, radius: int) -> Float:
    """The mean of that quarter of the neighbourhood which varies least (Kuwahara 1976): dabs of paint."""
    size = (radius + 1, radius + 1)
    grey = luma(image)
    best, out = np.full(grey.shape, np.inf, np.float32), image
    for anchor in [(0, 0), (radius, 0), (0, radius), (radius, radius)]:
        mean = cv2.boxFilter(image, -1, size, anchor=anchor)
        grey_mean = cv2.boxFilter(grey, -1, size, anchor=anchor)
        variance = cv2.boxFilter(grey * grey, -1, size, anchor=anchor) - grey_mean * grey_mean
        closer = variance < best
        best = np.where(closer, variance, best)
        out = np.where(closer[..., None], mean, out)
    return out


def photo(image: Float) -> Float:
    return image


def watercolor(image: Float) -> Float:
    """Pale, bright washes on white paper; pigment gathers at their rims."""
    wash = flatten(cv2.medianBlur((image * 255).astype(np.uint8), 5).astype(np.float32) / 255, 2, 0.2)
    grey = luma(wash)
    level = posterise(grey, 5, 0.35)
    wash = np.clip(wash + (level - grey)[..., None], 0, 1)
    pale = 1 - (1 - saturate(wash, 2.2)) * 0.66
    paper = 0.75 * smoothstep(0.62, 0.95, grey)[..., None]
    rim = np.clip(5 * edges(level, 0.9), 0, 1)[..., None]
    return pale ** (1 + 2 * rim) * (1 - paper) + np.float32([0.99, 0.98, 0.95]) * paper


def oil(image: Float) -> Float:
    """Thick dabs of deep colour under a light from the upper left."""
    paint = kuwahara(kuwahara(image, 5), 4)
    deep = np.clip(saturate(paint, 1.7) ** 1.25 * 1.02, 0, 1)
    soft = luma(paint)
    relief = cv2.Sobel(soft, -1, 1, 0, ksize=3) + cv2.Sobel(soft, -1, 0, 1, ksize=3)
    return deep * np.clip(1 - 0.55 * np.tanh(1.6 * relief), 0.4, 1.5)[..., None]


def pencil(image: Float) -> Float:
    """Graphite on paper: dark contours, hatching in the shadows."""
    grey = luma(image)
    dodge = np.clip(grey / (blur(grey, 5) + 0.02), 0, 1)
    lines = np.clip(1 - 1.25 * smoothstep(0.03, 0.35, 1 - dodge) - 2.2 * edges(grey), 0, 1)
    y, x = lattice(grey.shape)
    stroke = 0.5 + 0.5 * np.cos((x + y) * (2 * np.pi / 8))
    shade = 1 - smoothstep(0.1, 0.62, blur(grey, 1.5))
    tone = np.clip(lines - 0.5 * shade * stroke - 0.14 * shade, 0.1, 1)
    return tone[..., None] * np.float32([0.96, 0.96, 0.94])


def engraving(image: Float) -> Float:
    """Black ink lines on cream: the darker, the thicker (a line screen of 8 pixels)."""
    grey = blur(luma(image), 0.7)
    broad = blur(grey, 12)
    tone = np.clip(0.5 + 1.1 * (broad - 0.45) + 1.9 * (grey - broad), 0, 1)
    y, x = lattice(grey.shape)
    wave = 0.5 + 0.5 * np.cos((x - y) * (2 * np.pi / 8))
    ink = smoothstep(-0.18, 0.18, 0.04 + 0.92 * wave - tone)
    ink = np.maximum(ink, outlines(grey, 1.0, 20))
    paper, black = np.float32([0.95, 0.91, 0.8]), np.float32([0.08, 0.06, 0.06])
    return paper + (black - paper) * ink[..., None]


def cartoon(image: Float) -> Float:
    """Flat, loud colour in four tones, inside thick black outlines."""
    flat = flatten(image, 3, 0.2)
    grey = luma(flat)
    toned = flat * ((posterise(grey, 4) + 0.08) / (grey + 0.08))[..., None]
    line = np.maximum(outlines(blur(grey, 0.6), 1.5, 26), smoothstep(0.16, 0.3, edges(grey, 1.0)))
    return saturate(np.clip(toned * 1.12, 0, 1), 2.1) * (1 - line[..., None])


def pop_art(image: Float) -> Float:
    """Screen print: navy, red, halftone dots on yellow, white, by luma."""
    grey = luma(flatten(image, 2, 0.2))
    y, x = lattice(grey.shape)
    dots = 0.5 + 0.25 * (np.cos((x + y) * (2 * np.pi / 8)) + np.cos((x - y) * (2 * np.pi / 8)))
    navy, red, yellow, white = np.float32([[18, 22, 98], [230, 28, 60], [255, 226, 40], [255, 255, 240]]) / 255
    out = yellow + smoothstep(-0.14, 0.14, dots - (grey - 0.42) / 0.26)[..., None] * (red - yellow)
    out = navy + smoothstep(0.24, 0.3, grey)[..., None] * (out - navy)
    return out + smoothstep(0.8, 0.86, grey)[..., None] * (white - out)


def neon(image: Float) -> Float:
    """Glowing tubes of the picture's own colours along its edges, on black."""
    grey = luma(flatten(image, 1))
    tube = np.clip(5.5 * edges(grey, 1.0), 0, 1)[..., None]
    soft = blur(image, 2.5)
    chroma = soft - luma(soft)[..., None]
    chroma /= np.abs(chroma).max(-1, keepdims=True) + 0.05
    hue = np.clip(np.float32([0.45, 0.35, 0.75]) + 0.75 * chroma, 0, 1)
    glow = blur(tube * hue, 3.5)
    return np.clip(tube * hue * 1.1 + 0.45 * tube**3 + 1.2 * glow + 0.06 * image * hue, 0, 1)


def thermal(image: Float) -> Float:
    """A heat camera's rainbow."""
    grey = blur(luma(image), 1.2)
    stops = [(0.0, (8, 0, 70)), (0.2, (60, 0, 190)), (0.4, (0, 140, 220)), (0.55, (30, 210, 70)),
             (0.7, (250, 230, 20)), (0.86, (250, 70, 10)), (1.0, (255, 235, 225))]  # fmt: skip
    return gradient_map(grey, stops)


def night_vision(image: Float) -> Float:
    """Green phosphor with scan lines and a bloom."""
    grey = luma(image) ** 0.75
    grey = np.clip(grey + 0.35 * blur(grey**3, 5), 0, 1)
    y, _ = lattice(grey.shape)
    lit = grey * (0.72 + 0.28 * np.cos(y * (2 * np.pi / 4) - np.pi / 4))
    return gradient_map(lit, [(0, (0, 18, 4)), (0.5, (10, 130, 30)), (1, (190, 255, 150))])


def sepia(image: Float) -> Float:
    """An old brown print with yellowed light."""
    grey = np.clip(0.04 + 0.94 * luma(image), 0, 1)
    return gradient_map(grey, [(0, (24, 8, 2)), (0.5, (128, 70, 28)), (1, (255, 222, 150))])


def blueprint(image: Float) -> Float:
    """White lines on blue paper ruled every 32 pixels."""
    grey = luma(flatten(image, 1))
    line = np.clip(np.maximum(outlines(grey, 1.0, 16), 4.0 * edges(grey) - 0.15), 0, 1)
    y, x = lattice(grey.shape)
    ruled = 0.22 * ((x % GRID < 1.5) | (y % GRID < 1.5))
    paper = np.float32([0.05, 0.2, 0.56]) + 0.2 * (grey[..., None] - 0.5) * np.float32([0.5, 0.8, 1])
    ink = np.clip(np.maximum(line, ruled), 0, 1)[..., None]
    return paper + ink * (np.float32([0.93, 0.97, 1]) - paper)


def vaporwave(image: Float) -> Float:
    """Indigo shadows, magenta middle, cyan light."""
    grey = luma(image)
    grey = np.clip(grey + 0.6 * (grey - blur(grey, 6)), 0, 1)
    stops = [(0, (16, 4, 58)), (0.3, (110, 20, 160)), (0.52, (255, 60, 170)), (0.74, (110, 190, 255)),
             (1, (225, 255, 250))]  # fmt: skip
    return gradient_map(grey, stops)


def pixel_art(image: Float) -> Float:
    """Blocks of 8 pixels in a small loud palette, each with a dark seam."""
    h, w = image.shape[:2]
    cells = cv2.resize(saturate(image, 1.5), (max(1, w // 8), max(1, h // 8)), interpolation=cv2.INTER_AREA)
    big = cv2.resize(posterise(cells, 4, 0.2), (w, h), interpolation=cv2.INTER_NEAREST)
    y, x = lattice(image.shape)
    return big * (1 - 0.3 * ((x % 8 < 1) | (y % 8 < 1)))[..., None].astype(np.float32)


def ukiyo_e(image: Float) -> Float:
    """A Japanese woodblock print: a few mineral pigments, thin indigo outlines."""
    flat = flatten(image, 3, 0.2)
    inks = np.float32([[26, 40, 78], [58, 98, 140], [140, 178, 178], [238, 222, 180], [206, 92, 62], [228, 164, 92],
                       [96, 120, 78], [90, 62, 54]]) / 255  # fmt: skip
    lab = cv2.cvtColor(flat, cv2.COLOR_RGB2LAB)
    palette = cv2.cvtColor(inks[None], cv2.COLOR_RGB2LAB)[0]
    distance = ((lab[..., None, :] - palette) ** 2 * np.float32([1, 1.4, 1.4])).sum(-1)
    weight = np.exp(-(distance - distance.min(-1, keepdims=True)) / 60)
    printed = (weight / weight.sum(-1, keepdims=True)) @ inks
    line = outlines(luma(flat), 1.0, 20)[..., None]
    return printed + line * (inks[0] * 0.6 - printed)


STYLES: dict[str, Callable[[Float], Float]] = {
    "photo": photo, "watercolor": watercolor, "oil": oil, "pencil": pencil, "engraving": engraving,
    "cartoon": cartoon, "pop art": pop_art, "neon": neon, "thermal": thermal, "night vision": night_vision,
    "sepia": sepia, "blueprint": blueprint, "vaporwave": vaporwave, "pixel art": pixel_art, "ukiyo-e": ukiyo_e,
}  # fmt: skip


def stylise(image: Image, style: str) -> Image:
    """`image` in `style`, a name of `STYLES`."""
    painted = STYLES[style](image.astype(np.float32) / 255)
    return (np.clip(painted, 0, 1) * 255 + 0.5).astype(np.uint8)
