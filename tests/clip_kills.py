"""Makes a clip of the built-in model again and again, killed at one moment after another, each time in a process of its
own: `python clip_kills.py FOLDER`. Prints what came out as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import stream.clips.animate
import stream.render  # noqa: F401 (all that is heavy, once)
from stream.clips.backend import Watch
from stream.clips.make import Keep, make
from stream.clips.manifest import digest
from stream.clips.timeline import Timeline

LINE = Timeline.model_validate(
    {"frames": 10, "width": 64, "height": 64, "prompt": "watercolor painting", "steps": 3, "window": 6, "overlap": 2,
     "sampler": "euler_a", "segments": [{"camera": {"x": 0.02}}, {"camera": {"zoom": 1.03}}],
     "options": {"engine": "torch"}}
)  # fmt: skip


class Deadly(Watch):
    """Hears everything, and kills the process at a word."""

    def __init__(self, at: int | None, heard: Path) -> None:
        self._at, self._heard, self._words = at, heard, 0

    def tell(self, stage: str, done: int, total: int, preview: Any = None) -> None:
        self._words += 1
        with self._heard.open("a") as file:
            file.write(f"{stage} {done}\n")
        if self._words == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def made(folder: Path, at: int | None = None) -> list[str]:
    """Makes it in a child process; the words that it said."""
    heard = folder / "heard"
    heard.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        make(LINE, folder / "out.mp4", folder / "job", Deadly(at, heard), keep=Keep())
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WTERMSIG(status) == (0 if at is None else signal.SIGKILL), status
    return heard.read_text().splitlines()


def moments(words: list[str]) -> list[int]:
    """Counted from 1: the first word of every stage, a middle and the last one of denoising, and the last of all."""
    stages: dict[str, list[int]] = {}
    for number, word in enumerate(words, 1):
        stages.setdefault(word.split()[0], []).append(number)
    calls = stages["denoise"]
    return sorted({*(of[0] for of in stages.values()), calls[len(calls) // 2], calls[-1], len(words)})


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    whole = made(folder)
    results: list[dict[str, Any]] = [{"killed": None, "sha256": digest(folder / "out.mp4")}]
    for at in moments(whole):
        place = folder / str(at)
        place.mkdir()
        made(place, at)
        half = (place / "out.mp4").exists()
        again = made(place)
        left = sorted(p.name for p in place.iterdir())
        results.append({"killed": whole[at - 1], "half": half, "sha256": digest(place / "out.mp4"), "left": left,
                        "calls": sum(word.startswith("denoise") for word in again)})  # fmt: skip
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
