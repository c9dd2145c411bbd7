"""Stable Video Diffusion and XT (https://stability.ai): a picture that begins to move."""

from __future__ import annotations

from typing import Any

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job
from stream.clips.families.diffusers_common import DTYPE, LEFT_OUT, OFFLOAD, QUANTISE, Family, Way, once
from stream.clips.families.inputs import first

SOURCE = "stabilityai/stable-video-diffusion-img2vid-xt"
OPTIONS = {
    "motion_bucket_id": "how much moves, 1 to 255 (default 127)",
    "noise_aug_strength": "how far it may leave the picture (default 0.02)",
    "decode_chunk_size": "frames that are decoded at a time (default 8)",
}


def _picture(job: Job) -> dict[str, Any]:
    left_out = dict.fromkeys(("prompt", "negative_prompt", "guidance_scale"), LEFT_OUT)
    return left_out | {
        "image": first(job), "fps": round(job.fps), "max_guidance_scale": job.guidance,
    }  # fmt: skip


def _options(job: Job) -> dict[str, Any]:
    return {
        "motion_bucket_id": job.option("motion_bucket_id", 127),
        "noise_aug_strength": job.option("noise_aug_strength", 0.02),
        "decode_chunk_size": job.option("decode_chunk_size", 8),
    }


BACKEND = Family(
    facts=Facts(
        name="svd", title="Stable Video Diffusion XT", modes=("i2v",), rule=FrameRule(most=25, least=2), multiple=64,
        size=(1024, 576), fps=7, steps=25, guidance_scale=3.0, memory="not stated",
        licence="Stability AI non-commercial", source=SOURCE, accept="svd",
        quantise=tuple(q for q in QUANTISE if q != "gguf"), offload=OFFLOAD,
        options=DTYPE | OPTIONS,
    ),
    ways={
        "i2v": Way(
            pipeline="StableVideoDiffusionPipeline", source=SOURCE, calls=once, arguments=_picture, options=_options,
            notes=lambda job: ("SVD moves the picture by itself: the prompt is left out",) if job.prompt else (),
        )
    },
    layout="bfchw", spatial=8, temporal=1, gigabytes=10, dtype="float16", tiling=False,
)  # fmt: skip
