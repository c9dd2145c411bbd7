"""Live control over the web: presets, morphs, the beat, followers, MIDI, and `/api/control` for programs.

`Steering` runs what steers beside the pages (OSC, MIDI, Link) and tells the pages what moved. Controllers that name no
session mean the standing session `live`, else the one that was touched last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict
from typing import Annotated, Any, TypeVar, cast

from fastapi import APIRouter, Depends, Query, WebSocket
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from stream.config import STRONGEST, called
from stream.control import link, midi, osc
from stream.control.bindings import Bindings
from stream.control.follow import Follow
from stream.control.hub import Hub
from stream.control.presets import Preset, checked_name
from stream.errors import ControlError, SettingsError
from stream.settings import Settings
from stream.supervisor import Supervisor
from web import loras
from web.access import Role, needs, role_of
from web.auth import is_loopback
from web.bodies import (
    BeatAsked,
    BeatFacts,
    BindingsAsked,
    FollowBody,
    Follows,
    LearnAsked,
    MidiFacts,
    MorphBody,
    Nothing,
    OscFacts,
    PresetBody,
    PresetFacts,
    PresetList,
    PresetsAsked,
    Problem,
)
from web.config import Config
from web.control import Channel, beat_told, followed, follows_told
from web.errors import RefusalError, ServeError
from web.fields import SettingName
from web.messages import MidiTold, Refused
from web.session import Session
from web.sessions import Sessions

log = logging.getLogger("livebrush")
TELL_S = 0.1  # between two looks at what pages should know
TEXTS = 200  # messages that may wait for a slow program; then it is too slow
LAST_S = 0.5  # for the last words
WENT, POLICY, LATER = 1001, 1008, 1013  # RFC 6455, 7.4
STATUSES = {
    400: "The JSON cannot be read.",
    401: "Nobody is known: send a token.",
    403: "Another site's request, or the role is too small.",
    404: "It is not here.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A field or a setting is wrong.",
    503: "It cannot be kept, or had, here.",
}
LOOKS = (401, 403)
ASKS = (400, 401, 403, 408, 413, 415, 422)
T = TypeVar("T")
router = APIRouter()


def says(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of answers that are errors."""
    return {status: {"model": Problem, "description": STATUSES[status]} for status in statuses}


# ------------------------------------------------------------------------------------------------- what runs


class LoraKnobs:
    """LoRAs' strengths as controllers turn them: one change at a time, the newest strength of each."""

    def __init__(self, worker: Supervisor, hub: Hub) -> None:
        self._worker, self._hub = worker, hub
        self._asked: dict[str, float] = {}
        self._address = ""
        self._woken = asyncio.Event()

    def turn(self, address: str, name: str, strength: float) -> None:
        """A hand wants a strength. ControlError where there is no such LoRA."""
        known = called(self._worker.mixing.wanted)
        if name not in known:
            told = f"use {', '.join(known)}" if known else "start the server with --lora FILE:0"
            raise ControlError(f"lora {name[:80]!r} is unknown here: {told}")
        self._asked[name], self._address = strength_of(strength), address
        self._woken.set()

    async def run(self) -> None:
        """Passes them on, until it is cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            asked, self._asked = self._asked, {}
            try:
                await loras.change(self._worker, asked)
            except RefusalError as error:
                self._hub.complain(self._address, str(error))


def strength_of(value: float) -> float:
    """A LoRA's strength; ControlError where it is none."""
    if not abs(value) <= STRONGEST:
        raise ControlError(f"strength {value:g} is not between {-STRONGEST:g} and {STRONGEST:g}: use e.g. 0.8")
    return value


class Steering:
    """Owns OSC, MIDI and Link of the server, and tells the pages what moved by itself."""

    def __init__(self, config: Config, sessions: Sessions, worker: Supervisor) -> None:
        self.hub, self.osc = sessions.hub, cast("osc.Osc | None", None)
        backend = midi.load() if config.control.midi is not None else None
        self.midi = midi.Midi(self.hub, Bindings(config.control.folder), backend, config.control.midi or midi.ALL)
        self._config, self._sessions = config.control, sessions
        self._knobs = LoraKnobs(worker, self.hub)
        self._told: tuple[int, int] = (self.hub.beat.revision, 0)
        self._follows: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything of it runs meanwhile."""
        self.hub.turn_lora = self._knobs.turn
        jobs = [self.hub.run(), self._knobs.run(), self.midi.run(), self._tell()]
        if self._config.osc is not None or self._config.osc_out:
            self.osc = await opened(self._config.osc, self._config.osc_out, self.hub)
            jobs.append(self.osc.run())
        if self._config.link:
            jobs.append(link.Link(self.hub, link.load()).run())
        tasks = [asyncio.ensure_future(watched(job)) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.osc is not None:
                self.osc.close()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            self.tell()

    def tell(self) -> None:
        """Tells every page what it does not know yet."""
        now = self.hub.beat.revision, self.midi.revision
        news = [make() for make, was, is_ in zip((self._beat, self._midi), self._told, now, strict=True) if was != is_]
        self._told = now
        revisions = {}
        for session in self._sessions:
            session.show_settings()
            for message in news:
                session.tell(message)
            revisions[session.id] = session.desk.revision
            if self._follows.get(session.id, 0) != session.desk.revision:
                session.tell(follows_told(session.desk))
        self._follows = revisions

    def _beat(self) -> Any:
        return beat_told(self.hub)

    def _midi(self) -> MidiTold:
        return MidiTold(**dict(midi_facts(self.midi)))


async def watched(job: Coroutine[Any, Any, None]) -> None:
    """A job beside the others; where it fails, the log says so, and the others go on."""
    try:
        await job
    except Exception:
        log.exception("a part of live control ended")
        raise


async def opened(at: str | None, out: tuple[str, ...], hub: Hub) -> osc.Osc:
    """OSC, in and out; without an address only out, from any port. ControlError."""
    where: Any = osc.address(at) if at is not None else unheard()
    return await osc.Osc.open(hub, where, [osc.address(text) for text in out])


def unheard() -> socket.socket:
    """A UDP socket to send from."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def check(config: Config) -> None:
    """Whether everything that was asked for can be had; ServeError and ControlError say what cannot."""
    asked = config.control
    for text in asked.osc_out:
        osc.address(text)
    if asked.osc is not None:
        at = osc.address(asked.osc)
        if not is_loopback(at[0]) and not config.insecure:
            raise ServeError(
                f"osc address {at[0]} is open to the network, and OSC knows no passwords: use a port alone "
                f"({at[1]}), or add --insecure where everybody on the network may steer"
            )
        osc.bound(at).close()
    if asked.midi is not None:
        midi.load()
    if asked.link:
        link.load()


# ------------------------------------------------------------------------------------------------- what requests share


def steering(connection: HTTPConnection) -> Steering:
    """The application's own."""
    return cast(Steering, connection.app.state.house.steering)


def found(session: str, connection: HTTPConnection) -> Session:
    """The session that the path names."""
    return cast(Session, connection.app.state.house.sessions.find(session))


Has = Annotated[Steering, Depends(steering)]
Found = Annotated[Session, Depends(found)]
LOOK, STEER = [needs(Role.VIEW)], [needs(Role.CONTROL)]


def tried(what: Callable[[], T], status: int = 422) -> T:
    """The result of something; RefusalError where a controller would be told what is wrong."""
    try:
        return what()
    except (ControlError, SettingsError) as error:
        raise RefusalError(status, str(error)) from None


# ------------------------------------------------------------------------------------------------- presets


@router.get("/api/presets", dependencies=LOOK, responses=says(*LOOKS), tags=["control"])
async def presets(has: Has) -> PresetList:
    """Every preset with its settings: what another machine can import."""
    kept = await asyncio.to_thread(has.hub.presets.all)
    return PresetList(presets=[preset_facts(preset, number) for number, preset in enumerate(kept)])


@router.post("/api/presets", dependencies=STEER, responses=says(*ASKS, 503), tags=["control"])
async def import_presets(asked: PresetsAsked, has: Has) -> PresetList:
    """Imports presets; all of them, or none where one is wrong."""
    for preset in asked.presets:
        tried(lambda preset=preset: checked_preset(preset.name, preset.settings))  # type: ignore[misc]
    for preset in asked.presets:
        await kept(has, preset.name, preset.settings)
    return await presets(has)


@router.get("/api/presets/{name}", dependencies=LOOK, responses=says(*LOOKS, 404), tags=["control"])
async def preset(name: str, has: Has) -> PresetFacts:
    """One preset."""
    made = await asyncio.to_thread(tried, lambda: has.hub.presets.find(name), 404)
    return await asyncio.to_thread(numbered, has, made)


@router.put("/api/presets/{name}", dependencies=STEER, responses=says(*ASKS, 503), tags=["control"])
async def keep_preset(name: str, body: PresetBody, has: Has) -> PresetFacts:
    """Keeps settings under a name; what was there is replaced."""
    tried(lambda: checked_preset(name, body.settings))
    return await asyncio.to_thread(numbered, has, await kept(has, name, body.settings))


@router.delete(
    "/api/presets/{name}", status_code=204, dependencies=STEER, responses=says(*LOOKS, 404), tags=["control"]
)
async def delete_preset(name: str, has: Has) -> None:
    """Deletes one of the own presets."""
    await asyncio.to_thread(tried, lambda: has.hub.presets.delete(name), 404)


def checked_preset(name: str, settings: dict[str, Any]) -> None:
    """ControlError or SettingsError where it cannot be kept as it is."""
    checked_name(name)
    Settings.checked(**settings)


async def kept(has: Steering, name: str, settings: dict[str, Any]) -> Preset:
    """Keeps a preset that was checked."""
    return await asyncio.to_thread(tried, lambda: has.hub.presets.save(name, settings), 503)


def numbered(has: Steering, made: Preset) -> PresetFacts:
    """A preset with its place in the list."""
    names = has.hub.presets.names()
    return preset_facts(made, names.index(made.name) if made.name in names else len(names))


def preset_facts(made: Preset, number: int) -> PresetFacts:
    return PresetFacts(name=made.name, number=number, settings=made.settings, own=made.own, notes=list(made.notes))


@router.post("/api/sessions/{session}/morph", status_code=204, dependencies=STEER, responses=says(*ASKS, 404),
             tags=["control"])  # fmt: skip
async def morph(session: Found, body: MorphBody, has: Has) -> None:
    """Moves a session to a preset or to settings; those that follow the beat stay with it."""
    if isinstance(body.to, str):
        body = MorphBody(to=tried(lambda: has.hub.presets.find(cast(str, body.to)), 404).settings, seconds=body.seconds)
    tried(lambda: has.hub.morph(body.to, body.seconds, session=session.desk))


# ------------------------------------------------------------------------------------------------- the beat


@router.get("/api/beat", dependencies=LOOK, responses=says(*LOOKS), tags=["control"])
async def beat(has: Has) -> BeatFacts:
    """The beat, now."""
    return BeatFacts(**asdict(has.hub.beat.facts(has.hub.clock())))


@router.put("/api/beat", dependencies=STEER, responses=says(*ASKS), tags=["control"])
async def set_beat(asked: BeatAsked, has: Has) -> BeatFacts:
    """A tempo."""
    tried(lambda: has.hub.beat.set(asked.bpm, has.hub.clock(), asked.position))
    return await beat(has)


@router.post("/api/beat/tap", dependencies=STEER, responses=says(*ASKS), tags=["control"])
async def tap(has: Has, _body: Nothing | None = None) -> BeatFacts:
    """A beat, now; the last taps make the tempo. A body is not needed."""
    has.hub.beat.tap(has.hub.clock())
    return await beat(has)


@router.get("/api/sessions/{session}/follows", dependencies=LOOK, responses=says(*LOOKS, 404), tags=["control"])
async def follows(session: Found) -> Follows:
    """The settings that follow the beat."""
    return Follows(follows=dict(session.desk.follows))


@router.put("/api/sessions/{session}/follows/{setting}", dependencies=STEER, responses=says(*ASKS, 404),
            tags=["control"])  # fmt: skip
async def follow(session: Found, setting: SettingName, body: FollowBody, has: Has) -> Follow:
    """Lets a setting follow the beat, until a hand changes it."""
    tried(lambda: has.hub.follow(setting, followed(body), session=session.desk))
    return session.desk.follows[setting]


@router.delete("/api/sessions/{session}/follows/{setting}", status_code=204, dependencies=STEER,
               responses=says(*LOOKS, 404, 422), tags=["control"])  # fmt: skip
async def unfollow(session: Found, setting: SettingName, has: Has) -> None:
    """Lets it follow no longer; it stays where it is."""
    if setting not in session.desk.follows:
        raise RefusalError(404, f"{setting[:80]} does not follow the beat: see GET follows")
    has.hub.follow(setting, None, session=session.desk)


# ------------------------------------------------------------------------------------------------- MIDI and OSC


def midi_facts(has: midi.Midi) -> MidiFacts:
    """How it goes with MIDI."""
    return MidiFacts(
        ports=has.ports,
        trouble=has.trouble or ("" if has.listens else "no MIDI is heard: start the server with --midi all"),
        learning=has.learning,
        last=has.last,
        bindings=list(has.bindings.all),
        notes=list(has.bindings.notes),
    )


@router.get("/api/midi", dependencies=LOOK, responses=says(*LOOKS), tags=["control"])
async def midi_told(has: Has) -> MidiFacts:
    """MIDI: its inputs, and what moves what."""
    return midi_facts(has.midi)


@router.put("/api/midi", dependencies=STEER, responses=says(*ASKS, 503), tags=["control"])
async def bind(asked: BindingsAsked, has: Has) -> MidiFacts:
    """What moves what, instead of what did; kept in the user's folder."""
    await asyncio.to_thread(tried, lambda: has.midi.bindings.replace(tuple(asked.bindings)), 503)
    has.midi.revision += 1
    return midi_facts(has.midi)


@router.post("/api/midi/learn", dependencies=STEER, responses=says(*ASKS), tags=["control"])
async def learn(asked: LearnAsked, has: Has) -> MidiFacts:
    """The next controller that moves is bound to this setting; null: none is any more."""
    tried(lambda: has.midi.learn(asked.setting, asked.mode, asked.takeover))
    return midi_facts(has.midi)


@router.get("/api/osc", dependencies=LOOK, responses=says(*LOOKS), tags=["control"])
async def osc_told(has: Has) -> OscFacts:
    """How OSC goes."""
    if has.osc is None:
        return OscFacts(port=None, received=0, malformed=0, refused=0, subscribers=0)
    return OscFacts(
        port=has.osc.port,
        received=has.osc.received,
        malformed=has.osc.malformed,
        refused=has.osc.refused,
        subscribers=len(has.osc.subscribers),
    )


# ------------------------------------------------------------------------------------------------- the WebSocket


@router.websocket("/api/control")
async def control(websocket: WebSocket, session: Annotated[str | None, Query(max_length=64)] = None) -> None:
    """The control channel of a session, by its name or id, for a program that shows no picture."""
    has = websocket.app.state.house
    await websocket.accept()
    try:
        role = role_of(websocket)
        if role < Role.VIEW:
            raise RefusalError(401, "this needs the role view: send a token (Authorization: Bearer ...)")
        steered = has.sessions.find(session) if session is not None else meant(has.sessions)
    except RefusalError as no:
        await websocket.send_json(Refused(status=no.status, error=str(no)).model_dump(mode="json"))
        await hang_up(websocket, LATER if no.status == 404 else POLICY, str(no))
        return
    await Program(websocket, steered, may_change=role >= Role.CONTROL).run()


def meant(sessions: Sessions) -> Session:
    """The session that is meant where none is named; RefusalError where there is none."""
    desk = tried(lambda: sessions.hub.find(None), 404)
    return cast(Session, desk.steered)


class Program:
    """One program on the WebSocket: messages in and out, in order, and no pictures."""

    def __init__(self, websocket: WebSocket, session: Session, *, may_change: bool) -> None:
        self._websocket = websocket
        self._channel = Channel(session, "websocket", may_change=may_change)
        self._texts: deque[dict[str, Any]] = deque()
        self._said = asyncio.Event()
        self._slow = False

    async def run(self) -> None:
        """Until one of both leaves."""
        self._channel.connected(self._queue)
        jobs = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._channel.closed()
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            if self._slow:
                await hang_up(self._websocket, POLICY, f"{TEXTS} messages wait: read them faster")
            else:
                await hang_up(self._websocket, WENT, "the session ended")

    def _queue(self, message: dict[str, Any]) -> None:
        self._slow = self._slow or len(self._texts) >= TEXTS
        self._texts.append(message)
        self._said.set()

    async def _read(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                self._channel.received(await self._websocket.receive_text())

    async def _write(self) -> None:
        """Messages in order, until the bye or nobody reads."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while not self._slow:
                await self._said.wait()
                self._said.clear()
                while self._texts:
                    message = self._texts.popleft()
                    await self._websocket.send_json(message)
                    if message["type"] == "bye":
                        return


async def hang_up(websocket: WebSocket, code: int, reason: str) -> None:
    """Closes the WebSocket, where the program has not done so."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(LAST_S):
            await websocket.close(code, reason.encode()[:120].decode(errors="ignore"))
