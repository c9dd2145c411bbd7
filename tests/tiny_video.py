"""Tiny random video models of every family as diffusers folders: their architecture, next to none of their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import (
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from safetensors.torch import save_file

from stream.quiet import quiet

LETTERS = "abcdefghijklmnopqrstuvwxyz .,"
TEXT = 32  # width of the T5s


def save(name: str, folder: Path) -> Path:
    """The model called `name`, the same weights every time, as a diffusers folder."""
    torch.manual_seed(1)
    with quiet():
        MODELS[name]().save_pretrained(folder)
    return folder


def save_lora(file: Path, layer: str, width: int, prefix: str = "transformer") -> Path:
    """A LoRA of rank 2 on one square layer."""
    made = torch.Generator().manual_seed(3)
    base = f"{prefix}.{layer}"
    weights = {f"{base}.lora_A.weight": torch.randn(2, width, generator=made)}
    weights[f"{base}.lora_B.weight"] = torch.randn(width, 2, generator=made)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    return file


# ------------------------------------------------------------------------------------------------- text and vision


def t5_words() -> Any:
    pieces = ["<pad>", "</s>", "<unk>", *(x.replace(" ", "▁") for x in LETTERS)]
    return transformers.T5Tokenizer(vocab=[(x, -1.0) for x in pieces])


def t5(kind: str = "T5EncoderModel") -> Any:
    config = {"vocab_size": 128, "d_model": TEXT, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    made = transformers.UMT5Config if kind.startswith("UMT5") else transformers.T5Config
    return getattr(transformers, kind)(made(**config)).eval()


def clip_vision(projection: bool = False, side: int = 32) -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=side,
        patch_size=side // 2, projection_dim=16,
    )  # fmt: skip
    kind = transformers.CLIPVisionModelWithProjection if projection else transformers.CLIPVisionModel
    return kind(config).eval()


def clip_pictures() -> Any:
    return transformers.CLIPImageProcessor(size=32, crop_size=32)


def flow(**more: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**more)


# ------------------------------------------------------------------------------------------------- Wan


def wan_vae(**more: Any) -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **more)


def wan_net(channels: int = 16, out: int = 16, kind: Any = WanTransformer3DModel, **more: Any) -> Any:
    return kind(
        num_attention_heads=2, attention_head_dim=12, in_channels=channels, out_channels=out, text_dim=TEXT,
        freq_dim=16, ffn_dim=16, num_layers=2, rope_max_seq_len=32, **more,
    )  # fmt: skip


def wan_parts(shift: float = 3.0) -> dict[str, Any]:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    return {"tokenizer": t5_words(), "text_encoder": t5("UMT5EncoderModel"), "scheduler": scheduler}


def wan() -> Any:
    return WanPipeline(**wan_parts(), vae=wan_vae(), transformer=wan_net())


def wan_i2v() -> Any:
    net = wan_net(36, image_dim=16, added_kv_proj_dim=24)
    eyes = {"image_encoder": clip_vision(), "image_processor": clip_pictures()}
    return WanImageToVideoPipeline(**wan_parts(), **eyes, vae=wan_vae(), transformer=net)


def wan_flf() -> Any:
    net = wan_net(36, image_dim=16, added_kv_proj_dim=24, pos_embed_seq_len=2 * 5)
    eyes = {"image_encoder": clip_vision(), "image_processor": clip_pictures()}
    return WanImageToVideoPipeline(**wan_parts(), **eyes, vae=wan_vae(), transformer=net)


def wan_vace() -> Any:
    net = wan_net(kind=WanVACETransformer3DModel, vace_layers=[0, 1], vace_in_channels=96)
    return WanVACEPipeline(**wan_parts(), vae=wan_vae(), transformer=net)


def wan22() -> Any:
    return WanPipeline(
        **wan_parts(), vae=wan_vae(), transformer=wan_net(), transformer_2=wan_net(), boundary_ratio=0.875
    )


def wan22_i2v() -> Any:
    return WanImageToVideoPipeline(
        **wan_parts(), vae=wan_vae(), transformer=wan_net(36), transformer_2=wan_net(36), boundary_ratio=0.9
    )


def wan22_5b() -> Any:
    vae = wan_vae(
        z_dim=48, is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16,
        decoder_base_dim=4, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
    )  # fmt: skip
    return WanPipeline(**wan_parts(5.0), vae=vae, transformer=wan_net(48, 48), expand_timesteps=True)


# ------------------------------------------------------------------------------------------------- LTX-Video


def ltx(later: bool = False) -> Any:
    """0.9, or 0.9.5, whose decoder is told the time and whose schedule does not shift."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), timestep_conditioning=later,
    )  # fmt: skip
    net = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
        num_layers=2, caption_channels=TEXT,
    )  # fmt: skip
    scheduler = flow(use_dynamic_shifting=not later, shift_terminal=0.1, max_image_seq_len=4096)
    kind = LTXConditionPipeline if later else LTXPipeline
    return kind(scheduler=scheduler, vae=vae, text_encoder=t5(), tokenizer=t5_words(), transformer=net)


# ------------------------------------------------------------------------------------------------- SVD


def svd() -> Any:
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4
    )
    unet = UNetSpatioTemporalConditionModel(
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), block_out_channels=(32, 32),
        layers_per_block=1, cross_attention_dim=16, num_attention_heads=2, addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=48, num_frames=14,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction",
        sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading", timestep_type="continuous", steps_offset=1,
        use_karras_sigmas=True,
    )  # fmt: skip
    return StableVideoDiffusionPipeline(
        vae=vae, image_encoder=clip_vision(projection=True, side=224), unet=unet, scheduler=scheduler,
        feature_extractor=clip_pictures(),
    )  # fmt: skip


MODELS = {
    "wan": wan, "wan-i2v": wan_i2v, "wan-flf": wan_flf, "wan-vace": wan_vace, "wan22": wan22, "wan22-i2v": wan22_i2v,
    "wan22-5b": wan22_5b, "ltx": ltx, "ltx-0.9.5": lambda: ltx(later=True), "svd": svd,
}  # fmt: skip
