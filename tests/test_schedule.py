"""The noise curve, the schedules through it, and what a strength means."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from reference import Setup
from rig import CURVE

from stream.errors import SettingsError
from stream.schedule import SPACING, NoiseCurve


def test_timesteps_are_the_fifty_of_lcm() -> None:
    assert CURVE.timesteps == tuple(999 - 20 * i for i in range(50))
    assert CURVE.timesteps[-1] == 19


def test_another_training_length_is_divided_into_fifty_as_well() -> None:
    curve = NoiseCurve(torch.linspace(0.99, 0.01, 500))
    assert (curve.timesteps[0], curve.timesteps[1], curve.timesteps[-1]) == (499, 489, 9)


def test_b_is_that_of_stable_diffusion() -> None:
    found = [round(CURVE.b[i], 3) for i in (0, 16, 24, 32, 40, 45)]
    assert found == [0.998, 0.951, 0.865, 0.713, 0.495, 0.323]
    assert list(CURVE.b) == sorted(CURVE.b, reverse=True)


@pytest.mark.parametrize("t_index", [(0,), (49,), (32, 45), (0, 16, 32, 49), (18, 22, 26, 30, 34, 38, 42, 46)])
def test_weights_are_the_formulas(t_index: tuple[int, ...]) -> None:
    schedule = CURVE.schedule(t_index)
    alphas = CURVE.alphas_cumprod.double().numpy()
    plain = Setup(alphas, t_index, text=alphas, negative=alphas, noise=[])
    assert (schedule.t_index, len(schedule), schedule.delay) == (t_index, len(t_index), len(t_index) - 1)
    for k in range(len(t_index)):
        assert schedule.timesteps[k] == plain.t(k)
        assert schedule.a[k] == pytest.approx(plain.a(k), rel=1e-12)
        assert schedule.b[k] == pytest.approx(plain.b(k), rel=1e-12)
        assert schedule.c_skip[k] == pytest.approx(plain.c_skip(k), rel=1e-12)
        assert schedule.c_out[k] == pytest.approx(plain.c_out(k), rel=1e-12)
        assert schedule.a[k] ** 2 + schedule.b[k] ** 2 == pytest.approx(1)


def test_the_boundary_is_plain_x0_prediction_at_every_index() -> None:
    schedule = CURVE.schedule(range(SPACING))
    assert 0 < max(schedule.c_skip) < 1e-5
    assert 1 - 1e-5 < min(schedule.c_out) <= 1
    assert schedule.c_skip[-1] == pytest.approx(0.25 / (190**2 + 0.25))


@pytest.mark.parametrize("strength", [i / 40 for i in range(41)])
def test_strength_is_a_share_of_b_within_one_index(strength: float) -> None:
    (i,) = CURVE.t_index(strength, 1)
    wanted = strength * CURVE.b[0]
    assert CURVE.b[min(i + 1, 49)] <= max(wanted, CURVE.b[49])
    assert CURVE.b[max(i - 1, 0)] >= min(wanted, CURVE.b[0])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_more_strength_never_means_less_noise(steps: int) -> None:
    chosen = [CURVE.t_index(i / 100, steps) for i in range(101)]
    for weaker, stronger in pairwise(chosen):
        assert all(s <= w for w, s in zip(weaker, stronger, strict=True))
    assert chosen[0][0] > chosen[-1][0] == 0


def test_half_the_strength_is_half_the_noise_and_not_half_the_index() -> None:
    assert CURVE.t_index(0.5, 1) == (40,)


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("strength", [0.0, 0.01, 0.2, 0.4, 0.999, 1.0])
def test_every_strength_and_number_of_steps_makes_a_schedule(strength: float, steps: int) -> None:
    t_index = CURVE.t_index(strength, steps)
    assert len(CURVE.schedule(t_index)) == steps


def test_further_steps_share_out_what_is_left_of_b() -> None:
    b = [CURVE.b[i] for i in CURVE.t_index(0.8, 4)]
    assert b == pytest.approx([0.8 * CURVE.b[0] * share for share in (1, 0.75, 0.5, 0.25)], abs=0.025)


@pytest.mark.parametrize("wrong", [(), (45, 32), (32, 32), (-1, 4), (0, 50)])
def test_a_wrong_list_of_indices_says_what_is_expected(wrong: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError) as error:
        CURVE.schedule(wrong)
    expected = f"t_index {list(wrong)} is not an increasing list of indices 0 to 49: use e.g. 32,45"
    assert str(error.value) == expected
