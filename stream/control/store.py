"""Small files of the user's: JSON in their configuration folder, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from stream.errors import ControlError

FORMAT = 1
LIMIT = 256 * 1024  # bytes of a file that is read


def default_folder() -> Path:
    """The user's own, of Livebrush."""
    return user_config_path("livebrush", appauthor=False)


def read(path: Path, what: str) -> dict[str, Any]:
    """The object in a file; ControlError where there is none."""
    try:
        if path.stat().st_size > LIMIT:
            raise ControlError(f"{what} {path.name} has more than {LIMIT} bytes: it is none of Livebrush's")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ControlError(f"{what} {path.name} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ControlError(f"{what} {path.name} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ControlError(f"{what} {path.name} is a {type(found).__name__}: expected an object")
    return found


def write(path: Path, content: dict[str, Any], what: str) -> None:
    """Writes a file beside and puts it in place: whoever reads sees the old one or the new one. ControlError."""
    text = json.dumps({"format": FORMAT, **content}, indent=2, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ControlError(
            f"{what} cannot be kept in {path.parent} ({error.strerror}): make room, or give another folder"
        ) from None
