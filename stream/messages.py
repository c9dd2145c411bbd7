"""What the server and its worker process say to each other, over `stream.wire`. Pictures do not come this way; they
go through shared memory (`stream.mailbox`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stream.config import Lora, ModelSpec
from stream.mailbox import Address, Place
from stream.settings import Settings

Fault = Literal["raise", "hang", "memory", "exit"]
Stages = Mapping[str, Mapping[str, float]]


# ------------------------------------------------------------------------------------------------- the plan


def pass_through() -> ModelSpec:
    """What a worker with a `Fake` says that it paints with."""
    about = "Paints nothing: what goes in comes out. To try the delivery."
    return ModelSpec("pass-through", "pass-through", licence="Apache-2.0", about=about)


@dataclass(frozen=True)
class Fake:
    """Instead of a model: frames are fitted to the settings' size and come back. Starts fast, imports no torch.

    `delay_ms` is slept in every tick, `load_ms` before it is ready, `prepare_ms` for every new size, `mix_ms` beside
    the ticks for other LoRAs, whose files must be there. `fail` is what happens while it loads. Sides must be multiples
    of `multiple`, as a model would have it. With a `backend`, it fails only on that one, and says that it runs there
    unless the plan names another.
    """

    delay_ms: float = 0
    load_ms: float = 0
    prepare_ms: float = 0
    mix_ms: float = 0
    fail: Fault | None = None
    multiple: int = 8
    backend: str = ""


@dataclass(frozen=True)
class Plan:
    """What the worker paints with. `engine`, `device` and `precision` as in `engines.choose`; `notice`: why the engine
    is not the one that was asked for.

    `faults`: whether `Supervisor.fault` is obeyed with a real model too (with a `fake` it always is).
    """

    spec: ModelSpec = field(default_factory=pass_through)
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    fake: Fake | None = None
    faults: bool = False
    notice: str = ""


# ------------------------------------------------------------------------------------------------- to the worker


@dataclass(frozen=True)
class Rehearse:
    """Before the first message, to an understudy: import what every plan needs, gently. `Rehearsed` answers."""


@dataclass(frozen=True)
class Begin:
    """The first message: the plan, the shared memory, where its pulse is, and how much is logged."""

    plan: Plan
    memory: int | str
    pulse: Place
    parent: int
    log_level: int


@dataclass(frozen=True)
class Bell:
    """A frame lies in some mailbox. There is one at a time: `Ticked` with `bell` answers it."""


@dataclass(frozen=True)
class Open:
    """A new stream, and its pair of mailboxes. `Applied` answers."""

    stream: int
    settings: Settings
    boxes: Address


@dataclass(frozen=True)
class Apply:
    """Other settings, and where larger mailboxes are, if they must be. `Applied` answers; there is one at a time."""

    stream: int
    settings: Settings
    boxes: Address | None


@dataclass(frozen=True)
class Close:
    """The stream ends. `Closed` answers: from then on the worker does not touch its mailboxes."""

    stream: int


@dataclass(frozen=True)
class Remix:
    """Other LoRAs, in the weights that all streams are painted with. `Mixed` answers; there is one at a time."""

    loras: tuple[Lora, ...]


@dataclass(frozen=True)
class Misbehave:
    """For tests: fail like this in the next tick that has no such message yet."""

    fault: Fault


@dataclass(frozen=True)
class Stop:
    """End in your own time, but soon."""


# ------------------------------------------------------------------------------------------------- to the server


@dataclass(frozen=True)
class Rehearsed:
    """All is imported."""


@dataclass(frozen=True)
class Chosen:
    """The back end that it is going to load on."""

    backend: str


@dataclass(frozen=True)
class Loading:
    """What takes long, in words."""

    text: str


@dataclass(frozen=True)
class Unfit:
    """The back end failed while it painted: the next worker had better do without it."""

    text: str


@dataclass(frozen=True)
class Ready:
    """Loaded: streams may come. `notice`: why the engine is not the one that was asked for."""

    engine: str
    multiple: int
    notice: str = ""


@dataclass(frozen=True)
class Broken:
    """Could not load. `mendable`: an error of the user's kind, which another try would only repeat."""

    text: str
    mendable: bool


@dataclass(frozen=True)
class Ticked:
    """The mailboxes were looked at. `painted` are the streams with something new; `bell`: this answers a `Bell`."""

    painted: tuple[int, ...]
    bell: bool


@dataclass(frozen=True)
class Applied:
    """What holds for a stream now (None: it is not open here), and why it is not what was asked for."""

    stream: int
    settings: Settings | None
    error: str | None
    delay: int


@dataclass(frozen=True)
class Mixed:
    """The LoRAs hold, from the next tick on; or why they do not, and all is as it was."""

    error: str | None


@dataclass(frozen=True)
class Closed:
    """The worker has let go of the stream's mailboxes."""

    stream: int


@dataclass(frozen=True)
class Shrunk:
    """Memory ran out: the stream goes on in a smaller size."""

    stream: int
    settings: Settings
    text: str


@dataclass(frozen=True)
class Refused:
    """Memory ran out, or the stream could not be set up anew: it is no longer open here."""

    stream: int
    text: str


@dataclass(frozen=True)
class Failed:
    """A tick of these streams failed. They go on."""

    streams: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Measured:
    """About once a second: ms by stage, the streams' shares of skipped frames, and their delays in ticks."""

    stages: Stages
    skip_rates: Mapping[int, float]
    delays: Mapping[int, int]
