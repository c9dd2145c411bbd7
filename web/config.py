"""How the server is to run, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stream.config import Lora
from web.network import Network

OFFERS_A_MINUTE = 10
CLIPS = 50
VIEWERS = 50


@dataclass(frozen=True)
class Access:
    """Who may come, and from where. Secrets are left out of its repr."""

    tokens: tuple[str, ...] = field(default=(), repr=False)  # role:secret
    jwt_key: str | None = field(default=None, repr=False)  # a file with a key, or a shared secret
    origins: tuple[str, ...] = ()  # other places where the page is to be had, e.g. https://stage.example
    proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded headers are believed
    session_minutes: float | None = None  # of a page, while others wait

    @property
    def asked(self) -> bool:
        """Whether anybody is asked who they are."""
        return bool(self.tokens or self.jwt_key)


@dataclass(frozen=True)
class Https:
    """Whether it speaks HTTPS: with a certificate that is given, or one that is made."""

    made: bool = False
    cert: Path | None = None
    key: Path | None = None

    @property
    def wanted(self) -> bool:
        return self.made or self.cert is not None


@dataclass(frozen=True)
class Logs:
    """What is logged. `level` None: warnings, and in JSON what happens as well."""

    form: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] | None = None


@dataclass(frozen=True)
class Control:
    """What steers beside the pages."""

    osc: str | None = None  # a port, or host:port
    osc_out: tuple[str, ...] = ()  # host:port
    midi: str | None = None  # a part of an input's name, or all
    link: bool = False  # Ableton Link
    folder: Path | None = None  # of presets and mappings; None: the user's


@dataclass(frozen=True)
class Config:
    """Every option of `livebrush serve`. `port` 0 is any free one; `source` a name for `stream.sources.open_source`,
    after `once:` where a file is to stop at its end."""

    model: str = "builtin"
    host: str = "127.0.0.1"
    port: int = 8000
    source: str | None = None
    size: tuple[int, int] | None = None  # width and height; the model's own without it
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    limit: int = 6  # sessions at once
    viewers: int = VIEWERS  # of one session
    offers_per_minute: int = OFFERS_A_MINUTE  # from one address
    browser: bool | None = None  # whether to open one; None: where there is a display
    insecure: bool = False  # whether others on the network may come in
    clips: bool = True  # whether clips are made, at /clips and /v1/videos
    clips_folder: Path | None = None  # of their queue; None: the user's
    clips_limit: int = CLIPS  # that may wait
    clips_allow: tuple[str, ...] = ()  # models, motion modules and back ends that requests for clips may name
    outputs: tuple[str, ...] = ()  # where the picture of the session `live` goes; see `stream.sinks.live`
    control: Control = Control()
    loras: tuple[Lora, ...] = ()  # beside the preset's own; the page can change their strengths
    network: Network = field(default_factory=Network)  # STUN, TURN, UDP ports
    access: Access = Access()
    https: Https = Https()
    logs: Logs = Logs()

    @property
    def scheme(self) -> str:
        """Of its addresses."""
        return "https" if self.https.wanted else "http"
