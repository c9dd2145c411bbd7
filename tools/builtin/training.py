"""The three stages of training: pictures, the autoencoder, then UNet and text encoder together. Each resumes."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, UNet2DConditionModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from .networks import keep_pointwise, make_scheduler
from .pictures import picture
from .prompts import CONTEXT, mixed_prompt, photo_prompt, style_prompt
from .styles import STYLES, stylise

NAMES = tuple(STYLES)
SIZE = 256


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    pictures: int = 2000
    vae_steps: int = 9000
    word_steps: int = 1500
    unet_steps: int = 6000
    pixel_from: float = 0.5  # the share of UNet steps after which pixels count too
    vae_batch: int = 16
    batch: int = 32  # with 8 the styles stay a blur: their gradients are noisier than they are large
    seed: int = 0
    device: str = "cpu"


def progress(text: str) -> Progress:
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    return Progress(*columns, TimeRemainingColumn(), speed_estimate_period=120)


# ---------------------------------------------------------------------------------------------- pictures


def _paint(job: tuple[str, int, int]) -> int:
    path, index, seed = job
    cv2.setNumThreads(1)
    table = np.load(path, mmap_mode="r+")
    image = picture(index, SIZE, seed)
    for column, style in enumerate(NAMES):
        table[index, column] = stylise(image, style)
    return index


def make_pictures(folder: Path, recipe: Recipe) -> np.ndarray:
    """Every picture in every style, `(pictures, styles, 256, 256, 3) uint8`: 6 GB for 2,000."""
    path, done = folder / "pictures.npy", folder / "pictures.done"
    shape = (recipe.pictures, len(NAMES), SIZE, SIZE, 3)
    if not done.exists() or np.load(path, mmap_mode="r").shape != shape:
        np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        jobs = [(str(path), i, recipe.seed) for i in range(recipe.pictures)]
        with progress("pictures") as bar, multiprocessing.get_context("spawn").Pool() as pool:
            task = bar.add_task("", total=len(jobs))
            for _ in pool.imap_unordered(_paint, jobs, chunksize=8):
                bar.advance(task)
        done.touch()
    return np.load(path)  # in memory: crops at random from a mapped file spend the time in page faults


def to_tensor(images: np.ndarray, device: str) -> Tensor:
    """`(B, H, W, 3) uint8` to `(B, 3, H, W)` in -1..1."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


# ------------------------------------------------------------------------------------------------- shared


class Average:
    """An exponential moving average of weights; `weights` are what is shipped."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.weights = {k: deepcopy(m.state_dict()) for k, m in modules.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(0.999, (step + 1) / (step + 20))
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                mine = self.weights[name][key]
                if mine.is_floating_point():
                    mine.lerp_(value, 1 - decay)
                else:
                    mine.copy_(value)


class Checkpoint:
    """Modules, their average and the optimizer in one file, written atomically."""

    def __init__(self, path: Path, average: Average, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.average, self.optimizer = path, average, optimizer

    def load(self) -> int:
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, module in self.average.modules.items():
            module.load_state_dict(state["modules"][name])
        self.average.weights = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save(self, step: int) -> None:
        modules = {k: m.state_dict() for k, m in self.average.modules.items()}
        state = {"step": step, "modules": modules, "average": self.average.weights,
                 "optimizer": self.optimizer.state_dict()}  # fmt: skip
        torch.save(state, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)


def cosine(step: int, steps: int, warm: int = 200) -> float:
    return min(1, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, step / steps))))


def train(text: str, steps: int, keep: Checkpoint, step_of: Callable[[int], Tensor],
          after: Callable[[], None] = lambda: None) -> None:  # fmt: skip
    """Runs `step_of(step) -> loss` to the end with clipping, cosine, averaging and a checkpoint every 250 steps."""
    groups = keep.optimizer.param_groups
    peaks = [g["initial_lr"] for g in groups]
    start = keep.load()
    with progress(text) as bar:
        task = bar.add_task("", total=steps, completed=start)
        shown = 0.0
        for step in range(start, steps):
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * cosine(step, steps)
            loss = step_of(step)
            keep.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
            keep.optimizer.step()
            after()
            keep.average.update(step)
            shown = loss.item() if step == start else 0.98 * shown + 0.02 * loss.item()
            bar.update(task, advance=1, description=f"loss {shown:.4f}")
            if (step + 1) % 250 == 0 or step + 1 == steps:
                keep.save(step + 1)
                bar.console.print(f"{text} {step + 1}/{steps} loss {shown:.4f}", highlight=False)
    for name, module in keep.average.modules.items():
        module.load_state_dict(keep.average.weights[name])


def optimizer(rate: float, *groups: tuple[nn.Module, float]) -> torch.optim.AdamW:
    params = [{"params": list(m.parameters()), "initial_lr": rate * k} for m, k in groups]
    return torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def picture_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """L1, half the mean square, and gradients at two scales; `(B, 3, H, W)` in -1..1."""
    loss = F.l1_loss(ours, theirs) + 0.5 * F.mse_loss(ours, theirs)
    for scale in (1, 2):
        a, b = (F.avg_pool2d(x, scale) for x in (ours, theirs))
        loss = loss + 0.5 * sum(F.l1_loss(p, q) for p, q in zip(gradients(a), gradients(b), strict=True))
    return loss


# -------------------------------------------------------------------------------------------- autoencoder


def train_vae(folder: Path, vae: AutoencoderTiny, table: np.ndarray, recipe: Recipe) -> None:
    """Crops of 64 pixels of any picture in any style, with a little noise on the latent."""
    vae.to(recipe.device, memory_format=torch.channels_last).train()
    keep = Checkpoint(folder / "vae.pt", Average({"vae": vae}), optimizer(2e-3, (vae, 1)))

    def step_of(step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, 1, step])
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        crops = []
        for _ in range(recipe.vae_batch):
            i, s = rng.integers(len(table)), rng.integers(len(NAMES)) if rng.random() < 0.8 else 0
            y, x = rng.integers(0, (SIZE - 64) // 4 + 1, 2) * 4
            crops.append(table[i, s, y : y + 64, x : x + 64])
        images = to_tensor(np.stack(crops), recipe.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(recipe.device, torch.bfloat16):
            z = vae.encode(images, return_dict=False)[0]
            ours = vae.decode(z + 0.06 * torch.randn_like(z), return_dict=False)[0].float()
        z = z.float()
        unit = z.mean((0, 2, 3)).square().mean() + (z.std((0, 2, 3)) - 1).square().mean()
        return picture_loss(ours, images) + 0.02 * unit

    train("autoencoder", recipe.vae_steps, keep, step_of, lambda: keep_pointwise(vae))


@torch.no_grad()
def make_latents(folder: Path, vae: AutoencoderTiny, table: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Latents of the whole table, scaled to unit variance, `(pictures, styles, 4, 64, 64) float16`."""
    path, done = folder / "latents.npy", folder / "latents.done"
    shape = (*table.shape[:2], 4, SIZE // 4, SIZE // 4)
    if not done.exists():
        vae.eval()
        sample = vae.encode(to_tensor(table[:64, ::3].reshape(-1, SIZE, SIZE, 3), recipe.device), return_dict=False)[0]
        (folder / "scale").write_text(repr(float(1 / sample.std())))
        scale = float((folder / "scale").read_text())
        out = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        with progress("latents") as bar:
            for i in bar.track(range(len(table))):
                out[i] = (vae.encode(to_tensor(table[i], recipe.device), return_dict=False)[0] * scale).half().cpu()
        out.flush()
        done.touch()
    vae.register_to_config(scaling_factor=float((folder / "scale").read_text()))
    return np.load(path)


# ------------------------------------------------------------------------------------------ UNet and text


@dataclass(frozen=True)
class Wish:
    """Two prompts, the styles they ask for, and the share of the second."""

    prompts: tuple[str, str]
    styles: tuple[int, int]
    share: float


def wish(rng: np.random.Generator) -> Wish:
    """16 % no style, 12 % two styles in words, 12 % two prompts blended, else one style."""
    chance = rng.random()
    a, b = (int(i) for i in rng.choice(len(NAMES) - 1, 2, replace=False) + 1)
    if chance < 0.16:
        prompt = photo_prompt(rng)
        return Wish((prompt, prompt), (0, 0), 0.0)
    if chance < 0.28:
        prompt = mixed_prompt(NAMES[a], NAMES[b], rng)
        return Wish((prompt, prompt), (a, b), 0.5)
    first = style_prompt(NAMES[a], rng)
    if chance < 0.40:
        b = b if rng.random() < 0.7 else 0
        return Wish((first, style_prompt(NAMES[b], rng)), (a, b), float(rng.uniform(0.1, 0.9)))
    return Wish((first, first), (a, a), 0.0)


class Words:
    """Prompts to embeddings `(B, 77, d)` through tokenizer and text encoder."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, device: str) -> None:
        self.tokenizer, self.encoder, self.device = tokenizer, encoder, device

    def __call__(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(prompts, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")
        return self.encoder(tokens.input_ids.to(self.device)).last_hidden_state


def train_words(folder: Path, text: CLIPTextModel, tokenizer: CLIPTokenizer, recipe: Recipe) -> None:
    """Words first: the mean of a prompt's tokens must tell its styles to a linear map. Without this head start the
    UNet learns for a long while to ignore a text that says nothing yet."""
    torch.manual_seed(recipe.seed)
    head = nn.Linear(text.config.hidden_size, len(NAMES)).to(recipe.device)
    words = Words(tokenizer, text.to(recipe.device), recipe.device)
    average = Average({"text": text, "head": head})
    keep = Checkpoint(folder / "words.pt", average, optimizer(1e-3, (text, 1), (head, 1)))

    def step_of(step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, 3, step])
        wishes = [wish(rng) for _ in range(48)]
        labels = torch.zeros(len(wishes), len(NAMES))
        for row, w in zip(labels, wishes, strict=True):
            both = w.prompts[0] == w.prompts[1]
            row[w.styles[0]] += 0.5 if both else 1
            row[w.styles[1]] += 0.5 if both else 0
        told = words([w.prompts[0] for w in wishes]).mean(1)
        return F.cross_entropy(head(told), labels.to(recipe.device))

    train("words", recipe.word_steps, keep, step_of)


def train_unet(folder: Path, vae: AutoencoderTiny, unet: UNet2DConditionModel, text: CLIPTextModel,
               tokenizer: CLIPTokenizer, table: np.ndarray, latents: np.ndarray, recipe: Recipe) -> None:  # fmt: skip
    """The bridge: x_t is made mostly of the photo's latent, the target is the styled one, so that one step is enough.

    From `pixel_from` on, pixels through the decoder count too, the decoder learns along (the encoder never changes
    here), and a quarter of the samples start from the model's own previous answer.
    """
    device = recipe.device
    for module in (vae, unet):
        module.to(device, memory_format=torch.channels_last)
    text.to(device)
    vae.eval().requires_grad_(False)
    vae.decoder.requires_grad_(True)
    decoder = vae.decoder
    parts = {"unet": unet, "text": text, "decoder": decoder}
    keep = Checkpoint(folder / "unet.pt", Average(parts), optimizer(1e-3, (unet, 1), (text, 0.5), (decoder, 0.2)))
    alphas = make_scheduler().alphas_cumprod.to(device)
    words = Words(tokenizer, text, device)
    scale = float(vae.config.scaling_factor)

    def predict(x: Tensor, t: Tensor, a: Tensor, b: Tensor, told: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):  # on a CPU float32 trains twice as fast
            v = unet(x.contiguous(memory_format=torch.channels_last), t, told, return_dict=False)[0]
        return a * x - b * v.float()

    def step_of(step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, 2, step])
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        late = step >= recipe.pixel_from * recipe.unet_steps
        whole = rng.random() < 0.2
        count, side = (recipe.batch // 4, 64) if whole else (recipe.batch, 32)
        wishes = [wish(rng) for _ in range(count)]
        chosen = rng.integers(len(table), size=count)
        corners = rng.integers(0, (64 - side) // 8 + 1, (count, 2)) * 8

        def cut(source: np.ndarray, column: list[int], per: int) -> np.ndarray:
            axis = 2 if source is latents else 1
            out = []
            for i, c, (y, x) in zip(chosen, column, corners * per, strict=True):
                piece = source[i, c]
                rows, cols = slice(y, y + side * per), slice(x, x + side * per)
                out.append(piece[:, rows, cols] if axis == 2 else piece[rows, cols])
            return np.stack(out)

        def latent(column: list[int]) -> Tensor:
            return torch.from_numpy(cut(latents, column, 1)).to(device).float()

        share = torch.tensor([w.share for w in wishes], device=device).view(-1, 1, 1, 1)
        first, second = [w.styles[0] for w in wishes], [w.styles[1] for w in wishes]
        target = torch.lerp(latent(first), latent(second), share)
        source = latent([0] * count)
        told = words([w.prompts[0] for w in wishes])
        if blended := [i for i, w in enumerate(wishes) if w.prompts[1] != w.prompts[0]]:
            others = words([wishes[i].prompts[1] for i in blended])
            told = told.index_add(0, torch.tensor(blended, device=device),
                                  share.view(-1, 1, 1)[blended] * (others - told[blended]))  # fmt: skip

        low = rng.random(count) < 0.7
        t = torch.from_numpy(np.where(low, rng.integers(30, 260, count), rng.integers(10, 1000, count))).to(device)
        a, b = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
        bridge = torch.from_numpy(rng.random(count) < 0.75).to(device).view(-1, 1, 1, 1)
        start = torch.where(bridge, source, target)
        if late and step % 4 == 0:
            with torch.no_grad():
                earlier = predict(a * source + b * torch.randn_like(source), t, a, b, told)
            t = (t.float() * torch.rand(count, device=device)).long().clamp_(10)
            a, b = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
            start = earlier
        ours = predict(a * start + b * torch.randn_like(start), t, a, b, told)
        weight = (1 / (1 - alphas[t])).clamp(max=4).view(-1, 1, 1, 1) / 2
        loss = (weight * ((ours - target).square() + 0.3 * (ours - target).abs())).mean()
        if not late:
            return loss
        part = slice(count // 4)  # decoding costs as much as the rest: a quarter of the batch is enough
        chosen, corners, share, ours, weight = (x[part] for x in (chosen, corners, share, ours, weight))
        pixels = [to_tensor(cut(table, column[part], 4), device) for column in (first, second)]
        wanted = torch.lerp(pixels[0], pixels[1], share)
        with torch.autocast(device, torch.bfloat16):
            painted = vae.decode(ours.contiguous(memory_format=torch.channels_last) / scale, return_dict=False)[0]
        error = (painted.float() - wanted).abs().mean((1, 2, 3), keepdim=True)
        slope = sum(((p - q).abs().mean((1, 2, 3), keepdim=True)
                     for p, q in zip(gradients(painted.float()), gradients(wanted), strict=True)),
                    start=torch.zeros_like(error))  # fmt: skip
        return 0.3 * loss + (weight * (error + 0.5 * slope)).mean()

    train("painter", recipe.unet_steps, keep, step_of, lambda: keep_pointwise(vae))
