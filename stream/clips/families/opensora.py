"""Open-Sora 2.0 (https://github.com/hpcaitech/Open-Sora) and Open-Sora Plan 1.3, each in an environment of its own.

Both pin old releases of torch and are both called `opensora`, so that they can be neither imported here nor together.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from stream.clips.backend import Facts, FrameRule
from stream.clips.families.asked import Job, whole
from stream.clips.families.external import External
from stream.config import BUILTIN
from stream.errors import ClipError

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
SMALL = 400 * 400  # pixels up to which the 256px configuration is meant
CARDS = {"cards": "how many graphics cards it may use (default 1)"}
ANY_SEED = 2**32  # Open-Sora takes 0 for none


def _torchrun(job: Job) -> list[str]:
    return [*TORCHRUN, str(job.option("cards", 1))]


def _condition(job: Job) -> tuple[str, list[str]]:
    """What it calls the condition, and the files of it."""
    if job.mode in ("i2v", "keyframes"):
        return ("i2v_loop" if len(job.keyframes) > 1 else "i2v_head"), [k.image for k in job.keyframes]
    return ("v2v_head", [str(job.timeline.input)]) if job.mode == "extend" else ("t2v", [])


def _arguments(job: Job, folder: Path, _checkout: Path) -> list[str]:
    kind, files = _condition(job)
    row = {"text": job.prompt, "ref": ";".join(str(Path(x).absolute()) for x in files)}
    with (folder / "jobs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [k for k, v in row.items() if k == "text" or v], extrasaction="ignore")
        writer.writeheader()
        writer.writerow(row)
    seed = job.timeline.seed or ANY_SEED
    values: dict[str, Any] = {
        "save-dir": folder, "dataset.data-path": folder / "jobs.csv", "cond_type": kind, "num_frames": job.frames,
        "num_steps": job.steps, "guidance": job.guidance, "seed": seed % ANY_SEED, "sampling_option.seed": seed,
        "sampling_option.resolution": None, "sampling_option.aspect_ratio": None, "sampling_option.width": job.width,
        "sampling_option.height": job.height, "fps_save": round(job.fps), "motion-score": job.option("motion_score", 4),
    }  # fmt: skip
    if job.timeline.model != BUILTIN:
        values["ckpt_path"] = Path(job.timeline.model).expanduser().absolute()
    config = "256px" if job.width * job.height <= SMALL else "768px"
    script = ["scripts/diffusion/inference.py", f"configs/diffusion/inference/{config}.py"]
    return [*_torchrun(job), *script, *(text for k, v in values.items() for text in (f"--{k}", str(v)))]


def _fits(job: Job) -> None:
    whole(job)
    job.option("cards", 1), job.option("motion_score", 4)
    if job.negative:
        raise ClipError("Open-Sora takes no negative prompt: leave it out")
    if job.mode == "keyframes" and [k.frame for k in job.keyframes] != [0, job.frames - 1]:
        raise ClipError("Open-Sora takes pictures for the first and the last frame: leave others out")
    if len(csv_unsafe := [k.image for k in job.keyframes if ";" in k.image]):
        raise ClipError(f"{csv_unsafe[0]} has a semicolon in its name, which Open-Sora splits at: rename it")


BACKEND = External(
    facts=Facts(
        name="opensora", title="Open-Sora 2.0", modes=("t2v", "i2v", "keyframes", "extend"), rule=FrameRule(4, 1, 129),
        multiple=16, size=(336, 192), fps=24, steps=50, guidance_scale=7.5, memory="52.5 GB at 256, 60.3 GB at 768",
        licence="Apache-2.0", source="https://github.com/hpcaitech/Open-Sora",
        options=CARDS | {"motion_score": "how much moves, 1 to 7 (default 4)", "extend": "true: go on from the input"},
    ),
    variable="LIVEBRUSH_OPENSORA", script="scripts/diffusion/inference.py", arguments=_arguments, check=_fits,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------- Open-Sora Plan

FIXED = {
    "version": "v1_3", "ae": "WFVAEModel_D8_4x8x8", "max_sequence_length": 512, "num_samples_per_prompt": 1,
    "sample_method": "EulerAncestralDiscrete", "prediction_type": "v_prediction",
}  # fmt: skip
WEIGHTS = "Open-Sora-Plan-v1.3.0"  # as the hub calls them, in the checkout


def _plan_arguments(job: Job, folder: Path, checkout: Path) -> list[str]:
    root = checkout / WEIGHTS if job.timeline.model == BUILTIN else Path(job.timeline.model).expanduser().absolute()
    (folder / "prompt.txt").write_text(" ".join(job.prompt.split()) + "\n", encoding="utf-8")
    values: dict[str, Any] = FIXED | {
        "model_path": root / ("any93x640x640_i2v" if job.keyframes else "any93x640x640"), "ae_path": root / "vae",
        "text_encoder_name_1": job.option("text_encoder", "google/mt5-xxl"), "cache_dir": checkout / "cache_dir",
        "text_prompt": folder / "prompt.txt", "save_img_path": folder, "num_frames": job.frames, "height": job.height,
        "width": job.width, "fps": round(job.fps), "guidance_scale": job.guidance, "num_sampling_steps": job.steps,
        "seed": job.timeline.seed,
    }  # fmt: skip
    flags = ["--rescale_betas_zero_snr"]
    if job.keyframes:
        pictures = ",".join(str(Path(k.image).absolute()) for k in job.keyframes)
        (folder / "pictures.txt").write_text(f"{pictures}\n", encoding="utf-8")
        values |= {"model_type": "inpaint", "conditional_pixel_values_path": folder / "pictures.txt"}
        values |= {"max_hxw": job.width * job.height}
        flags.append("--crop_for_hw")
    given = [text for k, v in values.items() for text in (f"--{k}", str(v))]
    return [*_torchrun(job), "-m", "opensora.sample.sample", *given, *flags]


def _plan_fits(job: Job) -> None:
    job.option("cards", 1), job.option("text_encoder", "google/mt5-xxl")
    if job.negative:
        raise ClipError("Open-Sora Plan has a negative prompt of its own and takes no other: leave it out")


PLAN = External(
    facts=Facts(
        name="opensora-plan", title="Open-Sora Plan 1.3", modes=("t2v", "i2v"), rule=FrameRule(4, 1, 93, least=5),
        multiple=32, size=(640, 352), fps=18, steps=100, guidance_scale=7.5, memory="24 GB",
        licence="MIT, weights Apache-2.0", source="https://github.com/PKU-YuanGroup/Open-Sora-Plan",
        options=CARDS | {"text_encoder": "folder or hub id of mT5-XXL (default google/mt5-xxl)"},
    ),
    variable="LIVEBRUSH_OPENSORA_PLAN", script="opensora/sample/sample.py", arguments=_plan_arguments, check=_plan_fits,
)  # fmt: skip
