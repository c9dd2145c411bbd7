"""How media find their way: STUN and TURN servers, the UDP ports, and the address under which others see this machine.

TURN credentials are made for each peer, and lapse: the server and coturn share a secret, which nobody else learns
(`use-auth-secret`, draft-uberti-behave-turn-rest).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from web.errors import ServeError

STUN = re.compile(r"stun:[\w.-]+(:\d{1,5})?")
TURN = re.compile(r"(turn:[\w.-]+(:\d{1,5})?(\?transport=(udp|tcp))?|turns:[\w.-]+(:\d{1,5})?(\?transport=tcp)?)")
TURN_TTL_S = 3600  # coturn looks at it when an allocation is made, not while it lasts
EPHEMERAL = range(1)  # port 0: any free one


@dataclass(frozen=True)
class IceServer:
    """One of `RTCConfiguration.iceServers`."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    def links(self) -> list[str]:
        """Values of `Link` headers (RFC 9725 section 4.6)."""
        if self.username is None:
            return [f'<{url}>; rel="ice-server"' for url in self.urls]
        secret = f'username="{self.username}"; credential="{self.credential}"; credential-type="password"'
        return [f'<{url}>; rel="ice-server"; {secret}' for url in self.urls]


@dataclass(frozen=True)
class Network:
    """`ports` are UDP ports at which media come in; `public_ip` is the address that a 1:1 NAT or a port forwarding
    gives this machine. Raises ServeError where something of it cannot be."""

    stun: tuple[str, ...] = ()
    turn: tuple[str, ...] = ()
    turn_secret: str | None = field(default=None, repr=False)
    turn_ttl_s: int = TURN_TTL_S
    ports: range = EPHEMERAL
    public_ip: str | None = None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        for urls, form, example in ((self.stun, STUN, "stun:host:3478"), (self.turn, TURN, "turn:host:3478")):
            for url in urls:
                if not form.fullmatch(url):
                    raise ServeError(f"{example[:4]} server {url[:80]!r} is none: write {example}")
        if self.turn and not self.turn_secret:
            raise ServeError("a TURN server needs the secret that it shares with this one: set LIVEBRUSH_TURN_SECRET")
        if self.public_ip is not None:
            check_public(self.public_ip)

    def servers(self, user: str = "livebrush") -> list[IceServer]:
        """For one peer, with credentials that lapse after `turn_ttl_s`."""
        found = [IceServer(self.stun)] if self.stun else []
        if self.turn and self.turn_secret:
            found.append(IceServer(self.turn, *credentials(self.turn_secret, user, self.clock() + self.turn_ttl_s)))
        return found


def credentials(secret: str, user: str, expires: float) -> tuple[str, str]:
    """Name and password for a TURN server: the password is the HMAC-SHA1 of the name, in base64; `expires` in s since
    1970 (draft-uberti-behave-turn-rest section 2.2)."""
    name = f"{int(expires)}:{user}"
    made = hmac.new(secret.encode(), name.encode(), hashlib.sha1)
    return name, base64.b64encode(made.digest()).decode()


def check_public(text: str) -> None:
    """ServeError unless it is an IPv4 address that others can send to."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise ServeError(f"public address {text[:80]!r} is no IPv4 address: write e.g. 203.0.113.7") from None
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ServeError(f"public address {text} is none that others can send to: write e.g. 203.0.113.7")


def ports(text: str) -> range:
    """The range that `50000-50100` means, both ends included; ServeError where it is none."""
    low, dash, high = text.partition("-")
    high = high if dash else low
    if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
        raise ServeError(f"UDP ports {text[:80]!r} are no range: write e.g. 50000-50100")
    if not 1024 <= int(low[:6]) <= int(high[:6]) <= 65535:
        raise ServeError(f"UDP ports {text[:80]} are no range between 1024 and 65535: write e.g. 50000-50100")
    return range(int(low), int(high) + 1)
