"""Which aiortc the subclasses of this package were written for, and the one door to its private names."""

from __future__ import annotations

from typing import Any

import aiortc

from stream.errors import LivebrushError

KNOWN = "1.16"


class LibraryError(LivebrushError):
    """aiortc is not the one this was written for."""


def check_library(version: str = aiortc.__version__) -> None:
    """LibraryError unless `version` is a release of `KNOWN`."""
    if ".".join(version.split(".")[:2]) != KNOWN:
        raise LibraryError(
            f"aiortc {version} is installed, {KNOWN} is needed, as its internals are extended: "
            f"pip install 'aiortc=={KNOWN}.*'"
        )


def inner(thing: object, owner: type, name: str) -> Any:
    """The attribute `__name` which `owner` keeps private in `thing`."""
    return getattr(thing, f"_{owner.__name__}__{name}")


def set_inner(thing: object, owner: type, **values: Any) -> None:
    """Sets attributes `__name` of `owner` in `thing`; AttributeError where the library has no such name."""
    for name, value in values.items():
        inner(thing, owner, name)
        setattr(thing, f"_{owner.__name__}__{name}", value)
