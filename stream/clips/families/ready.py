"""Whether this machine can run a back end, told without importing torch."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from stream.config import BUILTIN

INDEX = "model_index.json"
PACKAGES = {"torchao": "torchao", "quanto": "optimum.quanto", "gguf": "gguf", "bnb": "bitsandbytes"}
GB = 1 << 30
KEPT = 0.8  # of the machine's memory may be weights


def packages(names: tuple[str, ...], quantise: str | None) -> str | None:
    """The pip command for what is not installed of `names` and of what `quantise` needs, or None."""
    wanted = [*names, *([PACKAGES[quantise.partition("-")[0]]] if quantise else [])]
    lost = [name for name in wanted if not _installed(name)]
    if not lost:
        return None
    extra = {"bitsandbytes": "bnb", "torchao": "torchao"}.get(lost[-1], "video")
    return f"{', '.join(lost)} not installed: pip install 'livebrush[{extra}]'"


def _installed(name: str) -> bool:
    """Whether a package, or a package in one that may itself not be there, can be imported."""
    whole, _, inner = name.partition(".")
    return find_spec(whole) is not None and (not inner or find_spec(name) is not None)


def weights(source: str) -> str | None:
    """What is missing of a model folder or of the hub cache, or None."""
    place = folder_of(source)
    if place is None:
        return f"weights {source}: {download(source)}"
    lost = incomplete(place)
    again = download(source) if not Path(source).expanduser().exists() else "fetch its files again"
    return lost and f"{lost} of the weights {source}: {again}"


def download(source: str) -> str:
    """The command that fetches a pipeline, and not what else lies in its repository."""
    return f"hf download {source} --include {INDEX} --include '*/*'"


def folder_of(source: str, file: str = INDEX, inner: str = "") -> Path | None:
    """The folder of a model, or `inner` in it: itself, or its snapshot in the hub cache, known by a `file` in it."""
    from huggingface_hub import try_to_load_from_cache

    path = Path(source).expanduser()
    if source == BUILTIN or path.is_dir():
        return (path / inner if (path / inner).is_dir() else path) if path.is_dir() else None
    found = try_to_load_from_cache(source, f"{inner}/{file}" if inner else file) if source.count("/") == 1 else None
    return Path(found).parent if isinstance(found, str) else None


def pipeline_in(source: str) -> str | None:
    """The class of the pipeline that a model is, where it is on this machine."""
    place = folder_of(source)
    if place is None or not (place / INDEX).is_file():
        return None
    return str(json.loads((place / INDEX).read_text(encoding="utf-8")).get("_class_name"))


def incomplete(place: Path) -> str | None:
    """The first thing that a diffusers folder lacks, or None where every network has its weights."""
    if not (place / INDEX).is_file():
        return INDEX
    index = json.loads((place / INDEX).read_text(encoding="utf-8"))
    for name, part in index.items():
        if not (isinstance(part, list) and len(part) == 2 and part[1]) or "Scheduler" in part[1]:
            continue
        if not (folder := place / name).is_dir():
            return f"{name}/"
        if lost := _lost(folder):
            return f"{name}/{lost}"
    return None


def _lost(folder: Path) -> str | None:
    """A shard that an index names and that is not there; `*.safetensors` where a network has no weights at all."""
    for index in folder.glob("*.safetensors.index*.json"):
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if lost := sorted(x for x in names if not (folder / x).exists()):
            return str(lost[0])
    network = (folder / "config.json").is_file()
    return "*.safetensors" if network and not any(folder.glob("*.safetensors")) else None


def room(source: str, gigabytes: float) -> str | None:
    """Says that a card is needed where there is none and the weights do not fit in memory. `gigabytes` is what the
    makers state, used where the weights are not here."""
    if has_card():
        return None
    place = folder_of(source)
    size = sum(x.stat().st_size for x in place.glob("*/*.safetensors")) / GB if place else gigabytes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB if sys.platform != "win32" else 32
    if size < KEPT * memory:
        return None
    return f"a CUDA card: it takes about {size:.0f} GB, and this machine has no card and {memory:.0f} GB of memory"


@cache
def has_card() -> bool:
    """Whether NVIDIA's driver knows of a card."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
