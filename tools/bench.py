"""The bench: how fast the whole pipeline is here, and against plain diffusers with the same weights, in one run.

Frames come from memory (the test card, drawn before the clock starts) and painted pictures are dropped, so that what is
timed is the pipeline: preprocess, similarity, encode, denoise, decode, postprocess. Figures that are compared are taken
in turn, round by round, so that a machine that speeds up or slows down touches both alike.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import engines
from engines.cache import default_folder
from stream.choice import choose, ranges
from stream.config import BUILTIN, ModelSpec
from stream.frame import Frame
from stream.models import Model, load
from stream.pipeline import Painter, Session
from stream.quiet import quiet
from stream.render import TOGETHER
from stream.settings import Settings
from stream.sources.testcard import CardSource
from tools.clip_bench import clips
from tools.conditions import machine

NETWORKS = ("encode", "denoise", "decode")
STREAMS = (1, 2, 4, 8)
ROUNDS = 5
WARM_UP = 8
THREADS = torch.get_num_threads()  # torch's own choice: plain diffusers has it, whatever a model sets for itself
PACKAGES = ("torch", "diffusers", "transformers", "openvino", "numpy", "opencv-python-headless", "av")


def frames_of(settings: Settings, count: int) -> list[Frame]:
    """The test card, moving, at the settings' size."""
    card = CardSource(count, (settings.width, settings.height))
    return list(card)


def clocked(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Rig:
    """A painter with open sessions, run over the same frames again and again, `together` of them a tick."""

    def __init__(self, model: Model, settings: Settings, frames: Sequence[Frame], streams: int = 1,
                 together: int = 1) -> None:  # fmt: skip
        self.painter = Painter(model)
        self.frames, self.together = frames, together
        self.sessions: list[Session] = [self.painter.open(settings.changed(seed=i)) for i in range(streams)]
        self.run(WARM_UP)
        self.painter.stopwatch.clear()

    def run(self, count: int) -> float:
        """Seconds for `count` ticks."""
        return clocked(lambda: [self._tick(i) for i in range(count)])

    def _tick(self, i: int) -> None:
        starts = (i * self.together + 7 * k for k in range(len(self.sessions)))
        ahead = [[self.frames[(start + j) % len(self.frames)] for j in range(self.together)] for start in starts]
        self.painter.tick(dict(zip(self.sessions, ahead, strict=True)))

    def networks_ms(self) -> float:
        return sum(self.painter.stopwatch.total_ms[n] for n in NETWORKS)


class Diffusers:
    """Plain diffusers image-to-image: same weights, size, step and prompt, as its documentation calls it."""

    def __init__(self, model: ModelSpec, settings: Settings, timesteps: Sequence[int], frames: Sequence[Frame]) -> None:
        from diffusers import LCMScheduler, StableDiffusionImg2ImgPipeline
        from PIL import Image

        from stream.weights import read_pipeline

        parts = dict(read_pipeline(model).components)
        parts["scheduler"] = LCMScheduler.from_config(parts["scheduler"].config)
        self._pipeline = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
        self._pipeline.set_progress_bar_config(disable=True)
        self._images = [Image.fromarray(f.image) for f in frames]
        self._timesteps, self._settings = list(timesteps), settings

    def paint(self, index: int) -> np.ndarray[Any, Any]:
        """One picture, `(height, width, 3)` uint8."""
        result = self._pipeline(
            prompt=self._settings.prompt, image=self._images[index % len(self._images)], strength=1.0,
            num_inference_steps=len(self._timesteps), timesteps=self._timesteps, guidance_scale=1.0,
            generator=torch.Generator("cpu").manual_seed(0),
        )  # fmt: skip
        return np.asarray(result.images[0])

    def run(self, count: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            with quiet():  # it warns of custom timesteps, once a picture
                return clocked(lambda: [self.paint(i) for i in range(count)])
        finally:
            torch.set_num_threads(before)


def rounds(rounds: int, *runs: Callable[[], float]) -> list[list[float]]:
    """What every run gives, taken in turn, `rounds` times."""
    out: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for values, run in zip(out, runs, strict=True):
            values.append(run())
    return out


def speed(rig: Rig, ticks: int, seconds: Sequence[float]) -> dict[str, Any]:
    """Figures of one rig after its rounds of `ticks`."""
    frames = ticks * len(rig.sessions) * rig.together
    wall_ms = sum(seconds) * 1000
    return {
        "fps": round(frames / statistics.median(seconds), 2),
        "frame_ms": round(statistics.median(seconds) * 1000 / frames, 3),
        "wall_over_networks": round(wall_ms / rig.networks_ms(), 4),
        "stages_ms": rig.painter.stopwatch.report(),
    }


def against_diffusers(model: Model, settings: Settings, frames: Sequence[Frame], quick: bool) -> dict[str, Any]:
    """One frame a tick as live, several as file to file, and plain diffusers, round by round."""
    live, file = Rig(model, settings, frames), Rig(model, settings, frames, together=TOGETHER)
    ticks = {live: 20 if quick else 60, file: (20 if quick else 60) // TOGETHER}
    theirs_n = 4 if quick else 15
    plain = Diffusers(model.spec, settings, live.sessions[0].steering.schedule.timesteps, frames)
    plain.run(3)
    runs = [lambda rig=rig: rig.run(ticks[rig]) for rig in ticks]
    *ours, theirs = rounds(2 if quick else ROUNDS, *runs, lambda: plain.run(theirs_n))
    out, together = (
        speed(rig, ticks[rig], seconds) | {"vs_diffusers": times(seconds, ticks[rig] * rig.together, theirs, theirs_n)}
        for rig, seconds in zip(ticks, ours, strict=True)
    )
    theirs_fps = theirs_n / statistics.median(theirs)
    return out | {
        "diffusers_fps": round(theirs_fps, 2),
        "diffusers_ms": round(1000 / theirs_fps, 2),
        "file": together | {"frames_a_tick": TOGETHER},
    }


def times(ours: Sequence[float], our_frames: int, theirs: Sequence[float], their_frames: int) -> float:
    """How many times as fast, the median of the rounds."""
    ratios = [b / their_frames / (a / our_frames) for a, b in zip(ours, theirs, strict=True)]
    return round(statistics.median(ratios), 3)


def several_streams(model: Model, settings: Settings, frames: Sequence[Frame], quick: bool) -> dict[str, Any]:
    """Total fps of 1, 2, 4 and 8 streams in one painter, round by round."""
    rigs = [Rig(model, settings, frames, n) for n in STREAMS]
    ticks = [max(2, (16 if quick else 48) // n) for n in STREAMS]
    runs = [lambda rig=rig, n=n: rig.run(n) for rig, n in zip(rigs, ticks, strict=True)]
    seconds = rounds(2 if quick else ROUNDS, *runs)
    return {str(len(rig.sessions)): speed(rig, n, s) for rig, n, s in zip(rigs, ticks, seconds, strict=True)}


def still_scene(model: Model, settings: Settings, frames: Sequence[Frame], quick: bool) -> dict[str, Any]:
    """A still scene with a camera's noise, with and without the similarity filter."""
    count = 40 if quick else 150
    rng = np.random.default_rng(0)
    base = frames[0].image.astype(np.int16)
    noisy = [np.clip(base + rng.normal(0, 3, base.shape), 0, 255).astype(np.uint8) for _ in range(30)]
    still = [Frame(noisy[i % 30], i, Fraction(1, 30)) for i in range(count)]
    out: dict[str, Any] = {"frames": count}
    for name, on in (("without", False), ("with", True)):
        rig = Rig(model, settings.changed(similarity=on), still)
        seconds = rig.run(count)
        out[name] = {"fps": round(count / seconds, 2), "networks_ms": round(rig.networks_ms(), 1)}
        out["skip_rate"] = round(rig.sessions[0].filter.rate, 4)
    out["networks_saved"] = round(1 - out["with"]["networks_ms"] / out["without"]["networks_ms"], 4)
    return out


def conditions(model: Model, choice: engines.Choice, settings: Settings) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        **machine(PACKAGES),
        "torch_threads": THREADS,
        "card": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "model": model.name,
        "engine": {"backend": choice.backend, "device": choice.device, "precision": choice.precision,
                   "why": choice.why},
        "settings": settings.model_dump(),
        "input": "the test card, from memory",
    }  # fmt: skip


def measure(found: ModelSpec, backend: str, device: str, precision: str, quick: bool) -> dict[str, Any]:
    """Everything, as one dictionary; `fps`, `wall_over_networks` and `vs_diffusers` are the default run's."""
    settings = found.settings.changed(prompt=found.settings.prompt or "watercolor painting")
    choice = choose(found, backend, device, precision)
    frames = frames_of(settings, 90)
    out: dict[str, Any] = {}
    with Progress(transient=True) as bar:
        task = bar.add_task("bench", total=5)
        model = load(found, choice, default_folder())
        out |= against_diffusers(model, settings, frames, quick)
        bar.advance(task)
        out["streams"] = several_streams(model, settings, frames, quick)
        bar.advance(task)
        out["similarity"] = still_scene(model, settings, frames, quick)
        bar.advance(task)
        offered = engines.backend(choice.backend).precisions(choice.device)
        others = [p for p in offered if p != choice.precision and (p != "int8" or ranges(found))]
        out["precisions"] = {choice.precision: {k: out[k] for k in ("fps", "frame_ms", "wall_over_networks")}}
        for other in others if precision == "auto" else []:
            second = load(found, choose(found, choice.backend, choice.device, other), default_folder())
            rig = Rig(second, settings, frames)
            ticks = 20 if quick else 60
            out["precisions"][other] = speed(rig, ticks, [rig.run(ticks) for _ in range(2 if quick else ROUNDS)])
            out["precisions"][other].pop("stages_ms")
        bar.advance(task)
        if found.model == BUILTIN:
            options = {name: getattr(choice, name) for name in ("device", "precision")} | {"engine": choice.backend}
            few = {"frames": 20, "repainted": 6} if quick else {}
            out["clips"] = clips(found, options, **few)
        bar.advance(task)
    return out | {"quick": quick, "conditions": conditions(model, choice, settings)}


def show(result: dict[str, Any], console: Console) -> None:
    """The figures as tables."""
    where = result["conditions"]
    engine = where["engine"]
    console.print(f"{where['model']} on {engine['backend']} {engine['precision']}, {where['processor']}, "
                  f"{where['cores']} cores", highlight=False)  # fmt: skip
    table = Table("stage", "p50 ms", "p95 ms", "p99 ms")
    for stage, row in result["stages_ms"].items():
        table.add_row(stage, *(f"{row[p]:.2f}" for p in ("p50", "p95", "p99")))
    console.print(table)
    console.print(f"{result['fps']} fps; wall time {result['wall_over_networks']} x the networks' own")
    file = result["file"]
    console.print(f"{file['fps']} fps file to file, {file['frames_a_tick']} frames a tick")
    console.print(f"plain diffusers: {result['diffusers_fps']} fps, so {result['vs_diffusers']} x as fast, "
                  f"{file['vs_diffusers']} x file to file")  # fmt: skip
    for name, row in result["precisions"].items():
        console.print(f"{name}: {row['fps']} fps")
    for count, row in result.get("streams", {}).items():
        console.print(f"{count} streams: {row['fps']} fps in all")
    if "similarity" in result:
        row = result["similarity"]
        console.print(f"still scene: {row['skip_rate']:.0%} skipped, {row['networks_saved']:.0%} of the work saved")
    if "clips" in result:
        show_clips(result["clips"], console)


def show_clips(row: dict[str, Any], console: Console) -> None:
    console.print(f"clip of {row['frames']} frames at {row['width']}x{row['height']}: {row['seconds']} s ({row['fps']} "
                  f"frames a second), {row['seconds_from_cold']} s with loading; {row['calls']} calls of the network, "
                  f"{row['calls_predicted']} predicted")  # fmt: skip
    errors = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row["warp_error"].items())
    console.print(f"repainted, warp error in grey levels: {errors}")


def write(result: dict[str, Any], path: Path) -> None:
    """The result as JSON, whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(result, indent=1, default=plain_number) + "\n")
    new.replace(path)


def plain_number(value: Any) -> Any:
    """Numpy numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def main(
    model: ModelSpec, engine: str = "auto", device: str = "auto", precision: str = "auto", quick: bool = False,
    json_file: Path | None = None,
) -> None:  # fmt: skip
    """Measures, prints, and writes `json_file`."""
    console = Console()
    result = measure(model, engine, device, precision, quick)
    show(result, console)
    if json_file is not None:
        write(result, json_file)
        console.print(f"written to {json_file}")
