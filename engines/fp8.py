"""Eight-bit matrices: a graph's convolutions and linear layers between quantizing and dequantizing nodes (Q/DQ).

nvidia-modelopt measures, on samples, how large each layer's input and weights become; TensorRT then runs those layers
in FP8 (E4M3). Cards from SM 8.9 on have it. What is small or delicate stays as it is: the first and the last layer, and
everything that is done once a row and not once a pixel.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from engines.errors import EngineError

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from engines.export import Exported

LARGEST = 448.0  # of E4M3
KEPT = ("conv_in", "conv_out", "time_embedding", "add_embedding", "time_emb_proj")  # parts of names of delicate layers
Samples = Sequence[tuple["Tensor", ...]]
Amax = dict[str, tuple[float, float]]  # layer: the largest input, the largest weight


def check_library() -> None:
    """EngineError where FP8 is not available here."""
    if find_spec("modelopt") is None:
        raise EngineError("FP8 is not available: it needs nvidia-modelopt: pip install nvidia-modelopt, or leave fp8")


def quantized(exported: Exported, module: nn.Module, samples: Samples) -> Exported:
    """The same graph with its large layers in FP8, written over it. EngineError where there is nothing to quantize."""
    import onnx

    largest = measured(module, samples)
    model = onnx.load(str(exported.file), load_external_data=False)
    done = insert(model, largest)
    if not done:
        raise EngineError(f"FP8 is not available: the {exported.name} has no layer that takes it: leave fp8")
    data = model.SerializeToString(deterministic=True)
    exported.file.write_bytes(data)
    told = repr([(name, largest[name]) for name in done])
    return replace(exported, graph=hashlib.sha256((exported.graph + told).encode()).hexdigest())


def measured(module: nn.Module, samples: Samples) -> Amax:
    """The largest values of every layer's input and weight while `module` runs on `samples`; it stays as it is."""
    check_library()
    import modelopt.torch.quantization as quantization
    import torch

    memo: dict[int, Any] = {id(p): p for p in module.parameters()}  # weights are shared, not copied
    copy = deepcopy(module, memo)

    def run(model: nn.Module) -> None:
        for sample in samples:
            model(*sample)

    with torch.inference_mode(), contextlib.redirect_stdout(io.StringIO()):
        watched = quantization.quantize(copy, quantization.FP8_DEFAULT_CFG, run)
    found = {}
    for name, part in watched.named_modules():
        given, own = (getattr(part, f"{what}_quantizer", None) for what in ("input", "weight"))
        if given is not None and own is not None and given.amax is not None and own.amax is not None:
            found[name] = (float(given.amax), float(own.amax))
    return found


def insert(model: onnx.ModelProto, largest: Amax) -> list[str]:
    """Puts Q/DQ before both inputs of every large layer; the names of those layers."""
    import onnx

    weights = {x.name: x.data_type for x in model.graph.initializer}
    turned = {x.output[0]: x.input[0] for x in model.graph.node if x.op_type == "Transpose" and x.input[0] in weights}
    nodes, done = [], []
    for node in model.graph.node:
        weight = _weight(node, weights, turned)
        layer = weight.removesuffix(".weight")
        if layer in largest and not any(part in layer for part in KEPT):
            for index, amax in enumerate(largest[layer]):
                nodes += _pair(onnx, model, node, index, amax, weights[weight])
            done.append(layer)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return done


def _weight(node: onnx.NodeProto, weights: dict[str, int], turned: dict[str, str]) -> str:
    """The weight that a convolution or a product multiplies with, or nothing."""
    if node.op_type not in ("Conv", "MatMul") or len(node.input) < 2:
        return ""
    name = turned.get(node.input[1], node.input[1])
    return name if name in weights else ""


def _pair(onnx: Any, model: Any, node: Any, index: int, amax: float, dtype: int) -> list[Any]:
    """The two nodes before one input of `node`, with their scale."""
    name, source = f"{node.name or node.output[0]}.fp8.{index}", node.input[index]
    eight, scale = onnx.TensorProto.FLOAT8E4M3FN, max(amax / LARGEST, 1e-6)
    model.graph.initializer.append(onnx.helper.make_tensor(f"{name}.scale", dtype, [], [scale]))
    model.graph.initializer.append(onnx.helper.make_tensor(f"{name}.zero", eight, [], b"\0", raw=True))
    node.input[index] = f"{name}.out"
    further = [f"{name}.scale", f"{name}.zero"]
    return [
        onnx.helper.make_node("QuantizeLinear", [source, *further], [f"{name}.in"], f"{name}.q"),
        onnx.helper.make_node("DequantizeLinear", [f"{name}.in", *further], [f"{name}.out"], f"{name}.dq"),
    ]
