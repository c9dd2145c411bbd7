"""Many clips from one timeline: seeds in a row, and batches from CSV or YAML, a row of which says what differs.

    prompt,seed,output.quality,output
    watercolor painting,1,20,first.mp4
    oil painting,2,,second.mp4

A column is a key of the timeline (`output.quality`, `memory.offload`), of every segment (`segments.scale`), or one of
`size` (512x288), `motion` (pan;zoom, in YAML a list) and `output` (the clip's name). An empty field says nothing.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from stream.clips.explain import At, keys
from stream.clips.flags import Flags
from stream.clips.lines import NodeLines
from stream.clips.reading import Script, Table, near
from stream.commandline import sides
from stream.errors import ClipError, LivebrushError

MOST = 10_000  # clips in one go
SEEDS = re.compile(r"(\d+)(?:-(\d+))?")
FIELD = re.compile(r"\{(\w[\w.]*)\}")
WORD = 60  # characters of a value in a file's name


@dataclass(frozen=True)
class Row:
    """What differs in one clip of a batch, and its line."""

    number: int
    values: Table
    where: str


@dataclass(frozen=True)
class Draft:
    """One clip to be: its values, where they come from, and the name that it is given."""

    table: Table
    script: Script
    output: Path | None
    facts: Mapping[str, str]  # for a name with {seed} in it


def seeds(text: str) -> list[int]:
    """`1-8`, `1,5,9` or `3,10-12`, each once. ClipError where it is no such list."""
    found: dict[int, None] = {}
    for part in text.split(","):
        match = SEEDS.fullmatch(part.strip())
        if match is None or len(part) > 40:
            raise ClipError(f"seeds {text[:80]!r} are no list of seeds: use e.g. 1-8 or 1,5,9")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise ClipError(f"seeds {part.strip()} are reversed: use {high}-{low}")
        if high - low >= MOST:
            raise ClipError(f"seeds {part.strip()} are {high - low + 1} clips: use at most {MOST}")
        found.update(dict.fromkeys(range(low, high + 1)))
    return list(found)


def rows(path: Path) -> list[Row]:
    """The rows of a batch. ClipError names file and line of what is wrong. Paths start from its folder."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".yaml", ".yml"):
        raise ClipError(f"batch {path} is of no known kind: use .csv or .yaml")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipError(f"batch {path} cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8'})") from None
    found = list(_csv(path, text) if suffix == ".csv" else _yaml(path, text))
    if not 0 < len(found) <= MOST:
        raise ClipError(f"batch {path} has {len(found)} rows: expected 1 to {MOST}")
    return found


def drafts(base: Table, script: Script, given: Flags, batch: Sequence[Row], numbers: Sequence[int]) -> Iterator[Draft]:
    """`base` once for every row and seed. What the row says goes over it, flags over both."""
    for row in batch or [Row(1, {}, "")]:
        values = dict(row.values)
        named = values.pop("output", None) if isinstance(values.get("output"), str) else None
        source = replace(script, flags={_place(name): row.where for name in values} | {**script.flags})
        each: Sequence[int | None] = numbers or [None]
        for seed in each:
            table = given.over(_applied(base, values, row.where))
            table |= {} if seed is None else {"seed": seed}
            facts = {name: _word(value) for name, value in row.values.items()}
            facts |= {"row": f"{row.number:03}", "seed": str(table.get("seed", 0))}
            yield Draft(table, source, None if named is None else Path(named), facts)


def _place(column: str) -> At:
    """The place in a timeline of a column."""
    return ("segments",) if column == "motion" else tuple(column.split("."))


def outputs(found: Sequence[Draft], pattern: Path | None, many: str) -> list[Path]:
    """Where each clip goes: its own `output`, else `pattern` with its {fields} filled in; where there are many and none
    is in it, `many` ({seed} or {row}) goes before its suffix. ClipError where two have the same name."""
    made = []
    for draft in found:
        path = draft.output or pattern
        path = path if path is None or path.name not in ("", "..") else Path(os.path.abspath(path))  # noqa: PTH100
        if path is None:
            raise ClipError(
                "no output: say -o out.mp4" + (f", or a column `output` in {draft.script.name}" if many else "")
            )
        if not path.name:
            raise ClipError(f"output {path} has no name: say -o out.mp4")
        plain = many and draft.output is None and not FIELD.search(str(path))
        text = str(path.with_name(f"{path.stem}-{many}{path.suffix}")) if plain else str(path)
        made.append(Path(FIELD.sub(lambda m, facts=draft.facts: _filled(m[1], facts), text)))  # type: ignore[misc]
    twice = [str(path) for path, count in Counter(made).items() if count > 1]
    if twice:
        raise ClipError(
            f"output {twice[0]} is named for several clips: put {{seed}}, {{row}} or a column into the name"
        )
    return made


def _filled(name: str, facts: Mapping[str, str]) -> str:
    if name not in facts:
        raise ClipError(f"output has {{{name}}} in its name: use one of {', '.join(f'{{{x}}}' for x in facts)}")
    return facts[name]


def _word(value: object) -> str:
    """A value as a part of a file's name."""
    value = "-".join(map(str, value)) if isinstance(value, list) else value
    return re.sub(r"[^\w.]+", "-", str(value)).strip("-.")[:WORD]


# ------------------------------------------------------------------------------------------------- rows


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        columns = [str(name).strip() for name in reader.fieldnames or ()]
        if len(set(columns)) < len(columns):
            raise ClipError(f"{path}:1: a column is there twice: give each a name of its own")
        for number, line in enumerate(reader, 1):
            where = f"{path}:{reader.line_num}"
            if None in line or None in line.values():
                raise ClipError(f"{where}: expected {len(columns)} fields, as in the first line")
            values = {c: v.strip() for c, v in zip(columns, line.values(), strict=True) if v.strip()}
            yield Row(number, near({c: _typed(c, v) for c, v in values.items()}, path.parent), where)
    except csv.Error as error:
        raise ClipError(f"{path}:{reader.line_num}: no valid CSV: {error}") from None


def _yaml(path: Path, text: str) -> Iterator[Row]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ClipError(f"batch {path} is not valid YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(found, list):
        raise ClipError(f"batch {path} holds a {type(found).__name__}: expected a list of tables, one a clip")
    lines = NodeLines(text)
    for index, values in enumerate(found):
        where = f"{path}:{lines.line([index])}"
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise ClipError(f"{where}: expected a table such as {{prompt: oil painting, seed: 2}}")
        yield Row(index + 1, near(values, path.parent), where)


def _typed(column: str, text: str) -> Any:
    """A field of a CSV file in the kind that its key takes."""
    if column == "motion":
        return [part.strip() for part in text.split(";")]
    fact = dict(keys()).get(column)
    if fact is None or _takes_text(fact.annotation):
        return text
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


def _takes_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return True
    return kind is str or any(_takes_text(part) for part in get_args(kind))


def _applied(base: Table, values: Table, where: str) -> Table:
    """`base` with the values of a row on top; dots lead into tables, `segments.` into every segment."""
    table: Table = {}
    segment: Table = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if name == "size":
            table |= _sides(value, where)
        elif name == "motion":
            table["segments"] = [{"motion": x} for x in (value if isinstance(value, list) else [value])]
        elif head == "segments" and rest:
            segment[rest] = value
        elif rest:
            inside = table.setdefault(head, {})
            inside |= {rest: value}
        else:
            table[name] = value
    return Flags(table, segment).over(base)


def _sides(value: Any, where: str) -> Table:
    try:
        return dict(sides(str(value)))
    except LivebrushError as error:
        raise ClipError(f"{where}: {error}") from None
