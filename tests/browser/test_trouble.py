"""What goes wrong around a page: no camera, another site, nonsense, a page that hides or goes."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tools.chromium import ALLOWED, FAKED, Tab, chromium, page
from tools.observed import Observed
from tools.stage import Stage, address

pytestmark = pytest.mark.beside


def asked(server: Observed, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a request that nobody should have made."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    try:
        given = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection.request(method, path, body or None, given)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else {}
    finally:
        connection.close()


def sessions(server: Observed) -> int:
    return int(asked(server, "GET", "/healthz")[1]["sessions"])


def gone(server: Observed, tab: Tab, seconds: float = 5.0) -> None:
    """Waits until no session is left; a goodbye that is not heard would take longer."""
    for _ in range(round(seconds / 0.1)):
        if not sessions(server):
            return
        tab.wait(0.1)
    raise AssertionError(f"{sessions(server)} sessions are left after {seconds:g} s")


# ------------------------------------------------------------------------------------------------- cameras


def goes_on(tab: Tab) -> None:
    """Pictures come, ten within ten seconds at least: how fast they do is the rows' business."""
    tab.take()
    seen = 0
    for _ in range(20):
        seen += len(tab.take(0.5)["picture"])
        if seen >= 10:
            return
    raise AssertionError(f"{seen} pictures within ten seconds")


@pytest.mark.parametrize(("missing", "word"), [(ALLOWED, "allow"), (FAKED, "camera")])
def test_without_a_camera_the_page_says_what_to_do_and_the_test_card_works(
    stage: Stage, server: Observed, missing: str, word: str
) -> None:
    """Refused, and none there at all."""
    with chromium(stage.driver, without=[missing]) as browser, page(browser, f"{server.url}/") as tab:
        tab.until("window.livebrush")
        tab.page.click("#start-camera")
        tab.until("document.getElementById('notice').innerText.trim()")
        assert word in tab.page.inner_text("#notice").lower()
        assert "test card" in tab.page.inner_text("#notice")
        tab.page.click("#start-testcard")
        tab.shown()
        tab.until("livebrush.state === 'painting'")
        assert not tab.page.inner_text("#notice").strip()


def test_an_unplugged_camera_is_told_and_the_place_is_free(tab: Tab, server: Observed) -> None:
    tab.page.evaluate("""() => {
        const track = document.getElementById('camera').srcObject.getVideoTracks()[0];
        track.stop();
        track.dispatchEvent(new Event('ended'));
    }""")
    tab.until("document.getElementById('notice').innerText.includes('unplugged')")
    gone(server, tab)
    tab.page.click("#start-camera")
    tab.shown()
    tab.until("livebrush.state === 'painting'")


# ------------------------------------------------------------------------------------------------- pages that go


def test_a_closed_tab_frees_its_place(stage: Stage, server: Observed) -> None:
    with page(stage.browser()) as other:
        with stage.tab(server):
            assert sessions(server) == 1
        gone(server, other)


@pytest.mark.alone
def test_a_hidden_page_keeps_its_session_without_sending(tab: Tab, server: Observed) -> None:
    """Browsers send no pictures of a page out of sight, which is otherwise a reason to end a session after 6 s."""
    session = tab.livebrush("session")
    hide(tab, True)
    tab.page.evaluate("() => probe.connections.at(-1).getSenders()[0].replaceTrack(null)")
    tab.wait(7.5)
    assert sessions(server) == 1
    hide(tab, False)
    tab.page.evaluate("""() => probe.connections.at(-1).getSenders()[0].replaceTrack(
        document.getElementById('camera').srcObject.getVideoTracks()[0])""")
    goes_on(tab)
    assert tab.livebrush("session") == session


def hide(tab: Tab, hidden: bool) -> None:
    """Puts the page out of sight, as far as it knows."""
    tab.page.evaluate("""hidden => {
        const be = (name, value) => Object.defineProperty(document, name, { value, configurable: true });
        be('hidden', hidden);
        be('visibilityState', hidden ? 'hidden' : 'visible');
        document.dispatchEvent(new Event('visibilitychange'));
    }""", hidden)  # fmt: skip


def test_the_page_reconnects_with_its_settings_when_the_server_comes_back(stage: Stage) -> None:
    with stage.server() as first:
        port = urlsplit(first.url).port
        made = page(stage.browser())
        tab = made.__enter__()
        tab.page.goto(address(first))
        tab.shown()
        tab.page.evaluate("() => livebrush.set('prompt', 'ink engraving')")
        tab.until("livebrush.settings.prompt === 'ink engraving'")
        session = tab.livebrush("session")
    try:
        tab.until("livebrush.state === 'reconnecting'")
        with stage.server(port=port):
            tab.until("livebrush.state === 'painting'")
            assert tab.livebrush("session") not in (None, session)
            assert tab.livebrush("settings.prompt") == "ink engraving"
    finally:
        made.__exit__(None, None, None)


# ------------------------------------------------------------------------------------------------- other ways


def test_where_webrtc_does_not_get_through_pictures_come_by_websocket(stage: Stage, server: Observed) -> None:
    with page(stage.browser()) as tab:
        tab.page.goto(address(server, transport="websocket"))
        tab.until("window.livebrush?.transport === 'websocket' && livebrush.state === 'painting'")
        tab.until("document.getElementById('fallback').width > 0 && livebrush.painted > 20")
        mark = "document.getElementById('fallback')"
        tab.until(f"probe.read({mark}, {mark}.width, {mark}.height)")
        tab.until("livebrush.latency.count > 10")
        assert 0 < tab.livebrush("latency.p50") < 3000


SLOWLY = """
const now = performance.now.bind(performance), answer = RTCPeerConnection.prototype.setRemoteDescription;
performance.now = () => now() + 60000;
RTCPeerConnection.prototype.setRemoteDescription = async function (told) {
  await new Promise((resolve) => setTimeout(resolve, 2500));
  return answer.call(this, told);
};
"""


def test_a_page_that_has_long_been_open_may_take_its_time_to_connect(stage: Stage, server: Observed) -> None:
    """What it has not heard before it is connected says nothing about the server."""
    with page(stage.browser(), script=SLOWLY) as tab:
        tab.page.goto(address(server))
        tab.until("window.livebrush?.state === 'painting'")
        assert tab.page.evaluate("() => probe.connections.length") == 1
        assert tab.livebrush("transport") == "webrtc"


# ------------------------------------------------------------------------------------------------- nonsense


@pytest.fixture
def offer(stage: Stage, server: Observed) -> Iterator[str]:
    """A good offer of a browser."""
    with page(stage.browser(), f"{server.url}/view") as tab:
        yield tab.page.evaluate("""async () => {
            const peer = new RTCPeerConnection();
            peer.createDataChannel("control");
            peer.addTransceiver("video");
            await peer.setLocalDescription();
            return peer.localDescription.sdp;
        }""")


def test_mutated_offers_are_refused_or_answered_but_never_break_anything(server: Observed, offer: str) -> None:
    chance, statuses = random.Random(0), set[int]()
    for _ in range(60):
        status, body = asked(server, "POST", "/api/sessions", json.dumps({"sdp": mutated(offer, chance)}).encode())
        statuses.add(status)
        assert status in (201, 400, 422, 503), (body, server.said()[-3000:])
        if status == 201:
            assert asked(server, "DELETE", f"/api/sessions/{body['id']}")[0] == 204
    assert 400 in statuses
    assert sessions(server) == 0


def mutated(sdp: str, chance: random.Random) -> str:
    """An offer with a few lines lost, doubled, swapped or spoilt."""
    lines = sdp.splitlines()
    for _ in range(chance.randint(1, 4)):
        k = chance.randrange(len(lines))
        spoilt = lines[k][: chance.randrange(len(lines[k]) + 1)] + chance.choice(
            ["", "x", " ", "999999999999", "\0", "ä"]
        )
        other = chance.choice([[], [lines[k]] * 2, [spoilt], [chance.choice(lines)]])
        lines[k : k + 1] = other
        lines = lines or [""]
    return "\r\n".join(lines) + "\r\n"


@pytest.mark.parametrize(("body", "status"), [
    (b"{", 400), (b"[]", 422), (b'{"sdp": 1}', 422), (b'{"sdp": ""}', 422), (b'{"sdp": "v=0"}', 422),
    (b'{"sdp": "v=0\\r\\nm=video 9 UDP/TLS/RTP/SAVPF 96\\r\\n"}', 400),
    (b'{"sdp": "x", "settings": {"steps": 99}}', 422), (b'{"sdp": "' + b"x" * 70_000 + b'"}', 413), (b"\xff\xfe", 400),
])  # fmt: skip
def test_bodies_that_are_no_offer_are_told_why(server: Observed, body: bytes, status: int) -> None:
    got, told = asked(server, "POST", "/api/sessions", body)
    assert got == status, told
    assert len(told["error"]) > 10


def test_another_sites_page_is_refused(stage: Stage, server: Observed) -> None:
    assert asked(server, "GET", "/api/schema", Origin="http://evil.example")[0] == 403
    assert asked(server, "GET", "/", Host="evil.example")[0] == 403
    assert asked(server, "POST", "/api/sessions", b"{}", Content_Type="text/plain")[0] == 403
    with page(stage.browser()) as tab:
        tab.page.route("http://evil.example/**", lambda route: route.fulfill(body="<p>evil", content_type="text/html"))
        tab.page.goto("http://evil.example/")
        said = tab.page.evaluate("""async (url) => {
            const get = (path, how) => fetch(url + path, how).then((r) => [r.type, r.status], (e) => e.name);
            const blind = await get("/api/schema", { mode: "no-cors" });
            const read = await get("/api/schema");
            const posted = await get("/api/sessions", { method: "POST", body: "{}" });
            const socket = await new Promise((done) => {
                const made = new WebSocket(url.replace("http", "ws") + "/api/sessions/ws");
                made.onopen = () => done("open");
                made.onclose = made.onerror = () => done("refused");
            });
            return { blind, read, posted, socket };
        }""", server.url)  # fmt: skip
    assert said["read"] == said["posted"] == "TypeError"
    assert said["socket"] == "refused"
    assert said["blind"] in (["opaque", 0], "TypeError")


NONSENSE = ["", "{", "[]", "null", '{"type": "unknown"}', '{"type": "settings"}', '{"type": "settings", "changes": 3}',
            '{"type": "ping", "t": "x"}', '{"type": "hidden", "hidden": 1e999}', "x" * 20_000, "\ud800"]  # fmt: skip


def test_nonsense_on_the_control_channel_is_answered_and_the_picture_goes_on(tab: Tab, server: Observed) -> None:
    tab.page.evaluate("""(texts) => {
        probe.heard.length = 0;
        const channel = probe.channels.at(-1);
        for (const text of texts) channel.send(text);
        channel.send(new Uint8Array(1000));
        channel.send(JSON.stringify({ type: "settings", id: 99, changes: { steps: 99 } }));
    }""", NONSENSE)  # fmt: skip
    tab.until("probe.heard.filter((t) => JSON.parse(t).type === 'error').length >= 8")
    tab.until("probe.heard.map((t) => JSON.parse(t)).some((m) => m.type === 'settings' && m.id === 99 && m.error)")
    goes_on(tab)


def test_a_flood_of_messages_is_bounded(tab: Tab) -> None:
    begun = tab.now()
    tab.page.evaluate("""() => {
        probe.heard.length = 0;
        const channel = probe.channels.at(-1);
        for (let k = 0; k < 1000; k++) channel.send(JSON.stringify({ type: "ping", t: k }));
    }""")
    tab.until("probe.heard.some((t) => t.includes('more than 60 messages'))")
    tab.wait(0.5)
    pongs = tab.page.evaluate("() => probe.heard.filter((t) => JSON.parse(t).type === 'pong').length")
    assert 30 <= pongs <= 60 * (2 + (tab.now() - begun) / 1000), "60 a second, and as many at once"
    assert tab.livebrush("state") == "painting"


def test_the_log_tells_of_no_mistake(server: Observed) -> None:
    """The last test of the module: whatever happened before, nothing went wrong inside."""
    said = server.said()
    assert "Traceback" not in said, said
    assert "never retrieved" not in said, said
