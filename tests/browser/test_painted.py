"""The page with the built-in model: painted pictures, a prompt, its own word on latency, and a worker that dies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools import painted
from tools.chromium import Tab
from tools.observed import Observed
from tools.stage import Row, Stage


@pytest.fixture(scope="module")
def server(stage: Stage) -> Iterator[Observed]:
    with stage.server(model="builtin", faults=True) as server:
        yield server


@pytest.fixture(scope="module")
def tab(stage: Stage, server: Observed) -> Iterator[Tab]:
    """One page for all of it: each test goes on where the last one ended."""
    with stage.tab(server) as tab:
        yield tab


def holds(row: Row) -> None:
    assert row.holds, f"{row.name} {row.figure}: {row.hold}, got {row.value} {row.note}"


def test_painted_frames_arrive_and_a_prompt_change_is_seen(tab: Tab) -> None:
    holds(painted.changed(tab))


def test_the_reported_latency_agrees_with_the_barcode(tab: Tab) -> None:
    holds(painted.agreement(tab))


def test_latency_does_not_grow(tab: Tab) -> None:
    """A short form of the bench's row, which takes five minutes."""
    holds(painted.steady(tab, 15.0))


def test_the_overlay_says_the_same(tab: Tab) -> None:
    tab.page.click("#show-overlay")
    tab.wait(0.7)
    assert "ms" in tab.page.inner_text("#overlay")


def test_a_killed_worker_costs_nobody_the_session(tab: Tab, server: Observed) -> None:
    holds(painted.killed(server, tab))
    assert not tab.errors
