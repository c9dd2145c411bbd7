"""The threads for codecs and conversions: the event loop never waits for a picture.

Decoding and encoding have pools of their own, so that a burst of one does not hold up the other, nor the loop's
default pool. FFmpeg lets go of the GIL while it works. Threads are shared by all peers and stay for the next one.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import cv2

THREADS = max(2, min(8, os.cpu_count() or 2))


@cache
def decoding() -> ThreadPoolExecutor:
    return made("decode")


@cache
def encoding() -> ThreadPoolExecutor:
    return made("encode")


def made(name: str) -> ThreadPoolExecutor:
    """A pool. OpenCV has no threads beside it: each picture has one of ours."""
    cv2.setNumThreads(1)
    return ThreadPoolExecutor(THREADS, name)
