"""The worker process: it owns the model, and paints the frames of all streams, their rows in one batch a tick.

The supervisor starts it (`stream.supervisor`), talks to it through its standard input and output (`stream.messages`)
and hands frames over in shared memory (`stream.mailbox`). It ends with its standard input, whatever it is doing.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from stream.config import Lora
from stream.errors import LivebrushError
from stream.frame import Frame
from stream.mailbox import PRIMED, REPEATED, Activity, Address, Boxes, Memory, Pulse
from stream.memory import area, out_of_memory, shape, smaller
from stream.messages import (
    Applied,
    Apply,
    Begin,
    Bell,
    Broken,
    Chosen,
    Close,
    Closed,
    Failed,
    Fake,
    Fault,
    Loading,
    Measured,
    Misbehave,
    Mixed,
    Open,
    Plan,
    Ready,
    Refused,
    Rehearse,
    Rehearsed,
    Remix,
    Shrunk,
    Stages,
    Stop,
    Ticked,
    Unfit,
)
from stream.settings import Settings
from stream.timing import percentiles
from stream.wire import Tell, Wire, bind_to, group_yields, leave

log = logging.getLogger("livebrush")
TURN_S = 0.25  # the longest rest, so that the pulse goes on
MEASURE_S = 1.0  # between two `Measured`
RECENT = 120  # newest measurements that count
IN_A_ROW = 3  # failed ticks, before the worker gives itself up
GENTLE = 10  # nice value of a rehearsal: a tenth of what paints, and yet done in a minute or two beside it
IMPORTS = (  # a second each, about: between two of them a rehearsal can end
    "torch",
    "torch._dynamo",
    "scipy.stats",
    "transformers.modeling_utils",
    "diffusers.loaders",
    "stream.models",
    "stream.pipeline",
    "stream.choice",
    "transformers.models.clip",
    "engines.openvino",
    "openvino",
)
NETWORKS = ("StableDiffusionPipeline", "UNet2DConditionModel", "AutoencoderTiny", "LCMScheduler")  # each a lazy import
Swap = Callable[[], None]


# ------------------------------------------------------------------------------------------------- the painter


@dataclass(frozen=True)
class Loaded:
    """A painter of `stream.pipeline.Painter`'s shape, and what there is to say of it. `mix` is `Model.mix`."""

    painter: Any
    multiple: int
    engine: str
    mix: Callable[[tuple[Lora, ...]], Swap]
    notice: str = ""
    doubtful: bool = False  # whether another engine may run what this one cannot


def load(plan: Plan, tell: Callable[[Any], None], beat: Callable[[], None]) -> Loaded:
    """The painter of a plan. `beat` is called while something goes on that may take minutes. Raises LivebrushError for
    what a user can mend."""
    if plan.fake is not None:
        return load_fake(plan, plan.fake, tell)
    from engines import TENSORRT
    from engines.cache import default_folder
    from stream import models
    from stream.choice import choose
    from stream.pipeline import Painter

    choice = choose(plan.spec, plan.engine, plan.device, plan.precision)
    tell(Chosen(choice.backend))
    model = models.load(plan.spec, choice, default_folder(), Going(tell, beat))
    notice, doubtful = model.notice or plan.notice, model.choice.backend in TENSORRT
    return Loaded(Painter(model), model.multiple, str(model.choice), model.mix, notice, doubtful)


class Going:
    """Passes on how far something is, each per cent once."""

    def __init__(self, tell: Callable[[Any], None], beat: Callable[[], None]) -> None:
        self._tell, self._beat, self._said = tell, beat, ""

    def __call__(self, what: str, far: float) -> None:
        self._beat()
        text = f"{what}, {far:.0%}"
        if text != self._said:
            self._said = text
            self._tell(Loading(text))


def load_fake(plan: Plan, fake: Fake, tell: Callable[[Any], None]) -> Loaded:
    from stream.passthrough import PassThrough

    fails = not fake.backend or plan.engine in ("auto", fake.backend)
    tell(Chosen(fake.backend if fails else plan.engine))
    time.sleep(fake.load_ms / 1000)
    if fake.fail is not None and fails:
        misbehave(fake.fail)
    painter, doubtful = PassThrough(fake), bool(fake.backend) and fails
    return Loaded(painter, fake.multiple, "none (frames pass through)", painter.mix, plan.notice, doubtful)


def misbehave(fault: Fault) -> None:
    """Fails, for tests."""
    if fault == "raise":
        raise RuntimeError("asked to fail")
    if fault == "memory":
        raise MemoryError("asked to run out of memory")
    if fault == "exit":
        leave(3)
    while True:
        time.sleep(3600)


# ------------------------------------------------------------------------------------------------- the loop


@dataclass(eq=False)
class Seat:
    """A stream in the worker: its session with the painter, and its mailboxes."""

    key: int
    session: Any
    boxes: Boxes

    @property
    def settings(self) -> Settings:
        settings: Settings = self.session.settings
        return settings

    @property
    def load(self) -> tuple[object, ...]:
        """What the engines may have to get ready for."""
        s = self.settings
        return s.width, s.height, s.mode, s.steps, s.t_index, s.guided and s.guidance


@dataclass(frozen=True)
class Prepared:
    """From the thread that got other LoRAs ready: how to put them in, or why they cannot be."""

    swap: Swap | None
    error: str | None = None


class Worker:
    """The loop: hear what the server wants, take the newest frame of every stream that has one, paint, hand back."""

    def __init__(self, wire: Wire, memory: Memory, pulse: Pulse, loaded: Loaded, faults: bool) -> None:
        self._wire, self._memory, self._pulse = wire, memory, pulse
        self._painter, self._multiple, self._mix = loaded.painter, loaded.multiple, loaded.mix
        self._doubtful = loaded.doubtful
        self._seats: dict[int, Seat] = {}  # oldest first
        self._known: set[tuple[object, ...]] = set()  # loads that a tick has been through
        self._obeys, self._faults = faults, deque[Fault]()  # one fault a tick
        self._rung = self._busy = self._stopped = False
        self._failures = 0
        self._tick_ms: deque[float] = deque(maxlen=RECENT)
        self._typical_s = 0.0
        self._measured_at = time.monotonic()
        self._answers: dict[type, Callable[[Any], None]] = {
            Bell: self._hear_bell, Open: self._open, Apply: self._apply, Close: self._close,
            Misbehave: self._remember, Stop: self._stop, Remix: self._remix, Prepared: self._swap,
        }  # fmt: skip

    def run(self) -> None:
        """Until `Stop`. Raises what made `IN_A_ROW` ticks fail."""
        while not self._stopped:
            self._beat("idle")
            self._hear()
            self._turn()
            self._measure()

    def _beat(self, activity: Activity) -> None:
        self._pulse.beat(activity, self._typical_s)

    def _hear(self) -> None:
        """Everything that the server has said. Waits for it where the last turn had nothing to do."""
        wait = 0.0 if self._busy else TURN_S
        with suppress(queue.Empty):
            while True:
                message = self._wire.inbox.get(timeout=wait)
                self._answers[type(message)](message)
                wait = 0.0

    def _turn(self) -> None:
        frames = {}
        for seat in self._seats.values():
            letter = seat.boxes.inbox.take()
            if letter is not None:
                frames[seat] = letter.frame
        painted = self._tick(frames) if frames else ()
        self._busy = bool(frames)
        if painted or self._rung:
            self._wire.send(Ticked(painted, self._rung))
            self._rung = False

    # --------------------------------------------------------------------------------------------- painting

    def _tick(self, frames: Mapping[Seat, Frame]) -> tuple[int, ...]:
        """The streams that something was painted for."""
        load = tuple(sorted(repr(seat.load) for seat in frames))
        self._beat("tick" if load in self._known else "preparing")
        start = time.perf_counter()
        try:
            self._obey()
            out = self._painter.tick({seat.session: [frame] for seat, frame in frames.items()})
        except Exception as error:  # noqa: BLE001 (the boundary: whatever a model does wrong, the streams go on)
            self._failed(error, frames)
            return ()
        self._known.add(load)
        self._failures = 0
        ms = (time.perf_counter() - start) * 1000
        self._tick_ms.append(ms)
        return tuple(seat.key for seat in frames if self._hand_back(seat, out[seat.session], ms))

    def _hand_back(self, seat: Seat, painted: list[Any], ms: float) -> bool:
        for picture in painted:
            flags = REPEATED * picture.repeated | PRIMED * picture.primed
            seat.boxes.outbox.put(picture.frame, flags, ms)
        return bool(painted)

    def _failed(self, error: Exception, frames: Mapping[Seat, Frame]) -> None:
        """Drops a tick. What the painter held of these streams is in no known state: they are set up anew."""
        seats = tuple(frames)
        if out_of_memory(error):
            self._step_down(seats)
            return
        self._failures += 1
        log.exception("a tick failed")
        self._wire.send(Failed(tuple(seat.key for seat in seats), told(error)))
        if self._failures >= IN_A_ROW:
            if self._doubtful:
                self._wire.send(Unfit(told(error)))
            raise error
        for seat in seats:
            self._reopen(seat, seat.settings)

    def _step_down(self, seats: tuple[Seat, ...]) -> None:
        """The largest streams go on in a smaller size; where they are small already, the newest stream goes."""
        free()
        largest = max(area(seat.settings) for seat in self._seats.values())
        less = {s: smaller(s.settings, self._multiple) for s in self._seats.values() if area(s.settings) == largest}
        if None in less.values():
            newest = next(reversed(self._seats.values()))
            self._refuse(newest, f"memory ran out: {shape(newest.settings)} cannot be painted beside the others")
            less = {}
        for seat in self._seats.copy().values():
            settings = less.get(seat)
            if settings is not None:
                text = f"memory ran out at {shape(seat.settings)}: {shape(settings)} instead"
                if self._reopen(seat, settings):
                    self._wire.send(Shrunk(seat.key, settings, text))
            elif seat in seats:
                self._reopen(seat, seat.settings)

    def _reopen(self, seat: Seat, settings: Settings) -> bool:
        """A fresh session for a stream; where that fails, the stream goes."""
        self._beat("preparing")
        self._painter.close(seat.session)
        try:
            seat.session = self._painter.open(settings)
        except Exception as error:  # the boundary: one stream's trouble is not the others'
            log.exception("a stream could not be set up again")
            self._refuse(seat, told(error))
            return False
        return True

    def _refuse(self, seat: Seat, text: str) -> None:
        self._painter.close(seat.session)
        del self._seats[seat.key]
        seat.boxes.close()
        self._wire.send(Refused(seat.key, text))

    def _obey(self) -> None:
        if self._faults:
            misbehave(self._faults.popleft())

    # --------------------------------------------------------------------------------------------- answering

    def _hear_bell(self, _: Bell) -> None:
        self._rung = True

    def _open(self, message: Open) -> None:
        self._beat("preparing")
        session, error = self._opened(message.settings)
        if session is None:
            self._wire.send(Applied(message.stream, None, error, 0))
            return
        seat = self._seats[message.stream] = Seat(message.stream, session, Boxes(self._memory, message.boxes))
        self._wire.send(Applied(seat.key, seat.settings, error, session.delay))

    def _opened(self, settings: Settings) -> tuple[Any, str | None]:
        """A session, in a smaller size where there is no memory for the one asked for; or None, and why not."""
        less: Settings | None = settings
        text = None
        while less is not None:
            settings = less
            try:
                return self._painter.open(settings), text
            except LivebrushError as error:
                return None, told(error)
            except Exception as error:  # the boundary: one stream's trouble is not the others'
                log.exception("a stream could not be opened")
                if not out_of_memory(error):
                    return None, told(error)
            free()
            less = smaller(settings, self._multiple)
            text = f"memory ran out: {shape(less)} instead of more" if less is not None else None
        return None, f"memory ran out: {shape(settings)} cannot be painted"

    def _apply(self, message: Apply) -> None:
        seat = self._seats.get(message.stream)
        if seat is None:  # refused while the message was on its way
            self._wire.send(Applied(message.stream, None, "the stream is not open in the worker: ask again", 0))
            return
        if message.boxes is not None:
            self._move(seat, message.boxes)
        self._beat("preparing")
        error = self._change(seat, message.settings)
        self._wire.send(Applied(seat.key, seat.settings, error, seat.session.delay))

    def _move(self, seat: Seat, address: Address) -> None:
        seat.boxes.close()
        seat.boxes = Boxes(self._memory, address)

    def _change(self, seat: Seat, settings: Settings) -> str | None:
        """Why the settings cannot be followed, or None."""
        try:
            seat.session.apply(settings)
        except LivebrushError as error:
            return told(error)
        except Exception as error:  # the boundary: the old settings go on
            log.exception("settings could not be applied")
            if out_of_memory(error):
                free()
                return f"memory ran out: {shape(settings)} cannot be painted"
            return told(error)
        return None

    def _close(self, message: Close) -> None:
        seat = self._seats.pop(message.stream, None)
        if seat is not None:
            self._painter.close(seat.session)
            seat.boxes.close()
        self._wire.send(Closed(message.stream))

    def _remix(self, message: Remix) -> None:
        """Gets other LoRAs ready beside the ticks."""
        threading.Thread(target=self._prepare, args=(message.loras,), name="mix", daemon=True).start()

    def _prepare(self, loras: tuple[Lora, ...]) -> None:
        """In a thread of its own; the answer lies in the inbox, and is heard between two ticks."""
        try:
            done = Prepared(self._mix(loras))
        except LivebrushError as error:
            done = Prepared(None, told(error))
        except Exception as error:  # the boundary: the old ones go on
            log.exception("other LoRAs could not be mixed in")
            done = Prepared(None, "memory ran out: there is no room for them" if out_of_memory(error) else told(error))
        self._wire.inbox.put(done)

    def _swap(self, done: Prepared) -> None:
        if done.swap is not None:
            self._beat("preparing")
            done.swap()
            for seat in self._seats.copy().values():
                self._refresh(seat)
        self._wire.send(Mixed(done.error))

    def _refresh(self, seat: Seat) -> None:
        try:
            seat.session.refresh()
        except Exception:  # the boundary: one stream's trouble is not the others'
            log.exception("a stream could not go on with other LoRAs")
            self._reopen(seat, seat.settings)

    def _remember(self, message: Misbehave) -> None:
        if self._obeys:
            self._faults.append(message.fault)

    def _stop(self, _: Stop) -> None:
        self._stopped = True

    # --------------------------------------------------------------------------------------------- measuring

    def _measure(self) -> None:
        now = time.monotonic()
        if now - self._measured_at < MEASURE_S:
            return
        self._measured_at = now
        stages = self._stages()
        self._typical_s = stages["tick"].get("p50", 0.0) / 1000
        rates = {key: seat.session.filter.rate for key, seat in self._seats.items()}
        delays = {key: seat.session.delay for key, seat in self._seats.items()}
        self._wire.send(Measured(stages, rates, delays))

    def _stages(self) -> Stages:
        watch = self._painter.stopwatch.ms
        stages = {name: percentiles(list(values)[-RECENT:]) for name, values in watch.items()}
        return {"tick": percentiles(list(self._tick_ms)), **stages}


def told(error: Exception) -> str:
    """An error in words for whoever looks: Livebrush's own speak for themselves."""
    return str(error) if isinstance(error, LivebrushError) else f"{type(error).__name__}: {error}"


def free() -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------------------- the process


def main() -> None:
    """The process, from its first message to its end. Ctrl-C is the server's to decide on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    wire = Wire()
    begin = wire.inbox.get()
    if isinstance(begin, Rehearse):
        group_yields(GENTLE)  # before the thread runs: it must not come after `end` has taken it back
        rehearsal = Rehearsal(wire)
        rehearsal.start()
        begin = wire.inbox.get()
        rehearsal.end()
    assert isinstance(begin, Begin)
    bind_to(begin.parent)
    logging.captureWarnings(True)
    logging.basicConfig(level=begin.log_level, handlers=[Tell(wire)], format="%(name)s: %(message)s")
    memory = Memory(begin.memory)
    pulse = Pulse(memory, begin.pulse)
    pulse.beat("loading")
    loaded = loaded_or_gone(wire, begin.plan, pulse)
    wire.send(Ready(loaded.engine, loaded.multiple, loaded.notice))
    faults = begin.plan.faults or begin.plan.fake is not None
    try:
        Worker(wire, memory, pulse, loaded, faults).run()
    except Exception:  # noqa: BLE001 (the boundary: its traceback is the supervisor's reason for the restart)
        sys.excepthook(*sys.exc_info())
        leave(1)
    leave(0)


class Rehearsal(threading.Thread):
    """What takes seconds of every start, gently where the system has a nice value a thread or a session."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(daemon=True)
        self._wire, self._called = wire, threading.Event()

    def run(self) -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), GENTLE)
        with suppress(ImportError):  # whoever needs it will say so
            for name in IMPORTS:
                if self._called.is_set():
                    return
                import_module(name)
            for network in NETWORKS:
                getattr(import_module("diffusers"), network)
        self._wire.send(Rehearsed())

    def end(self) -> None:
        """The process is called for: waits until nothing is half imported; the caller imports the rest."""
        self._called.set()
        group_yields(0)
        if sys.platform == "linux" and self.native_id is not None:
            with suppress(OSError):  # it is not allowed everywhere, or it has ended
                os.setpriority(os.PRIO_PROCESS, self.native_id, os.getpriority(os.PRIO_PROCESS, 0))
        self.join()


def loaded_or_gone(wire: Wire, plan: Plan, pulse: Pulse) -> Loaded:
    """The painter; where it cannot be loaded, the server is told why and the process ends."""
    try:
        return load(plan, wire.send, lambda: pulse.beat("loading"))
    except LivebrushError as error:
        wire.send(Broken(told(error), mendable=True))
    except Exception as error:  # noqa: BLE001 (the boundary: as in main)
        sys.excepthook(*sys.exc_info())
        ran_out = f"memory ran out while {plan.spec.name} was loading"
        wire.send(Broken(ran_out if out_of_memory(error) else told(error), mendable=False))
    return leave(1)
