"""The rows of the delivery table, each a function of a `Stage` that says what it measured and whether it holds.

They are measured one at a time. The bench gives them half a minute each, the browser's tests a few seconds.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np

from tools import codecs, peers
from tools.barcode import PATCH_PLACE, PATCHES, scene
from tools.chromium import Tab, opened, page, screen
from tools.observed import Observed
from tools.sightings import Clock, Numbers, drift, foreign, gaps, glass_to_glass, marked, percentiles, rate
from tools.stage import LOOP, PERIOD_MS, RATE, SETTLE_S, Row, Stage, address, latency_of

PEERS = 6
STYLES = ("oil painting", "night vision")  # far apart in colour, and the mark can be read in both
PRESS = "() => { const t = performance.now(); document.getElementById('start-camera').click(); return t; }"
SEEN_S = 20.0  # after which a change counts as never seen
WAY_MS = 30.0  # from capture to arrival without any waiting: encoding, sending and decoding, there and back
KINDS = ("raise", "hang", "kill", "memory")

# ------------------------------------------------------------------------------------------------- latency


def l1(stage: Stage, codec: str = "h264") -> Row:
    """Glass to glass, pass-through."""
    with stage.server() as server, stage.tab(server, codec=codec) as tab:
        tab.take(SETTLE_S)
        before, start = server.cpu_s(), time.monotonic()
        rows = tab.take(stage.seconds)
        cpu = (server.cpu_s() - before) / (time.monotonic() - start)
        value: dict[str, Any] = percentiles(glass_to_glass(rows["camera"], rows["picture"], LOOP))
        value |= {"fps": round(rate(rows["picture"]), 1), "codec": codec, "cpu_share": round(cpu, 3)}
        value |= {"reported": tab.livebrush("latency"), "size": picture_size(rows["picture"])}
        value["dropped"] = {k: tab.livebrush(f"stats.dropped_{k}") for k in ("in", "out")}
    holds = value["p50"] <= 65 * stage.slow and value["p95"] <= 100 * stage.slow
    return Row("L1", "glass-to-glass 512x512 at 30 fps, ms", "p50 <= 65, p95 <= 100", value, holds)


def picture_size(rows: list[dict[str, Any]]) -> str:
    return f"{rows[-1]['width']}x{rows[-1]['height']}"


def l2(stage: Stage) -> Row:
    """An engine of 50 ms: the newest frame is painted, and latency does not grow."""
    with stage.server(delay_ms=50) as server, stage.tab(server) as tab:
        found = latency_of(tab, 2 * stage.seconds)
    value = percentiles(found) | {"second_half_more_ms": round(drift(found), 1)}
    holds = value["p95"] <= 180 * stage.slow and value["second_half_more_ms"] <= 15 * stage.slow
    return Row("L2", "engine of 50 ms, ms", "p95 <= 180, second half <= first + 15", value, holds)


def l3(stage: Stage, times: int = 3) -> Row:
    """The first painted frame: of a camera page from the press of its button, of a view page from the beginning of its
    connection. What a browser takes to start a page's process and to load its scripts is told, and not held."""
    with stage.server() as server:
        found = np.median([first_frames(stage, server) for _ in range(times)], axis=0).round()
    value = dict(zip(("camera_ms", "view_ms", "view_from_opening_ms"), found.tolist(), strict=True))
    holds = max(found[:2]) <= 600 * stage.slow
    return Row("L3", "first painted frame, ms", "camera page and view page <= 600", value, holds)


def first_frames(stage: Stage, server: Observed) -> tuple[float, float, float]:
    """Milliseconds to the first picture of a camera page, and of its view page: from its connection, its opening."""
    with page(stage.browser()) as tab:
        tab.page.goto(f"{server.url}/?source=camera")
        tab.until("window.livebrush && document.readyState === 'complete'")
        tab.watch("picture")
        start = tab.page.evaluate(PRESS)
        camera = first(tab) - start
        with page(stage.browser()) as view:
            view.page.goto(f"{server.url}/view?session={tab.livebrush('session')}", wait_until="commit")
            view.until("document.getElementById('picture')")
            view.watch("picture")
            shown = first(view)
            return camera, shown - view.page.evaluate("() => probe.began[0]"), shown


def first(tab: Tab, seconds: float = 30.0) -> float:
    """When a page showed its first marked picture, by its clock in ms."""
    tab.until("probe.videos.picture.some(r => r.counter !== null)", seconds)
    return float(marked(tab.take()["picture"])[0]["shown"])


def l4(stage: Stage) -> Row:
    """The uplink two seconds after the connection was made."""
    with stage.server() as server, page(stage.browser()) as tab:
        tab.page.goto(address(server))
        tab.until("probe.connections.at(-1)?.connectionState === 'connected'")
        tab.wait(1.5)
        first = tab.stats("outbound-rtp")[0]
        tab.wait(1.0)
        last = tab.stats("outbound-rtp")[0]
    sent = (last["bytesSent"] - first["bytesSent"]) * 8 / (last["timestamp"] - first["timestamp"]) / 1000
    value = {"mbit_s": round(sent, 2), "target_mbit_s": round(last.get("targetBitrate", 0) / 1e6, 2),
             "size": f"{last['frameWidth']}x{last['frameHeight']}", "limited_by": last.get("qualityLimitationReason"),
             "codec": codec_of(last)}  # fmt: skip
    for_speed = stage.slow > 1 and value["limited_by"] == "cpu"  # Chromium takes less where the machine is too slow
    holds = value["mbit_s"] >= 2 / stage.slow and (value["size"] == "512x512" or for_speed)
    return Row("L4", "at 2 s", "uplink >= 2 Mbit/s, no downscale", value, holds)


def codec_of(report: dict[str, Any]) -> str:
    return str(report.get("encoderImplementation") or report.get("decoderImplementation"))


# ------------------------------------------------------------------------------------------------- colour

CANVAS = """
{
  const still = document.createElement("canvas");
  still.width = still.height = 512;
  const draw = () => {
    const context = still.getContext("2d");
    context.fillStyle = `hsl(${performance.now() / 50 % 360} 20% 50%)`;
    context.fillRect(0, 0, 512, 512);
    const colours = COLOURS, [x, y, w, h] = PLACE;
    colours.forEach((c, k) => {
      context.fillStyle = `rgb(${c})`;
      context.fillRect((x + w * k / colours.length) * 512, y * 512, w / colours.length * 512, h * 512);
    });
  };
  setInterval(draw, 33);
  draw();
  const stream = still.captureStream(30);
  navigator.mediaDevices.getUserMedia = async () => stream.clone();
}
""".replace("COLOURS", json.dumps(PATCHES)).replace("PLACE", json.dumps(PATCH_PLACE))  # instead of the camera


def l5(stage: Stage) -> Row:
    """Six patches through both codecs, from the camera, a canvas and the screen (another tab, really captured), beside
    what they truly are."""
    value: dict[str, Any] = {}
    with stage.server() as server, screen(stage.driver, scene(512, 512)) as shared:
        for codec in ("h264", "vp8"):
            with page(stage.browser()) as tab:
                value[f"{codec} camera"] = colour_error(tab, address(server, codec=codec))
            with page(stage.browser(), script=CANVAS) as tab:
                value[f"{codec} canvas"] = colour_error(tab, address(server, codec=codec))
            with opened(shared) as tab:
                value[f"{codec} screen"] = colour_error(tab, f"{server.url}/?codec={codec}", "#start-screen")
    worst, mean = (max(v[k] for v in value.values()) for k in ("worst", "mean"))
    value |= {"worst": worst, "mean": mean}
    return Row("L5", "colour, both codecs, camera, canvas, screen, of 255", "worst <= 16, mean <= 4", value,
               worst <= 16 and mean <= 4)  # fmt: skip


def colour_error(tab: Tab, url: str, press: str = "") -> dict[str, float]:
    """Largest and mean difference of the painted patches from what they are."""
    tab.page.goto(url)
    if press:
        tab.until("window.livebrush")
        tab.page.click(press)
    tab.shown()
    tab.wait(1.0)
    error = np.abs(tab.patches("picture") - np.array(PATCHES))
    return {"worst": round(float(error.max()), 1), "mean": round(float(error.mean()), 1)}


# ------------------------------------------------------------------------------------------------- settings


def l6(stage: Stage, times: int = 10) -> Row:
    """A setting changed: how many frames after the change were still taken under the old one, at the most."""
    with stage.server() as server, stage.tab(server, size=(640, 480)) as tab:
        tab.set("fit", "stretch")  # to `pad` and back only the worker's work changes, nothing of the camera's
        tab.take(2.0)
        found = [seen_after(tab, "pad" if k % 2 == 0 else "stretch") for k in range(2 * times)]
    frames, shown = zip(*found, strict=True)
    value = {"most_frames": max(frames), "median_frames": float(np.median(frames)), "shown_ms": percentiles(shown)}
    holds = max(frames) <= 2 * stage.slow
    return Row("L6", "a setting changed", "seen within 2 frames + engine time", value, holds)


def seen_after(tab: Tab, fit: str) -> tuple[int, float]:
    """Frames taken between a change of `fit` and the first picture that shows it, and the milliseconds until then."""
    before = tab.take(0.6)["camera"]
    asked = tab.page.evaluate("fit => { const t = performance.now(); livebrush.set('fit', fit); return t; }", fit)
    camera, picture = before, None
    deadline = time.monotonic() + SEEN_S
    while picture is None:
        rows = tab.take(1.2)
        camera += rows["camera"]
        picture = next((r for r in marked(rows["picture"]) if shows(r, fit) and r["shown"] > asked), None)
        if picture is None and time.monotonic() > deadline:
            raise TimeoutError(f"fit {fit!r} is not seen after {SEEN_S:g} s")
    found = Clock(camera, LOOP).at(picture["counter"], picture["shown"])
    assert found is not None, "the camera's frame was not seen"
    return max(0, round((found[1] - asked) / PERIOD_MS)), picture["shown"] - asked


def shows(picture: dict[str, Any], fit: str) -> bool:
    """Whether a picture was fitted so: its edge is dark where it was padded."""
    return bool((max(picture["extra"]["edge"]) < 60) == (fit == "pad"))


# ------------------------------------------------------------------------------------------------- capacity


def crowd(stage: Stage, codec: str = "H264") -> list[Row]:
    """Six peers at once: rows C1, C2 and R10, and what a seventh is told."""
    with stage.server(limit=PEERS) as server:
        with peers.peers(server.url, count=1, seconds=3, codec=codec, film_s=2) as warm:  # imports, codecs, pools
            peers.began(warm)
            peers.gathered(warm)
        empty = server.ask("census")["memory_mb"]
        options = {"count": PEERS, "seconds": stage.seconds, "codec": codec, "one_more": True}
        with peers.peers(server.url, **options) as process:
            peers.began(process)
            server.ask("lag")
            before, start = server.cpu_s(), time.monotonic()
            time.sleep(stage.seconds - 0.5)
            cpu, lag, took = server.cpu_s() - before, server.ask("lag"), time.monotonic() - start
            full = server.ask("census")["memory_mb"]
            seen, refused = peers.gathered(process)
    floor = codecs.alone()
    cost = c2(seen, cpu, took, (full - empty) / PEERS, floor, stage.slow)
    found = [c1(seen, refused, stage.slow), cost, r10(lag, stage.slow)]
    if floor <= codecs.ABLE_MS:
        return found
    why = f"here the codecs alone take {floor} ms of a core a picture, {PEERS * RATE * floor / 10:.0f} % of one for all"
    return [replace(row, note=row.note or why) for row in found]


def c1(seen: list[peers.Seen], refused: str, slow: float) -> Row:
    found = gaps_of(seen)
    fps = [round((len(s.arrived) - 1) * 1000 / (s.arrived[-1] - s.arrived[0]), 2) for s in seen]
    value: dict[str, Any] = {"fps": fps, "gap_ms": percentiles(found), "refused": refused}
    in_time = min(fps) >= 29 / slow and value["gap_ms"]["p99"] <= 80 * slow
    holds = in_time and "503" in refused and "queue" in refused
    return Row("C1", "six peers", ">= 29 fps each, p99 gap <= 80 ms; the next one queued with a reason", value, holds)


def gaps_of(seen: list[peers.Seen]) -> Numbers:
    return np.concatenate([gaps(s.arrived) for s in seen])


def c2(seen: list[peers.Seen], cpu_s: float, took_s: float, memory_mb: float, floor: float, slow: float) -> Row:
    frames = sum((len(s.arrived) - 1) * 1000 / (s.arrived[-1] - s.arrived[0]) for s in seen) * took_s
    value = {"cpu_ms_per_frame": round(cpu_s * 1000 / frames, 2), "memory_mb_per_peer": round(memory_mb, 1)}
    value["cpu_ms_per_second_and_peer"] = round(cpu_s * 1000 / took_s / len(seen), 1)
    value["codecs_alone_ms"] = floor
    holds = value["cpu_ms_per_frame"] <= 8 * slow and value["memory_mb_per_peer"] <= 30
    return Row("C2", "cost of a peer, server and worker", "<= 8 ms CPU a frame, <= 30 MB a peer", value, holds)


def r10(lag: dict[str, Any], slow: float) -> Row:
    return Row("R10", "event-loop lag, six peers, ms", "p99 <= 20", lag, lag["p99"] <= 20 * slow)


def c3(stage: Stage, more: int = 4, codec: str = "H264") -> Row:
    """What each of `more` viewers costs beside the first: the difference of two measurements of one server."""
    with stage.server(limit=1) as server:
        with peers.peers(server.url, seconds=2, codec=codec, film_s=2, viewers=1) as warm:
            peers.began(warm)
            peers.gathered(warm)
        one, few = (looked_at(server, count, stage.seconds, codec) for count in (1, 1 + more))
    cost = (few["cpu_ms_per_frame"] - one["cpu_ms_per_frame"]) / more
    value: dict[str, Any] = {
        "cpu_ms_per_frame_and_viewer": round(cost, 2),
        "one_viewer": one,
        f"{1 + more}_viewers": few,
    }
    kept_up = min(one["least_fps"], few["least_fps"]) >= 25 / stage.slow  # else the figures are of different work
    holds = cost <= 2 * stage.slow and kept_up
    return Row("C3", "one more viewer of the same output", "<= 2 ms CPU a frame", value, holds)


def looked_at(server: Observed, viewers: int, seconds: float, codec: str) -> dict[str, float]:
    """Milliseconds of processor time of server and worker for a painted picture that so many look at."""
    with peers.peers(server.url, seconds=seconds, codec=codec, viewers=viewers) as process:
        peers.began(process)
        before, start = server.cpu_s(), time.monotonic()
        time.sleep(seconds - 0.5)
        cpu, took = server.cpu_s() - before, time.monotonic() - start
        seen, _ = peers.gathered(process)
    fps = [(len(s.arrived) - 1) * 1000 / (s.arrived[-1] - s.arrived[0]) for s in seen]
    return {"cpu_ms_per_frame": round(cpu * 1000 / took / fps[0], 2), "least_fps": round(min(fps), 1)}


def c4(stage: Stage, frames: int = 2000) -> Row:
    """Two pages with cameras and settings of their own: no picture of one in the other, however long they take."""
    counts, wrong, unread = [0, 0], [0, 0], [0, 0]
    deadline = time.monotonic() + frames / RATE * 15 + 30
    with stage.server() as server, stage.tab(server, source=1) as one, stage.tab(server, source=2) as two:
        one.set("prompt", STYLES[0])
        two.set("prompt", STYLES[1])
        one.take()
        two.take()
        while min(counts) < frames and time.monotonic() < deadline:
            one.wait(1.0)
            for k, tab in enumerate((one, two)):
                rows = tab.take()["picture"]
                counts[k] += len(marked(rows))
                wrong[k] += len(foreign(rows, k + 1))
                unread[k] += len(rows) - len(marked(rows))
        prompts = [tab.livebrush("settings.prompt") for tab in (one, two)]
    value = {"frames": counts, "foreign": wrong, "unread": unread, "prompts": prompts}
    holds = not any(wrong) and min(counts) >= frames and prompts == list(STYLES)
    return Row("C4", "isolation", f"0 foreign frames in 2 x {frames}", value, holds)


# ------------------------------------------------------------------------------------------------- robustness


def r4(stage: Stage) -> Row:
    """Ten times more frames than the engine can paint: how many of them pass while one waits, beside its painting.

    Taken when the picture arrives: at 3 fps Chromium may show one only when the next is there.
    """
    engine_ms = 10 * PERIOD_MS
    with stage.server(delay_ms=engine_ms) as server, stage.tab(server) as tab:
        tab.take(SETTLE_S)
        rows = tab.take(stage.seconds)
        dropped = tab.livebrush("stats.dropped_in")
    arrived = glass_to_glass(rows["camera"], rows["picture"], LOOP, "received")
    found = percentiles(arrived)
    waiting = max(0.0, found["p95"] - engine_ms - WAY_MS * stage.slow) / PERIOD_MS
    value: dict[str, Any] = {
        "waiting_frames": round(waiting, 2), "arrived_ms": found, "engine_ms": round(engine_ms), "dropped": dropped,
        "shown_ms": percentiles(glass_to_glass(rows["camera"], rows["picture"], LOOP)),
        "second_half_more_ms": round(drift(arrived), 1),
    }  # fmt: skip
    holds = value["waiting_frames"] <= 2 and dropped > 0 and value["second_half_more_ms"] <= PERIOD_MS * stage.slow
    return Row("R4", "every queue under 10 x overload", "<= 2 frames", value, holds)


def r9(stage: Stage) -> Row:
    """The engine raises, hangs, is killed, runs out of memory; one page sees it all. It is killed three times: a
    browser's repaints and what else the machine does then make gaps of their own, and the median counts."""
    value: dict[str, Any] = {}
    with stage.server() as server, stage.tab(server) as tab:
        tab.take(2.0)
        session = tab.livebrush("session")
        for kind in KINDS:
            value[kind] = suffered(server, tab, kind)
            tab.wait(0.5)
        value["kill"] = middle([value["kill"], *(suffered(server, tab, "kill") for _ in range(2))])
        value["same_session"] = tab.livebrush("session") == session
        value["connections"] = len(tab.page.evaluate("() => probe.connections.map(c => c.connectionState)"))
    holds = all(holds_after(kind, value[kind], stage.slow) for kind in KINDS)
    return Row("R9", "engine raises / hangs / is killed / out of memory",
               "own camera or last picture in 100 ms; back <= 5 s after raise, <= 15 s after kill; memory: steps down "
               "and says so", value, holds and value["same_session"] and value["connections"] == 1)  # fmt: skip


def middle(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """The one of the median gap, with all gaps; noticed and back after the longest time, None where one was not."""
    ranked = sorted(seen, key=lambda one: float(one["gap_ms"]))
    notices = [one["notice_ms"] for one in seen]
    return ranked[len(ranked) // 2] | {
        "notice_ms": None if None in notices else max(notices),
        "back_ms": max(one["back_ms"] for one in seen),
        "gaps_ms": [one["gap_ms"] for one in ranked],
    }


def suffered(server: Observed, tab: Tab, kind: str) -> dict[str, Any]:
    """What a page saw of one fault. Times are ms from the fault: `notice_ms`, `back_ms`; `gap_ms` the longest gap."""
    tab.take()
    restarts = server.ask("worker")["restarts"]
    before = tab.page.inner_text("#notice")
    tab.page.evaluate("() => { probe.said.length = 0; }")
    at = kill(server) if kind == "kill" else server.ask("fault", kind=kind)["at"]
    tab.wait(0.3)
    back = recovered(server, tab, kind, restarts)
    tab.wait(0.5)
    origin, rows, said = tab.origin(), tab.take()["picture"], tab.page.evaluate("() => probe.said")
    news = [s for s in said if s["notice"] not in ("", before.strip())]
    shown = np.array([r["shown"] + origin - at for r in rows])
    return {
        "notice_ms": round(news[0]["now"] + origin - at, 1) if news else None,
        "notice": news[0]["notice"] if news else "",
        "back_ms": round((back - at), 1), "gap_ms": round(float(gaps(shown[shown > -500]).max()), 1),
        "width": tab.livebrush("settings.width"), "restarts": server.ask("worker")["restarts"] - restarts,
    }  # fmt: skip


def kill(server: Observed) -> float:
    """SIGKILL to the worker; when, in ms of the wall clock."""
    pid, at = server.worker(), time.time() * 1000
    os.kill(pid, signal.SIGKILL)
    return at


def recovered(server: Observed, tab: Tab, kind: str, restarts: int, seconds: float = 60.0) -> float:
    """Waits until pictures are painted again; when, in ms of the wall clock."""
    deadline = time.monotonic() + seconds
    dies = kind in ("hang", "kill")
    while time.monotonic() < deadline:
        now = server.ask("worker")
        restarted = now["restarts"] > restarts or not dies
        if now["state"] == "ready" and restarted and tab.livebrush("state") == "painting":
            return time.time() * 1000
        tab.wait(0.01)
    raise TimeoutError(f"the worker does not paint {seconds:g} s after {kind}: {now}\n{server.said()[-3000:]}")


def holds_after(kind: str, seen: dict[str, Any], slow: float) -> bool:
    """Whether a fault was suffered as it should be; limits of time are `slow` times as long."""
    limit = {"raise": 5000, "hang": 15000, "kill": 15000, "memory": 5000}[kind] * slow
    told = kind == "raise" or seen["notice_ms"] is not None
    quick = kind != "kill" or (seen["notice_ms"] <= 100 * slow and seen["gap_ms"] <= 100 * slow + PERIOD_MS)
    return bool(seen["back_ms"] <= limit and told and quick and (kind != "memory" or seen["width"] < 512))
