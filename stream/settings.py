"""The live settings: one frozen model. Limits, defaults and help stand here and nowhere else."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from stream.errors import SettingsError
from stream.guidance import Guidance

PROMPT_LIMIT = 2000  # characters
SIDE_LIMITS = (64, 2048)  # pixels


def _side(value: int) -> int:
    low, high = SIDE_LIMITS
    if not low <= value <= high:
        raise ValueError(f"is not between {low} and {high} pixels: use e.g. 256 or 512")
    if value % 8:
        down, up = value // 8 * 8, -(-value // 8) * 8
        raise ValueError(f"is not a multiple of 8: use {down} or {up}")
    return value


def _increasing(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is not None and sorted(set(value)) != list(value):
        raise ValueError("is not an increasing list: use e.g. 32,45")
    return value


SIDE_SCHEMA = {"type": "integer", "minimum": SIDE_LIMITS[0], "maximum": SIDE_LIMITS[1], "multipleOf": 8}
Side = Annotated[int, AfterValidator(_side), WithJsonSchema(SIDE_SCHEMA)]
Index = Annotated[int, Field(ge=0, le=49)]


class Settings(BaseModel):
    """Everything that may change while frames are in flight. Make one with `Settings.checked`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: Annotated[
        str,
        Field(max_length=PROMPT_LIMIT, description="What to paint. Parts split by | are blended; part:0.3 weighs one."),
    ] = ""
    negative_prompt: Annotated[
        str, Field(max_length=PROMPT_LIMIT, description="What to keep away from (guidance full and initialize).")
    ] = ""
    strength: Annotated[
        float, Field(ge=0, le=1, description="How far the picture may go from the input: 0 keeps it, 1 forgets it.")
    ] = 0.4
    steps: Annotated[int, Field(ge=1, le=8, description="Denoising steps, one frame each in flight.")] = 1
    t_index: Annotated[
        tuple[Index, ...] | None,
        Field(min_length=1, max_length=8, description="Indices into the schedule, instead of strength and steps."),
        AfterValidator(_increasing),
    ] = None
    guidance: Annotated[
        Guidance, Field(description="How the negative prompt is weighed: none, full, self (residual) or initialize.")
    ] = "none"
    guidance_scale: Annotated[float, Field(ge=1, le=20, description="Guidance scale; 1 is no guidance.")] = 1.0
    delta: Annotated[float, Field(ge=0, le=2, description="Weight of the residual noise (self, initialize).")] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="Seed of the noise.")] = 0
    add_noise: Annotated[bool, Field(description="Fresh noise at every further step.")] = True
    mode: Annotated[
        Literal["image", "text"], Field(description="image: paint the input. text: paint from noise alone.")
    ] = "image"
    drift: Annotated[
        float, Field(ge=0, le=1, description="Mode text: how far the noise wanders between frames; 0 stands still.")
    ] = 0.1
    similarity: Annotated[bool, Field(description="Skip frames that look like the last painted one.")] = False
    similarity_threshold: Annotated[
        float, Field(ge=0, lt=1, description="Cosine above which a frame may be skipped.")
    ] = 0.98
    max_skip: Annotated[int, Field(ge=1, le=1000, description="Frames skipped in a row at most.")] = 10
    width: Annotated[Side, Field(description="Width of the painted picture in pixels.")] = 512
    height: Annotated[Side, Field(description="Height of the painted picture in pixels.")] = 512
    fit: Annotated[
        Literal["crop", "stretch", "pad"], Field(description="How an input of another shape is made to fit.")
    ] = "crop"

    @classmethod
    def checked(cls, /, **values: Any) -> Self:
        """Settings from plain values; SettingsError naming every setting that is wrong."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(explain(error)) from None

    def changed(self, /, **values: Any) -> Self:
        """These settings with some of them changed, checked again."""
        return type(self).checked(**(self.model_dump() | values))

    @property
    def guided(self) -> bool:
        """Whether guidance does anything."""
        return self.guidance != "none" and self.guidance_scale > 1


def explain(error: ValidationError) -> str:
    """One line for each wrong setting: its name, what was got, and what is expected."""
    lines = []
    for item in error.errors():
        name = ".".join(str(p) for p in item["loc"])[:80] or "settings"
        got = item["input"]
        if item["type"] == "extra_forbidden":
            known = ", ".join(Settings.model_fields)
            lines.append(f"{name} is not a setting: use one of {known}")
        elif item["type"] == "string_too_long":
            lines.append(f"{name} has {len(got)} characters: use at most {PROMPT_LIMIT}")
        elif item["type"] == "value_error":
            lines.append(f"{name} {got} {item['ctx']['error']}")
        elif isinstance(got, float) and not math.isfinite(got):
            lines.append(f"{name} is {got}: expected a finite number")
        else:
            lines.append(f"{name} is {got!r:.80}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return "\n".join(lines)
