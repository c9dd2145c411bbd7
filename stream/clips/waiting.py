"""`livebrush clip jobs`: what waits, is made and was made; and making it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Self

import typer

from stream.commandline import FAILED, INTERRUPTED, Group, shown, told

if TYPE_CHECKING:
    from stream.clips.progress import Show
    from stream.clips.queue import Job
    from stream.clips.runner import Runner

jobs = typer.Typer(cls=Group, no_args_is_help=True, help="Clips that wait, are made or were made.")
Names = Annotated[
    list[str], typer.Argument(metavar="JOB...", help="Ids, or how they begin: see livebrush clip jobs list.")
]


@jobs.command("list")
def listed() -> None:
    """Lists the jobs, the oldest first."""
    from rich.markup import escape
    from rich.table import Table

    from stream.clips.queue import Queue

    table = Table("job", "state", "asked for", "clip", "how far", box=None, padding=(0, 2, 0, 0))
    with Queue() as queue:
        queue.recover()
        found = queue.list()
    for job in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created))
        table.add_row(job.id, job.state, when, escape(str(job.output)), escape(far(job)))
    shown().print(table if found else "no jobs yet: livebrush clip … --queue", highlight=False)


def far(job: Job) -> str:
    """How far a job is, or why it failed."""
    if job.state == "failed":
        return job.error
    if job.state == "done":
        return "" if job.seconds is None else f"in {job.seconds:.1f} s"
    return f"{job.stage} {job.done} of {job.total}" if job.stage else ""


@jobs.command("run")
def run() -> None:
    """Makes what waits, one after another, until nothing does. Ctrl-C lets the job in hand wait again."""
    from stream.clips.queue import Queue
    from stream.clips.runner import Files, Runner, step_back
    from stream.terminal import stoppable

    step_back()
    with Queue() as queue, Heard() as heard, stoppable() as asked:
        runner = Runner(queue, Files(), hear=heard)
        Thread(target=_pass_on, args=(asked, runner), daemon=True).start()
        tally = runner.run(until_empty=True)
    typer.echo(f"{tally.done} made, {tally.failed} failed, {tally.cancelled} cancelled")
    if asked.is_set():
        raise typer.Exit(INTERRUPTED)
    if tally.failed:
        raise typer.Exit(FAILED)


class Heard:
    """Shows how far the job in hand is."""

    def __init__(self) -> None:
        self._job, self._open = "", ExitStack()
        self._show: Show = lambda *_: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __call__(self, job: Job, stage: str, done: int, total: int) -> None:
        from stream.clips.progress import showing

        if job.id != self._job:
            self._open.close()
            told().print(f"{job.output}:", highlight=False, soft_wrap=True, markup=False)
            self._job, self._show = job.id, self._open.enter_context(showing(told()))
        self._show(stage, done, total)


def _pass_on(asked: Event, runner: Runner) -> None:
    asked.wait()
    runner.stop()


@jobs.command("cancel")
def cancel(names: Names) -> None:
    """Cancels jobs: at once where they wait, within a window where they are being made."""
    _each(names, "cancel")


@jobs.command("resume")
def resume(names: Names) -> None:
    """Lets jobs that failed or were cancelled wait again; they go on where they were."""
    _each(names, "resume")


@jobs.command("remove")
def remove(names: Names) -> None:
    """Forgets jobs and their folders; clips that were written elsewhere stay."""
    from stream.clips.queue import Queue

    with Queue() as queue:
        for job in [queue.find(name) for name in names]:
            queue.remove(job.id)
            typer.echo(f"{job.id}: removed")


def _each(names: list[str], verb: str) -> None:
    """Asks it of every job; all of them are there, or nothing is done."""
    from stream.clips.queue import Queue

    with Queue() as queue:
        for job in [queue.find(name) for name in names]:
            after = queue.cancel(job.id) if verb == "cancel" else queue.resume(job.id)
            typer.echo(f"{job.id}: {'cancelling' if verb == 'cancel' and after.state == 'running' else after.state}")
