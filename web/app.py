"""The application: pages, sessions, health and schema over HTTP, and the WebSocket for where WebRTC does not reach.

app = create_app(Config(port=8000), Supervisor(plan))    # an ASGI application; its lifespan starts the worker
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, FastAPI, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from stream.control.hub import Hub
from stream.errors import SettingsError
from stream.settings import Settings
from stream.sinks.live import recognise
from stream.supervisor import Supervisor
from web import invite, login, loras, messages, metrics, outlets, sockets, sources, standing, steering, videos, whip
from web.access import Role, needs, refusal, role_of
from web.auth import Guard, Places, is_open, origin, refuse
from web.bodies import (
    Answer,
    Full,
    Health,
    Limits,
    Loras,
    LorasAsked,
    Offer,
    Patch,
    Patched,
    Problem,
    Ready,
    Schema,
    ViewerAnswer,
    ViewerOffer,
)
from web.clips import Clips
from web.config import Config
from web.control import plain
from web.door import Door, client, household
from web.errors import RefusalError
from web.fields import SourceName, explained
from web.inputs import Pumps, allow, wanted
from web.media.ice import PortsError
from web.messages import SessionFacts
from web.metrics import Figures
from web.offer import sends_video
from web.orders import VideoAsked
from web.people import People
from web.rate import Rate
from web.rtc import OfferError, Peer
from web.session import Answers, Session
from web.sessions import Sessions
from web.steering import Steering

log = logging.getLogger("livebrush")
STATIC = Path(__file__).parent / "static"
PATCH_S = 2.0  # how long a change over HTTP waits for the worker's answer
JPEG_THREADS = 4
STOP_S = 3.5  # for all that ends when the server does
CARDS = ("cuda", "mps")
ABOUT = f"""Diffusion video in real time. A session begins with a WebRTC offer (`POST /api/sessions`); settings and
statistics go over its data channel "control", whose messages are the schemas
{messages.named(messages.FROM_PAGE)} (from the page) and
{messages.named(messages.FROM_SERVER)} (from the server; `Welcome` comes first).
`/api/control?session=NAME` is the same channel as a WebSocket, for programs. Where WebRTC does not reach,
`/api/sessions/ws` is the same session as a WebSocket: `Hello` first, messages as text, pictures as binary messages of
16 bytes (sequence number and zero as uint32, capture time in ms as float64, all little-endian) and a JPEG."""


@dataclass(frozen=True, eq=False)
class House:
    """What the requests share. Owned by the application."""

    config: Config
    supervisor: Supervisor
    sessions: Sessions
    offers: Rate
    jpeg: Executor
    door: Door
    clips: Clips | None = None
    steering: Steering | None = None

    @property
    def figures(self) -> Figures:
        """What is counted."""
        return self.sessions.world.figures

    def offer(self, address: str) -> None:
        """Counts an offer; RefusalError where there are too many from that address."""
        if wait_s := self.offers.wait_s(household(address)):
            told = f"more than {self.config.offers_per_minute} offers a minute from {address}: wait {wait_s:.0f} s"
            raise RefusalError(429, told, headers={"Retry-After": f"{max(1, round(wait_s))}"})


def house(connection: HTTPConnection) -> House:
    """The application's own."""
    return cast(House, connection.app.state.house)


def found(session: str, has: Annotated[House, Depends(house)]) -> Session:
    """The session that the path names."""
    return has.sessions.find(session)


Has = Annotated[House, Depends(house)]
Client = Annotated[str, Depends(client)]
Found = Annotated[Session, Depends(found)]


def says(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of answers that are errors."""
    texts = {
        400: "The JSON or the offer cannot be read.",
        401: "Nobody is known by what was sent: a token is needed.",
        403: "Another site's request (Host or Origin is not this server), or the role is too small.",
        404: "No such session.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        422: "A field or a setting is wrong.",
        429: "Too many offers from this address; see Retry-After.",
        503: "No place is free, nothing paints, or the server stops; see Retry-After.",
    }
    return {status: {"model": Problem, "description": texts[status]} for status in statuses}


WITH_BODY = (400, 403, 408, 413, 415, 422)
FULL: dict[int | str, dict[str, Any]] = {
    503: {"model": Full, "description": "No place is free; ask again with the ticket. See Retry-After."}
}
router = APIRouter()


# ------------------------------------------------------------------------------------------------- the server


@router.get(
    "/healthz",
    responses={**says(403), 503: {"model": Health, "description": "The worker failed for good; notice says why."}},
    tags=["server"],
)
async def health(has: Has, request: Request, response: Response) -> Health:
    """How the server is; the process and the notice are for those who are known."""
    worker, known = has.supervisor, role_of(request) >= Role.VIEW
    notice = worker.notice or (worker.facts.notice if worker.state == "ready" else "")
    ok = worker.state != "failed"
    response.status_code = 200 if ok else 503
    return Health(
        ok=ok,
        worker=worker.state,
        pid=worker.pid if known else None,
        notice=notice if known else "",
        restarts=worker.restarts,
        sessions=len(has.sessions),
        version=version(),
        clips=has.clips.health if has.clips is not None else None,
    )


@router.get(
    "/readyz",
    responses={**says(403), 503: {"model": Ready, "description": "It starts, or stops: send nobody here now."}},
    tags=["server"],
)
async def readiness(has: Has, response: Response) -> Ready:
    """Whether somebody new may come: the model is loaded, and the server does not stop."""
    why = "the server stops" if has.sessions.stopping else "" if has.supervisor.state == "ready" else "not ready yet"
    response.status_code = 503 if why else 200
    return Ready(ready=not why, why=why)


@router.get("/api/schema", responses=says(403), tags=["server"], dependencies=[needs(Role.VIEW)])
async def schema(has: Has) -> Schema:
    """The settings, the model, the styles that it knows, and the limits."""
    own: list[Any] = ["server"] if has.sessions.pumps.own is not None else []
    return Schema(
        settings=Settings.model_json_schema(),
        defaults=plain(has.sessions.defaults),
        model=has.sessions.world.model(),
        styles=list(has.supervisor.facts.prompts),
        limits=Limits(
            sessions=has.config.limit,
            session_minutes=has.config.access.session_minutes,
            offers_per_minute=has.config.offers_per_minute,
        ),
        version=version(),
        sources=["camera", "screen", "file", "testcard", *own],
        clips=has.clips is not None,
    )


@router.get("/api/loras", responses=says(403), tags=["server"], dependencies=[needs(Role.VIEW)])
async def mix(has: Has) -> Loras:
    """The LoRAs that the server knows, and their strengths."""
    return loras.facts(has.supervisor)


@router.put(
    "/api/loras",
    responses={202: {"model": Loras, "description": "Still changing: ask again."}, **says(*WITH_BODY, 503)},
    tags=["server"],
    dependencies=[needs(Role.ADMIN)],
)
async def remix(asked: LorasAsked, has: Has, response: Response) -> Loras:
    """Changes strengths for every session; the picture goes on. An error says why the old ones stay."""
    now = await loras.change(has.supervisor, asked.strengths)
    response.status_code = 202 if now.changing else 200
    return now


# ------------------------------------------------------------------------------------------------- sessions


@router.post("/api/sessions", status_code=201, responses={**says(*WITH_BODY, 429), **FULL}, tags=["sessions"])
async def begin(
    offer: Offer, has: Has, asks: Client, role: Annotated[Role, needs(Role.CONTROL)], response: Response
) -> Answer:
    """Begins a session with a WebRTC offer. Candidates are in the SDP, of the answer as well."""
    allow(role, offer.source)
    with has.figures.offered():
        source: SourceName = await wanted(offer.source or ("page" if sends_video(offer.sdp) else "server"))
        session = has.sessions.admit(offer.settings, source, offer.ticket, lambda: has.offer(asks))
        sdp = None
        try:
            sdp = await session.answer(offer.sdp)
        finally:  # whatever it was, also a cancelled request: no place stays taken
            if sdp is None:
                await has.sessions.close(session, "the offer was refused")
    response.headers["Location"] = f"/api/sessions/{session.id}"
    return Answer(id=session.id, sdp=sdp, settings=plain(session.settings), state=session.state, notice=session.remark)


@router.get("/api/sessions/{session}", responses=says(403, 404), tags=["sessions"], dependencies=[needs(Role.VIEW)])
async def look(session: Found) -> SessionFacts:
    """How a session goes."""
    page = session.page
    return SessionFacts(
        id=session.id,
        settings=plain(session.settings),
        state=session.state,
        notice=session.remark,
        source=session.source,
        input=session.input,
        stats=session.stats(page.channel.transport if page else "webrtc"),
        page=page.link.statistics() if page else {},
        viewers=len(session.viewers),
    )


@router.patch(
    "/api/sessions/{session}",
    responses=says(404, *WITH_BODY),
    tags=["sessions"],
    dependencies=[needs(Role.CONTROL)],
)
async def change(session: Found, patch: Patch) -> Patched:
    """Changes settings. `error` says why they do not hold, where they do not."""
    answer: asyncio.Future[Patched] = asyncio.get_running_loop().create_future()

    def tell(settings: Settings, error: str | None) -> None:
        if not answer.done():
            answer.set_result(Patched(settings=plain(settings), error=error))

    session.change(patch.settings, tell)
    done, _ = await asyncio.wait([answer], timeout=PATCH_S)
    if not done:
        tell(session.settings, "the worker prepares what was asked for: ask again for what holds")
    return answer.result()


@router.delete(
    "/api/sessions/{session}",
    status_code=204,
    responses=says(403, 404),
    tags=["sessions"],
    dependencies=[needs(Role.CONTROL)],
)
async def end(session: Found, has: Has, request: Request) -> None:
    """Ends a session; its pages are told. One that stands under a name is everybody's, and an admin's to end."""
    if session.name is not None and (role := role_of(request)) < Role.ADMIN:
        raise refusal(role, Role.ADMIN)
    await has.sessions.close(session, "the session was ended")


@router.post(
    "/api/sessions/{session}/viewers",
    status_code=201,
    responses=says(404, *WITH_BODY, 429, 503),
    tags=["sessions"],
    dependencies=[needs(Role.VIEW)],
)
async def view(
    session: Found, offer: ViewerOffer, has: Has, asks: Client, role: Annotated[Role, needs(Role.VIEW)]
) -> ViewerAnswer:
    """Shows a session's painted picture on one more page, which may change settings if it asks for that."""
    if offer.control and role < Role.CONTROL:
        raise refusal(role, Role.CONTROL)
    with has.figures.offered():
        has.offer(asks)
        name, sdp = await session.view(offer.sdp, may_change=offer.control)
    return ViewerAnswer(id=name, sdp=sdp)


@router.websocket("/api/sessions/ws", dependencies=[needs(Role.CONTROL)])
async def websocket(websocket: WebSocket) -> None:
    has, address = house(websocket), client(websocket)
    await sockets.serve(websocket, has.sessions, has.jpeg, lambda: has.offer(address), role_of(websocket))


# ------------------------------------------------------------------------------------------------- errors


class Told(JSONResponse):
    """JSON in ASCII: whatever stood in the request, it can be sent."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


async def refused(request: HTTPConnection, error: Exception) -> Response:
    """The refusal; of a WebSocket's handshake it is sent here, as nothing is done with what is returned."""
    assert isinstance(error, RefusalError)
    if isinstance(request, WebSocket):
        await refuse(request.scope, request.receive, request.send, error)
    return Told(error.told(request.url.path), error.status, error.headers)


async def wrong_setting(_request: Request, error: Exception) -> Response:
    return Told({"error": str(error)}, 422)


async def wrong_offer(_request: Request, error: Exception) -> Response:
    return Told({"error": str(error)}, 400)


async def no_port(request: Request, error: Exception) -> Response:
    return await refused(request, RefusalError(503, str(error), headers={"Retry-After": "10"}))


async def wrong_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    unread = any(item["type"] == "json_invalid" for item in error.errors())
    told = explained(error.errors(), "the body")
    return await refused(request, RefusalError(400 if unread else 422, told))


async def plain_error(request: Request, error: Exception) -> Response:
    """What the framework refuses: unknown paths and methods, JSON that cannot be read."""
    assert isinstance(error, HTTPException)
    texts = {
        400: "the body cannot be read: send one JSON object",
        404: f"{request.url.path[:80]} is not here: see /openapi.json",
        405: f"{request.method[:20]} is not for {request.url.path[:80]}: see /openapi.json",
    }
    told = texts.get(error.status_code, str(error.detail))
    return await refused(request, RefusalError(error.status_code, told, headers=error.headers))


async def broken(request: Request, _error: Exception) -> Response:
    return await refused(request, RefusalError(500, "the server made a mistake, which its log tells: try again"))


# ------------------------------------------------------------------------------------------------- the whole


def version() -> str:
    """Livebrush's, as installed."""
    try:
        return installed("livebrush")
    except PackageNotFoundError:
        return "0"


def create_app(
    config: Config,
    supervisor: Supervisor,
    *,
    pumps: Pumps | None = None,
    answers: Answers | None = None,
    clips: Clips | None = None,
) -> FastAPI:
    """The application for the address in `config`. Its lifespan starts and stops the supervisor, the sources and what
    makes the clips. ServeError where a token, a key or an origin is wrong."""
    door = Door(People.of(config.access), config.port)
    answers = answers or cast(Answers, partial(Peer.answer, network=config.network))
    sessions = Sessions(
        supervisor,
        limit=config.limit,
        pumps=pumps,
        answers=answers,
        minutes=config.access.session_minutes,
        hub=Hub(config.control.folder),
        viewers=config.viewers,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(JPEG_THREADS, "jpeg") as pool:
            offers = Rate(config.offers_per_minute, 60.0)
            steers = Steering(config, sessions, supervisor)
            app.state.house = House(config, supervisor, sessions, offers, pool, door, clips, steers)
            async with steers.running(), running(supervisor, sessions, clips, config.outputs):
                yield

    handlers: dict[Any, Any] = {
        RefusalError: refused,
        SettingsError: wrong_setting,
        OfferError: wrong_offer,
        PortsError: no_port,
        RequestValidationError: wrong_body,
        HTTPException: plain_error,
        Exception: broken,
    }
    app = FastAPI(
        title="Livebrush",
        version=version(),
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # both pages of FastAPI come from elsewhere
        redoc_url=None,
        exception_handlers=handlers,
        routes=login.PAGES,
    )
    app.include_router(router)
    app.include_router(login.router)
    app.include_router(invite.router)
    app.include_router(metrics.router)
    app.include_router(sources.router)
    app.include_router(videos.router)
    app.include_router(standing.router)
    app.include_router(whip.router)
    app.include_router(outlets.router)
    app.include_router(steering.router)
    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")
    app.add_middleware(Guard, places=places(config), door=door)
    if config.access.proxies:  # outside the guard, which then sees who really asks
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(config.access.proxies))
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def places(config: Config) -> Places:
    """Where the server is."""
    return Places(config.host, config.port, config.scheme, tuple(map(origin, config.access.origins)))


@contextlib.asynccontextmanager
async def running(
    supervisor: Supervisor, sessions: Sessions, clips: Clips | None, outputs: tuple[str, ...] = ()
) -> AsyncIterator[None]:
    """Everything that runs beside the requests."""
    supervisor.start()
    sessions.pumps.start()
    if clips is not None:
        clips.start(lambda: paints(sessions, supervisor))
    stand_live(sessions, outputs)
    telling = asyncio.ensure_future(sessions.run())
    try:
        yield
    finally:
        telling.cancel()
        await stop(supervisor, sessions, clips)
        await sessions.pumps.close()


def stand_live(sessions: Sessions, outputs: tuple[str, ...]) -> None:
    """The session `live`, where the server was started with outputs: of its own source, or of whoever publishes."""
    if outputs:
        session = sessions.stand("live", "server" if sessions.pumps.own is not None else "whip")
        for text in outputs:
            session.outputs.add(recognise(text))


async def stop(supervisor: Supervisor, sessions: Sessions, clips: Clips | None) -> None:
    """Tells and ends every session, the worker, and what makes the clips; what takes longer than STOP_S is left
    behind, and said. A second time does nothing."""
    ending = {"sessions": sessions.close_all("the server stops"), "worker": supervisor.stop()}
    ending |= {"clips": clips.stop()} if clips is not None else {}
    jobs = {asyncio.ensure_future(job): name for name, job in ending.items()}
    _, late = await asyncio.wait(jobs, timeout=STOP_S)
    for job in jobs:
        if job in late:
            log.warning("the %s did not end within %g s", jobs[job], STOP_S)
            job.cancel()
        else:
            job.result()


def paints(sessions: Sessions, supervisor: Supervisor) -> bool:
    """Whether live streams paint on a card that clips would be rendered on as well."""
    card = any(f" on {name}" in supervisor.facts.engine for name in CARDS)
    return card and any(session.fps for session in sessions)


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the messages of the control channel among its schemas."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        spoken = [(kind, "validation") for kind in (*messages.SPOKEN, VideoAsked)]
        _, extra = models_json_schema(cast(Any, spoken), ref_template="#/components/schemas/{model}")
        made["components"]["schemas"] = extra["$defs"] | made["components"]["schemas"]
        app.openapi_schema = with_credentials(without_defaults(made))
    return app.openapi_schema


def with_credentials(made: dict[str, Any]) -> dict[str, Any]:
    """The document with how to say who one is, and what is answered where that is missing."""
    schemes = {"token": {"type": "http", "scheme": "bearer"}, "page": {"type": "apiKey", "in": "cookie",
               "name": "livebrush-PORT", "description": "Set by POST /api/login."}}  # fmt: skip
    made["components"]["securitySchemes"] = schemes
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in made["paths"].items():
        for operation in (op for method, op in operations.items() if not is_open(method, path)):
            operation["security"] = [{"token": []}, {"page": []}]
            operation["responses"].setdefault("401", {"description": says(401)[401]["description"], "content": problem})
    return made


def without_defaults(made: dict[str, Any]) -> dict[str, Any]:
    """The document without the framework's own 422, which it adds where an id stands in the path."""
    for operation in (o for path in made["paths"].values() for o in path.values()):
        if "HTTPValidationError" in str(operation["responses"].get("422")):
            del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)
    return made
