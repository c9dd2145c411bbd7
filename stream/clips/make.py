"""The one place where a clip is made: checked, planned, rendered, finished, written, and its manifest beside it.

    keep = Keep()
    manifest = make(timeline, Path("out.mp4"), Path("job"), Watch(), keep=keep)

Nothing half made is ever at the output's place. Killed at any moment and called again with the same folder, it goes on
and gives the same bytes; called again after it was done, it only says so.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stream.clips import manifest as manifests
from stream.clips.backend import Backend, Cancelled, Plan, Rendered, Renderer, Watch
from stream.clips.checks import check
from stream.clips.families import family
from stream.clips.finish import Finish
from stream.clips.manifest import Manifest, digest, sidecar
from stream.clips.spool import Spool
from stream.clips.timeline import Timeline
from stream.clips.write import Target, Track, save_sound, sound_of, target, write
from stream.errors import ClipError, LivebrushError
from stream.frame import Image
from stream.sinks import explain, publish, remove
from stream.sources import kind_of, open_source

MADE = "manifest.json"  # in the job's folder: its clip is whole, and moved or about to be
FULL = (errno.ENOSPC, errno.EDQUOT)


class Keep:
    """The model that was used last, for jobs that need the same one."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._renderer: Renderer | None = None

    def renderer(self, backend: Backend, timeline: Timeline, tell: Callable[[str], Any]) -> Renderer:
        """The kept one, or a new one after the kept one has let go of its memory."""
        key = (backend.facts.name, backend.key(timeline))
        if self._renderer is None or key != self._key:
            self.close()
            self._renderer = backend.load(timeline, tell)
            self._key = key
        return self._renderer

    def close(self) -> None:
        """Lets go of it."""
        renderer, self._renderer = self._renderer, None
        if renderer is not None:
            renderer.close()


def make(
    timeline: Timeline, output: Path, folder: Path, watch: Watch, *, keep: Keep, overwrite: bool = False
) -> Manifest:
    """Makes the clip `output`. `folder` is the job's own, and may go once this returns.

    Raises ClipError, SinkError, SourceError or ModelError, before any work is done where it can be known; Cancelled
    where the watch is. The model stays in `keep` after all of these.
    """
    with _own(folder):
        done = _done(folder, output)
        if done is not None:
            return done
        clip = Clip(timeline.resolved(), output, folder, overwrite)
        try:
            return clip.make(keep, Stages(watch))
        finally:
            remove(clip.to.made)


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """The job's folder, in one process at a time. A full disk under it is told."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise ClipError(f"this clip is being made by another process (in {folder}): wait for it, or stop it") from None
    except OSError as error:
        if error.errno in FULL:
            raise ClipError(explain(folder, error)) from error
        raise


def _done(folder: Path, output: Path) -> Manifest | None:
    """The manifest, where this job's clip is at its place already: it was killed after that."""
    if not (folder / MADE).is_file() or not output.exists():
        return None
    made = manifests.load(folder / MADE)
    if digest(output) != made.sha256:
        return None
    manifests.save(made, sidecar(output))
    return made


class Stages(Watch):
    """Passes on what it hears, and takes the time of each stage."""

    def __init__(self, watch: Watch, clock: Callable[[], float] = time.perf_counter) -> None:
        self._watch, self._clock = watch, clock
        self._began = self._since = clock()
        self._stage = ""
        self._seconds: dict[str, float] = {}

    def tell(self, stage: str, done: int, total: int, preview: Callable[[], Image] | None = None) -> None:
        self._watch.tell(stage, done, total, preview)
        self._until(stage)

    def _until(self, stage: str) -> None:
        now = self._clock()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def report(self) -> tuple[float, dict[str, float]]:
        """Seconds in all, and by stage."""
        self._until("")
        return round(self._since - self._began, 3), {k: round(v, 3) for k, v in self._seconds.items()}


class Clip:
    """One clip on its way into its file. Making one checks all that can be checked before anything is loaded."""

    def __init__(self, timeline: Timeline, output: Path, folder: Path, overwrite: bool) -> None:
        self.timeline, self.folder = timeline, folder
        self.backend = family(timeline.backend)
        if missing := self.backend.missing(timeline):
            raise ClipError(f"backend {timeline.backend} is not ready: {missing}")
        self.plan = check(timeline)
        rate = Fraction(self.plan.fps) * timeline.output.interpolate
        size = self.plan.width * timeline.output.upscale, self.plan.height * timeline.output.upscale
        self.to = target(output, _part(output, folder), timeline.output, rate, size)
        self.to.check(overwrite, Path(timeline.input) if timeline.input else None)
        self.track, self.generated = sound_for(timeline, self.backend, self.plan, self.to)
        remove(self.to.made)  # left by one that was killed

    def make(self, keep: Keep, watch: Stages) -> Manifest:
        watch.tell("load", 0, 1)
        inputs = manifests.hashed(self.timeline)
        renderer = keep.renderer(self.backend, self.timeline, lambda _word: watch.tell("load", 0, 1))
        finish = Finish(self.timeline.output)
        watch.tell("load", 1, 1)
        try:
            made = self._written(renderer, finish, inputs, watch)
        except (Cancelled, LivebrushError):
            raise
        except Exception:
            keep.close()  # it may be in any state
            raise
        return self._published(made, watch)

    def _written(self, renderer: Renderer, finish: Finish, inputs: dict[str, str], watch: Watch) -> Manifest:
        """Renders, and writes the file where it lies until it is whole."""
        rendered = renderer.render(self.timeline, self.folder, watch)
        rate = Fraction(self.plan.fps)
        images = finish.run(self._counted(rendered, watch), rate, self.timeline.loop)
        first = next(images)
        made = self._manifest(first, renderer, inputs)
        self._write(chain([first], images), rendered, made.inside())
        return made

    def _counted(self, rendered: Rendered, watch: Watch) -> Iterator[Image]:
        """Picture by picture; ClipError unless there are as many as planned."""
        total, count = self.plan.frames, 0
        for part in rendered.frames:
            for image in part:
                count += 1
                yield image
            watch.tell("write", count, total)
        if count != total:
            raise ClipError(f"backend {self.timeline.backend} gave {count} frames, and {total} were planned: try again")

    def _write(self, images: Iterable[Image], rendered: Rendered, text: str) -> None:
        spool = self.folder / "pictures"
        if not self.generated:
            write(self.to, iter(images), spool, self.track, text)
            return
        with Spool(self.folder / "before-sound", self.to.path) as kept:  # the sound is there when they are read
            for image in images:
                kept.put(image)
            sound = rendered.sound()
            track = None if sound is None else Track(save_sound(sound, self.folder / "sound.wav"))
            write(self.to, iter(kept), spool, track, text)

    def _manifest(self, first: Image, renderer: Renderer, inputs: dict[str, str]) -> Manifest:
        from stream.render import versions

        packages = versions()
        return Manifest(
            timeline=manifests.nameless(self.timeline), frames=self.plan.frames * self.timeline.output.interpolate,
            width=first.shape[1], height=first.shape[0], fps=self.to.rate, seed=self.timeline.seed,
            models=dict(renderer.models()), inputs=inputs, notes=self.plan.notes, platform=packages.pop("platform"),
            versions=packages, places=manifests.places(self.timeline, self.to.path),
        )  # fmt: skip

    def _published(self, made: Manifest, watch: Stages) -> Manifest:
        """Moves the file to its place. From the moment that the job's folder has the manifest, it is done."""
        seconds, timings = watch.report()
        whole = made.model_copy(update={"seconds": seconds, "timings": timings, "sha256": digest(self.to.made)})
        manifests.save(whole, self.folder / MADE)
        _clear(self.to)
        publish(self.to.made, self.to.path)
        manifests.save(whole, sidecar(self.to.path))
        return whole


def _part(output: Path, folder: Path) -> Path:
    """Where the file lies until it is whole: beside its place, always the same for a job."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return Path(os.path.abspath(output)).parent / f".livebrush-{name}.part"  # noqa: PTH100


def _clear(to: Target) -> None:
    """Takes frames of another clip, which this one has none for, out of a folder."""
    if to.kind == "folder" and to.path.is_dir():
        for frame in to.path.glob("[0-9]" * 6 + ".png"):
            if not (to.made / frame.name).exists():
                frame.unlink()


def sound_for(timeline: Timeline, backend: Backend, plan: Plan, to: Target) -> tuple[Track | None, bool]:
    """The sound that goes with the clip, or whether the back end makes it."""
    asked, makes = timeline.output.audio, "audio" in backend.facts.modes
    if to.silent:
        if asked not in ("keep", "none"):
            raise ClipError(f"output {to.path} holds no sound: use a video, or audio none")
        return None, False
    if asked == "none":
        return None, False
    if asked == "generate":
        if not makes:
            raise ClipError(f"backend {timeline.backend} makes no sound: use audio keep, none or a file")
        return None, True
    if asked != "keep":
        audio = sound_of(Path(asked))
        if audio is None:
            raise ClipError(f"audio {asked} has no sound in it: give another file, or audio none")
        return Track(audio), False
    kept = _kept(timeline, plan)
    return kept, kept is None and makes


def _kept(timeline: Timeline, plan: Plan) -> Track | None:
    """The input's own sound: all of it where the clip goes to the input's end."""
    if timeline.input is None or kind_of(timeline.input) != "video":
        return None
    with open_source(timeline.input) as source:
        if source.audio is None:
            return None
        lasts = None if source.count is None or source.rate is None else source.count / source.rate
        return Track(source.audio, lasts is not None and plan.frames / Fraction(plan.fps) >= lasts)
