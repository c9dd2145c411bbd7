"""Sessions for half an hour: whether memory and latency stay where they were.

    python tools/soak.py --minutes 30 --sessions 2 --json soak.json --plot soak.png

Server and worker, and peers of their own that send a marked film and read the mark in what comes back. With --browser a
page in Chromium as well. The file is written anew with every sample; Ctrl-C ends it early, with what is known by then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from stream.errors import LivebrushError
from tools.bench import write
from tools.bench_delivery import PACKAGES
from tools.chromium import Tab
from tools.conditions import machine
from tools.observed import MB, Observed
from tools.peers import began, gathered, peers
from tools.rows import STYLES
from tools.sightings import Numbers, gaps, percentiles
from tools.stage import Stage

SAMPLES = 180  # of a soak, at most; none is shorter than a second
WARM = 0.15  # of it is passed over: pools fill, the bitrate rises
JUDGED_S = 120.0  # a slope over less says nothing
SLOPE_MB, MORE_MS = 1.0, 15.0  # a minute; in the last fifth beside the first
LATE_S = 60.0  # after which a sample counts as never coming


@dataclass(frozen=True)
class Sample:
    """One look: seconds since the beginning, MB of server and worker, and per session fps and ms from sending to
    decoding (None where nothing came)."""

    at_s: float
    server_mb: float
    worker_mb: float
    fps: list[float]
    latency_ms: list[float | None]
    longest_gap_ms: float
    lag_ms: float  # of the server's event loop, p99
    restarts: int


@dataclass
class Soak:
    """What was asked for, and what was seen so far."""

    minutes: float
    sessions: int
    model: str
    samples: list[Sample] = field(default_factory=list)
    ended: str = ""  # why, where it ended early

    @property
    def warm(self) -> list[Sample]:
        """The samples after the warm-up."""
        return [s for s in self.samples if s.at_s >= WARM * 60 * self.minutes]

    def verdict(self) -> dict[str, Any]:
        """Slopes in MB a minute, latency in ms in the first and the last fifth, and whether they hold (None: too short
        to say)."""
        warm = self.warm
        if len(warm) < 5:
            return {"holds": None, "note": f"{len(warm)} samples after the warm-up: too few"}
        found: dict[str, Any] = {
            f"{who}_mb_per_minute": round(slope(warm, f"{who}_mb"), 3) for who in ("server", "worker")
        }
        parts = fifths(latency(warm))
        first, last = (round(float(np.nanmean(parts[k])), 1) for k in (0, -1))
        found |= {"first_fifth_ms": first, "last_fifth_ms": last, "more_ms": round(last - first, 1),
                  "restarts": warm[-1].restarts, "fps": [round(x, 1) for x in np.mean([s.fps for s in warm], axis=0)],
                  "longest_gap_ms": max(s.longest_gap_ms for s in warm)}  # fmt: skip
        flat = max(found["server_mb_per_minute"], found["worker_mb_per_minute"]) < SLOPE_MB
        steady = found["more_ms"] <= MORE_MS and found["restarts"] == 0 and not self.ended
        judged = warm[-1].at_s - warm[0].at_s >= JUDGED_S
        return found | {"memory_flat": flat if judged else None, "holds": flat and steady if judged else None}


def latency(samples: list[Sample]) -> Numbers:
    """The mean of the sessions in each sample; nan where nothing came at all."""
    known = [[ms for ms in s.latency_ms if ms is not None] for s in samples]
    return np.array([np.mean(ms) if ms else math.nan for ms in known], np.float64)


def fifths(values: Numbers) -> list[Numbers]:
    return np.array_split(values, 5)


def slope(samples: list[Sample], what: str) -> float:
    """By least squares, a minute."""
    return float(np.polyfit([s.at_s / 60 for s in samples], [getattr(s, what) for s in samples], 1)[0])


def soaked(soak: Soak, stage: Stage, browser: bool) -> Iterator[Sample]:
    """The samples, as they come. RuntimeError where the peers or the server die."""
    seconds = 60 * soak.minutes
    every = max(1.0, seconds / SAMPLES)
    options = {"count": soak.sessions, "seconds": seconds + LATE_S, "look": True, "told_s": every,
               "settings": {"prompt": STYLES[0]}}  # fmt: skip
    with ExitStack() as stack:
        server = stack.enter_context(stage.server(model=soak.model, limit=soak.sessions + 1))
        tab = stack.enter_context(stage.tab(server)) if browser else None
        process = stack.enter_context(peers(server.url, **options))
        began(process)
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            yield sampled(server, process, tab, start, every)


def sampled(server: Observed, process: Popen[str], tab: Tab | None, start: float, every: float) -> Sample:
    """The next sample: when the peers say what they saw."""
    import psutil

    seen, _ = gathered(process, every + LATE_S)
    if over := [s.ended for s in seen if s.ended]:
        raise RuntimeError(f"the server ended a session: {over[0]}")
    fps = [round(len(s.arrived) / every, 1) for s in seen]
    ms: list[float | None] = [percentiles(s.latency)["p50"] if s.latency else None for s in seen]
    if tab is not None:
        tab.wait(0.01)  # its events are heard
        fps.append(tab.livebrush("stats.fps_out"))
        ms.append(tab.livebrush("latency.p50"))
    worker = server.ask("worker")
    return Sample(
        round(time.monotonic() - start, 1), server.ask("census")["memory_mb"],
        round(psutil.Process(worker["pid"]).memory_full_info().uss / MB, 1), fps, ms,
        round(max((float(gaps(s.arrived).max()) for s in seen if len(s.arrived) > 1), default=1000 * every), 1),
        server.ask("lag")["p99"], worker["restarts"],
    )  # fmt: skip


def report(soak: Soak, conditions: dict[str, Any]) -> dict[str, Any]:
    return asdict(soak) | {"verdict": soak.verdict(), "conditions": conditions}


def plot(soak: Soak, path: Path) -> None:
    """Memory and latency over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    minutes = [s.at_s / 60 for s in soak.samples]
    for who in ("server", "worker"):
        upper.plot(minutes, [getattr(s, f"{who}_mb") for s in soak.samples], label=who)
    upper.set(ylabel="MB of its own", ylim=(0, None), title=f"{soak.sessions} sessions of {soak.model}")
    upper.legend()
    for k, ms in enumerate(zip(*(s.latency_ms for s in soak.samples), strict=True)):
        lower.plot(minutes, [math.nan if x is None else x for x in ms], label=f"session {k + 1}")
    lower.set(ylabel="latency, ms (p50)", xlabel="minutes", ylim=(0, None))
    lower.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(soak: Soak, json_file: Path | None, plot_file: Path | None, browser: bool, console: Console) -> dict[str, Any]:
    """The whole soak; its report."""
    where = machine(PACKAGES)
    console.print(f"{soak.sessions} sessions of {soak.model} for {soak.minutes:g} minutes; Ctrl-C ends it early")
    with (
        TemporaryDirectory(prefix="livebrush-") as folder,
        Stage(Path(folder)) as stage,
        Progress(console=console) as bar,
    ):
        task = bar.add_task("soaking", total=60 * soak.minutes)
        try:
            for sample in soaked(soak, stage, browser):
                soak.samples.append(sample)
                bar.update(task, completed=sample.at_s)
                if json_file is not None:
                    write(report(soak, where), json_file)
        except KeyboardInterrupt:
            soak.ended = "ended by Ctrl-C"
        except (RuntimeError, TimeoutError, LivebrushError, OSError) as error:
            soak.ended = f"failed: {error}"
    result = report(soak, where)
    if json_file is not None:
        write(result, json_file)
    if plot_file is not None and soak.samples:
        plot(soak, plot_file)
    return result


def main(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 30.0,
    sessions: Annotated[int, typer.Option(min=1, max=16, help="Peers, each with a session of its own.")] = 2,
    model: Annotated[str, typer.Option(help="What paints: builtin, pass-through or a preset.")] = "builtin",
    browser: Annotated[bool, typer.Option("--browser", help="A page in Chromium as well.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was seen there.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw it there.")] = None,
) -> None:
    """Soaks a server. Exit code 1 where memory or latency grew, or it did not last."""
    console = Console()
    soak = Soak(minutes, sessions, model)
    verdict = run(soak, json_file, plot_file, browser, console)["verdict"]
    for name, value in verdict.items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    if soak.ended:
        console.print(soak.ended, markup=False)
    raise typer.Exit(1 if verdict["holds"] is False or soak.ended.startswith("failed") else 0)


if __name__ == "__main__":
    typer.run(main)
