"""The pages, for those who may see them, and the login for the others.

`/?token=...` lets a page in: the answer sets a cookie and sends it on to the address without the token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from fastapi import APIRouter, Response
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, RedirectResponse
from starlette.routing import BaseRoute, Route

from web.access import Role, role_of
from web.bodies import LoginAsked, Me, Problem
from web.door import Door
from web.errors import RefusalError
from web.people import Entry

STATIC = Path(__file__).parent / "static"
LOGIN = STATIC / "login.html"
TOKEN = "token"  # noqa: S105 (the name of a query's field)
LOGIN_STATUSES = {
    400: "The JSON cannot be read.",
    401: "The token is wrong, or its time is over.",
    403: "Another site's request: Host or Origin is not this server.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A field is wrong.",
    429: "Too many wrong tokens from this address; see Retry-After.",
}
router = APIRouter()


def door(connection: HTTPConnection) -> Door:
    """The application's."""
    return cast(Door, connection.app.state.house.door)


# ------------------------------------------------------------------------------------------------- for programs


@router.post(
    "/api/login",
    status_code=204,
    responses={status: {"model": Problem, "description": text} for status, text in LOGIN_STATUSES.items()},
    tags=["server"],
)
async def login(asked: LoginAsked, request: Request, response: Response) -> None:
    """Lets a page in that shows a token: the answer sets a cookie, which holds after the server has started again."""
    has = door(request)
    if not has.people.open:
        keep(response, request, has.enter(request, asked.token))


@router.get("/api/me", responses={403: {"model": Problem, "description": LOGIN_STATUSES[403]}}, tags=["server"])
async def me(request: Request) -> Me:
    """The role of whoever asks."""
    return Me.model_validate({"role": role_of(request).name.lower()})


def keep(response: Response, request: Request, entry: Entry) -> None:
    """The cookie: not for scripts, and sent along by pages of this server only."""
    secure = request.url.scheme == "https"
    age = max(0, int(entry.seconds))
    response.set_cookie(door(request).name, entry.cookie, age, httponly=True, samesite="strict", secure=secure)


# ------------------------------------------------------------------------------------------------- pages


def page(name: str) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a page; a login where nobody is known."""

    async def shown(request: Request) -> Response:
        if TOKEN in request.query_params:
            return entered(request)
        if role_of(request) is Role.NOBODY:
            return FileResponse(LOGIN, 401, headers={"Cache-Control": "no-store"})
        return FileResponse(STATIC / name)

    return shown


def entered(request: Request) -> Response:
    """On to the address without the token, which stays in no history; with a cookie where it is right."""
    rest = request.url.remove_query_params(TOKEN)
    response: Response = RedirectResponse(f"{rest.path}?{rest.query}" if rest.query else rest.path, 303)
    response.headers["Cache-Control"] = "no-store"
    has = door(request)
    if has.people.open:
        return response
    try:
        entry = has.enter(request, request.query_params[TOKEN])
    except RefusalError as error:
        return FileResponse(LOGIN, error.status, headers={"Cache-Control": "no-store", **error.headers})
    keep(response, request, entry)
    return response


PAGES: list[BaseRoute] = [
    Route("/", page("index.html")),
    Route("/view", page("view.html")),
    Route("/clips", page("clips.html")),
]
