"""How the server is to run, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass

from stream.config import Lora

OFFERS_A_MINUTE = 10


@dataclass(frozen=True)
class Config:
    """Every option of `livebrush serve`. `port` 0 is any free one; `source` a name for `stream.sources.open_source`."""

    model: str = "builtin"
    host: str = "127.0.0.1"
    port: int = 8000
    source: str | None = None
    size: tuple[int, int] | None = None  # width and height; the model's own without it
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    limit: int = 6  # sessions at once
    offers_per_minute: int = OFFERS_A_MINUTE  # from one address
    browser: bool | None = None  # whether to open one; None: where there is a display
    insecure: bool = False  # whether others on the network may come in
    loras: tuple[Lora, ...] = ()  # beside the preset's own; the page can change their strengths
