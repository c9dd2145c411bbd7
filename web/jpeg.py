"""Pictures as JPEG, for pages that WebRTC does not reach. Work for a thread: the event loop never does it."""

from __future__ import annotations

import cv2
import numpy as np

from stream.frame import Image

QUALITY = 82
SIDE_LIMIT = 4096  # pixels of a picture that comes in
SIZED = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of frames, ITU-T T.81 table B.1
BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment


class PictureError(ValueError):
    """Not a picture, or not one of a size that is taken."""


def decode(data: bytes) -> Image:
    """An RGB picture, `(height, width, 3)` uint8; PictureError where the data are none, before memory is taken."""
    width, height = size(data)
    if not (0 < width <= SIDE_LIMIT and 0 < height <= SIDE_LIMIT):
        raise PictureError(f"a picture of {width}x{height}: send at most {SIDE_LIMIT}x{SIDE_LIMIT}")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise PictureError(f"a picture that cannot be read ({error.code}): send a JPEG") from None
    if picture is None:
        raise PictureError("a picture that cannot be read: send a JPEG")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def encode(image: Image, quality: int = QUALITY) -> bytes:
    """A JPEG of an RGB picture."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return bytes(data)


def size(data: bytes) -> tuple[int, int]:
    """Width and height as the header of a JPEG says (ITU-T T.81, B.2.2); PictureError where it is none."""
    if data[:2] != b"\xff\xd8":
        raise PictureError(f"{len(data)} bytes that are no JPEG: send a JPEG")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in SIZED:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        if marker == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 if marker in BARE else 2 + int.from_bytes(data[at + 2 : at + 4])
    raise PictureError("a JPEG without a size: send a whole one")
