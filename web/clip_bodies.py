"""The bodies of the HTTP API of clips: those below /v1 are OpenAI's, with fields of our own behind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from web.fields import Model


class ClipsHealth(Model):
    """How the clips go; absent where the server makes none."""

    runner: Literal["idle", "running", "restarting", "stopped"]
    pid: int | None  # of the process that makes them
    notice: str
    restarts: int
    waiting: int
    running: int


class VideoError(Model):
    """Why there is no clip."""

    code: str
    message: str


class Video(Model):
    """A clip that is asked for, as OpenAI's API has it; `seed` and what follows is Livebrush's own."""

    id: str
    object: Literal["video"] = "video"
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    error: VideoError | None = None
    model: str
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    seed: int
    batch: Annotated[str, Field(description="The same for clips that were asked for together.")]
    stage: Annotated[str, Field(description="What is being done.")]
    done: int
    total: int
    took_s: float | None = None
    format: str
    preview: Annotated[str | None, Field(description="Address of a small JPEG, while it is made.")] = None
    timeline: Annotated[dict[str, JsonValue], Field(description="What it is; can be sent again.")]


class VideoList(Model):
    """Clips, a page of them."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(Model):
    """A clip that is no more."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class OpenAiError(Model):
    """What is wrong, in OpenAI's form."""

    message: str
    type: str
    param: Annotated[str | None, Field(description="The field that it is about.")] = None
    code: str | None = None


class OpenAiProblem(Model):
    """An answer that is an error, below /v1."""

    error: OpenAiError


class PlanTold(Model):
    """What a clip will take."""

    timeline: Annotated[dict[str, JsonValue], Field(description="With every segment filled in.")]
    frames: int
    width: int
    height: int
    fps: str
    windows: int
    steps: int
    unet_calls: int
    memory_mb: float | None
    seconds: float | None
    notes: list[str]


class Motion(Model):
    """A motion module that is built in."""

    name: str
    about: str


class ClipsTold(Model):
    """What the editor of clips is built from."""

    timeline: Annotated[dict[str, JsonValue], Field(description="JSON Schema of a timeline.")]
    motions: list[Motion]
    models: list[str]
    backends: list[str]
    formats: list[str]
    styles: Annotated[list[str], Field(description="Prompts that the model knows well.")]
    size: Annotated[list[int], Field(description="Width and height where none are asked for.")]
    fps: int
    waiting: Annotated[int, Field(description="Clips that may wait.")]
