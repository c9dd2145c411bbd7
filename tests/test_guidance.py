"""The free functions of `stream/guidance.py` against what they mean."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from reference import as_kind
from rig import CURVE
from torch import Tensor

from stream.guidance import Prediction, boundary, epsilon_from, guide, residual_after, x0_from, x0_from_epsilon

KINDS: tuple[Prediction, ...] = get_args(Prediction)
ROWS = 5


def draw(seed: int) -> Tensor:
    return torch.randn(ROWS, 4, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


SCHEDULE = CURVE.schedule((0, 16, 24, 32, 49))
A, B = weights(SCHEDULE.a), weights(SCHEDULE.b)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prediction_means_the_same_x0_and_eps(kind: Prediction) -> None:
    clean, noise = draw(0), draw(1)
    x = A * clean + B * noise
    said = torch.stack([
        torch.from_numpy(as_kind(kind, z.numpy(), row.numpy(), float(a), float(b)))
        for z, row, a, b in zip(clean, x, A, B, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(epsilon_from(kind, said, x, A, B), noise)
    torch.testing.assert_close(x0_from(kind, said, x, A, B), clean)
    torch.testing.assert_close(x0_from_epsilon(x, noise, A, B), clean)


@pytest.mark.parametrize("kind", KINDS)
def test_x0_straight_from_a_prediction_is_x0_by_way_of_its_eps(kind: Prediction) -> None:
    said, x = draw(2), draw(3)
    eps = epsilon_from(kind, said, x, A, B)
    torch.testing.assert_close(x0_from(kind, said, x, A, B), x0_from_epsilon(x, eps, A, B))


def test_guidance_goes_from_the_unconditional_through_the_conditional() -> None:
    yes, no = draw(4), draw(5)
    torch.testing.assert_close(guide(yes, no, weights((1,) * ROWS)), yes)
    torch.testing.assert_close(guide(yes, no, weights((0,) * ROWS)), no)
    torch.testing.assert_close(guide(yes, no, weights((3,) * ROWS)), no + 3 * (yes - no))
    torch.testing.assert_close(guide(yes, yes, weights((7,) * ROWS)), yes)


def test_every_row_has_its_own_scale() -> None:
    yes, no = draw(4), draw(5)
    out = guide(yes, no, weights((1, 2, 3, 4, 5)))
    for k in range(ROWS):
        torch.testing.assert_close(out[k], no[k] + (k + 1) * (yes[k] - no[k]))


def test_the_boundary_weighs_x0_and_x() -> None:
    x0, x = draw(6), draw(7)
    skip, out = weights((0, 1, 0.5, 0.25, 0)), weights((1, 0, 0.5, 0.75, 1))
    torch.testing.assert_close(boundary(x0, x, skip, out), out * x0 + skip * x)


def test_residual_noise_is_what_parts_the_next_latent_from_the_picture_that_entered() -> None:
    """Where x = a z + b r, the residual of the next step must be the r of x' = a' z + b' r', up to the boundary."""
    z, r, eps, fresh = draw(8), draw(9), draw(10), draw(11)
    skip, out = weights((0.0,) * ROWS), weights((1.0,) * ROWS)
    a_next, b_next = torch.roll(A, -1, 0), torch.roll(B, -1, 0)
    x = A * z + B * r
    x_next = a_next * x0_from_epsilon(x, eps, A, B) + b_next * fresh
    found = residual_after(r, eps, fresh, A, B, skip, out, a_next, b_next)
    torch.testing.assert_close(found, (x_next - a_next * z) / b_next)


def test_residual_noise_by_hand() -> None:
    """a = .6, b = .8, r = 1, eps = 2, c_out = .5, c_skip = .25, a' = .8, b' = .6, noise' = 3."""
    one = [torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (1, 2, 3, 0.6, 0.8, 0.25, 0.5, 0.8, 0.6)]
    d = (0.5 * (0.8 - 1.6) / 0.6 + 0.25 * 0.8) * 0.8 / 0.6
    assert math.isclose(float(residual_after(*one)), 3 + d)


def test_a_residual_that_was_guessed_right_leaves_only_fresh_noise() -> None:
    r, fresh = draw(12), draw(13)
    zero, one = weights((0.0,) * ROWS), weights((1.0,) * ROWS)
    torch.testing.assert_close(residual_after(r, r, fresh, A, B, zero, one, A, B), fresh)
