"""Networks as ONNX: right for every size and precision, and what TensorRT builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
import torch
from onnx.external_data_helper import uses_external_data
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, SimpleCompareFunc
from torch import Tensor, nn

from engines import EngineError, Network, Port, Precision
from engines.export import DATA, GRAPH, Exported, export
from stream import models, networks
from stream.config import ModelSpec, spec
from stream.text import TextEncoder
from stream.weights import read_pipeline

KINDS = ("sd15", "sd2", "sdxl", "builtin")
NAMES = ("encoder", "denoiser", "decoder", "text_encoder", "text_encoder_2")
NETWORKS = [(k, n) for k in KINDS for n in NAMES if k == "sdxl" or n != "text_encoder_2"]
SIZES = ((1, 8, 8), (3, 16, 8), (2, 8, 24))  # rows, and cells high and wide

# Largest difference from torch in float32, relative to the largest value; of pictures, in levels of 255.
CLOSE = {"f32": 1e-4, "f16": 1e-2, "bf16": 0.12}
LEVELS = {"f32": 1, "f16": 3, "bf16": 16}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Network]:
    """Networks by kind and name, each pipeline made once."""
    made: dict[str, dict[str, Network]] = {}

    def get(kind: str, name: str) -> Network:
        if kind not in made:
            builtin = kind == "builtin"
            pipeline = read_pipeline(spec(kind)) if builtin else tiny.pipeline(kind, tmp_path_factory.mktemp(kind))
            parts = models.networks_of(pipeline, ModelSpec(kind, kind)) + networks.text_encoders(pipeline)
            made[kind] = {n.name: n for n in parts}
        return made[kind][name]

    return get


@pytest.fixture(scope="module")
def exported(found: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, Precision], Exported]:
    made: dict[tuple[str, str, str], Exported] = {}

    def get(kind: str, name: str, precision: Precision) -> Exported:
        key = (kind, name, precision)
        if key not in made:
            made[key] = export(found(kind, name), tmp_path_factory.mktemp("-".join(key)), precision)
        return made[key]

    return get


# -------------------------------------------------------------------------------------------------- parity


class NetworkRunner(BaseRunner):  # type: ignore[misc]
    """Tells polygraphy's comparator a network's inputs."""

    def __init__(self, name: str, network: Network) -> None:
        super().__init__(name=name)
        self._network = network
        self.inference_time = 0.0

    def get_input_metadata_impl(self) -> TensorMetadata:
        told = TensorMetadata()
        for port, x in zip(self._network.inputs, self._network.example(), strict=True):
            told.add(port.name, x.numpy().dtype, [a if isinstance(a, int) else -1 for a in port.shape])
        return told


class TorchRunner(NetworkRunner):
    """The reference."""

    def __init__(self, network: Network) -> None:
        super().__init__("torch", network)

    def infer_impl(self, feed_dict: dict[str, Any]) -> Any:
        with torch.inference_mode():
            out = self._network.module(*(torch.from_numpy(x) for x in feed_dict.values()))
        ports = (self._network.output, *self._network.more)
        values = out if isinstance(out, tuple) else (out,)
        return OrderedDict((p.name, x.contiguous().numpy()) for p, x in zip(ports, values, strict=True))


class OpenVinoRunner(NetworkRunner):
    """Runs bfloat16, which ONNX Runtime has no convolutions in on a CPU."""

    def __init__(self, network: Network, file: Path) -> None:
        import openvino

        super().__init__("openvino", network)
        self._compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def infer_impl(self, feed_dict: dict[str, Any]) -> Any:
        found = self._compiled(feed_dict)
        return OrderedDict((o.get_any_name(), found[o]) for o in self._compiled.outputs)


def runner(network: Network, done: Exported) -> BaseRunner:
    if done.precision == "bf16":
        return OpenVinoRunner(network, done.file)
    import onnxruntime
    from polygraphy.backend.onnxrt import OnnxrtRunner

    return OnnxrtRunner(onnxruntime.InferenceSession(done.file, providers=["CPUExecutionProvider"]))


def feeds(network: Network) -> Iterator[OrderedDict[str, np.ndarray[Any, Any]]]:
    """Inputs of several sizes: late and early timesteps, prompts that end at several places."""
    made = torch.Generator().manual_seed(4)
    factor = network.sizes.get("H", 0) // network.sizes.get("h", 1)
    for rows, h, w in SIZES:
        sizes = {"rows": rows, "h": h, "w": w, "H": h * factor, "W": w * factor}
        fed = OrderedDict()
        for port in network.inputs:
            fed[port.name] = drawn(port, [a if isinstance(a, int) else sizes[a] for a in port.shape], made).numpy()
        yield fed


def drawn(port: Port, shape: list[int], made: torch.Generator) -> Tensor:
    if port.name == "t":
        return 999 - 490 * torch.arange(shape[0]).float()
    if port.name == "time_ids":
        return torch.tensor([[512, 768, 0, 0, 512, 768]]).float().expand(shape).contiguous()
    if port.name == "ids":
        return torch.randint(0, 500, shape, generator=made)
    if port.dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=made, dtype=torch.uint8)
    return torch.randn(shape, generator=made)


def test_every_input_is_drawn_at_several_sizes(found: Any) -> None:
    shapes = [x["latents"].shape for x in feeds(found("sdxl", "denoiser"))]
    assert shapes == [(1, 4, 8, 8), (3, 4, 16, 8), (2, 4, 8, 24)]


@pytest.mark.filterwarnings("ignore:.*in divide:RuntimeWarning")  # polygraphy's relative errors where a picture is 0
@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("kind", "name"), NETWORKS)
def test_an_exported_network_agrees_with_torch(
    kind: str, name: str, precision: Precision, found: Any, exported: Any
) -> None:
    network, done = found(kind, name), exported(kind, name, precision)
    results = Comparator.run([TorchRunner(network), runner(network, done)], data_loader=list(feeds(network)))
    reference = results[0][1]
    assert len(reference) == len(SIZES)
    for port in (network.output, *network.more):
        largest = max(float(np.abs(x[port.name]).max()) for x in reference)
        close = LEVELS[precision] if port.dtype == torch.uint8 else CLOSE[precision] * largest
        assert largest > 0.01
        compared = Comparator.compare_accuracy(
            results, compare_func=SimpleCompareFunc(atol={port.name: close, "": 1e9}, rtol=0, check_error_stat="max")
        )
        assert bool(compared), (port.name, close)


def test_the_text_networks_are_what_the_pipeline_reads(found: Any, tmp_path: Path) -> None:
    for kind in ("sd15", "sdxl"):
        pipeline = tiny.pipeline(kind, tmp_path / kind)
        ids = pipeline.tokenizer("a cat", padding="max_length", max_length=tiny.CONTEXT, return_tensors="pt").input_ids
        with torch.inference_mode():
            outs = [n.module(ids) for n in networks.text_encoders(pipeline)]
        told = TextEncoder(pipeline, torch.device("cpu"), torch.float32)("a cat", 64, 64)
        if kind == "sdxl":
            assert torch.equal(outs[1][1], told.pooled)
            outs = [outs[0], outs[1][0]]
        assert torch.equal(torch.cat(outs, -1), told.tokens)


# --------------------------------------------------------------------------------------------------- files


def test_weights_lie_beside_the_graph_under_their_own_names(found: Any, exported: Any) -> None:
    done = exported("sdxl", "denoiser", "f16")
    graph = onnx.load(done.file, load_external_data=False).graph
    state = found("sdxl", "denoiser").module.state_dict()
    assert {i.name for i in graph.initializer} == set(state)
    assert all(uses_external_data(i) for i in graph.initializer)
    read = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(done.file).graph.initializer}
    for name, weight in state.items():
        assert np.array_equal(read[name], weight.half().numpy()), name
    assert sorted(p.name for p in done.file.parent.iterdir()) == [GRAPH, DATA]
    assert done.bytes == sum(p.stat().st_size for p in done.file.parent.iterdir())


def test_weights_of_the_other_half_are_left_out(found: Any, exported: Any) -> None:
    for name, other in (("encoder", "vae.decoder."), ("decoder", "vae.encoder.")):
        graph = onnx.load(exported("sd15", name, "f16").file, load_external_data=False).graph
        kept = {i.name for i in graph.initializer}
        assert kept < set(found("sd15", name).module.state_dict())
        assert not any(k.startswith(other) for k in kept)


def test_axes_keep_their_names(exported: Any) -> None:
    graph = onnx.load(exported("sd15", "encoder", "bf16").file, load_external_data=False).graph
    assert shapes(graph.input) == {"images": ["rows", "H", "W", 3]}
    assert shapes(graph.output) == {"latents": ["rows", 4, "h", "w"]}
    kinds = [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)]
    assert kinds == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]


def shapes(values: Any) -> dict[str, list[int | str]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_a_module_stays_as_it_is_whatever_the_precision(tmp_path: Path) -> None:
    network = networks.decoder(tiny.full_vae(), 16)
    before = {k: (v.dtype, v.data_ptr(), v.clone()) for k, v in network.module.state_dict().items()}
    export(network, tmp_path, "f16")
    for name, weight in network.module.state_dict().items():
        kind, place, values = before[name]
        assert (weight.dtype, weight.data_ptr()) == (kind, place)
        assert torch.equal(weight, values)


def test_a_module_in_half_precision_gives_the_same_file(tmp_path: Path) -> None:
    whole = networks.decoder(tiny.full_vae(), 16)
    half = networks.decoder(tiny.full_vae().half(), 16)
    half.module.load_state_dict({k: v.half() for k, v in whole.module.state_dict().items()})
    one, two = (tmp_path / "one", tmp_path / "two")
    for place, network in ((one, whole), (two, half)):
        place.mkdir()
        export(network, place, "f16")
    assert (one / GRAPH).read_bytes() == (two / GRAPH).read_bytes()
    assert (one / DATA).read_bytes() == (two / DATA).read_bytes()


def test_hashes_tell_structure_from_weights(tmp_path: Path) -> None:
    def hashes(precision: Precision = "f16", seed: int = 0, **more: Any) -> tuple[str, str]:
        torch.manual_seed(seed)
        done = export(networks.encoder(tiny.full_vae(**more), 16), tmp_path, precision)
        return done.graph, done.weights

    graph, weights = hashes()
    assert hashes() == (graph, weights)
    assert hashes(seed=1)[0] == graph
    assert hashes(seed=1)[1] != weights
    assert hashes("bf16")[0] != graph
    assert hashes(act_fn="relu")[0] != graph
    assert hashes(act_fn="relu")[1] == weights


class Heavy(nn.Module):
    """A network of nothing but weights."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        made = x.to(networks.dtype_of(self))
        for layer in self.layers:
            made = layer(made)
        return made.float()


def plain(module: nn.Module, width: int) -> Network:
    return Network("heavy", module.eval(), (Port("x", ("rows", width)),), Port("y", ("rows", width)), {"rows": 1})


STREAMED = """
import sys, torch
from pathlib import Path
from test_export import Heavy, plain
from engines.export import export
for layers in (1, 16, 80):
    with torch.device("meta"):
        network = plain(Heavy(1024, layers), 1024)
    done = export(network, Path(sys.argv[1]), "f16", {n: torch.zeros(1024 if n.endswith("bias") else (1024, 1024))
                                                     for n, _ in network.module.named_parameters()})
    print(done.bytes, done.peak_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's peak of memory")
def test_weights_are_streamed(tmp_path: Path) -> None:
    """In a process whose allocator leaves no holes, which would blur the figure."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STREAMED, str(tmp_path)], check=True, capture_output=True, text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    _, few, many = ([int(x) for x in line.split()] for line in done.stdout.splitlines())
    assert many[0] - few[0] > 64 * 1024 * 1024 * 2
    assert 0 < many[1] < few[1] + (many[0] - few[0]) / 8


class Unsayable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x[:, None] * x[..., None]).S


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"torch cannot export the heavy: .*svd(.|\n)*use --engine torch"):
        export(plain(Unsayable(), 4), tmp_path, "f32")
    with pytest.raises(EngineError, match=r"the heavy cannot be exported in int8: use f32, f16, bf16"):
        export(plain(Heavy(4, 1), 4), tmp_path, "int8")


# -------------------------------------------------------------------------------------------------- builds

BUILDER = """
import json, sys
from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
from polygraphy.backend.trt import Profile, engine_bytes_from_network, network_from_onnx_path
from polygraphy.logger import G_LOGGER
G_LOGGER.module_severity = G_LOGGER.ERROR
for file, ports in json.loads(sys.argv[1]):
    profile = Profile()
    for name, *shapes in ports:
        profile.add(name, *shapes)
    config = CreateConfigRTX(use_gpu=False, compute_capabilities=[(8, 9), (12, 0)], profiles=[profile])
    print(len(bytes(engine_bytes_from_network(network_from_onnx_path(file), config))))
"""


def profile(network: Network) -> list[Any]:
    """Every input with its smallest, usual and largest shape."""
    factor = network.sizes.get("H", 0) // network.sizes.get("h", 1)

    def shape(port: Port, rows: int, cells: int) -> list[int]:
        sizes = {"rows": rows, "h": cells, "w": cells, "H": cells * factor, "W": cells * factor}
        return [a if isinstance(a, int) else sizes[a] for a in port.shape]

    return [[p.name, *(shape(p, rows, cells) for rows, cells in ((1, 8), (2, 16), (4, 32)))] for p in network.inputs]


@pytest.mark.parametrize("kind", KINDS)
def test_tensorrt_rtx_builds_every_network_without_a_card(kind: str, found: Any, exported: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install livebrush[rtx]")
    names = [n for k, n in NETWORKS if k == kind]
    precisions: tuple[Precision, ...] = ("f32", "f16", "bf16") if kind == "sdxl" else ("f16",)
    wanted = [(str(exported(kind, n, p).file), profile(found(kind, n))) for n in names for p in precisions]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILDER, json.dumps(wanted)], check=False, capture_output=True,
        text=True, env={**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    sizes = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert len(sizes) == len(wanted)
    assert min(sizes) > 100_000
