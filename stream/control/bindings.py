"""What a MIDI message moves: bindings of controllers, notes and wheels to settings, kept in the user's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stream.control import store, values
from stream.control.presets import checked_name
from stream.errors import ControlError, SettingsError

Kind = Literal["cc", "cc14", "note", "pitch"]
Mode = Literal["absolute", "twos", "offset", "sign"]
TAP, PRESET = "tap", "preset:"
MOST = 500  # bindings
STEP = 1 / 127  # of the way, for one detent of an encoder that turns without end


class Binding(BaseModel):
    """A controller, and what it moves from `low` to `high` (the setting's own limits without them)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    setting: Annotated[
        str, Field(max_length=80, description="A setting that a knob can turn, tap, or preset:NAME (on a press).")
    ]
    kind: Annotated[Kind, Field(description="cc14: a controller below 32, finer by the one 32 above it.")] = "cc"
    channel: Annotated[int, Field(ge=0, le=15)] = 0
    number: Annotated[int, Field(ge=0, le=127, description="Of the controller or note; 0 for the pitch wheel.")] = 0
    mode: Annotated[
        Mode,
        Field(description="absolute, or how an encoder without end says its steps: twos (127 is -1), offset (63 is "
              "-1), sign (65 is -1)."),
    ] = "absolute"  # fmt: skip
    low: float | None = None
    high: float | None = None
    takeover: Annotated[
        bool, Field(description="Takes hold only where the knob meets the value, so that nothing jumps.")
    ] = False
    session: Annotated[str | None, Field(max_length=32, description="Without it the session that is meant.")] = None

    @model_validator(mode="after")
    def _fits(self) -> Binding:
        try:
            if self.setting.startswith(PRESET):
                checked_name(self.setting.removeprefix(PRESET))
            elif self.setting != TAP:
                for end in (self.low, self.high):
                    low, high = values.limits(self.setting)
                    if end is not None and not low <= end <= high:
                        raise ValueError(f"{self.setting} {end:g} is not between {low:g} and {high:g}")
        except ControlError as error:
            raise ValueError(str(error)) from None
        if self.kind == "cc14" and self.number >= 32:
            raise ValueError(f"controller {self.number} has no finer one: cc14 is for 0 to 31")
        return self

    @property
    def key(self) -> tuple[str, int, int]:
        """What it listens to."""
        return ("cc" if self.kind == "cc14" else self.kind), self.channel, self.number


def explained(error: ValidationError) -> str:
    """One line for each thing that is wrong with a binding."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        said = str(item["msg"]).removeprefix("Value error, ")
        lines.append(f"{where}: {said}" if where else said)
    return "; ".join(lines)


class Bindings:
    """Owns the bindings and their file. Two of one key are both moved; two of one key and setting are one."""

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (store.default_folder() if folder is None else folder) / "midi.json"
        self.notes: tuple[str, ...] = ()  # what of the file is not known here
        self.all: tuple[Binding, ...] = self._read()

    def at(self, kind: str, channel: int, number: int) -> list[Binding]:
        """Those that listen to a message."""
        return [binding for binding in self.all if binding.key == (kind, channel, number)]

    def replace(self, bindings: tuple[Binding, ...]) -> None:
        """Other bindings, kept. ControlError where there are too many, or they cannot be kept."""
        if len(bindings) > MOST:
            raise ControlError(f"{len(bindings)} bindings are too many: use at most {MOST}")
        store.write(self._path, {"bindings": [b.model_dump(mode="json") for b in bindings]}, "the MIDI mapping")
        self.all, self.notes = bindings, ()

    def bind(self, binding: Binding) -> None:
        """One more; the setting's old ones are gone, and so is what the controller did."""
        left = [b for b in self.all if b.setting != binding.setting and b.key != binding.key]
        self.replace((*left, binding))

    def _read(self) -> tuple[Binding, ...]:
        if not self._path.exists():
            return ()
        found, notes = [], []
        try:
            given = store.read(self._path, "the MIDI mapping").get("bindings")
        except ControlError as error:
            self.notes = (str(error),)
            return ()
        for item in given if isinstance(given, list) else []:
            try:
                found.append(Binding.model_validate(item))
            except (ValidationError, SettingsError) as error:
                said = explained(error) if isinstance(error, ValidationError) else str(error)
                notes.append(f"left out: {said}")
        self.notes = tuple(notes)
        return tuple(found[:MOST])


def learned(setting: str, message: Any, mode: Mode, takeover: bool) -> Binding | None:
    """The binding of a setting to the controller that a message comes from; None where it comes from none."""
    kind: Kind
    if message.type == "control_change":
        kind, number = "cc", message.control
    elif message.type == "note_on" and message.velocity:
        kind, number = "note", message.note
    elif message.type == "pitchwheel":
        kind, number = "pitch", 0
    else:
        return None
    return Binding(setting=setting, kind=kind, channel=message.channel, number=number, mode=mode, takeover=takeover)
