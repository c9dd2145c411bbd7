"""The server's side of the worker process: starts it, watches it, starts it again, and carries frames to and fro.

    supervisor = Supervisor(Plan(spec("builtin")))
    supervisor.start()                                  # inside a running event loop; returns at once
    stream = supervisor.open(settings, listener)        # works in every state
    stream.put(frame)                                   # listener.painted(...) comes on the event loop
    await supervisor.stop()

Nothing here imports torch, nothing blocks the event loop, and everything but `Stream.put` belongs to its thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

from engines import TENSORRT
from stream.config import Lora, ModelSpec
from stream.live import Counts, Listener, Painted, Stream, safely
from stream.mailbox import Activity, Address, Beat
from stream.memory import area, kills, shape, smaller
from stream.messages import (
    Applied,
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
    Plan,
    Ready,
    Refused,
    Rehearsed,
    Shrunk,
    Stages,
    Stop,
    Ticked,
    Unfit,
)
from stream.mixing import Answer, Mixing
from stream.process import WorkerProcess
from stream.settings import Settings
from stream.understudy import Understudy

log = logging.getLogger("livebrush")
State = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds, and what is done about a worker that dies."""

    tick_s: float = 2.0  # or ten times the usual tick, where that is longer
    idle_s: float = 10.0
    preparing_s: float = 120.0
    loading_s: float = 600.0
    stop_s: float = 3.0
    backoff_s: tuple[float, ...] = (0.1, 1.0, 2.0, 4.0, 8.0)  # before each start after a death; the last one repeats
    healthy_s: float = 30.0  # a worker that was ready for so long starts the back-off anew
    attempts: int = 6  # deaths in a row without ever being ready, after which it is given up
    check_s: float = 0.01  # between two looks at it: so late its death is noticed

    def allowed(self, beat: Beat) -> float:
        """How long the pulse may stand still."""
        allowed: dict[Activity, float] = {
            "tick": max(self.tick_s, USUAL * beat.tick_s), "idle": self.idle_s,
            "preparing": self.preparing_s, "loading": self.loading_s,
        }  # fmt: skip
        return allowed[beat.activity]

    def wait(self, deaths: int) -> float:
        """Seconds before the next start, after so many deaths in a row."""
        return self.backoff_s[min(deaths, len(self.backoff_s)) - 1]


USUAL = 10  # times its usual length, a tick counts as hung
LIMITS = Limits()
SLOW_S = 0.5  # of preparing, before whoever looks hears of it
GETTING_READY = "the painter is getting ready for other settings"
DOUBTED = 2  # deaths in a row with TensorRT, after which torch runs the model
LATE_S = 1.0  # a check so late says nothing about the worker
DRAIN_S = 0.5  # for the last words of a worker that has ended


@dataclass(frozen=True)
class Facts:
    """What is known of the worker. Before it is ready: what the plan says, and no engine."""

    model: str
    about: str
    licence: str
    defaults: Settings
    prompts: tuple[str, ...] = ()  # what the model is known to follow, to be offered
    engine: str = ""  # back end, device, precision, and why
    notice: str = ""  # why it is not the engine that was asked for
    multiple: int = 8  # divides the sides of every picture
    delay: int = 0  # ticks between a frame's entering and its leaving, the longest of all streams
    skip_rate: float = 0.0  # share of frames that the similarity filters skipped, the mean of all streams
    stages: Stages = field(default_factory=dict)  # ms by stage ("tick" is all of them): count, p50, p95, p99
    streams: int = 0

    @classmethod
    def planned(cls, spec: ModelSpec) -> Facts:
        """Those that are known before anything is loaded."""
        return cls(spec.name, spec.about, spec.licence, spec.settings, spec.prompts)


class Supervisor:
    """Owns the worker process. `state` and `notice` say how it is, in a word and in a sentence for whoever looks.

    starting → ready ⇄ restarting; failed (given up, `notice` says why), stopped (before `start`, after `stop`).
    `restarts` counts the starts after a death; `facts` are renewed about once a second.
    """

    def __init__(self, plan: Plan, *, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan, self.limits = plan, limits
        self.state: State = "stopped"
        self.notice = ""
        self.restarts = 0
        self.facts = Facts.planned(plan.spec)
        self._clock = clock
        self._streams: dict[int, Stream] = {}
        self._closing: dict[int, set[Address]] = {}  # of closed streams, until the worker lets go of them
        self._keys = count(1)
        self._watchers: list[Callable[[], None]] = []
        self._process: WorkerProcess | None = None
        self._understudy = Understudy()
        self._ready_at: float | None = None
        self._broken: Broken | None = None
        self._backend = ""  # that the worker loads on, or runs on
        self._was_ready = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = 0
        self._ending = asyncio.Event()
        self.mixing = Mixing(plan.spec.loras, self._tell)
        self._answers: dict[type, Callable[[Any], None]] = {
            Ready: self._ready, Broken: self._break, Ticked: self._ticked, Applied: self._applied,
            Closed: self._let_go, Shrunk: self._shrunk, Refused: self._refused, Failed: self._failed,
            Measured: self._measured, Mixed: self.mixing.answered, Chosen: self._chosen, Unfit: self._unfit,
            Loading: self._loading,
            Rehearsed: lambda _: None,  # an understudy's that was called at that moment
        }  # fmt: skip

    @property
    def pid(self) -> int | None:
        """Of the worker process that lives now."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Starts the worker and returns at once. Call it inside a running event loop; again after failed or stopped."""
        if self._task is not None and not self._task.done():
            return
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._ending = asyncio.Event()
        self._was_ready = False
        self._say("starting", f"loading {self.plan.spec.name}")
        self._task = self._loop.create_task(self._run(), name="supervisor")

    async def stop(self) -> None:
        """Ends the worker within `limits.stop_s`: politely, then SIGTERM, then SIGKILL. Streams stay, but idle."""
        self._ending.set()
        if self._task is not None:
            await self._task
        self._say("stopped", "")

    def open(self, settings: Settings, listener: Listener) -> Stream:
        """A stream; works in every state. The worker gets it as soon as it is ready, and again after each restart."""
        stream = Stream(next(self._keys), settings, listener, self._ring, self._forget)
        self._streams[stream.key] = stream
        if self._process is not None and self.state == "ready":
            stream.connect(self._process)
        return stream

    def mix(self, loras: tuple[Lora, ...]) -> Answer:
        """Other LoRAs for all streams, in every state; a restart keeps them. See `mixing` for what holds."""
        return self.mixing.ask(loras)

    def watch(self, told: Callable[[], None]) -> Callable[[], None]:
        """Calls `told` after every change of `state`, `notice` or `mixing`. Returns the function that stops this."""
        self._watchers.append(told)
        return lambda: self._watchers.remove(told) if told in self._watchers else None

    def fault(self, kind: Fault) -> None:
        """For tests: the worker fails like this in its next tick; asked twice, in the next two.

        Obeyed with a `Fake` or `Plan.faults`, else nothing happens. A frame may overtake this: go on putting some.
        """
        if self._process is not None:
            self._process.send(Misbehave(kind))

    # --------------------------------------------------------------------------------------- its whole life

    async def _run(self) -> None:
        """The workers, and what stands by for them."""
        try:
            await self._one_after_another()
        finally:
            await self._understudy.close()

    async def _one_after_another(self) -> None:
        """Workers, until `stop` or until it is hopeless."""
        deaths = unready = 0
        while True:
            end = await self._live()
            if self._ending.is_set():
                return
            deaths = 1 if end.ready_s >= self.limits.healthy_s else deaths + 1
            unready = 0 if end.ready_s else unready + 1
            if deaths >= DOUBTED and self._backend in TENSORRT:
                self._do_without(end.reason)
            if unready >= self.limits.attempts or (end.final and not self._was_ready):
                log.error("the worker is given up: %s", end.reason)
                self._say("failed", end.reason)
                return
            wait = self.limits.wait(deaths)
            log.warning("the worker ended: %s; starting it again in %g s", end.reason, wait)
            self._say("restarting", f"{end.reason}: starting again" + (f" in {wait:g} s" if wait else ""))
            if await self._ends_within(wait):
                return
            self.restarts += 1

    async def _live(self) -> End:
        """One worker, from its start to its end."""
        self._ready_at = self._broken = None
        killed_before = kills()
        try:
            process = self._process = self._understudy.take() or await WorkerProcess.launch()
        except OSError as error:
            return End(f"no worker process could be started ({error.strerror})")
        process.begin(self._planned(), self._hear)
        try:
            hung = await self._watch(process)
            self._part()
            if self._ending.is_set():
                await self._end(process)
                return End("stopped")
            ready_s = 0.0 if self._ready_at is None else max(self._clock() - self._ready_at, 1e-9)
            await self._bury(process, hung)
            if process.killed and not hung and kills() > killed_before:
                self._lessen()
            if self._broken is not None:
                return End(self._broken.text, ready_s, self._broken.mendable)
            return End(hung or process.last_words, ready_s)
        finally:
            self._part()
            process.close()

    def _planned(self) -> Plan:
        """The plan, with the LoRAs that hold."""
        return replace(self.plan, spec=replace(self.plan.spec, loras=self.mixing.held))

    def _part(self) -> None:
        """There is no worker any more; whoever looks hears of it at once."""
        self._process = None
        self._closing.clear()
        self.mixing.lost()
        for stream in self._streams.values():
            stream.disconnect()
        if self.state in ("starting", "ready") and not self._ending.is_set():
            self._say("restarting", "the painter stopped: starting it again")

    async def _watch(self, process: WorkerProcess) -> str | None:
        """Until the process ends, hangs or is to end: how it hangs, or None."""
        ending = asyncio.ensure_future(self._ending.wait())
        either: set[asyncio.Future[Any]] = {process.ended, ending}
        seen, since = process.beat(), self._clock()
        checked = since
        try:
            while not (process.ended.done() or process.dying or self._ending.is_set()):
                await asyncio.wait(either, timeout=self.limits.check_s, return_when=FIRST_COMPLETED)
                beat, now = process.beat(), self._clock()
                late, checked = now - checked > LATE_S, now
                if beat != seen or late:  # after a halt of this process itself, nobody can tell
                    seen, since = beat, now
                elif now - since > self.limits.allowed(beat):
                    return f"the painter hung ({beat.activity}, for {now - since:.0f} s)"
                if self.state == "ready":
                    self._say("ready", GETTING_READY if beat.activity == "preparing" and now - since > SLOW_S else "")
            return None
        finally:
            ending.cancel()

    async def _end(self, process: WorkerProcess) -> None:
        """Politely, then less so."""
        process.deafen()
        if self._ready_at is None:
            process.terminate()  # it is loading, and does not hear
        process.send(Stop())
        for way, share in ((process.terminate, 0.5), (process.kill, 0.25)):
            if await process.gone(self.limits.stop_s * share):
                return
            way()
        await process.gone(self.limits.stop_s * 0.25)

    async def _bury(self, process: WorkerProcess, hung: str | None) -> None:
        """Waits for the last words of a process that has ended, or ends it."""
        if hung is not None:
            process.deafen()
            process.kill()
        if not await process.gone(DRAIN_S):
            process.kill()
            await process.gone(DRAIN_S)
        if process.tail and not self._broken:
            log.error("the worker's last words:\n%s", "\n".join(process.tail))

    async def _ends_within(self, seconds: float) -> bool:
        """Sleeps, unless `stop` comes."""
        try:
            await asyncio.wait_for(self._ending.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _lessen(self) -> None:
        """The system killed the worker for lack of memory: the largest streams get smaller."""
        largest = max((area(s.settings) for s in self._streams.values()), default=0)
        for stream in [s for s in self._streams.values() if area(s.settings) == largest]:
            less = smaller(stream.settings, self.facts.multiple)
            if less is not None:
                stream.lessen(less, f"memory ran out at {shape(stream.settings)}: {shape(less)} instead")

    # --------------------------------------------------------------------------------- what the worker says

    def _hear(self, message: Any) -> None:
        """Of a process that is ending, only why it could not load still counts."""
        if self._process is not None or isinstance(message, Broken):
            self._answers[type(message)](message)

    def _ready(self, message: Ready) -> None:
        assert self._process is not None  # `_hear` has seen to it
        self._ready_at, self._was_ready = self._clock(), True
        self.facts = replace(self.facts, engine=message.engine, multiple=message.multiple, notice=message.notice)
        for stream in self._streams.values():
            stream.connect(self._process)
        self._say("ready", "")
        self.mixing.ready(self._process.send)

    def _break(self, message: Broken) -> None:
        self._broken = message

    def _chosen(self, message: Chosen) -> None:
        self._backend = message.backend

    def _loading(self, message: Loading) -> None:
        if self.state in ("starting", "restarting"):
            self._say(self.state, f"loading {self.plan.spec.name}: {message.text}")

    def _unfit(self, message: Unfit) -> None:
        self._do_without(message.text)

    def _do_without(self, why: str) -> None:
        """Torch runs the model from the next worker on, until the server is started again."""
        notice = f"{self._backend} failed, so torch runs the model: {why}"
        log.warning("%s", notice)
        self.plan = replace(self.plan, engine="torch", notice=notice)

    def _ticked(self, message: Ticked) -> None:
        for stream in self._those(message.painted):
            stream.collect()

    def _applied(self, message: Applied) -> None:
        for stream in self._those([message.stream]):
            stream.answered(message)

    def _shrunk(self, message: Shrunk) -> None:
        for stream in self._those([message.stream]):
            stream.shrunk(message.settings, message.text)

    def _refused(self, message: Refused) -> None:
        for stream in self._those([message.stream]):
            stream.refused(message.text)

    def _failed(self, message: Failed) -> None:
        for stream in self._those(message.streams):
            stream.failed(message.text)

    def _let_go(self, message: Closed) -> None:
        assert self._process is not None  # `_hear` has seen to it
        for address in self._closing.pop(message.stream, ()):
            self._process.take_back(address)
        for stream in list(self._streams.values()):
            stream.retry()

    def _measured(self, message: Measured) -> None:
        """Once a second while nothing else keeps the worker: what stands by for it does not hinder its start."""
        if self.plan.fake is None:
            self._understudy.prepare()
        rates, delays = message.skip_rates, message.delays
        for stream in self._those(rates):
            stream.skip_rate, stream.delay = rates[stream.key], delays[stream.key]
        self.facts = replace(
            self.facts, stages=message.stages, streams=len(rates), delay=max(delays.values(), default=0),
            skip_rate=sum(rates.values()) / len(rates) if rates else 0.0,
        )  # fmt: skip

    def _those(self, keys: Iterable[int]) -> list[Stream]:
        """The streams of these keys that are still open."""
        return [self._streams[key] for key in keys if key in self._streams]

    # --------------------------------------------------------------------------------- what the streams say

    def _ring(self) -> None:
        """A frame lies in a mailbox. From any thread."""
        if threading.get_ident() == self._thread:
            self._ring_here()
        elif self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the server is at its end
                self._loop.call_soon_threadsafe(self._ring_here)

    def _ring_here(self) -> None:
        if self._process is not None:
            self._process.ring()

    def _forget(self, stream: Stream) -> None:
        """A stream was closed. Its memory is lent to nobody before the worker has let go of it."""
        del self._streams[stream.key]
        addresses = stream.disconnect()
        if self._process is not None and addresses:
            self._closing[stream.key] = addresses
            self._process.send(Close(stream.key))

    def _say(self, state: State, notice: str) -> None:
        if (state, notice) == (self.state, self.notice):
            return
        self.state, self.notice = state, notice
        self._tell()

    def _tell(self) -> None:
        for told in list(self._watchers):
            safely(told)


@dataclass(frozen=True)
class End:
    """How a worker ended: why, how long it had been ready (0: never), and whether another try would be the same."""

    reason: str
    ready_s: float = 0.0
    final: bool = False


__all__ = ["Counts", "Facts", "Fake", "Fault", "Limits", "Listener", "Painted", "Plan", "State", "Stream", "Supervisor"]
