"""A session's outputs and snapshots over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from PIL import Image as Pictured
from PIL.PngImagePlugin import PngInfo
from pydantic import Field
from starlette.requests import HTTPConnection

from stream.frame import Image
from stream.sinks import live
from web.access import Role, needs
from web.bodies import OutputFacts, Problem
from web.control import plain
from web.errors import RefusalError
from web.fields import Model
from web.session import Session

KEYWORD = "livebrush"  # of the text in a snapshot, as the page's own have it
QUICK = 3  # zlib's level: half the time of the default for a few per cent more bytes
STATUSES = {
    400: "The JSON cannot be read.",
    401: "Nobody is known by that token.",
    403: "Another site's request, or the role is too small.",
    404: "No such session or output.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "The output is unknown, or cannot be used here.",
    503: "There is no picture yet, or there are too many outputs; see Retry-After.",
}
router = APIRouter(tags=["outputs"])


def says(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of answers that are errors."""
    return {status: {"model": Problem, "description": STATUSES[status]} for status in statuses}


def found(session: str, connection: HTTPConnection) -> Session:
    """The session that the path names."""
    named: Session = connection.app.state.house.sessions.find(session)
    return named


Found = Annotated[Session, Depends(found)]


class OutputAsked(Model):
    """Where the picture is to go as well."""

    to: Annotated[str, Field(min_length=1, max_length=live.TEXT_LIMIT, description="See GET /api/outputs.")]


class OutputKind(Model):
    """A kind of output, and whether it can be used on this machine."""

    kind: str
    form: Annotated[str, Field(description="How it is asked for.")]
    about: str
    usable: bool
    why: Annotated[str | None, Field(description="Why it cannot be used, and what to do.")]


class OutputKinds(Model):
    """Every kind of output."""

    outputs: list[OutputKind]


class OutputList(Model):
    """The outputs of a session."""

    outputs: list[OutputFacts]


# ------------------------------------------------------------------------------------------------- outputs


@router.get("/api/outputs", responses=says(401, 403), dependencies=[needs(Role.ADMIN)])
async def kinds() -> OutputKinds:
    """What pictures can go to, and what of it can be used here."""
    return OutputKinds(outputs=await asyncio.to_thread(looked))


def looked() -> list[OutputKind]:
    return [
        OutputKind(kind=name, form=kind.form, about=kind.about, usable=why is None, why=why)
        for name, kind, why in live.usable()
    ]


@router.get("/api/sessions/{session}/outputs", responses=says(401, 403, 404), dependencies=[needs(Role.ADMIN)])
async def listed(session: Found) -> OutputList:
    """Where a session's picture goes."""
    return OutputList(outputs=session.outputs.facts())


@router.post(
    "/api/sessions/{session}/outputs",
    status_code=201,
    responses=says(400, 401, 403, 404, 408, 413, 415, 422, 503),
    dependencies=[needs(Role.ADMIN)],
)
async def attach(session: Found, asked: OutputAsked) -> OutputFacts:
    """Sends a session's picture somewhere as well."""
    return await session.outputs.attach(asked.to)


@router.delete(
    "/api/sessions/{session}/outputs/{output}",
    status_code=204,
    responses=says(401, 403, 404),
    dependencies=[needs(Role.ADMIN)],
)
async def detach(session: Found, output: str) -> None:
    """Ends an output; a recording is finished."""
    await session.outputs.detach(output)


# ------------------------------------------------------------------------------------------------- snapshots


@router.get(
    "/api/sessions/{session}/snapshot.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The newest picture."}, **says(401, 403, 404, 503)},
    dependencies=[needs(Role.VIEW)],
)
async def snapshot(session: Found, connection: HTTPConnection) -> Response:
    """The newest picture as a PNG, with the settings that it was painted with in its text "livebrush"."""
    newest = session.pictures.newest
    if newest is None:
        raise RefusalError(503, "there is no picture yet: ask again when one came in", headers={"Retry-After": "1"})
    told = {"settings": plain(session.settings), "model": connection.app.state.house.supervisor.facts.model}
    made = await asyncio.to_thread(png, newest.frame.image, told)
    return Response(made, media_type="image/png", headers={"Cache-Control": "no-store"})


def png(image: Image, told: dict[str, Any]) -> bytes:
    """A PNG that carries `told` as JSON, in an iTXt chunk (PNG specification 11.3.3.4) as those of the page do. For a
    thread: it takes some milliseconds."""
    info, out = PngInfo(), io.BytesIO()
    info.add_itxt(KEYWORD, json.dumps(told, ensure_ascii=False))
    Pictured.fromarray(image).save(out, "PNG", pnginfo=info, compress_level=QUICK)
    return out.getvalue()
