"""The shapes of the built-in model's networks, and the folder that they are shipped in."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def make_vae(seed: int) -> AutoencoderTiny:
    """Factor 4, four channels, 0.3 M parameters. The last convolution is pointwise (its kernel is zero off its
    centre), so that the engines can fold the decoder's tail into one cheap convolution, exactly."""
    torch.manual_seed(seed)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32), decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 1, 2), num_decoder_blocks=(3, 2, 0), latent_channels=4,
    )  # fmt: skip
    for name, conv in vae.named_modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            conv.weight.data *= 0.4 if name.endswith("conv.4") else 1.0
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
    vae.decoder.layers[-1].weight.data.mul_(9**0.5 * 0.3)
    keep_pointwise(vae)
    return vae


@torch.no_grad()
def keep_pointwise(vae: AutoencoderTiny) -> None:
    """Zeroes the last convolution off its centre; called after every step of training."""
    weight = vae.decoder.layers[-1].weight
    centre = weight[:, :, 1, 1].clone()
    weight.zero_()
    weight[:, :, 1, 1] = centre


def make_unet(seed: int) -> UNet2DConditionModel:
    """4 M parameters, v-prediction. The prompt's pooled words scale and shift every block, fine ones too; single words
    are looked at in the middle, on cells of 32 pixels. (With cross-attention alone, in the two coarsest levels, the
    fine blocks hardly knew the prompt: outlines were not learnt, and a frame took half as long again.)"""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64, 96, 128),
        down_block_types=("DownBlock2D",) * 4, mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D",) * 4, cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
        use_linear_projection=True, resnet_time_scale_shift="scale_shift", addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )  # fmt: skip


def make_text_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_scheduler() -> LCMScheduler:
    return LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip


def save(folder: Path, vae: AutoencoderTiny, unet: UNet2DConditionModel, text: CLIPTextModel,
         tokenizer: CLIPTokenizer) -> None:  # fmt: skip
    """Writes the model as a diffusers folder in half precision; the networks are spent."""
    pipeline = StableDiffusionPipeline(
        vae=vae.half(), unet=unet.half(), text_encoder=text.half(), tokenizer=tokenizer, scheduler=make_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
