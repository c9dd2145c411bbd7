"""HunyuanVideo 1.5 (https://github.com/Tencent-Hunyuan/HunyuanVideo-1.5): text or a picture."""

from __future__ import annotations

from typing import Any

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job
from stream.clips.families.diffusers_common import DTYPE, LEFT_OUT, OFFLOAD, QUANTISE, Family, Way
from stream.clips.families.hunyuan import ACCEPT, LICENCE
from stream.clips.families.inputs import first

TEXT = "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_t2v"
PICTURE = "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_i2v"


def _guided(pipeline: Any, job: Job) -> dict[str, Any]:
    """Its guidance is a part of the pipeline."""
    pipeline.guider = pipeline.guider.new(guidance_scale=job.guidance)
    return {"guidance_scale": LEFT_OUT}


def _picture_of_that_size(pipeline: Any, job: Job) -> dict[str, Any]:
    """It would choose the size itself, by the picture's shape: it is to be the one that was said."""
    pipeline.video_processor.calculate_default_height_width = lambda **_shape: (job.height, job.width)
    return _guided(pipeline, job) | {"width": LEFT_OUT, "height": LEFT_OUT}


BACKEND = Family(
    facts=Facts(
        name="hunyuan15", title="HunyuanVideo 1.5", modes=("t2v", "i2v"), rule=FrameRule(4, 1, 121), multiple=16,
        size=(1280, 720), fps=24, steps=50, guidance_scale=6.0, memory="not stated (8.3B)", licence=LICENCE,
        source=TEXT, accept=ACCEPT, quantise=tuple(q for q in QUANTISE if q != "gguf"), offload=OFFLOAD,
        options=DTYPE,
    ),
    ways={
        "t2v": Way(pipeline="HunyuanVideo15Pipeline", source=TEXT, arguments=lambda _job: {}, prepare=_guided),
        "i2v": Way(
            pipeline="HunyuanVideo15ImageToVideoPipeline", source=PICTURE, arguments=lambda job: {"image": first(job)},
            prepare=_picture_of_that_size,
        ),
    },
    layout="bcfhw", spatial=16, temporal=4, gigabytes=33,
)  # fmt: skip
