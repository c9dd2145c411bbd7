"""Sources: every frame once, in order, at its time, upright; what is damaged is told."""

from __future__ import annotations

import random
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from media import coded, no_frames, number, sound_only, spoil_middle, uneven, video

from stream.errors import SourceError
from stream.sources import camera, kind_of, open_source
from stream.sources.images import natural
from stream.sources.testcard import CardSource


def read(path: Path) -> list[Any]:
    with open_source(str(path)) as source:
        return list(source)


# --------------------------------------------------------------------------------------------------- video


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi", "ein Ä pfad.mp4"])
def test_a_video_gives_every_frame_once_and_in_order(tmp_path: Path, name: str) -> None:
    assert [number(f.image) for f in read(video(tmp_path / name, 20))] == list(range(20))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_keep_their_uneven_times(tmp_path: Path, name: str) -> None:
    times = uneven(15)
    frames = read(video(tmp_path / name, times=times))
    assert [round(f.pts * f.time_base * 1000) for f in frames] == times


def test_a_video_tells_its_size_rate_length_and_sound(tmp_path: Path) -> None:
    with open_source(str(video(tmp_path / "a.mp4", 10, size=(80, 48), sound="aac"))) as source:
        assert (source.size, source.rate, source.count) == ((80, 48), 25, 10)
        assert source.audio is not None
    with open_source(str(video(tmp_path / "b.mp4", 10))) as source:
        assert source.audio is None


def test_a_video_of_one_frame(tmp_path: Path) -> None:
    assert [number(f.image) for f in read(video(tmp_path / "a.mp4", 1))] == [0]


def test_a_gif(tmp_path: Path) -> None:
    frames = read(video(tmp_path / "a.gif", 6, codec="gif"))
    assert [number(f.image) for f in frames] == list(range(6))
    assert [round(f.seconds, 2) for f in frames] == [0, 0.04, 0.08, 0.12, 0.16, 0.2]


@pytest.mark.parametrize("turned", [90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, turned: int) -> None:
    plain, upright = read(video(tmp_path / "a.mp4", 1))[0], read(video(tmp_path / "b.mp4", 1, turned=turned))[0]
    expected = np.rot90(plain.image, turned // 90)
    assert upright.image.shape == expected.shape
    assert np.abs(upright.image.astype(int) - expected).mean() < 1


def test_pixels_become_square(tmp_path: Path) -> None:
    assert read(video(tmp_path / "a.mp4", 1, pixel=Fraction(4, 3)))[0].size == (128, 64)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.gif", "a.avi"])
@pytest.mark.parametrize("kept", [0.5, 0.93])
def test_a_video_that_was_cut_off_names_the_frame_reached(tmp_path: Path, name: str, kept: float) -> None:
    codec = {"a.webm": "libvpx-vp9", "a.gif": "gif"}.get(name, "libx264")
    path = video(tmp_path / name, 60, codec=codec, front=True, grain=25)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    seen: list[Any] = []
    with open_source(str(path)) as source, pytest.raises(SourceError) as told:
        take_all(source, seen)
    reached = len(seen)
    assert 0 < reached <= 60
    assert f"a{path.suffix} is damaged after frame {reached} (" in str(told.value)


def take_all(source: Iterable[Any], seen: list[Any]) -> None:
    for frame in source:
        seen.append(frame)  # not extend: what came before an error counts


def test_a_video_that_goes_bad_in_the_middle(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 60, grain=25)
    spoil_middle(path)
    with pytest.raises(SourceError, match=r"a\.mp4 is damaged after frame \d+ "):
        read(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda p: p.write_text("no video at all" * 50), "cannot be read as a video"),
        (lambda p: p.write_bytes(random.Random(2).randbytes(4000)), "cannot be read as a video"),
        (sound_only, "has no video stream, only audio"),
        (no_frames, "has no video stream, only a header"),
    ],
)
def test_what_is_no_video_is_told(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "a.mp4")
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / "a.mp4"))


def test_a_video_track_without_frames(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no frame in it"):
        open_source(str(no_frames(tmp_path / "a.avi")))


# ------------------------------------------------------------------------------------------------- pictures


def save(path: Path, array: Any, **options: Any) -> Path:
    PIL.Image.fromarray(array).save(path, **options)
    return path


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for k, name in enumerate(["img1.png", "img2.png", "Img10.png", "img100.jpg"]):
        save(tmp_path / name, coded(k))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("neither")
    with open_source(str(tmp_path)) as source:
        assert source.names == ("img1.png", "img2.png", "Img10.png", "img100.jpg")
        assert [(f.pts, number(f.image)) for f in source] == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_natural_order_never_compares_numbers_with_words() -> None:
    assert sorted(["b", "2", "10", "a1", "a"], key=natural) == ["2", "10", "a", "a1", "b"]


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    path = save(tmp_path / "a.jpg", coded(5), exif=exif)
    image = read(path)[0].image
    assert image.shape[:2] == (96, 64)
    assert number(np.rot90(image)) == 5


@pytest.mark.parametrize(
    ("array", "pixel"),
    [
        (np.full((9, 7), 80, np.uint8), (80, 80, 80)),
        (np.full((9, 7), 80 * 257, np.uint16), (80, 80, 80)),
        (np.full((9, 7, 4), (10, 20, 30, 255), np.uint8), (10, 20, 30)),
        (np.full((9, 7, 4), (10, 20, 30, 0), np.uint8), (255, 255, 255)),
        (np.full((9, 7, 3), (10, 20, 30), np.uint8), (10, 20, 30)),
    ],
    ids=["grey", "16 bit", "rgba", "see-through", "rgb"],
)
def test_every_kind_of_png(tmp_path: Path, array: Any, pixel: tuple[int, int, int]) -> None:
    image = read(save(tmp_path / "a.png", array))[0].image
    assert image.shape == (9, 7, 3)
    assert image.dtype == np.uint8
    assert tuple(image[4, 3]) == pixel


def test_palettes_and_black_and_white(tmp_path: Path) -> None:
    PIL.Image.fromarray(coded(3)).convert("P").save(tmp_path / "a.png")
    PIL.Image.fromarray(coded(3)).convert("1").save(tmp_path / "b.png")
    assert [number(f.image) for f in read(tmp_path)] == [3, 3]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_truncated_picture_is_damaged(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(SourceError, match="is damaged"):
        read(path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no picture in it"):
        open_source(str(tmp_path))


def test_a_missing_input() -> None:
    with pytest.raises(SourceError, match=r"input nowhere\.mp4 is not there"):
        open_source("nowhere.mp4")


# ------------------------------------------------------------------------------------------------ test card


def test_the_card_is_the_same_whenever_it_is_drawn() -> None:
    one, two = CardSource(5, (160, 96)), CardSource(5, (160, 96))
    later = one.draw(3)
    assert np.array_equal(two.draw(3), later)
    assert np.array_equal(list(one)[3].image, later)


def test_the_card_moves_and_has_colours() -> None:
    card = CardSource(3, (160, 96))
    assert np.abs(card.draw(0).astype(int) - card.draw(15)).mean() > 1
    assert len(np.unique(card.draw(0).reshape(-1, 3), axis=0)) > 300


@pytest.mark.parametrize("size", [(64, 64), (333, 221), (90, 300), (16, 8)])
def test_the_card_has_any_size(size: tuple[int, int]) -> None:
    assert CardSource(1, size).draw(7).shape == (size[1], size[0], 3)


def test_the_card_is_as_long_as_it_is_asked_to_be() -> None:
    assert open_source("testcard").count == 300
    with open_source("testcard", frames=7) as card:
        assert [(f.pts, f.time_base) for f in card] == [(i, Fraction(1, 30)) for i in range(7)]


# --------------------------------------------------------------------------------------------------- camera


class Device:
    """A camera of OpenCV's that gives three blue pictures, and then none."""

    def __init__(self, index: int | str) -> None:
        self.left, self.released, self.there = 3, False, index == 1

    def isOpened(self) -> bool:
        return self.there

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return (True, np.full((48, 64, 3), (255, 0, 0), np.uint8)) if self.left >= 0 else (False, None)

    def get(self, what: int) -> float:
        return 29.97

    def set(self, what: int, value: float) -> bool:
        return True

    def release(self) -> None:
        self.released = True


def test_a_camera_gives_rgb_frames_with_their_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera.cv2, "VideoCapture", Device)
    moments = iter([10.0, 10.0, 10.5, 11.0])
    source = camera.CameraSource(1, clock=lambda: next(moments))
    frames = iter(source)
    first, second = next(frames), next(frames)
    assert tuple(first.image[0, 0]) == (0, 0, 255)
    assert (first.seconds, second.seconds, second.captured_at) == (0.0, 0.5, 10.5)
    assert (source.size, source.endless, source.count) == ((64, 48), True, None)
    with pytest.raises(SourceError, match="stopped giving pictures"):
        list(frames)


@pytest.mark.parametrize("name", ["camera", "camera:7", "/dev/video9", "camera:/dev/video9"])
def test_no_camera_is_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(camera.cv2, "VideoCapture", Device)
    with pytest.raises(SourceError, match="is not there or is in use"):
        open_source(name)


def test_no_camera_is_told_by_the_real_library() -> None:
    with pytest.raises(SourceError, match="camera 93 is not there"):
        open_source("camera:93")


def test_a_camera_by_a_wrong_name() -> None:
    with pytest.raises(SourceError, match="use camera, camera:1 or /dev/video0"):
        open_source("camera:front")


def test_inputs_are_known_by_their_names(tmp_path: Path) -> None:
    kinds = {n: kind_of(n) for n in ("testcard", "camera", "camera:2", "/dev/video0", str(tmp_path), "a.PNG", "a.mp4")}
    assert list(kinds.values()) == ["testcard", "camera", "camera", "camera", "images", "images", "video"]
