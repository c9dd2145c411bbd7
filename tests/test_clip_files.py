"""Files of clips: every container and codec, exact rates and sizes, the same bytes every time, sound, manifests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
from clip_rig import Drawn, drawing, drawn
from media import number, sound_of, sound_only, video

from stream.clips import manifest as manifests
from stream.clips import write as module
from stream.clips.backend import Watch
from stream.clips.make import Keep, make
from stream.clips.manifest import Manifest, digest, load, read, sidecar
from stream.clips.timeline import Camera, Output, Timeline
from stream.clips.write import Target, target, write
from stream.errors import ClipError
from stream.frame import Image

FILM = Fraction(24000, 1001)
COUNT = 9
SIZE = (98, 72)
KINDS = {
    "h264.mp4": "h264", "h265.mp4": "h265", "av1.mp4": "av1", "vp9.mp4": "vp9", "h264.m4v": "auto",
    "prores.mov": "auto", "h264.mov": "h264", "vp9.webm": "auto", "av1.webm": "av1", "h264.mkv": "auto",
    "h265.mkv": "h265", "prores.mkv": "prores", "a.gif": "auto", "a.apng": "auto", "folder": "auto",
}  # fmt: skip
TEXT = json.dumps({"livebrush": 1, "much": "x" * 3000})


def written(path: Path, images: Iterator[Image] | None = None, *, rate: Fraction = FILM, size: tuple[int, int] = SIZE,
            **output: Any) -> Target:  # fmt: skip
    """A clip, moved to its place."""
    to = target(path, path.with_name(path.name + ".part"), Output(**output), rate, size)
    given = images if images is not None else (drawing(i, size) for i in range(COUNT))
    write(to, given, path.with_name("spool"), None, TEXT)
    to.made.replace(path)
    return to


def write_kinds(folder: Path) -> None:
    """One of each, as a process of its own does it."""
    for name, codec in KINDS.items():
        written(folder / name, codec=codec)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders, by two processes whose fresh memory is full of different things."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    code = "from pathlib import Path; import test_clip_files as t; t.write_kinds(Path({!r}))"
    running = [python(code.format(str(folder)), MALLOC_PERTURB_=filling, MALLOC_MMAP_THRESHOLD_=str(2**30))
               for folder, filling in zip(folders, ("85", "170"), strict=True)]  # fmt: skip
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert said == ""  # encoders keep quiet
    return folders


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    environment["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent)])
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def pictures(path: Path) -> list[Image]:
    """RGB, by whoever reads the format best."""
    if path.is_dir():
        return [np.array(PIL.Image.open(p)) for p in sorted(path.glob("*.png"))]
    with av.open(str(path)) as file:
        return [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]


# ------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_write_the_same_bytes(kinds: list[Path], name: str) -> None:
    assert digest(kinds[0] / name) == digest(kinds[1] / name)


@pytest.mark.parametrize("name", KINDS)
def test_every_picture_comes_back(kinds: list[Path], name: str) -> None:
    back = pictures(kinds[0] / name)
    assert len(back) == COUNT
    lossless = name in ("a.apng", "folder")
    for index, image in enumerate(back):
        assert image.shape == (SIZE[1], SIZE[0], 3)
        off = np.abs(image.astype(int) - drawing(index, SIZE)).mean()
        assert off == 0 if lossless else off < 4


@pytest.mark.parametrize("name", [k for k in KINDS if k not in ("a.gif", "folder")])
def test_the_rate_is_exact_and_the_codec_is_as_named(kinds: list[Path], name: str) -> None:
    with av.open(str(kinds[0] / name)) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == FILM
        times = [f.pts * f.time_base for f in file.decode(stream)]
        clock = stream.time_base
        found = stream.codec_context.codec.canonical_name
    assert all(abs(t - i / FILM) <= clock * (i + 1) / 2 for i, t in enumerate(times))
    named = {"h265": "hevc"}.get(name.partition(".")[0], name.partition(".")[0])
    assert found == (named if named != "a" else "apng")


@pytest.mark.parametrize("name", [k for k in KINDS if k not in ("a.gif", "a.apng", "folder")])
def test_colours_are_tagged(kinds: list[Path], name: str) -> None:
    with av.open(str(kinds[0] / name)) as file:
        context = file.streams.video[0].codec_context
        next(file.decode(video=0))
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
    assert tags == (1, 1, 1, 1)


@pytest.mark.parametrize("name", KINDS)
def test_the_text_is_inside(kinds: list[Path], name: str) -> None:
    assert manifests._inside(kinds[0] / name) == TEXT


def test_an_index_comes_first_where_a_browser_starts(kinds: list[Path]) -> None:
    whole = (kinds[0] / "h264.mp4").read_bytes()
    assert 0 < whole.index(b"moov") < whole.index(b"mdat")


@pytest.mark.parametrize("rate", [Fraction(8), FILM, Fraction(25, 2), Fraction(50)])
def test_a_gif_keeps_time_in_hundredths(tmp_path: Path, rate: Fraction) -> None:
    path = tmp_path / "a.gif"
    written(path, (drawing(i // 2) for i in range(20)), rate=rate, size=(96, 64))
    shown = []
    with PIL.Image.open(path) as gif:
        for index in range(gif.n_frames):
            gif.seek(index)
            shown.append(round(gif.info["duration"] / 10))
        gif.seek(0)
        assert gif.info["loop"] == 0
    starts = [sum(shown[:i]) for i in range(21)]
    assert starts == [round(i * 100 / rate) for i in range(21)]


def test_an_apng_shows_every_picture_as_long_and_begins_again(kinds: list[Path]) -> None:
    with PIL.Image.open(kinds[0] / "a.apng") as file:
        assert (file.n_frames, file.info["loop"]) == (COUNT, 0)
        for index in range(COUNT):
            file.seek(index)
            assert file.info["duration"] == pytest.approx(float(1000 / FILM))


@pytest.mark.parametrize(("name", "wide", "high"), [("a.mp4", 98, 64), ("a.mov", 98, 63), ("a.gif", 97, 63),
                                                    ("a.apng", 97, 63), ("a", 97, 63)])  # fmt: skip
def test_odd_sizes_grow_only_where_they_must(tmp_path: Path, name: str, wide: int, high: int) -> None:
    written(tmp_path / name, size=(97, 63))
    image = pictures(tmp_path / name)[3]
    assert image.shape == (high, wide, 3)
    assert np.abs(image[:63, :97].astype(int) - drawing(3, (97, 63))).mean() < 4


def test_one_frame_is_a_clip_too(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.webm", "a.gif", "a.apng", "a"):
        written(tmp_path / name, iter([drawing(3, SIZE)]))
        assert len(pictures(tmp_path / name)) == 1


def test_quality_is_the_encoders_own(tmp_path: Path) -> None:
    sizes = [written(tmp_path / f"{q}.mp4", quality=q).path.stat().st_size for q in (4, 20, 40)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[2]


def test_an_encoder_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = module.Coding("libnothing", exact=True)
    monkeypatch.setitem(module.CODINGS, "av1", gone)
    with pytest.raises(ClipError, match="libnothing, which this PyAV was built without: use vp9, or pip install"):
        written(tmp_path / "a.webm", codec="av1")


def test_a_size_that_an_encoder_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="h265 needs 64 pixels a side, not 48"):
        written(tmp_path / "a.mp4", codec="h265", size=(96, 48))


def test_a_disk_that_fills_up_is_told(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
import test_clip_files as t
from stream.errors import SinkError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
for name in ("a.mp4", "a.webm", "a.mov", "a.gif", "a.apng", "a"):
    try:
        t.written(Path({str(tmp_path)!r}) / name, (t.noisy(i) for i in range(9)), size=(96, 64))
    except SinkError as error:
        print(error)
"""
    done = python(code).communicate()
    said = done[0].splitlines()
    assert len(said) == 6
    assert all("cannot be written (File too large): write to another place" in line for line in said), done
    assert not (tmp_path / "a.mp4").exists()


def noisy(index: int) -> Image:
    return np.random.default_rng(index).integers(0, 256, (64, 96, 3), np.uint8)


# ------------------------------------------------------------------------------------------------- sound


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return drawn(monkeypatch)


def clip(folder: Path, name: str = "out.mp4", job: str = "job", **more: Any) -> Manifest:
    timeline = Timeline(backend="drawn", **{"frames": 10, "fps": 25} | more)
    return make(timeline, folder / name, folder / job, Watch(), keep=Keep())


@pytest.mark.parametrize(("name", "codec"), [("out.mp4", "aac"), ("out.webm", "opus"), ("out.mov", "aac")])
def test_sound_is_kept_as_long_as_the_clip_is(backend: Drawn, tmp_path: Path, name: str, codec: str) -> None:
    video(tmp_path / "in.mp4", 20, sound="aac")
    clip(tmp_path, name, input=str(tmp_path / "in.mp4"), frames=15)
    assert sound_of(tmp_path / name) == (codec, pytest.approx(0.6, abs=0.05), pytest.approx(0.4, abs=0.03))


def test_a_video_keeps_its_pace_at_another_rate(tmp_path: Path) -> None:
    from stream.clips.beginning import pictures as pictures_of
    from stream.clips.beginning import rate_of

    video(tmp_path / "in.mkv", 20)  # 25 a second
    shown = {"25": range(12), "25/2": range(0, 20, 2), "50": [0, 0, 1, 1, 2], "10": [0, 2, 5, 7, 10, 12, 15, 17]}
    for fps, expected in ((Fraction(k), v) for k, v in shown.items()):
        found = [number(i) for i in pictures_of(str(tmp_path / "in.mkv"), len(expected), SIZE, Camera, fps)]
        assert found == pytest.approx(list(expected), abs=1 if fps == 10 else 0)
    assert rate_of(str(tmp_path / "in.mkv")) == 25
    with pytest.raises(ClipError, match="has 8 frames, the clip 9: set frames = 8"):
        list(pictures_of(str(tmp_path / "in.mkv"), 9, SIZE, Camera, Fraction(10)))


def test_all_sound_is_kept_where_the_clip_goes_to_the_end(backend: Drawn, tmp_path: Path) -> None:
    video(tmp_path / "in.mkv", 20, sound="flac")
    clip(tmp_path, "out.mkv", input=str(tmp_path / "in.mkv"), frames=20)
    assert sound_of(tmp_path / "out.mkv") == sound_of(tmp_path / "in.mkv")


def test_sound_of_another_file_goes_along(backend: Drawn, tmp_path: Path) -> None:
    video(tmp_path / "in.mp4", 10, sound="aac")
    sound_only(tmp_path / "music.m4a")
    clip(tmp_path, input=str(tmp_path / "in.mp4"), output={"audio": str(tmp_path / "music.m4a")}, frames=5)
    name, end, _ = sound_of(tmp_path / "out.mp4")
    assert (name, end) == ("aac", pytest.approx(0.2, abs=0.05))


@pytest.mark.parametrize("audio", ["generate", "keep"])
def test_sound_that_is_made_with_the_clip_is_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, audio: str) -> None:
    drawn(monkeypatch, made={"sounds": True})
    clip(tmp_path, output={"audio": audio})
    name, end, began = sound_of(tmp_path / "out.mp4")
    assert (name, end, began) == ("aac", pytest.approx(0.4, abs=0.05), pytest.approx(0, abs=0.03))
    assert {p.name for p in (tmp_path / "job").iterdir()} == {"lock", "manifest.json", "sound.wav"}
    assert len(pictures(tmp_path / "out.mp4")) == 10


@pytest.mark.parametrize("audio", ["none", "keep"])
def test_a_clip_may_be_silent(backend: Drawn, tmp_path: Path, audio: str) -> None:
    if audio == "none":
        video(tmp_path / "in.mp4", 10, sound="aac")
    clip(tmp_path, output={"audio": audio}, **({"input": str(tmp_path / "in.mp4")} if audio == "none" else {}))
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert not file.streams.audio


def test_sound_is_the_same_bytes_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn(monkeypatch, made={"sounds": True})
    for name in ("out.mp4", "out.webm", "out.mov", "out.mkv"):
        made = [clip(tmp_path, f"{i}-{name}", job=f"{i}-{name}-job", output={"audio": "generate"}) for i in (0, 1)]
        assert made[0].sha256 == made[1].sha256


def test_a_file_without_sound_gives_none(backend: Drawn, tmp_path: Path) -> None:
    video(tmp_path / "still.mp4", 3)
    with pytest.raises(ClipError, match=r"still\.mp4 has no sound in it"):
        clip(tmp_path, output={"audio": str(tmp_path / "still.mp4")})


# ------------------------------------------------------------------------------------------------- manifests


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.mov", "out.mkv", "out.gif", "out.apng", "out"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_clip_is_rendered_again_from_itself(backend: Drawn, tmp_path: Path, name: str, beside: bool) -> None:
    video(tmp_path / "in.mp4", 10, sound="aac")
    made = clip(tmp_path, name, input=str(tmp_path / "in.mp4"), seed=4, prompt='größer \U0001f3a8 {a: "b"}')
    if not beside:
        sidecar(tmp_path / name).unlink()
    timeline = read(tmp_path / name)
    assert (timeline.seed, timeline.prompt) == (4, 'größer \U0001f3a8 {a: "b"}')
    (tmp_path / "other").mkdir()
    again = make(timeline, tmp_path / "other" / name, tmp_path / "job2", Watch(), keep=Keep())
    assert again.sha256 == made.sha256
    assert read(sidecar(tmp_path / "other" / name)) == timeline


def test_nothing_of_this_machine_or_this_run_is_inside_a_file(backend: Drawn, tmp_path: Path) -> None:
    video(tmp_path / "in.mp4", 10)
    made = clip(tmp_path, input=str(tmp_path / "in.mp4"))
    assert str(tmp_path).encode() not in (tmp_path / "out.mp4").read_bytes()
    inside = json.loads(manifests._inside(tmp_path / "out.mp4") or "")
    assert inside["inputs"] == {"in.mp4": digest(tmp_path / "in.mp4")}
    assert not {"places", "platform", "seconds", "timings", "sha256"} & set(inside)
    assert made.places == {"in.mp4": "in.mp4"}
    assert load(sidecar(tmp_path / "out.mp4")) == made


def test_inputs_are_found_where_they_were_beside_the_clip_or_here(
    backend: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "clips", "here"):
        (tmp_path / name).mkdir()
    for name, frames in (("a", 10), ("b", 12)):
        video(tmp_path / name / "in.mp4", frames)
    keyframes = [{"frame": 2, "image": str(picture_at(tmp_path / "a" / "key.png"))}]
    monkeypatch.chdir(tmp_path / "b")
    output = {"audio": "none", "upscaler": None}
    made = clip(tmp_path / "clips", input="../a/in.mp4", control={"model": "o/n", "input": "in.mp4"},
                keyframes=keyframes, output=output)  # fmt: skip
    assert set(made.inputs) == {"a/in.mp4", "b/in.mp4", "key.png"}
    path = tmp_path / "clips" / "out.mp4"
    monkeypatch.chdir(tmp_path / "here")
    for timeline in (read(path), read(sidecar(path))):
        assert timeline.input == str(tmp_path / "a" / "in.mp4")
        assert timeline.control is not None
        assert (timeline.control.model, timeline.control.input) == ("o/n", str(tmp_path / "b" / "in.mp4"))
    sidecar(path).unlink()
    (tmp_path / "clips" / "a").mkdir()
    (tmp_path / "a" / "in.mp4").rename(tmp_path / "clips" / "a" / "in.mp4")
    (tmp_path / "b" / "in.mp4").rename(tmp_path / "here" / "in.mp4")
    (tmp_path / "a" / "key.png").rename(tmp_path / "clips" / "key.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClipError, match=rf"b/in\.mp4, .*\(sha256 {made.inputs['b/in.mp4']}\), is not there"):
        read(path)
    assert read(path, {"control"}).input == str(tmp_path / "clips" / "a" / "in.mp4")
    (tmp_path / "here" / "in.mp4").rename(tmp_path / "clips" / "in.mp4")
    assert read(path).keyframes[0].image == str(tmp_path / "clips" / "key.png")


def picture_at(path: Path) -> Path:
    PIL.Image.fromarray(drawing(0)).save(path)
    return path


def test_an_input_that_has_changed_is_told(backend: Drawn, tmp_path: Path) -> None:
    video(tmp_path / "in.mp4", 10)
    made = clip(tmp_path, input=str(tmp_path / "in.mp4"))
    video(tmp_path / "in.mp4", 11)
    with pytest.raises(ClipError, match=rf"in\.mp4 is not what .*{made.inputs['in.mp4']}"):
        read(tmp_path / "out.mp4")


def test_a_clip_without_a_manifest_is_told(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.gif", "a.mkv"):
        video(tmp_path / name, 3, codec="gif" if name == "a.gif" else "libx264")
    picture_at(tmp_path / "a.png")
    for name in ("a.mp4", "a.gif", "a.mkv", "a.png"):
        with pytest.raises(ClipError, match=rf"{name} has no manifest in it, and there is no {name}\.json beside it"):
            read(tmp_path / name)
    with pytest.raises(ClipError, match="is not there"):
        read(tmp_path / "gone.mp4")
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(ClipError, match=r"b\.mp4 cannot be read"):
        read(tmp_path / "b.mp4")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"livebrush": 2}, "is of format 2, and this Livebrush reads 1: update it"), ({"timeline": None}, "timeline: "),
     ({"timeline": {"frames": 10**9}}, "timeline.frames"), ({"frames": "many"}, "frames: "),
     ({"timeline": {"colour": 1}}, "timeline.colour"), ({"livebrush": "x"}, "livebrush: ")],
)  # fmt: skip
def test_a_damaged_manifest_is_told(backend: Drawn, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    clip(tmp_path)
    path = sidecar(tmp_path / "out.mp4")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ClipError, match=said):
        read(path)
    assert read(tmp_path / "out.mp4").frames == 10


@pytest.mark.parametrize("text", ["{", "[]", "", "null", "{}"])
def test_a_manifest_that_is_no_json_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ClipError, match="damaged"):
        read(tmp_path / "a.json")


def test_a_clip_that_lost_its_manifest_is_known_by_the_one_beside_it(backend: Drawn, tmp_path: Path) -> None:
    clip(tmp_path, seed=7)
    video(tmp_path / "out.mp4", 10)  # somebody coded it anew
    assert read(tmp_path / "out.mp4").seed == 7


# ------------------------------------------------------------------------------------------------- for the docs


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet.gif"])
def test_clips_are_shown_in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from tools import clips as tool  # heavy: the processes above have no use for it

    for clip, count in (("a.mp4", 9), ("b.mp4", 6)):
        written(tmp_path / clip, (drawing(i) for i in range(count)), rate=Fraction(10), size=(96, 64))
    words = [str(tmp_path / name), f"one={tmp_path / 'a.mp4'}", f"two={tmp_path / 'b.mp4'}"]
    monkeypatch.setattr("sys.argv", ["clips", *words, "--columns", "3", "--height", "64", "--every", "2"])
    tool.main()
    with PIL.Image.open(tmp_path / name) as shown:
        strip = 26
        if name == "sheet.jpg":
            assert shown.size == (3 * 96, 2 * (strip + 64 + 2))
            last = np.array(shown)[strip : strip + 64, -96:]
            assert np.abs(last.astype(int) - drawing(8)).mean() < 12
        else:
            assert (shown.size, shown.n_frames, shown.info["duration"]) == ((2 * 96, strip + 64), 3, 200)
