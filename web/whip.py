"""WHIP and WHEP: a picture in, painted ones out, by one HTTP request each (RFC 9725, draft-ietf-wish-whep).

POST /whip/live    an offer that sends video: 201, the answer, and the address of its session resource
POST /whep/live    an offer that receives it
PATCH, DELETE      of that address: more candidates, an ICE restart, the end
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from aioice import Candidate
from fastapi import APIRouter, Depends
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from web.access import Role, needs
from web.auth import FRAGMENT, SDP
from web.bodies import Problem
from web.errors import RefusalError
from web.fragment import Fragment, written
from web.media.ice import CandidatesError, Credentials, RestartError
from web.offer import sends_video
from web.session import Link, Session
from web.sessions import NAME

if TYPE_CHECKING:
    from web.app import House

LIVE = "live"
AWAIT_S = 5  # after which a viewer may ask again for what is not there yet
EXPOSED = "Location, ETag, Link, Accept-Patch"
router = APIRouter(tags=["whip"])


STATUSES = {
    400: "The offer or the fragment cannot be read.",
    401: "A token is needed.",
    403: "Another site's request, or a token that may do less.",
    404: "No such session, or no such resource of it.",
    406: "The answer's type is not accepted.",
    408: "The body did not come in time.",
    409: "Somebody publishes there already, nobody does yet, or ICE cannot be restarted now.",
    412: "If-Match is not the ETag that holds.",
    413: "The body is too large.",
    415: "The body is of another type.",
    422: "The offer has not what is needed, or there are too many candidates.",
    428: "If-Match is missing.",
    429: "Too many offers from this address; see Retry-After.",
    503: "No place or no UDP port is free, or the server stops; see Retry-After.",
}


def house(connection: HTTPConnection) -> Any:
    """The application's `House`."""
    return connection.app.state.house


def client(connection: HTTPConnection) -> str:
    """The address that asks."""
    return connection.client.host if connection.client else "?"


Has = Annotated[Any, Depends(house)]
Client = Annotated[str, Depends(client)]


class Ice(Protocol):
    """`web.media.ice.Ice`."""

    tag: str
    section: tuple[str, str]

    @property
    def remote(self) -> Credentials | None: ...
    async def trickle(self, candidates: Sequence[Candidate]) -> None: ...
    async def restart(
        self, remote: Credentials, candidates: Sequence[Candidate] = ()
    ) -> tuple[Credentials, list[Candidate]]: ...


class Called(Link, Protocol):
    """What connects whoever came by WHIP or WHEP: a `Peer`."""

    ice: Ice


def says(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of answers that are errors."""
    return {status: {"model": Problem, "description": STATUSES[status]} for status in statuses}


def in_path(*names: str) -> dict[str, Any]:
    """The OpenAPI of what stands in a path that no argument takes."""
    return {"parameters": [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]}


def takes(kind: str, done: dict[int | str, dict[str, Any]], *statuses: int) -> dict[str, Any]:
    """The OpenAPI of a request with a body of that type."""
    body = {"required": True, "content": {kind: {"schema": {"type": "string"}}}}
    return {
        "openapi_extra": {"requestBody": body},
        "responses": says(400, 401, 403, 408, 413, 415, 422, *statuses) | done,
    }


CREATED: dict[int | str, dict[str, Any]] = {
    201: {"description": "The answer. Location is the session resource.", "content": {SDP: {}}}
}
RESTARTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "ICE was restarted: our new credentials.", "content": {FRAGMENT: {}}},
    204: {"description": "The candidates are taken."},
}
PUBLISHES: Any = takes(SDP, CREATED, 406, 409, 429, 503)
WATCHES: Any = takes(SDP, CREATED, 404, 406, 409, 429, 503)
PATCHES: Any = takes(FRAGMENT, RESTARTED, 404, 409, 412, 428, 429, 503)
CONTROL, VIEW = [needs(Role.CONTROL)], [needs(Role.VIEW)]


# ------------------------------------------------------------------------------------------------- the endpoints


@router.post("/whip", status_code=201, dependencies=CONTROL, **PUBLISHES)
async def publish_live(request: Request, has: Has, asks: Client) -> Response:
    """Publishes to the session "live"."""
    with has.figures.offered():
        return await published(LIVE, request, has, asks)


@router.post("/whip/{name}", status_code=201, dependencies=CONTROL, **PUBLISHES)
async def publish(name: str, request: Request, has: Has, asks: Client) -> Response:
    """Publishes to a session, which is made where it is not there."""
    with has.figures.offered():
        return await published(name, request, has, asks)


@router.post("/whep/{session}", status_code=201, dependencies=VIEW, **WATCHES)
async def watch(session: str, request: Request, has: Has, asks: Client) -> Response:
    """Shows the painted picture of a session, by its name or id."""
    with has.figures.offered():
        sdp = await offered(request)
        shown = awaited(session, has)  # who waits for it asks again and again, and that is no offer yet
        has.offer(asks)
        secret, answer = await shown.view(sdp)
    return created(request, has, f"/whep/{session}/{secret}", answer, shown.viewers[secret].link)


@router.options("/whip", response_class=Response, responses=says(403))
@router.options("/whip/{name}", response_class=Response, responses=says(403), openapi_extra=in_path("name"))
@router.options("/whep/{session}", response_class=Response, responses=says(403), openapi_extra=in_path("session"))
async def endpoint_options(request: Request) -> Response:
    """What an endpoint takes."""
    return Response(headers={"Accept-Post": SDP, "Allow": "OPTIONS, POST", **shared(request)})


# ------------------------------------------------------------------------------------------------- the resources


def publication(name: str, secret: str, has: Has) -> Called:
    """The connection of the publisher whose resource that is; RefusalError (404) where there is none."""
    session = has.sessions.standing.get(name)
    publisher = session.publishing.by if session is not None else None
    if publisher is None or not hmac.compare_digest(publisher.id.encode(), secret.encode()):
        raise gone()
    return cast(Called, publisher.link)


def viewing(session: str, secret: str, has: Has) -> Called:
    """The connection of the viewer whose resource that is; RefusalError (404) where there is none."""
    page = has.sessions.find(session).viewers.get(secret)
    if page is None:
        raise gone()
    return cast(Called, page.link)


def gone() -> RefusalError:
    return RefusalError(404, "this session resource is not here: it ended, or never was; POST a new offer")


Publication = Annotated[Called, Depends(publication)]
Viewing = Annotated[Called, Depends(viewing)]


@router.patch("/whip/{name}/{secret}", dependencies=CONTROL, **PATCHES)
async def patch_publication(link: Publication, request: Request, has: Has, asks: Client) -> Response:
    """More candidates of a publisher, or an ICE restart."""
    return await patched(link, request, has, asks)


@router.patch("/whep/{session}/{secret}", dependencies=VIEW, **PATCHES)
async def patch_viewing(link: Viewing, request: Request, has: Has, asks: Client) -> Response:
    """More candidates of a viewer, or an ICE restart."""
    return await patched(link, request, has, asks)


@router.delete("/whip/{name}/{secret}", responses=says(401, 403, 404), dependencies=CONTROL)
async def unpublish(link: Publication, request: Request) -> Response:
    """Ends publishing. The session goes on."""
    await link.close()
    return Response(headers=shared(request))


@router.delete("/whep/{session}/{secret}", responses=says(401, 403, 404), dependencies=VIEW)
async def unwatch(link: Viewing, request: Request) -> Response:
    """Ends viewing."""
    await link.close()
    return Response(headers=shared(request))


@router.options("/whip/{name}/{secret}", response_class=Response, responses=says(403),
                openapi_extra=in_path("name", "secret"))  # fmt: skip
@router.options("/whep/{session}/{secret}", response_class=Response, responses=says(403),
                openapi_extra=in_path("session", "secret"))  # fmt: skip
async def resource_options(request: Request) -> Response:
    """What a session resource takes."""
    return Response(headers={"Accept-Patch": FRAGMENT, "Allow": "DELETE, OPTIONS, PATCH", **shared(request)})


# ------------------------------------------------------------------------------------------------- how


async def published(name: str, request: Request, has: House, asks: str) -> Response:
    """The answer to a publisher."""
    sdp = await offered(request)
    has.offer(asks)
    if not sends_video(sdp):
        raise RefusalError(422, "the offer sends no video: add a video track that is sendonly")
    session = has.sessions.standing.get(name) or begun(name, has)
    try:
        publisher, answer = await session.publish(sdp)
    finally:
        if session.publishing.idle:  # made for this one, who did not come
            await has.sessions.close(session, "nobody publishes")
    return created(request, has, f"/whip/{name}/{publisher.id}", answer, publisher.link)


def begun(name: str, has: House) -> Session:
    """A new session for a publisher, which goes with it."""
    if len(has.sessions.standing) >= has.sessions.limit:
        told = f"{has.sessions.limit} sessions stand already: publish to one that is there, or come back later"
        raise RefusalError(503, told, headers={"Retry-After": "10"})
    session = has.sessions.stand(name, "whip")
    session.publishing.passing = True
    return session


def awaited(session: str, has: House) -> Session:
    """The session to be shown. RefusalError: 409 for a name that somebody may yet publish to, 404 for any other."""
    try:
        return has.sessions.find(session)
    except RefusalError:
        if not NAME.fullmatch(session):
            raise
        told = f"nobody publishes to {session!r}: ask again once somebody does"
        raise RefusalError(409, told, headers={"Retry-After": f"{AWAIT_S}"}) from None


async def offered(request: Request) -> str:
    """The offer of a request. RefusalError where an answer would not be taken, or the text cannot be one."""
    accepts = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")]
    if not {SDP, "application/*", "*/*"} & set(accepts):
        raise RefusalError(406, f"Accept leaves out {SDP}, which the answer is: accept it")
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise RefusalError(400, "the offer is not UTF-8: send the text of a session description") from None


def created(request: Request, has: House, location: str, answer: str, link: Link) -> Response:
    """201, and everything that whoever asked needs to go on."""
    headers = {"Location": location, "Accept-Patch": FRAGMENT, "ETag": etag(cast(Called, link).ice)}
    response = Response(answer, 201, headers | shared(request), SDP)
    for server in has.config.network.servers():
        for value in server.links():
            response.headers.append("Link", value)
    return response


async def patched(link: Called, request: Request, has: House, asks: str) -> Response:
    """204 for candidates, 200 with new credentials for a restart (RFC 9725 sections 4.3.2 and 4.3.3)."""
    check_match(request.headers.get("if-match"), etag(link.ice))
    fragment = Fragment.parse(await request.body())
    wanted = fragment.credentials
    try:
        if wanted is None or wanted == link.ice.remote:
            await link.ice.trickle(fragment.candidates)
            return Response(status_code=204, headers=shared(request))
        has.offer(asks)  # costs as much as one
        ours, candidates = await link.ice.restart(wanted, fragment.candidates)
    except CandidatesError as error:
        raise RefusalError(422, str(error)) from error
    except RestartError as error:
        raise RefusalError(409, str(error)) from error
    text = written(ours, candidates, link.ice.section)
    return Response(text, 200, {"ETag": etag(link.ice)} | shared(request), FRAGMENT)


def etag(ice: Ice) -> str:
    """Names the ICE session; strong (RFC 9110 section 8.8.3)."""
    return f'"{ice.tag}"'


def check_match(asked: str | None, tag: str) -> None:
    """RefusalError unless `If-Match` is there (428) and names the ICE session that holds, or any (412)."""
    if asked is None:
        raise RefusalError(428, "If-Match is missing: send the ETag of the newest answer, or * to restart ICE")
    if asked.strip() not in ("*", '"*"') and tag not in (part.strip() for part in asked.split(",")):
        raise RefusalError(412, f"If-Match {asked[:80]!r} is not the ETag that holds: ICE was restarted meanwhile")


def shared(request: Request) -> dict[str, str]:
    """CORS. Whoever gets here with an Origin may: the guard lets no other through."""
    origin = request.headers.get("origin")
    if origin is None:
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "POST, PATCH, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
        "Access-Control-Expose-Headers": EXPOSED,
        "Vary": "Origin",
    }
