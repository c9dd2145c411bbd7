"""Motion LoRAs: what they add to a motion module's weights, W + strength * scale * up @ down."""

from __future__ import annotations

import re
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stream.clips.modules import named
from stream.config import Lora
from stream.errors import ModelError
from stream.lora import find
from stream.weights import reading

SIDE = re.compile(
    r"(?:unet\.)?(?P<at>.+?\.)(?:processor\.)?(?P<layer>to_(?:q|k|v|out)(?:\.0)?)"
    r"(?:\.|_)lora(?:_|\.)(?P<side>A|B|down|up)\.weight"
)


def merge(adapter: Any, loras: tuple[Lora, ...]) -> None:
    """Adds LoRAs to a MotionAdapter's weights. ModelError where one is not there, or does not fit."""
    held = dict(adapter.named_parameters())
    for lora in loras:
        for name, (down, up) in factors(lora.source).items():
            weight = held.get(name)
            if weight is None or weight.shape != (up.shape[0], down.shape[1]):
                raise ModelError(
                    f"motion LoRA {lora.source} does not fit this motion module ({name}): use one made for it"
                )
            with torch.no_grad():
                weight.addmm_(up.float(), down.float(), alpha=lora.strength)


def factors(source: str) -> dict[str, tuple[Tensor, Tensor]]:
    """`down` (rank, in) and `up` (out, rank) by the name of the weight that they add to, whichever tool wrote them."""
    file = find(source)
    with reading(f"motion LoRA {source}", file):
        weights = load_file(file)
    sides: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        found = SIDE.fullmatch(named(name))
        if found is None or "motion_modules" not in name:
            raise ModelError(f"{source} is no motion LoRA ({name}): other LoRAs go under loras of the timeline")
        layer = found["layer"] if found["layer"] != "to_out" else "to_out.0"
        at = f"{found['at']}{layer}.weight"
        sides.setdefault(at, {})["down" if found["side"] in ("A", "down") else "up"] = value
    return {at: (both["down"], both["up"]) for at, both in sides.items()}
