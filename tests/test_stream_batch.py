"""The stream batch against the plain reference, and what it promises of order, rows and changes in flight."""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Counted, Predictor, Reference, gaussian, linear, point
from rig import ALPHAS, CPU, T_INDEX, Rig, arrivals, assert_same, entries, latent, plain, rig

from stream.denoise import Entry, Left, StreamBatch, draw_noise
from stream.guidance import Guidance, Prediction

GUIDANCES: tuple[Guidance, ...] = get_args(Guidance)
KINDS: tuple[Prediction, ...] = get_args(Prediction)


class Both:
    """One stream in the batch and in the reference; every tick compares them."""

    def __init__(self, predict: Predictor, kind: Prediction = "epsilon") -> None:
        self.counted = Counted(predict)
        self.batch = StreamBatch(self.counted, kind)
        self.reference = Reference(predict, kind)

    def tick(self, now: Rig, entering: Sequence[Entry], within: float = 1e-5) -> list[Left]:
        left = self.batch.tick({0: (now.steering, entering)})[0]
        assert_same(left, self.reference.tick(now.setup, arrivals(entering)), within)
        return left

    def flush(self, now: Rig, within: float = 1e-5) -> list[Left]:
        out = []
        while self.batch.in_flight(0):
            out += self.tick(now, [], within)
        return out


def tags(left: Sequence[Left]) -> list[Any]:
    """Tags of the frames themselves, early copies left out."""
    return [x.tag for x in left if not x.primed]


# ------------------------------------------------------------------------------------------------ the arithmetic


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_a_stream_is_what_the_reference_says(n: int, frames: int, guidance: Guidance, kind: Prediction) -> None:
    predict = gaussian(ALPHAS, kind, 0.6)
    for add_noise in (True, False):
        now = rig(T_INDEX[n], guidance=guidance, add_noise=add_noise, delta=0.9)
        both = Both(predict, kind)
        left = []
        for k in range(n + 2):
            left += both.tick(now, entries(range(k * frames, (k + 1) * frames)))
        left += both.flush(now)
        assert tags(left) == list(range((n + 2) * frames))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_denoiser_of_no_meaning_from_the_first_index_on(guidance: Guidance, kind: Prediction) -> None:
    """1/a is 15 at index 0, so errors of float32 are that much larger."""
    now = rig((0, 16, 32, 45), guidance=guidance, scale=1.3, delta=0.5)
    both = Both(linear, kind)
    for k in range(6):
        both.tick(now, entries([k]), within=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_point_mass_is_returned_whatever_the_guidance(n: int, guidance: Guidance, kind: Prediction) -> None:
    """`self` takes the input for the clean picture, so there the input is the point itself; elsewhere it is not."""
    target = latent(99)
    denoise = Counted(point(ALPHAS, kind, plain(target)))
    batch = StreamBatch(denoise, kind)
    now = rig(T_INDEX[n], guidance=guidance, scale=2.0)
    entering = target if guidance == "self" else latent(1)
    for k in range(n + 1):
        (left,) = batch.tick({0: (now.steering, [Entry(k, entering)])})[0]
        if not (left.primed and guidance in ("self", "initialize")):  # an early copy takes its input for clean, too
            torch.testing.assert_close(left.latent, target, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.05, 0.6, 1.0])
def test_one_step_on_gaussian_data_is_the_posterior_mean(spread: float) -> None:
    now = rig((32,))
    a, b = now.steering.schedule.a[0], now.steering.schedule.b[0]
    (left,) = StreamBatch(Counted(gaussian(ALPHAS, "v_prediction", spread)), "v_prediction").tick(
        {0: (now.steering, entries([5]))}
    )[0]
    x = a * latent(5) + b * now.steering.noise[0]
    mean = now.steering.text.tokens.mean()
    expected = mean + a * spread**2 / (a * a * spread**2 + b * b) * (x - a * mean)
    torch.testing.assert_close(left.latent, expected, atol=1e-5, rtol=1e-5)


def test_one_step_of_self_guidance_takes_delta_times_the_noise_for_the_unconditional() -> None:
    now = rig((40,), guidance="self", scale=2.0, delta=0.7)
    batch = StreamBatch(Counted(linear))
    schedule, noise = now.steering.schedule, now.steering.noise[0]
    for k in range(3):
        (left,) = batch.tick({0: (now.steering, entries([k]))})[0]
        x = schedule.a[0] * latent(k) + schedule.b[0] * noise
        said = torch.from_numpy(linear(plain(x), schedule.timesteps[0], now.setup.text)).float()
        eps = 0.7 * noise + 2.0 * (said - 0.7 * noise)
        torch.testing.assert_close(left.latent, (x - schedule.b[0] * eps) / schedule.a[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_scale_of_one_is_no_guidance_and_costs_nothing(guidance: Guidance) -> None:
    plainly, guided = rig(T_INDEX[3]), rig(T_INDEX[3], guidance=guidance, scale=1.0)
    one, two = Both(linear), Both(linear)
    for k in range(4):
        a, b = one.tick(plainly, entries([k])), two.tick(guided, entries([k]))
        assert torch.equal(a[0].latent, b[0].latent)
    assert one.counted.calls == two.counted.calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_denoiser_may_return_its_input(guidance: Guidance, kind: Prediction) -> None:
    """An echo is the fake that ships: what it returns must not be written into while it is still read."""
    now = rig((45, 49), guidance=guidance, scale=20.0)
    batch, reference = StreamBatch(lambda x, t, text: x, kind), Reference(lambda x, t, text: x, kind)
    for k in range(3):
        left = batch.tick({0: (now.steering, entries([k]))})[0]
        expected = reference.tick(now.setup, arrivals(entries([k])))
        assert_same(left, expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_what_the_denoiser_returned_is_left_alone(guidance: Guidance, kind: Prediction) -> None:
    returned: list[tuple[torch.Tensor, torch.Tensor]] = []

    def denoise(x: torch.Tensor, t: torch.Tensor, text: Any) -> torch.Tensor:
        out = 0.5 * x
        returned.append((out, out.clone()))
        return out

    batch = StreamBatch(denoise, kind)
    now = rig(guidance=guidance)
    for k in range(3):
        batch.tick({0: (now.steering, entries([k]))})
    assert all(torch.equal(out, copy) for out, copy in returned)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_half_precision_from_the_denoiser_becomes_float32(guidance: Guidance, kind: Prediction) -> None:
    batch = StreamBatch(lambda x, t, text: (0.1 * x).half(), kind)
    for k in range(3):
        (left,) = batch.tick({0: (rig(guidance=guidance).steering, entries([k]))})[0]
        assert left.latent.dtype == torch.float32


def test_the_boundary_lets_a_little_of_the_noisy_latent_through() -> None:
    """Where the clean latent is said to be 0, c_skip x is all that is left: 7e-6 of it at the last index."""
    now = rig((49,))
    (left,) = StreamBatch(lambda x, t, text: torch.zeros_like(x), "sample").tick({0: (now.steering, entries([0]))})[0]
    schedule = now.steering.schedule
    x = schedule.a[0] * latent(0) + schedule.b[0] * now.steering.noise[0]
    torch.testing.assert_close(left.latent, 0.25 / (190**2 + 0.25) * x, atol=0, rtol=1e-4)


# ------------------------------------------------------------------------------------------------ rows and calls


@pytest.mark.parametrize(("guidance", "more"), [("none", 0), ("self", 0), ("full", 4), ("initialize", 1)])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_rows_of_a_call(guidance: Guidance, more: int, frames: int) -> None:
    """n F rows; `self` adds none, `full` as many again, `initialize` those that enter. From the first tick on."""
    both, now = Both(linear), rig(T_INDEX[4], guidance=guidance)
    for k in range(6):
        both.tick(now, entries(range(k * frames, (k + 1) * frames)))
    assert both.counted.calls == [((4 + more) * frames, 4, 2, 3)] * 6


def test_unconditional_rows_are_given_the_negative_text() -> None:
    for guidance, negative in (("full", [599, 799]), ("initialize", [799]), ("self", []), ("none", [])):
        both, now = Both(linear), rig((10, 20), words=0.5, negative=-0.5, guidance=guidance)  # type: ignore[arg-type]
        both.tick(now, entries([0]))
        both.tick(now, entries([1]))
        seen = both.counted.rows[-1]
        assert sorted(t for t, words in seen if words == -0.5) == negative
        assert sorted(t for t, words in seen if words == 0.5) == [599, 799]


# ------------------------------------------------------------------------------------------------ order and delay


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_frame_leaves_the_reported_delay_after_it_entered(n: int, frames: int) -> None:
    both, now = Both(linear), rig(T_INDEX[n])
    assert now.steering.schedule.delay == n - 1
    for k in range(n + 3):
        left = both.tick(now, entries(range(k * frames, (k + 1) * frames)))
        came_in = max(k - (n - 1), 0)
        assert [x.tag for x in left] == list(range(came_in * frames, (came_in + 1) * frames))
        assert [x.primed for x in left] == [k < n - 1] * frames


def test_early_copies_are_the_first_frame_painted_from_a_later_step() -> None:
    """Nothing of noise alone: the k-th output is the first frame, entered at step n-1-k."""
    n, now = 4, rig(T_INDEX[4])
    both = Both(gaussian(ALPHAS, "epsilon", 0.6))
    for k in range(n - 1):
        (left,) = both.tick(now, entries([k]))
        from_there = rig(T_INDEX[4][n - 1 - k :])
        alone = Reference(both.reference.predict, "epsilon")
        from_there.setup.noise = now.setup.noise[n - 1 - k :]
        expected = [x for _ in range(k + 1) for x in alone.tick(from_there.setup, arrivals(entries([0])))]
        assert (left.tag, left.primed) == (0, True)
        torch.testing.assert_close(left.latent.double(), torch.from_numpy(expected[-1][1]), atol=1e-5, rtol=1e-5)


def test_ticks_without_frames_flush_what_is_in_flight_in_order() -> None:
    both, now = Both(linear), rig(T_INDEX[4])
    for k in range(5):
        both.tick(now, entries([k]))
        assert both.batch.in_flight(0) == list(range(max(k - 2, 0), k + 1))  # early copies are no frames
    assert both.batch.in_flight(0) == [2, 3, 4]
    assert [tags(both.tick(now, [])) for _ in range(4)] == [[2], [3], [4], []]
    assert both.batch.in_flight(0) == []
    assert len(both.counted.calls) == 5 + 3  # nothing in flight, nothing run


def test_a_stream_goes_on_after_it_was_flushed() -> None:
    both, now = Both(linear), rig(T_INDEX[3])
    both.tick(now, entries([0]))
    both.flush(now)
    assert [x.primed for k in (1, 2, 3) for x in both.tick(now, entries([k]))] == [True, True, False]


def test_an_unknown_stream_may_be_flushed_and_closed() -> None:
    batch = StreamBatch(Counted(linear))
    assert batch.tick({"who": (rig().steering, [])}) == {"who": []}
    assert batch.in_flight("nobody") == []
    batch.close("nobody")


def test_frames_of_one_tick_leave_together_though_their_number_changes() -> None:
    both, now = Both(linear), rig(T_INDEX[3])
    left = [both.tick(now, entries(t)) for t in ([0, 1], [2], [3, 4, 5], [6], [])]
    assert [[x.tag for x in out] for out in left] == [[0, 1], [0, 1], [0, 1], [2], [3, 4, 5]]


# ------------------------------------------------------------------------------------------------ from noise alone


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_text_mode_starts_from_noise_alone(n: int, guidance: Guidance) -> None:
    both, now = Both(linear), rig(T_INDEX[n], guidance=guidance)
    left = [x for k in range(n + 2) for x in both.tick(now, [Entry(k, None)])]
    assert [(x.tag, x.primed) for x in left] == [(0, True)] * (n - 1) + [(0, False), (1, False), (2, False)]
    assert torch.equal(left[n - 1].latent, left[n].latent)  # held noise, the same text: the same picture


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_frame_may_bring_its_own_noise(guidance: Guidance) -> None:
    """It is that frame's noise_0, so it is its residual noise as well."""
    both, now = Both(linear), rig(T_INDEX[2], guidance=guidance)
    for k in range(4):
        both.tick(now, [Entry(k, None, noise=latent(50 + k))])


def test_noise_is_the_seeds_and_more_steps_leave_the_first_ones_alone() -> None:
    few, many = draw_noise(3, 2, (4, 2, 3), CPU), draw_noise(3, 4, (4, 2, 3), CPU)
    assert torch.equal(few, many[:2])
    assert not torch.equal(few, draw_noise(4, 2, (4, 2, 3), CPU))
    assert not torch.equal(many[0], many[1])


def test_a_still_input_gives_a_still_picture() -> None:
    for guidance in GUIDANCES:
        both, now = Both(linear), rig(T_INDEX[3], guidance=guidance)
        left = [x for k in range(6) for x in both.tick(now, [Entry(k, latent(0))]) if not x.primed]
        assert all(torch.equal(x.latent, left[0].latent) for x in left)


# ------------------------------------------------------------------------------------------------ many streams

MANY: dict[Hashable, tuple[Rig, int]] = {
    "a": (rig(T_INDEX[1]), 1),
    "b": (rig(T_INDEX[4], words=0.9, seed=1, guidance="self", scale=1.4), 1),
    "c": (rig(T_INDEX[2], words=-0.6, seed=2, guidance="full", scale=2.0, delta=0.5), 2),
    "d": (rig(T_INDEX[3], words=0.1, seed=3, guidance="initialize", add_noise=False), 1),
    "e": (rig(T_INDEX[2], words=0.2, seed=4, size=(3, 2)), 3),
}


def test_streams_together_are_what_each_is_alone() -> None:
    """Joining, leaving, skipping ticks, of two sizes: one call a tick and size, and nobody sees another's rows."""
    predict = gaussian(ALPHAS, "v_prediction", 0.6)
    counted, rng = Counted(predict), random.Random(0)
    batch = StreamBatch(counted, "v_prediction")
    alone: dict[Hashable, Reference] = {}
    tag = itertools.count()
    for _ in range(40):
        entering: dict[Hashable, list[Entry]] = {}
        for stream, (now, frames) in rng.sample(sorted(MANY.items()), len(MANY)):
            chance = rng.random()
            if chance < 0.1:
                batch.close(stream)
                alone.pop(stream, None)
            elif chance < 0.7:
                size = (now.steering.noise.shape[2], now.steering.noise.shape[3])
                entering[stream] = entries([next(tag) for _ in range(frames if chance > 0.2 else 0)], size)
        before = len(counted.calls)
        left = batch.tick({s: (MANY[s][0].steering, e) for s, e in entering.items()})
        assert list(left) == list(entering)
        for stream, e in entering.items():
            reference = alone.setdefault(stream, Reference(predict, "v_prediction"))
            assert_same(left[stream], reference.tick(MANY[stream][0].setup, arrivals(e)))
        shapes = [c[1:] for c in counted.calls[before:]]
        assert len(shapes) == len(set(shapes)) <= 2


def test_streams_of_one_size_share_one_call() -> None:
    counted = Counted(linear)
    batch = StreamBatch(counted)
    streams = [rig(T_INDEX[n], words=n / 10, seed=n) for n in (1, 2, 3, 4)]
    for k in range(3):
        batch.tick({s: (now.steering, entries([k])) for s, now in enumerate(streams)})
    assert counted.calls == [(1 + 2 + 3 + 4, 4, 2, 3)] * 3


def test_a_stream_that_skips_a_tick_stays_where_it_is() -> None:
    batch, now = StreamBatch(Counted(linear)), rig(T_INDEX[3])
    alone, other = Both(linear), rig(T_INDEX[2], seed=9)
    for k in range(8):
        batch.tick({"other": (other.steering, entries([100 + k]))})
        if k % 3 == 0:
            (left,) = batch.tick({"it": (now.steering, entries([k])), "other": (other.steering, [])})["it"]
            (expected,) = alone.tick(now, entries([k]))
            torch.testing.assert_close(left.latent, expected.latent, atol=1e-6, rtol=1e-6)


def test_a_closed_stream_starts_anew() -> None:
    batch, now = StreamBatch(Counted(linear)), rig(T_INDEX[2])
    batch.tick({0: (now.steering, entries([0]))})
    batch.close(0)
    assert batch.in_flight(0) == []
    assert [(x.tag, x.primed) for x in batch.tick({0: (now.steering, entries([7]))})[0]] == [(7, True)]


def test_streams_may_be_anything_that_hashes() -> None:
    streams: list[Hashable] = [1, "x", (2, 3), object()]
    batch = StreamBatch(Counted(linear))
    left = batch.tick({s: (rig((40,)).steering, entries([k])) for k, s in enumerate(streams)})
    assert [left[s][0].tag for s in streams] == [0, 1, 2, 3]


# ------------------------------------------------------------------------------------------------ changes in flight

BASE = rig(T_INDEX[3], guidance="self")
CHANGED = {
    "prompt": rig(T_INDEX[3], words=-0.9, guidance="self"),
    "negative prompt": rig(T_INDEX[3], negative=0.8, guidance="self"),
    "seed": rig(T_INDEX[3], seed=5, guidance="self"),
    "t_index": rig((20, 30, 44), guidance="self"),
    "scale": rig(T_INDEX[3], guidance="self", scale=3.0),
    "delta": rig(T_INDEX[3], guidance="self", delta=0.3),
    "add_noise": rig(T_INDEX[3], guidance="self", add_noise=False),
    "no guidance": rig(T_INDEX[3]),
    "full": rig(T_INDEX[3], guidance="full"),
    "initialize": rig(T_INDEX[3], guidance="initialize"),
    "size": rig(T_INDEX[3], guidance="self", size=(3, 2)),
    "one step": rig(T_INDEX[1], guidance="self"),
    "two steps": rig(T_INDEX[2], guidance="self"),
    "four steps": rig(T_INDEX[4], guidance="self"),
    "eight steps": rig(T_INDEX[8], guidance="self"),
}


def run_through(change: Rig) -> tuple[Both, list[list[Left]]]:
    """Four frames under BASE, four changed, four under BASE again, and the rest."""
    both, left = Both(linear), []
    for k in range(12):
        now = change if 4 <= k < 8 else BASE
        size = (now.steering.noise.shape[2], now.steering.noise.shape[3])
        left.append(both.tick(now, entries([k], size)))
    left.append(both.flush(BASE))
    return both, left


@pytest.mark.parametrize("what", CHANGED)
def test_a_change_in_flight_leaves_no_gap_and_every_frame_once_in_order(what: str) -> None:
    _, left = run_through(CHANGED[what])  # every latent compared with the reference on the way
    assert all(left)
    assert tags([x for out in left for x in out]) == list(range(12))


@pytest.mark.parametrize("what", CHANGED)
def test_frames_that_entered_before_a_change_leave_as_if_there_had_been_none(what: str) -> None:
    """Only fewer steps touch them, and only by letting them leave sooner."""
    change = CHANGED[what]
    both, undisturbed = Both(linear), Both(linear)
    for k in range(4):
        both.tick(BASE, entries([k]))
        undisturbed.tick(BASE, entries([k]))
    size = (change.steering.noise.shape[2], change.steering.noise.shape[3])
    found = {x.tag: x for k in range(4, 12) for x in both.tick(change, entries([k], size)) if not x.primed}
    expected = [undisturbed.tick(BASE, entries([k]))[0] for k in (4, 5)]
    if len(change.steering.schedule) >= 3:
        for x in expected:
            torch.testing.assert_close(found[x.tag].latent, x.latent, atol=1e-6, rtol=1e-6)
    assert set(found) >= {2, 3}


@pytest.mark.parametrize("what", [w for w in CHANGED if "step" not in w and w not in ("size", "full", "initialize")])
def test_a_change_costs_no_row_more(what: str) -> None:
    both, _ = run_through(CHANGED[what])
    assert both.counted.calls == [(3, 4, 2, 3)] * 12 + [(2, 4, 2, 3), (1, 4, 2, 3)]


def test_a_row_in_flight_keeps_its_text_and_its_timesteps() -> None:
    both = Both(linear)
    before, after = rig((10, 20, 30), words=0.5), rig((11, 21, 31), words=-0.5)
    for k in range(3):
        both.tick(before, entries([k]))
    for k in range(3, 6):
        both.tick(after, entries([k]))
    old, new = [(799.0, 0.5), (599.0, 0.5), (399.0, 0.5)], [(779.0, -0.5), (579.0, -0.5), (379.0, -0.5)]
    assert [sorted(rows) for rows in both.counted.rows[2:]] == [
        sorted(old), sorted([new[0], *old[1:]]), sorted([*new[:2], old[2]]), sorted(new),
    ]  # fmt: skip


def test_fewer_steps_let_frames_in_flight_leave_with_the_next_one_at_the_latest() -> None:
    both = Both(linear)
    for k in range(5):
        both.tick(rig(T_INDEX[4]), entries([k]))
    assert tags(both.tick(rig(T_INDEX[1]), entries([5]))) == [2, 3, 4, 5]
    assert tags(both.tick(rig(T_INDEX[1]), entries([6]))) == [6]


def test_more_steps_fill_the_ticks_between_with_early_copies() -> None:
    both = Both(linear)
    for k in range(3):
        both.tick(rig(T_INDEX[2]), entries([k]))
    left = [both.tick(rig(T_INDEX[4]), entries([k])) for k in range(3, 8)]
    assert [[(x.tag, x.primed) for x in out] for out in left] == [
        [(2, False)], [(3, True)], [(3, True)], [(3, False)], [(4, False)],
    ]  # fmt: skip


def test_another_size_in_flight_makes_one_call_a_size_and_scatters_back() -> None:
    both = Both(linear)
    small, large = rig(T_INDEX[3]), rig(T_INDEX[3], size=(4, 5))
    for k in range(3):
        both.tick(small, entries([k]))
    both.tick(large, entries([3], (4, 5)))
    assert both.counted.calls[3:] == [(1, 4, 4, 5), (2, 4, 2, 3)] or both.counted.calls[3:] == [
        (2, 4, 2, 3), (1, 4, 4, 5),
    ]  # fmt: skip


def test_frames_that_leave_sooner_than_planned_are_not_taken_for_those_that_go_on() -> None:
    """The rows of the old size are the same in both flushes, but in the first one they all leave at once."""
    both, now = Both(linear), rig(T_INDEX[4])
    for k in range(4):
        both.tick(now, entries([k]))
    both.tick(rig(T_INDEX[2], size=(3, 2)), entries([4], (3, 2)))
    assert tags(both.tick(now, [])) == [2, 3, 4]
    for k in range(5, 9):
        both.tick(now, entries([k]))
    assert tags(both.flush(now)) == [6, 7, 8]


def test_settings_that_share_a_schedule_are_not_taken_for_each_other() -> None:
    one = rig(T_INDEX[2], words=0.9)
    two = rig(T_INDEX[2], words=-0.9)
    two = two._replace(steering=replace(two.steering, schedule=one.steering.schedule))
    both = Both(linear)
    for k in range(12):
        both.tick(two if k % 6 > 2 else one, entries([k]))


CHANGES = st.tuples(
    st.sampled_from(sorted(T_INDEX)), st.sampled_from(GUIDANCES), st.integers(0, 1), st.booleans(),
    st.sampled_from([(2, 3), (3, 2)]), st.sampled_from([1.0, 1.5, 4.0]),
)  # fmt: skip
TICKS = st.lists(st.tuples(st.integers(0, 3), st.none() | CHANGES), min_size=1, max_size=14)


@given(TICKS, st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_of_changes_keeps_order_and_every_frame_once(
    ticks: list[tuple[int, tuple[Any, ...] | None]], kind: Prediction
) -> None:
    both, now, size, tag = Both(gaussian(ALPHAS, kind, 0.6), kind), rig(), (2, 3), 0
    left: list[Left] = []
    for frames, change in ticks:
        if change is not None:
            n, guidance, seed, add_noise, size, scale = change
            now = rig(T_INDEX[n], seed=seed, size=size, guidance=guidance, add_noise=add_noise, scale=scale)
        out = both.tick(now, entries(range(tag, tag + frames), size), within=1e-3)
        assert out or not frames
        assert len(both.batch.in_flight(0)) <= 3 * 7
        tag, left = tag + frames, left + out
    left += both.flush(now, within=1e-3)
    assert tags(left) == list(range(tag))
