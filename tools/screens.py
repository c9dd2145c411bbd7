"""Pictures of the page for the README, taken from the page itself: `python -m tools.screens live|obs|clips [FOLDER]`.

The built-in model paints a camera that shows a photo from the test set, slowly moved. Look at them before they go in.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stream.frame import Image
from tools.builtin.pictures import photo, square
from tools.chromium import Tab, chromium, driver, page
from tools.observed import Observed, observed
from tools.peers import ask
from tools.stage import address

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

IMAGES = Path(__file__).parents[1] / "docs" / "img"
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True,
                         "is_mobile": True}  # fmt: skip
SIDE, FRAMES = 512, 90
PROMPT, OTHER = "watercolor painting", "oil painting"
LIMIT = 100_000  # bytes of a picture
QUEUED = {"error": "all 6 places are taken: yours is number 2 in the queue",
          "queue": {"ticket": "t", "place": 2, "retry_after_s": 60}}  # fmt: skip


def person(path: Path) -> Path:
    """A camera in which someone moves a little, as a .y4m file."""
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{SIDE} H{SIDE} F30:1 Ip A1:1 C420\n".encode())
        for image in swaying(square(photo("astronaut"), SIDE + 64)):
            file.write(b"FRAME\n" + cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path


def swaying(picture: Image) -> Iterator[Image]:
    """A window that wanders over a picture, and comes back to where it began."""
    for k in range(FRAMES):
        angle = 2 * np.pi * k / FRAMES
        x, y = round(32 + 28 * np.sin(angle)), round(32 + 14 * np.cos(angle))
        yield np.ascontiguousarray(picture[y : y + SIDE, x : x + SIDE])


def taken(tab: Tab, path: Path, part: Locator | None = None) -> None:
    """A picture of the page, or of a part of it, as good as it can be within `LIMIT` bytes."""
    for quality in range(88, 40, -6):
        made = (part or tab.page).screenshot(type="jpeg", quality=quality)
        if len(made) <= LIMIT:
            break
    path.write_bytes(made)
    print(path)  # noqa: T201 (a tool's only output)


def painting(tab: Tab, server: Observed, prompt: str) -> None:
    """The page, painting `prompt` for a while."""
    tab.page.goto(address(server))
    tab.shown()
    tab.set("prompt", prompt)
    tab.until("livebrush.state === 'painting' && livebrush.latency.count > 20 && livebrush.painted > 100", 90)
    tab.wait(1.5)


def desktop(browser: Browser, server: Observed, folder: Path) -> None:
    """Before the start, painting, compared, and just after the worker's death."""
    with page(browser, f"{server.url}/", **DESKTOP) as tab:
        tab.until("window.livebrush")
        tab.wait(0.5)
        taken(tab, folder / "page-start.jpg")
    with page(browser, **DESKTOP) as tab:
        painting(tab, server, PROMPT)
        faded(tab, OTHER, 30)
        taken(tab, folder / "page.jpg")
        sections(tab, folder / "page-sections.jpg")
        tab.page.click("#show-blend")
        tab.wait(1.0)
        tab.page.click("#compare")
        tab.page.click("#show-overlay")
        tab.page.mouse.move(640, 20)  # away, or its name stays
        tab.wait(1.0)
        taken(tab, folder / "page-compare.jpg")
        tab.page.click("#compare")
        os.kill(server.worker(), signal.SIGKILL)
        tab.until("livebrush.state === 'restarting'")
        tab.wait(0.3)
        taken(tab, folder / "page-restarting.jpg")
    server.ready()


def faded(tab: Tab, other: str, percent: int) -> None:
    """So much of another prompt in the picture."""
    tab.page.click("#show-blend")
    tab.page.fill("#prompt-b", other)
    tab.page.focus("#fader")
    for _ in range(percent):
        tab.page.keyboard.press("ArrowRight")
    tab.page.evaluate("() => document.activeElement.blur()")
    tab.wait(1.5)


def sections(tab: Tab, path: Path) -> None:
    """What the panel has below the settings."""
    tab.until("document.body.dataset.extras")
    for name in ("beat", "surfaces", "outputs"):
        tab.page.evaluate("name => { document.querySelector(`[data-section=${name}]`).open = true; }", name)
    tab.page.evaluate("() => document.querySelector('#beat').scrollIntoView()")
    tab.wait(0.5)
    taken(tab, path, tab.page.locator("#panel"))
    tab.page.evaluate("() => document.querySelector('.scroll').scrollTo(0, 0)")


def queued(browser: Browser, server: Observed, folder: Path) -> None:
    """No place is free: the page of the second who waits."""
    with page(browser, **DESKTOP) as tab:
        tab.page.route("**/api/sessions", lambda route: route.fulfill(status=503, json=QUEUED))
        tab.page.goto(address(server))
        tab.until("window.livebrush?.state === 'queued'")
        tab.wait(1.0)
        taken(tab, folder / "page-queue.jpg")


def phone(browser: Browser, server: Observed, folder: Path) -> None:
    """Painting on a phone."""
    with page(browser, **PHONE) as tab:
        painting(tab, server, OTHER)
        taken(tab, folder / "page-phone.jpg")


def obs(browser: Browser, server: Observed, folder: Path, place: Path) -> None:
    """What stands without a page: joined from one, with its outputs, and as OBS' Browser Source sees it."""
    asked = {"source": str(place / "person.y4m"), "settings": {"prompt": PROMPT}}
    ask(server.url, "PUT", "/api/sessions/live", asked)
    for to in ("ndi:Livebrush", f"record:{place}/show.mp4", "udp://127.0.0.1:9000"):
        ask(server.url, "POST", "/api/sessions/live/outputs", {"to": to})
    with page(browser, f"{server.url}/?session=live", **DESKTOP) as tab:
        tab.until("window.livebrush && livebrush.state === 'painting'", 60)
        tab.until("document.querySelectorAll('#outputs li[data-state=running]').length === 3", 60)
        tab.page.evaluate(
            "() => { const s = document.querySelector('#outputs details'); s.open = true; s.scrollIntoView(); }"
        )
        tab.until("livebrush.stats.fps_out > 5", 30)
        tab.wait(3.0)
        taken(tab, folder / "obs-outputs.jpg")
    with page(browser, f"{server.url}/view?session=live", viewport={"width": SIDE, "height": SIDE}) as tab:
        tab.until("document.querySelector('#picture').classList.contains('live')", 30)
        tab.wait(1.0)
        taken(tab, folder / "obs-view.jpg")


def clips(browser: Browser, server: Observed, folder: Path, place: Path) -> None:
    """The page of clips while a photo is made into one, and after, on a phone."""
    picture = place / "astronaut.png"
    cv2.imwrite(str(picture), square(photo("astronaut"), SIDE)[..., ::-1])
    with page(browser, f"{server.url}/clips", **DESKTOP) as tab:
        tab.until("window.clips && document.querySelector('#plan').textContent", 120)
        tab.page.set_input_files("[data-name=input] input", picture)
        tab.page.fill("[data-name=frames] input", "32")
        tab.page.keyboard.press("Tab")
        tab.page.click("#add-key")
        rendered(tab, OTHER, "blueprint")
        tab.page.fill("#prompt", PROMPT)
        tab.page.fill("[data-name^=keys] input", "pop art")
        tab.page.click("#render")
        tab.until("clips.jobs.videos.some(v => v.preview && v.progress > 50)", 1800)
        tab.until("document.querySelector('#preview').naturalWidth > 0")
        tab.page.evaluate("() => document.querySelector('.scroll').scrollTo(0, 0)")
        tab.wait(0.3)
        taken(tab, folder / "clips-page.jpg")
        tab.until("clips.jobs.videos.every(v => v.status === 'completed')", 1800)
    with page(browser, f"{server.url}/clips", **PHONE) as tab:
        tab.until("window.clips && document.querySelector('#gallery .look')", 120)
        tab.page.fill("#prompt", OTHER)
        tab.page.click("#gallery .look")
        tab.until("document.querySelector('#player').readyState >= 2")
        tab.page.evaluate("() => scrollTo(0, 0)")
        tab.wait(1.5)
        taken(tab, folder / "clips-phone.jpg")


def rendered(tab: Tab, prompt: str, key: str) -> None:
    """A clip of that prompt, which becomes another in its first segment."""
    made = "clips.jobs.videos.filter(v => v.status === 'completed').length"
    before = tab.page.evaluate(f"() => {made}")
    tab.page.fill("#prompt", prompt)
    tab.page.fill("[data-name^=keys] input", key)
    tab.page.click("#render")
    tab.until(f"{made} > {before}", 1800)


def main(what: str = "live", folder: Path = IMAGES) -> None:
    """All of the live page, or of the page of clips."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, driver() as started:
        film, queue = Path(place) / "person.y4m", Path(place) / "clips"
        with observed(model="builtin", clips=str(queue)) as server, chromium(started, person(film)) as browser:
            if what == "obs":
                obs(browser, server, folder, Path(place))
                return
            if what == "clips":
                clips(browser, server, folder, Path(place))
                return
            desktop(browser, server, folder)
            phone(browser, server, folder)
            queued(browser, server, folder)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(Path, sys.argv[2:]))
