"""HunyuanVideo (https://github.com/Tencent-Hunyuan/HunyuanVideo): text or a picture; FramePack: long clips of one."""

from __future__ import annotations

from typing import Any

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job, whole
from stream.clips.families.diffusers_common import DTYPE, GGUF, OFFLOAD, QUANTISE, Family, Part, Way
from stream.clips.families.inputs import first, keyframe
from stream.errors import ClipError

LICENCE = "Tencent Hunyuan: not in the EU, the UK and South Korea"
ACCEPT = "hunyuan"
TEXT = "hunyuanvideo-community/HunyuanVideo"
PICTURE = "hunyuanvideo-community/HunyuanVideo-I2V"
WINDOW = 9  # latents that FramePack paints at a time
SECTION = (WINDOW - 1) * 4 + 1  # frames that diffusers counts for one
TRUE = {"true_cfg_scale": "guidance that asks the denoiser twice, for models that were not distilled (default 1: off)"}
SAMPLING = ("inverted_anti_drifting", "vanilla")


def _true_guidance(job: Job) -> dict[str, Any]:
    return {"true_cfg_scale": float(job.option("true_cfg_scale", 1.0))}


def _unheard(job: Job) -> tuple[str, ...]:
    """The models were distilled: they heed a negative prompt only where they are asked twice."""
    alone = job.negative and _true_guidance(job)["true_cfg_scale"] <= 1
    return ("the negative prompt counts only with --option true_cfg_scale above 1",) if alone else ()


def _calls(job: Job) -> int:
    return job.steps * (2 if _true_guidance(job)["true_cfg_scale"] > 1 else 1)


def _first_latent_back(pipeline: Any, job: Job) -> dict[str, Any]:
    """Models that are given the picture beside the latents paint four frames that are cut off again."""
    beside = pipeline.transformer.config.image_condition_type == "latent_concat"
    return {"num_frames": job.frames + 4} if beside else {}


BACKEND = Family(
    facts=Facts(
        name="hunyuan", title="HunyuanVideo", modes=("t2v", "i2v"), rule=FrameRule(4, 1, 129), multiple=16,
        size=(1280, 720), fps=24, steps=50, guidance_scale=6.0, memory="60 GB; ~14 GB in 4 bits", licence=LICENCE,
        source=TEXT, accept=ACCEPT, lora=True, quantise=QUANTISE, offload=OFFLOAD, cache=True, options=GGUF | TRUE,
    ),
    ways={
        "t2v": Way(
            pipeline="HunyuanVideoPipeline", source=TEXT, arguments=lambda _job: {}, options=_true_guidance,
            calls=_calls, notes=_unheard,
        ),
        "i2v": Way(
            pipeline="HunyuanVideoImageToVideoPipeline", source=PICTURE, arguments=lambda job: {"image": first(job)},
            options=_true_guidance, calls=_calls, prepare=_first_latent_back, notes=_unheard,
        ),
    },
    layout="bcfhw", spatial=8, temporal=4, gigabytes=60,
)  # fmt: skip


def _sections(job: Job) -> int:
    return (job.frames - 1) // (4 * WINDOW)


def _long(job: Job) -> dict[str, Any]:
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import FramepackSamplingType

    last = keyframe(job, job.frames - 1)
    return {
        "image": first(job), "num_frames": _sections(job) * SECTION, "latent_window_size": WINDOW,
        "sampling_type": FramepackSamplingType(_sampling(job)), **({} if last is None else {"last_image": last}),
    }  # fmt: skip


def _sampling(job: Job) -> str:
    """The way of sampling, which belongs to the weights: those called F1 paint forwards."""
    chosen = str(job.option("sampling", SAMPLING[0]))
    if chosen not in SAMPLING:
        raise ClipError(f"option sampling is {chosen!r}: use {' or '.join(SAMPLING)}")
    return chosen


def _ends(job: Job) -> None:
    whole(job)
    frames, sampling = [k.frame for k in job.keyframes], _sampling(job)
    if frames[0] != 0 or set(frames) - {0, job.frames - 1}:
        raise ClipError(
            f"backend framepack takes pictures for the first and the last frame, got {frames}: leave others out"
        )
    if len(job.keyframes) > 1 and sampling == "vanilla":
        raise ClipError("backend framepack takes no last picture with sampling vanilla: leave it out")


EYES = "lllyasviel/flux_redux_bfl"
PARTS = {
    "transformer": Part(
        "diffusers", "HunyuanVideoFramepackTransformer3DModel", "lllyasviel/FramePackI2V_HY", "", "transformer"
    ),
    "image_encoder": Part("transformers", "SiglipVisionModel", EYES, "image_encoder", "image_encoder"),
    "feature_extractor": Part("transformers", "SiglipImageProcessor", EYES, "feature_extractor", "image_encoder"),
}

FRAMEPACK = Family(
    facts=Facts(
        name="framepack", title="HunyuanVideo FramePack", modes=("i2v", "keyframes"), multiple=16, size=(832, 480),
        rule=FrameRule(4 * WINDOW, 1, least=4 * WINDOW + 1), fps=30, steps=30, guidance_scale=9.0,
        memory="6 GB offloaded", licence=LICENCE, source=TEXT, accept=ACCEPT, lora=True,
        quantise=tuple(q for q in QUANTISE if q != "gguf"), offload=OFFLOAD,
        options=DTYPE | TRUE | {
            "sampling": "inverted_anti_drifting (default), or vanilla for the F1 weights",
            "transformer": "folder or hub id of FramePack's network, where the model is plain HunyuanVideo",
            "image_encoder": "folder or hub id of its image encoder, likewise",
        },
    ),
    ways={
        mode: Way(
            pipeline="HunyuanVideoFramepackPipeline", source=TEXT, accepts=("HunyuanVideoPipeline",), arguments=_long,
            options=_true_guidance, calls=lambda job: _calls(job) * _sections(job), check=_ends,
            parts=PARTS, notes=_unheard,
        )
        for mode in ("i2v", "keyframes")
    },
    layout="bcfhw", spatial=8, temporal=4, gigabytes=60,
)  # fmt: skip
