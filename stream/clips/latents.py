"""A clip's latents on disk: read and written a few frames at a time, and a state that survives being killed.

A folder holds `latents-<n>.bin`, the latents after n steps, and `state.json`, which says what n is, and what else the
next step needs. The state is replaced at once, after the latents that it speaks of are on the disk: whenever a process
dies, the folder holds the end of one whole step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

STATE = "state.json"
Shape = tuple[int, int, int]  # channels, height and width of one frame's latents


class Slab:
    """Frames `(C, h, w)` in a file, one after the other."""

    def __init__(self, path: Path, shape: Shape, dtype: type[np.generic] = np.float32) -> None:
        self.path, self.shape = path, shape
        self._dtype = np.dtype(dtype)
        self._bytes = self._dtype.itemsize * int(np.prod(shape))
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)

    def read(self, frames: Sequence[int]) -> Tensor:
        """`(1, C, frames, h, w)`."""
        out = np.empty((len(frames), *self.shape), self._dtype)
        for at, first, count in runs(frames):
            self._file.seek(first * self._bytes)
            if self._file.readinto(out[at : at + count].data.cast("B")) != count * self._bytes:
                raise EOFError(f"{self.path} ends before frame {first + count}")
        return torch.from_numpy(out).transpose(0, 1)[None].contiguous()

    def write(self, frames: Sequence[int], values: Tensor) -> None:
        """`values` as `read` gives them."""
        rows = values[0].transpose(0, 1).cpu().contiguous().numpy().astype(self._dtype, copy=False)
        for at, first, count in runs(frames):
            self._file.seek(first * self._bytes)
            self._file.write(rows[at : at + count].data.cast("B"))

    def sync(self) -> None:
        """What was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def runs(frames: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbouring frames together: place in `frames`, first frame, count."""
    start = 0
    for k in range(1, len(frames) + 1):
        if k == len(frames) or frames[k] != frames[k - 1] + 1:
            yield start, frames[start], k - start
            start = k


@dataclass(frozen=True)
class State:
    """Where a clip is: `done` steps of all rounds; the generator's state and the threads for the steps to come."""

    key: str  # what it is a clip of
    done: int
    generator: str  # hexadecimal
    threads: int


class Store:
    """The latents of one clip in its folder. `names` are the slabs of each step: `latents`, and what samplers keep."""

    def __init__(self, folder: Path, key: str, frames: int, shape: Shape, names: Sequence[str] = ("latents",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._key, self._frames, self._shape = folder, key, frames, shape
        self._names = tuple(names)
        self._open: list[Slab] = []

    def state(self) -> State | None:
        """The state of the last whole step; None where there is none of this clip."""
        try:
            found = State(**json.loads((self._folder / STATE).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        whole = 4 * int(np.prod(self._shape)) * self._frames
        paths = [self.path(name, found.done) for name in self._names]
        sound = found.key == self._key and all(p.exists() and p.stat().st_size == whole for p in paths)
        return found if sound else None

    def slab(self, name: str, done: int | None = None) -> Slab:
        """The latents after `done` steps, or what is kept for all steps."""
        slab = Slab(self.path(name, done), self._shape)
        self._open.append(slab)
        return slab

    def commit(self, state: State) -> None:
        """From now on the clip is at `state`; the slabs of other steps go."""
        for slab in self._open:
            slab.sync()
        self.close()
        new = self._folder / f"{STATE}.new"
        with new.open("w") as file:
            json.dump(asdict(state), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._folder / STATE)
        kept = {self.path(name, state.done) for name in self._names}
        for path in self._folder.glob("*-*.bin"):
            if path not in kept:
                with suppress(OSError):
                    path.unlink()

    def clear(self) -> None:
        """Nothing is kept of an earlier clip."""
        self.close()
        for path in [self._folder / STATE, *self._folder.glob("*.bin")]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of the files; what is in them stays."""
        while self._open:
            self._open.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def path(self, name: str, done: int | None = None) -> Path:
        """The file of what is kept of a step, or of all steps."""
        return self._folder / (f"{name}.bin" if done is None else f"{name}-{done}.bin")
