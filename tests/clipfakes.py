"""Clips without a model. `python -m clipfakes FOLDER` is a runner, for tests that kill it, whose maker only counts;
with `gentle` behind it, at the real priority; with `files`, one that makes files with a back end that draws.

The timeline's prompt says what else happens: `slow 0.1` takes so long between steps, `crash` ends the process, `wrong`
is an error, `oops` a mistake.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stream.clips.backend import Facts, FrameRule, Plan, Rendered, Watch
from stream.clips.families import FAMILIES
from stream.clips.queue import Job, Made, Order, Queue
from stream.clips.runner import Files, serve, step_back
from stream.clips.timeline import Timeline
from stream.errors import ClipError
from stream.frame import Image

STEPS = 4
SIDE = 64


class Counting:
    """A `Maker`. `made` lists the jobs in the order in which they were made. A clip counts when one file is created, in
    one stroke: `renders/<job>-<anything>`."""

    def __init__(self, folder: Path) -> None:
        self.renders = folder / "renders"
        self.renders.mkdir(parents=True, exist_ok=True)
        self.made: list[str] = []
        self.closed = 0

    def make(self, job: Job, watch: Watch) -> Made:
        self.made.append(job.timeline.prompt)
        if not list(self.renders.glob(f"{job.id}-*")):
            acted(job.timeline.prompt, watch)
            (self.renders / f"{job.id}-{secrets.token_hex(4)}").touch(exist_ok=False)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        job.output.write_text(job.timeline.prompt)
        return Made("0" * 64, 0.5)

    def close(self) -> None:
        self.closed += 1


def acted(prompt: str, watch: Watch) -> None:
    """The steps of a render, as the prompt has them."""
    what, _, pause = prompt.partition(" ")
    for step in range(STEPS):
        end = time.monotonic() + (float(pause) if what == "slow" else 0.0)
        watch.tell("denoise", step, STEPS, partial(drawn, step, 8 * STEPS))
        while time.monotonic() < end:
            time.sleep(0.02)
            watch.tell("denoise", step, STEPS, partial(drawn, step, 8 * STEPS))
    if what == "crash":
        os._exit(3)
    if what == "wrong":
        raise ClipError("steps 7 is not what this takes: use 4")
    if what == "oops":
        raise ZeroDivisionError("by zero")


def drawn(number: int, of: int, width: int = SIDE, height: int = SIDE) -> Image:
    """A disc on its way round."""
    y, x = np.mgrid[:height, :width]
    angle = 2 * np.pi * number / of
    near = np.hypot(x - width * (0.5 + 0.3 * np.cos(angle)), y - height * (0.5 + 0.3 * np.sin(angle))) < 0.18 * width
    ground = np.stack([255 * x / width, 160 * y / height, np.full(x.shape, 90.0)], -1)
    return np.where(near[..., None], (255, 176, 116), ground).astype(np.uint8)


class Drawing:
    """A back end whose model is a pencil: it draws a disc."""

    facts = Facts(name="drawing", title="Drawing", modes=("t2v", "v2v"), rule=FrameRule(), multiple=8,
                  size=(SIDE, SIDE), fps=8, steps=STEPS, guidance_scale=1.0, memory="none", licence="Apache-2.0",
                  source="")  # fmt: skip

    def missing(self, timeline: Timeline | None = None) -> str | None:
        return "its pencil: buy one" if timeline is not None and timeline.prompt == "missing" else None

    def plan(self, timeline: Timeline) -> Plan:
        if timeline.steps not in (None, STEPS):
            raise ClipError(f"steps {timeline.steps} is not what this takes: use {STEPS}", ("steps",))
        width, height = timeline.width or SIDE, timeline.height or SIDE
        return Plan(timeline.frames, width, height, str(timeline.fps or 8), 1, STEPS, STEPS, 1.0, None)

    def key(self, timeline: Timeline) -> Hashable:
        return timeline.model

    def load(self, timeline: Timeline, tell: Callable[[str], Any]) -> Drawing:
        return self

    def render(self, timeline: Timeline, folder: Path, watch: Watch) -> Rendered:
        plan = self.plan(timeline)

        def frames() -> Iterator[Image]:
            acted(timeline.prompt, watch)
            for number in range(plan.frames):
                yield drawn(number, plan.frames, plan.width, plan.height)[None]

        return Rendered(frames())

    def models(self) -> Mapping[str, str]:
        return {"pencil": "0" * 64}

    def close(self) -> None:
        pass


BACKEND = Drawing()
FILES = "files"


def stand_in() -> None:
    """The back end that draws is there."""
    FAMILIES["drawing"] = "clipfakes:BACKEND"


def counted(folder: Path) -> Counter[str]:
    """How often each job was made."""
    return Counter(path.name.rpartition("-")[0] for path in (folder / "renders").iterdir())


def order(prompt: str = "quick", **more: object) -> Order:
    return Order(Timeline(prompt=prompt, **more))  # type: ignore[arg-type]


def command(queue: Queue, *more: str) -> list[str]:
    """What starts a runner of these."""
    return [sys.executable, "-m", "clipfakes", str(queue.folder), *more]


def plans() -> list[str]:
    """What starts the process that says what a clip will take."""
    return [
        sys.executable,
        "-c",
        "import clipfakes; clipfakes.stand_in(); from stream.clips.planner import main; main()",
    ]


def main(folder: Path, *how: str) -> None:
    if "gentle" in how:
        step_back()
    stand_in()
    with Queue(folder) as queue:
        serve(queue, Files if FILES in how else lambda: Counting(folder), idle_s=60.0 if FILES in how else 0.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
