"""LTX-Video (https://github.com/Lightricks/LTX-Video): text, a picture, pictures at frames, or a video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job
from stream.clips.families.diffusers_common import (
    GGUF,
    OFFLOAD,
    QUANTISE,
    Family,
    Way,
    once,
    strength,
)
from stream.clips.families.inputs import first, given, picture
from stream.errors import ModelError

SOURCE = "Lightricks/LTX-Video"
LATER = "Lightricks/LTX-Video-0.9.5"  # the first that knows conditions
WEIGHTS = ("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline")  # one set of weights for all


def _text(job: Job) -> dict[str, Any]:
    return {"frame_rate": float(job.fps)}


def _picture(job: Job) -> dict[str, Any]:
    return _text(job) | {"image": first(job)}


def _keyframes(job: Job) -> dict[str, Any]:
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    held = [
        LTXVideoCondition(image=picture(k.image, job), frame_index=k.frame, strength=k.strength) for k in job.keyframes
    ]
    return _text(job) | {"conditions": held}


def _video(job: Job) -> dict[str, Any]:
    """The input is a condition on every frame, and what is painted starts from it."""
    return _text(job) | {"video": given(job), "frame_index": 0, "strength": 1.0 - strength(job)}


def _decoding(pipeline: Any, _job: Job) -> dict[str, Any]:
    """Decoders of 0.9.1 and later take out a last bit of noise themselves: values of their makers."""
    return {"decode_timestep": 0.05, "decode_noise_scale": 0.025} if pipeline.vae.config.timestep_conditioning else {}


def _knows_conditions(pipeline: Any) -> None:
    if pipeline.scheduler.config.use_dynamic_shifting:
        raise ModelError(f"this LTX-Video is older than 0.9.5 and takes no keyframes or videos: use e.g. {LATER}")


def _way(pipeline: str, arguments: Callable[[Job], dict[str, Any]]) -> Way:
    later = pipeline == "LTXConditionPipeline"
    return Way(
        pipeline=pipeline, source=LATER if later else SOURCE, accepts=WEIGHTS, calls=once, arguments=arguments,
        prepare=_decoding, loaded=_knows_conditions if later else lambda _pipeline: None,
    )  # fmt: skip


BACKEND = Family(
    facts=Facts(
        name="ltx", title="LTX-Video", modes=("t2v", "i2v", "keyframes", "v2v"), rule=FrameRule(8, 1, 257), multiple=32,
        size=(704, 512), fps=25, steps=50, guidance_scale=3.0, memory="~10 GB", licence="LTX-Video's own",
        source=SOURCE, accept="ltx", lora=True, quantise=QUANTISE, offload=OFFLOAD, cache=True, options=GGUF,
    ),
    ways={
        "t2v": _way("LTXPipeline", _text), "i2v": _way("LTXImageToVideoPipeline", _picture),
        "keyframes": _way("LTXConditionPipeline", _keyframes), "v2v": _way("LTXConditionPipeline", _video),
    },
    layout="packed", spatial=32, temporal=8, gigabytes=10,
)  # fmt: skip
