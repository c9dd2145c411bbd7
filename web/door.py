"""The door: whose request it is, by a Bearer token or a cookie, and how often somebody may try."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import HTTPConnection

from web.access import Role
from web.errors import RefusalError
from web.people import Entry, People
from web.rate import Rate

log = logging.getLogger("livebrush")
T = TypeVar("T")
TRIES, TRIES_S = 10, 60.0  # wrong tokens that one address may send in so many seconds
BEARER = "bearer "
WRONG = {"WWW-Authenticate": 'Bearer realm="livebrush", error="invalid_token"'}  # RFC 6750, 3


def household(address: str) -> str:
    """What is counted for an address: itself, and of IPv6 the /64, of which one household has all."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))


def client(connection: HTTPConnection) -> str:
    """The address that asks."""
    return connection.client.host if connection.client else "?"


class Door:
    """Says who somebody is. Owned by the application, asked by the guard and the login."""

    def __init__(self, people: People, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.people, self.name = people, f"livebrush-{port}"  # of the cookie: cookies know no ports
        self._tries = Rate(TRIES, TRIES_S, clock)

    def role(self, connection: HTTPConnection) -> Role:
        """The role of whoever asks. RefusalError 401 where a token is wrong, 429 where too many were."""
        if self.people.open:
            return Role.ADMIN
        said = ", ".join(connection.headers.getlist("authorization"))  # two are none
        if said[: len(BEARER)].lower() == BEARER:
            return self._tried(connection, self.people.bearer, said[len(BEARER) :].strip())
        return self.people.cookie(connection.cookies.get(self.name, "")) or Role.NOBODY

    def enter(self, connection: HTTPConnection, text: str) -> Entry:
        """Lets a page in that shows a token; RefusalError as above."""
        return self._tried(connection, self.people.enter, text)

    def _tried(self, connection: HTTPConnection, known: Callable[[str], T | None], text: str) -> T:
        """What `known` says, unless that address has tried too often: then nothing is looked at."""
        address = client(connection)
        if wait_s := self._tries.left_s(household(address)):
            told = f"too many wrong tokens from {address}: wait {wait_s:.0f} s"
            raise RefusalError(429, told, headers={"Retry-After": f"{max(1, round(wait_s))}"})
        found = known(text)
        if found is None:
            self._tries.wait_s(household(address))
            facts = {"event": "token", "reason": "wrong token", "address": address}
            log.warning("a wrong token from %s", address, extra=facts)
            raise RefusalError(401, "the token is wrong, or its time is over: use another one", headers=WRONG)
        return found
