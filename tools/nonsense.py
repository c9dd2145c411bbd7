"""Malformed messages of every kind that reaches the server. The same seed gives the same messages.

chance = Nonsense(7)
chance.offer(sdp), chance.fragment(sdp), chance.request(document), chance.datagram(), chance.message(), chance.hello()
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

TYPES = ("ping", "hidden", "latency", "morph", "follow", "tap")  # of messages of a page
TOO_LONG = 70 * 1024  # bytes, more than any body that is no upload may have
METHODS = ("get", "post", "put", "patch", "delete")
ODD = ("", " ", "\0", "ä", "💥", "\ud800", "..", "%00", "'; --", "<b>", "nan", "-1", "1e999", "9" * 30, "true", "null",
       "x" * 300)  # fmt: skip
NO_OBJECTS = ("", "{", "[]", "nul", "true", "0", '"x"', "{]", '{"a"', "{'a': 1}", "NaN", '{"a": NaN}', "[" * 3000,
              '{"a":' * 3000, '{"a": 1} {}', "\0")  # fmt: skip
WRONG = ({"not": "this"}, [[{}]], [None, 1e300], "\0" * 9, {"": {}})  # values that no field takes
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Request:
    """An HTTP request that is to be refused."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Nonsense:
    """Makes messages by a chance of its own. Seeds are whole numbers."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    # --------------------------------------------------------------------------------------------- SDP

    def offer(self, good: str) -> str:
        """A session description with lines lost, doubled, swapped or spoilt; now and then it is still a good one."""
        lines = good.splitlines()
        for _ in range(self.chance.choice([1, 2, 4, 8, 16])):
            k = self.chance.randrange(len(lines))
            lines[k : k + 1] = self.chance.choice([
                [], [lines[k]] * 2, [self.spoilt(lines[k])], [self.chance.choice(lines)], [lines[k]] * 40,
                [f"a={self.odd()}:{self.odd()}"],
            ])  # fmt: skip
            lines = lines or [""]
        return "\r\n".join(lines[: self.chance.choice([len(lines), len(lines), self.chance.randrange(len(lines) + 1)])])

    def fragment(self, good: str) -> str:
        """Candidates (RFC 8840, trickle-ice-sdpfrag) of a session that nobody has, or that are none."""
        lines = [f"a=ice-ufrag:{self.odd()}", f"a=ice-pwd:{self.odd() * self.chance.choice([1, 30])}",
                 f"m={self.odd()} 9 UDP/TLS/RTP/SAVPF 0", f"a=mid:{self.odd()}"]  # fmt: skip
        candidates = [line for line in good.splitlines() if line.startswith("a=candidate")] or [
            "a=candidate:1 1 udp 1 h 9"
        ]
        lines += [self.spoilt(self.chance.choice(candidates)) for _ in range(self.chance.choice([0, 1, 2, 50]))]
        kept = self.chance.sample(lines, self.chance.randrange(len(lines) + 1))
        return self.chance.choice(["\r\n", "\n", "\0"]).join(kept)

    def spoilt(self, line: str) -> str:
        """A line cut off, with something in its middle, or with another number."""
        at = self.chance.randrange(len(line) + 1)
        ways: list[Callable[[], str]] = [
            lambda: line[:at], lambda: line[:at] + self.odd() + line[at:], lambda: line[at:],
            lambda: DIGITS.sub(lambda _: self.chance.choice(["0", "-1", "65536", "9" * 30, "x"]), line),
            lambda: line.replace(" ", self.chance.choice(["", "  ", "\t", ":"])), lambda: line.swapcase(),
        ]  # fmt: skip
        return self.chance.choice(ways)()

    def odd(self) -> str:
        return self.chance.choice(ODD)

    # --------------------------------------------------------------------------------------------- HTTP

    def request(self, document: Mapping[str, Any]) -> Request:
        """A request that no server may follow, of an OpenAPI document's paths: an unknown place, a wrong method, a body
        that is no JSON, none that is asked for, or too long."""
        path = self.chance.choice(sorted(document["paths"]))
        known = document["paths"][path]
        bodies = {m: what["requestBody"] for m, what in known.items() if what.get("requestBody", {}).get("required")}
        if not bodies or self.chance.random() < 0.2:
            return self.nowhere(path, known)
        method = self.chance.choice(sorted(bodies))
        kinds = bodies[method].get("content", {})
        schema = kinds.get("application/json", {}).get("schema")
        kind, body = self.body(resolved(schema, document)) if schema is not None else self.no_form(kinds)
        return Request(method.upper(), self.placed(path), body, {"Content-Type": kind})

    def nowhere(self, path: str, known: Mapping[str, Any]) -> Request:
        """A path that is not there, or a method that is not for it."""
        strange = [m.upper() for m in METHODS if m not in known]
        if strange and "{" not in path and self.chance.random() < 0.5:
            return Request(self.chance.choice([*strange, "TRACE", "BREW"]), path)
        return Request(
            self.chance.choice(METHODS).upper(), f"{self.placed(path)}/{quote(self.odd() or 'x', errors='replace')}/x"
        )

    def placed(self, path: str) -> str:
        """A path with something that nobody made in its places."""
        return re.sub(r"{\w+}", lambda _: quote(self.odd() or "x", safe="", errors="replace"), path)

    def body(self, schema: Mapping[str, Any]) -> tuple[str, bytes]:
        """A content type and a body that this schema does not allow."""
        ways = [self.no_json] * 4 + [self.no_text, self.too_long, self.other_kind]
        if schema.get("properties"):
            ways += [lambda: self.wrong_field(schema), lambda: self.unknown_field(schema)] * 5
        return self.chance.choice(ways)()

    def no_json(self) -> tuple[str, bytes]:
        return "application/json", self.chance.choice(NO_OBJECTS).encode()

    def no_text(self) -> tuple[str, bytes]:
        return "application/json", b"\xff" + self.chance.randbytes(self.chance.randrange(200))

    def too_long(self) -> tuple[str, bytes]:
        return "application/json", json.dumps({"x": "x" * TOO_LONG}).encode()

    def other_kind(self) -> tuple[str, bytes]:
        return self.chance.choice(["text/plain", "text/xml", "application/x-www-form-urlencoded", "", "\t/x"]), b"{}"

    def no_form(self, kinds: Mapping[str, Any]) -> tuple[str, bytes]:
        """For what takes no JSON: another type, or bytes that are none of its own."""
        kind = self.chance.choice(sorted(kinds) or ["application/sdp"])
        return self.chance.choice([self.other_kind()[0], kind, kind, kind]), self.chance.randbytes(
            self.chance.randrange(300)
        )

    def wrong_field(self, schema: Mapping[str, Any]) -> tuple[str, bytes]:
        name = self.chance.choice(sorted(schema["properties"]))
        return "application/json", json.dumps({name: self.chance.choice(WRONG)} | self.unknown()).encode()

    def unknown_field(self, schema: Mapping[str, Any]) -> tuple[str, bytes]:
        names = self.chance.sample(sorted(schema["properties"]), self.chance.randrange(len(schema["properties"]) + 1))
        return "application/json", json.dumps(
            {n: self.chance.choice([1, "x", None]) for n in names} | self.unknown()
        ).encode()

    def unknown(self) -> dict[str, Any]:
        """A field that nobody knows."""
        return {f"no such field {self.chance.randrange(1000)}": self.chance.choice(WRONG)}

    # --------------------------------------------------------------------------------------------- messages

    def message(self) -> str | bytes:
        """A message for a control channel that is none, or whose content is wrong."""
        pick = self.chance.choice
        ways: list[Callable[[], str | bytes]] = [
            lambda: pick(NO_OBJECTS[1:]), lambda: self.chance.randbytes(self.chance.randrange(1, 3000)),
            lambda: json.dumps({"type": self.odd(), "id": self.odd()}),
            lambda: json.dumps({"type": "settings", "id": self.odd(), "changes": {self.odd(): pick(WRONG)}}),
            lambda: json.dumps({"type": "settings", "changes": {"steps": pick([99, -1, 1.5, "many", None])}}),
            lambda: json.dumps({"type": "settings", "changes": pick([1, None, [], "x"])}),
            lambda: json.dumps({"type": pick(TYPES)} | self.unknown()),
            lambda: '{"type":"ping","t":' + pick(["1e999", "NaN", "-Infinity", "[]", '"1"']) + "}",
            lambda: json.dumps({"type": "ping", "t": "x" * 17 * 1024}),
        ]  # fmt: skip
        return pick(ways)()

    def hello(self) -> str | bytes:
        """A first message of a WebSocket that is no hello."""
        settings = {"type": "hello", "settings": {self.odd(): self.chance.choice(WRONG)}}
        return self.chance.choice(
            [self.message(), json.dumps(settings), json.dumps({"type": "hello"} | self.unknown())]
        )

    # --------------------------------------------------------------------------------------------- OSC

    def datagram(self) -> bytes:
        """A datagram that is no OSC 1.0 packet, or asks for what is not there."""
        address = self.chance.choice([b"/livebrush/", b"/", b"", b"#bundle", b"/livebrush/{a,b}*[!-z", b"/" * 300])
        tags = self.chance.choice([b",", b",f", b",ifsbTFNI", b",[[[[", b",zzz", b"f", b",b", b",s"])
        values = self.chance.choice([
            b"", struct.pack(">f", float("nan")), struct.pack(">i", -1), struct.pack(">i", 2**31 - 1) + b"x",
            self.chance.randbytes(self.chance.randrange(64)), b"\xff\xff\xff\xff",
        ])  # fmt: skip
        whole = padded(address + self.odd().encode(errors="replace")) + padded(tags) + values
        bundle = b"#bundle\0" + struct.pack(">Q", self.chance.choice([0, 1, 2**64 - 1])) + struct.pack(
            ">i", self.chance.choice([len(whole), -4, 2**31 - 4, 3])) + whole  # fmt: skip
        nested = b"".join([b"#bundle\0" + struct.pack(">Qi", 1, 16)] * self.chance.choice([2, 500]))
        noise = self.chance.randbytes(self.chance.choice([0, 1, 4, 1400]))
        return self.chance.choice([whole, whole[: self.chance.randrange(len(whole) + 1)], bundle, nested, noise])


def padded(text: bytes) -> bytes:
    """An OSC string: zeros after it, up to a multiple of four."""
    return text + b"\0" * (4 - len(text) % 4)


def resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema's reference stands for; of several, the first that has fields."""
    some: Sequence[Mapping[str, Any]] = schema.get("anyOf") or schema.get("oneOf") or [schema]
    for part in some:
        name = part.get("$ref", "").rpartition("/")[2]
        found = document["components"]["schemas"][name] if name else part
        if found.get("properties"):
            return dict(found)
    return schema
