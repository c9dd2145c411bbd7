"""NDI, in and out. One file, so that one process has them all: sources are found through the machine's only avahi."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ndi_rig import discovery
from outlet_rig import SIZE, fed, picture
from source_rig import after, free_port
from waiting import run, until

from stream.errors import SourceError
from stream.sources import listed, ndi, open_source


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with discovery() as why_not:
        if why_not:
            pytest.skip(why_not)
        yield


class Sending:
    """An NDI source of one grey, which counts up by 5."""

    def __init__(self, name: str) -> None:
        from cyndilib.sender import Sender
        from cyndilib.video_frame import VideoSendFrame
        from cyndilib.wrapper import FourCC

        picture = VideoSendFrame()
        picture.set_resolution(100, 60)  # its lines are no multiple of 16 bytes
        picture.set_frame_rate(Fraction(25))
        picture.set_fourcc(FourCC.RGBA)
        self._sender = Sender(name, clock_video=False)
        self._sender.set_video_frame(picture)
        self.grey = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._sender:
            while not self._over.wait(0.04):
                self.grey = (self.grey + 5) % 200
                picture = np.full((60, 100, 4), self.grey, np.uint8)
                picture[:, :50, 0], picture[..., 3] = 230, 255
                self._sender.write_video_async(picture.reshape(-1))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def test_an_ndi_source_is_found_received_and_lost(network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndi, "LOST_S", 1.0)
    name = f"brush {free_port()}"
    sending = Sending(name)
    try:
        with open_source(f"ndi:{name}") as source:
            frames = iter(source)
            next(frames)
            second = after(0.5, frames)
            right = int(second.image[30, 75].mean())
            assert (sending.grey - right) % 200 <= 25, "the newest"
            assert (second.size, source.rate, second.image[30, 25, 0] > 200) == ((100, 60), 25, True)
            assert f"ndi:{socket_name(name)}" in [found.name for found in listed("ndi")]
            sending.stop()
            with pytest.raises(SourceError, match=r"is lost: is it still on"):
                list(frames)
    finally:
        sending.stop()


def test_an_ndi_source_that_comes_later_is_found_as_soon(network: None) -> None:
    """The library's own thread looks for others every five seconds only, once it knows one."""
    ears, sending = ndi.finder(), []
    try:
        for name in (f"first {free_port()}", f"second {free_port()}"):
            sending.append(Sending(name))
            began = time.monotonic()
            assert ndi.heard(ears, name) == socket_name(name)
            assert time.monotonic() - began < 4
    finally:
        for one in sending:
            one.stop()


def socket_name(stream: str) -> str:
    """How NDI calls a stream of this machine."""
    import socket

    return f"{socket.gethostname().upper()} ({stream})"


def test_ndi_names() -> None:
    names = ["STUDIO (Camera 1)", "STUDIO (Camera 11)", "LAPTOP (OBS)"]
    asked = {"studio (camera 1)": names[0], "camera 1": names[0], "obs": names[2], "laptop": names[2]}
    assert {text: ndi.matching(text, names) for text in asked} == asked
    assert ndi.matching("camera", names) is None, "either could be meant"
    assert ndi.matching("x", []) is None


def test_without_cyndilib_ndi_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(ndi, "import_module", missing)
    with pytest.raises(SourceError, match=r"pip install 'livebrush\[ndi\]'"):
        open_source("ndi:x")


# ------------------------------------------------------------------------------------------------- out


def test_ndi_is_found_and_received(network: None) -> None:
    from cyndilib.finder import Finder
    from cyndilib.receiver import Receiver
    from cyndilib.video_frame import VideoFrameSync
    from cyndilib.wrapper.ndi_recv import RecvBandwidth, RecvColorFormat

    name = f"Livebrush {time.monotonic_ns() % 10_000}"

    async def test() -> None:
        async with fed(f"ndi:{name}") as sink:
            await until(lambda: sink.host.state == "running")
            with Finder() as finder:
                await until(lambda: any(name in found for found in finder.get_source_names()))
                (source,) = (finder.get_source(found) for found in finder.get_source_names() if name in found)
                receiver = Receiver(color_format=RecvColorFormat.RGBX_RGBA, bandwidth=RecvBandwidth.highest)
                frame = VideoFrameSync()
                receiver.frame_sync.set_video_frame(frame)
                receiver.set_source(source)
                await until(receiver.is_connected)
                greys: set[int] = set()

                def several() -> bool:
                    receiver.frame_sync.capture_video()
                    if frame.xres != SIZE[0]:
                        return False
                    image = np.array(frame.get_array()).reshape(SIZE[1], SIZE[0], 4)
                    greys.add(int(image[50, 5, 0]))
                    return len(greys) >= 8

                await until(several)
                known = sorted({int(picture(n)[50, 5, 0]) for n in range(28)})
                assert all(min(abs(grey - k) for k in known) <= 4 for grey in greys), greys
                receiver.disconnect()

    run(test())
