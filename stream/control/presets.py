"""Looks by name: those that ship with Livebrush (configs/looks) and the user's own, one JSON file each.

    {"format": 1, "settings": {"prompt": "neon lights", "strength": 0.45}}

A file of another version is no error: what is not known here is left out, and said.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from stream.control import store
from stream.errors import ControlError, SettingsError
from stream.settings import Settings

NAME = re.compile(r"\w(?:[\w .+()-]{0,46}[\w+)-])?")
DEVICES = re.compile(r"(?i:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")  # no names of files on Windows
MOST = 500  # of the user's own


@dataclass(frozen=True)
class Preset:
    """A look: some of the settings. `notes` say what of its file is not known here."""

    name: str
    settings: dict[str, Any]
    own: bool = True  # else it ships with Livebrush
    notes: tuple[str, ...] = field(default=())


def checked_name(name: str) -> str:
    """A preset's name as it is kept (Unicode NFC); ControlError where it can be none."""
    made = unicodedata.normalize("NFC", name).strip()
    if not NAME.fullmatch(made) or DEVICES.fullmatch(made):
        raise ControlError(
            f"preset name {name[:60]!r} is none: use up to 48 letters, digits, spaces and . _ + ( ) -, a letter or "
            "digit first"
        )
    return made


def settings_of(given: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Those of the settings that hold here, each by itself, and a note for each that does not."""
    if not isinstance(given, dict):
        return {}, (f"settings is {given!r:.80}: expected an object",)
    good: dict[str, Any] = {}
    notes = []
    for name, value in given.items():
        try:
            good |= Settings.checked(**{name: value}).model_dump(mode="json", include={name})
        except SettingsError as error:
            known = name in Settings.model_fields
            notes.append(f"left out: {error}" if known else f"left out: {name[:80]} is a setting of another version")
    return good, tuple(notes)


def read(path: Path, *, own: bool) -> Preset:
    """The preset in a file; ControlError where it is none at all."""
    found = store.read(path, "preset")
    good, notes = settings_of(found.get("settings"))
    if found.get("format") != store.FORMAT:
        notes = (f"format {found.get('format')!r:.20} is of another version: read as {store.FORMAT}", *notes)
    return Preset(path.stem, good, own, notes)


class Presets:
    """The user's presets in `folder`, and those that ship. An own one hides one that ships."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = (store.default_folder() if folder is None else folder) / "presets"

    def names(self) -> list[str]:
        """All names: the user's own first, each part in the order of the alphabet."""
        own = sorted(path.stem for path in self._own())
        return own + sorted(name for name in shipped() if name not in own)

    def all(self) -> list[Preset]:
        """Every preset; one that cannot be read is there, empty, with a note."""
        found = []
        for name in self.names():
            try:
                found.append(self.find(name))
            except ControlError as error:
                found.append(Preset(name, {}, notes=(str(error),)))
        return found

    def find(self, wanted: str | int) -> Preset:
        """The preset of a name, or of a number in the list, the first being 0 as in MIDI. ControlError."""
        if isinstance(wanted, int):
            names = self.names()
            if not 0 <= wanted < len(names):
                raise ControlError(f"preset {wanted} is not here: there are {len(names)}, the first is 0")
            wanted = names[wanted]
        name = checked_name(wanted)
        if (path := self._path(name)).is_file():
            return read(path, own=True)
        if name in shipped():
            return read(shipped()[name], own=False)
        raise ControlError(f"preset {name!r} is not here: use one of {', '.join(self.names()[:20]) or 'none yet'}")

    def save(self, name: str, settings: dict[str, Any]) -> Preset:
        """Keeps settings under a name; what was there is replaced. ControlError, SettingsError."""
        name = checked_name(name)
        known = Settings.checked(**settings).model_dump(mode="json", include=set(settings))
        path = self._path(name)
        if not path.exists() and len(self._own()) >= MOST:
            raise ControlError(f"{MOST} presets are kept already: delete one")
        store.write(path, {"settings": known}, "preset")
        return Preset(name, known)

    def delete(self, name: str) -> None:
        """Removes one of the user's own; ControlError where it is none."""
        name = checked_name(name)
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            told = "ships with Livebrush: save another under its name" if name in shipped() else "is not here"
            raise ControlError(f"preset {name!r} {told}") from None
        except OSError as error:
            raise ControlError(f"preset {name!r} cannot be deleted ({error.strerror})") from None

    def _own(self) -> list[Path]:
        return [path for path in self._folder.glob("*.json") if NAME.fullmatch(path.stem)]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def shipped() -> dict[str, Path]:
    """The files of those that ship with Livebrush, by name."""
    folder = Path(str(files("configs"))) / "looks"
    return {path.stem: path for path in folder.glob("*.json")}
