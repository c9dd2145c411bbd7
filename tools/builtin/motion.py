"""The built-in motion modules, trained on top of the built-in model, whose own weights do not change. Each resumes.

First one module on every kind of motion, which then goes on as one module a kind. Noise moves with the camera. Half of
the clips are pictures of the training set under it, and the module learns their style; the other half begin at pure
noise and go the sampler's way, and the module learns what the model itself would paint, averaged along the motion.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import MotionAdapter
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from stream.clips.noise import CameraCanvas, camera_matrix
from stream.clips.timeline import Camera
from stream.clips.unet import MotionUNet, motion_unet

from . import training
from .prompts import photo_prompt, style_prompt
from .training import NAMES, Average, Checkpoint, Words, hold_then_fall, optimizer, to_tensor, train

VIEW = 128  # pixels a side of a training clip
FACTOR = 4
SIDE = VIEW // FACTOR
STEPS = 6  # of the sampler, from pure noise
SCREENS = ("pencil", "engraving", "pop art", "night vision", "blueprint", "vaporwave", "pixel art")  # stay on the grid


@dataclass(frozen=True)
class MotionRecipe:
    """Everything that decides the motion modules."""

    steady_steps: int = 1500
    kind_steps: int = 220
    reach: int = 3  # frames either way that the teacher is averaged over
    steadiness: float = 2.0  # how much an error that changes from frame to frame counts, next to any error
    seed: int = 0
    device: str = "cpu"


# -------------------------------------------------------------------------------------------------- cameras

Rng = np.random.Generator


def pan(rng: Rng, frames: int) -> list[Camera]:
    """Sideways or any other way, at one speed."""
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.002, 0.03)
    return [Camera(x=speed * np.cos(angle), y=speed * np.sin(angle))] * frames


def zoom(rng: Rng, frames: int) -> list[Camera]:
    return [Camera(zoom=float(np.exp(rng.choice([-1, 1]) * rng.uniform(0.004, 0.04))))] * frames


def drift(rng: Rng, frames: int) -> list[Camera]:
    """Slowly, on a way that turns, rolls and breathes."""
    at = np.arange(frames)[:, None] * rng.uniform(0.05, 0.3, 4) + rng.uniform(0, 2 * np.pi, 4)
    x, y, roll, grow = (np.sin(at) * rng.uniform(0, 1, 4) * [0.02, 0.02, 1.5, 0.02]).T
    return [Camera(x=a, y=b, rotate=c, zoom=float(np.exp(d))) for a, b, c, d in zip(x, y, roll, grow, strict=True)]


KINDS: dict[str, Callable[[Rng, int], list[Camera]]] = {"pan": pan, "zoom": zoom, "drift": drift}


# -------------------------------------------------------------------------------------------------- modules


def make_adapter(seed: int) -> MotionAdapter:
    """0.5 M parameters: temporal attention where texture is made, in the two finest levels. It begins as a no-op."""
    torch.manual_seed(seed)
    adapter = MotionAdapter(
        (32, 64, 96, 128), motion_layers_per_block=1, motion_transformer_layers_per_block=(1, 1, 0, 0),
        motion_num_attention_heads=4, motion_norm_num_groups=16, motion_max_seq_length=32, use_motion_mid_block=False,
    )  # fmt: skip
    for layer in adapter.modules():
        if isinstance(layer, AnimateDiffTransformer3D):
            nn.init.zeros_(layer.proj_out.weight)
            nn.init.zeros_(layer.proj_out.bias)
    return adapter


@dataclass(frozen=True)
class Way:
    """A camera's way through a clip: matrices of every frame, from the first one's places to its own."""

    cameras: list[Camera]
    noise: Tensor  # (frames, 4, SIDE, SIDE)

    @classmethod
    def of(cls, kind: str, frames: int, rng: Rng) -> Way:
        cameras = KINDS[kind](rng, frames)
        canvas = CameraCanvas(4, SIDE, SIDE, int(rng.integers(2**31)))
        return cls(cameras, torch.stack([canvas.frame(), *(canvas.move(c) for c in cameras[1:])]))

    def matrices(self, side: int) -> list[np.ndarray]:
        """For pictures of this side, `(3, 3)` each."""
        out = [np.eye(3)]
        for camera in self.cameras[1:]:
            out.append(camera_matrix(camera, side, side) @ out[-1])
        return out

    def brought(self, frames: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Every frame `(f, c, SIDE, SIDE)` as the one `step` frames on (or back) would see it, and where it was seen
        `(f, 1, SIDE, SIDE)`. What would come from beyond the clip is unseen."""
        matrices = self.matrices(SIDE)
        count = len(frames)
        came = [m - step for m in range(count)]
        back = [np.linalg.inv(matrices[m]) for m in range(count)]
        ways = [(matrices[c] @ back[m] if 0 <= c < count else np.eye(3))[:2] for m, c in enumerate(came)]
        y, x = torch.meshgrid(torch.arange(SIDE).float(), torch.arange(SIDE).float(), indexing="ij")
        here = torch.stack([x, y, torch.ones_like(x)], -1).to(frames)
        grid = torch.einsum("fij,yxj->fyxi", torch.from_numpy(np.stack(ways)).to(frames), here) * 2 / (SIDE - 1) - 1
        chosen = frames[torch.tensor([min(max(c, 0), count - 1) for c in came])]
        seen = (grid.abs().amax(-1) <= 1) & torch.tensor([0 <= c < count for c in came])[:, None, None].to(
            frames.device
        )
        return F.grid_sample(chosen, grid, align_corners=True), seen[:, None].to(frames)

    def averaged(self, frames: Tensor, reach: int) -> Tensor:
        """The mean of what each place looks like in up to `reach` frames before and after."""
        total, weight = frames.clone(), torch.ones_like(frames[:, :1])
        for step in [s for s in range(-reach, reach + 1) if s]:
            brought, seen = self.brought(frames, step)
            total, weight = total + brought * seen, weight + seen
        return total / weight

    def unsteadiness(self, error: Tensor) -> Tensor:
        """How much an error changes from frame to frame, along the motion: mean square."""
        brought, seen = self.brought(error, 1)
        return ((brought - error).square() * seen).sum() / (seen.sum() * error.shape[1]).clamp(min=1)


class MotionTraining:
    """One step of a motion module over the built-in model, which stays as it is."""

    def __init__(self, pipeline: Any, adapter: MotionAdapter, table: np.ndarray, recipe: MotionRecipe) -> None:
        device = recipe.device
        self._vae = pipeline.vae.to(device).requires_grad_(False)
        self._words = Words(pipeline.tokenizer, pipeline.text_encoder.requires_grad_(False), device)
        unet = pipeline.unet.to(device).requires_grad_(False)
        self._net, self._alone = motion_unet(unet, adapter), motion_unet(unet)
        self._alphas = training.make_scheduler().alphas_cumprod.to(device)
        self._table, self._recipe = table, recipe

    def loss(self, step: int, kinds: tuple[str, ...]) -> Tensor:
        rng = np.random.default_rng([self._recipe.seed, 12, step])
        torch.manual_seed(self._recipe.seed * 1_000_003 + step)
        frames = int(rng.choice([8, 12, 16], p=[0.5, 0.25, 0.25]))
        way = Way.of(kinds[int(rng.integers(len(kinds)))], frames, rng)
        column = int(rng.integers(len(NAMES)))
        prompt = photo_prompt(rng) if column == 0 else style_prompt(NAMES[column], rng)
        with torch.no_grad():
            told = self._words([prompt]).expand(frames, -1, -1)
        screen = NAMES[column] in SCREENS
        if rng.random() < 0.5:
            return self._repainted(rng, way, column, told, screen)
        return self._from_noise(rng, way, told, screen)

    def _repainted(self, rng: Rng, way: Way, column: int, told: Tensor, screen: bool) -> Tensor:
        """Photo in, style out. Noise moves along, or stands still, as that of a video that is repainted."""
        photo, styled = self._pictures(rng, way, column)
        noise = way.noise if rng.random() < 0.4 else way.noise[:1].expand_as(way.noise)
        t = int(rng.integers(60, 400))
        a, b = self._shares(t)
        x = a * photo + b * noise.to(photo)
        wanted = self._steadied(x, t, told, way, screen) if screen else styled
        return self._weighed(b, self._clean(self._net, x, t, told) - wanted, way)

    def _from_noise(self, rng: Rng, way: Way, told: Tensor, screen: bool) -> Tensor:
        """The sampler's own way down to one of its steps; there the model alone, averaged along the motion, teaches."""
        x = way.noise.to(self._recipe.device)
        times = [round(1000 - i * 1000 / STEPS) - 1 for i in range(STEPS)]
        stop = int(rng.integers(STEPS))
        with torch.no_grad():
            for t, after in islice(pairwise(times), stop):
                x = self._down(x, self._clean(self._net, x, t, told), t, after)
        wanted = self._steadied(x, times[stop], told, way, screen)
        error = self._clean(self._net, x, times[stop], told) - wanted
        return self._weighed(self._shares(times[stop])[1], error, way)

    @torch.no_grad()
    def _steadied(self, x: Tensor, t: int, told: Tensor, way: Way, screen: bool) -> Tensor:
        """What the model alone takes for the pictures, averaged along the motion, its contrast kept; where the style
        has a screen, which stays where it is, only what is coarser than that."""
        alone = self._clean(self._alone, x, t, told)
        mean = way.averaged(alone, self._recipe.reach)
        middle, gain = mean.mean((0, 2, 3), keepdim=True), _spread(alone) / _spread(mean).clamp(min=1e-3)
        change = middle + (mean - middle) * gain.clamp(max=1.5) - alone
        if screen:
            change = F.avg_pool2d(F.avg_pool2d(change, 5, 1, 2, count_include_pad=False), 5, 1, 2)
        return alone + change

    def _weighed(self, b: float, error: Tensor, way: Way) -> Tensor:
        unsteady = self._recipe.steadiness * way.unsteadiness(error)
        return min(1 / b**2, 4) / 2 * (error.square().mean() + unsteady)

    def _pictures(self, rng: Rng, way: Way, column: int) -> tuple[Tensor, Tensor]:
        """Latents of a photo, with a sensor's noise, and of its style, under the camera. The first frame lies as the
        styles' screens do."""
        picture = self._table[int(rng.integers(len(self._table)))]
        corner = np.eye(3)
        corner[:2, 2] = -32 * rng.integers(0, (256 - VIEW) // 32 + 1, 2)
        matrices = [m @ corner for m in way.matrices(VIEW)]
        pixels = to_tensor(np.stack([_seen(picture[c], m) for c in (0, column) for m in matrices]), self._recipe.device)
        grain = rng.uniform(0, 4) / 127.5 * (rng.random() < 0.5)
        pixels[: len(matrices)] += grain * torch.randn_like(pixels[: len(matrices)])
        with torch.no_grad():
            latents: Tensor = self._vae.encode(pixels, return_dict=False)[0] * self._vae.config.scaling_factor
        return latents[: len(matrices)], latents[len(matrices) :]

    def _shares(self, t: int) -> tuple[float, float]:
        alpha = float(self._alphas[t])
        return alpha**0.5, (1 - alpha) ** 0.5

    def _clean(self, net: MotionUNet, x: Tensor, t: int, told: Tensor) -> Tensor:
        """What a network takes for the picture in `x`."""
        a, b = self._shares(t)
        v = net(x.transpose(0, 1)[None], torch.tensor(t), told, return_dict=False)[0][0].transpose(0, 1)
        return a * x - b * v

    def _down(self, x: Tensor, clean: Tensor, t: int, after: int) -> Tensor:
        """DDIM."""
        (a, b), (a_next, b_next) = self._shares(t), self._shares(after)
        return a_next * clean + b_next * (x - a * clean) / b


def _spread(frames: Tensor) -> Tensor:
    """How far a clip's values lie apart, `(1, channels, 1, 1)`."""
    return frames.std((0, 2, 3), keepdim=True)


def _seen(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(image, matrix[:2], (VIEW, VIEW), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def train_module(folder: Path, name: str, pipeline: Any, adapter: MotionAdapter, table: np.ndarray,
                 recipe: MotionRecipe) -> None:  # fmt: skip
    """`steady` on every kind of motion, else on the kind called `name`, going on from the adapter as it is."""
    lesson = MotionTraining(pipeline, adapter.to(recipe.device), table, recipe)
    steps, rate = (recipe.steady_steps, 1e-3) if name == "steady" else (recipe.kind_steps, 4e-4)
    kinds = tuple(KINDS) if name == "steady" else (name,)
    keep = Checkpoint(folder / f"{name}.pt", Average({"adapter": adapter}), optimizer(rate, (adapter, 1)))
    train(name, steps, keep, lambda step: lesson.loss(step, kinds), rate=hold_then_fall)


def train_modules(folder: Path, pipeline: Any, table: np.ndarray, recipe: MotionRecipe) -> dict[str, MotionAdapter]:
    """Every module, by the name of its motion."""
    steady = make_adapter(recipe.seed)
    train_module(folder, "steady", pipeline, steady, table, recipe)
    made = {}
    for kind in KINDS:
        made[kind] = make_adapter(recipe.seed)
        made[kind].load_state_dict(steady.state_dict())
        train_module(folder, kind, pipeline, made[kind], table, recipe)
    return made


# ---------------------------------------------------------------------------------------------------- files

FACTS = {"version": "builtin", "licence": "Apache-2.0", "sampler": "ddim", "spacing": "trailing", "steps": 8,
         "guidance_scale": 1.0, "strength": 0.2}  # fmt: skip
SHIPPED: dict[str, tuple[str, Camera]] = {
    "pan": ("What is seen moves to the right.", Camera(x=0.012)),
    "zoom": ("What is seen grows out of the middle.", Camera(zoom=1.02)),
    "drift": ("What is seen turns slowly and comes nearer, to the right and down.",
              Camera(x=0.005, y=0.003, rotate=0.6, zoom=1.006)),
}  # fmt: skip


def save_modules(folder: Path, made: dict[str, MotionAdapter]) -> None:
    """Each as a diffusers folder in half precision, with what is known of it."""
    for kind, adapter in made.items():
        adapter.half().save_pretrained(folder / kind)
        about, camera = SHIPPED[kind]
        facts = FACTS | {"about": about, "camera": camera.model_dump(exclude_defaults=True)}
        (folder / kind / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        for file in (folder / kind).iterdir():
            file.chmod(0o644)  # diffusers writes weights for its own user alone
