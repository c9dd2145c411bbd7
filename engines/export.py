"""Networks as ONNX files for TensorRT: dynamic axes, one precision throughout, weights in a file beside the graph.

The graph is traced over a skeleton of the network whose weights take no memory, and names them as the module does.
Then the weights are streamed to disk one by one, so that no second copy of them is ever held.

torch's TorchScript exporter does the tracing. TensorRT builds what the newer one makes as well, but that takes ten
times as long, and joins float16 and float32 without a cast. What this one cannot say, group norms that average in
float32 and bfloat16 everywhere, is opset 22.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn
from torch.onnx import symbolic_helper

from engines.errors import EngineError
from engines.spec import Network, Port, Precision
from engines.torch import DTYPES

TRACED, OPSET, IR = 20, 22, 10  # what the exporter writes, and what the file says: nothing used here differs but types
GRAPH, DATA = "model.onnx", "model.onnx.data"
PAGE = 4096  # weights start on pages, so that readers can map them
KINDS = {"f32": onnx.TensorProto.FLOAT, "f16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Exported:
    """A network on disk: `file` is the graph, and all weights are in `model.onnx.data` beside it.

    `graph` is a hash of the structure (ports, precision and operations, no weights), `weights` one of the weights as
    written. `bytes` counts both files; `peak_bytes` is the most memory that exporting took beyond what was held
    before, 0 where the system does not say.
    """

    name: str
    precision: Precision
    file: Path
    graph: str
    weights: str
    bytes: int
    peak_bytes: int
    seconds: float


def export(
    network: Network, place: Path, precision: Precision, weights: Mapping[str, Tensor] | None = None
) -> Exported:
    """Writes `network` into the folder `place`; its module stays as it is, whatever its precision or device.

    `weights` are looked up one by one, by the names of the module's parameters, where they are not the module's own:
    that may then be on the meta device, and only a few hundred megabytes are needed for a network of any size. One at a
    time in a process. EngineError where torch cannot export it or the result is no valid ONNX; OSError where
    the disk is full.
    """
    began, held = time.perf_counter(), _memory("VmRSS")
    _forget_peak()
    model = traced(network, precision)
    structure = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    given = dict(network.module.named_parameters()) if weights is None else weights
    written = _attach(model, given, DTYPES[precision], place / DATA)
    file = place / GRAPH
    file.write_bytes(model.SerializeToString(deterministic=True))
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(f"the {network.name} in {precision} is no valid ONNX: {error}\nuse --engine torch") from error
    size = file.stat().st_size + (place / DATA).stat().st_size
    peak = max(_memory("VmHWM") - held, 0)
    return Exported(network.name, precision, file, structure, written, size, peak, time.perf_counter() - began)


def traced(network: Network, precision: Precision) -> onnx.ModelProto:
    """The network's graph, with its weights as further inputs under the names they have in the module."""
    if precision not in KINDS:
        raise EngineError(f"the {network.name} cannot be exported in {precision}: use {', '.join(KINDS)}")
    hollow = Hollow(network.module, DTYPES[precision])
    ports = (*network.inputs, network.output, *network.more)
    axes = {p.name: {i: a for i, a in enumerate(p.shape) if isinstance(a, str)} for p in ports}
    file = BytesIO()
    try:
        with torch.no_grad(), _own_symbols(KINDS[precision]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints of a tracer; parity is tested
            torch.onnx.export(
                hollow, (*network.example(), *hollow.weights.values()), cast(Any, file), dynamo=False,
                input_names=[*(p.name for p in network.inputs), *hollow.weights],
                output_names=[p.name for p in ports[len(network.inputs) :]], dynamic_axes=axes, opset_version=TRACED,
                do_constant_folding=False,
            )  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:  # the exporter's own are RuntimeErrors
        raise EngineError(f"torch cannot export the {network.name}: {error}\nuse --engine torch") from error
    model = onnx.load_from_string(file.getvalue())
    model.ir_version, model.opset_import[0].version = IR, OPSET
    model.ClearField("producer_version")
    _settle(model.graph, network)
    return model


def _settle(graph: onnx.GraphProto, network: Network) -> None:
    """Declares the ports as they are described and drops unused weights; EngineError where the graph's are others."""
    inputs, weights = list(graph.input)[: len(network.inputs)], list(graph.input)[len(network.inputs) :]
    used = {name for node in graph.node for name in node.input}
    del graph.input[:]
    graph.input.extend([*inputs, *(w for w in weights if w.name in used)])
    inputs = list(graph.input)[: len(network.inputs)]
    for values, ports in ((inputs, network.inputs), (graph.output, (network.output, *network.more))):
        got, expected = [v.name for v in values], [p.name for p in ports]
        if got != expected:
            raise EngineError(f"the {network.name} was exported with {got}, expected {expected}: use --engine torch")
        for value, port in zip(values, ports, strict=True):
            _declare(value, port)


def _declare(value: onnx.ValueInfoProto, port: Port) -> None:
    kind = value.type.tensor_type
    expected = onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=port.dtype).numpy().dtype)
    if kind.elem_type != expected:
        raise EngineError(f"{port.name} was exported as type {kind.elem_type} of ONNX, expected {port.dtype}")
    value.CopyFrom(onnx.helper.make_tensor_value_info(port.name, expected, port.shape))


# ----------------------------------------------------------------------------------------------- skeletons


class Hollow(nn.Module):
    """A copy of a module on the CPU in `dtype` that takes its weights as further inputs: the exporter would copy them
    while it traces. `weights` has one zero in memory for each."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights = {name: _zero(w, dtype) for name, w in module.named_parameters()}
        first = {id(w): name for name, w in module.named_parameters()}
        self._names = {name: first[id(w)] for name, w in module.named_parameters(remove_duplicate=False)}
        self._inner = [_skeleton(module, dtype)]  # a list: its weights are not this module's

    def forward(self, *inputs: Tensor) -> Any:
        module, split = self._inner[0], len(inputs) - len(self.weights)
        given = dict(zip(self.weights, inputs[split:], strict=True))
        for name, first in self._names.items():
            owner, _, own = name.rpartition(".")
            module.get_submodule(owner)._parameters[own] = cast(nn.Parameter, given[first])
        return module(*inputs[:split])


class HollowConv(torch.autograd.Function):
    """Zeros of a convolution's shape, exported as that convolution: while tracing, only shapes and types matter."""

    @staticmethod
    def forward(_: Any, x: Tensor, weight: Tensor, bias: Tensor | None, way: tuple[Any, ...]) -> Tensor:  # noqa: ARG004
        rows, _, *pixels = (int(n) for n in x.shape)
        made, _, *kernel = (int(n) for n in weight.shape)
        stride, padding, dilation, _ = way
        sides = [(n + 2 * p - d * (k - 1) - 1) // s + 1
                 for n, p, d, k, s in zip(pixels, padding, dilation, kernel, stride, strict=True)]  # fmt: skip
        return x.new_zeros((rows, made, *sides))

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, bias: Any, way: tuple[Any, ...]) -> Any:
        stride, padding, dilation, groups = way
        given = (x, weight) if bias is None else (x, weight, bias)
        return g.op("Conv", *given, strides_i=stride, pads_i=(*padding, *padding), dilations_i=dilation, group_i=groups)


class HollowLinear(torch.autograd.Function):
    """As `HollowConv`, for linear layers."""

    @staticmethod
    def forward(_: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG004
        *rows, _ = (int(n) for n in x.shape)
        return x.new_zeros((*rows, int(weight.shape[0])))

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, bias: Any) -> Any:
        out = g.op("MatMul", x, g.op("Transpose", weight, perm_i=[1, 0]))
        return out if bias is None else g.op("Add", out, bias)


def _hollow_out(part: nn.Module) -> None:
    """Takes the work out of a layer that does much; it is traced as before."""
    layer: Any = part
    if type(part) is nn.Linear:
        linear: Any = HollowLinear
        layer.forward = lambda x: linear.apply(x, part.weight, part.bias)
    elif type(part) is nn.Conv2d and part.padding_mode == "zeros" and not isinstance(part.padding, str):
        conv: Any = HollowConv
        way = (part.stride, part.padding, part.dilation, part.groups)
        layer.forward = lambda x: conv.apply(x, part.weight, part.bias, way)


def _zero(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros((), dtype=dtype if weight.is_floating_point() else weight.dtype).expand(weight.shape)


def _skeleton(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    memo: dict[int, Any] = {id(w): nn.Parameter(_zero(w, dtype), requires_grad=False) for w in module.parameters()}
    copy = deepcopy(module, memo).eval()
    for part in copy.modules():
        _hollow_out(part)
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to("cpu", dtype if buffer.is_floating_point() else buffer.dtype))
    return copy


# ------------------------------------------------------------------------------------------------- symbols


@contextmanager
def _own_symbols(kind: int) -> Iterator[None]:
    """Operations that torch's exporter says worse, or not at all in bfloat16; `kind` is the precision's ONNX type."""
    own = {"group_norm": _group_norm, "scaled_dot_product_attention": _attention(kind), "einsum": _einsum(kind)}
    exporter: Any = torch.onnx
    for name, symbol in own.items():
        exporter.register_custom_op_symbolic(f"aten::{name}", symbol, TRACED)
    try:
        yield
    finally:
        for name in own:
            exporter.unregister_custom_op_symbolic(f"aten::{name}", TRACED)


@symbolic_helper.parse_args("v", "i", "v", "v", "f", "i")
def _group_norm(g: Any, x: Any, groups: int, weight: Any, bias: Any, eps: float, _: int) -> Any:
    """As ONNX's own, which averages in float32 whatever the precision."""
    if weight.node().mustBeNone() or bias.node().mustBeNone():
        raise ValueError("a group norm has no scale and shift")
    return g.op("GroupNormalization", x, weight, bias, num_groups_i=groups, epsilon_f=eps).setType(x.type())


def _attention(kind: int) -> Callable[..., Any]:
    """Matrix product, softmax, matrix product: the shape that TensorRT fuses. ONNX's own Attention is refused by it for
    heads that it has no kernel for."""

    def symbol(g: Any, q: Any, k: Any, v: Any, mask: Any, _drop: Any, causal: Any, scale: Any, *_: Any) -> Any:
        if not symbolic_helper._is_none(mask):
            raise ValueError("attention has a mask")
        scaled = g.op("Mul", q, g.op("Cast", _scale(g, q, scale), to_i=kind))
        scores = g.op("MatMul", scaled, g.op("Transpose", k, perm_i=[0, 1, 3, 2]))
        if symbolic_helper._maybe_get_const(causal, "b"):
            square = g.op("Concat", _size(g, q, -2), _size(g, k, -2), axis_i=0)
            never = g.op("ConstantOfShape", square, value_t=torch.tensor([-torch.inf]))
            scores = g.op("Add", scores, g.op("Cast", g.op("Trilu", never, _number(g, 1), upper_i=1), to_i=kind))
        return g.op("MatMul", g.op("Softmax", scores, axis_i=-1), v)

    return symbol


def _einsum(kind: int) -> Callable[..., Any]:
    """In float32 where the precision is bfloat16, which ONNX has no sums of products in."""
    narrow = kind == onnx.TensorProto.BFLOAT16

    def symbol(g: Any, equation: Any, operands: Any, *_: Any) -> Any:
        given = symbolic_helper._unpack_list(operands)
        if narrow:
            given = [g.op("Cast", x, to_i=onnx.TensorProto.FLOAT) for x in given]
        total = g.op("Einsum", *given, equation_s=symbolic_helper._parse_arg(equation, "s"))
        return g.op("Cast", total, to_i=kind) if narrow else total

    return symbol


def _scale(g: Any, q: Any, given: Any) -> Any:
    if not symbolic_helper._is_none(given):
        return _number(g, float(symbolic_helper._parse_arg(given, "f")))
    return g.op("Reciprocal", g.op("Sqrt", g.op("Cast", _size(g, q, -1), to_i=onnx.TensorProto.FLOAT)))


def _size(g: Any, x: Any, axis: int) -> Any:
    return g.op("Gather", g.op("Shape", x), _number(g, [axis]), axis_i=0)


def _number(g: Any, value: float | list[int]) -> Any:
    return g.op("Constant", value_t=torch.tensor(value))


# ------------------------------------------------------------------------------------------------- weights


def _attach(model: onnx.ModelProto, state: Mapping[str, Tensor], dtype: torch.dtype, data: Path) -> str:
    """Turns inputs that are weights into initializers that point into the file `data`, which it writes; their hash."""
    digest = hashlib.sha256()
    inputs = list(model.graph.input)
    del model.graph.input[:]
    with data.open("wb") as file:
        for value in inputs:
            if value.name not in state:
                model.graph.input.append(value)
                continue
            weight = _bytes(state[value.name], dtype)
            file.seek(-(-file.tell() // PAGE) * PAGE)
            tensor = _initializer(value, file.tell(), weight.nbytes)
            digest.update(f"\0{value.name} {tensor.data_type} {list(tensor.dims)}\0".encode())
            digest.update(weight)
            file.write(weight)
            model.graph.initializer.append(tensor)
    return digest.hexdigest()


def _bytes(weight: Tensor, dtype: torch.dtype) -> memoryview:
    ready = weight.detach().to("cpu", dtype if weight.is_floating_point() else weight.dtype).contiguous()
    return cast(Any, ready.view(-1).view(torch.uint8).numpy()).data  # type: ignore[no-any-return]


def _initializer(value: onnx.ValueInfoProto, offset: int, length: int) -> onnx.TensorProto:
    kind = value.type.tensor_type
    tensor = onnx.TensorProto(
        name=value.name, data_type=kind.elem_type, dims=[d.dim_value for d in kind.shape.dim],
        data_location=onnx.TensorProto.EXTERNAL,
    )  # fmt: skip
    for key, entry in (("location", DATA), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=entry)
    return tensor


# -------------------------------------------------------------------------------------------------- memory


def _memory(field: str) -> int:
    """Bytes that Linux counts for this process under `field`; 0 on other systems."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":")), 0)


def _forget_peak() -> None:
    """Lets the process's peak of memory start anew, where the system can."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return
