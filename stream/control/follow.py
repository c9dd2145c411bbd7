"""Settings that follow the beat: one pure function of the beat's position."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stream.control import values
from stream.errors import ControlError

Shape = Literal["sine", "saw", "square", "pulse"]
SHAPES: tuple[Shape, ...] = get_args(Shape)


def wave(shape: Shape, turn: float) -> float:
    """A periodic curve from 0 to 1; `turn` is how often it went round, and each begins on the beat.

    sine begins and ends low; saw rises and falls at once; square is high for the first half; pulse is high on the beat
    and dies away with the cube of what is left.
    """
    part = turn - math.floor(turn)
    match shape:
        case "sine":
            return 0.5 - 0.5 * math.cos(2 * math.pi * part)
        case "saw":
            return part
        case "square":
            return 1.0 if part < 0.5 else 0.0
        case "pulse":
            return (1 - part) ** 3


class Follow(BaseModel):
    """How a setting follows the beat: from `low` to `high` and back once in `beats`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shape: Annotated[
        Shape,
        Field(description="sine begins low; saw rises and falls at once; square is high first; pulse is high on the "
              "beat and dies away."),
    ] = "sine"  # fmt: skip
    beats: Annotated[float, Field(ge=0.0625, le=256, description="Beats of one turn.")] = 4.0
    low: Annotated[float, Field(description="The value at the bottom, within the setting's limits.")]
    high: Annotated[float, Field(description="The value at the top; may be below `low`.")]
    phase: Annotated[float, Field(ge=0, le=1, description="Part of a turn that it is ahead.")] = 0.0

    def value(self, position: float) -> float:
        """The value at a position of the beat, in beats."""
        return self.low + (self.high - self.low) * wave(self.shape, position / self.beats + self.phase)

    @classmethod
    def checked(cls, setting: str, given: dict[str, Any]) -> Follow:
        """A follower of a setting from plain values; without `low` and `high` its whole range. ControlError and
        SettingsError say what is wrong."""
        values.follows(setting)
        low, high = values.limits(setting)
        try:
            made = cls(**{"low": low, "high": high} | given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "follow"
            raise ControlError(f"{name} of {setting} is {first['input']!r:.80}: {first['msg']}") from None
        for end in (made.low, made.high):
            values.checked({setting: values.whole(setting, end)})
        return made
