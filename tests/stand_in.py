"""Stands in for the Python of Open-Sora and of Open-Sora Plan: reads the same arguments, and leaves a video as they do.

What it was asked is kept beside the video in `asked.json`. A prompt of `wait` never ends, `fail` ends with an error.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import av
import numpy as np

ROWS = 64  # of the file, whatever was asked for: the size of what comes is not ours to choose


def main() -> None:
    words = sys.argv[1:]
    assert words[:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"], words
    given, flags = parsed(words[5:])
    asked = open_sora(given) if "dataset.data-path" in given else open_sora_plan(given)
    if asked["text"] == "fail":
        sys.exit("CUDA out of memory, says the stand-in")
    place = Path(asked["to"])
    place.parent.mkdir(parents=True, exist_ok=True)
    (place.parent / "asked.json").write_text(json.dumps({"arguments": given, "flags": flags, **asked}))
    while asked["text"] == "wait":
        time.sleep(0.1)
    write(place, int(given["num_frames"]), int(given.get("fps_save") or given["fps"]))


def parsed(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """`--name value` in pairs, and what stands alone."""
    given: dict[str, str] = {}
    alone: list[str] = []
    while words:
        word = words.pop(0)
        if word.startswith("--") and words and not words[0].startswith("--"):
            given[word[2:]] = words.pop(0)
        else:
            alone.append(word)
    return given, alone


def open_sora(given: dict[str, str]) -> dict[str, str]:
    """Jobs come by CSV, and videos go to a folder named by the resolution, by the name of the CSV."""
    file = Path(given["dataset.data-path"])
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 1
    assert given["cond_type"] in ("t2v", "i2v_head", "i2v_loop", "v2v_head")
    assert (given["cond_type"] == "t2v") == ("ref" not in rows[0])
    folder = Path(given["save-dir"], f"video_{given['sampling_option.resolution']}")
    return {**rows[0], "to": str(folder / f"{file.stem}_0000.mp4")}


def open_sora_plan(given: dict[str, str]) -> dict[str, str]:
    """Prompts and pictures come in lists, one a line."""
    out = {"text": Path(given["text_prompt"]).read_text().strip()}
    if given.get("model_type") == "inpaint":
        out["ref"] = Path(given["conditional_pixel_values_path"]).read_text().strip()
    return {**out, "to": str(Path(given["save_img_path"], "0_0.mp4"))}


def write(file: Path, frames: int, fps: int) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, ROWS, "yuv420p"
        for index in range(frames):
            image = np.full((ROWS, 96, 3), 40 + 4 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
