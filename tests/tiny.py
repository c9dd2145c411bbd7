"""Tiny random pipelines of every architecture, saved as diffusers folders or single files, and LoRAs for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

CONTEXT = 16  # tokens of a prompt, start and end included
WIDTHS = {"sd15": 32, "sd2": 48, "sd-turbo": 48}
LORA_LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of single characters."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(x + "</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    ends |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT, **ends}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(ends))
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder(words: CLIPTokenizer, width: int, pooled: bool = False) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=CONTEXT, projection_dim=width,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if pooled else CLIPTextModel(config)


def unet(width: int, **more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width, attention_head_dim=4, norm_num_groups=8, **more,
    )  # fmt: skip


def full_vae(**more: object) -> AutoencoderKL:
    """Factor 8, as the real ones."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=8,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4, **more,
    )  # fmt: skip


def small_vae(stages: int = 4) -> AutoencoderTiny:
    """TAESD's kind; its factor is 2 ** (stages - 1)."""
    torch.manual_seed(2)
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * stages, decoder_block_out_channels=(8,) * stages,
        num_encoder_blocks=(1,) * stages, num_decoder_blocks=(1,) * stages,
    )  # fmt: skip


def scheduler(kind: str) -> DDIMScheduler | EulerDiscreteScheduler:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if kind in ("sd-turbo", "sdxl"):
        return EulerDiscreteScheduler(**betas, timestep_spacing="trailing", steps_offset=1)
    kind = "v_prediction" if kind == "sd2" else "epsilon"
    return DDIMScheduler(**betas, clip_sample=False, steps_offset=1, prediction_type=kind)


def pipeline(kind: str, folder: Path) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """A pipeline of `sd15`, `sd2` (v-prediction), `sd-turbo` or `sdxl`, the same random weights every time."""
    torch.manual_seed(1)
    words = tokenizer(folder / "words")
    if kind == "sdxl":
        more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "use_linear_projection": True}
        return StableDiffusionXLPipeline(
            full_vae(scaling_factor=0.13025, force_upcast=True), text_encoder(words, 32),
            text_encoder(words, 64, pooled=True), words, words,
            unet(96, projection_class_embeddings_input_dim=6 * 8 + 64, **more), scheduler(kind), add_watermarker=False,
        )  # fmt: skip
    linear = kind != "sd15"
    return StableDiffusionPipeline(
        full_vae(), text_encoder(words, WIDTHS[kind]), words, unet(WIDTHS[kind], use_linear_projection=linear),
        scheduler(kind), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def save(kind: str, folder: Path) -> Path:
    """A pipeline as a diffusers folder."""
    pipeline(kind, folder.parent).save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------------- LoRAs


def lora_weights(width: int = 16, rank: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """`down` (rank, width) and `up` (width, rank) for LORA_LAYER."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(rank, width, generator=generator), torch.randn(width, rank, generator=generator)


def save_lora(file: Path, kohya: bool = False, width: int = 16) -> Path:
    """A LoRA on one layer, in diffusers' or in kohya's format; both mean W + strength * up @ down."""
    down, up = lora_weights(width)
    if kohya:
        name = "lora_unet_" + LORA_LAYER.replace(".", "_")
        weights = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        weights[f"{name}.alpha"] = torch.tensor(float(len(down)))
    else:
        weights = {f"unet.{LORA_LAYER}.lora_A.weight": down, f"unet.{LORA_LAYER}.lora_B.weight": up}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    return file


CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "text_model.encoder.layers.0.self_attn."


def save_wide_lora(kind: str, file: Path, kohya: bool = False, seed: int = 1, size: float = 0.3) -> Path:
    """A LoRA on an attention and a convolution of the UNet and on each text encoder; kohya's alpha is half its rank."""
    made, rank = torch.Generator().manual_seed(seed), 2
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        f"unet.{LORA_LAYER}": ((rank, 16), (16, rank)), f"unet.{CONV}": ((rank, 16, 3, 3), (16, rank, 1, 1)),
    }  # fmt: skip
    widths = [32, 64] if kind == "sdxl" else [WIDTHS[kind]]
    for part, width in zip(("text_encoder", "text_encoder_2"), widths, strict=False):
        shapes |= {f"{part}.{TEXT}{layer}": ((rank, width), (width, rank)) for layer in ("q_proj", "out_proj")}
    weights = {}
    for name, (down, up) in shapes.items():
        base = _kohya(name, kind) if kohya else name
        ends = (".lora_down.weight", ".lora_up.weight") if kohya else (".lora_A.weight", ".lora_B.weight")
        for end, shape in zip(ends, (down, up), strict=True):
            weights[base + end] = torch.randn(shape, generator=made) * size
        if kohya:
            weights[f"{base}.alpha"] = torch.tensor(rank / 2)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    return file


def _kohya(name: str, kind: str) -> str:
    part, _, rest = name.partition(".")
    short = {"unet": "unet", "text_encoder": "te1" if kind == "sdxl" else "te", "text_encoder_2": "te2"}[part]
    return f"lora_{short}_{rest.replace('.', '_')}"


# ------------------------------------------------------------------------------------------------- one file

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
TOP = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
       "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
       "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}  # fmt: skip
VAE = {"down_blocks": "down", "up_blocks": "up", "resnets": "block", "conv_shortcut": "nin_shortcut",
       "mid_block.block.0": "mid.block_1", "mid_block.block.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1",
       "downsamplers.0": "downsample", "upsamplers.0": "upsample", "conv_norm_out": "norm_out", "group_norm": "norm",
       "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}  # fmt: skip
OPEN_CLIP = {"encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn",
             "final_layer_norm": "ln_final", "embeddings.token_embedding": "token_embedding"}  # fmt: skip


def save_single(kind: str, file: Path) -> Path:
    """A pipeline (`sd15` or `sdxl`) as one .safetensors file under the names of the original code."""
    made = pipeline(kind, file.parent)
    weights = {f"model.diffusion_model.{_unet_name(k)}": v for k, v in made.unet.state_dict().items()}
    weights |= {f"first_stage_model.{_vae_name(k)}": v for k, v in made.vae.state_dict().items()}
    first = "conditioner.embedders.0.transformer." if kind == "sdxl" else "cond_stage_model.transformer."
    clip = {k.removeprefix("text_model."): v for k, v in made.text_encoder.state_dict().items()}
    weights |= {f"{first}text_model.{k}": v for k, v in clip.items()}
    if kind == "sdxl":
        second = _open_clip(made.text_encoder_2.state_dict())
        weights |= {f"conditioner.embedders.1.model.{k}": v for k, v in second.items()}
    save_file({k: v.contiguous().clone() for k, v in weights.items()}, file)
    return file


def _replaced(name: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        name = name.replace(new, old)
    return name


def _unet_name(name: str, layers: int = 1) -> str:
    """The original name of a UNet's weight, for a UNet of `layers` layers a block."""
    for new, old in TOP.items():
        if name.startswith(new + "."):
            return name.replace(new, old, 1)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        part, i, rest = found.groups()
        return f"middle_block.{2 * int(i) if part == 'resnets' else 1}." + _inner(part, rest)
    side, block, part, layer, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name).groups()
    if side == "down":
        at = 1 + int(block) * (layers + 1) + (layers if part == "downsamplers" else int(layer))
        rest = rest.replace("conv.", "op.") if part == "downsamplers" else _inner(part, rest)
        return f"input_blocks.{at}.{int(part == 'attentions')}.{rest}"
    at = int(block) * (layers + 1) + (layers if part == "upsamplers" else int(layer))
    place = {"resnets": 0, "attentions": 1, "upsamplers": 1 if block == "0" else 2}[part]
    return f"output_blocks.{at}.{place}.{_inner(part, rest)}"


def _inner(part: str, rest: str) -> str:
    return _replaced(rest, RESNET) if part == "resnets" else rest


def _vae_name(name: str, stages: int = 4) -> str:
    name = _replaced(name, VAE)
    return re.sub(r"\bup\.(\d)", lambda m: f"up.{stages - 1 - int(m[1])}", name)


def _open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP's names: queries, keys and values in one matrix, the projection transposed."""
    out = {}
    for name, value in state.items():
        short = name.removeprefix("text_model.")
        if "self_attn" in short and ".out_proj" not in short:
            if "q_proj" in short:
                joined = torch.cat([state[name.replace("q_proj", x)] for x in ("q_proj", "k_proj", "v_proj")])
                out[_replaced(short, OPEN_CLIP).replace("q_proj.", "in_proj_")] = joined
        elif short == "embeddings.position_embedding.weight":
            out["positional_embedding"] = value
        elif short == "text_projection.weight":
            out["text_projection"] = value.T
        elif "position_ids" not in short:
            out[_replaced(short, OPEN_CLIP)] = value
    return out
