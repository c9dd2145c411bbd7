"""Any model that a server paints, over the interface of OpenAI's `/v1/videos`: ask, look how far it is, fetch.

The server is the one that the environment names; a timeline may name another, which then gets no key: timelines are
passed on, and must not be able to ask for the keys of the one who renders them.
"""

from __future__ import annotations

import http.client
import json
import mimetypes
import os
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from stream.clips.backend import Backend, Cancelled, Facts, FrameRule, Plan, Rendered, Renderer, Watch
from stream.clips.families.asked import Job, ask
from stream.clips.families.received import NOTE, frames_of
from stream.clips.timeline import Timeline
from stream.config import BUILTIN
from stream.errors import ClipError
from stream.frame import Image

ADDRESS = "LIVEBRUSH_VIDEOS"
KEY = "LIVEBRUSH_VIDEOS_KEY"
TIMEOUT = 60.0  # seconds that a server may take to answer
TRIES = 4
CHUNK = 1 << 20
KEPT = "video.json"
ENDED = ("completed", "failed", "cancelled", "canceled", "expired")
FORM = "multipart/form-data"


@dataclass(frozen=True)
class Served(Backend):
    """A server somewhere."""

    facts: Facts

    def ask(self, timeline: Timeline) -> Job:
        job = ask(self.facts, timeline)
        values = {"steps": timeline.steps, "guidance_scale": timeline.guidance_scale, "negative_prompt": job.negative}
        if unsaid := [name for name, value in values.items() if value]:
            raise ClipError(
                f"{unsaid[0]} is no part of /v1/videos: where this server knows it, put it into options.fields",
                (unsaid[0],),
            )
        _fields(job)
        _address(timeline)
        return job

    def missing(self, timeline: Timeline | None = None) -> str | None:
        named = None if timeline is None else timeline.options.get("address")
        if not (named or os.environ.get(ADDRESS)):
            return f"the server's address: set {ADDRESS} (e.g. https://api.openai.com), and {KEY} where it wants a key"
        return None

    def plan(self, timeline: Timeline) -> Plan:
        job = self.ask(timeline)
        told = f"{_seconds(job)} s at {job.width}x{job.height} are asked of {_address(timeline)}; {NOTE}"
        return job.plan(0, told, "the seed is not sent: the server chooses one")

    def key(self, timeline: Timeline) -> Hashable:
        return self.facts.name, _address(timeline), timeline.model

    def load(self, timeline: Timeline, tell: Callable[[str], Any]) -> Renderer:
        if missing := self.missing(timeline):
            raise ClipError(f"backend {self.facts.name} is not ready: {missing}")
        tell(f"asks {_address(timeline)}")
        return Asking(self, _address(timeline))


class Asking(Renderer):
    """Asks a server for each clip. The id is kept in the job's folder, so that one that was asked for is fetched."""

    def __init__(self, backend: Served, address: str) -> None:
        self.backend, self.server = backend, Server(address, _key_for(address))

    def render(self, timeline: Timeline, folder: Path, watch: Watch) -> Rendered:
        return Rendered(self._frames(self.backend.ask(timeline), folder, watch))

    def models(self) -> Mapping[str, str]:
        return {self.backend.facts.name: self.server.address}

    def close(self) -> None:
        """Nothing is held."""

    def _frames(self, job: Job, folder: Path, watch: Watch) -> Iterator[Image]:
        file = folder / "received.mp4"
        if not file.is_file():
            self._fetch(self._asked(job, folder), file, job.option("poll", 2.0), watch)
        yield from frames_of(file, job, watch)

    def _asked(self, job: Job, folder: Path) -> str:
        """The id of the video; asked for anew unless this job did so before."""
        kept = folder / KEPT
        if not kept.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            made = self.server.create(_fields(job), Path(job.keyframes[0].image) if job.keyframes else None)
            kept.write_text(json.dumps({"id": made}), encoding="utf-8")
        return str(json.loads(kept.read_text(encoding="utf-8"))["id"])

    def _fetch(self, video: str, file: Path, poll: float, watch: Watch) -> None:
        try:
            while (state := self._state(video, poll))["status"] not in ENDED:
                _pause(poll, watch, min(int(state.get("progress") or 0), 99))
        except Cancelled:
            with suppress(ClipError):
                self.server.delete(video)
            (file.parent / KEPT).unlink(missing_ok=True)
            raise
        if state["status"] != "completed":
            (file.parent / KEPT).unlink(missing_ok=True)
            said = (state.get("error") or {}).get("message") or "it does not say why"
            raise ClipError(f"{self.server.address} made no video, its state is {state['status']}: {str(said)[:500]}")
        watch.tell("denoise", 100, 100)
        self.server.content(video, file)

    def _state(self, video: str, poll: float) -> dict[str, Any]:
        """How far it is; a server that does not answer is asked again, a few times."""
        for _ in range(TRIES - 1):
            with suppress(ClipError):
                return self.server.state(video)
            time.sleep(poll)
        return self.server.state(video)


def _pause(seconds: float, watch: Watch, progress: int) -> None:
    until = time.monotonic() + seconds
    watch.tell("denoise", progress, 100)
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
        watch.tell("denoise", progress, 100)


class Server:
    """The calls of `/v1/videos`. ClipError where the server is not there, or says no."""

    def __init__(self, address: str, key: str | None) -> None:
        self.address = address
        self._headers = {"Accept": "*/*", "Connection": "close"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def create(self, fields: Mapping[str, str], picture: Path | None) -> str:
        """Asks for a video; its id."""
        border = uuid.uuid4().hex
        body = form(fields, picture, border)
        made = self._json("POST", "", body, {"Content-Type": f"{FORM}; boundary={border}"})
        if not isinstance(made.get("id"), str):
            raise ClipError(
                f"{self.address} gave no id for the video, but {str(made)[:200]}: is it a /v1/videos server?"
            )
        return str(made["id"])

    def state(self, video: str) -> dict[str, Any]:
        found = self._json("GET", f"/{quote(video, '')}")
        if not isinstance(found.get("status"), str):
            raise ClipError(f"{self.address} gave no status of {video}, but {str(found)[:200]}: ask for it again")
        return found

    def content(self, video: str, file: Path) -> None:
        """Fetches the video into `file`, whole or not at all."""
        part = file.with_suffix(".part")
        with self._call("GET", f"/{quote(video, '')}/content") as answer, part.open("wb") as out:
            try:
                while chunk := answer.read(CHUNK):
                    out.write(chunk)
            except (OSError, http.client.HTTPException) as error:
                raise ClipError(f"{self.address} stopped sending the video ({error}): run the clip again") from None
            if out.tell() < int(answer.headers.get("Content-Length") or 0):
                raise ClipError(f"{self.address} stopped sending the video at {out.tell()} bytes: run the clip again")
        part.replace(file)

    def delete(self, video: str) -> None:
        self._call("DELETE", f"/{quote(video, '')}").close()

    def _json(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> dict[str, Any]:
        with self._call(method, path, body, headers) as answer:
            try:
                found = json.loads(answer.read())
            except (ValueError, OSError, http.client.HTTPException):
                found = None
        if not isinstance(found, dict):
            raise ClipError(f"{self.address} did not answer in JSON: is it a /v1/videos server?")
        return found

    def _call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> http.client.HTTPResponse:
        place = urlsplit(self.address)
        secure = place.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        line = kind(place.hostname or "", place.port, timeout=TIMEOUT)
        try:
            line.request(method, f"{place.path}/v1/videos{path}", body, {**self._headers, **headers})
            answer = line.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ClipError(f"{self.address} does not answer ({error}): check {ADDRESS}, and that it runs") from None
        if answer.status >= 300:
            said = answer.read(2000).decode(errors="replace")
            hint = f": check {KEY}" if answer.status in (401, 403) else ""
            raise ClipError(
                f"{self.address} answered {answer.status} {answer.reason} to {method} videos{hint}\n{_why(said)}"
            )
        return answer


def form(fields: Mapping[str, str], picture: Path | None, border: str) -> bytes:
    """A form with the picture as `input_reference` (RFC 7578)."""
    parts = [
        f'--{border}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()
    ]
    if picture is not None:
        kind = mimetypes.guess_type(picture.name)[0] or "application/octet-stream"
        head = f'--{border}\r\nContent-Disposition: form-data; name="input_reference"; filename="input{picture.suffix}"'
        parts += [f"{head}\r\nContent-Type: {kind}\r\n\r\n".encode(), picture.read_bytes(), b"\r\n"]
    return b"".join([*parts, f"--{border}--\r\n".encode()])


def _fields(job: Job) -> dict[str, str]:
    model = {} if job.timeline.model == BUILTIN else {"model": job.timeline.model}
    own = job.option("fields", {})
    if not all(isinstance(v, str | int | float) for v in own.values()) or any(set('"\r\n') & set(k) for k in own):
        raise ClipError("option fields is a table of names with texts and numbers", ("options", "fields"))
    asked = {"prompt": job.prompt, "size": f"{job.width}x{job.height}", "seconds": _seconds(job)}
    return model | asked | {k: str(v) for k, v in own.items()}


def _seconds(job: Job) -> str:
    length = Fraction(job.frames) / job.fps
    return str(length) if length.denominator == 1 else f"{float(length):.3f}".rstrip("0")


def _address(timeline: Timeline) -> str:
    """Where the server is, without `/v1`. ClipError where it is no address."""
    text = str(timeline.options.get("address") or os.environ.get(ADDRESS) or "http://not-set")
    place = urlsplit(text)
    if place.scheme not in ("http", "https") or not place.hostname or place.username:
        raise ClipError(f"address {text[:200]!r} is no address: use e.g. http://localhost:8000", ("options", "address"))
    return text.rstrip("/").removesuffix("/videos").removesuffix("/v1")


def _key_for(address: str) -> str | None:
    """The key, for the server that the environment names, and for no other."""
    own = os.environ.get(ADDRESS)
    return os.environ.get(KEY) if own and _address(Timeline(options={"address": own})) == address else None


def _why(text: str) -> str:
    """What an error says of itself."""
    try:
        found = json.loads(text)
        return str(found["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return text[:500]


BACKEND = Served(
    Facts(
        name="http", title="Any /v1/videos server", modes=("t2v", "i2v"), rule=FrameRule(), multiple=8,
        size=(1280, 720), fps=24, steps=1, guidance_scale=1.0, memory="the server's", licence="the server's",
        source=ADDRESS,
        options={
            "address": f"the server (default: {ADDRESS}; another one gets no key)",
            "fields": "a table of more fields to send, e.g. seed, where the server knows them",
            "poll": "seconds between two looks at how far it is (default 2.0)",
        },
    )
)  # fmt: skip
