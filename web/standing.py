"""Sessions that stand under a name, the list of all, and the servers through which media find their way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from starlette.requests import HTTPConnection

from web.access import Role, needs
from web.bodies import IceServers, IceServerTold, Problem, SessionList, SessionListed, Standing
from web.control import plain
from web.errors import RefusalError
from web.inputs import wanted
from web.pump import title
from web.session import Session

if TYPE_CHECKING:
    from web.app import House

STATUSES = {
    400: "The JSON cannot be read.",
    401: "A token is needed.",
    403: "Another site's request, or a token that may do less.",
    408: "The body did not come in time.",
    409: "It is there with another source.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "The name, the source or a setting is wrong.",
    503: "The server stops.",
}
router = APIRouter()


def house(connection: HTTPConnection) -> Any:
    """The application's `House`."""
    return connection.app.state.house


Has = Annotated[Any, Depends(house)]
Looks = Annotated[Role, needs(Role.VIEW)]


def says(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of answers that are errors."""
    return {status: {"model": Problem, "description": STATUSES[status]} for status in statuses}


MADE: dict[int | str, dict[str, Any]] = {201: {"model": SessionListed, "description": "It was made."}}


@router.get("/api/sessions", responses=says(401, 403), tags=["sessions"])
async def listed(has: Has, role: Looks) -> SessionList:
    """The sessions that have a name; for admins all, with their ids."""
    everything = role >= Role.ADMIN
    shown = [facts(session, everything) for session in has.sessions if everything or session.name is not None]
    return SessionList(sessions=shown)


@router.put(
    "/api/sessions/{session}",
    dependencies=[needs(Role.ADMIN)],
    responses=says(400, 401, 403, 408, 409, 413, 415, 422, 503) | MADE,
    tags=["sessions"],
)
async def stand(session: str, asked: Standing, has: Has, response: Response) -> SessionListed:
    """Makes a session that goes on without any page, until it is ended. One that is there gets the settings, and goes
    on without its publisher as well."""
    there = has.sessions.standing.get(session)
    if there is None:
        response.status_code = 201
        return facts(await made(session, asked, has), everything=True)
    if there.source != title(asked.source):
        told = f"session {session!r} takes its picture from {there.source}: PUT its /source, or end it first"
        raise RefusalError(409, told)
    there.change(asked.settings, lambda _settings, _error: None)
    there.publishing.keep()
    return facts(there, everything=True)


@router.get("/api/ice", responses=says(401, 403), response_model_exclude_none=True, tags=["server"])
async def ice(has: Has, _role: Looks) -> IceServers:
    """STUN and TURN servers for a browser's RTCPeerConnection, with credentials that lapse."""
    servers = has.config.network.servers()
    told = [IceServerTold(urls=list(s.urls), username=s.username, credential=s.credential) for s in servers]
    return IceServers(iceServers=told)


async def made(name: str, asked: Standing, has: House) -> Session:
    """A new one."""
    if asked.source == "page":
        raise RefusalError(422, "source 'page' has no page here: use whip, server, or a source of GET /api/sources")
    return has.sessions.stand(name, await wanted(asked.source), asked.settings)


def facts(session: Session, everything: bool) -> SessionListed:
    """How a session goes, in short."""
    return SessionListed(
        name=session.name,
        id=session.id if everything else None,
        source=session.source,
        state=session.state,
        notice=session.remark,
        settings=plain(session.settings),
        viewers=len(session.viewers),
        outputs=session.outputs.facts(),
        publishing=session.publishing.by is not None,
    )
