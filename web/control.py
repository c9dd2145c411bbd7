"""One page's control channel: its messages read, bounded and followed, the session's told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal, Protocol

from stream.control.desk import Desk
from stream.control.hub import Hub
from stream.errors import LivebrushError, SettingsError
from stream.settings import Settings
from web.auth import Rate
from web.bodies import FollowBody
from web.fields import MESSAGES_A_SECOND
from web.messages import (
    BeatTold,
    ErrorTold,
    FollowAsked,
    FollowsTold,
    Hidden,
    Latency,
    MessageError,
    MorphAsked,
    Ping,
    Pong,
    Said,
    ServerMessage,
    SettingsAsked,
    SettingsTold,
    Steering,
    TapAsked,
    read,
)
from web.wishes import Tell

Send = Callable[[dict[str, Any]], None]
Transport = Literal["webrtc", "websocket"]


class Controlled(Protocol):
    """What a channel steers: its session."""

    @property
    def settings(self) -> Settings: ...
    def joined(self, channel: Channel) -> None: ...
    def parted(self, channel: Channel) -> None: ...
    def change(self, changes: Mapping[str, Any], tell: Tell, by: Channel | None = None) -> None: ...
    def hide(self, hidden: bool) -> None: ...
    @property
    def hub(self) -> Hub: ...
    @property
    def desk(self) -> Desk: ...


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON has them."""
    return settings.model_dump(mode="json")


class Channel:
    """The `Control` of a peer, and of a WebSocket. `may_change` is false for those who only look on."""

    def __init__(
        self,
        session: Controlled,
        transport: Transport,
        *,
        may_change: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport, self.latency = transport, Latency(type="latency", p50=0, p95=0, count=0)
        self._session, self._may_change, self._clock = session, may_change, clock
        self._rate = Rate(MESSAGES_A_SECOND, 1.0, clock)
        self._complaints = Rate(1, 1.0, clock)  # about the rate: once a second
        self._send: Send | None = None

    # ------------------------------------------------------------------------------------------- `Control`

    def connected(self, send: Send) -> None:
        """The page hears from now on."""
        self._send = send
        self._session.joined(self)

    def received(self, message: str) -> None:
        """Follows a message of the page; answers with an error where it is none, or one too many."""
        if self._rate.wait_s():
            if not self._complaints.wait_s():
                self.tell(ErrorTold(error=f"more than {MESSAGES_A_SECOND} messages a second: some were dropped"))
            return
        try:
            self._follow(read(message))
        except MessageError as error:
            self.tell(ErrorTold(error=str(error)))

    def closed(self) -> None:
        """The page hears no more."""
        self._send = None
        self._session.parted(self)

    # ------------------------------------------------------------------------------------------- the session's side

    @property
    def open(self) -> bool:
        return self._send is not None

    def tell(self, message: ServerMessage) -> None:
        """Sends a message, if anybody hears it."""
        if self._send is not None:
            self._send(message.model_dump(mode="json"))

    def _follow(self, message: Said) -> None:
        match message:
            case Ping():
                self.tell(Pong(t=message.t, now=self._clock() * 1000))
            case Latency():
                self.latency = message
            case Hidden() if self._may_change:
                self._session.hide(message.hidden)
            case SettingsAsked() if self._may_change:
                self._change(message)
            case TapAsked() | MorphAsked() | FollowAsked() if self._may_change:
                self._steer(message)
            case SettingsAsked() | TapAsked() | MorphAsked() | FollowAsked():
                self.tell(ErrorTold(error="this page only looks on: change settings where the picture comes from"))

    def _change(self, message: SettingsAsked) -> None:
        def tell(settings: Settings, error: str | None) -> None:
            self.tell(SettingsTold(id=message.id, settings=plain(settings), error=error))

        try:
            self._session.change(message.changes, tell, self)
        except SettingsError as error:
            tell(self._session.settings, str(error))

    def _steer(self, message: Steering) -> None:
        hub, desk = self._session.hub, self._session.desk
        try:
            match message:
                case TapAsked():
                    hub.beat.tap(hub.clock())
                case MorphAsked():
                    hub.morph(message.to, message.seconds, session=desk)
                case FollowAsked():
                    hub.follow(message.setting, followed(message.follow), session=desk)
        except LivebrushError as error:
            self.tell(ErrorTold(error=str(error)))


def followed(body: FollowBody | None) -> dict[str, Any] | None:
    """What a follower is made of."""
    return None if body is None else body.model_dump(exclude_none=True)


def beat_told(hub: Hub) -> BeatTold:
    """The beat as it is now."""
    return BeatTold(**asdict(hub.beat.facts(hub.clock())))


def follows_told(desk: Desk) -> FollowsTold:
    """Who follows it."""
    return FollowsTold(follows=dict(desk.follows))
