"""A supervisor with its worker for tests, and a listener that remembers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from waiting import until

from stream.frame import Frame
from stream.settings import Settings
from stream.supervisor import Fake, Limits, Painted, Plan, Stream, Supervisor

ROOT = Path(__file__).parents[1]
SMALL = Settings(width=64, height=64)
QUICK = Limits(backoff_s=(0.0,), check_s=0.02)


class Ear:
    """A listener that remembers what it heard, and when."""

    def __init__(self) -> None:
        self.pictures: list[Painted] = []
        self.at: list[float] = []
        self.answers: list[tuple[Settings, str | None]] = []
        self.notices: list[str] = []
        self.failures: list[str] = []

    def painted(self, picture: Painted) -> None:
        self.pictures.append(picture)
        self.at.append(time.monotonic())

    def applied(self, settings: Settings, error: str | None) -> None:
        self.answers.append((settings, error))

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def failed(self, text: str) -> None:
        self.failures.append(text)


@asynccontextmanager
async def working(plan: Plan | None = None, limits: Limits = QUICK, ready: bool = True) -> AsyncIterator[Supervisor]:
    """A supervisor whose worker is ready; stopped at the end, and the worker with it."""
    supervisor = Supervisor(plan or Plan(fake=Fake()), limits=limits)
    supervisor.start()
    try:
        if ready:
            await until(lambda: supervisor.state == "ready")
        yield supervisor
    except AssertionError as error:
        error.add_note(f"the supervisor: {supervisor.state}, {supervisor.notice!r}, {supervisor.restarts} restarts")
        if supervisor.pid:
            error.add_note(f"the worker: {supervisor._process.beat()}")
        for stream in supervisor._streams.values():
            error.add_note(f"stream {stream.key}: {stream.counts}, {vars(stream._line) if stream._line else None}")
        raise
    finally:
        pid = supervisor.pid
        await supervisor.stop()
    assert pid is None or not alive(pid)


def frame(value: int, width: int = 64, height: int = 64, pts: int = 0) -> Frame:
    return Frame(np.full((height, width, 3), value, np.uint8), pts, captured_at=time.monotonic())


async def painted(stream: Stream, ear: Ear, more: int = 1) -> None:
    """Feeds the stream until so many more pictures have come."""
    goal = len(ear.pictures) + more
    await fed(stream, lambda: len(ear.pictures) >= goal)


async def fed(stream: Stream, true: Callable[[], object]) -> None:
    """Feeds the stream until something becomes true."""

    def now() -> object:
        stream.put(frame(1))
        return true()

    await until(now)


def alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and not reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def fds(pid: int | str = "self") -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def shared() -> list[str]:
    """Named pieces of shared memory, other programs' left out: there must be none."""
    return [x.name for x in Path("/dev/shm").iterdir() if x.name.startswith(("livebrush", "psm_"))]
