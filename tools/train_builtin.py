"""Trains the built-in model from nothing to the shipped weights: `python -m tools.train_builtin`.

Needs the extra `train` (scikit-image, scikit-learn and matplotlib, for the photos they bundle), about 8 GB of disk for
the pictures in `--work`, 6 GB of memory, and about two hours on two CPU cores or minutes on a GPU (`--device cuda`).
Stopped anywhere, the same command goes on from the last checkpoint. At the end it prints the figures on the held-out
photos and writes the weights, the contact sheet and the model card to `--out`. With `--motion` it trains the motion
modules on top of that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from transformers import CLIPTokenizer

from engines import choose
from stream.config import spec
from stream.models import load
from stream.weights import read_pipeline
from tools.builtin import calibrate, motion, moving, networks, prompts, report, training


def main(
    work: Annotated[Path, typer.Option(help="Folder for pictures, latents and checkpoints.")] = Path("build/builtin"),
    out: Annotated[Path, typer.Option(help="Folder that gets the model.")] = Path("stream/builtin"),
    pictures: Annotated[int, typer.Option(help="Pictures in the training set.")] = training.Recipe.pictures,
    vae_steps: Annotated[int, typer.Option(help="Steps for the autoencoder.")] = training.Recipe.vae_steps,
    unet_steps: Annotated[int, typer.Option(help="Steps for UNet and text encoder.")] = training.Recipe.unet_steps,
    batch: Annotated[int, typer.Option(help="Crops in a step.")] = training.Recipe.batch,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    motion_only: Annotated[
        bool, typer.Option("--motion", help="Train the motion modules instead, on the model in --out, which stays.")
    ] = False,
) -> None:
    """Makes the pictures, trains the networks, saves and judges the model."""
    recipe = training.Recipe(pictures, vae_steps, unet_steps=unet_steps, batch=batch, seed=seed, device=device)
    work.mkdir(parents=True, exist_ok=True)
    if motion_only:
        train_motion(work, out, recipe)
        return
    prompts.make_tokenizer(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    table = training.make_pictures(work, recipe)
    vae = networks.make_vae(seed)
    training.train_vae(work, vae, table, recipe)
    latents = training.make_latents(work, vae, table, recipe)
    unet, text = networks.make_unet(seed), networks.make_text_encoder(tokenizer, seed)
    training.train_words(work, text, tokenizer, recipe)
    training.train_unet(work, vae, unet, text, tokenizer, table, latents, recipe)
    networks.save(out, vae.cpu(), unet.cpu(), text.cpu(), tokenizer)
    preset = spec("builtin")
    calibrate.write(out, preset)
    model = load(replace(preset, model=str(out)), choose("openvino", "cpu", "f32"))
    figures = report.write(out, model, preset.settings, recipe)
    print(f"{figures.closest_to_own} of {figures.cases} outputs are closest to their own style; the card is in {out}")  # noqa: T201


def train_motion(work: Path, out: Path, recipe: training.Recipe) -> None:
    """The motion modules: about half an hour on two CPU cores, on the same pictures."""
    table = training.make_pictures(work, recipe)
    pipeline = read_pipeline(replace(spec("builtin"), model=str(out)))
    made = motion.train_modules(work, pipeline, table, motion.MotionRecipe(seed=recipe.seed, device=recipe.device))
    motion.save_modules(out / "motion", made)
    moving.write(out / "motion", str(out), print)


if __name__ == "__main__":
    typer.run(main)
