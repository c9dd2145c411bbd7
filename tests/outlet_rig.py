"""Live sinks at work: hosts with short limits, pictures for them, a pyvirtualcam backend that keeps what it gets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np

from stream.frame import Frame, Image
from stream.sinks.host import Limits, SinkHost
from stream.sinks.live import recognise

SIZE = (96, 64)
QUICK = Limits(first=0.05, last=0.2, look=0.1)


def picture(number: int, size: tuple[int, int] = SIZE) -> Image:
    """Told apart from the one before by eye and by byte: a grey that goes up by 8, on it a square that wanders."""
    image = np.full((size[1], size[0], 3), 16 + number * 8 % 224, np.uint8)
    image[8:24, 8 + number % 40 : 24 + number % 40] = (250, 40, 90)
    return image


class Fed:
    """A host that gets a picture every thirtieth of a second, of `size`; `told` are its states and errors."""

    def __init__(self, text: str, limits: Limits = QUICK) -> None:
        self.told: list[tuple[str, str]] = []
        self.size, self.number = SIZE, 0
        self.host = SinkHost(recognise(text), self._tell, limits)

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.told]

    @property
    def pid(self) -> int:
        """Of the sink's process."""
        assert self.host._life is not None
        return self.host._life.process.pid

    def put(self) -> None:
        self.host.put(Frame(picture(self.number, self.size), captured_at=time.monotonic()))
        self.number += 1

    async def feed(self) -> None:
        while True:
            self.put()
            await asyncio.sleep(1 / 30)

    def _tell(self) -> None:
        self.told.append((self.host.state, self.host.error))


@asynccontextmanager
async def fed(text: str, limits: Limits = QUICK, *, feeds: bool = True) -> AsyncIterator[Fed]:
    """`feeds`: whether pictures come by themselves."""
    made = Fed(text, limits)
    made.host.start()
    feeding = asyncio.create_task(made.feed()) if feeds else None
    try:
        yield made
    finally:
        if feeding is not None:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        await made.host.close()


def decoded(path: Path | str, torn: bool = False) -> list[av.VideoFrame]:
    """All pictures of a file; `torn`: up to where it makes no sense any more, as players do."""
    found = []
    with av.open(str(path)) as container, suppress(av.error.InvalidDataError) if torn else nullcontext():
        for frame in container.decode(video=0):
            found.append(frame)
    return found


def opus(seconds: float, beeps: tuple[float, ...]) -> list[bytes]:
    """Packets of 20 ms: silence, with beeps of 100 ms that begin at those moments."""
    times = np.arange(round(seconds * 48_000)) / 48_000
    loud = np.any([(times >= at) & (times < at + 0.1) for at in beeps], axis=0)
    wave = (np.sin(2 * np.pi * 1000 * times) * loud * 20_000).astype(np.int16)
    encoder: Any = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
    packets = []
    for number, part in enumerate(wave.reshape(-1, 960)):
        frame = av.AudioFrame.from_ndarray(part[None], "s16", "mono")
        frame.sample_rate, frame.pts = 48_000, number * 960
        packets += [bytes(p) for p in encoder.encode(frame)]
    return packets


def beeps(path: Path) -> list[float]:
    """When beeps begin in a file, in seconds."""
    with av.open(str(path)) as container:
        frames: list[Any] = list(container.decode(audio=0))
    start = [np.abs(f.to_ndarray().astype(float)).max(axis=0) for f in frames]
    times = [float(f.pts * f.time_base) + np.arange(f.samples) / f.sample_rate for f in frames]
    level, at = np.concatenate(start), np.concatenate(times)
    loud = at[level > level.max() / 3]
    return [float(t) for n, t in enumerate(loud) if n == 0 or t - loud[n - 1] > 0.05]


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


# ------------------------------------------------------------------------------------------------- a virtual camera

# For the sink's own process: Python imports `sitecustomize` from PYTHONPATH when it starts
REGISTERS = """
import sys
sys.path.insert(0, {tests!r})
from outlet_rig import Backend, register
register({folder!r})
"""


class Backend:
    """A backend of pyvirtualcam's (see its class `Backend`): every picture becomes a file in `folder`."""

    folder: Path

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str | None) -> None:
        self._opened = f"{time.monotonic_ns()}-{width}x{height}"
        self._size, self._count = (width, height), 0
        self._device = device or "/dev/kept"
        (self.folder / f"{self._opened}.json").write_text(
            json.dumps({"fps": fps, "device": self._device, "pid": os.getpid()})
        )

    def send(self, frame: Image) -> None:
        assert frame.ndim == 1
        width, height = self._size
        np.save(self.folder / f"{self._opened}-{self._count:05}.npy", frame.reshape(height, width, 3))
        self._count += 1

    def close(self) -> None:
        (self.folder / f"{self._opened}.closed").touch()

    def device(self) -> str:
        return self._device

    def native_fourcc(self) -> int | None:
        return None


def register(folder: str) -> None:
    import pyvirtualcam

    kept = type("Kept", (Backend,), {"folder": Path(folder)})
    pyvirtualcam.register_backend("kept", kept)


def kept(folder: Path) -> list[Image]:
    """What the virtual camera got, in order. A file that is being written is left out."""
    whole = []
    for path in sorted(folder.glob("*.npy")):
        try:
            whole.append(np.load(path))
        except (ValueError, EOFError):
            continue
    return whole
