"""Engines ahead of time: everything that a model needs, on a machine with its card or without one, ready to copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from engines import Choice, Network, fp8, preflight
from engines.build import PLAN, Profiles, Tell, Wish, ready
from engines.cache import Entry
from engines.cache import read as read_entry
from engines.spec import Precision
from stream import networks
from stream.config import ModelSpec
from stream.models import codec_choice, networks_of
from stream.samples import samples
from stream.spans import STREAMS, ranged


@dataclass(frozen=True)
class Order:
    """How a model's engines are to be built; `compute` are compute capabilities as 89, none for the card here."""

    backend: str = "tensorrt-rtx"
    compute: tuple[int, ...] = ()
    precision: Precision = "f16"
    streams: int = STREAMS
    fp8: bool = False
    refit: bool = False

    def check(self) -> None:
        """EngineError for what can be told before any weight is read."""
        preflight.check_library(self.backend)
        preflight.check_precision(self.backend, self.precision)
        wish = self.wish(Profiles({}), self.precision, ()).settled()
        preflight.check_card(self.backend, wish.compute, self.precision, fp8=self.fp8, refit=self.refit)
        if self.fp8:
            fp8.check_library()

    def wish(self, profiles: Profiles, precision: Precision, loras: tuple[tuple[str, float], ...]) -> Wish:
        return Wish(self.backend, precision, profiles, self.compute, self.fp8, self.refit, loras)


@dataclass(frozen=True)
class Made:
    """One network's engine, and whether it had to be built."""

    network: str
    file: Path
    entry: Entry
    fresh: bool

    def told(self) -> str:
        """One line on it."""
        how = self.entry.made
        took = f"built in {how['build_s']:.1f} s" if self.fresh else "there already"
        return f"{self.network}: {took}, {self.entry.size / 1e6:.1f} MB, {self.file.parent}"


def build_model(spec: ModelSpec, order: Order, cache: Path, tell: Tell) -> Iterator[Made]:
    """Builds the engines of a model one by one; what is there already is left. Errors of `load` and of the build.

    `tell` hears the network with the phase of its build, and how far it is.
    """
    from stream.lora import Mix
    from stream.weights import read_pipeline

    order.check()
    pipeline = read_pipeline(spec)
    Mix(lambda: read_pipeline(spec)).merge(pipeline, spec.loras)
    choice = Choice(order.backend, "cuda", order.precision, "asked for")
    codec = codec_choice(pipeline, choice).precision
    loras = tuple((x.source, x.strength) for x in spec.loras)
    parts = ranged(networks_of(pipeline, spec), spec.settings, networks.factor_of(pipeline.vae), order.streams)
    for network in parts:
        wish = order.wish(Profiles(network.spans), order.precision, loras)
        if network.name != "denoiser":
            wish = replace(wish, precision=codec, fp8=False)
        yield made(network, wish, cache, spec.name, tell, lambda: samples(pipeline, spec, parts))


def made(network: Network, wish: Wish, cache: Path, label: str, tell: Tell,
         samples: Callable[[], fp8.Samples] | None = None) -> Made:  # fmt: skip
    """One network's engine."""
    told: list[str] = []

    def hear(phase: str, far: float) -> None:
        told.append(phase)
        tell(f"{network.name}: {phase.lower()}", far)

    file = ready(network, wish, cache, tell=hear, label=label, exact=True, samples=samples)
    if told:
        tell(f"{network.name}: built", 1.0)
    return Made(network.name, file, cast(Entry, read_entry(file.parent)), bool(told))


__all__ = ["PLAN", "Made", "Order", "build_model", "made"]
