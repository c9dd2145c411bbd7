"""Chromium with a camera of our own, and pages whose videos are watched by `tools/probe.js`.

with driver() as started, chromium(started, write_y4m(path)) as browser, page(browser, url) as tab:
    tab.watch("camera", "picture")
    rows = tab.take(2.0)["picture"]
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.errors import LivebrushError
from stream.frame import Image
from tools.barcode import LAYOUT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Playwright

Row = dict[str, Any]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
ALLOWED = "--use-fake-ui-for-media-stream"  # the camera is given without asking
FAKED = "--use-fake-device-for-media-stream"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", ALLOWED, FAKED,
    # nobody looks at a page of ours, and it is to go on all the same
    "--disable-renderer-backgrounding", "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
TITLE = "A picture to be shared"
SHOWN = """<title>{title}</title>
<style>
  body {{ margin: 0 }}
  img {{ display: block; width: 100vw }}
  i {{ position: fixed; width: 4px; height: 4px; animation: blink 0.1s infinite }}  /* else nothing is captured anew */
  @keyframes blink {{ 50% {{ background: grey }} }}
</style>
<i></i><img src="data:image/png;base64,{png}">"""
PROBE = Path(__file__).with_name("probe.js")


class NoBrowserError(LivebrushError):
    """No Chromium, or no Playwright to drive it."""


def find(started: Playwright | None = None) -> str:
    """Path of a Chromium; NoBrowserError where there is none. `LIVEBRUSH_CHROMIUM` names one.

    With `started` also the one that Playwright has downloaded.
    """
    own = started.chromium.executable_path if started else ""
    candidates = [os.environ.get("LIVEBRUSH_CHROMIUM"), *map(shutil.which, NAMES), *PLACES, own]
    found = next((c for c in candidates if c and Path(c).exists()), None)
    if found is None:
        raise NoBrowserError("no Chromium found: install one (apt install chromium), or name it in LIVEBRUSH_CHROMIUM")
    return found


@contextmanager
def driver() -> Iterator[Playwright]:
    """What starts browsers; one at a time in a thread, and no event loop beside it."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowserError("no Playwright found: pip install 'livebrush[test]'") from None
    with sync_playwright() as started:
        yield started


@contextmanager
def chromium(started: Playwright, camera: Path | None = None, *, without: Sequence[str] = (),
             more: Sequence[str] = (), program: str = "") -> Iterator[Browser]:  # fmt: skip
    """A browser whose camera plays `camera` (a .y4m file; None: Chromium's own test picture), with `more` flags.

    `without` names flags to leave out: without ALLOWED a page that asks for the camera is refused; without FAKED there
    is no camera. `program` is executed in place of the Chromium that is found.
    """
    chosen = [*(flag for flag in FLAGS if flag not in without), *more]
    if camera is not None:
        chosen.append(f"--use-file-for-fake-video-capture={camera}")
    browser = started.chromium.launch(executable_path=program or find(started), headless=True, args=chosen)
    try:
        yield browser
    finally:
        browser.close()


class Tab:
    """A page under the probe. `errors` holds what its scripts threw and what its console called an error."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)

    def watch(self, *videos: str) -> None:
        self.page.evaluate("ids => probe.watch(...ids)", list(videos))

    def take(self, seconds: float = 0.0) -> dict[str, list[Row]]:
        """What the watched videos showed since the last call, after `seconds` more."""
        self.wait(seconds)
        rows: dict[str, list[Row]] = self.page.evaluate("() => probe.take()")
        return rows

    def wait(self, seconds: float) -> None:
        if seconds:
            self.page.wait_for_timeout(seconds * 1000)

    def until(self, expression: str, seconds: float = 30.0) -> Any:
        """Waits for a JavaScript expression to hold; its value. TimeoutError where it does not.

        Asks from here: the page's own rules forbid the evaluation of strings inside it.
        """
        deadline = time.monotonic() + seconds
        while not (value := self.page.evaluate(f"() => ({expression})")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} does not hold after {seconds:g} s; the page's errors: {self.errors}")
            self.page.wait_for_timeout(20)
        return value

    def now(self) -> float:
        """The page's clock, in ms."""
        return float(self.page.evaluate("() => performance.now()"))

    def origin(self) -> float:
        """What the page's clock counts from, in ms of the wall clock as it is now: that one is set from time to time,
        and `performance.timeOrigin` stays."""
        return float(self.page.evaluate("() => Date.now() - performance.now()"))

    def patches(self, video: str) -> NDArray[np.float64]:
        """Mean colours of the six patches in what a video shows."""
        return np.array(self.page.evaluate("id => probe.patches(id)", video), dtype=np.float64)

    def stats(self, kind: str) -> list[Row]:
        """The reports of one type (`outbound-rtp`, ...) of the page's last connection."""
        return [r for r in self.page.evaluate("() => probe.stats()") if r["type"] == kind]

    def set(self, name: str, value: Any) -> None:
        """Changes a setting, as the page's own controls do."""
        self.page.evaluate("([name, value]) => { window.livebrush.set(name, value); }", [name, value])

    def livebrush(self, what: str) -> Any:
        """`window.livebrush.<what>`, the page's own word."""
        return self.page.evaluate(f"() => window.livebrush.{what}")

    def shown(self, seconds: float = 30.0) -> None:
        """Waits for the first picture that is there to be seen."""
        self.until("document.getElementById('picture')?.videoWidth > 0 "
                   "&& document.getElementById('picture').readyState >= 2", seconds)  # fmt: skip


@contextmanager
def opened(context: BrowserContext, url: str = "", *, script: str = "") -> Iterator[Tab]:
    """A page of a context under the probe, at `url`; `script` runs before the page's own."""
    page = context.new_page()
    try:
        page.add_init_script(f"({PROBE.read_text()})({json.dumps(LAYOUT)});\n{script}")
        tab = Tab(page)
        if url:
            page.goto(url)
        yield tab
    finally:
        page.close()


@contextmanager
def screen(started: Playwright, image: Image) -> Iterator[BrowserContext]:
    """A context whose pages, when they ask for the screen, get a tab that shows `image`, captured as it is.

    Chromium's fake user interface would give a fake screen: it is left out, and no camera is there.
    """
    height, width = image.shape[:2]
    shows = f"--auto-select-tab-capture-source-by-title={TITLE}"
    with chromium(started, without=(ALLOWED, FAKED), more=(shows,)) as browser:
        context = browser.new_context(viewport={"width": width, "height": height})
        png = base64.b64encode(cv2.imencode(".png", image[..., ::-1])[1].tobytes()).decode()
        context.new_page().set_content(SHOWN.format(title=TITLE, png=png))
        yield context


@contextmanager
def page(browser: Browser, url: str = "", *, script: str = "", **context: Any) -> Iterator[Tab]:
    """A page in a context of its own (nothing remembered); `context` as Playwright's `new_context`."""
    made = browser.new_context(**context)
    try:
        with opened(made, url, script=script) as tab:
            yield tab
    finally:
        made.close()
