"""A card and a TensorRT without a card: the same calls, on tensors of the CPU, and strict about what real ones leave
undefined. It fails where memory was freed, a graph is older than its context, a stream is wrong, or a shape is."""

from __future__ import annotations

import ctypes
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from engines import Network

STREAM = 77
TYPES = {torch.float32: "FLOAT", torch.float16: "HALF", torch.uint8: "UINT8", torch.int64: "INT64"}
SCRATCH = 32  # bytes for each number of the inputs


class IllegalAddress(Exception):
    """What a card calls it when it is too late."""


class FakeCard:
    """A card whose memory knows whether it is still there."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.stream = STREAM
        self.memory: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self.allocated: list[tuple[int, ...]] = []
        self.inside = False
        self.recording: list[Launch] | None = None
        self.captured = self.replayed = self.finished = 0
        self.refuses_capture = False
        self.busy = False  # what was queued may still be running
        self.torn = 0  # pieces of memory that were given back meanwhile

    @contextmanager
    def turn(self) -> Iterator[None]:
        assert not self.inside
        self.inside = True
        try:
            yield
        finally:
            self.inside, self.busy = False, True

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        assert self.inside, "its memory would belong to the caller's stream"
        made = torch.empty(tuple(shape), dtype=dtype)
        made.fill_(77 if not dtype.is_floating_point else float("nan"))
        self.allocated.append(tuple(shape))
        self.memory[made.data_ptr()] = made
        weakref.finalize(made, self._freed)
        return made

    def _freed(self) -> None:
        self.torn += self.busy

    def at(self, address: int) -> Tensor:
        """The memory there. Raises IllegalAddress where it was freed."""
        found = self.memory.get(address)
        if found is None:
            raise IllegalAddress(f"nothing lies at {address:#x} any more")
        return found

    def capture(self, work: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
        assert self.inside
        if self.refuses_capture:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recording = launches = []
        try:
            outputs = work()
        finally:
            self.recording = None
        self.captured += 1

        def replay() -> None:
            assert self.inside
            self.replayed += 1
            for launch in launches:
                launch()
            if not launches:  # plain torch: its results lie where they lay at the capture
                for out, new in zip(outputs, work(), strict=True):
                    out.copy_(new)

        return replay, outputs

    def finish(self) -> None:
        self.finished += 1
        self.busy = False


@dataclass
class Launch:
    """What a context was told when it was asked to run."""

    context: FakeContext
    told: int
    shapes: dict[str, tuple[int, ...]]
    addresses: dict[str, int]
    scratch: int

    def __call__(self) -> None:
        context, card = self.context, self.context.library.card
        assert context.told == self.told, "the context was changed after the capture"
        if card.at(self.scratch).numel() < context.needed():
            raise IllegalAddress("the scratch memory is too small")
        network = context.engine.network
        inputs = []
        for port in network.inputs:
            x = card.at(self.addresses[port.name])
            assert tuple(x.shape) == self.shapes[port.name]
            inputs.append(x.to(port.dtype).clone())
        time.sleep(context.library.delay_s)
        with torch.inference_mode():
            made = network.module(*inputs)
            for port, out in zip(context.engine.outputs, made if isinstance(made, tuple) else (made,), strict=True):
                card.at(self.addresses[port.name]).copy_(out)
        context.library.runs += 1


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.library = engine, engine.library
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch = self.told = 0
        self._run = -1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle == STREAM
        assert not self.shapes, "the profile comes before the shapes"
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return self.library.refuse(f"{name}: {shape} is outside the profile")
        self.shapes[name] = shape
        self.told += 1
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        network = self.engine.network
        with torch.inference_mode():
            made = network.module(*(torch.zeros(self.shapes[p.name], dtype=p.dtype) for p in network.inputs))
        made = made if isinstance(made, tuple) else (made,)
        return tuple(made[[p.name for p in self.engine.outputs].index(name)].shape)

    def needed(self) -> int:
        return SCRATCH * sum(torch.Size(s).numel() for s in self.shapes.values())

    def update_device_memory_size_for_shapes(self) -> int:
        assert len(self.shapes) == len(self.engine.network.inputs), "all shapes come first"
        return self.needed()

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self.library.card.at(memory).numel() == size
        self.scratch = memory
        self.told += 1

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        self.told += 1
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        card = self.library.card
        assert stream_handle == STREAM, "not on its own stream"
        assert card.inside, "nothing waits for it"
        if self.library.fails:
            return self.library.refuse(self.library.fails)
        launch = Launch(self, self.told, dict(self.shapes), dict(self.addresses), self.scratch)
        if card.recording is None:
            launch()
            self._run = self.told
        elif self._run != self.told:
            return self.library.refuse("captured before it has run with these shapes")
        else:
            card.recording.append(launch)
        return True


class FakeRuntimeCache:
    def __init__(self, library: FakeLibrary) -> None:
        self._library = library
        self.blob = b""

    def deserialize(self, blob: bytes) -> bool:
        self.blob = blob if blob.startswith(b"kernels") else b""
        return bool(self.blob)

    def serialize(self) -> bytes:
        assert self._library.card.finished, "kernels are still being compiled"
        return b"kernels of %d runs" % self._library.runs


@dataclass
class FakeConfig:
    library: FakeLibrary
    cuda_graph_strategy: Any = None
    dynamic_shapes_kernel_specialization_strategy: Any = None
    allocation: Any = None
    cache: FakeRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.allocation = strategy

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache(self.library)

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.cache = cache
        return True


class FakeEngine:
    def __init__(self, library: FakeLibrary, plan: dict[str, Any]) -> None:
        self.library = library
        self.network = library.networks[plan["network"]]
        self.refittable = plan["stripped"]
        if self.refittable:  # weights of its own, and none that are any good
            self.network = replace(self.network, module=deepcopy(self.network.module))
            for weight in self.network.module.parameters():
                weight.data.fill_(float("nan"))
        self.outputs = (self.network.output, *getattr(self.network, "more", ()))
        self._plan = plan
        self.num_optimization_profiles = len(plan["profiles"])
        self._names = plan["names"]
        self.num_io_tensors = len(self._names)
        self.contexts: list[Any] = []

    def get_tensor_name(self, index: int) -> str:
        return str(self._names[index])

    def get_tensor_dtype(self, name: str) -> Any:
        return Type[self._plan["types"][name]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        profile = self._plan["profiles"][profile_index]
        port = next(p for p in self.network.inputs if p.name == name)
        return [tuple(a if isinstance(a, int) else profile[a][i] for a in port.shape) for i in range(3)]

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig(self.library)

    def create_execution_context(self, how: Any) -> FakeContext:
        allocation = how.allocation if isinstance(how, FakeConfig) else how
        assert allocation == Allocation.USER_MANAGED
        self.contexts.append(how)
        return FakeContext(self)


class FakeRefitter:
    """Types and sizes are checked, and nothing holds before the refit, which reads the memory that it was given. A
    weight without its twin of `library.merged` is not enough."""

    def __init__(self, library: FakeLibrary, engine: FakeEngine) -> None:
        self._library = library
        self.held = dict(engine.network.module.named_parameters())
        self._set: dict[str, SimpleNamespace] = {}

    def get_weights_prototype(self, weights_name: str) -> SimpleNamespace:
        if weights_name not in self.held:
            return SimpleNamespace(dtype=self._library.kind, size=-1)
        return SimpleNamespace(dtype=self._library.kind, size=self.held[weights_name].numel())

    def set_named_weights(self, name: str, weights: SimpleNamespace) -> bool:
        wanted = self.get_weights_prototype(name)
        if (weights.dtype, weights.size) != (wanted.dtype, wanted.size):
            return False
        self._set[name] = weights
        return True

    def get_missing_weights(self) -> list[str]:
        lacking = {n for n, w in self.held.items() if bool(w.isnan().any())}
        lacking |= {twin for name, twin in self._library.merged.items() if name in self._set}
        return sorted(lacking - {*self._set})

    def refit_cuda_engine(self) -> bool:
        if self._library.fails:
            return self._library.refuse(self._library.fails)
        dtype = {Type.FLOAT: torch.float32, Type.HALF: torch.float16, Type.BF16: torch.bfloat16}[self._library.kind]
        for name, weights in self._set.items():
            raw = (ctypes.c_byte * (weights.size * dtype.itemsize)).from_address(weights.place)
            self.held[name].data.copy_(torch.frombuffer(bytearray(raw), dtype=dtype).reshape(self.held[name].shape))
        self._set.clear()
        return True


class FakeRuntime:
    def __init__(self, library: FakeLibrary, logger: Any) -> None:
        self._library = library
        library.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
        try:
            return FakeEngine(self._library, json.loads(data))
        except (ValueError, KeyError):
            self._library.refuse("Serialization assertion failed: magic tag does not match")
            return None


Type: Any = Enum("Type", [*TYPES.values(), "BF16", "INT32", "FP8"])
Allocation = Enum("Allocation", ["STATIC", "USER_MANAGED"])
Strategy = Enum("Strategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
Specialization = Enum("Specialization", ["LAZY", "EAGER", "NONE"])
Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])


@dataclass(eq=False)
class FakeLibrary:
    """`tensorrt` or `tensorrt_rtx`, as far as the engines use them."""

    card: FakeCard
    networks: dict[str, Network] = field(default_factory=dict)
    fails: str = ""  # what the log says of every launch
    delay_s: float = 0.0  # of every launch
    runs: int = 0
    logger: Any = None
    kind: Any = Type.FLOAT  # of all weights
    merged: dict[str, str] = field(default_factory=dict)
    DataType = Type
    __name__: str = "fake_tensorrt"
    ExecutionContextAllocationStrategy = Allocation
    CudaGraphStrategy = Strategy
    DynamicShapesKernelSpecializationStrategy = Specialization

    class ILogger:
        pass

    def Runtime(self, logger: Any) -> FakeRuntime:
        return FakeRuntime(self, logger)

    def Refitter(self, engine: FakeEngine, logger: Any) -> FakeRefitter:
        assert logger is self.logger
        return FakeRefitter(self, engine)

    @staticmethod
    def Weights(kind: Any, place: int, count: int) -> SimpleNamespace:
        return SimpleNamespace(dtype=kind, place=place, size=count)

    def refuse(self, why: str) -> bool:
        self.logger.log(Severity.INFO, "nothing of importance")
        self.logger.log(Severity.ERROR, why)
        return False

    def plan(
        self, path: Path, network: Network, *profiles: dict[str, tuple[int, int, int]], half: bool = False,
        stripped: bool = False,
    ) -> Path:  # fmt: skip
        """A built engine of `network`, as a file; `stripped`: without its weights."""
        ports = [*network.inputs, network.output, *getattr(network, "more", ())]
        types = {
            p.name: "HALF" if half and p.dtype.is_floating_point and not p.exact else TYPES[p.dtype] for p in ports
        }
        self.networks[str(path)] = network
        told = {"network": str(path), "profiles": profiles, "types": types, "names": [p.name for p in ports],
                "stripped": stripped}  # fmt: skip
        path.write_text(json.dumps(told))
        return path


def in_threads(*works: Callable[[], None]) -> None:
    """Runs them at once; what one raises is raised here."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised again below)
            errors.append(error)

    threads = [threading.Thread(target=run, args=(w,)) for w in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
