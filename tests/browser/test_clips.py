"""The page of clips: a clip of two segments made on it, seen while it is made and after; another one cancelled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import clipfakes
import pytest
from clipfakes import FILES, command, plans
from webrig import Served, served

from stream.clips.caretaker import Caretaker
from stream.clips.planner import Planner
from stream.clips.queue import Queue
from tools.chromium import Tab, page
from tools.stage import Stage
from web.clips import Clips
from web.orders import Rules

pytestmark = pytest.mark.beside
TESTS = Path(__file__).parents[1]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
MADE = "clips.jobs.videos.filter(v => v.status === 'completed').length"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose back end draws."""
    before = dict(clipfakes.FAMILIES)
    clipfakes.stand_in()
    with pytest.MonkeyPatch.context() as patch, Queue(tmp_path_factory.mktemp("clips")) as queue:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        rules = Rules({"pan": "to one side", "zoom": "into it"}, frozenset(), ("drawing",))
        caretaker = Caretaker(queue, lambda q: command(q, FILES))
        with served(clips=Clips(queue, rules, caretaker=caretaker, planner=Planner(plans()))) as server:
            yield server
    clipfakes.FAMILIES.clear()
    clipfakes.FAMILIES.update(before)


@pytest.fixture
def tab(stage: Stage, running: Served) -> Iterator[Tab]:
    with page(stage.browser(), f"{running.url}/clips") as tab:
        tab.until("window.clips && document.querySelector('#plan').textContent", 60)
        yield tab


def test_a_clip_is_edited_seen_made_and_opened_again_and_another_cancelled(tab: Tab, running: Served) -> None:
    ask = tab.page
    ask.fill("#prompt", "slow 0.5")
    ask.fill("[data-name=frames] input", "32")
    ask.keyboard.press("Tab")
    ask.focus("[role=slider][aria-label^=Border]")
    ask.keyboard.press("PageUp")
    box = ask.locator("[role=slider][aria-label^=Border]").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + 30
    ask.mouse.move(x, y)
    ask.mouse.down()
    ask.mouse.move(x - 60, y, steps=6)
    dragged = tab.page.evaluate("() => clips.editor.clip.segments[0].end")
    ask.mouse.move(x, y, steps=6)
    ask.mouse.up()
    ask.mouse.move(x + 60, y)
    assert dragged < 24, "it is dragged, back again, and let go"
    ask.click("#add-key")
    ask.keyboard.type("ink")
    tab.until("document.querySelector('#plan').textContent.startsWith('32 frames, 64x64 at 8')")
    assert [s["end"] for s in tab.page.evaluate("() => clips.editor.clip.segments")] == [24, 32]
    ask.click("#render")
    tab.until("!document.querySelector('#preview').hidden && document.querySelector('#preview').naturalWidth === 64")
    tab.until("document.querySelector('#jobs progress')?.value > 0")
    tab.until(f"{MADE} === 1", 60)
    tab.until("document.querySelector('#player').readyState >= 2 && !document.querySelector('#player').paused")
    assert tab.page.evaluate("() => [player.loop, player.videoWidth, Math.round(player.duration)]") == [True, 64, 4]
    (video,) = running.http.get("/v1/videos").json()["data"]
    first, second = video["timeline"]["segments"]
    assert [key["prompt"] for key in first["keys"]] == ["slow 0.5", "ink"]
    assert (first["motion"], second["motion"], second["prompt"]) == ("pan", "zoom", "slow 0.5")
    ask.fill("#prompt", "something else")
    ask.click("#gallery [aria-label='Open in the editor']")
    tab.until("document.querySelector('#prompt').value === 'slow 0.5'")
    ask.fill("#prompt", "slow 20")
    ask.click("#render")
    tab.until("clips.jobs.videos.some(v => v.stage === 'denoise')")
    ask.click("#jobs [aria-label=Cancel]")
    tab.until("document.querySelector('#jobs .state')?.textContent === 'it was cancelled'")
    for _ in range(2):
        ask.click("#jobs [aria-label*=elete]")
    tab.until("!document.querySelector('#jobs li')")
    assert not tab.errors


def test_what_is_wrong_is_said_beside_its_field(tab: Tab) -> None:
    ask = tab.page
    ask.click("#lane button:nth-of-type(1)")
    ask.fill("[data-name=fade] input", "200")
    ask.keyboard.press("Tab")
    tab.until("document.querySelector('[data-name=fade] .wrong')?.textContent.includes('fade')")
    assert ask.get_attribute("[data-name=fade] input", "aria-invalid") is not None
    ask.fill("[data-name=fade] input", "")
    ask.fill("[data-name=fps] input", "no rate")
    tab.until("document.querySelector('[data-name=fps] .wrong')?.textContent.includes('is no rate')")
    assert not tab.page.is_visible("#wrong")


def test_it_fits_a_phone_and_leads_to_the_live_page_and_back(stage: Stage, running: Served) -> None:
    with page(stage.browser(), f"{running.url}/clips", **PHONE) as tab:
        tab.until("window.clips && document.querySelector('#plan').textContent", 60)
        wide = "document.documentElement.scrollWidth"
        assert tab.page.evaluate(f"() => {wide}") == 390
        small = """() => [...document.querySelectorAll('main :is(button, select, input:not(.unseen))')]
            .filter(e => e.offsetParent && e.getBoundingClientRect().height < 24).map(e => e.outerHTML)"""
        assert tab.page.evaluate(small) == []
        tab.page.click("nav a")
        tab.until("window.livebrush")
        tab.page.click("#clips")
        tab.until("window.clips")
        assert not tab.errors
