"""Which engine paints a model here: what the machine offers, and whether the model was measured for int8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import engines
from engines import Choice, Ranges
from stream.config import ModelSpec
from stream.errors import ModelError
from stream.weights import locate

FILE = "int8.json"  # in a model's folder: ranges by network and convolution
TABLE: TypeAdapter[dict[str, dict[str, tuple[float, float]]]] = TypeAdapter(dict[str, dict[str, tuple[float, float]]])


def choose(spec: ModelSpec, engine: str = "auto", device: str = "auto", precision: str = "auto") -> Choice:
    """The back end, device and precision for a model. EngineError where what was asked for is not there."""
    return engines.choose(engine, device, precision, ranges=bool(ranges(spec)))


def ranges(spec: ModelSpec) -> Mapping[str, Ranges]:
    """What int8 needs of a model, by network; nothing where it was not measured as it is to be used: with another VAE
    or a LoRA, other numbers go through it. ModelError where the file is damaged."""
    place = locate(spec.model, "model")
    if isinstance(place, str) or spec.vae or spec.loras or not (file := Path(place) / FILE).is_file():
        return {}
    try:
        return TABLE.validate_json(file.read_bytes())
    except ValidationError as error:
        raise ModelError(f"{file} is damaged ({error.errors()[0]['msg']}): measure it anew or delete it") from None
