"""Rows R6 and R7: places of whoever is gone, and a server that comes back."""

from __future__ import annotations

import pytest
from conftest import Holds

from tools.rows_robust import r6, r7
from tools.stage import Stage

pytestmark = pytest.mark.beside


def test_r6_the_place_of_a_killed_client_and_of_a_left_page_is_free(stage: Stage, holds: Holds) -> None:
    holds.in_time(lambda: r6(stage, 1))


def test_r7_the_page_goes_on_when_the_server_is_back(stage: Stage, holds: Holds) -> None:
    """Once politely, once by SIGKILL."""
    seen = holds.in_time(lambda: r7(stage, 2))
    assert all(row.value["went_on"] == row.value["of"] for row in seen)
