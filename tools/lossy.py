"""A line that loses packets: a network namespace behind another one, in which they are dropped or come late.

    with line(Weather(loss=0.05)) as it, it.door(port):
        subprocess.run(it.command("chromium", "http://127.0.0.1:8000"))

    here (outside) --veth-- the middle: nft drops, or tools/relay.py delays --veth-- the far end (inside)

Loss alone is nft's, in the tables of the middle (the kernel need not have netem); delay and jitter are the relay's.
TCP passes untouched, and `door` brings a server of this loopback to the far one. Only addresses
of 198.18.0.0/15 (RFC 2544: for measurements) and interfaces of its own are used; all of it goes when the line does.
Linux and root only: `hindrance` says what is missing.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from stream.errors import LivebrushError

ROOT = Path(__file__).parents[1]
NETNS = Path("/var/run/netns")
CLONE_NEWNET = 0x40000000
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}

T = TypeVar("T")


class NoLineError(LivebrushError):
    """No such line can be made here."""


@dataclass(frozen=True)
class Weather:
    """What happens to each datagram, each way. `loss` is a share; `delay_ms` and up to `jitter_ms` more, at random, so
    that some overtake others. `seed`: of the relay, whose losses are the same every time."""

    loss: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    seed: int = 0

    @property
    def relayed(self) -> bool:
        return self.delay_ms > 0 or self.jitter_ms > 0


def hindrance() -> str:
    """Why no line can be made here, or nothing."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "network namespaces are made by root"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"{tool} is missing: apt install {package}"
    name = f"lb{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)  # noqa: S603, S607
    if made.returncode:
        return f"this machine makes no network namespaces: {made.stderr.strip()}"
    rules = subprocess.run(["nsenter", f"--net={NETNS / name}", "nft", "-f", "-"], input=dropping(0.5),  # noqa: S603, S607
                           capture_output=True, text=True)  # fmt: skip
    run("ip", "netns", "del", name)
    return f"nft cannot drop packets here: {rules.stderr.strip()}" if rules.returncode else ""


def dropping(loss: float) -> str:
    """nft's rules that lose that share of what is passed on over UDP."""
    return f"""table ip lossy {{
      chain forward {{
        type filter hook forward priority 0; policy accept;
        meta l4proto udp numgen random mod 10000 < {round(loss * 10000)} counter drop
      }}
    }}"""


def run(*command: str, text: str | None = None) -> None:
    """NoLineError with what it said where it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True)  # noqa: S603 (ours)
    if done.returncode:
        raise NoLineError(f"{' '.join(command)}: {done.stderr.strip()}")


# ------------------------------------------------------------------------------------------------- the line


@dataclass(frozen=True)
class Line:
    """The far end: `inside` is its address, `outside` this machine's on the way to it."""

    namespace: str
    inside: str
    outside: str

    def command(self, *command: str) -> list[str]:
        """That command, at the far end."""
        return ["nsenter", f"--net={NETNS / self.namespace}", "--", *command]

    def program(self, folder: Path, path: str) -> str:
        """A file to execute in place of `path`, that runs at the far end."""
        script = folder / f"{Path(path).name}-{self.namespace}"
        script.write_text(f'#!/bin/sh\nexec {" ".join(self.command(path))} "$@"\n')
        script.chmod(0o755)
        return str(script)

    @contextmanager
    def door(self, port: int) -> Iterator[None]:
        """What connects to 127.0.0.1:`port` at the far end is connected to 127.0.0.1:`port` here."""
        listening = at(self.namespace, lambda: socket.create_server(("127.0.0.1", port)))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(passing(listening, port),), daemon=True)
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
            thread.join()
            loop.close()


@contextmanager
def line(weather: Weather) -> Iterator[Line]:
    """A line with that weather; NoLineError where none can be made. One of a process at a time."""
    if reason := hindrance():
        raise NoLineError(reason)
    name = f"lb{os.getpid()}"
    block = 16 * (os.getpid() % 8192)  # addresses
    base = f"198.{18 + block // 65536}.{block // 256 % 256}."
    outside, left, right, inside = (f"{base}{block % 256 + k}" for k in (1, 2, 5, 6))
    with ExitStack() as stack:
        for end in "mf":
            run("ip", "netns", "add", name + end)
            stack.callback(run, "ip", "netns", "del", name + end)
        pair(None, name + "a", name + "m", name + "b")
        stack.callback(subprocess.run, ["ip", "link", "del", name + "a"], capture_output=True)
        pair(name + "m", name + "c", name + "f", name + "d")
        far = Line(name + "f", inside, outside)
        run(*far.command("ip", "link", "set", "lo", "up"))
        if weather.relayed:
            stack.enter_context(relaying(name, far, weather))
        else:
            routed(name, far, left, right, weather)
        yield far


def pair(here: str | None, one: str, there: str, other: str) -> None:
    """Two interfaces that are connected, both up. Without IPv6, whose addresses are there two seconds later only: to
    Chromium the network has changed then, and it drops what it loads."""
    where, far = ["-n", here] if here else [], ["-n", there]
    run("ip", *where, "link", "add", one, "type", "veth", "peer", "name", other, "netns", there)
    for place, device in ((where, one), (far, other)):
        run("ip", *place, "link", "set", device, "addrgenmode", "none", "up")


def routed(name: str, far: Line, left: str, right: str, weather: Weather) -> None:
    """The middle is a router whose nft drops packets."""
    middle = name + "m"
    for where, device, address in ((None, "a", far.outside), (middle, "b", left), (middle, "c", right),
                                   (far.namespace, "d", far.inside)):  # fmt: skip
        run("ip", *(["-n", where] if where else []), "address", "add", f"{address}/30", "dev", name + device)
    inside = ["nsenter", f"--net={NETNS / middle}"]
    run(*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    run(*inside, "nft", "-f", "-", text=dropping(weather.loss))
    run("ip", "route", "add", f"{far.inside}/32", "via", left)
    run("ip", "-n", far.namespace, "route", "add", "default", "via", right)


@contextmanager
def relaying(name: str, far: Line, weather: Weather) -> Iterator[None]:
    """The middle is no more than a wire, held by `tools.relay`."""
    middle = name + "m"
    run("ip", "address", "add", f"{far.outside}/29", "dev", name + "a")
    run("ip", "-n", far.namespace, "address", "add", f"{far.inside}/29", "dev", name + "d")
    run("ip", "-n", far.namespace, "route", "add", "default", "via", far.outside)
    whole(name + "a")
    at(far.namespace, lambda: whole(name + "d"))
    asked = json.dumps({"left": name + "b", "right": name + "c", **asdict(weather)})
    process = subprocess.Popen(  # noqa: S603 (ourselves)
        ["nsenter", f"--net={NETNS / middle}", sys.executable, "-m", "tools.relay", asked], cwd=ROOT,  # noqa: S607
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        if not process.stdout.readline():
            raise NoLineError(f"the relay ended with exit code {process.wait()} before it began")
        yield
    finally:
        process.stdin.close()  # ends it
        process.wait(5)
        process.stdout.close()


def whole(device: str) -> None:
    """Packets leave with their checksums: a veth leaves them out, and the relay's raw sockets would pass that on."""
    value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def at(namespace: str, work: Callable[[], T]) -> T:
    """What `work` returns, done by a thread of that namespace: its sockets stay there."""
    found: list[T] = []
    failed: list[OSError] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with (NETNS / namespace).open() as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                failed.append(OSError(ctypes.get_errno(), f"setns to {namespace}"))
                return
        try:
            found.append(work())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        raise NoLineError(f"nothing can be done at the far end: {failed[0]}") from failed[0]
    return found[0]


async def passing(listening: socket.socket, port: int) -> None:
    """Hands every connection on to 127.0.0.1:`port`, until it is cancelled."""

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(copied(reader, back), copied(there, writer))
        except OSError:
            writer.close()

    server = await asyncio.start_server(hand_on, sock=listening)
    try:
        await server.serve_forever()
    except asyncio.CancelledError:
        server.close()


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
