"""Measures the ranges that int8 needs of the built-in model: `python -m tools.builtin.calibrate [FOLDER]`.

Part of `tools.train_builtin`. The model paints made pictures in every style, in float32, while what goes into each
convolution is looked at; the last convolution of each network stays as it is, since its rounding would be seen.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from rich.progress import track

from engines import Choice, Network, engine_of, fold
from engines.quantise import Recorder
from stream.choice import FILE
from stream.config import ModelSpec
from stream.models import Model, load, networks_of
from stream.settings import Settings
from stream.weights import read_pipeline

from .pictures import picture
from .report import NAMES, PROMPTS, Judge

PICTURES = 60
FIRST = 100_000  # seeds of pictures that no training run reaches
STRENGTHS = (0.2, 0.25, 0.33)
USED = {"encoder": "vae.encoder.", "denoiser": "unet.", "decoder": "vae.decoder."}


def calibrate(preset: ModelSpec) -> dict[str, dict[str, tuple[float, float]]]:
    """Ranges by network and convolution, of the networks as OpenVINO runs them (folded)."""
    choice = Choice("torch", "cpu", "f32", "the reference")
    parts = [replace(n, module=fold.folded(n.module)) for n in networks_of(read_pipeline(preset), preset)]
    model = replace(load(preset, choice), engines={n.name: engine_of(n, choice) for n in parts})
    recorders = {n.name: Recorder(n.module) for n in parts}
    paint(model, preset.settings)
    return {n.name: rounded(n, recorders[n.name]) for n in parts}


def paint(model: Model, settings: Settings) -> None:
    judge = Judge(model, settings)
    for i in track(range(PICTURES), "measuring ranges", transient=True):
        prompt, strength = PROMPTS[NAMES[i % len(NAMES)]], STRENGTHS[i % len(STRENGTHS)]
        judge.paint(picture(FIRST + i, 256), prompt, strength=strength)


def rounded(network: Network, recorder: Recorder) -> dict[str, tuple[float, float]]:
    found = {name: ends for name, ends in recorder.ranges().items() if name.startswith(USED[network.name])}
    last = "unet.conv_out" if network.name == "denoiser" else list(found)[-1]
    return {name: (round(low, 5), round(high, 5)) for name, (low, high) in found.items() if name != last}


def write(folder: Path, preset: ModelSpec) -> None:
    """Puts the ranges beside the weights in `folder`."""
    table = calibrate(replace(preset, model=str(folder)))
    lines = ",\n".join(f' "{name}": {json.dumps(ranges)}' for name, ranges in table.items())
    (folder / FILE).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    from stream.config import spec
    from stream.weights import SHIPPED

    write(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED, spec("builtin"))
