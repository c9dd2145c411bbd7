"""What is here, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stream.config import BUILTIN, ModelSpec
from stream.errors import LivebrushError

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8", "asimd")
CODECS = {"libx264": "mp4, mov and mkv", "aac": "their sound", "libvpx-vp9": "webm", "libopus": "its sound"}
INDEX = "model_index.json"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: `here`, and in words what is there, or else what to do."""

    name: str
    here: bool
    text: str


def examine() -> Iterator[Finding]:
    """All findings, in the order in which they are worth reading."""
    for look in (
        _python,
        _processor,
        _torch,
        _engines,
        _fallback,
        _auto,
        _codecs,
        _cache,
        _builtin,
        _cameras,
        _outputs,
    ):
        yield from look()


def _python() -> Iterator[Finding]:
    try:
        livebrush = version("livebrush")
    except PackageNotFoundError:
        livebrush = "(not installed: pip install -e .)"
    yield Finding("livebrush", True, f"{livebrush}, Python {platform.python_version()}, {platform.platform()}")


def _processor() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    features = cpu_features()
    fast = "" if "avx512_bf16" in features or "amx_bf16" in features else "; no fast bf16: engines use f32"
    yield Finding("processor", True, f"{cores} cores, {' '.join(features) or platform.machine()}{fast}")


def cpu_features() -> list[str]:
    """The instruction sets that engines profit from, where the system lists them."""
    listing = Path("/proc/cpuinfo")
    words = set(listing.read_text(encoding="utf-8", errors="replace").split()) if listing.exists() else set()
    return [f for f in FEATURES if f in words]


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", False, f"{error}: pip install torch")
        return
    from engines.torch import devices

    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    known = ", ".join(d for d in devices() if ":" not in d)
    yield Finding("torch", True, f"{torch.__version__} on {known}{' (' + ', '.join(cards) + ')' if cards else ''}")


def _engines() -> Iterator[Finding]:
    import engines

    for name in engines.BACKENDS:
        backend = engines.backend(name)
        missing = backend.missing()
        if missing is not None:
            yield Finding(f"engine {name}", False, missing)
            continue
        able = "; ".join(f"{d}: {', '.join(backend.precisions(d))}" for d in backend.devices())
        yield Finding(f"engine {name}", True, f"ready on {able}")


def _fallback() -> Iterator[Finding]:
    from engines.cache import default_folder
    from stream.fallback import last_failure

    last = last_failure(default_folder())
    if last is not None:
        yield Finding("last fallback", False, f"{last.model}, {last.at}: {last.text}")


def _auto() -> Iterator[Finding]:
    from stream.choice import choose

    try:
        yield Finding("engine auto", True, f"takes {choose(ModelSpec(BUILTIN, BUILTIN))} for the built-in model")
    except LivebrushError as error:
        yield Finding("engine auto", False, str(error))


def _codecs() -> Iterator[Finding]:
    import av

    lacking = [c for c in CODECS if c not in av.codecs_available]
    if lacking:
        what = ", ".join(f"{c} ({CODECS[c]})" for c in lacking)
        yield Finding("video", False, f"PyAV {av.__version__} lacks {what}: pip install --force-reinstall av")
    else:
        yield Finding("video", True, f"PyAV {av.__version__} with {', '.join(CODECS)}")


def _cache() -> Iterator[Finding]:
    from engines.cache import default_folder

    folder = default_folder()
    standing = next(p for p in (folder, *folder.parents) if p.exists())
    free, able = shutil.disk_usage(standing).free, os.access(standing, os.W_OK)
    used = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    text = f"{folder}: {megabytes(used)} of graphs kept, {megabytes(free)} free"
    todo = "; it cannot be written: set LIVEBRUSH_CACHE to another folder"
    yield Finding("cache", able, text + ("" if able else todo))


def _builtin() -> Iterator[Finding]:
    missing = missing_weights(ModelSpec(BUILTIN, BUILTIN))
    yield Finding("built-in model", missing is None, missing or "ready; for others: livebrush models")


def _cameras() -> Iterator[Finding]:
    try:
        from stream.sources.camera import cameras
    except ImportError as error:
        yield Finding("cameras", False, f"{error}: pip install opencv-python-headless")
        return
    found = cameras()
    yield Finding("cameras", bool(found), ", ".join(found) or "none found: plug one in, or use a file or testcard")


def _outputs() -> Iterator[Finding]:
    from stream.sinks import live

    lacking = {name: why for name, _, why in live.usable() if why is not None}
    able = ", ".join(name for name in live.known() if name not in lacking)
    yield Finding("outputs", bool(able), "; ".join([able, *(f"not {name}: {why}" for name, why in lacking.items())]))


def missing_weights(spec: ModelSpec) -> str | None:
    """None where everything that `spec` loads lies on this machine; else what is missing. Asks no network."""
    sources: list[tuple[str, Callable[[Path], bool]]] = [(spec.model, _whole_model)]
    sources += [(s, _some_weights) for s in (spec.vae, *(x.source for x in spec.loras)) if s is not None]
    lacking = [source for source, whole in sources if not _here(source, whole)]
    if lacking == [BUILTIN]:
        return "its weights are missing: install again, or run python -m tools.train_builtin"
    return f"not here: {', '.join(lacking)}; fetched on first use, or: hf download {lacking[0]}" if lacking else None


def _here(source: str, whole: Callable[[Path], bool]) -> bool:
    from stream.weights import SHIPPED

    place = SHIPPED if source == BUILTIN else Path(source).expanduser()
    if place.is_file():
        return True
    if not place.exists() and source.count("/") >= 1:
        place = _snapshot("/".join(source.split("/")[:2])) or place
    return place.is_dir() and whole(place)


def _snapshot(repo: str) -> Path | None:
    """The newest folder of a repository in the hub cache."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/"), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else None


def _whole_model(folder: Path) -> bool:
    return (folder / INDEX).is_file() and all(_some_weights(folder / part) for part in ("unet", "text_encoder"))


def _some_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def megabytes(size: float) -> str:
    """`12.3 MB`, `4.5 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
