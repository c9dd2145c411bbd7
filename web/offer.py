"""An offer is looked at before aiortc sees it: limits are held, and what cannot help to connect is left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from stream.errors import LivebrushError
from web.auth import is_address

SECTIONS = {"video": 2, "audio": 2, "application": 1}  # at most, of an offer
CODECS = 128  # of a section: there are no more payload types


class OfferError(LivebrushError, ValueError):
    """An offer is malformed, too large, or asks for what is not spoken here."""


@dataclass(frozen=True, slots=True)
class OfferLimits:
    bytes: int = 64 * 1024
    lines: int = 1500
    candidates: int = 32


def checked(text: str, limits: OfferLimits) -> str:
    """The offer for aiortc, without candidates that it cannot use; OfferError where it breaks a limit.

    Left out are TCP candidates, host names (`.local` ones take seconds to look up: the page's own checks come in
    anyway), and the end of candidates, after which nobody would wait for those checks.
    """
    size = len(text.encode(errors="replace"))
    if size > limits.bytes:
        raise OfferError(f"the offer has {size} bytes, at most {limits.bytes} are taken: offer fewer codecs")
    lines = text.splitlines()
    _count("lines", len(lines), limits.lines)
    _count("candidates", sum(line.startswith("a=candidate:") for line in lines), limits.candidates)
    _check_sections(lines)
    kept = (line for line in lines if line != "a=end-of-candidates" and not _is_useless(line))
    return "\r\n".join(kept) + "\r\n"


def _count(what: str, got: int, most: int) -> None:
    if got > most:
        raise OfferError(f"the offer has {got} {what}, at most {most} are taken: leave some out")


def _check_sections(lines: list[str]) -> None:
    if not lines or not lines[0].startswith("v=0"):
        start = lines[0][:20] if lines else ""
        raise OfferError(f"the offer begins with {start!r}, SDP with 'v=0': send the text of a session description")
    kinds = Counter(line[2:].split(" ")[0] for line in lines if line.startswith("m="))
    for kind, got in kinds.items():
        _count(f"sections of {kind[:20]!r}", got, SECTIONS.get(kind, 0))
    if not kinds["video"]:
        raise OfferError("the offer has no video section: add a video track or a transceiver that receives video")
    _count("codecs", sum(line.startswith("a=rtpmap:") for line in lines), CODECS * kinds.total())


def _is_useless(line: str) -> bool:
    """A candidate that is not UDP to an address. Malformed ones stay, for aiortc to refuse."""
    if not line.startswith("a=candidate:"):
        return False
    fields = line.split()
    if len(fields) < 8:
        return False
    return fields[2].lower() != "udp" or not is_address(fields[4])


def sends_video(sdp: str) -> bool:
    """Whether an offer sends video (RFC 8866: a direction in the section, else the session's, else both)."""
    head, *sections = sdp.replace("\r\n", "\n").split("\nm=")
    kinds = [("m=" + section).split("\n") for section in sections]
    videos = [lines for lines in kinds if lines[0].startswith("m=video") and not lines[0].startswith("m=video 0 ")]
    return any(direction(lines, head.split("\n")) in ("sendrecv", "sendonly") for lines in videos)


def direction(*parts: list[str]) -> str:
    """The direction that the first of the parts that has one gives."""
    known = ("sendrecv", "sendonly", "recvonly", "inactive")
    said = (line[2:].strip() for lines in parts for line in lines if line.startswith("a="))
    return next((word for word in said if word in known), "sendrecv")


def first_section(sdp: str) -> tuple[str, str]:
    """Kind and mid of the first media section: that of a bundle which has candidates (RFC 9429 section 4.1.1)."""
    _, *sections = sdp.replace("\r\n", "\n").split("\nm=")
    lines = sections[0].split("\n")
    mids = [line.removeprefix("a=mid:") for line in lines if line.startswith("a=mid:")]
    return lines[0].partition(" ")[0], mids[0] if mids else "0"
