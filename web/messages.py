"""What page and server say to each other: the bodies of the HTTP API and the messages of the control channel.

The control channel is the data channel called "control", or the text frames of the WebSocket. Every message is one
JSON object with a `type`. From the page: `PageMessage`; from the server: the classes of `ServerMessage`. The WebSocket
begins with `Hello` from the page, which the server answers with `Welcome`, or with `Refused` before it closes.

Pictures on the WebSocket are binary messages: `PICTURE` and then a JPEG. A picture that comes back carries the capture
time of the picture that it was painted from.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, WithJsonSchema

from stream.config import STRONGEST
from stream.control.beat import LIMITS, Lead
from stream.control.bindings import MOST, Binding, Mode
from stream.control.follow import Follow, Shape
from stream.control.morph import LONGEST_S
from stream.settings import Settings

BODY_LIMIT = 64 * 1024  # bytes of an HTTP body; an offer is the largest
TIMELINE_LIMIT = 4 * 1024 * 1024  # bytes of a JSON body that asks for a clip, which may bring a picture
UPLOAD_LIMIT = 256 * 1024 * 1024  # bytes of a form that brings a file
MESSAGE_LIMIT = 16 * 1024  # bytes of a control message
MESSAGES_A_SECOND = 60
PICTURE_LIMIT = 4 * 1024 * 1024  # bytes of a picture on the WebSocket
PICTURE = struct.Struct("<IId")  # sequence number, 0, capture time in ms of the page's wall clock

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


# ------------------------------------------------------------------------------------------------- HTTP: asked


class WebRtcOffer(Model):
    """A WebRTC offer."""

    sdp: Annotated[str, Field(min_length=1, max_length=BODY_LIMIT, description="The offer, RFC 8866.")]
    type: Literal["offer"] = "offer"


class ViewerOffer(WebRtcOffer):
    """A WebRTC offer that only receives."""

    control: Annotated[bool, Field(description="Whether the page may also change settings.")] = False


class Offer(WebRtcOffer):
    """A WebRTC offer for a new session: one video track that is sent, one that comes back, the channel "control"."""

    settings: Annotated[Changes, Field(description="What differs from the model's defaults; see /api/schema.")] = {}
    ticket: Annotated[str | None, Field(max_length=64, description="The place in the queue, from a 503.")] = None
    source: Annotated[
        SourceName | None,
        Field(max_length=2048, description="page: the offer's video. server: the source that the server was started "
              "with. A source of the server's machine by its name (for admins). Without it: page if the offer sends "
              "video, else server."),
    ] = None  # fmt: skip


class Standing(Model):
    """A session that goes on without any page, under the name in the path."""

    source: Annotated[
        SourceName,
        Field(
            description="whip: whoever publishes to /whip/NAME. server: the source that the server was started with."
        ),
    ] = "whip"
    settings: Changes = {}


class Patch(Model):
    """Settings to change; the others stay."""

    settings: Changes


class SourceAsked(Model):
    """Where a session takes its pictures from."""

    source: Annotated[SourceName, Field(min_length=1, max_length=2048, description="page, server, or what /api/sources "
                                        "lists; or an address or a path of the server.")]  # fmt: skip
    once: Annotated[bool, Field(description="A file stops at its end, and its last picture stays.")] = False


class LorasAsked(Model):
    """Strengths to change, by the LoRAs' names; the others stay. For every session of the server."""

    strengths: dict[str, Strength]


# ------------------------------------------------------------------------------------------------- HTTP: answered


class Place(Model):
    """A place in the queue. Ask again with the ticket after `retry_after_s`; it lapses when nobody asks for long."""

    ticket: str
    place: Annotated[int, Field(ge=1, description="1 is next.")]
    retry_after_s: float


class Problem(Model):
    """What was got, what was expected, and what to do."""

    error: str
    param: Annotated[str | None, Field(description="The field that it is about (clips).")] = None
    code: Annotated[str | None, Field(description="In one word (clips).")] = None


class Full(Problem):
    """All places are taken; `queue` is absent where the queue is full as well."""

    queue: Place | None = None


class ViewerAnswer(Model):
    """The answer to an offer. `id` is a secret of at least 128 random bits."""

    id: str
    sdp: str
    type: Literal["answer"] = "answer"


class Answer(ViewerAnswer):
    """The answer to an offer for a session, with what it begins with."""

    settings: Values
    state: State
    notice: str


class Patched(Model):
    """What holds now, and why the change does not, where it does not."""

    settings: Values
    error: str | None = None


class ModelFacts(Model):
    """The model that paints. What only the worker knows is null until it is ready."""

    name: str
    about: str
    engine: str | None = None
    multiple: Annotated[int | None, Field(description="Divides width and height.")] = None


class Limits(Model):
    """What the server lets through."""

    sessions: int
    session_minutes: Annotated[float | None, Field(description="Of a session, while others wait.")] = None
    body_bytes: int = BODY_LIMIT
    message_bytes: int = MESSAGE_LIMIT
    messages_per_s: int = MESSAGES_A_SECOND
    picture_bytes: int = PICTURE_LIMIT
    offers_per_minute: int


class SourceFacts(Model):
    """How a source of the server is. `waiting`: it is lost, or not there yet, and tried again; `error` says why."""

    name: str
    state: SourceState
    error: str = ""
    size: tuple[int, int] | None = None
    fps: Annotated[float, Field(description="Pictures a second that were read.")] = 0.0

    @property
    def remark(self) -> str:
        """A sentence for whoever looks, or nothing."""
        words = {
            "opening": f"{self.name} is being opened",
            "ended": f"{self.name} is at its end: its last picture stays",
        }
        return self.error or words.get(self.state, "")


class SourceListed(Model):
    """A source of this machine. `name` is what to ask for it by."""

    name: str
    title: str
    kind: str


class SourceList(Model):
    """What is there now; `missing` says why some kinds could not be looked for."""

    sources: list[SourceListed]
    missing: list[str]


class SourceNow(Model):
    """Where a session takes its pictures from, and how that is, where it is a source of this machine."""

    source: SourceName
    input: SourceFacts | None


class Schema(Model):
    """Everything that the page builds its controls from."""

    settings: Annotated[dict[str, JsonValue], Field(description="JSON Schema of the settings.")]
    defaults: Values
    model: ModelFacts
    styles: Annotated[list[str], Field(description="Prompts that the model knows well.")]
    limits: Limits
    version: str
    sources: list[Literal["camera", "screen", "file", "testcard", "server"]]
    clips: Annotated[bool, Field(description="Whether clips are made: /clips.")] = False


class LoraFacts(Model):
    """A LoRA that the server was started with."""

    name: str
    strength: Strength


class Loras(Model):
    """The LoRAs in the weights that every session is painted with."""

    loras: list[LoraFacts]
    changing: Annotated[bool, Field(description="Others were asked for and are made ready; until then these hold.")]


class Health(Model):
    """Whether the server is well; with 503 where the worker failed for good."""

    ok: bool
    worker: str
    pid: int | None  # of the worker process that lives now
    notice: str
    restarts: int
    sessions: int
    version: str
    clips: ClipsHealth | None = None


class SessionListed(Model):
    """A session among others. Its id is told to admins alone: who knows it may steer."""

    name: str | None
    id: str | None = None
    source: SourceName
    state: State
    notice: str
    settings: Values
    viewers: int
    outputs: list[OutputFacts]
    publishing: Annotated[bool, Field(description="Whether somebody publishes to it by WHIP.")]


class SessionList(Model):
    """The sessions that have a name; for admins all."""

    sessions: list[SessionListed]


class IceServerTold(Model):
    """A STUN or TURN server, as `RTCIceServer` of the browser; username and credential lapse."""

    urls: list[str]
    username: str | None = None
    credential: str | None = None


class IceServers(Model):
    """What goes into `RTCConfiguration`."""

    iceServers: list[IceServerTold]  # noqa: N815 (the browser's name)


class Ready(Model):
    """Whether somebody new may come, and why not."""

    ready: bool
    why: str


class LoginAsked(Model):
    """A token, a JSON Web Token, or the code of a link."""

    token: Annotated[str, Field(min_length=1, max_length=4096)]


class Me(Model):
    """Who asks."""

    role: Literal["nobody", "view", "control", "admin"]


# ------------------------------------------------------------------------------------------------- clips


class ClipsHealth(Model):
    """How the clips go; absent where the server makes none."""

    runner: Literal["idle", "running", "restarting", "stopped"]
    pid: int | None  # of the process that makes them
    notice: str
    restarts: int
    waiting: int
    running: int


class VideoError(Model):
    """Why there is no clip."""

    code: str
    message: str


class Video(Model):
    """A clip that is asked for, as OpenAI's API has it; `seed` and what follows is Livebrush's own."""

    id: str
    object: Literal["video"] = "video"
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    error: VideoError | None = None
    model: str
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    seed: int
    batch: Annotated[str, Field(description="The same for clips that were asked for together.")]
    stage: Annotated[str, Field(description="What is being done.")]
    done: int
    total: int
    took_s: float | None = None
    format: str
    preview: Annotated[str | None, Field(description="Address of a small JPEG, while it is made.")] = None
    timeline: Annotated[dict[str, JsonValue], Field(description="What it is; can be sent again.")]


class VideoList(Model):
    """Clips, a page of them."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(Model):
    """A clip that is no more."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class OpenAiError(Model):
    """What is wrong, in OpenAI's form."""

    message: str
    type: str
    param: Annotated[str | None, Field(description="The field that it is about.")] = None
    code: str | None = None


class OpenAiProblem(Model):
    """An answer that is an error, below /v1."""

    error: OpenAiError


class PlanTold(Model):
    """What a clip will take."""

    timeline: Annotated[dict[str, JsonValue], Field(description="With every segment filled in.")]
    frames: int
    width: int
    height: int
    fps: str
    windows: int
    steps: int
    unet_calls: int
    memory_mb: float | None
    seconds: float | None
    notes: list[str]


class Motion(Model):
    """A motion module that is built in."""

    name: str
    about: str


class ClipsTold(Model):
    """What the editor of clips is built from."""

    timeline: Annotated[dict[str, JsonValue], Field(description="JSON Schema of a timeline.")]
    motions: list[Motion]
    models: list[str]
    backends: list[str]
    formats: list[str]
    styles: Annotated[list[str], Field(description="Prompts that the model knows well.")]
    size: Annotated[list[int], Field(description="Width and height where none are asked for.")]
    fps: int
    waiting: Annotated[int, Field(description="Clips that may wait.")]


# ------------------------------------------------------------------------------------------------- live control


class PresetBody(Model):
    """Settings to keep under a name: all of them, or those that make the look."""

    settings: Changes


class PresetFacts(PresetBody):
    """A preset; one that ships (`own` false) is hidden by an own one of its name, and cannot be deleted."""

    name: str
    number: Annotated[int, Field(ge=0, description="Its place in the list, which MIDI's programs ask for.")]
    own: bool
    notes: Annotated[list[str], Field(description="What of its file is not known here, and left out.")] = []


class PresetList(Model):
    """Every preset, the user's own first."""

    presets: list[PresetFacts]


class PresetImport(PresetBody):
    """A preset of another machine, as `GET /api/presets` there told it; only name and settings count."""

    name: Annotated[str, Field(max_length=200)]
    number: int = 0
    own: bool = True
    notes: list[str] = []


class PresetsAsked(Model):
    """Presets of another machine. One with the name of an own one replaces it."""

    presets: Annotated[list[PresetImport], Field(max_length=500)]


class MorphBody(Model):
    """Where to, and how long it takes."""

    to: Annotated[str | Changes, Field(union_mode="left_to_right", description="A preset's name, or settings.")]
    seconds: Annotated[float, Field(ge=0, le=LONGEST_S)] = 0.0


class FollowBody(Model):
    """How a setting follows the beat; without `low` and `high` over its whole range."""

    shape: Shape = "sine"
    beats: Annotated[float, Field(ge=0.0625, le=256, description="Beats of one turn.")] = 4.0
    low: Annotated[float | None, Field(description="The value at the bottom.")] = None
    high: Annotated[float | None, Field(description="The value at the top; may be below `low`.")] = None
    phase: Annotated[float, Field(ge=0, le=1, description="Part of a turn that it is ahead.")] = 0.0


class BeatAsked(Model):
    """A tempo; the beat goes on from where it is, or from `position`."""

    bpm: Annotated[float, Field(ge=LIMITS[0], le=LIMITS[1], description="Beats a minute.")]
    position: Annotated[float | None, Field(ge=0, le=1e9, description="The beat that it is now.")] = None


class Nothing(Model):
    """An empty object."""


class BindingsAsked(Model):
    """What moves what, instead of what did."""

    bindings: Annotated[list[Binding], Field(max_length=MOST)]


class LearnAsked(Model):
    """What the next controller that moves is bound to; null: nothing any more."""

    setting: Annotated[
        str | None, Field(max_length=80, description="A setting that a knob can turn, tap, or preset:NAME.")
    ]
    mode: Mode = "absolute"
    takeover: bool = False


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


class OutputFacts(Model):
    """An output of a session: `to` as it was asked for, without keys and folders. `waiting`: it is tried again soon,
    and `error` says why it does not go."""

    id: str
    to: str
    kind: str
    state: Literal["starting", "running", "waiting", "stopped"]
    error: str | None = None
    frames: Annotated[int, Field(description="Pictures that it took.")]
    dropped: Annotated[int, Field(description="Pictures that it did not: newer ones came, or it was not there.")]
    since_s: Annotated[float, Field(description="Seconds since it was asked for.")]


class OutputsTold(Model):
    """The session's outputs, on every change of their states; also at the beginning, where there are some."""

    type: Literal["outputs"] = "outputs"
    outputs: list[OutputFacts]


class BeatFacts(Model):
    """The beat of the server. Between two of these, `position` goes on by `bpm` / 60 a second while it runs."""

    bpm: float
    position: Annotated[float, Field(description="Beats since the first, now.")]
    running: bool
    lead: Annotated[Lead, Field(description="Who said it last; none: nobody yet.")]


class BeatTold(BeatFacts):
    """The beat changed; also at the beginning."""

    type: Literal["beat"] = "beat"


class Follows(Model):
    """The settings of a session that follow the beat."""

    follows: dict[str, Follow]


class FollowsTold(Follows):
    """Somebody begins or ends to follow the beat; also at the beginning, where somebody does."""

    type: Literal["follows"] = "follows"


class MidiFacts(Model):
    """MIDI: its inputs, and what moves what."""

    ports: Annotated[list[str], Field(description="Inputs that are heard.")]
    trouble: Annotated[str, Field(description="Why there are none, or what is wrong.")]
    learning: Annotated[str | None, Field(description="The setting that the next controller is bound to.")]
    last: Annotated[str, Field(description="The message that came last, in words.")]
    bindings: list[Binding]
    notes: Annotated[list[str], Field(description="What of the file is not known here.")]


class MidiTold(MidiFacts):
    """A port came or went, something was learnt, or is to be."""

    type: Literal["midi"] = "midi"


class OscFacts(Model):
    """OSC; `port` is null where none is heard."""

    port: int | None
    received: Annotated[int, Field(description="Messages.")]
    malformed: Annotated[int, Field(description="Datagrams that could not be read.")]
    refused: Annotated[int, Field(description="Messages that could not be followed.")]
    subscribers: int


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
