"""The page with the built-in model: painted pictures, a prompt, its own word on latency, and a worker that dies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Holds

from tools import painted
from tools.chromium import Tab
from tools.observed import Observed
from tools.stage import Stage


@pytest.fixture(scope="module")
def server(stage: Stage) -> Iterator[Observed]:
    with stage.server(model="builtin", faults=True) as server:
        yield server


@pytest.fixture(scope="module")
def tab(stage: Stage, server: Observed) -> Iterator[Tab]:
    """One page for all of it: each test goes on where the last one ended."""
    with stage.tab(server) as tab:
        yield tab


def test_painted_frames_arrive_and_a_prompt_change_is_seen(stage: Stage, tab: Tab, holds: Holds) -> None:
    holds.in_time(lambda: painted.changed(stage, tab))


def test_the_reported_latency_agrees_with_the_barcode(stage: Stage, tab: Tab, holds: Holds) -> None:
    holds.in_time(lambda: painted.agreement(stage, tab))


def test_latency_does_not_grow(stage: Stage, tab: Tab, holds: Holds) -> None:
    """A short form of the bench's row, which takes five minutes."""
    holds.in_time(lambda: painted.steady(stage, tab, 15.0))


def test_the_overlay_says_the_same(tab: Tab) -> None:
    tab.page.click("#show-overlay")
    tab.wait(0.7)
    assert "ms" in tab.page.inner_text("#overlay")


def test_a_killed_worker_costs_nobody_the_session(stage: Stage, tab: Tab, server: Observed, holds: Holds) -> None:
    seen = holds.in_time(lambda: painted.killed(stage, server, tab))
    assert all(row.value["same_session"] and row.value["connections"] == 1 for row in seen)
    assert not tab.errors
