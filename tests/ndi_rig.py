"""What NDI needs to find its sources here: a message bus and avahi, started where they do not run.

with discovery() as why_not:
    if why_not:
        pytest.skip(why_not)
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

BUS = Path("/run/dbus/system_bus_socket")
START_S = 10.0
COMMANDS = {
    "dbus-daemon": ("--system", "--nofork", "--nopidfile", "--nosyslog"),
    "avahi-daemon": ("--no-rlimits", "--no-drop-root", "--no-chroot"),
}


@contextlib.contextmanager
def discovery() -> Iterator[str]:
    """Yields why NDI cannot be tested here, or nothing. What it started ends with it."""
    why = lacking()
    with contextlib.ExitStack() as started:
        if not why and not avahi_runs():
            if not bus_runs():
                started.enter_context(running("dbus-daemon"))
                wait_for(bus_runs)
            started.enter_context(running("avahi-daemon"))
            why = "" if wait_for(avahi_runs) else "avahi-daemon does not start here"
        yield why


def lacking() -> str:
    """What is not installed, as a reason to skip."""
    if importlib.util.find_spec("cyndilib") is None:
        return "cyndilib is not installed"
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


def avahi_runs() -> bool:
    return subprocess.run(["avahi-daemon", "--check"], check=False, capture_output=True).returncode == 0


def bus_runs() -> bool:
    return BUS.exists() and subprocess.run(
        ["dbus-send", "--system", "--dest=org.freedesktop.DBus", "--print-reply", "/", "org.freedesktop.DBus.GetId"],
        check=False, capture_output=True,
    ).returncode == 0  # fmt: skip


def wait_for(true: object) -> bool:
    assert callable(true)
    end = time.monotonic() + START_S
    while not (found := bool(true())) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def running(name: str) -> Iterator[None]:
    """A daemon of `COMMANDS`, as long as it is needed."""
    BUS.parent.mkdir(parents=True, exist_ok=True)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([name, *COMMANDS[name]], **quiet)
    try:
        yield
    finally:
        process.terminate()
        process.wait(START_S)
