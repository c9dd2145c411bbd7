"""The stream algorithm once more: one stream, one frame and one step at a time, in plain numpy float64.

Written from the formulas of Kodaira et al., arXiv 2312.12491, and of Luo et al., arXiv 2310.04378 (boundary), with
nothing of `stream/` in it, so that `StreamBatch` has something to be compared with. Here too are the closed-form
predictors that both are fed with, and `Counted`, which gives a predictor the shape of a denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Predictor = Callable[[Array, float, Array], Array]  # one row: latent, timestep, text tokens -> prediction


def sd_alphas() -> Array:
    """Stable Diffusion's cumulative alphas: betas scaled linearly from .00085 to .012, 1000 of them."""
    alphas, product = [], 1.0
    for i in range(1000):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999
        product *= 1 - root * root
        alphas.append(product)
    return np.array(alphas)


@dataclass(eq=False)
class Setup:
    """A stream's settings, as a frame enters with them. `noise[k]` is `(4, h, w)`."""

    alphas: Array
    t_index: Sequence[int]
    text: Array
    negative: Array
    noise: Sequence[Array]
    guidance: str = "none"
    scale: float = 1.0
    delta: float = 1.0
    add_noise: bool = True

    @property
    def steps(self) -> int:
        return len(self.t_index)

    def t(self, k: int) -> int:
        return 999 - 20 * self.t_index[k]

    def a(self, k: int) -> float:
        return math.sqrt(self.alphas[self.t(k)])

    def b(self, k: int) -> float:
        return math.sqrt(1 - self.alphas[self.t(k)])

    def c_skip(self, k: int) -> float:
        s = 10 * self.t(k)
        return 0.25 / (s * s + 0.25)

    def c_out(self, k: int) -> float:
        s = 10 * self.t(k)
        return s / math.sqrt(s * s + 0.25)


class Arrival(NamedTuple):
    """A frame that enters: its latent, or None to start from noise alone, its own or else the stream's."""

    tag: Any
    z: Array | None = None
    noise: Array | None = None


@dataclass(eq=False)
class Flight:
    """One frame, or an early copy of one, from where it enters. Dictionaries are by step."""

    tag: Any
    setup: Setup
    step: int
    ticks_left: int
    primed: bool
    x: dict[int, Array] = field(default_factory=dict)
    r: dict[int, Array] = field(default_factory=dict)
    x0: dict[int, Array] = field(default_factory=dict)


class Reference:
    """One stream. `kind` says what `predict` predicts: epsilon, v_prediction or sample.

    The paper says nothing of a number of steps that changes while frames are in flight. Here: no frame is overtaken
    (those in flight leave no later than the next one), and no tick is left without a picture (early copies of the
    entering frames fill the ticks in which nothing would leave).
    """

    def __init__(self, predict: Predictor, kind: str) -> None:
        self.predict, self.kind = predict, kind
        self.flights: list[Flight] = []

    def tick(self, setup: Setup, frames: Sequence[Arrival]) -> list[tuple[Any, Array, bool]]:
        """Tag, latent and whether it is an early copy, of what leaves."""
        if frames:
            self.enter(setup, frames)
        left = []
        for flight in self.flights:
            self.move(flight)
        for flight in self.flights:
            if flight.ticks_left == 0:
                left.append((flight.tag, flight.x0[flight.step], flight.primed))
        self.flights = [f for f in self.flights if f.ticks_left > 0]
        for flight in self.flights:
            flight.step += 1
            flight.ticks_left -= 1
        return left

    def enter(self, setup: Setup, frames: Sequence[Arrival]) -> None:
        last = setup.steps - 1
        for flight in self.flights:
            flight.ticks_left = min(flight.ticks_left, last)
        busy = {flight.ticks_left for flight in self.flights}
        for wait in range(last):
            if wait not in busy:
                for frame in frames:
                    self.start(setup, frame, wait)
        for frame in frames:
            self.start(setup, frame, last)

    def start(self, setup: Setup, frame: Arrival, wait: int) -> None:
        """An early copy enters so late that it leaves in `wait` ticks; of noise alone, it leaves so early."""
        k = 0 if frame.z is None else setup.steps - 1 - wait
        flight = Flight(frame.tag, setup, k, wait, primed=wait < setup.steps - 1)
        noise = setup.noise[k] if frame.noise is None else frame.noise
        flight.x[k] = noise if frame.z is None else setup.a(k) * frame.z + setup.b(k) * noise
        flight.r[k] = noise
        self.flights.append(flight)

    def move(self, flight: Flight) -> None:
        """One step: x0 of this one, and x and r of the next."""
        s, k = flight.setup, flight.step
        x, a, b = flight.x[k], s.a(k), s.b(k)
        eps = self.epsilon(x, k, s, s.text)
        if s.guidance != "none" and s.scale > 1:
            if s.guidance == "full":
                eu = self.epsilon(x, k, s, s.negative)
            else:
                if s.guidance == "initialize" and k == 0:
                    flight.r[0] = self.epsilon(x, 0, s, s.negative)
                eu = s.delta * flight.r[k]
            eps = eu + s.scale * (eps - eu)
        flight.x0[k] = s.c_out(k) * (x - b * eps) / a + s.c_skip(k) * x
        if k + 1 < s.steps:
            a_next, b_next, noise = s.a(k + 1), s.b(k + 1), s.noise[k + 1]
            flight.x[k + 1] = a_next * flight.x0[k] + (b_next * noise if s.add_noise else 0)
            r = flight.r[k]
            d = (s.c_out(k) * (b * r - b * eps) / a + s.c_skip(k) * b * r) * a_next / b_next
            flight.r[k + 1] = noise + d

    def epsilon(self, x: Array, k: int, s: Setup, text: Array) -> Array:
        prediction = self.predict(x, s.t(k), text)
        if self.kind == "epsilon":
            return prediction
        x0 = s.a(k) * x - s.b(k) * prediction if self.kind == "v_prediction" else prediction
        return (x - s.a(k) * x0) / s.b(k)


# --------------------------------------------------------------------------------------- closed-form predictors


def as_kind(kind: str, x0: Array, x: Array, a: float, b: float) -> Array:
    """What a network of this kind says whose best guess of the clean latent is `x0`."""
    eps = (x - a * x0) / b
    known: dict[str, Array] = {"epsilon": eps, "v_prediction": a * eps - b * x0, "sample": x0}
    return known[kind]


def gaussian(alphas: Array, kind: str, spread: float) -> Predictor:
    """The exact predictor where all clean latents are N(mean of the text, spread^2); 0 is a point mass."""

    def predict(x: Array, t: float, text: Array) -> Array:
        a, b = math.sqrt(alphas[int(t)]), math.sqrt(1 - alphas[int(t)])
        mean = float(text.mean())
        x0 = mean + a * spread**2 / (a * a * spread**2 + b * b) * (x - a * mean)
        return as_kind(kind, x0, x, a, b)

    return predict


def point(alphas: Array, kind: str, target: Array) -> Predictor:
    """The exact predictor where the only clean latent there is is `target`, whatever the text."""

    def predict(x: Array, t: float, text: Array) -> Array:
        return as_kind(kind, target, x, math.sqrt(alphas[int(t)]), math.sqrt(1 - alphas[int(t)]))

    return predict


def linear(x: Array, t: float, text: Array) -> Array:
    """A predictor of no meaning that depends on everything that it is given, and on each latent's own place."""
    rows = np.arange(x.shape[-1]) / 10
    out: Array = (0.3 + t / 2000) * x + 0.2 * text.mean() - 0.1 * np.roll(x, 1, axis=-1) + 0.05 * rows
    return out


def echo(x: Array, t: float, text: Array) -> Array:
    return x


class Counted:
    """A predictor as a denoiser of many rows, that remembers every call: the rows' shapes, timesteps and texts."""

    def __init__(self, predict: Predictor) -> None:
        self.predict = predict
        self.calls: list[tuple[int, ...]] = []
        self.rows: list[list[tuple[float, float]]] = []  # timestep and first number of the text, of every row

    def __call__(self, latents: torch.Tensor, t: torch.Tensor, text: Any) -> torch.Tensor:
        assert t.shape == latents.shape[:1] == text.tokens.shape[:1]
        self.calls.append(tuple(latents.shape))
        self.rows.append([(float(s), float(tokens[0, 0])) for s, tokens in zip(t, text.tokens, strict=True)])
        out = [
            self.predict(x.double().numpy(), float(s), tokens.double().numpy())
            for x, s, tokens in zip(latents, t, text.tokens, strict=True)
        ]
        return torch.from_numpy(np.stack(out)).float()
