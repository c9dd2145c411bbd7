"""Writes what the docs say about settings and the command line from the code itself: `python -m tools.documents`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from typer.testing import CliRunner

from stream.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = (
    "run",
    "serve",
    "clip",
    "clip motions",
    *(f"clip jobs {c}" for c in ("list", "run", "cancel", "resume", "remove")),
    "models",
    "doctor",
    "bench",
    *(f"engines {c}" for c in ("build", "list", "verify", "gc")),
)
WIDTH = 100


def settings_table() -> str:
    """Every live setting with its limits, default and help."""
    schema = Settings.model_json_schema()["properties"]
    rows = ["| setting | values | default | what it does |", "|---|---|---|---|"]
    for name, fact in schema.items():
        default = json.dumps(fact.get("default"))
        text = fact["description"].replace("|", r"\|")
        rows.append(f"| `{name}` | {values(name, fact)} | {default} | {text} |")
    return SETTINGS.format(table="\n".join(rows))


def values(name: str, fact: dict[str, object]) -> str:
    """The legal values of one setting, in words."""
    if name in ("width", "height"):
        return "64 to 2048, a multiple of 8 (of 32 or 64 for some models)"
    if "enum" in fact:
        return ", ".join(str(v) for v in fact["enum"])  # type: ignore[attr-defined]
    if "minimum" in fact:
        high = fact.get("maximum", f"below {fact.get('exclusiveMaximum')}")
        return f"{fact['minimum']} to {high}"
    if "maxLength" in fact:
        return f"text, {fact['maxLength']} characters"
    return {"boolean": "true, false"}.get(str(fact.get("type")), "1 to 8 increasing numbers, 0 to 49")


def command_line() -> str:
    """`--help` of every command."""
    from livebrush import app

    os.environ["COLUMNS"] = str(WIDTH)
    parts = []
    for command in COMMANDS:
        result = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="livebrush", terminal_width=WIDTH)
        text = re.sub(r"[ \t]+$", "", result.output, flags=re.MULTILINE).strip()
        parts.append(f"## livebrush {command}\n\n```text\n{text}\n```\n")
    return "# The command line\n\nMade by `python -m tools.documents`.\n\n" + "\n".join(parts)


SETTINGS = """# Settings

Made by `python -m tools.documents` from `stream/settings.py`. All of them may change while frames are in flight: a
frame keeps what it entered with, the next one follows the new value. On the command line `guidance_scale` is
`--guidance-scale`, and `width` and `height` are `--size 512x288`. A preset (`configs/*.toml`) may have defaults of its
own.

{table}
"""


def main() -> None:
    (DOCS / "settings.md").write_text(settings_table())
    (DOCS / "cli.md").write_text(command_line())


if __name__ == "__main__":
    main()
