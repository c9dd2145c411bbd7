"""Which steps a frame takes through the noise, and what each of them weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stream.errors import SettingsError

SPACING = 50  # indices a schedule offers: t = 999, 979, ..., 19 out of 1000 (LCM, arXiv 2310.04378)
TIMESTEP_SCALING = 10.0  # s = 10 t in the LCM boundary condition
SIGMA_DATA = 0.5


@dataclass(frozen=True, eq=False)
class NoiseCurve:
    """A model's noise: `alphas_cumprod`, float32, `(num_train_timesteps,)`."""

    alphas_cumprod: Tensor

    @cached_property
    def timesteps(self) -> tuple[int, ...]:
        """The timestep of every index, 999 first."""
        train = len(self.alphas_cumprod)
        step = train // SPACING
        return tuple(train - 1 - i * step for i in range(SPACING))

    @cached_property
    def b(self) -> tuple[float, ...]:
        """The share of noise at every index, falling."""
        at = torch.tensor(self.timesteps)
        return tuple((1 - self.alphas_cumprod.double()[at]).sqrt().tolist())

    def t_index(self, strength: float, steps: int) -> tuple[int, ...]:
        """`steps` increasing indices for a perceived change of `strength` in 0..1.

        Perceived change is about linear in b, so strength picks the index whose b is `strength` of the largest, and
        further steps divide what is left of b evenly.
        """
        wanted = [strength * self.b[0] * (1 - k / steps) for k in range(steps)]
        nearest = [min(range(SPACING), key=lambda i: abs(self.b[i] - w)) for w in wanted]
        return _increasing(nearest)

    def schedule(self, t_index: Sequence[int]) -> Schedule:
        """The schedule through these indices; SettingsError unless they increase within 0..49."""
        t_index = tuple(t_index)
        if not t_index or sorted(set(t_index)) != list(t_index) or not 0 <= t_index[0] <= t_index[-1] < SPACING:
            raise SettingsError(
                f"t_index {list(t_index)} is not an increasing list of indices 0 to {SPACING - 1}: use e.g. 32,45"
            )
        t = torch.tensor([self.timesteps[i] for i in t_index])
        alpha = self.alphas_cumprod.double()[t]
        s2 = (TIMESTEP_SCALING * t.double()) ** 2
        c_skip = SIGMA_DATA**2 / (s2 + SIGMA_DATA**2)
        c_out = s2.sqrt() / (s2 + SIGMA_DATA**2).sqrt()
        columns = (x.tolist() for x in (alpha.sqrt(), (1 - alpha).sqrt(), c_skip, c_out))
        a, b, skip, out = (tuple(c) for c in columns)
        return Schedule(t_index, tuple(t.tolist()), a, b, skip, out)


def _increasing(indices: Sequence[int]) -> tuple[int, ...]:
    """Moves equal neighbours apart, within 0..49."""
    out = list(indices)
    for k in range(1, len(out)):
        out[k] = max(out[k], out[k - 1] + 1)
    for k in reversed(range(len(out))):
        out[k] = min(out[k], SPACING - len(out) + k)
    return tuple(out)


@dataclass(frozen=True)
class Schedule:
    """The steps of a stream, first one first; all tuples have one entry a step.

    `a` and `b` weigh picture and noise (x_t = a z + b noise); `c_skip` and `c_out` are the LCM boundary condition.
    """

    t_index: tuple[int, ...]
    timesteps: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    c_skip: tuple[float, ...]
    c_out: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def delay(self) -> int:
        """Ticks from a frame's entering to its leaving."""
        return len(self) - 1
