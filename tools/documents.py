"""Writes what the docs say about settings and the command line from the code itself: `python -m tools.documents`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from stream.clips.timeline import Timeline
from stream.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = (
    "run",
    "serve",
    "clip",
    "clip backends",
    "clip motions",
    *(f"clip jobs {c}" for c in ("list", "run", "cancel", "resume", "remove")),
    "models",
    "sources",
    "doctor",
    "bench",
    *(f"engines {c}" for c in ("build", "list", "verify", "gc")),
)
WIDTH = 100


TABLES = {
    "Timeline": "The clip itself: keys at the top of the file.",
    "Segment": "Each `[[segments]]`. They lie in a row with no gap; where `start` and `end` are left out they share "
    "the clip evenly.",
    "Key": 'Each of `keys`, of the clip or of a segment: `keys = [{ frame = 0, prompt = "..." }, ...]`. The first '
    "is where its segment begins (0 for the clip); after the last one the prompt holds, or goes back to the first in a "
    "loop.",
    "Camera": "`[segments.camera]`, or `camera = { x = 0.01 }`.",
    "Keyframe": "Each `[[keyframes]]`, and each of `control.keyframes`.",
    "Control": "`[control]`.",
    "Output": "`[output]`.",
    "Memory": "`[memory]`.",
    "Lora": 'Each of `loras` and `motion_loras`: `loras = [{ source = "style.safetensors", strength = 0.8 }]`.',
}


def timeline_page() -> str:
    """Every key of a timeline with its limits, default and help."""
    schema = Timeline.model_json_schema()
    parts = []
    for name, about in TABLES.items():
        facts = schema if name == "Timeline" else schema["$defs"][name]
        rows = ["| key | values | default | what it does |", "|---|---|---|---|"]
        for key, fact in facts["properties"].items():
            text = fact["description"].replace("|", r"\|")
            rows.append(
                f"| `{key}` | {kinds(key, fact)} | {default(fact, key in facts.get('required', ()))} | {text} |"
            )
        parts.append(f"## {name}\n\n{about}\n\n" + "\n".join(rows) + "\n")
    return TIMELINE + "\n".join(parts)


def kinds(name: str, fact: dict[str, Any]) -> str:
    """The legal values of a key of a timeline, in words."""
    some = [part for part in fact.get("anyOf", [fact]) if part.get("type") != "null"]
    found = {**some[0], **{k: v for k, v in fact.items() if k != "anyOf"}}
    if "$ref" in found or found.get("type") in ("array", "object"):
        inner = str(found.get("$ref") or found.get("items", {}).get("$ref", "")).rpartition("/")[2]
        return "a table" if not inner else f"{'a list of ' if 'items' in found else ''}[{inner}](#{inner.lower()})"
    if name == "fps":
        return "above 0 to 240, or a fraction in quotes"
    if "multipleOf" in found:
        return values("width", found)
    if "enum" not in found and "minimum" not in found and "maxLength" not in found:
        return {"boolean": "true, false"}.get(found["type"], "text")
    if "minimum" in found and "maximum" not in found:
        return f"{found['minimum']} or more"
    return values(name, found)


def default(fact: dict[str, Any], required: bool) -> str:
    value = fact.get("default")
    return (
        "must be said" if required else "" if value in (None, [], {}) or isinstance(value, dict) else json.dumps(value)
    )


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


TIMELINE = """# Timelines, key by key

Made by `python -m tools.documents` from `stream/clips/timeline.py`. A timeline is a TOML or JSON file with these
keys; all of them may be left out but those that must be said. Where the default is empty, the back end, the model or
the motion module has its own. Paths start from the file's folder. How to use them: [clips.md](clips.md).

"""


def main() -> None:
    (DOCS / "timeline.md").write_text(timeline_page())
    (DOCS / "settings.md").write_text(settings_table())
    (DOCS / "cli.md").write_text(command_line())


if __name__ == "__main__":
    main()
