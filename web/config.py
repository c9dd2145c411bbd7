"""How the server is to run, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stream.config import Lora

OFFERS_A_MINUTE = 10
CLIPS = 50


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
    clips: bool = True  # whether clips are made, at /clips and /v1/videos
    clips_folder: Path | None = None  # of their queue; None: the user's
    clips_limit: int = CLIPS  # that may wait
    clips_allow: tuple[str, ...] = ()  # models, motion modules and back ends that requests for clips may name
    control: Control = Control()
    loras: tuple[Lora, ...] = ()  # beside the preset's own; the page can change their strengths
