"""Open Sound Control 1.0 over UDP: messages and bundles in, what changes out.

osc = await Osc.open(hub, ("127.0.0.1", 9000), out=[("10.0.0.2", 9001)])
...                                        # osc.run() tells what changed, twenty times a second
osc.close()
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from pythonosc.osc_message_builder import ArgValue, BuildError, build_msg
from pythonosc.osc_packet import OscPacket, ParseError

from stream.control import values
from stream.control.addresses import ROOT, Arguments, Router, Sender
from stream.control.desk import Desk
from stream.control.hub import Hub
from stream.datagrams import attach
from stream.errors import ControlError

log = logging.getLogger("livebrush")
DATAGRAM = 16 * 1024  # bytes that are read; a whole one of 64 KiB would keep everybody waiting
AT_ONCE = 8  # datagrams in one go: a long one takes milliseconds, and pictures wait
BUNDLE, HEAD = b"#bundle\0", 16  # how a bundle begins, and bytes before its elements: its name and its time
DEEP = 16  # bundles in bundles; each level is read anew by python-osc
SUBSCRIBERS = 8
LAPSE_S = 60.0  # a subscriber that does not ask again hears no more
AHEAD_S = 60.0  # that a bundle may lie ahead
LATER = 1000  # messages that may wait for their time
TELL_S = 0.05  # between two looks at what changed
RATES_S = 1.0  # between two words about frames a second
UNREADABLE = (ParseError, ValueError, IndexError, OverflowError, RecursionError)  # of python-osc; the first is its own


def address(text: str) -> Sender:
    """Host and port of `9000`, `host:9000` or `[::1]:9000`; ControlError where it is none of them."""
    host, colon, tail = text.rpartition(":")
    host = host.strip("[]") if colon else "127.0.0.1"
    if not (tail.isascii() and tail.isdigit() and 0 < int(tail) < 65536 and host):
        raise ControlError(f"osc address {text[:80]!r} is none: use a port (9000) or host:port (192.168.0.7:9000)")
    return host, int(tail)


def bound(at: Sender) -> socket.socket:
    """A UDP socket there; ControlError where it cannot be had."""
    try:
        kind, _, _, _, place = socket.getaddrinfo(*at, type=socket.SOCK_DGRAM)[0]
        made = socket.socket(kind, socket.SOCK_DGRAM)
    except OSError as error:
        raise ControlError(f"osc address {at[0]} is unknown ({error.strerror}): use 127.0.0.1") from None
    try:
        made.bind(place)
    except OSError as error:
        made.close()
        told = f"osc cannot be heard on {at[0]}:{at[1]} ({error.strerror}): use another port, e.g. {at[1] + 1}"
        raise ControlError(told) from None
    made.setblocking(False)
    return made


def is_framed(data: bytes) -> bool:
    """Whether the elements of a bundle, and of those in it, are as long as they say (OSC 1.0), and not too DEEP.
    python-osc does not look: a negative size would lead it back to where it came from, for ever."""
    bundles = [(data, 0)]
    while bundles:
        rest, depth = bundles.pop()
        rest = rest[HEAD:] if rest.startswith(BUNDLE) else b""
        if rest and depth == DEEP:
            return False
        while rest:
            size = int.from_bytes(rest[:4], "big", signed=True)
            if not 0 < size <= len(rest) - 4:
                return False
            bundles.append((rest[4 : 4 + size], depth + 1))
            rest = rest[4 + size :]
    return True


class Quiet(logging.Filter):
    """python-osc tells the root logger of every datagram that it cannot read; here they are counted."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "pythonosc" not in record.pathname


class Osc(asyncio.DatagramProtocol):
    """Owns the socket, the subscribers, and what waits for its time."""

    def __init__(self, hub: Hub, out: Iterable[Sender] = ()) -> None:
        self.received = self.malformed = self.refused = 0  # messages; datagrams; messages that could not be followed
        self._hub, self._out = hub, tuple(out)
        self._subscribers: dict[Sender, float] = {}  # and when they lapse
        self._router = Router(hub, self._send, self._subscribe, self._unsubscribe)
        self._later: set[asyncio.TimerHandle] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._told = Told()
        self._quiet = Quiet()

    @classmethod
    async def open(cls, hub: Hub, at: Sender | socket.socket, out: Iterable[Sender] = ()) -> Osc:
        """Hears at an address, or on a socket that is bound. ControlError."""
        made = cls(hub, out)
        sock = bound(at) if isinstance(at, tuple) else at
        await attach(sock, made, AT_ONCE)
        hub.complain.listeners.append(made._complained)
        logging.getLogger().addFilter(made._quiet)
        return made

    def close(self) -> None:
        """Hears and tells no more."""
        logging.getLogger().removeFilter(self._quiet)
        if self._complained in self._hub.complain.listeners:
            self._hub.complain.listeners.remove(self._complained)
        for waiting in self._later:
            waiting.cancel()
        self._later.clear()
        if self._transport is not None:
            self._transport.close()

    @property
    def port(self) -> int | None:
        """Where it is heard."""
        return None if self._transport is None else int(self._transport.get_extra_info("sockname")[1])

    @property
    def subscribers(self) -> list[Sender]:
        """Who hears what changes, beside those that were named at the start."""
        now = self._hub.clock()
        self._subscribers = {who: until for who, until in self._subscribers.items() if until > now}
        return list(self._subscribers)

    # ------------------------------------------------------------------------------------------- in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        sender = (str(addr[0]), int(addr[1]))
        try:
            if len(data) > DATAGRAM or not is_framed(data):
                raise ValueError("too long, too deep, or its parts are not as long as they say")
            messages = [(m.time, m.message.address, decimal(m.message.params)) for m in OscPacket(data).messages]
        except UNREADABLE:
            self.malformed += 1
            return
        now = time.time()
        for at, where, arguments in messages:
            self._due(at - now, where, arguments, sender)

    def error_received(self, exc: Exception) -> None:
        """Somebody who was told something is not there (ICMP): whoever subscribed lapses by itself."""
        log.debug("osc: %s", exc)

    def _due(self, wait_s: float, where: str, arguments: Arguments, sender: Sender) -> None:
        """Follows a message when its time has come (OSC 1.0: late ones at once)."""
        if wait_s <= 0:
            self._follow(where, arguments, sender)
        elif wait_s > AHEAD_S or len(self._later) >= LATER:
            self.refused += 1
            self._hub.complain(
                where[:120], f"its time is {wait_s:.0f} s ahead: use at most {AHEAD_S:.0f} s, and {LATER} messages"
            )
        else:
            loop = asyncio.get_running_loop()

            def come() -> None:
                self._later.discard(handle)
                self._follow(where, arguments, sender)

            handle = loop.call_later(wait_s, come)
            self._later.add(handle)

    def _follow(self, where: str, arguments: Arguments, sender: Sender) -> None:
        self.received += 1
        if not self._router.follow(where, arguments, sender):
            self.refused += 1

    # ------------------------------------------------------------------------------------------- out

    def _subscribe(self, sender: Sender) -> None:
        if sender not in self.subscribers:
            if len(self._subscribers) >= SUBSCRIBERS:
                raise ControlError(f"{SUBSCRIBERS} listen already: one that does not ask again lapses within a minute")
            self._told.to(lambda where, arguments: self._send(sender, where, arguments))
        self._subscribers[sender] = self._hub.clock() + LAPSE_S

    def _unsubscribe(self, sender: Sender) -> None:
        self._subscribers.pop(sender, None)

    def _send(self, to: Sender, where: str, arguments: Arguments) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            data = build_msg(where, [cast(ArgValue, sendable(a)) for a in arguments]).dgram
            self._transport.sendto(data, to)
        except (BuildError, OSError, ValueError) as error:
            log.debug("osc to %s:%d: %s", *to, error)

    def _tell(self, where: str, arguments: Arguments) -> None:
        for to in (*self._out, *self.subscribers):
            self._send(to, where, arguments)

    def _complained(self, where: str, error: str) -> None:
        self._tell(f"/{ROOT}/error", (where, error))

    async def run(self) -> None:
        """Tells what changed, until it is cancelled."""
        while True:
            if self._out or self.subscribers:
                self._told.look(self._hub, self._tell)
            await asyncio.sleep(TELL_S)


def decimal(arguments: Iterable[Any]) -> list[Any]:
    """Arguments with the decimals that were meant: OSC's numbers have 24 bits, and 0.9 comes as 0.89999998."""
    return [float(f"{a:.7g}") if isinstance(a, float) else a for a in arguments]


def sendable(value: Any) -> Any:
    """A value as an OSC argument: switches as 1 and 0, lists as text, nothing as an empty text."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        return float(value)
    if isinstance(value, tuple | list):
        return ",".join(str(part) for part in value)
    return "" if value is None else value


class Told:
    """What listeners know: the newest argument of every address. Looks for what is new; a new listener hears it all."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, ...]] = {}
        self._beat = -1

    def to(self, tell: Callable[[str, Sequence[Any]], None]) -> None:
        """Tells everything that is known."""
        for where, arguments in self._known.items():
            tell(where, arguments)

    def look(self, hub: Hub, tell: Callable[[str, Sequence[Any]], None]) -> None:
        """Tells what changed since the last look."""
        now = {where: arguments for desk, prefix in named(hub) for where, arguments in facts(desk, prefix)}
        beat = hub.beat.facts(hub.clock())
        now[f"/{ROOT}/bpm"] = (round(beat.bpm, 2),)
        for where, arguments in now.items():
            if self._known.get(where) != arguments:
                tell(where, arguments)
        self._known = now
        if (count := math.floor(beat.position)) != self._beat:
            self._beat = count
            tell(f"/{ROOT}/beat", (count,))


def named(hub: Hub) -> Iterable[tuple[Desk, str]]:
    """The desks that are told of, with the address below which they are: the one that is meant where none is named, and
    those with names. The id of a page's session is its secret, and never told."""
    target = hub.target
    if target is not None:
        yield target, f"/{ROOT}"
    for desk in hub:
        if desk.steered.name:
            yield desk, f"/{ROOT}/{desk.steered.name}"


def facts(desk: Desk, prefix: str) -> Iterable[tuple[str, tuple[Any, ...]]]:
    """What is told of one session."""
    settings = desk.steered.settings
    for name in values.facts():
        yield f"{prefix}/{name}", (sendable(getattr(settings, name)),)
    yield f"{prefix}/state", (desk.steered.state,)
    yield f"{prefix}/fps", (float(round(desk.steered.fps)),)
