"""Sources that are live: the screen, addresses, NDI, and how the server shares them out, loses them and finds them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from media import number, numbers, video
from source_rig import FPS, NO_X, Rtsp, Screen, Told, Web, after, free_port, transport_stream, xvfb
from typer.testing import CliRunner
from waiting import comes_to, run, until
from webrig import SDP, WATCHES, Room, served
from websockets.sync.client import connect

import livebrush
from stream.errors import SourceError
from stream.fakes import EchoModel
from stream.sources import camera, check, kind_of, listed, open_source, shown, url, windows
from stream.sources.relay import Relay
from web import inputs, pump
from web.config import Access
from web.errors import RefusalError
from web.inputs import Pumps

RED, GREEN, BLUE = 0xFF0000, 0x00FF00, 0x0000FF


# ------------------------------------------------------------------------------------------------- the screen


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    with xvfb() as name:
        yield name


@pytest.fixture
def screen(display: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """An empty display, which programs find."""
    monkeypatch.setenv("DISPLAY", display)
    made = Screen(display)
    yield made
    for child in made.root.query_tree().children:
        child.destroy()
    made.settle()
    made.close()


needs_x = pytest.mark.skipif(bool(NO_X), reason=NO_X)


@needs_x
def test_the_screen_is_taken_as_it_is(screen: Screen) -> None:
    screen.window("one", (100, 50, 200, 100), RED)
    screen.window("two", (400, 300, 100, 100), BLUE)
    before = time.monotonic()
    with open_source("screen") as source:
        frames = iter(source)
        first, second = next(frames), next(frames)
    image = first.image
    assert (source.size, image.dtype, source.endless) == ((640, 400), np.uint8, True)
    assert [tuple(image[y, x]) for x, y in ((100, 50), (299, 149), (400, 300), (0, 0))] == [
        (255, 0, 0), (255, 0, 0), (0, 0, 255), (0, 0, 0)]  # fmt: skip
    assert tuple(image[50, 300]) == tuple(image[150, 100]) == (0, 0, 0), "not a pixel more"
    assert 0.025 < second.seconds - first.seconds < 0.5
    assert before < first.captured_at < second.captured_at < time.monotonic()


@needs_x
def test_a_part_of_the_screen(screen: Screen) -> None:
    screen.window("one", (100, 50, 200, 100), GREEN)
    with open_source("screen:100,50,64x32") as source:
        image = next(iter(source)).image
        assert image.shape == (32, 64, 3)
        assert (image == (0, 255, 0)).all()
    with open_source("screen:-20,390,100x100") as source:
        assert source.size == (80, 10), "what of it is on the screen"
    with pytest.raises(SourceError, match=r"is not on the screen \(640x400 at 0,0\): move it there"):
        open_source("screen:640,0,100x100")
    with pytest.raises(SourceError, match="screen:2 is not there: use screen"):
        open_source("screen:2")


@needs_x
def test_a_window_is_found_by_its_title_and_followed(screen: Screen) -> None:
    screen.window("below", (0, 0, 640, 400), BLUE)
    window = screen.window("Präsentation – Folie 3", (50, 60, 120, 80), RED)
    with open_source("window:präsentation") as source:
        frames = iter(source)
        assert (next(frames).image == (255, 0, 0)).all()
        window.configure(x=400, y=250)
        screen.settle()
        moved = next(frames)
        assert (moved.size, (moved.image == (255, 0, 0)).all()) == ((120, 80), True)
        window.configure(x=600, y=380, width=200, height=100)
        screen.settle()
        cut = next(frames)
        assert (cut.size, (cut.image == (255, 0, 0)).all()) == ((40, 20), True), "what of it is on the screen"
        window.unmap()
        screen.settle()
        with pytest.raises(SourceError, match="is hidden or minimised: bring it back"):
            next(frames)
    with open_source("window:below") as source:
        frames = iter(source)
        next(frames)
        for child in screen.root.query_tree().children:
            child.destroy()
        screen.settle()
        with pytest.raises(SourceError, match="window 'below' was closed: open it again"):
            next(frames)


@needs_x
def test_a_window_within_a_frame_is_where_it_is_seen(screen: Screen) -> None:
    frame = screen.window("", (200, 100, 140, 120), BLUE)
    depth = frame.get_geometry().depth
    inner = frame.create_window(10, 30, 120, 80, 0, depth, background_pixel=GREEN)
    inner.set_wm_name("player")
    inner.map()
    screen.settle()
    with open_source("window:player") as source:
        image = next(iter(source)).image
    assert (image.shape, (image == (0, 255, 0)).all()) == ((80, 120, 3), True)


@needs_x
def test_an_exact_title_wins_and_an_unknown_one_is_told_what_is_there(screen: Screen) -> None:
    screen.window("Editor", (0, 0, 100, 100), RED)
    screen.window("Editor - notes", (200, 0, 50, 50), GREEN)
    with open_source("window:editor") as source:
        assert source.size == (100, 100)
    with pytest.raises(SourceError, match="window 'Player' is not there: there are Editor, Editor - notes"):
        open_source("window:Player")
    names = [(found.name, found.kind) for found in listed("screen")]
    assert names == [("screen", "screen"), ("window:Editor - notes", "window"), ("window:Editor", "window")]


@needs_x
@pytest.mark.parametrize("text", ["screen", "window:one"])
def test_a_display_that_goes_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        name = stack.enter_context(xvfb())
        monkeypatch.setenv("DISPLAY", name)
        shown_there = Screen(name)
        shown_there.window("one", (10, 10, 100, 100), RED)
        source = open_source(text)
        frames = iter(source)
        next(frames)
        shown_there.close()
        stack.close()
        with pytest.raises(SourceError, match=r"cannot be read|is gone: start it again"):
            next(frames)
        source.close()


@pytest.mark.parametrize(
    ("session", "told"),
    [
        ({"DISPLAY": "", "WAYLAND_DISPLAY": "wayland-0"}, "Wayland lets no program look at it; choose the screen in"),
        ({"DISPLAY": "", "WAYLAND_DISPLAY": ""}, "there is no display"),
        ({"DISPLAY": ":4711", "WAYLAND_DISPLAY": ""}, "set DISPLAY to one that runs"),
    ],
)
@pytest.mark.skipif(not isinstance(windows.desktop(), windows.XDesktop), reason="X11's")
def test_where_there_is_no_screen_it_is_told_why(
    session: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in session.items():
        monkeypatch.setenv(name, value)
    for text in ("screen", "window:x"):
        with pytest.raises(SourceError, match=told):
            open_source(text)


def test_windows_of_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for Quartz: that the right keys are read, not that macOS answers so."""
    bounds = {"X": -10.0, "Y": 20.4, "Width": 300.0, "Height": 200.0}
    there = [{"kCGWindowNumber": 7, "kCGWindowOwnerName": "Safari", "kCGWindowName": "News", "kCGWindowBounds": bounds},
             {"kCGWindowNumber": 8, "kCGWindowBounds": bounds}]  # fmt: skip
    quartz = SimpleNamespace(
        kCGWindowListOptionOnScreenOnly=1, kCGWindowListExcludeDesktopElements=16, kCGNullWindowID=0,
        CGWindowListCopyWindowInfo=lambda options, window: there if (options, window) == (17, 0) else [],
    )  # fmt: skip
    monkeypatch.setattr(windows, "import_module", lambda name: {"Quartz": quartz}[name])
    (found,) = windows.MacDesktop().windows()
    assert found == windows.Window("Safari: News", 7)
    where = windows.MacDesktop().follow(found)
    assert where() == windows.Box(-10, 20, 300, 200)
    there.clear()
    with pytest.raises(SourceError, match="was closed"):
        where()


# ------------------------------------------------------------------------------------------------- names


def test_kinds_of_live_sources() -> None:
    names = ("screen", "screen:2", "window:x", "ndi:x", "rtsp://a/b", "SRT://a:1", "screens.mp4", "camera")
    assert [kind_of(n) for n in names] == ["screen", "screen", "screen", "ndi", "url", "url", "video", "camera"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("screen:0", "is no part of a screen: use screen, screen:2"),
        ("screen:left", "is no part of a screen"),
        ("screen:0,0,4x4", "is smaller than 8x8"),
        ("window:", "window:TITLE"),
        ("ndi:", "names no NDI source"),
        ("camera:front", "use camera, camera:1"),
        ("file:///etc/passwd", "addresses that begin with file:// are not opened: use one of rtsp://"),
        ("concat://a|b", "are not opened"),
        ("rtsp:///live", "names no host"),
        ("http://a:99999/", "cannot be read"),
        ("nowhere.mp4", "is not there"),
    ],
)
def test_a_wrong_name_is_told_without_opening_anything(text: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        check(text)


def test_what_is_away_may_be_asked_for() -> None:
    for text in ("camera:97", "screen", "window:x", "ndi:x", "rtsp://192.0.2.1/x", "srt://:9000?mode=listener"):
        check(text)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("rtsp://eye:open@cam.local:554/live?x=1", "rtsp://eye:***@cam.local:554/live?x=1"),
        ("srt://a:9000?passphrase=open&mode=caller", "srt://a:9000?passphrase=***&mode=caller"),
        ("https://[::1]:8/a?access_token=open#t", "https://[::1]:8/a?access_token=***#t"),
        ("rtmp://a/app/name", "rtmp://a/app/name"),
        ("camera:1", "camera:1"),
        ("once:http://u:open@a/f.mp4", "once:http://u:***@a/f.mp4"),
    ],
)
def test_passwords_are_not_shown(text: str, seen: str) -> None:
    assert pump.title(text) == seen
    assert shown(text.removeprefix("once:")) == seen.removeprefix("once:")


# ------------------------------------------------------------------------------------------------- addresses


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


@pytest.fixture
def rtsp() -> Iterator[Rtsp]:
    made = Rtsp()
    yield made
    made.close()


@pytest.mark.parametrize("path", ["/camera.mjpg", "/live.ts"])
def test_a_live_address_gives_its_newest_picture(web: Web, path: str) -> None:
    with open_source(web.address + path) as source:
        assert (source.size, source.endless, source.count) == ((96, 64), True, None)
        frames = iter(source)
        first = next(frames)
        second = after(0.6, frames)
        seen, sent = number(second.image), web.sent
        assert (sent - seen) % 256 < 0.3 * FPS, "not one of those that waited"
        assert second.seconds - first.seconds > 0.5
        assert second.captured_at is not None


def test_an_rtsp_camera_with_a_password(rtsp: Rtsp) -> None:
    with open_source(rtsp.address) as source:
        frames = iter(source)
        seen = [number(next(frames).image) for _ in range(10)]
        assert len(set(seen)) == 10
        assert source.size == (96, 64)
        rtsp.cut.set()
        with pytest.raises(SourceError, match=r"rtsp://eye:\*\*\*@127\.0\.0\.1:\d+/camera broke off") as told:
            list(frames)
        assert "sesame" not in str(told.value)


@pytest.mark.parametrize("address", [
    "rtsp://u:sesame@127.0.0.1:1/x", "http://127.0.0.1:1/?token=sesame", "rtmp://127.0.0.1:1/a/b"])  # fmt: skip
def test_an_address_where_nobody_is(address: str, capfd: Any) -> None:
    with pytest.raises(SourceError, match=r"cannot be opened \(Connection refused\): is it on") as told:
        open_source(address)
    assert "sesame" not in str(told.value) + "".join(capfd.readouterr())


def test_an_address_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url, "OPEN_S", 0.3)
    port = free_port()
    with ExitStack() as stack:
        import socket

        stack.enter_context(socket.create_server(("127.0.0.1", port)))
        began = time.monotonic()
        with pytest.raises(SourceError, match="does not answer"):
            open_source(f"rtsp://127.0.0.1:{port}/x")
        assert time.monotonic() - began < 3


def test_an_address_that_stalls_is_an_error_and_closing_does_not_wait(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url, "STALL_S", 0.4)
    with open_source(web.address + "/camera.mjpg") as source:
        frames = iter(source)
        next(frames)
        web.stands.set()
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"sends no picture for|broke off"):
            list(frames)
        assert 0.2 < time.monotonic() - began < 5
    web.stands.clear()
    monkeypatch.setattr(url, "STALL_S", 60)
    source = open_source(web.address + "/camera.mjpg")
    web.stands.set()
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 10
    comes_to(lambda: not [t for t in threading.enumerate() if t.name == "address"])


def test_a_decoder_that_is_behind_leaves_out_what_is_old(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url, "BEHIND", 15)
    with open_source(web.address + "/live.ts") as source:
        frames = iter(source)
        next(frames)
        late = after(1.5, frames)
        assert source.left_out > 20  # type: ignore[attr-defined]
        assert (web.sent - number(late.image)) % 256 < 0.6 * FPS
        fresh = next(frames)
        assert (number(fresh.image) - number(late.image)) % 256 < FPS, "whole pictures, in order, from there on"


def test_a_film_on_a_web_server_is_read_like_a_file(web: Web, tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 12, front=True)
    web.pages["/a.mp4"] = "video/mp4", path.read_bytes()
    with open_source(web.address + "/a.mp4") as source:
        frames = list(source)
        assert (source.rate, source.endless) == (25, False)
    assert [number(f.image) for f in frames] == list(range(12))
    assert [round(f.seconds, 2) for f in frames] == [round(0.04 * n, 2) for n in range(12)]
    assert frames[0].captured_at is None


@pytest.mark.parametrize("inner", ["file://{film}", "{film}", "concat:{film}", "subfile,,start,0,end,0,,:{film}"])
@pytest.mark.parametrize("kind", ["playlist", "ffconcat"])
def test_files_of_this_machine_hide_in_no_playlist(web: Web, tmp_path: Path, inner: str, kind: str) -> None:
    film = tmp_path / "secret.ts"
    film.write_bytes(b"".join(transport_stream(iter(range(50)))))
    named = inner.format(film=film)
    texts = {
        "playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{named}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{named}'\n",
    }
    web.pages["/list.m3u8"] = "application/vnd.apple.mpegurl", texts[kind].encode()
    with pytest.raises(SourceError, match=r"cannot be opened|has no video|broke off|no frame|no picture"):
        next(iter(open_source(web.address + "/list.m3u8")))


def test_a_playlist_of_the_web_is_followed_and_a_way_to_a_file_is_not(web: Web, tmp_path: Path) -> None:
    piece = b"".join(transport_stream(iter(range(50))))
    web.pages["/piece.ts"] = "video/mp2t", piece
    web.pages["/list.m3u8"] = "application/vnd.apple.mpegurl", (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npiece.ts\n#EXT-X-ENDLIST\n")  # fmt: skip
    with open_source(web.address + "/list.m3u8") as source:
        assert number(next(iter(source)).image) == 0
    film = tmp_path / "secret.ts"
    film.write_bytes(piece)
    web.moved["/away"] = f"file://{film}"
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(web.address + "/away")


def speaks_srt() -> bool:
    command = shutil.which("ffmpeg")
    if command is None:
        return False
    done = subprocess.run([command, "-v", "quiet", "-protocols"], capture_output=True, text=True, check=False)
    return " srt\n" in done.stdout


@pytest.mark.skipif(not speaks_srt(), reason="no ffmpeg with libsrt")
def test_srt(tmp_path: Path) -> None:
    port = free_port()
    words = f"ffmpeg -v error -re -stream_loop -1 -i {video(tmp_path / 'a.mp4', 100, gop=10)} -c copy -f mpegts"
    address = f"srt://127.0.0.1:{port}"
    sender = subprocess.Popen([*words.split(), f"{address}?mode=listener"], stderr=subprocess.DEVNULL)
    try:
        with opened_in_time(address) as source:
            frames = iter(source)
            seen = [number(next(frames).image) for _ in range(6)]
            assert (len(set(seen)), source.size) == (6, (96, 64))
            sender.terminate()
            sender.wait(10)
            with pytest.raises(SourceError, match="broke off"):
                list(frames)
    finally:
        sender.kill()
        sender.wait(10)


@contextmanager
def opened_in_time(address: str) -> Iterator[Any]:
    """A source that may need a moment to be there."""
    for _ in range(10):
        try:
            source = open_source(address)
        except SourceError:
            time.sleep(0.2)
            continue
        with source:
            yield source
        return
    raise AssertionError("it never answered")


def test_srt_is_handed_on_by_the_ffmpeg_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = tmp_path / "stream.ts"
    stream.write_bytes(b"".join(transport_stream(iter(range(50)))))
    stand_in = tmp_path / "ffmpeg"
    refuses = "echo '[srt] srt://x?passphrase=sesame: Input/output error' >&2; exit 1"
    script = f'#!/bin/sh\necho "$@" > {tmp_path}/words\ncase "$*" in *.1:1*) {refuses};; esac\ncat {stream}\n'
    stand_in.write_text(script)
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with open_source("srt://127.0.0.1:9?passphrase=sesame") as source:
        assert number(next(iter(source)).image) in range(50)
        assert source.name == "srt://127.0.0.1:9?passphrase=***"
    words = (tmp_path / "words").read_text()
    assert "-protocol_whitelist srt" in words
    assert "-i srt://127.0.0.1:9?passphrase=sesame" in words
    with pytest.raises(SourceError, match=r"cannot be opened \(Input/output error\)") as told:
        open_source("srt://127.0.0.1:1?passphrase=sesame")
    assert "sesame" not in str(told.value)
    stand_in.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(url, "OPEN_S", 0.3)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"cannot be opened \(nothing came for 0\.3 s\)"):
        open_source("srt://127.0.0.1:9?mode=listener")
    assert time.monotonic() - began < 5
    comes_to(lambda: not [t for t in threading.enumerate() if t.name == "relay"])
    stand_in.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"srt:// needs the ffmpeg command beside Livebrush: install ffmpeg"):
        Relay("srt://127.0.0.1:1", {}, 1, 1)


# ------------------------------------------------------------------------------------------------- cameras


def test_cameras_are_listed_by_their_drivers_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera.sys, "platform", "linux")
    monkeypatch.setattr(camera, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(camera, "DRIVERS", tmp_path / "sys")
    (tmp_path / "dev").mkdir()
    for index, (name, place) in {0: ("Eye 3000", 0), 1: ("Eye 3000", 1), 10: ("Dummy", 0), 2: (None, 0)}.items():
        (tmp_path / "dev" / f"video{index}").touch()
        (tmp_path / "sys" / f"video{index}").mkdir(parents=True)
        (tmp_path / "sys" / f"video{index}" / "index").write_text(f"{place}\n")
        if name:
            (tmp_path / "sys" / f"video{index}" / "name").write_text(f"{name}\n")
    assert [(c.name, c.title) for c in camera.listed()] == [
        ("camera", "Eye 3000"), ("camera:2", "Camera 2"), ("camera:10", "Dummy")]  # fmt: skip
    assert camera.cameras() == ["camera", "camera:2", "camera:10"]


class Plug:
    """OpenCV with one camera that can be pulled out."""

    def __init__(self) -> None:
        self.there, self.opened = False, 0

    def __call__(self, _index: int) -> Any:
        return PluggedIn(self)


class PluggedIn:
    def __init__(self, plug: Plug) -> None:
        self._plug = plug
        plug.opened += plug.there
        self._mine = plug.opened if plug.there else -1

    def isOpened(self) -> bool:
        return self._plug.there

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.01)
        there = self._plug.there and self._mine == self._plug.opened
        return there, np.full((48, 64, 3), 10 * self._mine, np.uint8) if there else None

    def get(self, _what: int) -> float:
        return 100.0

    def set(self, _what: int, _value: float) -> bool:
        return True

    def release(self) -> None:
        pass


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that waits waits for less."""
    for name, seconds in {"RETRY_S": 0.02, "RETRY_MOST_S": 0.05, "CHECK_S": 0.02, "SLOW_S": 0.05}.items():
        monkeypatch.setattr(pump, name, seconds)


def test_a_camera_that_is_plugged_in_pulled_out_and_plugged_in_again(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug = Plug()
    monkeypatch.setattr(camera.cv2, "VideoCapture", plug)
    assert camera.cv2 is cv2

    async def job() -> None:
        room = Room(pumps=Pumps("camera"), paints=True)
        room.worker.start()
        room.sessions.pumps.start()
        session, link, stream = await room.enter(source="server")
        greys = lambda: {int(f.image[0, 0, 0]) for f in stream.frames}  # noqa: E731
        await until(lambda: "camera 0 is not there" in session.remark)
        assert link.of("state")[-1]["notice"] == session.remark
        assert session.input.state == "waiting"
        plug.there = True
        await until(lambda: greys() == {10})
        assert (session.remark, session.input.state, session.input.size) == ("", "running", (64, 48))
        plug.there = False
        await until(lambda: "camera 0" in session.remark)
        kept = session.pictures.newest.number
        plug.there = True
        await until(lambda: greys() == {10, 20})
        assert session.remark == ""
        assert session.pictures.newest.number > kept
        assert [m["input"]["state"] for m in link.of("source")][-3:] == ["running", "waiting", "running"]
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()

    run(job())


# ------------------------------------------------------------------------------------------------- shared out


class Plan:
    """Opens what it was given for each name, one after the other, and counts."""

    def __init__(self, **sources: list[Any]) -> None:
        self.sources, self.opened = sources, []  # type: ignore[var-annotated]

    def __call__(self, text: str) -> Any:
        self.opened.append(text)
        found = self.sources[text].pop(0)
        return found() if callable(found) else found


def shape() -> Any:
    return 64, 64, "stretch"


def test_a_source_is_opened_once_for_all_who_take_it_and_closed_behind_the_last(hasty: None) -> None:
    async def job() -> None:
        eye, again = Told(1), Told(2)
        plan = Plan(eye=[eye, again])
        room = Room(pumps=Pumps(None, plan, linger_s=0.15))
        room.worker.start()
        sessions = [await room.enter(source="eye") for _ in range(3)]
        await until(lambda: all(stream.frames for _, _, stream in sessions))
        assert plan.opened == ["eye"]
        for session, _, _ in sessions[:2]:
            await room.sessions.close(session, "done")
        await asyncio.sleep(0.3)
        assert not eye.closed.is_set(), "one still takes it"
        await room.sessions.close(sessions[2][0], "done")
        await asyncio.sleep(0.05)
        session, _, stream = await room.enter(source="eye")
        await asyncio.sleep(0.3)
        await until(lambda: stream.frames)
        assert (plan.opened, eye.closed.is_set()) == (["eye"], False), "somebody came back in time"
        await room.sessions.close(session, "done")
        await until(eye.closed.is_set)
        assert room.sessions.pumps.facts("eye") is None
        await room.enter(source="eye")
        await until(lambda: again.reads)
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()
        assert again.closed.is_set()
        assert not [t for t in threading.enumerate() if t.name == "source"]

    run(job())


def test_a_source_that_opens_slowly_holds_up_nothing(hasty: None) -> None:
    async def job() -> None:
        opens, eye = threading.Event(), Told(7)
        room = Room(pumps=Pumps(None, Plan(slow=[lambda: opens.wait() and eye], quick=[Told(1)])))
        room.worker.start()
        slow, link, stream = await room.enter(source="slow")  # it would wait for `opens` for ever
        _, _, other = await room.enter(source="quick")
        await until(lambda: len(other.frames) > 5)
        await until(lambda: slow.remark == "slow is being opened")
        assert (link.of("source")[-1]["input"]["state"], slow.input.state) == ("opening", "opening")
        opens.set()
        await until(lambda: stream.frames)
        assert slow.remark == ""
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()

    run(job())


def test_a_read_that_hangs_is_left_behind_and_the_source_opened_anew(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "STUCK_S", 0.3)

    async def job() -> None:
        first, second = Told(1), Told(2)
        plan = Plan(eye=[first, second], other=[Told(9)])
        room = Room(pumps=Pumps(None, plan))
        room.worker.start()
        session, _, stream = await room.enter(source="eye")
        _, _, other = await room.enter(source="other")
        await until(lambda: stream.frames)
        first.free.clear()
        remarks = set()
        await until(lambda: remarks.add(session.remark) or stream.frames[-1].image[0, 0, 0] == 2)
        assert any("eye gives no picture for 0 s: check its cable" in text for text in remarks)
        before = len(other.frames)
        await until(lambda: len(other.frames) > before + 5)
        assert (session.remark, first.closed.is_set()) == ("", False)
        first.free.set()
        await until(first.closed.is_set)
        assert {int(f.image[0, 0, 0]) for f in stream.frames[-3:]} == {2}, "what was left behind says no more"
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()

    run(job())


def test_a_source_that_always_hangs_costs_a_few_threads_and_no_shutdown(
    hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "STUCK_S", 0.1)
    monkeypatch.setattr(inputs, "JOIN_S", 0.2)
    eyes = [Told(n) for n in range(10)]

    async def job() -> None:
        for eye in eyes:
            eye.free.clear()
        plan = Plan(eye=list(eyes))
        room = Room(pumps=Pumps(None, plan))
        room.worker.start()
        session, _, stream = await room.enter(source="eye")
        await until(lambda: len(plan.opened) == pump.LEFT_BEHIND)
        await asyncio.sleep(0.4)
        assert (len(plan.opened), stream.frames, session.input.state) == (pump.LEFT_BEHIND, [], "waiting")
        for eye in eyes:
            eye.free.set()
        await until(lambda: stream.frames)
        assert session.remark == ""
        for eye in eyes:
            eye.free.clear()
        began = time.monotonic()
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()
        assert time.monotonic() - began < 10

    run(job())
    for eye in eyes:
        eye.free.set()
    comes_to(lambda: not [t for t in threading.enumerate() if t.name == "source"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_source_that_breaks_in_an_unforeseen_way_is_opened_anew(hasty: None) -> None:
    def breaks() -> Any:
        raise ZeroDivisionError

    async def job() -> None:
        room = Room(pumps=Pumps(None, Plan(eye=[breaks, Told(5)])))
        room.worker.start()
        session, _, stream = await room.enter(source="eye")
        await until(lambda: stream.frames)
        assert session.remark == ""
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()

    run(job())


# ------------------------------------------------------------------------------------------------- sessions


def test_a_file_begins_again_or_stops_at_its_end(tmp_path: Path, hasty: None) -> None:
    path = str(video(tmp_path / "a.mp4", 5))

    async def job() -> None:
        room = Room(pumps=Pumps(f"once:{path}"))
        room.worker.start()
        room.sessions.pumps.start()
        live = room.sessions.stand("live", "server", {"fit": "stretch"})
        stream = room.worker.streams[-1]
        loop = room.sessions.stand("loop", path, {"fit": "stretch"})
        looped = room.worker.streams[-1]
        seen = lambda of: [number(f.image) for f in of.frames]  # noqa: E731
        await until(lambda: live.remark == f"{path} is at its end: its last picture stays")
        await until(lambda: seen(looped).count(0) > 1 and 4 in seen(looped))
        await until(lambda: seen(stream)[-3:] == [4, 4, 4])
        assert sorted(seen(stream)) == seen(stream), "never from the start again"
        assert (live.input.state, live.source, loop.remark) == ("ended", "server", "")
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()

    run(job())


def test_a_session_takes_its_pictures_from_elsewhere(hasty: None) -> None:
    async def job() -> None:
        one, two = Told(1), Told(2)
        room = Room(pumps=Pumps(None, Plan(one=[one], two=[two])), paints=True)
        room.worker.start()
        session, link, stream = await room.enter()
        page = Told(99)
        pictures = iter(page)
        link.receive(next(pictures))
        session.switch("one")
        await until(lambda: stream.frames[-1].image[0, 0, 0] == 1)
        link.receive(next(pictures))
        assert stream.frames[-1].image[0, 0, 0] == 1, "the page's own are left aside"
        session.switch("two")
        await until(lambda: stream.frames[-1].image[0, 0, 0] == 2)
        at = next(n for n, f in enumerate(stream.frames) if f.image[0, 0, 0] == 2)
        await asyncio.sleep(0.1)
        assert {int(f.image[0, 0, 0]) for f in stream.frames[at:]} == {2}
        assert (session.source, link.of("source")[-1]["source"]) == ("two", "two")
        with pytest.raises(RefusalError, match="--source"):
            session.switch("server")
        session.switch("page")
        link.receive(next(pictures))
        assert (stream.frames[-1].image[0, 0, 0], session.input) == (99, None)
        assert [p.takers for p in room.sessions.pumps._by_text.values()] == [(), ()]
        stands = room.sessions.stand("live", "one")
        with pytest.raises(RefusalError, match="has no pictures from a page"):
            stands.switch("page")
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()

    run(job())


def test_a_publisher_waits_while_its_session_takes_another_source(hasty: None) -> None:
    async def job() -> None:
        eye = Told(1)
        room = Room(pumps=Pumps(None, Plan(eye=[eye])), paints=True)
        room.worker.start()
        session = room.sessions.stand("live", "whip")
        await session.publish(SDP)
        stream, link = room.worker.streams[-1], room.answers.links[-1]
        pictures = iter(Told(99))
        link.receive(next(pictures))
        session.switch("eye")
        await until(lambda: stream.frames[-1].image[0, 0, 0] == 1)
        link.receive(next(pictures))
        assert stream.frames[-1].image[0, 0, 0] == 1
        session.switch("whip")
        link.receive(next(pictures))
        assert stream.frames[-1].image[0, 0, 0] == 99
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()

    run(job())


def test_settings_do_not_wipe_what_is_said_of_the_source(hasty: None) -> None:
    async def job() -> None:
        room = Room(pumps=Pumps(None, Plan(eye=[SourceErrors("the cable came off")] * 1000)))
        room.worker.start()
        session, link, _ = await room.enter(source="eye")
        await until(lambda: session.remark == "the cable came off")
        session.change({"prompt": "ink"}, lambda *_: None)
        await asyncio.sleep(0)
        assert link.of("state")[-1]["notice"] == session.remark == "the cable came off"
        await room.sessions.close_all("done")
        await room.sessions.pumps.close()

    run(job())


class SourceErrors:
    """Cannot be opened."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __call__(self) -> Any:
        raise SourceError(self._text)


# ------------------------------------------------------------------------------------------------- over HTTP


def test_the_api_lists_opens_and_switches_sources(tmp_path: Path, web: Web) -> None:
    web.pages["/a.mp4"] = "video/mp4", video(tmp_path / "b.mp4", 5, front=True).read_bytes()
    secret = web.address.replace("//", "//u:sesame@") + "/camera.mjpg"
    with served(pumps=Pumps("testcard", linger_s=0.1)) as server:
        answer = server.http.get("/api/sources").json()
        known = {(item["name"], item["kind"]) for item in answer["sources"]}
        assert {("server", "server"), ("testcard", "testcard")} <= known
        assert all(isinstance(text, str) for text in answer["missing"])
        begun = server.offer(sdp=WATCHES, source=secret)
        assert begun.status_code == 201
        place = begun.headers["Location"]
        looks = lambda: server.http.get(place).json()  # noqa: E731
        comes_to(lambda: looks()["input"]["state"] == "running" and looks()["input"]["fps"] > 5)
        facts = looks()
        assert facts["input"]["size"] == [96, 64]
        assert facts["source"] == facts["input"]["name"] == secret.replace("sesame", "***")
        put = lambda **asked: server.http.put(f"{place}/source", json=asked)  # noqa: E731
        assert put(source="testcard").json()["source"] == "testcard"
        comes_to(lambda: looks()["input"]["state"] == "running")
        assert put(source=web.address + "/a.mp4", once=True).status_code == 200
        comes_to(lambda: looks()["input"]["state"] == "ended")
        assert "is at its end" in looks()["notice"]
        assert server.http.get(f"{place}/source").json()["source"].startswith("once:http://")
        for source, told in {"nowhere.mp4": "is not there", "file:///etc/passwd": "are not opened",
                             "page": "has no pictures from a page", "": "at least 1"}.items():  # fmt: skip
            refused = put(source=source)
            assert (refused.status_code, told in refused.json()["error"]) == (422, True), source
        assert looks()["source"].startswith("once:http://"), "what is refused changes nothing"
        assert server.offer(source="nowhere.mp4").status_code == 422
        assert server.http.put("/api/sessions/nobody/source", json={"source": "testcard"}).status_code == 404
        assert "sesame" not in server.http.get("/api/sessions").text


def test_what_this_machine_sees_is_for_admins() -> None:
    words = {role: f"{role}-{'x' * 32}" for role in ("view", "control", "admin")}
    tokens = tuple(f"{role}:{word}" for role, word in words.items())
    with served(pumps=Pumps("testcard"), access=Access(tokens=tokens)) as server:
        http = lambda role, *asked, **more: server.http.request(  # noqa: E731
            *asked, headers={"Authorization": f"Bearer {words[role]}"}, **more
        )
        offer = {"sdp": SDP, "type": "offer"}
        place = http("control", "POST", "/api/sessions", json=offer).headers["Location"]
        own = http("control", "POST", "/api/sessions", json=offer | {"source": "server"})
        assert own.status_code == 201, "the source that it was started with is everybody's"
        for asked, body in [
            (("GET", "/api/sources"), None), (("GET", f"{place}/source"), None),
            (("PUT", f"{place}/source"), {"source": "testcard"}),
            *((("POST", "/api/sessions"), offer | {"source": source})
              for source in ("testcard", "screen", "http://127.0.0.1:1/", "/etc/passwd")),
        ]:  # fmt: skip
            refused = http("control", *asked, json=body)
            assert (refused.status_code, "role admin" in refused.json()["error"]) == (403, True), asked
        hello = {"type": "hello", "source": "http://127.0.0.1:1/"}
        with connect(server.url.replace("http", "ws") + "/api/sessions/ws",
                     additional_headers={"Authorization": f"Bearer {words['control']}"}) as ws:  # fmt: skip
            ws.send(json.dumps(hello))
            assert json.loads(ws.recv(10))["status"] == 403
        assert http("view", "POST", "/api/sessions", json=offer).status_code == 403
        assert http("admin", "PUT", f"{place}/source", json={"source": "testcard"}).status_code == 200


def test_a_kind_that_does_not_answer_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    monkeypatch.setattr(inputs, "ASK_S", 0.3)
    monkeypatch.setattr(inputs, "listed", lambda kind: hangs.wait() if kind == "camera" else listed("testcard"))

    async def job() -> None:
        found = await inputs.there(Pumps())
        assert found.missing == ["camera: nothing is known after 0.3 s"]
        assert {item.name for item in found.sources} == {"testcard"}

    run(job())
    hangs.set()


# ------------------------------------------------------------------------------------------------- the command line


@needs_x
def test_the_command_line_lists_and_paints_windows(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(livebrush, "load", lambda spec, _choice: EchoModel(spec))
    screen.window("[bold]Stage[/]", (0, 0, 640, 400), RED)
    said = CliRunner().invoke(livebrush.app, ["sources"])
    assert said.exit_code == 0
    assert [line.split("  ")[0] for line in said.stdout.splitlines()][1:3] == ["testcard", "screen"]
    assert "window:[bold]Stage[/]" in said.stdout
    words = ["run", "window:stage", str(tmp_path / "out.mp4"), "--frames", "3", "--size", "64x64"]
    done = CliRunner().invoke(livebrush.app, words)
    assert done.exit_code == 0, done.output
    assert len(numbers(tmp_path / "out.mp4")) == 3
    with open_source(str(tmp_path / "out.mp4")) as painted:
        assert np.abs(next(iter(painted)).image.astype(int) - (255, 0, 0)).max() < 30
