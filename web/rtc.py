"""One browser over WebRTC: its offer is answered, its camera received, the painted picture sent, its messages heard.

peer, answer_sdp = await Peer.answer(offer_sdp, receive=..., pictures=..., control=..., on_closed=..., shape=...)
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiortc import RTCDataChannel, RTCSessionDescription
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from aiortc.rtcrtptransceiver import RTCRtpTransceiver

from stream.frame import Frame
from web.media import pools
from web.media.connection import LiveConnection, hint_bitrate
from web.media.encode import h264_name
from web.media.ice import Ice
from web.media.rate import EXPECTED
from web.media.rate import Limits as Bitrates
from web.media.receiver import LiveReceiver, Shape
from web.media.sender import LiveSender, PaintedTrack
from web.media.sound import Sound, SoundTrack
from web.network import Network
from web.offer import OfferError, OfferLimits, checked, first_section
from web.pictures import Picture, Pictures, Watcher

__all__ = ["Control", "Limits", "OfferError", "Peer", "Picture", "Pictures", "Send", "Watcher"]

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], None]
Receive = Callable[[Frame], None]

CONTROL = "control"  # the data channel's label
CHECK_EVERY_S = 0.25
CLOSE_S = 3.0
DRAIN_S = 0.2

# aiortc takes offers at their word: these are what 200 mutated ones raised, and the refusals it documents
FAULTS = (AssertionError, AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)
REFUSALS = (InternalError, InvalidAccessError, InvalidStateError, OperationError)


class Control(Protocol):
    """What hears the page's data channel "control". All are called on the event loop."""

    def connected(self, send: Send) -> None:
        """The channel is open; `send` sends a JSON object, and drops it when the channel is closed or choked."""

    def received(self, message: str) -> None:
        """A text message of at most 16 KiB (larger and binary ones are dropped and counted)."""

    def closed(self) -> None:
        """The channel is gone; called once, and only after `connected`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one page may ask for, and how long it may keep silent."""

    offer: OfferLimits = field(default_factory=OfferLimits)
    message_bytes: int = 16 * 1024
    unsent_bytes: int = 256 * 1024  # that may wait in the data channel
    connect_s: float = 10.0
    silent_s: float = 5.5  # nothing at all heard: the other side is gone, and its place is free within 6 s
    idle_s: float = 5.5  # no picture from a page that offered to send some and is not hidden


class Channel:
    """A data channel, as `Control` hears it."""

    def __init__(self, channel: RTCDataChannel, control: Control, limits: Limits) -> None:
        self._channel, self._control, self._limits = channel, control, limits
        self._gone = False
        self.refused = self.unsent = 0
        channel.on("message", self._message)
        channel.on("close", self.gone)
        control.connected(self.send)

    def send(self, message: dict[str, Any]) -> None:
        if self._channel.readyState != "open" or self._channel.bufferedAmount > self._limits.unsent_bytes:
            self.unsent += 1
        else:
            self._channel.send(json.dumps(message, separators=(",", ":")))

    async def drained(self) -> None:
        """Waits a moment for what was sent last: it is lost when the transport is closed over it."""
        end = time.monotonic() + DRAIN_S
        while self._channel.readyState == "open" and self._channel.bufferedAmount and time.monotonic() < end:
            await asyncio.sleep(0.01)

    def gone(self) -> None:
        if not self._gone:
            self._gone = True
            self._control.closed()

    def _message(self, message: str | bytes) -> None:
        if isinstance(message, bytes) or len(message.encode()) > self._limits.message_bytes:
            self.refused += 1
        else:
            self._control.received(message)


class Idle:
    """For how long a counter has stood still."""

    def __init__(self, now: float) -> None:
        self._count, self._since = 0, now

    def seconds(self, count: int, now: float) -> float:
        if count != self._count:
            self._count, self._since = count, now
        return now - self._since

    def restart(self, now: float) -> None:
        self._since = now


class Peer:
    """One RTCPeerConnection. Closes itself (connect time-out, silence, no pictures) and says so once by `on_closed`.

    `hidden` is for the session to set when the page says so: sending no pictures is no reason to close then.
    `state` is "connecting", "connected" or "closed".
    """

    def __init__(
        self, connection: LiveConnection, control: Control | None, on_closed: Callable[[str], None], limits: Limits
    ) -> None:
        self._connection, self._control, self._on_closed, self._limits = connection, control, on_closed, limits
        self._sender: LiveSender | None = None
        self._receiver: LiveReceiver | None = None
        self._sound: SoundTrack | None = None
        self._channel: Channel | None = None
        self._closing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opened = time.monotonic()
        self._silence, self._no_pictures = Idle(self._opened), Idle(self._opened)
        self.hidden = False
        self.state = "connecting"
        connection.on("datachannel", self._datachannel)
        connection.on("connectionstatechange", self._state_changed)
        connection.on_broken = self._end

    @classmethod
    async def answer(
        cls,
        offer_sdp: str,
        *,
        receive: Receive | None,
        pictures: Pictures | None,
        control: Control | None,
        on_closed: Callable[[str], None],
        shape: Shape | None = None,
        sound: Sound | None = None,
        limits: Limits | None = None,
        network: Network | None = None,
    ) -> tuple[Peer, str]:
        """The peer and the answer's SDP.

        `receive` is called on the event loop with every newest camera frame: RGB, fitted to `shape()` (width, height
        and how to fit; asked for each frame, in a thread), `pts` in 1/90000 s, `captured_at` the server's monotonic
        time of its first packet. None: the page's video is not taken (a viewer, a source on the server). Without
        `pictures` nothing is sent, without `control` nothing is said (a WHIP publisher).
        `sound` is what a page hears that offers to, and what one brings to whose pictures are taken.
        `on_closed(reason)` is called once, on the event loop, also after `close()`, but not when this raises:
        OfferError for every bad offer, PortsError where no UDP port is free.
        """
        limits = limits or Limits()
        offer = RTCSessionDescription(checked(offer_sdp, limits.offer), "offer")
        await asyncio.get_running_loop().run_in_executor(pools.encoding(), h264_name)
        connection = LiveConnection(network)
        peer = cls(connection, control, on_closed, limits)
        try:
            with refusing():
                await connection.setRemoteDescription(offer)
            peer._arrange(receive, pictures, shape)
            if sound is not None:
                peer._arrange_sound(sound)
            with refusing():
                await connection.setLocalDescription(await connection.createAnswer())
        except BaseException:  # whatever it was, also a cancelled request: nothing stays behind, nobody is told
            connection.remove_all_listeners()
            connection.on_broken = None
            await peer._discard()
            raise
        peer._check()
        sdp = connection.localDescription.sdp
        connection.ice.section = first_section(sdp)
        return peer, sdp

    @property
    def ice(self) -> Ice:
        """For candidates that come later, and restarts."""
        return self._connection.ice

    def captured_ms(self, pts: int) -> float | None:
        """When a received frame of that `pts` was captured, in ms of the page's wall clock (`Date.now()`), from its
        RTCP sender reports; None before the first (about a second)."""
        return self._receiver.clock.ms(pts) if self._receiver else None

    def sent(self) -> list[tuple[int, float]]:
        """`(RTP timestamp, captured_ms)` of the pictures sent since the last call: the message "frames"."""
        if self._sender is None:
            return []
        times = list(self._sender.times)
        self._sender.times.clear()
        return times

    def statistics(self) -> dict[str, Any]:
        """Counters since the start; rates in bits a second, times in ms."""
        figures: dict[str, Any] = {"transport": "webrtc", "state": self.state, "hidden": self.hidden,
                                   "bytes": self._connection.bytes}  # fmt: skip
        if self._receiver is not None:
            figures["in"] = received(self._receiver)
        if self._sender is not None:
            figures["out"] = sent(self._sender)
        if self._channel is not None:
            figures["control"] = {"refused": self._channel.refused, "unsent": self._channel.unsent}
        return figures

    async def close(self) -> None:
        """Idempotent; within about a second; frees sockets, tasks and codecs."""
        self._end("closed by the server")
        assert self._closing is not None
        await asyncio.shield(self._closing)

    # --- the connection ---------------------------------------------------------------------------------------------

    def _arrange(self, receive: Receive | None, pictures: Pictures | None, shape: Shape | None) -> None:
        """The first section that can takes the painted picture, the first that can brings the camera; others rest."""
        for transceiver in self._connection.getTransceivers():
            transceiver.direction = "inactive"
        for transceiver, sender, receiver in self._connection.video():
            offered = transceiver._offerDirection or "inactive"  # as seen from here
            if "recv" in offered and receive is not None and self._receiver is None:
                self._receive_by(transceiver, receiver, receive, shape)
            if "send" in offered and pictures is not None and self._sender is None:
                self._send_by(transceiver, sender, pictures)
        if self._receiver is None and self._sender is None:
            raise OfferError("the offer neither takes a picture nor brings one: make its video sendrecv or recvonly")

    def _arrange_sound(self, sound: Sound) -> None:
        """The first audio section that can takes the sound, the first that can brings it, with the camera it is of."""
        sent = received = False
        for transceiver, sender, receiver in self._connection.audio():
            offered = transceiver._offerDirection or "inactive"  # as seen from here
            brings = "recv" in offered and self._receiver is not None and not received
            takes = "send" in offered and self._sender is not None and not sent
            if not leave_opus(transceiver) or not (brings or takes):
                continue
            if brings:
                receiver.bring(sound.feed(), self._receiver)
                received = True
            if takes:
                self._sound = SoundTrack(sound)
                sender.replaceTrack(self._sound)
                sent = True
            transceiver.direction = {(True, True): "sendrecv", (True, False): "recvonly"}.get(
                (brings, takes), "sendonly"
            )

    def _receive_by(
        self, transceiver: RTCRtpTransceiver, receiver: LiveReceiver, receive: Receive, shape: Shape | None
    ) -> None:
        transceiver.direction = "recvonly"
        bits = Bitrates.of(*EXPECTED)
        self._connection.answer_colours(transceiver)
        hint_bitrate(transceiver, bits.low, bits.start, bits.high)
        receiver.on_frame, receiver.shape = receive, shape
        self._receiver = receiver

    def _send_by(self, transceiver: RTCRtpTransceiver, sender: LiveSender, pictures: Pictures) -> None:
        transceiver.direction = "sendrecv" if transceiver.direction == "recvonly" else "sendonly"
        leave_what_can_be_encoded(transceiver)
        track = PaintedTrack(pictures)
        track.on("ended", lambda: self._end("the pictures ended"))
        sender.replaceTrack(track)
        self._sender = sender

    def _datachannel(self, channel: RTCDataChannel) -> None:
        if channel.label == CONTROL and self._channel is None and self._control is not None:
            self._channel = Channel(channel, self._control, self._limits)
        else:
            channel.close()

    def _state_changed(self) -> None:
        state = self._connection.connectionState
        if state == "connected" and self.state == "connecting":
            self.state = "connected"
            self._no_pictures.restart(time.monotonic())
        elif state in ("failed", "closed"):
            self._end(f"the connection {state}")

    # --- the end ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Every now and then: is the page still there?"""
        reason = self._overdue(time.monotonic())
        if reason is not None:
            self._end(reason)
        elif self._closing is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_EVERY_S, self._check)

    def _overdue(self, now: float) -> str | None:
        limits = self._limits
        if self.state == "connecting":
            return f"not connected within {limits.connect_s:g} s" if now - self._opened > limits.connect_s else None
        if self.hidden or self._receiver is None:
            self._no_pictures.restart(now)
        elif self._no_pictures.seconds(self._receiver.received, now) > limits.idle_s:
            return f"no picture for {limits.idle_s:g} s"
        silent = self._silence.seconds(self._connection.heard, now) > limits.silent_s
        return f"nothing heard for {limits.silent_s:g} s" if silent else None

    def _end(self, reason: str) -> None:
        if self._closing is None:
            self.state = "closed"
            self._closing = asyncio.get_running_loop().create_task(self._shut(reason))

    async def _shut(self, reason: str) -> None:
        log.debug("a peer ends: %s", reason)
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None:
            await self._channel.drained()
        try:
            await self._discard()
        finally:  # whatever aiortc does at its end, the session hears of it
            if self._channel is not None:
                self._channel.gone()
            self._on_closed(reason)

    async def _discard(self) -> None:
        """Frees what the connection holds."""
        if self._sender is not None and self._sender.track is not None:
            self._sender.track.remove_all_listeners()
            self._sender.track.stop()
        if self._sound is not None:
            self._sound.stop()
        try:
            await asyncio.wait_for(self._connection.close(), CLOSE_S)
        except TimeoutError:
            log.warning("a peer connection did not close within %g s", CLOSE_S)


@contextmanager
def refusing() -> Iterator[None]:
    """Whatever aiortc makes of a bad offer becomes an OfferError."""
    try:
        yield
    except (*FAULTS, *REFUSALS) as error:
        raise OfferError(f"the offer cannot be answered ({error!r}): send an SDP offer made by a browser") from error


def leave_what_can_be_encoded(transceiver: RTCRtpTransceiver) -> None:
    """Takes H.264 out of the answer where no encoder for it works."""
    if h264_name() is not None:
        return
    types = {codec.payloadType for codec in transceiver._codecs if codec.name == "H264"}
    kept = [c for c in transceiver._codecs if c.payloadType not in types and c.parameters.get("apt") not in types]
    if not kept:
        raise OfferError("the offer has H.264 alone, for which there is no encoder here: offer VP8 as well")
    transceiver._codecs = kept


def leave_opus(transceiver: RTCRtpTransceiver) -> bool:
    """Takes all but Opus out of the answer, as nothing is encoded anew; False where that leaves nothing."""
    kept = [codec for codec in transceiver._codecs if codec.name.lower() == "opus"]
    if kept:
        transceiver._codecs = kept
    return bool(kept)


def received(receiver: LiveReceiver) -> dict[str, Any]:
    """Of the camera: `dropped` were decoded but a newer one was there, `damaged` could not be decoded."""
    decoding, nacks = receiver.decoding, receiver.nacks
    return {
        "codec": receiver.codec,
        "frames": receiver.received,
        "dropped": decoding.dropped,
        "damaged": decoding.damaged,
        "waiting": len(decoding),
        "decode_ms": round(receiver.decode_ms, 2),
        "lost": receiver.buffer.given_up,
        "nacks": nacks.asked,
        "recovered": nacks.recovered,
        "key_requests": receiver.keys.count,
    }


def sent(sender: LiveSender) -> dict[str, Any]:
    """Of the painted picture: `dropped` were shown while the one before was still being encoded, or came when too many
    waited to be sent. `encode_ms`, `encoders` are of the encoder that others may share, on its `rung`."""
    seat, rtt = sender.seat, sender.rtt_s
    encoding = seat.encoding if seat is not None else None
    return {
        "codec": sender.codec,
        "frames": sender.sent,
        "dropped": seat.dropped if seat is not None else 0,
        "keys": seat.keys if seat is not None else 0,
        "encode_ms": round(encoding.encode_ms, 2) if encoding is not None else 0.0,
        "encoders": encoding.builds if encoding is not None else 0,
        "rung": seat.rung if seat is not None else 0,
        "bitrate": sender.rate.target,
        "loss": round(sender.rate.loss, 4),
        "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
    }
