"""LoRAs: what they add to a model's weights, at load and while it paints. W = W0 + sum of strength * scale * up @ down.

Nothing of a LoRA is left to run. The sum is always made anew from the base weights and in one order, so that the way to
a mix does not matter, and without LoRAs the weights are the base's, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from stream.config import Lora
from stream.errors import ModelError
from stream.hub import Wanted, fetch, first_line
from stream.quiet import quiet
from stream.weights import locate, reading

HUB_FILE = re.compile(r"(?P<repo>\w[\w.-]*/[\w.-]+)/(?P<file>.+\.safetensors)")
USUAL = "pytorch_lora_weights.safetensors"
INSTEAD = "use the file's path as the LoRA's source"
ADAPTER = "read"  # what a LoRA is called while it is read
Key = tuple[str, str]  # a part of the pipeline (unet, text_encoder, ...) and a weight's name in it
Weights = dict[str, dict[str, Tensor]]  # by part and name


@dataclass(frozen=True, eq=False)
class Factors:
    """What a LoRA adds to one weight at strength 1: `scale * up @ down`, `up` (out, rank), `down` (rank, all else)."""

    up: Tensor
    down: Tensor
    scale: float


class Mix:
    """The LoRAs that are in a model's weights, and what its weights are with others.

    Until something changes, nothing is kept. Then the files are read again (`read` gives the pipeline without LoRAs),
    and the factors stay, and those base weights that some LoRA touches.
    """

    def __init__(self, read: Callable[[], Any]) -> None:
        self.loras: tuple[Lora, ...] = ()  # those whose weights the model has now
        self._read = read
        self._known: dict[str, dict[Key, Factors]] = {}
        self._base: dict[Key, Tensor] = {}

    def merge(self, pipeline: Any, loras: tuple[Lora, ...]) -> None:
        """Into a pipeline that has just been read. ModelError where one does not fit."""
        wanted, held = strengths(loras), dict(parameters(pipeline))
        known = {source: factors(pipeline, source) for source in wanted}
        with torch.no_grad():
            for key in touched(known.values()):
                held[key].copy_(mixed(held[key], key, wanted, known))
        self.loras = loras

    def weights(self, loras: tuple[Lora, ...]) -> Weights:
        """The weights that differ between `self.loras` and `loras`, as they are with these.

        From any thread, one at a time. ModelError where a LoRA is not there, or does not fit.
        """
        before, wanted = strengths(self.loras), strengths(loras)
        changed = [s for s in {**before, **wanted} if before.get(s) != wanted.get(s)]
        if changed:
            self._learn({**before, **wanted})
        out: Weights = {}
        for part, name in touched(self._known[source] for source in changed):
            base = self._base[part, name]
            out.setdefault(part, {})[name] = mixed(base, (part, name), wanted, self._known)
        return out

    def _learn(self, sources: Iterable[str]) -> None:
        """Reads what is not known of these LoRAs, and the weights that they touch."""
        fresh = [source for source in sources if source not in self._known]
        for source in fresh:
            find(source)  # before gigabytes are read in vain
        if fresh:
            pipeline = self._read()
            known = {source: factors(pipeline, source) for source in fresh}
            lacking = {*touched(known.values())} - {*self._base}
            self._base |= {key: value.detach().clone() for key, value in parameters(pipeline) if key in lacking}
            self._known |= known


@torch.no_grad()
def mixed(base: Tensor, key: Key, wanted: Mapping[str, float], known: Mapping[str, Mapping[Key, Factors]]) -> Tensor:
    """One weight with the LoRAs that touch it; the base's own memory where none does."""
    parts = [(strength, f) for source, strength in wanted.items() if (f := known[source].get(key))]
    if not parts:
        return base
    up = torch.cat([f.up * (strength * f.scale) for strength, f in parts], 1)
    down = torch.cat([f.down for _, f in parts])
    return torch.addmm(base.flatten(1), up, down).view_as(base)


def strengths(loras: Iterable[Lora]) -> dict[str, float]:
    """The strength of each source that has any, in one order whatever theirs."""
    sums: dict[str, float] = {}
    for lora in sorted(loras, key=lambda x: (x.source, x.strength)):
        sums[lora.source] = sums.get(lora.source, 0.0) + lora.strength
    return {source: strength for source, strength in sums.items() if strength}


def touched(known: Iterable[Mapping[Key, Factors]]) -> list[Key]:
    """The weights that LoRAs touch, each once."""
    return list(dict.fromkeys(key for one in known for key in one))


def parameters(pipeline: Any) -> Iterator[tuple[Key, Tensor]]:
    """Every weight of a pipeline."""
    for part, module in pipeline.components.items():
        if isinstance(module, nn.Module):
            yield from (((part, name), p) for name, p in module.named_parameters())


# ------------------------------------------------------------------------------------------------- reading


def factors(pipeline: Any, source: str) -> dict[Key, Factors]:
    """What one LoRA, of diffusers' or kohya's format, adds to a pipeline's weights; the pipeline stays as it is.

    ModelError where it is not there, damaged, or does not fit.
    """
    file = find(source)
    with reading(f"lora {source}", file), safe_open(file, "pt"):
        pass
    try:
        with quiet():
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=ADAPTER)
        parts = sorted(pipeline.get_list_adapters())
        found = {(part, f"{name}.weight"): _factors(layer, source)
                 for part in parts for name, layer in _layers(getattr(pipeline, part))}  # fmt: skip
    except (ValueError, KeyError, RuntimeError) as error:  # what diffusers and peft raise for other models' files
        why = first_line(error).rstrip(":.")[:160]
        raise ModelError(f"lora {source} does not fit this model ({why}): use one made for its kind") from None
    finally:
        pipeline.unload_lora_weights()
    if not found:
        raise ModelError(f"lora {source} has no weights for this model: use one made for its kind")
    return found


def _layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that the LoRA being read acts on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    yield from ((n, m) for n, m in module.named_modules() if isinstance(m, BaseTunerLayer) and ADAPTER in m.scaling)


def _factors(layer: Any, source: str) -> Factors:
    plain = ADAPTER in layer.lora_A and ADAPTER not in layer.lora_magnitude_vector and not layer.lora_bias.get(ADAPTER)
    if not plain:
        raise ModelError(f"lora {source} is of a kind that adds no product of two factors (DoRA?): use a plain LoRA")
    up, down = (side[ADAPTER].weight.detach().float().flatten(1).clone() for side in (layer.lora_B, layer.lora_A))
    return Factors(up, down, float(layer.scaling[ADAPTER]))


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
