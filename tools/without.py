"""The rows that can be measured where there is no browser: own peers send the marked film and read what comes back.

Their latency is from the sending of an encoded frame to the decoding of its picture: a browser's capture, encoding and
drawing are not in it.
"""

from __future__ import annotations

import numpy as np

from tools import peers
from tools.observed import Observed
from tools.rows import WAY_MS
from tools.sightings import Numbers, drift, percentiles
from tools.stage import PERIOD_MS, Row, Stage

NOTE = "by own peers: without a browser's capture, encoding and drawing"


def latency(server: Observed, seconds: float) -> tuple[Numbers, peers.Seen]:
    """Milliseconds from sending to decoding of one peer."""
    with peers.peers(server.url, count=1, seconds=seconds, look=True) as process:
        peers.began(process)
        (seen,), _ = peers.gathered(process)
    return np.asarray(seen.latency, np.float64), seen


def l1(stage: Stage) -> Row:
    """From sending to decoding, pass-through."""
    with stage.server() as server:
        found, seen = latency(server, stage.seconds)
    value = percentiles(found) | {"fps": round(len(seen.arrived) / stage.seconds, 1), "foreign": seen.foreign}
    return Row("L1", "512x512 at 30 fps, ms", "p50 <= 65, p95 <= 100", value,
               value["p50"] <= 65 and value["p95"] <= 100, NOTE)  # fmt: skip


def l2(stage: Stage) -> Row:
    """An engine of 50 ms."""
    with stage.server(delay_ms=50) as server:
        found, _ = latency(server, 2 * stage.seconds)
    value = percentiles(found) | {"second_half_more_ms": round(drift(found), 1)}
    return Row("L2", "engine of 50 ms, ms", "p95 <= 180, second half <= first + 15", value,
               value["p95"] <= 180 and value["second_half_more_ms"] <= 15, NOTE)  # fmt: skip


def r4(stage: Stage) -> Row:
    """Ten times more frames than the engine can paint."""
    engine_ms = 10 * PERIOD_MS
    with stage.server(delay_ms=engine_ms) as server:
        found, seen = latency(server, stage.seconds)
    waiting = max(0.0, (percentiles(found)["p95"] - engine_ms - WAY_MS) / PERIOD_MS)
    value = percentiles(found) | {"waiting_frames": round(waiting, 2), "dropped": seen.stats.get("dropped_in")}
    return Row("R4", "every queue under 10 x overload", "<= 2 frames", value, waiting <= 2, NOTE)
