"""WHIP in and WHEP out over the whole server, with own clients that send no candidates, as OBS does."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from aioice.ice import get_host_addresses
from aiortc import AudioStreamTrack
from rtc_client import Client
from test_rtc import SIDE, number_of, numbered
from waiting import until
from webrig import FakeSupervisor, Served, served
from whip_client import calling, candidates_of

from stream.config import ModelSpec
from stream.frame import Frame
from stream.settings import Settings
from web import publishing
from web.auth import FRAGMENT, SDP
from web.config import Access
from web.errors import RefusalError
from web.fragment import Fragment
from web.media.ice import CANDIDATES
from web.network import Network

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not get_host_addresses(use_ipv4=True, use_ipv6=True), reason="aiortc needs an address besides the loopback"
    ),
]

UFRAG, PASSWORD = "abcd", "x" * 22
CREDENTIALS = f"a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PASSWORD}\r\n"
CANDIDATE = "a=candidate:1 1 udp 2130706431 {} 50000 typ host\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def worker() -> FakeSupervisor:
    """Paints the negative, as large as the pictures that tell their number."""
    spec = ModelSpec("fake", "fake", settings=Settings.checked(width=SIDE, height=SIDE))
    return FakeSupervisor(spec, paints=True)


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    network = Network(("stun:127.0.0.1:9",), ("turn:127.0.0.1:9?transport=udp",), "secret", public_ip="192.0.2.7")
    with served(real=True, worker=worker(), limit=4, network=network) as server:
        yield server


@pytest.fixture
def server(running: Served) -> Iterator[Served]:
    yield running
    running.empty()


def obs() -> Client:
    """Publishes as OBS does."""
    return Client(numbered, codec="H264", candidates=False, control=False, watch=False)


def viewer() -> Client:
    return Client(codec="H264", candidates=False, control=False)


def unpainted(frame: Frame) -> int:
    """The number of the picture that the fake worker made the negative of."""
    return number_of(255 - frame.image)


async def standing_still(client: Client) -> int:
    """The number of the picture that is sent again and again."""
    numbers = [unpainted(await client.next()) for _ in range(3)]
    async with asyncio.timeout(5):
        while len(set(numbers[-3:])) > 1:
            numbers.append(unpainted(await client.next()))
    return numbers[-1]


async def offer(client: Client) -> str:
    try:
        return await client.offer()
    finally:
        await client.close()


# ------------------------------------------------------------------------------------------- a publisher and viewers


async def test_one_publishes_and_two_watch(server: Served) -> None:
    async with calling(server.url, "/whip/live", obs()) as publisher:
        answer = publisher.answer
        assert answer is not None
        assert answer.headers["content-type"] == SDP
        assert re.fullmatch(r"/whip/live/[\w-]{22}", answer.headers["location"])
        assert re.fullmatch(r'"\w{16}"', answer.headers["etag"])
        assert answer.headers["accept-patch"] == FRAGMENT
        assert "a=recvonly" in answer.text
        async with (
            calling(server.url, "/whep/live", viewer()) as one,
            calling(server.url, "/whep/live", viewer()) as two,
        ):
            assert one.place != two.place
            assert one.answer is not None
            assert "a=sendonly" in one.answer.text
            await until(lambda: min(len(one.client.frames), len(two.client.frames)) > 30)
            for seen in (one.client, two.client):
                numbers = [unpainted(frame) for _, frame in seen.frames[5:]]
                assert numbers == sorted(numbers)
                assert len(set(numbers)) > 10
            listed = server.http.get("/api/sessions").json()["sessions"]
            assert [(s["name"], s["source"], s["viewers"], s["publishing"]) for s in listed] == [
                ("live", "whip", 2, True)
            ]
            assert (await one.hang_up()).status_code == 200
            assert server.http.get("/api/sessions").json()["sessions"][0]["viewers"] == 1
            assert (await one.hang_up()).status_code == 404


class Ear:
    """A `Feed` that writes down."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def put(self, data: bytes, _ticks: int, _captured_at: float) -> None:
        self.packets.append(data)


async def test_sound_goes_through_with_the_picture(server: Served) -> None:
    publishes, watches, ear = obs(), viewer(), Ear()
    publishes.connection.addTransceiver(AudioStreamTrack(), "sendonly")
    watches.connection.addTransceiver("audio", "recvonly")
    watches.connection.audio()[0][2].bring(ear, None)  # type: ignore[arg-type]
    async with calling(server.url, "/whip/sound", publishes), calling(server.url, "/whep/sound", watches) as watching:
        assert watching.answer is not None
        assert watching.answer.text.count("a=sendonly") == 2
        await until(lambda: len(ear.packets) > 20 and len(watches.frames) > 20)


async def test_links_tell_of_stun_and_turn(server: Served) -> None:
    async with calling(server.url, "/whip", obs()) as publisher:
        assert publisher.answer is not None
        stun, turn = publisher.answer.headers.get_list("link")
        assert stun == '<stun:127.0.0.1:9>; rel="ice-server"'
        wanted = r'<turn:127\.0\.0\.1:9\?transport=udp>; rel="ice-server"; username="\d+:livebrush"; '
        assert re.fullmatch(wanted + r'credential="[\w+/=]{28}"; credential-type="password"', turn)
        assert {c.type for c in candidates_of(publisher.answer.text)} >= {"host", "srflx"}


async def test_a_publisher_that_comes_back_finds_settings_and_viewers(server: Served) -> None:
    async with calling(server.url, "/whip/stage", obs()):
        changed = server.http.patch("/api/sessions/stage", json={"settings": {"prompt": "ink"}}).json()
        assert changed["settings"]["prompt"] == "ink"
        again = server.http.post("/whip/stage", content=await offer(obs()), headers={"Content-Type": SDP})
        assert (again.status_code, again.headers["retry-after"]) == (409, "10")
        async with calling(server.url, "/whep/stage", viewer()) as watching:
            await watching.client.next()
            session_ = server.house.sessions.find("stage")
            publisher = session_.publishing.by
            assert publisher is not None
            place = f"/whip/stage/{publisher.id}"
            assert server.http.delete(place).status_code == 200
            facts = server.http.get("/api/sessions/stage").json()
            assert facts["notice"] == "nobody publishes to /whip/stage; the session ends after 60 s without"
            assert (facts["state"], facts["viewers"]) == ("painting", 1)
            last = await standing_still(watching.client)
            async with calling(server.url, "/whip/stage", obs()):
                await until(lambda: unpainted(watching.client.frames[-1][1]) != last)
                facts = server.http.get("/api/sessions/stage").json()
                assert (facts["notice"], facts["settings"]["prompt"]) == ("", "ink")


async def test_a_session_goes_with_its_publisher_unless_it_was_made_to_stand(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "LINGER_S", 0.3)
    made = server.http.put("/api/sessions/stands", json={"settings": {"prompt": "oil"}})
    assert (made.status_code, made.json()["source"]) == (201, "whip")
    assert made.json()["notice"] == "nobody publishes to /whip/stands"
    for name in ("passes", "stands"):
        async with calling(server.url, f"/whip/{name}", obs()):
            assert server.house.sessions.standing[name].publishing.by is not None
    await until(lambda: "passes" not in server.house.sessions.standing)
    assert server.house.sessions.standing["stands"].settings.prompt == "oil"
    async with calling(server.url, "/whip/kept", obs()):
        pass
    assert server.http.put("/api/sessions/kept", json={}).status_code == 200
    await asyncio.sleep(0.4)
    assert "kept" in server.house.sessions.standing


async def test_the_pages_of_a_session_hear_that_its_publisher_left(server: Served) -> None:
    page = Client(codec="H264")
    async with calling(server.url, "/whip/told", obs()), page, httpx.AsyncClient(base_url=server.url) as http:

        async def exchange(sdp: str) -> str:
            asked = {"sdp": sdp, "type": "offer", "control": True}
            return (await http.post("/api/sessions/told/viewers", json=asked)).json()["sdp"]  # type: ignore[no-any-return]

        await page.connect(exchange)
        assert (await page.heard("hello"))["notice"] == ""
        page.send({"type": "settings", "id": 1, "changes": {"prompt": "chalk"}})
        assert (await page.heard("settings"))["settings"]["prompt"] == "chalk"
        publisher = server.house.sessions.find("told").publishing.by
        assert publisher is not None
        await http.delete(f"/whip/told/{publisher.id}")
        assert "nobody publishes" in (await page.heard("state"))["notice"]


# ------------------------------------------------------------------------------------------- what is refused


async def test_statuses_of_the_endpoints(server: Served) -> None:
    sends, watches = await offer(obs()), await offer(viewer())
    http, kind = server.http, {"Content-Type": SDP}
    for path in ("/whip", "/whip/live", "/whep/live"):
        for method in ("GET", "HEAD", "PUT"):
            assert http.request(method, path).status_code in (405, 415), (method, path)
        assert http.get(path).status_code == 405
        options = http.options(path)
        assert (options.status_code, options.headers["accept-post"]) == (200, SDP)
        assert http.post(path, json={"sdp": sends}).status_code == 415
        assert http.post(path, content=b"\xff\xfe", headers=kind).status_code == 400
        assert http.post(path, content=sends, headers=kind | {"Accept": "text/html"}).status_code == 406
        assert http.post(path, content="x" * 70_000, headers=kind).status_code == 413
        assert not server.house.sessions.standing
    for text in ("", "hello", "v=0\r\n", watches):
        answer = http.post("/whip/live", content=text, headers=kind)
        assert answer.status_code == 422
        assert "sends no video" in answer.json()["error"]
    broken = sends.replace("UDP/TLS/RTP/SAVPF 9", "UDP/TLS/RTP/SAVPF x")
    assert http.post("/whip/live", content=broken, headers=kind).status_code == 400
    assert http.post("/whip/No Name", content=sends, headers=kind).status_code == 422
    assert not server.house.sessions.standing, "nobody came, nothing stays"
    absent = http.post("/whep/nobody", content=watches, headers=kind)
    assert (absent.status_code, absent.headers["retry-after"]) == (409, "5")
    assert http.post("/whep/NOBODY", content=watches, headers=kind).status_code == 404


async def test_a_session_with_another_source_takes_no_publisher(server: Served) -> None:
    server.call(server.house.sessions.stand, "other", "screen")
    answer = server.http.post("/whip/other", content=await offer(obs()), headers={"Content-Type": SDP})
    assert answer.status_code == 409
    assert "takes its picture from screen" in answer.json()["error"]
    assert server.http.put("/api/sessions/other", json={"source": "whip"}).status_code == 409


async def test_there_are_as_many_publishers_as_places(server: Served) -> None:
    for number in range(4):
        server.call(server.house.sessions.stand, f"s{number}", "whip")
    answer = server.http.post("/whip/more", content=await offer(obs()), headers={"Content-Type": SDP})
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)


async def test_offers_are_counted() -> None:
    with served(real=True, offers_per_minute=2) as server:
        sdp = await offer(viewer())

        def asked() -> httpx.Response:
            return server.http.post("/whep/x", content=sdp, headers={"Content-Type": SDP})

        assert [asked().status_code for _ in range(4)] == [409] * 4, "who waits for a publisher offers nothing yet"
        server.http.put("/api/sessions/x", json={"source": "whip"})
        statuses = [asked() for _ in range(3)]
        assert [s.status_code for s in statuses] == [201, 201, 429]
        assert "retry-after" in statuses[-1].headers


async def test_standing_sessions_are_checked(server: Served) -> None:
    for name, body, status in [
        ("No", {}, 422),
        ("x" * 33, {}, 422),
        ("a", {"source": "server"}, 422),
        ("a", {"source": "page"}, 422),
        ("a", {"settings": {"prompt": 3}}, 422),
        ("a", {"sauce": "whip"}, 422),
    ]:
        answer = server.http.put(f"/api/sessions/{name}", json=body)
        assert (answer.status_code, bool(answer.json()["error"])) == (status, True), (name, body)
    assert not server.house.sessions.standing


# ------------------------------------------------------------------------------------------- what follows an offer


async def test_statuses_of_a_session_resource(server: Served) -> None:
    async with calling(server.url, "/whip/live", obs()) as publisher:
        place = publisher.place
        for method in ("GET", "HEAD"):
            assert server.http.request(method, place).status_code == 405
        for method in ("POST", "PUT"):
            headers = {"Content-Type": FRAGMENT}
            assert server.http.request(method, place, content=CREDENTIALS, headers=headers).status_code == 405
        options = server.http.options(place)
        assert (options.status_code, options.headers["accept-patch"]) == (200, FRAGMENT)
        assert (await publisher.patch(CREDENTIALS, "*", SDP)).status_code == 415
        assert (await publisher.patch("", None)).status_code == 428
        assert (await publisher.patch("", '"of before"')).status_code == 412
        assert (await publisher.patch("", f"W/{publisher.etag}")).status_code == 412, "weak tags match nothing"
        taken = await publisher.patch(CANDIDATE.format("192.0.2.1"), f'"x", {publisher.etag}')
        assert (taken.status_code, taken.content, "etag" in taken.headers) == (204, b"", False)
        for other in (place[:-1] + ("a" if place[-1] != "a" else "b"), "/whip/other/" + place.rsplit("/", 1)[1]):
            assert server.http.delete(other).status_code == 404
            patched = server.http.patch(other, content="", headers={"Content-Type": FRAGMENT, "If-Match": "*"})
            assert patched.status_code == 404
        assert (await publisher.patch("", publisher.etag)).status_code == 204, "all that was no harm"


async def test_trickled_candidates_are_tried(server: Served) -> None:
    async with calling(server.url, "/whip/live", obs()) as publisher:
        link: Any = server.house.sessions.find("live").publishing.by.link  # type: ignore[union-attr]
        agent = link.ice._agents()[0]
        useless = ["6b8a.local", "224.0.0.1", "0.0.0.0", "fe80::1%eth0"]
        tcp = CANDIDATE.format("192.0.2.3").replace("udp", "tcp")
        text = "".join(CANDIDATE.format(host) for host in ("192.0.2.2", *useless)) + tcp
        assert (await publisher.patch(text + "a=end-of-candidates\r\n", publisher.etag)).status_code == 204
        assert [c.host for c in agent.remote_candidates if c.type != "prflx"] == ["192.0.2.2"]
        many = "".join(CANDIDATE.format(f"198.51.100.{k}") for k in range(1, CANDIDATES + 1))
        assert (await publisher.patch(many, publisher.etag)).status_code == 422


MALFORMED = [
    "a=candidate:1 1 udp",
    "a=candidate:1 1 udp x 192.0.2.1 50000 typ host",
    "a=candidate:1 1 udp 1 192.0.2.1 99999 typ host",
    "a=candidate:1 1 udp 1 192.0.2.1 0 typ host",
    "a=candidate:1 1 udp 99999999999 192.0.2.1 50000 typ host",
    "a=candidate:1 x udp 1 192.0.2.1 50000 typ host",
    "a=candidate:1 1 udp 1 192.0.2.1 50000 typ host generation x",
    "a=ice-ufrag:abc\r\na=ice-pwd:" + PASSWORD,
    "a=ice-ufrag:abcd",
    "a=ice-pwd:" + PASSWORD,
    "a=ice-ufrag:abcd\r\na=ice-pwd:short",
    "a=ice-ufrag:ab cd\r\na=ice-pwd:" + PASSWORD,
    "a=ice-ufrag:" + "a" * 257 + "\r\na=ice-pwd:" + PASSWORD,
    "a=ice-ufrag:abcd\r\na=ice-ufrag:efgh\r\na=ice-pwd:" + PASSWORD,
    "hello",
    "{}",
    "a=x\r\n" * 501,
]


async def test_malformed_fragments_are_refused(server: Served) -> None:
    async with calling(server.url, "/whip/live", obs()) as publisher:
        for text in MALFORMED:
            answer = await publisher.patch(text, publisher.etag)
            assert answer.status_code == 400, text
            assert "RFC 8840" in answer.json()["error"]
        raw = {"Content-Type": FRAGMENT, "If-Match": "*"}
        assert server.http.patch(publisher.place, content=b"a=\xff\xfe", headers=raw).status_code == 400
        await until(lambda: server.house.sessions.find("live").stats("webrtc").fps_in > 0)


def status(text: str) -> int:
    """What a fragment is answered."""
    try:
        Fragment.parse(text.encode())
    except RefusalError as error:
        return error.status
    return 204


def test_no_fragment_raises_anything_else() -> None:
    chance = random.Random(9725)
    whole = CREDENTIALS + "m=video 9 RTP/AVP 0\r\na=mid:0\r\n" + CANDIDATE.format("192.0.2.1") * 3
    parts = ["", "\n", " ", "\0", "9" * 30, "é", "=", "a=candidate:"]
    statuses = []
    for _ in range(2000):
        text = list(whole)
        for _ in range(chance.randrange(1, 8)):
            at = chance.randrange(len(text))
            text[at : at + chance.randrange(4)] = chance.choice(parts)
        statuses.append(status("".join(text)))
    assert set(statuses) == {204, 400}
    assert 200 < statuses.count(400) < 2000


# ------------------------------------------------------------------------------------------- ICE restarts


@pytest.mark.parametrize("cut", [False, True])
async def test_ice_restarts_with_new_sockets_and_the_picture_goes_on(server: Served, cut: bool) -> None:
    async with (
        calling(server.url, "/whip/live", obs()) as publisher,
        calling(server.url, "/whep/live", viewer()) as watching,
    ):
        await watching.client.next()
        for caller in (publisher, watching):
            before = caller.etag
            first = caller.client.connection.ice._open()[0]._connection
            answer = await caller.restart(cut=cut)
            assert (answer.status_code, answer.headers["content-type"]) == (200, FRAGMENT)
            assert before != caller.etag == answer.headers["etag"]
            told = Fragment.parse(answer.content)
            assert told.credentials is not None
            assert any(c.type == "host" for c in told.candidates)
            assert (await caller.patch("", before)).status_code == 412
            ice = caller.client.connection.ice
            await until(lambda ice=ice, first=first: ice._open()[0]._connection is not first)
            await until(lambda first=first: not first._protocols)  # its sockets are closed
            seen = unpainted(watching.client.frames[-1][1])
            await until(lambda seen=seen: unpainted(watching.client.frames[-1][1]) > seen + 10)
        live = server.house.sessions.find("live")
        links: list[Any] = [live.publishing.by.link, *(p.link for p in live.viewers.values())]  # type: ignore[union-attr]
        await until(lambda: all(link.ice._following.done() for link in links))
        for link in links:
            assert link.state == "connected"
            assert len(link.ice._open()[0]._connection._nominated) == 1


async def test_a_restart_that_nobody_follows_changes_nothing(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.media.ice.RESTART_S", 0.3)
    async with (
        calling(server.url, "/whip/live", obs()) as publisher,
        calling(server.url, "/whep/live", viewer()) as watching,
    ):
        link: Any = server.house.sessions.find("live").publishing.by.link  # type: ignore[union-attr]
        first = link.ice._agents()[0]
        for ufrag in ("n3w+", "n3w/"):  # the second while the first is under way
            assert (await publisher.patch(CREDENTIALS.replace(UFRAG, ufrag), "*")).status_code == 200
        await until(lambda: link.ice._following.done())
        assert link.ice._agents() == [first]
        seen = len(watching.client.frames)
        await until(lambda: len(watching.client.frames) > seen + 10)
        assert (await publisher.restart()).status_code == 200


# ------------------------------------------------------------------------------------------- as OBS does


OBS = """v=0
o=rtc 3767197920 0 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1
a=group:LS 0 1
a=msid-semantic:WMS *
a=ice-options:ice2,trickle
a=fingerprint:sha-256 {fingerprint}
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=mid:0
a=sendonly
a=ssrc:1 cname:obs
a=ssrc:1 msid:obs obs-audio
a=msid:obs obs-audio
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;maxaveragebitrate=96000;stereo=1;sprop-stereo=1;useinbandfec=1
a=setup:actpass
a=ice-ufrag:wOIP
a=ice-pwd:1NGV6xMPRDwHwfAPc4Hrr4
m=video 9 UDP/TLS/RTP/SAVPF 96
c=IN IP4 0.0.0.0
a=mid:1
a=sendonly
{ssrcs}a=msid:obs obs-video
a=rtcp-mux
a=rtpmap:96 H264/90000
a=rtcp-fb:96 nack
a=rtcp-fb:96 nack pli
a=rtcp-fb:96 goog-remb
a=fmtp:96 profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1
a=setup:actpass
a=ice-ufrag:wOIP
a=ice-pwd:1NGV6xMPRDwHwfAPc4Hrr4
"""
ONE = "a=ssrc:2 cname:obs\na=ssrc:2 msid:obs obs-video\n"
THREE = "a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\na=extmap:2 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\n" + (
    "a=rid:0 send\na=rid:1 send\na=rid:2 send\na=simulcast:send 0;1;2\n"
)
FINGERPRINT = ":".join(["AB"] * 32)


@pytest.mark.parametrize("ssrcs", [ONE, THREE], ids=["one", "simulcast"])
async def test_an_offer_like_that_of_obs_is_answered(server: Served, ssrcs: str) -> None:
    sdp = OBS.format(fingerprint=FINGERPRINT, ssrcs=ssrcs).replace("\n", "\r\n")
    answer = server.http.post("/whip/live", content=sdp, headers={"Content-Type": SDP, "Accept": "*/*"})
    assert answer.status_code == 201, answer.text
    audio, video = answer.text.split("\r\nm=")[1:]
    assert "opus/48000/2" in audio
    assert "H264/90000" in video
    assert "a=recvonly" in audio
    assert "a=recvonly" in video
    assert "simulcast" not in video
    assert "a=candidate:" in audio
    assert "m=application" not in answer.text
    assert server.http.delete(answer.headers["location"]).status_code == 200


async def test_one_of_several_sizes_is_taken_where_a_publisher_simulcasts_unasked(server: Served) -> None:
    chance = random.Random(8853)
    client = obs()
    async with calling(server.url, "/whip/live", client):
        dtls = client.transceiver.sender.transport
        send = dtls._send_rtp

        async def twice(data: bytes) -> None:
            await send(data)
            if data[1] & 0x7F not in range(64, 96):  # no RTCP
                ssrc = (int.from_bytes(data[8:12]) ^ 1).to_bytes(4)
                number = (int.from_bytes(data[2:4]) + 1 & 0xFFFF).to_bytes(2)
                kept = 16 + 4 * int.from_bytes(data[14:16])  # the extensions as well
                garbage = chance.randbytes(len(data) - kept)
                await send(data[:2] + number + data[4:8] + ssrc + data[12:kept] + garbage)

        link: Any = server.house.sessions.find("live").publishing.by.link  # type: ignore[union-attr]
        await until(lambda: link.statistics()["in"]["frames"])  # the first that comes is the one
        dtls._send_rtp = twice  # type: ignore[method-assign]
        before = link.statistics()["in"]
        await until(lambda: link.statistics()["in"]["frames"] > before["frames"] + 40)
        after = link.statistics()["in"]
        assert (after["damaged"], after["lost"]) == (before["damaged"], before["lost"])


async def test_malformed_extensions_of_a_packet_end_nothing(server: Served) -> None:
    client = obs()
    async with calling(server.url, "/whip/live", client):
        dtls = client.transceiver.sender.transport
        link: Any = server.house.sessions.find("live").publishing.by.link  # type: ignore[union-attr]
        await until(lambda: link.statistics()["in"]["frames"])
        kinds = client.connection.localDescription.sdp
        identifiers = [int(found) for found in re.findall(r"a=extmap:(\d+) ", kinds)]
        assert identifiers
        for number, (identifier, length) in enumerate(itertools.product(identifiers, range(1, 8))):
            value = bytes([identifier << 4 | length - 1]) + b"\xff" * length
            value += bytes(-len(value) % 4)
            head = b"\x90\x60" + number.to_bytes(2) + bytes(8) + b"\xbe\xde" + (len(value) // 4).to_bytes(2)
            await dtls._send_rtp(head + value + b"x")
        before = link.statistics()["in"]["frames"]
        await until(lambda: link.statistics()["in"]["frames"] > before + 10)


# ------------------------------------------------------------------------------------------- who may


TOKENS = {role: f"{role}-secret-of-the-tests" for role in ("view", "control", "admin")}
STAGE = "https://stage.example"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    access = Access(tokens=tuple(f"{role}:{secret}" for role, secret in TOKENS.items()), origins=(STAGE,))
    with served(real=True, worker=worker(), access=access) as server:
        yield server


async def test_tokens_say_who_may_publish_watch_and_steer(guarded: Served) -> None:
    sends, watches, http = await offer(obs()), await offer(viewer()), guarded.http

    def post(path: str, sdp: str, role: str | None) -> int:
        headers = {"Content-Type": SDP} | ({} if role is None else bearer(role))
        return http.post(path, content=sdp, headers=headers).status_code

    assert [post("/whip/live", sends, role) for role in (None, "view")] == [401, 403]
    assert not guarded.house.sessions.standing
    async with calling(guarded.url, "/whip/live", obs(), token=TOKENS["control"]) as publisher:
        assert post("/whep/live", watches, None) == 401
        assert http.delete(publisher.place).status_code == 401
        assert http.delete(publisher.place, headers=bearer("view")).status_code == 403
        async with calling(guarded.url, "/whep/live", viewer(), token=TOKENS["view"]) as watching:
            assert http.delete(watching.place).status_code == 401
            assert (await watching.restart()).status_code == 200
        wanted = {"sdp": watches, "control": True}
        assert http.post("/api/sessions/live/viewers", json=wanted, headers=bearer("view")).status_code == 403
        assert http.post("/api/sessions/live/viewers", json=wanted, headers=bearer("control")).status_code == 201
        listed = {role: http.get("/api/sessions", headers=bearer(role)).json()["sessions"] for role in TOKENS}
        assert [listed[role][0]["id"] is None for role in ("view", "control", "admin")] == [True, True, False]
        assert http.get("/api/sessions").status_code == 401
        assert http.put("/api/sessions/x", json={}, headers=bearer("control")).status_code == 403
        assert http.get("/api/ice").status_code == 401
        assert http.get("/api/ice", headers=bearer("view")).status_code == 200


async def test_other_sites_may_where_they_are_allowed(guarded: Served) -> None:
    sends, http = await offer(obs()), guarded.http
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for path in ("/whip/live", "/whep/live", "/whip/live/secret", "/whep/live/secret"):
        allowed = http.options(path, headers=asks | {"Origin": STAGE})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, STAGE)
        assert "Authorization" in allowed.headers["access-control-allow-headers"]
        assert {"POST", "PATCH", "DELETE"} <= set(allowed.headers["access-control-allow-methods"].split(", "))
        assert http.options(path, headers=asks | {"Origin": "https://evil.example"}).status_code == 403
    crossing = {"Content-Type": SDP, "Sec-Fetch-Site": "cross-site"} | bearer("control")
    assert (
        http.post("/whip/live", content=sends, headers=crossing | {"Origin": "https://evil.example"}).status_code == 403
    )
    assert http.post("/whip/live", content=sends, headers=crossing).status_code == 403
    made = http.post("/whip/live", content=sends, headers=crossing | {"Origin": STAGE})
    assert (made.status_code, made.headers["access-control-allow-origin"]) == (201, STAGE)
    assert "Location" in made.headers["access-control-expose-headers"]
    assert http.delete(made.headers["location"], headers=bearer("control") | {"Origin": STAGE}).status_code == 200


def bearer(role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[role]}"}
