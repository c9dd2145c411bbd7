"""A session's pictures, handed to whoever watches: newest wins, and nobody queues more than one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

from av.video.reformatter import Colorspace

from stream.frame import Frame
from web.media.colour import Planes, ToPlanes
from web.media.encodings import Encodings


class Picture:
    """One shown picture. `captured_ms`: when its input was taken, in ms of the page's wall clock, where that is known;
    `number` counts a session's pictures from 1; `shown_at` is `time.monotonic()`."""

    def __init__(self, frame: Frame, captured_ms: float | None, number: int) -> None:
        self.frame, self.captured_ms, self.number = frame, captured_ms, number
        self.shown_at = time.monotonic()
        self._planes: dict[Colorspace, Planes] = {}
        self._lock = threading.Lock()

    def planes(self, matrix: Colorspace = Colorspace.ITU709) -> Planes:
        """As YUV, converted once for all viewers; for a thread."""
        with self._lock:
            if matrix not in self._planes:
                self._planes[matrix] = converter(matrix)(self.frame.image)
            return self._planes[matrix]


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.made: dict[Colorspace, ToPlanes] = {}


_converters = _PerThread()


def converter(matrix: Colorspace) -> ToPlanes:
    """This thread's own: swscale keeps its tables in it, and is not for two threads."""
    return _converters.made.setdefault(matrix, ToPlanes(matrix))


class Watcher:
    """One subscriber of `Pictures`: holds no picture but the number it saw last, counts in `dropped` those it missed.

    `async for picture in pictures.watch()` ends when either is closed.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._seen = pictures.newest.number - 1 if pictures.newest else 0
        self._again = False
        self._wake = asyncio.Event()
        self.closed = False
        self.dropped = 0

    async def __anext__(self) -> Picture:
        return await self.next()

    def __aiter__(self) -> AsyncIterator[Picture]:
        return self

    async def next(self) -> Picture:
        """The newest picture not seen yet; waits for one. StopAsyncIteration once closed."""
        while not self.closed:
            newest = self._pictures.newest
            if newest is not None and (newest.number > self._seen or self._again):
                return self._taken(newest)
            self._wake.clear()
            await self._wake.wait()
        raise StopAsyncIteration

    def again(self) -> None:
        """The newest picture counts as unseen: somebody needs a key frame of it."""
        self._again = True
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._pictures.forget(self)
        self.wake()

    def _taken(self, picture: Picture) -> Picture:
        self.dropped += max(0, picture.number - self._seen - 1)
        self._seen, self._again = picture.number, False
        return picture


class Pictures:
    """The newest picture of a session, those who watch, and the encoders that peers share. All on the event loop."""

    def __init__(self) -> None:
        self.newest: Picture | None = None
        self.closed = False
        self.encodings = Encodings(self)
        self._watchers: set[Watcher] = set()

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def show(self, frame: Frame, *, captured_ms: float | None = None) -> None:
        """`frame.image` must not be written to afterwards; of odd sides the last row or column is not sent."""
        number = self.newest.number + 1 if self.newest else 1
        self.newest = Picture(frame, captured_ms, number)
        for watcher in self._watchers:
            watcher.wake()

    def watch(self) -> Watcher:
        """Begins with the newest picture, if there is one."""
        watcher = Watcher(self)
        watcher.closed = self.closed
        if not self.closed:
            self._watchers.add(watcher)
        return watcher

    def forget(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def close(self) -> None:
        """Ends every watcher."""
        self.closed = True
        for watcher in list(self._watchers):
            watcher.close()
