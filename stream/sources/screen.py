"""The screen of this machine, a part of it, or a window, through mss. Frames carry the moment they were taken."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from typing import Any

import cv2
import mss
import numpy as np
from mss.exception import ScreenShotError

from stream.errors import SourceError
from stream.frame import Frame, Image
from stream.sources import Listed, Source
from stream.sources.windows import Box, Desktop, Follower, Window, desktop

CLOCK = Fraction(1, 90000)
RATE = Fraction(30)
REGION = re.compile(r"(-?\d+),(-?\d+),(\d+)x(\d+)")
SMALLEST = 8  # pixels a side
NAMES = "use screen, screen:2, screen:left,top,WxH (e.g. screen:0,0,1280x720) or window:TITLE"
Wait = Callable[[float], None]


class ScreenSource(Source):
    """`where()` of the screen, `rate` times a second, without an end; every picture has the size of its moment."""

    endless = True
    rate: Fraction

    def __init__(
        self, name: str, grabber: Any, where: Follower, rate: Fraction = RATE,
        clock: Callable[[], float] = time.monotonic, wait: Wait = time.sleep,
    ) -> None:  # fmt: skip
        self.name, self.rate = name, rate
        self._grabber, self._where, self._clock, self._wait = grabber, where, clock, wait
        self.size = self._grab().shape[1::-1]

    def __iter__(self) -> Iterator[Frame]:
        began, last, step = self._clock(), -1, 1 / float(self.rate)
        due = began
        while True:
            now = self._clock()
            last = max(round((now - began) / CLOCK), last + 1)
            yield Frame(self._grab(), last, CLOCK, now)
            due = max(due + step, self._clock() - step)
            self._wait(max(0.0, due - self._clock()))

    def _grab(self) -> Image:
        """RGB, the whole of the box that lies on the screen."""
        left, top, right, bottom = clipped(self._where(), self._grabber.monitors[0], self.name)
        try:
            shot = self._grabber.grab((left, top, right, bottom))
        except (ScreenShotError, AssertionError) as error:  # mss asserts that the display answers
            why = str(error) or "it does not answer"
            raise SourceError(f"{self.name} cannot be read ({why}): is the display still there?") from error
        picture: Image = cv2.cvtColor(np.asarray(shot), cv2.COLOR_BGRA2RGB)
        return picture

    def close(self) -> None:
        with suppress(ScreenShotError):  # the display is gone, and there is nothing to let go of
            self._grabber.close()
        self._where.close()


def clipped(box: Box, screen: dict[str, int], name: str) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what of a box is on the screen; SourceError where nothing is."""
    left, top = max(box.left, screen["left"]), max(box.top, screen["top"])
    right = min(box.left + box.width, screen["left"] + screen["width"])
    bottom = min(box.top + box.height, screen["top"] + screen["height"])
    if right - left < SMALLEST or bottom - top < SMALLEST:
        size = f"{screen['width']}x{screen['height']} at {screen['left']},{screen['top']}"
        raise SourceError(f"{name} is not on the screen ({size}): move it there, or choose another part")
    return left, top, right, bottom


def opened() -> Any:
    """mss on this display; SourceError where there is none, or it may not be looked at."""
    if why := desktop().missing():
        raise SourceError(f"the screen cannot be read: {why}")
    try:
        grabber = mss.MSS()
    except (ScreenShotError, OSError) as error:
        raise SourceError(f"the screen cannot be read ({error}): {_hint()}") from error
    if why := desktop().blind():
        grabber.close()
        raise SourceError(f"the screen cannot be read: {why}")
    return grabber


def _hint() -> str:
    if sys.platform == "darwin":
        return "allow it in System Settings, Privacy, Screen Recording"
    return "set DISPLAY to one that runs, or choose the screen in the browser"


def window(title: str, places: Desktop) -> Window:
    """The window of that title, else the topmost that has it in its title; SourceError names those there are."""
    there = places.windows()
    wanted = title.casefold()
    exact = [w for w in there if w.title.casefold() == wanted]
    near = [w for w in there if wanted in w.title.casefold()]
    if not exact and not near:
        known = ", ".join(sorted({w.title for w in there})[:12])
        raise SourceError(f"window {title[:80]!r} is not there: " + (f"there are {known}" if known else "no window is"))
    return (exact or near)[0]


def check(text: str) -> None:
    """SourceError where `text` is no part of a screen."""
    kind, _, what = text.partition(":")
    if kind == "window" and what.strip():
        return
    region = REGION.fullmatch(what)
    if region and min(int(region[3]), int(region[4])) < SMALLEST:
        raise SourceError(f"input {text} is smaller than {SMALLEST}x{SMALLEST}: take a larger part of the screen")
    number = what.isdigit() and 1 <= int(what) <= 99
    if kind != "screen" or not (text == "screen" or number or region):
        raise SourceError(f"input {text[:80]!r} is no part of a screen: {NAMES}")


class Fixed(Follower):
    """A part of the screen that stays where it is."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def __call__(self) -> Box:
        return self._box


def connect(text: str) -> ScreenSource:
    check(text)
    kind, _, what = text.partition(":")
    with ExitStack() as opening:
        grabber = opening.enter_context(opened())
        if kind == "window":
            places = desktop()
            where = places.follow(window(what, places))
        else:
            where = Fixed(part(text, what or "1", grabber.monitors))
        opening.callback(where.close)
        source = ScreenSource(text, grabber, where)
        opening.pop_all()  # the source closes them from now on
    return source


def part(text: str, what: str, monitors: list[dict[str, int]]) -> Box:
    """The part of the screen that `2` or `left,top,WxH` means."""
    if region := REGION.fullmatch(what):
        return Box(*(int(number) for number in region.groups()))
    if int(what) >= len(monitors):
        known = ", ".join(item.name for item in named(monitors))
        raise SourceError(f"input {text} is not there: use {known or 'another source'}")
    chosen = monitors[int(what)]
    return Box(chosen["left"], chosen["top"], chosen["width"], chosen["height"])


def named(monitors: list[dict[str, int]]) -> list[Listed]:
    """What to call the monitors."""
    return [
        Listed("screen" if n == 1 else f"screen:{n}", f"Screen {n} ({m['width']}x{m['height']})", "screen")
        for n, m in enumerate(monitors)
        if n > 0
    ]


def listed() -> list[Listed]:
    """The screens, and the windows on them."""
    with opened() as grabber:
        screens = named(grabber.monitors)
    titles = dict.fromkeys(w.title for w in desktop().windows())
    return [*screens, *(Listed(f"window:{title}", title, "window") for title in titles)]
