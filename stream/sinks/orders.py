"""What the server and the process of a live sink say to each other, over `stream.wire`. Pictures go through shared
memory (`stream.mailbox`)."""

from __future__ import annotations

from dataclasses import dataclass

from stream.mailbox import Address, Place

# ------------------------------------------------------------------------------------------------- to the sink


@dataclass(frozen=True)
class Start:
    """The first message: the output's name, about how many pictures a second come, the shared memory, where its pulse
    is, and how much is logged."""

    text: str
    rate: float
    memory: int | str
    pulse: Place
    parent: int
    log_level: int


@dataclass(frozen=True)
class Moved:
    """From now on pictures lie there; what was before is not looked at any more."""

    boxes: Address


@dataclass(frozen=True)
class Bell:
    """A picture lies in the mailbox. There is one at a time: `Looked` answers it."""


@dataclass(frozen=True)
class Sounds:
    """Sound will come along from now on."""


@dataclass(frozen=True)
class Heard:
    """A packet of sound, Opus, by the clock of the pictures' `captured_at`."""

    data: bytes
    captured_at: float


@dataclass(frozen=True)
class Stop:
    """Finish what was taken, and end."""


# ------------------------------------------------------------------------------------------------- to the server


@dataclass(frozen=True)
class Opening:
    """It is about to open, which may take `seconds` (None: it may wait for somebody as long as it likes)."""

    seconds: float | None


@dataclass(frozen=True)
class Opened:
    """It takes pictures."""


@dataclass(frozen=True)
class Looked:
    """The mailbox was looked into."""


@dataclass(frozen=True)
class Failed:
    """It cannot go on, and ends."""

    text: str
