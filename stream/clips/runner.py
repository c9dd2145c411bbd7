"""The process that makes the clips of the queue, one after another and behind everything else on the machine.

python -m stream.clips.runner --folder FOLDER    # started by the server (`stream.clips.caretaker`), ends with it
Runner(queue, Files()).run(until_empty=True)     # livebrush clip jobs run

It keeps the model loaded from one clip to the next, and takes the jobs of that model first, a few of them at most. It
ends with its standard input, and with SIGTERM: the job in hand then waits again, and goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from PIL import Image as Pictures

from stream.clips.backend import Cancelled, Watch
from stream.clips.families import family
from stream.clips.queue import Answer, Job, Made, Queue
from stream.errors import ClipError, LivebrushError, SourceError
from stream.frame import Image
from stream.memory import out_of_memory
from stream.sources import open_source

log = logging.getLogger("livebrush")
GENTLE = 19  # the highest nice value
BEAT_S = 2.0
PREVIEW_S = 1.0  # between two previews
PREVIEW_SIDE = 384
TURNS = 8  # jobs of the loaded model that are taken before an older one of another
REST_S = 0.25  # between two looks at the queue, or at a pause
IDLE_S = 120.0  # without a job, and the process ends: the model's memory is somebody else's
PR_SET_PDEATHSIG = 1
Hear = Callable[[Job, str, int, int], Any]


class Stopped(Cancelled):
    """The runner stops; the job waits again."""


class Maker(Protocol):
    """What makes a clip out of a job, and keeps what it has loaded."""

    def make(self, job: Job, watch: Watch) -> Made: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Tally:
    """How the jobs of a run ended."""

    done: int = 0
    failed: int = 0
    cancelled: int = 0


class Told(Watch):
    """A job's word to the queue, and the queue's to the job."""

    def __init__(self, queue: Queue, job: Job, stop: threading.Event, hear: Hear, clock: Callable[[], float]) -> None:
        self._queue, self._job, self._stop, self._hear, self._clock = queue, job, stop, hear, clock
        self._shown = float("-inf")

    def tell(self, stage: str, done: int, total: int, preview: Callable[[], Image] | None = None) -> None:
        """Waits while live streams have priority. Raises Cancelled, and Stopped where the runner stops."""
        self._hear(self._job, stage, done, total)
        self.heed(self._queue.progress(self._job, stage, done, total))
        if preview is not None and self._clock() - self._shown >= PREVIEW_S:
            self._shown = self._clock()
            picture(self._job.preview, preview())
        while self._queue.paused():
            self._stop.wait(REST_S)
            self.heed(self._queue.wish(self._job))

    def heed(self, answer: Answer) -> None:
        """Raises where the job is not to go on."""
        if self._stop.is_set():
            raise Stopped
        if answer != "on":
            raise Cancelled


class Runner:
    """Makes the jobs of a queue, until it is stopped. `hear` gets how far each is."""

    def __init__(self, queue: Queue, maker: Maker, *, hear: Hear = lambda *_: None,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self._queue, self._maker, self._hear, self._clock = queue, maker, hear, clock
        self._stop = threading.Event()
        self._held: Hashable | None = None  # the model that is loaded
        self._early = 0  # jobs that were taken before an older one, in a row
        self._tally = Tally()

    def stop(self) -> None:
        """From a signal handler or another thread: the job in hand waits again, and `run` returns."""
        self._stop.set()

    def run(self, *, until_empty: bool, idle_s: float = IDLE_S) -> Tally:
        """Until nothing waits (for `idle_s`, unless `until_empty`)."""
        since = self._clock()
        with beating(self._queue):
            try:
                while not self._stop.is_set():
                    job = self._queue.claim(self.pick)
                    if job is not None:
                        self._made(job)
                        since = self._clock()
                    elif until_empty or self._clock() - since > idle_s:
                        break
                    else:
                        self._stop.wait(REST_S)
            finally:
                self._maker.close()
        return self._tally

    def pick(self, jobs: Sequence[Job]) -> Job:
        """The oldest; or the oldest that the loaded model makes, a few times in a row."""
        job = jobs[0]
        if self._held is not None and self._early < TURNS:
            job = next((j for j in jobs if key(j) == self._held), job)
        self._early = 0 if job is jobs[0] else self._early + 1
        return job

    def _made(self, job: Job) -> None:
        watch = Told(self._queue, job, self._stop, self._hear, self._clock)
        try:
            watch.tell("starting", 0, 1)
            if job.unread:
                raise ClipError(job.unread)
            self._held = key(job)
            made = self._maker.make(job, watch)
        except Stopped:
            self._queue.release(job)
        except Cancelled:
            self._count(cancelled=self._queue.cancelled(job))
        except LivebrushError as error:
            self._count(failed=self._queue.fail(job, str(error)))
        except KeyboardInterrupt:
            self._queue.release(job)
            raise
        except Exception as error:  # noqa: BLE001 (the boundary: whatever a model does wrong, the other jobs go on)
            self._fresh()
            self._count(failed=self._queue.fail(job, why(error)))
        else:
            self._count(done=self._queue.finish(job, made))
            shutil.rmtree(job.work, ignore_errors=True)  # only now: it says that the clip is made
        finally:
            job.preview.unlink(missing_ok=True)

    def _fresh(self) -> None:
        """Lets go of a model that may be in any state."""
        log.exception("a clip could not be made")
        self._held = None
        self._maker.close()

    def _count(self, *, done: bool = False, failed: bool = False, cancelled: bool = False) -> None:
        now = self._tally
        self._tally = Tally(now.done + done, now.failed + failed, now.cancelled + cancelled)


class Files:
    """Makes the files, with `stream.clips.make`."""

    def __init__(self) -> None:
        self._making = import_module("stream.clips.make")
        self._keep = self._making.Keep()

    def make(self, job: Job, watch: Watch) -> Made:
        """Renders the job's timeline into its output, from its place."""
        job.work.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(job.place):
            manifest = self._making.make(
                job.timeline, job.output, job.work, watch, keep=self._keep, overwrite=job.overwrite
            )
        shown(job)
        return Made(manifest.sha256 or "", manifest.seconds or 0.0)

    def close(self) -> None:
        self._keep.close()
        self._keep = self._making.Keep()


def key(job: Job) -> Hashable | None:
    """Equal for jobs that one loaded model can make; None where that cannot be said."""
    try:
        return job.timeline.backend, family(job.timeline.backend).key(job.timeline.resolved())
    except LivebrushError:
        return None


def why(error: Exception) -> str:
    """What to tell whoever asked for the clip."""
    if out_of_memory(error):
        return "memory ran out: ask for a smaller picture, a shorter window, or memory.offload"
    return f"the back end made a mistake, which the log tells ({type(error).__name__}: {str(error)[:300]})"


def shown(job: Job) -> None:
    """The clip's first picture, for the gallery."""
    with contextlib.suppress(SourceError), open_source(str(job.output), 1) as source:
        for frame in source:
            picture(job.thumbnail, frame.image)


def picture(path: Path, image: Image) -> None:
    """A small JPEG in one stroke."""
    small = Pictures.fromarray(image)
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    small.save(new, "JPEG", quality=82)
    new.replace(path)


@contextlib.contextmanager
def beating(queue: Queue) -> Iterator[None]:
    """Says that this process lives, while it does."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            with contextlib.suppress(ClipError):  # the next one may do
                queue.beat()

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# ------------------------------------------------------------------------------------------------- the process


def step_back() -> None:
    """Everything else on this machine comes first: for every thread that there is, since numpy has begun some, and for
    those that they begin."""
    if sys.platform == "linux":
        for thread in (int(task.name) for task in Path("/proc/self/task").iterdir()):
            os.setpriority(os.PRIO_PROCESS, thread, GENTLE)
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    elif hasattr(os, "nice"):
        os.nice(GENTLE)


def bind_to(parent: int) -> None:
    """Ends with the process that started this one: by Linux's word, and with the standard input elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def serve(queue: Queue, maker: Callable[[], Maker], idle_s: float = IDLE_S) -> Tally:
    """Runs until nothing waits for long, or a SIGTERM comes."""
    runner = Runner(queue, maker())

    def stop(_number: int, _frame: FrameType | None) -> None:
        runner.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return runner.run(until_empty=False, idle_s=idle_s)


def main() -> None:
    """What the server starts."""
    options = argparse.ArgumentParser(prog="python -m stream.clips.runner", description=__doc__)
    options.add_argument("--folder", type=Path, required=True, help="the queue's")
    options.add_argument("--parent", type=int, help="process id of who started it, and with whom it ends")
    asked = options.parse_args()
    step_back()
    if asked.parent is not None:
        bind_to(asked.parent)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with Queue(asked.folder) as queue:
        serve(queue, Files)


if __name__ == "__main__":
    main()
