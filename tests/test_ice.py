"""Ports, public addresses, STUN and TURN: what a peer is told of the way to the server, and that it holds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import inspect
import random
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aioice
import pytest
from aioice.ice import get_host_addresses
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport
from rtc_client import Client
from test_rtc import Mirror, numbered
from test_serve import refused
from waiting import until
from webrig import served
from whip_client import calling, candidates_of

from web.auth import SDP
from web.errors import ServeError
from web.media.connection import LiveConnection
from web.media.ice import Agent, Credentials, PortsError, RestartError, bound
from web.network import Network, credentials, ports
from web.rtc import Peer

ADDRESSES = get_host_addresses(use_ipv4=True, use_ipv6=False)
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not ADDRESSES, reason="aiortc needs an address besides the loopback"),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# ------------------------------------------------------------------------------------------------- the library

# What web/media/ice.py was written against: where one of these changes, read it again before noting the new digest
SOURCES = {
    "Connection.__init__": "a99ae9c97fc6",
    "Connection.gather_candidates": "d33db28d4d1e",
    "Connection.get_component_candidates": "118597a9fcb7",
    "Connection.connect": "da51be461901",
    "Connection.close": "25dcfac536f5",
    "Connection.recvfrom": "676acc01e4a9",
    "Connection.sendto": "bf162ec03bdc",
    "Connection.data_received": "5631b17fab71",
    "Connection.protocol_lost": "447ed44956b6",
    "Connection.request_received": "dcdc9a3862c1",
    "RTCIceGatherer.__init__": "a0d775c34992",
    "RTCIceTransport.__init__": "b11403aba1c3",
    "RTCIceTransport.start": "54279d028c0e",
    "RTCIceTransport.stop": "21ec0a44c16c",
    "RTCIceTransport._monitor": "f74bb1193339",
}
OWNERS = {owner.__name__: owner for owner in (aioice.Connection, RTCIceGatherer, RTCIceTransport)}


def digest(name: str) -> str:
    owner, attribute = name.split(".")
    return hashlib.sha256(inspect.getsource(getattr(OWNERS[owner], attribute)).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", SOURCES)
def test_the_library_is_as_it_was(name: str) -> None:
    assert digest(name) == SOURCES[name], f"{name} has changed: read web/media/ice.py against it, note {digest(name)}"


# ------------------------------------------------------------------------------------------------- ports


def free_ports(count: int) -> range:
    """So many ports in a row that nobody uses."""
    for _ in range(100):
        low = random.randrange(40_000, 60_000)  # other tests look for some at the same time
        try:
            for port in range(low, low + count):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                    one.bind(("", port))
        except OSError:
            continue
        return range(low, low + count)
    raise AssertionError("no free ports")


@asynccontextmanager
async def answered(network: Network) -> AsyncIterator[tuple[Mirror, Client]]:
    """A client and what answered it."""
    client, mirror = Client(numbered, candidates=False), Mirror()

    async def exchange(sdp: str) -> str:
        mirror.peer, answer = await Peer.answer(
            sdp, receive=mirror._show, pictures=mirror.pictures, control=mirror.control,
            on_closed=mirror.closed.append, network=network,
        )  # fmt: skip
        mirror.answered = answer
        return answer

    async with client:
        try:
            await client.connect(exchange)
            yield mirror, client
        finally:
            if mirror.peer is not None:
                await mirror.peer.close()


async def test_media_come_in_at_the_ports_of_the_range() -> None:
    allowed = free_ports(3)
    async with answered(Network(ports=allowed)) as (mirror, client):
        await until(lambda: mirror.frames)
        told = candidates_of(mirror.answered)
        assert told
        assert {c.port for c in told} <= set(allowed)
        agent = client.connection.ice._open()[0]._connection
        assert agent._nominated[1].remote_addr[1] in allowed


async def test_a_range_that_is_used_up_says_so_and_is_free_again_afterwards() -> None:
    allowed = free_ports(1)
    async with answered(Network(ports=allowed)):
        with pytest.raises(
            PortsError, match=rf"UDP ports {allowed[0]} to {allowed[0]} of .* are all taken: give --udp"
        ):
            async with answered(Network(ports=allowed)):
                raise AssertionError("there was a port")
    async with answered(Network(ports=allowed)) as (mirror, _):
        await until(lambda: mirror.frames)


async def test_without_a_free_port_an_offer_is_answered_with_503() -> None:
    allowed = free_ports(1)
    with served(real=True, network=Network(ports=allowed)) as server:
        client = Client(numbered, codec="H264", control=False, watch=False)
        async with calling(server.url, "/whip/live", client) as publisher:
            assert (await publisher.restart()).status_code == 503
            live = server.house.sessions.find("live")
            await until(lambda: live.stats("webrtc").fps_in > 0)  # it goes on as it was
            other = Client(codec="H264", control=False)
            sdp = await other.offer()
            await other.close()
            answer = server.http.post("/whep/live", content=sdp, headers={"Content-Type": SDP})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            assert "all taken" in answer.json()["error"]


def test_every_port_of_a_range_is_tried_and_other_errors_are_told() -> None:
    allowed = free_ports(4)
    held = [bound(ADDRESSES[0], allowed) for _ in allowed]
    try:
        assert sorted(one.getsockname()[1] for one in held) == list(allowed)
        with pytest.raises(PortsError):
            bound(ADDRESSES[0], allowed)
    finally:
        for one in held:
            one.close()
    with pytest.raises(OSError, match="assign"):
        bound("192.0.2.1", allowed)


@pytest.mark.parametrize(("text", "expected"), [("50000-50100", range(50000, 50101)), ("50000", range(50000, 50001))])
def test_ranges_of_ports(text: str, expected: range) -> None:
    assert ports(text) == expected


@pytest.mark.parametrize("text", ["", "-", "x-y", "1-2", "50100-50000", "50000-70000", "50000-", "²-³", "9" * 5000])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(ServeError, match=r"write e\.g\. 50000-50100"):
        ports(text)


# ------------------------------------------------------------------------------------------------- addresses


async def test_a_public_address_is_told_beside_the_own_ones() -> None:
    async with answered(Network(public_ip="203.0.113.7")) as (mirror, _):
        await until(lambda: mirror.frames)
        told = candidates_of(mirror.answered)
        hosts = {c.port: c for c in told if c.type == "host"}
        public = [c for c in told if c.type == "srflx"]
        assert public
        for candidate in public:
            own = hosts[candidate.port]
            assert (candidate.host, candidate.related_address) == ("203.0.113.7", own.host)
            assert candidate.priority < own.priority


class Stun(asyncio.DatagramProtocol):
    """A STUN server that sees everybody at 198.51.100.9."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        asked = aioice.stun.parse_message(data)
        answer = aioice.stun.Message(asked.message_method, aioice.stun.Class.RESPONSE, asked.transaction_id)
        answer.attributes["XOR-MAPPED-ADDRESS"] = ("198.51.100.9", address[1])
        self._transport.sendto(bytes(answer), address)  # type: ignore[attr-defined]


async def test_a_stun_server_is_asked() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Stun, local_addr=(ADDRESSES[0], 0))
    try:
        host, port = transport.get_extra_info("sockname")
        agent = Agent(Network((f"stun:{host}:{port}",)), lambda: None)
        await agent.gather_candidates()
        assert {c.host for c in agent.local_candidates if c.type == "srflx"} == {"198.51.100.9"}
        await agent.close()
    finally:
        transport.close()


async def test_a_server_that_does_not_answer_is_left_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.media.ice.GATHER_S", 0.2)
    with bound(ADDRESSES[0], range(1)) as silent:
        host, port = silent.getsockname()
        agent = Agent(Network((f"stun:{host}:{port}",)), lambda: None)
        async with asyncio.timeout(2):
            await agent.gather_candidates()
        assert {c.type for c in agent.local_candidates} == {"host"}
        await agent.close()


async def test_nobody_is_asked_unless_told() -> None:
    connection = LiveConnection()
    connection.addTransceiver("video")
    agent = connection.ice._agents()[0]
    assert agent.stun_server is agent.turn_server is None
    await connection.close()


async def test_what_comes_once_all_is_closed_is_refused() -> None:
    async with answered(Network()) as (mirror, _):
        assert mirror.peer is not None
        ice = mirror.peer.ice
        assert ice.remote is not None
    assert ice.remote is None
    await ice.trickle([aioice.Candidate.from_sdp("1 1 udp 1 192.0.2.1 5000 typ host")])
    with pytest.raises(RestartError, match="0 transports are open"):
        await ice.restart(Credentials("abcd", "x" * 22))


# ------------------------------------------------------------------------------------------------- TURN


def test_credentials_follow_the_formula() -> None:
    """draft-uberti-behave-turn-rest section 2.2: base64(HMAC-SHA1(secret, "expiry:user"))."""
    name, password = credentials("north", "livebrush", 1_700_000_000.9)
    assert name == "1700000000:livebrush"
    assert password == base64.b64encode(hmac.digest(b"north", name.encode(), hashlib.sha1)).decode()
    (server,) = Network(turn=("turn:example.org",), turn_secret="north", clock=lambda: 1000.0).servers("me")
    assert server.username == "4600:me"
    assert "north" not in repr(Network(turn=("turn:example.org",), turn_secret="north"))


def test_the_page_is_told_of_the_servers() -> None:
    network = Network(("stun:a:3478",), ("turn:b?transport=udp", "turns:b:443?transport=tcp"), "north")
    with served(network=network) as server:
        stun, turn = server.http.get("/api/ice").json()["iceServers"]
        assert stun == {"urls": ["stun:a:3478"]}
        assert turn["urls"] == ["turn:b?transport=udp", "turns:b:443?transport=tcp"]
        made = hmac.digest(b"north", turn["username"].encode(), hashlib.sha1)
        assert base64.b64decode(turn["credential"]) == made
    with served() as server:
        assert server.http.get("/api/ice").json() == {"iceServers": []}


@pytest.mark.parametrize(("words", "told"), [
    (["--turn", "turn:b"], "set LIVEBRUSH_TURN_SECRET"),
    (["--turn", "http:b", "--turn-secret", "x"], "turn server 'http:b' is none: write turn:host:3478"),
    (["--turn", "turn:b?transport=sctp", "--turn-secret", "x"], "is none: write turn:host:3478"),
    (["--stun", "a:3478"], "stun server 'a:3478' is none"),
    (["--stun", 'stun:a">'], "is none"),
    (["--public-ip", "example.org"], "is no IPv4 address"),
    (["--public-ip", "127.0.0.1"], "is none that others can send to"),
    (["--udp-ports", "x"], "write e.g. 50000-50100"),
])  # fmt: skip
def test_options_that_cannot_be(words: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEBRUSH_TURN_SECRET", raising=False)
    assert told in refused(*words)


@contextmanager
def coturn(folder: Path, secret: str) -> Iterator[str]:
    """A TURN server at an address of this machine: its URL."""
    (port,), relays = free_ports(1), free_ports(8)
    words = ["-n", "--use-auth-secret", f"--static-auth-secret={secret}", "--realm=livebrush", "--no-tls", "--no-dtls",
             f"--listening-port={port}", f"--listening-ip={ADDRESSES[0]}", f"--relay-ip={ADDRESSES[0]}", "--no-cli",
             f"--min-port={relays[0]}", f"--max-port={relays[-1]}", f"--userdb={folder}/db", f"--pidfile={folder}/pid",
             "--log-file=stdout"]  # fmt: skip
    process = subprocess.Popen(["turnserver", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"turn:{ADDRESSES[0]}:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn is not installed")
async def test_coturn_takes_the_credentials_and_pictures_go_through_it(tmp_path: Path) -> None:
    with coturn(tmp_path, "north") as url:
        await asyncio.to_thread(until_open, url)
        wrong = Agent(Network(turn=(url,), turn_secret="south"), lambda: None)
        await wrong.gather_candidates()
        assert "relay" not in {c.type for c in wrong.local_candidates}
        await wrong.close()
        network = Network(turn=(url,), turn_secret="north")
        mirror = Mirror()
        client = Client(numbered)  # with candidates: a relay lets in only whom it was told of

        async def relayed_only(sdp: str) -> str:
            mirror.peer, answer = await Peer.answer(
                sdp, receive=mirror._show, pictures=mirror.pictures, control=mirror.control,
                on_closed=mirror.closed.append, network=network,
            )  # fmt: skip
            lines = answer.splitlines(keepends=True)
            return "".join(line for line in lines if "candidate:" not in line or " typ relay" in line)

        async with client:
            try:
                await client.connect(relayed_only)
                await until(lambda: len(mirror.frames) > 10)
            finally:
                assert mirror.peer is not None
                await mirror.peer.close()


def until_open(url: str) -> None:
    """Waits until a TURN server answers over TCP."""
    _, host, port = url.split(":")
    for _ in range(200):
        try:
            socket.create_connection((host, int(port)), 0.1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("coturn did not start")
