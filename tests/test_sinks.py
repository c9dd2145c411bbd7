"""Sinks: frames at their times, sound in step, BT.709; nothing at its place before it is whole."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from media import coded, number, numbers, picture, seconds, sound_of, uneven, video

from stream.errors import SinkError
from stream.frame import Frame
from stream.sinks import Place, Sink, image, locate, open_sink
from stream.sinks.image import ImageSink
from stream.sinks.images import ImagesSink, targets
from stream.sinks.recording import RecordingSink
from stream.sinks.video import VideoSink
from stream.sources import Source, open_source


def frames(count: int, size: tuple[int, int] = (96, 64)) -> list[Frame]:
    return [Frame(coded(i, size), i, Fraction(1, 25)) for i in range(count)]


def copy(source: Path, target: Path, stop_after: int | None = None) -> None:
    """Everything from a source to a sink, as a job does it."""
    with open_source(str(source)) as opened:
        sink = open_sink(locate(str(target)), opened)
        for index, frame in enumerate(opened):
            if index == stop_after:
                break
            sink.write(frame)
        sink.close(complete=stop_after is None)


def write_all(sink: Sink, given: Iterable[Frame]) -> None:
    with sink:
        for frame in given:
            sink.write(frame)


def here(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# ------------------------------------------------------------------------------------------ what goes where


@pytest.mark.parametrize(
    ("text", "from_folder", "kind"),
    [("a.mp4", False, "video"), ("a.WEBM", False, "video"), ("a.jpg", False, "image"), ("out/", False, "images"),
     ("out", True, "images"), ("out.d/", True, "images"), ("a.mkv", True, "video")],
)  # fmt: skip
def test_an_output_is_known_by_its_name(text: str, from_folder: bool, kind: str) -> None:
    assert locate(text, from_folder).kind == kind


def test_an_existing_folder_is_a_folder(tmp_path: Path) -> None:
    assert locate(str(tmp_path)).kind == "images"


@pytest.mark.parametrize("text", ["a.xyz", "a", "a.txt"])
def test_an_unknown_output_lists_the_known_ones(text: str) -> None:
    with pytest.raises(SinkError, match=r"no known kind.*\.mp4.*\.png.*folder"):
        locate(text)


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    there = tmp_path / "a.mp4"
    there.write_text("mine")
    with pytest.raises(SinkError, match="exists: give another name, or --overwrite"):
        locate(str(there)).check()
    locate(str(there)).check(overwrite=True)
    with pytest.raises(SinkError, match="exists"):
        locate(str(tmp_path)).check()


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    locate(str(tmp_path)).check()


@pytest.mark.parametrize("output", ["photo.jpg", "."])
def test_an_input_is_never_written_over(tmp_path: Path, output: str) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_text("mine")
    with pytest.raises(SinkError, match="over its own input"):
        locate(str(tmp_path / output)).check(overwrite=True, source=photo)


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    locate(str(tmp_path / "a.mp4")).check()
    assert here(tmp_path) == set()


def test_an_output_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"nowhere for output a\.mp4 is not there: make it first"):
        locate(str(tmp_path / "nowhere" / "a.mp4")).check()


def test_a_folder_where_nothing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(SinkError, match=r"may not be written .*check the folder's permissions"):
        locate(str(tmp_path / "a.mp4")).check()


def test_a_full_disk_is_known_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=9))
    with pytest.raises(SinkError, match="no room on the disk"):
        locate(str(tmp_path / "a.mp4")).check()


# --------------------------------------------------------------------------------------------------- videos


@pytest.mark.parametrize("suffix", ["mp4", "m4v", "mov", "mkv", "webm"])
def test_a_video_keeps_every_frame_and_its_uneven_time(tmp_path: Path, suffix: str) -> None:
    times = uneven(15)
    copy(video(tmp_path / "in.mp4", times=times), tmp_path / f"out.{suffix}")
    assert numbers(tmp_path / f"out.{suffix}") == list(range(15))
    assert [round(s * 1000) for s in seconds(tmp_path / f"out.{suffix}")] == times


@pytest.mark.parametrize(
    ("came", "suffix", "codec"),
    [("aac", "mp4", "aac"), ("aac", "mkv", "aac"), ("aac", "webm", "opus"), ("flac", "mkv", "flac"),
     ("flac", "mov", "aac"), ("libopus", "webm", "opus")],
)  # fmt: skip
def test_sound_is_kept_and_in_step(tmp_path: Path, came: str, suffix: str, codec: str) -> None:
    given = video(tmp_path / "in.mkv", times=uneven(30), sound=came)
    copy(given, tmp_path / f"out.{suffix}")
    _, length, loud = sound_of(given)
    name, new_length, new_loud = sound_of(tmp_path / f"out.{suffix}")
    assert name == codec
    assert new_loud == pytest.approx(loud, abs=0.012)
    assert new_length == pytest.approx(length, abs=0.03)
    assert [round(s * 1000) for s in seconds(tmp_path / f"out.{suffix}")] == uneven(30)


def test_sound_ends_with_the_picture_where_that_ends_early(tmp_path: Path) -> None:
    copy(video(tmp_path / "in.mp4", 50, sound="aac"), tmp_path / "out.mp4", stop_after=25)
    assert len(seconds(tmp_path / "out.mp4")) == 25
    assert sound_of(tmp_path / "out.mp4")[1] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_colours_are_bt709_and_say_so(tmp_path: Path, suffix: str) -> None:
    colours = [(200, 40, 30), (30, 160, 60), (40, 60, 190), (128, 128, 128), (240, 220, 30)]
    path = tmp_path / f"out.{suffix}"
    with VideoSink(path, Fraction(25)) as sink:
        for k, colour in enumerate(colours):
            sink.write(Frame(np.full((64, 64, 3), colour, np.uint8), k, Fraction(1, 25)))
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p"
    with open_source(str(path)) as source:
        for frame, colour in zip(source, colours, strict=True):
            assert np.abs(frame.image[32, 32].astype(int) - colour).max() <= 5


def test_odd_sides_grow_by_a_pixel(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "a.mp4") as sink:
        for frame in frames(3, (101, 63)):
            sink.write(frame)
    assert numbers(tmp_path / "a.mp4") == [0, 1, 2]
    with open_source(str(tmp_path / "a.mp4")) as source:
        assert source.size == (102, 64)


def test_a_video_of_one_frame_lasts_one_frame(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "a.mp4", Fraction(25)) as sink:
        sink.write(frames(1)[0])
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(0.04, abs=0.001)


def test_a_video_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "a.mp4")
    for frame in frames(5):
        sink.write(frame)
    assert "a.mp4" not in here(tmp_path)
    sink.close()
    assert here(tmp_path) == {"a.mp4"}


def test_a_discarded_video_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("before")
    with pytest.raises(ZeroDivisionError):
        write_all(VideoSink(tmp_path / "a.mp4"), (frames(1)[1 // k] for k in (2, 0)))
    assert here(tmp_path) == {"a.mp4"}
    assert (tmp_path / "a.mp4").read_text() == "before"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "pictures/"])
def test_a_disk_that_fills_up_is_told_and_cleaned(small_disk: Path, name: str) -> None:
    place = locate(f"{small_disk}/{name}")
    place.check()
    noise = np.random.default_rng(0)
    with pytest.raises(SinkError, match=r"no room on the disk for .*: free some space"):
        fill(place, noise)
    assert here(small_disk) == set()


def fill(place: Place, noise: np.random.Generator) -> None:
    with open_sink(place, Nothing()) as sink:
        for k in range(300):
            sink.write(Frame(noise.integers(0, 255, (240, 320, 3), np.uint8), k, Fraction(1, 25)))


class Nothing(Source):
    """A source that only has to be there."""

    name, size = "nothing", (320, 240)

    def __iter__(self) -> Iterator[Frame]:
        return iter(())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_every_error_of_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(self: Path, content: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SinkError, match="no room on the disk"), ImageSink(tmp_path / "a.png") as sink:
        sink.write(frames(1)[0])
    assert here(tmp_path) == set()


# ------------------------------------------------------------------------------------------------- pictures


def test_a_folder_keeps_the_names_of_its_input(tmp_path: Path) -> None:
    with ImagesSink(tmp_path / "out", ["b.jpg", "a 1.PNG", "c.tif"]) as sink:
        for frame in frames(3):
            sink.write(frame)
    assert here(tmp_path / "out") == {"b.jpg", "a 1.PNG", "c.png"}
    assert [number(picture(tmp_path / "out" / n)) for n in ("b.jpg", "a 1.PNG", "c.png")] == [0, 1, 2]


def test_names_never_collide() -> None:
    assert targets(["a.tif", "a.png", "a.bmp", "b.webp"]) == ["a.tif.png", "a.png", "a.bmp.png", "b.png"]


def test_frames_without_names_are_numbered(tmp_path: Path) -> None:
    with ImagesSink(tmp_path / "out") as sink:
        for frame in frames(2):
            sink.write(frame)
    assert here(tmp_path / "out") == {"000001.png", "000002.png"}


def test_a_folder_that_is_there_keeps_its_other_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "other.txt").write_text("mine")
    (out / "000001.png").write_text("old")
    with ImagesSink(out) as sink:
        sink.write(frames(1)[0])
        assert (out / "000001.png").read_text() == "old"
    assert here(out) == {"other.txt", "000001.png"}
    assert number(picture(out / "000001.png")) == 0
    assert here(tmp_path) == {"out"}


def test_a_discarded_folder_leaves_nothing(tmp_path: Path) -> None:
    sink = ImagesSink(tmp_path / "out")
    sink.write(frames(1)[0])
    sink.discard()
    assert here(tmp_path) == set()


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"])
def test_one_picture_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with ImageSink(path) as sink:
        sink.write(Frame(coded(77)))
    assert number(picture(path)) == 77
    assert here(tmp_path) == {path.name}


def test_a_picture_takes_only_one_frame(tmp_path: Path) -> None:
    one, two = frames(2)
    with pytest.raises(SinkError, match=r"holds one picture.*--frames 1"):
        write_all(ImageSink(tmp_path / "a.png"), [one, two])
    assert here(tmp_path) == set()


def test_formats_without_options_are_written_too(tmp_path: Path) -> None:
    image.save(coded(9), tmp_path / "part", tmp_path / "a.bmp")
    assert number(picture(tmp_path / "part")) == 9


def test_the_recording_sink_remembers(tmp_path: Path) -> None:
    with RecordingSink() as sink:
        sink.write(frames(1)[0])
    assert (len(sink.frames), sink.state, sink.complete) == (1, "closed", True)
    with pytest.raises(RuntimeError), RecordingSink() as sink:
        raise RuntimeError
    assert sink.state == "discarded"
