"""Work that overlaps with the caller's: reading ahead and writing behind, each in a thread with a short queue.

Nothing is dropped and memory stays flat: a full queue makes its writer wait. What a thread raises, the caller gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event
from typing import Generic, TypeVar

T = TypeVar("T")
DEPTH = 4  # items a queue holds
POLL_S = 0.1  # how soon a waiting thread notices that it is over


class End:
    """What follows the last item."""


class Lane(Generic[T]):
    """A thread and its queue."""

    def __init__(self, name: str) -> None:
        self._queue: Queue[T | End] = Queue(DEPTH)
        self._over = Event()
        self._pool = ThreadPoolExecutor(1, name)
        self._job: Future[None]

    def _put(self, item: T | End) -> bool:
        """False where nobody takes it any more."""
        while not self._over.is_set():
            with suppress(Full):
                self._queue.put(item, timeout=POLL_S)
                return True
        return False

    def _items(self, over: Event) -> Iterator[T]:
        while not over.is_set():
            with suppress(Empty):
                item = self._queue.get(timeout=POLL_S)
                if isinstance(item, End):
                    return
                yield item

    def close(self) -> None:
        """Ends the thread, whatever is left in its queue."""
        self._over.set()
        self._pool.shutdown()


class Ahead(Lane[T]):
    """Reads `items` a little ahead of whoever takes them."""

    def __init__(self, items: Iterable[T]) -> None:
        super().__init__("ahead")
        self._job = self._pool.submit(self._fill, items)

    def _fill(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                if not self._put(item):
                    return
        finally:
            self._put(End())

    def take(self, stop: Event) -> Iterator[T]:
        """The items, in order, until they or the patience of `stop` end; raises what reading raised."""
        yield from self._items(stop)
        if not stop.is_set():
            self._job.result()


class Behind(Lane[T]):
    """Hands items to `work` in order, a little behind whoever puts them."""

    def __init__(self, work: Callable[[T], None]) -> None:
        super().__init__("behind")
        self._job = self._pool.submit(self._drain, work)

    def _drain(self, work: Callable[[T], None]) -> None:
        try:
            for item in self._items(self._over):
                work(item)
        finally:
            self._over.set()

    def put(self, item: T) -> None:
        """Raises what the work raised on an earlier item."""
        if not self._put(item):
            self._job.result()

    def finish(self) -> None:
        """Waits until everything is worked on."""
        self._put(End())
        self._job.result()
