"""Who may ask what: the Host and Origin of every request, the kind and size of its body, and how often.

`Guard` stands before the application, so that nothing behind it needs to think of other sites: a page of another site
cannot reach the server under its own name (DNS rebinding: Host), nor from its own place (Origin, Sec-Fetch-Site).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.errors import RefusalError
from web.messages import BODY_LIMIT, TIMELINE_LIMIT, UPLOAD_LIMIT

TWINS = ("localhost", "127.0.0.1", "::1")  # names of one and the same place
BODY_S = 10.0  # a body must be here by then
UPLOAD_S = 120.0  # an upload as well
WITH_BODY = ("POST", "PUT", "PATCH")
VIDEOS = "/v1/videos"  # takes forms with a file
LONGER = {VIDEOS: TIMELINE_LIMIT, "/api/clips/plan": TIMELINE_LIMIT}  # bodies that may be longer than others
FORM = "multipart/form-data"
SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"  # WHIP and WHEP: offers, and what follows them
ADDRESSES = 4096  # that `Rate` remembers at most
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


@dataclass(frozen=True)
class Places:
    """The names under which the server may be asked: those of the address that it is bound to.

    Off loopback it also answers to this machine's names and to any plain address: only a name can be rebound.
    """

    host: str
    port: int

    def known(self, netloc: str) -> bool:
        """Whether a Host header names this server."""
        try:
            host, port = split(netloc)
        except ValueError:
            return False
        return (80 if port is None else port) == self.port and self._named(host)

    def same_site(self, origin: str, netloc: str) -> bool:
        """Whether an Origin is the page of this server, asked under the Host `netloc`."""
        scheme, _, place = origin.partition("://")
        if scheme != "http" or not self.known(place):
            return False
        host, asked = split(place)[0], split(netloc)[0]
        return host == asked or (is_loopback(host) and is_loopback(asked))

    def _named(self, host: str) -> bool:
        if is_loopback(self.host):
            return host in TWINS or host == self.host
        own = socket.gethostname().lower()
        return host in (self.host, *TWINS, own, f"{own}.local") or is_address(host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------- how often


class Rate:
    """At most `count` in `per_s` seconds by key, spread evenly after a burst (a token bucket for each key)."""

    def __init__(self, count: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._per_s, self._clock = count, per_s, clock
        self._left: dict[str, tuple[float, float]] = {}  # by key: tokens, and when they were counted

    def wait_s(self, key: str = "") -> float:
        """Takes one; 0, or the seconds until there is one again."""
        now = self._clock()
        tokens, since = self._left.pop(key, (float(self._count), now))
        tokens = min(self._count, tokens + (now - since) * self._count / self._per_s)
        taken = tokens >= 1
        self._left[key] = tokens - taken, now
        while len(self._left) > ADDRESSES:
            del self._left[next(iter(self._left))]  # whoever asked longest ago
        return 0.0 if taken else (1 - tokens) * self._per_s / self._count


# ------------------------------------------------------------------------------------------------- the guard


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, other bodies than JSON (and the form of a clip), and bodies
    that are too large."""

    def __init__(self, app: ASGIApp, places: Places) -> None:
        self._app, self._places = app, places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        try:
            self._check(scope, headers)
            if scope["type"] == "http" and scope["method"] in WITH_BODY:
                receive = await self._body(scope["path"], receive, headers)
        except RefusalError as refusal:
            await refuse(scope, receive, send, refusal)
            return
        await self._app(scope, receive, with_headers(send, headers["host"]) if scope["type"] == "http" else send)

    async def _body(self, path: str, receive: Receive, headers: Mapping[str, str]) -> Receive:
        """`receive` with a body that is not too large: read already, unless it is a form."""
        if path == VIDEOS and kind_of(headers) == FORM:
            return bounded(receive, headers)
        if path.startswith(f"{VIDEOS}/") and not {"content-type", "transfer-encoding"} & headers.keys():
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
        if asks and headers.get("sec-fetch-site") == "cross-site":
            raise RefusalError(403, f"the request comes from another site: use the page at {self._places}")


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


def kind_for(path: str) -> str:
    """The type of the body that is sent to that path."""
    if not path.startswith(("/whip", "/whep")):
        return "application/json"
    return FRAGMENT if path.count("/") > 2 else SDP


async def body(
    receive: Receive, headers: Mapping[str, str], limit: int = BODY_LIMIT, wanted: str = "application/json"
) -> bytes:
    """The whole body. RefusalError where it is of another type, too large (told as soon as it is), or does not come."""
    kind = kind_of(headers)
    if kind != wanted:
        raise RefusalError(415, f"Content-Type is {kind[:80] or 'missing'!r}: send {wanted}")
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


def with_headers(send: Send, host: str) -> Send:
    """`send` with the headers of a page that needs nothing from elsewhere."""
    own = [(k.encode(), v.replace("{socket}", f"ws://{host}").encode("latin-1")) for k, v in HEADERS.items()]

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
