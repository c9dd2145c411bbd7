"""Live sinks in processes of their own: trouble of every kind, and how they come back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from outlet_rig import QUICK, REGISTERS, SIZE, beeps, decoded, fed, kept, opus, picture
from waiting import comes_to, run, until

from stream.sinks.host import SinkHost, SinkProcess
from stream.sinks.live import recognise

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
HASTY = replace(QUICK, stuck=0.5)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ------------------------------------------------------------------------------------------------- trouble


@POSIX
def test_a_sink_that_holds_pythons_lock_for_ever_is_killed_and_comes_back() -> None:
    async def test() -> None:
        async with fed("fake:stuck", HASTY) as sink:
            await until(lambda: sink.states.count("running") >= 2)
            assert sink.told[:3] == [("running", ""), ("waiting", sink.told[1][1]), ("running", "")]
            assert sink.told[1][1].startswith("stuck: it gave no sign for ")
            pid = sink.pid
        assert sink.host.state == "stopped"
        assert not alive(pid)

    run(test())


def test_a_sink_that_fails_is_told_and_tried_again_less_and_less_often() -> None:
    async def test() -> None:
        async with fed("fake:failing") as sink:
            began = time.monotonic()
            await until(lambda: sink.host.restarts >= 4)
            assert time.monotonic() - began >= 0.05 + 0.1 + 0.2, "the pauses grow"
            assert {error for state, error in sink.told if state == "waiting"} == {"asked to fail"}
            assert sink.host.frames >= 3 * 4
            assert sink.host.frames + sink.host.dropped <= sink.number + sink.host.restarts
            assert sink.host.dropped > 0, "pictures that came while it was not there"

    run(test())


@POSIX
def test_a_sink_that_crashes_its_process_comes_back() -> None:
    async def test() -> None:
        async with fed("fake:crash") as sink:
            await until(lambda: sink.host.restarts >= 2)
            assert ("waiting", "its process stopped (SIGSEGV)") in sink.told

    run(test())


def test_a_sink_whose_name_is_wrong_for_its_kind_says_so() -> None:
    async def test() -> None:
        async with fed("fake:nothing", feeds=False) as sink:
            await until(lambda: sink.told)
            assert "use fake:stuck, fake:failing, fake:crash" in sink.told[0][1]

    run(test())


def test_no_process_can_be_started() -> None:
    async def test() -> None:
        with patch.object(SinkProcess, "launch", side_effect=BlockingIOError(11, "Resource temporarily unavailable")):
            async with fed("fake:failing", feeds=False) as sink:
                await until(lambda: sink.host.restarts >= 2)
                assert sink.host.error == (
                    "no process can be started (Resource temporarily unavailable): end others first"
                )

    run(test())


def test_stuck_ones_cost_a_recording_beside_them_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with fed("fake:stuck", HASTY) as stuck, fed("fake:failing"), fed(f"record:{tmp_path}/a.mp4") as sink:
            await until(lambda: sink.host.frames >= 1)
            before = sink.host.frames
            await until(lambda: stuck.host.restarts >= 1)
            await until(lambda: sink.host.frames >= before + 20)
            assert (sink.host.restarts, sink.host.state) == (0, "running")

    run(test())
    assert len(decoded(tmp_path / "a.mp4")) >= 10


def test_a_host_that_is_closed_at_once_leaves_nothing() -> None:
    async def test() -> None:
        host = SinkHost(recognise("fake:failing"), lambda: None, QUICK)
        host.start()
        await host.close()
        await host.close()
        assert host.state == "stopped"
        never = SinkHost(recognise("fake:failing"), lambda: None, QUICK)
        await never.close()
        async with fed("fake:failing", replace(QUICK, first=30)) as sink:  # in the middle of a long pause
            await until(lambda: sink.host.state == "waiting")
            began = time.monotonic()
        assert time.monotonic() - began < 10

    run(test())


# ------------------------------------------------------------------------------------------------- recordings


@POSIX
def test_a_recording_whose_process_is_killed_plays_and_the_next_one_begins(tmp_path: Path) -> None:
    async def test() -> None:
        async with fed(f"record:{tmp_path}/show.mp4") as sink:
            await until(lambda: sink.host.frames >= 30)
            pid = sink.pid
            os.kill(pid, signal.SIGKILL)
            await until(lambda: sink.host.restarts == 1 and sink.host.state == "running")
            assert ("waiting", "its process stopped (SIGKILL)") in sink.told
            first = sink.host.frames
            await until(lambda: sink.host.frames >= first + 10)

    run(test())
    names = sorted(tmp_path.iterdir())
    assert len(names) == 2
    assert len(decoded(tmp_path / "show.mp4")) >= 30 - 9
    (other,) = (path for path in names if path.name != "show.mp4")
    assert len(decoded(other)) >= 10


def test_another_size_begins_another_file_and_no_picture_is_lost(tmp_path: Path) -> None:
    async def test() -> None:
        async with fed(f"record:{tmp_path}/show.ts", feeds=False) as sink:
            for size in (SIZE, (320, 240), (64, 64)):  # larger than the mailbox, smaller
                sink.size = size
                for _ in range(5):
                    before = sink.host.frames
                    sink.put()
                    await until(lambda n=before: sink.host.frames > n)  # type: ignore[misc]
            assert (sink.host.frames, sink.host.dropped) == (15, 0)

    run(test())
    sizes = [(len(found), found[0].width, found[0].height) for found in map(decoded, sorted(tmp_path.iterdir()))]
    assert sorted(sizes) == [(5, 64, 64), (5, 96, 64), (5, 320, 240)]


def test_sound_that_begins_later_opens_the_recording_anew(tmp_path: Path) -> None:
    async def test() -> None:
        async with fed(f"record:{tmp_path}/show.mp4") as sink:
            await until(lambda: sink.host.frames >= 20)
            sink.host.hear(b"", time.monotonic())  # nobody said that there would be sound
            sink.host.expect_sound()
            await until(lambda: len(list(tmp_path.iterdir())) == 2)
            await until(lambda: sink.host.state == "running")
            begun = time.monotonic()
            for number, packet in enumerate(opus(1, (0.2,))):
                sink.host.hear(packet, begun + number * 0.02)  # when it was said, however late this loop is
                await asyncio.sleep(max(0.0, begun + (number + 1) * 0.02 - time.monotonic()))
            assert sink.host.restarts == 0

    run(test())
    (other,) = (path for path in tmp_path.iterdir() if path.name != "show.mp4")
    assert len(decoded(tmp_path / "show.mp4")) >= 10
    assert len(beeps(other)) == 1
    assert len(decoded(other)) >= 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 70 MB; skipped where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=70m", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: it takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_stops_a_recording_which_goes_on_when_there_is_room(small_disk: Path) -> None:
    async def test() -> None:
        async with fed(f"record:{small_disk}/show.mp4") as sink:
            await until(lambda: sink.host.frames >= 20)
            filler = small_disk / "filler"
            filler.write_bytes(bytes(60 * 2**20))
            await until(lambda: sink.host.error == "no room on the disk for show.mp4: free some space, or write to "
                        "another disk")  # fmt: skip
            await until(lambda: sink.host.restarts >= 2)
            filler.unlink()
            await until(lambda: sink.host.state == "running")
            before = sink.host.frames
            await until(lambda: sink.host.frames >= before + 10)

    run(test())
    files = sorted(small_disk.glob("*.mp4"))
    assert len(files) == 2, "tries without room left no files"
    assert all(len(decoded(file)) >= 10 for file in files)


# ------------------------------------------------------------------------------------------------- virtual camera


@pytest.fixture
def camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to which the virtual camera of a sink's process writes its pictures."""
    folder, start = tmp_path / "kept", tmp_path / "start"
    folder.mkdir()
    start.mkdir()
    (start / "sitecustomize.py").write_text(REGISTERS.format(tests=str(Path(__file__).parent), folder=str(folder)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(start), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return folder


def test_the_virtual_camera_shows_what_comes_in_order_and_repeats_the_last(camera: Path) -> None:
    async def test() -> None:
        async with fed("virtualcam", feeds=False) as sink:
            for _ in range(20):
                before = sink.host.frames
                sink.put()
                await until(lambda n=before: sink.host.frames > n)  # type: ignore[misc]
            count = len(kept(camera))
            await until(lambda: len(kept(camera)) >= count + 5)  # nothing comes: the last one again
            sink.size = (128, 96)
            sink.put()
            await until(lambda: kept(camera)[-1].shape == (96, 128, 3))

    run(test())
    pictures = kept(camera)
    without_repeats = [p for n, p in enumerate(pictures) if n == 0 or not np.array_equal(p, pictures[n - 1])]
    assert len(without_repeats) == 21
    for number, image in enumerate(without_repeats):
        np.testing.assert_array_equal(image, picture(number, SIZE if number < 20 else (128, 96)))
    pids = {json.loads(p.read_text())["pid"] for p in camera.glob("*.json")}
    assert len(list(camera.glob("*.json"))) == len(list(camera.glob("*.closed"))) == 2
    assert len(pids) == 1
    assert pids != {os.getpid()}


# ------------------------------------------------------------------------------------------------- the process


def test_a_sinks_process_imports_nothing_slow() -> None:
    code = "import sys, stream.sinks.child, stream.sinks.record; print(*{'torch', 'aiortc', 'pydantic', 'fastapi'} & "
    done = subprocess.run(
        [sys.executable, "-c", code + "set(sys.modules))"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.skipif(sys.platform != "linux", reason="by /proc")
def test_a_sinks_process_lets_others_go_first() -> None:
    async def test() -> None:
        async with fed("fake:failing", feeds=False) as sink:
            await until(lambda: sink.host._life is not None)
            await until(lambda: os.getpriority(os.PRIO_PROCESS, sink.pid) == SinkProcess.NICE)
            group = Path(f"/proc/{sink.pid}/autogroup")
            if group.exists():
                await until(lambda: group.read_text().endswith(f"nice {SinkProcess.NICE}\n"))

    run(test())


LEAVES = """
import asyncio, os, signal, sys
import numpy as np
from stream.frame import Frame
from stream.sinks.host import SinkHost
from stream.sinks.live import recognise
async def main():
    host = SinkHost(recognise(sys.argv[1]), lambda: None)
    host.start()
    while host.frames < 12:
        host.put(Frame(np.zeros((64, 96, 3), np.uint8)))
        await asyncio.sleep(0.03)
    print(host._life.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@POSIX
def test_when_the_server_is_killed_its_sinks_end_and_recordings_play(tmp_path: Path) -> None:
    path = tmp_path / "show.mp4"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LEAVES, str(path)], capture_output=True, text=True, env=environment,
                          timeout=60)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done
    comes_to(lambda: not alive(int(done.stdout)))
    assert decoded(path)
