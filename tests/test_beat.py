"""The beat: taps, a MIDI clock that trembles, and the shapes that follow it. Time is an argument."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.control.beat import LIMITS, TAP_S, TICKS, Beat, Ticks
from stream.control.follow import SHAPES, Follow, wave
from stream.errors import ControlError, SettingsError

TEMPI = st.floats(30, 300)


def ticking(beat: Beat, bpm: float, count: int, begin: float = 100.0, jitter: list[float] | None = None) -> float:
    """Sends so many ticks of a clock; when the next one is due."""
    step = 60 / bpm / TICKS
    for n in range(count):
        beat.clock(begin + n * step + (jitter[n] if jitter else 0.0))
    return begin + count * step


# ------------------------------------------------------------------------------------------------- by hand


def test_before_anybody_says_a_tempo_there_is_one() -> None:
    facts = Beat().facts(10.0)
    assert (facts.bpm, facts.running, facts.lead) == (120.0, True, "none")


@given(TEMPI, st.floats(0, 1e6), st.integers(2, 30))
def test_taps_make_the_tempo(bpm: float, begin: float, count: int) -> None:
    beat, step = Beat(), 60 / bpm
    for n in range(count):
        beat.tap(begin + n * step)
    last = begin + (count - 1) * step
    assert beat.facts(last).bpm == pytest.approx(bpm, rel=1e-3)
    assert beat.position(last) == round(beat.position(last)), "a tap is on the beat"
    assert beat.position(last + step / 2) == pytest.approx(beat.position(last) + 0.5, abs=1e-2)


def test_one_tap_that_was_late_does_not_move_the_tempo() -> None:
    beat = Beat()
    for n, late in enumerate([0, 0, 0.12, 0, 0, 0, 0]):
        beat.tap(n * 0.5 + late)
    assert beat.facts(4.0).bpm == pytest.approx(120)


def test_after_a_pause_taps_begin_anew() -> None:
    beat = Beat()
    for at in (0.0, 0.5, 1.0):
        beat.tap(at)
    begin = 1.0 + TAP_S + 0.1
    beat.tap(begin)
    assert beat.facts(begin).bpm == pytest.approx(120), "one tap is no tempo"
    beat.tap(begin + 1.0)
    assert beat.facts(begin).bpm == pytest.approx(60), "and the old ones are forgotten"


def test_a_clock_that_goes_back_or_stands_breaks_nothing() -> None:
    beat = Beat()
    for at in (5.0, 5.0, 4.0, 4.0):
        beat.tap(at)
    assert LIMITS[0] <= beat.facts(5.0).bpm <= LIMITS[1]


@given(TEMPI, TEMPI, st.floats(0, 1e5), st.floats(0, 100))
def test_a_typed_tempo_goes_on_from_where_the_beat_is(one: float, other: float, at: float, later: float) -> None:
    beat = Beat()
    beat.set(one, 0.0, 0.0)
    before = beat.position(at)
    beat.set(other, at)
    assert beat.position(at) == pytest.approx(before)
    assert beat.position(at + later) == pytest.approx(before + later * other / 60)


@pytest.mark.parametrize("bpm", [0, -1, 19.9, 400.1, math.nan, math.inf])
def test_a_tempo_that_is_none(bpm: float) -> None:
    beat = Beat()
    with pytest.raises(ControlError, match="not between 20 and 400: use"):
        beat.set(bpm, 0.0)
    assert beat.facts(0.0).bpm == 120


# ------------------------------------------------------------------------------------------------- MIDI's clock


@given(st.floats(40, 240), st.integers(0, 2**32 - 1))
def test_a_trembling_clock_gives_a_steady_tempo(bpm: float, seed: int) -> None:
    """3 ms either way, as USB and a busy computer do it."""
    rng, beat = random.Random(seed), Beat()
    now = ticking(beat, bpm, 96, jitter=[rng.uniform(-0.003, 0.003) for _ in range(96)])
    assert beat.facts(now).bpm == pytest.approx(bpm, rel=0.012)
    assert beat.facts(now).lead == "midi"


def test_the_beat_of_a_trembling_clock_trembles_less_than_its_ticks() -> None:
    rng, beat, step = random.Random(7), Beat(), 60 / 128 / TICKS
    beat.start(99.99)
    errors = []
    for n in range(480):
        at = 100 + n * step + rng.uniform(-0.003, 0.003)
        beat.clock(at)
        if n > 48:
            errors.append(abs(beat.position(at) - (at - 100) / step / TICKS) * 60 / 128)
    assert max(errors) < 0.002, "seconds"
    assert sum(errors) / len(errors) < 0.0008, "of ticks that are 0.0015 off"


def test_start_is_the_first_beat_and_stop_stands() -> None:
    beat = Beat()
    now = ticking(beat, 120, 60)
    beat.start(now - 0.001)
    assert beat.position(now - 0.001) == 0.0
    end = ticking(beat, 120, 48, begin=now)
    assert beat.position(end) == pytest.approx(2.0, abs=0.01)
    beat.stop(end)
    assert beat.position(end + 10) == beat.position(end)
    assert not beat.facts(end + 10).running
    ticking(beat, 120, 12, begin=end + 10)
    assert beat.position(end + 11) == beat.position(end), "ticks of a clock that stands count nothing"


def test_continue_goes_on_from_there_and_a_song_position_from_elsewhere() -> None:
    beat = Beat()
    beat.start(0.0)
    end = ticking(beat, 120, 36, begin=0.0)
    beat.stop(end)
    held = beat.position(end)
    beat.go_on(5.0)
    again = ticking(beat, 120, 24, begin=5.0)
    assert beat.position(again) == pytest.approx(held + 1, abs=0.05)
    beat.stop(again)
    beat.locate(32, again)
    assert beat.position(again) == 8.0
    beat.go_on(10.0)
    assert beat.position(ticking(beat, 120, 24, begin=10.0)) == pytest.approx(9.0, abs=0.05)


def test_a_tempo_that_jumps_is_followed_within_a_beat() -> None:
    beat = Beat()
    now = ticking(beat, 90, 96)
    now = ticking(beat, 150, 24, begin=now)
    assert beat.facts(now).bpm == pytest.approx(150, rel=0.03)


def test_a_clock_that_was_pulled_and_comes_back_does_not_jump() -> None:
    beat = Beat()
    now = ticking(beat, 120, 96)
    back = now + 7.3
    expected = beat.position(back)
    ticking(beat, 120, 12, begin=back)
    assert beat.position(back) == pytest.approx(expected, abs=0.1)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=100))
def test_ticks_at_any_time_give_no_nonsense(times: list[float]) -> None:
    beat = Beat()
    for at in times:
        beat.clock(at)
        facts = beat.facts(at)
        assert LIMITS[0] <= facts.bpm <= LIMITS[1]
        assert math.isfinite(facts.position)


def test_too_few_ticks_are_no_tempo() -> None:
    ticks = Ticks()
    assert [ticks.tick(n * 0.02, 0.0) is None for n in range(7)] == [True] * 5 + [False] * 2


# ------------------------------------------------------------------------------------------------- followers


@given(st.sampled_from(SHAPES), st.floats(-1e5, 1e5))
def test_every_shape_stays_in_its_place_and_comes_again(shape: str, turn: float) -> None:
    made = wave(shape, turn)  # type: ignore[arg-type]
    assert 0 <= made <= 1
    part = turn - math.floor(turn)
    if 1e-6 < part < 1 - 1e-6 and abs(part - 0.5) > 1e-6:  # not where it jumps
        assert wave(shape, turn + 3) == pytest.approx(made, abs=1e-6)  # type: ignore[arg-type]


def test_the_shapes_on_and_between_the_beats() -> None:
    at = {shape: [round(wave(shape, turn), 3) for turn in (0, 0.25, 0.5, 0.75)] for shape in SHAPES}
    assert at == {
        "sine": [0, 0.5, 1, 0.5],
        "saw": [0, 0.25, 0.5, 0.75],
        "square": [1, 1, 0, 0],
        "pulse": [1, 0.422, 0.125, 0.016],
    }


@given(
    st.sampled_from(SHAPES),
    st.floats(0.0625, 256),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1e4),
)
def test_a_follower_stays_between_low_and_high(
    shape: str, beats: float, low: float, high: float, phase: float, position: float
) -> None:
    given_ = {"shape": shape, "beats": beats, "low": low, "high": high, "phase": phase}
    made = Follow.checked("strength", given_).value(position)
    assert min(low, high) - 1e-9 <= made <= max(low, high) + 1e-9


def test_a_follower_without_ends_takes_the_whole_range() -> None:
    made = Follow.checked("guidance_scale", {"shape": "saw"})
    assert (made.low, made.high, made.beats) == (1, 20, 4)


@pytest.mark.parametrize(
    ("setting", "given_", "error", "said"),
    [
        ("prompt", {}, ControlError, "prompt cannot follow the beat: use one of strength"),
        ("seed", {}, ControlError, "seed cannot follow"),
        ("width", {}, ControlError, "width cannot follow"),
        ("colour", {}, ControlError, "'colour' is not a setting: use one of prompt"),
        ("strength", {"high": 1.5}, SettingsError, "strength is 1.5: input should be less than or equal to 1"),
        ("strength", {"low": math.nan}, ControlError, "low of strength is nan"),
        ("strength", {"beats": 0}, ControlError, "beats of strength is 0"),
        ("strength", {"shape": "triangle"}, ControlError, "shape of strength is 'triangle'"),
        ("strength", {"speed": 1}, ControlError, "speed of strength"),
    ],
)
def test_followers_that_are_none(setting: str, given_: dict, error: type[Exception], said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error) as raised:
        Follow.checked(setting, given_)
    assert said in str(raised.value)


def test_the_picture_in_step_with_the_music_is_a_function_of_the_beat_alone() -> None:
    beat, follow = Beat(), Follow.checked("strength", {"shape": "saw", "beats": 1})
    beat.set(60, 0.0, 0.0)
    values = [follow.value(beat.position(n / 60)) for n in range(60)]
    assert all(b > a for a, b in pairwise(values))
    assert follow.value(beat.position(1.0)) == pytest.approx(0)
