"""Live sinks over the network, taken up by others: UDP by PyAV, RTMP, RTSP and SRT by ffmpeg."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import av
import pytest
from outlet_rig import fed, free_port, opus, picture
from waiting import run, until

from stream.sinks import live
from stream.sinks.host import WAITS

SOON = ("-analyzeduration", "100000")  # microseconds that are looked at before the first picture
FFMPEG = shutil.which("ffmpeg")
NEEDED = pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg here (CI has one)")


class Listener:
    """An ffmpeg that listens, and keeps how many pictures it decoded."""

    def __init__(self, *options: str) -> None:
        command = [str(FFMPEG), "-hide_banner", "-loglevel", "error", *SOON, *options, "-f", "framemd5", "-"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                         stdin=subprocess.DEVNULL, text=True)  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pictures(self) -> int:
        return self._count("0,")

    @property
    def sounds(self) -> int:
        return self._count("1,")

    def _count(self, track: str) -> int:
        return sum(line.startswith(track) for line in tuple(self.lines))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as out:
            self.lines.extend(out)


@contextmanager
def listening(*options: str) -> Iterator[Listener]:
    made = Listener(*options)
    try:
        yield made
    finally:
        made.close()


async def taken_up(url: str, *options: str, count: int = 10, again: bool = False) -> None:
    """Nobody is there at first, which is told; then somebody is, and leaves, and comes `again`."""
    async with fed(url) as sink:
        await until(lambda: sink.host.state == "waiting")
        assert re.search("refused|ended|error", sink.host.error, re.IGNORECASE), sink.host.error
        with listening(*options) as listener:
            await until(lambda: sink.host.state == "running")
            await until(lambda: listener.pictures >= count)
        if not again:
            return
        await until(lambda: sink.host.state == "waiting")
        with listening(*options) as listener:
            await until(lambda: listener.pictures >= count)


# ------------------------------------------------------------------------------------------------- addresses


def test_udp_is_taken_up_at_any_time_with_its_colours() -> None:
    async def test() -> None:
        port = free_port(socket.SOCK_DGRAM)
        async with fed(f"udp://127.0.0.1:{port}") as sink:
            await until(lambda: sink.host.frames >= 10)
            seen: list[Any] = []

            def take() -> None:
                with av.open(f"udp://127.0.0.1:{port}", timeout=10) as container:
                    for frame in container.decode(video=0):
                        seen.append(frame.to_ndarray(format="rgb24", src_colorspace="ITU709"))
                        if len(seen) >= 20:
                            return

            taking = threading.Thread(target=take)
            taking.start()
            await until(lambda: not taking.is_alive())
            taking.join()
        assert len(seen) == 20
        greys = [int(image[50, 5, 0]) for image in seen]
        known = sorted({int(picture(n)[50, 5, 0]) for n in range(28)})
        assert all(min(abs(grey - k) for k in known) <= 5 for grey in greys)
        assert len(set(greys)) > 10, "the picture moves"

    run(test())


@NEEDED
def test_rtmp_waits_for_its_server_and_comes_back() -> None:
    url = f"rtmp://127.0.0.1:{free_port()}/live/secret"
    run(taken_up(url, "-listen", "1", "-i", url, again=True))


@NEEDED
def test_rtsp_waits_for_its_server() -> None:
    url = f"rtsp://127.0.0.1:{free_port()}/painted"
    run(taken_up(url, "-rtsp_flags", "listen", "-i", url))


@NEEDED
@pytest.mark.parametrize("options", [("rtmp", "-listen", "1"), ("rtsp", "-rtsp_flags", "listen")])
def test_sound_goes_along(options: tuple[str, ...]) -> None:
    """With half a second of the 20 ms packets of Opus the server has both tracks."""
    kind, *listens = options
    url = f"{kind}://127.0.0.1:{free_port()}/live/secret"

    async def test() -> None:
        packets = itertools.cycle(opus(1, (0.5,)))
        async with fed(url) as sink:
            sink.host.expect_sound()
            with listening(*listens, "-i", url) as listener:
                await until(lambda: sink.host.state == "running")
                while listener.sounds < 20 or listener.pictures < 10:
                    sink.host.hear(next(packets), time.monotonic())
                    await asyncio.sleep(0.02)

    run(test())


@pytest.mark.skipif(live.missing("srt") is not None, reason=f"{live.missing('srt')} (CI has one)")
def test_srt_calls_a_listener() -> None:
    port = free_port(socket.SOCK_DGRAM)
    run(taken_up(f"srt://127.0.0.1:{port}?connect_timeout=300", "-i", f"srt://127.0.0.1:{port}?mode=listener"))


@pytest.mark.skipif(live.missing("srt") is not None, reason=f"{live.missing('srt')} (CI has one)")
def test_srt_listens_until_somebody_calls() -> None:
    async def test() -> None:
        port = free_port(socket.SOCK_DGRAM)
        async with fed(f"srt://127.0.0.1:{port}?mode=listener") as sink:
            await until(lambda: sink.told)
            assert sink.told == [("waiting", WAITS)]
            os.kill(sink.pid, signal.SIGKILL)  # while it waits: its ffmpeg must not go on holding the port
            await until(lambda: sink.host.restarts and sink.host.error == WAITS)
            await seen_by_a_caller(f"srt://127.0.0.1:{port}?mode=caller")
            assert sink.host.state == "running"

    run(test())


async def seen_by_a_caller(url: str) -> None:
    """Who calls while the port is held by what is just ending calls in vain, and gives up; so somebody calls again."""
    for _ in range(5):
        with listening("-i", url) as caller, suppress(AssertionError):
            await until(lambda caller=caller: caller.pictures >= 20, 8)
            return
    raise AssertionError("no caller of five saw twenty pictures")


def test_a_server_that_says_nothing_is_left() -> None:
    """It takes the connection and is silent, as a firewall's or a stuck one's."""

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/secret"
            async with fed(url) as sink:
                began = time.monotonic()
                await until(lambda: sink.host.state == "waiting")
                assert time.monotonic() - began < 25
                assert "secret" not in sink.host.error

    run(test())
