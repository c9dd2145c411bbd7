"""The delivery table's row on outputs, a function of a `Stage` as those of `tools.rows`."""

from __future__ import annotations

from typing import Any

from tools import peers
from tools.stage import Row, Stage

PEERS = 2
ENOUGH = 27  # fps of 30: a fall from less says nothing of sinks
TROUBLE = ("fake:stuck", "fake:failing", "fake:crash")


def r12(stage: Stage, outputs: tuple[str, ...] = TROUBLE) -> Row:
    """Two peers without outputs, then one whose session has outputs that hang and hold Python's lock, fail and crash,
    again and again, and one beside it."""
    with stage.server() as server:
        without = watched(server.url, stage.seconds, ())
        server.ask("lag")
        beside = watched(server.url, stage.seconds, outputs)
        lag = server.ask("lag")
    falls = round(100 * (1 - min(beside) / min(without)), 2)
    note = "" if min(without) >= ENOUGH else f"under {ENOUGH} fps without them: the machine has other work"
    value: dict[str, Any] = {"fps_without": without, "fps": beside, "falls_percent": falls, "lag_ms": lag}
    holds = falls <= 5 and not note
    return Row("R12", f"a stuck sink ({', '.join(outputs)}): WebRTC fps", "falls <= 5 %", value, holds, note)


def watched(url: str, seconds: float, outputs: tuple[str, ...]) -> list[float]:
    """Pictures a second that each peer got."""
    with peers.peers(url, count=PEERS, seconds=seconds, film_s=2, outputs=outputs) as process:
        peers.began(process)
        seen, _ = peers.gathered(process)
    return [round((len(s.arrived) - 1) * 1000 / (s.arrived[-1] - s.arrived[0]), 2) for s in seen]
