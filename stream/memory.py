"""What is done when memory runs out: know it for what it is, and go on with less."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from pathlib import Path

from stream.settings import Settings

STEP = 0.75  # of each side: about half of the pixels
SMALLEST = 128  # pixels that a side is never stepped down below
VMSTAT = Path("/proc/vmstat")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out. torch has a class of its own for it, by that name; OpenVINO passes
    a `std::bad_alloc` on as a plain RuntimeError, so that its text is the only sign there is."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "bad_alloc" in str(error)


def smaller(settings: Settings, multiple: int) -> Settings | None:
    """The settings with both sides about `STEP` as long, multiples of `multiple`; None where they are small already."""
    grain = math.lcm(multiple, 8)
    width, height = (int(side * STEP) // grain * grain for side in (settings.width, settings.height))
    if min(width, height) < SMALLEST:
        return None
    return settings.changed(width=width, height=height)


def shape(settings: Settings) -> str:
    """The size in words."""
    return f"{settings.width}x{settings.height}"


def area(settings: Settings) -> int:
    """Pixels of a picture."""
    return settings.width * settings.height


def settle() -> None:
    """Once, when all is imported: what is there now stays, and collections need not look at it again."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Collects what a stream that has ended left behind, and hands what the C library keeps for later back to the
    system (glibc): codecs leave tens of megabytes in its arenas. Takes some milliseconds: for a thread."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def kills() -> int:
    """Processes that the system has killed for lack of memory since it was started; 0 where it does not say."""
    try:
        lines = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
