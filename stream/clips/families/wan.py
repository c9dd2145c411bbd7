"""Wan 2.1 and 2.2 (https://github.com/Wan-Video): text, a picture, first and last picture, a video, VACE."""

from __future__ import annotations

from typing import Any

import PIL.Image

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job, whole
from stream.clips.families.diffusers_common import (
    GGUF,
    LEFT_OUT,
    OFFLOAD,
    QUANTISE,
    Family,
    Way,
    shortened,
    strength,
)
from stream.clips.families.inputs import first, given, keyframe, picture, video
from stream.errors import ClipError

RULE = FrameRule(4, 1, 81)
LICENCE = "Apache-2.0"
GREY = (128, 128, 128)  # a frame that VACE is to make up


def _picture(job: Job) -> dict[str, Any]:
    return {"image": first(job)}


def _ends(job: Job) -> dict[str, Any]:
    return {"image": first(job), "last_image": keyframe(job, job.frames - 1)}


def _both_ends(job: Job) -> None:
    whole(job)
    if [k.frame for k in job.keyframes] != [0, job.frames - 1]:
        raise ClipError(
            f"backend {job.timeline.backend} takes pictures for the first and the last frame (0 and "
            f"{job.timeline.frames - 1}), got {[k.frame for k in job.timeline.keyframes]}: use ltx or vace for others"
        )


def _video(job: Job) -> dict[str, Any]:
    return {"video": given(job), "num_frames": LEFT_OUT, "strength": strength(job)}


def _twice(job: Job) -> int:
    return shortened(job) * (2 if job.guided else 1)


def _controlled(job: Job) -> dict[str, Any]:
    """VACE: a control video, or pictures at frames with grey between them, masked white where it may paint."""
    control = job.timeline.control
    assert control is not None
    size = (job.width, job.height)
    if control.input is not None:
        frames, masks = video(control.input, job, job.frames), None
    else:
        held = {k.frame: picture(k.image, job) for k in control.keyframes}
        frames = [held.get(i) or PIL.Image.new("RGB", size, GREY) for i in range(job.frames)]
        masks = [PIL.Image.new("L", size, 0 if i in held else 255) for i in range(job.frames)]
    reference = job.timeline.input
    return {
        "video": frames, "mask": masks, "conditioning_scale": control.scale,
        "reference_images": None if reference is None else [picture(reference, job)],
    }  # fmt: skip


def _control_is_vace(job: Job) -> None:
    control = job.timeline.control
    assert control is not None
    if control.model != "vace":
        raise ClipError(f'backend wan has the control model "vace", got {control.model!r}')
    if (control.input is None) == (not control.keyframes):
        raise ClipError("the control of backend wan takes an input video or keyframes: give one of them")
    if strange := [k.frame for k in control.keyframes if k.frame >= job.frames]:
        raise ClipError(f"keyframe {strange[0]} of the control is not in the clip: it has {job.frames} frames")


def _second_guidance(job: Job) -> dict[str, Any]:
    return {"guidance_scale_2": float(job.option("guidance_scale_2", 3.0))}


BACKEND = Family(
    facts=Facts(
        name="wan", title="Wan 2.1", modes=("t2v", "i2v", "keyframes", "v2v", "control"), rule=RULE, multiple=16,
        size=(832, 480), fps=16, steps=50, guidance_scale=5.0, memory="~13 GB (1.3B)", licence=LICENCE,
        source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", lora=True, quantise=QUANTISE, offload=OFFLOAD, cache=True,
        options=GGUF,
    ),
    ways={
        "t2v": Way(pipeline="WanPipeline", source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", arguments=lambda _job: {}),
        "i2v": Way(
            pipeline="WanImageToVideoPipeline", source="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", arguments=_picture
        ),
        "keyframes": Way(
            pipeline="WanImageToVideoPipeline", source="Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers", arguments=_ends,
            check=_both_ends,
        ),
        "v2v": Way(
            pipeline="WanVideoToVideoPipeline", source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", accepts=("WanPipeline",),
            arguments=_video, steps=shortened, calls=_twice,
        ),
        "control": Way(
            pipeline="WanVACEPipeline", source="Wan-AI/Wan2.1-VACE-1.3B-diffusers", arguments=_controlled,
            check=_control_is_vace,
        ),
    },
    layout="bcfhw", spatial=8, temporal=4, gigabytes=13, needs=("ftfy",), vae_dtype="float32",
)  # fmt: skip

SECOND = "low_noise_loras"
MIXTURE = Family(
    facts=Facts(
        name="wan22", title="Wan 2.2 A14B (two experts)", modes=("t2v", "i2v"), rule=RULE, multiple=16,
        size=(832, 480), fps=16, steps=40, guidance_scale=4.0, memory="80 GB", licence=LICENCE,
        source="Wan-AI/Wan2.2-T2V-A14B-Diffusers", lora=True, quantise=QUANTISE, offload=OFFLOAD, cache=True,
        options={
            **GGUF, "gguf_2": "the .gguf file of the second, low-noise denoiser",
            "guidance_scale_2": "guidance of the low-noise denoiser (default 3.0)",
            SECOND: "LoRAs of the low-noise denoiser, each FILE or FILE:STRENGTH; `loras` go into the first",
        },
    ),
    ways={
        "t2v": Way(
            pipeline="WanPipeline", source="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
            arguments=lambda _job: {}, options=_second_guidance,
        ),
        "i2v": Way(
            pipeline="WanImageToVideoPipeline", source="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
            arguments=_picture, options=_second_guidance,
        ),
    },
    layout="bcfhw", spatial=8, temporal=4, gigabytes=80, needs=("ftfy",), vae_dtype="float32", second=SECOND,
)  # fmt: skip

SMALL = Family(
    facts=Facts(
        name="wan22-5b", title="Wan 2.2 5B", modes=("t2v", "i2v"), rule=FrameRule(4, 1, 121), multiple=32,
        size=(1280, 704), fps=24, steps=50, guidance_scale=5.0, memory="24 GB", licence=LICENCE,
        source="Wan-AI/Wan2.2-TI2V-5B-Diffusers", lora=True, quantise=QUANTISE, offload=OFFLOAD, cache=True,
        options=GGUF,
    ),
    ways={
        "t2v": Way(pipeline="WanPipeline", source="Wan-AI/Wan2.2-TI2V-5B-Diffusers", arguments=lambda _job: {}),
        "i2v": Way(
            pipeline="WanImageToVideoPipeline", source="Wan-AI/Wan2.2-TI2V-5B-Diffusers", accepts=("WanPipeline",),
            arguments=_picture,
        ),
    },
    layout="bcfhw", spatial=16, temporal=4, gigabytes=24, needs=("ftfy",), vae_dtype="float32",
)  # fmt: skip
