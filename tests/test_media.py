"""Live media over aiortc: each change by its effect, and a guard that fails when the library changes under it."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
import re
from collections.abc import Callable
from concurrent.futures import Executor, Future
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import aiortc
import av
import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender
from aiortc.codecs import depayload
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtcrtpreceiver import NackGenerator
from aiortc.rtcsctptransport import RTCSctpTransport
from aiortc.rtp import RtcpPacket, RtcpPsfbPacket, RtcpRtpfbPacket, RtpPacket, pack_header_extensions, pack_remb_fci
from av.video.reformatter import Colorspace

from stream.frame import Frame
from web.media import colour, encode, rate
from web.media.connection import LiveConnection
from web.media.decode import BACKLOG, Decoded, Decoding, is_key
from web.media.estimate import Estimator
from web.media.extensions import COLOUR_SPACE, ColourSpace, Extensions, ExtensionsMap
from web.media.jitter import KEY_RETRY_S, PATIENCE_S, EncodedFrame, FrameBuffer, KeyRequests, Unwrap
from web.media.library import LibraryError, check_library, inner, set_inner
from web.media.listening import LiveSoundReceiver
from web.media.nack import BURST, FORGET_S, REORDER_S, RETRY_S, Nacks
from web.media.receiver import CaptureClock, LiveReceiver
from web.media.sender import LiveSender
from web.pictures import Picture

pytestmark = pytest.mark.anyio  # runs the coroutines, and fails where a task of theirs does


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


PALETTE = np.array(
    [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255],
     [128, 128, 128], [200, 100, 50], [0, 128, 128], [30, 60, 200], [64, 64, 64], [220, 180, 160], [90, 160, 60],
     [120, 40, 140]], np.uint8,
)  # fmt: skip


def patches(side: int = 256) -> np.ndarray:
    """Sixteen colours, in a square."""
    return np.kron(PALETTE.reshape(4, 4, 3), np.ones((side // 4, side // 4, 1), np.uint8)).astype(np.uint8)


def worst(image: np.ndarray) -> float:
    """The largest error in the middle of a patch."""
    side = image.shape[0] // 4
    middle = slice(side // 2 - 4, side // 2 + 4)
    blocks = image.reshape(4, side, 4, side, 3)[:, middle, :, middle].mean((1, 3))
    return float(np.abs(blocks - PALETTE.reshape(4, 4, 3)).max())


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------------------------------------------ the library

SOURCES = {  # what the subclasses build on; read web/media against the new source before changing a line here
    "RTCPeerConnection.__init__": "f5388aea637f",
    "RTCPeerConnection._RTCPeerConnection__createTransceiver": "00201d6e03cc",
    "RTCPeerConnection._RTCPeerConnection__createDtlsTransport": "ad91de689a33",
    "RTCPeerConnection._RTCPeerConnection__createSctpTransport": "f1155cfa69ec",
    "RTCPeerConnection._RTCPeerConnection__connect": "9199a73a7cde",
    "RTCPeerConnection.close": "7e2df1bb95eb",
    "RTCPeerConnection.setRemoteDescription": "42c5e2eb7ca5",
    "RTCRtpReceiver.__init__": "3e3b7b5cefba",
    "RTCRtpReceiver.receive": "d6d8d8d7a0bf",
    "RTCRtpReceiver.stop": "63734b6894ce",
    "RTCRtpReceiver._handle_disconnect": "8dfa058c843f",
    "RTCRtpReceiver._handle_rtcp_packet": "ec9f46214c34",
    "RTCRtpReceiver._handle_rtp_packet": "4e54983d021a",
    "RTCRtpSender.__init__": "beb1bc0ae04d",
    "RTCRtpSender._next_encoded_frame": "89dd9fa4fb33",
    "RTCRtpSender._handle_rtcp_packet": "a4ee4c7355f8",
    "RTCRtpSender._send_keyframe": "26c49629470d",
    "RTCRtpSender._run_rtp": "ff597a1d554c",
    "RTCDtlsTransport._handle_rtp_data": "5def9061cc3d",
    "RTCDtlsTransport._recv_next": "998076720c05",
    "RTCDtlsTransport._do_handshake": "0af5299c3335",
    "RTCDtlsTransport._write_ssl": "6573c0237063",
    "RTCSctpTransport._update_rto": "a1e7afb18886",
    "RTCSctpTransport._t1_start": "2fd799f8e120",
    "H264Encoder._packetize": "85ce3fe3b317",
    "H264Encoder._split_bitstream": "f6a4817f670e",
    "Vp8Encoder._packetize": "03f61a0f38aa",
}
OWNERS = {owner.__name__: owner for owner in (RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, RTCDtlsTransport,
                                              RTCSctpTransport, H264Encoder, Vp8Encoder)}  # fmt: skip


def digest(name: str) -> str:
    owner, attribute = name.split(".")
    return hashlib.sha256(inspect.getsource(getattr(OWNERS[owner], attribute)).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", SOURCES)
def test_the_library_is_as_it_was(name: str) -> None:
    assert digest(name) == SOURCES[name], (
        f"aiortc's {name} has changed: read web/media against it, then note {digest(name)}"
    )


def test_another_version_is_refused() -> None:
    check_library("1.16.3")
    with pytest.raises(LibraryError, match=r"aiortc 1\.17\.0 is installed, 1\.16 is needed.*pip install"):
        check_library("1.17.0")
    check_library(aiortc.__version__)


def test_an_inner_name_that_is_gone_is_an_error_and_not_a_new_attribute() -> None:
    buffer = JitterBuffer(capacity=16)
    with pytest.raises(AttributeError):
        set_inner(buffer, JitterBuffer, packets_by_number={})


async def test_transceivers_are_live_but_for_the_sender_of_sound() -> None:
    connection = LiveConnection()
    try:
        video, audio = connection.addTransceiver("video"), connection.addTransceiver("audio")
        assert isinstance(video.sender, LiveSender)
        assert isinstance(video.receiver, LiveReceiver)
        assert type(audio.sender) is RTCRtpSender
        assert isinstance(audio.receiver, LiveSoundReceiver)
        assert inner(video.receiver, RTCRtpReceiver, "rtcp_ssrc") == video.sender._ssrc
    finally:
        await connection.close()


# --------------------------------------------------------------------------------------------------- packets, frames


def packet(number: int, timestamp: int = 0, marker: int = 0, data: bytes = b"") -> RtpPacket:
    made = RtpPacket(sequence_number=number & 0xFFFF, timestamp=timestamp, marker=marker)
    made._data = data or b"%d." % number
    return made


def buffered(clock: Clock | None = None) -> tuple[FrameBuffer, list[EncodedFrame]]:
    frames: list[EncodedFrame] = []
    clock = clock or Clock()
    return FrameBuffer(frames.append, KeyRequests(clock), clock), frames


def test_a_frame_is_released_on_its_marker() -> None:
    stock = JitterBuffer(capacity=512, is_video=True)
    buffer, frames = buffered()
    for made in (packet(1, 10), packet(2, 10, marker=1)):
        assert stock.add(made)[1] is None  # the stock one waits for the next frame: 33 ms
        assert buffer.add(made) == (False, None)
    assert [(f.data, f.timestamp) for f in frames] == [(b"1.2.", 10)]
    assert len(buffer) == 0


def test_a_frame_without_marker_ends_with_the_next_timestamp() -> None:
    buffer, frames = buffered()
    for made in (packet(1, 10), packet(2, 10), packet(3, 20, marker=1)):
        buffer.add(made)
    assert [f.data for f in frames] == [b"1.2.", b"3."]


@pytest.mark.parametrize("seed", range(20))
def test_packets_in_any_order_make_the_same_frames(seed: int) -> None:
    shuffled = random.Random(seed)
    packets = [packet(65530 + i, i // 3 * 3000, int(i % 3 == 2)) for i in range(30)]  # over the wrap
    late = sorted(range(30), key=lambda i: i + shuffled.uniform(0, 6) * (i > 0))
    buffer, frames = buffered()
    for i in late:
        buffer.add(packets[i])
    assert [f.timestamp for f in frames] == list(range(0, 30000, 3000))
    assert b"".join(f.data for f in frames) == b"".join(p._data for p in packets)


def test_a_repaired_hole_lets_everything_behind_it_go_at_once() -> None:
    buffer, frames = buffered()
    for made in (packet(1, 10, 1), packet(3, 20, 1), packet(4, 30, 1), packet(5, 40)):
        buffer.add(made)
    assert len(frames) == 1
    buffer.add(packet(2, 20))
    assert [f.data for f in frames] == [b"1.", b"2.3.", b"4."]


def test_a_hole_is_given_up_in_time_and_a_key_frame_asked_for() -> None:
    clock = Clock()
    buffer, frames = buffered(clock)
    for made in (packet(1, 10, 1), packet(3, 20, 1), packet(4, 30), packet(5, 30, 1)):
        assert buffer.add(made) == (False, None)
    assert not looked(buffer, clock, PATIENCE_S[0] - 0.005)
    assert looked(buffer, clock, 0.01)
    assert [f.data for f in frames] == [b"1.", b"4.5."]  # 3 may be the second half of a frame
    assert buffer.given_up == 1


def looked(buffer: FrameBuffer, clock: Clock, seconds: float) -> bool:
    """Whether a key frame is to be asked for, by the looks of so long, every 5 ms."""
    asked = False
    for _ in range(round(seconds / 0.005)):
        clock.now += 0.005
        asked |= buffer.overdue()
    return asked


def test_a_hole_is_looked_at_until_it_is_filled_or_given_up() -> None:
    clock = Clock()
    buffer, frames = buffered(clock)
    assert not buffer.holed
    buffer.add(packet(1, 10, 1))
    buffer.add(packet(3 + BURST, 20, 1))  # as many as that are not asked for, and yet given up
    assert buffer.holed
    looked(buffer, clock, PATIENCE_S[0] + 0.01)
    assert (buffer.given_up, buffer.holed) == (1, False)
    buffer.add(packet(4 + BURST, 30, 1))
    assert len(frames) == 2


def test_while_the_event_loop_is_held_up_no_hole_grows_old() -> None:
    """What repairs it waits in the socket, to be read next."""
    clock = Clock()
    buffer, frames = buffered(clock)
    for made in (packet(1, 10, 1), packet(3, 20, 1)):
        buffer.add(made)
    assert not looked(buffer, clock, 0.02)
    clock.now += 0.5
    buffer.add(packet(4, 30, 1))
    assert not looked(buffer, clock, 0.02)
    buffer.add(packet(2, 20))
    assert [f.data for f in frames] == [b"1.", b"2.3.", b"4."]
    assert buffer.given_up == 0


def test_a_key_frame_is_asked_for_again_until_one_has_come() -> None:
    clock = Clock()
    keys = KeyRequests(clock)
    assert not keys.due()
    keys.want()
    assert keys.due()
    assert not keys.due()
    clock.now += KEY_RETRY_S + 0.001
    assert keys.due()
    keys.came()
    clock.now += 10
    assert not keys.due()


def test_never_more_than_a_moment_is_held() -> None:
    """A frame of which one packet never comes, for ten seconds of video."""
    clock = Clock()
    buffer, frames = buffered(clock)
    most = 0
    for number in range(3000):
        if number % 50 != 20:
            buffer.add(packet(number, number // 10, int(number % 10 == 9)))
        most = max(most, len(buffer))
        clock.now += 0.0033
    assert most <= 40
    assert len(frames) >= 220


def test_padding_is_no_frame() -> None:
    buffer, frames = buffered()
    padding = packet(2, 10)
    padding._data = b""
    for made in (packet(1, 10, 1), padding, packet(3, 20, 1)):
        buffer.add(made)
    assert [f.data for f in frames] == [b"1.", b"3."]


def test_a_sender_that_counts_anew_is_followed() -> None:
    buffer, frames = buffered()
    buffer.add(packet(100, 10, 1))
    assert buffer.add(packet(30000, 20, 1)) == (True, None)
    assert [f.data for f in frames] == [b"100.", b"30000."]


def test_what_is_late_or_double_changes_nothing() -> None:
    buffer, frames = buffered()
    for made in (packet(5, 10, 1), packet(5, 10, 1), packet(4, 5, 1), packet(6, 20, 1)):
        buffer.add(made)
    assert [f.data for f in frames] == [b"5.", b"6."]


def test_counters_run_on_over_their_wrap() -> None:
    unwrap = Unwrap(16)
    assert [unwrap(value) for value in (65534, 65535, 0, 1, 65535, 2)] == [65534, 65535, 65536, 65537, 65535, 65538]


# ------------------------------------------------------------------------------------------------------------ NACKs


def test_reordering_costs_no_nack() -> None:
    """10 ms of jitter without loss made the stock generator ask 497 times."""
    clock, shuffled = Clock(), random.Random(1)
    nacks, stock, hasty = Nacks(clock), NackGenerator(), 0
    arrivals = sorted((i * 0.002 + shuffled.uniform(0, 0.01), i) for i in range(2000))
    asked = []
    for at, number in arrivals:
        clock.now = 100 + at
        assert not nacks.add(packet(number))
        hasty += stock.add(packet(number))
        asked += nacks.due()
    assert asked == []
    assert hasty > 400


def test_a_lost_packet_is_asked_for_after_the_window_and_again() -> None:
    clock = Clock()
    nacks = Nacks(clock)
    for number in (65534, 2):
        nacks.add(packet(number))
    assert nacks.due() == []
    clock.now += REORDER_S + 0.001
    lost = nacks.due()
    assert lost == [0, 1, 65535]
    asking = RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=2, lost=lost)
    assert RtcpPacket.parse(bytes(asking)) == [asking]  # aiortc cannot write them in another order
    assert nacks.due() == []
    clock.now += RETRY_S[1] + 0.001
    nacks.add(packet(0))
    assert nacks.due() == [1, 65535]
    clock.now += FORGET_S
    assert nacks.due() == []
    assert not nacks.missing
    assert nacks.recovered == 1


def lossy(nacks: Nacks, clock: Clock, every: int, rtt_s: float) -> None:
    """One packet of so many is lost, and comes when it was asked for once."""
    for number in range(every, 50 * every):
        clock.now += 0.003
        if number % every:
            nacks.add(packet(number))
            continue
        nacks.add(packet(number + 1))
        clock.now += REORDER_S + 0.001
        nacks.due()
        clock.now += rtt_s - 0.001
        nacks.add(packet(number))


@pytest.mark.parametrize(("rtt_s", "least", "most"), [(0.001, 0.06, 0.1), (0.06, 0.14, 0.2), (0.3, 0.25, 0.25)])
def test_a_frame_is_held_for_three_tries_over_the_round_trip_that_was_learned(
    rtt_s: float, least: float, most: float
) -> None:
    clock = Clock()
    nacks = Nacks(clock)
    lossy(nacks, clock, 100, rtt_s)
    assert nacks.tries == 3
    assert nacks.rtt_s == pytest.approx(rtt_s, rel=0.1)
    assert least <= nacks.patience_s <= most


@pytest.mark.parametrize(("every", "tries"), [(100, 3), (20, 3), (10, 4), (5, 7), (2, 8)])
def test_the_more_is_lost_the_longer_a_frame_is_held(every: int, tries: int) -> None:
    """Of frames of 12 packets, 2 in 1000 are given up, or the tries are at their most."""
    clock = Clock()
    nacks = Nacks(clock)
    lossy(nacks, clock, every, 0.001)
    assert nacks.loss == pytest.approx(1 / every, rel=0.1)
    assert nacks.tries == tries
    fails = 1 - (1 - nacks.loss) ** 2
    assert 12 * nacks.loss * fails**tries <= 0.002 or tries == 8


def test_a_long_gap_is_not_worth_asking_for() -> None:
    nacks = Nacks(Clock())
    nacks.add(packet(1))
    nacks.add(packet(BURST + 10))
    assert not nacks.missing


# ------------------------------------------------------------------------------------------------------- decoding


class Handy(Executor):
    """Runs what it was given when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    async def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for future, work in jobs:
            future.set_result(work())
        for _ in range(3):
            await asyncio.sleep(0)


def film(codec: str, count: int, side: int = 64, key: Callable[[int], bool] = lambda _: False) -> list[EncodedFrame]:
    """Encoded pictures of which each is a little brighter than the last."""
    encoder = encode.make_encoder(codec, rate.Rate(rate.Limits.of(side, side)))
    kind = SimpleNamespace(name=codec)
    planes = colour.ToPlanes(encoder.matrix)
    frames = []
    for number in range(count):
        image = np.full((side, side, 3), 20 + 4 * number, np.uint8)
        payloads = encoder.payloads(planes(image), number * 3000, key(number))
        data = b"".join(depayload(kind, payload) for payload in payloads)  # type: ignore[arg-type]
        frames.append(EncodedFrame(data, number * 3000, 100.0 + number))
    return frames


def decoding(pool: Executor) -> tuple[Decoding, list[Decoded], KeyRequests]:
    keys, decoded = KeyRequests(Clock()), list[Decoded]()
    return Decoding(pool, keys, decoded.append, colour.ToRgb()), decoded, keys


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_only_the_newest_picture_goes_on(codec: str) -> None:
    pool = Handy()
    decoder, decoded, _ = decoding(pool)
    frames = film(codec, 6)
    decoder.put(codec, frames[0])
    for frame in frames[1:]:  # while the first is in work
        decoder.put(codec, frame)
    assert len(pool.jobs) == 1
    await pool.run()
    assert len(pool.jobs) == 1  # all that has come meanwhile, together
    await pool.run()
    assert [d.encoded.timestamp for d in decoded] == [0, 5 * 3000]
    assert abs(int(decoded[-1].image.mean()) - 40) <= 2  # in order: the last builds on all before it
    assert (decoder.decoded, decoder.dropped, len(decoder)) == (6, 4, 0)


async def test_a_backlog_is_dropped_up_to_the_next_key_frame() -> None:
    pool = Handy()
    decoder, decoded, keys = decoding(pool)
    frames = film("VP8", 40, key=lambda number: number == 30)
    for number, frame in enumerate(frames[:30]):
        decoder.put("VP8", frame)
        assert len(decoder) <= BACKLOG, number
    assert keys.due()
    await pool.run()
    await pool.run()
    decoder.put("VP8", frames[30])
    await pool.run()
    assert [d.encoded.timestamp // 3000 for d in decoded] == [0, 30]


async def test_nothing_is_decoded_before_a_key_frame() -> None:
    pool = Handy()
    decoder, _, keys = decoding(pool)
    decoder.put("VP8", film("VP8", 2)[1])
    assert not pool.jobs
    assert keys.due()


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_damaged_frames_are_counted_and_a_key_frame_asked_for(codec: str) -> None:
    pool = Handy()
    decoder, decoded, keys = decoding(pool)
    first = film(codec, 1)[0]
    broken = EncodedFrame(first.data[: 12 if codec == "VP8" else 30], 0, 0.0)
    decoder.put(codec, broken)
    await pool.run()
    assert decoded == []
    assert decoder.damaged == 1
    assert keys.due()
    decoder.put(codec, first)
    await pool.run()
    assert len(decoded) == 1


async def test_after_the_end_nothing_is_delivered() -> None:
    pool = Handy()
    decoder, decoded, _ = decoding(pool)
    decoder.put("VP8", film("VP8", 1)[0])
    decoder.close()
    await pool.run()
    decoder.put("VP8", film("VP8", 1)[0])
    assert decoded == []
    assert not pool.jobs


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_key_frames_are_known_by_their_bytes(codec: str) -> None:
    frames = film(codec, 5, key=lambda number: number == 3)
    assert [is_key(codec, frame.data) for frame in frames] == [True, False, False, True, False]


# ------------------------------------------------------------------------------------------------------------- rate


def test_the_rate_starts_at_two_and_a_half_megabits() -> None:
    assert rate.Rate(rate.Limits.of(512, 512)).target == 2_500_000
    assert rate.Limits.of(1024, 1024).start < 4 * 2_500_000


def test_loss_lowers_the_rate_and_its_absence_raises_it() -> None:
    sending = rate.Rate(rate.Limits.of(512, 512))
    sending.report(0.2)
    assert sending.target == pytest.approx(2_250_000)
    sending.report(0.05)
    assert sending.target == pytest.approx(2_250_000)
    sending.report(0.0)
    assert sending.target == pytest.approx(2_362_500, rel=1e-3)
    for _ in range(100):
        sending.report(0.5)
    assert sending.target == sending.limits.low
    for _ in range(200):
        sending.report(0.0)
    assert sending.target == sending.limits.high


def test_the_receivers_estimate_is_a_ceiling() -> None:
    sending = rate.Rate(rate.Limits.of(512, 512))
    sending.estimate = 2_000_000
    assert sending.target == 2_000_000
    sending.estimate = 50_000_000
    assert sending.target == 2_500_000


def test_a_low_estimate_of_a_still_picture_is_not_believed_without_a_sign() -> None:
    """A receiver estimates from what came: 30 kbit/s of a still picture made Chromium say 28."""
    sending = rate.Rate(rate.Limits.of(512, 512))
    sending.estimate = 28_000
    assert sending.target == 1_250_000
    sending.report(0.0, rtt_s=0.02)
    sending.report(0.0, rtt_s=0.3)
    assert sending.target == sending.limits.low
    sending.report(0.0, rtt_s=0.02)
    assert sending.target == 1_250_000
    sending.report(0.03, rtt_s=0.02)
    assert sending.target == sending.limits.low


@pytest.mark.parametrize(("target", "rebuilt"), [(2_500_000, False), (1_800_000, False), (3_200_000, False),
                                                 (1_700_000, True), (3_300_000, True)])  # fmt: skip
def test_an_encoder_is_rebuilt_beyond_a_third_only(target: int, rebuilt: bool) -> None:
    sending = rate.Rate(rate.Limits.of(512, 512))
    encoder = encode.make_encoder("H264", sending)
    planes = np.full((768, 512), 128, np.uint8)
    encoder.payloads(planes, 0, key=True)
    sending.estimate, sending.allowed = target, float(target)
    payloads = encoder.payloads(planes, 3000, key=False)
    assert encoder.encoder.builds == 1 + rebuilt
    data = b"".join(depayload(SimpleNamespace(name="H264"), payload) for payload in payloads)  # type: ignore[arg-type]
    assert is_key("H264", data) is rebuilt


async def test_the_sender_of_the_library_sets_the_estimate() -> None:
    connection = LiveConnection()
    try:
        sender = connection.addTransceiver("video").sender
        assert isinstance(sender, LiveSender)
        remb = RtcpPsfbPacket(fmt=15, ssrc=1, media_ssrc=0, fci=pack_remb_fci(1_600_000, [sender._ssrc]))
        await sender._handle_rtcp_packet(remb)
        assert sender.rate.estimate == pytest.approx(1_600_000, rel=1e-3)
    finally:
        await connection.close()


def test_another_size_has_another_rate_and_keeps_what_is_known_of_the_way() -> None:
    sending = rate.Rate(rate.Limits.of(512, 512))
    sending.report(0.2)
    sending.resize(256, 256)
    assert sending.target == pytest.approx(0.9 * rate.Limits.of(256, 256).start, rel=1e-3)


# -------------------------------------------------------------------------------------------------- estimate (REMB)


def run(estimator: Estimator, seconds: float, delay: Callable[[float], float], start_s: float = 0.0) -> list[int]:
    """2.4 Mbit/s in packets of 1000 bytes, each `delay(t)` ms under way; the reports."""
    reports = []
    for i in range(int(seconds * 300)):
        at = start_s + i / 300
        stamp = int(at * (1 << 18)) & 0xFFFFFF
        report = estimator.add(int(1e12 + at * 1000 + delay(at)), stamp, 1000, 7)
        if report:
            reports.append(report[0])
            assert report[1] == [7]
    return reports


def test_hiccups_of_a_busy_machine_do_not_lower_the_estimate() -> None:
    hiccups = random.Random(2)
    reports = run(
        Estimator(250_000, 5_000_000), 70, lambda _: 10 + 80 * (hiccups.random() < 0.5)
    )  # over 64 s: the wrap
    assert set(reports) == {5_000_000}
    assert 60 <= len(reports) <= 71


def test_a_full_link_lowers_the_estimate_below_what_comes_through_and_it_recovers() -> None:
    estimator = Estimator(250_000, 5_000_000)
    run(estimator, 2, lambda _: 10)
    reports = run(estimator, 2, lambda at: 10 + 150 * (at - 2), start_s=2)
    assert reports[-1] < 2_400_000
    later = run(estimator, 20, lambda _: 10, start_s=5)
    assert later[-1] > 3_000_000
    assert estimator.queue_ms == pytest.approx(0, abs=2)


# --------------------------------------------------------------------------------------------------------- encoding


def x264_options(data: bytes) -> dict[str, str]:
    """What x264 writes about itself in the first frame."""
    text = re.search(rb"options: ([ -~]+)", data)
    assert text
    return dict(item.partition("=")[::2] for item in text[1].decode().split(" "))  # type: ignore[misc]


@pytest.mark.parametrize(("rate", "search"), [(2_500_000, ("0", "1:0.50")), (1_000_000, ("1", "1:1.00"))])
def test_x264_is_set_for_live_pictures(rate: int, search: tuple[str, str]) -> None:
    """`search`: superfast's, which every bit counts for, or a lighter one; the stock preset, medium, has 7."""
    encoder = encode.x264(512, 512, rate)
    planes = np.full((768, 512), 128, np.uint8)
    options = x264_options(b"".join(bytes(p) for p in encoder.encode(encode.video_frame(planes, 0, key=True))))
    assert (options["subme"], options["aq"]) == search
    assert options["rc_lookahead"] == options["bframes"] == options["scenecut"] == "0"
    assert options["vbv_maxrate"] == str(rate // 1000)
    assert options["vbv_bufsize"] == str(rate // 1000 // 15)
    assert options["cabac"] == "0"  # baseline
    assert options["threads"] == "1"


def moving(count: int, side: int = 512) -> list[np.ndarray]:
    """Planes of a noisy picture that moves."""
    noise = np.random.default_rng(0).integers(0, 60, (side, side))
    ramp = np.add.outer(np.arange(side), np.arange(side)) % 180
    luma = [np.roll(ramp + noise, 3 * i, 1).astype(np.uint8) for i in range(count)]
    return [np.concatenate([y, np.full((side // 2, side), 128, np.uint8)]) for y in luma]


def test_a_key_frame_is_no_burst() -> None:
    encoder = encode.make_encoder("H264", rate.Rate(rate.Limits.of(512, 512)))
    sizes = [sum(map(len, encoder.payloads(p, i * 3000, key=i == 20))) for i, p in enumerate(moving(40))]
    assert max(sizes) <= 2 * 2_500_000 / 8 / 15  # twice the VBV; the stock encoder spends 160 kB here
    assert sum(sizes[10:]) * 8 < 1.15 * 2_500_000


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_the_bit_rate_is_kept(codec: str) -> None:
    encoder = encode.make_encoder(codec, rate.Rate(rate.Limits.of(512, 512)))
    sizes = [sum(map(len, encoder.payloads(p, i * 3000, key=False))) for i, p in enumerate(moving(90))]
    assert 0.6 * 2_500_000 < sum(sizes[30:]) * 8 / 2 < 1.2 * 2_500_000


def test_h264_says_bt709_in_all_four_tags() -> None:
    decoder = av.CodecContext.create("h264", "r")
    frames = decoder.decode(av.Packet(film("H264", 1)[0].data)) + decoder.decode(None)
    got = frames[0]
    assert (got.colorspace, got.color_primaries, got.color_trc, got.color_range) == (1, 1, 1, 1)


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_colours_survive_the_codec(codec: str) -> None:
    encoder = encode.make_encoder(codec, rate.Rate(rate.Limits.of(512, 512)))
    planes = Picture(Frame(patches()), None, 1).planes(encoder.matrix)
    decoder = av.CodecContext.create("h264" if codec == "H264" else "libvpx", "r")
    kind = SimpleNamespace(name=codec)
    for number in range(8):
        payloads = encoder.payloads(planes, number * 3000, key=False)
        data = b"".join(depayload(kind, payload) for payload in payloads)  # type: ignore[arg-type]
        pictures = decoder.decode(av.Packet(data))
    assert worst(colour.ToRgb()(pictures[-1])) <= 4


def test_an_encoder_that_does_not_work_here_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(width: int, height: int, bits: int) -> av.VideoCodecContext:
        raise av.FFmpegError(1, "no such device")

    encode.h264_name.cache_clear()
    monkeypatch.setattr(encode, "H264_MAKERS", {"h264_nvenc": broken, "libx264": encode.x264})
    assert encode.h264_name() == "libx264"
    encode.h264_name.cache_clear()
    monkeypatch.setattr(encode, "H264_MAKERS", {"h264_nvenc": broken})
    assert encode.h264_name() is None
    encode.h264_name.cache_clear()


def test_where_a_card_gives_no_further_session_x264_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        name = "h264_nvenc"

        def open(self) -> None:
            raise av.FFmpegError(1, "out of sessions")

    monkeypatch.setattr(encode, "h264_name", lambda: "h264_nvenc")
    monkeypatch.setattr(encode, "H264_MAKERS", {"h264_nvenc": lambda *_: Full()})
    assert encode.h264(256, 256, 500_000).name == "libx264"


# ---------------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize(
    ("matrix", "kr", "kb"), [(Colorspace.ITU709, 0.2126, 0.0722), (Colorspace.ITU601, 0.299, 0.114)]
)
def test_planes_are_by_the_book(matrix: Colorspace, kr: float, kb: float) -> None:
    """ITU-T H.273 section 8.3, limited range."""
    planes = colour.ToPlanes(matrix)(patches())
    red, green, blue = PALETTE.astype(float).T / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    want = 16 + 219 * luma, 128 + 112 * (blue - luma) / (1 - kb), 128 + 112 * (red - luma) / (1 - kr)
    chroma = planes[256:].reshape(2, 128, 128)
    got = planes[32:256:64, 32:256:64], chroma[0, 16:128:32, 16:128:32], chroma[1, 16:128:32, 16:128:32]
    for measured, expected in zip(got, want, strict=True):
        assert np.abs(measured.ravel() - expected).max() <= 1


def test_odd_sides_lose_their_last_row_and_column() -> None:
    assert colour.ToPlanes()(np.zeros((35, 51, 3), np.uint8)).shape == (51, 50)


def coded(matrix: Colorspace, full: bool) -> av.VideoFrame:
    """The patches as an untagged picture."""
    picture = av.VideoFrame.from_ndarray(patches(), format="rgb24")
    out = picture.reformat(format="yuv420p", src_colorspace=matrix, dst_colorspace=matrix, src_color_range=2,
                           dst_color_range=2 if full else 1)  # fmt: skip
    out.colorspace = 2
    return out


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("code", "matrix"), [(1, Colorspace.ITU709), (5, Colorspace.ITU601), (6, Colorspace.ITU601)])
def test_pictures_are_read_by_their_tags_or_by_what_was_told(code: int, matrix: Colorspace, full: bool) -> None:
    to_rgb, picture = colour.ToRgb(), coded(matrix, full)
    assert worst(to_rgb(picture, ColourSpace(code, full))) <= 3
    picture.colorspace, picture.color_range = code, 2 if full else 1
    assert worst(to_rgb(picture)) <= 3
    assert worst(to_rgb(picture, ColourSpace(9, not full))) <= 3  # the tags count for more


def test_an_untagged_picture_is_bt601() -> None:
    assert worst(colour.ToRgb()(coded(Colorspace.ITU601, full=False))) <= 3


def test_the_colour_space_is_read_from_the_packets_header() -> None:
    known = ExtensionsMap()
    known.configure(RTCRtpParameters(headerExtensions=[
        RTCRtpHeaderExtensionParameters(8, COLOUR_SPACE),
        RTCRtpHeaderExtensionParameters(2, "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"),
    ]))  # fmt: skip
    profile, value = pack_header_extensions([(2, b"\0\0\x05"), (8, bytes([1, 13, 1, 0x20]))])
    got = known.get(profile, value)
    assert isinstance(got, Extensions)
    assert (got.abs_send_time, got.colour_space) == (5, ColourSpace(matrix=1, full=True))
    plain = known.get(*pack_header_extensions([(2, b"\0\0\x05")]))
    assert not isinstance(plain, Extensions)
    assert ColourSpace.parse(bytes([6, 6, 6, 0x10])) == ColourSpace(matrix=6, full=False)
    assert ColourSpace.parse(b"\1") is None


# ------------------------------------------------------------------------------------------------------------ clock


def test_capture_times_come_from_sender_reports() -> None:
    clock = CaptureClock()
    assert clock.ms(0) is None
    unix_s = 1_795_000_000.25
    clock.report(int((unix_s + 2_208_988_800) * 2**32), 900_000)
    assert clock.ms(900_000) == pytest.approx(unix_s * 1000, abs=0.01)
    assert clock.ms(900_000 - 9000) == pytest.approx(unix_s * 1000 - 100, abs=0.01)


def test_a_report_that_is_late_does_not_move_the_clock_and_a_clock_that_was_set_does() -> None:
    clock = CaptureClock()
    for k, late_ms in enumerate([0, 80, 1, 0, 90, 2]):
        clock.report(int((1000 + k + late_ms / 1000 + 2_208_988_800) * 2**32), k * 90_000)
    assert clock.ms(0) == pytest.approx(1_000_000, abs=2)
    clock.report((5000 + 2_208_988_800) * 2**32, 7 * 90_000)
    assert clock.ms(7 * 90_000) == pytest.approx(5_000_000, abs=0.1)


def test_the_time_base_of_pictures_is_that_of_rtp() -> None:
    frame = encode.video_frame(np.zeros((96, 64), np.uint8), 90_000, key=False)
    assert frame.pts * frame.time_base == Fraction(1)
