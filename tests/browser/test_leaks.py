"""A hundred connections come and go, and nothing of them stays."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tools import peers
from tools.observed import Observed
from tools.stage import Stage

pytestmark = pytest.mark.beside
CYCLES = 100
WARM = 15


def cycled(server: Observed, cycles: int) -> None:
    """So many connections one after another, each of which gets a picture."""
    with peers.peers(server.url, cycles=cycles, film_s=1, side=128) as process:
        peers.began(process)
        seen, _ = peers.gathered(process)
    assert len(seen) == cycles
    assert all(s.arrived for s in seen)


def settled(server: Observed) -> dict[str, Any]:
    """The census when it does not change any more, and the server has given back what memory it keeps for nobody."""
    time.sleep(2)
    before = server.ask("census")
    for _ in range(20):
        time.sleep(0.3)
        now = server.ask("census")
        if all(now[k] >= before[k] for k in ("tasks", "threads", "files")):
            return now
        before = now
    return before


def test_a_hundred_connections_leave_nothing_behind(stage: Stage) -> None:
    """R5's limits: 10 MB after the warm-up, everything else back to where it was."""
    with stage.server() as server:
        cycled(server, WARM)
        before = settled(server)
        cycled(server, CYCLES)
        after = settled(server)
    assert after["memory_mb"] - before["memory_mb"] <= 10, (before, after)
    for what in ("tasks", "threads", "files", "shared"):
        assert after[what] <= before[what], (what, before, after)
