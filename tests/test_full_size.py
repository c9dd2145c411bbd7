"""The full-size networks are the published ones, by their numbers of parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from engines.export import export
from tools import full_size

MILLIONS = {
    ("sd-turbo", "unet"): 865.9, ("sd15", "unet"): 859.5, ("sdxl-turbo", "unet"): 2567.5,
    ("sd15", "vae"): 83.7, ("sdxl-turbo", "vae"): 83.7, ("sd15", "taesd"): 2.4,
    ("sd-turbo", "text_encoder"): 340.4, ("sd15", "text_encoder"): 123.1,
    ("sdxl-turbo", "text_encoder"): 123.1, ("sdxl-turbo", "text_encoder_2"): 694.7,
}  # fmt: skip


@pytest.mark.parametrize(("model", "part"), MILLIONS, ids=lambda x: x)
def test_a_part_has_the_published_number_of_parameters(model: str, part: str) -> None:
    with torch.device("meta"):
        module = full_size.MODELS[model][part]()
    assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(MILLIONS[model, part], abs=0.06)


@pytest.mark.parametrize("model", list(full_size.MODELS))
def test_networks_are_described_without_their_weights(model: str) -> None:
    found = [full_size.outline(model, name)[0] for name in full_size.names(model)]
    assert [n.name for n in found[:3]] == ["denoiser", "encoder", "decoder"]
    assert all(p.is_meta for n in found for p in n.module.parameters())
    tokens = found[0].inputs[2].shape[-1]
    assert tokens == sum(n.output.shape[-1] for n in found if n.name.startswith("text"))


def test_an_outline_is_exported_as_the_whole_network_is(tmp_path: Path) -> None:
    (tmp_path / "lazy").mkdir()
    (tmp_path / "whole").mkdir()
    found, weights = full_size.outline("sd15", "encoder")
    lazy = export(found, tmp_path / "lazy", "f16", weights)
    whole = export(full_size.network("sd15", "encoder"), tmp_path / "whole", "f16")
    assert (lazy.graph, lazy.weights) == (whole.graph, whole.weights)


def test_weights_are_drawn_in_their_precision_and_are_no_flat_picture() -> None:
    network = full_size.network("sd15", "decoder")
    assert {p.dtype for p in network.module.parameters()} == {torch.float16}
    images = network.module(torch.randn(1, 4, 8, 8))
    assert len(images.unique()) > 1
    again = full_size.network("sd15", "decoder")
    assert all(map(torch.equal, network.module.parameters(), again.module.parameters()))


def test_the_tool_exports_and_says_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["full_size", "sd15", "encoder", "--out", str(tmp_path)])
    full_size.main()
    assert (tmp_path / "encoder" / "model.onnx").is_file()
    assert "sd15 encoder f16: " in capsys.readouterr().out
