"""The sources of the server's machine over HTTP: what is there, and what a session takes. For admins."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends
from starlette.requests import HTTPConnection

from web.access import Role, needs
from web.bodies import Problem, SourceAsked, SourceList, SourceNow
from web.inputs import there, wanted
from web.session import Session
from web.sessions import Sessions

STATUSES = {
    400: "The JSON cannot be read.",
    401: "Nobody is known: send a token.",
    403: "Another site's request, or not for everybody: what this machine sees is for admins.",
    404: "No such session.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "The source is none, or not there.",
}
router = APIRouter(tags=["sources"], dependencies=[needs(Role.ADMIN)])


def says(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of answers that are errors."""
    return {status: {"model": Problem, "description": STATUSES[status]} for status in statuses}


def sessions(connection: HTTPConnection) -> Sessions:
    """The application's."""
    return cast(Sessions, connection.app.state.house.sessions)


def found(session: str, all_of_them: Annotated[Sessions, Depends(sessions)]) -> Session:
    """The session that the path names."""
    return all_of_them.find(session)


@router.get("/api/sources", responses=says(401, 403))
async def sources(has: Annotated[Sessions, Depends(sessions)]) -> SourceList:
    """What sources there are now: cameras, screens, windows, NDI. Addresses and files are asked for by name."""
    return await there(has.pumps)


@router.get("/api/sessions/{session}/source", responses=says(401, 403, 404))
async def look(session: Annotated[Session, Depends(found)]) -> SourceNow:
    """Where a session takes its pictures from, and how that is."""
    return SourceNow(source=session.source, input=session.input)


@router.put("/api/sessions/{session}/source", responses=says(400, 401, 403, 404, 408, 413, 415, 422))
async def switch(asked: SourceAsked, session: Annotated[Session, Depends(found)]) -> SourceNow:
    """Takes a session's pictures from elsewhere. A source that is slow, or away, is waited for; its state says so."""
    session.switch(await wanted(asked.source, asked.once))
    return SourceNow(source=session.source, input=session.input)
