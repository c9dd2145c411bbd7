"""An input picture of any size, made to fit the painter's."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from stream.frame import Image

Fit = Literal["crop", "stretch", "pad"]


def fitted(image: Image, width: int, height: int, fit: Fit = "crop") -> Image:
    """`image` as `(height, width, 3)` uint8: cut to the shape, stretched to it, or padded with black."""
    h, w = image.shape[:2]
    if (w, h) == (width, height):
        return np.ascontiguousarray(image)
    if fit == "stretch":
        return resized(image, width, height)
    scale = max(width / w, height / h) if fit == "crop" else min(width / w, height / h)
    if fit == "crop":
        cw, ch = min(w, round(width / scale)), min(h, round(height / scale))
        left, top = (w - cw) // 2, (h - ch) // 2
        return resized(image[top : top + ch, left : left + cw], width, height)
    iw, ih = max(1, min(width, round(w * scale))), max(1, min(height, round(h * scale)))
    out = np.zeros((height, width, 3), np.uint8)
    left, top = (width - iw) // 2, (height - ih) // 2
    out[top : top + ih, left : left + iw] = resized(image, iw, ih)
    return out


def resized(image: Image, width: int, height: int) -> Image:
    """By area when it shrinks, else linear."""
    shrinks = image.shape[1] > width or image.shape[0] > height
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)
