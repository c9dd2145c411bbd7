"""Presets: `configs/*.toml` to a `ModelSpec`, which says what to load and how it is best used."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from stream.errors import ConfigError, SettingsError
from stream.settings import Settings

BUILTIN = "builtin"
STRONGEST = 10.0  # strength of a LoRA, either way


@dataclass(frozen=True)
class Lora:
    """A LoRA, merged into the weights when the model is loaded; a live server can change its strength.

    `source` is a .safetensors file, a folder with one, a hub id, or `owner/name/file.safetensors` on the hub.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    source: Annotated[
        str, Field(description="A .safetensors file, a folder with one, a hub id, or owner/name/file.safetensors.")
    ]
    strength: Annotated[
        float, Field(allow_inf_nan=False, ge=-STRONGEST, le=STRONGEST, description="How much it counts; 0 is nothing.")
    ] = 1.0


def called(loras: tuple[Lora, ...]) -> dict[str, Lora]:
    """LoRAs by short names that tell nothing of this machine's folders, numbered where two are called the same."""
    named: dict[str, Lora] = {}
    for lora in loras:
        path = Path(lora.source)
        name = path.stem if path.suffix == ".safetensors" else path.name
        others = (f"{name} {k}" for k in count(2))
        named[next(n for n in chain([name], others) if n not in named)] = lora
    return named


@dataclass(frozen=True)
class ModelSpec:
    """What to load. Sources are folders, hub ids or, for `model`, a single .safetensors file."""

    __pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: str
    model: str  # `builtin` is the one that ships with Livebrush
    vae: str | None = None  # instead of the model's own, e.g. madebyollin/taesd
    loras: tuple[Lora, ...] = ()
    changes: bool = False  # its LoRAs change while it paints: TensorRT's engines are built so that they can
    settings: Settings = field(default_factory=Settings)
    variant: str | None = None  # the hub's smaller weight files, e.g. fp16, where they are there
    config: str | None = None  # for a single file: a folder or hub id with the configuration of its networks
    licence: str = "unknown: see where the weights come from"
    about: str = ""
    prompts: tuple[str, ...] = ()  # what it does well, offered on the page with one tap


SPEC = TypeAdapter(ModelSpec)


def presets() -> dict[str, ModelSpec]:
    """The presets that ship with Livebrush, by name, the built-in model first."""
    found = [Path(str(x)) for x in files("configs").iterdir() if x.name.endswith(".toml")]
    found.sort(key=lambda x: (x.stem != BUILTIN, x.stem))
    return {path.stem: read(path) for path in found}


def spec(name: str) -> ModelSpec:
    """The preset called `name`; else the TOML file, model folder, .safetensors file or hub id that it names.

    Raises ConfigError where it can be none of them.
    """
    known = presets()
    if name in known:
        return known[name]
    path = Path(name).expanduser()
    if path.suffix == ".toml":
        return read(path)
    if path.exists() or name.count("/") == 1:
        return ModelSpec(path.stem if path.is_file() else path.name, name)
    raise ConfigError(
        f"model {name[:200]!r} is unknown: use {', '.join(known)}, a hub id (owner/name), or the path of a "
        ".toml preset, a diffusers folder or a .safetensors file"
    )


def read(path: Path) -> ModelSpec:
    """The preset in a TOML file. Paths in it may be relative to its folder. ConfigError says what is wrong in it."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"preset {path} cannot be read ({error.strerror}): check the path") from None
    except ValueError as error:  # tomllib's and UTF-8's
        raise ConfigError(f"preset {path} is not valid TOML: {error}") from None
    table["settings"] = _settings(path, table.get("settings", {}))
    try:
        made = SPEC.validate_python({"name": path.stem, **table})
    except ValidationError as error:
        raise ConfigError(f"preset {path} is wrong: {_explain(error)}") from None
    return _near(made, path.parent)


def _settings(path: Path, values: Any) -> Settings:
    if not isinstance(values, Mapping):
        raise ConfigError(f"preset {path} is wrong: settings is {values!r}, expected a table [settings]")
    try:
        return Settings.checked(**{str(k): v for k, v in values.items()})
    except SettingsError as error:
        raise ConfigError(f"preset {path} is wrong: {error}") from None


def _explain(error: ValidationError) -> str:
    known = ", ".join(f.name for f in fields(ModelSpec))
    lines = []
    for item in error.errors():
        name = ".".join(str(x) for x in item["loc"])
        extra = item["type"] == "unexpected_keyword_argument" or item["type"] == "extra_forbidden"
        lines.append(f"{name} is not a key: use one of {known}" if extra else f"{name}: {item['msg']}")
    return "; ".join(lines)


def _near(made: ModelSpec, folder: Path) -> ModelSpec:
    """`made` with the sources that lie beside the preset's file as paths to them."""

    def place(source: str | None) -> str | None:
        beside = None if source is None else folder / Path(source).expanduser()
        return str(beside) if beside is not None and source and beside.exists() else source

    loras = tuple(replace(x, source=cast(str, place(x.source))) for x in made.loras)
    model = made.model if made.model == BUILTIN else cast(str, place(made.model))
    return replace(made, model=model, vae=place(made.vae), config=place(made.config), loras=loras)
