"""Who is known: tokens, JSON Web Tokens, cookies and codes, without a server."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from starlette.requests import HTTPConnection

from web.access import Role
from web.config import Access, Config
from web.door import TRIES, Door, household
from web.errors import RefusalError, ServeError
from web.people import GUEST_S, Jwt, People, Token, made, read_token, read_tokens, tokens_in

ADMIN, VIEW = "admin-secret-0123456789", "view-secret-0123456789"
SHARED = "a-shared-secret-of-more-than-32-bytes"


def everybody(clock: Callable[[], float] = time.time) -> People:
    return People([Token(Role.ADMIN, ADMIN), Token(Role.VIEW, VIEW)], clock=clock)


# ------------------------------------------------------------------------------------------------- tokens


def test_a_token_has_a_role_and_a_secret() -> None:
    assert read_token(f"view:{VIEW}") == Token(Role.VIEW, VIEW)
    assert read_token(f" control:{VIEW}\n") == Token(Role.CONTROL, VIEW)
    assert read_token(ADMIN) == read_token(f"admin:{ADMIN}") == Token(Role.ADMIN, ADMIN)
    assert ADMIN not in repr(read_token(ADMIN)), "a repr may stand in a log"
    assert ADMIN not in repr(Config(access=Access((ADMIN,), ADMIN)))


def test_new_makes_a_token_of_its_own_each_time() -> None:
    first, second = read_token("new"), read_token("view:new")
    assert (first.role, second.role) == (Role.ADMIN, Role.VIEW)
    assert len(first.secret) == 32, "24 random bytes"
    assert first.secret != second.secret
    assert read_token(str(second)) == second, "it can be given again as it was told"


@pytest.mark.parametrize(("text", "told"), [
    ("short", "5 characters, at least 16 are needed: use e.g. admin:"), ("view:short", "use e.g. view:"),
    ("", "0 characters"),
    ("root:0123456789abcdef", "the role of a token is unknown"), ("0123456789abcdef:admin", "the role of a token is"),
    ("a:b:0123456789abcdef", "the role"), ("0123456789 abcdef", "others than letters"), ("x" * 5000, "more than 4096"),
    ("0123456789abcdé0123", "others than letters"), ("ADMIN:0123456789abcdef", "the role of a token is unknown"),
])  # fmt: skip
def test_a_token_that_is_none_is_told_without_being_repeated(text: str, told: str) -> None:
    with pytest.raises(ServeError) as error:
        read_token(text)
    assert told in str(error.value)
    assert "0123456789" not in str(error.value)
    if "use e.g. " in str(error.value):
        read_token(str(error.value).rpartition("use e.g. ")[2])  # the example is one


def test_a_secret_for_two_roles_is_refused() -> None:
    with pytest.raises(ServeError, match="twice"):
        read_tokens([f"view:{VIEW}", VIEW])


def test_tokens_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who may come\n\nadmin:{ADMIN}\r\n  view:{VIEW}  \n")
    assert read_tokens(tokens_in(file)) == (Token(Role.ADMIN, ADMIN), Token(Role.VIEW, VIEW))
    file.write_text("# nobody\n")
    with pytest.raises(ServeError, match="has no token"):
        tokens_in(file)
    with pytest.raises(ServeError, match="cannot be read"):
        tokens_in(tmp_path / "nowhere")


def test_a_bearer_is_who_the_token_says() -> None:
    people = everybody()
    assert (people.bearer(ADMIN), people.bearer(VIEW)) == (Role.ADMIN, Role.VIEW)
    for wrong in ("", ADMIN[:-1], ADMIN + "x", ADMIN.upper(), VIEW + ADMIN, "\ud800", "é" * 20, "x" * 100_000):
        assert people.bearer(wrong) is None
    assert People().open
    assert not people.open


# ------------------------------------------------------------------------------------------------- cookies


def test_a_cookie_holds_when_the_server_has_started_again_and_no_longer_than_its_token() -> None:
    entry = everybody().enter(VIEW)
    assert entry is not None
    assert VIEW not in entry.cookie
    assert everybody().cookie(entry.cookie) is Role.VIEW, "another process, the same tokens"
    assert People([Token(Role.ADMIN, ADMIN)]).cookie(entry.cookie) is None, "the token was taken away"
    assert People([Token(Role.VIEW, VIEW + "2")]).cookie(entry.cookie) is None
    assert everybody().cookie(VIEW) is None, "the token itself is no cookie"
    assert everybody().bearer(entry.cookie) is None, "and a cookie no token"


def test_a_cookie_that_was_changed_or_is_over_is_none() -> None:
    entry = everybody(lambda: time.time() - 31 * 86400).enter(VIEW)
    assert entry is not None
    assert everybody().cookie(entry.cookie) is None, "a month is over"
    entry = everybody().enter(VIEW)
    assert entry is not None
    head, body, mark = entry.cookie.split(".")
    more = json.dumps(jwt.decode(entry.cookie, options={"verify_signature": False}) | {"role": "admin"})
    forged = base64.urlsafe_b64encode(more.encode()).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    for wrong in (f"{head}.{forged}.{mark}", f"{none}.{forged}.", f"{head}.{body}.", f"{head}.{body}", "a.b.c", ""):
        assert everybody().cookie(wrong) is None


def test_a_code_lets_a_phone_in_for_a_while_as_no_more_than_it_says() -> None:
    people = everybody()
    code = people.code(Role.CONTROL, 60)
    assert people.bearer(code) is None, "a code is for a page"
    assert people.cookie(code) is None
    entry = people.enter(code)
    assert entry is not None
    assert (entry.role, entry.seconds, everybody().cookie(entry.cookie)) == (Role.CONTROL, GUEST_S, Role.CONTROL)
    assert everybody().enter(everybody(lambda: time.time() - 120).code(Role.CONTROL, 60)) is None, "over"
    assert people.enter(entry.cookie) is None, "a cookie is no code, and cannot be renewed"


# ------------------------------------------------------------------------------------------------- JSON Web Tokens

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def private(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def signed(key: Any, algorithm: str, **claims: Any) -> str:
    told = {"role": "control", "exp": time.time() + 60} | claims
    return jwt.encode({k: v for k, v in told.items() if v is not None}, key, algorithm)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], str]:
    def write(data: bytes) -> str:
        (tmp_path / "key.pem").write_bytes(data)
        return str(tmp_path / "key.pem")

    return write


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA), ("ES256", EC)])
def test_a_public_key_takes_what_its_private_one_signed(written: Any, algorithm: str, key: Any) -> None:
    people = People([], Jwt.of(written(public(key))))
    token = signed(key, algorithm)
    assert people.bearer(token) is Role.CONTROL
    entry = people.enter(token)
    assert entry is not None
    assert entry.seconds <= 60
    again = People([], Jwt.of(written(public(key))))
    assert again.cookie(entry.cookie) is Role.CONTROL, "also when the server has started again"
    others = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
    assert people.bearer(signed(others, algorithm)) is None


def test_a_shared_secret_takes_what_it_signed(written: Any) -> None:
    for text in (SHARED, written(SHARED.encode() + b"\n")):
        people = People([], Jwt.of(text))
        assert people.bearer(signed(SHARED, "HS256", role="admin")) is Role.ADMIN
        assert people.bearer(signed(SHARED + "!", "HS256")) is None
        assert people.bearer(signed(SHARED + SHARED, "HS512")) is None


CLAIMS: list[tuple[dict[str, Any], Role | None]] = [
    ({}, Role.CONTROL), ({"role": "view"}, Role.VIEW), ({"role": "nobody"}, None), ({"role": None}, None),
    ({"role": 3}, None), ({"role": ["admin"]}, None), ({"role": "ADMIN"}, None), ({"exp": None}, None),
    ({"exp": 1e9}, None), ({"exp": "soon"}, None), ({"exp": 1e400}, None), ({"nbf": 4e9}, None),
    ({"aud": "livebrush"}, Role.CONTROL), ({"aud": ["other", "livebrush"]}, Role.CONTROL), ({"aud": "other"}, None),
    ({"aud": ["other"]}, None), ({"aud": []}, None), ({"aud": {}}, None), ({"aud": 7}, None),
]  # fmt: skip


@pytest.mark.parametrize(("claims", "role"), CLAIMS, ids=str)
def test_claims(claims: dict[str, Any], role: Role | None) -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    told = {"role": "control", "exp": time.time() + 60} | claims
    body = json.dumps({k: v for k, v in told.items() if v is not None}).encode()
    said = header + b"." + base64.urlsafe_b64encode(body).rstrip(b"=")
    mark = base64.urlsafe_b64encode(hmac.digest(SHARED.encode(), said, "sha256")).rstrip(b"=")
    assert People([], Jwt.of(SHARED)).bearer((said + b"." + mark).decode()) is role


def forged(algorithm: str, secret: bytes, claims: dict[str, Any]) -> str:
    """A token as somebody makes it who knows the public key only."""

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    said = part({"alg": algorithm, "typ": "JWT"}) + b"." + part(claims)
    mark = base64.urlsafe_b64encode(hmac.digest(secret, said, "sha256")).rstrip(b"=") if secret else b""
    return (said + b"." + mark).decode()


@pytest.mark.parametrize("key", [RSA, EC])
def test_no_token_chooses_its_algorithm(written: Any, key: Any) -> None:
    """RFC 8725, 2.1: the public key as a shared secret, and no signature at all."""
    people = People([], Jwt.of(written(public(key))))
    claims = {"role": "admin", "exp": time.time() + 60}
    for secret in (public(key), public(key).strip(), public(key).replace(b"\n", b"")):
        assert people.bearer(forged("HS256", secret, claims)) is None
        assert people.enter(forged("HS256", secret, claims)) is None
        assert people.cookie(forged("HS256", secret, claims)) is None
    for nothing in ("none", "None", "NONE", "nOnE", "", "HS256", "RS256", "ES256"):
        assert people.bearer(forged(nothing, b"", claims)) is None
    other, name = (EC, "ES256") if key is RSA else (RSA, "RS256")
    assert people.bearer(signed(other, name)) is None


@pytest.mark.parametrize(("data", "told"), [
    (private(RSA), "is no public key"), (b"-----BEGIN nothing", "is no public key"),
    (b"short", "has 5 bytes, and HS256"),
    (public(rsa.generate_private_key(65537, 1024)), "of a kind that is not taken"),
    (public(ec.generate_private_key(ec.SECP384R1())), "of a kind that is not taken"),
], ids=["private", "broken", "short", "1024 bits", "another curve"])  # fmt: skip
def test_a_key_that_is_none_is_told(written: Any, data: bytes, told: str) -> None:
    with pytest.raises(ServeError) as error:
        Jwt.of(written(data))
    assert told in str(error.value)
    assert "short" not in str(error.value)


def test_a_key_whose_file_is_not_there_is_no_secret() -> None:
    with pytest.raises(ServeError, match=r"signing-key-of-the-whole-house\.pem is not there"):
        Jwt.of("/etc/livebrush/signing-key-of-the-whole-house.pem")


def test_a_secret_that_anybody_could_know_is_not_made() -> None:
    assert len({made() for _ in range(100)}) == 100


# ------------------------------------------------------------------------------------------------- the door


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asks(address: str = "192.0.2.7", token: str | None = None, cookie: str | None = None) -> HTTPConnection:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token is not None else []
    headers += [(b"cookie", f"livebrush-8000={cookie}".encode())] if cookie is not None else []
    return HTTPConnection({"type": "http", "client": (address, 5), "headers": headers, "path": "/", "method": "GET"})


def status(door: Door, *given: Any) -> int:
    with pytest.raises(RefusalError) as refused:
        door.role(asks(*given))
    return refused.value.status


def test_wrong_tokens_are_counted_and_then_not_even_looked_at() -> None:
    clock = Clock()
    door = Door(everybody(), 8000, clock)
    entry = everybody().enter(VIEW)
    assert entry is not None
    assert [status(door, "192.0.2.7", f"guess-{k}") for k in range(TRIES + 1)] == [401] * TRIES + [429]
    assert status(door, "192.0.2.7", ADMIN) == 429, "or the right one could be found by trying"
    assert door.role(asks("192.0.2.7", cookie=entry.cookie)) is Role.VIEW, "who is in stays in"
    assert door.role(asks("192.0.2.8", ADMIN)) is Role.ADMIN, "others are not held up"
    clock.now += 6
    assert door.role(asks("192.0.2.7", ADMIN)) is Role.ADMIN


def test_a_cookie_of_before_is_nobody_and_no_try() -> None:
    door = Door(everybody(), 8000)
    assert [door.role(asks(cookie="stale")) for _ in range(3 * TRIES)] == [Role.NOBODY] * 3 * TRIES
    assert door.role(asks(token=ADMIN)) is Role.ADMIN


def test_right_tokens_are_no_tries() -> None:
    door = Door(everybody(), 8000)
    assert {door.role(asks(token=ADMIN)) for _ in range(3 * TRIES)} == {Role.ADMIN}


def test_who_has_a_network_of_ipv6_has_no_more_tries() -> None:
    assert household("2001:db8:1:2:3:4:5:6") == household("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert household("2001:db8:1:3::9") != household("2001:db8:1:2::9")
    assert household("::ffff:192.0.2.7") == household("192.0.2.7") == "192.0.2.7"
    assert household("testclient") == "testclient"
    door = Door(everybody(), 8000)
    got = [status(door, f"2001:db8:1:2::{k:x}", "guess") for k in range(TRIES + 1)]
    assert got == [401] * TRIES + [429]


def test_the_credentials_of_a_proxy_are_not_ours() -> None:
    """A proxy with a password of its own may pass it on."""
    basic = HTTPConnection(
        {"type": "http", "headers": [(b"authorization", b"Basic eDp5")], "path": "/", "method": "GET"}
    )
    assert Door(everybody(), 8000).role(basic) is Role.NOBODY
