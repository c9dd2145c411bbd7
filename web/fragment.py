"""SDP fragments: candidates that come after the offer, and the credentials of an ICE restart (RFC 8840 section 9)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aioice import Candidate

from web.auth import FRAGMENT
from web.errors import RefusalError
from web.media.ice import Credentials

LINES = 500
UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")  # RFC 8839 section 5.4
PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
PRIORITIES = range(1, 2**32)
PORTS = range(1, 65536)


@dataclass(frozen=True)
class Fragment:
    """What the other side tells of itself. Without `credentials` those of the offer still hold."""

    credentials: Credentials | None
    candidates: tuple[Candidate, ...]

    @classmethod
    def parse(cls, data: bytes) -> Fragment:
        """RefusalError (400) where it is none. Lines that ICE does not need are passed over."""
        try:
            lines = data.decode().splitlines()
        except UnicodeDecodeError:
            raise malformed("it is not UTF-8") from None
        if len(lines) > LINES:
            raise malformed(f"it has {len(lines)} lines, at most {LINES} are read")
        for line in lines:
            if line and line[1:2] != "=":
                raise malformed(f"the line {line[:40]!r} is not of the form a=...")
        return cls(stated(lines), tuple(candidate(line) for line in lines if line.startswith("a=candidate:")))


def stated(lines: Sequence[str]) -> Credentials | None:
    """The credentials, which stand before the media sections or in each of them."""
    ufrags, passwords = values(lines, "a=ice-ufrag:", UFRAG), values(lines, "a=ice-pwd:", PASSWORD)
    if len(ufrags) > 1 or len(passwords) > 1:
        raise malformed("it has several ice-ufrag or ice-pwd: bundle the media, and send one of each")
    if bool(ufrags) != bool(passwords):
        raise malformed("ice-ufrag and ice-pwd come together")
    return Credentials(ufrags.pop(), passwords.pop()) if ufrags else None


def values(lines: Sequence[str], key: str, form: re.Pattern[str]) -> set[str]:
    """The different values of an attribute."""
    found = {line.removeprefix(key).strip() for line in lines if line.startswith(key)}
    for value in found:
        if not form.fullmatch(value):
            raise malformed(f"{key[2:]}{value[:40]!r} is not {form.pattern}")
    return found


def candidate(line: str) -> Candidate:
    """The candidate that a line tells."""
    try:
        made = Candidate.from_sdp(line.removeprefix("a=candidate:"))
    except ValueError as error:
        raise malformed(f"the candidate {line[:80]!r} cannot be read ({error})") from None
    if made.port not in PORTS or made.priority not in PRIORITIES:
        raise malformed(f"the candidate {line[:80]!r} has a port or a priority out of range")
    return made


def written(ours: Credentials, candidates: Sequence[Candidate], section: tuple[str, str]) -> str:
    """The answer to a restart: our new credentials and where we are; `section` is the kind and the mid of the first
    media section of the bundle, which stands for all."""
    kind, mid = section
    media = [f"m={kind} 9 UDP/TLS/RTP/SAVPF 0", f"a=mid:{mid}"]
    told = [f"a=candidate:{one.to_sdp()}" for one in candidates]
    credentials = [f"a=ice-ufrag:{ours.ufrag}", f"a=ice-pwd:{ours.password}"]
    return "\r\n".join([*credentials, *media, *told, "a=end-of-candidates"]) + "\r\n"


def malformed(why: str) -> RefusalError:
    return RefusalError(400, f"the fragment cannot be read: {why}; send {FRAGMENT} as in RFC 8840")
