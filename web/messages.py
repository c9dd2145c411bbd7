"""What page and server say to each other on the control channel.

The control channel is the data channel called "control", or the text frames of the WebSocket. Every message is one
JSON object with a `type`. From the page: `PageMessage`; from the server: the classes of `ServerMessage`. The WebSocket
begins with `Hello` from the page, which the server answers with `Welcome`, or with `Refused` before it closes.

Pictures on the WebSocket are binary messages: `PICTURE` and then a JPEG. A picture that comes back carries the capture
time of the picture that it was painted from.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from web.bodies import (
    BeatFacts,
    FollowBody,
    Follows,
    Loras,
    MidiFacts,
    ModelFacts,
    MorphBody,
    OutputFacts,
    Place,
    SourceFacts,
    SourceNow,
)
from web.fields import (
    MESSAGE_LIMIT,
    Changes,
    Milliseconds,
    Model,
    Percentiles,
    SettingName,
    SourceName,
    State,
    Values,
    explained,
)

PICTURE = struct.Struct("<IId")  # sequence number, 0, capture time in ms of the page's wall clock


# ------------------------------------------------------------------------------------------------- page -> server


class SettingsAsked(Model):
    """Settings to change. `id` comes back with the answer."""

    type: Literal["settings"]
    id: int | str | None = None
    changes: Changes


class Ping(Model):
    """`t` comes back in the pong."""

    type: Literal["ping"]
    t: float


class Hidden(Model):
    """Whether the page is out of sight, where browsers send no pictures."""

    type: Literal["hidden"]
    hidden: bool


class Latency(Model):
    """Glass-to-glass milliseconds that the page measured over the last seconds."""

    type: Literal["latency"]
    p50: Milliseconds
    p95: Milliseconds
    count: Annotated[int, Field(ge=0)]


class TapAsked(Model):
    """A beat, now."""

    type: Literal["tap"]


class MorphAsked(MorphBody):
    """To a preset or to settings over time."""

    type: Literal["morph"]


class FollowAsked(Model):
    """A setting that is to follow the beat; with `follow` null no longer."""

    type: Literal["follow"]
    setting: SettingName
    follow: FollowBody | None = None


Steering = TapAsked | MorphAsked | FollowAsked
Said = SettingsAsked | Ping | Hidden | Latency | TapAsked | MorphAsked | FollowAsked
PageMessage = Annotated[Said, Field(discriminator="type")]


class Hello(Model):
    """The first message on a WebSocket."""

    type: Literal["hello"]
    settings: Changes = {}
    ticket: Annotated[str | None, Field(max_length=64)] = None
    source: Annotated[SourceName | None, Field(max_length=2048)] = None


# ------------------------------------------------------------------------------------------------- server -> page


class Welcome(Model):
    """The first message on a control channel. `settings` are what the session goes on with."""

    type: Literal["hello"] = "hello"
    session: str
    settings: Values
    model: ModelFacts
    state: State
    notice: str
    ends_in_s: Annotated[float | None, Field(description="Until the session makes room for those who wait.")] = None


class SettingsTold(Model):
    """The answer to `SettingsAsked`; with `id` null where the worker changed something by itself (less memory)."""

    type: Literal["settings"] = "settings"
    id: int | str | None = None
    settings: Values
    error: str | None = None


class StateTold(Model):
    """What the worker does. Unless it is painting, the picture is the session's own input."""

    type: Literal["state"] = "state"
    state: State
    notice: str


class Stats(Model):
    """Once a second."""

    type: Literal["stats"] = "stats"
    fps_in: float
    fps_out: float
    engine_ms: Percentiles
    server_ms: Annotated[Percentiles, Field(description="From a picture's arrival to its painted one's leaving.")]
    stages: Annotated[dict[str, Percentiles], Field(description="The worker's stages: encode, denoise, decode, tick.")]
    dropped_in: int
    dropped_out: int
    skipped: int
    skip_rate: float
    failed: int
    delay_frames: int
    sessions: int
    restarts: int
    transport: Literal["webrtc", "websocket"]
    ends_in_s: Annotated[float | None, Field(description="Until the session makes room for those who wait.")] = None


class SourceTold(SourceNow):
    """The session takes its pictures from elsewhere, or its source is lost, back, or at its end."""

    type: Literal["source"] = "source"


class FramesTold(Model):
    """When the pictures on the video track were captured: pairs of RTP timestamp and ms of the page's wall clock."""

    type: Literal["frames"] = "frames"
    at: list[tuple[int, float]]


class LorasTold(Loras):
    """The LoRAs changed, or begin to; also at the beginning, where the server knows some."""

    type: Literal["loras"] = "loras"


class OutputsTold(Model):
    """The session's outputs, on every change of their states; also at the beginning, where there are some."""

    type: Literal["outputs"] = "outputs"
    outputs: list[OutputFacts]


class BeatTold(BeatFacts):
    """The beat changed; also at the beginning."""

    type: Literal["beat"] = "beat"


class FollowsTold(Follows):
    """Somebody begins or ends to follow the beat; also at the beginning, where somebody does."""

    type: Literal["follows"] = "follows"


class MidiTold(MidiFacts):
    """A port came or went, something was learnt, or is to be."""

    type: Literal["midi"] = "midi"


class Pong(Model):
    """`t` of the ping, and the server's monotonic clock in ms."""

    type: Literal["pong"] = "pong"
    t: float
    now: float


class ErrorTold(Model):
    """A message that could not be followed, and why."""

    type: Literal["error"] = "error"
    error: str


class Refused(Model):
    """Instead of `Welcome` on a WebSocket: what HTTP would have answered. The server then closes."""

    type: Literal["refused"] = "refused"
    status: int
    error: str
    queue: Place | None = None


class Bye(Model):
    """The last message: the server closes the session. `queue`: its page has a place among those who wait."""

    type: Literal["bye"] = "bye"
    reason: str
    queue: Place | None = None


ServerMessage = (
    Welcome
    | SettingsTold
    | StateTold
    | SourceTold
    | Stats
    | FramesTold
    | LorasTold
    | OutputsTold
    | BeatTold
    | FollowsTold
    | MidiTold
    | Pong
    | ErrorTold
    | Refused
    | Bye
)
FROM_PAGE, FROM_SERVER = get_args(Said), get_args(ServerMessage)
SPOKEN = (*FROM_PAGE, Hello, *FROM_SERVER)


def named(kinds: Iterable[type]) -> str:
    """Their names, as the description of the API has them."""
    return ", ".join(f"`{kind.__name__}`" for kind in kinds)


class SessionFacts(Model):
    """How a session goes."""

    id: str
    settings: Values
    state: State
    notice: str
    source: SourceName
    input: Annotated[SourceFacts | None, Field(description="Of a source of the server.")]
    stats: Stats
    page: Annotated[dict[str, Any], Field(description="What the connection of its page measured.")]
    viewers: int


# ------------------------------------------------------------------------------------------------- reading

_page_message: TypeAdapter[Said] = TypeAdapter(PageMessage)


class MessageError(ValueError):
    """A message that is none; its text says what was got and what was expected."""


def read(text: str) -> Said:
    """A control message from its JSON; MessageError where it is none."""
    try:
        return _page_message.validate_json(_bounded(text))
    except ValidationError as error:
        raise MessageError(explained(error.errors(), "the message")) from None


def read_hello(text: str) -> Hello:
    """The first message of a WebSocket from its JSON; MessageError where it is none."""
    try:
        return Hello.model_validate_json(_bounded(text))
    except ValidationError as error:
        raise MessageError(explained(error.errors(), "the message")) from None


def _bounded(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > MESSAGE_LIMIT:
        raise MessageError(f"the message has {len(data)} bytes: use at most {MESSAGE_LIMIT}")
    return data
