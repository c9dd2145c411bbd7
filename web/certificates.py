"""A certificate for HTTPS: one that is given, or one made by an authority of the user's own.

Browsers give out camera and microphone over HTTPS only, except on the machine itself. The authority is made once and
kept in the user's folder; who makes a device trust its `ca.pem` sees no warning any more. Its key never leaves there.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from filelock import FileLock, Timeout
from platformdirs import user_data_path

from web.config import Https
from web.errors import ServeError

AUTHORITY, OWN = "ca", "server"  # names of the files
VALID_DAYS = 397  # of a certificate; browsers take no more than 398
LEFT_DAYS = 30  # then it is made anew
LOCK_S = 20.0
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
FAR = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # kept for examples: RFC 5737, RFC 3849

Files = tuple[Path, Path]  # the certificate, and its key


def files(wanted: Https, host: str) -> Files | None:
    """What the server shows; None for HTTP. ServeError where it cannot be used."""
    if not wanted.wanted:
        if wanted.key is not None:
            raise ServeError("--key is the certificate's key: give --cert FILE as well")
        return None
    if wanted.cert is None:
        return made(folder(), names(host))
    if wanted.key is None:
        raise ServeError("the certificate needs its key: give --key FILE as well")
    check(wanted.cert, wanted.key)
    return wanted.cert, wanted.key


def check(cert: Path, key: Path) -> None:
    """ServeError unless both can be read and belong together. A key behind a password is not taken."""
    for what, path in (("certificate", cert), ("key", key)):
        if not path.is_file():
            raise ServeError(f"the {what} {path} is not there: give a file in PEM")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise ServeError(f"certificate {cert} and key {key} cannot be used ({why}): give both in PEM, without a "
                         "password") from None  # fmt: skip


# ------------------------------------------------------------------------------------------------- where we are


def folder() -> Path:
    """Of the user's authority (`LIVEBRUSH_HTTPS` names another)."""
    named = os.environ.get("LIVEBRUSH_HTTPS")
    return Path(named) if named else user_data_path("livebrush") / "https"


def names(host: str) -> tuple[str, ...]:
    """Everything that this machine is called, sorted: names and addresses."""
    own = socket.gethostname().lower()
    candidates = {"localhost", own, f"{own.partition('.')[0]}.local", host.lower(), "127.0.0.1", "::1", *addresses()}
    return tuple(sorted(name for name in candidates - {"0.0.0.0", "::"} if is_name(name)))  # noqa: S104


def addresses() -> tuple[str, ...]:
    """The addresses by which others reach this machine, the one of the way out first."""
    found = [address for family in FAR if (address := outward(family))]
    with contextlib.suppress(OSError):  # a name that is nowhere known: the way out has to do
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)]
    return tuple(dict.fromkeys(a for a in found if "%" not in a and not ipaddress.ip_address(a).is_loopback))


def outward(family: socket.AddressFamily) -> str | None:
    """This machine's address on the way out; nothing is sent for it."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((FAR[family], 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def is_name(text: str) -> bool:
    """Whether a certificate can be for it."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(NAME.fullmatch(text))
    return True


# ------------------------------------------------------------------------------------------------- made


def made(place: Path, wanted: Iterable[str]) -> Files:
    """The certificate in a folder; made by its authority where it is not there, is too old or lacks a name."""
    own, wanted = (place / f"{OWN}.pem", place / f"{OWN}.key"), frozenset(wanted)
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(place / ".lock", timeout=LOCK_S):
            authority = authority_in(place)
            if not fits(*own, authority, wanted):
                end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=VALID_DAYS)
                leaf = authority.issue_cert(*sorted(wanted), not_after=end)
                write(own[1], leaf.private_key_pem.bytes())
                write(own[0], b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    except (OSError, Timeout) as error:
        raise ServeError(f"no certificate can be kept in {place} ({error}): give --cert and --key") from None
    return own


def authority_in(place: Path) -> trustme.CA:
    """The user's authority, made the first time."""
    cert, key = place / f"{AUTHORITY}.pem", place / f"{AUTHORITY}.key"
    if cert.exists() and key.exists():
        try:
            return trustme.CA.from_pem(cert.read_bytes(), key.read_bytes())
        except ValueError:
            raise ServeError(f"the authority in {place} is damaged: delete that folder, one is made anew") from None
    made = trustme.CA(organization_name="Livebrush on this machine", organization_unit_name=socket.gethostname()[:64])
    write(key, made.private_key_pem.bytes())
    write(cert, made.cert_pem.bytes())
    return made


def fits(cert: Path, key: Path, authority: trustme.CA, wanted: frozenset[str]) -> bool:
    """Whether a certificate can be used again."""
    if not (cert.exists() and key.exists()):
        return False
    now = datetime.datetime.now(datetime.UTC)
    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.cert_pem.bytes()))
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        check(cert, key)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, ServeError):
        return False
    known = {*alternative.get_values_for_type(x509.DNSName),
             *map(str, alternative.get_values_for_type(x509.IPAddress))}  # fmt: skip
    return wanted <= known and found.not_valid_after_utc - now > datetime.timedelta(days=LEFT_DAYS)


def write(path: Path, data: bytes) -> None:
    """For the user's eyes only, whole or not at all."""
    new = path.with_name(f".new-{path.name}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    new.replace(path)
