"""Live sinks by themselves: what is asked for, and what each kind does with pictures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from outlet_rig import SIZE, beeps, decoded, kept, opus, picture, register

from stream.errors import SinkError
from stream.frame import Frame, Image
from stream.sinks import live, network, record
from stream.sinks.live import check, connect, recognise
from stream.sinks.muxed import Muxed, Way
from stream.sinks.muxed import kept as kept_quality
from stream.sinks.record import Recording, taken
from stream.sinks.tracks import opus_samples
from stream.sinks.virtualcam import VirtualCamera

# ------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("text", "kind", "where"), [
    ("virtualcam", "virtualcam", ""),
    ("virtualcam:/dev/video2", "virtualcam", "/dev/video2"),
    ("ndi:Livebrush", "ndi", "Livebrush"),
    ("spout:Name", "spout", "Name"),
    ("syphon:Name", "syphon", "Name"),
    ("srt://127.0.0.1:9000?mode=caller", "srt", "srt://127.0.0.1:9000?mode=caller"),
    ("udp://239.0.0.1:1234", "udp", "udp://239.0.0.1:1234"),
    ("rtmp://host/app/key", "rtmp", "rtmp://host/app/key"),
    ("rtsp://host:8554/live", "rtsp", "rtsp://host:8554/live"),
    ("record:show.mp4", "record", "show.mp4"),
    ("painted.ts", "record", "painted.ts"),
    ("C:\\shows\\painted.mkv", "record", "C:\\shows\\painted.mkv"),
])  # fmt: skip
def test_an_outputs_name_says_what_it_is(text: str, kind: str, where: str) -> None:
    target = recognise(text)
    assert (target.kind, target.where) == (kind, where)


@pytest.mark.parametrize(("text", "says"), [
    ("nonsense", "use virtualcam, virtualcam:/dev/video2, ndi:NAME"),
    ("http://somewhere/", "of no known kind"),
    ("file:///etc/passwd.ts", "of no known kind"),
    ("concat:a.ts|b.ts://", "of no known kind"),
    ("srt://host", "has no port: use srt://HOST:PORT"),
    ("udp://host:99999", "is no URL"),
    ("rtmp:///app", "has no host"),
    ("record:show.avi", "names no recording: use a file that ends in .mp4 .ts .mkv"),
    ("ndi:\x00", "printable"),
    ("n" * 2000, "at most 1000 printable characters"),
])  # fmt: skip
def test_what_is_no_output_is_told_so(text: str, says: str) -> None:
    with pytest.raises(SinkError, match="output ") as refused:
        recognise(text)
    assert says in str(refused.value)
    assert "fake" not in str(refused.value), "kinds for tests are nobody's business"


@pytest.mark.parametrize(("text", "shown"), [
    ("rtmp://live.example/app/sk_secret", "rtmp://live.example/app/***"),
    ("rtmps://me:pass@live.example/app/sk_secret?token=x", "rtmps://live.example/app/***"),
    ("srt://host:9000?passphrase=hush&latency=200&streamid=abc", "srt://host:9000?latency=200"),
    ("rtsp://me:pass@host/live", "rtsp://host/live"),
    ("record:/home/me/private/show.mp4", "record:show.mp4"),
    ("ndi:Stage left", "ndi:Stage left"),
])  # fmt: skip
def test_what_everybody_sees_has_no_secrets(text: str, shown: str) -> None:
    target = recognise(text)
    assert target.shown == shown
    told = target.hides(f"{target.where} cannot be reached")
    assert not any(word in told for word in ("secret", "pass@", "hush", "private"))


def test_every_kind_says_whether_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: why for name, _, why in live.usable()}
    assert set(found) == set(live.KINDS) - {"fake"}
    assert found["udp"] is found["record"] is None
    for package in ("pyvirtualcam", "pyvirtualcam.camera", "cyndilib"):
        monkeypatch.setitem(sys.modules, package, None)
    assert live.missing("virtualcam") == "pip install 'livebrush[virtualcam]'"
    assert live.missing("ndi") == "pip install 'livebrush[ndi]'"
    with pytest.raises(SinkError, match=r"output ndi:X cannot be used here: pip install 'livebrush\[ndi\]'"):
        check("ndi:X")
    for system, kind in (("win32", "spout"), ("darwin", "syphon")):
        assert "use ndi:NAME or virtualcam here" in str(live.missing(kind))
        monkeypatch.setattr(sys, "platform", system)
        assert live.missing(kind) == "pip install 'livebrush[textures]'"
    monkeypatch.setattr(network, "FFMPEG", "no-such-ffmpeg")
    assert "install ffmpeg, or use udp://HOST:PORT" in str(live.missing("srt"))


# ------------------------------------------------------------------------------------------------- the virtual camera


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Path]:
    """The folder to which a backend of pyvirtualcam's writes its pictures."""
    import pyvirtualcam.camera

    register(str(tmp_path))
    yield tmp_path
    del pyvirtualcam.camera.BACKENDS["kept"]


def test_the_virtual_camera_gets_every_picture_as_it_is(backend: Path) -> None:
    assert live.missing("virtualcam") is None
    sink = connect(recognise("virtualcam:/dev/video7"))
    sink.open(SIZE, 25.0)
    for number in range(12):
        sink.show(Frame(picture(number)))
    sink.close()
    pictures = kept(backend)
    assert len(pictures) == 12
    for number, image in enumerate(pictures):
        np.testing.assert_array_equal(image, picture(number))
    (told,) = (json.loads(p.read_text()) for p in backend.glob("*.json"))
    assert (told["fps"], told["device"]) == (25.0, "/dev/video7")
    assert list(backend.glob("*.closed"))


def test_a_virtual_camera_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(SinkError, match=r"the virtual camera does not open \(.*\): .*modprobe v4l2loopback"):
        VirtualCamera("/dev/no-such-device").open(SIZE, 30)


# ------------------------------------------------------------------------------------------------- Spout and Syphon


class SpoutSender:
    """SpoutGL's, with the signatures of its binding (PySpoutGL.cpp)."""

    made: list[SpoutSender] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.made.append(self)

    def setSenderName(self, name: str, /) -> None:
        self.calls.append(("name", name))

    def sendImage(
        self, pixelBuffer: Any, height: int, width: int, glFormat: int, invert: bool, hostFbo: int, /
    ) -> bool:
        """The binding calls the first side height and hands it on as the width."""
        pixels = memoryview(pixelBuffer)
        assert pixels.c_contiguous
        assert pixels.nbytes == width * height * 4
        self.calls.append(("image", np.array(pixels), (height, width), glFormat, invert, hostFbo))
        return True

    def setFrameSync(self, name: str, /) -> None:
        self.calls.append(("sync", name))

    def releaseSender(self) -> None:
        self.calls.append(("released",))


def rgba(image: Image) -> Image:
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])


def test_spout_gets_rgba_the_right_way_up(monkeypatch: pytest.MonkeyPatch) -> None:
    package, enums = ModuleType("SpoutGL"), ModuleType("SpoutGL.enums")
    package.SpoutSender, enums.GL_RGBA = SpoutSender, 0x1908  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "SpoutGL", package)
    monkeypatch.setitem(sys.modules, "SpoutGL.enums", enums)
    monkeypatch.setattr(sys, "platform", "win32")
    sink = connect(check("spout:Stage"))
    sink.open(SIZE, 30)
    sink.show(Frame(picture(3)))
    sink.close()
    name, image, sync, released = SpoutSender.made[-1].calls
    assert (name, sync, released) == (("name", "Stage"), ("sync", "Stage"), ("released",))
    np.testing.assert_array_equal(image[1], rgba(picture(3)))
    assert image[2:] == (SIZE, 0x1908, False, 0)
    monkeypatch.setattr(SpoutSender, "sendImage", lambda *_: False)
    sink.open(SIZE, 30)
    with pytest.raises(SinkError, match="DirectX 11"):
        sink.show(Frame(picture(0)))


class Texture:
    def __init__(self, device: Any, width: int, height: int, pixel_format: int = 70) -> None:
        self.device, self.size = device, (width, height)
        self.image: Image | None = None


class SyphonMetalServer:
    """syphon-python's, with its signatures."""

    made: list[SyphonMetalServer] = []  # noqa: RUF012

    def __init__(self, name: str, device: Any = None, command_queue: Any = None) -> None:
        self.name, self.device, self.published, self.stopped = name, "gpu", [], False
        self.made.append(self)

    def publish_frame_texture(self, texture: Texture, region: Any = None, size: Any = None, is_flipped: bool = False,
                              command_buffer: Any = None, auto_commit: bool = True) -> None:  # fmt: skip
        assert texture.image is not None
        self.published.append((texture.image.copy(), is_flipped))

    def stop(self) -> None:
        self.stopped = True


class SyphonServerDirectory:
    waited: list[float] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.run_loop_interval = 1.0

    def update_run_loop(self) -> None:
        self.waited.append(self.run_loop_interval)


def copy_image_to_mtl_texture(image: Image, texture: Texture) -> None:
    assert image.shape == (texture.size[1], texture.size[0], 4)
    texture.image = image


def test_syphon_gets_a_flipped_texture_and_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    package, utils = ModuleType("syphon"), ModuleType("syphon.utils")
    arrays, raw = ModuleType("syphon.utils.numpy"), ModuleType("syphon.utils.raw")
    vars(package).update(SyphonMetalServer=SyphonMetalServer, SyphonServerDirectory=SyphonServerDirectory)
    vars(arrays)["copy_image_to_mtl_texture"], vars(raw)["create_mtl_texture"] = copy_image_to_mtl_texture, Texture
    for module in (package, utils, arrays, raw):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "platform", "darwin")
    sink = connect(check("syphon"))
    sink.open(SIZE, 30)
    sink.show(Frame(picture(5)))
    sink.close()
    server = SyphonMetalServer.made[-1]
    ((image, flipped),) = server.published
    np.testing.assert_array_equal(image, rgba(picture(5)))
    assert (server.name, flipped, server.stopped) == ("Livebrush", True, True)
    assert SyphonServerDirectory.waited == [0.0005], "a picture must not wait for the system's messages"


# ------------------------------------------------------------------------------------------------- recordings


def recorded(path: Path, count: int = 45, size: tuple[int, int] = SIZE, step: float = 1 / 30) -> Recording:
    sink = Recording(path)
    sink.open(size, 30)
    for number in range(count):
        sink.show(Frame(picture(number, size), captured_at=100 + number * step))
    return sink


@pytest.mark.parametrize("name", ["show.mp4", "show.ts", "show.mkv"])
def test_a_recording_has_every_picture_at_its_time_in_true_colours(tmp_path: Path, name: str) -> None:
    recorded(tmp_path / name, step=1 / 20).close()
    frames = decoded(tmp_path / name)
    assert len(frames) == 45
    times = np.array([float(f.pts * f.time_base) for f in frames if f.pts is not None and f.time_base is not None])
    np.testing.assert_allclose(times - times[0], np.arange(45) / 20, atol=0.0011)
    assert (frames[0].colorspace, frames[0].color_range) == (1, 1)  # BT.709, limited
    for number in (0, 21, 44):
        seen = frames[number].to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range=1, dst_color_range=2)
        assert np.abs(seen[40:, :].astype(int) - picture(number)[40:, :]).max() <= 6
        assert np.abs(seen[14:18, 14 + number % 40].astype(int) - (250, 40, 90)).max() <= 24


def test_a_recording_has_a_key_frame_every_second_and_takes_odd_sizes(tmp_path: Path) -> None:
    recorded(tmp_path / "odd.mp4", 90, (97, 65)).close()
    frames = decoded(tmp_path / "odd.mp4")
    assert (frames[0].width, frames[0].height) == (96, 64)
    assert [n for n, frame in enumerate(frames) if frame.key_frame] == [0, 30, 60]


@pytest.mark.parametrize("name", ["show.mp4", "show.ts", "show.mkv"])
def test_a_recording_that_is_never_finished_plays(tmp_path: Path, name: str) -> None:
    """All but the last fragment, a quarter of a second, lies in the file at every moment."""
    sink = recorded(tmp_path / name, 60)
    left = tmp_path / f"left-{name}"
    shutil.copyfile(tmp_path / name, left)  # as a kill would leave it
    sink.close()
    assert len(decoded(left)) >= 60 - 9


@pytest.mark.parametrize("name", ["show.mp4", "show.ts", "show.mkv"])
def test_sound_is_in_step_with_the_picture(tmp_path: Path, name: str) -> None:
    """Packets of Opus go in as they come: some late, one lost, all by the pictures' clock."""
    sink = Recording(tmp_path / name)
    sink.sounds = True
    sink.open(SIZE, 30)
    packets = opus(3, (0.5, 2.0))
    coming = [(number * 0.02, packet) for number, packet in enumerate(packets) if number != 60]
    for number in range(90):
        moment = number / 30
        sink.show(Frame(picture(number), captured_at=1000 + moment))
        while coming and coming[0][0] <= moment:
            at, packet = coming.pop(0)
            sink.hear(packet, 1000 + at + (0.015 if number % 7 == 0 else 0.0))
    sink.close()
    frames = decoded(tmp_path / name)
    assert len(frames) == 90
    first = float(frames[0].pts * frames[0].time_base)  # type: ignore[operator]
    found = [at - first for at in beeps(tmp_path / name)]
    assert found == pytest.approx([0.5, 2.0], abs=0.03)


def test_sound_for_those_who_know_no_opus_is_in_step_too(tmp_path: Path) -> None:
    """A packet that is damaged costs its own sound only."""
    muxed = Muxed(str(tmp_path / "show.flv"), Way("flv", {}, sound="aac"), SIZE, 30, kept_quality(), sounds=True)
    packets = [p if number != 60 else b"\x00" + bytes(50) for number, p in enumerate(opus(3, (0.5, 2.0)))]
    for number in range(90):
        muxed.write(Frame(picture(number), captured_at=1000 + number / 30))
        while packets and (at := (150 - len(packets)) * 0.02) <= number / 30:
            muxed.hear(packets.pop(0), 1000 + at)
    muxed.close()
    with av.open(str(tmp_path / "show.flv")) as container:
        assert [stream.codec.name for stream in container.streams] == ["h264", "aac"]
    frames = decoded(tmp_path / "show.flv")
    assert len(frames) == 90
    first = float(frames[0].pts * frames[0].time_base)  # type: ignore[operator]
    assert [at - first for at in beeps(tmp_path / "show.flv")] == pytest.approx([0.5, 2.0], abs=0.03)


def test_how_long_a_packet_of_opus_is() -> None:
    assert [opus_samples(p) for p in opus(0.06, ())] == [960] * 3
    for first, samples in ((0b00000_0_00, 480), (0b00011_0_00, 2880), (0b01101_0_01, 1920), (0b10000_0_00, 120)):
        assert opus_samples(bytes([first, 1])) == samples
    assert opus_samples(bytes([0b11111_0_11, 3])) == 2880
    assert opus_samples(b"") == opus_samples(b"\xff") == 0


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / "show.mp4"
    precious.write_bytes(b"precious")
    for _ in range(3):
        recorded(precious, 8).close()
    assert precious.read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 4
    now = datetime(2026, 11, 28, 20, 15, 3)
    names = [taken(tmp_path / "a.ts", now).name for _ in range(3)]
    assert names == ["a.ts", "a-2026-11-28-20.15.03.ts", "a-2026-11-28-20.15.03-2.ts"]


def test_a_full_disk_stops_a_recording_that_then_still_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = recorded(tmp_path / "show.mp4", 40)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(record.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(record, "LOOK_S", 0.0)
    with pytest.raises(SinkError, match=r"no room on the disk for .*show\.mp4: free some space"):
        sink.show(Frame(picture(40)))
    with pytest.raises(SinkError, match="no room on the disk"):
        Recording(tmp_path / "next.mp4").open(SIZE, 30)
    assert not (tmp_path / "next.mp4").exists(), "a try that fails leaves no file"
    sink.close()
    assert len(decoded(tmp_path / "show.mp4")) == 40


FILLS = """
import resource, sys
from pathlib import Path
import av
import numpy as np
from stream.frame import Frame
from stream.errors import SinkError
from stream.sinks.record import Recording
sink = Recording(Path(sys.argv[1]))
sink.open((96, 64), 30)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
rng = np.random.default_rng(0)
try:
    for number in range(1000):
        sink.show(Frame(rng.integers(0, 256, (64, 96, 3), np.uint8), captured_at=number / 30))
except SinkError as error:
    print(number, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_write_that_fails_is_told_and_what_was_written_plays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILLS, str(tmp_path / "show.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    number, said = done.stdout.split(" ", 1)
    assert "show.mp4 cannot be written (File too large)" in said, done
    assert int(number) - 20 <= len(decoded(tmp_path / "show.mp4", torn=True)) <= int(number)


RECORDS = """
import sys, time
from pathlib import Path
from outlet_rig import picture
from stream.frame import Frame
from stream.sinks.record import Recording
sink = Recording(Path(sys.argv[1]))
sink.open((96, 64), 30)
number = 0
while True:
    sink.show(Frame(picture(number), captured_at=number / 30))
    number += 1
    print(number, flush=True)
    time.sleep(0.003)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_recording_killed_at_any_moment_plays(tmp_path: Path) -> None:
    """SIGKILL after 40 pictures, and after some milliseconds more each time."""
    for turn, seconds in enumerate((0.0, 0.004, 0.011)):
        path = tmp_path / f"{turn}.mp4"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen([sys.executable, "-c", RECORDS, path], stdout=subprocess.PIPE, text=True,
                                   env=environment)  # fmt: skip
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if int(line) >= 40:
                    break
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            last = int((process.stdout.read().split() or [line])[-1])
        process.wait()
        assert len(decoded(path)) >= min(40, last) - 9


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"folder .*nowhere for the recording is not there: make it first"):
        Recording(tmp_path / "nowhere" / "show.mp4").open(SIZE, 30)
