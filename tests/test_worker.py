"""The worker process and its supervisor: frames go through, settings change, and it comes back from every death.

Every test runs real processes. Most use a worker that paints nothing; the last ones the built-in model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from waiting import comes_to, run, until
from workers import QUICK, ROOT, SMALL, Ear, alive, fds, fed, frame, painted, shared, working

from stream import supervisor as supervisor_module
from stream.config import ModelSpec, spec
from stream.frame import Frame
from stream.live import Counts, Stream
from stream.memory import kills, out_of_memory, smaller
from stream.messages import Measured
from stream.settings import Settings
from stream.supervisor import Facts, Fake, Limits, Painted, Plan, Supervisor
from stream.wire import Unpacker, packed

# ------------------------------------------------------------------------------------------------- frames


def test_frames_come_back_under_their_clock_in_the_settings_size() -> None:
    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            stream = supervisor.open(Settings(width=96, height=64), ear)
            sent = Frame(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8), 4321, captured_at=1.5)
            await until(lambda: ear.answers)
            stream.put(sent)
            await until(lambda: ear.pictures)
            stream.put(frame(200, 640, 480))
            await until(lambda: len(ear.pictures) == 2)
        first, second = ear.pictures
        assert (first.frame.image == sent.image).all()
        assert (first.frame.pts, first.frame.time_base, first.frame.captured_at) == (4321, sent.time_base, 1.5)
        assert not first.repeated
        assert not first.primed
        assert first.engine_ms >= 0
        assert second.frame.size == (96, 64)
        assert (second.frame.image == 200).all()
        assert stream.counts == replace(stream.counts, put=2, painted=2, overwritten_in=0, overwritten_out=0)

    run(test())


def test_newest_wins_and_every_frame_is_counted() -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake(delay_ms=40))) as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            for pts in range(1, 61):
                stream.put(frame(pts, pts=pts))
                await asyncio.sleep(0.005)
            await until(lambda: ear.pictures[-1].frame.pts == 60)
            counts, seen = stream.counts, [p.frame.pts for p in ear.pictures if p.frame.pts]
        assert seen == sorted(set(seen))
        assert len(seen) < 30
        assert counts.painted == len(ear.pictures)
        assert counts.put == counts.painted + counts.overwritten_in + counts.overwritten_out

    run(test())


def test_an_early_frame_waits_for_nobody_and_is_counted() -> None:
    """With no worker at all, a stream takes frames and forgets them."""
    stream = Supervisor(Plan(fake=Fake())).open(SMALL, Ear())
    stream.put(frame(1))
    assert (stream.counts.put, stream.counts.overwritten_in) == (1, 1)
    stream.apply(SMALL.changed(seed=5))
    assert stream.settings.seed == 5
    stream.close()
    stream.close()


def test_two_streams_are_never_mixed() -> None:
    """Two streams of two sizes, as fast as they go: no picture of one in the other, none torn."""

    async def test() -> None:
        async with working() as supervisor:
            ears = [Ear(), Ear()]
            settings = [Settings(width=64, height=64), Settings(width=128, height=64)]
            streams = [supervisor.open(s, ear) for s, ear in zip(settings, ears, strict=True)]
            await until(lambda: all(e.answers for e in ears))
            for i in range(600):
                for k, stream in enumerate(streams):  # one is even, the other odd
                    stream.put(frame(2 * (i % 100) + k, *((64, 64), (128, 64))[k], pts=i))
                await asyncio.sleep(0.001)
            await until(lambda: all(e.pictures and e.pictures[-1].frame.pts == 599 for e in ears))
        for k, ear in enumerate(ears):
            assert len(ear.pictures) > 50
            for picture in ear.pictures:
                assert picture.frame.size == (settings[k].width, settings[k].height)
                assert (picture.frame.image == 2 * (picture.frame.pts % 100) + k).all()

    run(test())


def test_a_streams_memory_is_lent_to_the_next_without_its_pictures() -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake(delay_ms=3))) as supervisor:
            places = set()
            for value in range(40):
                ear = Ear()
                stream = supervisor.open(SMALL, ear)
                places |= {address.place.offset for address in stream._line.addresses}
                for _ in range(value % 5):  # some are closed before they were even opened in the worker
                    stream.put(frame(value))
                    await asyncio.sleep(0.01)
                stream.put(frame(value))
                stream.close()
                assert all((p.frame.image == value).all() for p in ear.pictures)
            assert len(places) < 30
            await until(lambda: not supervisor._closing)

    run(test())


def test_frames_may_come_from_other_threads() -> None:
    async def test() -> None:
        async with working() as supervisor:
            ears = [Ear() for _ in range(3)]
            streams = [supervisor.open(SMALL, ear) for ear in ears]
            await until(lambda: all(e.answers for e in ears))

            def pump(stream: Stream) -> None:
                for pts in range(200):
                    stream.put(frame(pts % 256, pts=pts))
                    time.sleep(0.001)

            threads = [threading.Thread(target=pump, args=[s]) for s in streams]
            for thread in threads:
                thread.start()
            await until(lambda: all(e.pictures and e.pictures[-1].frame.pts == 199 for e in ears))
            for thread in threads:
                thread.join()
            for stream in streams:
                c = stream.counts
                assert c.put == 200 == c.painted + c.overwritten_in + c.overwritten_out

    run(test())


def test_repeated_pictures_are_told_apart() -> None:
    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL.changed(similarity=True, similarity_threshold=0.5, max_skip=1000), ear)
            await until(lambda: ear.answers)

            def skipped() -> bool:
                stream.put(frame(100))
                return any(p.repeated for p in ear.pictures) and stream.skip_rate > 0

            await until(skipped)
            assert stream.counts.skipped == sum(p.repeated for p in ear.pictures)
            assert 0 < supervisor.facts.skip_rate <= 1

    run(test())


def test_a_listener_that_fails_does_not_stop_the_pictures(caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(Ear):
        def painted(self, picture: Painted) -> None:
            super().painted(picture)
            raise ValueError("clumsy")

    async def test() -> None:
        async with working() as supervisor:
            ear = Clumsy()
            await painted(supervisor.open(SMALL, ear), ear, 3)

    run(test())
    assert "clumsy" in caplog.text


# ------------------------------------------------------------------------------------------------- settings


def settled(c: Counts) -> bool:
    """Whether every frame that was put has come to its end; none may have come to two."""
    ended = c.painted + c.overwritten_in + c.overwritten_out
    assert ended <= c.put, c
    return ended == c.put


def test_settings_change_while_frames_fly() -> None:
    """Sizes go up and down while another thread puts frames; every picture is whole, and the last size is seen."""

    async def test() -> None:
        async with working() as supervisor:
            ear, done = Ear(), threading.Event()
            stream = supervisor.open(SMALL, ear)

            def pump() -> None:
                while not done.is_set():
                    stream.put(frame(7, 320, 240))
                    time.sleep(0.002)

            thread = threading.Thread(target=pump)
            thread.start()
            try:
                for width, height in ((256, 128), (512, 512), (64, 64), (1024, 512), (128, 128)):
                    stream.apply(SMALL.changed(width=width, height=height))
                    await until(lambda size=(width, height): ear.pictures and ear.pictures[-1].frame.size == size)
            finally:
                done.set()
                thread.join()
            assert {e for _, e in ear.answers} == {None}
            assert all((p.frame.image == 7).all() for p in ear.pictures)
            await until(lambda: settled(stream.counts))

    run(test())


def test_wrong_settings_keep_the_old_ones() -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake(multiple=64))) as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            assert supervisor.facts.multiple == 64
            stream.apply(SMALL.changed(width=72))
            await until(lambda: len(ear.answers) == 2)
            assert ear.answers[1] == (SMALL, "width 72 is not a multiple of 64: use 64")
            assert stream.settings == SMALL
            await painted(stream, ear)
            assert ear.pictures[-1].frame.size == (64, 64)

    run(test())


def test_a_stream_whose_first_settings_are_refused_can_be_given_others() -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake(multiple=64))) as supervisor:
            ear = Ear()
            wrong = SMALL.changed(width=72)
            stream = supervisor.open(wrong, ear)
            await until(lambda: ear.answers)
            assert ear.answers == [(wrong, "width 72 is not a multiple of 64: use 64")]
            stream.put(frame(1))
            stream.apply(SMALL.changed(width=256, height=256))
            await painted(stream, ear)
            assert ear.pictures[-1].frame.size == (256, 256)

    run(test())


def test_of_questions_in_a_hurry_only_the_newest_is_answered() -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake(prepare_ms=200))) as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await until(lambda: ear.answers)
            for width in range(72, 72 + 8 * 50, 8):
                stream.apply(SMALL.changed(width=width))
            newest = stream.settings
            await until(lambda: len(ear.answers) == 2)
            await asyncio.sleep(0.3)
            assert ear.answers[1:] == [(newest, None)]
            await painted(stream, ear)
            assert ear.pictures[-1].frame.size == (newest.width, newest.height)

    run(test())


def test_a_closed_stream_hears_nothing_more() -> None:
    async def test() -> None:
        async with working(Plan(fake=Fake(delay_ms=50))) as supervisor:
            ear, other = Ear(), Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            stream.put(frame(1))
            stream.close()
            heard = len(ear.pictures)
            stream.put(frame(2))
            stream.apply(SMALL.changed(seed=3))
            await painted(supervisor.open(SMALL, other), other, 3)
            assert len(ear.pictures) == heard
            assert len(ear.answers) == 1

    run(test())


# ------------------------------------------------------------------------------------------------- deaths


@pytest.mark.alone
def test_a_death_is_noticed_at_once() -> None:
    """In 50 ms, on a machine that has the time; the best of three."""

    async def test() -> None:
        took = []
        async with working() as supervisor:
            for k in range(3):
                told = asyncio.Event()
                leave = supervisor.watch(told.set)
                start = time.monotonic()
                os.kill(supervisor.pid or 0, signal.SIGKILL)
                await told.wait()
                took.append(time.monotonic() - start)
                assert supervisor.state == "restarting"
                leave()
                await until(lambda k=k: supervisor.restarts == k + 1 and supervisor.state == "ready")
        assert min(took) < 1

    run(test())


def test_a_killed_worker_comes_back_with_the_settings() -> None:
    async def test() -> None:
        async with working() as supervisor:
            ears = [Ear(), Ear()]
            streams = [supervisor.open(SMALL.changed(width=64 * (k + 1)), ears[k]) for k in range(2)]
            for stream, ear in zip(streams, ears, strict=True):
                await painted(stream, ear, 2)
            streams[0].apply(SMALL.changed(prompt="changed", height=128))
            await until(lambda: len(ears[0].answers) == 2)
            first = supervisor.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda: supervisor.state == "restarting")
            heard = [len(ear.pictures) for ear in ears]
            streams[0].put(frame(1))  # nobody takes it
            await asyncio.sleep(0.01)
            assert [len(ear.pictures) for ear in ears] == heard
            for stream, ear in zip(streams, ears, strict=True):
                await painted(stream, ear, 2)
            assert supervisor.state == "ready"
            assert supervisor.restarts == 1
            assert supervisor.pid not in (first, None)
            assert not alive(first)
            assert ears[0].answers[-1] == (streams[0].settings, None)
            assert streams[0].settings.prompt == "changed"
            assert ears[0].pictures[-1].frame.size == (64, 128)
            assert ears[1].pictures[-1].frame.size == (128, 64)

    run(test())


def test_a_hung_worker_is_killed_and_comes_back() -> None:
    async def test() -> None:
        async with working(limits=replace(QUICK, tick_s=0.3)) as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            first, notices = supervisor.pid, []
            supervisor.watch(lambda: notices.append(supervisor.notice))
            supervisor.fault("hang")
            await fed(stream, lambda: supervisor.state == "restarting")
            await painted(stream, ear)
            assert supervisor.pid != first
            assert any("hung (tick" in notice for notice in notices)

    run(test())


def test_a_tick_that_raises_is_dropped_and_the_streams_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            pid = supervisor.pid
            supervisor.fault("raise")
            await painted(stream, ear, 5)
            assert stream.counts.failed == 1
            assert ear.failures == ["RuntimeError: asked to fail"]
            assert (supervisor.pid, supervisor.restarts) == (pid, 0)

    run(test())
    assert "asked to fail" in caplog.text  # the worker's log, with the traceback
    assert "Traceback" in caplog.text


def test_three_failed_ticks_in_a_row_end_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            for _ in range(3):
                supervisor.fault("raise")
            await fed(stream, lambda: supervisor.restarts == 1)
            assert stream.counts.failed == 3
            await painted(stream, ear)

    run(test())
    assert "(exit code 1: RuntimeError: asked to fail)" in caplog.text


def test_a_worker_that_exits_comes_back() -> None:
    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            supervisor.fault("exit")
            await fed(stream, lambda: supervisor.restarts == 1)
            await painted(stream, ear)

    run(test())


def test_memory_that_runs_out_steps_the_largest_stream_down() -> None:
    async def test() -> None:
        async with working() as supervisor:
            big, small = Ear(), Ear()
            streams = [supervisor.open(SMALL.changed(width=512, height=512), big), supervisor.open(SMALL, small)]
            await painted(streams[0], big)
            await painted(streams[1], small)
            for size in ((384, 384), (288, 288)):
                supervisor.fault("memory")
                await fed(streams[1], lambda size=size: (streams[0].settings.width, streams[0].settings.height) == size)
                assert big.answers[-1][0] == streams[0].settings
                await painted(streams[0], big)
                assert big.pictures[-1].frame.size == size
            await painted(streams[1], small)
            assert small.pictures[-1].frame.size == (64, 64)
            assert big.notices == [
                "memory ran out at 512x512: 384x384 instead",
                "memory ran out at 384x384: 288x288 instead",
            ]
            assert not small.notices
            assert supervisor.restarts == 0
            os.kill(supervisor.pid or 0, signal.SIGKILL)  # the next worker is not asked for too much again
            await until(lambda: supervisor.restarts == 1)
            await painted(streams[0], big)
            assert big.pictures[-1].frame.size == (288, 288)

    run(test())


def test_where_everything_is_small_the_newest_stream_goes_and_comes_back_when_there_is_room() -> None:
    async def test() -> None:
        async with working() as supervisor:
            ears = [Ear(), Ear()]
            old, new = [supervisor.open(SMALL, ear) for ear in ears]
            await painted(old, ears[0])
            await painted(new, ears[1])
            supervisor.fault("memory")
            await fed(old, lambda: ears[1].notices)
            assert "memory ran out: 64x64 cannot be painted beside the others" in ears[1].notices
            await painted(old, ears[0])
            heard = len(ears[1].pictures)
            new.put(frame(2))
            await painted(old, ears[0], 3)
            assert len(ears[1].pictures) == heard
            old.close()
            await painted(new, ears[1])

    run(test())


def test_a_worker_that_the_system_kills_for_memory_gets_less_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]
    monkeypatch.setattr(supervisor_module, "kills", lambda: count[0])

    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL.changed(width=512, height=512), ear)
            await painted(stream, ear)
            count[0] += 1
            os.kill(supervisor.pid or 0, signal.SIGKILL)
            await until(lambda: supervisor.restarts == 1)
            await painted(stream, ear)
            assert ear.pictures[-1].frame.size == (384, 384)
            assert ear.notices == ["memory ran out at 512x512: 384x384 instead"]

    run(test())


def test_what_counts_as_running_out_of_memory() -> None:
    torchs = type("OutOfMemoryError", (RuntimeError,), {})
    assert out_of_memory(MemoryError())
    assert out_of_memory(torchs())
    assert out_of_memory(RuntimeError("Exception from src/inference: std::bad_alloc"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory(ValueError("bad_alloc"))
    assert kills() >= 0


def test_steps_down_keep_the_multiple_and_end() -> None:
    sizes, settings = [], Settings(width=1024, height=576)
    while (less := smaller(settings, 64)) is not None:
        sizes.append((less.width, less.height))
        settings = less
    assert sizes == [(768, 384), (576, 256), (384, 192), (256, 128)]


@pytest.mark.parametrize("fail", ["exit", "raise", "memory"])
def test_a_worker_that_never_gets_ready_is_given_up_with_the_reason(fail: str) -> None:
    async def test() -> None:
        limits = replace(QUICK, attempts=2)
        async with working(Plan(fake=Fake(fail=fail)), limits, ready=False) as supervisor:
            await until(lambda: supervisor.state == "failed")
            assert supervisor.pid is None
            assert supervisor.restarts == 1
            reasons = {
                "exit": "the painter stopped (exit code 3)",
                "raise": "RuntimeError: asked to fail",
                "memory": "memory ran out while pass-through was loading",
            }
            assert reasons[fail] in supervisor.notice
            stream = supervisor.open(SMALL, Ear())  # a failed supervisor still has streams; nothing comes
            stream.put(frame(1))
            stream.close()

    run(test())


def test_a_worker_that_hangs_while_loading_is_killed() -> None:
    async def test() -> None:
        limits = replace(QUICK, attempts=1, loading_s=1.0, idle_s=1.0)
        async with working(Plan(fake=Fake(fail="hang")), limits, ready=False) as supervisor:
            await until(lambda: supervisor.state == "failed")
            assert "hung (loading" in supervisor.notice

    run(test())


def test_long_preparations_are_no_hang() -> None:
    async def test() -> None:
        limits = replace(QUICK, tick_s=0.1, idle_s=0.6)
        async with working(Plan(fake=Fake(load_ms=700, prepare_ms=1000)), limits) as supervisor:
            ear, notices = Ear(), []
            supervisor.watch(lambda: notices.append(supervisor.notice))
            await painted(supervisor.open(SMALL, ear), ear)
            await until(lambda: notices == ["the painter is getting ready for other settings", ""])
            assert supervisor.restarts == 0

    run(test())


def test_limits_follow_what_is_done_and_the_back_off_grows() -> None:
    limits = Limits()
    assert [limits.wait(n) for n in range(1, 8)] == [0.1, 1, 2, 4, 8, 8, 8]
    beat = supervisor_module.Beat
    assert limits.allowed(beat(1, "tick", 0.03)) == 2
    assert limits.allowed(beat(1, "tick", 5.0)) == 50  # a slow machine is no hung one
    assert limits.allowed(beat(1, "preparing", 0)) == 120
    assert limits.allowed(beat(1, "loading", 0)) == 600


def test_the_back_off_waits_and_starts_anew_after_good_health() -> None:
    async def restarts(limits: Limits, times: int) -> float:
        async with working(limits=limits) as supervisor:
            start = time.monotonic()
            for k in range(times):
                os.kill(supervisor.pid or 0, signal.SIGKILL)
                await until(lambda k=k: supervisor.restarts == k + 1 and supervisor.state == "ready")
            return time.monotonic() - start

    async def test() -> None:
        limits = Limits(backoff_s=(0.0, 20.0), healthy_s=0.0, check_s=0.02)
        assert await restarts(limits, 2) < 20
        async with working(limits=replace(limits, healthy_s=1000.0)) as supervisor:
            for _ in range(2):
                await until(lambda: supervisor.state == "ready")
                os.kill(supervisor.pid or 0, signal.SIGKILL)
                await until(lambda: supervisor.state == "restarting")
            await until(lambda: "in 20 s" in supervisor.notice)
            assert supervisor.restarts == 1  # and `stop` does not wait for it

    run(test())


# ------------------------------------------------------------------------------------------------- ends


@pytest.mark.alone
def test_stop_in_every_state() -> None:
    async def stopped(supervisor: Supervisor, within: float = 3.2) -> None:
        pid, start = supervisor.pid, time.monotonic()
        await supervisor.stop()
        assert time.monotonic() - start < within
        assert (supervisor.state, supervisor.pid) == ("stopped", None)
        assert pid is None or not alive(pid)

    async def test() -> None:
        await stopped(Supervisor(Plan(fake=Fake())))  # never started
        starting = Supervisor(Plan(fake=Fake()), limits=QUICK)
        starting.start()
        await stopped(starting)  # before there is a process
        starting.start()
        await until(lambda: starting.pid)
        await stopped(starting)  # while it loads
        starting.start()
        await until(lambda: starting.state == "ready")
        await stopped(starting)
        await stopped(starting)  # twice
        hanging = Supervisor(Plan(fake=Fake(fail="hang")), limits=QUICK)
        hanging.start()
        await until(lambda: hanging.pid)
        await asyncio.sleep(0.2)
        await stopped(hanging)
        failed = Supervisor(Plan(fake=Fake(fail="exit")), limits=replace(QUICK, attempts=1))
        failed.start()
        await until(lambda: failed.state == "failed")
        await stopped(failed)

    run(test())


@pytest.mark.alone
def test_a_worker_stuck_in_a_tick_is_ended_by_stop_and_may_be_started_again() -> None:
    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            pid = supervisor.pid
            supervisor.fault("hang")
            for _ in range(10):
                stream.put(frame(1))
                await asyncio.sleep(0.02)
            assert supervisor._process.beat().activity == "tick"
            start = time.monotonic()
            await supervisor.stop()
            assert time.monotonic() - start < 3.2
            assert pid is not None
            assert not alive(pid)
            stream.put(frame(2))
            supervisor.start()
            await painted(stream, ear)
            assert supervisor.restarts == 0

    run(test())


@pytest.mark.alone
def test_a_stopped_worker_leaves_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """Politely asked, it exits with code 0 and says nothing."""

    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            await painted(supervisor.open(SMALL, ear), ear)
            start = time.monotonic()
        assert time.monotonic() - start < 3

    with caplog.at_level(logging.INFO, "livebrush"):
        run(test())
    assert not caplog.records


def test_fifty_streams_leave_nothing_behind() -> None:
    async def test() -> None:
        async with working() as supervisor:
            pid, places = supervisor.pid or 0, set()

            async def cycle() -> None:
                ears = [Ear(), Ear()]
                streams = [supervisor.open(Settings(width=256, height=128), ear) for ear in ears]
                places.update(a.place.offset for s in streams for a in s._line.addresses)
                for stream, ear in zip(streams, ears, strict=True):
                    await painted(stream, ear)
                    stream.close()

            for _ in range(3):
                await cycle()
            await until(lambda: not supervisor._closing)
            before = held(pid)
            for _ in range(25):
                await cycle()
            await until(lambda: not supervisor._closing and held(pid) == before)
            assert not supervisor._streams
            assert len(places) < 20  # what was given back was lent again

    def held(pid: int) -> tuple[int, int, int]:
        return fds(), fds(pid), threading.active_count()

    run(test())


def test_restarts_leave_nothing_behind() -> None:
    async def test() -> None:
        async def life(times: int) -> None:
            async with working() as supervisor:
                ear = Ear()
                stream = supervisor.open(SMALL, ear)
                for k in range(times):
                    await painted(stream, ear)
                    os.kill(supervisor.pid or 0, signal.SIGKILL)
                    await until(lambda k=k: supervisor.restarts == k + 1)

        await life(1)
        await asyncio.sleep(0.2)  # asyncio's threads that wait for processes end a little after them
        before = fds(), threading.active_count()
        await life(3)
        await until(lambda: (fds(), threading.active_count()) == before)

    run(test())


SERVER = """
import asyncio, sys
sys.path[:0] = [{tests!r}, {root!r}]
from workers import *

async def main():
    supervisor = Supervisor(Plan(fake=Fake(fail={fail!r})))
    supervisor.start()
    ear = Ear()
    stream = supervisor.open(SMALL, ear)
    if {fail!r}:
        await until(lambda: supervisor.pid)
        await asyncio.sleep(1.0)
    else:
        await painted(stream, ear, 3)
        if {hang!r}:
            supervisor.fault("hang")
            for _ in range(10):
                stream.put(frame(1))
                await asyncio.sleep(0.05)
    print(supervisor.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("doing", ["painting", "hanging", "loading"])
def test_a_killed_server_takes_its_worker_along_and_leaves_no_memory(doing: str, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    fail = "hang" if doing == "loading" else None
    script.write_text(
        SERVER.format(tests=str(ROOT / "tests"), root=str(ROOT), fail=fail, hang=doing == "hanging"), "utf-8"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        assert alive(pid)
        server.kill()
    comes_to(lambda: not alive(pid))
    assert not shared()


def test_ctrl_c_is_not_the_workers_business() -> None:
    async def test() -> None:
        async with working() as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            assert supervisor.pid is not None
            assert os.getpgid(supervisor.pid) != os.getpgid(0)
            os.kill(supervisor.pid, signal.SIGINT)
            await painted(stream, ear, 5)
            assert supervisor.restarts == 0

    run(test())


@pytest.mark.alone
def test_nothing_waits_for_a_worker_that_does_not_read() -> None:
    """A worker that stands still (SIGSTOP) costs neither time nor much memory; afterwards it goes on."""

    async def test() -> None:
        async with working(limits=replace(QUICK, tick_s=60, idle_s=60, preparing_s=60)) as supervisor:
            ears = [Ear() for _ in range(3)]
            streams = [supervisor.open(SMALL, ear) for ear in ears]
            for stream, ear in zip(streams, ears, strict=True):
                await painted(stream, ear)
            pid = supervisor.pid or 0
            os.kill(pid, signal.SIGSTOP)
            longest = 0.0
            for k in range(3000):
                start = time.monotonic()
                for stream in streams:
                    stream.put(frame(k % 256, pts=k))
                    stream.apply(SMALL.changed(prompt="x" * 2000, seed=k))
                longest = max(longest, time.monotonic() - start)
                if not k % 50:
                    await asyncio.sleep(0)
            for _ in range(200):  # more than the pipe holds
                supervisor.open(SMALL.changed(prompt="y" * 2000), Ear()).close()
            assert longest < 1
            pipe = supervisor._process._transport.get_pipe_transport(0)
            assert pipe.get_write_buffer_size() < 1_000_000
            os.kill(pid, signal.SIGCONT)
            await until(lambda: all(e.pictures[-1].frame.pts == 2999 for e in ears))
            await until(lambda: all(e.answers[-1][0].seed == 2999 for e in ears))
            assert supervisor.restarts == 0

    run(test())


def test_a_halt_of_the_server_itself_is_no_hang_of_the_worker() -> None:
    async def test() -> None:
        async with working(limits=replace(QUICK, idle_s=0.6)) as supervisor:
            time.sleep(1.5)  # what must never happen on the event loop
            await asyncio.sleep(0.2)
            assert supervisor.restarts == 0
            assert supervisor.state == "ready"

    run(test())


# ------------------------------------------------------------------------------------------------- facts


def test_the_server_side_imports_no_torch() -> None:
    heavy = ("torch", "diffusers", "transformers", "openvino")
    code = f"import stream.supervisor, stream.passthrough, sys; print([x for x in {heavy} if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_fake_worker_starts_without_torch_and_says_what_it_is() -> None:
    async def test() -> None:
        planned = Facts.planned(Plan(fake=Fake()).spec)
        async with working() as supervisor:
            assert supervisor.facts == replace(planned, engine="none (frames pass through)")
            ear = Ear()
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            await until(lambda: supervisor.facts.stages)
            assert supervisor.facts.stages["tick"]["count"] >= 1
            assert {"p50", "p95"} <= set(supervisor.facts.stages["tick"])
            assert supervisor.facts.streams == 1
            assert "torch" not in Path(f"/proc/{supervisor.pid}/maps").read_text()

    run(test())


def test_plans_and_messages_go_through_a_pipe_in_any_pieces() -> None:
    plan = Plan(spec("builtin"), device="cpu", fake=Fake(delay_ms=3))
    assert pickle.loads(pickle.dumps(plan)) == plan
    sent = [plan, SMALL, Measured({"tick": {"p50": 1.0}}, {1: 0.5}, {1: 0})] * 3
    data, unpacker = b"".join(map(packed, sent)), Unpacker()
    got = [message for k in range(0, len(data), 7) for message in unpacker.feed(data[k : k + 7])]
    assert got == sent


def test_watchers_hear_of_every_change_until_they_leave() -> None:
    async def test() -> None:
        supervisor = Supervisor(Plan(fake=Fake()), limits=QUICK)
        states: list[str] = []
        leave = supervisor.watch(lambda: states.append(supervisor.state))
        supervisor.start()
        await until(lambda: supervisor.state == "ready")
        leave()
        leave()
        await supervisor.stop()
        assert states == ["starting", "ready"]

    run(test())


# ------------------------------------------------------------------------------------------------- with a model


def test_unknown_weights_fail_once_with_the_reason() -> None:
    """What a user must mend is not tried again."""

    async def test() -> None:
        plan = Plan(ModelSpec("nothing", "/nowhere/at/all"))
        async with working(plan, ready=False) as supervisor:
            await until(lambda: supervisor.state == "failed", 60)
            assert "/nowhere/at/all" in supervisor.notice
            assert supervisor.restarts == 0

    run(test())


def test_the_built_in_model_paints_two_prompts_and_comes_back_from_the_dead() -> None:
    async def test() -> None:
        settings = spec("builtin").settings.changed(width=128, height=128)
        async with working(Plan(spec("builtin")), ready=False) as supervisor:
            await until(lambda: supervisor.state == "ready", 60)
            assert "cpu" in supervisor.facts.engine
            ears = [Ear(), Ear()]
            prompts = "thermal camera", "blueprint"
            streams = [supervisor.open(settings.changed(prompt=p), e) for p, e in zip(prompts, ears, strict=True)]
            before = await colours(streams, ears)
            assert np.abs(before[0] - before[1]).max() > 20
            os.kill(supervisor.pid or 0, signal.SIGKILL)
            await until(lambda: supervisor.state == "restarting")
            after = await colours(streams, ears)
            assert np.abs(after - before).max() < 3
            await until(lambda: {"encode", "denoise", "decode"} <= set(supervisor.facts.stages))

    async def colours(streams: list[Stream], ears: list[Ear]) -> np.ndarray:
        """The mean colour of each stream's pictures of the same frame."""
        rows = np.linspace(0, 255, 128, dtype=np.uint8)
        image = np.stack(np.broadcast_arrays(rows[:, None], rows[None, :], rows[::-1, None]), -1)
        heard = [len(ear.pictures) for ear in ears]

        def enough() -> bool:
            for stream in streams:
                stream.put(Frame(image))
            return all(len(ear.pictures) >= n + 3 for ear, n in zip(ears, heard, strict=True))

        await until(enough, 60)
        return np.array([ear.pictures[-1].frame.image.mean((0, 1)) for ear in ears])

    run(test())
