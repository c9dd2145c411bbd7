"""Work on a graphics card whose buffers never move: set up once for each shape, captured, and replayed.

`Card` is the seam between the order of things, which is tested without a card, and CUDA, which needs one.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engines.errors import EngineError
from engines.spec import Network, Port

log = logging.getLogger("livebrush")
KEPT = 32  # shapes of an engine that stay set up, the newest used: every number of rows of some streams in some sizes
WARM_UP = 2  # runs before a capture: libraries choose and allocate in their first ones

Shapes = tuple[tuple[int, ...], ...]
Work = Callable[[], Sequence[Tensor]]


class Card(Protocol):
    """A graphics card with a stream of its own, as one engine uses it."""

    device: torch.device
    stream: int  # the handle of its own stream

    def turn(self) -> AbstractContextManager[None]:
        """What is queued inside goes to the own stream: after all that the caller has queued, before all that it
        queues next. The host waits for nothing."""
        ...

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the card, in no particular state."""
        ...

    def capture(self, work: Work) -> tuple[Callable[[], None], Sequence[Tensor]]:
        """`work` as one launch, and where its results will lie. Inside a turn. RuntimeError where it cannot be."""
        ...

    def finish(self) -> None:
        """The host waits until the own stream has nothing left to do."""
        ...


class CudaCard:
    """A card through torch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self.stream = int(self._stream.cuda_stream)

    @contextmanager
    def turn(self) -> Iterator[None]:
        callers = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(callers)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            callers.wait_stream(self._stream)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def capture(self, work: Work) -> tuple[Callable[[], None], Sequence[Tensor]]:
        """Not by `torch.cuda.graph`: that one waits for the whole card. In thread-local mode other threads may go on
        allocating. All graphs of an engine share one pool: they run one after the other."""
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            results = work()
        finally:
            graph.capture_end()
        return graph.replay, results

    def finish(self) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        event.synchronize()


@dataclass(eq=False)
class Station:
    """Everything for one set of shapes: buffers that never move, and what turns the ones into the others."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    launch: Callable[[], Sequence[Tensor] | None]  # what it gives lies in `outputs`, unless it says where else
    held: Any = None  # what must live as long

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Inside a turn: `inputs` go in, the results are copied to `outputs`; both are cast to the types there."""
        for buffer, x in zip(self.inputs, inputs, strict=True):
            buffer.copy_(x, non_blocking=True)
        made = self.launch()
        for out, buffer in zip(outputs, self.outputs if made is None else made, strict=True):
            out.copy_(buffer, non_blocking=True)


class CardEngine:
    """An engine's order of things on a card; what runs there is left to `_station`.

    A call never waits for the card, and what it returns belongs to the caller. Rows above `_most_rows` are split into
    several launches. Calls from several threads take turns.
    """

    def __init__(self, network: Network, card: Card) -> None:
        self.device = card.device
        self._card = card
        self._name = network.name
        self._inputs = network.inputs
        self._outputs: tuple[Port, ...] = (network.output, *network.more)
        self._stations: OrderedDict[Shapes, Station] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Any:
        sizes = self._sizes(inputs)
        rows, most = sizes["rows"], self._most_rows(sizes)
        with self._lock:
            outs: list[Tensor] = []
            for start in range(0, rows, most):
                part = slice(start, min(start + most, rows))
                pieces = [x[part] for x in inputs]
                station = self._at(tuple(tuple(x.shape) for x in pieces))
                # allocated on the caller's stream, whose it is: freed, it is not written to by ours
                outs = outs or [
                    torch.empty((rows, *buffer.shape[1:]), dtype=port.dtype, device=self.device)
                    for buffer, port in zip(station.outputs, self._outputs, strict=True)
                ]
                with self._card.turn():
                    station.run(pieces, [out[part] for out in outs])
        return outs[0] if len(outs) == 1 else tuple(outs)

    @torch.inference_mode()
    def prepare(self, **sizes: int) -> None:
        """Sets up these sizes, so that the first call is as fast as the next. EngineError where they cannot be run."""
        rows = min(sizes["rows"], self._most_rows(sizes))
        ports = self._inputs
        with self._lock:
            self._at(
                tuple(tuple(a if isinstance(a, int) else {**sizes, "rows": rows}[a] for a in p.shape) for p in ports)
            )

    def forget(self) -> None:
        """Drops every buffer and graph: the next call sets up anew."""
        with self._lock:
            self._drop_all()

    # ------------------------------------------------------------------------------------- for each back end

    def _most_rows(self, sizes: dict[str, int]) -> int:
        """Rows that one launch takes. EngineError where these sizes cannot be run."""
        return sizes["rows"]

    def _station(self, shapes: Shapes) -> Station:
        """Everything for these shapes of the inputs; called inside a turn."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------------------- within

    def _sizes(self, inputs: Sequence[Tensor]) -> dict[str, int]:
        """What the named axes are. EngineError where the inputs do not fit the ports, or each other."""
        if len(inputs) != len(self._inputs):
            raise EngineError(f"the {self._name} takes {len(self._inputs)} inputs, got {len(inputs)}")
        sizes: dict[str, int] = {}
        for port, x in zip(self._inputs, inputs, strict=True):
            wanted = [
                sizes.setdefault(a, n) if isinstance(a, str) else a for a, n in zip(port.shape, x.shape, strict=False)
            ]
            if x.dim() != len(port.shape) or wanted != list(x.shape):
                told = tuple(sizes.get(a, a) if isinstance(a, str) else a for a in port.shape)
                raise EngineError(f"{self._name}: {port.name} has shape {tuple(x.shape)}, expected {told}")
        return sizes

    def _at(self, shapes: Shapes) -> Station:
        if shapes in self._stations:
            self._stations.move_to_end(shapes)
            return self._stations[shapes]
        while len(self._stations) >= KEPT:
            self._card.finish()  # it may still be running
            self._stations.popitem(last=False)
        with self._card.turn():
            station = self._stations[shapes] = self._station(shapes)
        return station

    def _drop_all(self) -> None:
        self._card.finish()
        self._stations.clear()

    def _captured(self, inputs: Sequence[Tensor], work: Work, graph: bool = True, held: Any = None) -> Station:
        """Warms `work` up on `inputs` and captures it. Where it cannot be captured, it is launched piece by piece."""
        outputs: Sequence[Tensor] = ()
        for _ in range(WARM_UP):
            outputs = work()
        if not graph:
            return Station(inputs, outputs, work, held)
        try:
            replay, outputs = self._card.capture(work)
        except RuntimeError as error:
            log.warning("the %s runs without a CUDA graph: %s", self._name, error)
            return Station(inputs, outputs, work, held)
        return Station(inputs, outputs, replay, held)
