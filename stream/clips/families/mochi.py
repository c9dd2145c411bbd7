"""Mochi 1 (https://github.com/genmoai/mochi): text."""

from __future__ import annotations

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job
from stream.clips.families.diffusers_common import GGUF, OFFLOAD, QUANTISE, Family, Way, once
from stream.errors import ClipError

SOURCE = "genmo/mochi-1-preview"


def _two_steps(job: Job) -> None:
    if job.steps < 2:
        raise ClipError(f"backend mochi takes 2 steps or more, got {job.steps}: its schedule has two halves")


BACKEND = Family(
    facts=Facts(
        name="mochi", title="Mochi 1", modes=("t2v",), rule=FrameRule(6, 1, 163), multiple=16, size=(848, 480), fps=30,
        steps=64, guidance_scale=4.5, memory="22 to 42 GB", licence="Apache-2.0", source=SOURCE, lora=True,
        quantise=QUANTISE, offload=OFFLOAD, cache=True, options=GGUF,
    ),
    ways={
        "t2v": Way(pipeline="MochiPipeline", source=SOURCE, arguments=lambda _job: {}, calls=once, check=_two_steps)
    },
    layout="bcfhw", spatial=8, temporal=6, gigabytes=42, needs=("sentencepiece",),
)  # fmt: skip
