"""Motion modules: found by name, folder or file; a file's configuration comes from its shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import load_file, save_file

from stream.clips.modules import built_in, facts_of, find
from stream.errors import ClipError, ModelError

OLD_NAMES = {"norm1": "norms.0", "norm2": "norms.1", "norm3": "ff_norm", "attn1": "attention_blocks.0",
             "attn2": "attention_blocks.1", "pos_embed": "attention_blocks.0.pos_encoder"}  # fmt: skip


def adapter(widths: tuple[int, ...] = (32, 64), mid: bool = True, length: int = 24, layers: int = 2) -> MotionAdapter:
    torch.manual_seed(4)
    return MotionAdapter(
        widths, motion_layers_per_block=layers, motion_max_seq_length=length, use_motion_mid_block=mid
    ).eval()  # fmt: skip


def original(made: MotionAdapter) -> dict[str, torch.Tensor]:
    """Its weights under the names of AnimateDiff's own code."""
    out = {}
    for name, value in made.state_dict().items():
        head, _, rest = name.partition(".motion_modules.")
        number, _, rest = rest.partition(".")
        for new, old in OLD_NAMES.items():
            rest = rest.replace(new, old)
        out[f"{head}.motion_modules.{number}.temporal_transformer.{rest}"] = value
    return out


def same(a: MotionAdapter, b: MotionAdapter) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


@pytest.mark.parametrize("shape", [{}, {"mid": False, "length": 32}, {"widths": (32, 64, 64), "layers": 1}])
@pytest.mark.parametrize("names", ["original", "diffusers"])
def test_a_single_file_is_configured_from_its_shapes(tmp_path: Path, names: str, shape: dict) -> None:
    made, file = adapter(**shape), tmp_path / "mm.safetensors"
    save_file(original(made) if names == "original" else made.state_dict(), file)
    found = find(str(file))
    assert (found.frames, found.middle) == (shape.get("length", 24), shape.get("mid", True))
    assert same(found.load(), made)
    assert found.weights == file


@pytest.mark.parametrize("half", [True, False])
def test_a_folder(tmp_path: Path, half: bool) -> None:
    made = adapter().half().float()
    (made.half() if half else made).save_pretrained(tmp_path, variant="fp16" if half else None)
    found = find(str(tmp_path))
    assert same(found.load(), made.float())
    assert found.weights.is_file()
    assert found.facts.version == "unknown"
    facts = {"camera": {"zoom": 1.1}, "sampler": "euler", "steps": 3}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    again = find(str(tmp_path)).facts
    assert (again.camera.zoom, again.sampler, again.steps) == (1.1, "euler", 3)


@pytest.mark.parametrize(
    ("source", "more", "version", "steps"),
    [
        ("guoyww/animatediff-motion-adapter-v1-5", {"motion_max_seq_length": 24}, "v1", 25),
        ("mm_sd_v15_v2.safetensors", {"use_motion_mid_block": True}, "v2", 25),
        ("v3_sd15_mm.safetensors", {}, "v3", 25),
        ("mm_sdxl_v10_beta.safetensors", {"block_out_channels": [320, 640, 1280]}, "sdxl", 50),
        ("wangfuyun/AnimateLCM", {"use_motion_mid_block": True}, "lcm", 6),
        ("ByteDance/AnimateDiff-Lightning/animatediff_lightning_8step_diffusers.safetensors", {}, "lightning", 8),
    ],
)
def test_known_families(source: str, more: dict, version: str, steps: int) -> None:
    config = {"block_out_channels": [320, 640, 1280, 1280], "motion_max_seq_length": 32, "use_motion_mid_block": False}
    facts = facts_of(source, Path(source), config | more)
    assert (facts.version, facts.steps, facts.betas) == (version, steps, "linear")
    assert facts.loras == (version == "v2")


def test_what_is_no_motion_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"'spiral' is unknown: use .*a folder"):
        find("spiral")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        find(str(tmp_path))
    (tmp_path / "mm.ckpt").touch()
    with pytest.raises(ClipError, match=r"is a \.ckpt file: use a \.safetensors file"):
        find(str(tmp_path / "mm.ckpt"))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(ModelError, match="expected a motion module"):
        find(str(tmp_path))
    save_file({"unet.conv_in.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="no temporal layers"):
        find(str(tmp_path / "other.safetensors"))


def test_damaged_modules_are_refused(tmp_path: Path) -> None:
    made, file = adapter(), tmp_path / "mm.safetensors"
    save_file(made.state_dict(), file)
    whole = load_file(file)
    del whole["up_blocks.1.motion_modules.2.proj_out.weight"]
    save_file(whole, file)
    with pytest.raises(ModelError, match="1 weights too few or too many"):
        find(str(file)).load()
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(ModelError, match="cannot be read"):
        find(str(file))
    made.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "facts.json").write_text('{"steps": "many"}')
    with pytest.raises(ModelError, match=r"facts\.json of motion module .*: steps: "):
        find(str(tmp_path / "folder"))
    (tmp_path / "folder" / "facts.json").unlink()
    save_file(whole, tmp_path / "folder" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError):
        find(str(tmp_path / "folder")).load()


def test_names_are_light_to_read() -> None:
    code = "import sys; from stream.clips.modules import built_in; built_in(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert built_in() == tuple(sorted(built_in()))
