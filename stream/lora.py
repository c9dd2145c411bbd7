"""LoRAs, merged into the weights when a model is loaded: W + strength * B A, and nothing left to run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stream.config import Lora
from stream.errors import ModelError
from stream.hub import Wanted, fetch
from stream.quiet import quiet
from stream.weights import locate, reading

HUB_FILE = re.compile(r"(?P<repo>\w[\w.-]*/[\w.-]+)/(?P<file>.+\.safetensors)")
USUAL = "pytorch_lora_weights.safetensors"
INSTEAD = "use the file's path as the LoRA's source"


def merge(pipeline: Any, lora: Lora) -> None:
    """Merges one LoRA, of diffusers' or kohya's format, into a pipeline. ModelError where it does not fit."""
    file = find(lora.source)
    with quiet(), reading(f"lora {lora.source}", file):
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name="merged")
        if not pipeline.get_list_adapters():
            raise ModelError(f"lora {lora.source} has no weights for this model: use one made for its kind")
        pipeline.fuse_lora(components=sorted(pipeline.get_list_adapters()), lora_scale=lora.strength)
        pipeline.unload_lora_weights()


def find(source: str) -> Path:
    """The file of a LoRA: on this machine, or fetched from the hub."""
    if not Path(source).expanduser().exists() and (named := HUB_FILE.fullmatch(source)):
        return _fetched(named["repo"], named["file"])
    place = locate(source, "lora")
    if isinstance(place, str):
        return _fetched(place, USUAL)
    return place if place.is_file() else _only(place)


def _fetched(repo: str, name: str) -> Path:
    return fetch(Wanted(repo, "lora", (name,), INSTEAD)) / name


def _only(folder: Path) -> Path:
    if (folder / USUAL).is_file():
        return folder / USUAL
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(x.name for x in found) or "none"
        raise ModelError(f"lora {folder} has {len(found)} .safetensors files ({names}): name the one to use")
    return found[0]
