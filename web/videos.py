"""Clips over HTTP: `/v1/videos` as OpenAI's clients ask for them, and `/api/clips` for the page that edits them."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, BinaryIO, Literal, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import HTTPConnection

from stream.clips.families import family
from stream.clips.queue import Job
from stream.clips.timeline import Timeline
from stream.errors import ClipError
from web import uploads
from web.access import Role, needs
from web.auth import FORM, kind_of
from web.bodies import Problem
from web.clip_bodies import ClipsTold, Motion, OpenAiProblem, PlanTold, Video, VideoDeleted, VideoList
from web.clips import Clips
from web.errors import RefusalError
from web.fields import explained
from web.orders import FORMATS, VideoAsked

LOOK_S = 0.2  # between two looks at the queue, for whoever follows it
KEEP_S = 15.0  # between two words to whoever follows it while nothing happens
FIELDS = 20  # of a form
FIELD_LIMIT = 1024 * 1024  # bytes of one
NEWEST = 200  # clips that the page follows
OFF = "no clips are made here: start the server without --no-clips"
STATUSES = {
    400: "The JSON or the form cannot be read.",
    403: "Another site's request (Host or Origin is not this server), or the role is too small.",
    404: "No such clip, or it is not there yet.",
    408: "The body did not come in time.",
    409: "The clip's state does not allow it.",
    413: "The body is too large.",
    415: "The body is neither JSON nor a form.",
    422: "A field is wrong, or not for everybody.",
    429: "Too many clips wait; see Retry-After.",
    503: "The back end is not ready, or the server makes no clips.",
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"$ref": "#/components/schemas/VideoAsked"}} for kind in ("application/json", FORM)
        },
    }
}
VIEW, CONTROL = [needs(Role.VIEW)], [needs(Role.CONTROL)]
router = APIRouter()


def says(*statuses: int, model: Any = OpenAiProblem) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of answers that are errors."""
    return {status: {"model": model, "description": STATUSES[status]} for status in statuses}


WITH_BODY = (400, 403, 408, 413, 415, 422, 503)


def clips(connection: HTTPConnection) -> Clips:
    """The application's; RefusalError where it makes none."""
    found = connection.app.state.house.clips
    if found is None:
        raise RefusalError(503, OFF, code="off")
    return cast(Clips, found)


async def job(video: str, has: Annotated[Clips, Depends(clips)]) -> Job:
    """The job that the path names."""
    return await has.ask(has.queue.find, video)


Has = Annotated[Clips, Depends(clips)]
Asked = Annotated[Job, Depends(job)]


# ------------------------------------------------------------------------------------------------- /v1/videos


@router.post("/v1/videos", responses=says(*WITH_BODY, 429), openapi_extra=BODY, tags=["videos"], dependencies=CONTROL)
async def create(request: Request, has: Has) -> Video:
    """Asks for a clip; with `n`, for several, whose `batch` is the same."""
    if kind_of(request.headers) == FORM:
        async with request.form(max_files=1, max_fields=FIELDS, max_part_size=FIELD_LIMIT) as form:
            asked, upload = read(form)
            jobs = await has.add(asked, upload or inline(asked))
    else:
        asked = described(loaded((await request.body()).decode(errors="replace"), 400))
        jobs = await has.add(asked, inline(asked))
    return await asyncio.to_thread(has.video, jobs[0])


@router.get("/v1/videos", responses=says(403, 422, 503), tags=["videos"], dependencies=VIEW)
async def listed(
    has: Has,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """The clips, the newest first."""

    def page() -> VideoList:
        jobs = has.queue.page(limit + 1, after=after, newest=order == "desc")
        shown = [has.video(j) for j in jobs[:limit]]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return VideoList(data=shown, first_id=first, last_id=last, has_more=len(jobs) > limit)

    return await asyncio.to_thread(page)


@router.get("/v1/videos/{video}", responses=says(403, 404, 503), tags=["videos"], dependencies=VIEW)
async def retrieve(asked: Asked, has: Has) -> Video:
    """How a clip is."""
    return await asyncio.to_thread(has.video, asked)


@router.get(
    "/v1/videos/{video}/content",
    responses={200: {"content": {"video/mp4": {}}, "description": "The file; Range is heeded."}, **says(403, 404, 503)},
    response_class=FileResponse,
    tags=["videos"],
    dependencies=VIEW,
)
async def content(
    asked: Asked, has: Has, variant: Literal["video", "thumbnail", "manifest"] = "video", download: bool = False
) -> Response:
    """The clip, a small picture of it, or its manifest."""
    if asked.state != "done":
        raise RefusalError(404, f"{asked.id} is {asked.state}: ask GET /v1/videos/{asked.id} until it is completed",
                           code="not_ready")  # fmt: skip
    if variant == "manifest":
        return JSONResponse(await asyncio.to_thread(has.manifest, asked))
    path = asked.thumbnail if variant == "thumbnail" else asked.output
    if not path.is_file():
        raise RefusalError(404, f"the file of {asked.id} is not there any more: render it again", code="not_found")
    name = f"{asked.id}{asked.output.suffix}" if download else None
    return FileResponse(path, filename=name)


@router.get(
    "/v1/videos/{video}/preview",
    responses={200: {"content": {"image/jpeg": {}}, "description": "A small JPEG."}, **says(403, 404, 503)},
    response_class=FileResponse,
    tags=["videos"],
    dependencies=VIEW,
)
async def preview(asked: Asked) -> Response:
    """What a clip that is being made looks like, a second ago."""
    try:
        data = await asyncio.to_thread(asked.preview.read_bytes)
    except OSError:
        raise RefusalError(404, f"there is no preview of {asked.id} now", code="not_ready") from None
    return Response(data, media_type="image/jpeg")


@router.get(
    "/v1/videos/{video}/events",
    responses={200: {"content": {"text/event-stream": {}}, "description": "A Video each."}, **says(403, 404, 503)},
    response_class=StreamingResponse,
    tags=["videos"],
    dependencies=VIEW,
)
async def events(asked: Asked, has: Has) -> Response:
    """Follows a clip until it is over, as server-sent events called `video`."""
    return streamed(followed(has, asked.id))


@router.post("/v1/videos/{video}/cancel", responses=says(403, 404, 409, 503), tags=["videos"], dependencies=CONTROL)
async def cancel(asked: Asked, has: Has) -> Video:
    """Cancels a clip: at once where it waits, else between two steps."""
    if asked.over:
        raise RefusalError(409, f"{asked.id} is {asked.state}: there is nothing to cancel", code="over")
    return await asyncio.to_thread(has.video, await has.ask(has.queue.cancel, asked.id))


@router.post("/v1/videos/{video}/resume", responses=says(403, 404, 409, 503), tags=["videos"], dependencies=CONTROL)
async def resume(asked: Asked, has: Has) -> Video:
    """Lets a clip that failed or was cancelled go on from where it was."""
    if asked.state not in ("failed", "cancelled"):
        raise RefusalError(409, f"{asked.id} is {asked.state}: there is nothing to resume", code="not_over")
    found = await has.ask(has.queue.resume, asked.id)
    has.caretaker.poke()
    return await asyncio.to_thread(has.video, found)


@router.delete("/v1/videos/{video}", responses=says(403, 404, 503), tags=["videos"], dependencies=CONTROL)
async def delete(asked: Asked, has: Has) -> VideoDeleted:
    """Deletes a clip and all that belongs to it; one that is being made is cancelled first."""
    await has.ask(has.queue.remove, asked.id)
    return VideoDeleted(id=asked.id)


# ------------------------------------------------------------------------------------------------- /api/clips


@router.get("/api/clips", responses=says(403, 503, model=Problem), tags=["clips"], dependencies=VIEW)
async def facts(request: Request, has: Has) -> ClipsTold:
    """What the editor is built from."""
    known = family(has.rules.backends[0]).facts
    return ClipsTold(
        timeline=Timeline.model_json_schema(),
        motions=[Motion(name=name, about=about) for name, about in has.rules.motions.items()],
        models=["builtin", *sorted(has.rules.allowed)],
        backends=list(has.rules.backends),
        formats=list(FORMATS),
        styles=list(request.app.state.house.supervisor.facts.prompts),
        size=list(known.size),
        fps=known.fps,
        waiting=has.limit,
    )


@router.post("/api/clips/plan", responses=says(*WITH_BODY, model=Problem), tags=["clips"], dependencies=VIEW)
async def plan(asked: VideoAsked, has: Has) -> PlanTold:
    """What a clip will take, and all that can be said against it before."""
    made, found = await has.plan(asked)
    told = asdict(found) | {"notes": list(found.notes)}
    return PlanTold(timeline=made.model_dump(mode="json", exclude_defaults=True), **told)


@router.get(
    "/api/clips/events",
    responses={200: {"content": {"text/event-stream": {}}, "description": "Videos, as they change."},
               **says(403, 503, model=Problem)},
    response_class=StreamingResponse,
    tags=["clips"],
    dependencies=VIEW,
)  # fmt: skip
async def all_events(has: Has) -> Response:
    """Follows every clip: events called `videos`, with those that changed and the ids of those that are there."""
    return streamed(followed_all(has))


# ------------------------------------------------------------------------------------------------- bodies


def read(form: FormData) -> tuple[VideoAsked, BinaryIO | None]:
    """The fields of a form, and its file."""
    fields: dict[str, Any] = {}
    upload: BinaryIO | None = None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "input_reference":
                raise RefusalError(422, f"{name[:80]} is a file: send one file, as input_reference", param=name[:80])
            upload = value.file
        else:
            fields[name] = value
    if "timeline" in fields:
        fields["timeline"] = loaded(fields["timeline"])
    return described(fields), upload


def loaded(text: str, status: int = 422) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusalError(status, f"the JSON cannot be read: {error}", param="timeline") from None


def described(fields: Any) -> VideoAsked:
    """The request; RefusalError with the field that is wrong."""
    try:
        return VideoAsked.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        told = explained(error.errors(), "the body")
        raise RefusalError(422, told, param=".".join(map(str, first["loc"])) or None) from None


def inline(asked: VideoAsked) -> BinaryIO | None:
    """The picture in the request itself."""
    return None if asked.input_reference is None else io.BytesIO(uploads.from_url(asked.input_reference.image_url))


# ------------------------------------------------------------------------------------------------- following


def streamed(said: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(said, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def event(kind: str, value: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n"


async def changes(has: Clips, look: Callable[[], str | None]) -> AsyncIterator[str]:
    """What `look` says, whenever the queue has changed and it says something; a comment now and then."""
    loop = asyncio.get_running_loop()
    seen: tuple[int, ...] = ()
    last = loop.time()
    while has.caretaker.state != "stopped":
        now = await asyncio.to_thread(has.queue.version)
        said = await asyncio.to_thread(look) if now != seen else ""
        seen = now
        if said is None:
            return
        if said or loop.time() - last > KEEP_S:
            last = loop.time()
            yield said or ": still here\n\n"
        await asyncio.sleep(LOOK_S)


async def followed(has: Clips, name: str) -> AsyncIterator[str]:
    """A clip, until it is over."""
    last, over = "", False

    def look() -> str | None:
        nonlocal last, over
        try:
            now = has.queue.find(name)
        except ClipError:  # it was deleted
            return None
        over = now.over
        before, last = last, event("video", has.video(now).model_dump(mode="json"))
        return last if last != before else ""

    async for said in changes(has, look):
        yield said
        if over:
            return


async def followed_all(has: Clips) -> AsyncIterator[str]:
    """All clips, those first that are there already."""
    told: dict[str, Video] = {}

    def look() -> str | None:
        now = {job.id: has.video(job) for job in reversed(has.queue.page(NEWEST))}
        changed = [video.model_dump(mode="json") for name, video in now.items() if told.get(name) != video]
        gone = bool(told.keys() - now.keys())
        first = not told
        told.clear()
        told.update(now)
        return event("videos", {"changed": changed, "ids": list(now)}) if changed or gone or first else ""

    async for said in changes(has, look):
        yield said
