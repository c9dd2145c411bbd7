"""The back ends `tensorrt` (data-centre and workstation cards) and `tensorrt-rtx` (RTX cards).

Their Python APIs are twins, so one class runs both. TensorRT's engines are captured as CUDA graphs here; TensorRT-RTX
captures by itself, once the kernels for a shape are compiled, and keeps what it compiled in the cache folder.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as remember
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines import Choice, Tell
from engines.build import Profiles, Wish, ready
from engines.cache import default_folder
from engines.card import Card, CardEngine, CudaCard, Shapes, Station
from engines.errors import EngineError
from engines.refit import Supply, Swap, checked
from engines.spec import Network, Port, Precision

DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "UINT8": torch.uint8,
          "INT32": torch.int32, "INT64": torch.int64}  # fmt: skip
KERNELS = "kernels"  # below the cache folder: what TensorRT-RTX compiled, by engine
REASONS = 3  # last errors of TensorRT's log that are told
Capability = tuple[int, int]
ROWS = "rows"
log = logging.getLogger("livebrush")
Limits = Mapping[str, tuple[int, int]]


# --------------------------------------------------------------------------------------------- the back ends


@dataclass(frozen=True)
class TensorRT:
    """One of the two as `engines.Backend` has it: its Python module, the extra that installs it, and its cards."""

    name: str
    library: str
    extra: str
    serves: Callable[[Capability], bool]
    cards: str
    captures: bool  # CUDA graphs, by itself

    def missing(self) -> str | None:
        try:
            import_module(self.library)
        except (ImportError, OSError) as error:  # OSError: a shared library of it is missing
            return f"{error}: pip install 'livebrush[{self.extra}]'"
        if not torch.cuda.is_available():
            return no_card()
        if not self.devices():
            found = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
            return f"it serves {self.cards}, and there is {found}: use --engine torch"
        return None

    def devices(self) -> list[str]:
        capabilities = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        found = [f"cuda:{i}" for i, c in enumerate(capabilities) if self.serves(c)]
        return (["cuda"] if found[:1] == ["cuda:0"] else []) + found

    def precisions(self, device: str) -> list[Precision]:
        return ["f16", "bf16", "f32"] if torch.cuda.get_device_capability(device) >= (8, 0) else ["f16", "f32"]

    def build(self, network: Network, choice: Choice, cache: Path | None, tell: Tell | None = None) -> TensorRTEngine:
        """EngineError where any step fails."""
        device = torch.device(choice.device)
        plan = made(network, choice, torch.cuda.get_device_capability(device), cache, tell)
        library = import_module(self.library)
        if not self.captures:
            return TensorRTEngine(network, choice, plan, library, CudaCard(device))
        kernels = cache / KERNELS / f"{plan.parent.name}.bin" if cache is not None else None
        return RtxEngine(network, choice, plan, library, CudaCard(device), kernels)


full = TensorRT("tensorrt", "tensorrt", "tensorrt", lambda sm: sm >= (7, 5), "cards from SM 7.5 on", captures=False)
rtx = TensorRT("tensorrt-rtx", "tensorrt_rtx", "rtx", lambda sm: sm == (7, 5) or sm[0] in (8, 12),
               "RTX cards, SM 7.5, 8.x and 12.x", captures=True)  # fmt: skip


def made(network: Network, choice: Choice, capability: Capability, cache: Path | None,
         tell: Tell | None = None) -> Path:  # fmt: skip
    """The built engine's file for a card of this kind: from the cache, or exported and built into it."""
    compute = (10 * capability[0] + capability[1],)
    wish = Wish(choice.backend, choice.precision, Profiles(network.spans), compute, refit=network.changes)

    def going(phase: str, far: float) -> None:
        if tell is not None:
            tell(f"the {network.name}'s engine: {phase}", far)

    return ready(network, wish, cache or default_folder(), tell=going)


def no_card() -> str:
    """Why there is no card, as far as torch knows."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install a CUDA build, see https://pytorch.org"
    return "no NVIDIA card is there, or its driver is too old: see nvidia-smi"


def fastest(capability: Capability) -> tuple[TensorRT, ...]:
    """Which to use on a card, best first: TensorRT itself on data-centre cards, TensorRT-RTX on all that it serves."""
    data_centre = capability == (8, 0) or not rtx.serves(capability)
    return tuple(b for b in ((full, rtx) if data_centre else (rtx, full)) if b.serves(capability))


# ------------------------------------------------------------------------------------------------ the engine


class TensorRTEngine(CardEngine):
    """A built engine on a card: for each shape one execution context with its buffers and its graph; scratch memory is
    shared by all of them. Where the scratch memory must grow, everything is set up anew."""

    def __init__(self, network: Network, choice: Choice, plan: Path, library: Any, card: Card) -> None:
        super().__init__(network, card)
        self.backend = choice.backend
        self.precision: Precision = choice.precision
        self._library = library
        self._told = listener(library)
        self._plan = plan
        self._state = {**dict(network.module.named_parameters()), **dict(network.module.named_buffers())}
        self._changed: Mapping[str, Tensor] = {}
        self._scratch: Tensor | None = None
        self._runtime = self._must("start", library.Runtime, self._told)
        self._engine = self._whole({})
        self._check_ports(plan)
        self._profiles = [self._limits(i) for i in range(self._engine.num_optimization_profiles)]
        self._adopted()

    def refit(self, weights: Mapping[str, Tensor]) -> Swap:
        """A second engine of the same file gets them, and takes the place of the one that runs meanwhile. EngineError
        where the engine was built with its weights in it."""
        if not self._state:
            told = f"the weights of the {self._name} are built into its {self.backend} engine"
            raise EngineError(f"{told}: start again with --lora, or use --engine torch")
        checked(weights, {name: tuple(value.shape) for name, value in self._state.items()}, self._name)
        changed = {**self._changed, **weights}
        engine = self._whole(changed)

        def swap() -> None:
            with self._lock:
                self._drop_all()
                self._engine, self._changed = engine, changed
                self._adopted()

        return swap

    def _whole(self, changed: Mapping[str, Tensor]) -> Any:
        """The engine of the file, with the network's weights where it has none, and with those that were changed."""
        engine = self._read(self._plan)
        if not engine.refittable:
            self._state = {}  # nobody needs them any more
            return engine
        refitter = self._must("exchange weights", self._library.Refitter, engine, self._told)
        Supply(self._library, self._state)(refitter, changed)
        return engine

    def _adopted(self) -> None:
        """The engine is another one now."""

    # ------------------------------------------------------------------------------------------- reading

    def _read(self, plan: Path) -> Any:
        try:
            data = plan.read_bytes()
        except OSError as error:
            raise EngineError(f"the {self._name}'s engine {plan} cannot be read: {error.strerror}") from error
        return self._must(f"read the {self._name}'s engine {plan}", self._runtime.deserialize_cuda_engine, data)

    def _check_ports(self, plan: Path) -> None:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        wanted = [p.name for p in (*self._inputs, *self._outputs)]
        if sorted(names) != sorted(wanted):
            told = f"the {self._name}'s engine {plan} has {', '.join(names)}, expected {', '.join(wanted)}"
            raise EngineError(f"{told}: remove it, and it is built anew")

    def _limits(self, profile: int) -> Limits:
        """The least and the most that each named axis may be in a profile."""
        limits: dict[str, tuple[int, int]] = {}
        for port in self._inputs:
            low, _, high = (tuple(x) for x in self._engine.get_tensor_profile_shape(port.name, profile))
            for axis, a, b in zip(port.shape, low, high, strict=True):
                if isinstance(axis, str):
                    least, most = limits.get(axis, (a, b))
                    limits[axis] = max(a, least), min(b, most)
        return limits

    def _must(self, doing: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """What TensorRT gives. Where it cannot, that is None or False, and its log says why."""
        self._told.errors.clear()
        why = ""
        try:
            given = call(*arguments)
        except RuntimeError as error:
            given, why = None, str(error)
        if given is None or given is False:
            raise EngineError(
                f"{self.backend} cannot {doing}: {'; '.join(self._told.errors) or why or 'it says no more'}"
            )
        return given

    # ------------------------------------------------------------------------------------------- shapes

    def _most_rows(self, sizes: Mapping[str, int]) -> int:
        fitting = [
            p for p in self._profiles if all(low <= sizes[a] <= high for a, (low, high) in p.items() if a != ROWS)
        ]
        if not fitting:
            got = ", ".join(f"{a} {sizes[a]}" for a in self._profiles[0] if a != ROWS)
            able = " or ".join(", ".join(f"{a} {low} to {high}" for a, (low, high) in p.items() if a != ROWS)
                               for p in self._profiles)  # fmt: skip
            raise EngineError(f"the {self._name}'s engine runs {able}, got {got}: use such a size, or build one for it "
                              "with livebrush engines build")  # fmt: skip
        return max(p[ROWS][1] for p in fitting)

    def _profile(self, sizes: Mapping[str, int]) -> int:
        for i, limits in enumerate(self._profiles):
            if all(low <= sizes[a] <= high for a, (low, high) in limits.items()):
                return i
        raise EngineError(f"the {self._name}'s engine runs no {sizes[ROWS]} rows at once: build one for them")

    def _station(self, shapes: Shapes) -> Station:
        profile = self._profile(axes(self._inputs, shapes))
        context = self._must("make an execution context", self._new_context)
        if profile:
            self._must("choose a profile", context.set_optimization_profile_async, profile, self._card.stream)
        for port, shape in zip(self._inputs, shapes, strict=True):
            self._must(f"run {port.name} of shape {shape}", context.set_input_shape, port.name, shape)
        self._lend_scratch(context)
        inputs = [self._buffer(context, p.name).zero_() for p in self._inputs]
        outputs = [self._buffer(context, p.name) for p in self._outputs]
        stream = self._card.stream

        def work() -> Sequence[Tensor]:
            self._must(f"run the {self._name}", context.execute_async_v3, stream)
            return outputs

        return self._captured(inputs, work, graph=self._graphs, held=context)

    _graphs = True

    def _new_context(self) -> Any:
        return self._engine.create_execution_context(self._library.ExecutionContextAllocationStrategy.USER_MANAGED)

    def _lend_scratch(self, context: Any) -> None:
        """Graphs hold its address, so that where it moves they all go."""
        needed = context.update_device_memory_size_for_shapes()
        if self._scratch is None or self._scratch.numel() < needed:
            self._drop_all()
            self._scratch = None  # freed before more is asked for
            self._scratch = self._card.empty((max(needed, 1),), torch.uint8)
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())

    def _buffer(self, context: Any, name: str) -> Tensor:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise EngineError(f"{name} of the {self._name}'s engine is {kind}: expected {', '.join(DTYPES)}")
        buffer = self._card.empty(tuple(context.get_tensor_shape(name)), DTYPES[kind])
        self._must(f"use the memory of {name}", context.set_tensor_address, name, buffer.data_ptr())
        return buffer


class RtxEngine(TensorRTEngine):
    """TensorRT-RTX captures by itself, once the kernels made for a shape are compiled; pictures do not wait for
    them. `kernels` is the file that keeps them for the next start."""

    _graphs = False

    def __init__(self, network: Network, choice: Choice, plan: Path, library: Any, card: Card,
                 kernels: Path | None = None) -> None:  # fmt: skip
        self._kept = kernels
        super().__init__(network, choice, plan, library, card)

    def _adopted(self) -> None:
        library, kernels = self._library, self._kept
        self._config = self._must("be configured", self._engine.create_runtime_config)
        self._config.set_execution_context_allocation_strategy(library.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        lazy = library.DynamicShapesKernelSpecializationStrategy.LAZY
        self._config.dynamic_shapes_kernel_specialization_strategy = lazy
        self._kernels = self._config.create_runtime_cache()
        if kernels is not None and kernels.is_file():
            self._kernels.deserialize(kernels.read_bytes())  # of another driver: refused, and compiled again
        self._config.set_runtime_cache(self._kernels)

    def _new_context(self) -> Any:
        return self._engine.create_execution_context(self._config)

    def prepare(self, **sizes: int) -> None:
        known = set(self._stations)
        super().prepare(**sizes)
        if self._kept is not None and set(self._stations) - known:
            self._card.finish()  # before, it would keep half of them
            keep(self._kept, bytes(self._kernels.serialize()))


def axes(ports: Sequence[Port], shapes: Shapes) -> dict[str, int]:
    """What the named axes are in these shapes."""
    pairs = ((a, n) for p, s in zip(ports, shapes, strict=True) for a, n in zip(p.shape, s, strict=True))
    return {a: n for a, n in pairs if isinstance(a, str)}


def keep(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all. It only saves time: a full disk is a line in the log."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(data)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        log.warning("%s cannot be kept (%s): kernels are compiled again at the next start", path, error.strerror)


@remember
def listener(library: Any) -> Any:
    """What a library of the two tells its log to; one for the whole process, as TensorRT wants it."""

    class Listener(library.ILogger):  # type: ignore[misc] # known at run time only
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=REASONS)

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message)
            log.debug("%s: %s", library.__name__, message)

    return Listener()
