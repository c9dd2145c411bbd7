"""The bench of clips: calls of the network as the plan says, how fast they are, and how much a repainted clip flickers.

The flicker is the warp error of `tools.flicker`. Frame by frame stands for what a live stream does: every picture
painted for itself, from noise that is held, or drawn anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image

from stream.clips.backend import Watch
from stream.clips.families import family
from stream.clips.modules import built_in
from stream.clips.timeline import Timeline
from stream.config import ModelSpec
from stream.frame import Image
from stream.sources.testcard import CardSource
from tools.flicker import flicker as measured

FRAMES, REPAINTED = 64, 32
PROMPT = "watercolor painting"


class Counts(Watch):
    """Counts the calls of the network."""

    def __init__(self) -> None:
        self.calls = 0

    def tell(self, stage: str, done: int, total: int, preview: Callable[[], Image] | None = None) -> None:  # noqa: ARG002
        self.calls += stage == "denoise"


def clips(
    model: ModelSpec, options: dict[str, Any], frames: int = FRAMES, repainted: int = REPAINTED
) -> dict[str, Any]:
    """Figures of a chain of the first built-in motion modules, and of a repainted test card."""
    size = {"width": model.settings.width, "height": model.settings.height}
    plain = {"model": model.model, "prompt": PROMPT, "options": options, **size}
    chain = Timeline.model_validate(plain | {"frames": frames, "segments": [{"motion": m} for m in built_in()[:2]]})
    backend = family("animatediff")
    began = time.perf_counter()
    renderer = backend.load(chain, lambda _told: None)
    try:
        first = rendered(renderer, chain)
        loaded = time.perf_counter() - began
        again = rendered(renderer, chain)
        plan = backend.plan(chain)
        out = {
            "frames": frames, **size, "motions": [s.motion for s in chain.segments], "steps": plan.steps,
            "calls": again["calls"], "calls_predicted": plan.unet_calls, "calls_first": first["calls"],
            "seconds_from_cold": round(loaded, 2), "seconds": round(again["seconds"], 2),
            "fps": round(frames / again["seconds"], 2),
        }  # fmt: skip
        return out | {"warp_error": flicker(renderer, plain, repainted)}
    finally:
        renderer.close()


def rendered(renderer: Any, asked: Timeline) -> dict[str, Any]:
    """Calls, seconds and the pictures of one clip."""
    watch, began = Counts(), time.perf_counter()
    with TemporaryDirectory() as folder:
        made = renderer.render(asked.resolved(), Path(folder), watch)
        frames = np.concatenate(list(made.frames))
    return {"calls": watch.calls, "seconds": time.perf_counter() - began, "frames": frames}


def flicker(renderer: Any, plain: dict[str, Any], count: int) -> dict[str, float]:
    """Warp errors of the same input, repainted as a clip and frame by frame."""
    shown = [f.image for f in CardSource(count, (plain["width"], plain["height"]))]
    module = {"segments": [{"motion": m} for m in built_in()[:1]]}
    ways = {
        "clip": module,
        "clip_without_module": {"noise": "warped"},
        "frame_by_frame_held_noise": {"noise": "constant"},
        "frame_by_frame_fresh_noise": {"noise": "fresh"},
    }
    with TemporaryDirectory() as folder:
        for k, image in enumerate(shown):
            PIL.Image.fromarray(image).save(Path(folder) / f"{k}.png")
        asked = {name: Timeline.model_validate(plain | {"frames": count, "input": folder} | way)
                 for name, way in ways.items()}  # fmt: skip
        made = {name: rendered(renderer, one)["frames"] for name, one in asked.items()}
    return {name: round(measured(shown, m).warp, 2) for name, m in ({"input": shown} | made).items()}
