"""Links for a phone, as QR codes: on the page, and in the terminal. They carry a code that is over soon, no token."""

from __future__ import annotations

import io
from typing import Annotated, Literal
from urllib.parse import urlencode

import segno
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import HTTPConnection

from web.access import Role, needs, role_of
from web.auth import bracketed, is_loopback
from web.bodies import Problem
from web.certificates import addresses
from web.config import Config
from web.door import Door
from web.errors import RefusalError

PAGE_S, TERMINAL_S = 10 * 60.0, 12 * 3600.0  # how long a code lets somebody in
ANY = ("0.0.0.0", "::")  # noqa: S104
ALONE = "the server listens on this machine only: start it with --host 0.0.0.0 --token new, and --https for the camera"
router = APIRouter()


def base(config: Config) -> str:
    """The server's address as another device reaches it; RefusalError where none does."""
    if config.access.origins:
        return config.access.origins[0].rstrip("/")
    if is_loopback(config.host):
        raise RefusalError(409, ALONE)
    host = config.host if config.host not in ANY else next(iter(addresses()), None)
    if host is None:
        raise RefusalError(409, "this machine is in no network: connect it to one")
    return f"{config.scheme}://{bracketed(host)}:{config.port}"


def link(config: Config, door: Door, role: Role, seconds: float, path: str = "/", **query: str | None) -> str:
    """An address that lets another device in; its code is left out where nobody is asked."""
    asked = {name: value for name, value in query.items() if value}
    if not door.people.open:
        asked["token"] = door.people.code(role, seconds)
    return base(config) + path + (f"?{urlencode(asked)}" if asked else "")


def terminal(text: str) -> str:
    """A link as a QR code of letters."""
    out = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out, compact=True, border=2)
    return out.getvalue()


def house(connection: HTTPConnection) -> tuple[Config, Door]:
    """What is needed of the application's."""
    has = connection.app.state.house
    return has.config, has.door


@router.get(
    "/qr.svg",
    responses={
        200: {"content": {"image/svg+xml": {}}, "description": "A QR code."},
        403: {"model": Problem, "description": "Another site's request, or the role is too small."},
        409: {"model": Problem, "description": "No other device reaches this server."},
        422: {"model": Problem, "description": "A field is wrong."},
    },
    response_class=Response,
    tags=["server"],
    dependencies=[needs(Role.CONTROL)],
)
async def qr(
    request: Request,
    has: Annotated[tuple[Config, Door], Depends(house)],
    page: Annotated[Literal["/", "/view"], Query(description="The page that is opened.")] = "/",
    session: Annotated[str | None, Query(max_length=64, description="A session by name or id.")] = None,
    role: Annotated[Literal["view", "control"], Query(description="What its holder may do.")] = "control",
) -> Response:
    """A link to this server for a phone: for ten minutes it lets whoever scans it in, for half a day."""
    given = min(role_of(request), Role[role.upper()])
    text = link(*has, given, PAGE_S, page, session=session)
    made = io.BytesIO()
    segno.make(text, error="m", micro=False).save(made, kind="svg", scale=8, border=4, light="#fff")
    return Response(made.getvalue(), media_type="image/svg+xml", headers={"Cache-Control": "no-store"})
