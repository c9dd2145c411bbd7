"""The folder in which a clip of the command line is made: beside its output, so that the same command goes on in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stream.clips import manifest as manifests
from stream.clips.checks import pictures
from stream.clips.timeline import Timeline
from stream.errors import ClipError
from stream.sinks import told

STAMP, LOCK = "timeline.json", "lock"


def folder_of(output: Path) -> Path:
    """`.out.mp4.livebrush` beside `out.mp4`."""
    return output.absolute().parent / f".{output.name}.livebrush"


@contextmanager
def work(timeline: Timeline, output: Path) -> Iterator[Path]:
    """The folder, gone when all went well. What another timeline, or an input that has changed since, left in it goes
    first. ClipError where another process is making the same clip."""
    folder, stamp = folder_of(output), _stamp(timeline)
    if folder.is_dir() and not _same(folder, stamp):
        _remove(folder)
    with told(folder):
        folder.mkdir(exist_ok=True)
        (folder / STAMP).write_text(stamp, encoding="utf-8")
    try:
        yield folder
    except BaseException:
        if {path.name for path in folder.iterdir()} <= {STAMP, LOCK}:
            _remove(folder, quietly=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def begun(timeline: Timeline, output: Path) -> bool:
    """Whether there is something to go on with."""
    folder = folder_of(output)
    return _same(folder, _stamp(timeline)) and {path.name for path in folder.iterdir()} > {STAMP, LOCK}


def made_of(timeline: Timeline, output: Path) -> bool:
    """Whether a clip is there that was made of this timeline, and of inputs with the same contents."""
    try:
        found = manifests.load(output)
    except ClipError:
        return False
    return found.timeline == manifests.nameless(timeline.resolved()) and found.inputs == manifests.hashed(timeline)


def _same(folder: Path, stamp: str) -> bool:
    try:
        return (folder / STAMP).read_text(encoding="utf-8") == stamp
    except (OSError, UnicodeDecodeError):
        return False


def _stamp(timeline: Timeline) -> str:
    """All that decides the clip: the timeline, and how its inputs look from outside."""
    inputs = {}
    for _, text in pictures(timeline):
        path = Path(text)
        parts = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
        inputs[text] = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in parts]
    return json.dumps({"timeline": timeline.model_dump(mode="json"), "inputs": inputs}, sort_keys=True, default=str)


def _remove(folder: Path, quietly: bool = False) -> None:
    """Removes a folder in which nobody works."""
    try:
        with FileLock(folder / LOCK, timeout=0):
            for path in folder.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(folder)
    except Timeout:
        if not quietly:
            raise ClipError(f"{folder} is in use: another process makes this clip: wait for it, or stop it") from None
