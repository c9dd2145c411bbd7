"""`livebrush clip`: what is checked, said and made, with a back end that draws."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clip_rig import Drawn, DrawnRenderer, drawn
from media import coded, video
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import livebrush
from stream.clips import checks, explain, flags, progress, spread
from stream.clips.backend import Cancelled, Plan
from stream.clips.manifest import digest, load
from stream.clips.timeline import Timeline
from stream.clips.work import folder_of
from stream.errors import ClipError

ROOT = Path(livebrush.__file__).parent


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Drawn:
    """Every clip is drawn, in an empty folder with an empty queue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIVEBRUSH_CLIPS", str(tmp_path / "queue"))
    monkeypatch.setenv("COLUMNS", "100")
    return drawn(monkeypatch)


def clip(*words: Any, code: int = 0) -> Any:
    """The result of `livebrush clip …`, on the back end that draws unless there is a timeline."""
    given = [str(w) for w in words]
    own = [] if "--from" in given or (given and given[0].endswith((".toml", ".json"))) else ["--backend", "drawn"]
    result = CliRunner().invoke(livebrush.app, ["clip", *given, *own])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def errors(*words: Any) -> str:
    """What is said of a wrong clip; nothing was made."""
    before = set(Path.cwd().iterdir())
    said = " ".join(clip(*words, code=2).stderr.split())
    assert set(Path.cwd().iterdir()) == before
    return said


def written(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def still(name: str) -> str:
    Image.fromarray(coded(1)).save(name)
    return name


# ------------------------------------------------------------------------------------------------- making


def test_flags_make_a_clip_with_its_manifest_and_leave_nothing_else() -> None:
    said = clip("--prompt", "a boat", "--frames", 8, "--fps", "30000/1001", "--quality", 20, "-o", "out.mp4")
    assert said.stdout.startswith("out.mp4: 8 frames, 96x64, 29.97 fps, in ")
    made = load(Path("out.mp4"))
    assert (made.timeline.prompt, made.timeline.output.quality, str(made.fps)) == ("a boat", 20, "30000/1001")
    assert {p.name for p in Path.cwd().iterdir()} == {"out.mp4", "out.mp4.json"}


def test_a_timeline_makes_a_clip_and_flags_go_over_it() -> None:
    written("a/clip.toml", 'backend = "drawn"\nframes = 5\nprompt = "x"\n[output]\nquality = 30\ncodec = "h265"\n')
    clip("a/clip.toml", "--frames", 6, "--quality", 25, "-o", "out.mp4")
    made = load(Path("out.mp4")).timeline
    assert (made.frames, made.prompt, made.output.quality, made.output.codec) == (6, "x", 25, "h265")


def test_a_clip_is_rendered_again_from_itself() -> None:
    clip("--prompt", "a", "--frames", 5, "--seed", 3, "-o", "one.mp4")
    clip("--from", "one.mp4", "-o", "two.mp4")
    clip("--from", "one.mp4", "--seed", 4, "-o", "three.mp4")
    one, two, three = (Path(f"{name}.mp4") for name in ("one", "two", "three"))
    assert digest(one) == digest(two) != digest(three)
    assert load(three).timeline.changed(seed=3) == load(one).timeline


def test_a_clip_is_rendered_again_with_something_else() -> None:
    written("base.toml", 'backend = "drawn"\nframes = 6\nprompt = "a"\n[[segments]]\n[[segments]]\nprompt = "own"\n')
    clip("base.toml", "-o", "one.mp4")
    clip("--from", "one.mp4", "--prompt", "b", "--frames", 10, "-o", "two.mp4")
    made = load(Path("two.mp4")).timeline
    assert [(s.prompt, s.start, s.end) for s in made.segments] == [("b", 0, 5), ("own", 5, 10)]
    clip("--from", "two.mp4", "--key", "0:x", "--key", "9:y", "-o", "three.mp4")
    first, second = load(Path("three.mp4")).timeline.segments
    assert ([k.prompt for k in first.keys], second.prompt) == (["x", "y"], "own")


def test_a_clip_that_is_there_is_not_made_again_unless_it_should_be(backend: Drawn) -> None:
    clip("--frames", 4, "-o", "out.mp4")
    assert "is there already" in clip("--frames", 4, "-o", "out.mp4").stdout
    assert len(backend.loaded) == 1
    assert "out.mp4 exists" in errors("--frames", 5, "-o", "out.mp4")
    clip("--frames", 5, "-o", "out.mp4", "--overwrite")
    assert load(Path("out.mp4")).frames == 5


def test_seeds_make_a_clip_each_with_one_model(backend: Drawn) -> None:
    clip("--frames", 3, "--seeds", "2-3,7", "-o", "out.mp4")
    assert {p.name: load(p).seed for p in Path.cwd().glob("*.mp4")} == {"out-2.mp4": 2, "out-3.mp4": 3, "out-7.mp4": 7}
    assert [len(r.calls) for r in backend.loaded] == [3]
    assert backend.loaded[0].closed


def test_a_batch_goes_over_a_timeline_row_by_row() -> None:
    written("base.toml", 'backend = "drawn"\nframes = 3\nprompt = "x"\n[[segments]]\n[[segments]]\n')
    written("in/rows.csv", 'prompt,seed,output.quality,segments.scale,size,output\n"a, b",1,,2,,first.mp4\n'
            "c: d,,20,,64x64,\n")  # fmt: skip
    clip("base.toml", "--batch", "in/rows.csv", "-o", "{row}-{prompt}.mp4")
    one, two = load(Path("first.mp4")).timeline, load(Path("002-c-d.mp4")).timeline
    assert (one.prompt, one.seed, one.output.quality, one.width) == ("a, b", 1, None, None)
    assert (two.prompt, two.seed, two.output.quality, two.width) == ("c: d", 0, 20, 64)
    assert [s.scale for s in one.segments] == [2, 2]


def test_a_batch_in_yaml_has_kinds_of_its_own() -> None:
    written(
        "rows.yaml", "- prompt: a\n  seed: 1\n- keys: [{frame: 0, prompt: b}, {frame: 2, prompt: c}]\n  frames: 4\n"
    )
    clip("--batch", "rows.yaml", "--frames", 5, "-o", "out/{row}.gif", code=2)
    Path("out").mkdir()
    clip("--batch", "rows.yaml", "-o", "out/{row}.gif")
    assert [k.prompt for k in load(Path("out/002.gif")).timeline.segments[0].keys] == ["b", "c"]


def test_one_wrong_row_stops_the_batch_before_it_begins(backend: Drawn) -> None:
    written("rows.csv", "seed,frames\n1,3\nx,3\n2,4000\n")
    said = errors("--batch", "rows.csv", "-o", "out.mp4")
    assert "rows.csv:3: seed is 'x': input should be a valid integer" in said
    assert "frames 4000 is too many" in said
    assert not backend.loaded


def test_one_clip_that_fails_does_not_stop_the_others(backend: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.made = {"error": ClipError("the paint ran out")}
    said = clip("--frames", 3, "--seeds", "1,2", "-o", "out.mp4", code=1)
    assert said.stderr.count("the paint ran out") == 2
    assert [len(r.calls) for r in backend.loaded] == [2]


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn leaves something to go on with."""
    render = DrawnRenderer.render

    def kept(self: DrawnRenderer, timeline: Timeline, folder: Path, watch: Any) -> Any:
        (folder / "latents").touch()
        return render(self, timeline, folder, watch)

    monkeypatch.setattr(DrawnRenderer, "render", kept)


@pytest.mark.usefixtures("lasting")
def test_a_failed_clip_keeps_its_work_and_goes_on(backend: Drawn) -> None:
    backend.made = {"error": ClipError("the paint ran out")}
    assert "failed: out.mp4: the paint ran out" in clip("--frames", 3, "-o", "out.mp4", code=1).stderr
    assert folder_of(Path("out.mp4")).is_dir()
    backend.made = {}
    assert "goes on where it was stopped" in clip("--frames", 3, "-o", "out.mp4").stderr
    assert not folder_of(Path("out.mp4")).exists()


@pytest.mark.usefixtures("lasting")
def test_the_work_of_another_timeline_or_input_is_not_gone_on_with(backend: Drawn) -> None:
    video(Path("in.mp4"), 6)
    given = ("--frames", 3, "--input", "in.mp4", "-o", "out.mp4")
    backend.made = {"error": ClipError("the paint ran out")}
    clip(*given, code=1)
    left = folder_of(Path("out.mp4")) / "more"
    left.touch()
    assert "goes on" in clip(*given, code=1).stderr
    assert left.exists()
    assert "goes on" not in clip(*given, "--seed", 3, code=1).stderr
    assert not left.exists()
    left.touch()
    video(Path("in.mp4"), 7)
    assert "goes on" not in clip(*given, "--seed", 3, code=1).stderr
    assert not left.exists()


def test_a_backend_that_is_not_ready_stops_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, lacks="pip install paint")
    assert "drawn is not ready: pip install paint" in errors("--frames", 3, "-o", "out.mp4")
    assert "pip install paint" in clip("--frames", 3, "--dry-run").stdout


def test_the_built_in_model_makes_a_clip_out_of_two_motions() -> None:
    words = ["clip", "--prompt", "watercolor painting", "--motion", "pan", "--motion", "zoom", "-o", "out.mp4"]
    small = ["--frames", "8", "--window", "4", "--overlap", "1", "--size", "64x64", "--steps", "2"]
    result = CliRunner().invoke(livebrush.app, [*words, *small, "--option", "engine=torch"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("out.mp4: 8 frames, 64x64, 8 fps, in ")
    assert "denoise (step 1 of 2" in result.stderr
    made = load(Path("out.mp4"))
    assert [(s.motion, s.start, s.end, s.fade) for s in made.timeline.segments] == [("pan", 0, 4, 2), ("zoom", 4, 8, 0)]
    assert {p.name for p in Path.cwd().iterdir()} == {"out.mp4", "out.mp4.json"}


def test_motions_that_ship_are_listed() -> None:
    said = CliRunner().invoke(livebrush.app, ["clip", "motions"]).stdout
    for name in ("pan", "zoom", "drift"):
        assert re.search(rf"^{name} .* Apache-2.0", said, re.MULTILINE)


# ------------------------------------------------------------------------------------------------- planning


def test_a_dry_run_says_what_it_would_take_and_does_nothing(backend: Drawn) -> None:
    said = " ".join(clip("--frames", 12, "--fps", 10, "--dry-run").stdout.split())
    for fact in ("frames 12 at 10 a second", "size 96x64", "windows 1", "steps 2", "UNet calls 2", "memory not known",
                 "time not known", "note drawn by hand"):  # fmt: skip
        assert fact in said
    assert list(Path.cwd().iterdir()) == []
    assert not backend.loaded
    assert "3 clips, 6 UNet calls in all" in clip("--seeds", "1-3", "--dry-run").stdout


def test_measured_time_and_memory_are_told() -> None:
    told = dict(progress.summary(Plan(64, 256, 256, "8", 5, 8, 40, 1234.4, 75.2, ("x",))))
    assert (told["memory"], told["time"], told["note"]) == ("about 1,234 MB", "about 1:15", "x")


def test_the_queue_takes_what_was_checked_and_runs_it(backend: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.clips.runner.step_back", lambda: None)  # the tests go on at their own pace
    clip("--frames", 3, "--seeds", "1-2", "-o", "out.mp4", "--queue")
    assert not backend.loaded
    jobs = CliRunner().invoke(livebrush.app, ["clip", "jobs", "list"]).stdout
    names = re.findall(r"video_\w+", jobs)
    assert len(names) == 2
    assert jobs.count("waiting") == 2
    for verb, after in (("cancel", "cancelled"), ("resume", "waiting")):
        assert after in CliRunner().invoke(livebrush.app, ["clip", "jobs", verb, names[0]]).stdout
    made = CliRunner().invoke(livebrush.app, ["clip", "jobs", "run"])
    assert (made.exit_code, made.stdout) == (0, "2 made, 0 failed, 0 cancelled\n"), made.stderr
    assert [load(Path(f"out-{k}.mp4")).seed for k in (1, 2)] == [1, 2]
    for name in names:
        assert CliRunner().invoke(livebrush.app, ["clip", "jobs", "remove", name]).exit_code == 0
    assert "no jobs yet" in CliRunner().invoke(livebrush.app, ["clip", "jobs", "list"]).stdout


def test_backends_are_listed_with_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, lacks="pip install paint")
    said = CliRunner().invoke(livebrush.app, ["clip", "backends"]).stdout
    for name in ("animatediff", "wan", "svd", "http", "drawn"):
        assert re.search(rf"^{name} ", said, re.MULTILINE)
    assert "drawn lacks pip install paint" in said
    assert "--licence svd" in said
    one = CliRunner().invoke(livebrush.app, ["clip", "backends", "wan"])
    assert "4k+1, at most 81" in one.stdout
    assert "torchao-int8" in one.stdout
    assert "did you mean wan" in CliRunner().invoke(livebrush.app, ["clip", "backends", "wann"]).stderr


# ------------------------------------------------------------------------------------------------- stopping

SLOWLY = """
import sys, time
import livebrush, clip_rig, stream.clips.families as families
families.FAMILIES["drawn"] = "clip_rig:BACKEND"
draw = clip_rig.drawing
def slow(*given):
    time.sleep(0.05)
    return draw(*given)
clip_rig.drawing = slow
render = clip_rig.DrawnRenderer.render
def kept(self, timeline, folder, watch):
    (folder / "latents").touch()
    return render(self, timeline, folder, watch)
clip_rig.DrawnRenderer.render = kept
livebrush.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_stops_within_a_window_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["clip", "--backend", "drawn", "--frames", "2000", "-o", "out.mp4"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    job = subprocess.Popen([sys.executable, "-c", SLOWLY, *words], env=environment, stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("decod"):
            break
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 130, said
    assert "stopped: out.mp4 is not written: the same command" in said
    assert max(map(int, re.findall(r"decoding: (\d+) of", said)), default=0) < 1000
    assert {p.name for p in tmp_path.iterdir()} == {".out.mp4.livebrush"}


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--frames", 10**9], "--frames: frames is 1000000000: input should be less than or equal to 100000"),
        (["--fps", "1/0"], "--fps: fps '1/0' is no rate: use e.g. 24, 12.5 or 30000/1001"),
        (["--size", "100x64"], "--size: width 100 is not a multiple of 8: use 96 or 104"),
        (["--size", "big"], "size 'big' is no size"),
        (["--input", "gone.mp4"], "--input: input gone.mp4 is not there"),
        (["--input", "camera:1"], "--input: camera:1 has no end: record it to a file first"),
        (["--keyframe", "0:gone.png"], "--keyframe: input gone.png is not there"),
        (["--keyframe", "gone.png"], "--keyframe 'gone.png' is not FRAME:IMAGE: use e.g. 0:image"),
        (["--keyframe", "64:a.png"], "--keyframe: keyframe 1: frame 64 is not in the clip: its frames are 0 to 63"),
        (["--keyframe", "3:a.txt"], "--keyframe: keyframe 1: image a.txt is no picture"),
        (["--audio", "gone.wav"], "--audio: gone.wav is not there"),
        (["--upscaler", "gone.pth"], "--upscaler: gone.pth is not there"),
        (["--lora", "gone.safetensors"], "--lora: gone.safetensors is not there"),
        (["--motion-lora", "./a/b"], "--motion-lora: ./a/b is not there"),
        (["--motion", "pan", "--motion", "zoom", "--fade", 70], "--fade: segment 1: its cross-fades take 0 + 35"),
        (["--key", "3:a"], "--key: keys: the first is at frame 3"),
        (["--key", "0:a", "--prompt", "b"], "--key: prompt and keys are both given"),
        (["--camera", "x"], "--camera 'x' is not NAME=NUMBER"),
        (["--camera", "zom=2"], "--camera: 'zom' is not a key of segment 1: camera: did you mean zoom?"),
        (["--control", "a", "--control-input", "gone.mp4"], "--control: input gone.mp4 is not there"),
        (["--option", "x"], "--option 'x' is not NAME=VALUE"),
        (["--seeds", "8-1"], "seeds 8-1 are reversed: use 1-8"),
        (["--seeds", "1;2"], "seeds '1;2' are no list of seeds: use e.g. 1-8 or 1,5,9"),
        (["--seeds", "0-999999999999"], "are 1000000000000 clips: use at most 10000"),
        (["--seeds", "1-2", "-o", "same{prompt}.mp4"], "output has {prompt} in its name: use one of {row}, {seed}"),
        (["--batch", "rows.txt"], "batch rows.txt is of no known kind: use .csv or .yaml"),
        (["--from", "gone.mp4"], "clip gone.mp4 is not there"),
        (["clip.txt"], "timeline clip.txt is of no known kind: use .toml or .json"),
        (["--codec", "vp9", "-o", "out.mov"], ".mov takes prores or h264 or h265, not vp9"),
        (["--audio", "generate", "-o", "out.gif"], "out.gif holds no sound: use a video, or audio none"),
        (["-o", "gone/out.mp4"], "gone for output out.mp4 is not there: make it first"),
    ],
)  # fmt: skip
def test_mistakes_in_flags_are_told_with_the_flag(backend: Drawn, words: list[Any], told: str) -> None:
    assert told in errors(*words, *([] if "-o" in words else ["-o", "out.mp4"]))
    assert not backend.loaded


def test_an_unknown_backend_names_the_nearest() -> None:
    result = CliRunner().invoke(livebrush.app, ["clip", "--backend", "drawm", "-o", "a.mp4"])
    assert result.exit_code == 2
    assert "--backend: backend 'drawm' is unknown: did you mean drawn?" in " ".join(result.stderr.split())


def test_without_an_output_it_is_asked_for() -> None:
    assert "no output: say -o out.mp4" in errors("--frames", 3)


MISTAKES = """\
# all of these are wrong
frames = "64"
promt = "x"
backend = "drawn"

fps = [
  25,
]
loras = [
  # the first is right
  { source = "owner/name", strength = 1 },
  { source = "owner/name", strenght = 2 },
]
[output]
codec = "h263"
[[segments]]
motion = "pan"
[[segments]]

# here too
motoin = "zoom"
quality = 3
keys = [ { frame = 0 } ]
"""


def test_every_mistake_in_a_file_is_told_with_its_line() -> None:
    said = errors(written("clip.toml", MISTAKES), "-o", "a.mp4")
    for told in ("clip.toml:2: frames is '64': input should be a valid integer",
                 "clip.toml:3: 'promt' is not a key: did you mean prompt?",
                 "clip.toml:6: fps [25] is no rate",
                 "clip.toml:12: 'strenght' is not a key of lora 2: did you mean strength?",
                 "clip.toml:15: output.codec is 'h263'",
                 "clip.toml:21: 'motoin' is not a key of segment 2: did you mean motion?",
                 "clip.toml:22: 'quality' is not a key of segment 2: it is a key of output",
                 "clip.toml:23: segment 2: key 1 has no prompt: say it"):  # fmt: skip
        assert told in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('frames = 8\n\n[[segments]]\nend = 3\n[[segments]]\nstart = 5\n', "clip.toml:6: segments 1 and 2 leave a gap"),
        ('frames = 8\n[[segments]]\nend = 5\n[[segments]]\nstart = 3\n', "clip.toml:5: segments 1 and 2 overlap"),
        ('frames = 8\n[[segments]]\n[[segments]]\nfade = 2\n', "clip.toml:4: segment 2: fade has no next segment"),
        ('frames = 8\nkeys = [\n {frame=0, prompt="a"},\n {frame=9, prompt="b"},\n]', "clip.toml:4: keys: frame 9 is"),
        ('prompt = """\na\n"""\ninput = "gone.mp4"\n', "clip.toml:4: input gone.mp4 is not there"),
        ('[[keyframes]]\nframe = 0\nimage = "gone.png"\n', "clip.toml:3: input gone.png is not there"),
        ('[[segments]]\nmotion_loras = [{source = "x.safetensors"}]\n', "clip.toml:2: x.safetensors is not there"),
        ("frames = 8\nframes = 9\n", "clip.toml is not valid TOML: Cannot overwrite a value (at line 2, column 11)"),
        ("frames = \n", "clip.toml is not valid TOML: Invalid value (at line 1, column 10)"),
        ("prompt = 2024-01-01\n", "clip.toml:1: prompt is datetime.date(2024, 1, 1): input should be a valid string"),
        ("seed = true\n", "clip.toml:1: seed is True: input should be a valid integer"),
        ("strength = nan\n", "clip.toml:1: strength is nan: input should be a finite number"),
        ("output = 3\n", "clip.toml:1: output is 3: expected a table with codec, quality"),
        ("segments = 3\n", "clip.toml:1: segments is 3: expected a list"),
        ("[segments]\nend = 3\n", "clip.toml:1: segments is {'end': 3}: expected a list, so write [[segments]]"),
        ('input = ""\n', "clip.toml:1: input is empty: name a file, or leave it out"),
        ("loras = ['x']\n", "clip.toml:1: lora 1 is 'x': expected a table with source, strength"),
    ],
)  # fmt: skip
def test_a_mistake_in_toml(text: str, told: str) -> None:
    assert told in errors(written("clip.toml", text), "--backend", "drawn", "-o", "a.mp4")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{\n\t"frames": 8,\n\t"segments": [\n\t\t{"end": 3},\n\t\t{"start": 5}\n\t]\n}', "clip.json:5: segments 1"),
        ('{"prompt": "\\ud83d\\ude00 \\/",\n"output":\n {"quality":\n 99}}', "clip.json:3: output.quality is 99"),
        ('{"seed": 1,\n "seed": 2}', "clip.json is not valid JSON: 'seed' is there twice in one object"),
        ("[1]", "clip.json holds a list: expected one object"),
        ('{"seed": 1', "clip.json is not valid JSON: Expecting ',' delimiter: line 1 column 11"),
        ('{"prompt": "\\ud83d"}', "clip.json: a value cannot be kept"),
        ("[" * 5000, "clip.json is not valid JSON"),
        ('{"frames": null}', "clip.json:1: frames is None: input should be a valid integer"),
    ],
)  # fmt: skip
def test_a_mistake_in_json(text: str, told: str) -> None:
    assert told in errors(written("clip.json", text), "--backend", "drawn", "-o", "a.mp4")


def test_files_of_a_timeline_lie_beside_it(backend: Drawn) -> None:
    Path("a").mkdir()
    video(Path("a/in.mp4"), 6)
    still("a/first.png")
    written(
        "a/clip.toml",
        'backend = "drawn"\nframes = 3\ninput = "in.mp4"\n[[keyframes]]\nframe = 0\nimage = "first.png"\n',
    )
    clip("a/clip.toml", "-o", "out.mp4")
    assert set(load(Path("out.mp4")).inputs) == {"in.mp4", "first.png"}
    Path("a/in.mp4").write_bytes(b"no video")
    assert "clip.toml:3: a/in.mp4 cannot be read as a video" in errors("a/clip.toml", "-o", "b.mp4")


def test_a_clip_is_as_long_as_its_input_and_of_its_shape_unless_it_says_otherwise() -> None:
    video(Path("in.mp4"), 6, size=(160, 320))
    still("photo.png")

    def asked(**table: Any) -> tuple[Any, ...]:
        made = checks.like_input(table)
        return made.get("frames"), made.get("width"), made.get("height")

    assert asked(input="in.mp4") == (6, 192, 384)
    assert asked(input="in.mp4", model="sd-turbo") == (6, 384, 768)
    assert asked(input="in.mp4", frames=3, width=64) == (3, 64, None)
    assert asked(input="photo.png", backend="wan") == (None, 768, 512)
    assert asked(input="gone.mp4") == asked() == (None, None, None)
    clip("--input", "in.mp4", "-o", "a.mp4")
    assert load(Path("a.mp4")).frames == 6


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed,seed\n1,2\n", "rows.csv:1: a column is there twice"),
        ("seed,prompt\n1\n", "rows.csv:2: expected 2 fields, as in the first line"),
        ("seed\n", "batch rows.csv has 0 rows"),
        ("sede\n3\n", "rows.csv:2: 'sede' is not a key: did you mean seed?"),
        ("size\nbig\n", "rows.csv:2: size 'big' is no size"),
        ("output.qualty\n3\n", "rows.csv:2: 'qualty' is not a key of output: did you mean quality?"),
        ("prompt,output\na,x.mp4\nb,x.mp4\n", "output x.mp4 is named for several clips"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_batch(text: str, told: str) -> None:
    assert told in errors("--batch", written("rows.csv", text), "-o", "a.mp4")


@pytest.mark.parametrize(
    ("text", "told"),
    [("- [1]\n", "rows.yaml:1: expected a table"), ("a: 1\n", "holds a dict: expected a list"),
     ("- {a: 1\n", "is not valid YAML"), ("- seed: 1\n- seed: x\n", "rows.yaml:2: seed is 'x'")],
)  # fmt: skip
def test_a_mistake_in_yaml(text: str, told: str) -> None:
    assert told in errors("--batch", written("rows.yaml", text), "-o", "a.mp4")


# ------------------------------------------------------------------------------------------------- flags and words


def test_every_plain_key_is_a_flag_with_its_help() -> None:
    text = "".join(CliRunner().invoke(livebrush.app, ["clip", "--help"]).output.split())
    for name, (_, fact) in flags.plain().items():
        assert f"--{name.replace('_', '-')}" in text
        assert "".join(str(fact.description).split()) in text
    assert "(1to100000;default:64)" in text
    assert "static|looped|batched" in text


def test_flags_of_their_own_form_reach_the_timeline() -> None:
    Path("a").mkdir()
    still("a/p.png")
    forms = flags.Forms("512x288", ["pan", "zoom"], ["o/m:0.5"], ["o/l:0.8"], ["0:a", "8:b: c"],
                        ["0:a/p.png", "63:a/p.png:0.5"], "x=0.5,rotate=-2", "o/c", "in.mp4", ["4:a/p.png"], 0.7,
                        ["blur=3", "name=x y"])  # fmt: skip
    made = Timeline.model_validate(flags.flags({"scale": 2.0, "fade": 4, "quality": 20}, forms).over({"seed": 3}))
    assert (made.width, made.height, made.seed, made.output.quality) == (512, 288, 3, 20)
    assert [(s.motion, s.scale, s.fade) for s in made.segments] == [("pan", 2, 4), ("zoom", 2, None)]
    assert made.segments[1].camera is not None
    assert (made.segments[1].camera.x, made.segments[1].camera.rotate) == (0.5, -2)
    assert [(x.source, x.strength) for x in (*made.loras, *made.segments[0].motion_loras)] == [
        ("o/l", 0.8),
        ("o/m", 0.5),
    ]
    assert [(k.frame, k.prompt) for k in made.keys] == [(0, "a"), (8, "b: c")]
    assert [(k.frame, k.image, k.strength) for k in made.keyframes] == [(0, "a/p.png", 1), (63, "a/p.png", 0.5)]
    assert made.control is not None
    assert (made.control.model, made.control.input, made.control.scale) == ("o/c", "in.mp4", 0.7)
    assert made.control.keyframes[0].frame == 4
    assert made.options == {"blur": 3, "name": "x y"}


def test_a_prompt_on_the_command_line_replaces_keys_of_a_file() -> None:
    table = {"keys": [{"frame": 0, "prompt": "a"}]}
    assert flags.flags({"prompt": "b"}, flags.Forms()).over(table) == {"prompt": "b"}
    assert "prompt" not in flags.flags({}, flags.Forms(keys=["0:c"])).over({"prompt": "x"})


def test_keys_of_a_timeline_are_all_known_by_name() -> None:
    known = dict(explain.keys())
    assert {"frames", "output.codec", "segments.keys.prompt", "segments.camera.zoom", "loras.strength"} <= set(known)
    assert all(fact is None or fact.description for fact in known.values())


def test_seeds_are_read_in_order_and_once() -> None:
    assert spread.seeds("3, 1-2,1,9") == [3, 1, 2, 9]


# ------------------------------------------------------------------------------------------------- progress


class Moments:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_says_step_window_and_time_left() -> None:
    console, clock = Console(record=True, force_terminal=False, width=100, quiet=False), Moments()
    from threading import Event

    stop = Event()
    watch = progress.Shown(progress.Lines(console, clock), stop, Plan(64, 256, 256, "8", 5, 4, 20, None, None))
    for done in range(11):
        clock.now = done * 1.0
        watch.tell("denoise", done, 20)
    watch.tell("decode", 8, 8)
    stop.set()
    with pytest.raises(Cancelled):
        watch.tell("decode", 8, 8)
    said = console.export_text().splitlines()
    assert said[0] == "denoise (step 1 of 4, window 1 of 5): 0 of 20"
    assert said[1] == "denoise (step 1 of 4, window 3 of 5): 2 of 20, 0:18 left"
    assert "denoise (step 3 of 4, window 1 of 5): 10 of 20, 0:10 left" in said
    assert said[-2] == "decode: 8 of 8"


def test_progress_on_a_terminal_is_a_bar_for_each_stage() -> None:
    console = Console(record=True, force_terminal=True, width=100)
    with progress.showing(console) as show:
        show("denoise (step 1 of 4)", 5, 20)
        show("decode", 3, 8)
    said = console.export_text()
    assert "5/20" in said
    assert "3/8" in said


def test_the_manifest_beside_a_clip_says_its_timeline() -> None:
    clip("--frames", 3, "--option", "depth=2", "-o", "out.gif")
    assert json.loads(Path("out.gif.json").read_text())["timeline"]["options"] == {"depth": 2}
