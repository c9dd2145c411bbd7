"""What docs/security.md promises, over the wire: rows S1 to S4 of the table, and what each role may do."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import signal
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from test_serve import POSIX, Process
from waiting import PATIENCE_S, comes_to, run
from webrig import SDP, WATCHES, Room, Served, flat, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from web import certificates, invite, jpeg, sockets
from web.access import Role
from web.app import STOP_S
from web.auth import Places, origin
from web.config import Access, Config, Https
from web.door import TRIES, Door
from web.errors import RefusalError, ServeError
from web.fields import BODY_LIMIT, MESSAGE_LIMIT, MESSAGES_A_SECOND
from web.messages import PICTURE
from web.people import People, Token
from web.rtc import Limits, Peer
from web.serve import PASS_THROUGH, bind, settled
from web.server import GRACE_S, own_page, welcome
from web.sessions import STANDING
from web.waiting import NOTICE_S

ADMIN, CONTROL, VIEW = (f"{role}-secret-0123456789" for role in ("admin", "control", "view"))
TOKENS = (f"admin:{ADMIN}", f"control:{CONTROL}", f"view:{VIEW}")
STAGE = "https://stage.example"
JSON = {"content-type": "application/json"}
OFFER = {"sdp": SDP, "type": "offer"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    """A server that asks for tokens, behind a proxy as well."""
    access = Access(TOKENS, origins=(STAGE,), proxies=("127.0.0.1/32",))
    with served(limit=4, access=access) as server:
        yield server


@pytest.fixture
def server(running: Served) -> Iterator[Served]:
    yield running
    running.http.cookies.clear()
    for session in running.call(lambda: list(running.house.sessions)):
        running.http.delete(f"/api/sessions/{session.id}", headers=bearer(ADMIN))
    running.call(running.house.sessions._line._seen.clear)
    running.call(running.house.door._tries._left.clear)


@pytest.fixture(scope="module")
def alone() -> Iterator[Served]:
    """A server as it starts without any options."""
    with served(limit=4) as server:
        yield server


# ------------------------------------------------------------------------------------------------- S2: roles

LEAST = {
    ("GET", "/"): Role.VIEW, ("GET", "/view"): Role.VIEW, ("GET", "/clips"): Role.VIEW,
    ("GET", "/static/js/main.js"): Role.NOBODY, ("GET", "/healthz"): Role.NOBODY, ("GET", "/readyz"): Role.NOBODY,
    ("GET", "/api/me"): Role.NOBODY, ("GET", "/openapi.json"): Role.VIEW, ("GET", "/nowhere"): Role.VIEW,
    ("GET", "/metrics"): Role.VIEW, ("GET", "/api/schema"): Role.VIEW, ("GET", "/api/loras"): Role.VIEW,
    ("PUT", "/api/loras"): Role.ADMIN, ("GET", "/qr.svg"): Role.CONTROL, ("POST", "/api/sessions"): Role.CONTROL,
    ("GET", "/api/sessions/{live}"): Role.VIEW, ("PATCH", "/api/sessions/{live}"): Role.CONTROL,
    ("DELETE", "/api/sessions/{live}"): Role.ADMIN, ("GET", "/api/sessions/{own}"): Role.VIEW,
    ("PATCH", "/api/sessions/{own}"): Role.CONTROL, ("DELETE", "/api/sessions/{own}"): Role.CONTROL,
    ("POST", "/api/sessions/{live}/viewers"): Role.VIEW, ("GET", "/api/clips"): Role.VIEW,
    ("POST", "/api/clips/plan"): Role.VIEW, ("GET", "/v1/videos"): Role.VIEW, ("POST", "/v1/videos"): Role.CONTROL,
    ("GET", "/v1/videos/x"): Role.VIEW, ("DELETE", "/v1/videos/x"): Role.CONTROL,
    ("POST", "/v1/videos/x/cancel"): Role.CONTROL, ("POST", "/v1/videos/x/resume"): Role.CONTROL,
    ("GET", "/api/sessions"): Role.VIEW, ("PUT", "/api/sessions/{live}"): Role.ADMIN, ("GET", "/api/ice"): Role.VIEW,
    ("GET", "/api/sources"): Role.ADMIN, ("PUT", "/api/sessions/{live}/source"): Role.ADMIN,
    ("GET", "/api/outputs"): Role.ADMIN, ("GET", "/api/sessions/{live}/outputs"): Role.ADMIN,
    ("POST", "/api/sessions/{live}/outputs"): Role.ADMIN, ("DELETE", "/api/sessions/{live}/outputs/x"): Role.ADMIN,
    ("GET", "/api/sessions/{live}/snapshot.png"): Role.VIEW, ("GET", "/api/presets"): Role.VIEW,
    ("PUT", "/api/presets/x"): Role.CONTROL, ("DELETE", "/api/presets/x"): Role.CONTROL,
    ("POST", "/api/sessions/{live}/morph"): Role.CONTROL, ("GET", "/api/beat"): Role.VIEW,
    ("PUT", "/api/beat"): Role.CONTROL, ("POST", "/api/beat/tap"): Role.CONTROL, ("PUT", "/api/midi"): Role.CONTROL,
    ("POST", "/whip/{live}"): Role.CONTROL, ("POST", "/whep/nobody"): Role.VIEW,
    ("DELETE", "/whip/{live}/x"): Role.CONTROL, ("DELETE", "/whep/{live}/x"): Role.VIEW,
}  # fmt: skip
BODIES = {"/api/sessions": OFFER, "/api/loras": {"strengths": {}}, "/v1/videos": {"prompt": "x"},
          "/api/sessions/{live}/viewers": OFFER | {"sdp": WATCHES}, "/api/clips/plan": {"prompt": "x"}}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "least"), LEAST.items(), ids=lambda v: " ".join(v) if isinstance(v, tuple) else v.name
)
def test_every_role_may_do_what_it_may_and_nothing_more(server: Served, asked: tuple[str, str], least: Role) -> None:
    method, path = asked
    for role, headers in ((Role.NOBODY, {}), (Role.VIEW, bearer(VIEW)), (Role.CONTROL, bearer(CONTROL)),
                          (Role.ADMIN, bearer(ADMIN))):  # fmt: skip
        own = ""
        if "live" in path and "live" not in server.house.sessions.standing:
            server.call(server.house.sessions.stand, "live", "page")
        if "own" in path:
            own = server.http.post("/api/sessions", json=OFFER, headers=bearer(CONTROL)).json()["id"]
        body = BODIES.get(path, {"settings": {}}) if method in ("POST", "PUT", "PATCH") else None
        sdp = {"content": SDP, "headers": headers | {"content-type": "application/sdp"}}
        sent: dict[str, Any] = sdp if path.startswith("/wh") and body else {"json": body, "headers": headers}
        answer = server.http.request(method, path.format(live="live", own=own), **sent)
        refused = 401 if role is Role.NOBODY else 403
        if role < least:
            assert answer.status_code == refused, (role, answer.text)
            assert (
                role is not Role.NOBODY
                or path in ("/", "/view", "/clips")
                or "Bearer" in answer.headers["www-authenticate"]
            )
        else:
            assert answer.status_code not in (401, 403), (role, answer.text)


def test_nothing_that_the_document_knows_is_open_to_nobody(server: Served) -> None:
    """Whatever is added later, and forgets to ask for a role."""
    paths = server.http.get("/openapi.json", headers=bearer(VIEW)).json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            answer = server.http.request(method, re.sub(r"{\w+}", "x", path), json={} if method != "get" else None)
            assert method != "options" or not answer.content, "nothing but what may be asked"
            public = path in ("/healthz", "/readyz", "/api/me", "/api/login") or method == "options"
            assert (answer.status_code == 401) is not public, (method, path)
            assert ("401" in operation["responses"]) is (not public or path == "/api/login")


def test_a_websocket_asks_for_a_role_as_well(server: Served) -> None:
    for headers, status in (({}, 401), (bearer(VIEW), 403), (bearer("wrong" * 5), 401)):
        with pytest.raises(InvalidStatus) as refused, socketed(server, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status
    with socketed(server, additional_headers=bearer(CONTROL)) as ws:
        ws.send('{"type":"hello"}')
        assert json.loads(ws.recv(5))["type"] == "hello"


def socketed(server: Served, **more: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}/api/sessions/ws", compression=None, **more)


def test_what_this_machine_sees_is_for_admins(server: Served) -> None:
    """An address among the sources makes this server ask there (SSRF)."""
    for source in ("screen", "camera", "http://169.254.169.254/latest/meta-data", "rtsp://10.0.0.1/", "/etc/passwd"):
        asked = {"sdp": WATCHES, "source": source}
        answer = server.http.post("/api/sessions", json=asked, headers=bearer(CONTROL))
        assert (answer.status_code, "needs the role admin" in answer.json()["error"]) == (403, True), source
        with socketed(server, additional_headers=bearer(CONTROL)) as ws:
            ws.send(json.dumps({"type": "hello", "source": source}))
            assert json.loads(ws.recv(5))["status"] == 403
    assert len(server.house.sessions) == 0


def test_a_viewer_that_asks_for_control_must_have_it(server: Served) -> None:
    server.call(server.house.sessions.stand, "live", "page")
    asked = {"sdp": WATCHES, "control": True}
    assert server.http.post("/api/sessions/live/viewers", json=asked, headers=bearer(VIEW)).status_code == 403
    assert server.http.post("/api/sessions/live/viewers", json=asked, headers=bearer(CONTROL)).status_code == 201
    place = f"ws://127.0.0.1:{server.port}/api/control?session=live"
    with connect(place, compression=None, additional_headers=bearer(VIEW)) as ws:
        assert json.loads(ws.recv(5))["type"] == "hello"
        ws.send(json.dumps({"type": "settings", "changes": {"prompt": "mine"}}))
        assert "only looks on" in error_on(ws)


def test_who_only_looks_changes_nothing_even_with_the_id(server: Served) -> None:
    begun = server.http.post("/api/sessions", json=OFFER, headers=bearer(CONTROL)).json()
    place = f"/api/sessions/{begun['id']}"
    change = {"settings": {"prompt": "mine"}}
    assert server.http.patch(place, json=change, headers=bearer(VIEW)).status_code == 403
    seen = server.http.post(f"{place}/viewers", json={"sdp": WATCHES}, headers=bearer(VIEW))
    assert seen.status_code == 201
    link = server.answers.links[-1]
    server.call(link.connect)
    server.call(link.control.received, json.dumps({"type": "settings", "id": 1, "changes": {"prompt": "mine"}}))
    assert "only looks on" in link.of("error")[0]["error"]
    assert server.http.get(place, headers=bearer(CONTROL)).json()["settings"]["prompt"] != "mine"
    assert server.http.patch(place, json=change, headers=bearer(CONTROL)).json()["settings"]["prompt"] == "mine"


def test_everybody_is_admin_where_nobody_is_asked(alone: Served) -> None:
    assert alone.http.get("/api/me").json() == {"role": "admin"}
    assert alone.http.get("/api/me", headers=bearer("whatever-OBS-was-told")).json() == {"role": "admin"}
    assert alone.http.post("/api/login", json={"token": "anything"}).status_code == 204
    answer = alone.http.get("/?token=old&session=live")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?session=live")


def test_strangers_learn_little_of_the_servers_health(server: Served) -> None:
    server.worker.pid, server.worker.notice = 4711, "of /home/somebody"
    try:
        strange, known = server.http.get("/healthz").json(), server.http.get("/healthz", headers=bearer(VIEW)).json()
    finally:
        server.worker.pid, server.worker.notice = None, ""
    assert (strange["pid"], strange["notice"], strange["ok"]) == (None, "", True)
    assert (known["pid"], known["notice"]) == (4711, "of /home/somebody")


# ------------------------------------------------------------------------------------------------- S2: coming in


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "stage.example"])
def test_off_loopback_it_does_not_start_without_a_token(host: str) -> None:
    with pytest.raises(ServeError, match=r"is open to the network.*--token new.*--insecure"):
        bind(Config(host=host))


@pytest.mark.parametrize("access", [Access(origins=(STAGE,)), Access(proxies=("127.0.0.1",))])
def test_nor_behind_a_proxy(access: Access) -> None:
    """The proxy is on this machine, and lets in the world."""
    with pytest.raises(ServeError, match=r"--origin, --proxy.*--token new"):
        bind(Config(port=0, access=access))


@pytest.mark.parametrize("config", [Config(host="0.0.0.0", port=0, insecure=True),
                                    Config(host="0.0.0.0", port=0, access=Access(TOKENS))])  # fmt: skip
def test_off_loopback_it_starts_with_a_token_or_an_explicit_word(config: Config) -> None:
    bind(config).close()


def test_a_new_token_is_made_once_and_told() -> None:
    config, made = settled(Config(access=Access(("new", f"view:{VIEW}"))))
    assert [str(token) for token in made] == [config.access.tokens[0]]
    assert People.of(config.access).bearer(made[0].secret) is Role.ADMIN
    assert config.access.tokens[1] == f"view:{VIEW}"


@pytest.mark.parametrize(("access", "told"), [
    (Access(("short",)), "5 characters"), (Access(jwt_key="short"), "HS256 needs 32"),
    (Access(origins=("x",)), "origin 'x'"),
    (Access(origins=("ftp://x",)), "use e.g. https://stage.example"), (Access(origins=("https://x/y",)), "is none"),
    (Access(origins=("https://x'; img-src *",)), "is none"),
    (Access(proxies=("a.proxy",)), "proxy 'a.proxy' is no address"),
])  # fmt: skip
def test_what_is_wrong_with_who_may_come(access: Access, told: str) -> None:
    with pytest.raises(ServeError) as error:
        settled(Config(access=access))
    assert told in str(error.value)


def test_a_login_is_a_cookie_that_scripts_do_not_see(server: Served) -> None:
    page = server.http.get("/")
    assert (page.status_code, page.headers["cache-control"].split(",")[0]) == (401, "no-store")
    assert 'type="password"' in page.text
    assert server.http.get("/static/js/login.js").status_code == 200
    answer = server.http.post("/api/login", json={"token": CONTROL})
    assert (answer.status_code, answer.content) == (204, b"")
    told = answer.headers["set-cookie"]
    assert CONTROL not in told
    assert told.startswith(f"livebrush-{server.port}=")
    assert {part.strip().lower() for part in told.split(";")[1:]} == {
        "httponly", "samesite=strict", "path=/", "max-age=2592000", *(p.strip().lower() for p in told.split(";")
                                                                      if "expires" in p)}  # fmt: skip
    assert server.http.get("/api/me").json() == {"role": "control"}
    assert server.http.get("/").status_code == 200
    cookie = "; ".join(f"{k}={v}" for k, v in server.http.cookies.items())
    with socketed(server, additional_headers={"cookie": cookie}, origin=server.url) as ws:
        ws.send('{"type":"hello"}')
        assert json.loads(ws.recv(5))["type"] == "hello"
    wrong = server.http.post("/api/login", json={"token": "wrong"})
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)


@pytest.mark.parametrize("path", ["/", "/view", "/clips"])
def test_a_link_with_a_token_leads_to_the_clean_address(server: Served, path: str) -> None:
    answer = server.http.get(f"{path}?session=live&token={VIEW}&x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, f"{path}?session=live&x=1")
    assert (answer.headers["cache-control"].split(",")[0], answer.headers["referrer-policy"]) == (
        "no-store",
        "no-referrer",
    )
    assert server.http.get("/api/me").json() == {"role": "view"}
    server.http.cookies.clear()
    wrong = server.http.get(f"{path}?token=wrong")
    assert (wrong.status_code, "set-cookie" in wrong.headers, 'type="password"' in wrong.text) == (401, False, True)


def test_a_page_goes_on_when_the_server_has_started_again(server: Served) -> None:
    """R7 with tokens: the cookie of before is known to a server that knows nothing but the same tokens."""
    server.http.post("/api/login", json={"token": CONTROL})
    with served(access=Access(TOKENS)) as again:
        old = server.http.cookies[f"livebrush-{server.port}"]
        assert again.http.get("/api/me", headers={"cookie": f"livebrush-{again.port}={old}"}).json() == {
            "role": "control"
        }


def test_wrong_tokens_are_limited_by_address(server: Served) -> None:
    got = [server.http.post("/api/login", json={"token": f"guess {k}"}).status_code for k in range(TRIES + 2)]
    assert got == [401] * TRIES + [429] * 2
    answer = server.http.get("/api/schema", headers=bearer(ADMIN))
    assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (429, True)
    assert server.http.get("/?token=x").status_code == 429
    other = {"x-forwarded-for": "203.0.113.5"}
    assert server.http.get("/api/schema", headers=bearer(ADMIN) | other).status_code == 200, "from another address"


@pytest.mark.parametrize("said", [
    f"Bearer {ADMIN}x", f"Bearer {ADMIN}, Bearer {ADMIN}", "Bearer", f"Bearer{ADMIN}", f"Basic {ADMIN}",
    ADMIN, "", f"Bearer {ADMIN} {ADMIN}", "Bearer \x80\xff"])  # fmt: skip
def test_a_header_that_is_no_token_lets_nobody_in(server: Served, said: str) -> None:
    headers = [(b"host", f"127.0.0.1:{server.port}".encode()), (b"authorization", said.encode("latin-1"))]
    assert server.http.get("/api/schema", headers=headers).status_code == 401


def test_two_headers_with_a_token_each_are_none(server: Served) -> None:
    headers = [("authorization", f"Bearer {VIEW}"), ("authorization", f"Bearer {ADMIN}")]
    assert server.http.get("/api/schema", headers=headers).status_code == 401


# ------------------------------------------------------------------------------------------------- S1: other sites


def raw(server: Served, *lines: str) -> int:
    """The status of the answer to a request as it is written here."""
    with socket.create_connection(("127.0.0.1", server.port)) as there:
        there.settimeout(5)
        there.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return int(there.recv(4096).split(b" ")[1])


def test_s1_foreign_hosts_and_origins_and_plain_text(alone: Served) -> None:
    own = f"127.0.0.1:{alone.port}"
    for headers in ({"host": f"rebound.example:{alone.port}"}, {"origin": "https://evil.example"}, {"origin": "null"},
                    {"content-type": "text/plain"}):  # fmt: skip
        answer = alone.http.post("/api/sessions", content=json.dumps(OFFER), headers=JSON | headers)
        assert answer.status_code == 403, headers
        assert "access-control-allow-origin" not in answer.headers
    assert alone.http.options("/api/sessions", headers={"origin": f"http://{own}"}).status_code == 405


NAMES = ["127.0.0.1.nip.io", "localhost.evil.example", "evil.localhost", "localtest.me", "[::ffff:127.0.0.1]", "[::]",
         "127.1", "2130706433", "0x7f000001", "127.0.0.1.", "localhost%00",
         "stage.example.evil", "xstage.example"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_here_are_not_ours(alone: Served, name: str) -> None:
    """DNS rebinding: what a page of another site can make its name, and other ways to write the address."""
    status = raw(alone, "GET /api/schema HTTP/1.1", f"Host: {name}:{alone.port}")
    assert status == (200 if name == "127.0.0.1." else 403), "a final dot is the same name"


def test_a_host_is_there_once(alone: Served) -> None:
    own = f"127.0.0.1:{alone.port}"
    assert raw(alone, "GET /api/schema HTTP/1.1", f"Host: {own}", f"Host: {own}") in (400, 403)
    assert raw(alone, "GET /api/schema HTTP/1.1", f"Host: {own}", "Host: evil.example") in (400, 403)
    assert raw(alone, "GET /api/schema HTTP/1.1") in (400, 403)
    assert raw(alone, "GET /api/schema HTTP/1.0") in (400, 403)
    assert (
        raw(alone, "GET /api/schema HTTP/1.1", f"Host: {own}", f"Origin: http://{own}", f"Origin: http://{own}") == 403
    )


def test_a_whole_address_as_the_target_reaches_nothing_else(alone: Served) -> None:
    """RFC 9112, 3.2.2."""
    own = f"127.0.0.1:{alone.port}"
    assert raw(alone, "GET http://evil.example/api/schema HTTP/1.1", "Host: evil.example") == 403
    assert raw(alone, "GET http://evil.example/api/schema HTTP/1.1", f"Host: {own}") in (400, 403, 404)
    assert raw(alone, f"GET http://{own}/api/schema HTTP/1.1", "Host: evil.example") == 403


@pytest.mark.parametrize("line", ["Host: evil.example", "Origin: http://evil.example", "Origin: null",
                                  "Sec-Fetch-Site: cross-site"])  # fmt: skip
def test_a_websocket_of_another_site_is_refused(alone: Served, line: str) -> None:
    host = [] if line.startswith("Host") else [f"Host: 127.0.0.1:{alone.port}"]
    assert raw(alone, "GET /api/sessions/ws HTTP/1.1", *host, line, "Upgrade: websocket", "Connection: Upgrade",
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13") == 403  # fmt: skip


def test_a_page_of_another_port_is_another_site(alone: Served) -> None:
    for other in (f"http://127.0.0.1:{alone.port + 1}", "http://localhost", f"https://127.0.0.1:{alone.port}"):
        assert alone.http.get("/api/schema", headers={"origin": other}).status_code == 403


def test_ipv6_places() -> None:
    places = Places("::1", 8000)
    assert str(places) == "http://[::1]:8000"
    assert all(map(places.known, ("[::1]:8000", "localhost:8000", "127.0.0.1:8000")))
    assert not any(map(places.known, ("[::1]", "[::1]:80", "::1:8000", "[::2]:8000", "[fe80::1%25eth0]:8000")))
    assert places.same_site("http://[::1]:8000", "[::1]:8000")
    assert not places.same_site("http://[::2]:8000", "[::1]:8000")
    wide = Places("::", 443, "https")
    assert all(map(wide.known, ("[2001:db8::7]", "[2001:db8::7]:443", "192.0.2.3")))
    assert not wide.known("name.example")
    assert wide.same_site("https://[2001:db8::7]", "[2001:db8::7]")
    assert not wide.same_site("http://[2001:db8::7]", "[2001:db8::7]")
    assert not wide.same_site("https://[2001:db8::8]", "[2001:db8::7]"), "another machine of the network"


# ------------------------------------------------------------------------------------------------- S1: behind a proxy


@pytest.mark.parametrize(("text", "same"), [
    ("https://Stage.Example/", STAGE), (STAGE + ":443", STAGE), ("http://a:80", "http://a"), ("http://a:8080", "http://a:8080"),
    ("https://[2001:db8::7]:444", "https://[2001:db8::7]:444")])  # fmt: skip
def test_an_origin_is_written_as_browsers_do(text: str, same: str) -> None:
    assert origin(text) == same


def test_another_address_of_ours_is_no_other_site(server: Served) -> None:
    through = {"host": "stage.example", "origin": STAGE, "x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"}
    answer = server.http.post("/api/sessions", json=OFFER, headers=through | bearer(CONTROL))
    assert answer.status_code == 201
    kept = server.http.post("/api/login", json={"token": CONTROL}, headers=through)
    assert "secure" in kept.headers["set-cookie"].lower()
    assert "connect-src 'self' wss://stage.example;" in kept.headers["content-security-policy"]
    rewritten = {"host": f"127.0.0.1:{server.port}", "origin": STAGE}
    assert server.http.get("/api/schema", headers=rewritten | bearer(VIEW)).status_code == 200, "a Host that it rewrote"
    for wrong in ({"origin": "http://stage.example"}, {"origin": STAGE + ":444"}, {"origin": STAGE + ".evil"},
                  {"host": "stage.example:8080"}, {"origin": "https://evil.example"}):  # fmt: skip
        assert server.http.get("/api/schema", headers=through | bearer(VIEW) | wrong).status_code == 403, wrong


def test_what_a_stranger_says_of_forwarding_is_not_believed(alone: Served) -> None:
    """No proxy was named: nobody can choose the address that is counted, nor call the way safe."""
    with served(access=Access(TOKENS)) as server:
        got = [server.http.post("/api/login", json={"token": "x"}, headers={"x-forwarded-for": f"203.0.113.{k}",
               "x-forwarded-proto": "https"}) for k in range(TRIES + 1)]  # fmt: skip
        assert [answer.status_code for answer in got] == [401] * TRIES + [429]
        assert "ws://" in got[0].headers["content-security-policy"]


def test_a_stranger_cannot_put_an_address_before_the_proxys(server: Served) -> None:
    """X-Forwarded-For grows at its end: the last address that is no proxy's is who asks."""
    got = [server.http.post("/api/login", json={"token": "x"}, headers={"x-forwarded-for": f"10.0.0.{k}, 203.0.113.77"})
           for k in range(TRIES + 1)]  # fmt: skip
    assert [answer.status_code for answer in got] == [401] * TRIES + [429]


# ------------------------------------------------------------------------------------------------- S3: limits


def test_s3_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = "a=candidate:1 1 udp 1 192.0.2.1 {} typ host\r\n"
    crowded = SDP + "".join(candidate.format(5000 + k) for k in range(33))
    with served(answers=Peer.answer, offers_per_minute=10, limit=64) as server:
        answers = [server.offer(sdp=crowded), server.offer(sdp="v=0\r\n" + "x" * BODY_LIMIT)]
        assert [a.status_code for a in answers] == [400, 413]
        assert "33 candidates, at most 32" in answers[0].json()["error"]
        assert [server.offer(sdp=SDP).status_code for _ in range(10)] == [400] * 9 + [429], (
            "ten a minute, whatever they are"
        )
        assert len(server.house.sessions) == 0


def test_s3_messages(alone: Served) -> None:
    with socketed(alone) as ws:
        ws.send('{"type":"hello"}')
        assert json.loads(ws.recv(5))["type"] == "hello"
        ws.send(json.dumps({"type": "settings", "changes": {"prompt": "x" * MESSAGE_LIMIT}}))
        assert f"at most {MESSAGE_LIMIT}" in error_on(ws)
        time.sleep(1.1)  # the bucket is full again
        for k in range(MESSAGES_A_SECOND + 30):
            ws.send(json.dumps({"type": "ping", "t": k}))
        assert f"more than {MESSAGES_A_SECOND} messages a second" in error_on(ws)


def error_on(ws: ClientConnection) -> str:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        message = ws.recv(PATIENCE_S)
        if isinstance(message, str) and (told := json.loads(message))["type"] == "error":
            return str(told["error"])
    raise AssertionError("no error came")


# ------------------------------------------------------------------------------------------------- S4: the end


def test_s4_the_times_are_those_of_the_table() -> None:
    """That they are kept to is tested where they are kept: tests/test_rtc.py, tests/test_web.py."""
    limits = Limits()
    assert limits.connect_s <= 10
    assert max(limits.silent_s, limits.idle_s) <= 6
    assert sockets.HELLO_S <= 10
    assert sockets.IDLE_S <= 6
    assert STOP_S + GRACE_S + 0.1 < 5, "a pause of uvicorn's own is between them"


@pytest.fixture
def process() -> Iterator[Process]:
    """A server in a process of its own, whose worker hangs: the hardest end there is."""
    environ = {"LIVEBRUSH_TOKEN": " ".join(TOKENS)}
    made = Process("--model", PASS_THROUGH, "--log-format", "json", "--log-level", "debug", environ=environ)
    made.http.headers.update(bearer(CONTROL))
    yield made
    made.kill()


def hang(server: Process) -> list[psutil.Process]:
    """Stops the worker and the one that stands by, once it is ready, and says who they are."""
    server.ready()
    family = psutil.Process(server.job.pid).children(recursive=True)
    for one in family:
        one.suspend()
    return family


@POSIX
def test_s4_a_signal_drains(process: Process) -> None:
    process.ready()
    assert process.http.get("/readyz").json() == {"ready": True, "why": ""}
    hang(process)
    told: list[dict[str, Any]] = []
    place = process.url.replace("http", "ws") + "/api/sessions/ws"
    with connect(place, compression=None, additional_headers=bearer(CONTROL)) as ws:
        ws.send('{"type":"hello"}')
        assert json.loads(ws.recv(5))["type"] == "hello"
        began = time.monotonic()
        process.job.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = ws.recv(5)
                told += [json.loads(message)] if isinstance(message, str) else []
    assert told[-1] == {"type": "bye", "reason": "the server stops", "queue": None}
    answer = process.http.get("/readyz")
    assert (answer.status_code, answer.json()["why"]) == (503, "the server stops")
    late = process.http.post("/api/sessions", json=OFFER)
    assert (late.status_code, late.headers["retry-after"]) == (503, "5")
    process.rest()
    assert (process.job.returncode, time.monotonic() - began < 5) == (0, True)


@POSIX
def test_s4_a_second_signal_ends_everything_at_once(process: Process) -> None:
    family = hang(process)
    process.job.send_signal(signal.SIGTERM)
    process.job.send_signal(signal.SIGTERM)  # passed on by what started it: one and the same
    time.sleep(0.4)
    assert process.job.poll() is None, "it ends in good order"
    began = time.monotonic()
    process.job.send_signal(signal.SIGTERM)
    process.rest()
    assert process.job.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 4
    _, alive = psutil.wait_procs(family, 3)
    assert not alive


# ------------------------------------------------------------------------------------------------- what is logged


@POSIX
def test_a_log_is_an_event_a_line_and_knows_no_secret(process: Process) -> None:
    """Everything that is a secret is sent in every way there is; then the output is searched, at the level debug."""
    process.ready()
    http, key = process.http, "wrong-but-somebodys-secret"
    login = http.post("/api/login", json={"token": ADMIN})
    (cookie,) = http.cookies.values()
    http.cookies.clear()
    assert http.get(f"/?token={VIEW}").status_code == 303
    (other,) = http.cookies.values()
    http.cookies.clear()
    assert login.status_code == 204
    port = process.url.rpartition(":")[2]
    assert http.get("/api/me", headers={"cookie": f"livebrush-{port}={cookie}"}).status_code == 200
    for sent in (http.get("/api/me", headers=bearer(key)), http.get(f"/view?token={key}"),
                 http.post("/api/login", json={"token": key}),
                 http.post("/api/login", content=f'"{key}', headers=JSON)):  # fmt: skip
        assert sent.status_code in (400, 401)
    with connect(process.url.replace("http", "ws") + "/api/sessions/ws", compression=None,
                 additional_headers=bearer(CONTROL)) as ws:  # fmt: skip
        ws.send('{"type":"hello"}')
        session = json.loads(ws.recv(5))["session"]
        assert http.get(f"/api/sessions/{session}").status_code == 200
    with connect(process.url.replace("http", "ws") + "/api/sessions/ws", compression=None,
                 additional_headers=bearer(CONTROL)) as ws:  # fmt: skip
        ws.send(json.dumps({"type": "hello", "settings": {"prompt": 3}, "ticket": key}))
        assert json.loads(ws.recv(5))["type"] == "refused"
    _, _, said = process.stop(signal.SIGTERM)
    for secret in (ADMIN, CONTROL, VIEW, key, cookie, other, session):
        assert secret not in said, "a secret is in the log"
    lines = [json.loads(line) for line in said.splitlines() if line]
    events = [line for line in lines if "event" in line]
    assert [line["event"] for line in events if "session" in line] == ["session begins", "session ends"]
    begins, over = (line for line in events if "session" in line)
    assert (begins["session"], over["reason"]) == (over["session"], "the page left")
    assert [(e["reason"], e["address"]) for e in events if e["event"] == "token"] == [("wrong token", "127.0.0.1")] * 3
    assert {"worker starting", "worker ready"} <= {line["event"] for line in events}
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)


# ------------------------------------------------------------------------------------------------- people: turns


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_turn_ends_while_others_wait_and_never_without_a_notice() -> None:
    async def job() -> None:
        clock = Clock()
        room = Room(limit=1, clock=clock, minutes=10)
        room.worker.start()
        session, link, _ = await room.enter()
        clock.now += 3600
        room.sessions.take_turns()
        session.tick()
        assert (link.of("stats")[-1]["ends_in_s"], link.closed) == (None, False), "nobody waits: it goes on"
        ticket = waits(room, None)
        room.sessions.take_turns()
        session.tick()
        assert link.of("stats")[-1]["ends_in_s"] == NOTICE_S
        assert "your turn ends in 30 s" in link.of("state")[-1]["notice"]
        for _ in range(3):
            clock.now += NOTICE_S / 3 - 0.1
            waits(room, ticket)
            room.sessions.take_turns()
            assert not link.closed
        clock.now += 0.4
        room.sessions.take_turns()
        await ends(link)
        bye = link.of("bye")[0]
        assert "others wait" in bye["reason"]
        assert bye["queue"]["place"] == 2, "behind those who waited"
        assert waits(room, bye["queue"]["ticket"], place=2)
        room.sessions.admit({}, "page", ticket, lambda: None)
        assert waits(room, bye["queue"]["ticket"], place=1), "and next after them"
        await room.sessions.close_all("done")

    run(job())


def waits(room: Room, ticket: str | None, place: int | None = None) -> str:
    """Asks for a place and gets one in the queue."""
    with pytest.raises(RefusalError) as full:
        room.sessions.admit({}, "page", ticket, lambda: None)
    queue = full.value.more["queue"]
    assert place in (None, queue["place"])
    return str(queue["ticket"])


async def ends(link: Any) -> None:
    while not link.closed:
        await asyncio.sleep(0.005)


def test_a_turn_goes_on_when_whoever_waited_is_gone() -> None:
    async def job() -> None:
        clock = Clock()
        room = Room(limit=1, clock=clock, minutes=10)
        room.worker.start()
        session, link, _ = await room.enter()
        waits(room, None)
        room.sessions.take_turns()
        session.tick()
        assert link.of("stats")[-1]["ends_in_s"] == 600
        assert not link.of("state")[-1]["notice"], "ten minutes are no haste"
        clock.now += 13  # the ticket lapses
        room.sessions.take_turns()
        session.tick()
        assert link.of("stats")[-1]["ends_in_s"] is None
        await room.sessions.close_all("done")

    run(job())


def test_as_many_make_room_as_wait_those_who_came_first() -> None:
    async def job() -> None:
        clock = Clock()
        room = Room(limit=3, clock=clock, minutes=1)
        room.worker.start()
        links = []
        for _ in range(3):
            links.append((await room.enter())[1])
            clock.now += 1
        standing = room.sessions.stand("live", "page")
        tickets = [waits(room, None), waits(room, None)]
        for _ in range(12):
            clock.now += 6
            [waits(room, ticket) for ticket in tickets if not any(link.closed for link in links)]
            room.sessions.take_turns()
            if any(link.closed for link in links):
                break
            await asyncio.sleep(0.01)
        await ends(links[0])
        await ends(links[1])
        assert [link.closed for link in links] == [True, True, False]
        assert not standing.closing, "what stands is nobody's turn"
        await room.sessions.close_all("done")

    run(job())


def test_what_stands_takes_no_place_of_a_page() -> None:
    async def job() -> None:
        room = Room(limit=1)
        room.worker.start()
        for name in ("live", "stage"):
            room.sessions.stand(name, "page")
        session = room.sessions.admit({}, "page", None, lambda: None)
        waits(room, None)
        await room.sessions.close(session, "done")
        for number in range(STANDING - 2):
            room.sessions.stand(f"s{number}", "page")
        with pytest.raises(RefusalError, match="16 sessions have names already"):
            room.sessions.stand("more", "page")
        await room.sessions.close_all("done")

    run(job())


# ------------------------------------------------------------------------------------------------- https


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("https") / "deep"


def test_a_certificate_is_made_once_for_every_name_of_this_machine(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEBRUSH_HTTPS", str(kept))
    cert, key = certificates.files(Https(made=True), "0.0.0.0") or (None, None)
    assert cert is not None
    assert key is not None
    found = x509.load_pem_x509_certificate(cert.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", f"{socket.gethostname().partition('.')[0]}.local".lower()} <= set(
        names.get_values_for_type(x509.DNSName))  # fmt: skip
    known = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "::1", *certificates.addresses()} <= known
    assert (found.not_valid_after_utc - found.not_valid_before_utc).days > 0
    for file in kept.glob("*.key"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    before, authority = cert.read_bytes(), (kept / "ca.pem").read_bytes()
    certificates.files(Https(made=True), "127.0.0.1")
    assert cert.read_bytes() == before, "an exception that a browser made holds on"
    certificates.files(Https(made=True), "another.example")
    assert cert.read_bytes() != before
    assert (kept / "ca.pem").read_bytes() == authority, "what a phone trusts stays"
    x509.load_pem_x509_certificate(cert.read_bytes()).verify_directly_issued_by(
        x509.load_pem_x509_certificate(authority)
    )
    cert.write_text("damaged")
    certificates.files(Https(made=True), "another.example")
    assert cert.read_bytes().startswith(b"-----BEGIN CERTIFICATE")
    (kept / "ca.key").write_text("damaged")
    with pytest.raises(ServeError, match="delete that folder"):
        certificates.files(Https(made=True), "another.example")


def test_https_is_spoken_and_pages_know(tmp_path: Path) -> None:
    pair = certificates.made(tmp_path, ("127.0.0.1", "localhost"))
    config: dict[str, Any] = {"https": Https(cert=pair[0], key=pair[1]), "access": Access(TOKENS)}
    with served(certificate=certificates.files(config["https"], "127.0.0.1"), **config) as server:
        trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with httpx.Client(base_url=server.url, verify=trusting) as http:
            answer = http.post("/api/login", json={"token": CONTROL}, headers={"origin": server.url})
            assert answer.status_code == 204
            assert "secure" in answer.headers["set-cookie"].lower()
            assert f"connect-src 'self' wss://127.0.0.1:{server.port};" in answer.headers["content-security-policy"]
            assert http.get("/api/me").json() == {"role": "control"}
            plain = {"origin": server.url.replace("https", "http")}
            assert http.get("/api/me", headers=plain).status_code == 403
        with connect(server.url.replace("https", "wss") + "/api/sessions/ws", ssl=trusting, compression=None,
                     additional_headers=bearer(CONTROL)) as ws:  # fmt: skip
            ws.send('{"type":"hello"}')
            assert json.loads(ws.recv(5))["type"] == "hello"
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(server.url.replace("https", "http"))


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    first, second = (certificates.made(tmp_path / name, ("localhost",)) for name in "ab")
    nowhere = tmp_path / "nowhere.pem"
    for https, told in ((Https(cert=first[0]), "give --key FILE"), (Https(key=first[1]), "give --cert FILE"),
                        (Https(cert=nowhere, key=first[1]), "is not there"),
                        (Https(cert=first[0], key=second[1]), "cannot be used"),
                        (Https(cert=first[1], key=first[1]), "cannot be used")):  # fmt: skip
        with pytest.raises(ServeError, match=told):
            certificates.files(https, "localhost")


# ------------------------------------------------------------------------------------------------- a phone


def pixels(svg: str) -> np.ndarray[Any, Any]:
    """The picture of a QR code's SVG: its dark strokes, one pixel wide, made larger."""
    path = re.findall(r'd="([^"]+)"', svg)[-1]
    size = int(re.findall(r'd="M0 0h(\d+)', svg)[0])
    grid, x, y = np.full((size, size), 255, np.uint8), 0.0, 0.0
    for kind, numbers in re.findall(r"([Mmh])([-\d. ]+)", path):
        values = [float(n) for n in re.findall(r"-?[\d.]+", numbers)]
        if kind == "h":
            grid[int(y), int(x) : int(x + values[0])] = 0
            x += values[0]
        else:
            x, y = (values[0], values[1]) if kind == "M" else (x + values[0], y + values[1])
    return np.kron(grid, np.ones((8, 8), np.uint8))


def scanned(image: np.ndarray[Any, Any]) -> str:
    """What is read in a picture. OpenCV's older detector misses one in twenty."""
    text, _, _ = cv2.QRCodeDetectorAruco().detectAndDecode(image)
    return str(text)


def test_a_phone_comes_in_by_what_it_scans_and_never_as_admin(server: Served) -> None:
    for token, role in ((ADMIN, "control"), (CONTROL, "control")):
        answer = server.http.get("/qr.svg?page=/view&session=live", headers=bearer(token))
        assert (answer.headers["content-type"], answer.headers["cache-control"].split(",")[0]) == (
            "image/svg+xml",
            "no-store",
        )
        text = scanned(pixels(answer.text))
        assert text.startswith(f"{STAGE}/view?session=live&token=")
        assert not any(secret in text for secret in (ADMIN, CONTROL, VIEW))
        code = text.partition("token=")[2]
        assert server.http.get("/api/schema", headers=bearer(code)).status_code == 401, "a code is for pages only"
        assert server.http.get(f"/view?session=live&token={code}").status_code == 303
        assert server.http.get("/api/me").json() == {"role": role}
        server.http.cookies.clear()
    seen = server.http.get("/qr.svg?role=view", headers=bearer(CONTROL))
    text = scanned(pixels(seen.text))
    server.http.get(f"/?token={text.partition('token=')[2]}")
    assert server.http.get("/api/me").json() == {"role": "view"}
    assert server.http.get("/qr.svg?role=admin", headers=bearer(ADMIN)).status_code == 422


def test_a_phone_does_not_reach_what_listens_here_only(alone: Served) -> None:
    answer = alone.http.get("/qr.svg")
    assert (answer.status_code, "--host 0.0.0.0 --token new" in answer.json()["error"]) == (409, True)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_shows_a_phone_the_way_and_a_file_keeps_no_code(terminal: bool) -> None:
    out = io.StringIO()
    config = Config(host="192.0.2.9", port=8000, access=Access(TOKENS))
    welcome(config, Door(People.of(config.access), 8000), Console(file=out, force_terminal=terminal, width=200))
    said = out.getvalue()
    assert "Others reach it at http://192.0.2.9:8000\n" in said
    assert "token" not in said
    rows = [line for line in said.splitlines() if set(line) & set("█▀▄")]
    assert bool(rows) is terminal
    if terminal:  # the terminal is dark, what is printed light
        dots = [[{"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}[c] for c in row] for row in rows]
        half = np.array([[[d[h] for d in row] for h in (0, 1)] for row in dots], np.uint8).reshape(2 * len(rows), -1)
        image = np.kron((1 - half) * np.uint8(255), np.ones((8, 8), np.uint8))
        text = scanned(image)
        assert text.startswith("http://192.0.2.9:8000/?token=")
        entry = People.of(config.access).enter(text.partition("token=")[2])
        assert entry is not None
        assert entry.role is Role.CONTROL


def test_this_machines_browser_comes_in_by_itself() -> None:
    config = Config(host="0.0.0.0", port=8000, access=Access(TOKENS))
    page = own_page(config, Door(People.of(config.access), 8000))
    assert page.startswith("http://localhost:8000/?token=")
    entry = People.of(config.access).enter(page.partition("token=")[2])
    assert entry is not None
    assert entry.role is Role.ADMIN
    assert own_page(Config(port=8000), Door(People(), 8000)) == "http://127.0.0.1:8000"


def test_links() -> None:
    door = Door(People([Token(Role.ADMIN, ADMIN)]), 8443)
    for host, place in (
        ("192.0.2.9", "https://192.0.2.9:8443/?token="),
        ("2001:db8::9", "https://[2001:db8::9]:8443/?token="),
    ):
        config = Config(host=host, port=8443, https=Https(made=True), access=Access((ADMIN,)))
        assert invite.link(config, door, Role.CONTROL, 60).startswith(place)
    nobody_asked = Door(People(), 8000)
    assert (
        invite.link(Config(host="192.0.2.9", insecure=True), nobody_asked, Role.CONTROL, 60) == "http://192.0.2.9:8000/"
    )


# ------------------------------------------------------------------------------------------------- figures


def families(server: Served) -> dict[str, dict[tuple[str, ...], float]]:
    text = server.http.get("/metrics", headers=bearer(VIEW)).text
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(v for k, v in sample.labels.items())] = sample.value
    return found


def test_figures_count_what_happens_and_name_nobody(server: Served) -> None:
    before = families(server)
    with socketed(server, additional_headers=bearer(CONTROL)) as ws:
        ws.send('{"type":"hello"}')
        own = json.loads(ws.recv(5))["session"]
        for k in range(3):
            ws.send(PICTURE.pack(k, 0, 5.0) + jpeg.encode(flat(90)))
            while isinstance(ws.recv(5), str):
                pass
        now = families(server)
        assert sum(now["livebrush_sessions"].values()) == 1
        assert own not in server.http.get("/metrics", headers=bearer(VIEW)).text
    assert server.http.post("/api/sessions", json={"sdp": WATCHES}, headers=bearer(CONTROL)).status_code == 422
    told = {"content": SDP, "headers": bearer(VIEW) | {"content-type": "application/sdp"}}
    assert server.http.post("/whep/later", **told).status_code == 409
    comes_to(lambda: not sum(families(server)["livebrush_sessions"].values()))
    after = families(server)
    grew = {
        name: after[name][()] - before[name][()] for name in ("livebrush_frames_in_total", "livebrush_frames_out_total")
    }
    assert grew == {"livebrush_frames_in_total": 3, "livebrush_frames_out_total": 3}
    assert after["livebrush_engine_seconds_count"][()] - before["livebrush_engine_seconds_count"][()] == 3
    refused = "livebrush_offers_refused_total"
    for reason in ("settings", "gone"):
        assert after[refused][(reason,)] - before[refused][(reason,)] == 1
    assert after["livebrush_bytes_total"][("in",)] > before["livebrush_bytes_total"][("in",)]
    assert after["livebrush_bytes_total"][("out",)] > before["livebrush_bytes_total"][("out",)]
    assert after["livebrush_event_loop_lag_seconds_count"][()] > 0
    assert {name: set(v) for name, v in after.items()} == {name: set(v) for name, v in before.items()}, (
        "every series is there from the start, and none is added by who comes")  # fmt: skip
