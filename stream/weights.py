"""Weights, wherever they are: a diffusers folder, a hub id or a single .safetensors file, read by diffusers' loaders.

This is the boundary to the hub and to files of unknown origin: what goes wrong here becomes one ModelError that says
what to fetch and where to put it. Nothing is ever returned half loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stream.config import BUILTIN, ModelSpec
from stream.errors import ModelError
from stream.hub import Wanted, fetch, fetching, first_line, snapshot
from stream.quiet import quiet

SHIPPED = Path(__file__).parent / "builtin"
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
INDEX = "model_index.json"
PARTS = "model_index.json, scheduler/, text_encoder/, tokenizer/, unet/, vae/"
PARTS_XL = f"{PARTS}, and of SDXL text_encoder_2/, tokenizer_2/"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
TOKENIZERS = ("tokenizer", "tokenizer_2")
WEIGHTS = "diffusion_pytorch_model"
KNOWN = "SD 1.x, SD 2.x, SD-Turbo, SDXL and SDXL-Turbo"


def read_pipeline(spec: ModelSpec) -> Any:
    """The pipeline of diffusers for `spec`, float32 on the CPU, no safety checker. ModelError where there is none."""
    place = locate(spec.model, "model")
    with quiet():
        vae = {} if spec.vae is None else {"vae": read_vae(spec.vae)}
        if isinstance(place, str):
            place = _fetch_model(place, spec)
        with reading(f"model {spec.model}", place):
            pipeline = _single_file(place, spec, vae) if place.is_file() else _folder(place, spec, vae)
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module):
                check_whole(part, f"{name} of model {spec.model}")
                part.float()
    for words, reader in zip(TOKENIZERS, TEXT_ENCODERS, strict=True):
        if getattr(pipeline, words, None) is not None:
            _limit(getattr(pipeline, words), getattr(pipeline, reader))
    return pipeline


def locate(source: str, what: str) -> Path | str:
    """The path that `source` names, or else `source` as a hub id. ModelError where it can be neither."""
    if source == BUILTIN:
        return SHIPPED
    path = Path(source).expanduser()
    if path.exists():
        if path.is_dir() or path.suffix == ".safetensors":
            return path
        raise ModelError(f"{what} {source} is a {path.suffix or 'plain'} file: use a .safetensors file or a folder")
    if HUB_ID.fullmatch(source) and path.suffix != ".safetensors":
        return source
    raise ModelError(f"{what} {source} is not there: check the path, or use a hub id (owner/name)")


# ------------------------------------------------------------------------------------------------- folders


def _folder(place: Path, spec: ModelSpec, vae: dict[str, Any]) -> Any:
    index = _index(place)
    family, options = _family(index, spec.model)
    _check_tokenizers(place, index)
    texts = {k: _text_encoder(place / k, v[1], spec.variant) for k, v in index.items() if k in TEXT_ENCODERS and v[1]}
    variant = variant_in(place / "unet", WEIGHTS, spec.variant)
    return family.from_pretrained(
        place, variant=variant, use_safetensors=True, local_files_only=True, **options, **texts, **vae
    )


def _text_encoder(place: Path, kind: str, wanted: str | None) -> Any:
    """A text encoder with every weight from its files: transformers would draw a missing one at random."""
    import transformers

    model, info = getattr(transformers, kind).from_pretrained(
        place, variant=variant_in(place, "model", wanted), use_safetensors=True, local_files_only=True,
        dtype=torch.float32, output_loading_info=True,
    )  # fmt: skip
    if lost := sorted(info["missing_keys"]):
        raise ModelError(f"{place} lacks {len(lost)} of its weights ({lost[0]}, ...): fetch its files again")
    return model


def _limit(tokenizer: Any, encoder: Any) -> None:
    """Prompts are never longer than the text encoder reads, whatever a tokenizer's configuration leaves out."""
    tokenizer.model_max_length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def _check_tokenizers(place: Path, index: dict[str, Any]) -> None:
    """ModelError where a tokenizer lacks files: transformers would make an empty one without a word."""
    for name in (k for k in TOKENIZERS if index.get(k, [None])[0]):
        folder = place / name
        words = [["tokenizer.json"], ["vocab.json", "merges.txt"]]
        if not (folder / "tokenizer_config.json").is_file() or not any(
            all((folder / x).is_file() for x in group) for group in words
        ):
            raise ModelError(f"{folder} is incomplete: expected tokenizer_config.json, vocab.json and merges.txt")


def _index(place: Path) -> dict[str, Any]:
    from diffusers import DiffusionPipeline

    if not (place / INDEX).is_file():
        raise ModelError(f"model {place} has no {INDEX}: expected a diffusers folder with {PARTS}")
    index: dict[str, Any] = DiffusionPipeline.load_config(place)
    return index


def _family(index: dict[str, Any], source: str) -> tuple[Any, dict[str, Any]]:
    """The pipeline class for what an index lists, and what to leave out of it."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    parts = {k: v[1] for k, v in index.items() if isinstance(v, list) and len(v) == 2}
    texts = [parts[k] for k in TEXT_ENCODERS if parts.get(k)]
    if parts.get("unet") != "UNet2DConditionModel" or not texts or not set(texts) <= set(CLIP):
        raise ModelError(f"model {source} is a {index.get('_class_name')}: Livebrush paints with {KNOWN}")
    if parts.get("text_encoder_2"):
        return StableDiffusionXLPipeline, {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}
    left_out = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    return StableDiffusionPipeline, {**left_out, "requires_safety_checker": False}


def variant_in(place: Path, stem: str, wanted: str | None) -> str | None:
    """The kind of weight files `stem` to read from a network's folder: `wanted` where it is there, else what is."""
    for kind in (wanted, None, "fp16"):
        tail = f".{kind}" if kind else ""
        names = (f"{stem}{tail}.safetensors", f"{stem}.safetensors.index{tail}.json")
        if any((place / name).exists() for name in names):
            return kind
    return None


def read_vae(source: str) -> Any:
    """An autoencoder from a folder or the hub, whichever of diffusers' classes it is."""
    from diffusers import AutoModel

    place = locate(source, "vae")
    if isinstance(place, str):
        patterns = ("config.json", f"{WEIGHTS}.safetensors")
        place = fetch(Wanted(place, "vae", patterns, "vae = FOLDER in a .toml preset"))
    if place.is_file():
        raise ModelError(f"vae {source} is a single file: use a folder with config.json and {WEIGHTS}.safetensors")
    with reading(f"vae {source}", place):
        vae = AutoModel.from_pretrained(str(place), use_safetensors=True, local_files_only=True)
    check_whole(vae, f"vae {source}")
    return vae


# ------------------------------------------------------------------------------------------------- one file


def _single_file(place: Path, spec: ModelSpec, vae: dict[str, Any]) -> Any:
    config = _config_for(place, spec)
    index = _index(config)
    family, options = _family(index, spec.model)
    _check_tokenizers(config, index)
    return family.from_single_file(str(place), config=str(config), local_files_only=True, **options, **vae)


def _config_for(place: Path, spec: ModelSpec) -> Path:
    """The folder with the configuration of a single file's networks: named, beside the file, or on the hub."""
    beside = place.with_suffix("")
    if spec.config is None and (beside / INDEX).is_file():
        return beside
    wanted = spec.config or _original(place)
    found = locate(wanted, "config")
    if isinstance(found, Path):
        return found
    instead = f"config = FOLDER in a .toml preset, or name the folder {beside}"
    return fetch(Wanted(found, f"the configuration of {place.name}, from", ("*.json", "*/*.json", "*/*.txt"), instead))


def _original(place: Path) -> str:
    """The hub id whose configuration a checkpoint follows, by the names and shapes of its weights."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from safetensors import safe_open

    with safe_open(place, "pt") as file:
        shapes = {k: torch.empty(file.get_slice(k).get_shape(), device="meta") for k in file.keys()}  # noqa: SIM118
    if not any(k.startswith("model.diffusion_model.") for k in shapes):
        raise ModelError(f"model {place} holds no whole checkpoint: expected one of {KNOWN}; a LoRA goes under --lora")
    repo = str(fetch_diffusers_config(shapes)["pretrained_model_name_or_path"])
    if repo == "stabilityai/stable-diffusion-2-1":
        raise ModelError(
            f"model {place} is an SD 2.x checkpoint, and those do not say what they predict: put config = "
            '"stabilityai/sd-turbo" (epsilon), or a folder with the right configuration, into a .toml preset'
        )
    return repo


# ------------------------------------------------------------------------------------------------- the hub


def _fetch_model(repo: str, spec: ModelSpec) -> Path:
    """The folder in the hub cache with what is needed of a repository. Its kind is checked before the gigabytes."""
    from diffusers import DiffusionPipeline

    wanted = Wanted(repo, "model", (), "--model FOLDER", PARTS_XL)
    with fetching(wanted):
        index = snapshot(repo, (INDEX,))
    _, left_out = _family(_index(index), repo)
    skipped = {k: None for k, v in left_out.items() if v is None} | ({} if spec.vae is None else {"vae": None})
    with fetching(wanted):
        return Path(DiffusionPipeline.download(repo, variant=spec.variant, use_safetensors=True, **skipped))


@contextmanager
def reading(what: str, place: Path) -> Iterator[None]:
    """Turns what incomplete, damaged or foreign files make the loaders raise into a ModelError."""
    from diffusers.loaders.single_file_utils import SingleFileComponentError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, SingleFileComponentError) as error:
        raise ModelError(
            f"{what} cannot be read from {place}: {type(error).__name__}: {first_line(error)}\n"
            "a file is missing, cut short or of another model: fetch it again"
        ) from None


def check_whole(module: nn.Module, what: str) -> None:
    """ModelError where the files had no values for some of a network's weights."""
    missing = [n for n, p in [*module.named_parameters(), *module.named_buffers()] if p.is_meta]
    if missing:
        raise ModelError(f"{what} lacks {len(missing)} of its weights ({missing[0]}, ...): fetch its files again")
