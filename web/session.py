"""A session: one page's pictures in, its settings, the painted pictures out.

Everything here runs on the event loop, and nothing here waits for the worker: while it is not there, a session shows
its own input and says why.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from stream.control.hub import Hub
from stream.frame import Frame
from stream.preprocess import Fit
from stream.settings import SIDE_LIMITS, Settings
from stream.supervisor import Counts, Painted, Stream, Supervisor
from web import loras
from web.bodies import Loras, ModelFacts, Place, SourceFacts
from web.config import VIEWERS
from web.control import Channel, Transport, beat_told, follows_told, plain
from web.errors import RefusalError
from web.fields import SourceName, State
from web.inputs import BROUGHT, Pumps
from web.media.sound import Sound
from web.messages import Bye, FramesTold, LorasTold, ServerMessage, SettingsTold, SourceTold, StateTold, Stats, Welcome
from web.metrics import Figures
from web.outputs import Outputs
from web.pictures import Pictures
from web.publishing import Publisher, Publishing
from web.pump import title
from web.rtc import Control
from web.statistics import Meter, summed
from web.wishes import Tell, Wishes

log = logging.getLogger("livebrush")
SAID_S = 3.0  # after the last frame that could not be painted
CLOSE_S = 2.0  # a page that takes longer is left behind
WORKER: dict[str, State] = {
    "starting": "starting",
    "restarting": "restarting",
    "failed": "failed",
    "stopped": "stopping",
}


class Link(Protocol):
    """What connects a page: a `Peer`, or a WebSocket."""

    hidden: bool

    def captured_ms(self, pts: int) -> float | None:
        """When a received frame was captured, by the page's wall clock in ms."""

    def sent(self) -> list[tuple[int, float]]:
        """RTP timestamps of what was sent since the last call, with the capture times."""

    def statistics(self) -> dict[str, Any]: ...
    async def close(self) -> None: ...


class Answers(Protocol):
    """`Peer.answer`, or a fake."""

    def __call__(
        self,
        offer_sdp: str,
        *,
        receive: Callable[[Frame], None] | None,
        pictures: Pictures | None,
        control: Control | None,
        on_closed: Callable[[str], None],
        shape: Callable[[], tuple[int, int, Fit]] | None = None,
        sound: Sound | None = None,
    ) -> Awaitable[tuple[Link, str]]: ...


@dataclass(frozen=True, eq=False)
class Page:
    """A page that is connected: the session's own, or one that looks on."""

    link: Link
    channel: Channel


@dataclass(frozen=True)
class World:
    """What all sessions share, and none of them owns."""

    supervisor: Supervisor
    answers: Answers
    pumps: Pumps
    clock: Callable[[], float]
    count: Callable[[], int]  # sessions there are
    end: Callable[[Session, str], None]  # asks for a session's end
    figures: Figures
    hub: Hub  # of live control
    viewers: int = VIEWERS  # that may look on at one session

    def model(self) -> ModelFacts:
        """What is known of the model."""
        facts, ready = self.supervisor.facts, self.supervisor.state == "ready"
        engine, multiple = (facts.engine, facts.multiple) if ready else (None, None)
        return ModelFacts(name=facts.model, about=facts.about, engine=engine, multiple=multiple)

    def loras(self) -> Loras:
        """What is in the weights."""
        return loras.facts(self.supervisor)


def near(settings: Settings, multiple: int) -> Settings:
    """These settings in the nearest size whose sides are multiples of `multiple`."""

    def side(value: int) -> int:
        low = -(-SIDE_LIMITS[0] // multiple) * multiple
        return max(low, min(round(value / multiple) * multiple, SIDE_LIMITS[1] // multiple * multiple))

    return settings.changed(width=side(settings.width), height=side(settings.height))


class Session:
    """One page's picture. Made by `Sessions.admit`, which owns it; the `Listener` of its stream."""

    def __init__(self, world: World, settings: Settings, source: SourceName, name: str | None = None) -> None:
        """`name`: it stands, under a name that everybody may know, whoever comes and goes; else it is of one page, and
        its id is the page's secret."""
        self.id, self.source, self.pictures = secrets.token_urlsafe(16), title(source), Pictures()
        self.name, self.sound = name, Sound(lambda: self.source in BROUGHT)  # of a machine's source nobody brings any
        self.outputs = Outputs(self.pictures, self.sound, self.tell)
        self.page: Page | None = None
        self.publishing = Publishing(name, self._tell_state, self._gone)
        self.viewers: dict[str, Page] = {}
        self.last_input = self.since = world.clock()
        self.ends_at: float | None = None  # by the same clock, while others wait
        self._counted, self._moved = Counts(), dict[Page, dict[str, int]]()  # what is in the figures already
        self._world, self._meter = world, Meter(world.clock)
        self._wishes = Wishes(settings, self._apply)
        self._stream: Stream | None = None
        self._channels: set[Channel] = set()
        self._undo: list[Callable[[], None]] = []
        self._newest: Frame | None = None
        self._painting = False  # whether painted pictures come; else the input is shown
        self._held = False  # whether the worker follows settings of this session
        self._refused = False  # whether it can follow none
        self._closing = False
        self._asked_source = source  # as `source`, with the passwords in it
        self._first_source = source
        self._leave: Callable[[], None] | None = None  # the source of this machine
        self._noticed = ""
        self._failed_at: float | None = None  # when what is noticed happened, where it is of one frame only
        self._told: tuple[State, str] | None = None
        self._told_loras: Loras | None = None
        self._told_settings = settings  # to every page
        self.desk = world.hub.open(self)

    # ------------------------------------------------------------------------------------------- facts

    @property
    def hub(self) -> Hub:
        """Of live control."""
        return self._world.hub

    @property
    def settings(self) -> Settings:
        """What holds, as far as is known."""
        return self._wishes.held

    @property
    def label(self) -> str:
        """What it is called in logs: its name, or what tells nothing of its id."""
        return self.name or hashlib.sha256(self.id.encode()).hexdigest()[:8]

    @property
    def closing(self) -> bool:
        """Whether it has ended, or ends."""
        return self._closing

    @property
    def ends_in_s(self) -> float | None:
        """Seconds until it has to make room; None while nobody wants its place."""
        return None if self.ends_at is None else round(max(0.0, self.ends_at - self._world.clock()), 1)

    @property
    def state(self) -> State:
        if self._closing:
            return "stopping"
        if self._refused:
            return "failed"
        return WORKER.get(self._world.supervisor.state) or ("painting" if self._held else "starting")

    @property
    def remark(self) -> str:
        """A sentence for whoever looks, or nothing."""
        supervisor = self._world.supervisor
        awaited = self.publishing.remark if self.source == "whip" else self.input.remark if self.input else ""
        general = supervisor.facts.notice if supervisor.state == "ready" else ""
        return supervisor.notice or self._noticed or awaited or general

    @property
    def input(self) -> SourceFacts | None:
        """How its source is, where it is one of this machine."""
        return self._world.pumps.facts(self._asked_source) if self._leave is not None else None

    def shape(self) -> tuple[int, int, Fit]:
        """What pictures of this session look like. From any thread."""
        held = self._wishes.held
        return held.width, held.height, held.fit

    def stats(self, transport: Transport) -> Stats:
        """How it goes, as of the last `tick`."""
        supervisor, meter, stream = self._world.supervisor, self._meter, self._stream
        counts = None if stream is None else stream.counts
        return Stats(
            fps_in=meter.fps_in,
            fps_out=meter.fps_out,
            engine_ms=meter.engine_ms,
            server_ms=meter.server_ms,
            stages={name: summed(ms) for name, ms in supervisor.facts.stages.items()},
            dropped_in=counts.overwritten_in if counts else 0,
            dropped_out=counts.overwritten_out if counts else 0,
            skipped=counts.skipped if counts else 0,
            failed=counts.failed if counts else 0,
            skip_rate=stream.skip_rate if stream else 0.0,
            delay_frames=stream.delay if stream else 0,
            sessions=self._world.count(),
            restarts=supervisor.restarts,
            transport=transport,
            ends_in_s=self.ends_in_s,
        )

    @property
    def fps_in(self) -> float:
        """Pictures a second that come."""
        return self._meter.fps_in

    @property
    def fps(self) -> float:
        """Painted pictures a second."""
        return self._meter.fps_out

    @property
    def latency_ms(self) -> float | None:
        """Glass to glass, as the page measured it; None before it did."""
        latency = self.page.channel.latency if self.page else None
        return latency.p50 if latency and latency.count else None

    # ------------------------------------------------------------------------------------------- pages

    async def answer(self, sdp: str) -> str:
        """Connects the page that made the offer; the answer's SDP. OfferError where the offer is bad."""
        channel = Channel(self, "webrtc", clock=self._world.clock)
        receive = partial(self.brought, "page") if self.source == "page" else None
        link, answer = await self._world.answers(
            sdp, receive=receive, pictures=self.pictures, control=channel, on_closed=self._gone, shape=self.shape,
            sound=self.sound,
        )  # fmt: skip
        await self._still_open(link)
        self.attach(Page(link, channel))
        return answer

    def attach(self, page: Page) -> None:
        """The session begins: `page` is its own."""
        self.page = page
        self.begin()

    def begin(self) -> None:
        """Frames are painted from now on."""
        self._stream = self._world.supervisor.open(self.settings, self)
        self._undo += [self._stream.close, self._world.supervisor.watch(self._worker_changed)]
        self._take()

    async def view(self, sdp: str, *, may_change: bool = False) -> tuple[str, str]:
        """Connects one more page, which only looks on unless it `may_change` settings: its id and the answer's SDP.
        OfferError where the offer is bad."""
        if len(self.viewers) >= self._world.viewers:
            told = f"{self._world.viewers} pages look on already: close one of them, or start it with more --viewers"
            raise RefusalError(503, told, headers={"Retry-After": "10"})
        name = secrets.token_urlsafe(16)
        channel = Channel(self, "webrtc", may_change=may_change, clock=self._world.clock)
        link, answer = await self._world.answers(
            sdp, receive=None, pictures=self.pictures, control=channel, on_closed=lambda _reason: self._unview(name),
            sound=self.sound,
        )  # fmt: skip
        await self._still_open(link)
        self.viewers[name] = Page(link, channel)
        return name, answer

    async def publish(self, sdp: str) -> tuple[Publisher, str]:
        """Connects whoever brings the picture by WHIP, and the answer's SDP. RefusalError (409) where somebody does, or
        another source brings it; OfferError where the offer is bad."""
        if self._first_source != "whip":
            told = f"session {self.name!r} takes its picture from {self.source}: publish to another name"
            raise RefusalError(409, told)

        async def connect(left: Callable[[str], None]) -> tuple[Link, str]:
            link, answer = await self._world.answers(
                sdp, receive=partial(self.brought, "whip"), pictures=None, control=None, on_closed=left,
                shape=self.shape, sound=self.sound,
            )  # fmt: skip
            await self._still_open(link)
            return link, answer

        return await self.publishing.begin(connect)

    def joined(self, channel: Channel) -> None:
        """A page hears: it is told where it is."""
        self._channels.add(channel)
        settings, model = plain(self.settings), self._world.model()
        channel.tell(Welcome(session=self.name or self.id, settings=settings, model=model, state=self.state,
                             notice=self.remark, ends_in_s=self.ends_in_s))  # fmt: skip
        if self._leave is not None:
            channel.tell(SourceTold(source=self.source, input=self.input))
        if known := self._world.loras().loras:
            channel.tell(LorasTold(loras=known, changing=self._world.loras().changing))
        if (outputs := self.outputs.told).outputs:
            channel.tell(outputs)
        channel.tell(beat_told(self.hub))
        if self.desk.follows:
            channel.tell(follows_told(self.desk))

    def parted(self, channel: Channel) -> None:
        """A page hears no more."""
        self._channels.discard(channel)

    def hide(self, hidden: bool) -> None:
        """The page went out of sight, or came back."""
        if self.page is not None:
            self.page.link.hidden = hidden
        self.last_input = self._world.clock()

    def _unview(self, name: str) -> None:
        self.viewers.pop(name, None)

    def _gone(self, reason: str) -> None:
        self._world.end(self, reason)

    async def _still_open(self, link: Link) -> None:
        """A session may have ended while an offer was answered."""
        if self._closing:
            await link.close()
            raise RefusalError(503, "the session ended before it began: ask again", headers={"Retry-After": "1"})

    # ------------------------------------------------------------------------------------------- its source

    def switch(self, source: SourceName) -> None:
        """Takes its pictures from elsewhere from now on: the last one stays until the next comes. RefusalError where
        there is no such source."""
        if source not in BROUGHT:
            self._world.pumps.text(source)
        elif source != self._first_source and not (source == "whip" and self.name is not None):
            raise RefusalError(422, f"this session has no pictures from a {source}: begin one with that source")
        self._let_go()
        self.source, self._asked_source = title(source), source
        self._take()
        self._tell_source()

    def brought(self, by: SourceName, frame: Frame) -> None:
        """A picture that a page or a publisher sends, which is left aside while the session takes another source."""
        self.last_input = self._world.clock()
        if self.source == by:
            self.receive(frame)

    def _take(self) -> None:
        if self._asked_source not in BROUGHT:
            self._leave = self._world.pumps.subscribe(
                self._asked_source, self.shape, self.receive, lambda _facts: self._tell_source()
            )

    def _let_go(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def _tell_source(self) -> None:
        self.tell(SourceTold(source=self.source, input=self.input))
        self._tell_state()

    # ------------------------------------------------------------------------------------------- pictures

    def receive(self, frame: Frame) -> None:
        """A picture of the input: to the worker, and on the way out where no painted one comes."""
        if self._closing or self._stream is None:
            return
        self.last_input = self._world.clock()
        self._newest = frame
        self._meter.arrived()
        self._world.figures.frames_in.inc()
        self._stream.put(frame)
        if not self._painting:
            self._show(frame)
            self.sound.shown(frame.captured_at)

    def painted(self, picture: Painted) -> None:
        """The worker painted one."""
        self._painting = True
        server_ms = self._meter.left(picture.frame.captured_at, picture.engine_ms)
        self._world.figures.left(picture.engine_ms, server_ms)
        self._show(picture.frame)
        if not (picture.repeated or picture.primed):  # else it is of another moment than its frame
            self.sound.shown(picture.frame.captured_at)

    def _show(self, frame: Frame) -> None:
        captured_ms = None  # of a source on the server the page's clock says nothing
        if self.page is not None and self.source == "page":
            captured_ms = self.page.link.captured_ms(frame.pts)
        self.pictures.show(frame, captured_ms=captured_ms)

    def _show_input(self) -> None:
        """No painted pictures come any more: the newest input at once, and what follows it."""
        self._painting = False
        self._meter.forget()
        if self._newest is not None:
            self._show(self._newest)

    # ------------------------------------------------------------------------------------------- the worker

    def change(self, changes: Mapping[str, Any], tell: Tell, by: Channel | None = None) -> None:
        """A hand asks for other settings; `tell` hears what came of it, and every page but the one that asks (`by`)
        what holds then. SettingsError where they are wrong by themselves."""
        self.steer(changes, tell, by)
        self.desk.by_hand(changes.keys(), self._world.clock())

    def steer(
        self, changes: Mapping[str, Any], tell: Tell, by: Channel | None = None, *, quietly: bool = False
    ) -> None:
        """The same for what moves by itself; `quietly`: pages hear of it with the next `show_settings`."""

        def told(settings: Settings, error: str | None) -> None:
            tell(settings, error)
            if error is None and settings != self._told_settings and not quietly:
                self._tell_settings(settings, None, but=by)

        self._wishes.ask(changes, told)

    def applied(self, settings: Settings, error: str | None) -> None:
        """The worker's answer to new settings."""
        refused = error is not None and settings == self._wishes.wanted
        if self._wishes.answered(settings, error):
            self._tell_settings(settings, error)
        if refused:
            self._noticed = error or ""
            self._show_input()
        elif error is None:
            self._noticed = ""
        self._held = not refused
        self._refused = refused and not self._fit()
        self._tell_state()

    def notice(self, text: str) -> None:
        """Something that whoever looks should know."""
        self._noticed, self._failed_at = text, None
        self._tell_state()

    def failed(self, text: str) -> None:
        """A frame could not be painted: said until it goes well again for a while."""
        self.notice(f"a frame could not be painted: {text}")
        self._failed_at = self._world.clock()

    def _apply(self, settings: Settings) -> None:
        if self._stream is not None:
            self._stream.apply(settings)

    def _fit(self) -> bool:
        """A size that was asked for before the model was known becomes the nearest one that it can paint."""
        fit = near(self.settings, self._world.supervisor.facts.multiple)
        if fit == self.settings:
            return False
        self.steer({"width": fit.width, "height": fit.height}, self._tell_settings)
        return True

    def _worker_changed(self) -> None:
        if self._world.supervisor.state != "ready":
            self._wishes.lost()
            self._held = self._refused = False
            if self._painting:
                self._show_input()
        self._tell_state()
        self._tell_loras()

    # ------------------------------------------------------------------------------------------- telling

    def tell(self, message: ServerMessage, but: Channel | None = None) -> None:
        """Tells every page, `but` one."""
        for channel in tuple(self._channels):
            if channel is not but:
                channel.tell(message)

    def tick(self) -> None:
        """Once a second: how it goes."""
        self._meter.tick()
        self._count()
        if self._failed_at is not None and self._world.clock() - self._failed_at > SAID_S:
            self.notice("")
        for channel in tuple(self._channels):
            channel.tell(self.stats(channel.transport))

    def _count(self) -> None:
        """What came to be since the last time goes into the figures."""
        if self._stream is not None:
            before, self._counted = self._counted, self._stream.counts
            self._world.figures.dropped(before, self._counted)
        moved = {page: page.link.statistics().get("bytes", {}) for page in self._pages()}
        for page, now in moved.items():
            self._world.figures.moved(self._moved.get(page, {}), now)
        self._moved = moved

    def tell_frames(self) -> None:
        """Now and then: when the pictures that were sent were captured."""
        for page in self._pages():
            if at := page.link.sent():
                page.channel.tell(FramesTold(at=at))

    def show_settings(self) -> None:
        """Tells what moved by itself since pages were told."""
        if self.settings != self._told_settings:
            self._tell_settings(self.settings, None)

    def _tell_settings(self, settings: Settings, error: str | None, but: Channel | None = None) -> None:
        self._told_settings = settings
        self.tell(SettingsTold(settings=plain(settings), error=error), but)

    def _tell_state(self) -> None:
        now = self.state, self.remark
        if now != self._told:
            self._told = now
            self.tell(StateTold(state=now[0], notice=now[1]))

    def _tell_loras(self) -> None:
        now = self._world.loras()
        if now != self._told_loras and now.loras:
            self._told_loras = now
            self.tell(LorasTold(loras=now.loras, changing=now.changing))

    def _pages(self) -> list[Page]:
        return [*([self.page] if self.page else []), *self.viewers.values()]

    # ------------------------------------------------------------------------------------------- the end

    async def close(self, reason: str, place: Place | None = None) -> None:
        """Ends it: everybody is told, its page of a `place` in the queue as well, and everything let go of."""
        if self._closing:
            return
        self._closing = True
        self._count()
        self._let_go()
        self.hub.close(self.desk)
        for undo in self._undo:
            undo()
        own = self.page.channel if self.page else None
        self.tell(Bye(reason=reason), but=own)
        if own is not None:
            own.tell(Bye(reason=reason, queue=place))
        links = [*self.publishing.close(), *(page.link for page in self._pages())]
        ending = [*(link.close() for link in links), self.outputs.close()]
        await asyncio.wait([asyncio.ensure_future(job) for job in ending], timeout=CLOSE_S)
        self.pictures.close()
        self.sound.close()
