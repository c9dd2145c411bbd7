"""The process that stands by for the worker, with real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from waiting import run, until
from workers import QUICK, alive

from stream.config import spec
from stream.process import WorkerProcess
from stream.supervisor import Plan, Supervisor
from stream.understudy import Understudy
from stream.worker import GENTLE

SLOWLY_S = 200.0  # it imports when nobody else wants the processor


async def stand_by(understudy: Understudy) -> int:
    """Its process id, once it has imported everything."""
    understudy.prepare()
    understudy.prepare()  # one is enough
    await until(lambda: understudy.rehearsed, SLOWLY_S)
    assert understudy._process is not None
    return understudy._process.pid


def nice_of_group(pid: int) -> int | None:
    """The nice value of a process' session, where Linux shares the processor out by sessions."""
    file = Path(f"/proc/{pid}/autogroup")
    return int(file.read_text().split()[-1]) if file.exists() else None


def test_it_is_taken_once_and_while_it_lives() -> None:
    async def test() -> None:
        understudy = Understudy()
        assert understudy.take() is None
        first = await stand_by(understudy)
        os.kill(first, signal.SIGKILL)
        assert understudy._process is not None
        await until(lambda: understudy._process and (understudy._process.dying or understudy._process.ended.done()))
        assert understudy.take() is None
        await until(lambda: understudy._process and understudy._process.ended.done())
        second = await stand_by(understudy)
        process = understudy.take()
        assert process is not None
        assert (process.pid, process.dying) == (second, False)
        assert understudy.take() is None
        process.kill()
        assert await process.gone(5)
        process.close()
        assert not alive(second)
        assert not alive(first)

    run(test())


@pytest.mark.parametrize("rehearsed", [False, True])
def test_closing_ends_it_in_every_state(rehearsed: bool) -> None:
    async def test() -> None:
        understudy = Understudy()
        understudy.prepare()
        await until(lambda: understudy._process and understudy.rehearsed >= rehearsed, SLOWLY_S)
        assert understudy._process is not None
        pid = understudy._process.pid
        await understudy.close()
        assert not alive(pid)
        await understudy.close()

    run(test())


def test_no_process_to_be_had_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def none() -> WorkerProcess:
        raise OSError(11, "Resource temporarily unavailable")

    async def test() -> None:
        understudy = Understudy()
        understudy.prepare()
        await until(lambda: caplog.text)
        assert "stand by for the worker (Resource temporarily unavailable)" in caplog.text
        assert understudy.take() is None
        await understudy.close()

    monkeypatch.setattr(WorkerProcess, "launch", none)
    run(test())


@pytest.mark.parametrize("rehearsed", [False, True])
def test_it_takes_over_from_a_worker_that_is_killed(rehearsed: bool) -> None:
    """In the middle of its imports too: what it has is kept."""

    async def test() -> None:
        supervisor = Supervisor(Plan(spec("builtin")), limits=QUICK)
        supervisor.start()
        await until(lambda: supervisor.state == "ready", SLOWLY_S)
        worker = supervisor.pid
        assert worker is not None
        understudy = supervisor._understudy
        await until(lambda: understudy._process and understudy.rehearsed >= rehearsed, SLOWLY_S)
        assert understudy._process is not None
        pid = understudy._process.pid
        await until(lambda: nice_of_group(pid) in (GENTLE, None))
        os.kill(worker, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1 and supervisor.state == "ready", SLOWLY_S)
        assert supervisor.pid == pid
        assert nice_of_group(pid) in (0, None), "it is not gentle any more"
        await until(lambda: understudy._process)
        assert understudy._process is not None
        third = understudy._process.pid
        await supervisor.stop()
        await until(lambda: not any(alive(p) for p in (worker, pid, third)))

    run(test())
