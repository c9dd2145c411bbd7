"""Rows on what must never happen: leaks, places that stay taken, pages left behind, messages that break something."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from typing import Any

import numpy as np

from tools import peers
from tools.chromium import Tab, page
from tools.observed import Observed
from tools.onslaught import onslaught
from tools.stage import Row, Stage, address

CYCLES, WARM = 500, 25
RESTARTS = 20
MESSAGES, SEED = 10_000, 6
KEPT = ("tasks", "threads", "files", "shared")  # of the census: none may be more than before
GONE_S = 40.0  # after which a place counts as never free
BACK_S = 60.0
UNHEARD_S = 5.0  # a page that says no goodbye has its place for longer, on whatever machine


def r5(stage: Stage, cycles: int = CYCLES) -> Row:
    """Peers that connect, get a picture and close, one after another."""
    with stage.server() as server:
        cycled(server, WARM)
        before = settled(server)
        cycled(server, cycles)
        after = settled(server)
    value = left(before, after) | {"cycles": cycles}
    return Row("R5", f"{cycles} connect/close", "<= +10 MB after warm-up; fds, threads, tasks back", value, kept(value))


def cycled(server: Observed, cycles: int) -> None:
    """So many connections; RuntimeError where one of them gets no picture."""
    with peers.peers(server.url, cycles=cycles, film_s=1, side=128) as process:
        peers.began(process)
        seen, _ = peers.gathered(process, 60 + 2 * cycles)
    if len(seen) != cycles or not all(s.arrived for s in seen):
        raise RuntimeError(f"{sum(bool(s.arrived) for s in seen)} of {cycles} connections got a picture")


def settled(server: Observed) -> dict[str, Any]:
    """The census when it does not change any more, and the server has given back what memory it keeps for nobody."""
    time.sleep(2)
    before = server.ask("census")
    for _ in range(20):
        time.sleep(0.3)
        now = server.ask("census")
        if all(now[k] >= before[k] for k in KEPT[:3]):
            return now
        before = now
    return before


def left(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is more than before: MB of memory, and numbers; the names of tasks that are new."""
    more: dict[str, Any] = {"memory_mb": round(after["memory_mb"] - before["memory_mb"], 2)}
    more |= {k: after[k] - before[k] for k in KEPT}
    fresh = Counter(after["names"]) - Counter(before["names"])
    return more | ({"new_tasks": sorted(fresh)} if more["tasks"] > 0 else {})


def kept(more: dict[str, Any], memory_mb: float = 10.0) -> bool:
    return bool(more["memory_mb"] <= memory_mb and all(more[k] <= 0 for k in KEPT))


# ------------------------------------------------------------------------------------------------- places


def r6(stage: Stage, times: int = 3) -> Row:
    """Clients that are killed, so that nobody says goodbye; pages that are left."""
    value: dict[str, Any] = {}
    with stage.server() as server:
        value["killed_s"] = [killed(server) for _ in range(times)]
        if stage.sees:
            value["left_s"] = [abandoned(stage, server) for _ in range(times)]
    left = max(value.get("left_s", [0.0])) <= min(stage.slow, UNHEARD_S)
    holds = max(value["killed_s"]) <= 6 * stage.slow and left
    return Row("R6", "killed client", "slot free <= 6 s; page hidden <= 1 s", value, holds,
               "" if stage.sees else f"no page was left: {stage.why}")  # fmt: skip


def killed(server: Observed) -> float:
    """Seconds until the place of a client that gets SIGKILL is free."""
    with peers.peers(server.url, seconds=GONE_S) as process:
        peers.began(process)
        began = time.monotonic()
        process.kill()
        return freed(server, began)


def freed(server: Observed, began: float) -> float:
    """Seconds from `began` until there is no session; TimeoutError where one stays."""
    while time.monotonic() < began + GONE_S:
        if peers.ask(server.url, "GET", "/healthz")["sessions"] == 0:
            return round(time.monotonic() - began, 2)
        time.sleep(0.02)
    raise TimeoutError(f"a session is still there after {GONE_S:g} s")


def abandoned(stage: Stage, server: Observed) -> float:
    """Seconds until the place of a page that somebody leaves for another one is free."""
    with stage.tab(server) as tab:
        began = time.monotonic()
        tab.page.goto("about:blank")
        return freed(server, began)


# ------------------------------------------------------------------------------------------------- restarts


def r7(stage: Stage, times: int = RESTARTS) -> Row:
    """The server ends, now politely, now by SIGKILL, and comes back on its port: a page goes on, with its settings.

    Measured from the moment that it can be connected to, until the page paints again.
    """
    with page(stage.browser()) as tab:
        found = np.array(restarted(stage, tab, times))
    value: dict[str, Any] = {"went_on": len(found), "of": times, "back_s": found.round(2).tolist()}
    value["longest_s"] = max(value["back_s"], default=None)
    holds = len(found) == times and value["longest_s"] <= 5 * stage.slow
    return Row("R7", "server restarted", f"the page goes on by itself <= 5 s, settings kept, {times} of {times}", value,
               holds)  # fmt: skip


def restarted(stage: Stage, tab: Tab, times: int) -> list[float]:
    """Seconds until the page went on, for each time that it did, with what it was set to."""
    port, out = free_port(), []
    for k in range(times + 1):
        with stage.server(port=port, wait=False) as server:
            if k == 0:
                tab.page.goto(address(server))
                tab.shown()
            elif (seconds := went_on(tab, k)) is not None:
                out.append(seconds)
            server.ready()
            tab.until("livebrush.state === 'painting'", BACK_S)
            tab.set("seed", 1000 + k)
            tab.until(f"livebrush.settings.seed === {1000 + k}")
            if k % 2:
                os.kill(server.pid, signal.SIGKILL)
                server.process.wait()
        tab.until("livebrush.state !== 'painting'", BACK_S)
    return out


def went_on(tab: Tab, k: int) -> float | None:
    """Seconds until the page paints, by a server that has just begun to listen; None where it lost its settings."""
    began = time.monotonic()
    tab.until("livebrush.state === 'painting' && livebrush.painted > 0", BACK_S)
    seconds = time.monotonic() - began
    return seconds if tab.livebrush("settings.seed") == 1000 + k - 1 else None


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


# ------------------------------------------------------------------------------------------------- messages


def r8(stage: Stage, count: int = MESSAGES, seed: int = SEED) -> Row:
    """Malformed messages of every kind: refused one by one, at once, and nothing of them stays."""
    osc = free_port(socket.SOCK_DGRAM)
    with stage.server(clips=str(stage.folder / "clips"), limit=20, osc=osc) as server:
        onslaught(server, count // 20, seed + 1000, osc)  # whatever is imported or made once
        before = settled(server)
        server.ask("lag")
        seen = onslaught(server, count, seed, osc)
        lag = server.ask("lag")
        after, said = settled(server), server.said()
    value: dict[str, Any] = {
        "messages": seen.count, "answers": {k: dict(sorted(c.items())) for k, c in sorted(seen.answers.items())},
        "slowest_ms": round(seen.slowest_ms), "longest_block_ms": lag["max"], "wrong": seen.wrong[:20],
        "mistakes_logged": said.count("Traceback"), "left": left(before, after), "seed": seed,
    }  # fmt: skip
    holds = not seen.wrong and not value["mistakes_logged"] and kept(value["left"])
    holds = holds and max(seen.slowest_ms, lag["max"]) <= 1000
    return Row("R8", f"{count} malformed messages (SDP, JSON, candidates, OSC, data channel, WebSocket)",
               "no crash, no hang > 1 s, all 4xx, nothing leaked", value, holds)  # fmt: skip
