"""What the page has beside the picture: two prompts, presets, controllers, sessions of others, the queue, outputs.

One server and one browser for all of it; every test opens pages that remember nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tools.chromium import ALLOWED, FAKED, Tab, chromium, page
from tools.observed import Observed
from tools.stage import Stage

pytestmark = pytest.mark.beside
READY = "window.livebrush && document.body.dataset.extras"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@contextmanager
def opened(
    stage: Stage,
    server: Observed,
    path: str = "/",
    *,
    script: str = "",
    stubs: dict[str, Any] | None = None,
    **more: Any,
) -> Iterator[Tab]:
    """The page with all its sections; `stubs` are answers of the server by path: JSON, or `(status, JSON)`."""
    with page(stage.browser(), script=script, **more) as tab:
        for where, answer in (stubs or {}).items():
            stub(tab, where, answer)
        tab.page.goto(f"{server.url}{path}")
        tab.until(READY)
        yield tab
        assert quiet(tab), tab.errors


def stub(tab: Tab, where: str, answer: Any) -> None:
    """Answers for the server."""
    status, body = answer if isinstance(answer, tuple) else (200, answer)
    text, kind = (body, "image/svg+xml") if isinstance(body, str) else (json.dumps(body), "application/json")
    tab.page.route(f"**{where}", lambda route: route.fulfill(status=status, body=text, content_type=kind))


def quiet(tab: Tab) -> bool:
    """Whether nothing went wrong in the page's scripts. Chromium counts every refusal as an error of the console: of
    parts that a server does not have, and of what tests make it refuse."""
    return not [error for error in tab.errors if "Failed to load resource" not in error]


def section(tab: Tab, name: str) -> None:
    """Opens a section of the panel."""
    tab.page.evaluate("name => { document.querySelector(`[data-section=${name}]`).open = true; }", name)


def slide(tab: Tab, selector: str, value: float) -> None:
    """Moves a slider, as a hand does."""
    tab.page.evaluate("""([selector, value]) => {
        const slider = document.querySelector(selector);
        slider.value = value;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
    }""", [selector, value])  # fmt: skip


def painting(tab: Tab) -> None:
    """Begins with the test card."""
    tab.page.click("#start-testcard")
    tab.shown()
    tab.until("livebrush.state === 'painting'")


def held(tab: Tab) -> dict[str, Any]:
    """The settings that the server holds for the page's session."""
    told: dict[str, Any] = tab.page.evaluate(
        "async () => (await (await fetch(`api/sessions/${livebrush.session}`)).json()).settings"
    )
    return told


CHANGE = "changes => { for (const [name, value] of Object.entries(changes)) livebrush.set(name, value); }"


def holds_there(tab: Tab, name: str, value: Any, seconds: float = 30.0) -> None:
    """Waits for the server to hold a value."""
    for _ in range(round(seconds / 0.1)):
        if held(tab)[name] == value:
            return
        tab.wait(0.1)
    assert held(tab)[name] == value


# ------------------------------------------------------------------------------------------------- words


def test_two_prompts_are_faded_into_each_other(stage: Stage, server: Observed) -> None:
    with opened(stage, server) as tab:
        painting(tab)
        tab.page.fill("#prompt", "oil painting")
        tab.page.click("#show-blend")
        tab.page.fill("#prompt-b", "blueprint | neon lights:0.5")
        assert tab.livebrush("settings.prompt") == "oil painting"
        slide(tab, "#fader", 25)
        assert tab.livebrush("settings.prompt") == "oil painting:0.75|blueprint:0.167|neon lights:0.083"
        tab.page.focus("#fader")
        tab.page.keyboard.press("End")
        assert tab.livebrush("settings.prompt") == "blueprint | neon lights:0.5"
        slide(tab, "#fader", 50)
        tab.page.fill("#prompt-b", "blueprint")
        tab.until("livebrush.settings.prompt === 'oil painting:0.5|blueprint:0.5'")
        holds_there(tab, "prompt", "oil painting:0.5|blueprint:0.5")
        tab.page.click("#show-blend")
        assert tab.livebrush("settings.prompt") == "oil painting"


def test_words_are_typed_and_dialogs_closed_by_the_keyboard(stage: Stage, server: Observed) -> None:
    """Key by key: what is filled in at once hides handlers that swallow keys."""
    with opened(stage, server) as tab:
        tab.page.keyboard.press("/")
        tab.page.keyboard.type("ink 2")
        tab.page.keyboard.press("Enter")
        assert tab.livebrush("settings.prompt") == "ink 2"
        assert tab.page.evaluate("() => document.activeElement === document.body")
        tab.page.keyboard.press("?")
        tab.until("document.getElementById('help').open")
        tab.page.click("#help [aria-label=Close]")
        tab.until("!document.getElementById('help').open")
        section(tab, "presets")
        tab.page.focus("#preset-name")
        tab.page.keyboard.type("Mine")
        assert tab.page.input_value("#preset-name") == "Mine"


def test_a_style_goes_to_the_prompt_that_was_written_in_last(stage: Stage, server: Observed) -> None:
    facts = page_facts(server) | {"styles": ["watercolor painting", "pop art"]}
    with opened(stage, server, stubs={"/api/schema": facts}) as tab:
        tab.page.click("text=watercolor painting")
        tab.page.click("#show-blend")
        slide(tab, "#fader", 50)
        tab.page.click("text=pop art")
        assert tab.page.input_value("#prompt-b") == "pop art"
        assert tab.livebrush("settings.prompt") == "watercolor painting:0.5|pop art:0.5"


def page_facts(server: Observed) -> dict[str, Any]:
    """What the server says of itself."""
    with urlopen(f"{server.url}/api/schema") as answer:
        facts: dict[str, Any] = json.load(answer)
    return facts


def test_both_prompts_come_back_with_the_page(stage: Stage, server: Observed) -> None:
    with opened(stage, server) as tab:
        tab.page.fill("#prompt", "ink")
        tab.page.click("#show-blend")
        tab.page.fill("#prompt-b", "pop art")
        slide(tab, "#fader", 30)
        tab.wait(0.5)
        tab.page.reload()
        tab.until(READY)
        fields = [tab.page.input_value(x) for x in ("#prompt", "#prompt-b", "#fader")]
        assert fields == ["ink", "pop art", "30"]


# ------------------------------------------------------------------------------------------------- presets


def test_presets_are_kept_loaded_deleted_and_brought_back(stage: Stage, server: Observed) -> None:
    with opened(stage, server, stubs={"/api/presets": (404, {})}) as tab:
        section(tab, "presets")
        tab.set("strength", 0.7)
        tab.page.fill("#preset-name", "Storm")
        tab.page.keyboard.press("Enter")
        tab.until("document.querySelector('.shelf li')")
        tab.set("strength", 0.2)
        tab.page.reload()
        tab.until(READY)
        tab.page.click(".shelf .chip")
        assert tab.livebrush("settings.strength") == 0.7
        tab.page.click("[aria-label='Delete Storm']")
        tab.until("!document.querySelector('.shelf li')")
        tab.page.click("text=Undo")
        tab.until("document.querySelector('.shelf li')")


def test_presets_go_to_another_browser_as_a_file(stage: Stage, server: Observed, tmp_path: Path) -> None:
    with opened(stage, server, stubs={"/api/presets": (404, {})}) as tab:
        section(tab, "presets")
        tab.set("prompt", "ink engraving")
        tab.page.fill("#preset-name", "Ink")
        tab.page.click("[data-section=presets] button:text-is('Save')")
        tab.until("document.querySelector('.shelf li')")
        with tab.page.expect_download() as download:
            tab.page.click("text=Export")
        file = tmp_path / "presets.json"
        download.value.save_as(file)
    saved = json.loads(file.read_text())["presets"]
    assert [(p["name"], p["settings"]["prompt"]) for p in saved] == [("Ink", "ink engraving")]
    assert "width" not in saved[0]["settings"]
    with opened(stage, server, stubs={"/api/presets": (404, {})}) as other:
        section(other, "presets")
        other.page.set_input_files("#preset-file", file)
        other.page.click(".shelf .chip >> text=Ink")
        assert other.livebrush("settings.prompt") == "ink engraving"
        (tmp_path / "none.json").write_text("[1, 2]")
        other.page.set_input_files("#preset-file", tmp_path / "none.json")
        other.until("document.querySelector('[data-section=presets] .note.wrong')")


def test_a_snapshot_is_a_preset_too(stage: Stage, server: Observed, tmp_path: Path) -> None:
    with opened(stage, server, stubs={"/api/presets": (404, {})}) as tab:
        painting(tab)
        tab.set("strength", 0.65)
        with tab.page.expect_download() as download:
            tab.page.click("#snapshot")
        download.value.save_as(tmp_path / "storm.png")
        tab.set("strength", 0.1)
        section(tab, "presets")
        tab.page.set_input_files("#preset-file", tmp_path / "storm.png")
        tab.page.click(".shelf .chip >> text=storm")
        assert tab.livebrush("settings.strength") == 0.65


@pytest.mark.alone
def test_a_preset_is_reached_over_seconds(stage: Stage, server: Observed) -> None:
    """Numbers glide, prompts blend, and what a hand moves meanwhile is the hand's."""
    with opened(stage, server, stubs={"/api/presets": (404, {})}) as tab:
        section(tab, "presets")
        tab.set("prompt", "ink")
        tab.page.evaluate(CHANGE, {"strength": 0.8, "guidance_scale": 11, "drift": 0.9})
        tab.page.fill("#preset-name", "Far")
        tab.page.keyboard.press("Enter")
        tab.until("document.querySelector('.shelf li')")
        tab.page.evaluate(CHANGE, {"strength": 0.2, "guidance_scale": 1, "drift": 0.1, "prompt": "oil"})
        slide(tab, "#set-morph", 3)
        tab.page.click(".shelf .chip")
        tab.until("livebrush.settings.strength > 0.3")
        now = tab.livebrush("settings")
        assert 0.3 < now["strength"] < 0.8
        assert 2 < now["guidance_scale"] < 11
        assert now["prompt"].startswith("oil:0.")
        tab.set("drift", 0.05)
        tab.until("livebrush.settings.strength === 0.8")
        assert tab.livebrush("settings.prompt") == "ink"
        assert tab.livebrush("settings.drift") == 0.05


def test_where_the_server_keeps_presets_it_is_asked(stage: Stage, server: Observed) -> None:
    kept = {"presets": [{"name": "Looks", "number": 0, "own": False, "settings": {"strength": 0.55}, "notes": []}]}
    asked = []
    with opened(stage, server, stubs={"/api/presets": kept}) as tab:
        tab.page.route("**/api/presets/*", lambda route: (asked.append(route.request), route.fulfill(status=204)))
        section(tab, "presets")
        assert not tab.page.query_selector("[aria-label='Delete Looks']")
        tab.page.click(".shelf .chip")
        assert tab.livebrush("settings.strength") == 0.55
        tab.page.fill("#preset-name", "Mine / 2")
        tab.page.keyboard.press("Enter")
        tab.until("document.querySelector('[data-section=presets] .note').textContent.startsWith('Saved')")
        assert asked[0].method == "PUT"
        assert asked[0].url.endswith("/api/presets/Mine%20%2F%202")
        assert asked[0].post_data_json["settings"]["strength"] == 0.55


def test_a_link_carries_the_settings(stage: Stage, server: Observed) -> None:
    wanted = {"prompt": "a:0.7|b: c & d", "strength": 0.33, "similarity": True, "t_index": [20, 35], "guidance": "self"}
    with opened(stage, server) as tab:
        for name, value in wanted.items():
            tab.set(name, value)
        tab.until("location.hash.includes('guidance=self')")
        link = tab.page.url
    with opened(stage, server, link.removeprefix(server.url)) as other:
        now = other.livebrush("settings")
        assert {name: now[name] for name in wanted} == wanted
        other.page.evaluate("() => { location.hash = '#strength=0.5'; }")
        other.until("livebrush.settings.strength === 0.5")
        assert other.livebrush("settings.prompt") == ""


# ------------------------------------------------------------------------------------------------- controllers

PADS = """
window.pad = { index: 0, id: "Pad (Vendor: 1)", connected: true, axes: [0, 0], buttons: [] };
for (let k = 0; k < 8; k++) pad.buttons.push({ pressed: false, value: 0 });
Object.defineProperty(navigator, "getGamepads", { value: () => [window.pad] });
"""
MIDI = """
window.knobs = { name: "Knobs", state: "connected", onmidimessage: null };
window.access = { inputs: new Map([["1", knobs]]), onstatechange: null };
Object.defineProperty(navigator, "requestMIDIAccess", { value: async () => access });
window.midi = (...data) => knobs.onmidimessage({ data });
"""


def learn(tab: Tab, target: str) -> None:
    tab.page.select_option("#learn-what", target)
    tab.page.click("[data-section=surfaces] button:text-is('Learn')")


def learned(tab: Tab) -> None:
    tab.until("document.querySelector('[data-section=surfaces] .strong').textContent === 'Learn'")


def test_a_gamepad_learns_and_moves_settings(stage: Stage, server: Observed) -> None:
    with opened(stage, server, script=PADS) as tab:
        section(tab, "surfaces")
        tab.until("document.querySelector('[data-section=surfaces] .note').textContent.includes('Pad')")
        tab.set("strength", 0.5)
        learn(tab, "strength")
        tab.page.evaluate("() => { pad.axes[1] = -0.9; }")  # up
        learned(tab)
        tab.until("livebrush.settings.strength > 0.7")
        tab.page.evaluate("() => { pad.axes[1] = 0.05; }")  # a stick that rests is never quite still
        tab.wait(0.1)
        rests = tab.livebrush("settings.strength")
        tab.wait(0.2)
        assert tab.livebrush("settings.strength") == rests
        learn(tab, "similarity")
        tab.page.evaluate("() => { pad.buttons[2] = { pressed: true, value: 1 }; }")
        learned(tab)
        tab.page.evaluate("() => { pad.buttons[2] = { pressed: false, value: 0 }; }")
        tab.wait(0.1)
        assert tab.livebrush("settings.similarity") is False
        tab.page.evaluate("() => { pad.buttons[2] = { pressed: true, value: 1 }; }")
        tab.until("livebrush.settings.similarity")
        learn(tab, "guidance_scale")
        tab.page.evaluate("() => { pad.buttons[7] = { pressed: true, value: 0.7 }; }")  # a trigger
        learned(tab)
        tab.page.evaluate("() => { pad.buttons[7] = { pressed: true, value: 0.5 }; }")
        tab.until("livebrush.settings.guidance_scale === 10.5")


def test_midi_learns_moves_settings_and_is_remembered(stage: Stage, server: Observed) -> None:
    with opened(stage, server, script=MIDI) as tab:
        section(tab, "surfaces")
        tab.page.click("button:text-is('Use MIDI')")
        tab.until("Boolean(knobs.onmidimessage)")
        for target, message in {"strength": (0xB0, 7, 1), "similarity": (0x90, 60, 100), "fader": (0xE1, 0, 0)}.items():
            learn(tab, target)
            tab.page.evaluate("message => midi(...message)", list(message))
            learned(tab)
        tab.page.evaluate("() => midi(0xB0, 7, 127)")
        assert tab.livebrush("settings.strength") == 1
        tab.page.evaluate("() => { midi(0x90, 60, 90); midi(0x80, 60, 0); midi(0xF8); midi(0xB0, 8, 3); }")
        assert tab.livebrush("settings.similarity") is True
        tab.page.fill("#prompt", "ink")
        tab.page.evaluate("() => midi(0xE1, 0, 64)")
        tab.page.fill("#prompt-b", "oil")
        assert tab.livebrush("settings.prompt") == "ink:0.5|oil:0.5"
        tab.page.reload()
        tab.until(READY)
        tab.page.click("button:text-is('Use MIDI')")
        tab.until("Boolean(knobs.onmidimessage)")
        tab.page.evaluate("() => midi(0xB0, 7, 0)")
        assert tab.livebrush("settings.strength") == 0
        tab.page.click("[aria-label='Forget Knob 7, channel 1']")
        tab.page.evaluate("() => midi(0xB0, 7, 127)")
        assert tab.livebrush("settings.strength") == 0


def test_a_browser_that_refuses_midi_is_told_what_to_do(stage: Stage, server: Observed) -> None:
    refuses = """Object.defineProperty(navigator, "requestMIDIAccess", {
        value: async () => { throw new DOMException("no"); },
    });"""
    with opened(stage, server, script=refuses) as tab:
        section(tab, "surfaces")
        tab.page.click("button:text-is('Use MIDI')")
        tab.until("document.querySelector('[data-section=surfaces] .note.wrong')?.textContent.includes('allow it')")


# ------------------------------------------------------------------------------------------------- cameras


@pytest.fixture(scope="module")
def two_cameras(stage: Stage) -> Iterator[Any]:
    """A browser with two cameras."""
    with chromium(stage.driver, without=[FAKED], more=[f"{FAKED}=device-count=2"]) as browser:
        yield browser


def test_the_other_camera_is_a_press_away(two_cameras: Any, server: Observed) -> None:
    with page(two_cameras, f"{server.url}/", **PHONE) as tab:
        tab.until("window.livebrush")
        tab.page.click("#start-camera")
        tab.shown()
        device = "document.getElementById('camera').srcObject.getVideoTracks()[0].getSettings().deviceId"
        first = tab.until(device)
        tab.until("!document.getElementById('turn').hidden")
        tab.page.click("#turn")
        tab.until(f"document.getElementById('camera').srcObject && {device} !== '{first}'")
        tab.page.click("#turn")
        tab.until(f"document.getElementById('camera').srcObject && {device} === '{first}'")
        assert quiet(tab), tab.errors


def test_a_camera_that_is_plugged_in_again_starts_by_itself(two_cameras: Any, server: Observed) -> None:
    with page(two_cameras, f"{server.url}/") as tab:
        tab.until("window.livebrush")
        tab.page.click("#start-camera")
        tab.shown()
        tab.page.evaluate("""() => {
            const [track] = document.getElementById("camera").srcObject.getVideoTracks();
            window.enumerate = navigator.mediaDevices.enumerateDevices;
            navigator.mediaDevices.enumerateDevices = async () => [];
            track.stop();
            track.dispatchEvent(new Event("ended"));
            navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
        }""")
        tab.until("document.getElementById('notice').innerText.includes('unplugged')")
        tab.page.evaluate("""() => {
            navigator.mediaDevices.enumerateDevices = enumerate;
            navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
        }""")
        tab.until("livebrush.state === 'painting'")
        assert not tab.page.inner_text("#notice").strip()


def test_mirror_and_flip_turn_what_is_shown_and_what_is_saved(stage: Stage, server: Observed) -> None:
    with opened(stage, server) as tab:
        painting(tab)
        shown = "getComputedStyle(document.getElementById('picture')).transform"
        seen = []
        for button in ("#mirror", "#flip", "#mirror"):
            tab.page.click(button)
            seen.append(tab.page.evaluate(f"() => {shown}"))
        assert seen == ["matrix(-1, 0, 0, 1, 0, 0)", "matrix(-1, 0, 0, -1, 0, 0)", "matrix(1, 0, 0, -1, 0, 0)"]
        corners = tab.page.evaluate("""async () => {
            const { copy } = await import("/static/js/capture.js");
            const source = Object.assign(document.createElement("canvas"), { width: 2, height: 2 });
            const pen = source.getContext("2d");
            ["#f00", "#0f0", "#00f", "#fff"].forEach((c, k) => {
                pen.fillStyle = c;
                pen.fillRect(k % 2, k >> 1, 1, 1);
            });
            const pixel = (canvas) => canvas.getContext("2d").getImageData(0, 0, 1, 1).data;
            const top = (...how) => [...pixel(copy(() => [source, ...how]))].slice(0, 3);
            return [top(false, false), top(true, false), top(false, true), top(true, true)];
        }""")
        assert corners == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


# ------------------------------------------------------------------------------------------------- sessions of others

PUBLISH = """async () => {
    const film = document.createElement("canvas");
    Object.assign(film, { width: 256, height: 256 });
    const pen = film.getContext("2d");
    setInterval(() => {
        pen.fillStyle = `hsl(${performance.now() / 20 % 360} 80% 50%)`;
        pen.fillRect(0, 0, 256, 256);
    }, 33);
    const tone = new OscillatorNode(new AudioContext());
    const sound = tone.context.createMediaStreamDestination();
    tone.connect(sound);
    tone.start();
    const peer = window.publisher = new RTCPeerConnection();
    for (const stream of [film.captureStream(30), sound.stream]) peer.addTrack(stream.getTracks()[0], stream);
    await peer.setLocalDescription();
    await new Promise((done) => setTimeout(done, 200));
    const answer = await fetch("/whip/live", {
        method: "POST", headers: { "Content-Type": "application/sdp" }, body: peer.localDescription.sdp,
    });
    if (!answer.ok) throw new Error(await answer.text());
    await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
}"""


@pytest.fixture(scope="module")
def live(stage: Stage, server: Observed) -> Iterator[Tab]:
    """Somebody who publishes picture and sound as "live"."""
    with page(stage.browser(), f"{server.url}/static/icon.svg") as tab:
        tab.page.goto(f"{server.url}/view?session=nothing")
        tab.page.evaluate(PUBLISH)
        tab.until("publisher.connectionState === 'connected'")
        yield tab


def test_a_standing_session_is_joined_from_its_tile_and_shared_live(stage: Stage, server: Observed, live: Tab) -> None:
    with opened(stage, server) as one, opened(stage, server, "/?session=live") as two:
        one.set("strength", 0.11)  # the page's own, which the session knows nothing of
        one.page.click("[data-join=live]")
        for tab in (one, two):
            tab.shown()
            tab.until("livebrush.state === 'painting' && livebrush.settings.strength === 0.4")
            assert not tab.page.evaluate("() => probe.connections.at(-1).getSenders().some((s) => s.track)")
        one.page.fill("#prompt", "from one")
        two.until("document.getElementById('prompt').value === 'from one'")
        slide(two, "#set-strength", 0.66)
        one.until("livebrush.settings.strength === 0.66")
        assert "strength" not in one.page.url.partition("#")[2].replace("strength=0.11", "")
        one.page.click("#stop")
        one.until("livebrush.state === 'idle' && livebrush.settings.strength === 0.11")
        one.wait(0.3)
        assert two.livebrush("state") == "painting"
        two.set("strength", 0.4)


def test_a_session_that_is_not_there_yet_is_waited_for(stage: Stage, server: Observed, live: Tab) -> None:
    """Joined before it begins, and again after it was gone."""
    with opened(stage, server, "/?session=later") as tab:
        tab.until("document.getElementById('notice').innerText.includes('Nothing is on as')")
        live.page.evaluate(PUBLISH.replace("/whip/live", "/whip/later").replace("window.publisher", "window.second"))
        tab.shown()
        tab.until("livebrush.state === 'painting'")
        assert tab.page.evaluate("async () => (await fetch('/api/sessions/later', { method: 'DELETE' })).status") == 204
        tab.until("livebrush.state === 'reconnecting'")


def test_who_may_only_look_sees_the_picture_and_no_controls(stage: Stage, server: Observed, live: Tab) -> None:
    with opened(stage, server, stubs={"/api/me": {"role": "view"}}) as tab:
        tab.shown()
        tab.until("livebrush.state === 'painting'")
        assert tab.livebrush("role") == "view"
        assert not tab.page.is_visible("#panel")
        assert not any(tab.page.is_visible(f"#start-{kind}") for kind in ("camera", "screen", "file", "testcard"))
        assert tab.page.is_visible("#fullscreen")
        tab.page.evaluate("() => livebrush.set('strength', 0.9)")
        tab.wait(0.3)
        assert held(tab)["strength"] == 0.4


def test_view_shows_a_session_by_name_with_its_sound(stage: Stage, server: Observed, live: Tab) -> None:
    with page(stage.browser(), f"{server.url}/view?session=live&fit=cover&background=black") as tab:
        tab.shown()
        tab.until("document.getElementById('picture').srcObject.getAudioTracks().length === 1")
        tab.until("!document.getElementById('picture').muted")
        style = tab.page.evaluate("""() => {
            const fit = getComputedStyle(document.getElementById("picture")).objectFit;
            return [fit, getComputedStyle(document.body).backgroundColor];
        }""")
        assert style == ["cover", "rgb(0, 0, 0)"]
        assert not tab.errors


def test_view_offers_sound_where_the_browser_wants_a_press(stage: Stage, server: Observed, live: Tab) -> None:
    wants = """let pressed = false;
    addEventListener("pointerdown", () => (pressed = true), true);
    const play = HTMLMediaElement.prototype.play;
    HTMLMediaElement.prototype.play = function () {
        return this.muted || pressed ? play.call(this) : Promise.reject(new DOMException("press", "NotAllowedError"));
    };"""
    with page(stage.browser(), f"{server.url}/view?session=live", script=wants) as tab:
        tab.shown()
        tab.until("!document.getElementById('sound').hidden")
        assert tab.page.evaluate("() => document.getElementById('picture').muted")
        tab.page.click("#sound")
        assert not tab.page.evaluate("() => document.getElementById('picture').muted")
        assert not tab.page.is_visible("#sound")


def test_view_waits_for_a_session_without_using_up_the_offers(stage: Stage, server: Observed, live: Tab) -> None:
    """Offers are counted by address, and whoever has OBS open on this machine has the page open too."""
    offers: list[str] = []
    with page(stage.browser()) as tab:
        tab.page.on("request", lambda request: request.method == "POST" and offers.append(request.url))
        tab.page.goto(f"{server.url}/view?session=soon")
        tab.until("document.getElementById('notice').innerText.includes('Nothing is on')")
        tab.wait(3)
        assert len(offers) == 1
        live.page.evaluate(PUBLISH.replace("/whip/live", "/whip/soon").replace("window.publisher", "window.third"))
        tab.shown()
        live.page.evaluate("() => third.close()")
        tab.wait(8)  # more than may pass without a picture that somebody sends
        assert len(offers) == 2
        assert tab.page.evaluate("async () => (await fetch('/api/sessions/soon', { method: 'DELETE' })).status") == 204


def test_nothing_is_written_on_air(stage: Stage, server: Observed) -> None:
    with page(stage.browser(), f"{server.url}/view?session=nobody") as tab:
        tab.until("document.getElementById('notice').innerText.includes('Nothing is on')")
        tab.page.goto(f"{server.url}/view?session=nobody&notice=0")
        tab.until("document.getElementById('notice').textContent")
        assert not tab.page.is_visible("#notice")


# ------------------------------------------------------------------------------------------------- people

PAGES = "async () => (await (await fetch('/api/sessions')).json()).sessions.filter((s) => !s.name).length"
FILL = """async (count) => {
    window.taken = [];
    for (let k = 0; k < count; k++) {
        const peer = new RTCPeerConnection();
        peer.createDataChannel("control");
        peer.addTransceiver("video");
        await peer.setLocalDescription();
        const answer = await fetch("/api/sessions", {
            method: "POST", headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ sdp: peer.localDescription.sdp, source: "page" }),
        });
        if (!answer.ok) break;
        taken.push((await answer.json()).id);
    }
    return taken.length;
}"""


def test_the_queue_is_plain_to_see_and_to_leave(stage: Stage, server: Observed) -> None:
    with page(stage.browser(), f"{server.url}/view?session=nobody") as crowd, opened(stage, server) as tab:
        limit = page_facts(server)["limits"]["sessions"]
        for _ in range(100):  # pages of other tests may still be leaving
            if not crowd.page.evaluate(PAGES):
                break
            crowd.wait(0.1)
        assert crowd.page.evaluate(FILL, limit) == limit
        tab.page.click("#start-testcard")
        tab.until("livebrush.state === 'queued'")
        assert tab.page.inner_text("#place") == "1"
        assert "places are taken" in tab.page.inner_text("#queue")
        assert not tab.page.is_visible("#notice")
        tab.page.click("#leave-queue")
        assert tab.livebrush("state") == "idle"
        assert not tab.page.is_visible("#queue")
        tab.page.click("#start-testcard")
        tab.until("livebrush.state === 'queued'")
        crowd.page.evaluate("() => Promise.all(taken.map((id) => fetch(`/api/sessions/${id}`, { method: 'DELETE' })))")
        tab.until("livebrush.state === 'painting'")
        assert not tab.page.is_visible("#queue")


def test_who_is_not_known_any_more_is_led_to_the_login(stage: Stage, server: Observed) -> None:
    refusal = (401, {"error": "this needs the role control: send a token (Authorization: Bearer ...)"})
    with opened(stage, server) as tab:
        tab.page.route("**/api/sessions", lambda route: route.fulfill(status=401, json=refusal[1]))
        tab.page.click("#start-testcard")
        tab.until("livebrush.state === 'refused'")
        tab.page.unroute("**/api/sessions")
        with tab.page.expect_navigation():
            tab.page.click("text=Sign in")
    with page(stage.browser()) as tab:
        stub(tab, "/api/schema", refusal)
        tab.page.goto(f"{server.url}/")
        tab.until("document.getElementById('notice').innerText.includes('token')")
        tab.page.unroute("**/api/schema")
        tab.page.click("text=Sign in")
        tab.until("window.livebrush")


def test_the_time_that_is_left_is_shown(stage: Stage, server: Observed) -> None:
    with opened(stage, server) as tab:
        painting(tab)
        assert not tab.page.is_visible("#left")
        say(tab, tab.livebrush("stats") | {"type": "stats", "ends_in_s": 95.0})
        assert tab.page.inner_text("#left") == "1:35 left"


def say(tab: Tab, message: dict[str, Any]) -> None:
    """The page hears that from the server."""
    tab.page.evaluate("message => probe.channels.at(-1).onmessage({ data: JSON.stringify(message) })", message)


def test_a_phone_comes_in_by_a_code(stage: Stage, server: Observed) -> None:
    code = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0h9v9H0z"/></svg>'
    with opened(stage, server, stubs={"/qr.svg": code}) as tab:
        tab.page.keyboard.press("q")
        tab.until("document.querySelector('#phone .code').naturalWidth > 0")
        tab.page.keyboard.press("Escape")
        tab.until("!document.getElementById('phone').open")


def test_a_page_out_of_sight_says_so_within_a_second(stage: Stage, server: Observed) -> None:
    with opened(stage, server) as tab:
        painting(tab)
        took = tab.page.evaluate("""() => new Promise((done) => {
            const began = performance.now();
            const channel = probe.channels.at(-1);
            const send = channel.send.bind(channel);
            channel.send = (text) => {
                send(text);
                if (JSON.parse(text).type === "hidden") done(performance.now() - began);
            };
            Object.defineProperty(document, "hidden", { value: true, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        })""")
        assert took < 1000


# ------------------------------------------------------------------------------------------------- the server's own

BEAT = {"bpm": 120.0, "position": 3.5, "running": True, "lead": "tap"}
KINDS = {"outputs": [
    {"kind": "virtualcam", "form": "virtualcam, virtualcam:NAME", "about": "a camera", "usable": True, "why": None},
    {"kind": "srt", "form": "srt://HOST:PORT", "about": "MPEG-TS over SRT", "usable": True, "why": None},
    {"kind": "ndi", "form": "ndi:NAME", "about": "an NDI source", "usable": False, "why": "cyndilib is not installed"},
]}  # fmt: skip


@pytest.mark.alone
def test_settings_follow_a_beat(stage: Stage, server: Observed) -> None:
    with opened(stage, server, stubs={"/api/beat": BEAT}) as tab:
        painting(tab)
        section(tab, "beat")
        assert tab.page.input_value("#bpm") == "120"
        sent = "window.sent = []; const channel = probe.channels.at(-1), send = channel.send.bind(channel);"
        tab.page.evaluate(f"() => {{ {sent} channel.send = (text) => sent.push(JSON.parse(text)); }}")
        tab.page.evaluate("() => document.activeElement.blur()")
        tab.page.keyboard.press("t")
        tab.page.click("[aria-label='Strength follows the beat']")
        tab.page.select_option("#follow-shape", "saw")
        tab.page.fill("#follow-low", "0.2")
        tab.page.click("#follow button:text-is('Follow')")
        steered = [m for m in tab.page.evaluate("() => sent") if m["type"] in ("tap", "follow")]
        follow = {"shape": "saw", "beats": 4, "low": 0.2, "high": 1}
        assert steered == [{"type": "tap"}, {"type": "follow", "setting": "strength", "follow": follow}]
        say(tab, {"type": "follows", "follows": {"strength": follow | {"phase": 0}}})
        assert tab.page.get_attribute("[aria-label='Strength follows the beat']", "aria-pressed") == "true"
        tab.page.click("[aria-label='strength follows no longer']")
        tab.until("sent.some((m) => m.type === 'follow' && m.follow === null)")
        say(tab, {"type": "beat", **BEAT, "bpm": 93.4, "lead": "midi"})
        assert tab.page.input_value("#bpm") == "93.4"


def test_outputs_are_started_and_stopped_and_say_how_they_go(stage: Stage, server: Observed) -> None:
    asked: list[tuple[str, Any]] = []
    runs: list[dict[str, Any]] = []

    def answer(route: Any) -> None:
        request = route.request
        asked.append((request.method, request.post_data_json if request.method == "POST" else request.url))
        if request.method == "DELETE":
            runs.clear()
        route.fulfill(status=204 if request.method == "DELETE" else 200, json={"outputs": runs})

    with opened(stage, server, stubs={"/api/outputs": KINDS}) as tab:
        tab.page.route("**/api/sessions/*/outputs**", answer)
        tab.page.route("**/api/sessions/*/outputs/*", answer)
        painting(tab)
        section(tab, "outputs")
        assert tab.page.input_value("#output-where") == "virtualcam"
        tab.page.select_option("#output-kind", "srt")
        assert tab.page.input_value("#output-where") == "srt://"
        tab.page.fill("#output-where", "srt://there:9000")
        tab.page.click("[data-section=outputs] button:text-is('Start')")
        tab.until("document.getElementById('output-where').value === 'srt://'")
        assert ("POST", {"to": "srt://there:9000"}) in asked
        runs.append({"id": "a1", "to": "srt://there:9000", "kind": "srt", "state": "waiting", "error": "nobody answers",
                     "frames": 0, "dropped": 0, "since_s": 1.0})  # fmt: skip
        say(tab, {"type": "outputs", "outputs": runs})
        assert "Nobody answers." in tab.page.inner_text("[data-section=outputs] .bound")
        tab.page.click("[aria-label='Stop srt://there:9000']")
        tab.until("!document.querySelector('[data-section=outputs] .bound li')")
        assert any(method == "DELETE" and url.endswith("/outputs/a1") for method, url in asked)
        assert "cyndilib" in tab.page.text_content("[data-section=outputs] .why")


def test_an_admin_chooses_a_source_of_the_server(stage: Stage, server: Observed) -> None:
    sources = {"sources": [{"name": "camera:0", "title": "Front desk", "kind": "camera"}]}
    asked = []
    with opened(stage, server, stubs={"/api/sources": sources}) as tab:

        def answer(route: Any) -> None:
            asked.append(route.request.post_data_json["source"])
            route.fulfill(status=422, json={"error": "no such source"})

        tab.page.route("**/api/sessions", answer)
        tab.page.click("#start-server")
        tab.page.click("text=Front desk")
        tab.until("livebrush.state === 'refused'")
        tab.page.click("#start-server")
        tab.page.fill("#remote-address", "rtsp://camera/1")
        tab.page.keyboard.press("Enter")
        for _ in range(100):
            if len(asked) > 1:
                break
            tab.wait(0.05)
        assert asked == ["camera:0", "rtsp://camera/1"]


@pytest.mark.alone
def test_a_setting_follows_the_servers_beat_until_a_hand_moves_it(stage: Stage, server: Observed) -> None:
    wave = "[aria-label='Strength follows the beat']"
    with opened(stage, server) as tab:
        painting(tab)
        tab.page.click(wave)
        tab.page.select_option("#follow-beats", "1")
        tab.page.click("#follow button:text-is('Follow')")
        tab.until(f"document.querySelector({wave!r}).getAttribute('aria-pressed') === 'true'")
        seen = set()
        for _ in range(100):
            seen.add(tab.livebrush("settings.strength"))
            if len(seen) > 4:
                break
            tab.wait(0.1)
        assert len(seen) > 4
        slide(tab, "#set-strength", 0.5)
        tab.until(f"document.querySelector({wave!r}).getAttribute('aria-pressed') === 'false'")
        holds_there(tab, "strength", 0.5)


@pytest.mark.alone
def test_a_look_of_the_server_is_reached_over_seconds(stage: Stage, server: Observed) -> None:
    with opened(stage, server) as tab:
        painting(tab)
        looks = tab.page.evaluate("async () => (await (await fetch('/api/presets')).json()).presets")
        look = next(look for look in looks if look["settings"].get("strength", 0.4) != 0.4)
        section(tab, "presets")
        slide(tab, "#set-morph", 1)
        tab.page.click(f".shelf .chip:text-is('{look['name']}')")
        tab.until(f"livebrush.settings.strength === {look['settings']['strength']}")
        tab.until(f"livebrush.settings.prompt === {json.dumps(look['settings']['prompt'])}")
        holds_there(tab, "strength", look["settings"]["strength"])


def test_a_recording_of_the_server_runs_and_is_ended(stage: Stage, server: Observed, tmp_path: Path) -> None:
    rows = "[data-section=outputs] .bound li"
    with opened(stage, server) as tab:
        painting(tab)
        section(tab, "outputs")
        tab.page.select_option("#output-kind", "record")
        tab.page.fill("#output-where", f"record:{tmp_path}/show.mp4")
        tab.page.keyboard.press("Enter")
        tab.until(f"document.querySelector('{rows}[data-state=running]')", 30)
        tab.page.click("[aria-label^='Stop ']")
        tab.until(f"!document.querySelector('{rows}')")
        tab.page.fill("#output-where", "nonsense")
        tab.page.keyboard.press("Enter")
        tab.until("document.querySelector('[data-section=outputs] .fields > .note').textContent.includes('nonsense')")
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]


# ------------------------------------------------------------------------------------------------- for everybody

NAMES = """() => {
    const named = (x) => x.getAttribute("aria-label") || x.innerText.trim() || x.labels?.length
        || x.getAttribute("aria-labelledby") && document.getElementById(x.getAttribute("aria-labelledby"))?.textContent;
    const kinds = "button, a[href], input, select, textarea, summary, [role=slider], dialog, video";
    const all = [...document.querySelectorAll(kinds)];
    const ids = [...document.querySelectorAll("[id]")].map((x) => x.id);
    const refers = (name) => [...document.querySelectorAll(`[${name}]`)]
        .flatMap((x) => x.getAttribute(name).split(" ")).filter((id) => !document.getElementById(id));
    const said = (x) => x.innerText.trim().toLowerCase();
    return {
        nameless: all.filter((x) => !named(x)).map((x) => x.outerHTML.slice(0, 90)),
        differ: [...document.querySelectorAll("button[aria-label]")].filter((x) => said(x)
            && !x.getAttribute("aria-label").toLowerCase().includes(said(x))).map((x) => x.outerHTML.slice(0, 90)),
        twice: ids.filter((id, k) => ids.indexOf(id) !== k),
        order: [...document.querySelectorAll("[tabindex]")].filter((x) => x.tabIndex > 0).length,
        lost: ["for", "aria-controls", "aria-describedby", "aria-labelledby"].flatMap(refers),
        pictures: [...document.querySelectorAll("img:not([alt])")].length,
    };
}"""
EVERYTHING = {"/api/beat": BEAT, "/api/outputs": KINDS, "/api/presets": (404, {})}


def test_everything_has_a_name_and_refers_to_what_is_there(stage: Stage, server: Observed) -> None:
    with opened(stage, server, stubs=EVERYTHING) as tab:
        painting(tab)
        for name in ("presets", "beat", "surfaces", "outputs"):
            section(tab, name)
        tab.page.click("#show-blend")
        tab.page.click("[aria-label='Strength follows the beat']")
        found = tab.page.evaluate(NAMES)
        assert found == {"nameless": [], "differ": [], "twice": [], "order": 0, "lost": [], "pictures": 0}


def test_the_whole_page_is_reached_by_the_keyboard_in_the_order_of_the_eye(stage: Stage, server: Observed) -> None:
    with opened(stage, server, stubs=EVERYTHING) as tab:
        painting(tab)
        for name in ("presets", "surfaces"):
            section(tab, name)
        tab.page.evaluate("() => { document.activeElement.blur(); getSelection().removeAllRanges(); }")
        tab.page.focus(".skip")
        seen: list[str] = []
        for _ in range(90):
            tab.page.keyboard.press("Tab")
            seen.append(tab.page.evaluate("""() => {
                const x = document.activeElement;
                return x.id || x.dataset.section || x.getAttribute("aria-label") || x.textContent.trim().slice(0, 30);
            }"""))  # fmt: skip
        wanted = ["share", "show-help", "start-camera", "compare", "stop", "prompt", "set-strength", "Presets",
                  "set-morph", "preset-name", "learn-what", "Outputs", "More", "reset"]  # fmt: skip
        missing = [name for name in wanted if name not in seen]
        assert not missing, "\n".join(seen)
        places = [seen.index(name) for name in wanted]
        assert places == sorted(places), "\n".join(seen)


@pytest.mark.parametrize("size", [(1280, 800), (1024, 700), (390, 844)])
def test_nothing_sticks_out_of_the_window(stage: Stage, server: Observed, size: tuple[int, int]) -> None:
    with opened(stage, server, stubs=EVERYTHING, viewport={"width": size[0], "height": size[1]}) as tab:
        painting(tab)
        for name in ("presets", "beat", "surfaces", "outputs"):
            section(tab, name)
        tab.page.click("#show-blend")
        out = tab.page.evaluate("""() => [...document.querySelectorAll(
            ".tools > *, .sources > *, .panel button, .panel input, .panel select")]
            .filter((x) => x.checkVisibility() && !x.closest(".chips")).map((x) => [x, x.getBoundingClientRect()])
            .filter(([, box]) => box.left < -1 || box.right > innerWidth + 1).map(([x]) => x.outerHTML.slice(0, 80))""")
        assert not out


def test_a_page_without_any_camera_still_offers_the_rest(stage: Stage, server: Observed) -> None:
    with chromium(stage.driver, without=[ALLOWED, FAKED]) as browser, page(browser, f"{server.url}/") as tab:
        tab.until(READY)
        section(tab, "presets")
        assert tab.page.is_visible("#preset-name")
        assert quiet(tab), tab.errors
