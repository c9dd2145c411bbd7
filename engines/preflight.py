"""What a build needs, looked at before it begins: libraries, a card, memory, disk. Refused with the figure needed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache as remember
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engines.errors import EngineError

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # back end: its Python module
BASE_BYTES = 900_000_000  # of memory, whatever the network: the library and the plans of SD's UNets' nodes
MEMORY_TIMES = 3.2  # the weights' bytes, measured on SD's UNets (docs/benchmarks/engines.md)
DISK_TIMES = 2.3  # the weights' bytes: the exported graph and the engine
CARD_BYTES = 500_000_000  # CUDA itself
DISK_BYTES = 100_000_000  # and kernels, whatever the network
PRECISIONS = ("f16", "bf16", "f32")
FP8_FROM, BF16_FROM = 89, 80
SPACE = "free some space (livebrush engines gc), or set LIVEBRUSH_CACHE to another folder"
MEMORY = "close other programs, or build on another machine and copy the cache folder"


def check(backend: str, compute: Sequence[int], precision: str, weights: int, folder: Path, *, fp8: bool = False,
          refit: bool = False) -> None:  # fmt: skip
    """EngineError unless `backend` can build a network of `weights` bytes into `folder` on this machine."""
    check_library(backend)
    check_precision(backend, precision)
    check_card(backend, compute, precision, fp8=fp8, refit=refit)
    check_card_memory(compute, weights)
    check_memory(weights)
    check_disk(weights, folder)


def check_library(backend: str) -> None:
    if backend not in LIBRARIES:
        raise EngineError(f"back end {backend[:80]!r} builds no engines: use {' or '.join(LIBRARIES)}")
    lacking = [m for m in ("polygraphy", LIBRARIES[backend]) if find_spec(m) is None]
    if lacking:
        packages = " ".join(m.replace("_", "-") for m in lacking)
        raise EngineError(f"{backend} needs {' and '.join(lacking)}: pip install {packages}")


def check_precision(backend: str, precision: str) -> None:
    if precision not in PRECISIONS:
        raise EngineError(f"{backend} does not run {precision[:80]!r}: use {' or '.join(PRECISIONS)}")


def check_card(backend: str, compute: Sequence[int], precision: str, *, fp8: bool = False, refit: bool = False) -> None:
    """Whether these cards can be built for here."""
    here = card_here()
    if backend == "tensorrt" and (here is None or list(compute) != [here]):
        raise EngineError(
            f"tensorrt builds only on the machine with the card, and for it: here is {_card(here)}, asked for is "
            f"{_cards(compute)}: build there, or use tensorrt-rtx, which builds for RTX cards anywhere"
        )
    if backend == "tensorrt-rtx":
        _check_rtx(compute)
    if refit and here is None:
        raise EngineError(
            "an engine whose weights can be exchanged is built only on a machine with a card: leave refit"
        )
    least = FP8_FROM if fp8 else BF16_FROM if precision == "bf16" else 0
    if low := [c for c in compute if c < least]:
        what, instead = ("FP8", "leave --fp8") if fp8 else ("bf16", "use f16")
        raise EngineError(f"{what} needs SM {least / 10} or newer, not {_cards(low)}: {instead}")


def _check_rtx(compute: Sequence[int]) -> None:
    known = rtx_cards()
    if not compute:
        raise EngineError(f"there is no card here: say which to build for, e.g. --sm 89 (known: {_cards(known)})")
    if unknown := [c for c in compute if c not in known]:
        raise EngineError(
            f"tensorrt-rtx {library_version('tensorrt-rtx')} does not build for {_cards(unknown)}: it knows "
            f"{_cards(known)}; for data-centre cards such as the H100 use --backend tensorrt on their machine"
        )


def check_card_memory(compute: Sequence[int], weights: int) -> None:
    """Whether the weights have room on the card, where it is one that is built for; working memory depends on the size
    of the pictures and comes on top."""
    if card_here() not in compute:
        return
    needed, free = CARD_BYTES + weights, card_memory_free()
    if free < needed:
        raise EngineError(
            f"the engine needs more than {gigabytes(needed)} of the card's memory, {gigabytes(free)} are free: close "
            "other programs that use the card, or use a smaller model"
        )


def check_memory(weights: int) -> None:
    """Whether the builder's process has room."""
    needed, free = memory_needed(weights), memory_free()
    if free is not None and free < needed:
        raise EngineError(f"the build needs about {gigabytes(needed)} of memory, {gigabytes(free)} are free: {MEMORY}")


def check_disk(weights: int, folder: Path) -> None:
    """Whether graph and engine have room."""
    standing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    needed, free = disk_needed(weights), shutil.disk_usage(standing).free
    if free < needed:
        raise EngineError(
            f"the build needs about {gigabytes(needed)} of disk in {folder}, {gigabytes(free)} are free: {SPACE}"
        )


def memory_needed(weights: int) -> int:
    return BASE_BYTES + int(MEMORY_TIMES * weights)


def disk_needed(weights: int) -> int:
    return DISK_BYTES + int(DISK_TIMES * weights)


def memory_free(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that may be taken without swapping, container's limit included; None where the system does not say."""
    try:
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, max(int(limit) - int(used), 0))
    except (OSError, ValueError):
        return free


def card_here() -> int | None:
    """The first CUDA card's compute capability, as 89; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor


def card_memory_free() -> int:
    """Bytes that are free on the first CUDA card."""
    import torch

    return int(torch.cuda.mem_get_info()[0])


@remember
def rtx_cards() -> tuple[int, ...]:
    """Compute capabilities that the TensorRT-RTX here builds for."""
    names: Any = import_module("tensorrt_rtx").ComputeCapability.__members__
    return tuple(sorted(int(n.removeprefix("SM")) for n in names if n.startswith("SM")))


@remember
def library_version(backend: str) -> str:
    """The installed version, without importing it."""
    for package in (LIBRARIES[backend], *(f"{LIBRARIES[backend]}_cu{n}" for n in (13, 12))):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return str(getattr(import_module(LIBRARIES[backend]), "__version__", "unknown"))


def driver() -> str | None:
    """The NVIDIA driver's version, where there is one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    return next((w for w in text.split() if w[:1].isdigit() and w.count(".") >= 1), None)


def _cards(compute: Sequence[int]) -> str:
    return ", ".join(_card(c) for c in compute) or "none"


def _card(compute: int | None) -> str:
    return "no card" if compute is None else f"SM {compute // 10}.{compute % 10}"


def gigabytes(size: float) -> str:
    """`1.2 GB`."""
    return f"{size / 1e9:.1f} GB"
