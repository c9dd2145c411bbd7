"""The whole suite runs in several processes; what is measured by the clock, and the browser's tests, run alone.

`pytest` with nothing named takes `PROCESSES` of pytest-xdist; a file, a folder or `-n` named takes what is asked for.
A test marked `alone` (all of tests/browser are, unless marked `beside`) has the machine to itself: it holds a lock
for which the others wait between two tests. Such tests come first, so that it is waited for before anything else runs.
A browser takes a core: all of tests/browser is one process's, those marked `beside` while the others do the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "win32":
    import fcntl

PROCESSES = 3  # on two cores: for a third of its time a test waits for a process, a socket or a clock
LONG = (  # begin first, so that none is left at the end
    "test_trouble", "test_restart", "test_leaks", "test_clips", "test_fuzz", "test_delivery_bench", "test_worker",
    "test_make", "test_clip_cli", "test_tensorrt", "test_build", "test_animatediff",
)  # fmt: skip
BROWSER = Path(__file__).parent / "browser"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file to each process; the browser's are as one."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "browser" if BROWSER in (config.rootpath / file).parents else file

    return Files(config, log)


class Lock:
    """Many processes share it, or one has it alone. Whoever waits to be alone lets nobody in before."""

    def __init__(self, folder: Path) -> None:
        self._turn, self._place = ((folder / name).open("ab") for name in ("turn.lock", "place.lock"))
        self.alone = False

    def take(self, alone: bool) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        fcntl.flock(self._place, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        self.alone = alone

    def leave(self) -> None:
        fcntl.flock(self._place, fcntl.LOCK_UN)
        self.alone = False


LOCK = pytest.StashKey[Lock]()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Several processes where nothing is said against it; files stay whole, in the order that they have here."""
    options, handed_out = config.option, hasattr(config, "workerinput")
    if handed_out or sys.platform == "win32" or not config.pluginmanager.hasplugin("xdist"):
        return
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    if options.numprocesses is None and whole and not (options.usepdb or options.collectonly):
        options.numprocesses = PROCESSES
    if options.numprocesses:
        options.dist, options.loadscopereorder = "loadfile", False


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: measured by the clock, so that no other test may run meanwhile")
    config.addinivalue_line("markers", "beside: of the browser, and not disturbed by other tests")
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are the others, and threads that wait for work spin

        import torch  # it asks for that

        torch.set_num_threads(1)
        config.stash[LOCK] = Lock(Path(config.option.basetemp).parent)  # of the whole run


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run alone come first, then those of long files; otherwise the order stays."""
    for item in items:
        if item.path.is_relative_to(BROWSER) and item.get_closest_marker("beside") is None:
            item.add_marker("alone")
    items.sort(key=lambda item: (not is_alone(item), item.path.stem not in LONG))


def is_alone(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A test beside those of other processes, or without them: then until the next one need not be alone."""
    lock = item.config.stash.get(LOCK, None)
    if lock is not None and not lock.alone:
        lock.take(is_alone(item))
    try:
        return (yield)
    finally:
        if lock is not None and not (lock.alone and is_alone(nextitem)):
            lock.leave()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The rows of the delivery table that were measured on the way: what they say is the bench's to judge."""
    reports = [report for group in terminalreporter.stats.values() for report in group if hasattr(report, "when")]
    rows = [
        text for report in reports if report.when == "call" for name, text in report.user_properties if name == "row"
    ]
    if rows:
        terminalreporter.section("rows of the delivery table, as they were here", sep="-")
        for row in rows:
            terminalreporter.write_line(row)
