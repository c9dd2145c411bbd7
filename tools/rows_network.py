"""Rows R1 and R2 of the delivery table: a real browser behind a line that loses packets, both ways.

The server is here, the browser at the far end of `tools/lossy.py`; camera, painted picture and messages all go over the
line, and only HTTP does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

from tools.chromium import Tab, chromium, find, page
from tools.lossy import Weather, hindrance, line
from tools.observed import Observed
from tools.sightings import frozen, glass_to_glass, percentiles, rate
from tools.stage import LOOP, SETTLE_S, WINDOW, Row, Stage, address

LOSSES = {0.05: (250, 0.05), 0.10: (350, 0.10), 0.20: (600, 0.25)}  # p95 in ms, share of time that is frozen
FAR = Weather(loss=0.05, delay_ms=25, jitter_ms=10, seed=1)  # 60 ms there and back, on the average
COUNTED = "packetsLost", "packetsReceived", "nackCount", "pliCount", "freezeCount"
FAR_P95_MS, FAR_FROZEN, FAR_FPS = 400, 0.08, 18


@contextmanager
def far_tab(stage: Stage, server: Observed, weather: Weather, **query: str) -> Iterator[Tab]:
    """The server's page with the camera on it, painting, seen over a line with that weather."""
    port = urlsplit(server.url).port
    assert port is not None
    with line(weather) as it, it.door(port):
        program = it.program(stage.folder, find(stage.driver))
        with chromium(stage.driver, stage.camera(), program=program) as browser, page(browser, viewport=WINDOW) as tab:
            tab.page.goto(address(server, **query))
            tab.shown()
            tab.watch("camera", "picture")
            yield tab


def seen_over(stage: Stage, server: Observed, weather: Weather, **query: str) -> dict[str, Any]:
    """Latency in ms, frames a second, the share of time that stood still, and what was lost. Without a picture by
    WebRTC all of the time did, and the latency is that at least."""
    with far_tab(stage, server, weather, **query) as tab:
        tab.take(SETTLE_S)
        rows = tab.take(stage.seconds)
        inbound, remote = tab.stats("inbound-rtp"), tab.stats("remote-inbound-rtp")
        transport = tab.livebrush("transport")
    picture = rows["picture"]
    down = next((report for report in inbound if report["kind"] == "video"), None)
    if down is None or len(picture) < 2 or not len(found := glass_to_glass(rows["camera"], picture, LOOP)):
        return {"count": 0, "p95": stage.seconds * 1000, "fps": 0.0, "frozen": 1.0, "transport": transport}
    value: dict[str, Any] = percentiles(found)
    value |= {"fps": round(rate(picture), 1), "frozen": round(frozen([r["shown"] for r in picture]), 3)}
    up = next((report for report in remote if report["kind"] == "video"), {})
    value |= {name: down.get(name) for name in COUNTED}
    return value | {"up_lost": up.get("fractionLost"), "size": f"{picture[-1]['width']}x{picture[-1]['height']}"}


def keeps(value: dict[str, Any], slow: float, p95_ms: float, frozen_most: float, fps: float = 0.0) -> bool:
    in_time = value["p95"] <= p95_ms * slow and value["fps"] >= fps / slow
    return bool(value["count"] and in_time and 1 - value["frozen"] >= (1 - frozen_most) / slow)


def r1(stage: Stage, losses: tuple[float, ...] = tuple(LOSSES), server: Observed | None = None) -> Row:
    """Loss of 5, 10 and 20 %, each way, by nft. With a `server` that is there already, by that one."""
    figure, hold = "loss 5/10/20 %", "p95 <= 250/350/600 ms, frozen <= 5/10/25 %"
    if reason := hindrance():
        return Row("R1", figure, hold, note=f"not measured: {reason}")
    with nullcontext(server) if server else stage.server() as server:
        value = {f"{loss:.0%}": seen_over(stage, server, Weather(loss=loss)) for loss in losses}
    holds = all(keeps(value[f"{loss:.0%}"], stage.slow, *LOSSES[loss]) for loss in losses)
    return Row("R1", figure, hold, value, holds)


def r2(stage: Stage, server: Observed | None = None) -> Row:
    """5 % loss each way, 60 ms there and back, jitter that lets packets overtake others. `server` as above."""
    figure, hold = "5 % loss, 60 ms RTT, jitter", "p95 <= 400 ms, >= 18 fps, frozen <= 8 %"
    if reason := hindrance():
        return Row("R2", figure, hold, note=f"not measured: {reason}")
    with nullcontext(server) if server else stage.server() as server:
        value = seen_over(stage, server, FAR)
    return Row("R2", figure, hold, value, keeps(value, stage.slow, FAR_P95_MS, FAR_FROZEN, FAR_FPS))
