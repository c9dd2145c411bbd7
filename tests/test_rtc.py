"""Peers over real sockets: an own client connects, sends, watches, loses packets, goes away."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aioice.ice import get_host_addresses
from rtc_client import Client
from test_media import patches, worst
from waiting import until

from stream.frame import Frame, Image
from tools.observed import unpooled
from web.media import encode, pools
from web.media.extensions import ExtensionsMap
from web.media.library import LibraryError
from web.media.rate import Limits as Bitrates
from web.offer import OfferLimits, checked
from web.pictures import Pictures
from web.rtc import Limits, OfferError, Peer, Send

needs_address = pytest.mark.skipif(
    not get_host_addresses(use_ipv4=True, use_ipv6=True), reason="aiortc needs an address besides the loopback"
)
pytestmark = [pytest.mark.anyio, needs_address]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


SIDE = 256


def numbered(number: int) -> Image:
    """A moving picture with its number, 12 bits of black and white, along the top."""
    image = np.roll(np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 200, 3 * number, 1).astype(np.uint8)
    image = np.stack([image, 255 - image, image // 2], -1)
    bits = [255 * (number >> bit & 1) for bit in range(12)]
    image[:32, : 12 * 20] = np.repeat(bits, 20)[None, :, None]
    return image


def number_of(image: Image) -> int:
    return sum(1 << bit for bit in range(12) if image[16, bit * 20 + 10].mean() > 128)


class Heard:
    """A `Control` that writes down."""

    def __init__(self) -> None:
        self.send: Send | None = None
        self.messages: list[str] = []
        self.ends = 0

    def connected(self, send: Send) -> None:
        self.send = send
        send({"type": "hello"})

    def received(self, message: str) -> None:
        self.messages.append(message)

    def closed(self) -> None:
        self.ends += 1


class Mirror:
    """A session that shows what comes: `Peer`s with what they are given."""

    def __init__(self, limits: Limits | None = None, *, camera: bool = True) -> None:
        self.pictures, self.control = Pictures(), Heard()
        self.peer: Peer | None = None
        self.frames: list[Frame] = []
        self.closed: list[str] = []
        self.answered = ""
        self._limits, self._camera = limits, camera

    async def answer(self, offer: str) -> str:
        self.peer, self.answered = await Peer.answer(
            offer, receive=self._show if self._camera else None, pictures=self.pictures, control=self.control,
            on_closed=self.closed.append, shape=lambda: (SIDE, SIDE, "crop"), limits=self._limits,
        )  # fmt: skip
        return self.answered

    def _show(self, frame: Frame) -> None:
        assert self.peer is not None
        self.frames.append(frame)
        self.pictures.show(frame, captured_ms=self.peer.captured_ms(frame.pts))

    @property
    def figures(self) -> dict[str, Any]:
        assert self.peer is not None
        return self.peer.statistics()


@asynccontextmanager
async def mirrored(client: Client, limits: Limits | None = None, *, camera: bool = True) -> AsyncIterator[Mirror]:
    """A client connected to a mirror; both closed at the end."""
    mirror = Mirror(limits, camera=camera)
    async with client:
        try:
            await client.connect(mirror.answer)
            yield mirror
        finally:
            if mirror.peer is not None:
                await mirror.peer.close()


# --------------------------------------------------------------------------------------------- there and back again


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_pictures_go_there_and_back(codec: Any) -> None:
    async with mirrored(Client(numbered, codec=codec)) as mirror:
        await until(lambda: len(mirror.frames) > 45)
        frame = mirror.frames[-1]
        assert frame.size == (SIDE, SIDE)
        assert frame.time_base.denominator == 90000
        assert frame.captured_at is not None
        assert 0 <= time.monotonic() - frame.captured_at < 2
        figures = mirror.figures
        assert figures["in"]["codec"] == figures["out"]["codec"] == codec
        assert figures["out"]["frames"] > 10
        assert figures["in"]["damaged"] == figures["in"]["lost"] == 0


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_the_painted_picture_has_the_colours_and_the_numbers_of_the_camera(codec: Any) -> None:
    client = Client(lambda _: patches(), codec=codec)
    async with mirrored(client):
        await until(lambda: len(client.frames) > 15)
        assert worst(client.frames[-1][1].image) <= 8
    client = Client(numbered, codec=codec)
    async with mirrored(client):
        await until(lambda: len(client.frames) > 15)
        numbers = [number_of(frame.image) for _, frame in client.frames]
        assert numbers == sorted(numbers)


async def test_a_camera_of_another_shape_is_fitted() -> None:
    async with mirrored(Client(lambda _: np.zeros((120, 320, 3), np.uint8))) as mirror:
        await until(lambda: mirror.frames)
        assert mirror.frames[0].size == (SIDE, SIDE)


async def test_the_times_of_sent_pictures_are_those_of_their_capture() -> None:
    """The page's own clock comes back to it: capture time by RTP timestamp, for glass-to-glass."""
    client, sent = Client(numbered), dict[int, float]()
    async with mirrored(client) as mirror:
        assert mirror.peer is not None

        def known() -> int:
            assert mirror.peer is not None
            sent.update(mirror.peer.sent())
            return len(sent)

        await until(lambda: known() > 30)
        known()
        pairs = [(sent[f.pts & 0xFFFFFFFF], client.sent_at[number_of(f.image)])
                 for _, f in client.frames if f.pts & 0xFFFFFFFF in sent]  # fmt: skip
        assert len(pairs) >= 20
        # aiortc's own clients report the time of sending, after encoding; a browser that of the capture
        assert all(-5 <= told - true <= 400 for told, true in pairs)
        assert mirror.peer.sent() == [] or known()


async def test_a_viewer_sees_the_newest_picture_at_once_without_waiting_for_the_next() -> None:
    client = Client()
    mirror = Mirror()
    mirror.pictures.show(Frame(patches()))
    async with client:
        await client.connect(mirror.answer)
        frame = await client.next(5)
        assert worst(frame.image) <= 8
        assert "in" not in mirror.figures
        await client.ask_for_key()  # of a picture that stands still
        await client.next(5)
        assert mirror.figures["out"]["keys"] == 2
        assert mirror.peer is not None
        await mirror.peer.close()


async def test_the_answer_tells_a_chromium_how_much_to_send() -> None:
    async with mirrored(Client(numbered)) as mirror:
        bits = Bitrates.of(512, 512)
        for codec in ("VP8", "H264"):
            types = re.findall(rf"a=rtpmap:(\d+) {codec}/", mirror.answered)
            assert types
            for payload_type in types:
                line = re.search(rf"a=fmtp:{payload_type} (.+)", mirror.answered)
                assert line
                assert f"x-google-start-bitrate={bits.start // 1000}" in line[1]
                assert f"x-google-max-bitrate={bits.high // 1000}" in line[1]


async def test_the_bit_rate_follows_the_loss_that_the_other_side_reports() -> None:
    client = Client(numbered)
    async with mirrored(client) as mirror:
        await until(lambda: mirror.figures["out"]["rtt_ms"] is not None)
        before = mirror.figures["out"]["bitrate"]
        assert before >= Bitrates.of(SIDE, SIDE).start
        lose(mirror, 0.4)
        await until(lambda: mirror.figures["out"]["bitrate"] < 0.7 * before)
        assert mirror.figures["out"]["loss"] > 0.1


def lose(mirror: Mirror, share: float, seed: int = 0) -> None:
    """That share of the media packets that the server sends is lost from now on."""
    assert mirror.peer is not None
    chance = random.Random(seed)
    for transceiver in mirror.peer._connection.getTransceivers():
        ice = transceiver.receiver.transport.transport
        send = ice._send

        async def lossy(data: bytes, send: Any = send) -> None:
            if data[0] < 128 or chance.random() >= share:
                await send(data)

        ice._send = lossy  # type: ignore[method-assign]


async def test_lost_packets_are_asked_for_and_come() -> None:
    client = Client(numbered)
    async with mirrored(client) as mirror:
        await until(lambda: client.frames)
        lose(mirror, 0.05)
        before = len(client.frames)
        await until(lambda: client.receiver.nacks.recovered >= 10)
        assert len(client.frames) > before + 20
        assert client.receiver.buffer.given_up <= 3 + client.receiver.nacks.recovered // 5


# ---------------------------------------------------------------------------------------------------- the messages


async def test_messages_go_both_ways_and_large_or_binary_ones_are_dropped() -> None:
    client = Client()
    async with mirrored(client) as mirror:
        await client.opened()
        for message in ({"type": "ping", "t": 1}, "x" * 16_385, b"1234", "ü" * 8_193, "y" * 16_384):
            client.send(message)
        await until(lambda: len(mirror.control.messages) == 2)
        assert mirror.control.messages == ['{"type": "ping", "t": 1}', "y" * 16_384]
        assert mirror.figures["control"]["refused"] == 3
        assert (await client.heard("hello")) == {"type": "hello"}
        assert mirror.control.send is not None
        mirror.control.send({"type": "bye"})
        assert mirror.peer is not None
        await mirror.peer.close()
        assert (await client.heard("bye")) == {"type": "bye"}  # the last words are heard
        assert mirror.control.ends == 1
        mirror.control.send({"type": "late"})  # is dropped


async def test_a_second_channel_is_closed() -> None:
    client = Client()
    extra = client.connection.createDataChannel("other")
    async with mirrored(client):
        await until(lambda: extra.readyState == "closed")


# ------------------------------------------------------------------------------------------------------------ offers


async def test_an_offer_without_candidates_connects() -> None:
    """As OBS sends them."""
    client = Client(numbered, candidates=False)
    assert "candidate" not in await client.offer()
    async with mirrored(client) as mirror:
        await until(lambda: mirror.frames)


CANDIDATE = "a=candidate:1 1 udp 2130706431 {} 50000 typ host"


async def test_candidates_that_cannot_help_are_left_out() -> None:
    async with Client(numbered) as client:
        offer = await client.offer()
    useless = [CANDIDATE.format("6b8a1a3e-0c5f.local"), CANDIDATE.format("example.org"),
               CANDIDATE.format("192.0.2.1").replace("udp", "tcp")]  # fmt: skip
    kept = CANDIDATE.format("192.0.2.1")
    out = checked(offer + "\r\n".join([*useless, kept]) + "\r\n", OfferLimits())
    assert not any(line in out for line in useless)
    assert kept in out
    assert "end-of-candidates" not in out


async def test_limits_of_an_offer() -> None:
    async with Client(numbered) as client:
        offer = await client.offer()
    some = "\r\n".join([CANDIDATE.format("192.0.2.1")] * 33) + "\r\n"
    section = offer[offer.index("m=video") :]
    section = section[: section.find("\r\nm=", 5) + 2] if "\r\nm=" in section[5:] else section
    for bad, words in [
        ("x" * 65_537, "65537 bytes, at most 65536"),
        (offer + some, "3[3-9] candidates, at most 32"),
        (offer + section * 2, "3 sections of 'video', at most 2"),
        (offer + "a=x\r\n" * 1600, "lines, at most 1500"),
        (offer + "a=rtpmap:96 VP8/90000\r\n" * 300, "codecs, at most"),
        (offer.replace("m=video", "m=smell"), "sections of 'smell', at most 0"),
        ("hello", "begins with 'hello'"),
        ("", "begins with ''"),
        ("v=0\r\n", "no video section"),
    ]:
        with pytest.raises(OfferError, match=words):
            await Mirror().answer(bad)


async def test_an_offer_that_neither_sends_nor_receives_is_refused() -> None:
    async with Client(numbered) as client:
        offer = await client.offer()
    with pytest.raises(OfferError, match="neither takes a picture nor brings one"):
        await Mirror().answer(offer.replace("a=sendrecv", "a=inactive"))
    with pytest.raises(OfferError, match="neither"):
        await Mirror(camera=False).answer(offer.replace("a=sendrecv", "a=sendonly"))


async def test_h264_is_left_out_where_nothing_encodes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.rtc.h264_name", lambda: None)
    async with Client(numbered) as client:
        mirror = Mirror()
        answer = await mirror.answer(await client.offer())
        assert "VP8" in answer
        assert "H264" not in answer
        assert mirror.peer is not None
        await mirror.peer.close()
    async with Client(numbered, codec="H264") as client:
        with pytest.raises(OfferError, match=r"H\.264 alone"):
            await Mirror().answer(await client.offer())


async def test_audio_is_answered_and_rests() -> None:
    client = Client(numbered)
    client.connection.addTransceiver("audio", "sendrecv")
    async with mirrored(client) as mirror:
        await until(lambda: mirror.frames)
        audio = mirror.answered[mirror.answered.index("m=audio") :]
        assert "a=inactive" in audio


async def test_the_colour_space_is_taken_where_it_is_offered() -> None:
    """A browser then says with its packets what VP8 cannot say."""
    async with Client(numbered) as client:
        offer = await client.offer()
        mirror = Mirror()
        assert "color-space" not in await mirror.answer(offer)
        assert mirror.peer is not None
        await mirror.peer.close()
        line = "a=extmap:8 http://www.webrtc.org/experiments/rtp-hdrext/color-space\r\n"
        answer = await mirror.answer(offer.replace("a=mid:", line + "a=mid:", 1))
        assert line in answer
        transport = mirror.peer._connection.getTransceivers()[0].receiver.transport
        assert isinstance(transport._rtp_header_extensions_map, ExtensionsMap)
        await mirror.peer.close()


def mutated(offer: str, chance: random.Random) -> str:
    """The offer with a line lost, doubled, moved, cut, or with its words or characters changed."""
    lines = offer.splitlines()
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(lines))
        way = chance.randrange(7)
        if way == 0:
            del lines[at]
        elif way == 1:
            lines.insert(chance.randrange(len(lines)), lines[at])
        elif way == 2:
            lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
        elif way == 3:
            words = re.split(r"([ :=/;])", lines[at])
            words[chance.randrange(len(words))] = chance.choice(["", "-1", "9" * 30, "\0", "é", "a b", "0", "video"])
            lines[at] = "".join(words)
        elif way == 4:
            lines[at] = lines[at].replace(chance.choice(lines[at] or "x"), chance.choice("\x00 ;:=/0aZ€"))
        elif way == 5:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines[at] = lines[at].swapcase()
        lines = lines or ["v=0"]
    return "\r\n".join(lines) + "\r\n"


@pytest.mark.parametrize("seed", range(4))
async def test_a_mutated_offer_is_answered_or_refused_and_leaves_nothing(seed: int) -> None:
    chance = random.Random(seed)
    client = Client(numbered)
    client.connection.addTransceiver("audio", "recvonly")
    async with client:
        offer = await client.offer()
        tasks, refused = len(asyncio.all_tasks()), 0
        for _ in range(100):
            mirror = Mirror()
            start = time.monotonic()
            try:
                await mirror.answer(mutated(offer, chance))
            except OfferError:
                refused += 1
                assert mirror.closed == []
            else:
                assert mirror.peer is not None
                await mirror.peer.close()
                assert len(mirror.closed) == 1
            assert time.monotonic() - start < 5
        assert 10 < refused < 100
        await until(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_another_aiortc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.media.library.KNOWN", "1.17")
    with pytest.raises(LibraryError, match=r"1\.17 is needed"):
        await Mirror().answer("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n")


# ------------------------------------------------------------------------------------------------------------ the end

QUICK = Limits(connect_s=0.6, silent_s=1.0, idle_s=1.0)


async def test_who_does_not_connect_is_given_up() -> None:
    async with Client(numbered) as client:
        mirror = Mirror(QUICK)
        offer = await client.offer()
        await mirror.answer(re.sub(r"a=ice-pwd:.*", "a=ice-pwd:" + "x" * 22, offer))
        await until(lambda: mirror.closed)
        assert "not connected within 0.6 s" in mirror.closed[0]


async def test_a_killed_client_is_noticed() -> None:
    client = Client()
    async with mirrored(client, QUICK) as mirror:
        await client.opened()
        client.vanish()
        await until(lambda: mirror.closed)
        assert mirror.closed == ["nothing heard for 1 s"]
        assert mirror.control.ends == 1


async def test_a_page_that_sends_no_more_is_closed_unless_it_is_hidden() -> None:
    client = Client(numbered)
    async with mirrored(client, Limits(idle_s=1.0)) as mirror:
        assert mirror.peer is not None
        await until(lambda: mirror.frames)
        mirror.peer.hidden = True
        client.stop_sending()
        await asyncio.sleep(2)
        assert not mirror.closed
        mirror.peer.hidden = False
        await until(lambda: mirror.closed)
        assert mirror.closed == ["no picture for 1 s"]


async def test_a_client_that_closes_ends_its_peer() -> None:
    client = Client(numbered)
    async with mirrored(client) as mirror:
        await client.opened()
        await until(lambda: mirror.frames)
        await client.close()
        await until(lambda: mirror.closed)
        assert mirror.peer is not None
        assert mirror.peer.state == "closed"


async def test_the_end_of_the_pictures_ends_the_peer() -> None:
    async with mirrored(Client()) as mirror:
        assert mirror.peer is not None
        await until(lambda: mirror.figures["state"] == "connected")
        await asyncio.sleep(0.1)
        mirror.pictures.close()
        await until(lambda: mirror.closed)
        assert mirror.closed == ["the pictures ended"]


async def test_closing_is_quick_and_may_be_repeated() -> None:
    async with mirrored(Client(numbered)) as mirror:
        assert mirror.peer is not None
        await until(lambda: mirror.frames)
        start = time.monotonic()
        await asyncio.gather(*(mirror.peer.close() for _ in range(3)))
        assert time.monotonic() - start < 10
        assert mirror.closed == ["closed by the server"]
        assert mirror.pictures.watchers == 0


async def test_thirty_connections_leave_nothing_behind() -> None:
    """Threads, sockets and tasks are back after each; objects after a collection."""
    mirror = Mirror()

    async def cycle() -> None:
        client = Client(numbered, fps=60)
        async with client:
            await client.connect(mirror.answer)
            await until(lambda: client.frames)
            assert mirror.peer is not None
            await mirror.peer.close()

    for _ in range(3):  # pools fill up
        await cycle()
    before = held()
    for _ in range(30):
        await cycle()
    await until(lambda: held()[:2] <= before[:2])
    gc.collect()
    await asyncio.sleep(0.1)
    assert held() <= before
    assert alive("LiveConnection") <= 2
    assert mirror.pictures.watchers == 0
    assert mirror.closed == ["closed by the server"] * 33


def held() -> tuple[int, int, int]:
    """Tasks, open files, threads; those of the codecs' pools count against their limit."""
    pooled = sum(thread.name.startswith(("decode_", "encode_")) for thread in threading.enumerate())
    assert pooled <= 2 * pools.THREADS
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), unpooled()  # noqa: PTH208


def alive(kind: str) -> int:
    return sum(type(thing).__name__ == kind for thing in gc.get_objects())


# ---------------------------------------------------------------------------------------------------------- pictures


async def test_watchers_get_the_newest_and_count_what_they_missed() -> None:
    pictures = Pictures()
    early = pictures.watch()
    for number in range(5):
        pictures.show(Frame(np.full((16, 16, 3), number, np.uint8)), captured_ms=float(number))
    late = pictures.watch()
    for watcher, dropped in ((early, 4), (late, 0)):
        picture = await watcher.next()
        assert (picture.number, picture.captured_ms, watcher.dropped) == (5, 4.0, dropped)
    waiting = asyncio.create_task(early.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    pictures.show(Frame(np.zeros((16, 16, 3), np.uint8)))
    assert (await waiting).number == 6
    late.again()
    assert (await late.next()).number == 6
    late.again()
    assert (await late.next()).number == 6


async def test_watching_ends_with_the_watcher_or_the_pictures() -> None:
    pictures = Pictures()
    watchers = [pictures.watch() for _ in range(3)]
    watchers[0].close()
    assert [picture async for picture in watchers[0]] == []
    ending = asyncio.create_task(anext(watchers[1]))
    await asyncio.sleep(0)
    pictures.close()
    with pytest.raises(StopAsyncIteration):
        await watchers[2].next()
    with pytest.raises(StopAsyncIteration):
        await ending
    assert [picture async for picture in pictures.watch()] == []
    assert pictures.watchers == 0


async def test_a_picture_is_converted_once_for_all_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, clients = Pictures(), [Client() for _ in range(3)]
    mirror = Mirror(camera=False)
    mirror.pictures = pictures
    made = []
    convert = encode.colour.ToPlanes.__call__

    def counted(self: Any, image: Image) -> Any:
        made.append(image)
        return convert(self, image)

    monkeypatch.setattr(encode.colour.ToPlanes, "__call__", counted)
    peers = []
    for client in clients:
        await client.connect(mirror.answer)
        peers.append(mirror.peer)
    for number in range(20):
        pictures.show(Frame(numbered(number)))
        await asyncio.sleep(0.03)
    await until(lambda: all(client.frames for client in clients))
    assert len(made) <= 20
    for client, peer in zip(clients, peers, strict=True):
        await client.close()
        assert peer is not None
        await peer.close()
