"""The queue and its runner: nothing is lost, nothing is made twice, whatever is killed when."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from clipfakes import Counting, command, counted, order
from waiting import comes_to

from stream.clips import queue as queues
from stream.clips import runner as runners
from stream.clips.caretaker import Caretaker
from stream.clips.queue import Job, Made, Order, Queue
from stream.clips.runner import Runner, Tally
from stream.clips.timeline import Camera, Segment, Timeline
from stream.errors import ClipError

TESTS = Path(__file__).parent
STARTS = """
import os, subprocess, sys
p = subprocess.Popen([sys.executable, *{command}, str(os.getpid())], stdin=subprocess.PIPE)
print(p.pid, flush=True)
p.wait()
"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path) as queue:
        yield queue


@pytest.fixture
def other(queue: Queue) -> Iterator[Queue]:
    """The same queue, as another process has it."""
    with Queue(queue.folder) as other:
        yield other


def launched(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """A runner that counts, in a process of its own."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    return subprocess.Popen([sys.executable, "-m", "clipfakes", str(folder), *more], env=env)


def states(queue: Queue) -> list[str]:
    return [job.state for job in queue.list()]


# ------------------------------------------------------------------------------------------------- the queue


def test_a_job_comes_back_as_it_went_in(queue: Queue, other: Queue, tmp_path: Path) -> None:
    timeline = Timeline(fps="30000/1001", segments=(Segment(motion="pan", camera=Camera(x=0.01)), Segment(end=64)))
    (job,) = queue.add([Order(timeline, Path("out.mp4"), place=tmp_path / "here")])
    found = other.find(job.id[:12])
    assert found == job
    assert found.timeline == timeline
    assert (found.state, found.output) == ("waiting", tmp_path / "here" / "out.mp4")


def test_a_batch_is_added_whole_or_not_at_all(queue: Queue) -> None:
    same = queue.new_id()
    with pytest.raises(sqlite3.IntegrityError):
        queue.add([Order(Timeline(), id=same), Order(Timeline(), id=same)])
    assert queue.list() == []
    jobs = queue.add([order(), order()])
    assert [j.batch for j in queue.list(batch=jobs[0].batch)] == [jobs[0].batch] * 2


def test_pages_of_jobs(queue: Queue) -> None:
    ids = [job.id for job in queue.add([order() for _ in range(5)])]
    assert [j.id for j in queue.page(2)] == [ids[4], ids[3]]
    assert [j.id for j in queue.page(9, after=ids[3])] == [ids[2], ids[1], ids[0]]
    assert [j.id for j in queue.page(2, after=ids[0], newest=False)] == [ids[1], ids[2]]
    assert queue.page(2, after="video_none") == []


def test_what_is_not_there_is_said(queue: Queue, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="not here"):
        queue.find("video_none")
    queue.add([order(), order()])
    with pytest.raises(ClipError, match="several"):
        queue.find("video_")
    with sqlite3.connect(tmp_path / "queue.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(ClipError, match="another release"):
        Queue(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ClipError, match="cannot be used"):
        Queue(tmp_path / "file" / "below")


def test_one_job_is_one_runners(queue: Queue, other: Queue) -> None:
    """Of two that choose the same job at the same time, one gets another."""
    first, second = queue.add([order("a"), order("b")])
    stolen: list[Job | None] = []

    def slow(jobs: Sequence[Job]) -> Job:
        if not stolen:
            stolen.append(other.claim())
        return jobs[0]

    mine = queue.claim(slow)
    assert mine is not None
    assert stolen[0] is not None
    assert {stolen[0].id, mine.id} == {first.id, second.id}
    assert queue.claim() is None


def test_two_runners_share_the_jobs(queue: Queue, tmp_path: Path) -> None:
    jobs = queue.add([order() for _ in range(60)])
    runners = [launched(tmp_path), launched(tmp_path)]
    assert [r.wait(60) for r in runners] == [0, 0]
    assert states(queue) == ["done"] * 60
    assert counted(tmp_path) == {job.id: 1 for job in jobs}


def test_two_hundred_jobs_outlive_two_kills(queue: Queue, tmp_path: Path) -> None:
    """None lost, none made twice; what ran when the process was killed is taken up again, and first."""
    jobs = queue.add([order() for _ in range(200)])
    for done in (40, 110):
        process = launched(tmp_path)
        comes_to(lambda n=done: len(counted(tmp_path)) >= n if (tmp_path / "renders").exists() else False)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert "waiting" in states(queue)
    assert launched(tmp_path).wait(60) == 0
    assert states(queue) == ["done"] * 200
    assert counted(tmp_path) == {job.id: 1 for job in jobs}
    assert all(Path(job.output).read_text() == "quick" for job in queue.list())


def test_what_the_dead_held_is_taken_up_first(queue: Queue, tmp_path: Path) -> None:
    first, _ = queue.add([order("slow 30"), order()])
    process = launched(tmp_path)
    comes_to(lambda: queue.find(first.id).stage == "denoise")
    process.kill()
    process.wait()
    assert queue.counts() == queues.Counts(2, 0)
    again = queue.claim()
    assert again is not None
    assert (again.id, again.tries, again.started) == (first.id, 2, queue.find(first.id).started)


def test_a_process_id_that_was_given_again_holds_nothing(queue: Queue) -> None:
    """The lease is a process's, and not its number's."""
    queue.add([order()])
    job = queue.claim()
    assert job is not None
    with sqlite3.connect(queue.folder / "queue.sqlite") as db:
        db.execute("UPDATE jobs SET born = '1'")
    db.close()
    assert queue.wish(job) == "lost"
    assert queue.counts().waiting == 1
    assert not queue.finish(job, Made("", 1.0))


def test_a_lease_lapses_without_a_beat(tmp_path: Path) -> None:
    now = [1000.0]
    with Queue(tmp_path, clock=lambda: now[0]) as queue:
        queue.add([order()])
        queue.claim()
        now[0] += queues.LEASE_S
        queue.beat()
        now[0] += queues.LEASE_S
        assert queue.counts().running == 1
        now[0] += 1
        assert queue.counts() == queues.Counts(1, 0)


def test_cancel_resume_remove(queue: Queue, other: Queue) -> None:
    waiting, running = queue.add([order(), order()])
    job = queue.claim(lambda jobs: jobs[1])
    assert job is not None
    assert other.cancel(waiting.id).state == "cancelled"
    with pytest.raises(ClipError, match="nothing to cancel"):
        other.cancel(waiting.id)
    with pytest.raises(ClipError, match="only one that failed or was cancelled"):
        other.resume(running.id)
    assert other.cancel(running.id).state == "running"
    assert queue.progress(job, "denoise", 1, 2) == "cancel"
    assert queue.cancelled(job)
    assert other.resume(running.id).state == "waiting"
    job.folder.mkdir(parents=True)
    other.remove(running.id)
    assert not job.folder.exists()
    with pytest.raises(ClipError, match="not here"):
        queue.find(running.id)


def test_removing_what_runs_cancels_it_first(queue: Queue, other: Queue) -> None:
    queue.add([order()])
    job = queue.claim()
    assert job is not None
    job.folder.mkdir(parents=True)
    other.remove(job.id)
    assert other.list() == []
    assert job.folder.exists()
    assert queue.wish(job) == "cancel"
    assert queue.cancelled(job)
    assert not job.folder.exists()


# ------------------------------------------------------------------------------------------------- the runner


def test_a_runner_says_how_each_ended(queue: Queue, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue.add([order("quick"), order("wrong"), order("oops"), order("quick")])
    heard: list[tuple[str, int]] = []
    runner = Runner(queue, Counting(tmp_path), hear=lambda job, stage, done, _: heard.append((stage, done)))
    assert runner.run(until_empty=True) == Tally(done=2, failed=2)
    assert heard[:3] == [("starting", 0), ("denoise", 0), ("denoise", 1)]
    good, wrong, oops, _ = queue.list()
    assert (good.state, good.sha256, good.seconds) == ("done", "0" * 64, 0.5)
    assert wrong.error == "steps 7 is not what this takes: use 4"
    assert "ZeroDivisionError" in oops.error
    assert "by zero" in caplog.text


def test_a_job_of_another_release_fails_and_the_others_go_on(queue: Queue, tmp_path: Path) -> None:
    old, new = queue.add([order(), order()])
    with sqlite3.connect(queue.folder / "queue.sqlite") as db:
        db.execute("UPDATE jobs SET timeline = '{\"gone\": 1}' WHERE id = ?", (old.id,))
    db.close()
    assert Runner(queue, Counting(tmp_path)).run(until_empty=True) == Tally(done=1, failed=1)
    assert "another release" in queue.find(old.id).error
    assert counted(tmp_path) == {new.id: 1}


def test_a_cancelled_job_ends_between_two_steps_and_the_next_one_goes_on(queue: Queue, tmp_path: Path) -> None:
    slow, after = queue.add([order("slow 0.05"), order()])
    seen: list[bool] = []

    def hear(job: Job, stage: str, done: int, _total: int) -> None:
        if job.id == slow.id and done == 2:
            queue.cancel(slow.id)
        seen.append(job.preview.exists())

    assert Runner(queue, Counting(tmp_path), hear=hear).run(until_empty=True) == Tally(done=1, cancelled=1)
    assert counted(tmp_path) == {after.id: 1}
    assert True in seen, "there is a preview while it denoises"
    assert not queue.find(slow.id).preview.exists()


def test_a_runner_that_is_stopped_lets_its_job_wait_again(queue: Queue, tmp_path: Path) -> None:
    (job,) = queue.add([order("slow 0.01")])
    runner = Runner(queue, Counting(tmp_path), hear=lambda _j, _s, done, _t: runner.stop() if done == 2 else None)
    assert runner.run(until_empty=True) == Tally()
    assert queue.find(job.id).state == "waiting"
    assert Runner(queue, Counting(tmp_path)).run(until_empty=True) == Tally(done=1)


def test_jobs_wait_while_live_streams_have_priority(queue: Queue, tmp_path: Path) -> None:
    (job,) = queue.add([order()])
    queue.pause("live", 60.0)
    thread = threading.Thread(target=lambda: Runner(queue, Counting(tmp_path)).run(until_empty=True))
    thread.start()
    comes_to(lambda: queue.find(job.id).state == "running")
    time.sleep(0.4)
    assert queue.find(job.id).stage == "starting"
    queue.pause("live", 0.0)
    thread.join(10)
    assert queue.find(job.id).state == "done"


def test_a_pause_lapses_and_does_not_keep_from_cancelling(queue: Queue, tmp_path: Path) -> None:
    queue.pause("live", 0.2)
    assert queue.paused()
    time.sleep(0.25)
    assert not queue.paused()
    (job,) = queue.add([order()])
    queue.pause("live", 60.0)
    threading.Timer(0.2, queue.cancel, [job.id]).start()
    assert Runner(queue, Counting(tmp_path)).run(until_empty=True) == Tally(cancelled=1)


def test_the_loaded_models_jobs_come_first_within_reason(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` is loaded: its jobs are taken before the older ones of `b`, but not for ever."""
    monkeypatch.setattr(runners, "key", lambda job: job.timeline.model)
    queue.add([order("a1", model="a"), order("b", model="b"), *[order("a", model="a")] * 12])
    maker = Counting(tmp_path)
    Runner(queue, maker).run(until_empty=True)
    assert maker.made == ["a1", *["a"] * runners.TURNS, "b", *["a"] * (12 - runners.TURNS)]


@pytest.mark.skipif(sys.platform != "linux", reason="SCHED_IDLE is Linux's")
def test_a_runner_is_behind_everything_else(queue: Queue, tmp_path: Path) -> None:
    queue.add([order("slow 1")])
    process = launched(tmp_path, "gentle")
    comes_to(lambda: queue.list()[0].stage == "denoise")
    try:
        for thread in (int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()):
            assert os.sched_getscheduler(thread) == os.SCHED_IDLE
            assert os.getpriority(os.PRIO_PROCESS, thread) == 19
        process.terminate()
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------------------------- the caretaker


def cared(queue: Queue, job: Callable[[Caretaker], Coroutine[Any, Any, None]], **more: Any) -> Caretaker:
    """Runs a test beside a caretaker whose runners count."""

    async def run() -> Caretaker:
        caretaker = Caretaker(queue, command)
        caretaker.start(**more)
        try:
            await asyncio.wait_for(job(caretaker), 30)
        finally:
            await caretaker.stop()
            await caretaker.stop()
        return caretaker

    return asyncio.run(run())


@pytest.fixture
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find the fakes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("stream.clips.caretaker.BACKOFF_S", (0.0, 0.0, 0.1))


async def over(queue: Queue) -> None:
    while not all(job.over for job in queue.list()):
        await asyncio.sleep(0.02)


def test_a_job_that_kills_its_process_twice_has_failed(queue: Queue, findable: None, tmp_path: Path) -> None:
    """And the others are made all the same."""
    crash, after = queue.add([order("crash"), order()])

    async def wait(caretaker: Caretaker) -> None:
        await over(queue)

    caretaker = cared(queue, wait)
    assert caretaker.restarts == 2
    assert "exit code 3), again at denoise 3/4" in queue.find(crash.id).error
    assert (queue.find(crash.id).tries, queue.find(after.id).state) == (2, "done")


def test_somebodys_kill_is_no_fault_of_the_job(queue: Queue, findable: None, tmp_path: Path) -> None:
    (job,) = queue.add([order("slow 0.3")])

    async def kill(caretaker: Caretaker) -> None:
        for tries in (1, 2, 3):
            while not (caretaker.pid and queue.find(job.id).tries == tries):
                await asyncio.sleep(0.01)
            os.kill(caretaker.pid, signal.SIGKILL)
            while caretaker.restarts < tries:
                await asyncio.sleep(0.01)
        await over(queue)

    assert cared(queue, kill).restarts == 3
    assert queue.find(job.id).state == "done"
    assert counted(tmp_path) == {job.id: 1}


def test_a_server_that_stops_takes_the_runner_along_and_the_job_goes_on_later(
    queue: Queue, findable: None, tmp_path: Path
) -> None:
    (job,) = queue.add([order("slow 0.2")])
    pids: list[int] = []

    async def stop(caretaker: Caretaker) -> None:
        while queue.find(job.id).stage != "denoise":
            await asyncio.sleep(0.01)
        assert caretaker.pid is not None
        pids.append(caretaker.pid)
        assert caretaker.state == "running"

    caretaker = cared(queue, stop)
    assert (caretaker.state, caretaker.restarts) == ("stopped", 0)
    assert queues.born(pids[0]) == ""
    assert queue.counts() == queues.Counts(1, 0)
    cared(queue, lambda _: over(queue))
    assert queue.find(job.id).state == "done"


def test_live_streams_pause_the_runner(queue: Queue, findable: None) -> None:
    live = [True]

    async def pause(caretaker: Caretaker) -> None:
        while not queue.paused():
            await asyncio.sleep(0.01)
        live[0] = False
        while queue.paused():
            await asyncio.sleep(0.01)

    cared(queue, pause, live=lambda: live[0])


def test_the_real_runner_ends_with_who_started_it(tmp_path: Path) -> None:
    """The command of the server, by a process that is killed."""
    start = STARTS.format(command=["-m", "stream.clips.runner", "--folder", str(tmp_path), "--parent"])
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        comes_to(lambda: (tmp_path / "queue.sqlite").exists())
        assert queues.born(pid)
        parent.kill()
    comes_to(lambda: not queues.born(pid))
