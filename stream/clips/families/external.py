"""Models that run in an environment of their own: a command that takes a file with the job, and leaves a video.

Which command it is never stands in a timeline, since those are passed on: this machine's environment says it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stream.clips.backend import Backend, Facts, Plan, Rendered, Renderer, Watch
from stream.clips.families.asked import Job, ask
from stream.clips.families.received import NOTE, frames_of
from stream.clips.timeline import Timeline
from stream.config import BUILTIN
from stream.errors import ClipError
from stream.frame import Image

WAIT = 0.2  # seconds between two looks at the command
PATIENCE = 10.0  # seconds that it has to stop by itself
TOLD = 12  # lines of what it said that an error repeats


class Arguments(Protocol):
    def __call__(self, job: Job, folder: Path, checkout: Path, /) -> list[str]:
        """Those of the command, for a job; writes what they name into `folder`."""


@dataclass(frozen=True, kw_only=True)
class External(Backend):
    """A back end that is a command. `variable` names the checkout it is run in, `variable`_PYTHON its Python."""

    facts: Facts
    variable: str
    script: str  # in the checkout: without it, it is none
    arguments: Arguments
    check: Callable[[Job], None] = lambda _job: None

    def ask(self, timeline: Timeline) -> Job:
        job = ask(self.facts, timeline)
        self.check(job)
        return job

    def missing(self, timeline: Timeline | None = None) -> str | None:
        named, address = os.environ.get(self.variable), self.facts.source
        if not named:
            return f"its command: git clone {address}, install it as it says, then set {self.variable} to its folder"
        if not (Path(named) / self.script).is_file():
            return f"{self.variable} is {named}, where there is no {self.script}: set it to a clone of {address}"
        if shutil.which(self.python) is None:
            return f"its Python {self.python} is not there: set {self.variable}_PYTHON to that of its environment"
        if timeline is not None and timeline.model != BUILTIN and not Path(timeline.model).expanduser().exists():
            return f"weights {timeline.model} are not there: check the path"
        return None

    @property
    def python(self) -> str:
        return os.environ.get(f"{self.variable}_PYTHON") or str(Path(self.checkout, ".venv", "bin", "python"))

    @property
    def checkout(self) -> Path:
        return Path(os.environ.get(self.variable, "")).expanduser().absolute()

    def plan(self, timeline: Timeline) -> Plan:
        job = self.ask(timeline)
        return job.plan(job.steps, f"{self.facts.title} runs as a command of its own; {NOTE}")

    def key(self, timeline: Timeline) -> Hashable:
        return self.facts.name, timeline.model

    def load(self, timeline: Timeline, tell: Callable[[str], Any]) -> Renderer:
        if missing := self.missing(timeline):
            raise ClipError(f"backend {self.facts.name} is not ready: {missing}")
        tell(f"{self.python} in {self.checkout}")
        return Command(self)


class Command(Renderer):
    """Runs the command once for each clip."""

    def __init__(self, backend: External) -> None:
        self.backend = backend

    def render(self, timeline: Timeline, folder: Path, watch: Watch) -> Rendered:
        return Rendered(self._frames(self.backend.ask(timeline), folder, watch))

    def models(self) -> Mapping[str, str]:
        return {self.backend.facts.name: self.backend.facts.source}

    def close(self) -> None:
        """Nothing is held."""

    def _frames(self, job: Job, folder: Path, watch: Watch) -> Iterator[Image]:
        out = folder / "command"
        if not (out / "done").is_file():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            command = [self.backend.python, *self.backend.arguments(job, out.absolute(), self.backend.checkout)]
            run(command, self.backend.checkout, out / "log.txt", watch)
            (out / "done").touch()
        made = sorted(out.rglob("*.mp4"))
        if len(made) != 1:
            raise ClipError(
                f"the command of backend {job.timeline.backend} left {len(made)} videos, expected one: see its log.txt"
            )
        yield from frames_of(made[0], job, watch)


def run(command: list[str], where: Path, log: Path, watch: Watch) -> None:
    """Runs a command and waits. ClipError where it fails; where the watch raises, it is stopped with all it started."""
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 (the command is that of this machine's user)
            command, cwd=where, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        while process.poll() is None:
            watch.tell("denoise", 0, 1)
            time.sleep(WAIT)
    finally:
        _stop(process)
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TOLD:]
        raise ClipError(f"{command[0]} ended with {process.returncode} (log: {log}):\n" + "\n".join(lines))
    watch.tell("denoise", 1, 1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and those that it started: first asked, then killed."""
    if process.poll() is not None:
        return
    for kind in (signal.SIGTERM, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL):
        if sys.platform == "win32":
            process.send_signal(kind)
        else:
            os.killpg(process.pid, kind)
        try:
            process.wait(PATIENCE)
            return
        except subprocess.TimeoutExpired:
            continue
