"""Pictures on the disk, for what must be read twice: a GIF's palette needs all of them first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from stream.frame import Image
from stream.sinks import told


class Spool:
    """A file of raw pictures of one size. As a context manager it deletes itself; `output` is what it is for."""

    def __init__(self, path: Path, output: Path) -> None:
        self._path, self._output = path, output
        self._shape: tuple[int, ...] = ()
        self.count = 0

    def __enter__(self) -> Self:
        with told(self._output):
            self._file = self._path.open("wb+")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be written any more
            self._file.close()
        self._path.unlink(missing_ok=True)

    def put(self, image: Image) -> None:
        self._shape = image.shape
        self.count += 1
        with told(self._output):
            self._file.write(np.ascontiguousarray(image).data)

    def __iter__(self) -> Iterator[Image]:
        """All pictures from the first on."""
        with told(self._output):
            self._file.seek(0)
        size = int(np.prod(self._shape))
        while size and (raw := self._file.read(size)):
            yield np.frombuffer(raw, np.uint8).reshape(self._shape)
