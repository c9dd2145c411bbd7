"""What bodies and messages are made of, the limits of both, and how a bad one is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from stream.config import STRONGEST
from stream.settings import Settings

BODY_LIMIT = 64 * 1024  # bytes of an HTTP body; an offer is the largest
TIMELINE_LIMIT = 4 * 1024 * 1024  # bytes of a JSON body that asks for a clip, which may bring a picture
UPLOAD_LIMIT = 256 * 1024 * 1024  # bytes of a form that brings a file
MESSAGE_LIMIT = 16 * 1024  # bytes of a control message
MESSAGES_A_SECOND = 60
PICTURE_LIMIT = 4 * 1024 * 1024  # bytes of a picture on the WebSocket
State = Literal["painting", "starting", "restarting", "failed", "stopping"]
SourceName = str  # page, whip, server (the one that it was started with), or a source of this machine by its name
ONCE = "once:"  # before the name of a file that is not to begin again at its end
SourceState = Literal["opening", "running", "waiting", "ended"]
Changes = Annotated[dict[str, JsonValue], WithJsonSchema(Settings.model_json_schema() | {"title": "Changes"})]
Values = Annotated[dict[str, JsonValue], WithJsonSchema(Settings.model_json_schema())]
Strength = Annotated[float, Field(ge=-STRONGEST, le=STRONGEST, description="0: nothing of it is in the weights.")]
SettingName = Annotated[str, Field(max_length=80, description="One of the settings.")]
Milliseconds = Annotated[float, Field(ge=0, le=1e6)]


class Model(BaseModel):
    """Strict about types, and about fields that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Percentiles(Model):
    """Milliseconds; nothing in it where nothing was measured yet."""

    p50: Milliseconds | None = None
    p95: Milliseconds | None = None


def explained(errors: Iterable[Mapping[str, Any]], whole: str) -> str:
    """Pydantic's errors in a line each: where (`whole` or a part of it), what was got, what was expected."""
    return "\n".join(_line(item, whole) for item in errors)


def _line(item: Mapping[str, Any], whole: str) -> str:
    where = ".".join(str(part) for part in item["loc"] if part != "body")[:80] or whole
    said = f"{item['msg'][0].lower()}{item['msg'][1:]}"
    if item["type"] == "missing":
        return f"{where} is missing: see /openapi.json"
    if item["type"] == "extra_forbidden":
        return f"{where} is not known here: see /openapi.json"
    if item["type"] == "json_invalid":
        return f"the JSON cannot be read: {said}"
    return f"{where} is {item['input']!r:.80}: {said}"
