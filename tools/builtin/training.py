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
    unet_steps: int = 7500
    pixel_from: float = 0.7  # the share of UNet steps after which pixels count too
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


def hold_then_fall(step: int, steps: int, warm: int = 200, fall: float = 0.35) -> float:
    """The same rate for most of the way, then a straight line to zero: steps may be added before the fall."""
    return min(1, (step + 1) / warm, (1 - step / steps) / fall)


def train(text: str, steps: int, keep: Checkpoint, step_of: Callable[[int], Tensor],
          after: Callable[[], None] = lambda: None, rate: Callable[[int, int], float] = cosine) -> None:  # fmt: skip
    """Runs `step_of(step) -> loss` to the end with clipping, a rate, averaging and a checkpoint every 250 steps."""
    peaks = [g["initial_lr"] for g in keep.optimizer.param_groups]
    start = keep.load()
    with progress(text) as bar:
        task = bar.add_task("", total=steps, completed=start)
        shown = 0.0
        for step in range(start, steps):
            loss = step_of(step)
            take(keep.optimizer, loss, [peak * rate(step, steps) for peak in peaks])
            after()
            keep.average.update(step)
            shown = loss.item() if step == start else 0.98 * shown + 0.02 * loss.item()
            bar.update(task, advance=1, description=f"loss {shown:.4f}")
            if (step + 1) % 250 == 0 or step + 1 == steps:
                keep.save(step + 1)
                bar.console.print(f"{text} {step + 1}/{steps} loss {shown:.4f}", highlight=False)
    for name, module in keep.average.modules.items():
        module.load_state_dict(keep.average.weights[name])


def take(optimizer: torch.optim.Optimizer, loss: Tensor, rates: list[float]) -> None:
    """One step down the gradient, at a rate for each group."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):  # loading a state makes new groups
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()


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


class Crops:
    """What one step learns from: wishes, and the same piece of a picture in every style that they ask for."""

    def __init__(self, rng: np.random.Generator, table: np.ndarray, latents: np.ndarray, recipe: Recipe) -> None:
        self._table, self._latents, self._device = table, latents, recipe.device
        whole = rng.random() < 0.2
        count, self._side = (recipe.batch // 4, 64) if whole else (recipe.batch, 32)
        self.wishes = [wish(rng) for _ in range(count)]
        self._chosen = rng.integers(len(table), size=count)
        self._corners = rng.integers(0, (64 - self._side) // 8 + 1, (count, 2)) * 8  # the styles' screens stay in place
        self.share = torch.tensor([w.share for w in self.wishes], device=recipe.device).view(-1, 1, 1, 1)
        self._first = [w.styles[0] for w in self.wishes]
        self._second = [w.styles[1] for w in self.wishes]

    def __len__(self) -> int:
        return len(self.wishes)

    def target(self) -> Tensor:
        """Latents of the wish, `(B, 4, side, side)`."""
        return torch.lerp(self._latent(self._first), self._latent(self._second), self.share)

    def source(self) -> Tensor:
        """Latents of the photo."""
        return self._latent([0] * len(self))

    def pixels(self, count: int) -> Tensor:
        """The wish itself, of the first `count`, `(count, 3, 4 side, 4 side)` in -1..1."""
        first, second = (to_tensor(self._cut_pixels(c[:count]), self._device) for c in (self._first, self._second))
        return torch.lerp(first, second, self.share[:count])

    def told(self, words: Words) -> Tensor:
        """The embeddings of the wishes, blended where they have two prompts."""
        told = words([w.prompts[0] for w in self.wishes])
        blended = [i for i, w in enumerate(self.wishes) if w.prompts[1] != w.prompts[0]]
        if not blended:
            return told
        towards = words([self.wishes[i].prompts[1] for i in blended]) - told[blended]
        rows = torch.tensor(blended, device=self._device)
        return told.index_add(0, rows, self.share.view(-1, 1, 1)[blended] * towards)

    def _latent(self, column: list[int]) -> Tensor:
        n = self._side
        places = zip(self._chosen, column, self._corners, strict=True)
        pieces = [self._latents[i, c, :, y : y + n, x : x + n] for i, c, (y, x) in places]
        return torch.from_numpy(np.stack(pieces)).to(self._device).float()

    def _cut_pixels(self, column: list[int]) -> np.ndarray:
        n = 4 * self._side
        places = zip(self._chosen, column, 4 * self._corners, strict=False)
        return np.stack([self._table[i, c, y : y + n, x : x + n] for i, c, (y, x) in places])


@dataclass(frozen=True)
class Noised:
    """Timesteps of a batch with their weights of picture and noise, `(B, 1, 1, 1)`."""

    t: Tensor
    a: Tensor
    b: Tensor

    @classmethod
    def at(cls, t: Tensor, alphas: Tensor) -> Noised:
        return cls(t, alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1))

    def mix(self, z: Tensor) -> Tensor:
        return self.a * z + self.b * torch.randn_like(z)

    def weight(self) -> Tensor:
        return self.b.square().reciprocal().clamp(max=4) / 2


class PainterTraining:
    """One step of UNet, text encoder and decoder."""

    def __init__(self, vae: AutoencoderTiny, unet: UNet2DConditionModel, words: Words, recipe: Recipe) -> None:
        self._vae, self._unet, self._words, self._recipe = vae, unet, words, recipe
        self._alphas = make_scheduler().alphas_cumprod.to(recipe.device)

    def loss(self, step: int, table: np.ndarray, latents: np.ndarray) -> Tensor:
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, 2, step])
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        crops = Crops(rng, table, latents, recipe)
        target, source, told = crops.target(), crops.source(), crops.told(self._words)
        late = step >= recipe.pixel_from * recipe.unet_steps
        noised, start = self._start(rng, source, target)
        if late and step % 4 == 0:
            noised, start = self._from_its_own(noised, source, told)
        ours = self._predict(noised.mix(start), noised, told)
        loss = (noised.weight() * ((ours - target).square() + 0.3 * (ours - target).abs())).mean()
        return loss + 0.3 * self._pixel_loss(ours, noised, crops) if late else loss  # more stalls it: few, noisy crops

    def _start(self, rng: np.random.Generator, source: Tensor, target: Tensor) -> tuple[Noised, Tensor]:
        """Mostly low noise, about the preset's own, and mostly on the photo: the bridge."""
        count, device = len(source), source.device
        which = rng.random(count)
        own, low, any_t = rng.integers(30, 130, count), rng.integers(10, 260, count), rng.integers(10, 1000, count)
        t = torch.from_numpy(np.where(which < 0.5, own, np.where(which < 0.8, low, any_t))).to(device)
        bridge = torch.from_numpy(rng.random(count) < 0.75).to(device).view(-1, 1, 1, 1)
        return Noised.at(t, self._alphas), torch.where(bridge, source, target)

    @torch.no_grad()
    def _from_its_own(self, noised: Noised, source: Tensor, told: Tensor) -> tuple[Noised, Tensor]:
        """A second step, with less noise, on the model's own first answer."""
        earlier = self._predict(noised.mix(source), noised, told)
        t = (noised.t.float() * torch.rand(len(source), device=source.device)).long().clamp_(10)
        return Noised.at(t, self._alphas), earlier

    def _predict(self, x: Tensor, noised: Noised, told: Tensor) -> Tensor:
        device = self._recipe.device
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):  # on a CPU float32 trains twice as fast
            x = x.contiguous(memory_format=torch.channels_last)
            v = self._unet(x, noised.t, told, return_dict=False)[0]
        return noised.a * x - noised.b * v.float()

    def _pixel_loss(self, ours: Tensor, noised: Noised, crops: Crops) -> Tensor:
        """L1 and gradients of a quarter of the batch: decoding costs as much as all the rest."""
        count = len(crops) // 4
        wanted = crops.pixels(count)
        z = ours[:count].contiguous(memory_format=torch.channels_last) / float(self._vae.config.scaling_factor)
        with torch.autocast(self._recipe.device, torch.bfloat16):
            painted = self._vae.decode(z, return_dict=False)[0].float()
        error = per_picture(painted, wanted)
        for ours_slope, theirs in zip(gradients(painted), gradients(wanted), strict=True):
            error = error + 0.5 * per_picture(ours_slope, theirs)
        return (noised.weight()[:count] * error).mean()


def per_picture(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each picture, `(B, 1, 1, 1)`."""
    return (a - b).abs().mean((1, 2, 3), keepdim=True)


def train_unet(folder: Path, vae: AutoencoderTiny, unet: UNet2DConditionModel, text: CLIPTextModel,
               tokenizer: CLIPTokenizer, table: np.ndarray, latents: np.ndarray, recipe: Recipe) -> None:  # fmt: skip
    """The bridge: x_t is made mostly of the photo's latent, the target is the styled one, so that one step is enough.

    From `pixel_from` on, pixels through the decoder count too, the decoder learns along (the encoder never changes
    here), and a quarter of the steps start from the model's own previous answer.
    """
    for module in (vae, unet):
        module.to(recipe.device, memory_format=torch.channels_last)
    vae.eval().requires_grad_(False)
    vae.decoder.requires_grad_(True)
    parts = {"unet": unet, "text": text.to(recipe.device), "decoder": vae.decoder}
    rates = optimizer(1e-3, (unet, 1), (text, 0.5), (vae.decoder, 0.2))
    keep = Checkpoint(folder / "unet.pt", Average(parts), rates)
    painter = PainterTraining(vae, unet, Words(tokenizer, text, recipe.device), recipe)

    def step_of(step: int) -> Tensor:
        return painter.loss(step, table, latents)

    train("painter", recipe.unet_steps, keep, step_of, lambda: keep_pointwise(vae), hold_then_fall)
