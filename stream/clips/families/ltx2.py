"""LTX-2 (https://github.com/Lightricks/LTX-2): text, a picture or pictures at frames, with the sound of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job
from stream.clips.families.diffusers_common import DTYPE, OFFLOAD, QUANTISE, Family, Way
from stream.clips.families.inputs import first, picture

SOURCE = "Lightricks/LTX-2"
WEIGHTS = ("LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline")
OPTIONS = {
    "stg_scale": "weight of spatio-temporal guidance, one more call a step (default 1.0; 0: off)",
    "stg_block": "the block that it leaves out (default 29, for LTX-2.0; 28 for 2.3)",
    "modality_scale": "weight of picture and sound on each other, one more call a step (default 3.0; 1: off)",
}


def _options(job: Job) -> dict[str, Any]:
    stg, modality = float(job.option("stg_scale", 1.0)), float(job.option("modality_scale", 3.0))
    return {
        "stg_scale": stg, "audio_stg_scale": stg, "modality_scale": modality, "audio_modality_scale": modality,
        "spatio_temporal_guidance_blocks": [job.option("stg_block", 29)],
    }  # fmt: skip


def _calls(job: Job) -> int:
    own = _options(job)
    return job.steps * (1 + int(own["stg_scale"] > 0) + int(own["modality_scale"] > 1))


def _text(job: Job) -> dict[str, Any]:
    return {"frame_rate": float(job.fps)}


def _picture(job: Job) -> dict[str, Any]:
    return _text(job) | {"image": first(job)}


def _keyframes(job: Job) -> dict[str, Any]:
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

    held = [LTX2VideoCondition(frames=picture(k.image, job), index=k.frame, strength=k.strength) for k in job.keyframes]
    return _text(job) | {"conditions": held}


def _way(pipeline: str, arguments: Callable[[Job], dict[str, Any]]) -> Way:
    return Way(
        pipeline=pipeline, source=SOURCE, accepts=WEIGHTS, arguments=arguments, options=_options, calls=_calls
    )  # fmt: skip


BACKEND = Family(
    facts=Facts(
        name="ltx2", title="LTX-2, with sound", modes=("t2v", "i2v", "keyframes", "audio"), rule=FrameRule(8, 1, 481),
        multiple=32, size=(768, 512), fps=24, steps=30, guidance_scale=3.0, memory="not stated (22B and Gemma)",
        licence="LTX-2's own: paid above $10M of revenue", source=SOURCE, accept="ltx2", lora=True,
        quantise=tuple(q for q in QUANTISE if q != "gguf"), offload=OFFLOAD, options=DTYPE | OPTIONS,
    ),
    ways={
        "t2v": _way("LTX2Pipeline", _text), "i2v": _way("LTX2ImageToVideoPipeline", _picture),
        "keyframes": _way("LTX2ConditionPipeline", _keyframes),
    },
    layout="packed", spatial=32, temporal=8, gigabytes=68,
)  # fmt: skip
