"""Where slow-to-make things are kept: one folder for each content key, written atomically, checked when read.

A key is a hash of everything that the result depends on (weights, code, ports, versions), so nothing is ever stale:
another LoRA, another release of a library, another network is another key. Processes that need the same thing make it
once: the first one makes it, the others wait and take it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from engines.errors import EngineError

if TYPE_CHECKING:
    from engines.spec import Network

log = logging.getLogger("livebrush")
FORMAT = 2  # of the manifest
MANIFEST, LOCK, NEW, DAMAGED = "manifest.json", ".lock", ".new-", ".damaged"
Facts = Mapping[str, Any]


def default_folder() -> Path:
    """The user's cache folder (`LIVEBRUSH_CACHE` names another)."""
    named = os.environ.get("LIVEBRUSH_CACHE")
    return Path(named) if named else user_cache_path("livebrush")


def network_key(network: Network, *more: str) -> str:
    """A hash of a network's weights, structure, code and ports, of the libraries that trace it, and of `more`."""
    import torch

    digest = hashlib.sha256()
    facts = [network.name, repr(network.module), inspect.getsource(type(network.module)), repr(network.inputs),
             repr(network.output), *(f"{p} {version(p)}" for p in ("torch", "diffusers")), *more]  # fmt: skip
    digest.update("\0".join(facts).encode())
    for name, weight in network.module.state_dict().items():
        digest.update(f"\0{name} {weight.dtype} {tuple(weight.shape)}\0".encode())
        digest.update(memoryview(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()[:40]


def key_of(facts: Facts) -> str:
    """The key of what depends on these facts, plain values of JSON, and on nothing else."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Entry:
    """What lies in a cache, as its manifest says: what it depends on, and how it was made."""

    place: Path
    facts: Facts
    made: Facts
    size: int  # bytes
    used: float  # when it was last asked for, in seconds since 1970


class Cache:
    """Folders by key below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fetch(self, key: str, make: Callable[[Path], object], facts: Facts | None = None) -> Path:
        """The folder of `key`, made by `make(empty folder)` where it is not there; a mapping that `make` returns is
        kept in the manifest.

        A damaged one is set aside (renamed to `KEY.damaged`) and made again. EngineError where the folder cannot be
        written.
        """
        found = self.found(key, facts)
        if found is not None:
            return found
        with self.making() as new:
            return self.found(key, facts) or self.put(new, key, make, facts)

    def found(self, key: str, facts: Facts | None = None) -> Path | None:
        """The folder of `key` where it is there and whole."""
        place = self.folder / key
        if not place.is_dir() or wrong(place, facts) is not None:
            return None
        with suppress(OSError):  # a cache that may only be read serves as well
            os.utime(place / MANIFEST)
        return place

    @contextmanager
    def making(self) -> Iterator[Path]:
        """An empty folder to make things in, while no other process makes anything in this cache.

        Gone afterwards, whatever happens. What a killed process left is removed by the next one to come here.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                self.sweep()
                with tempfile.TemporaryDirectory(dir=self.folder, prefix=NEW, ignore_cleanup_errors=True) as new:
                    yield Path(new)
        except OSError as error:
            raise EngineError(
                f"the cache folder {self.folder} cannot be written ({error.strerror or error}): free some space, or "
                "set LIVEBRUSH_CACHE to another folder"
            ) from error

    def put(self, new: Path, key: str, make: Callable[[Path], object], facts: Facts | None = None) -> Path:
        """Makes `key` in `new`, the folder of `making`, and puts it in its place, complete or not at all."""
        fresh, place = new / key, self.folder / key
        fresh.mkdir()
        made = make(fresh)
        how = dict(made) if isinstance(made, Mapping) else {}
        how["at"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        manifest = {"format": FORMAT, "facts": dict(facts or {}), "made": how, "files": dict(_files(fresh))}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if place.exists():
            self.set_aside(place)
        fresh.rename(place)
        return place

    def set_aside(self, place: Path) -> Path:
        """Renames what cannot be used to `KEY.damaged`, and says why."""
        log.warning("cached %s cannot be used: %s: set aside, to be made again", place.name, wrong(place) or "foreign")
        aside = place.with_name(place.name + DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        return place.rename(aside)

    def entries(self) -> Iterator[Entry]:
        """Everything with a manifest that can be read, newest use first. Files are not checked."""
        places = (p for p in self._places() if not p.name.endswith(DAMAGED))
        known = [e for e in map(read, places) if e is not None]
        yield from sorted(known, key=lambda e: -e.used)

    def damaged(self) -> Iterator[tuple[Path, str]]:
        """Folders that cannot be used, and why: every file is read."""
        for place in self._places():
            why = "was set aside before" if place.name.endswith(DAMAGED) else wrong(place)
            if why is not None:
                yield place, why

    def leftovers(self) -> list[Path]:
        """Where something was being made: by a process that runs, or was killed."""
        return sorted(self.folder.glob(f"{NEW}*"))

    def sweep(self) -> None:
        """Removes what killed processes left; for the process that makes things alone."""
        for left in self.leftovers():
            shutil.rmtree(left, ignore_errors=True)

    def _places(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("another process is making something in %s: waiting for it", self.folder)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def wrong(place: Path, facts: Facts | None = None) -> str | None:
    """Why a folder of a cache cannot be used, or None. Every file is read; with `facts`, it must be made of these."""
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its manifest is missing or damaged"
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return f"its manifest is of another version of Livebrush, expected format {FORMAT}"
    if facts is not None and manifest.get("facts") != json.loads(json.dumps(dict(facts))):
        return "it was made for something else than its name says"
    if manifest.get("facts") and key_of(manifest["facts"]) != place.name.removesuffix(DAMAGED):
        return "it was made for something else than its name says"
    return _changed(place, manifest.get("files"))


def _changed(place: Path, expected: Any) -> str | None:
    """Which file is not as the manifest says, or None."""
    if not isinstance(expected, dict):
        return "its manifest is missing or damaged"
    for name, fact in expected.items():
        file = place / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != fact["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, expected {fact['bytes']}"
        if _checksum(file) != fact["sha256"]:
            return f"{name} has changed since it was written"
    return None


def _files(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.iterdir()):
        yield path.name, {"bytes": path.stat().st_size, "sha256": _checksum(path)}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(place: Path) -> Entry | None:
    """What a folder's manifest says, or None where it cannot be read. Files are not checked."""
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        size = sum(p.stat().st_size for p in place.iterdir())
        used = (place / MANIFEST).stat().st_mtime
        return Entry(place, manifest["facts"], manifest["made"], size, used)
    except (OSError, ValueError, KeyError, TypeError):
        return None
