"""Where the windows of this machine's desktop are: asked of X11, of Windows or of macOS, whichever it is.

    window = desktop().windows()[0]
    where = desktop().follow(window)    # call where() for the box that it has now

Only X11 is tested by the project; the other two follow the systems' documentation.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from stream.errors import SourceError

FRAME = 9  # DWMWA_EXTENDED_FRAME_BOUNDS: a window without its shadow
AWAY = "choose the screen in the browser instead"
HIDDEN = "is hidden or minimised: bring it back"


@dataclass(frozen=True)
class Box:
    """A part of the screen, in pixels of it."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Window:
    """A window by its title; `number` is the system's own."""

    title: str
    number: int


class Follower(ABC):
    """Tells where a window is now: call it. SourceError where the window is closed or hidden."""

    @abstractmethod
    def __call__(self) -> Box: ...

    def close(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Lets go of the desktop."""


class Desktop(Protocol):
    """What a system tells about its windows."""

    def missing(self) -> str:
        """Why there is no screen, or nothing."""

    def blind(self) -> str:
        """Why a screen that is there shows programs nothing, or nothing."""

    def windows(self) -> list[Window]:
        """Those that are shown and have a title, the topmost first where the system says so."""

    def follow(self, window: Window) -> Follower:
        """Tells where the window is."""


def desktop() -> Desktop:
    """This system's."""
    if sys.platform == "win32":
        return WindowsDesktop()
    if sys.platform == "darwin":
        return MacDesktop()
    return XDesktop()


def gone(window: Window) -> SourceError:
    return SourceError(f"window {window.title!r} was closed: open it again, or choose another")


# ------------------------------------------------------------------------------------------------- X11


class XDesktop:
    """X11, through python-xlib."""

    def missing(self) -> str:
        if os.environ.get("DISPLAY"):
            return ""
        wayland = bool(os.environ.get("WAYLAND_DISPLAY"))
        return f"Wayland lets no program look at it; {AWAY}" if wayland else f"there is no display; {AWAY}"

    def blind(self) -> str:
        display = opened_display()
        try:
            stand_in = "XWAYLAND" in display.list_extensions()
        finally:
            display.close()
        return f"this is Wayland, which shows programs a black one; {AWAY}" if stand_in else ""

    def windows(self) -> list[Window]:
        display = opened_display()
        try:
            return [w for w in map(titled(display), managed(display)) if w is not None]
        finally:
            display.close()

    def follow(self, window: Window) -> Follower:
        return XFollower(window)


class XFollower(Follower):
    """Asks the display about a window; it owns the connection."""

    def __init__(self, window: Window) -> None:
        self._name, self._window = f"window {window.title!r}", window
        self._display = opened_display()
        self._root = self._display.screen().root
        self._handle = self._display.create_resource_object("window", window.number)

    def __call__(self) -> Box:
        error = import_module("Xlib.error")
        try:
            if self._handle.get_attributes().map_state != import_module("Xlib.X").IsViewable:
                raise SourceError(f"{self._name} {HIDDEN}")
            size, corner = self._handle.get_geometry(), self._root.translate_coords(self._handle, 0, 0)
        except error.XError as lost:
            raise gone(self._window) from lost
        except (error.ConnectionClosedError, OSError) as lost:
            raise SourceError(f"the display of {self._name} is gone: start it again") from lost
        return Box(corner.x, corner.y, size.width, size.height)

    def close(self) -> None:
        with suppress(import_module("Xlib.error").ConnectionClosedError):  # by the display itself
            self._display.close()


def opened_display() -> Any:
    """A connection to the display; SourceError where there is none, or it is Wayland's stand-in for one."""
    lib, error = import_module("Xlib.display"), import_module("Xlib.error")
    try:
        display = lib.Display()
    except (error.DisplayError, OSError) as lost:
        raise SourceError(f"the display cannot be reached ({lost}): set DISPLAY to one that runs") from lost
    return display


def managed(display: Any) -> Iterator[Any]:
    """The windows that the window manager knows, newest on top first (EWMH _NET_CLIENT_LIST_STACKING); without a
    window manager all of them, the children of the root first."""
    root, error = display.screen().root, import_module("Xlib.error")
    for name in ("_NET_CLIENT_LIST_STACKING", "_NET_CLIENT_LIST"):
        found = root.get_full_property(display.intern_atom(name), import_module("Xlib.X").AnyPropertyType)
        if found is not None and len(found.value):
            yield from (display.create_resource_object("window", number) for number in reversed(found.value))
            return
    level = [root]
    while level:
        below: list[Any] = []
        for window in level:
            try:
                below += reversed(window.query_tree().children)
            except error.XError:  # closed meanwhile
                continue
        yield from below
        level = below


def titled(display: Any) -> Callable[[Any], Window | None]:
    """Makes a `Window` of one that is shown and has a title."""
    error, x = import_module("Xlib.error"), import_module("Xlib.X")
    names = [display.intern_atom("_NET_WM_NAME"), display.intern_atom("WM_NAME")]

    def made(window: Any) -> Window | None:
        try:
            if window.get_attributes().map_state != x.IsViewable:
                return None
            values = (window.get_full_property(name, x.AnyPropertyType) for name in names)
            raw = next((found.value for found in values if found is not None and found.value), None)
        except error.XError:  # closed meanwhile
            return None
        if raw is None:
            return None
        title = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
        return Window(title, window.id) if title.strip() else None

    return made


# ------------------------------------------------------------------------------------------------- Windows


class WindowsDesktop:
    """Windows, through user32 and dwmapi."""

    def missing(self) -> str:
        return ""

    def blind(self) -> str:
        return ""

    def windows(self) -> list[Window]:
        import ctypes

        user32 = _library("user32")
        found: list[Window] = []
        kind = ctypes.__dict__["WINFUNCTYPE"](ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)

        def one(handle: int, _more: Any) -> bool:
            length = user32.GetWindowTextLengthW(ctypes.c_void_p(handle))
            if length and user32.IsWindowVisible(ctypes.c_void_p(handle)):
                text = ctypes.create_unicode_buffer(length + 1)
                user32.GetWindowTextW(ctypes.c_void_p(handle), text, length + 1)
                found.append(Window(text.value, handle))
            return True

        user32.EnumWindows(kind(one), None)
        return found

    def follow(self, window: Window) -> Follower:
        return WindowsFollower(window)


class WindowsFollower(Follower):
    """Asks Windows about a window."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def __call__(self) -> Box:
        import ctypes

        user32, handle = _library("user32"), ctypes.c_void_p(self._window.number)
        if not user32.IsWindow(handle):
            raise gone(self._window)
        if user32.IsIconic(handle) or not user32.IsWindowVisible(handle):
            raise SourceError(f"window {self._window.title!r} {HIDDEN}")
        edges = (ctypes.c_long * 4)()
        failed = _library("dwmapi").DwmGetWindowAttribute(handle, FRAME, ctypes.byref(edges), ctypes.sizeof(edges))
        if failed and not user32.GetWindowRect(handle, ctypes.byref(edges)):
            raise gone(self._window)
        left, top, right, bottom = edges
        return Box(left, top, right - left, bottom - top)


@cache
def _library(name: str) -> Any:
    import ctypes

    return ctypes.__dict__["WinDLL"](name)


# ------------------------------------------------------------------------------------------------- macOS


class MacDesktop:
    """macOS, through Quartz (pyobjc-framework-Quartz)."""

    def missing(self) -> str:
        return ""

    def blind(self) -> str:
        return ""

    def windows(self) -> list[Window]:
        quartz = _quartz()
        return [Window(title, int(item["kCGWindowNumber"])) for item in _shown(quartz) if (title := _title(item))]

    def follow(self, window: Window) -> Follower:
        return MacFollower(window)


class MacFollower(Follower):
    """Asks macOS about a window."""

    def __init__(self, window: Window) -> None:
        self._window, self._quartz = window, _quartz()

    def __call__(self) -> Box:
        mine = [item for item in _shown(self._quartz) if int(item["kCGWindowNumber"]) == self._window.number]
        if not mine:
            raise SourceError(f"window {self._window.title!r} was closed, or {HIDDEN}")
        bounds = mine[0]["kCGWindowBounds"]
        return Box(*(round(float(bounds[side])) for side in ("X", "Y", "Width", "Height")))


def _quartz() -> Any:
    try:
        return import_module("Quartz")
    except ImportError as error:
        raise SourceError(f"windows cannot be found ({error}): pip install pyobjc-framework-Quartz") from error


def _shown(quartz: Any) -> list[Any]:
    wanted = quartz.kCGWindowListOptionOnScreenOnly | quartz.kCGWindowListExcludeDesktopElements
    return list(quartz.CGWindowListCopyWindowInfo(wanted, quartz.kCGNullWindowID))


def _title(item: Any) -> str:
    """`Owner: title`; the title needs the right to record the screen, the owner does not."""
    return ": ".join(str(item[key]) for key in ("kCGWindowOwnerName", "kCGWindowName") if item.get(key))
