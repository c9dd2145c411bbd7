"""Where slow-to-make things are kept: one folder for each content key, written atomically, checked when read.

A key is a hash of everything that the result depends on (weights, code, ports, versions), so nothing is ever stale:
another LoRA, another release of a library, another network is another key.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from platformdirs import user_cache_path

from engines.errors import EngineError
from engines.spec import Network

log = logging.getLogger("livebrush")
MANIFEST = "manifest.json"


def default_folder() -> Path:
    """The user's cache folder (`LIVEBRUSH_CACHE` names another)."""
    import os

    named = os.environ.get("LIVEBRUSH_CACHE")
    return Path(named) if named else user_cache_path("livebrush")


def network_key(network: Network, *more: str) -> str:
    """A hash of a network's weights, structure, code and ports, of the libraries that trace it, and of `more`."""
    digest = hashlib.sha256()
    facts = [network.name, repr(network.module), inspect.getsource(type(network.module)), repr(network.inputs),
             repr(network.output), *(f"{p} {version(p)}" for p in ("torch", "diffusers")), *more]  # fmt: skip
    digest.update("\0".join(facts).encode())
    for name, weight in network.module.state_dict().items():
        digest.update(f"\0{name} {weight.dtype} {tuple(weight.shape)}\0".encode())
        digest.update(memoryview(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()[:40]


def _checksums(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            with path.open("rb") as file:
                yield path.name, hashlib.file_digest(file, "sha256").hexdigest()


class Cache:
    """Folders by key below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fetch(self, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of `key`, made by `make(empty folder)` where it is not there.

        A damaged one is set aside (renamed to `KEY.damaged`) and made again. Two processes may make the same key: the
        first to finish wins. EngineError where the folder cannot be written.
        """
        place = self.folder / key
        if place.is_dir():
            if self.intact(place):
                return place
            self._set_aside(place)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-", ignore_cleanup_errors=True) as new:
                fresh = Path(new) / key
                fresh.mkdir()
                make(fresh)
                (fresh / MANIFEST).write_text(json.dumps(dict(_checksums(fresh)), indent=1))
                self._publish(fresh, place)
        except OSError as error:
            raise EngineError(
                f"the cache folder {self.folder} cannot be written ({error.strerror or error}): free some space, or "
                "set LIVEBRUSH_CACHE to another folder"
            ) from error
        return place

    def _publish(self, fresh: Path, place: Path) -> None:
        try:
            fresh.rename(place)
        except OSError:
            if not self.intact(place):  # another process was not faster: a real error
                raise

    @staticmethod
    def intact(place: Path) -> bool:
        """Whether every file in a folder is what its manifest says."""
        try:
            manifest = json.loads((place / MANIFEST).read_text())
        except (OSError, ValueError):
            return False
        return bool(manifest == dict(_checksums(place)))

    def _set_aside(self, place: Path) -> None:
        log.warning("cached %s is damaged: set aside and made again", place.name)
        aside = place.with_suffix(".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
