"""Live sinks: where the painted picture goes while it is painted. A new one is a file here and a line in `KINDS`.

target = check("ndi:Livebrush")        # SinkError where it is unknown, or cannot be used here
sink = connect(target)                 # in the process of that output: `stream.sinks.child`
sink.open((512, 512), 30)
sink.show(frame)
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

from stream.errors import SinkError

if TYPE_CHECKING:
    from stream.frame import Frame

OPENS_S = 15.0
TEXT_LIMIT = 1000  # characters of an output's name


class LiveSink(ABC):
    """Takes pictures as they come, all of one size from `open` to `close`. SinkError where it cannot go on; it is then
    closed, and a new one tried later, in a new process."""

    repeats_s: float | None = None  # the last picture is shown again where none came for so long
    hears = False  # whether it can take sound
    sounds = False  # whether sound comes along: set before `open`
    opens_s: float | None = OPENS_S  # longest time for `open` before it counts as stuck; None: it may wait for somebody

    @abstractmethod
    def open(self, size: tuple[int, int], rate: float) -> None:
        """For pictures of that width and height, about `rate` a second."""

    @abstractmethod
    def show(self, frame: Frame) -> None:
        """The next picture."""

    def hear(self, data: bytes, captured_at: float) -> None:
        """A packet of Opus (RFC 6716), by the clock of the frames' `captured_at`; only where it `sounds`."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Lets go of everything; what was taken is finished."""


@dataclass(frozen=True)
class Kind:
    """A kind of sink: its module, how it is asked for, and what it is. Hidden ones are for tests."""

    module: str
    form: str
    about: str
    hidden: bool = False


class Module(Protocol):
    """What every kind's module has."""

    def missing(self, kind: str) -> str | None:
        """Why the kind cannot be used on this machine, and what to do; None where it can."""

    def connect(self, target: Target) -> LiveSink: ...


def network(form: str, about: str) -> Kind:
    return Kind("stream.sinks.network", form, about)


KINDS = {
    "virtualcam": Kind("stream.sinks.virtualcam", "virtualcam, virtualcam:/dev/video2", "a camera for other programs"),
    "ndi": Kind("stream.sinks.ndi", "ndi:NAME", "an NDI source on the network"),
    "spout": Kind("stream.sinks.spout", "spout:NAME", "a texture for other programs, on Windows"),
    "syphon": Kind("stream.sinks.syphon", "syphon:NAME", "a texture for other programs, on macOS"),
    "srt": network("srt://HOST:PORT, srt://:PORT?mode=listener", "MPEG-TS over SRT"),
    "udp": network("udp://HOST:PORT", "MPEG-TS over UDP"),
    "rtmp": network("rtmp://HOST/APP/KEY", "to a streaming server"),
    "rtmps": network("rtmps://HOST/APP/KEY", "to a streaming server, encrypted"),
    "rtsp": network("rtsp://HOST/PATH", "published to an RTSP server"),
    "record": Kind("stream.sinks.record", "record:FILE.mp4, FILE.ts, FILE.mkv", "a recording that survives a kill"),
    "fake": Kind("stream.sinks.fake", "fake:stuck, fake:failing, fake:crash", "trouble, for tests", hidden=True),
}
NAMED = ("virtualcam", "ndi", "spout", "syphon", "record", "fake")  # KIND or KIND:WHERE; the others are URLs
RECORDED = (".mp4", ".ts", ".mkv")
PUBLIC = ("mode", "latency", "pkt_size", "transtype")  # what may be shown of a URL's query


@dataclass(frozen=True)
class Target:
    """An output that was asked for: its kind, and where it goes."""

    kind: str
    text: str
    where: str

    @property
    def shown(self) -> str:
        """As everybody may see it: without keys, pass phrases and folders."""
        if self.kind == "record":
            return f"record:{Path(self.where).name}"
        return self.text if self.kind in NAMED else _shown_url(self.text, keyed=self.kind.startswith("rtmp"))

    def hides(self, text: str) -> str:
        """`text`, which may repeat a URL or a path, as everybody may see it."""
        if self.kind in NAMED and self.kind != "record":
            return text
        return text.replace(self.text, self.shown).replace(self.where, Path(self.where).name)


def _shown_url(url: str, keyed: bool) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(q for q in parts.query.split("&") if q.partition("=")[0] in PUBLIC)
    path = parts.path.rpartition("/")[0] + "/***" if keyed and parts.path.count("/") > 1 else parts.path
    return urlunsplit((parts.scheme, host, path, query, ""))


def recognise(text: str) -> Target:
    """What an output's name means; SinkError that lists the known ones where it means nothing."""
    text = text.strip()
    if len(text) > TEXT_LIMIT or not text.isprintable():
        raise SinkError(f"output {text[:40]!r}... is no name: use at most {TEXT_LIMIT} printable characters")
    name, colon, where = text.partition(":")
    kind = name.lower()
    if kind in NAMED:
        return _named(kind, text, where if colon else "")
    if re.match(r"[a-z]+://", text) and kind in KINDS:
        return _url(kind, text)
    if Path(text).suffix.lower() in RECORDED and "://" not in text:
        return Target("record", text, text)
    raise SinkError(f"output {text[:80]!r} is of no known kind: use {', '.join(k.form for k in known().values())}")


def _named(kind: str, text: str, where: str) -> Target:
    if kind == "record" and Path(where).suffix.lower() not in RECORDED:
        raise SinkError(f"output {text[:80]!r} names no recording: use a file that ends in {' '.join(RECORDED)}")
    return Target(kind, text, where)


def _url(kind: str, text: str) -> Target:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise SinkError(f"output {text[:80]!r} is no URL ({error}): use {KINDS[kind].form}") from None
    if kind in ("srt", "udp") and port is None:
        raise SinkError(f"output {text[:80]!r} has no port: use {KINDS[kind].form}")
    if kind not in ("srt", "udp") and not parts.hostname:
        raise SinkError(f"output {text[:80]!r} has no host: use {KINDS[kind].form}")
    return Target(kind, text, text)


def known() -> dict[str, Kind]:
    """The kinds that are shown, by name."""
    return {name: kind for name, kind in KINDS.items() if not kind.hidden}


def missing(kind: str) -> str | None:
    """Why a kind cannot be used on this machine, and what to do; None where it can."""
    return _module(kind).missing(kind)


def usable() -> Iterator[tuple[str, Kind, str | None]]:
    """Every kind that is shown, with what it misses here."""
    for name, kind in known().items():
        yield name, kind, missing(name)


def check(text: str) -> Target:
    """What an output's name means; SinkError where that is nothing, or cannot be used here."""
    target = recognise(text)
    if (lacks := missing(target.kind)) is not None:
        raise SinkError(f"output {target.shown} cannot be used here: {lacks}")
    return target


def connect(target: Target) -> LiveSink:
    """The sink itself, not open yet; SinkError where what it asks for is wrong."""
    return _module(target.kind).connect(target)


def _module(kind: str) -> Module:
    return cast(Module, import_module(KINDS[kind].module))
