"""The delivery bench: every row of the table of figures, by its name, on this machine.

    python tools/bench_delivery.py --json delivery.json    # half an hour; --quick: some minutes
    python tools/bench_delivery.py --rows R5,R8            # some of them

`livebrush bench --live` is the same. Servers, browsers and peers are processes of their own, as in production: a
browser's own encoding and drawing takes its share of the processor and is part of every figure. Where no Chromium is,
own peers measure what they can, and the other rows say that they were not measured. The file is written anew after
every row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stream.errors import LivebrushError
from tools import painted, rows, rows_limits, rows_network, rows_robust, rows_sinks, without
from tools.conditions import machine
from tools.stage import Row, Stage

SECONDS, QUICK_S = 30.0, 6.0  # a figure
CYCLES, RESTARTS, MESSAGES = 60, 3, 2000  # of R5, R7 and R8, where it is to be quick
PACKAGES = ("aiortc", "av", "fastapi", "uvicorn", "numpy", "opencv-python-headless")
Measured = Callable[[Stage], Row | list[Row]]


def quick(stage: Stage) -> bool:
    return stage.seconds < SECONDS


# By what they measure, in the order of the table.
ROWS: dict[str, Measured] = {
    "L1": rows.l1, "L1 vp8": lambda stage: replace(rows.l1(stage, "vp8"), name="L1 vp8"), "L2": rows.l2, "L3": rows.l3,
    "L4": rows.l4, "L5": rows.l5, "L6": rows.l6, "C1, C2, R10": rows.crowd, "C3": rows.c3,
    "C4": lambda stage: rows.c4(stage, round(stage.seconds * 2000 / SECONDS)),
    "R1": rows_network.r1, "R2": rows_network.r2, "R4": rows.r4,
    "R5": lambda stage: rows_robust.r5(stage, CYCLES if quick(stage) else rows_robust.CYCLES), "R6": rows_robust.r6,
    "R7": lambda stage: rows_robust.r7(stage, RESTARTS if quick(stage) else rows_robust.RESTARTS),
    "R8": lambda stage: rows_robust.r8(stage, MESSAGES if quick(stage) else rows_robust.MESSAGES), "R9": rows.r9,
    "R12": rows_sinks.r12, "S1": rows_limits.s1, "S2": rows_limits.s2, "S3": rows_limits.s3,
    "S4": rows_limits.s4, "built-in model": painted.rows,
}  # fmt: skip
BLIND = ("C1, C2, R10", "C3", "R5", "R6", "R8", "R12", "S1", "S2", "S3", "S4")  # need no browser
WITHOUT: dict[str, Measured] = {"L1": without.l1, "L2": without.l2, "R4": without.r4}  # stand in for those that do


def chosen(names: Iterable[str]) -> dict[str, Measured]:
    """The measurements that give these rows, all where none is named. LivebrushError where one is not known."""
    known = {name: group for group in ROWS for name in (group, *group.split(", "))}
    for name in names:
        if name not in known:
            raise LivebrushError(f"row {name!r} is not known: name some of {', '.join(known)}")
    wanted = {known[name] for name in names} or set(ROWS)
    return {group: work for group, work in ROWS.items() if group in wanted}


def measured(stage: Stage, work: Mapping[str, Measured]) -> Iterator[tuple[str, list[Row]]]:
    """What each measurement gave, one after another; those that need a browser that is not there say so."""
    for name, measure in work.items():
        if stage.sees or name in BLIND:
            yield name, tried(name, measure, stage)
        elif name in WITHOUT:
            yield name, tried(name, WITHOUT[name], stage)
        else:
            yield name, [Row(name, "", "", note=f"not measured: {stage.why}")]


def tried(name: str, work: Measured, stage: Stage) -> list[Row]:
    """The rows of one measurement; one that fails is a row that does not hold."""
    try:
        found = work(stage)
    except (LivebrushError, RuntimeError, TimeoutError, ValueError, AssertionError, OSError) as error:
        return [Row(name, "", "", holds=False, note=f"failed: {error}")]
    return found if isinstance(found, list) else [found]


def conditions(stage: Stage) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        **machine(PACKAGES),
        "client": f"Chromium {stage.browser().version}" if stage.sees else "own aiortc peers",
        "seconds_a_figure": stage.seconds,
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


def measure(seconds: float, names: Iterable[str], tell: Callable[[str, list[Row], dict[str, Any]], Any]) -> None:
    """Everything, or the rows named; `tell` hears of each measurement when it is done, with all that is known then."""
    work, found = chosen(names), list[Row]()
    with tempfile.TemporaryDirectory(prefix="livebrush-") as folder, Stage(Path(folder), seconds) as stage:
        before = conditions(stage)
        for name, fresh in measured(stage, work):
            found += fresh
            table = {row.name: {k: v for k, v in asdict(row).items() if k != "name"} for row in found}
            tell(name, fresh, summary(found) | {"rows": table, "conditions": before, "quick": quick(stage)})


def shown(row: Row, console: Console) -> None:
    """A row as a line or two."""
    mark = {True: "[green]holds[/]", False: "[red]does not hold[/]", None: "[yellow]not measured[/]"}[row.holds]
    console.print(f"[bold]{row.name}[/] {row.figure} ({row.hold}): {mark}", highlight=False, soft_wrap=True)
    text = "; ".join(f"{k} {brief(v)}" for k, v in row.value.items())
    console.print(f"   {'; '.join(filter(None, [text, row.note]))}", highlight=False, markup=False, soft_wrap=True)


def brief(value: Any) -> str:
    """A value in a line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} {brief(v)}" for k, v in value.items()) + "}"
    return str(value)


def main(quick: bool = False, json_file: Path | None = None, names: Iterable[str] = ()) -> bool:
    """Measures, prints, and writes `json_file`; whether all rows hold that were measured. LivebrushError where the
    packages for it are missing, or a row is not known."""
    from tools.bench import write

    if find_spec("psutil") is None:
        raise LivebrushError("the live bench needs psutil, which is not here: pip install 'livebrush[test]'")

    console, table = Console(), Table("row", "holds", box=None)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    results: list[bool | None] = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("rows", total=len(chosen(names)))

        def tell(name: str, fresh: list[Row], so_far: dict[str, Any]) -> None:
            for row in fresh:
                shown(row, console)
                results.append(row.holds)
                table.add_row(row.name, {True: "yes", False: "no", None: "not measured"}[row.holds])
            progress.update(task, advance=1, description=f"after {name}")
            if json_file is not None:
                write(so_far, json_file)

        measure(QUICK_S if quick else SECONDS, names, tell)
    console.print(table)
    if json_file is not None:
        console.print(f"written to {json_file}")
    return False not in results


def command(
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds a figure, and fewer of everything.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")] = None,
    rows: Annotated[str, typer.Option(metavar="L1,R5", help="Only these rows.")] = "",
) -> None:
    """Measures the rows of the delivery table. Exit code 1 where one does not hold, 2 where it cannot begin."""
    try:
        held = main(quick, json_file, [name.strip() for name in rows.split(",") if name.strip()])
    except LivebrushError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if held else 1)


if __name__ == "__main__":
    typer.run(command)
