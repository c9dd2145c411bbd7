"""What is seen while a clip is made: stage, step, window and the time that is left; and how Ctrl-C reaches the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stream.clips.backend import Cancelled, Plan, Watch
from stream.frame import Image
from stream.terminal import EVERY_S, Clock, time_left

Show = Callable[[str, int, int], None]


class Shown(Watch):
    """Shows what it hears, and cancels once it is asked to. `begun`: something was worked on beyond loading."""

    def __init__(self, show: Show, stop: Event, plan: Plan | None = None) -> None:
        self._show, self._stop, self._plan = show, stop, plan
        self.begun = False

    def tell(self, stage: str, done: int, total: int, preview: Callable[[], Image] | None = None) -> None:  # noqa: ARG002
        self.begun |= not stage.startswith("load")
        self._show(stage + self._place(stage, done, total), done, total)
        if self._stop.is_set():
            raise Cancelled

    def _place(self, stage: str, done: int, total: int) -> str:
        """` (step 3 of 8, window 2 of 6)`; the window where every one of them is one call."""
        if stage != "denoise" or self._plan is None or not total:
            return ""
        steps, windows, at = self._plan.steps, self._plan.windows, min(done, total - 1)
        window = f", window {at % windows + 1} of {windows}" if windows > 1 and total == steps * windows else ""
        return f" (step {at * steps // total + 1} of {steps}{window})"


@contextmanager
def showing(console: Console, clock: Clock = time.monotonic) -> Iterator[Show]:
    """Bars on a terminal, one a stage; else a line now and then."""
    if not console.is_terminal:
        yield Lines(console, clock)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True),
               TextColumn("left"))  # fmt: skip
    with Progress(*columns, console=console) as bar:
        yield _Bars(bar)


class _Bars:
    """One bar for each stage, in the order in which they come."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        stage = what.partition(" ")[0]
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(what)
        self._bar.update(self._tasks[stage], description=what, completed=done, total=total)


class Lines:
    """A line when a stage begins or ends, and every other second; stages may take turns."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock, self._last = console, clock, 0.0
        self._began: dict[str, tuple[float, int]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now, stage = self._clock(), what.partition(" ")[0]
        new = stage not in self._began
        if not new and now - self._last < EVERY_S and done != total:
            return
        self._last = now
        began, first = self._began.setdefault(stage, (now, done))
        rate = (done - first) / max(now - began, 1e-6)
        left = f", {time_left(total - done, rate)} left" if rate and done < total else ""
        self._console.print(f"{what}: {done} of {total}{left}", highlight=False, soft_wrap=True, markup=False)


def summary(plan: Plan) -> list[tuple[str, str]]:
    """What `--dry-run` says."""
    memory = "not known" if plan.memory_mb is None else f"about {plan.memory_mb:,.0f} MB"
    if plan.seconds is None:
        expected = "not known: nobody measured it on such a machine"
    else:
        expected = f"about {time_left(max(round(plan.seconds), 1), 1)}"
    rows = [("frames", f"{plan.frames} at {plan.fps} a second"), ("size", f"{plan.width}x{plan.height}"),
            ("windows", str(plan.windows)), ("steps", str(plan.steps)), ("UNet calls", f"{plan.unet_calls:,}"),
            ("memory", memory), ("time", expected)]  # fmt: skip
    return rows + [("note", note) for note in plan.notes]
