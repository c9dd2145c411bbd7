"""CogVideoX 2B, 5B and 1.5 (https://github.com/zai-org/CogVideo): text, a picture, or a video."""

from __future__ import annotations

from typing import Any

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job
from stream.clips.families.diffusers_common import (
    DTYPE,
    LEFT_OUT,
    OFFLOAD,
    QUANTISE,
    Family,
    Way,
    once,
    shortened,
    strength,
)
from stream.clips.families.inputs import first, given

ACCEPT = "cogvideox"
LICENCE = "CogVideoX (registration); 2B Apache-2.0"
QUANTISED = tuple(q for q in QUANTISE if q != "gguf")


def _video(job: Job) -> dict[str, Any]:
    return {"video": given(job), "num_frames": LEFT_OUT, "strength": strength(job)}


def _ways(text: str, picture: str, rule: FrameRule | None = None) -> dict[Any, Way]:
    """`rule` is that of a video, where it is another."""
    return {
        "t2v": Way(pipeline="CogVideoXPipeline", source=text, arguments=lambda _job: {}, calls=once),
        "i2v": Way(
            pipeline="CogVideoXImageToVideoPipeline", source=picture, calls=once,
            arguments=lambda job: {"image": first(job)},
        ),
        "v2v": Way(
            pipeline="CogVideoXVideoToVideoPipeline", source=text, accepts=("CogVideoXPipeline",), arguments=_video,
            calls=shortened, steps=shortened, rule=rule,
        ),
    }  # fmt: skip


BACKEND = Family(
    facts=Facts(
        name="cogvideox", title="CogVideoX 2B and 5B", modes=("t2v", "i2v", "v2v"), rule=FrameRule(8, 1, 49),
        multiple=16, size=(720, 480), fps=8, steps=50, guidance_scale=6.0, memory="4 GB (2B), 5 GB (5B) offloaded",
        licence=LICENCE, source="zai-org/CogVideoX-5b", accept=ACCEPT, lora=True, quantise=QUANTISED, offload=OFFLOAD,
        cache=True, options=DTYPE,
    ),
    ways=_ways("zai-org/CogVideoX-5b", "zai-org/CogVideoX-5b-I2V"),
    layout="bfchw", spatial=8, temporal=4, gigabytes=21, needs=("sentencepiece",),
)  # fmt: skip

LATER = Family(
    facts=Facts(
        name="cogvideox15", title="CogVideoX 1.5", modes=("t2v", "i2v"), rule=FrameRule(8, 1, 81), multiple=16,
        size=(1360, 768), fps=16, steps=50, guidance_scale=6.0, memory="10 GB offloaded", licence=LICENCE,
        source="zai-org/CogVideoX1.5-5B", accept=ACCEPT, lora=True, quantise=QUANTISED, offload=OFFLOAD, cache=True,
        options=DTYPE,
    ),
    ways={k: v for k, v in _ways("zai-org/CogVideoX1.5-5B", "zai-org/CogVideoX1.5-5B-I2V").items() if k != "v2v"},
    layout="bfchw", spatial=8, temporal=4, gigabytes=32, needs=("sentencepiece",),
)  # fmt: skip
