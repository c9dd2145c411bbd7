"""Imports point one way: livebrush.py -> web -> stream -> engines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "engines": {"engines"},
    "stream": {"engines", "stream"},
    "web": {"stream", "web"},
    "livebrush": {"engines", "stream", "web", "tools"},
}
ROOMS = {"engines", "stream", "web", "livebrush", "tools", "tests"}
FILES = [ROOT / "livebrush.py", *(p for room in ("engines", "stream", "web") for p in (ROOT / room).rglob("*.py"))]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first name of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    wrong = [f"line {n}: {name}" for n, name in imported(path) if name in ROOMS and name not in ALLOWED[room]]
    assert not wrong, f"{path.name} in {room} imports {wrong}; allowed: {sorted(ALLOWED[room])}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_web_stays_out_of_stream_and_torch_out_of_web(path: Path) -> None:
    names = {name for _, name in imported(path)}
    room = path.relative_to(ROOT).parts[0]
    assert not (room == "web" and "torch" in names)
    assert not (room == "stream" and names & {"aiortc", "fastapi", "uvicorn", "websockets"})


def test_a_wrong_import_is_seen(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def late():\n    from web.app import serve\n")
    assert list(imported(bad)) == [(2, "web")]
