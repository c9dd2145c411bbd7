"""A maker of clips that makes none: it counts. `python -m clipfakes FOLDER` is a runner with it, for tests that kill
it; with `gentle` behind it, at the real one's priority.

A clip counts when one file is created, in one stroke: `renders/<job>-<anything>`. The timeline's prompt says what else
happens: `slow` takes its time between steps, `crash` ends the process, `wrong` is an error, `oops` a mistake.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from stream.clips.backend import Watch
from stream.clips.queue import Job, Made, Order, Queue
from stream.clips.runner import serve, step_back
from stream.clips.timeline import Timeline
from stream.errors import ClipError

STEPS = 4


class Counting:
    """A `Maker`. `made` lists the jobs in the order in which they were made."""

    def __init__(self, folder: Path) -> None:
        self.renders = folder / "renders"
        self.renders.mkdir(parents=True, exist_ok=True)
        self.made: list[str] = []
        self.closed = 0

    def make(self, job: Job, watch: Watch) -> Made:
        self.made.append(job.timeline.prompt)
        if not list(self.renders.glob(f"{job.id}-*")):
            self._render(job, watch)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        job.output.write_text(job.timeline.prompt)
        return Made("0" * 64, 0.5)

    def _render(self, job: Job, watch: Watch) -> None:
        what, _, pause = job.timeline.prompt.partition(" ")
        for step in range(STEPS):
            watch.tell("denoise", step, STEPS, lambda: np.full((64, 96, 3), 150, np.uint8))
            time.sleep(float(pause or 0.002))
        if what == "crash":
            os._exit(3)
        if what == "wrong":
            raise ClipError("steps 7 is not what this takes: use 4")
        if what == "oops":
            raise ZeroDivisionError("by zero")
        (self.renders / f"{job.id}-{secrets.token_hex(4)}").touch(exist_ok=False)

    def close(self) -> None:
        self.closed += 1


def counted(folder: Path) -> Counter[str]:
    """How often each job was made."""
    return Counter(path.name.rpartition("-")[0] for path in (folder / "renders").iterdir())


def order(prompt: str = "quick", **more: object) -> Order:
    return Order(Timeline(prompt=prompt, **more))  # type: ignore[arg-type]


def main(folder: Path, gentle: bool) -> None:
    if gentle:
        step_back()
    with Queue(folder) as queue:
        serve(queue, lambda: Counting(folder), idle_s=0.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "gentle" in sys.argv)
