"""The queue of clips: SQLite in one folder, shared by the server, the runner and the command line.

queue = Queue()                                  # the user's own; `LIVEBRUSH_CLIPS` names another folder
(job,) = queue.add([Order(timeline, Path("clip.mp4"))])
job = queue.claim(pick)                          # a runner's; it holds the job while it lives (`beat`)
queue.progress(job, "denoise", 3, 32)            # and whether it should go on
queue.finish(job, made)

A job belongs to whoever claimed it, by process id and the moment that process began. Where that process is gone (or has
not been heard of for long) the job waits again, and goes on in its folder. Whoever lost a job hears so with its next
word, and can no longer finish it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from filelock import FileLock, Timeout
from platformdirs import user_data_path
from pydantic import ValidationError

from stream.clips.timeline import Timeline
from stream.errors import ClipError

State = Literal["waiting", "running", "done", "failed", "cancelled"]
Answer = Literal["on", "cancel", "lost"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
FORMAT = 1  # of the tables
BUSY_S = 10.0  # how long another process may hold the file
LEASE_S = 120.0  # without a beat, and a job is anybody's, whatever its process does
NEAR = 100  # waiting jobs that a runner may choose from
DEATHS = 5  # of a runner, and the job has failed; at the same place 2
ID = "video_"
TABLES = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, batch TEXT NOT NULL, timeline TEXT NOT NULL,
    place TEXT NOT NULL, output TEXT NOT NULL, overwrite INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
    created REAL NOT NULL, started REAL, ended REAL,
    stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '', sha256 TEXT NOT NULL DEFAULT '', seconds REAL,
    pid INTEGER, born TEXT NOT NULL DEFAULT '', beat REAL,
    wish TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,
    was_at TEXT NOT NULL DEFAULT '', died_at TEXT NOT NULL DEFAULT ''
);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE TABLE pauses (name TEXT PRIMARY KEY, until REAL NOT NULL);
"""
AGAIN = (
    "UPDATE jobs SET state = 'waiting', beat = NULL, was_at = stage || ' ' || done || '/' || total, "
    "stage = '', done = 0, total = 0"
)
MINE = "state = 'running' AND pid = ? AND born = ?"


def default_folder() -> Path:
    """Where the user's jobs lie (`LIVEBRUSH_CLIPS` names another folder)."""
    named = os.environ.get("LIVEBRUSH_CLIPS")
    return Path(named) if named else user_data_path("livebrush") / "clips"


@dataclass(frozen=True)
class Order:
    """A clip to be made. `output` None: in the job's own folder. `place` is what relative paths in it start from."""

    timeline: Timeline
    output: Path | None = None
    place: Path | None = None
    overwrite: bool = False
    id: str = ""  # the job's, where its folder was filled before


@dataclass(frozen=True)
class Made:
    """What came out."""

    sha256: str
    seconds: float


@dataclass(frozen=True)
class Job:
    """A row of the queue. Times are seconds since 1970; `output` and `place` are absolute."""

    number: int
    id: str
    batch: str
    timeline: Timeline
    place: Path
    output: Path
    overwrite: bool
    state: State
    created: float
    started: float | None
    ended: float | None
    stage: str
    done: int
    total: int
    error: str
    sha256: str
    seconds: float | None
    pid: int | None
    tries: int
    folder: Path  # its own: uploads, what resuming needs, preview.jpg, thumbnail.jpg
    unread: str = ""  # why its timeline is not the one that was asked for

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in ENDED

    @property
    def preview(self) -> Path:
        return self.folder / "preview.jpg"

    @property
    def thumbnail(self) -> Path:
        return self.folder / "thumbnail.jpg"

    @property
    def work(self) -> Path:
        """What resuming needs."""
        return self.folder / "work"


@dataclass(frozen=True)
class Counts:
    """How many there are."""

    waiting: int
    running: int


class Queue:
    """The queue in a folder, for any thread; every call is one short transaction. ClipError where it cannot be used."""

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self.folder = (folder or default_folder()).absolute()
        self._clock, self._lock = clock, threading.Lock()
        self._born = born(os.getpid())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=BUSY_S):  # one at a time makes the tables
                self._db = opened(self.folder / "queue.sqlite")
        except (OSError, Timeout, sqlite3.DatabaseError) as error:
            raise ClipError(f"the queue in {self.folder} cannot be used ({error}): name another folder") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    # ---------------------------------------------------------------------------------------- who asks for clips

    def new_id(self) -> str:
        """An id for an `Order` whose folder is to be filled first: see `room`."""
        return ID + secrets.token_hex(16)

    def room(self, name: str) -> Path:
        """The folder of a job."""
        return self.folder / "jobs" / name

    def add(self, orders: Sequence[Order]) -> Sequence[Job]:
        """All of them or none; they share a batch."""
        batch, now = secrets.token_hex(8), self._clock()
        rows = [self._row(order, batch, now) for order in orders]
        columns = "id, batch, timeline, place, output, overwrite, created"
        with self._change() as db:
            db.executemany(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return [self.find(row[0]) for row in rows]

    def find(self, name: str) -> Job:
        """The job of that id, or of the only one that begins so; ClipError where there is none."""
        start = name if name.startswith(ID) else ID + name
        rows = self._read(
            "SELECT * FROM jobs WHERE substr(id, 1, ?) = ? AND wish != 'remove' LIMIT 2", len(start), start
        )
        if len(rows) != 1:
            why = "there are several that begin so: give more of it" if rows else "see livebrush clip jobs list"
            raise ClipError(f"job {name[:80]!r} is not here: {why}")
        return self._job(rows[0])

    def list(self, *, batch: str = "") -> Sequence[Job]:
        """Every job, the oldest first."""
        only = "AND batch = ?" if batch else ""
        rows = self._read(f"SELECT * FROM jobs WHERE wish != 'remove' {only} ORDER BY number", *filter(None, [batch]))
        return [self._job(row) for row in rows]

    def page(self, limit: int, *, after: str = "", newest: bool = True) -> Sequence[Job]:
        """Up to `limit` jobs, the newest or the oldest first, from behind the one of the id `after` on."""
        than, order = ("<", "DESC") if newest else (">", "ASC")
        begin = f"AND number {than} (SELECT number FROM jobs WHERE id = ?)" if after else ""
        sql = f"SELECT * FROM jobs WHERE wish != 'remove' {begin} ORDER BY number {order} LIMIT ?"
        return [self._job(row) for row in self._read(sql, *filter(None, [after]), limit)]

    def counts(self) -> Counts:
        """How many wait and run. Jobs whose runner is gone wait."""
        self.recover()
        rows = self._read("SELECT state, count(*) FROM jobs WHERE state IN ('waiting', 'running') GROUP BY state")
        found = dict(map(tuple, rows))
        return Counts(found.get("waiting", 0), found.get("running", 0))

    def version(self) -> tuple[int, ...]:
        """Another one, whenever something of the queue has changed."""
        return (*self._read("PRAGMA data_version")[0], self._db.total_changes)

    def cancel(self, name: str) -> Job:
        """At once where it waits; what runs it hears of it. ClipError where it is over."""
        job = self.find(name)
        if job.over:
            raise ClipError(f"job {job.id} is {job.state}: there is nothing to cancel")
        with self._change() as db:
            self._recover(db)
            db.execute("UPDATE jobs SET state = 'cancelled', ended = ? WHERE id = ? AND state = 'waiting'",
                       (self._clock(), job.id))  # fmt: skip
            db.execute("UPDATE jobs SET wish = 'cancel' WHERE id = ? AND state = 'running' AND wish = ''", (job.id,))
        return self.find(job.id)

    def resume(self, name: str) -> Job:
        """Lets a job that failed or was cancelled wait again; it goes on from its folder. ClipError otherwise."""
        job = self.find(name)
        with self._change() as db:
            done = db.execute(
                f"{AGAIN}, pid = NULL, started = NULL, ended = NULL, error = '', wish = '', deaths = 0, died_at = '' "
                "WHERE id = ? AND state IN ('failed', 'cancelled')",
                (job.id,),
            )
            if not done.rowcount:
                raise ClipError(f"job {job.id} is {job.state}: only one that failed or was cancelled can be resumed")
        return self.find(job.id)

    def remove(self, name: str) -> None:
        """Forgets a job, with its folder (an output elsewhere stays). What runs is cancelled first, and is unseen."""
        job = self.find(name)
        with self._change() as db:
            self._recover(db)
            db.execute("UPDATE jobs SET wish = 'remove' WHERE id = ?", (job.id,))
            gone = db.execute("DELETE FROM jobs WHERE id = ? AND state != 'running'", (job.id,)).rowcount
        if gone:
            shutil.rmtree(job.folder, ignore_errors=True)

    def pause(self, name: str, seconds: float) -> None:
        """Runners wait for so long, because of `name`; it is told again and again, or lapses. 0 ends it."""
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO pauses VALUES (?, ?)", (name, self._clock() + seconds))

    # ---------------------------------------------------------------------------------------- who makes them

    def claim(self, pick: Callable[[Sequence[Job]], Job] = lambda jobs: jobs[0]) -> Job | None:
        """One of the oldest that wait, for this process; None where none does."""
        self.recover()
        while rows := self._read("SELECT * FROM jobs WHERE state = 'waiting' ORDER BY number LIMIT ?", NEAR):
            job, now = pick([self._job(row) for row in rows]), self._clock()
            with self._change() as db:
                taken = db.execute(
                    "UPDATE jobs SET state = 'running', pid = ?, born = ?, beat = ?, started = coalesce(started, ?), "
                    "tries = tries + 1 WHERE id = ? AND state = 'waiting'",
                    (os.getpid(), self._born, now, now, job.id),
                )
            if taken.rowcount:
                return self.find(job.id)
        return None

    def beat(self) -> None:
        """This process lives: it keeps what it has claimed."""
        with self._change() as db:
            db.execute(f"UPDATE jobs SET beat = ? WHERE {MINE}", (self._clock(), *self._me))

    def progress(self, job: Job, stage: str, done: int, total: int) -> Answer:
        """How far it is; whether to go on."""
        with self._change() as db:
            db.execute(
                f"UPDATE jobs SET stage = ?, done = ?, total = ?, beat = ? WHERE id = ? AND {MINE}",
                (stage, done, total, self._clock(), job.id, *self._me),
            )
        return self.wish(job)

    def wish(self, job: Job) -> Answer:
        """Whether to go on."""
        rows = self._read(f"SELECT wish FROM jobs WHERE id = ? AND {MINE}", job.id, *self._me)
        return "lost" if not rows else "cancel" if rows[0]["wish"] else "on"

    def paused(self) -> bool:
        """Whether runners should wait."""
        return bool(self._read("SELECT 1 FROM pauses WHERE until > ?", self._clock()))

    def finish(self, job: Job, made: Made) -> bool:
        """It is done; False where it is no longer this process's."""
        return self._end(job, "done", sha256=made.sha256, seconds=made.seconds)

    def fail(self, job: Job, error: str) -> bool:
        """It cannot be made; `error` is for whoever asked for it."""
        return self._end(job, "failed", error=error)

    def cancelled(self, job: Job) -> bool:
        """It was cancelled, and its runner has let go of it."""
        return self._end(job, "cancelled")

    def release(self, job: Job) -> None:
        """Its runner stops: it waits again."""
        with self._change() as db:
            db.execute(f"{AGAIN}, pid = NULL WHERE id = ? AND {MINE}", (job.id, *self._me))
            self._settle(db)

    def blame(self, pid: int, why: str) -> None:
        """A runner's process died, and not because it was asked to: what it ran waits again, or has failed where
        that happened before at the same place, or often."""
        with self._change() as db:
            db.execute(f"{AGAIN} WHERE state = 'running' AND pid = ?", (pid,))
            for row in db.execute("SELECT * FROM jobs WHERE state = 'waiting' AND pid = ?", (pid,)).fetchall():
                at = row["was_at"]
                deaths, again = row["deaths"] + 1, row["died_at"] == at
                db.execute("UPDATE jobs SET pid = NULL, deaths = ?, died_at = ? WHERE id = ?", (deaths, at, row["id"]))
                if again or deaths == DEATHS:
                    told = (
                        f"{why}, {'again' if again else f'{deaths} times, now'} at {at.strip()}: see the server's log"
                    )
                    db.execute("UPDATE jobs SET state = 'failed', error = ?, ended = ? WHERE id = ?",
                               (told, self._clock(), row["id"]))  # fmt: skip
            self._settle(db)

    def recover(self) -> None:
        """Jobs whose runner is gone wait again."""
        if any(self._orphan(row) for row in self._read("SELECT * FROM jobs WHERE state = 'running'")):
            with self._change() as db:
                self._recover(db)

    # ---------------------------------------------------------------------------------------- within

    @property
    def _me(self) -> tuple[int, str]:
        return os.getpid(), self._born

    def _row(self, order: Order, batch: str, now: float) -> tuple[Any, ...]:
        name = order.id or self.new_id()
        place = (order.place or Path.cwd()).absolute()
        output = place / order.output if order.output is not None else self.room(name) / "clip.mp4"
        return name, batch, order.timeline.model_dump_json(), str(place), str(output), order.overwrite, now

    def _job(self, row: sqlite3.Row) -> Job:
        unread = ""
        try:
            timeline = Timeline.model_validate_json(row["timeline"])
        except ValidationError:
            timeline, unread = Timeline(), "another release wrote this job's timeline: ask for the clip anew"
        same = ("number", "id", "batch", "state", "created", "started", "ended", "stage", "done", "total", "error",
                "sha256", "seconds", "pid", "tries")  # fmt: skip
        return Job(
            timeline=timeline,
            place=Path(row["place"]),
            output=Path(row["output"]),
            overwrite=bool(row["overwrite"]),
            folder=self.room(row["id"]),
            unread=unread,
            **{name: row[name] for name in same},
        )

    def _end(self, job: Job, state: State, *, error: str = "", sha256: str = "", seconds: float | None = None) -> bool:
        with self._change() as db:
            given = (state, self._clock(), error, sha256, seconds, job.id, *self._me)
            ended = db.execute(
                "UPDATE jobs SET state = ?, ended = ?, error = ?, sha256 = ?, seconds = ?, pid = NULL, beat = NULL "
                f"WHERE id = ? AND {MINE}",
                given,
            ).rowcount
            doomed = db.execute("DELETE FROM jobs WHERE id = ? AND state != 'running' AND wish = 'remove'", (job.id,))
        if doomed.rowcount:
            shutil.rmtree(job.folder, ignore_errors=True)
        return bool(ended)

    def _orphan(self, row: sqlite3.Row) -> bool:
        return bool(self._clock() - row["beat"] > LEASE_S) or born(row["pid"]) != row["born"]

    def _recover(self, db: sqlite3.Connection) -> None:
        for row in db.execute("SELECT * FROM jobs WHERE state = 'running'").fetchall():
            if self._orphan(row):
                db.execute(f"{AGAIN} WHERE id = ?", (row["id"],))
        self._settle(db)

    def _settle(self, db: sqlite3.Connection) -> None:
        """What was wished of a job that nobody runs any more."""
        db.execute("UPDATE jobs SET state = 'cancelled', ended = ? WHERE state = 'waiting' AND wish = 'cancel'",
                   (self._clock(),))  # fmt: skip
        for row in db.execute("SELECT id FROM jobs WHERE state = 'waiting' AND wish = 'remove'").fetchall():
            db.execute("DELETE FROM jobs WHERE id = ?", (row["id"],))
            shutil.rmtree(self.room(row["id"]), ignore_errors=True)

    def _read(self, sql: str, *given: Any) -> Sequence[sqlite3.Row]:
        with self._lock, self._told():
            return self._db.execute(sql, given).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the file does not do (a full disk, a lock that stays) is a ClipError."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ClipError(f"the queue in {self.folder} cannot be used now ({error}): try again") from None

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody comes between."""
        with self._lock, self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise


def opened(path: Path) -> sqlite3.Connection:
    """The file with its tables; ClipError where they are another release's."""
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("BEGIN IMMEDIATE")
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found == 0:
        for statement in filter(str.strip, TABLES.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute("COMMIT")
    if found not in (0, FORMAT):
        db.close()
        raise ClipError(f"{path} was written by another release (format {found}, not {FORMAT}): move it away")
    return db


def born(pid: int) -> str:
    """When a process began, in a form of its own: process ids are given again. Empty where it is gone; where the system
    does not tell, whether it is there."""
    with suppress(OSError):
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if told[0] in ("Z", "X") else told[19]
    if Path("/proc/self/stat").exists():
        return ""
    if sys.platform == "win32":  # os.kill would end it
        return "there"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "there"
