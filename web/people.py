"""Who is known: tokens, JSON Web Tokens, and the cookies and codes that are made of them.

people = People([Token(Role.ADMIN, "...")], jwt=None)
role = people.bearer("...")                 # a Role, or None
entry = people.enter("...")                 # what a page keeps in its cookie instead
role = people.cookie(entry.cookie)          # also after the server has started again

Cookies and codes are signed with keys that are derived from the tokens: they hold as long as their token is given.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from web.access import Role
from web.config import Access
from web.errors import ServeError

ROLES = {"view": Role.VIEW, "control": Role.CONTROL, "admin": Role.ADMIN}
NEW = "new"  # instead of a secret: make one
SHORTEST = 16  # characters of a secret
LONGEST = 4096  # of anything that is sent as a credential
SHARED_KEY = 32  # bytes of a key for HS256 at least (RFC 7518, 3.2)
RSA_BITS = 2048  # at least (RFC 7518, 3.3)
COOKIE_S = 30 * 24 * 3600.0
GUEST_S = 12 * 3600.0  # of a cookie that was given for a code
LEEWAY_S = 10.0  # that other clocks may be wrong
AUDIENCE = "livebrush"
SECRET = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750, 2.1


@dataclass(frozen=True)
class Token:
    """A secret, and what whoever knows it may do."""

    role: Role
    secret: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.role.name.lower()}:{self.secret}"


@dataclass(frozen=True)
class Entry:
    """What a page that has shown a credential keeps in its cookie, and for how many seconds."""

    role: Role
    cookie: str = field(repr=False)
    seconds: float


# ------------------------------------------------------------------------------------------------- tokens


def made() -> str:
    """A new secret of 192 random bits."""
    return secrets.token_urlsafe(24)


def read_token(text: str) -> Token:
    """`role:secret`, or a secret alone, which is an admin's; `new` makes one. What was given is in no error."""
    name, colon, secret = text.strip().rpartition(":")
    if colon and name not in ROLES:
        raise ServeError("the role of a token is unknown: write view:SECRET, control:SECRET or admin:SECRET")
    role = ROLES[name] if colon else Role.ADMIN
    if secret == NEW:
        return Token(role, made())
    example = f"use e.g. {role.name.lower()}:{made()}"
    if len(secret) < SHORTEST:
        raise ServeError(f"a token has {len(secret)} characters, at least {SHORTEST} are needed: {example}")
    if len(secret) > LONGEST or not SECRET.fullmatch(secret):
        raise ServeError(
            f"a token has more than {LONGEST} characters, or others than letters, digits and ._~+/=-: {example}"
        )
    return Token(role, secret)


def read_tokens(texts: Iterable[str]) -> tuple[Token, ...]:
    """All of them; ServeError where one is wrong, or there twice."""
    tokens = tuple(read_token(text) for text in texts)
    if len({token.secret for token in tokens}) < len(tokens):
        raise ServeError("a token is there twice: give each role a secret of its own")
    return tokens


def tokens_in(path: Path) -> list[str]:
    """The lines of a file of tokens, without those that are empty or begin with #."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"token file {path} cannot be read ({error}): write a token a line, role:secret") from None
    found = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if not found:
        raise ServeError(f"token file {path} has no token: write one a line, e.g. admin:{made()}")
    return found


# ------------------------------------------------------------------------------------------------- JSON Web Tokens


@dataclass(frozen=True)
class Jwt:
    """Reads JSON Web Tokens (RFC 7519) with one key and the one algorithm that belongs to it (RFC 8725, 3.1)."""

    algorithm: str
    key: Any = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Jwt:
        """By a file (a public key in PEM, or a shared secret), or the secret itself. ServeError where it is none."""
        data = _file(text)
        if data is None:
            return cls._shared(text.encode())
        return cls._public(data) if b"-----BEGIN" in data else cls._shared(data.strip())

    @classmethod
    def _shared(cls, secret: bytes) -> Jwt:
        if len(secret) < SHARED_KEY:
            told = f"the JWT key has {len(secret)} bytes, and HS256 needs {SHARED_KEY}"
            raise ServeError(f"{told}: use e.g. {secrets.token_urlsafe(SHARED_KEY)}, or a file with a public key")
        return cls("HS256", secret)

    @classmethod
    def _public(cls, data: bytes) -> Jwt:
        expected = "give a public key in PEM: RSA of 2048 bits or more, or EC on P-256"
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            raise ServeError(f"the JWT key is no public key: {expected}") from None
        if isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS:
            return cls("RS256", key)
        if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            return cls("ES256", key)
        raise ServeError(f"the JWT key is of a kind that is not taken: {expected}")

    def claims(self, text: str) -> Mapping[str, Any] | None:
        """What a token says; None where it is not signed with this key, has no end, or is over."""
        try:
            found: dict[str, Any] = jwt.decode(text, self.key, algorithms=[self.algorithm], leeway=LEEWAY_S,
                                               options={"require": ["exp"], "verify_aud": False})  # fmt: skip
        except (jwt.PyJWTError, OverflowError):
            return None
        return found

    def role(self, text: str) -> tuple[Role, float] | None:
        """The role that a token gives, and when it ends."""
        claims = self.claims(text)
        if claims is None or not _for_us(claims.get("aud")):
            return None
        role = ROLES.get(str(claims.get("role")))
        return (role, float(claims["exp"])) if role is not None else None


def _file(text: str) -> bytes | None:
    """What a file has; None where it is no path."""
    path = Path(text).expanduser()
    try:
        if path.is_file():
            return path.read_bytes()
    except OSError as error:
        raise ServeError(f"the JWT key cannot be read ({error.strerror}): give a file, or the secret itself") from None
    if path.suffix in (".pem", ".key", ".pub", ".txt"):
        raise ServeError(f"the JWT key {path.name} is not there: give a file, or the secret itself")
    return None


def _for_us(audience: Any) -> bool:
    """Whether a token with that `aud` (a name, several, or none) may be used here."""
    return audience is None or AUDIENCE in (audience if isinstance(audience, list) else [audience])


# ------------------------------------------------------------------------------------------------- everybody


class People:
    """Everybody who is known. Where nobody is, nobody is asked: `open`."""

    def __init__(
        self, tokens: Iterable[Token] = (), jwt: Jwt | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._tokens, self._jwt, self._clock = tuple(tokens), jwt, clock
        given = [token.secret.encode() for token in self._tokens]
        if jwt is not None:
            given.append(jwt.key if isinstance(jwt.key, bytes) else secrets.token_bytes(SHARED_KEY))
        self._signing = [Jwt("HS256", hmac.digest(secret, b"livebrush cookies", "sha256")) for secret in given]

    @classmethod
    def of(cls, access: Access) -> People:
        """Those that the options name; ServeError where one of these is wrong."""
        return cls(read_tokens(access.tokens), Jwt.of(access.jwt_key) if access.jwt_key else None)

    @property
    def open(self) -> bool:
        """Whether nobody is asked."""
        return not self._signing

    def bearer(self, text: str) -> Role | None:
        """The role of whoever sends that token; takes as long whichever it is not."""
        if len(text) > LONGEST:
            return None
        if (token := self._token(text)) is not None:
            return token.role
        found = self._jwt.role(text) if self._jwt is not None else None
        return found[0] if found else None

    def enter(self, text: str) -> Entry | None:
        """What a page that shows a token, a JSON Web Token or a code keeps from then on."""
        if len(text) > LONGEST:
            return None
        if (token := self._token(text)) is not None:
            key = self._signing[self._tokens.index(token)]
            return Entry(token.role, self._signed(key, token.role, "cookie", COOKIE_S), COOKIE_S)
        if self._jwt is not None and (found := self._jwt.role(text)) is not None:
            return Entry(found[0], text, found[1] - self._clock())
        for key in self._signing:
            if (role := self._read(key, text, "code")) is not None:
                return Entry(role, self._signed(key, role, "cookie", GUEST_S), GUEST_S)
        return None

    def cookie(self, text: str) -> Role | None:
        """The role of whoever sends that cookie."""
        if len(text) > LONGEST:
            return None
        roles = (self._read(key, text, "cookie") for key in self._signing)
        own = next((role for role in roles if role is not None), None)
        found = self._jwt.role(text) if own is None and self._jwt is not None else None
        return found[0] if found else own

    def code(self, role: Role, seconds: float) -> str:
        """A code that lets somebody in as `role`, for a while."""
        return self._signed(self._signing[0], role, "code", seconds)

    def _token(self, text: str) -> Token | None:
        """The token of that secret. Hashes are compared, all of them: the time tells nothing."""
        said, found = hashlib.sha256(text.encode(errors="replace")).digest(), None
        for token in self._tokens:
            if hmac.compare_digest(said, hashlib.sha256(token.secret.encode()).digest()):
                found = token
        return found

    def _signed(self, key: Jwt, role: Role, use: str, seconds: float) -> str:
        claims = {"role": role.name.lower(), "use": use, "exp": int(self._clock() + seconds)}
        return jwt.encode(claims | {"jti": secrets.token_urlsafe(8)}, key.key, key.algorithm)

    def _read(self, key: Jwt, text: str, use: str) -> Role | None:
        claims = key.claims(text)
        return ROLES.get(claims["role"]) if claims is not None and claims["use"] == use else None
