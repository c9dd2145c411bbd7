"""MIDI in: controllers to settings, programs to presets, the clock to the beat. Ports may come and go.

midi = Midi(hub, bindings, backend, wanted="all")
...                                # midi.run() opens ports as they come; their threads hand messages to the event loop
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from functools import partial
from threading import Lock
from typing import Any

from stream.control import values
from stream.control.bindings import PRESET, STEP, TAP, Binding, Bindings, Mode, learned
from stream.control.hub import Hub
from stream.errors import ControlError

log = logging.getLogger("livebrush")
ALL = "all"
LOOK_S = 1.0  # between two looks for ports
MEETS = 2.5 / 127  # how near a knob must come to the value, to take hold
NEAR = 1e-6


def load(name: str = "") -> Any:
    """mido's back end (python-rtmidi, or what MIDO_BACKEND says), loaded; ControlError where there is none."""
    from mido.backends.backend import Backend

    try:
        return Backend(name or None, load=True)
    except ImportError as error:
        raise ControlError(f"MIDI needs a library ({error}): pip install 'livebrush[midi]'") from None


def failures() -> tuple[type[BaseException], ...]:
    """What a back end raises where the system's MIDI is not there or a port is taken."""
    found: list[type[BaseException]] = [OSError, RuntimeError]
    with contextlib.suppress(ImportError):
        found.append(importlib.import_module("rtmidi").RtMidiError)
    return tuple(found)


class Midi:
    """Owns the ports that are open, and what was learnt. All but the back end's threads is on the event loop."""

    def __init__(self, hub: Hub, bindings: Bindings, backend: Any = None, wanted: str = ALL) -> None:
        """`wanted`: a part of a port's name, or all. Without a `backend` there are no ports, only bindings."""
        self.bindings, self.revision = bindings, 0
        self.learning: str | None = None  # the setting that the next controller is bound to
        self.last = ""  # the last message that moved or could move something, in words
        self.trouble = ""  # why there are no ports
        self._hub, self._backend, self._wanted = hub, backend, wanted
        self._failures = failures()
        self._ports: dict[str, Any] = {}
        self._looking = Lock()
        self._mode: Mode = "absolute"
        self._takeover = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._coarse: dict[tuple[int, int], int] = {}  # the upper seven bits of controllers below 32
        self._holds: dict[Binding, tuple[float, Any]] = {}  # where a knob was last, and the value that it set

    @property
    def listens(self) -> bool:
        """Whether ports are looked for."""
        return self._backend is not None

    @property
    def ports(self) -> list[str]:
        """Those that are open."""
        return list(self._ports)

    # ------------------------------------------------------------------------------------------- ports

    async def run(self) -> None:
        """Opens ports as they come and lets go of those that went, until it is cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            while self._backend is not None:
                await asyncio.to_thread(self._look)
                await asyncio.sleep(LOOK_S)
        finally:
            with self._looking:
                self._backend = None
                for name in self.ports:
                    self._let_go(name)

    def _look(self) -> None:
        """In a thread: a look may take the system a while."""
        with self._looking:
            if self._backend is not None:
                self._find_ports(self._backend)

    def _find_ports(self, backend: Any) -> None:
        try:
            there = [name for name in dict.fromkeys(backend.get_input_names()) if self._is_wanted(name)]
        except self._failures as error:
            there, trouble = [], f"the system's MIDI cannot be asked: {error}"
        else:
            trouble = "" if there else f"no MIDI input {'' if self._wanted == ALL else repr(self._wanted) + ' '}is here"
        for name in [name for name in self._ports if name not in there]:
            self._let_go(name)
        for name in [name for name in there if name not in self._ports]:
            trouble = self._open(backend, name) or trouble
        if trouble != self.trouble:
            self.trouble = trouble
            self.revision += 1

    def _is_wanted(self, name: str) -> bool:
        return self._wanted == ALL or self._wanted.lower() in name.lower()

    def _open(self, backend: Any, name: str) -> str:
        try:
            self._ports[name] = backend.open_input(name, callback=self._came)
        except self._failures as error:
            return f"MIDI input {name} cannot be opened: {error}"
        log.info("MIDI input %s", name)
        self.revision += 1
        return ""

    def _let_go(self, name: str) -> None:
        port = self._ports.pop(name)
        with contextlib.suppress(*self._failures):
            port.close()
        self.revision += 1

    def _came(self, message: Any) -> None:
        """In the back end's thread."""
        loop, now = self._loop, self._hub.clock()
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it closes just now
                loop.call_soon_threadsafe(self.received, message, now)

    # ------------------------------------------------------------------------------------------- messages

    def learn(self, setting: str | None, mode: Mode = "absolute", takeover: bool = False) -> None:
        """The next controller that moves is bound to this; None forgets about it. ControlError."""
        if setting is not None and setting != TAP and not setting.startswith(PRESET):
            values.limits(setting)
        self.learning, self._mode, self._takeover = setting, mode, takeover
        self.revision += 1

    def received(self, message: Any, now: float) -> None:
        """Follows a message (of mido) that came at `now`."""
        beat = self._hub.beat
        match message.type:
            case "clock":
                beat.clock(now)
            case "start":
                beat.start(now)
            case "stop":
                beat.stop(now)
            case "continue":
                beat.go_on(now)
            case "songpos":
                beat.locate(message.pos, now)
            case "program_change":
                self.last = f"program {message.program}"
                self._hub.ask("midi program", partial(self._hub.morph, message.program, 0.0))
            case "control_change" | "note_on" | "pitchwheel":
                self._moved(message)

    def _moved(self, message: Any) -> None:
        if self.learning is not None:
            self._hub.ask("midi learn", partial(self._learn, message))
            return
        channel = message.channel
        match message.type:
            case "pitchwheel":
                self.last = f"pitch wheel, channel {channel + 1}"
                self._turn("pitch", channel, 0, (message.pitch + 8192) / 16383)
            case "note_on":
                self.last = f"note {message.note}, channel {channel + 1}"
                if message.velocity:
                    self._press(channel, message.note, message.velocity / 127)
            case _:
                self.last = f"controller {message.control}, channel {channel + 1}"
                self._controller(channel, message.control, message.value)

    def _learn(self, message: Any) -> None:
        assert self.learning is not None
        binding = learned(self.learning, message, self._mode, self._takeover)
        if binding is not None:
            self.learning = None
            self.revision += 1
            self.bindings.bind(binding)

    def _controller(self, channel: int, number: int, value: int) -> None:
        for binding in self.bindings.at("cc", channel, number):
            if binding.kind == "cc14":
                self._coarse[channel, number] = value
            self._apply(binding, value / 127 if binding.kind == "cc" else value * 128 / 16383, value)
        if number >= 32:
            coarse = self._coarse.get((channel, number - 32))
            for binding in self.bindings.at("cc", channel, number - 32):
                if binding.kind == "cc14" and coarse is not None:
                    self._apply(binding, (coarse * 128 + value) / 16383, value)

    def _turn(self, kind: str, channel: int, number: int, part: float) -> None:
        for binding in self.bindings.at(kind, channel, number):
            self._apply(binding, part, 127 if part >= 0.5 else 0)

    def _press(self, channel: int, note: int, part: float) -> None:
        """A key went down: switches switch, choices go on to the next, numbers take the velocity."""
        for binding in self.bindings.at("note", channel, note):
            if self._does(binding, 127):
                continue
            if values.kind(binding.setting) in ("boolean", "choice"):
                self._hub.ask(f"midi {binding.setting}", partial(self._next, binding))
            else:
                self._apply(binding, part, 127)

    # ------------------------------------------------------------------------------------------- settings

    def _apply(self, binding: Binding, part: float, value: int) -> None:
        """A controller stands at `part` of its way, or says so many steps (`value`)."""
        if not self._does(binding, value):
            self._hub.ask(f"midi {binding.setting}", partial(self._set, binding, part, value))

    def _does(self, binding: Binding, value: int) -> bool:
        """Whether the binding is of a tap or a preset, which a press does."""
        if binding.setting == TAP:
            if value >= 64:
                self._hub.beat.tap(self._hub.clock())
            return True
        if binding.setting.startswith(PRESET):
            if value >= 64:
                name = binding.setting.removeprefix(PRESET)
                self._hub.ask(f"midi {binding.setting}", partial(self._hub.morph, name, 0.0, session=binding.session))
            return True
        return False

    def _set(self, binding: Binding, part: float, value: int) -> None:
        now = self._now(binding)
        if binding.mode != "absolute":
            part = self._relative(binding, now) + steps(binding.mode, value) * STEP
            part = min(1.0, max(0.0, part))
        elif binding.takeover and not self._takes_hold(binding, part, now):
            return
        made = values.scaled(binding.setting, part, binding.low, binding.high)
        self._holds[binding] = (part, made)
        self._send(binding, made)

    def _next(self, binding: Binding) -> None:
        now, low, high = self._now(binding), *values.limits(binding.setting)
        at = round(low + (high - low) * values.unit(binding.setting, now))
        self._send(binding, values.meant(binding.setting, (at + 1) % (int(high) + 1)))

    def _now(self, binding: Binding) -> Any:
        return self._hub.find(binding.session).value(binding.setting)

    def _send(self, binding: Binding, value: Any) -> None:
        self._hub.set(binding.setting, value, session=binding.session, address=f"midi {binding.setting}")

    def _relative(self, binding: Binding, now: Any) -> float:
        """Where an encoder is: between two whole values it knows better than the setting."""
        part, made = self._holds.get(binding, (0.0, None))
        return part if same(made, now) else values.unit(binding.setting, now, binding.low, binding.high)

    def _takes_hold(self, binding: Binding, part: float, now: Any) -> bool:
        """Whether a knob holds the value: it set it last, or it just met it or went past it."""
        before, made = self._holds.get(binding, (part, None))
        if same(made, now):
            return True
        at = values.unit(binding.setting, now, binding.low, binding.high)
        met = abs(part - at) <= MEETS or (before - at) * (part - at) < 0
        if not met:
            self._holds[binding] = (part, None)
        return met


def steps(mode: Mode, value: int) -> int:
    """The steps that an encoder says, to the right above 0."""
    match mode:
        case "twos":
            return value if value < 64 else value - 128
        case "offset":
            return value - 64
        case "sign":
            return value if value < 64 else 64 - value
    raise ControlError(f"mode {mode} says no steps: use twos, offset or sign")


def same(one: Any, other: Any) -> bool:
    """Whether two values of a setting are the same, but for rounding."""
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) < NEAR
    return one is not None and bool(one == other)
