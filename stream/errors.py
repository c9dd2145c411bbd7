"""Every error that a user can mend, in one tree. The command line prints the message and exits with 2.

    LivebrushError
    ├── EngineError      a back end is missing, unknown, or cannot build a network   (engines/errors.py)
    ├── SettingsError    a setting is out of its range, or does not fit the model
    ├── ConfigError      a preset is unknown or malformed
    ├── ModelError       weights are missing, incomplete or of an unknown kind
    ├── SourceError      an input cannot be opened or read
    ├── SinkError        an output cannot be opened or written
    ├── ControlError     a preset, a MIDI binding, a beat or an address of live control is wrong
    └── ClipError        a timeline is wrong, or a clip cannot be rendered as it asks

Messages say what was got, what was expected, and what to do: `width 500 is not a multiple of 8: use 496 or 504`.
"""

from __future__ import annotations

from engines.errors import EngineError, LivebrushError


class SettingsError(LivebrushError, ValueError):
    """A setting is out of its range, or does not fit the model."""


class ConfigError(LivebrushError):
    """A preset is unknown or malformed."""


class ModelError(LivebrushError):
    """Weights are missing, incomplete or of an unknown kind."""


class SourceError(LivebrushError):
    """An input cannot be opened or read."""


class SinkError(LivebrushError):
    """An output cannot be opened or written."""


class ControlError(LivebrushError):
    """A preset, a MIDI binding, a beat or an address of live control is wrong, or cannot be had here."""


class ClipError(LivebrushError):
    """A timeline is wrong, or a clip cannot be rendered as it asks. `at` is the place in the timeline, where there is
    one: `("segments", 1, "fade")`; a timeline's reader makes file and line of it."""

    def __init__(self, text: str, at: tuple[str | int, ...] = ()) -> None:
        super().__init__(text)
        self.at = at


__all__ = [
    "ClipError",
    "ConfigError",
    "ControlError",
    "EngineError",
    "LivebrushError",
    "ModelError",
    "SettingsError",
    "SinkError",
    "SourceError",
]
