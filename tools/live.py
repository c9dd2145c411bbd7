"""The live bench: the whole way from a camera to the painted picture in a browser, by the rows of the delivery table.

Servers, browsers and peers are processes of their own, as in production, all on this machine: a browser's own encoding
and drawing takes its share of the processor and is part of every figure. Where no Chromium is, own peers measure what
they can, and the other rows say that they were not measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stream.errors import LivebrushError
from tools import painted, rows, rows_network, without
from tools.conditions import machine
from tools.stage import Row, Stage

SECONDS, QUICK_S = 30.0, 6.0
PACKAGES = ("aiortc", "av", "fastapi", "uvicorn", "numpy", "opencv-python-headless")
Measured = Callable[[Stage], Row | list[Row]]

BROWSER: dict[str, Measured] = {
    "L1": rows.l1, "L1 vp8": lambda stage: replace(rows.l1(stage, "vp8"), name="L1 vp8"), "L2": rows.l2, "L3": rows.l3,
    "L4": rows.l4, "L5": rows.l5, "L6": rows.l6, "C4": lambda stage: rows.c4(stage, round(stage.seconds * 2000 / 30)),
    "R1": rows_network.r1, "R2": rows_network.r2, "R4": rows.r4, "R9": rows.r9,
}  # fmt: skip
ANYWHERE: dict[str, Measured] = {"C1, C2, R10": rows.crowd, "C3": rows.c3}
WITHOUT: dict[str, Measured] = {"L1": without.l1, "L2": without.l2, "R4": without.r4}
PAINTED: dict[str, Measured] = {"built-in model": painted.rows}


def measured(stage: Stage) -> Iterator[Row]:
    """Every row, one after another; one that fails is a row that does not hold."""
    chosen = {**BROWSER, **ANYWHERE, **PAINTED} if stage.sees else {**WITHOUT, **ANYWHERE}
    for name, work in chosen.items():
        yield from tried(name, work, stage)
    if not stage.sees:
        missing = [name for name in (*BROWSER, *PAINTED) if name not in WITHOUT]
        yield from (Row(name, "", "", note=f"not measured: {stage.why}") for name in missing)


def tried(name: str, work: Measured, stage: Stage) -> list[Row]:
    """The rows of one measurement."""
    try:
        found = work(stage)
    except (LivebrushError, RuntimeError, TimeoutError, ValueError, AssertionError) as error:
        return [Row(name, "", "", holds=False, note=f"failed: {error}")]
    return found if isinstance(found, list) else [found]


def conditions(stage: Stage, seconds: float) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        **machine(PACKAGES),
        "client": f"Chromium {stage.browser().version}" if stage.sees else "own aiortc peers",
        "seconds_a_figure": seconds,
    }


def summary(found: list[Row]) -> dict[str, Any]:
    """The figures that are asked for most, by plain names."""
    by_name = {row.name: row.value for row in found}
    first, cost, flood = (by_name.get(n) or {} for n in ("L1", "C2", "R4"))
    return {
        "glass_to_glass_ms": {k: first.get(k) for k in ("p50", "p95", "p99")},
        "cpu_ms_per_frame": cost.get("cpu_ms_per_frame"),
        "cpu_ms_per_second_and_peer": cost.get("cpu_ms_per_second_and_peer"),
        "memory_mb_per_peer": cost.get("memory_mb_per_peer"),
        "dropped_under_overload": flood.get("dropped"),
        "event_loop_lag_ms": by_name.get("R10"),
    }


def measure(seconds: float, tell: Callable[[Row], Any]) -> dict[str, Any]:
    """Everything, as one dictionary; `tell` hears of each row when it is done."""
    found = []
    with tempfile.TemporaryDirectory(prefix="livebrush-") as folder, Stage(Path(folder), seconds) as stage:
        before = conditions(stage, seconds)
        for row in measured(stage):
            tell(row)
            found.append(row)
    table = {row.name: {k: v for k, v in asdict(row).items() if k != "name"} for row in found}
    return summary(found) | {"rows": table, "conditions": before}


def shown(row: Row, console: Console) -> None:
    """A row as a line or two."""
    mark = {True: "[green]holds[/]", False: "[red]does not hold[/]", None: "[yellow]not measured[/]"}[row.holds]
    console.print(f"[bold]{row.name}[/] {row.figure} ({row.hold}): {mark}", highlight=False, soft_wrap=True)
    text = "; ".join(f"{k} {brief(v)}" for k, v in row.value.items())
    console.print(f"   {text or row.note}", highlight=False, markup=False, soft_wrap=True)


def brief(value: Any) -> str:
    """A value in a line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} {brief(v)}" for k, v in value.items()) + "}"
    return str(value)


def main(quick: bool = False, json_file: Path | None = None) -> None:
    """Measures, prints, and writes `json_file`. LivebrushError where the packages for it are missing."""
    from tools.bench import write

    if find_spec("psutil") is None:
        raise LivebrushError("the live bench needs psutil, which is not here: pip install 'livebrush[test]'")

    console = Console()
    result = measure(QUICK_S if quick else SECONDS, lambda row: shown(row, console))
    table = Table("row", "holds", box=None)
    for name, row in result["rows"].items():
        table.add_row(name, {True: "yes", False: "no", None: "not measured"}[row["holds"]])
    console.print(table)
    if json_file is not None:
        write(result | {"quick": quick}, json_file)
        console.print(f"written to {json_file}")


__all__ = ["main", "measure", "summary"]
