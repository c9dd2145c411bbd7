"""What made a clip: beside its file as `out.mp4.json`, and inside the file without what changes between two runs.

    read(Path("out.mp4"))    # its timeline, to render it again

Files that a timeline names are known by their names and contents, so that a clip says nothing of this machine's folders
and comes out the same wherever they lie; the manifest beside it says where that was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import av
import PIL.Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stream.clips.chunks import KEYWORD, png_text
from stream.clips.timeline import Rate, Timeline
from stream.errors import ClipError
from stream.sinks import publish, remove, told, unfinished
from stream.sources import PICTURES, kind_of

FORMAT = 1
FILES = ("input", "image", "audio", "upscaler")  # fields whose files decide the pictures: their contents are kept
WEIGHTS = ("model", "source", "motion")  # fields with a name, a hub id or a path: `Renderer.models` knows the contents
BESIDE = ("places", "platform", "seconds", "timings", "sha256")  # not inside the file
WORDS = ("keep", "none", "generate")
STILLS = (".gif", ".png", ".apng")  # formats that keep their text elsewhere than videos
Change = Callable[[str, str], str]


class Manifest(BaseModel):
    """A clip, and all that decided it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    livebrush: Annotated[int, Field(ge=1, description="The format of this manifest.")] = FORMAT
    timeline: Timeline
    frames: int  # as they are in the file, and so is what follows
    width: int
    height: int
    fps: Rate
    seed: int
    models: dict[str, str]  # what was run: ids and sha256
    inputs: dict[str, str]  # sha256 of the files that the timeline names
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    places: dict[str, str] = {}  # where the files lie, seen from the clip's folder
    platform: str = ""
    seconds: float = 0  # what making it took
    timings: dict[str, float] = {}  # the same by stage
    sha256: str = ""  # of the file

    def inside(self) -> str:
        """What goes into the file, in ASCII."""
        kept = self.model_dump(mode="json", exclude=set(BESIDE))
        return json.dumps(kept, separators=(",", ":"), sort_keys=True)


def sidecar(path: Path) -> Path:
    """`out.mp4.json` for `out.mp4`."""
    return path.with_name(path.name + ".json")


def save(manifest: Manifest, path: Path) -> None:
    """Writes it in one stroke."""
    made = unfinished(path)
    try:
        with told(path):
            made.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        publish(made, path)
    finally:
        remove(made)


def digest(path: Path) -> str:
    """Sha256 of a file, or of a folder's pictures and their names."""
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        return hashlib.sha256("".join(f"{p.name} {digest(p)}\n" for p in pictures).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------- its files


def files(timeline: Timeline) -> dict[str, Path]:
    """The local files and folders that a timeline names, by what the manifest calls them: the shortest end of their
    paths that tells them apart."""
    found: dict[str, bool] = {}

    def see(key: str, value: str) -> str:
        if _is_file(key, value):
            found[str(_absolute(value))] = True
        return value

    _walk(timeline.model_dump(mode="json"), see)
    paths = [Path(p) for p in found]
    return {_short(p, paths): p for p in paths}


def hashed(timeline: Timeline) -> dict[str, str]:
    """Sha256 of the inputs among them; of weights, `Renderer.models` tells."""
    wanted: set[Path] = set()

    def see(key: str, value: str) -> str:
        if key in FILES and _is_file(key, value):
            wanted.add(_absolute(value))
        return value

    _walk(timeline.model_dump(mode="json"), see)
    return {name: digest(path) for name, path in files(timeline).items() if path in wanted}


def nameless(timeline: Timeline) -> Timeline:
    """`timeline` with the manifest's names in the place of paths."""
    names = {path: name for name, path in files(timeline).items()}

    def change(key: str, value: str) -> str:
        return names[_absolute(value)] if _is_file(key, value) else value

    return Timeline.model_validate(_walk(timeline.model_dump(mode="json"), change))


def places(timeline: Timeline, clip: Path) -> dict[str, str]:
    """Where its files lie, from the clip's folder where there is a way."""
    folder = clip.absolute().parent
    found = {}
    for name, path in files(timeline).items():
        try:
            found[name] = Path(os.path.relpath(path, folder)).as_posix()
        except ValueError:  # another drive
            found[name] = str(path)
    return found


def _walk(data: Any, change: Change, key: str = "") -> Any:
    """A copy of plain data with `change` applied to the strings that may name a file."""
    if isinstance(data, dict):
        return {k: v if k == "options" else _walk(v, change, k) for k, v in data.items()}
    if isinstance(data, list):
        return [_walk(v, change, key) for v in data]
    return change(key, data) if isinstance(data, str) and key in FILES + WEIGHTS else data


def _is_file(key: str, value: str) -> bool:
    """Whether a field's value is a path: built-in names, presets and hub ids come first."""
    if value in WORDS or (key == "input" and kind_of(value) not in ("images", "video")):
        return False
    plain = key in WEIGHTS and Path(value).name == value and not Path(value).suffix
    return not plain and _absolute(value).exists()


def _absolute(value: str) -> Path:
    return Path(os.path.abspath(Path(value).expanduser()))  # noqa: PTH100 (links stay as they are)


def _short(path: Path, others: Collection[Path]) -> str:
    for count in range(1, len(path.parts)):
        end = path.parts[-count:]
        if all(other == path or other.parts[-count:] != end for other in others):
            return "/".join(end)
    return str(path)


# ------------------------------------------------------------------------------------------------- reading


def read(path: Path, without: Collection[str] = ()) -> Timeline:
    """The timeline of a clip, from the clip or from the manifest beside it, with its files where they are now.

    Fields named in `without` will be replaced: their files may be gone. ClipError where there is no manifest, it is
    damaged, or a file is missing or has changed.
    """
    found = load(path)
    names = {*found.inputs, *found.places}

    def change(top: str, _key: str, value: str) -> str:
        if value not in names or top in without:
            return value
        return str(_place(value, found, path.absolute().parent))

    data = found.timeline.model_dump(mode="json")
    return Timeline.model_validate({k: _walk({k: v}, partial(change, k))[k] for k, v in data.items()})


def load(path: Path) -> Manifest:
    """The manifest of a clip, from inside it or beside it. ClipError where there is none that can be read."""
    if not path.exists():
        raise ClipError(f"clip {path} is not there: give a clip that Livebrush made, or the .json beside it")
    if path.suffix.lower() == ".json":
        return _parsed(_text(path), path)
    beside = sidecar(path)
    inside = _inside(path)
    if inside is None and not beside.is_file():
        raise ClipError(f"clip {path} has no manifest in it, and there is no {beside.name} beside it: give a clip "
                        "that Livebrush made")  # fmt: skip
    if inside is None:
        return _parsed(_text(beside), beside)
    found = _parsed(inside, path)
    return found.model_copy(update={"places": dict(_places(beside, found))})


def _places(beside: Path, found: Manifest) -> Iterator[tuple[str, str]]:
    """Where the sidecar says the files are, if it is the same clip's."""
    try:
        other = _parsed(_text(beside), beside)
    except ClipError:
        return
    if other.inside() == found.inside():
        yield from other.places.items()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ClipError(f"manifest {path} cannot be read ({why}): give the clip itself") from None


def _inside(path: Path) -> str | None:
    """The text inside a clip; None where it has none."""
    try:
        if path.is_dir():
            path = next(iter(sorted(path.glob("*.png"))), path)
        if path.suffix.lower() not in STILLS:
            with av.open(str(path), metadata_errors="replace") as file:
                return next((v for k, v in file.metadata.items() if k.lower() == KEYWORD), None)
        if path.suffix.lower() != ".gif":
            return png_text(path)
        with PIL.Image.open(path) as picture:
            text = picture.info.get("comment")
    except (av.FFmpegError, OSError, SyntaxError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClipError(f"clip {path} cannot be read ({why}): give a clip that Livebrush made") from None
    return text.decode("ascii", "replace") if isinstance(text, bytes) else text


def _parsed(text: str, path: Path) -> Manifest:
    try:
        data = json.loads(text)
        known = data.get("livebrush") if isinstance(data, dict) else None
        if isinstance(known, int) and known > FORMAT:
            raise ClipError(f"manifest of {path} is of format {known}, and this Livebrush reads {FORMAT}: update it")
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "manifest"
        raise ClipError(f"manifest of {path} is damaged ({where}: {first['msg'].lower()}): {AGAIN}") from None
    except ValueError as error:
        raise ClipError(f"manifest of {path} is damaged ({error}): {AGAIN}") from None


AGAIN = "use another copy of the clip, or the .json beside it"


def _place(name: str, found: Manifest, folder: Path) -> Path:
    """Where a file of the manifest is: where it was, beside the clip, or here."""
    wanted = found.inputs.get(name)
    changed = None
    for path in (folder / found.places.get(name, name), folder / name, folder / Path(name).name, Path(name).absolute()):
        if not path.exists():
            continue
        if wanted is None or digest(path) == wanted:
            return Path(os.path.normpath(path))
        changed = changed or path
    said = f" (sha256 {wanted})" if wanted else ""
    if changed is not None:
        raise ClipError(f"{changed} is not what this clip was made of{said}: put that beside the clip, or give another")
    raise ClipError(f"{name}, which this clip was made of{said}, is not there: put it beside the clip, or give another")
