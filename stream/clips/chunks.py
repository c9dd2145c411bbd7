"""Text inside PNG, APNG and GIF files, put in after they are written."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

PNG_SIGNATURE = 8
PNG_END = 12  # the IEND chunk
GIF_HEAD = 13  # up to the global colour table
KEYWORD = "livebrush"  # what the manifest is called in a file


def into_png(path: Path, text: str) -> None:
    """A tEXt chunk (PNG 1.2, 4.2.3) at the end of `path`: FFmpeg knows an APNG by its first two kilobytes."""
    body = f"tEXt{KEYWORD}\0{text}".encode("ascii")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    _insert(path, path.stat().st_size - PNG_END, chunk)


def png_text(path: Path) -> str | None:
    """What `into_png` put there. ValueError where the chunks do not follow one another."""
    begin = f"{KEYWORD}\0".encode("ascii")
    at, size = PNG_SIGNATURE, path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(8)
            if len(head) < 8:
                raise ValueError("it is cut off")
            length, kind = struct.unpack(">I4s", head)
            if kind == b"tEXt" and file.read(len(begin)) == begin:
                return file.read(length - len(begin)).decode("ascii", "replace")
            at += 12 + length
    return None


def into_gif(path: Path, text: str) -> None:
    """A comment (GIF89a, 24) behind the header of `path`, in blocks of at most 255 bytes."""
    content = text.encode("ascii")
    blocks = (content[i : i + 255] for i in range(0, len(content), 255))
    with path.open("rb") as file:
        flags = file.read(GIF_HEAD)[10]
    table = 3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0
    _insert(path, GIF_HEAD + table, b"!\xfe" + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0")


def _insert(path: Path, at: int, block: bytes) -> None:
    whole = path.with_name(path.name + "2")
    with path.open("rb") as old, whole.open("wb") as new:
        new.write(old.read(at))
        new.write(block)
        shutil.copyfileobj(old, new)
    whole.replace(path)
