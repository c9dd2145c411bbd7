"""Motion modules, wherever they are: built-in ones by name, folders, single files and hub ids, and how each is used.

A folder is diffusers' MotionAdapter, with a `facts.json` beside its configuration where somebody wrote one. A single
file is read without a network: what its configuration would say is in the shapes of its weights. Light to import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from stream.clips.timeline import Camera, Part, Sampler
from stream.errors import ClipError, ModelError
from stream.hub import Wanted, fetch
from stream.quiet import quiet

BUILT_IN = Path(__file__).parents[1] / "builtin" / "motion"
CONFIG, FACTS, WEIGHTS = "config.json", "facts.json", "diffusion_pytorch_model"
HEADS, GROUPS = 8, 32  # of every AnimateDiff module; no shape tells them
FILES = f"{CONFIG}, {WEIGHTS}.safetensors"

Version = Literal["builtin", "v1", "v2", "v3", "sdxl", "lcm", "lightning", "unknown"]


class MotionFacts(Part):
    """How a motion module is best used; None: as the model or the timeline says."""

    version: Version = "unknown"
    about: str = ""
    licence: str = "unknown: see where the weights come from"
    camera: Camera | None = None  # what it was made to follow
    sampler: Sampler = "auto"
    spacing: Literal["leading", "trailing", "linspace"] | None = None  # how the sampler lays its steps
    betas: Literal["linear", "scaled_linear"] | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    strength: float | None = None  # where an input is repainted
    loras: bool = False  # whether motion LoRAs fit it


ORIGINAL = MotionFacts(sampler="ddim", betas="linear", steps=25, guidance_scale=7.5, licence="Apache-2.0")
KNOWN: dict[Version, MotionFacts] = {
    "v1": ORIGINAL.model_copy(update={"version": "v1"}),
    "v2": ORIGINAL.model_copy(update={"version": "v2", "loras": True}),
    "v3": ORIGINAL.model_copy(update={"version": "v3"}),
    "sdxl": ORIGINAL.model_copy(update={"version": "sdxl", "steps": 50, "guidance_scale": 8.0}),
    "lcm": MotionFacts(version="lcm", sampler="lcm", steps=6, guidance_scale=1.5, betas="linear", licence="MIT"),
    "lightning": MotionFacts(
        version="lightning", sampler="euler", spacing="trailing", betas="linear", steps=4, guidance_scale=1,
        licence="CreativeML Open RAIL++-M",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class MotionModule:
    """A motion module that is there, not loaded yet. `place` is its folder or its file."""

    source: str
    place: Path
    facts: MotionFacts
    config: Mapping[str, Any]  # diffusers' MotionAdapter's

    @property
    def frames(self) -> int:
        """The most frames that it takes at once (its position length)."""
        return int(self.config["motion_max_seq_length"])

    @property
    def middle(self) -> bool:
        """Whether it has temporal layers in the UNet's middle block too."""
        return bool(self.config["use_motion_mid_block"])

    @cached_property
    def weights(self) -> Path:
        """The file with its weights."""
        if self.place.is_file():
            return self.place
        from stream.weights import variant_in

        variant = variant_in(self.place, WEIGHTS, None)
        return self.place / (f"{WEIGHTS}.{variant}.safetensors" if variant else f"{WEIGHTS}.safetensors")

    def load(self) -> Any:
        """A MotionAdapter of its own, float32, on the CPU. ModelError where the files are damaged or incomplete."""
        from stream.weights import check_whole, reading

        with reading(f"motion module {self.source}", self.place):
            adapter = self._from_file() if self.place.is_file() else self._from_folder()
        check_whole(adapter, f"motion module {self.source}")
        return adapter.float().eval()

    def _from_folder(self) -> Any:
        from diffusers import MotionAdapter

        from stream.weights import variant_in

        variant = variant_in(self.place, WEIGHTS, None)
        with quiet():
            return MotionAdapter.from_pretrained(
                str(self.place), variant=variant, use_safetensors=True, local_files_only=True
            )

    def _from_file(self) -> Any:
        from diffusers import MotionAdapter
        from safetensors.torch import load_file

        with quiet():
            adapter = MotionAdapter.from_config(dict(self.config))
        weights = {named(name): value for name, value in load_file(self.place).items() if not _position(name)}
        own = {name for name in adapter.state_dict() if not _position(name)}
        if own != weights.keys():
            odd = sorted(own ^ weights.keys())
            raise ModelError(
                f"motion module {self.source} has {len(odd)} weights too few or too many ({odd[0]}, ...): "
                "expected an AnimateDiff motion module"
            )
        adapter.load_state_dict(weights, strict=False)  # positions are sines, whatever a file says of them
        return adapter


def built_in() -> tuple[str, ...]:
    """The names of the motion modules that ship with Livebrush."""
    return tuple(sorted(p.parent.name for p in BUILT_IN.glob(f"*/{CONFIG}")))


def find(source: str) -> MotionModule:
    """The module that `source` names: built-in, a folder, a .safetensors file, a hub id, or a file on the hub
    (`owner/name/file.safetensors`). Hub files are downloaded where they are not there yet.

    ClipError where it is unknown, ModelError where its files are not there or not a motion module's.
    """
    place = _locate(source)
    config = from_shapes(place) if place.is_file() else _read(place / CONFIG, source)
    if config.get("_class_name", "MotionAdapter") != "MotionAdapter" or "motion_max_seq_length" not in config:
        raise ModelError(
            f"{source} is a {config.get('_class_name', 'model')}: expected a motion module (MotionAdapter)"
        )
    return MotionModule(source, place, facts_of(source, place, config), config)


def _locate(source: str) -> Path:
    if source in built_in():
        return BUILT_IN / source
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return path
    if path.exists():
        raise ClipError(
            f"motion module {source} is a {path.suffix or 'plain'} file: use a .safetensors file or a folder"
        )
    from stream.lora import HUB_FILE
    from stream.weights import HUB_ID

    if found := HUB_FILE.fullmatch(source):
        wanted = Wanted(found["repo"], "motion module", (found["file"],), "--motion FILE")
        return fetch(wanted) / found["file"]
    if HUB_ID.fullmatch(source) and path.suffix != ".safetensors":
        return fetch(Wanted(source, "motion module", (CONFIG, f"{WEIGHTS}*.safetensors"), "--motion FOLDER", FILES))
    known = ", ".join(built_in())
    raise ClipError(f"motion module {source[:80]!r} is unknown: use {known}, a folder, a .safetensors file or a hub id")


def _read(file: Path, source: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise ModelError(f"motion module {source} has no {file.name}: expected a folder with {FILES}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file.name} of motion module {source} cannot be read: {error}") from None
    return found


def facts_of(source: str, place: Path, config: Mapping[str, Any]) -> MotionFacts:
    """What `facts.json` says; else what the module's name and shape tell."""
    if place.is_dir() and (place / FACTS).is_file():
        try:
            return MotionFacts.model_validate(_read(place / FACTS, source))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ModelError(f"{FACTS} of motion module {source}: {where}: {first['msg']}") from None
    name = source.lower()
    if "lightning" in name:
        steps = re.search(r"(\d)-?step", name)
        known = KNOWN["lightning"]
        return known.model_copy(update={"steps": int(steps[1])}) if steps else known
    if "lcm" in name:
        return KNOWN["lcm"]
    if len(config["block_out_channels"]) == 3:
        return KNOWN["sdxl"]
    if tuple(config["block_out_channels"]) != (320, 640, 1280, 1280):
        return MotionFacts()
    if config["motion_max_seq_length"] < 32:
        return KNOWN["v1"]
    return KNOWN["v2" if config["use_motion_mid_block"] else "v3"]


# ------------------------------------------------------------------------------------------------- one file

RENAMED = {".norms.0": ".norm1", ".norms.1": ".norm2", ".ff_norm": ".norm3", ".attention_blocks.0": ".attn1",
           ".attention_blocks.1": ".attn2", ".temporal_transformer": ""}  # fmt: skip


def named(name: str) -> str:
    """diffusers' name of a weight that AnimateDiff's own code calls `name`."""
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name.removeprefix("module.")


def _position(name: str) -> bool:
    return name.endswith(".pe")


def from_shapes(file: Path) -> dict[str, Any]:
    """The configuration of a motion module in one file, from the names and shapes of its weights."""
    from safetensors import safe_open

    from stream.weights import reading

    with reading(f"motion module {file}", file), safe_open(file, "pt") as opened:
        shapes = {named(k): opened.get_slice(k).get_shape() for k in opened.keys()}  # noqa: SIM118
    layers = {k.removesuffix(".proj_in.weight"): s[1] for k, s in shapes.items() if k.endswith("proj_in.weight")}
    blocks = sorted({k.split(".")[1] for k in layers if k.startswith("down_blocks.")})
    lengths = [s[1] for k, s in shapes.items() if _position(k)]
    if not blocks or not lengths:
        raise ModelError(f"motion module {file} has no temporal layers: expected an AnimateDiff motion module")

    def count(prefix: str) -> int:
        return len({k.removeprefix(prefix).split(".")[0] for k in shapes if k.startswith(prefix)})

    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": [layers[f"down_blocks.{b}.motion_modules.0"] for b in blocks],
        "motion_layers_per_block": count("down_blocks.0.motion_modules."),
        "motion_transformer_layers_per_block": count("down_blocks.0.motion_modules.0.transformer_blocks."),
        "motion_mid_block_layers_per_block": max(count("mid_block.motion_modules."), 1),
        "motion_num_attention_heads": HEADS,
        "motion_norm_num_groups": GROUPS,
        "motion_max_seq_length": lengths[0],
        "use_motion_mid_block": any(k.startswith("mid_block.") for k in layers),
    }
