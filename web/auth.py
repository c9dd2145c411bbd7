"""Who may ask what: the Host and Origin of every request, who asks, and the kind and size of its body.

`Guard` stands before the application, so that nothing behind it needs to think of other sites: a page of another site
cannot reach the server under its own name (DNS rebinding: Host), nor from its own place (Origin, Sec-Fetch-Site). It
leaves the role of whoever asks in the scope (`web.access`), and lets those whom nobody knows see the login only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.access import SCOPE, Role, refusal
from web.door import Door
from web.errors import RefusalError, ServeError
from web.fields import BODY_LIMIT, TIMELINE_LIMIT, UPLOAD_LIMIT
from web.rate import Rate as Rate

TWINS = ("localhost", "127.0.0.1", "::1")  # names of one and the same place
BODY_S = 10.0  # a body must be here by then
UPLOAD_S = 120.0  # an upload as well
WITH_BODY = ("POST", "PUT", "PATCH")
VIDEOS = "/v1/videos"  # takes forms with a file
LONGER = {VIDEOS: TIMELINE_LIMIT, "/api/clips/plan": TIMELINE_LIMIT}  # bodies that may be longer than others
FORM = "multipart/form-data"
JSON = "application/json"
SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"  # WHIP and WHEP: offers, and what follows them
SIMPLE = ("", "text/plain", "application/x-www-form-urlencoded", FORM)  # what any site may send without being asked
PAGES = ("/", "/view", "/clips")  # show a login to those whom nobody knows
OPEN = (*PAGES, "/healthz", "/readyz", "/api/login", "/api/me")  # for everybody, as is what lies below /static
PORTS = {"http": 80, "https": 443}
HEADERS = {
    "cache-control": "no-cache",  # asked for again after an update; unchanged files cost a 304
    "content-security-policy": "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob: mediastream:; connect-src 'self' {socket}; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


# ------------------------------------------------------------------------------------------------- places


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address) is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split(netloc: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port` or `[address]:port`; ValueError where it is none of them."""
    if netloc.startswith("["):
        host, closed, rest = netloc[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(netloc)
        return host.lower(), _port(rest[1:]) if rest else None
    host, colon, port = netloc.partition(":")
    if not host:
        raise ValueError(netloc)
    return host.lower().rstrip("."), _port(port) if colon else None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise ValueError(text)
    return int(text)


def origin(text: str) -> str:
    """An origin as browsers send it (RFC 6454); ServeError where the text is none."""
    scheme, _, place = text.strip().lower().rstrip("/").partition("://")
    try:
        host, port = split(place)
    except ValueError:
        host, port = "", None
    if scheme not in PORTS or not re.fullmatch(r"[a-z0-9.:_-]+", host):
        raise ServeError(f"origin {text[:80]!r} is none: use e.g. https://stage.example")
    return f"{scheme}://{bracketed(host)}" + (f":{port}" if port not in (None, PORTS[scheme]) else "")


def bracketed(host: str) -> str:
    """As it stands in an address."""
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True)
class Places:
    """The names under which the server may be asked: those of the address that it is bound to, and of `origins`.

    Off loopback it also answers to this machine's names and to any plain address: only a name can be rebound.
    """

    host: str
    port: int
    scheme: str = "http"
    origins: tuple[str, ...] = ()  # as `origin` gives them
    _others: frozenset[tuple[str, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = [(text.partition("://")[0], split(text.partition("://")[2])) for text in self.origins]
        others = frozenset((host, port or PORTS[scheme]) for scheme, (host, port) in parts)
        object.__setattr__(self, "_others", others)

    def known(self, netloc: str) -> bool:
        """Whether a Host header names this server."""
        try:
            host, port = split(netloc)
        except ValueError:
            return False
        if {(host, port or PORTS[scheme]) for scheme in PORTS} & self._others:
            return True
        return self._own(host, port)

    def same_site(self, origin: str, netloc: str) -> bool:
        """Whether an Origin is the page of this server, asked under the Host `netloc`."""
        if origin in self.origins:
            return True
        scheme, _, place = origin.partition("://")
        try:
            (host, port), asked = split(place), split(netloc)[0]
        except ValueError:
            return False
        if scheme != self.scheme or not self._own(host, port):
            return False
        return host == asked or (is_loopback(host) and is_loopback(asked))

    def _own(self, host: str, port: int | None) -> bool:
        return (PORTS[self.scheme] if port is None else port) == self.port and self._named(host)

    def _named(self, host: str) -> bool:
        if is_loopback(self.host):
            return host in TWINS or host == self.host
        own = socket.gethostname().lower()
        return host in (self.host, *TWINS, own, f"{own}.local") or is_address(host)

    def __str__(self) -> str:
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------- the guard


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, those whom nobody knows, other bodies than JSON (the SDP of
    WHIP, and the form of a clip), and bodies that are too large."""

    def __init__(self, app: ASGIApp, places: Places, door: Door) -> None:
        self._app, self._places, self._door = app, places, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        http = scope["type"] == "http"
        try:
            self._check(scope, headers)
            scope[SCOPE] = self._role(scope)
            if http and scope["method"] in WITH_BODY:
                receive = await self._body(scope["path"], receive, headers)
        except RefusalError as no:
            await refuse(scope, receive, send, no)
            return
        safe = scope["scheme"] in ("https", "wss") or f"https://{headers['host']}" in self._places.origins
        await self._app(scope, receive, with_headers(send, headers["host"], safe) if http else send)

    def _role(self, scope: Scope) -> Role:
        """Who asks; RefusalError where it is nobody, unless that is open to everybody."""
        if scope.get("method") == "OPTIONS" and is_whip(scope["path"]):
            return Role.NOBODY  # browsers ask without a token whether they may send one
        role = self._door.role(HTTPConnection(scope))
        if role is Role.NOBODY and not is_open(scope.get("method", ""), scope["path"]):
            raise refusal(role, Role.VIEW)
        return role

    async def _body(self, path: str, receive: Receive, headers: Mapping[str, str]) -> Receive:
        """`receive` with a body that is not too large: read already, unless it is a form."""
        if path == VIDEOS and kind_of(headers) == FORM:
            return bounded(receive, headers)
        if is_empty(headers):
            return replay(b"", receive)  # what is asked for stands in the path; a browser tells its Origin all the same
        limit = LONGER.get(path, BODY_LIMIT)
        return replay(await body(receive, headers, limit, kind_for(path)), receive)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._places.known(host):
            raise RefusalError(403, f"Host {host[:80]!r} is not this server: ask {self._places}")
        if origin is not None and not self._places.same_site(origin, host):
            raise RefusalError(403, f"Origin {origin[:80]!r} is another site: use the page at {self._places}")
        asks = (
            scope["type"] == "websocket" or scope["path"].startswith(("/api/", "/v1/")) or scope["method"] in WITH_BODY
        )
        if asks and headers.get("sec-fetch-site") == "cross-site" and origin not in self._places.origins:
            raise RefusalError(403, f"the request comes from another site: use the page at {self._places}")


def is_open(method: str, path: str) -> bool:
    """Whether that is for everybody. OPTIONS is: what browsers ask beforehand carries no credentials."""
    return method.upper() == "OPTIONS" or path in OPEN or path.startswith("/static/")


def is_empty(headers: Mapping[str, str]) -> bool:
    """Whether nothing is sent, and nothing is said of its kind."""
    nothing = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    return nothing and "content-type" not in headers


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by lower-case name; of one that comes twice both, which no rule then knows."""
    found: dict[str, str] = {}
    for key, value in scope["headers"]:
        name, text = key.decode("latin-1").lower(), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def kind_of(headers: Mapping[str, str]) -> str:
    """The Content-Type, without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_whip(path: str) -> bool:
    """Whether WHIP or WHEP is spoken there."""
    return path.split("/", 2)[1:2] in (["whip"], ["whep"])


def kind_for(path: str) -> str:
    """The type of the body that is sent to that path."""
    if not is_whip(path):
        return JSON
    return FRAGMENT if path.count("/") > 2 else SDP


async def body(receive: Receive, headers: Mapping[str, str], limit: int = BODY_LIMIT, wanted: str = JSON) -> bytes:
    """The whole body. RefusalError where it is of another type, too large (told as soon as it is), or does not come."""
    kind = kind_of(headers)
    if kind != wanted:
        told = f"Content-Type is {kind[:80] or 'missing'!r}: send {wanted}"
        raise RefusalError(403 if kind in SIMPLE else 415, told)
    _check_length(headers, limit)
    try:
        return await asyncio.wait_for(_read(receive, limit), BODY_S)
    except TimeoutError:
        raise _too_late(BODY_S) from None


def bounded(receive: Receive, headers: Mapping[str, str]) -> Receive:
    """`receive` that raises RefusalError as soon as more comes than may be uploaded, or it takes too long."""
    _check_length(headers, UPLOAD_LIMIT)
    end, seen = time.monotonic() + UPLOAD_S, 0

    async def received() -> Message:
        nonlocal seen
        try:
            message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
        except TimeoutError:
            raise _too_late(UPLOAD_S) from None
        seen += len(message.get("body", b""))
        if seen > UPLOAD_LIMIT:
            raise _too_large(UPLOAD_LIMIT)
        return message

    return received


def _check_length(headers: Mapping[str, str], limit: int) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:20]) > limit:
        raise _too_large(limit)


async def _read(receive: Receive, limit: int) -> bytes:
    data = bytearray()
    while True:
        message = await receive()
        data += message.get("body", b"")
        if len(data) > limit:
            raise _too_large(limit)
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return bytes(data)


def _too_large(limit: int) -> RefusalError:
    return RefusalError(413, f"the body has more than {limit} bytes: send at most that")


def _too_late(seconds: float) -> RefusalError:
    return RefusalError(408, f"the body did not come within {seconds:g} s: send it at once")


def replay(data: bytes, receive: Receive) -> Receive:
    """`receive` for an application whose body was read before it."""
    first: Message | None = {"type": "http.request", "body": data, "more_body": False}

    async def again() -> Message:
        nonlocal first
        message, first = first, None
        return message or await receive()

    return again


def with_headers(send: Send, host: str, safe: bool) -> Send:
    """`send` with the headers of a page that needs nothing from elsewhere; `safe`: it was asked for over HTTPS."""
    socket = f"{'wss' if safe else 'ws'}://{host}"
    own = [(k.encode(), v.replace("{socket}", socket).encode("latin-1")) for k, v in HEADERS.items()]

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await send(message)

    return sent


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: RefusalError) -> None:
    """The refusal as an HTTP answer, also to a WebSocket's handshake."""
    kind = "websocket.http" if scope["type"] == "websocket" else "http"
    if kind == "websocket.http":
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": str(refusal)[:120]})
            return
    data = json.dumps(refusal.told(scope["path"])).encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    headers += [(k.lower().encode(), v.encode("latin-1")) for k, v in refusal.headers.items()]
    await send({"type": f"{kind}.response.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": data})
