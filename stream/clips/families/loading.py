"""Loads a video pipeline of diffusers: whole, quantised, with its LoRAs, and placed where it fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stream.clips.families import ready
from stream.clips.families.asked import Job
from stream.config import Lora
from stream.errors import ClipError, ModelError
from stream.hub import Wanted, fetch, fetching, first_line
from stream.lora import find
from stream.quiet import quiet
from stream.weights import check_whole, reading

if TYPE_CHECKING:
    from stream.clips.families.diffusers_common import Way

DENOISERS = ("transformer", "transformer_2", "unet")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
THRESHOLD = 0.1  # of the first-block cache: the share of change below which the other blocks are not run again


def read(way: Way, source: str, job: Job, usual: str, vae: str | None) -> Any:
    """The pipeline for a job, on the CPU or where its quantisation put it. ModelError or ClipError."""
    import diffusers

    place = _place(source)
    _fits(place, way.pipeline, way.accepts)
    kind = getattr(diffusers, way.pipeline)
    dtype = dtype_of(job, usual)
    dtypes: Any = {"default": dtype, "vae": DTYPES[vae]} if vae else dtype
    with quiet(), reading(f"model {source}", place):
        parts = _texts(place, dtype) | _elsewhere(way, place, job, dtype) | _gguf(place, job, dtype)
        options = quantised(job, place, dtype)
        pipeline = kind.from_pretrained(
            str(place), torch_dtype=dtypes, local_files_only=True, use_safetensors=True, **parts, **options
        )
    for part, module in pipeline.components.items():
        if isinstance(module, nn.Module):
            check_whole(module, f"{part} of model {source}")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def dtype_of(job: Job, usual: str) -> torch.dtype:
    """What the networks compute in: as asked, else the family's usual on a card, and float32 without one."""
    name = job.option("dtype", usual if torch.cuda.is_available() else "float32")
    if name not in DTYPES:
        raise ClipError(f"option dtype is {name!r}: use {', '.join(DTYPES)}")
    return DTYPES[name]


def _place(source: str) -> Path:
    """The folder of a model, fetched where it is not there yet."""
    from diffusers import DiffusionPipeline

    found = ready.folder_of(source)
    if found is None and source.count("/") != 1:
        raise ModelError(f"model {source} is not there: check the path, or use a hub id (owner/name)")
    if found is None or ready.incomplete(found) is not None:
        if Path(source).expanduser().exists():
            raise ModelError(
                f"model {source} lacks {ready.incomplete(Path(source).expanduser())}: fetch its files again"
            )
        with fetching(Wanted(source, "model", (), "model = FOLDER in the timeline", "all files")), quiet():
            found = Path(DiffusionPipeline.download(source, use_safetensors=True))
    return found


def _fits(place: Path, name: str, accepts: tuple[str, ...]) -> None:
    """ModelError where the folder holds the weights of another kind of pipeline."""
    held = ready.pipeline_in(str(place))
    if held not in {name, *accepts}:
        raise ModelError(
            f"model {place} is a {held}, and this clip needs {' or '.join(sorted({name, *accepts}))}: "
            "choose the model for this kind of input, or another back end"
        )


def _texts(place: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The networks that transformers reads, each with every weight from its files: it would draw a missing one."""
    import transformers

    index = json.loads((place / ready.INDEX).read_text(encoding="utf-8"))
    parts = {}
    for name, part in index.items():
        if isinstance(part, list) and part[0] == "transformers" and (place / name / "config.json").is_file():
            parts[name] = _whole(getattr(transformers, part[1]), place / name, dtype)
    return parts


def _whole(kind: Any, place: Path, dtype: torch.dtype) -> Any:
    model, info = kind.from_pretrained(
        place, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if lost := sorted(info["missing_keys"]):
        raise ModelError(f"{place} lacks {len(lost)} of its weights ({lost[0]}, ...): fetch its files again")
    return model.eval()


def _elsewhere(way: Way, place: Path, job: Job, dtype: torch.dtype) -> dict[str, Any]:
    """The components that the model's folder does not have, from where they are."""
    if ready.pipeline_in(str(place)) == way.pipeline:
        return {}
    made = {}
    for name, part in way.parts.items():
        kind = getattr(import_module(part.library), part.kind)
        folder = part.place(job.timeline.options)
        if folder is None:
            source, pattern = job.option(part.option, part.source), f"{part.folder}/*" if part.folder else "*"
            folder = fetch(Wanted(source, name, (pattern,), f"option {part.option} = FOLDER")) / part.folder
        if part.library == "diffusers":
            wanted = job.timeline.memory.quantise
            options = {"quantization_config": _config(wanted, dtype)} if wanted and wanted != "gguf" else {}
            made[name] = kind.from_pretrained(folder, torch_dtype=dtype, local_files_only=True, **options)
        elif part.kind.endswith("Model"):
            made[name] = _whole(kind, folder, dtype)
        else:
            made[name] = kind.from_pretrained(folder, local_files_only=True)
    return made


# ------------------------------------------------------------------------------------------------- quantisation


def quantised(job: Job, place: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The argument of `from_pretrained` that quantises the denoisers, or none."""
    from diffusers import PipelineQuantizationConfig

    wanted = job.timeline.memory.quantise
    if wanted is None or wanted == "gguf":
        return {}
    names = [x for x in DENOISERS if (place / x).is_dir()]
    return {
        "quantization_config": PipelineQuantizationConfig(quant_mapping=dict.fromkeys(names, _config(wanted, dtype)))
    }


def _config(wanted: str, dtype: torch.dtype) -> Any:
    from diffusers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

    if wanted.startswith("bnb-") and not torch.cuda.is_available():
        raise ClipError(
            f"quantise {wanted!r} needs a CUDA card, and there is none: use quanto-int8, torchao-int8 or gguf"
        )
    if wanted == "bnb-int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if wanted == "bnb-nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if wanted == "quanto-int8":
        return QuantoConfig(weights_dtype="int8")
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _gguf(place: Path, job: Job, dtype: torch.dtype) -> dict[str, Any]:
    """The denoisers from single GGUF files, with the configuration that lies in the model's folder."""
    import diffusers

    if job.timeline.memory.quantise != "gguf":
        return {}
    parts = {}
    for option, name in (("gguf", "transformer"), ("gguf_2", "transformer_2")):
        file = job.option(option, "")
        if not file and not (place / name).is_dir():
            continue
        if not Path(file).expanduser().is_file():
            raise ClipError(f"option {option} is {file!r}: give the .gguf file with the weights of the {name}")
        kind = getattr(diffusers, json.loads((place / name / "config.json").read_text(encoding="utf-8"))["_class_name"])
        config = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
        parts[name] = kind.from_single_file(
            str(Path(file).expanduser()), quantization_config=config, config=str(place), subfolder=name,
            torch_dtype=dtype, local_files_only=True,
        )  # fmt: skip
    return parts


# ------------------------------------------------------------------------------------------------- LoRAs


def add_loras(pipeline: Any, loras: tuple[Lora, ...], into_second: tuple[Lora, ...] = ()) -> None:
    """Adds LoRAs at their strengths. ModelError where one does not fit."""
    for part, group in (("", loras), ("_2", into_second)):
        names = []
        for number, lora in enumerate(group):
            file = find(lora.source)
            names.append(f"lora{part}_{number}")
            _add(pipeline, file, names[-1], {"load_into_transformer_2": True} if part else {})
        if names:
            target = pipeline.transformer_2 if part else pipeline.transformer
            target.set_adapters(names, [x.strength for x in group])


def _add(pipeline: Any, file: Path, name: str, where: dict[str, bool]) -> None:
    try:
        with quiet():
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name, **where)
    except (ValueError, KeyError, RuntimeError, IndexError) as error:
        raise ModelError(f"lora {file} does not fit this model ({first_line(error)}): use one made for it") from None
    held = {x for names in pipeline.get_list_adapters().values() for x in names}
    if name not in held:
        raise ModelError(f"lora {file} has no weight for this model: use one made for it")


# ------------------------------------------------------------------------------------------------- where it runs


def place(pipeline: Any, job: Job, tell: Callable[[str], Any]) -> None:
    """Puts the pipeline where it runs: on the card, or offloaded; with tiling and caches as asked for."""
    memory, card = job.timeline.memory, torch.cuda.is_available()
    if memory.tiling:
        pipeline.vae.enable_tiling()
        if hasattr(pipeline.vae, "use_slicing"):
            pipeline.vae.enable_slicing()
    if memory.cache == "first-block":
        _cache(pipeline)
    device = torch.device("cuda" if card else "cpu")
    if memory.offload in ("model", "sequential") and not card:
        raise ClipError(f"offload {memory.offload!r} moves weights between memory and a CUDA card, and there is none")
    tell(f"runs on {device}" + ("" if memory.offload == "none" else f", {memory.offload} offload"))
    if memory.offload == "group":
        pipeline.enable_group_offload(onload_device=device, offload_type="block_level", num_blocks_per_group=1)
    elif memory.offload == "model":
        pipeline.enable_model_cpu_offload()
    elif memory.offload == "sequential":
        pipeline.enable_sequential_cpu_offload()
    elif card:
        pipeline.to(device)


def _cache(pipeline: Any) -> None:
    from diffusers import FirstBlockCacheConfig

    for name in DENOISERS:
        if (module := getattr(pipeline, name, None)) is not None:
            module.enable_cache(FirstBlockCacheConfig(threshold=THRESHOLD))
