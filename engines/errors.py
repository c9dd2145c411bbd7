"""The root of every error that a user can mend. The whole tree is drawn in `stream/errors.py`."""

from __future__ import annotations


class LivebrushError(Exception):
    """Says what was got, what was expected, and what to do."""


class EngineError(LivebrushError):
    """A network could not be built or run on the back end that was asked for."""
