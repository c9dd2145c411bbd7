"""The OpenVINO back end: the fastest on a CPU, and for Intel's graphics.

A network is traced once (the graph is cached by content) and compiled for fixed picture sizes, one row a request. Full
groups of rows run side by side, a thread each; what is left over runs on all threads, one after the other. So any
number of rows runs without compiling anything new, and more rows are never slower than one by one.
"""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Mapping
from functools import cache as remember
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engines import Choice, Tell, fold, quantise, refit
from engines.cache import Cache, network_key
from engines.errors import EngineError
from engines.refit import Homes, Swap, checked
from engines.spec import Network, Port, Precision, Ranges

if TYPE_CHECKING:
    import openvino as ov

# OpenVINO's converter reports each of its uses over the network, from a fork of this process, where this package is
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: an ImportError, which it is ready for
RECOMPILED = 6  # sizes, of those used last, that new weights are compiled for before they replace the old ones
SIDE_BY_SIDE = 2  # requests in a group: one thread each pays off from two on, and needs that many cores
NUMPY = {torch.float32: np.float32, torch.uint8: np.uint8, torch.int64: np.int64}


@remember
def _core() -> ov.Core:
    import openvino

    return openvino.Core()


def missing() -> str | None:
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        return f"{error}: pip install openvino"
    return None


def devices() -> list[str]:
    """`cpu` first; Intel GPUs by their OpenVINO names in lower case."""
    names = [str(d) for d in _core().available_devices]
    return ["cpu"] + [n.lower() for n in names if n.startswith("GPU")]


def precisions(device: str) -> list[Precision]:
    if device != "cpu":
        return ["f16", "f32"]
    offered: dict[Precision, bool] = {"int8": _dots(), "bf16": _bf16(), "f32": True}
    return [precision for precision, able in offered.items() if able]


def _bf16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _dots() -> bool:
    """Whether the processor multiplies and adds bytes at once; on others int8 is slower, or overflows."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(able.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def build(  # seconds at most
    network: Network, choice: Choice, cache: Path | None, tell: Tell | None = None,  # noqa: ARG001
) -> OpenVinoEngine:  # fmt: skip
    if choice.precision == "int8" and network.ranges is None:
        raise EngineError(f"the {network.name} has no ranges for int8: use bf16 or f32, or measure them")
    return OpenVinoEngine(network, choice, cache)


def trace(network: Network, ranges: Ranges | None = None) -> ov.Model:
    """The network as an OpenVINO model with dynamic axes, rounded where there are `ranges`; EngineError where it
    cannot be converted."""
    import openvino

    module = fold.folded(network.module)
    if ranges is not None:
        module = quantise.quantised(module, ranges)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined] # shape checks; parity is tested
            model = openvino.convert_model(module, example_input=network.example())
    except (RuntimeError, TypeError, ValueError) as error:  # openvino wraps its converter's errors in these
        raise EngineError(f"OpenVINO cannot convert the {network.name}: {error}\nuse --engine torch") from error
    for port, node in zip(network.inputs, model.inputs, strict=True):
        node.get_tensor().set_names({port.name})
    shapes = {port.name: openvino.PartialShape([-1 if isinstance(a, str) else a for a in port.shape])
              for port in network.inputs}  # fmt: skip
    model.reshape(shapes)
    return model


def homes_in(model: ov.Model, network: Network) -> Homes:
    """Where the network's parameters lie in its traced graph."""
    constants = ((name, torch.from_numpy(np.array(op.data))) for name, op in constants_of(model).items())
    return refit.homes(dict(network.module.named_parameters()), constants)


def constants_of(model: ov.Model) -> dict[str, Any]:
    """The floating-point constants of a graph, by name."""
    import openvino

    found = (op for op in model.get_ops() if op.get_type_name() == "Constant")
    return {op.get_friendly_name(): op for op in found if op.get_element_type() == openvino.Type.f32}


class OpenVinoEngine:
    """A traced network and what has been compiled of it, by picture size."""

    backend = "openvino"

    def __init__(self, network: Network, choice: Choice, cache: Path | None) -> None:
        self.device = torch.device("cpu")
        self.precision: Precision = choice.precision
        self._name = network.name
        self._inputs, self._output = network.inputs, network.output
        self._target = choice.device.upper()
        self._config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": floats(choice.precision)}
        ranges = network.ranges if choice.precision == "int8" else None
        self._model, self._homes = self._trace(network, ranges, cache)
        self._sized: dict[tuple[int, ...], _Sized] = {}
        self._turn = 0

    def _trace(self, network: Network, ranges: Ranges | None, cache: Path | None) -> tuple[ov.Model, Homes]:
        import openvino

        if cache is None:
            model = trace(network, ranges)
            return model, homes_in(model, network)

        def make(folder: Path) -> None:
            model = trace(network, ranges)
            openvino.save_model(model, folder / "graph.xml", compress_to_fp16=False)
            homes_in(model, network).write(folder)

        code = (inspect.getsource(part) for part in (fold, quantise, refit, trace))
        told = (f"openvino {openvino.__version__}", *code, repr(ranges and sorted(ranges.items())))
        place = Cache(cache / "openvino").fetch(network_key(network, *told), make)
        return _core().read_model(place / "graph.xml"), Homes.read(place)

    def prepare(self, **sizes: int) -> None:
        """Compiles for these picture sizes; any number of rows."""
        self._for(tuple(sizes[a] for a in self._axes()))

    def _axes(self) -> list[str]:
        """The named axes but rows, in order of first appearance."""
        named = (a for p in self._inputs for a in p.shape if isinstance(a, str) and a != "rows")
        return list(dict.fromkeys(named))

    def _for(self, sizes: tuple[int, ...]) -> _Sized:
        if sizes not in self._sized:
            self._sized[sizes] = self._compile(self._model, sizes)
        found = self._sized[sizes]
        found.used = self._turn = self._turn + 1
        return found

    def _compile(self, dynamic: ov.Model, named: tuple[int, ...]) -> _Sized:
        sizes = {**dict(zip(self._axes(), named, strict=True)), "rows": 1}
        model = dynamic.clone()
        model.reshape({p.name: [a if isinstance(a, int) else sizes[a] for a in p.shape] for p in self._inputs})
        alone = {**self._config, "PERFORMANCE_HINT": "LATENCY"}
        together = {**self._config, "NUM_STREAMS": str(SIDE_BY_SIDE)}
        try:
            one = _core().compile_model(model, self._target, alone)
            many = None
            if self._target == "CPU" and cores() >= SIDE_BY_SIDE:
                many = _core().compile_model(model, self._target, together)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile the {self._name} for {sizes}: {error}") from error
        return _Sized(one, many)

    def refit(self, weights: Mapping[str, Tensor]) -> Swap:
        """Compiles a graph with these weights beside the one that runs."""
        if self.precision == "int8":
            raise EngineError(f"weights of the {self._name} cannot change in int8: use --precision bf16 or f32")
        checked(weights, self._homes.shapes, self._name)
        model = self._with(weights)
        latest = sorted(self._sized.copy().items(), key=lambda item: item[1].used)[-RECOMPILED:]
        sized = {sizes: self._compile(model, sizes) for sizes, _ in latest}

        def swap() -> None:
            self._model, self._sized = model, sized

        return swap

    def _with(self, weights: Mapping[str, Tensor]) -> ov.Model:
        """The graph with other values in the constants that these parameters became."""
        import openvino

        model = self._model.clone()
        constants = constants_of(model)
        for name, value in self._homes.values(weights):
            fresh = openvino.op.Constant(value.detach().numpy(), shared_memory=False)
            fresh.set_friendly_name(name)
            openvino.utils.replace_node(constants[name], fresh)
        return model

    def __call__(self, *inputs: Tensor) -> Tensor:
        ready = [self._checked(x, p) for x, p in zip(inputs, self._inputs, strict=True)]
        sizes = {a: n for p, x in zip(self._inputs, ready, strict=True) for a, n in zip(p.shape, x.shape, strict=True)}
        compiled = self._for(tuple(sizes[a] for a in self._axes()))
        rows = sizes["rows"]
        out = np.empty((rows, *compiled.shape), NUMPY[self._output.dtype])
        compiled.run(ready, out)
        return torch.from_numpy(out)

    def _checked(self, x: Tensor, port: Port) -> np.ndarray[Any, Any]:
        if x.dim() != len(port.shape):
            raise EngineError(f"{self._name}: {port.name} has shape {tuple(x.shape)}, expected {port.shape}")
        return x.to(port.dtype).contiguous().numpy()


def floats(precision: Precision) -> str:
    """OpenVINO's name for the numbers of what is not int8."""
    if precision != "int8":
        return precision
    return "bf16" if _bf16() else "f32"


class _Sized:
    """One network compiled for one picture size: alone on all threads, and side by side on a thread each."""

    def __init__(self, one: ov.CompiledModel, many: ov.CompiledModel | None) -> None:
        self.shape = tuple(one.outputs[0].shape)[1:]
        self.used = 0  # the engine's count of calls when it was used last
        self._one = one.create_infer_request()
        self._many = [many.create_infer_request() for _ in range(SIDE_BY_SIDE)] if many is not None else []

    def run(self, inputs: list[np.ndarray[Any, Any]], out: np.ndarray[Any, Any]) -> None:
        """Every row of `inputs`, into the same row of `out`."""
        row, rows = 0, len(out)
        while self._many and rows - row >= SIDE_BY_SIDE:
            for k, request in enumerate(self._many):
                self._bind(request, inputs, out, row + k)
                request.start_async()
            for request in self._many:
                request.wait()
            row += SIDE_BY_SIDE
        for last in range(row, rows):
            self._bind(self._one, inputs, out, last)
            self._one.infer()

    @staticmethod
    def _bind(request: ov.InferRequest, inputs: list[np.ndarray[Any, Any]], out: np.ndarray[Any, Any],
              row: int) -> None:  # fmt: skip
        import openvino

        for i, x in enumerate(inputs):
            request.set_input_tensor(i, openvino.Tensor(x[row : row + 1], shared_memory=True))
        request.set_output_tensor(0, openvino.Tensor(out[row : row + 1], shared_memory=True))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
