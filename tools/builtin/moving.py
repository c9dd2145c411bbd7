"""Judges the built-in motion modules on clips through the chain that users run, with prompts and seeds of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from stream.clips.backend import Renderer, Watch
from stream.clips.families import family
from stream.clips.modules import find
from stream.clips.noise import camera_matrix
from stream.clips.timeline import Camera, Segment, Timeline
from stream.frame import Image

from .motion import FACTS, MotionRecipe
from .pictures import HELD_OUT, photo, square
from .report import PROMPTS

Clip = NDArray[np.uint8]  # (frames, h, w, 3)
Flow = NDArray[np.float32]  # (frames - 1, h, w, 2): where each frame's places are in the next one
EDGE = 0.1  # of each side, where what comes into the picture has no past


# ------------------------------------------------------------------------------------------------- measures


def flow(clip: Clip) -> Flow:
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    return np.stack([finder.calc(a, b, None) for a, b in pairwise(grey)])


def coherence(moves: Flow) -> float:
    """1 where everything moves one way at one speed: |mean flow| / mean |flow|."""
    return float(np.linalg.norm(moves.mean((0, 1, 2))) / np.linalg.norm(moves, axis=-1).mean())


def outwards(moves: Flow) -> float:
    """1 where everything moves straight away from the middle, -1 where towards it."""
    h, w = moves.shape[1:3]
    y, x = np.mgrid[:h, :w]
    ray = np.stack([x - (w - 1) / 2, y - (h - 1) / 2], -1)
    ray /= np.maximum(np.linalg.norm(ray, axis=-1, keepdims=True), 1)
    return float((moves * ray).sum(-1).mean() / np.linalg.norm(moves, axis=-1).mean())


def compensated(clip: Clip, camera: Camera) -> float:
    """What changes from frame to frame apart from the camera's motion: mean absolute grey levels, without the edges."""
    h, w = clip.shape[1:3]
    matrix = camera_matrix(camera, h, w)[:2]
    moved = [cv2.warpAffine(frame, matrix, (w, h), borderMode=cv2.BORDER_REFLECT_101) for frame in clip[:-1]]
    return _difference(np.stack(moved), clip[1:])


def warp_error(clip: Clip, moves: Flow) -> float:
    """What changes from frame to frame apart from the motion of `moves` (of this clip, or of what it was painted
    from), which leads back: from each frame's places to those in the frame before."""
    h, w = clip.shape[1:3]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    pairs = zip(clip[:-1], moves, strict=True)
    moved = [cv2.remap(f, x + m[..., 0], y + m[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
             for f, m in pairs]  # fmt: skip
    return _difference(np.stack(moved), clip[1:])


def back(clip: Clip) -> Flow:
    """From each frame's places to those in the frame before."""
    return flow(clip[::-1])[::-1]


def _difference(moved: NDArray[np.uint8], frames: Clip) -> float:
    y, x = (int(EDGE * side) for side in frames.shape[1:3])
    change = np.abs(moved.astype(np.float32) - frames)
    return float(change[:, y:-y, x:-x].mean())


# ---------------------------------------------------------------------------------------------------- clips


class Studio:
    """The built-in model, kept loaded."""

    def __init__(self) -> None:
        self._renderer: Renderer | None = None

    def __call__(self, **wanted: object) -> Clip:
        timeline = Timeline.model_validate({"frames": 16} | wanted)
        if self._renderer is None:
            self._renderer = family("animatediff").load(timeline, lambda _: None)
        with tempfile.TemporaryDirectory() as folder:
            return np.concatenate(list(self._renderer.render(timeline, Path(folder), Watch()).frames))


def handheld(image: Image, frames: int, seed: int = 0, size: int = 256) -> Clip:
    """A video of a photo: a hand that drifts and shakes, and a sensor's noise."""
    rng = np.random.default_rng(seed)
    way = np.cumsum(rng.normal(0, 0.7, (frames, 2)) + rng.uniform(-1.5, 1.5, 2), 0)
    out = []
    for dx, dy in way:
        matrix = np.array([[1.2, 0, dx - 0.1 * size], [0, 1.2, dy - 0.1 * size]])
        seen = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        out.append((seen + rng.normal(0, 2, seen.shape)).clip(0, 255).astype(np.uint8))
    return np.stack(out)


def as_folder(clip: Clip, folder: Path) -> Path:
    """A clip as numbered pictures, which the chain reads like a video."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(clip):
        Pillow.fromarray(frame).save(folder / f"{i:04d}.png")
    return folder


# -------------------------------------------------------------------------------------------------- figures

STYLES = ("watercolor", "oil", "pencil", "cartoon", "neon", "thermal")
Told = Callable[[str], object]


@dataclass(frozen=True)
class Bench:
    """What modules are judged on: a still photo and a shaken video of another, none of them trained on."""

    studio: Studio
    still: Path
    video: Path
    shown: Clip
    model: str
    seed: int = 1000

    @classmethod
    def made(cls, work: Path, model: str) -> Bench:
        first, second = (square(photo(name), 256) for name in HELD_OUT[:2])
        Pillow.fromarray(first).save(work / "still.png")
        shown = handheld(second, 16)
        return cls(Studio(), work / "still.png", as_folder(shown, work / "video"), shown, model)

    def clip(self, motion: str, style: str, effect: float = 1.0, **more: object) -> Clip:
        segments = [Segment(motion=motion, effect=effect)]
        return self.studio(model=self.model, prompt=PROMPTS[style], seed=self.seed, segments=segments, **more)

    def moved(self, motion: str, style: str) -> dict[str, dict[str, float]]:
        """From noise and from the still photo, with the module and without, all else the same."""
        camera = find(motion).facts.camera
        assert camera is not None, f"{motion} has no camera"
        begun: dict[str, dict[str, object]] = {"noise": {}, "photo": {"input": str(self.still)}}
        return {f"{where}, {name}": measured(self.clip(motion, style, effect, **more), camera)
                for where, more in begun.items() for name, effect in (("without", 0.0), ("with", 1.0))}  # fmt: skip

    def repainted(self, motion: str, style: str) -> dict[str, float]:
        """Warp error along the video's own flow, with the module, and frame by frame: from noise that stands still, as
        a live stream's, and from fresh noise."""
        ways: dict[str, dict[str, object]] = {
            "with": {}, "frame by frame": {"effect": 0.0, "noise": "constant"},
            "frame by frame, fresh noise": {"effect": 0.0, "noise": "fresh"},
        }  # fmt: skip
        moves = back(self.shown)
        clips = {name: self.clip(motion, style, input=str(self.video), **way) for name, way in ways.items()}
        return {name: round(warp_error(clip, moves), 2) for name, clip in clips.items()}


def measured(clip: Clip, camera: Camera) -> dict[str, float]:
    moves = flow(clip)
    found = {"one way": coherence(moves), "outwards": outwards(moves), "difference": compensated(clip, camera),
             "contrast": float(clip.std())}  # fmt: skip
    return {k: round(v, 3) for k, v in found.items()}


def write(folder: Path, model: str, tell: Told) -> None:
    """Figures, an animated picture of each module and the card, beside the modules in `folder`."""
    kinds = sorted(p.parent.name for p in folder.glob("*/config.json"))
    with tempfile.TemporaryDirectory() as work:
        bench = Bench.made(Path(work), model)
        figures: dict[str, dict[str, dict[str, object]]] = {"motion": {}, "video": {}}
        for kind in kinds:
            figures["motion"][kind] = {}
            for style in STYLES:
                figures["motion"][kind][style] = bench.moved(str(folder / kind), style)
                tell(f"{kind} {style} {figures['motion'][kind][style]}")
            animate(bench, str(folder / kind), folder / f"{kind}.gif")
        for style in STYLES:
            figures["video"][style] = dict(bench.repainted(str(folder / kinds[0]), style))
            tell(f"video {style} {figures['video'][style]}")
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "README.md").write_text(card(folder, kinds, figures))


def animate(bench: Bench, motion: str, file: Path, side: int = 160) -> None:
    """Left from noise, right from the photo."""
    small: dict[str, object] = {"width": side, "height": side}
    clips = [bench.clip(motion, "watercolor", **small), bench.clip(motion, "neon", input=str(bench.still), **small)]
    frames = [Pillow.fromarray(f).quantize(64, dither=Pillow.Dither.NONE) for f in np.concatenate(clips, 2)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=125, loop=0, optimize=True)


def card(folder: Path, kinds: Sequence[str], figures: dict[str, dict[str, dict[str, object]]]) -> str:
    rows = [
        "| module | style | from | one way | outwards | difference with | without |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        for style, found in figures["motion"][kind].items():
            for where in ("noise", "photo"):
                with_, without = (found[f"{where}, {k}"] for k in ("with", "without"))  # type: ignore[index]
                rows.append(f"| {kind} | {style} | {where} | {with_['one way']:.3f} | {with_['outwards']:.3f} | "
                            f"{with_['difference']:.2f} | {without['difference']:.2f} |")  # fmt: skip
    video = ["| style | with a module | frame by frame | frame by frame, fresh noise |", "|---|---|---|---|"]
    video += [
        f"| {style} | " + " | ".join(f"{v}" for v in row.values()) + " |" for style, row in figures["video"].items()
    ]
    about = [f"- **{kind}**: {find(str(folder / kind)).facts.about} ![{kind}]({kind}.gif)" for kind in kinds]
    size = sum(f.stat().st_size for f in folder.glob("*/*.safetensors")) / 1e6
    text = (Path(__file__).parent / "motion.md").read_text()
    return text.format(modules="\n".join(about), moved="\n".join(rows), video="\n".join(video), size=f"{size:.1f}",
                       recipe=MotionRecipe(), strength=FACTS["strength"], steps=FACTS["steps"])  # fmt: skip
