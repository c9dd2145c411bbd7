"""The server's clips: the queue, the runner's process, and what is said about a job.

clips = Clips(Queue(), Rules())
videos = await clips.add(asked, upload)    # RefusalError where it cannot be
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from stream.clips.backend import Plan
from stream.clips.caretaker import Caretaker
from stream.clips.families import family
from stream.clips.planner import LateError, NotReadyError, Planner
from stream.clips.queue import ID, Job, Order, Queue
from stream.clips.timeline import Timeline
from stream.errors import ClipError
from web import uploads
from web.clip_bodies import ClipsHealth, Video, VideoError
from web.errors import RefusalError
from web.orders import Rules, VideoAsked, refusal, timeline

T = TypeVar("T")
RETRY_S = 20
UNSEEN = "counted without the input, with which it takes fewer steps"
STAGES = {"encode": (0, 5), "denoise": (5, 85), "decode": (85, 90), "write": (90, 99)}  # per cent of a job, about
STATES: dict[str, Literal["queued", "in_progress", "completed", "failed"]] = {
    "waiting": "queued", "running": "in_progress", "done": "completed", "failed": "failed", "cancelled": "failed",
}  # fmt: skip
CANCELLED = VideoError(code="cancelled", message="it was cancelled")


class Clips:
    """Owned by the application. `limit` jobs may wait."""

    def __init__(
        self,
        queue: Queue,
        rules: Rules,
        *,
        limit: int = 20,
        caretaker: Caretaker | None = None,
        planner: Planner | None = None,
    ) -> None:
        self.queue, self.rules, self.limit = queue, rules, limit
        self.caretaker, self.planner = caretaker or Caretaker(queue), planner or Planner()

    def start(self, live: Callable[[], bool]) -> None:
        """Makes what waits. `live` says whether live streams have priority now."""
        self.caretaker.start(live)

    async def stop(self) -> None:
        """Ends the runner; its job goes on the next time."""
        await asyncio.gather(self.caretaker.stop(), self.planner.close())

    @property
    def health(self) -> ClipsHealth:
        """How it goes."""
        care = self.caretaker
        return ClipsHealth(runner=care.state, pid=care.pid, notice=care.notice, restarts=care.restarts,
                           waiting=care.counts.waiting, running=care.counts.running)  # fmt: skip

    async def ask(self, what: Callable[..., T], *given: Any) -> T:
        """Something of the queue's, in a thread; RefusalError 404 where there is no such job."""
        try:
            return await asyncio.to_thread(what, *given)
        except ClipError as error:
            raise RefusalError(404, str(error), code="not_found") from None

    # ------------------------------------------------------------------------------------------ asking for clips

    async def add(self, asked: VideoAsked, upload: BinaryIO | None) -> Sequence[Job]:
        """Queues what is asked for. RefusalError where it is wrong, not for everybody, or too much."""
        await self._admit(asked.n)
        name = self.queue.new_id()
        room = self.queue.room(name)
        try:
            made = await asyncio.to_thread(self._prepared, asked, upload, room)
            await self._planned(made, found(room))
            jobs = await asyncio.to_thread(self._queued, asked, made, name)
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            raise
        self.caretaker.poke()
        return jobs

    async def plan(self, asked: VideoAsked) -> tuple[Timeline, Plan]:
        """What it will take, without its input."""
        made = timeline(asked, self.rules, has_upload=False)
        if made.input is None:
            return made, await self._planned(made)
        told = await self._planned(made.model_copy(update={"strength": None}))
        return made, replace(told, notes=(*told.notes, UNSEEN))

    async def _planned(self, made: Timeline, upload: Path | None = None) -> Plan:
        """Checks all that can be checked before it runs."""
        try:
            return await self.planner.plan(made.model_copy(update={"input": str(upload) if upload else None}))
        except NotReadyError as error:
            raise RefusalError(503, str(error), code="not_ready", param="backend") from None
        except LateError as error:
            raise RefusalError(503, str(error), headers={"Retry-After": "5"}, code="late") from None
        except ClipError as error:
            raise refusal(str(error), error.at) from None

    async def _admit(self, more: int) -> None:
        """RefusalError where the queue is full."""
        waiting = (await asyncio.to_thread(self.queue.counts)).waiting
        if waiting + more > self.limit:
            told = f"{waiting} clips wait already, and {self.limit} may: come back in a while"
            raise RefusalError(429, told, headers={"Retry-After": str(RETRY_S)}, code="queue_full")

    def _prepared(self, asked: VideoAsked, upload: BinaryIO | None, room: Path) -> Timeline:
        """The timeline, its input in the job's folder."""
        made = timeline(asked, self.rules, upload is not None)
        if upload is not None:
            uploads.store(upload, room)
        self._bring(made.input, room)
        own = found(room)
        return made.model_copy(update={"input": own.name if own is not None else None})

    def _queued(self, asked: VideoAsked, made: Timeline, name: str) -> Sequence[Job]:
        room = self.queue.room(name)
        return self.queue.add([self._order(asked, made, number, name, room) for number in range(asked.n)])

    def _order(self, asked: VideoAsked, made: Timeline, number: int, first: str, room: Path) -> Order:
        """The clip of that number; those after the first have the upload in a folder of their own, too."""
        name = first if number == 0 else self.queue.new_id()
        place = self.queue.room(name)
        place.mkdir(parents=True, exist_ok=True)
        if number and made.input is not None:
            same(room / made.input, place / made.input)
        seeded = made.model_copy(update={"seed": (made.seed + number) % 2**32})
        return Order(seeded, Path(f"clip.{asked.format}"), place, id=name)

    def _bring(self, wanted: str | None, room: Path) -> None:
        """Puts what a timeline has as its input into the job's folder: an upload, or another job's clip or input."""
        if wanted is None or found(room) is not None:
            return
        name, _, part = wanted.partition("/")
        if not name.startswith(ID) or part not in ("", "input"):
            told = f"input {wanted[:80]!r} is not here: send the file as input_reference, or name a clip ({ID}...)"
            raise refusal(told, ("input",))
        try:
            job = self.queue.find(name)
        except ClipError as error:
            raise refusal(str(error), ("input",)) from None
        source = found(job.folder) if part else job.output
        if source is None or not source.is_file() or (not part and job.state != "done"):
            raise refusal(f"input {wanted[:80]} is not there: name a clip that is completed", ("input",))
        room.mkdir(parents=True, exist_ok=True)
        same(source, room / (uploads.NAME + source.suffix))

    # ------------------------------------------------------------------------------------------ what is said

    def video(self, job: Job) -> Video:
        """A job as OpenAI's API has it, with what Livebrush adds."""
        made = job.timeline
        fps, width, height = shape(made)
        return Video(
            id=job.id,
            status=STATES[job.state],
            progress=percent(job),
            created_at=int(job.created),
            completed_at=int(job.ended) if job.ended is not None and job.state == "done" else None,
            error=error(job),
            model=made.model if made.backend == "animatediff" else made.backend,
            prompt=prompt(made),
            seconds=f"{float(made.frames / fps):.2f}".rstrip("0").rstrip("."),
            size=f"{width}x{height}",
            seed=made.seed,
            batch=job.batch,
            stage=job.stage,
            done=job.done,
            total=job.total,
            took_s=job.seconds,
            format=job.output.suffix.lstrip(".") or "png",
            preview=stamp(job.preview, f"/v1/videos/{job.id}/preview") if job.state == "running" else None,
            timeline=self.timeline(job),
        )

    def timeline(self, job: Job) -> dict[str, Any]:
        """A job's timeline without this machine's folders: it can be sent again."""
        given = job.timeline.model_dump(mode="json", exclude_defaults=True)
        if found(job.folder) is not None and job.timeline.input is not None:
            given["input"] = f"{job.id}/input"
        return _nameless(given)

    def manifest(self, job: Job) -> dict[str, Any]:
        """What made the clip; RefusalError where nothing is beside it."""
        path = job.output.with_name(job.output.name + ".json")
        try:
            made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RefusalError(404, f"the manifest of {job.id} is not there any more", code="not_found") from None
        made.pop("places", None)
        return made | {"timeline": self.timeline(job)}


def shape(made: Timeline) -> tuple[Fraction, int, int]:
    """Frames a second, width and height, as far as they are known before it is made."""
    try:
        facts = family(made.backend).facts
    except ClipError:  # another release's back end
        return made.fps or Fraction(1), made.width or 0, made.height or 0
    width, height = facts.size
    return made.fps or Fraction(facts.fps), made.width or width, made.height or height


def found(room: Path) -> Path | None:
    """The upload in a job's folder."""
    return next(iter(sorted(room.glob(f"{uploads.NAME}.*"))), None)


def same(source: Path, target: Path) -> None:
    """The file at another place too, without its bytes where the file system can."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def percent(job: Job) -> int:
    """How far it is, roughly; only what is done has 100."""
    if job.state == "done":
        return 100
    low, high = STAGES.get(job.stage, (0, 0))
    return round(low + (high - low) * min(1.0, job.done / max(1, job.total)))


def error(job: Job) -> VideoError | None:
    if job.state == "cancelled":
        return CANCELLED
    return VideoError(code="failed", message=job.error) if job.state == "failed" else None


def prompt(made: Timeline) -> str:
    """The first that is said."""
    texts = (made.prompt, *(s.prompt for s in made.segments), *(k.prompt for s in made.segments for k in s.keys))
    return next(filter(None, texts), "")


def stamp(path: Path, address: str) -> str | None:
    """The address of a file that changes, another one whenever it has."""
    try:
        return f"{address}?{path.stat().st_mtime_ns}"
    except OSError:
        return None


def _nameless(given: Mapping[str, Any]) -> dict[str, Any]:
    """Absolute paths by their last name only."""

    def told(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: told(v) for k, v in value.items()}
        if isinstance(value, list):
            return [told(v) for v in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return {key: told(value) for key, value in given.items()}
