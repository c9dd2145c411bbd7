"""What is fetched from the hub, and what to do where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stream.errors import ModelError


@dataclass(frozen=True)
class Wanted:
    """Files of a hub repository: what they are for, their patterns (none: all), and where else they may be put."""

    repo: str
    what: str
    patterns: tuple[str, ...]
    instead: str
    files: str = ""

    @property
    def command(self) -> str:
        """The command that puts them into the hub cache."""
        picked = [f"--include '{p}'" if "*" in p else p for p in self.patterns]
        return " ".join(["hf download", self.repo, *picked])


def fetch(wanted: Wanted) -> Path:
    """The folder in the hub cache with these files, downloaded where they are not there yet; else ModelError."""
    with fetching(wanted):
        return snapshot(wanted.repo, wanted.patterns)


def snapshot(repo: str, patterns: Sequence[str]) -> Path:
    """The folder in the hub cache with the files of `repo` that match; raises what the hub raises."""
    from huggingface_hub import snapshot_download

    place = Path(snapshot_download(repo, allow_patterns=list(patterns)))
    lost = [p for p in patterns if next(place.glob(p), None) is None]
    if lost:
        raise FileNotFoundError(f"{', '.join(lost)} is not among its files")
    return place


@contextmanager
def fetching(wanted: Wanted) -> Iterator[None]:
    """Turns what the hub may raise into a ModelError that says what to fetch, and where to put it."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    network = HfHubHTTPError.__bases__  # the error of the HTTP library that this release of the hub is built on
    try:
        yield
    except (OSError, ValueError, HFValidationError, *network) as error:  # offline is an OSError
        files = wanted.files or ", ".join(wanted.patterns)
        raise ModelError(
            f"{wanted.what} {wanted.repo} is not on this machine and could not be fetched ({_reason(error)})\n"
            f"with a network: {wanted.command}\n"
            f"without: get {files} of https://huggingface.co/{wanted.repo} into a folder, then {wanted.instead}"
        ) from None


def _reason(error: Exception) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return "its licence must be accepted on its page, then: hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository, or it is private; nor is there a folder of this name here"
    if constants.HF_HUB_OFFLINE:
        return "offline: HF_HUB_OFFLINE is set"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "no network, or the hub does not answer"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """The first line that an error says, at most 200 characters."""
    lines = [x.strip() for x in str(error).splitlines() if x.strip()]
    return lines[0][:200] if lines else type(error).__name__
