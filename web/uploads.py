"""Files that strangers send: known by what is in them, decoded once, and kept under a name of ours."""

from __future__ import annotations

import base64
import binascii
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import av
from PIL import Image, UnidentifiedImageError

from web.errors import RefusalError

NAME = "upload"  # of the file in the job's folder, with a suffix of ours
SIDE, PIXELS = 8192, 50_000_000  # of a picture, at most
PICTURES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp"}
EXPECTED = "send a picture (JPEG, PNG, WebP, BMP) or a video (MP4, MOV, WebM, MKV, AVI, GIF)"
HEAD = 16  # bytes that tell a container
CONTAINERS: dict[str, tuple[str, Callable[[bytes], bool]]] = {  # suffix: FFmpeg's format, and what it begins with
    ".mp4": ("mov", lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")),
    ".mkv": ("matroska", lambda head: head.startswith(b"\x1a\x45\xdf\xa3")),
    ".avi": ("avi", lambda head: head.startswith(b"RIFF") and head[8:12] == b"AVI "),
    ".gif": ("gif", lambda head: head.startswith((b"GIF87a", b"GIF89a"))),
}


def store(file: BinaryIO, folder: Path) -> Path:
    """The upload, checked, in `folder`. RefusalError where it is no picture and no video. Takes time: for a thread."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / NAME
    with raw.open("wb") as out:
        shutil.copyfileobj(file, out)
    return raw.rename(raw.with_suffix(kind(raw)))


def kind(path: Path) -> str:
    """The suffix that fits what is in a file; RefusalError where that is no picture and no video, or a huge one."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise wrong(f"the upload is empty: {EXPECTED}")
    found = next((suffix for suffix, (_, begins) in CONTAINERS.items() if begins(head)), None)
    return _picture(path) if found is None else _video(path, found)


def _picture(path: Path) -> str:
    try:
        with Image.open(path, formats=list(PICTURES)) as image:
            _check(*image.size)
            image.load()
            return PICTURES[image.format or ""]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise wrong(f"the upload is no picture that can be read: {EXPECTED}") from None


def _video(path: Path, suffix: str) -> str:
    """Its first picture can be decoded. The format is said, so that FFmpeg takes the file for nothing else (a playlist
    would make it open others)."""
    try:
        with av.open(str(path), format=CONTAINERS[suffix][0]) as container:
            if not container.streams.video:
                raise wrong(f"the upload has no pictures in it: {EXPECTED}")
            stream = container.streams.video[0]
            _check(stream.codec_context.width, stream.codec_context.height)
            next(container.decode(stream))
    except (av.FFmpegError, StopIteration):
        raise wrong(f"the upload is no video that can be read: {EXPECTED}") from None
    return suffix


def _check(width: int, height: int) -> None:
    if max(width, height) > SIDE or width * height > PIXELS:
        raise wrong(
            f"the upload is {width}x{height}: send at most {SIDE} pixels a side, {PIXELS // 10**6} million in all"
        )


def from_url(text: str) -> bytes:
    """The bytes of a `data:` URL. RefusalError for others: the server fetches nothing for strangers."""
    head, _, body = text.partition(",")
    if not head.startswith("data:") or not head.endswith(";base64"):
        raise wrong("the address is no data: URL in base64: send the file itself, as multipart/form-data")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        raise wrong("the data: URL is no base64: send the file itself, as multipart/form-data") from None


def wrong(told: str) -> RefusalError:
    return RefusalError(422, told, param="input_reference")
