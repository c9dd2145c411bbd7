"""The live bench with the built-in model: painted pictures, a change of the prompt, steady latency, a killed worker."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tools.chromium import Tab
from tools.observed import Observed
from tools.rows import STYLES, kill, recovered
from tools.sightings import gaps, glass_to_glass, marked, percentiles, rate
from tools.stage import LOOP, SETTLE_S, Row, Stage

MODEL = "builtin"
LONG_S, SHORT_S = 300.0, 20.0  # of the row on steady latency: bench and quick
WINDOW_S = 10.0  # over which the page itself takes its percentiles
RED = (255, 0, 0)  # the first patch, as the camera sees it
UNPAINTED = 60  # levels by which a patch may differ from the camera's and still be the camera's


def rows(stage: Stage) -> list[Row]:
    """One server, one page, all of it."""
    with stage.server(model=MODEL, faults=True) as server, stage.tab(server) as tab:
        long = LONG_S if stage.seconds >= 30 else SHORT_S
        return [changed(stage, tab), agreement(stage, tab), steady(stage, tab, long), killed(stage, server, tab)]


def prompt(tab: Tab, text: str, seconds: float = 20.0) -> float:
    """Asks for a prompt; ms until a picture shows another colour where the first patch is."""
    tab.take(0.5)
    before = reds(tab)[-1]
    asked = tab.now()
    tab.set("prompt", text)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        tab.wait(0.2)
        for row in tab.take()["picture"]:
            if row["shown"] > asked and np.abs(np.array(row["extra"]["red"]) - before).max() > UNPAINTED:
                return float(row["shown"] - asked)
    raise TimeoutError(f"prompt {text!r} is not seen after {seconds:g} s")


def reds(tab: Tab, seconds: float = 0.5) -> np.ndarray[Any, Any]:
    """Colours of the first patch in the pictures shown meanwhile, `(pictures, 3)`."""
    tab.take()
    return np.array([r["extra"]["red"] for r in tab.take(seconds)["picture"]])


def changed(stage: Stage, tab: Tab) -> Row:
    """Painted frames arrive, and a change of the prompt is seen."""
    tab.take(SETTLE_S)
    first = prompt(tab, STYLES[1])
    second = prompt(tab, STYLES[0])
    value = {"seen_ms": [round(first), round(second)]}
    return Row("built-in prompt", "painted frames arrive, a prompt change is seen", "<= 1000 ms", value,
               max(first, second) <= 1000 * stage.slow)  # fmt: skip


def agreement(stage: Stage, tab: Tab) -> Row:
    """The page's own glass-to-glass beside the mark's."""
    tab.take(SETTLE_S)
    seen = tab.take(WINDOW_S)
    own = tab.livebrush("latency")
    found = percentiles(glass_to_glass(seen["camera"], seen["picture"], LOOP))
    off = {k: round(own[k] - found[k], 1) for k in ("p50", "p95")}
    value = {"glass_to_glass_ms": found, "reported": own, "difference_ms": off, "fps": round(rate(seen["picture"]), 1)}
    return Row("built-in latency", "reported glass-to-glass beside the barcode's", "within 20 ms", value,
               abs(off["p50"]) <= 20 * stage.slow)  # fmt: skip


def steady(stage: Stage, tab: Tab, seconds: float) -> Row:
    """Latency in the last fifth beside that in the first, by their means (`sightings.drift` says why)."""
    tab.take()
    found = []
    for _ in range(5):
        seen = tab.take(seconds / 5)
        found.append(glass_to_glass(seen["camera"], seen["picture"], LOOP))
    means = [round(float(f.mean()), 1) for f in found]
    value: dict[str, Any] = {"means": means, "more_ms": round(means[-1] - means[0], 1), "first": percentiles(found[0]),
             "last": percentiles(found[-1]), "seconds": seconds}  # fmt: skip
    return Row("built-in steady", "latency in the last fifth beside the first", "<= first + 15 ms", value,
               value["more_ms"] <= 15 * stage.slow)  # fmt: skip


def killed(stage: Stage, server: Observed, tab: Tab) -> Row:
    """SIGKILL to the worker mid-stream: own camera with a notice, painted again, the same session."""
    tab.set("prompt", STYLES[1])  # green: nothing of it looks like the camera
    tab.take(1.5)
    session, restarts = tab.livebrush("session"), server.ask("worker")["restarts"]
    tab.page.evaluate("() => { probe.said.length = 0; }")
    at = kill(server)
    tab.wait(0.5)
    recovered(server, tab, "kill", restarts)
    tab.wait(1.5)
    value = after(tab, at) | {"same_session": tab.livebrush("session") == session}
    value["connections"] = tab.page.evaluate("() => probe.connections.length")
    in_time = max(value["notice_ms"], value["camera_ms"]) <= 100 * stage.slow
    in_time = in_time and value["painted_ms"] <= 15_000 * stage.slow
    holds = in_time and value["same_session"] and value["connections"] == 1
    return Row("built-in killed", "SIGKILL of the worker mid-stream",
               "own camera with a notice in 100 ms, painted in 15 s, nobody disconnected", value, holds)  # fmt: skip


def after(tab: Tab, at: float) -> dict[str, Any]:
    """What a page showed after its worker was killed, in ms from then.

    `camera_ms`: when the first unpainted picture was presented; `painted_ms`: when the first painted one after it.
    """
    origin = tab.origin()
    told = [s["now"] + origin - at for s in tab.page.evaluate("() => probe.said") if s["notice"]]
    seen = [r for r in marked(tab.take()["picture"]) if r["shown"] + origin > at]
    plain = [np.abs(np.array(r["extra"]["red"]) - RED).max() < UNPAINTED for r in seen]
    times = [r["shown"] + origin - at for r in seen]
    camera = next((t for t, p in zip(times, plain, strict=True) if p), float("inf"))
    back = next((t for t, p in zip(times, plain, strict=True) if not p and t > camera), float("inf"))
    return {"notice_ms": round(told[0], 1) if told else float("inf"), "camera_ms": round(camera, 1),
            "painted_ms": round(back, 1), "gap_ms": round(float(gaps(times).max()), 1)}  # fmt: skip
