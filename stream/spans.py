"""What an engine that is built for a range must take: rows from steps and streams, sides from the picture's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engines import Network
from engines.build import Profiles
from stream.settings import Settings

STREAMS = 4  # at once, unless more are asked for


def ranged(networks: Sequence[Network], settings: Settings, factor: int, streams: int = STREAMS) -> list[Network]:
    """The networks with their spans: pictures of 256 to 1024 pixels a side in any aspect (and of the settings' size),
    fastest at that size; `factor` is the pixels a side of a latent cell."""
    flight = in_flight(settings)
    made = []
    for network in networks:
        rows = (1, flight, flight * streams) if network.name == "denoiser" else (1, 1, streams)
        profiles = Profiles.around(settings.width, settings.height, factor, rows)
        axes = {a for port in network.inputs for a in port.shape if isinstance(a, str)}
        made.append(replace(network, spans=profiles.named(sorted(axes)).spans))
    return made


def in_flight(settings: Settings) -> int:
    """Rows of one stream in one call of the denoiser."""
    steps = len(settings.t_index) if settings.t_index is not None else settings.steps
    return steps * (2 if settings.guided and settings.guidance == "full" else 1)
