"""Judges the built-in model on photos it never saw, through the pipeline that users run, and writes its card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.frame import Frame, Image
from stream.models import Model
from stream.pipeline import Painter
from stream.settings import Settings

from .pictures import HELD_OUT, TRAINED_ON, photo, square
from .prompts import WORDS
from .styles import STYLES, stylise
from .training import Recipe

WEAK = ("ukiyo-e",)  # trained on, and not learned well enough to be offered
NAMES = tuple(s for s in STYLES if s not in WEAK)
PROMPTS = {
    "photo": "", "watercolor": "watercolor painting", "oil": "oil painting", "pencil": "pencil sketch",
    "engraving": "ink engraving", "cartoon": "cartoon", "pop art": "pop art", "neon": "neon lights",
    "thermal": "thermal camera", "night vision": "night vision", "sepia": "sepia photograph", "blueprint": "blueprint",
    "vaporwave": "vaporwave", "pixel art": "pixel art",
}  # fmt: skip
UNKNOWN = ("a golden dragon", "zorblax quux", "my grandmother's kitchen")
MIXES = (("watercolor", "neon"), ("pencil", "sepia"), ("vaporwave", "blueprint"))


def psnr(a: Image, b: Image) -> float:
    error = float(np.mean((a.astype(np.float32) - b) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def distance(a: Image, b: Image) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a.astype(np.float32) - b).mean())


class Judge:
    """One painter, asked for single pictures."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.painter, self.settings = Painter(model), settings

    def paint(self, image: Image, prompt: str, **changes: object) -> Image:
        settings = self.settings.changed(prompt=prompt, width=image.shape[1], height=image.shape[0], **changes)
        session = self.painter.open(settings)
        out = self.painter.paint(session, [Frame(image)]) + self.painter.flush(session)
        self.painter.close(session)
        return out[-1].frame.image


@dataclass(frozen=True)
class Figures:
    """What the held-out photos say. Tables are by style; `confusion[i][j]` is the mean distance of style i's output
    to style j's target, in grey levels."""

    psnr_db: dict[str, float]
    input_psnr_db: dict[str, float]
    confusion: list[list[float]]
    closest_to_own: int
    closer_than_input: int
    cases: int
    unknown_psnr_db: dict[str, float]
    mix_between: dict[str, bool]
    by_strength_db: dict[str, float]
    by_steps_db: dict[str, float]


def judge(model: Model, settings: Settings) -> tuple[Figures, dict[str, dict[str, Image]]]:
    """The figures, and every output by photo and style."""
    judged = Judge(model, settings)
    photos = {name: square(photo(name), 256) for name in HELD_OUT}
    targets = {name: {s: stylise(p, s) for s in NAMES} for name, p in photos.items()}
    outputs = {name: {s: judged.paint(p, PROMPTS[s]) for s in NAMES} for name, p in photos.items()}
    tables = np.array([[[distance(outputs[n][s], targets[n][t]) for t in NAMES] for s in NAMES] for n in photos])
    closer = [distance(outputs[n][s], targets[n][s]) < distance(photos[n], targets[n][s])
              for n in photos for s in NAMES if s != "photo"]  # fmt: skip

    def mean_psnr(style: str, **changes: object) -> float:
        return mean(psnr(judged.paint(p, PROMPTS[style], **changes), targets[n][style]) for n, p in photos.items())

    def over_styles(**changes: object) -> float:
        return mean(mean_psnr(s, **changes) for s in NAMES)

    figures = Figures(
        psnr_db={s: mean(psnr(outputs[n][s], targets[n][s]) for n in photos) for s in NAMES},
        input_psnr_db={s: mean(psnr(p, targets[n][s]) for n, p in photos.items()) for s in NAMES if s != "photo"},
        confusion=tables.mean(0).round(1).tolist(),
        closest_to_own=int((tables.argmin(-1) == np.arange(len(NAMES))).sum()),
        closer_than_input=sum(closer),
        cases=len(NAMES) * len(photos),
        unknown_psnr_db={w: mean(psnr(judged.paint(p, w), p) for p in photos.values()) for w in UNKNOWN},
        mix_between={f"{a} + {b}": between(judged, photos, a, b) for a, b in MIXES},
        by_strength_db={str(s): over_styles(strength=s) for s in (0.15, 0.25, 0.33, 0.45, 0.6, 0.8)},
        by_steps_db={str(n): over_styles(steps=n) for n in (1, 2, 4)},
    )
    return figures, outputs


def mean(values: object) -> float:
    return round(float(np.mean(list(values))), 2)  # type: ignore[call-overload]


def between(judged: Judge, photos: dict[str, Image], a: str, b: str) -> bool:
    """Whether the blend of two prompts is nearer to the mean of both outputs than either output is."""
    votes = []
    for p in photos.values():
        first, second = judged.paint(p, PROMPTS[a]), judged.paint(p, PROMPTS[b])
        middle = ((first.astype(np.float32) + second) / 2).astype(np.uint8)
        blended = judged.paint(p, f"{PROMPTS[a]} | {PROMPTS[b]}")
        votes.append(distance(blended, middle) < min(distance(first, middle), distance(second, middle)))
    return all(votes)


def label(image: Image, text: str) -> NDArray[np.uint8]:
    """The picture under a strip with its name."""
    strip = np.full((26, image.shape[1], 3), 22, np.uint8)
    cv2.putText(strip, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def contact_sheet(outputs: dict[str, dict[str, Image]], per_row: int = 7) -> NDArray[np.uint8]:
    """Every style that is offered on every held-out photo."""
    bands = []
    for name in outputs:
        cells = [label(outputs[name][s], PROMPTS[s] or "(no prompt)") for s in NAMES]
        bands += [np.hstack(cells[i : i + per_row]) for i in range(0, len(cells), per_row)]
    return np.vstack(bands)


def card(figures: Figures, recipe: Recipe) -> str:
    """The model card, Markdown."""
    short = [s[:5] for s in NAMES]
    rows = ["| output \\ target | " + " | ".join(short) + " |", "|---" * (len(NAMES) + 1) + "|"]
    for style, row in zip(NAMES, figures.confusion, strict=True):
        cells = [f"**{v:.0f}**" if v == min(row) else f"{v:.0f}" for v in row]
        rows.append(f"| {style} | " + " | ".join(cells) + " |")
    styles = ["| style | prompt | output to target, dB | input to target, dB |", "|---|---|---|---|"]
    for s in NAMES:
        before = figures.input_psnr_db.get(s)
        styles.append(f"| {s} | `{PROMPTS[s]}` | {figures.psnr_db[s]} | {'' if before is None else before} |")
    return (Path(__file__).with_name("card.md")).read_text().format(
        mean=mean(v for s, v in figures.psnr_db.items() if s != "photo"),
        mean_input=mean(figures.input_psnr_db.values()),
        own=figures.closest_to_own, cases=figures.cases,
        closer=figures.closer_than_input, closer_cases=figures.cases - len(HELD_OUT),
        confusion="\n".join(rows), styles="\n".join(styles),
        strength=", ".join(f"{k}: {v}" for k, v in figures.by_strength_db.items()),
        steps=", ".join(f"{k}: {v}" for k, v in figures.by_steps_db.items()),
        unknown=", ".join(f"`{k}` {v} dB" for k, v in figures.unknown_psnr_db.items()),
        mixes=", ".join(f"{k}: {'yes' if v else 'no'}" for k, v in figures.mix_between.items()),
        held=", ".join(HELD_OUT), photos=", ".join(TRAINED_ON), words=words(), **asdict(recipe),
    )  # fmt: skip


def words() -> str:
    return "\n".join(f"- **{s}**: {', '.join(WORDS[s])}" for s in WORDS if s in NAMES)


def write(folder: Path, model: Model, settings: Settings, recipe: Recipe) -> Figures:
    """Figures, card and contact sheet into the model's folder."""
    figures, outputs = judge(model, settings)
    (folder / "README.md").write_text(card(figures, recipe))
    (folder / "figures.json").write_text(json.dumps(asdict(figures), indent=1) + "\n")
    sheet = contact_sheet(outputs)
    cv2.imwrite(str(folder / "contact_sheet.jpg"), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return figures
