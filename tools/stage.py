"""What the live bench and the browser's tests are measured with: a camera, browsers, a server.

with Stage(folder) as stage, stage.server(delay_ms=50) as server, stage.tab(server) as tab:
    rows = tab.take(seconds=5)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tools.barcode import write_y4m
from tools.chromium import NoBrowserError, Tab, chromium, driver, find, page
from tools.observed import Observed, observed
from tools.sightings import Numbers, glass_to_glass

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

RATE = 30
PERIOD_MS = 1000 / RATE
FILM_S = 6  # of the camera's film: more than any picture may take
LOOP = FILM_S * RATE
READY_S = 60.0  # in which a model is loaded
SETTLE_S = 2.5  # until the bitrate has risen
WINDOW = {"width": 1280, "height": 800}


@dataclass(frozen=True)
class Row:
    """A line of the table: what is to hold, what was measured, and whether it does (None: not measured; see `note`)."""

    name: str
    figure: str
    hold: str
    value: dict[str, Any] = field(default_factory=dict)
    holds: bool | None = None
    note: str = ""


class Stage:
    """Cameras, browsers that stay open, and servers. A context manager.

    `seconds` is how long a figure is taken. `why` says why there is no browser, where there is none. `slow` stretches
    the rows' limits of time: 1, as the table has them; tests, which do not judge speed, have it larger.
    """

    def __init__(self, folder: Path, seconds: float = 30.0) -> None:
        self.folder, self.seconds, self.why, self.slow = folder, seconds, "", 1.0
        self._stack, self._browsers = ExitStack(), dict[Any, "Browser"]()
        self._driver: Playwright | None = None

    def __enter__(self) -> Stage:
        try:
            self._driver = self._stack.enter_context(driver())
            find(self._driver)
        except NoBrowserError as error:
            self.why = str(error)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def sees(self) -> bool:
        """Whether there is a browser."""
        return not self.why

    @property
    def driver(self) -> Playwright:
        """What starts browsers; NoBrowserError where there is none."""
        if self._driver is None or not self.sees:
            raise NoBrowserError(self.why)
        return self._driver

    def server(self, **options: Any) -> AbstractContextManager[Observed]:
        """A server of its own; options as `tools.observed.Options`."""
        return observed(**options)

    def camera(self, size: tuple[int, int] = (512, 512), source: int = 0) -> Path:
        """The film of a camera, made at most once."""
        path = self.folder / f"camera-{size[0]}x{size[1]}-{source}.y4m"
        return path if path.exists() else write_y4m(path, size, seconds=FILM_S, source=source)

    def browser(self, size: tuple[int, int] = (512, 512), source: int = 0) -> Browser:
        """A Chromium with that camera, started at most once; NoBrowserError where there is none."""
        if (size, source) not in self._browsers:
            made = chromium(self.driver, self.camera(size, source))
            self._browsers[size, source] = self._stack.enter_context(made)
        return self._browsers[size, source]

    @contextmanager
    def tab(self, server: Observed, *, size: tuple[int, int] = (512, 512), source: int = 0, script: str = "",
            **query: str) -> Iterator[Tab]:  # fmt: skip
        """The server's page with the camera on it, painting, and both videos watched."""
        with page(self.browser(size, source), script=script, viewport=WINDOW) as tab:
            tab.page.goto(address(server, **query))
            tab.shown()
            tab.until("window.livebrush.state === 'painting'", READY_S)
            tab.watch("camera", "picture")
            yield tab


def address(server: Observed, **query: str) -> str:
    """The page that begins by itself, with the camera."""
    return f"{server.url}/?{urlencode({'source': 'camera', 'autostart': '1', **query})}"


def latency_of(tab: Tab, seconds: float, settle: float = SETTLE_S) -> Numbers:
    """Glass-to-glass milliseconds by the mark, after a moment for the bitrate to rise."""
    tab.take(settle)
    rows = tab.take(seconds)
    return glass_to_glass(rows["camera"], rows["picture"], LOOP)
