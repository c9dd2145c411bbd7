"""The page and the plot of a delivery bench: `python -m tools.delivery_page docs/benchmarks/delivery.json`.

Writes the page beside the JSON file, and docs/img/delivery.png.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.stage import PERIOD_MS

IMAGES = Path(__file__).parents[1] / "docs" / "img"
HOLDS, FAILS, STOCK = "#3b7dd8", "#e0663f", "#9aa4b2"
LEAST = 1e-3  # of a limit that is drawn; zero has no place on a logarithmic axis


@dataclass(frozen=True)
class Bar:
    """A figure beside its limit. `get` takes it out of a row's value; `stock` is what stock aiortc has (from, to);
    `least`: more is better."""

    row: str
    what: str
    get: Callable[[Mapping[str, Any]], float]
    limit: float
    unit: str
    stock: tuple[float, float] | None = None
    least: bool = False


def at(*keys: str) -> Callable[[Mapping[str, Any]], float]:
    """What lies under these keys."""

    def get(value: Any) -> float:
        for key in keys:
            value = value[key]
        return float(value)

    return get


def worst(key: str) -> Callable[[Mapping[str, Any]], float]:
    """The largest of a list."""
    return lambda value: float(max(value[key]))


def lossy(loss: str, p95: float, frozen: float, stock: float) -> tuple[Bar, Bar]:
    return (Bar("R1", f"loss {loss}, p95", at(loss, "p95"), p95, "ms", (stock, stock)),
            Bar("R1", f"loss {loss}, frozen", lambda v: 100 * v[loss]["frozen"], frozen, "%"))  # fmt: skip


BARS = (
    Bar("L1", "glass to glass, H.264, p50", at("p50"), 65, "ms", (84, 116)),
    Bar("L1", "glass to glass, H.264, p95", at("p95"), 100, "ms", (118, 161)),
    Bar("L1 vp8", "glass to glass, VP8, p50", at("p50"), 65, "ms"),
    Bar("L1 vp8", "glass to glass, VP8, p95", at("p95"), 100, "ms"),
    Bar("L2", "engine of 50 ms, p95", at("p95"), 180, "ms", (7400, 7400)),
    Bar("L3", "first frame, camera page", at("camera_ms"), 600, "ms", (300, 700)),
    Bar("L3", "first frame, view page", at("view_ms"), 600, "ms", (1350, 1350)),
    Bar("L4", "uplink at 2 s", at("mbit_s"), 2, "Mbit/s", (0.23, 0.23), least=True),
    Bar("L5", "colour, worst of 255", at("worst"), 16, "", (40, 40)),
    Bar("L5", "colour, mean of 255", at("mean"), 4, ""),
    Bar("L6", "a setting is seen after, at most", at("most_frames"), 2, "frames"),
    Bar("C1", "six peers, slowest", lambda v: min(v["fps"]), 29, "fps", least=True),
    Bar("C1", "six peers, p99 gap", at("gap_ms", "p99"), 80, "ms"),
    Bar("C2", "CPU a frame", at("cpu_ms_per_frame"), 8, "ms", (6, 18)),
    Bar("C2", "memory a peer", at("memory_mb_per_peer"), 30, "MB"),
    Bar("C3", "CPU a frame, one more viewer", at("cpu_ms_per_frame_and_viewer"), 2, "ms"),
    *lossy("5%", 250, 5, 2151), *lossy("10%", 350, 10, 1339), *lossy("20%", 600, 25, 2552),
    Bar("R2", "5 % loss, 60 ms RTT, jitter, p95", at("p95"), 400, "ms"),
    Bar("R2", "the same, frames a second", at("fps"), 18, "fps", least=True),
    Bar("R2", "the same, frozen", lambda v: 100 * v["frozen"], 8, "%"),
    Bar("R4", "frames that wait, tenfold overload", at("waiting_frames"), 2, "frames", (341, 341)),
    Bar("R5", "memory after all connections", at("memory_mb"), 10, "MB", (67, 67)),
    Bar("R6", "a killed client's place is free", worst("killed_s"), 6, "s", (31, 31)),
    Bar("R6", "a left page's place is free", worst("left_s"), 1, "s"),
    Bar("R7", "on after a restart", at("longest_s"), 5, "s"),
    Bar("R8", "malformed messages, slowest answer", at("slowest_ms"), 1000, "ms"),
    Bar("R9", "killed: longest gap in the picture", at("kill", "gap_ms"), round(100 + PERIOD_MS, 1), "ms"),
    Bar("R9", "back after the engine raised", at("raise", "back_ms"), 5000, "ms"),
    Bar("R9", "back after it hung", at("hang", "back_ms"), 15000, "ms"),
    Bar("R9", "back after it was killed", at("kill", "back_ms"), 15000, "ms"),
    Bar("R10", "event-loop lag, p99", at("p99"), 20, "ms"),
    Bar("R12", "stuck sinks, fps fall", lambda v: max(0.0, v["falls_percent"]), 5, "%"),
    Bar("S4", "never connected, place is free", at("never connected_s"), 11, "s"),
    Bar("S4", "idle, place is free", at("idle_s"), 6.5, "s"),
    Bar("S4", "SIGTERM to the end", at("SIGTERM_s"), 5, "s"),
)  # fmt: skip


def measured(result: Mapping[str, Any]) -> Iterator[tuple[Bar, float]]:
    """Every bar whose figure is there."""
    rows = result["rows"]
    for bar in BARS:
        try:
            yield bar, float(bar.get(rows[bar.row]["value"]))
        except (KeyError, TypeError, ValueError):
            continue  # it was not measured, or not this part of it


def share(bar: Bar, value: float) -> float:
    """A figure as a share of its limit: up to 1 it holds."""
    return (
        max(LEAST, bar.limit / value if bar.least else value / bar.limit) if value > 0 or not bar.least else 1 / LEAST
    )


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Every figure as a share of its limit, stock aiortc's beside."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = list(measured(result))
    figure, axes = plt.subplots(figsize=(10, 1.6 + 0.27 * len(found)), layout="constrained")
    for k, (bar, value) in enumerate(found):
        mine = share(bar, value)
        axes.barh(k, mine - LEAST, left=LEAST, color=HOLDS if mine <= 1 else FAILS, height=0.62)
        axes.text(max(mine, LEAST) * 1.08, k, f"{value:g} {bar.unit}", va="center", fontsize=8)
        if bar.stock:
            axes.plot(
                [share(bar, s) for s in bar.stock], [k, k], "D-", color=STOCK, markersize=6, linewidth=3, zorder=3
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlim=(LEAST, 1000), xlabel="share of the limit (left of the line holds); grey: stock aiortc")
    axes.set_yticks(range(len(found)), [f"{bar.row}  {bar.what} ({bar.limit:g} {bar.unit})".replace(" )", ")")
                                        for bar, _ in found], fontsize=8)  # fmt: skip
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Delivery: {under(result)}", fontsize=9, color="#555")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def under(result: Mapping[str, Any]) -> str:
    """The machine in a line."""
    where = result["conditions"]
    versions = where["versions"]
    return (f"{where['date'][:10]}, {where['cores']} cores of {where['processor']}, {where['client']}, "
            f"aiortc {versions['aiortc']}")  # fmt: skip


def page(result: Mapping[str, Any], source: str) -> str:
    """The table of every row: what is to hold, what was measured, and whether it does."""
    where = result["conditions"]
    lines = ["| row | figure | to hold | measured | holds |", "|---|---|---|---|---|"]
    for name, row in result["rows"].items():
        mark = {True: "yes", False: "**no**", None: "not measured"}[row["holds"]]
        told = "; ".join(filter(None, [words(name, row["value"], result), row["note"]]))
        cells = (name, row["figure"], row["hold"], told, mark)
        lines.append("| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |")
    seconds = f"{where['seconds_a_figure']:g} seconds a figure" + (", the quick way" if result.get("quick") else "")
    return PAGE.format(
        under=under(result), python=where["python"], system=where["system"], seconds=seconds, source=source,
        versions=", ".join(f"{k} {v}" for k, v in where["versions"].items()), table="\n".join(lines),
        load=where["load_average"],
    )  # fmt: skip


def words(name: str, value: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """A row's figures: those of its bars, or its plain values where it has none."""
    bars = [f"{bar.what} {got:g} {bar.unit}".strip() for bar, got in measured(result) if bar.row == name]
    if bars:
        return ", ".join(bars)
    return ", ".join(f"{k} {v}" for k, v in value.items() if isinstance(v, bool | int | float | str | list))[:300]


PAGE = """# Delivery, measured

Made by `python -m tools.delivery_page` from [{source}]({source}), which `python tools/bench_delivery.py --json` wrote.

{under}; {system}, Python {python}, {versions}.

Server, worker, browser and peers share the machine; nothing is painted ("pass-through") unless said, 512x512 at 30
frames a second, {seconds}. Load average at the beginning: {load}. Glass to glass is read from a counter in the picture:
from the moment the browser takes the camera's frame to the moment it presents the painted one.

![every row as a share of its limit](../img/delivery.png)

{table}

The JSON file has every percentile, and what the rows that hold no number saw. How to measure it on your machine:
[bench.md](../bench.md).
"""


def main() -> None:
    source = Path(sys.argv[1])
    result = json.loads(source.read_text())
    IMAGES.mkdir(parents=True, exist_ok=True)
    plot(result, IMAGES / "delivery.png")
    source.with_suffix(".md").write_text(page(result, source.name))


if __name__ == "__main__":
    main()
