"""One stream's settings in two tongues: the `Steering` of `StreamBatch`, and the `Setup` of the plain reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from reference import Array, Arrival, Setup, sd_alphas
from torch import Tensor

from stream.denoise import Entry, Left, Steering, draw_noise
from stream.guidance import Guidance
from stream.prompt import Text
from stream.schedule import NoiseCurve

CURVE = NoiseCurve(torch.from_numpy(sd_alphas()).float())
ALPHAS: Array = CURVE.alphas_cumprod.double().numpy()
T_INDEX = {1: (40,), 2: (32, 45), 3: (16, 32, 45), 4: (16, 24, 32, 45), 8: (18, 22, 26, 30, 34, 38, 42, 46)}
CPU = torch.device("cpu")


class Rig(NamedTuple):
    steering: Steering
    setup: Setup


def plain(x: Tensor) -> Array:
    return x.double().numpy()


def text(value: float) -> Text:
    """Tokens `(1, 2, 3)` about `value`, the first of them exactly that."""
    return Text(value + torch.linspace(0, 0.2, 6).view(1, 2, 3))


def rig(
    t_index: Sequence[int] = T_INDEX[2], *, words: float = 0.4, negative: float = -0.3, seed: int = 0,
    size: tuple[int, int] = (2, 3), guidance: Guidance = "none", scale: float = 1.5, delta: float = 1.0,
    add_noise: bool = True,
) -> Rig:  # fmt: skip
    noise = draw_noise(seed, len(t_index), (4, *size), CPU)
    yes, no = text(words), text(negative)
    steering = Steering(CURVE.schedule(t_index), yes, no, noise, guidance, scale, delta, add_noise)
    setup = Setup(ALPHAS, t_index, plain(yes.tokens[0]), plain(no.tokens[0]), [plain(x) for x in noise],
                  guidance, scale, delta, add_noise)  # fmt: skip
    return Rig(steering, setup)


def latent(tag: int, size: tuple[int, int] = (2, 3)) -> Tensor:
    """A frame's latent, `(4, h, w)`: the same for the same tag."""
    return torch.randn(4, *size, generator=torch.Generator().manual_seed(1000 + tag))


def entries(tags: Sequence[int], size: tuple[int, int] = (2, 3)) -> list[Entry]:
    return [Entry(tag, latent(tag, size)) for tag in tags]


def arrivals(entering: Sequence[Entry]) -> list[Arrival]:
    """The same frames for the reference."""
    return [Arrival(e.tag, *(None if x is None else plain(x) for x in (e.latent, e.noise))) for e in entering]


def assert_same(left: Sequence[Left], expected: Sequence[tuple[Any, Array, bool]], within: float = 1e-5) -> None:
    """What left is what the reference says, in its order, up to float32."""
    assert [(o.tag, o.primed) for o in left] == [(tag, primed) for tag, _, primed in expected]
    for o, (_, x, _) in zip(left, expected, strict=True):
        torch.testing.assert_close(o.latent.double(), torch.from_numpy(x), atol=within, rtol=within)
