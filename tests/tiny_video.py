"""Tiny random video models of every family as diffusers folders: their architecture, next to none of their size."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import tokenizers
import tokenizers.models
import tokenizers.pre_tokenizers
import torch
import transformers
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from safetensors.torch import save_file
from tiny import tokenizer

from stream.quiet import quiet

LETTERS = "abcdefghijklmnopqrstuvwxyz .,"
TEXT = 32  # width of the T5s


def save(name: str, folder: Path) -> Path:
    """The model called `name`, the same weights every time, as a diffusers folder."""
    torch.manual_seed(1)
    with quiet():
        made = MODELS[name]
        made = made(folder.parent) if signature(made).parameters.get("folder") else made()
        made.save_pretrained(folder)
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


# ------------------------------------------------------------------------------------------------- CogVideoX


def cogvideox(kind: Any = CogVideoXPipeline, later: bool = False) -> Any:
    channels = 32 if kind is CogVideoXImageToVideoPipeline else 16
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=16, layers_per_block=1, norm_num_groups=2,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        invert_scale_latents=later,
    )  # fmt: skip
    newer = {"patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 16 if channels == 32 else None}
    net = CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=channels, out_channels=16, time_embed_dim=16,
        text_embed_dim=TEXT, num_layers=2, sample_width=8, sample_height=8, sample_frames=9, max_text_seq_length=226,
        use_rotary_positional_embeddings=True, **(newer if later else {}),
    )  # fmt: skip
    scheduler = CogVideoXDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0)
    return kind(tokenizer=t5_words(), text_encoder=t5(), vae=vae, transformer=net, scheduler=scheduler)


# ------------------------------------------------------------------------------------------------- Mochi


def mochi() -> Any:
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4, latent_channels=12,
        layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    net = MochiTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16, in_channels=12,
        text_embed_dim=TEXT, time_embed_dim=8, max_sequence_length=256,
    )  # fmt: skip
    return MochiPipeline(scheduler=flow(), vae=vae, text_encoder=t5(), tokenizer=t5_words(), transformer=net)


# ------------------------------------------------------------------------------------------------- HunyuanVideo

SPECIAL = ("<pad>", "<unk>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|eot_id|>", "<image>", "<|im_start|>", "<|im_end|>")  # fmt: skip


def letters(template: str | None = None) -> Any:
    """A tokenizer that knows letters and the marks of chats."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({x: i for i, x in enumerate([*SPECIAL, *LETTERS])}, "<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL[2:])})
    fast.chat_template = template
    return fast


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaModel(config).eval()


def clip_words(folder: Path) -> dict[str, Any]:
    config = transformers.CLIPTextConfig(
        vocab_size=600, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=2
    )
    return {"tokenizer_2": tokenizer(folder / "clip"), "text_encoder_2": transformers.CLIPTextModel(config).eval()}


def hunyuan_vae() -> Any:
    return AutoencoderKLHunyuanVideo(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, latent_channels=4
    )


def hunyuan_net(kind: Any = HunyuanVideoTransformer3DModel, channels: int = 4, **more: Any) -> Any:
    return kind(
        in_channels=channels, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
        **more,
    )  # fmt: skip


def hunyuan_parts(folder: Path) -> dict[str, Any]:
    parts = {"text_encoder": llama(), "tokenizer": letters(), "scheduler": flow(shift=7.0), "vae": hunyuan_vae()}
    return parts | clip_words(folder)


def hunyuan(folder: Path) -> Any:
    return HunyuanVideoPipeline(**hunyuan_parts(folder), transformer=hunyuan_net())


def hunyuan_i2v(folder: Path, kind: str = "latent_concat") -> Any:
    words = letters()
    text = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2, pad_token_id=0,
    )  # fmt: skip
    seen = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=336, patch_size=14,
        projection_dim=16,
    )  # fmt: skip
    llava = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=seen, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"),
            pad_token_id=0,
        )
    )  # fmt: skip
    channels = 9 if kind == "latent_concat" else 4
    parts = hunyuan_parts(folder) | {"text_encoder": llava.eval(), "tokenizer": words}
    pictures = transformers.CLIPImageProcessor(size=336, crop_size=336)
    return HunyuanVideoImageToVideoPipeline(
        **parts, image_processor=pictures, transformer=hunyuan_net(channels=channels, image_condition_type=kind)
    )


def siglip() -> dict[str, Any]:
    config = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
    )  # fmt: skip
    seen = transformers.SiglipVisionModel(config).eval()
    return {
        "image_encoder": seen,
        "feature_extractor": transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
    }


def framepack(folder: Path) -> Any:
    net = hunyuan_net(
        HunyuanVideoFramepackTransformer3DModel, has_image_proj=True, image_proj_dim=16, has_clean_x_embedder=True
    )
    return HunyuanVideoFramepackPipeline(**hunyuan_parts(folder), **siglip(), transformer=net)


# ------------------------------------------------------------------------------------------------- HunyuanVideo 1.5

CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ m['content'] }}<|im_end|>{% endfor %}"


def hunyuan15(picture: bool = False) -> Any:
    text = transformers.Qwen2_5_VLTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}, pad_token_id=0,
    )  # fmt: skip
    glyphs = transformers.T5Config(vocab_size=384, d_model=TEXT, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(16, 16, 16, 16, 16), layers_per_block=1)
    net = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_refiner_layers=1,
        text_embed_dim=16, text_embed_2_dim=TEXT, image_embed_dim=16, rope_axes_dim=(2, 4, 4), target_size=64,
        task_type="i2v" if picture else "t2v",
    )  # fmt: skip
    parts = {
        "text_encoder": transformers.Qwen2_5_VLTextModel(text).eval(), "tokenizer": letters(CHAT), "transformer": net,
        "vae": vae, "scheduler": flow(shift=7.0), "text_encoder_2": transformers.T5EncoderModel(glyphs).eval(),
        "tokenizer_2": transformers.ByT5Tokenizer(), "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }  # fmt: skip
    return HunyuanVideo15ImageToVideoPipeline(**parts, **siglip()) if picture else HunyuanVideo15Pipeline(**parts)


# ------------------------------------------------------------------------------------------------- LTX-2


def gemma() -> Any:
    text = transformers.Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    seen = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8,
    )  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=seen, mm_tokens_per_image=4)
    return transformers.Gemma3ForConditionalGeneration(config).eval()


def ltx2() -> Any:
    vae = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1), spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )  # fmt: skip
    heard = AutoencoderKLLTX2Audio(base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=2, mel_bins=16)
    net = LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        audio_in_channels=8, audio_out_channels=8, audio_num_attention_heads=2, audio_attention_head_dim=4,
        audio_cross_attention_dim=8, num_layers=2, caption_channels=16, rope_double_precision=False,
    )  # fmt: skip
    joined = LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=3, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8, video_connector_num_layers=1, audio_connector_num_attention_heads=2,
        video_connector_num_learnable_registers=None, audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1, audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32,
        rope_double_precision=False,
    )  # fmt: skip
    voice = LTX2Vocoder(
        in_channels=32, hidden_channels=16, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
    )  # fmt: skip
    return LTX2Pipeline(
        scheduler=flow(use_dynamic_shifting=True, shift_terminal=0.1, max_image_seq_len=4096), vae=vae, audio_vae=heard,
        text_encoder=gemma(), tokenizer=letters(), connectors=joined, transformer=net, vocoder=voice,
    )  # fmt: skip


MODELS = {
    "cogvideox": cogvideox, "cogvideox-i2v": lambda: cogvideox(CogVideoXImageToVideoPipeline),
    "cogvideox15": lambda: cogvideox(later=True),
    "cogvideox15-i2v": lambda: cogvideox(CogVideoXImageToVideoPipeline, later=True),
    "framepack": framepack, "hunyuan": hunyuan, "hunyuan-i2v": hunyuan_i2v,
    "hunyuan-i2v-later": lambda folder: hunyuan_i2v(folder, "token_replace"),
    "hunyuan15": hunyuan15, "hunyuan15-i2v": lambda: hunyuan15(picture=True),
    "ltx": ltx, "ltx-0.9.5": lambda: ltx(later=True), "ltx2": ltx2, "mochi": mochi, "svd": svd,
    "wan": wan, "wan-flf": wan_flf, "wan-i2v": wan_i2v, "wan-vace": wan_vace,
    "wan22": wan22, "wan22-5b": wan22_5b, "wan22-i2v": wan22_i2v,
}  # fmt: skip
