"""The bodies of the HTTP API: what is asked, and what is answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from stream.control.beat import LIMITS, Lead
from stream.control.bindings import MOST, Binding, Mode
from stream.control.follow import Follow, Shape
from stream.control.morph import LONGEST_S
from web.clip_bodies import ClipsHealth
from web.fields import (
    BODY_LIMIT,
    MESSAGE_LIMIT,
    MESSAGES_A_SECOND,
    PICTURE_LIMIT,
    Changes,
    Model,
    SourceName,
    SourceState,
    State,
    Strength,
    Values,
)

# ------------------------------------------------------------------------------------------------- asked


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


# ------------------------------------------------------------------------------------------------- answered


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


class BeatFacts(Model):
    """The beat of the server. Between two of these, `position` goes on by `bpm` / 60 a second while it runs."""

    bpm: float
    position: Annotated[float, Field(description="Beats since the first, now.")]
    running: bool
    lead: Annotated[Lead, Field(description="Who said it last; none: nobody yet.")]


class Follows(Model):
    """The settings of a session that follow the beat."""

    follows: dict[str, Follow]


class MidiFacts(Model):
    """MIDI: its inputs, and what moves what."""

    ports: Annotated[list[str], Field(description="Inputs that are heard.")]
    trouble: Annotated[str, Field(description="Why there are none, or what is wrong.")]
    learning: Annotated[str | None, Field(description="The setting that the next controller is bound to.")]
    last: Annotated[str, Field(description="The message that came last, in words.")]
    bindings: list[Binding]
    notes: Annotated[list[str], Field(description="What of the file is not known here.")]


class OscFacts(Model):
    """OSC; `port` is null where none is heard."""

    port: int | None
    received: Annotated[int, Field(description="Messages.")]
    malformed: Annotated[int, Field(description="Datagrams that could not be read.")]
    refused: Annotated[int, Field(description="Messages that could not be followed.")]
    subscribers: int
