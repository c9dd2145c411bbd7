"""What a command shows while it works, and how it is stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY_S = 2.0  # between two lines where there is no terminal
Clock = Callable[[], float]


@contextmanager
def progress(console: Console, total: int | None, clock: Clock = time.monotonic) -> Iterator[Callable[[int], None]]:
    """A callable to tell how many frames are done: a bar on a terminal, else a line now and then."""
    if console.is_terminal:
        with _bar(console, total, clock) as tell:
            yield tell
    else:
        yield _lines(console, total, clock)


@contextmanager
def _bar(console: Console, total: int | None, clock: Clock) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("painting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[fps]:.1f} fps"),
               TimeRemainingColumn(compact=True), TextColumn("left"))  # fmt: skip
    began = clock()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("painting", total=total, fps=0.0)
        yield lambda done: bar.update(task, completed=done, fps=done / max(clock() - began, 1e-6))


def _lines(console: Console, total: int | None, clock: Clock) -> Callable[[int], None]:
    began = last = clock()
    said = 0

    def tell(done: int) -> None:
        nonlocal last, said
        now = clock()
        if done == said or (now - last < EVERY_S and done != total):
            return
        last, said, fps = now, done, done / max(now - began, 1e-6)
        left = f" of {total}, {time_left(total - done, fps)} left" if total else ""
        console.print(f"painted {done}{left}, {fps:.1f} fps", highlight=False, soft_wrap=True)

    return tell


@contextmanager
def building(console: Console, clock: Clock = time.monotonic) -> Iterator[Callable[[str, float], None]]:
    """A callable to tell what is being built and how far it is, 0 to 1: a bar on a terminal, else lines."""
    if not console.is_terminal:
        yield _phases(console, clock)
        return
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, far: bar.update(task, description=what, completed=far)


def _phases(console: Console, clock: Clock) -> Callable[[str, float], None]:
    said, last = "", -EVERY_S

    def tell(what: str, far: float) -> None:
        nonlocal said, last
        now, name = clock(), what.partition(":")[0]
        if name == said and now - last < EVERY_S:
            return
        said, last = name, now
        console.print(f"{far:4.0%} {what}", highlight=False, soft_wrap=True)

    return tell


def time_left(frames: int, fps: float) -> str:
    """`1:02:03`, `2:03`; `?` while nothing is known."""
    if fps <= 0:
        return "?"
    minutes, seconds = divmod(round(max(frames, 0) / fps), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """Says what takes a moment: with a spinner on a terminal, else in a line."""
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(what, highlight=False, soft_wrap=True)
        yield


@contextmanager
def stoppable() -> Iterator[Event]:
    """An event that Ctrl-C or SIGTERM sets, so that work can end in good order. The second one interrupts it."""
    stop = Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
