"""A clip's file: mp4, webm, mov, mkv, GIF, APNG or a folder of PNGs. The same pictures give the same bytes.

The suffix says the container, `Output.codec` what goes into it. A video goes through the one writer of `stream.sinks`.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from stream.clips.backend import Sound
from stream.clips.chunks import KEYWORD, into_png
from stream.clips.gif import write_gif
from stream.clips.timeline import Output
from stream.errors import ClipError
from stream.frame import Frame, Image
from stream.sinks import Place, told
from stream.sinks.image import save
from stream.sinks.video import CONTAINERS, Coding, Container, Writer, coding_told
from stream.sources import Audio

TAKES = {
    ".mp4": ("h264", "h265", "av1", "vp9"),
    ".m4v": ("h264", "h265"),
    ".mov": ("prores", "h264", "h265"),
    ".mkv": ("h264", "h265", "av1", "vp9", "prores"),
    ".webm": ("vp9", "av1"),
    ".gif": (),
    ".apng": (),
}  # the first is `auto`
KNOWN = f"{' '.join(TAKES)}, or a folder of PNGs, with / at its end"
# x264's macroblock tree, and x265 where a picture is no larger than a block, decide by memory that nobody wrote
CODINGS = {
    "h264": Coding("libx264", {"crf": "18", "preset": "medium", "mbtree": "0"}, exact=True),
    "h265": Coding("libx265", {"crf": "20", "preset": "medium",
                   "x265-params": "log-level=error:pools=4:frame-threads=2:ctu=32:info=0"}, tag="hvc1", exact=True),
    "av1": Coding("libsvtav1", {"crf": "28", "preset": "8", "svtav1-params": "lp=4"}, exact=True),
    "vp9": Coding("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "3", "row-mt": "1"},
                  exact=True),
    "prores": Coding("prores_ks", {"profile": "3", "vendor": "apl0"}, "yuv422p10le", exact=True),
}  # fmt: skip
LEAST = {"h265": 64}  # the shortest side: x265 writes over its own memory below it
WORST = {"h264": 51, "h265": 51, "av1": 63, "vp9": 63}  # the largest CRF
APNG = Coding("apng", {"pred": "mixed"}, "rgb24", exact=True)
ANIMATED = Container("apng", "apng", "", (), options=(("plays", "0"),))
FIRST = "000001.png"
GIF_FASTEST = 50  # pictures a second; browsers slow anything faster down


@dataclass(frozen=True)
class Target:
    """A file to be: where it goes in the end, how it is coded (None: a folder of PNGs) and at how many frames a
    second. `made` is where it lies until it is whole."""

    path: Path
    made: Path
    kind: str
    coding: Coding | None
    rate: Fraction

    @property
    def silent(self) -> bool:
        """Whether it has no room for sound."""
        return self.kind == "folder" or not TAKES[self.kind]

    def check(self, overwrite: bool, source: Path | None = None) -> None:
        """SinkError unless it can be written there."""
        Place("images" if self.kind == "folder" else "video", self.path).check(overwrite, source)


def target(path: Path, made: Path, output: Output, rate: Fraction, size: tuple[int, int]) -> Target:
    """What `path` means for pictures of `size`. ClipError where `output` does not fit it, or this
    machine lacks the encoder."""
    kind = _kind(path)
    if kind == "folder" or not TAKES[kind]:
        return Target(path, made, kind, _picture_coding(path, kind, output, rate), rate)
    codec = TAKES[kind][0] if output.codec == "auto" else output.codec
    if codec not in TAKES[kind]:
        fits = " ".join(k for k, v in TAKES.items() if codec in v)
        raise ClipError(f"output {path}: {kind} takes {' or '.join(TAKES[kind])}, not {codec}: use {fits}")
    if min(size) < LEAST.get(codec, 1):
        raise ClipError(f"output {path}: {codec} needs {LEAST[codec]} pixels a side, not {min(size)}: use h264")
    coding = CODINGS[codec]
    _check_encoder(coding, codec, kind)
    if output.quality is None:
        return Target(path, made, kind, _tagged(coding, kind), rate)
    if codec not in WORST:
        raise ClipError(f"output {path}: {codec} has no quality to choose: leave out quality")
    if output.quality > WORST[codec]:
        raise ClipError(f"quality {output.quality} is not between 0 and {WORST[codec]}, as {codec} needs: use e.g. 18")
    better = replace(coding, options={**coding.options, "crf": str(output.quality)})
    return Target(path, made, kind, _tagged(better, kind), rate)


def _kind(path: Path) -> str:
    """The suffix, or `folder`."""
    if path.suffix.lower() in TAKES and not path.is_dir():
        return path.suffix.lower()
    if not path.suffix or path.is_dir():
        return "folder"
    raise ClipError(f"output {path} is of no known kind: use {KNOWN}")


def _picture_coding(path: Path, kind: str, output: Output, rate: Fraction) -> Coding | None:
    name = "a folder of PNGs" if kind == "folder" else kind
    if output.codec != "auto" or output.quality is not None:
        raise ClipError(f"output {path}: {name} has no codec or quality to choose: leave out codec and quality")
    if kind == ".gif" and rate > GIF_FASTEST:
        raise ClipError(f"output {path}: a GIF shows at most {GIF_FASTEST} frames a second, not {float(rate):.4g}: "
                        "use a lower fps, or .apng")  # fmt: skip
    return APNG if kind == ".apng" else None


def _check_encoder(coding: Coding, codec: str, kind: str) -> None:
    """ClipError where PyAV was built without an encoder."""
    try:
        av.codec.Codec(coding.codec, "w")
    except ValueError:
        others = [k for k in TAKES[kind] if k != codec]
        raise ClipError(f"codec {codec} needs {coding.codec}, which this PyAV was built without: use {others[0]}, or "
                        "pip install --force-reinstall --only-binary av av") from None  # fmt: skip


def _tagged(coding: Coding, kind: str) -> Coding:
    """Matroska has no such tags."""
    return coding if kind in (".mp4", ".m4v", ".mov") else replace(coding, tag=None)


# ------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class Track:
    """Sound to go with the pictures. `whole`: all of it, else only as long as there are pictures."""

    audio: Audio
    whole: bool = False


def write(to: Target, images: Iterator[Image], spool: Path, track: Track | None, manifest: str) -> None:
    """Writes pictures `(height, width, 3)` uint8 to `to.made`, with `manifest` in it. Memory stays flat; `spool` is a
    file for what must be read twice. Errors of `images` pass through; others are a SinkError."""
    if to.kind == "folder":
        _write_folder(to, images, manifest)
    elif to.kind == ".gif":
        write_gif(to, images, spool, manifest)
    else:
        _write_video(to, images, track, manifest)


def _write_video(to: Target, images: Iterator[Image], track: Track | None, manifest: str) -> None:
    assert to.coding is not None
    frames = (Frame(image, i, 1 / to.rate) for i, image in enumerate(images))
    first = next(frames)
    kind = _container(to.kind)
    tags = {} if to.kind == ".apng" else {KEYWORD: manifest}
    quiet_encoders()
    with coding_told(to.path):
        writer = Writer(to.made, kind, first, to.rate, track.audio if track else None, coding=to.coding, tags=tags)
    done = False
    try:
        for frame in chain([first], frames):
            with coding_told(to.path):
                writer.write(frame)
        with coding_told(to.path):
            writer.finish(complete=track is not None and track.whole)
        done = True
    finally:
        if not done:
            writer.abandon()
    if to.kind == ".apng":
        with told(to.path):
            into_png(to.made, manifest)


def _container(kind: str) -> Container:
    if kind == ".apng":
        return ANIMATED
    found = CONTAINERS[kind]
    if found.muxer in ("mp4", "mov"):
        return replace(found, options=(("movflags", "+faststart+use_metadata_tags"),))
    return found


def quiet_encoders() -> None:
    """SVT-AV1 tells standard error all about itself unless it is told not to."""
    os.environ.setdefault("SVT_LOG", "1")


def _write_folder(to: Target, images: Iterator[Image], manifest: str) -> None:
    with told(to.path):
        to.made.mkdir()
    for number, image in enumerate(images, 1):
        name = f"{number:06}.png"
        save(image, to.made / name, to.path / name)
    with told(to.path):
        into_png(to.made / FIRST, manifest)


# ------------------------------------------------------------------------------------------------- sound


def save_sound(sound: Sound, path: Path) -> Audio:
    """Sound as a WAV of 16 bits."""
    samples = np.clip(np.rint(sound.samples.T * 32767), -32768, 32767).astype("<i2")
    with told(path), path.open("wb") as file, wave.open(file, "wb") as out:
        out.setnchannels(sound.samples.shape[0])
        out.setsampwidth(2)
        out.setframerate(sound.rate)
        out.writeframes(samples.tobytes())
    return Audio(path)


def sound_of(path: Path) -> Audio | None:
    """The sound of a file, or None where it has none. ClipError where it cannot be read."""
    try:
        with av.open(str(path), metadata_errors="replace") as file:
            start = Fraction(file.start_time or 0, av.time_base) if file.streams.video else Fraction(0)
            return Audio(path, max(start, Fraction(0))) if file.streams.audio else None
    except (av.FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClipError(f"audio {path} cannot be read ({why}): give a sound file or a video with sound") from error
