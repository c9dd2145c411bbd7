"""The pictures of the README and the docs, made by the product itself: `python -m tools.figures [bench.json]`.

Paints the test card and the held-out photos with the built-in model, and draws the plot of a bench.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.cache import default_folder
from stream.choice import choose
from stream.config import spec
from stream.models import load
from stream.sources.testcard import CardSource
from tools.builtin.pictures import photo, square
from tools.builtin.report import NAMES, PROMPTS, Judge, label

IMAGES = Path(__file__).parents[1] / "docs" / "img"
SHOWN = ("watercolor", "engraving", "pop art", "neon", "vaporwave")
BLUE, RED, GREY = "#3b7dd8", "#e0663f", "#9aa4b2"


def save(name: str, image: NDArray[np.uint8]) -> None:
    cv2.imwrite(str(IMAGES / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def painted(judge: Judge) -> None:
    """The test card in a row of styles, and a held-out photo in all of them."""
    card = CardSource(200, (480, 288)).draw(70)
    cells = [label(card, "livebrush run testcard ...")]
    cells += [label(judge.paint(card, PROMPTS[s]), PROMPTS[s]) for s in SHOWN]
    save("testcard.jpg", np.vstack([np.hstack(cells[:3]), np.hstack(cells[3:])]))
    face = square(photo("astronaut"), 256)
    cells = [label(face, "the photo")]
    cells += [label(judge.paint(face, PROMPTS[s]), PROMPTS[s]) for s in NAMES if s != "photo"]
    save("styles.jpg", np.vstack([np.hstack(cells[i : i + 7]) for i in range(0, len(cells), 7)]))


def plot(result: dict[str, Any], path: Path) -> None:
    """Where the time goes, against plain diffusers, and what several streams get."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    where = result["conditions"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    stages = {k: v["p50"] for k, v in result["stages_ms"].items()}
    left.barh(list(stages), list(stages.values()), color=BLUE)
    left.invert_yaxis()
    left.set(title="One frame, by stage (p50)", xlabel="ms")
    ours = {f"livebrush\n{name}": row["fps"] for name, row in result["precisions"].items()}
    ours |= {f"{next(iter(ours))},\nfile to file": result["file"]["fps"]}
    names = ["plain\ndiffusers", *ours]
    drawn = middle.bar(names, [result["diffusers_fps"], *ours.values()], color=[GREY, RED] + [BLUE] * (len(ours) - 1))
    middle.bar_label(drawn, fmt="%.1f")
    middle.set(title="Frames a second, same weights and step", ylabel="fps")
    streams = {k: v["fps"] for k, v in result["streams"].items()}
    drawn = right.bar(list(streams), list(streams.values()), color=BLUE)
    right.bar_label(drawn, fmt="%.0f")
    right.set(title="Streams at once, frames a second in all", xlabel="streams", ylabel="fps")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    settings = where["settings"]
    figure.suptitle(f"{where['model']}, {settings['width']}x{settings['height']}, {settings['steps']} step, "
                    f"{where['engine']['backend']}, {where['processor']}, {where['cores']} cores, {where['date'][:10]}",
                    fontsize=9, color="#555")  # fmt: skip
    figure.savefig(path, dpi=110)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    preset = spec("builtin")
    painted(Judge(load(preset, choose(preset), default_folder()), preset.settings))
    if len(sys.argv) > 1:
        plot(json.loads(Path(sys.argv[1]).read_text()), IMAGES / "bench.png")


if __name__ == "__main__":
    main()
