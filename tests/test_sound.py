"""Sound in step with the picture: when packets are due, who hears them, and flash and beep at a viewer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from aiortc.mediastreams import MediaStreamError

from web.media.listening import NONSENSE_S, Moments
from web.media.sound import QUEUED, RATE, SLEW, Heard, Listener, Sound, SoundTrack, Timeline

pytestmark = pytest.mark.anyio
PIECE = 960  # ticks of 20 ms


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# -------------------------------------------------------------------------------------------------------- the timeline


def lags(timeline: Timeline, wanted: Callable[[float], float], count: int) -> list[float]:
    """How long after 20 ms steps each packet is due."""
    return [timeline.due(k * PIECE, k / 50 + wanted(k / 50))[0] - k / 50 for k in range(count)]


def test_a_steady_way_holds_every_packet_alike() -> None:
    assert lags(Timeline(), lambda _: 0.15, 50) == pytest.approx([0.15] * 50)


def test_a_changed_way_is_followed_without_a_jump() -> None:
    found = lags(Timeline(), lambda at: 0.05 if at < 1 else 0.25 if at < 5 else 0.1, 400)
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert max(map(abs, steps)) == pytest.approx(SLEW / 50)
    assert found[49] == pytest.approx(0.05)
    assert found[249] == pytest.approx(0.25)
    assert found[-1] == pytest.approx(0.1)


def test_ticks_go_out_without_gaps_while_the_way_changes_and_anew_with_a_new_sender() -> None:
    timeline = Timeline()
    out = [timeline.due(k * PIECE, k / 50 + (0 if k < 10 else 0.3))[1] for k in range(40)]
    assert {after - before for before, after in itertools.pairwise(out)} == {PIECE}
    timeline.begin()
    moment, ticks = timeline.due(7, 40 / 50)
    assert (moment, ticks) == (pytest.approx(0.8), round(0.8 * RATE))


def test_a_clock_that_begins_anew_is_followed_at_once() -> None:
    timeline = Timeline()
    timeline.due(0, 1.0)
    assert timeline.due(RATE * 1000, 1.02)[0] == pytest.approx(1.02)


# ----------------------------------------------------------------------------------------------------------- the sound


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def heard(listener: Listener, count: int, timeout_s: float = 5) -> list[Heard]:
    async with asyncio.timeout(timeout_s):
        return [await anext(listener) for _ in range(count)]


def way(sound: Sound, clock: Clock, seconds: float) -> None:
    sound.shown(clock.now - seconds)


async def test_packets_come_in_order_when_they_are_due() -> None:
    clock, sound = Clock(), None
    sound = Sound(clock)
    listener, feed = sound.listen(), sound.feed()
    way(sound, clock, 0.05)
    for k in (1, 0, 2, 2):
        feed.put(b"%d" % k, k * PIECE, clock.now + k / 50)
    assert [h.data for h in await heard(listener, 3)] == [b"0", b"1", b"2"]
    assert sound.late == 1
    feed.put(b"old", 0, clock.now)
    assert sound.late == 2


async def test_the_moment_told_is_on_the_clock_of_the_pictures() -> None:
    clock = Clock()
    sound = Sound(clock)
    listener, feed = sound.listen(), sound.feed()
    way(sound, clock, 0.02)
    feed.put(b"a", 5, clock.now)
    feed.put(b"b", 5 + PIECE, clock.now + 0.02)
    got = await heard(listener, 2)
    assert [h.pts / RATE for h in got] == pytest.approx([100.02, 100.04], abs=1e-4)
    assert [h.captured_at for h in got] == [100.0, 100.02]


async def test_without_a_picture_there_is_no_sound() -> None:
    sound = Sound()
    sound.feed().put(b"a", 0, 0.0)
    assert sound._timer is None


async def test_the_newest_feed_counts() -> None:
    clock = Clock()
    sound = Sound(clock)
    listener, old = sound.listen(), sound.feed()
    way(sound, clock, 0.0)
    new = sound.feed()
    old.put(b"old", 0, clock.now)
    new.put(b"new", 99 * RATE, clock.now)
    assert [h.data for h in await heard(listener, 1)] == [b"new"]


async def test_a_listener_that_does_not_listen_loses_the_oldest() -> None:
    clock = Clock()
    sound = Sound(clock)
    slow, quick, feed = sound.listen(), sound.listen(), sound.feed()
    way(sound, clock, 0.0)
    for k in range(QUEUED + 5):
        feed.put(b"%d" % k, k * PIECE, clock.now - 1)
        await heard(quick, 1)
    assert slow.dropped == 5
    assert (await heard(slow, 1))[0].data == b"5"


async def test_the_end_ends_listeners_and_tracks() -> None:
    sound = Sound()
    listener, track = sound.listen(), SoundTrack(sound)
    ending = asyncio.create_task(listener.due())
    await asyncio.sleep(0)
    sound.close()
    with pytest.raises(StopAsyncIteration):
        await ending
    with pytest.raises(MediaStreamError):
        await track.recv()
    assert sound.listeners == 0
    assert [h async for h in sound.listen()] == []


# ------------------------------------------------------------------------------------------- when a packet was captured


class Video:
    """Of a `LiveReceiver`, what `Moments` reads."""

    behind_s: float | None = None


def test_before_the_reports_the_quickest_packet_counts() -> None:
    clock = Clock()
    moments = Moments(None, clock)
    late = [0.03, 0.0, 0.05, 0.01]
    found = []
    for k, more in enumerate(late):
        clock.now = 200 + k / 50 + more
        found.append(moments.of(k * PIECE) - k / 50)
    assert found == pytest.approx([200.03, 200.0, 200.0, 200.0])


def test_by_the_reports_sound_and_picture_are_put_side_by_side() -> None:
    """The sound came 80 ms later than the picture that was captured with it."""
    clock, video = Clock(), Video()
    moments = Moments(video, clock)  # type: ignore[arg-type]
    moments.clock.report((1000 + 2_208_988_800) * 2**32, 0)  # ticks 0 are the sender's second 1000
    video.behind_s = 50.0 - 1000  # whose pictures came in at 50
    clock.now = 50.08
    assert moments.of(0) == pytest.approx(50.0, abs=1e-3)
    clock.now = 50.08 + NONSENSE_S + 1  # the reports are off by more than can be
    moments = Moments(video, clock)  # type: ignore[arg-type]
    moments.clock.report((1000 + 2_208_988_800) * 2**32, 0)
    assert moments.of(0) == pytest.approx(clock.now)
